/*
 * shmem.c
 *	  Shared state: which database has a worker, how far each path is.
 *
 * Two fixed arrays made at server start.  A database's entry lives while it
 * has, or may get, a worker; a path's entry while its worker runs it.  What
 * must survive a restart is in the catalog: everything here can be computed
 * anew.
 *
 * The control lock guards who owns which entry.  It is held for a few
 * instructions only, never across anything that can fail, or wait for long.
 *
 * Not here: what the numbers mean.  status.c shows them.
 */
#include "incbatch.h"

#include <signal.h>

#include "access/xlog.h"

#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "catalog.h"
#include "shmem.h"

SharedControl *ib_shared = NULL;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/* The clock of shared memory: it never steps, and is one for all processes. */
int64
ib_monotonic_usecs(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MICROSEC(now);
}

/* What pg_stat_activity shows of a wait. */
uint32
ib_wait_event(IbWait wait)
{
	static const char *const names[] = {
		[WAIT_FOR_WORK] = "IncbatchWork",
		[WAIT_FOR_WORKERS] = "IncbatchWorkers",
		[WAIT_FOR_VISIBILITY] = "IncbatchCommitVisible",
		[WAIT_FOR_PATH] = "IncbatchPath",
		[WAIT_FOR_WORKER_EXIT] = "IncbatchWorkerExit",
	};
	static uint32 events[lengthof(names)];

	if (events[wait] == 0)
		events[wait] = ib_wait_event_new(names[wait]);
	return events[wait];
}

/* Each database needs a slot; a few more entries serve those just probed. */
static int
database_capacity(void)
{
	return max_worker_processes + 8;
}

static Size
shared_size(void)
{
	Size		size = MAXALIGN(sizeof(SharedControl));

	size = add_size(size, mul_size(database_capacity(), sizeof(DatabaseEntry)));
	size = add_size(MAXALIGN(size), mul_size(ib_max_paths, sizeof(PathEntry)));
	return size;
}

static void
request_shared_memory(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(shared_size());
	RequestNamedLWLockTranche(IB_NAME, 1);
}

static void
init_database_entry(DatabaseEntry *entry)
{
	memset(entry, 0, sizeof(*entry));
	pg_atomic_init_u32(&entry->cured, 0);
	pg_atomic_init_u32(&entry->generation, 0);
	pg_atomic_init_u32(&entry->wake_on_commit, 0);
	pg_atomic_init_u32(&entry->state, WORKER_STARTING);
	pg_atomic_init_u64(&entry->heartbeat, 0);
	pg_atomic_init_u64(&entry->rows_decoded, 0);
	pg_atomic_init_u32(&entry->activity, ACTIVITY_WAITING);
	pg_atomic_init_u32(&entry->activity_path, 0);
	pg_atomic_init_u64(&entry->activity_since, 0);
	pg_atomic_init_u32(&entry->pinning_xid, InvalidTransactionId);
	pg_atomic_init_u64(&entry->pinned_lsn, 0);
	pg_atomic_init_u64(&entry->cpu, 0);
	pg_atomic_init_u64(&entry->batches_cpu, 0);
	pg_atomic_init_u64(&entry->history_cpu, 0);
	pg_atomic_init_u64(&entry->history_wal, 0);
}

/* Also of an entry that is used again: its condition variable may be waited on. */
static void
reset_path_entry(PathEntry *entry)
{
	pg_atomic_init_u64(&entry->frontier_lsn, 0);
	pg_atomic_init_u64(&entry->decoded_lsn, 0);
	pg_atomic_init_u64(&entry->as_of, 0);
	pg_atomic_init_u64(&entry->as_of_instant, 0);
	pg_atomic_init_u64(&entry->next_run, 0);
	pg_atomic_init_u64(&entry->moved_at, 0);
	pg_atomic_init_u64(&entry->staleness_then, 0);
	pg_atomic_init_u64(&entry->staleness_before, 0);
	pg_atomic_init_u32(&entry->locked, InvalidOid);
	pg_atomic_init_u64(&entry->locked_since, 0);
	pg_atomic_init_u64(&entry->backlog_rows, 0);
	pg_atomic_init_u64(&entry->refresh_lsn, 0);
	pg_atomic_init_u64(&entry->backfill_started_at, 0);
	pg_atomic_init_u64(&entry->backfill_rows_done, 0);
	pg_atomic_init_u64(&entry->backfill_rows_total, 0);
	ib_latency_reset(&entry->latency);
	memset(&entry->freshness, 0, sizeof(entry->freshness));
	memset(entry->told, 0, sizeof(entry->told));
}

