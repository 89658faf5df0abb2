/*
 * history.c
 *	  The lines of incbatch.batch: kept until writing them costs little beside
 *	  the batches that they tell of, then written together.
 *
 * Lines wait in the worker's memory, for ten seconds at most.  What somebody
 * asked for, by a refresh, is written at once.  Runs of a path with a trigger
 * below a second that follow each other within a second share a line.
 *
 * Decoding empties all caches, so that one small statement costs as much as a
 * small batch does: the rows go into the table without one.  For the same
 * reason no foreign key leads to the path.  A line may come to a path that has
 * just been dropped; nobody sees it, and it goes when the table is trimmed.
 */
#include "incbatch.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "meter.h"

/* Runs of a shorter trigger share lines, which so are no more than that. */
#define LINE_USECS (1000 * 1000)
/* The history may cost this part of what it tells of ... */
#define HISTORY_PART 100
/* ... but is not held back for longer than this. */
#define HISTORY_USECS (10 * 1000 * 1000)

static List *lines = NIL;
static int64 lines_since;		/* monotonic: the first of them */
static bool lines_wanted;		/* somebody may look for one of them */
static int64 last_cost;			/* CPU of writing lines, the last time */
static Oid	table = InvalidOid;
static Oid	sequence = InvalidOid;
static int64 since_trim = PG_INT32_MAX; /* lines; a new worker trims first */

/* ----------------------------------------------------------------
 *		Keeping lines
 * ----------------------------------------------------------------
 */

/* May a run share the line of one before? */
static bool
continues(const BatchRecord *line, const BatchRecord *record)
{
	return line->path == record->path &&
		record->finished_at - line->started_at < LINE_USECS &&
		strcmp(line->reason, "trigger") == 0 &&
		strcmp(record->reason, "trigger") == 0 &&
		strcmp(line->strategy, record->strategy) == 0;
}

static void
add_to_line(BatchRecord *line, const BatchRecord *record)
{
	line->finished_at = record->finished_at;
	line->runs += record->runs;
	line->transactions += record->transactions;
	line->rows_in += record->rows_in;
	line->rows_late += record->rows_late;
	line->rows_ahead += record->rows_ahead;
	line->groups_changed += record->groups_changed;
	line->groups_new += record->groups_new;
	line->ahead_ms += record->ahead_ms;
	line->read_ms += record->read_ms;
	line->transform_ms += record->transform_ms;
	line->merge_ms += record->merge_ms;
	line->commit_ms += record->commit_ms;
	line->cpu_ms += record->cpu_ms;
	line->read_cpu_ms += record->read_cpu_ms;
	line->wal_bytes += record->wal_bytes;
	line->latency_max_usecs = Max(line->latency_max_usecs, record->latency_max_usecs);
}

/* Keep a batch until it is written; returns the line that it is in. */
BatchRecord *
ib_history_keep(const BatchRecord *record, int64 trigger_usecs)
{
	MemoryContext old;
	ListCell   *lc;

	if (lines == NIL)
		lines_since = ib_monotonic_usecs();
	lines_wanted |= strcmp(record->reason, "trigger") != 0;
	foreach(lc, lines)
	{
		if (trigger_usecs < LINE_USECS && continues(lfirst(lc), record))
		{
			add_to_line(lfirst(lc), record);
			return lfirst(lc);
		}
	}
	old = MemoryContextSwitchTo(TopMemoryContext);
	lines = lappend(lines, memcpy(palloc(sizeof(BatchRecord)), record, sizeof(BatchRecord)));
	MemoryContextSwitchTo(old);
	return llast(lines);
}

static bool
is_due(void)
{
	int64		age = ib_monotonic_usecs() - lines_since;
	double		cpu_ms = 0;
	ListCell   *lc;

	if (lines_wanted || age >= HISTORY_USECS)
		return true;
	foreach(lc, lines)
		cpu_ms += ((BatchRecord *) lfirst(lc))->cpu_ms;
	return age >= LINE_USECS && cpu_ms * 1000 >= last_cost * HISTORY_PART;
}

/* ----------------------------------------------------------------
 *		Writing them
 * ----------------------------------------------------------------
 */

static void
set_column(Relation rel, Datum *values, bool *nulls, const char *name, Datum value)
{
	TupleDesc	desc = RelationGetDescr(rel);

	for (int i = 0; i < desc->natts; i++)
	{
		if (strcmp(NameStr(TupleDescAttr(desc, i)->attname), name) == 0)
		{
			values[i] = value;
			nulls[i] = false;
			return;
		}
	}
	elog(ERROR, "column \"%s\" of incbatch.batch does not exist", name);
}

