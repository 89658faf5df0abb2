/*
 * apply.c
 *	  One run of a path: one batch, one transaction.
 *
 * A run takes a snapshot S (the worker's transactions are REPEATABLE READ),
 * flushes and decodes all that S can see, holds back what S does not see,
 * transforms and merges the rest, stores the frontier, commits.  State and
 * frontier change together or not at all, so a crash at any moment repeats a
 * batch or does not, but never half.
 *
 * A backlog larger than incbatch.work_mem is eaten in pieces that end before
 * S: exact too (frontier.c), unless a group must be recomputed from the
 * source, which S shows as it is later.  Then the run decodes to the end.
 *
 * Not here: how statements run (statement.c), when a path runs (schedule.c), and
 * what is confirmed (place.c).  An error is not caught here; the worker records
 * it and exits.
 */
#include "incbatch.h"

#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "decode.h"
#include "divert.h"
#include "meter.h"
#include "path.h"
#include "query.h"
#include "source.h"
#include "watermark.h"

/* ----------------------------------------------------------------
 *		The statements of a path
 * ----------------------------------------------------------------
 */

void
ib_path_forget_statements(IbPath *path)
{
	if (path->statements != NULL)
		MemoryContextDelete(path->statements->context);
	path->statements = NULL;
}

/*
 * What a new batch passes over: what the path includes, which is what is stored,
 * not what was when the path's row was read; before a backfill, all that was
 * decoded before.  Should it be decoded again, the source may have had another
 * shape then.
 */
static Frontier
collects_from(const PathRow *row)
{
	Frontier	frontier = {0};

	if (row->state == PATH_RUNNING)
	{
		if (!ib_catalog_fetch_frontier(row->path, InvalidSnapshot, &frontier))
			elog(ERROR, "path %d runs without a frontier", row->path);
		if (MUTANT(LOADED_FRONTIER))
			frontier.lsn = frontier.decoded_lsn = row->loaded_lsn;
	}
	else if (ib_decode_is_open())
		frontier.lsn = frontier.decoded_lsn = ib_decode_position();
	return frontier;
}

/*
 * The owner, as whom the worker reads, may read what is followed and sees all
 * its rows; and the query is his own.
 */
static void
check_owner(IbPath *path, PipelineQuery *pq)
{
	Oid			owner = ib_relation_owner(path->row->state_table);
	Oid			author = ib_relation_owner(path->row->definition);
	ListCell   *lc;

	if (author != owner)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("the relations of pipeline \"%s\" have several owners",
					   get_rel_name(path->row->relation)),
				errdetail("The query \"%s\" belongs to role \"%s\", the state table \"%s\", as whose owner it runs, to role \"%s\".",
						  get_rel_name(path->row->definition), GetUserNameFromId(author, true),
						  get_rel_name(path->row->state_table), GetUserNameFromId(owner, true)),
				errhint("Give them one owner, then run incbatch.resume_pipeline."));
	ib_source_check_privileges(pq->source, pq->needed, owner);
	ib_source_check_reader(pq->source, owner);
	foreach(lc, pq->lookups)
		ib_source_check_reader(((TrackedLookup *) lfirst(lc))->relid, owner);
}

