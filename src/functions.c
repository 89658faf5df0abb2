/*
 * functions.c
 *	  The SQL functions that change and drop pipelines: check arguments and
 *	  privileges, then do one thing.
 *
 * They write the catalog and return; the worker, woken when the transaction
 * commits, does the rest.  So each is transactional.  create_pipeline is in
 * create.c, what waits for the worker in wait.c.
 */
#include "incbatch.h"

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "commands/event_trigger.h"
#include "commands/trigger.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "family.h"
#include "functions.h"
#include "path.h"
#include "query.h"

PG_FUNCTION_INFO_V1(ib_alter_pipeline);
PG_FUNCTION_INFO_V1(ib_drop_pipeline);
PG_FUNCTION_INFO_V1(ib_pause_pipeline);
PG_FUNCTION_INFO_V1(ib_resume_pipeline);
PG_FUNCTION_INFO_V1(ib_rebuild_pipeline);
PG_FUNCTION_INFO_V1(ib_may_see);
PG_FUNCTION_INFO_V1(ib_refuse_change);
PG_FUNCTION_INFO_V1(ib_on_drop);
PG_FUNCTION_INFO_V1(ib_on_rewrite);

void
ib_refuse_null(FunctionCallInfo fcinfo, int arg, const char *name)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("parameter \"%s\" must not be null", name));
}

/* A trigger interval is a fixed length of time, from 0 to a year. */
void
ib_check_trigger_interval(Interval *interval)
{
	if (interval->month != 0)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("a trigger interval cannot have months or years"),
				errhint("Use days, hours, minutes or seconds."));
	if (interval->day < 0 || interval->time < 0 ||
		interval->time > (366 - (int64) interval->day) * USECS_PER_DAY)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("a trigger interval must be between 0 and 366 days"),
				errhint("'0' runs as soon as there is work."));
}

/* Lateness is a fixed length of time: a day of it is 24 hours. */
void
ib_check_lateness(Interval *interval, bool tracks_lookups)
{
	if (tracks_lookups)
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("lateness cannot go with track_lookups"),
				errdetail("A lookup row that changes moves all rows of the source that match it to other groups, those of closed windows too, which then would no longer stay as they are."),
				errhint("Leave lateness out to follow the lookups, or track_lookups to close windows."));
	if (interval->month != 0)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("lateness cannot have months or years"),
				errhint("Use days, hours, minutes or seconds."));
	if (interval->day < 0 || interval->time < 0 ||
		interval->time > (36525 - (int64) interval->day) * USECS_PER_DAY)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("lateness must be between 0 and 100 years"),
				errhint("With '0' a window closes when the first event after it was seen."));
}

void
ib_check_retention(Interval *interval, bool closes)
{
	if (!closes)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("retention needs lateness"),
				errdetail("Only closed windows are removed, and without lateness windows never close."),
				errhint("Pass a lateness, too."));
	if (interval->month < 0 || interval->day < 0 || interval->time < 0)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("retention must not be negative"));
}

/* What happens to rows that make the query fail. */
void
ib_check_on_error(const char *on_error, bool tracks_lookups)
{
	bool		diverts = strcmp(on_error, "divert") == 0;

	if (!diverts && strcmp(on_error, "stop") != 0)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("on_error \"%s\" does not exist", on_error),
				errhint("It is 'stop' or 'divert'."));
	if (diverts && tracks_lookups)
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("on_error 'divert' cannot go with track_lookups"),
				errdetail("A lookup row that changes can make rows fail that were counted before, and let rows pass that were diverted."),
				errhint("Leave track_lookups out, or use on_error 'stop'."));
}

/* What happens when the place in the WAL is lost. */
void
ib_check_on_lost(const char *on_lost)
{
	if (strcmp(on_lost, "stop") != 0 && strcmp(on_lost, "rebuild") != 0)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("on_lost \"%s\" does not exist", on_lost),
				errhint("It is 'stop' or 'rebuild'."));
}

