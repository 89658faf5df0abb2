/*
 * catalog.h
 *	  Reading and writing incbatch's own tables.
 */
#ifndef IB_CATALOG_H
#define IB_CATALOG_H

#include "incbatch.h"

#include "access/attnum.h"
#include "frontier.h"
#include "nodes/pg_list.h"

/* How a path stands; the names are those of incbatch.path.state. */
typedef enum PathState
{
	PATH_INITIALIZING,
	PATH_BACKFILLING,
	PATH_RUNNING,
	PATH_FAILED,
	PATH_NEEDS_REBUILD
} PathState;

/* What happens to a change to a closed window. */
typedef enum LatePolicy
{
	LATE_DIVERT,
	LATE_DROP,
	LATE_APPLY
} LatePolicy;

/* A path with what it needs to know of its pipeline. */
typedef struct PathRow
{
	int32		path;
	int32		pipeline;
	Oid			relation;		/* the pipeline's view */
	Oid			definition;		/* the view that is the batch query */
	Oid			source;
	Oid			state_table;
	int64		trigger_usecs;
	int64		freshness_usecs;	/* the smallest of its consumers, 0: none */
	bool		append_only;
	bool		track_lookups;
	bool		initialize;
	bool		paused;
	PathState	state;
	List	   *settings;		/* of char *, name and value alternating */
	AttrNumber	event_time;		/* column of the source, or 0 */
	bool		closes;			/* windows close: there is a lateness */
	int64		lateness_usecs;
	LatePolicy	late_policy;
	bool		retains;		/* closed windows are removed */
	Interval	retention;
	bool		diverts;		/* on_error: rows that make the query fail are
								 * left out */
	int64		left_out;		/* so many are */
	bool		rebuilds;		/* on_lost: the worker rebuilds by itself, */
	TimestampTz rebuild_at;		/* at this instant at the earliest */
	bool		has_frontier;
	XLogRecPtr	loaded_lsn;		/* its frontier when this row was read */
	TimestampTz loaded_as_of;
} PathRow;

/* One line of incbatch.batches. */
typedef struct BatchRecord
{
	int32		path;
	TimestampTz started_at;
	TimestampTz finished_at;
	const char *reason;
	int64		runs;
	int64		transactions;
	int64		rows_in;
	int64		rows_late;
	int64		rows_ahead;
	int64		groups_changed;
	int64		groups_new;
	double		ahead_ms;
	double		read_ms;
	double		transform_ms;
	double		merge_ms;
	double		commit_ms;
	double		cpu_ms;
	double		read_cpu_ms;
	int64		wal_bytes;
	int64		latency_max_usecs;
	const char *strategy;
} BatchRecord;

extern void ib_spi(const char *sql, int expected, int nargs, const Oid *types,
				   const Datum *values, const char *nulls);
extern void ib_spi_snapshot(const char *sql, int expected, int nargs,
							const Oid *types, const Datum *values, Snapshot snapshot);
extern Datum ib_spi_column(uint64 row, int number, bool *isnull);

/* While incbatch's own tables are read or written for whoever called. */
typedef struct CatalogScope
{
	Oid			save_userid;
	int			save_context;
} CatalogScope;

extern void ib_catalog_become_owner(CatalogScope *scope);
extern void ib_catalog_become_caller(const CatalogScope *scope);
extern void ib_catalog_enter(CatalogScope *scope);
extern void ib_catalog_leave(const CatalogScope *scope);

extern bool ib_catalog_lock(void);
extern void ib_catalog_expect(void);
extern char *ib_catalog_version(void);

/* What to do where the version of the extension is not the library's */
#define IB_VERSION_HINT \
	"Restart the server if it runs the library of before; if the extension is the older one, run ALTER EXTENSION incbatch UPDATE."
extern List *ib_catalog_paths(void);
extern List *ib_text_list(Datum array);
extern int32 ib_catalog_find_pipeline(text *name, Oid *relation, bool missing_ok);
extern bool ib_catalog_is_state_table(Oid relid);
extern void ib_catalog_see_latest(void);
extern bool ib_catalog_is_running(int32 path);
extern bool ib_catalog_lock_path(int32 path);
extern bool ib_catalog_change_state(int32 path, PathState from, PathState to,
									const char *error);
extern void ib_catalog_store_frontier(int32 path, const Frontier *frontier,
									  bool new_partitions);
extern bool ib_catalog_begin_rebuild(int32 path);
extern void ib_catalog_forget_frontier(int32 path);
extern bool ib_catalog_fetch_frontier(int32 path, Snapshot snapshot, Frontier *frontier);
extern void ib_catalog_copy_path(int32 from, int32 to, Snapshot snapshot);
extern void ib_catalog_log_failure(int32 path, const char *reason,
								   TimestampTz started_at, const char *error);
extern bool ib_catalog_slot_is_at_home(void);
extern void ib_catalog_store_slot(XLogRecPtr created_lsn);
extern LatePolicy ib_late_policy(const char *name);
extern const char *ib_path_state_name(PathState state);

#endif							/* IB_CATALOG_H */
