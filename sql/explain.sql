--
-- explain_pipeline: each transform, its strategy and its state; and that
-- recompute reads by the index that it names
--
CREATE SCHEMA explained;
SET search_path = explained, public;
SET TimeZone = 'UTC';
\x auto

CREATE TABLE product (product_id int PRIMARY KEY, category text);
CREATE TABLE "Region" (name text, country text);
CREATE TABLE orders (id int PRIMARY KEY, product_id int, region text, ts timestamptz, cents int, weight float8, price numeric);
ALTER TABLE orders REPLICA IDENTITY FULL;
INSERT INTO product SELECT i, 'category ' || i % 3 FROM generate_series(1, 10) i;
INSERT INTO "Region" VALUES ('north', 'Norway'), ('south', 'Spain');
INSERT INTO orders SELECT i, i % 10 + 1, CASE WHEN i % 2 = 0 THEN 'north' ELSE 'south' END,
	timestamptz '2024-01-01 UTC' + i * interval '1 min', i, i / 8.0, i / 100.0
FROM generate_series(1, 20000) i;
ANALYZE orders, product;

-- the query of the README, and every kind of transform
SELECT incbatch.create_pipeline('hourly', $$
	SELECT date_trunc('hour', o.ts) AS hour_ts, p.category, r.country, count(*) AS orders, sum(o.cents)/100.0 AS revenue,
	       max(o.price) AS most, sum(o.price) FILTER (WHERE o.cents > 100) AS s, stddev(cents) AS d
	FROM orders o JOIN product p ON p.product_id = o.product_id LEFT JOIN "Region" r ON r.name = o.region
	WHERE o.cents > 0 AND p.category <> 'none'
	GROUP BY 1, 2, 3 HAVING count(*) > 1 ORDER BY 1, sum(o.cents) DESC
$$);
CALL incbatch.refresh_pipeline('hourly');
SELECT transform, kind, strategy, key_cardinality, "window", watermark, detail FROM incbatch.explain_pipeline('hourly');
-- what is stateful has bytes
SELECT count(*) FROM incbatch.explain_pipeline('hourly') WHERE (state_bytes > 0) <> (kind = 'stateful')
	OR (key_cardinality IS NOT NULL) <> (kind = 'stateful') OR strategy NOT IN ('delta', 'recompute') OR detail = '';
SELECT state_bytes = pg_total_relation_size('hourly_state') AS size FROM incbatch.explain_pipeline('hourly') WHERE transform LIKE 'group by %';

-- recompute, without an index and with one; a window and plain keys
SELECT incbatch.create_pipeline('regions', $$
	SELECT region, count(DISTINCT product_id) AS products, avg(weight) AS weight, count(*),
	       string_agg(region, ',' ORDER BY id) IS NULL AS nothing, mode() WITHIN GROUP (ORDER BY cents)
	FROM orders GROUP BY region
$$);
SELECT incbatch.create_pipeline('days', $$
	SELECT date_trunc('day', ts) AS day, region, count(DISTINCT product_id) AS products FROM orders GROUP BY 1, 2
$$);
SELECT incbatch.create_pipeline('categories', $$
	SELECT category, percentile_cont(0.5) WITHIN GROUP (ORDER BY cents) AS median FROM orders JOIN product USING (product_id) GROUP BY category
$$);
SELECT incbatch.create_pipeline('doubled', $$
	SELECT cents % 100 AS c, count(DISTINCT product_id) AS products FROM orders GROUP BY 1
$$);
CALL incbatch.refresh_pipeline('regions');
CALL incbatch.refresh_pipeline('days');
SELECT transform, kind, strategy, key_cardinality, detail FROM incbatch.explain_pipeline('regions');
SELECT pipeline, transform, e.strategy, "window", e.watermark, e.detail
FROM incbatch.pipelines p, incbatch.explain_pipeline(p.pipeline) e
WHERE pipeline IN ('days', 'categories', 'doubled') AND transform !~ '^aggregate' ORDER BY pipeline, transform;
-- indexes that are of no use: partial, of another type, on later columns
CREATE INDEX ON orders (region) WHERE cents > 5;
CREATE INDEX ON orders USING hash (region);
CREATE INDEX ON orders (product_id, region);
SELECT detail FROM incbatch.explain_pipeline('regions') WHERE transform LIKE 'group by%';
-- do as it says
CREATE INDEX orders_day ON orders (ts);
CREATE INDEX orders_c ON orders ((cents % 100));
SELECT pipeline, e.detail FROM incbatch.pipelines p, incbatch.explain_pipeline(p.pipeline) e
WHERE pipeline IN ('regions', 'days', 'doubled') AND transform LIKE 'group by%' ORDER BY pipeline;

