/*
 * backfill.c
 *	  Fill a state table from the source's present rows.
 *
 * A run like any other (apply.c), but instead of the batch's changes it folds
 * in the whole source as its snapshot sees it.  The frontier is the snapshot:
 * there is no seam to the changes that follow.  Readers see the old rows
 * until the commit replaces them at once.  A crash leaves nothing behind, and
 * the backfill starts again.
 *
 * One thing must hold: every commit that the decoder passed before the path's
 * batch began to collect must be visible to the snapshot.  While one lingers
 * between its commit record and its visibility, the backfill waits.
 *
 * Progress is read off the scan of the source, by a timer, while the executor
 * is at work.
 */
#include "incbatch.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/plancat.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "decode.h"
#include "divert.h"
#include "meter.h"
#include "path.h"
#include "query.h"
#include "source.h"
#include "watermark.h"

#define PROGRESS_INTERVAL_MS 250

static ExecutorStart_hook_type prev_executor_start = NULL;
static ExecutorFinish_hook_type prev_executor_finish = NULL;
static TimeoutId progress_timeout;

/* The scan that is being watched, while a backfill runs. */
static IbPath *watched = NULL;
static QueryDesc *watched_query = NULL;
static Instrumentation **watched_scans = NULL;
static int	nwatched_scans = 0;

/* In a signal handler: only reads and atomic writes. */
static void
note_progress(void)
{
	double		rows = 0;

	if (watched == NULL)
		return;
	for (int i = 0; i < nwatched_scans; i++)
		rows += watched_scans[i]->ntuples + watched_scans[i]->tuplecount +
			watched_scans[i]->nfiltered1;
	pg_atomic_write_u64(&watched->shared->backfill_rows_done, (uint64) rows);
}

/* A partitioned source has a scan for each leaf. */
static bool
find_scans(PlanState *node, List *relations)
{
	switch (nodeTag(node))
	{
		case T_SeqScanState:
		case T_IndexScanState:
		case T_IndexOnlyScanState:
		case T_BitmapHeapScanState:
			if (nwatched_scans < list_length(relations) &&
				list_member_oid(relations,
								RelationGetRelid(((ScanState *) node)->ss_currentRelation)))
				watched_scans[nwatched_scans++] = node->instrument;
			break;
		default:
			break;
	}
	return planstate_tree_walker(node, find_scans, relations);
}

static void
watch_executor_start(QueryDesc *desc, int eflags)
{
	if (watched != NULL)
		desc->instrument_options |= INSTRUMENT_ROWS;
	if (prev_executor_start)
		prev_executor_start(desc, eflags);
	else
		standard_ExecutorStart(desc, eflags);
	if (watched == NULL || nwatched_scans > 0)
		return;
	(void) find_scans(desc->planstate, watched->statements->source_relations);
	if (nwatched_scans > 0)
		watched_query = desc;
}

/* The scans have ended: all their rows are counted, and they will be freed. */
static void
watch_executor_finish(QueryDesc *desc)
{
	if (prev_executor_finish)
		prev_executor_finish(desc);
	else
		standard_ExecutorFinish(desc);
	if (watched == NULL || desc != watched_query)
		return;
	note_progress();
	ib_backfill_unwatch();
}

/* Called once by the worker. */
void
ib_backfill_init(void)
{
	progress_timeout = RegisterTimeout(USER_TIMEOUT, note_progress);
	prev_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = watch_executor_start;
	prev_executor_finish = ExecutorFinish_hook;
	ExecutorFinish_hook = watch_executor_finish;
}

/* The scan is over, or ended in an error: what was watched is freed. */
void
ib_backfill_unwatch(void)
{
	if (watched != NULL)
		disable_timeout(progress_timeout, false);
	watched = NULL;
	watched_query = NULL;
}

static double
estimate_rows(Oid source)
{
	double		total = 0;
	ListCell   *lc;

	foreach(lc, ib_source_relations(source))
	{
		Relation	rel = table_open(lfirst_oid(lc), AccessShareLock);
		BlockNumber pages;
		double		rows;
		double		all_visible;

		if (rel->rd_rel->relkind == RELKIND_RELATION)
		{
			estimate_rel_size(rel, NULL, &pages, &rows, &all_visible);
			total += rows;
		}
		table_close(rel, NoLock);
	}
	return total;
}

/* Evaluate the query over the source into a tuplestore. */
static int64
evaluate(IbPath *path, Tuplestorestate *result)
{
	int64		groups;

	pg_atomic_write_u64(&path->shared->backfill_rows_total,
						(uint64) estimate_rows(path->row->source));
	nwatched_scans = 0;
	watched_scans = palloc(sizeof(Instrumentation *) *
						   list_length(path->statements->source_relations));
	watched = path;
	enable_timeout_every(progress_timeout,
						 TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													 PROGRESS_INTERVAL_MS),
						 PROGRESS_INTERVAL_MS);
	groups = ib_run_statement(path->statements->initial, SPI_OK_SELECT, result);
	ib_backfill_unwatch();
	return groups;
}

/*
 * Replace what the state table holds by the query as the snapshot sees it, as
 * the owner.  Returns the number of groups.
 */
