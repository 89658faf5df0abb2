--
-- Partitioned sources: rows are in leaves, each with columns in an order of
-- its own; partitions come and go
--
CREATE SCHEMA partitions;
SET search_path = partitions, public;

-- Leaves of one layout, of another order, with dropped columns before and
-- between, of two levels, and a default partition
CREATE TABLE orders (gone int, id int NOT NULL, region text, amount numeric, ts timestamptz, note text)
	PARTITION BY LIST (region);
ALTER TABLE orders DROP COLUMN gone;
CREATE TABLE orders_a PARTITION OF orders FOR VALUES IN ('a');
CREATE TABLE orders_b (note text, ts timestamptz, x1 int, amount numeric, x2 text, region text, id int NOT NULL, x3 int);
ALTER TABLE orders_b DROP COLUMN x1, DROP COLUMN x2, DROP COLUMN x3;
ALTER TABLE orders ATTACH PARTITION orders_b FOR VALUES IN ('b');
CREATE TABLE orders_c PARTITION OF orders FOR VALUES IN ('c', 'd') PARTITION BY RANGE (id);
CREATE TABLE orders_c1 PARTITION OF orders_c FOR VALUES FROM (0) TO (1000);
CREATE TABLE orders_c2 (id int NOT NULL, note text, x int, ts timestamptz, amount numeric, region text);
ALTER TABLE orders_c2 DROP COLUMN x;
ALTER TABLE orders_c ATTACH PARTITION orders_c2 FOR VALUES FROM (1000) TO (2000);
CREATE TABLE orders_rest PARTITION OF orders DEFAULT;

-- Each leaf's identity matters, the root's does not
ALTER TABLE orders REPLICA IDENTITY FULL;
ALTER TABLE orders_a REPLICA IDENTITY FULL;
SELECT incbatch.create_pipeline('p', 'SELECT region, count(*), sum(amount) FROM orders GROUP BY region');
ALTER TABLE orders_b REPLICA IDENTITY FULL;
ALTER TABLE orders_c1 REPLICA IDENTITY FULL;
ALTER TABLE orders_c2 REPLICA IDENTITY FULL;
SELECT incbatch.create_pipeline('p', 'SELECT region, count(*), sum(amount) FROM orders GROUP BY region');
ALTER TABLE orders_rest REPLICA IDENTITY FULL;

INSERT INTO orders SELECT i, (ARRAY['a','b','c','d','e',NULL])[i % 6 + 1], i,
	'2024-01-01 00:00+00'::timestamptz + i * interval '7 min', 'n' || i
FROM generate_series(1, 60) i;
INSERT INTO orders SELECT i, 'c', i, '2024-01-01 00:00+00', NULL FROM generate_series(1001, 1010) i;
SELECT incbatch.create_pipeline('p', $$
	SELECT region, date_trunc('hour', ts) AS hour, count(*), sum(amount), avg(amount), min(amount), max(note)
	FROM orders GROUP BY 1, 2
$$);
-- one that needs few columns, and no region
SELECT incbatch.create_pipeline('q', 'SELECT id % 3 AS k, count(note), sum(amount) FROM orders WHERE amount > 2 GROUP BY 1');
-- of the middle of the tree, and of a leaf
SELECT incbatch.create_pipeline('mid', 'SELECT region, count(*), max(amount) FROM orders_c GROUP BY 1');
SELECT incbatch.create_pipeline('leaf', 'SELECT region, count(*), max(amount) FROM orders_c2 GROUP BY 1');
CALL exact('p');
CALL exact('q');
CALL exact('mid');
CALL exact('leaf');

\set names {p,q,mid,leaf}
-- Which pipelines need a rebuild, and why; after it they are exact.
CREATE PROCEDURE settle(INOUT exact int DEFAULT 0, INOUT inexact text DEFAULT '') LANGUAGE plpgsql AS $$
DECLARE
	name text;
	reason text;
	lost text[] := '{}';
BEGIN
	FOREACH name IN ARRAY '{p,q,mid,leaf}'::text[] LOOP
		BEGIN
			CALL incbatch.refresh_pipeline(name);
		EXCEPTION WHEN object_not_in_prerequisite_state THEN
			GET STACKED DIAGNOSTICS reason = PG_EXCEPTION_DETAIL;
			RAISE INFO '%: %', name, reason;
			lost := lost || name;
		END;
	END LOOP;
	PERFORM incbatch.rebuild_pipeline(l) FROM unnest(lost) l;
	COMMIT;
	CALL all_exact('{p,q,mid,leaf}', exact, inexact);
