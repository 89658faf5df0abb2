/*
 * shmem.h
 *	  Shared state: which database has a worker, how far each path is.
 */
#ifndef IB_SHMEM_H
#define IB_SHMEM_H

#include "incbatch.h"
#include "latency.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

typedef enum WorkerState
{
	WORKER_STARTING,			/* looks whether there are pipelines */
	WORKER_CREATING_SLOT,		/* waits for running transactions */
	WORKER_RUNNING,
	WORKER_BACKFILLING
} WorkerState;

/*
 * One database that has, or is about to have, a worker.  "lock" of the
 * control block guards the first group; the second is written by the worker
 * alone and read by anyone.
 */
typedef struct DatabaseEntry
{
	Oid			database;		/* InvalidOid: entry is free */
	bool		wanted;			/* a worker shall run */
	bool		starting;		/* registered, not yet attached */
	pid_t		pid;			/* 0: no worker attached */
	int			pgprocno;		/* whose latch wakes the worker */
	pid_t		held_by;		/* backend that keeps the worker away, or 0 */

	pg_atomic_uint32 generation;	/* bumped when pipelines change */
	pg_atomic_uint32 wake_on_commit;	/* the worker wants commits to wake it */
	pg_atomic_uint32 state;		/* WorkerState */
	pg_atomic_uint64 heartbeat_at;	/* TimestampTz */
	pg_atomic_uint64 rows_decoded;

	/* since the worker started: CPU microseconds and bytes (meter.c) */
	pg_atomic_uint64 cpu;
	pg_atomic_uint64 batches_cpu;
	pg_atomic_uint64 history_cpu;
	pg_atomic_uint64 history_wal;
} DatabaseEntry;

/*
 * One path.  Claimed and freed by the worker under the control block's lock.
 * The counters are written by the worker alone; refresh_lsn by whoever asks
 * for a refresh.
 */
typedef struct PathEntry
{
	Oid			database;		/* InvalidOid: entry is free */
	int32		path;

	pg_atomic_uint64 frontier_lsn;	/* everything that committed before is in */
	pg_atomic_uint64 decoded_lsn;	/* but for what was not visible, up to here */
	pg_atomic_uint64 as_of;		/* TimestampTz; 0 before the first batch */
	pg_atomic_uint64 next_run;	/* TimestampTz; 0: as soon as there is work */
	pg_atomic_uint64 moved_at;	/* TimestampTz the frontier last moved */
	pg_atomic_uint64 backlog_rows;	/* decoded, waiting for the path to run */
	pg_atomic_uint64 refresh_lsn;	/* run until the frontier is here */

	/* backfill under way: started_at is 0 where there is none */
	pg_atomic_uint64 backfill_started_at;
	pg_atomic_uint64 backfill_rows_done;
	pg_atomic_uint64 backfill_rows_total;

	ConditionVariable moved;	/* the frontier moved or the state changed */
	LatencyHistory latency;
} PathEntry;

typedef struct SharedControl
{
	LWLock	   *lock;
	int			launcher_pgprocno;	/* -1: not running */
	int			ndatabases;
	int			npaths;
	DatabaseEntry *databases;
	PathEntry  *paths;
} SharedControl;

extern SharedControl *ib_shared;

extern void ib_shmem_init(void);
extern void ib_shmem_require(void);

extern void ib_launcher_attach(void);
extern void ib_wake_launcher(void);

extern DatabaseEntry *ib_database_find(Oid database);
extern bool ib_database_want(Oid database);
extern void ib_database_wake(Oid database);
extern void ib_database_nudge(Oid database);
extern DatabaseEntry *ib_database_attach(Oid database);
extern void ib_database_hold(Oid database);
extern void ib_database_release_held(void);

extern PathEntry *ib_path_entry_find(int32 path);
extern void ib_path_entry_require(void);
extern PathEntry *ib_path_entry_claim(int32 path);
extern void ib_path_entry_free(PathEntry *entry);

#endif							/* IB_SHMEM_H */
