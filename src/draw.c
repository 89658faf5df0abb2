/*
 * draw.c
 *	  Text that is to be looked at: columns, bars, small charts and numbers
 *	  with units.
 *
 * Widths are columns of a terminal, not bytes or characters: a name may be
 * Chinese.  Block characters are used where database and client both speak
 * UTF8, and ASCII anywhere else.  Knows nothing of pipelines.
 *
 * A NaN is a value that is not known; nothing is drawn for it.
 */
#include "incbatch.h"

#include <math.h>

#include "mb/pg_wchar.h"

#include "draw.h"

bool
ib_draw_utf8(void)
{
	return GetDatabaseEncoding() == PG_UTF8 && pg_get_client_encoding() == PG_UTF8;
}

/* ----------------------------------------------------------------
 *		Columns
 * ----------------------------------------------------------------
 */

static bool
is_control(const char *character)
{
	return (unsigned char) *character < ' ' || *character == '\177' || pg_dsplen(character) < 0;
}

/* Columns that a character takes */
static int
columns(const char *character)
{
	return is_control(character) ? 1 : pg_dsplen(character);
}

/* Bytes of "text" that fit into "width" columns, which get how many they take. */
static int
bytes_within(const char *text, int width, int *taken)
{
	int			bytes = 0;

	*taken = 0;
	while (text[bytes] != '\0' && *taken + columns(text + bytes) <= width)
	{
		*taken += columns(text + bytes);
		bytes += pg_mblen(text + bytes);
	}
	return bytes;
}

int
ib_draw_width(const char *text)
{
	int			width;

	(void) bytes_within(text, PG_INT32_MAX / 2, &width);
	return width;
}

/* Control characters become blanks: a terminal would obey them. */
static void
put(StringInfo out, const char *text, int bytes)
{
	for (const char *end = text + bytes; text < end; text += pg_mblen(text))
	{
		if (is_control(text))
			appendStringInfoChar(out, ' ');
		else
			appendBinaryStringInfo(out, text, pg_mblen(text));
	}
}

/* As much of a text as fits, with an ellipsis where that is not all of it. */
static int
put_cut(StringInfo out, const char *text, int width)
{
	const char *ellipsis = ib_draw_utf8() ? "…" : "..";
	int			taken;
	int			bytes = bytes_within(text, width, &taken);

	if (text[bytes] == '\0')
	{
		put(out, text, bytes);
		return taken;
	}
	bytes = bytes_within(text, Max(width - ib_draw_width(ellipsis), 0), &taken);
	put(out, text, bytes);
	appendStringInfoString(out, ellipsis);
	return taken + ib_draw_width(ellipsis);
}

void
ib_draw_left(StringInfo out, const char *text, int width)
{
	int			taken = put_cut(out, text, width);

	appendStringInfoSpaces(out, Max(width - taken, 0));
}

void
ib_draw_right(StringInfo out, const char *text, int width)
{
	appendStringInfoSpaces(out, Max(width - ib_draw_width(text), 0));
	(void) put_cut(out, text, width);
}

/*
 * The first line of a text that is broken between words, or within one that
 * is longer than a line.  Returns the rest, NULL when there is none.
 */
const char *
ib_draw_piece(const char *text, int width, char **piece)
{
	int			taken;
	int			bytes = bytes_within(text, width, &taken);

	if (text[bytes] != '\0')
	{
		int			blank = bytes;

		while (blank > 0 && text[blank] != ' ')
			blank--;
		if (blank > 0)
			bytes = blank;
	}
	*piece = pnstrdup(text, bytes);
	text += bytes;
	while (*text == ' ')
		text++;
	return *text == '\0' ? NULL : text;
}

/* ----------------------------------------------------------------
 *		Pictures
 * ----------------------------------------------------------------
 */

static void
repeat(StringInfo out, const char *what, int times)
{
	for (int i = 0; i < times; i++)
		appendStringInfoString(out, what);
}

void
ib_draw_rule(StringInfo out, int width)
{
	repeat(out, ib_draw_utf8() ? "─" : "-", width);
}

/*
 * A bar of "share" of the width.  With "to_limit" the whole width is a limit:
 * what is left of it is shown, and that the bar goes beyond it.
 */
