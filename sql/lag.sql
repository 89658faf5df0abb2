--
-- Lag: every status that can be shown without stopping a process (120_lag
-- stops them), and the latency percentiles
--
CREATE SCHEMA lag;
SET search_path = lag, public;
CREATE TABLE t (id int PRIMARY KEY, k text, v int);
ALTER TABLE t REPLICA IDENTITY FULL;
CREATE VIEW status AS
SELECT pipeline, consumer, status, status_since <= clock_timestamp() AS since, reason FROM incbatch.lag ORDER BY pipeline, consumer;

-- ---------------------------------------------------------------------
-- backfilling, then fresh; also where nothing is ever written
-- ---------------------------------------------------------------------
BEGIN;
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*), sum(100 / v) AS s FROM t GROUP BY k', trigger_interval => '10 minutes');
SELECT pipeline, status, as_of, staleness, status_since <= clock_timestamp() AS since FROM incbatch.lag;
COMMIT;
CALL exact('p');
SELECT * FROM status;

-- ---------------------------------------------------------------------
-- Percentiles: each transaction by its own commit time; an upper bound that
-- is no more than 15 % too high
-- ---------------------------------------------------------------------
SELECT latency_p50, latency_p95, latency_p99 FROM incbatch.lag;
INSERT INTO t VALUES (1, 'a', 1);
CALL incbatch.refresh_pipeline('p');
INSERT INTO t VALUES (2, NULL, 2);
CALL incbatch.refresh_pipeline('p');
UPDATE t SET k = 'b' WHERE id = 1;
CALL incbatch.refresh_pipeline('p');
DELETE FROM t WHERE id = 2;
CALL incbatch.refresh_pipeline('p');
TRUNCATE t;
CALL incbatch.refresh_pipeline('p');
CALL exact('p');
CREATE VIEW percentiles AS
SELECT l.latency_p50, l.latency_p95, l.latency_p99,
       extract(epoch FROM l.latency_p50) / extract(epoch FROM b.p50) BETWEEN 0.999 AND 1.15 AS p50,
       extract(epoch FROM l.latency_p95) / extract(epoch FROM b.p95) BETWEEN 0.999 AND 1.15 AS p95,
       extract(epoch FROM l.latency_p99) / extract(epoch FROM b.p99) BETWEEN 0.999 AND 1.15 AS p99
FROM incbatch.lag l,
     (SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY latency_max) AS p50,
             percentile_disc(0.95) WITHIN GROUP (ORDER BY latency_max) AS p95,
             percentile_disc(0.99) WITHIN GROUP (ORDER BY latency_max) AS p99
      FROM incbatch.batches WHERE pipeline = 'p' AND transactions = 1) b
WHERE l.pipeline = 'p';
SELECT sum(transactions) AS transactions, max(transactions) AS most FROM incbatch.batches;
SELECT p50, p95, p99 FROM percentiles;

-- They, and all that the worker has shown, outlive it.
CREATE TABLE before AS SELECT l.*, w.pid FROM incbatch.lag l, incbatch.workers w WHERE w.database = current_database();
SELECT count(pg_terminate_backend(pid, 60000)) FROM before;
SELECT l.as_of > b.as_of - interval '1 minute' AS as_of, l.latency_p50 = b.latency_p50 AS p50, l.latency_p99 = b.latency_p99 AS p99
FROM incbatch.lag l, before b;
CALL exact('p');
SELECT w.pid <> b.pid AS another, l.latency_p50 = b.latency_p50 AS p50, l.latency_p99 = b.latency_p99 AS p99, w.restarts > 0 AS restarts,
       w.last_error
FROM incbatch.lag l, incbatch.workers w, before b WHERE w.database = current_database();
DROP TABLE before;