/* The pipeline that a caller names and may change. */
int32
ib_own_pipeline(text *name, Oid *relation)
{
	int32		pipeline = ib_catalog_find_pipeline(name, relation, false);

	if (!ib_relation_ownercheck(*relation, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_VIEW, get_rel_name(*relation));
	return pipeline;
}

/* Whether the caller sees what there is to know of a pipeline with this relation. */
bool
ib_may_see_relation(Oid relation)
{
	HeapTuple	tuple;
	Oid			owner;

	if (has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS))
		return true;
	/* it may be on its way out */
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	if (!HeapTupleIsValid(tuple))
		return false;
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return has_privs_of_role(GetUserId(), owner);
}

Datum
ib_may_see(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(ib_may_see_relation(PG_GETARG_OID(0)));
}

/* The pipeline that a caller names and may look at. */
int32
ib_visible_pipeline(text *name, Oid *relation)
{
	int32		pipeline = ib_catalog_find_pipeline(name, relation, false);

	if (!ib_may_see_relation(*relation))
		ereport(ERROR,
				errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				errmsg("permission denied for pipeline \"%s\"", get_rel_name(*relation)),
				errhint("Its owner and members of pg_monitor may look at it."));
	return pipeline;
}

/* The pipeline that a caller names and may read. */
int32
ib_readable_pipeline(text *name, Oid *relation)
{
	int32		pipeline = ib_catalog_find_pipeline(name, relation, false);

	if (pg_class_aclcheck(*relation, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_VIEW, get_rel_name(*relation));
	return pipeline;
}

/* Run a statement on incbatch's tables, as their owner, and tell the worker. */
void
ib_change_catalog(const char *sql, int expected, int nargs, const Oid *types,
				  const Datum *values, const char *nulls)
{
	CatalogScope scope;

	ib_catalog_enter(&scope);
	ib_spi(sql, expected, nargs, types, values, nulls);
	ib_catalog_leave(&scope);
	ib_wake_worker_at_commit();
}

/*
 * Trigger on the tables that say what runs as whom: a privilege on them, such
 * as pg_write_all_data's, must not be one to run anything as anybody.
 */
Datum
ib_refuse_change(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				errmsg("incbatch.refuse_change can only be called as a trigger"));
	if (!superuser())
		ereport(ERROR,
				errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				errmsg("table incbatch.%s is changed by functions only",
					   RelationGetRelationName(((TriggerData *) fcinfo->context)->tg_relation)),
				errhint("See \\df incbatch.*."));
	PG_RETURN_POINTER(NULL);
}

/* Do windows of a pipeline close, and what would they be? */
bool
ib_pipeline_closes(int32 pipeline, Oid *definition, AttrNumber *event_time,
				   bool *tracks_lookups)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(pipeline)};
	CatalogScope scope;
	HeapTuple	tuple;
	TupleDesc	desc;
	bool		isnull;
	bool		result;

	ib_catalog_enter(&scope);
	ib_spi("SELECT lateness IS NOT NULL, definition::pg_catalog.oid, coalesce(event_time, 0::pg_catalog.int2), track_lookups"
		   " FROM incbatch.pipeline WHERE id OPERATOR(pg_catalog.=) $1",
		   SPI_OK_SELECT, 1, types, values, NULL);
	if (SPI_processed != 1)
		elog(ERROR, "could not read incbatch.pipeline");
	tuple = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	result = DatumGetBool(SPI_getbinval(tuple, desc, 1, &isnull));
	*definition = DatumGetObjectId(SPI_getbinval(tuple, desc, 2, &isnull));
	*event_time = DatumGetInt16(SPI_getbinval(tuple, desc, 3, &isnull));
	*tracks_lookups = DatumGetBool(SPI_getbinval(tuple, desc, 4, &isnull));
	ib_catalog_leave(&scope);
	return result;
}

static void
check_windows(Oid definition, AttrNumber event_time)
{
	int			guc_level = NewGUCNestLevel();

	ib_apply_settings(ib_name_settings());
	ib_watermark_check(ib_query_analyze(definition, false), event_time);
	AtEOXact_GUC(false, guc_level);
}

/*
 * Change when windows close and what happens to late changes.  A window that
 * is closed stays so.  Late changes that were kept out cannot be applied any
 * more but by a rebuild, which reads them in the source.
 */
