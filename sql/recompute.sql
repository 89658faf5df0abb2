--
-- Aggregates that are evaluated again from the source when a row of their
-- group changes: DISTINCT, ORDER BY, percentiles, arrays, JSON, user-defined
--
CREATE SCHEMA recompute;
SET search_path = recompute, public;

CREATE TABLE sales (id int PRIMARY KEY, shop text, day date, item text, qty int, price numeric, note xml);
ALTER TABLE sales REPLICA IDENTITY FULL;
INSERT INTO sales
SELECT i, CASE i % 4 WHEN 0 THEN NULL ELSE 'shop ' || i % 4 END, CASE WHEN i % 5 > 0 THEN date '2024-01-01' + i % 5 END,
       'item ' || i % 6, CASE WHEN i % 7 > 0 THEN i % 7 END, i * 1.5, '<n/>'
FROM generate_series(1, 60) i;

-- a user's own: the product of all values
CREATE FUNCTION times(numeric, numeric) RETURNS numeric IMMUTABLE STRICT LANGUAGE sql AS 'SELECT $1 * $2';
CREATE AGGREGATE product(numeric) (SFUNC = times, STYPE = numeric);
CREATE AGGREGATE place(VARIADIC "any" ORDER BY VARIADIC "any") (SFUNC = ordered_set_transition_multi, STYPE = internal,
	FINALFUNC = rank_final, FINALFUNC_EXTRA, HYPOTHETICAL);

SELECT incbatch.create_pipeline('distinct_items', $$
	SELECT shop, day, count(*), count(DISTINCT item) AS items, sum(DISTINCT qty) AS quantities, avg(DISTINCT qty) AS mean,
	       count(DISTINCT item) FILTER (WHERE qty > 2) AS many, max(qty) AS most
	FROM sales GROUP BY shop, day
$$);
SELECT incbatch.create_pipeline('lists', $$
	SELECT shop, array_agg(id ORDER BY price DESC, id) AS ids, string_agg(item, ', ' ORDER BY id) AS items,
	       string_agg(DISTINCT item, '$1') AS names, array_agg(DISTINCT qty) AS quantities,
	       json_agg(item ORDER BY id) AS j, jsonb_agg(item ORDER BY id DESC NULLS FIRST) FILTER (WHERE qty > 3) AS jb,
	       json_object_agg(id, item ORDER BY id) AS o, jsonb_object_agg(coalesce(item, 'none'), qty ORDER BY id) AS ob,
	       xmlagg(note ORDER BY id)::text AS x, array_agg(ARRAY[id, qty] ORDER BY id) AS nested,
	       string_agg(item COLLATE "C", '-' ORDER BY item COLLATE "C" USING >, id) AS backwards
	FROM sales GROUP BY shop
$$);
SELECT incbatch.create_pipeline('ranks', $$
	SELECT day, percentile_cont(0.5) WITHIN GROUP (ORDER BY qty) AS median,
	       percentile_cont(ARRAY[0.1, 0.9]) WITHIN GROUP (ORDER BY qty) AS ends,
	       percentile_disc(0.25) WITHIN GROUP (ORDER BY price DESC) FILTER (WHERE id > 5) AS quarter,
	       mode() WITHIN GROUP (ORDER BY item) AS mode, rank(3) WITHIN GROUP (ORDER BY qty) AS rank,
	       dense_rank(3, 'item 2') WITHIN GROUP (ORDER BY qty, item DESC) AS dense,
	       percentile_disc((extract(day FROM day) / 10)::float8) WITHIN GROUP (ORDER BY id) AS by_key,
	       count(*) FILTER (WHERE qty > 1) AS n
	FROM sales GROUP BY day
$$);
SELECT incbatch.create_pipeline('own', $$
	SELECT shop, product(qty) AS product, round(product(DISTINCT qty), 1) + 1 AS more, bit_and(qty) AS a, bit_or(qty) AS o, bit_xor(qty) AS x,
	       range_agg(int4range(qty, qty + 2)) AS r, every(qty > 0) AS e, place(3) WITHIN GROUP (ORDER BY qty) AS p
	FROM sales GROUP BY shop HAVING product(qty) > 1 OR count(DISTINCT item) > 1
$$);
SELECT pipeline, strategy FROM incbatch.pipelines ORDER BY 1;
\d distinct_items_state
\set names {distinct_items,lists,ranks,own}
CALL all_exact(:'names');
SELECT shop, ids[1:4], items ~ '^item' AS items, names, quantities, ob FROM lists ORDER BY shop;
SELECT * FROM ranks ORDER BY day;
SELECT * FROM own ORDER BY shop;

