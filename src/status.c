/*
 * status.c
 *	  What shared memory knows of workers and paths, as rows.
 *
 * The views of sql/incbatch--1.0.sql put these rows together with the catalog
 * and say what they mean; they are computed by the reader, so that a worker
 * that is dead or stopped cannot make itself look fresh.
 */
#include "incbatch.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "fmgr.h"
#include "funcapi.h"
#include "catalog/pg_authid.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "decode.h"
#include "functions.h"
#include "shmem.h"

PG_FUNCTION_INFO_V1(ib_worker_status);
PG_FUNCTION_INFO_V1(ib_path_status);
PG_FUNCTION_INFO_V1(ib_is_at_home);

static const char *const worker_states[] = {
	[WORKER_STARTING] = "starting",
	[WORKER_NO_SLOT] = "no replication slot",
	[WORKER_CREATING_SLOT] = "creating slot",
	[WORKER_RUNNING] = "running",
	[WORKER_BACKFILLING] = "backfilling",
};

static const char *const obstacles[] = {
	[OBSTACLE_NO_PROCESS] = "no worker slot",
	[OBSTACLE_NO_CONNECTIONS] = "no connections allowed",
	[OBSTACLE_VERSION] = "other version",
};

#define HOUR_USECS (INT64CONST(3600) * 1000 * 1000)
/* without a heartbeat for so long, a process does not run */
#define STOPPED_USECS (2 * 1000 * 1000)
/* a worker that ended is back by then, if it comes back at once */
#define ABSENT_USECS (1500 * 1000)
/* restarts within an hour that are no accident any more */
#define CRASH_LOOP_RESTARTS 3

/* How a worker is, as a reader sees it. */
typedef enum Presence
{
	PRESENCE_ABSENT,			/* no process */
	PRESENCE_STARTING,			/* none for a moment only */
	PRESENCE_STOPPED,			/* a process that does not run */
	PRESENCE_BLOCKED,			/* waits for a lock within a statement */
	PRESENCE_IDLE,				/* waits for something to do */
	PRESENCE_BUSY
} Presence;

static const char *const presences[] = {
	[PRESENCE_ABSENT] = "absent",
	[PRESENCE_STARTING] = "starting",
	[PRESENCE_STOPPED] = "stopped",
	[PRESENCE_BLOCKED] = "blocked",
	[PRESENCE_IDLE] = "idle",
	[PRESENCE_BUSY] = "busy",
};

/* A month is taken as 30 days, as core does where it compares intervals. */
static int64
usecs_of(const Interval *interval)
{
	return interval->time +
		(interval->month * (int64) DAYS_PER_MONTH + interval->day) * USECS_PER_DAY;
}

static char *
activity_of(DatabaseEntry *entry)
{
	return ib_activity_text(pg_atomic_read_u32(&entry->activity),
							pg_atomic_read_u32(&entry->activity_path));
}

/* An instant of the monotonic clock as a time; NULL where it is 0. */
static Datum
time_of(int64 instant, bool *isnull)
{
	*isnull = instant == 0;
	return TimestampTzGetDatum(GetCurrentTimestamp() +
							   (instant - ib_monotonic_usecs()));
}

/* Copy the entries of all databases, under the lock. */
static DatabaseEntry *
copy_databases(void)
{
	Size		size = sizeof(DatabaseEntry) * ib_shared->ndatabases;
	DatabaseEntry *entries = palloc(size);

	LWLockAcquire(ib_shared->lock, LW_SHARED);
	memcpy(entries, ib_shared->databases, size);
	LWLockRelease(ib_shared->lock);
	return entries;
}

/* How a worker is at this moment, whatever it last told itself. */
static Presence
presence_of(DatabaseEntry *entry)
{
	int64		now = ib_monotonic_usecs();
	int64		left_at = ib_shared->started;
	uint32		waits_for;

	if (entry != NULL)
		left_at = Max(left_at, entry->left_at);
	if (entry == NULL || entry->pid == 0)
		return now - left_at < ABSENT_USECS ? PRESENCE_STARTING : PRESENCE_ABSENT;
	waits_for = ProcGlobal->allProcs[entry->pgprocno].wait_event_info;
	if ((waits_for & 0xFF000000) == PG_WAIT_LOCK)
		return PRESENCE_BLOCKED;
	if (now - (int64) pg_atomic_read_u64(&entry->heartbeat) > STOPPED_USECS)
		return PRESENCE_STOPPED;
	return ib_activity_waits(pg_atomic_read_u32(&entry->activity)) ?
		PRESENCE_IDLE : PRESENCE_BUSY;
}

