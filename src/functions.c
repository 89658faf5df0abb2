/*
 * functions.c
 *	  The SQL functions that define, change and drive pipelines: check
 *	  arguments and privileges, then do one thing.
 *
 * They write the catalog and return; the worker, woken when the transaction
 * commits, does the rest.  So each is transactional, and none waits for the
 * worker but refresh_pipeline and wait_for, which hold no XID while they do.
 */
#include "incbatch.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "commands/extension.h"
#include "commands/defrem.h"
#include "commands/view.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/analyze.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/pg_lsn.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"
#include "utils/wait_event.h"

#include "catalog.h"
#include "decode.h"
#include "functions.h"
#include "path.h"
#include "query.h"
#include "shmem.h"

PG_FUNCTION_INFO_V1(ib_create_pipeline);
PG_FUNCTION_INFO_V1(ib_alter_pipeline);
PG_FUNCTION_INFO_V1(ib_drop_pipeline);
PG_FUNCTION_INFO_V1(ib_pause_pipeline);
PG_FUNCTION_INFO_V1(ib_resume_pipeline);
PG_FUNCTION_INFO_V1(ib_rebuild_pipeline);
PG_FUNCTION_INFO_V1(ib_refresh_pipeline);
PG_FUNCTION_INFO_V1(ib_wait_for);
PG_FUNCTION_INFO_V1(ib_on_drop);
PG_FUNCTION_INFO_V1(ib_on_rewrite);

/* While waiting for the worker, look this often whether it still can. */
#define WAIT_CHECK_MS 200

/* Settings that the meaning of a query can depend on; stored with it. */
static const char *const stored_settings[] = {
	"TimeZone", "DateStyle", "IntervalStyle", "extra_float_digits",
	"bytea_output", "lc_monetary", "lc_numeric", "lc_time",
	"default_text_search_config", "xmlbinary", "xmloption",
};

/* Positions of create_pipeline's parameters. */
enum
{
	ARG_NAME, ARG_QUERY, ARG_EVENT_TIME, ARG_LATENESS, ARG_LATE_POLICY,
	ARG_TRIGGER, ARG_APPEND_ONLY, ARG_TRACK_LOOKUPS, ARG_RETENTION,
	ARG_INITIALIZE, ARG_ON_ERROR, ARG_ON_LOST, ARG_IF_NOT_EXISTS
};

/* ----------------------------------------------------------------
 *		Arguments
 * ----------------------------------------------------------------
 */

static void
refuse_null(FunctionCallInfo fcinfo, int arg, const char *name)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("parameter \"%s\" must not be null", name));
}

static void
refuse_parameter(const char *name, const char *value)
{
	ereport(ERROR,
			errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			errmsg("parameter \"%s\" is not supported yet", name),
			errdetail("The only accepted value is %s.", value),
			errhint("Leave the parameter out."));
}

static void
require_text(FunctionCallInfo fcinfo, int arg, const char *name, const char *value)
{
	if (PG_ARGISNULL(arg) ||
		strcmp(text_to_cstring(PG_GETARG_TEXT_PP(arg)), value) != 0)
		refuse_parameter(name, psprintf("'%s'", value));
}

/* Parameters that the contract names and the engine does not keep yet. */
static void
refuse_unsupported_parameters(FunctionCallInfo fcinfo)
{
	if (!PG_ARGISNULL(ARG_LATENESS))
		refuse_parameter("lateness", "NULL");
	require_text(fcinfo, ARG_LATE_POLICY, "late_policy", "divert");
	if (PG_GETARG_BOOL(ARG_TRACK_LOOKUPS))
		refuse_parameter("track_lookups", "false");
	if (!PG_ARGISNULL(ARG_RETENTION))
		refuse_parameter("retention", "NULL");
	require_text(fcinfo, ARG_ON_ERROR, "on_error", "stop");
	require_text(fcinfo, ARG_ON_LOST, "on_lost", "stop");
}

/* A trigger interval is a fixed length of time, from 0 to a year. */
static void
check_trigger_interval(Interval *interval)
{
	if (interval->month != 0)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("a trigger interval cannot have months or years"),
				errhint("Use days, hours, minutes or seconds."));
	if (interval->day < 0 || interval->time < 0 ||
		interval->day > 366 || interval->time > 366 * USECS_PER_DAY)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("a trigger interval must be between 0 and 366 days"),
				errhint("'0' runs as soon as there is work."));
}

