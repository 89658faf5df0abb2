--
-- Late changes: what happens to a change to a closed window, by policy, for
-- each kind of window, under insert, update across the boundary and delete.
--
CREATE SCHEMA late;
SET search_path = late, public;
SET TimeZone = 'America/New_York';
SET jit = off;	-- tables without statistics look large
CREATE TABLE events (id int PRIMARY KEY, ts timestamp, tstz timestamptz, d date, k int, v int);
ALTER TABLE events REPLICA IDENTITY FULL;
CREATE TABLE kinds (k int PRIMARY KEY, kind text);
INSERT INTO kinds VALUES (0, 'zero'), (1, 'one');
CREATE FUNCTION put(ids int4range, at timestamp) RETURNS void LANGUAGE sql AS $$
	INSERT INTO late.events
	SELECT i, t, t AT TIME ZONE 'UTC', t::date, i % 3, i
	FROM generate_series(lower(ids), upper(ids) - 1) i, LATERAL (SELECT at + (i - lower(ids)) * interval '7 min') s(t)
$$;
SELECT put('[1,501)', '2024-03-08');

-- Each pipeline with the condition that the window of its row has ended at
-- the watermark, written down from the window's end.
CREATE TABLE subjects (pipeline text, policy text, ended text);
CREATE FUNCTION subject(pipeline text, ended text, late_policy text, lateness interval, query text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO late.subjects VALUES (pipeline, late_policy, ended);
	PERFORM incbatch.create_pipeline(pipeline, query, lateness => lateness, late_policy => late_policy, trigger_interval => '1 hour');
	EXECUTE format('CREATE TABLE %I AS TABLE %I; CREATE TABLE %I (w timestamptz, rows_late bigint)',
		pipeline || '_before', pipeline, pipeline || '_mark');
END
$$;
SELECT subject('hourly', $$hour + interval '1 hour' <= w AT TIME ZONE 'America/New_York'$$, 'divert', '30 min', $$
	SELECT date_trunc('hour', ts) AS hour, k, count(*), sum(v), min(v), max(v) FROM events GROUP BY 1, 2
$$);
SELECT subject('sliding', $$start + interval '1 hour' <= w$$, 'drop', '10 min', $$
	SELECT w.start, kind, count(*) AS n, sum(v)
	FROM events e JOIN kinds USING (k), incbatch.hop(e.tstz, '1 hour', '15 min') AS w(start, stop)
	WHERE v % 5 > 0 GROUP BY 1, 2
$$);
SELECT subject('sliding_end', $$stop <= w$$, 'divert', '0', $$
	SELECT w.stop, count(*) FROM events e, incbatch.hop(e.tstz, '2 days', '1 day') AS w(start, stop) GROUP BY w.stop
$$);
SELECT subject('daily', $$day + interval '1 day' <= w$$, 'apply', '1 hour', $$
	SELECT date_trunc('day', tstz) AS day, count(*), sum(v) FILTER (WHERE k = 1) AS ones, max(v) FROM events GROUP BY 1
$$);
SELECT subject('dates', $$days + 2 <= w::timestamp::date$$, 'divert', '1 day', $$
	SELECT incbatch.tumble(d, '2 days', '2024-01-01') AS days, count(*), min(v) FROM events GROUP BY 1
$$);
SELECT subject('local', $$hour + interval '1 hour' <= w AT TIME ZONE 'Europe/Berlin'$$, 'drop', '2 hours', $$
	SELECT v % 2 AS odd, date_trunc('hour', tstz AT TIME ZONE 'Europe/Berlin') AS hour, count(*), avg(v)
	FROM events GROUP BY 1, 2 HAVING count(*) > 1
$$);
SELECT subject('two', $$week + interval '7 days' <= w OR month + interval '1 month' <= w$$, 'divert', '0', $$
	SELECT date_trunc('month', tstz) AS month, date_trunc('week', tstz) AS week, count(*) FROM events GROUP BY 1, 2
$$);
-- the day of a row is told by date_bin and a cast
SELECT subject('binned', $$day + 1 <= w::date OR bin + interval '6 hours' <= w$$, 'divert', '3 hours', $$
	SELECT tstz::date AS day, date_bin('6 hours', tstz, '2024-01-01 01:00') AS bin, count(*) FROM events GROUP BY 1, 2
$$);

-- evaluated again at every change, from a source that has the late rows, too
SELECT subject('again', $$hours + interval '2 hours' <= w AT TIME ZONE 'America/New_York'$$, 'drop', '20 min', $$
	SELECT incbatch.tumble(ts, '2 hours') AS hours, count(DISTINCT k), array_agg(v ORDER BY v, id) FROM events GROUP BY 1
$$);
SELECT subject('sliding_again', $$start + interval '4 hours' <= w$$, 'divert', '0', $$
	SELECT w.start, k, percentile_disc(0.5) WITHIN GROUP (ORDER BY v) FROM events e
	JOIN LATERAL incbatch.hop(e.tstz, '4 hours', '3 hours') AS w(start, stop) ON true GROUP BY 1, 2
$$);

-- a window in every grouping set
SELECT subject('in_sets', $$hour + interval '1 hour' <= w$$, 'divert', '30 min', $$
	SELECT date_trunc('hour', tstz) AS hour, k, v % 2 AS odd, grouping(k, v % 2) AS g, count(*), sum(v), max(v)
	FROM events GROUP BY hour, ROLLUP (k, v % 2)
$$);
SELECT subject('in_sets_again', $$start + interval '2 hours' <= w$$, 'drop', '0', $$
	SELECT w.start, w.stop, k, count(DISTINCT v % 7), array_agg(v ORDER BY v, id)
	FROM events e, incbatch.hop(e.tstz, '2 hours', '1 hour') AS w(start, stop) GROUP BY GROUPING SETS ((1, 2, k), (1, 2), (2, k, 1))
$$);

-- the source within a subquery and a common table expression
SELECT subject('nested', $$hour + interval '1 hour' <= w$$, 'divert', '45 min', $$
	WITH odd AS (SELECT e.tstz AS happened, e.k AS kind_number, e.v FROM events e WHERE e.v % 2 = 1)
	SELECT date_trunc('hour', s.happened) AS hour, kind, count(*), sum(s.doubled)
	FROM (SELECT happened, kind_number, v * 2 AS doubled FROM odd) s LEFT JOIN kinds ON kinds.k = s.kind_number
	GROUP BY 1, 2
$$);
-- rows without an aggregate
SELECT subject('distinct_hours', $$hour + interval '1 hour' <= w AT TIME ZONE 'America/New_York'$$, 'drop', '1 hour', $$
	SELECT DISTINCT date_trunc('hour', ts) AS hour, k FROM events
$$);

-- The oracle.  Closed windows keep what they had, unless late changes are
-- applied; open ones equal the batch query.  verify_pipeline agrees, and where
-- it does not look, a late change was counted.
CREATE PROCEDURE remember() LANGUAGE plpgsql AS $$
DECLARE
	s late.subjects;
BEGIN
	FOR s IN TABLE late.subjects LOOP
		EXECUTE format('DELETE FROM %1$I; INSERT INTO %1$I TABLE %2$I', s.pipeline || '_before', s.pipeline);
		EXECUTE format('DELETE FROM %1$I; INSERT INTO %1$I SELECT incbatch.watermark(%2$L), rows_late
			FROM incbatch.pipelines WHERE relation = %2$L::regclass', s.pipeline || '_mark', s.pipeline);
	END LOOP;
END
$$;
CREATE PROCEDURE kept() LANGUAGE plpgsql AS $$
DECLARE
	s late.subjects;
	wrong bigint;
	late bigint;
	verify bigint;
BEGIN
	FOR s IN SELECT * FROM late.subjects ORDER BY pipeline LOOP
		SELECT count(*) INTO verify FROM incbatch.verify_pipeline(s.pipeline);
		IF s.policy = 'apply' THEN
			EXECUTE format('SELECT count(*) FROM ((TABLE %1$I EXCEPT ALL TABLE %2$I)
				UNION ALL (TABLE %2$I EXCEPT ALL TABLE %1$I)) d', s.pipeline, s.pipeline || '_batch') INTO wrong;
		ELSE
			EXECUTE format('WITH e AS (SELECT b.* FROM %2$I b, %4$I WHERE (%5$s) IS NOT TRUE
				           UNION ALL SELECT b.* FROM %3$I b, %4$I WHERE %5$s)
				SELECT count(*) FROM ((TABLE %1$I EXCEPT ALL TABLE e) UNION ALL (TABLE e EXCEPT ALL TABLE %1$I)) d',
				s.pipeline, s.pipeline || '_batch', s.pipeline || '_before', s.pipeline || '_mark', s.ended) INTO wrong;
		END IF;
		EXECUTE format('SELECT p.rows_late - m.rows_late FROM incbatch.pipelines p, %I m WHERE relation = %L::regclass',
			s.pipeline || '_mark', s.pipeline) INTO late;
		RAISE NOTICE '% (%): %, % late, watermark %', s.pipeline, s.policy,
			CASE wrong + verify WHEN 0 THEN 'right' ELSE 'WRONG' END, late, incbatch.watermark(s.pipeline);
	END LOOP;
	COMMIT;
	CALL late.remember();
END
$$;
SELECT count(v) FROM subjects, incbatch.verify_pipeline(pipeline) v;
CALL remember();
SELECT pipeline, event_time, watermark, rows_late, rows_ahead FROM incbatch.pipelines ORDER BY 1;

-- Only open windows
SELECT put('[501,521)', '2024-03-10 09:00');
CALL kept();
-- Inserts, on time and late; how late differs
SELECT put('[600,610)', '2024-03-10 11:10'), put('[610,700)', '2024-03-09 22:00'), put('[700,701)', '2024-02-29 12:00');
CALL kept();
-- Updates within a window, across the boundary in both directions, between
-- two closed windows, of the key, and of a column that is not read
UPDATE events SET v = v + 1000 WHERE id IN (1, 100, 480, 520, 605);
UPDATE events SET ts = ts + interval '1 day', tstz = tstz + interval '1 day', d = d + 1 WHERE id BETWEEN 300 AND 310;
UPDATE events SET ts = ts - interval '12 hours', tstz = tstz - interval '12 hours', d = d - 1 WHERE id BETWEEN 500 AND 505;
UPDATE events SET ts = ts + interval '1 day', tstz = tstz + interval '1 day', d = d + 1 WHERE id IN (11, 12);
UPDATE events SET k = k + 1 WHERE id IN (20, 30, 508, 509);
UPDATE events SET id = id + 10000 WHERE id IN (40, 604);
CALL kept();
-- Deletes, by retention and of single rows, the extremes among them
DELETE FROM events WHERE ts < '2024-03-09' OR v = (SELECT max(v) FROM events) OR id IN (510, 606);
CALL kept();
-- Rows without a time are in no window, and never late.
INSERT INTO events VALUES (2000, NULL, NULL, NULL, 0, 1), (2001, '-infinity', '-infinity', '-infinity', 1, 1);
UPDATE events SET ts = NULL, tstz = NULL, d = NULL WHERE id IN (607, 620);
CALL kept();
DELETE FROM events WHERE id IN (2000, 2001, 607);
UPDATE events SET ts = '2024-03-11 02:00', tstz = '2024-03-11 02:00Z', d = '2024-03-11' WHERE id = 620;
CALL kept();
-- The clocks of New York and Berlin change.
SELECT put('[3000,3300)', '2024-03-10 02:00');
CALL kept();
SELECT put('[4000,4200)', '2024-11-02 20:00');
CALL kept();
SELECT put('[5000,5100)', '2024-11-03 00:00'), put('[5100,5110)', '2024-10-27 00:30');
CALL kept();
UPDATE events SET v = v + 1 WHERE id BETWEEN 5090 AND 5099;
CALL kept();

-- Only windows that late changes were kept out of are left out of verify_pipeline.
SELECT (SELECT count(*) FROM incbatch.late_window w JOIN incbatch.paths a USING (path) WHERE pipeline = 'hourly') AS noted,
       (SELECT count(DISTINCT date_trunc('hour', (row->>'ts')::timestamp)) FROM incbatch.late_rows WHERE pipeline = 'hourly') AS late,
       (SELECT count(DISTINCT hour) FROM hourly) AS all;

-- What was diverted
SELECT count(*), sum((change = 'insert')::int) AS inserts, sum((change = 'delete')::int) AS deletes,
       bool_and(event_time < watermark) AS late, bool_and(commit_time <= now()) AS committed,
       count(DISTINCT commit_lsn) AS commits
FROM incbatch.late_rows WHERE pipeline = 'hourly';
SELECT event_time, watermark, change, row FROM incbatch.late_rows WHERE pipeline = 'hourly' AND row->>'v' IN ('11', '700', '1001')
ORDER BY number;
SELECT r.pipeline, r.count, p.rows_late FROM (SELECT pipeline, count(*) FROM incbatch.late_rows GROUP BY 1) r
JOIN incbatch.pipelines p USING (pipeline) ORDER BY 1;
-- the changes that were kept out, put back, give the batch query
SELECT count(*) FROM (
	SELECT hour, k, sum(count), sum(sum) FROM (
		SELECT hour, k, count, sum FROM hourly
		UNION ALL
		SELECT date_trunc('hour', (row->>'ts')::timestamp), (row->>'k')::int,
		       CASE change WHEN 'insert' THEN 1 ELSE -1 END, CASE change WHEN 'insert' THEN 1 ELSE -1 END * (row->>'v')::int
		FROM incbatch.late_rows WHERE pipeline = 'hourly') c
	GROUP BY 1, 2 HAVING sum(count) <> 0
	EXCEPT ALL SELECT hour, k, count, sum FROM hourly_batch) d;
-- counted batch by batch, too
CALL incbatch.refresh_pipeline('hourly');
SELECT pipeline, rows_late > 0 AS late, rows_late = (SELECT rows_late FROM incbatch.pipelines p WHERE p.pipeline = b.pipeline) AS all
FROM (SELECT pipeline, sum(rows_late) AS rows_late FROM incbatch.batches GROUP BY 1) b WHERE pipeline <> 'two' ORDER BY 1;

-- Others do not see them.
CREATE ROLE late_reader;
GRANT USAGE ON SCHEMA late TO late_reader;
SET ROLE late_reader;
SELECT count(*) FROM incbatch.late_rows;
RESET ROLE;
DROP OWNED BY late_reader;
DROP ROLE late_reader;

-- TRUNCATE is the deletion of all rows: closed windows stay.
TRUNCATE events;
CALL kept();
SELECT put('[1,10)', '2024-11-03 11:00'), put('[10,11)', '2024-11-02 01:00');
CALL kept();
BEGIN;
SELECT put('[20,30)', '2024-11-03 11:00');
TRUNCATE events;
SELECT put('[30,40)', '2024-11-04 11:00'), put('[40,50)', '2024-01-04 11:00');
COMMIT;
CALL kept();

TRUNCATE events;
SELECT put('[30,35)', '2024-11-04 00:30'), put('[40,41)', '2024-11-10 01:00');
CALL kept();

-- A rebuild reads the source: what was late is in, nothing is late in it, and
-- the watermark starts anew.
SELECT put('[100,400)', '2024-11-09 01:00');
CALL kept();
SELECT count(incbatch.rebuild_pipeline(pipeline)) FROM subjects;
CALL exact('hourly');
CALL exact('sliding');
CALL exact('sliding_end');
CALL exact('dates');
SELECT rows_late, watermark FROM incbatch.pipelines WHERE pipeline = 'hourly';
SELECT count(*) FROM incbatch.late_rows WHERE pipeline = 'hourly';
CALL remember();
SELECT put('[500,510)', '2024-11-09 01:00');
CALL kept();

-- json may hold what jsonb refuses: a late row shows it as text.
CREATE TABLE messages (id int PRIMARY KEY, ts timestamptz, body json, bodies json[]);
ALTER TABLE messages REPLICA IDENTITY FULL;
SELECT incbatch.create_pipeline('messages_hourly', $$
	SELECT date_trunc('hour', ts) AS hour, count(body), count(bodies) AS arrays FROM messages GROUP BY 1
$$, lateness => '1 hour', trigger_interval => '1 hour');
CALL incbatch.refresh_pipeline('messages_hourly');
INSERT INTO messages VALUES (1, '2024-11-03 11:00', '{}');
CALL incbatch.refresh_pipeline('messages_hourly');
INSERT INTO messages VALUES (2, '2024-11-02 11:00', '{"a": "\u0000"}', ARRAY['{"a": "\u0000"}'::json]);
CALL incbatch.refresh_pipeline('messages_hourly');
SELECT row->>'body' AS body, row->>'bodies' AS bodies FROM incbatch.late_rows WHERE pipeline = 'messages_hourly';

SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;
SELECT count(*) FROM incbatch.late_rows;
SET client_min_messages = warning;
DROP SCHEMA late CASCADE;
