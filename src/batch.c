/*
 * batch.c
 *	  Changes that wait for one path to run.
 *
 * A batch holds the changes of one source as rows of weight +1 and -1 in a
 * tuplestore, in commit order, with a list of the transactions they belong
 * to.  Only the columns that the query reads are kept; the others are NULL.
 * Row (natts + 1) is the weight.  Changes fill memory up to
 * incbatch.work_mem, then a temporary file.
 *
 * A batch lives in the worker's memory and outlives transactions: its
 * tuplestore belongs to a resource owner of its own.  What is in it is never
 * needed after a crash, for it is decoded again.
 *
 * A transaction that was decoded but is not yet visible to the run's snapshot
 * is held back for the next run (ib_batch_settle).
 *
 * What makes the changes unreliable (old values missing, a column of another
 * type) does not raise an error here, in the middle of decoding for others:
 * the batch notes the reason in "lost" and its path stops.
 */
#include "incbatch.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/tupdesc.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/relcache.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "batch.h"

/* A transaction costs this much memory beside its rows. */
#define TRANSACTION_BYTES ((int64) sizeof(BatchTransaction))

/* The batches that listen to one source. */
typedef struct Listeners
{
	Oid			source;			/* hash key */
	List	   *batches;
} Listeners;

static MemoryContext batch_context = NULL;	/* life of the worker */
static MemoryContext change_context = NULL; /* reset after each change */
static ResourceOwner batch_owner = NULL;
static HTAB *listeners = NULL;
static List *all_batches = NIL;
static uint64 rows_decoded = 0;

/* One change at a time is taken apart here. */
static Datum new_values[MaxTupleAttributeNumber];
static bool new_nulls[MaxTupleAttributeNumber];
static Datum old_values[MaxTupleAttributeNumber];
static bool old_nulls[MaxTupleAttributeNumber];
static Datum row_values[MaxTupleAttributeNumber + 1];
static bool row_nulls[MaxTupleAttributeNumber + 1];

