/*
 * lookups.c
 *	  Lookups whose changes are folded in too (track_lookups).
 *
 * The run's snapshot shows every table as it is after the batch; the batches
 * tell what changed.  What that does to the rows that enter the aggregation is
 * a sum of joins, each of which reads every table in one version: as it is
 * (the table), its changes (the batch), or as it was before them (old).
 *
 * Inner joins are linear in each of their tables.  So with the tables as they
 * are after the batch, new - old is the sum over every non-empty set T of
 * changed tables of (-1)^(|T|+1) times the join of the changes of T with the
 * others as they are: for A and B dA*B + A*dB - dA*dB.  Each term starts from
 * changes, which are few, and an index on a join column finds the rest.
 *
 * A LEFT JOIN is not linear in its right side: a first match takes away the
 * row of NULLs.  There the old version is used:
 *
 *		new - old =	  F(affected, as they are) - F(affected, old)
 *					+ the sum above over the other tables, on the old version
 *
 * where affected are the source's rows, as they are, that match a change.  They
 * may be too many, for the difference of the others is nothing.
 *
 * Which rows match a change of a lookup L: the changes inner-joined in the
 * place of L.  Conditions that read any table on the right of a LEFT JOIN,
 * other than those of the LEFT JOINs themselves, are left out, for they might
 * hide a row for what it is now.  By induction along the joins: a row that
 * matches no change of any LEFT JOIN gets the same rows from all of them.
 *
 * Not here: reading the old version, and running the statements (track.c).
 */
#include "incbatch.h"

#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
#include "optimizer/optimizer.h"
#include "optimizer/prep.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"

#include "query.h"
#include "source.h"

/* With more, one batch could need more joins than can be planned. */
#define MAX_TRACKED 6

#define refuse(what, detail, hint) \
	ereport(ERROR, \
			errcode(ERRCODE_FEATURE_NOT_SUPPORTED), \
			errmsg("lookups cannot be tracked in a query with %s", what), \
			errdetail("%s", detail), \
			errhint("%s", hint))

/* ----------------------------------------------------------------
 *		Which lookups, and whether they can be tracked
 * ----------------------------------------------------------------
 */

static bool
has_outer_join(Node *node)
{
	ListCell   *lc;

	if (IsA(node, RangeTblRef))
		return false;
	if (IsA(node, JoinExpr))
	{
		JoinExpr   *join = (JoinExpr *) node;

		return join->jointype != JOIN_INNER || has_outer_join(join->larg) ||
			has_outer_join(join->rarg);
	}
	foreach(lc, castNode(FromExpr, node)->fromlist)
	{
		if (has_outer_join(lfirst(lc)))
			return true;
	}
	return false;
}

/* The planner keeps what is joined by AND in lists, and so expects it. */
static void
list_conditions(Node *node)
{
	ListCell   *lc;

	if (IsA(node, FromExpr))
	{
		FromExpr   *from = (FromExpr *) node;

		foreach(lc, from->fromlist)
			list_conditions(lfirst(lc));
		from->quals = (Node *) make_ands_implicit((Expr *) from->quals);
	}
	else if (IsA(node, JoinExpr))
	{
		JoinExpr   *join = (JoinExpr *) node;

		list_conditions(join->larg);
		list_conditions(join->rarg);
		join->quals = (Node *) make_ands_implicit((Expr *) join->quals);
	}
}

/* The number of a table or join in the range table */
static int
number_of(Node *node)
{
	if (IsA(node, JoinExpr))
		return ((JoinExpr *) node)->rtindex;
	return IsA(node, RangeTblRef) ? ((RangeTblRef *) node)->rtindex : 0;
}

static JoinExpr *
find_join(Node *node, int number)
{
	JoinExpr   *found = NULL;

	if (IsA(node, FromExpr))
	{
		ListCell   *lc;

		foreach(lc, ((FromExpr *) node)->fromlist)
		{
			if ((found = find_join(lfirst(lc), number)) != NULL)
				break;
		}
	}
	else if (IsA(node, JoinExpr))
	{
		JoinExpr   *join = (JoinExpr *) node;

		if (join->rtindex == number)
			return join;
		found = find_join(join->larg, number);
		if (found == NULL)
			found = find_join(join->rarg, number);
	}
	return found;
}

