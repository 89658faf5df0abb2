/*
 * report.c
 *	  incbatch.report: how a pipeline is doing, on one screen of text.
 *
 * Consumers beside their freshness, the recent past of each path, the cost of
 * each cadence and the diagnosis.  It only lays out what the views and
 * functions say that it names, read as the caller; what they mean is said
 * there.  Takes no lock but those of its queries, and keeps nothing.
 *
 * Lines are of WIDTH columns, so that psql can put its frame around them
 * within 80, and each part has a largest height: what is left out is counted.
 */
#include "incbatch.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "draw.h"
#include "functions.h"
#include "path.h"

PG_FUNCTION_INFO_V1(ib_report);

#define LONGEST_SPAN (36525.0 * SECS_PER_DAY)

#define WIDTH 78
#define MAX_CONSUMERS 6
#define MAX_PATHS 3
#define MAX_CADENCES 8
#define MAX_QUESTIONS 4

#define COLUMNS 60				/* of a chart */
#define NAME_COLUMNS 20
#define BAR_COLUMNS 18

/* The lines of a path's batches; one may sum up several runs, a backfill is no batch. */
#define IN_SPAN "b.path = $4 AND b.reason <> 'backfill'" \
	" AND b.finished_at <= $2 AND b.finished_at > $2 - $3 * interval '1 second'"

typedef struct Report
{
	StringInfoData text;
	int			line;			/* where the last line begins */
	Datum		pipeline;		/* regclass */
	TimestampTz at;				/* the end of the charts */
	double		span;			/* and how many seconds they show */
} Report;

/* A path; times in seconds, NaN for one that is not known */
typedef struct PathLine
{
	int32		path;
	double		trigger;
	double		age;			/* of the frontier, at the end of the charts */
	double		p50;
	double		p99;
} PathLine;

/* ----------------------------------------------------------------
 *		Lines and values
 * ----------------------------------------------------------------
 */

/* Line feed, without blanks before it */
static void
end_line(Report *report)
{
	while (report->text.len > report->line && report->text.data[report->text.len - 1] == ' ')
		report->text.data[--report->text.len] = '\0';
	appendStringInfoChar(&report->text, '\n');
	report->line = report->text.len;
}

/* A blank line, then a heading with what is said of it at the right margin */
static void
heading(Report *report, const char *title, const char *remark)
{
	end_line(report);
	appendStringInfo(&report->text, "%s  ", title);
	ib_draw_right(&report->text, remark, WIDTH - 2 - ib_draw_width(title));
	end_line(report);
}

static void
put_line(Report *report, const char *text)
{
	ib_draw_left(&report->text, text, WIDTH);
	end_line(report);
}

/* Up to so many lines of a text; the last one is cut. */
static void
put_wrapped(Report *report, const char *text, int lines)
{
	while (text != NULL && lines-- > 0)
	{
		char	   *piece;
		const char *rest = ib_draw_piece(text, WIDTH, &piece);

		put_line(report, lines > 0 ? piece : text);
		text = rest;
	}
}

/*
 * Run a query with the pipeline as $1, the end of the charts as $2, their
 * length in seconds as $3 and a path as $4.
 */
static uint64
query(Report *report, const char *sql, int32 path)
{
	Oid			types[] = {REGCLASSOID, TIMESTAMPTZOID, FLOAT8OID, INT4OID};
	Datum		values[] = {report->pipeline, TimestampTzGetDatum(report->at),
	Float8GetDatum(report->span), Int32GetDatum(path)};

	CHECK_FOR_INTERRUPTS();
	if (SPI_execute_with_args(sql, lengthof(types), types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the state of the pipeline");
	return SPI_processed;
}

static char *
text_of(uint64 row, int number)
{
	char	   *text = SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number);

	return text ? text : "";
}

/* A float8; NaN for NULL */
static double
number_of(uint64 row, int number)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number, &isnull);

	return isnull ? get_float8_nan() : DatumGetFloat8(value);
}

static char *
cadence(double trigger)
{
	return trigger == 0 ? "at once" : psprintf("every %s", ib_human_seconds(trigger));
}

/* ----------------------------------------------------------------
 *		The parts
 * ----------------------------------------------------------------
 */

