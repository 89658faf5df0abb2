--
-- report: one screen of text.  What it says comes from views and functions
-- that other topics test; here they are replaced, in transactions that are
-- rolled back, by tables of planted values, so that the text is the same each
-- time, and the charts end at a given instant.
--
CREATE SCHEMA report;
SET search_path = report, public;
SET timezone = 'UTC';
CREATE TABLE t (id int PRIMARY KEY, g text, v int);
ALTER TABLE t REPLICA IDENTITY FULL;
SELECT incbatch.create_pipeline('p', 'SELECT g, count(*) AS n, max(v) AS largest FROM t GROUP BY g', trigger_interval => '1 hour');

-- Plant: from here to the end of the transaction the report sees what is in
-- these tables.  None has a row but the pipeline itself.
CREATE PROCEDURE plant(state text DEFAULT 'running', error text DEFAULT NULL)
LANGUAGE plpgsql AS $$
DECLARE
	seen text;
BEGIN
	FOREACH seen IN ARRAY '{pipelines,paths,lag,batches}'::text[] LOOP
		EXECUTE format('ALTER VIEW incbatch.%I RENAME TO real_%1$s', seen);
		EXECUTE format('CREATE TABLE incbatch.%I (LIKE incbatch.real_%1$s)', seen);
	END LOOP;
	INSERT INTO incbatch.pipelines (pipeline, relation, state, last_error) VALUES ('report.p', 'report.p', state, error);
	FOR seen IN SELECT oid::regprocedure FROM pg_proc
	            WHERE pronamespace = 'incbatch'::regnamespace AND proname IN ('cost', 'diagnose') LOOP
		EXECUTE format('ALTER FUNCTION %s RENAME TO real', seen);
	END LOOP;
	CREATE TABLE incbatch.planted_cost (trigger_interval interval, cpu_seconds_per_day numeric, wal_mb_per_day numeric,
	                                    cost_per_day numeric, times_batch numeric, basis text);
	CREATE FUNCTION incbatch.cost(name text) RETURNS SETOF incbatch.planted_cost
	LANGUAGE sql AS 'TABLE incbatch.planted_cost';
	CREATE TABLE incbatch.planted_diagnosis (question text, answer text);
	CREATE FUNCTION incbatch.diagnose(name text) RETURNS SETOF incbatch.planted_diagnosis
	LANGUAGE sql AS 'TABLE incbatch.planted_diagnosis';
END $$;

-- A path with batches: one every "every" seconds in the last "length" minutes
-- before 12:00, "run" ms long at the most, its slowest change "latency" s old at the most.
CREATE PROCEDURE plant_path(path int, trigger_interval interval, age interval, length int DEFAULT 0,
                            every interval DEFAULT '1 minute', run float8 DEFAULT 100, latency float8 DEFAULT 1)
LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO incbatch.paths (pipeline, path, trigger_interval, as_of)
	VALUES ('report.p', path, trigger_interval, timestamptz '2024-03-01 12:00 UTC' - age);
	INSERT INTO incbatch.batches (path, batch, finished_at, reason, runs, rows_in, read_ms, transform_ms, merge_ms, commit_ms,
	                              latency_max)
	SELECT path, n, f, 'trigger', 1, 1000 + n, 0.1 * size * run, 0.2 * size * run, 0.6 * size * run, 0.1 * size * run,
	       sqrt(size) * latency * interval '1 s'
	FROM generate_series(timestamptz '2024-03-01 12:00 UTC' - length * interval '1 minute' + every,
	                     timestamptz '2024-03-01 12:00 UTC' - age, every) WITH ORDINALITY AS g(f, n),
	     LATERAL (SELECT extract(epoch FROM f - timestamptz '2024-03-01 11:37 UTC') / 60 AS m) minutes,
	     LATERAL (SELECT 0.25 + 0.12 * sin(m / 3) + 0.1 * sin(m * 2) + 0.5 * exp(-m * m / 8) AS size) s;
END $$;
CREATE PROCEDURE plant_consumer(consumer text, freshness interval, trigger_interval interval, staleness interval,
                                status text DEFAULT 'fresh', reason text DEFAULT NULL)
LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO incbatch.lag (consumer, pipeline, path, freshness, trigger_interval, staleness, status, reason,
	                          latency_p50, latency_p99)
	VALUES (consumer, 'report.p', (SELECT p.path FROM incbatch.paths p WHERE p.trigger_interval = plant_consumer.trigger_interval),
	        freshness, trigger_interval, staleness, status, reason, trigger_interval * 0.6, trigger_interval * 1.1);
END $$;

-- The screen, and its size.
CREATE FUNCTION screen() RETURNS text LANGUAGE sql AS $$ SELECT incbatch.report('p', '2024-03-01 12:00 UTC') $$;
CREATE PROCEDURE size(INOUT columns int DEFAULT NULL, INOUT lines int DEFAULT NULL)
LANGUAGE sql AS $$ SELECT max(length(line)), count(*) FROM string_to_table(screen(), E'\n') AS line $$;
\pset format unaligned
\pset tuples_only on

-- ---------------------------------------------------------------------
-- A pipeline in the midst of life
-- ---------------------------------------------------------------------
BEGIN;
CALL plant();
UPDATE incbatch.pipelines SET pipeline = 'shop.orders_hourly';
CALL plant_path(1, '1 second', '1.4 s', 60, '2 s', 120, 2.1);
CALL plant_path(2, '15 minutes', '21 minutes', 60, '5 minutes', 60000, 900);
CALL plant_consumer('marketing', '5 s', '1 s', '1.4 s');
CALL plant_consumer('executive', '20 minutes', '15 minutes', '21 minutes', 'late', 'the worker is running a batch');
CALL plant_consumer('audit', '1 hour', '15 minutes', '21 minutes');
INSERT INTO incbatch.planted_cost
SELECT t, 600 + 1500 / extract(epoch FROM t), 180 + 1000 / extract(epoch FROM t), NULL,
       (600 + 1500 / extract(epoch FROM t)) / 600, 'fitted from 1807 batches, 3425028 events in 00:59:58'
FROM unnest('{1 s,10 s,1 min,15 min,1 hour,1 day}'::interval[]) t;
INSERT INTO incbatch.planted_diagnosis VALUES
	('Has volume outgrown the cadence?', 'no: a batch takes 10.2 % of its trigger (p99)'),
	('Is the transform incremental?', 'yes: all 1807 batches adjusted groups by their changes'),
	('Do consumers need different freshness?', 'yes, and they have it: 3 consumers, 3 freshnesses, 2 paths'),
	('Is the time spent in the transform or in reading and writing?', 'merging: 61 % of the time of 1807 batches');
SELECT screen();
CALL size();

-- The same where the client does not speak UTF8
SET client_encoding = 'LATIN1';
SELECT screen();
CALL size();
RESET client_encoding;
ROLLBACK;

-- ---------------------------------------------------------------------
-- No history, one batch, no consumers
-- ---------------------------------------------------------------------
BEGIN;
CALL plant('initializing');
SELECT screen();
ROLLBACK;

BEGIN;
CALL plant('backfilling');
CALL plant_path(1, '1 minute', NULL);
CALL plant_consumer(NULL, NULL, '1 minute', NULL, 'backfilling');
SELECT screen();
ROLLBACK;

BEGIN;
CALL plant();
CALL plant_path(1, '0', '59.97 seconds', 20, '20 minutes', 42, 0.3);
CALL plant_consumer(NULL, NULL, '0', '200 ms');
INSERT INTO incbatch.planted_cost VALUES ('0', 0, 0, 0, NULL, 'too little history');
SELECT screen();
ROLLBACK;

-- A line that sums up several batches, and a backfill, which is none
BEGIN;
CALL plant();
CALL plant_path(1, '100 ms', '0.1 s', 60, '1 minute', 5000, 1);
UPDATE incbatch.batches SET runs = 10;
INSERT INTO incbatch.batches (path, batch, finished_at, reason, runs, rows_in, read_ms, transform_ms, merge_ms, commit_ms, latency_max)
VALUES (1, 0, '2024-03-01 11:30 UTC', 'backfill', 1, 1e9, 1e6, 1e6, 1e6, 1e6, '1 hour');
CALL plant_consumer('marketing', '1 s', '100 ms', '0.1 s');
SELECT screen();
ROLLBACK;

