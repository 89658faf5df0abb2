/*
 * frontier.c
 *	  Exactly which transactions a path contains.
 *
 * A decoded commit may not be visible yet, and a visible one not decoded.  So
 * a run takes a snapshot, decodes everything that the snapshot can see, folds
 * in what it sees and holds the rest back.  The frontier says what that was:
 *
 *		included(T) =  commit of T < lsn
 *					or commit of T < decoded_lsn and T visible in snapshot
 *
 * where the commit of T is the start of its commit record.  When the run has
 * decoded all that its snapshot sees (aligned), the aggregate equals the query
 * evaluated under that snapshot.  A run that eats a piece of a backlog stops
 * earlier; then decoded_lsn is what bounds it.
 */
#include "incbatch.h"

#include "access/transam.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/xid8.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

#include "frontier.h"
#include "shmem.h"

/* Widen the XID of a transaction that is not older than two billion. */
static FullTransactionId
widen_xid(TransactionId xid)
{
	FullTransactionId next = ReadNextFullTransactionId();
	uint32		epoch = EpochFromFullTransactionId(next);

	if (xid > XidFromFullTransactionId(next))
		epoch--;
	return FullTransactionIdFromEpochAndXid(epoch, xid);
}

bool
ib_frontier_includes(const Frontier *frontier, TransactionId xid,
					 XLogRecPtr commit_lsn)
{
	if (commit_lsn < frontier->lsn || (MUTANT(FRONTIER_EDGE) && commit_lsn == frontier->lsn))
		return true;
	if (commit_lsn >= frontier->decoded_lsn)
		return false;
	return DatumGetBool(DirectFunctionCall2(pg_visible_in_snapshot,
											FullTransactionIdGetDatum(widen_xid(xid)),
											frontier->snapshot));
}

/* A copy that lives as long as a memory context. */
Frontier
ib_frontier_copy(const Frontier *frontier, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	Frontier	copy = *frontier;

	if (frontier->snapshot)
		copy.snapshot = datumCopy(frontier->snapshot, false, -1);
	if (frontier->partitions)
		copy.partitions = datumCopy(frontier->partitions, false, -1);
	MemoryContextSwitchTo(old);
	return copy;
}

/* Free what a copy consists of. */
void
ib_frontier_free(Frontier *frontier)
{
	if (frontier->snapshot)
		pfree(DatumGetPointer(frontier->snapshot));
	if (frontier->partitions)
		pfree(DatumGetPointer(frontier->partitions));
}

/* The active snapshot as a pg_snapshot. */
Datum
ib_frontier_current_snapshot(void)
{
	LOCAL_FCINFO(fcinfo, 0);

	InitFunctionCallInfoData(*fcinfo, NULL, 0, InvalidOid, NULL, NULL);
	return pg_current_snapshot(fcinfo);
}

/*
 * A pg_snapshot as a snapshot to read with.  It lists no subtransactions, so
 * it says that it overflowed and core looks up their parents.  The caller
 * must hold an older snapshot, which keeps what this one sees from vacuum.
 */
Snapshot
ib_frontier_mvcc_snapshot(Datum pg_snapshot)
{
	Snapshot	snapshot = palloc0(sizeof(SnapshotData));
	char	   *next = DatumGetCString(DirectFunctionCall1(pg_snapshot_out,
														   pg_snapshot));
	int			max_xip = 1;

	for (char *c = next; *c; c++)
		max_xip += *c == ',';

	snapshot->snapshot_type = SNAPSHOT_MVCC;
	snapshot->xmin = (TransactionId) strtou64(next, &next, 10);
	snapshot->xmax = (TransactionId) strtou64(next + 1, &next, 10);
	snapshot->xip = palloc(sizeof(TransactionId) * max_xip);
	while (*next != '\0' && next[1] != '\0')
		snapshot->xip[snapshot->xcnt++] =
			(TransactionId) strtou64(next + 1, &next, 10);
	snapshot->suboverflowed = true;
	snapshot->curcid = FirstCommandId;
	return snapshot;
}

/*
 * Is there a transaction whose commit is in the WAL but which the snapshot
 * does not see, other than those the caller knows of?  Only while there is
 * none may the snapshot be taken to see every commit that was read before.
 *
 * A commit record is followed by the mark in the commit log, in a section in
 * which the backend delays checkpoints; once those sections that are open now
 * have ended, every commit record written before has its mark.
 */
bool
ib_frontier_commits_lingering(Snapshot snapshot,
							  bool (*known) (TransactionId xid, void *arg),
							  void *arg)
{
	int			ncommitting;
	VirtualTransactionId *committing =
		GetVirtualXIDsDelayingChkpt(&ncommitting, DELAY_CHKPT_START);

	while (ncommitting > 0 &&
		   HaveVirtualXIDsDelayingChkpt(committing, ncommitting, DELAY_CHKPT_START))
	{
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 1, ib_wait_event(WAIT_FOR_VISIBILITY));
		ResetLatch(MyLatch);
	}
	pfree(committing);

	for (uint32 i = 0; i < snapshot->xcnt; i++)
	{
		if (TransactionIdDidCommit(snapshot->xip[i]) &&
			!known(snapshot->xip[i], arg))
			return true;
	}
	return false;
}