/* The pipeline that a caller names and may change. */
static int32
own_pipeline(text *name, Oid *relation)
{
	int32		pipeline = ib_catalog_find_pipeline(name, relation, false);

	if (!ib_relation_ownercheck(*relation, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_VIEW, get_rel_name(*relation));
	return pipeline;
}

/* Run a statement on incbatch's tables, as their owner, and tell the worker. */
static void
change_catalog(const char *sql, int expected, int nargs, const Oid *types,
			   const Datum *values, const char *nulls)
{
	Oid			save_userid;
	int			save_context;

	ib_catalog_become_owner(&save_userid, &save_context);
	SPI_connect();
	ib_spi(sql, expected, nargs, types, values, nulls);
	SPI_finish();
	SetUserIdAndSecContext(save_userid, save_context);
	ib_wake_worker_at_commit();
}

/* ----------------------------------------------------------------
 *		create_pipeline
 * ----------------------------------------------------------------
 */

/* The one SELECT that the text must be. */
static RawStmt *
parse_query(const char *query)
{
	List	   *statements = raw_parser(query, RAW_PARSE_DEFAULT);
	RawStmt    *raw = statements == NIL ? NULL : linitial_node(RawStmt, statements);

	if (list_length(statements) != 1 || !IsA(raw->stmt, SelectStmt) ||
		castNode(SelectStmt, raw->stmt)->intoClause != NULL)
		ereport(ERROR,
				errcode(ERRCODE_SYNTAX_ERROR),
				errmsg("a pipeline's query must be one SELECT"),
				errhint("Pass the SELECT of the nightly batch, without INSERT or INTO."));
	return raw;
}

/* An error's position is one in the query, not in the call. */
static void
locate_error(void *query)
{
	(void) function_parse_error_transpose(query);
}

/* Only the session that made a temporary table can read it. */
static void
refuse_temporary_tables(RawStmt *raw, const char *query)
{
	if (isQueryUsingTempRelation(parse_analyze_fixedparams(copyObject(raw), query,
														   NULL, 0, NULL)))
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("a pipeline's query cannot read temporary tables"),
				errdetail("The worker, which folds changes in, is another session."),
				errhint("Use ordinary tables."));
}

/* Store the query as a view: names are resolved, dependencies recorded. */
static Oid
create_definition(RangeVar *name, const char *query)
{
	ErrorContextCallback locate = {
		.previous = error_context_stack,
		.callback = locate_error,
		.arg = unconstify(char *, query),
	};
	RawStmt    *raw;
	ViewStmt   *stmt = makeNode(ViewStmt);
	ObjectAddress address;

	error_context_stack = &locate;
	raw = parse_query(query);
	refuse_temporary_tables(raw, query);
	stmt->view = name;
	stmt->query = raw->stmt;
	stmt->withCheckOption = NO_CHECK_OPTION;
	address = DefineView(stmt, query, raw->stmt_location, raw->stmt_len);
	error_context_stack = locate.previous;
	CommandCounterIncrement();
	return address.objectId;
}

/*
 * Old values must come with each UPDATE and DELETE, or the pipeline could not
 * take a row out again.
 */
static void
check_replica_identity(PipelineQuery *pq)
{
	Relation	rel = table_open(pq->source, AccessShareLock);
	bool		told = rel->rd_rel->relreplident == REPLICA_IDENTITY_FULL;

	if (!told)
	{
		Bitmapset  *identity = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_IDENTITY_KEY);
		int			attnum = -1;

		told = true;
		while ((attnum = bms_next_member(pq->needed, attnum)) >= 0)
			told = told && bms_is_member(attnum - FirstLowInvalidHeapAttributeNumber, identity);
	}
	if (!told)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("the replica identity of table \"%s\" does not tell old values",
					   RelationGetRelationName(rel)),
				errdetail("After an UPDATE or DELETE the pipeline could not take the old row out of its group."),
				errhint("Run ALTER TABLE %s REPLICA IDENTITY FULL; or pass append_only => true if the table only ever gets INSERTs.",
						ib_query_relation_name(pq->source)));
	table_close(rel, NoLock);
}

