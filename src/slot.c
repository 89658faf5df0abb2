/*
 * slot.c
 *	  The life of the one replication slot that a database has, and the few
 *	  other things that need replication's headers.
 *
 * The slot is made by the worker, never by a session: making it waits for
 * every transaction that is running, and a slot survives a ROLLBACK.  It is
 * ephemeral until its start point is found, so that a failure leaves nothing.
 * Where the server has them it is a failover slot: a standby with
 * sync_replication_slots keeps a copy, with which it goes on when promoted.
 *
 * Not here: where decoding starts (worker.c) and what has been read
 * (decode.c).
 */
#include "incbatch.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogutils.h"
#include "miscadmin.h"
#include "replication/logical.h"
#include "replication/message.h"
#include "replication/origin.h"
#include "replication/slot.h"
#include "storage/lwlock.h"
#include "storage/standby.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "decode.h"
#include "shmem.h"

/* So seldom is a list of the running transactions written for little WAL. */
#define LET_GO_USECS (5 * 1000 * 1000)

/* One name a database, so that a session of any kind can compute it. */
char *
ib_slot_name(Oid database)
{
	return psprintf("incbatch_%u", database);
}

/* Where the slot of this database stands.  It may be active. */
SlotPosition
ib_slot_position(void)
{
	SlotPosition result = {0};
	char	   *name = ib_slot_name(MyDatabaseId);
	ReplicationSlot *slot;

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	slot = SearchNamedReplicationSlot(name, false);
	if (slot != NULL)
	{
		SpinLockAcquire(&slot->mutex);
		result.exists = true;
		result.confirmed_lsn = slot->data.confirmed_flush;
		result.restart_lsn = slot->data.restart_lsn;
		result.ours = slot->data.database == MyDatabaseId &&
			strcmp(NameStr(slot->data.plugin), IB_NAME) == 0;
		result.usable = result.ours &&
			(MUTANT(INVALIDATED) || (!ib_slot_is_invalidated(slot) &&
									 !XLogRecPtrIsInvalid(slot->data.restart_lsn)));
		SpinLockRelease(&slot->mutex);
	}
	LWLockRelease(ReplicationSlotControlLock);
	pfree(name);
	return result;
}

/* Is there a slot that nobody has?  Somebody may take it at once. */
bool
ib_slot_is_left(void)
{
	bool		left = false;

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	for (int i = 0; i < max_replication_slots && !left; i++)
		left = !ReplicationSlotCtl->replication_slots[i].in_use;
	LWLockRelease(ReplicationSlotControlLock);
	return left;
}

/*
 * Make the slot and wait for its start point: the position from which every
 * commit is decoded.  In a transaction of its own, without an XID.
 */
XLogRecPtr
ib_slot_create(void)
{
	char	   *name = ib_slot_name(MyDatabaseId);
	LogicalDecodingContext *ctx;
	XLogRecPtr	start;

	Assert(IsTransactionState());
	CheckSlotPermissions();
	CheckLogicalDecodingRequirements();
	ib_replication_slot_create(name, RS_EPHEMERAL);
	ctx = CreateInitDecodingContext(IB_NAME, NIL, false, InvalidXLogRecPtr,
									XL_ROUTINE(.page_read = read_local_xlog_page,
											   .segment_open = wal_segment_open,
											   .segment_close = wal_segment_close),
									NULL, NULL, NULL);
	DecodingContextFindStartpoint(ctx);
	start = ctx->slot->data.confirmed_flush;
	FreeDecodingContext(ctx);
	ReplicationSlotPersist();
	ReplicationSlotRelease();
	pfree(name);
	return start;
}

/*
 * How many bytes of WAL the slot, which this process holds, lets go of when it
 * is confirmed up to *lsn.
 */
int64
ib_slot_releasable(XLogRecPtr *lsn)
{
	ReplicationSlot *slot = MyReplicationSlot;

	/* nobody else writes these */
	if (slot == NULL || XLogRecPtrIsInvalid(slot->candidate_restart_valid))
		return 0;
	*lsn = slot->candidate_restart_valid;
	return (int64) (slot->candidate_restart_lsn - slot->data.restart_lsn);
}

/*
 * May the slot be confirmed, as far as its copies on standbys are concerned?  A
 * standby that takes over goes on from its copy with the frontiers that it has.
 * The copy follows the slot here, so the slot waits until the standbys named in
 * synchronized_standby_slots have all that was flushed when its new position
 * was stored.  Elsewhere this is true at once.
 */
