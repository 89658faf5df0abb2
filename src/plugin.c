/*
 * plugin.c
 *	  The output plugin: hands each committed change to the batches.
 *
 * Small transactions arrive at their commit, large ones in chunks before it.
 *
 * The callbacks see the catalog of the past and may not write, nor read any
 * user table.  Relations and tuples are theirs for the length of a call, so
 * collect.c copies what it keeps.  Own writes are dropped by origin before they
 * are queued.
 *
 * Only the worker may start the plugin: a replication role that names it for
 * a slot of its own, or reads the worker's slot, is refused.
 */
#include "incbatch.h"

#include "access/xact.h"
#include "replication/logical.h"
#include "replication/message.h"
#include "replication/origin.h"
#include "replication/output_plugin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "decode.h"
#include "source.h"

extern PGDLLEXPORT void _PG_output_plugin_init(OutputPluginCallbacks *cb);

static void
start_plugin(LogicalDecodingContext *ctx, OutputPluginOptions *options,
			 bool is_init)
{
	if (!is_init && !ib_decode_by_worker())
		ereport(ERROR,
				errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				errmsg("output plugin \"%s\" serves the incbatch worker only",
					   IB_NAME));
	options->output_type = OUTPUT_PLUGIN_BINARY_OUTPUT;
	options->receive_rewrites = false;
}

static bool
is_own_write(LogicalDecodingContext *ctx, RepOriginId origin)
{
	return origin == DoNotReplicateId && !MUTANT(OWN_WRITES);
}

/*
 * When the transaction whose commit is being read committed here.  Core tells
 * what a replication origin has set, which is the time of another clock.
 */
static TimestampTz
local_commit_time(LogicalDecodingContext *ctx)
{
	Assert(XLogRecGetRmid(ctx->reader) == RM_XACT_ID);
	return ((xl_xact_commit *) XLogRecGetData(ctx->reader))->xact_time;
}

static void
begin_transaction(LogicalDecodingContext *ctx, ReorderBufferTXN *txn)
{
	ib_decode_enter_history();
	ib_batches_begin(txn->xid, MUTANT(ROW_LSN) ? txn->first_lsn : txn->final_lsn,
					 local_commit_time(ctx));
}

static void
hand_over_change(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
				 Relation relation, ReorderBufferChange *change)
{
	HeapTuple	oldtuple = ib_change_oldtuple(change);
	HeapTuple	newtuple = ib_change_newtuple(change);

	FAULT(DECODING);
	ib_batches_subtransaction(change->txn->xid);
	switch (change->action)
	{
		case REORDER_BUFFER_CHANGE_INSERT:
			ib_batches_insert(relation, newtuple);
			break;
		case REORDER_BUFFER_CHANGE_UPDATE:
			ib_batches_update(relation, oldtuple, newtuple);
			break;
		case REORDER_BUFFER_CHANGE_DELETE:
			ib_batches_delete(relation, oldtuple);
			break;
		default:
			elog(ERROR, "unexpected decoded change %d", change->action);
	}
}

static void
hand_over_truncate(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
				   int nrelations, Relation relations[],
				   ReorderBufferChange *change)
{
	ib_batches_subtransaction(change->txn->xid);
	ib_batches_truncate(nrelations, relations);
}

/* What a session told of a partition, in the transaction that made it one. */
typedef struct PartitionMessage
{
	Oid			partition;
	TransactionId xid;
	bool		empty;
} PartitionMessage;

/*
 * Tell the worker that this transaction made a table a partition, or none any
 * more, and whether it is one that has no rows.
 */
void
ib_tell_partition(Oid partition, bool empty)
{
	PartitionMessage message;

	memset(&message, 0, sizeof(message));
	message.partition = partition;
	message.xid = GetCurrentTransactionId();
	message.empty = empty;
	(void) ib_log_message(IB_NAME, (char *) &message, sizeof(message), true);
}

/* Anybody may write messages, but only speak for his own transaction. */
static bool
is_in_transaction(ReorderBufferTXN *txn, TransactionId xid)
{
	dlist_iter	iter;

	if (txn->xid == xid)
		return true;
	dlist_foreach(iter, &txn->subtxns)
	{
		if (dlist_container(ReorderBufferTXN, node, iter.cur)->xid == xid)
			return true;
	}
	return false;
}

static void
hand_over_message(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
				  XLogRecPtr lsn, bool transactional, const char *prefix,
				  Size size, const char *content)
{
	PartitionMessage message;

	if (!transactional || strcmp(prefix, IB_NAME) != 0 || size != sizeof(message))
		return;
	memcpy(&message, content, sizeof(message));
	if (is_in_transaction(txn, message.xid))
		ib_partition_joined(message.partition, message.xid, message.empty);
}

/* A large transaction comes in chunks, while it is under way. */
static void
start_chunk(LogicalDecodingContext *ctx, ReorderBufferTXN *txn)
{
	ib_decode_enter_history();
	ib_batches_stream_start(txn->xid);
}

static void
stop_chunk(LogicalDecodingContext *ctx, ReorderBufferTXN *txn)
{
	ib_batches_stream_stop();
	FAULT(STREAMING);
}

static void
abort_streamed(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
			   XLogRecPtr abort_lsn)
{
	if (txn->toptxn == NULL)
		ib_batches_stream_abort(txn->xid);
}

/*
 * Core tells of most subtransactions that are rolled back, but not of one that
 * it wrote to disk before it handed it over.  All that were have left their
 * transaction when it commits.
 */
static TransactionId *
committed_xids(ReorderBufferTXN *txn, int *nxids)
{
	TransactionId *xids;
	dlist_iter	iter;
	int			n = 1;

	dlist_foreach(iter, &txn->subtxns)
		n++;
	xids = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(TransactionId) * n);
	xids[0] = txn->xid;
	n = 1;
	dlist_foreach(iter, &txn->subtxns)
		xids[n++] = dlist_container(ReorderBufferTXN, node, iter.cur)->xid;
	qsort(xids, n, sizeof(TransactionId), xidComparator);
	*nxids = n;
	return xids;
}

static void
commit_streamed(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
				XLogRecPtr commit_lsn)
{
	int			nxids;
	TransactionId *xids = committed_xids(txn, &nxids);

	ib_batches_stream_commit(txn->xid, MUTANT(ROW_LSN) ? txn->first_lsn : commit_lsn,
							 local_commit_time(ctx), xids, nxids);
	pfree(xids);
}

static void
commit_transaction(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
				   XLogRecPtr commit_lsn)
{
	ib_batches_commit();
}

void
_PG_output_plugin_init(OutputPluginCallbacks *cb)
{
	cb->startup_cb = start_plugin;
	cb->filter_by_origin_cb = is_own_write;
	cb->begin_cb = begin_transaction;
	cb->change_cb = hand_over_change;
	cb->truncate_cb = hand_over_truncate;
	cb->message_cb = hand_over_message;
	cb->commit_cb = commit_transaction;
	cb->stream_start_cb = start_chunk;
	cb->stream_stop_cb = stop_chunk;
	cb->stream_abort_cb = abort_streamed;
	cb->stream_commit_cb = commit_streamed;
	cb->stream_change_cb = hand_over_change;
	cb->stream_truncate_cb = hand_over_truncate;
	cb->stream_message_cb = hand_over_message;
}
