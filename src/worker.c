/*
 * worker.c
 *	  One background worker per database: read ahead, run the paths that are
 *	  due, confirm, wait.
 *
 * Started by the launcher when a database has, or may have, pipelines; ends
 * when it has none, and then drops the slot.  The worker is the only process
 * that decodes, writes state tables and moves frontiers.
 *
 * What it knows of the pipelines is a copy of the catalog, made again when
 * the generation in shared memory moves (hooks.c, functions.c).
 *
 * State and frontier are in one transaction, whose commit is flushed before
 * readers see it (but never waits for a standby): what they have seen stays,
 * and the frontier they saw never goes back.  The slot is confirmed only up to
 * frontiers whose commit has been flushed.
 *
 * An error ends the process; the launcher starts it again.  If it was one
 * path's own error, the path is marked failed first, so that the others go
 * on.  If that path was only being prepared, they do without a new process.
 */
#include "incbatch.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "access/xact.h"
#include "access/xlog.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/wait_event.h"

#include "decode.h"
#include "meter.h"
#include "path.h"
#include "source.h"

/* Without a wake-up, look at the WAL this often. */
#define POLL_USECS (1000 * 1000)
/* Look again this soon when a lock was in the way. */
#define RETRY_USECS (100 * 1000)
/* While no path is due, read when there is this much. */
#define READ_AHEAD_BYTES (1024 * 1024)
/* So often a copy waits for what the sibling held back. */
#define COPY_TRIES 10
/* A path without changes stores its frontier when this much WAL passed. */
#define QUIET_WAL_BYTES (1024 * 1024)

extern PGDLLEXPORT void ib_worker_main(Datum arg);

static DatabaseEntry *me = NULL;
static List *paths = NIL;
static uint32 known_generation = 0;
static XLogRecPtr read_upto = InvalidXLogRecPtr;	/* read ahead so far */

static void fail_path(IbPath *path, bool fresh_statements);

/* ----------------------------------------------------------------
 *		Start
 * ----------------------------------------------------------------
 */

/*
 * Settings of the database or of a role reach background workers too.  What
 * the worker depends on it sets itself.
 */
static void
fix_settings(void)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"default_transaction_isolation", "repeatable read"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"synchronous_commit", "local"},
		{"statement_timeout", "0"},
		{"lock_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		{"session_replication_role", "origin"},
		{"row_security", "off"},
		{"default_tablespace", ""},
		{"temp_tablespaces", ""},
		{"check_function_bodies", "off"},
		{"jit", "off"},
		{"max_parallel_workers_per_gather", "0"},
		{"client_min_messages", "warning"},
	};

	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

/*
 * Decoding takes and frees logical_decoding_work_mem in large blocks, over and
 * over.  glibc gives each of them back to the kernel, which has to clear the
 * pages again: a third of what reading costs.  Let the process keep them.
 */
static void
keep_freed_memory(void)
{
#ifdef __GLIBC__
	(void) mallopt(M_MMAP_THRESHOLD, 32 * 1024 * 1024);
	(void) mallopt(M_TRIM_THRESHOLD, 256 * 1024 * 1024);
#endif
}

static void
set_worker_state(WorkerState state)
{
	pg_atomic_write_u32(&me->state, state);
}

/* ----------------------------------------------------------------
 *		The paths
 * ----------------------------------------------------------------
 */

/* A path whose changes are wanted now. */
static bool
collects(const PathRow *row)
{
	return !row->paused && row->state != PATH_FAILED &&
		row->state != PATH_NEEDS_REBUILD;
}

/* A path that needs the WAL from its frontier on. */
static bool
holds_wal(const PathRow *row)
{
	return row->has_frontier && row->state != PATH_NEEDS_REBUILD &&
		row->state != PATH_INITIALIZING && row->state != PATH_BACKFILLING;
}

static IbPath *
find_path(int32 id)
{
	ListCell   *lc;

	foreach(lc, paths)
	{
		if (((IbPath *) lfirst(lc))->row->path == id)
			return lfirst(lc);
	}
	return NULL;
}

