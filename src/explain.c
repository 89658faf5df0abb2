/*
 * explain.c
 *	  explain_pipeline: each transform of a pipeline's query, what kind it is,
 *	  how it is kept up to date and what it costs.
 *
 * The rows are made from the query as query.c and aggregate.c took it apart,
 * so they say what the worker does; numbers come from the state table, read
 * as its owner.
 *
 * Of recompute a row says what it reads of the source, and by which index, or
 * which index to create.  That is advice: the planner decides, at each run.
 */
#include "incbatch.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/typcache.h"

#include "functions.h"
#include "path.h"
#include "query.h"
#include "shmem.h"

PG_FUNCTION_INFO_V1(ib_explain_pipeline);

#define STATELESS "stateless"
#define STATEFUL "stateful"
#define DELTA "delta"
#define RECOMPUTE "recompute"

/* The columns of incbatch.explain_pipeline */
enum
{
	TRANSFORM, KIND, STRATEGY, KEY_CARDINALITY, WINDOW, WATERMARK, STATE_BYTES,
	DETAIL, NCOLUMNS
};

typedef struct Explanation
{
	ReturnSetInfo *rsinfo;
	PipelineQuery *pq;
	Query	   *query;			/* it, or the subquery that is being explained */
	int			source;			/* where the source is, or its subquery, in
								 * there */
	List	   *rtable;			/* for expressions: that of "query", without
								 * joins */
	Oid			state_relation;
	char	   *state_table;	/* its name */
	int64		groups;			/* its rows */
	char	   *watermark;
	KeyColumn  *window;			/* or NULL */
	char	   *reading;		/* what recompute reads, by which index */
} Explanation;

/* ----------------------------------------------------------------
 *		Rows and their numbers
 * ----------------------------------------------------------------
 */

/* Evaluate SQL over the state table that yields a bigint. */
static int64
measure(Explanation *explain, const char *expr)
{
	bool		isnull;
	Datum		value;

	CHECK_FOR_INTERRUPTS();
	if (SPI_execute(psprintf("SELECT (%s)::pg_catalog.int8 FROM %s s", expr, explain->state_table),
					true, 0) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not measure the state");
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	return isnull ? 0 : DatumGetInt64(value);
}

/* keys < 0: the transform has no state. */
static void
put_row(Explanation *explain, char *transform, const char *strategy,
		int64 keys, int64 bytes, char *detail)
{
	bool		stateful = keys >= 0;
	Datum		values[NCOLUMNS] = {0};
	bool		nulls[NCOLUMNS] = {false};

	values[TRANSFORM] = CStringGetTextDatum(transform);
	values[KIND] = CStringGetTextDatum(stateful ? STATEFUL : STATELESS);
	values[STRATEGY] = CStringGetTextDatum(strategy);
	nulls[KEY_CARDINALITY] = !stateful;
	values[KEY_CARDINALITY] = Int64GetDatum(keys);
	nulls[WINDOW] = nulls[WATERMARK] = !stateful || explain->window == NULL;
	if (!nulls[WINDOW])
	{
		values[WINDOW] = CStringGetTextDatum(explain->window->length);
		values[WATERMARK] = CStringGetTextDatum(explain->watermark);
	}
	values[STATE_BYTES] = Int64GetDatum(bytes);
	values[DETAIL] = CStringGetTextDatum(detail);
	tuplestore_putvalues(explain->rsinfo->setResult, explain->rsinfo->setDesc,
						 values, nulls);
}

/* An expression of the query, as SQL */
static char *
expression(Explanation *explain, Node *node)
{
	Query	   *windows = NULL;

	if (contain_windowfuncs(node))
	{
		windows = copyObject(explain->query);
		windows->targetList = (List *)
			ib_flatten_join_aliases(windows, (Node *) windows->targetList);
	}
	return ib_query_expression(explain->rtable, windows,
							   ib_flatten_join_aliases(explain->query, copyObject(node)));
}

/*
 * A range table by which single expressions can be deparsed: without joins, and
 * never of one entry only, so that the deparser says whose each column is.
 */
static List *
rtable_of_expressions(Query *query)
{
	List	   *rtable = copyObject(query->rtable);
	RangeTblEntry *other = makeNode(RangeTblEntry);
	ListCell   *lc;

	foreach(lc, rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (rte->rtekind == RTE_JOIN)
		{
			rte->rtekind = RTE_RESULT;
			rte->alias = NULL;
			rte->eref = makeAlias("*RESULT*", NIL);
		}
	}
	other->rtekind = RTE_RESULT;
	other->eref = makeAlias("*RESULT*", NIL);
	return lappend(rtable, other);
}

/* ----------------------------------------------------------------
 *		Indexes
 * ----------------------------------------------------------------
 */

/* What an index could begin with to be of use: columns, or expressions */
typedef struct Wanted
{
	Bitmapset  *columns;
	List	   *exprs;			/* over range table entry 1 */
} Wanted;

static bool
index_serves(Relation rel, Relation index, const Wanted *wanted)
{
	AttrNumber	first = index->rd_index->indkey.values[0];
	Oid			type;

	if (index->rd_rel->relam != BTREE_AM_OID || !index->rd_index->indisvalid ||
		RelationGetIndexPredicate(index) != NIL)
		return false;
	if (first == 0)
		return list_member(wanted->exprs, linitial(RelationGetIndexExpressions(index)));
	if (!bms_is_member(first, wanted->columns))
		return false;
	type = TupleDescAttr(RelationGetDescr(rel), first - 1)->atttypid;
	return index->rd_opfamily[0] == lookup_type_cache(type, TYPECACHE_BTREE_OPFAMILY)->btree_opf;
}

/* An index of a table that begins with one of the columns wanted, or NULL */
static char *
find_index(Oid relid, const Wanted *wanted)
{
	Relation	rel = table_open(relid, AccessShareLock);
	char	   *name = NULL;
	ListCell   *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (name == NULL && index_serves(rel, index, wanted))
			name = pstrdup(RelationGetRelationName(index));
		index_close(index, NoLock);
	}
	table_close(rel, NoLock);
	return name;
}

