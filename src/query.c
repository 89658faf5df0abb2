/*
 * query.c
 *	  Analyse a pipeline's query.
 *
 * The query is stored as an ordinary view, <pipeline>_batch, so its names are
 * resolved once, its dependencies are recorded by core, and its tree can be
 * had at any time.  This file takes that tree apart: the keys of the GROUP BY
 * and its grouping sets, the aggregates.  query_source.c finds the source in
 * it, query_check.c refuses what cannot be kept exact, query_text.c makes SQL
 * of it again.
 *
 * Keys and arguments of aggregates are evaluated for each row that is folded
 * in.  What is made of them after the aggregation (SELECT list, HAVING,
 * DISTINCT, ORDER BY) the view over the state computes when it is read.
 *
 * A query with grouping sets has one row of state for each set and group.  A
 * key of its own tells the sets apart: GROUPING() of all keys.  A query
 * without GROUP BY is one with the empty set alone.
 *
 * Nothing here runs a query; memory is the caller's current context.
 */
#include "incbatch.h"

#include "access/table.h"
#include "catalog/heap.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_agg.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "query.h"
#include "source.h"

/* ----------------------------------------------------------------
 *		The source
 * ----------------------------------------------------------------
 */

static void
check_source(PipelineQuery *pq)
{
	RangeTblEntry *rte = rt_fetch(pq->source_index, pq->source_query->rtable);

	pq->source_entry = rte;
	pq->source = rte->relid;
	ib_source_check(rte->relid, !rte->inh);
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
		strcmp(name, GROUPING_SET_COLUMN) == 0 ||
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

	if (get_typtype(type) == TYPTYPE_PSEUDO)
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("a pipeline cannot group by type %s", format_type_be(type)),
				errdetail("No column of a table, as the state table has one for each key, can be of this type."),
				errhint("Group by the fields of the row one by one."));
	if (!OidIsValid(lookup_type_cache(type, TYPECACHE_CMP_PROC)->cmp_proc))
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("a pipeline cannot group by type %s", format_type_be(type)),
				errdetail("The state table finds its groups by an index, and the type, or one within it, has no order."),
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
	ib_window_key_find(pq, key);
}

/* ----------------------------------------------------------------
 *		Grouping sets
 * ----------------------------------------------------------------
 */

/* GROUPING() of all keys in a set: the first key is the highest bit. */
static int
grouping_set_number(PipelineQuery *pq, List *refs)
{
	int			number = 0;
	ListCell   *lc;

	foreach(lc, pq->query->groupClause)
	{
		Index		ref = lfirst_node(SortGroupClause, lc)->tleSortGroupRef;

		number = number * 2 + (list_member_int(refs, ref) ? 0 : 1);
	}
	return number;
}

static void
add_grouping_set(PipelineQuery *pq, List *refs)
{
	GroupingSetRows *set;
	int			number = grouping_set_number(pq, refs);
	ListCell   *lc;
	ListCell   *lk;

	foreach(lc, pq->sets)
	{
		set = lfirst(lc);
		if (set->number == number)
		{
			set->copies++;
			return;
		}
	}
	set = palloc0(sizeof(GroupingSetRows));
	set->number = number;
	set->copies = 1;
	/* the keys are those of the GROUP BY, after the one that tells sets apart */
	lk = list_second_cell(pq->keys);
	foreach(lc, pq->query->groupClause)
	{
		if (list_member_int(refs, lfirst_node(SortGroupClause, lc)->tleSortGroupRef))
			set->keys = lappend(set->keys, lfirst(lk));
		lk = lnext(pq->keys, lk);
	}
	pq->sets = lappend(pq->sets, set);
}

/*
 * Keys that core may tell apart otherwise than by GROUPING: a constant shows
 * where it is not grouped, too, and of two equal keys it shows either.
 */
static void
check_keys_of_sets(PipelineQuery *pq)
{
	ListCell   *lc;
	ListCell   *lk;

	foreach(lc, pq->keys)
	{
		Expr	   *expr = ((KeyColumn *) lfirst(lc))->expr;

		if (expr == NULL)
			continue;
		if (!contain_vars_of_level((Node *) expr, 0))
			ib_refuse_clause("constants in GROUPING SETS, ROLLUP or CUBE",
							 "PostgreSQL shows the constant in the rows of the other sets, too.",
							 "Leave the constant out of GROUP BY.");
		for_each_cell(lk, pq->keys, lnext(pq->keys, lc))
		{
			if (equal(expr, ((KeyColumn *) lfirst(lk))->expr))
				ib_refuse_clause("the same expression twice in GROUPING SETS, ROLLUP or CUBE",
								 "Which of the two a column of the result shows is left open.",
								 "Name it once, and use it in several sets by the same name.");
		}
	}
}

