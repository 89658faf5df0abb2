--
-- Windows of time: date_trunc and date_bin over timestamp, timestamptz and
-- date.  They mean what they meant where the pipeline was created, whatever
-- the time zone of the worker and of the reader.
--
CREATE SCHEMA windows;
SET search_path = windows, public;
CREATE TABLE events (id int PRIMARY KEY, ts timestamp, tstz timestamptz, d date, v int);
ALTER TABLE events REPLICA IDENTITY FULL;

-- Both days of 2024 on which New York changes its clocks, each half hour
INSERT INTO events
SELECT row_number() OVER (), t AT TIME ZONE 'UTC', t, (t AT TIME ZONE 'UTC')::date, 1
FROM (SELECT generate_series(timestamptz '2024-03-09 22:00-05', '2024-03-11 03:00-04', '30 min') AS t
      UNION ALL
      SELECT generate_series(timestamptz '2024-11-02 22:00-04', '2024-11-04 03:00-05', '30 min')) e;

SET TimeZone = 'America/New_York';
SELECT incbatch.create_pipeline('by_day', $$
	SELECT date_trunc('day', tstz) AS day, count(*), sum(v), min(tstz) AS first, max(tstz) AS last
	FROM events GROUP BY 1
$$);
SELECT incbatch.create_pipeline('by_hour', $$
	SELECT date_trunc('hour', tstz) AS hour, count(*), sum(v) FROM events GROUP BY 1
$$);
SELECT incbatch.create_pipeline('by_day_of_berlin', $$
	SELECT date_trunc('day', tstz, 'Europe/Berlin') AS day, count(*), sum(v) FROM events GROUP BY 1
$$);
SELECT incbatch.create_pipeline('by_bin', $$
	SELECT date_bin('6 hours', tstz, '2024-01-01 01:00') AS bin, count(*), sum(v) FROM events GROUP BY 1
$$);
SELECT incbatch.create_pipeline('by_local', $$
	SELECT tstz::date AS day, extract(hour FROM tstz) AS hour, to_char(tstz, 'Dy TZ') AS zone, count(*)
	FROM events GROUP BY 1, 2, 3
$$);
SELECT incbatch.create_pipeline('by_text', $$
	SELECT left(tstz::text, 13) AS hour, count(*) FROM events WHERE tstz::timestamp > '2024-03-10' GROUP BY 1
$$);
SELECT incbatch.create_pipeline('by_day_without_zone', $$
	SELECT date_trunc('day', ts) AS day, date_bin('12 hours', ts, '2024-01-01') AS half, count(*), sum(v)
	FROM events GROUP BY 1, 2
$$);
SELECT incbatch.create_pipeline('by_month', $$
	SELECT date_trunc('month', d) AS month, date_trunc('week', d)::date AS week, count(*) FROM events GROUP BY 1, 2
$$);

SELECT incbatch.create_pipeline('by_tumble', $$
	SELECT incbatch.tumble(tstz, '1 day') AS day, incbatch.tumble(tstz, '90 min') AS bin,
	       incbatch.tumble(tstz, '2 weeks', '2024-01-01') AS fortnight, count(*), sum(v), max(tstz) AS last
	FROM events GROUP BY 1, 2, 3
$$);
SELECT incbatch.create_pipeline('by_tumble_without_zone', $$
	SELECT incbatch.tumble(d, '1 month') AS month, incbatch.tumble(ts, '3 days') AS days,
	       incbatch.tumble(ts, '20 min') AS bin, min(v), count(*)
	FROM events GROUP BY 1, 2, 3
$$);
SELECT incbatch.create_pipeline('by_expression', $$
	SELECT v, to_char(date_trunc('hour', tstz, 'Asia/Kolkata'), 'HH24') AS hour,
	       extract(isodow FROM date_bin('1 day', ts, '2024-01-01')) AS dow,
	       date_trunc('day', tstz AT TIME ZONE 'Europe/Berlin') AS day, count(*), sum(v)
	FROM events GROUP BY v, 2, 3, date_trunc('day', tstz AT TIME ZONE 'Europe/Berlin')
$$);

-- What the event time is
SELECT pipeline, event_time FROM incbatch.pipelines ORDER BY 1;
SELECT incbatch.create_pipeline('given', 'SELECT v, count(*) FROM events GROUP BY v', event_time => 'ts');
SELECT event_time FROM incbatch.pipelines WHERE pipeline = 'given';

-- 23 and 25 hours
CALL exact('by_day');
CALL exact('by_hour');
CALL exact('by_local');
SELECT day, count, first, last FROM by_day ORDER BY 1;
SELECT * FROM by_hour WHERE hour BETWEEN '2024-11-03 00:00-04' AND '2024-11-03 02:00-05' ORDER BY 1;
SELECT * FROM by_local WHERE day = '2024-11-03' AND hour BETWEEN 0 AND 2 ORDER BY 1, 2, 3;