/*
 * Give joins the kinds that they have in "reduced", and no more of it: what it
 * says of conditions differs between releases.  LEFT JOIN ... WHERE x IS NULL
 * is a join of its own there, which SQL does not have.  One that was turned
 * around could not have its USING, which would name other columns; the
 * condition says it all.
 */
static void
adopt_kinds(Node *node, Node *reduced, List *rtable)
{
	JoinExpr   *join;
	JoinExpr   *kind;

	if (IsA(node, FromExpr))
	{
		ListCell   *lc;

		foreach(lc, ((FromExpr *) node)->fromlist)
			adopt_kinds(lfirst(lc), reduced, rtable);
	}
	if (!IsA(node, JoinExpr))
		return;
	join = (JoinExpr *) node;
	kind = find_join(reduced, join->rtindex);
	adopt_kinds(join->larg, reduced, rtable);
	adopt_kinds(join->rarg, reduced, rtable);
	if (kind != NULL && number_of(kind->larg) == number_of(join->rarg))
	{
		Node	   *left = join->larg;

		join->larg = join->rarg;
		join->rarg = left;
	}
	if (kind == NULL || number_of(kind->larg) != number_of(join->larg) ||
		number_of(kind->rarg) != number_of(join->rarg))
		elog(ERROR, "join %d is another one in the reduced query", join->rtindex);
	join->jointype = kind->jointype == JOIN_ANTI ? JOIN_LEFT : kind->jointype;
	join->usingClause = NIL;
	rt_fetch(join->rtindex, rtable)->jointype = join->jointype;
}

/*
 * Make LEFT JOINs inner ones where a later condition drops the rows of NULLs
 * anyway, as the planner would: inner joins are cheaper to follow.
 */
void
ib_lookups_reduce_joins(Query *query)
{
	PlannerInfo root = {.type = T_PlannerInfo};

	query->targetList = (List *)
		ib_flatten_join_aliases(query, (Node *) query->targetList);
	query->havingQual = ib_flatten_join_aliases(query, query->havingQual);
	query->jointree = (FromExpr *)
		ib_flatten_join_aliases(query, (Node *) query->jointree);
	if (!has_outer_join((Node *) query->jointree))
		return;
	root.parse = copyObject(query);
	list_conditions((Node *) root.parse->jointree);
	reduce_outer_joins(&root);
	adopt_kinds((Node *) query->jointree, (Node *) root.parse->jointree, query->rtable);
}

static void
refuse_table(Relation rel, const char *detail, const char *hint)
{
	ereport(ERROR,
			errcode(ERRCODE_WRONG_OBJECT_TYPE),
			errmsg("changes of lookup \"%s\" cannot be tracked",
				   RelationGetRelationName(rel)),
			errdetail("%s", detail),
			errhint("%s", hint));
}

static void
check_table(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);

	if (rel->rd_rel->relkind != RELKIND_RELATION ||
		find_inheritance_children(relid, NoLock) != NIL)
		refuse_table(rel, "Only the changes of an ordinary table without children tell what became of a lookup.",
					 "Join the tables that a view reads themselves, or create the pipeline without track_lookups.");
	if (!RelationIsPermanent(rel))
		refuse_table(rel, "Changes of unlogged tables are not written to the WAL.",
					 psprintf("Use ALTER TABLE %s SET LOGGED.", ib_query_relation_name(relid)));
	if (IsSystemRelation(rel) ||
		RelationGetNamespace(rel) == get_namespace_oid(IB_SCHEMA, true))
		refuse_table(rel, "Changes of system catalogs and of incbatch's own tables are not decoded.",
					 "Join a table of your own, or create the pipeline without track_lookups.");
	ib_source_check_reader(relid, GetUserId());
	table_close(rel, NoLock);
}

/* The columns of a lookup that are read for each row. */
static Bitmapset *
needed_columns(PipelineQuery *pq, int index)
{
	Bitmapset  *attnos = NULL;
	Bitmapset  *needed = NULL;
	int			attno = -1;
	ListCell   *lc;

	pull_varattnos((Node *) pq->query->jointree, index, &attnos);
	foreach(lc, pq->keys)
		pull_varattnos((Node *) ((KeyColumn *) lfirst(lc))->expr, index, &attnos);
	foreach(lc, pq->inputs)
	{
		AggregateInput *input = lfirst(lc);

		pull_varattnos((Node *) input->arg, index, &attnos);
		pull_varattnos((Node *) input->filter, index, &attnos);
	}
	while ((attno = bms_next_member(attnos, attno)) >= 0)
	{
		int			attnum = attno + FirstLowInvalidHeapAttributeNumber;

		if (attnum <= 0)
			refuse("whole rows or system columns of a lookup",
				   "Only named columns are kept with a change.",
				   "Name the columns that the query needs.");
		needed = bms_add_member(needed, attnum);
	}
	return needed;
}

