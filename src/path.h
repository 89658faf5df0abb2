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
	char	   *times;			/* asks for the times of touched windows, or NULL */
	char	   *initial;
	struct LateStatements *late;	/* NULL: windows never close */
	int			nkeys;
	List	   *relations;		/* OIDs that the names in them stand for */
	int64		meaning;		/* of the query (meaning.c) */
	List	   *source_relations;	/* those that the source's rows are in */
	bool		stale;			/* one of these changed */
	bool		proven;			/* a run succeeded with them */
} PathStatements;

typedef struct IbPath
{
	PathRow    *row;
	MemoryContext context;		/* what the row points to; reset at each reload */
	PathEntry  *shared;
	Batch	   *batch;			/* NULL: not collecting */
	XLogRecPtr	collecting_since;	/* commits from here on are in the batch */
	PathStatements *statements; /* NULL: to be made */
	XLogRecPtr	stored_lsn;		/* frontier as the catalog has it */
	XLogRecPtr	stored_commit;	/* end of the commit that stored it */
	XLogRecPtr	confirmable;	/* stored and flushed */
	int64		ran_at;			/* monotonic, microseconds; 0: never */
	int64		retry_at;		/* monotonic; after it was in the way of a lock */
	bool		seen;			/* by the reload under way */
} IbPath;

/* apply.c */
extern int64 ib_monotonic_usecs(void);
extern void ib_path_prepare(IbPath *path);
extern void ib_path_forget_statements(IbPath *path);
extern bool ib_path_run(IbPath *path, const char *reason, bool store);
extern void ib_path_publish(IbPath *path, XLogRecPtr lsn, XLogRecPtr decoded_lsn,
							TimestampTz as_of);
extern void ib_flush_batch_log(void);

extern bool ib_begin_run(IbPath *path, bool with_source, Frontier *frontier,
						 XLogRecPtr *horizon);
extern void ib_leave_run(void);
extern void ib_find_frontier(IbPath *path, const Batch *held, Frontier *frontier);
extern void ib_commit_run(IbPath *path, const Frontier *frontier);

/* backfill.c */
extern void ib_backfill_init(void);
extern bool ib_path_backfill(IbPath *path);

/* shared by the two: running a path's statements as its owner */
typedef struct OwnerScope
{
	Oid			save_userid;
	int			save_context;
	int			guc_level;
} OwnerScope;

extern void ib_apply_settings(List *settings);
extern bool ib_lock_sources(IbPath *path, bool with_source);
extern void ib_enter_owner(IbPath *path, OwnerScope *scope);
extern void ib_leave_owner(OwnerScope *scope);
extern void ib_add_groups_without_rows(IbPath *path);
extern int64 ib_run_statement(const char *sql, int expected,
							  Tuplestorestate *result);
extern void ib_offer_relation(const char *name, Oid like, TupleDesc desc,
							  Tuplestorestate *store, double rows);

#endif							/* IB_PATH_H */
