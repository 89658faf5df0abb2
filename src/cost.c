/*
 * cost.c
 *	  The arithmetic of incbatch.cost(): what was measured, fitted.
 *
 * Two functions of arrays, which know nothing of pipelines; what is fitted to
 * what, and what follows, is SQL (incbatch.fit).
 */
#include "incbatch.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "catalog.h"
#include "functions.h"
#include "shmem.h"

PG_FUNCTION_INFO_V1(ib_find_pipeline);
PG_FUNCTION_INFO_V1(ib_fit_cost);
PG_FUNCTION_INFO_V1(ib_fit_groups);
PG_FUNCTION_INFO_V1(ib_amount);

#define PARTS 3					/* a run, a row (of WAL, a new group), a group */
#define ROUNDS 20				/* of weighing again */
#define PLAIN_ROUNDS 4			/* of these, before there are outliers */
#define STEPS 2000				/* of one solution */

/* How far each of the assumed costs may be off, as a part of it. */
#define ASSUMED_DEVIATION 0.5
/* A batch further off than this many times the usual is an outlier. */
#define OUTLIER 3.0
/* From the median of deviations to the standard deviation of a normal one. */
#define MEDIAN_TO_DEVIATION 1.4826

/* The relation of the pipeline that a caller means. */
Datum
ib_find_pipeline(PG_FUNCTION_ARGS)
{
	Oid			relation;

	ib_shmem_require();
	ib_refuse_null(fcinfo, 0, "name");
	(void) ib_visible_pipeline(PG_GETARG_TEXT_PP(0), &relation);
	PG_RETURN_OID(relation);
}

static double *
float_array(FunctionCallInfo fcinfo, int arg, int *n)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(arg);

	if (ARR_HASNULL(array) || ARR_ELEMTYPE(array) != FLOAT8OID || ARR_NDIM(array) > 1)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("an array of numbers without nulls is expected"));
	*n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	return (double *) ARR_DATA_PTR(array);
}

static double *
float_arrays(FunctionCallInfo fcinfo, int arg, int n)
{
	int			length;
	double	   *values = float_array(fcinfo, arg, &length);

	if (length != n)
		ereport(ERROR,
				errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				errmsg("arrays of one length are expected"));
	return values;
}

static int
compare_doubles(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return (x > y) - (x < y);
}

static double
median(double *values, int n)
{
	qsort(values, n, sizeof(double), compare_doubles);
	return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/*
 * Minimize the sum of weight * (sum(x[j] * factor[j]) - y)^2, with a pull of
 * each factor towards "pull"; no factor is below 0.  One coordinate after the
 * other.
 */
static void
solve(double (*x)[PARTS], const double *y, const double *weights, int n,
	  double pull, double pull_weight, double *factors)
{
	double		a[PARTS][PARTS] = {0};
	double		b[PARTS] = {0};

	for (int i = 0; i < n; i++)
	{
		for (int j = 0; j < PARTS; j++)
		{
			for (int k = 0; k < PARTS; k++)
				a[j][k] += weights[i] * x[i][j] * x[i][k];
			b[j] += weights[i] * x[i][j] * y[i];
		}
	}
	for (int j = 0; j < PARTS; j++)
	{
		a[j][j] += pull_weight;
		b[j] += pull_weight * pull;
	}
	for (int step = 0; step < STEPS; step++)
	{
		for (int j = 0; j < PARTS; j++)
		{
			double		rest = b[j];

			for (int k = 0; k < PARTS; k++)
				rest -= k == j ? 0 : a[j][k] * factors[k];
			factors[j] = Max(rest / a[j][j], 0);
		}
	}
}

/* One batch's cost if the parts cost what is assumed, times the factors. */
static double
expected(const double *x, const double *factors)
{
	double		sum = 0;

	for (int j = 0; j < PARTS; j++)
		sum += x[j] * factors[j];
	return Max(sum, 1e-9);
}

/*
 * Errors are relative to what is expected, so that a large batch does not
 * drown the small ones.  A batch that is far off counts less, the further the
 * less (Huber's weights).  What is assumed counts as one more batch does that is
 * off by as much as an assumption may be.
 */
static void
fit(double (*x)[PARTS], const double *y, int n, double *factors)
{
	double	   *errors = palloc(sizeof(double) * n);
	double	   *sorted = palloc(sizeof(double) * n);
	double	   *weights = palloc(sizeof(double) * n);
	double		pull;

	for (int j = 0; j < PARTS; j++)
		factors[j] = 1;
	for (int i = 0; i < n; i++)
		sorted[i] = y[i] / expected(x[i], factors);
	pull = Max(median(sorted, n), 1e-9);
	for (int j = 0; j < PARTS; j++)
		factors[j] = pull;

	for (int round = 0; round < ROUNDS; round++)
	{
		double		usual;

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < n; i++)
			errors[i] = sorted[i] = fabs(y[i] / expected(x[i], factors) - 1);
		usual = Max(median(sorted, n) * MEDIAN_TO_DEVIATION, 1e-4);
		for (int i = 0; i < n; i++)
		{
			double		scale = expected(x[i], factors);

			weights[i] = 1 / (scale * scale);
			if (round >= PLAIN_ROUNDS && errors[i] > OUTLIER * usual)
				weights[i] *= OUTLIER * usual / errors[i];
		}
		solve(x, y, weights, n, pull, pow(usual / ASSUMED_DEVIATION / pull, 2), factors);
	}
}

