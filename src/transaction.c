/*
 * transaction.c
 *	  The worker's transactions.
 *
 * What the worker keeps outlives them: after each it is back in
 * TopMemoryContext.
 */
#include "incbatch.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "path.h"

/* Begin a transaction that reads no table until it takes a snapshot. */
void
ib_begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
}

/*
 * Begin one that only does something with incbatch's own tables.  The activity
 * is shown; NULL leaves what is shown.
 */
void
ib_begin_catalog(const char *activity)
{
	if (activity != NULL)
		ib_activity(ACTIVITY_CATALOG, 0, activity);
	ib_begin();
	ib_catalog_expect();
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
