--
-- Consumers: each at its own freshness, in a family of paths
--
CREATE SCHEMA consumers;
SET search_path = consumers, public;
CREATE TABLE t (id int PRIMARY KEY, k text, ts timestamptz, v int);
ALTER TABLE t REPLICA IDENTITY FULL;
INSERT INTO t SELECT i, (ARRAY['a', 'b', NULL])[i % 3 + 1], '2024-01-01'::timestamptz + i * interval '10 minutes', nullif(i, 7)
FROM generate_series(1, 300) i;

-- Who reads what: a view's state table is in its tree.
CREATE VIEW family AS
SELECT coalesce(c.consumer, '(' || p.relation::text || ')') AS reader, c.tier, c.freshness, c.trigger_interval AS wants,
       a.trigger_interval AS gets,
       (SELECT string_agg(DISTINCT d.refobjid::regclass::text, ' ')
        FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
        JOIN pg_class s ON s.oid = d.refobjid AND s.relkind = 'r'
        WHERE r.ev_class = coalesce(c.relation, p.relation) AND d.refclassid = 'pg_class'::regclass) AS reads,
       coalesce(c.path, f.id) = a.id AND a.relation::text = ANY (
           SELECT d.refobjid::regclass::text
           FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
           WHERE r.ev_class = coalesce(c.relation, p.relation) AND d.refclassid = 'pg_class'::regclass) AS right
FROM incbatch.pipeline p
CROSS JOIN LATERAL (SELECT id FROM incbatch.path WHERE pipeline = p.id ORDER BY trigger_interval LIMIT 1) f
LEFT JOIN (TABLE incbatch.consumer UNION ALL SELECT NULL, NULL, id, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM incbatch.pipeline) c ON c.pipeline = p.id
JOIN incbatch.path a ON a.id = coalesce(c.path, f.id)
ORDER BY p.relation::text, c.consumer NULLS FIRST;
CREATE VIEW paths AS
SELECT pipeline, relation, trigger_interval, state FROM incbatch.paths ORDER BY pipeline, trigger_interval;

-- The oracle for the pipeline and all its consumers with emit => 'update'.
CREATE PROCEDURE family_exact(pipeline text, INOUT readers int DEFAULT 0, INOUT inexact text DEFAULT '')
LANGUAGE plpgsql AS $$
DECLARE
	p regclass := pipeline;
	b regclass := (SELECT definition FROM incbatch.pipelines WHERE relation = p);
	r regclass; d bigint; s bigint; v bigint;
BEGIN
	CALL exact(pipeline, d, s, v);
	IF d + s + v <> 0 THEN inexact := pipeline || ' '; END IF;
	FOR r IN SELECT c.relation FROM incbatch.consumers c WHERE c.pipeline = p::text AND c.emit = 'update' ORDER BY 1 LOOP
		EXECUTE format('SELECT count(*) FROM ((TABLE %1$s EXCEPT ALL TABLE %2$s) UNION ALL (TABLE %2$s EXCEPT ALL TABLE %1$s)) d', r, b) INTO d;
		readers := readers + 1;
		IF d <> 0 THEN inexact := inexact || r::text || ' '; END IF;
	END LOOP;
END $$;

