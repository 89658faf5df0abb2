/*
 * latency.h
 *	  Commit-to-visible latency over the last hour, in constant memory.
 */
#ifndef IB_LATENCY_H
#define IB_LATENCY_H

#include "datatype/timestamp.h"

/* five buckets an octave from 0.1 ms: a percentile is right to 15 % */
#define LATENCY_BUCKETS 160
/* twelve periods of five minutes make the hour, one more is filling */
#define LATENCY_PERIODS 13
#define LATENCY_PERIOD_USECS (INT64CONST(300) * 1000 * 1000)

typedef struct LatencyPeriod
{
	int64		number;			/* which five minutes since the epoch */
	uint32		counts[LATENCY_BUCKETS];
} LatencyPeriod;

typedef struct LatencyHistory
{
	LatencyPeriod periods[LATENCY_PERIODS];
} LatencyHistory;

extern int	ib_latency_bucket(int64 usecs);
extern void ib_latency_reset(LatencyHistory *history);
extern void ib_latency_add(LatencyHistory *history, TimestampTz now,
						   int64 usecs);
extern int64 ib_latency_percentile(const LatencyHistory *history,
								   TimestampTz now, double fraction);
extern Datum ib_interval_datum(int64 usecs);

#endif							/* IB_LATENCY_H */
