/*
 * delta.c
 *	  The delta strategy: adjust each group by the batch's changes.
 *
 * The transform aggregates the batch's rows into one row a group; the merge
 * adds those to the state table by its unique index, which holds NULL keys
 * equal.  A batch of insertions alone, the usual one, is transformed by the
 * plain aggregates, at the price of the batch query itself.
 *
 * All functions return SQL text.  Names in it are qualified or the run's own.
 */
#include "incbatch.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "query.h"

/* The keys, separated by commas, each after the qualifier (such as "s."). */
char *
ib_delta_key_list(PipelineQuery *pq, const char *qualifier)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, pq->keys)
	{
		KeyColumn  *key = lfirst(lc);

		appendStringInfo(&text, "%s%s%s", text.len ? ", " : "", qualifier,
						 quote_identifier(key->name));
	}
	return text.data;
}

/* All columns of the state table, keys first. */
static char *
column_list(PipelineQuery *pq)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	appendStringInfoString(&text, ib_delta_key_list(pq, ""));
	foreach(lc, pq->state)
		appendStringInfo(&text, ", %s", ((StateColumn *) lfirst(lc))->name);
	return text.data;
}

char *
ib_delta_state_definition(PipelineQuery *pq, const char *state_table)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	appendStringInfo(&text, "CREATE TABLE %s (", state_table);
	foreach(lc, pq->keys)
	{
		KeyColumn  *key = lfirst(lc);

		appendStringInfo(&text, "%s %s, ", quote_identifier(key->name), key->type);
	}
	foreach(lc, pq->state)
	{
		StateColumn *column = lfirst(lc);

		appendStringInfo(&text, "%s%s %s", lc == list_head(pq->state) ? "" : ", ",
						 column->name, column->type);
	}
	/* room for the next version of a row keeps updates out of the index */
	appendStringInfoString(&text, ") WITH (fillfactor = 70)");
	return text.data;
}

char *
ib_delta_state_index(PipelineQuery *pq, const char *state_table)
{
	return psprintf("CREATE UNIQUE INDEX ON %s (%s) NULLS NOT DISTINCT",
					state_table, ib_delta_key_list(pq, ""));
}

/* The keys of the GROUP BY, without the one that tells sets apart. */
static char *
grouped_list(List *keys)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, keys)
	{
		KeyColumn  *key = lfirst(lc);

		if (key->expr != NULL)
			appendStringInfo(&text, "%st.%s", text.len ? ", " : "",
							 quote_identifier(key->name));
	}
	return text.data;
}

/* GROUP BY as the query has it: all of its sets in one pass. */
static char *
group_by(PipelineQuery *pq)
{
	StringInfoData text;
	ListCell   *lc;

	if (pq->sets == NIL)
		return grouped_list(pq->keys);
	initStringInfo(&text);
	appendStringInfoString(&text, "GROUPING SETS (");
	foreach(lc, pq->sets)
		appendStringInfo(&text, "%s(%s)", lc == list_head(pq->sets) ? "" : ", ",
						 grouped_list(((GroupingSetRows *) lfirst(lc))->keys));
	appendStringInfoChar(&text, ')');
	return text.data;
}

/* The keys of the groups that this makes, as columns. */
static char *
key_values(PipelineQuery *pq)
{
	char	   *keys = grouped_list(pq->keys);

	if (pq->sets == NIL)
		return keys;
	if (*keys == '\0')
		return "0 AS " GROUPING_SET_COLUMN;
	return psprintf("GROUPING(%s) AS " GROUPING_SET_COLUMN ", %s", keys, keys);
}

/* One row a group: the keys, then the state's columns. */
static char *
aggregate_rows(PipelineQuery *pq, const char *rows, bool mixed)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	appendStringInfo(&text, "SELECT %s", key_values(pq));
	foreach(lc, pq->state)
	{
		StateColumn *column = lfirst(lc);

		appendStringInfo(&text, ", %s AS %s",
						 mixed ? column->mixed : column->plus, column->name);
	}
	appendStringInfo(&text, " FROM (%s) t GROUP BY %s", rows, group_by(pq));
	return text.data;
}

