/*
 * consumer.c
 *	  Consumers: named readers of a pipeline, each at the freshness it picked.
 *
 * A consumer has a freshness (the staleness it accepts), a trigger interval
 * (how often its path runs) and a relation of its own, a view.  The functions
 * here write that down and have the pipeline's paths arranged accordingly
 * (family.c).  Each is one transaction of the session: nothing waits for the
 * worker, and ROLLBACK leaves nothing behind.
 *
 * A consumer with emit => 'final' sees closed windows only: its view asks
 * incbatch.closed_before where they end, which reads the watermark of the
 * consumer's path under the snapshot that the state is read under.
 */
#include "incbatch.h"

#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/varlena.h"

#include "family.h"
#include "functions.h"
#include "path.h"
#include "query.h"

PG_FUNCTION_INFO_V1(ib_create_consumer);
PG_FUNCTION_INFO_V1(ib_set_tier);
PG_FUNCTION_INFO_V1(ib_set_freshness);
PG_FUNCTION_INFO_V1(ib_drop_consumer);
PG_FUNCTION_INFO_V1(ib_closed_before);

/* How fresh a consumer wants to be. */
typedef struct Cadence
{
	bool		has_tier;
	int32		tier;
	Interval	freshness;
	Interval	trigger;
} Cadence;

/* What a consumer with emit => 'final' has beside. */
typedef struct Final
{
	Datum		closed_before;	/* see incbatch.consumer */
	char	   *condition;		/* of its view */
} Final;

/* ----------------------------------------------------------------
 *		Freshness and trigger
 * ----------------------------------------------------------------
 */

static int64
interval_usecs(const Interval *interval)
{
	return interval->day * USECS_PER_DAY + interval->time;
}

/* A freshness is a fixed length of time, more than none, up to a year. */
static void
check_freshness(const Interval *freshness)
{
	if (freshness->month != 0)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("a freshness cannot have months or years"),
				errhint("Use days, hours, minutes or seconds."));
	if (freshness->day < 0 || freshness->time < 0 || interval_usecs(freshness) == 0 ||
		freshness->time > (366 - (int64) freshness->day) * USECS_PER_DAY)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("a freshness must be more than 0 and at most 366 days"),
				errdetail("It is the staleness that the consumer accepts; nothing is fresher than the run that brings it."));
}

/* The cadence of a tier as the administrator has it now. */
static void
read_tier(int32 tier, Cadence *cadence)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(tier)};
	CatalogScope scope;

	ib_catalog_enter(&scope);
	ib_spi("SELECT freshness, trigger_interval FROM incbatch.tiers WHERE tier OPERATOR(pg_catalog.=) $1",
		   SPI_OK_SELECT, 1, types, values, NULL);
	if (SPI_processed == 0)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("tier %d does not exist", tier),
				errhint("TABLE incbatch.tiers lists the tiers."));
	cadence->has_tier = true;
	cadence->tier = tier;
	cadence->freshness = *DatumGetIntervalP(ib_spi_column(0, 1, NULL));
	cadence->trigger = *DatumGetIntervalP(ib_spi_column(0, 2, NULL));
	ib_catalog_leave(&scope);
}

/*
 * Complete what a consumer picked: the trigger that keeps a freshness, or the
 * freshness that a trigger gives.
 */
