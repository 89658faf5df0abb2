/*
 * aggregate.c
 *	  The aggregates: what they keep, how they merge, retract and finish.
 *
 * An aggregate is kept in one or more columns of the state table, each of
 * which knows how to come out of a batch ("plus": rows of weight +1 only;
 * "mixed": of both weights) and how to merge with what is stored.  Columns
 * are shared between aggregates that read the same input.
 *
 * Three ways to be exact:
 *   - subtract what is retracted, where the arithmetic is exact: counts, and
 *     sums of integers, numeric, interval and money (sum, avg, variances,
 *     bool_and and bool_or);
 *   - mark the group as unknown at some retractions, and apply.c evaluates it
 *     again from the source: the extreme went (min, max), a NaN or Infinity
 *     went, or numerics of differing scales, whose sum would keep digits of a
 *     scale that is gone.  A sum is unknown when it is NULL (a sum of no rows
 *     is stored as 0, and the count beside it says so); an extreme when its
 *     "retracted" column is true;
 *   - store the result itself, and evaluate the group again at every change:
 *     all other aggregates.  So are sums of floating point, also while rows
 *     are only added: their last digits depend on the order of addition, and
 *     a sum of partial sums is not what the batch query says.
 *
 * Formulas of avg are core's: numeric_div, float8 and interval division of
 * the sum by the count; those of variances are in statistics.c.
 */
#include "incbatch.h"

#include "access/htup_details.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_language.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "query.h"

/* What sum() makes of each type whose subtraction undoes addition. */
typedef struct SumRule
{
	Oid			input;
	const char *sum;
	const char *average_sum;	/* the type that avg() adds up in */
	const char *average_divisor;
	const char *square;			/* the type that squares are exact in */
} SumRule;

static const SumRule sums[] =
{
	{INT2OID, "pg_catalog.int8", "pg_catalog.int8", "pg_catalog.numeric", "pg_catalog.int8"},
	{INT4OID, "pg_catalog.int8", "pg_catalog.int8", "pg_catalog.numeric", "pg_catalog.int8"},
	{INT8OID, "pg_catalog.numeric", "pg_catalog.numeric", "pg_catalog.numeric", "pg_catalog.numeric"},
	{NUMERICOID, "pg_catalog.numeric", "pg_catalog.numeric", "pg_catalog.numeric", "pg_catalog.numeric"},
	{INTERVALOID, "pg_catalog.interval", "pg_catalog.interval", "pg_catalog.float8", NULL},
	{MONEYOID, "pg_catalog.money", NULL, NULL, NULL},
};

/* Their result follows the order of the rows, which only ORDER BY settles. */
static const char *const ordered[] = {
	"array_agg", "string_agg", "json_agg", "jsonb_agg", "json_object_agg",
	"jsonb_object_agg", "xmlagg",
};

static const struct
{
	const char *name;
	const char *function;
	bool		sample;
}			variances[] =

{
	{"var_pop", "variance", false},
	{"var_samp", "variance", true},
	{"variance", "variance", true},
	{"stddev_pop", "stddev", false},
	{"stddev_samp", "stddev", true},
	{"stddev", "stddev", true},
};

static const SumRule *
sum_rule(Oid input)
{
	for (int i = 0; i < lengthof(sums); i++)
	{
		if (sums[i].input == input)
			return &sums[i];
	}
	return NULL;
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

/* ----------------------------------------------------------------
 *		Columns of the state
 * ----------------------------------------------------------------
 */

static char *
argument(const AggregateInput *input)
{
	return psprintf(INPUT_ARG "%d", input->number);
}

/* An aggregate call over an input, over rows of one sign of weight or all. */
static char *
call(const char *function, const char *args, const AggregateInput *input,
	 const char *sign)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfo(&text, "pg_catalog.%s(%s)", function, args);
	if (input->filter && sign && !MUTANT(FILTER))
		appendStringInfo(&text, " FILTER (WHERE " INPUT_FILTER "%d AND " INPUT_WEIGHT " %s 0)", input->number, sign);
	else if (input->filter)
		appendStringInfo(&text, " FILTER (WHERE " INPUT_FILTER "%d)", input->number);
	else if (sign)
		appendStringInfo(&text, " FILTER (WHERE " INPUT_WEIGHT " %s 0)", sign);
	return text.data;
}

