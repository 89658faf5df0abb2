--
-- ALTER TABLE on what a pipeline reads, while it is live: names are followed,
-- what would take something away is refused
--
CREATE SCHEMA rename;
SET search_path = rename, public;
CREATE TABLE orders (id int PRIMARY KEY, region text, amount int, shop_id int);
ALTER TABLE orders REPLICA IDENTITY FULL;
CREATE TABLE shop (shop_id int PRIMARY KEY, name text);
INSERT INTO shop VALUES (1, 'Alpha'), (2, 'Beta');
INSERT INTO orders SELECT i, 'r' || i % 2, i, i % 2 + 1 FROM generate_series(1, 10) i;
SELECT incbatch.create_pipeline('p', $$
	SELECT region, name, count(*), sum(amount), max(amount)
	FROM orders JOIN shop USING (shop_id) WHERE amount < 1000 GROUP BY region, name
$$);
CALL exact('p');

-- Each change of a name between rows that wait and rows that follow
INSERT INTO orders VALUES (11, 'r1', 11, 1);
ALTER TABLE orders RENAME COLUMN amount TO price;
INSERT INTO orders VALUES (12, 'r1', 12, 1);
CALL exact('p');
INSERT INTO orders VALUES (13, 'r1', 13, 1);
ALTER TABLE orders RENAME TO sales;
INSERT INTO sales VALUES (14, 'r1', 14, 1);
CALL exact('p');
ALTER TABLE shop RENAME COLUMN name TO title;
ALTER TABLE shop RENAME TO store;
DELETE FROM sales WHERE id IN (14, 9);
CALL exact('p');
-- the join column of one side only, and both
ALTER TABLE store RENAME COLUMN shop_id TO store_id;
UPDATE sales SET price = price + 1 WHERE id = 1;
CALL exact('p');
ALTER TABLE sales RENAME COLUMN shop_id TO store_id;
UPDATE sales SET price = price + 1 WHERE id = 2;
CALL exact('p');
-- names that change places
BEGIN;
ALTER TABLE sales RENAME COLUMN price TO spare;
ALTER TABLE sales RENAME COLUMN store_id TO price;
ALTER TABLE sales RENAME COLUMN spare TO store_id;
INSERT INTO sales (id, region, price, store_id) VALUES (15, 'r0', 1, 500);
COMMIT;
DELETE FROM sales WHERE id = 10;
CALL exact('p');
SELECT * FROM p ORDER BY 1, 2;

-- Schemas
CREATE SCHEMA rename_other;
ALTER TABLE sales SET SCHEMA rename_other;
INSERT INTO rename_other.sales (id, region, price, store_id) VALUES (16, 'r0', 1, 16);
CALL exact('p');
ALTER TABLE store SET SCHEMA rename_other;
DELETE FROM rename_other.sales WHERE id = 16;
CALL exact('p');
ALTER SCHEMA rename_other RENAME TO "rename Other";
UPDATE "rename Other".sales SET store_id = 3 WHERE id < 4;
CALL exact('p');
-- of the pipeline's own relations
ALTER VIEW p RENAME TO q;
SELECT pipeline, definition FROM incbatch.pipelines;
CALL exact('q');
ALTER VIEW q SET SCHEMA "rename Other";
ALTER TABLE p_state RENAME TO "state of q";
ALTER TABLE "state of q" SET SCHEMA "rename Other";
ALTER VIEW p_batch RENAME TO batch_of_q;
SELECT pipeline, definition, relation FROM incbatch.pipelines;
SELECT relation FROM incbatch.paths;
DELETE FROM "rename Other".sales WHERE id = 8;
CALL exact('"rename Other".q');
CALL incbatch.refresh_pipeline('p');

-- Columns more and columns less
SET search_path = "rename Other", public;
ALTER TABLE sales ADD COLUMN note text DEFAULT 'none', ADD COLUMN extra int GENERATED ALWAYS AS (store_id * 2) STORED;
INSERT INTO sales (id, region, price, store_id) VALUES (20, 'r0', 1, 20);
DELETE FROM sales WHERE id = 7;
CALL exact('q');
ALTER TABLE sales DROP COLUMN note;
INSERT INTO sales (id, region, price, store_id) VALUES (21, 'r0', 1, 20);
CALL exact('q');
ALTER TABLE sales DROP COLUMN store_id;
ALTER TABLE store DROP COLUMN title;
ALTER TABLE sales ALTER COLUMN region TYPE varchar(10);
DROP TABLE store;

