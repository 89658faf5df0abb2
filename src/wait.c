/*
 * wait.c
 *	  The SQL functions that wait for the worker: refresh_pipeline, wait_for.
 *
 * They hold no XID while they wait, for the worker may be waiting for that
 * XID to end, and nobody would see the deadlock.  Whatever keeps a pipeline
 * from getting anywhere ends the wait with an error.
 */
#include "incbatch.h"

#include "access/xlog.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"

#include "decode.h"
#include "functions.h"
#include "path.h"

PG_FUNCTION_INFO_V1(ib_refresh_pipeline);
PG_FUNCTION_INFO_V1(ib_wait_for);

/* While waiting for the worker, look this often whether it still can. */
#define WAIT_CHECK_MS 200

/* Whoever waits for a worker that cannot be there waits in vain. */
static void
require_worker(void)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("no incbatch worker runs on a standby"),
				errdetail("Pipelines are kept up to date on the primary, and come here with its other tables."),
				errhint("Call this on the primary; incbatch.lag says here how fresh a pipeline is."));
	if (!IsUnderPostmaster)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("no incbatch worker runs in single-user mode"),
				errhint("Start the server."));
	if (ib_shared->shutting_down)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("no incbatch worker runs until the server restarts"),
				errdetail("incbatch.prepare_shutdown was called."),
				errhint("Restart the server, or have a superuser run incbatch.prepare_shutdown(undo => true); then run incbatch.rebuild_pipeline."));
}

/* One that the server has no room for may come yet; the caller hears of it once. */
static void
tell_of_obstacle(bool *told)
{
	DatabaseEntry *entry = ib_database_find(MyDatabaseId);

	if (*told || entry == NULL || entry->obstacle == OBSTACLE_NONE)
		return;
	*told = true;
	ereport(NOTICE,
			errmsg("no incbatch worker can be started for this database; waiting for one"),
			errhint("incbatch.workers.state says what is in its way."));
}

/*
 * What keeps a path from getting anywhere, if anything does, is an error, for
 * who waits for it would wait for ever.
 */
static void
refuse_stopped(const char *pipeline, const char *path, const char *state, const char *error)
{
	ereport(ERROR,
			errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			path ? errmsg("path \"%s\" of pipeline \"%s\" is in state \"%s\"", path, pipeline, state) :
			errmsg("pipeline \"%s\" is in state \"%s\"", pipeline, state),
			error ? errdetail("%s", error) : 0,
			errhint("%s", strcmp(state, ib_path_state_name(PATH_FAILED)) == 0 ?
					"When the cause is gone, run incbatch.resume_pipeline." :
					"Run incbatch.rebuild_pipeline."));
}

/*
 * The paths of a pipeline that can get anywhere, or the freshest one alone.
 * Where one has stopped, "stopped" is set; that is an error if it is NULL.
 */
static List *
running_paths(int32 pipeline, bool freshest, bool *stopped)
{
	Oid			types[] = {INT4OID, BOOLOID};
	Datum		values[] = {Int32GetDatum(pipeline), BoolGetDatum(freshest)};
	MemoryContext caller = CurrentMemoryContext;
	List	   *result = NIL;
	CatalogScope scope;

	PushActiveSnapshot(GetLatestSnapshot());
	ib_catalog_enter(&scope);
	/* in a copy of a database no worker may ever come and find that it is one */
	if (SPI_execute_with_args("SELECT a.id, p.paused, CASE WHEN s.state OPERATOR(pg_catalog.=) 'needs_rebuild'"
							  " THEN s.state ELSE a.state END,"
							  " s.last_error, p.relation::pg_catalog.text, a.relation::pg_catalog.text"
							  " FROM incbatch.path a JOIN incbatch.pipeline p"
							  " ON p.id OPERATOR(pg_catalog.=) a.pipeline"
							  " JOIN incbatch.path_state s ON s.path OPERATOR(pg_catalog.=) a.id"
							  " WHERE p.id OPERATOR(pg_catalog.=) $1"
							  " ORDER BY a.trigger_interval, a.id LIMIT CASE WHEN $2 THEN 1 END",
							  2, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read incbatch.path");
	if (SPI_processed == 0)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("the pipeline was dropped"));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		char	   *state = SPI_getvalue(tuple, desc, 3);
		MemoryContext spi;

		if (strcmp(state, ib_path_state_name(PATH_FAILED)) == 0 ||
			strcmp(state, ib_path_state_name(PATH_NEEDS_REBUILD)) == 0)
		{
			if (stopped == NULL)
				refuse_stopped(SPI_getvalue(tuple, desc, 5),
							   SPI_processed > 1 ? SPI_getvalue(tuple, desc, 6) : NULL,
							   state, SPI_getvalue(tuple, desc, 4));
			*stopped = true;
			continue;
		}
		if (strcmp(SPI_getvalue(tuple, desc, 2), "t") == 0)
			ereport(ERROR,
					errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("pipeline \"%s\" is paused", SPI_getvalue(tuple, desc, 5)),
					errhint("Run incbatch.resume_pipeline first."));
		spi = MemoryContextSwitchTo(caller);
		result = lappend_int(result, atoi(SPI_getvalue(tuple, desc, 1)));
		MemoryContextSwitchTo(spi);
	}
	ib_catalog_leave(&scope);
	PopActiveSnapshot();
	return result;
}

/*
 * The entry of a path; from here on its moves will end wait_for_move, so that
 * none is missed between looking at it and sleeping.
 */