/* Name, state and time; why it stopped, if it did */
static void
put_title(Report *report)
{
	char	   *right;

	query(report,
		  "SELECT p.pipeline, p.state, to_char($2, 'YYYY-MM-DD HH24:MI:SS TZ'),"
		  " CASE WHEN p.state IN ('failed', 'needs_rebuild') THEN p.last_error END"
		  " FROM incbatch.pipelines p WHERE p.relation = $1"
		  " ORDER BY p.last_error IS NULL LIMIT 1", 0);
	if (SPI_processed == 0)
		elog(ERROR, "could not read incbatch.pipelines");
	right = psprintf("%s  %s", text_of(0, 2), text_of(0, 3));
	ib_draw_left(&report->text, text_of(0, 1), WIDTH - 2 - ib_draw_width(right));
	appendStringInfo(&report->text, "  %s", right);
	end_line(report);
	ib_draw_rule(&report->text, WIDTH);
	end_line(report);
	if (*text_of(0, 4) != '\0')
		put_wrapped(report, text_of(0, 4), 2);
}

/*
 * Staleness as a part of the freshness; those that are not fresh come first,
 * with the reason, which many may share.  Without consumers nobody has named
 * a freshness.
 */
static void
put_consumers(Report *report)
{
	uint64		n = query(report,
						  "SELECT l.consumer, extract(epoch FROM l.staleness)::float8,"
						  " extract(epoch FROM l.freshness)::float8, extract(epoch FROM l.trigger_interval)::float8,"
						  " l.status, l.status = 'fresh', l.reason"
						  " FROM incbatch.lag l WHERE l.pipeline = $1::text"
						  " ORDER BY l.status = 'fresh', coalesce(l.freshness, l.trigger_interval), l.consumer", 0);
	uint64		shown = n > MAX_CONSUMERS ? MAX_CONSUMERS - 1 : n;
	uint64		fresh = 0;
	const char *told = "";

	heading(report, "CONSUMERS", "staleness of freshness");
	for (uint64 i = 0; i < shown; i++)
	{
		double		staleness = number_of(i, 2);
		double		freshness = number_of(i, 3);
		bool		nobody = isnan(freshness);
		char	   *limit = nobody ? cadence(number_of(i, 4)) : psprintf("of %s", ib_human_seconds(freshness));

		ib_draw_left(&report->text, nobody ? "(none)" : text_of(i, 1), NAME_COLUMNS);
		appendStringInfoString(&report->text, "  ");
		if (nobody)
			appendStringInfoSpaces(&report->text, BAR_COLUMNS);
		else
			ib_draw_bar(&report->text, freshness > 0 ? staleness / freshness : staleness > 0 ? 2 : 0,
						BAR_COLUMNS, true);
		ib_draw_right(&report->text, ib_human_seconds(staleness), 9);
		appendStringInfoChar(&report->text, nobody ? ',' : ' ');
		ib_draw_left(&report->text, psprintf("%s%s", nobody ? " " : "", limit), 14);
		ib_draw_right(&report->text, text_of(i, 5), 14);
		end_line(report);
		if (strcmp(told, text_of(i, 7)) != 0)
		{
			told = text_of(i, 7);
			if (*told != '\0')
				put_line(report, psprintf("  %s", told));
		}
	}
	for (uint64 i = shown; i < n; i++)
		fresh += *text_of(i, 6) == 't';
	if (shown < n)
		put_line(report, psprintf("and " UINT64_FORMAT " more, " UINT64_FORMAT " of them fresh",
								  n - shown, fresh));
	if (n == 0)
		put_line(report, "(none)");
}

/*
 * Per column, the age that the oldest waiting change had reached, and the
 * longest batch.  A batch whose slowest change took l and that became visible
 * at f says how old the oldest one was at any time from f - l to f; what is
 * not visible yet is younger than the frontier.  NaN: nothing waited.
 */
static void
measure_past(Report *report, const PathLine *path, double *lag, double *run)
{
	double		width = report->span / COLUMNS;
	uint64		n = query(report,
						  "SELECT $3 - extract(epoch FROM $2 - b.finished_at)::float8,"
						  " extract(epoch FROM b.latency_max)::float8,"
						  " (b.read_ms + b.transform_ms + b.merge_ms + b.commit_ms) / b.runs / 1000"
						  " FROM incbatch.batches b WHERE " IN_SPAN, path->path);

	for (int i = 0; i < COLUMNS; i++)
	{
		double		waited = path->age - (COLUMNS - 1 - i) * width;

		lag[i] = waited > 0 ? waited : get_float8_nan();
		run[i] = get_float8_nan();
	}
	for (uint64 row = 0; row < n; row++)
	{
		double		finished = number_of(row, 1);
		double		began = finished - number_of(row, 2);
		int			last = Min((int) (finished / width), COLUMNS - 1);

		for (int i = (int) (Max(began, 0) / width); i <= last; i++)
			lag[i] = fmax(lag[i], Min((i + 1) * width, finished) - began);
		run[last] = fmax(run[last], number_of(row, 3));
	}
}

