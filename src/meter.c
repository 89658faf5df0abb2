/*
 * meter.c
 *	  Where the worker's time, CPU and WAL go: to batches, to keeping their
 *	  history, or to nobody.
 *
 * One clock of the process's CPU is read in laps, so that nothing is counted
 * twice or left out.  A lap of decoding belongs to the paths that took rows of
 * it, in proportion to the rows, whoever asked for it; if nobody took any, to
 * nobody.  A run has its own laps, and the worker's round before it; what
 * follows in the round belongs to its last batch.  A round without a batch
 * belongs to nobody: that is what an idle worker costs.
 *
 * All of it lives in the worker's memory; the totals are in shared memory, and
 * written by the worker alone.
 *
 * Not here: how lines get into incbatch.batch (history.c).
 */
#include "incbatch.h"

#include <sys/resource.h>

#include "executor/instrument.h"
#include "portability/instr_time.h"
#include "utils/timestamp.h"

#include "meter.h"

static int64 lap_began = 0;		/* CPU */
static int64 own_cpu = 0;		/* laps that are nobody's yet */
static int64 read_began;		/* monotonic */

/* What this round has for the worker's totals. */
static BatchRecord *round_batch = NULL; /* the last one */
static int64 round_batches_cpu = 0;

int64
ib_monotonic_usecs(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MICROSEC(now);
}

/* Milliseconds since *lap, which moves on to now. */
double
ib_lap_ms(int64 *lap)
{
	int64		now = ib_monotonic_usecs();
	double		ms = (now - *lap) / 1000.0;

	*lap = now;
	return ms;
}

/* ----------------------------------------------------------------
 *		CPU
 * ----------------------------------------------------------------
 */

static int64
cpu_usecs(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * INT64CONST(1000000) +
		usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
}

static int64
end_lap(void)
{
	int64		now = cpu_usecs();
	int64		cpu = now - lap_began;

	lap_began = now;
	return cpu;
}

/* The laps since the last call. */
static int64
take_cpu(void)
{
	int64		cpu = own_cpu + end_lap();

	own_cpu = 0;
	return cpu;
}

void
ib_meter_begin_read(void)
{
	own_cpu += end_lap();
	read_began = ib_monotonic_usecs();
}

/* Who took the rows pays. */
void
ib_meter_end_read(void)
{
	ib_batches_charge(ib_monotonic_usecs() - read_began, end_lap());
}

/* What a path's share of reading was since the last call. */
static void
take_reading(IbPath *path, double *cpu_ms)
{
	ListCell   *lc;

	*cpu_ms = 0;
	foreach(lc, path->inputs)
	{
		Batch	   *batch = ((PathInput *) lfirst(lc))->batch;

		*cpu_ms += batch->read_cpu_usecs / 1000.0;
		batch->read_cpu_usecs = batch->read_usecs = 0;
	}
}

/* ----------------------------------------------------------------
 *		A batch
 * ----------------------------------------------------------------
 */

void
ib_meter_start(Meter *meter, IbPath *path, const char *reason)
{
	ListCell   *lc;

	memset(meter, 0, sizeof(*meter));
	meter->started_usecs = ib_monotonic_usecs();
	meter->wal_bytes = pgWalUsage.wal_bytes;
	meter->record.path = path->row->path;
	meter->record.started_at = GetCurrentTimestamp();
	meter->record.reason = reason;
	meter->record.strategy = "delta";
	meter->record.runs = 1;
	foreach(lc, path->inputs)
		meter->record.ahead_ms += ((PathInput *) lfirst(lc))->batch->read_usecs / 1000.0;
}

/* Every transaction of the batch has its own latency. */
static void
note_latencies(BatchRecord *record, IbPath *path)
{
	int		   *next = palloc0(sizeof(int) * list_length(path->inputs));
	const BatchTransaction *transaction;

	while ((transaction = ib_inputs_next_transaction(path, next)) != NULL)
	{
		int64		latency = Max(record->finished_at - transaction->commit_time, 0);

		record->transactions++;
		ib_latency_add(&path->shared->latency, record->finished_at, latency);
		record->latency_max_usecs = Max(record->latency_max_usecs, latency);
	}
	pfree(next);
}

/*
 * The batch is committed: what it took, and a line for it.  A backfill is no
 * transaction's latency.
 */
void
ib_meter_stop(Meter *meter, IbPath *path)
{
	BatchRecord *record = &meter->record;
	int64		cpu = take_cpu();

	record->finished_at = GetCurrentTimestamp();
	if (path->row->state == PATH_RUNNING)
		note_latencies(record, path);
	take_reading(path, &record->read_cpu_ms);
	record->cpu_ms = cpu / 1000.0 + record->read_cpu_ms;
	record->wal_bytes = pgWalUsage.wal_bytes - meter->wal_bytes;
	round_batches_cpu += (int64) (record->cpu_ms * 1000);

	if (ib_log_batches)
		ereport(LOG,
				errmsg("incbatch path %d: %lld rows of %lld transactions into %lld groups in %.1f ms",
					   record->path, (long long) record->rows_in,
					   (long long) record->transactions,
					   (long long) record->groups_changed,
					   (ib_monotonic_usecs() - meter->started_usecs) / 1000.0));
	round_batch = ib_history_keep(record, path->row->trigger_usecs);
}

/* ----------------------------------------------------------------
 *		The worker's round
 * ----------------------------------------------------------------
 */

static void
add_to_total(pg_atomic_uint64 *total, uint64 value)
{
	pg_atomic_write_u64(total, pg_atomic_read_u64(total) + value);
}

/* The worker is about to wait: settle what the round cost. */
void
ib_meter_end_round(DatabaseEntry *worker)
{
	int64		rest = take_cpu();
	uint64		wal_bytes = pgWalUsage.wal_bytes;

	if (round_batch != NULL)
	{
		round_batch->cpu_ms += rest / 1000.0;
		round_batches_cpu += rest;
	}
	round_batch = NULL;
	add_to_total(&worker->batches_cpu, round_batches_cpu);
	round_batches_cpu = 0;

	if (ib_history_write())
	{
		int64		cpu = end_lap();

		add_to_total(&worker->history_cpu, cpu);
		add_to_total(&worker->history_wal, pgWalUsage.wal_bytes - wal_bytes);
		ib_history_note_cost(cpu);
	}
	pg_atomic_write_u64(&worker->cpu, lap_began);
}
