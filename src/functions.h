/*
 * functions.h
 *	  What the files with SQL entry points share.
 */
#ifndef IB_FUNCTIONS_H
#define IB_FUNCTIONS_H

#include "incbatch.h"

#include "fmgr.h"
#include "nodes/pg_list.h"
#include "nodes/primnodes.h"
#include "utils/timestamp.h"

/* functions.c: arguments and privileges, one statement on the catalog */
extern void ib_refuse_null(FunctionCallInfo fcinfo, int arg, const char *name);
extern void ib_check_trigger_interval(Interval *interval);
extern void ib_check_lateness(Interval *interval, bool tracks_lookups);
extern void ib_check_on_error(const char *on_error, bool tracks_lookups);
extern void ib_check_on_lost(const char *on_lost);
extern void ib_check_retention(Interval *interval, bool closes);
extern int32 ib_own_pipeline(text *name, Oid *relation);
extern int32 ib_visible_pipeline(text *name, Oid *relation);
extern bool ib_may_see_relation(Oid relation);
extern int32 ib_readable_pipeline(text *name, Oid *relation);
extern bool ib_pipeline_closes(int32 pipeline, Oid *definition, AttrNumber *event_time,
							   bool *tracks_lookups);
extern void ib_change_catalog(const char *sql, int expected, int nargs,
							  const Oid *types, const Datum *values,
							  const char *nulls);

extern void ib_drop_relations(List *relations);

/* create.c */
extern RangeVar *ib_sibling_name(Oid schema, const char *name, const char *label);

/* restore.c */
extern void ib_depend(Oid relation, Oid class, Oid object);
extern void ib_restore_dependencies(int32 pipeline);

/* wait.c */
extern void ib_refresh(int32 pipeline);

#endif							/* IB_FUNCTIONS_H */