END $$;

-- Through the root and directly
INSERT INTO orders SELECT i, (ARRAY['a','b','c','d','e',NULL])[i % 6 + 1], i, '2024-01-02', 'i' FROM generate_series(101, 130) i;
INSERT INTO orders_b VALUES ('direct', '2024-01-02', 7.5, 'b', 200);
INSERT INTO orders_c VALUES (201, 'd', 8, '2024-01-02', NULL);
INSERT INTO orders_c2 VALUES (1500, 'direct', '2024-01-02', 9, 'c');
CALL all_exact(:'names');
UPDATE orders SET amount = amount + 1 WHERE id % 5 = 0;
UPDATE orders_b SET amount = amount * 2 WHERE id < 20;
UPDATE orders SET note = 'z' WHERE id % 7 = 0;
DELETE FROM orders WHERE id % 11 = 0;
DELETE FROM orders_c2 WHERE id = 1003;
CALL all_exact(:'names');
-- rows that move from leaf to leaf, and within a level
UPDATE orders SET region = 'b' WHERE region = 'a' AND id < 30;
UPDATE orders SET region = NULL WHERE region = 'd';
UPDATE orders SET id = id + 1000 WHERE region = 'c' AND id BETWEEN 1 AND 20;
UPDATE orders SET region = 'c', id = id + 300 WHERE region = 'e';
CALL all_exact(:'names');
BEGIN;
INSERT INTO orders VALUES (400, 'a', 1, '2024-01-03', 'x');
SAVEPOINT s;
UPDATE orders SET region = 'b' WHERE id = 400;
ROLLBACK TO s;
UPDATE orders SET region = 'c' WHERE id = 400;
COMMIT;
CALL all_exact(:'names');
-- in chunks, through the root: leaf by leaf, row by row
INSERT INTO orders SELECT i, (ARRAY['a','b','c','d','e',NULL])[i % 6 + 1], i % 100, '2024-01-04', repeat('y', i % 30)
FROM generate_series(1, 900) i, generate_series(1, 8) j;
UPDATE orders SET region = CASE region WHEN 'a' THEN 'b' WHEN 'b' THEN 'c' ELSE 'a' END WHERE ts >= '2024-01-04' AND id % 2 = 0;
CALL all_exact(:'names');
DELETE FROM orders WHERE ts >= '2024-01-04';
CALL all_exact(:'names');
COPY orders FROM stdin (NULL 'null');
501	a	5.50	2024-01-05	copied
502	b	5.5	2024-01-05	null
503	null	5	2024-01-05	copied
1504	c	null	2024-01-05	copied
\.
CALL all_exact(:'names');
MERGE INTO orders USING (VALUES (501, 'a'), (599, 'b')) v(i, r) ON id = i
WHEN MATCHED THEN UPDATE SET region = 'd' WHEN NOT MATCHED THEN INSERT VALUES (i, r, 1, '2024-01-05', 'merged');
CALL all_exact(:'names');

-- Columns: renamed, added, dropped, everywhere at once
INSERT INTO orders VALUES (601, 'b', 6, '2024-01-06', 'before');
ALTER TABLE orders RENAME COLUMN amount TO price;
INSERT INTO orders VALUES (602, 'b', 6, '2024-01-06', 'after');
ALTER TABLE orders ADD COLUMN tax numeric DEFAULT 0.2;
INSERT INTO orders_b (id, region, price, ts) VALUES (603, 'b', 6, '2024-01-06');
UPDATE orders SET tax = 0.3 WHERE id IN (601, 603);
CALL all_exact(:'names');
SELECT incbatch.create_pipeline('taxes', 'SELECT tax, region, count(*), sum(price) FROM orders GROUP BY 1, 2');
CALL exact('taxes');
UPDATE orders SET region = 'a', tax = 0.4 WHERE id IN (601, 5, 6);
DELETE FROM orders WHERE id = 602;
CALL exact('taxes');
SELECT incbatch.drop_pipeline('taxes');
ALTER TABLE orders DROP COLUMN tax;
INSERT INTO orders VALUES (604, 'b', 6, '2024-01-06', 'after');
ALTER TABLE orders RENAME TO sales;
ALTER TABLE orders_b RENAME TO sales_b;
UPDATE sales SET price = 1 WHERE id = 604;
CALL all_exact(:'names');
ALTER TABLE sales RENAME TO orders;
ALTER TABLE orders RENAME COLUMN price TO amount;
ALTER TABLE sales_b RENAME TO orders_b;

