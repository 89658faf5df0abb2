/*
 * decode.h
 *	  The narrow door to logical decoding.
 *
 * slot.c, decode.c and plugin.c are the only files that include replication/
 * headers; the rest of incbatch sees these functions.
 */
#ifndef IB_DECODE_H
#define IB_DECODE_H

#include "incbatch.h"

#include "nodes/pg_list.h"

/* slot.c: the slot's life */
typedef struct SlotPosition
{
	bool		exists;
	bool		usable;			/* ours, of this database, WAL still there */
	bool		ours;			/* of this database and our plugin */
	XLogRecPtr	restart_lsn;
	XLogRecPtr	confirmed_lsn;
} SlotPosition;

/* One of our slots in this cluster, as the launcher sees it. */
typedef struct WatchedSlot
{
	Oid			database;
	bool		active;
	XLogRecPtr	restart_lsn;
} WatchedSlot;

extern char *ib_slot_name(Oid database);
extern SlotPosition ib_slot_position(void);
extern XLogRecPtr ib_slot_create(void);
extern int64 ib_slot_releasable(XLogRecPtr *lsn);
extern bool ib_slot_standbys_have(XLogRecPtr lsn);
extern bool ib_slot_is_left(void);
extern void ib_slot_drop(void);
extern List *ib_slots_of_all(void);
extern void ib_slot_drop_of(Oid database);
extern void ib_slot_let_go(void);
extern void ib_slot_init_worker(void);
extern XLogRecPtr ib_wal_end(void);
extern XLogRecPtr ib_flush_wal(void);
extern XLogRecPtr ib_emit_barrier(void);

/* decode.c: the decoding context */
extern void ib_decode_open(XLogRecPtr start_lsn);
extern bool ib_decode_is_open(void);
extern void ib_decode_close(void);
extern XLogRecPtr ib_decode_upto(XLogRecPtr upto, bool stop_when_full);
extern XLogRecPtr ib_decode_position(void);
extern void ib_decode_confirm(XLogRecPtr lsn);
extern XLogRecPtr ib_decode_pinned(TransactionId *xid);
extern bool ib_decode_busy(void);
extern bool ib_decode_flipping(void);

/* plugin.c: what a session tells the worker */
extern void ib_tell_partition(Oid partition, bool empty);

/* between decode.c and plugin.c */
extern bool ib_decode_by_worker(void);
extern void ib_decode_enter_history(void);

#endif							/* IB_DECODE_H */
