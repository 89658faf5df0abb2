/*
 * statement.c
 *	  Running a path's statements: the locks that they need, the owner as whom
 *	  and the settings under which they run, the tuplestores that they read and
 *	  fill.
 *
 * Statements run as the owner of the state table under restricted operation,
 * with a fixed search_path and the settings that the pipeline stored.  Locks are
 * tried for, not waited for, but those on rows, for which there is a limit.
 *
 * Not here: what the statements say (delta.c, recompute.c), and what a run makes
 * of them (apply.c).
 */
#include "incbatch.h"

#include "access/htup_details.h"
#include "executor/spi.h"
#include "executor/tstoreReceiver.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "tcop/dest.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "path.h"
#include "query.h"
#include "source.h"

/* What a query names in FROM; tracked lookups can be nowhere else. */
static List *
tables_of(Oid definition)
{
	List	   *tables = NIL;
	ListCell   *lc;

	foreach(lc, ib_query_of_view(definition)->rtable)
	{
		if (lfirst_node(RangeTblEntry, lc)->rtekind == RTE_RELATION)
			tables = lappend_oid(tables, lfirst_node(RangeTblEntry, lc)->relid);
	}
	return tables;
}

/*
 * For the rest of this transaction: a lock of somebody else, such as one on a
 * row of a state table, must not hold up the other paths for long.  What fails
 * for it is tried again (ib_path_fail).
 */
void
ib_limit_lock_waits(void)
{
	(void) set_config_option("lock_timeout", MUTANT(LOCK_WAITS) ? "0" : "100ms",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

/* Show who is in the way of a path: a table that is locked, or InvalidOid. */
void
ib_path_note_lock(IbPath *path, Oid relid)
{
	PathEntry  *shared = path->shared;

	if (OidIsValid(relid) && pg_atomic_read_u32(&shared->locked) == InvalidOid)
		pg_atomic_write_u64(&shared->locked_since, ib_monotonic_usecs());
	pg_atomic_write_u32(&shared->locked, relid);
}

static bool
lock_table(IbPath *path, Oid relid, LOCKMODE mode)
{
	bool		locked = ConditionalLockRelationOid(relid, mode);

	if (!locked)
		ib_path_note_lock(path, relid);
	return locked;
}

/*
 * Lock what the query of a path reads, unless somebody else has it locked: a
 * TRUNCATE or ALTER TABLE must not hold up the pipelines of other tables.  The
 * source is only read to make statements, and to compute groups anew; lookups
 * are known once there are statements, which are made without looking at those
 * that are not tracked.
 */
bool
ib_lock_sources(IbPath *path, bool with_source)
{
	PathStatements *statements = path->statements;
	List	   *relations = NIL;
	ListCell   *lc;

	if (statements == NULL || statements->stale || statements->query->may_recompute ||
		path->row->track_lookups)
		with_source = true;
	if (with_source && !ib_source_lock(path->row->source))
	{
		ib_path_note_lock(path, path->row->source);
		return false;
	}
	if (statements != NULL)
		relations = statements->relations;
	else if (path->row->track_lookups)
		relations = tables_of(path->row->definition);
	foreach(lc, relations)
	{
		if (lfirst_oid(lc) != path->row->source &&
			!lock_table(path, lfirst_oid(lc), AccessShareLock))
			return false;
	}
	if (path->lock_tries == 0)
		ib_path_note_lock(path, InvalidOid);
	return true;
}

/*
 * Lock all that a run needs, unless somebody else has it locked or the state
 * table is gone.  Done before the run takes its snapshot: a table that is
 * rewritten between the two would look empty.
 */
bool
ib_lock_tables(IbPath *path, bool with_source)
{
	return lock_table(path, path->row->state_table, RowExclusiveLock) &&
		SearchSysCacheExists1(RELOID, ObjectIdGetDatum(path->row->state_table)) &&
		ib_lock_sources(path, with_source);
}

/*
 * Give settings the values of a list, until the current nest level ends.  Some
 * are dear to set (timezone_abbreviations reads a file), and most are so already.
 */
void
ib_apply_settings(List *settings)
{
	for (int i = 0; i + 1 < list_length(settings); i += 2)
	{
		const char *name = list_nth(settings, i);
		const char *value = list_nth(settings, i + 1);
		const char *current = GetConfigOption(name, true, false);

		if (current == NULL || strcmp(current, value) != 0)
			(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
									 GUC_ACTION_SAVE, true, 0, false);
	}
}

/* Settings under which a name in SQL that incbatch writes is what it was meant to be */
List *
ib_name_settings(void)
{
	return list_make4("search_path", "pg_catalog, pg_temp", "quote_all_identifiers", "off");
}

/*
 * Settings under which a part of a query may become text and is read again as
 * it was: its constants, and the names of its columns.
 */
List *
ib_text_settings(void)
{
	static const char *const settings[] = {
		"DateStyle", "ISO",
		"IntervalStyle", "postgres",
		"extra_float_digits", "1",
		"xmloption", "content",
		"standard_conforming_strings", "on",
		"array_nulls", "on",
		"transform_null_equals", "off",
		"quote_all_identifiers", "off",
	};
	List	   *result = NIL;

	for (int i = 0; i < lengthof(settings); i++)
		result = lappend(result, unconstify(char *, settings[i]));
	return result;
}

Oid
ib_relation_owner(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* Act as a role, under restricted operation, with settings, in SPI. */
void
ib_enter_role(Oid role, List *settings, OwnerScope *scope)
{
	GetUserIdAndSecContext(&scope->save_userid, &scope->save_context);
	if (!MUTANT(OWNER))
		SetUserIdAndSecContext(role, scope->save_context | SECURITY_RESTRICTED_OPERATION);
	scope->guc_level = NewGUCNestLevel();
	ib_apply_settings(settings);
	SPI_connect();
}

void
ib_enter_owner(IbPath *path, OwnerScope *scope)
{
	ib_enter_role(ib_relation_owner(path->row->state_table), path->row->settings, scope);
}

void
ib_leave_owner(OwnerScope *scope)
{
	SPI_finish();
	AtEOXact_GUC(false, scope->guc_level);
	SetUserIdAndSecContext(scope->save_userid, scope->save_context);
}

/* Run a statement, its rows into a tuplestore if there is one. */
int64
ib_run_statement(const char *sql, int expected, Tuplestorestate *result)
{
	SPIExecuteOptions options = {0};
	int			code;

	if (result != NULL)
	{
		options.dest = CreateDestReceiver(DestTuplestore);
		SetTuplestoreDestReceiverParams(options.dest, result,
										CurrentMemoryContext, false, NULL, NULL);
	}
	code = SPI_execute_extended(sql, &options);
	if (code != expected)
		elog(ERROR, "%s: %s", SPI_result_code_string(code), sql);
	return SPI_processed;
}

/* Let the statements that follow read a tuplestore by a name. */
void
ib_offer_relation(const char *name, Oid like, TupleDesc desc,
				  Tuplestorestate *store, double rows)
{
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));
	int			code;

	relation->md.name = pstrdup(name);
	relation->md.reliddesc = like;
	relation->md.tupdesc = desc;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = rows;
	relation->reldata = store;
	code = SPI_register_relation(relation);
	if (code != SPI_OK_REL_REGISTER)
		elog(ERROR, "%s: %s", SPI_result_code_string(code), name);
}
