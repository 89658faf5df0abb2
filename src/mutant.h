/*
 * mutant.h
 *	  Ways to break the engine on purpose, to see that the suite notices.
 *
 * Compiled with -DINCBATCH_MUTANT=n the place marked by the mutant of number n
 * does the wrong thing; in any other build MUTANT() is constant false and the
 * compiler leaves nothing of it.  test/mutants reads the list below: of each
 * line the name, the number, the test that catches it (a topic, a spec, a TAP
 * file) and what is wrong then.
 */
#ifndef IB_MUTANT_H
#define IB_MUTANT_H

enum IbMutant
{
	/* changes as they are collected */
	MUTANT_OLD_WEIGHT = 1,		/* changes: the old row of an UPDATE is added */
	MUTANT_SAME_ROW = 2,		/* changes: an UPDATE between NULL and a value
								 * is none */
	MUTANT_WHOLE_ROW = 3,		/* schema_change: a row of another layout is
								 * kept as it came */
	MUTANT_OLD_VALUES = 4,		/* schema_change: an UPDATE without old values
								 * is passed over */
	MUTANT_TOAST = 5,			/* toast: an unchanged value is taken to be
								 * empty */
	MUTANT_SUBXACT_ABORT = 6,	/* large: a rolled back subtransaction counts */
	MUTANT_PARTITION_COLUMNS = 7,	/* partitions: columns are where the root
									 * has them */
	MUTANT_ATTACH = 8,			/* partitions: rows that come with a partition
								 * are ignored */
	MUTANT_DETACH = 9,			/* partitions: rows that go with a partition
								 * are ignored */

	/* which transactions a run folds in */
	MUTANT_FRONTIER_SKIP = 10,	/* 020_crash: what the frontier includes
								 * counts again */
	MUTANT_STREAM_FRONTIER = 11,	/* large: so do large transactions */
	MUTANT_FRONTIER_EDGE = 12,	/* 020_crash: the transaction that begins the
								 * next batch is lost */
	MUTANT_HELD_BACK = 13,		/* 040_held_back: what the snapshot does not
								 * see is folded in */
	MUTANT_TRUNCATE = 14,		/* changes: TRUNCATE is ignored */
	MUTANT_TRUNCATE_ROWS = 15,	/* changes: rows before a TRUNCATE in its
								 * transaction stay */
	MUTANT_CONFIRM_EARLY = 16,	/* 020_crash: the slot is confirmed for what
								 * is only decoded */

	/* the two strategies */
	MUTANT_MINMAX = 17,			/* aggregates: the extreme that is deleted
								 * stays */
	MUTANT_FILTER = 18,			/* aggregates: old rows count as new ones in a
								 * FILTER */
	MUTANT_SCALE = 19,			/* aggregates: a sum keeps the digits of a
								 * value that went */
	MUTANT_NAN = 20,			/* statistics: a NaN is subtracted */
	MUTANT_EMPTY_GROUPS = 21,	/* changes: groups without rows stay */
	MUTANT_NULL_GROUP = 22,		/* recompute: groups of NULL are not evaluated
								 * again */
	MUTANT_WINDOW_SLACK = 23,	/* recompute: days are never 25 hours long */
	MUTANT_HOP_END = 24,		/* hop: the end of a window is taken for its
								 * start */
	MUTANT_GROUPING_SET = 25,	/* grouping_sets: touched groups are those of
								 * every set */
	MUTANT_EMPTY_SET = 26,		/* grouping_sets: without rows there is no
								 * total */

	/* lookups */
	MUTANT_LOOKUP_BOTH = 27,	/* track_lookups: what changed on both sides
								 * counts twice */
	MUTANT_LOOKUP_OLD = 28,		/* track_lookups: rows that went from a lookup
								 * never were */

	/* windows that close */
	MUTANT_LATE_COUNTED = 29,	/* late: late changes are folded in, and
								 * diverted */
	MUTANT_LATE_UNMARKED = 30,	/* late: their windows are not noted */
	MUTANT_LATE_TRUNCATE = 31,	/* late: TRUNCATE empties closed windows */
	MUTANT_LATENESS = 32,		/* watermark: lateness is none */
	MUTANT_WATERMARK_BACK = 33, /* watermark: it goes back with a larger
								 * lateness */
	MUTANT_RETENTION = 34,		/* retention: nothing is removed */
	MUTANT_RETENTION_APPLY = 35,	/* retention: late changes bring back what
									 * was removed */

	/* as whom */
	MUTANT_OWNER = 36,			/* owner: the query runs as a superuser */

