/*
 * late.c
 *	  The part of a run that closes windows and keeps late changes out.
 *
 * Called by apply.c and backfill.c of a path that has a lateness, in this
 * order: begin (as the worker), offer, truncate or survey, advance (as the
 * owner), store (as the worker).  What survey finds waits in tuplestores of
 * the transaction, since user code must not run as the worker, nor the owner
 * write incbatch's tables.
 *
 * What a watermark is, and the statements, are in watermark.c.
 */
#include "incbatch.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "functions.h"
#include "watermark.h"

PG_FUNCTION_INFO_V1(ib_watermark);

#define LATE_ROWS_RELATION "incbatch_late_rows"
#define LATE_WINDOWS_RELATION "incbatch_late_windows"

/* ----------------------------------------------------------------
 *		The run
 * ----------------------------------------------------------------
 */

static void
read_watermark(int32 path, Watermark *mark)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(path)};
	bool		isnull;

	mark->largest = mark->closed = mark->removed = mark->shown = DT_NOBEGIN;
	SPI_connect();
	ib_spi("SELECT largest, closed, removed, watermark, rows_late, rows_ahead"
		   " FROM incbatch.path_watermark WHERE path OPERATOR(pg_catalog.=) $1",
		   SPI_OK_SELECT, 1, types, values, NULL);
	if (SPI_processed == 1)
	{
		HeapTuple	tuple = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;

		mark->largest = DatumGetTimestamp(SPI_getbinval(tuple, desc, 1, &isnull));
		mark->closed = DatumGetTimestamp(SPI_getbinval(tuple, desc, 2, &isnull));
		mark->removed = DatumGetTimestamp(SPI_getbinval(tuple, desc, 3, &isnull));
		mark->shown = DatumGetTimestampTz(SPI_getbinval(tuple, desc, 4, &isnull));
		mark->rows_late = DatumGetInt64(SPI_getbinval(tuple, desc, 5, &isnull));
		mark->rows_ahead = DatumGetInt64(SPI_getbinval(tuple, desc, 6, &isnull));
	}
	SPI_finish();
}

/*
 * Before a run acts as the owner: what was stored.  A backfill starts the
 * watermark anew.
 */
void
ib_late_begin(IbPath *path, bool anew, LateRun *run)
{
	memset(run, 0, sizeof(*run));
	run->anew = anew;
	run->trim = DT_NOBEGIN;
	if (anew)
		run->mark.largest = run->mark.closed = run->mark.removed = run->mark.shown = DT_NOBEGIN;
	else
		read_watermark(path->row->path, &run->mark);
}

/* Offer the watermark to the statements of a run, as the owner. */
void
ib_late_offer(IbPath *path, LateRun *run)
{
	static const char *const names[] = {CLOSED, LEFT_OUT, AHEAD};
	Oid			type = path->statements->late->type;
	Timestamp	times[3];

	times[0] = run->mark.closed;
	times[1] = path->row->late_policy != LATE_APPLY ? run->mark.closed :
		MUTANT(RETENTION_APPLY) ? DT_NOBEGIN : run->mark.removed;
	run->ahead = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
											 (int64) ib_event_time_ahead * 1000);
	if (type != TIMESTAMPTZOID)
		run->ahead = DatumGetTimestamp(DirectFunctionCall1(timestamptz_timestamp,
														   TimestampTzGetDatum(run->ahead)));
	times[2] = run->ahead;
	ib_watermark_offer_times(WATERMARK_RELATION, type, names, times, lengthof(times));
}

/*
 * A store for the result of a statement, to be read when the run no longer is
 * the owner, nor in the subtransaction that it may be in (divert.c).
 */
static Tuplestorestate *
begin_for_later(void)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	ResourceOwner owner = CurrentResourceOwner;
	Tuplestorestate *store;

	CurrentResourceOwner = TopTransactionResourceOwner;
	store = tuplestore_begin_heap(false, false, work_mem);
	CurrentResourceOwner = owner;
	MemoryContextSwitchTo(old);
	return store;
}

