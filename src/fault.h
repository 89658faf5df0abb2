/*
 * fault.h
 *	  Places between two steps of the engine, at which a test can end it or
 *	  hold it up.
 *
 * Compiled with -DINCBATCH_FAULTS there is a setting
 *
 *		incbatch.fault = 'point:action[:nth]'
 *
 * and the process that comes to this point, for the nth time (the first) since
 * it learned of the setting, does what the action says (fault.c):
 *
 *		error, fatal, panic		it raises one, as if the system had failed
 *		kill9					it kills itself
 *		wait					it waits until the setting is another
 *
 * It says so in the server log before, as it does when it has learned of the
 * setting.  In any other build FAULT() is nothing, and there is no such
 * setting.  test/t/150_faults.pl drives every point of the list below; a point
 * has its name there in lower case.
 */
#ifndef IB_FAULT_H
#define IB_FAULT_H

enum IbFault
{
	/* the worker begins and ends */
	FAULT_WORKER_WANTED,		/* the launcher is about to start a worker */
	FAULT_SLOT_MADE,			/* the slot is made, the catalog does not know */
	FAULT_PATHS_READ,			/* the pipelines are read, whose the slot is,
								 * is not */
	FAULT_PIPELINES_GONE,		/* no pipeline is left, the slot is there */
	FAULT_SLOT_DROPPED,			/* it is dropped, the worker still runs */

	/* reading */
	FAULT_DECODING,				/* in the middle of a transaction's changes */
	FAULT_STREAMING,			/* between two pieces of a large transaction */

	/* a run */
	FAULT_BEFORE_FOLD,			/* all is read, nothing written */
	FAULT_AFTER_FOLD,			/* the rows are written, the frontier is not */
	FAULT_BEFORE_COMMIT,		/* both are written */
	FAULT_AFTER_COMMIT,			/* both are committed and flushed, the worker
								 * does not know */
	FAULT_BETWEEN_PATHS,		/* one path of a round has run, another has
								 * not */
	FAULT_BEFORE_CONFIRM,		/* all have, the slot is not confirmed */
	FAULT_AFTER_CONFIRM,		/* it is, and perhaps not saved */

	/* a path is filled */
	FAULT_BACKFILL_EVALUATED,	/* the new rows are known, the old ones there */
	FAULT_BACKFILL_EMPTIED,		/* the old rows are gone, the new ones not
								 * there */
	FAULT_COPIED,				/* a sibling's rows are there, its frontier is
								 * not */
};

#ifdef INCBATCH_FAULTS
extern PGDLLIMPORT bool ib_fault_is_set;

extern void ib_fault_define_setting(void);
extern void ib_fault(const char *point);

#define FAULT(name) \
	do { \
		(void) FAULT_##name; \
		if (ib_fault_is_set) \
			ib_fault(#name); \
	} while (0)
#else
#define FAULT(name) ((void) 0)
#endif

#endif							/* IB_FAULT_H */
