/*
 * shmem.h
 *	  Shared state: which database has a worker, how far each path is.
 */
#ifndef IB_SHMEM_H
#define IB_SHMEM_H

#include "incbatch.h"
#include "freshness.h"
#include "latency.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

typedef enum WorkerState
{
	WORKER_STARTING,			/* looks whether there are pipelines */
	WORKER_NO_SLOT,				/* waits for a replication slot to be free */
	WORKER_CREATING_SLOT,		/* waits for running transactions */
	WORKER_RUNNING,
	WORKER_BACKFILLING
} WorkerState;

/* What a worker is doing (activity.c says it in words). */
typedef enum Activity
{
	ACTIVITY_WAITING,			/* for commits, a trigger or a request */
	ACTIVITY_RETRYING,			/* the same, while a table of a path is locked */
	ACTIVITY_READING,
	ACTIVITY_PREPARING,
	ACTIVITY_FOLDING,
	ACTIVITY_BACKFILLING,
	ACTIVITY_COPYING,
	ACTIVITY_CATALOG,
	ACTIVITY_NO_SLOT,
	ACTIVITY_CREATING_SLOT
} Activity;

/* What a process of ours waits for; shmem.c has the names. */
typedef enum IbWait
{
	WAIT_FOR_WORK,				/* the worker */
	WAIT_FOR_WORKERS,			/* the launcher */
	WAIT_FOR_VISIBILITY,		/* of a transaction whose commit was read */
	WAIT_FOR_PATH,				/* a session, for a path to move */
	WAIT_FOR_WORKER_EXIT		/* a session that needs the database for
								 * itself */
} IbWait;

/* Why the launcher starts no worker where one is wanted. */
typedef enum Obstacle
{
	OBSTACLE_NONE,
	OBSTACLE_NO_PROCESS,		/* max_worker_processes are in use */
	OBSTACLE_NO_CONNECTIONS,	/* the database allows none, or is a template */
	OBSTACLE_VERSION			/* the extension has another than the library */
} Obstacle;

/* Deaths of a worker that are remembered: more than there are in an hour. */
#define WORKER_DEATHS 128
#define WORKER_ERROR_LENGTH 256

/*
 * Instants in shared memory are those of the monotonic clock, so that a step
 * of the other one makes nobody look dead or fresh.  Only as_of is a time of
 * the clock that commits carry; beside it is the same instant on ours.
 *
 * One database that has, or is about to have, a worker.  "lock" of the
 * control block guards the first group; the others are atomic: the worker
 * writes them, but that sessions bump "generation" and clear "wake_on_commit",
 * and anyone reads them.
 */
typedef struct DatabaseEntry
{
	Oid			database;		/* InvalidOid: entry is free */
	bool		wanted;			/* a worker shall run */
	bool		starting;		/* registered, not yet attached */
	pid_t		pid;			/* 0: no worker attached */
	int			pgprocno;		/* whose latch wakes the worker */
	pid_t		held_by;		/* backend that keeps the worker away, or 0 */
	Obstacle	obstacle;		/* noted by the launcher, or by a worker that
								 * left */
	int64		left_at;		/* the last worker ended; 0: there was none */
	uint32		ndeaths;		/* how often a worker ended that should not
								 * have */
	int64		deaths[WORKER_DEATHS];	/* when; a ring */
	char		last_error[WORKER_ERROR_LENGTH];	/* why the last one ended */
	pg_atomic_uint32 cured;		/* what ended the workers before is gone */

	pg_atomic_uint32 generation;	/* bumped when pipelines change */
	pg_atomic_uint32 wake_on_commit;	/* the worker wants commits to wake it */
	pg_atomic_uint32 state;		/* WorkerState */
	pg_atomic_uint64 heartbeat; /* it was seen to run */
	pg_atomic_uint64 rows_decoded;
	pg_atomic_uint32 activity;	/* Activity */
	pg_atomic_uint32 activity_path; /* where it is one path's */
	pg_atomic_uint64 activity_since;

	/* the oldest transaction under way that was read in part */
	pg_atomic_uint32 pinning_xid;
	pg_atomic_uint64 pinned_lsn;	/* where it began; 0: there is none */

	/* since the worker started: CPU microseconds and bytes (meter.c) */
	pg_atomic_uint64 cpu;
	pg_atomic_uint64 batches_cpu;
	pg_atomic_uint64 history_cpu;
	pg_atomic_uint64 history_wal;
} DatabaseEntry;

