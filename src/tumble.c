/*
 * tumble.c
 *	  Windows of a given size: tumble, and hop for those that overlap.
 *
 * A size is of one kind only:
 *   - hours and smaller units: a fixed length, as date_bin takes it, whatever
 *     the clocks do;
 *   - days (and weeks): from midnight to midnight of the calendar, so that a
 *     day on which the clocks change has 23 or 25 hours;
 *   - months (and years): as the calendar has them.
 * A size of mixed kinds has no answer that is right at every change of the
 * clocks, and is refused.
 *
 * Windows count from an origin: as given, or Monday 2000-01-03 (months from
 * 2000-01-01) at midnight.  For timestamp with time zone, calendar and midnight
 * are those of the setting TimeZone, which a pipeline stores; so windows of a
 * day, week or month begin where date_trunc has them begin.
 *
 * No state but a cache of the origin in fn_extra.
 */
#include "incbatch.h"

#include "access/transam.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "datatype/timestamp.h"
#include "common/int.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "pgtime.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "query.h"

PG_FUNCTION_INFO_V1(ib_tumble_timestamp);
PG_FUNCTION_INFO_V1(ib_tumble_timestamptz);
PG_FUNCTION_INFO_V1(ib_tumble_date);
PG_FUNCTION_INFO_V1(ib_hop_timestamp);
PG_FUNCTION_INFO_V1(ib_hop_timestamptz);
PG_FUNCTION_INFO_V1(ib_hop_date);

/* A row in more windows than this is a mistake. */
#define MAX_WINDOWS 10000

/* Midnights of Monday 2000-01-03 and of 2000-01-01 */
#define FIRST_MONDAY (2 * USECS_PER_DAY)
#define FIRST_MONTH 0

typedef enum SizeKind
{
	SIZE_TIME,
	SIZE_DAYS,
	SIZE_MONTHS
} SizeKind;

typedef struct WindowSize
{
	SizeKind	kind;
	int64		length;			/* microseconds, or months */
} WindowSize;

/* Where the default origin is in the time zone that was last asked for */
typedef struct OriginCache
{
	pg_tz	   *zone;
	TimestampTz origin;
} OriginCache;

static void
out_of_range(void)
{
	ereport(ERROR,
			errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
			errmsg("timestamp out of range"));
}

/* Is it tumble or hop?  They depend on nothing but their arguments and TimeZone. */
bool
ib_is_window_function(Oid funcid)
{
	const char *name;

	if (get_func_namespace(funcid) != get_namespace_oid(IB_SCHEMA, true))
		return false;
	name = get_func_name(funcid);
	return strcmp(name, "tumble") == 0 || strcmp(name, "hop") == 0;
}

/* A length of one kind, or an error that says so. */
static WindowSize
window_size(const Interval *size, const char *name)
{
	WindowSize	result;

	if ((size->month != 0) + (size->day != 0) + (size->time != 0) > 1)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("a window's %s cannot mix months, days and hours", name),
				errdetail("Months and days have no fixed length."),
				errhint("Use only one of them, for example '36 hours' for '1 day 12 hours'."));
	if (size->month < 0 || size->day < 0 || size->time < 0 ||
		(size->month == 0 && size->day == 0 && size->time == 0))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("a window's %s must be greater than zero", name));

	result.kind = size->month != 0 ? SIZE_MONTHS : size->day != 0 ? SIZE_DAYS : SIZE_TIME;
	result.length = size->month != 0 ? size->month :
		size->day != 0 ? size->day * USECS_PER_DAY : size->time;
	return result;
}

/* Which month a time is in, and how far into it. */
static int64
month_of(Timestamp time, int64 *into)
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (timestamp2tm(time, NULL, &tm, &fsec, NULL, NULL) != 0)
		out_of_range();
	*into = (((tm.tm_mday * INT64CONST(24) + tm.tm_hour) * 60 + tm.tm_min) * 60 +
			 tm.tm_sec) * USECS_PER_SEC + fsec;
	return tm.tm_year * INT64CONST(12) + tm.tm_mon - 1;
}

static void
check_origin_of_months(Timestamp origin)
{
	int64		into;

	(void) month_of(origin, &into);
	if (into >= 29 * USECS_PER_DAY)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("windows of months cannot start after the 28th"),
				errhint("Use an origin on one of the first 28 days of a month."));
}

