/*
 * family.c
 *	  Arrange the paths of one pipeline as its consumers ask for them.
 *
 * A family has one path for each trigger interval that a consumer wants, or
 * one at the pipeline's own where there is no consumer.  A trigger that has no
 * path takes over one that nobody wants any more, which costs nothing; else it
 * gets a new path, whose table is filled at once with what a sibling holds, so
 * that readers never see it empty.  (That the new path goes on from there is
 * the worker's: copy.c.)  Paths that stay unwanted are dropped.
 *
 * The views of the family, the pipeline's and those of its consumers, are
 * pointed to another state table in their stored trees: they keep their OIDs,
 * grants, columns' names and what users built on them.
 *
 * All of it is in the transaction of the session that asks.  Whoever arranges
 * holds a lock on the pipeline's view that excludes others who do, but no
 * reader; a view that is to read another table is locked against readers until
 * the end of the transaction.  Order of locks: the views, the state tables to
 * be dropped (which a run locks before it writes the catalog), the catalog.
 */
#include "incbatch.h"

#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "commands/view.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "family.h"
#include "functions.h"
#include "path.h"
#include "query.h"

typedef struct FamilyPath
{
	int32		path;
	Oid			table;
	Interval   *trigger;
	bool		running;
	bool		has_frontier;
	bool		wanted;
	bool		changed;		/* another trigger than the catalog has */
} FamilyPath;

typedef struct FamilyView
{
	int32		consumer;		/* 0: the pipeline's own */
	Oid			relation;
	Interval   *trigger;
	int32		path;			/* that it reads now */
	FamilyPath *reads;			/* that it shall read */
} FamilyView;

typedef struct Family
{
	int32		pipeline;
	Oid			relation;
	List	   *paths;			/* of FamilyPath, the freshest first */
	List	   *views;			/* of FamilyView, the pipeline's first */
	List	   *triggers;		/* of Interval *, those wanted, the smallest
								 * first */
} Family;

/* ----------------------------------------------------------------
 *		Reading the catalog
 * ----------------------------------------------------------------
 */

/*
 * The pipeline that a caller names and may change, locked against others who
 * arrange its family.
 */
int32
ib_family_lock(text *name, Oid *relation)
{
	int32		pipeline;

	(void) ib_own_pipeline(name, relation);
	LockRelationOid(*relation, ShareUpdateExclusiveLock);
	/* it may have been dropped, or another has its name, while we waited */
	pipeline = ib_own_pipeline(name, relation);
	LockRelationOid(*relation, ShareUpdateExclusiveLock);
	ib_family_mark(pipeline);
	return pipeline;
}

/*
 * A transaction with a snapshot of its own must not arrange a family that was
 * arranged since: let it find the pipeline's row changed.
 */
void
ib_family_mark(int32 pipeline)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(pipeline)};

	ib_change_catalog("UPDATE incbatch.pipeline SET trigger_interval = trigger_interval"
					  " WHERE id OPERATOR(pg_catalog.=) $1",
					  SPI_OK_UPDATE, 1, types, values, NULL);
}

static Interval *
copy_interval(Datum value)
{
	Interval   *interval = palloc(sizeof(Interval));

	*interval = *DatumGetIntervalP(value);
	return interval;
}

static void
read_family_rows(const char *sql, int32 pipeline)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(pipeline)};

	ib_spi(sql, SPI_OK_SELECT, 1, types, values, NULL);
}

