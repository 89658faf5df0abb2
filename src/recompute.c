/*
 * recompute.c
 *	  The recompute strategy: evaluate the touched groups again from the
 *	  source.
 *
 * Exact because the run's snapshot sees the source as it is after the batch,
 * to the row (frontier.c).
 *
 * It reads the source by the keys of the touched groups, so an index on them
 * serves it; and where a key is a window of the source's time, by the times of
 * the touched windows, so an index on the plain column serves it too, or the
 * pruning of partitions.  For that the statement says the times as constants,
 * which a first statement finds out: ib_recompute_times.
 *
 * Some results depend on the order of the rows: sums of floating point in their
 * last digits, ORDER BY inside an aggregate where values tie.  There the rows
 * are read in the order of the table, as a batch query mostly does: its scan
 * of the table, its hash table of groups.
 *
 * A join by plain equality can be hashed and use an index, but finds no NULL.
 * So there is one statement for each set of keys that are NULL in the touched
 * groups; most often that is the empty set only.
 *
 * With grouping sets a statement is one of branches, a branch for each set.  A
 * row of a set is compared by the keys that are grouped in it; the empty set
 * is all of the source.
 */
#include "incbatch.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "query.h"
#include "source.h"

/* More times than this are put together as one. */
#define MAX_TIMES "16"

/* ----------------------------------------------------------------
 *		Times
 * ----------------------------------------------------------------
 */

static KeyColumn *
window_key(PipelineQuery *pq)
{
	ListCell   *lc;

	foreach(lc, pq->keys)
	{
		if (((KeyColumn *) lfirst(lc))->time != NULL)
			return lfirst(lc);
	}
	return NULL;
}

/*
 * A statement that yields the times of the touched windows, as a condition on
 * the rows t; NULL: no key is a window.  Adjacent windows become one range.
 */
char *
ib_recompute_times(PipelineQuery *pq)
{
	KeyColumn  *key = window_key(pq);
	const char *type;
	char	   *start;

	if (key == NULL)
		return NULL;
	type = key->time->vartype == TIMESTAMPTZOID ? "timestamptz" : "timestamp";
	start = psprintf("%s::pg_catalog.%s", quote_identifier(key->name), type);
	/* far from the present, where arithmetic could overflow: no bound */
	return psprintf("SELECT pg_catalog.string_agg(pg_catalog.format("
					"'(t." INPUT_TIME "%1$d >= %%L::pg_catalog.%2$s AND t." INPUT_TIME "%1$d <= %%L::pg_catalog.%2$s)',"
					" pg_catalog.to_json(pg_catalog.lower(r)) #>> '{}', pg_catalog.to_json(pg_catalog.upper(r)) #>> '{}'), ' OR ')"
					" FROM (SELECT pg_catalog.range_agg(pg_catalog.%3$s("
					"CASE WHEN %4$s > '0100-01-01' THEN least(%4$s, '9900-01-01') - (%5$s) ELSE '-infinity' END,"
					" CASE WHEN %4$s < '9900-01-01' THEN greatest(%4$s, '0100-01-01') + (%6$s) ELSE 'infinity' END, '[]')) m"
					" FROM %7$s WHERE %8$s IS NOT NULL) a,"
					" pg_catalog.unnest(CASE WHEN (SELECT pg_catalog.count(*) FROM pg_catalog.unnest(m)) <= " MAX_TIMES
					" THEN m ELSE pg_catalog.multirange(pg_catalog.range_merge(m)) END) r",
					key->number, type,
					key->time->vartype == TIMESTAMPTZOID ? "tstzrange" : "tsrange",
					start, key->before, key->after, TOUCHED_RELATION,
					quote_identifier(key->name));
}

/* ----------------------------------------------------------------
 *		Statements
 * ----------------------------------------------------------------
 */

/* Two relations are at the same group, one whose keys "nulls" are NULL. */
static char *
same_group(List *keys, const char *left, const char *right,
		   const Bitmapset *nulls)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	appendStringInfoString(&text, "true");
	foreach(lc, keys)
	{
		KeyColumn  *key = lfirst(lc);
		const char *name = quote_identifier(key->name);

		if (bms_is_member(key->number, nulls) && !MUTANT(NULL_GROUP))
			appendStringInfo(&text, " AND %s.%s IS NULL AND %s.%s IS NULL",
							 left, name, right, name);
		else
			appendStringInfo(&text, " AND %s.%s %s %s.%s",
							 left, name, key->equals, right, name);
	}
	return text.data;
}

/* Where a row t is in the order of the source, as SQL to sort by */
static char *
place_in_source(PipelineQuery *pq)
{
	StringInfoData text;
	const char *separator = "";
	ListCell   *lc;

	initStringInfo(&text);
	appendStringInfoString(&text, "pg_catalog.array_position('{");
	foreach(lc, ib_source_reading_order(pq->source))
	{
		appendStringInfo(&text, "%s%u", separator, lfirst_oid(lc));
		separator = ",";
	}
	appendStringInfoString(&text, "}'::pg_catalog.oid[], t." INPUT_TABLE "), t." INPUT_ROW);
	return text.data;
}

/*
 * The touched groups of a grouping set, or all if set is NULL, evaluated from
 * the rows of the source: keys, then the state's columns.
 */
