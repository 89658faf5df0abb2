--
-- Every way in which rows of a source change, and what each replica identity
-- tells of it
--
CREATE SCHEMA changes;
SET search_path = changes, public;
CREATE TABLE t (id int PRIMARY KEY, k text, v int, note text);
ALTER TABLE t REPLICA IDENTITY FULL;
SELECT incbatch.create_pipeline('p', $$
	SELECT k, count(*), sum(v), min(v), max(v), max(note) AS note FROM t WHERE v IS DISTINCT FROM -1 GROUP BY k
$$);

-- ---------------------------------------------------------------------
-- Statements
-- ---------------------------------------------------------------------
INSERT INTO t SELECT i, 'k' || i % 3, i, 'note' FROM generate_series(1, 20) i;
CALL exact('p');
COPY t FROM stdin;
21	k0	21	copied
22	k3	22	\N
23	\N	\N	copied
\.
CALL exact('p');
SELECT * FROM p ORDER BY k;
INSERT INTO t VALUES (1, 'k9', 1, 'new'), (24, 'k9', 24, 'new') ON CONFLICT DO NOTHING;
CALL exact('p');
INSERT INTO t VALUES (1, 'k9', 1, 'new'), (25, 'k9', 25, 'new')
ON CONFLICT (id) DO UPDATE SET k = excluded.k, v = t.v + 100;
CALL exact('p');
MERGE INTO t USING (SELECT i, i * 10 AS v FROM generate_series(15, 30) i) s ON s.i = t.id
WHEN MATCHED AND t.id < 18 THEN DELETE
WHEN MATCHED AND t.id < 22 THEN UPDATE SET v = s.v
WHEN MATCHED THEN DO NOTHING
WHEN NOT MATCHED THEN INSERT VALUES (s.i, 'merged', s.v, NULL);
CALL exact('p');
WITH moved AS (DELETE FROM t WHERE id BETWEEN 2 AND 4 RETURNING *)
INSERT INTO t SELECT id + 100, k || '+', v, note FROM moved;
CALL exact('p');
UPDATE t SET id = id + 1000, v = v WHERE k = 'k1';
UPDATE t SET v = CASE WHEN v = -1 THEN 7 ELSE -1 END WHERE id % 2 = 0;
CALL exact('p');
UPDATE t SET v = CASE WHEN v = -1 THEN 7 ELSE -1 END;
CALL exact('p');
SELECT * FROM p ORDER BY k;

-- ---------------------------------------------------------------------
-- Transactions: what was rolled back, savepoints, prepared ones
-- ---------------------------------------------------------------------
BEGIN;
INSERT INTO t VALUES (200, 'never', 1, NULL);
UPDATE t SET v = 0;
DELETE FROM t WHERE id % 2 = 0;
ROLLBACK;
CALL exact('p');
BEGIN;
INSERT INTO t VALUES (201, 's', 1, 'top');
SAVEPOINT a;
INSERT INTO t VALUES (202, 's', 2, 'a');
SAVEPOINT b;
UPDATE t SET v = v * 10 WHERE k = 's';
ROLLBACK TO b;
UPDATE t SET v = v * 100 WHERE k = 's';
RELEASE a;
SAVEPOINT c;
DELETE FROM t WHERE k = 's';
SAVEPOINT d;
TRUNCATE t;
ROLLBACK TO c;
INSERT INTO t VALUES (203, 's', 3, 'c');
COMMIT;
CALL exact('p');
SELECT * FROM p WHERE k = 's';
BEGIN;
INSERT INTO t VALUES (301, 'two phases', 1, NULL);
DELETE FROM t WHERE k = 's';
PREPARE TRANSACTION 'regress_incbatch_a';
BEGIN;
INSERT INTO t VALUES (302, 'never', 1, NULL);
PREPARE TRANSACTION 'regress_incbatch_b';
CALL exact('p');
SELECT k FROM p WHERE k IN ('two phases', 's', 'never') ORDER BY k;
COMMIT PREPARED 'regress_incbatch_a';
CALL exact('p');
ROLLBACK PREPARED 'regress_incbatch_b';
CALL exact('p');
SELECT k FROM p WHERE k IN ('two phases', 's', 'never') ORDER BY k;

