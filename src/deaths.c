/*
 * deaths.c
 *	  Which path the worker was at when it died.
 *
 * A query may end its process: a function that crashes, or kills, or takes all
 * memory.  A worker that starts anew must know, or it would die of the same
 * path for ever, and after a crash the whole server with it.  Shared memory
 * does not outlive a crash, and what a transaction wrote not its end, so it is
 * noted in a file, before each run and after it: two writes of 4 bytes, never
 * flushed, since it need not outlive the machine.
 *
 * The file is a row of pairs of int32.  The first is the path at work (0:
 * none) and nothing, each other a path and how often in a row the worker died
 * of it.  A run that succeeds ends the row.
 *
 * Who was ended from outside did not die of its path: by SIGTERM from another
 * process, or by SIGQUIT when some other process crashed.  Their handlers clear
 * the note.  The kill -9 of an administrator looks like a crash.
 *
 * Not here: what becomes of such a path (paths.c), when the worker is started
 * again (launcher.c).
 */
#include "incbatch.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"

#include "deaths.h"

typedef struct DeathRecord
{
	int32		path;
	int32		deaths;
} DeathRecord;

static char *file_name = NULL;
static int	file = -1;
static DeathRecord *records = NULL; /* without the first pair */
static int	nrecords = 0;
static volatile sig_atomic_t ended_from_outside = false;

/* Safe in a signal handler. */
static void
note_path(int32 path)
{
	int			save_errno = errno;

	if (file >= 0 && pwrite(file, &path, sizeof(path), 0) != sizeof(path))
	{
		/* then a crash is nobody's; there is nothing else to do */
	}
	errno = save_errno;
}

static void
handle_sigterm(int signo, siginfo_t *info, void *context)
{
	if (info->si_pid != MyProcPid)
		ended_from_outside = true;
	die(signo);
}

static void
handle_sigquit(SIGNAL_ARGS)
{
	note_path(0);
	SignalHandlerForCrashExit(postgres_signal_arg);
}

static void
leave_at_exit(int code, Datum arg)
{
	if (ended_from_outside)
		note_path(0);
}

static void
write_records(void)
{
	DeathRecord none = {0};
	Size		size = sizeof(DeathRecord) * nrecords;

	if (pwrite(file, &none, sizeof(none), 0) != sizeof(none) ||
		(size > 0 && pwrite(file, records, size, sizeof(none)) != size) ||
		ftruncate(file, sizeof(none) + size) != 0)
		ereport(LOG,
				errcode_for_file_access(),
				errmsg("could not write file \"%s\": %m", file_name));
}

/* Who the worker before died of, if it did, has one death more. */
static void
count_death(int32 path)
{
	for (int i = 0; i < nrecords; i++)
	{
		if (records[i].path == path)
		{
			records[i].deaths++;
			return;
		}
	}
	records[nrecords].path = path;
	records[nrecords++].deaths = 1;
}

static void
read_records(void)
{
	DeathRecord first = {0};
	struct stat st;
	int			n = 0;

	if (fstat(file, &st) == 0 && st.st_size > sizeof(first))
		n = (st.st_size - sizeof(first)) / sizeof(DeathRecord);
	records = MemoryContextAllocZero(TopMemoryContext, sizeof(DeathRecord) * (n + 1));
	if (pread(file, &first, sizeof(first), 0) != sizeof(first) ||
		pread(file, records, sizeof(DeathRecord) * n, sizeof(first)) != sizeof(DeathRecord) * n)
		return;
	nrecords = n;
	if (first.path != 0)
		count_death(first.path);
}

/*
 * Called once by the worker, before it runs anything.  Without the file it
 * works all the same.
 */
void
ib_deaths_init(Oid database)
{
	struct sigaction action = {0};

	file_name = MemoryContextStrdup(TopMemoryContext,
									psprintf(PG_STAT_TMP_DIR "/" IB_NAME "_%u", database));
	file = BasicOpenFile(file_name, O_RDWR | O_CREAT | PG_BINARY);
	if (file < 0)
	{
		ereport(LOG,
				errcode_for_file_access(),
				errmsg("could not open file \"%s\": %m", file_name));
		return;
	}
	read_records();
	write_records();

	on_proc_exit(leave_at_exit, (Datum) 0);
	action.sa_sigaction = handle_sigterm;
	action.sa_flags = SA_RESTART | SA_SIGINFO;
	sigemptyset(&action.sa_mask);
	(void) sigaction(SIGTERM, &action, NULL);
	pqsignal(SIGQUIT, handle_sigquit);
}

/* What follows is this path's. */
void
ib_deaths_enter(int32 path)
{
	if (!MUTANT(DEATHS))
		note_path(path);
}

/* It is over, well or not. */
void
ib_deaths_leave(void)
{
	note_path(0);
}

/* How often in a row the worker died of a path. */
int
ib_deaths_of(int32 path)
{
	for (int i = 0; i < nrecords; i++)
	{
		if (records[i].path == path)
			return records[i].deaths;
	}
	return 0;
}

/* A path did not end the worker, or has been taken out of service. */
void
ib_deaths_forget(int32 path)
{
	for (int i = 0; i < nrecords; i++)
	{
		if (records[i].path == path)
		{
			records[i] = records[--nrecords];
			write_records();
			return;
		}
	}
}

/* There are no pipelines any more. */
void
ib_deaths_remove(void)
{
	if (file < 0)
		return;
	close(file);
	file = -1;
	(void) unlink(file_name);
}
