--
-- Names: whatever a relation or column is called, also like what incbatch
-- itself uses, and whatever the search_path finds
--
CREATE SCHEMA names;
SET search_path = names, public;

-- ---------------------------------------------------------------------
-- Names that must be quoted
-- ---------------------------------------------------------------------
CREATE SCHEMA "Sché ma.""q""";
CREATE TABLE "Sché ma.""q"""."Sóurce; DROP TABLE x --" (
	"Id" int PRIMARY KEY, "sel ect" text, "a""b" int, "it's $1 %s" int, "order" int, "日本語 \ 'x'" text
);
ALTER TABLE "Sché ma.""q"""."Sóurce; DROP TABLE x --" REPLICA IDENTITY FULL;
CREATE TABLE "Sché ma.""q"""."look up" ("sel ect" text, "VALUE" int);
INSERT INTO "Sché ma.""q"""."look up" VALUES ('a', 1), ('b', 2), (NULL, 3);
INSERT INTO "Sché ma.""q"""."Sóurce; DROP TABLE x --"
SELECT i, chr(97 + i % 3), i, -i, i % 4, 'x' || i FROM generate_series(1, 12) i;
SELECT incbatch.create_pipeline('"Sché ma.""q"""."Pipe.line ""1"""', $$
	SELECT "sel ect", "order" AS "Group", "it's $1 %s" > -5 AS "?column?", count(*) AS "count(*)",
	       sum("a""b") AS "sum of ""a""", min("it's $1 %s") AS "%s", max("日本語 \ 'x'") AS "日本語 \ 'x'",
	       max("VALUE") AS "VALUE"
	FROM "Sché ma.""q"""."Sóurce; DROP TABLE x --" LEFT JOIN "Sché ma.""q"""."look up" USING ("sel ect")
	GROUP BY 1, 2, 3
$$);
CALL exact('"Sché ma.""q"""."Pipe.line ""1"""');
UPDATE "Sché ma.""q"""."Sóurce; DROP TABLE x --" SET "it's $1 %s" = 0, "sel ect" = NULLIF("sel ect", 'a') WHERE "Id" % 2 = 0;
DELETE FROM "Sché ma.""q"""."Sóurce; DROP TABLE x --" WHERE "Id" > 9;
CALL exact('"Sché ma.""q"""."Pipe.line ""1"""');
SELECT * FROM "Sché ma.""q"""."Pipe.line ""1""" ORDER BY 1, 2, 3;
SELECT pipeline, source FROM incbatch.pipelines;
SELECT relname FROM pg_class WHERE relnamespace = '"Sché ma.""q"""'::regnamespace AND relname LIKE 'P%' ORDER BY 1;
SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;

-- 63 bytes, and 62 in characters of two and three
CREATE TABLE names_of_63_bytes_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx (
	column_of_63_bytes_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx int, "日本日本日本日本日本日本日本日本日本日本ä" int);
ALTER TABLE names_of_63_bytes_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx REPLICA IDENTITY FULL;
INSERT INTO names_of_63_bytes_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx SELECT i % 2, i FROM generate_series(1, 4) i;
SELECT incbatch.create_pipeline('pipeline_of_63_bytes_' || repeat('x', 42), $$
	SELECT column_of_63_bytes_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx, count(*), sum("日本日本日本日本日本日本日本日本日本日本ä")
	FROM names_of_63_bytes_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx GROUP BY 1
$$);
SELECT incbatch.create_pipeline('"日本日本日本日本日本日本日本日本日本日本ä"', $$
	SELECT "日本日本日本日本日本日本日本日本日本日本ä", count(*), min(column_of_63_bytes_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx)
	FROM names_of_63_bytes_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx GROUP BY 1
$$);
DELETE FROM names_of_63_bytes_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
WHERE "日本日本日本日本日本日本日本日本日本日本ä" = 1;
CALL exact('pipeline_of_63_bytes_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx');
CALL exact('"日本日本日本日本日本日本日本日本日本日本ä"');
SELECT pipeline, definition FROM incbatch.pipelines ORDER BY 1;
SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;

