/*
 * window.c
 *	  date_trunc for rows that come roughly in the order of their time.
 *
 * Taking a timestamp apart and putting it together again is a quarter of the
 * price of a typical windowed aggregate.  Consecutive changes mostly fall into
 * the same window, so window_start remembers the last one: between two times
 * that have the same date_trunc, every time has it.
 *
 * That holds because date_trunc never falls as time goes on, within the usual
 * length of a window: where clocks are set back just after midnight, as in
 * St. John's until 2011, a minute of the new day comes before the last hour of
 * the old one.  It is used for units up to a day, and for times with time zone
 * since 1970 only: in older times there were zones that repeated a day.
 * Everything else is date_trunc itself.
 *
 * The statements that read a batch use it in the place of date_trunc
 * (query_text.c); a query over the source keeps the original, which an index on
 * the expression may serve.
 */
#include "incbatch.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(ib_window_start_timestamp);
PG_FUNCTION_INFO_V1(ib_window_start_timestamptz);

/* The times from first to last lie in the window at start, as both do. */
typedef struct LastWindow
{
	int64		length;			/* the unit's usual length; 0: do not remember */
	bool		known;
	Timestamp	first;
	Timestamp	last;
	Timestamp	start;
} LastWindow;

static int64
usual_length(const char *unit)
{
	static const struct
	{
		const char *unit;
		int64		length;
	}			units[] =
	{
		{"second", USECS_PER_SEC},
		{"minute", USECS_PER_MINUTE},
		{"hour", USECS_PER_HOUR},
		{"day", USECS_PER_DAY},
	};

	for (int i = 0; i < lengthof(units); i++)
	{
		if (pg_strcasecmp(unit, units[i].unit) == 0)
			return units[i].length;
	}
	return 0;
}

/*
 * Remember the window of a time.  If the time at which it usually ends is
 * still in it, as it is but when the clocks change, all of it is known.
 */
static void
remember(LastWindow *window, FunctionCallInfo fcinfo, PGFunction date_trunc,
		 Timestamp time, Timestamp start)
{
	Timestamp	end = start + window->length - 1;

	if ((time < start || time > end) && !MUTANT(WINDOW_PIECES))
		return;
	if (window->known && start == window->start)
	{
		window->first = Min(window->first, time);
		window->last = Max(window->last, time);
		return;
	}
	window->known = true;
	window->start = start;
	window->first = window->last = time;
	if (end > time && IS_VALID_TIMESTAMP(end) &&
		DatumGetTimestamp(DirectFunctionCall2(date_trunc, PG_GETARG_DATUM(0),
											  TimestampGetDatum(end))) == start)
		window->last = end;
}

/*
 * The unit is a constant (query_text.c sees to that) and is looked at once a
 * call site; whoever else calls this with one that varies gets no windows kept.
 */
static Datum
window_start(FunctionCallInfo fcinfo, PGFunction date_trunc, Timestamp not_before)
{
	LastWindow *window = fcinfo->flinfo->fn_extra;
	Timestamp	time = PG_GETARG_TIMESTAMP(1);
	Datum		result;

	if (window == NULL)
	{
		window = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(LastWindow));
		if (get_fn_expr_arg_stable(fcinfo->flinfo, 0))
			window->length = usual_length(text_to_cstring(PG_GETARG_TEXT_PP(0)));
		fcinfo->flinfo->fn_extra = window;
	}
	if (window->known && time >= window->first && time <= window->last)
		return TimestampGetDatum(window->start);

	result = DirectFunctionCall2(date_trunc, PG_GETARG_DATUM(0), PG_GETARG_DATUM(1));
	if (window->length > 0 && !TIMESTAMP_NOT_FINITE(time) && time >= not_before)
		remember(window, fcinfo, date_trunc, time, DatumGetTimestamp(result));
	return result;
}

Datum
ib_window_start_timestamp(PG_FUNCTION_ARGS)
{
	return window_start(fcinfo, timestamp_trunc, MIN_TIMESTAMP);
}

Datum
ib_window_start_timestamptz(PG_FUNCTION_ARGS)
{
	Timestamp	year_1970 = (Timestamp) (UNIX_EPOCH_JDATE - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY;

	return window_start(fcinfo, timestamptz_trunc, year_1970);
}