/* Add a column to the state, or find it there, for an aggregate (or none). */
static StateColumn *
state_column(PipelineQuery *pq, AggregateColumn *user, char *name, const char *type)
{
	StateColumn *column = NULL;
	ListCell   *lc;

	foreach(lc, pq->keys)
	{
		if (strcmp(((KeyColumn *) lfirst(lc))->name, name) == 0)
			return state_column(pq, user, psprintf("%s_", name), type);
	}
	foreach(lc, pq->state)
	{
		if (strcmp(((StateColumn *) lfirst(lc))->name, name) == 0)
			column = lfirst(lc);
	}
	if (column == NULL)
	{
		column = palloc0(sizeof(StateColumn));
		column->name = pstrdup(quote_identifier(name));
		column->type = pstrdup(type);
		pq->state = lappend(pq->state, column);
	}
	if (user != NULL)
		user->state = list_append_unique_ptr(user->state, column);
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

/* A column that adds up: what is retracted is subtracted. */
static void
keep_additive(StateColumn *column, char *added, char *removed, char *all)
{
	column->plus = all;
	column->mixed = psprintf("%s - %s", added, removed);
	column->merge = psprintf("s.%s + excluded.%s", column->name, column->name);
}

/* A column that counts those of "args" which are not NULL. */
static StateColumn *
counting(StateColumn *column, const char *args, AggregateInput *input)
{
	if (column->merge == NULL)
		keep_additive(column, call("count", args, input, ">"),
					  call("count", args, input, "<"),
					  call("count", args, input, NULL));
	return column;
}

static StateColumn *
keep_count(PipelineQuery *pq, AggregateColumn *user, AggregateInput *input)
{
	bool		every_row = input->arg == NULL && input->filter == NULL;
	const char *args = input->arg ? argument(input) : "*";
	StateColumn *column;

	column = state_column(pq, user, every_row ? ROW_COUNT_COLUMN :
						  psprintf("count_%d", input->number), "pg_catalog.int8");
	return counting(column, args, input);
}

/* How many of a boolean input are true */
static StateColumn *
keep_true(PipelineQuery *pq, AggregateColumn *user, AggregateInput *input)
{
	char	   *args = psprintf("CASE WHEN %s THEN 1 END", argument(input));
	StateColumn *column = state_column(pq, user, psprintf("true_%d", input->number),
									   "pg_catalog.int8");

	return counting(column, args, input);
}

/*
 * The scale that all numerics of an input have in common, or -1: they differ.
 * A batch that retracts delivers -2 - scale, so that the merge sees both.
 */
static StateColumn *
keep_scale(PipelineQuery *pq, AggregateColumn *user, AggregateInput *input)
{
	StateColumn *column = state_column(pq, user, psprintf("scale_%d", input->number),
									   "pg_catalog.int4");

	if (column->merge == NULL)
	{
		char	   *args = psprintf("pg_catalog.scale(%s)", argument(input));
		char	   *least = call("min", args, input, NULL);
		char	   *most = call("max", args, input, NULL);

		column->plus = psprintf("CASE WHEN %s = %s THEN %s WHEN %s IS NOT NULL THEN -1 END",
								least, most, least, least);
		column->mixed = psprintf("CASE WHEN %s = %s THEN CASE WHEN %s > 0 THEN -2 - %s ELSE %s END WHEN %s IS NOT NULL THEN -1 END",
								 least, most, call("count", argument(input), input, "<"),
								 least, least, least);
		/* greatest(x, -2 - x) takes the sign of a retraction off again */
		column->merge = psprintf("CASE WHEN excluded.%1$s IS NULL THEN greatest(s.%1$s, -2 - s.%1$s) "
								 "WHEN s.%1$s IS NULL OR greatest(s.%1$s, -2 - s.%1$s) = greatest(excluded.%1$s, -2 - excluded.%1$s) "
								 "THEN greatest(excluded.%1$s, -2 - excluded.%1$s) ELSE -1 END",
								 column->name);
	}
	return column;
}

/*
 * A sum of no values has no scale: after the last one has gone, the next ones
 * begin anew.
 */
static void
begin_anew(StateColumn *column, const StateColumn *count, const char *begun)
{
	if (!MUTANT(SCALE_BEGUN))
		column->merge = psprintf("CASE WHEN s.%s = 0 THEN %s ELSE %s END",
								 count->name, begun, column->merge);
}

/* Do the values of an input bring a scale of their own? */
static bool
has_scales(AggregateInput *input)
{
	return exprType((Node *) input->arg) == NUMERICOID && exprTypmod((Node *) input->arg) < 0;
}

/* A sum that knows when it cannot be kept: see the head of this file. */
static StateColumn *
keep_sum(PipelineQuery *pq, AggregateColumn *user, AggregateInput *input,
		 const char *type)
{
	StateColumn *column = state_column(pq, user, psprintf("sum_%d", input->number), type);
	char	   *args = argument(input);
	char	   *removed;
	char	   *unsafe;

	if (column->merge != NULL)
		return column;
	removed = psprintf("coalesce(%s, '0'::%s)", call("sum", args, input, "<"), type);
	keep_additive(column,
				  psprintf("coalesce(%s, '0'::%s)", call("sum", args, input, ">"), type),
				  removed,
				  psprintf("coalesce(%s, '0'::%s)", call("sum", args, input, NULL), type));
	if (exprType((Node *) input->arg) != NUMERICOID)
		return column;

	unsafe = MUTANT(NAN) ? "false" : psprintf("%s IN ('NaN', 'Infinity', '-Infinity')", removed);
	if (has_scales(input) && !MUTANT(SCALE))
	{
		StateColumn *scale = keep_scale(pq, user, input);
		StateColumn *count = keep_count(pq, user, input);

		unsafe = psprintf("%s OR (%s > 0 AND %s = -1)", unsafe,
						  call("count", args, input, "<"), scale->mixed);
		column->merge = psprintf("CASE WHEN excluded.%1$s <= -2 AND greatest(s.%1$s, -2 - s.%1$s) <> -2 - excluded.%1$s THEN NULL ELSE %2$s END",
								 scale->name, column->merge);
		begin_anew(column, count, psprintf("excluded.%s", column->name));
		begin_anew(scale, count, psprintf("greatest(excluded.%1$s, -2 - excluded.%1$s)", scale->name));
	}
	column->mixed = psprintf("CASE WHEN %s THEN NULL ELSE %s END", unsafe, column->mixed);
	column->unknown = psprintf("%s IS NULL", column->name);
	pq->may_recompute = true;
	return column;
}

/* The sum of the squares; it is unknown when the sum beside it is. */
static StateColumn *
keep_squares(PipelineQuery *pq, AggregateColumn *user, AggregateInput *input,
			 const char *type)
{
	StateColumn *column = state_column(pq, user, psprintf("squares_%d", input->number),
									   "pg_catalog.numeric");
	char	   *args = psprintf("%1$s::%2$s * %1$s::%2$s", argument(input), type);

	if (column->merge != NULL)
		return column;
	keep_additive(column,
				  psprintf("coalesce(%s, 0)", call("sum", args, input, ">")),
				  psprintf("coalesce(%s, 0)", call("sum", args, input, "<")),
				  psprintf("coalesce(%s, 0)", call("sum", args, input, NULL)));
	if (has_scales(input))
		begin_anew(column, keep_count(pq, user, input), psprintf("excluded.%s", column->name));
	return column;
}

/* min and max: the extreme, and whether it has been retracted */
static StateColumn *
keep_extreme(PipelineQuery *pq, AggregateColumn *user, AggregateInput *input,
			 const char *function)
{
	Aggref	   *aggref = user->aggref;
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

	value = state_column(pq, user, psprintf("%s_%d", function, input->number),
						 ib_query_type(aggref->aggtype, -1, aggref->aggcollid));
	retracted = state_column(pq, user, psprintf("%s_%d_retracted", function, input->number),
							 "pg_catalog.bool");
	if (value->merge != NULL)
		return value;
	added = call(function, argument(input), input, ">");
	removed = call(function, argument(input), input, "<");

	value->plus = call(function, argument(input), input, NULL);
	value->mixed = psprintf("CASE WHEN %2$s IS NULL OR %1$s %3$s %2$s THEN %1$s ELSE %2$s END",
							added, removed, better);
	value->merge = psprintf("CASE WHEN NOT excluded.%2$s AND (s.%1$s IS NULL OR excluded.%1$s %3$s s.%1$s) THEN excluded.%1$s ELSE s.%1$s END",
							value->name, retracted->name, better);
	retracted->plus = "false";
	retracted->mixed = MUTANT(MINMAX) ? "false" :
		psprintf("%2$s IS NOT NULL AND (%1$s %3$s %2$s) IS NOT TRUE",
				 added, removed, better);
	retracted->merge = psprintf("excluded.%2$s AND (s.%1$s %3$s excluded.%1$s) IS NOT TRUE",
								value->name, retracted->name, better);
	retracted->unknown = retracted->name;
	pq->may_recompute = true;
	return value;
}

/* ----------------------------------------------------------------
 *		Aggregates kept by delta: SQL that finishes them, or NULL
 * ----------------------------------------------------------------
 */

static char *
finish_average(PipelineQuery *pq, AggregateColumn *user, AggregateInput *input,
			   const SumRule *rule)
{
	StateColumn *sum = keep_sum(pq, user, input, rule->average_sum);
	StateColumn *count = keep_count(pq, user, input);
	const char *cast = rule->input == INTERVALOID ? "pg_catalog.interval" : rule->average_divisor;

	return psprintf("CASE WHEN %s > 0 THEN %s::%s / %s::%s END",
					count->name, sum->name, cast, count->name, rule->average_divisor);
}

static char *
finish_sum(PipelineQuery *pq, AggregateColumn *user, AggregateInput *input,
		   const SumRule *rule)
{
	StateColumn *sum = keep_sum(pq, user, input, rule->sum);
	StateColumn *count = keep_count(pq, user, input);

	return psprintf("CASE WHEN %s > 0 THEN %s END", count->name, sum->name);
}

static char *
finish_variance(PipelineQuery *pq, AggregateColumn *user, AggregateInput *input,
				const SumRule *rule, const char *function)
{
	for (int i = 0; i < lengthof(variances); i++)
	{
		if (strcmp(variances[i].name, function) == 0)
		{
			StateColumn *sum = keep_sum(pq, user, input, rule->average_sum);
			StateColumn *squares = keep_squares(pq, user, input, rule->square);
			StateColumn *count = keep_count(pq, user, input);

			return psprintf(IB_SCHEMA ".%s(%s, %s, %s, %s)", variances[i].function,
							count->name, sum->name, squares->name,
							variances[i].sample ? "true" : "false");
		}
	}
	return NULL;
}

/* bool_and, every and bool_or */
static char *
finish_bool(PipelineQuery *pq, AggregateColumn *user, AggregateInput *input,
			const char *function)
{
	StateColumn *all = keep_count(pq, user, input);
	StateColumn *yes = keep_true(pq, user, input);

	return psprintf("CASE WHEN %s > 0 THEN %s %s END", all->name, yes->name,
					strcmp(function, "bool_or") == 0 ? "> 0" : psprintf("= %s", all->name));
}

/* The functions of core that deltas can keep, by name; NULL: not this one. */
static char *
finish_by_delta(PipelineQuery *pq, AggregateColumn *user, const char *function)
{
	Aggref	   *aggref = user->aggref;
	AggregateInput every_row = {0};
	AggregateInput *input = &every_row;
	const SumRule *rule = NULL;
	Expr	   *arg = NULL;

	if (aggref->args != NIL)
		arg = linitial_node(TargetEntry, aggref->args)->expr;
	/* count of what is never NULL counts rows */
	if (strcmp(function, "count") == 0 && arg && IsA(arg, Const) &&
		!((Const *) arg)->constisnull)
		arg = NULL;
	if (arg != NULL)
		rule = sum_rule(exprType((Node *) arg));
	if (arg || aggref->aggfilter)
		input = find_input(pq, arg, aggref->aggfilter);

	if (strcmp(function, "count") == 0)
		return keep_count(pq, user, input)->name;
	if (strcmp(function, "min") == 0 || strcmp(function, "max") == 0)
		return keep_extreme(pq, user, input, function)->name;
	if (strcmp(function, "bool_and") == 0 || strcmp(function, "bool_or") == 0 ||
		strcmp(function, "every") == 0)
		return finish_bool(pq, user, input, function);
	if (rule == NULL)
		return NULL;
	if (strcmp(function, "sum") == 0)
		return finish_sum(pq, user, input, rule);
	if (strcmp(function, "avg") == 0)
		return finish_average(pq, user, input, rule);
	return finish_variance(pq, user, input, rule, function);
}

/* ----------------------------------------------------------------
 *		Aggregates that are evaluated again at every change
 * ----------------------------------------------------------------
 */

/*
 * A function of an aggregate must not give another result tomorrow.  C code
 * is believed: extensions seldom declare functions that only an aggregate
 * calls, and core does not look at it either.
 */
static void
refuse_changing_part(Aggref *aggref, Oid funcid)
{
	HeapTuple	tuple;
	Form_pg_proc form;

	if (!OidIsValid(funcid))
		return;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(funcid));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", funcid);
	form = (Form_pg_proc) GETSTRUCT(tuple);
	if (form->provolatile != PROVOLATILE_IMMUTABLE &&
		form->prolang != INTERNALlanguageId && form->prolang != ClanguageId)
		refuse_aggregate(aggref,
						 psprintf("Its function %s is not IMMUTABLE: its result can differ between the moment a group is evaluated and the moment the batch query would run.",
								  format_procedure(funcid)),
						 "If its result depends on its arguments alone, declare it IMMUTABLE.");
	ReleaseSysCache(tuple);
}

