/*
 * restore.c
 *	  Definitions that come back from a dump.
 *
 * pg_dump takes the rows of pipeline, path, consumer and tiers along, and not
 * those that say what a path contains, which mean nothing in another database.
 * So a path that comes back with a state from before needs a rebuild, from the
 * moment its row is there.  What a row says by number or leaves to pg_depend is
 * put right: the number of the event time column when the row comes in, the
 * dependencies when the pipeline is rebuilt, for then all relations are there.
 *
 * Triggers cannot tell a restore from a session of ours by anything but the
 * row.  Ours insert paths as initializing, and leave event_time_name empty.
 *
 * Not here: which rows pg_dump takes (sql/incbatch--1.0.sql); a path whose row
 * came in without triggers, which the worker finds to lack a frontier (paths.c).
 */
#include "incbatch.h"

#include "access/htup_details.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "catalog.h"
#include "functions.h"

PG_FUNCTION_INFO_V1(ib_on_pipeline_insert);
PG_FUNCTION_INFO_V1(ib_on_path_insert);
PG_FUNCTION_INFO_V1(ib_on_tier_insert);
PG_FUNCTION_INFO_V1(ib_on_rename);

/* The row that fires a trigger BEFORE INSERT FOR EACH ROW, and its table. */
static HeapTuple
inserted_row(FunctionCallInfo fcinfo, Relation *rel)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		ereport(ERROR,
				errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				errmsg("triggers of incbatch's tables can only be called before a row is inserted"));
	*rel = trigger->tg_relation;
	return trigger->tg_trigtuple;
}

static Datum
field(Relation rel, HeapTuple row, const char *name, bool *isnull)
{
	return heap_getattr(row, get_attnum(RelationGetRelid(rel), name),
						RelationGetDescr(rel), isnull);
}

static HeapTuple
set_field(Relation rel, HeapTuple row, const char *name, Datum value, bool isnull)
{
	int			number = get_attnum(RelationGetRelid(rel), name);

	return heap_modify_tuple_by_cols(row, RelationGetDescr(rel), 1, &number, &value, &isnull);
}

/*
 * A column has another number after a restore if the table had lost columns
 * before.
 */
Datum
ib_on_pipeline_insert(PG_FUNCTION_ARGS)
{
	Relation	rel;
	HeapTuple	row = inserted_row(fcinfo, &rel);
	bool		no_number;
	bool		no_name;
	bool		isnull;
	AttrNumber	number = DatumGetInt16(field(rel, row, "event_time", &no_number));
	Datum		name = field(rel, row, "event_time_name", &no_name);
	Oid			source = DatumGetObjectId(field(rel, row, "source", &isnull));

	if (!no_name)
	{
		number = get_attnum(source, NameStr(*DatumGetName(name)));
		row = set_field(rel, row, "event_time", Int16GetDatum(number),
						number == InvalidAttrNumber);
	}
	else if (!no_number)
		row = set_field(rel, row, "event_time_name",
						DirectFunctionCall1(namein, CStringGetDatum(get_attname(source, number, false))),
						false);
	return PointerGetDatum(row);
}

Datum
ib_on_path_insert(PG_FUNCTION_ARGS)
{
	Relation	rel;
	HeapTuple	row = inserted_row(fcinfo, &rel);
	bool		isnull;
	Datum		state = field(rel, row, "state", &isnull);

	if (isnull || strcmp(TextDatumGetCString(state), ib_path_state_name(PATH_INITIALIZING)) == 0)
		return PointerGetDatum(row);
	row = set_field(rel, row, "state",
					CStringGetTextDatum(ib_path_state_name(PATH_NEEDS_REBUILD)), false);
	row = set_field(rel, row, "last_error",
					CStringGetTextDatum("it was restored from a dump; run incbatch.rebuild_pipeline"), false);
	return PointerGetDatum(row);
}

