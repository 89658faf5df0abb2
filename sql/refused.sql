--
-- What is refused, with which SQLSTATE, reason and way out
--
CREATE SCHEMA refused;
SET search_path = refused;
CREATE TABLE t (id int PRIMARY KEY, ts timestamptz, k int, v numeric, x xid);
ALTER TABLE t REPLICA IDENTITY FULL;
CREATE TABLE l (k int PRIMARY KEY, name text);

-- Not one SELECT
SELECT incbatch.create_pipeline('p', '');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'nonsense');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'INSERT INTO t VALUES (1)');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k; SELECT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) INTO n FROM t GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'VALUES (1)');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'TABLE t');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k FOR UPDATE');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t WHERE id = $1 GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM absent GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT t.k, count(*) FROM t JOIN l ON t.k = l.k GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*), count(*) FROM t GROUP BY k');
\echo :LAST_ERROR_SQLSTATE

-- Clauses
SELECT incbatch.create_pipeline('p', 'SELECT k, row_number() OVER (ORDER BY count(*)) FROM t GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, lag(sum(v)) OVER (PARTITION BY k) FROM t GROUP BY k, id');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, sum(sum(v)) OVER (ORDER BY count(*) ROWS UNBOUNDED PRECEDING) FROM t GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, row_number() OVER (ORDER BY k) FROM t GROUP BY ROLLUP (k)');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT DISTINCT k, rank() OVER (ORDER BY v) FROM t');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT date_trunc(''day'', ts) AS day, rank() OVER (ORDER BY count(*)) FROM t GROUP BY 1', lateness => '1 hour');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k UNION ALL SELECT k, count(*) FROM t GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT DISTINCT ON (k) k, v FROM t ORDER BY k, v');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT DISTINCT ON (k) k, v, count(*) FROM t GROUP BY k, v ORDER BY k, v');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k LIMIT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k OFFSET 1');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k ORDER BY 2 FETCH FIRST ROW ONLY');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k ORDER BY 2 OFFSET 1 FETCH FIRST ROW WITH TIES');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k FROM t');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, unnest(ARRAY[k]) FROM t');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT id, k, count(*) FROM t GROUP BY id');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'WITH d AS (DELETE FROM l RETURNING k) SELECT t.k, count(*) FROM t JOIN d ON d.k = t.k GROUP BY 1');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'WITH incbatch_batch AS (SELECT 1 AS a) SELECT t.k, count(*) FROM t JOIN incbatch_batch ON true GROUP BY 1');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT 1 AS one, k, count(*) FROM t GROUP BY ROLLUP (one, k)');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k AS a, k AS b, count(*) FROM t GROUP BY CUBE (1, 2)');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k HAVING EXISTS (SELECT FROM l WHERE l.k = count(t.v))');
\echo :LAST_ERROR_SQLSTATE

-- Keys without an order
SELECT incbatch.create_pipeline('p', 'SELECT x, count(*) FROM t GROUP BY x');
SELECT incbatch.create_pipeline('p', 'SELECT ARRAY[x], count(*) FROM t GROUP BY 1');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT json_build_object(k, v), count(*) FROM t GROUP BY 1');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT point(k, k), count(*) FROM t GROUP BY 1');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT count(*) FROM t GROUP BY ROW(k, v)');
\echo :LAST_ERROR_SQLSTATE
DO $$
BEGIN
	PERFORM incbatch.create_pipeline('p', 'SELECT count(*) FROM t GROUP BY ' || string_agg('k + ' || i, ', ')) FROM generate_series(1, 33) i;
END $$;
\echo :LAST_ERROR_SQLSTATE
DO $$
BEGIN
	PERFORM incbatch.create_pipeline('p', 'SELECT count(*) FROM t GROUP BY ROLLUP (' || string_agg('k + ' || i, ', ') || ')') FROM generate_series(1, 31) i;
END $$;
\echo :LAST_ERROR_SQLSTATE

