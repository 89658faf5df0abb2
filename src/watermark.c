/*
 * watermark.c
 *	  Event time, closed windows, late changes.
 *
 * A key of the GROUP BY is a window if it never falls as one column of the
 * source, the event time, rises: date_trunc, date_bin, tumble, hop and what is
 * made of them.  The watermark is the largest event time seen minus lateness.
 * So a window has ended at the watermark exactly if
 *
 *		key < the same expression at the watermark (its cut)
 *
 * for then an event at the watermark falls into a later window.  No window
 * needs to know its end.  A group with several windows ends with the first.
 *
 * A batch uses the watermark that the batches before it left behind, which
 * changes in the transaction that changes state and frontier.  A crash may cut
 * the same changes into other batches; what was stored is what counts.
 *
 * Changes to closed windows are late.  They are kept out of the transform
 * ('divert', 'drop') or counted only ('apply').  A closed window that late
 * changes were kept out of is noted, for it may differ from the batch query:
 * everything else equals it, and verify.c compares everything else.
 *
 * Times are kept as Timestamp: that of a timestamp with time zone in UTC, the
 * others as they are.
 *
 * What a window is, window_key.c knows; here are the statements as SQL, and
 * late.c runs them.
 */
#include "incbatch.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"
#include "utils/timestamp.h"

#include "watermark.h"

/* 1 or -1, while the number of a change stands in the place of its weight */
#define LATE_SIGN "incbatch_sign"

/* ----------------------------------------------------------------
 *		Whether windows can close
 * ----------------------------------------------------------------
 */

/* Is every row of the result in each of the windows, whatever its set? */
static bool
in_every_set(PipelineQuery *pq, List *windows)
{
	ListCell   *ls;
	ListCell   *lw;

	foreach(ls, pq->sets)
	{
		foreach(lw, windows)
		{
			if (!list_member_ptr(((GroupingSetRows *) lfirst(ls))->keys,
								 ((WindowKey *) lfirst(lw))->key))
				return false;
		}
	}
	return true;
}

/* Windows can only close if there are some, and every row is in one. */
void
ib_watermark_check(PipelineQuery *pq, AttrNumber event_time)
{
	List	   *windows = ib_window_keys_of(pq, event_time);

	if (windows == NIL)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("lateness needs a window of event time"),
				errdetail("No column of the result is a window that the query groups by, so there is nothing to close."),
				errhint("Group by date_trunc, date_bin, incbatch.tumble or incbatch.hop of the event time column, and select it. Below an hour, the column must not be converted to another time zone."));
	if (!in_every_set(pq, windows))
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("lateness needs the window in every grouping set"),
				errdetail("Totals over all windows would never close, and a change can be late for one window and not for another."),
				errhint("Group by the window beside the sets, as in GROUP BY %s, ROLLUP (...), and sum over the pipeline's relation.",
						quote_identifier(((WindowKey *) linitial(windows))->output)));
	if (pq->query->hasWindowFuncs || pq->query->limitCount)
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("lateness is not supported with window functions or FETCH FIRST"),
				errdetail("A row of the result would depend on other windows, which late changes may have been kept out of."),
				errhint("Use them in a query on the pipeline's relation."));
}

/* ----------------------------------------------------------------
 *		Conditions on windows, as SQL
 * ----------------------------------------------------------------
 */

/*
 * An expression of a window with the watermark, which is relation 1, in the
 * place of the source's column; hop, if there is one, becomes relation 2.
 */
static Node *
read_from_watermark(Node *node, WindowKey *window)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
	{
		Var		   *var = copyObject((Var *) node);

		if (var->varno == window->hop)
			var->varno = 2;
		else
			var->varno = var->varattno = 1;
		var->varnosyn = var->varno;
		var->varattnosyn = var->varattno;
		return (Node *) var;
	}
	return expression_tree_mutator(node, read_from_watermark, window);
}

static RangeTblRef *
table_reference(int index)
{
	RangeTblRef *ref = makeNode(RangeTblRef);

	ref->rtindex = index;
	return ref;
}

/*
 * The cut of a window at a column of a one-row relation: the first window
 * that has not ended there.
 */
