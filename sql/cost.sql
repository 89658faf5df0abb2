--
-- Choosing a cadence: cost, advise and diagnose, from planted histories whose
-- truth is known, and where batches really go
--
CREATE SCHEMA cost;
SET search_path = cost, public;
CREATE TABLE t (id int PRIMARY KEY, g int, v int);
ALTER TABLE t REPLICA IDENTITY FULL;
SELECT incbatch.create_pipeline('p', 'SELECT g, count(*), sum(v) FROM t GROUP BY g', trigger_interval => '1 minute');
CALL incbatch.refresh_pipeline('p');

-- What there is to see of a fit, rounded.
CREATE VIEW fitted AS
SELECT f.batches, f.events, round(f.events_per_day) AS events_per_day,
       round((f.work[1] + f.reading[1])::numeric, 2) AS run_ms,
       round((1000 * (f.work[2] + f.reading[2]))::numeric, 2) AS event_us,
       round((1000 * f.work[3])::numeric, 1) AS group_us,
       round(f.wal[1]) AS run_wal, round(f.wal[3]) AS group_wal,
       round(f.groups[1]) AS pool, f.basis
FROM incbatch.fit('p') f;

-- Half-hourly batches of two days, of very different sizes: a run costs 5 ms
-- (of it 1 for reading), an event 2 us (0.5), a group 10 us; groups fall on a
-- pool of 200.
CREATE FUNCTION rows_of(i int) RETURNS bigint LANGUAGE sql RETURN 10 + (i * 7919 % 40) ^ 2 * 5;
CREATE FUNCTION groups_of(n float8) RETURNS bigint LANGUAGE sql RETURN round(200 * (1 - exp(-n / 200)));
CREATE PROCEDURE plant(batches int, every interval, events bigint DEFAULT NULL, factor float8 DEFAULT 1)
LANGUAGE sql AS $$
	INSERT INTO incbatch.batch (path, started_at, finished_at, reason, transactions, rows_in, groups_changed,
	                            read_ms, transform_ms, merge_ms, commit_ms, cpu_ms, read_cpu_ms, wal_bytes,
	                            latency_max, strategy, rows_late, rows_ahead)
	SELECT (SELECT path FROM incbatch.paths ORDER BY trigger_interval LIMIT 1),
	       now() - (i + 0.5) * every, now() - (i + 0.5) * every + cpu * interval '1 ms', 'trigger', n, n, g,
	       0.1 * cpu, 0.4 * cpu, 0.3 * cpu, 0.2 * cpu, cpu, 1 + 0.0005 * n, 500 + 150 * g,
	       every, 'delta', 0, 0
	FROM generate_series(0, batches - 1) i, coalesce(events, rows_of(i)) n, groups_of(n) g,
	     CAST((5 + 0.002 * n + 0.010 * g) * factor AS float8) cpu;
$$;

-- ---------------------------------------------------------------------
-- No history: assumed, and said so
-- ---------------------------------------------------------------------
SELECT * FROM fitted;
SELECT count(*), bool_and(cpu_seconds_per_day > 0 AND times_batch > 0 AND cost_per_day > 0) AS all_there,
       min(basis) = max(basis) AS one_basis
FROM incbatch.cost('p');
SELECT consumer, freshness, trigger_interval, recommended, saving_percent, advice FROM incbatch.advise('p');
SELECT question, answer, action FROM incbatch.diagnose('p');

-- ---------------------------------------------------------------------
-- One batch; then few
-- ---------------------------------------------------------------------
CALL plant(1, '1 hour', 1000);
SELECT batches, events, basis FROM fitted;
SELECT question, answer FROM incbatch.diagnose('p');
DELETE FROM incbatch.batch;
CALL plant(9, '1 hour', 1000);
SELECT basis FROM fitted;
DELETE FROM incbatch.batch;

-- ---------------------------------------------------------------------
-- An exact history is fitted exactly
-- ---------------------------------------------------------------------
CALL plant(96, '30 minutes');
SELECT * FROM fitted;
SELECT (SELECT sum(rows_of(i)) FROM generate_series(0, 47) i) AS events_per_day;
SELECT trigger_interval, staleness_max - trigger_interval < '10 seconds' AS staleness, cpu_seconds_per_day, wal_mb_per_day,
       times_batch, cost_per_million_events > 0 AS per_million
