/*
 * incbatch.h
 *	  What every file of incbatch shares: the settings and a few names.
 */
#ifndef INCBATCH_H
#define INCBATCH_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "compat.h"
#include "fault.h"
#include "mutant.h"

#define IB_NAME "incbatch"

/* The version of the extension whose tables this library knows. */
#define IB_VERSION "1.0"

/* Output plugin, library and schema all carry the extension's name. */
#define IB_SCHEMA IB_NAME

/* settings, defined in incbatch.c */
extern PGDLLIMPORT int ib_max_paths;
extern PGDLLIMPORT int ib_max_retained_wal;
extern PGDLLIMPORT int ib_work_mem;
extern PGDLLIMPORT int ib_batch_history;
extern PGDLLIMPORT bool ib_log_batches;
extern PGDLLIMPORT int ib_event_time_ahead;
extern PGDLLIMPORT int ib_max_failed_rows;
extern PGDLLIMPORT double ib_cpu_hour_price;
extern int64 ib_retained_limit(void);

/* hooks.c */
extern void ib_hooks_init(void);
extern void ib_wake_worker_at_commit(void);
extern void ib_hold_worker(Oid database);

/* launcher.c */
extern void ib_launcher_register(void);

#endif							/* INCBATCH_H */