-- one group touched by an insert, an update, a delete: the others stay
INSERT INTO sales VALUES (100, 'shop 1', '2024-01-01', 'item 99', 50, 7, '<m/>');
CALL all_exact(:'names');
SELECT items, most FROM distinct_items WHERE shop = 'shop 1' AND day = '2024-01-01';
UPDATE sales SET item = 'item 100', qty = NULL WHERE id = 100;
CALL all_exact(:'names');
DELETE FROM sales WHERE id = 100;
CALL all_exact(:'names');
SELECT strategy, sum(groups_changed) AS groups, sum(rows_in) AS rows FROM incbatch.batches WHERE pipeline = 'distinct_items' GROUP BY 1;

-- NULL keys, rows that move between groups, groups that empty
UPDATE sales SET qty = qty + 1 WHERE shop IS NULL;
CALL all_exact(:'names');
UPDATE sales SET day = NULL WHERE id % 6 = 0;
CALL all_exact(:'names');
UPDATE sales SET shop = CASE WHEN shop IS NULL THEN 'shop 9' END, day = day + 1 WHERE id % 2 = 0;
CALL all_exact(:'names');
DELETE FROM sales WHERE shop = 'shop 1' OR day = '2024-01-03';
CALL all_exact(:'names');
SELECT count(*) FROM own WHERE shop = 'shop 1';
UPDATE sales SET qty = NULL, item = NULL WHERE shop = 'shop 3' OR day = '2024-01-02';
CALL all_exact(:'names');
SELECT shop, day, items, quantities, mean, many, most FROM distinct_items WHERE shop = 'shop 3' ORDER BY day;
SELECT * FROM own WHERE shop = 'shop 3';
-- a row many times in one transaction; a group that comes and goes in one
BEGIN;
INSERT INTO sales VALUES (200, 'shop 5', '2024-02-01', 'x', 1, 1, NULL), (201, 'shop 6', '2024-02-01', 'y', 1, 1, NULL);
UPDATE sales SET qty = 2 WHERE id = 200;
UPDATE sales SET shop = 'shop 7', qty = 3 WHERE id = 200;
DELETE FROM sales WHERE id = 201;
COMMIT;
CALL all_exact(:'names');
SELECT shop, items, quantities FROM distinct_items WHERE day = '2024-02-01';
-- truncated, empty, and filled again in one transaction
BEGIN; INSERT INTO sales VALUES (300, 'shop 5', '2024-02-02', 'x', 1, 1, NULL); TRUNCATE sales; INSERT INTO sales VALUES (301, 'shop 8', '2024-02-02', 'z', 4, 1, NULL); COMMIT;
CALL all_exact(:'names');
SELECT shop, day, count, items, quantities, most FROM distinct_items;
DELETE FROM sales;
CALL all_exact(:'names');
SELECT (SELECT count(*) FROM distinct_items) + (SELECT count(*) FROM lists) + (SELECT count(*) FROM ranks) + (SELECT count(*) FROM own) AS groups;
INSERT INTO sales VALUES (301, 'shop 8', '2024-02-02', 'z', 4, 1, NULL);
CALL all_exact(:'names');

-- ---------------------------------------------------------------------
-- Keys that are equal but not the same
-- ---------------------------------------------------------------------
CREATE TABLE alike (id int PRIMARY KEY, n numeric, v int);
ALTER TABLE alike REPLICA IDENTITY FULL;
SELECT incbatch.create_pipeline('by_n', 'SELECT n, count(DISTINCT v) AS vs, array_agg(v ORDER BY v) AS all FROM alike GROUP BY n');
INSERT INTO alike VALUES (1, 1.0, 1), (2, 1.00, 2), (3, 2, 3);
CALL exact('by_n');
DELETE FROM alike WHERE id = 1;
INSERT INTO alike VALUES (4, 1.000, 2);
CALL incbatch.refresh_pipeline('by_n');
SELECT vs, "all" FROM by_n ORDER BY n;
SELECT count(*) FROM incbatch.verify_pipeline('by_n');

