--
-- DDL on a live source: after each, rows that waited and rows that follow are
-- counted exactly, or the pipeline needs a rebuild and says why
--
CREATE SCHEMA schema_change;
SET search_path = schema_change, public;

-- Exact, or the reason why not; then it is rebuilt, and exact.
CREATE PROCEDURE settle(VARIADIC names text[]) LANGUAGE plpgsql AS $$
DECLARE
	name text;
	reason text;
	lost text[] := '{}';
	d bigint;
	s bigint;
	v bigint;
BEGIN
	FOREACH name IN ARRAY names LOOP
		BEGIN
			CALL incbatch.refresh_pipeline(name);
		EXCEPTION WHEN object_not_in_prerequisite_state THEN
			GET STACKED DIAGNOSTICS reason = PG_EXCEPTION_DETAIL;
			RAISE INFO '%: %', name, reason;
			lost := lost || name;
		END;
	END LOOP;
	PERFORM incbatch.rebuild_pipeline(l) FROM unnest(lost) l;
	COMMIT;
	FOREACH name IN ARRAY names LOOP
		CALL exact(name, d, s, v);
		RAISE INFO '%: % % %', name, d, s, v;
	END LOOP;
END $$;

CREATE TABLE t (junk smallint, k int, spare text, v bigint, tail int);
ALTER TABLE t REPLICA IDENTITY FULL;
INSERT INTO t SELECT i, i % 3, 'x', i, i FROM generate_series(1, 12) i;
INSERT INTO t VALUES (NULL, NULL, NULL, NULL, NULL);
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*), sum(v), max(v), min(tail) FROM t GROUP BY k');
SELECT incbatch.create_pipeline('few', 'SELECT v % 2 AS odd, count(*) FROM t GROUP BY 1');
CALL settle('p', 'few');

-- The type of a column that is not read, before those that are
INSERT INTO t VALUES (1, 1, 'waits', 100, 1);
ALTER TABLE t ALTER COLUMN junk TYPE bigint;
INSERT INTO t VALUES (2, 1, 'follows', 101, 2);
CALL settle('p', 'few');
INSERT INTO t VALUES (3, 2, 'waits', 102, 3);
ALTER TABLE t ALTER COLUMN junk TYPE text USING repeat(junk::text, 3);
INSERT INTO t VALUES ('four', 2, 'follows', 103, 4);
UPDATE t SET v = v + 1000 WHERE v IN (100, 102);
CALL settle('p', 'few');
BEGIN;
INSERT INTO t VALUES ('five', 0, 'waits', 104, 5);
ALTER TABLE t ALTER COLUMN junk TYPE numeric USING length(junk), ALTER COLUMN spare TYPE char(20);
INSERT INTO t VALUES (6, 0, 'follows', 105, 6);
SAVEPOINT s;
ALTER TABLE t ALTER COLUMN junk TYPE boolean USING junk > 3;
INSERT INTO t VALUES (true, 0, 'undone', 106, 7);
DELETE FROM t WHERE v = 105;
ROLLBACK TO s;
INSERT INTO t VALUES (7, 0, 'after', 107, 8);
DELETE FROM t WHERE v = 104;
COMMIT;
CALL settle('p', 'few');
-- without a rewrite
ALTER TABLE t ALTER COLUMN spare TYPE varchar(20);
INSERT INTO t VALUES (8, 1, 'waits', 108, 9);
ALTER TABLE t ALTER COLUMN spare TYPE text;
INSERT INTO t VALUES (9, 1, 'follows', 109, 10);
CALL settle('p', 'few');
-- of one that is read: refused
ALTER TABLE t ALTER COLUMN v TYPE numeric;
ALTER TABLE t ALTER COLUMN k TYPE text;
ALTER TABLE t DROP COLUMN tail;

-- A column that is not read goes, and comes back as another
INSERT INTO t VALUES (10, 1, 'waits', 110, 11);
ALTER TABLE t DROP COLUMN junk;
INSERT INTO t VALUES (2, 'follows', 111, 12);
ALTER TABLE t ADD COLUMN junk date DEFAULT '2024-01-01';
INSERT INTO t VALUES (2, 'follows', 112, 13, '2024-02-02');
UPDATE t SET v = v + 1000 WHERE v BETWEEN 108 AND 111;
CALL settle('p', 'few');
INSERT INTO t VALUES (0, 'follows', 113, 14, '2024-02-02');
DELETE FROM t WHERE tail IN (1, 14);
CALL settle('p', 'few');