-- A new partition: it is empty, so it may simply be there
CREATE TABLE orders_f PARTITION OF orders FOR VALUES IN ('f');
INSERT INTO orders VALUES (701, 'f', 7, '2024-01-07', 'new');
CALL all_exact(:'names');
-- of its own identity, which does not suffice
UPDATE orders SET amount = 8 WHERE id = 701;
CALL settle();
UPDATE orders SET amount = 10 WHERE id = 701;
ALTER TABLE orders_f REPLICA IDENTITY FULL;
CALL settle();
UPDATE orders SET amount = 9 WHERE id = 701;
CALL all_exact(:'names');
-- made, filled and moved into in one transaction
BEGIN;
INSERT INTO orders VALUES (702, 'h', 7, '2024-01-07', 'default');
DELETE FROM orders WHERE region = 'h';
CREATE TABLE orders_h PARTITION OF orders FOR VALUES IN ('h') PARTITION BY HASH (id);
CREATE TABLE orders_h0 PARTITION OF orders_h FOR VALUES WITH (MODULUS 2, REMAINDER 0);
ALTER TABLE orders_h0 REPLICA IDENTITY FULL;
CREATE TABLE orders_h1 (LIKE orders_b);
ALTER TABLE orders_h1 REPLICA IDENTITY FULL;
ALTER TABLE orders_h ATTACH PARTITION orders_h1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO orders SELECT i, 'h', i, '2024-01-07', 'h' FROM generate_series(703, 712) i;
UPDATE orders SET region = 'h' WHERE id < 10;
COMMIT;
UPDATE orders SET amount = amount + 1 WHERE region = 'h';
CALL all_exact(:'names');
-- one that is undone
BEGIN;
CREATE TABLE orders_i PARTITION OF orders FOR VALUES IN ('i');
INSERT INTO orders VALUES (721, 'i', 7, '2024-01-07', 'new');
ROLLBACK;
BEGIN;
SAVEPOINT s;
CREATE TABLE orders_i PARTITION OF orders FOR VALUES IN ('i');
INSERT INTO orders SELECT i, 'i', 7, '2024-01-07', repeat('new', 30) FROM generate_series(1, 5000) i;
ROLLBACK TO s;
INSERT INTO orders VALUES (722, 'i', 7, '2024-01-07', 'default');
COMMIT;
CALL all_exact(:'names');

