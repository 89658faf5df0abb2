/*
 * family.h
 *	  The paths of one pipeline, and the views that read them.
 */
#ifndef IB_FAMILY_H
#define IB_FAMILY_H

#include "incbatch.h"

#include "nodes/parsenodes.h"
#include "nodes/pg_list.h"
#include "utils/snapshot.h"

extern int32 ib_family_lock(text *name, Oid *relation);
extern void ib_family_mark(int32 pipeline);
extern bool ib_family_arrange(int32 pipeline, Oid relation, List *leaving);
extern Oid	ib_family_owner(int32 pipeline, Oid relation);
extern Query *ib_family_view_query(Oid view);
extern void ib_family_store_view(Oid view, Query *query);
extern void ib_family_copy_rows(Oid from, Oid to, Snapshot snapshot);

#endif							/* IB_FAMILY_H */
