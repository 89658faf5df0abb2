/*
 * query_text.c
 *	  Turn the tree of a pipeline's query back into SQL.
 *
 * Two texts are made from the tree by changing it and letting core deparse
 * it: the rows that enter the aggregation (keys and aggregate arguments, from
 * the source or from a batch in its place), and the view over the state.
 *
 * Each text is made of a copy: what query.c took apart stays as it is.
 *
 * Nothing here runs a query; memory is the caller's current context.
 */
#include "incbatch.h"

#include "access/sysattr.h"
#include "access/htup_details.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/analyze.h"
#include "parser/parse_func.h"
#include "parser/parsetree.h"
#include "parser/parser.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"

#include "query.h"

/* ----------------------------------------------------------------
 *		Names as SQL
 * ----------------------------------------------------------------
 */

char *
ib_query_relation_name(Oid relid)
{
	char	   *name = get_rel_name(relid);

	if (name == NULL)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_TABLE),
				errmsg("relation with OID %u does not exist", relid));
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
									  name);
}

char *
ib_query_operator(Oid opno)
{
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(opno));
	Form_pg_operator form;
	char	   *result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", opno);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	result = psprintf("OPERATOR(%s.%s)",
					  quote_identifier(get_namespace_name(form->oprnamespace)),
					  NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return result;
}

char *
ib_query_type(Oid type, int32 typmod, Oid collation)
{
	char	   *result = format_type_extended(type, typmod,
											  FORMAT_TYPE_TYPEMOD_GIVEN |
											  FORMAT_TYPE_FORCE_QUALIFY);

	if (OidIsValid(collation) && collation != DEFAULT_COLLATION_OID)
	{
		HeapTuple	tuple = SearchSysCache1(COLLOID, ObjectIdGetDatum(collation));
		Form_pg_collation form;

		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for collation %u", collation);
		form = (Form_pg_collation) GETSTRUCT(tuple);
		result = psprintf("%s COLLATE %s", result,
						  quote_qualified_identifier(get_namespace_name(form->collnamespace),
													 NameStr(form->collname)));
		ReleaseSysCache(tuple);
	}
	return result;
}

/* ----------------------------------------------------------------
 *		From the tree back to SQL
 * ----------------------------------------------------------------
 */

/*
 * Make a range table entry read from a name that only exists at run time.
 * To the deparser that is a reference to a common table expression: a bare
 * name with columns.
 */
static void
replace_relation(RangeTblEntry *rte, const char *name, List *colnames)
{
	char	   *alias = pstrdup(rte->eref->aliasname);

	rte->rtekind = RTE_CTE;
	rte->ctename = pstrdup(name);
	rte->alias = makeAlias(alias, NIL);
	rte->eref = makeAlias(alias, colnames);
	rte->relid = InvalidOid;
	rte->inh = false;
}

/* The source's columns as the batch has them: its first ones, the weight. */
static List *
batch_column_names(Oid source, int batch_columns)
{
	List	   *names = NIL;

	for (int attnum = 1; attnum < batch_columns; attnum++)
	{
		/*
		 * an empty name is a dropped column to the deparser; so it is to the
		 * parser
		 */
		bool		dropped = !OidIsValid(get_atttype(source, attnum));

		names = lappend(names, makeString(dropped ? pstrdup("") : get_attname(source, attnum, false)));
	}
	return lappend(names, makeString(BATCH_WEIGHT));
}

/* The source's columns that a batch has, each after the qualifier. */
char *
ib_query_needed_columns(PipelineQuery *pq, const char *qualifier)
{
	StringInfoData text;
	int			attnum = -1;

	initStringInfo(&text);
	while ((attnum = bms_next_member(pq->needed, attnum)) >= 0)
		appendStringInfo(&text, "%s%s%s", text.len ? ", " : "", qualifier,
						 quote_identifier(get_attname(pq->source, attnum, false)));
	return text.data;
}

/* A type, or that of its elements, without its domains. */
static Oid
basic_type(Oid type)
{
	Oid			element = get_base_element_type(type);

	return getBaseType(OidIsValid(element) ? element : type);
}