static char *
cut(PipelineQuery *pq, WindowKey *window, const char *relation, const char *column)
{
	Query	   *query = makeNode(Query);
	RangeTblEntry *rte = makeNode(RangeTblEntry);

	rte->rtekind = RTE_CTE;
	rte->ctename = pstrdup(relation);
	rte->eref = makeAlias(relation, list_make1(makeString(pstrdup(column))));
	rte->inFromCl = true;
	query->commandType = CMD_SELECT;
	query->rtable = list_make1(rte);
	query->jointree = makeFromExpr(list_make1(table_reference(1)), NULL);
	if (window->hop != 0)
	{
		RangeTblEntry *hop = copyObject(rt_fetch(window->hop, pq->query->rtable));
		Node	   *functions = ib_query_at_source(pq, (Node *) hop->functions);

		hop->functions = (List *) read_from_watermark(functions, window);
		hop->lateral = true;
		query->rtable = lappend(query->rtable, hop);
		query->jointree->fromlist = lappend(query->jointree->fromlist, table_reference(2));
	}
	query->targetList =
		list_make1(makeTargetEntry((Expr *) read_from_watermark((Node *) window->expr, window),
								   1, pstrdup("cut"), false));
	return psprintf("(SELECT pg_catalog.min(cut) FROM (%s) c)", pg_get_querydef(query, false));
}

/*
 * Has the group of a row ended at a column of a one-row relation?  The row
 * names its windows by the keys, or by the columns of the result.
 */
char *
ib_watermark_past(PipelineQuery *pq, AttrNumber event_time, const char *qualifier,
				  bool output, const char *relation, const char *column)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, ib_window_keys_of(pq, event_time))
	{
		WindowKey  *window = lfirst(lc);

		appendStringInfo(&text, "%s%s%s OPERATOR(pg_catalog.<) %s", text.len ? " OR " : "",
						 qualifier, quote_identifier(output ? window->output : window->key->name),
						 cut(pq, window, relation, column));
	}
	return psprintf("(%s)", text.data);
}

/* A time as timestamp, that of a timestamp with time zone in UTC. */
static char *
as_timestamp(Oid type, const char *value)
{
	return type == TIMESTAMPTZOID ? psprintf("pg_catalog.timezone('UTC', %s)", value) :
		psprintf("(%s)::pg_catalog.timestamp", value);
}

/* And back. */
char *
ib_watermark_from_timestamp(Oid type, const char *value)
{
	return type == TIMESTAMPTZOID ? psprintf("pg_catalog.timezone('UTC', %s)", value) :
		psprintf("(%s)::%s", value, ib_query_type(type, -1, InvalidOid));
}

/* A time as a value of the event time's type. */
Datum
ib_watermark_time_datum(Oid type, Timestamp time)
{
	return type == DATEOID ?
		DirectFunctionCall1(timestamp_date, TimestampGetDatum(time)) : TimestampGetDatum(time);
}

/* Offer a relation of one row, with times as columns of the given type. */
void
ib_watermark_offer_times(const char *relation, Oid type, const char *const *names,
						 const Timestamp *times, int n)
{
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	TupleDesc	desc = CreateTemplateTupleDesc(n);
	Datum	   *values = palloc(sizeof(Datum) * n);
	bool	   *nulls = palloc0(sizeof(bool) * n);

	for (int i = 0; i < n; i++)
	{
		TupleDescInitEntry(desc, i + 1, names[i], type, -1, 0);
		values[i] = ib_watermark_time_datum(type, times[i]);
	}
	tuplestore_putvalues(store, desc, values, nulls);
	ib_offer_relation(relation, InvalidOid, desc, store, 1);
}

/*
 * For each window, a query that says of a watermark, its parameter, which is
 * the first window that has not ended there.  Both are timestamps.
 */
List *
ib_watermark_cuts(PipelineQuery *pq, AttrNumber event_time)
{
	Oid			type = get_atttype(pq->source, event_time);
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, ib_window_keys_of(pq, event_time))
	{
		WindowKey  *window = lfirst(lc);

		result = lappend(result,
						 psprintf("WITH " WATERMARK_RELATION " AS (SELECT %s AS " CLOSED ") SELECT %s",
								  ib_watermark_from_timestamp(type, "$1"),
								  as_timestamp(exprType((Node *) window->expr),
											   cut(pq, window, WATERMARK_RELATION, CLOSED))));
	}
	return result;
}

/* ----------------------------------------------------------------
 *		The statements
 * ----------------------------------------------------------------
 */

/*
 * The late changes of a batch, with their number in it, among the candidates.
 * Rows of the query know the change that they come from by the batch's last
 * column, where the number stands in for the weight.
 */
static char *
late_rows(PipelineQuery *pq, const char *event_time, const char *past,
		  int batch_columns, LatePolicy policy)
{
	char	   *row = policy != LATE_DIVERT ? "NULL::pg_catalog.jsonb" :
		psprintf("(SELECT pg_catalog.to_jsonb(r) FROM (SELECT %s) r)",
				 ib_query_needed_for_jsonb(pq, "b.", false));

	return psprintf("WITH " BATCH_RELATION " AS MATERIALIZED (SELECT %s, coalesce(" BATCH_WEIGHT ", 1) AS " LATE_SIGN
					", " BATCH_NUMBER " AS " BATCH_WEIGHT " FROM " CANDIDATES_RELATION "),"
					" late AS (SELECT DISTINCT t." INPUT_WEIGHT " AS number FROM (%s) t WHERE %s)"
					" SELECT b." BATCH_WEIGHT ", b.%s::pg_catalog.timestamptz,"
					" CASE WHEN b." LATE_SIGN " > 0 THEN 'insert' ELSE 'delete' END, %s"
					" FROM " BATCH_RELATION " b WHERE b." BATCH_WEIGHT " IN (SELECT number FROM late) ORDER BY 1",
					ib_query_needed_columns(pq, ""),
					ib_query_rows_text(pq, true, batch_columns), past, event_time, row);
}

