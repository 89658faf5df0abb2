/*
 * compat.h
 *	  Everything in which PostgreSQL's major versions differ.
 *
 * The only file that looks at PG_VERSION_NUM.  Each wrapper carries our
 * prefix, takes the newest version's arguments and says what changed.  No
 * core name is redefined.
 */
#ifndef IB_COMPAT_H
#define IB_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "incbatch needs PostgreSQL 15 or later"
#endif

/* A function that does not return says so in front of its declaration since 18. */
#if PG_VERSION_NUM >= 180000
#define IB_NORETURN pg_noreturn
#else
#define IB_NORETURN __attribute__((noreturn))
#endif

/*
 * The first minor release of each major one without the faults that 15.13,
 * 16.9 and 17.5 have: invalidations of one transaction that outgrow 1 GB, and
 * WAL removed at a checkpoint that a slot needs after a crash.
 */
#if PG_VERSION_NUM >= 180000
#define IB_MIN_SERVER_VERSION 180000
#elif PG_VERSION_NUM >= 170000
#define IB_MIN_SERVER_VERSION 170006
#elif PG_VERSION_NUM >= 160000
#define IB_MIN_SERVER_VERSION 160010
#else
#define IB_MIN_SERVER_VERSION 150014
#endif

/*
 * Tuples of a decoded change: wrapped in a ReorderBufferTupleBuf until 16, a
 * plain HeapTuple since 17.
 */
#if PG_VERSION_NUM >= 170000
#define ib_change_newtuple(change) ((change)->data.tp.newtuple)
#define ib_change_oldtuple(change) ((change)->data.tp.oldtuple)
#else
#define ib_change_newtuple(change) \
	((change)->data.tp.newtuple ? &(change)->data.tp.newtuple->tuple : NULL)
#define ib_change_oldtuple(change) \
	((change)->data.tp.oldtuple ? &(change)->data.tp.oldtuple->tuple : NULL)
#endif

/*
 * ReplicationSlotCreate: "failover" and "synced" came with 17.  Ours are
 * failover slots where there are such.
 */
#if PG_VERSION_NUM >= 170000
#define ib_replication_slot_create(name, persistency) \
	ReplicationSlotCreate(name, true, persistency, false, true, false)
#else
#define ib_replication_slot_create(name, persistency) \
	ReplicationSlotCreate(name, true, persistency, false)
#endif

/* ReplicationSlotAcquire: "error_if_invalid" came with 18. */
#if PG_VERSION_NUM >= 180000
#define ib_replication_slot_acquire(name) \
	ReplicationSlotAcquire(name, false, true)
#else
#define ib_replication_slot_acquire(name) \
	ReplicationSlotAcquire(name, false)
#endif

/* The standbys that a failover slot waits for came with 17, too. */
#if PG_VERSION_NUM >= 170000
#define ib_standby_slots_caught_up(lsn) StandbySlotsHaveCaughtup(lsn, DEBUG1)
#else
#define ib_standby_slots_caught_up(lsn) ((void) (lsn), true)
#endif

/*
 * A slot is invalidated for other reasons than lost WAL since 16, and then keeps
 * its position.
 */
#if PG_VERSION_NUM >= 160000
#define ib_slot_is_invalidated(slot) ((slot)->data.invalidated != RS_INVAL_NONE)
#else
#define ib_slot_is_invalidated(slot) (!XLogRecPtrIsInvalid((slot)->data.invalidated_at))
#endif

/* LogLogicalMessage: "flush" came with 17. */
#if PG_VERSION_NUM >= 170000
#define ib_log_message(prefix, message, size, transactional) \
	LogLogicalMessage(prefix, message, size, transactional, false)
#else
#define ib_log_message(prefix, message, size, transactional) \
	LogLogicalMessage(prefix, message, size, transactional)
#endif

/* Wait events of extensions have names since 17; before, one stands for all. */
#if PG_VERSION_NUM >= 170000
#define ib_wait_event_new(name) WaitEventExtensionNew(name)
#else
#define ib_wait_event_new(name) ((void) (name), PG_WAIT_EXTENSION)
#endif

