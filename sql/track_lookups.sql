--
-- Lookups whose changes are folded in too (track_lookups): after every batch
-- the aggregate equals the query, whichever tables changed.
--
CREATE SCHEMA track;
SET search_path = track, public;
CREATE TABLE sales (id int PRIMARY KEY, product_id int, shop_id int, qty int, price numeric(8, 2), ratio float8);
CREATE TABLE visits (id int PRIMARY KEY, product_id int, seconds int, at timestamp);
CREATE TABLE product (product_id int PRIMARY KEY, category text, weight numeric);
CREATE TABLE shop (shop_id int PRIMARY KEY, region_id int, name text);
CREATE TABLE region (region_id int PRIMARY KEY, name text);
CREATE TABLE tag (product_id int, tag text);
CREATE TABLE known (shop_id int NOT NULL, remark text);
CREATE UNIQUE INDEX known_shop ON known (shop_id);
ALTER TABLE sales REPLICA IDENTITY FULL;
ALTER TABLE product REPLICA IDENTITY FULL;
ALTER TABLE shop REPLICA IDENTITY FULL;
ALTER TABLE region REPLICA IDENTITY FULL;
ALTER TABLE tag REPLICA IDENTITY FULL;
ALTER TABLE known REPLICA IDENTITY USING INDEX known_shop;

CREATE PROCEDURE fill() LANGUAGE sql AS $$
	INSERT INTO product VALUES (1, 'books', 0.5), (2, 'toys', NULL), (3, NULL, 2), (4, NULL, NULL);
	INSERT INTO shop VALUES (1, 1, 'Alpha'), (2, 1, 'Beta'), (3, NULL, 'Gamma'), (4, 9, 'Delta');
	INSERT INTO region VALUES (1, 'north'), (2, 'south');
	INSERT INTO tag VALUES (1, 'new'), (1, 'cheap'), (2, 'new'), (2, NULL), (2, NULL);
	INSERT INTO known VALUES (1, 'a'), (2, 'b');
	INSERT INTO sales SELECT i, i % 6, i % 5 + 1, i, i / 4.0, 1.0 / i FROM generate_series(1, 40) i;
	INSERT INTO sales VALUES (41, NULL, NULL, 1, 1, 1);
$$;
CALL fill();
INSERT INTO visits SELECT i, i % 6, i, timestamp '2026-01-01' + i * interval '25 min' FROM generate_series(1, 30) i;

-- ---------------------------------------------------------------------
-- Queries of all shapes
-- ---------------------------------------------------------------------
CREATE TABLE shapes (name text, query text,
	append_only bool GENERATED ALWAYS AS (query LIKE '%FROM visits%') STORED);