static bool
reads_tables(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
		return ((RangeTblEntry *) node)->rtekind == RTE_RELATION ||
			((RangeTblEntry *) node)->rtekind == RTE_CTE;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, reads_tables, context,
								 QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, reads_tables, context);
}

/* What is not a table must be a constant, or made of the source's columns. */
static void
check_other(PipelineQuery *pq, RangeTblEntry *rte)
{
	Bitmapset  *source = bms_make_singleton(pq->source_index);

	if (rte->rtekind == RTE_CTE ||
		(rte->rtekind == RTE_SUBQUERY &&
		 (rte->lateral || reads_tables((Node *) rte->subquery, NULL))))
		refuse("subqueries or WITH queries that read a lookup",
			   "The changes of tables within them are not followed.",
			   "Join the tables themselves, or create the pipeline without track_lookups.");
	if (!bms_is_subset(pull_varnos(NULL, (Node *) rte->functions), source) ||
		!bms_is_subset(pull_varnos(NULL, (Node *) rte->tablefunc), source) ||
		!bms_is_subset(pull_varnos(NULL, (Node *) rte->values_lists), source))
		refuse("functions in FROM that read a lookup",
			   "Their rows change with the lookup's.",
			   "Call the function on columns of the source, or create the pipeline without track_lookups.");
}

/* A subquery in an expression that is evaluated for each row reads a lookup. */
static void
check_expressions(PipelineQuery *pq)
{
	bool		found = checkExprHasSubLink((Node *) pq->query->jointree);
	ListCell   *lc;

	foreach(lc, pq->keys)
		found = found || checkExprHasSubLink((Node *) ((KeyColumn *) lfirst(lc))->expr);
	foreach(lc, pq->inputs)
	{
		AggregateInput *input = lfirst(lc);

		found = found || checkExprHasSubLink((Node *) input->arg) ||
			checkExprHasSubLink((Node *) input->filter);
	}
	if (found)
		refuse("subqueries in expressions",
			   "The changes of tables within them are not followed.",
			   "Join the tables, or create the pipeline without track_lookups.");
	if (list_length(pq->source_path) > 1)
		refuse("its source in a subquery",
			   "Only what is joined beside the source is tracked.",
			   "Join the source and the lookups in one FROM, or create the pipeline without track_lookups.");
}

static void
add_lookup(PipelineQuery *pq, int index, bool nullable)
{
	RangeTblEntry *rte = rt_fetch(index, pq->query->rtable);
	TrackedLookup *lookup;

	if (index == pq->source_index)
		return;
	if (rte->rtekind != RTE_RELATION)
	{
		check_other(pq, rte);
		return;
	}
	check_table(rte->relid);
	lookup = palloc0(sizeof(TrackedLookup));
	lookup->index = index;
	lookup->relid = rte->relid;
	lookup->nullable = nullable;
	lookup->needed = needed_columns(pq, index);
	pq->lookups = lappend(pq->lookups, lookup);
}

static void
find_lookups(PipelineQuery *pq, Node *node)
{
	ListCell   *lc;

	if (IsA(node, RangeTblRef))
		add_lookup(pq, ((RangeTblRef *) node)->rtindex, false);
	else if (IsA(node, FromExpr))
	{
		foreach(lc, ((FromExpr *) node)->fromlist)
			find_lookups(pq, lfirst(lc));
	}
	else
	{
		JoinExpr   *join = castNode(JoinExpr, node);

		find_lookups(pq, join->larg);
		if (join->jointype == JOIN_INNER)
			find_lookups(pq, join->rarg);
		else if (join->jointype == JOIN_LEFT && IsA(join->rarg, RangeTblRef))
			add_lookup(pq, ((RangeTblRef *) join->rarg)->rtindex, true);
		else
			refuse("RIGHT or FULL joins, or a LEFT JOIN to a join",
				   "Which of its rows find no match does not depend on one lookup's changes alone.",
				   "LEFT JOIN each lookup by itself, or create the pipeline without track_lookups.");
	}
}