/* Late changes are kept out of the windows that a statement selects. */
static void
find_windows(LateRun *run, const char *sql)
{
	Tuplestorestate *windows = begin_for_later();
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

	run->windows = lappend(run->windows, windows);
	MemoryContextSwitchTo(old);
	ib_run_statement(sql, SPI_OK_SELECT, windows);
}

/* Take a run back to where it began: what it found is found anew. */
void
ib_late_restart(LateRun *run, const LateRun *begun)
{
	ListCell   *lc;

	foreach(lc, run->windows)
		tuplestore_end(lfirst(lc));
	if (run->rows != NULL)
		tuplestore_end(run->rows);
	*run = *begun;
}

/* An event time, or one to compare it with; as times of its type compare. */
static int64
comparable(Oid type, Datum time)
{
	return type == DATEOID ? DatumGetDateADT(time) : DatumGetTimestamp(time);
}

static int64
comparable_time(Oid type, Timestamp time)
{
	return comparable(type, ib_watermark_time_datum(type, time));
}

/*
 * Look at the event times of a batch: the largest that drives the watermark,
 * how many are too far ahead for that, and the rows that may be late.  Returns
 * the number of these.
 */
static int64
survey(const Batch *batch, AttrNumber event_time, LateRun *run,
	   Tuplestorestate *candidates, TupleDesc desc)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(batch->desc, &TTSOpsMinimalTuple);
	Oid			type = TupleDescAttr(batch->desc, event_time - 1)->atttypid;
	int64		closed = comparable_time(type, run->mark.closed);
	int64		ahead = comparable_time(type, run->ahead);
	int64		largest = PG_INT64_MIN;
	int64		found = 0;

	tuplestore_rescan(batch->store);
	for (int64 number = 1; tuplestore_gettupleslot(batch->store, true, false, slot); number++)
	{
		bool		isnull;
		int64		time = comparable(type, slot_getattr(slot, event_time, &isnull));
		bool		added;

		CHECK_FOR_INTERRUPTS();
		if (isnull)
			continue;
		if (time < closed)
		{
			ib_batch_put_numbered(candidates, desc, slot, number);
			found++;
		}
		if (time <= largest)
			continue;
		added = batch->negatives == 0 || ib_batch_adds(batch, slot);
		if (added && time > ahead)
			run->rows_ahead++;
		else if (added)
			largest = time;
	}
	ExecDropSingleTupleTableSlot(slot);
	if (largest != PG_INT64_MIN)
		run->mark.largest = Max(run->mark.largest, type != DATEOID ? largest :
								DatumGetTimestamp(DirectFunctionCall1(date_timestamp,
																	  DateADTGetDatum(largest))));
	return found;
}

/*
 * Look at the event times of the batch, and take out its late changes.  True:
 * there are some that the transform must leave out.
 */
bool
ib_late_survey(IbPath *path, LateRun *run)
{
	LateStatements *late = path->statements->late;
	Batch	   *batch = ib_inputs_source(path);
	TupleDesc	desc = ib_batch_numbered_descriptor(batch);
	Tuplestorestate *candidates = tuplestore_begin_heap(false, false, work_mem);
	int64		found = survey(batch, path->row->event_time, run, candidates, desc);

	if (found > 0)
	{
		ib_offer_relation(CANDIDATES_RELATION, InvalidOid, desc, candidates, found);
		run->used = run->mark.shown;
		run->rows = begin_for_later();
		run->rows_late = ib_run_statement(late->rows, SPI_OK_SELECT, run->rows);
		if (run->rows_late > 0 && path->row->late_policy != LATE_APPLY)
			find_windows(run, late->windows);
		SPI_unregister_relation(CANDIDATES_RELATION);
	}
	tuplestore_end(candidates);
	return run->rows_late > 0;
}