static void
find_cadence(const int32 *tier, const Interval *freshness, const Interval *trigger,
			 Cadence *cadence)
{
	memset(cadence, 0, sizeof(*cadence));
	if (tier == NULL && freshness == NULL && trigger == NULL)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("a consumer needs a tier, a freshness or a trigger interval"),
				errhint("TABLE incbatch.tiers lists the tiers."));
	if (tier != NULL && freshness != NULL)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("a tier and a freshness exclude each other"),
				errdetail("A tier is a named freshness."),
				errhint("Leave one of the two out."));
	if (tier != NULL)
		read_tier(*tier, cadence);
	if (freshness != NULL)
	{
		check_freshness(freshness);
		cadence->freshness = *freshness;
		cadence->trigger.time = interval_usecs(freshness) / 5 * 4;
	}
	if (trigger != NULL)
	{
		ib_check_trigger_interval(unconstify(Interval *, trigger));
		cadence->trigger = *trigger;
	}
	if (tier == NULL && freshness == NULL)
		cadence->freshness.time = Max(interval_usecs(trigger) / 4 * 5,
									  interval_usecs(trigger) + USECS_PER_SEC);
	check_freshness(&cadence->freshness);
	ib_check_trigger_interval(&cadence->trigger);
	if (interval_usecs(&cadence->freshness) < interval_usecs(&cadence->trigger))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("the trigger interval is longer than the freshness"),
				errdetail("Before each run the consumer would be staler than it accepts."),
				errhint("Leave the trigger interval out: then it is 4/5 of the freshness."));
}

/* ----------------------------------------------------------------
 *		The relation of a consumer
 * ----------------------------------------------------------------
 */

/* The name for a consumer's view: as given, or made of the two names. */
static RangeVar *
relation_name(FunctionCallInfo fcinfo, int arg, Oid pipeline_relation, const char *consumer)
{
	RangeVar   *rv;
	Oid			namespace;
	Oid			relation;

	if (!PG_ARGISNULL(arg))
		rv = makeRangeVarFromNameList(textToQualifiedNameList(PG_GETARG_TEXT_PP(arg)));
	else
		rv = makeRangeVar(get_namespace_name(get_rel_namespace(pipeline_relation)),
						  makeObjectName(get_rel_name(pipeline_relation), consumer, NULL), -1);
	namespace = RangeVarGetAndCheckCreationNamespace(rv, NoLock, &relation);
	if (OidIsValid(relation))
		ereport(ERROR,
				errcode(ERRCODE_DUPLICATE_TABLE),
				errmsg("relation \"%s\" already exists", rv->relname),
				errhint("Name another one by the parameter relation, or drop that one."));
	if (isAnyTempNamespace(namespace))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				errmsg("a consumer's relation cannot be temporary"),
				errhint("Create it in an ordinary schema."));
	rv->schemaname = get_namespace_name(namespace);
	return rv;
}

/* Read the query of a view in the place of the view. */
static void
inline_view(Query *query, Oid view)
{
	ListCell   *lc;

	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind != RTE_RELATION || rte->relid != view)
			continue;
		rte->rtekind = RTE_SUBQUERY;
		rte->subquery = ib_family_view_query(view);
		rte->relid = InvalidOid;
		rte->relkind = '\0';
		rte->rellockmode = 0;
		rte->inh = false;
		ib_forget_permissions(query, rte);
	}
}

/*
 * The condition that a group's windows are closed where a consumer's path is,
 * on rows "t" of the pipeline's view, whose columns may have other names than
 * those of the query.
 */
static char *
closed_condition(PipelineQuery *pq, AttrNumber event_time, Oid pipeline_relation,
				 int32 consumer)
{
	StringInfoData condition;
	ListCell   *lc;
	ListCell   *lt;

	initStringInfo(&condition);
	foreach(lc, ib_window_keys_of(pq, event_time))
	{
		WindowKey  *window = lfirst(lc);
		char	   *column = NULL;

		foreach(lt, pq->query->targetList)
		{
			TargetEntry *entry = lfirst_node(TargetEntry, lt);

			if (!entry->resjunk && strcmp(entry->resname, window->output) == 0)
				column = get_attname(pipeline_relation, entry->resno, false);
		}
		appendStringInfo(&condition, "%s t.%s OPERATOR(pg_catalog.<) (SELECT %s)",
						 condition.len ? " OR" : " WHERE", quote_identifier(column),
						 ib_watermark_from_timestamp(exprType((Node *) window->key->expr),
													 psprintf("incbatch.closed_before(%d, %d)", consumer,
															  foreach_current_index(lc) + 1)));
	}
	return condition.data;
}

