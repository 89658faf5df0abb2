--
-- As whom the worker evaluates a query: as the pipeline's owner, under
-- restricted operation, in every way in which it reads the source
--
CREATE ROLE owner_of_tiles IN ROLE incbatch_user;
CREATE SCHEMA owner AUTHORIZATION owner_of_tiles;
SET search_path = owner, public;
SET ROLE owner_of_tiles;
CREATE TABLE tiles (id int PRIMARY KEY, k int, v int);
ALTER TABLE tiles REPLICA IDENTITY FULL;
-- it says that it is immutable, and is not
CREATE FUNCTION who(x int) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	RETURN current_user || coalesce(' ' || x, '');
END $$;
SELECT incbatch.create_pipeline('by_delta', 'SELECT who(k) AS who, count(*), sum(v), max(v) FROM tiles WHERE who(v) LIKE ''owner%'' GROUP BY 1');
SELECT incbatch.create_pipeline('by_recompute', 'SELECT k, string_agg(DISTINCT who(v), '','') AS who, count(DISTINCT v) FROM tiles GROUP BY k');
SELECT incbatch.create_pipeline('in_all', 'SELECT min(who(k)), count(*) FROM tiles');
CALL all_exact();
INSERT INTO tiles VALUES (1, 1, 10), (2, 1, 20), (3, NULL, 30), (4, 2, NULL);
CALL all_exact();
TABLE by_delta ORDER BY who;
UPDATE tiles SET k = 2, v = v + 1 WHERE id IN (1, 3);
DELETE FROM tiles WHERE id = 2;
CALL all_exact();
SELECT incbatch.rebuild_pipeline('by_delta');
CALL all_exact();
TABLE by_delta;
TABLE by_recompute;
TABLE in_all;
TRUNCATE tiles;
CALL all_exact();

-- Nothing in a query gets out of it.
CREATE FUNCTION escape(k int) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('role', 'none', false);
	RETURN current_user;
END $$;
SELECT incbatch.create_pipeline('escaping', 'SELECT escape(k) AS who, count(*) FROM tiles GROUP BY 1');
CALL incbatch.refresh_pipeline('escaping');
INSERT INTO tiles VALUES (1, 1, 10);
CALL incbatch.refresh_pipeline('escaping');
SELECT state, last_error FROM incbatch.pipelines WHERE pipeline = 'escaping';
-- and the others go on
CALL exact('by_delta');
CALL exact('by_recompute');

SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;
RESET ROLE;
SET client_min_messages = warning;
DROP SCHEMA owner CASCADE;
DROP ROLE owner_of_tiles;