/* The keys, and the sets of a query that has not just a plain GROUP BY. */
static void
add_keys(PipelineQuery *pq)
{
	Query	   *query = pq->query;
	bool		sets = query->groupingSets || query->groupClause == NIL;
	ListCell   *lc;

	if (sets)
	{
		KeyColumn  *key = palloc0(sizeof(KeyColumn));

		key->name = GROUPING_SET_COLUMN;
		key->type = ib_query_type(INT4OID, -1, InvalidOid);
		key->equals = ib_query_operator(Int4EqualOperator);
		key->number = 1;
		pq->keys = lappend(pq->keys, key);
	}
	foreach(lc, query->groupClause)
		add_key(pq, lfirst(lc));
	if (list_length(pq->keys) > (sets ? MAX_KEYS_OF_SETS : INDEX_MAX_KEYS))
		ib_refuse_clause(psprintf("more than %d keys", (sets ? MAX_KEYS_OF_SETS - 1 : INDEX_MAX_KEYS)),
						 "The state table finds its groups by an index, which has no more columns.",
						 "Group by fewer expressions, or by a row type that combines them.");
	if (!sets)
		return;
	check_keys_of_sets(pq);
	foreach(lc, query->groupingSets == NIL ? list_make1(NIL) :
			expand_grouping_sets(query->groupingSets, query->groupDistinct, -1))
		add_grouping_set(pq, lfirst(lc));
}

/* GROUPING(...) as SQL over the state: its bits are some of the set's. */
static void
add_grouping(PipelineQuery *pq, GroupingFunc *func)
{
	GroupingColumn *column = palloc0(sizeof(GroupingColumn));
	int			nkeys = list_length(pq->query->groupClause);
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, func->refs)
	{
		int			bit = nkeys;
		ListCell   *lg;

		foreach(lg, pq->query->groupClause)
		{
			bit--;
			if (lfirst_node(SortGroupClause, lg)->tleSortGroupRef == lfirst_int(lc))
				break;
		}
		appendStringInfo(&text, "%s(((%s >> %d) & 1) << %d)", text.len ? " | " : "",
						 GROUPING_SET_COLUMN, bit,
						 list_length(func->refs) - 1 - foreach_current_index(lc));
	}
	column->func = func;
	column->finish = pq->sets == NIL ? "0" : text.data;
	pq->groupings = lappend(pq->groupings, column);
}

/* ----------------------------------------------------------------
 *		The analysis
 * ----------------------------------------------------------------
 */

static bool
collect_aggregates(Node *node, PipelineQuery *pq)
{
	if (node == NULL)
		return false;
	if (IsA(node, SubLink) && contain_aggs_of_level(((SubLink *) node)->subselect, 1))
		ib_refuse_clause("an aggregate within a subquery",
						 "It aggregates the query outside of the subquery.",
						 "Write the aggregate outside of the subquery.");
	if (IsA(node, GroupingFunc))
	{
		add_grouping(pq, (GroupingFunc *) node);
		return false;
	}
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

/* Take the query of a view apart, or say why it cannot be a pipeline's. */
PipelineQuery *
ib_query_analyze(Oid view, bool track_lookups)
{
	PipelineQuery *pq = palloc0(sizeof(PipelineQuery));
	Query	   *query = ib_query_of_view(view);

	pq->query = query;
	if (track_lookups)
		ib_lookups_reduce_joins(query);
	ib_check_clauses(query);
	/* SELECT DISTINCT without aggregates groups by all that it shows */
	if (query->groupClause == NIL && query->groupingSets == NIL &&
		!query->hasAggs && query->havingQual == NULL)
	{
		query->groupClause = query->distinctClause;
		query->distinctClause = NIL;
	}
	ib_query_find_source(pq);
	check_source(pq);
	pq->relations = ib_check_everything(pq);
	pq->needed = ib_query_source_columns(pq);
	add_keys(pq);
	(void) collect_aggregates((Node *) query->targetList, pq);
	(void) collect_aggregates(query->havingQual, pq);
	if (pq->state == NIL)
		ib_aggregate_add(pq, NULL);
	if (track_lookups)
		ib_lookups_find(pq);
	return pq;
}

/* Is a LIMIT or OFFSET this constant, as it is after the parser? */
static bool
is_limit(Node *node, bool null)
{
	if (node != NULL && IsA(node, FuncExpr) && ((FuncExpr *) node)->funcid == F_INT8_INT4)
		node = linitial(((FuncExpr *) node)->args);
	return node != NULL && IsA(node, Const) && ((Const *) node)->constisnull == null &&
		(null || ((Const *) node)->constvalue == 0);
}

/*
 * LIMIT ALL and OFFSET 0 leave no row out.  The latter is there to keep the
 * planner from moving a condition into a subquery.
 */
static bool
drop_idle_limits(Node *node, void *unused)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		Query	   *query = (Query *) node;

		if (is_limit(query->limitCount, true))
			query->limitCount = NULL;
		if (is_limit(query->limitOffset, true) || is_limit(query->limitOffset, false))
			query->limitOffset = NULL;
		return query_tree_walker(query, drop_idle_limits, NULL, 0);
	}
	return expression_tree_walker(node, drop_idle_limits, NULL);
}

/* The tree of the query that a view stores, ours to change. */
Query *
ib_query_of_view(Oid view)
{
	Relation	rel = table_open(view, AccessShareLock);
	Query	   *query = copyObject(get_view_query(rel));

	table_close(rel, NoLock);
	ib_flatten_groups(query);
	(void) drop_idle_limits((Node *) query, NULL);
	return query;
}
