/*
 * meter.h
 *	  Where the worker's time, CPU and WAL go.
 */
#ifndef IB_METER_H
#define IB_METER_H

#include "incbatch.h"

#include "catalog.h"
#include "path.h"

/* What a run measures as it goes. */
typedef struct Meter
{
	int64		started_usecs;
	uint64		wal_bytes;
	BatchRecord record;
} Meter;

extern int64 ib_monotonic_usecs(void);
extern double ib_lap_ms(int64 *lap);

extern void ib_meter_start(Meter *meter, IbPath *path, const char *reason);
extern void ib_meter_stop(Meter *meter, IbPath *path);

/* decode.c: a call that decodes */
extern void ib_meter_begin_read(void);
extern void ib_meter_end_read(void);

/* history.c */
extern BatchRecord *ib_history_keep(const BatchRecord *record, int64 trigger_usecs);
extern bool ib_history_write(void);
extern void ib_history_note_cost(int64 cpu);

/* worker.c */
extern void ib_meter_end_round(DatabaseEntry *worker);

#endif							/* IB_METER_H */
