/*
 * draw.h
 *	  Text that is to be looked at: columns, bars, small charts and numbers
 *	  with units.
 */
#ifndef IB_DRAW_H
#define IB_DRAW_H

#include "incbatch.h"

#include "lib/stringinfo.h"

extern bool ib_draw_utf8(void);
extern int	ib_draw_width(const char *text);
extern void ib_draw_left(StringInfo out, const char *text, int width);
extern void ib_draw_right(StringInfo out, const char *text, int width);
extern const char *ib_draw_piece(const char *text, int width, char **piece);
extern void ib_draw_rule(StringInfo out, int width);
extern void ib_draw_bar(StringInfo out, double share, int width, bool to_limit);
extern void ib_draw_chart(StringInfo out, const double *values, int n);

extern char *ib_human_seconds(double seconds);
extern char *ib_human_count(double count);
extern char *ib_human_bytes(double bytes);
extern char *ib_human_ratio(double ratio);

#endif							/* IB_DRAW_H */