static void
init_path_entry(PathEntry *entry)
{
	memset(entry, 0, sizeof(*entry));
	reset_path_entry(entry);
	ConditionVariableInit(&entry->moved);
}

static void
start_shared_memory(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	ib_shared = ShmemInitStruct(IB_NAME, shared_size(), &found);
	if (!found)
	{
		char	   *next = (char *) ib_shared + MAXALIGN(sizeof(SharedControl));

		ib_shared->lock = &(GetNamedLWLockTranche(IB_NAME))->lock;
		ib_shared->started = ib_monotonic_usecs();
		ib_shared->launcher_pgprocno = -1;
		ib_shared->shutting_down = false;
		ib_shared->crowded = false;
		pg_atomic_init_u64(&ib_shared->wal_end, 0);
		ib_shared->ndatabases = database_capacity();
		ib_shared->npaths = ib_max_paths;
		ib_shared->databases = (DatabaseEntry *) next;
		next += MAXALIGN(ib_shared->ndatabases * sizeof(DatabaseEntry));
		ib_shared->paths = (PathEntry *) next;

		for (int i = 0; i < ib_shared->ndatabases; i++)
			init_database_entry(&ib_shared->databases[i]);
		for (int i = 0; i < ib_shared->npaths; i++)
			init_path_entry(&ib_shared->paths[i]);
	}
	LWLockRelease(AddinShmemInitLock);
}

void
ib_shmem_init(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shared_memory;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = start_shared_memory;
}

/* Every function that needs the worker says plainly when there is none. */
void
ib_shmem_require(void)
{
	if (ib_shared == NULL)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("incbatch must be loaded via shared_preload_libraries"),
				errdetail("Its background workers start with the server."),
				errhint("Set shared_preload_libraries = 'incbatch' in postgresql.conf (or with ALTER SYSTEM) and restart the server."));
	if (wal_level < WAL_LEVEL_LOGICAL)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("incbatch requires wal_level \"logical\""),
				errdetail("Pipelines are kept up to date from the WAL, which does not carry the changed rows at the present wal_level."),
				errhint("Set wal_level = logical in postgresql.conf (or with ALTER SYSTEM) and restart the server."));
	if (strcmp(ib_catalog_version(), IB_VERSION) != 0)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("the library of incbatch is %s, but the extension has version %s",
					   IB_VERSION, ib_catalog_version()),
				errhint("%s", IB_VERSION_HINT));
}

static void
wake_process(int pgprocno)
{
	if (pgprocno >= 0)
		SetLatch(&ProcGlobal->allProcs[pgprocno].procLatch);
}

static void
detach_launcher(int code, Datum arg)
{
	LWLockAcquire(ib_shared->lock, LW_EXCLUSIVE);
	ib_shared->launcher_pgprocno = -1;
	LWLockRelease(ib_shared->lock);
}

void
ib_launcher_attach(void)
{
	LWLockAcquire(ib_shared->lock, LW_EXCLUSIVE);
	ib_shared->launcher_pgprocno = ib_my_proc_number();
	LWLockRelease(ib_shared->lock);
	before_shmem_exit(detach_launcher, 0);
}

void
ib_wake_launcher(void)
{
	wake_process(ib_shared->launcher_pgprocno);
}

/* Caller holds the control lock; InvalidOid finds a free entry. */
DatabaseEntry *
ib_database_find(Oid database)
{
	for (int i = 0; i < ib_shared->ndatabases; i++)
	{
		if (ib_shared->databases[i].database == database)
			return &ib_shared->databases[i];
	}
	return NULL;
}

/* Caller holds the control lock exclusively. */
static DatabaseEntry *
find_or_claim_database(Oid database)
{
	DatabaseEntry *entry = ib_database_find(database);

	if (entry == NULL)
	{
		entry = ib_database_find(InvalidOid);
		if (entry != NULL)
		{
			init_database_entry(entry);
			entry->database = database;
		}
	}
	return entry;
}

/* Ask for a worker in a database.  False: there is no entry left for it. */
bool
ib_database_want(Oid database)
{
	DatabaseEntry *entry;

	LWLockAcquire(ib_shared->lock, LW_EXCLUSIVE);
	entry = find_or_claim_database(database);
	if (entry != NULL)
		entry->wanted = true;
	LWLockRelease(ib_shared->lock);

	ib_wake_launcher();
	return entry != NULL;
}

