/*
 * query.c
 *	  Analyse a pipeline's query, and turn its tree back into SQL.
 *
 * The query is stored as an ordinary view, <pipeline>_batch, so its names are
 * resolved once, its dependencies are recorded by core, and its tree can be
 * had at any time.  This file takes that tree apart: the source (the first
 * table of FROM), the columns read, the keys of the GROUP BY, the aggregates.
 * What incbatch cannot keep exact is refused here, each with its reason and a
 * way out.
 *
 * Two texts are made from the tree by changing it and letting core deparse
 * it: the rows that enter the aggregation (keys and aggregate arguments, from
 * the source or from a batch in its place), and the view over the state.
 *
 * Nothing here runs a query; memory is the caller's current context.
 */
#include "incbatch.h"

#include "access/table.h"
#include "access/sysattr.h"
#include "access/htup_details.h"
#include "catalog/heap.h"
#include "catalog/namespace.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_func.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "query.h"
#include "source.h"

#define refuse(what, detail, hint) \
	ereport(ERROR, \
			errcode(ERRCODE_FEATURE_NOT_SUPPORTED), \
			errmsg("a pipeline's query cannot have %s", what), \
			errdetail("%s", detail), \
			errhint("%s", hint))

/*
 * Stable functions of core depend on settings, which a pipeline stores, but
 * for those whose names begin like these: they depend on the time, the
 * session or the catalog.
 */
static const char *const unstable_prefixes[] = {
	"age", "col_description", "current_", "database_to_xml", "enum_first",
	"enum_last", "enum_range", "get_current_ts_config", "getpgusername",
	"has_", "inet_client_", "inet_server_", "mxid_age", "now",
	"obj_description", "pg_", "row_security_active", "schema_to_xml",
	"session_user", "shobj_description", "statement_timestamp",
	"table_to_xml", "to_reg", "transaction_timestamp", "txid_", "version",
};

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
 *		What is refused
 * ----------------------------------------------------------------
 */

static bool
is_unstable(Oid funcid)
{
	char	   *name = get_func_name(funcid);

	for (int i = 0; i < lengthof(unstable_prefixes); i++)
	{
		if (strncmp(name, unstable_prefixes[i], strlen(unstable_prefixes[i])) == 0)
			return true;
	}
	return false;
}

static bool
refuse_changing_function(Oid funcid, void *context)
{
	char		volatility = func_volatile(funcid);

	if (volatility == PROVOLATILE_IMMUTABLE)
		return false;
	if (volatility == PROVOLATILE_STABLE &&
		((get_func_namespace(funcid) == PG_CATALOG_NAMESPACE &&
		  !is_unstable(funcid)) || ib_is_window_function(funcid)))
		return false;
	ereport(ERROR,
			errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			errmsg("a pipeline's query cannot call function %s",
				   format_procedure(funcid)),
			errdetail("Its result can differ between the moment a row is folded in and the moment the batch query would run."),
			errhint(volatility == PROVOLATILE_STABLE && !is_unstable(funcid) ?
					"If its result depends on its arguments alone, declare it IMMUTABLE." :
					"Filter by time or by session in the query on the pipeline's relation instead."));
	return true;
}

static bool
refuse_changing_expressions(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, SQLValueFunction))
		refuse("CURRENT_DATE, CURRENT_TIMESTAMP, CURRENT_USER and the like",
			   "Their value differs between the moment a row is folded in and the moment the batch query would run.",
			   "Filter by time or by session in the query on the pipeline's relation instead.");
	if (IsA(node, NextValueExpr))
		refuse("nextval", "Its value differs at each call.", "Leave it out.");
	if (IsA(node, Aggref))
	{
		/* the transition functions are the aggregate table's business */
		return expression_tree_walker(node, refuse_changing_expressions, context);
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, refuse_changing_expressions,
								 context, 0);
	(void) check_functions_in_node(node, refuse_changing_function, context);
	return expression_tree_walker(node, refuse_changing_expressions, context);
}

