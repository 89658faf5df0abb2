/*
 * hooks.c
 *	  What sessions do for the worker: wake it at commit, send it away while its
 *	  database is dropped, copied, renamed or moved, and tell it in the WAL what
 *	  a table holds that becomes a partition.
 *
 * All of it runs in other people's sessions, so it is short and cannot fail
 * on its own account.  A commit costs a backend one look at a flag; the flag
 * is set only while a worker sleeps that wants to be woken.
 */
#include "incbatch.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_inherits.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "decode.h"
#include "shmem.h"
#include "source.h"

static ProcessUtility_hook_type prev_process_utility = NULL;
static object_access_hook_type prev_object_access = NULL;

/* This database's entry, once seen; checked before each use. */
static DatabaseEntry *my_entry = NULL;
static bool wake_at_commit = false;
static bool holding = false;

/* This transaction changes pipelines: tell the worker when it commits. */
void
ib_wake_worker_at_commit(void)
{
	wake_at_commit = true;
}

/* Send a worker away until the end of this transaction. */
void
ib_hold_worker(Oid database)
{
	holding = true;
	ib_database_hold(database);
}

static DatabaseEntry *
find_my_entry(void)
{
	if (my_entry == NULL || my_entry->database != MyDatabaseId)
	{
		LWLockAcquire(ib_shared->lock, LW_SHARED);
		my_entry = ib_database_find(MyDatabaseId);
		LWLockRelease(ib_shared->lock);
	}
	return my_entry;
}

/* Wake a worker that sleeps until somebody commits; once for all who do. */
static void
wake_sleeping_worker(void)
{
	DatabaseEntry *entry = my_entry;

	if (entry == NULL || entry->database != MyDatabaseId)
		return;
	if (pg_atomic_read_u32(&entry->wake_on_commit) != 0 &&
		pg_atomic_exchange_u32(&entry->wake_on_commit, 0) != 0)
		SetLatch(&ProcGlobal->allProcs[entry->pgprocno].procLatch);
}

static void
at_transaction_end(XactEvent event, void *arg)
{
	if (ib_shared == NULL || !OidIsValid(MyDatabaseId))
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			/* looking up takes a lock, which is better done before */
			if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
				(void) find_my_entry();
			return;
		case XACT_EVENT_COMMIT:
			if (wake_at_commit)
				ib_database_wake(MyDatabaseId);
			else if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
				wake_sleeping_worker();
			break;
		case XACT_EVENT_ABORT:
			break;
		case XACT_EVENT_PREPARE:
			/* whoever commits it tells the worker */
			break;
		default:
			return;
	}
	wake_at_commit = false;
	if (holding)
		ib_database_release_held();
	holding = false;
}

/* May this role, as CREATE DATABASE sees it, copy that database? */
static bool
may_copy_database(Oid database)
{
	HeapTuple	role = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	bool		may = superuser();

	if (!may && HeapTupleIsValid(role) && HeapTupleIsValid(tuple))
		may = ((Form_pg_authid) GETSTRUCT(role))->rolcreatedb &&
			(((Form_pg_database) GETSTRUCT(tuple))->datistemplate ||
			 ib_database_ownercheck(database, GetUserId()));
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	if (HeapTupleIsValid(role))
		ReleaseSysCache(role);
	return may;
}

/* The database that a statement needs for itself, or InvalidOid. */
static Oid
database_needed_by(Node *statement)
{
	const char *name = NULL;
	List	   *options;
	Oid			database;
	ListCell   *lc;

	switch (nodeTag(statement))
	{
		case T_DropdbStmt:
			name = castNode(DropdbStmt, statement)->dbname;
			break;
		case T_CreatedbStmt:
			options = castNode(CreatedbStmt, statement)->options;
			foreach(lc, options)
			{
				DefElem    *option = lfirst_node(DefElem, lc);

				if (strcmp(option->defname, "template") == 0 && option->arg)
					name = defGetString(option);
			}
			break;
		case T_RenameStmt:
			if (castNode(RenameStmt, statement)->renameType == OBJECT_DATABASE)
				name = castNode(RenameStmt, statement)->subname;
			break;
		case T_AlterDatabaseStmt:
			options = castNode(AlterDatabaseStmt, statement)->options;
			foreach(lc, options)
			{
				const char *option = lfirst_node(DefElem, lc)->defname;

				if (strcmp(option, "tablespace") == 0 ||
					strcmp(option, "allow_connections") == 0 ||
					strcmp(option, "is_template") == 0)
					name = castNode(AlterDatabaseStmt, statement)->dbname;
			}
			break;
		default:
			break;
	}
	if (name == NULL)
		return InvalidOid;

	/* whoever may not do it gets core's error, and the worker stays */
	database = get_database_oid(name, true);
	if (OidIsValid(database) &&
		!(IsA(statement, CreatedbStmt) ? may_copy_database(database) :
		  ib_database_ownercheck(database, GetUserId())))
		return InvalidOid;
	return database;
}

