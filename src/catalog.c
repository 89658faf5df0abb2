/*
 * catalog.c
 *	  Every read and write of incbatch's own tables.
 *
 * All through SPI with constant text, values as parameters and operators
 * qualified, as the superuser who owns the system catalogs.  Callers are in a transaction
 * with an active snapshot.
 */
#include "incbatch.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/lsyscache.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "catalog.h"
#include "decode.h"

static const char *const state_names[] = {
	[PATH_INITIALIZING] = "initializing",
	[PATH_BACKFILLING] = "backfilling",
	[PATH_RUNNING] = "running",
	[PATH_FAILED] = "failed",
	[PATH_NEEDS_REBUILD] = "needs_rebuild",
};

const char *
ib_path_state_name(PathState state)
{
	return state_names[state];
}

/* The policy of a name, or an error that names them. */
LatePolicy
ib_late_policy(const char *name)
{
	static const char *const names[] = {
		[LATE_DIVERT] = "divert",
		[LATE_DROP] = "drop",
		[LATE_APPLY] = "apply",
	};

	for (int i = 0; i < lengthof(names); i++)
	{
		if (strcmp(names[i], name) == 0)
			return i;
	}
	ereport(ERROR,
			errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			errmsg("late_policy \"%s\" does not exist", name),
			errhint("It is 'divert', 'drop' or 'apply'."));
}

static PathState
state_from_name(const char *name)
{
	for (int i = 0; i < lengthof(state_names); i++)
	{
		if (strcmp(state_names[i], name) == 0)
			return i;
	}
	elog(ERROR, "unknown path state \"%s\"", name);
}

/* Run one statement; anything but the expected result is an error. */
void
ib_spi(const char *sql, int expected, int nargs, const Oid *types,
	   const Datum *values, const char *nulls)
{
	int			result = SPI_execute_with_args(sql, nargs, (Oid *) types,
											   (Datum *) values, nulls, false, 0);

	if (result != expected)
		elog(ERROR, "%s: %s", SPI_result_code_string(result), sql);
}

/* The same, reading as a snapshot shows the tables. */
void
ib_spi_snapshot(const char *sql, int expected, int nargs, const Oid *types,
				const Datum *values, Snapshot snapshot)
{
	SPIPlanPtr	plan = SPI_prepare(sql, nargs, (Oid *) types);
	int			result;

	if (plan == NULL)
		elog(ERROR, "%s: %s", SPI_result_code_string(SPI_result), sql);
	result = SPI_execute_snapshot(plan, (Datum *) values, NULL, snapshot,
								  InvalidSnapshot, false, true, 0);
	if (result != expected)
		elog(ERROR, "%s: %s", SPI_result_code_string(result), sql);
}

/*
 * Act as the bootstrap superuser, who may write incbatch's tables.  ib_catalog_become_caller() ends it,
 * or an error does.
 */
void
ib_catalog_become_owner(CatalogScope *scope)
{
	GetUserIdAndSecContext(&scope->save_userid, &scope->save_context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID,
						   scope->save_context | SECURITY_LOCAL_USERID_CHANGE);
}

void
ib_catalog_become_caller(const CatalogScope *scope)
{
	SetUserIdAndSecContext(scope->save_userid, scope->save_context);
}

/* The same, to read and write them with SPI. */
void
ib_catalog_enter(CatalogScope *scope)
{
	ib_catalog_become_owner(scope);
	SPI_connect();
}

void
ib_catalog_leave(const CatalogScope *scope)
{
	SPI_finish();
	ib_catalog_become_caller(scope);
}

/*
 * Keep the extension from being dropped until the end of this transaction.  Who
 * drops it locks it before its tables; so must who reads several of them, or each
 * could have what the other waits for.  False: it is not there, whole.
 */
bool
ib_catalog_lock(void)
{
	Oid			extension = InvalidOid;
	Oid			schema;

	/* another one may be there once the lock is */
	while (extension != get_extension_oid(IB_NAME, true))
	{
		extension = get_extension_oid(IB_NAME, true);
		if (OidIsValid(extension) && !MUTANT(DROP_UNLOCKED))
			LockDatabaseObject(ExtensionRelationId, extension, 0, AccessShareLock);
	}
	if (!OidIsValid(extension))
		return false;
	schema = get_namespace_oid(IB_SCHEMA, true);
	return OidIsValid(schema) && OidIsValid(get_relname_relid("path", schema));
}

