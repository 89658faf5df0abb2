/*
 * divert.c
 *	  Rows that make the query fail: found, kept in incbatch.failed_row, left
 *	  out.
 *
 * Of a path with on_error 'divert' the run is tried in a subtransaction.  If it
 * ends in an error that is the query's own, the batch is halved, and its halves
 * again, each tried by itself and rolled back, until single rows are left that
 * fail alone.  These are taken out of the batch, and the run is tried again.
 * What was found is stored in the run's transaction, with state and frontier.
 *
 * The promise is: the aggregate equals the query over the source without the
 * rows that are left out.  So the deletion of such a row, or its old version in
 * an update, must not be folded in either.  It is known by its image, the
 * columns that the query reads, and not by its error, which another row of a
 * lookup, or of the group, may have taken away meanwhile.  For the same reason
 * a row that was counted once cannot be left out when its deletion fails: then
 * the pipeline stops.
 *
 * A backfill that fails takes the rows of the source for a batch.  Where groups
 * are evaluated again while rows are left out, the source is read as a whole,
 * without these rows, before anything of the query is evaluated.
 *
 * Called by apply.c and backfill.c in this order: begin (as the worker), run or
 * evaluate, store (as the worker).  All of it lives in the run's transaction.
 */
#include "incbatch.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/resowner.h"

#include "divert.h"
#include "watermark.h"

/* A row that is, or was, left out; or the record of its deletion. */
typedef struct FailedRow
{
	int64		number;			/* in incbatch.failed_row, 0: found by this
								 * run */
	const char *change;
	char	   *row;			/* jsonb as text */
	char	   *image;
	const char *error;
	const char *sqlstate;
	XLogRecPtr	commit_lsn;		/* invalid: a backfill met it */
	TimestampTz commit_time;
	bool		left_out;
} FailedRow;

typedef struct DivertRun
{
	bool		anew;			/* a backfill: forget what was left out */
	bool		truncated;		/* so was the source, before the batch's rows */
	List	   *rows;			/* of FailedRow: left out now, or when the run
								 * began */
	List	   *found;			/* of FailedRow: to be stored, in this order */
} DivertRun;

/* Rows of a batch, tried by themselves. */
typedef struct Part
{
	IbPath	   *path;
	Tuplestorestate *store;
	int64		first;			/* number in the batch */
	int64		rows;
	int64		negatives;
	bool		merges;			/* also try to merge them into the state */
} Part;

/* A row that fails by itself. */
typedef struct Culprit
{
	int64		number;			/* in the batch */
	bool		added;			/* of weight +1 */
	ErrorData  *error;
} Culprit;

/* ----------------------------------------------------------------
 *		Trying
 * ----------------------------------------------------------------
 */

/* Errors that a value in a row can be the cause of. */
static bool
is_own(const ErrorData *error)
{
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_TO_CATEGORY(ERRCODE_CARDINALITY_VIOLATION):
		case ERRCODE_TO_CATEGORY(ERRCODE_DATA_EXCEPTION):
		case ERRCODE_TO_CATEGORY(ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION):
		case ERRCODE_TO_CATEGORY(ERRCODE_SQL_ROUTINE_EXCEPTION):
		case ERRCODE_TO_CATEGORY(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION):
		case ERRCODE_TO_CATEGORY(ERRCODE_PROGRAM_LIMIT_EXCEEDED):
		case ERRCODE_TO_CATEGORY(ERRCODE_PLPGSQL_ERROR):
			return true;
		default:
			return false;
	}
}

/*
 * Run something in a subtransaction, which is rolled back if it fails or if it
 * is not to be kept.  NULL: it did not fail.  An error that is not the query's
 * own goes on.
 */
static ErrorData *
try(void (*run) (void *), void *arg, bool keep)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	CHECK_FOR_INTERRUPTS();
	BeginInternalSubTransaction(NULL);
	if (keep)
		MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		run(arg);
		if (keep)
			ReleaseCurrentSubTransaction();
		else
			RollbackAndReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ib_backfill_unwatch();
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	if (error != NULL && !is_own(error))
		ReThrowError(error);
	return error;
}

