/*
 * frontier.h
 *	  Exactly which transactions a path contains.
 */
#ifndef IB_FRONTIER_H
#define IB_FRONTIER_H

#include "incbatch.h"

#include "fmgr.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"

typedef struct Frontier
{
	XLogRecPtr	lsn;			/* every commit before it is included */
	XLogRecPtr	decoded_lsn;	/* up to here, what the snapshot sees is too */
	Datum		snapshot;		/* pg_snapshot */
	bool		aligned;		/* included is exactly what the snapshot sees */
	TimestampTz as_of;
	int64		meaning;		/* of the query (meaning.c), 0: not known */
	Datum		partitions;		/* of the source, as bigint[] (partition.c),
								 * or 0 */
} Frontier;

extern bool ib_frontier_includes(const Frontier *frontier, TransactionId xid,
								 XLogRecPtr commit_lsn);
extern Frontier ib_frontier_copy(const Frontier *frontier, MemoryContext context);
extern void ib_frontier_free(Frontier *frontier);
extern Datum ib_frontier_current_snapshot(void);
extern Snapshot ib_frontier_mvcc_snapshot(Datum pg_snapshot);
extern bool ib_frontier_commits_lingering(Snapshot snapshot,
										  bool (*known) (TransactionId xid, void *arg),
										  void *arg);

#endif							/* IB_FRONTIER_H */