/* The same where the worker knows pipelines already. */
void
ib_catalog_expect(void)
{
	if (!ib_catalog_lock())
		ereport(FATAL,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("incbatch was dropped in this database"),
				errdetail("The worker starts anew, for what it knows is of the pipelines before."));
}

/* The version of the extension in this database; there is one. */
char *
ib_catalog_version(void)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		isnull;
	char	   *version;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum(IB_NAME));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "extension %s does not exist", IB_NAME);
	version = TextDatumGetCString(heap_getattr(tuple, Anum_pg_extension_extversion,
											   RelationGetDescr(rel), &isnull));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return version;
}

static Datum
column(HeapTuple tuple, int number, bool *isnull)
{
	bool		is_null;
	Datum		value = SPI_getbinval(tuple, SPI_tuptable->tupdesc, number, &is_null);

	if (isnull)
		*isnull = is_null;
	else if (is_null)
		elog(ERROR, "unexpected null in column %d of an incbatch table", number);
	return value;
}

/* A column of what SPI has read; NULL is an error where isnull is not given. */
Datum
ib_spi_column(uint64 row, int number, bool *isnull)
{
	return column(SPI_tuptable->vals[row], number, isnull);
}

/* The elements of a text[] */
List *
ib_text_list(Datum array)
{
	Datum	   *elements;
	int			n;
	List	   *result = NIL;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, NULL, &n);
	for (int i = 0; i < n; i++)
		result = lappend(result, TextDatumGetCString(elements[i]));
	return result;
}

static void
read_frontier(HeapTuple tuple, int first, Frontier *frontier)
{
	bool		isnull;

	frontier->lsn = DatumGetLSN(column(tuple, first, NULL));
	frontier->decoded_lsn = DatumGetLSN(column(tuple, first + 1, NULL));
	frontier->snapshot = datumCopy(column(tuple, first + 2, NULL), false, -1);
	frontier->aligned = DatumGetBool(column(tuple, first + 3, NULL));
	frontier->as_of = DatumGetTimestampTz(column(tuple, first + 4, NULL));
	frontier->meaning = DatumGetInt64(column(tuple, first + 6, NULL));
	frontier->partitions = column(tuple, first + 5, &isnull);
	frontier->partitions = isnull ? (Datum) 0 :
		PointerGetDatum(DatumGetArrayTypePCopy(frontier->partitions));
}

/* What a path does with event time, from column number first on. */
static void
read_lateness(HeapTuple tuple, int first, PathRow *row)
{
	bool		isnull;
	Datum		value = column(tuple, first, &isnull);

	row->event_time = isnull ? InvalidAttrNumber : DatumGetInt16(value);
	value = column(tuple, first + 1, &isnull);
	row->closes = !isnull;
	if (row->closes)
		row->lateness_usecs = DatumGetInt64(value);
	row->late_policy = ib_late_policy(TextDatumGetCString(column(tuple, first + 2, NULL)));
	value = column(tuple, first + 3, &isnull);
	row->retains = !isnull;
	if (row->retains)
		row->retention = *DatumGetIntervalP(value);
}