/* What a consumer with emit => 'final' needs: which windows close, and how. */
static Final *
find_final(int32 pipeline, Oid pipeline_relation, int32 consumer)
{
	Final	   *final = palloc0(sizeof(Final));
	int			guc_level = NewGUCNestLevel();
	Oid			definition;
	AttrNumber	event_time;
	bool		tracks_lookups;
	bool		closes = ib_pipeline_closes(pipeline, &definition, &event_time, &tracks_lookups);
	PipelineQuery *pq;
	Datum	   *values;
	List	   *cuts;

	ib_apply_settings(list_concat(ib_name_settings(), ib_text_settings()));
	pq = ib_query_analyze(definition, false);
	if (ib_window_keys_of(pq, event_time) == NIL)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("emit => 'final' needs a window of event time"),
				errdetail("No column of the result of pipeline \"%s\" is a window that its query groups by, so there is nothing to close.",
						  get_rel_name(pipeline_relation)),
				errhint("Pass emit => 'update'."));
	if (!closes)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("emit => 'final' needs a pipeline with lateness"),
				errdetail("Without lateness the windows of pipeline \"%s\" never close.",
						  get_rel_name(pipeline_relation)),
				errhint("Run incbatch.alter_pipeline with a lateness first."));
	cuts = ib_watermark_cuts(pq, event_time);
	values = palloc(sizeof(Datum) * list_length(cuts));
	for (int i = 0; i < list_length(cuts); i++)
		values[i] = CStringGetTextDatum(list_nth(cuts, i));
	final->closed_before = PointerGetDatum(construct_array(values, list_length(cuts), TEXTOID, -1,
														   false, TYPALIGN_INT));
	final->condition = closed_condition(pq, event_time, pipeline_relation, consumer);
	AtEOXact_GUC(false, guc_level);
	return final;
}

/*
 * Create a consumer's view, as the owner of the pipeline.  It shows what the
 * pipeline's view shows, which it has in itself: from here on each of the two
 * may read another path.
 */
static Oid
create_relation(RangeVar *name, Oid pipeline_relation, Oid owner, const char *condition)
{
	List	   *settings = list_concat(ib_name_settings(), ib_text_settings());
	OwnerScope	scope;
	Query	   *query;
	Oid			view;

	ib_enter_role(owner, settings, &scope);
	ib_spi(psprintf("CREATE VIEW %s AS SELECT * FROM %s t%s",
					quote_qualified_identifier(name->schemaname, name->relname),
					ib_query_relation_name(pipeline_relation), condition),
		   SPI_OK_UTILITY, 0, NULL, NULL, NULL);
	ib_leave_owner(&scope);

	view = RangeVarGetRelid(name, NoLock, false);
	query = ib_family_view_query(view);
	inline_view(query, pipeline_relation);
	ib_family_store_view(view, query);

	/* DROP EXTENSION, and DROP of the pipeline's view, ask for CASCADE */
	ib_depend(view, ExtensionRelationId, get_extension_oid(IB_NAME, false));
	ib_depend(view, RelationRelationId, pipeline_relation);
	return view;
}

/* ----------------------------------------------------------------
 *		The catalog
 * ----------------------------------------------------------------
 */

/* What incbatch.consumer has of a consumer, or 0. */
static int32
find_consumer(int32 pipeline, text *consumer, Oid *relation)
{
	Oid			types[] = {INT4OID, TEXTOID};
	Datum		values[] = {Int32GetDatum(pipeline), PointerGetDatum(consumer)};
	CatalogScope scope;
	int32		id = 0;

	ib_catalog_enter(&scope);
	ib_spi("SELECT id, relation::pg_catalog.oid FROM incbatch.consumer"
		   " WHERE pipeline OPERATOR(pg_catalog.=) $1 AND consumer OPERATOR(pg_catalog.=) $2",
		   SPI_OK_SELECT, 2, types, values, NULL);
	if (SPI_processed == 1)
	{
		id = DatumGetInt32(ib_spi_column(0, 1, NULL));
		*relation = DatumGetObjectId(ib_spi_column(0, 2, NULL));
	}
	ib_catalog_leave(&scope);
	return id;
}

