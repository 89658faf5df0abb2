/*
 * meaning.c
 *	  What a query means: its own text, the functions that it calls, as they are
 *	  defined now, and the names that values bring along: labels of enums and
 *	  fields of row types, which functions may turn into text or JSON.
 *
 * CREATE OR REPLACE FUNCTION, or VIEW, changes what the batch query returns for
 * rows that have been folded in long ago, and nothing in the WAL of the source
 * tells.  A frontier therefore holds a hash of them; when it no longer agrees,
 * the pipeline needs a rebuild (apply.c).
 *
 * Not here: functions of core, which do not change, and what a function calls
 * in its turn.
 */
#include "incbatch.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_enum.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_rewrite.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "rewrite/rewriteSupport.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "query.h"

/* How a meaning is put together */
#define HASH_BITS 48
#define MAX_LABELS 0x7FFF

typedef struct Label
{
	Oid			oid;
	uint64		hash;			/* of its name */
} Label;

/* What a query refers to, each once. */
typedef struct References
{
	List	   *functions;
	List	   *enums;
	List	   *row_types;		/* OIDs of their relations */
	List	   *columns;		/* types of all columns that are read */
	bool		records;		/* a row of columns is made into something
								 * else */
} References;

static uint64
hash_datum(uint64 hash, int cache, HeapTuple tuple, AttrNumber attnum)
{
	bool		isnull;
	Datum		value = SysCacheGetAttr(cache, tuple, attnum, &isnull);
	struct varlena *text;

	if (isnull)
		return hash_combine64(hash, 0);
	text = PG_DETOAST_DATUM_PACKED(value);
	return hash_combine64(hash, hash_bytes_extended((unsigned char *) VARDATA_ANY(text),
													VARSIZE_ANY_EXHDR(text), 0));
}

static uint64 hash_function(uint64 hash, Oid function);

/* An aggregate is what its functions and its initial value are. */
static uint64
hash_aggregate(uint64 hash, Oid function)
{
	HeapTuple	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(function));
	Form_pg_aggregate form;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", function);
	form = (Form_pg_aggregate) GETSTRUCT(tuple);
	hash = hash_function(hash, form->aggtransfn);
	hash = hash_function(hash, form->aggfinalfn);
	hash = hash_datum(hash, AGGFNOID, tuple, Anum_pg_aggregate_agginitval);
	ReleaseSysCache(tuple);
	return hash;
}

static uint64
hash_function(uint64 hash, Oid function)
{
	HeapTuple	tuple;
	Form_pg_proc form;

	hash = hash_combine64(hash, function);
	if (function < FirstNormalObjectId)
		return hash;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	form = (Form_pg_proc) GETSTRUCT(tuple);
	hash = hash_combine64(hash, form->prolang);
	hash = hash_combine64(hash, form->proisstrict);
	hash = hash_datum(hash, PROCOID, tuple, Anum_pg_proc_prosrc);
	hash = hash_datum(hash, PROCOID, tuple, Anum_pg_proc_probin);
	hash = hash_datum(hash, PROCOID, tuple, Anum_pg_proc_prosqlbody);
	hash = hash_datum(hash, PROCOID, tuple, Anum_pg_proc_proconfig);
	if (form->prokind == PROKIND_AGGREGATE)
		hash = hash_aggregate(hash, function);
	ReleaseSysCache(tuple);
	return hash;
}

/* The query as it is stored, which names what it reads by OID. */
static uint64
hash_definition(uint64 hash, Oid definition)
{
	HeapTuple	tuple = SearchSysCache2(RULERELNAME, ObjectIdGetDatum(definition),
										CStringGetDatum(ViewSelectRuleName));

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for the query of view %u", definition);
	hash = hash_datum(hash, RULERELNAME, tuple, Anum_pg_rewrite_ev_action);
	ReleaseSysCache(tuple);
	return hash;
}

static int
compare_labels(const ListCell *a, const ListCell *b)
{
	return oid_cmp(&((Label *) lfirst(a))->oid, &((Label *) lfirst(b))->oid);
}

/* The labels of some enums, the oldest first. */
static List *
labels_of(List *enums)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, enums)
	{
		CatCList   *members = SearchSysCacheList1(ENUMTYPOIDNAME,
												  ObjectIdGetDatum(lfirst_oid(lc)));

		for (int i = 0; i < members->n_members; i++)
		{
			Form_pg_enum form = (Form_pg_enum) GETSTRUCT(&members->members[i]->tuple);
			Label	   *label = palloc(sizeof(Label));

			label->oid = form->oid;
			label->hash = hash_bytes_extended((unsigned char *) NameStr(form->enumlabel),
											  strlen(NameStr(form->enumlabel)), 0);
			result = lappend(result, label);
		}
		ReleaseSysCacheList(members);
	}
	list_sort(result, compare_labels);
	return result;
}

static bool
add_function(Oid function, void *context)
{
	References *references = context;

	if (function >= FirstNormalObjectId)
		references->functions = list_append_unique_oid(references->functions, function);
	return false;
}