static void
stop_collecting(IbPath *path)
{
	ib_path_forget_statements(path);
	ib_inputs_destroy(path);
}

static void
remove_path(IbPath *path)
{
	stop_collecting(path);
	ib_path_entry_free(path->shared);
	MemoryContextDelete(path->context);
	pfree(path->row);
	pfree(path);
}

static IbPath *
add_path(int32 id)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	IbPath	   *path = palloc0(sizeof(IbPath));

	path->context = AllocSetContextCreate(TopMemoryContext, "incbatch path",
										  ALLOCSET_SMALL_SIZES);
	path->row = palloc0(sizeof(PathRow));
	path->row->state = PATH_NEEDS_REBUILD;
	path->shared = ib_path_entry_claim(id);
	paths = lappend(paths, path);
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
	if (row->has_frontier)
	{
		path->row->frontier.snapshot = datumCopy(row->frontier.snapshot, false, -1);
		if (row->frontier.partitions)
			path->row->frontier.partitions = datumCopy(row->frontier.partitions, false, -1);
	}
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
	int64		age = GetCurrentTimestamp() - row->frontier.as_of;

	return ib_monotonic_usecs() - Max(age, 0);
}

/* Are other statements needed, or only another reading of the same? */
static bool
closes_otherwise(const PathRow *before, const PathRow *now)
{
	return before->closes != now->closes || before->event_time != now->event_time ||
		before->late_policy != now->late_policy;
}

/* Take over a path's row as the catalog has it now. */
static void
update_path(PathRow *row)
{
	IbPath	   *path = find_path(row->path);
	bool		restart;

	if (path == NULL)
		path = add_path(row->path);

	/* a rebuild, or a path that comes back, starts from its row */
	restart = !collects(path->row) || !collects(row) ||
		(row->state == PATH_INITIALIZING && path->row->state != PATH_INITIALIZING);
	if (restart)
	{
		stop_collecting(path);
		path->stored_lsn = path->confirmable = row->has_frontier ? row->frontier.lsn : 0;
		path->stored_commit = 0;
		path->retry_at = 0;
		if (row->has_frontier && path->ran_at == 0)
			path->ran_at = last_run(row);
		if (row->has_frontier && row->state == PATH_RUNNING)
			ib_path_publish(path, row->frontier.lsn, row->frontier.lsn, row->frontier.as_of);
	}
	if (path->statements != NULL && closes_otherwise(path->row, row))
		path->statements->stale = true;
	copy_row(path, row);
	path->seen = true;
}

/* Read the catalog.  False: there is no pipeline in this database. */
static bool
load_paths(void)
{
	List	   *rows = NIL;
	ListCell   *lc;

	known_generation = pg_atomic_read_u32(&me->generation);
	foreach(lc, paths)
		((IbPath *) lfirst(lc))->seen = false;

	ib_begin_catalog("reading pipelines");
	if (ib_catalog_exists())
		rows = ib_catalog_paths();
	if (rows != NIL && ib_decode_is_open() && !ib_catalog_slot_is_at_home())
		ereport(FATAL,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("incbatch was dropped and created again in this database"),
				errdetail("The worker starts anew, for what it knows is of the pipelines before."));
	foreach(lc, rows)
		update_path(lfirst(lc));
	ib_commit();

	foreach(lc, paths)
	{
		IbPath	   *path = lfirst(lc);

		if (!path->seen)
		{
			remove_path(path);
			paths = foreach_delete_current(paths, lc);
		}
	}
	return paths != NIL;
}

/* If somebody else changed the state meanwhile, the catalog is read again. */
static void
change_state(IbPath *path, PathState state, const char *error)
{
	if (!ib_path_change_state(path, state, error))
	{
		known_generation = pg_atomic_read_u32(&me->generation) - 1;
		return;
	}
	if (!collects(path->row))
		stop_collecting(path);
	ConditionVariableBroadcast(&path->shared->moved);
}

