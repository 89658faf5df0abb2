/*
 * batch.c
 *	  Changes that wait for one path to run.
 *
 * A batch holds the changes of one source as rows of weight +1 and -1 in a
 * tuplestore, in commit order, with a list of the transactions they belong
 * to.  Only the columns that the query reads are kept; the others are NULL.
 * The last column is the weight; a row that ends before it has weight +1.
 *
 * Changes wait in memory.  A batch that has nearly filled incbatch.work_mem is
 * full, and runs.  Transactions that take more at once go on in a temporary
 * file.
 *
 * A batch lives in the worker's memory and outlives transactions: its
 * tuplestore belongs to a resource owner of its own, and to a memory context
 * of its own, which is thrown away whole.  What is in it is never needed after
 * a crash, for it is decoded again.
 *
 * A transaction that was decoded but is not yet visible to the run's snapshot
 * is held back for the next run (ib_batch_settle).
 *
 * Not here: how changes get in (collect.c).
 */
#include "incbatch.h"

#include "access/htup_details.h"
#include "access/tupdesc.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "batch.h"
#include "query.h"

/* A transaction costs this much memory beside its rows. */
#define TRANSACTION_BYTES ((int64) sizeof(BatchTransaction))

/* A store takes memory in blocks up to this size. */
#define MAX_BLOCK_BYTES (1024L * 1024)

static MemoryContext batch_context = NULL;	/* life of the worker */
static ResourceOwner batch_owner = NULL;

static void
init_batches(void)
{
	batch_context = AllocSetContextCreate(TopMemoryContext, "incbatch batches",
										  ALLOCSET_DEFAULT_SIZES);
	batch_owner = ResourceOwnerCreate(NULL, "incbatch batches");
}

/*
 * A store for rows that may outlive the transaction, in a context that holds
 * nothing else.  What outgrows so many kilobytes goes to a file.
 */
Tuplestorestate *
ib_batch_begin_store(int kilobytes)
{
	Size		block = Max(ALLOCSET_DEFAULT_INITSIZE, Min(kilobytes * 32L, MAX_BLOCK_BYTES));
	MemoryContext context = GenerationContextCreate(batch_context, "incbatch rows",
													0, ALLOCSET_DEFAULT_INITSIZE, block);
	MemoryContext old_context = MemoryContextSwitchTo(context);
	ResourceOwner old_owner = CurrentResourceOwner;
	Tuplestorestate *store;

	CurrentResourceOwner = batch_owner;
	store = tuplestore_begin_heap(false, true, kilobytes);
	CurrentResourceOwner = old_owner;
	MemoryContextSwitchTo(old_context);
	return store;
}

void
ib_batch_end_store(Tuplestorestate *store)
{
	MemoryContext context = GetMemoryChunkContext(store);

	/* rows in memory need not be freed one by one, a file is to be closed */
	if (!tuplestore_in_memory(store))
		tuplestore_end(store);
	MemoryContextDelete(context);
}

/* The source's columns as the query's tree numbers them, then the weight. */
static TupleDesc
batch_descriptor(TupleDesc source)
{
	TupleDesc	desc = CreateTemplateTupleDesc(source->natts + 1);

	for (int i = 1; i <= source->natts; i++)
		TupleDescCopyEntry(desc, i, source, i);
	TupleDescInitEntry(desc, source->natts + 1, BATCH_WEIGHT, INT4OID, -1, 0);
	return desc;
}

/* Start to collect what changes in a source. */
Batch *
ib_batch_create(Relation source, const Bitmapset *needed, bool append_only,
				const Frontier *frontier)
{
	MemoryContext old;
	Batch	   *batch;
	int			natts = RelationGetNumberOfAttributes(source);
	int			attnum = -1;

	if (batch_context == NULL)
		init_batches();

	old = MemoryContextSwitchTo(batch_context);
	batch = palloc0(sizeof(Batch));
	batch->source = RelationGetRelid(source);
	batch->partitioned = source->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
	ib_batch_note_partitions(batch);
	batch->append_only = append_only;
	batch->desc = batch_descriptor(RelationGetDescr(source));
	batch->needed = palloc(sizeof(AttrNumber) * natts);
	batch->varlena = palloc(sizeof(int) * natts);
	while ((attnum = bms_next_member(needed, attnum)) >= 0)
	{
		if (TupleDescAttr(batch->desc, attnum - 1)->attlen == -1)
			batch->varlena[batch->nvarlena++] = batch->nneeded;
		batch->needed[batch->nneeded++] = attnum;
	}
	batch->row_values = palloc0(sizeof(Datum) * batch->desc->natts);
	batch->row_nulls = palloc(sizeof(bool) * batch->desc->natts);
	memset(batch->row_nulls, true, natts);
	batch->row_nulls[natts] = false;
	batch->store = ib_batch_begin_store(ib_work_mem);
	ib_batch_set_frontier(batch, frontier);
	MemoryContextSwitchTo(old);
	ib_collect_add(batch);
	return batch;
}

