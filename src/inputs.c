/*
 * inputs.c
 *	  What a path collects, as one.
 *
 * A path has a batch of its source's changes and, where lookups are tracked,
 * one of each tracked lookup's.  They begin to collect together, share the
 * path's frontier and are settled by the same snapshot: a transaction that
 * changes several tables is folded in as a whole or held back as a whole.
 *
 * They live as long as the path collects, in the worker's memory.
 *
 * Not here: what the changes of lookups do to the aggregate (lookups.c,
 * track.c).
 */
#include "incbatch.h"

#include "access/table.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "path.h"
#include "query.h"

static void
add_input(IbPath *path, int index, Oid relid, const Bitmapset *needed,
		  bool append_only, bool in_order, const Frontier *frontier)
{
	Relation	rel = table_open(relid, AccessShareLock);
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	PathInput  *input = palloc0(sizeof(PathInput));

	input->index = index;
	input->batch = ib_batch_create(rel, needed, append_only, frontier);
	input->batch->in_order = in_order;
	path->inputs = lappend(path->inputs, input);
	MemoryContextSwitchTo(old);
	table_close(rel, NoLock);
}

/*
 * Begin to collect what a query reads, from a frontier on, or take over new names
 * of columns.  Tells the query how wide the batches are.
 */
void
ib_inputs_prepare(IbPath *path, PipelineQuery *pq, const Frontier *frontier)
{
	ListCell   *lc;

	if (path->inputs == NIL)
	{
		add_input(path, pq->source_index, pq->source, pq->needed,
				  path->row->append_only, pq->in_order, frontier);
		foreach(lc, pq->lookups)
		{
			TrackedLookup *lookup = lfirst(lc);

			add_input(path, lookup->index, lookup->relid, lookup->needed, false, false, frontier);
		}
	}
	foreach(lc, path->inputs)
	{
		PathInput  *input = lfirst(lc);
		int			lookup = foreach_current_index(lc) - 1;

		ib_batch_rename_columns(input->batch);
		if (lookup >= 0)
			((TrackedLookup *) list_nth(pq->lookups, lookup))->columns =
				input->batch->desc->natts;
	}
}

void
ib_inputs_destroy(IbPath *path)
{
	ListCell   *lc;

	foreach(lc, path->inputs)
	{
		PathInput  *input = lfirst(lc);

		/* after a run that failed */
		if (input->split)
			ib_batch_finish(input->batch, &input->held);
		ib_batch_destroy(input->batch);
	}
	list_free_deep(path->inputs);
	path->inputs = NIL;
}

/* The source's batch, of a path that collects. */
Batch *
ib_inputs_source(const IbPath *path)
{
	return ((PathInput *) linitial(path->inputs))->batch;
}

void
ib_inputs_set_frontier(IbPath *path, const Frontier *frontier)
{
	ListCell   *lc;

	foreach(lc, path->inputs)
		ib_batch_set_frontier(((PathInput *) lfirst(lc))->batch, frontier);
}

/* Whether any transaction waits. */
bool
ib_inputs_have_work(const IbPath *path)
{
	ListCell   *lc;

	foreach(lc, path->inputs)
	{
		if (((PathInput *) lfirst(lc))->batch->ntransactions > 0)
			return true;
	}
	return false;
}

int64
ib_inputs_rows(const IbPath *path)
{
	int64		rows = 0;
	ListCell   *lc;

	foreach(lc, path->inputs)
		rows += ((PathInput *) lfirst(lc))->batch->rows;
	return rows;
}

/* Why the changes cannot be trusted, or NULL. */
const char *
ib_inputs_lost(const IbPath *path)
{
	ListCell   *lc;

	foreach(lc, path->inputs)
	{
		if (((PathInput *) lfirst(lc))->batch->lost)
			return ((PathInput *) lfirst(lc))->batch->lost;
	}
	return NULL;
}

/* Whether some changes cannot be trusted; a run finds out if it needs them. */
bool
ib_inputs_in_doubt(const IbPath *path)
{
	ListCell   *lc;

	foreach(lc, path->inputs)
	{
		Batch	   *batch = ((PathInput *) lfirst(lc))->batch;

		if (batch->lost || batch->has_lost)
			return true;
	}
	return false;
}

/* Lose the batches of which the snapshot sees a transaction that is lost. */
void
ib_inputs_judge(IbPath *path, Snapshot snapshot)
{
	ListCell   *lc;

	foreach(lc, path->inputs)
		ib_batch_judge(((PathInput *) lfirst(lc))->batch, snapshot);
}

