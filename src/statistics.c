/*
 * statistics.c
 *	  Variance and standard deviation from a count, a sum and a sum of
 *	  squares, to the same digits as core's aggregates over numeric.
 *
 * Core's formula (numeric.c of PostgreSQL) is
 *
 *		(N * sum of squares - sum * sum) / (N * (N - 1))		or / (N * N)
 *
 * in exact arithmetic but for the division, whose digits depend on nothing but
 * the values and scales of its two arguments: so numeric_div gives the same.
 * The standard deviation is the square root of that, rounded to the scale that
 * the division chose.  sqrt() of a numeric may choose a larger scale, and to
 * round its result again could round twice: so the last digit is settled by
 * comparing squares.
 */
#include "incbatch.h"

#include "fmgr.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

PG_FUNCTION_INFO_V1(ib_variance);
PG_FUNCTION_INFO_V1(ib_stddev);

/* The square of a numeric of more digits than this is not exact. */
#define MAX_EXACT_SCALE 8191

#define add(a, b)	DirectFunctionCall2(numeric_add, a, b)
#define subtract(a, b)	DirectFunctionCall2(numeric_sub, a, b)
#define multiply(a, b)	DirectFunctionCall2(numeric_mul, a, b)
#define divide(a, b)	DirectFunctionCall2(numeric_div, a, b)

static Datum
number(int64 value)
{
	return NumericGetDatum(int64_to_numeric(value));
}

static bool
is_special(Datum value)
{
	return numeric_is_nan(DatumGetNumeric(value)) || numeric_is_inf(DatumGetNumeric(value));
}

static int32
scale_of(Datum value)
{
	return DatumGetInt32(DirectFunctionCall1(numeric_scale, value));
}

/* The variance of count > 0 values; sample: count > 1. */
static Datum
variance(int64 count, Datum sum, Datum squares, bool sample)
{
	Datum		n = number(count);
	Datum		numerator;

	if (is_special(sum) || is_special(squares))
		return DirectFunctionCall3(numeric_in, CStringGetDatum("NaN"),
								   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	if (scale_of(sum) > MAX_EXACT_SCALE)
		ereport(ERROR,
				errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				errmsg("cannot compute the variance of values with more than %d digits after the decimal point",
					   MAX_EXACT_SCALE));
	numerator = subtract(multiply(n, squares), multiply(sum, sum));
	if (DatumGetInt32(DirectFunctionCall2(numeric_cmp, numerator, number(0))) <= 0)
		return number(0);
	return divide(numerator, multiply(n, sample ? number(count - 1) : n));
}

/* The square root, rounded to as many digits as the argument has. */
static Datum
square_root(Datum value)
{
	Datum		scale = Int32GetDatum(scale_of(value));
	Datum		root = DirectFunctionCall1(numeric_sqrt, value);
	Datum		unit;
	Datum		half;

	if (scale_of(root) <= DatumGetInt32(scale))
		return root;
	/* 10 to the power of -scale, and half of it */
	unit = DirectFunctionCall2(numeric_trunc,
							   DirectFunctionCall2(numeric_power, number(10),
												   number(-(int64) DatumGetInt32(scale))),
							   scale);
	half = multiply(unit, divide(number(1), number(2)));
	root = DirectFunctionCall2(numeric_trunc, root, scale);
	half = add(root, half);
	if (DatumGetBool(DirectFunctionCall2(numeric_le, multiply(half, half), value)))
		root = add(root, unit);
	return root;
}

/* incbatch.variance(count, sum, squares, sample) */
Datum
ib_variance(PG_FUNCTION_ARGS)
{
	int64		count = PG_GETARG_INT64(0);
	bool		sample = PG_GETARG_BOOL(3);

	if (count <= (sample ? 1 : 0))
		PG_RETURN_NULL();
	PG_RETURN_DATUM(variance(count, PG_GETARG_DATUM(1), PG_GETARG_DATUM(2), sample));
}

/* incbatch.stddev(count, sum, squares, sample) */
Datum
ib_stddev(PG_FUNCTION_ARGS)
{
	int64		count = PG_GETARG_INT64(0);
	bool		sample = PG_GETARG_BOOL(3);
	Datum		result;

	if (count <= (sample ? 1 : 0))
		PG_RETURN_NULL();
	result = variance(count, PG_GETARG_DATUM(1), PG_GETARG_DATUM(2), sample);
	PG_RETURN_DATUM(is_special(result) ? result : square_root(result));
}
