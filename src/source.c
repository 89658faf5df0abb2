/*
 * source.c
 *	  What can be the source of a pipeline, and the relations its rows are in.
 *
 * A source is an ordinary table, or a partitioned one whose leaves are.  What
 * the WAL does not tell of, or tells under another name, is refused, each with
 * its reason; a source that turns into such a thing makes its pipelines need a
 * rebuild (paths.c).
 *
 * Not here: the source at the time of a change (feed.c), and partitions that
 * come and go (partition.c).
 */
#include "incbatch.h"

#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "lib/stringinfo.h"
#include "nodes/bitmapset.h"
#include "miscadmin.h"
#include "partitioning/partdesc.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

#include "query.h"
#include "source.h"

/* So many statements are a hint. */
#define MAX_HINTED 20

static void
refuse(int sqlerrcode, Oid relid, const char *detail, const char *hint)
{
	ereport(ERROR,
			errcode(sqlerrcode),
			errmsg("\"%s\" cannot be the source of a pipeline", get_rel_name(relid)),
			errdetail("%s", detail),
			errhint("%s", hint));
}

/* The relations that may hold rows of a source: itself, or all of its tree. */
List *
ib_source_relations(Oid source)
{
	if (get_rel_relkind(source) != RELKIND_PARTITIONED_TABLE)
		return list_make1_oid(source);
	return find_all_inheritors(source, NoLock, NULL);
}

/*
 * The relations with rows of a source in the order in which a query reads them:
 * partitions by their bounds, not by their OIDs.
 */
List *
ib_source_reading_order(Oid source)
{
	List	   *relations = NIL;
	Relation	rel;
	PartitionDesc partitions;

	CHECK_FOR_INTERRUPTS();
	check_stack_depth();
	if (get_rel_relkind(source) != RELKIND_PARTITIONED_TABLE)
		return list_make1_oid(source);
	rel = table_open(source, NoLock);
	partitions = RelationGetPartitionDesc(rel, true);
	for (int i = 0; i < partitions->nparts; i++)
		relations = list_concat(relations, ib_source_reading_order(partitions->oids[i]));
	table_close(rel, NoLock);
	return relations;
}

/* Lock a source for reading, unless somebody else has a part of it locked. */
bool
ib_source_lock(Oid source)
{
	ListCell   *lc;

	if (!ConditionalLockRelationOid(source, AccessShareLock))
		return false;
	foreach(lc, ib_source_relations(source))
	{
		if (!ConditionalLockRelationOid(lfirst_oid(lc), AccessShareLock))
			return false;
	}
	return true;
}

/* What holds for the source itself and for each of its partitions */
static void
check_part(Oid source, Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);

	if (relid != source && rel->rd_rel->relkind == RELKIND_FOREIGN_TABLE)
		refuse(ERRCODE_WRONG_OBJECT_TYPE, source,
			   psprintf("Its partition \"%s\" is a foreign table, whose changes are not in this server's WAL.",
						RelationGetRelationName(rel)),
			   "Detach the foreign partition, or name one of the other partitions as the source.");
	if (!RelationIsPermanent(rel))
		refuse(ERRCODE_WRONG_OBJECT_TYPE, source,
			   relid == source ? "Changes of unlogged tables are not written to the WAL." :
			   psprintf("Its partition \"%s\" is unlogged, and its changes are not written to the WAL.",
						RelationGetRelationName(rel)),
			   psprintf("Use ALTER TABLE %s SET LOGGED.", ib_query_relation_name(relid)));
	table_close(rel, NoLock);
}

/*
 * Refuse a role that may not read these columns of a source.  What folds in
 * the source's changes does not read the source, so core does not ask.
 */
void
ib_source_check_privileges(Oid source, const Bitmapset *needed, Oid role)
{
	AclResult	result = pg_class_aclcheck(source, role, ACL_SELECT);
	int			attnum = -1;

	if (result == ACLCHECK_OK)
		return;
	if (bms_is_empty(needed))
		result = pg_attribute_aclcheck_all(source, role, ACL_SELECT, ACLMASK_ANY);
	while ((attnum = bms_next_member(needed, attnum)) >= 0)
	{
		result = pg_attribute_aclcheck(source, attnum, role, ACL_SELECT);
		if (result != ACLCHECK_OK)
			break;
	}
	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_TABLE, get_rel_name(source));
}

/* Refuse a source that hides rows from the role that the query runs as. */
void
ib_source_check_reader(Oid source, Oid role)
{
	if (check_enable_rls(source, role, true) == RLS_ENABLED)
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("\"%s\" has row-level security that applies to %s",
					   get_rel_name(source),
					   role == GetUserId() ? "you" : quote_identifier(GetUserNameFromId(role, false))),
				errdetail("Changes are decoded without policies, so the aggregate would count rows that the batch query does not see."),
				errhint("Create the pipeline as the table's owner or a role with BYPASSRLS."));
}

/* Refuse what cannot be a source; "only" says that FROM has ONLY. */
void
ib_source_check(Oid source, bool only)
{
	Relation	rel = table_open(source, AccessShareLock);
	bool		partitioned = rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
	ListCell   *lc;

	if (rel->rd_rel->relkind != RELKIND_RELATION && !partitioned)
		refuse(ERRCODE_WRONG_OBJECT_TYPE, source,
			   "The source, the first entry of FROM, must be an ordinary or partitioned table; views and foreign tables have no changes of their own in the WAL.",
			   "Name an ordinary table first in FROM.");
	if (partitioned && only)
		refuse(ERRCODE_WRONG_OBJECT_TYPE, source,
			   "All rows of a partitioned table are in its partitions, which ONLY leaves out.",
			   "Leave ONLY out.");
	if (!partitioned && find_inheritance_children(source, NoLock) != NIL)
		refuse(ERRCODE_WRONG_OBJECT_TYPE, source,
			   "Other tables inherit from it; the query reads them, but their changes carry their own names.",
			   "Use a table without children; FROM ONLY does not help.");
	if (IsSystemRelation(rel) ||
		RelationGetNamespace(rel) == get_namespace_oid(IB_SCHEMA, true))
		refuse(ERRCODE_WRONG_OBJECT_TYPE, source,
			   "Changes of system catalogs and of incbatch's own tables are not decoded.",
			   "Use a table of your own.");
	ib_source_check_reader(source, GetUserId());
	table_close(rel, NoLock);
	foreach(lc, ib_source_relations(source))
		check_part(source, lfirst_oid(lc));
}

