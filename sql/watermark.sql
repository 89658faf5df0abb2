--
-- The watermark: how it moves, what does not move it, what is refused.
--
CREATE SCHEMA watermark;
SET search_path = watermark, public;
SET TimeZone = 'UTC';
CREATE TABLE events (id int PRIMARY KEY, ts timestamp, tstz timestamptz, d date, k int, v int);
ALTER TABLE events REPLICA IDENTITY FULL;
SELECT incbatch.create_pipeline('hourly', $$
	SELECT date_trunc('hour', tstz) AS hour, count(*), sum(v) FROM events WHERE k > 0 GROUP BY 1
$$, lateness => '1 hour', trigger_interval => '1 hour');
SELECT incbatch.create_pipeline('open', 'SELECT date_trunc(''hour'', tstz) AS hour, count(*) FROM events GROUP BY 1', trigger_interval => '1 hour');
CREATE VIEW seen AS
SELECT watermark, rows_late, rows_ahead FROM incbatch.pipelines WHERE pipeline = 'hourly';

-- Nothing seen, nothing closed
CALL incbatch.refresh_pipeline('hourly');
SELECT incbatch.watermark('hourly'), incbatch.watermark('open'), incbatch.watermark('watermark.hourly') IS NULL AS "null";
SELECT incbatch.watermark('nothing');
TABLE seen;

-- It moves with rows that the query leaves out, too, since they tell the time;
-- a batch uses the one that the batches before it left behind.
INSERT INTO events VALUES (1, NULL, '2024-01-01 10:30Z', NULL, 1, 1), (2, NULL, '2024-01-01 01:00Z', NULL, 1, 2);
CALL incbatch.refresh_pipeline('hourly');
TABLE seen;
INSERT INTO events VALUES (3, NULL, '2024-01-01 12:00Z', NULL, 0, 3), (4, NULL, '2024-01-01 09:00Z', NULL, 1, 4);
CALL incbatch.refresh_pipeline('hourly');
TABLE seen;
TABLE hourly ORDER BY 1;
-- less than an hour late is not late, nor is what falls into a window that has not ended
INSERT INTO events VALUES (5, NULL, '2024-01-01 11:00:00.000001Z', NULL, 1, 5), (6, NULL, '2024-01-01 11:00Z', NULL, 1, 6),
	(7, NULL, '2024-01-01 10:59:59.999999Z', NULL, 1, 7);
CALL incbatch.refresh_pipeline('hourly');
TABLE seen;
TABLE hourly ORDER BY 1;
SELECT * FROM incbatch.verify_pipeline('hourly');

-- It never goes back: not by deletes, nor by old rows, nor by another lateness.
DELETE FROM events WHERE id IN (3, 5, 6);
UPDATE events SET tstz = '2024-01-01 11:30Z' WHERE id = 1;
CALL incbatch.refresh_pipeline('hourly');
TABLE seen;
SELECT incbatch.alter_pipeline('hourly', lateness => '5 hours');
INSERT INTO events VALUES (8, NULL, '2024-01-01 12:30Z', NULL, 1, 8);
CALL incbatch.refresh_pipeline('hourly');
TABLE seen;
SELECT incbatch.alter_pipeline('hourly', lateness => '10 min');
INSERT INTO events VALUES (9, NULL, '2024-01-01 12:20Z', NULL, 1, 9);
CALL incbatch.refresh_pipeline('hourly');
TABLE seen;

-- A quiet source does not move it, nor does a refresh or the passing of time.
CALL incbatch.refresh_pipeline('hourly');
TABLE seen;

-- Infinite event times and those far ahead of the clock do not drive it; they
-- are folded in and counted.
INSERT INTO events VALUES (10, NULL, 'infinity', NULL, 1, 10), (11, NULL, '-infinity', NULL, 1, 11),
	(12, NULL, '2924-01-01', NULL, 1, 12), (13, NULL, now() + interval '1 hour', NULL, 1, 13), (14, NULL, NULL, NULL, 1, 14);