/* Has a database found no entry since this was asked?  The launcher asks. */
bool
ib_databases_were_crowded(void)
{
	bool		crowded;

	LWLockAcquire(ib_shared->lock, LW_EXCLUSIVE);
	crowded = ib_shared->crowded;
	ib_shared->crowded = false;
	LWLockRelease(ib_shared->lock);
	return crowded;
}

/*
 * Something changed for the worker of a database: start it or wake it.  Where
 * there is no entry left the launcher asks all databases again.
 */
void
ib_database_wake(Oid database)
{
	DatabaseEntry *entry;
	int			worker = -1;

	LWLockAcquire(ib_shared->lock, LW_EXCLUSIVE);
	entry = find_or_claim_database(database);
	if (entry != NULL)
	{
		entry->wanted = true;
		if (entry->obstacle == OBSTACLE_VERSION)
			entry->obstacle = OBSTACLE_NONE;
		pg_atomic_fetch_add_u32(&entry->generation, 1);
		if (entry->pid != 0)
			worker = entry->pgprocno;
	}
	else
		ib_shared->crowded = true;
	LWLockRelease(ib_shared->lock);

	if (worker >= 0)
		wake_process(worker);
	else
		ib_wake_launcher();
}

/* There is something to do for the worker of a database, if it runs. */
void
ib_database_nudge(Oid database)
{
	DatabaseEntry *entry;

	LWLockAcquire(ib_shared->lock, LW_SHARED);
	entry = ib_database_find(database);
	if (entry != NULL && entry->pid != 0)
		wake_process(entry->pgprocno);
	LWLockRelease(ib_shared->lock);
}

static void
detach_worker(int code, Datum arg)
{
	DatabaseEntry *entry = (DatabaseEntry *) DatumGetPointer(arg);

	LWLockAcquire(ib_shared->lock, LW_EXCLUSIVE);
	entry->pid = 0;
	entry->left_at = ib_monotonic_usecs();
	if (code != 0 && entry->held_by == 0)
	{
		entry->deaths[entry->ndeaths++ % WORKER_DEATHS] = entry->left_at;
		strlcpy(entry->last_error, ib_activity_last_error(), WORKER_ERROR_LENGTH);
	}
	pg_atomic_write_u32(&entry->wake_on_commit, 0);
	/* who waits for a path shall see that nobody runs it */
	for (int i = 0; i < ib_shared->npaths; i++)
	{
		if (ib_shared->paths[i].database == entry->database)
			ConditionVariableBroadcast(&ib_shared->paths[i].moved);
	}
	LWLockRelease(ib_shared->lock);
	ib_wake_launcher();
}

/* The worker takes its database's entry, or learns that a twin has it. */
DatabaseEntry *
ib_database_attach(Oid database)
{
	DatabaseEntry *entry;

	LWLockAcquire(ib_shared->lock, LW_EXCLUSIVE);
	entry = find_or_claim_database(database);
	if (entry != NULL && (entry->pid != 0 || entry->held_by != 0 || ib_shared->shutting_down))
		entry = NULL;
	if (entry != NULL)
	{
		entry->wanted = true;
		entry->starting = false;
		entry->pid = MyProcPid;
		entry->pgprocno = ib_my_proc_number();
		entry->obstacle = OBSTACLE_NONE;
		pg_atomic_write_u32(&entry->state, WORKER_STARTING);
		pg_atomic_write_u64(&entry->rows_decoded, 0);
		pg_atomic_write_u64(&entry->cpu, 0);
		pg_atomic_write_u64(&entry->batches_cpu, 0);
		pg_atomic_write_u64(&entry->history_cpu, 0);
		pg_atomic_write_u64(&entry->history_wal, 0);
	}
	LWLockRelease(ib_shared->lock);

	if (entry != NULL)
		before_shmem_exit(detach_worker, PointerGetDatum(entry));
	return entry;
}

/*
 * Send a database's worker away and keep it away until the end of this
 * transaction, so that the database can be dropped, copied or renamed.
 */
