/*
 * paths.c
 *	  The paths of this worker's database: what the worker knows of them, and
 *	  the states that it lets them enter.
 *
 * It is a copy of the catalog, made again when the generation in shared memory
 * moves (hooks.c, functions.c).  It lives in TopMemoryContext; a path's row and
 * what it points to in the path's own context, reset at each reading.
 *
 * Not here: when a path runs (schedule.c), how the worker runs it (worker.c).
 */
#include "incbatch.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "deaths.h"
#include "decode.h"
#include "worker.h"

/* While a lock is in its way, a path is tried at least this often. */
#define LOCK_RETRY_LAST_USECS (5 * 1000 * 1000)

DatabaseEntry *ib_worker = NULL;
List	   *ib_paths = NIL;
bool		ib_slot_is_recorded = false;
static uint32 known_generation = 0;

/* ----------------------------------------------------------------
 *		What the catalog says
 * ----------------------------------------------------------------
 */

/* A path whose changes are wanted now. */
bool
ib_path_collects(const PathRow *row)
{
	return !row->paused && row->state != PATH_FAILED &&
		row->state != PATH_NEEDS_REBUILD;
}

/* A path that needs the WAL from its frontier on. */
bool
ib_path_holds_wal(const PathRow *row)
{
	return row->has_frontier && row->state != PATH_NEEDS_REBUILD &&
		row->state != PATH_INITIALIZING && row->state != PATH_BACKFILLING;
}

/* Does anybody need WAL, now or soon?  Without the rows in it, it is of no use. */
bool
ib_paths_need_slot(void)
{
	ListCell   *lc;

	if (wal_level < WAL_LEVEL_LOGICAL)
		return false;
	foreach(lc, ib_paths)
	{
		const PathRow *row = ((IbPath *) lfirst(lc))->row;

		if (ib_path_collects(row) || ib_path_holds_wal(row))
			return true;
	}
	return false;
}

static IbPath *
find_path(int32 id)
{
	ListCell   *lc;

	foreach(lc, ib_paths)
	{
		if (((IbPath *) lfirst(lc))->row->path == id)
			return lfirst(lc);
	}
	return NULL;
}

void
ib_path_stop_collecting(IbPath *path)
{
	ib_path_forget_statements(path);
	ib_inputs_destroy(path);
	path->divert = NULL;		/* of a run that failed */
}

static void
remove_path(IbPath *path)
{
	ib_path_stop_collecting(path);
	ib_path_entry_free(path->shared);
	MemoryContextDelete(path->context);
	pfree(path->row);
	pfree(path);
}

static IbPath *
add_path(void)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	IbPath	   *path = palloc0(sizeof(IbPath));

	path->context = AllocSetContextCreate(TopMemoryContext, "incbatch path",
										  ALLOCSET_SMALL_SIZES);
	path->row = palloc0(sizeof(PathRow));
	path->row->state = PATH_NEEDS_REBUILD;
	path->shared = ib_path_entry_private();
	ib_paths = lappend(ib_paths, path);
	MemoryContextSwitchTo(old);
	return path;
}

/* Keep a copy of a row that the catalog delivered. */
static void
copy_row(IbPath *path, const PathRow *row)
{
	MemoryContext old;
	ListCell   *lc;

	MemoryContextReset(path->context);
	old = MemoryContextSwitchTo(path->context);
	*path->row = *row;
	path->row->settings = NIL;
	foreach(lc, row->settings)
		path->row->settings = lappend(path->row->settings, pstrdup(lfirst(lc)));
	MemoryContextSwitchTo(old);
}

/*
 * A path that another worker ran keeps its schedule: what it contains says when
 * its last run began.
 */
static int64
last_run(const PathRow *row)
{
	int64		age = GetCurrentTimestamp() - row->loaded_as_of;

	return ib_monotonic_usecs() - Max(age, 0);
}

/* Are other statements needed, or only another reading of the same? */
static bool
closes_otherwise(const PathRow *before, const PathRow *now)
{
	return before->closes != now->closes || before->event_time != now->event_time ||
		before->late_policy != now->late_policy;
}

/*
 * Show a path to others.  One for which shared memory has no room nobody could
 * ask for anything: it stands still, and keeps its place in the WAL.
 */