static char *
evaluate_groups(PipelineQuery *pq, GroupingSetRows *set, const char *source_rows,
				const Bitmapset *nulls, const char *times, bool from_batch)
{
	List	   *keys = set ? set->keys : pq->keys;
	KeyColumn  *window = window_key(pq);
	bool		by_time = window != NULL && !from_batch && list_member_ptr(keys, window);
	StringInfoData text;
	StringInfoData rows;
	StringInfoData group_by;
	ListCell   *lc;

	initStringInfo(&text);
	initStringInfo(&rows);
	initStringInfo(&group_by);
	foreach(lc, pq->keys)
	{
		KeyColumn  *key = lfirst(lc);
		const char *name = quote_identifier(key->name);

		/*
		 * keys that are not the set's: its number, and NULLs of the right
		 * type
		 */
		appendStringInfo(&rows, "%s%s.%s", group_by.len ? ", " : "SELECT ",
						 list_member_ptr(keys, key) ? "t" : "g", name);
		appendStringInfo(&group_by, "%st.%s", group_by.len ? ", " : "", name);
	}
	foreach(lc, pq->inputs)
	{
		AggregateInput *input = lfirst(lc);

		if (input->arg)
			appendStringInfo(&rows, ", t." INPUT_ARG "%d", input->number);
		if (input->filter)
			appendStringInfo(&rows, ", t." INPUT_FILTER "%d", input->number);
	}
	appendStringInfo(&rows, " FROM (%s) t JOIN (SELECT * FROM %s WHERE " TOUCHED_UNKNOWN " AND " TOUCHED_COUNT " > 0",
					 source_rows, TOUCHED_RELATION);
	if (set && !MUTANT(GROUPING_SET))
		appendStringInfo(&rows, " AND " GROUPING_SET_COLUMN " = %d", set->number);
	appendStringInfo(&rows, ") g ON %s", same_group(keys, "t", "g", nulls));
	if (by_time && bms_is_member(window->number, nulls))
		appendStringInfo(&rows, " WHERE t." INPUT_TIME "%d IS NULL", window->number);
	else if (by_time && times != NULL)
		appendStringInfo(&rows, " WHERE (%s)", times);
	if (pq->in_order)
	{
		appendStringInfoString(&rows, " ORDER BY ");
		foreach(lc, keys)
			appendStringInfo(&rows, "t.%s, ", quote_identifier(((KeyColumn *) lfirst(lc))->name));
		appendStringInfoString(&rows, from_batch ? "t." INPUT_WEIGHT : place_in_source(pq));
	}

	appendStringInfo(&text, "SELECT %s", group_by.data);
	foreach(lc, pq->state)
		appendStringInfo(&text, ", %s", ((StateColumn *) lfirst(lc))->plus);
	appendStringInfo(&text, " FROM (%s) t GROUP BY %s", rows.data, group_by.data);
	return text.data;
}

/* Does a grouping set have groups whose keys "nulls", and only they, are NULL? */
static bool
has_groups(PipelineQuery *pq, GroupingSetRows *set, const Bitmapset *nulls)
{
	ListCell   *lc;

	foreach(lc, pq->keys)
	{
		KeyColumn  *key = lfirst(lc);

		if (key->expr != NULL && !list_member_ptr(set->keys, key) &&
			!bms_is_member(key->number, nulls))
			return false;
	}
	return true;
}

/*
 * Evaluate the touched groups whose keys "nulls", and only they, are NULL.
 * "present" is how the statement has to begin if it reads the source without
 * some of its rows, as a batch of so many columns (divert.c); or NULL.
 */
char *
ib_recompute(PipelineQuery *pq, const char *state_table, const Bitmapset *nulls,
			 const char *times, const char *present, int batch_columns)
{
	bool		from_batch = present != NULL;
	char	   *rows = ib_query_rows_text(pq, from_batch, batch_columns);
	StringInfoData text;
	StringInfoData updates;
	const char *separator = "";
	ListCell   *lc;

	initStringInfo(&text);
	initStringInfo(&updates);
	appendStringInfo(&text, "%sINSERT INTO %s (%s", from_batch ? present : "", state_table,
					 ib_delta_key_list(pq, ""));
	foreach(lc, pq->state)
	{
		StateColumn *column = lfirst(lc);

		appendStringInfo(&text, ", %s", column->name);
		appendStringInfo(&updates, "%s%s = excluded.%s", updates.len ? ", " : "",
						 column->name, column->name);
	}
	appendStringInfoString(&text, ") ");
	if (pq->sets == NIL)
		appendStringInfoString(&text, evaluate_groups(pq, NULL, rows, nulls, times, from_batch));
	foreach(lc, pq->sets)
	{
		if (!has_groups(pq, lfirst(lc), nulls))
			continue;
		appendStringInfo(&text, "%s(%s)", separator,
						 evaluate_groups(pq, lfirst(lc), rows, nulls, times, from_batch));
		separator = " UNION ALL ";
	}
	appendStringInfo(&text, " ON CONFLICT (%s) DO UPDATE SET %s RETURNING %s",
					 ib_delta_key_list(pq, ""), updates.data, ib_delta_key_list(pq, ""));
	return text.data;
}

/* Remove those of them that the source turned out to have no rows for. */
char *
ib_recompute_remove(PipelineQuery *pq, const char *state_table, const Bitmapset *nulls)
{
	return psprintf("DELETE FROM %s s USING %s g WHERE g." TOUCHED_UNKNOWN " AND g." TOUCHED_COUNT " > 0 AND %s "
					"AND NOT EXISTS (SELECT FROM %s f WHERE %s)",
					state_table, TOUCHED_RELATION, same_group(pq->keys, "s", "g", nulls),
					FRESH_RELATION, same_group(pq->keys, "f", "g", nulls));
}
