--
-- Lookups: tables joined to the source.  They are read when a change is folded
-- in, and their own changes are not followed.
--
CREATE SCHEMA lookups;
SET search_path = lookups, public;
CREATE TABLE sales (id int PRIMARY KEY, product_id int, shop_id int, qty int, price numeric(8, 2));
ALTER TABLE sales REPLICA IDENTITY FULL;
CREATE TABLE product (product_id int PRIMARY KEY, category text, weight numeric);
CREATE TABLE shop (shop_id int PRIMARY KEY, region_id int, name text);
CREATE TABLE region (region_id int PRIMARY KEY, name text);
CREATE TABLE tag (product_id int, tag text);
INSERT INTO product VALUES (1, 'books', 0.5), (2, 'toys', NULL), (3, NULL, 2), (4, NULL, NULL);
INSERT INTO shop VALUES (1, 1, 'Alpha'), (2, 1, 'Beta'), (3, NULL, 'Gamma'), (4, 9, 'Delta');
INSERT INTO region VALUES (1, 'north'), (2, 'south');
INSERT INTO tag VALUES (1, 'new'), (1, 'cheap'), (2, 'new'), (2, NULL);
INSERT INTO sales SELECT i, i % 6, i % 5 + 1, i, i / 4.0 FROM generate_series(1, 40) i;
INSERT INTO sales VALUES (41, NULL, NULL, 1, 1);

SELECT incbatch.create_pipeline('inner_join', $$
	SELECT p.category, count(*), sum(s.qty * p.weight) AS weight, max(p.weight) AS heaviest
	FROM sales s JOIN product p ON p.product_id = s.product_id GROUP BY p.category
$$);
SELECT incbatch.create_pipeline('left_join', $$
	SELECT coalesce(p.category, 'none') AS category, p.product_id IS NULL AS unknown, count(*),
	       count(p.category) AS known, sum(s.qty * p.weight) AS weight, min(p.weight) AS lightest
	FROM sales s LEFT JOIN product p ON p.product_id = s.product_id AND p.weight > 0.1 GROUP BY 1, 2
$$);
SELECT incbatch.create_pipeline('several', $$
	SELECT r.name AS region, h.name AS shop, p.category, count(*), sum(s.price)
	FROM sales s
	LEFT JOIN product p USING (product_id)
	JOIN shop h ON h.shop_id = s.shop_id
	LEFT JOIN region r ON r.region_id = h.region_id
	WHERE p.weight IS NULL OR p.weight < s.qty
	GROUP BY r.name, h.name, p.category
$$);
SELECT incbatch.create_pipeline('using_both', $$
	SELECT product_id, shop_id, name, count(*), sum(weight)
	FROM sales JOIN product USING (product_id) JOIN shop USING (shop_id) GROUP BY product_id, shop_id, name
$$);
SELECT incbatch.create_pipeline('natural_join', $$
	SELECT category, count(*) FROM sales NATURAL LEFT JOIN product GROUP BY category
$$);
SELECT incbatch.create_pipeline('many_matches', $$
	SELECT tag, count(*), sum(qty), max(qty) FROM sales JOIN tag USING (product_id) GROUP BY tag
$$);
SELECT incbatch.create_pipeline('comma', $$
	SELECT h.name, count(*) FROM sales s, shop h WHERE h.shop_id = s.shop_id AND s.qty > h.shop_id GROUP BY 1
$$);
CREATE VIEW shop_region AS SELECT shop_id, r.name FROM shop JOIN region r USING (region_id);
SELECT incbatch.create_pipeline('view_lookup', $$
	SELECT v.name, count(*), max(s.qty) FROM sales s LEFT JOIN shop_region v USING (shop_id) GROUP BY 1
$$);
SELECT incbatch.create_pipeline('values_lookup', $$
	SELECT v.label, count(*), max(s.qty)
	FROM sales s JOIN (VALUES (0, 'even'), (1, 'odd'), (1, 'not even')) v(rest, label) ON v.rest = s.qty % 2 GROUP BY 1
$$);
SELECT incbatch.create_pipeline('aliased', $$
	SELECT x.b, y.z, count(*) FROM sales AS x (a, b, c) JOIN product AS y (b, z) USING (b) GROUP BY x.b, y.z
$$);

CALL all_exact();
SELECT * FROM several ORDER BY 1, 2, 3;
SELECT * FROM left_join ORDER BY 1, 2;

INSERT INTO sales SELECT i, i % 7, i % 4 + 1, -i, i / 8.0 FROM generate_series(100, 140) i;
CALL all_exact();
UPDATE sales SET product_id = NULLIF((product_id + 1) % 5, 0), qty = qty + 1 WHERE id % 3 = 0;
CALL all_exact();
UPDATE sales SET shop_id = shop_id % 4 + 1 WHERE id % 5 = 0;
DELETE FROM sales WHERE id % 4 = 0;
CALL all_exact();
DELETE FROM sales WHERE qty IN (SELECT max(qty) FROM sales GROUP BY product_id);
CALL all_exact();