static void
init_batches(void)
{
	HASHCTL		ctl = {
		.keysize = sizeof(Oid),
		.entrysize = sizeof(Listeners),
	};

	batch_context = AllocSetContextCreate(TopMemoryContext, "incbatch batches",
										  ALLOCSET_DEFAULT_SIZES);
	change_context = AllocSetContextCreate(TopMemoryContext, "incbatch change",
										   ALLOCSET_DEFAULT_SIZES);
	batch_owner = ResourceOwnerCreate(NULL, "incbatch batches");
	ctl.hcxt = batch_context;
	listeners = hash_create("incbatch sources", 16, &ctl,
							HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static Tuplestorestate *
begin_store(void)
{
	MemoryContext old_context = MemoryContextSwitchTo(batch_context);
	ResourceOwner old_owner = CurrentResourceOwner;
	Tuplestorestate *store;

	CurrentResourceOwner = batch_owner;
	store = tuplestore_begin_heap(false, true, ib_work_mem);
	CurrentResourceOwner = old_owner;
	MemoryContextSwitchTo(old_context);
	return store;
}

/* The source's columns as the query's tree numbers them, then the weight. */
static TupleDesc
batch_descriptor(TupleDesc source)
{
	TupleDesc	desc = CreateTemplateTupleDesc(source->natts + 1);

	for (int i = 1; i <= source->natts; i++)
		TupleDescCopyEntry(desc, i, source, i);
	TupleDescInitEntry(desc, source->natts + 1, "incbatch_weight", INT4OID, -1, 0);
	return desc;
}

/* Start to collect what changes in a source. */
Batch *
ib_batch_create(Relation source, const Bitmapset *needed, bool append_only,
				const Frontier *frontier)
{
	MemoryContext old;
	Batch	   *batch;
	Listeners  *entry;
	bool		found;

	if (batch_context == NULL)
		init_batches();

	old = MemoryContextSwitchTo(batch_context);
	batch = palloc0(sizeof(Batch));
	batch->source = RelationGetRelid(source);
	batch->append_only = append_only;
	batch->desc = batch_descriptor(RelationGetDescr(source));
	batch->needed = bms_copy(needed);
	batch->last_needed = bms_prev_member(needed, -1);
	batch->store = begin_store();
	ib_batch_set_frontier(batch, frontier);

	entry = hash_search(listeners, &batch->source, HASH_ENTER, &found);
	if (!found)
		entry->batches = NIL;
	entry->batches = lappend(entry->batches, batch);
	all_batches = lappend(all_batches, batch);
	MemoryContextSwitchTo(old);
	return batch;
}

void
ib_batch_destroy(Batch *batch)
{
	Listeners  *entry = hash_search(listeners, &batch->source, HASH_FIND, NULL);

	entry->batches = list_delete_ptr(entry->batches, batch);
	all_batches = list_delete_ptr(all_batches, batch);
	tuplestore_end(batch->store);
	if (batch->transactions)
		pfree(batch->transactions);
	FreeTupleDesc(batch->desc);
	bms_free(batch->needed);
	if (batch->frontier.snapshot)
		pfree(DatumGetPointer(batch->frontier.snapshot));
	pfree(batch);
}

/* From now on pass over what this frontier includes. */
void
ib_batch_set_frontier(Batch *batch, const Frontier *frontier)
{
	MemoryContext old = MemoryContextSwitchTo(batch_context);
	Frontier	previous = batch->frontier;

	batch->frontier = *frontier;
	if (frontier->snapshot)
		batch->frontier.snapshot = datumCopy(frontier->snapshot, false, -1);
	MemoryContextSwitchTo(old);
	if (previous.snapshot)
		pfree(DatumGetPointer(previous.snapshot));
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
	tuplestore_end(batch->store);
	batch->store = begin_store();
	batch->ntransactions = 0;
	batch->rows = 0;
	batch->negatives = 0;
	batch->stuck = false;
}

bool
ib_batch_is_full(const Batch *batch)
{
	return !tuplestore_in_memory(batch->store) ||
		batch->ntransactions * TRANSACTION_BYTES > ib_work_mem * INT64CONST(1024);
}

static void
add_transaction(Batch *batch, const BatchTransaction *transaction)
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
}

/* Move the next n rows of one store to another, or nowhere. */
static void
move_rows(Tuplestorestate *from, Tuplestorestate *to, int64 n,
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
 * are returned in a batch-like shell, to be put back by ib_batch_put_back.
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

	kept.store = begin_store();
	kept.transactions = NULL;
	kept.ntransactions = kept.max_transactions = 0;
	kept.rows = kept.negatives = 0;
	*held = kept;
	held->store = begin_store();

	tuplestore_rescan(batch->store);
	for (int i = 0; i < batch->ntransactions; i++)
	{
		BatchTransaction transaction = batch->transactions[i];

		if (XidInMVCCSnapshot(transaction.xid, snapshot))
		{
			move_rows(batch->store, held->store, transaction.rows, slot);
			add_transaction(held, &transaction);
			continue;
		}
		if (i <= last_truncate)
		{
			int64		gone = i < last_truncate ?
				transaction.rows : transaction.truncated_at;

			move_rows(batch->store, NULL, gone, slot);
			transaction.rows -= gone;
		}
		move_rows(batch->store, kept.store, transaction.rows, slot);
		add_transaction(&kept, &transaction);
	}
	ExecDropSingleTupleTableSlot(slot);

	tuplestore_end(batch->store);
	if (batch->transactions)
		pfree(batch->transactions);
	*batch = kept;
	*truncated = last_truncate >= 0;
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
	tuplestore_end(batch->store);
	if (batch->transactions)
		pfree(batch->transactions);
	batch->store = held->store;
	batch->transactions = held->transactions;
	batch->ntransactions = held->ntransactions;
	batch->max_transactions = held->max_transactions;
	batch->rows = held->rows;
	batch->negatives = held->negatives;
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
 *		Collecting: called by the output plugin
 * ----------------------------------------------------------------
 */

/* Whether a batch is full whose run will make room. */
bool
ib_batches_full(void)
{
	ListCell   *lc;

	foreach(lc, all_batches)
	{
		Batch	   *batch = lfirst(lc);

		if (ib_batch_is_full(batch) && !batch->stuck)
			return true;
	}
	return false;
}

uint64
ib_batches_rows_decoded(void)
{
	return rows_decoded;
}

void
ib_batches_begin(TransactionId xid, XLogRecPtr commit_lsn,
				 TimestampTz commit_time)
{
	ListCell   *lc;

	foreach(lc, all_batches)
	{
		Batch	   *batch = lfirst(lc);

		batch->current = (BatchTransaction) {
			.xid = xid,
			.commit_lsn = commit_lsn,
			.commit_time = commit_time,
			.truncated_at = -1,
		};
		batch->open_current = false;
		batch->checked = false;
		batch->skip_current = batch->lost != NULL ||
			ib_frontier_includes(&batch->frontier, xid, commit_lsn);
	}
}

void
ib_batches_commit(void)
{
	ListCell   *lc;

	foreach(lc, all_batches)
	{
		Batch	   *batch = lfirst(lc);

		if (batch->open_current)
			add_transaction(batch, &batch->current);
		batch->open_current = false;
	}
}

static void
mark_lost(Batch *batch, const char *reason)
{
	if (batch->lost == NULL)
		batch->lost = MemoryContextStrdup(batch_context, reason);
	batch->skip_current = true;
}

/*
 * At the first change of a transaction: is the source still what the batch
 * was made for, and what will its old rows tell?  The relation is that of the
 * time of the change.
 */
static void
check_source(Batch *batch, Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	int			attnum = -1;

	batch->checked = true;
	batch->open_current = true;
	while ((attnum = bms_next_member(batch->needed, attnum)) >= 0)
	{
		if (attnum > desc->natts ||
			TupleDescAttr(desc, attnum - 1)->attisdropped ||
			TupleDescAttr(desc, attnum - 1)->atttypid !=
			TupleDescAttr(batch->desc, attnum - 1)->atttypid)
		{
			mark_lost(batch, psprintf("a column that the query reads changed its type or is gone from table \"%s\"",
									  RelationGetRelationName(rel)));
			return;
		}
	}

	batch->full_old_rows =
		rel->rd_rel->relreplident == REPLICA_IDENTITY_FULL;
	batch->identity_covers_needed = batch->full_old_rows;
	if (!batch->full_old_rows)
	{
		Bitmapset  *identity = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_IDENTITY_KEY);

		batch->identity_covers_needed = true;
		attnum = -1;
		while ((attnum = bms_next_member(batch->needed, attnum)) >= 0)
		{
			if (!bms_is_member(attnum - FirstLowInvalidHeapAttributeNumber, identity))
				batch->identity_covers_needed = false;
		}
		bms_free(identity);
	}
}

/* The batches that want this transaction's changes of a relation. */
static List *
batches_of(Relation rel)
{
	Oid			relid = RelationGetRelid(rel);
	Listeners  *entry = listeners == NULL ? NULL :
		hash_search(listeners, &relid, HASH_FIND, NULL);
	ListCell   *lc;

	rows_decoded++;
	if (entry == NULL)
		return NIL;
	foreach(lc, entry->batches)
	{
		Batch	   *batch = lfirst(lc);

		if (!batch->checked && !batch->skip_current)
			check_source(batch, rel);
	}
	return entry->batches;
}

/*
 * Bring a needed value into a form that can be kept: TOAST pieces that the
 * decoder put together live in its memory only.  False: the value is stored
 * out of line, unchanged by this UPDATE, and cannot be fetched.
 */
static bool
keepable(Form_pg_attribute att, Datum *value)
{
	struct varlena *datum;

	if (att->attlen != -1)
		return true;
	datum = (struct varlena *) DatumGetPointer(*value);
	if (VARATT_IS_EXTERNAL_ONDISK(datum))
		return false;
	if (VARATT_IS_EXTERNAL(datum))
	{
		MemoryContext old = MemoryContextSwitchTo(change_context);

		*value = PointerGetDatum(detoast_external_attr(datum));
		MemoryContextSwitchTo(old);
	}
	return true;
}

/* Put one row of the given weight into the batch; needed columns only. */
static void
put_row(Batch *batch, const Datum *values, const bool *nulls, int weight)
{
	int			natts = batch->desc->natts;
	int			attnum = -1;

	memset(row_nulls, true, natts);
	while ((attnum = bms_next_member(batch->needed, attnum)) >= 0)
	{
		row_values[attnum - 1] = values[attnum - 1];
		row_nulls[attnum - 1] = nulls[attnum - 1];
	}
	row_values[natts - 1] = Int32GetDatum(weight);
	row_nulls[natts - 1] = false;
	tuplestore_putvalues(batch->store, batch->desc, row_values, row_nulls);
	batch->current.rows++;
	if (weight < 0)
		batch->current.negatives++;
}

/*
 * Make all needed values of the taken-apart row keepable, where need be from
 * the old row of the same UPDATE.
 */
static bool
complete_row(Batch *batch, Datum *values, const bool *nulls, bool have_old)
{
	int			attnum = -1;

	while ((attnum = bms_next_member(batch->needed, attnum)) >= 0)
	{
		int			i = attnum - 1;
		Form_pg_attribute att = TupleDescAttr(batch->desc, i);

		if (nulls[i] || att->attbyval || keepable(att, &values[i]))
			continue;
		if (!have_old || old_nulls[i])
			return false;
		values[i] = old_values[i];
		if (!keepable(att, &values[i]))
			return false;
	}
	return true;
}

static bool
same_row(Batch *batch)
{
	int			attnum = -1;

	while ((attnum = bms_next_member(batch->needed, attnum)) >= 0)
	{
		int			i = attnum - 1;
		Form_pg_attribute att = TupleDescAttr(batch->desc, i);

		if (old_nulls[i] != new_nulls[i])
			return false;
		if (!old_nulls[i] &&
			!datum_image_eq(old_values[i], new_values[i],
							att->attbyval, att->attlen))
			return false;
	}
	return true;
}

void
ib_batches_insert(Relation rel, HeapTuple newtuple)
{
	List	   *batches = batches_of(rel);
	ListCell   *lc;

	if (batches == NIL)
		return;
	heap_deform_tuple(newtuple, RelationGetDescr(rel), new_values, new_nulls);
	foreach(lc, batches)
	{
		Batch	   *batch = lfirst(lc);

		if (batch->skip_current)
			continue;
		if (complete_row(batch, new_values, new_nulls, false))
			put_row(batch, new_values, new_nulls, 1);
		else
			mark_lost(batch, "an inserted row arrived without a value that is stored out of line");
	}
	MemoryContextReset(change_context);
}

static void
update_one(Batch *batch, Relation rel, bool have_old)
{
	if (batch->append_only)
		mark_lost(batch, psprintf("table \"%s\" was updated although the pipeline says append_only",
								  RelationGetRelationName(rel)));
	else if (!batch->identity_covers_needed)
		mark_lost(batch, psprintf("an UPDATE of table \"%s\" came without its old values; run ALTER TABLE %s REPLICA IDENTITY FULL",
								  RelationGetRelationName(rel),
								  quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
															 RelationGetRelationName(rel))));
	else if (!have_old && !batch->full_old_rows)
		return;					/* the identity, which is all we read, stayed */
	else if (!have_old ||
			 !complete_row(batch, old_values, old_nulls, false) ||
			 !complete_row(batch, new_values, new_nulls, true))
		mark_lost(batch, psprintf("an UPDATE of table \"%s\" came without a value that is stored out of line",
								  RelationGetRelationName(rel)));
	else if (!same_row(batch))
	{
		put_row(batch, old_values, old_nulls, -1);
		put_row(batch, new_values, new_nulls, 1);
	}
}