void
ib_batch_destroy(Batch *batch)
{
	ib_collect_remove(batch);
	ib_batch_end_store(batch->store);
	if (batch->transactions)
		pfree(batch->transactions);
	FreeTupleDesc(batch->desc);
	pfree(batch->needed);
	pfree(batch->varlena);
	pfree(batch->row_values);
	pfree(batch->row_nulls);
	if (batch->new_links)
		pfree(batch->new_links);
	ib_frontier_free(&batch->frontier);
	pfree(batch);
}

/* From now on pass over what this frontier includes. */
void
ib_batch_set_frontier(Batch *batch, const Frontier *frontier)
{
	Frontier	previous = batch->frontier;

	batch->frontier = ib_frontier_copy(frontier, batch_context);
	ib_frontier_free(&previous);
}

/* The changes can no longer be trusted; the first reason counts. */
void
ib_batch_lose(Batch *batch, const char *reason)
{
	if (batch->lost == NULL)
		batch->lost = ib_batch_keep_reason(reason);
}

char *
ib_batch_keep_reason(const char *reason)
{
	return MemoryContextStrdup(batch_context, reason);
}

/*
 * A batch is lost if a transaction is that the snapshot sees.  A backfill does
 * not ask: it has read what these have done.
 */
void
ib_batch_judge(Batch *batch, Snapshot snapshot)
{
	for (int i = 0; i < batch->ntransactions && batch->has_lost; i++)
	{
		if (batch->transactions[i].lost != NULL &&
			!XidInMVCCSnapshot(batch->transactions[i].xid, snapshot))
			ib_batch_lose(batch, batch->transactions[i].lost);
	}
}

/* The partitions may no longer be those of the frontier. */
void
ib_batch_note_partitions(Batch *batch)
{
	if (batch->partitioned)
		batch->partition_changes++;
}

/* Rows came by a link that the frontier does not have. */
void
ib_batch_add_link(Batch *batch, uint64 link)
{
	if (batch->nnew_links == batch->max_new_links)
	{
		batch->max_new_links = Max(16, batch->max_new_links * 2);
		if (batch->new_links == NULL)
			batch->new_links = MemoryContextAlloc(batch_context,
												  sizeof(uint64) * batch->max_new_links);
		else
			batch->new_links = repalloc(batch->new_links,
										sizeof(uint64) * batch->max_new_links);
	}
	batch->new_links[batch->nnew_links++] = link;
	ib_batch_note_partitions(batch);
}

/* The source's columns may have new names; their numbers never change. */
void
ib_batch_rename_columns(Batch *batch)
{
	for (int attnum = 1; attnum < batch->desc->natts; attnum++)
	{
		char	   *name = get_attname(batch->source, attnum, true);

		if (name != NULL)
			namestrcpy(&TupleDescAttr(batch->desc, attnum - 1)->attname, name);
	}
}

/* Forget what has been folded in. */
void
ib_batch_empty(Batch *batch)
{
	ib_batch_end_store(batch->store);
	batch->store = ib_batch_begin_store(ib_work_mem);
	batch->ntransactions = 0;
	batch->rows = 0;
	batch->negatives = 0;
	batch->has_lost = false;
	batch->stuck = false;
}

/*
 * Whether a batch should run before it takes more.  What else arrives until
 * then, the rest of a transaction, should still find room in memory: a store
 * that outgrows it writes all its rows to a file.
 */
bool
ib_batch_is_full(const Batch *batch)
{
	int64		bytes = batch->ntransactions * TRANSACTION_BYTES +
		MemoryContextMemAllocated(GetMemoryChunkContext(batch->store), true);

	return !tuplestore_in_memory(batch->store) ||
		bytes > ib_work_mem * INT64CONST(1024) / 4 * 3;
}