static void
share_path(IbPath *path, PathRow *row)
{
	static bool said = false;
	PathEntry  *entry;

	if (!ib_path_entry_is_private(path->shared))
		return;
	entry = ib_path_entry_claim(row->path, row->state_table);
	if (entry != NULL)
	{
		ib_path_entry_free(path->shared);
		path->shared = entry;
		return;
	}
	row->paused = true;
	if (!said)
		ereport(LOG,
				errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				errmsg("incbatch pipeline %d stands still: no shared memory left for another path", row->pipeline),
				errdetail("There are more paths than incbatch.max_paths (%d).", ib_max_paths),
				errhint("Raise incbatch.max_paths and restart the server."));
	said = true;
}

/* Take over a path's row as the catalog has it now. */
static void
update_path(PathRow *row)
{
	IbPath	   *path = find_path(row->path);
	bool		restart;

	if (path == NULL)
		path = add_path();
	share_path(path, row);

	/* a rebuild, or a path that comes back, starts from its row */
	restart = !ib_path_collects(path->row) || !ib_path_collects(row) ||
		(row->state == PATH_INITIALIZING && path->row->state != PATH_INITIALIZING);
	if (restart)
	{
		ib_path_stop_collecting(path);
		path->stored_lsn = path->confirmable = row->has_frontier ? row->loaded_lsn : 0;
		path->stored_commit = 0;
		path->retry_at = 0;
		if (row->has_frontier && path->ran_at == 0)
			path->ran_at = last_run(row);
		if (row->has_frontier && row->state == PATH_RUNNING)
			ib_path_publish(path, row->loaded_lsn, row->loaded_lsn, row->loaded_as_of);
	}
	if (path->statements != NULL && closes_otherwise(path->row, row))
		path->statements->stale = true;
	copy_row(path, row);
	path->seen = true;
}

/* Not so: a path that was dropped while no worker ran. */
static bool
is_shown_by_a_path(PathEntry *entry)
{
	ListCell   *lc;

	foreach(lc, ib_paths)
	{
		if (((IbPath *) lfirst(lc))->shared == entry)
			return true;
	}
	return false;
}

/* The worker died of some: they come last, so that the others get ahead. */
static int
compare_deaths(const ListCell *a, const ListCell *b)
{
	const PathRow *x = ((IbPath *) lfirst(a))->row;
	const PathRow *y = ((IbPath *) lfirst(b))->row;
	int			difference = ib_deaths_of(x->path) - ib_deaths_of(y->path);

	return difference != 0 ? difference : x->path - y->path;
}

/*
 * Tables of another version may mean something else.  The worker leaves, until
 * the extension is updated or the server restarted; the slot stays.
 */
static void
check_version(void)
{
	char	   *version = ib_catalog_version();

	if (strcmp(version, IB_VERSION) == 0 || MUTANT(VERSION))
		return;
	ereport(LOG,
			errmsg("incbatch %s cannot run the pipelines of database \"%s\", whose extension has version %s",
				   IB_VERSION, get_database_name(MyDatabaseId), version),
			errhint("%s", IB_VERSION_HINT));
	LWLockAcquire(ib_shared->lock, LW_EXCLUSIVE);
	if (ib_paths_are_current())
		ib_worker->obstacle = OBSTACLE_VERSION;
	LWLockRelease(ib_shared->lock);
	proc_exit(0);
}

/* Read the catalog.  False: there is no pipeline in this database. */
bool
ib_paths_load(void)
{
	List	   *rows = NIL;
	ListCell   *lc;

	known_generation = pg_atomic_read_u32(&ib_worker->generation);
	foreach(lc, ib_paths)
		((IbPath *) lfirst(lc))->seen = false;

	ib_activity(ACTIVITY_CATALOG, 0, "reading pipelines");
	ib_begin();
	if (ib_catalog_lock())
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		check_version();
		rows = ib_catalog_paths();
		FAULT(PATHS_READ);
	}
	if (rows != NIL && ib_slot_is_recorded && !ib_catalog_slot_is_at_home())
		ereport(FATAL,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("incbatch was dropped and created again in this database"),
				errdetail("The worker starts anew, for what it knows is of the pipelines before."));
	foreach(lc, rows)
		update_path(lfirst(lc));
	ib_commit();

	foreach(lc, ib_paths)
	{
		IbPath	   *path = lfirst(lc);

		if (!path->seen)
		{
			remove_path(path);
			ib_paths = foreach_delete_current(ib_paths, lc);
		}
		else if (path->row->state == PATH_RUNNING && !path->row->has_frontier)
			ib_path_lose_place(path, "what it contains is not known, as after a restore");
	}
	ib_path_entries_free_others(is_shown_by_a_path);
	list_sort(ib_paths, compare_deaths);
	return ib_paths != NIL;
}