/* Evaluate the query over a part, and merge it as far as that can be undone. */
static void
try_part(void *arg)
{
	Part	   *part = arg;
	PathStatements *statements = part->path->statements;
	bool		recompute = statements->query->always_recompute;
	bool		mixed = part->negatives > 0 && !recompute;
	Tuplestorestate *delta = tuplestore_begin_heap(false, false, work_mem);
	OwnerScope	scope;
	int64		groups;

	ib_enter_owner(part->path, &scope);
	ib_offer_relation(BATCH_RELATION, InvalidOid, ib_inputs_source(part->path)->desc,
					  part->store, part->rows);
	groups = ib_run_statement(mixed ? statements->transform_mixed : statements->transform_plus,
							  SPI_OK_SELECT, delta);
	if (part->merges && !recompute)
	{
		ib_offer_relation(DELTA_RELATION, part->path->row->state_table, NULL, delta, groups);
		ib_run_statement(mixed ? statements->merge_mixed : statements->merge_plus,
						 mixed ? SPI_OK_SELECT : SPI_OK_INSERT, NULL);
	}
	ib_leave_owner(&scope);
}

/* ----------------------------------------------------------------
 *		Finding
 * ----------------------------------------------------------------
 */

static void
refuse_too_many(const ErrorData *error)
{
	ereport(ERROR,
			errcode(error->sqlerrcode),
			errmsg("%s", error->message),
			errdetail("This and other errors come from more rows of the source than incbatch.max_failed_rows (%d) allows to leave out.",
					  ib_max_failed_rows));
}

/* The next rows of a batch as a part; the slot is for its rows. */
static Part
take_part(const Part *whole, Tuplestorestate *from, int64 first, int64 rows, TupleTableSlot *slot)
{
	Part		part = *whole;

	part.store = ib_batch_begin_store(ib_work_mem);
	part.first = first;
	part.rows = rows;
	part.negatives = 0;
	for (int64 i = 0; i < rows; i++)
	{
		ib_batch_move_rows(from, part.store, 1, slot);
		if (!ib_batch_adds(ib_inputs_source(part.path), slot))
			part.negatives++;
	}
	return part;
}

/* Find the rows of a part that fail by themselves, at most so many. */
static List *
find_culprits(Part *part, List *culprits, int limit)
{
	Batch	   *batch = ib_inputs_source(part->path);
	TupleTableSlot *slot;
	ErrorData  *error;
	Part		half[2];

	check_stack_depth();
	error = try(try_part, part, false);
	if (error == NULL)
		return culprits;
	if (part->rows == 1)
	{
		Culprit    *culprit = palloc(sizeof(Culprit));

		if (list_length(culprits) >= limit)
			refuse_too_many(error);
		culprit->number = part->first;
		culprit->added = part->negatives == 0;
		culprit->error = error;
		return lappend(culprits, culprit);
	}
	FreeErrorData(error);
	slot = MakeSingleTupleTableSlot(batch->desc, &TTSOpsMinimalTuple);
	tuplestore_rescan(part->store);
	half[0] = take_part(part, part->store, part->first, part->rows / 2, slot);
	half[1] = take_part(part, part->store, part->first + half[0].rows,
						part->rows - half[0].rows, slot);
	ExecDropSingleTupleTableSlot(slot);
	for (int i = 0; i < 2; i++)
	{
		culprits = find_culprits(&half[i], culprits, limit);
		ib_batch_end_store(half[i].store);
	}
	return culprits;
}

/* ----------------------------------------------------------------
 *		Leaving out
 * ----------------------------------------------------------------
 */

/* What a row is known by: its columns as SQL, each after the qualifier. */
static char *
image_of(PipelineQuery *pq, const char *qualifier)
{
	return psprintf("pg_catalog.to_jsonb(ROW(%s))::pg_catalog.text",
					ib_query_needed_for_jsonb(pq, qualifier, true));
}

static int
count_left_out(const DivertRun *divert)
{
	int			n = 0;
	ListCell   *lc;

	foreach(lc, divert->rows)
		n += ((FailedRow *) lfirst(lc))->left_out;
	return n;
}

