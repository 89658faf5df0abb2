/*
 * divert.h
 *	  Rows that make the query fail, and are left out.
 */
#ifndef IB_DIVERT_H
#define IB_DIVERT_H

#include "path.h"
#include "query.h"

/* The rows that are left out, as the statements know them: number, image. */
#define FAILED_RELATION "incbatch_failed"

extern void ib_divert_begin(IbPath *path, bool anew, bool truncated);
extern void ib_divert_run(IbPath *path, void (*run) (void *), void *arg);
extern int64 ib_divert_evaluate(IbPath *path, Tuplestorestate *groups,
								int64 (*evaluate) (IbPath *, Tuplestorestate *));
extern char *ib_divert_present(IbPath *path);
extern void ib_divert_store(IbPath *path);
extern int	ib_divert_left_out(const IbPath *path);

/* for verify.c */
extern void ib_divert_offer_images(List *images);
extern char *ib_divert_present_text(PipelineQuery *pq);

#endif							/* IB_DIVERT_H */
