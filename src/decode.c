/*
 * decode.c
 *	  One decoding context that lives as long as the worker reads.
 *
 * Opened inside a transaction (opened outside one, core would let others
 * overlook this process's XID, and committed rows would be lost), but in a
 * memory context of its own, and used across any number of transactions.
 *
 * Decoding sees the catalog of the past, applying that of the present.  While
 * no catalog change lies between the two they are the same, and share the
 * caches.  Else these hold only one of them, and are emptied on the way into
 * history and out of it, which makes a run several times as dear.  plugin.c
 * calls ib_decode_enter_history before the first change of a call is looked at;
 * ib_decode_upto leaves history again.
 *
 * Whether a change lies between: each tells all processes when it is committed,
 * after its commit is in the WAL.  So a message that came while less than the
 * WAL of that moment was decoded stands between; so does what was committed before
 * there was this process, which is told nothing of it; and so does a change that was
 * decoded in this call, or is decoded before it is committed, which the present
 * does not see yet.  What has been committed by a backend that is about to tell
 * does not matter: it still holds the lock that keeps the present off the table.
 *
 * After an error the context is not used again: the worker exits.
 *
 * Not here: what is done with a change (plugin.c).
 */
#include "incbatch.h"

#include "access/rmgr.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlogreader.h"
#include "access/xlogutils.h"
#include "miscadmin.h"
#include "replication/decode.h"
#include "replication/logical.h"
#include "replication/slot.h"
#include "storage/proc.h"
#include "storage/sinval.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "batch.h"
#include "decode.h"
#include "meter.h"

/* A snapshot of the catalog is kept for so many records at most. */
#define RECORDS_A_SNAPSHOT 64

static LogicalDecodingContext *ctx = NULL;
static MemoryContext decode_context = NULL;
static ReadLocalXLogPageNoWaitPrivate *page_state;
static bool opening = false;
static bool in_history = false;
static bool busy = false;
static bool flipping = false;
static bool differs;			/* history from the present, in this call */
static uint64 messages = 0;		/* of catalog changes that came */
static XLogRecPtr changed_upto = InvalidXLogRecPtr; /* where WAL ended then */

/* Whether the output plugin is being started by this file. */
bool
ib_decode_by_worker(void)
{
	return opening || ctx != NULL;
}

bool
ib_decode_is_open(void)
{
	return ctx != NULL;
}

/* Whether decoding is at work: an error then is nobody's pipeline's. */
bool
ib_decode_busy(void)
{
	return busy;
}

/* Whether caches are being emptied by this file, not because of a change. */
bool
ib_decode_flipping(void)
{
	return flipping;
}

static void
note_catalog_changes(void)
{
	AcceptInvalidationMessages();
	if (SharedInvalidMessageCounter != messages)
	{
		messages = SharedInvalidMessageCounter;
		changed_upto = GetXLogInsertRecPtr();
	}
}

static void
empty_caches(void)
{
	flipping = true;
	if (!MUTANT(SHARED_CACHES))
		InvalidateSystemCaches();
	flipping = false;
}

/* Is there a transaction, not yet decoded to its end, that changes the catalog? */
static bool
change_is_under_way(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &ctx->reorder->toplevel_by_lsn)
	{
		if (rbtxn_has_catalog_changes(dlist_container(ReorderBufferTXN, node, iter.cur)))
			return true;
	}
	return false;
}

/* Everything from the record that is being read on is yet to be decoded. */
void
ib_decode_enter_history(void)
{
	if (in_history)
		return;
	note_catalog_changes();
	differs = differs || changed_upto > ctx->reader->ReadRecPtr || change_is_under_way();
	if (differs)
		empty_caches();
	in_history = true;
}

static void
leave_history(void)
{
	if (!in_history)
		return;
	note_catalog_changes();
	if (differs || changed_upto > ctx->reader->ReadRecPtr)
		empty_caches();
	in_history = false;
}

/* Whether a record, which has been decoded, brought catalog changes. */
static bool
changes_catalog(XLogReaderState *record)
{
	xl_xact_parsed_commit parsed;

	if (XLogRecGetRmid(record) != RM_XACT_ID)
		return false;
	switch (XLogRecGetInfo(record) & XLOG_XACT_OPMASK)
	{
		case XLOG_XACT_INVALIDATIONS:
			return true;
		case XLOG_XACT_COMMIT:
		case XLOG_XACT_COMMIT_PREPARED:
			ParseCommitRecord(XLogRecGetInfo(record),
							  (xl_xact_commit *) XLogRecGetData(record), &parsed);
			return parsed.nmsgs > 0;
		default:
			return false;
	}
}

/*
 * Acquire this database's slot and read from it.  Transactions whose commit
 * record begins before start_lsn are passed over.
 */