/* The tables that say what there is to do for a worker, or none of them. */
static bool
find_catalog(Oid tables[2])
{
	Oid			schema = get_namespace_oid(IB_SCHEMA, true);

	tables[0] = OidIsValid(schema) ? get_relname_relid("pipeline", schema) : InvalidOid;
	tables[1] = OidIsValid(schema) ? get_relname_relid("path", schema) : InvalidOid;
	return OidIsValid(tables[0]) && OidIsValid(tables[1]);
}

/*
 * May a prepared transaction have changed pipelines?  Not even the session that
 * prepared it remembers; but whoever changes them holds a lock on their tables.
 */
static bool
pipelines_are_changed(void)
{
	Oid			tables[2];

	if (!find_catalog(tables))
		return false;
	for (int i = 0; i < lengthof(tables); i++)
	{
		LOCKTAG		tag;
		int			holders;

		SET_LOCKTAG_RELATION(tag, MyDatabaseId, tables[i]);
		(void) GetLockConflicts(&tag, ShareLock, &holders);
		if (holders > 0)
			return true;
	}
	return false;
}

static void
process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *statement = pstmt->utilityStmt;
	bool		commits_prepared = IsA(statement, TransactionStmt) &&
		castNode(TransactionStmt, statement)->kind == TRANS_STMT_COMMIT_PREPARED;
	bool		changes_pipelines = false;
	bool		had_catalog = false;
	Oid			database = InvalidOid;
	Oid			tables[2];

	if (ib_shared != NULL && commits_prepared)
	{
		had_catalog = find_catalog(tables);
		changes_pipelines = pipelines_are_changed();
	}
	if (ib_shared != NULL && context != PROCESS_UTILITY_SUBCOMMAND)
	{
		database = database_needed_by(statement);
		if (OidIsValid(database))
			ib_hold_worker(database);
	}

	if (prev_process_utility)
		prev_process_utility(pstmt, query, read_only_tree, context, params, env, dest, qc);
	else
		standard_ProcessUtility(pstmt, query, read_only_tree, context, params, env, dest, qc);

	/* a worker may be allowed now where none was */
	if (OidIsValid(database) && IsA(statement, AlterDatabaseStmt))
		ib_database_want(database);

	/* the prepared transaction's XID is not this transaction's */
	if (ib_shared != NULL && commits_prepared)
	{
		/* CREATE EXTENSION may have been in it */
		if (!had_catalog)
			AcceptInvalidationMessages();
		if (changes_pipelines || (!had_catalog && find_catalog(tables)))
			ib_wake_worker_at_commit();
		(void) find_my_entry();
		wake_sleeping_worker();
	}
}

/*
 * A table became a partition, or is none any more: whoever follows the
 * partitioned table must know whether rows came with it.
 */
static void
tell_partition(Oid partition, Oid parent)
{
	if (XLogLogicalInfoActive() &&
		get_rel_relkind(parent) == RELKIND_PARTITIONED_TABLE)
		ib_tell_partition(partition, ib_partition_joins_empty(partition, parent));
}

/*
 * DROP EXTENSION leaves a slot behind, which only the worker can drop; after
 * ALTER EXTENSION UPDATE there may be another version.
 */
static void
object_access(ObjectAccessType access, Oid class, Oid object, int subid, void *arg)
{
	if (prev_object_access)
		prev_object_access(access, class, object, subid, arg);
	if (ib_shared == NULL)
		return;
	if ((access == OAT_DROP || access == OAT_POST_ALTER) && class == ExtensionRelationId &&
		object == get_extension_oid(IB_NAME, true))
		ib_wake_worker_at_commit();
	if (access == OAT_POST_ALTER && class == InheritsRelationId)
		tell_partition(object, ((ObjectAccessPostAlter *) arg)->auxiliary_id);
}

void
ib_hooks_init(void)
{
	RegisterXactCallback(at_transaction_end, NULL);
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
	prev_object_access = object_access_hook;
	object_access_hook = object_access;
}
