/*
 * collect.c
 *	  From a decoded change to rows of the batches that want it.
 *
 * Which batches want it, feed.c knows.
 *
 * Called by the output plugin, in the middle of decoding: nothing here reads
 * a user's table, writes, or fails because of one pipeline.  What makes the
 * changes of a source unreliable (old values missing, a column of another
 * type) is noted as the reason why this transaction is lost; the run that sees
 * it stops its path, and a backfill that has seen it goes on.
 *
 * A transaction comes in one of two ways.  A small one arrives as a whole,
 * when it commits, and its rows go straight into the batches.  A large one is
 * streamed in chunks while it is still under way, so that decoding needs no
 * more memory than logical_decoding_work_mem and writes nothing to disk; its
 * rows wait in a store of their own, in runs that know their subtransaction,
 * until it commits and they join the batch, or aborts.
 *
 * Streams belong to the decoding context: when that is opened anew, or a
 * batch begins to collect while one is open, decoding starts again from
 * before them (worker.c).
 */
#include "incbatch.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#include "source.h"

/* A longer row is taken apart, to keep only what is needed of it. */
#define MAX_WHOLE_ROW 256

/* In the place of the number of a stream's part: what is not streamed. */
#define WHOLE_TRANSACTION 1

/* Consecutive rows of a stream that share their fate. */
typedef struct Run
{
	TransactionId subxid;
	int64		rows;
	int64		negatives;
	bool		truncate;		/* the source was truncated before them */
	bool		aborted;		/* known at the commit */
	const char *lost;			/* why they are not all there, or NULL */
} Run;

/* What a streamed transaction has for one batch. */
typedef struct StreamPart
{
	Batch	   *batch;
	Tuplestorestate *store;
	List	   *runs;			/* of Run */
	uint64		number;
	uint64	   *links;			/* by which its rows came (partition.c) */
	int			nlinks;
	int			max_links;
} StreamPart;

typedef struct Stream
{
	TransactionId xid;
	List	   *parts;			/* of StreamPart */
} Stream;

static MemoryContext collect_context = NULL;	/* life of the worker */
static MemoryContext change_context = NULL; /* reset after each change */
static List *all_batches = NIL;
static List *streams = NIL;
static Stream *open_stream = NULL;	/* the one a chunk is arriving of */
static BatchTransaction arriving;	/* as a whole */
static uint64 arriving_number = 0;
static Batch **touched = NULL;	/* batches that take it; room for all */
static int	ntouched = 0;
static bool may_be_full = false;	/* a batch that took a transaction was
									 * full */
static TransactionId current_subxid;
static uint64 last_part = WHOLE_TRANSACTION;
static uint64 rows_decoded = 0;

/* One change at a time is taken apart here. */
static Datum new_values[MaxTupleAttributeNumber];
static bool new_nulls[MaxTupleAttributeNumber];
static Datum old_values[MaxTupleAttributeNumber];
static bool old_nulls[MaxTupleAttributeNumber];

/* ----------------------------------------------------------------
 *		Who listens
 * ----------------------------------------------------------------
 */

/* Called once by the worker, which also decodes while nobody listens. */
void
ib_collect_init(void)
{
	collect_context = AllocSetContextCreate(TopMemoryContext, "incbatch collecting",
											ALLOCSET_DEFAULT_SIZES);
	change_context = AllocSetContextCreate(TopMemoryContext, "incbatch change",
										   ALLOCSET_DEFAULT_SIZES);
}

void
ib_collect_add(Batch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(collect_context);

	all_batches = lappend(all_batches, batch);
	if (touched != NULL)
		pfree(touched);
	touched = palloc(sizeof(Batch *) * list_length(all_batches));
	MemoryContextSwitchTo(old);
	ib_feeds_reset();
}

static void
free_part(StreamPart *part)
{
	ib_batch_end_store(part->store);
	list_free_deep(part->runs);
	if (part->links)
		pfree(part->links);
	pfree(part);
}