static void
lose_place(IbPath *path, const char *reason)
{
	ereport(LOG,
			errmsg("incbatch pipeline %d needs a rebuild: %s",
				   path->row->pipeline, reason));
	change_state(path, PATH_NEEDS_REBUILD,
				 psprintf("%s; run incbatch.rebuild_pipeline", reason));
}

/* ----------------------------------------------------------------
 *		Slot and decoding
 * ----------------------------------------------------------------
 */

/*
 * Find the slot or make it.  A frontier that the slot can no longer serve is
 * lost, whatever the reason: never go on from "now".
 */
static void
attach_slot(void)
{
	SlotPosition slot = ib_slot_position();
	bool		at_home;
	ListCell   *lc;

	ib_begin_catalog("looking for the replication slot");
	at_home = ib_catalog_slot_is_at_home();
	ib_commit();

	foreach(lc, paths)
	{
		IbPath	   *path = lfirst(lc);

		if (!holds_wal(path->row))
			continue;
		if (!at_home)
			lose_place(path, "this database is a copy, whose WAL is not the original's");
		else if (!slot.exists)
			lose_place(path, "the replication slot is gone");
		else if (!slot.usable)
			lose_place(path, "the replication slot no longer has the WAL");
		else if (slot.confirmed_lsn > path->row->frontier.lsn)
			lose_place(path, "the replication slot was moved or made anew by someone else");
	}

	if (!slot.exists || !slot.usable || !at_home)
	{
		XLogRecPtr	start;

		ib_slot_drop();
		set_worker_state(WORKER_CREATING_SLOT);
		pgstat_report_activity(STATE_RUNNING, "waiting for running transactions to make the replication slot");
		ib_begin();
		start = ib_slot_create();
		ib_commit();
		ib_begin_catalog("recording the replication slot");
		ib_catalog_store_slot(start);
		ib_commit();
	}
	set_worker_state(WORKER_RUNNING);
}

/*
 * Where decoding must start for all that collect: the smallest frontier, or
 * what the slot has confirmed where there is none.
 */
static XLogRecPtr
decode_start(void)
{
	XLogRecPtr	start = InvalidXLogRecPtr;
	ListCell   *lc;

	foreach(lc, paths)
	{
		IbPath	   *path = lfirst(lc);

		if (collects(path->row) && holds_wal(path->row) &&
			(start == InvalidXLogRecPtr || path->stored_lsn < start))
			start = path->stored_lsn;
	}
	return start;
}

/*
 * Give a path its batch; what is wrong with its query is its own error.  Not
 * now if somebody has a table of its query locked: the next round tries again.
 */
static void
start_collecting(IbPath *path)
{
	PG_TRY();
	{
		ib_begin_catalog("preparing a path");
		if (ib_lock_sources(path, true))
			ib_path_prepare(path);
		ib_commit();
	}
	PG_CATCH();
	{
		fail_path(path, true);
	}
	PG_END_TRY();
}

/*
 * The sibling that a path which is to be filled begins as a copy of: the
 * freshest one that runs.  NULL: it is filled from the source.
 */
static IbPath *
sibling_to_copy(const IbPath *path)
{
	IbPath	   *best = NULL;
	ListCell   *lc;

	if (!collects(path->row) || path->row->state == PATH_RUNNING)
		return NULL;
	foreach(lc, paths)
	{
		IbPath	   *other = lfirst(lc);

		if (other->row->pipeline == path->row->pipeline && other->inputs != NIL &&
			other->row->state == PATH_RUNNING &&
			(best == NULL || other->row->trigger_usecs < best->row->trigger_usecs))
			best = other;
	}
	return best;
}

/*
 * Make every path that collects have its batch.  One that must read WAL which
 * the decoder has passed, or handed out in part, makes it start again from
 * there; the other batches are emptied, for what is in them is decoded again.
 */