static void
write_line(Relation rel, int64 number, const BatchRecord *line)
{
	Datum		values[MaxHeapAttributeNumber];
	bool		nulls[MaxHeapAttributeNumber];

#define SET(name, value) set_column(rel, values, nulls, name, value)
	memset(nulls, true, sizeof(nulls));
	SET("batch", Int64GetDatum(number));
	SET("path", Int32GetDatum(line->path));
	SET("started_at", TimestampTzGetDatum(line->started_at));
	SET("finished_at", TimestampTzGetDatum(line->finished_at));
	SET("reason", CStringGetTextDatum(line->reason));
	SET("runs", Int64GetDatum(line->runs));
	SET("transactions", Int64GetDatum(line->transactions));
	SET("rows_in", Int64GetDatum(line->rows_in));
	SET("rows_late", Int64GetDatum(line->rows_late));
	SET("rows_ahead", Int64GetDatum(line->rows_ahead));
	SET("groups_changed", Int64GetDatum(line->groups_changed));
	SET("groups_new", Int64GetDatum(line->groups_new));
	SET("ahead_ms", Float8GetDatum(line->ahead_ms));
	SET("read_ms", Float8GetDatum(line->read_ms));
	SET("transform_ms", Float8GetDatum(line->transform_ms));
	SET("merge_ms", Float8GetDatum(line->merge_ms));
	SET("commit_ms", Float8GetDatum(line->commit_ms));
	SET("cpu_ms", Float8GetDatum(line->cpu_ms));
	SET("read_cpu_ms", Float8GetDatum(line->read_cpu_ms));
	SET("wal_bytes", Int64GetDatum(line->wal_bytes));
	SET("latency_max", ib_interval_datum(line->latency_max_usecs));
	SET("strategy", CStringGetTextDatum(line->strategy));
#undef SET
	CatalogTupleInsert(rel, heap_form_tuple(RelationGetDescr(rel), values, nulls));
}

/* Forget the oldest lines, and those of paths that are gone. */
static void
trim(void)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(ib_batch_history)};

	SPI_connect();
	/* materialized, or the last one would be looked for again for each line */
	ib_spi("WITH p AS MATERIALIZED (SELECT a.id,"
		   " (SELECT k.batch FROM incbatch.batch k WHERE k.path OPERATOR(pg_catalog.=) a.id"
		   " ORDER BY k.batch DESC OFFSET $1 LIMIT 1) AS last FROM incbatch.path a)"
		   " DELETE FROM incbatch.batch b USING p"
		   " WHERE b.path OPERATOR(pg_catalog.=) p.id AND b.batch OPERATOR(pg_catalog.<=) p.last",
		   SPI_OK_DELETE, 1, types, values, NULL);
	ib_spi("DELETE FROM incbatch.batch b WHERE NOT EXISTS"
		   " (SELECT FROM incbatch.path a WHERE a.id OPERATOR(pg_catalog.=) b.path)",
		   SPI_OK_DELETE, 0, NULL, NULL, NULL);
	SPI_finish();
}

static void
write_lines(void)
{
	Relation	rel;
	ListCell   *lc;

	/* known for the worker's life: another incbatch has another worker */
	if (!OidIsValid(table))
		table = get_relname_relid("batch", get_namespace_oid(IB_SCHEMA, false));
	rel = try_table_open(table, RowExclusiveLock);
	if (rel == NULL)
		return;
	if (!OidIsValid(sequence))
		sequence = ib_identity_sequence(rel, get_attnum(table, "batch"));
	foreach(lc, lines)
		write_line(rel, nextval_internal(sequence, false), lfirst(lc));
	table_close(rel, NoLock);
	since_trim += list_length(lines);
	if (since_trim > ib_batch_history / 10)
	{
		CommandCounterIncrement();
		trim();
		since_trim = 0;
	}
}

/*
 * Write the waiting lines, if it is time, outside any run.  They are worth no
 * flush of their own: a crash may lose the last ones.
 */
bool
ib_history_write(void)
{
	if (lines == NIL || !is_due())
		return false;
	if (ib_batch_history > 0)
	{
		ib_begin();
		/* lines that somebody else deletes are no error */
		ib_catalog_see_latest();

		/*
		 * as a session would: a lower source changes what the end of the
		 * transaction restores
		 */
		(void) set_config_option("synchronous_commit", "off", PGC_SUSET, PGC_S_SESSION,
								 GUC_ACTION_LOCAL, true, 0, false);
		ib_catalog_expect();
		PushActiveSnapshot(GetTransactionSnapshot());
		write_lines();
		ib_commit();
	}
	list_free_deep(lines);
	lines = NIL;
	lines_wanted = false;
	return true;
}

/* What that cost. */
void
ib_history_note_cost(int64 cpu)
{
	last_cost = cpu;
}