/* The column with the event time: as given, or that of the window. */
static char *
find_event_time(FunctionCallInfo fcinfo, PipelineQuery *pq)
{
	char	   *name;
	AttrNumber	attnum;
	Oid			type;

	if (PG_ARGISNULL(ARG_EVENT_TIME))
		return pq->event_time;
	name = text_to_cstring(PG_GETARG_TEXT_PP(ARG_EVENT_TIME));
	attnum = get_attnum(pq->source, name);
	if (attnum <= 0)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_COLUMN),
				errmsg("event_time column \"%s\" does not exist in table \"%s\"",
					   name, get_rel_name(pq->source)),
				errhint("Name a column of the source, the first table of FROM."));
	type = get_atttype(pq->source, attnum);
	if (type != TIMESTAMPOID && type != TIMESTAMPTZOID && type != DATEOID)
		ereport(ERROR,
				errcode(ERRCODE_DATATYPE_MISMATCH),
				errmsg("event_time column \"%s\" is of type %s",
					   name, format_type_be(type)),
				errhint("It must be a timestamp, timestamp with time zone or date."));
	return name;
}

static Datum
current_settings(void)
{
	Datum		values[lengthof(stored_settings) * 2];

	for (int i = 0; i < lengthof(stored_settings); i++)
	{
		values[2 * i] = CStringGetTextDatum(stored_settings[i]);
		values[2 * i + 1] =
			CStringGetTextDatum(GetConfigOption(stored_settings[i], false, false));
	}
	return PointerGetDatum(construct_array(values, lengthof(values), TEXTOID, -1,
										   false, TYPALIGN_INT));
}

static void
run_ddl(const char *sql)
{
	int			code = SPI_execute(sql, false, 0);

	if (code != SPI_OK_UTILITY)
		elog(ERROR, "%s: %s", SPI_result_code_string(code), sql);
}

/* Make the state table, its index and the view that dashboards read. */
static void
create_relations(PipelineQuery *pq, const char *state_table, const char *view)
{
	SPI_connect();
	run_ddl(ib_delta_state_definition(pq, state_table));
	run_ddl(ib_delta_state_index(pq, state_table));
	run_ddl(psprintf("CREATE VIEW %s AS %s", view, ib_query_view_text(pq, state_table)));
	SPI_finish();
}

/* Whoever may not read the tables of the query learns it now. */
static void
check_query_runs(const char *definition)
{
	int			code;

	SPI_connect();
	code = SPI_execute(psprintf("SELECT * FROM %s LIMIT 0", definition), true, 0);
	if (code != SPI_OK_SELECT)
		elog(ERROR, "%s", SPI_result_code_string(code));
	SPI_finish();
}

/*
 * DROP EXTENSION finds the pipeline's relations, and asks for CASCADE; so does
 * DROP of what the query reads, for all that is built on the pipeline.
 */
static void
record_dependencies(Oid relation, Oid definition, Oid state_table)
{
	Oid			relations[] = {relation, definition, state_table};
	ObjectAddress extension;
	ObjectAddress address;
	ObjectAddress batch;

	ObjectAddressSet(extension, ExtensionRelationId, get_extension_oid(IB_NAME, false));
	for (int i = 0; i < lengthof(relations); i++)
	{
		ObjectAddressSet(address, RelationRelationId, relations[i]);
		recordDependencyOn(&address, &extension, DEPENDENCY_NORMAL);
	}
	ObjectAddressSet(address, RelationRelationId, relation);
	ObjectAddressSet(batch, RelationRelationId, definition);
	recordDependencyOn(&address, &batch, DEPENDENCY_NORMAL);
}

static void
insert_pipeline(FunctionCallInfo fcinfo, PipelineQuery *pq, Oid relation,
				Oid definition, Oid state_table)
{
	char	   *event_time = find_event_time(fcinfo, pq);
	Oid			types[] = {OIDOID, OIDOID, OIDOID, TEXTOID, TEXTARRAYOID, TEXTOID,
	INTERVALOID, BOOLOID, BOOLOID, TEXTOID, OIDOID};
	Datum		values[] = {
		ObjectIdGetDatum(relation),
		ObjectIdGetDatum(definition),
		ObjectIdGetDatum(pq->source),
		PG_GETARG_DATUM(ARG_QUERY),
		current_settings(),
		event_time ? CStringGetTextDatum(event_time) : (Datum) 0,
		PG_GETARG_DATUM(ARG_TRIGGER),
		PG_GETARG_DATUM(ARG_APPEND_ONLY),
		PG_GETARG_DATUM(ARG_INITIALIZE),
		CStringGetTextDatum(pq->may_recompute ? "delta, recompute" : "delta"),
		ObjectIdGetDatum(state_table),
	};
	char		nulls[] = "           ";

	if (event_time == NULL)
		nulls[5] = 'n';
	change_catalog("WITH p AS (INSERT INTO incbatch.pipeline (relation, definition, source, query,"
				   " settings, event_time, trigger_interval, append_only, initialize, strategy)"
				   " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING id, trigger_interval)"
				   " INSERT INTO incbatch.path (pipeline, relation, trigger_interval)"
				   " SELECT id, $11, trigger_interval FROM p",
				   SPI_OK_INSERT, lengthof(types), types, values, nulls);
}