-- ---------------------------------------------------------------------
-- What a consumer may ask for
-- ---------------------------------------------------------------------
SELECT incbatch.create_pipeline('p', $$
	SELECT k, date_trunc('hour', ts) AS h, count(*) AS n, sum(v) AS s, avg(v) AS a, min(v) AS least, count(DISTINCT v) AS d
	FROM t GROUP BY 1, 2
$$, trigger_interval => '1 minute');
SELECT incbatch.create_consumer('c', 'p');
SELECT incbatch.create_consumer(NULL, 'p', tier => 1);
SELECT incbatch.create_consumer('c', NULL, tier => 1);
SELECT incbatch.create_consumer('', 'p', tier => 1);
SELECT incbatch.create_consumer('c', 'nowhere', tier => 1);
SELECT incbatch.create_consumer('c', 't', tier => 1);
SELECT incbatch.create_consumer('c', 'p', tier => 5);
SELECT incbatch.create_consumer('c', 'p', tier => 1, freshness => '1 minute');
SELECT incbatch.create_consumer('c', 'p', freshness => '0');
SELECT incbatch.create_consumer('c', 'p', freshness => '-1 s');
SELECT incbatch.create_consumer('c', 'p', freshness => '1 month');
SELECT incbatch.create_consumer('c', 'p', freshness => '400 days');
SELECT incbatch.create_consumer('c', 'p', freshness => '1 minute', trigger_interval => '2 minutes');
SELECT incbatch.create_consumer('c', 'p', trigger_interval => '-1 minute');
SELECT incbatch.create_consumer('c', 'p', tier => 1, emit => 'now');
SELECT incbatch.create_consumer('c', 'p', tier => 1, emit => NULL);
SELECT incbatch.create_consumer('c', 'p', tier => 1, emit => 'final');
SELECT incbatch.create_consumer('c', 'p', tier => 1, relation => 't');
SELECT incbatch.create_consumer('batch', 'p', tier => 1);
SELECT incbatch.create_consumer('c', 'p', tier => 1, relation => 'nowhere.c');
SELECT incbatch.create_consumer('c', 'p', tier => 1, relation => 'pg_temp.c');
SELECT incbatch.set_tier('c', 'p', 1);
SELECT incbatch.set_freshness('c', 'p', '1 minute');
SELECT incbatch.drop_consumer('c', 'p');
SELECT incbatch.drop_consumer('c', 'p', if_exists => true);
TABLE family;
TABLE incbatch.tiers;

-- ---------------------------------------------------------------------
-- The arrangement of paths
-- ---------------------------------------------------------------------
-- before there is anything to copy: the first takes the path that is there
SELECT incbatch.create_consumer('executive', 'p', tier => 3);
TABLE family;
CALL family_exact('p');
-- a second trigger: a path of its own, filled at once
BEGIN;
SELECT incbatch.create_consumer('marketing', 'p', tier => 2);
SELECT count(*), sum(n) FROM p_marketing;
SELECT count(*), sum(n) FROM p_executive;
SELECT count(*), sum(n) FROM p;
COMMIT;
TABLE family;
CALL family_exact('p');
-- the same trigger, however it is spelled, shares it
SELECT incbatch.create_consumer('web', 'p', freshness => '75 s', relation => 'web_orders');
SELECT incbatch.create_consumer('ops', 'p', trigger_interval => '60 s');
TABLE family;
TABLE paths;
INSERT INTO t VALUES (1001, 'a', '2024-01-05', 5), (1002, NULL, NULL, NULL);
UPDATE t SET k = 'c', v = v + 1 WHERE id % 10 = 0;
UPDATE t SET ts = ts + interval '1 day' WHERE id % 7 = 0;
DELETE FROM t WHERE id % 11 = 0;
CALL family_exact('p');
-- one of three leaves: a path of its own, the others stay
SELECT incbatch.set_freshness('web', 'p', '5 s');
TABLE family;
CALL family_exact('p');
-- alone on its path: that changes its trigger
SELECT incbatch.set_freshness('web', 'p', '10 s');
TABLE family;
-- and joins: the path goes
SELECT incbatch.set_tier('web', 'p', 2);
TABLE family;
CALL family_exact('p');
-- to where another is, and back
SELECT incbatch.set_tier('executive', 'p', 2);
TABLE paths;
SELECT incbatch.set_tier('executive', 'p', 4);
TABLE family;
UPDATE t SET v = v * 2 WHERE id < 50;
CALL family_exact('p');
-- two trade places
SELECT incbatch.drop_consumer('web', 'p'), incbatch.drop_consumer('ops', 'p');
BEGIN;
SELECT incbatch.set_tier('executive', 'p', 1);
SELECT incbatch.set_tier('marketing', 'p', 4);
SELECT incbatch.set_tier('executive', 'p', 2);
COMMIT;
TABLE family;
DELETE FROM t WHERE id BETWEEN 60 AND 90;
CALL family_exact('p');
-- the pipeline's own trigger counts without consumers
SELECT incbatch.alter_pipeline('p', trigger_interval => '10 seconds');
SELECT incbatch.drop_consumer('executive', 'p');
TABLE family;
SELECT incbatch.drop_consumer('marketing', 'p');
TABLE family;
CALL family_exact('p');