-- Defaults that rows of before only have in the catalog
INSERT INTO t VALUES (1, 'waits', 120, 20, '2024-01-01');
ALTER TABLE t ADD COLUMN a int DEFAULT 7, ADD COLUMN b text NOT NULL DEFAULT 'seven';
SELECT incbatch.create_pipeline('added', 'SELECT a, b, count(*), sum(v) FROM t GROUP BY 1, 2');
CALL settle('p', 'few', 'added');
UPDATE t SET v = v + 1 WHERE tail < 5;
DELETE FROM t WHERE tail = 20;
ALTER TABLE t ALTER COLUMN a SET DEFAULT 8, ALTER COLUMN b DROP DEFAULT;
INSERT INTO t (k, v, b) VALUES (0, 1, 'new');
UPDATE t SET a = a + 1 WHERE tail BETWEEN 5 AND 7;
CALL settle('p', 'few', 'added');
-- a default that is computed for each row: a rewrite
ALTER TABLE t ADD COLUMN r float8 DEFAULT random();
DELETE FROM t WHERE tail = 8;
-- and rewrites that take the values out of the catalog
VACUUM FULL t;
UPDATE t SET a = NULL WHERE tail = 9;
CALL settle('p', 'few', 'added');

-- Rewrites that keep every row
CREATE INDEX t_v ON t (v);
BEGIN;
INSERT INTO t (k, v, b) VALUES (5, 500, 'in');
CLUSTER t USING t_v;
UPDATE t SET v = v + 1 WHERE k = 5;
ALTER TABLE t ADD COLUMN n int GENERATED ALWAYS AS (v % 10) STORED;
DELETE FROM t WHERE tail = 10;
COMMIT;
CALL settle('p', 'few', 'added');
-- in a large transaction, which is read in chunks
BEGIN;
INSERT INTO t (k, v, b, tail) SELECT i % 7, i, 'large', i FROM generate_series(2001, 5000) i;
ALTER TABLE t DROP COLUMN spare;
CREATE INDEX t_tail ON t (tail);
CLUSTER t USING t_tail;
UPDATE t SET v = v + 1 WHERE tail BETWEEN 2001 AND 4000;
SAVEPOINT s;
ALTER TABLE t ALTER COLUMN junk TYPE text;
ALTER TABLE t RENAME COLUMN v TO w;
INSERT INTO t (k, w, b, tail) SELECT i % 7, i, 'undone', i FROM generate_series(5001, 8000) i;
ROLLBACK TO s;
ALTER TABLE t ALTER COLUMN junk TYPE timestamptz;
ALTER TABLE t RENAME COLUMN v TO w;
INSERT INTO t (k, w, b, tail) SELECT i % 7, i, 'kept', i FROM generate_series(5001, 8000) i;
DELETE FROM t WHERE tail > 7000;
COMMIT;
CALL settle('p', 'few', 'added');
ALTER TABLE t RENAME COLUMN w TO v;
DELETE FROM t WHERE tail > 20;
CALL settle('p', 'few', 'added');

-- Generated columns
SELECT incbatch.create_pipeline('generated', 'SELECT n, count(*), sum(n) FROM t GROUP BY n');
UPDATE t SET v = v + 1 WHERE k = 1;
CALL settle('generated');
ALTER TABLE t ALTER COLUMN n DROP EXPRESSION;
UPDATE t SET v = v + 1 WHERE k = 1;
UPDATE t SET n = 3 WHERE k = 2;
CALL settle('generated', 'p');
ALTER TABLE t DROP COLUMN n;
SELECT incbatch.drop_pipeline('generated');
ALTER TABLE t DROP COLUMN n;
ALTER TABLE t ADD COLUMN n int GENERATED ALWAYS AS (v % 100) STORED;
SELECT incbatch.create_pipeline('generated', 'SELECT n, count(*), sum(n) FROM t GROUP BY n');
UPDATE t SET v = v + 1 WHERE k = 1;
CALL settle('generated', 'p');