static void
refuse_changing_aggregate(Aggref *aggref)
{
	HeapTuple	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggref->aggfnoid));
	Form_pg_aggregate form;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", aggref->aggfnoid);
	form = (Form_pg_aggregate) GETSTRUCT(tuple);
	refuse_changing_part(aggref, form->aggtransfn);
	refuse_changing_part(aggref, form->aggfinalfn);
	refuse_changing_part(aggref, form->aggcombinefn);
	ReleaseSysCache(tuple);
}

/* An aggregate, of the pipeline or of a lookup, has one result for some rows. */
void
ib_aggregate_check(Aggref *aggref, bool rows_ordered)
{
	const char *function;

	if (get_func_namespace(aggref->aggfnoid) != PG_CATALOG_NAMESPACE)
	{
		refuse_changing_aggregate(aggref);
		return;
	}
	if (rows_ordered || aggref->aggorder != NIL || aggref->aggdistinct != NIL)
		return;
	function = get_func_name(aggref->aggfnoid);
	for (int i = 0; i < lengthof(ordered); i++)
	{
		if (strcmp(function, ordered[i]) == 0)
			refuse_aggregate(aggref,
							 "Its result follows the order in which the rows are read, which can be another one each time.",
							 psprintf("Say the order inside the aggregate: %s(... ORDER BY ...).", function));
	}
}