-- everything at once, and rolled back
BEGIN;
SELECT incbatch.create_consumer('x', 'p', tier => 1);
SELECT incbatch.create_consumer('y', 'p', tier => 2);
SELECT incbatch.create_consumer('z', 'p', tier => 3);
SELECT incbatch.set_tier('x', 'p', 4);
SELECT incbatch.drop_consumer('y', 'p');
TABLE family;
ROLLBACK;
TABLE family;
SELECT relname FROM pg_class WHERE relnamespace = 'consumers'::regnamespace AND relkind IN ('r', 'v') ORDER BY 1;
INSERT INTO t VALUES (1003, 'a', '2024-01-05', 5);
CALL family_exact('p');
-- a transaction with a snapshot of before
SELECT incbatch.create_consumer('x', 'p', tier => 1);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM incbatch.consumers;
SELECT incbatch.create_consumer('y', 'p', tier => 2);
SELECT sum(n) = (SELECT count(*) FROM t WHERE id <= 1003) FROM p_y;
COMMIT;
CALL family_exact('p');

-- ---------------------------------------------------------------------
-- Paths before they run
-- ---------------------------------------------------------------------
BEGIN;
SELECT incbatch.create_pipeline('q', 'SELECT k, count(*) AS n, max(v) FROM t GROUP BY k', trigger_interval => '0');
SELECT incbatch.create_consumer('a', 'q', tier => 1);
SELECT incbatch.create_consumer('b', 'q', tier => 2);
SELECT incbatch.create_consumer('c', 'q', tier => 3);
COMMIT;
CALL family_exact('q');
TABLE paths;
-- in what order: one is filled from the source, the others are copies
SELECT incbatch.rebuild_pipeline('q');
TRUNCATE t;
CALL family_exact('q');
SELECT count(*) FROM q_c;
CALL family_exact('p');
INSERT INTO t SELECT i, (ARRAY['a', 'b', NULL])[i % 3 + 1], '2024-01-01'::timestamptz + i * interval '10 minutes', i FROM generate_series(1, 100) i;
CALL family_exact('p');
CALL family_exact('q');
-- while it is paused the new path waits, and shows what its sibling shows
SELECT incbatch.pause_pipeline('q');
SELECT incbatch.create_consumer('d', 'q', tier => 4);
INSERT INTO t VALUES (500, 'paused', '2024-02-02', 1);
SELECT count(*), sum(n) FROM q_d;
SELECT state, count(*) FROM incbatch.pipelines WHERE pipeline = 'q' GROUP BY 1;
SELECT incbatch.resume_pipeline('q');
CALL family_exact('q');
SELECT count(*), sum(n) FROM q_d;
-- what verify_pipeline finds, it finds in each path
SELECT incbatch.pause_pipeline('q');
UPDATE q_state1 SET row_count = row_count + 1 WHERE k = 'paused';
SELECT incbatch.resume_pipeline('q');
SELECT regexp_replace(difference, '\d+', 'N') AS difference, row_in_aggregate, row_in_batch FROM incbatch.verify_pipeline('q');
SELECT incbatch.rebuild_pipeline('q');
CALL family_exact('q');
SELECT incbatch.wait_for('q', timeout => '1 minute');
-- a path that has stopped is named, after its siblings were refreshed
\set VERBOSITY terse
ALTER TABLE q_state1 ADD CONSTRAINT in_the_way CHECK (row_count < 0) NOT VALID;
INSERT INTO t VALUES (501, 'stopped', NULL, 1);
CALL incbatch.refresh_pipeline('q');
INSERT INTO t VALUES (502, 'stopped', NULL, 2);
UPDATE t SET k = 'stopped' WHERE id = 500;
CALL incbatch.refresh_pipeline('q');
SELECT c.consumer, p.state, (SELECT n FROM q_a WHERE k = 'stopped' AND c.consumer = 'a'
	UNION ALL SELECT n FROM q_b WHERE k = 'stopped' AND c.consumer = 'b'
	UNION ALL SELECT n FROM q_c WHERE k = 'stopped' AND c.consumer = 'c'
	UNION ALL SELECT n FROM q_d WHERE k = 'stopped' AND c.consumer = 'd') AS n
