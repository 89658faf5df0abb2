/*
 * query_check.c
 *	  What a pipeline's query may not have, each with the reason and a way out.
 *
 * Three kinds are refused: what depends on more than the rows (the time, the
 * session, chance); what reads the source a second time, so that a change
 * would have to be joined with itself; and results that ties leave open
 * (query_order.c).
 *
 * What looks at the whole tree looks into subqueries, WITH queries and the
 * views that the query reads, too.
 */
#include "incbatch.h"

#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"

#include "query.h"

/*
 * Stable functions of core depend on settings, which a pipeline stores, but
 * for those whose names begin like these: they depend on the time, the
 * session or the catalog.
 */
static const char *const unstable_prefixes[] = {
	"aclitemout", "age", "col_description", "current_", "database_to_xml",
	"enum_first", "enum_last", "enum_range", "format_type",
	"get_current_ts_config", "getpgusername", "has_", "inet_client_",
	"inet_server_", "mxid_age", "now", "obj_description", "oidvectortypes",
	"pg_", "reg", "row_security_active", "schema_to_xml", "session_user",
	"shobj_description", "statement_timestamp", "table_to_xml", "to_reg",
	"transaction_timestamp", "ts_debug", "ts_parse", "ts_token_type", "txid_",
	"version",
};

/* A tree being looked at. */
typedef struct CheckContext
{
	PipelineQuery *pq;
	Oid			view;			/* whose query it is; InvalidOid: the
								 * pipeline's */
	SubLinkType sublink;		/* of a query right below a SubLink */
	bool		ordered;		/* the rows come in an order of their own */
	List	   *relations;		/* OIDs of all that it reads */
} CheckContext;

void
ib_refuse_clause(const char *what, const char *detail, const char *hint)
{
	ereport(ERROR,
			errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			errmsg("a pipeline's query cannot have %s", what),
			errdetail("%s", detail),
			errhint("%s", hint));
}

/* ----------------------------------------------------------------
 *		Clauses of the query itself
 * ----------------------------------------------------------------
 */

void
ib_check_clauses(Query *query)
{
	bool		grouped = query->groupClause || query->groupingSets ||
		query->hasAggs || query->havingQual;

	if (query->setOperations)
		ib_refuse_clause("UNION, INTERSECT or EXCEPT",
						 "A pipeline aggregates one source.",
						 "Create one pipeline for each branch and combine their relations in a view.");
	if (query->rowMarks)
		ib_refuse_clause("FOR UPDATE or FOR SHARE", "A pipeline locks no rows.",
						 "Leave the locking clause out.");
	if (!grouped && query->distinctClause == NIL)
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("a pipeline's query must aggregate"),
				errdetail("It has no aggregate, GROUP BY or DISTINCT: its result would be a copy of the source."),
				errhint("Group by a window of time, for example date_trunc('hour', ...)."));
	if (query->hasDistinctOn)
		ib_refuse_clause("DISTINCT ON",
						 "Which of several rows it shows is not in the groups.",
						 "Use GROUP BY with min or max, or DISTINCT ON in a query on the pipeline's relation.");
	if (query->hasWindowFuncs && !grouped)
		ib_refuse_clause("window functions over rows that are not grouped",
						 "A new row can change the result of every other row.",
						 "Group the rows, or use window functions in a query on the pipeline's relation.");
	ib_check_windows(query);
	if (query->limitOffset ||
		(query->limitCount && query->limitOption != LIMIT_OPTION_WITH_TIES))
		ib_refuse_clause("LIMIT or OFFSET",
						 "Which of several groups that are equal in ORDER BY it takes is left open.",
						 "Use FETCH FIRST ... ROWS WITH TIES, or LIMIT in the query on the pipeline's relation.");
	if (query->constraintDeps)
		ib_refuse_clause("columns that are neither grouped nor aggregated",
						 "They are accepted in a query because the primary key is grouped, but a pipeline needs every key of the result.",
						 "Add these columns to GROUP BY.");
}

/* ----------------------------------------------------------------
 *		Functions whose result changes
 * ----------------------------------------------------------------
 */

static bool
is_unstable(Oid funcid)
{
	char	   *name = get_func_name(funcid);

	/* these take the offset that the time zone has today */
	if (funcid == F_TIMETZ_IN || funcid == F_TIMETZ_TIME || funcid == F_TIMEZONE_TEXT_TIMETZ)
		return true;
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
	Oid			view = ((CheckContext *) context)->view;
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
			OidIsValid(view) ?
			errdetail("View \"%s\", which the query reads, calls it: its result can differ between the moment a row is folded in and the moment the batch query would run.",
					  get_rel_name(view)) :
			errdetail("Its result can differ between the moment a row is folded in and the moment the batch query would run."),
			errhint(volatility == PROVOLATILE_STABLE && !is_unstable(funcid) ?
					"If its result depends on its arguments alone, declare it IMMUTABLE." :
					"Filter by time or by session in the query on the pipeline's relation instead."));
	return true;
}