static void
collect(void)
{
	bool		rewind = !ib_decode_is_open();
	ListCell   *lc;

	foreach(lc, paths)
	{
		IbPath	   *path = lfirst(lc);

		if (!collects(path->row))
			continue;
		if (path->inputs != NIL)
		{
			/* what changed may be that the source cannot be one any more */
			if (path->statements == NULL || path->statements->stale)
				start_collecting(path);
			continue;
		}
		if (sibling_to_copy(path) == NULL)
			start_collecting(path);
		if (path->inputs == NIL)
			continue;
		if (!rewind && ((holds_wal(path->row) &&
						 path->stored_lsn < ib_decode_position()) ||
						ib_batches_streaming()))
			rewind = true;
	}

	if (rewind)
	{
		ib_decode_close();
		ib_batches_restart();
		read_upto = InvalidXLogRecPtr;
		ib_begin();
		ib_decode_open(decode_start());
		ib_commit();
	}
}

/*
 * Reading is of use if a path collects; or if none holds its place, so that
 * the slot moves on.  While all are paused what is read would be read again.
 */
static bool
reading_is_of_use(void)
{
	bool		held = false;
	ListCell   *lc;

	foreach(lc, paths)
	{
		IbPath	   *path = lfirst(lc);

		if (collects(path->row))
			return true;
		held |= holds_wal(path->row);
	}
	return !held;
}

/*
 * How often a path runs: less than its trigger interval, if runs are so slow
 * that a consumer would see staler rows than it accepts.
 */
static int64
effective_trigger(const IbPath *path)
{
	int64		trigger = path->row->trigger_usecs;

	if (path->row->freshness_usecs > 0)
		trigger = Min(trigger, Max(path->row->freshness_usecs - path->run_time, 0));
	return trigger;
}

/* Whether a path may run as soon as it is known what there is for it. */
static bool
waits_for_reading(IbPath *path)
{
	return collects(path->row) &&
		(path->row->state != PATH_RUNNING ||
		 ib_monotonic_usecs() - path->ran_at >= effective_trigger(path) ||
		 pg_atomic_read_u64(&path->shared->refresh_lsn) >
		 pg_atomic_read_u64(&path->shared->decoded_lsn));
}

/*
 * Looking into the past empties all caches, and to fill them again costs as
 * much as to read hundreds of changes.  So WAL is read when a path is due, or
 * when there is much of it.
 */
static bool
worth_reading(XLogRecPtr upto)
{
	ListCell   *lc;

	if (upto <= read_upto || ib_batches_full() || !reading_is_of_use())
		return false;
	if (upto - read_upto >= READ_AHEAD_BYTES)
		return true;
	foreach(lc, paths)
	{
		if (waits_for_reading(lfirst(lc)))
			return true;
	}
	return false;
}

/* Decode what has been flushed, without a snapshot that would hold vacuum. */
static void
read_ahead(XLogRecPtr upto)
{
	if (!worth_reading(upto))
		return;
	pgstat_report_activity(STATE_RUNNING, "reading the WAL");
	ib_begin();
	if (ib_decode_upto(upto, true) >= upto || !ib_batches_full())
		read_upto = upto;
	ib_commit();
	pg_atomic_write_u64(&me->rows_decoded, ib_batches_rows_decoded());
}

static int64
retained_limit(void)
{
	return (int64) ib_max_retained_wal * 1024 * 1024;
}

/*
 * Confirm what every path has folded in and flushed, and take the place from
 * a path that holds too much WAL.  "seen" is the end of the WAL for which this
 * round has run the paths: what came since is no path's delay.
 */
static void
confirm(XLogRecPtr seen)
{
	XLogRecPtr	flushed = GetFlushRecPtr(NULL);
	XLogRecPtr	lsn = Min(ib_decode_position(), flushed);
	ListCell   *lc;

	foreach(lc, paths)
	{
		IbPath	   *path = lfirst(lc);

		if (!holds_wal(path->row))
			continue;
		/* what it has stored counts before it is judged */
		if (path->stored_commit > flushed && path->confirmable + retained_limit() < seen)
			flushed = ib_flush_wal();
		if (path->stored_commit <= flushed)
			path->confirmable = path->stored_lsn;
		if (path->confirmable + retained_limit() < seen)
		{
			lose_place(path, psprintf("it held more WAL than incbatch.max_retained_wal (%d MB)",
									  ib_max_retained_wal));
			continue;
		}
		if (!MUTANT(CONFIRM_EARLY))
			lsn = Min(lsn, path->confirmable);
	}
	ib_decode_confirm(lsn);
}