-- Charts of another length
BEGIN;
CALL plant();
CALL plant_path(1, '1 second', '0.2 s', 2, '4 s', 80, 3.5);
CALL plant_consumer('marketing', '5 s', '1 s', '0.2 s');
SELECT incbatch.report('p', '2024-03-01 12:00 UTC', '1 minute');
SELECT incbatch.report('p', '2024-03-01 12:00 UTC', '90 seconds');
ROLLBACK;

-- Changes that nobody folded in any more: the frontier's age is their lag
BEGIN;
CALL plant();
CALL plant_path(1, '1 second', '29 minutes', 60, '20 s', 80, 1.2);
CALL plant_consumer('marketing', '5 s', '1 s', '29 minutes', 'stuck', 'no worker runs; incbatch.workers says why');
SELECT screen();
ROLLBACK;

-- ---------------------------------------------------------------------
-- Paused, failed, needs_rebuild
-- ---------------------------------------------------------------------
BEGIN;
CALL plant('paused', 'an error of the past');
CALL plant_path(1, '1 minute', '2 days', 0);
CALL plant_consumer('marketing', '2 minutes', '1 minute', '2 days', 'paused');
SELECT screen();
ROLLBACK;

BEGIN;
CALL plant('failed', 'division by zero; resume_pipeline tries again');
CALL plant_path(1, '1 minute', '5 minutes', 60);
CALL plant_consumer('marketing', '2 minutes', '1 minute', '5 minutes', 'failed');
SELECT screen();
ROLLBACK;

BEGIN;
CALL plant('needs_rebuild', 'the pipeline held more than incbatch.max_retained_wal (4GB) of WAL and gave up its place; '
           'rebuild_pipeline brings it back. ' || repeat('And there is more to say. ', 20));
CALL plant_path(1, '1 minute', '100 days', 0);
CALL plant_consumer('marketing', '2 minutes', '1 minute', '100 days', 'failed');
SELECT screen();
ROLLBACK;

-- ---------------------------------------------------------------------
-- Too much of everything
-- ---------------------------------------------------------------------
BEGIN;
CALL plant('needs_rebuild', repeat('why ', 100));
UPDATE incbatch.pipelines SET pipeline = 'a_schema_with_a_long_name.' || repeat('x', 63);
DO $$ BEGIN
	FOR n IN 1 .. 20 LOOP
		CALL plant_path(n, n * interval '2 seconds', '1 s', 60, '30 s', n * 100, 2 * n);
		CALL plant_consumer('consumer ' || n || repeat(' and a long name', 4), n * interval '3 s', n * interval '2 s',
		                    n * interval '2.1 s', CASE WHEN n % 9 = 0 THEN 'late' ELSE 'fresh' END,
		                    CASE WHEN n % 9 = 0 THEN repeat('the same reason ', 20) END);
	END LOOP;
END $$;
INSERT INTO incbatch.planted_cost SELECT n * interval '1 second', 1e9 / n, 1e12 / n, 1, 1e6 / n, repeat('basis ', 40)
FROM generate_series(1, 40) n;
INSERT INTO incbatch.planted_diagnosis SELECT repeat('question ', 9), repeat('answer ', 40) FROM generate_series(1, 6);
SELECT screen();
CALL size();
ROLLBACK;

-- Names of wide characters, and of such that a terminal would obey
BEGIN;
CALL plant();
UPDATE incbatch.pipelines SET pipeline = repeat('漢字', 30);
CALL plant_path(1, '1 minute', '1 s');
CALL plant_consumer('財務部門のダッシュボード・二番', '2 minutes', '1 minute', '1 s');
CALL plant_consumer(E'a\nb\tc\033[31m\u009b31m', '2 minutes', '1 minute', '1 s');
SELECT screen();
ROLLBACK;

