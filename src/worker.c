/*
 * worker.c
 *	  One background worker per database: read ahead, run the paths that are
 *	  due, confirm, wait.
 *
 * Started by the launcher when a database has, or may have, pipelines; ends
 * when it has none, and then drops the slot.  The worker is the only process
 * that decodes, writes state tables and moves frontiers.
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
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "deaths.h"
#include "decode.h"
#include "meter.h"
#include "source.h"
#include "worker.h"

/* While no path is due, read when there is this much, or after this long. */
#define READ_AHEAD_BYTES (1024 * 1024)
#define READ_AHEAD_USECS (30 * 1000 * 1000)
/* So often a copy waits for what the sibling held back. */
#define COPY_TRIES 10

extern PGDLLEXPORT void ib_worker_main(Datum arg);

static XLogRecPtr read_upto = InvalidXLogRecPtr;	/* read ahead so far */
static int64 read_at = 0;		/* monotonic */
static bool look_again = false; /* for statuses that nobody has told */

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
		{"role", "none"},
		{"application_name", "incbatch worker"},
		{"search_path", "pg_catalog, pg_temp"},
		{"default_transaction_isolation", "repeatable read"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"synchronous_commit", MUTANT(UNFLUSHED) ? "off" : "local"},
		{"statement_timeout", "0"},
		{"lock_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		{"session_replication_role", "origin"},
		{"row_security", "off"},
		{"default_tablespace", ""},
		{"temp_tablespaces", ""},
		{"temp_file_limit", "-1"},
		{"check_function_bodies", "off"},
		{"jit", "off"},
		{"track_counts", "on"},
		{"max_parallel_workers_per_gather", "0"},
		{"client_min_messages", "warning"},
		{"exit_on_error", "off"},
	};
	List	   *text = MUTANT(SETTINGS) ? NIL : ib_text_settings();

	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
	for (int i = 0; i < list_length(text); i += 2)
		SetConfigOption(list_nth(text, i), list_nth(text, i + 1), PGC_SUSET, PGC_S_OVERRIDE);
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

/* Show what the worker is about. */
void
ib_worker_enter(WorkerState state)
{
	pg_atomic_write_u32(&ib_worker->state, state);
}

/* ----------------------------------------------------------------
 *		Reading
 * ----------------------------------------------------------------
 */

/*
 * Where decoding must start for all that collect: the smallest frontier, or
 * what the slot has confirmed where there is none.
 */
