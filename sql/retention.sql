--
-- Retention: closed windows that ended so long before the watermark are
-- removed.  What is left equals the batch query over the windows kept.
--
CREATE SCHEMA retention;
SET search_path = retention, public;
SET TimeZone = 'Europe/Berlin';
CREATE TABLE events (id int PRIMARY KEY, tstz timestamptz, d date, k int, v int);
ALTER TABLE events REPLICA IDENTITY FULL;
INSERT INTO events
SELECT i, timestamptz '2024-03-20 00:30' + i * interval '1 hour', date '2024-01-01' + i, i % 3, i FROM generate_series(0, 499) i;

SELECT incbatch.create_pipeline('applied', $$
	SELECT date_trunc('day', tstz) AS day, k, count(*), sum(v), max(v) FROM events GROUP BY 1, 2
$$, lateness => '1 day', late_policy => 'apply', retention => '5 days', trigger_interval => '1 hour');
SELECT incbatch.create_pipeline('diverted', $$
	SELECT window_start, window_end, count(*), min(v) FROM events, incbatch.hop(tstz, '6 hours', '2 hours') GROUP BY 1, 2
$$, lateness => '1 hour', retention => '2 days 01:30', trigger_interval => '1 hour');
SELECT incbatch.create_pipeline('dropped', $$
	SELECT date_trunc('month', d) AS month, incbatch.tumble(d, '1 week') AS week, count(*) FROM events GROUP BY 1, 2
$$, lateness => '0', late_policy => 'drop', retention => '2 months', trigger_interval => '1 hour');

-- What the windows kept must be, written down from their ends.
CREATE PROCEDURE kept() LANGUAGE plpgsql AS $$
DECLARE
	p text;
	ended text;
	wrong bigint;
	beyond bigint;
BEGIN
	FOR p, ended IN VALUES
		('applied', $q$day + interval '1 day' <= w - interval '5 days'$q$),
		('diverted', $q$window_end <= w - interval '2 days 01:30'$q$),
		('dropped', $q$month + interval '1 month' <= w - interval '2 months' OR week + 7 <= (w - interval '2 months')::date$q$)
	LOOP
		CALL incbatch.refresh_pipeline(p);
		EXECUTE format('WITH m AS (SELECT incbatch.watermark(%3$L) AS w),
			b AS (SELECT b.* FROM %2$I b, m WHERE (%4$s) IS NOT TRUE)
			SELECT count(*) FROM ((TABLE %1$I EXCEPT ALL TABLE b) UNION ALL (TABLE b EXCEPT ALL TABLE %1$I)) d',
			p, p || '_batch', p, ended) INTO wrong;
		SELECT count(*) INTO beyond FROM incbatch.verify_pipeline(p);
		RAISE NOTICE '%: % different, % by verify, watermark %, % late', p, wrong, beyond, incbatch.watermark(p),
			(SELECT rows_late FROM incbatch.pipelines WHERE pipeline = p);
	END LOOP;
END
$$;
CALL kept();
SELECT min(day), count(DISTINCT day) FROM applied;
SELECT min(window_start), count(*) FROM diverted;
SELECT min(month), min(week), count(*) FROM dropped;

-- The watermark moves, windows go.
INSERT INTO events SELECT i, timestamptz '2024-03-20 00:30' + i * interval '1 hour', date '2024-01-01' + i, i % 3, i
FROM generate_series(500, 530) i;
CALL kept();
SELECT min(day), count(DISTINCT day) FROM applied;

-- Deletes of what is removed change nothing: the source may be purged, too.
DELETE FROM events WHERE tstz < '2024-03-25' AND id > 3;
CALL kept();
-- A change to a removed window is late whatever the policy: nothing comes back.
INSERT INTO events VALUES (1000, '2024-03-21', '2024-02-01', 1, 1);
UPDATE events SET v = v + 100 WHERE id IN (1, 530);
CALL kept();
SELECT min(day), count(DISTINCT day) FROM applied;
-- With apply, one to a closed window that is kept is folded in.
INSERT INTO events VALUES (1001, '2024-04-06 12:00', '2025-06-14', 1, 1);
UPDATE events SET tstz = '2024-03-22' WHERE id = 1001;
UPDATE events SET tstz = '2024-04-06 12:00' WHERE id IN (2, 1001);
CALL incbatch.refresh_pipeline('applied');
SELECT * FROM incbatch.verify_pipeline('applied');
SELECT day, k, count FROM applied WHERE day = '2024-04-06' ORDER BY k;
SELECT * FROM incbatch.verify_pipeline('diverted');

-- A shorter retention removes more with the next batch; a longer one brings
-- nothing back.
SELECT incbatch.alter_pipeline('applied', retention => '1 day');
INSERT INTO events VALUES (1002, '2024-04-11 03:00', NULL, 1, 1);
CALL incbatch.refresh_pipeline('applied');
SELECT min(day), count(DISTINCT day), incbatch.watermark('applied') FROM applied;
SELECT incbatch.alter_pipeline('applied', retention => '1 year');
INSERT INTO events VALUES (1003, '2024-04-11 04:00', NULL, 1, 1);
CALL incbatch.refresh_pipeline('applied');
SELECT min(day), count(DISTINCT day), incbatch.watermark('applied') FROM applied;
SELECT * FROM incbatch.verify_pipeline('applied');
SELECT retention FROM incbatch.pipelines WHERE pipeline = 'applied';
-- A rebuild starts from what the source has.
SELECT incbatch.rebuild_pipeline('applied');
CALL exact('applied');
SELECT incbatch.alter_pipeline('applied', retention => '5 days');
SELECT incbatch.rebuild_pipeline('applied');
CALL kept();

-- NULLs are kept; TRUNCATE
INSERT INTO events VALUES (2000, NULL, NULL, NULL, NULL);
CALL incbatch.refresh_pipeline('applied');
SELECT * FROM incbatch.verify_pipeline('applied');
TRUNCATE events;
CALL exact('applied');
CALL incbatch.refresh_pipeline('diverted');
SELECT * FROM incbatch.verify_pipeline('diverted');
SELECT count(*) > 0 AS closed_windows_stay FROM diverted;

-- Late windows that were removed are forgotten.
INSERT INTO events SELECT i, timestamptz '2024-06-20' + i * interval '1 hour', date '2024-01-01', i % 3, i FROM generate_series(0, 99) i;
CALL incbatch.refresh_pipeline('diverted');
CALL incbatch.refresh_pipeline('applied');
SELECT count(*) FROM incbatch.late_window JOIN incbatch.paths USING (path) WHERE pipeline = 'diverted';
SELECT * FROM incbatch.verify_pipeline('diverted');
SELECT min(window_start) FROM diverted;

-- A retention that reaches back to before the calendar keeps all windows.
SELECT incbatch.create_pipeline('kept_for_ever', 'SELECT date_trunc(''day'', tstz) AS day, count(*) FROM events GROUP BY 1',
	lateness => '1 day', retention => '10000 years', trigger_interval => '1 hour');
CALL incbatch.refresh_pipeline('kept_for_ever');
INSERT INTO events VALUES (5000, '2024-06-30');
CALL incbatch.refresh_pipeline('kept_for_ever');
SELECT count(*), max(day) FROM kept_for_ever;
SELECT * FROM incbatch.verify_pipeline('kept_for_ever');

SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;
SET client_min_messages = warning;
DROP SCHEMA retention CASCADE;
