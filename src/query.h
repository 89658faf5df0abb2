/*
 * query.h
 *	  A pipeline's query, taken apart and turned into statements.
 *
 * query.c analyses, with query_source.c and query_check.c; query_text.c makes
 * SQL of the tree; aggregate.c knows the aggregates, delta.c and recompute.c
 * are the two strategies; each of the latter yields SQL text that the executor
 * runs.
 */
#ifndef IB_QUERY_H
#define IB_QUERY_H

#include "incbatch.h"

#include "nodes/bitmapset.h"
#include "nodes/parsenodes.h"
#include "nodes/primnodes.h"
#include "utils/relcache.h"

/* No column of a state table is called so; all names below begin with it. */
#define RESERVED_PREFIX "incbatch_"

/* Names by which the statements know what apply.c gives them. */
#define BATCH_RELATION "incbatch_batch"
#define BATCH_WEIGHT "incbatch_weight"
#define BATCH_NUMBER "incbatch_number"
#define DELTA_RELATION "incbatch_delta"
#define TOUCHED_RELATION "incbatch_touched"
#define AFFECTED_RELATION "incbatch_affected"

/* The keys of the groups that were evaluated again */
#define FRESH_RELATION "incbatch_fresh"

/* What the merge says of a group that needs more work; its keys follow. */
#define TOUCHED_ROW "incbatch_row"
#define TOUCHED_COUNT "incbatch_count"
#define TOUCHED_UNKNOWN "incbatch_unknown"

/* The key of a state with grouping sets that tells which set a row is of */
#define GROUPING_SET_COLUMN "grouping_set"

/* It is one of the index's columns, and an int4 has a bit for each other key */
#define MAX_KEYS_OF_SETS Min(INDEX_MAX_KEYS, 31)

/* How the rows that enter the aggregation name their columns */
#define INPUT_ARG "incbatch_arg_"
#define INPUT_FILTER "incbatch_filter_"
#define INPUT_WEIGHT "incbatch_w"
#define INPUT_TIME "incbatch_time_"
#define INPUT_EVENT_TIME "incbatch_event_time"
#define INPUT_TABLE "incbatch_table"
#define INPUT_ROW "incbatch_place"

/* A column of the GROUP BY, and of the state table. */
typedef struct KeyColumn
{
	Expr	   *expr;			/* NULL: GROUPING_SET_COLUMN */
	char	   *name;
	char	   *type;			/* as SQL, with COLLATE where there is one */
	char	   *equals;			/* the operator of the GROUP BY, as SQL */
	int			number;			/* from 1, in the names of its columns */
	Var		   *time;			/* of a window: the source's column, or NULL; */
	char	   *length;			/* how long it is, */
	char	   *before;			/* how far before the key, as SQL, */
	char	   *after;			/* and after it, that column can be */
} KeyColumn;

/* What an aggregate reads: its argument and its FILTER. */
typedef struct AggregateInput
{
	Expr	   *arg;			/* NULL: count(*) */
	Expr	   *filter;			/* NULL: every row */
	int			number;			/* from 1, in the names of its columns */
} AggregateInput;

/*
 * A column of the state table that is not a key.  All but the name are SQL:
 * "plus" computes it from rows of weight +1 (the source's, or a batch's),
 * "mixed" from a batch's rows of any weight, "merge" from the stored row s and
 * the row excluded.
 */
typedef struct StateColumn
{
	char	   *name;
	char	   *type;
	char	   *plus;
	char	   *mixed;
	char	   *merge;
	char	   *unknown;		/* when the group must be recomputed, or NULL */
} StateColumn;

/* An aggregate of the query and how its value comes out of the state. */
typedef struct AggregateColumn
{
	Aggref	   *aggref;
	char	   *finish;			/* SQL over the state's columns */
	List	   *state;			/* the StateColumns that it reads */
	const char *recomputed;		/* why every change evaluates it again, or
								 * NULL */
} AggregateColumn;