-- A writer and a reader in another zone
SET TimeZone = 'UTC';
INSERT INTO events VALUES
	(1000, '2024-03-10 06:59', '2024-03-10 06:59Z', '2024-03-10', 10),
	(1001, '2024-03-10 07:00', '2024-03-10 07:00Z', '2024-03-10', 10),
	(1002, '2024-11-03 05:30', '2024-11-03 05:30Z', '2024-11-03', 10),
	(1003, '2024-11-03 06:30', '2024-11-03 06:30Z', '2024-11-03', 10);
UPDATE events SET v = 5 WHERE id % 7 = 0;
DELETE FROM events WHERE id % 11 = 0;
SELECT DISTINCT v FROM incbatch.pipelines p, incbatch.verify_pipeline(p.pipeline) v;
SELECT day, count, first, last FROM by_day ORDER BY 1;
SELECT * FROM by_local WHERE day = '2024-11-03' AND hour BETWEEN 0 AND 2 ORDER BY 1, 2, 3;
SELECT * FROM by_text WHERE hour LIKE '%2024-11-03 0_' OR hour LIKE 'Sun Nov 03 0_' ORDER BY 1;

-- Seen from where they were created, they equal the batch query to the letter.
SET TimeZone = 'America/New_York';
CALL exact('by_day');
CALL exact('by_hour');
CALL exact('by_day_of_berlin');
CALL exact('by_bin');
CALL exact('by_local');
CALL exact('by_text');
CALL exact('by_day_without_zone');
CALL exact('by_month');
CALL exact('by_tumble');
CALL exact('by_tumble_without_zone');
CALL exact('by_expression');

-- The extreme of a day is evaluated again in the pipeline's zone.
SET TimeZone = 'Asia/Kolkata';
DELETE FROM events WHERE tstz = (SELECT max(tstz) FROM events WHERE tstz < '2024-03-11 00:00-04');
DELETE FROM events WHERE tstz = (SELECT min(tstz) FROM events WHERE tstz >= '2024-11-03 00:00-04');
CALL incbatch.refresh_pipeline('by_day');
SET TimeZone = 'America/New_York';
CALL exact('by_day');

-- Times at the ends of the calendar
INSERT INTO events VALUES
	(2000, 'infinity', 'infinity', 'infinity', 1), (2001, '-infinity', '-infinity', '-infinity', 1),
	(2002, '4713-01-01 BC', '4713-01-02 BC', '4713-01-01 BC', 1),
	(2003, '294276-12-31', '294276-12-30', '294276-12-31', 1),
	(2004, NULL, NULL, NULL, 1);
CALL exact('by_day');
CALL exact('by_hour');
CALL exact('by_day_without_zone');
CALL exact('by_month');
CALL exact('by_bin');
DELETE FROM events WHERE id IN (2002, 2003);	-- their weeks begin, or end, beyond the calendar
CALL exact('by_tumble');
CALL exact('by_tumble_without_zone');
CALL exact('by_expression');
DELETE FROM events WHERE id >= 2000;
CALL exact('by_day');
CALL exact('by_bin');
CALL exact('by_tumble');

-- tumble: days, weeks and months begin where date_trunc has them begin, where
-- midnight does not exist, too; fixed sizes are those of date_bin.
DO $$
DECLARE
	zone text;
BEGIN
	FOREACH zone IN ARRAY '{America/New_York,America/Havana,America/Sao_Paulo,Asia/Kolkata,Asia/Beirut,Africa/Cairo,Australia/Lord_Howe,Pacific/Apia}'::text[] LOOP
		PERFORM set_config('TimeZone', zone, true);
		ASSERT 0 = (SELECT count(*) FROM generate_series(timestamptz '2010-12-30 00:17Z', '2014-01-05', '97 min') t
			WHERE incbatch.tumble(t, '1 day') <> date_trunc('day', t)
			   OR incbatch.tumble(t, '1 week') <> date_trunc('week', t)
			   OR incbatch.tumble(t, '1 month') <> date_trunc('month', t)
			   OR incbatch.tumble(t, '3 months') <> date_trunc('quarter', t)
			   OR incbatch.tumble(t, '10 years') <> date_trunc('decade', t)
			   OR incbatch.tumble(t, '7 min') <> date_bin('7 min', t, '2000-01-03'::text::timestamptz)
			   OR incbatch.tumble(t, '25 hours', '2012-02-29 13:14Z') <> date_bin('25 hours', t, '2012-02-29 13:14Z')), zone;
	END LOOP;