/* Is a table partitioned by a column wanted? */
static bool
prunes_partitions(Oid relid, const Wanted *wanted)
{
	Relation	rel = table_open(relid, AccessShareLock);
	PartitionKey key = RelationGetPartitionKey(rel);
	bool		prunes = key != NULL && key->partattrs[0] != 0 &&
		bms_is_member(key->partattrs[0], wanted->columns);

	table_close(rel, NoLock);
	return prunes;
}

static void
append_item(StringInfo text, const char *item)
{
	appendStringInfo(text, "%s%s", text->len ? ", " : "", item);
}

/* What recompute reads of the source, and by which index */
static char *
describe_reading(PipelineQuery *pq)
{
	List	   *source = list_make1(copyObject(pq->source_entry));
	char	   *name = ib_query_relation_name(pq->source);
	Wanted		wanted = {0};
	StringInfoData columns;
	char	   *time = NULL;
	char	   *index;
	ListCell   *lc;

	initStringInfo(&columns);
	foreach(lc, pq->keys)
	{
		KeyColumn  *key = lfirst(lc);
		Node	   *expr = ib_query_at_source(pq, ib_flatten_join_aliases(pq->query,
																		  copyObject((Node *) key->expr)));
		Bitmapset  *tables = pull_varnos(NULL, expr);
		Var		   *column = key->time ? key->time : (Var *) expr;

		if (key->time == NULL && !bms_equal(tables, bms_make_singleton(pq->source_index)))
			continue;
		if (IsA(column, Var) && column->varattno > 0)
		{
			wanted.columns = bms_add_member(wanted.columns, column->varattno);
			if (key->time != NULL)
				time = pstrdup(quote_identifier(get_attname(pq->source, column->varattno, false)));
			else
				append_item(&columns, quote_identifier(get_attname(pq->source, column->varattno, false)));
		}
		else if (!contain_mutable_functions(expr))
		{
			ChangeVarNodes(expr, pq->source_index, 1, 0);
			wanted.exprs = lappend(wanted.exprs, expr);
			append_item(&columns, psprintf("(%s)", ib_query_expression(source, NULL, expr)));
		}
	}
	/* equality first, then the range */
	if (time != NULL)
		append_item(&columns, time);

	if (columns.len == 0)
		return psprintf("reads all of %s, for no key is of its columns", name);
	index = find_index(pq->source, &wanted);
	return psprintf("reads %s by %s%s%s: %s", name, columns.data,
					pq->sets ? ", whole for a set without these" : "",
					prunes_partitions(pq->source, &wanted) ? " in the partitions that these lead to" : "",
					index ? psprintf("index %s serves it", index) :
					psprintf("no index serves it, CREATE INDEX ON %s (%s)", name, columns.data));
}

