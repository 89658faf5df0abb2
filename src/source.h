/*
 * source.h
 *	  Sources: what can be one, and the relations that its rows are in.
 */
#ifndef IB_SOURCE_H
#define IB_SOURCE_H

#include "incbatch.h"

#include "nodes/bitmapset.h"
#include "nodes/pg_list.h"
#include "utils/relcache.h"

#include "batch.h"

/* source.c: as it is now */
extern void ib_source_check(Oid source, bool only);
extern void ib_source_check_privileges(Oid source, const Bitmapset *needed, Oid role);
extern void ib_source_check_reader(Oid source, Oid role);
extern void ib_source_check_columns(Oid source, const Bitmapset *needed);
extern void ib_source_check_identity(Oid source, const Bitmapset *needed,
									 const char *otherwise);
extern List *ib_source_relations(Oid source);
extern List *ib_source_reading_order(Oid source);
extern bool ib_source_lock(Oid source);
extern bool ib_source_columns(Relation source, Relation part,
							  const AttrNumber *needed, int nneeded,
							  AttrNumber *columns);
extern bool ib_source_old_rows_suffice(Relation part, const AttrNumber *columns,
									   int ncolumns);

/* partition.c: partitions that come and go */
extern uint64 ib_partition_link(Oid partition, TransactionId xid);
extern Datum ib_partitions_read(Oid source);
extern bool ib_partitions_changed(const Batch *batch);
extern bool ib_partitions_follow(Batch *batch, Frontier *frontier);
extern void ib_partitions_note_source(Batch *batch, const uint64 *links, int nlinks);
extern void ib_partitions_start(Batch *batch, Frontier *frontier);
extern void ib_partition_joined(Oid partition, TransactionId xid, bool empty);
extern void ib_partitions_forget_joined(void);
extern bool ib_partition_joins_empty(Oid partition, Oid parent);

/* feed.c: as it was when a change was made */
typedef struct Intake
{
	Batch	   *batch;
	AttrNumber *columns;		/* its number of each column that is needed */
	bool		whole;			/* its rows have the layout of the batch's */
	bool		full_old_rows;	/* old rows carry every column */
	bool		old_rows_suffice;	/* old rows carry what is needed */
	char	   *lost;			/* why its rows are of no use, or NULL */
	int			nlinks;			/* what makes it a partition of the source */
	uint64	   *links;
	bool		tells;			/* there are links, or a loss, to note */
	uint64		noted_in;		/* by what they were noted last (collect.c) */
} Intake;

extern List *ib_feed_intakes(Relation rel, List *batches);
extern void ib_feeds_reset(void);

#endif							/* IB_SOURCE_H */