/* Does what is known stand for what the catalog says now? */
bool
ib_paths_are_current(void)
{
	return pg_atomic_read_u32(&ib_worker->generation) == known_generation;
}

/*
 * The sibling that a path which is to be filled begins as a copy of: the
 * freshest one that runs.  NULL: it is filled from the source.
 */
IbPath *
ib_path_sibling_to_copy(const IbPath *path)
{
	IbPath	   *best = NULL;
	ListCell   *lc;

	if (!ib_path_collects(path->row) || path->row->state == PATH_RUNNING)
		return NULL;
	foreach(lc, ib_paths)
	{
		IbPath	   *other = lfirst(lc);

		if (other->row->pipeline == path->row->pipeline && other->inputs != NIL &&
			other->row->state == PATH_RUNNING &&
			(best == NULL || other->row->trigger_usecs < best->row->trigger_usecs))
			best = other;
	}
	return best;
}

/* ----------------------------------------------------------------
 *		States
 * ----------------------------------------------------------------
 */

/*
 * Let a path enter a state.  If somebody else changed it meanwhile, the catalog
 * is read again.  If somebody else is changing it, which may take its time, the
 * path stays as it is, and gets here again; not so before decoding has begun,
 * for then nothing keeps it from going on.  Says whether it has entered it.
 */
static bool
change_state(IbPath *path, PathState state, const char *error)
{
	/* what could not be filled must not go on from the rows of before */
	bool		forget = state == PATH_FAILED && path->row->state != PATH_RUNNING;
	bool		changed;

	ib_begin_catalog(NULL);
	if (ib_decode_is_open() && !ib_catalog_lock_path(path->row->path))
	{
		ib_commit();
		path->retry_at = ib_monotonic_usecs() + POLL_USECS;
		return false;
	}
	changed = ib_catalog_change_state(path->row->path, path->row->state, state, error);
	if (changed && forget)
		ib_catalog_forget_frontier(path->row->path);
	ib_commit();
	if (!changed)
	{
		known_generation = pg_atomic_read_u32(&ib_worker->generation) - 1;
		return false;
	}
	path->row->state = state;
	path->row->has_frontier = path->row->has_frontier && !forget;
	if (!ib_path_collects(path->row))
		ib_path_stop_collecting(path);
	ConditionVariableBroadcast(&path->shared->moved);
	return true;
}

/* A path must be rebuilt; what the user reads of it. */
static bool
need_rebuild(IbPath *path, const char *reason)
{
	return change_state(path, PATH_NEEDS_REBUILD,
						psprintf(path->row->rebuilds ?
								 "%s; it is rebuilt by itself, or at once by incbatch.rebuild_pipeline" :
								 "%s; run incbatch.rebuild_pipeline", reason));
}

void
ib_path_lose_place(IbPath *path, const char *reason)
{
	if (!need_rebuild(path, reason))
		return;
	ereport(LOG,
			errmsg("incbatch pipeline %d needs a rebuild: %s",
				   path->row->pipeline, reason));
}

/* A backfill was ended, for the WAL that was written meanwhile is too much. */
static void
give_up_backfill(IbPath *path)
{
	char	   *reason = psprintf("to fill it held more WAL than half of incbatch.max_retained_wal (%d MB)",
								  ib_max_retained_wal);

	if (!need_rebuild(path, psprintf("%s, so raise that first", reason)))
		return;
	ereport(LOG,
			errmsg("incbatch pipeline %d needs a rebuild: %s",
				   path->row->pipeline, reason),
			errhint("Raise incbatch.max_retained_wal to more than twice the WAL that is written while the pipeline is filled."));
}

/* The same of several for one reason, in one line of the log. */
void
ib_paths_lose_place(List *paths, const char *reason)
{
	StringInfoData pipelines;
	ListCell   *lc;

	if (paths == NIL)
		return;
	if (list_length(paths) == 1)
	{
		ib_path_lose_place(linitial(paths), reason);
		return;
	}
	initStringInfo(&pipelines);
	foreach(lc, paths)
	{
		IbPath	   *path = lfirst(lc);

		if (need_rebuild(path, reason))
			appendStringInfo(&pipelines, "%s%d", pipelines.len > 0 ? ", " : "", path->row->pipeline);
	}
	if (pipelines.len > 0)
		ereport(LOG,
				errmsg("incbatch pipelines %s need a rebuild: %s", pipelines.data, reason));
	pfree(pipelines.data);
}