/* A name in the same schema for one of the pipeline's other relations. */
static RangeVar *
sibling_name(const char *schema, const char *name, const char *label)
{
	return makeRangeVar(pstrdup(schema),
						ChooseRelationName(name, NULL, label,
										   get_namespace_oid(schema, false), false),
						-1);
}

/*
 * incbatch.create_pipeline: see sql/incbatch--1.0.sql.
 */
Datum
ib_create_pipeline(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {
		"name", "query", NULL, NULL, "late_policy", "trigger_interval",
		"append_only", "track_lookups", NULL, "initialize", "on_error",
		"on_lost", "if_not_exists"
	};
	RangeVar   *rv;
	char	   *schema;
	RangeVar   *definition_name;
	RangeVar   *state_name;
	Oid			relation;
	Oid			definition;
	Oid			state_table;
	PipelineQuery *pq;
	int			guc_level;

	for (int i = 0; i < lengthof(names); i++)
	{
		if (names[i] != NULL)
			refuse_null(fcinfo, i, names[i]);
	}
	ib_shmem_require();
	refuse_unsupported_parameters(fcinfo);
	check_trigger_interval(PG_GETARG_INTERVAL_P(ARG_TRIGGER));

	rv = makeRangeVarFromNameList(textToQualifiedNameList(PG_GETARG_TEXT_PP(ARG_NAME)));
	if (PG_GETARG_BOOL(ARG_IF_NOT_EXISTS) &&
		ib_catalog_find_pipeline(PG_GETARG_TEXT_PP(ARG_NAME), &relation, true) != 0)
	{
		ereport(NOTICE,
				errcode(ERRCODE_DUPLICATE_OBJECT),
				errmsg("pipeline \"%s\" already exists, skipping", rv->relname));
		PG_RETURN_OID(relation);
	}
	schema = get_namespace_name(RangeVarGetAndCheckCreationNamespace(rv, NoLock, &relation));
	if (OidIsValid(relation))
		ereport(ERROR,
				errcode(ERRCODE_DUPLICATE_TABLE),
				errmsg("relation \"%s\" already exists", rv->relname),
				errhint("Choose another name for the pipeline, or drop the relation."));
	if (isAnyTempNamespace(get_namespace_oid(schema, false)))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				errmsg("a pipeline cannot be temporary"),
				errdetail("The worker, which folds changes in, is another session."),
				errhint("Create it in an ordinary schema."));
	rv->schemaname = schema;

	definition_name = sibling_name(schema, rv->relname, "batch");
	definition = create_definition(definition_name,
								   text_to_cstring(PG_GETARG_TEXT_PP(ARG_QUERY)));

	/* from here on names are written in full */
	guc_level = NewGUCNestLevel();
	ib_apply_settings(list_make2("search_path", "pg_catalog, pg_temp"));
	pq = ib_query_analyze(ib_query_of_view(definition));
	if (!PG_GETARG_BOOL(ARG_APPEND_ONLY))
		check_replica_identity(pq);
	check_query_runs(ib_query_relation_name(definition));

	state_name = sibling_name(schema, rv->relname, "state");
	create_relations(pq, quote_qualified_identifier(schema, state_name->relname),
					 quote_qualified_identifier(schema, rv->relname));
	state_table = RangeVarGetRelid(state_name, NoLock, false);
	relation = RangeVarGetRelid(rv, NoLock, false);
	insert_pipeline(fcinfo, pq, relation, definition, state_table);
	record_dependencies(relation, definition, state_table);
	AtEOXact_GUC(false, guc_level);
	PG_RETURN_OID(relation);
}