static void
refuse_unsupported_clauses(Query *query)
{
	if (query->hasWindowFuncs)
		refuse("window functions",
			   "A new row can change the result of every other row.",
			   "Use them in a query on the pipeline's relation.");
	if (query->setOperations)
		refuse("UNION, INTERSECT or EXCEPT",
			   "A pipeline aggregates one source.",
			   "Create one pipeline for each branch and combine their relations in a view.");
	if (query->cteList)
		refuse("WITH", "Common table expressions are not supported yet.",
			   "Write the query as one SELECT over the source and its lookups.");
	if (query->hasSubLinks)
		refuse("subqueries in expressions",
			   "A subquery reads a table whose changes would not be seen.",
			   "Join the table as a lookup instead.");
	if (query->groupingSets)
		refuse("GROUPING SETS, ROLLUP or CUBE",
			   "They are not supported yet.",
			   "Create the pipeline at the finest grouping and sum over its relation.");
	if (query->distinctClause)
		refuse("DISTINCT", "It is not supported yet.",
			   "Use GROUP BY, which removes duplicates too.");
	if (query->limitCount || query->limitOffset)
		refuse("LIMIT or OFFSET",
			   "Which groups are in the result would depend on all others.",
			   "Use LIMIT in the query on the pipeline's relation.");
	if (query->rowMarks)
		refuse("FOR UPDATE or FOR SHARE", "A pipeline locks no rows.",
			   "Leave the locking clause out.");
	if (query->hasTargetSRFs)
		refuse("set-returning functions in the SELECT list",
			   "They are not supported yet.",
			   "Unnest in the query on the pipeline's relation.");
	if (query->groupClause == NIL)
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("a pipeline's query must have GROUP BY"),
				errdetail(query->hasAggs ? "A pipeline without groups is not supported yet."
						  : "A pipeline keeps aggregates up to date; this query has none."),
				errhint("Group by a window of time, for example date_trunc('hour', …)."));
	if (query->constraintDeps)
		refuse("columns that are neither grouped nor aggregated",
			   "They are accepted in a query because the primary key is grouped, but a pipeline needs every key of the result.",
			   "Add these columns to GROUP BY.");
}

/* ----------------------------------------------------------------
 *		Source and lookups
 * ----------------------------------------------------------------
 */

/* The first relation of FROM, which no outer join may fill with NULLs. */
static int
find_source(Query *query)
{
	Node	   *node;

	if (query->jointree->fromlist == NIL)
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("a pipeline's query must have FROM"),
				errdetail("A pipeline follows the changes of a source table."),
				errhint("Name the source table first in FROM."));
	node = linitial(query->jointree->fromlist);
	while (IsA(node, JoinExpr))
	{
		JoinExpr   *join = (JoinExpr *) node;

		if (join->jointype != JOIN_INNER && join->jointype != JOIN_LEFT)
			refuse("RIGHT or FULL joins",
				   "A row of the source would also change rows that it is not part of.",
				   "Name the source first in FROM and use LEFT JOIN for its lookups.");
		node = join->larg;
	}
	return castNode(RangeTblRef, node)->rtindex;
}

static void
check_source(PipelineQuery *pq)
{
	RangeTblEntry *rte = rt_fetch(pq->source_index, pq->query->rtable);

	if (rte->rtekind != RTE_RELATION)
		refuse("a source that is not a table",
			   "The first entry of FROM is the source, whose changes the pipeline follows.",
			   "Name the source table first in FROM.");
	pq->source = rte->relid;
	ib_source_check(rte->relid, !rte->inh);
}

/* (VALUES ...) in FROM, which the parser wraps in a subquery */
static bool
is_values_list(const RangeTblEntry *rte)
{
	return rte->rtekind == RTE_SUBQUERY && !rte->lateral &&
		!rte->subquery->hasSubLinks &&
		list_length(rte->subquery->rtable) == 1 &&
		linitial_node(RangeTblEntry, rte->subquery->rtable)->rtekind == RTE_VALUES;
}