/* Record a change of a batch, which may have no transactions. */
static FailedRow *
add_found(DivertRun *divert, const Batch *batch, int64 number, const char *change,
		  const char *error, const char *sqlstate)
{
	FailedRow  *row = palloc0(sizeof(FailedRow));
	int			transaction = -1;
	int64		last = 0;

	row->change = change;
	row->error = error;
	row->sqlstate = sqlstate;
	if (batch->ntransactions > 0)
	{
		const BatchTransaction *commit = ib_batch_transaction_of(batch, number, &transaction, &last);

		row->commit_lsn = commit->commit_lsn;
		row->commit_time = commit->commit_time;
	}
	divert->found = lappend(divert->found, row);
	return row;
}

/* Rows of a batch by their numbers, which rise, with these. */
static Tuplestorestate *
numbered_rows(Batch *batch, const int64 *numbers, int n, TupleDesc desc)
{
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(batch->desc, &TTSOpsMinimalTuple);
	int64		number = 0;

	tuplestore_rescan(batch->store);
	for (int i = 0; i < n; i++)
	{
		ib_batch_move_rows(batch->store, NULL, numbers[i] - number, slot);
		number = numbers[i];
		ib_batch_put_numbered(store, desc, slot, number);
	}
	ExecDropSingleTupleTableSlot(slot);
	return store;
}

/* Leave out the culprits that add rows.  Returns how many these are. */
static int
leave_out(IbPath *path, List *culprits)
{
	DivertRun  *divert = path->divert;
	Batch	   *batch = ib_inputs_source(path);
	PipelineQuery *pq = path->statements->query;
	TupleDesc	desc = ib_batch_numbered_descriptor(batch);
	MemoryContext caller = MemoryContextSwitchTo(TopTransactionContext);
	int64	   *numbers = palloc(sizeof(int64) * Max(list_length(culprits), 1));
	FailedRow **rows = palloc(sizeof(FailedRow *) * Max(list_length(culprits), 1));
	int			n = 0;
	OwnerScope	scope;
	ListCell   *lc;

	foreach(lc, culprits)
	{
		Culprit    *culprit = lfirst(lc);

		if (!culprit->added)
			continue;
		numbers[n] = culprit->number;
		rows[n] = add_found(divert, batch, culprit->number, "insert", pstrdup(culprit->error->message),
							pstrdup(unpack_sql_state(culprit->error->sqlerrcode)));
		rows[n]->left_out = true;
		divert->rows = lappend(divert->rows, rows[n]);
		n++;
	}
	if (n == 0)
	{
		MemoryContextSwitchTo(caller);
		return 0;
	}

	ib_enter_owner(path, &scope);
	ib_offer_relation(CANDIDATES_RELATION, InvalidOid, desc,
					  numbered_rows(batch, numbers, n, desc), n);
	ib_run_statement(psprintf("SELECT (SELECT pg_catalog.to_jsonb(r) FROM (SELECT %s) r), %s"
							  " FROM " CANDIDATES_RELATION " b ORDER BY b." BATCH_NUMBER,
							  ib_query_needed_for_jsonb(pq, "b.", false), image_of(pq, "b.")),
					 SPI_OK_SELECT, NULL);
	MemoryContextSwitchTo(TopTransactionContext);
	for (int i = 0; i < n; i++)
	{
		rows[i]->row = pstrdup(SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1));
		rows[i]->image = pstrdup(SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2));
	}
	ib_leave_owner(&scope);
	MemoryContextSwitchTo(caller);
	ib_batch_remove_rows(batch, numbers, n);
	return n;
}

/* Offer the images of rows that are left out, with numbers from 0. */
static void
offer_images(List *images, List *numbers)
{
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	TupleDesc	desc = CreateTemplateTupleDesc(2);
	ListCell   *lc;
	ListCell   *ln;

	TupleDescInitEntry(desc, 1, "number", INT4OID, -1, 0);
	TupleDescInitEntry(desc, 2, "image", TEXTOID, -1, 0);
	forboth(lc, images, ln, numbers)
	{
		Datum		values[] = {Int32GetDatum(lfirst_int(ln)), CStringGetTextDatum(lfirst(lc))};
		bool		nulls[] = {false, false};

		tuplestore_putvalues(store, desc, values, nulls);
	}
	ib_offer_relation(FAILED_RELATION, InvalidOid, desc, store, list_length(images));
}