void
ib_collect_remove(Batch *batch)
{
	ListCell   *lc;
	ListCell   *lp;

	all_batches = list_delete_ptr(all_batches, batch);
	ib_feeds_reset();
	foreach(lc, streams)
	{
		Stream	   *stream = lfirst(lc);

		foreach(lp, stream->parts)
		{
			StreamPart *part = lfirst(lp);

			if (part->batch == batch)
			{
				stream->parts = foreach_delete_current(stream->parts, lp);
				free_part(part);
			}
		}
	}
}

/*
 * Whether a batch is full whose run will make room.  Asked after each
 * transaction, so the batches are only looked at when one has become full.
 */
bool
ib_batches_full(void)
{
	ListCell   *lc;

	if (!may_be_full)
		return false;
	foreach(lc, all_batches)
	{
		Batch	   *batch = lfirst(lc);

		if (ib_batch_is_full(batch) && !batch->stuck)
			return true;
	}
	may_be_full = false;
	return false;
}

uint64
ib_batches_rows_decoded(void)
{
	return rows_decoded;
}

/*
 * Divide what reading cost by the rows that each batch took since the last
 * call.  If none took any, it is nobody's.
 */
void
ib_batches_charge(int64 usecs, int64 cpu_usecs)
{
	int64		rows = 0;
	ListCell   *lc;

	foreach(lc, all_batches)
		rows += ((Batch *) lfirst(lc))->rows_unpaid;
	if (rows == 0)
		return;
	foreach(lc, all_batches)
	{
		Batch	   *batch = lfirst(lc);
		double		part = batch->rows_unpaid / (double) rows;

		batch->read_usecs += part * usecs;
		batch->read_cpu_usecs += part * cpu_usecs;
		batch->rows_unpaid = 0;
	}
}

/* ----------------------------------------------------------------
 *		Transactions
 * ----------------------------------------------------------------
 */

/*
 * A transaction that arrives as a whole.  Most batches of a database have
 * nothing to do with it: each learns of it at the first change it may want.
 */
void
ib_batches_begin(TransactionId xid, XLogRecPtr commit_lsn,
				 TimestampTz commit_time)
{
	arriving = (BatchTransaction) {
		.xid = xid,
		.commit_lsn = commit_lsn,
		.commit_time = commit_time,
		.truncated_at = -1,
	};
	arriving_number++;
	ntouched = 0;
}

static void
meet_transaction(Batch *batch)
{
	batch->met = arriving_number;
	batch->current = arriving;
	batch->skip = ib_frontier_includes(&batch->frontier, arriving.xid,
									   arriving.commit_lsn) &&
		!MUTANT(FRONTIER_SKIP);
	if (!batch->skip)
		touched[ntouched++] = batch;
}

static void
add_transaction(Batch *batch, const BatchTransaction *transaction)
{
	ib_batch_add_transaction(batch, transaction);
	may_be_full |= ib_batch_is_full(batch);
}

void
ib_batches_commit(void)
{
	for (int i = 0; i < ntouched; i++)
		add_transaction(touched[i], &touched[i]->current);
	ntouched = 0;
}

static Stream *
find_stream(TransactionId xid)
{
	ListCell   *lc;

	foreach(lc, streams)
	{
		if (((Stream *) lfirst(lc))->xid == xid)
			return lfirst(lc);
	}
	return NULL;
}

static void
end_stream(Stream *stream)
{
	ListCell   *lc;

	foreach(lc, stream->parts)
		free_part(lfirst(lc));
	list_free(stream->parts);
	streams = list_delete_ptr(streams, stream);
	pfree(stream);
}

bool
ib_batches_streaming(void)
{
	return streams != NIL;
}

/* The decoder is opened anew: all is told again, and streamed again. */
void
ib_batches_restart(void)
{
	ListCell   *lc;

	while (streams != NIL)
		end_stream(linitial(streams));
	open_stream = NULL;
	foreach(lc, all_batches)
	{
		Batch	   *batch = lfirst(lc);

		ib_batch_empty(batch);
		batch->nnew_links = 0;
		ib_batch_note_partitions(batch);
	}
	ib_partitions_forget_joined();
	ib_feeds_reset();
}