/* ----------------------------------------------------------------
 *		Changing pipelines
 * ----------------------------------------------------------------
 */

Datum
ib_alter_pipeline(PG_FUNCTION_ARGS)
{
	static const char *const unsupported[] = {"lateness", "late_policy", "retention"};
	Oid			relation;
	Oid			types[] = {INT4OID, INTERVALOID};
	Datum		values[2];

	refuse_null(fcinfo, 0, "name");
	ib_shmem_require();
	for (int i = 0; i < lengthof(unsupported); i++)
	{
		if (!PG_ARGISNULL(i + 2))
			refuse_parameter(unsupported[i], "NULL, which changes nothing");
	}
	values[0] = Int32GetDatum(own_pipeline(PG_GETARG_TEXT_PP(0), &relation));
	if (!PG_ARGISNULL(1))
	{
		check_trigger_interval(PG_GETARG_INTERVAL_P(1));
		values[1] = PG_GETARG_DATUM(1);
		change_catalog("WITH p AS (UPDATE incbatch.pipeline SET trigger_interval = $2"
					   " WHERE id OPERATOR(pg_catalog.=) $1)"
					   " UPDATE incbatch.path SET trigger_interval = $2"
					   " WHERE pipeline OPERATOR(pg_catalog.=) $1",
					   SPI_OK_UPDATE, 2, types, values, NULL);
	}
	PG_RETURN_VOID();
}

static void
set_paused(FunctionCallInfo fcinfo, bool paused)
{
	Oid			relation;
	Oid			types[] = {INT4OID, BOOLOID};
	Datum		values[2];

	refuse_null(fcinfo, 0, "name");
	ib_shmem_require();
	values[0] = Int32GetDatum(own_pipeline(PG_GETARG_TEXT_PP(0), &relation));
	values[1] = BoolGetDatum(paused);
	change_catalog("UPDATE incbatch.pipeline SET paused = $2 WHERE id OPERATOR(pg_catalog.=) $1",
				   SPI_OK_UPDATE, 2, types, values, NULL);
}

Datum
ib_pause_pipeline(PG_FUNCTION_ARGS)
{
	set_paused(fcinfo, true);
	PG_RETURN_VOID();
}

/* Go on after a pause, and try again what has failed. */
Datum
ib_resume_pipeline(PG_FUNCTION_ARGS)
{
	Oid			relation;
	Oid			types[] = {INT4OID};
	Datum		values[1];

	set_paused(fcinfo, false);
	values[0] = Int32GetDatum(own_pipeline(PG_GETARG_TEXT_PP(0), &relation));
	change_catalog("UPDATE incbatch.path a SET last_error = NULL,"
				   " state_since = pg_catalog.clock_timestamp(),"
				   " state = CASE WHEN EXISTS (SELECT FROM incbatch.frontier f"
				   " WHERE f.path OPERATOR(pg_catalog.=) a.id) THEN 'running' ELSE 'initializing' END"
				   " WHERE a.pipeline OPERATOR(pg_catalog.=) $1"
				   " AND a.state OPERATOR(pg_catalog.=) 'failed'",
				   SPI_OK_UPDATE, 1, types, values, NULL);
	PG_RETURN_VOID();
}

Datum
ib_rebuild_pipeline(PG_FUNCTION_ARGS)
{
	Oid			relation;
	Oid			types[] = {INT4OID};
	Datum		values[1];

	refuse_null(fcinfo, 0, "name");
	ib_shmem_require();
	values[0] = Int32GetDatum(own_pipeline(PG_GETARG_TEXT_PP(0), &relation));
	change_catalog("UPDATE incbatch.path SET state = 'initializing', last_error = NULL,"
				   " state_since = pg_catalog.clock_timestamp()"
				   " WHERE pipeline OPERATOR(pg_catalog.=) $1",
				   SPI_OK_UPDATE, 1, types, values, NULL);
	PG_RETURN_VOID();
}