/* Restarts within the last hour. */
static int
restarts_of(const DatabaseEntry *entry)
{
	int64		since = ib_monotonic_usecs() - HOUR_USECS;
	int			restarts = 0;

	for (uint32 i = 0; i < Min(entry->ndeaths, WORKER_DEATHS); i++)
	{
		if (entry->deaths[i] > since)
			restarts++;
	}
	return restarts;
}

static const char *
state_of(DatabaseEntry *entry, Presence presence, int restarts)
{
	if (presence == PRESENCE_STOPPED)
		return "not responding";
	if (entry->pid != 0)
		return worker_states[pg_atomic_read_u32(&entry->state)];
	if (ib_shared->shutting_down)
		return "shutting down";
	if (entry->obstacle != OBSTACLE_NONE)
		return obstacles[entry->obstacle];
	return restarts >= CRASH_LOOP_RESTARTS ? "crash looping" : "not running";
}

/*
 * One row for each database that has a worker, or shall have one.  What a
 * worker complained of is for the users of its own database who may see
 * everybody's statistics, for it may tell values.
 */
Datum
ib_worker_status(PG_FUNCTION_ARGS)
{
	enum
	{
		DATABASE, PID, STATE, HEARTBEAT_AT, ROWS_DECODED, ACTIVITY,
		ACTIVITY_SINCE, WAIT_EVENT, RESTARTS, LAST_ERROR, CPU_MS, BATCHES_CPU_MS,
		HISTORY_CPU_MS, HISTORY_WAL_BYTES, PINNING_XID, PINNED_LSN, NCOLUMNS
	};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	bool		sees_errors = has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
	DatabaseEntry *entries;

	InitMaterializedSRF(fcinfo, 0);
	if (ib_shared == NULL)
		return (Datum) 0;

	entries = copy_databases();
	for (int i = 0; i < ib_shared->ndatabases; i++)
	{
		DatabaseEntry *entry = &entries[i];
		Datum		values[NCOLUMNS] = {0};
		bool		nulls[NCOLUMNS] = {0};
		Presence	presence;
		int			restarts;
		const char *wait_event = NULL;

		if (!OidIsValid(entry->database) || !entry->wanted)
			continue;
		presence = presence_of(entry);
		restarts = restarts_of(entry);
		if (entry->pid != 0)
			wait_event = pgstat_get_wait_event(ProcGlobal->allProcs[entry->pgprocno].wait_event_info);
		values[DATABASE] = ObjectIdGetDatum(entry->database);
		values[PID] = Int32GetDatum(entry->pid);
		nulls[PID] = nulls[ACTIVITY] = nulls[ACTIVITY_SINCE] = entry->pid == 0;
		values[STATE] = CStringGetTextDatum(state_of(entry, presence, restarts));
		values[HEARTBEAT_AT] = time_of(pg_atomic_read_u64(&entry->heartbeat), &nulls[HEARTBEAT_AT]);
		values[ROWS_DECODED] = Int64GetDatum(pg_atomic_read_u64(&entry->rows_decoded));
		if (entry->pid != 0)
		{
			values[ACTIVITY] = CStringGetTextDatum(activity_of(entry));
			values[ACTIVITY_SINCE] = time_of(pg_atomic_read_u64(&entry->activity_since),
											 &nulls[ACTIVITY_SINCE]);
		}
		nulls[WAIT_EVENT] = wait_event == NULL;
		if (wait_event)
			values[WAIT_EVENT] = CStringGetTextDatum(wait_event);
		values[RESTARTS] = Int32GetDatum(restarts);
		nulls[LAST_ERROR] = !sees_errors || entry->database != MyDatabaseId ||
			entry->last_error[0] == '\0';
		if (!nulls[LAST_ERROR])
			values[LAST_ERROR] = CStringGetTextDatum(entry->last_error);
		values[CPU_MS] = Float8GetDatum(pg_atomic_read_u64(&entry->cpu) / 1000.0);
		values[BATCHES_CPU_MS] = Float8GetDatum(pg_atomic_read_u64(&entry->batches_cpu) / 1000.0);
		values[HISTORY_CPU_MS] = Float8GetDatum(pg_atomic_read_u64(&entry->history_cpu) / 1000.0);
		values[HISTORY_WAL_BYTES] = Int64GetDatum(pg_atomic_read_u64(&entry->history_wal));
		values[PINNING_XID] = TransactionIdGetDatum(pg_atomic_read_u32(&entry->pinning_xid));
		values[PINNED_LSN] = LSNGetDatum(pg_atomic_read_u64(&entry->pinned_lsn));
		nulls[PINNING_XID] = nulls[PINNED_LSN] = values[PINNED_LSN] == 0;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

static Datum
latency_interval(PathEntry *entry, double fraction, bool *isnull)
{
	int64		usecs = ib_latency_percentile(&entry->latency, GetCurrentTimestamp(),
											  fraction);

	*isnull = usecs < 0;
	return ib_interval_datum(usecs);
}

/* The end of the WAL, on a standby of what it has replayed. */
static XLogRecPtr
end_of_wal(void)
{
	return RecoveryInProgress() ? GetXLogReplayRecPtr(NULL) : ib_wal_end();
}

enum PathStatusColumn
{
	FRONTIER_LSN, AS_OF, STALENESS, STALENESS_BEFORE, UNMOVED, FRESH_SINCE,
	STALE_SINCE, NEXT_RUN, BACKLOG_ROWS, BACKLOG_BYTES, P50, P95, P99,
	BACKFILL_STARTED_AT, ROWS_DONE, ROWS_TOTAL, LOCKED, LOCKED_SINCE, WORKER,
	WORKER_ACTIVITY, WORKER_SINCE, PATH_STATUS_COLUMNS
};

/* What only shared memory knows of a path. */
static void
show_entry(PathEntry *entry, int64 allowed, Datum *values, bool *nulls)
{
	int64		now = ib_monotonic_usecs();
	int64		moved_at = pg_atomic_read_u64(&entry->moved_at);
	Oid			locked = pg_atomic_read_u32(&entry->locked);

	if (moved_at != 0)
	{
		values[UNMOVED] = ib_interval_datum(now - moved_at);
		values[STALENESS_BEFORE] = ib_interval_datum(pg_atomic_read_u64(&entry->staleness_before));
		nulls[UNMOVED] = nulls[STALENESS_BEFORE] = false;
	}
	if (allowed >= 0)
	{
		values[FRESH_SINCE] = time_of(ib_freshness_since(&entry->freshness, allowed),
									  &nulls[FRESH_SINCE]);
		values[STALE_SINCE] = time_of(ib_staleness_since(&entry->freshness, allowed),
									  &nulls[STALE_SINCE]);
	}
	values[NEXT_RUN] = time_of(pg_atomic_read_u64(&entry->next_run), &nulls[NEXT_RUN]);
	values[BACKLOG_ROWS] = Int64GetDatum(pg_atomic_read_u64(&entry->backlog_rows));
	values[P50] = latency_interval(entry, 0.50, &nulls[P50]);
	values[P95] = latency_interval(entry, 0.95, &nulls[P95]);
	values[P99] = latency_interval(entry, 0.99, &nulls[P99]);
	values[BACKFILL_STARTED_AT] =
		time_of(pg_atomic_read_u64(&entry->backfill_started_at), &nulls[BACKFILL_STARTED_AT]);
	values[ROWS_DONE] = Int64GetDatum(pg_atomic_read_u64(&entry->backfill_rows_done));
	values[ROWS_TOTAL] = Int64GetDatum(pg_atomic_read_u64(&entry->backfill_rows_total));
	nulls[BACKLOG_ROWS] = nulls[ROWS_DONE] = nulls[ROWS_TOTAL] = false;
	if (OidIsValid(locked))
	{
		values[LOCKED] = ObjectIdGetDatum(locked);
		values[LOCKED_SINCE] = time_of(pg_atomic_read_u64(&entry->locked_since),
									   &nulls[LOCKED_SINCE]);
		nulls[LOCKED] = false;
	}
}

/*
 * How far a path is, and how stale: what its worker has shown, or else the
 * stored frontier.  Where no WAL follows the frontier nothing can
 * be missing, whoever is alive.
 */
static void
show_frontier(PathEntry *entry, XLogRecPtr lsn, TimestampTz as_of, Datum *values,
			  bool *nulls)
{
	TimestampTz now = GetCurrentTimestamp();
	XLogRecPtr	end = end_of_wal();
	int64		staleness = as_of == 0 ? -1 : Max(now - as_of, 0);

	if (entry != NULL)
	{
		int64		instant = pg_atomic_read_u64(&entry->as_of_instant);

		if (instant != 0)
			staleness = ib_monotonic_usecs() - instant;
		lsn = Max(lsn, pg_atomic_read_u64(&entry->frontier_lsn));
	}
	if (lsn == 0 || staleness < 0)
		return;
	if (lsn >= end)
		staleness = 0;
	values[FRONTIER_LSN] = LSNGetDatum(lsn);
	values[AS_OF] = TimestampTzGetDatum(now - staleness);
	values[STALENESS] = ib_interval_datum(staleness);
	values[BACKLOG_BYTES] = Int64GetDatum(lsn >= end ? 0 : end - lsn);
	nulls[FRONTIER_LSN] = nulls[AS_OF] = nulls[STALENESS] = nulls[BACKLOG_BYTES] = false;
}

/*
 * How far a path of this database is; what is stored of it is given.  The
 * views ask, and so can anybody: of others' paths shared memory tells nothing.
 */
Datum
ib_path_status(PG_FUNCTION_ARGS)
{
	Datum		values[PATH_STATUS_COLUMNS] = {0};
	bool		nulls[PATH_STATUS_COLUMNS];
	TupleDesc	desc;
	PathEntry  *entry = NULL;
	DatabaseEntry *worker = NULL;
	Presence	presence = PRESENCE_ABSENT;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	desc = BlessTupleDesc(desc);
	memset(nulls, true, sizeof(nulls));
	if (ib_shared != NULL)
	{
		entry = ib_path_entry_find(PG_GETARG_INT32(0));
		if (entry != NULL && !ib_may_see_relation(entry->relation))
			entry = NULL;
		LWLockAcquire(ib_shared->lock, LW_SHARED);
		worker = ib_database_find(MyDatabaseId);
		LWLockRelease(ib_shared->lock);
		presence = presence_of(worker);
	}
	show_frontier(entry, PG_ARGISNULL(1) ? 0 : PG_GETARG_LSN(1),
				  PG_ARGISNULL(2) ? 0 : PG_GETARG_TIMESTAMPTZ(2), values, nulls);
	if (entry != NULL)
		show_entry(entry, PG_ARGISNULL(3) ? -1 : usecs_of(PG_GETARG_INTERVAL_P(3)),
				   values, nulls);
	values[WORKER] = CStringGetTextDatum(presences[presence]);
	nulls[WORKER] = false;
	if (worker != NULL && worker->pid != 0)
	{
		values[WORKER_ACTIVITY] = CStringGetTextDatum(activity_of(worker));
		values[WORKER_SINCE] = time_of(pg_atomic_read_u64(presence == PRESENCE_STOPPED ?
														  &worker->heartbeat : &worker->activity_since),
									   &nulls[WORKER_SINCE]);
		nulls[WORKER_ACTIVITY] = false;
	}
	else if (worker != NULL)
		values[WORKER_SINCE] = time_of(worker->left_at, &nulls[WORKER_SINCE]);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

/* Is this the database of the cluster that a slot was made for? */
Datum
ib_is_at_home(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(PG_GETARG_OID(0) == MyDatabaseId &&
				   (uint64) PG_GETARG_INT64(1) == GetSystemIdentifier());
}