/* A chunk of a large transaction follows. */
void
ib_batches_stream_start(TransactionId xid)
{
	ListCell   *lc;

	open_stream = find_stream(xid);
	if (open_stream == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(collect_context);

		open_stream = palloc0(sizeof(Stream));
		open_stream->xid = xid;
		streams = lappend(streams, open_stream);
		MemoryContextSwitchTo(old);
	}
	foreach(lc, all_batches)
	{
		Batch	   *batch = lfirst(lc);

		batch->skip = false;
		batch->part = NULL;
	}
	foreach(lc, open_stream->parts)
	{
		StreamPart *part = lfirst(lc);

		part->batch->part = part;
	}
}

void
ib_batches_stream_stop(void)
{
	ListCell   *lc;

	foreach(lc, all_batches)
		((Batch *) lfirst(lc))->part = NULL;
	open_stream = NULL;
}

/* A streamed transaction was rolled back. */
void
ib_batches_stream_abort(TransactionId xid)
{
	Stream	   *stream = find_stream(xid);

	if (stream != NULL)
		end_stream(stream);
}

/* Tell the rows of rolled back subtransactions; xids are those that committed. */
static void
note_aborted(StreamPart *part, const TransactionId *xids, int nxids)
{
	ListCell   *lc;

	foreach(lc, part->runs)
	{
		Run		   *run = lfirst(lc);

		run->aborted = !MUTANT(SUBXACT_ABORT) &&
			bsearch(&run->subxid, xids, nxids, sizeof(TransactionId), xidComparator) == NULL;
	}
}

/* The rows of a committed stream join its batch. */
static void
join_batch(StreamPart *part, BatchTransaction *transaction)
{
	Batch	   *batch = part->batch;
	bool		whole = true;
	ListCell   *lc;

	foreach(lc, part->runs)
	{
		Run		   *run = lfirst(lc);

		whole = whole && !run->aborted;
		if (run->aborted)
			continue;
		if (transaction->lost == NULL)
			transaction->lost = run->lost;
		if (run->truncate)
			transaction->truncated_at = transaction->rows;
		transaction->rows += run->rows;
		transaction->negatives += run->negatives;
	}

	if (whole && batch->ntransactions == 0)
	{
		Tuplestorestate *empty = batch->store;

		batch->store = part->store;
		part->store = empty;
	}
	else
	{
		TupleTableSlot *slot = MakeSingleTupleTableSlot(batch->desc, &TTSOpsMinimalTuple);

		tuplestore_rescan(part->store);
		foreach(lc, part->runs)
		{
			Run		   *run = lfirst(lc);

			ib_batch_move_rows(part->store, run->aborted ? NULL : batch->store,
							   run->rows, slot);
		}
		ExecDropSingleTupleTableSlot(slot);
	}
	add_transaction(batch, transaction);
}

/* "xids", sorted, are those of the transaction and its subtransactions. */
void
ib_batches_stream_commit(TransactionId xid, XLogRecPtr commit_lsn,
						 TimestampTz commit_time,
						 const TransactionId *xids, int nxids)
{
	Stream	   *stream = find_stream(xid);
	ListCell   *lc;

	if (stream == NULL)
		return;
	foreach(lc, stream->parts)
	{
		StreamPart *part = lfirst(lc);
		Batch	   *batch = part->batch;
		BatchTransaction transaction = {
			.xid = xid,
			.commit_lsn = commit_lsn,
			.commit_time = commit_time,
			.truncated_at = -1,
		};

		if (ib_frontier_includes(&batch->frontier, xid, commit_lsn) &&
			!MUTANT(STREAM_FRONTIER))
			continue;
		ib_partitions_note_source(batch, part->links, part->nlinks);
		note_aborted(part, xids, nxids);
		join_batch(part, &transaction);
	}
	end_stream(stream);
}

/* ----------------------------------------------------------------
 *		Changes
 * ----------------------------------------------------------------
 */

/*
 * Open streams with rows for a batch.  The n-th gets the n-th part of the
 * memory, so that a hundred of them need five times that of one.
 */
static int
count_parts(const Batch *batch)
{
	ListCell   *lc,
			   *lp;
	int			n = 0;

	foreach(lc, streams)
	{
		foreach(lp, ((Stream *) lfirst(lc))->parts)
		{
			if (((StreamPart *) lfirst(lp))->batch == batch)
				n++;
		}
	}
	return n;
}

