/*
 * watermark.h
 *	  Event time, closed windows, late changes of a path.
 */
#ifndef IB_WATERMARK_H
#define IB_WATERMARK_H

#include "path.h"
#include "query.h"

/*
 * The changes of a batch whose event time lies before the watermark, as that of
 * a late one must, with their number in the batch.
 */
#define CANDIDATES_RELATION "incbatch_candidates"

/* Other relations that the statements read; each has one row. */
#define WATERMARK_RELATION "incbatch_watermark"
#define REMOVAL_RELATION "incbatch_removal"

/* Their columns, all of the event time's type */
#define CLOSED "closed"			/* windows that end here are closed */
#define LEFT_OUT "left_out"		/* changes of windows that end here are */
#define AHEAD "ahead"			/* no later event time drives the watermark */
#define REMOVED "removed"		/* windows that end here are to be removed */
#define REMOVED_BEFORE "removed_before" /* and here were already */

/*
 * What a path has seen of event time; stored in incbatch.path_watermark.
 * Where there is nothing yet, times are -infinity.
 */
typedef struct Watermark
{
	Timestamp	largest;		/* event time seen */
	Timestamp	closed;			/* the watermark: windows that end here are
								 * closed */
	Timestamp	removed;		/* windows that end here are removed */
	TimestampTz shown;			/* "closed", as users see it */
	int64		rows_late;		/* since the backfill */
	int64		rows_ahead;
} Watermark;

/* Statements of a path whose windows close. */
typedef struct LateStatements
{
	Oid			type;			/* of the event time */
	char	   *survey_source;
	char	   *touched;		/* of the changes that are not kept out */
	char	   *transform_plus;
	char	   *transform_mixed;
	char	   *rows;			/* late changes */
	char	   *windows;		/* windows that they were kept out of */
	char	   *truncate;		/* all windows that are not closed */
	char	   *kept_windows;	/* those that a TRUNCATE left */
	char	   *retain;			/* remove old windows */
	char	   *retained;		/* the oldest window that is not removed */
} LateStatements;

/* The part that event time plays in one run. */
typedef struct LateRun
{
	Watermark	mark;
	bool		anew;			/* a backfill: forget what was late */
	Timestamp	ahead;			/* no later event time drives the watermark */
	int64		rows_late;
	int64		rows_ahead;
	TimestampTz used;			/* the watermark that late changes missed */
	Timestamp	trim;			/* forget late windows before this one */
	Tuplestorestate *rows;		/* to be diverted */
	List	   *windows;		/* to be noted: Tuplestorestates */
} LateRun;

extern LateStatements *ib_watermark_statements(IbPath *path, PipelineQuery *pq,
											   const char *state_table,
											   int batch_columns);
extern Datum ib_watermark_time_datum(Oid type, Timestamp time);
extern void ib_watermark_offer_times(const char *relation, Oid type,
									 const char *const *names,
									 const Timestamp *times, int n);

/* late.c */
extern void ib_late_begin(IbPath *path, bool anew, LateRun *run);
extern void ib_late_offer(IbPath *path, LateRun *run);
extern bool ib_late_survey(IbPath *path, LateRun *run);
extern void ib_late_survey_source(IbPath *path, LateRun *run);
extern void ib_late_truncate(IbPath *path, LateRun *run);
extern void ib_late_advance(IbPath *path, LateRun *run);
extern void ib_late_store(IbPath *path, LateRun *run);
extern void ib_late_restart(LateRun *run, const LateRun *begun);

#endif							/* IB_WATERMARK_H */