-- A second pipeline on what was added: rows of before have the default
ALTER TABLE sales ADD COLUMN late int DEFAULT 7;
SELECT incbatch.create_pipeline('later', 'SELECT late, extra % 3 AS e, count(*), sum(extra), max(id) FROM sales GROUP BY 1, 2');
CALL exact('later');
UPDATE sales SET late = 8 WHERE id < 5;
DELETE FROM sales WHERE id = 5;
CALL exact('later');
CALL exact('q');
SELECT * FROM later ORDER BY 1, 2;
-- DDL and rows in one transaction, some of it undone
BEGIN;
INSERT INTO sales (id, region, price, store_id) VALUES (30, 'r1', 1, 30);
ALTER TABLE sales ADD COLUMN temporary int DEFAULT 1;
UPDATE sales SET temporary = 2 WHERE id > 10;
SAVEPOINT s;
ALTER TABLE sales RENAME COLUMN region TO area;
INSERT INTO sales (id, area, price, store_id) VALUES (31, 'r1', 1, 31);
ROLLBACK TO s;
ALTER TABLE sales DROP COLUMN temporary;
INSERT INTO sales (id, region, price, store_id) VALUES (32, 'r1', 1, 32);
COMMIT;
CALL exact('q');
CALL exact('later');

-- The type of a column that no pipeline reads: a rewrite that changes nothing
ALTER TABLE sales ADD COLUMN unread int DEFAULT 1;
ALTER TABLE sales ALTER COLUMN unread TYPE numeric USING unread * 100;
UPDATE sales SET unread = 5 WHERE id = 30;
CALL exact('q');
CALL exact('later');

-- What is written while the table is unlogged is in no WAL.
BEGIN;
ALTER TABLE sales SET UNLOGGED;
ROLLBACK;
CALL exact('q');
ALTER TABLE sales SET UNLOGGED;
INSERT INTO sales (id, region, price, store_id) VALUES (40, 'r1', 1, 40);
ALTER TABLE sales SET LOGGED;
CALL incbatch.refresh_pipeline('q');
SELECT pipeline, state, last_error FROM incbatch.pipelines ORDER BY 1;
ALTER TABLE sales SET UNLOGGED;
SELECT count(incbatch.rebuild_pipeline(pipeline)) FROM incbatch.pipelines;
CALL incbatch.refresh_pipeline('q');
ALTER TABLE sales SET LOGGED;
SELECT count(incbatch.rebuild_pipeline(pipeline)) FROM incbatch.pipelines;
CALL exact('q');
CALL exact('later');

-- A column that a join names by USING, after one that was dropped
CREATE TABLE visits (gone int, id int PRIMARY KEY, shop int);
CREATE TABLE shops (shop int PRIMARY KEY, name text);
ALTER TABLE visits DROP COLUMN gone;
ALTER TABLE visits REPLICA IDENTITY FULL;
INSERT INTO shops VALUES (1, 'one');
SELECT incbatch.create_pipeline('visits_by_shop', 'SELECT name, count(*) FROM visits JOIN shops USING (shop) GROUP BY 1');
INSERT INTO visits VALUES (1, 1);
CALL exact('visits_by_shop');
ALTER TABLE visits RENAME shop TO place;
INSERT INTO visits VALUES (2, 1);
CALL exact('visits_by_shop');

-- A dump has the name of the event time's column, which may be renamed by its type.
CREATE TYPE reading AS (at timestamptz, value int);
CREATE TABLE readings OF reading;
ALTER TABLE readings REPLICA IDENTITY FULL;
SELECT incbatch.create_pipeline('daily', 'SELECT date_trunc(''day'', at) AS day, count(*) FROM readings GROUP BY 1', lateness => '1 day');
ALTER TABLE readings RENAME TO measured;
ALTER TYPE reading RENAME ATTRIBUTE at TO taken_at CASCADE;
SELECT event_time_name FROM incbatch.pipeline WHERE source = 'measured'::regclass;
SELECT event_time FROM incbatch.pipelines WHERE pipeline = 'daily';
-- ALTER VIEW renames columns of tables, too.
CREATE TABLE gauges (at timestamp, value int);
ALTER TABLE gauges REPLICA IDENTITY FULL;
SELECT incbatch.create_pipeline('gauged', 'SELECT date_trunc(''day'', at) AS day, count(*) FROM gauges GROUP BY 1', lateness => '1 day');
ALTER VIEW gauges RENAME COLUMN at TO taken_at;
SELECT event_time_name FROM incbatch.pipeline WHERE source = 'gauges'::regclass;

SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;
RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA rename, "rename Other" CASCADE;
