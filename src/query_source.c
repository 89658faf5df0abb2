/*
 * query_source.c
 *	  The source within a query: the way down to it, and what is read of it.
 *
 * The source is the first table of FROM, or the first table of the first
 * subquery or WITH query there, and so on downwards.  Each query on that way
 * must pass the source's rows on one by one: what it yields for a row depends
 * on this row and on lookups alone.  Then a change of weight w of the source
 * is so many changes of the same weight of what reaches the aggregation.
 *
 * The tree is brought into a form in which a batch can take the source's
 * place: WITH queries on the way become subqueries, joins lose their alias
 * (which would hide the weight of the batch), and columns of subqueries that
 * nobody reads become NULL, so that they need not be kept with a change.
 *
 * Nothing here reads a table.
 */
#include "incbatch.h"

#include "access/sysattr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/lsyscache.h"

#include "query.h"

/* ----------------------------------------------------------------
 *		Columns that are read
 * ----------------------------------------------------------------
 */

typedef struct ColumnsContext
{
	int			index;			/* of the relation, in the range table of */
	int			depth;			/* the query that many levels up */
	Bitmapset  *columns;		/* offset as pull_varattnos does it */
} ColumnsContext;

static bool
find_columns(Node *node, ColumnsContext *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;

		if (var->varno == context->index && var->varlevelsup == context->depth)
			context->columns =
				bms_add_member(context->columns,
							   var->varattno - FirstLowInvalidHeapAttributeNumber);
		return false;
	}
	if (IsA(node, Query))
	{
		bool		result;

		context->depth++;
		result = query_tree_walker((Query *) node, find_columns, context,
								   QTW_IGNORE_JOINALIASES);
		context->depth--;
		return result;
	}
	return expression_tree_walker(node, find_columns, context);
}

/* The columns that a query reads of one of its relations, wherever. */
static Bitmapset *
columns_read(Query *query, int index, const char *relation)
{
	ColumnsContext context = {.index = index};
	Bitmapset  *columns = NULL;
	int			member = -1;

	(void) query_tree_walker(query, find_columns, &context, QTW_IGNORE_JOINALIASES);
	while ((member = bms_next_member(context.columns, member)) >= 0)
	{
		int			attnum = member + FirstLowInvalidHeapAttributeNumber;

		if (attnum == 0)
			ib_refuse_clause(psprintf("references to whole rows of %s", relation),
							 "Only the columns that the query names are kept with a change.",
							 "Name the columns that the query needs.");
		if (attnum < 0)
			ib_refuse_clause("system columns of the source",
							 "A change does not carry them.", "Leave them out.");
		columns = bms_add_member(columns, attnum);
	}
	return columns;
}

/* Columns of a subquery that nobody reads need no columns of the source. */
static void
drop_unread(Query *query, const Bitmapset *read)
{
	ListCell   *lc;

	foreach(lc, query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, lc);

		if (!bms_is_member(entry->resno, read) && entry->ressortgroupref == 0 &&
			!expression_returns_set((Node *) entry->expr))
			entry->expr = (Expr *) makeNullConst(exprType((Node *) entry->expr),
												 exprTypmod((Node *) entry->expr),
												 exprCollation((Node *) entry->expr));
	}
}

/* ----------------------------------------------------------------
 *		The way down
 * ----------------------------------------------------------------
 */

/* The first relation of FROM, which no outer join may fill with NULLs. */
static int
first_relation(Query *query)
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
			ib_refuse_clause("RIGHT or FULL joins",
							 "A row of the source would also change rows that it is not part of.",
							 "Name the source first in FROM and use LEFT JOIN for its lookups.");
		node = join->larg;
	}
	return castNode(RangeTblRef, node)->rtindex;
}

static void
drop_join_aliases(Node *node)
{
	if (IsA(node, JoinExpr))
	{
		JoinExpr   *join = (JoinExpr *) node;

		join->alias = NULL;
		join->join_using_alias = NULL;
		drop_join_aliases(join->larg);
		drop_join_aliases(join->rarg);
	}
}

/* Columns are to be deparsed as what they are, not as a join's. */
static bool
forget_joined_names(Node *node, Index *depth)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;

		if (var->varlevelsup == *depth)
		{
			var->varnosyn = var->varno;
			var->varattnosyn = var->varattno;
		}
		return false;
	}
	if (IsA(node, Query))
	{
		(*depth)++;
		(void) query_tree_walker((Query *) node, forget_joined_names, depth,
								 QTW_IGNORE_JOINALIASES);
		(*depth)--;
		return false;
	}
	return expression_tree_walker(node, forget_joined_names, depth);
}