static void
check_lookups(PipelineQuery *pq)
{
	int			index = 0;
	ListCell   *lc;

	foreach(lc, pq->query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		index++;
		if (index == pq->source_index || rte->rtekind == RTE_JOIN)
			continue;
		if (rte->rtekind == RTE_RELATION && rte->relid == pq->source)
			refuse("its source twice",
				   "A change of the source would have to be joined with itself.",
				   "Join other tables as lookups only.");
		if (rte->tablesample)
			refuse("TABLESAMPLE", "Its rows differ at each run.", "Leave it out.");
		if (rte->rtekind != RTE_RELATION && rte->rtekind != RTE_FUNCTION &&
			!is_values_list(rte))
			refuse("subqueries in FROM",
				   "They are not supported yet.",
				   "Join the tables directly, or make the subquery a view and join that.");
	}
	if (rt_fetch(pq->source_index, pq->query->rtable)->tablesample)
		refuse("TABLESAMPLE", "Its rows differ at each run.", "Leave it out.");
}

/* Which columns of the source the query reads, wherever. */
static void
find_needed_columns(PipelineQuery *pq)
{
	Query	   *query = copyObject(pq->query);
	Bitmapset  *attnos = NULL;
	int			attno = -1;
	ListCell   *lc;

	query->targetList = (List *)
		flatten_join_alias_vars(query, (Node *) query->targetList);
	query->havingQual = flatten_join_alias_vars(query, query->havingQual);
	query->jointree = (FromExpr *)
		flatten_join_alias_vars(query, (Node *) query->jointree);
	pull_varattnos((Node *) query->targetList, pq->source_index, &attnos);
	pull_varattnos((Node *) query->havingQual, pq->source_index, &attnos);
	pull_varattnos((Node *) query->jointree, pq->source_index, &attnos);
	foreach(lc, query->rtable)
	{
		/* functions in FROM take columns of the source as arguments */
		List	   *functions = lfirst_node(RangeTblEntry, lc)->functions;

		pull_varattnos(flatten_join_alias_vars(query, (Node *) functions),
					   pq->source_index, &attnos);
	}

	while ((attno = bms_next_member(attnos, attno)) >= 0)
	{
		int			attnum = attno + FirstLowInvalidHeapAttributeNumber;

		if (attnum == 0)
			refuse("references to whole rows of the source",
				   "Only named columns are kept with a change.",
				   "Name the columns that the query needs.");
		if (attnum < 0)
			refuse("system columns",
				   "A change does not carry them.", "Leave them out.");
		pq->needed = bms_add_member(pq->needed, attnum);
	}
}

/* ----------------------------------------------------------------
 *		Keys
 * ----------------------------------------------------------------
 */

/* Names that the statements or the view use for other things */
static bool
name_is_taken(PipelineQuery *pq, const char *name)
{
	ListCell   *lc;

	if (strcmp(name, ROW_COUNT_COLUMN) == 0 ||
		strncmp(name, RESERVED_PREFIX, strlen(RESERVED_PREFIX)) == 0 ||
		SystemAttributeByName(name) != NULL)
		return true;
	foreach(lc, pq->keys)
	{
		if (strcmp(((KeyColumn *) lfirst(lc))->name, name) == 0)
			return true;
	}
	return false;
}

static void
add_key(PipelineQuery *pq, SortGroupClause *clause)
{
	TargetEntry *entry = get_sortgroupclause_tle(clause, pq->query->targetList);
	Oid			type = exprType((Node *) entry->expr);
	KeyColumn  *key = palloc0(sizeof(KeyColumn));

	if (!OidIsValid(lookup_type_cache(type, TYPECACHE_BTREE_OPFAMILY)->btree_opf))
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("a pipeline cannot group by type %s", format_type_be(type)),
				errdetail("The state table finds its groups by an index, and the type has no order."),
				errhint("Group by a cast of the expression to another type."));
	key->expr = entry->expr;
	key->equals = ib_query_operator(clause->eqop);
	key->type = ib_query_type(type, exprTypmod((Node *) entry->expr),
							  exprCollation((Node *) entry->expr));
	if (!entry->resjunk && entry->resname && !name_is_taken(pq, entry->resname))
		key->name = pstrdup(entry->resname);
	else
	{
		key->name = psprintf("key_%d", list_length(pq->keys) + 1);
		while (name_is_taken(pq, key->name))
			key->name = psprintf("%s_", key->name);
	}
	pq->keys = lappend(pq->keys, key);
	key->number = list_length(pq->keys);
	ib_recompute_find_window(pq, key);
}