static int64
floor_divide(int64 value, int64 by)
{
	return value / by - (value % by < 0 ? 1 : 0);
}

/* The number of the window that a time is in, counted from the origin. */
static int64
window_number(Timestamp time, WindowSize size, Timestamp origin)
{
	int64		distance;

	if (size.kind == SIZE_MONTHS)
	{
		int64		into;
		int64		origin_into;

		distance = month_of(time, &into);
		distance -= month_of(origin, &origin_into);
		if (into < origin_into)
			distance--;
	}
	else if (pg_sub_s64_overflow(time, origin, &distance))
		out_of_range();
	return floor_divide(distance, size.length);
}

/* A time later by a length; earlier, if the length is negative. */
static Timestamp
later(Timestamp time, SizeKind kind, int64 length)
{
	Timestamp	result;

	if (kind == SIZE_MONTHS)
	{
		Interval	months = {.month = (int32) length};

		return DatumGetTimestamp(DirectFunctionCall2(timestamp_pl_interval,
													 TimestampGetDatum(time),
													 IntervalPGetDatum(&months)));
	}
	if (pg_add_s64_overflow(time, length, &result) || !IS_VALID_TIMESTAMP(result))
		out_of_range();
	return result;
}

static Timestamp
window_begin(int64 number, WindowSize size, Timestamp origin)
{
	int64		distance;

	if (pg_mul_s64_overflow(number, size.length, &distance))
		out_of_range();
	return later(origin, size.kind, distance);
}

static void
refuse_infinite_origin(void)
{
	ereport(ERROR,
			errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			errmsg("the origin of windows must be finite"));
}

/* The origin, given as argument number arg, or the default one. */
static Timestamp
window_origin(FunctionCallInfo fcinfo, int arg, WindowSize size)
{
	Timestamp	origin;

	if (PG_ARGISNULL(arg))
		return size.kind == SIZE_MONTHS ? FIRST_MONTH : FIRST_MONDAY;
	origin = PG_GETARG_TIMESTAMP(arg);
	if (TIMESTAMP_NOT_FINITE(origin))
		refuse_infinite_origin();
	return origin;
}

static Timestamp
local_time(TimestampTz time)
{
	return DatumGetTimestamp(DirectFunctionCall1(timestamptz_timestamp,
												 TimestampTzGetDatum(time)));
}

static TimestampTz
instant(Timestamp local)
{
	return DatumGetTimestampTz(DirectFunctionCall1(timestamp_timestamptz,
												   TimestampGetDatum(local)));
}

/*
 * The same with time zone: in local time for days and months, an instant for
 * fixed lengths.
 */
static Timestamp
window_origin_tz(FunctionCallInfo fcinfo, int arg, WindowSize size)
{
	Timestamp	origin = window_origin(fcinfo, arg, size);
	OriginCache *cache = fcinfo->flinfo->fn_extra;

	if (!PG_ARGISNULL(arg))
		return size.kind == SIZE_TIME ? origin : local_time(origin);
	if (size.kind != SIZE_TIME)
		return origin;
	/* a set-returning function keeps something else there */
	if (fcinfo->flinfo->fn_retset)
		return instant(origin);
	if (cache == NULL)
		cache = fcinfo->flinfo->fn_extra =
			MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(OriginCache));
	if (cache->zone != session_timezone)
	{
		cache->origin = instant(origin);
		cache->zone = session_timezone;
	}
	return cache->origin;
}

static Timestamp
tumble(Timestamp time, WindowSize size, Timestamp origin)
{
	if (size.kind == SIZE_MONTHS)
		check_origin_of_months(origin);
	return window_begin(window_number(time, size, origin), size, origin);
}

Datum
ib_tumble_timestamp(PG_FUNCTION_ARGS)
{
	Timestamp	time;
	WindowSize	size;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	time = PG_GETARG_TIMESTAMP(0);
	size = window_size(PG_GETARG_INTERVAL_P(1), "size");
	if (TIMESTAMP_NOT_FINITE(time))
		PG_RETURN_TIMESTAMP(time);
	PG_RETURN_TIMESTAMP(tumble(time, size, window_origin(fcinfo, 2, size)));
}