-- Functions whose result depends on when they are called
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t WHERE ts > now() - interval ''1 day'' GROUP BY k');
SELECT incbatch.create_pipeline('p', 'SELECT ts::time::timetz, count(*) FROM t GROUP BY 1');
SELECT incbatch.create_pipeline('p', 'SELECT (k::text || '':00'')::timetz, count(*) FROM t GROUP BY 1');
SELECT incbatch.create_pipeline('p', 'SELECT format_type(k::oid, NULL), count(*) FROM t GROUP BY 1');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t WHERE ts > CURRENT_DATE GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t WHERE v < random() GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t WHERE age(ts) > ''1 day'' GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k HAVING max(ts) > now()');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, sum(v) + random() FROM t GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FILTER (WHERE ts > clock_timestamp()) FROM t GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT t.k, count(*) FROM t JOIN l ON t.k = l.k AND current_setting(''a.b'') = ''c'' GROUP BY 1');
\echo :LAST_ERROR_SQLSTATE
CREATE FUNCTION f(int) RETURNS int LANGUAGE sql STABLE RETURN $1;
SELECT incbatch.create_pipeline('p', 'SELECT f(k), count(*) FROM t GROUP BY 1');
\echo :LAST_ERROR_SQLSTATE

-- Source and joins
CREATE VIEW reads_source AS SELECT k, max(v) AS v FROM t GROUP BY k;
CREATE VIEW reads_view AS SELECT l.name, r.v FROM l JOIN reads_source r USING (k);
CREATE VIEW calls_random AS SELECT k FROM l WHERE random() < 0.5;
SELECT incbatch.create_pipeline('p', 'SELECT 1, count(*) GROUP BY 1');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT a.k, count(*) FROM t a JOIN t b ON a.k = b.id GROUP BY a.k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT a.k, count(*) FROM t a JOIN (SELECT k FROM t LIMIT 1) b ON a.k = b.k GROUP BY a.k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT t.k, count(*) FROM t WHERE v = (SELECT max(v) FROM t) GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, sum(v) / (SELECT sum(v) FROM t) FROM t GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t WHERE EXISTS (SELECT FROM t u WHERE u.id = t.id + 1) GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k HAVING count(*) > (SELECT avg(v) FROM t)');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'WITH w AS (SELECT * FROM t) SELECT a.k, count(*) FROM w a JOIN w b USING (id) GROUP BY 1');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'WITH w AS (SELECT max(v) AS v FROM t) SELECT t.k, count(*) FROM t JOIN w USING (v) GROUP BY 1');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT t.k, count(*) FROM t JOIN reads_source USING (k) GROUP BY 1');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT t.k, count(*) FROM t WHERE v IN (SELECT v FROM reads_view) GROUP BY 1');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT t.k, count(*) FROM t JOIN calls_random USING (k) GROUP BY 1');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT t.k, count(*) FROM t CROSS JOIN random() r WHERE v > r GROUP BY 1');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT t.k, count(*) FROM t JOIN (SELECT k, now() AS n FROM l) s ON t.k = s.k GROUP BY 1');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT t.k, count(*) FROM t RIGHT JOIN l ON t.k = l.k GROUP BY t.k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT t.k, count(*) FROM t FULL JOIN l ON t.k = l.k GROUP BY t.k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT t.k, count(*) FROM (t LEFT JOIN l ON t.k = l.k) RIGHT JOIN l m ON m.k = t.k GROUP BY t.k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM (SELECT DISTINCT k FROM t) s GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM (SELECT k FROM t GROUP BY k, v) s GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM (SELECT max(k) AS k FROM t) s GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM (SELECT k FROM t UNION ALL SELECT k FROM l) s GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM (SELECT k, rank() OVER (ORDER BY v) AS r FROM t) s WHERE r < 5 GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM (SELECT k FROM t ORDER BY v LIMIT 5) s GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM (SELECT k FROM t FOR UPDATE) s GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'WITH w AS (SELECT k FROM t GROUP BY k) SELECT k, count(*) FROM w GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'WITH RECURSIVE w AS (SELECT id, k FROM t UNION ALL SELECT w.id, t.k FROM w JOIN t ON t.id = w.k) SELECT k, count(*) FROM w GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT t.k, count(*) FROM t JOIN (SELECT k FROM l LIMIT 1) s ON t.k = s.k GROUP BY t.k');
SELECT incbatch.create_pipeline('p', 'SELECT ARRAY(SELECT name FROM l WHERE l.k > t.k), count(*) FROM t GROUP BY 1');
-- a key that is unique as text is not as char(n), for which blanks at the end do not count
CREATE TABLE codes (code text PRIMARY KEY, name text);
SELECT incbatch.create_pipeline('p', 'SELECT (SELECT name FROM codes WHERE code::bpchar = t.k::text::bpchar ORDER BY 1=1 LIMIT 1), count(*) FROM t GROUP BY 1');
SELECT incbatch.create_pipeline('p', 'SELECT (SELECT name FROM codes ORDER BY code::bpchar LIMIT 1), count(*) FROM t GROUP BY 1');
\echo :LAST_ERROR_SQLSTATE
-- Lookups in which ties would be left open
CREATE TABLE of_day (id int, k int, day timestamptz, name text, PRIMARY KEY (k, day));
CREATE VIEW takes_first AS SELECT k FROM l LIMIT 1;
CREATE FUNCTION keep_any(int, int) RETURNS int LANGUAGE sql AS 'SELECT CASE WHEN random() < 0.5 THEN $1 ELSE $2 END';
CREATE AGGREGATE any_of(int) (SFUNC = keep_any, STYPE = int);
SELECT incbatch.create_pipeline('p', $$SELECT t.k, count(*) FROM t JOIN (SELECT DISTINCT ON (name) k FROM l) s ON t.k = s.k GROUP BY t.k$$);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', $$SELECT t.k, count(*) FROM t JOIN (SELECT DISTINCT ON (name) k FROM l ORDER BY name) s ON t.k = s.k GROUP BY t.k$$);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', $$SELECT t.k, count(*) FROM t JOIN (SELECT k FROM l ORDER BY name LIMIT 1) s ON t.k = s.k GROUP BY t.k$$);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', $$SELECT t.k, count(*) FROM t JOIN (SELECT k FROM l ORDER BY name OFFSET 1 FETCH FIRST ROW WITH TIES) s ON t.k = s.k GROUP BY t.k$$);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', $$SELECT t.k, count(*) FROM t JOIN (SELECT * FROM of_day ORDER BY day LIMIT 1) s ON t.k = s.k GROUP BY t.k$$);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', $$SELECT (SELECT name FROM of_day WHERE k = t.k ORDER BY id LIMIT 1), count(*) FROM t GROUP BY 1$$);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', $$SELECT (SELECT name FROM of_day WHERE of_day.k <= t.k ORDER BY day DESC LIMIT 1), count(*) FROM t GROUP BY 1$$);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', $$SELECT t.k, count(*) FROM t JOIN (SELECT name, count(*) AS n FROM l GROUP BY name ORDER BY 2 LIMIT 3) s ON n = t.k GROUP BY t.k$$);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', $$SELECT t.k, count(*) FROM t JOIN (SELECT unnest(ARRAY[k, 1]) AS k FROM l ORDER BY l.k LIMIT 3) s ON s.k = t.k GROUP BY t.k$$);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', $$SELECT t.k, count(*) FROM t JOIN takes_first f ON f.k = t.k GROUP BY t.k$$);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', $$SELECT t.k, count(*) FROM t JOIN (SELECT k, row_number() OVER (ORDER BY name) AS n FROM l) s ON s.k = t.k AND n = 1 GROUP BY t.k$$);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', $$SELECT t.k, count(*) FROM t JOIN (SELECT k, row_number() OVER (PARTITION BY k ORDER BY day) AS n FROM of_day ORDER BY k LIMIT 1) s ON s.k = t.k AND n = 1 GROUP BY t.k$$);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', $$SELECT (SELECT array_agg(x) FROM unnest(ARRAY[t.k]) x GROUP BY x), count(*) FROM t GROUP BY 1$$);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', $$SELECT t.k, count(*) FROM t JOIN (SELECT array_agg(k) AS ks FROM l) s ON t.k = ks[1] GROUP BY t.k$$);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', $$SELECT (SELECT string_agg(name, ',') FROM l WHERE l.k < t.k), count(*) FROM t GROUP BY 1$$);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', $$SELECT (SELECT any_of(l.k) FROM l WHERE l.k < t.k), count(*) FROM t GROUP BY 1$$);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', $$SELECT (SELECT name FROM l WHERE l.k < t.k ORDER BY random(), l.k LIMIT 1), count(*) FROM t GROUP BY 1$$);
\echo :LAST_ERROR_SQLSTATE
-- and those in which they are not
BEGIN;
SELECT incbatch.create_pipeline('p0', $$SELECT (SELECT name FROM of_day WHERE k = t.k AND day <= t.ts ORDER BY day DESC LIMIT 1), count(*) FROM t GROUP BY 1$$);
SELECT incbatch.create_pipeline('p1', $$SELECT t.k, count(*) FROM t JOIN (SELECT DISTINCT ON (k) k, name FROM of_day ORDER BY k, day DESC) s ON t.k = s.k GROUP BY t.k$$);
SELECT incbatch.create_pipeline('p2', $$SELECT t.k, count(*) FROM t JOIN (SELECT l.name, d.k FROM l JOIN of_day d USING (k) ORDER BY 2, 1 LIMIT 3) s ON s.k = t.k GROUP BY t.k$$);
SELECT incbatch.create_pipeline('p3', $$SELECT t.k, count(*) FROM t JOIN (SELECT name, count(*) AS n FROM l GROUP BY name ORDER BY 2, name LIMIT 3) s ON n = t.k GROUP BY t.k$$);
SELECT incbatch.create_pipeline('p4', $$SELECT t.k, count(*) FROM t JOIN (SELECT k FROM l ORDER BY name FETCH FIRST 2 ROWS WITH TIES) s ON s.k = t.k GROUP BY t.k$$);
SELECT incbatch.create_pipeline('p5', $$SELECT t.k, count(*) FROM t WHERE EXISTS (SELECT 1 FROM l WHERE name < 'n' LIMIT 1) AND t.v > (SELECT max(k) FROM l LIMIT 1) GROUP BY t.k$$);
SELECT incbatch.create_pipeline('p6', $$SELECT t.k, count(*) FROM t JOIN (SELECT k, row_number() OVER (PARTITION BY k ORDER BY day DESC) AS n FROM of_day) s ON s.k = t.k AND n = 1 GROUP BY t.k$$);
SELECT incbatch.create_pipeline('p8', $$SELECT (SELECT array_agg(2 * x) FROM unnest(ARRAY[t.k, t.id]) x), count(*) FROM t GROUP BY 1$$);
SELECT incbatch.create_pipeline('p9', $$SELECT (SELECT x FROM unnest(ARRAY[t.k, t.id]) WITH ORDINALITY AS u(x, n) ORDER BY n DESC LIMIT 1), count(*) FROM t GROUP BY 1$$);
SELECT incbatch.create_pipeline('p7', $$SELECT (SELECT array_agg(name ORDER BY name) FROM l WHERE l.k < t.k), count(*) FROM t GROUP BY 1$$);
ROLLBACK;
SELECT incbatch.create_pipeline('p', 'SELECT t.k, count(*) FROM t WHERE t.k IN (SELECT l.k FROM l FOR SHARE) GROUP BY t.k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT t.k, count(*) FROM t, generate_series(1, t.k + random()::int) g GROUP BY t.k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT g, count(*) FROM generate_series(1, 3) g GROUP BY g');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t TABLESAMPLE SYSTEM (10) GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT t.k, count(*) FROM t JOIN l TABLESAMPLE SYSTEM (10) ON t.k = l.k GROUP BY t.k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT l, count(*) FROM l GROUP BY l');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(t) FROM t GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(s) FROM (SELECT k, v FROM t) s GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(to_jsonb(s)) FROM (SELECT s.k, s FROM t s) s GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM (SELECT k, tableoid AS o FROM t) s GROUP BY k, o');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT tableoid, count(*) FROM t GROUP BY 1');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, max(ctid) FROM t GROUP BY 1');
\echo :LAST_ERROR_SQLSTATE