/* Drop the relations of a pipeline whose rows are gone from the catalog. */
static void
drop_relations(List *relations)
{
	ObjectAddresses *objects = new_object_addresses();
	ListCell   *lc;

	foreach(lc, relations)
	{
		ObjectAddress address;

		/* whoever dropped one of them already left no row in pg_class */
		if (get_rel_name(lfirst_oid(lc)) == NULL)
			continue;
		ObjectAddressSet(address, RelationRelationId, lfirst_oid(lc));
		add_exact_object_address(&address, objects);
	}
	performMultipleDeletions(objects, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
	free_object_addresses(objects);
}

/*
 * Take pipelines out of the catalog and return their relations, locked: the
 * state tables first, which a run locks before it writes the catalog.
 */
static List *
forget_pipelines(Datum pipelines)
{
	Oid			types[] = {INT4ARRAYOID};
	List	   *relations = NIL;
	MemoryContext caller = CurrentMemoryContext;
	Oid			save_userid;
	int			save_context;
	ListCell   *lc;

	ib_catalog_become_owner(&save_userid, &save_context);
	SPI_connect();
	ib_spi("SELECT a.relation::pg_catalog.oid AS oid FROM incbatch.path a"
		   " WHERE a.pipeline OPERATOR(pg_catalog.=) ANY ($1)"
		   " UNION ALL SELECT u.oid FROM incbatch.pipeline p"
		   " CROSS JOIN LATERAL (VALUES (p.relation::pg_catalog.oid), (p.definition::pg_catalog.oid)) u(oid)"
		   " WHERE p.id OPERATOR(pg_catalog.=) ANY ($1)",
		   SPI_OK_SELECT, 1, types, &pipelines, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		Oid			oid = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i],
														 SPI_tuptable->tupdesc, 1, &isnull));
		MemoryContext spi = MemoryContextSwitchTo(caller);

		relations = lappend_oid(relations, oid);
		MemoryContextSwitchTo(spi);
	}
	foreach(lc, relations)
		LockRelationOid(lfirst_oid(lc), AccessExclusiveLock);
	ib_spi("DELETE FROM incbatch.pipeline WHERE id OPERATOR(pg_catalog.=) ANY ($1)",
		   SPI_OK_DELETE, 1, types, &pipelines, NULL);
	SPI_finish();
	SetUserIdAndSecContext(save_userid, save_context);
	ib_wake_worker_at_commit();
	return relations;
}

Datum
ib_drop_pipeline(PG_FUNCTION_ARGS)
{
	bool		if_exists;
	Oid			relation;
	Datum		pipeline;

	refuse_null(fcinfo, 0, "name");
	if_exists = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);
	if (ib_catalog_find_pipeline(PG_GETARG_TEXT_PP(0), &relation, if_exists) != 0)
	{
		/* readers lock the view first; who else dropped it has it locked */
		pipeline = Int32GetDatum(own_pipeline(PG_GETARG_TEXT_PP(0), &relation));
		LockRelationOid(relation, AccessExclusiveLock);
	}
	if (ib_catalog_find_pipeline(PG_GETARG_TEXT_PP(0), &relation, if_exists) == 0)
	{
		ereport(NOTICE,
				errmsg("pipeline \"%s\" does not exist, skipping",
					   text_to_cstring(PG_GETARG_TEXT_PP(0))));
		PG_RETURN_BOOL(false);
	}
	pipeline = Int32GetDatum(own_pipeline(PG_GETARG_TEXT_PP(0), &relation));
	drop_relations(forget_pipelines(PointerGetDatum(construct_array(&pipeline, 1, INT4OID, 4,
																	true, TYPALIGN_INT))));
	PG_RETURN_BOOL(true);
}

/*
 * Event trigger on sql_drop: a pipeline that lost one of its relations, by
 * DROP of it or of its source with CASCADE, is dropped as a whole.
 */
