/*
 * aggregate.c
 *	  The aggregates: what they keep, how they merge, retract and finish.
 *
 * An aggregate is kept in one or more columns of the state table, each of
 * which knows how to come out of a batch ("plus": rows of weight +1 only;
 * "mixed": of both weights) and how to merge with what is stored.  Columns
 * are shared between aggregates that read the same input.
 *
 * Two ways to be exact when a row is retracted:
 *   - subtract, where the arithmetic is exact (integers, numeric, interval,
 *     money, counts);
 *   - otherwise mark the group as unknown, and apply.c recomputes it from the
 *     source: the extreme was retracted (min, max), floating-point sums, NaN
 *     and Infinity, and numerics of differing scales, whose sum would keep
 *     digits of a scale that is gone.
 * A float sum or a numeric sum is unknown when it is NULL (a sum of no rows
 * is stored as 0, and the count beside it says so); an extreme when its
 * "retracted" column is true.
 *
 * Formulas of avg are core's: numeric_div, float8 and interval division of
 * the sum by the count (numeric.c, float.c, timestamp.c of PostgreSQL).
 */
#include "incbatch.h"

#include "access/htup_details.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "query.h"

/* What sum() makes of each type, and whether subtraction undoes addition. */
static const struct
{
	Oid			input;
	const char *sum;
	const char *average_sum;	/* the type that avg() adds up in */
	const char *average_divisor;
	bool		exact;
}			sums[] =
{
	{INT2OID, "pg_catalog.int8", "pg_catalog.int8", "pg_catalog.numeric", true},
	{INT4OID, "pg_catalog.int8", "pg_catalog.int8", "pg_catalog.numeric", true},
	{INT8OID, "pg_catalog.numeric", "pg_catalog.numeric", "pg_catalog.numeric", true},
	{NUMERICOID, "pg_catalog.numeric", "pg_catalog.numeric", "pg_catalog.numeric", true},
	{FLOAT4OID, "pg_catalog.float4", "pg_catalog.float8", "pg_catalog.float8", false},
	{FLOAT8OID, "pg_catalog.float8", "pg_catalog.float8", "pg_catalog.float8", false},
	{INTERVALOID, "pg_catalog.interval", "pg_catalog.interval", "pg_catalog.float8", true},
	{MONEYOID, "pg_catalog.money", NULL, NULL, true},
};

static int
sum_rule(Oid input)
{
	for (int i = 0; i < lengthof(sums); i++)
	{
		if (sums[i].input == input)
			return i;
	}
	return -1;
}

/* An aggregate call over an input, over rows of one sign of weight or all. */
static char *
call(const char *function, const AggregateInput *input, const char *cast,
	 const char *sign)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfo(&text, "pg_catalog.%s(", function);
	if (input->arg == NULL)
		appendStringInfoChar(&text, '*');
	else
		appendStringInfo(&text, INPUT_ARG "%d%s", input->number, cast ? cast : "");
	appendStringInfoChar(&text, ')');
	if (input->filter && sign)
		appendStringInfo(&text, " FILTER (WHERE " INPUT_FILTER "%d AND " INPUT_WEIGHT " %s 0)", input->number, sign);
	else if (input->filter)
		appendStringInfo(&text, " FILTER (WHERE " INPUT_FILTER "%d)", input->number);
	else if (sign)
		appendStringInfo(&text, " FILTER (WHERE " INPUT_WEIGHT " %s 0)", sign);
	return text.data;
}

/* Add a column to the state, or find it there. */
static StateColumn *
state_column(PipelineQuery *pq, char *name, const char *type)
{
	StateColumn *column;
	ListCell   *lc;

	foreach(lc, pq->keys)
	{
		if (strcmp(((KeyColumn *) lfirst(lc))->name, name) == 0)
			return state_column(pq, psprintf("%s_", name), type);
	}
	foreach(lc, pq->state)
	{
		column = lfirst(lc);
		if (strcmp(column->name, name) == 0)
			return column;
	}
	column = palloc0(sizeof(StateColumn));
	column->name = pstrdup(quote_identifier(name));
	column->type = pstrdup(type);
	pq->state = lappend(pq->state, column);
	return column;
}

static AggregateInput *
find_input(PipelineQuery *pq, Expr *arg, Expr *filter)
{
	AggregateInput *input;
	ListCell   *lc;

	foreach(lc, pq->inputs)
	{
		input = lfirst(lc);
		if (equal(input->arg, arg) && equal(input->filter, filter))
			return input;
	}
	input = palloc0(sizeof(AggregateInput));
	input->arg = arg;
	input->filter = filter;
	input->number = list_length(pq->inputs) + 1;
	pq->inputs = lappend(pq->inputs, input);
	return input;
}