/* What stands on the right of a LEFT JOIN. */
static Bitmapset *
right_sides(Node *node)
{
	Bitmapset  *result = NULL;
	ListCell   *lc;

	if (IsA(node, FromExpr))
	{
		foreach(lc, ((FromExpr *) node)->fromlist)
			result = bms_join(result, right_sides(lfirst(lc)));
	}
	else if (IsA(node, JoinExpr))
	{
		JoinExpr   *join = (JoinExpr *) node;

		result = right_sides(join->larg);
		if (join->jointype == JOIN_LEFT)
			result = bms_add_member(result, castNode(RangeTblRef, join->rarg)->rtindex);
		else
			result = bms_join(result, right_sides(join->rarg));
	}
	return result;
}

/* Find the lookups whose changes are folded in, or say why they cannot be. */
void
ib_lookups_find(PipelineQuery *pq)
{
	check_expressions(pq);
	find_lookups(pq, (Node *) pq->query->jointree);
	if (list_length(pq->lookups) > MAX_TRACKED)
		refuse(psprintf("more than %d of them", MAX_TRACKED),
			   "The joins that a batch needs double with each lookup that changed.",
			   "Combine lookups into one table, or create the pipeline without track_lookups.");
}

/* ----------------------------------------------------------------
 *		The rows of a batch in which lookups changed
 * ----------------------------------------------------------------
 */

char *
ib_lookups_batch_name(const TrackedLookup *lookup)
{
	return psprintf(BATCH_RELATION "_%d", lookup->index);
}

char *
ib_lookups_old_name(const TrackedLookup *lookup)
{
	return psprintf("incbatch_old_%d", lookup->index);
}

static StandIn *
lookup_stand_in(TrackedLookup *lookup, bool old)
{
	StandIn    *stand_in = palloc0(sizeof(StandIn));

	stand_in->index = lookup->index;
	stand_in->relid = lookup->relid;
	stand_in->name = old ? ib_lookups_old_name(lookup) : ib_lookups_batch_name(lookup);
	stand_in->columns = lookup->columns;
	stand_in->weighted = !old;
	return stand_in;
}

static StandIn *
source_stand_in(PipelineQuery *pq, int batch_columns, const char *name)
{
	StandIn    *stand_in = palloc0(sizeof(StandIn));

	stand_in->index = pq->source_index;
	stand_in->relid = pq->source;
	stand_in->name = pstrdup(name);
	stand_in->columns = batch_columns;
	stand_in->weighted = true;
	return stand_in;
}

/* Whether the changed lookups, pq->changed, ask for old versions. */
bool
ib_lookups_reads_old(const PipelineQuery *pq)
{
	return bms_overlap(pq->changed, right_sides((Node *) pq->query->jointree));
}

/* Stand-ins for the nullable lookups that changed: as they were. */
static List *
old_lookups(PipelineQuery *pq)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, pq->lookups)
	{
		TrackedLookup *lookup = lfirst(lc);

		if (lookup->nullable && bms_is_member(lookup->index, pq->changed))
			result = lappend(result, lookup_stand_in(lookup, true));
	}
	return result;
}

static void
add_term(StringInfo text, PipelineQuery *pq, List *stand_ins, int sign)
{
	appendStringInfo(text, "%s%s", text->len ? " UNION ALL " : "",
					 ib_query_rows_of(pq, stand_ins, sign));
}

/* The sum over all sets of changed tables that are linear. */
static void
add_linear_terms(StringInfo text, PipelineQuery *pq, int batch_columns)
{
	List	   *changed = list_make1(source_stand_in(pq, batch_columns, BATCH_RELATION));
	ListCell   *lc;

	foreach(lc, pq->lookups)
	{
		TrackedLookup *lookup = lfirst(lc);

		if (!lookup->nullable && bms_is_member(lookup->index, pq->changed))
			changed = lappend(changed, lookup_stand_in(lookup, false));
	}
	for (int set = 1; set < 1 << list_length(changed); set++)
	{
		List	   *stand_ins = NIL;

		foreach(lc, changed)
		{
			if (set & 1 << foreach_current_index(lc))
				stand_ins = lappend(stand_ins, lfirst(lc));
		}
		add_term(text, pq, list_concat_copy(stand_ins, old_lookups(pq)),
				 list_length(stand_ins) % 2 || MUTANT(LOOKUP_BOTH) ? 1 : -1);
	}
}

