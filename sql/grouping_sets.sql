--
-- GROUPING SETS, ROLLUP and CUBE: a row of state for each set and group
--
CREATE SCHEMA grouping_sets;
SET search_path = grouping_sets, public;
SET jit = off;
CREATE TABLE sales (id int PRIMARY KEY, ts timestamp, region text, product int, qty int, price float8);
ALTER TABLE sales REPLICA IDENTITY FULL;
CREATE TABLE product (product int PRIMARY KEY, category text);
INSERT INTO product VALUES (1, 'books'), (2, 'toys'), (3, NULL);
CREATE PROCEDURE fill(first int, last int) LANGUAGE sql AS $$
	INSERT INTO sales SELECT i, timestamp '2024-01-01' + i % 30 * interval '7 hours', (ARRAY['north', 'south', NULL])[i % 3 + 1],
		NULLIF(i % 5, 4), NULLIF(i % 17, 3), i / 8.0 FROM generate_series(first, last) i
$$;

-- On an empty source: the empty set has a row.
SELECT incbatch.create_pipeline('rolled', 'SELECT region, product, count(*), sum(qty), min(qty), max(qty), avg(qty) FROM sales GROUP BY ROLLUP (region, product)');
CALL exact('rolled');
TABLE rolled;
\d rolled_state
CALL fill(1, 60);
SELECT incbatch.create_pipeline('cubed', $$
	SELECT category, date_trunc('day', ts) AS day, region, grouping(category, day_key, region) AS g, grouping(region), count(*), sum(price), max(qty)
	FROM (SELECT *, ts::date AS day_key FROM sales LEFT JOIN product USING (product)) s GROUP BY CUBE (category, day_key, region), date_trunc('day', ts)
$$);
SELECT incbatch.create_pipeline('sets', $$
	SELECT coalesce(region, CASE grouping(region) WHEN 1 THEN 'all' ELSE 'none' END) AS region, product % 2 AS odd, count(DISTINCT qty) AS different,
		array_agg(id ORDER BY id DESC) AS ids, percentile_disc(0.5) WITHIN GROUP (ORDER BY price), count(*) FILTER (WHERE qty > 5) AS many,
		rank(product % 2) WITHIN GROUP (ORDER BY qty) AS below
	FROM sales WHERE qty IS DISTINCT FROM 7 GROUP BY GROUPING SETS ((region, product % 2), (product % 2), (region), ())
$$);
SELECT incbatch.create_pipeline('twice', 'SELECT region, product, count(*), max(qty) FROM sales GROUP BY GROUPING SETS ((), (region), (), (product), (region), (region, product), ())');
SELECT incbatch.create_pipeline('product_of_rollups', 'SELECT region, product, qty % 2 AS odd, count(*), min(qty) FROM sales GROUP BY ROLLUP (region, product), ROLLUP (region, 3)');
SELECT incbatch.create_pipeline('distinct_sets', 'SELECT region, product, qty % 2 AS odd, count(*), min(qty) FROM sales GROUP BY DISTINCT ROLLUP (region, product), ROLLUP (region, 3)');
SELECT incbatch.create_pipeline('with_having', $$
	SELECT product, region, sum(qty) FROM sales GROUP BY product, ROLLUP (region) HAVING grouping(region) = 0 AND sum(qty) > 20 OR max(price) > 5 ORDER BY grouping(region), 3 DESC
$$);
SELECT incbatch.create_pipeline('no_total', 'SELECT region, product, count(*), string_agg(DISTINCT region, '','') AS names, bool_or(qty > 3) FROM sales GROUP BY GROUPING SETS (region, product)');
SELECT incbatch.create_pipeline('only_total', 'SELECT count(DISTINCT region), array_agg(id ORDER BY id), mode() WITHIN GROUP (ORDER BY qty), sum(price), stddev(qty) FROM sales');
SELECT incbatch.create_pipeline('empty_set', 'SELECT 1 AS one, count(*), min(qty) FROM sales WHERE region = ''north'' GROUP BY ()');
SELECT incbatch.create_pipeline('plain_grouping', 'SELECT region, grouping(region) AS g, count(*) FROM sales GROUP BY region');
SELECT incbatch.create_pipeline('windows', $$
	SELECT date_trunc('day', ts) AS day, product, count(*), min(price), max(ts), count(DISTINCT region) AS regions FROM sales GROUP BY GROUPING SETS ((1, 2), (1), (2))
$$);

CALL all_exact();
SELECT * FROM rolled ORDER BY region, product, count;
SELECT * FROM twice WHERE product IS NULL ORDER BY region, count;

SELECT transform, strategy FROM incbatch.explain_pipeline('rolled');
CALL fill(100, 130);
CALL all_exact();
-- a rolled-up row is touched by all changes, another one by its own
UPDATE sales SET qty = qty + 1, region = CASE region WHEN 'north' THEN NULL ELSE 'north' END WHERE id % 4 = 0;
CALL all_exact();
UPDATE sales SET product = NULLIF((product + 1) % 5, 2), price = price * 2, ts = ts - interval '1 day' WHERE id % 3 = 0 OR qty = 16;
CALL all_exact();
-- the extremes go
DELETE FROM sales WHERE qty IN (SELECT unnest(ARRAY[min(qty), max(qty)]) FROM sales);
CALL all_exact();
DELETE FROM sales WHERE region IS NULL;
CALL all_exact();
UPDATE sales SET qty = NULL, region = NULL WHERE product = 1;
CALL all_exact();
DELETE FROM sales WHERE region = 'north';
CALL all_exact();
DELETE FROM sales;
CALL all_exact();
TABLE rolled;
TABLE twice;
TABLE only_total;
TABLE empty_set;
CALL fill(1, 20);
CALL all_exact();
TRUNCATE sales;
CALL all_exact();
TABLE rolled;
TABLE only_total;
BEGIN; TRUNCATE sales; CALL fill(1, 20); UPDATE sales SET region = 'south', qty = -1 WHERE id < 8; COMMIT;
CALL all_exact();
SELECT count(incbatch.rebuild_pipeline(pipeline)) FROM incbatch.pipelines;
CALL all_exact();

SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;
SET client_min_messages = warning;
DROP SCHEMA grouping_sets CASCADE;