-- ---------------------------------------------------------------------
-- Every size of number
-- ---------------------------------------------------------------------
BEGIN;
CALL plant();
CREATE FUNCTION durations(i interval[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	one interval;
BEGIN
	FOREACH one IN ARRAY i LOOP
		DELETE FROM incbatch.lag;
		CALL plant_consumer('c', '1 year', '1 day', one);
		RETURN NEXT one || ': ' || (regexp_match(screen(), E'\nc +\\S+ +(.*?) of'))[1];
	END LOOP;
END $$;
SELECT durations('{-3 s, 0, 1 us, 999 us, 999.4 us, 1 ms, 1.04 ms, 1.06 ms, 9.96 ms, 999.4 ms, 999.7 ms, 1 s, 1.5 s, 59.4 s,
                   59.6 s, 90 s, 599 s, 59 min, 59.9 min, 1 h, 23.4 h, 23.6 h, 36 h, 9.9 days, 400 days, 3000 years}');
CREATE FUNCTION sizes(n numeric[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	one numeric;
BEGIN
	FOREACH one IN ARRAY n LOOP
		DELETE FROM incbatch.planted_cost;
		INSERT INTO incbatch.planted_cost VALUES ('1 s', 1, one, NULL, one, '');
		RETURN NEXT one || ': ' || (regexp_match(screen(), 'CPU +(.*? batch)'))[1];
	END LOOP;
END $$;
SELECT sizes('{0, 1e-7, 0.001, 0.0123, 0.994, 0.996, 1, 9.94, 99.4, 99.6, 1023, 1023.9, 1024, 123456, 1e9, 1e12, NaN, Infinity}');
ROLLBACK;
\pset format aligned
\pset tuples_only off

-- ---------------------------------------------------------------------
-- The real views and functions: what it says changes, but not its form
-- ---------------------------------------------------------------------
CREATE FUNCTION form() RETURNS TABLE (columns int, title text, headings text, consumers text)
LANGUAGE sql AS $$
	WITH line AS (SELECT line, number FROM string_to_table(incbatch.report('report.p'), E'\n') WITH ORDINALITY AS l(line, number))
	SELECT (SELECT max(length(line)) FROM line),
	       (SELECT regexp_replace(line, ' +\d.*', '') FROM line WHERE number = 1),
	       (SELECT string_agg((regexp_match(line, '^([A-Z]{4}[A-Z ]+?)(  |$)'))[1], ', ' ORDER BY number) FROM line),
	       (SELECT string_agg(regexp_replace(line, '  .*  ', ': '), ', ' ORDER BY number) FROM line
	        WHERE line ~ '^(\(none\)|marketing|executive) ')
$$;
INSERT INTO t SELECT i, 'g' || i % 3, i FROM generate_series(1, 100) i;
CALL incbatch.refresh_pipeline('p');
UPDATE t SET g = 'g1' WHERE id <= 10;
DELETE FROM t WHERE id > 90;
CALL incbatch.refresh_pipeline('p');
SELECT * FROM form();
SELECT incbatch.create_consumer('marketing', 'p', freshness => '2 hours');
SELECT incbatch.create_consumer('executive', 'p', tier => 4);
CALL incbatch.refresh_pipeline('p');
SELECT * FROM form();
TRUNCATE t;
CALL incbatch.refresh_pipeline('p');
SELECT incbatch.pause_pipeline('p');
SELECT * FROM form();
SELECT incbatch.resume_pipeline('p');

-- Who sees the pipeline may read it, whatever his search_path holds.
CREATE ROLE regress_incbatch_reader;
GRANT USAGE ON SCHEMA report TO regress_incbatch_reader;
SET ROLE regress_incbatch_reader;
SELECT incbatch.report('p');
RESET ROLE;
GRANT pg_monitor TO regress_incbatch_reader;
SET ROLE regress_incbatch_reader;
SET search_path = pg_temp, report, pg_catalog;
CREATE FUNCTION pg_temp.to_char(timestamptz, text) RETURNS text LANGUAGE sql AS 'SELECT NULL::text';
CREATE TEMP TABLE incbatch (x int);
SELECT incbatch.report('p') LIKE 'report.p %running  20%' AS read;
RESET ROLE;
SET search_path = report, public;
DROP OWNED BY regress_incbatch_reader;
DROP ROLE regress_incbatch_reader;

-- What is refused
SELECT incbatch.report(NULL);
SELECT incbatch.report('p', span => '0');
SELECT incbatch.report('p', span => NULL);
SELECT incbatch.report('p', span => '7000 years');
SELECT incbatch.report('p', at => 'infinity');
SELECT incbatch.report('no_pipeline');

RESET timezone;
RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA report CASCADE;