/* ----------------------------------------------------------------
 *		Transforms
 * ----------------------------------------------------------------
 */

/* The column of a relation that an operand is, or 0 */
static AttrNumber
operand_column(Node *operand, int relation)
{
	Var		   *var = (Var *) strip_implicit_coercions(operand);

	if (IsA(var, RelabelType))
		var = (Var *) ((RelabelType *) var)->arg;
	return IsA(var, Var) && var->varno == relation ? Max(var->varattno, 0) : 0;
}

/*
 * Columns of a lookup that an equality in a condition compares, and those of
 * the source that it compares them with
 */
static void
find_joined_columns(Node *quals, int lookup, int source, Wanted *wanted,
					Wanted *compared)
{
	ListCell   *lc;

	foreach(lc, make_ands_implicit((Expr *) quals))
	{
		OpExpr	   *op = lfirst(lc);
		ListCell   *la;

		if (!IsA(op, OpExpr) || !op_mergejoinable(op->opno, exprType(linitial(op->args))))
			continue;
		foreach(la, op->args)
		{
			Node	   *other = la == list_head(op->args) ? llast(op->args) : linitial(op->args);

			if (operand_column(lfirst(la), lookup) == 0)
				continue;
			wanted->columns = bms_add_member(wanted->columns,
											 operand_column(lfirst(la), lookup));
			if (operand_column(other, source) != 0)
				compared->columns = bms_add_member(compared->columns,
												   operand_column(other, source));
		}
	}
}

/* Where a lookup is joined: the type of the join, and its columns */
static JoinType
find_join(Explanation *explain, Node *node, int lookup, Wanted *wanted,
		  Wanted *compared)
{
	JoinType	type = JOIN_INNER;
	ListCell   *lc;

	if (IsA(node, FromExpr))
	{
		FromExpr   *from = (FromExpr *) node;

		find_joined_columns(ib_flatten_join_aliases(explain->query, copyObject(from->quals)),
							lookup, explain->source, wanted, compared);
		foreach(lc, from->fromlist)
			type = Max(type, find_join(explain, lfirst(lc), lookup, wanted, compared));
	}
	else if (IsA(node, JoinExpr))
	{
		JoinExpr   *join = (JoinExpr *) node;

		find_joined_columns(ib_flatten_join_aliases(explain->query, copyObject(join->quals)),
							lookup, explain->source, wanted, compared);
		if (IsA(join->rarg, RangeTblRef) && ((RangeTblRef *) join->rarg)->rtindex == lookup)
			type = join->jointype;
		type = Max(type, find_join(explain, join->larg, lookup, wanted, compared));
		type = Max(type, find_join(explain, join->rarg, lookup, wanted, compared));
	}
	return type;
}

/* Where its changes are followed: how the source's rows that match are found */
static char *
describe_tracking(Explanation *explain, int lookup, const Wanted *compared)
{
	Oid			source = explain->pq->source;
	char	   *name = ib_query_relation_name(source);
	char	   *index;
	ListCell   *lc;

	foreach(lc, explain->pq->lookups)
	{
		if (((TrackedLookup *) lfirst(lc))->index == lookup)
			break;
	}
	if (lc == NULL)
		return "";
	if (bms_is_empty(compared->columns))
		return psprintf("; its changes are folded in too and read %s, by no column of its own", name);
	index = find_index(source, compared);
	return psprintf("; its changes are folded in too and read %s: %s", name,
					index ? psprintf("index %s serves it", index) :
					psprintf("no index serves it, CREATE INDEX ON %s (%s)", name,
							 quote_identifier(get_attname(source, bms_next_member(compared->columns, -1), false))));
}

