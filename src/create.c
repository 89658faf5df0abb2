/*
 * create.c
 *	  create_pipeline: from a query to a pipeline's relations and its rows in
 *	  the catalog.
 *
 * The query becomes a view, so that names are resolved once and dependencies
 * recorded by core; its tree says what the state table and the user's view
 * must be (query.c, delta.c, query_text.c).  All of it is one transaction of
 * the session: nothing waits for the worker, and ROLLBACK leaves nothing behind.
 *
 * Not here: the slot and the backfill, which are the worker's.
 */
#include "incbatch.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "commands/extension.h"
#include "commands/defrem.h"
#include "commands/view.h"
#include "executor/spi.h"
#include "nodes/makefuncs.h"
#include "parser/analyze.h"
#include "parser/parse_relation.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "functions.h"
#include "path.h"
#include "query.h"
#include "source.h"

PG_FUNCTION_INFO_V1(ib_create_pipeline);

/* Settings that the meaning of a query can depend on; stored with it. */
static const char *const stored_settings[] = {
	"TimeZone", "DateStyle", "IntervalStyle", "extra_float_digits",
	"bytea_output", "lc_monetary", "lc_numeric", "lc_time",
	"default_text_search_config", "xmlbinary", "xmloption", "array_nulls",
	"timezone_abbreviations",
};

/* Positions of create_pipeline's parameters. */
enum
{
	ARG_NAME, ARG_QUERY, ARG_EVENT_TIME, ARG_LATENESS, ARG_LATE_POLICY,
	ARG_TRIGGER, ARG_APPEND_ONLY, ARG_TRACK_LOOKUPS, ARG_RETENTION,
	ARG_INITIALIZE, ARG_ON_ERROR, ARG_ON_LOST, ARG_IF_NOT_EXISTS
};

/* Parameters that do not depend on the query fit each other. */
static void
check_parameters(FunctionCallInfo fcinfo)
{
	ib_check_on_error(text_to_cstring(PG_GETARG_TEXT_PP(ARG_ON_ERROR)),
					  PG_GETARG_BOOL(ARG_TRACK_LOOKUPS));
	ib_check_on_lost(text_to_cstring(PG_GETARG_TEXT_PP(ARG_ON_LOST)));
	if (PG_GETARG_BOOL(ARG_TRACK_LOOKUPS) && !PG_GETARG_BOOL(ARG_INITIALIZE))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("track_lookups cannot go without initialize"),
				errdetail("A lookup row that changes takes all rows of the source that match it along, also those from before."),
				errhint("Leave one of the two out."));
}

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

/* What the worker writes itself it does not read back. */
static void
refuse_state_table(Oid relid)
{
	if (ib_catalog_is_state_table(relid))
		ereport(ERROR,
				errcode(ERRCODE_WRONG_OBJECT_TYPE),
				errmsg("changes of table \"%s\" cannot be followed", get_rel_name(relid)),
				errdetail("It is the state of a pipeline, and the worker passes over what it writes itself."),
				errhint("Query the pipeline's relation, or create a pipeline on that one's source."));
}

/*
 * What is followed is not of incbatch's own making, and tells old values with
 * each UPDATE and DELETE.
 */
static void
check_followed(PipelineQuery *pq, bool append_only)
{
	ListCell   *lc;

	refuse_state_table(pq->source);
	ib_source_check_columns(pq->source, pq->needed);
	if (!append_only)
		ib_source_check_identity(pq->source, pq->needed,
								 "pass append_only => true if the table only ever gets INSERTs");
	foreach(lc, pq->lookups)
	{
		TrackedLookup *lookup = lfirst(lc);

		refuse_state_table(lookup->relid);
		ib_source_check_columns(lookup->relid, lookup->needed);
		ib_source_check_identity(lookup->relid, lookup->needed,
								 "create the pipeline without track_lookups");
	}
}

/* The column with the event time: as given, or that of the window; 0: none. */
static AttrNumber
find_event_time(FunctionCallInfo fcinfo, PipelineQuery *pq)
{
	char	   *name;
	AttrNumber	attnum;
	Oid			type;

	if (PG_ARGISNULL(ARG_EVENT_TIME))
		return ib_window_key_event_time(pq);
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
	return attnum;
}