/*
 * fit_cost(runs, rows, groups, cost, assumed): what a run, a row and a group
 * cost, each at least 0, so that runs, rows and groups explain the costs.
 * Where batches are so alike that they do not tell the three from each other,
 * the total is divided in the proportions of "assumed".
 */
Datum
ib_fit_cost(PG_FUNCTION_ARGS)
{
	int			n;
	int			nassumed;
	double	   *measured[PARTS];
	double	   *cost;
	double	   *assumed;
	double		(*x)[PARTS];
	double		factors[PARTS];
	Datum		result[PARTS];

	measured[0] = float_array(fcinfo, 0, &n);
	measured[1] = float_arrays(fcinfo, 1, n);
	measured[2] = float_arrays(fcinfo, 2, n);
	cost = float_arrays(fcinfo, 3, n);
	assumed = float_array(fcinfo, 4, &nassumed);
	if (nassumed != PARTS)
		ereport(ERROR,
				errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				errmsg("three costs are to be assumed"));
	if (n > 0)
	{
		x = palloc(sizeof(*x) * n);
		for (int i = 0; i < n; i++)
		{
			for (int j = 0; j < PARTS; j++)
				x[i][j] = measured[j][i] * assumed[j];
		}
		fit(x, cost, n, factors);
	}
	for (int j = 0; j < PARTS; j++)
		result[j] = Float8GetDatum(n > 0 ? factors[j] * assumed[j] : assumed[j]);
	PG_RETURN_ARRAYTYPE_P(construct_array(result, PARTS, FLOAT8OID, 8, true, 'd'));
}

/* Groups that batches touch if there are so many to be touched. */
static double
touched(const double *runs, const double *rows, int n, double fan_out, double pool)
{
	double		sum = 0;

	for (int i = 0; i < n; i++)
		sum += runs[i] * pool * -expm1(-fan_out * rows[i] / runs[i] / pool);
	return sum;
}

/* The pool with which batches touch as many groups as they did. */
static double
find_pool(const double *runs, const double *rows, int n, double fan_out, double known)
{
	double		low = 1e-6;
	double		high = 1e12;

	for (int step = 0; step < 100; step++)
	{
		double		middle = sqrt(low * high);

		if (touched(runs, rows, n, fan_out, middle) < known)
			low = middle;
		else
			high = middle;
	}
	return high;
}

/*
 * fit_groups(runs, rows, groups, new groups): how many groups a batch of so
 * many rows touches, as {pool, fan-out, new}:
 *
 *   groups(rows) = pool * (1 - exp(-fan-out * rows / pool)) + new * rows
 *
 * Rows fall, fan-out times each, on a pool of groups that is there at a time;
 * and as time goes on, so many new groups take the place of old ones for each
 * row.  The pool is the one that explains the sum of touched groups.
 */
Datum
ib_fit_groups(PG_FUNCTION_ARGS)
{
	int			n;
	double	   *runs = float_array(fcinfo, 0, &n);
	double	   *rows = float_arrays(fcinfo, 1, n);
	double	   *groups = float_arrays(fcinfo, 2, n);
	double	   *new_groups = float_arrays(fcinfo, 3, n);
	double		fan_out = 1;
	double		all_rows = 0;
	double		all_groups = 0;
	double		all_new = 0;
	double		replaced;
	double		pool;
	Datum		result[3];

	for (int i = 0; i < n; i++)
	{
		fan_out = Max(fan_out, groups[i] / Max(rows[i], 1));
		all_rows += rows[i];
		all_groups += groups[i];
		all_new += new_groups[i];
	}
	pool = find_pool(runs, rows, n, fan_out, all_groups - all_new);
	/* where the history begins with an empty table, the pool was new once */
	replaced = Max(all_new - pool, 0);
	pool = find_pool(runs, rows, n, fan_out, all_groups - replaced);
	result[0] = Float8GetDatum(pool);
	result[1] = Float8GetDatum(fan_out);
	result[2] = Float8GetDatum(replaced / Max(all_rows, 1));
	PG_RETURN_ARRAYTYPE_P(construct_array(result, 3, FLOAT8OID, 8, true, 'd'));
}

/* An amount of money that a caller gives: the price of a CPU hour has a default. */
Datum
ib_amount(PG_FUNCTION_ARGS)
{
	char	   *name;
	double		amount;

	ib_refuse_null(fcinfo, 1, "name");
	name = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (!PG_ARGISNULL(0))
		amount = PG_GETARG_FLOAT8(0);
	else if (strcmp(name, "price_per_cpu_hour") == 0)
		amount = ib_cpu_hour_price;
	else
		PG_RETURN_NULL();
	if (!(amount >= 0) || isinf(amount))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("parameter \"%s\" must be a number from 0 up", name));
	PG_RETURN_FLOAT8(amount);
}
