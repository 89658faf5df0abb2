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
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "shmem.h"

PG_FUNCTION_INFO_V1(ib_worker_status);
PG_FUNCTION_INFO_V1(ib_path_status);
PG_FUNCTION_INFO_V1(ib_is_at_home);

static const char *const worker_states[] = {
	[WORKER_STARTING] = "starting",
	[WORKER_CREATING_SLOT] = "creating slot",
	[WORKER_RUNNING] = "running",
	[WORKER_BACKFILLING] = "backfilling",
};

/* One row for each database that has a worker, or shall have one. */
Datum
ib_worker_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	DatabaseEntry *entries;

	InitMaterializedSRF(fcinfo, 0);
	if (ib_shared == NULL)
		return (Datum) 0;

	entries = palloc(sizeof(DatabaseEntry) * ib_shared->ndatabases);
	LWLockAcquire(ib_shared->lock, LW_SHARED);
	memcpy(entries, ib_shared->databases, sizeof(DatabaseEntry) * ib_shared->ndatabases);
	LWLockRelease(ib_shared->lock);

	for (int i = 0; i < ib_shared->ndatabases; i++)
	{
		DatabaseEntry *entry = &entries[i];
		Datum		values[9] = {0};
		bool		nulls[9] = {0};

		if (!OidIsValid(entry->database) || !entry->wanted)
			continue;
		values[0] = ObjectIdGetDatum(entry->database);
		values[1] = Int32GetDatum(entry->pid);
		nulls[1] = entry->pid == 0;
		values[2] = CStringGetTextDatum(entry->pid == 0 ? "not running" :
										worker_states[pg_atomic_read_u32(&entry->state)]);
		values[3] = TimestampTzGetDatum(pg_atomic_read_u64(&entry->heartbeat_at));
		nulls[3] = pg_atomic_read_u64(&entry->heartbeat_at) == 0;
		values[4] = Int64GetDatum(pg_atomic_read_u64(&entry->rows_decoded));
		values[5] = Float8GetDatum(pg_atomic_read_u64(&entry->cpu) / 1000.0);
		values[6] = Float8GetDatum(pg_atomic_read_u64(&entry->batches_cpu) / 1000.0);
		values[7] = Float8GetDatum(pg_atomic_read_u64(&entry->history_cpu) / 1000.0);
		values[8] = Int64GetDatum(pg_atomic_read_u64(&entry->history_wal));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

static Datum
latency_interval(PathEntry *entry, double fraction, bool *isnull)
{
	int64		usecs = ib_latency_percentile(&entry->latency, GetCurrentTimestamp(),
											  fraction);
	Interval   *interval = palloc0(sizeof(Interval));

	*isnull = usecs < 0;
	interval->time = usecs;
	return IntervalPGetDatum(interval);
}

static Datum
time_or_null(pg_atomic_uint64 *value, bool *isnull)
{
	uint64		time = pg_atomic_read_u64(value);

	*isnull = time == 0;
	return TimestampTzGetDatum((TimestampTz) time);
}

/* How far a path of this database is; all NULL while no worker runs it. */
Datum
ib_path_status(PG_FUNCTION_ARGS)
{
	enum
	{
		FRONTIER_LSN, AS_OF, NEXT_RUN, MOVED_AT, BACKLOG_ROWS,
		P50, P95, P99, BACKFILL_STARTED_AT, ROWS_DONE, ROWS_TOTAL, NCOLUMNS
	};
	Datum		values[NCOLUMNS] = {0};
	bool		nulls[NCOLUMNS];
	TupleDesc	desc;
	PathEntry  *entry = ib_shared ? ib_path_entry_find(PG_GETARG_INT32(0)) : NULL;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	desc = BlessTupleDesc(desc);
	memset(nulls, entry == NULL, sizeof(nulls));
	if (entry != NULL)
	{
		XLogRecPtr	lsn = pg_atomic_read_u64(&entry->frontier_lsn);

		values[FRONTIER_LSN] = LSNGetDatum(lsn);
		nulls[FRONTIER_LSN] = lsn == 0;
		values[AS_OF] = time_or_null(&entry->as_of, &nulls[AS_OF]);
		values[NEXT_RUN] = time_or_null(&entry->next_run, &nulls[NEXT_RUN]);
		values[MOVED_AT] = time_or_null(&entry->moved_at, &nulls[MOVED_AT]);
		values[BACKLOG_ROWS] = Int64GetDatum(pg_atomic_read_u64(&entry->backlog_rows));
		values[P50] = latency_interval(entry, 0.50, &nulls[P50]);
		values[P95] = latency_interval(entry, 0.95, &nulls[P95]);
		values[P99] = latency_interval(entry, 0.99, &nulls[P99]);
		values[BACKFILL_STARTED_AT] =
			time_or_null(&entry->backfill_started_at, &nulls[BACKFILL_STARTED_AT]);
		values[ROWS_DONE] = Int64GetDatum(pg_atomic_read_u64(&entry->backfill_rows_done));
		values[ROWS_TOTAL] = Int64GetDatum(pg_atomic_read_u64(&entry->backfill_rows_total));
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

/* Is this the database of the cluster that a slot was made for? */
Datum
ib_is_at_home(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(PG_GETARG_OID(0) == MyDatabaseId &&
				   (uint64) PG_GETARG_INT64(1) == GetSystemIdentifier());
}