static void
explain_joins(Explanation *explain)
{
	int			index = 0;
	ListCell   *lc;

	foreach(lc, explain->query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);
		Wanted		wanted = {0};
		Wanted		compared = {0};
		JoinType	type;
		char	   *served;

		index++;
		if (index == explain->source || rte->rtekind == RTE_JOIN || !rte->inFromCl)
			continue;
		type = find_join(explain, (Node *) explain->query->jointree, index, &wanted, &compared);
		if (rte->rtekind != RTE_RELATION)
		{
			put_row(explain, psprintf("join %s", rte->eref->aliasname), DELTA, -1, 0,
					psprintf("%s join, evaluated for each change", type == JOIN_LEFT ? "left" : "inner"));
			continue;
		}
		served = bms_is_empty(wanted.columns) ? NULL : find_index(rte->relid, &wanted);
		put_row(explain, psprintf("join %s", ib_query_relation_name(rte->relid)), DELTA, -1, 0,
				psprintf("%s join; the lookup is read when a change is folded in%s%s",
						 type == JOIN_LEFT ? "left" : "inner",
						 served ? psprintf(", index %s serves it", served) : ", as a whole",
						 describe_tracking(explain, index, &compared)));
	}
}

static void
explain_filter(Explanation *explain)
{
	Node	   *quals = explain->query->jointree->quals;

	if (quals != NULL)
		put_row(explain, psprintf("filter %s", expression(explain, quals)), DELTA, -1, 0,
				"evaluated for each change");
}

/* Look at a query on the way to the source: 0 is the pipeline's own. */
static void
enter_query(Explanation *explain, int level)
{
	explain->query = explain->pq->query;
	for (int i = 0; i < level; i++)
		explain->query = rt_fetch(list_nth_int(explain->pq->source_path, i),
								  explain->query->rtable)->subquery;
	explain->source = list_nth_int(explain->pq->source_path, level);
	explain->rtable = rtable_of_expressions(explain->query);
}

static void
explain_keys(Explanation *explain)
{
	PipelineQuery *pq = explain->pq;
	const char *strategy = pq->always_recompute ? RECOMPUTE : DELTA;
	KeyColumn  *first = NULL;
	StringInfoData keys;
	ListCell   *lc;

	initStringInfo(&keys);
	foreach(lc, pq->keys)
	{
		KeyColumn  *key = lfirst(lc);
		const char *name = quote_identifier(key->name);

		if (key->expr != NULL)
			append_item(&keys, name);
		if (key->time == NULL)
			continue;
		explain->window = key;
		first = first ? first : key;
		put_row(explain, psprintf("window %s", expression(explain, (Node *) key->expr)),
				strategy, measure(explain, psprintf("pg_catalog.count(DISTINCT s.%s)", name)),
				measure(explain, psprintf("pg_catalog.sum(pg_catalog.pg_column_size(s.%s))", name)),
				"each change is assigned to its window");
	}
	explain->window = first;
	put_row(explain, keys.len == 0 ? "one group" :
			psprintf(pq->sets ? "group by sets of %s" : "group by %s", keys.data), strategy,
			explain->groups,
			DatumGetInt64(DirectFunctionCall1(pg_total_relation_size,
											  ObjectIdGetDatum(explain->state_relation))),
			psprintf("state table %s with its index%s%s", explain->state_table,
					 pq->always_recompute ? "; each change of a group " : "",
					 pq->always_recompute ? explain->reading : ""));
}

/* The columns of the state that an aggregate keeps, and their bytes */
static void
describe_state(AggregateColumn *aggregate, char **names, char **bytes, bool *may_recompute)
{
	StringInfoData list;
	StringInfoData sum;
	ListCell   *lc;

	initStringInfo(&list);
	initStringInfo(&sum);
	*may_recompute = false;
	foreach(lc, aggregate->state)
	{
		StateColumn *column = lfirst(lc);

		append_item(&list, column->name);
		appendStringInfo(&sum, "%scoalesce(pg_catalog.sum(pg_catalog.pg_column_size(s.%s)), 0)",
						 sum.len ? " OPERATOR(pg_catalog.+) " : "", column->name);
		*may_recompute |= column->unknown != NULL;
	}
	*names = list.data;
	*bytes = sum.data;
}

static void
explain_aggregate(Explanation *explain, AggregateColumn *aggregate)
{
	char	   *names;
	char	   *bytes;
	char	   *detail;
	bool		may_recompute;

	describe_state(aggregate, &names, &bytes, &may_recompute);
	if (aggregate->recomputed)
		detail = psprintf("keeps %s; %s: each change of a group %s", names,
						  aggregate->recomputed, explain->reading);
	else if (explain->pq->always_recompute)
		detail = psprintf("keeps %s; delta by itself, but another aggregate of the query evaluates its groups again at each change",
						  names);
	else if (may_recompute)
		detail = psprintf("keeps %s; when what is retracted cannot be subtracted (an extreme, NaN, Infinity, digits of another scale) the group is evaluated again: %s",
						  names, explain->reading);
	else
		detail = psprintf("keeps %s", names);
	put_row(explain, psprintf("aggregate %s", expression(explain, (Node *) aggregate->aggref)),
			explain->pq->always_recompute ? RECOMPUTE : DELTA,
			explain->groups, measure(explain, bytes), detail);
}

