/*
 * freshness.c
 *	  Since when a path has been fresh, for whatever freshness.
 *
 * Each consumer calls another staleness fresh, and may change its mind.  So
 * for every staleness, in the buckets of latency.c, is kept when a move of the
 * frontier last ended one like it, and when one last left it behind: constant
 * memory, and an answer for any freshness that is right but for what differs
 * from it by less than a bucket.
 *
 * Instants are those of the monotonic clock.  The worker is the only writer;
 * readers need no lock.
 */
#include "incbatch.h"

#include "freshness.h"

/* The frontier moved: staleness was "before", and is the age of as_of now. */
void
ib_freshness_note(FreshnessHistory *history, int64 now, int64 before, int64 as_of)
{
	history->ended[ib_latency_bucket(before)] = now;
	history->left[ib_latency_bucket(now - as_of)] = as_of;
}

/* When a staleness over the one allowed last ended; 0: there was none. */
int64
ib_freshness_since(const FreshnessHistory *history, int64 allowed)
{
	int64		since = 0;

	for (int b = ib_latency_bucket(allowed) + 1; b < LATENCY_BUCKETS; b++)
		since = Max(since, history->ended[b]);
	return since;
}

/*
 * When staleness last grew over the one allowed; 0: no move ever left it
 * below that.
 */
int64
ib_staleness_since(const FreshnessHistory *history, int64 allowed)
{
	int64		as_of = 0;

	for (int b = 0; b <= ib_latency_bucket(allowed); b++)
		as_of = Max(as_of, history->left[b]);
	return as_of == 0 ? 0 : as_of + allowed;
}
