/*
 * partition.c
 *	  Partitions that come and go.
 *
 * ATTACH, DETACH and DROP of a partition make rows of a source appear and
 * vanish without any change that could be decoded.  So the frontier of a
 * partitioned source holds the links of its tree, each a partition and the
 * transaction that made it one, and a run compares them with the tree that its
 * snapshot sees.  A link that is gone took rows with it.  A new one must have
 * told, in the WAL, that the partition was empty when it joined (hooks.c);
 * without that it may have brought rows.  Either ends in needs_rebuild, but
 * for rows that go from an append_only source, which are not missed.
 *
 * Rows may also come from a partition that joined and went between two runs.
 * Therefore a batch knows the links that its rows came by.
 *
 * Not here: which rows are a partition's (feed.c).
 */
#include "incbatch.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "storage/bufmgr.h"
#include "utils/array.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "source.h"

/* What the WAL told of a partition that joined; life of the worker. */
typedef struct Joined
{
	uint64		link;			/* hash key */
	bool		empty;
} Joined;

static HTAB *joined = NULL;

uint64
ib_partition_link(Oid partition, TransactionId xid)
{
	return ((uint64) partition) << 32 | xid;
}

static Oid
partition_of_link(uint64 link)
{
	return (Oid) (link >> 32);
}

static TransactionId
xid_of_link(uint64 link)
{
	return (TransactionId) link;
}

/* ----------------------------------------------------------------
 *		Sorted arrays of links, as bigint[]
 * ----------------------------------------------------------------
 */

static uint64 *
links_of(Datum array, int *n)
{
	ArrayType  *links = DatumGetArrayTypeP(array);

	*n = ArrayGetNItems(ARR_NDIM(links), ARR_DIMS(links));
	return (uint64 *) ARR_DATA_PTR(links);
}

static int
compare_links(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return x < y ? -1 : x > y;
}

static bool
has_link(Datum array, uint64 link)
{
	int			n;
	uint64	   *links;

	if (array == (Datum) 0)
		return false;
	links = links_of(array, &n);
	return bsearch(&link, links, n, sizeof(uint64), compare_links) != NULL;
}