/*
 * Columns of joins stand for columns of what is joined, and a join's alias is
 * nobody's then.  (An alias hides the names below it, the batch's too.)
 */
static void
flatten_joins(Query *query)
{
	Index		depth = 0;
	ListCell   *lc;

	query->targetList = (List *)
		ib_flatten_join_aliases(query, (Node *) query->targetList);
	query->havingQual = ib_flatten_join_aliases(query, query->havingQual);
	query->jointree = (FromExpr *)
		ib_flatten_join_aliases(query, (Node *) query->jointree);
	foreach(lc, query->jointree->fromlist)
		drop_join_aliases(lfirst(lc));
	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		switch (rte->rtekind)
		{
			case RTE_JOIN:
				rte->alias = NULL;
				rte->join_using_alias = NULL;
				break;
			case RTE_SUBQUERY:
				rte->subquery = (Query *)
					ib_flatten_join_aliases(query, (Node *) rte->subquery);
				break;
			default:
				rte->functions = (List *)
					ib_flatten_join_aliases(query, (Node *) rte->functions);
				rte->tablefunc = (TableFunc *)
					ib_flatten_join_aliases(query, (Node *) rte->tablefunc);
				rte->values_lists = (List *)
					ib_flatten_join_aliases(query, (Node *) rte->values_lists);
				break;
		}
	}
	(void) query_tree_walker(query, forget_joined_names, &depth, QTW_IGNORE_JOINALIASES);
}

/*
 * Make a reference to a WITH query a subquery; "queries" are the ones that it
 * is in, innermost first.
 */
static void
inline_with(RangeTblEntry *rte, List *queries)
{
	Query	   *owner = list_nth(queries, rte->ctelevelsup);
	CommonTableExpr *cte = NULL;
	ListCell   *lc;

	foreach(lc, owner->cteList)
	{
		cte = lfirst(lc);
		if (strcmp(cte->ctename, rte->ctename) == 0)
			break;
	}
	if (lc == NULL)
		elog(ERROR, "could not find WITH query \"%s\"", rte->ctename);
	if (cte->cterecursive)
		ib_refuse_clause("WITH RECURSIVE over the source",
						 "A change of one row could change what all others lead to.",
						 "Use WITH RECURSIVE over lookups only.");
	if (cte->cterefcount != 1)
		ib_refuse_clause("its source twice",
						 psprintf("WITH query \"%s\" reads the source and is used %d times: a change of the source would have to be joined with itself.",
								  cte->ctename, cte->cterefcount),
						 "Use it once; join other tables as lookups only.");

	rte->rtekind = RTE_SUBQUERY;
	rte->subquery = (Query *) copyObject(cte->ctequery);
	if (rte->ctelevelsup > 0)
		IncrementVarSublevelsUp((Node *) rte->subquery, rte->ctelevelsup, 1);
	rte->alias = makeAlias(rte->eref->aliasname, copyObject(rte->eref->colnames));
	rte->ctename = NULL;
	rte->ctelevelsup = 0;
	rte->coltypes = rte->coltypmods = rte->colcollations = NIL;
	owner->cteList = list_delete_ptr(owner->cteList, cte);
}

/* A query between the source and the aggregates passes rows on one by one. */
static void
check_subquery(Query *query)
{
	const char *what = NULL;

	if (query->setOperations)
		what = "UNION, INTERSECT or EXCEPT";
	else if (query->hasAggs || query->groupClause || query->groupingSets ||
			 query->havingQual)
		what = "aggregates or GROUP BY";
	else if (query->distinctClause)
		what = "DISTINCT";
	else if (query->hasWindowFuncs)
		what = "window functions";
	else if (query->limitCount || query->limitOffset)
		what = "LIMIT or OFFSET";
	else if (query->rowMarks)
		what = "FOR UPDATE or FOR SHARE";
	if (what != NULL)
		ib_refuse_clause(psprintf("%s in a subquery over the source", what),
						 "A change of one row could change what the subquery makes of others.",
						 "Let the subquery pass rows on one by one (expressions, WHERE, joins), and aggregate outside it.");
}