/* Read the family, in the caller's memory context. */
static Family *
load_family(int32 pipeline, Oid relation)
{
	MemoryContext caller = CurrentMemoryContext;
	Family	   *family = palloc0(sizeof(Family));
	CatalogScope scope;

	family->pipeline = pipeline;
	family->relation = relation;
	ib_catalog_enter(&scope);

	read_family_rows("SELECT a.id, a.relation::pg_catalog.oid, a.trigger_interval,"
					 " a.state OPERATOR(pg_catalog.=) 'running', f.path IS NOT NULL"
					 " FROM incbatch.path a LEFT JOIN incbatch.frontier f ON f.path OPERATOR(pg_catalog.=) a.id"
					 " WHERE a.pipeline OPERATOR(pg_catalog.=) $1 ORDER BY a.trigger_interval, a.id", pipeline);
	MemoryContextSwitchTo(caller);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		FamilyPath *path = palloc0(sizeof(FamilyPath));

		path->path = DatumGetInt32(ib_spi_column(i, 1, NULL));
		path->table = DatumGetObjectId(ib_spi_column(i, 2, NULL));
		path->trigger = copy_interval(ib_spi_column(i, 3, NULL));
		path->running = DatumGetBool(ib_spi_column(i, 4, NULL));
		path->has_frontier = DatumGetBool(ib_spi_column(i, 5, NULL));
		family->paths = lappend(family->paths, path);
	}

	read_family_rows("SELECT 0, p.relation::pg_catalog.oid, p.trigger_interval, 0"
					 " FROM incbatch.pipeline p WHERE p.id OPERATOR(pg_catalog.=) $1"
					 " UNION ALL SELECT c.id, c.relation::pg_catalog.oid, c.trigger_interval, c.path"
					 " FROM incbatch.consumer c WHERE c.pipeline OPERATOR(pg_catalog.=) $1 ORDER BY 1", pipeline);
	MemoryContextSwitchTo(caller);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		FamilyView *view = palloc0(sizeof(FamilyView));

		view->consumer = DatumGetInt32(ib_spi_column(i, 1, NULL));
		view->relation = DatumGetObjectId(ib_spi_column(i, 2, NULL));
		view->trigger = copy_interval(ib_spi_column(i, 3, NULL));
		view->path = DatumGetInt32(ib_spi_column(i, 4, NULL));
		family->views = lappend(family->views, view);
	}

	read_family_rows("SELECT DISTINCT trigger_interval FROM incbatch.consumer WHERE pipeline OPERATOR(pg_catalog.=) $1"
					 " UNION ALL SELECT trigger_interval FROM incbatch.pipeline p WHERE id OPERATOR(pg_catalog.=) $1"
					 " AND NOT EXISTS (SELECT FROM incbatch.consumer c WHERE c.pipeline OPERATOR(pg_catalog.=) $1)"
					 " ORDER BY 1", pipeline);
	MemoryContextSwitchTo(caller);
	for (uint64 i = 0; i < SPI_processed; i++)
		family->triggers = lappend(family->triggers, copy_interval(ib_spi_column(i, 1, NULL)));

	ib_catalog_leave(&scope);
	return family;
}

/* ----------------------------------------------------------------
 *		Views
 * ----------------------------------------------------------------
 */

/* The tree of a view as StoreViewQuery takes it. */
Query *
ib_family_view_query(Oid view)
{
	Query	   *query = ib_query_of_view(view);

	for (int i = 0; i < IB_VIEW_OWN_ENTRIES; i++)
		query->rtable = list_delete_first(query->rtable);
	OffsetVarNodes((Node *) query, -IB_VIEW_OWN_ENTRIES, 0);
	return query;
}

/* Store the tree of a view, whose columns keep their names. */
void
ib_family_store_view(Oid view, Query *query)
{
	CatalogScope catalog;
	ListCell   *lc;

	foreach(lc, query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, lc);

		if (!entry->resjunk)
			entry->resname = get_attname(view, entry->resno, false);
	}
	/* only an owner may, and whoever drops a consumer need not be one */
	ib_catalog_become_owner(&catalog);
	StoreViewQuery(view, query, true);
	CommandCounterIncrement();
	ib_catalog_become_caller(&catalog);
}

typedef struct ReplaceContext
{
	List	   *tables;			/* state tables of the family */
	Oid			by;				/* InvalidOid: only look */
	bool		found;			/* another one of them than "by" */
} ReplaceContext;

static bool
replace_tables(Node *node, ReplaceContext *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		Query	   *query = (Query *) node;
		ListCell   *lc;

		foreach(lc, query->rtable)
		{
			RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

			if (rte->rtekind != RTE_RELATION || rte->relid == context->by ||
				!list_member_oid(context->tables, rte->relid))
				continue;
			ib_set_entry_relation(query, rte, context->by);
			context->found = true;
		}
		return query_tree_walker(query, replace_tables, context, 0);
	}
	return expression_tree_walker(node, replace_tables, context);
}