/* ----------------------------------------------------------------
 *		Running paths
 * ----------------------------------------------------------------
 */

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
			return sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE;
	}
}

/*
 * Called in the handler of an error of this path: note it in the catalog, so
 * that the path stops and the others go on.  In a new process, but if the path
 * was only being prepared, which leaves nothing behind.
 */
static void
fail_path(IbPath *path, bool fresh_statements)
{
	ErrorData  *error;
	bool		stale;
	bool		own;

	MemoryContextSwitchTo(path->context);
	if (ib_decode_busy())
		PG_RE_THROW();
	error = CopyErrorData();
	EmitErrorReport();
	FlushErrorState();
	AbortOutOfAnyTransaction();
	MemoryContextSwitchTo(path->context);

	/* names that changed under statements made before: made anew, they may do */
	stale = !fresh_statements && ERRCODE_TO_CATEGORY(error->sqlerrcode) ==
		ERRCODE_TO_CATEGORY(ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION);
	own = !is_transient(error->sqlerrcode) && !stale;
	if (own)
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
			lose_place(path, reason);
		else
			change_state(path, PATH_FAILED,
						 psprintf("%s (SQLSTATE %s); when the cause is gone, run incbatch.resume_pipeline",
								  reason, unpack_sql_state(error->sqlerrcode)));
	}
	MemoryContextSwitchTo(TopMemoryContext);
	if (!own || !path->preparing)
		proc_exit(1);
	path->preparing = false;
	stop_collecting(path);
	set_worker_state(WORKER_RUNNING);
}

static void
run_path(IbPath *path, const char *reason, bool store)
{
	bool		fresh = path->statements == NULL || path->statements->stale ||
		!path->statements->proven;
	volatile bool done = false;
	char		activity[64];

	snprintf(activity, sizeof(activity), "%s path %d",
			 path->row->state == PATH_RUNNING ? "folding changes into" : "backfilling",
			 path->row->path);
	pgstat_report_activity(STATE_RUNNING, activity);
	PG_TRY();
	{
		if (path->row->state == PATH_RUNNING)
			done = ib_path_run(path, reason, store);
		else
		{
			set_worker_state(WORKER_BACKFILLING);
			done = ib_path_backfill(path);
			set_worker_state(WORKER_RUNNING);
		}
	}
	PG_CATCH();
	{
		fail_path(path, fresh);
	}
	PG_END_TRY();

	if (done && path->statements != NULL)
		path->statements->proven = true;
	if (ib_inputs_lost(path))
		lose_place(path, ib_inputs_lost(path));
	else if (!done)
		path->retry_at = ib_monotonic_usecs() + RETRY_USECS;
	ib_inputs_note_stuck(path);
	pg_atomic_write_u64(&me->heartbeat_at, GetCurrentTimestamp());
}

/*
 * Let a path begin as a copy of a sibling, at the place where the decoder
 * stands.  If the sibling held back what its snapshot did not see, or there is
 * a transaction of which a part was read, that place is earlier, and all paths
 * would have to read again from there: rather wait a little first.
 */