void
ib_batch_add_transaction(Batch *batch, const BatchTransaction *transaction)
{
	if (batch->ntransactions == batch->max_transactions)
	{
		batch->max_transactions = Max(64, batch->max_transactions * 2);
		if (batch->transactions == NULL)
			batch->transactions =
				MemoryContextAlloc(batch_context,
								   sizeof(BatchTransaction) * batch->max_transactions);
		else
			batch->transactions =
				repalloc_huge(batch->transactions,
							  sizeof(BatchTransaction) * batch->max_transactions);
	}
	batch->transactions[batch->ntransactions++] = *transaction;
	batch->rows += transaction->rows;
	batch->negatives += transaction->negatives;
	batch->has_lost |= transaction->lost != NULL;
}

/* Move the next n rows of one store to another, or nowhere. */
void
ib_batch_move_rows(Tuplestorestate *from, Tuplestorestate *to, int64 n,
				   TupleTableSlot *slot)
{
	for (int64 i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!tuplestore_gettupleslot(from, true, false, slot))
			elog(ERROR, "incbatch batch ends before its last transaction");
		if (to != NULL)
			tuplestore_puttupleslot(to, slot);
	}
}

/*
 * Split a batch by what a snapshot sees: the batch keeps the transactions
 * that are visible, beginning behind the last TRUNCATE among them; the others
 * are returned in a batch-like shell, to be put back by ib_batch_finish.
 */
static void
split(Batch *batch, Snapshot snapshot, Batch *held, bool *truncated)
{
	Batch		kept = *batch;
	TupleTableSlot *slot = MakeSingleTupleTableSlot(batch->desc,
													&TTSOpsMinimalTuple);
	int			last_truncate = -1;

	for (int i = 0; i < batch->ntransactions; i++)
	{
		if (batch->transactions[i].truncated_at >= 0 &&
			!XidInMVCCSnapshot(batch->transactions[i].xid, snapshot))
			last_truncate = i;
	}

	kept.store = ib_batch_begin_store(ib_work_mem);
	kept.transactions = NULL;
	kept.ntransactions = kept.max_transactions = 0;
	kept.rows = kept.negatives = 0;
	kept.has_lost = false;
	*held = kept;
	held->store = ib_batch_begin_store(ib_work_mem);

	tuplestore_rescan(batch->store);
	for (int i = 0; i < batch->ntransactions; i++)
	{
		BatchTransaction transaction = batch->transactions[i];

		if (XidInMVCCSnapshot(transaction.xid, snapshot) && !MUTANT(HELD_BACK))
		{
			ib_batch_move_rows(batch->store, held->store, transaction.rows, slot);
			ib_batch_add_transaction(held, &transaction);
			continue;
		}
		if (i <= last_truncate)
		{
			int64		gone = i < last_truncate ? transaction.rows :
				MUTANT(TRUNCATE_ROWS) ? 0 : transaction.truncated_at;

			ib_batch_move_rows(batch->store, NULL, gone, slot);
			transaction.rows -= gone;
		}
		ib_batch_move_rows(batch->store, kept.store, transaction.rows, slot);
		ib_batch_add_transaction(&kept, &transaction);
	}
	ExecDropSingleTupleTableSlot(slot);

	ib_batch_end_store(batch->store);
	if (batch->transactions)
		pfree(batch->transactions);
	*batch = kept;
	*truncated = last_truncate >= 0 && !MUTANT(TRUNCATE);
}

/*
 * Make the batch ready for a run under a snapshot.  What the snapshot does
 * not see goes to "held" (whose ntransactions says whether there is any).
 * Returns whether the source was truncated: then the state is emptied first
 * and the batch holds only what came after.
 */
bool
ib_batch_settle(Batch *batch, Snapshot snapshot, Batch *held)
{
	bool		truncated = false;
	bool		whole = true;

	for (int i = 0; i < batch->ntransactions && whole; i++)
	{
		whole = batch->transactions[i].truncated_at < 0 &&
			!XidInMVCCSnapshot(batch->transactions[i].xid, snapshot);
	}

	if (whole)
	{
		*held = *batch;
		held->store = NULL;
		held->transactions = NULL;
		held->ntransactions = 0;
	}
	else
		split(batch, snapshot, held, &truncated);
	tuplestore_rescan(batch->store);
	return truncated;
}