static bool
collect_aggregates(Node *node, PipelineQuery *pq)
{
	if (node == NULL)
		return false;
	if (IsA(node, GroupingFunc))
		refuse("GROUPING", "It is not supported yet.", "Leave it out.");
	if (IsA(node, Aggref))
	{
		ListCell   *lc;

		foreach(lc, pq->aggregates)
		{
			if (equal(((AggregateColumn *) lfirst(lc))->aggref, node))
				return false;
		}
		ib_aggregate_add(pq, (Aggref *) node);
		return false;
	}
	return expression_tree_walker(node, collect_aggregates, pq);
}

/* Take a query apart, or say why it cannot be a pipeline. */
PipelineQuery *
ib_query_analyze(Query *query)
{
	PipelineQuery *pq = palloc0(sizeof(PipelineQuery));
	ListCell   *lc;

	pq->query = query;
	refuse_unsupported_clauses(query);
	pq->source_index = find_source(query);
	check_source(pq);
	check_lookups(pq);
	(void) query_tree_walker(query, refuse_changing_expressions, NULL, 0);
	find_needed_columns(pq);

	foreach(lc, query->groupClause)
		add_key(pq, lfirst(lc));
	(void) collect_aggregates((Node *) query->targetList, pq);
	(void) collect_aggregates(query->havingQual, pq);
	if (pq->state == NIL)
		ib_aggregate_add(pq, NULL);
	ib_watermark_find_windows(pq);
	return pq;
}

/* The tree of the query that a view stores, ours to change. */
Query *
ib_query_of_view(Oid view)
{
	Relation	rel = table_open(view, AccessShareLock);
	Query	   *query = copyObject(get_view_query(rel));

	table_close(rel, NoLock);
	return query;
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
		char	   *name = get_attname(source, attnum, true);

		names = lappend(names, makeString(name ? name : psprintf("dropped_%d", attnum)));
	}
	return lappend(names, makeString(BATCH_WEIGHT));
}