/* Make the statements from the query, in a transaction. */
static void
make_statements(IbPath *path)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "incbatch statements",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	PathStatements *statements = palloc0(sizeof(PathStatements));
	PipelineQuery *pq;
	char	   *state_table;
	int			columns;
	Frontier	frontier = {0};
	int64		meaning;
	List	   *named = NIL;	/* relations whose columns the query shows by
								 * name */

	/* what changes from here on makes them stale */
	path->statements = statements;
	statements->context = context;
	pq = ib_query_analyze(path->row->definition, path->row->track_lookups);
	state_table = ib_query_relation_name(path->row->state_table);
	check_owner(path, pq);
	if (path->inputs == NIL)
		frontier = collects_from(path->row);
	ib_inputs_prepare(path, pq, &frontier);
	columns = ib_inputs_source(path)->desc->natts;

	statements->query = pq;
	statements->state_table = state_table;
	statements->nkeys = list_length(pq->keys);
	statements->touched = ib_delta_touched(pq, columns, NULL);
	statements->times = ib_recompute_times(pq);
	statements->transform_plus = ib_delta_transform(pq, columns, false, NULL);
	statements->transform_mixed = ib_delta_transform(pq, columns, true, NULL);
	statements->merge_plus = ib_delta_merge(pq, state_table, false);
	statements->merge_mixed = ib_delta_merge(pq, state_table, true);
	statements->remove = ib_delta_remove(state_table);
	statements->without_rows = ib_delta_without_rows(pq, state_table);
	statements->initial = ib_delta_initial(pq);
	if (path->row->closes)
		statements->late = ib_watermark_statements(path, pq, state_table, columns);
	statements->meaning = ib_query_meaning(path->row->definition, pq->query, 0, &named);
	statements->source_relations = ib_source_relations(path->row->source);
	statements->relations = list_make2_oid(path->row->definition,
										   path->row->state_table);
	statements->relations = list_concat(statements->relations, pq->relations);
	statements->relations = list_concat(statements->relations, named);
	meaning = ib_inputs_source(path)->frontier.meaning;
	if (path->row->state == PATH_RUNNING && meaning != 0 &&
		meaning != ib_query_meaning(path->row->definition, pq->query, meaning, &named))
		ib_batch_lose(ib_inputs_source(path), "the query or a function that it calls was replaced, or a label of an enum or a field renamed");
	MemoryContextSwitchTo(old);
}

/* See to it that a path has its statements, and a batch that collects. */
void
ib_path_prepare(IbPath *path)
{
	path->preparing = true;
	if (path->statements != NULL && path->statements->stale)
		ib_path_forget_statements(path);
	if (path->statements == NULL)
		make_statements(path);
	path->preparing = false;
}

/* ----------------------------------------------------------------
 *		The run
 * ----------------------------------------------------------------
 */

static TupleDesc
touched_descriptor(IbPath *path)
{
	Relation	rel = table_open(path->row->state_table, NoLock);
	int			nkeys = path->statements->nkeys;
	TupleDesc	desc = CreateTemplateTupleDesc(nkeys + 3);

	TupleDescInitEntry(desc, 1, TOUCHED_ROW, TIDOID, -1, 0);
	TupleDescInitEntry(desc, 2, TOUCHED_COUNT, INT8OID, -1, 0);
	TupleDescInitEntry(desc, 3, TOUCHED_UNKNOWN, BOOLOID, -1, 0);
	for (int i = 1; i <= nkeys; i++)
		TupleDescCopyEntry(desc, i + 3, RelationGetDescr(rel), i);
	table_close(rel, NoLock);
	return desc;
}

/* Touched groups to evaluate again that have the same keys NULL. */
typedef struct UnknownGroups
{
	Bitmapset  *nulls;			/* numbers of these keys */
	int64		groups;
} UnknownGroups;

static List *
add_unknown(List *unknown, Bitmapset *nulls)
{
	UnknownGroups *found;
	ListCell   *lc;

	foreach(lc, unknown)
	{
		found = lfirst(lc);
		if (bms_equal(found->nulls, nulls))
		{
			found->groups++;
			bms_free(nulls);
			return unknown;
		}
	}
	found = palloc(sizeof(UnknownGroups));
	found->nulls = nulls;
	found->groups = 1;
	return lappend(unknown, found);
}

/*
 * What the touched groups need: are there empty ones, and which UnknownGroups.
 * A count below zero is the end of trust.
 */
static List *
inspect_touched(Tuplestorestate *touched, TupleDesc desc, bool *empty)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	List	   *unknown = NIL;

	*empty = false;
	while (tuplestore_gettupleslot(touched, true, false, slot))
	{
		Bitmapset  *nulls = NULL;
		int64		count;

		slot_getallattrs(slot);
		count = DatumGetInt64(slot->tts_values[1]);
		if (count < 0)
			ereport(ERROR,
					errcode(ERRCODE_DATA_CORRUPTED),
					errmsg("a group would hold %lld rows", (long long) count),
					errdetail("More rows were retracted than were ever counted."),
					errhint("Run incbatch.rebuild_pipeline."));
		if (count == 0)
		{
			*empty = true;
			continue;
		}
		for (int i = 3; i < desc->natts; i++)
		{
			if (slot->tts_isnull[i])
				nulls = bms_add_member(nulls, i - 2);
		}
		unknown = add_unknown(unknown, nulls);
	}
	ExecDropSingleTupleTableSlot(slot);
	return unknown;
}

