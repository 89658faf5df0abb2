/*
 * verify.c
 *	  The aggregate against the batch query, both at one instant.
 *
 * Works while writers write and the worker works: the frontier stores the
 * snapshot whose transactions the aggregate contains, so the session reads
 * the aggregate and its frontier under one snapshot of its own, and the batch
 * query under the frontier's.  The session's own snapshot, which must not be
 * younger than both, keeps what they see from vacuum.
 *
 * Where windows close, the batch query also has what was kept out of them:
 * windows that late changes were kept out of, and those that retention has
 * removed, are not compared.  All others must be equal.
 *
 * Each path of a pipeline is compared at its own frontier.  Whoever may read
 * the pipeline may ask; both sides are read as the owner.
 */
#include "incbatch.h"

#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tstoreReceiver.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "tcop/dest.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "catalog.h"
#include "divert.h"
#include "functions.h"
#include "path.h"
#include "query.h"
#include "shmem.h"
#include "watermark.h"

PG_FUNCTION_INFO_V1(ib_verify_pipeline);

#define AGGREGATE_RELATION "incbatch_aggregate_rows"
#define BATCH_RESULT_RELATION "incbatch_batch_rows"
#define LATE_WINDOW_RELATION "incbatch_late_window"

/* What must be known of a pipeline to verify it. */
typedef struct Subject
{
	Oid			relation;
	Oid			definition;
	AttrNumber	event_time;		/* 0: windows never close */
	bool		track_lookups;
	List	   *settings;		/* of char *, name and value alternating */
	PipelineQuery *query;
	List	   *paths;			/* their numbers */
	List	   *tables;			/* their state tables */
} Subject;

static void
find_subject(int32 pipeline, Subject *subject)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(pipeline)};
	MemoryContext caller = CurrentMemoryContext;
	CatalogScope scope;

	memset(subject, 0, sizeof(*subject));
	ib_catalog_enter(&scope);
	if (SPI_execute_with_args("SELECT a.id, a.relation::pg_catalog.oid, p.relation::pg_catalog.oid,"
							  " p.definition::pg_catalog.oid, p.settings,"
							  " CASE WHEN p.lateness IS NULL THEN 0::pg_catalog.int2 ELSE p.event_time END, p.track_lookups"
							  " FROM incbatch.pipeline p JOIN incbatch.path a"
							  " ON a.pipeline OPERATOR(pg_catalog.=) p.id"
							  " WHERE p.id OPERATOR(pg_catalog.=) $1 ORDER BY a.trigger_interval, a.id",
							  1, types, values, NULL, true, 0) != SPI_OK_SELECT ||
		SPI_processed == 0)
		elog(ERROR, "could not read incbatch.pipeline");
	MemoryContextSwitchTo(caller);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		subject->paths = lappend_int(subject->paths, DatumGetInt32(ib_spi_column(i, 1, NULL)));
		subject->tables = lappend_oid(subject->tables, DatumGetObjectId(ib_spi_column(i, 2, NULL)));
	}
	subject->relation = DatumGetObjectId(ib_spi_column(0, 3, NULL));
	subject->definition = DatumGetObjectId(ib_spi_column(0, 4, NULL));
	subject->event_time = DatumGetInt16(ib_spi_column(0, 6, NULL));
	subject->track_lookups = DatumGetBool(ib_spi_column(0, 7, NULL));
	subject->settings = ib_text_list(ib_spi_column(0, 5, NULL));
	ib_catalog_leave(&scope);
}

/*
 * Where windows close, what is compared: not the windows that retention has
 * removed, nor the closed windows that late changes were kept out of.  Read
 * under the active snapshot, which is that of the aggregate.
 */
