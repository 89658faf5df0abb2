--
-- The aggregates over every type they are kept for: with FILTER, over groups
-- of NULL only, and after rows are taken out again
--
CREATE SCHEMA aggregates;
SET search_path = aggregates, public;

-- ---------------------------------------------------------------------
-- Exact arithmetic: count, sum and avg
-- ---------------------------------------------------------------------
CREATE TABLE exact_types (
	id  int PRIMARY KEY,
	k   text,
	i2  int2,
	i4  int4,
	i8  int8,
	n   numeric,
	n2  numeric(12, 2),
	n0  numeric(6, -2),
	iv  interval,
	m   money
);
ALTER TABLE exact_types REPLICA IDENTITY FULL;
INSERT INTO exact_types VALUES
	(1, 'a', 32767, 2147483647, 9223372036854775807, 1.5, 10.25, 1234, '1 day', 1.10),
	(2, 'a', 32767, 2147483647, 9223372036854775807, 2.5, 20.50, 4321, '1 hour', 2.20),
	(3, 'a', 1, 1, 1, 3.5, 0.01, 50, '1 month', 3.30),
	(4, 'nulls', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
SELECT incbatch.create_pipeline('exact_sums', $$
	SELECT k, count(*), count(i4) AS ci4, count(NULL) AS cnull, count(1) AS c1,
	       sum(i2) AS si2, sum(i4) AS si4, sum(i8) AS si8, sum(n) AS sn, sum(n2) AS sn2,
	       sum(n0) AS sn0, sum(iv) AS siv, sum(m) AS sm,
	       avg(i2) AS ai2, avg(i4) AS ai4, avg(i8) AS ai8, avg(n) AS an, avg(n2) AS an2,
	       avg(n0) AS an0, avg(iv) AS aiv
	FROM exact_types GROUP BY k
$$);
SELECT incbatch.create_pipeline('exact_filters', $$
	SELECT k, count(*) FILTER (WHERE i4 > 5) AS c, count(i2) FILTER (WHERE i4 > 5) AS ci2,
	       sum(i2) FILTER (WHERE i4 > 5) AS si2, sum(i8) FILTER (WHERE i4 > 5) AS si8,
	       sum(n) FILTER (WHERE i4 > 5) AS sn, avg(n) FILTER (WHERE i4 > 5) AS an,
	       avg(iv) FILTER (WHERE i4 > 5) AS aiv, sum(m) FILTER (WHERE i4 > 5) AS sm,
	       min(n2) FILTER (WHERE i4 > 5) AS least, max(n2) FILTER (WHERE i4 <= 5) AS most
	FROM exact_types GROUP BY k
$$);
-- what comes and what goes is told apart: no minimum has the group evaluated again
SELECT incbatch.create_pipeline('filtered', 'SELECT k, count(*) FILTER (WHERE i4 > 5) AS c, sum(i8) FILTER (WHERE i4 > 5) AS s FROM exact_types GROUP BY k');
\d exact_sums
CALL exact('exact_sums');
CALL exact('exact_filters');
CALL exact('filtered');
\x on
SELECT * FROM exact_sums ORDER BY k;
SELECT * FROM exact_filters ORDER BY k;
\x off

-- One column at a time: what comes in, changes, and goes
INSERT INTO exact_types VALUES
	(5, 'a', -1, -1, -1, -1, -1, -100, '-1 day', -1),
	(6, 'b', 1, 7, 1, 1, 1, 100, '3 days 01:00:00.000001', 1),
	(7, 'nulls', 3, 8, 3, 3, 3, 300, '3 min', 3);
CALL exact('exact_sums');
CALL exact('exact_filters');
CALL exact('filtered');
UPDATE exact_types SET i2 = i2 - 5, i4 = i4 - 5, i8 = i8 - 5, n = n + 0.5, n2 = n2 - 0.01,
	n0 = n0 + 100, iv = iv / 7, m = m / 3 WHERE k <> 'nulls';
CALL exact('exact_sums');
CALL exact('exact_filters');
CALL exact('filtered');

-- A group of NULL only is NULL again, not 0.
DELETE FROM exact_types WHERE id = 7;
CALL exact('exact_sums');
CALL exact('exact_filters');
CALL exact('filtered');
SELECT k, count, si4, sn, an, siv, sm FROM exact_sums WHERE k = 'nulls';
UPDATE exact_types SET n = NULL, iv = NULL WHERE k = 'a';
CALL exact('exact_sums');
SELECT k, count, sn, an, siv, aiv, sn2 FROM exact_sums WHERE k = 'a';

-- ---------------------------------------------------------------------
-- The digits of numerics: a sum shows the most that are among its rows.
-- ---------------------------------------------------------------------
CREATE TABLE digits (id int PRIMARY KEY, k int, n numeric, price int);
ALTER TABLE digits REPLICA IDENTITY FULL;
INSERT INTO digits VALUES (1, 1, 1, 5), (2, 1, 2.5, 7), (3, 1, 3.125, 9), (4, 2, 1.00, 1), (5, 2, 2.00, 2);
SELECT incbatch.create_pipeline('digits_kept', $$
	SELECT k, sum(n) AS s, avg(n) AS a, sum(price) / 100.0 AS revenue, sum(price / 100.0) AS parts
	FROM digits GROUP BY k
$$);
CALL exact('digits_kept');
SELECT * FROM digits_kept ORDER BY k;
-- taking 3.125 out takes its digits out
DELETE FROM digits WHERE id = 3;
CALL exact('digits_kept');
SELECT * FROM digits_kept ORDER BY k;
UPDATE digits SET n = 4 WHERE id = 2;
CALL exact('digits_kept');
-- the same scale in all rows, then another comes and goes in one batch
UPDATE digits SET n = n + 1 WHERE k = 2;
CALL exact('digits_kept');
INSERT INTO digits VALUES (6, 2, 0.000001, 3);
DELETE FROM digits WHERE id = 6;
CALL exact('digits_kept');
INSERT INTO digits VALUES (7, 2, 0.001, 3);
CALL exact('digits_kept');
DELETE FROM digits WHERE id = 7;
CALL exact('digits_kept');
DELETE FROM digits WHERE k = 2;
INSERT INTO digits VALUES (8, 2, 7.0, 1), (9, 2, NULL, 1);
CALL exact('digits_kept');
DELETE FROM digits WHERE id = 8;
CALL exact('digits_kept');
INSERT INTO digits VALUES (10, 2, 1e30, 1), (11, 2, 1e-30, 1);
CALL exact('digits_kept');
DELETE FROM digits WHERE id = 11;
CALL exact('digits_kept');
SELECT * FROM digits_kept ORDER BY k;

-- ---------------------------------------------------------------------
-- NaN and Infinity come and go.
-- ---------------------------------------------------------------------
CREATE TABLE special (id int PRIMARY KEY, k int, n numeric, n2 numeric(8, 2), f8 float8, f4 float4);
ALTER TABLE special REPLICA IDENTITY FULL;
INSERT INTO special SELECT i, 1, i, i, i, i FROM generate_series(1, 3) i;
SELECT incbatch.create_pipeline('specials', $$
	SELECT k, sum(n) AS sn, avg(n) AS an, sum(n2) AS sn2, avg(n2) AS an2,
	       min(n) AS lo, max(n) AS hi, min(f8) AS lof, max(f8) AS hif
	FROM special GROUP BY k
$$);
SELECT incbatch.create_pipeline('floats', $$
	SELECT k, sum(f8) AS sf8, avg(f8) AS af8, sum(f4) AS sf4, avg(f4) AS af4,
	       count(f8) AS cf8, sum(f8) FILTER (WHERE f4 > 1) AS sf
	FROM special GROUP BY k
$$);
CALL exact('specials');
CALL exact('floats');
INSERT INTO special VALUES (4, 1, 'NaN', 'NaN', 'NaN', 'NaN');
CALL exact('specials');
CALL exact('floats');
SELECT * FROM specials;
SELECT * FROM floats;
DELETE FROM special WHERE id = 4;
CALL exact('specials');
CALL exact('floats');
SELECT * FROM specials;
SELECT * FROM floats;
INSERT INTO special VALUES (5, 1, 'Infinity', 1, 'Infinity', 'Infinity');
CALL exact('specials');
CALL exact('floats');
INSERT INTO special VALUES (6, 1, '-Infinity', 1, '-Infinity', '-Infinity');
CALL exact('specials');
CALL exact('floats');
SELECT * FROM specials;
SELECT * FROM floats;
DELETE FROM special WHERE id = 5;
CALL exact('specials');
CALL exact('floats');
UPDATE special SET n = 'Infinity', f8 = 'Infinity', f4 = 1 WHERE id = 6;
CALL exact('specials');
CALL exact('floats');
UPDATE special SET n = 0, f8 = 0 WHERE id = 6;
CALL exact('specials');
CALL exact('floats');
SELECT * FROM specials;
SELECT * FROM floats;

-- ---------------------------------------------------------------------
-- Floating point: what is taken out takes its rounding out, too.
-- ---------------------------------------------------------------------
SET extra_float_digits = 1;
INSERT INTO special (id, k, f8, f4) VALUES (10, 2, 1e20, 1e10), (11, 2, 1, 1), (12, 2, 0.1, 0.1);
CALL incbatch.refresh_pipeline('floats');
DELETE FROM special WHERE id = 10;
CALL exact('floats');
SELECT k, sf8, af8, sf4, af4 FROM floats WHERE k = 2;
-- and what is only added is added in the batch's order: a sum of partial sums
-- would differ in its last digits
INSERT INTO special (id, k, f8, f4) VALUES (20, 3, 0.1, 0.1);
CALL exact('floats');
INSERT INTO special (id, k, f8, f4) VALUES (21, 3, 0.2, 0.2), (22, 3, 0.3, 0.3);
CALL exact('floats');
SELECT sf8, 0.1::float8 + (0.2::float8 + 0.3::float8) AS partial_sums FROM floats WHERE k = 3;
-- only NULLs are left, nothing is left
UPDATE special SET f8 = NULL, f4 = NULL WHERE k = 3;
CALL exact('floats');
SELECT * FROM floats WHERE k = 3;
TRUNCATE special;
CALL exact('floats');
CALL exact('specials');
TABLE floats;
SELECT pipeline, strategy FROM incbatch.pipelines WHERE pipeline IN ('floats', 'specials') ORDER BY 1;

-- ---------------------------------------------------------------------
-- min and max of everything that has an order
-- ---------------------------------------------------------------------
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE ordered (
	id int PRIMARY KEY, k int, i2 int2, i4 int4, i8 int8, o oid, n numeric(5, 1), f4 float4, f8 float8,
	m money, t text, c char(4), vc varchar(8), tc text COLLATE "C", d date, tm time, tmz timetz,
	ts timestamp, tstz timestamptz, iv interval, e mood, a int[], ta text[], ip inet, l pg_lsn, tid tid
);
ALTER TABLE ordered REPLICA IDENTITY FULL;
INSERT INTO ordered SELECT i, i % 3, i, i, i, i, i, i, i,
	i, 't' || i, 'c' || i, 'v' || i, chr(64 + i), date '2024-01-01' + i, time '00:00' + i * interval '1 min',
	timetz '00:00+01' + i * interval '1 min', timestamp '2024-01-01' + i * interval '1 min',
	timestamptz '2024-01-01 UTC' + i * interval '1 min', i * interval '1 min',
	(enum_range(NULL::mood))[1 + i % 3], ARRAY[i, 9 - i], ARRAY['x' || i], inet '10.0.0.0' + i,
	pg_lsn '0/0' + i, format('(0,%s)', i)::tid
FROM generate_series(1, 9) i;
INSERT INTO ordered (id, k) VALUES (10, NULL);
SELECT incbatch.create_pipeline('extremes', $$
	SELECT k, min(i2), max(i2), min(i4) AS a1, max(i4) AS a2, min(i8) AS a3, max(i8) AS a4,
	       min(o) AS b1, max(o) AS b2, min(n) AS b3, max(n) AS b4, min(f4) AS b5, max(f4) AS b6,
	       min(f8) AS c1, max(f8) AS c2, min(m) AS c3, max(m) AS c4, min(t) AS c5, max(t) AS c6,
	       min(c) AS d1, max(c) AS d2, min(vc) AS d3, max(vc) AS d4, min(tc) AS d5, max(tc) AS d6,
	       min(d) AS e1, max(d) AS e2, min(tm) AS e3, max(tm) AS e4, min(tmz) AS e5, max(tmz) AS e6,
	       min(ts) AS f1, max(ts) AS f2, min(tstz) AS f3, max(tstz) AS f4, min(iv) AS f5, max(iv) AS f6,
	       min(e) AS g1, max(e) AS g2, min(a) AS g3, max(a) AS g4, min(ta) AS g5, max(ta) AS g6,
	       min(ip) AS h1, max(ip) AS h2, min(l) AS h3, max(l) AS h4, min(tid) AS h5, max(tid) AS h6,
	       max(t COLLATE "C") FILTER (WHERE i4 < 9) AS i1
	FROM ordered GROUP BY k
$$);
CALL exact('extremes');
\x on
SELECT * FROM extremes WHERE k = 1;
\x off
DELETE FROM ordered WHERE id = 1;
CALL exact('extremes');
DELETE FROM ordered WHERE id IN (5, 9);
CALL exact('extremes');
UPDATE ordered SET (k, i2, i4, i8, t, e, a, ts) = (k, -i2, -i4, -i8, 'z' || t, 'sad', a || 1, ts + '1 year');
CALL exact('extremes');
UPDATE ordered SET k = 7, t = NULL WHERE id % 2 = 0;
CALL exact('extremes');

-- ---------------------------------------------------------------------
-- Expressions over aggregates, HAVING, ORDER BY, the same aggregate twice
-- ---------------------------------------------------------------------
SELECT incbatch.create_pipeline('expressions', $$
	SELECT k + 1 AS next, 'group ' || (k + 1) AS name, count(*) * 2 AS twice,
	       max(i4) - min(i4) AS span, round(avg(n), 1) AS mean, coalesce(sum(f8), 0) AS total,
	       CASE WHEN count(*) > 2 THEN 'many' ELSE max(t) END AS label, max(i4) AS again,
	       sum(i4 * i8) FILTER (WHERE i4 > 0 OR i4 IS NULL) / count(*) AS mixed,
	       ARRAY[min(i4), max(i4)] AS ends, 'constant' AS constant
	FROM ordered
	WHERE id < 100
	GROUP BY k + 1
	HAVING count(*) > 1 AND max(i8) < 50
	ORDER BY max(i4) - min(i4) DESC, count(*)
$$);
CALL exact('expressions');
INSERT INTO ordered (id, k, i4, i8, n, t) VALUES (20, 5, 1, 40, 1, 'x'), (21, 5, 2, 41, 2, 'y'), (22, 6, 1, 1, 1, 'z'), (100, 5, 1, 99, 1, '');
CALL exact('expressions');
SELECT next, name, twice, span, mean, label, mixed, ends FROM expressions WHERE next BETWEEN 6 AND 7;
-- into HAVING and out of it
INSERT INTO ordered (id, k, i8) VALUES (23, 5, 50), (24, 6, 1);
CALL exact('expressions');
SELECT next, name, twice FROM expressions WHERE next BETWEEN 6 AND 7;
-- no aggregate in the SELECT list, and none at all
SELECT incbatch.create_pipeline('only_having', 'SELECT k FROM ordered GROUP BY k HAVING sum(i4) > 0');
SELECT incbatch.create_pipeline('only_groups', 'SELECT k, t FROM ordered GROUP BY k, t');
SELECT incbatch.create_pipeline('hidden_key', 'SELECT count(*), max(k) FROM ordered GROUP BY k, id % 2 ORDER BY id % 2, k');
CALL exact('only_having');
CALL exact('only_groups');
CALL exact('hidden_key');
DELETE FROM ordered WHERE id % 3 = 0;
CALL exact('only_having');
CALL exact('only_groups');
CALL exact('hidden_key');

-- ---------------------------------------------------------------------
-- A value that sum cannot take stops this pipeline only; it goes on where it
-- stopped once the cause is gone.
-- ---------------------------------------------------------------------
CREATE TABLE poison (id int PRIMARY KEY, k int, v int);
ALTER TABLE poison REPLICA IDENTITY FULL;
SELECT incbatch.create_pipeline('poisoned', 'SELECT k, sum(100 / v) AS s FROM poison GROUP BY k');
SELECT incbatch.create_pipeline('healthy', 'SELECT k, sum(v) AS s FROM poison GROUP BY k');
CALL exact('poisoned');
INSERT INTO poison VALUES (1, 1, 0), (2, 1, 5);
CALL incbatch.refresh_pipeline('poisoned');
SELECT pipeline, state, last_error FROM incbatch.pipelines WHERE pipeline = 'poisoned';
SELECT incbatch.resume_pipeline('poisoned');
CALL incbatch.refresh_pipeline('poisoned');
CALL exact('healthy');
DELETE FROM poison WHERE id = 1;
CALL exact('healthy');
SELECT incbatch.rebuild_pipeline('poisoned');
CALL exact('poisoned');
TABLE poisoned;

SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;
SET client_min_messages = warning;
DROP SCHEMA aggregates CASCADE;
