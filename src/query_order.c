/*
 * query_order.c
 *	  What depends on the order of rows, in a query that does not say it.
 *
 * Rows that are equal in ORDER BY come in any order.  That is of no matter to
 * most of a query, but LIMIT, DISTINCT ON, window functions and aggregates such
 * as array_agg can give another result each time: of a lookup at each batch.
 * It is of no matter to them either, if rows that tie are alike: as told by
 * what the query shows of them, by its GROUP BY or by a primary key.
 *
 * Values that are equal but differ in form pass for alike here.
 *
 * Not here: the order of rows within an aggregate of the pipeline's own
 * (aggregate.c).
 */
#include "incbatch.h"

#include "access/sysattr.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_namespace.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/typcache.h"

#include "query.h"

/* The expressions of some clauses, in the target list of a query. */
static List *
expressions(Query *query, List *clauses)
{
	return get_sortgrouplist_exprs(clauses, query->targetList);
}

/* Does an expression read of a row more than these expressions? */
static bool
reads_more(Node *node, List *known)
{
	if (node == NULL || list_member(known, node))
		return false;
	if (IsA(node, Var))
		return ((Var *) node)->varlevelsup == 0;
	if (IsA(node, Aggref) || IsA(node, GroupingFunc) || IsA(node, WindowFunc))
		return true;
	if (IsA(node, SubLink) || IsA(node, Query))
		return contain_vars_of_level(node, IsA(node, Query) ? 1 : 0);
	if ((IsA(node, FuncExpr) && ((FuncExpr *) node)->funcretset) ||
		(IsA(node, OpExpr) && ((OpExpr *) node)->opretset))
		return true;
	return expression_tree_walker(node, reads_more, known);
}

static Oid
order_of(Oid type)
{
	return lookup_type_cache(type, TYPECACHE_BTREE_OPFAMILY)->btree_opf;
}

/*
 * The column of relation number "index" that an expression is, or 0; also as
 * another type to which the same values are equal.
 */
static AttrNumber
column_of(Node *node, int index)
{
	Var		   *var = (Var *) node;

	while (IsA(var, RelabelType))
	{
		RelabelType *cast = (RelabelType *) var;

		if (order_of(cast->resulttype) != order_of(exprType((Node *) cast->arg)))
			return InvalidAttrNumber;
		var = (Var *) cast->arg;
	}
	return IsA(var, Var) && var->varlevelsup == 0 && var->varno == index ?
		var->varattno : InvalidAttrNumber;
}

/* The column of a relation that a condition makes equal to what is no row's, or 0. */
static AttrNumber
fixed_column(Node *condition, int index)
{
	OpExpr	   *op = (OpExpr *) condition;

	if (!IsA(op, OpExpr) || list_length(op->args) != 2 ||
		!op_mergejoinable(op->opno, exprType(linitial(op->args))) ||
		(OidIsValid(op->inputcollid) && !get_collation_isdeterministic(op->inputcollid)))
		return InvalidAttrNumber;
	if (!contain_vars_of_level(lsecond(op->args), 0))
		return column_of(linitial(op->args), index);
	if (!contain_vars_of_level(linitial(op->args), 0))
		return column_of(lsecond(op->args), index);
	return InvalidAttrNumber;
}

/* The one entry of FROM that the rows of a query without GROUP BY are of, or 0. */
static int
only_entry(Query *query)
{
	List	   *from = query->jointree->fromlist;

	if (list_length(from) != 1 || !IsA(linitial(from), RangeTblRef) ||
		query->groupClause || query->groupingSets)
		return 0;
	return linitial_node(RangeTblRef, from)->rtindex;
}

/*
 * Does a query of one table have its primary key among these expressions, or
 * one of a function its ordinality?  A column that WHERE compares with a value
 * from outside counts as one of them.
 */
static bool
has_primary_key(Query *query, List *known)
{
	int			index = only_entry(query);
	RangeTblEntry *rte;
	Bitmapset  *key;
	Oid			constraint;
	ListCell   *lc;

	if (index == 0 || query->hasAggs || query->hasTargetSRFs)
		return false;
	rte = rt_fetch(index, query->rtable);
	if (rte->rtekind == RTE_FUNCTION && rte->funcordinality)
	{
		foreach(lc, known)
		{
			if (column_of(lfirst(lc), index) == list_length(rte->eref->colnames))
				return true;
		}
		return false;
	}
	if (rte->rtekind != RTE_RELATION ||
		(rte->relkind == RELKIND_RELATION && rte->inh && has_subclass(rte->relid)))
		return false;
	key = get_primary_key_attnos(rte->relid, false, &constraint);
	if (key == NULL)
		return false;
	foreach(lc, known)
		key = bms_del_member(key, column_of(lfirst(lc), index) - FirstLowInvalidHeapAttributeNumber);
	foreach(lc, make_ands_implicit((Expr *) query->jointree->quals))
		key = bms_del_member(key, fixed_column(lfirst(lc), index) - FirstLowInvalidHeapAttributeNumber);
	return bms_is_empty(key);
}