END
$$;
SELECT incbatch.tumble(date '2024-03-12', '2 days', '2024-03-11'), incbatch.tumble(date '1999-12-31', '1 week'),
       incbatch.tumble(date '-infinity', '1 day'), incbatch.tumble(timestamp 'infinity', '1 hour'),
       incbatch.tumble(NULL::timestamptz, '1 hour') IS NULL AS "null", incbatch.tumble(date '2024-01-01', NULL) IS NULL AS "null";
SELECT incbatch.tumble(timestamp '1999-12-14 23:59', '1 month', '2024-01-15'), incbatch.tumble(timestamp '1999-12-15', '1 month', '2024-01-15');
SELECT incbatch.tumble(now(), '1 day 12 hours');
SELECT incbatch.tumble(now(), '1 month 1 day');
SELECT incbatch.tumble(now(), '0');
SELECT incbatch.tumble(now(), '-1 hour');
SELECT incbatch.tumble(now(), '1 month', '2024-01-31');
SELECT incbatch.tumble(now(), '1 hour', 'infinity');
SELECT incbatch.tumble(current_date, '24 hours');
SELECT incbatch.tumble(timestamp '4713-01-01 BC', '1000 years');
SELECT incbatch.create_pipeline('p', $$
	SELECT incbatch.tumble(now(), '1 day'), count(*) FROM events GROUP BY 1
$$);

-- Where clocks are set back just after midnight, the new day begins before the
-- last hour of the old one.
SET TimeZone = 'America/St_Johns';
SELECT incbatch.create_pipeline('by_day_in_pieces', $$
	SELECT date_trunc('day', tstz) AS day, count(*) FROM events GROUP BY 1
$$);
CALL incbatch.refresh_pipeline('by_day_in_pieces');
INSERT INTO events (id, tstz) VALUES (2900, '2006-10-29 02:30:30Z'), (2901, '2006-10-29 03:00Z'), (2902, '2006-10-29 02:30:40Z');
CALL incbatch.refresh_pipeline('by_day_in_pieces');
SELECT * FROM incbatch.verify_pipeline('by_day_in_pieces');
INSERT INTO events (id, tstz) VALUES (2903, '2006-10-28 12:00Z'), (2904, '2006-10-29 03:10Z'), (2905, '2006-10-29 02:30:50Z');
CALL incbatch.refresh_pipeline('by_day_in_pieces');
SELECT * FROM by_day_in_pieces WHERE day < '2024-01-01' ORDER BY 1;
SELECT * FROM incbatch.verify_pipeline('by_day_in_pieces');
SET TimeZone = 'UTC';

-- A day of date_bin is 24 hours, also where that of the clocks is 23: a time
-- in the last of them belongs to the group that is evaluated again.
SET TimeZone = 'Europe/Berlin';
SELECT incbatch.create_pipeline('by_long_day', $$
	SELECT date_bin('1 day', tstz, '2024-03-01 12:00+01') AS start, max(v), count(*) FROM events GROUP BY 1
$$);
CALL incbatch.refresh_pipeline('by_long_day');
INSERT INTO events (id, tstz, v) VALUES (2910, '2024-03-30 11:30Z', 1), (2911, '2024-03-31 10:30Z', 7000), (2912, '2024-03-30 12:30Z', 9000);
CALL incbatch.refresh_pipeline('by_long_day');
DELETE FROM events WHERE id = 2912;
CALL incbatch.refresh_pipeline('by_long_day');
SELECT max FROM by_long_day WHERE start = '2024-03-30 11:00Z';
SELECT * FROM incbatch.verify_pipeline('by_long_day');
SET TimeZone = 'UTC';

-- The other settings that a text depends on are stored, too: IST is the time of
-- Israel, or of India.
SET DateStyle = 'German, DMY';
SET IntervalStyle = 'postgres_verbose';
SET timezone_abbreviations = 'India';
SET array_nulls = off;
SELECT incbatch.create_pipeline('by_spelling', $$
	SELECT d::text AS day, (v * interval '1 day')::text AS age, count(*),
	       min((d::text || ' 12:00 IST')::timestamptz) AS noon, min(('{NULL,' || v || '}')::text[]) AS nulls
	FROM events
	WHERE tstz >= '09.03.2024'::text::timestamptz GROUP BY 1, 2
$$);
SET DateStyle = 'ISO, MDY';
SET IntervalStyle = 'iso_8601';
RESET timezone_abbreviations;
RESET array_nulls;
CALL incbatch.refresh_pipeline('by_spelling');
INSERT INTO events VALUES (3000, NULL, '2024-03-10', '2024-03-09', 8);
CALL incbatch.refresh_pipeline('by_spelling');
SELECT * FROM by_spelling WHERE day LIKE '09%' ORDER BY 1, 2;
SELECT * FROM incbatch.verify_pipeline('by_spelling');

SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;
SET client_min_messages = warning;
DROP SCHEMA windows CASCADE;