static void
alter_lateness(FunctionCallInfo fcinfo, int32 pipeline)
{
	enum
	{
		LATENESS = 2, POLICY, RETENTION
	};
	Oid			types[] = {INT4OID, INTERVALOID, TEXTOID, INTERVALOID};
	Datum		values[] = {Int32GetDatum(pipeline), PG_GETARG_DATUM(LATENESS),
	PG_GETARG_DATUM(POLICY), PG_GETARG_DATUM(RETENTION)};
	char		nulls[] = "    ";

	for (int i = LATENESS; i <= RETENTION; i++)
	{
		if (PG_ARGISNULL(i))
			nulls[i - 1] = 'n';
	}
	if (!PG_ARGISNULL(POLICY) &&
		ib_late_policy(text_to_cstring(PG_GETARG_TEXT_PP(POLICY))) == LATE_APPLY)
		ib_change_catalog("UPDATE incbatch.path a SET state = 'initializing', last_error = NULL,"
						  " state_since = pg_catalog.clock_timestamp() FROM incbatch.pipeline p"
						  " WHERE p.id OPERATOR(pg_catalog.=) a.pipeline AND p.id OPERATOR(pg_catalog.=) $1"
						  " AND p.late_policy OPERATOR(pg_catalog.<>) 'apply' AND p.lateness IS NOT NULL",
						  SPI_OK_UPDATE, 1, types, values, nulls);
	ib_change_catalog("UPDATE incbatch.pipeline SET lateness = coalesce($2, lateness),"
					  " late_policy = coalesce($3, late_policy), retention = coalesce($4, retention)"
					  " WHERE id OPERATOR(pg_catalog.=) $1",
					  SPI_OK_UPDATE, lengthof(types), types, values, nulls);
}

/* Change what errors, and a lost place in the WAL, do to a pipeline. */
static void
alter_answers(FunctionCallInfo fcinfo, int32 pipeline, bool tracks_lookups)
{
	enum
	{
		ON_ERROR = 5, ON_LOST
	};
	Oid			types[] = {INT4OID, TEXTOID, TEXTOID};
	Datum		values[] = {Int32GetDatum(pipeline), PG_GETARG_DATUM(ON_ERROR), PG_GETARG_DATUM(ON_LOST)};
	char		nulls[] = "   ";

	if (!PG_ARGISNULL(ON_ERROR))
		ib_check_on_error(text_to_cstring(PG_GETARG_TEXT_PP(ON_ERROR)), tracks_lookups);
	else
		nulls[1] = 'n';
	if (!PG_ARGISNULL(ON_LOST))
		ib_check_on_lost(text_to_cstring(PG_GETARG_TEXT_PP(ON_LOST)));
	else
		nulls[2] = 'n';
	if (PG_ARGISNULL(ON_ERROR) && PG_ARGISNULL(ON_LOST))
		return;
	ib_change_catalog("UPDATE incbatch.pipeline SET on_error = coalesce($2, on_error),"
					  " on_lost = coalesce($3, on_lost) WHERE id OPERATOR(pg_catalog.=) $1",
					  SPI_OK_UPDATE, lengthof(types), types, values, nulls);
}