bool
ib_slot_standbys_have(XLogRecPtr lsn)
{
	return ib_standby_slots_caught_up(lsn);
}

/* Drop the slot of this database, if there is one. */
void
ib_slot_drop(void)
{
	if (ib_slot_position().exists)
		ib_slot_drop_of(MyDatabaseId);
}

/* All slots of ours in the cluster, by name and by plugin. */
List *
ib_slots_of_all(void)
{
	List	   *result = NIL;

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	for (int i = 0; i < max_replication_slots; i++)
	{
		ReplicationSlot *slot = &ReplicationSlotCtl->replication_slots[i];
		WatchedSlot watched;
		char		name[NAMEDATALEN];

		if (!slot->in_use)
			continue;
		snprintf(name, sizeof(name), IB_NAME "_%u", slot->data.database);
		if (strcmp(NameStr(slot->data.plugin), IB_NAME) != 0 ||
			strcmp(NameStr(slot->data.name), name) != 0)
			continue;
		SpinLockAcquire(&slot->mutex);
		watched.database = slot->data.database;
		watched.active = slot->active_pid != 0;
		watched.restart_lsn = slot->data.restart_lsn;
		SpinLockRelease(&slot->mutex);
		result = lappend(result, memcpy(palloc(sizeof(watched)), &watched, sizeof(watched)));
	}
	LWLockRelease(ReplicationSlotControlLock);
	return result;
}

/* Drop the slot of any database; an error if somebody uses it. */
void
ib_slot_drop_of(Oid database)
{
	char	   *name = ib_slot_name(database);

	ReplicationSlotDrop(name, true);
	pfree(name);
}

/*
 * The slot lets go of WAL only when the decoder meets a list of the running
 * transactions.  The server writes one every 15 seconds, in which a busy one
 * writes many segments: while half a segment is held write one for each half
 * segment, and one for what came after that.
 */
void
ib_slot_let_go(void)
{
	static XLogRecPtr asked_lsn = InvalidXLogRecPtr;
	static int64 asked_at = 0;
	XLogRecPtr	end = GetFlushRecPtr(NULL);
	int64		now = ib_monotonic_usecs();

	if (MUTANT(LET_GO) || end < MyReplicationSlot->data.restart_lsn + wal_segment_size / 2 ||
		end < asked_lsn + (now - asked_at < LET_GO_USECS ? wal_segment_size / 2 : XLOG_BLCKSZ))
		return;
	asked_lsn = LogStandbySnapshot();
	asked_at = now;
}

/*
 * Make this process the one that decodes.
 *
 * All that it writes is marked so that decoding passes it over.  The id needs
 * no row in pg_replication_origin and moves no origin's position; rows that
 * came in through a subscription carry other ids.
 *
 * The newest minor releases refuse a plugin that is not listed in
 * output_plugin_libraries.  The worker lists its own, for itself alone.
 */
void
ib_slot_init_worker(void)
{
	replorigin_session_origin = DoNotReplicateId;
	if (GetConfigOption("output_plugin_libraries", true, false) != NULL)
		SetConfigOption("output_plugin_libraries", IB_NAME, PGC_SUSET,
						PGC_S_OVERRIDE);
}

/*
 * The end of the WAL as records have it.  At a page's start the insert
 * position lies behind the page header, where no record ends.
 */
XLogRecPtr
ib_wal_end(void)
{
	XLogRecPtr	lsn = GetXLogInsertRecPtr();

	if (XLogSegmentOffset(lsn, wal_segment_size) == SizeOfXLogLongPHD)
		lsn -= SizeOfXLogLongPHD;
	else if (lsn % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		lsn -= SizeOfXLogShortPHD;
	return lsn;
}

/*
 * Flush all the WAL there is and return its end: every transaction that any
 * snapshot taken before can see has its commit record before it.
 */
XLogRecPtr
ib_flush_wal(void)
{
	XLogRecPtr	lsn = ib_wal_end();

	XLogFlush(lsn);
	return lsn;
}

/* A position in the WAL after everything that has committed, flushed. */
XLogRecPtr
ib_emit_barrier(void)
{
	XLogRecPtr	lsn = ib_log_message(IB_NAME, "", 0, false);

	XLogFlush(lsn);
	return lsn;
}