/* object_ownercheck replaced one function a kind of object in 16. */
#if PG_VERSION_NUM >= 160000
#define ib_relation_ownercheck(relid, roleid) \
	object_ownercheck(RelationRelationId, relid, roleid)
#define ib_database_ownercheck(dboid, roleid) \
	object_ownercheck(DatabaseRelationId, dboid, roleid)
#else
#define ib_relation_ownercheck(relid, roleid) \
	pg_class_ownercheck(relid, roleid)
#define ib_database_ownercheck(dboid, roleid) \
	pg_database_ownercheck(dboid, roleid)
#endif

/*
 * The entries "old" and "new" of a view's range table, which stand for itself,
 * went with 16.
 */
#if PG_VERSION_NUM >= 160000
#define IB_VIEW_OWN_ENTRIES 0
#else
#define IB_VIEW_OWN_ENTRIES 2
#endif

/* Whose permissions are checked for an entry is in a list of its own since 16. */
#if PG_VERSION_NUM >= 160000
#define ib_set_entry_relation(query, rte, oid) \
	do { \
		if ((rte)->perminfoindex != 0) \
			list_nth_node(RTEPermissionInfo, (query)->rteperminfos, \
						  (rte)->perminfoindex - 1)->relid = (oid); \
		(rte)->relid = (oid); \
	} while (0)
#else
#define ib_set_entry_relation(query, rte, oid) ((void) (query), (rte)->relid = (oid))
#endif

/* A range table entry of a relation becomes one of a subquery: see above. */
#if PG_VERSION_NUM >= 160000
#define ib_forget_permissions(query, rte) ((void) (query), (rte)->perminfoindex = 0)
#else
#define ib_forget_permissions(query, rte) \
	((void) (query), (rte)->requiredPerms = 0, (rte)->checkAsUser = InvalidOid, \
	 (rte)->selectedCols = NULL)
#endif

/* flatten_join_alias_vars: "root" came with 16; outside the planner it is NULL. */
#if PG_VERSION_NUM >= 160000
#define ib_flatten_join_aliases(query, node) \
	flatten_join_alias_vars(NULL, query, node)
#else
#define ib_flatten_join_aliases(query, node) \
	flatten_join_alias_vars(query, node)
#endif

/*
 * Since 18 a query refers to what it groups by through the last entry of its
 * range table.
 */
#if PG_VERSION_NUM >= 180000
#define ib_flatten_groups(query) \
	do { \
		if ((query)->hasGroupRTE) \
		{ \
			(query)->targetList = (List *) \
				flatten_group_exprs(NULL, query, (Node *) (query)->targetList); \
			(query)->havingQual = flatten_group_exprs(NULL, query, (query)->havingQual); \
			(query)->rtable = list_truncate((query)->rtable, list_length((query)->rtable) - 1); \
			(query)->hasGroupRTE = false; \
		} \
	} while (0)
#else
#define ib_flatten_groups(query) ((void) 0)
#endif

/* getIdentitySequence takes an open relation since 17. */
#if PG_VERSION_NUM >= 170000
#define ib_identity_sequence(rel, attnum) \
	getIdentitySequence(rel, attnum, false)
#else
#define ib_identity_sequence(rel, attnum) \
	getIdentitySequence(RelationGetRelid(rel), attnum, false)
#endif

/* A process's number is its place in an array since 17; before, it knew it. */
#if PG_VERSION_NUM >= 170000
#define ib_my_proc_number() MyProcNumber
#else
#define ib_my_proc_number() (MyProc->pgprocno)
#endif

/* ALTER COLUMN SET EXPRESSION, of a generated column, came with 17. */
#if PG_VERSION_NUM >= 170000
#define ib_sets_expression(subtype) ((subtype) == AT_SetExpression)
#else
#define ib_sets_expression(subtype) ((void) (subtype), false)
#endif

/* Generated columns that are computed when they are read came with 18. */
#if PG_VERSION_NUM >= 180000
#define ib_is_virtual_column(att) ((att)->attgenerated == ATTRIBUTE_GENERATED_VIRTUAL)
#else
#define ib_is_virtual_column(att) ((void) (att), false)
#endif

#endif							/* IB_COMPAT_H */