-- ---------------------------------------------------------------------
-- A lookup joined in: the group is what it is now
-- ---------------------------------------------------------------------
CREATE TABLE shops (shop text PRIMARY KEY, city text);
INSERT INTO shops VALUES ('shop 1', 'Rome'), ('shop 2', 'Rome'), ('shop 8', 'Oslo');
SELECT incbatch.create_pipeline('cities', $$
	SELECT s.city, count(DISTINCT item) AS items, string_agg(DISTINCT t.shop, ',') AS shops, max(qty) AS most
	FROM sales t LEFT JOIN shops s USING (shop) WHERE qty > 0 GROUP BY s.city
$$);
CALL exact('cities');
INSERT INTO sales SELECT i, 'shop ' || i % 4, '2024-01-01', 'item ' || i % 3, i, 1 FROM generate_series(1, 20) i;
CALL exact('cities');
SELECT * FROM cities ORDER BY 1;
DELETE FROM sales WHERE shop = 'shop 1';
CALL exact('cities');
DELETE FROM sales WHERE shop IN ('shop 2', 'shop 8');
CALL exact('cities');
SELECT * FROM cities ORDER BY 1;

-- ---------------------------------------------------------------------
-- Windows of time: only their rows are read
-- ---------------------------------------------------------------------
CREATE TABLE events (id int PRIMARY KEY, ts timestamptz, local timestamp, who int);
ALTER TABLE events REPLICA IDENTITY FULL;
INSERT INTO events SELECT i, timestamptz '2024-03-30 12:00 UTC' + i * interval '7 min', timestamp '2024-03-30 12:00' + i * interval '7 min', i % 5
FROM generate_series(1, 600) i;
INSERT INTO events VALUES (1001, 'infinity', 'infinity', 1), (1002, '-infinity', '-infinity', 1), (1003, NULL, NULL, 1),
	(1004, '0044-03-15 BC', '0044-03-15 BC', 1), (1005, '290000-01-01', '290000-01-01', 1);
SET TimeZone = 'Europe/Rome';
SELECT incbatch.create_pipeline('by_' || name, format('SELECT %s AS w, count(DISTINCT who) AS people, array_agg(id ORDER BY id) AS ids FROM events GROUP BY 1', expr))
FROM (VALUES ('hour', $$date_trunc('hour', ts)$$), ('day', $$date_trunc('day', ts)$$), ('week', $$date_trunc('week', local)$$),
             ('zone', $$date_trunc('month', ts, 'Asia/Kathmandu')$$), ('date', $$ts::date$$),
             ('local_date', $$local::date$$)) v(name, expr);