/* The names that an aggregate's text reads, each with its expression */
typedef struct TextColumns
{
	PipelineQuery *pq;
	List	   *names;			/* of String */
} TextColumns;

static Node *
named_column(TextColumns *columns, char *name, Oid type, int32 typmod, Oid collation)
{
	int			number = 0;
	ListCell   *lc;

	/* once each, or the deparser would give the second one another name */
	foreach(lc, columns->names)
	{
		if (strcmp(strVal(lfirst(lc)), name) == 0)
			number = foreach_current_index(lc) + 1;
	}
	if (number == 0)
	{
		columns->names = lappend(columns->names, makeString(name));
		number = list_length(columns->names);
	}
	return (Node *) makeVar(1, number, type, typmod, collation, 0);
}

/* In a direct argument: the keys, which are all the columns it can read */
static Node *
read_keys(Node *node, TextColumns *columns)
{
	ListCell   *lc;

	if (node == NULL)
		return NULL;
	foreach(lc, columns->pq->keys)
	{
		KeyColumn  *key = lfirst(lc);

		if (equal(key->expr, node))
			return named_column(columns, key->name, exprType(node),
								exprTypmod(node), exprCollation(node));
	}
	return expression_tree_mutator(node, read_keys, columns);
}

/* The aggregate over the rows t, as SQL */
static char *
aggregate_text(PipelineQuery *pq, Aggref *original)
{
	Aggref	   *aggref = copyObject(original);
	TextColumns columns = {pq, NIL};
	RangeTblEntry *rows = makeNode(RangeTblEntry);
	RangeTblEntry *other = makeNode(RangeTblEntry);
	ListCell   *lc;

	foreach(lc, aggref->args)
	{
		TargetEntry *entry = lfirst(lc);
		Node	   *arg = (Node *) entry->expr;

		if (!IsA(arg, Const))
			entry->expr = (Expr *)
				named_column(&columns, argument(find_input(pq, entry->expr, NULL)),
							 exprType(arg), exprTypmod(arg), exprCollation(arg));
	}
	if (aggref->aggfilter)
		aggref->aggfilter = (Expr *)
			named_column(&columns, psprintf(INPUT_FILTER "%d",
											find_input(pq, NULL, aggref->aggfilter)->number),
						 BOOLOID, -1, InvalidOid);
	aggref->aggdirectargs = (List *) read_keys((Node *) aggref->aggdirectargs, &columns);

	rows->rtekind = RTE_CTE;
	rows->ctename = "t";
	rows->eref = makeAlias("t", columns.names);
	rows->inFromCl = true;
	/* with a second entry the deparser says whose each column is */
	other->rtekind = RTE_RESULT;
	other->eref = makeAlias("*RESULT*", NIL);
	return ib_query_expression(list_make2(rows, other), NULL, (Node *) aggref);
}