/* All paths of the database, in the caller's memory context. */
List *
ib_catalog_paths(void)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *result = NIL;

	SPI_connect();
	ib_spi("SELECT a.id, p.id, p.relation::pg_catalog.oid, p.definition::pg_catalog.oid,"
		   " p.source::pg_catalog.oid, a.relation::pg_catalog.oid,"
		   " (extract(epoch FROM a.trigger_interval) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8,"
		   " p.append_only, p.initialize, p.paused, a.state, p.settings,"
		   " f.lsn, f.as_of, p.event_time, (extract(epoch FROM p.lateness) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8,"
		   " p.late_policy, p.retention, p.track_lookups,"
		   " (SELECT coalesce((extract(epoch FROM pg_catalog.min(c.freshness)) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8, 0)"
		   " FROM incbatch.consumer c WHERE c.path OPERATOR(pg_catalog.=) a.id),"
		   " p.on_error OPERATOR(pg_catalog.=) 'divert', p.on_lost OPERATOR(pg_catalog.=) 'rebuild',"
		   " (SELECT pg_catalog.count(*) FROM incbatch.failed_row r"
		   " WHERE r.path OPERATOR(pg_catalog.=) a.id AND r.left_out),"
		   " coalesce(a.rebuilt_at OPERATOR(pg_catalog.+) a.rebuild_delay, '-infinity')"
		   " FROM incbatch.path a JOIN incbatch.pipeline p ON p.id OPERATOR(pg_catalog.=) a.pipeline"
		   " LEFT JOIN incbatch.frontier f ON f.path OPERATOR(pg_catalog.=) a.id"
		   " ORDER BY a.id",
		   SPI_OK_SELECT, 0, NULL, NULL, NULL);

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		MemoryContext spi = MemoryContextSwitchTo(caller);
		PathRow    *row = palloc0(sizeof(PathRow));
		bool		isnull;

		row->path = DatumGetInt32(column(tuple, 1, NULL));
		row->pipeline = DatumGetInt32(column(tuple, 2, NULL));
		row->relation = DatumGetObjectId(column(tuple, 3, NULL));
		row->definition = DatumGetObjectId(column(tuple, 4, NULL));
		row->source = DatumGetObjectId(column(tuple, 5, NULL));
		row->state_table = DatumGetObjectId(column(tuple, 6, NULL));
		row->trigger_usecs = DatumGetInt64(column(tuple, 7, NULL));
		row->append_only = DatumGetBool(column(tuple, 8, NULL));
		row->initialize = DatumGetBool(column(tuple, 9, NULL));
		row->paused = DatumGetBool(column(tuple, 10, NULL));
		row->state = state_from_name(TextDatumGetCString(column(tuple, 11, NULL)));
		row->settings = ib_text_list(column(tuple, 12, NULL));
		row->loaded_lsn = DatumGetLSN(column(tuple, 13, &isnull));
		row->has_frontier = !isnull;
		if (row->has_frontier)
			row->loaded_as_of = DatumGetTimestampTz(column(tuple, 14, NULL));
		read_lateness(tuple, 15, row);
		row->track_lookups = DatumGetBool(column(tuple, 19, NULL));
		row->freshness_usecs = DatumGetInt64(column(tuple, 20, NULL));
		row->diverts = DatumGetBool(column(tuple, 21, NULL));
		row->rebuilds = DatumGetBool(column(tuple, 22, NULL));
		row->left_out = DatumGetInt64(column(tuple, 23, NULL));
		row->rebuild_at = DatumGetTimestampTz(column(tuple, 24, NULL));
		result = lappend(result, row);
		MemoryContextSwitchTo(spi);
	}
	SPI_finish();
	return result;
}

/*
 * The pipeline that a user names by its relation.  Sets the relation; 0 where
 * there is none and that is allowed.
 */
int32
ib_catalog_find_pipeline(text *name, Oid *relation, bool missing_ok)
{
	RangeVar   *rv = makeRangeVarFromNameList(textToQualifiedNameList(name));
	Oid			relid = RangeVarGetRelid(rv, NoLock, true);
	int32		pipeline = 0;

	if (OidIsValid(relid))
	{
		Oid			types[] = {OIDOID};
		Datum		values[] = {ObjectIdGetDatum(relid)};
		CatalogScope scope;

		ib_catalog_enter(&scope);
		ib_spi("SELECT id FROM incbatch.pipeline WHERE relation::pg_catalog.oid OPERATOR(pg_catalog.=) $1",
			   SPI_OK_SELECT, 1, types, values, NULL);
		if (SPI_processed == 1)
			pipeline = DatumGetInt32(ib_spi_column(0, 1, NULL));
		ib_catalog_leave(&scope);
	}
	if (pipeline == 0 && !missing_ok)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("pipeline \"%s\" does not exist", text_to_cstring(name)),
				errhint("TABLE incbatch.pipelines lists the pipelines of this database."));
	*relation = relid;
	return pipeline;
}

/* Whether a table is the state of a path. */
bool
ib_catalog_is_state_table(Oid relid)
{
	Oid			types[] = {OIDOID};
	Datum		values[] = {ObjectIdGetDatum(relid)};
	CatalogScope scope;
	bool		found;

	ib_catalog_enter(&scope);
	ib_spi("SELECT FROM incbatch.path WHERE relation::pg_catalog.oid OPERATOR(pg_catalog.=) $1",
		   SPI_OK_SELECT, 1, types, values, NULL);
	found = SPI_processed > 0;
	ib_catalog_leave(&scope);
	return found;
}

/*
 * What the worker stores of a path must not fail because a session altered,
 * paused or rebuilds it since the run took its snapshot.  It comes at the end
 * of a transaction, the rest of which sees the newest rows instead.
 */
void
ib_catalog_see_latest(void)
{
	XactIsoLevel = XACT_READ_COMMITTED;
}

