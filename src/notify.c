/*
 * notify.c
 *	  Tell who listens that a status in incbatch.lag has changed.
 *
 * The worker looks once a second, between its batches, and sends a NOTIFY on
 * channel incbatch_status for each change.  What it told last is in shared
 * memory and outlives it, so that each message goes on from the one before
 * ("from" is null for the first since the server started).  It cannot tell
 * what befalls itself; the view, which its readers compute, shows that.
 *
 * Where nothing changes nothing is written.  NOTIFY takes a lock that other
 * sessions hold while they commit, and its queue can be full: then the change
 * is told at a later look, or what has become of it.
 */
#include "incbatch.h"

#include "access/xact.h"
#include "catalog/pg_database.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "path.h"
#include "worker.h"

#define LOOK_USECS (1000 * 1000)
/* with many paths less often, so that looking takes little of the time */
#define LOOK_SHARE 200
#define LOOK_LAST_USECS (5 * 1000 * 1000)
/* a queue so full is left to those who need it more */
#define QUEUE_USAGE_LIMIT 0.5

static int64 next_look = 0;

static const char *const words[] = {
	NULL, "fresh", "late", "falling behind", "stuck", "failed", "paused", "backfilling"
};

static uint8
number_of(const char *word)
{
	for (uint8 i = 1; i < lengthof(words); i++)
	{
		if (strcmp(words[i], word) == 0)
			return i;
	}
	elog(ERROR, "unknown status \"%s\"", word);
}

/* A consumer, or nobody, as shared memory knows him. */
static uint32
key_of(const char *consumer)
{
	return consumer ?
		DatumGetUInt32(hash_any((const unsigned char *) consumer, strlen(consumer))) : 1;
}

/* Where it is kept what was told last of a consumer, or NULL; used from the front. */
static ToldStatus *
find_told(PathEntry *entry, const char *consumer)
{
	uint32		key = key_of(consumer);

	for (int i = 0; i < TOLD_CONSUMERS; i++)
	{
		ToldStatus *told = &entry->told[i];

		if (told->status == 0)
			told->consumer = key;
		if (told->consumer == key)
			return told;
	}
	return NULL;
}