/* Whether a batch is full that a run may empty. */
bool
ib_inputs_full(const IbPath *path)
{
	ListCell   *lc;

	foreach(lc, path->inputs)
	{
		Batch	   *batch = ((PathInput *) lfirst(lc))->batch;

		if (ib_batch_is_full(batch) && !batch->stuck)
			return true;
	}
	return false;
}

/* After a run: a batch that is still full waits for others. */
void
ib_inputs_note_stuck(IbPath *path)
{
	ListCell   *lc;

	foreach(lc, path->inputs)
	{
		Batch	   *batch = ((PathInput *) lfirst(lc))->batch;

		batch->stuck = ib_batch_is_full(batch);
	}
}

/* For ib_frontier_commits_lingering. */
bool
ib_inputs_have_transaction(TransactionId xid, void *path)
{
	ListCell   *lc;

	foreach(lc, ((IbPath *) path)->inputs)
	{
		if (ib_batch_has_transaction(xid, ((PathInput *) lfirst(lc))->batch))
			return true;
	}
	return false;
}

/* Keep what a snapshot sees, hold back the rest until ib_inputs_finish. */
void
ib_inputs_settle(IbPath *path, Snapshot snapshot)
{
	ListCell   *lc;

	foreach(lc, path->inputs)
	{
		PathInput  *input = lfirst(lc);

		input->truncated = ib_batch_settle(input->batch, snapshot, &input->held);
		input->split = input->held.store != NULL;
	}
}

/* The first commit that is held back, or the given position. */
XLogRecPtr
ib_inputs_held_lsn(const IbPath *path, XLogRecPtr lsn)
{
	ListCell   *lc;

	foreach(lc, path->inputs)
	{
		Batch	   *held = &((PathInput *) lfirst(lc))->held;

		if (held->ntransactions > 0)
			lsn = Min(lsn, held->transactions[0].commit_lsn);
	}
	return lsn;
}

void
ib_inputs_finish(IbPath *path)
{
	ListCell   *lc;

	foreach(lc, path->inputs)
	{
		PathInput  *input = lfirst(lc);

		ib_batch_finish(input->batch, &input->held);
		input->split = false;
	}
}

/* After a run that failed: is what has been collected what it was before? */
bool
ib_inputs_are_whole(const IbPath *path)
{
	ListCell   *lc;

	foreach(lc, path->inputs)
	{
		PathInput  *input = lfirst(lc);

		if (input->split || input->batch->partitioned)
			return false;
	}
	/* nor where rows were left out of it */
	return !path->row->closes && path->divert == NULL;
}

/*
 * The transactions of all batches in commit order, each once.  The caller
 * gives an array of as many zeros as there are inputs; NULL: that was all.
 */
const BatchTransaction *
ib_inputs_next_transaction(const IbPath *path, int *next)
{
	const BatchTransaction *first = NULL;
	ListCell   *lc;

	foreach(lc, path->inputs)
	{
		Batch	   *batch = ((PathInput *) lfirst(lc))->batch;
		int			i = next[foreach_current_index(lc)];

		if (i < batch->ntransactions &&
			(first == NULL || batch->transactions[i].commit_lsn < first->commit_lsn))
			first = &batch->transactions[i];
	}
	foreach(lc, path->inputs)
	{
		Batch	   *batch = ((PathInput *) lfirst(lc))->batch;
		int		   *i = &next[foreach_current_index(lc)];

		if (*i < batch->ntransactions &&
			batch->transactions[*i].commit_lsn == first->commit_lsn)
			(*i)++;
	}
	return first;
}

/* When the last of the transactions committed, or the given instant. */
TimestampTz
ib_inputs_last_commit(const IbPath *path, TimestampTz last)
{
	ListCell   *lc;

	foreach(lc, path->inputs)
	{
		Batch	   *batch = ((PathInput *) lfirst(lc))->batch;

		if (batch->ntransactions > 0)
			last = Max(last, batch->transactions[batch->ntransactions - 1].commit_time);
	}
	return last;
}

/* The lookups that changed, by their place in the range table. */
Bitmapset *
ib_inputs_changed_lookups(const IbPath *path)
{
	Bitmapset  *changed = NULL;
	ListCell   *lc;

	for_each_from(lc, path->inputs, 1)
	{
		PathInput  *input = lfirst(lc);

		if (input->batch->rows > 0)
			changed = bms_add_member(changed, input->index);
	}
	return changed;
}

/* Whether a lookup lost rows that nobody told of. */
bool
ib_inputs_lookup_truncated(const IbPath *path)
{
	ListCell   *lc;

	for_each_from(lc, path->inputs, 1)
	{
		if (((PathInput *) lfirst(lc))->truncated)
			return true;
	}
	return false;
}