/*
 * Change the state of a path from the one that the worker knows.  False: it is
 * another by now, or the path is gone; what a session wants comes first.  But
 * nothing that a session does brings a lost place in the WAL back.
 *
 * When the worker may rebuild by itself counts from the end of the last
 * backfill, which may have taken hours; after one that came to nothing it is
 * never at once.
 */
bool
ib_catalog_change_state(int32 path, PathState from, PathState to, const char *error)
{
	Oid			types[] = {INT4OID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[] = {
		Int32GetDatum(path),
		CStringGetTextDatum(state_names[to]),
		error ? CStringGetTextDatum(error) : (Datum) 0,
		CStringGetTextDatum(state_names[from]),
	};
	char		nulls[] = {' ', ' ', error ? ' ' : 'n', ' ', '\0'};
	bool		changed;

	ib_catalog_see_latest();
	SPI_connect();
	ib_spi("UPDATE incbatch.path SET state = $2, last_error = $3,"
		   " state_since = pg_catalog.clock_timestamp(),"
		   " rebuilt_at = CASE WHEN state OPERATOR(pg_catalog.=) 'backfilling'"
		   " AND (rebuilt_at IS NOT NULL OR $2 OPERATOR(pg_catalog.=) 'needs_rebuild')"
		   " THEN pg_catalog.clock_timestamp() ELSE rebuilt_at END,"
		   " rebuild_delay = CASE WHEN state OPERATOR(pg_catalog.=) 'backfilling'"
		   " AND $2 OPERATOR(pg_catalog.=) 'needs_rebuild'"
		   " THEN greatest(rebuild_delay, '1 minute'::pg_catalog.interval) ELSE rebuild_delay END"
		   " WHERE id OPERATOR(pg_catalog.=) $1"
		   " AND (state OPERATOR(pg_catalog.=) $4 OR $2 OPERATOR(pg_catalog.=) 'needs_rebuild'"
		   " AND state OPERATOR(pg_catalog.=) ANY ('{running,failed}'))",
		   SPI_OK_UPDATE, lengthof(types), types, values, nulls);
	changed = SPI_processed > 0;
	SPI_finish();
	return changed;
}

bool
ib_catalog_is_running(int32 path)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(path)};
	bool		running;

	SPI_connect();
	ib_spi("SELECT FROM incbatch.path WHERE id OPERATOR(pg_catalog.=) $1"
		   " AND state OPERATOR(pg_catalog.=) 'running'",
		   SPI_OK_SELECT, lengthof(types), types, values, NULL);
	running = SPI_processed == 1;
	SPI_finish();
	return running;
}

/*
 * Lock a path's row for a change of its state, unless a session that is
 * changing the path has it locked: that may take its time.
 */
bool
ib_catalog_lock_path(int32 path)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(path)};
	bool		locked;

	ib_catalog_see_latest();
	SPI_connect();
	ib_spi("SELECT FROM incbatch.path WHERE id OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE SKIP LOCKED",
		   SPI_OK_SELECT, 1, types, values, NULL);
	locked = SPI_processed == 1;
	SPI_finish();
	return locked;
}

/* Store a frontier; its partitions only where they changed, for they may be many. */
void
ib_catalog_store_frontier(int32 path, const Frontier *frontier, bool new_partitions)
{
	Oid			types[] = {INT4OID, LSNOID, LSNOID, PG_SNAPSHOTOID, BOOLOID,
	TIMESTAMPTZOID, INT8ARRAYOID, INT8OID};
	Datum		values[8];
	char		nulls[] = "        ";

	values[0] = Int32GetDatum(path);
	values[1] = LSNGetDatum(frontier->lsn);
	values[2] = LSNGetDatum(frontier->decoded_lsn);
	values[3] = frontier->snapshot;
	values[4] = BoolGetDatum(frontier->aligned);
	values[5] = TimestampTzGetDatum(frontier->as_of);
	values[6] = frontier->partitions;
	nulls[6] = new_partitions ? ' ' : 'n';
	values[7] = Int64GetDatum(frontier->meaning);
	ib_catalog_see_latest();
	SPI_connect();
	ib_spi("INSERT INTO incbatch.frontier AS f (path, lsn, decoded_lsn, snapshot, aligned, as_of, partitions, meaning)"
		   " VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (path) DO UPDATE"
		   " SET lsn = $2, decoded_lsn = $3, snapshot = $4, aligned = $5, as_of = $6,"
		   " partitions = coalesce($7, f.partitions), meaning = $8",
		   SPI_OK_INSERT, 8, types, values, nulls);
	SPI_finish();
}

