--
-- Large transactions, which the worker reads in chunks while they are under
-- way (test/server.conf makes a few thousand rows large)
--
CREATE SCHEMA large;
SET search_path = large, public;
CREATE TABLE t (id int PRIMARY KEY, k text, v int, note text);
ALTER TABLE t REPLICA IDENTITY FULL;
CREATE TABLE other (id int PRIMARY KEY, k text, v int);
ALTER TABLE other REPLICA IDENTITY FULL;
SELECT incbatch.create_pipeline('p', $$
	SELECT k, count(*), sum(v), min(v), max(v), max(note) AS note FROM t WHERE v IS DISTINCT FROM -1 GROUP BY k
$$, trigger_interval => '1 hour');
SELECT incbatch.create_pipeline('p_sum', 'SELECT v % 7 AS m, count(*), sum(id) FROM t GROUP BY 1', trigger_interval => '1 hour');
SELECT incbatch.create_pipeline('p_other', 'SELECT k, count(*), sum(v) FROM other GROUP BY k', trigger_interval => '1 hour');
CALL exact('p');
CALL exact('p_sum');
CALL exact('p_other');

-- Whether at least so many transactions came in chunks since the last call.
-- What the server counts may be seen late, hence the loop.
SET statement_timeout = '5min';
CREATE TABLE seen (slot text, streamed bigint);
CREATE FUNCTION streamed(wanted bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	now seen;
	before bigint;
BEGIN
	LOOP
		PERFORM pg_stat_clear_snapshot();
		SELECT slot_name, stream_txns INTO now
		FROM pg_stat_replication_slots JOIN pg_replication_slots USING (slot_name)
		WHERE database = current_database() AND plugin = 'incbatch';
		SELECT streamed INTO before FROM seen WHERE slot = now.slot;
		EXIT WHEN now.streamed >= coalesce(before, 0) + wanted;
	END LOOP;
	DELETE FROM seen;
	INSERT INTO seen SELECT now.*;
	RETURN true;
END
$$;

-- So many rows from the first id on; then every third is updated and every
-- seventh deleted.
CREATE PROCEDURE churn(first int, rows int) LANGUAGE sql AS $$
	INSERT INTO t SELECT i, 'k' || i % 40, i, 'note ' || i % 11 FROM generate_series(first, first + rows - 1) i;
	UPDATE t SET v = v + 1, k = 'k' || (v + 3) % 45 WHERE id BETWEEN first AND first + rows - 1 AND id % 3 = 0;
	DELETE FROM t WHERE id BETWEEN first AND first + rows - 1 AND id % 7 = 0;
$$;

-- ---------------------------------------------------------------------
-- Statements
-- ---------------------------------------------------------------------
-- not large
INSERT INTO t SELECT i, 'small', i, NULL FROM generate_series(1, 10) i;
CALL exact('p');
SELECT streamed(0);
-- large
INSERT INTO t SELECT i, 'k' || i % 50, i, 'note' FROM generate_series(1001, 6000) i;
CALL exact('p');
CALL exact('p_sum');
SELECT streamed(1);
SELECT count(*), sum(count), sum(sum) FROM p;
UPDATE t SET k = 'k' || id % 30, v = CASE WHEN id % 5 = 0 THEN -1 ELSE v + 1 END;
CALL exact('p');
CALL exact('p_sum');
SELECT streamed(1);
DELETE FROM t WHERE id > 1500;
CALL exact('p');
CALL exact('p_sum');
SELECT streamed(1);
-- what may be taken back while it is written
INSERT INTO t SELECT i, 'conflict', i, NULL FROM generate_series(1000, 5000) i
ON CONFLICT (id) DO UPDATE SET k = excluded.k, v = t.v + 1;
CALL exact('p');
CALL exact('p_sum');
SELECT streamed(1);
-- all at once, three tables of which one is nobody's source
CREATE TABLE unread (id int PRIMARY KEY, v int);
BEGIN;
CALL churn(20001, 2000);
INSERT INTO other SELECT i, 'k' || i % 20, i FROM generate_series(1, 4000) i;
INSERT INTO unread SELECT i, i FROM generate_series(1, 3000) i;
CALL churn(22001, 2000);
UPDATE other SET v = v + 1, k = 'k' || id % 21 WHERE id % 2 = 0;
DELETE FROM other WHERE id % 10 = 0;
COMMIT;
CALL exact('p');
CALL exact('p_sum');
CALL exact('p_other');
SELECT streamed(1);
-- of nobody's source only
INSERT INTO unread SELECT i, i FROM generate_series(3001, 9000) i;
CALL exact('p');
SELECT streamed(1);

-- ---------------------------------------------------------------------
-- What was rolled back
-- ---------------------------------------------------------------------
BEGIN;
CALL churn(30001, 4000);
TRUNCATE other;
ROLLBACK;
INSERT INTO t VALUES (100, 'after', 1, NULL);
CALL exact('p');
CALL exact('p_sum');
CALL exact('p_other');
-- an error, and after it the same rows once more
BEGIN;
CALL churn(30001, 4000);
SELECT 1 / 0;
COMMIT;
CALL churn(30001, 4000);
CALL exact('p');
CALL exact('p_sum');
SELECT streamed(1);

-- ---------------------------------------------------------------------
-- Savepoints
-- ---------------------------------------------------------------------
-- large on every level
BEGIN;
CALL churn(40001, 3000);
SAVEPOINT a;
CALL churn(43001, 3000);
SAVEPOINT b;
CALL churn(46001, 3000);
DELETE FROM t WHERE id < 42000;
ROLLBACK TO b;
CALL churn(49001, 3000);
RELEASE a;
SAVEPOINT c;
CALL churn(52001, 3000);
SAVEPOINT d;
CALL churn(55001, 3000);
RELEASE d;
UPDATE t SET v = 0;
ROLLBACK TO c;
CALL churn(58001, 3000);
COMMIT;
CALL exact('p');
CALL exact('p_sum');
SELECT streamed(1);
SELECT (SELECT sum(count) FROM p) = (SELECT count(*) FROM t WHERE v IS DISTINCT FROM -1) AS same, count(*) FROM t;
-- many small ones in a large one, half of them rolled back
BEGIN;
DO $$
BEGIN
	FOR i IN 1 .. 400 LOOP
		BEGIN
			INSERT INTO t SELECT i * 100 + j + 100000, 'many' || i % 5, j, NULL FROM generate_series(1, 20) j;
			BEGIN
				UPDATE t SET v = v + 1 WHERE id BETWEEN i * 100 + 100000 AND i * 100 + 100010;
				IF i % 3 = 0 THEN RAISE 'inner'; END IF;
			EXCEPTION WHEN raise_exception THEN NULL;
			END;
			INSERT INTO other VALUES (i + 10000, 'many', i);
			IF i % 2 = 0 THEN RAISE 'outer'; END IF;
		EXCEPTION WHEN raise_exception THEN NULL;
		END;
	END LOOP;
END $$;
COMMIT;
CALL exact('p');
CALL exact('p_sum');
CALL exact('p_other');
SELECT streamed(1);
-- nothing left of a large one, but for a row before and a row behind
BEGIN;
INSERT INTO t VALUES (101, 'left', 1, NULL);
SAVEPOINT a;
CALL churn(62001, 4000);
ROLLBACK TO a;
INSERT INTO t VALUES (102, 'left', 2, NULL);
COMMIT;
CALL exact('p');
CALL exact('p_sum');
SELECT streamed(0);
SELECT * FROM p WHERE k = 'left';
-- nor of one at all
BEGIN;
SAVEPOINT a;
CALL churn(62001, 4000);
ROLLBACK TO a;
COMMIT;
CALL exact('p');
CALL exact('p_sum');

-- What was handed over while it was under way, and then rolled back: what no
-- memory was large enough for before all of it was there
CREATE TABLE document (id int PRIMARY KEY, k text, body text);
ALTER TABLE document REPLICA IDENTITY FULL;
ALTER TABLE document ALTER body SET STORAGE EXTERNAL;
SELECT incbatch.create_pipeline('p_document', 'SELECT k, count(*), sum(id) FROM document GROUP BY k', trigger_interval => '1 hour');
CALL exact('p_document');
SELECT streamed(0);
BEGIN;
INSERT INTO document VALUES (1, 'stays', '');
SAVEPOINT a;
INSERT INTO document VALUES (2, 'goes', repeat('x', 12000000));
SELECT streamed(1);
ROLLBACK TO a;
INSERT INTO document VALUES (3, 'stays', '');
COMMIT;
CALL exact('p_document');
SELECT * FROM p_document;
-- and what could not have been folded in
SELECT streamed(0);
BEGIN;
INSERT INTO document VALUES (4, 'stays', '');
SAVEPOINT a;
ALTER TABLE document REPLICA IDENTITY NOTHING;
DELETE FROM document;
INSERT INTO document SELECT i, 'goes', repeat('x', 100) FROM generate_series(5, 20000) i;
SELECT streamed(1);
ROLLBACK TO a;
DELETE FROM document WHERE id = 3;
INSERT INTO document VALUES (5, 'stays', '');
COMMIT;
CALL exact('p_document');
SELECT * FROM p_document;

-- ---------------------------------------------------------------------
-- TRUNCATE
-- ---------------------------------------------------------------------
SELECT streamed(0);
BEGIN;
CALL churn(70001, 3000);
TRUNCATE t;
CALL churn(73001, 3000);
COMMIT;
CALL exact('p');
CALL exact('p_sum');
SELECT streamed(1);
SELECT count(*), sum(count), sum(sum) FROM p;
BEGIN;
CALL churn(80001, 3000);
SAVEPOINT a;
CALL churn(83001, 3000);
TRUNCATE t, other;
CALL churn(86001, 3000);
ROLLBACK TO a;
CALL churn(89001, 3000);
COMMIT;
CALL exact('p');
CALL exact('p_sum');
CALL exact('p_other');
SELECT streamed(1);
-- the second one is rolled back, the first is not
BEGIN;
CALL churn(200001, 3000);
SAVEPOINT a;
TRUNCATE t, other;
RELEASE a;
CALL churn(203001, 3000);
SAVEPOINT b;
TRUNCATE t;
CALL churn(206001, 3000);
ROLLBACK TO b;
INSERT INTO other SELECT i, 'truncated', i FROM generate_series(1, 3000) i;
COMMIT;
CALL exact('p');
CALL exact('p_sum');
CALL exact('p_other');
SELECT streamed(1);
SELECT * FROM p_other;
-- and after it small ones in the same run
BEGIN;
CALL churn(210001, 3000);
TRUNCATE t;
COMMIT;
INSERT INTO t VALUES (1, 'small', 1, NULL), (2, 'small', 2, NULL);
DELETE FROM t WHERE id = 1;
CALL exact('p');
CALL exact('p_sum');
TABLE p;
SELECT streamed(1);

-- ---------------------------------------------------------------------
-- DDL of the source within it
-- ---------------------------------------------------------------------
BEGIN;
CALL churn(220001, 3000);
ALTER TABLE t ADD COLUMN more text DEFAULT 'more';
CALL churn(223001, 3000);
SAVEPOINT a;
ALTER TABLE t ADD COLUMN gone text DEFAULT 'gone';
CALL churn(226001, 3000);
ROLLBACK TO a;
ALTER TABLE t RENAME COLUMN note TO remark;
UPDATE t SET v = v + 1;
COMMIT;
ALTER TABLE t RENAME COLUMN remark TO note;
UPDATE t SET more = 'less', v = v + 1;
CALL exact('p');
CALL exact('p_sum');
SELECT streamed(2);

-- ---------------------------------------------------------------------
-- Two phases
-- ---------------------------------------------------------------------
BEGIN;
CALL churn(230001, 4000);
SAVEPOINT a;
DELETE FROM t;
ROLLBACK TO a;
PREPARE TRANSACTION 'regress_incbatch_large_a';
BEGIN;
INSERT INTO other SELECT i, 'never', i FROM generate_series(20001, 25000) i;
PREPARE TRANSACTION 'regress_incbatch_large_b';
INSERT INTO other VALUES (5000, 'between', 1);
CALL exact('p');
CALL exact('p_other');
SELECT streamed(2);
COMMIT PREPARED 'regress_incbatch_large_a';
CALL exact('p');
CALL exact('p_sum');
ROLLBACK PREPARED 'regress_incbatch_large_b';
CALL exact('p');
CALL exact('p_other');
SELECT * FROM p_other WHERE k IN ('between', 'never');

-- ---------------------------------------------------------------------
-- A pipeline that rests meanwhile
-- ---------------------------------------------------------------------
SELECT incbatch.pause_pipeline('p');
CALL churn(240001, 4000);
CALL exact('p_sum');
CALL churn(244001, 4000);
CALL exact('p_sum');
SELECT incbatch.resume_pipeline('p');
CALL exact('p');
CALL exact('p_sum');
BEGIN;
CALL churn(250001, 4000);
PREPARE TRANSACTION 'regress_incbatch_large_c';
SELECT incbatch.pause_pipeline('p');
CALL exact('p_sum');
COMMIT PREPARED 'regress_incbatch_large_c';
CALL exact('p_sum');
SELECT incbatch.resume_pipeline('p');
CALL exact('p');
-- prepared while it collects, rested, and committed when it does again
BEGIN;
CALL churn(260001, 4000);
PREPARE TRANSACTION 'regress_incbatch_large_d';
CALL exact('p');
SELECT incbatch.pause_pipeline('p');
CALL exact('p_sum');
SELECT incbatch.resume_pipeline('p');
INSERT INTO t VALUES (103, 'resumed', 1, NULL);
CALL exact('p');
COMMIT PREPARED 'regress_incbatch_large_d';
CALL exact('p');
CALL exact('p_sum');

-- ---------------------------------------------------------------------
-- More than fits into the worker's memory
-- ---------------------------------------------------------------------
ALTER SYSTEM SET incbatch.work_mem = '64kB';
SELECT pg_reload_conf();
CALL exact('p');
BEGIN;
CALL churn(300001, 4000);
SAVEPOINT a;
CALL churn(304001, 4000);
ROLLBACK TO a;
CALL churn(308001, 4000);
COMMIT;
INSERT INTO t VALUES (104, 'behind', 1, NULL);
CALL churn(312001, 4000);
CALL exact('p');
CALL exact('p_sum');
BEGIN;
CALL churn(320001, 4000);
TRUNCATE t;
CALL churn(324001, 4000);
COMMIT;
CALL exact('p');
CALL exact('p_sum');
SELECT streamed(1);
ALTER SYSTEM RESET incbatch.work_mem;
SELECT pg_reload_conf();

-- ---------------------------------------------------------------------
-- Values stored out of line
-- ---------------------------------------------------------------------
CREATE FUNCTION long(seed text) RETURNS text LANGUAGE sql IMMUTABLE
RETURN repeat(md5(seed), 320);
CREATE TABLE toasted (id int PRIMARY KEY, k text, a text, v int);
ALTER TABLE toasted REPLICA IDENTITY FULL;
ALTER TABLE toasted ALTER k SET STORAGE EXTERNAL, ALTER a SET STORAGE EXTERNAL;
SELECT incbatch.create_pipeline('by_toasted', $$
	SELECT left(k, 8) AS k8, md5(k) AS whole, count(*), sum(v), sum(length(a)) AS length, max(a) AS longest
	FROM toasted GROUP BY 1, 2
$$, trigger_interval => '1 hour');
CALL exact('by_toasted');
SELECT streamed(0);
INSERT INTO toasted SELECT i, long(i % 3 || ''), long('a' || i), i FROM generate_series(1, 150) i;
SELECT min(pg_column_size(k)) > 10000 AS k, min(pg_column_size(a)) > 10000 AS a FROM toasted;
CALL exact('by_toasted');
SELECT streamed(1);
BEGIN;
UPDATE toasted SET v = v + 1 WHERE id % 2 = 0;
UPDATE toasted SET a = long('new' || id) WHERE id % 3 = 0;
SAVEPOINT a;
UPDATE toasted SET k = long('never' || id % 2);
ROLLBACK TO a;
UPDATE toasted SET k = 'short' WHERE id % 5 = 0;
UPDATE toasted SET v = v + 1;
DELETE FROM toasted WHERE id % 7 = 0;
COMMIT;
CALL exact('by_toasted');
SELECT streamed(1);
SELECT count(*), sum(count), sum(sum), sum(length) FROM by_toasted;

SELECT pipeline, state, last_error FROM incbatch.pipelines ORDER BY 1;

SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;
SET client_min_messages = warning;
DROP SCHEMA large CASCADE;
