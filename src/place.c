/*
 * place.c
 *	  The place in the WAL that the paths of a database share: its replication
 *	  slot, found or made, moved on, given up.
 *
 * It is the oldest that a path needs, or that decoding a transaction under way
 * does.  Whoever holds more than incbatch.max_retained_wal loses it, so that the
 * disk of the primary does not fill up because of us.
 *
 * Not here: the slot itself (slot.c), and the launcher, which gives the place up
 * where no worker runs.
 */
#include "incbatch.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"

#include "decode.h"
#include "worker.h"

static XLogRecPtr to_confirm = InvalidXLogRecPtr;	/* once standbys have ... */
static XLogRecPtr needed_by_it; /* ... this much */

/* ----------------------------------------------------------------
 *		Found or made
 * ----------------------------------------------------------------
 */

/* Paths that hold WAL and, if a test is given, for which it is true. */
static List *
holders(bool (*test) (const IbPath *, const SlotPosition *), const SlotPosition *slot)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, ib_paths)
	{
		IbPath	   *path = lfirst(lc);

		if (ib_path_holds_wal(path->row) && (test == NULL || test(path, slot)))
			result = lappend(result, path);
	}
	return result;
}

static bool
is_behind_slot(const IbPath *path, const SlotPosition *slot)
{
	return slot->confirmed_lsn > path->row->loaded_lsn && !MUTANT(SLOT_MOVED);
}

static bool
is_over_limit(const IbPath *path, const SlotPosition *slot)
{
	return path->row->loaded_lsn + ib_retained_limit() < ib_wal_end() && !MUTANT(OVER_LIMIT);
}

/* Wait for a slot that nobody has.  False: pipelines have changed meanwhile. */
static bool
await_slot(void)
{
	static bool said = false;

	while (!ib_slot_is_left())
	{
		if (!said)
			ereport(LOG,
					errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					errmsg("incbatch found no free replication slot for database with OID %u",
						   MyDatabaseId),
					errdetail("All that max_replication_slots allows are in use; it looks again every second."),
					errhint("Drop a slot that nobody needs, or raise max_replication_slots and restart the server."));
		said = true;
		ib_worker_enter(WORKER_NO_SLOT);
		ib_activity(ACTIVITY_NO_SLOT, 0, NULL);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 1000, ib_wait_event(WAIT_FOR_WORK));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (!ib_paths_are_current())
			return false;
	}
	return true;
}

/*
 * Make the slot.  It waits for all transactions that are running, which may
 * take so long that it is given up: because of the WAL that it holds meanwhile,
 * or because pipelines changed and it may not be wanted any more.  Then a new
 * process begins anew.
 */
static void
make_slot(void)
{
	XLogRecPtr	start;

	ib_worker_enter(WORKER_CREATING_SLOT);
	PG_TRY();
	{
		ib_activity(ACTIVITY_CREATING_SLOT, 0, NULL);
		ib_begin();
		start = ib_slot_create();
		ib_commit();
	}
	PG_CATCH();
	{
		if (!ib_activity_is_cut_short())
			PG_RE_THROW();
		if (ib_paths_are_current())
			ereport(LOG,
					errmsg("incbatch makes the replication slot of this database anew: while it waited for running transactions it held more WAL than half of incbatch.max_retained_wal (%d MB)",
						   ib_max_retained_wal),
					errhint("incbatch.workers.pinned_by says which transaction it waits for."));
		proc_exit(0);
	}
	PG_END_TRY();
	FAULT(SLOT_MADE);
	ib_begin_catalog("recording the replication slot");
	ib_catalog_store_slot(start);
	ib_commit();
	ib_slot_is_recorded = true;
}

/*
 * Find the slot or make it.  A frontier that the slot can no longer serve is
 * lost, whatever the reason: never go on from "now".  Where all are lost, who
 * needs no WAL gets no slot.  False: not done, for the catalog is to be read
 * again.
 */
bool
ib_place_attach(void)
{
	SlotPosition slot = ib_slot_position();
	bool		at_home;
	const char *lost = NULL;

	ib_begin_catalog("looking for the replication slot");
	at_home = ib_catalog_slot_is_at_home();
	ib_commit();
	ib_slot_is_recorded = at_home;

	/* this first: it may be why the slot is gone */
	if (at_home)
		ib_paths_lose_place(holders(is_over_limit, &slot), ib_too_much_wal());
	if (!at_home)
		lost = "this database is a copy, whose WAL is not the original's";
	else if (!slot.exists)
		lost = "the replication slot is gone";
	else if (!slot.usable)
		lost = "the replication slot no longer has the WAL";
	if (lost != NULL)
		ib_paths_lose_place(holders(NULL, &slot), lost);
	else
		ib_paths_lose_place(holders(is_behind_slot, &slot),
							"the replication slot was moved or made anew by someone else");

	/* what nobody needs any more shall not be read, nor kept */
	if (lost == NULL && holders(NULL, &slot) == NIL &&
		(slot.restart_lsn + ib_retained_limit() < ib_wal_end() || !ib_paths_need_slot()))
		lost = "nobody needs it";
	if (lost != NULL)
		ib_slot_drop();
	if (lost != NULL && ib_paths_need_slot())
	{
		if (!await_slot())
			return false;
		make_slot();
	}
	ib_worker_enter(WORKER_RUNNING);
	return true;
}