/* In a stream: where the rows of the current subtransaction are counted. */
static Run *
current_run(Batch *batch, bool truncate)
{
	StreamPart *part = batch->part;
	Run		   *run = part && part->runs ? llast(part->runs) : NULL;
	MemoryContext old;

	if (run != NULL && run->subxid == current_subxid && !truncate)
		return run;

	old = MemoryContextSwitchTo(collect_context);
	if (part == NULL)
	{
		part = palloc0(sizeof(StreamPart));
		part->batch = batch;
		part->number = ++last_part;
		part->store = ib_batch_begin_store(ib_work_mem / (1 + count_parts(batch)));
		open_stream->parts = lappend(open_stream->parts, part);
		batch->part = part;
	}
	run = palloc0(sizeof(Run));
	run->subxid = current_subxid;
	run->truncate = truncate;
	part->runs = lappend(part->runs, run);
	MemoryContextSwitchTo(old);
	return run;
}

/* This transaction, or the run of a stream, cannot be trusted: no more of it. */
static void
mark_lost(Batch *batch, const char *reason)
{
	const char **lost = open_stream ? &current_run(batch, false)->lost : &batch->current.lost;

	if (*lost == NULL)
		*lost = ib_batch_keep_reason(reason);
	batch->skip = true;
}

/* A stream may turn out to be known to the batch, so its links are its own. */
static void
add_links(StreamPart *part, const uint64 *links, int nlinks)
{
	for (int i = 0; i < nlinks; i++)
	{
		bool		known = false;

		for (int j = 0; j < part->nlinks && !known; j++)
			known = part->links[j] == links[i];
		if (known)
			continue;
		if (part->nlinks == part->max_links)
		{
			part->max_links = Max(16, part->max_links * 2);
			part->links = part->links == NULL ?
				MemoryContextAlloc(collect_context, sizeof(uint64) * part->max_links) :
				repalloc(part->links, sizeof(uint64) * part->max_links);
		}
		part->links[part->nlinks++] = links[i];
	}
}

/* Note once what a relation tells beside its rows. */
static void
note_intake(Intake *intake)
{
	Batch	   *batch = intake->batch;
	StreamPart *part = batch->part;
	uint64		number = part ? part->number : WHOLE_TRANSACTION;

	if (intake->lost)
		mark_lost(batch, intake->lost);
	else if (intake->noted_in == number)
		return;
	else if (part)
		add_links(part, intake->links, intake->nlinks);
	else
		ib_partitions_note_source(batch, intake->links, intake->nlinks);
	intake->noted_in = number;
}

/* Those who may want this transaction's changes of a relation. */
static List *
intakes_of(Relation rel)
{
	List	   *intakes = ib_feed_intakes(rel, all_batches);
	ListCell   *lc;

	rows_decoded++;
	foreach(lc, intakes)
	{
		Intake	   *intake = lfirst(lc);
		Batch	   *batch = intake->batch;

		if (open_stream == NULL && batch->met != arriving_number)
			meet_transaction(batch);
		/* what is lost may be rolled back, unlike what follows */
		if (open_stream != NULL)
			batch->skip = current_run(batch, false)->lost != NULL;
		if (batch->skip)
			continue;
		if (intake->tells)
			note_intake(intake);
	}
	return intakes;
}

/*
 * Bring a needed value into a form that can be kept: TOAST pieces that the
 * decoder put together live in its memory only.  False: the value is stored
 * out of line, unchanged by this UPDATE, and cannot be fetched.
 */