int64
ib_path_fill(IbPath *path, double *transform_ms)
{
	int64		lap = ib_monotonic_usecs();
	char	   *state_table = ib_query_relation_name(path->row->state_table);
	int64		ngroups = 0;
	bool		closes = path->statements->late != NULL;
	OwnerScope	scope;
	LateRun		run;

	if (closes)
		ib_late_begin(path, true, &run);
	ib_divert_begin(path, true, false);
	ib_enter_owner(path, &scope);
	if (closes)
		ib_late_offer(path, &run);
	if (path->row->initialize)
	{
		Tuplestorestate *groups = tuplestore_begin_heap(false, false, work_mem);

		ngroups = ib_divert_evaluate(path, groups, evaluate);
		*transform_ms = ib_lap_ms(&lap);
		FAULT(BACKFILL_EVALUATED);
		if (MUTANT(FILL_EMPTIES))
			ib_run_statement(psprintf("TRUNCATE %s", state_table), SPI_OK_UTILITY, NULL);
		else
			ib_run_statement(psprintf("DELETE FROM %s", state_table), SPI_OK_DELETE, NULL);
		FAULT(BACKFILL_EMPTIED);
		ib_offer_relation(DELTA_RELATION, path->row->state_table, NULL, groups, ngroups);
		ib_run_statement(path->statements->merge_plus, SPI_OK_INSERT, NULL);
		tuplestore_end(groups);
		if (closes)
			ib_late_survey_source(path, &run);
	}
	else
	{
		ib_run_statement(psprintf("DELETE FROM %s", state_table), SPI_OK_DELETE, NULL);
		ib_add_groups_without_rows(path);
	}
	if (closes)
		ib_late_advance(path, &run);
	ib_leave_owner(&scope);
	ib_divert_store(path);
	if (closes)
		ib_late_store(path, &run);
	return ngroups;
}

/* False: a session is changing the path. */
static bool
begin_backfilling(IbPath *path)
{
	bool		begun;

	ib_begin_catalog(NULL);
	begun = ib_catalog_lock_path(path->row->path) &&
		ib_catalog_change_state(path->row->path, path->row->state, PATH_BACKFILLING, NULL);
	ib_commit();
	if (begun)
		path->row->state = PATH_BACKFILLING;
	return begun;
}

/*
 * Backfill a path.  False: not now; a transaction that lingers between commit
 * record and visibility, or a lock on a table or on the path itself, is in the
 * way.  Or not yet: somebody asked for a rebuild meanwhile.
 */
bool
ib_path_backfill(IbPath *path)
{
	Frontier	frontier = {0};
	XLogRecPtr	horizon;
	int64		started_usecs = ib_monotonic_usecs();
	Meter		meter;
	int64		lap;
	bool		done;

	if ((path->row->state != PATH_BACKFILLING || path->lock_tries > 0) &&
		!begin_backfilling(path))
		return false;
	pg_atomic_write_u64(&path->shared->backfill_rows_done, 0);
	pg_atomic_write_u64(&path->shared->backfill_started_at, ib_monotonic_usecs());

	ib_meter_start(&meter, path, "backfill");
	if (!ib_begin_run(path, true, &frontier, &horizon))
		return false;
	frontier.aligned = true;
	lap = ib_monotonic_usecs();
	(void) ib_decode_upto(ib_flush_wal(), false);
	meter.record.read_ms = ib_lap_ms(&lap);
	if (ib_frontier_commits_lingering(GetActiveSnapshot(),
									  ib_inputs_have_transaction, path))
	{
		ib_commit();
		return false;
	}
	ib_partitions_start(ib_inputs_source(path), &frontier);
	ib_inputs_settle(path, GetActiveSnapshot());
	ib_find_frontier(path, &frontier);
	/* what it holds back must still be there when it is read again */
	if (frontier.lsn < ib_slot_position().confirmed_lsn && !MUTANT(HELD_CONFIRMED))
	{
		ib_commit();
		ib_inputs_finish(path);
		return false;
	}
	meter.record.strategy = "rebuild";
	meter.record.groups_changed = meter.record.groups_new =
		ib_path_fill(path, &meter.record.transform_ms);
	meter.record.merge_ms = ib_lap_ms(&lap) - meter.record.transform_ms;
	path->writes = get_relname_relid("path", get_namespace_oid(IB_SCHEMA, false));
	done = ib_catalog_change_state(path->row->path, PATH_BACKFILLING, PATH_RUNNING, NULL);
	ib_commit_run(path, &frontier);
	meter.record.commit_ms = ib_lap_ms(&lap);
	meter.record.rows_in = pg_atomic_read_u64(&path->shared->backfill_rows_done);
	if (meter.record.rows_in > 0)
		ib_meter_stop(&meter, path);
	ib_inputs_finish(path);
	if (!done)
		return false;

	path->row->state = PATH_RUNNING;
	path->confirmable = path->stored_lsn;	/* should this be lost, it starts
											 * anew */
	path->ran_at = started_usecs;
	pg_atomic_write_u64(&path->shared->backfill_started_at, 0);
	ib_path_publish(path, frontier.lsn, Min(horizon, frontier.decoded_lsn),
					frontier.as_of);
	return true;
}
