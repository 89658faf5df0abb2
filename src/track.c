/*
 * track.c
 *	  What a run offers to the statements that fold in changes of lookups.
 *
 * The batches of the lookups that changed; of those under a LEFT JOIN also the
 * version before the changes, and the source's rows that they affect
 * (lookups.c).  Statements are made when a set of lookups first changes
 * together, and kept with the others of the path.
 *
 * The old version of a lookup is its rows less its changes, as multisets: of
 * rows that are alike, to the last bit of the columns read, one is as good as
 * the other.  It costs a reading of the lookup's rows that can match, which an
 * index on the join's column serves; or of all, where the joins do not tell
 * which these are.
 *
 * Called in a run, connected to SPI as the owner; what is made here lives
 * until the run disconnects.
 */
#include "incbatch.h"

#include "access/table.h"
#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "path.h"
#include "query.h"

/* The statements for one set of lookups. */
typedef struct TrackStatements
{
	Bitmapset  *changed;
	char	   *transform;
	char	   *affected;		/* NULL: no LEFT JOIN */
	List	   *present;		/* of PresentLookup */
} TrackStatements;

/* How a lookup is read of which the version before its changes is asked. */
typedef struct PresentLookup
{
	TrackedLookup *lookup;
	int			number;			/* among the path's inputs */
	char	   *statement;
	bool		whole;			/* not only the rows that can match */
} PresentLookup;

/* A row of changes, with how often it is more (or less) than before. */
typedef struct Surplus
{
	struct Surplus *next;		/* of the same hash */
	MinimalTuple row;
	int64		count;
} Surplus;

typedef struct SurplusBucket
{
	uint32		hash;			/* hash key */
	Surplus    *first;
} SurplusBucket;

static PresentLookup *
present_lookup(PipelineQuery *pq, TrackedLookup *lookup, int number, int columns)
{
	PresentLookup *present = palloc(sizeof(PresentLookup));

	present->lookup = lookup;
	present->number = number;
	present->statement = ib_lookups_present(pq, lookup, columns, &present->whole);
	return present;
}

static TrackStatements *
find_statements(IbPath *path, Bitmapset *changed)
{
	PathStatements *statements = path->statements;
	PipelineQuery *pq = statements->query;
	int			columns = ib_inputs_source(path)->desc->natts;
	TrackStatements *result;
	MemoryContext old;
	ListCell   *lc;

	foreach(lc, statements->tracked)
	{
		result = lfirst(lc);
		if (bms_equal(result->changed, changed))
			return result;
	}

	old = MemoryContextSwitchTo(statements->context);
	result = palloc0(sizeof(TrackStatements));
	result->changed = bms_copy(changed);
	pq->changed = result->changed;
	result->transform = pq->always_recompute ? ib_delta_touched(pq, columns, NULL) :
		ib_delta_transform(pq, columns, true, NULL);
	if (ib_lookups_reads_old(pq))
		result->affected = ib_lookups_affected(pq, columns);
	foreach(lc, pq->lookups)
	{
		TrackedLookup *lookup = lfirst(lc);

		if (lookup->nullable && bms_is_member(lookup->index, changed))
			result->present = lappend(result->present,
									  present_lookup(pq, lookup, foreach_current_index(lc) + 1, columns));
	}
	pq->changed = NULL;
	statements->tracked = lappend(statements->tracked, result);
	MemoryContextSwitchTo(old);
	return result;
}

/* ----------------------------------------------------------------
 *		A lookup as it was
 * ----------------------------------------------------------------
 */

static uint32
hash_row(Batch *batch, TupleTableSlot *slot)
{
	uint32		hash = 0;

	for (int n = 0; n < batch->nneeded; n++)
	{
		int			i = batch->needed[n] - 1;
		Form_pg_attribute att = TupleDescAttr(batch->desc, i);

		if (!slot->tts_isnull[i])
			hash = hash_combine(hash, datum_image_hash(slot->tts_values[i],
													   att->attbyval, att->attlen));
		else
			hash = hash_combine(hash, 0);
	}
	return hash;
}

static bool
same_row(Batch *batch, TupleTableSlot *a, TupleTableSlot *b)
{
	for (int n = 0; n < batch->nneeded; n++)
	{
		int			i = batch->needed[n] - 1;
		Form_pg_attribute att = TupleDescAttr(batch->desc, i);

		if (a->tts_isnull[i] != b->tts_isnull[i])
			return false;
		if (!a->tts_isnull[i] &&
			!datum_image_eq(a->tts_values[i], b->tts_values[i], att->attbyval, att->attlen))
			return false;
	}
	return true;
}

