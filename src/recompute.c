/*
 * recompute.c
 *	  The recompute strategy: evaluate the touched groups again from the
 *	  source.
 *
 * Exact because the run's snapshot sees the source as it is after the batch,
 * to the row (frontier.c).  It reads the source by the keys of the groups
 * that the merge left unknown; an index on the keys' expressions serves it.
 * Of a grouping set these are the keys that are grouped; the empty set is all
 * of the source.
 */
#include "incbatch.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "query.h"

/*
 * A join by plain equality can be hashed and use an index, but finds no NULL;
 * null_keys asks for the form that does, for groups with a NULL key.
 */
static char *
same_keys(List *keys, bool null_keys)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, keys)
	{
		KeyColumn  *key = lfirst(lc);
		const char *name = quote_identifier(key->name);

		if (text.len)
			appendStringInfoString(&text, " AND ");
		if (null_keys)
			appendStringInfo(&text, "(t.%1$s %2$s g.%1$s OR (t.%1$s IS NULL AND g.%1$s IS NULL))",
							 name, key->equals);
		else
			appendStringInfo(&text, "t.%1$s %2$s g.%1$s", name, key->equals);
	}
	return text.len ? text.data : "true";
}

/*
 * The touched groups of a grouping set, or all if set is NULL, evaluated from
 * the rows of the source: keys, then the state's columns.
 */
static char *
evaluate_groups(PipelineQuery *pq, GroupingSetRows *set, const char *rows,
				bool null_keys)
{
	List	   *keys = set ? set->keys : pq->keys;
	StringInfoData text;
	StringInfoData group_by;
	StringInfoData has_null;
	ListCell   *lc;

	initStringInfo(&text);
	initStringInfo(&group_by);
	initStringInfo(&has_null);
	appendStringInfoString(&text, "SELECT ");
	foreach(lc, pq->keys)
	{
		KeyColumn  *key = lfirst(lc);
		const char *name = quote_identifier(key->name);
		bool		grouped = list_member_ptr(keys, key);

		/* the others are the set's number and NULLs, of the right type */
		appendStringInfo(&text, "%s%c.%s", lc == list_head(pq->keys) ? "" : ", ",
						 grouped ? 't' : 'g', name);
		appendStringInfo(&group_by, "%s%c.%s", lc == list_head(pq->keys) ? "" : ", ",
						 grouped ? 't' : 'g', name);
		if (grouped)
			appendStringInfo(&has_null, "%s%s IS NULL", has_null.len ? " OR " : "", name);
	}
	foreach(lc, pq->state)
		appendStringInfo(&text, ", %s", ((StateColumn *) lfirst(lc))->plus);
	appendStringInfo(&text, " FROM (%s) t JOIN (SELECT * FROM %s WHERE " TOUCHED_UNKNOWN " AND " TOUCHED_COUNT " > 0 AND %s(%s)",
					 rows, TOUCHED_RELATION, null_keys ? "" : "NOT ",
					 has_null.len ? has_null.data : "false");
	if (set)
		appendStringInfo(&text, " AND " GROUPING_SET_COLUMN " = %d", set->number);
	appendStringInfo(&text, ") g ON %s GROUP BY %s", same_keys(keys, null_keys),
					 group_by.data);
	return text.data;
}

char *
ib_recompute(PipelineQuery *pq, const char *state_table, bool null_keys)
{
	char	   *rows = ib_query_rows_text(pq, false, 0);
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	appendStringInfo(&text, "INSERT INTO %s (%s", state_table, ib_delta_key_list(pq, ""));
	foreach(lc, pq->state)
		appendStringInfo(&text, ", %s", ((StateColumn *) lfirst(lc))->name);
	appendStringInfoString(&text, ") ");
	if (pq->sets == NIL)
		appendStringInfoString(&text, evaluate_groups(pq, NULL, rows, null_keys));
	foreach(lc, pq->sets)
		appendStringInfo(&text, "%s%s", lc == list_head(pq->sets) ? "" : " UNION ALL ",
						 evaluate_groups(pq, lfirst(lc), rows, null_keys));
	appendStringInfo(&text, " ON CONFLICT (%s) DO UPDATE SET ", ib_delta_key_list(pq, ""));
	foreach(lc, pq->state)
	{
		StateColumn *column = lfirst(lc);

		appendStringInfo(&text, "%s%s = excluded.%s", lc == list_head(pq->state) ? "" : ", ",
						 column->name, column->name);
	}
	return text.data;
}