/* After a backfill's merge: the event times of the source. */
void
ib_late_survey_source(IbPath *path, LateRun *run)
{
	HeapTuple	tuple;
	TupleDesc	desc;
	bool		isnull;
	Datum		largest;

	(void) ib_run_statement(path->statements->late->survey_source, SPI_OK_SELECT, NULL);
	tuple = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	largest = SPI_getbinval(tuple, desc, 1, &isnull);
	if (!isnull)
		run->mark.largest = Max(run->mark.largest, DatumGetTimestamp(largest));
	run->rows_ahead = DatumGetInt64(SPI_getbinval(tuple, desc, 2, &isnull));
}

/*
 * A TRUNCATE of the source is the deletion of all its rows: closed windows
 * stay, unless late changes are applied.
 */
void
ib_late_truncate(IbPath *path, LateRun *run)
{
	ib_run_statement(path->statements->late->truncate, SPI_OK_DELETE, NULL);
	if (path->row->late_policy != LATE_APPLY)
		find_windows(run, path->statements->late->kept_windows);
}

/*
 * Does a retention reach back to where the calendar begins?  Then all windows
 * are kept; so long before the present, a century does not matter.
 */
static bool
keeps_all(Timestamp closed, const Interval *retention)
{
	double		length = retention->time + (double) USECS_PER_DAY *
		(retention->day + 31.0 * retention->month);

	return closed - length < MIN_TIMESTAMP + 36525.0 * USECS_PER_DAY;
}

/* Remove the windows that retention no longer keeps, and remember how far. */
static void
retain(IbPath *path, LateRun *run)
{
	static const char *const names[] = {REMOVED, REMOVED_BEFORE};
	LateStatements *late = path->statements->late;
	Timestamp	times[2];
	bool		isnull;
	Datum		oldest;

	if (keeps_all(run->mark.closed, &path->row->retention))
		return;
	times[1] = run->mark.removed;
	times[0] = DatumGetTimestamp(DirectFunctionCall2(timestamp_mi_interval,
													 TimestampGetDatum(run->mark.closed),
													 IntervalPGetDatum(&path->row->retention)));
	if (times[0] <= times[1])
		return;
	ib_watermark_offer_times(REMOVAL_RELATION, late->type, names, times, lengthof(times));
	if (!MUTANT(RETENTION))
		ib_run_statement(late->retain, SPI_OK_DELETE, NULL);
	ib_run_statement(late->retained, SPI_OK_SELECT, NULL);
	oldest = ib_spi_column(0, 1, &isnull);
	if (!isnull)
		run->trim = DatumGetTimestamp(oldest);
	run->mark.removed = times[0];
}

/* After the merge: the watermark that this batch leaves behind. */
void
ib_late_advance(IbPath *path, LateRun *run)
{
	Watermark  *mark = &run->mark;
	Timestamp	closed;

	mark->rows_late += run->rows_late;
	mark->rows_ahead += run->rows_ahead;
	if (!TIMESTAMP_NOT_FINITE(mark->largest) &&
		!pg_sub_s64_overflow(mark->largest, MUTANT(LATENESS) ? 0 : path->row->lateness_usecs, &closed) &&
		IS_VALID_TIMESTAMP(closed))
		mark->closed = MUTANT(WATERMARK_BACK) ? closed : Max(mark->closed, closed);
	if (TIMESTAMP_NOT_FINITE(mark->closed))
		return;
	mark->shown = path->statements->late->type == TIMESTAMPTZOID ? mark->closed :
		DatumGetTimestampTz(DirectFunctionCall1(timestamp_timestamptz,
												TimestampGetDatum(mark->closed)));
	if (path->row->retains)
		retain(path, run);
}