char *
ib_too_much_wal(void)
{
	return psprintf("it held more WAL than incbatch.max_retained_wal (%d MB)",
					ib_max_retained_wal);
}

/*
 * Rebuild what has lost its place and wants that.  Not in a loop: the first
 * time at once, then, within an hour, ever later; later from the first time on
 * where a backfill itself came to nothing.
 */
void
ib_paths_rebuild_lost(void)
{
	ListCell   *lc;

	if (wal_level < WAL_LEVEL_LOGICAL)
		return;
	foreach(lc, ib_paths)
	{
		IbPath	   *path = lfirst(lc);

		if (path->row->state != PATH_NEEDS_REBUILD || !path->row->rebuilds ||
			path->row->paused || path->row->rebuild_at > GetCurrentTimestamp())
			continue;
		ib_begin_catalog("beginning a rebuild");
		if (ib_catalog_begin_rebuild(path->row->path))
			ereport(LOG,
					errmsg("incbatch pipeline %d is rebuilt, for its place in the WAL was lost",
						   path->row->pipeline));
		ib_commit();
		/* what it is now is in the catalog */
		known_generation = pg_atomic_read_u32(&ib_worker->generation) - 1;
	}
}

/* Nothing more is to be feared of a path that the worker may have died of. */
void
ib_path_survived(IbPath *path)
{
	if (ib_deaths_of(path->row->path) == 0)
		return;
	ib_deaths_forget(path->row->path);
	pg_atomic_write_u32(&ib_worker->cured, 1);
}

/* Take paths out of service of which the worker died again and again. */
void
ib_paths_stop_deadly(void)
{
	ListCell   *lc;

	foreach(lc, ib_paths)
	{
		IbPath	   *path = lfirst(lc);
		int			deaths = ib_deaths_of(path->row->path);

		if (deaths < IB_MAX_DEATHS || !ib_path_collects(path->row))
			continue;
		ereport(LOG,
				errmsg("incbatch pipeline %d is stopped: the worker ended %d times in a row while it worked for it",
					   path->row->pipeline, deaths));
		change_state(path, PATH_FAILED,
					 psprintf("the worker ended %d times in a row while it worked for this pipeline, so its query may crash or end the process; when the cause is gone, run incbatch.resume_pipeline",
							  deaths));
		ib_path_survived(path);
		(void) ib_notify_changes(true);
	}
}

/* ----------------------------------------------------------------
 *		Errors
 * ----------------------------------------------------------------
 */

/* Somebody else's lock, or what he did under it, ended the transaction. */
static bool
is_lock_failure(int sqlerrcode)
{
	return sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED ||
		sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE;
}

/*
 * A path was in the way of somebody else's lock: try again, ever later, and
 * meanwhile run the others.  The first time is said in the log, and in
 * incbatch.lag while it lasts.
 */
static void
retry_later(IbPath *path)
{
	int64		delay = (int64) RETRY_USECS << Min(path->lock_tries, 10);

	path->lock_tries++;
	path->retry_at = ib_monotonic_usecs() + Min(delay, LOCK_RETRY_LAST_USECS);
	ib_path_note_lock(path, path->writes);
	/* a store that is read over and over gets slow */
	if (path->preparing || !ib_inputs_are_whole(path) || path->lock_tries % 32 == 0)
		ib_path_stop_collecting(path);
	path->preparing = false;
	MemoryContextSwitchTo(TopMemoryContext);
	ib_worker_enter(WORKER_RUNNING);
}

/* What a path needed a lock for is done. */
void
ib_path_got_locks(IbPath *path)
{
	if (path->lock_tries == 0)
		return;
	path->lock_tries = 0;
	ib_path_note_lock(path, InvalidOid);
}

/* Errors that may be gone at the next try are not the path's own. */
static bool
is_transient(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
			return true;
		default:
			return false;
	}
}

/* A run of this path failed; "run" is the reason for which it ran. */
static void
log_failure(IbPath *path, const char *run, TimestampTz started_at, const char *error)
{
	ib_begin_catalog("recording a batch that failed");
	ib_catalog_log_failure(path->row->path, run, started_at, error);
	ib_commit();
}