static bool
keepable(Datum *value)
{
	struct varlena *datum = (struct varlena *) DatumGetPointer(*value);

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

/*
 * Make all needed values of a row keepable, where need be from the old row of
 * the same UPDATE.
 */
static bool
complete_row(Intake *intake, Datum *values, const bool *nulls, bool have_old)
{
	Batch	   *batch = intake->batch;

	for (int n = 0; n < batch->nvarlena; n++)
	{
		int			i = intake->columns[batch->varlena[n]] - 1;

		if (nulls[i] || keepable(&values[i]))
			continue;
		if (!have_old || old_nulls[i])
			return false;
		values[i] = MUTANT(TOAST) ? PointerGetDatum(cstring_to_text("")) : old_values[i];
		if (!keepable(&values[i]))
			return false;
	}
	return true;
}

/* Count a row, and say which store it goes to. */
static Tuplestorestate *
store_for_row(Batch *batch, int weight)
{
	Tuplestorestate *store = batch->store;
	int64	   *rows = &batch->current.rows;
	int64	   *negatives = &batch->current.negatives;

	if (open_stream != NULL)
	{
		Run		   *run = current_run(batch, false);

		store = batch->part->store;
		rows = &run->rows;
		negatives = &run->negatives;
	}
	(*rows)++;
	batch->rows_unpaid++;
	if (weight < 0)
		(*negatives)++;
	return store;
}

/* Put one row of the given weight; needed columns only. */
static void
put_row(Intake *intake, const Datum *values, const bool *nulls, int weight)
{
	Batch	   *batch = intake->batch;

	for (int n = 0; n < batch->nneeded; n++)
	{
		int			from = intake->columns[n] - 1;
		int			to = batch->needed[n] - 1;

		batch->row_values[to] = values[from];
		batch->row_nulls[to] = nulls[from];
	}
	batch->row_values[batch->desc->natts - 1] = Int32GetDatum(weight);
	tuplestore_putvalues(store_for_row(batch, weight), batch->desc,
						 batch->row_values, batch->row_nulls);
}

/*
 * Can an inserted row be kept as it is, without the weight?  It has all the
 * columns of the batch, none of them out of line, and not much beside what is
 * needed.  That spares taking it apart, which is most of what an insert costs
 * here.
 */
static bool
can_keep_whole(Intake *intake, HeapTuple tuple)
{
	Batch	   *batch = intake->batch;

	return intake->whole &&
		HeapTupleHeaderGetNatts(tuple->t_data) == batch->desc->natts - 1 &&
		!HeapTupleHasExternal(tuple) &&
		batch->nneeded * 2 >= batch->desc->natts - 1 &&
		tuple->t_len <= MAX_WHOLE_ROW;
}

static bool
same_row(Intake *intake)
{
	Batch	   *batch = intake->batch;

	for (int n = 0; n < batch->nneeded; n++)
	{
		int			i = intake->columns[n] - 1;
		Form_pg_attribute att = TupleDescAttr(batch->desc, batch->needed[n] - 1);

		if (MUTANT(SAME_ROW) && (old_nulls[i] || new_nulls[i]))
			continue;
		if (old_nulls[i] != new_nulls[i])
			return false;
		if (!old_nulls[i] &&
			!datum_image_eq(old_values[i], new_values[i],
							att->attbyval, att->attlen))
			return false;
	}
	return true;
}

static char *
identity_hint(Relation rel)
{
	return psprintf("run ALTER TABLE %s REPLICA IDENTITY FULL",
					quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
											   RelationGetRelationName(rel)));
}

/* The transaction, or the subtransaction of a stream, that changes follow of. */
void
ib_batches_subtransaction(TransactionId subxid)
{
	current_subxid = subxid;
}

void
ib_batches_insert(Relation rel, HeapTuple newtuple)
{
	List	   *intakes = intakes_of(rel);
	ListCell   *lc;

	if (intakes == NIL)
		return;
	foreach(lc, intakes)
	{
		Intake	   *intake = lfirst(lc);
		Batch	   *batch = intake->batch;

		if (batch->skip)
			continue;
		if (can_keep_whole(intake, newtuple))
		{
			tuplestore_puttuple(store_for_row(batch, 1), newtuple);
			continue;
		}
		heap_deform_tuple(newtuple, RelationGetDescr(rel), new_values, new_nulls);
		if (complete_row(intake, new_values, new_nulls, false))
			put_row(intake, new_values, new_nulls, 1);
		else
			mark_lost(batch, "an inserted row arrived without a value that is stored out of line");
	}
	MemoryContextReset(change_context);
}