Datum
ib_on_drop(PG_FUNCTION_ARGS)
{
	Datum		pipelines = (Datum) 0;
	bool		isnull = true;
	Oid			save_userid;
	int			save_context;
	MemoryContext caller = CurrentMemoryContext;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				errmsg("incbatch.on_drop can only be called as an event trigger"));

	ib_catalog_become_owner(&save_userid, &save_context);
	SPI_connect();
	ib_spi("WITH dropped AS (SELECT objid FROM pg_catalog.pg_event_trigger_dropped_objects()"
		   " WHERE classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass"
		   " AND objsubid OPERATOR(pg_catalog.=) 0)"
		   " SELECT pg_catalog.array_agg(DISTINCT p.id) FROM incbatch.pipeline p"
		   " JOIN incbatch.path a ON a.pipeline OPERATOR(pg_catalog.=) p.id"
		   " JOIN dropped d ON d.objid OPERATOR(pg_catalog.=) p.relation::pg_catalog.oid"
		   " OR d.objid OPERATOR(pg_catalog.=) p.definition::pg_catalog.oid"
		   " OR d.objid OPERATOR(pg_catalog.=) a.relation::pg_catalog.oid",
		   SPI_OK_SELECT, 0, NULL, NULL, NULL);
	if (SPI_processed == 1)
	{
		pipelines = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
		if (!isnull)
		{
			MemoryContext spi = MemoryContextSwitchTo(caller);

			pipelines = PointerGetDatum(DatumGetArrayTypePCopy(pipelines));
			MemoryContextSwitchTo(spi);
		}
	}
	SPI_finish();
	SetUserIdAndSecContext(save_userid, save_context);

	if (!isnull)
		drop_relations(forget_pipelines(pipelines));
	PG_RETURN_NULL();
}

/*
 * Event trigger on table_rewrite: what is written to a source while it is
 * unlogged is in no WAL.  The other rewrites leave the columns that a query
 * reads as they are, for its view depends on them.
 */
Datum
ib_on_rewrite(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				errmsg("incbatch.on_rewrite can only be called as an event trigger"));

	change_catalog("UPDATE incbatch.path a SET state = 'needs_rebuild',"
				   " state_since = pg_catalog.clock_timestamp(), last_error ="
				   " pg_catalog.format('table %s was set UNLOGGED or LOGGED; run incbatch.rebuild_pipeline', p.source)"
				   " FROM incbatch.pipeline p WHERE p.id OPERATOR(pg_catalog.=) a.pipeline"
				   " AND p.source::pg_catalog.oid OPERATOR(pg_catalog.=) pg_catalog.pg_event_trigger_table_rewrite_oid()"
				   " AND pg_catalog.pg_event_trigger_table_rewrite_reason() OPERATOR(pg_catalog.&) 1 OPERATOR(pg_catalog.<>) 0"
				   " AND a.state OPERATOR(pg_catalog.<>) ALL ('{initializing,backfilling}')",
				   SPI_OK_UPDATE, 0, NULL, NULL, NULL);
	PG_RETURN_NULL();
}

/* ----------------------------------------------------------------
 *		Waiting
 * ----------------------------------------------------------------
 */

/*
 * The paths of a pipeline that can get anywhere.  Anything that keeps one
 * from it is an error, for the caller would wait for ever.
 */
List *
ib_running_paths(int32 pipeline)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(pipeline)};
	MemoryContext caller = CurrentMemoryContext;
	List	   *result = NIL;
	Oid			save_userid;
	int			save_context;

	PushActiveSnapshot(GetLatestSnapshot());
	ib_catalog_become_owner(&save_userid, &save_context);
	SPI_connect();
	if (SPI_execute_with_args("SELECT a.id, p.paused, a.state, a.last_error, p.relation::pg_catalog.text"
							  " FROM incbatch.path a JOIN incbatch.pipeline p"
							  " ON p.id OPERATOR(pg_catalog.=) a.pipeline"
							  " WHERE p.id OPERATOR(pg_catalog.=) $1",
							  1, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read incbatch.path");
	if (SPI_processed == 0)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("the pipeline was dropped"));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		char	   *state = SPI_getvalue(tuple, desc, 3);
		char	   *error = SPI_getvalue(tuple, desc, 4);
		MemoryContext spi;

		if (strcmp(state, ib_path_state_name(PATH_FAILED)) == 0 ||
			strcmp(state, ib_path_state_name(PATH_NEEDS_REBUILD)) == 0)
			ereport(ERROR,
					errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("pipeline \"%s\" is in state \"%s\"",
						   SPI_getvalue(tuple, desc, 5), state),
					error ? errdetail("%s", error) : 0,
					errhint("%s", strcmp(state, "failed") == 0 ?
							"When the cause is gone, run incbatch.resume_pipeline." :
							"Run incbatch.rebuild_pipeline."));
		if (strcmp(SPI_getvalue(tuple, desc, 2), "t") == 0)
			ereport(ERROR,
					errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("pipeline \"%s\" is paused", SPI_getvalue(tuple, desc, 5)),
					errhint("Run incbatch.resume_pipeline first."));
		spi = MemoryContextSwitchTo(caller);
		result = lappend_int(result, atoi(SPI_getvalue(tuple, desc, 1)));
		MemoryContextSwitchTo(spi);
	}
	SPI_finish();
	SetUserIdAndSecContext(save_userid, save_context);
	PopActiveSnapshot();
	return result;
}