-- subqueries, grouping sets, one group, no aggregates
SELECT incbatch.create_pipeline('nested', $$
	WITH o AS (SELECT date_trunc('day', ts) AS day, region, cents, category FROM orders JOIN product USING (product_id) WHERE cents > 5)
	SELECT day, category, count(DISTINCT cents) AS n FROM o LEFT JOIN "Region" r ON r.name = o.region WHERE region IN (SELECT name FROM "Region") GROUP BY 1, 2
$$);
SELECT incbatch.create_pipeline('sets', $$
	SELECT region, date_trunc('day', ts) AS day, grouping(region) AS g, max(cents) AS most FROM orders GROUP BY ROLLUP (1, 2)
$$);
SELECT incbatch.create_pipeline('total', 'SELECT sum(weight) AS weight FROM orders');
SELECT incbatch.create_pipeline('names', 'SELECT DISTINCT region FROM orders');
SELECT pipeline, transform, kind, e.strategy, "window", e.detail FROM incbatch.pipelines p, incbatch.explain_pipeline(p.pipeline) e
WHERE pipeline IN ('nested', 'sets', 'total', 'names') ORDER BY pipeline, kind, transform COLLATE "C";
SELECT count(incbatch.drop_pipeline(p)) FROM unnest('{sets,total,names}'::text[]) p;
-- windows that close
SELECT incbatch.create_pipeline('closing', $$
	SELECT incbatch.tumble(ts, '15 minutes') AS quarter, w.window_start, count(*) FROM orders, incbatch.hop(ts, '2 hours', '1 hour') w GROUP BY 1, 2
$$, lateness => '1 hour');
CALL incbatch.refresh_pipeline('closing');
SELECT transform, "window", watermark, detail FROM incbatch.explain_pipeline('closing');

-- ---------------------------------------------------------------------
-- The indexes are used: by a window's times, by an expression, by a key.
-- ---------------------------------------------------------------------
CREATE TABLE many (id int PRIMARY KEY, k int, v int);
ALTER TABLE many REPLICA IDENTITY FULL;
INSERT INTO many SELECT i, i / 10, i FROM generate_series(1, 20000) i;
INSERT INTO many VALUES (0, NULL, 1);
CREATE INDEX many_k ON many (k);
ANALYZE many, orders;
SELECT incbatch.create_pipeline('keys', 'SELECT k, count(DISTINCT v) AS values, max(v) AS most FROM many GROUP BY k');
SELECT incbatch.create_pipeline('largest', 'SELECT k, max(v) AS most FROM many GROUP BY k');
SELECT transform, detail FROM incbatch.explain_pipeline('largest');
-- The worker reports what it scanned now and then, so do it until it shows.
CREATE PROCEDURE uses_index(pipeline text, change text, index regclass)
LANGUAGE plpgsql AS $$
DECLARE
	before bigint := pg_stat_get_numscans(index);
	started timestamptz := clock_timestamp();
BEGIN
	LOOP
		EXECUTE change;
		COMMIT;
		CALL incbatch.refresh_pipeline(pipeline);
		PERFORM pg_stat_clear_snapshot();
		EXIT WHEN pg_stat_get_numscans(index) > before;
		IF clock_timestamp() > started + interval '30 s' THEN
			RAISE 'pipeline % does not use index %', pipeline, index;
		END IF;
	END LOOP;
END $$;
CALL incbatch.refresh_pipeline('doubled');
CALL incbatch.refresh_pipeline('keys');
CALL incbatch.refresh_pipeline('largest');
SELECT incbatch.pause_pipeline(p) FROM unnest('{hourly,regions,categories,closing,nested,doubled,keys,largest}'::text[]) p;
CALL uses_index('days', 'UPDATE orders SET product_id = product_id % 10 + 1 WHERE id = 1000', 'orders_day');
SELECT incbatch.pause_pipeline('days'), incbatch.resume_pipeline('doubled');
CALL uses_index('doubled', 'UPDATE orders SET product_id = product_id % 10 + 1 WHERE id = 1000', 'orders_c');
SELECT incbatch.pause_pipeline('doubled'), incbatch.resume_pipeline('keys');
CALL uses_index('keys', 'UPDATE many SET v = v + 1 WHERE id = 1000', 'many_k');
CALL uses_index('keys', 'UPDATE many SET v = v + 1 WHERE id = 0', 'many_k');
SELECT incbatch.pause_pipeline('keys'), incbatch.resume_pipeline('nested');
CALL uses_index('nested', 'UPDATE orders SET cents = cents + 1 WHERE id = 1000', 'orders_day');
SELECT incbatch.pause_pipeline('nested'), incbatch.resume_pipeline('largest');
CALL uses_index('largest', 'UPDATE many SET v = 5000 - v WHERE id = 2009', 'many_k');
SELECT incbatch.resume_pipeline(p) FROM unnest('{hourly,regions,categories,closing,doubled,keys,days,nested}'::text[]) p;
CALL exact('hourly');
CALL exact('regions');
CALL exact('days');
CALL exact('categories');
CALL exact('doubled');
CALL exact('keys');
CALL exact('largest');
CALL exact('nested');

