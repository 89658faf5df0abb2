/*
 * plugin.c
 *	  The output plugin: hands each committed change to the batches.
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
	for (int i = 0; i < nrelations; i++)
		ib_batches_truncate(relations[i]);
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
}
