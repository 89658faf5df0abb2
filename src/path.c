/*
 * path.c
 *	  The worker's transactions, and the state of a path.
 *
 * What the worker keeps outlives transactions: after each it is back in
 * TopMemoryContext.
 *
 * Not here: what a run does (apply.c), and which state follows (worker.c).
 */
#include "incbatch.h"

#include "access/xact.h"
#include "pgstat.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "path.h"

/* Begin a transaction that reads no table until it takes a snapshot. */
void
ib_begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
}

/* Begin one that does something with incbatch's own tables. */
void
ib_begin_catalog(const char *activity)
{
	ib_activity(ACTIVITY_CATALOG, 0, activity);
	ib_begin();
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
ib_commit(void)
{
	if (ActiveSnapshotSet())
		PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(TopMemoryContext);
}

/* Leave what was done undone; not after an error. */
void
ib_rollback(void)
{
	AbortCurrentTransaction();
	MemoryContextSwitchTo(TopMemoryContext);
}

/*
 * Let a path enter a state.  False: somebody else changed it meanwhile, which
 * the worker sees when it reads the catalog again.
 */
bool
ib_path_change_state(IbPath *path, PathState state, const char *error)
{
	/* what could not be filled must not go on from the rows of before */
	bool		forget = state == PATH_FAILED && path->row->state != PATH_RUNNING;
	bool		changed;

	ib_begin();
	PushActiveSnapshot(GetTransactionSnapshot());
	changed = ib_catalog_change_state(path->row->path, path->row->state, state, error);
	if (changed && forget)
		ib_catalog_forget_frontier(path->row->path);
	ib_commit();
	if (changed)
	{
		path->row->state = state;
		path->row->has_frontier = path->row->has_frontier && !forget;
	}
	return changed;
}