/* Are all groups of a query, which may be one, told apart by these expressions? */
static bool
has_group_by(Query *query, List *known)
{
	/* rows of two sets can have the same keys */
	return query->groupingSets == NIL &&
		(query->groupClause || query->hasAggs || query->havingQual) &&
		list_difference(expressions(query, query->groupClause), known) == NIL;
}

/* Are rows of a query alike, if they are equal in these expressions? */
static bool
ties_are_alike(Query *query, List *known)
{
	return !reads_more((Node *) query->targetList, known) ||
		has_group_by(query, known) || has_primary_key(query, known);
}

/* Do a query's rows come in the order in which a function or VALUES makes them? */
bool
ib_query_is_ordered(Query *query)
{
	int			index = only_entry(query);
	RangeTblEntry *rte = index == 0 ? NULL : rt_fetch(index, query->rtable);

	return rte != NULL && (rte->rtekind == RTE_FUNCTION || rte->rtekind == RTE_VALUES ||
						   rte->rtekind == RTE_TABLEFUNC);
}

/* ----------------------------------------------------------------
 *		Window functions
 * ----------------------------------------------------------------
 */

/* Rows that are equal in the window's order get the same result, all of them. */
static bool
is_tie_proof(WindowFunc *func, WindowClause *window)
{
	static const Oid ranks[] = {F_RANK_, F_DENSE_RANK_, F_PERCENT_RANK_, F_CUME_DIST_};
	static const char *const aggregates[] = {
		"avg", "bool_and", "bool_or", "count", "every", "max", "min", "sum"
	};

	for (int i = 0; i < lengthof(ranks); i++)
	{
		if (func->winfnoid == ranks[i])
			return true;
	}
	if ((window->frameOptions & (FRAMEOPTION_ROWS | FRAMEOPTION_EXCLUSION)) != 0 ||
		get_func_namespace(func->winfnoid) != PG_CATALOG_NAMESPACE)
		return false;
	for (int i = 0; i < lengthof(aggregates); i++)
	{
		if (strcmp(get_func_name(func->winfnoid), aggregates[i]) == 0)
			return true;
	}
	return false;
}

/* The window functions of one query, not of those within it. */
static bool
refuse_open_windows(Node *node, Query *query)
{
	WindowFunc *func = (WindowFunc *) node;
	WindowClause *window;
	List	   *known;

	if (node == NULL || IsA(node, Query))
		return false;
	if (!IsA(node, WindowFunc))
		return expression_tree_walker(node, refuse_open_windows, query);

	window = list_nth_node(WindowClause, query->windowClause, func->winref - 1);
	known = list_concat(expressions(query, window->partitionClause),
						expressions(query, window->orderClause));
	if (!is_tie_proof(func, window) && !has_group_by(query, known) &&
		!has_primary_key(query, known))
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("a pipeline's query cannot call window function %s in this order",
					   format_procedure(func->winfnoid)),
				errdetail("Rows that are equal in PARTITION BY and ORDER BY come in any order, and so its result for them is left open."),
				errhint("Add all columns of GROUP BY to the window's ORDER BY, or in a lookup those of its primary key."));
	return false;
}

/*
 * Refuse window functions that ties leave open: over the groups, computed when
 * the pipeline is queried, and within lookups.
 */
void
ib_check_windows(Query *query)
{
	if (query->hasWindowFuncs)
		(void) refuse_open_windows((Node *) query->targetList, query);
}

/* ----------------------------------------------------------------
 *		LIMIT and DISTINCT ON in a lookup
 * ----------------------------------------------------------------
 */

static void
refuse_choice(const char *what)
{
	ib_refuse_clause(what,
					 "Which of several rows of the lookup that are equal in ORDER BY it takes is left open, and could be another one at each batch.",
					 "Add to ORDER BY all the columns that the subquery shows, or those of the table's primary key.");
}

/* Of EXISTS only whether the subquery has rows is asked, of ARRAY their order. */
void
ib_check_lookup_order(Query *query, SubLinkType sublink)
{
	List	   *sorted = expressions(query, query->sortClause);
	bool		with_ties = query->limitOption == LIMIT_OPTION_WITH_TIES && !query->limitOffset;

	ib_check_windows(query);
	if (sublink == EXISTS_SUBLINK)
		return;
	if (sublink == ARRAY_SUBLINK && (query->jointree->fromlist || query->setOperations) &&
		!ib_query_is_ordered(query) && !ties_are_alike(query, sorted))
		refuse_choice("ARRAY (SELECT ...) of a lookup without a complete ORDER BY");
	if ((query->limitCount || query->limitOffset) && !with_ties &&
		!ties_are_alike(query, sorted))
		refuse_choice("LIMIT or OFFSET in a lookup without a complete ORDER BY");
	if (query->hasDistinctOn &&
		!ties_are_alike(query, list_concat(sorted, expressions(query, query->distinctClause))))
		refuse_choice("DISTINCT ON in a lookup without a complete ORDER BY");
}