/* After the run: forget what was folded in, keep what was held back. */
void
ib_batch_finish(Batch *batch, Batch *held)
{
	if (held->store == NULL)
	{
		ib_batch_empty(batch);
		return;
	}
	ib_batch_end_store(batch->store);
	if (batch->transactions)
		pfree(batch->transactions);
	batch->store = held->store;
	batch->transactions = held->transactions;
	batch->ntransactions = held->ntransactions;
	batch->max_transactions = held->max_transactions;
	batch->rows = held->rows;
	batch->negatives = held->negatives;
	batch->has_lost = held->has_lost;
}

/* Whether a transaction waits in the batch. */
bool
ib_batch_has_transaction(TransactionId xid, void *arg)
{
	Batch	   *batch = arg;

	for (int i = 0; i < batch->ntransactions; i++)
	{
		if (batch->transactions[i].xid == xid)
			return true;
	}
	return false;
}

/* ----------------------------------------------------------------
 *		Single changes
 * ----------------------------------------------------------------
 */

/* The columns of a batch, and a change's number in it, from 1. */
TupleDesc
ib_batch_numbered_descriptor(const Batch *batch)
{
	int			natts = batch->desc->natts;
	TupleDesc	desc = CreateTemplateTupleDesc(natts + 1);

	for (int i = 1; i <= natts; i++)
		TupleDescCopyEntry(desc, i, batch->desc, i);
	TupleDescInitEntry(desc, natts + 1, BATCH_NUMBER, INT8OID, -1, 0);
	return desc;
}

void
ib_batch_put_numbered(Tuplestorestate *store, TupleDesc desc, TupleTableSlot *slot,
					  int64 number)
{
	int			natts = desc->natts;
	Datum	   *values = palloc(sizeof(Datum) * natts);
	bool	   *nulls = palloc(sizeof(bool) * natts);

	slot_getallattrs(slot);
	memcpy(values, slot->tts_values, sizeof(Datum) * (natts - 1));
	memcpy(nulls, slot->tts_isnull, sizeof(bool) * (natts - 1));
	values[natts - 1] = Int64GetDatum(number);
	nulls[natts - 1] = false;
	tuplestore_putvalues(store, desc, values, nulls);
	pfree(values);
	pfree(nulls);
}

/* Does a change add its row?  A row that ends before the weight does. */
bool
ib_batch_adds(const Batch *batch, TupleTableSlot *slot)
{
	bool		isnull;
	Datum		weight = slot_getattr(slot, batch->desc->natts, &isnull);

	return isnull || DatumGetInt32(weight) > 0;
}

/*
 * The transaction that a change belongs to.  For changes in rising order:
 * begin with *transaction = -1 and *last = 0.
 */
const BatchTransaction *
ib_batch_transaction_of(const Batch *batch, int64 number, int *transaction, int64 *last)
{
	while (number > *last)
		*last += batch->transactions[++(*transaction)].rows;
	return &batch->transactions[*transaction];
}

/*
 * Take n changes out of a batch, whose numbers rise.  The others are numbered
 * anew.
 */
void
ib_batch_remove_rows(Batch *batch, const int64 *numbers, int n)
{
	Tuplestorestate *store = ib_batch_begin_store(ib_work_mem);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(batch->desc, &TTSOpsMinimalTuple);
	int			transaction = -1;
	int64		last = 0;
	int64		number = 1;

	tuplestore_rescan(batch->store);
	for (int i = 0; i < n; i++)
	{
		ib_batch_move_rows(batch->store, store, numbers[i] - number, slot);
		ib_batch_move_rows(batch->store, NULL, 1, slot);
		number = numbers[i] + 1;
		if (!ib_batch_adds(batch, slot))
			batch->negatives--;
		if (batch->ntransactions > 0)
		{
			/*
			 * the place is kept for the changes that follow; rows in it are
			 * not
			 */
			(void) ib_batch_transaction_of(batch, numbers[i] - i, &transaction, &last);
			if (!ib_batch_adds(batch, slot))
				batch->transactions[transaction].negatives--;
			batch->transactions[transaction].rows--;
			last--;
		}
	}
	ib_batch_move_rows(batch->store, store, batch->rows + 1 - number, slot);
	batch->rows -= n;
	ExecDropSingleTupleTableSlot(slot);
	ib_batch_end_store(batch->store);
	batch->store = store;
}
