/*
 * window_key.c
 *	  Which keys of the GROUP BY are windows of time: how long, and whether they
 *	  rise with the event time.
 *
 * Two things are asked of a key.  Which times of the source can be in it, so
 * that a group is evaluated again by them (recompute.c): that takes a function
 * of a column whose length is known.  And whether it never falls as the column
 * rises, so that it can be over (watermark.c): that may be any number of
 * functions, one within the other, for no length is needed.
 *
 * tumble and hop are functions of our own; those of core are in the table here.
 */
#include "incbatch.h"

#include "catalog/pg_type.h"
#include "nodes/nodeFuncs.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/timestamp.h"

#include "query.h"

/* How long the windows of a function are. */
typedef enum WindowLength
{
	LENGTH_UNKNOWN,
	LENGTH_UNIT,				/* the unit that its first argument names */
	LENGTH_GIVEN,				/* its first argument */
	LENGTH_DAY
} WindowLength;

/*
 * Functions of core that never fall as the argument at this position rises,
 * if all others are constant.  Those between local time and instants do for an
 * hour when the clocks change; no hour or larger unit of the result does.
 */
typedef struct WindowFunction
{
	Oid			function;
	int			time;
	bool		changes_clock;
	WindowLength length;
} WindowFunction;

static const WindowFunction functions[] = {
	{F_DATE_TRUNC_TEXT_TIMESTAMP, 1, false, LENGTH_UNIT},
	{F_DATE_TRUNC_TEXT_TIMESTAMPTZ, 1, false, LENGTH_UNIT},
	{F_DATE_TRUNC_TEXT_TIMESTAMPTZ_TEXT, 1, false, LENGTH_UNIT},
	{F_DATE_BIN_INTERVAL_TIMESTAMP_TIMESTAMP, 1, false, LENGTH_GIVEN},
	{F_DATE_BIN_INTERVAL_TIMESTAMPTZ_TIMESTAMPTZ, 1, false, LENGTH_GIVEN},
	{F_DATE_TIMESTAMP, 0, false, LENGTH_DAY},
	{F_DATE_TIMESTAMPTZ, 0, false, LENGTH_DAY},
	{F_TIMESTAMP_DATE, 0, false, LENGTH_UNKNOWN},
	{F_TIMESTAMPTZ_DATE, 0, false, LENGTH_UNKNOWN},
	{F_TIMESTAMP_TIMESTAMPTZ, 0, true, LENGTH_UNKNOWN},
	{F_TIMESTAMPTZ_TIMESTAMP, 0, true, LENGTH_UNKNOWN},
	{F_TIMEZONE_TEXT_TIMESTAMPTZ, 1, true, LENGTH_UNKNOWN},
	{F_TIMEZONE_TEXT_TIMESTAMP, 1, true, LENGTH_UNKNOWN},
};

/* tumble, and hop in FROM */
static const WindowFunction own = {InvalidOid, 0, false, LENGTH_UNKNOWN};

/*
 * The units of date_trunc, at most.  In days, for a month that is added in
 * another time zone may be a shorter one.
 */
static const struct
{
	const char *unit;
	const char *length;
	const char *zoned_slack;	/* midnight can come twice, where clocks are
								 * set back */
}			units[] =

{
	{"second", "1 second", "0"},
	{"minute", "1 minute", "0"},
	{"hour", "1 hour", "0"},
	{"day", "1 day", "1 day"},
	{"week", "7 days", "1 day"},
	{"month", "31 days", "1 day"},
	{"quarter", "92 days", "1 day"},
	{"year", "366 days", "1 day"},
};

/*
 * The window function that an expression calls, all of whose arguments but the
 * time are constant; NULL: none.
 */
static const WindowFunction *
window_function(Node *node)
{
	FuncExpr   *call = (FuncExpr *) node;
	const WindowFunction *function = NULL;
	ListCell   *lc;

	if (!IsA(call, FuncExpr))
		return NULL;
	if (ib_is_window_function(call->funcid))
		function = &own;
	for (int i = 0; i < lengthof(functions); i++)
	{
		if (functions[i].function == call->funcid)
			function = &functions[i];
	}
	if (function == NULL)
		return NULL;
	foreach(lc, call->args)
	{
		if (foreach_current_index(lc) != function->time && !IsA(lfirst(lc), Const))
			return NULL;
	}
	return function;
}

