/*
 * plugin.c
 *	  The output plugin: hands each committed change to the batches.
 *
 * Small transactions arrive at their commit, large ones in chunks before it.
 *
 * The callbacks see the catalog of the past and may not write, nor read any
 * user table.  Relations and tuples are theirs for the length of a call, so
 * batch.c copies what it keeps.  Own writes are dropped by origin before they
 * are queued.
 *
 * Only the worker may start the plugin: a replication role that names it for
 * a slot of its own, or reads the worker's slot, is refused.
 */
#include "incbatch.h"

#include "replication/logical.h"
#include "replication/origin.h"
#include "replication/output_plugin.h"
#include "utils/rel.h"

#include "batch.h"
#include "decode.h"

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
	return origin == DoNotReplicateId;
}

static void
begin_transaction(LogicalDecodingContext *ctx, ReorderBufferTXN *txn)
{
	ib_decode_enter_history();
	ib_batches_begin(txn->xid, txn->final_lsn, txn->xact_time.commit_time);
}

static void
hand_over_change(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
				 Relation relation, ReorderBufferChange *change)
{
	HeapTuple	oldtuple = ib_change_oldtuple(change);
	HeapTuple	newtuple = ib_change_newtuple(change);

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
	for (int i = 0; i < nrelations; i++)
		ib_batches_truncate(relations[i]);
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
}

static void
abort_streamed(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
			   XLogRecPtr abort_lsn)
{
	ib_batches_stream_abort(txn->toptxn ? txn->toptxn->xid : txn->xid, txn->xid);
}

static void
commit_streamed(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
				XLogRecPtr commit_lsn)
{
	ib_batches_stream_commit(txn->xid, commit_lsn, txn->xact_time.commit_time);
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
	cb->commit_cb = commit_transaction;
	cb->stream_start_cb = start_chunk;
	cb->stream_stop_cb = stop_chunk;
	cb->stream_abort_cb = abort_streamed;
	cb->stream_commit_cb = commit_streamed;
	cb->stream_change_cb = hand_over_change;
	cb->stream_truncate_cb = hand_over_truncate;
}