FROM incbatch.consumers c JOIN incbatch.paths p USING (pipeline, trigger_interval)
WHERE c.pipeline = 'q' ORDER BY 1;
ALTER TABLE q_state1 DROP CONSTRAINT in_the_way;
SELECT incbatch.resume_pipeline('q');
CALL family_exact('q');
UPDATE t SET k = 'paused' WHERE id = 500;
DELETE FROM t WHERE id IN (501, 502);
\set VERBOSITY default

-- ---------------------------------------------------------------------
-- Names, views on top, grants, owners
-- ---------------------------------------------------------------------
CREATE ROLE regress_incbatch_reader IN ROLE incbatch_user;
CREATE ROLE regress_incbatch_owner IN ROLE incbatch_user;
GRANT USAGE ON SCHEMA consumers TO regress_incbatch_reader, regress_incbatch_owner;
ALTER VIEW p_x RENAME COLUMN n TO orders;
ALTER VIEW p_x RENAME TO fast;
ALTER VIEW p RENAME COLUMN h TO hour;
ALTER VIEW p RENAME TO p2;
CREATE VIEW dashboard AS SELECT k, sum(orders) AS orders FROM fast GROUP BY k;
GRANT SELECT ON fast TO regress_incbatch_reader;
COMMENT ON VIEW fast IS 'a comment';
SELECT incbatch.create_consumer('Late "shift"', 'p2', freshness => '1 hour');
SELECT attname FROM pg_attribute WHERE attrelid = '"p2_Late ""shift"""'::regclass ORDER BY attnum;
SELECT incbatch.set_tier('x', 'p2', 4);
SELECT incbatch.set_tier('y', 'p2', 1);
TABLE family;
CALL incbatch.refresh_pipeline('p2');
SET ROLE regress_incbatch_reader;
SELECT count(*), sum(orders) FROM fast;
SELECT count(*) FROM "p2_Late ""shift""";
SELECT count(*) FROM p_state;
SELECT incbatch.set_tier('x', 'p2', 1);
SELECT incbatch.create_consumer('mine', 'p2', tier => 1);
SELECT incbatch.drop_consumer('x', 'p2');
RESET ROLE;
SELECT sum(orders) FROM dashboard;
SELECT obj_description('fast'::regclass);
SELECT incbatch.drop_consumer('x', 'p2');
CALL family_exact('p2');
-- settings of the table come along, those that LIKE copies and the others
ALTER TABLE p_state SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);
ALTER TABLE p_state ALTER k SET STORAGE MAIN;
SELECT incbatch.create_consumer('new', 'p2', freshness => '3 s');
SELECT relname, reloptions FROM pg_class WHERE relnamespace = 'consumers'::regnamespace AND relname ~ '^p2?_state\d*$' ORDER BY 1;
SELECT c.relname, i.indisunique, i.indnullsnotdistinct FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
WHERE c.relnamespace = 'consumers'::regnamespace AND c.relname ~ '^p2?_state\d*$' ORDER BY 1;
-- relations of several owners
ALTER VIEW p2 OWNER TO regress_incbatch_owner;
\set VERBOSITY terse
SELECT incbatch.create_consumer('newer', 'p2', freshness => '2 s');
\set VERBOSITY default
ALTER VIEW p2 OWNER TO CURRENT_USER;
-- the owner, and who made the consumer for him
GRANT CREATE ON SCHEMA consumers TO regress_incbatch_owner;
GRANT SELECT ON t TO regress_incbatch_owner;
SET ROLE regress_incbatch_owner;
SELECT incbatch.create_pipeline('mine', 'SELECT v, count(*) FROM t GROUP BY v');
RESET ROLE;
SELECT incbatch.create_consumer('a', 'mine', tier => 1), incbatch.create_consumer('b', 'mine', tier => 2);
SELECT relname, pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'consumers'::regnamespace AND relname ~ '^mine' AND relkind IN ('r', 'v') ORDER BY 1;
CALL family_exact('mine');
SET ROLE regress_incbatch_owner;
SELECT incbatch.set_tier('a', 'mine', 3);
RESET ROLE;
REASSIGN OWNED BY regress_incbatch_owner TO CURRENT_USER;
DELETE FROM t WHERE id = 500;
SELECT incbatch.create_consumer('c', 'mine', tier => 4);
CALL family_exact('mine');
DROP OWNED BY regress_incbatch_owner, regress_incbatch_reader;
DROP ROLE regress_incbatch_owner, regress_incbatch_reader;

