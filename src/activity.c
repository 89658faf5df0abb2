/*
 * activity.c
 *	  What the worker of this process is doing, and that it is alive.
 *
 * Told twice: to pg_stat_activity, in words, and to shared memory, from where
 * incbatch.lag and incbatch.workers take it.  While the worker is at work a
 * timer shows twice a second that the process runs; while it waits, its loop
 * does.  So a worker that is stopped differs from one that is slow.  The same
 * timer ends what would hold WAL beyond its limit.
 *
 * The words of a server process outlive its error: what it last complained of
 * is kept for whoever asks why it ended.
 *
 * Not here: what is made of it (status.c and the views).
 */
#include "incbatch.h"

#include <signal.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/elog.h"
#include "utils/guc.h"
#include "utils/timeout.h"

#include "batch.h"
#include "shmem.h"

#define HEARTBEAT_MS 500

static DatabaseEntry *me = NULL;
static TimeoutId heartbeat_timeout;
static emit_log_hook_type prev_emit_log = NULL;
static char last_error[WORKER_ERROR_LENGTH];
static bool (*still_current) (void) = NULL;
static volatile sig_atomic_t cut_short = false;
static XLogRecPtr holds_from = InvalidXLogRecPtr;	/* the present activity */

/* Also called in a signal handler: only reads and atomic writes. */
void
ib_heartbeat(void)
{
	pg_atomic_write_u64(&me->heartbeat, ib_monotonic_usecs());
	pg_atomic_write_u64(&me->rows_decoded, ib_batches_rows_decoded());
}

/*
 * A backfill and the making of a slot may take hours, hold the WAL written
 * meanwhile, and nobody looks whether it has become too much: they end at half
 * of incbatch.max_retained_wal, which leaves the other half to the paths that
 * could not run.  The making of a slot also ends when it is not wanted any
 * more.  In a signal handler: where the WAL ends the launcher says.
 */
static void
on_timer(void)
{
	Activity	activity = pg_atomic_read_u32(&me->activity);
	uint64		wal_end = pg_atomic_read_u64(&ib_shared->wal_end);
	bool		too_much = wal_end > holds_from &&
		wal_end - holds_from > ib_retained_limit() / 2;

	ib_heartbeat();
	/* only once: what follows, such as storing why, must not be cancelled */
	if (cut_short)
		return;
	if ((activity == ACTIVITY_BACKFILLING && too_much) ||
		(activity == ACTIVITY_CREATING_SLOT &&
		 (too_much || (still_current != NULL && !still_current()))))
	{
		cut_short = true;
		QueryCancelPending = true;
		InterruptPending = true;
		SetLatch(MyLatch);
	}
}

/* Making a slot is cut short when this, asked in a signal handler, is false. */
void
ib_activity_obsolete_if(bool (*is_current) (void))
{
	still_current = is_current;
}

/* Was the present activity ended by the timer, not by somebody's request? */
bool
ib_activity_is_cut_short(void)
{
	return cut_short;
}

static void
note_error(ErrorData *error)
{
	if (error->elevel >= ERROR && error->message != NULL)
	{
		int			length = pg_mbcliplen(error->message, strlen(error->message),
										  WORKER_ERROR_LENGTH - 1);

		memcpy(last_error, error->message, length);
		last_error[length] = '\0';
	}
	if (prev_emit_log)
		prev_emit_log(error);
}

/* What this process last complained of, or an empty string. */
const char *
ib_activity_last_error(void)
{
	return last_error;
}

/* Called once by the worker, with its entry, before it connects. */
void
ib_activity_init(DatabaseEntry *entry)
{
	me = entry;
	prev_emit_log = emit_log_hook;
	emit_log_hook = note_error;
	heartbeat_timeout = RegisterTimeout(USER_TIMEOUT, on_timer);
	ib_heartbeat();
}

/* Whether there is nothing that the worker could do. */
bool
ib_activity_waits(Activity activity)
{
	return activity == ACTIVITY_WAITING || activity == ACTIVITY_RETRYING;
}

/* An activity in words; "path" is told of where there is one. */
char *
ib_activity_text(Activity activity, int32 path)
{
	switch (activity)
	{
		case ACTIVITY_WAITING:
			return pstrdup("waiting for changes");
		case ACTIVITY_RETRYING:
			return psprintf("waiting until path %d gets its locks", path);
		case ACTIVITY_READING:
			return pstrdup("reading the WAL");
		case ACTIVITY_PREPARING:
			return psprintf("preparing path %d", path);
		case ACTIVITY_FOLDING:
			return psprintf("folding changes into path %d", path);
		case ACTIVITY_BACKFILLING:
			return psprintf("backfilling path %d", path);
		case ACTIVITY_COPYING:
			return psprintf("copying a sibling to path %d", path);
		case ACTIVITY_CATALOG:
			return pstrdup("reading and writing incbatch's tables");
		case ACTIVITY_NO_SLOT:
			return pstrdup("waiting for a free replication slot");
		case ACTIVITY_CREATING_SLOT:
			return pstrdup("waiting for running transactions to make the replication slot");
	}
	return NULL;
}

/*
 * What follows is this activity.  "text" tells of it in other words than
 * ib_activity_text; it may be NULL.
 */
void
ib_activity(Activity activity, int32 path, const char *text)
{
	Activity	before = pg_atomic_read_u32(&me->activity);
	bool		waits = ib_activity_waits(activity);
	bool		waited = ib_activity_waits(before);
	char	   *words = NULL;

	if (waits && activity == before && path == pg_atomic_read_u32(&me->activity_path))
		return;
	if (text == NULL)
		text = words = ib_activity_text(activity, path);
	SetCurrentStatementStartTimestamp();
	pgstat_report_activity(waits ? STATE_IDLE : STATE_RUNNING, text);
	if (words)
		pfree(words);

	cut_short = false;
	holds_from = GetXLogInsertRecPtr();
	pg_atomic_write_u32(&me->activity_path, path);
	pg_atomic_write_u64(&me->activity_since, ib_monotonic_usecs());
	pg_atomic_write_u32(&me->activity, activity);
	ib_heartbeat();
	if (waits && !waited)
		disable_timeout(heartbeat_timeout, false);
	if (!waits && waited)
		enable_timeout_every(heartbeat_timeout,
							 TimestampTzPlusMilliseconds(GetCurrentTimestamp(), HEARTBEAT_MS),
							 HEARTBEAT_MS);
}