-- The replica identity, taken away and given back
ALTER TABLE t REPLICA IDENTITY NOTHING;
INSERT INTO t (k, v, b) VALUES (1, 600, 'x');
CALL settle('p', 'few');
DELETE FROM t WHERE v = 600;
ALTER TABLE t REPLICA IDENTITY FULL;
CALL settle('p', 'few');
BEGIN;
INSERT INTO t (k, v, b) VALUES (1, 601, 'x');
ALTER TABLE t REPLICA IDENTITY DEFAULT;
SAVEPOINT s;
UPDATE t SET v = 0 WHERE v = 601;
ROLLBACK TO s;
ALTER TABLE t REPLICA IDENTITY FULL;
UPDATE t SET v = 602 WHERE v = 601;
COMMIT;
CALL settle('p', 'few');
BEGIN;
ALTER TABLE t REPLICA IDENTITY NOTHING;
UPDATE t SET v = 603 WHERE v = 602;
ALTER TABLE t REPLICA IDENTITY FULL;
COMMIT;
CALL settle('p', 'few');
-- an index that is enough for one of two queries, and goes
CREATE TABLE keyed (id int NOT NULL, k int NOT NULL, v int);
CREATE UNIQUE INDEX keyed_id_k ON keyed (id, k);
ALTER TABLE keyed REPLICA IDENTITY USING INDEX keyed_id_k;
INSERT INTO keyed SELECT i, i % 3, i FROM generate_series(1, 9) i;
SELECT incbatch.create_pipeline('ids', 'SELECT k, count(*), max(id) FROM keyed GROUP BY k');
SELECT incbatch.create_pipeline('values', 'SELECT k, sum(v) FROM keyed GROUP BY k', append_only => true);
UPDATE keyed SET id = id + 10 WHERE id < 4;
UPDATE keyed SET k = 7 WHERE id > 12;
DELETE FROM keyed WHERE id = 5;
CALL settle('ids');
UPDATE keyed SET v = 100;
CALL settle('ids');
DROP INDEX keyed_id_k;
INSERT INTO keyed VALUES (20, 1, 1);
CALL settle('ids');
DELETE FROM keyed WHERE id = 20;
CALL settle('ids');
CREATE UNIQUE INDEX keyed_id_k ON keyed (id, k);
ALTER TABLE keyed REPLICA IDENTITY USING INDEX keyed_id_k;
CALL settle('ids');
DELETE FROM keyed WHERE id = 13;
CALL settle('ids');

-- Logged, unlogged; in one transaction, where the catalog shows no difference
BEGIN;
ALTER TABLE t SET UNLOGGED;
INSERT INTO t (k, v, b) VALUES (1, 700, 'x');
ALTER TABLE t SET LOGGED;
COMMIT;
CALL settle('p', 'few');
BEGIN;
SAVEPOINT s;
ALTER TABLE t SET UNLOGGED;
INSERT INTO t (k, v, b) VALUES (1, 701, 'x');
ROLLBACK TO s;
INSERT INTO t (k, v, b) VALUES (1, 702, 'x');
COMMIT;
CALL settle('p', 'few');

-- Its place: schema, tablespace, tree
CREATE SCHEMA schema_change_other;
ALTER TABLE t SET SCHEMA schema_change_other;
INSERT INTO schema_change_other.t (k, v, b) VALUES (1, 703, 'x');
CALL settle('p', 'few');
ALTER TABLE schema_change_other.t SET SCHEMA schema_change;
-- another table takes the name
ALTER TABLE t RENAME TO was_t;
CREATE TABLE t (k int, v bigint, tail int);
ALTER TABLE t REPLICA IDENTITY FULL;
INSERT INTO t VALUES (9, 9, 9);
INSERT INTO was_t (k, v, b) VALUES (1, 704, 'x');
CALL settle('p', 'few');
DROP TABLE t;
ALTER TABLE was_t RENAME TO t;
-- it becomes a partition, and is one no more
CREATE TABLE root (LIKE t INCLUDING ALL) PARTITION BY LIST (k);
ALTER TABLE root ATTACH PARTITION t DEFAULT;
INSERT INTO root (k, v, b) VALUES (2, 705, 'through');
CALL settle('p', 'few');
UPDATE root SET v = 706 WHERE v = 705;
ALTER TABLE root DETACH PARTITION t;
DELETE FROM t WHERE v = 706;
CALL settle('p', 'few');
-- it becomes a child, and a parent
CREATE TABLE older (k int);
ALTER TABLE t INHERIT older;
UPDATE older SET k = 4 WHERE k = 3;
CALL settle('p', 'few');
ALTER TABLE t NO INHERIT older;
CREATE TABLE younger () INHERITS (t);
INSERT INTO younger (k, v, b) VALUES (1, 1, 'x');
CALL incbatch.refresh_pipeline('p');
CALL incbatch.refresh_pipeline('few');
ALTER TABLE younger NO INHERIT t;
CALL settle('p', 'few');

