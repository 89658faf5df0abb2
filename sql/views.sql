--
-- What there is to see: the views, their columns, and values that make sense
--
CREATE SCHEMA views;
SET search_path = views, public;
CREATE TABLE t (id int PRIMARY KEY, ts timestamptz, v int);
ALTER TABLE t REPLICA IDENTITY FULL;
INSERT INTO t SELECT i, timestamptz '2024-01-01 UTC' + i * interval '1 min', i FROM generate_series(1, 100) i;

-- Names and types
SELECT table_name, column_name, data_type FROM information_schema.columns c
WHERE table_schema = 'incbatch'
  AND table_name IN (SELECT table_name FROM information_schema.views WHERE table_schema = 'incbatch')
ORDER BY table_name, ordinal_position;

-- Nothing yet
SELECT (SELECT count(*) FROM incbatch.pipelines) AS pipelines, (SELECT count(*) FROM incbatch.paths) AS paths,
       (SELECT count(*) FROM incbatch.lag) AS lag, (SELECT count(*) FROM incbatch.batches) AS batches,
       (SELECT count(*) FROM incbatch.progress) AS progress;

-- ---------------------------------------------------------------------
-- Before the worker has seen it
-- ---------------------------------------------------------------------
BEGIN;
SELECT incbatch.create_pipeline('p', 'SELECT date_trunc(''hour'', ts) AS hour, count(*), max(v) FROM t GROUP BY 1',
                                trigger_interval => '10 minutes');
SELECT pipeline, phase, rows_done, rows_total, percent, eta FROM incbatch.progress;
SELECT state, last_error FROM incbatch.pipelines;
SELECT frontier_lsn, as_of, next_run FROM incbatch.paths;
SELECT as_of, staleness, backlog_bytes, backlog_rows, status FROM incbatch.lag;
COMMIT;
CALL incbatch.refresh_pipeline('p');
-- (what the worker shows after a run, the next run has shown)
CALL incbatch.refresh_pipeline('p');
SELECT * FROM incbatch.progress;

-- ---------------------------------------------------------------------
-- pipelines
-- ---------------------------------------------------------------------
SELECT pipeline, relation, query, source, event_time, lateness, late_policy, trigger_interval, watermark, state,
       strategy, owner = current_user AS mine, last_error, created_at <= now() AS created, definition, append_only
FROM incbatch.pipelines;

-- ---------------------------------------------------------------------
-- paths and lag: before and after a batch
-- ---------------------------------------------------------------------
SELECT pipeline, relation, trigger_interval, frontier_lsn <= pg_current_wal_insert_lsn() AS frontier,
       as_of <= clock_timestamp() AS as_of,
       next_run BETWEEN clock_timestamp() AND clock_timestamp() + interval '10 minutes' AS next_run,
       state
FROM incbatch.paths;
ANALYZE p_state;
SELECT rows FROM incbatch.paths;
CREATE TEMP TABLE before AS SELECT frontier_lsn, as_of FROM incbatch.paths;
INSERT INTO t SELECT i, timestamptz '2024-01-02 UTC', i FROM generate_series(101, 150) i;
DELETE FROM t WHERE id = 100;
CALL incbatch.refresh_pipeline('p');
SELECT a.frontier_lsn > b.frontier_lsn AS frontier, a.as_of > b.as_of AS as_of FROM incbatch.paths a, before b;
SELECT consumer, pipeline, tier, freshness, trigger_interval, as_of <= clock_timestamp() AS as_of,
       staleness BETWEEN '0' AND interval '1 minute' AS staleness, backlog_bytes >= 0 AS backlog_bytes, backlog_rows,
       watermark, latency_p50 > '0' AS p50, latency_p95 >= latency_p50 AS p95, latency_p99 >= latency_p95 AS p99,
       latency_p99 < '1 minute' AS quick, status, status_since <= clock_timestamp() AS status_since
FROM incbatch.lag;

-- ---------------------------------------------------------------------
-- batches: written after the batch, so the next refresh shows them
-- ---------------------------------------------------------------------
CALL incbatch.refresh_pipeline('p');
SELECT pipeline, reason, transactions, rows_in, rows_late, groups_changed, strategy, error FROM incbatch.batches ORDER BY batch;
SELECT finished_at > started_at AS time, finished_at <= clock_timestamp() AS finished, read_ms >= 0 AS read,
       transform_ms > 0 AS transform, merge_ms > 0 AS merge, commit_ms > 0 AS commit, cpu_ms > 0 AS cpu,
       wal_bytes > 0 AS wal, latency_max > '0' AS latency,
       read_ms + transform_ms + merge_ms + commit_ms
           <= extract(epoch FROM finished_at - started_at) * 1100 + 5 AS sum