-- Rows that come or go with their partition: never quietly
CREATE TABLE orders_j (LIKE orders_b);
ALTER TABLE orders_j REPLICA IDENTITY FULL;
INSERT INTO orders_j VALUES ('own', '2024-01-08', 1, 'j', 801), ('own', '2024-01-08', 2, 'j', 802);
ALTER TABLE orders ATTACH PARTITION orders_j FOR VALUES IN ('j');
CALL settle();
ALTER TABLE orders DETACH PARTITION orders_j;
CALL settle();
INSERT INTO orders_j VALUES ('own', '2024-01-08', 3, 'j', 803);
CALL all_exact(:'names');
-- in transactions with rows, undone and not
BEGIN;
ALTER TABLE orders ATTACH PARTITION orders_j FOR VALUES IN ('j');
INSERT INTO orders VALUES (804, 'j', 4, '2024-01-08', 'through');
ROLLBACK;
CALL all_exact(:'names');
BEGIN;
INSERT INTO orders_j VALUES ('own', '2024-01-08', 5, 'j', 805);
DELETE FROM orders_j;
SAVEPOINT s;
ALTER TABLE orders ATTACH PARTITION orders_j FOR VALUES IN ('j');
INSERT INTO orders VALUES (806, 'j', 6, '2024-01-08', 'through');
COMMIT;
CALL settle();
BEGIN;
ALTER TABLE orders DETACH PARTITION orders_j;
UPDATE orders_j SET amount = amount + 1;
ALTER TABLE orders ATTACH PARTITION orders_j FOR VALUES IN ('j');
COMMIT;
CALL settle();
-- emptied, detached, changed and attached again, in and out of transactions
TRUNCATE orders_j;
CALL settle();
ALTER TABLE orders DETACH PARTITION orders_j;
CALL settle();
ALTER TABLE orders ATTACH PARTITION orders_j FOR VALUES IN ('j');
INSERT INTO orders VALUES (807, 'j', 6, '2024-01-08', 'through');
CALL all_exact(:'names');
SELECT incbatch.pause_pipeline('p');
DELETE FROM orders_j;
TRUNCATE orders_j;
ALTER TABLE orders DETACH PARTITION orders_j;
INSERT INTO orders_j VALUES ('own', '2024-01-08', 8, 'j', 808);
TRUNCATE orders_j;
ALTER TABLE orders ATTACH PARTITION orders_j FOR VALUES IN ('j');
SELECT incbatch.resume_pipeline('p');
CALL settle();
-- empty, filled, emptied and gone between two runs
BEGIN;
CREATE TABLE orders_k PARTITION OF orders FOR VALUES IN ('k');
INSERT INTO orders VALUES (901, 'k', 9, '2024-01-09', 'short');
DROP TABLE orders_k;
COMMIT;
CALL settle();
BEGIN;
CREATE TABLE orders_k (LIKE orders);
ALTER TABLE orders ATTACH PARTITION orders_k FOR VALUES IN ('k');
INSERT INTO orders VALUES (902, 'k', 9, '2024-01-09', 'in');
ALTER TABLE orders DETACH PARTITION orders_k;
DELETE FROM orders_k;
TRUNCATE orders_k;
ALTER TABLE orders ATTACH PARTITION orders_k FOR VALUES IN ('k');
COMMIT;
CALL settle();
DROP TABLE orders_k;
CALL settle();
-- the middle of a tree
ALTER TABLE orders DETACH PARTITION orders_h;
INSERT INTO orders_h SELECT i, 'h', i, '2024-01-07', 'alone' FROM generate_series(903, 905) i;
CALL settle();
ALTER TABLE orders ATTACH PARTITION orders_h FOR VALUES IN ('h');
CALL settle();
DROP TABLE orders_h;
CALL settle();
ALTER TABLE orders DETACH PARTITION orders_rest;
ALTER TABLE orders DETACH PARTITION orders_f CONCURRENTLY;
CALL settle();
ALTER TABLE orders ATTACH PARTITION orders_rest DEFAULT;
CALL settle();

-- TRUNCATE of one partition, of the middle, of all
TRUNCATE orders_a;
CALL settle();
TRUNCATE orders_c;
INSERT INTO orders VALUES (11, 'c', 1, '2024-01-10', 'left');
CALL settle();
BEGIN;
INSERT INTO orders VALUES (12, 'a', 2, '2024-01-10', 'lost');
TRUNCATE orders;
INSERT INTO orders VALUES (13, 'a', 3, '2024-01-10', 'left'), (14, 'b', 3, '2024-01-10', 'left');
COMMIT;
CALL all_exact(:'names');
TABLE p ORDER BY 1, 2;
TRUNCATE orders;
CALL all_exact(:'names');
TABLE p;

-- Partitions that cannot be followed
CREATE UNLOGGED TABLE orders_u PARTITION OF orders FOR VALUES IN ('u');
CALL incbatch.refresh_pipeline('p');
CALL incbatch.refresh_pipeline('q');
SELECT incbatch.create_pipeline('r', 'SELECT region, count(*) FROM orders GROUP BY 1');
ALTER TABLE orders_u SET LOGGED;
ALTER TABLE orders_u REPLICA IDENTITY FULL;
CALL settle();
INSERT INTO orders VALUES (15, 'u', 4, '2024-01-10', 'logged');
CALL all_exact(:'names');
BEGIN;
SET LOCAL session_replication_role = replica;
ALTER TABLE orders_u SET UNLOGGED;
INSERT INTO orders VALUES (16, 'u', 4, '2024-01-10', 'unlogged');
ALTER TABLE orders_u SET LOGGED;
COMMIT;
CALL settle();
SELECT incbatch.create_pipeline('r', 'SELECT region, count(*) FROM ONLY orders GROUP BY 1');
CREATE FOREIGN DATA WRAPPER partitions_dummy;
CREATE SERVER partitions_dummy FOREIGN DATA WRAPPER partitions_dummy;
CREATE FOREIGN TABLE orders_v PARTITION OF orders FOR VALUES IN ('v') SERVER partitions_dummy;
CALL incbatch.refresh_pipeline('p');
CALL incbatch.refresh_pipeline('q');
SELECT incbatch.create_pipeline('r', 'SELECT region, count(*) FROM orders GROUP BY 1');
DROP FOREIGN TABLE orders_v;
CALL settle();