FROM incbatch.cost('p', 1);
-- the price: given, the setting's, none
SELECT round(c.cost_per_day / c.cpu_seconds_per_day * 3600, 3) AS given FROM incbatch.cost('p', 7.5) c LIMIT 1;
SET incbatch.cpu_hour_price = 2;
SELECT round(c.cost_per_day / c.cpu_seconds_per_day * 3600, 3) AS setting,
       round(c.cost_per_million_events * 48 * 1e3 / 48e9 * (SELECT events_per_day FROM fitted)::numeric, 6)
       = round(c.cost_per_day, 6) AS per_million
FROM incbatch.cost('p') c LIMIT 1;
RESET incbatch.cpu_hour_price;
SELECT sum(cost_per_day) FROM incbatch.cost('p', 0);

-- Outliers: a checkpoint, a stray recompute, a batch that cost nothing
UPDATE incbatch.batch SET cpu_ms = cpu_ms * 100, wal_bytes = wal_bytes * 50
WHERE batch = (SELECT min(batch) + 10 FROM incbatch.batch);
UPDATE incbatch.batch SET cpu_ms = read_cpu_ms WHERE batch = (SELECT min(batch) + 20 FROM incbatch.batch);
SELECT run_ms BETWEEN 4.8 AND 5.2 AS run, event_us BETWEEN 1.9 AND 2.1 AS event, group_us BETWEEN 9 AND 11 AS "group",
       run_wal BETWEEN 480 AND 520 AS run_wal, group_wal BETWEEN 145 AND 155 AS group_wal FROM fitted;
-- not counted: what failed, what was computed anew; a backfill (whose merge is
-- half of it) agrees with the batches
INSERT INTO incbatch.batch (path, started_at, finished_at, reason, transactions, rows_in, groups_changed,
                            read_ms, transform_ms, merge_ms, commit_ms, cpu_ms, wal_bytes, latency_max, strategy,
                            rows_late, rows_ahead, error)
SELECT path, now(), now(), reason, 1, 1000000, 10, 1, 1, 1, 1, cpu, 1, '1 s', strategy, 0, 0, error
FROM (SELECT path FROM incbatch.paths LIMIT 1) p,
     (VALUES ('trigger', 'delta', 1, 'failed'), ('trigger', 'rebuild', 1, NULL), ('backfill', 'rebuild', 2 * (4 + 0.0015 * 1e6), NULL)) v(reason, strategy, cpu, error);
SELECT batches, run_ms BETWEEN 4.8 AND 5.2 AS run FROM fitted;
-- a measured backfill is what the nightly batch costs: here 3,008 ms for 1,000,000 rows
SELECT round(f.batch_ms_per_event::numeric, 7) AS batch_ms_per_event,
       round(incbatch.nightly_ms(f)::numeric, 3) = round(3008e-6 * f.events_per_day::numeric, 3) AS nightly
FROM incbatch.fit('p') f;
-- it tells what small batches, all alike, do not
DELETE FROM incbatch.batch WHERE reason <> 'backfill';
CALL plant(96, '30 minutes', 100);
SELECT 1000 * f.work[2] BETWEEN 1.49 AND 1.51 AS event FROM incbatch.fit('p') f;
DELETE FROM incbatch.batch WHERE reason = 'backfill';
SELECT 1000 * f.work[2] BETWEEN 1.49 AND 1.51 AS event_without FROM incbatch.fit('p') f;
DELETE FROM incbatch.batch;

-- Noise: every other batch a fifth dearer, every other cheaper
CALL plant(96, '30 minutes');
UPDATE incbatch.batch SET cpu_ms = read_cpu_ms + (cpu_ms - read_cpu_ms) * CASE batch % 2 WHEN 0 THEN 1.2 ELSE 0.8 END;
SELECT run_ms BETWEEN 4 AND 6 AS run, event_us BETWEEN 1.6 AND 2.4 AS event FROM fitted;
DELETE FROM incbatch.batch;

-- New groups: each writes 300 bytes more than one that is there
CALL plant(96, '30 minutes');
UPDATE incbatch.batch SET groups_new = groups_changed / 2, wal_bytes = wal_bytes + 300 * (groups_changed / 2) WHERE batch % 4 = 0;
SELECT round(f.wal[2]) AS new_group_wal,
       d.wal_bytes / (SELECT sum(wal_bytes) FROM incbatch.batch WHERE started_at > now() - interval '1 day') BETWEEN 0.85 AND 1.15 AS foreseen
FROM incbatch.fit('p') f, incbatch.cost_of_cadence(f, '30 minutes') d;
DELETE FROM incbatch.batch;

-- All alike: only the total is known, and that is said; it is kept where it was measured
CALL plant(96, '30 minutes', 5000);
SELECT basis FROM fitted;
SELECT round((d.cpu_ms / 48)::numeric, 1) AS measured_cadence, 5 + 0.002 * 5000 + 0.010 * 200 AS truth
FROM incbatch.fit('p') f, incbatch.cost_of_cadence(f, '30 minutes') d;
DELETE FROM incbatch.batch;