CALL incbatch.refresh_pipeline('hourly');
TABLE seen;
SELECT count(*) FILTER (WHERE hour > now() + interval '2 hours'), count(*) FILTER (WHERE hour IS NULL) FROM hourly;
INSERT INTO events VALUES (15, NULL, '2024-01-01 12:40Z', NULL, 1, 15);
CALL incbatch.refresh_pipeline('hourly');
TABLE seen;
SELECT count(*) FROM incbatch.verify_pipeline('hourly');
CALL incbatch.refresh_pipeline('hourly');
SELECT sum(rows_ahead) AS rows_ahead, sum(rows_late) AS rows_late FROM incbatch.batches WHERE pipeline = 'hourly';
-- A little ahead of the clock is not far.
INSERT INTO events VALUES (16, NULL, now() + interval '1 min', NULL, 1, 16);
CALL incbatch.refresh_pipeline('hourly');
SELECT incbatch.watermark('hourly') BETWEEN now() - interval '10 min' AND now() AS now FROM seen;
-- The way out after such a row was wrong: take it away and rebuild.
DELETE FROM events WHERE id BETWEEN 10 AND 16;
INSERT INTO events VALUES (17, NULL, 'infinity', NULL, 1, 17);
SELECT incbatch.rebuild_pipeline('hourly');
CALL exact('hourly');
TABLE seen;
DELETE FROM events WHERE id = 17;
SELECT watermark, staleness IS NOT NULL AS lag FROM incbatch.lag WHERE pipeline = 'hourly';
SELECT watermark FROM incbatch.lag WHERE pipeline = 'open';

-- Lateness for a pipeline that had none; the policy; and back to apply
INSERT INTO events VALUES (19, NULL, '2024-01-03', NULL, 1, 19);
CALL exact('open');
SELECT incbatch.alter_pipeline('open', lateness => '0', late_policy => 'drop');
-- deletes do not tell the time
DELETE FROM events WHERE id = 19;
CALL exact('open');
SELECT incbatch.watermark('open') IS NULL AS "null";
INSERT INTO events VALUES (20, NULL, '2024-01-02 00:00Z', NULL, 1, 20);
CALL exact('open');
INSERT INTO events VALUES (21, NULL, '2024-01-01 23:59Z', NULL, 1, 21);
CALL exact('open');
SELECT incbatch.watermark('open'), rows_late, lateness, late_policy FROM incbatch.pipelines WHERE pipeline = 'open';
SELECT incbatch.alter_pipeline('open', late_policy => 'apply');
CALL exact('open');
INSERT INTO events VALUES (22, NULL, '2024-01-01 23:58Z', NULL, 1, 22);
UPDATE events SET tstz = tstz - interval '1 day' WHERE id = 21;
CALL exact('open');
SELECT incbatch.watermark('open'), rows_late, lateness, late_policy FROM incbatch.pipelines WHERE pipeline = 'open';
TRUNCATE events;
CALL exact('open');

-- Times without zone are taken in the pipeline's zone, dates as midnight.
SET TimeZone = 'Asia/Tokyo';
INSERT INTO events VALUES (30, '2024-05-01 12:00', NULL, '2024-05-02', 1, 1);
SELECT incbatch.create_pipeline('without_zone', 'SELECT incbatch.tumble(ts, ''1 hour'') AS hour, count(*) FROM events GROUP BY 1', lateness => '1 hour');
SELECT incbatch.create_pipeline('by_date', 'SELECT d, d::timestamptz AS midnight, count(*) FROM events GROUP BY d, 2', event_time => 'd', lateness => '12 hours');
SELECT incbatch.create_pipeline('empty', 'SELECT date_trunc(''day'', ts) AS day, count(*) FROM events GROUP BY 1', lateness => '0', initialize => false);
CALL exact('without_zone');
CALL exact('by_date');
CALL incbatch.refresh_pipeline('empty');
SET TimeZone = 'UTC';
SELECT pipeline, event_time, watermark FROM incbatch.pipelines WHERE pipeline IN ('without_zone', 'by_date', 'empty') ORDER BY 1;
ALTER TABLE events RENAME COLUMN ts TO happened;
INSERT INTO events VALUES (31, '2024-05-01 13:00', NULL, '2024-05-03', 1, 1), (32, '2024-05-01 10:59', NULL, '2024-04-30', 1, 1);
CALL incbatch.refresh_pipeline('without_zone');
CALL incbatch.refresh_pipeline('by_date');
CALL incbatch.refresh_pipeline('empty');
SELECT pipeline, event_time, watermark, rows_late FROM incbatch.pipelines WHERE pipeline IN ('without_zone', 'by_date', 'empty') ORDER BY 1;
TABLE without_zone;
TABLE by_date;
SELECT row FROM incbatch.late_rows ORDER BY pipeline, number;

-- What is refused
CREATE PROCEDURE refused(query text, lateness interval DEFAULT '1 hour', late_policy text DEFAULT 'divert',
                         retention interval DEFAULT NULL, event_time text DEFAULT NULL)
LANGUAGE plpgsql AS $$
DECLARE
	state text;
	message text;
	detail text;
	hint text;
BEGIN
	PERFORM incbatch.create_pipeline('p', query, lateness => lateness, late_policy => late_policy,
		retention => retention, event_time => event_time);
	RAISE NOTICE 'accepted';
	PERFORM incbatch.drop_pipeline('p');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RAISE NOTICE E'% %\n  %\n  %', state, message, detail, hint;