static char *
compared_windows(Subject *subject, int32 path)
{
	static const char *const names[] = {"removed"};
	WindowKey  *first = linitial(ib_window_keys_of(subject->query, subject->event_time));
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	SPIExecuteOptions options = {.read_only = true};
	TupleDesc	desc = CreateTemplateTupleDesc(1);
	Timestamp	removed = DT_NOBEGIN;

	if (SPI_execute(psprintf("SELECT removed FROM incbatch.path_watermark WHERE path OPERATOR(pg_catalog.=) %d",
							 path), true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read incbatch.path_watermark");
	if (SPI_processed == 1)
		removed = DatumGetTimestamp(ib_spi_column(0, 1, NULL));
	ib_watermark_offer_times(REMOVAL_RELATION,
							 get_atttype(subject->query->source, subject->event_time),
							 names, &removed, 1);

	options.dest = CreateDestReceiver(DestTuplestore);
	SetTuplestoreDestReceiverParams(options.dest, store, CurrentMemoryContext,
									false, NULL, NULL);
	if (SPI_execute_extended(psprintf("SELECT window_start FROM incbatch.late_window WHERE path OPERATOR(pg_catalog.=) %d",
									  path), &options) != SPI_OK_SELECT)
		elog(ERROR, "could not read incbatch.late_window");
	TupleDescInitEntry(desc, 1, "window_start", TIMESTAMPOID, -1, 0);
	ib_offer_relation(LATE_WINDOW_RELATION, InvalidOid, desc, store, SPI_processed);

	return psprintf("%s IS NOT TRUE AND NOT EXISTS (SELECT FROM " LATE_WINDOW_RELATION " l"
					" WHERE %s IS NOT DISTINCT FROM t.%s)",
					ib_watermark_past(subject->query, subject->event_time, "t.", true,
									  REMOVAL_RELATION, REMOVED),
					ib_watermark_from_timestamp(exprType((Node *) first->expr), "l.window_start"),
					quote_identifier(first->output));
}

/*
 * Read rows with the columns of the batch query under a snapshot into a
 * tuplestore, and give it a name.
 */
static void
read_rows(Subject *subject, const char *rows, const char *condition, Snapshot snapshot,
		  const char *name)
{
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	SPIExecuteOptions options = {.read_only = true};
	int			code;

	options.dest = CreateDestReceiver(DestTuplestore);
	SetTuplestoreDestReceiverParams(options.dest, store, CurrentMemoryContext,
									false, NULL, NULL);
	PushActiveSnapshot(snapshot);
	code = SPI_execute_extended(psprintf("SELECT * FROM %s t WHERE %s", rows, condition),
								&options);
	PopActiveSnapshot();
	if (code != SPI_OK_SELECT)
		elog(ERROR, "%s", SPI_result_code_string(code));

	ib_offer_relation(name, subject->definition, NULL, store, SPI_processed);
}

/* Read rows as the owner of a state table, as views would. */
static void
read_as_owner(Subject *subject, Oid table, const char *rows, const char *condition,
			  Snapshot snapshot, const char *name)
{
	Oid			save_userid;
	int			save_context;

	GetUserIdAndSecContext(&save_userid, &save_context);
	SetUserIdAndSecContext(ib_relation_owner(table),
						   save_context | SECURITY_RESTRICTED_OPERATION);
	read_rows(subject, rows, condition, snapshot, name);
	SetUserIdAndSecContext(save_userid, save_context);
}

/*
 * The aggregate as a path has it: what the pipeline's view makes of a state
 * table.  Whoever may read that view may read this.
 */
static void
read_aggregate(Subject *subject, Oid table, const char *condition, Snapshot snapshot)
{
	read_as_owner(subject, table, psprintf("(%s)", ib_query_view_text(subject->query,
																	  ib_query_relation_name(table))),
				  condition, snapshot, AGGREGATE_RELATION);
}

/* The output columns that identify a group, as the arguments of a function. */
static char *
visible_keys(PipelineQuery *pq, const char *qualifier)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, pq->query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, lc);
		ListCell   *lk;

		foreach(lk, pq->keys)
		{
			if (!entry->resjunk && equal(((KeyColumn *) lfirst(lk))->expr, entry->expr))
				appendStringInfo(&text, "%s%s.%s", text.len ? ", " : "", qualifier,
								 quote_identifier(entry->resname));
		}
	}
	/* a query without GROUP BY has one row; its two versions belong together */
	if (text.len == 0 && pq->query->groupClause != NIL)
		return psprintf("%s.*", qualifier);
	return text.data;
}

/* The output columns in a form that can be compared: json and xml as text. */
static char *
comparable_columns(PipelineQuery *pq)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, pq->query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, lc);
		Oid			type = exprType((Node *) entry->expr);
		char	   *name;

		if (entry->resjunk)
			continue;
		name = pstrdup(quote_identifier(entry->resname));
		if (OidIsValid(lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr))
			appendStringInfo(&text, "%s%s", text.len ? ", " : "", name);
		else
			appendStringInfo(&text, "%s%s::pg_catalog.text AS %s",
							 text.len ? ", " : "", name, name);
	}
	return text.data;
}

static char *
difference_text(PipelineQuery *pq, const char *place)
{
	return psprintf("WITH a AS (SELECT %5$s FROM %1$s EXCEPT ALL SELECT %5$s FROM %2$s),"
					" b AS (SELECT %5$s FROM %2$s EXCEPT ALL SELECT %5$s FROM %1$s)"
					" SELECT pg_catalog.concat(CASE WHEN b.row IS NULL THEN 'only in aggregate'"
					" WHEN a.row IS NULL THEN 'only in batch' ELSE 'different' END, %6$s),"
					" a.row, b.row"
					" FROM (SELECT pg_catalog.to_jsonb(a.*) AS row, pg_catalog.jsonb_build_array(%3$s) AS key FROM a) a"
					" FULL JOIN (SELECT pg_catalog.to_jsonb(b.*) AS row, pg_catalog.jsonb_build_array(%4$s) AS key FROM b) b"
					" ON a.key OPERATOR(pg_catalog.=) b.key",
					AGGREGATE_RELATION, BATCH_RESULT_RELATION,
					visible_keys(pq, "a"), visible_keys(pq, "b"),
					comparable_columns(pq), quote_literal_cstr(place));
}

/*
 * Whether the query can be read as at a frontier.  That of a backlog that is
 * eaten in pieces is no snapshot's; and an idle path may have moved on without
 * storing where it is, so that vacuum has removed what its frontier sees.
 */