/* HAVING, and what the SELECT list computes from aggregates and keys */
static void
explain_expressions(Explanation *explain)
{
	Query	   *query = explain->pq->query;
	ListCell   *lc;

	if (query->havingQual != NULL)
		put_row(explain, psprintf("having %s", expression(explain, query->havingQual)),
				DELTA, -1, 0, "evaluated when the pipeline is queried");
	foreach(lc, query->targetList)
	{
		TargetEntry *entry = lfirst(lc);

		if (entry->resjunk || IsA(entry->expr, Aggref) ||
			!(contain_aggs_of_level((Node *) entry->expr, 0) ||
			  contain_windowfuncs((Node *) entry->expr)))
			continue;
		put_row(explain, psprintf("expression %s AS %s", expression(explain, (Node *) entry->expr),
								  quote_identifier(entry->resname)),
				DELTA, -1, 0, "evaluated when the pipeline is queried");
	}
}

/* ----------------------------------------------------------------
 *		The function
 * ----------------------------------------------------------------
 */

/* What the catalog knows: the query; state and watermark */
static PipelineQuery *
find_pipeline(Explanation *explain, Oid relation)
{
	Oid			types[] = {OIDOID};
	Datum		values[] = {ObjectIdGetDatum(relation)};
	HeapTuple	row;
	TupleDesc	desc;
	bool		isnull;
	Oid			definition;
	bool		tracks_lookups;

	if (SPI_execute_with_args("SELECT p.definition::pg_catalog.oid, a.relation::pg_catalog.oid,"
							  " CASE WHEN p.lateness IS NULL THEN 'none: windows never close'"
							  " ELSE pg_catalog.format('%s: max(%I) seen - %s',"
							  " coalesce(p.watermark::pg_catalog.text, 'no row yet'), p.event_time, p.lateness) END,"
							  " p.track_lookups"
							  " FROM incbatch.pipelines p JOIN incbatch.paths a"
							  " ON a.pipeline OPERATOR(pg_catalog.=) p.pipeline"
							  " WHERE p.relation::pg_catalog.oid OPERATOR(pg_catalog.=) $1"
							  " ORDER BY a.trigger_interval LIMIT 1",
							  1, types, values, NULL, true, 0) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not read incbatch.pipelines");
	row = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	definition = DatumGetObjectId(SPI_getbinval(row, desc, 1, &isnull));
	explain->state_relation = DatumGetObjectId(SPI_getbinval(row, desc, 2, &isnull));
	explain->state_table = ib_query_relation_name(explain->state_relation);
	explain->watermark = SPI_getvalue(row, desc, 3);
	tracks_lookups = DatumGetBool(SPI_getbinval(row, desc, 4, &isnull));
	explain->groups = measure(explain, "pg_catalog.count(*)");
	return ib_query_analyze(definition, tracks_lookups);
}

Datum
ib_explain_pipeline(PG_FUNCTION_ARGS)
{
	Explanation explain = {.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo};
	Oid			relation;
	OwnerScope	scope;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	ib_refuse_null(fcinfo, 0, "name");
	ib_shmem_require();
	(void) ib_visible_pipeline(PG_GETARG_TEXT_PP(0), &relation);

	/* what the owner has made of his state table runs as himself */
	ib_enter_role(ib_relation_owner(relation), NIL, &scope);
	explain.pq = find_pipeline(&explain, relation);
	explain.reading = describe_reading(explain.pq);
	/* from the source upwards */
	for (int level = list_length(explain.pq->source_path) - 1; level >= 0; level--)
	{
		enter_query(&explain, level);
		explain_joins(&explain);
		explain_filter(&explain);
	}
	explain_keys(&explain);
	foreach(lc, explain.pq->aggregates)
		explain_aggregate(&explain, lfirst(lc));
	explain_expressions(&explain);
	ib_leave_owner(&scope);
	return (Datum) 0;
}
