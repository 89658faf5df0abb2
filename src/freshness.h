/*
 * freshness.h
 *	  Since when a path has been fresh, for whatever freshness.
 */
#ifndef IB_FRESHNESS_H
#define IB_FRESHNESS_H

#include "latency.h"

typedef struct FreshnessHistory
{
	int64		ended[LATENCY_BUCKETS]; /* a move ended a staleness like this */
	int64		left[LATENCY_BUCKETS];	/* as_of of a move that left one like
										 * this */
} FreshnessHistory;

extern void ib_freshness_note(FreshnessHistory *history, int64 now,
							  int64 before, int64 as_of);
extern int64 ib_freshness_since(const FreshnessHistory *history, int64 allowed);
extern int64 ib_staleness_since(const FreshnessHistory *history, int64 allowed);

#endif							/* IB_FRESHNESS_H */