void
ib_draw_bar(StringInfo out, double share, int width, bool to_limit)
{
	static const char *const eighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
	bool		utf8 = ib_draw_utf8();
	bool		beyond = to_limit && share > 1;
	double		length = isnan(share) ? 0 : Min(Max(share, 0), 1) * width;
	int			full = beyond ? width - 1 : (int) floor(length + (to_limit || !utf8 ? 0.5 : 1 / 16.0));
	int			part = to_limit || !utf8 ? 0 : (int) ((length + 1 / 16.0 - full) * 8);

	repeat(out, utf8 ? "█" : "#", full);
	if (beyond)
		appendStringInfoString(out, utf8 ? "▶" : ">");
	else if (to_limit)
		repeat(out, isnan(share) ? " " : utf8 ? "░" : ".", width - full);
	else
	{
		appendStringInfoString(out, eighths[part]);
		appendStringInfoSpaces(out, width - full - (part > 0));
	}
}

/* A value a column, the largest at full height; one that is 0 is a low line. */
void
ib_draw_chart(StringInfo out, const double *values, int n)
{
	static const char *const blocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
	static const char *const letters[] = {"_", ".", ":", "-", "=", "+", "*", "#"};
	const char *const *levels = ib_draw_utf8() ? blocks : letters;
	double		largest = 0;

	for (int i = 0; i < n; i++)
		largest = isnan(values[i]) ? largest : Max(largest, values[i]);
	for (int i = 0; i < n; i++)
	{
		double		share = largest > 0 ? Max(values[i], 0) / largest : 0;

		if (isnan(values[i]))
			appendStringInfoChar(out, ' ');
		else
			appendStringInfoString(out, levels[Min((int) (share * lengthof(blocks)), (int) lengthof(blocks) - 1)]);
	}
}

/* ----------------------------------------------------------------
 *		Numbers
 * ----------------------------------------------------------------
 */

typedef struct Unit
{
	double		size;
	const char *name;
} Unit;

/*
 * A number in the largest unit of which there is one, with a decimal below
 * 10 where that is not 0.  It never takes more than 8 columns, nor is it
 * rounded to what the next unit would be.
 */
static char *
human(double value, const Unit *units, int n)
{
	double		size = fabs(value);
	const char *sign = value < 0 ? "-" : "";
	int			i = 0;
	double		shown;

	if (isnan(value))
		return "-";
	if (isinf(value))
		return psprintf("%s%s", sign, ib_draw_utf8() ? "∞" : "inf");
	while (i + 1 < n && rint(size / units[i].size) * units[i].size >= units[i + 1].size)
		i++;
	size /= units[i].size;
	shown = rint(size * 10) / 10;
	if (shown >= 10 || shown == rint(shown))
		return psprintf("%s%.0f%s", sign, rint(size), units[i].name);
	return psprintf("%s%.1f%s", sign, shown, units[i].name);
}

char *
ib_human_seconds(double seconds)
{
	Unit		units[] = {
		{1e-6, ib_draw_utf8() ? " µs" : " us"}, {1e-3, " ms"}, {1, " s"},
		{60, " min"}, {3600, " h"}, {86400, " d"}, {31557600, " y"},
	};

	if (seconds == 0)
		return "0 s";
	return human(seconds, units, lengthof(units));
}

char *
ib_human_count(double count)
{
	static const Unit units[] = {
		{1, ""}, {1e3, " k"}, {1e6, " M"}, {1e9, " G"}, {1e12, " T"}, {1e15, " P"},
	};

	return human(count, units, lengthof(units));
}

char *
ib_human_bytes(double bytes)
{
	static const Unit units[] = {
		{1, " B"}, {1024.0, " kB"}, {1048576.0, " MB"}, {1073741824.0, " GB"},
		{1099511627776.0, " TB"}, {1125899906842624.0, " PB"},
	};

	return human(bytes, units, lengthof(units));
}

/* How many times something: 0.04, 1.3, 28.1, 120, 5 k */
char *
ib_human_ratio(double ratio)
{
	if (isnan(ratio) || fabs(ratio) >= 99.95)
		return ib_human_count(ratio);
	return psprintf("%.*f", fabs(ratio) < 0.995 ? 2 : 1, ratio);
}