static void
offer_left_out(const DivertRun *divert)
{
	List	   *images = NIL;
	List	   *numbers = NIL;
	ListCell   *lc;

	foreach(lc, divert->rows)
	{
		FailedRow  *row = lfirst(lc);

		if (!row->left_out)
			continue;
		images = lappend(images, row->image);
		numbers = lappend_int(numbers, foreach_current_index(lc));
	}
	offer_images(images, numbers);
}

/* The old rows of a batch, with their numbers. */
static Tuplestorestate *
old_rows(Batch *batch, TupleDesc desc)
{
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(batch->desc, &TTSOpsMinimalTuple);

	tuplestore_rescan(batch->store);
	for (int64 number = 1; tuplestore_gettupleslot(batch->store, true, false, slot); number++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!ib_batch_adds(batch, slot))
			ib_batch_put_numbered(store, desc, slot, number);
	}
	ExecDropSingleTupleTableSlot(slot);
	return store;
}

/*
 * Take the deletions of rows that are left out, and the old rows of their
 * updates, out of the batch.
 */
static void
cancel(IbPath *path)
{
	DivertRun  *divert = path->divert;
	Batch	   *batch = ib_inputs_source(path);
	MemoryContext caller;
	int			max = count_left_out(divert);
	TupleDesc	desc;
	int64	   *numbers;
	int			n = 0;
	OwnerScope	scope;

	if (max == 0 || batch->negatives == 0 || MUTANT(DIVERT_CANCEL))
		return;
	caller = MemoryContextSwitchTo(TopTransactionContext);
	desc = ib_batch_numbered_descriptor(batch);
	numbers = palloc(sizeof(int64) * max);
	ib_enter_owner(path, &scope);
	ib_offer_relation(CANDIDATES_RELATION, InvalidOid, desc, old_rows(batch, desc),
					  batch->negatives);
	offer_left_out(divert);
	ib_run_statement(psprintf("SELECT b." BATCH_NUMBER ", f.number FROM " CANDIDATES_RELATION " b"
							  " JOIN " FAILED_RELATION " f ON %s OPERATOR(pg_catalog.=) f.image ORDER BY 1, 2",
							  image_of(path->statements->query, "b.")),
					 SPI_OK_SELECT, NULL);
	MemoryContextSwitchTo(TopTransactionContext);
	for (uint64 i = 0; i < SPI_processed && n < max; i++)
	{
		bool		isnull;
		int64		number = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i],
														 SPI_tuptable->tupdesc, 1, &isnull));
		int32		index = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i],
														SPI_tuptable->tupdesc, 2, &isnull));
		FailedRow  *row = list_nth(divert->rows, index);
		FailedRow  *deleted;

		/* each old row takes away one, and each is taken away once */
		if (!row->left_out || (n > 0 && numbers[n - 1] == number))
			continue;
		row->left_out = false;
		numbers[n++] = number;
		deleted = add_found(divert, batch, number, "delete", row->error, row->sqlstate);
		deleted->row = row->row;
		deleted->image = row->image;
	}
	ib_leave_owner(&scope);
	MemoryContextSwitchTo(caller);
	if (n > 0)
		ib_batch_remove_rows(batch, numbers, n);
}

/* The run failed: leave out what makes it fail, or give up. */
static void
divert_culprits(IbPath *path, ErrorData *error, bool merges)
{
	DivertRun  *divert = path->divert;
	Batch	   *batch = ib_inputs_source(path);
	Part		whole = {
		.path = path,
		.store = batch->store,
		.first = 1,
		.rows = batch->rows,
		.negatives = batch->negatives,
		.merges = merges,
	};
	List	   *culprits = NIL;

	if (batch->rows > 0)
		culprits = find_culprits(&whole, NIL, ib_max_failed_rows);
	if (culprits == NIL)
		ReThrowError(error);
	if (leave_out(path, culprits) == 0)
		ereport(ERROR,
				errcode(error->sqlerrcode),
				errmsg("%s", error->message),
				errdetail("It comes from the old version of a row that was counted before, so it cannot be left out; incbatch.rebuild_pipeline reads the source anew."));
	cancel(path);
	if (count_left_out(divert) > ib_max_failed_rows)
		refuse_too_many(error);
	FreeErrorData(error);
}