/* lateness, late_policy and retention fit each other and the query. */
static void
check_lateness(FunctionCallInfo fcinfo, PipelineQuery *pq, AttrNumber event_time)
{
	(void) ib_late_policy(text_to_cstring(PG_GETARG_TEXT_PP(ARG_LATE_POLICY)));
	if (!PG_ARGISNULL(ARG_LATENESS))
	{
		ib_check_lateness(PG_GETARG_INTERVAL_P(ARG_LATENESS),
						  PG_GETARG_BOOL(ARG_TRACK_LOOKUPS));
		ib_watermark_check(pq, event_time);
	}
	if (!PG_ARGISNULL(ARG_RETENTION))
		ib_check_retention(PG_GETARG_INTERVAL_P(ARG_RETENTION), !PG_ARGISNULL(ARG_LATENESS));
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
	int			guc_level = NewGUCNestLevel();

	ib_apply_settings(ib_text_settings());
	SPI_connect();
	run_ddl(ib_delta_state_definition(pq, state_table));
	run_ddl(ib_delta_state_index(pq, state_table));
	run_ddl(psprintf("CREATE VIEW %s AS %s", view, ib_query_view_text(pq, state_table)));
	SPI_finish();
	AtEOXact_GUC(false, guc_level);
}

/*
 * Whoever may not read the tables of the query learns it now, and so does who
 * wrote a query whose parts cannot be evaluated apart.
 */
static void
check_query_runs(PipelineQuery *pq, const char *definition)
{
	int			code;

	SPI_connect();
	code = SPI_execute(psprintf("SELECT * FROM %s LIMIT 0", definition), true, 0);
	if (code == SPI_OK_SELECT)
		code = SPI_execute(psprintf("SELECT * FROM (%s) q LIMIT 0", ib_delta_initial(pq)), true, 0);
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

	for (int i = 0; i < lengthof(relations); i++)
		ib_depend(relations[i], ExtensionRelationId, get_extension_oid(IB_NAME, false));
	ib_depend(relation, RelationRelationId, definition);
}

static void
insert_pipeline(FunctionCallInfo fcinfo, PipelineQuery *pq, Oid relation,
				Oid definition, Oid state_table)
{
	AttrNumber	event_time = find_event_time(fcinfo, pq);
	Oid			types[] = {OIDOID, OIDOID, OIDOID, TEXTOID, TEXTARRAYOID, INT2OID,
		INTERVALOID, BOOLOID, BOOLOID, TEXTOID, OIDOID, INTERVALOID, TEXTOID, INTERVALOID,
	BOOLOID, TEXTOID, TEXTOID};
	Datum		values[] = {
		ObjectIdGetDatum(relation),
		ObjectIdGetDatum(definition),
		ObjectIdGetDatum(pq->source),
		PG_GETARG_DATUM(ARG_QUERY),
		current_settings(),
		Int16GetDatum(event_time),
		PG_GETARG_DATUM(ARG_TRIGGER),
		PG_GETARG_DATUM(ARG_APPEND_ONLY),
		PG_GETARG_DATUM(ARG_INITIALIZE),
		CStringGetTextDatum(pq->always_recompute ? "recompute" :
							pq->may_recompute ? "delta, recompute" : "delta"),
		ObjectIdGetDatum(state_table),
		PG_GETARG_DATUM(ARG_LATENESS),
		PG_GETARG_DATUM(ARG_LATE_POLICY),
		PG_GETARG_DATUM(ARG_RETENTION),
		PG_GETARG_DATUM(ARG_TRACK_LOOKUPS),
		PG_GETARG_DATUM(ARG_ON_ERROR),
		PG_GETARG_DATUM(ARG_ON_LOST),
	};
	char		nulls[] = "                 ";

	check_lateness(fcinfo, pq, event_time);
	ib_path_entry_require();
	if (PG_ARGISNULL(ARG_LATENESS))
		nulls[11] = 'n';
	if (PG_ARGISNULL(ARG_RETENTION))
		nulls[13] = 'n';
	if (event_time == InvalidAttrNumber)
		nulls[5] = 'n';
	ib_change_catalog("WITH p AS (INSERT INTO incbatch.pipeline (relation, definition, source, query,"
					  " settings, event_time, trigger_interval, append_only, initialize, strategy,"
					  " lateness, late_policy, retention, track_lookups, on_error, on_lost)"
					  " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $12, $13, $14, $15, $16, $17) RETURNING id, trigger_interval)"
					  " INSERT INTO incbatch.path (pipeline, relation, trigger_interval)"
					  " SELECT id, $11, trigger_interval FROM p",
					  SPI_OK_INSERT, lengthof(types), types, values, nulls);
}

