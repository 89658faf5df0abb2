--
-- Rows that leave their group: extremes, moves, empty groups, NULL keys, and
-- keys that are equal but not the same
--
CREATE SCHEMA retraction;
SET search_path = retraction, public;

-- ---------------------------------------------------------------------
-- min and max when the extreme goes
-- ---------------------------------------------------------------------
CREATE TABLE bids (id int PRIMARY KEY, item text, price int);
ALTER TABLE bids REPLICA IDENTITY FULL;
INSERT INTO bids VALUES (1, 'a', 10), (2, 'a', 20), (3, 'a', 20), (4, 'a', 30), (5, 'b', 7), (6, 'c', NULL);
SELECT incbatch.create_pipeline('best', $$
	SELECT item, count(*) AS bids, min(price) AS lowest, max(price) AS highest FROM bids GROUP BY item
$$);
CALL exact('best');
-- one of two that are equal, the highest, the lowest, the last
DELETE FROM bids WHERE id = 2;
CALL exact('best');
DELETE FROM bids WHERE id = 4;
CALL exact('best');
UPDATE bids SET price = 15 WHERE id = 1;
CALL exact('best');
DELETE FROM bids WHERE id = 5;
CALL exact('best');
SELECT * FROM best ORDER BY item;
-- the extreme goes and a better one comes, or a worse, or the same again
BEGIN; DELETE FROM bids WHERE id = 3; INSERT INTO bids VALUES (7, 'a', 99); COMMIT;
CALL exact('best');
BEGIN; DELETE FROM bids WHERE id = 7; INSERT INTO bids VALUES (8, 'a', 50); COMMIT;
CALL exact('best');
BEGIN; DELETE FROM bids WHERE id = 8; INSERT INTO bids VALUES (8, 'a', 50); COMMIT;
CALL exact('best');
BEGIN; INSERT INTO bids VALUES (9, 'a', 1000); DELETE FROM bids WHERE id = 9; COMMIT;
CALL exact('best');
UPDATE bids SET price = NULL WHERE item = 'a';
CALL exact('best');
SELECT * FROM best ORDER BY item;
-- which of them had to be evaluated again from the source
SELECT strategy, count(*) FROM incbatch.batches WHERE pipeline = 'best' GROUP BY 1 ORDER BY 1;

-- ---------------------------------------------------------------------
-- The same row many times in one transaction
-- ---------------------------------------------------------------------
BEGIN;
INSERT INTO bids VALUES (20, 'd', 1);
UPDATE bids SET price = price + 1 WHERE id = 20;
UPDATE bids SET item = 'e' WHERE id = 20;
UPDATE bids SET item = 'd', price = 5 WHERE id = 20;
DELETE FROM bids WHERE id = 20;
INSERT INTO bids VALUES (20, 'f', 3);
UPDATE bids SET price = price + 1 WHERE id = 20;
UPDATE bids SET price = price;
COMMIT;
CALL exact('best');
SELECT * FROM best WHERE item >= 'd' ORDER BY item;
DO $$
BEGIN
	FOR i IN 1 .. 100 LOOP
		UPDATE bids SET price = i, item = chr(100 + i % 4) WHERE id = 20;
	END LOOP;
END $$;
CALL exact('best');
-- an update that changes nothing is no work
SELECT count(*) AS batches FROM incbatch.batches WHERE pipeline = 'best' \gset before_
UPDATE bids SET id = id;
CALL exact('best');
SELECT sum(rows_in) FROM (SELECT rows_in FROM incbatch.batches WHERE pipeline = 'best'
	ORDER BY batch OFFSET :before_batches) b;

-- ---------------------------------------------------------------------
-- Rows move between groups; an empty group is no group.
-- ---------------------------------------------------------------------
UPDATE bids SET item = 'a';
CALL exact('best');
UPDATE bids SET item = CASE WHEN id % 2 = 0 THEN 'x' ELSE 'y' END;
CALL exact('best');
UPDATE bids SET item = CASE item WHEN 'x' THEN 'y' ELSE 'x' END;
CALL exact('best');
SELECT * FROM best ORDER BY item;
DELETE FROM bids;
CALL exact('best');
TABLE best;
INSERT INTO bids VALUES (1, 'x', 1);
CALL exact('best');