-- Lines that sum up several runs count as these
CALL plant(96, '30 minutes');
UPDATE incbatch.batch SET runs = 10, rows_in = rows_in * 10, groups_changed = groups_changed * 10, cpu_ms = cpu_ms * 10,
       read_cpu_ms = read_cpu_ms * 10, wal_bytes = wal_bytes * 10 WHERE batch % 3 = 0;
SELECT batches, run_ms, event_us, group_us, pool FROM fitted;
DELETE FROM incbatch.batch;

-- Groups: many at a time, new ones in time, several a row (hop)
SELECT n, round(incbatch.touched_groups(incbatch.fit_groups('{1,1}', '{100,100}', '{63,63}', '{0,0}'), n)) AS pool_of_100,
       round(incbatch.touched_groups(incbatch.fit_groups('{1}', '{100}', '{100}', '{100}'), n)) AS all_new,
       round(incbatch.touched_groups(incbatch.fit_groups('{1}', '{100}', '{100}', '{0}'), n)) AS all_others,
       round(incbatch.touched_groups(incbatch.fit_groups('{1}', '{1}', '{4}', '{0}'), n)) AS four_a_row,
       round(incbatch.touched_groups(incbatch.fit_groups('{1}', '{1000}', '{1}', '{0}'), n)) AS only_one
FROM unnest('{1,100,10000}'::float8[]) n;
-- and the arithmetic by itself
SELECT incbatch.fit_cost('{}', '{}', '{}', '{}', '{3,2,1}') AS nothing,
       (SELECT array_agg(round(x::numeric, 3)) FROM unnest(incbatch.fit_cost('{1,1,1,1}', '{1,10,100,1000}', '{1,5,7,8}', '{7,16,106,1006}', '{1,1,1}')) x) AS no_group_cost;
SELECT incbatch.fit_cost('{1}', '{1,2}', '{1}', '{1}', '{1,1,1}');
SELECT incbatch.fit_cost('{1}', '{1}', '{1}', '{1}', '{1}');
SELECT incbatch.fit_cost('{NULL}', '{1}', '{1}', '{1}', '{1,1,1}');
SELECT incbatch.in_words(t) FROM unnest('{0,5 ms,1 second,90 seconds,1 minute,4 minutes,90 minutes,1 hour,2 hours,19:12,1 day,3 days}'::interval[]) t;

-- ---------------------------------------------------------------------
-- What is refused
-- ---------------------------------------------------------------------
SELECT * FROM incbatch.cost('nobody');
SELECT * FROM incbatch.cost(NULL);
SELECT * FROM incbatch.cost('p', -1);
SELECT * FROM incbatch.cost('p', 'NaN');
SELECT * FROM incbatch.advise('nobody');
SELECT * FROM incbatch.advise('p', -1);
SELECT * FROM incbatch.diagnose('nobody');
SET incbatch.cpu_hour_price = -1;

-- ---------------------------------------------------------------------
-- advise
-- ---------------------------------------------------------------------
CALL plant(96, '30 minutes');
-- runs too often; just right; too seldom
SELECT incbatch.create_consumer('boss', 'p', freshness => '1 hour', trigger_interval => '1 minute');
SELECT incbatch.create_consumer('clerk', 'p', freshness => '75 seconds');
SELECT incbatch.create_consumer('robot', 'p', freshness => '61 seconds', trigger_interval => '1 minute');
SELECT consumer, freshness, trigger_interval, recommended, saving_percent > 0 AS saves, advice FROM incbatch.advise('p');
-- batches that take long: less than 4/5
UPDATE incbatch.batch SET finished_at = started_at + interval '20 seconds';
SELECT consumer, recommended < freshness - interval '20 seconds' + interval '1 ms' AS kept, recommended > '0' AS possible FROM incbatch.advise('p');
-- so long that it cannot be kept
UPDATE incbatch.batch SET finished_at = started_at + interval '10 minutes';
SELECT consumer, recommended, advice FROM incbatch.advise('p') WHERE consumer = 'clerk';
UPDATE incbatch.batch SET finished_at = started_at + cpu_ms * interval '1 ms';
-- whether the latency is worth its cost
SELECT consumer, substring(advice FROM 'At .* day for a minute, every .* is worth it|Its latency is worth its cost') AS worth
FROM incbatch.advise('p', 0) UNION ALL
SELECT consumer, substring(advice FROM 'At .* day for a minute, every .* is worth it|Its latency is worth its cost')
FROM incbatch.advise('p', 1000000);

