/*
 * batch.h
 *	  Changes that wait for one path to run.
 */
#ifndef IB_BATCH_H
#define IB_BATCH_H

#include "incbatch.h"

#include "access/htup.h"
#include "executor/tuptable.h"
#include "nodes/bitmapset.h"
#include "utils/rel.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "frontier.h"

/* A transaction in a batch; its changes follow those of the one before. */
typedef struct BatchTransaction
{
	TransactionId xid;
	XLogRecPtr	commit_lsn;		/* start of its commit record */
	TimestampTz commit_time;
	int64		rows;
	int64		truncated_at;	/* rows before its last TRUNCATE, -1: none */
	int64		negatives;		/* rows of weight -1 */
	const char *lost;			/* why its rows are not all there, or NULL */
} BatchTransaction;

typedef struct Batch
{
	/* what is collected; fixed for the batch's life */
	Oid			source;
	bool		partitioned;
	bool		append_only;
	bool		in_order;		/* what becomes of a row depends on its place,
								 * too */
	TupleDesc	desc;			/* source's columns, then the weight */
	AttrNumber *needed;			/* columns that the query reads */
	int			nneeded;
	int		   *varlena;		/* positions of those that may be out of line */
	int			nvarlena;
	Frontier	frontier;		/* what the path contains already */

	/* changes, by transaction in commit order */
	Tuplestorestate *store;
	BatchTransaction *transactions;
	int			ntransactions;
	int			max_transactions;
	int64		rows;
	int64		negatives;
	char	   *lost;			/* why the changes cannot be trusted, or NULL */
	bool		has_lost;		/* a transaction is lost */
	bool		stuck;			/* the last run left it full: it waits for
								 * others */

	/* what reading cost that brought its rows, since the last run (meter.c) */
	int64		rows_unpaid;	/* put by the reading under way */
	double		read_usecs;
	double		read_cpu_usecs;

	/* partitions that are not yet those of the frontier (partition.c) */
	uint32		partition_changes;	/* told by relcache invalidation */
	uint32		changes_visible;	/* of these, to the run's snapshot */
	uint32		changes_followed;	/* of these, compared with the frontier */
	uint64	   *new_links;		/* by which rows came */
	int			nnew_links;
	int			max_new_links;

	/* the transaction, or chunk of one, being decoded (collect.c) */
	BatchTransaction current;
	struct StreamPart *part;	/* where rows go while it is streamed */
	bool		skip;			/* not wanted */
	uint64		met;			/* number of the last that arrived as a whole */
	Datum	   *row_values;		/* the row being put */
	bool	   *row_nulls;
} Batch;

extern Batch *ib_batch_create(Relation source, const Bitmapset *needed,
							  bool append_only, const Frontier *frontier);
extern void ib_batch_destroy(Batch *batch);
extern void ib_batch_empty(Batch *batch);
extern void ib_batch_set_frontier(Batch *batch, const Frontier *frontier);
extern void ib_batch_rename_columns(Batch *batch);
extern void ib_batch_lose(Batch *batch, const char *reason);
extern char *ib_batch_keep_reason(const char *reason);
extern void ib_batch_judge(Batch *batch, Snapshot snapshot);
extern void ib_batch_note_partitions(Batch *batch);
extern void ib_batch_add_link(Batch *batch, uint64 link);
extern bool ib_batch_settle(Batch *batch, Snapshot snapshot, Batch *held);
extern void ib_batch_finish(Batch *batch, Batch *held);
extern bool ib_batch_has_transaction(TransactionId xid, void *arg);
extern Tuplestorestate *ib_batch_begin_store(int kilobytes);
extern void ib_batch_end_store(Tuplestorestate *store);
extern void ib_batch_add_transaction(Batch *batch,
									 const BatchTransaction *transaction);
extern void ib_batch_move_rows(Tuplestorestate *from, Tuplestorestate *to,
							   int64 n, TupleTableSlot *slot);
extern TupleDesc ib_batch_numbered_descriptor(const Batch *batch);
extern void ib_batch_put_numbered(Tuplestorestate *store, TupleDesc desc,
								  TupleTableSlot *slot, int64 number);
extern bool ib_batch_adds(const Batch *batch, TupleTableSlot *slot);
extern const BatchTransaction *ib_batch_transaction_of(const Batch *batch, int64 number,
													   int *transaction, int64 *last);
extern void ib_batch_remove_rows(Batch *batch, const int64 *numbers, int n);

/* collect.c: who listens */
extern void ib_collect_init(void);
extern void ib_collect_add(Batch *batch);
extern void ib_collect_remove(Batch *batch);
extern bool ib_batch_is_full(const Batch *batch);

extern bool ib_batches_full(void);
extern bool ib_batches_streaming(void);
extern void ib_batches_restart(void);
extern uint64 ib_batches_rows_decoded(void);
extern void ib_batches_charge(int64 usecs, int64 cpu_usecs);

/* collect.c: called by the output plugin, for all batches */
extern void ib_batches_begin(TransactionId xid, XLogRecPtr commit_lsn,
							 TimestampTz commit_time);
extern void ib_batches_insert(Relation rel, HeapTuple newtuple);
extern void ib_batches_update(Relation rel, HeapTuple oldtuple,
							  HeapTuple newtuple);
extern void ib_batches_delete(Relation rel, HeapTuple oldtuple);
extern void ib_batches_truncate(int nrelations, Relation *relations);
extern void ib_batches_commit(void);
extern void ib_batches_stream_start(TransactionId xid);
extern void ib_batches_stream_stop(void);
extern void ib_batches_stream_abort(TransactionId xid);
extern void ib_batches_stream_commit(TransactionId xid, XLogRecPtr commit_lsn,
									 TimestampTz commit_time,
									 const TransactionId *xids, int nxids);
extern void ib_batches_subtransaction(TransactionId subxid);

#endif							/* IB_BATCH_H */