/*
 * What the changes of the source and of the lookups in pq->changed do to the
 * rows that enter the aggregation.
 */
char *
ib_lookups_rows_text(PipelineQuery *pq, int batch_columns)
{
	StringInfoData text;

	initStringInfo(&text);
	add_linear_terms(&text, pq, batch_columns);
	if (ib_lookups_reads_old(pq))
	{
		List	   *affected = list_make1(source_stand_in(pq, batch_columns, AFFECTED_RELATION));

		add_term(&text, pq, affected, 1);
		add_term(&text, pq, list_concat_copy(affected, old_lookups(pq)), -1);
	}
	return text.data;
}

/* ----------------------------------------------------------------
 *		The rows that changes of LEFT JOINed lookups affect
 * ----------------------------------------------------------------
 */

/* A condition without what reads any of some tables. */
static Node *
without(Node *quals, Bitmapset *tables)
{
	List	   *kept = NIL;
	ListCell   *lc;

	foreach(lc, make_ands_implicit((Expr *) quals))
	{
		if (!bms_overlap(pull_varnos(NULL, lfirst(lc)), tables))
			kept = lappend(kept, lfirst(lc));
	}
	return kept == NIL ? NULL : (Node *) make_ands_explicit(kept);
}

/* Leave out the conditions that might hide a row, and inner-join a lookup. */
static void
show_matches(Query *query, Node *node, int lookup, Bitmapset *nullable)
{
	ListCell   *lc;

	if (IsA(node, FromExpr))
	{
		FromExpr   *from = (FromExpr *) node;

		from->quals = without(from->quals, nullable);
		foreach(lc, from->fromlist)
			show_matches(query, lfirst(lc), lookup, nullable);
	}
	else if (IsA(node, JoinExpr))
	{
		JoinExpr   *join = (JoinExpr *) node;

		show_matches(query, join->larg, lookup, nullable);
		if (join->jointype == JOIN_INNER)
		{
			show_matches(query, join->rarg, lookup, nullable);
			/* equality with a lookup's column had made that an inner join */
			if (join->usingClause == NIL)
				join->quals = without(join->quals, nullable);
			if (join->quals == NULL)
				join->quals = makeBoolConst(true, false);
		}
		else if (((RangeTblRef *) join->rarg)->rtindex == lookup)
		{
			join->jointype = JOIN_INNER;
			rt_fetch(join->rtindex, query->rtable)->jointype = JOIN_INNER;
		}
	}
}

/* The places of the source's rows that match the changes of a lookup. */
static char *
matches(PipelineQuery *pq, TrackedLookup *lookup)
{
	Query	   *query = ib_query_ungrouped(pq);
	Var		   *table = makeVar(pq->source_index, TableOidAttributeNumber, OIDOID,
								-1, InvalidOid, 0);
	Var		   *row = makeVar(pq->source_index, SelfItemPointerAttributeNumber,
							  TIDOID, -1, InvalidOid, 0);

	query->targetList = list_make2(makeTargetEntry((Expr *) table, 1, "t", false),
								   makeTargetEntry((Expr *) row, 2, "r", false));
	show_matches(query, (Node *) query->jointree, lookup->index,
				 right_sides((Node *) pq->query->jointree));
	ib_query_replace(query, lookup_stand_in(lookup, false));
	return pg_get_querydef(query, false);
}

/* The columns of a batch, read from its table. */
static char *
columns_as_in_batch(Oid relid, const Bitmapset *needed, int batch_columns)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int attnum = 1; attnum < batch_columns; attnum++)
	{
		if (bms_is_member(attnum, needed))
			appendStringInfo(&text, "t.%s, ",
							 quote_identifier(get_attname(relid, attnum, false)));
		else
			appendStringInfoString(&text, "NULL, ");
	}
	appendStringInfoString(&text, "1");
	return text.data;
}

/*
 * The source's rows, in the form of its batch, that match a change of the
 * nullable lookups in pq->changed.
 */
char *
ib_lookups_affected(PipelineQuery *pq, int batch_columns)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, pq->lookups)
	{
		TrackedLookup *lookup = lfirst(lc);

		if (lookup->nullable && bms_is_member(lookup->index, pq->changed))
			appendStringInfo(&text, "%s%s", text.len ? " UNION " : "", matches(pq, lookup));
	}
	return psprintf("SELECT %s FROM %s t WHERE (t.tableoid, t.ctid) IN (%s)",
					columns_as_in_batch(pq->source, pq->needed, batch_columns),
					ib_query_relation_name(pq->source), text.data);
}

