--
-- Sliding windows: a row is in several of them.  hop runs in the statement that
-- reads the batch; a change is kept once.
--
CREATE SCHEMA hop;
SET search_path = hop, public;
SET TimeZone = 'America/New_York';
CREATE TABLE events (id int PRIMARY KEY, ts timestamp, tstz timestamptz, d date, k int, v int);
ALTER TABLE events REPLICA IDENTITY FULL;
CREATE TABLE kinds (k int PRIMARY KEY, kind text);
INSERT INTO kinds VALUES (0, 'zero'), (1, 'one');
INSERT INTO events
SELECT i, timestamp '2024-03-09' + i * interval '17 min', timestamptz '2024-03-09' + i * interval '17 min',
       date '2024-03-09' + i, i % 4, i
FROM generate_series(1, 300) i;

SELECT incbatch.create_pipeline('by_quarter', $$
	SELECT w.window_start, w.window_end, count(*), sum(v), avg(v), max(v)
	FROM events e, incbatch.hop(e.ts, '1 hour', '15 min') AS w(window_start, window_end)
	GROUP BY w.window_start, w.window_end
$$);
SELECT incbatch.create_pipeline('by_days', $$
	SELECT w.from_day, kind, count(*), min(e.tstz) AS first
	FROM events e CROSS JOIN LATERAL incbatch.hop(e.tstz, '3 days', '1 day') AS w(from_day, to_day)
	LEFT JOIN kinds USING (k) WHERE e.v > 10
	GROUP BY 1, 2
$$);
SELECT incbatch.create_pipeline('by_months', $$
	SELECT window_end, count(*) AS n, sum(v) FILTER (WHERE k = 1) AS ones
	FROM events, incbatch.hop(d, '1 year', '1 month') GROUP BY window_end HAVING count(*) > 2
$$);
SELECT incbatch.create_pipeline('by_uneven', $$
	SELECT date_trunc('day', ts) AS day, w.s, count(*) FROM events
	LEFT JOIN incbatch.hop(ts, '1 hour', '25 min', '2024-01-01 00:10') AS w(s, e) ON s > '2024-03-10'
	GROUP BY 1, 2
$$);
SELECT incbatch.create_pipeline('by_hour', $$
	SELECT w.window_end, count(DISTINCT k), sum(v), array_agg(v ORDER BY v)
	FROM events, incbatch.hop(tstz, '3 hours', '1 hour') w GROUP BY 1
$$);
SELECT incbatch.create_pipeline('by_other_function', $$
	SELECT n, count(*) FROM events, generate_series(0, k) AS n GROUP BY n
$$, append_only => true);
SELECT pipeline, event_time FROM incbatch.pipelines ORDER BY 1;
\set names {by_days,by_hour,by_months,by_quarter,by_uneven}
CALL all_exact(:'names');
SELECT * FROM by_quarter WHERE '2024-03-10 12:00' >= window_start AND '2024-03-10 12:00' < window_end ORDER BY 1;
SELECT from_day, sum(count) FROM by_days WHERE from_day BETWEEN '2024-03-08' AND '2024-03-12' GROUP BY 1 ORDER BY 1;

-- Changes: new rows, rows that move, that leave, that have no time
INSERT INTO events VALUES
	(1001, '2024-03-10 12:07', '2024-03-10 01:59:59-05', '2024-02-29', 1, 100),
	(1002, NULL, NULL, NULL, 1, 100), (1003, 'infinity', '-infinity', 'infinity', 1, 100);
CALL all_exact(:'names');
UPDATE events SET ts = ts + interval '50 min', tstz = tstz - interval '1 day', d = d + 31 WHERE id % 3 = 0;
CALL all_exact(:'names');
UPDATE events SET v = -v, k = k + 1 WHERE id % 5 = 0;
CALL all_exact(:'names');
UPDATE events SET ts = NULL WHERE id % 50 = 0;
UPDATE events SET ts = '2024-03-10 03:00', tstz = '2024-03-10 03:00' WHERE id IN (1002, 1003);
CALL all_exact(:'names');
DELETE FROM events WHERE id % 7 = 0 OR v = (SELECT max(v) FROM events);
CALL all_exact(:'names');

-- A change is one row of the batch, in however many windows it is.
CALL incbatch.refresh_pipeline('by_quarter');
INSERT INTO events VALUES (2000, '2024-06-01', '2024-06-01', '2024-06-01', 0, 1);
CALL incbatch.refresh_pipeline('by_quarter');
CALL incbatch.refresh_pipeline('by_quarter');	-- the line is written after the batch
SELECT rows_in, groups_changed FROM incbatch.batches WHERE pipeline = 'by_quarter' ORDER BY batch DESC LIMIT 1;

TRUNCATE events;
CALL all_exact(:'names');
INSERT INTO events VALUES (1, '2024-11-03 01:30', '2024-11-03 01:30-04', '2024-11-03', 0, 11), (2, '2024-11-03 01:30', '2024-11-03 01:30-05', '2024-11-03', 0, 11);
CALL all_exact(:'names');
TABLE by_days ORDER BY 1;