-- ---------------------------------------------------------------------
-- NULL in each subset of the key
-- ---------------------------------------------------------------------
CREATE TABLE sparse (id int PRIMARY KEY, a int, b text, c date, v int);
ALTER TABLE sparse REPLICA IDENTITY FULL;
SELECT incbatch.create_pipeline('null_keys', $$
	SELECT a, b, c, count(*), sum(v), min(v), max(v) FROM sparse GROUP BY a, b, c
$$);
INSERT INTO sparse SELECT i, CASE WHEN i & 1 = 0 THEN 1 END, CASE WHEN i & 2 = 0 THEN 'b' END,
	CASE WHEN i & 4 = 0 THEN date '2024-01-01' END, i FROM generate_series(0, 31) i;
CALL exact('null_keys');
INSERT INTO sparse SELECT id + 100, a, b, c, v + 1 FROM sparse;
CALL exact('null_keys');
SELECT * FROM null_keys ORDER BY a, b, c;
-- the highest of each group goes, then the lowest, then most, then all
DELETE FROM sparse WHERE v >= 24;
CALL exact('null_keys');
UPDATE sparse SET v = v + 50 WHERE v < 8;
CALL exact('null_keys');
UPDATE sparse SET a = CASE WHEN a IS NULL THEN 1 END, c = CASE WHEN c IS NULL THEN date '2024-01-01' END WHERE id < 100;
CALL exact('null_keys');
DELETE FROM sparse WHERE b IS NULL;
CALL exact('null_keys');
DELETE FROM sparse;
CALL exact('null_keys');
TABLE null_keys;

-- ---------------------------------------------------------------------
-- Keys that are equal but not the same: one group, which shows the spelling
-- that came first.  So only equality is compared, not how rows are spelled.
-- ---------------------------------------------------------------------
CREATE COLLATION ignore_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE alike (id int PRIMARY KEY, n numeric, f float8, c char(5), t text COLLATE ignore_case, iv interval, v int);
ALTER TABLE alike REPLICA IDENTITY FULL;
SELECT incbatch.create_pipeline('by_n', 'SELECT n, count(*), sum(v), max(v) FROM alike GROUP BY n');
SELECT incbatch.create_pipeline('by_f', 'SELECT f, count(*), sum(v), max(v) FROM alike GROUP BY f');
SELECT incbatch.create_pipeline('by_c', 'SELECT c, count(*), sum(v), max(v) FROM alike GROUP BY c');
SELECT incbatch.create_pipeline('by_t', 'SELECT t, count(*), sum(v), max(v), max(t) AS t_max FROM alike GROUP BY t');
SELECT incbatch.create_pipeline('by_iv', 'SELECT iv, count(*), sum(v), max(v) FROM alike GROUP BY iv');
CREATE PROCEDURE all_equal(INOUT differences bigint DEFAULT NULL, INOUT verify bigint DEFAULT NULL)
LANGUAGE plpgsql AS $$
DECLARE
	p text;
	d bigint; s bigint; v bigint;
BEGIN
	differences := 0;
	verify := 0;
	FOREACH p IN ARRAY '{by_n,by_f,by_c,by_t,by_iv}'::text[] LOOP
		CALL exact(p, d, s, v);
		differences := differences + d;
		verify := verify + v;
	END LOOP;
END $$;
INSERT INTO alike VALUES (1, 1.0, 0.0, 'a', 'Road', '1 day', 1);
CALL all_equal();
INSERT INTO alike VALUES
	(2, 1.00, '-0', 'a ', 'ROAD', '24:00', 5), (3, 1, 0, 'a  ', 'road', '1 day', 9),
	(4, 'NaN', 'NaN', 'b', 'RoaD', '1 mon', 3), (5, 'NaN', '-NaN', 'b', 'x', '30 days', 4);
CALL all_equal();
SELECT n, count, sum, max FROM by_n ORDER BY n;
SELECT f, count, sum, max FROM by_f ORDER BY f;
SELECT c, count, sum, max FROM by_c ORDER BY c;
SELECT t, count, sum, max FROM by_t ORDER BY t;
SELECT iv, count, sum, max FROM by_iv ORDER BY iv;
-- another spelling replaces it: nothing has moved to another group
UPDATE alike SET n = n + 0.000, f = -f, c = c || ' ', t = upper(t), iv = justify_interval(iv), v = v + 1;
CALL all_equal();
-- the extreme goes, and the row that gave the group its spelling
DELETE FROM alike WHERE id IN (1, 3);
CALL all_equal();
DELETE FROM alike;
CALL all_equal();
SELECT count(*) FROM by_t;

SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;
SET client_min_messages = warning;
DROP SCHEMA retraction CASCADE;