/*
 * The entry of a path; from here on its moves will end wait_for_move, so that
 * none is missed between looking at it and sleeping.
 */
static PathEntry *
watch_path(int32 path)
{
	PathEntry  *entry = ib_path_entry_find(path);

	if (entry != NULL)
		ConditionVariablePrepareToSleep(&entry->moved);
	return entry;
}

/*
 * Sleep until a watched path moves; the entry may come, go and change
 * meanwhile.
 */
static void
wait_for_move(PathEntry *entry, int64 timeout_ms)
{
	if (entry != NULL)
	{
		(void) ConditionVariableTimedSleep(&entry->moved, timeout_ms, PG_WAIT_EXTENSION);
		ConditionVariableCancelSleep();
	}
	else
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(timeout_ms, 20), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
	CHECK_FOR_INTERRUPTS();
}

static bool
has_reached(PathEntry *entry, XLogRecPtr lsn)
{
	return entry != NULL && pg_atomic_read_u64(&entry->decoded_lsn) >= lsn;
}

/*
 * Run a pipeline's paths until each contains what had committed before the
 * call.
 */
void
ib_refresh(int32 pipeline)
{
	XLogRecPtr	barrier;
	ListCell   *lc;

	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				errmsg("a pipeline cannot be refreshed in a transaction that has written"),
				errdetail("What the transaction wrote is folded in after its commit."),
				errhint("Commit first."));
	barrier = ib_emit_barrier();
	foreach(lc, ib_running_paths(pipeline))
	{
		int32		path = lfirst_int(lc);

		for (;;)
		{
			PathEntry  *entry = watch_path(path);

			if (has_reached(entry, barrier))
				break;
			if (entry != NULL && pg_atomic_read_u64(&entry->refresh_lsn) < barrier)
			{
				pg_atomic_write_u64(&entry->refresh_lsn, barrier);
				ib_database_nudge(MyDatabaseId);
			}
			wait_for_move(entry, WAIT_CHECK_MS);
			if (!has_reached(ib_path_entry_find(path), barrier))
				(void) ib_running_paths(pipeline);
		}
		ConditionVariableCancelSleep();
	}
}

Datum
ib_refresh_pipeline(PG_FUNCTION_ARGS)
{
	Oid			relation;

	refuse_null(fcinfo, 0, "name");
	ib_shmem_require();
	ib_refresh(own_pipeline(PG_GETARG_TEXT_PP(0), &relation));
	PG_RETURN_VOID();
}

/* Wait until the freshest path contains what committed before a position. */
Datum
ib_wait_for(PG_FUNCTION_ARGS)
{
	XLogRecPtr	lsn;
	Interval   *timeout;
	TimestampTz deadline;
	Oid			relation;
	int32		pipeline;

	refuse_null(fcinfo, 0, "name");
	refuse_null(fcinfo, 1, "lsn");
	refuse_null(fcinfo, 2, "timeout");
	ib_shmem_require();
	pipeline = ib_catalog_find_pipeline(PG_GETARG_TEXT_PP(0), &relation, false);
	if (pg_class_aclcheck(relation, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_VIEW, get_rel_name(relation));
	lsn = Min(PG_GETARG_LSN(1), ib_wal_end());
	timeout = PG_GETARG_INTERVAL_P(2);
	deadline = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
													   TimestampTzGetDatum(GetCurrentTimestamp()),
													   IntervalPGetDatum(timeout)));
	XLogFlush(lsn);
	for (;;)
	{
		List	   *ids = ib_running_paths(pipeline);
		PathEntry  *entry = NULL;
		int64		left;
		ListCell   *lc;

		foreach(lc, ids)
		{
			entry = watch_path(lfirst_int(lc));
			if (entry != NULL && pg_atomic_read_u64(&entry->frontier_lsn) >= lsn)
			{
				ConditionVariableCancelSleep();
				PG_RETURN_BOOL(true);
			}
		}
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		if (left <= 0)
		{
			ConditionVariableCancelSleep();
			PG_RETURN_BOOL(false);
		}
		wait_for_move(entry, Min(left, WAIT_CHECK_MS));
	}
}