/* Find the source below the first of "queries". */
static void
descend(PipelineQuery *pq, List *queries)
{
	Query	   *query = linitial(queries);
	int			index;
	RangeTblEntry *rte;

	check_stack_depth();
	flatten_joins(query);
	index = first_relation(query);
	rte = rt_fetch(index, query->rtable);
	pq->source_path = lappend_int(pq->source_path, index);
	if (rte->rtekind == RTE_CTE)
		inline_with(rte, queries);
	if (rte->rtekind == RTE_SUBQUERY)
	{
		check_subquery(rte->subquery);
		drop_unread(rte->subquery, columns_read(query, index, "a subquery over the source"));
		descend(pq, lcons(rte->subquery, queries));
		return;
	}
	if (rte->rtekind != RTE_RELATION)
		ib_refuse_clause("a source that is not a table",
						 "The first entry of FROM is the source, whose changes the pipeline follows.",
						 "Name the source table first in FROM.");
	pq->source_query = query;
	pq->source_index = index;
}

/* Find the source, and bring the query into the form described above. */
void
ib_query_find_source(PipelineQuery *pq)
{
	descend(pq, list_make1(pq->query));
}

/* Which columns of the source the query reads. */
Bitmapset *
ib_query_source_columns(PipelineQuery *pq)
{
	return columns_read(pq->source_query, pq->source_index, "the source");
}

typedef struct LowerContext
{
	Query	   *query;			/* the subquery below, and */
	int			index;			/* its place in the query's range table */
} LowerContext;

static Node *
lower(Node *node, LowerContext *context)
{
	Var		   *var = (Var *) node;

	if (node == NULL || IsA(node, Query))
		return node;
	if (!IsA(node, Var))
		return expression_tree_mutator(node, lower, context);
	if (var->varlevelsup == 0 && var->varno == context->index)
		return copyObject((Node *) list_nth_node(TargetEntry, context->query->targetList,
												 var->varattno - 1)->expr);
	/* another relation's: there is no such number below */
	var = copyObject(var);
	var->varno = 0;
	return (Node *) var;
}

/*
 * An expression of the query as one over the source, through the subqueries.
 * Columns of relations outside of the source's subquery are of relation 0.
 */
Node *
ib_query_at_source(PipelineQuery *pq, Node *expr)
{
	Query	   *query = pq->query;

	for (int level = 0; level + 1 < list_length(pq->source_path); level++)
	{
		LowerContext context = {.index = list_nth_int(pq->source_path, level)};

		query = context.query = rt_fetch(context.index, query->rtable)->subquery;
		expr = lower(expr, &context);
	}
	return expr;
}

/*
 * Let "column", an expression over the source within "query" (a copy of the
 * pipeline's, "level" levels down), be seen at its top: as a column by this
 * name of each subquery on the way.  Returns what the top calls it.
 */
static Expr *
expose(PipelineQuery *pq, Query *query, int level, Expr *column, char *name)
{
	int			index = list_nth_int(pq->source_path, level);
	RangeTblEntry *rte = rt_fetch(index, query->rtable);
	List	   *targets;
	AttrNumber	attnum;
	ListCell   *lc;

	if (level + 1 == list_length(pq->source_path))
		return column;
	column = expose(pq, rte->subquery, level + 1, column, name);

	attnum = list_length(rte->eref->colnames) + 1;
	targets = rte->subquery->targetList;
	for_each_from(lc, targets, attnum - 1)
		lfirst_node(TargetEntry, lc)->resno++;
	rte->subquery->targetList =
		list_insert_nth(targets, attnum - 1, makeTargetEntry(column, attnum, name, false));
	rte->eref->colnames = lappend(rte->eref->colnames, makeString(name));
	if (rte->alias && rte->alias->colnames)
		rte->alias->colnames = copyObject(rte->eref->colnames);
	return (Expr *) makeVar(index, attnum, exprType((Node *) column),
							exprTypmod((Node *) column),
							exprCollation((Node *) column), 0);
}

Expr *
ib_query_expose(PipelineQuery *pq, Query *query, Expr *column, char *name)
{
	return expose(pq, query, 0, column, name);
}

/* The query that the source is in, within a copy of the pipeline's. */
Query *
ib_query_source_query(PipelineQuery *pq, Query *query)
{
	for (int level = 0; level + 1 < list_length(pq->source_path); level++)
		query = rt_fetch(list_nth_int(pq->source_path, level), query->rtable)->subquery;
	return query;
}
