/*
 * launcher.c
 *	  Sees to it that each database with pipelines has a worker.
 *
 * One static background worker that is connected to no database.  At server
 * start it asks every connectable database once, by starting a worker there
 * which exits at once where there are no pipelines.  From then on sessions
 * that make a pipeline ask for a worker in shared memory; where that has no
 * room for theirs, every database is asked once more.  A worker that dies
 * is started again, the sooner the rarer it dies.  While a database has none,
 * the launcher sees to it that its slot does not hold too much WAL.
 *
 * In a template, or a database that allows no connections, no worker is tried.
 *
 * The launcher keeps no state that its successor would need: who runs is in
 * shared memory, and workers outlive it.
 */
#include "incbatch.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "storage/procarray.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "decode.h"
#include "shmem.h"

#define RESTART_FIRST_MS 500
#define RESTART_LAST_MS 60000
/* a worker that lived this long is not in a loop of crashes */
#define HEALTHY_LIFE_MS 60000
/* try this often while the server has no process left for a worker */
#define NO_SLOT_MS 1000
/* look at our slots so often, while there may be any */
#define WATCH_MS 2000
/* a registered worker that has not attached by then never will */
#define START_TIMEOUT_MS 10000

/* What the launcher remembers of the entry with the same index. */
typedef struct Attempt
{
	Oid			database;
	int64		started_at;		/* monotonic, microseconds; 0: never */
	int			delay_ms;		/* before the next start */
} Attempt;

extern PGDLLEXPORT void ib_launcher_main(Datum arg);