/* What notify.c told last of a consumer; of more than these it tells nothing. */
#define TOLD_CONSUMERS 16

typedef struct ToldStatus
{
	uint32		consumer;		/* hash of its name */
	uint8		status;			/* 0: free */
} ToldStatus;

/*
 * One path.  Claimed and freed by the worker under the control block's lock.
 * It outlives the worker: what the aggregate contains stays true, and the next
 * worker takes the entry over.  The counters are written by the worker alone;
 * refresh_lsn by whoever asks for a refresh.
 */
typedef struct PathEntry
{
	Oid			database;		/* InvalidOid: entry is free */
	int32		path;
	Oid			relation;		/* its state table, which no other path has
								 * had */

	pg_atomic_uint64 frontier_lsn;	/* everything that committed before is in */
	pg_atomic_uint64 decoded_lsn;	/* but for what was not visible, up to
									 * here */
	pg_atomic_uint64 as_of;		/* TimestampTz; 0 before the first batch */
	pg_atomic_uint64 as_of_instant; /* the same on the monotonic clock */
	pg_atomic_uint64 next_run;	/* 0: as soon as there is work */
	pg_atomic_uint64 moved_at;	/* the frontier last moved */
	pg_atomic_uint64 staleness_then;	/* that it left behind, in
										 * microseconds */
	pg_atomic_uint64 staleness_before;	/* and the move before that one */
	pg_atomic_uint32 locked;	/* table that somebody else has locked, or 0 */
	pg_atomic_uint64 locked_since;
	pg_atomic_uint64 backlog_rows;	/* decoded, waiting for the path to run */
	pg_atomic_uint64 refresh_lsn;	/* run until the frontier is here */

	/* backfill under way: started_at is 0 where there is none */
	pg_atomic_uint64 backfill_started_at;
	pg_atomic_uint64 backfill_rows_done;
	pg_atomic_uint64 backfill_rows_total;

	ToldStatus	told[TOLD_CONSUMERS];

	ConditionVariable moved;	/* the frontier moved or the state changed */
	LatencyHistory latency;
	FreshnessHistory freshness;
} PathEntry;

typedef struct SharedControl
{
	LWLock	   *lock;
	int64		started;		/* when this memory was made */
	int			launcher_pgprocno;	/* -1: not running */
	bool		shutting_down;	/* no worker and no slot until the restart */
	bool		crowded;		/* a database that wants a worker found no
								 * entry */
	pg_atomic_uint64 wal_end;	/* as the launcher saw it last */
	int			ndatabases;
	int			npaths;
	DatabaseEntry *databases;
	PathEntry  *paths;
} SharedControl;

extern SharedControl *ib_shared;

extern int64 ib_monotonic_usecs(void);
extern uint32 ib_wait_event(IbWait wait);

extern void ib_shmem_init(void);
extern void ib_shmem_require(void);

extern void ib_launcher_attach(void);
extern void ib_wake_launcher(void);

extern DatabaseEntry *ib_database_find(Oid database);
extern bool ib_database_want(Oid database);
extern bool ib_databases_were_crowded(void);
extern void ib_database_wake(Oid database);
extern void ib_database_nudge(Oid database);
extern DatabaseEntry *ib_database_attach(Oid database);
extern void ib_database_hold(Oid database);
extern void ib_database_release_held(void);
extern void ib_database_forget(DatabaseEntry *entry);

extern PathEntry *ib_path_entry_find(int32 path);
extern void ib_path_entry_require(void);
extern PathEntry *ib_path_entry_claim(int32 path, Oid relation);
extern PathEntry *ib_path_entry_private(void);
extern bool ib_path_entry_is_private(const PathEntry *entry);
extern void ib_path_entry_free(PathEntry *entry);
extern void ib_path_entries_free_others(bool (*is_known) (PathEntry *));

/* activity.c: what the worker of this process does */
extern void ib_activity_init(DatabaseEntry *entry);
extern void ib_activity(Activity activity, int32 path, const char *text);
extern void ib_heartbeat(void);
extern bool ib_activity_waits(Activity activity);
extern void ib_activity_obsolete_if(bool (*is_current) (void));
extern bool ib_activity_is_cut_short(void);
extern char *ib_activity_text(Activity activity, int32 path);
extern const char *ib_activity_last_error(void);

#endif							/* IB_SHMEM_H */