/* ----------------------------------------------------------------
 *		The run
 * ----------------------------------------------------------------
 */

/* Read which rows a path leaves out. */
static void
read_left_out(IbPath *path)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(path->row->path)};
	MemoryContext caller = CurrentMemoryContext;

	SPI_connect();
	ib_spi("SELECT number, \"row\", image, error, sqlstate FROM incbatch.failed_row"
		   " WHERE path OPERATOR(pg_catalog.=) $1 AND left_out ORDER BY number",
		   SPI_OK_SELECT, 1, types, values, NULL);
	MemoryContextSwitchTo(TopTransactionContext);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		FailedRow  *row = palloc0(sizeof(FailedRow));
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;

		row->number = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull));
		row->row = pstrdup(SPI_getvalue(tuple, desc, 2));
		row->image = pstrdup(SPI_getvalue(tuple, desc, 3));
		row->error = pstrdup(SPI_getvalue(tuple, desc, 4));
		row->sqlstate = pstrdup(SPI_getvalue(tuple, desc, 5));
		row->left_out = true;
		path->divert->rows = lappend(path->divert->rows, row);
	}
	SPI_finish();
	MemoryContextSwitchTo(caller);
}

/*
 * Before a run acts as the owner.  A path that neither leaves out rows nor may
 * has nothing to do with this file.
 */
void
ib_divert_begin(IbPath *path, bool anew, bool truncated)
{
	path->divert = NULL;
	if (!anew && !path->row->diverts && path->row->left_out == 0)
		return;
	path->divert = MemoryContextAllocZero(TopTransactionContext, sizeof(DivertRun));
	path->divert->anew = anew;
	path->divert->truncated = truncated;
	if (!anew && !truncated && path->row->left_out > 0)
		read_left_out(path);
}

/* The run failed: try it without what makes it fail until it does not. */
static void
run_without_culprits(IbPath *path, void (*run) (void *), void *arg, ErrorData *error,
					 bool merges)
{
	do
		divert_culprits(path, error, merges);
	while ((error = try(run, arg, true)) != NULL);
}

/* Fold the batch in by a function, without the rows that make it fail. */
void
ib_divert_run(IbPath *path, void (*run) (void *), void *arg)
{
	DivertRun  *divert = path->divert;
	ErrorData  *error;

	if (divert == NULL)
	{
		run(arg);
		return;
	}
	cancel(path);
	if (!path->row->diverts)
	{
		run(arg);
		return;
	}
	error = try(run, arg, true);
	if (error != NULL)
		run_without_culprits(path, run, arg, error, !divert->truncated);
}

/* ----------------------------------------------------------------
 *		The backfill
 * ----------------------------------------------------------------
 */

typedef struct Evaluation
{
	IbPath	   *path;
	Tuplestorestate *groups;
	int64		(*evaluate) (IbPath *, Tuplestorestate *);
	int64		ngroups;
} Evaluation;

static void
run_evaluation(void *arg)
{
	Evaluation *evaluation = arg;

	evaluation->ngroups = evaluation->evaluate(evaluation->path, evaluation->groups);
}

/* Evaluate the query over the batch. */
static int64
evaluate_batch(IbPath *path, Tuplestorestate *groups)
{
	Batch	   *batch = ib_inputs_source(path);
	OwnerScope	scope;
	int64		ngroups;

	tuplestore_clear(groups);
	ib_enter_owner(path, &scope);
	ib_offer_relation(BATCH_RELATION, InvalidOid, batch->desc, batch->store, batch->rows);
	ngroups = ib_run_statement(path->statements->transform_plus, SPI_OK_SELECT, groups);
	ib_leave_owner(&scope);
	return ngroups;
}