END
$$;
CALL refused('SELECT k, count(*) FROM events GROUP BY k');
CALL refused('SELECT k, count(*) FROM events GROUP BY k', event_time => 'tstz');
CALL refused('SELECT count(*) FROM events GROUP BY date_trunc(''hour'', tstz)');
CALL refused('SELECT date_trunc(''hour'', tstz), count(*) FROM events GROUP BY 1', event_time => 'd');
CALL refused('SELECT to_char(tstz, ''YYYY-MM''), count(*) FROM events GROUP BY 1');
CALL refused('SELECT date_trunc(''hour'', tstz + v * interval ''1 hour''), count(*) FROM events GROUP BY 1');
CALL refused('SELECT date_trunc(CASE k WHEN 1 THEN ''hour'' ELSE ''day'' END, tstz), count(*) FROM events GROUP BY 1');
CALL refused('SELECT extract(hour FROM tstz), count(*) FROM events GROUP BY 1');
CALL refused('SELECT date_trunc(''minute'', tstz AT TIME ZONE ''Europe/Berlin''), count(*) FROM events GROUP BY 1');
CALL refused('SELECT date_bin(''5 min'', tstz AT TIME ZONE ''Europe/Berlin'', ''2024-01-01''), count(*) FROM events GROUP BY 1');
CALL refused('SELECT window_start, count(*) FROM events, incbatch.hop(tstz, v * interval ''1 hour'', ''1 min'') GROUP BY 1');
CALL refused('SELECT date_trunc(''hour'', tstz) AS hour, k, count(*) FROM events GROUP BY ROLLUP (1, k)');
CALL refused('SELECT date_trunc(''day'', tstz) AS day, date_trunc(''hour'', tstz) AS hour, k, count(*) FROM events GROUP BY GROUPING SETS ((1, 2, k), (1, k))');
CALL refused('SELECT date_trunc(''hour'', t), count(*) FROM (SELECT tstz + interval ''1 hour'' AS t FROM events) s GROUP BY 1');
CALL refused('SELECT max(tstz), count(*) FROM events');
-- these are windows
CALL refused('SELECT date_trunc(''day'', tstz AT TIME ZONE ''Europe/Berlin''), count(*) FROM events GROUP BY 1');
CALL refused('SELECT date_trunc(''week'', tstz)::date, count(*) FROM events GROUP BY 1');
CALL refused('SELECT incbatch.tumble(tstz::timestamp, ''1 day''), count(*) FROM events GROUP BY 1');
CALL refused('SELECT incbatch.tumble(date_trunc(''minute'', tstz), ''1 hour''), count(*) FROM events GROUP BY 1');
CALL refused('SELECT tstz::date, to_char(tstz, ''HH24''), count(*) FROM events GROUP BY 1, 2');
CALL refused('SELECT d, count(*) FROM events GROUP BY d', event_time => 'd');
CALL refused('SELECT window_start, count(*) FROM events CROSS JOIN LATERAL incbatch.hop(tstz, ''1 hour'', ''1 min'') GROUP BY 1');
CALL refused('SELECT date_trunc(''hour'', tstz), k, count(*) FROM events GROUP BY GROUPING SETS ((1, k), (1))');
-- parameters
CALL refused('SELECT date_trunc(''hour'', tstz), count(*) FROM events GROUP BY 1', lateness => '-1 hour');
CALL refused('SELECT date_trunc(''hour'', tstz), count(*) FROM events GROUP BY 1', lateness => '1 month');
CALL refused('SELECT date_trunc(''hour'', tstz), count(*) FROM events GROUP BY 1', late_policy => 'ignore');
CALL refused('SELECT date_trunc(''hour'', tstz), count(*) FROM events GROUP BY 1', late_policy => NULL);
CALL refused('SELECT date_trunc(''hour'', tstz), count(*) FROM events GROUP BY 1', lateness => NULL, retention => '1 day');
CALL refused('SELECT date_trunc(''hour'', tstz), count(*) FROM events GROUP BY 1', retention => '-1 day');
CALL refused('SELECT date_trunc(''hour'', tstz), count(*) FROM events GROUP BY 1', lateness => NULL, late_policy => 'drop');
SELECT incbatch.create_pipeline('windowless', 'SELECT k, count(*) FROM events GROUP BY k');
SELECT incbatch.alter_pipeline('windowless', lateness => '1 hour');
SELECT incbatch.alter_pipeline('windowless', retention => '1 hour');
SELECT incbatch.alter_pipeline('windowless', late_policy => 'ignore');
SELECT incbatch.alter_pipeline('by_date', lateness => '1 year');
SELECT incbatch.alter_pipeline('by_date', retention => '-1 day');

SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;
SET client_min_messages = warning;
DROP SCHEMA watermark CASCADE;