static void
put_chart(Report *report, const char *label, const double *values)
{
	double		largest = get_float8_nan();

	for (int i = 0; i < COLUMNS; i++)
		largest = fmax(largest, values[i]);
	ib_draw_left(&report->text, label, 8);
	ib_draw_right(&report->text, ib_human_seconds(largest), 8);
	appendStringInfoChar(&report->text, ' ');
	ib_draw_chart(&report->text, values, COLUMNS);
	end_line(report);
}

/* What a path did in the span, and its two charts */
static void
put_path(Report *report, const PathLine *path)
{
	double		lag[COLUMNS];
	double		run[COLUMNS];
	char	   *left = psprintf("%s: no batch", cadence(path->trigger));
	char	   *right = isnan(path->p50) ? "" :
		psprintf("p50 %s, p99 %s", ib_human_seconds(path->p50), ib_human_seconds(path->p99));

	query(report,
		  "SELECT coalesce(sum(b.runs), 0)::float8, sum(b.rows_in)::float8, to_char(min(b.finished_at), 'HH24:MI:SS')"
		  " FROM incbatch.batches b WHERE " IN_SPAN, path->path);
	if (number_of(0, 1) > 0)
		left = psprintf("%s: %s batch%s, %s rows since %s", cadence(path->trigger),
						ib_human_count(number_of(0, 1)), number_of(0, 1) == 1 ? "" : "es",
						ib_human_count(number_of(0, 2)), text_of(0, 3));
	ib_draw_left(&report->text, left, WIDTH - 2 - ib_draw_width(right));
	appendStringInfo(&report->text, "  %s", right);
	end_line(report);

	measure_past(report, path, lag, run);
	put_chart(report, "  lag", lag);
	put_chart(report, "  batch", run);
}

static void
put_past(Report *report)
{
	uint64		n = query(report,
						  "SELECT a.path, extract(epoch FROM a.trigger_interval)::float8,"
						  " extract(epoch FROM $2 - a.as_of)::float8,"
						  " extract(epoch FROM max(l.latency_p50))::float8, extract(epoch FROM max(l.latency_p99))::float8"
						  " FROM incbatch.paths a LEFT JOIN incbatch.lag l"
						  " ON l.path = a.path"
						  " WHERE a.pipeline = $1::text GROUP BY a.path, a.trigger_interval, a.as_of"
						  " ORDER BY a.trigger_interval, a.path", 0);
	uint64		shown = Min(n, MAX_PATHS);
	PathLine	paths[MAX_PATHS];

	for (uint64 i = 0; i < shown; i++)
		paths[i] = (PathLine) {
			.path = pg_strtoint32(text_of(i, 1)),
			.trigger = number_of(i, 2),
			.age = number_of(i, 3),
			.p50 = number_of(i, 4),
			.p99 = number_of(i, 5),
		};
	heading(report, psprintf("LAST %s", report->span == 60 ? "MINUTE" : report->span == 3600 ? "HOUR" :
							 report->span == 86400 ? "DAY" : ib_human_seconds(report->span)),
			psprintf("a column is %s at its worst; the latest is at the right",
					 ib_human_seconds(report->span / COLUMNS)));
	for (uint64 i = 0; i < shown; i++)
		put_path(report, &paths[i]);
	if (shown < n)
		put_line(report, psprintf("and " UINT64_FORMAT " slower paths", n - shown));
}