-- ---------------------------------------------------------------------
-- diagnose
-- ---------------------------------------------------------------------
SELECT question, answer, action FROM incbatch.diagnose('p');
SELECT evidence FROM incbatch.diagnose('p') OFFSET 2 LIMIT 1;
UPDATE incbatch.batch SET finished_at = started_at + interval '2 minutes';
SELECT answer, action FROM incbatch.diagnose('p') LIMIT 1;
UPDATE incbatch.batch SET finished_at = started_at + interval '40 seconds';
SELECT answer, action FROM incbatch.diagnose('p') LIMIT 1;
UPDATE incbatch.batch SET strategy = 'recompute' WHERE batch % 4 = 0;
SELECT answer ~ '^mostly: 24 of 96 batches evaluated groups again' AS answer, action FROM incbatch.diagnose('p') OFFSET 1 LIMIT 1;
UPDATE incbatch.batch SET strategy = 'recompute';
SELECT answer, action FROM incbatch.diagnose('p') OFFSET 1 LIMIT 1;
UPDATE incbatch.batch SET merge_ms = 1000;
SELECT answer, action FROM incbatch.diagnose('p') OFFSET 3;
UPDATE incbatch.batch SET ahead_ms = 10000;
SELECT answer FROM incbatch.diagnose('p') OFFSET 3;
SELECT incbatch.drop_consumer('boss', 'p'), incbatch.drop_consumer('robot', 'p');
SELECT answer, action FROM incbatch.diagnose('p') OFFSET 2 LIMIT 1;
SELECT incbatch.drop_consumer('clerk', 'p');
SELECT incbatch.pause_pipeline('p');
SELECT answer, action FROM incbatch.diagnose('p') LIMIT 1;
SELECT incbatch.resume_pipeline('p');
-- failed
INSERT INTO t VALUES (1, 1, 1);
ALTER TABLE t REPLICA IDENTITY NOTHING;
DELETE FROM t;
CALL incbatch.refresh_pipeline('p');
SELECT answer, action FROM incbatch.diagnose('p') LIMIT 1;
ALTER TABLE t REPLICA IDENTITY FULL;
SELECT incbatch.rebuild_pipeline('p');
CALL incbatch.refresh_pipeline('p');

-- Who sees the pipeline in the views may ask, and nobody else.
CREATE ROLE regress_incbatch_asker;
GRANT USAGE ON SCHEMA cost TO regress_incbatch_asker;
SET ROLE regress_incbatch_asker;
SELECT count(*) FROM incbatch.cost('cost.p');
SELECT count(*) FROM incbatch.advise('cost.p');
SELECT count(*) FROM incbatch.diagnose('cost.p');
-- Whatever he may call takes NULL, or refuses it.
DO $$
DECLARE
	f record;
BEGIN
	FOR f IN SELECT format('%s incbatch.%I(%s)', CASE p.prokind WHEN 'p' THEN 'CALL' ELSE 'SELECT count(*) FROM' END, p.proname,
						   (SELECT string_agg(format('NULL::%s', format_type(t, NULL)), ', ') FROM unnest(p.proargtypes) t)) AS call
			 FROM pg_proc p
			 WHERE p.pronamespace = 'incbatch'::regnamespace AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
			 ORDER BY p.oid
	LOOP
		BEGIN
			EXECUTE f.call;
		EXCEPTION WHEN null_value_not_allowed OR insufficient_privilege THEN NULL;
		END;
	END LOOP;
END $$;
SELECT incbatch.amount(1, NULL);
RESET ROLE;
GRANT pg_monitor TO regress_incbatch_asker;
SET ROLE regress_incbatch_asker;
SELECT count(*) FROM incbatch.cost('p');
SELECT count(*) FROM incbatch.advise('p');
SELECT count(*) FROM incbatch.diagnose('p');
RESET ROLE;

-- ---------------------------------------------------------------------
-- Where the worker's CPU went: what the batches say, their history, and next
-- to nothing
-- ---------------------------------------------------------------------
DELETE FROM incbatch.batch;
TRUNCATE t;
SELECT incbatch.create_pipeline('q', 'SELECT g % 10 AS g, count(*), max(v) FROM t GROUP BY 1', trigger_interval => '1 day');
CALL incbatch.refresh_pipeline('p');
CALL incbatch.refresh_pipeline('q');
-- a line is written at the end of the worker's round: it ends before a second
-- refresh of the same path
CALL incbatch.refresh_pipeline('p');
CALL incbatch.refresh_pipeline('q');
DELETE FROM incbatch.batch;
CREATE TABLE w0 AS SELECT * FROM incbatch.workers WHERE database = current_database();
CREATE FUNCTION cpu_of(pid int) RETURNS float8 LANGUAGE sql VOLATILE
RETURN (SELECT (f[12]::bigint + f[13]::bigint) * 10.0
        FROM string_to_array(regexp_replace(pg_read_file('/proc/' || pid || '/stat', 0, 4096, true), '^.*\) ', ''), ' ') f);
