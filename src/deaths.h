/*
 * deaths.h
 *	  Paths whose runs end the worker.
 */
#ifndef IB_DEATHS_H
#define IB_DEATHS_H

#include "incbatch.h"

/* A path that the worker died of so often in a row is taken out of service. */
#define IB_MAX_DEATHS 3

extern void ib_deaths_init(Oid database);
extern void ib_deaths_enter(int32 path);
extern void ib_deaths_leave(void);
extern int	ib_deaths_of(int32 path);
extern void ib_deaths_forget(int32 path);
extern void ib_deaths_remove(void);

#endif							/* IB_DEATHS_H */