-- ---------------------------------------------------------------------
-- As the README has it
-- ---------------------------------------------------------------------
SELECT incbatch.create_pipeline('orders_daily', $$
	SELECT date_trunc('day', ts) AS day, count(*) AS orders FROM t GROUP BY 1
$$, lateness => '1 hour');
SELECT incbatch.create_consumer('marketing', 'orders_daily', tier => 2);
SELECT incbatch.create_consumer('executive', 'orders_daily', freshness => '1 day');
SELECT incbatch.create_consumer('billing', 'orders_daily', tier => 3, emit => 'final');
CALL incbatch.refresh_pipeline('orders_daily');
SELECT count(*) FROM orders_daily_marketing;
SELECT incbatch.set_tier('executive', 'orders_daily', 3);
SELECT incbatch.drop_consumer('marketing', 'orders_daily');
CALL family_exact('orders_daily');
SELECT incbatch.drop_pipeline('orders_daily');

-- ---------------------------------------------------------------------
-- What is dropped
-- ---------------------------------------------------------------------
DROP VIEW mine;
DROP VIEW mine_a;
TABLE family;
CREATE VIEW on_top AS SELECT count(*) FROM mine_b;
DROP VIEW mine_b;
SELECT incbatch.drop_consumer('b', 'mine');
DROP VIEW mine_b CASCADE;
CALL family_exact('mine');
BEGIN;
DROP VIEW mine_c;
SELECT consumer FROM incbatch.consumers WHERE pipeline = 'mine';
SELECT incbatch.create_consumer('c', 'mine', tier => 1);
ROLLBACK;
BEGIN;
DROP VIEW mine CASCADE;
SELECT count(*) FROM incbatch.pipelines WHERE pipeline = 'mine';
SELECT relname FROM pg_class WHERE relnamespace = 'consumers'::regnamespace AND relname LIKE 'mine%' AND relkind <> 'i';
ROLLBACK;
CALL family_exact('mine');
SELECT incbatch.drop_pipeline('mine');
SELECT relname FROM pg_class WHERE relnamespace = 'consumers'::regnamespace AND relname LIKE 'mine%' AND relkind <> 'i';
SELECT consumer FROM incbatch.consumers ORDER BY 1;
-- one state table of several
DROP TABLE q_state1;
SET client_min_messages = warning;
DROP TABLE q_state1 CASCADE;
RESET client_min_messages;
SELECT relname FROM pg_class WHERE relnamespace = 'consumers'::regnamespace AND relname LIKE 'q%' AND relkind <> 'i';
SELECT count(*) FROM incbatch.path a LEFT JOIN incbatch.pipeline p ON p.id = a.pipeline WHERE p.id IS NULL;
-- two consumers by one statement
SELECT incbatch.create_pipeline('q', 'SELECT k, count(*) AS n, max(v) FROM t GROUP BY k', trigger_interval => '0');
SELECT incbatch.create_consumer('a', 'q', tier => 1), incbatch.create_consumer('b', 'q', tier => 2);
DROP VIEW q_a, q_b;
CALL family_exact('q');
TABLE family;
SELECT incbatch.drop_pipeline('q'), incbatch.drop_pipeline('p2');
SELECT relname FROM pg_class WHERE relnamespace = 'consumers'::regnamespace AND relkind IN ('r', 'v') ORDER BY 1;