void
ib_decode_open(XLogRecPtr start_lsn)
{
	MemoryContext old;
	char	   *name = ib_slot_name(MyDatabaseId);

	Assert(ctx == NULL);
	Assert(IsTransactionState());

	ib_replication_slot_acquire(name);
	decode_context = AllocSetContextCreate(TopMemoryContext, "incbatch decoding",
										   ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(decode_context);
	opening = true;
	ctx = CreateDecodingContext(start_lsn, NIL, false,
								XL_ROUTINE(.page_read = read_local_xlog_page_no_wait,
										   .segment_open = wal_segment_open,
										   .segment_close = wal_segment_close),
								NULL, NULL, NULL);
	opening = false;
	/* of what was committed before this process began nobody told it */
	if (!MUTANT(UNTOLD))
		changed_upto = GetXLogInsertRecPtr();
	Assert(!(MyProc->statusFlags & PROC_IN_LOGICAL_DECODING));

	/* The page reader's private data is the decoding context by default. */
	page_state = palloc0(sizeof(ReadLocalXLogPageNoWaitPrivate));
	ctx->reader->private_data = page_state;
	XLogBeginRead(ctx->reader, MyReplicationSlot->data.restart_lsn);
	MemoryContextSwitchTo(old);
	pfree(name);
}

void
ib_decode_close(void)
{
	if (ctx == NULL)
		return;
	FreeDecodingContext(ctx);
	ReplicationSlotRelease();
	MemoryContextDelete(decode_context);
	ctx = NULL;
}

/* Everything before this position has been decoded. */
XLogRecPtr
ib_decode_position(void)
{
	return ctx->reader->EndRecPtr;
}

/*
 * Where the oldest transaction began of which a part was read, and which that
 * is; 0 where there is none.  Decoding it starts before that, at a list of the
 * running transactions; that the last one was long ago is not its fault.
 */
XLogRecPtr
ib_decode_pinned(TransactionId *xid)
{
	ReorderBufferTXN *txn = ReorderBufferGetOldestTXN(ctx->reorder);

	*xid = txn ? txn->xid : InvalidTransactionId;
	return txn ? txn->first_lsn : InvalidXLogRecPtr;
}

/*
 * Decode up to a flushed position; if so asked, only until a batch is full,
 * which is between two transactions.  Returns the position reached.  The
 * caller is in a transaction without an XID.
 */
XLogRecPtr
ib_decode_upto(XLogRecPtr upto, bool stop_when_full)
{
	MemoryContext old_context = CurrentMemoryContext;
	ResourceOwner old_owner = CurrentResourceOwner;
	bool		full = stop_when_full && ib_batches_full();
	int64		nrecords = 0;

	Assert(IsTransactionState());
	Assert(!TransactionIdIsValid(GetTopTransactionIdIfAny()));
	busy = true;
	differs = false;
	if (MUTANT(INTERRUPTS))
		HOLD_INTERRUPTS();
	ib_meter_begin_read();

	while (ctx->reader->EndRecPtr < upto && !full)
	{
		XLogRecord *record;
		char	   *error = NULL;

		/* the reader makes its buffers when it first needs them */
		MemoryContextSwitchTo(decode_context);
		record = XLogReadRecord(ctx->reader, &error);
		MemoryContextSwitchTo(old_context);
		if (record == NULL)
		{
			if (error != NULL)
				elog(ERROR, "could not read WAL at %X/%X: %s",
					 LSN_FORMAT_ARGS(ctx->reader->EndRecPtr), error);
			page_state->end_of_wal = false;
			break;
		}
		LogicalDecodingProcessRecord(ctx, ctx->reader);
		if (changes_catalog(ctx->reader))
			differs = true;
		/* caches that were filled in between must not hold vacuum back */
		if (++nrecords % RECORDS_A_SNAPSHOT == 0)
			InvalidateCatalogSnapshot();
		/* a batch grows when a transaction ends */
		if (stop_when_full && XLogRecGetRmid(ctx->reader) == RM_XACT_ID)
			full = ib_batches_full();
		CHECK_FOR_INTERRUPTS();
	}

	/* Core does not put these back. */
	MemoryContextSwitchTo(old_context);
	CurrentResourceOwner = old_owner;
	leave_history();
	busy = false;
	ib_meter_end_read();
	if (MUTANT(INTERRUPTS))
		RESUME_INTERRUPTS();
	Assert(!HistoricSnapshotActive());
	return ctx->reader->EndRecPtr;
}

/*
 * Let the server forget what lies before lsn.  Only for what is folded in
 * and flushed.
 */
void
ib_decode_confirm(XLogRecPtr lsn)
{
	Assert(lsn <= GetFlushRecPtr(NULL));
	if (lsn <= MyReplicationSlot->data.confirmed_flush)
		return;
	FAULT(BEFORE_CONFIRM);
	LogicalConfirmReceivedLocation(lsn);
	FAULT(AFTER_CONFIRM);
	ReplicationSlotMarkDirty();
}