-- ---------------------------------------------------------------------
-- TRUNCATE
-- ---------------------------------------------------------------------
TRUNCATE t;
CALL exact('p');
TABLE p;
INSERT INTO t VALUES (1, 'before', 1, NULL);
CALL exact('p');
BEGIN;
INSERT INTO t VALUES (2, 'before', 2, NULL);
TRUNCATE t;
INSERT INTO t VALUES (3, 'after', 3, NULL);
UPDATE t SET v = 4;
COMMIT;
INSERT INTO t VALUES (4, 'after', 5, NULL);
CALL exact('p');
SELECT * FROM p;
BEGIN;
TRUNCATE t;
INSERT INTO t VALUES (5, 'x', 1, NULL);
TRUNCATE t;
INSERT INTO t VALUES (6, 'y', 1, NULL);
SAVEPOINT s;
TRUNCATE t;
ROLLBACK TO s;
DELETE FROM t;
INSERT INTO t VALUES (7, 'y', 1, NULL);
COMMIT;
CALL exact('p');
BEGIN; TRUNCATE t; ROLLBACK;
CALL exact('p');
CREATE TABLE child (t_id int REFERENCES t);
TRUNCATE t RESTART IDENTITY CASCADE;
INSERT INTO t VALUES (8, 'z', 1, NULL);
CALL exact('p');
DROP TABLE child;

-- Rewrites that keep the rows are none of our business.
INSERT INTO t SELECT i, 'k' || i % 5, i, NULL FROM generate_series(100, 400) i;
VACUUM FULL t;
CLUSTER t USING t_pkey;
CALL exact('p');

-- ---------------------------------------------------------------------
-- More than fits into memory
-- ---------------------------------------------------------------------
ALTER SYSTEM SET incbatch.work_mem = '64kB';
SELECT pg_reload_conf();
INSERT INTO t SELECT i, 'k' || i % 50, i, repeat('x', 100) FROM generate_series(1000, 6000) i;
UPDATE t SET v = v + 1, k = 'k' || (v + 3) % 40 WHERE id BETWEEN 1000 AND 4000;
CALL exact('p');
DELETE FROM t WHERE id > 1000 AND id % 3 > 0;
UPDATE t SET v = 5 WHERE id > 5000;
TRUNCATE t;
INSERT INTO t SELECT i, 'k' || i % 50, i, repeat('x', 100) FROM generate_series(1, 3000) i;
DELETE FROM t WHERE id > 2900;
CALL exact('p');
DO $$
BEGIN
	FOR i IN 1 .. 300 LOOP
		UPDATE t SET v = v + 10 WHERE id % 300 = i;
		COMMIT;
	END LOOP;
END $$;
CALL exact('p');
SELECT count(*), sum(count), sum(sum) FROM p;
ALTER SYSTEM RESET incbatch.work_mem;
SELECT pg_reload_conf();