static int32
require_consumer(int32 pipeline, Oid pipeline_relation, text *consumer)
{
	Oid			relation;
	int32		id = find_consumer(pipeline, consumer, &relation);

	if (id == 0)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("consumer \"%s\" of pipeline \"%s\" does not exist",
					   text_to_cstring(consumer), get_rel_name(pipeline_relation)),
				errhint("TABLE incbatch.consumers lists the consumers."));
	return id;
}

static int32
next_number(void)
{
	CatalogScope scope;
	int32		number;

	ib_catalog_enter(&scope);
	ib_spi("SELECT pg_catalog.nextval(pg_catalog.pg_get_serial_sequence('incbatch.consumer', 'id'))::pg_catalog.int4",
		   SPI_OK_SELECT, 0, NULL, NULL, NULL);
	number = DatumGetInt32(ib_spi_column(0, 1, NULL));
	ib_catalog_leave(&scope);
	return number;
}

/*
 * Add a consumer that reads, until the family is arranged, what the pipeline's
 * view reads.
 */
static void
insert_consumer(int32 number, int32 pipeline, text *consumer, Oid relation,
				const Cadence *cadence, const Final *final)
{
	Oid			types[] = {TEXTOID, INT4OID, OIDOID, INT4OID, INTERVALOID, INTERVALOID, TEXTOID,
	TEXTARRAYOID, INT4OID};
	Datum		values[] = {
		PointerGetDatum(consumer),
		Int32GetDatum(pipeline),
		ObjectIdGetDatum(relation),
		Int32GetDatum(cadence->tier),
		IntervalPGetDatum(&cadence->freshness),
		IntervalPGetDatum(&cadence->trigger),
		CStringGetTextDatum(final ? "final" : "update"),
		final ? final->closed_before : (Datum) 0,
		Int32GetDatum(number),
	};
	char		nulls[] = "         ";

	if (!cadence->has_tier)
		nulls[3] = 'n';
	if (final == NULL)
		nulls[7] = 'n';
	ib_change_catalog("INSERT INTO incbatch.consumer (id, consumer, pipeline, path, relation, tier,"
					  " freshness, trigger_interval, emit, closed_before) OVERRIDING SYSTEM VALUE"
					  " SELECT $9, $1, $2, a.id, $3, $4, $5, $6, $7, $8 FROM incbatch.path a"
					  " WHERE a.pipeline OPERATOR(pg_catalog.=) $2 ORDER BY a.trigger_interval, a.id LIMIT 1",
					  SPI_OK_INSERT, lengthof(types), types, values, nulls);
}

static void
change_cadence(FunctionCallInfo fcinfo, const Cadence *cadence)
{
	Oid			relation;
	int32		pipeline = ib_family_lock(PG_GETARG_TEXT_PP(1), &relation);
	Oid			types[] = {INT4OID, INT4OID, INTERVALOID, INTERVALOID};
	Datum		values[] = {
		Int32GetDatum(require_consumer(pipeline, relation, PG_GETARG_TEXT_PP(0))),
		Int32GetDatum(cadence->tier),
		IntervalPGetDatum(&cadence->freshness),
		IntervalPGetDatum(&cadence->trigger),
	};
	char		nulls[] = "    ";

	if (!cadence->has_tier)
		nulls[1] = 'n';
	ib_change_catalog("UPDATE incbatch.consumer SET tier = $2, freshness = $3, trigger_interval = $4"
					  " WHERE id OPERATOR(pg_catalog.=) $1",
					  SPI_OK_UPDATE, lengthof(types), types, values, nulls);
	ib_family_arrange(pipeline, relation, NIL);
}

/* ----------------------------------------------------------------
 *		The SQL functions
 * ----------------------------------------------------------------
 */

static void
check_names(FunctionCallInfo fcinfo)
{
	ib_refuse_null(fcinfo, 0, "consumer");
	ib_refuse_null(fcinfo, 1, "pipeline");
	ib_shmem_require();
}