-- ---------------------------------------------------------------------
-- Columns called like what the statements use themselves
-- ---------------------------------------------------------------------
CREATE TABLE internals (
	s int, t int, g int, w int, k int, state int, excluded int, merged int, row_count int, count int,
	sum_1 int, min_1 int, min_1_retracted int, key_1 int, aggregate_1 int, incbatch_weight int,
	incbatch_w int, incbatch_batch int, incbatch_delta int, incbatch_touched int, incbatch_row int,
	incbatch_count int, incbatch_unknown int, incbatch_arg_1 int, incbatch_filter_1 int,
	"user" int, "table" int, "select" int, "end" int, int int, text int, "when" int, "like" int,
	id int PRIMARY KEY
);
ALTER TABLE internals REPLICA IDENTITY FULL;
INSERT INTO internals SELECT i % 2, i % 3, i % 2, i, i % 3, i % 2, i % 2, i % 2, i % 2, i % 2,
	i % 2, i % 2, i % 2, i % 2, i % 2, i % 2, i % 2, i % 2, i % 2, i % 2, i % 2,
	i % 2, i % 2, i % 2, i % 2, i % 2, i % 2, i % 2, i % 2, i % 2, i % 2, i % 2, i % 2, i FROM generate_series(1, 12) i;
-- each of them as a key, as the name of a key, as an input and as the name of an aggregate
DO $$
DECLARE
	c text;