-- ---------------------------------------------------------------------
-- Values stored out of line, which an UPDATE of another column leaves out
-- ---------------------------------------------------------------------
CREATE FUNCTION long(seed text) RETURNS text LANGUAGE sql IMMUTABLE
RETURN repeat(md5(seed), 320);
CREATE TABLE toasted (id int PRIMARY KEY, k text, f text, a text, v int);
ALTER TABLE toasted REPLICA IDENTITY FULL;
ALTER TABLE toasted ALTER k SET STORAGE EXTERNAL, ALTER f SET STORAGE EXTERNAL, ALTER a SET STORAGE EXTERNAL;
SELECT incbatch.create_pipeline('by_toasted', $$
	SELECT left(k, 8) AS k8, md5(k) AS whole, count(*), sum(v), sum(length(a)) AS length, max(a) AS longest,
	       count(*) FILTER (WHERE f LIKE '%b%') AS filtered
	FROM toasted WHERE length(f) > 100 GROUP BY 1, 2
$$);
INSERT INTO toasted SELECT i, long(i % 2 || ''), long('f' || i), long('a' || i), i FROM generate_series(1, 6) i;
SELECT pg_column_size(k) > 10000 AS k, pg_column_size(f) > 10000 AS f, pg_column_size(a) > 10000 AS a FROM toasted WHERE id = 1;
CALL exact('by_toasted');
UPDATE toasted SET v = v + 100;
CALL exact('by_toasted');
UPDATE toasted SET a = long('other') WHERE id = 1;
UPDATE toasted SET k = long('moved') WHERE id = 2;
UPDATE toasted SET f = 'short' WHERE id = 3;
UPDATE toasted SET a = NULL, v = 0 WHERE id = 4;
CALL exact('by_toasted');
UPDATE toasted SET v = v + 1;
DELETE FROM toasted WHERE id IN (1, 5);
CALL exact('by_toasted');
SELECT count, sum, length, filtered FROM by_toasted ORDER BY 1, 2;
-- a key that is long itself
CREATE TABLE long_key (id int PRIMARY KEY, k text, v int);
ALTER TABLE long_key REPLICA IDENTITY FULL;
ALTER TABLE long_key ALTER k SET STORAGE EXTERNAL;
SELECT incbatch.create_pipeline('by_long_key', 'SELECT k, count(*), sum(v) FROM long_key GROUP BY k');
INSERT INTO long_key SELECT i, left(long(i % 2 || ''), 2500), i FROM generate_series(1, 4) i;
UPDATE long_key SET v = v + 1;
CALL exact('by_long_key');
SELECT length(k), count, sum FROM by_long_key ORDER BY 3;

-- ---------------------------------------------------------------------
-- A replica identity that covers what the query reads
-- ---------------------------------------------------------------------
CREATE TABLE covered (id int NOT NULL, k text NOT NULL, v int NOT NULL, other text);
CREATE UNIQUE INDEX covering ON covered (v, k, id);
ALTER TABLE covered REPLICA IDENTITY USING INDEX covering;
SELECT incbatch.create_pipeline('by_index', 'SELECT k, count(*), sum(v), max(v) FROM covered GROUP BY k');
INSERT INTO covered SELECT i, 'k' || i % 3, i, 'other' FROM generate_series(1, 10) i;
CALL exact('by_index');
UPDATE covered SET other = 'changed';
UPDATE covered SET v = v + 1 WHERE id % 2 = 0;
UPDATE covered SET k = 'moved' WHERE id = 10;
DELETE FROM covered WHERE id IN (1, 9);
CALL exact('by_index');
SELECT * FROM by_index ORDER BY k;
CREATE TABLE keyed (k int, id int, v int, PRIMARY KEY (k, id));
SELECT incbatch.create_pipeline('by_key', 'SELECT k, count(*), max(id) FROM keyed GROUP BY k');
INSERT INTO keyed SELECT i % 2, i, i FROM generate_series(1, 6) i;
UPDATE keyed SET v = 0;
UPDATE keyed SET k = 5 WHERE id = 6;
DELETE FROM keyed WHERE id = 1;
CALL exact('by_key');
SELECT * FROM by_key ORDER BY k;