Datum
ib_tumble_timestamptz(PG_FUNCTION_ARGS)
{
	TimestampTz time;
	WindowSize	size;
	Timestamp	origin;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	time = PG_GETARG_TIMESTAMPTZ(0);
	size = window_size(PG_GETARG_INTERVAL_P(1), "size");
	if (TIMESTAMP_NOT_FINITE(time))
		PG_RETURN_TIMESTAMPTZ(time);
	origin = window_origin_tz(fcinfo, 2, size);
	if (size.kind == SIZE_TIME)
		PG_RETURN_TIMESTAMPTZ(tumble(time, size, origin));
	PG_RETURN_TIMESTAMPTZ(instant(tumble(local_time(time), size, origin)));
}

/* Dates have no hours. */
static WindowSize
date_window_size(const Interval *interval, const char *name)
{
	WindowSize	size = window_size(interval, name);

	if (size.kind == SIZE_TIME)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("a window's %s over dates must be of days or months", name),
				errhint("Use days, or cast the date to timestamp."));
	return size;
}

static Timestamp
date_time(DateADT date)
{
	return DatumGetTimestamp(DirectFunctionCall1(date_timestamp, DateADTGetDatum(date)));
}

static DateADT
date_of(Timestamp time)
{
	return DatumGetDateADT(DirectFunctionCall1(timestamp_date, TimestampGetDatum(time)));
}

static Timestamp
date_origin(FunctionCallInfo fcinfo, int arg, WindowSize size)
{
	if (!PG_ARGISNULL(arg) && DATE_NOT_FINITE(PG_GETARG_DATEADT(arg)))
		refuse_infinite_origin();
	if (PG_ARGISNULL(arg))
		return size.kind == SIZE_MONTHS ? FIRST_MONTH : FIRST_MONDAY;
	return date_time(PG_GETARG_DATEADT(arg));
}

Datum
ib_tumble_date(PG_FUNCTION_ARGS)
{
	DateADT		date;
	WindowSize	size;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	date = PG_GETARG_DATEADT(0);
	size = date_window_size(PG_GETARG_INTERVAL_P(1), "size");
	if (DATE_NOT_FINITE(date))
		PG_RETURN_DATEADT(date);
	PG_RETURN_DATEADT(date_of(tumble(date_time(date), size,
									 date_origin(fcinfo, 2, size))));
}

/* ----------------------------------------------------------------
 *		hop
 * ----------------------------------------------------------------
 */

/* Size and slide: of one kind, and no gaps between windows. */
static void
check_slide(WindowSize size, WindowSize slide)
{
	if (size.kind != slide.kind)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("size and slide of windows must be of one kind"),
				errdetail("Months and days have no fixed length."),
				errhint("Use months for both, or days, or hours and smaller units."));
	if (slide.length > size.length)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("the slide of windows must not be greater than their size"),
				errdetail("Rows between two windows would be in none."),
				errhint("Use incbatch.tumble and a WHERE clause."));
	if ((size.length - 1) / slide.length >= MAX_WINDOWS)
		ereport(ERROR,
				errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				errmsg("a row would be in more than %d windows", MAX_WINDOWS),
				errhint("Use a larger slide."));
}

static Datum
identical(Timestamp time)
{
	return TimestampGetDatum(time);
}

static Datum
instant_of(Timestamp time)
{
	return TimestampTzGetDatum(instant(time));
}

static Datum
date_datum(Timestamp time)
{
	return DateADTGetDatum(date_of(time));
}