/* Does a view read another table of the family than this one? */
static bool
reads_another(Family *family, Oid view, Oid table, Query **query)
{
	ReplaceContext context = {.by = table};
	ListCell   *lc;

	foreach(lc, family->paths)
		context.tables = lappend_oid(context.tables, ((FamilyPath *) lfirst(lc))->table);
	*query = ib_family_view_query(view);
	(void) replace_tables((Node *) *query, &context);
	return context.found;
}

/* Point a view to the table of the path that it shall read. */
static void
point_view(Family *family, FamilyView *view)
{
	Oid			types[] = {INT4OID, INT4OID};
	Datum		values[] = {Int32GetDatum(view->consumer), Int32GetDatum(view->reads->path)};
	Query	   *query;

	if (reads_another(family, view->relation, view->reads->table, &query))
		ib_family_store_view(view->relation, query);
	if (view->consumer != 0 && view->path != view->reads->path)
		ib_change_catalog("UPDATE incbatch.consumer SET path = $2 WHERE id OPERATOR(pg_catalog.=) $1",
						  SPI_OK_UPDATE, 2, types, values, NULL);
}

/* ----------------------------------------------------------------
 *		New paths
 * ----------------------------------------------------------------
 */

/*
 * The owner of a pipeline, who must own all its relations: a view reads the
 * state as its owner, and the worker writes it as the owner of the table.
 */
Oid
ib_family_owner(int32 pipeline, Oid relation)
{
	Family	   *family = load_family(pipeline, relation);
	Oid			owner = ib_relation_owner(relation);
	ListCell   *lc;

	foreach(lc, family->paths)
	{
		Oid			table = ((FamilyPath *) lfirst(lc))->table;

		if (ib_relation_owner(table) != owner)
			ereport(ERROR,
					errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("the relations of pipeline \"%s\" have several owners", get_rel_name(relation)),
					errdetail("The view belongs to role \"%s\", its state table \"%s\" to role \"%s\".",
							  GetUserNameFromId(owner, false), get_rel_name(table),
							  GetUserNameFromId(ib_relation_owner(table), false)),
					errhint("Give all of them to one role by ALTER TABLE ... OWNER TO."));
	}
	return owner;
}

/* The columns of a state table that hold values, separated by commas. */
static char *
stored_columns(Oid table)
{
	Relation	rel = table_open(table, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && att->attgenerated == '\0')
			appendStringInfo(&text, "%s%s", text.len ? ", " : "",
							 quote_identifier(NameStr(att->attname)));
	}
	table_close(rel, NoLock);
	return text.data;
}

/*
 * Fill a state table with the rows of another, as a snapshot shows them; as
 * their owner, in SPI.
 */
void
ib_family_copy_rows(Oid from, Oid to, Snapshot snapshot)
{
	char	   *columns = stored_columns(from);

	ib_spi_snapshot(psprintf("INSERT INTO %s (%s) SELECT %s FROM %s",
							 ib_query_relation_name(to), columns, columns,
							 ib_query_relation_name(from)),
					SPI_OK_INSERT, 0, NULL, NULL, snapshot);
}

/* Storage parameters, which LIKE does not copy, as a clause. */
static char *
storage_parameters(Oid table)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
	bool		isnull;
	Datum		options = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_reloptions, &isnull);
	StringInfoData clause;
	ListCell   *lc;

	initStringInfo(&clause);
	foreach(lc, isnull ? NIL : ib_text_list(options))
	{
		char	   *option = lfirst(lc);
		char	   *value = strchr(option, '=');

		*value++ = '\0';
		appendStringInfo(&clause, "%s%s = %s", clause.len == 0 ? " WITH (" : ", ",
						 quote_identifier(option), quote_literal_cstr(value));
	}
	if (clause.len > 0)
		appendStringInfoChar(&clause, ')');
	ReleaseSysCache(tuple);
	return clause.data;
}