/* ----------------------------------------------------------------
 *		Columns and replica identity
 * ----------------------------------------------------------------
 */

/* A column that is computed when it is read is in no change. */
void
ib_source_check_columns(Oid source, const Bitmapset *needed)
{
	Relation	rel = table_open(source, AccessShareLock);
	int			attnum = -1;

	while ((attnum = bms_next_member(needed, attnum)) >= 0)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), attnum - 1);

		if (ib_is_virtual_column(att))
			ereport(ERROR,
					errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					errmsg("changes of virtual generated column \"%s\" of table \"%s\" cannot be followed",
						   NameStr(att->attname), RelationGetRelationName(rel)),
					errdetail("It is computed when it is read, so its values are not in the WAL."),
					errhint("Use its expression in the query, or make the column STORED."));
	}
	table_close(rel, NoLock);
}

/*
 * Under which number a relation that holds rows of a source has each needed
 * column.  False: it lacks one.
 */
bool
ib_source_columns(Relation source, Relation part, const AttrNumber *needed,
				  int nneeded, AttrNumber *columns)
{
	TupleDesc	from = RelationGetDescr(source);
	TupleDesc	to = RelationGetDescr(part);

	for (int n = 0; n < nneeded; n++)
	{
		int			i = needed[n] - 1;

		if (i >= from->natts || TupleDescAttr(from, i)->attisdropped)
			return false;
		columns[n] = InvalidAttrNumber;
		if (source == part)
			columns[n] = needed[n];
		for (int j = 0; j < to->natts && columns[n] == InvalidAttrNumber; j++)
		{
			if (!TupleDescAttr(to, j)->attisdropped &&
				strcmp(NameStr(TupleDescAttr(to, j)->attname),
					   NameStr(TupleDescAttr(from, i)->attname)) == 0)
				columns[n] = j + 1;
		}
		if (columns[n] == InvalidAttrNumber)
			return false;
	}
	return true;
}

/* Do the old rows of an UPDATE or DELETE carry these columns? */
bool
ib_source_old_rows_suffice(Relation part, const AttrNumber *columns, int ncolumns)
{
	bool		suffice = true;
	Bitmapset  *identity;

	if (part->rd_rel->relreplident == REPLICA_IDENTITY_FULL)
		return true;
	/* decoding must not wait for who has an index locked */
	if (HistoricSnapshotActive() && !MUTANT(INDEX_LOCK))
		identity = RelationGetIdentityKeyBitmap(part);
	else
		identity = RelationGetIndexAttrBitmap(part, INDEX_ATTR_BITMAP_IDENTITY_KEY);
	for (int n = 0; n < ncolumns; n++)
		suffice = suffice &&
			bms_is_member(columns[n] - FirstLowInvalidHeapAttributeNumber, identity);
	bms_free(identity);
	return suffice;
}

/*
 * Old values must come with each UPDATE and DELETE, or the pipeline could not
 * take a row out again.  Each leaf has a replica identity of its own.  Without
 * any, a DELETE does not even tell that there was a row.
 */
void
ib_source_check_identity(Oid source, const Bitmapset *needed,
						 const char *otherwise)
{
	Relation	rel = table_open(source, AccessShareLock);
	int			nneeded = bms_num_members(needed);
	AttrNumber *attnums = palloc(sizeof(AttrNumber) * Max(nneeded, 1));
	AttrNumber *columns = palloc(sizeof(AttrNumber) * Max(nneeded, 1));
	StringInfoData statements;
	char	   *first = NULL;
	int			nfound = 0;
	int			attnum = -1;
	int			n = 0;
	ListCell   *lc;

	initStringInfo(&statements);
	while ((attnum = bms_next_member(needed, attnum)) >= 0)
		attnums[n++] = attnum;
	foreach(lc, ib_source_relations(source))
	{
		Relation	part = table_open(lfirst_oid(lc), AccessShareLock);

		if (part->rd_rel->relkind == RELKIND_RELATION &&
			!(ib_source_columns(rel, part, attnums, nneeded, columns) &&
			  ib_source_old_rows_suffice(part, columns, nneeded) &&
			  (part->rd_rel->relreplident == REPLICA_IDENTITY_FULL ||
			   OidIsValid(RelationGetReplicaIndex(part)))))
		{
			if (first == NULL)
				first = pstrdup(RelationGetRelationName(part));
			if (nfound++ < MAX_HINTED)
				appendStringInfo(&statements, "ALTER TABLE %s REPLICA IDENTITY FULL; ",
								 ib_query_relation_name(RelationGetRelid(part)));
		}
		table_close(part, NoLock);
	}
	table_close(rel, NoLock);
	if (nfound > MAX_HINTED)
		appendStringInfo(&statements, "and so for %d more partitions; ", nfound - MAX_HINTED);
	if (nfound > 0)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("the replica identity of table \"%s\" does not tell old values",
					   first),
				errdetail("After an UPDATE or DELETE the pipeline could not take the old row out of its group."),
				errhint("Run %sor %s.", statements.data, otherwise));
}