static StateColumn *
keep_count(PipelineQuery *pq, AggregateInput *input)
{
	StateColumn *column;
	bool		every_row = input->arg == NULL && input->filter == NULL;

	column = state_column(pq, every_row ? ROW_COUNT_COLUMN :
						  psprintf("count_%d", input->number), "pg_catalog.int8");
	if (column->merge == NULL)
	{
		column->plus = call("count", input, NULL, NULL);
		column->mixed = psprintf("%s - %s", call("count", input, NULL, ">"),
								 call("count", input, NULL, "<"));
		column->merge = psprintf("s.%s + excluded.%s", column->name, column->name);
	}
	return column;
}

/*
 * The scale that all numerics of an input have in common, or -1: they differ.
 * A batch that retracts delivers -2 - scale, so that the merge sees both.
 */
static StateColumn *
keep_scale(PipelineQuery *pq, AggregateInput *input)
{
	StateColumn *column = state_column(pq, psprintf("scale_%d", input->number),
									   "pg_catalog.int4");

	if (column->merge == NULL)
	{
		char	   *least = call("min(pg_catalog.scale", input, ")", NULL);
		char	   *most = call("max(pg_catalog.scale", input, ")", NULL);

		column->plus = psprintf("CASE WHEN %s = %s THEN %s WHEN %s IS NOT NULL THEN -1 END",
								least, most, least, least);
		column->mixed = psprintf("CASE WHEN %s = %s THEN CASE WHEN %s > 0 THEN -2 - %s ELSE %s END WHEN %s IS NOT NULL THEN -1 END",
								 least, most, call("count", input, NULL, "<"),
								 least, least, least);
		/* greatest(x, -2 - x) takes the sign of a retraction off again */
		column->merge = psprintf("CASE WHEN excluded.%1$s IS NULL THEN greatest(s.%1$s, -2 - s.%1$s) "
								 "WHEN s.%1$s IS NULL OR greatest(s.%1$s, -2 - s.%1$s) = greatest(excluded.%1$s, -2 - excluded.%1$s) "
								 "THEN greatest(excluded.%1$s, -2 - excluded.%1$s) ELSE -1 END",
								 column->name);
	}
	return column;
}

static StateColumn *
keep_sum(PipelineQuery *pq, AggregateInput *input, const char *type)
{
	Oid			input_type = exprType((Node *) input->arg);
	bool		exact = sums[sum_rule(input_type)].exact;
	char	   *cast = input_type == FLOAT4OID &&
		strcmp(type, "pg_catalog.float8") == 0 ? "::pg_catalog.float8" : NULL;
	StateColumn *column;
	StateColumn *scale = NULL;
	char	   *plus;
	char	   *minus;

	column = state_column(pq, psprintf(cast ? "sum8_%d" : "sum_%d", input->number), type);
	if (column->merge != NULL)
		return column;

	plus = psprintf("coalesce(%s, '0'::%s)", call("sum", input, cast, ">"), type);
	minus = psprintf("coalesce(%s, '0'::%s)", call("sum", input, cast, "<"), type);
	column->plus = psprintf("coalesce(%s, '0'::%s)", call("sum", input, cast, NULL), type);
	column->mixed = psprintf("%s - %s", plus, minus);
	column->merge = psprintf("s.%s + excluded.%s", column->name, column->name);

	if (!exact)
		column->mixed = psprintf("CASE WHEN %s = 0 THEN %s END",
								 call("count", input, NULL, "<"), plus);
	else if (input_type == NUMERICOID)
	{
		char	   *difference = column->mixed;
		char	   *unsafe = psprintf("%s IN ('NaN', 'Infinity', '-Infinity')", minus);

		if (exprTypmod((Node *) input->arg) < 0)
		{
			scale = keep_scale(pq, input);
			unsafe = psprintf("%s OR (%s > 0 AND %s = -1)", unsafe,
							  call("count", input, NULL, "<"), scale->mixed);
			column->merge = psprintf("CASE WHEN excluded.%1$s <= -2 AND greatest(s.%1$s, -2 - s.%1$s) <> -2 - excluded.%1$s THEN NULL ELSE %2$s END",
									 scale->name, column->merge);
		}
		column->mixed = psprintf("CASE WHEN %s THEN NULL ELSE %s END", unsafe, difference);
	}
	if (!exact || input_type == NUMERICOID)
	{
		column->unknown = psprintf("%s IS NULL", column->name);
		pq->may_recompute = true;
	}
	return column;
}