/* Make a state table like a sibling's, as their owner. */
static Oid
create_state_table(Family *family, Oid sibling)
{
	RangeVar   *name = ib_sibling_name(get_rel_namespace(sibling),
									   get_rel_name(family->relation), "state");
	char	   *sql = psprintf("CREATE TABLE %s (LIKE %s INCLUDING ALL)%s",
							   quote_qualified_identifier(name->schemaname, name->relname),
							   ib_query_relation_name(sibling), storage_parameters(sibling));
	Oid			table;

	ib_spi(sql, SPI_OK_UTILITY, 0, NULL, NULL, NULL);
	table = RangeVarGetRelid(name, NoLock, false);
	ib_depend(table, ExtensionRelationId, get_extension_oid(IB_NAME, false));
	return table;
}

/* What a new path begins as: the freshest that is of use. */
static FamilyPath *
choose_sibling(Family *family)
{
	FamilyPath *best = linitial(family->paths);
	ListCell   *lc;

	foreach(lc, family->paths)
	{
		FamilyPath *path = lfirst(lc);

		if ((path->has_frontier && !best->has_frontier) ||
			(path->has_frontier && path->running && !best->running))
			best = path;
	}
	return best;
}

static int32
insert_path(Family *family, Oid table, Interval *trigger)
{
	Oid			types[] = {INT4OID, OIDOID, INTERVALOID};
	Datum		values[] = {Int32GetDatum(family->pipeline), ObjectIdGetDatum(table),
	IntervalPGetDatum(trigger)};
	int32		path;

	ib_path_entry_require();
	SPI_connect();
	ib_spi("INSERT INTO incbatch.path (pipeline, relation, trigger_interval)"
		   " VALUES ($1, $2, $3) RETURNING id",
		   SPI_OK_INSERT_RETURNING, lengthof(types), types, values, NULL);
	path = DatumGetInt32(ib_spi_column(0, 1, NULL));
	SPI_finish();
	return path;
}

/* Add a path that begins as its sibling is now. */
static FamilyPath *
add_path(Family *family, Interval *trigger)
{
	FamilyPath *sibling = choose_sibling(family);
	FamilyPath *path = palloc0(sizeof(FamilyPath));
	List	   *settings = list_concat(ib_name_settings(), ib_text_settings());
	Oid			owner = ib_family_owner(family->pipeline, family->relation);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	OwnerScope	scope;
	CatalogScope catalog;

	path->trigger = trigger;
	path->wanted = true;
	ib_enter_role(owner, settings, &scope);
	path->table = create_state_table(family, sibling->table);
	ib_family_copy_rows(sibling->table, path->table, snapshot);
	ib_leave_owner(&scope);

	ib_catalog_become_owner(&catalog);
	path->path = insert_path(family, path->table, trigger);
	ib_catalog_copy_path(sibling->path, path->path, snapshot);
	ib_catalog_become_caller(&catalog);
	UnregisterSnapshot(snapshot);
	return path;
}

/* ----------------------------------------------------------------
 *		The arrangement
 * ----------------------------------------------------------------
 */

static bool
same_trigger(const Interval *a, const Interval *b)
{
	return DatumGetBool(DirectFunctionCall2(interval_eq, IntervalPGetDatum(a),
											IntervalPGetDatum(b)));
}

/* The path that is to have a trigger, once it is chosen. */
static FamilyPath *
path_of_trigger(Family *family, const Interval *trigger)
{
	ListCell   *lc;

	foreach(lc, family->paths)
	{
		FamilyPath *path = lfirst(lc);

		if (path->wanted && same_trigger(path->trigger, trigger))
			return path;
	}
	return NULL;
}

/* Does a consumer that wants this trigger read the path as it is? */
static bool
is_read_by(Family *family, FamilyPath *path, const Interval *trigger)
{
	ListCell   *lc;

	foreach(lc, family->views)
	{
		FamilyView *view = lfirst(lc);

		if (view->path == path->path && same_trigger(view->trigger, trigger))
			return true;
	}
	return false;
}

/*
 * A path that nobody wants and which may change its trigger, or NULL: best one
 * whose readers stay with it, else one that runs.
 */
