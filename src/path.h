/*
 * path.h
 *	  A path as its worker knows it.
 */
#ifndef IB_PATH_H
#define IB_PATH_H

#include "incbatch.h"

#include "batch.h"
#include "catalog.h"
#include "shmem.h"

/* The statements of a path, made from its query. */
typedef struct PathStatements
{
	MemoryContext context;
	struct PipelineQuery *query;
	char	   *state_table;
	char	   *transform_plus;
	char	   *transform_mixed;
	char	   *merge_plus;
	char	   *merge_mixed;
	char	   *remove;
	char	   *without_rows;	/* NULL: all groups have rows */
	char	   *touched;
	char	   *times;			/* asks for the times of touched windows, or
								 * NULL */
	char	   *initial;
	struct LateStatements *late;	/* NULL: windows never close */
	int			nkeys;
	List	   *tracked;		/* what track.c made so far */
	List	   *relations;		/* OIDs that the names in them stand for */
	int64		meaning;		/* of the query (meaning.c) */
	List	   *source_relations;	/* those that the source's rows are in */
	bool		stale;			/* one of these changed */
	bool		proven;			/* a run succeeded with them */
} PathStatements;

/* What a path collects: its source's changes, or a tracked lookup's. */
typedef struct PathInput
{
	int			index;			/* in the query's range table */
	Batch	   *batch;
	Batch		held;			/* in a run: what its snapshot does not see */
	bool		split;			/* in a run: is "held" a batch of its own? */
	bool		truncated;		/* in a run: was the table truncated? */
} PathInput;

/* So many runs tell how long the next one may take. */
#define IB_RUN_TIMES 100

typedef struct IbPath
{
	PathRow    *row;
	MemoryContext context;		/* what the row points to; reset at each
								 * reload */
	PathEntry  *shared;
	List	   *inputs;			/* of PathInput, the source first; NIL: not
								 * collecting */
	struct DivertRun *divert;	/* in a run: rows that are left out, or NULL */
	PathStatements *statements; /* NULL: to be made */
	XLogRecPtr	stored_lsn;		/* frontier as the catalog has it */
	XLogRecPtr	stored_commit;	/* end of the commit that stored it */
	XLogRecPtr	confirmable;	/* stored and flushed */
	int64		ran_at;			/* when the last run began: monotonic,
								 * microseconds; 0: never */
	int64		retry_at;		/* monotonic; after it was in the way of a
								 * lock */
	int			lock_tries;		/* runs in a row that a lock ended */
	Oid			writes;			/* in a run: the table whose rows may be
								 * locked */
	int			copy_tries;		/* in which the sibling held something back */
	int64		run_times[IB_RUN_TIMES];	/* of the last runs, in
											 * microseconds */
	int			nruns;			/* ever; the next one's place, modulo
								 * IB_RUN_TIMES */
	int64		run_time;		/* their 99th percentile */
	bool		seen;			/* by the reload under way */
	bool		preparing;		/* its statements are being made, nothing else */
} IbPath;

/* transaction.c */
extern void ib_begin(void);
extern void ib_begin_catalog(const char *activity);
extern void ib_commit(void);
extern void ib_rollback(void);

/* apply.c */
extern void ib_path_prepare(IbPath *path);
extern void ib_path_forget_statements(IbPath *path);
extern bool ib_path_run(IbPath *path, const char *reason, bool store);
extern void ib_path_publish(IbPath *path, XLogRecPtr lsn, XLogRecPtr decoded_lsn,
							TimestampTz as_of);

extern bool ib_begin_run(IbPath *path, bool with_source, Frontier *frontier,
						 XLogRecPtr *horizon);
extern void ib_find_frontier(IbPath *path, Frontier *frontier);
extern void ib_commit_run(IbPath *path, const Frontier *frontier);
extern void ib_add_groups_without_rows(IbPath *path);

/* inputs.c */
extern void ib_inputs_prepare(IbPath *path, struct PipelineQuery *pq,
							  const Frontier *frontier);
extern void ib_inputs_destroy(IbPath *path);
extern Batch *ib_inputs_source(const IbPath *path);
extern void ib_inputs_set_frontier(IbPath *path, const Frontier *frontier);
extern bool ib_inputs_have_work(const IbPath *path);
extern int64 ib_inputs_rows(const IbPath *path);
extern const char *ib_inputs_lost(const IbPath *path);
extern bool ib_inputs_in_doubt(const IbPath *path);
extern void ib_inputs_judge(IbPath *path, Snapshot snapshot);
extern bool ib_inputs_full(const IbPath *path);
extern void ib_inputs_note_stuck(IbPath *path);
extern bool ib_inputs_have_transaction(TransactionId xid, void *path);
extern void ib_inputs_settle(IbPath *path, Snapshot snapshot);
extern XLogRecPtr ib_inputs_held_lsn(const IbPath *path, XLogRecPtr lsn);
extern void ib_inputs_finish(IbPath *path);
extern bool ib_inputs_are_whole(const IbPath *path);
extern const BatchTransaction *ib_inputs_next_transaction(const IbPath *path, int *next);
extern TimestampTz ib_inputs_last_commit(const IbPath *path, TimestampTz last);
extern Bitmapset *ib_inputs_changed_lookups(const IbPath *path);
extern bool ib_inputs_lookup_truncated(const IbPath *path);

/* notify.c */
extern bool ib_notify_is_told(const IbPath *path);
extern bool ib_notify_changes(bool urgent);

/* track.c */
extern const char *ib_track_lookups(IbPath *path, Bitmapset *changed);

/* backfill.c */
extern void ib_backfill_init(void);
extern void ib_backfill_unwatch(void);
extern bool ib_path_backfill(IbPath *path);
extern int64 ib_path_fill(IbPath *path, double *transform_ms);

/* copy.c */
extern bool ib_path_can_copy(IbPath *path, IbPath *sibling);
extern bool ib_path_copy(IbPath *path, IbPath *sibling);

/* statement.c */
typedef struct OwnerScope
{
	Oid			save_userid;
	int			save_context;
	int			guc_level;
} OwnerScope;

extern void ib_apply_settings(List *settings);
extern List *ib_name_settings(void);
extern List *ib_text_settings(void);
extern bool ib_lock_sources(IbPath *path, bool with_source);
extern bool ib_lock_tables(IbPath *path, bool with_source);
extern void ib_limit_lock_waits(void);
extern void ib_path_note_lock(IbPath *path, Oid relid);
extern Oid	ib_relation_owner(Oid relid);
extern void ib_enter_role(Oid role, List *settings, OwnerScope *scope);
extern void ib_enter_owner(IbPath *path, OwnerScope *scope);
extern void ib_leave_owner(OwnerScope *scope);
extern int64 ib_run_statement(const char *sql, int expected,
							  Tuplestorestate *result);
extern void ib_offer_relation(const char *name, Oid like, TupleDesc desc,
							  Tuplestorestate *store, double rows);

#endif							/* IB_PATH_H */