/* The first window of each row of a relation "t" that a condition selects. */
static char *
windows_of(WindowKey *window, const char *relation, const char *condition)
{
	return psprintf("SELECT DISTINCT %s FROM %s t WHERE %s",
					as_timestamp(exprType((Node *) window->expr),
								 psprintf("t.%s", quote_identifier(window->key->name))),
					relation, condition);
}

/*
 * What event times the source has: the largest that drives the watermark, and
 * how many are too far ahead for that.  An index on the event time serves it.
 */
static char *
survey_source(PipelineQuery *pq, Oid type, const char *event_time)
{
	char	   *source = ib_query_relation_name(pq->source);

	return psprintf("SELECT (SELECT %1$s FROM %3$s WHERE %2$s <= (SELECT " AHEAD " FROM " WATERMARK_RELATION ")),"
					" (SELECT pg_catalog.count(*) FROM %3$s WHERE %2$s > (SELECT " AHEAD " FROM " WATERMARK_RELATION "))",
					as_timestamp(type, psprintf("pg_catalog.max(%s)", event_time)),
					event_time, source);
}

/* Are there more windows to remove?  If not, nobody looks for them. */
static char *
removal_moves(PipelineQuery *pq, AttrNumber event_time)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, ib_window_keys_of(pq, event_time))
		appendStringInfo(&text, "%s%s IS DISTINCT FROM %s", text.len ? " OR " : "",
						 cut(pq, lfirst(lc), REMOVAL_RELATION, REMOVED),
						 cut(pq, lfirst(lc), REMOVAL_RELATION, REMOVED_BEFORE));
	return text.data;
}

/* Make the statements of a path whose windows close. */
LateStatements *
ib_watermark_statements(IbPath *path, PipelineQuery *pq, const char *state_table,
						int batch_columns)
{
	LateStatements *late = palloc0(sizeof(LateStatements));
	AttrNumber	column = path->row->event_time;
	WindowKey  *first;
	const char *event_time;
	char	   *past;
	char	   *removed;
	char	   *left_out;
	char	   *rows;

	ib_watermark_check(pq, column);
	pq->event_time = column;
	first = linitial(ib_window_keys_of(pq, column));
	event_time = quote_identifier(get_attname(pq->source, column, false));
	past = ib_watermark_past(pq, column, "t.", false, WATERMARK_RELATION, CLOSED);
	left_out = ib_watermark_past(pq, column, "t.", false, WATERMARK_RELATION, LEFT_OUT);
	removed = ib_watermark_past(pq, column, "", false, REMOVAL_RELATION, REMOVED);
	rows = psprintf("(WITH " BATCH_RELATION " AS (SELECT %s, " BATCH_WEIGHT " FROM " CANDIDATES_RELATION ") %s)",
					ib_query_needed_columns(pq, ""),
					ib_query_rows_text(pq, true, batch_columns));

	late->type = get_atttype(pq->source, column);
	late->survey_source = survey_source(pq, late->type, event_time);
	late->truncate = psprintf("DELETE FROM %s t WHERE %s IS NOT TRUE", state_table, left_out);
	/* few rows have to be asked for their windows */
	left_out = MUTANT(LATE_COUNTED) ? "true" :
		psprintf("(t." INPUT_EVENT_TIME " < (SELECT " LEFT_OUT " FROM " WATERMARK_RELATION ") AND %s) IS NOT TRUE",
				 left_out);
	late->touched = ib_delta_touched(pq, batch_columns, left_out);
	late->transform_plus = ib_delta_transform(pq, batch_columns, false, left_out);
	late->transform_mixed = ib_delta_transform(pq, batch_columns, true, left_out);
	late->rows = late_rows(pq, event_time, past, batch_columns, path->row->late_policy);
	late->windows = windows_of(first, rows, past);
	late->kept_windows = windows_of(first, state_table, "true");

	late->retain = psprintf("DELETE FROM %s WHERE (%s) AND %s", state_table,
							removal_moves(pq, column), removed);
	late->retained = psprintf("SELECT %s", as_timestamp(exprType((Node *) first->expr),
														cut(pq, first, REMOVAL_RELATION, REMOVED)));
	return late;
}