static void
copy_path(IbPath *path, IbPath *sibling)
{
	volatile bool done = false;
	bool		behind;

	path->retry_at = ib_monotonic_usecs() + RETRY_USECS;
	if (!ib_path_can_copy(path, sibling))
		return;
	run_path(sibling, "copy", true);
	if (sibling->inputs == NIL || sibling->retry_at > ib_monotonic_usecs())
		return;
	behind = sibling->stored_lsn < ib_decode_position() || ib_batches_streaming();
	if (behind && path->copy_tries++ < COPY_TRIES)
		return;

	stop_collecting(path);
	pgstat_report_activity(STATE_RUNNING, psprintf("copying path %d to path %d",
												   sibling->row->path, path->row->path));
	PG_TRY();
	{
		done = ib_path_copy(path, sibling);
	}
	PG_CATCH();
	{
		fail_path(path, true);
	}
	PG_END_TRY();
	if (!done)
		return;
	path->retry_at = 0;
	path->copy_tries = 0;
	if (!behind)
		start_collecting(path);
}

/*
 * Should a path without changes store its frontier?  When much WAL has passed
 * since it did; or when it keeps the slot from letting go of much, which may be
 * WAL from before that.
 */
static bool
holds_much(const IbPath *path)
{
	XLogRecPtr	needed;

	return ib_decode_position() - path->stored_lsn > QUIET_WAL_BYTES ||
		(ib_slot_releasable(&needed) > QUIET_WAL_BYTES && path->stored_lsn < needed &&
		 needed <= ib_decode_position());
}

/*
 * Why a path should run now, or NULL.  "caught_up" says that all the WAL
 * there was at as_of has been decoded.
 */
static const char *
due(IbPath *path, bool caught_up, TimestampTz as_of)
{
	int64		now = ib_monotonic_usecs();
	PathEntry  *shared = path->shared;
	int64		trigger = effective_trigger(path);
	int64		held = ib_decode_position() - path->stored_lsn;
	bool		has_work = ib_inputs_have_work(path);

	if (now < path->retry_at)
		return NULL;
	if (sibling_to_copy(path) != NULL)
		return "copy";
	if (path->inputs == NIL)
		return NULL;
	if (path->row->state != PATH_RUNNING)
		return "backfill";
	if (ib_inputs_in_doubt(path))
		return "lost";
	/* the decoder went back for another path and is not yet here again */
	if (!has_work &&
		ib_decode_position() < ib_inputs_source(path)->frontier.decoded_lsn)
		return NULL;
	if (pg_atomic_read_u64(&shared->refresh_lsn) > pg_atomic_read_u64(&shared->decoded_lsn))
		return "refresh";
	if (ib_inputs_full(path))
		return "full";
	if (held > retained_limit() / 2)
		return has_work ? "full" : "quiet";
	if (now - path->ran_at < trigger)
		return NULL;
	if (has_work || ib_partitions_changed(ib_inputs_source(path)))
		return "trigger";
	if (caught_up)
	{
		ib_path_publish(path, ib_decode_position(), ib_decode_position(), as_of);
		return holds_much(path) ? "quiet" : NULL;
	}
	if (now - path->ran_at < POLL_USECS)
		return NULL;
	return holds_much(path) ? "quiet" : "trigger";
}

static void
run_due_paths(bool caught_up, TimestampTz as_of)
{
	ListCell   *lc;

	foreach(lc, paths)
	{
		IbPath	   *path = lfirst(lc);
		const char *reason = due(path, caught_up, as_of);

		CHECK_FOR_INTERRUPTS();
		/* what was altered before a refresh was asked for is known first */
		pg_read_barrier();
		if (pg_atomic_read_u32(&me->generation) != known_generation)
			return;
		if (reason != NULL && strcmp(reason, "copy") == 0)
			copy_path(path, sibling_to_copy(path));
		else if (reason != NULL)
			run_path(path, reason, strcmp(reason, "refresh") == 0 ||
					 strcmp(reason, "quiet") == 0);
		if (path->inputs != NIL)
			pg_atomic_write_u64(&path->shared->backlog_rows, ib_inputs_rows(path));
	}
}

