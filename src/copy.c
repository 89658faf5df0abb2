/*
 * copy.c
 *	  A path begins as a copy of a sibling.
 *
 * Paths of one pipeline hold the same at the same frontier.  So a path that is
 * to be filled takes over the rows of a sibling that runs, and its frontier,
 * watermark and late rows, instead of reading the source.  The worker runs the
 * sibling right before, so that the frontier is where the decoder stands: both
 * go on from there, and nothing is read twice.
 *
 * One transaction; readers see the rows that the path had until it commits.  A
 * crash before that leaves the path initializing, and it is copied again.
 */
#include "incbatch.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "executor/spi.h"
#include "storage/lmgr.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "family.h"
#include "path.h"
#include "query.h"

static bool
lock_state(Oid table, LOCKMODE mode)
{
	return ConditionalLockRelationOid(table, mode) &&
		SearchSysCacheExists1(RELOID, ObjectIdGetDatum(table));
}

/* Lock both tables for this transaction, unless somebody else has one locked. */
static bool
lock_both(IbPath *path, IbPath *sibling)
{
	return lock_state(path->row->state_table, RowExclusiveLock) &&
		lock_state(sibling->row->state_table, AccessShareLock);
}

/* Whether a copy could be made now: if not, the sibling need not run for it. */
bool
ib_path_can_copy(IbPath *path, IbPath *sibling)
{
	bool		can;

	ib_begin_catalog(NULL);
	can = lock_both(path, sibling) && ib_catalog_lock_path(path->row->path);
	ib_commit();
	return can;
}

/*
 * Copy a sibling that has just run.  False: not now, a table is locked, or the
 * path itself by a session that changes it, or one of the two is to do something
 * else by now.  The path does not collect; it has the sibling's frontier then.
 */
bool
ib_path_copy(IbPath *path, IbPath *sibling)
{
	OwnerScope	scope;
	Frontier	frontier;

	ib_begin();
	ib_limit_lock_waits();
	path->writes = path->row->state_table;
	if (!lock_both(path, sibling))
	{
		ib_commit();
		return false;
	}
	PushActiveSnapshot(GetTransactionSnapshot());
	if (!ib_catalog_lock_path(path->row->path))
	{
		ib_commit();
		return false;
	}
	ib_enter_owner(path, &scope);
	ib_run_statement(psprintf("DELETE FROM %s", ib_query_relation_name(path->row->state_table)),
					 SPI_OK_DELETE, NULL);
	ib_family_copy_rows(sibling->row->state_table, path->row->state_table, GetActiveSnapshot());
	ib_leave_owner(&scope);
	FAULT(COPIED);
	ib_catalog_copy_path(sibling->row->path, path->row->path, GetActiveSnapshot());
	if (!ib_catalog_change_state(path->row->path, path->row->state, PATH_RUNNING, NULL) ||
		!ib_catalog_is_running(sibling->row->path))
	{
		/* somebody asked for a rebuild meanwhile */
		ib_rollback();
		return false;
	}
	if (!ib_catalog_fetch_frontier(path->row->path, InvalidSnapshot, &frontier))
		elog(ERROR, "a sibling that runs has no frontier");
	ib_commit();

	path->row->state = PATH_RUNNING;
	path->row->has_frontier = true;
	path->row->left_out = sibling->row->left_out;
	path->stored_lsn = path->confirmable = frontier.lsn;
	path->stored_commit = XactLastCommitEnd;
	path->ran_at = sibling->ran_at;
	ib_path_publish(path, pg_atomic_read_u64(&sibling->shared->frontier_lsn),
					pg_atomic_read_u64(&sibling->shared->decoded_lsn),
					pg_atomic_read_u64(&sibling->shared->as_of));
	return true;
}