-- ---------------------------------------------------------------------
-- Final rows
-- ---------------------------------------------------------------------
CREATE TABLE e (id int PRIMARY KEY, ts timestamptz, local timestamp, d date, v int);
ALTER TABLE e REPLICA IDENTITY FULL;
SET TimeZone = 'Europe/Berlin';
SELECT incbatch.create_pipeline('per_day', $$
	SELECT date_trunc('day', ts) AS day, count(*) AS n, sum(v) AS v FROM e GROUP BY 1
$$, trigger_interval => '0');
SELECT incbatch.create_consumer('books', 'per_day', tier => 1, emit => 'final');
SELECT incbatch.alter_pipeline('per_day', lateness => '1 hour');
SELECT incbatch.create_consumer('books', 'per_day', tier => 1, emit => 'final');
SELECT incbatch.create_consumer('screen', 'per_day', tier => 1);
SELECT incbatch.create_pipeline('per_key', 'SELECT v, count(*) FROM e GROUP BY v', trigger_interval => '0');
SELECT incbatch.create_consumer('books', 'per_key', tier => 1, emit => 'final');
SELECT incbatch.create_pipeline('hops', $$
	SELECT w.s, w.e, count(*) AS n FROM e, incbatch.hop(e.ts, '2 hours', '1 hour') AS w(s, e) GROUP BY 1, 2
$$, lateness => '0', trigger_interval => '0');
SELECT incbatch.create_consumer('books', 'hops', tier => 1, emit => 'final');
SELECT incbatch.create_pipeline('bins', $$
	SELECT date_bin('15 minutes', local, '2000-01-01') AS b, v, count(*) AS n FROM e GROUP BY 1, 2
$$, lateness => '0', late_policy => 'apply', trigger_interval => '0');
SELECT incbatch.create_consumer('books', 'bins', tier => 1, emit => 'final');
SELECT incbatch.create_pipeline('weeks', $$
	SELECT incbatch.tumble(d, '7 days') AS week, count(*) AS n FROM e GROUP BY 1
$$, lateness => '0', trigger_interval => '0');
SELECT incbatch.create_consumer('books', 'weeks', tier => 1, emit => 'final');
CREATE PROCEDURE refresh_all() LANGUAGE plpgsql AS $$
DECLARE p text;
BEGIN
	FOR p IN SELECT pipeline FROM incbatch.pipelines ORDER BY 1 LOOP
		CALL incbatch.refresh_pipeline(p);
	END LOOP;
END $$;
CALL refresh_all();
-- nothing was seen yet
SELECT (SELECT count(*) FROM per_day_books) + (SELECT count(*) FROM hops_books) + (SELECT count(*) FROM bins_books) + (SELECT count(*) FROM weeks_books) AS rows;
INSERT INTO e SELECT i, '2024-03-29 22:00+01'::timestamptz + i * interval '1 hour', '2024-03-29 22:00'::timestamp + i * interval '1 hour',
	'2024-03-01'::date + i / 4, i FROM generate_series(0, 60) i;