static bool
can_read_at(const Frontier *frontier, Snapshot snapshot)
{
	return frontier->aligned && !TransactionIdPrecedes(snapshot->xmin, TransactionXmin);
}

/*
 * The batch query over the source without the rows that a path leaves out, for
 * these make it fail; NULL: there are none.  Read under the active snapshot,
 * which is that of the aggregate.
 */
static char *
query_without_failed_rows(Subject *subject, int32 path)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *images = NIL;
	Relation	source;
	int			columns;

	if (SPI_execute(psprintf("SELECT image FROM incbatch.failed_row WHERE left_out AND path OPERATOR(pg_catalog.=) %d",
							 path), true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read incbatch.failed_row");
	if (SPI_processed == 0)
		return NULL;
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContextSwitchTo(caller);
		images = lappend(images, SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1));
	}
	ib_divert_offer_images(images);
	ereport(NOTICE,
			errmsg("%d rows that make the query fail are left out on both sides", list_length(images)),
			errdetail("The query itself fails while the source has them."),
			errhint("TABLE incbatch.failed_rows shows them."));
	source = table_open(subject->query->source, AccessShareLock);
	columns = RelationGetNumberOfAttributes(source) + 1;
	table_close(source, NoLock);
	return psprintf("(%s SELECT * FROM (%s) q)", ib_divert_present_text(subject->query),
					ib_query_over_batch(subject->query, columns));
}

/* Read both sides for a path.  False: refresh again. */
static bool
read_both(Subject *subject, int32 path, Oid table)
{
	Snapshot	now = RegisterSnapshot(GetLatestSnapshot());
	Snapshot	then = NULL;
	Frontier	frontier = {0};
	bool		can_read;
	char	   *condition = "true";
	char	   *without = NULL;
	CatalogScope catalog;

	PushActiveSnapshot(now);
	ib_catalog_become_owner(&catalog);
	if (ib_catalog_fetch_frontier(path, MUTANT(VERIFY_INSTANT) ? InvalidSnapshot : now, &frontier))
		then = ib_frontier_mvcc_snapshot(frontier.snapshot);
	can_read = then != NULL && can_read_at(&frontier, then);
	if (can_read && subject->event_time != InvalidAttrNumber)
		condition = compared_windows(subject, path);
	if (can_read)
		without = query_without_failed_rows(subject, path);
	ib_catalog_become_caller(&catalog);
	PopActiveSnapshot();
	if (can_read)
	{
		read_aggregate(subject, table, condition, now);
		if (without != NULL)
			read_as_owner(subject, table, without, condition, then, BATCH_RESULT_RELATION);
		else
			read_rows(subject, ib_query_relation_name(subject->definition), condition,
					  then, BATCH_RESULT_RELATION);
	}
	UnregisterSnapshot(now);
	return can_read;
}

/* Put the differences of a path into the result. */
static void
verify_path(Subject *subject, int32 pipeline, int32 path, Oid table, ReturnSetInfo *rsinfo)
{
	SPIExecuteOptions options = {.read_only = true};
	const char *place = list_length(subject->paths) == 1 ? "" : psprintf(" (path %d)", path);

	SPI_connect();
	while (!read_both(subject, path, table))
	{
		CHECK_FOR_INTERRUPTS();
		ib_refresh(pipeline);
	}
	options.dest = CreateDestReceiver(DestTuplestore);
	SetTuplestoreDestReceiverParams(options.dest, rsinfo->setResult,
									rsinfo->econtext->ecxt_per_query_memory,
									false, NULL, NULL);
	if (SPI_execute_extended(difference_text(subject->query, place),
							 &options) != SPI_OK_SELECT)
		elog(ERROR, "could not compare aggregate and batch query");
	SPI_finish();
}

Datum
ib_verify_pipeline(PG_FUNCTION_ARGS)
{
	Subject		subject;
	Oid			relation;
	int32		pipeline;
	int			guc_level;
	Oid			save_userid;
	int			save_context;
	ListCell   *lc;
	ListCell   *lt;

	InitMaterializedSRF(fcinfo, 0);
	ib_shmem_require();
	pipeline = ib_readable_pipeline(PG_GETARG_TEXT_PP(0), &relation);
	find_subject(pipeline, &subject);

	/*
	 * as the owner: what the query calls is his, and the caller a superuser
	 * perhaps
	 */
	GetUserIdAndSecContext(&save_userid, &save_context);
	SetUserIdAndSecContext(ib_relation_owner(subject.definition),
						   save_context | SECURITY_RESTRICTED_OPERATION);
	guc_level = NewGUCNestLevel();
	ib_apply_settings(subject.settings);
	ib_apply_settings(ib_name_settings());
	subject.query = ib_query_analyze(subject.definition, subject.track_lookups);
	ib_refresh(pipeline);
	forboth(lc, subject.paths, lt, subject.tables)
		verify_path(&subject, pipeline, lfirst_int(lc), lfirst_oid(lt),
					(ReturnSetInfo *) fcinfo->resultinfo);
	AtEOXact_GUC(false, guc_level);
	SetUserIdAndSecContext(save_userid, save_context);
	return (Datum) 0;
}