static void
refuse_changing_expression(Node *node, CheckContext *context)
{
	if (IsA(node, SQLValueFunction))
		ib_refuse_clause("CURRENT_DATE, CURRENT_TIMESTAMP, CURRENT_USER and the like",
						 "Their value differs between the moment a row is folded in and the moment the batch query would run.",
						 "Filter by time or by session in the query on the pipeline's relation instead.");
	if (IsA(node, NextValueExpr))
		ib_refuse_clause("nextval", "Its value differs at each call.", "Leave it out.");
	if (IsA(node, FuncExpr) && ib_is_window_function(((FuncExpr *) node)->funcid))
		ib_check_window_call((FuncExpr *) node);
	if (IsA(node, Aggref))
		ib_aggregate_check((Aggref *) node, context->ordered);
	else
		(void) check_functions_in_node(node, refuse_changing_function, context);
}

/* ----------------------------------------------------------------
 *		Relations
 * ----------------------------------------------------------------
 */

static bool check_tree(Node *node, CheckContext *context);

/* Whether reading a table reads another: the same, a parent or a child. */
static bool
reads_table(Oid relid, Oid table)
{
	return relid == table ||
		list_member_oid(find_all_inheritors(relid, NoLock, NULL), table) ||
		list_member_oid(find_all_inheritors(table, NoLock, NULL), relid);
}

static void
check_view(Oid view, CheckContext *outer)
{
	CheckContext context = {.pq = outer->pq, .view = view, .sublink = EXPR_SUBLINK, .relations = outer->relations};

	check_stack_depth();
	(void) check_tree((Node *) ib_query_of_view(view), &context);
	outer->relations = context.relations;
}

static void
check_relation(RangeTblEntry *rte, CheckContext *context)
{
	PipelineQuery *pq = context->pq;

	if (rte->tablesample)
		ib_refuse_clause("TABLESAMPLE", "Its rows differ at each run.", "Leave it out.");
	if (rte->rtekind == RTE_CTE)
	{
		if (strncmp(rte->ctename, RESERVED_PREFIX, strlen(RESERVED_PREFIX)) == 0)
			ib_refuse_clause(psprintf("a WITH query called \"%s\"", rte->ctename),
							 "Names that begin with " RESERVED_PREFIX " are the worker's own.",
							 "Give it another name.");
		return;
	}
	/* a view's tree names the view itself, outside of FROM */
	if (rte->rtekind != RTE_RELATION || !rte->inFromCl)
		return;
	context->relations = list_append_unique_oid(context->relations, rte->relid);
	if (rte == pq->source_entry)
		return;
	if (reads_table(rte->relid, pq->source))
		ib_refuse_clause("its source twice",
						 OidIsValid(context->view) ?
						 psprintf("View \"%s\" reads it, too: a change of the source would have to be joined with itself.",
								  get_rel_name(context->view)) :
						 "A change of the source would have to be joined with itself.",
						 "Join other tables as lookups only.");
	if (rte->relkind == RELKIND_VIEW)
		check_view(rte->relid, context);
}

static void
check_query(Query *query, CheckContext *context)
{
	SubLinkType sublink = context->sublink;
	bool		ordered = context->ordered;

	context->sublink = EXPR_SUBLINK;
	context->ordered = ib_query_is_ordered(query);
	if (query->rowMarks)
		ib_refuse_clause("FOR UPDATE or FOR SHARE", "A pipeline locks no rows.",
						 "Leave the locking clause out.");
	if (query != context->pq->query)
		ib_check_lookup_order(query, sublink);
	(void) query_tree_walker(query, check_tree, context, QTW_EXAMINE_RTES_BEFORE);
	context->ordered = ordered;
}

static bool
check_tree(Node *node, CheckContext *context)
{
	if (node == NULL)
		return false;
	CHECK_FOR_INTERRUPTS();
	if (IsA(node, RangeTblEntry))
	{
		check_relation((RangeTblEntry *) node, context);
		return false;			/* the walker goes into it */
	}
	if (IsA(node, Query))
	{
		check_query((Query *) node, context);
		return false;
	}
	if (IsA(node, SubLink))
		context->sublink = ((SubLink *) node)->subLinkType;
	refuse_changing_expression(node, context);
	return expression_tree_walker(node, check_tree, context);
}

/*
 * Check all that the query reads and calls; the source is known.  Returns the
 * OIDs of the tables and views that it reads, those below views too.
 */
List *
ib_check_everything(PipelineQuery *pq)
{
	CheckContext context = {.pq = pq, .sublink = EXPR_SUBLINK};

	(void) check_tree((Node *) pq->query, &context);
	return context.relations;
}