/* CPU of a day at each cadence; those that a path has are marked. */
static void
put_cost(Report *report)
{
	bool		utf8 = ib_draw_utf8();
	double		most = 0;
	uint64		n = query(report,
						  "SELECT extract(epoch FROM c.trigger_interval)::float8, c.cpu_seconds_per_day::float8,"
						  " c.wal_mb_per_day::float8, c.times_batch::float8, c.used, c.basis,"
						  " CASE WHEN c.cost_per_day IS NOT NULL THEN round(c.cost_per_day, 2) END"
						  " FROM (SELECT c.*, u.used, row_number() OVER (ORDER BY u.used DESC, c.trigger_interval) AS number"
						  "  FROM incbatch.cost($1::text) c CROSS JOIN LATERAL"
						  "  (SELECT EXISTS (SELECT FROM incbatch.paths a WHERE a.pipeline = $1::text"
						  "   AND a.trigger_interval = c.trigger_interval) AS used) u) c"
						  " WHERE c.number <= " CppAsString2(MAX_CADENCES) " ORDER BY c.trigger_interval", 0);

	heading(report, "COST A DAY", n > 0 ? text_of(0, 6) : "");
	for (uint64 i = 0; i < n; i++)
		most = fmax(most, number_of(i, 2));
	for (uint64 i = 0; i < n; i++)
	{
		bool		used = *text_of(i, 5) == 't';
		double		cpu = number_of(i, 2);

		ib_draw_left(&report->text, used ? utf8 ? "▸" : "*" : "", 2);
		ib_draw_left(&report->text, cadence(number_of(i, 1)), 14);
		ib_draw_bar(&report->text, most > 0 ? cpu / most : 0, 22, false);
		ib_draw_right(&report->text, ib_human_seconds(cpu), 9);
		appendStringInfoString(&report->text, " CPU");
		ib_draw_right(&report->text, ib_human_bytes(number_of(i, 3) * 1048576), 8);
		appendStringInfoString(&report->text, " WAL");
		ib_draw_right(&report->text, ib_human_ratio(number_of(i, 4)), 6);
		appendStringInfoString(&report->text, utf8 ? " × batch" : " x batch");
		end_line(report);
	}
	if (n == 0)
		put_line(report, "(no history yet)");
}

/* An answer that does not fit beside its question gets a line of its own. */
static void
put_diagnosis(Report *report)
{
	uint64		n = query(report, "SELECT d.question, d.answer FROM incbatch.diagnose($1::text) d", 0);

	heading(report, "DIAGNOSIS", "");
	for (uint64 i = 0; i < Min(n, MAX_QUESTIONS); i++)
	{
		char	   *line = psprintf("%s %s", text_of(i, 1), text_of(i, 2));

		if (ib_draw_width(line) > WIDTH)
		{
			put_line(report, text_of(i, 1));
			line = psprintf("  %s", text_of(i, 2));
		}
		put_line(report, line);
	}
}

/* The length of the charts */
static double
span_seconds(FunctionCallInfo fcinfo, int arg)
{
	double		seconds;

	ib_refuse_null(fcinfo, arg, "span");
	seconds = DatumGetFloat8(DirectFunctionCall2(interval_part, CStringGetTextDatum("epoch"),
												 PG_GETARG_DATUM(arg)));
	if (!(seconds > 0))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("span must be greater than 0"));
	if (seconds > LONGEST_SPAN)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("span must be at most 100 years"));
	return seconds;
}

/* The end of the charts */
static TimestampTz
end_of_span(FunctionCallInfo fcinfo, int arg)
{
	if (PG_ARGISNULL(arg))
		return GetCurrentTimestamp();
	if (TIMESTAMP_NOT_FINITE(PG_GETARG_TIMESTAMPTZ(arg)))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("parameter \"at\" must be finite"),
				errhint("Leave it out for now."));
	return PG_GETARG_TIMESTAMPTZ(arg);
}

Datum
ib_report(PG_FUNCTION_ARGS)
{
	Report		report = {0};
	Oid			relation;
	int			guc_level;

	ib_refuse_null(fcinfo, 0, "name");
	(void) ib_visible_pipeline(PG_GETARG_TEXT_PP(0), &relation);
	initStringInfo(&report.text);
	report.pipeline = ObjectIdGetDatum(relation);
	report.at = end_of_span(fcinfo, 1);
	report.span = span_seconds(fcinfo, 2);

	guc_level = NewGUCNestLevel();
	ib_apply_settings(ib_name_settings());
	SPI_connect();
	put_title(&report);
	put_consumers(&report);
	put_past(&report);
	put_cost(&report);
	put_diagnosis(&report);
	SPI_finish();
	AtEOXact_GUC(false, guc_level);

	report.text.data[--report.text.len] = '\0';
	PG_RETURN_TEXT_P(cstring_to_text_with_len(report.text.data, report.text.len));
}