-- Sources whose changes are not told
CREATE UNLOGGED TABLE unlogged (k int);
CREATE TEMP TABLE temporary (k int);
CREATE TEMP VIEW temporary_view AS TABLE temporary;
CREATE VIEW v AS SELECT * FROM t;
CREATE MATERIALIZED VIEW m AS SELECT * FROM t;
CREATE TABLE partitioned (k int) PARTITION BY LIST (k);
CREATE TABLE parent (k int);
CREATE TABLE child () INHERITS (parent);
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM unlogged GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM temporary GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT t.k, count(*) FROM t JOIN temporary_view USING (k) GROUP BY 1');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM v GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM m GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM ONLY partitioned GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM parent GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT relkind, count(*) FROM pg_class GROUP BY 1');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT state, count(*) FROM incbatch.path GROUP BY 1');
\echo :LAST_ERROR_SQLSTATE

-- Replica identity: UPDATE and DELETE must come with the old values
CREATE TABLE keyed (id int PRIMARY KEY, k int NOT NULL, v int);
CREATE TABLE bare (k int);
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM keyed GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM bare GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
ALTER TABLE bare REPLICA IDENTITY NOTHING;
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM bare GROUP BY k');
\echo :LAST_ERROR_SQLSTATE

-- Aggregates
SELECT incbatch.create_pipeline('p', 'SELECT k, array_agg(id) FROM t GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, string_agg(id::text, '','') FROM t GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, jsonb_agg(id) FROM t GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, json_object_agg(id, v) FILTER (WHERE v > 0) FROM t GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, any_of(id) FROM t GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
CREATE FUNCTION as_record(int) RETURNS record IMMUTABLE LANGUAGE sql AS 'SELECT row($1)';
CREATE AGGREGATE row_of(int) (SFUNC = int4larger, STYPE = int, FINALFUNC = as_record);
SELECT incbatch.create_pipeline('p', 'SELECT k, row_of(id)::text FROM t GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, array_agg(v ORDER BY random()) FROM t GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
-- Arguments
SELECT incbatch.create_pipeline(NULL, 'SELECT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k', trigger_interval => NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k', append_only => NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k', initialize => NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k', if_not_exists => NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k', track_lookups => NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k', late_policy => NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k', on_error => NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k', on_lost => NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k', trigger_interval => '-1 second');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k', trigger_interval => '1 month');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k', trigger_interval => '1 year');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k', trigger_interval => '367 days');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k', trigger_interval => '9000 hours');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k', trigger_interval => '1 day -25 hours');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k', event_time => 'absent');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k', event_time => 'v');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k', event_time => 'ctid');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k', lateness => '1 hour');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k', late_policy => 'nonsense');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k', track_lookups => true, initialize => false);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k', retention => '1 year');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k', on_error => 'ignore');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k', on_error => 'divert', track_lookups => true);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k', on_lost => 'nonsense');
\echo :LAST_ERROR_SQLSTATE