/* A tier that is still as CREATE EXTENSION made it gives way. */
Datum
ib_on_tier_insert(PG_FUNCTION_ARGS)
{
	Relation	rel;
	HeapTuple	row = inserted_row(fcinfo, &rel);
	Oid			types[] = {INT4OID, TEXTOID};
	Datum		values[2];
	char		nulls[] = "  ";
	bool		isnull;
	CatalogScope scope;

	values[0] = field(rel, row, "tier", &isnull);
	nulls[0] = isnull ? 'n' : ' ';
	values[1] = field(rel, row, "name", &isnull);
	nulls[1] = isnull ? 'n' : ' ';
	ib_catalog_enter(&scope);
	ib_spi("DELETE FROM incbatch.tiers t USING pg_catalog.pg_extension e"
		   " WHERE e.extname OPERATOR(pg_catalog.=) 'incbatch' AND t.xmin OPERATOR(pg_catalog.=) e.xmin"
		   " AND (t.tier OPERATOR(pg_catalog.=) $1 OR t.name OPERATOR(pg_catalog.=) $2)",
		   SPI_OK_DELETE, lengthof(types), types, values, nulls);
	ib_catalog_leave(&scope);
	return PointerGetDatum(row);
}

/* Event trigger on ddl_command_end: a column of a source has another name. */
Datum
ib_on_rename(PG_FUNCTION_ARGS)
{
	CatalogScope scope;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				errmsg("incbatch.on_rename can only be called as an event trigger"));
	if (!IsA(((EventTriggerData *) fcinfo->context)->parsetree, RenameStmt))
		PG_RETURN_NULL();
	ib_catalog_enter(&scope);
	ib_spi("UPDATE incbatch.pipeline p SET event_time_name = t.attname"
		   " FROM pg_catalog.pg_attribute t WHERE t.attrelid OPERATOR(pg_catalog.=) p.source::pg_catalog.oid"
		   " AND t.attnum OPERATOR(pg_catalog.=) p.event_time"
		   " AND t.attname OPERATOR(pg_catalog.<>) p.event_time_name",
		   SPI_OK_UPDATE, 0, NULL, NULL, NULL);
	ib_catalog_leave(&scope);
	PG_RETURN_NULL();
}

/*
 * Record that a relation needs something: an extension, or another relation.
 * Once, for core would record it again.
 */
void
ib_depend(Oid relation, Oid class, Oid object)
{
	ObjectAddress from;
	ObjectAddress to;

	ObjectAddressSet(from, RelationRelationId, relation);
	ObjectAddressSet(to, class, object);
	deleteDependencyRecordsForSpecific(RelationRelationId, relation,
									   DEPENDENCY_NORMAL, class, object);
	recordDependencyOn(&from, &to, DEPENDENCY_NORMAL);
}

/* What a dump does not say of the relations of a pipeline: what they need. */
void
ib_restore_dependencies(int32 pipeline)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(pipeline)};
	Oid			extension = get_extension_oid(IB_NAME, false);
	CatalogScope scope;

	ib_catalog_enter(&scope);
	ib_spi("SELECT p.relation::pg_catalog.oid, p.definition::pg_catalog.oid"
		   " FROM incbatch.pipeline p WHERE p.id OPERATOR(pg_catalog.=) $1"
		   " UNION ALL SELECT p.definition::pg_catalog.oid, NULL"
		   " FROM incbatch.pipeline p WHERE p.id OPERATOR(pg_catalog.=) $1"
		   " UNION ALL SELECT a.relation::pg_catalog.oid, NULL"
		   " FROM incbatch.path a WHERE a.pipeline OPERATOR(pg_catalog.=) $1"
		   " UNION ALL SELECT c.relation::pg_catalog.oid, p.relation::pg_catalog.oid"
		   " FROM incbatch.consumer c JOIN incbatch.pipeline p ON p.id OPERATOR(pg_catalog.=) c.pipeline"
		   " WHERE p.id OPERATOR(pg_catalog.=) $1",
		   SPI_OK_SELECT, lengthof(types), types, values, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		Oid			relation = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i],
															  SPI_tuptable->tupdesc, 1, &isnull));
		Oid			other = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i],
														   SPI_tuptable->tupdesc, 2, &isnull));

		ib_depend(relation, ExtensionRelationId, extension);
		if (!isnull)
			ib_depend(relation, RelationRelationId, other);
	}
	ib_catalog_leave(&scope);
}