-- A source that only ever gets rows: what partitions take with them is not missed
SELECT incbatch.create_pipeline('a', 'SELECT region, count(*), max(amount) FROM orders GROUP BY 1', append_only => true);
INSERT INTO orders SELECT i, (ARRAY['a','b','c','d','e',NULL])[i % 6 + 1], i, '2024-01-11', 'a' FROM generate_series(1, 12) i;
CALL exact('a');
SELECT sum(count) FROM a;
SELECT incbatch.drop_pipeline('leaf'), incbatch.drop_pipeline('mid');
TRUNCATE orders_b;
DROP TABLE orders_c;
ALTER TABLE orders DETACH PARTITION orders_a;
INSERT INTO orders VALUES (20, NULL, 1, '2024-01-11', 'a');
CALL incbatch.refresh_pipeline('a');
SELECT sum(count) FROM a;
ALTER TABLE orders ATTACH PARTITION orders_a FOR VALUES IN ('a');
CALL incbatch.refresh_pipeline('a');

-- Lookups may be partitioned, and an inherited parent is no source
CREATE TABLE looked_up (region text, name text) PARTITION BY LIST (region);
CREATE TABLE looked_up_a PARTITION OF looked_up FOR VALUES IN ('a');
CREATE TABLE looked_up_b PARTITION OF looked_up FOR VALUES IN ('b');
INSERT INTO looked_up VALUES ('a', 'Alpha'), ('b', 'Beta');
SELECT incbatch.drop_pipeline(pipeline) FROM incbatch.pipelines;
SELECT incbatch.create_pipeline('p', 'SELECT name, count(*), sum(amount) FROM orders JOIN looked_up USING (region) GROUP BY 1');
CALL exact('p');
INSERT INTO orders VALUES (31, 'a', 1, '2024-01-11', 'a'), (32, 'b', 1, '2024-01-11', 'a');
DELETE FROM orders WHERE id = 6;
CALL exact('p');
TABLE p ORDER BY 1;
CREATE TABLE parent (k int, v int);
ALTER TABLE parent REPLICA IDENTITY FULL;
CREATE TABLE child () INHERITS (parent);
SELECT incbatch.create_pipeline('r', 'SELECT k, count(*) FROM parent GROUP BY k');
DROP TABLE child;
SELECT incbatch.create_pipeline('r', 'SELECT k, count(*) FROM parent GROUP BY k');
SELECT incbatch.drop_pipeline('p');

-- Floats are added up in the order of the partitions' bounds, whichever was made first
CREATE TABLE orderly (k int, v float8) PARTITION BY LIST (k);
CREATE TABLE orderly_3 PARTITION OF orderly FOR VALUES IN (3);
CREATE TABLE orderly_2 PARTITION OF orderly FOR VALUES IN (2) PARTITION BY RANGE (v);
CREATE TABLE orderly_22 PARTITION OF orderly_2 FOR VALUES FROM (0) TO (1e20);
CREATE TABLE orderly_21 PARTITION OF orderly_2 FOR VALUES FROM (-1e20) TO (0);
SELECT incbatch.create_pipeline('o', 'SELECT sum(v) FROM orderly', append_only => true);
INSERT INTO orderly VALUES (3, 1), (2, 1e16), (2, -1e16);
CALL exact('o');
TABLE o;
CREATE TABLE orderly_1 PARTITION OF orderly FOR VALUES IN (1);
INSERT INTO orderly VALUES (1, 3e16), (2, -3e16), (2, 5);
CALL exact('o');
TABLE o;
SELECT incbatch.drop_pipeline('o');

-- A partitioned table without partitions, and its end
CREATE TABLE bare (k int, v int) PARTITION BY LIST (k);
SELECT incbatch.create_pipeline('b', 'SELECT k, count(*), max(v) FROM bare GROUP BY k');
CALL exact('b');
CREATE TABLE bare_1 PARTITION OF bare FOR VALUES IN (1);
ALTER TABLE bare_1 REPLICA IDENTITY FULL;
INSERT INTO bare VALUES (1, 1), (1, 2);
CALL exact('b');
TABLE b;
SET client_min_messages = warning;
DROP TABLE bare CASCADE;
SELECT pipeline FROM incbatch.pipelines;
DROP SCHEMA partitions CASCADE;
DROP FOREIGN DATA WRAPPER partitions_dummy CASCADE;