/* Whether a message can be queued now, without waiting for anybody. */
static bool
can_notify(void)
{
	LOCKTAG		tag;

	if (DatumGetFloat8(DirectFunctionCall1(pg_notification_queue_usage, (Datum) 0)) >
		QUEUE_USAGE_LIMIT)
		return false;
	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, InvalidOid, 0);
	return LockAcquire(&tag, AccessExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

static void
notify(HeapTuple row, TupleDesc desc, const char *from)
{
	Oid			types[] = {TEXTOID, INT4OID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[5];
	char		nulls[] = "     ";
	bool		isnull;

	values[0] = SPI_getbinval(row, desc, 2, &isnull);
	values[1] = SPI_getbinval(row, desc, 1, &isnull);
	values[2] = SPI_getbinval(row, desc, 3, &isnull);
	nulls[2] = isnull ? 'n' : ' ';
	values[3] = from ? CStringGetTextDatum(from) : (Datum) 0;
	nulls[3] = from ? ' ' : 'n';
	values[4] = SPI_getbinval(row, desc, 4, &isnull);
	ib_spi("SELECT pg_catalog.pg_notify('incbatch_status', pg_catalog.json_build_object("
		   "'pipeline', $1, 'path', $2, 'consumer', pg_catalog.left($3, 500),"
		   " 'from', $4, 'to', $5, 'at', pg_catalog.clock_timestamp())::pg_catalog.text)",
		   SPI_OK_SELECT, 5, types, values, nulls);
}

/*
 * What was told of consumers that are gone is of no use, and their room may be
 * needed.
 */
static void
forget_gone(SPITupleTable *rows, uint64 nrows)
{
	int32	   *paths = palloc(sizeof(int32) * Max(nrows, 1));
	uint32	   *keys = palloc(sizeof(uint32) * Max(nrows, 1));
	ListCell   *lc;
	bool		isnull;

	for (uint64 i = 0; i < nrows; i++)
	{
		paths[i] = DatumGetInt32(SPI_getbinval(rows->vals[i], rows->tupdesc, 1, &isnull));
		keys[i] = key_of(SPI_getvalue(rows->vals[i], rows->tupdesc, 3));
	}
	foreach(lc, ib_paths)
	{
		IbPath	   *path = lfirst(lc);
		ToldStatus *told = path->shared->told;
		int			kept = 0;

		for (int i = 0; i < TOLD_CONSUMERS && told[i].status != 0; i++)
		{
			uint64		row = 0;

			while (row < nrows && (paths[row] != path->row->path || keys[row] != told[i].consumer))
				row++;
			if (row < nrows)
				told[kept++] = told[i];
		}
		memset(&told[kept], 0, sizeof(ToldStatus) * (TOLD_CONSUMERS - kept));
	}
}

/* Compare the view with what was told, and tell the difference.  False: not now. */
static bool
tell_changes(void)
{
	static SPIPlanPtr plan = NULL;
	SPITupleTable *rows;
	uint64		nrows;
	bool		may_tell = false;

	if (plan == NULL)
	{
		plan = SPI_prepare("SELECT path, pipeline, consumer, status FROM incbatch.lag", 0, NULL);
		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare to read incbatch.lag");
	}
	if (SPI_execute_plan(plan, NULL, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read incbatch.lag");
	rows = SPI_tuptable;
	nrows = SPI_processed;
	forget_gone(rows, nrows);
	for (uint64 i = 0; i < nrows; i++)
	{
		HeapTuple	row = rows->vals[i];
		PathEntry  *entry;
		ToldStatus *told;
		uint8		status = number_of(SPI_getvalue(row, rows->tupdesc, 4));
		bool		isnull;

		entry = ib_path_entry_find(DatumGetInt32(SPI_getbinval(row, rows->tupdesc, 1, &isnull)));
		told = entry ? find_told(entry, SPI_getvalue(row, rows->tupdesc, 3)) : NULL;
		if (told == NULL || told->status == status)
			continue;
		if (!may_tell && !(may_tell = can_notify()))
			return false;
		notify(row, rows->tupdesc, words[told->status]);
		told->status = status;
	}
	return true;
}

/*
 * Whether a path's status is plainly what was told of it, so that it is not
 * worth a look at the view.
 */
bool
ib_notify_is_told(const IbPath *path)
{
	const PathRow *row = path->row;
	int64		allowed = row->freshness_usecs > 0 ? row->freshness_usecs :
		row->trigger_usecs + Max(row->trigger_usecs / 4, USECS_PER_SEC);
	int64		as_of = pg_atomic_read_u64(&path->shared->as_of_instant);
	uint8		status;

	if (row->state == PATH_NEEDS_REBUILD)
		status = number_of("failed");
	else if (row->paused)
		status = number_of("paused");
	else if (row->state == PATH_FAILED)
		status = number_of("failed");
	else if (row->state == PATH_RUNNING && ib_monotonic_usecs() - as_of <= allowed)
		status = number_of("fresh");
	else
		return false;
	for (int i = 0; i < TOLD_CONSUMERS && path->shared->told[i].status != 0; i++)
	{
		if (path->shared->told[i].status != status)
			return false;
	}
	return path->shared->told[0].status != 0;
}

/*
 * Look whether a status changed, if the time has come or it is urgent.  The
 * caller is in no transaction, and its catalog is there.  True: it was looked,
 * and all was told.
 */
bool
ib_notify_changes(bool urgent)
{
	int64		now = ib_monotonic_usecs();
	volatile bool told = false;

	if (now < next_look && !urgent)
		return false;
	PG_TRY();
	{
		StartTransactionCommand();
		(void) set_config_option("synchronous_commit", "off", PGC_SUSET, PGC_S_SESSION,
								 GUC_ACTION_LOCAL, true, 0, false);
		/* whoever drops the extension may take his time */
		ib_limit_lock_waits();
		ib_catalog_expect();
		PushActiveSnapshot(GetTransactionSnapshot());
		SPI_connect();
		told = tell_changes();
		SPI_finish();
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_LOCK_NOT_AVAILABLE)
			PG_RE_THROW();
		FlushErrorState();
		AbortOutOfAnyTransaction();
		told = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(TopMemoryContext);
	next_look = now + Min(Max((ib_monotonic_usecs() - now) * LOOK_SHARE, LOOK_USECS),
						  LOOK_LAST_USECS);
	return told;
}