/* A lookup whose changes are folded in too; a table used twice is two. */
typedef struct TrackedLookup
{
	int			index;			/* in the range table */
	Oid			relid;
	Bitmapset  *needed;			/* its columns that are read */
	bool		nullable;		/* on the right of a LEFT JOIN */
	int			columns;		/* of its batch */
} TrackedLookup;

/* What a run offers by a name, in the place of a table of the query. */
typedef struct StandIn
{
	int			index;			/* in the range table */
	Oid			relid;			/* the table */
	char	   *name;
	int			columns;		/* those of the table, and the weight */
	bool		weighted;
} StandIn;

/* One of the sets that rows are grouped by. */
typedef struct GroupingSetRows
{
	int			number;			/* GROUPING() of all keys */
	List	   *keys;			/* of KeyColumn: those that are grouped */
	int			copies;			/* how often GROUP BY names the set */
} GroupingSetRows;

/* GROUPING() in the query. */
typedef struct GroupingColumn
{
	GroupingFunc *func;
	char	   *finish;			/* SQL over the state's columns */
} GroupingColumn;

/*
 * A key that is a window of time: it never falls as one column of the source,
 * the event time, rises.
 */
typedef struct WindowKey
{
	KeyColumn  *key;
	AttrNumber	column;			/* the event time */
	Expr	   *expr;			/* the key, over the source; or a column of
								 * hop, */
	int			hop;			/* which is there in the range table, or 0 */
	char	   *output;			/* its column in the result, or NULL */
} WindowKey;

typedef struct PipelineQuery
{
	Query	   *query;
	List	   *source_path;	/* range table indexes, down to the source */
	Query	   *source_query;	/* the (sub)query that the source is in */
	int			source_index;	/* in the range table of that */
	RangeTblEntry *source_entry;	/* there */
	Oid			source;
	List	   *relations;		/* OIDs of all that the query reads, the
								 * source too */
	Bitmapset  *needed;			/* the source's columns that are read */
	List	   *keys;			/* of KeyColumn */
	List	   *sets;			/* of GroupingSetRows; NIL: a plain GROUP BY */
	List	   *inputs;			/* of AggregateInput */
	List	   *state;			/* of StateColumn, the row count first */
	List	   *aggregates;		/* of AggregateColumn */
	List	   *groupings;		/* of GroupingColumn */
	List	   *windows;		/* of WindowKey */
	bool		may_recompute;	/* some retractions evaluate a group again */
	bool		always_recompute;	/* and so does every other change, */
	bool		in_order;		/* reading the rows in the order of the table */
	List	   *lookups;		/* of TrackedLookup */
	Bitmapset  *changed;		/* those of them whose changes are in the
								 * batch */
	AttrNumber	event_time;		/* which a batch's rows show, if windows close */
} PipelineQuery;

#define ROW_COUNT_COLUMN "row_count"

/* query.c */
extern PipelineQuery *ib_query_analyze(Oid view, bool track_lookups);
extern Query *ib_query_of_view(Oid view);

/* query_text.c */
extern char *ib_query_view_text(PipelineQuery *pq, const char *state_table);
extern char *ib_query_over_batch(PipelineQuery *pq, int batch_columns);
extern char *ib_query_rows_text(PipelineQuery *pq, bool from_batch,
								int batch_columns);
extern Query *ib_query_ungrouped(PipelineQuery *pq);
extern char *ib_query_rows_of(PipelineQuery *pq, List *stand_ins, int sign);
extern void ib_query_replace(Query *query, const StandIn *stand_in);
extern char *ib_query_needed_columns(PipelineQuery *pq, const char *qualifier);
extern char *ib_query_needed_for_jsonb(PipelineQuery *pq, const char *qualifier, bool exact);
extern char *ib_query_relation_name(Oid relid);
extern char *ib_query_operator(Oid opno);
extern char *ib_query_type(Oid type, int32 typmod, Oid collation);
extern char *ib_query_expression(List *rtable, const Query *windows, Node *expr);