/* min and max: the extreme, and whether it has been retracted */
static StateColumn *
keep_extreme(PipelineQuery *pq, AggregateInput *input, Aggref *aggref,
			 const char *function)
{
	HeapTuple	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggref->aggfnoid));
	char	   *better;
	StateColumn *value;
	StateColumn *retracted;
	char	   *added;
	char	   *removed;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", aggref->aggfnoid);
	better = ib_query_operator(((Form_pg_aggregate) GETSTRUCT(tuple))->aggsortop);
	ReleaseSysCache(tuple);

	value = state_column(pq, psprintf("%s_%d", function, input->number),
						 ib_query_type(aggref->aggtype, -1, aggref->aggcollid));
	if (value->merge != NULL)
		return value;
	retracted = state_column(pq, psprintf("%s_%d_retracted", function, input->number),
							 "pg_catalog.bool");
	added = call(function, input, NULL, ">");
	removed = call(function, input, NULL, "<");

	value->plus = call(function, input, NULL, NULL);
	value->mixed = psprintf("CASE WHEN %2$s IS NULL OR %1$s %3$s %2$s THEN %1$s ELSE %2$s END",
							added, removed, better);
	value->merge = psprintf("CASE WHEN NOT excluded.%2$s AND (s.%1$s IS NULL OR excluded.%1$s %3$s s.%1$s) THEN excluded.%1$s ELSE s.%1$s END",
							value->name, retracted->name, better);
	retracted->plus = "false";
	retracted->mixed = psprintf("%2$s IS NOT NULL AND (%1$s %3$s %2$s) IS NOT TRUE",
								added, removed, better);
	retracted->merge = psprintf("excluded.%2$s AND (s.%1$s %3$s excluded.%1$s) IS NOT TRUE",
								value->name, retracted->name, better);
	retracted->unknown = retracted->name;
	pq->may_recompute = true;
	return value;
}

static void
refuse_aggregate(Aggref *aggref, const char *detail, const char *hint)
{
	ereport(ERROR,
			errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			errmsg("a pipeline cannot keep aggregate %s up to date",
				   format_procedure(aggref->aggfnoid)),
			errdetail("%s", detail),
			errhint("%s", hint));
}

static char *
finish_average(PipelineQuery *pq, AggregateInput *input, int rule)
{
	StateColumn *sum = keep_sum(pq, input, sums[rule].average_sum);
	StateColumn *count = keep_count(pq, input);
	const char *divisor = sums[rule].average_divisor;
	const char *cast = sums[rule].input == INTERVALOID ? "pg_catalog.interval" : divisor;

	return psprintf("CASE WHEN %s > 0 THEN %s::%s / %s::%s END",
					count->name, sum->name, cast, count->name, divisor);
}

static char *
finish_sum(PipelineQuery *pq, AggregateInput *input, int rule)
{
	StateColumn *sum = keep_sum(pq, input, sums[rule].sum);
	StateColumn *count = keep_count(pq, input);

	return psprintf("CASE WHEN %s > 0 THEN %s END", count->name, sum->name);
}

/*
 * Add an aggregate of the query to the state; NULL adds the row count only,
 * which every state has.
 */
void
ib_aggregate_add(PipelineQuery *pq, Aggref *aggref)
{
	AggregateInput every_row = {0};
	AggregateInput *input;
	AggregateColumn *column;
	char	   *function;
	Expr	   *arg = NULL;
	int			rule;

	(void) keep_count(pq, &every_row);
	if (aggref == NULL)
		return;

	function = get_func_name(aggref->aggfnoid);
	if (aggref->aggdistinct ||
		(aggref->aggorder && !AGGKIND_IS_ORDERED_SET(aggref->aggkind)))
		refuse_aggregate(aggref, "DISTINCT and ORDER BY inside aggregates are not supported yet.",
						 "Leave DISTINCT and ORDER BY out of the aggregate.");
	if (get_func_namespace(aggref->aggfnoid) != PG_CATALOG_NAMESPACE ||
		list_length(aggref->args) > 1 || AGGKIND_IS_ORDERED_SET(aggref->aggkind))
		function = "";
	if (aggref->args != NIL)
		arg = ((TargetEntry *) linitial(aggref->args))->expr;
	/* count of what is never NULL counts rows */
	if (strcmp(function, "count") == 0 && arg && IsA(arg, Const) &&
		!((Const *) arg)->constisnull)
		arg = NULL;
	input = arg || aggref->aggfilter ?
		find_input(pq, arg, aggref->aggfilter) : &every_row;
	rule = arg ? sum_rule(exprType((Node *) arg)) : -1;

	column = palloc0(sizeof(AggregateColumn));
	column->aggref = aggref;
	if (strcmp(function, "count") == 0)
		column->finish = keep_count(pq, input)->name;
	else if (strcmp(function, "sum") == 0 && rule >= 0)
		column->finish = finish_sum(pq, input, rule);
	else if (strcmp(function, "avg") == 0 && rule >= 0)
		column->finish = finish_average(pq, input, rule);
	else if (strcmp(function, "min") == 0 || strcmp(function, "max") == 0)
		column->finish = keep_extreme(pq, input, aggref, function)->name;
	else
		refuse_aggregate(aggref, "Supported are count, sum, avg, min and max of the built-in types, each with FILTER.",
						 "Compute other aggregates in a query on the source.");
	pq->aggregates = lappend(pq->aggregates, column);
}