void
ib_batches_update(Relation rel, HeapTuple oldtuple, HeapTuple newtuple)
{
	List	   *batches = batches_of(rel);
	ListCell   *lc;

	if (batches == NIL)
		return;
	heap_deform_tuple(newtuple, RelationGetDescr(rel), new_values, new_nulls);
	if (oldtuple != NULL)
		heap_deform_tuple(oldtuple, RelationGetDescr(rel), old_values, old_nulls);
	foreach(lc, batches)
	{
		Batch	   *batch = lfirst(lc);

		if (!batch->skip_current)
			update_one(batch, rel, oldtuple != NULL);
	}
	MemoryContextReset(change_context);
}

void
ib_batches_delete(Relation rel, HeapTuple oldtuple)
{
	List	   *batches = batches_of(rel);
	ListCell   *lc;

	if (batches == NIL)
		return;
	if (oldtuple != NULL)
		heap_deform_tuple(oldtuple, RelationGetDescr(rel), old_values, old_nulls);
	foreach(lc, batches)
	{
		Batch	   *batch = lfirst(lc);

		if (batch->skip_current || batch->append_only)
			continue;
		if (oldtuple != NULL && batch->identity_covers_needed &&
			complete_row(batch, old_values, old_nulls, false))
			put_row(batch, old_values, old_nulls, -1);
		else
			mark_lost(batch, psprintf("a DELETE from table \"%s\" came without its old values; run ALTER TABLE %s REPLICA IDENTITY FULL",
									  RelationGetRelationName(rel),
									  quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
																 RelationGetRelationName(rel))));
	}
	MemoryContextReset(change_context);
}

void
ib_batches_truncate(Relation rel)
{
	ListCell   *lc;

	foreach(lc, batches_of(rel))
	{
		Batch	   *batch = lfirst(lc);

		if (!batch->skip_current && !batch->append_only)
			batch->current.truncated_at = batch->current.rows;
	}
}