/* The condition on the source's time that the touched windows make, or NULL */
static char *
touched_times(const char *statement)
{
	if (SPI_execute(statement, false, 0) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not find the times of the touched groups");
	return SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
}

/* Evaluate groups again; those that have no rows any more go. */
static void
evaluate_again(IbPath *path, List *unknown)
{
	PathStatements *statements = path->statements;
	char	   *present = ib_divert_present(path);
	char	   *times = statements->times && !present ? touched_times(statements->times) : NULL;
	TupleDesc	keys = CreateTemplateTupleDesc(statements->nkeys);
	Relation	rel = table_open(path->row->state_table, NoLock);
	ListCell   *lc;

	for (int i = 1; i <= statements->nkeys; i++)
		TupleDescCopyEntry(keys, i, RelationGetDescr(rel), i);
	table_close(rel, NoLock);

	foreach(lc, unknown)
	{
		UnknownGroups *groups = lfirst(lc);
		Tuplestorestate *fresh = tuplestore_begin_heap(false, false, work_mem);
		int64		nfresh;

		CHECK_FOR_INTERRUPTS();
		nfresh = ib_run_statement(ib_recompute(statements->query, statements->state_table,
											   groups->nulls, times, present,
											   ib_inputs_source(path)->desc->natts),
								  SPI_OK_INSERT_RETURNING, fresh);
		if (nfresh < groups->groups)
		{
			ib_offer_relation(FRESH_RELATION, InvalidOid, keys, fresh, nfresh);
			ib_run_statement(ib_recompute_remove(statements->query, statements->state_table,
												 groups->nulls),
							 SPI_OK_DELETE, NULL);
			SPI_unregister_relation(FRESH_RELATION);
		}
		tuplestore_end(fresh);
	}
}

/* A query without GROUP BY has a row even if the source is empty. */
void
ib_add_groups_without_rows(IbPath *path)
{
	if (path->statements->without_rows != NULL)
		ib_run_statement(path->statements->without_rows, SPI_OK_INSERT, NULL);
}

/* Empty groups go, unknown ones are evaluated again. */
static void
finish_touched(IbPath *path, Tuplestorestate *touched, int64 ntouched,
			   Meter *meter)
{
	TupleDesc	desc = touched_descriptor(path);
	bool		empty;
	List	   *unknown = inspect_touched(touched, desc, &empty);

	ib_offer_relation(TOUCHED_RELATION, InvalidOid, desc, touched, ntouched);
	if (empty)
		ib_run_statement(path->statements->remove, SPI_OK_DELETE, NULL);
	if (unknown != NIL)
	{
		evaluate_again(path, unknown);
		meter->record.strategy = "recompute";
	}
	if (empty || unknown != NIL)
		ib_add_groups_without_rows(path);
}

/* Find out which groups the batch touches, and evaluate them again. */
static void
recompute_touched(IbPath *path, const char *statement, Meter *meter, int64 *lap)
{
	Tuplestorestate *touched = tuplestore_begin_heap(false, false, work_mem);

	meter->record.groups_changed =
		ib_run_statement(statement, SPI_OK_SELECT, touched);
	meter->record.transform_ms = ib_lap_ms(lap);
	if (meter->record.groups_changed > 0)
		finish_touched(path, touched, meter->record.groups_changed, meter);
	tuplestore_end(touched);
}

/* Adjust the groups that the batch touches by its changes. */
static void
merge_delta(IbPath *path, const char *statement, bool mixed, Meter *meter, int64 *lap)
{
	PathStatements *statements = path->statements;
	Tuplestorestate *delta = tuplestore_begin_heap(false, false, work_mem);

	meter->record.groups_changed =
		ib_run_statement(statement, SPI_OK_SELECT, delta);
	meter->record.transform_ms = ib_lap_ms(lap);

	ib_offer_relation(DELTA_RELATION, path->row->state_table, NULL, delta,
					  meter->record.groups_changed);
	if (!mixed)
		ib_run_statement(statements->merge_plus, SPI_OK_INSERT, NULL);
	else
	{
		Tuplestorestate *touched = tuplestore_begin_heap(false, false, work_mem);
		int64		ntouched = ib_run_statement(statements->merge_mixed,
												SPI_OK_SELECT, touched);

		if (ntouched > 0)
			finish_touched(path, touched, ntouched, meter);
		tuplestore_end(touched);
	}
	tuplestore_end(delta);
}

/* Groups that were added to the state table, since some time before this run. */
static int64
groups_added(IbPath *path)
{
	return DatumGetInt64(DirectFunctionCall1(pg_stat_get_xact_tuples_inserted,
											 ObjectIdGetDatum(path->row->state_table)));
}

/* Empty the state for a TRUNCATE of the source. */
static void
empty_state(IbPath *path, LateRun *run)
{
	if (path->statements->late && !MUTANT(LATE_TRUNCATE))
		ib_late_truncate(path, run);
	else
		ib_run_statement(psprintf("DELETE FROM %s", path->statements->state_table),
						 SPI_OK_DELETE, NULL);
}

/* What is asked of a batch of the source's changes; "filtered": but the late. */
static const char *
choose_statement(PathStatements *statements, bool mixed, bool filtered)
{
	LateStatements *late = statements->late;

	if (statements->query->always_recompute)
		return filtered ? late->touched : statements->touched;
	if (mixed)
		return filtered ? late->transform_mixed : statements->transform_mixed;
	return filtered ? late->transform_plus : statements->transform_plus;
}

/* What folding in a batch needs to know, in a run and in each try of one. */
typedef struct Fold
{
	IbPath	   *path;
	Meter	   *meter;
	bool		closes;			/* windows do, and this batch counts for them */
	LateRun		begun;			/* what each try begins with */
	LateRun		late;
} Fold;

/* Transform the batch and merge it into the state, as the owner. */
static void
fold_batch(void *arg)
{
	Fold	   *fold = arg;
	IbPath	   *path = fold->path;
	PathInput  *source = linitial(path->inputs);
	Batch	   *batch = source->batch;

	/* a source that was truncated has no rows that met the lookups before */
	Bitmapset  *changed = source->truncated ? NULL : ib_inputs_changed_lookups(path);
	bool		mixed = batch->negatives > 0 || changed != NULL;
	const char *statement;
	bool		filtered;
	OwnerScope	scope;
	int64		lap = ib_monotonic_usecs();
	int64		added = groups_added(path);

	ib_late_restart(&fold->late, &fold->begun);
	ib_enter_owner(path, &scope);
	if (fold->closes)
		ib_late_offer(path, &fold->late);
	if (source->truncated)
	{
		empty_state(path, &fold->late);
		ib_add_groups_without_rows(path);
	}
	if (batch->rows > 0 || changed != NULL)
	{
		ib_offer_relation(BATCH_RELATION, InvalidOid, batch->desc, batch->store,
						  batch->rows);
		filtered = fold->closes && ib_late_survey(path, &fold->late);
		statement = changed != NULL ? ib_track_lookups(path, changed) :
			choose_statement(path->statements, mixed, filtered);
		if (path->statements->query->always_recompute)
			recompute_touched(path, statement, fold->meter, &lap);
		else
			merge_delta(path, statement, mixed, fold->meter, &lap);
	}
	if (fold->closes)
		ib_late_advance(path, &fold->late);
	ib_leave_owner(&scope);
	fold->meter->record.groups_new = groups_added(path) - added;
}

/* Fold the batch in, and write what there is to say of single rows. */
static void
fold_in(IbPath *path, Meter *meter)
{
	PathInput  *source = linitial(path->inputs);
	Fold		fold = {
		.path = path,
		.meter = meter,
		.closes = path->statements->late && (source->truncated || source->batch->rows > 0),
	};
	int64		lap = ib_monotonic_usecs();

	if (fold.closes)
		ib_late_begin(path, false, &fold.begun);
	ib_divert_begin(path, false, source->truncated);
	ib_divert_run(path, fold_batch, &fold);
	ib_divert_store(path);
	if (fold.closes)
	{
		ib_late_store(path, &fold.late);
		meter->record.rows_late = fold.late.rows_late;
		meter->record.rows_ahead = fold.late.rows_ahead;
	}
	meter->record.merge_ms = ib_lap_ms(&lap) - meter->record.transform_ms;
}

/*
 * A lookup was truncated: which rows it had, no change tells.  So the query is
 * evaluated anew, which the snapshot shows as it is after the batch.
 */
static void
fold_in_anew(IbPath *path, Meter *meter)
{
	int64		lap = ib_monotonic_usecs();

	if (path->row->append_only)
		ereport(ERROR,
				errcode(ERRCODE_DATA_CORRUPTED),
				errmsg("a lookup was truncated"),
				errdetail("The query would be evaluated anew, without the rows that are gone from an append_only source."));
	meter->record.groups_changed = ib_path_fill(path, &meter->record.transform_ms);
	meter->record.strategy = "rebuild";
	meter->record.merge_ms = ib_lap_ms(&lap) - meter->record.transform_ms;
}

/*
 * The aggregate contains what committed before as_of.  A worker that starts
 * anew tells what the one before has told already, or less.
 */
static void
note_staleness(PathEntry *shared, TimestampTz as_of)
{
	int64		now = ib_monotonic_usecs();
	int64		staleness = Max(GetCurrentTimestamp() - as_of, 0);
	int64		instant = now - staleness;
	int64		before = pg_atomic_read_u64(&shared->as_of_instant);

	if (before >= instant)
		return;
	ib_freshness_note(&shared->freshness, now, before ? now - before : staleness, instant);
	pg_atomic_write_u64(&shared->as_of, as_of);
	pg_atomic_write_u64(&shared->as_of_instant, instant);
	pg_atomic_write_u64(&shared->staleness_before,
						pg_atomic_read_u64(&shared->staleness_then));
	pg_atomic_write_u64(&shared->staleness_then, staleness);
	pg_atomic_write_u64(&shared->moved_at, now);
}

/*
 * Show how far a path is, and wake who waits for it.  lsn may lie behind the
 * stored frontier's: nothing for this path is between the two.  Whatever was
 * visible when the WAL ended at decoded_lsn is included: so decoded_lsn is not
 * beyond the end of the WAL before the run took its snapshot.
 */
void
ib_path_publish(IbPath *path, XLogRecPtr lsn, XLogRecPtr decoded_lsn,
				TimestampTz as_of)
{
	PathEntry  *shared = path->shared;

	note_staleness(shared, as_of);
	pg_atomic_write_u64(&shared->backlog_rows, ib_inputs_rows(path));
	if (lsn > pg_atomic_read_u64(&shared->frontier_lsn))
		pg_atomic_write_u64(&shared->frontier_lsn, lsn);
	if (decoded_lsn > pg_atomic_read_u64(&shared->decoded_lsn))
		pg_atomic_write_u64(&shared->decoded_lsn, decoded_lsn);
	ConditionVariableBroadcast(&shared->moved);
}

static int
compare_times(const void *a, const void *b)
{
	int64		x = *(const int64 *) a;
	int64		y = *(const int64 *) b;

	return x < y ? -1 : x > y;
}

/* Remember how long a run took, for the next one may begin so much earlier. */
static void
note_run_time(IbPath *path, int64 usecs)
{
	int64		sorted[IB_RUN_TIMES];
	int			n;

	path->run_times[path->nruns++ % IB_RUN_TIMES] = usecs;
	n = Min(path->nruns, IB_RUN_TIMES);
	memcpy(sorted, path->run_times, sizeof(int64) * n);
	qsort(sorted, n, sizeof(int64), compare_times);
	path->run_time = sorted[(n * 99 - 1) / 100];
}

/*
 * Decode what the snapshot can see, or as much as the batches take, but at
 * least what the path has already: a frontier never goes back.  Returns
 * whether all of it was decoded.
 */
static bool
read_up(IbPath *path, Meter *meter)
{
	Batch	   *batch = ib_inputs_source(path);
	PipelineQuery *query = path->statements->query;
	int64		lap = ib_monotonic_usecs();
	XLogRecPtr	end = ib_flush_wal();
	bool		aligned;

	(void) ib_decode_upto(batch->frontier.decoded_lsn, false);
	aligned = ib_decode_upto(end, true) >= end;

	/*
	 * tracked lookups are read as the snapshot sees them, and the source with
	 * them
	 */
	if (!aligned && (path->row->track_lookups || query->always_recompute ||
					 (query->may_recompute && batch->negatives > 0)))
		aligned = ib_decode_upto(end, false) >= end;
	meter->record.read_ms = ib_lap_ms(&lap);
	return aligned;
}

/*
 * Begin a run: its transaction, its locks, then its snapshot.  Whatever was
 * visible at as_of, or when the WAL ended at *horizon, the snapshot sees.
 * False: a table is locked, and no transaction is open.
 */
bool
ib_begin_run(IbPath *path, bool with_source, Frontier *frontier,
			 XLogRecPtr *horizon)
{
	ib_begin();
	frontier->as_of = GetCurrentTimestamp();
	*horizon = ib_wal_end();
	ib_limit_lock_waits();
	path->writes = path->row->state_table;
	if (!ib_lock_tables(path, with_source))
	{
		ib_commit();
		return false;
	}
	if (path->inputs != NIL)
		ib_inputs_source(path)->changes_visible = ib_inputs_source(path)->partition_changes;
	PushActiveSnapshot(GetTransactionSnapshot());
	ib_path_prepare(path);
	return true;
}

/*
 * Commit a run, and then remember what it stored: should the commit fail, the
 * path contains what it did before.
 */
void
ib_commit_run(IbPath *path, const Frontier *frontier)
{
	bool		new_partitions = frontier->partitions != (Datum) 0 &&
		frontier->partitions != ib_inputs_source(path)->frontier.partitions;
	int			left_out = ib_divert_left_out(path);
	Frontier	kept;

	FAULT(AFTER_FOLD);
	ib_catalog_store_frontier(path->row->path, frontier, new_partitions);
	kept = ib_frontier_copy(frontier, TopMemoryContext);
	FAULT(BEFORE_COMMIT);
	ib_commit();
	FAULT(AFTER_COMMIT);
	ib_inputs_set_frontier(path, &kept);
	ib_frontier_free(&kept);
	path->row->left_out = left_out;
	path->divert = NULL;
	/* what readers see is flushed: see fix_settings in worker.c */
	Assert(MUTANT(UNFLUSHED) || XactLastCommitEnd <= GetFlushRecPtr(NULL));
	path->row->has_frontier = true;
	path->stored_lsn = frontier->lsn;
	path->stored_commit = XactLastCommitEnd;
	pgstat_report_stat(false);
}

/*
 * What a run under the active snapshot will include, once the batches have been
 * settled by that snapshot.
 */
void
ib_find_frontier(IbPath *path, Frontier *frontier)
{
	frontier->meaning = path->statements->meaning;
	frontier->decoded_lsn = ib_decode_position();
	frontier->lsn = ib_inputs_held_lsn(path, frontier->decoded_lsn);
	frontier->snapshot = ib_frontier_current_snapshot();
	if (!frontier->aligned)
		frontier->as_of = ib_inputs_last_commit(path, pg_atomic_read_u64(&path->shared->as_of));
}

/*
 * Run a path once.  A run that finds nothing to fold in moves the frontier in
 * memory alone, unless it is to be stored.  False: the path could not run,
 * because one of its tables is locked or the batch is lost.
 */
bool
ib_path_run(IbPath *path, const char *reason, bool store)
{
	Frontier	frontier = {0};
	Meter		meter;
	XLogRecPtr	horizon;
	int64		lap;

	ib_meter_start(&meter, path, reason);
	if (!ib_begin_run(path, false, &frontier, &horizon))
		return false;
	frontier.aligned = read_up(path, &meter);
	ib_inputs_judge(path, GetActiveSnapshot());
	store |= ib_partitions_follow(ib_inputs_source(path), &frontier);
	if (ib_inputs_lost(path))
	{
		ib_commit();
		return false;
	}

	ib_inputs_settle(path, GetActiveSnapshot());
	ib_find_frontier(path, &frontier);
	if (!ib_inputs_have_work(path) && !store)
		ib_commit();
	else
	{
		meter.record.rows_in = ib_inputs_rows(path);
		FAULT(BEFORE_FOLD);
		if (ib_inputs_lookup_truncated(path))
			fold_in_anew(path, &meter);
		else
			fold_in(path, &meter);
		lap = ib_monotonic_usecs();
		ib_commit_run(path, &frontier);
		meter.record.commit_ms = ib_lap_ms(&lap);
		if (ib_inputs_have_work(path))
			ib_meter_stop(&meter, path);
		note_run_time(path, ib_monotonic_usecs() - meter.started_usecs);
		/* who asked for the run may look at what it read */
		if (strcmp(reason, "refresh") == 0)
			pgstat_report_stat(true);
	}
	ib_inputs_finish(path);
	path->ran_at = meter.started_usecs;
	ib_path_publish(path, frontier.lsn, Min(horizon, frontier.decoded_lsn),
					frontier.as_of);
	return true;
}