/* ----------------------------------------------------------------
 *		Moved on, or given up
 * ----------------------------------------------------------------
 */

/*
 * Let the server forget what lies before a position, for which all frontiers
 * are in the WAL that has been flushed, once standbys that may take over have
 * that WAL too; but they must not make it grow beyond the limit.
 */
static void
confirm_upto(XLogRecPtr lsn, XLogRecPtr flushed, XLogRecPtr seen)
{
	if (XLogRecPtrIsInvalid(to_confirm))
	{
		to_confirm = lsn;
		needed_by_it = flushed;
	}
	if (!ib_slot_standbys_have(needed_by_it) && to_confirm + ib_retained_limit() >= seen)
		return;
	ib_decode_confirm(to_confirm);
	to_confirm = InvalidXLogRecPtr;
}

/*
 * Say once that a limit comes near, and again after it was far: at 50 and at 80
 * percent of what may be held.  "path" is NULL where a transaction holds it.
 */
static void
warn_of_limit(int64 held, const IbPath *path, TransactionId xid)
{
	static int	said = 0;
	int			percent = held * 100 / ib_retained_limit();
	int			level = percent >= 80 ? 80 : percent >= 50 ? 50 : 0;

	if (percent < 40)
		said = 0;
	if (level <= said)
		return;
	said = level;
	ereport(WARNING,
			errmsg("incbatch holds %d percent of the WAL that incbatch.max_retained_wal (%d MB) allows",
				   percent, ib_max_retained_wal),
			path != NULL ?
			errdetail("Pipeline %d has not stored a frontier since; at 100 percent it gives up its place and needs a rebuild.",
					  path->row->pipeline) :
			errdetail("Transaction %u has been open since; at 100 percent all pipelines of this database give up their place and need a rebuild.",
					  xid));
}

/*
 * Of a transaction that is under way a part has been read, and all of it is
 * needed again after a restart.  If that is too much, nobody can keep his place.
 */
static bool
may_be_held(XLogRecPtr pinned, TransactionId xid, XLogRecPtr seen)
{
	if (XLogRecPtrIsInvalid(pinned) || pinned + ib_retained_limit() >= seen || MUTANT(PINNED))
		return true;
	ib_paths_lose_place(holders(NULL, NULL),
						psprintf("transaction %u, open for long, held more WAL than incbatch.max_retained_wal (%d MB)",
								 xid, ib_max_retained_wal));
	return false;
}

/*
 * Confirm what every path has folded in and flushed, and take the place from
 * a path that holds too much WAL.  "seen" is the end of the WAL for which this
 * round has run the paths: what came since is no path's delay.  False: the slot
 * is of no use any more.
 */
bool
ib_place_confirm(XLogRecPtr seen)
{
	XLogRecPtr	flushed = GetFlushRecPtr(NULL);
	XLogRecPtr	lsn = Min(ib_decode_position(), flushed);
	TransactionId xid;
	XLogRecPtr	pinned = ib_decode_pinned(&xid);
	XLogRecPtr	oldest = XLogRecPtrIsInvalid(pinned) ? seen : Min(pinned, seen);
	IbPath	   *oldest_path = NULL;
	List	   *lost = NIL;
	ListCell   *lc;

	foreach(lc, ib_paths)
	{
		IbPath	   *path = lfirst(lc);

		if (!ib_path_holds_wal(path->row))
			continue;
		/* what it has stored counts before it is judged */
		if (path->stored_commit > flushed && path->confirmable + ib_retained_limit() < seen)
			flushed = ib_flush_wal();
		if (path->stored_commit <= flushed || MUTANT(UNFLUSHED))
			path->confirmable = path->stored_lsn;
		if (path->confirmable + ib_retained_limit() < seen)
		{
			lost = lappend(lost, path);
			continue;
		}
		if (path->confirmable < oldest)
		{
			oldest = path->confirmable;
			oldest_path = path;
		}
		if (!MUTANT(CONFIRM_EARLY))
			lsn = Min(lsn, path->confirmable);
	}
	if (lost != NIL)
		ib_paths_lose_place(lost, ib_too_much_wal());
	list_free(lost);
	pg_atomic_write_u32(&ib_worker->pinning_xid, MUTANT(NAMELESS) ? InvalidTransactionId : xid);
	pg_atomic_write_u64(&ib_worker->pinned_lsn, pinned);
	warn_of_limit(seen - oldest, oldest_path, xid);
	confirm_upto(lsn, flushed, seen);
	ib_slot_let_go();
	return may_be_held(pinned, xid, seen);
}