-- date_bin takes no infinite time
SELECT incbatch.create_pipeline('by_bin', $$
	SELECT date_bin('45 min', ts, '2024-01-01') AS w, count(DISTINCT who) AS people, array_agg(id ORDER BY id) AS ids
	FROM events WHERE isfinite(ts) GROUP BY 1
$$);
SELECT incbatch.create_pipeline('by_' || name, format('SELECT incbatch.tumble(%s) AS w, count(DISTINCT who) AS people, array_agg(id ORDER BY id) AS ids FROM events GROUP BY 1', args))
FROM (VALUES ('minutes', $$ts, '45 min'$$), ('weeks', $$ts, '14 days', '2024-01-02'$$), ('months', $$local, '2 months'$$)) v(name, args);
SELECT incbatch.create_pipeline('by_hop', $$
	SELECT w.window_start, count(DISTINCT who) AS people FROM events, incbatch.hop(ts, '24 hours', '6 hours') w GROUP BY w.window_start
$$);
SELECT incbatch.create_pipeline('by_hop_end', $$
	SELECT w.b, count(DISTINCT who) AS people FROM events, incbatch.hop(local, '2 months', '1 month') w(a, b) GROUP BY w.b
$$);
-- a zone where midnight came twice, and a day begins at the second
SELECT incbatch.create_pipeline('by_zoned_day', $$
	SELECT date_trunc('day', ts, 'America/Havana') AS w, count(DISTINCT who) AS people, array_agg(id ORDER BY id) AS ids FROM events GROUP BY 1
$$);
-- the window is made in a subquery, or is one of the grouping sets
SELECT incbatch.create_pipeline('by_nested', $$
	WITH e AS (SELECT incbatch.tumble(ts, '1 day') AS day, who, id FROM (SELECT ts, who % 3 AS who, id FROM events) e)
	SELECT day, who, array_agg(id ORDER BY id) AS ids FROM e GROUP BY 1, 2
$$);
SELECT incbatch.create_pipeline('by_sets', $$
	SELECT date_trunc('week', ts) AS week, who % 2 AS odd, count(DISTINCT who) AS people, min(id) AS first FROM events GROUP BY CUBE (1, 2)
$$);
SET DateStyle = 'German';
SELECT incbatch.create_pipeline('by_style', $$SELECT date_trunc('hour', ts) AS w, who, count(DISTINCT id) AS n FROM events GROUP BY 1, 2$$);
RESET DateStyle;
\set windows {by_hour,by_day,by_week,by_zone,by_bin,by_date,by_local_date,by_minutes,by_weeks,by_months,by_hop,by_hop_end,by_zoned_day,by_nested,by_sets,by_style}
CALL all_exact(:'windows');
-- in many windows at once, in one, at the borders, where clocks change
UPDATE events SET who = who + 1;
CALL all_exact(:'windows');
UPDATE events SET who = 77 WHERE id = 100;
CALL all_exact(:'windows');
UPDATE events SET ts = ts + interval '1 day', local = local + interval '1 day' WHERE id % 50 = 0;
CALL all_exact(:'windows');
INSERT INTO events VALUES (2001, '2024-03-31 00:59:59.999999 UTC', '2024-03-31 23:59:59.999999', 9), (2002, '2024-03-31 01:00 UTC', '2024-04-01', 9),
	(2003, '2024-10-27 00:30 UTC', '2024-10-27 02:30', 9), (2004, '2024-10-27 01:30 UTC', '2024-10-27 02:30', 9);
CALL all_exact(:'windows');
INSERT INTO events VALUES (2005, '2024-11-03 04:30 UTC', '2024-11-03', 9), (2006, '2024-11-03 05:30 UTC', '2024-11-03', 9);
CALL all_exact(:'windows');
SELECT w > '2024-11-03 04:30 UTC' AS begins_after_it, ids FROM by_zoned_day WHERE ids = '{2005,2006}';
DELETE FROM events WHERE id IN (2001, 2003, 1001, 1003) OR id % 3 = 0;
CALL all_exact(:'windows');
UPDATE events SET ts = NULL, local = NULL WHERE id % 20 = 1;
CALL all_exact(:'windows');
UPDATE events SET ts = '2024-05-01', local = '2024-05-01' WHERE ts IS NULL OR NOT isfinite(ts);
CALL all_exact(:'windows');
TRUNCATE events;
CALL all_exact(:'windows');
RESET TimeZone;

-- A row that an UPDATE moves to the end of the table, though the query reads
-- nothing of it that changed
CREATE TABLE places (id int PRIMARY KEY, f float8, note text);
CREATE TABLE places_by_key (id int PRIMARY KEY, note text);
ALTER TABLE places REPLICA IDENTITY FULL;
INSERT INTO places VALUES (1, 1e16, ''), (2, -1e16, ''), (3, 1, '');
INSERT INTO places_by_key VALUES (1, ''), (2, ''), (3, '');
SELECT incbatch.create_pipeline('summed', 'SELECT sum(f), array_agg(id ORDER BY f IS NULL) AS ids FROM places');
SELECT incbatch.create_pipeline('ids', 'SELECT array_agg(id ORDER BY id < 9) AS ids FROM places_by_key');
CALL incbatch.refresh_pipeline('summed');
CALL incbatch.refresh_pipeline('ids');
UPDATE places SET note = 'x' WHERE id = 1;
UPDATE places_by_key SET note = 'x' WHERE id = 1;
CALL incbatch.refresh_pipeline('summed');
CALL incbatch.refresh_pipeline('ids');
TABLE summed;
TABLE ids;
SELECT * FROM incbatch.verify_pipeline('summed');
SELECT * FROM incbatch.verify_pipeline('ids');

SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;
SET client_min_messages = warning;
DROP SCHEMA recompute CASCADE;