/* One row for each window that a time is in, the earliest first. */
static void
put_windows(FunctionCallInfo fcinfo, Timestamp time, WindowSize size,
			WindowSize slide, Timestamp origin, Datum (*result) (Timestamp))
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int64		last;
	int64		first;

	if (size.kind == SIZE_MONTHS)
		check_origin_of_months(origin);
	last = first = window_number(time, slide, origin);
	while (later(window_begin(first - 1, slide, origin), size.kind, size.length) > time)
		first--;
	for (int64 number = first; number <= last; number++)
	{
		Timestamp	begin = window_begin(number, slide, origin);
		Datum		values[2];
		bool		nulls[2] = {false, false};

		values[0] = result(begin);
		values[1] = result(later(begin, size.kind, size.length));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

/* Read size and slide and begin the result; false: an argument is NULL. */
static bool
begin_hop(FunctionCallInfo fcinfo, WindowSize (*read_size) (const Interval *, const char *),
		  WindowSize *size, WindowSize *slide)
{
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		return false;
	*size = read_size(PG_GETARG_INTERVAL_P(1), "size");
	*slide = read_size(PG_GETARG_INTERVAL_P(2), "slide");
	check_slide(*size, *slide);
	return true;
}

Datum
ib_hop_timestamp(PG_FUNCTION_ARGS)
{
	WindowSize	size;
	WindowSize	slide;

	if (!begin_hop(fcinfo, window_size, &size, &slide))
		return (Datum) 0;
	if (!TIMESTAMP_NOT_FINITE(PG_GETARG_TIMESTAMP(0)))
		put_windows(fcinfo, PG_GETARG_TIMESTAMP(0), size, slide,
					window_origin(fcinfo, 3, slide), identical);
	return (Datum) 0;
}

Datum
ib_hop_timestamptz(PG_FUNCTION_ARGS)
{
	WindowSize	size;
	WindowSize	slide;
	TimestampTz time;

	if (!begin_hop(fcinfo, window_size, &size, &slide))
		return (Datum) 0;
	time = PG_GETARG_TIMESTAMPTZ(0);
	if (TIMESTAMP_NOT_FINITE(time))
		return (Datum) 0;
	if (size.kind == SIZE_TIME)
		put_windows(fcinfo, time, size, slide, window_origin_tz(fcinfo, 3, slide), identical);
	else
		put_windows(fcinfo, local_time(time), size, slide,
					window_origin_tz(fcinfo, 3, slide), instant_of);
	return (Datum) 0;
}

Datum
ib_hop_date(PG_FUNCTION_ARGS)
{
	WindowSize	size;
	WindowSize	slide;

	if (!begin_hop(fcinfo, date_window_size, &size, &slide))
		return (Datum) 0;
	if (!DATE_NOT_FINITE(PG_GETARG_DATEADT(0)))
		put_windows(fcinfo, date_time(PG_GETARG_DATEADT(0)), size, slide,
					date_origin(fcinfo, 3, slide), date_datum);
	return (Datum) 0;
}

/* ----------------------------------------------------------------
 *		Calls in a query
 * ----------------------------------------------------------------
 */

/* An argument of a call, if it is a constant other than NULL. */
static Const *
constant(List *args, int n)
{
	Const	   *arg = n < list_length(args) ? list_nth(args, n) : NULL;

	return arg != NULL && IsA(arg, Const) && !arg->constisnull ? arg : NULL;
}

/* An origin as the functions above would take it, in local time. */
static Timestamp
constant_origin(Const *origin)
{
	Timestamp	time = origin->consttype == DATEOID ?
		date_time(DatumGetDateADT(origin->constvalue)) : DatumGetTimestamp(origin->constvalue);

	if (TIMESTAMP_NOT_FINITE(time))
		refuse_infinite_origin();
	return origin->consttype == TIMESTAMPTZOID ? local_time(time) : time;
}

static bool
is_users_function(Oid function, void *context)
{
	return function >= FirstNormalObjectId;
}

static bool
calls_users_function(Node *node, void *context)
{
	if (node == NULL)
		return false;
	return check_functions_in_node(node, is_users_function, context) ||
		expression_tree_walker(node, calls_users_function, context);
}

/*
 * What is constant in a call of tumble or hop is checked before there is a
 * row: so a query that would fail at the first one is refused.  Users'
 * functions are not called for that: a query is looked at by others than its
 * owner, too.
 */
void
ib_check_window_call(FuncExpr *call)
{
	WindowSize	(*read_size) (const Interval *, const char *) = window_size;
	WindowSize	size;
	WindowSize	slide;
	Const	   *arg;
	int			origin = call->funcretset ? 3 : 2;

	if (calls_users_function((Node *) call->args, NULL))
		return;
	/* arguments in their order, whatever they were given by */
	call = (FuncExpr *) eval_const_expressions(NULL, (Node *) call);
	if (!IsA(call, FuncExpr) || (arg = constant(call->args, 1)) == NULL)
		return;
	if (exprType(linitial(call->args)) == DATEOID)
		read_size = date_window_size;
	size = slide = read_size(DatumGetIntervalP(arg->constvalue), "size");
	if (call->funcretset)
	{
		if ((arg = constant(call->args, 2)) == NULL)
			return;
		slide = read_size(DatumGetIntervalP(arg->constvalue), "slide");
		check_slide(size, slide);
	}
	if ((arg = constant(call->args, origin)) != NULL)
	{
		Timestamp	time = constant_origin(arg);

		if (slide.kind == SIZE_MONTHS)
			check_origin_of_months(time);
	}
}