static XLogRecPtr
decode_start(void)
{
	XLogRecPtr	start = InvalidXLogRecPtr;
	ListCell   *lc;

	foreach(lc, ib_paths)
	{
		IbPath	   *path = lfirst(lc);

		if (ib_path_collects(path->row) && ib_path_holds_wal(path->row) &&
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
	if (path->lock_tries > 0 && ib_monotonic_usecs() < path->retry_at)
		return;
	PG_TRY();
	{
		ib_activity(ACTIVITY_PREPARING, path->row->path, NULL);
		ib_deaths_enter(path->row->path);
		ib_begin();
		ib_limit_lock_waits();
		path->writes = path->row->definition;
		PushActiveSnapshot(GetTransactionSnapshot());
		if (ib_lock_sources(path, true))
			ib_path_prepare(path);
		ib_commit();
		ib_deaths_leave();
	}
	PG_CATCH();
	{
		ib_path_fail(path, true, NULL, 0);
	}
	PG_END_TRY();
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

	foreach(lc, ib_paths)
	{
		IbPath	   *path = lfirst(lc);

		if (!ib_path_collects(path->row))
			continue;
		if (path->inputs != NIL)
		{
			/* what changed may be that the source cannot be one any more */
			if (path->statements == NULL || path->statements->stale)
				start_collecting(path);
			continue;
		}
		if (ib_path_sibling_to_copy(path) == NULL)
			start_collecting(path);
		if (path->inputs == NIL)
			continue;
		if (!rewind && ((ib_path_holds_wal(path->row) &&
						 path->stored_lsn < ib_decode_position()) ||
						ib_batches_streaming()))
			rewind = true;
	}

	if (rewind)
	{
		ib_decode_close();
		ib_batches_restart();
		read_upto = InvalidXLogRecPtr;
		ib_horizon_forget();
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

	foreach(lc, ib_paths)
	{
		IbPath	   *path = lfirst(lc);

		if (ib_path_collects(path->row))
			return true;
		held |= ib_path_holds_wal(path->row);
	}
	return !held;
}

/*
 * Looking into the past empties all caches, and to fill them again costs as
 * much as to read hundreds of changes.  So WAL is read when a path is due, when
 * there is much of it, and now and then, so that the backlog is known.
 */
static bool
worth_reading(XLogRecPtr upto)
{
	ListCell   *lc;

	if (upto <= read_upto || ib_batches_full() || !reading_is_of_use())
		return false;
	if (upto - read_upto >= READ_AHEAD_BYTES ||
		ib_monotonic_usecs() - read_at >= READ_AHEAD_USECS)
		return true;
	foreach(lc, ib_paths)
	{
		if (ib_path_waits_for_reading(lfirst(lc)))
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
	ib_activity(ACTIVITY_READING, 0, NULL);
	ib_begin();
	if (ib_decode_upto(upto, true) >= upto || !ib_batches_full())
		read_upto = upto;
	read_at = ib_monotonic_usecs();
	ib_commit();
}

/* ----------------------------------------------------------------
 *		Running paths
 * ----------------------------------------------------------------
 */

static void
run_path(IbPath *path, const char *reason, bool store)
{
	bool		fresh = path->statements == NULL || path->statements->stale ||
		!path->statements->proven;
	volatile bool done = false;
	TimestampTz started_at = GetCurrentTimestamp();

	ib_activity(path->row->state == PATH_RUNNING ? ACTIVITY_FOLDING : ACTIVITY_BACKFILLING,
				path->row->path, NULL);
	ib_deaths_enter(path->row->path);
	PG_TRY();
	{
		if (path->row->state == PATH_RUNNING)
			done = ib_path_run(path, reason, store);
		else
		{
			ib_worker_enter(WORKER_BACKFILLING);
			(void) ib_notify_changes(path->row->state == PATH_INITIALIZING);
			done = ib_path_backfill(path);
			ib_worker_enter(WORKER_RUNNING);
		}
	}
	PG_CATCH();
	{
		ib_path_fail(path, fresh, reason, started_at);
	}
	PG_END_TRY();

	ib_deaths_leave();
	if (done)
		ib_path_survived(path);
	if (done && path->statements != NULL)
		path->statements->proven = true;
	if (ib_inputs_lost(path))
		ib_path_lose_place(path, ib_inputs_lost(path));
	else if (done)
		ib_path_got_locks(path);
	else
		path->retry_at = Max(path->retry_at, ib_monotonic_usecs() + RETRY_USECS);
	ib_inputs_note_stuck(path);
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
	if (!MUTANT(COPY_WITHOUT_RUN))
		run_path(sibling, "copy", true);
	if (sibling->inputs == NIL || sibling->retry_at > ib_monotonic_usecs())
		return;
	behind = !MUTANT(COPY_HELD_BACK) &&
		(sibling->stored_lsn < ib_decode_position() || ib_batches_streaming());
	if (behind && path->copy_tries++ < COPY_TRIES)
		return;

	ib_path_stop_collecting(path);
	ib_activity(ACTIVITY_COPYING, path->row->path, NULL);
	PG_TRY();
	{
		ib_deaths_enter(path->row->path);
		done = ib_path_copy(path, sibling);
		ib_deaths_leave();
	}
	PG_CATCH();
	{
		ib_path_fail(path, true, NULL, 0);
	}
	PG_END_TRY();
	if (!done)
		return;
	ib_path_got_locks(path);
	path->retry_at = 0;
	path->copy_tries = 0;
	if (!behind)
		start_collecting(path);
}

static void
run_due_paths(Horizon now)
{
	Horizon		reached = ib_horizon_reached(now);
	ListCell   *lc;

	foreach(lc, ib_paths)
	{
		IbPath	   *path = lfirst(lc);
		const char *reason = ib_path_due(path, reached);

		CHECK_FOR_INTERRUPTS();
		/* what was altered before a refresh was asked for is known first */
		pg_read_barrier();
		if (!ib_paths_are_current())
			return;
		if (reason != NULL && strcmp(reason, "copy") == 0)
			copy_path(path, ib_path_sibling_to_copy(path));
		else if (reason != NULL)
		{
			run_path(path, reason, strcmp(reason, "refresh") == 0 ||
					 strcmp(reason, "quiet") == 0);
			FAULT(BETWEEN_PATHS);
		}
		if (path->inputs != NIL)
			pg_atomic_write_u64(&path->shared->backlog_rows, ib_inputs_rows(path));
	}
}

/* What is waited for: something to do, or for a path to get its locks. */
static void
show_waiting(void)
{
	ListCell   *lc;

	foreach(lc, ib_paths)
	{
		IbPath	   *path = lfirst(lc);

		if (ib_path_collects(path->row) && pg_atomic_read_u32(&path->shared->locked) != InvalidOid)
		{
			ib_activity(ACTIVITY_RETRYING, path->row->path, NULL);
			return;
		}
	}
	ib_activity(ACTIVITY_WAITING, 0, NULL);
}

/* Tell who listens, unless all is plainly as it was told. */
static void
notify_changes(void)
{
	bool		look = look_again;
	ListCell   *lc;

	if (!ib_paths_are_current())
		return;
	foreach(lc, ib_paths)
		look |= !ib_notify_is_told(lfirst(lc));
	if (look && ib_notify_changes(false))
		look_again = false;
}

/* Wait for a commit, a request or the next trigger.  True: woken up. */
static bool
wait_for_work(XLogRecPtr seen)
{
	bool		wake_on_commit;
	int64		wait = ib_next_due(&wake_on_commit);
	int			events;

	notify_changes();
	ib_meter_end_round(ib_worker);
	pgstat_report_stat(false);
	show_waiting();

	pg_atomic_write_u32(&ib_worker->wake_on_commit, wake_on_commit);
	if (wake_on_commit && GetFlushRecPtr(NULL) > read_upto && !ib_batches_full())
		wait = 0;
	else if (ib_horizon_is_awaited() && reading_is_of_use())
		wait = Min(wait, RETRY_USECS);
	/* full batches kept this round from reading on, and have made room */
	if (worth_reading(seen))
		wait = 0;
	events = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					   (wait + 999) / 1000, ib_wait_event(WAIT_FOR_WORK));
	pg_atomic_write_u32(&ib_worker->wake_on_commit, 0);
	ResetLatch(MyLatch);
	return (events & WL_LATCH_SET) != 0;
}

/* ----------------------------------------------------------------
 *		The process
 * ----------------------------------------------------------------
 */

/* No pipeline is left: drop the slot and go, unless one was made meanwhile. */
static bool
retire(void)
{
	bool		gone = false;

	FAULT(PIPELINES_GONE);
	ib_decode_close();
	if (ib_slot_position().ours || MUTANT(STRANGE_SLOT))
		ib_slot_drop();
	FAULT(SLOT_DROPPED);
	LWLockAcquire(ib_shared->lock, LW_EXCLUSIVE);
	if (ib_paths_are_current())
	{
		ib_worker->wanted = false;
		gone = true;
	}
	LWLockRelease(ib_shared->lock);
	return gone;
}

static void
start_round(void)
{
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	ib_paths_rebuild_lost();
}

/* Without a slot, for nobody needs one: until pipelines change. */
static void
rest(void)
{
	pg_atomic_write_u32(&ib_worker->pinning_xid, InvalidTransactionId);
	pg_atomic_write_u64(&ib_worker->pinned_lsn, InvalidXLogRecPtr);
	look_again = true;
	while (ib_paths_are_current())
	{
		start_round();
		notify_changes();
		pgstat_report_stat(false);
		ib_activity(ACTIVITY_WAITING, 0, NULL);
		ib_heartbeat();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 POLL_USECS / 1000, ib_wait_event(WAIT_FOR_WORK));
		ResetLatch(MyLatch);
	}
}

/*
 * Read and run paths; until there are none, or the slot is of no use.  While all
 * need a rebuild the slot goes along: to make another waits for transactions.
 */
static void
work(void)
{
	bool		woken = false;

	look_again = true;
	for (;;)
	{
		Horizon		now = {.as_of = GetCurrentTimestamp(),.end = ib_wal_end()};
		XLogRecPtr	flushed = GetFlushRecPtr(NULL);

		start_round();
		if (!ib_paths_are_current())
		{
			if (!ib_paths_load())
				break;
			look_again = true;
		}
		collect();

		/* a commit that did not wait for its flush woke us: flush it now */
		if (woken && flushed <= read_upto)
			flushed = ib_flush_wal();
		read_ahead(flushed);
		run_due_paths(now);
		ib_heartbeat();
		if (!ib_place_confirm(flushed))
			break;
		woken = wait_for_work(flushed);
	}
	ib_decode_close();
}

void
ib_worker_main(Datum arg)
{
	Oid			database = DatumGetObjectId(arg);

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	ib_worker = ib_database_attach(database);
	if (ib_worker == NULL)
		proc_exit(0);
	ib_activity_init(ib_worker);
	ib_activity(ACTIVITY_CATALOG, 0, "connecting");
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	fix_settings();
	keep_freed_memory();
	ib_slot_init_worker();
	ib_backfill_init();
	ib_paths_init();
	ib_deaths_init(database);
	ib_collect_init();
	MemoryContextSwitchTo(TopMemoryContext);

	ib_activity_obsolete_if(ib_paths_are_current);
	for (;;)
	{
		if (!ib_paths_load())
		{
			if (retire())
			{
				ib_deaths_remove();
				break;
			}
			continue;
		}
		ib_paths_stop_deadly();
		if (!ib_place_attach())
			continue;
		if (ib_paths_need_slot())
			work();
		else
			rest();
	}
	proc_exit(0);
}