static void
store_watermark(int32 path, const Watermark *mark)
{
	Oid			types[] = {INT4OID, TIMESTAMPOID, TIMESTAMPOID, TIMESTAMPOID,
	TIMESTAMPTZOID, INT8OID, INT8OID};
	Datum		values[] = {
		Int32GetDatum(path),
		TimestampGetDatum(mark->largest),
		TimestampGetDatum(mark->closed),
		TimestampGetDatum(mark->removed),
		TimestampTzGetDatum(mark->shown),
		Int64GetDatum(mark->rows_late),
		Int64GetDatum(mark->rows_ahead),
	};

	ib_spi("INSERT INTO incbatch.path_watermark (path, largest, closed, removed, watermark, rows_late, rows_ahead)"
		   " VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (path) DO UPDATE"
		   " SET largest = $2, closed = $3, removed = $4, watermark = $5, rows_late = $6, rows_ahead = $7",
		   SPI_OK_INSERT, lengthof(types), types, values, NULL);
}

/* Late changes, each with the commit that made it, in the order of the batch. */
static Tuplestorestate *
with_commits(const Batch *batch, Tuplestorestate *rows, TupleDesc desc)
{
	TupleDesc	late_desc = CreateTemplateTupleDesc(4);
	Tuplestorestate *result = tuplestore_begin_heap(false, false, work_mem);
	TupleTableSlot *slot;
	int			transaction = -1;
	int64		last = 0;

	TupleDescInitEntry(late_desc, 1, "number", INT8OID, -1, 0);
	TupleDescInitEntry(late_desc, 2, "event_time", TIMESTAMPTZOID, -1, 0);
	TupleDescInitEntry(late_desc, 3, "change", TEXTOID, -1, 0);
	TupleDescInitEntry(late_desc, 4, "row", JSONBOID, -1, 0);
	slot = MakeSingleTupleTableSlot(late_desc, &TTSOpsMinimalTuple);
	while (tuplestore_gettupleslot(rows, true, false, slot))
	{
		const BatchTransaction *commit;
		Datum		values[5];
		bool		nulls[5] = {false};

		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(slot);
		commit = ib_batch_transaction_of(batch, DatumGetInt64(slot->tts_values[0]), &transaction, &last);
		for (int i = 0; i < 3; i++)
		{
			values[i] = slot->tts_values[i + 1];
			nulls[i] = slot->tts_isnull[i + 1];
		}
		values[3] = LSNGetDatum(commit->commit_lsn);
		values[4] = TimestampTzGetDatum(commit->commit_time);
		tuplestore_putvalues(result, desc, values, nulls);
	}
	ExecDropSingleTupleTableSlot(slot);
	return result;
}

/* Keep the late changes of a batch. */
static void
divert(IbPath *path, LateRun *run)
{
	TupleDesc	desc = CreateTemplateTupleDesc(5);
	Oid			types[] = {INT4OID, TIMESTAMPTZOID};
	Datum		values[] = {
		Int32GetDatum(path->row->path),
		TimestampTzGetDatum(run->used),
	};
	Tuplestorestate *rows;

	TupleDescInitEntry(desc, 1, "event_time", TIMESTAMPTZOID, -1, 0);
	TupleDescInitEntry(desc, 2, "change", TEXTOID, -1, 0);
	TupleDescInitEntry(desc, 3, "row", JSONBOID, -1, 0);
	TupleDescInitEntry(desc, 4, "commit_lsn", LSNOID, -1, 0);
	TupleDescInitEntry(desc, 5, "commit_time", TIMESTAMPTZOID, -1, 0);
	rows = with_commits(ib_inputs_source(path), run->rows, desc);
	ib_offer_relation(LATE_ROWS_RELATION, InvalidOid, desc, rows, run->rows_late);
	ib_spi("INSERT INTO incbatch.late_row (path, event_time, watermark, change, \"row\", commit_lsn, commit_time)"
		   " SELECT $1, event_time, $2, change, \"row\", commit_lsn, commit_time FROM " LATE_ROWS_RELATION,
		   SPI_OK_INSERT, lengthof(types), types, values, NULL);
	tuplestore_end(rows);
}