/* Does a consumer want final rows only? */
static bool
check_emit(const char *emit)
{
	if (strcmp(emit, "update") != 0 && strcmp(emit, "final") != 0)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("emit \"%s\" does not exist", emit),
				errhint("It is 'update' or 'final'."));
	return strcmp(emit, "final") == 0;
}

/*
 * incbatch.create_consumer: see sql/incbatch--1.0.sql.
 */
Datum
ib_create_consumer(PG_FUNCTION_ARGS)
{
	enum
	{
		CONSUMER, PIPELINE, TIER, FRESHNESS, TRIGGER, EMIT, RELATION
	};
	Oid			pipeline_relation;
	Oid			relation;
	int32		pipeline;
	int32		tier = PG_ARGISNULL(TIER) ? 0 : PG_GETARG_INT32(TIER);
	Cadence		cadence;
	int32		number;
	bool		is_final;
	Final	   *final;
	char	   *name;
	RangeVar   *rv;

	check_names(fcinfo);
	ib_refuse_null(fcinfo, EMIT, "emit");
	is_final = check_emit(text_to_cstring(PG_GETARG_TEXT_PP(EMIT)));
	find_cadence(PG_ARGISNULL(TIER) ? NULL : &tier,
				 PG_ARGISNULL(FRESHNESS) ? NULL : PG_GETARG_INTERVAL_P(FRESHNESS),
				 PG_ARGISNULL(TRIGGER) ? NULL : PG_GETARG_INTERVAL_P(TRIGGER), &cadence);
	name = text_to_cstring(PG_GETARG_TEXT_PP(CONSUMER));
	if (*name == '\0')
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("a consumer's name must not be empty"));

	pipeline = ib_family_lock(PG_GETARG_TEXT_PP(PIPELINE), &pipeline_relation);
	if (find_consumer(pipeline, PG_GETARG_TEXT_PP(CONSUMER), &relation) != 0)
		ereport(ERROR,
				errcode(ERRCODE_DUPLICATE_OBJECT),
				errmsg("consumer \"%s\" of pipeline \"%s\" already exists",
					   name, get_rel_name(pipeline_relation)),
				errhint("incbatch.set_tier and incbatch.set_freshness change it."));
	rv = relation_name(fcinfo, RELATION, pipeline_relation, name);
	number = next_number();
	final = is_final ? find_final(pipeline, pipeline_relation, number) : NULL;
	relation = create_relation(rv, pipeline_relation, ib_family_owner(pipeline, pipeline_relation),
							   final ? final->condition : "");
	insert_consumer(number, pipeline, PG_GETARG_TEXT_PP(CONSUMER), relation, &cadence, final);
	ib_family_arrange(pipeline, pipeline_relation, NIL);
	PG_RETURN_OID(relation);
}

Datum
ib_set_tier(PG_FUNCTION_ARGS)
{
	Cadence		cadence;
	int32		tier;

	check_names(fcinfo);
	ib_refuse_null(fcinfo, 2, "tier");
	tier = PG_GETARG_INT32(2);
	find_cadence(&tier, NULL, NULL, &cadence);
	change_cadence(fcinfo, &cadence);
	PG_RETURN_VOID();
}

Datum
ib_set_freshness(PG_FUNCTION_ARGS)
{
	Cadence		cadence;

	check_names(fcinfo);
	ib_refuse_null(fcinfo, 2, "freshness");
	find_cadence(NULL, PG_GETARG_INTERVAL_P(2), NULL, &cadence);
	change_cadence(fcinfo, &cadence);
	PG_RETURN_VOID();
}