	/* what the WAL does not tell, and tables that are filled */
	MUTANT_OTHER_QUERY = 37,	/* divergence: another batch query is not
								 * noticed */
	MUTANT_UNLOGGED_STATE = 38, /* divergence: a state table may be unlogged */
	MUTANT_COPY_WITHOUT_RUN = 39,	/* 210_divergence: a sibling is copied as
									 * it was */
	MUTANT_COPY_HELD_BACK = 40, /* 210_divergence: what the sibling held back
								 * is not read again */
	MUTANT_FILL_EMPTIES = 41,	/* 215_rebuild: a table is emptied for all
								 * before it is filled */

	/* exactly once */
	MUTANT_ROW_LSN = 42,		/* 155_transactions: a transaction is where
								 * its first row is */
	MUTANT_UNFLUSHED = 43,		/* 155_transactions: the slot is confirmed for
								 * what may be lost */
	MUTANT_OWN_WRITES = 44,		/* 155_transactions: the worker decodes what
								 * it writes */

	/* rows that make the query fail */
	MUTANT_DIVERT_CANCEL = 45,	/* failed_rows: the deletion of a row that is
								 * left out counts */
	MUTANT_DIVERT_SOURCE = 46,	/* failed_rows: groups that are evaluated
								 * again have it */
	MUTANT_DEATHS = 47,			/* 160_poison: nobody knows what the worker
								 * died of */
	MUTANT_VERIFY_INSTANT = 48, /* 210_divergence: verify reads a frontier
								 * that is newer than the rows */

	/* beside others */
	MUTANT_INTERRUPTS = 49,		/* 190_databases: decoding lets nobody
								 * interrupt it */
	MUTANT_LOCK_WAITS = 50,		/* locks: a run waits for a row until it gets
								 * it */
	MUTANT_SETTINGS = 51,		/* 195_settings: settings of the database
								 * reach the worker */
	MUTANT_VERSION = 52,		/* 190_databases: another version's tables are
								 * taken for one's own */

	/* the slot, and the WAL that it holds */
	MUTANT_SLOT_MOVED = 53,		/* 050_slot: a slot that was moved is good
								 * enough */
	MUTANT_INVALIDATED = 54,	/* 050_slot: so is one that has lost its WAL */
	MUTANT_OVER_LIMIT = 55,		/* 180_wal: a worker that starts does not see
								 * who held too much */
	MUTANT_PINNED = 56,			/* 180_wal: an open transaction may hold any
								 * amount */
	MUTANT_UNWATCHED = 57,		/* 180_wal: so may a slot without a worker */
	MUTANT_NAMELESS = 58,		/* 180_wal: nobody knows whose transaction
								 * holds it */
	MUTANT_LET_GO = 59,			/* 180_wal: nothing is let go before the
								 * server lists what runs */
	MUTANT_STRANGE_SLOT = 60,	/* 180_wal: a slot of our name is ours */

	/* history and the present */
	MUTANT_SHARED_CACHES = 61,	/* schema_change: they share caches whatever
								 * changed between them */

	/* after a run that failed for a lock */
	MUTANT_LOADED_FRONTIER = 62,	/* locks: what was folded in since the row
									 * was read counts again */

	/* beside who drops the extension */
	MUTANT_DROP_UNLOCKED = 63,	/* 150_faults: he is not waited for before its
								 * tables are read */

	/* what nobody tells of */
	MUTANT_UNTOLD = 64,			/* 210_divergence: nothing changed the catalog
								 * before the worker began */
	MUTANT_CAME_BY = 65,		/* 210_divergence: a partition whose rows came
								 * is judged when all is decoded */
	MUTANT_INDEX_LOCK = 66,		/* 210_divergence: decoding waits for who has
								 * an index locked */
	MUTANT_HELD_CONFIRMED = 67, /* 040_held_back: a backfill holds back what
								 * the slot has let go of */

	/* values at the edge */
	MUTANT_WINDOW_PIECES = 68,	/* windows: a day is in one piece where clocks
								 * are set back after midnight */
	MUTANT_SCALE_BEGUN = 69,	/* statistics: a sum of no values keeps the
								 * digits of those that went */
	MUTANT_JSON_AS_TEXT = 70,	/* late: json is shown as jsonb, whatever is
								 * in it */
	MUTANT_FLOAT_IMAGE = 71,	/* failed_rows: rows whose digits look alike
								 * are alike */
};

#ifdef INCBATCH_MUTANT
#define MUTANT(name) (MUTANT_##name == INCBATCH_MUTANT)
#else
#define MUTANT(name) false
#endif

#endif							/* IB_MUTANT_H */