INSERT INTO shapes VALUES
('inner_join',
	'SELECT p.category, count(*), sum(s.qty * p.weight) AS weight, max(p.weight) AS heaviest, min(s.qty) AS least
	 FROM sales s JOIN product p ON p.product_id = s.product_id GROUP BY p.category'),
('left_join',
	'SELECT coalesce(p.category, ''none'') AS category, p.product_id IS NULL AS unknown, count(*),
	        count(p.category) AS known, sum(s.qty * p.weight) AS weight, min(p.weight) AS lightest
	 FROM sales s LEFT JOIN product p ON p.product_id = s.product_id AND p.weight > 0.1 GROUP BY 1, 2'),
('several',
	'SELECT r.name AS region, h.name AS shop, p.category, count(*), sum(s.price)
	 FROM sales s
	 LEFT JOIN product p USING (product_id)
	 JOIN shop h ON h.shop_id = s.shop_id
	 LEFT JOIN region r ON r.region_id = h.region_id
	 WHERE p.weight IS NULL OR p.weight < s.qty
	 GROUP BY r.name, h.name, p.category'),
('chain_of_left',
	'SELECT r.name, h.shop_id IS NULL AS no_shop, count(*), max(s.qty)
	 FROM sales s LEFT JOIN shop h ON h.shop_id = s.shop_id AND h.name <> ''Beta''
	 LEFT JOIN region r ON r.region_id = coalesce(h.region_id, 2)
	 WHERE r.name IS NOT NULL OR s.qty > 10 GROUP BY 1, 2'),
('chain_of_inner',
	'SELECT r.name, count(*), avg(s.price) FROM sales s JOIN shop USING (shop_id) JOIN region r USING (region_id)
	 JOIN product p USING (product_id) WHERE p.category IS NOT NULL GROUP BY 1'),
('inner_after_left',
	'SELECT r.name, count(*) FROM sales s LEFT JOIN shop h ON h.shop_id = s.shop_id
	 JOIN region r ON r.region_id = h.region_id GROUP BY 1'),
('lenient_after_left',
	'SELECT r.name, h.name AS shop, count(*), sum(s.qty) FROM sales s LEFT JOIN shop h ON h.shop_id = s.shop_id
	 JOIN region r ON r.region_id = h.region_id OR h.region_id IS NULL GROUP BY 1, 2'),
('left_inside',
	'SELECT r.name, x.name AS shop, count(*) FROM sales s
	 JOIN (shop x LEFT JOIN region r USING (region_id)) USING (shop_id) GROUP BY 1, 2'),
('anti_join',
	'SELECT s.shop_id, count(*) FROM sales s LEFT JOIN product p ON p.product_id = s.product_id
	 WHERE p.product_id IS NULL GROUP BY 1'),
('using_both',
	'SELECT product_id, shop_id, name, count(*), sum(weight)
	 FROM sales JOIN product USING (product_id) JOIN shop USING (shop_id) GROUP BY product_id, shop_id, name'),
('natural_join',
	'SELECT category, count(*) FROM sales NATURAL LEFT JOIN product GROUP BY category'),
('many_matches',
	'SELECT tag, count(*), sum(qty), max(qty) FROM sales JOIN tag USING (product_id) GROUP BY tag'),
('many_or_none',
	'SELECT t.tag, t.product_id, count(*), sum(qty) FROM sales s LEFT JOIN tag t ON t.product_id = s.product_id GROUP BY 1, 2'),
('comma',
	'SELECT h.name, count(*) FROM sales s, shop h WHERE h.shop_id = s.shop_id AND s.qty > h.shop_id GROUP BY 1
	 HAVING count(*) > 1'),
('twice',
	'SELECT p.category AS this, q.category AS next, count(*), max(q.weight), min(p.weight)
	 FROM sales s JOIN product p ON p.product_id = s.product_id
	 LEFT JOIN product q ON q.product_id = s.product_id + 1 GROUP BY 1, 2'),
('floats',
	'SELECT p.category, sum(s.ratio), avg(s.ratio), max(s.ratio), corr(s.qty, p.weight)
	 FROM sales s JOIN product p USING (product_id) GROUP BY 1'),
('rows_alone',
	'SELECT s.product_id, count(*) FROM sales s CROSS JOIN region GROUP BY 1'),
('left_rows_alone',
	'SELECT s.product_id, count(*) FROM sales s LEFT JOIN region ON s.qty > 15 GROUP BY 1'),
('values_list',
	'SELECT v.label, p.category, count(*) FROM sales s LEFT JOIN product p ON p.product_id = s.product_id
	 LEFT JOIN (VALUES (1, ''one''), (NULL, ''none'')) v(id, label) ON v.id = p.product_id
	 WHERE v.label IS NULL OR v.id < 9 GROUP BY 1, 2'),
('by_index',
	'SELECT k.shop_id, count(*), sum(s.price) FROM sales s LEFT JOIN known k USING (shop_id) GROUP BY 1'),
('aliased',
	'SELECT x.b, y.z, count(*) FROM sales AS x (a, b, c) JOIN product AS y (b, z) USING (b) GROUP BY x.b, y.z'),
('only_inserted',
	'SELECT p.category, h.name, count(*), max(v.seconds), sum(p.weight) FROM visits v
	 JOIN product p USING (product_id) LEFT JOIN shop h ON h.shop_id = v.seconds % 5 GROUP BY 1, 2'),
('spread',
	'SELECT h.name, var_pop(s.qty), stddev(p.weight), bool_or(p.weight > 1), every(p.category IS NULL)
	 FROM sales s LEFT JOIN product p ON p.product_id = s.product_id JOIN shop h USING (shop_id) GROUP BY 1'),
('recomputed',
	'SELECT p.category, count(DISTINCT h.name) AS shops, string_agg(h.name, '','' ORDER BY s.id) AS names, count(*)
	 FROM sales s JOIN product p USING (product_id) LEFT JOIN shop h ON h.shop_id = s.shop_id GROUP BY 1'),
('in_sets',
	'SELECT p.category, h.name, count(*), max(p.weight), grouping(h.name) AS all_shops FROM sales s
	 JOIN product p USING (product_id) LEFT JOIN shop h ON h.shop_id = s.shop_id GROUP BY ROLLUP (p.category, h.name)'),
('in_one_row',
	'SELECT count(*), sum(p.weight), min(h.name) FROM sales s JOIN product p USING (product_id) LEFT JOIN shop h ON h.shop_id = s.shop_id
	 HAVING count(*) >= (SELECT min(region_id) FROM region) OR true'),
('distinct_rows',
	'SELECT DISTINCT p.category, r.name FROM sales s LEFT JOIN shop h USING (shop_id) JOIN product p ON p.product_id = s.product_id
	 LEFT JOIN region r ON r.region_id = h.region_id'),
('by_hour',
	'SELECT date_trunc(''hour'', v.at) AS hour, p.category, max(p.weight), count(*), array_agg(DISTINCT v.seconds) AS seconds
	 FROM visits v LEFT JOIN product p USING (product_id) GROUP BY 1, 2'),
('sliding',
	'SELECT w.window_start, p.category, min(p.weight), count(*)
	 FROM visits v JOIN product p USING (product_id), incbatch.hop(v.at, interval ''2 hours'', interval ''1 hour'') AS w(window_start, window_end)
	 GROUP BY 1, 2');
SELECT count(incbatch.create_pipeline('track.' || name, query, track_lookups => true, append_only => append_only,
                                      trigger_interval => '1 day')) FROM shapes;
SELECT count(*) FILTER (WHERE track_lookups) AS tracking FROM incbatch.pipelines;

CREATE PROCEDURE all_exact(INOUT pipelines int DEFAULT 0, INOUT inexact text DEFAULT '')
LANGUAGE plpgsql AS $$
DECLARE
	p text;
	d bigint; s bigint; v bigint;
BEGIN
	FOR p IN SELECT pipeline FROM incbatch.pipelines ORDER BY 1 LOOP
		CALL exact(p, d, s, v);
		pipelines := pipelines + 1;
		-- sums of floats in another order, but no more than that
		IF d + s + v <> 0 AND p <> 'floats' THEN
			inexact := inexact || p || ' ';
		END IF;
	END LOOP;
END $$;
CALL all_exact();

-- what their changes cost
SELECT transform, detail FROM incbatch.explain_pipeline('several') WHERE transform LIKE 'join %';
CREATE INDEX sales_product ON sales (product_id);
SELECT transform, detail FROM incbatch.explain_pipeline('inner_after_left') WHERE transform LIKE 'join %'
UNION ALL SELECT transform, detail FROM incbatch.explain_pipeline('anti_join') WHERE transform LIKE 'join %';

-- the group column, the join key, a filtered column
UPDATE product SET category = 'paper' WHERE product_id = 1;
CALL all_exact();
UPDATE product SET product_id = 5 WHERE product_id = 2;
CALL all_exact();
UPDATE product SET weight = 0.05 WHERE product_id = 1;
CALL all_exact();
UPDATE product SET weight = 1.50 WHERE product_id IN (1, 3);
CALL all_exact();
-- what no query reads
UPDATE known SET remark = 'other';
CALL all_exact();
-- rows of a lookup come and go
INSERT INTO product VALUES (0, 'late', 3), (2, 'games', 1);
INSERT INTO shop VALUES (5, 2, 'Epsilon'), (6, 2, NULL);
CALL all_exact();
DELETE FROM shop WHERE shop_id = 1;
DELETE FROM known WHERE shop_id = 1;
DELETE FROM region WHERE region_id = 2;
CALL all_exact();
DELETE FROM product;
CALL all_exact();
INSERT INTO product VALUES (1, 'books', 0.5), (2, 'toys', NULL), (3, NULL, 2.0);
INSERT INTO region VALUES (2, 'south'), (9, 'west');
CALL all_exact();
-- rows that are alike
INSERT INTO tag VALUES (1, 'new'), (3, 'new'), (NULL, 'new');
DELETE FROM tag WHERE ctid = (SELECT min(ctid) FROM tag WHERE tag IS NULL);
CALL all_exact();
UPDATE tag SET tag = 'new' WHERE product_id = 1;
CALL all_exact();
DELETE FROM tag WHERE product_id = 1;
CALL all_exact();

-- source and lookups in one transaction, both ways round
BEGIN;
INSERT INTO sales VALUES (50, 1, 1, 5, 5.5, 0.1), (51, 7, 7, 6, 6.5, 0.2);
UPDATE product SET category = 'press', product_id = 7 WHERE product_id = 1;
DELETE FROM sales WHERE product_id = 2 AND qty > 20;
INSERT INTO shop VALUES (7, 1, 'Eta');
COMMIT;
CALL all_exact();
BEGIN;
UPDATE shop SET region_id = 2, name = 'Zeta' WHERE shop_id IN (2, 7);
UPDATE region SET name = name || '!' WHERE region_id = 2;
UPDATE sales SET shop_id = 2, qty = qty + 1 WHERE id % 3 = 0;
DELETE FROM product WHERE product_id = 3;
COMMIT;
CALL all_exact();
-- in several, folded in together: a source row meets a lookup row before and
-- after each of them changed
INSERT INTO sales VALUES (60, 8, 8, 1, 1, 1);
INSERT INTO product VALUES (8, 'short', 8);
INSERT INTO shop VALUES (8, 9, 'Theta');
UPDATE sales SET qty = 2 WHERE id = 60;
UPDATE product SET category = 'shorter' WHERE product_id = 8;
DELETE FROM sales WHERE id = 60;
DELETE FROM product WHERE product_id = 8;
DELETE FROM shop WHERE shop_id = 8;
CALL all_exact();
INSERT INTO product VALUES (8, 'long', 8);
INSERT INTO sales VALUES (61, 8, 1, 1, 1, 1), (62, 8, 1, 100, 1, 1);
UPDATE product SET category = 'longer' WHERE product_id = 8;
DELETE FROM sales WHERE id = 62;
CALL all_exact();
-- a match and its match vanish together
DELETE FROM shop WHERE shop_id = 2;
DELETE FROM region WHERE region_id = 2;
CALL all_exact();
-- all of the lookups in one batch
UPDATE product SET category = upper(category);
UPDATE shop SET name = upper(name);
UPDATE region SET name = upper(name);
UPDATE tag SET tag = upper(tag);
UPDATE known SET shop_id = shop_id + 1;
UPDATE sales SET price = price + 1;
CALL all_exact();

-- what was rolled back did not happen
BEGIN;
UPDATE product SET category = 'kept';
SAVEPOINT a;
UPDATE product SET category = 'gone';
DELETE FROM shop;
ROLLBACK TO a;
UPDATE shop SET name = 'kept' WHERE shop_id = 3;
SAVEPOINT b;
INSERT INTO region VALUES (10, 'north');
RELEASE b;
COMMIT;
BEGIN;
DELETE FROM product;
ROLLBACK;
CALL all_exact();

-- a transaction so large that it is streamed
BEGIN;
INSERT INTO product SELECT i, 'c' || i % 7, i % 3 FROM generate_series(1000, 6000) i;
SAVEPOINT a;
INSERT INTO sales SELECT i, i, i % 9, i, i, 0 FROM generate_series(1000, 4000) i;
DELETE FROM product WHERE product_id < 1100;
ROLLBACK TO a;
INSERT INTO sales SELECT i, i, i % 9, i, i, 0 FROM generate_series(1500, 3500) i;
UPDATE product SET category = 'd' WHERE product_id < 2000;
COMMIT;
CALL all_exact();
DELETE FROM product WHERE product_id >= 1000 AND product_id % 2 = 0;
DELETE FROM sales WHERE id >= 1000 AND id % 3 = 0;
CALL all_exact();
DELETE FROM sales WHERE id >= 1000;
DELETE FROM product WHERE product_id >= 1000;
CALL all_exact();

-- nothing of the source is left, or of a lookup
DELETE FROM sales;
CALL all_exact();
UPDATE product SET category = 'idle';
CALL all_exact();
INSERT INTO sales SELECT i, i % 6, i % 5 + 1, i, i / 4.0, 1.0 / i FROM generate_series(1, 40) i;
DELETE FROM region;
CALL all_exact();

-- ---------------------------------------------------------------------
-- TRUNCATE: of the source as ever; of a lookup, no change tells which rows it
-- had, and the query is evaluated anew
-- ---------------------------------------------------------------------
UPDATE product SET category = 'before' WHERE product_id = 1;
TRUNCATE sales;
UPDATE product SET category = 'between' WHERE product_id = 1;
INSERT INTO sales SELECT i, i % 6, i % 5 + 1, i, i / 4.0, 1.0 / i FROM generate_series(1, 40) i;
UPDATE product SET category = 'after' WHERE product_id = 1;
CALL all_exact();
-- but not where rows of the source may be gone for good
DELETE FROM visits WHERE id = 1;
TRUNCATE product;
CALL incbatch.refresh_pipeline('only_inserted');
SELECT count(incbatch.drop_pipeline(name)) FROM shapes WHERE append_only;
CALL all_exact();
BEGIN;
TRUNCATE product, shop, region, tag, sales;
DELETE FROM known;
CALL fill();
COMMIT;
INSERT INTO sales VALUES (50, 1, 1, 5, 5.5, 0.1);
CALL all_exact();
SELECT DISTINCT strategy FROM incbatch.batches
WHERE pipeline = 'inner_join' AND batch = (SELECT max(batch) FROM incbatch.batches WHERE pipeline = 'inner_join');

-- ---------------------------------------------------------------------
-- At random, with a seed: statements on all tables, some transactions of
-- several, some rolled back; compared after every few
-- ---------------------------------------------------------------------
CREATE FUNCTION any_of(int) RETURNS int LANGUAGE sql AS 'SELECT floor(random() * $1)::int';
CREATE FUNCTION random_change() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	p text := CASE WHEN any_of(8) = 0 THEN 'NULL' ELSE any_of(9)::text END;
	h text := CASE WHEN any_of(8) = 0 THEN 'NULL' ELSE any_of(8)::text END;
	statements text[] := ARRAY[
		format('INSERT INTO sales SELECT i, %s, %s, any_of(20), any_of(400) / 4.0, random() FROM any_of(1000) i ON CONFLICT DO NOTHING', p, h),
		format('INSERT INTO sales SELECT i, any_of(9), any_of(8), any_of(20), 1, 1 FROM generate_series(%s, %1$s + 3) i ON CONFLICT DO NOTHING', any_of(1000)),
		format('UPDATE sales SET product_id = %s, qty = any_of(20) WHERE id %% 7 = any_of(7)', p),
		format('UPDATE sales SET shop_id = %s WHERE id %% 5 = any_of(5)', h),
		'DELETE FROM sales WHERE id % 11 = any_of(11)',
		'INSERT INTO visits SELECT max(id) + 1, any_of(9), any_of(20), max(at) + any_of(50) * interval ''1 min'' FROM visits',
		format('INSERT INTO product VALUES (any_of(9), %L, any_of(30) / 10.0) ON CONFLICT DO NOTHING', chr(97 + any_of(4))),
		format('UPDATE product SET category = %L, weight = any_of(4) WHERE product_id = any_of(9)', chr(97 + any_of(4))),
		'UPDATE product p SET product_id = i FROM any_of(9) i WHERE p.product_id = any_of(9) AND NOT EXISTS (SELECT FROM product q WHERE q.product_id = i)',
		'UPDATE product SET weight = NULLIF(weight, 0), category = NULLIF(category, ''a'') WHERE product_id % 3 = any_of(3)',
		'DELETE FROM product WHERE product_id = any_of(9)',
		format('INSERT INTO shop VALUES (any_of(8), any_of(4), %L) ON CONFLICT DO NOTHING', chr(65 + any_of(4))),
		format('UPDATE shop SET region_id = %s, name = %L WHERE shop_id = any_of(8)', CASE WHEN any_of(3) = 0 THEN 'NULL' ELSE any_of(4)::text END, chr(65 + any_of(4))),
		'DELETE FROM shop WHERE shop_id = any_of(8)',
		format('INSERT INTO region VALUES (any_of(4), %L) ON CONFLICT DO NOTHING', chr(75 + any_of(3))),
		format('UPDATE region SET name = %L WHERE region_id = any_of(4)', chr(75 + any_of(3))),
		'DELETE FROM region WHERE region_id = any_of(4)',
		format('INSERT INTO tag SELECT any_of(9), %L FROM generate_series(1, any_of(3))', chr(110 + any_of(3))),
		format('UPDATE tag SET tag = %L WHERE product_id = any_of(9)', chr(110 + any_of(3))),
		'DELETE FROM tag WHERE product_id = any_of(9)',
		format('INSERT INTO known VALUES (any_of(8), %L) ON CONFLICT DO NOTHING', chr(65 + any_of(4))),
		'UPDATE known k SET shop_id = i FROM any_of(8) i WHERE k.shop_id = any_of(8) AND NOT EXISTS (SELECT FROM known l WHERE l.shop_id = i)',
		'DELETE FROM known WHERE shop_id = any_of(8)'];
BEGIN
	RETURN statements[1 + any_of(array_length(statements, 1))];
END $$;
CREATE PROCEDURE random_program(INOUT rounds int, INOUT inexact text DEFAULT '')
LANGUAGE plpgsql AS $$
DECLARE
	p int; i text;
BEGIN
	FOR r IN 1..rounds LOOP
		FOR t IN 1..1 + any_of(4) LOOP
			FOR s IN 1..1 + any_of(4) LOOP
				BEGIN
					EXECUTE random_change();
					IF any_of(10) = 0 THEN
						RAISE 'rolled back';
					END IF;
				EXCEPTION WHEN raise_exception OR unique_violation THEN
				END;
			END LOOP;
			IF any_of(10) = 0 THEN
				ROLLBACK;
			ELSE
				COMMIT;
			END IF;
		END LOOP;
		p := 0; i := '';
		CALL all_exact(p, i);
		IF i <> '' THEN
			inexact := inexact || r || ': ' || i;
		END IF;
	END LOOP;
END $$;
SELECT count(incbatch.create_pipeline('track.' || name, query, track_lookups => true, append_only => true,
                                      trigger_interval => '1 day')) FROM shapes WHERE append_only;
SELECT setseed(0.5);
CALL random_program(15);
SELECT pipeline, state, last_error FROM incbatch.pipelines WHERE state <> 'running';
SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;

-- ---------------------------------------------------------------------
-- What cannot be tracked is refused
-- ---------------------------------------------------------------------
CREATE FUNCTION refused(query text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM incbatch.create_pipeline('track.p', query, track_lookups => true, append_only => true);
END $$;
\set VERBOSITY terse
CREATE VIEW shop_region AS SELECT shop_id, r.name FROM shop JOIN region r USING (region_id);
CREATE TABLE parted (product_id int, name text) PARTITION BY RANGE (product_id);
CREATE TABLE parent (product_id int, name text);
CREATE TABLE child () INHERITS (parent);
CREATE UNLOGGED TABLE unlogged (product_id int, name text);
CREATE TABLE told (product_id int PRIMARY KEY, name text);
CREATE TABLE untold (product_id int, name text);
CREATE TABLE guarded (product_id int PRIMARY KEY, name text);
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
\set VERBOSITY default
SELECT refused('SELECT v.name, count(*) FROM sales s JOIN shop_region v USING (shop_id) GROUP BY 1');
SELECT refused('SELECT name, count(*) FROM sales s JOIN parted USING (product_id) GROUP BY 1');
SELECT refused('SELECT name, count(*) FROM sales s JOIN parent USING (product_id) GROUP BY 1');
SELECT refused('SELECT name, count(*) FROM sales s JOIN unlogged USING (product_id) GROUP BY 1');
SELECT refused('SELECT relname, count(*) FROM sales s JOIN pg_class c ON c.relnatts = s.product_id GROUP BY 1');
SELECT refused('SELECT name, count(*) FROM sales s JOIN told USING (product_id) GROUP BY 1');
SELECT refused('SELECT s.product_id, count(*) FROM sales s CROSS JOIN untold u GROUP BY 1');
SELECT refused('SELECT p::text, count(*) FROM sales s JOIN product p USING (product_id) GROUP BY 1');
SELECT refused('SELECT r.name, count(*) FROM sales s LEFT JOIN (shop h JOIN region r USING (region_id)) ON h.shop_id = s.shop_id GROUP BY 1');
SELECT refused('SELECT r.name, count(*) FROM sales s JOIN (shop h FULL JOIN region r USING (region_id)) ON true GROUP BY 1');
SELECT refused('SELECT s.shop_id, count(*) FROM sales s CROSS JOIN region a CROSS JOIN region b CROSS JOIN region c
	CROSS JOIN region d CROSS JOIN region e CROSS JOIN region f CROSS JOIN region g GROUP BY 1');
SELECT refused('WITH h AS (SELECT * FROM shop) SELECT h.name, count(*) FROM sales s JOIN h USING (shop_id) GROUP BY 1');
SELECT refused('SELECT h.name, count(*) FROM sales s JOIN (SELECT * FROM shop) h USING (shop_id) GROUP BY 1');
SELECT refused('SELECT h.name, count(*) FROM (SELECT * FROM sales) s JOIN shop h USING (shop_id) GROUP BY 1');
SELECT refused('SELECT shop_id, count(*) FROM sales s WHERE EXISTS (SELECT FROM product p WHERE p.product_id = s.product_id) GROUP BY 1');
SELECT refused('SELECT (SELECT name FROM shop h WHERE h.shop_id = s.shop_id) AS name, count(*) FROM sales s GROUP BY 1');
SELECT refused('SELECT g, count(*) FROM sales s JOIN product p USING (product_id), generate_series(1, p.product_id) g GROUP BY 1');
SELECT incbatch.create_pipeline('totals', 'SELECT shop_id, count(*) FROM sales GROUP BY 1');
SELECT refused('SELECT t.row_count, count(*) FROM sales s JOIN totals_state t USING (shop_id) GROUP BY 1');
SELECT incbatch.create_pipeline('p', 'SELECT row_count, count(*) FROM totals_state GROUP BY 1', append_only => true);
SELECT incbatch.drop_pipeline('totals');
SELECT refused('SELECT a.shop_id, count(*) FROM sales a JOIN sales b USING (product_id) GROUP BY 1');
SELECT incbatch.create_pipeline('p', 'SELECT date_trunc(''hour'', at) AS hour, count(*) FROM visits JOIN product USING (product_id) GROUP BY 1',
                                track_lookups => true, append_only => true, lateness => '1 hour');
SELECT incbatch.create_pipeline('p', 'SELECT date_trunc(''hour'', at) AS hour, count(*) FROM visits JOIN product USING (product_id) GROUP BY 1',
                                track_lookups => true, append_only => true);
SELECT incbatch.alter_pipeline('p', lateness => '1 hour');
SELECT incbatch.drop_pipeline('p');
CREATE ROLE regress_incbatch_owner IN ROLE incbatch_user;
GRANT USAGE, CREATE ON SCHEMA track TO regress_incbatch_owner;
GRANT SELECT ON sales, guarded TO regress_incbatch_owner;
SET ROLE regress_incbatch_owner;
SELECT refused('SELECT g.name, count(*) FROM sales s JOIN guarded g USING (product_id) GROUP BY 1');
RESET ROLE;

-- ---------------------------------------------------------------------
-- A lookup that changes its shape
-- ---------------------------------------------------------------------
TRUNCATE sales;
INSERT INTO sales SELECT i, i % 6, i % 5 + 1, i, i / 4.0, 1.0 / i FROM generate_series(1, 40) i;
ALTER TABLE told REPLICA IDENTITY FULL;
INSERT INTO told SELECT i, 'name ' || i % 3 FROM generate_series(1, 6) i;
SELECT incbatch.create_pipeline('p', 'SELECT name, count(*), max(qty) FROM sales s JOIN told USING (product_id) GROUP BY 1', track_lookups => true);
CALL exact('p');
-- added, renamed and moved: goes on
ALTER TABLE told ADD COLUMN more int DEFAULT 7;
UPDATE told SET more = 8;
INSERT INTO told VALUES (0, 'name 0', 9);
CALL exact('p');
ALTER TABLE told RENAME COLUMN name TO label;
ALTER TABLE told RENAME TO said;
UPDATE said SET label = 'renamed' WHERE product_id = 2;
CALL exact('p');
ALTER TABLE said DROP COLUMN more;
UPDATE said SET label = 'dropped' WHERE product_id = 3;
CALL exact('p');
VACUUM FULL said;
DELETE FROM said WHERE product_id = 1;
CALL exact('p');
-- refused
ALTER TABLE said DROP COLUMN label;
ALTER TABLE said ALTER COLUMN label TYPE varchar(100);
DROP TABLE said;
-- the old values are not told any more: says so
ALTER TABLE said REPLICA IDENTITY DEFAULT;
UPDATE said SET label = 'lost' WHERE product_id = 4;
CALL incbatch.refresh_pipeline('p');
ALTER TABLE said REPLICA IDENTITY FULL;
SELECT incbatch.rebuild_pipeline('p');
CALL exact('p');
ALTER TABLE said REPLICA IDENTITY NOTHING;
DELETE FROM said WHERE product_id = 4;
ALTER TABLE said REPLICA IDENTITY FULL;
CALL incbatch.refresh_pipeline('p');
SELECT state, last_error FROM incbatch.pipelines;
SELECT incbatch.rebuild_pipeline('p');
CALL exact('p');
-- rows that no WAL has
ALTER TABLE said SET UNLOGGED;
SELECT state FROM incbatch.pipelines;
ALTER TABLE said SET LOGGED;
SELECT incbatch.rebuild_pipeline('p');
CALL exact('p');
-- paused meanwhile
SELECT incbatch.pause_pipeline('p');
UPDATE said SET label = 'paused' WHERE product_id = 5;
INSERT INTO sales VALUES (100, 5, 1, 1, 1, 1);
SELECT incbatch.resume_pipeline('p');
UPDATE said SET label = 'resumed' WHERE product_id = 5;
CALL exact('p');
SELECT name, count FROM p ORDER BY 1;
SELECT incbatch.drop_pipeline('p');
-- ---------------------------------------------------------------------
-- A join that the planner turns around, by columns that are not at one place
-- ---------------------------------------------------------------------
CREATE TABLE shops (area int, shop int PRIMARY KEY, name text);
CREATE TABLE sold (shop int, amount int, id int PRIMARY KEY);
ALTER TABLE shops REPLICA IDENTITY FULL;
ALTER TABLE sold REPLICA IDENTITY FULL;
INSERT INTO shops VALUES (100, 1, 'one'), (200, 2, 'two');
INSERT INTO sold VALUES (1, 100, 1), (1, 200, 2), (2, 5, 3);
SELECT incbatch.create_pipeline(name, query, track_lookups => true)
FROM (VALUES ('turned', 'SELECT name, count(*) FROM shops RIGHT JOIN sold USING (shop) GROUP BY 1'),
             ('natural', 'SELECT name, count(*) FROM shops NATURAL RIGHT JOIN sold GROUP BY 1'),
             ('reduced', 'SELECT name, count(*) FROM shops FULL JOIN sold USING (shop) WHERE sold.id > 0 AND amount > 0 GROUP BY 1')) AS q (name, query);
CALL exact('turned');
INSERT INTO sold VALUES (3, 1, 4), (2, 7, 5);
UPDATE shops SET name = 'uno' WHERE shop = 1;
INSERT INTO shops VALUES (300, 3, 'three');
CALL exact('turned');
CALL exact('natural');
CALL exact('reduced');
TABLE turned ORDER BY 1;
SELECT count(incbatch.drop_pipeline(name)) FROM unnest('{turned,natural,reduced}'::text[]) AS name;

-- ---------------------------------------------------------------------
-- A source in partitions, which the frontier remembers
-- ---------------------------------------------------------------------
CREATE TABLE moves (product_id int, amount int) PARTITION BY LIST (product_id);
CREATE TABLE moves_1 PARTITION OF moves FOR VALUES IN (1);
CREATE TABLE moves_rest PARTITION OF moves DEFAULT;
CREATE TABLE labels (product_id int, label text);
ALTER TABLE moves_1 REPLICA IDENTITY FULL;
ALTER TABLE moves_rest REPLICA IDENTITY FULL;
ALTER TABLE labels REPLICA IDENTITY FULL;
INSERT INTO labels VALUES (1, 'one'), (2, 'two'), (3, 'three');
INSERT INTO moves VALUES (1, 10), (3, 30);
SELECT incbatch.create_pipeline('m', 'SELECT l.label, count(*), sum(m.amount) FROM moves m JOIN labels l USING (product_id) GROUP BY l.label',
                                track_lookups => true);
CALL exact('m');
UPDATE labels SET label = 'first' WHERE product_id = 1;
CALL exact('m');
CREATE TABLE moves_2 PARTITION OF moves FOR VALUES IN (2);
ALTER TABLE moves_2 REPLICA IDENTITY FULL;
INSERT INTO moves VALUES (2, 20);
UPDATE labels SET label = 'second' WHERE product_id = 2;
CALL exact('m');
UPDATE moves SET product_id = 2 WHERE product_id = 3;
DELETE FROM labels WHERE product_id = 1;
CALL exact('m');
TABLE m ORDER BY 1;
SELECT incbatch.drop_pipeline('m');
SET client_min_messages = warning;
DROP SCHEMA track CASCADE;
DROP ROLE regress_incbatch_owner;