/*
 * The same as what can be kept as jsonb: json may hold what jsonb refuses, such
 * as \u0000, and is kept as its text.  "exact": rows that differ give values
 * that do; the digits of floating point depend on extra_float_digits.
 */
char *
ib_query_needed_for_jsonb(PipelineQuery *pq, const char *qualifier, bool exact)
{
	StringInfoData text;
	int			attnum = -1;

	initStringInfo(&text);
	while ((attnum = bms_next_member(pq->needed, attnum)) >= 0)
	{
		char	   *column = psprintf("%s%s", qualifier,
									  quote_identifier(get_attname(pq->source, attnum, false)));
		Oid			type = get_atttype(pq->source, attnum);
		Oid			basic = basic_type(type);

		if (basic == JSONOID && !MUTANT(JSON_AS_TEXT))
			column = psprintf("%s::pg_catalog.text", column);
		else if ((basic == FLOAT4OID || basic == FLOAT8OID) && exact && !MUTANT(FLOAT_IMAGE))
			column = psprintf("pg_catalog.%s(%s)",
							  OidIsValid(get_base_element_type(type)) ? "array_send" :
							  basic == FLOAT4OID ? "float4send" : "float8send", column);
		appendStringInfo(&text, "%s%s", text.len ? ", " : "", column);
	}
	return text.data;
}

/*
 * An expression over a range table, as SQL.  "windows" is the query that the
 * windows in it are of, over the same range table, or NULL: there are none.
 */
char *
ib_query_expression(List *rtable, const Query *windows, Node *expr)
{
	Query	   *query = makeNode(Query);
	char	   *text;

	query->commandType = CMD_SELECT;
	query->rtable = rtable;
	query->jointree = makeFromExpr(NIL, NULL);
	/* a column without a name is deparsed without AS */
	query->targetList = list_make1(makeTargetEntry((Expr *) expr, 1, NULL, false));
	if (windows != NULL)
	{
		ListCell   *lc;

		query->hasWindowFuncs = windows->hasWindowFuncs;
		query->windowClause = copyObject(windows->windowClause);
		/* without their names there is no clause for them */
		foreach(lc, query->windowClause)
			lfirst_node(WindowClause, lc)->name = NULL;
		/* by what they are ordered and partitioned */
		foreach(lc, windows->targetList)
		{
			TargetEntry *entry = flatCopyTargetEntry(lfirst(lc));

			entry->resno = list_length(query->targetList) + 1;
			entry->resjunk = true;
			query->targetList = lappend(query->targetList, entry);
		}
	}
	text = pg_get_querydef(query, false);
	text += strspn(text, " ");
	Assert(strncmp(text, "SELECT ", strlen("SELECT ")) == 0);
	return text + strlen("SELECT ");
}

static void
add_target(Query *query, Expr *expr, char *name)
{
	query->targetList =
		lappend(query->targetList,
				makeTargetEntry(expr, list_length(query->targetList) + 1, name, false));
}

/* In the place of date_trunc, a function that remembers the last window. */
static Node *
use_window_start(Node *node, void *context)
{
	FuncExpr   *call;

	if (node == NULL || IsA(node, Query))
		return node;
	node = expression_tree_mutator(node, use_window_start, context);
	if (!IsA(node, FuncExpr))
		return node;
	call = (FuncExpr *) node;
	if ((call->funcid == F_DATE_TRUNC_TEXT_TIMESTAMP ||
		 call->funcid == F_DATE_TRUNC_TEXT_TIMESTAMPTZ) &&
		IsA(linitial(call->args), Const) && !((Const *) linitial(call->args))->constisnull)
	{
		Oid			types[] = {TEXTOID, exprType(lsecond(call->args))};

		call->funcid = LookupFuncName(list_make2(makeString(IB_SCHEMA),
												 makeString("window_start")),
									  2, types, false);
		call->funcformat = COERCE_EXPLICIT_CALL;
	}
	return node;
}