/* Is an entry of FROM on the side of an outer join that may be all NULL? */
static bool
is_nullable(Node *node, int index, bool nullable)
{
	ListCell   *lc;

	if (IsA(node, RangeTblRef))
		return nullable && ((RangeTblRef *) node)->rtindex == index;
	if (IsA(node, JoinExpr))
	{
		JoinExpr   *join = (JoinExpr *) node;
		bool		full = join->jointype == JOIN_FULL;

		return is_nullable(join->larg, index, nullable || full || join->jointype == JOIN_RIGHT) ||
			is_nullable(join->rarg, index, nullable || full || join->jointype == JOIN_LEFT);
	}
	foreach(lc, castNode(FromExpr, node)->fromlist)
	{
		if (is_nullable(lfirst(lc), index, nullable))
			return true;
	}
	return false;
}

/*
 * The call that a key is, over the source; be it below in a subquery, or a
 * function in FROM of which it is a column: then *hop is that entry of FROM.
 */
static Node *
call_of_key(PipelineQuery *pq, KeyColumn *key, int *hop)
{
	Var		   *var = (Var *) key->expr;
	RangeTblEntry *rte;
	FuncExpr   *call;

	*hop = 0;
	if (!IsA(var, Var) || var->varlevelsup != 0)
		return ib_query_at_source(pq, (Node *) var);
	rte = rt_fetch(var->varno, pq->query->rtable);
	if (rte->rtekind != RTE_FUNCTION)
		return ib_query_at_source(pq, (Node *) var);
	/* where a LEFT JOIN found no window, the key is NULL for any time */
	if (is_nullable((Node *) pq->query->jointree, var->varno, false))
		return NULL;
	if (list_length(rte->functions) != 1 || var->varattno > 2)
		return NULL;
	call = (FuncExpr *) ib_query_at_source(pq, linitial_node(RangeTblFunction, rte->functions)->funcexpr);
	if (!IsA(call, FuncExpr) || !call->funcretset || !ib_is_window_function(call->funcid))
		return NULL;
	*hop = var->varno;
	return (Node *) call;
}

/* ----------------------------------------------------------------
 *		How long
 * ----------------------------------------------------------------
 */

static void
set_length(KeyColumn *key, Var *time, const char *before, const char *length)
{
	key->time = time;
	key->length = pstrdup(length);
	key->before = psprintf("%s::pg_catalog.interval",
						   quote_literal_cstr(MUTANT(WINDOW_SLACK) ? "0" : before));
	key->after = psprintf("%s::pg_catalog.interval + %s",
						  quote_literal_cstr(length), key->before);
}

static char *
interval_text(Interval *interval)
{
	return DatumGetCString(DirectFunctionCall1(interval_out, IntervalPGetDatum(interval)));
}

static void
find_unit(KeyColumn *key, Const *name, Var *time)
{
	char	   *unit = TextDatumGetCString(name->constvalue);

	for (int i = 0; i < lengthof(units); i++)
	{
		if (strcmp(units[i].unit, unit) == 0)
		{
			set_length(key, time, time->vartype == TIMESTAMPTZOID ? units[i].zoned_slack : "0",
					   units[i].length);
			key->length = psprintf("1 %s", unit);
		}
	}
}

/* tumble, and hop with its two columns: the start and the end of windows */
static void
find_size(KeyColumn *key, Interval *size, Var *time, bool is_end)
{
	const char *slack = time->vartype == TIMESTAMPTZOID && size->time == 0 ? "1 day" : "0";

	set_length(key, time, slack, size->month == 0 ? interval_text(size) :
			   psprintf("%d days", 31 * size->month));
	if (is_end && !MUTANT(HOP_END))
	{
		char	   *before = key->before;

		key->before = key->after;
		key->after = before;
	}
	key->length = interval_text(size);
}

/* Is a key a window of one of the source's columns?  Then say how long. */
static void
find_length(PipelineQuery *pq, KeyColumn *key, FuncExpr *call, bool is_end)
{
	const WindowFunction *function = window_function((Node *) call);
	Var		   *time;
	Const	   *given;

	if (function == NULL)
		return;
	time = list_nth(call->args, function->time);
	if (!IsA(time, Var) || time->varno != pq->source_index || time->varlevelsup != 0 ||
		time->varattno <= 0)
		return;
	if (function->length == LENGTH_DAY)
	{
		set_length(key, time, "1 day", "1 day");
		return;
	}
	if (function != &own && function->length == LENGTH_UNKNOWN)
		return;
	given = list_nth(call->args, function == &own ? 1 : 0);
	if (given->constisnull)
		return;
	if (function == &own)
		find_size(key, DatumGetIntervalP(given->constvalue), time, is_end);
	else if (function->length == LENGTH_UNIT)
		find_unit(key, given, time);
	else
	{
		Interval	stride = *DatumGetIntervalP(given->constvalue);

		/* a day of date_bin is 24 hours, also when the clocks change */
		stride.time += stride.day * USECS_PER_DAY;
		stride.day = 0;
		set_length(key, time, "0", interval_text(&stride));
	}
}