/*
 * Let a path that needs a rebuild be rebuilt, and say when that may be the next
 * time: the sooner the rarer it is.  False: it does not need one any more, or
 * not yet.
 */
bool
ib_catalog_begin_rebuild(int32 path)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(path)};
	bool		begun;

	ib_catalog_see_latest();
	SPI_connect();
	ib_spi("UPDATE incbatch.path SET state = 'initializing', last_error = NULL,"
		   " state_since = pg_catalog.clock_timestamp(), rebuilt_at = pg_catalog.clock_timestamp(),"
		   " rebuild_delay = CASE WHEN rebuilt_at OPERATOR(pg_catalog.+) rebuild_delay OPERATOR(pg_catalog.+)"
		   " '1 hour'::pg_catalog.interval OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()"
		   " THEN least(rebuild_delay OPERATOR(pg_catalog.*) 2, '1 hour'::pg_catalog.interval)"
		   " ELSE '1 minute'::pg_catalog.interval END"
		   " WHERE id OPERATOR(pg_catalog.=) $1 AND state OPERATOR(pg_catalog.=) 'needs_rebuild'"
		   " AND coalesce(rebuilt_at OPERATOR(pg_catalog.+) rebuild_delay, '-infinity')"
		   " OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp()",
		   SPI_OK_UPDATE, 1, types, values, NULL);
	begun = SPI_processed == 1;
	SPI_finish();
	return begun;
}

void
ib_catalog_forget_frontier(int32 path)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(path)};

	SPI_connect();
	ib_spi("DELETE FROM incbatch.frontier WHERE path OPERATOR(pg_catalog.=) $1",
		   SPI_OK_DELETE, 1, types, values, NULL);
	SPI_finish();
}

/* The stored frontier, in the caller's memory context. */
bool
ib_catalog_fetch_frontier(int32 path, Snapshot snapshot, Frontier *frontier)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(path)};
	MemoryContext caller = CurrentMemoryContext;
	bool		found;

	SPI_connect();
	ib_spi_snapshot("SELECT lsn, decoded_lsn, snapshot, aligned, as_of, partitions, meaning FROM incbatch.frontier"
					" WHERE path OPERATOR(pg_catalog.=) $1",
					SPI_OK_SELECT, 1, types, values, snapshot);
	found = SPI_processed == 1;
	if (found)
	{
		MemoryContext spi = MemoryContextSwitchTo(caller);

		read_frontier(SPI_tuptable->vals[0], 1, frontier);
		MemoryContextSwitchTo(spi);
	}
	SPI_finish();
	return found;
}

/* Let a path contain what another contains, as a snapshot shows that one. */
void
ib_catalog_copy_path(int32 from, int32 to, Snapshot snapshot)
{
	static const char *const statements[] = {
		"INSERT INTO incbatch.frontier AS f (path, lsn, decoded_lsn, snapshot, aligned, as_of, partitions, meaning)"
		" SELECT $2, lsn, decoded_lsn, snapshot, aligned, as_of, partitions, meaning"
		" FROM incbatch.frontier WHERE path OPERATOR(pg_catalog.=) $1 ON CONFLICT (path) DO UPDATE"
		" SET lsn = excluded.lsn, decoded_lsn = excluded.decoded_lsn, snapshot = excluded.snapshot,"
		" aligned = excluded.aligned, as_of = excluded.as_of, partitions = excluded.partitions,"
		" meaning = excluded.meaning",
		"INSERT INTO incbatch.path_watermark (path, largest, closed, removed, watermark, rows_late, rows_ahead)"
		" SELECT $2, largest, closed, removed, watermark, rows_late, rows_ahead"
		" FROM incbatch.path_watermark WHERE path OPERATOR(pg_catalog.=) $1 ON CONFLICT (path) DO UPDATE"
		" SET largest = excluded.largest, closed = excluded.closed, removed = excluded.removed,"
		" watermark = excluded.watermark, rows_late = excluded.rows_late, rows_ahead = excluded.rows_ahead",
		"INSERT INTO incbatch.late_window (path, window_start)"
		" SELECT $2, window_start FROM incbatch.late_window WHERE path OPERATOR(pg_catalog.=) $1",
		"INSERT INTO incbatch.late_row (path, event_time, watermark, change, \"row\", commit_lsn, commit_time)"
		" SELECT $2, event_time, watermark, change, \"row\", commit_lsn, commit_time"
		" FROM incbatch.late_row WHERE path OPERATOR(pg_catalog.=) $1 ORDER BY number",
		"INSERT INTO incbatch.failed_row (path, change, \"row\", image, error, sqlstate, commit_lsn, commit_time, left_out)"
		" SELECT $2, change, \"row\", image, error, sqlstate, commit_lsn, commit_time, left_out"
		" FROM incbatch.failed_row WHERE path OPERATOR(pg_catalog.=) $1 ORDER BY number",
	};
	Oid			types[] = {INT4OID, INT4OID};
	Datum		values[] = {Int32GetDatum(from), Int32GetDatum(to)};

	SPI_connect();
	ib_spi("DELETE FROM incbatch.late_window WHERE path OPERATOR(pg_catalog.=) $1",
		   SPI_OK_DELETE, 1, types, &values[1], NULL);
	ib_spi("DELETE FROM incbatch.late_row WHERE path OPERATOR(pg_catalog.=) $1",
		   SPI_OK_DELETE, 1, types, &values[1], NULL);
	ib_spi("DELETE FROM incbatch.failed_row WHERE path OPERATOR(pg_catalog.=) $1",
		   SPI_OK_DELETE, 1, types, &values[1], NULL);
	for (int i = 0; i < lengthof(statements); i++)
		ib_spi_snapshot(statements[i], SPI_OK_INSERT, lengthof(types), types, values, snapshot);
	SPI_finish();
}