Datum
ib_alter_pipeline(PG_FUNCTION_ARGS)
{
	Oid			relation;
	Oid			types[] = {INT4OID, INTERVALOID};
	Datum		values[2];
	int32		pipeline;
	Oid			definition;
	AttrNumber	event_time;
	bool		closes;
	bool		tracks_lookups;

	ib_refuse_null(fcinfo, 0, "name");
	ib_shmem_require();
	/* the pipeline's row before those of its paths, as all who change both */
	pipeline = ib_family_lock(PG_GETARG_TEXT_PP(0), &relation);
	closes = ib_pipeline_closes(pipeline, &definition, &event_time, &tracks_lookups);
	if (!PG_ARGISNULL(2))
	{
		ib_check_lateness(PG_GETARG_INTERVAL_P(2), tracks_lookups);
		check_windows(definition, event_time);
		closes = true;
	}
	if (!PG_ARGISNULL(4))
		ib_check_retention(PG_GETARG_INTERVAL_P(4), closes);
	if (!PG_ARGISNULL(2) || !PG_ARGISNULL(3) || !PG_ARGISNULL(4))
		alter_lateness(fcinfo, pipeline);
	alter_answers(fcinfo, pipeline, tracks_lookups);
	if (!PG_ARGISNULL(1))
	{
		ib_check_trigger_interval(PG_GETARG_INTERVAL_P(1));
		values[0] = Int32GetDatum(pipeline);
		values[1] = PG_GETARG_DATUM(1);
		ib_change_catalog("UPDATE incbatch.pipeline SET trigger_interval = $2"
						  " WHERE id OPERATOR(pg_catalog.=) $1",
						  SPI_OK_UPDATE, 2, types, values, NULL);
		if (ib_family_arrange(pipeline, relation, NIL))
			ereport(NOTICE,
					errmsg("the trigger interval of pipeline \"%s\" counts when it has no consumers",
						   get_rel_name(relation)),
					errdetail("It has consumers, and each has a trigger interval of its own."),
					errhint("incbatch.set_tier and incbatch.set_freshness change these."));
	}
	PG_RETURN_VOID();
}