/* ----------------------------------------------------------------
 *		Rising
 * ----------------------------------------------------------------
 */

/* Are its results hours, days or larger units of the calendar? */
static bool
is_coarse(FuncExpr *call, const WindowFunction *function)
{
	static const char *const fine[] = {"sec", "min", "milli", "micro", "us", "ms"};
	Const	   *given;
	char	   *name;

	if (function->length == LENGTH_DAY)
		return true;
	if (function == &own)
	{
		given = lsecond(call->args);
		return !given->constisnull && DatumGetIntervalP(given->constvalue)->time == 0;
	}
	given = linitial(call->args);
	if (function->length != LENGTH_UNIT || given->constisnull)
		return false;
	name = TextDatumGetCString(given->constvalue);
	for (int i = 0; i < lengthof(fine); i++)
	{
		if (pg_strncasecmp(name, fine[i], strlen(fine[i])) == 0)
			return strncmp(name, "mille", 5) == 0;
	}
	return pg_strcasecmp(name, "m") != 0 && pg_strcasecmp(name, "s") != 0;
}

/* Does an expression over the source never fall as one of its columns rises? */
static bool
rises(PipelineQuery *pq, Node *node, bool coarse, AttrNumber *column)
{
	FuncExpr   *call = (FuncExpr *) node;
	const WindowFunction *function;

	if (IsA(node, RelabelType))
		return rises(pq, (Node *) ((RelabelType *) node)->arg, coarse, column);
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;

		*column = var->varattno;
		return var->varno == pq->source_index && var->varlevelsup == 0 && var->varattno > 0 &&
			(var->vartype == TIMESTAMPOID || var->vartype == TIMESTAMPTZOID ||
			 var->vartype == DATEOID);
	}
	function = window_function(node);
	return function != NULL && (coarse || !function->changes_clock) &&
		rises(pq, list_nth(call->args, function->time),
			  coarse || is_coarse(call, function), column);
}

static void
find_rising(PipelineQuery *pq, KeyColumn *key, Node *call, int hop)
{
	WindowKey  *window = palloc0(sizeof(WindowKey));
	ListCell   *lc;

	/* the windows of hop are no coarser than the time that it is given */
	if (hop != 0 ? window_function(call) == NULL ||
		!rises(pq, linitial(((FuncExpr *) call)->args), false, &window->column) :
		!rises(pq, call, false, &window->column))
		return;
	window->key = key;
	window->expr = hop != 0 ? key->expr : (Expr *) call;
	window->hop = hop;
	foreach(lc, pq->query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, lc);

		if (!entry->resjunk && equal(entry->expr, key->expr))
			window->output = entry->resname;
	}
	pq->windows = lappend(pq->windows, window);
}

/* ----------------------------------------------------------------
 *		The windows of a query
 * ----------------------------------------------------------------
 */

/* Note what a key is, if it is a window. */
void
ib_window_key_find(PipelineQuery *pq, KeyColumn *key)
{
	int			hop;
	Node	   *call = call_of_key(pq, key, &hop);

	if (call == NULL)
		return;
	if (IsA(call, FuncExpr))
		find_length(pq, key, (FuncExpr *) call, hop != 0 && ((Var *) key->expr)->varattno == 2);
	find_rising(pq, key, call, hop);
}

/* The event time, where it is not given: that of the first window function. */
AttrNumber
ib_window_key_event_time(PipelineQuery *pq)
{
	ListCell   *lc;

	foreach(lc, pq->windows)
	{
		WindowKey  *window = lfirst(lc);

		if (!IsA(window->expr, Var) || window->hop != 0)
			return window->column;
	}
	return InvalidAttrNumber;
}

/* The windows that close: those of the event time that the result shows. */
List *
ib_window_keys_of(PipelineQuery *pq, AttrNumber event_time)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, pq->windows)
	{
		WindowKey  *window = lfirst(lc);

		if (window->column == event_time && window->output != NULL)
			result = lappend(result, window);
	}
	return result;
}
