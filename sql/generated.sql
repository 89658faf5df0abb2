--
-- 23: generated columns whose expression changes (PostgreSQL 17), or that are
-- computed when they are read (18)
--
-- Where the server does not have them, what it would have done is passed over
-- in silence, so that the answers are the same.
SET timezone = 'UTC';
CREATE SCHEMA generated;
SET search_path = generated, public;
CREATE FUNCTION server(version int) RETURNS boolean
RETURN current_setting('server_version_num')::int >= version * 10000;

CREATE TABLE t (id int PRIMARY KEY, v int, g int GENERATED ALWAYS AS (v % 3) STORED);
ALTER TABLE t REPLICA IDENTITY FULL;
INSERT INTO t SELECT i, nullif(i, 7) FROM generate_series(1, 20) i;
SELECT incbatch.create_pipeline('sums', 'SELECT g, count(*), sum(g), max(v) FROM t GROUP BY g');
CALL exact('sums');
INSERT INTO t VALUES (21, 21), (22, NULL);
UPDATE t SET v = v + 1 WHERE id % 2 = 0;
DELETE FROM t WHERE g = 0;
CALL exact('sums');

-- Another expression writes all rows anew, and tells nobody.
DO $$ BEGIN IF server(17) THEN EXECUTE 'ALTER TABLE t ALTER g SET EXPRESSION AS (v % 5)'; END IF; END $$;
SELECT CASE WHEN server(17) THEN state ELSE 'needs_rebuild' END AS state,
       CASE WHEN server(17) THEN last_error ELSE 'a generated column of table t got another expression; run incbatch.rebuild_pipeline' END AS last_error
FROM incbatch.pipelines;
SELECT incbatch.rebuild_pipeline('sums');
CALL exact('sums');
UPDATE t SET v = v + 2 WHERE id % 3 = 0;
DELETE FROM t WHERE id > 18;
CALL exact('sums');
TRUNCATE t;
CALL exact('sums');
INSERT INTO t SELECT i, i FROM generate_series(1, 20) i;
CALL exact('sums');

-- A source's virtual column is in no change; the query may have its expression.
-- As a lookup's it is computed when the lookup is read.
DO $$
DECLARE
	detail text := 'It is computed when it is read, so its values are not in the WAL.';
	hint text := 'Use its expression in the query, or make the column STORED.';
	message text := 'changes of virtual generated column "g" of table "w" cannot be followed';
BEGIN
	EXECUTE format('CREATE TABLE w (id int PRIMARY KEY, v int, g int GENERATED ALWAYS AS (v %% 4) %s)',
				   CASE WHEN server(18) THEN 'VIRTUAL' ELSE 'STORED' END);
	ALTER TABLE w REPLICA IDENTITY FULL;
	INSERT INTO w SELECT i, i FROM generate_series(1, 20) i;
	IF server(18) THEN
		BEGIN
			PERFORM incbatch.create_pipeline('virtual', 'SELECT g, count(*) FROM w GROUP BY g');
			message := 'not refused';
		EXCEPTION WHEN feature_not_supported THEN
			GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
		END;
	END IF;
	RAISE NOTICE '%', concat_ws(E'\n', message, detail, hint);
	detail := 'feature_not_supported';
	IF server(18) THEN
		BEGIN
			PERFORM incbatch.create_pipeline('virtual', 'SELECT w.g, count(*) FROM t JOIN w USING (id) GROUP BY 1', track_lookups => true);
			detail := 'not refused';
		EXCEPTION WHEN feature_not_supported THEN
		END;
	END IF;
	RAISE NOTICE 'tracked lookup: %', detail;
END $$;
SELECT incbatch.create_pipeline('spelled', 'SELECT v % 4 AS g, count(*) FROM w GROUP BY 1');
SELECT incbatch.create_pipeline('looked_up', 'SELECT w.g, count(*) FROM t JOIN w USING (id) GROUP BY 1');
CALL exact('looked_up');
INSERT INTO t SELECT i, i FROM generate_series(21, 30) i;
DELETE FROM t WHERE id % 5 = 0;
UPDATE w SET v = v + 1 WHERE id > 20;
UPDATE w SET v = NULL WHERE id = 2;
CALL exact('spelled');
DELETE FROM w WHERE id > 10;
CALL exact('spelled');
TRUNCATE w;
CALL exact('spelled');
SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;
DROP SCHEMA generated CASCADE;