/* A batch that failed, with its error; how far it got nobody knows. */
void
ib_catalog_log_failure(int32 path, const char *reason, TimestampTz started_at,
					   const char *error)
{
	Oid			types[] = {INT4OID, TIMESTAMPTZOID, TEXTOID, TEXTOID};
	Datum		values[] = {
		Int32GetDatum(path),
		TimestampTzGetDatum(started_at),
		CStringGetTextDatum(reason),
		CStringGetTextDatum(error),
	};

	SPI_connect();
	ib_spi("INSERT INTO incbatch.batch (path, started_at, finished_at, reason, transactions,"
		   " rows_in, groups_changed, read_ms, transform_ms, merge_ms, commit_ms, cpu_ms,"
		   " wal_bytes, latency_max, strategy, rows_late, rows_ahead, error,"
		   " runs, groups_new, ahead_ms, read_cpu_ms)"
		   " SELECT $1, $2, pg_catalog.clock_timestamp(), $3, 0, 0, 0, 0, 0, 0, 0, 0, 0, '0',"
		   " 'none', 0, 0, $4, 1, 0, 0, 0"
		   " FROM incbatch.path WHERE id OPERATOR(pg_catalog.=) $1 FOR KEY SHARE SKIP LOCKED",
		   SPI_OK_INSERT, lengthof(types), types, values, NULL);
	SPI_finish();
}

/*
 * Do the frontiers in this catalog speak of this database of this cluster?
 * Not in a copy of either, whose WAL is another.
 */
bool
ib_catalog_slot_is_at_home(void)
{
	Oid			types[] = {OIDOID, INT8OID};
	Datum		values[] = {
		ObjectIdGetDatum(MyDatabaseId),
		Int64GetDatum((int64) GetSystemIdentifier()),
	};
	bool		at_home;

	SPI_connect();
	ib_spi("SELECT FROM incbatch.slot WHERE database OPERATOR(pg_catalog.=) $1"
		   " AND system_identifier OPERATOR(pg_catalog.=) $2",
		   SPI_OK_SELECT, 2, types, values, NULL);
	at_home = SPI_processed == 1;
	SPI_finish();
	return at_home;
}

void
ib_catalog_store_slot(XLogRecPtr created_lsn)
{
	char	   *name = ib_slot_name(MyDatabaseId);
	Oid			types[] = {NAMEOID, OIDOID, INT8OID, LSNOID};
	Datum		values[] = {
		DirectFunctionCall1(namein, CStringGetDatum(name)),
		ObjectIdGetDatum(MyDatabaseId),
		Int64GetDatum((int64) GetSystemIdentifier()),
		LSNGetDatum(created_lsn),
	};

	SPI_connect();
	ib_spi("DELETE FROM incbatch.slot", SPI_OK_DELETE, 0, NULL, NULL, NULL);
	ib_spi("INSERT INTO incbatch.slot (slot_name, database, system_identifier, created_lsn)"
		   " VALUES ($1, $2, $3, $4)",
		   SPI_OK_INSERT, 4, types, values, NULL);
	SPI_finish();
}