-- ---------------------------------------------------------------------
-- A lookup row that changes: what has been folded in stays as it was, what
-- comes later finds the new row.  verify_pipeline shows the difference, and a
-- rebuild takes the lookup as it is now.
-- ---------------------------------------------------------------------
SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines WHERE pipeline <> 'inner_join';
TRUNCATE sales;
INSERT INTO sales VALUES (1, 1, 1, 1, 1), (2, 1, 1, 1, 1), (3, 2, 1, 1, 1);
CALL exact('inner_join');
UPDATE product SET category = 'paper' WHERE product_id = 1;
CALL incbatch.refresh_pipeline('inner_join');
SELECT category, count FROM inner_join ORDER BY 1;
INSERT INTO sales VALUES (4, 1, 1, 1, 1);
CALL incbatch.refresh_pipeline('inner_join');
SELECT category, count FROM inner_join ORDER BY 1;
SELECT difference, row_in_aggregate->>'category' AS category, row_in_aggregate->>'count' AS in_aggregate,
       row_in_batch->>'category' AS category, row_in_batch->>'count' AS in_batch
FROM incbatch.verify_pipeline('inner_join') ORDER BY 2, 4;
SELECT incbatch.rebuild_pipeline('inner_join');
CALL exact('inner_join');
SELECT category, count FROM inner_join ORDER BY 1;
-- a row taken out of a group that it never was in
UPDATE product SET category = 'unseen' WHERE product_id = 1;
DELETE FROM sales WHERE id = 4;
CALL incbatch.refresh_pipeline('inner_join');
SELECT state, last_error FROM incbatch.pipelines;
SELECT category, count FROM inner_join ORDER BY 1;
SELECT incbatch.rebuild_pipeline('inner_join');
CALL exact('inner_join');
SELECT category, count FROM inner_join ORDER BY 1;

SELECT incbatch.drop_pipeline('inner_join');

-- ---------------------------------------------------------------------
-- The worker reads a lookup as the pipeline's owner.  An owner who may no
-- longer read it stops this pipeline alone, until the right is back.
-- ---------------------------------------------------------------------
CREATE ROLE regress_incbatch_owner IN ROLE incbatch_user;
GRANT USAGE, CREATE ON SCHEMA lookups TO regress_incbatch_owner;
GRANT SELECT ON sales, product TO regress_incbatch_owner;
SELECT incbatch.create_pipeline('other', 'SELECT category, count(*) FROM sales JOIN product USING (product_id) GROUP BY 1');
BEGIN;
SET ROLE regress_incbatch_owner;
SELECT incbatch.create_pipeline('owned', 'SELECT category, count(*) FROM sales JOIN product USING (product_id) GROUP BY 1');
RESET ROLE;
REVOKE SELECT ON product FROM regress_incbatch_owner;
COMMIT;
CALL incbatch.refresh_pipeline('owned');
CALL exact('other');
GRANT SELECT ON product TO regress_incbatch_owner;
SELECT incbatch.resume_pipeline('owned');
CALL exact('owned');
SELECT pipeline, owner FROM incbatch.pipelines WHERE pipeline = 'owned';
REVOKE SELECT ON product FROM regress_incbatch_owner;
INSERT INTO sales VALUES (5, 2, 2, 2, 2);
CALL incbatch.refresh_pipeline('owned');
SELECT last_error FROM incbatch.pipelines WHERE pipeline = 'owned';
CALL exact('other');
GRANT SELECT ON product TO regress_incbatch_owner;
SELECT incbatch.resume_pipeline('owned');
CALL exact('owned');
SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;

-- ---------------------------------------------------------------------
-- A primary key says that no two rows of a lookup tie in ORDER BY; while it is
-- gone, they could.
-- ---------------------------------------------------------------------
CREATE TABLE price (product_id int, since int, price numeric, PRIMARY KEY (product_id, since));
INSERT INTO price SELECT p, s, p * s FROM generate_series(1, 3) p, generate_series(0, 4, 2) s;
SELECT incbatch.create_pipeline('as_of', $$
	SELECT (SELECT price FROM price p WHERE p.product_id = sales.product_id AND since <= qty ORDER BY since DESC LIMIT 1) AS price, count(*) FROM sales GROUP BY 1
$$);
CALL exact('as_of');
SELECT pid AS worker FROM incbatch.workers WHERE database = current_database() \gset
ALTER TABLE price DROP CONSTRAINT price_pkey;
INSERT INTO sales VALUES (6, 2, 2, 3, 4);
CALL incbatch.refresh_pipeline('as_of');
-- to the worker that is no reason to start anew
SELECT pid = :worker AS same FROM incbatch.workers WHERE database = current_database();
ALTER TABLE price ADD PRIMARY KEY (product_id, since);
SELECT incbatch.resume_pipeline('as_of');
CALL exact('as_of');
TABLE as_of ORDER BY 1;
SELECT incbatch.drop_pipeline('as_of');
SET client_min_messages = warning;
DROP SCHEMA lookups CASCADE;
DROP ROLE regress_incbatch_owner;
