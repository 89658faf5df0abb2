/*
 * shutdown.c
 *	  Leave nothing behind that keeps the server from starting otherwise.
 *
 * A server with a logical slot does not start with a lower wal_level, and a
 * slot that nobody reads holds WAL for ever.  So the slots of all databases go,
 * and no worker makes one anew: what keeps them away is in shared memory and
 * ends with the server.  The catalogs are not touched; the worker that comes
 * finds that its slot is gone, and its pipelines need a rebuild.
 */
#include "incbatch.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "decode.h"
#include "shmem.h"

PG_FUNCTION_INFO_V1(ib_prepare_shutdown);

static void
keep_workers_away(bool away)
{
	LWLockAcquire(ib_shared->lock, LW_EXCLUSIVE);
	ib_shared->shutting_down = away;
	LWLockRelease(ib_shared->lock);
	ib_wake_launcher();
}

/* End the workers that run; new ones do not come. */
static void
end_workers(void)
{
	for (int i = 0; i < ib_shared->ndatabases; i++)
	{
		Oid			database;

		LWLockAcquire(ib_shared->lock, LW_SHARED);
		database = ib_shared->databases[i].database;
		LWLockRelease(ib_shared->lock);
		if (OidIsValid(database))
			ib_hold_worker(database);
	}
}

Datum
ib_prepare_shutdown(PG_FUNCTION_ARGS)
{
	bool		undo = PG_GETARG_BOOL(0);
	List	   *slots;
	ListCell   *lc;

	if (!superuser())
		ereport(ERROR,
				errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				errmsg("must be superuser to drop the replication slots of all databases"));
	if (ib_shared == NULL)
		ib_shmem_require();
	keep_workers_away(!undo);
	if (undo)
		PG_RETURN_INT32(0);
	end_workers();
	slots = ib_slots_of_all();
	foreach(lc, slots)
		ib_slot_drop_of(((WatchedSlot *) lfirst(lc))->database);
	PG_RETURN_INT32(list_length(slots));
}