static FamilyPath *
take_over(Family *family, Interval *trigger)
{
	FamilyPath *best = NULL;
	ListCell   *lc;

	foreach(lc, family->paths)
	{
		FamilyPath *path = lfirst(lc);

		if (path->wanted)
			continue;
		if (best == NULL || is_read_by(family, path, trigger) ||
			(path->running && !best->running && !is_read_by(family, best, trigger)))
			best = path;
	}
	if (best != NULL)
	{
		best->wanted = best->changed = true;
		best->trigger = trigger;
	}
	return best;
}

/* Say which paths are kept.  Returns the triggers that need a new one. */
static List *
choose_paths(Family *family)
{
	List	   *missing = NIL;
	ListCell   *lc;
	ListCell   *lp;

	foreach(lc, family->triggers)
	{
		foreach(lp, family->paths)
		{
			FamilyPath *path = lfirst(lp);

			if (same_trigger(path->trigger, lfirst(lc)) &&
				path_of_trigger(family, lfirst(lc)) == NULL)
				path->wanted = true;
		}
	}
	foreach(lc, family->triggers)
	{
		if (path_of_trigger(family, lfirst(lc)) == NULL &&
			take_over(family, lfirst(lc)) == NULL)
			missing = lappend(missing, lfirst(lc));
	}
	return missing;
}

/* What a view shall read, if that path is there yet. */
static FamilyPath *
path_of_view(Family *family, FamilyView *view)
{
	return path_of_trigger(family, view->consumer != 0 ? view->trigger :
						   linitial(family->triggers));
}

/* Lock the views that shall read another table, then the tables that go. */
static void
lock_family(Family *family)
{
	ListCell   *lc;

	foreach(lc, family->views)
	{
		FamilyView *view = lfirst(lc);
		FamilyPath *path = path_of_view(family, view);
		Query	   *query;

		if (path == NULL || reads_another(family, view->relation, path->table, &query))
			LockRelationOid(view->relation, AccessExclusiveLock);
	}
	foreach(lc, family->paths)
	{
		FamilyPath *path = lfirst(lc);

		if (!path->wanted)
			LockRelationOid(path->table, AccessExclusiveLock);
	}
}

static void
change_trigger(FamilyPath *path)
{
	Oid			types[] = {INT4OID, INTERVALOID};
	Datum		values[] = {Int32GetDatum(path->path), IntervalPGetDatum(path->trigger)};

	ib_change_catalog("UPDATE incbatch.path SET trigger_interval = $2 WHERE id OPERATOR(pg_catalog.=) $1",
					  SPI_OK_UPDATE, 2, types, values, NULL);
}

static void
forget_path(FamilyPath *path)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(path->path)};

	ib_change_catalog("DELETE FROM incbatch.path WHERE id OPERATOR(pg_catalog.=) $1",
					  SPI_OK_DELETE, 1, types, values, NULL);
}

/*
 * Give each wanted trigger its path and each view its table, and drop what
 * nobody wants, along with the relations of consumers that left.  The caller
 * has the family locked.  Returns whether there are consumers.
 */
bool
ib_family_arrange(int32 pipeline, Oid relation, List *leaving)
{
	Family	   *family = load_family(pipeline, relation);
	List	   *missing = choose_paths(family);
	ListCell   *lc;

	lock_family(family);
	foreach(lc, missing)
		family->paths = lappend(family->paths, add_path(family, lfirst(lc)));
	foreach(lc, family->paths)
	{
		if (((FamilyPath *) lfirst(lc))->changed)
			change_trigger(lfirst(lc));
	}
	foreach(lc, family->views)
	{
		FamilyView *view = lfirst(lc);

		view->reads = path_of_view(family, view);
		point_view(family, view);
	}
	foreach(lc, family->paths)
	{
		FamilyPath *path = lfirst(lc);

		if (path->wanted)
			continue;
		forget_path(path);
		leaving = lappend_oid(leaving, path->table);
	}
	CommandCounterIncrement();
	ib_drop_relations(leaving);
	ib_wake_worker_at_commit();
	return list_length(family->views) > 1;
}