/* lookups.c */
extern void ib_lookups_reduce_joins(Query *query);
extern void ib_lookups_find(PipelineQuery *pq);
extern char *ib_lookups_rows_text(PipelineQuery *pq, int batch_columns);
extern char *ib_lookups_affected(PipelineQuery *pq, int batch_columns);
extern char *ib_lookups_present(PipelineQuery *pq, TrackedLookup *lookup,
								int batch_columns, bool *whole);
extern char *ib_lookups_batch_name(const TrackedLookup *lookup);
extern char *ib_lookups_old_name(const TrackedLookup *lookup);
extern bool ib_lookups_reads_old(const PipelineQuery *pq);

/* query_source.c */
extern void ib_query_find_source(PipelineQuery *pq);
extern Bitmapset *ib_query_source_columns(PipelineQuery *pq);
extern Node *ib_query_at_source(PipelineQuery *pq, Node *expr);
extern Query *ib_query_source_query(PipelineQuery *pq, Query *query);
extern Expr *ib_query_expose(PipelineQuery *pq, Query *query, Expr *column,
							 char *name);

/* query_check.c */
IB_NORETURN extern void ib_refuse_clause(const char *what, const char *detail,
										 const char *hint);
extern void ib_check_clauses(Query *query);
extern List *ib_check_everything(PipelineQuery *pq);

/* query_order.c */
extern bool ib_query_is_ordered(Query *query);
extern void ib_check_windows(Query *query);
extern void ib_check_lookup_order(Query *query, SubLinkType sublink);

/* meaning.c */
extern int64 ib_query_meaning(Oid definition, Query *query, int64 before,
							  List **relations);

/* aggregate.c */
extern void ib_aggregate_add(PipelineQuery *pq, Aggref *aggref);
extern void ib_aggregate_check(Aggref *aggref, bool rows_ordered);

/* delta.c */
extern char *ib_delta_state_definition(PipelineQuery *pq, const char *state_table);
extern char *ib_delta_state_index(PipelineQuery *pq, const char *state_table);
extern char *ib_delta_transform(PipelineQuery *pq, int batch_columns, bool mixed,
								const char *filter);
extern char *ib_delta_touched(PipelineQuery *pq, int batch_columns,
							  const char *filter);
extern char *ib_delta_initial(PipelineQuery *pq);
extern char *ib_delta_merge(PipelineQuery *pq, const char *state_table, bool mixed);
extern char *ib_delta_remove(const char *state_table);
extern char *ib_delta_without_rows(PipelineQuery *pq, const char *state_table);
extern char *ib_delta_key_list(PipelineQuery *pq, const char *qualifier);

/* recompute.c */
extern char *ib_recompute_times(PipelineQuery *pq);
extern char *ib_recompute(PipelineQuery *pq, const char *state_table,
						  const Bitmapset *nulls, const char *times,
						  const char *present, int batch_columns);
extern char *ib_recompute_remove(PipelineQuery *pq, const char *state_table,
								 const Bitmapset *nulls);

/* tumble.c */
extern bool ib_is_window_function(Oid funcid);
extern void ib_check_window_call(FuncExpr *call);

/* window_key.c */
extern void ib_window_key_find(PipelineQuery *pq, KeyColumn *key);
extern AttrNumber ib_window_key_event_time(PipelineQuery *pq);
extern List *ib_window_keys_of(PipelineQuery *pq, AttrNumber event_time);

/* watermark.c */
extern void ib_watermark_check(PipelineQuery *pq, AttrNumber event_time);
extern char *ib_watermark_past(PipelineQuery *pq, AttrNumber event_time,
							   const char *qualifier, bool output,
							   const char *relation, const char *column);
extern List *ib_watermark_cuts(PipelineQuery *pq, AttrNumber event_time);
extern char *ib_watermark_from_timestamp(Oid type, const char *value);

#endif							/* IB_QUERY_H */