-- ---------------------------------------------------------------------
-- append_only: deletes by retention are ignored; an UPDATE is not.
-- ---------------------------------------------------------------------
CREATE TABLE log (id int, k text, v int);
SELECT incbatch.create_pipeline('logged', 'SELECT k, count(*), sum(v), max(v) FROM log GROUP BY k', append_only => true);
INSERT INTO log SELECT i, 'k' || i % 2, i FROM generate_series(1, 6) i;
CALL exact('logged');
DELETE FROM log WHERE id < 4;
CALL incbatch.refresh_pipeline('logged');
SELECT * FROM logged ORDER BY k;
TRUNCATE log;
INSERT INTO log VALUES (7, 'k1', 7);
CALL incbatch.refresh_pipeline('logged');
SELECT * FROM logged ORDER BY k;
UPDATE log SET v = 8;
CALL incbatch.refresh_pipeline('logged');
SELECT state, last_error FROM incbatch.pipelines WHERE pipeline = 'logged';
SELECT * FROM logged ORDER BY k;
SELECT incbatch.rebuild_pipeline('logged');
CALL exact('logged');

-- ---------------------------------------------------------------------
-- A replica identity that is taken away: never a wrong total, and nobody's
-- statement fails
-- ---------------------------------------------------------------------
CREATE TABLE fading (id int PRIMARY KEY, k text, v int);
ALTER TABLE fading REPLICA IDENTITY FULL;
INSERT INTO fading SELECT i, 'k' || i % 2, i FROM generate_series(1, 6) i;
SELECT incbatch.create_pipeline('faded', 'SELECT k, count(*), sum(v) FROM fading GROUP BY k');
CALL exact('faded');
ALTER TABLE fading REPLICA IDENTITY NOTHING;
INSERT INTO fading VALUES (7, 'k1', 7);
CALL exact('faded');
DELETE FROM fading WHERE id = 1;
CALL incbatch.refresh_pipeline('faded');
SELECT state, last_error FROM incbatch.pipelines WHERE pipeline = 'faded';
SELECT * FROM faded ORDER BY k;
SELECT status FROM incbatch.lag WHERE pipeline = 'faded';
ALTER TABLE fading REPLICA IDENTITY FULL;
SELECT incbatch.rebuild_pipeline('faded');
CALL exact('faded');
UPDATE fading SET v = v + 1;
CALL exact('faded');
ALTER TABLE fading REPLICA IDENTITY DEFAULT;
UPDATE fading SET v = v + 1 WHERE id = 2;
CALL incbatch.refresh_pipeline('faded');
SELECT state, last_error FROM incbatch.pipelines WHERE pipeline = 'faded';
-- to and fro within one transaction
ALTER TABLE fading REPLICA IDENTITY FULL;
SELECT incbatch.rebuild_pipeline('faded');
CALL exact('faded');
BEGIN;
UPDATE fading SET v = v + 1 WHERE id = 2;
ALTER TABLE fading REPLICA IDENTITY DEFAULT;
UPDATE fading SET v = v + 1 WHERE id = 3;
ALTER TABLE fading REPLICA IDENTITY FULL;
UPDATE fading SET v = v + 1 WHERE id = 4;
COMMIT;
CALL incbatch.refresh_pipeline('faded');
SELECT state, last_error FROM incbatch.pipelines WHERE pipeline = 'faded';
SELECT incbatch.rebuild_pipeline('faded');
CALL exact('faded');

-- what then arrives is a key without the rest, not a row of NULL
INSERT INTO fading VALUES (8, NULL, NULL);
CALL exact('faded');
BEGIN;
UPDATE fading SET v = v + 1 WHERE id = 2;
ALTER TABLE fading REPLICA IDENTITY DEFAULT;
DELETE FROM fading WHERE id = 3;
ALTER TABLE fading REPLICA IDENTITY FULL;
COMMIT;
CALL incbatch.refresh_pipeline('faded');
SELECT state, last_error FROM incbatch.pipelines WHERE pipeline = 'faded';
SELECT incbatch.rebuild_pipeline('faded');
CALL exact('faded');

-- The other pipelines never noticed.
SELECT pipeline, state FROM incbatch.pipelines ORDER BY 1;

SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;
SET client_min_messages = warning;
DROP SCHEMA changes CASCADE;