static void
describe_worker(BackgroundWorker *worker, const char *kind, const char *entry)
{
	memset(worker, 0, sizeof(*worker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	snprintf(worker->bgw_name, BGW_MAXLEN, "incbatch %s", kind);
	snprintf(worker->bgw_type, BGW_MAXLEN, "incbatch %s", kind);
	snprintf(worker->bgw_library_name, BGW_MAXLEN, IB_NAME);
	snprintf(worker->bgw_function_name, BGW_MAXLEN, "%s", entry);
}

void
ib_launcher_register(void)
{
	BackgroundWorker worker;

	describe_worker(&worker, "launcher", "ib_launcher_main");
	worker.bgw_restart_time = 1;
	RegisterBackgroundWorker(&worker);
}

/* Databases that may have pipelines: all that a worker may connect to. */
static List *
connectable_databases(void)
{
	List	   *result = NIL;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;
	MemoryContext caller = CurrentMemoryContext;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old;

		if (!database->datallowconn || database->datistemplate)
			continue;
		old = MemoryContextSwitchTo(caller);
		result = lappend_oid(result, database->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	return result;
}

/* Does a database exist, and may a worker connect to it? */
static bool
database_exists(Oid database, bool *connectable)
{
	MemoryContext caller = CurrentMemoryContext;
	HeapTuple	tuple;
	bool		exists;

	StartTransactionCommand();
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	exists = HeapTupleIsValid(tuple);
	if (exists)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		*connectable = form->datallowconn && !form->datistemplate;
		ReleaseSysCache(tuple);
	}
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	return exists;
}

static bool
start_worker(Oid database)
{
	BackgroundWorker worker;

	describe_worker(&worker, "worker", "ib_worker_main");
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	worker.bgw_notify_pid = MyProcPid;
	return RegisterDynamicBackgroundWorker(&worker, NULL);
}

/* A session that died while it kept a worker away keeps it away no longer. */
static void
release_dead_holders(void)
{
	LWLockAcquire(ib_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < ib_shared->ndatabases; i++)
	{
		DatabaseEntry *entry = &ib_shared->databases[i];

		if (entry->held_by != 0 && BackendPidGetProc(entry->held_by) == NULL)
			entry->held_by = 0;
	}
	LWLockRelease(ib_shared->lock);
}

/* No worker can be started; said once, and shown while it lasts. */
static void
note_obstacle(DatabaseEntry *entry, Obstacle obstacle)
{
	Obstacle	known;

	LWLockAcquire(ib_shared->lock, LW_EXCLUSIVE);
	entry->starting = false;
	known = entry->obstacle;
	entry->obstacle = obstacle;
	LWLockRelease(ib_shared->lock);
	if (known == obstacle)
		return;
	if (obstacle == OBSTACLE_NO_PROCESS)
		ereport(LOG,
				errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				errmsg("incbatch could not start a worker for database with OID %u",
					   entry->database),
				errdetail("All processes that max_worker_processes allows are in use; it tries again every second."),
				errhint("Raise max_worker_processes and restart the server."));
	else
		ereport(LOG,
				errmsg("incbatch starts no worker for database with OID %u",
					   entry->database),
				errdetail("It is a template, or allows no connections; its pipelines stand still."),
				errhint("Use ALTER DATABASE to allow connections, or drop its pipelines or the database."));
}

static void
forget(DatabaseEntry *entry)
{
	LWLockAcquire(ib_shared->lock, LW_EXCLUSIVE);
	ib_database_forget(entry);
	LWLockRelease(ib_shared->lock);
}

/*
 * Look at one entry: free it, start its worker, or say in how many
 * milliseconds to look again (-1: not before somebody wakes us).
 */
static long
tend(DatabaseEntry *entry, Attempt *attempt)
{
	int64		now = ib_monotonic_usecs();
	Oid			database = InvalidOid;
	bool		connectable;
	long		lived_ms;
	bool		cured;

	LWLockAcquire(ib_shared->lock, LW_EXCLUSIVE);
	if (attempt->database != entry->database)
	{
		attempt->database = entry->database;
		attempt->started_at = 0;
		attempt->delay_ms = 0;
	}
	lived_ms = (now - attempt->started_at) / 1000;
	if (entry->starting && lived_ms > START_TIMEOUT_MS)
		entry->starting = false;
	if (OidIsValid(entry->database) && entry->pid == 0 &&
		!entry->starting && entry->held_by == 0)
	{
		if (ib_shared->shutting_down)
			;
		else if (!entry->wanted)
			ib_database_forget(entry);
		else if (entry->obstacle != OBSTACLE_VERSION)
			database = entry->database;
	}
	LWLockRelease(ib_shared->lock);

	if (!OidIsValid(database))
		return entry->starting || entry->held_by != 0 ? RESTART_FIRST_MS : -1;

	cured = pg_atomic_read_u32(&entry->cured) != 0;
	if (cured)
		attempt->delay_ms = Min(attempt->delay_ms, RESTART_FIRST_MS);
	if (attempt->started_at != 0 && lived_ms < attempt->delay_ms)
		return attempt->delay_ms - lived_ms;

	if (!database_exists(database, &connectable))
	{
		forget(entry);
		return -1;
	}
	if (!connectable)
	{
		/* whoever alters the database asks for it again */
		if (entry->left_at == 0)
			forget(entry);
		else
			note_obstacle(entry, OBSTACLE_NO_CONNECTIONS);
		return -1;
	}

	pg_atomic_write_u32(&entry->cured, 0);
	if (attempt->started_at == 0 || lived_ms > HEALTHY_LIFE_MS || cured)
		attempt->delay_ms = RESTART_FIRST_MS;
	else
		attempt->delay_ms = Min(attempt->delay_ms * 2, RESTART_LAST_MS);
	attempt->started_at = now;

	LWLockAcquire(ib_shared->lock, LW_EXCLUSIVE);
	entry->starting = true;
	LWLockRelease(ib_shared->lock);
	FAULT(WORKER_WANTED);
	if (!start_worker(database))
	{
		note_obstacle(entry, OBSTACLE_NO_PROCESS);
		attempt->delay_ms = NO_SLOT_MS;
	}
	return attempt->delay_ms;
}

/*
 * Is a database without a worker, and not about to have one?  Its worker died
 * more than once in a row, or something keeps it from being started; if the
 * database cannot be connected to, nobody ever asks for one.
 */
static bool
is_unattended(Oid database, const Attempt *attempts)
{
	bool		result = true;

	LWLockAcquire(ib_shared->lock, LW_SHARED);
	for (int i = 0; i < ib_shared->ndatabases; i++)
	{
		DatabaseEntry *entry = &ib_shared->databases[i];

		if (entry->database == database)
			result = entry->pid == 0 && !entry->starting && entry->held_by == 0 &&
				attempts[i].database == database &&
				(attempts[i].delay_ms > RESTART_FIRST_MS || entry->obstacle != OBSTACLE_NONE);
	}
	LWLockRelease(ib_shared->lock);
	return result;
}

/*
 * A worker gives a place in the WAL up that holds too much.  Where there is
 * none, because it crashes or cannot start, this does: without the slot, the
 * worker that comes finds that its pipelines need a rebuild.  Returns in how
 * many milliseconds to look again, -1 where there is nothing to look at.
 */
static long
watch_slots(const Attempt *attempts)
{
	List	   *slots = ib_slots_of_all();
	XLogRecPtr	end = GetXLogInsertRecPtr();
	bool		look_again;
	ListCell   *lc;

	pg_atomic_write_u64(&ib_shared->wal_end, end);
	foreach(lc, slots)
	{
		WatchedSlot *slot = lfirst(lc);

		if (slot->active || XLogRecPtrIsInvalid(slot->restart_lsn) ||
			slot->restart_lsn + ib_retained_limit() >= end ||
			!is_unattended(slot->database, attempts) || MUTANT(UNWATCHED))
			continue;
		ib_slot_drop_of(slot->database);
		ereport(LOG,
				errmsg("incbatch gave up the place in the WAL of database with OID %u: it held more than incbatch.max_retained_wal (%d MB)",
					   slot->database, ib_max_retained_wal),
				errdetail("There is no worker that could have moved it on; its replication slot was dropped, its pipelines need a rebuild."));
	}
	look_again = slots != NIL;
	list_free_deep(slots);
	/* whoever has a worker may make a slot */
	LWLockAcquire(ib_shared->lock, LW_SHARED);
	for (int i = 0; i < ib_shared->ndatabases; i++)
		look_again |= OidIsValid(ib_shared->databases[i].database);
	LWLockRelease(ib_shared->lock);
	return look_again ? WATCH_MS : -1;
}

void
ib_launcher_main(Datum arg)
{
	MemoryContext context;
	List	   *to_probe;
	bool		probed = false; /* all, once */
	Attempt    *attempts;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	context = AllocSetContextCreate(TopMemoryContext, "incbatch launcher",
									ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	attempts = palloc0(sizeof(Attempt) * ib_shared->ndatabases);
	ib_launcher_attach();
	to_probe = connectable_databases();

	for (;;)
	{
		long		timeout = -1;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		if (to_probe == NIL && ib_databases_were_crowded())
			to_probe = connectable_databases();
		while (to_probe != NIL && ib_database_want(linitial_oid(to_probe)))
			to_probe = list_delete_first(to_probe);

		probed |= to_probe == NIL;

		release_dead_holders();
		if (probed)
			timeout = watch_slots(attempts);
		for (int i = 0; i < ib_shared->ndatabases; i++)
		{
			long		wait = tend(&ib_shared->databases[i], &attempts[i]);

			if (wait >= 0 && (timeout < 0 || wait < timeout))
				timeout = wait;
		}
		if (to_probe != NIL)
			timeout = timeout < 0 ? RESTART_FIRST_MS : Min(timeout, RESTART_FIRST_MS);

		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH |
						 (timeout >= 0 ? WL_TIMEOUT : 0),
						 timeout, ib_wait_event(WAIT_FOR_WORKERS));
		ResetLatch(MyLatch);
	}
}