static void
update_one(Intake *intake, Relation rel, bool have_old)
{
	Batch	   *batch = intake->batch;

	if (batch->append_only)
		mark_lost(batch, psprintf("table \"%s\" was updated although the pipeline says append_only",
								  RelationGetRelationName(rel)));
	else if (!intake->old_rows_suffice && !MUTANT(OLD_VALUES))
		mark_lost(batch, psprintf("an UPDATE of table \"%s\" came without its old values; %s",
								  RelationGetRelationName(rel), identity_hint(rel)));
	else if (!have_old && !intake->full_old_rows)
	{
		/* the identity, which is all we read, stayed; its row may not */
		if (batch->in_order && complete_row(intake, new_values, new_nulls, false))
		{
			put_row(intake, new_values, new_nulls, -1);
			put_row(intake, new_values, new_nulls, 1);
		}
	}
	else if (!have_old ||
			 !complete_row(intake, old_values, old_nulls, false) ||
			 !complete_row(intake, new_values, new_nulls, true))
		mark_lost(batch, psprintf("an UPDATE of table \"%s\" came without a value that is stored out of line",
								  RelationGetRelationName(rel)));
	else if (batch->in_order || !same_row(intake))
	{
		put_row(intake, old_values, old_nulls, MUTANT(OLD_WEIGHT) ? 1 : -1);
		put_row(intake, new_values, new_nulls, 1);
	}
}

void
ib_batches_update(Relation rel, HeapTuple oldtuple, HeapTuple newtuple)
{
	List	   *intakes = intakes_of(rel);
	ListCell   *lc;

	if (intakes == NIL)
		return;
	heap_deform_tuple(newtuple, RelationGetDescr(rel), new_values, new_nulls);
	if (oldtuple != NULL)
		heap_deform_tuple(oldtuple, RelationGetDescr(rel), old_values, old_nulls);
	foreach(lc, intakes)
	{
		Intake	   *intake = lfirst(lc);

		if (!intake->batch->skip)
			update_one(intake, rel, oldtuple != NULL);
	}
	MemoryContextReset(change_context);
}

void
ib_batches_delete(Relation rel, HeapTuple oldtuple)
{
	List	   *intakes = intakes_of(rel);
	ListCell   *lc;

	if (intakes == NIL)
		return;
	if (oldtuple != NULL)
		heap_deform_tuple(oldtuple, RelationGetDescr(rel), old_values, old_nulls);
	foreach(lc, intakes)
	{
		Intake	   *intake = lfirst(lc);
		Batch	   *batch = intake->batch;

		if (batch->skip || batch->append_only)
			continue;
		if (oldtuple != NULL && intake->old_rows_suffice &&
			complete_row(intake, old_values, old_nulls, false))
			put_row(intake, old_values, old_nulls, -1);
		else
			mark_lost(batch, psprintf("a DELETE from table \"%s\" came without its old values; %s",
									  RelationGetRelationName(rel), identity_hint(rel)));
	}
	MemoryContextReset(change_context);
}

static bool
truncates_source(Batch *batch, int nrelations, Relation *relations)
{
	for (int i = 0; i < nrelations; i++)
	{
		if (RelationGetRelid(relations[i]) == batch->source)
			return true;
	}
	return false;
}

/*
 * Tables were truncated together.  A batch whose whole source is among them
 * begins anew; the rows of a single partition cannot be told from the others.
 */
void
ib_batches_truncate(int nrelations, Relation *relations)
{
	ListCell   *lc;

	for (int i = 0; i < nrelations; i++)
	{
		Oid			relid = RelationGetRelid(relations[i]);

		foreach(lc, intakes_of(relations[i]))
		{
			Batch	   *batch = ((Intake *) lfirst(lc))->batch;

			if (batch->skip || batch->append_only)
				continue;
			if (batch->source != relid)
			{
				if (!truncates_source(batch, nrelations, relations))
					mark_lost(batch, psprintf("partition \"%s\" was truncated",
											  RelationGetRelationName(relations[i])));
			}
			else if (open_stream != NULL)
				(void) current_run(batch, true);
			else
				batch->current.truncated_at = batch->current.rows;
		}
	}
}