INSERT INTO t SELECT i, i % 100, i FROM generate_series(1, 20000) i;
CALL incbatch.refresh_pipeline('p');
CALL incbatch.refresh_pipeline('q');
UPDATE t SET g = g + 1 WHERE id <= 10000;
CALL incbatch.refresh_pipeline('p');
CALL incbatch.refresh_pipeline('q');
DELETE FROM t WHERE id > 19990;
CALL incbatch.refresh_pipeline('p');
CALL incbatch.refresh_pipeline('q');
CALL incbatch.refresh_pipeline('p');
CALL incbatch.refresh_pipeline('q');
CREATE TABLE w1 AS SELECT * FROM incbatch.workers WHERE database = current_database();
SELECT w1.pid = w0.pid AS same_worker,
       abs(cpu_of(w1.pid) - w1.cpu_ms) < 200 AS as_the_system_says,
       (w1.batches_cpu_ms - w0.batches_cpu_ms) / (w1.cpu_ms - w0.cpu_ms) > 0.5 AS mostly_batches,
       (w1.batches_cpu_ms - w0.batches_cpu_ms) + (w1.history_cpu_ms - w0.history_cpu_ms) <= w1.cpu_ms - w0.cpu_ms + 0.1 AS not_more_than_there_is,
       (w1.batches_cpu_ms - w0.batches_cpu_ms) - (SELECT sum(cpu_ms) FROM incbatch.batches) BETWEEN -0.1 AND 5 AS as_the_batches_say,
       w1.history_wal_bytes > w0.history_wal_bytes AS history_wal
FROM w0, w1;
-- both paths took the same rows of the same WAL, and share the reading
SELECT pipeline, sum(rows_in) AS rows, sum(groups_new) AS new, bool_and(read_cpu_ms > 0 AND read_cpu_ms < cpu_ms) AS reading
FROM incbatch.batches GROUP BY 1 ORDER BY 1;
SELECT max(r) / min(r) < 1.5 AS shared FROM (SELECT sum(read_cpu_ms) AS r FROM incbatch.batches GROUP BY pipeline) s;
CALL exact('p');
CALL exact('q');

-- A backfill is a batch; one of nothing is not.
SELECT incbatch.create_pipeline('r', 'SELECT g, count(*) FROM t GROUP BY g', trigger_interval => '1 day');
CALL incbatch.refresh_pipeline('r');
CALL incbatch.refresh_pipeline('r');
SELECT reason, strategy, rows_in, groups_changed, groups_new, transform_ms > 0 AS transform, merge_ms > 0 AS merge, cpu_ms > 0 AS cpu
FROM incbatch.batches WHERE pipeline = 'r';
SELECT f.batch_ms_per_event > 0 AS nightly, f.basis FROM incbatch.fit('r') f;

-- The history of a pipeline that is gone goes, too, when a worker next trims it.
SELECT incbatch.drop_pipeline('r'), incbatch.drop_pipeline('q');
SELECT count(*) FROM incbatch.batches WHERE pipeline IN ('q', 'r');

-- ---------------------------------------------------------------------
-- Forgetting the oldest lines reads each of them a few times, not each for each
-- ---------------------------------------------------------------------
DELETE FROM incbatch.batch;
CALL plant(11000, '1 second', 10);
CREATE TABLE read_before AS SELECT seq_tup_read + idx_tup_fetch AS rows FROM pg_stat_all_tables WHERE relid = 'incbatch.batch'::regclass;
-- a new worker does it with the first line that it writes
SELECT count(pg_terminate_backend(pid, 60000)) FROM incbatch.workers WHERE database = current_database();
INSERT INTO t VALUES (30000, 1, 1);
CALL incbatch.refresh_pipeline('p');
CALL incbatch.refresh_pipeline('p');
SELECT count(*) FROM incbatch.batch;
SELECT s.seq_tup_read + s.idx_tup_fetch - b.rows < 200000 AS few FROM pg_stat_all_tables s, read_before b WHERE s.relid = 'incbatch.batch'::regclass;

RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA cost CASCADE;
DROP ROLE regress_incbatch_asker;