/* ----------------------------------------------------------------
 *		A LEFT JOINed lookup as it is
 * ----------------------------------------------------------------
 */

/* The conditions of the LEFT JOIN of a lookup, or NIL. */
static List *
join_conditions(Node *node, int lookup)
{
	List	   *result = NIL;
	ListCell   *lc;

	if (IsA(node, FromExpr))
	{
		foreach(lc, ((FromExpr *) node)->fromlist)
			result = list_concat(result, join_conditions(lfirst(lc), lookup));
	}
	else if (IsA(node, JoinExpr))
	{
		JoinExpr   *join = (JoinExpr *) node;

		if (join->jointype == JOIN_LEFT && IsA(join->rarg, RangeTblRef) &&
			((RangeTblRef *) join->rarg)->rtindex == lookup)
			return make_ands_implicit((Expr *) join->quals);
		result = list_concat(join_conditions(join->larg, lookup),
							 join_conditions(join->rarg, lookup));
	}
	return result;
}

/* An expression over the source's rows that a run offers by a name. */
static char *
of_source(PipelineQuery *pq, Node *expr, int batch_columns, const char *name)
{
	Query	   *query = makeNode(Query);
	StandIn    *source = source_stand_in(pq, batch_columns, name);
	RangeTblRef *ref = makeNode(RangeTblRef);

	expr = copyObject(expr);
	ChangeVarNodes(expr, pq->source_index, 1, 0);
	source->index = ref->rtindex = 1;
	query->commandType = CMD_SELECT;
	query->rtable = list_make1(copyObject(rt_fetch(pq->source_index, pq->query->rtable)));
	query->jointree = makeFromExpr(list_make1(ref), NULL);
	query->targetList = list_make1(makeTargetEntry((Expr *) expr, 1, pstrdup("key"), false));
	ib_query_replace(query, source);
	return pg_get_querydef(query, false);
}

/*
 * The rows t of a lookup that rows of the batch and affected ones can match, if
 * a condition makes a column of it equal to what the source says; else NULL.
 */
static char *
matching_rows(PipelineQuery *pq, TrackedLookup *lookup, int batch_columns)
{
	Bitmapset  *source = bms_make_singleton(pq->source_index);
	ListCell   *lc;

	foreach(lc, join_conditions((Node *) pq->query->jointree, lookup->index))
	{
		OpExpr	   *op = lfirst(lc);

		if (!IsA(op, OpExpr) || list_length(op->args) != 2 ||
			!op_mergejoinable(op->opno, exprType(linitial(op->args))))
			continue;
		for (int side = 0; side < 2; side++)
		{
			Var		   *column = list_nth(op->args, side);
			Node	   *other = list_nth(op->args, 1 - side);
			Oid			opno = side == 0 ? op->opno : get_commutator(op->opno);

			if (!IsA(column, Var) || column->varno != lookup->index || !OidIsValid(opno) ||
				!bms_equal(pull_varnos(NULL, other), source) ||
				column->varcollid != exprCollation(other) || column->varcollid != op->inputcollid)
				continue;
			return psprintf("t.%s %s ANY (%s UNION ALL %s)",
							quote_identifier(get_attname(lookup->relid, column->varattno, false)),
							ib_query_operator(opno),
							of_source(pq, other, batch_columns, BATCH_RELATION),
							of_source(pq, other, batch_columns, AFFECTED_RELATION));
		}
	}
	return NULL;
}

/*
 * A lookup of which the old version is asked, as it is, in the form of its
 * batch.  Where no other lookup changed but LEFT JOINed ones, rows of the source
 * come from its batch and from the affected ones, and only what these match is
 * read: not *whole.
 */
char *
ib_lookups_present(PipelineQuery *pq, TrackedLookup *lookup, int batch_columns, bool *whole)
{
	char	   *text = psprintf("SELECT %s FROM %s t",
								columns_as_in_batch(lookup->relid, lookup->needed, lookup->columns),
								ib_query_relation_name(lookup->relid));
	char	   *matching = NULL;

	if (bms_is_subset(pq->changed, right_sides((Node *) pq->query->jointree)))
		matching = matching_rows(pq, lookup, batch_columns);
	*whole = matching == NULL;
	return *whole ? text : psprintf("%s WHERE %s", text, matching);
}