Datum
ib_drop_consumer(PG_FUNCTION_ARGS)
{
	Oid			types[] = {INT4OID};
	Datum		values[1];
	Oid			pipeline_relation;
	Oid			relation;
	int32		pipeline;
	int32		consumer;

	check_names(fcinfo);
	pipeline = ib_family_lock(PG_GETARG_TEXT_PP(1), &pipeline_relation);
	consumer = find_consumer(pipeline, PG_GETARG_TEXT_PP(0), &relation);
	if (consumer == 0 && !PG_ARGISNULL(2) && PG_GETARG_BOOL(2))
	{
		ereport(NOTICE,
				errmsg("consumer \"%s\" of pipeline \"%s\" does not exist, skipping",
					   text_to_cstring(PG_GETARG_TEXT_PP(0)), get_rel_name(pipeline_relation)));
		PG_RETURN_BOOL(false);
	}
	values[0] = Int32GetDatum(require_consumer(pipeline, pipeline_relation, PG_GETARG_TEXT_PP(0)));
	LockRelationOid(relation, AccessExclusiveLock);
	ib_change_catalog("DELETE FROM incbatch.consumer WHERE id OPERATOR(pg_catalog.=) $1",
					  SPI_OK_DELETE, 1, types, values, NULL);
	ib_family_arrange(pipeline, pipeline_relation, list_make1_oid(relation));
	PG_RETURN_BOOL(true);
}

/* ----------------------------------------------------------------
 *		What closed windows are
 * ----------------------------------------------------------------
 */

/*
 * What incbatch.closed_before must know, as the calling query's snapshot shows
 * it.  False: the consumer's path has no watermark.
 */
static bool
read_closed(int32 consumer, int32 number, char **sql, List **settings, Datum *closed, Oid *relation)
{
	Oid			types[] = {INT4OID, INT4OID};
	Datum		values[] = {Int32GetDatum(consumer), Int32GetDatum(number)};
	MemoryContext caller = CurrentMemoryContext;
	CatalogScope scope;
	bool		isnull;
	bool		found;

	ib_catalog_enter(&scope);
	if (SPI_execute_with_args("SELECT c.closed_before[$2], w.closed, p.settings, c.relation::pg_catalog.oid FROM incbatch.consumer c"
							  " JOIN incbatch.pipeline p ON p.id OPERATOR(pg_catalog.=) c.pipeline"
							  " JOIN incbatch.path_watermark w ON w.path OPERATOR(pg_catalog.=) c.path"
							  " WHERE c.id OPERATOR(pg_catalog.=) $1 AND c.closed_before[$2] IS NOT NULL",
							  2, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read incbatch.consumer");
	MemoryContextSwitchTo(caller);
	found = SPI_processed == 1;
	if (found)
	{
		HeapTuple	tuple = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;

		*sql = TextDatumGetCString(SPI_getbinval(tuple, desc, 1, &isnull));
		*closed = SPI_getbinval(tuple, desc, 2, &isnull);
		*relation = DatumGetObjectId(SPI_getbinval(tuple, desc, 4, &isnull));
		*settings = ib_text_list(SPI_getbinval(tuple, desc, 3, &isnull));
	}
	ib_catalog_leave(&scope);
	return found;
}

/*
 * incbatch.closed_before: evaluated with the settings of the pipeline, for its
 * windows do not depend on the reader's time zone; and as the owner, for the
 * size of a window may be a function of his.  It tells a time and no more, so
 * anybody may ask: who reads the relation through a view of somebody else's
 * has no privilege on it.
 */
Datum
ib_closed_before(PG_FUNCTION_ARGS)
{
	Oid			types[] = {TIMESTAMPOID};
	char	   *sql;
	List	   *settings;
	Datum		closed;
	Datum		result;
	bool		isnull;
	Oid			relation;
	OwnerScope	scope;

	if (!read_closed(PG_GETARG_INT32(0), PG_GETARG_INT32(1), &sql, &settings, &closed, &relation))
		PG_RETURN_NULL();
	ib_enter_role(ib_relation_owner(relation), list_concat(settings, ib_name_settings()), &scope);
	if (SPI_execute_with_args(sql, 1, types, &closed, NULL, true, 1) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "could not compute which windows are closed");
	result = ib_spi_column(0, 1, &isnull);
	ib_leave_owner(&scope);
	if (isnull)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(result);
}