-- Windows themselves
SELECT * FROM incbatch.hop(timestamptz '2024-03-10 12:00', '2 days', '1 day');
SELECT * FROM incbatch.hop(timestamp '2024-03-10 12:00', '1 hour', '25 min');
SELECT * FROM incbatch.hop(date '2024-03-10', '3 months', '1 month', '2023-12-05');
SELECT count(*) FROM generate_series(timestamptz '2024-03-09', '2024-03-12', '13 min') t,
       incbatch.hop(t, '6 hours', '2 hours') w WHERE t < w.window_start OR t >= w.window_end;
SELECT count(*), count(DISTINCT w.window_start) FROM incbatch.hop(NULL::timestamp, '1 hour', '1 hour') w;
SELECT * FROM incbatch.hop(now(), '1 hour', '1 day');
SELECT * FROM incbatch.hop(now(), '1 hour', '2 hours');
SELECT * FROM incbatch.hop(now(), '1 year', '1 hour');
SELECT * FROM incbatch.hop(now(), '100 days', '1 second'::interval * 0);
SELECT * FROM incbatch.hop(now(), '8760 hours', '1 second');
SELECT * FROM incbatch.hop(current_date, '24 hours', '1 hour');
SELECT incbatch.create_pipeline('p', $$
	SELECT window_start, count(*) FROM incbatch.hop('2024-01-01', '1 hour', '1 hour') w, events GROUP BY 1
$$);
SELECT incbatch.create_pipeline('p', $$
	SELECT window_start, count(*) FROM events, incbatch.hop(now(), '1 hour', '1 hour') GROUP BY 1
$$);
-- what no row could be put into is refused before there is one
SELECT incbatch.create_pipeline('p', $$SELECT window_start, count(*) FROM events, incbatch.hop(ts, '1 month', '1 day') GROUP BY 1$$);
SELECT incbatch.create_pipeline('p', $$SELECT window_start, count(*) FROM events, incbatch.hop(tstz, interval '1 hour' * 2, make_interval(hours => 3)) GROUP BY 1$$);
SELECT incbatch.create_pipeline('p', $$SELECT window_start, count(*) FROM events, incbatch.hop(slide => '1 hour', ts => d, size => '1 day') GROUP BY 1$$);
SELECT incbatch.create_pipeline('p', $$SELECT window_start, count(*) FROM events, incbatch.hop(ts, '2 months', '1 month', '2024-01-30') GROUP BY 1$$);
SELECT incbatch.create_pipeline('p', $$SELECT incbatch.tumble(ts, '1 day 1 hour'), count(*) FROM events GROUP BY 1$$);
SELECT incbatch.create_pipeline('p', $$SELECT incbatch.tumble(tstz, '1 day', 'infinity'), count(*) FROM events GROUP BY 1$$);
SELECT incbatch.create_pipeline('p', $$SELECT incbatch.tumble(d, '1 hour'), count(*) FROM events GROUP BY 1$$);
SELECT count(*) FROM incbatch.hop(timestamp '2024-01-01', '10000 seconds', '1 second');
SELECT count(*) FROM incbatch.hop(timestamp '2024-01-01', '10001 seconds', '1 second');
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM nowhere GROUP BY k', trigger_interval => '366 days 1 second');
-- a unit that varies
SELECT incbatch.window_start(unit, timestamp '2024-05-15 12:34:56') FROM unnest('{hour,day,month}'::text[]) AS unit;

-- A join that finds no window for a row that has a time
CREATE TABLE gated (id int PRIMARY KEY, at timestamptz, v int);
ALTER TABLE gated REPLICA IDENTITY FULL;
INSERT INTO gated VALUES (1, '2024-01-01', 0), (2, '2024-01-01', 1), (3, '2024-01-01', 2), (4, NULL, 1);
SELECT incbatch.create_pipeline('gates', $$
	SELECT w.s, max(v), count(DISTINCT v) FROM gated LEFT JOIN incbatch.hop(at, '1 hour', '1 hour') AS w (s, e) ON v > 1 GROUP BY 1
$$);
CALL incbatch.refresh_pipeline('gates');
DELETE FROM gated WHERE id IN (2, 4);
CALL incbatch.refresh_pipeline('gates');
TABLE gates ORDER BY s;
SELECT * FROM incbatch.verify_pipeline('gates');
SELECT incbatch.drop_pipeline('gates');

-- The example of the README
CREATE TABLE orders (order_timestamp timestamptz);
ALTER TABLE orders REPLICA IDENTITY FULL;
INSERT INTO orders SELECT generate_series(timestamptz '2024-01-01', '2024-06-01', '100 min');
SELECT incbatch.create_pipeline('busy', $$
    SELECT w.window_start, w.window_end, count(*)
    FROM orders o, incbatch.hop(o.order_timestamp, '1 hour', '5 minutes') AS w(window_start, window_end)
    GROUP BY 1, 2
$$, lateness => '10 minutes', late_policy => 'divert', retention => '90 days');
INSERT INTO orders VALUES ('2024-06-01 00:20'), ('2024-05-31 23:50'), ('2024-05-31 22:49');
CALL incbatch.refresh_pipeline('busy');
SELECT * FROM incbatch.verify_pipeline('busy');
SELECT min(window_start) > '2024-03-01' AS removed FROM busy;

SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;
SET client_min_messages = warning;
DROP SCHEMA hop CASCADE;
