/*
 * incbatch.c
 *	  Module load: settings, shared memory, hooks and the launcher.
 *
 * Loaded through shared_preload_libraries in the postmaster.  Loaded any
 * other way it defines nothing, so that the SQL objects can still be made and
 * looked at; what needs the worker then says so (ib_shmem_require).
 */
#include "incbatch.h"

#include <limits.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "shmem.h"

PG_MODULE_MAGIC;

int			ib_max_paths = 256;
int			ib_max_retained_wal = 4096;
int			ib_work_mem = 65536;
int			ib_batch_history = 10000;
bool		ib_log_batches = false;
int			ib_event_time_ahead = 300;
int			ib_max_failed_rows = 100;
double		ib_cpu_hour_price = 0.05;

void		_PG_init(void);

/* So much WAL a path may hold, in bytes. */
int64
ib_retained_limit(void)
{
	return (int64) ib_max_retained_wal * 1024 * 1024;
}

static void
define_settings(void)
{
	DefineCustomIntVariable("incbatch.max_paths",
							"Number of paths that all databases together can have.",
							"Each takes about 12 kB of shared memory.",
							&ib_max_paths, ib_max_paths, 1, 65536,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("incbatch.max_retained_wal",
							"WAL that a pipeline may hold before it gives up its place.",
							"A pipeline further behind than this turns needs_rebuild, so that it never fills the disk.",
							&ib_max_retained_wal, ib_max_retained_wal, 16, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomIntVariable("incbatch.work_mem",
							"Memory for the waiting changes of one path.",
							"Beyond it changes go to temporary files and a backlog is folded in piece by piece. The n-th large transaction that is open at once has an n-th of it.",
							&ib_work_mem, ib_work_mem, 64, MAX_KILOBYTES,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("incbatch.batch_history",
							"Number of batches of each path that incbatch.batches keeps.",
							NULL,
							&ib_batch_history, ib_batch_history, 0, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("incbatch.log_batches",
							 "Writes a line to the server log for each batch.",
							 NULL,
							 &ib_log_batches, ib_log_batches,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("incbatch.event_time_ahead",
							"How far ahead of the clock an event time may be and still drive the watermark.",
							"Rows further ahead are folded in all the same, and counted as rows_ahead.",
							&ib_event_time_ahead, ib_event_time_ahead, 0, INT_MAX / 2,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("incbatch.max_failed_rows",
							"How many rows of its source a path with on_error divert may leave out.",
							"When more rows make the query fail, the pipeline stops as failed.",
							&ib_max_failed_rows, ib_max_failed_rows, 1, 1000000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomRealVariable("incbatch.cpu_hour_price",
							 "What an hour of CPU costs, in any currency.",
							 "incbatch.cost prices cadences with it.",
							 &ib_cpu_hour_price, ib_cpu_hour_price, 0, 1e9,
							 PGC_USERSET, 0, NULL, NULL, NULL);
#ifdef INCBATCH_FAULTS
	ib_fault_define_setting();
#endif
	MarkGUCPrefixReserved(IB_NAME);
}

/*
 * Older minor releases have faults in decoding that no extension can work
 * around: say so once, when the server starts.
 */
static void
warn_of_known_faults(void)
{
	int			version = atoi(GetConfigOption("server_version_num", false, false));

	if (version < IB_MIN_SERVER_VERSION)
		ereport(WARNING,
				errmsg("this release of PostgreSQL has known faults in logical decoding"),
				errdetail("Transactions with very many catalog changes cannot be decoded, and a crash may remove WAL that a replication slot still needs."),
				errhint("Update to %d.%d or later.", IB_MIN_SERVER_VERSION / 10000,
						IB_MIN_SERVER_VERSION % 10000));
}

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;

	define_settings();
	if (!IsUnderPostmaster)
		warn_of_known_faults();
	ib_shmem_init();
	ib_hooks_init();
	if (!IsBinaryUpgrade)
		ib_launcher_register();
}
