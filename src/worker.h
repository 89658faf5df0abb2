/*
 * worker.h
 *	  What the files of the worker's loop share: the worker, its paths, and
 *	  when they are due.
 */
#ifndef IB_WORKER_H
#define IB_WORKER_H

#include "path.h"

/* Without a wake-up, look at the WAL this often. */
#define POLL_USECS (1000 * 1000)
/* Look again this soon when a lock was in the way. */
#define RETRY_USECS (100 * 1000)

/*
 * Where the WAL ended at an instant: once all of it is decoded, a path without
 * work contains what had committed by then.  Others may write WAL faster than
 * it is flushed, so the end that is waited for stays until it is reached.
 */
typedef struct Horizon
{
	TimestampTz as_of;
	XLogRecPtr	end;			/* invalid: none */
} Horizon;

/* worker.c */
extern void ib_worker_enter(WorkerState state);

/* paths.c */
extern DatabaseEntry *ib_worker;	/* this worker's entry in shared memory */
extern List *ib_paths;			/* of IbPath: those of this database */
extern bool ib_slot_is_recorded;	/* the catalog says whose the slot is */

extern void ib_paths_init(void);
extern bool ib_paths_load(void);
extern bool ib_paths_are_current(void);
extern bool ib_path_collects(const PathRow *row);
extern bool ib_path_holds_wal(const PathRow *row);
extern void ib_path_stop_collecting(IbPath *path);
extern IbPath *ib_path_sibling_to_copy(const IbPath *path);
extern bool ib_paths_need_slot(void);
extern void ib_path_got_locks(IbPath *path);
extern void ib_path_lose_place(IbPath *path, const char *reason);
extern void ib_paths_rebuild_lost(void);
extern void ib_paths_stop_deadly(void);
extern void ib_path_survived(IbPath *path);
extern void ib_paths_lose_place(List *paths, const char *reason);
extern char *ib_too_much_wal(void);
extern void ib_path_fail(IbPath *path, bool fresh_statements, const char *run,
						 TimestampTz started_at);

/* place.c */
extern bool ib_place_attach(void);
extern bool ib_place_confirm(XLogRecPtr seen);

/* schedule.c */
extern bool ib_path_waits_for_reading(const IbPath *path);
extern Horizon ib_horizon_reached(Horizon now);
extern bool ib_horizon_is_awaited(void);
extern void ib_horizon_forget(void);
extern const char *ib_path_due(IbPath *path, Horizon reached);
extern int64 ib_next_due(bool *wake_on_commit);

#endif							/* IB_WORKER_H */