/* Let a query read what a run offers in the place of one of its tables. */
void
ib_query_replace(Query *query, const StandIn *stand_in)
{
	replace_relation(rt_fetch(stand_in->index, query->rtable), stand_in->name,
					 batch_column_names(stand_in->relid, stand_in->columns));
}

/* The last column of a batch; a row without it has weight +1 (collect.c). */
static Expr *
weight_of_row(const StandIn *stand_in)
{
	CoalesceExpr *weight = makeNode(CoalesceExpr);

	weight->coalescetype = INT4OID;
	weight->args = list_make2(makeVar(stand_in->index, stand_in->columns, INT4OID,
									  -1, InvalidOid, 0),
							  makeConst(INT4OID, -1, InvalidOid, sizeof(int32),
										Int32GetDatum(1), false, true));
	weight->location = -1;
	return (Expr *) weight;
}

/* The weight of a row that several rows were joined to. */
static Expr *
weight_of_join(List *stand_ins, int sign)
{
	Expr	   *weight = NULL;
	ListCell   *lc;

	foreach(lc, stand_ins)
	{
		StandIn    *stand_in = lfirst(lc);

		if (!stand_in->weighted)
			continue;
		weight = weight == NULL ? weight_of_row(stand_in) :
			(Expr *) makeFuncExpr(F_INT4MUL, INT4OID,
								  list_make2(weight, weight_of_row(stand_in)),
								  InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
	}
	if (sign < 0)
		weight = (Expr *) makeFuncExpr(F_INT4UM, INT4OID, list_make1(weight),
									   InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
	return weight;
}

/*
 * Let a query read stand-ins in the place of the source and of tables beside
 * it, and show the weight of each row, times a sign.
 */
static void
read_stand_ins(PipelineQuery *pq, Query *query, List *stand_ins, int sign)
{
	Query	   *inner = ib_query_source_query(pq, query);
	ListCell   *lc;

	add_target(query, ib_query_expose(pq, query, weight_of_join(stand_ins, sign), INPUT_WEIGHT),
			   INPUT_WEIGHT);
	if (inner != query)
		inner->targetList = (List *) use_window_start((Node *) inner->targetList, NULL);
	foreach(lc, stand_ins)
		ib_query_replace(inner, lfirst(lc));
}

/* A copy of the query that shows nothing, for each row that is aggregated. */
Query *
ib_query_ungrouped(PipelineQuery *pq)
{
	Query	   *query = copyObject(pq->query);

	query->targetList = NIL;
	query->groupClause = NIL;
	query->groupDistinct = false;
	query->groupingSets = NIL;
	query->distinctClause = NIL;
	query->windowClause = NIL;
	query->hasWindowFuncs = false;
	query->sortClause = NIL;
	query->limitCount = NULL;
	query->limitOption = LIMIT_OPTION_COUNT;
	query->havingQual = NULL;
	query->hasAggs = false;
	return query;
}

/*
 * The rows that enter the aggregation: the keys by their names, the arguments
 * of the aggregates, their filters.  With stand-ins, at least one of them
 * weighted, the rows come from a batch: then also the weight, times a sign,
 * and the event time if windows close.
 */
char *
ib_query_rows_of(PipelineQuery *pq, List *stand_ins, int sign)
{
	bool		from_batch = stand_ins != NIL;
	Query	   *query = ib_query_ungrouped(pq);
	ListCell   *lc;

	foreach(lc, pq->keys)
	{
		KeyColumn  *key = lfirst(lc);
		Expr	   *expr = copyObject(key->expr);

		if (expr == NULL)
			continue;
		if (from_batch)
			expr = (Expr *) use_window_start((Node *) expr, NULL);
		add_target(query, expr, key->name);
		if (!from_batch && key->time != NULL)
		{
			char	   *name = psprintf(INPUT_TIME "%d", key->number);

			add_target(query, ib_query_expose(pq, query, (Expr *) copyObject(key->time), name),
					   name);
		}
	}
	foreach(lc, pq->inputs)
	{
		AggregateInput *input = lfirst(lc);

		if (input->arg)
			add_target(query, copyObject(input->arg), psprintf(INPUT_ARG "%d", input->number));
		if (input->filter)
			add_target(query, copyObject(input->filter), psprintf(INPUT_FILTER "%d", input->number));
	}
	if (!from_batch && pq->in_order)
	{
		add_target(query, ib_query_expose(pq, query, (Expr *)
										  makeVar(pq->source_index, TableOidAttributeNumber,
												  OIDOID, -1, InvalidOid, 0), INPUT_TABLE),
				   INPUT_TABLE);
		add_target(query, ib_query_expose(pq, query, (Expr *)
										  makeVar(pq->source_index, SelfItemPointerAttributeNumber,
												  TIDOID, -1, InvalidOid, 0), INPUT_ROW),
				   INPUT_ROW);
	}
	if (from_batch && pq->event_time != InvalidAttrNumber)
		add_target(query, ib_query_expose(pq, query, (Expr *)
										  makeVar(pq->source_index, pq->event_time,
												  get_atttype(pq->source, pq->event_time),
												  -1, InvalidOid, 0), INPUT_EVENT_TIME),
				   INPUT_EVENT_TIME);
	if (from_batch)
		read_stand_ins(pq, query, stand_ins, sign);
	return pg_get_querydef(query, false);
}

/*
 * The rows that enter the aggregation, from the tables of the query or from a
 * batch of the source's changes and of those of the lookups that changed.
 */
char *
ib_query_rows_text(PipelineQuery *pq, bool from_batch, int batch_columns)
{
	StandIn		source = {
		.index = pq->source_index,
		.relid = pq->source,
		.name = BATCH_RELATION,
		.columns = batch_columns,
		.weighted = true,
	};

	if (!from_batch)
		return ib_query_rows_of(pq, NIL, 1);
	if (pq->changed == NULL)
		return ib_query_rows_of(pq, list_make1(&source), 1);
	return ib_lookups_rows_text(pq, batch_columns);
}

/* The query itself, over a batch in the place of its source. */
char *
ib_query_over_batch(PipelineQuery *pq, int batch_columns)
{
	Query	   *query = copyObject(pq->query);
	StandIn		source = {
		.index = pq->source_index,
		.relid = pq->source,
		.name = BATCH_RELATION,
		.columns = batch_columns,
	};

	ib_query_replace(ib_query_source_query(pq, query), &source);
	return pg_get_querydef(query, false);
}

typedef struct StateContext
{
	PipelineQuery *pq;
	int			depth;			/* of the subquery that the node is in */
} StateContext;

/* Is a node, in a subquery so deep, this expression of the query? */
static bool
is_same(void *node, void *expr, int depth)
{
	if (depth > 0 && expr != NULL)
	{
		expr = copyObject(expr);
		IncrementVarSublevelsUp(expr, depth, 0);
	}
	return equal(node, expr);
}

/* The column of the state (entry 1 of the view's FROM) that a node is, or 0. */
static AttrNumber
column_of_state(Node *node, StateContext *context)
{
	PipelineQuery *pq = context->pq;
	AttrNumber	column = 0;
	ListCell   *lc;

	foreach(lc, pq->keys)
	{
		column++;
		if (is_same(node, ((KeyColumn *) lfirst(lc))->expr, context->depth))
			return column;
	}
	foreach(lc, pq->aggregates)
	{
		column++;
		if (is_same(node, ((AggregateColumn *) lfirst(lc))->aggref, context->depth))
			return column;
	}
	foreach(lc, pq->groupings)
	{
		column++;
		if (is_same(node, ((GroupingColumn *) lfirst(lc))->func, context->depth))
			return column;
	}
	return 0;
}

/* Replace keys and aggregates by the columns of the state. */
static Node *
read_from_state(Node *node, StateContext *context)
{
	AttrNumber	column;

	if (node == NULL)
		return NULL;
	if (IsA(node, Query))
	{
		context->depth++;
		node = (Node *) query_tree_mutator((Query *) node, read_from_state, context, 0);
		context->depth--;
		return node;
	}
	/* what is no expression (a list, a join) has no type, and is no key */
	column = column_of_state(node, context);
	if (column > 0)
		return (Node *) makeVar(1, column, exprType(node), exprTypmod(node),
								exprCollation(node), context->depth);
	if (IsA(node, Var) && ((Var *) node)->varlevelsup == context->depth)
		elog(ERROR, "column %d of relation %d is neither a key nor aggregated",
			 ((Var *) node)->varattno, ((Var *) node)->varno);
	return expression_tree_mutator(node, read_from_state, context);
}

/* The keys and the values of the aggregates, of each group once. */
static char *
state_text(PipelineQuery *pq, const char *state_table, List **colnames)
{
	StringInfoData text;
	StringInfoData copies;
	ListCell   *lc;
	int			n = 0;

	initStringInfo(&text);
	initStringInfo(&copies);
	appendStringInfo(&text, "SELECT %s", ib_delta_key_list(pq, ""));
	foreach(lc, pq->keys)
		* colnames = lappend(*colnames, makeString(((KeyColumn *) lfirst(lc))->name));
	foreach(lc, pq->aggregates)
	{
		char	   *name = psprintf(RESERVED_PREFIX "value_%d", ++n);

		appendStringInfo(&text, ", %s AS %s", ((AggregateColumn *) lfirst(lc))->finish, name);
		*colnames = lappend(*colnames, makeString(name));
	}
	foreach(lc, pq->groupings)
	{
		char	   *name = psprintf(RESERVED_PREFIX "value_%d", ++n);

		appendStringInfo(&text, ", %s AS %s", ((GroupingColumn *) lfirst(lc))->finish, name);
		*colnames = lappend(*colnames, makeString(name));
	}
	appendStringInfo(&text, " FROM %s", state_table);

	/* a set that GROUP BY names twice has its rows twice */
	foreach(lc, pq->sets)
	{
		GroupingSetRows *set = lfirst(lc);

		if (set->copies > 1)
			appendStringInfo(&copies, " WHEN %d THEN %d", set->number, set->copies);
	}
	if (copies.len > 0)
		appendStringInfo(&text, ", generate_series(1, CASE %s%s ELSE 1 END)",
						 GROUPING_SET_COLUMN, copies.data);
	return text.data;
}

/*
 * The query's own SELECT list, HAVING, DISTINCT and ORDER BY, over the state
 * table, which exists.
 */
char *
ib_query_view_text(PipelineQuery *pq, const char *state_table)
{
	Query	   *query = copyObject(pq->query);
	StateContext context = {.pq = pq};
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	RangeTblRef *ref = makeNode(RangeTblRef);
	List	   *colnames = NIL;
	char	   *text = state_text(pq, state_table, &colnames);

	rte->rtekind = RTE_SUBQUERY;
	rte->subquery = parse_analyze_fixedparams(linitial(raw_parser(text, RAW_PARSE_DEFAULT)),
											  text, NULL, 0, NULL);
	rte->alias = makeAlias("state", NIL);
	rte->eref = makeAlias("state", colnames);
	rte->inFromCl = true;
	ref->rtindex = 1;

	query->targetList = (List *) read_from_state((Node *) query->targetList, &context);
	query->jointree = makeFromExpr(list_make1(ref),
								   read_from_state(query->havingQual, &context));
	query->rtable = list_make1(rte);
	query->groupClause = NIL;
	query->groupDistinct = false;
	query->groupingSets = NIL;
	query->havingQual = NULL;
	query->hasAggs = false;
	if (!checkExprHasSubLink((Node *) query->targetList) &&
		!checkExprHasSubLink(query->jointree->quals) &&
		!checkExprHasSubLink(query->limitCount) &&
		!checkExprHasSubLink((Node *) query->windowClause))
		query->cteList = NIL;
	/* entries that only the GROUP BY needed are in nobody's way as junk */
	return pg_get_querydef(query, false);
}
