--
-- Rows that make the query fail (hazards 33, 55): with on_error 'divert' they
-- are kept in incbatch.failed_rows and left out, and the aggregate equals the
-- query over the other rows, under insert, update, delete and truncate.
--
CREATE SCHEMA failed;
SET search_path = failed, public;
SET client_min_messages = warning;
SET TimeZone = 'UTC';
CREATE TABLE events (id int, ts timestamp, k text, v text) PARTITION BY RANGE (id);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (1000);
CREATE TABLE events_2 (v text, k text, gone int, id int, ts timestamp);
ALTER TABLE events_2 DROP COLUMN gone;
ALTER TABLE events ATTACH PARTITION events_2 FOR VALUES FROM (1000) TO (100000);
ALTER TABLE events REPLICA IDENTITY FULL;
ALTER TABLE events_1 REPLICA IDENTITY FULL;
ALTER TABLE events_2 REPLICA IDENTITY FULL;
-- rows that a backfill meets
INSERT INTO events SELECT i, '2024-03-01'::timestamp + i * interval '10 min', chr(97 + i % 3), i::text FROM generate_series(1, 300) i;
INSERT INTO events VALUES (301, '2024-03-02', 'a', 'bad'), (1001, '2024-03-02', 'b', 'bad'), (1002, '2024-03-02', 'b', 'bad'),
	(302, '2024-03-02', NULL, '9999999999'), (303, '2024-03-02', 'd', '0'), (304, '2024-03-02', NULL, NULL), (305, '2024-03-02', 'd', '7000');
CREATE TABLE rates (k text PRIMARY KEY, rate int);
INSERT INTO rates VALUES ('a', 1), ('b', 2), ('c', 3);
CREATE DOMAIN small AS int CHECK (VALUE < 5000);
CREATE FUNCTION checked(v text) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	IF v !~ '^-?\d{1,9}$' THEN
		RAISE EXCEPTION 'no number: %', v;
	END IF;
	RETURN v::int;
END
$$;

-- Each pipeline with what its rows must be like so that it does not fail.
CREATE TABLE subjects (pipeline text, good text, query text);
CREATE FUNCTION subject(pipeline text, good text, query text, lateness interval DEFAULT NULL) RETURNS void LANGUAGE sql AS $$
	INSERT INTO failed.subjects VALUES (pipeline, good, query);
	SELECT incbatch.create_pipeline(pipeline, query, on_error => 'divert', lateness => lateness, trigger_interval => '1 hour');
$$;
SELECT subject('argument', $$v ~ '^-?\d{1,9}$' OR v IS NULL$$, $$
	SELECT k, count(*), sum(v::int), avg(v::int) FROM events GROUP BY k
$$);
SELECT subject('extremes', $$v ~ '^-?\d{1,9}$' OR v IS NULL$$, $$
	SELECT k, min(v::int), max(v::int) FILTER (WHERE v::int % 2 = 0) FROM events GROUP BY k
$$);
SELECT subject('key', $$v ~ '^-?[1-9]\d{0,8}$' OR v IS NULL$$, $$
	SELECT 100 / v::int AS part, count(*) FROM events GROUP BY 1
$$);
SELECT subject('condition', $$v ~ '^-?[1-9]\d{0,8}$' OR v IS NULL$$, $$
	SELECT k, count(*), sum(id) FROM events WHERE 100 / v::int >= 0 GROUP BY k
$$);
SELECT subject('again', $$v ~ '^-?\d{1,9}$' OR v IS NULL$$, $$
	SELECT k, count(DISTINCT v::int), array_agg(v::int ORDER BY id), sum(v::float8) FROM events GROUP BY k
$$);
SELECT subject('in_sets', $$v ~ '^-?\d{1,9}$' OR v IS NULL$$, $$
	SELECT k, v::int % 2 AS odd, grouping(k, v::int % 2) AS g, count(*), max(v::int), count(DISTINCT v::int) AS different FROM events GROUP BY ROLLUP (k, v::int % 2)
$$);
SELECT subject('everything', $$v ~ '^-?\d{1,9}$' OR v IS NULL$$, $$
	SELECT count(*), sum(v::int) FROM events
$$);
SELECT subject('own_functions', $$v ~ '^-?\d{1,3}$' OR v ~ '^[1-4]\d{3}$' OR v IS NULL$$, $$
	SELECT k, count(*), sum(checked(coalesce(v, '0'))::small::int) FROM events GROUP BY k
$$);
SELECT subject('joined', $$v ~ '^-?\d{1,9}$' AND k IS DISTINCT FROM 'zero' OR v IS NULL$$, $$
	SELECT e.k, count(*), sum(v::int / rate) FROM events e LEFT JOIN rates USING (k) GROUP BY e.k
$$);
SELECT subject('nested', $$v ~ '^-?\d{1,9}$' OR v IS NULL$$, $$
	WITH n AS (SELECT k, v::int AS n FROM events) SELECT k, s.n % 10 AS digit, count(*) FROM (SELECT k, n FROM n) s GROUP BY 1, 2 HAVING count(*) > 0
$$);
SELECT subject('windows', $$v ~ '^-?\d{1,9}$' OR v IS NULL$$, $$
	SELECT date_trunc('hour', ts) AS hour, count(*), sum(v::int) FROM events GROUP BY 1
$$, '1 day');