/* The rows of a batch; "filter" is a condition on them as t, or NULL. */
static char *
batch_rows(PipelineQuery *pq, int batch_columns, const char *filter)
{
	char	   *rows = ib_query_rows_text(pq, true, batch_columns);

	return filter == NULL ? rows :
		psprintf("SELECT * FROM (%s) t WHERE %s", rows, filter);
}

/* What a batch does to each group that it touches. */
char *
ib_delta_transform(PipelineQuery *pq, int batch_columns, bool mixed,
				   const char *filter)
{
	return aggregate_rows(pq, batch_rows(pq, batch_columns, filter), mixed);
}

/*
 * Where every change evaluates its group again, all that is asked of a batch
 * is which groups it touches: in the form of ib_delta_merge's answer.
 */
char *
ib_delta_touched(PipelineQuery *pq, int batch_columns, const char *filter)
{
	return psprintf("SELECT NULL::pg_catalog.tid AS " TOUCHED_ROW ", 1::pg_catalog.int8 AS " TOUCHED_COUNT ", true AS " TOUCHED_UNKNOWN ", %s "
					"FROM (%s) t GROUP BY %s",
					key_values(pq), batch_rows(pq, batch_columns, filter),
					group_by(pq));
}

/* The whole aggregate from the source: backfill. */
char *
ib_delta_initial(PipelineQuery *pq)
{
	return aggregate_rows(pq, ib_query_rows_text(pq, false, 0), false);
}

/*
 * Add the transformed batch to the state.  Where rows were retracted, return
 * the groups that became empty or unknown: where they are, and their keys.
 */
char *
ib_delta_merge(PipelineQuery *pq, const char *state_table, bool mixed)
{
	char	   *columns = column_list(pq);
	StringInfoData unknown;
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&unknown);
	initStringInfo(&text);
	appendStringInfo(&text, "INSERT INTO %s AS s (%s) SELECT %s FROM %s ON CONFLICT (%s) DO UPDATE SET ",
					 state_table, columns, columns, DELTA_RELATION,
					 ib_delta_key_list(pq, ""));
	foreach(lc, pq->state)
	{
		StateColumn *column = lfirst(lc);

		appendStringInfo(&text, "%s%s = %s", lc == list_head(pq->state) ? "" : ", ",
						 column->name, column->merge);
		if (column->unknown)
			appendStringInfo(&unknown, "%s%s", unknown.len ? " OR " : "",
							 column->unknown);
	}
	if (!mixed)
		return text.data;
	return psprintf("WITH merged AS (%s RETURNING s.ctid AS " TOUCHED_ROW ", s.%s AS " TOUCHED_COUNT ", (%s) AS " TOUCHED_UNKNOWN ", %s) "
					"SELECT * FROM merged WHERE " TOUCHED_COUNT " <= 0 OR " TOUCHED_UNKNOWN,
					text.data, ROW_COUNT_COLUMN,
					unknown.len ? unknown.data : "false",
					ib_delta_key_list(pq, "s."));
}

/* Remove the groups that the merge left empty. */
char *
ib_delta_remove(const char *state_table)
{
	return psprintf("DELETE FROM %s WHERE ctid IN (SELECT " TOUCHED_ROW " FROM %s WHERE " TOUCHED_COUNT " %s 0)",
					state_table, TOUCHED_RELATION, MUTANT(EMPTY_GROUPS) ? "<" : "=");
}

/*
 * Add the groups that exist without any row: those of the empty grouping set.
 * NULL: the query has none.
 */
char *
ib_delta_without_rows(PipelineQuery *pq, const char *state_table)
{
	char	   *columns = column_list(pq);
	char	   *no_rows = psprintf("SELECT * FROM (%s) r WHERE false",
								   ib_query_rows_text(pq, false, 0));
	ListCell   *lc;

	foreach(lc, pq->sets)
	{
		if (((GroupingSetRows *) lfirst(lc))->keys == NIL && !MUTANT(EMPTY_SET))
			return psprintf("INSERT INTO %s (%s) %s ON CONFLICT (%s) DO NOTHING",
							state_table, columns, aggregate_rows(pq, no_rows, false),
							ib_delta_key_list(pq, ""));
	}
	return NULL;
}
