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
 */
#include "incbatch.h"

#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "query.h"

/* ----------------------------------------------------------------
 *		Which keys are windows
 * ----------------------------------------------------------------
 */

/*
 * Functions of core that never fall as the argument at this position rises,
 * if all others are constant.  Those between local time and instants do for an
 * hour when the clocks change; no hour or larger unit of the result does.
 */
static const struct
{
	Oid			function;
	int			time;
	bool		changes_clock;
}			rising[] =
{
	{F_DATE_TRUNC_TEXT_TIMESTAMP, 1, false},
	{F_DATE_TRUNC_TEXT_TIMESTAMPTZ, 1, false},
	{F_DATE_TRUNC_TEXT_TIMESTAMPTZ_TEXT, 1, false},
	{F_DATE_BIN_INTERVAL_TIMESTAMP_TIMESTAMP, 1, false},
	{F_DATE_BIN_INTERVAL_TIMESTAMPTZ_TIMESTAMPTZ, 1, false},
	{F_TIMESTAMP_DATE, 0, false},
	{F_TIMESTAMPTZ_DATE, 0, false},
	{F_DATE_TIMESTAMP, 0, false},
	{F_DATE_TIMESTAMPTZ, 0, false},
	{F_TIMESTAMP_TIMESTAMPTZ, 0, true},
	{F_TIMESTAMPTZ_TIMESTAMP, 0, true},
	{F_TIMEZONE_TEXT_TIMESTAMPTZ, 1, true},
	{F_TIMEZONE_TEXT_TIMESTAMP, 1, true},
};

static bool
is_event_time_type(Oid type)
{
	return type == TIMESTAMPOID || type == TIMESTAMPTZOID || type == DATEOID;
}

static bool
only_time_varies(FuncExpr *call, int time)
{
	ListCell   *lc;

	foreach(lc, call->args)
	{
		if (foreach_current_index(lc) != time && !IsA(lfirst(lc), Const))
			return false;
	}
	return true;
}

/* Are its results hours, days or larger units of the calendar? */
static bool
is_coarse(FuncExpr *call)
{
	static const char *const fine[] = {"sec", "min", "milli", "micro", "us", "ms"};
	Const	   *unit = linitial(call->args);
	char	   *name;

	if (call->funcid == F_DATE_TIMESTAMP || call->funcid == F_DATE_TIMESTAMPTZ)
		return true;
	if (ib_is_window_function(call->funcid))
	{
		Const	   *size = lsecond(call->args);

		return !size->constisnull && DatumGetIntervalP(size->constvalue)->time == 0;
	}
	if ((call->funcid != F_DATE_TRUNC_TEXT_TIMESTAMP &&
		 call->funcid != F_DATE_TRUNC_TEXT_TIMESTAMPTZ &&
		 call->funcid != F_DATE_TRUNC_TEXT_TIMESTAMPTZ_TEXT) || unit->constisnull)
		return false;
	name = TextDatumGetCString(unit->constvalue);
	for (int i = 0; i < lengthof(fine); i++)
	{
		if (pg_strncasecmp(name, fine[i], strlen(fine[i])) == 0)
			return strncmp(name, "mille", 5) == 0;
	}
	return pg_strcasecmp(name, "m") != 0 && pg_strcasecmp(name, "s") != 0;
}

/* Does an expression never fall as one column of the source rises? */
static bool
rises(PipelineQuery *pq, Node *node, bool coarse, AttrNumber *column)
{
	FuncExpr   *call = (FuncExpr *) node;

	if (IsA(node, RelabelType))
		return rises(pq, (Node *) ((RelabelType *) node)->arg, coarse, column);
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;

		*column = var->varattno;
		return var->varno == pq->source_index && is_event_time_type(var->vartype);
	}
	if (!IsA(node, FuncExpr))
		return false;
	if (ib_is_window_function(call->funcid))
		return !call->funcretset && only_time_varies(call, 0) &&
			rises(pq, linitial(call->args), coarse || is_coarse(call), column);
	for (int i = 0; i < lengthof(rising); i++)
	{
		if (rising[i].function == call->funcid)
			return (coarse || !rising[i].changes_clock) &&
				only_time_varies(call, rising[i].time) &&
				rises(pq, list_nth(call->args, rising[i].time),
					  coarse || is_coarse(call), column);
	}
	return false;
}

/* The call of hop in FROM that an expression is a column of, or NULL. */
static FuncExpr *
hop_of(PipelineQuery *pq, Node *node)
{
	RangeTblEntry *rte;
	FuncExpr   *call;

	if (!IsA(node, Var))
		return NULL;
	rte = rt_fetch(((Var *) node)->varno, pq->query->rtable);
	if (rte->rtekind != RTE_FUNCTION || list_length(rte->functions) != 1 ||
		rte->funcordinality)
		return NULL;
	call = (FuncExpr *) linitial_node(RangeTblFunction, rte->functions)->funcexpr;
	return IsA(call, FuncExpr) && call->funcretset &&
		ib_is_window_function(call->funcid) ? call : NULL;
}

static void
add_window(PipelineQuery *pq, KeyColumn *key)
{
	FuncExpr   *hop = hop_of(pq, (Node *) key->expr);
	Node	   *expr = ib_query_at_source(pq, (Node *) (hop ? linitial(hop->args) : key->expr));
	WindowKey  *window = palloc0(sizeof(WindowKey));
	ListCell   *lc;

	if ((hop && !only_time_varies(hop, 0)) || !rises(pq, expr, false, &window->column))
		return;
	window->key = key;
	window->expr = hop ? key->expr : (Expr *) expr;
	foreach(lc, pq->query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, lc);

		if (!entry->resjunk && equal(entry->expr, key->expr))
			window->output = entry->resname;
	}
	pq->windows = lappend(pq->windows, window);
}

void
ib_watermark_find_windows(PipelineQuery *pq)
{
	ListCell   *lc;

	foreach(lc, pq->keys)
	{
		if (((KeyColumn *) lfirst(lc))->expr != NULL)
			add_window(pq, lfirst(lc));
	}
}

/* The event time, where it is not given: that of the first window function. */
AttrNumber
ib_watermark_event_time(PipelineQuery *pq)
{
	ListCell   *lc;

	foreach(lc, pq->windows)
	{
		WindowKey  *window = lfirst(lc);

		if (!IsA(window->expr, Var) ||
			(window->expr == window->key->expr && hop_of(pq, (Node *) window->expr)))
			return window->column;
	}
	return InvalidAttrNumber;
}