/* Take the source's rows, as the snapshot sees them, for a batch. */
static void
read_source(IbPath *path, Batch *batch)
{
	PipelineQuery *pq = path->statements->query;
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int attnum = 1; attnum < batch->desc->natts; attnum++)
		appendStringInfo(&sql, "%s, ", bms_is_member(attnum, pq->needed) ?
						 quote_identifier(get_attname(pq->source, attnum, false)) :
						 "NULL::pg_catalog.int4");
	appendStringInfo(&sql, "NULL::pg_catalog.int4 FROM %s", ib_query_relation_name(pq->source));
	batch->store = ib_batch_begin_store(ib_work_mem);
	batch->transactions = NULL;
	batch->ntransactions = 0;
	batch->negatives = 0;
	batch->rows = ib_run_statement(sql.data, SPI_OK_SELECT, batch->store);
}

/* The evaluation failed: repeat it over the rows that do not make it fail. */
static void
evaluate_without_culprits(Evaluation *evaluation, ErrorData *error)
{
	PathInput  *input = linitial(evaluation->path->inputs);
	Batch	   *waiting = input->batch;
	Batch		batch = *waiting;

	read_source(evaluation->path, &batch);
	evaluation->evaluate = evaluate_batch;
	input->batch = &batch;
	PG_TRY();
	{
		run_without_culprits(evaluation->path, run_evaluation, evaluation, error, false);
	}
	PG_FINALLY();
	{
		input->batch = waiting;
	}
	PG_END_TRY();
	ib_batch_end_store(batch.store);
}

/*
 * Evaluate the query over the source by a function, as the owner, without the
 * rows that make it fail.
 */
int64
ib_divert_evaluate(IbPath *path, Tuplestorestate *groups,
				   int64 (*evaluate) (IbPath *, Tuplestorestate *))
{
	Evaluation	evaluation = {.path = path,.groups = groups,.evaluate = evaluate};
	ErrorData  *error;

	if (!path->row->diverts)
		return evaluate(path, groups);
	error = try(run_evaluation, &evaluation, true);
	if (error != NULL)
		evaluate_without_culprits(&evaluation, error);
	return evaluation.ngroups;
}

/* ----------------------------------------------------------------
 *		The source without them
 * ----------------------------------------------------------------
 */

/*
 * A common table expression that stands for a batch: the source without the
 * rows that are left out, numbered in the order of the table.  Of equal rows so
 * many are left out as were.
 */
char *
ib_divert_present_text(PipelineQuery *pq)
{
	char	   *columns = ib_query_needed_columns(pq, "");
	const char *comma = *columns ? ", " : "";
	char	   *image = image_of(pq, "s.");
	char	   *source = ib_query_relation_name(pq->source);

	return psprintf("WITH " BATCH_RELATION " AS MATERIALIZED ("
					"SELECT %1$s%2$s%5$s AS " BATCH_WEIGHT " FROM ("
					"SELECT %1$s FROM %3$s s WHERE %4$s NOT IN (SELECT image FROM " FAILED_RELATION ")"
					" UNION ALL SELECT %1$s FROM (SELECT %1$s%2$s incbatch_image, pg_catalog.row_number()"
					" OVER (PARTITION BY incbatch_image) AS incbatch_copy FROM (SELECT %1$s%2$s %4$s AS incbatch_image FROM %3$s s) i"
					" WHERE incbatch_image IN (SELECT image FROM " FAILED_RELATION ")) c"
					" WHERE incbatch_copy OPERATOR(pg_catalog.>) (SELECT pg_catalog.count(*) FROM " FAILED_RELATION " f"
					" WHERE f.image OPERATOR(pg_catalog.=) c.incbatch_image)) u) ",
					columns, comma, source, image,
					pq->in_order ? "(pg_catalog.row_number() OVER ())::pg_catalog.int4" : "1");
}

/*
 * What a statement that reads the source has to begin with, and read instead;
 * NULL: no row is left out.  As the owner, in SPI.
 */
char *
ib_divert_present(IbPath *path)
{
	if (path->divert == NULL || count_left_out(path->divert) == 0 || MUTANT(DIVERT_SOURCE))
		return NULL;
	offer_left_out(path->divert);
	return ib_divert_present_text(path->statements->query);
}