/* The type that arrays or ranges of a type consist of, or InvalidOid. */
static Oid
part_of(Oid type)
{
	switch (get_typtype(type))
	{
		case TYPTYPE_RANGE:
			return get_range_subtype(type);
		case TYPTYPE_MULTIRANGE:
			return get_multirange_range(type);
		default:
			return get_element_type(type);
	}
}

/* The enums and row types that values of a type consist of. */
static void
add_type(References *references, Oid type)
{
	Oid			relation;

	check_stack_depth();
	type = getBaseType(type);
	if (OidIsValid(part_of(type)))
		add_type(references, part_of(type));
	else if (get_typtype(type) == TYPTYPE_ENUM)
		references->enums = list_append_unique_oid(references->enums, type);
	else if (get_typtype(type) == TYPTYPE_COMPOSITE)
	{
		relation = get_typ_typrelid(type);
		if (list_member_oid(references->row_types, relation))
			return;
		references->row_types = lappend_oid(references->row_types, relation);
		for (int attnum = 1; get_attname(relation, attnum, true) != NULL; attnum++)
		{
			if (OidIsValid(get_atttype(relation, attnum)))
				add_type(references, get_atttype(relation, attnum));
		}
	}
}

static void
add_types_of(References *references, List *expressions)
{
	ListCell   *lc;

	foreach(lc, expressions)
	{
		Oid			type = exprType(IsA(lfirst(lc), TargetEntry) ?
									(Node *) lfirst_node(TargetEntry, lc)->expr : lfirst(lc));

		if (type == RECORDOID)
			references->records = true;
		else
			add_type(references, type);
	}
}

/* What compares, picks or counts values, without a look at how they are written. */
static bool
is_blind(Oid function)
{
	Oid			result = get_func_rettype(function);

	return function < FirstNormalObjectId &&
		(result == BOOLOID || result == ANYENUMOID || function == F_COUNT_ANY);
}

static void
add_arguments(References *references, Oid function, List *args)
{
	if (!is_blind(function))
		add_types_of(references, args);
}

static bool
add_references(Node *node, References *references)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, add_references, references, 0);
	(void) check_functions_in_node(node, add_function, references);
	if (IsA(node, Var))
		references->columns = list_append_unique_oid(references->columns, ((Var *) node)->vartype);
	else if (IsA(node, CoerceViaIO))
		add_types_of(references, list_make1(((CoerceViaIO *) node)->arg));
	else if (IsA(node, FuncExpr))
		add_arguments(references, ((FuncExpr *) node)->funcid, ((FuncExpr *) node)->args);
	else if (IsA(node, OpExpr))
		add_arguments(references, get_opcode(((OpExpr *) node)->opno), ((OpExpr *) node)->args);
	else if (IsA(node, Aggref))
		add_arguments(references, ((Aggref *) node)->aggfnoid, ((Aggref *) node)->args);
	else if (IsA(node, XmlExpr))
	{
		add_types_of(references, ((XmlExpr *) node)->args);
		add_types_of(references, ((XmlExpr *) node)->named_args);
	}
	return expression_tree_walker(node, add_references, references);
}

/* The names of a row type's fields. */
static uint64
hash_fields(uint64 hash, Oid relation)
{
	char	   *name;

	for (int attnum = 1; (name = get_attname(relation, attnum, true)) != NULL; attnum++)
		hash = hash_combine64(hash, hash_bytes_extended((unsigned char *) name, strlen(name), 0));
	return hash;
}

/*
 * What the query of a view means: 48 bits of a hash, under the number of enum labels in it.
 * A label that is added changes nothing for the rows there are, so "before",
 * what the query meant earlier, says how many to look at; 0: all.  Were the
 * newest not to have the largest OIDs, for these have wrapped around, adding
 * one would look like renaming one.  The result is never 0.  The relations of
 * row types whose fields count are added to "relations".
 */
int64
ib_query_meaning(Oid definition, Query *query, int64 before, List **relations)
{
	References	references = {0};
	List	   *labels;
	uint64		hash = MUTANT(OTHER_QUERY) ? 1 : hash_definition(1, definition);
	int			nlabels;
	ListCell   *lc;

	(void) add_references((Node *) query, &references);
	foreach(lc, references.functions)
		hash = hash_function(hash, lfirst_oid(lc));
	if (references.records)
	{
		foreach(lc, references.columns)
			add_type(&references, lfirst_oid(lc));
	}
	foreach(lc, references.row_types)
		hash = hash_fields(hash, lfirst_oid(lc));
	*relations = list_concat_unique_oid(*relations, references.row_types);
	labels = labels_of(references.enums);
	nlabels = Min(list_length(labels), MAX_LABELS);
	if (before != 0)
		nlabels = Min(nlabels, (int) ((uint64) before >> HASH_BITS));
	for (int i = 0; i < nlabels; i++)
	{
		Label	   *label = list_nth(labels, i);

		hash = hash_combine64(hash, hash_combine64(label->oid, label->hash));
	}
	hash &= (UINT64CONST(1) << HASH_BITS) - 1;
	return (int64) ((uint64) nlabels << HASH_BITS | (hash == 0 ? 1 : hash));
}
