--
-- Every way in which a pipeline, what it reads, or the extension is dropped
--
CREATE SCHEMA "drop";
SET search_path = "drop", public;
CREATE TABLE t (id int PRIMARY KEY, k int, v int);
ALTER TABLE t REPLICA IDENTITY FULL;
CREATE TABLE l (k int PRIMARY KEY, name text);
INSERT INTO t SELECT i, i % 3, i FROM generate_series(1, 9) i;
CREATE VIEW left_over AS
SELECT (SELECT count(*) FROM incbatch.pipeline) AS pipelines,
       (SELECT count(*) FROM incbatch.path) AS paths,
       (SELECT count(*) FROM incbatch.frontier) AS frontiers,
       (SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class
        WHERE relnamespace = '"drop"'::regnamespace AND relname LIKE 'p%' AND relkind <> 'i') AS relations;
-- When the last pipeline is gone, the worker drops the slot and goes.
CREATE PROCEDURE public.wait_for_no_slot() LANGUAGE plpgsql AS $$
DECLARE
	started timestamptz := clock_timestamp();
BEGIN
	LOOP
		PERFORM FROM pg_replication_slots WHERE slot_name LIKE 'incbatch%' AND database = current_database();
		EXIT WHEN NOT FOUND OR clock_timestamp() > started + '30 s';
		COMMIT;
	END LOOP;
	RAISE INFO 'slots: %', (SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'incbatch%' AND database = current_database());
END $$;

-- ---------------------------------------------------------------------
-- The relations of a pipeline
-- ---------------------------------------------------------------------
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k');
CALL exact('p');
DROP TABLE p_state;
DROP VIEW p_batch;
CALL exact('p');
DROP VIEW p;
TABLE left_over;
CALL wait_for_no_slot();

-- what somebody built on it keeps it
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k');
CREATE VIEW dashboard AS SELECT sum(count) FROM p;
DROP VIEW p;
SELECT incbatch.drop_pipeline('p');
DROP VIEW p CASCADE;
TABLE left_over;
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k');
DROP TABLE p_state CASCADE;
TABLE left_over;
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k');
CREATE VIEW dashboard AS SELECT sum(count) FROM p;
DROP VIEW p_batch CASCADE;
TABLE left_over;

-- before the worker has seen it, and undone
BEGIN;
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k');
SELECT incbatch.drop_pipeline('p');
SELECT incbatch.create_pipeline('p', 'SELECT k, sum(v) FROM t GROUP BY k');
COMMIT;
CALL exact('p');
BEGIN;
SELECT incbatch.drop_pipeline('p');
INSERT INTO t VALUES (10, 1, 10);
ROLLBACK;
INSERT INTO t VALUES (11, 1, 11);
CALL exact('p');
BEGIN;
INSERT INTO t VALUES (12, 1, 12);
DROP VIEW p;
SELECT incbatch.create_pipeline('p', 'SELECT k, max(v) FROM t GROUP BY k');
INSERT INTO t VALUES (13, 1, 13);
COMMIT;
CALL exact('p');

-- ---------------------------------------------------------------------
-- What it reads
-- ---------------------------------------------------------------------
SELECT incbatch.create_pipeline('p2', 'SELECT name, count(*) FROM t JOIN l USING (k) GROUP BY name');
CREATE VIEW dashboard AS SELECT sum(count) FROM p2;
CALL exact('p2');
DROP TABLE t;
DROP TABLE l;
DROP TABLE l CASCADE;
TABLE left_over;
BEGIN;
UPDATE t SET v = v + 1;
DROP TABLE t CASCADE;
COMMIT;
TABLE left_over;
CREATE TABLE t (id int PRIMARY KEY, k int, v int);
ALTER TABLE t REPLICA IDENTITY FULL;
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k');
SELECT incbatch.create_pipeline('p2', 'SELECT v, count(*) FROM t GROUP BY v');
CALL exact('p');
ALTER TABLE t DROP COLUMN k CASCADE;
TABLE left_over;
INSERT INTO t VALUES (1, 1);
CALL exact('p2');

