/*
 * functions.h
 *	  What the files with SQL entry points share.
 */
#ifndef IB_FUNCTIONS_H
#define IB_FUNCTIONS_H

#include "incbatch.h"

#include "nodes/pg_list.h"

extern List *ib_running_paths(int32 pipeline);
extern void ib_refresh(int32 pipeline);

#endif							/* IB_FUNCTIONS_H */