BEGIN
	FOR c IN SELECT attname FROM pg_attribute WHERE attrelid = 'internals'::regclass AND attnum > 0 AND attname <> 'id' LOOP
		PERFORM incbatch.create_pipeline('key_' || c,
			format('SELECT %1$I, count(*) AS a1, sum(w) AS a2, min(id) AS a3, max(k) FILTER (WHERE id > 2) AS a4
			        FROM internals GROUP BY 1', c));
		PERFORM incbatch.create_pipeline('as_' || c,
			format('SELECT id %% 3 AS %1$I, count(*) + 1 AS a1, sum(x.%1$I) AS a2, min(w) AS a3, max(%1$I) FILTER (WHERE x.%1$I < 5) AS a4
			        FROM internals AS x GROUP BY id %% 3', c));
		PERFORM incbatch.create_pipeline('table_' || c,
			format('SELECT min(%1$I.id) AS %1$I, k + 1 AS a1, id %% 2 AS a2, count(*) AS a3
			        FROM internals AS %1$I GROUP BY k + 1, id %% 2', c));
	END LOOP;
END $$;
CREATE PROCEDURE all_exact(INOUT pipelines int DEFAULT 0, INOUT inexact text DEFAULT '')
LANGUAGE plpgsql AS $$
DECLARE
	p text;
	d bigint; s bigint; v bigint;
BEGIN
	FOR p IN SELECT pipeline FROM incbatch.pipelines ORDER BY 1 LOOP
		BEGIN
			CALL exact(p, d, s, v);
		EXCEPTION WHEN OTHERS THEN
			inexact := inexact || format(E'%s: %s\n', p, (SELECT last_error FROM incbatch.pipelines WHERE pipeline = p));
		END;
		pipelines := pipelines + 1;
		IF d + s + v <> 0 THEN
			inexact := inexact || p || E'\n';
		END IF;
	END LOOP;
END $$;
CALL all_exact();
UPDATE internals SET w = w + 1, s = NULL, key_1 = NULL WHERE id % 4 = 1;
DELETE FROM internals WHERE id IN (1, 6, 12);
CALL all_exact();
SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;

-- several keys of these names at once, unnamed and hidden ones
SELECT incbatch.create_pipeline('many_keys', $$
	SELECT key_1, row_count, s + 1, s + 2 AS count_1, t AS sum_1, state, excluded AS min_2, count(*), sum(w), min(w), max(id)
	FROM internals GROUP BY key_1, row_count, s + 1, s + 2, t, state, excluded, g, sum_1
$$);
SELECT incbatch.create_pipeline('same_key_twice', $$
	SELECT t AS a, t AS b, s AS ctid, k AS xmin, count(*) AS tableoid FROM internals GROUP BY t, s, k
$$);
CALL exact('many_keys');
UPDATE internals SET w = -w;
DELETE FROM internals WHERE id = 2;
CALL exact('many_keys');
CALL exact('same_key_twice');
SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;

-- ---------------------------------------------------------------------
-- Which names are taken
-- ---------------------------------------------------------------------
CREATE TABLE p_batch (k int);
CREATE TABLE p_state (k int);
SELECT incbatch.create_pipeline('p', 'SELECT t, count(*) FROM internals GROUP BY t');
SELECT relation, definition FROM incbatch.pipelines;
CALL exact('p');
SELECT incbatch.drop_pipeline('p');
DROP TABLE p_batch;
DROP TABLE p_state;

-- ---------------------------------------------------------------------
-- The search_path says where names are looked up when the pipeline is
-- created, and never again.
-- ---------------------------------------------------------------------
CREATE SCHEMA first;
CREATE SCHEMA second;
CREATE TABLE first.t (k int, v int);
ALTER TABLE first.t REPLICA IDENTITY FULL;
CREATE FUNCTION first.twice(int) RETURNS int LANGUAGE sql IMMUTABLE RETURN $1 * 2;
CREATE FUNCTION first.lower(text) RETURNS text LANGUAGE sql IMMUTABLE RETURN 'lower of first: ' || $1;
INSERT INTO first.t SELECT i % 3, i FROM generate_series(1, 9) i;
SET search_path = first, pg_catalog, public;
SELECT incbatch.create_pipeline('p', $$
	SELECT k, lower('X') AS l, sum(twice(v)) AS s, max(v) AS hi FROM t GROUP BY k, lower('X')
$$);
SELECT incbatch.create_pipeline('second.p', 'SELECT k, count(*) FROM t GROUP BY k');
SELECT incbatch.create_pipeline('names.q', 'SELECT k, count(*) FROM first.t GROUP BY k');
CREATE TABLE second.t (k text);
CREATE FUNCTION second.twice(int) RETURNS int LANGUAGE sql IMMUTABLE RETURN 0;
-- operators and functions that would be found first, if anyone looked
CREATE FUNCTION second.wrong(int, int) RETURNS boolean LANGUAGE sql IMMUTABLE RETURN false;
CREATE OPERATOR second.= (LEFTARG = int, RIGHTARG = int, FUNCTION = second.wrong);
CREATE OPERATOR second.> (LEFTARG = int, RIGHTARG = int, FUNCTION = second.wrong);
CREATE FUNCTION second.count(int) RETURNS bigint LANGUAGE sql IMMUTABLE RETURN -1;
CREATE TABLE second.incbatch_batch (k int);
CREATE TABLE second.incbatch_delta (k int);
SET search_path = second, pg_catalog, public;
SELECT pipeline, source FROM incbatch.pipelines ORDER BY 1;
INSERT INTO first.t VALUES (1, 100), (7, 7), (NULL, 1);
DELETE FROM first.t WHERE v BETWEEN 8 AND 9;
CALL public.exact('first.p');
CALL public.exact('second.p');
CALL public.exact('p');
CALL public.exact('names.q');
SELECT * FROM first.p ORDER BY k;
-- an event trigger and dashboards with a path of their own
SET search_path = '';
SELECT incbatch.drop_pipeline('p');
SELECT incbatch.drop_pipeline('second.p');
SELECT incbatch.drop_pipeline('"names"."q"');
SELECT pipeline FROM incbatch.pipelines;
SELECT incbatch.drop_pipeline('first.p');

-- types in the way of the row types of its relations
CREATE TYPE first.r_state AS ENUM ('a');
CREATE DOMAIN first.r_batch AS int;
CREATE TABLE first.r_state1 (k int);
CREATE TYPE first.s AS ENUM ('a');
SELECT incbatch.create_pipeline('first.s', 'SELECT k, count(*) FROM first.t GROUP BY k');
SELECT incbatch.create_pipeline('first.r', 'SELECT k, count(*) FROM first.t GROUP BY k');
CALL public.exact('first.r');
SELECT p.definition, a.relation FROM incbatch.pipelines p JOIN incbatch.paths a USING (pipeline);
SELECT incbatch.drop_pipeline('first.r');

-- ---------------------------------------------------------------------
-- 75: 500 random names, of all that a name may have
-- ---------------------------------------------------------------------
SET search_path = names, public;
CREATE TABLE given (name text);
CREATE FUNCTION random_name() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	letters text[] := ARRAY['"', '''', '\', ' ', '.', ';', '--', '/*', '*/', '$1', '$' || '$', '%s', '%', '{', '}', '(', ')', '[', ']',
		',', '?', '@', ':', '=', '<', E'\n', E'\t', 'a', 'B', 'é', '日', '😀', '0', '_', 'select', 'drop table', 'null', 'row', E'\x01', 'İ'];
	result text;
BEGIN
	LOOP
		SELECT string_agg(letters[1 + floor(random() * array_length(letters, 1))::int], '')
		INTO result FROM generate_series(1, 1 + floor(random() * 12)::int);
		EXIT WHEN octet_length(result) <= 55 AND result NOT IN (SELECT name FROM given);
	END LOOP;
	INSERT INTO given VALUES (result);
	RETURN result;
END $$;
CREATE PROCEDURE random_names(rounds int, INOUT wrong int DEFAULT 0) LANGUAGE plpgsql AS $$
DECLARE
	n text[];	-- schema, source, its columns, lookup, its column, pipeline, columns of the result
	p text;
	d bigint; s bigint; v bigint;
BEGIN
	FOR round IN 1 .. rounds LOOP
		n := (SELECT array_agg(random_name()) FROM generate_series(1, 20));
		EXECUTE format('CREATE SCHEMA %1$I; CREATE TABLE %1$I.%2$I (%3$I int PRIMARY KEY, %4$I text, %5$I int, %6$I numeric);
			ALTER TABLE %1$I.%2$I REPLICA IDENTITY FULL; CREATE TABLE %1$I.%7$I (%4$I text, %8$I text)',
			VARIADIC n);
		EXECUTE format('INSERT INTO %1$I.%2$I SELECT i, %4$L || i %% 2, i, i FROM generate_series(1, 6) i;
			INSERT INTO %1$I.%7$I VALUES (%4$L || 0, %8$L)', VARIADIC n);
		p := format('%1$I.%9$I', VARIADIC n);
		PERFORM incbatch.create_pipeline(p, format('SELECT %8$I AS %10$I, %2$I.%4$I AS %11$I, count(*) AS %12$I, sum(%5$I) AS %13$I,
			min(%6$I) AS %14$I, string_agg(%2$I.%4$I, %15$L ORDER BY %3$I) AS %16$I, %5$I %% 2 = 0 AS %17$I
			FROM %1$I.%2$I LEFT JOIN %1$I.%7$I AS %18$I ON %18$I.%4$I = %2$I.%4$I GROUP BY 1, 2, %5$I %% 2 = 0', VARIADIC n));
		PERFORM incbatch.create_consumer(n[19], p, freshness => '1 hour');
		COMMIT;
		CALL exact(p, d, s, v);
		wrong := wrong + d + s + v;
		EXECUTE format('UPDATE %1$I.%2$I SET %4$I = NULL, %5$I = %5$I + 1 WHERE %3$I = 1; DELETE FROM %1$I.%2$I WHERE %3$I = 2;
			INSERT INTO %1$I.%2$I VALUES (9, %4$L, 9, 9)', VARIADIC n);
		COMMIT;
		CALL exact(p, d, s, v);
		wrong := wrong + d + s + v
		  + ((SELECT count(*) FROM incbatch.explain_pipeline(p)) = 0)::int
		  + ((SELECT count(*) FROM incbatch.consumers c WHERE c.consumer = n[19]) = 0)::int
		  + (incbatch.report(p) IS NULL)::int;
		COMMIT;
		PERFORM incbatch.drop_consumer(n[19], p);
		PERFORM incbatch.drop_pipeline(p);
		EXECUTE format('DROP TABLE %1$I.%2$I, %1$I.%7$I; DROP SCHEMA %1$I', VARIADIC n);
		COMMIT;
	END LOOP;
END $$;
SELECT setseed(0.75);
CALL random_names(25);
SELECT count(*), count(DISTINCT name) FROM given;

RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA names, first, second, "Sché ma.""q""" CASCADE;