-- The oracle: the same query over a view of the rows that are good for it.
CREATE PROCEDURE right(names text[] DEFAULT NULL) LANGUAGE plpgsql AS $$
DECLARE
	s failed.subjects;
	wrong bigint; verify bigint; state text; left_out bigint; bad bigint; changes bigint;
BEGIN
	FOR s IN SELECT * FROM failed.subjects WHERE pipeline = ANY (names) OR names IS NULL LOOP
		CALL incbatch.refresh_pipeline(s.pipeline);
		-- closed windows stay as they were: verify_pipeline knows which
		EXECUTE format('WITH good AS MATERIALIZED (SELECT * FROM events WHERE %2$s), expected AS (%3$s)
			SELECT count(*), (SELECT count(*) FROM events) - (SELECT count(*) FROM good)
			FROM ((TABLE %1$I EXCEPT ALL TABLE expected) UNION ALL (TABLE expected EXCEPT ALL TABLE %1$I)) d WHERE %1$L <> ''windows''',
			s.pipeline, s.good, replace(s.query, 'FROM events', 'FROM good')) INTO wrong, bad;
		SELECT count(*) INTO verify FROM incbatch.verify_pipeline(s.pipeline);
		SELECT count(*) FILTER (WHERE f.left_out), count(*) INTO left_out, changes FROM incbatch.failed_rows f
		WHERE f.pipeline = s.pipeline AND path = (SELECT min(path) FROM incbatch.paths a WHERE a.pipeline = s.pipeline);
		SELECT p.state INTO state FROM incbatch.pipelines p WHERE p.pipeline = s.pipeline;
		RAISE WARNING '%: %, %, % of % left out, % changes', s.pipeline, state, CASE wrong + verify WHEN 0 THEN 'right' ELSE 'WRONG' END,
			left_out, bad, changes;
	END LOOP;
	COMMIT;
END
$$;

-- A backfill that meets them
CALL right();
SELECT change, row, error, sqlstate, commit_lsn, commit_time, left_out FROM incbatch.failed_rows WHERE pipeline = 'argument' ORDER BY number;
SELECT DISTINCT sqlstate FROM incbatch.failed_rows ORDER BY 1;

-- Insert, among good rows of the same transaction and of others
BEGIN;
INSERT INTO events SELECT i, '2024-03-03'::timestamp + i * interval '1 min', chr(97 + i % 4), CASE i % 20 WHEN 0 THEN 'bad ' || i ELSE i::text END FROM generate_series(400, 600) i;
COMMIT;
INSERT INTO events VALUES (1003, '2024-03-03', 'e', 'bad');
INSERT INTO events VALUES (1004, '2024-03-03', 'e', '1'), (1005, '2024-03-03', NULL, NULL);
CALL right();
-- Update: from bad to good, from good to bad, from bad to bad, of another
-- group, across partitions, of equal rows, of the extreme
UPDATE events SET v = '17' WHERE id IN (301, 400);
UPDATE events SET v = 'worse' WHERE id IN (1, 2, 300, 599);
UPDATE events SET k = 'f' WHERE id IN (1001, 420, 3, 4);
UPDATE events SET id = id + 2000 WHERE id IN (440, 5, 6);
UPDATE events SET v = 'one' WHERE id IN (1001, 1002);
UPDATE events SET k = NULL, v = NULL WHERE id = 460;
UPDATE events SET ts = ts WHERE v = 'bad 480';
CALL right();
-- Delete: of one of two equal rows, of good ones beside them, in the
-- transaction of the insert, and again with the same values
DELETE FROM events WHERE id IN (1002, 480, 7, 598, 302);
BEGIN;
INSERT INTO events VALUES (700, '2024-03-03', 'a', 'short-lived'), (701, '2024-03-03', 'a', 'short-lived');
DELETE FROM events WHERE id = 700;
COMMIT;
BEGIN;
DELETE FROM events WHERE id = 701;
INSERT INTO events VALUES (701, '2024-03-03', 'a', 'short-lived');
COMMIT;
CALL right();
-- Columns have other names when rows go that were left out before.
ALTER TABLE events RENAME COLUMN v TO value;
ALTER TABLE rates RENAME COLUMN rate TO ratio;
DELETE FROM events WHERE id IN (1003, 500, 701);
CALL incbatch.refresh_pipeline('argument');
CALL incbatch.refresh_pipeline('again');
CALL incbatch.refresh_pipeline('joined');
ALTER TABLE events RENAME COLUMN value TO v;
ALTER TABLE rates RENAME COLUMN ratio TO rate;
CALL right();
-- Truncate: nothing is left out any more
TRUNCATE events;
CALL right();
BEGIN;
INSERT INTO events VALUES (1, '2024-03-03', 'a', '1'), (2, '2024-03-03', 'a', 'bad');
TRUNCATE events;
INSERT INTO events VALUES (3, '2024-03-03', 'a', '1'), (4, '2024-03-03', 'a', 'bad');
COMMIT;
CALL right();

-- What was left out is known by its values: a change of a lookup that takes
-- the error away does not make its deletion count, and a rebuild brings it in.
INSERT INTO rates VALUES ('zero', 0);
INSERT INTO events VALUES (10, '2024-03-03', 'zero', '10'), (11, '2024-03-03', 'zero', '20'), (12, '2024-03-03', 'zero', '30');
CALL right('{joined}');
UPDATE rates SET rate = 10 WHERE k = 'zero';
DELETE FROM events WHERE id = 10;
CALL right('{joined}');
SELECT incbatch.rebuild_pipeline('joined');
CALL incbatch.refresh_pipeline('joined');
SELECT * FROM joined ORDER BY 1;
SELECT row->>'v' AS v, left_out FROM incbatch.failed_rows WHERE pipeline = 'joined' ORDER BY number;
-- But a row that was counted cannot be left out when it goes.
UPDATE rates SET rate = 0 WHERE k = 'zero';
DELETE FROM events WHERE id = 11;
CALL incbatch.refresh_pipeline('joined');
SELECT state, last_error FROM incbatch.pipelines WHERE pipeline = 'joined';
SELECT incbatch.rebuild_pipeline('joined');
CALL right('{joined}');
TRUNCATE events;

-- Late rows, too: what is late and does not fail is in late_rows, what fails
-- is not, and does not drive the watermark.
CALL right();
INSERT INTO events VALUES (1, '2024-05-01 12:00', 'a', '1'), (2, '2024-05-01 12:30', 'a', '2');
CALL right('{windows}');
INSERT INTO events VALUES (3, '2024-05-03 12:00', 'a', '3'), (4, '2024-05-09 12:00', 'a', 'bad');
CALL incbatch.refresh_pipeline('windows');
SELECT incbatch.watermark('windows');
INSERT INTO events VALUES (5, '2024-05-01 12:00', 'a', '5'), (6, '2024-05-01 12:00', 'a', 'bad'), (7, '2024-05-03 12:00', 'a', 'bad');
DELETE FROM events WHERE id IN (2, 4, 6);
CALL incbatch.refresh_pipeline('windows');
SELECT * FROM windows WHERE hour > '2024-05-01' ORDER BY 1;
SELECT change, row FROM incbatch.late_rows WHERE pipeline = 'windows' ORDER BY number;
SELECT change, row, left_out FROM incbatch.failed_rows WHERE pipeline = 'windows' AND row->>'ts' > '2024-05-01' ORDER BY number;
SELECT count(*) FROM incbatch.verify_pipeline('windows');

-- Two paths: each meets the rows in its own runs, and a path that is added
-- begins with what its sibling leaves out.
TRUNCATE events;
INSERT INTO events VALUES (1, '2024-03-03', 'a', 'bad'), (2, '2024-03-03', 'a', '2');
CALL incbatch.refresh_pipeline('argument');
SELECT incbatch.create_consumer('slow', 'argument', trigger_interval => '3 hours', freshness => '1 day');
SELECT incbatch.create_consumer('fast', 'argument', trigger_interval => '2 hours', freshness => '1 day');
INSERT INTO events VALUES (3, '2024-03-03', 'a', 'too'), (4, '2024-03-03', 'a', '4');
DELETE FROM events WHERE id = 1;
CALL right('{argument}');
SELECT a.trigger_interval, change, row, left_out FROM incbatch.failed_rows f JOIN incbatch.paths a USING (path)
WHERE f.pipeline = 'argument' ORDER BY 1, number DESC LIMIT 3;
SELECT a.trigger_interval, change, row, left_out FROM incbatch.failed_rows f JOIN incbatch.paths a USING (path)
WHERE f.pipeline = 'argument' ORDER BY 1 DESC, number DESC LIMIT 3;

-- Others do not see them.
CREATE ROLE failed_reader;
SET ROLE failed_reader;
SELECT count(*) FROM incbatch.failed_rows;
RESET ROLE;
DROP ROLE failed_reader;

-- A pipeline that stops says why; with 'divert' it goes on.
TRUNCATE events;
SELECT incbatch.create_pipeline('stops', 'SELECT k, sum(v::int) FROM events GROUP BY k', trigger_interval => '1 hour');
INSERT INTO subjects VALUES ('stops', $$v ~ '^-?\d{1,9}$' OR v IS NULL$$, 'SELECT k, sum(v::int) FROM events GROUP BY k');
CALL incbatch.refresh_pipeline('stops');
INSERT INTO events VALUES (1, '2024-03-03', 'a', 'bad'), (2, '2024-03-03', 'a', '2');
CALL incbatch.refresh_pipeline('stops');
SELECT state, last_error FROM incbatch.pipelines WHERE pipeline = 'stops';
SELECT incbatch.alter_pipeline('stops', on_error => 'nonsense');
SELECT incbatch.alter_pipeline('stops', on_error => 'divert');
SELECT incbatch.resume_pipeline('stops');
CALL right('{stops}');
-- With 'stop' again, what is left out stays so, and may go.
SELECT incbatch.alter_pipeline('stops', on_error => 'stop');
UPDATE events SET v = '5' WHERE id = 1;
INSERT INTO events VALUES (3, '2024-03-03', 'b', '3');
CALL right('{stops}');

-- More rows than incbatch.max_failed_rows: the pipeline stops, and nothing of
-- the batch is diverted.
SELECT incbatch.alter_pipeline('stops', on_error => 'divert');
INSERT INTO events SELECT i, '2024-03-03', 'a', 'bad' FROM generate_series(10, 120) i;
CALL incbatch.refresh_pipeline('stops');
SELECT state, last_error FROM incbatch.pipelines WHERE pipeline = 'stops';
SELECT count(*) FILTER (WHERE left_out) FROM incbatch.failed_rows WHERE pipeline = 'stops';
DELETE FROM events WHERE id >= 20;
SELECT incbatch.rebuild_pipeline('stops');
CALL right('{stops}');
INSERT INTO events SELECT i, '2024-03-03', 'a', 'bad' FROM generate_series(200, 290) i;
CALL incbatch.refresh_pipeline('stops');
SELECT state, last_error FROM incbatch.pipelines WHERE pipeline = 'stops';

-- Also what cannot be stored, such as a key that is too long, is the row's.
SELECT incbatch.create_pipeline('no_row', 'SELECT k, sum(v::int) FROM events GROUP BY k', initialize => false, on_error => 'divert', trigger_interval => '1 hour');
CALL incbatch.refresh_pipeline('no_row');
INSERT INTO events VALUES (500, '2024-03-03', 'a', '2147483647'), (501, '2024-03-03', (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 200) i), '1');
CALL incbatch.refresh_pipeline('no_row');
SELECT state, left(last_error, 40) FROM incbatch.pipelines WHERE pipeline = 'no_row';
SELECT length(row->>'k'), sqlstate FROM incbatch.failed_rows WHERE pipeline = 'no_row';

-- json that jsonb refuses makes a query fail, and is kept as text.
CREATE TABLE messages (id int PRIMARY KEY, body json);
ALTER TABLE messages REPLICA IDENTITY FULL;
SELECT incbatch.create_pipeline('by_sender', $$
	SELECT body->>'sender' AS sender, count(*) FROM messages GROUP BY 1
$$, on_error => 'divert', trigger_interval => '1 hour');
CALL incbatch.refresh_pipeline('by_sender');
INSERT INTO messages VALUES (1, '{"sender": "a"}'), (2, '{"sender": "\u0000"}');
CALL incbatch.refresh_pipeline('by_sender');
TABLE by_sender;
SELECT row->>'body' AS body, sqlstate, left_out FROM incbatch.failed_rows WHERE pipeline = 'by_sender';
UPDATE messages SET body = '{"sender": "b"}' WHERE id = 2;
CALL incbatch.refresh_pipeline('by_sender');
TABLE by_sender ORDER BY 1;
SELECT * FROM incbatch.verify_pipeline('by_sender');

-- Rows that differ in the last digits only, which the settings do not show.
SET extra_float_digits = 0;
CREATE TABLE samples (id int, f float8, fs float4[]);
ALTER TABLE samples REPLICA IDENTITY FULL;
SELECT incbatch.create_pipeline('inverses', $$
	SELECT count(*), min(1 / (f - 0.1)) AS inverse, max(1 / (fs[1] - 0.1::float4)) AS other FROM samples
$$, on_error => 'divert', trigger_interval => '1 hour');
CALL incbatch.refresh_pipeline('inverses');
INSERT INTO samples VALUES (1, 0.1, NULL), (1, 0.10000000000000003, NULL), (2, NULL, '{0.1}'), (2, NULL, '{0.10000001}'), (3, 5, '{5}');
CALL incbatch.refresh_pipeline('inverses');
DELETE FROM samples WHERE f BETWEEN 0.10000000000000002 AND 1 OR fs[1] BETWEEN 0.1000000075::float4 AND 1;
CALL incbatch.refresh_pipeline('inverses');
SELECT count FROM inverses;
SELECT * FROM incbatch.verify_pipeline('inverses');
DELETE FROM samples WHERE id < 3;
CALL incbatch.refresh_pipeline('inverses');
SELECT count FROM inverses;
SELECT * FROM incbatch.verify_pipeline('inverses');
RESET extra_float_digits;

SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;
SELECT count(*) FROM incbatch.failed_rows;
DROP SCHEMA failed CASCADE;
