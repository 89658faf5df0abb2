/*
 * latency.c
 *	  Commit-to-visible latency over the last hour, in constant memory.
 *
 * A ring of five-minute histograms with logarithmic buckets.  The worker is
 * the only writer; readers need no lock, for a counter that is one behind
 * moves no percentile.  A period that nothing wrote to keeps an old number
 * and is passed over by the reader.
 *
 * Not here: when a transaction became visible.  apply.c knows that.
 */
#include "incbatch.h"

#include <math.h>

#include "utils/timestamp.h"

#include "latency.h"

#define LATENCY_FIRST_USECS 100.0
#define BUCKETS_PER_OCTAVE 5

int
ib_latency_bucket(int64 usecs)
{
	double		octaves = log2(Max(usecs, 1) / LATENCY_FIRST_USECS);
	int			bucket = (int) ceil(octaves * BUCKETS_PER_OCTAVE);

	return Min(Max(bucket, 0), LATENCY_BUCKETS - 1);
}

/* A bucket answers with its upper edge: a latency is never understated. */
static int64
usecs_of(int bucket)
{
	return (int64) (LATENCY_FIRST_USECS *
					pow(2.0, (double) bucket / BUCKETS_PER_OCTAVE));
}

void
ib_latency_reset(LatencyHistory *history)
{
	memset(history, 0, sizeof(*history));
}

void
ib_latency_add(LatencyHistory *history, TimestampTz now, int64 usecs)
{
	int64		number = now / LATENCY_PERIOD_USECS;
	LatencyPeriod *period = &history->periods[number % LATENCY_PERIODS];

	if (period->number != number)
	{
		memset(period->counts, 0, sizeof(period->counts));
		period->number = number;
	}
	period->counts[ib_latency_bucket(usecs)]++;
}

/*
 * The latency that "fraction" of the last hour's transactions kept, in
 * microseconds, or -1 where there was none.
 */
int64
ib_latency_percentile(const LatencyHistory *history, TimestampTz now,
					  double fraction)
{
	uint64		counts[LATENCY_BUCKETS] = {0};
	uint64		total = 0;
	uint64		seen = 0;
	int64		oldest = now / LATENCY_PERIOD_USECS - (LATENCY_PERIODS - 1);

	for (int p = 0; p < LATENCY_PERIODS; p++)
	{
		if (history->periods[p].number < oldest)
			continue;
		for (int b = 0; b < LATENCY_BUCKETS; b++)
		{
			counts[b] += history->periods[p].counts[b];
			total += history->periods[p].counts[b];
		}
	}
	if (total == 0)
		return -1;

	for (int b = 0; b < LATENCY_BUCKETS; b++)
	{
		seen += counts[b];
		if (seen >= (uint64) ceil(total * fraction))
			return usecs_of(b);
	}
	return usecs_of(LATENCY_BUCKETS - 1);
}

/* A time in microseconds as an interval */
Datum
ib_interval_datum(int64 usecs)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->time = usecs;
	return IntervalPGetDatum(interval);
}