-- Things that change no row
ALTER TABLE t DISABLE TRIGGER ALL;
ALTER TABLE t ENABLE TRIGGER ALL;
ALTER TABLE t SET (fillfactor = 50);
ALTER TABLE t ALTER COLUMN v SET STATISTICS 10;
ALTER TABLE t ALTER COLUMN b SET NOT NULL, ADD CONSTRAINT positive CHECK (tail IS NULL OR tail > -1000);
ALTER TABLE t ALTER COLUMN b DROP NOT NULL;
COMMENT ON TABLE t IS 'renamed often';
ANALYZE t;
CREATE RULE twice AS ON INSERT TO t WHERE NEW.k = 8 DO INSTEAD INSERT INTO keyed VALUES (NEW.k, NEW.v, 1);
INSERT INTO t (k, v, b) VALUES (8, 800, 'x');
DROP RULE twice ON t;
CREATE STATISTICS t_stats ON k, v FROM t;
ALTER TABLE t OWNER TO CURRENT_USER;
CALL settle('p', 'few', 'added', 'generated');

-- What the query calls, and what it calls values
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TABLE moods (id int, m mood, v int);
ALTER TABLE moods REPLICA IDENTITY FULL;
INSERT INTO moods SELECT i, (ARRAY['sad', 'glad']::mood[])[i % 3], i FROM generate_series(1, 9) i;
CREATE FUNCTION grade(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 % 2';
CREATE FUNCTION add_grade(int, int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 + $2; END';
CREATE AGGREGATE total(int) (SFUNC = add_grade, STYPE = int, INITCOND = '0');
CREATE FUNCTION near(int, int) RETURNS boolean LANGUAGE sql IMMUTABLE RETURN abs($1 - $2) < 3;
CREATE OPERATOR <~> (LEFTARG = int, RIGHTARG = int, FUNCTION = near);
SELECT incbatch.create_pipeline('graded', 'SELECT grade(v) AS g, count(*), sum(v) FROM moods GROUP BY 1');
SELECT incbatch.create_pipeline('nearby', 'SELECT m, count(*), sum(v) FROM moods WHERE v <~> 5 GROUP BY 1');
SELECT incbatch.create_pipeline('labels', 'SELECT m::text AS label, count(*), total(v) FROM moods GROUP BY 1');
CALL settle('graded', 'nearby', 'labels');
ALTER FUNCTION grade(int) RENAME TO graded_by;
ALTER FUNCTION graded_by(int) COST 5;
CREATE OR REPLACE FUNCTION graded_by(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 % 2';
INSERT INTO moods VALUES (10, 'sad', 6);
CALL settle('graded', 'nearby', 'labels');
CREATE OR REPLACE FUNCTION graded_by(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 % 3';
CALL settle('graded', 'nearby', 'labels');
BEGIN;
INSERT INTO moods VALUES (11, 'glad', 7);
CREATE OR REPLACE FUNCTION near(int, int) RETURNS boolean LANGUAGE sql IMMUTABLE RETURN abs($1 - $2) < 5;
ROLLBACK;
DELETE FROM moods WHERE id = 10;
CALL settle('graded', 'nearby', 'labels');
-- while nobody looks
SELECT incbatch.pause_pipeline('nearby');
CREATE OR REPLACE FUNCTION near(int, int) RETURNS boolean LANGUAGE sql IMMUTABLE RETURN abs($1 - $2) < 5;
SELECT incbatch.resume_pipeline('nearby');
CALL settle('graded', 'nearby', 'labels');
ALTER TYPE mood ADD VALUE 'mad' BEFORE 'glad';
INSERT INTO moods VALUES (12, 'mad', 8);
CALL settle('graded', 'nearby', 'labels');
ALTER TYPE mood RENAME VALUE 'glad' TO 'happy';
CALL settle('graded', 'nearby', 'labels');
CREATE OR REPLACE FUNCTION add_grade(int, int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 + 2 * $2; END';
CALL settle('graded', 'nearby', 'labels');

-- Names that values bring along: labels of an enum, fields of a row type
CREATE TYPE address AS (city text, zip int);
CREATE TABLE homes (id int, m mood, ms mood[], a address);
ALTER TABLE homes REPLICA IDENTITY FULL;
INSERT INTO homes VALUES (1, 'sad', '{sad}', '(c0,0)'), (2, 'mad', '{sad,mad}', '(c1,1)');
SELECT incbatch.create_pipeline(name, query)
FROM (VALUES ('many', 'SELECT ms::text AS x, count(*) FROM homes GROUP BY 1'),
             ('joined', 'SELECT m || ''!'' AS x, count(*) FROM homes GROUP BY 1'),
             ('listed', 'SELECT id, jsonb_agg(m ORDER BY id) AS x FROM homes GROUP BY 1'),
             ('in_row', 'SELECT row_to_json(row(m, 1))::text AS x, count(*) FROM homes GROUP BY 1'),
             ('in_subquery', 'SELECT (SELECT to_jsonb(s) FROM (SELECT h.m, 1 AS one) s) AS x, count(*) FROM homes h GROUP BY 1'),
             ('compared', 'SELECT m > ''sad'' AS x, count(*), max(m) FROM homes GROUP BY 1'),
             ('fields', 'SELECT to_jsonb(a) AS x, count(*) FROM homes GROUP BY 1'),
             ('plain', 'SELECT a AS x, count(*) FROM homes GROUP BY 1')) AS q (name, query);
CALL settle('many', 'joined', 'listed', 'in_row', 'in_subquery', 'compared', 'fields', 'plain');
ALTER TYPE mood RENAME VALUE 'mad' TO 'angry';
INSERT INTO homes VALUES (3, 'angry', '{angry}', '(c0,0)');
CALL settle('many', 'joined', 'listed', 'in_row', 'in_subquery', 'compared', 'fields', 'plain');
ALTER TYPE address RENAME ATTRIBUTE city TO town;
INSERT INTO homes VALUES (4, 'sad', '{sad}', '(c0,0)');
CALL settle('many', 'joined', 'listed', 'in_row', 'in_subquery', 'compared', 'fields', 'plain');

-- Policies that hide rows from the pipeline's owner
CREATE ROLE regress_incbatch_reader IN ROLE incbatch_user;
GRANT USAGE, CREATE ON SCHEMA schema_change TO regress_incbatch_reader;
GRANT SELECT ON moods TO regress_incbatch_reader;
SET ROLE regress_incbatch_reader;
SELECT incbatch.create_pipeline('read', 'SELECT v % 2 AS odd, count(*) FROM moods GROUP BY 1');
RESET ROLE;
CALL exact('read');
ALTER TABLE moods ENABLE ROW LEVEL SECURITY;
INSERT INTO moods VALUES (13, 'sad', 9);
CALL incbatch.refresh_pipeline('read');
CALL settle('graded');
ALTER TABLE moods DISABLE ROW LEVEL SECURITY;
SELECT incbatch.resume_pipeline('read');
CALL exact('read');

-- A pipeline made while a large transaction is open, for which the WAL is read
-- again: from before the source had its shape, and its old rows were told
CREATE TABLE shapes (k int, v int);
INSERT INTO shapes VALUES (1, 1), (2, 2);
DELETE FROM shapes WHERE k = 2;
ALTER TABLE shapes REPLICA IDENTITY FULL, ADD COLUMN added int DEFAULT 5;
BEGIN;
INSERT INTO shapes SELECT i % 3, i FROM generate_series(1, 5000) i;
PREPARE TRANSACTION 'large';
CALL incbatch.refresh_pipeline('p');
SELECT incbatch.create_pipeline('late', 'SELECT k, added, count(*), sum(v) FROM shapes GROUP BY 1, 2');
CALL exact('late');
COMMIT PREPARED 'large';
UPDATE shapes SET added = 6 WHERE v % 5 = 0;
CALL exact('late');

SET client_min_messages = warning;
DROP OWNED BY regress_incbatch_reader;
DROP ROLE regress_incbatch_reader;
DROP TABLE moods CASCADE;
DROP TABLE homes CASCADE;
DROP TABLE t CASCADE;
DROP TABLE keyed CASCADE;
DROP TABLE shapes CASCADE;
SELECT pipeline FROM incbatch.pipelines;
DROP SCHEMA schema_change, schema_change_other CASCADE;