/* Note windows that late changes were kept out of. */
static void
note_windows(IbPath *path, Tuplestorestate *windows)
{
	TupleDesc	desc = CreateTemplateTupleDesc(1);
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(path->row->path)};

	TupleDescInitEntry(desc, 1, "window_start", TIMESTAMPOID, -1, 0);
	ib_offer_relation(LATE_WINDOWS_RELATION, InvalidOid, desc, windows, 100);
	ib_spi("INSERT INTO incbatch.late_window (path, window_start)"
		   " SELECT $1, window_start FROM " LATE_WINDOWS_RELATION " ON CONFLICT DO NOTHING",
		   SPI_OK_INSERT, lengthof(types), types, values, NULL);
	SPI_unregister_relation(LATE_WINDOWS_RELATION);
}

/* Forget late windows: all in a backfill, else those that are removed. */
static void
forget_windows(IbPath *path, LateRun *run)
{
	Oid			types[] = {INT4OID, TIMESTAMPOID};
	Datum		values[] = {
		Int32GetDatum(path->row->path),
		TimestampGetDatum(run->anew ? DT_NOEND : run->trim),
	};

	ib_spi("DELETE FROM incbatch.late_window WHERE path OPERATOR(pg_catalog.=) $1"
		   " AND (window_start OPERATOR(pg_catalog.<) $2 OR $2 OPERATOR(pg_catalog.=) 'infinity')",
		   SPI_OK_DELETE, lengthof(types), types, values, NULL);
	if (run->anew)
		ib_spi("DELETE FROM incbatch.late_row WHERE path OPERATOR(pg_catalog.=) $1",
			   SPI_OK_DELETE, 1, types, values, NULL);
}

/* When the run no longer acts as the owner: write what it found. */
void
ib_late_store(IbPath *path, LateRun *run)
{
	ListCell   *lc;

	ib_catalog_see_latest();
	SPI_connect();
	store_watermark(path->row->path, &run->mark);
	if (run->anew || run->trim != DT_NOBEGIN)
		forget_windows(path, run);
	foreach(lc, run->windows)
	{
		if (!MUTANT(LATE_UNMARKED))
			note_windows(path, lfirst(lc));
		tuplestore_end(lfirst(lc));
	}
	if (run->rows != NULL && run->rows_late > 0 && path->row->late_policy == LATE_DIVERT)
		divert(path, run);
	SPI_finish();
	if (run->rows != NULL)
		tuplestore_end(run->rows);
}

/* ----------------------------------------------------------------
 *		The SQL function
 * ----------------------------------------------------------------
 */

/* incbatch.watermark: that of the pipeline's freshest path. */
Datum
ib_watermark(PG_FUNCTION_ARGS)
{
	Oid			relation;
	Oid			types[] = {INT4OID};
	Datum		values[1];
	Datum		result = (Datum) 0;
	bool		isnull = true;
	CatalogScope scope;

	values[0] = Int32GetDatum(ib_readable_pipeline(PG_GETARG_TEXT_PP(0), &relation));
	ib_catalog_enter(&scope);
	ib_spi("SELECT CASE WHEN w.watermark OPERATOR(pg_catalog.>) '-infinity' THEN w.watermark END FROM incbatch.path a"
		   " LEFT JOIN incbatch.path_watermark w ON w.path OPERATOR(pg_catalog.=) a.id"
		   " WHERE a.pipeline OPERATOR(pg_catalog.=) $1 ORDER BY a.trigger_interval, a.id LIMIT 1",
		   SPI_OK_SELECT, 1, types, values, NULL);
	if (SPI_processed == 1)
		result = ib_spi_column(0, 1, &isnull);
	ib_catalog_leave(&scope);
	if (isnull)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(result);
}