/* Offer the images of rows that are left out. */
void
ib_divert_offer_images(List *images)
{
	List	   *numbers = NIL;

	for (int i = 0; i < list_length(images); i++)
		numbers = lappend_int(numbers, i);
	offer_images(images, numbers);
}

/* ----------------------------------------------------------------
 *		Storing
 * ----------------------------------------------------------------
 */

static void
store_row(int32 path, const FailedRow *row)
{
	Oid			types[] = {INT4OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
	LSNOID, TIMESTAMPTZOID, BOOLOID};
	Datum		values[] = {
		Int32GetDatum(path),
		CStringGetTextDatum(row->change),
		CStringGetTextDatum(row->row),
		CStringGetTextDatum(row->image),
		CStringGetTextDatum(row->error),
		CStringGetTextDatum(row->sqlstate),
		LSNGetDatum(row->commit_lsn),
		TimestampTzGetDatum(row->commit_time),
		BoolGetDatum(row->left_out),
	};
	char		nulls[] = "         ";

	if (row->commit_lsn == InvalidXLogRecPtr)
		nulls[6] = nulls[7] = 'n';
	ib_spi("INSERT INTO incbatch.failed_row (path, change, \"row\", image, error, sqlstate,"
		   " commit_lsn, commit_time, left_out)"
		   " VALUES ($1, $2, $3::pg_catalog.jsonb, $4, $5, $6, $7, $8, $9)",
		   SPI_OK_INSERT, lengthof(types), types, values, nulls);
}

/* Rows that were left out, and that the source does not have any more. */
static void
store_gone(const DivertRun *divert)
{
	Oid			types[] = {INT8ARRAYOID};
	Datum	   *numbers = palloc(sizeof(Datum) * Max(list_length(divert->rows), 1));
	Datum		values[1];
	int			n = 0;
	ListCell   *lc;

	foreach(lc, divert->rows)
	{
		FailedRow  *row = lfirst(lc);

		if (row->number != 0 && !row->left_out)
			numbers[n++] = Int64GetDatum(row->number);
	}
	if (n == 0)
		return;
	values[0] = PointerGetDatum(construct_array(numbers, n, INT8OID, 8, FLOAT8PASSBYVAL,
												TYPALIGN_DOUBLE));
	ib_spi("UPDATE incbatch.failed_row SET left_out = false"
		   " WHERE number OPERATOR(pg_catalog.=) ANY ($1)",
		   SPI_OK_UPDATE, lengthof(types), types, values, NULL);
}

/* When the run no longer acts as the owner: write what it found. */
void
ib_divert_store(IbPath *path)
{
	DivertRun  *divert = path->divert;
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(path->row->path)};
	ListCell   *lc;

	if (divert == NULL)
		return;
	if (!divert->anew && divert->found == NIL &&
		count_left_out(divert) == path->row->left_out)
		return;
	ib_catalog_see_latest();
	SPI_connect();
	if (divert->anew)
		ib_spi("DELETE FROM incbatch.failed_row WHERE path OPERATOR(pg_catalog.=) $1",
			   SPI_OK_DELETE, 1, types, values, NULL);
	else if (divert->truncated)
		ib_spi("UPDATE incbatch.failed_row SET left_out = false"
			   " WHERE path OPERATOR(pg_catalog.=) $1 AND left_out",
			   SPI_OK_UPDATE, 1, types, values, NULL);
	store_gone(divert);
	foreach(lc, divert->found)
		store_row(path->row->path, lfirst(lc));
	SPI_finish();
	if (list_length(divert->found) > 0)
		ereport(LOG,
				errmsg("incbatch pipeline %d diverted %d changes whose rows make its query fail",
					   path->row->pipeline, list_length(divert->found)),
				errdetail("The first error was: %s", ((FailedRow *) linitial(divert->found))->error));
}

/* How many rows a path leaves out once its run is committed. */
int
ib_divert_left_out(const IbPath *path)
{
	return path->divert == NULL ? path->row->left_out : count_left_out(path->divert);
}
