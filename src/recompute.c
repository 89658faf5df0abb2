/*
 * recompute.c
 *	  The recompute strategy: evaluate the touched groups again from the
 *	  source.
 *
 * Exact because the run's snapshot sees the source as it is after the batch,
 * to the row (frontier.c).  It reads the source by the keys of the groups
 * that the merge left unknown; an index on the keys' expressions serves it.
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
same_keys(PipelineQuery *pq, bool null_keys)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, pq->keys)
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
	return text.data;
}

char *
ib_recompute(PipelineQuery *pq, const char *state_table, bool null_keys)
{
	StringInfoData columns;
	StringInfoData values;
	StringInfoData updates;
	StringInfoData has_null;
	ListCell   *lc;

	initStringInfo(&columns);
	initStringInfo(&values);
	initStringInfo(&updates);
	initStringInfo(&has_null);
	foreach(lc, pq->state)
	{
		StateColumn *column = lfirst(lc);

		appendStringInfo(&columns, ", %s", column->name);
		appendStringInfo(&values, ", %s", column->plus);
		appendStringInfo(&updates, "%s%s = excluded.%s", updates.len ? ", " : "",
						 column->name, column->name);
	}
	foreach(lc, pq->keys)
		appendStringInfo(&has_null, "%s%s IS NULL", has_null.len ? " OR " : "",
						 quote_identifier(((KeyColumn *) lfirst(lc))->name));

	return psprintf("INSERT INTO %s (%s%s) SELECT %s%s "
					"FROM (%s) t JOIN (SELECT * FROM %s WHERE " TOUCHED_UNKNOWN " AND " TOUCHED_COUNT " > 0 AND %s(%s)) g ON %s "
					"GROUP BY %s ON CONFLICT (%s) DO UPDATE SET %s",
					state_table, ib_delta_key_list(pq, ""), columns.data,
					ib_delta_key_list(pq, "t."), values.data,
					ib_query_rows_text(pq, false, 0), TOUCHED_RELATION,
					null_keys ? "" : "NOT ", has_null.data,
					same_keys(pq, null_keys),
					ib_delta_key_list(pq, "t."), ib_delta_key_list(pq, ""),
					updates.data);
}