/* Keep the result as it is. */
static void
keep_result(PipelineQuery *pq, AggregateColumn *user, const char *function)
{
	Aggref	   *aggref = user->aggref;
	StateColumn *column;

	if (get_typtype(aggref->aggtype) == TYPTYPE_PSEUDO)
		refuse_aggregate(aggref, "A column cannot have the type of its result.",
						 "Cast or convert inside the aggregate, so that it returns an ordinary type.");
	column = state_column(pq, user, psprintf("value_%d", list_length(pq->aggregates) + 1),
						  ib_query_type(aggref->aggtype, -1, aggref->aggcollid));
	column->plus = aggregate_text(pq, aggref);
	column->mixed = column->plus;
	column->merge = psprintf("excluded.%s", column->name);
	user->finish = column->name;
	pq->may_recompute = true;
	pq->always_recompute = true;
	if (aggref->aggdistinct == NIL && aggref->aggkind == AGGKIND_NORMAL &&
		strncmp(function, "bit_", 4) != 0)
		pq->in_order = true;
}

/* Why an aggregate is not kept by delta, for explain_pipeline */
static const char *
why_recomputed(Aggref *aggref, const char *function)
{
	Oid			type = list_length(aggref->args) == 0 ? InvalidOid :
		exprType((Node *) linitial_node(TargetEntry, aggref->args)->expr);

	if (aggref->aggdistinct != NIL)
		return "DISTINCT needs all values of the group";
	if (aggref->aggorder != NIL)
		return "ORDER BY needs all values of the group";
	if ((type == FLOAT4OID || type == FLOAT8OID) &&
		(strcmp(function, "sum") == 0 || strcmp(function, "avg") == 0 ||
		 strncmp(function, "var", 3) == 0 || strncmp(function, "stddev", 6) == 0))
		return "floating point depends on the order of addition; a cast of the argument to numeric would be kept by delta";
	return "its result cannot be adjusted by a change";
}

/*
 * Add an aggregate of the query to the state; NULL adds the row count only,
 * which every state has.
 */
void
ib_aggregate_add(PipelineQuery *pq, Aggref *aggref)
{
	AggregateInput every_row = {0};
	AggregateColumn *column;
	char	   *function = "";

	(void) keep_count(pq, NULL, &every_row);
	if (aggref == NULL)
		return;

	if (get_func_namespace(aggref->aggfnoid) == PG_CATALOG_NAMESPACE)
		function = get_func_name(aggref->aggfnoid);

	column = palloc0(sizeof(AggregateColumn));
	column->aggref = aggref;
	if (aggref->aggdistinct == NIL && aggref->aggorder == NIL &&
		aggref->aggkind == AGGKIND_NORMAL && list_length(aggref->args) <= 1)
		column->finish = finish_by_delta(pq, column, function);
	if (column->finish == NULL)
	{
		column->recomputed = why_recomputed(aggref, function);
		keep_result(pq, column, function);
	}
	pq->aggregates = lappend(pq->aggregates, column);
}