void
ib_database_hold(Oid database)
{
	DatabaseEntry *entry;
	pid_t		pid = 0;

	LWLockAcquire(ib_shared->lock, LW_EXCLUSIVE);
	entry = find_or_claim_database(database);
	if (entry != NULL)
	{
		entry->held_by = MyProcPid;
		pid = entry->pid;
	}
	LWLockRelease(ib_shared->lock);
	if (entry == NULL)
		return;

	/* A worker that is only just starting attaches in vain and exits. */
	while (pid != 0 && BackendPidGetProc(pid) != NULL)
	{
		kill(pid, SIGTERM);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 10, ib_wait_event(WAIT_FOR_WORKER_EXIT));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* At the end of a transaction: let the workers that we held come back. */
void
ib_database_release_held(void)
{
	bool		released = false;

	LWLockAcquire(ib_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < ib_shared->ndatabases; i++)
	{
		if (ib_shared->databases[i].held_by == MyProcPid)
		{
			ib_shared->databases[i].held_by = 0;
			released = true;
		}
	}
	LWLockRelease(ib_shared->lock);
	if (released)
		ib_wake_launcher();
}

/* Caller holds the control lock; InvalidOid finds a free entry. */
static PathEntry *
find_path_entry(Oid database, int32 path)
{
	for (int i = 0; i < ib_shared->npaths; i++)
	{
		PathEntry  *entry = &ib_shared->paths[i];

		if (entry->database == database &&
			(database == InvalidOid || entry->path == path))
			return entry;
	}
	return NULL;
}

/*
 * The entry of a path of this database, NULL where no worker has run it since
 * the server started.
 */
PathEntry *
ib_path_entry_find(int32 path)
{
	PathEntry  *entry;

	LWLockAcquire(ib_shared->lock, LW_SHARED);
	entry = find_path_entry(MyDatabaseId, path);
	LWLockRelease(ib_shared->lock);
	return entry;
}

/* Refuse a path in the session that asks for it, not in the worker. */
void
ib_path_entry_require(void)
{
	bool		left;

	LWLockAcquire(ib_shared->lock, LW_SHARED);
	left = find_path_entry(InvalidOid, 0) != NULL;
	LWLockRelease(ib_shared->lock);
	if (!left)
		ereport(ERROR,
				errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				errmsg("no shared memory left for another path"),
				errhint("Raise incbatch.max_paths and restart the server."));
}

/*
 * The entry of a path for its worker: that of the worker before, or a new one.
 * NULL: incbatch.max_paths has become smaller than the number of paths.
 */
PathEntry *
ib_path_entry_claim(int32 path, Oid relation)
{
	PathEntry  *entry;

	LWLockAcquire(ib_shared->lock, LW_EXCLUSIVE);
	entry = find_path_entry(MyDatabaseId, path);
	if (entry == NULL)
		entry = find_path_entry(InvalidOid, 0);
	if (entry != NULL && (entry->database == InvalidOid || entry->relation != relation))
	{
		reset_path_entry(entry);
		entry->path = path;
		entry->relation = relation;
		entry->database = MyDatabaseId;
	}
	if (entry != NULL)
		pg_atomic_write_u32(&entry->locked, InvalidOid);
	LWLockRelease(ib_shared->lock);
	return entry;
}

/* An entry that nobody else sees, for a path that found no other. */
PathEntry *
ib_path_entry_private(void)
{
	PathEntry  *entry = MemoryContextAlloc(TopMemoryContext, sizeof(PathEntry));

	init_path_entry(entry);
	return entry;
}

bool
ib_path_entry_is_private(const PathEntry *entry)
{
	return entry < ib_shared->paths || entry >= ib_shared->paths + ib_shared->npaths;
}

void
ib_path_entry_free(PathEntry *entry)
{
	if (ib_path_entry_is_private(entry))
	{
		pfree(entry);
		return;
	}
	LWLockAcquire(ib_shared->lock, LW_EXCLUSIVE);
	entry->database = InvalidOid;
	LWLockRelease(ib_shared->lock);
	ConditionVariableBroadcast(&entry->moved);
}

/* Free the entries of this database that its worker does not know. */
void
ib_path_entries_free_others(bool (*is_known) (PathEntry *))
{
	for (int i = 0; i < ib_shared->npaths; i++)
	{
		PathEntry  *entry = &ib_shared->paths[i];

		if (entry->database == MyDatabaseId && !is_known(entry))
			ib_path_entry_free(entry);
	}
}

/*
 * A database has no worker and shall have none.  Caller holds the control lock
 * exclusively.
 */
void
ib_database_forget(DatabaseEntry *entry)
{
	for (int i = 0; i < ib_shared->npaths; i++)
	{
		if (ib_shared->paths[i].database == entry->database)
			ib_shared->paths[i].database = InvalidOid;
	}
	entry->database = InvalidOid;
}
