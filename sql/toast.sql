--
-- Values that are stored out of line: as key, in a filter, as an argument;
-- changed, unchanged, and not told
--
CREATE SCHEMA toast;
SET search_path = toast, public;
CREATE TABLE docs (id int PRIMARY KEY, kind text, body text, extra text, n int);
ALTER TABLE docs ALTER COLUMN kind SET STORAGE EXTERNAL, ALTER COLUMN body SET STORAGE EXTERNAL,
	ALTER COLUMN extra SET STORAGE EXTERNAL;
ALTER TABLE docs REPLICA IDENTITY FULL;
CREATE FUNCTION big(text, int DEFAULT 3000) RETURNS text LANGUAGE sql IMMUTABLE
RETURN repeat(md5($1), $2 / 32 + 1);

INSERT INTO docs SELECT i, 'k' || i % 3, big('b' || i), big('e' || i), i FROM generate_series(1, 9) i;
INSERT INTO docs VALUES (10, NULL, NULL, NULL, NULL), (11, 'k1', '', 'short', 11);
SELECT incbatch.create_pipeline('p', $$
	SELECT kind, count(body), sum(length(body)) AS length, max(body), min(md5(extra)), sum(n)
	FROM docs WHERE length(body) IS DISTINCT FROM 7 GROUP BY kind
$$);
-- keys of more than a page, which are hashed to fit the index
SELECT incbatch.create_pipeline('by_body', 'SELECT md5(body) AS body, count(*), sum(length(extra)) FROM docs GROUP BY 1');
-- reads no long value
SELECT incbatch.create_pipeline('by_n', 'SELECT n % 2 AS odd, count(*), max(id) FROM docs GROUP BY 1');
\set names {p,by_body,by_n}
CALL all_exact(:'names');

-- Another column changes, the long ones stay where they are
UPDATE docs SET n = n + 1;
CALL all_exact(:'names');
UPDATE docs SET kind = 'k9' WHERE id IN (1, 2);
CALL all_exact(:'names');
-- a long value changes, goes, comes, and shrinks
UPDATE docs SET body = big('c' || id) WHERE id < 4;
UPDATE docs SET body = NULL WHERE id = 4;
UPDATE docs SET body = big('new', 100000) WHERE id = 10;
UPDATE docs SET body = 'seven77' WHERE id = 5;
UPDATE docs SET extra = body, body = extra WHERE id = 6;
CALL all_exact(:'names');
UPDATE docs SET kind = 'k1', n = 0 WHERE id IN (3, 5, 10);
DELETE FROM docs WHERE id IN (2, 5, 6);
CALL all_exact(:'names');
-- the same value again: nothing changes
UPDATE docs SET body = body, extra = big('e' || id) WHERE id = 7;
CALL all_exact(:'names');
SELECT rows_in FROM incbatch.batches WHERE pipeline = 'by_n' ORDER BY batch DESC LIMIT 1;

-- Long keys of their own
UPDATE docs SET kind = big('kind', 2100) WHERE id IN (7, 8);
UPDATE docs SET n = n + 1 WHERE id = 8;
INSERT INTO docs VALUES (12, big('kind', 2100), 'x', 'y', 1);
CALL all_exact(:'names');
DELETE FROM docs WHERE length(kind) > 100;
CALL all_exact(:'names');

-- Several versions in one transaction, some undone; compressed; in chunks
ALTER TABLE docs ALTER COLUMN body SET STORAGE EXTENDED;
BEGIN;
INSERT INTO docs SELECT i, 'k' || i % 3, repeat('z', 50000 + i), big('e' || i), i FROM generate_series(20, 40) i;
UPDATE docs SET n = n + 1 WHERE id > 25;
SAVEPOINT s;
UPDATE docs SET body = big('undone' || id), kind = 'undone';
DELETE FROM docs WHERE id > 30;
ROLLBACK TO s;
UPDATE docs SET kind = 'kept' WHERE id > 35;
COMMIT;
CALL all_exact(:'names');
BEGIN;
INSERT INTO docs SELECT i, 'k' || i % 3, big('b' || i), big('e' || i), i FROM generate_series(100, 400) i;
UPDATE docs SET n = n + 1 WHERE id > 200;
UPDATE docs SET body = extra WHERE id > 300;
DELETE FROM docs WHERE id BETWEEN 250 AND 320;
COMMIT;
CALL all_exact(:'names');
UPDATE docs SET n = n - 1 WHERE id > 100;
CALL all_exact(:'names');

-- Through partitions, whose columns are in another order
CREATE TABLE parts (id int, kind text, body text, n int) PARTITION BY LIST (kind);
CREATE TABLE parts_1 (n int, gone text, body text, kind text, id int);
ALTER TABLE parts_1 DROP COLUMN gone;
ALTER TABLE parts_1 ALTER COLUMN body SET STORAGE EXTERNAL;
ALTER TABLE parts ATTACH PARTITION parts_1 FOR VALUES IN ('k1');
CREATE TABLE parts_rest PARTITION OF parts DEFAULT;
ALTER TABLE parts_1 REPLICA IDENTITY FULL;
ALTER TABLE parts_rest REPLICA IDENTITY FULL;
INSERT INTO parts SELECT i, 'k' || i % 3, big('b' || i), i FROM generate_series(1, 9) i;
SELECT incbatch.create_pipeline('pp', 'SELECT kind, max(body), min(body), sum(length(body)) AS length, sum(n) FROM parts GROUP BY kind');
CALL exact('pp');
UPDATE parts SET n = n + 1;
UPDATE parts SET kind = 'k1' WHERE id = 2;
UPDATE parts SET kind = 'k2' WHERE id IN (1, 4);
DELETE FROM parts WHERE id = 7;
CALL exact('pp');

-- An identity of the key alone: queries over it do not read the long ones
CREATE TABLE keyed (id int, body text, PRIMARY KEY (id));
ALTER TABLE keyed ALTER COLUMN body SET STORAGE EXTERNAL;
INSERT INTO keyed SELECT i, big('b' || i) FROM generate_series(1, 9) i;
SELECT incbatch.create_pipeline('keys', 'SELECT id % 2 AS odd, count(*), max(id) FROM keyed GROUP BY 1');
UPDATE keyed SET body = 'x' WHERE id < 3;
UPDATE keyed SET id = id + 10 WHERE id > 5;
DELETE FROM keyed WHERE id IN (1, 14);
CALL exact('keys');
-- and one that only gets rows
SELECT incbatch.create_pipeline('added', 'SELECT length(body) AS l, count(*), max(body) FROM keyed GROUP BY 1', append_only => true);
INSERT INTO keyed SELECT i, big('b' || i, i * 100) FROM generate_series(21, 60) i;
CALL exact('added');

-- A key too long for the index is an error of the pipeline, not of the writer
INSERT INTO docs SELECT 1000, string_agg(md5(i::text), ''), '', '', 0 FROM generate_series(1, 300) i;
CALL incbatch.refresh_pipeline('p');
DELETE FROM docs WHERE id = 1000;
SELECT incbatch.resume_pipeline('p');
CALL incbatch.refresh_pipeline('p');
SELECT incbatch.rebuild_pipeline('p');
CALL all_exact(:'names');

SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;
SET client_min_messages = warning;
DROP SCHEMA toast CASCADE;