static void
set_paused(FunctionCallInfo fcinfo, bool paused)
{
	Oid			relation;
	Oid			types[] = {INT4OID, BOOLOID};
	Datum		values[2];

	ib_refuse_null(fcinfo, 0, "name");
	ib_shmem_require();
	values[0] = Int32GetDatum(ib_own_pipeline(PG_GETARG_TEXT_PP(0), &relation));
	values[1] = BoolGetDatum(paused);
	ib_change_catalog("UPDATE incbatch.pipeline SET paused = $2,"
					  " paused_at = CASE WHEN $2 THEN coalesce(paused_at, pg_catalog.clock_timestamp()) END"
					  " WHERE id OPERATOR(pg_catalog.=) $1",
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
	values[0] = Int32GetDatum(ib_own_pipeline(PG_GETARG_TEXT_PP(0), &relation));
	ib_change_catalog("UPDATE incbatch.path a SET last_error = NULL,"
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

	ib_refuse_null(fcinfo, 0, "name");
	ib_shmem_require();
	values[0] = Int32GetDatum(ib_own_pipeline(PG_GETARG_TEXT_PP(0), &relation));
	ib_change_catalog("UPDATE incbatch.path SET state = 'initializing', last_error = NULL,"
					  " state_since = pg_catalog.clock_timestamp()"
					  " WHERE pipeline OPERATOR(pg_catalog.=) $1",
					  SPI_OK_UPDATE, 1, types, values, NULL);
	ib_restore_dependencies(DatumGetInt32(values[0]));
	PG_RETURN_VOID();
}

/* Drop the relations of a pipeline whose rows are gone from the catalog. */
void
ib_drop_relations(List *relations)
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
 * consumers' views first, which readers lock before the state tables; then
 * those, which a run locks before it writes the catalog.
 */
static List *
forget_pipelines(Datum pipelines)
{
	Oid			types[] = {INT4ARRAYOID};
	List	   *relations = NIL;
	MemoryContext caller = CurrentMemoryContext;
	CatalogScope scope;
	ListCell   *lc;

	ib_catalog_enter(&scope);
	ib_spi("SELECT c.relation::pg_catalog.oid AS oid FROM incbatch.consumer c"
		   " WHERE c.pipeline OPERATOR(pg_catalog.=) ANY ($1)"
		   " UNION ALL SELECT a.relation::pg_catalog.oid FROM incbatch.path a"
		   " WHERE a.pipeline OPERATOR(pg_catalog.=) ANY ($1)"
		   " UNION ALL SELECT u.oid FROM incbatch.pipeline p"
		   " CROSS JOIN LATERAL (VALUES (p.relation::pg_catalog.oid), (p.definition::pg_catalog.oid)) u(oid)"
		   " WHERE p.id OPERATOR(pg_catalog.=) ANY ($1)",
		   SPI_OK_SELECT, 1, types, &pipelines, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Oid			oid = DatumGetObjectId(ib_spi_column(i, 1, NULL));
		MemoryContext spi = MemoryContextSwitchTo(caller);

		relations = lappend_oid(relations, oid);
		MemoryContextSwitchTo(spi);
	}
	foreach(lc, relations)
		LockRelationOid(lfirst_oid(lc), AccessExclusiveLock);
	/* the pipeline's row first, as resume_pipeline, which locks no relation */
	ib_spi("DELETE FROM incbatch.pipeline WHERE id OPERATOR(pg_catalog.=) ANY ($1)",
		   SPI_OK_DELETE, 1, types, &pipelines, NULL);
	ib_spi("DELETE FROM incbatch.consumer WHERE pipeline OPERATOR(pg_catalog.=) ANY ($1)",
		   SPI_OK_DELETE, 1, types, &pipelines, NULL);
	ib_spi("DELETE FROM incbatch.path WHERE pipeline OPERATOR(pg_catalog.=) ANY ($1)",
		   SPI_OK_DELETE, 1, types, &pipelines, NULL);
	ib_catalog_leave(&scope);
	ib_wake_worker_at_commit();
	return relations;
}

Datum
ib_drop_pipeline(PG_FUNCTION_ARGS)
{
	bool		if_exists;
	Oid			relation;
	Datum		pipeline;

	ib_refuse_null(fcinfo, 0, "name");
	if_exists = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);
	if (ib_catalog_find_pipeline(PG_GETARG_TEXT_PP(0), &relation, if_exists) != 0)
	{
		/* readers lock the view first; who else dropped it has it locked */
		(void) ib_own_pipeline(PG_GETARG_TEXT_PP(0), &relation);
		LockRelationOid(relation, AccessExclusiveLock);
	}
	if (ib_catalog_find_pipeline(PG_GETARG_TEXT_PP(0), &relation, if_exists) == 0)
	{
		ereport(NOTICE,
				errmsg("pipeline \"%s\" does not exist, skipping",
					   text_to_cstring(PG_GETARG_TEXT_PP(0))));
		PG_RETURN_BOOL(false);
	}
	pipeline = Int32GetDatum(ib_own_pipeline(PG_GETARG_TEXT_PP(0), &relation));
	ib_drop_relations(forget_pipelines(PointerGetDatum(construct_array(&pipeline, 1, INT4OID, 4,
																	   true, TYPALIGN_INT))));
	PG_RETURN_BOOL(true);
}

/* The pipeline of a consumer whose relation was dropped, or 0: there is none. */
static int32
find_bereft_pipeline(Oid *relation)
{
	CatalogScope scope;
	int32		pipeline = 0;

	ib_catalog_enter(&scope);
	ib_spi("SELECT p.id, p.relation::pg_catalog.oid FROM incbatch.pipeline p"
		   " JOIN incbatch.consumer c ON c.pipeline OPERATOR(pg_catalog.=) p.id"
		   " JOIN pg_catalog.pg_event_trigger_dropped_objects() d"
		   " ON d.objid OPERATOR(pg_catalog.=) c.relation::pg_catalog.oid"
		   " WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass"
		   " AND d.objsubid OPERATOR(pg_catalog.=) 0 ORDER BY 1 LIMIT 1",
		   SPI_OK_SELECT, 0, NULL, NULL, NULL);
	if (SPI_processed == 1)
	{
		pipeline = DatumGetInt32(ib_spi_column(0, 1, NULL));
		*relation = DatumGetObjectId(ib_spi_column(0, 2, NULL));
	}
	ib_catalog_leave(&scope);
	return pipeline;
}

/* Consumers whose relation was dropped go, and so do paths that nobody else wants. */
static void
forget_consumers(void)
{
	Oid			types[] = {INT4OID};
	Datum		values[1];
	Oid			relation;
	int32		pipeline;

	while ((pipeline = find_bereft_pipeline(&relation)) != 0)
	{
		LockRelationOid(relation, ShareUpdateExclusiveLock);
		ib_family_mark(pipeline);
		values[0] = Int32GetDatum(pipeline);
		ib_change_catalog("DELETE FROM incbatch.consumer c USING pg_catalog.pg_event_trigger_dropped_objects() d"
						  " WHERE c.pipeline OPERATOR(pg_catalog.=) $1"
						  " AND d.objid OPERATOR(pg_catalog.=) c.relation::pg_catalog.oid"
						  " AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass"
						  " AND d.objsubid OPERATOR(pg_catalog.=) 0",
						  SPI_OK_DELETE, 1, types, values, NULL);
		(void) ib_family_arrange(pipeline, relation, NIL);
	}
}

/*
 * A transaction with a snapshot of its own does not see a pipeline, a path or a
 * consumer that was made since, whose relation it can drop all the same: it must
 * try again.
 */
static void
require_all_forgotten(void)
{
	CatalogScope scope;
	bool		missed;

	if (!IsolationUsesXactSnapshot())
		return;
	ib_catalog_enter(&scope);
	PushActiveSnapshot(GetLatestSnapshot());
	if (SPI_execute("SELECT FROM pg_catalog.pg_event_trigger_dropped_objects() d JOIN ("
					"SELECT relation FROM incbatch.consumer UNION ALL SELECT relation FROM incbatch.path"
					" UNION ALL SELECT u.oid FROM incbatch.pipeline p CROSS JOIN LATERAL (VALUES (p.relation), (p.definition)) u(oid)"
					") r ON r.relation::pg_catalog.oid OPERATOR(pg_catalog.=) d.objid"
					" WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass"
					" AND d.objsubid OPERATOR(pg_catalog.=) 0", true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read incbatch.pipeline");
	missed = SPI_processed > 0;
	PopActiveSnapshot();
	ib_catalog_leave(&scope);
	if (missed)
		ereport(ERROR,
				errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				errmsg("a pipeline or consumer with this relation was created since the transaction began"),
				errhint("Try the transaction again."));
}

/*
 * Event trigger on sql_drop: a pipeline that lost one of its relations, by
 * DROP of it or of its source with CASCADE, is dropped as a whole; a consumer
 * that lost its own is dropped.
 */
Datum
ib_on_drop(PG_FUNCTION_ARGS)
{
	Datum		pipelines = (Datum) 0;
	bool		isnull = true;
	CatalogScope scope;
	MemoryContext caller = CurrentMemoryContext;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				errmsg("incbatch.on_drop can only be called as an event trigger"));

	ib_catalog_enter(&scope);
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
		pipelines = ib_spi_column(0, 1, &isnull);
		if (!isnull)
		{
			MemoryContext spi = MemoryContextSwitchTo(caller);

			pipelines = PointerGetDatum(DatumGetArrayTypePCopy(pipelines));
			MemoryContextSwitchTo(spi);
		}
	}
	ib_catalog_leave(&scope);

	if (!isnull)
		ib_drop_relations(forget_pipelines(pipelines));
	forget_consumers();
	require_all_forgotten();
	PG_RETURN_NULL();
}

/* Paths that the table being rewritten feeds, and that must not go on. */
#define PATHS_OF_REWRITTEN \
	" FROM incbatch.pipeline p WHERE p.id OPERATOR(pg_catalog.=) a.pipeline" \
	" AND (p.source::pg_catalog.oid OPERATOR(pg_catalog.=) ANY (ARRAY(" \
	"SELECT t.relid::pg_catalog.oid FROM" \
	" pg_catalog.pg_partition_ancestors(pg_catalog.pg_event_trigger_table_rewrite_oid()) t" \
	" UNION ALL SELECT pg_catalog.pg_event_trigger_table_rewrite_oid()))" \
	" OR p.track_lookups AND EXISTS (SELECT FROM pg_catalog.pg_depend d" \
	" JOIN pg_catalog.pg_rewrite r ON r.oid OPERATOR(pg_catalog.=) d.objid" \
	" WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass" \
	" AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass" \
	" AND d.refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_event_trigger_table_rewrite_oid()" \
	" AND r.ev_class OPERATOR(pg_catalog.=) p.definition::pg_catalog.oid))" \
	" AND ($1 OR pg_catalog.pg_event_trigger_table_rewrite_reason() OPERATOR(pg_catalog.&) 1 OPERATOR(pg_catalog.<>) 0)" \
	" AND a.state OPERATOR(pg_catalog.<>) ALL ('{initializing,backfilling,needs_rebuild}')"

/* Does an ALTER TABLE change how a generated column is computed? */
static bool
sets_an_expression(Node *statement)
{
	ListCell   *lc;

	if (!IsA(statement, AlterTableStmt))
		return false;
	foreach(lc, castNode(AlterTableStmt, statement)->cmds)
	{
		if (ib_sets_expression(lfirst_node(AlterTableCmd, lc)->subtype))
			return true;
	}
	return false;
}

/*
 * A transaction with a snapshot of its own may not see a pipeline that was
 * made, or filled, since: it must try again.
 */
static void
require_all_marked(bool sets_expression)
{
	Oid			types[] = {BOOLOID};
	Datum		values[] = {BoolGetDatum(sets_expression)};
	CatalogScope scope;
	bool		missed;

	if (!IsolationUsesXactSnapshot())
		return;
	ib_catalog_enter(&scope);
	PushActiveSnapshot(GetLatestSnapshot());
	if (SPI_execute_with_args("SELECT FROM incbatch.path a WHERE EXISTS (SELECT" PATHS_OF_REWRITTEN ")",
							  lengthof(types), types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read incbatch.path");
	missed = SPI_processed > 0;
	PopActiveSnapshot();
	ib_catalog_leave(&scope);
	if (missed)
		ereport(ERROR,
				errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				errmsg("a pipeline of this table was created since the transaction began"),
				errhint("Try the transaction again."));
}

/* A crash would empty an unlogged state table, and the frontier would stay. */
static void
refuse_unlogged_state(void)
{
	CatalogScope scope;
	bool		found;

	ib_catalog_enter(&scope);
	if (SPI_execute("SELECT FROM incbatch.path"
					" WHERE relation::pg_catalog.oid OPERATOR(pg_catalog.=) pg_catalog.pg_event_trigger_table_rewrite_oid()"
					" AND pg_catalog.pg_event_trigger_table_rewrite_reason() OPERATOR(pg_catalog.&) 1 OPERATOR(pg_catalog.<>) 0",
					true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read incbatch.path");
	found = SPI_processed > 0;
	ib_catalog_leave(&scope);
	if (found)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("the state table of a pipeline cannot be unlogged"),
				errdetail("After a crash it would be empty, while the pipeline goes on from where it was."),
				errhint("Leave it logged."));
}

/*
 * Event trigger on table_rewrite: what is written to a source, or to a lookup
 * that is tracked, while it is unlogged is in no WAL.  Neither are the values of
 * a generated column that gets another expression.  The other rewrites leave the
 * columns that a query reads as they are, for its view depends on them.
 */
Datum
ib_on_rewrite(PG_FUNCTION_ARGS)
{
	Oid			types[] = {BOOLOID};
	Datum		values[1];
	bool		sets_expression;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				errmsg("incbatch.on_rewrite can only be called as an event trigger"));

	if (!MUTANT(UNLOGGED_STATE))
		refuse_unlogged_state();
	sets_expression = sets_an_expression(((EventTriggerData *) fcinfo->context)->parsetree);
	values[0] = BoolGetDatum(sets_expression);
	ib_change_catalog("UPDATE incbatch.path a SET state = 'needs_rebuild',"
					  " state_since = pg_catalog.clock_timestamp(), last_error ="
					  " pg_catalog.format(CASE WHEN $1 THEN 'a generated column of table %s got another expression'"
					  " ELSE 'table %s was set UNLOGGED or LOGGED' END"
					  " OPERATOR(pg_catalog.||) '; run incbatch.rebuild_pipeline',"
					  " pg_catalog.pg_event_trigger_table_rewrite_oid()::pg_catalog.regclass)"
					  PATHS_OF_REWRITTEN,
					  SPI_OK_UPDATE, lengthof(types), types, values, NULL);
	require_all_marked(sets_expression);
	PG_RETURN_NULL();
}
