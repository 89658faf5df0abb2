/*
 * feed.c
 *	  Which batches the rows of a relation go to, and how, at the time of a
 *	  change.
 *
 * A source's rows are in the source itself or, if it is partitioned, in the
 * leaves of its tree, each with attribute numbers and a replica identity of
 * its own.  Called in the middle of decoding: the relation and the catalog are
 * those of the past.
 *
 * What was found out is kept until any relation changes, in history or in the
 * present; moving between the two counts as a change.  So a row costs a
 * comparison, and whoever keeps an answer keeps it for the length of one
 * change.
 */
#include "incbatch.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "source.h"

/* A relation that changes were seen of. */
typedef struct Feed
{
	Oid			relid;			/* hash key */
	List	   *intakes;		/* of Intake; NIL: nobody's */
} Feed;

static MemoryContext feed_context = NULL;	/* reset when the feeds are */
static HTAB *feeds = NULL;
static Feed *last_feed = NULL;
static bool feeds_stale = true;

void
ib_feeds_reset(void)
{
	feeds_stale = true;
}

static void
note_relation_change(Datum arg, Oid relid)
{
	feeds_stale = true;
}

static void
begin_feeds(void)
{
	HASHCTL		ctl = {
		.keysize = sizeof(Oid),
		.entrysize = sizeof(Feed),
	};

	if (feed_context == NULL)
	{
		feed_context = AllocSetContextCreate(TopMemoryContext, "incbatch feeds",
											 ALLOCSET_DEFAULT_SIZES);
		CacheRegisterRelcacheCallback(note_relation_change, (Datum) 0);
	}
	last_feed = NULL;
	feeds = NULL;
	MemoryContextReset(feed_context);
	ctl.hcxt = feed_context;
	feeds = hash_create("incbatch feeds", 32, &ctl,
						HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	feeds_stale = false;
}

/* The table that a relation is a partition of, and the link between the two. */
static Oid
find_parent(Oid relid, uint64 *link)
{
	Relation	inherits = table_open(InheritsRelationId, AccessShareLock);
	Oid			parent = InvalidOid;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_inherits_inhrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(inherits, InheritsRelidSeqnoIndexId, true, NULL,
							  1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple) &&
		!((Form_pg_inherits) GETSTRUCT(tuple))->inhdetachpending)
	{
		parent = ((Form_pg_inherits) GETSTRUCT(tuple))->inhparent;
		*link = ib_partition_link(relid, HeapTupleHeaderGetRawXmin(tuple->t_data));
	}
	systable_endscan(scan);
	table_close(inherits, AccessShareLock);
	return parent;
}

/* Can a row be kept in a batch as it came? */
static bool
same_layout(TupleDesc rel, TupleDesc batch)
{
	if (rel->natts != batch->natts - 1)
		return false;
	for (int i = 0; i < rel->natts; i++)
	{
		Form_pg_attribute a = TupleDescAttr(rel, i);
		Form_pg_attribute b = TupleDescAttr(batch, i);

		if (a->attlen != b->attlen || a->attalign != b->attalign ||
			a->attbyval != b->attbyval)
			return false;
	}
	return true;
}

/* Find what is needed of a source's row in a relation, which may be itself. */
static void
map_columns(Intake *intake, Relation rel, Relation source)
{
	Batch	   *batch = intake->batch;
	TupleDesc	desc = RelationGetDescr(rel);

	if (!ib_source_columns(source, rel, batch->needed, batch->nneeded,
						   intake->columns))
		intake->lost = psprintf("a column that the query reads is gone from table \"%s\"",
								RelationGetRelationName(rel));
	if (MUTANT(PARTITION_COLUMNS))
		memcpy(intake->columns, batch->needed, sizeof(AttrNumber) * batch->nneeded);
	intake->whole = same_layout(desc, batch->desc) || MUTANT(WHOLE_ROW);
	for (int n = 0; n < batch->nneeded && intake->lost == NULL; n++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, intake->columns[n] - 1);

		if (att->atttypid != TupleDescAttr(batch->desc, batch->needed[n] - 1)->atttypid)
			intake->lost = psprintf("column \"%s\" of table \"%s\", which the query reads, has another type",
									NameStr(att->attname), RelationGetRelationName(rel));
		intake->whole = intake->whole && intake->columns[n] == batch->needed[n];
	}
}

static Intake *
make_intake(Batch *batch, Relation rel, const uint64 *links, int nlinks)
{
	Intake	   *intake = palloc0(sizeof(Intake));
	Relation	source = rel;

	intake->batch = batch;
	intake->columns = palloc(sizeof(AttrNumber) * Max(batch->nneeded, 1));
	intake->nlinks = nlinks;
	intake->links = palloc(sizeof(uint64) * Max(nlinks, 1));
	memcpy(intake->links, links, sizeof(uint64) * nlinks);
	if (batch->source != RelationGetRelid(rel))
		source = RelationIdGetRelation(batch->source);
	if (!RelationIsValid(source))
		elog(ERROR, "could not open relation with OID %u", batch->source);

	map_columns(intake, rel, source);
	intake->tells = nlinks > 0 || intake->lost != NULL;
	intake->full_old_rows = rel->rd_rel->relreplident == REPLICA_IDENTITY_FULL;
	intake->old_rows_suffice = intake->lost == NULL &&
		ib_source_old_rows_suffice(rel, intake->columns, batch->nneeded);
	if (source != rel)
		RelationClose(source);
	return intake;
}

/* Who wants the rows of a relation: listeners to it, and to what it is part of. */
static List *
find_intakes(Relation rel, List *batches)
{
	MemoryContext old = MemoryContextSwitchTo(feed_context);
	Oid			source = RelationGetRelid(rel);
	bool		has_parent = rel->rd_rel->relispartition;
	int			max_links = 4;
	int			nlinks = 0;
	uint64	   *links = palloc(sizeof(uint64) * max_links);
	List	   *intakes = NIL;
	ListCell   *lc;

	while (OidIsValid(source))
	{
		foreach(lc, batches)
		{
			if (((Batch *) lfirst(lc))->source == source)
				intakes = lappend(intakes, make_intake(lfirst(lc), rel, links, nlinks));
		}
		if (!has_parent)
			break;
		if (nlinks == max_links)
			links = repalloc(links, sizeof(uint64) * (max_links *= 2));
		source = find_parent(source, &links[nlinks++]);
	}
	pfree(links);
	MemoryContextSwitchTo(old);
	return intakes;
}

/* The batches that the rows of a relation go to, now. */
List *
ib_feed_intakes(Relation rel, List *batches)
{
	Oid			relid = RelationGetRelid(rel);
	bool		found;

	if (likely(!feeds_stale && last_feed != NULL && last_feed->relid == relid))
		return last_feed->intakes;

	if (feeds_stale)
		begin_feeds();
	last_feed = hash_search(feeds, &relid, HASH_FIND, &found);
	if (!found)
	{
		List	   *intakes = find_intakes(rel, batches);

		last_feed = hash_search(feeds, &relid, HASH_ENTER, &found);
		last_feed->intakes = intakes;
	}
	return last_feed->intakes;
}