/* Does a type have this name?  One that core makes for arrays gives way. */
static bool
is_type_name(const char *name, Oid schema)
{
	Oid			type = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
									   CStringGetDatum(name), ObjectIdGetDatum(schema));

	return OidIsValid(type) && !OidIsValid(get_element_type(type));
}

/*
 * A name in the same schema for one of the pipeline's other relations; it is
 * also that of a row type.
 */
RangeVar *
ib_sibling_name(Oid schema, const char *name, const char *label)
{
	char	   *result = ChooseRelationName(name, NULL, label, schema, false);

	for (int i = 1; is_type_name(result, schema); i++)
		result = ChooseRelationName(name, NULL, psprintf("%s%d", label, i), schema, false);
	return makeRangeVar(get_namespace_name(schema), result, -1);
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
	Oid			namespace;
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
			ib_refuse_null(fcinfo, i, names[i]);
	}
	ib_shmem_require();
	check_parameters(fcinfo);
	ib_check_trigger_interval(PG_GETARG_INTERVAL_P(ARG_TRIGGER));

	rv = makeRangeVarFromNameList(textToQualifiedNameList(PG_GETARG_TEXT_PP(ARG_NAME)));
	if (PG_GETARG_BOOL(ARG_IF_NOT_EXISTS) &&
		ib_catalog_find_pipeline(PG_GETARG_TEXT_PP(ARG_NAME), &relation, true) != 0)
	{
		ereport(NOTICE,
				errcode(ERRCODE_DUPLICATE_OBJECT),
				errmsg("pipeline \"%s\" already exists, skipping", rv->relname));
		PG_RETURN_OID(relation);
	}
	namespace = RangeVarGetAndCheckCreationNamespace(rv, NoLock, &relation);
	schema = get_namespace_name(namespace);
	if (OidIsValid(relation))
		ereport(ERROR,
				errcode(ERRCODE_DUPLICATE_TABLE),
				errmsg("relation \"%s\" already exists", rv->relname),
				errhint("Choose another name for the pipeline, or drop the relation."));
	if (is_type_name(rv->relname, namespace))
		ereport(ERROR,
				errcode(ERRCODE_DUPLICATE_OBJECT),
				errmsg("type \"%s\" already exists", rv->relname),
				errdetail("A pipeline's relation has a row type of the same name."),
				errhint("Choose another name for the pipeline, or drop the type."));
	if (isAnyTempNamespace(namespace))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				errmsg("a pipeline cannot be temporary"),
				errdetail("The worker, which folds changes in, is another session."),
				errhint("Create it in an ordinary schema."));
	rv->schemaname = schema;

	definition_name = ib_sibling_name(namespace, rv->relname, "batch");
	definition = create_definition(definition_name,
								   text_to_cstring(PG_GETARG_TEXT_PP(ARG_QUERY)));

	/* from here on names are written in full */
	guc_level = NewGUCNestLevel();
	ib_apply_settings(ib_name_settings());
	pq = ib_query_analyze(definition, PG_GETARG_BOOL(ARG_TRACK_LOOKUPS));
	check_followed(pq, PG_GETARG_BOOL(ARG_APPEND_ONLY));
	check_query_runs(pq, ib_query_relation_name(definition));

	state_name = ib_sibling_name(namespace, rv->relname, "state");
	create_relations(pq, quote_qualified_identifier(schema, state_name->relname),
					 quote_qualified_identifier(schema, rv->relname));
	state_table = RangeVarGetRelid(state_name, NoLock, false);
	relation = RangeVarGetRelid(rv, NoLock, false);
	insert_pipeline(fcinfo, pq, relation, definition, state_table);
	record_dependencies(relation, definition, state_table);
	AtEOXact_GUC(false, guc_level);
	PG_RETURN_OID(relation);
}