/* Microseconds until something may be due without a wake-up. */
static int64
next_due(bool *wake_on_commit)
{
	int64		now = ib_monotonic_usecs();
	int64		wait = POLL_USECS;
	ListCell   *lc;

	*wake_on_commit = false;
	foreach(lc, paths)
	{
		IbPath	   *path = lfirst(lc);
		int64		trigger = effective_trigger(path);

		if (!collects(path->row))
			continue;
		if (path->retry_at > now)
			wait = Min(wait, path->retry_at - now);
		if (trigger == 0)
			*wake_on_commit = true;
		else if (path->ran_at + trigger > now)
			wait = Min(wait, path->ran_at + trigger - now);
		else
			wait = Min(wait, trigger);
		if (path->row->state == PATH_RUNNING)
			pg_atomic_write_u64(&path->shared->next_run, trigger == 0 ? 0 :
								GetCurrentTimestamp() + Max(path->ran_at + trigger - now, 0));
	}
	return wait;
}

/* Wait for a commit, a request or the next trigger.  True: woken up. */
static bool
wait_for_work(XLogRecPtr seen)
{
	bool		wake_on_commit;
	int64		wait = next_due(&wake_on_commit);
	int			events;

	confirm(seen);
	ib_meter_end_round(me);
	pgstat_report_activity(STATE_IDLE, NULL);
	pgstat_report_stat(false);

	pg_atomic_write_u32(&me->wake_on_commit, wake_on_commit);
	if (wake_on_commit && GetFlushRecPtr(NULL) > read_upto && !ib_batches_full())
		wait = 0;
	/* full batches kept this round from reading on, and have made room */
	if (worth_reading(seen))
		wait = 0;
	events = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					   (wait + 999) / 1000, PG_WAIT_EXTENSION);
	pg_atomic_write_u32(&me->wake_on_commit, 0);
	ResetLatch(MyLatch);
	return (events & WL_LATCH_SET) != 0;
}

/* ----------------------------------------------------------------
 *		The process
 * ----------------------------------------------------------------
 */

/* A name in a path's statements may stand for something else now. */
static void
note_relation_change(Datum arg, Oid relid)
{
	ListCell   *lc;

	if (ib_decode_flipping())
		return;
	foreach(lc, paths)
	{
		IbPath	   *path = lfirst(lc);
		PathStatements *statements = path->statements;

		if (statements == NULL || relid == InvalidOid ||
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

/* No pipeline is left: drop the slot and go, unless one was made meanwhile. */
static bool
retire(void)
{
	bool		gone = false;

	ib_decode_close();
	ib_slot_drop();
	LWLockAcquire(ib_shared->lock, LW_EXCLUSIVE);
	if (pg_atomic_read_u32(&me->generation) == known_generation)
	{
		me->wanted = false;
		gone = true;
	}
	LWLockRelease(ib_shared->lock);
	return gone;
}

static void
work(void)
{
	bool		woken = false;

	for (;;)
	{
		TimestampTz as_of = GetCurrentTimestamp();
		XLogRecPtr	end = ib_wal_end();
		XLogRecPtr	flushed = GetFlushRecPtr(NULL);

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (pg_atomic_read_u32(&me->generation) != known_generation && !load_paths())
			return;
		collect();

		/* a commit that did not wait for its flush woke us: flush it now */
		if (woken && flushed <= read_upto)
			flushed = ib_flush_wal();
		read_ahead(flushed);
		run_due_paths(ib_decode_position() >= end, as_of);
		pg_atomic_write_u64(&me->heartbeat_at, GetCurrentTimestamp());
		woken = wait_for_work(flushed);
	}
}

void
ib_worker_main(Datum arg)
{
	Oid			database = DatumGetObjectId(arg);

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	me = ib_database_attach(database);
	if (me == NULL)
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	fix_settings();
	keep_freed_memory();
	ib_slot_init_worker();
	ib_backfill_init();
	CacheRegisterRelcacheCallback(note_relation_change, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, note_name_change, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, note_name_change, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, note_name_change, (Datum) 0);
	CacheRegisterSyscacheCallback(ENUMOID, note_name_change, (Datum) 0);
	MemoryContextSwitchTo(TopMemoryContext);

	do
	{
		if (load_paths())
		{
			attach_slot();
			work();
		}
	} while (!retire());
	proc_exit(0);
}