-- ---------------------------------------------------------------------
-- Schemas and owners
-- ---------------------------------------------------------------------
CREATE SCHEMA drop_other;
SELECT incbatch.create_pipeline('drop_other.p3', 'SELECT v, sum(id) FROM t GROUP BY v');
CALL exact('drop_other.p3');
BEGIN;
INSERT INTO t VALUES (2, 2);
DROP SCHEMA drop_other;
ROLLBACK;
SET client_min_messages = warning;
BEGIN;
INSERT INTO t VALUES (2, 2);
DROP SCHEMA drop_other CASCADE;
COMMIT;
RESET client_min_messages;
TABLE left_over;
CREATE ROLE regress_incbatch_leaver IN ROLE incbatch_user;
GRANT USAGE, CREATE ON SCHEMA "drop" TO regress_incbatch_leaver;
GRANT SELECT ON t TO regress_incbatch_leaver;
SET ROLE regress_incbatch_leaver;
SELECT incbatch.create_pipeline('p4', 'SELECT v, count(*) FROM t GROUP BY v');
RESET ROLE;
CALL exact('p4');
DROP ROLE regress_incbatch_leaver;
BEGIN;
INSERT INTO t VALUES (3, 3);
DROP OWNED BY regress_incbatch_leaver;
COMMIT;
TABLE left_over;
CALL exact('p2');
-- one that somebody else takes over
GRANT USAGE, CREATE ON SCHEMA "drop" TO regress_incbatch_leaver;
GRANT SELECT ON t TO regress_incbatch_leaver;
SET ROLE regress_incbatch_leaver;
SELECT incbatch.create_pipeline('p4', 'SELECT v, count(*) FROM t GROUP BY v');
RESET ROLE;
REASSIGN OWNED BY regress_incbatch_leaver TO CURRENT_USER;
DROP OWNED BY regress_incbatch_leaver;
DROP ROLE regress_incbatch_leaver;
DELETE FROM t WHERE id = 1;
CALL exact('p4');
SELECT owner = current_user AS mine FROM incbatch.pipelines WHERE pipeline = 'p4';

-- ---------------------------------------------------------------------
-- The extension
-- ---------------------------------------------------------------------
DROP VIEW left_over;
DROP EXTENSION incbatch;
BEGIN;
SET LOCAL client_min_messages = warning;
DROP SCHEMA incbatch CASCADE;
ROLLBACK;
BEGIN;
SET LOCAL client_min_messages = warning;
DROP EXTENSION incbatch CASCADE;
ROLLBACK;
INSERT INTO t VALUES (20, 20);
CALL exact('p2');
DROP EXTENSION incbatch CASCADE;
CALL wait_for_no_slot();
SELECT relname FROM pg_class WHERE relnamespace = '"drop"'::regnamespace ORDER BY 1;
-- (the schema stays, as with every extension that names one; it is empty)
SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'incbatch'::regnamespace) AS relations,
       (SELECT count(*) FROM pg_proc WHERE pronamespace = 'incbatch'::regnamespace) AS functions,
       (SELECT count(*) FROM pg_event_trigger) AS triggers;
INSERT INTO t VALUES (21, 21);

-- and again
CREATE EXTENSION incbatch;
SELECT incbatch.create_pipeline('p', 'SELECT v, count(*) FROM t GROUP BY v');
CALL exact('p');
SELECT count(*) FROM p;
-- what is dropped and made again in one transaction
BEGIN;
SET LOCAL client_min_messages = warning;
DROP EXTENSION incbatch CASCADE;
CREATE EXTENSION incbatch;
SELECT incbatch.create_pipeline('p', 'SELECT v, count(*), min(id) FROM t GROUP BY v');
COMMIT;
CALL exact('p');
DELETE FROM t WHERE id < 20;
CALL exact('p');
SELECT incbatch.drop_pipeline('p');

DROP PROCEDURE public.wait_for_no_slot();
RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA "drop" CASCADE;