INSERT INTO e VALUES (1000, NULL, NULL, NULL, 1), (1001, '-infinity', '-infinity', '-infinity', 2), (1002, 'infinity', 'infinity', 'infinity', 3);
CALL refresh_all();
-- the days that have ended an hour before the latest event, in the pipeline's zone whatever the reader's is
SELECT incbatch.watermark('per_day');
TABLE per_day_books ORDER BY 1;
SET TimeZone = 'Pacific/Auckland';
SELECT day AT TIME ZONE 'Europe/Berlin' AS day, n FROM per_day_books ORDER BY 1;
SET TimeZone = 'America/Los_Angeles';
SELECT day AT TIME ZONE 'Europe/Berlin' AS day, n FROM per_day_books ORDER BY 1;
SET TimeZone = 'Europe/Berlin';
SELECT max(s), max(e), count(*) FROM hops_books;
SELECT max(s), max(e), count(*) FROM hops WHERE e <= incbatch.watermark('hops');
SELECT max(b), count(*), count(*) FILTER (WHERE b IS NULL) AS nulls FROM bins_books;
SELECT max(b), count(*) FROM bins WHERE b + interval '15 minutes' <= (SELECT max(local) FROM e WHERE isfinite(local));
TABLE weeks_books ORDER BY 1;
-- a final row stays what it is, and more follow
CREATE TABLE before AS TABLE per_day_books;
INSERT INTO e VALUES (2000, '2024-03-30 12:00+01', '2024-03-30 12:00', '2024-03-30', 7);
DELETE FROM e WHERE id = 5;
INSERT INTO e VALUES (2001, '2024-04-02 12:00+02', '2024-04-02 12:00', '2024-04-02', 7);
CALL refresh_all();
SELECT count(*) AS before, (SELECT count(*) FROM (TABLE before INTERSECT TABLE per_day_books) x) AS still, (SELECT count(*) FROM per_day_books) AS now FROM before;
-- another cadence, another path: the same rows
SELECT incbatch.set_tier('books', 'per_day', 3);
SELECT incbatch.set_tier('books', 'per_day', 4);
SELECT (SELECT count(*) FROM (TABLE before INTERSECT TABLE per_day_books) x) AS still, (SELECT count(*) FROM per_day_books) AS now;
ALTER VIEW per_day RENAME COLUMN day TO tag;
SELECT incbatch.create_consumer('books2', 'per_day', tier => 2, emit => 'final');
SELECT count(*) FROM per_day_books2;
CALL incbatch.refresh_pipeline('per_day');
SELECT count(*) FROM (TABLE per_day_books EXCEPT TABLE per_day_books2) x;
-- each path keeps what was late for it
SELECT count(DISTINCT path) AS paths, count(*) AS rows, count(DISTINCT row::text) AS changes FROM incbatch.late_rows WHERE pipeline = 'per_day';
-- anybody who may read the relation
CREATE ROLE regress_incbatch_reader;
GRANT USAGE ON SCHEMA consumers TO regress_incbatch_reader;
GRANT SELECT ON per_day_books TO regress_incbatch_reader;
SET ROLE regress_incbatch_reader;
SELECT count(*) FROM per_day_books;
RESET ROLE;
DROP OWNED BY regress_incbatch_reader;
DROP ROLE regress_incbatch_reader;
SELECT p.pipeline, count(v.difference) FROM incbatch.pipelines p
LEFT JOIN LATERAL incbatch.verify_pipeline(p.pipeline) v ON true GROUP BY 1 ORDER BY 1;
RESET TimeZone;

RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA consumers CASCADE;
SELECT count(*) FROM incbatch.pipelines;
SELECT count(*) FROM incbatch.consumers;
