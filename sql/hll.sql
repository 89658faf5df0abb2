--
-- An extension's aggregate: distinct counts by HyperLogLog, where the
-- extension is there (expected/hll_1.out is for where it is not)
--
SELECT count(*) = 0 AS missing FROM pg_available_extensions WHERE name = 'hll' \gset
\if :missing
\echo 'extension hll is not installed'
\quit
\endif
CREATE SCHEMA sketches;
SET search_path = sketches, public;
SET client_min_messages = warning;
CREATE EXTENSION hll;
RESET client_min_messages;

CREATE TABLE visits (id int PRIMARY KEY, page text, visitor int);
ALTER TABLE visits REPLICA IDENTITY FULL;
INSERT INTO visits SELECT i, 'page ' || i % 3, i % 100 FROM generate_series(1, 1000) i;
SELECT incbatch.create_pipeline('visitors', $$
	SELECT page, count(*) AS visits, hll_add_agg(hll_hash_integer(visitor)) AS sketch,
	       hll_cardinality(hll_add_agg(hll_hash_integer(visitor)))::int AS visitors
	FROM visits GROUP BY page
$$);
CALL exact('visitors');
SELECT page, visits, visitors FROM visitors ORDER BY 1;
INSERT INTO visits VALUES (2000, 'page 1', 777), (2001, 'page 9', 1), (2002, NULL, NULL);
CALL exact('visitors');
UPDATE visits SET visitor = visitor % 10, page = CASE WHEN id % 2 = 0 THEN 'page 5' END WHERE id % 7 = 0;
CALL exact('visitors');
DELETE FROM visits WHERE page = 'page 1' OR visitor > 50;
CALL exact('visitors');
SELECT page, visits, visitors FROM visitors ORDER BY 1;
TRUNCATE visits;
CALL exact('visitors');
SELECT count(*) FROM visitors;

SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;
SET client_min_messages = warning;
DROP SCHEMA sketches CASCADE;