-- Names
SELECT incbatch.create_pipeline('', 'SELECT k, count(*) FROM t GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('a.b.c', 'SELECT k, count(*) FROM t GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('absent.p', 'SELECT k, count(*) FROM t GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('t', 'SELECT k, count(*) FROM t GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('pg_temp.p', 'SELECT k, count(*) FROM t GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k');
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*) FROM t GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('t', 'SELECT k, count(*) FROM t GROUP BY k', if_not_exists => true);
\echo :LAST_ERROR_SQLSTATE

-- What is there and what can be changed
SELECT incbatch.drop_pipeline('absent');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.pause_pipeline('absent');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.resume_pipeline('absent');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.rebuild_pipeline('absent');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.alter_pipeline('absent', '1 hour');
\echo :LAST_ERROR_SQLSTATE
CALL incbatch.refresh_pipeline('absent');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.wait_for('absent');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM incbatch.verify_pipeline('absent');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.drop_pipeline('t', if_exists => true);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.drop_pipeline(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.pause_pipeline(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.resume_pipeline(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.rebuild_pipeline(NULL);
\echo :LAST_ERROR_SQLSTATE
CALL incbatch.refresh_pipeline(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.wait_for('p', NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.wait_for('p', timeout => NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.alter_pipeline('p', '-1 s');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.alter_pipeline('p', lateness => '1 hour');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.alter_pipeline('p', late_policy => 'nonsense');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.alter_pipeline('p', retention => '1 year');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.on_drop();
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.on_rewrite();
\echo :LAST_ERROR_SQLSTATE
BEGIN;
INSERT INTO t VALUES (1);
CALL incbatch.refresh_pipeline('p');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;

-- What the pipeline needs is kept.
ALTER TABLE t DROP COLUMN k;
\echo :LAST_ERROR_SQLSTATE
-- (which of the views that use it the server names is not the same each time)
\set VERBOSITY terse
ALTER TABLE t ALTER COLUMN k TYPE bigint;
\set VERBOSITY default
\echo :LAST_ERROR_SQLSTATE
DROP TABLE t;
\echo :LAST_ERROR_SQLSTATE
INSERT INTO p VALUES (1, 1);
\echo :LAST_ERROR_SQLSTATE

-- Other people's pipelines and tables
CREATE ROLE regress_incbatch_reader IN ROLE incbatch_user;
CREATE ROLE regress_incbatch_maker IN ROLE incbatch_user;
GRANT USAGE ON SCHEMA refused TO regress_incbatch_reader, regress_incbatch_maker;
GRANT CREATE ON SCHEMA refused TO regress_incbatch_maker;
SET ROLE regress_incbatch_reader;
SELECT incbatch.drop_pipeline('p');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.pause_pipeline('p');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.resume_pipeline('p');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.rebuild_pipeline('p');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.alter_pipeline('p', '1 hour');
\echo :LAST_ERROR_SQLSTATE
CALL incbatch.refresh_pipeline('p');
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.wait_for('p');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM incbatch.verify_pipeline('p');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM p;
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM p_state;
\echo :LAST_ERROR_SQLSTATE
UPDATE incbatch.pipeline SET paused = true;
\echo :LAST_ERROR_SQLSTATE
SELECT incbatch.create_pipeline('mine', 'SELECT k, count(*) FROM t GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
SET ROLE regress_incbatch_maker;
SELECT incbatch.create_pipeline('mine', 'SELECT k, count(*) FROM t GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
GRANT SELECT ON t TO regress_incbatch_maker;
SET ROLE regress_incbatch_maker;
SELECT incbatch.create_pipeline('mine', 'SELECT l.name, count(*) FROM t JOIN l ON l.k = t.k GROUP BY 1');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
ALTER TABLE t ENABLE ROW LEVEL SECURITY;
SET ROLE regress_incbatch_maker;
SELECT incbatch.create_pipeline('mine', 'SELECT k, count(*) FROM t GROUP BY k');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
ALTER TABLE t DISABLE ROW LEVEL SECURITY;
SET ROLE regress_incbatch_maker;
SELECT incbatch.create_pipeline('mine', 'SELECT k, count(*) FROM t GROUP BY k');
RESET ROLE;

-- Nothing of all this was left behind.
SELECT pipeline FROM incbatch.pipelines ORDER BY 1;
SELECT relname FROM pg_class WHERE relnamespace = 'refused'::regnamespace AND relname ~ '^p|mine' ORDER BY 1;
SELECT incbatch.drop_pipeline('p');
SELECT incbatch.drop_pipeline('mine');
SET client_min_messages = warning;
DROP SCHEMA refused CASCADE;
DROP ROLE regress_incbatch_reader, regress_incbatch_maker;
