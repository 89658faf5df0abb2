--
-- The first pipeline: orders by hour, category and region, from its creation
-- to its end
--
CREATE SCHEMA raw;
CREATE SCHEMA dim;
CREATE SCHEMA agg;
CREATE TABLE dim.product (product_id int PRIMARY KEY, category text NOT NULL);
CREATE TABLE raw.orders (
	order_id        bigint PRIMARY KEY,
	order_timestamp timestamptz NOT NULL,
	product_id      int NOT NULL,
	region          text,
	amount_cents    int NOT NULL
);
ALTER TABLE raw.orders REPLICA IDENTITY FULL;
INSERT INTO dim.product VALUES (1, 'books'), (2, 'toys'), (3, 'games');
INSERT INTO raw.orders VALUES
	(1, '2024-05-01 09:10+00', 1, 'north', 1250),
	(2, '2024-05-01 09:50+00', 2, 'south', 2000),
	(3, '2024-05-01 10:05+00', 1, 'north', 750);

-- It returns at once; the worker backfills.
SELECT incbatch.create_pipeline('agg.orders_by_hour', $$
	SELECT date_trunc('hour', o.order_timestamp) AS hour_ts, p.category, o.region,
	       count(*) AS orders, sum(o.amount_cents) / 100.0 AS revenue
	FROM raw.orders o JOIN dim.product p ON p.product_id = o.product_id
	GROUP BY 1, 2, 3
$$);
CALL incbatch.refresh_pipeline('agg.orders_by_hour');
SET TimeZone = 'UTC';
SELECT * FROM agg.orders_by_hour ORDER BY hour_ts, category, region;

-- Every kind of change is followed.
INSERT INTO raw.orders VALUES
	(4, '2024-05-01 10:20+00', 3, 'south', 4999),
	(5, '2024-05-01 10:59+00', 3, NULL, 1);
UPDATE raw.orders SET amount_cents = 1000 WHERE order_id = 1;
UPDATE raw.orders SET region = 'north' WHERE order_id = 4;
DELETE FROM raw.orders WHERE order_id = 2;
CALL incbatch.refresh_pipeline('agg.orders_by_hour');
SELECT * FROM agg.orders_by_hour ORDER BY hour_ts, category, region;
CALL exact('agg.orders_by_hour');

-- The types and names are the query's own.
\d agg.orders_by_hour

-- What is known of it
SELECT pipeline, relation, source, event_time, lateness, late_policy, trigger_interval,
       watermark, state, strategy, owner = current_user AS mine, last_error
FROM incbatch.pipelines;
SELECT query FROM incbatch.pipelines;

-- Another cadence: as soon as there is work.  wait_for triggers nothing.
SELECT incbatch.alter_pipeline('agg.orders_by_hour', trigger_interval => '0');
SELECT trigger_interval FROM incbatch.pipelines;
INSERT INTO raw.orders VALUES (6, '2024-05-01 11:00+00', 2, 'east', 100);
SELECT incbatch.wait_for('agg.orders_by_hour');
SELECT * FROM agg.orders_by_hour WHERE region = 'east';

-- A pause holds everything back, but loses nothing.
SELECT incbatch.pause_pipeline('agg.orders_by_hour');
SELECT state FROM incbatch.pipelines;
SELECT status FROM incbatch.lag;
UPDATE raw.orders SET region = 'west' WHERE region = 'east';
SELECT incbatch.wait_for('agg.orders_by_hour', timeout => '0');
CALL incbatch.refresh_pipeline('agg.orders_by_hour');
SELECT region FROM agg.orders_by_hour WHERE region IN ('east', 'west');
SELECT incbatch.resume_pipeline('agg.orders_by_hour');
CALL exact('agg.orders_by_hour');
SELECT region FROM agg.orders_by_hour WHERE region IN ('east', 'west');
SELECT state FROM incbatch.pipelines;

-- A rebuild repairs what someone has damaged, which verify_pipeline finds.
UPDATE agg.orders_by_hour_state SET row_count = row_count + 10 WHERE region = 'west';
DELETE FROM agg.orders_by_hour_state WHERE region = 'north' AND category = 'books';
SELECT difference, row_in_aggregate->>'orders' AS in_aggregate, row_in_batch->>'orders' AS in_batch
FROM incbatch.verify_pipeline('agg.orders_by_hour')
ORDER BY row_in_batch->>'region', row_in_batch->>'hour_ts';
SELECT incbatch.rebuild_pipeline('agg.orders_by_hour');
CALL exact('agg.orders_by_hour');

-- Created twice, dropped twice
SELECT incbatch.create_pipeline('agg.orders_by_hour', 'SELECT 1', if_not_exists => true);
SELECT incbatch.drop_pipeline('agg.orders_by_hour');
SELECT incbatch.drop_pipeline('agg.orders_by_hour', if_exists => true);
\d agg.*
SELECT count(*) FROM incbatch.pipelines;

-- One that shall not count what is there already, and one that is rolled back
SELECT incbatch.create_pipeline('agg.from_now', $$
	SELECT region, count(*) AS orders FROM raw.orders GROUP BY region
$$, initialize => false);
CALL incbatch.refresh_pipeline('agg.from_now');
INSERT INTO raw.orders VALUES (7, '2024-05-01 12:00+00', 2, 'east', 100);
CALL incbatch.refresh_pipeline('agg.from_now');
TABLE agg.from_now;
BEGIN;
SELECT incbatch.create_pipeline('agg.never', 'SELECT region, count(*) FROM raw.orders GROUP BY 1');
ROLLBACK;
SELECT pipeline FROM incbatch.pipelines;
\d agg.never*

SELECT incbatch.drop_pipeline('agg.from_now');
DROP SCHEMA raw, dim, agg CASCADE;