-- ---------------------------------------------------------------------
-- Of a partitioned source only the partitions of the touched windows are read.
-- ---------------------------------------------------------------------
CREATE TABLE log (id int, ts timestamp, v float8) PARTITION BY RANGE (ts);
CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
CREATE TABLE log_2 PARTITION OF log FOR VALUES FROM ('2024-02-01') TO ('2024-03-01');
ALTER TABLE log REPLICA IDENTITY FULL;
ALTER TABLE log_1 REPLICA IDENTITY FULL;
ALTER TABLE log_2 REPLICA IDENTITY FULL;
INSERT INTO log SELECT i, timestamp '2024-01-20' + i * interval '1 hour', i / 10.0 FROM generate_series(1, 500) i;
INSERT INTO log VALUES (0, '2024-01-31', 'Infinity'), (1, '2024-02-01', -1);
SELECT incbatch.create_pipeline('daily_log', $$SELECT date_trunc('day', ts) AS day, sum(v) AS v, avg(v) AS a FROM log GROUP BY 1$$);
CALL exact('daily_log');
SELECT detail FROM incbatch.explain_pipeline('daily_log') WHERE transform LIKE 'group by%';
CREATE PROCEDURE reads_one(change text, used regclass, unused regclass)
LANGUAGE plpgsql AS $$
DECLARE
	used_before bigint;
	unused_before bigint;
	started timestamptz := clock_timestamp();
BEGIN
	-- what was scanned before this has been told when the second round is told
	FOR round IN 1 .. 2 LOOP
		PERFORM pg_stat_clear_snapshot();
		used_before := pg_stat_get_numscans(used);
		unused_before := pg_stat_get_numscans(unused);
		LOOP
			EXECUTE change;
			COMMIT;
			CALL incbatch.refresh_pipeline('daily_log');
			PERFORM pg_stat_clear_snapshot();
			EXIT WHEN pg_stat_get_numscans(used) > used_before;
			IF clock_timestamp() > started + interval '30 s' THEN
				RAISE 'table % is not read', used;
			END IF;
		END LOOP;
	END LOOP;
	IF pg_stat_get_numscans(unused) > unused_before THEN
		RAISE 'table % is read', unused;
	END IF;
END $$;
CALL reads_one('INSERT INTO log VALUES (1000, ''2024-02-05'', 0.1)', 'log_2', 'log_1');
CALL reads_one('INSERT INTO log VALUES (1000, ''2024-01-25'', 0.1)', 'log_1', 'log_2');
CALL exact('daily_log');
UPDATE log SET ts = ts + interval '10 days' WHERE id % 10 = 0;
CALL exact('daily_log');
DELETE FROM log WHERE id % 3 = 0;
CALL exact('daily_log');
TRUNCATE log;
CALL exact('daily_log');

-- ---------------------------------------------------------------------
-- Whose pipeline it is
-- ---------------------------------------------------------------------
CREATE ROLE explain_reader;
GRANT USAGE ON SCHEMA explained TO explain_reader;
GRANT SELECT ON hourly TO explain_reader;
SET ROLE explain_reader;
SELECT * FROM incbatch.explain_pipeline('hourly');
RESET ROLE;
SELECT * FROM incbatch.explain_pipeline('absent');
SELECT * FROM incbatch.explain_pipeline(NULL);
-- an empty pipeline
TRUNCATE many;
CALL exact('keys');
SELECT transform, key_cardinality, state_bytes > 0 AS bytes FROM incbatch.explain_pipeline('keys');
-- windows over the groups
SELECT incbatch.create_pipeline('ranked', 'SELECT k, rank() OVER (PARTITION BY k % 2 ORDER BY count(*) DESC, k), sum(count(*)) OVER w AS running FROM many GROUP BY k WINDOW w AS (ORDER BY k)');
SELECT transform FROM incbatch.explain_pipeline('ranked') WHERE transform ~ '^expression';

SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;
SET client_min_messages = warning;
DROP SCHEMA explained CASCADE;
DROP ROLE explain_reader;