/* Find a row among the changes; if it is not there, make room if asked to. */
static Surplus *
find_surplus(Batch *batch, HTAB *table, TupleTableSlot *slot,
			 TupleTableSlot *scratch, bool make)
{
	uint32		hash = hash_row(batch, slot);
	bool		found;
	SurplusBucket *bucket = hash_search(table, &hash, make ? HASH_ENTER : HASH_FIND, &found);
	Surplus    *surplus;

	if (bucket == NULL)
		return NULL;
	if (!found)
		bucket->first = NULL;
	for (surplus = bucket->first; surplus != NULL; surplus = surplus->next)
	{
		ExecStoreMinimalTuple(surplus->row, scratch, false);
		slot_getallattrs(scratch);
		if (same_row(batch, slot, scratch))
			return surplus;
	}
	if (make)
	{
		surplus = palloc0(sizeof(Surplus));
		surplus->row = ExecCopySlotMinimalTuple(slot);
		surplus->next = bucket->first;
		bucket->first = surplus;
	}
	return surplus;
}

/* What the changes of a lookup add up to. */
static HTAB *
sum_changes(Batch *batch, TupleTableSlot *slot, TupleTableSlot *scratch)
{
	HASHCTL		ctl = {
		.keysize = sizeof(uint32),
		.entrysize = sizeof(SurplusBucket),
		.hcxt = CurrentMemoryContext,
	};
	HTAB	   *table = hash_create("incbatch changes of a lookup", 256, &ctl,
									HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	int			weight = batch->desc->natts - 1;

	tuplestore_rescan(batch->store);
	while (tuplestore_gettupleslot(batch->store, true, false, slot))
	{
		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(slot);
		find_surplus(batch, table, slot, scratch, true)->count +=
			slot->tts_isnull[weight] ? 1 : DatumGetInt32(slot->tts_values[weight]);
	}
	return table;
}

/*
 * Rows that are there less often than before: put them in.  All that are there
 * more often have been found, if the lookup was read as a whole.
 */
static void
put_back(HTAB *table, bool whole, Tuplestorestate *store, TupleTableSlot *scratch)
{
	HASH_SEQ_STATUS status;
	SurplusBucket *bucket;

	hash_seq_init(&status, table);
	while ((bucket = hash_seq_search(&status)) != NULL)
	{
		for (Surplus *surplus = bucket->first; surplus != NULL; surplus = surplus->next)
		{
			if (surplus->count > 0 && whole)
				ereport(ERROR,
						errcode(ERRCODE_DATA_CORRUPTED),
						errmsg("a lookup lacks rows that its changes brought"));
			ExecStoreMinimalTuple(surplus->row, scratch, false);
			for (int64 i = surplus->count; i < 0 && !MUTANT(LOOKUP_OLD); i++)
			{
				CHECK_FOR_INTERRUPTS();
				tuplestore_puttupleslot(store, scratch);
			}
		}
	}
}

/* Offer a lookup as it was before its changes. */
static void
offer_old(PresentLookup *lookup, Batch *batch)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(batch->desc, &TTSOpsMinimalTuple);
	TupleTableSlot *scratch = MakeSingleTupleTableSlot(batch->desc, &TTSOpsMinimalTuple);
	Tuplestorestate *present = tuplestore_begin_heap(false, false, work_mem);
	Tuplestorestate *old = tuplestore_begin_heap(false, false, work_mem);
	HTAB	   *surplus = sum_changes(batch, slot, scratch);
	int64		rows = ib_run_statement(lookup->statement, SPI_OK_SELECT, present);

	while (tuplestore_gettupleslot(present, true, false, slot))
	{
		Surplus    *found;

		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(slot);
		found = find_surplus(batch, surplus, slot, scratch, false);
		if (found != NULL && found->count > 0)
			found->count--;
		else
			tuplestore_puttupleslot(old, slot);
	}
	put_back(surplus, lookup->whole, old, scratch);
	tuplestore_end(present);
	hash_destroy(surplus);
	ExecDropSingleTupleTableSlot(slot);
	ExecDropSingleTupleTableSlot(scratch);
	ib_offer_relation(ib_lookups_old_name(lookup->lookup), InvalidOid, batch->desc, old, rows);
}

/* ----------------------------------------------------------------
 *		The run
 * ----------------------------------------------------------------
 */

/*
 * Offer what the statement needs that folds in the changes of these lookups
 * together with those of the source, and return it.
 */
const char *
ib_track_lookups(IbPath *path, Bitmapset *changed)
{
	TrackStatements *statements = find_statements(path, changed);
	PipelineQuery *pq = path->statements->query;
	ListCell   *lc;

	foreach(lc, pq->lookups)
	{
		TrackedLookup *lookup = lfirst(lc);
		PathInput  *input = list_nth(path->inputs, foreach_current_index(lc) + 1);

		if (bms_is_member(lookup->index, changed))
			ib_offer_relation(ib_lookups_batch_name(lookup), InvalidOid, input->batch->desc,
							  input->batch->store, input->batch->rows);
	}
	if (statements->affected != NULL)
	{
		Tuplestorestate *affected = tuplestore_begin_heap(false, false, work_mem);
		int64		rows = ib_run_statement(statements->affected, SPI_OK_SELECT, affected);

		ib_offer_relation(AFFECTED_RELATION, InvalidOid, ib_inputs_source(path)->desc,
						  affected, rows);
	}
	foreach(lc, statements->present)
	{
		PresentLookup *present = lfirst(lc);

		offer_old(present, ((PathInput *) list_nth(path->inputs, present->number))->batch);
	}
	return statements->transform;
}