/*
 * Called in the handler of an error of this path: note it in the catalog, so
 * that the path stops and the others go on.  In a new process, but if the path
 * was only being prepared, which leaves nothing behind, or a lock was in its way.
 * "run" is NULL if it was not running.
 */
void
ib_path_fail(IbPath *path, bool fresh_statements, const char *run,
			 TimestampTz started_at)
{
	ErrorData  *error;
	bool		stale;
	bool		own;
	bool		cut_short = ib_activity_is_cut_short();

	MemoryContextSwitchTo(path->context);
	ib_backfill_unwatch();
	if (ib_decode_busy())
	{
		ib_deaths_leave();
		PG_RE_THROW();
	}
	error = CopyErrorData();
	if (error->sqlerrcode != ERRCODE_OUT_OF_MEMORY)
		ib_deaths_leave();
	cut_short &= error->sqlerrcode == ERRCODE_QUERY_CANCELED;
	if (!cut_short && (!is_lock_failure(error->sqlerrcode) || path->lock_tries == 0))
		EmitErrorReport();
	FlushErrorState();
	AbortOutOfAnyTransaction();
	if (is_lock_failure(error->sqlerrcode))
	{
		FreeErrorData(error);
		retry_later(path);
		return;
	}
	MemoryContextSwitchTo(path->context);

	/* names that changed under statements made before: made anew, they may do */
	stale = !fresh_statements && ERRCODE_TO_CATEGORY(error->sqlerrcode) ==
		ERRCODE_TO_CATEGORY(ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION);
	own = !is_transient(error->sqlerrcode) && !stale;
	if (cut_short)
		give_up_backfill(path);
	else if (own)
	{
		char	   *reason = error->message;

		if (error->detail != NULL)
		{
			int			length = strlen(error->detail);

			/* more follows, so without its full stop */
			if (length > 0 && error->detail[length - 1] == '.')
				length--;
			reason = psprintf("%s: %.*s", error->message, length, error->detail);
		}

		if (error->sqlerrcode == ERRCODE_DATA_CORRUPTED ||
			error->sqlerrcode == ERRCODE_WRONG_OBJECT_TYPE)
			ib_path_lose_place(path, reason);
		else
			(void) change_state(path, PATH_FAILED,
								psprintf("%s (SQLSTATE %s); when the cause is gone, run incbatch.resume_pipeline",
										 reason, unpack_sql_state(error->sqlerrcode)));
		if (run != NULL)
			log_failure(path, run, started_at, error->message);
		(void) ib_notify_changes(true);
		pg_atomic_write_u32(&ib_worker->cured, 1);
	}
	MemoryContextSwitchTo(TopMemoryContext);
	if (!own || !path->preparing)
		proc_exit(1);
	path->preparing = false;
	ib_path_stop_collecting(path);
	ib_worker_enter(WORKER_RUNNING);
}

/* ----------------------------------------------------------------
 *		Names
 * ----------------------------------------------------------------
 */

/* A name in a path's statements may stand for something else now. */
static void
note_relation_change(Datum arg, Oid relid)
{
	ListCell   *lc;

	if (ib_decode_flipping())
		return;
	foreach(lc, ib_paths)
	{
		IbPath	   *path = lfirst(lc);
		PathStatements *statements = path->statements;

		/* of statements that are being made it is not known yet */
		if (statements == NULL || statements->relations == NIL || relid == InvalidOid ||
			list_member_oid(statements->source_relations, relid))
		{
			if (path->inputs != NIL)
				ib_batch_note_partitions(ib_inputs_source(path));
		}
		else if (!list_member_oid(statements->relations, relid))
			continue;
		if (statements != NULL)
			statements->stale = true;
	}
}

static void
note_name_change(Datum arg, int cacheid, uint32 hashvalue)
{
	note_relation_change(arg, InvalidOid);
}

/* Learn of what names in statements stand for, and of what the owner may do. */
void
ib_paths_init(void)
{
	CacheRegisterRelcacheCallback(note_relation_change, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, note_name_change, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, note_name_change, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, note_name_change, (Datum) 0);
	CacheRegisterSyscacheCallback(ENUMOID, note_name_change, (Datum) 0);
	/* who may read what */
	CacheRegisterSyscacheCallback(AUTHOID, note_name_change, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, note_name_change, (Datum) 0);
}