/* An expression over a range table, as SQL. */
char *
ib_query_expression(List *rtable, Node *expr)
{
	Query	   *query = makeNode(Query);
	char	   *text;

	query->commandType = CMD_SELECT;
	query->rtable = rtable;
	query->jointree = makeFromExpr(NIL, NULL);
	/* a column without a name is deparsed without AS */
	query->targetList = list_make1(makeTargetEntry((Expr *) expr, 1, NULL, false));
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

	if (node == NULL)
		return NULL;
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

/* The last column of a batch; a row without it has weight +1 (collect.c). */
static Expr *
weight_of_row(PipelineQuery *pq, int batch_columns)
{
	CoalesceExpr *weight = makeNode(CoalesceExpr);

	weight->coalescetype = INT4OID;
	weight->args = list_make2(makeVar(pq->source_index, batch_columns, INT4OID,
									  -1, InvalidOid, 0),
							  makeConst(INT4OID, -1, InvalidOid, sizeof(int32),
										Int32GetDatum(1), false, true));
	weight->location = -1;
	return (Expr *) weight;
}

/*
 * The rows that enter the aggregation: the keys by their names, the arguments
 * of the aggregates, their filters, and from a batch the weight.
 */
char *
ib_query_rows_text(PipelineQuery *pq, bool from_batch, int batch_columns)
{
	Query	   *query = copyObject(pq->query);
	ListCell   *lc;

	query->targetList = NIL;
	query->groupClause = NIL;
	query->groupDistinct = false;
	query->sortClause = NIL;
	query->havingQual = NULL;
	query->hasAggs = false;

	foreach(lc, pq->keys)
	{
		KeyColumn  *key = lfirst(lc);
		Expr	   *expr = copyObject(key->expr);

		if (from_batch)
			expr = (Expr *) use_window_start((Node *) expr, NULL);
		add_target(query, expr, key->name);
		if (!from_batch && key->time != NULL)
			add_target(query, (Expr *) copyObject(key->time),
					   psprintf(INPUT_TIME "%d", key->number));
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
		add_target(query, (Expr *) makeVar(pq->source_index, TableOidAttributeNumber,
										   OIDOID, -1, InvalidOid, 0), INPUT_TABLE);
		add_target(query, (Expr *) makeVar(pq->source_index, SelfItemPointerAttributeNumber,
										   TIDOID, -1, InvalidOid, 0), INPUT_ROW);
	}
	if (from_batch)
	{
		add_target(query, weight_of_row(pq, batch_columns), INPUT_WEIGHT);
		replace_relation(rt_fetch(pq->source_index, query->rtable), BATCH_RELATION,
						 batch_column_names(pq->source, batch_columns));
	}
	return pg_get_querydef(query, false);
}

/* Replace keys and aggregates by the columns of the state (entry 1). */
static Node *
read_from_state(Node *node, PipelineQuery *pq)
{
	AttrNumber	column = 0;
	ListCell   *lc;

	if (node == NULL)
		return NULL;
	foreach(lc, pq->keys)
	{
		column++;
		if (equal(((KeyColumn *) lfirst(lc))->expr, node))
			return (Node *) makeVar(1, column, exprType(node), exprTypmod(node),
									exprCollation(node), 0);
	}
	foreach(lc, pq->aggregates)
	{
		column++;
		if (equal(((AggregateColumn *) lfirst(lc))->aggref, node))
			return (Node *) makeVar(1, column, exprType(node), exprTypmod(node),
									exprCollation(node), 0);
	}
	return expression_tree_mutator(node, read_from_state, pq);
}

/* The query's own SELECT list, HAVING and ORDER BY, over the state table. */
char *
ib_query_view_text(PipelineQuery *pq, const char *state_table)
{
	Query	   *query = copyObject(pq->query);
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	RangeTblRef *ref = makeNode(RangeTblRef);
	List	   *colnames = NIL;
	StringInfoData text;
	ListCell   *lc;
	int			n = 0;

	initStringInfo(&text);
	appendStringInfoString(&text, "WITH state AS (SELECT ");
	foreach(lc, pq->keys)
	{
		KeyColumn  *key = lfirst(lc);

		appendStringInfo(&text, "%s%s", n++ ? ", " : "", quote_identifier(key->name));
		colnames = lappend(colnames, makeString(key->name));
	}
	n = 0;
	foreach(lc, pq->aggregates)
	{
		AggregateColumn *aggregate = lfirst(lc);
		char	   *name = psprintf(RESERVED_PREFIX "value_%d", ++n);

		appendStringInfo(&text, ", %s AS %s", aggregate->finish, name);
		colnames = lappend(colnames, makeString(name));
	}
	appendStringInfo(&text, " FROM %s) ", state_table);

	rte->eref = makeAlias("state", NIL);
	rte->inFromCl = true;
	replace_relation(rte, "state", colnames);
	rte->alias = NULL;
	ref->rtindex = 1;

	query->targetList = (List *) read_from_state((Node *) query->targetList, pq);
	query->jointree = makeFromExpr(list_make1(ref),
								   read_from_state(query->havingQual, pq));
	query->rtable = list_make1(rte);
	query->groupClause = NIL;
	query->havingQual = NULL;
	query->hasAggs = false;
	/* entries that only the GROUP BY needed are in nobody's way as junk */
	appendStringInfoString(&text, pg_get_querydef(query, false));
	return text.data;
}