static Datum
make_links(uint64 *links, int n)
{
	Datum	   *values = palloc(sizeof(Datum) * Max(n, 1));

	qsort(links, n, sizeof(uint64), compare_links);
	for (int i = 0; i < n; i++)
		values[i] = Int64GetDatum((int64) links[i]);
	return PointerGetDatum(construct_array(values, n, INT8OID, sizeof(int64),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* The links of a source's tree as the active snapshot sees it. */
Datum
ib_partitions_read(Oid source)
{
	Relation	inherits = table_open(InheritsRelationId, AccessShareLock);
	List	   *parents = list_make1_oid(source);
	int			max = 64;
	int			n = 0;
	uint64	   *links = palloc(sizeof(uint64) * max);
	ListCell   *lc;

	/* the list grows while it is walked */
	foreach(lc, parents)
	{
		ScanKeyData key;
		SysScanDesc scan;
		HeapTuple	tuple;

		ScanKeyInit(&key, Anum_pg_inherits_inhparent, BTEqualStrategyNumber,
					F_OIDEQ, ObjectIdGetDatum(lfirst_oid(lc)));
		scan = systable_beginscan(inherits, InheritsParentIndexId, true,
								  GetActiveSnapshot(), 1, &key);
		while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		{
			Form_pg_inherits form = (Form_pg_inherits) GETSTRUCT(tuple);

			if (form->inhdetachpending)
				continue;
			if (n == max)
				links = repalloc(links, sizeof(uint64) * (max *= 2));
			links[n++] = ib_partition_link(form->inhrelid,
										   HeapTupleHeaderGetRawXmin(tuple->t_data));
			parents = lappend_oid(parents, form->inhrelid);
		}
		systable_endscan(scan);
	}
	table_close(inherits, AccessShareLock);
	return make_links(links, n);
}

/* ----------------------------------------------------------------
 *		What decoding tells
 * ----------------------------------------------------------------
 */

/*
 * A transaction made a table a partition, an empty one or not, or made it none.
 * Only what it did first and last is to be believed.
 */
void
ib_partition_joined(Oid partition, TransactionId xid, bool empty)
{
	uint64		link = ib_partition_link(partition, xid);
	Joined	   *entry;
	bool		found;

	if (joined == NULL)
	{
		HASHCTL		ctl = {
			.keysize = sizeof(uint64),
			.entrysize = sizeof(Joined),
		};

		joined = hash_create("incbatch partitions", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	entry = hash_search(joined, &link, HASH_ENTER, &found);
	entry->empty = empty && !found;
}

/* Decoding starts again from before. */
void
ib_partitions_forget_joined(void)
{
	if (joined != NULL)
		hash_destroy(joined);
	joined = NULL;
}

static bool
joined_empty(uint64 link)
{
	Joined	   *entry = joined == NULL ? NULL :
		hash_search(joined, &link, HASH_FIND, NULL);

	return entry != NULL && entry->empty;
}

/* Rows of a batch came by these links. */
void
ib_partitions_note_source(Batch *batch, const uint64 *links, int nlinks)
{
	for (int i = 0; i < nlinks; i++)
	{
		bool		known = has_link(batch->frontier.partitions, links[i]);

		for (int j = 0; j < batch->nnew_links && !known; j++)
			known = batch->new_links[j] == links[i];
		if (!known)
			ib_batch_add_link(batch, links[i]);
	}
}

/* ----------------------------------------------------------------
 *		What a run compares
 * ----------------------------------------------------------------
 */

static void
lose_gone(Batch *batch, Oid partition)
{
	char	   *name = get_rel_name(partition);
	char	   *source = get_rel_name(batch->source);

	if (batch->append_only || MUTANT(DETACH))
		return;
	ib_batch_lose(batch, name ?
				  psprintf("partition \"%s\" was detached from table \"%s\"", name, source) :
				  psprintf("a partition of table \"%s\" was dropped", source));
}

/* Did rows that have been decoded come by a link that the frontier lacks? */
static bool
came_by(const Batch *batch, uint64 link)
{
	for (int i = 0; i < batch->nnew_links; i++)
	{
		if (batch->new_links[i] == link)
			return !MUTANT(CAME_BY);
	}
	return false;
}

/*
 * New links that rows came by: they are known now, or their transaction is not
 * yet visible or never will be; else the partition joined and went, which only
 * matters if its rows did not go with those that a backfill replaces.
 */
static void
settle_new_links(Batch *batch, Datum seen, bool backfill)
{
	int			kept = 0;

	for (int i = 0; i < batch->nnew_links; i++)
	{
		uint64		link = batch->new_links[i];

		if (has_link(seen, link))
			continue;
		if (XidInMVCCSnapshot(xid_of_link(link), GetActiveSnapshot()))
			batch->new_links[kept++] = link;
		else if (!backfill && TransactionIdDidCommit(xid_of_link(link)))
			lose_gone(batch, partition_of_link(link));
	}
	batch->nnew_links = kept;
}

/*
 * Must the next run compare?  A change is decoded before it is visible, so a
 * run may not see it yet; but whoever made it tells of it again when it is.
 * Hence a run has followed what was told before it took its snapshot.
 */
bool
ib_partitions_changed(const Batch *batch)
{
	return batch->partition_changes != batch->changes_followed;
}

/*
 * Compare the partitions at the frontier with those that the run's snapshot
 * sees, and say what they are at the next frontier; where the batch cannot
 * follow, it is lost.  What has not been decoded yet cannot be judged: only a
 * run that is aligned takes every new partition in.  But of one whose rows came
 * it has been told before them; it must not go again before it is judged.
 * Returns whether there is something to store.
 */
bool
ib_partitions_follow(Batch *batch, Frontier *frontier)
{
	Datum		before = batch->frontier.partitions;
	Datum		seen;
	Datum		after;
	uint64	   *links;
	uint64	   *next;
	int			n;
	int			nnext = 0;

	frontier->partitions = before;
	if (before == (Datum) 0 || !ib_partitions_changed(batch))
		return false;

	seen = ib_partitions_read(batch->source);
	links = links_of(before, &n);
	for (int i = 0; i < n; i++)
	{
		if (!has_link(seen, links[i]))
			lose_gone(batch, partition_of_link(links[i]));
	}
	links = links_of(seen, &n);
	next = palloc(sizeof(uint64) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		if (has_link(before, links[i]) || joined_empty(links[i]) || MUTANT(ATTACH))
			next[nnext++] = links[i];
		else if (frontier->aligned || came_by(batch, links[i]))
			ib_batch_lose(batch, psprintf("partition \"%s\" was attached to table \"%s\", and its rows with it",
										  get_rel_name(partition_of_link(links[i])),
										  get_rel_name(batch->source)));
	}
	settle_new_links(batch, seen, false);
	if (batch->nnew_links == 0 && frontier->aligned)
		batch->changes_followed = batch->changes_visible;
	after = make_links(next, nnext);
	if (datumIsEqual(before, after, false, -1))
		return false;
	frontier->partitions = after;
	return true;
}

/* A backfill under the active snapshot has taken all partitions in. */
void
ib_partitions_start(Batch *batch, Frontier *frontier)
{
	if (!batch->partitioned)
		return;
	frontier->partitions = ib_partitions_read(batch->source);
	settle_new_links(batch, frontier->partitions, true);
}

/* ----------------------------------------------------------------
 *		In the session that makes a partition
 * ----------------------------------------------------------------
 */

/* Does a table, locked by the caller, have no rows, and no partition of it? */
static bool
is_empty(Oid relid)
{
	List	   *relations = find_all_inheritors(relid, NoLock, NULL);
	bool		empty = true;
	ListCell   *lc;

	foreach(lc, relations)
	{
		Relation	rel = relation_open(lfirst_oid(lc), NoLock);

		/*
		 * what a foreign table has is not known, an unlogged one will not
		 * tell
		 */
		if (rel->rd_rel->relkind == RELKIND_RELATION && RelationIsPermanent(rel))
			empty = empty && RelationGetNumberOfBlocks(rel) == 0;
		else if (rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
			empty = false;
		relation_close(rel, NoLock);
	}
	return empty;
}

/*
 * Called by a session that has just changed whether a table is a partition:
 * is it one now, and empty?
 */
bool
ib_partition_joins_empty(Oid partition, Oid parent)
{
	Relation	inherits = table_open(InheritsRelationId, AccessShareLock);
	bool		joins = false;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_inherits_inhrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(partition));
	scan = systable_beginscan(inherits, InheritsRelidSeqnoIndexId, true,
							  SnapshotSelf, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		joins |= ((Form_pg_inherits) GETSTRUCT(tuple))->inhparent == parent;
	systable_endscan(scan);
	table_close(inherits, AccessShareLock);
	return joins && is_empty(partition);
}