FROM incbatch.batches ORDER BY batch;
INSERT INTO t VALUES (200, '2024-01-01', 200);
UPDATE t SET v = v + 1 WHERE id <= 10;
UPDATE t SET id = id WHERE id = 11;
CALL incbatch.refresh_pipeline('p');
CALL incbatch.refresh_pipeline('p');
SELECT reason, transactions, rows_in, groups_changed, strategy FROM incbatch.batches ORDER BY batch OFFSET 1;
SELECT count(DISTINCT path) AS paths, count(DISTINCT batch) = count(*) AS numbered FROM incbatch.batches;

-- ---------------------------------------------------------------------
-- workers
-- ---------------------------------------------------------------------
SELECT w.pid = a.pid AS pid, w.state, w.slot_name = s.slot_name AS slot_name,
       w.restart_lsn <= w.confirmed_lsn AS restart_lsn, w.confirmed_lsn <= pg_current_wal_insert_lsn() AS confirmed_lsn,
       w.retained_wal_bytes > 0 AS retained,
       w.heartbeat_at BETWEEN now() - interval '1 minute' AND clock_timestamp() AS heartbeat, w.rows_decoded >= 0 AS rows
FROM incbatch.workers w
LEFT JOIN pg_replication_slots s ON s.database = w.database AND s.plugin = 'incbatch'
LEFT JOIN pg_stat_activity a ON a.datname = w.database AND a.backend_type = 'incbatch worker'
WHERE w.database = current_database();

-- ---------------------------------------------------------------------
-- Every state, and what lag makes of it
-- ---------------------------------------------------------------------
CREATE VIEW states AS
SELECT p.state, a.state AS path, l.status, p.last_error
FROM incbatch.pipelines p JOIN incbatch.paths a USING (pipeline) JOIN incbatch.lag l USING (pipeline);
SELECT * FROM states;
SELECT incbatch.pause_pipeline('p');
SELECT * FROM states;
INSERT INTO t VALUES (300, NULL, 1);
SELECT backlog_bytes > 0 AS backlog FROM incbatch.lag;
SELECT incbatch.resume_pipeline('p');
CALL exact('p');
SELECT * FROM states;
ALTER TABLE t REPLICA IDENTITY NOTHING;
DELETE FROM t WHERE id = 300;
CALL incbatch.refresh_pipeline('p');
SELECT * FROM states;
SELECT incbatch.wait_for('p');
ALTER TABLE t REPLICA IDENTITY FULL;
SELECT incbatch.rebuild_pipeline('p');
CALL exact('p');
SELECT * FROM states;
SELECT incbatch.alter_pipeline('p', '2 hours');
CALL incbatch.refresh_pipeline('p');
CALL incbatch.refresh_pipeline('p');
SELECT p.trigger_interval, a.trigger_interval, l.trigger_interval,
       next_run BETWEEN clock_timestamp() + interval '1 hour' AND clock_timestamp() + interval '2 hours' AS next_run
FROM incbatch.pipelines p, incbatch.paths a, incbatch.lag l;

-- wait_for: at the pipeline's own cadence, which is not now
INSERT INTO t VALUES (301, '2024-01-01', 1);
SELECT incbatch.wait_for('p', timeout => '10 ms');
CALL incbatch.refresh_pipeline('p');
SELECT incbatch.wait_for('p', '0/0', '0');

-- An ordinary user sees nothing of others; whoever watches the server, all.
CREATE ROLE regress_incbatch_looker;
SET ROLE regress_incbatch_looker;
SELECT (SELECT count(*) FROM incbatch.pipelines) AS pipelines, (SELECT count(*) FROM incbatch.paths) AS paths,
       (SELECT count(*) FROM incbatch.lag) AS lag, (SELECT count(*) FROM incbatch.batches) AS batches;
RESET ROLE;
GRANT pg_monitor TO regress_incbatch_looker;
SET ROLE regress_incbatch_looker;
SELECT (SELECT count(*) FROM incbatch.pipelines) AS pipelines, (SELECT count(*) FROM incbatch.paths) AS paths,
       (SELECT count(*) FROM incbatch.lag) AS lag, (SELECT count(*) > 2 FROM incbatch.batches) AS batches,
       (SELECT count(*) FROM incbatch.workers WHERE database = current_database()) AS workers,
       (SELECT count(*) FROM incbatch.progress) AS progress;
RESET ROLE;
DROP ROLE regress_incbatch_looker;

-- After the pipeline, its batches are gone, too.
SELECT incbatch.drop_pipeline('p');
SELECT count(*) FROM incbatch.batches;

RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA views CASCADE;