static PathEntry *
watch_path(int32 path)
{
	PathEntry  *entry = ib_path_entry_find(path);

	if (entry != NULL)
		ConditionVariablePrepareToSleep(&entry->moved);
	return entry;
}

/*
 * Sleep until a watched path moves; the entry may come, go and change
 * meanwhile.
 */
static void
wait_for_move(PathEntry *entry, int64 timeout_ms)
{
	if (entry != NULL)
	{
		(void) ConditionVariableTimedSleep(&entry->moved, timeout_ms, ib_wait_event(WAIT_FOR_PATH));
		ConditionVariableCancelSleep();
	}
	else
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(timeout_ms, 20), ib_wait_event(WAIT_FOR_PATH));
		ResetLatch(MyLatch);
	}
	CHECK_FOR_INTERRUPTS();
}

static bool
has_reached(PathEntry *entry, XLogRecPtr lsn)
{
	return entry != NULL && pg_atomic_read_u64(&entry->decoded_lsn) >= lsn;
}

/*
 * Ask for a run of each path, before there is WAL that an idle path could pass
 * without one: what a run stores is of after the call.
 */
static void
ask_for_runs(List *running)
{
	XLogRecPtr	next = ib_wal_end() + 1;
	ListCell   *lc;

	foreach(lc, running)
	{
		PathEntry  *entry = ib_path_entry_find(lfirst_int(lc));

		if (entry != NULL && pg_atomic_read_u64(&entry->refresh_lsn) < next)
			pg_atomic_write_u64(&entry->refresh_lsn, next);
	}
}

/* Wait until a path contains what the WAL has up to a barrier, or has stopped. */
static void
wait_for_barrier(int32 pipeline, int32 path, XLogRecPtr barrier, bool *stopped, bool *told)
{
	for (;;)
	{
		PathEntry  *entry = watch_path(path);

		if (has_reached(entry, barrier))
			break;
		if (entry != NULL && pg_atomic_read_u64(&entry->refresh_lsn) < barrier)
		{
			pg_atomic_write_u64(&entry->refresh_lsn, barrier);
			ib_database_nudge(MyDatabaseId);
		}
		if (entry == NULL)
			ib_path_entry_require();
		require_worker();
		tell_of_obstacle(told);
		wait_for_move(entry, WAIT_CHECK_MS);
		if (!has_reached(ib_path_entry_find(path), barrier) &&
			!list_member_int(running_paths(pipeline, false, stopped), path))
			break;
	}
	ConditionVariableCancelSleep();
}

/*
 * Run a pipeline's paths until each contains what had committed before the
 * call.  One that has stopped is an error, but not before its siblings, which
 * can do without it, are done.
 */
void
ib_refresh(int32 pipeline)
{
	XLogRecPtr	barrier;
	List	   *running;
	ListCell   *lc;
	bool		stopped = false;
	bool		told = false;

	require_worker();
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				errmsg("a pipeline cannot be refreshed in a transaction that has written"),
				errdetail("What the transaction wrote is folded in after its commit."),
				errhint("Commit first."));
	running = running_paths(pipeline, false, &stopped);
	ask_for_runs(running);
	barrier = ib_emit_barrier();
	for (;;)
	{
		foreach(lc, running)
			wait_for_barrier(pipeline, lfirst_int(lc), barrier, &stopped, &told);
		if (!stopped)
			return;
		/* somebody may have brought it back meanwhile */
		running = running_paths(pipeline, false, NULL);
		stopped = false;
	}
}

Datum
ib_refresh_pipeline(PG_FUNCTION_ARGS)
{
	Oid			relation;

	ib_refuse_null(fcinfo, 0, "name");
	ib_shmem_require();
	ib_refresh(ib_own_pipeline(PG_GETARG_TEXT_PP(0), &relation));
	PG_RETURN_VOID();
}

/* Wait until the freshest path contains what committed before a position. */
Datum
ib_wait_for(PG_FUNCTION_ARGS)
{
	XLogRecPtr	lsn;
	Interval   *timeout;
	TimestampTz deadline;
	Oid			relation;
	int32		pipeline;
	bool		told = false;

	ib_refuse_null(fcinfo, 0, "name");
	ib_refuse_null(fcinfo, 1, "lsn");
	ib_refuse_null(fcinfo, 2, "timeout");
	ib_shmem_require();
	require_worker();
	pipeline = ib_readable_pipeline(PG_GETARG_TEXT_PP(0), &relation);
	lsn = Min(PG_GETARG_LSN(1), ib_wal_end());
	timeout = PG_GETARG_INTERVAL_P(2);
	deadline = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
													   TimestampTzGetDatum(GetCurrentTimestamp()),
													   IntervalPGetDatum(timeout)));
	XLogFlush(lsn);
	for (;;)
	{
		PathEntry  *entry = watch_path(linitial_int(running_paths(pipeline, true, NULL)));
		int64		left;

		if (entry != NULL && pg_atomic_read_u64(&entry->frontier_lsn) >= lsn)
		{
			ConditionVariableCancelSleep();
			PG_RETURN_BOOL(true);
		}
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		if (left <= 0)
		{
			ConditionVariableCancelSleep();
			PG_RETURN_BOOL(false);
		}
		require_worker();
		tell_of_obstacle(&told);
		wait_for_move(entry, Min(left, WAIT_CHECK_MS));
	}
}
