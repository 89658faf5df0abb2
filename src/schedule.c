/*
 * schedule.c
 *	  When a path is due, and why.
 *
 * By the monotonic clock: a step of the system's clock moves no run.
 *
 * Not here: to read, to run and to wait (worker.c).
 */
#include "incbatch.h"

#include "access/xlog.h"

#include "decode.h"
#include "source.h"
#include "worker.h"

/* A path without changes stores its frontier when this much WAL passed. */
#define QUIET_WAL_BYTES (1024 * 1024)

static Horizon awaited;

/*
 * How often a path runs: less than its trigger interval, if runs are so slow
 * that a consumer would see staler rows than it accepts.
 */
static int64
effective_trigger(const IbPath *path)
{
	int64		trigger = path->row->trigger_usecs;

	if (path->row->freshness_usecs > 0)
		trigger = Min(trigger, Max(path->row->freshness_usecs - path->run_time, 0));
	return trigger;
}

/* Whether a path may run as soon as it is known what there is for it. */
bool
ib_path_waits_for_reading(const IbPath *path)
{
	return ib_path_collects(path->row) &&
		(path->row->state != PATH_RUNNING ||
		 ib_monotonic_usecs() - path->ran_at >= effective_trigger(path) ||
		 pg_atomic_read_u64(&path->shared->refresh_lsn) >
		 pg_atomic_read_u64(&path->shared->decoded_lsn));
}

/*
 * Should a path without changes store its frontier?  When much WAL has passed
 * since it did; or when it keeps the slot from letting go of much, which may be
 * WAL from before that.
 */
static bool
holds_much(const IbPath *path, int64 much)
{
	XLogRecPtr	needed;

	return ib_decode_position() - path->stored_lsn > much ||
		(ib_slot_releasable(&needed) > QUIET_WAL_BYTES && path->stored_lsn < needed &&
		 needed <= ib_decode_position());
}

/* Why a path should run now, or NULL; "reached" is the horizon if one was. */
const char *
ib_path_due(IbPath *path, Horizon reached)
{
	int64		now = ib_monotonic_usecs();
	PathEntry  *shared = path->shared;
	int64		trigger = effective_trigger(path);
	int64		held = ib_decode_position() - path->stored_lsn;
	bool		has_work = ib_inputs_have_work(path);
	bool		caught_up = reached.end != InvalidXLogRecPtr;

	if (now < path->retry_at)
		return NULL;
	if (ib_path_sibling_to_copy(path) != NULL)
		return "copy";
	if (path->inputs == NIL)
		return NULL;
	if (path->row->state != PATH_RUNNING)
		return "backfill";
	if (ib_inputs_in_doubt(path))
		return "lost";
	/* the decoder went back for another path and is not yet here again */
	if (!has_work &&
		ib_decode_position() < ib_inputs_source(path)->frontier.decoded_lsn)
		return NULL;
	if (pg_atomic_read_u64(&shared->refresh_lsn) > pg_atomic_read_u64(&shared->decoded_lsn))
		return "refresh";
	if (ib_inputs_full(path))
		return "full";
	if (held > ib_retained_limit() / 2)
		return has_work ? "full" : "quiet";
	has_work |= ib_partitions_changed(ib_inputs_source(path));
	if (!has_work && caught_up)
		ib_path_publish(path, ib_decode_position(), ib_decode_position(), reached.as_of);
	/* a quiet path lets go of what others write, however seldom it runs */
	if (!has_work && holds_much(path, wal_segment_size))
		return "quiet";
	if (now - path->ran_at < trigger)
		return NULL;
	if (has_work)
		return "trigger";
	if (caught_up)
		return holds_much(path, QUIET_WAL_BYTES) ? "quiet" : NULL;
	if (now - path->ran_at < POLL_USECS)
		return NULL;
	return holds_much(path, QUIET_WAL_BYTES) ? "quiet" : "trigger";
}

/* The latest horizon that decoding has reached; its end is invalid if none. */
Horizon
ib_horizon_reached(Horizon now)
{
	Horizon		none = {0};
	Horizon		reached = none;
	XLogRecPtr	position = ib_decode_position();

	if (position >= now.end)
		reached = now;
	else if (awaited.end != InvalidXLogRecPtr && position >= awaited.end)
		reached = awaited;
	if (reached.end != InvalidXLogRecPtr)
		awaited = none;
	if (position < now.end && awaited.end == InvalidXLogRecPtr)
		awaited = now;
	return reached;
}

/* Microseconds until something may be due without a wake-up. */
int64
ib_next_due(bool *wake_on_commit)
{
	int64		now = ib_monotonic_usecs();
	int64		wait = POLL_USECS;
	ListCell   *lc;

	*wake_on_commit = false;
	foreach(lc, ib_paths)
	{
		IbPath	   *path = lfirst(lc);
		int64		trigger = effective_trigger(path);

		if (!ib_path_collects(path->row))
			continue;
		if (path->retry_at > now)
			wait = Min(wait, path->retry_at - now);
		if (trigger == 0)
		{
			*wake_on_commit = true;
			wait = Min(wait, POLL_USECS / 2);
		}
		else if (path->ran_at + trigger > now)
			wait = Min(wait, path->ran_at + trigger - now);
		else
			wait = Min(wait, trigger);
		if (path->row->state == PATH_RUNNING)
			pg_atomic_write_u64(&path->shared->next_run, trigger == 0 ? 0 :
								Max(path->ran_at + trigger, now));
	}
	return wait;
}

/* Is there a horizon that decoding has not reached? */
bool
ib_horizon_is_awaited(void)
{
	return awaited.end != InvalidXLogRecPtr;
}

/* Decoding begins elsewhere. */
void
ib_horizon_forget(void)
{
	awaited.end = InvalidXLogRecPtr;
}