-- ---------------------------------------------------------------------
-- Consumers of one path, each judged by its own freshness
-- ---------------------------------------------------------------------
INSERT INTO t VALUES (3, 'c', 3);
BEGIN;
CREATE VIEW quick AS TABLE p;
CREATE VIEW slow AS TABLE p;
INSERT INTO incbatch.consumer (consumer, pipeline, path, relation, freshness, trigger_interval)
SELECT c, a.pipeline, a.id, c::regclass, f, a.trigger_interval
FROM incbatch.path a, (VALUES ('quick', interval '1 microsecond'), ('slow', '1 hour')) v(c, f);
SELECT consumer, freshness, status <> 'fresh' AS behind,
       reason IS NOT NULL AS reason, backlog_bytes > 0 AS backlog
FROM incbatch.lag ORDER BY 1;
ROLLBACK;
SELECT * FROM status;

-- ---------------------------------------------------------------------
-- paused
-- ---------------------------------------------------------------------
SELECT clock_timestamp() AS moment \gset
SELECT incbatch.pause_pipeline('p');
SELECT pipeline, status, status_since >= :'moment' AS since, reason FROM incbatch.lag;
SELECT clock_timestamp() AS later \gset
SELECT incbatch.pause_pipeline('p');
SELECT status_since < :'later' AS still FROM incbatch.lag;
SELECT incbatch.resume_pipeline('p');
CALL exact('p');
SELECT * FROM status;

-- ---------------------------------------------------------------------
-- failed, by an error of its own; the batch that failed is kept
-- ---------------------------------------------------------------------
SELECT incbatch.create_pipeline('well', 'SELECT k, count(*) FROM t GROUP BY k', trigger_interval => '10 minutes');
CALL exact('well');
SELECT clock_timestamp() AS moment \gset
INSERT INTO t VALUES (4, 'd', 0);
CALL incbatch.refresh_pipeline('p');
SELECT * FROM status;
SELECT status_since >= :'moment' AS since FROM incbatch.lag WHERE pipeline = 'p';
CALL exact('well');
SELECT pipeline, reason, transactions, rows_in, groups_changed, strategy, error, started_at >= :'moment' AS started
FROM incbatch.batches WHERE error IS NOT NULL;
DELETE FROM t WHERE v = 0;
SELECT incbatch.resume_pipeline('p');
CALL incbatch.refresh_pipeline('p');
SELECT incbatch.rebuild_pipeline('p');
CALL exact('p');
SELECT * FROM status;

-- ---------------------------------------------------------------------
-- needs_rebuild, which lag calls failed
-- ---------------------------------------------------------------------
ALTER TABLE t REPLICA IDENTITY NOTHING;
DELETE FROM t WHERE id = 3;
CALL incbatch.refresh_pipeline('p');
SELECT pipeline, state FROM incbatch.pipelines WHERE pipeline = 'p';
SELECT pipeline, status, reason LIKE '%; run incbatch.rebuild_pipeline' AS way_out FROM incbatch.lag WHERE pipeline = 'p';
ALTER TABLE t REPLICA IDENTITY FULL;
SELECT incbatch.rebuild_pipeline('p');
SELECT incbatch.rebuild_pipeline('well');
CALL all_exact();
SELECT * FROM status;

-- Whose pipelines they are not sees nothing of them; nor what an error of the
-- worker may tell.
CREATE ROLE regress_incbatch_looker;
GRANT USAGE ON SCHEMA lag TO regress_incbatch_looker;
GRANT SELECT ON status TO regress_incbatch_looker;
SET ROLE regress_incbatch_looker;
SELECT pipeline, status, reason FROM incbatch.lag ORDER BY 1;
SELECT state, activity IS NOT NULL AS activity, restarts > 0 AS restarts, last_error, retained_percent < 100 AS retained
FROM incbatch.workers WHERE database = current_database();
RESET ROLE;
SELECT last_error FROM incbatch.workers WHERE database = current_database();
DROP OWNED BY regress_incbatch_looker;
DROP ROLE regress_incbatch_looker;

RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA lag CASCADE;
