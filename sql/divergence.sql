--
-- What the stream of changes does not tell: each DDL and each replica identity
-- on a live source, one case a line.  A case must end right, refused, dropped
-- or saying that it needs a rebuild, which makes it right; never quietly wrong,
-- and no writer may fail.
--
SET client_min_messages = warning;
CREATE EXTENSION dblink;	-- each case is a session of its own; VACUUM can be in no function
CREATE SCHEMA divergence;
SET search_path = divergence, public;

-- Statements of a case are separated by semicolons.  The source is a table t,
-- which "made" may make otherwise; the pipeline is p.  Rows of "before" wait
-- when "ddl" runs, and those of "after" follow it.
CREATE TABLE cases (
	no int GENERATED ALWAYS AS IDENTITY,
	hazard int,
	want text,
	name text,
	ddl text DEFAULT '',
	made text DEFAULT '',
	query text DEFAULT 'SELECT k, count(*), sum(v), max(v) FROM t GROUP BY k',
	options text DEFAULT '',
	before text DEFAULT $$INSERT INTO t (id, k, v) VALUES (11, 'a', 11), (12, NULL, 12), (13, 'b', NULL);
		UPDATE t SET k = 'b', v = v + 1 WHERE id = 1; DELETE FROM t WHERE id = 2$$,
	after text DEFAULT $$INSERT INTO t (id, k, v) VALUES (21, 'a', 21), (22, NULL, 22), (23, 'c', NULL);
		UPDATE t SET k = 'c', v = v + 1 WHERE id IN (3, 11); DELETE FROM t WHERE id IN (4, 12)$$,
	verdict text,
	reason text,
	rebuilt text
);

-- Where a partitioned t comes from, and one with values out of line
\set parted 'DROP TABLE t; CREATE TABLE t (id int, k text, v int) PARTITION BY LIST (k); CREATE TABLE t_a PARTITION OF t FOR VALUES IN (''a''); CREATE TABLE t_rest PARTITION OF t DEFAULT; ALTER TABLE t_a REPLICA IDENTITY FULL; ALTER TABLE t_rest REPLICA IDENTITY FULL; INSERT INTO t SELECT i, (ARRAY[''a'', ''b'', NULL])[i % 3 + 1], i FROM generate_series(1, 9) i; CREATE TABLE t_x (LIKE t); ALTER TABLE t_x REPLICA IDENTITY FULL'
\set toasted 'ALTER TABLE t ALTER COLUMN note SET STORAGE EXTERNAL; UPDATE t SET note = repeat(md5(k), 300)'
\set twice 'UPDATE t SET v = v + 1; UPDATE t SET v = 0 WHERE id = 3'

-- ---------------------------------------------------------------------
-- 15: replica identity
-- ---------------------------------------------------------------------
INSERT INTO cases (hazard, want, name, made) VALUES
(15, 'refused', 'identity NOTHING', 'ALTER TABLE t REPLICA IDENTITY NOTHING'),
(15, 'refused', 'identity of the primary key, which lacks used columns', 'ALTER TABLE t REPLICA IDENTITY DEFAULT'),
(15, 'refused', 'identity DEFAULT without a primary key', 'ALTER TABLE t REPLICA IDENTITY DEFAULT, DROP CONSTRAINT t_pkey'),
(15, 'refused', 'identity of an index, which lacks a used column', 'ALTER TABLE t ALTER k SET NOT NULL; CREATE UNIQUE INDEX i ON t (id, k); ALTER TABLE t REPLICA IDENTITY USING INDEX i'),
(15, 'right', 'identity FULL', ''),
(15, 'right', 'identity FULL without a primary key', 'ALTER TABLE t DROP CONSTRAINT t_pkey');
INSERT INTO cases (hazard, want, name, made, query, before, after) VALUES
(15, 'right', 'identity of the primary key, which is all that is used', 'ALTER TABLE t REPLICA IDENTITY DEFAULT', 'SELECT id % 2 AS odd, count(*), max(id) FROM t GROUP BY 1',
	'UPDATE t SET id = id + 10 WHERE id < 3', 'UPDATE t SET v = 0; DELETE FROM t WHERE id > 11'),
(15, 'right', 'identity of an index with all that is used', 'ALTER TABLE t ALTER k SET NOT NULL, ALTER v SET NOT NULL; CREATE UNIQUE INDEX i ON t (id, k, v); ALTER TABLE t REPLICA IDENTITY USING INDEX i', DEFAULT,
	$$INSERT INTO t VALUES (11, 'a', 11)$$, $$UPDATE t SET k = 'b', v = v + 1 WHERE id IN (1, 11); DELETE FROM t WHERE id = 2$$);
INSERT INTO cases (hazard, want, name, made, options, before, after) VALUES
(15, 'right', 'identity NOTHING, append_only', 'ALTER TABLE t REPLICA IDENTITY NOTHING', ', append_only => true',
	$$INSERT INTO t VALUES (11, 'a', 11)$$, $$INSERT INTO t VALUES (12, NULL, 12)$$),
(15, 'needs_rebuild', 'append_only, and yet an UPDATE', 'ALTER TABLE t REPLICA IDENTITY NOTHING', ', append_only => true',
	$$INSERT INTO t VALUES (11, 'a', 11)$$, 'UPDATE t SET v = 5 WHERE id = 1');
INSERT INTO cases (hazard, want, name, ddl, after) VALUES
(15, 'right', 'NOTHING while running, then only inserts', 'ALTER TABLE t REPLICA IDENTITY NOTHING', $$INSERT INTO t (id, k, v) VALUES (21, 'a', 1)$$),
(15, 'needs_rebuild', 'NOTHING while running, then an UPDATE of a value', 'ALTER TABLE t REPLICA IDENTITY NOTHING', 'UPDATE t SET v = 5 WHERE id = 1'),
(15, 'needs_rebuild', 'NOTHING while running, then an UPDATE of a key', 'ALTER TABLE t REPLICA IDENTITY NOTHING', $$UPDATE t SET k = 'z' WHERE id = 1$$),
(15, 'needs_rebuild', 'NOTHING while running, then a DELETE', 'ALTER TABLE t REPLICA IDENTITY NOTHING', 'DELETE FROM t WHERE id = 1'),
(15, 'needs_rebuild', 'NOTHING for one statement of a transaction', 'BEGIN; ALTER TABLE t REPLICA IDENTITY NOTHING; UPDATE t SET v = 5 WHERE id = 1; ALTER TABLE t REPLICA IDENTITY FULL; COMMIT', DEFAULT),
(15, 'right', 'NOTHING in a transaction that is rolled back', 'BEGIN; ALTER TABLE t REPLICA IDENTITY NOTHING; UPDATE t SET v = 5 WHERE id = 1; ROLLBACK', DEFAULT),
(15, 'needs_rebuild', 'DEFAULT while running, then an UPDATE', 'ALTER TABLE t REPLICA IDENTITY DEFAULT', 'UPDATE t SET v = 5 WHERE id = 1'),
(15, 'right', 'taken away and given back, with nothing between', 'ALTER TABLE t REPLICA IDENTITY NOTHING; ALTER TABLE t REPLICA IDENTITY FULL', DEFAULT);
INSERT INTO cases (hazard, want, name, ddl, made, before, after) VALUES
(15, 'needs_rebuild', 'the index of the identity is dropped', 'DROP INDEX i', 'ALTER TABLE t ALTER k SET NOT NULL, ALTER v SET NOT NULL; CREATE UNIQUE INDEX i ON t (id, k, v); ALTER TABLE t REPLICA IDENTITY USING INDEX i',
	$$INSERT INTO t VALUES (11, 'a', 11)$$, 'DELETE FROM t WHERE id = 1');

-- ---------------------------------------------------------------------
-- 16: unchanged TOAST
-- ---------------------------------------------------------------------
INSERT INTO cases (hazard, want, name, made, query, after) VALUES
(16, 'right', 'out of line and unchanged: the key', :'toasted', 'SELECT md5(note) AS note, count(*), sum(v) FROM t GROUP BY 1', :'twice'),
(16, 'right', 'out of line and unchanged: the filter', :'toasted', 'SELECT k, count(*), sum(v) FROM t WHERE length(note) > 100 GROUP BY 1', :'twice'),
(16, 'right', 'out of line and unchanged: the argument', :'toasted', 'SELECT k, max(note), sum(length(note)) AS length, sum(v) FROM t GROUP BY 1', :'twice'),
(16, 'right', 'a key of 2500 bytes, unchanged', 'ALTER TABLE t ALTER COLUMN note SET STORAGE EXTERNAL; UPDATE t SET note = substr(repeat(md5(k), 80), 1, 2500)', 'SELECT note, count(*), sum(v) FROM t GROUP BY 1', :'twice'),
(16, 'right', 'shrinks, grows, goes and comes back', :'toasted', 'SELECT note, count(*), max(v) FROM t GROUP BY 1', $$UPDATE t SET note = 'x' WHERE id = 1; UPDATE t SET note = NULL WHERE id = 2; UPDATE t SET v = 0; UPDATE t SET note = repeat('y', 2600) WHERE id < 3; UPDATE t SET v = 1 WHERE id < 3$$);
INSERT INTO cases (hazard, want, name, ddl, made, query, after) VALUES
(16, 'needs_rebuild', 'unchanged under an identity that no longer tells', 'ALTER TABLE t REPLICA IDENTITY DEFAULT', :'toasted', 'SELECT md5(note) AS note, count(*), sum(v) FROM t GROUP BY 1', :'twice');

-- ---------------------------------------------------------------------
-- 17: TRUNCATE
-- ---------------------------------------------------------------------
INSERT INTO cases (hazard, want, name, ddl) VALUES
(17, 'right', 'TRUNCATE', 'TRUNCATE t'),
(17, 'right', 'TRUNCATE RESTART IDENTITY', 'TRUNCATE t RESTART IDENTITY'),
(17, 'right', 'between rows of one transaction', $$BEGIN; INSERT INTO t VALUES (31, 'a', 31); TRUNCATE t; INSERT INTO t VALUES (32, 'a', 32); COMMIT$$),
(17, 'right', 'rolled back to a savepoint', $$BEGIN; SAVEPOINT s; TRUNCATE t; INSERT INTO t VALUES (33, 'z', 1); ROLLBACK TO s; DELETE FROM t WHERE id = 5; COMMIT$$);
INSERT INTO cases (hazard, want, name, ddl, made) VALUES
(17, 'right', 'TRUNCATE CASCADE of what it refers to', 'TRUNCATE l CASCADE', 'CREATE TABLE l (k text PRIMARY KEY); INSERT INTO l VALUES (''a''); ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (k) REFERENCES l NOT VALID; ALTER TABLE t DISABLE TRIGGER ALL'),
(17, 'right', 'of a partitioned table', 'TRUNCATE t', :'parted'),
(17, 'needs_rebuild', 'of one partition', 'TRUNCATE t_a', :'parted'),
(17, 'needs_rebuild', 'of a partition that is empty', 'TRUNCATE t_e', :'parted' || '; CREATE TABLE t_e PARTITION OF t FOR VALUES IN (''e''); ALTER TABLE t_e REPLICA IDENTITY FULL');
INSERT INTO cases (hazard, want, name, ddl, made, query, options) VALUES
(17, 'right', 'of one of two sources', 'TRUNCATE l', 'CREATE TABLE l (k text PRIMARY KEY, name text); ALTER TABLE l REPLICA IDENTITY FULL; INSERT INTO l VALUES (''a'', ''A''), (''b'', ''B'')', 'SELECT l.name, count(*), sum(v) FROM t LEFT JOIN l ON l.k = t.k GROUP BY 1', ', track_lookups => true'),
(17, 'right', 'of both sources at once', 'TRUNCATE l, t', 'CREATE TABLE l (k text PRIMARY KEY, name text); ALTER TABLE l REPLICA IDENTITY FULL; INSERT INTO l VALUES (''a'', ''A''), (''b'', ''B'')', 'SELECT l.name, count(*), sum(v) FROM t LEFT JOIN l ON l.k = t.k GROUP BY 1', ', track_lookups => true');

-- ---------------------------------------------------------------------
-- 18: partitions
-- ---------------------------------------------------------------------
INSERT INTO cases (hazard, want, name, made, ddl) VALUES
(18, 'right', 'a new partition', :'parted', $$CREATE TABLE t_z PARTITION OF t FOR VALUES IN ('z'); INSERT INTO t VALUES (31, 'z', 1)$$),
(18, 'right', 'ATTACH of an empty table', :'parted', $$ALTER TABLE t ATTACH PARTITION t_x FOR VALUES IN ('x'); INSERT INTO t VALUES (31, 'x', 1)$$),
(18, 'needs_rebuild', 'ATTACH of 100 rows', :'parted', $$INSERT INTO t_x SELECT i, 'x', i FROM generate_series(101, 200) i; ALTER TABLE t ATTACH PARTITION t_x FOR VALUES IN ('x')$$),
(18, 'right', 'ATTACH that is rolled back', :'parted', $$INSERT INTO t_x VALUES (31, 'x', 1); BEGIN; ALTER TABLE t ATTACH PARTITION t_x FOR VALUES IN ('x'); INSERT INTO t VALUES (32, 'x', 2); ROLLBACK$$),
(18, 'needs_rebuild', 'DETACH', :'parted', 'ALTER TABLE t DETACH PARTITION t_a'),
(18, 'needs_rebuild', 'DETACH, changed and attached again, in one transaction', :'parted', $$BEGIN; ALTER TABLE t DETACH PARTITION t_a; UPDATE t_a SET v = v + 1; ALTER TABLE t ATTACH PARTITION t_a FOR VALUES IN ('a'); COMMIT$$),
(18, 'needs_rebuild', 'DETACH of the default partition', :'parted', 'ALTER TABLE t DETACH PARTITION t_rest; ALTER TABLE t ATTACH PARTITION t_rest DEFAULT'),
(18, 'needs_rebuild', 'DROP of a partition', :'parted', $$DROP TABLE t_a; CREATE TABLE t_a PARTITION OF t FOR VALUES IN ('a'); ALTER TABLE t_a REPLICA IDENTITY FULL$$),
(18, 'needs_rebuild', 'a partition that came, was filled and went', :'parted', $$CREATE TABLE t_z PARTITION OF t FOR VALUES IN ('z'); INSERT INTO t VALUES (31, 'z', 1); DROP TABLE t_z$$),
(18, 'right', 'rows move between partitions', :'parted', $$UPDATE t SET k = 'b' WHERE k = 'a'; UPDATE t SET k = 'a' WHERE k IS NULL$$),
(18, 'right', 'sub-partitions, and rows that move among them', :'parted', $$CREATE TABLE t_s PARTITION OF t FOR VALUES IN ('s') PARTITION BY RANGE (id); CREATE TABLE t_s1 PARTITION OF t_s FOR VALUES FROM (0) TO (100); CREATE TABLE t_s2 PARTITION OF t_s FOR VALUES FROM (100) TO (200); ALTER TABLE t_s1 REPLICA IDENTITY FULL; ALTER TABLE t_s2 REPLICA IDENTITY FULL; INSERT INTO t VALUES (31, 's', 1); UPDATE t SET id = id + 100 WHERE k = 's'; UPDATE t SET k = 'a' WHERE k = 's'$$),
(18, 'needs_rebuild', 'sub-partition attached with a row', :'parted', $$CREATE TABLE t_s PARTITION OF t FOR VALUES IN ('x') PARTITION BY RANGE (id); INSERT INTO t_x VALUES (31, 'x', 1); ALTER TABLE t_s ATTACH PARTITION t_x DEFAULT$$),
(18, 'needs_rebuild', 'a partition without the identity that its changes need', :'parted', $$CREATE TABLE t_z PARTITION OF t FOR VALUES IN ('z'); INSERT INTO t VALUES (31, 'z', 1); DELETE FROM t_z$$),
(20, 'needs_rebuild', 'an unlogged partition', :'parted', $$CREATE UNLOGGED TABLE t_z PARTITION OF t FOR VALUES IN ('z'); INSERT INTO t VALUES (31, 'z', 1); ALTER TABLE t_z SET LOGGED$$);
INSERT INTO cases (hazard, want, name, made, ddl, after) VALUES
(18, 'needs_rebuild', 'DETACH CONCURRENTLY', :'parted' || '; DROP TABLE t_rest', 'ALTER TABLE t DETACH PARTITION t_a CONCURRENTLY', '');
UPDATE cases SET before = $$INSERT INTO t VALUES (11, 'a', 11)$$, made = replace(made, ', ''b'', NULL])[i % 3 + 1]', '])[1]') WHERE name = 'DETACH CONCURRENTLY';

-- ---------------------------------------------------------------------
-- 19, 23: DDL that computes values; generated columns
-- ---------------------------------------------------------------------
INSERT INTO cases (hazard, want, name, ddl) VALUES
(19, 'refused', 'ALTER TYPE USING of a used column', 'ALTER TABLE t ALTER v TYPE numeric USING v * 100'),
(19, 'refused', 'ALTER TYPE of a used column without a rewrite', 'ALTER TABLE t ALTER k TYPE varchar'),
(19, 'right', 'ALTER TYPE USING of a column that is not used', 'ALTER TABLE t ALTER note TYPE int USING length(note)'),
(19, 'right', 'ALTER TYPE without a rewrite of one that is not used', 'ALTER TABLE t ALTER note TYPE varchar(100)'),
(19, 'right', 'ALTER TYPE and rows in one transaction', $$BEGIN; INSERT INTO t VALUES (31, 'a', 1, 'x'); ALTER TABLE t ALTER note TYPE int USING length(note); UPDATE t SET note = 5, v = v + 1; COMMIT$$),
(19, 'right', 'ADD COLUMN DEFAULT random()', 'ALTER TABLE t ADD r float8 DEFAULT random()'),
(19, 'right', 'ADD COLUMN GENERATED', 'ALTER TABLE t ADD g int GENERATED ALWAYS AS (v * 2) STORED'),
(19, 'right', 'ADD COLUMN with a sequence', 'ALTER TABLE t ADD s bigserial');
INSERT INTO cases (hazard, want, name, made, query, ddl) VALUES
(23, 'right', 'a stored generated column that is used', 'ALTER TABLE t ADD g int GENERATED ALWAYS AS (v % 3) STORED', 'SELECT g, count(*), sum(g), max(g) FROM t GROUP BY g', 'UPDATE t SET v = v + 1'),
(23, 'right', 'a used generated column becomes an ordinary one', 'ALTER TABLE t ADD g int GENERATED ALWAYS AS (v % 3) STORED', 'SELECT g, count(*), sum(g), max(g) FROM t GROUP BY g', 'ALTER TABLE t ALTER g DROP EXPRESSION; UPDATE t SET g = 7 WHERE id = 1'),
(19, 'refused', 'ALTER TYPE of what a used generated column is made of', 'ALTER TABLE t ADD g int GENERATED ALWAYS AS (v % 3) STORED', 'SELECT g, count(*), sum(g), max(g) FROM t GROUP BY g', 'ALTER TABLE t ALTER v TYPE bigint'),
(19, 'refused', 'a used generated column made anew', 'ALTER TABLE t ADD g int GENERATED ALWAYS AS (v % 3) STORED', 'SELECT g, count(*), sum(g), max(g) FROM t GROUP BY g', 'ALTER TABLE t DROP g, ADD g int GENERATED ALWAYS AS (v % 5) STORED');

-- ---------------------------------------------------------------------
-- 20: tables whose changes are not in the WAL
-- ---------------------------------------------------------------------
INSERT INTO cases (hazard, want, name, made) VALUES
(20, 'refused', 'an unlogged table', 'ALTER TABLE t SET UNLOGGED'),
(20, 'refused', 'a temporary table', 'CREATE TEMP TABLE t (LIKE t)'),
(20, 'refused', 'a view', 'ALTER TABLE t RENAME TO u; CREATE VIEW t AS TABLE u'),
(20, 'refused', 'a materialized view', 'ALTER TABLE t RENAME TO u; CREATE MATERIALIZED VIEW t AS TABLE u'),
(20, 'refused', 'a foreign table', 'DROP TABLE t; CREATE FOREIGN DATA WRAPPER regress_incbatch_dummy; CREATE SERVER regress_incbatch_dummy FOREIGN DATA WRAPPER regress_incbatch_dummy; CREATE FOREIGN TABLE t (id int, k text, v int) SERVER regress_incbatch_dummy'),
(20, 'refused', 'a parent of other tables', 'CREATE TABLE child () INHERITS (t)');
INSERT INTO cases (hazard, want, name, query) VALUES
(20, 'refused', 'a system catalog', 'SELECT relkind, count(*) FROM pg_class GROUP BY 1'),
(20, 'refused', 'a table of incbatch', 'SELECT state, count(*) FROM incbatch.path GROUP BY 1');
INSERT INTO cases (hazard, want, name, ddl) VALUES
(20, 'needs_rebuild', 'SET UNLOGGED, rows, SET LOGGED', $$ALTER TABLE t SET UNLOGGED; INSERT INTO t VALUES (31, 'a', 1); ALTER TABLE t SET LOGGED$$),
(20, 'needs_rebuild', 'the same in one transaction', $$BEGIN; ALTER TABLE t SET UNLOGGED; INSERT INTO t VALUES (31, 'a', 1); ALTER TABLE t SET LOGGED; COMMIT$$),
(20, 'right', 'SET UNLOGGED that is rolled back', $$BEGIN; ALTER TABLE t SET UNLOGGED; INSERT INTO t VALUES (31, 'a', 1); ROLLBACK$$);

-- ---------------------------------------------------------------------
-- 21: DDL between changes
-- ---------------------------------------------------------------------
INSERT INTO cases (hazard, want, name, ddl, after) VALUES
(21, 'right', 'RENAME of a used column', 'ALTER TABLE t RENAME v TO w', 'UPDATE t SET w = w + 1; DELETE FROM t WHERE id = 3'),
(21, 'right', 'RENAME of the table', 'ALTER TABLE t RENAME TO u', 'UPDATE u SET v = v + 1; DELETE FROM u WHERE id = 3'),
(21, 'right', 'SET SCHEMA', 'CREATE SCHEMA divergence_other; ALTER TABLE t SET SCHEMA divergence_other', 'UPDATE divergence_other.t SET v = v + 1; DELETE FROM divergence_other.t WHERE id = 3'),
(21, 'right', 'RENAME of its schema', 'ALTER SCHEMA divergence_case RENAME TO divergence_other', 'UPDATE divergence_other.t SET v = v + 1; ALTER SCHEMA divergence_other RENAME TO divergence_case'),
(21, 'right', 'another table takes the name', 'ALTER TABLE t RENAME TO u; CREATE TABLE t (LIKE u); INSERT INTO t VALUES (31, ''a'', 1)', 'UPDATE u SET v = v + 1; DELETE FROM u WHERE id = 3'),
(21, 'right', 'two columns change places by name', 'BEGIN; ALTER TABLE t RENAME v TO x; ALTER TABLE t RENAME id TO v; ALTER TABLE t RENAME x TO id; UPDATE t SET v = v + 100; COMMIT', 'DELETE FROM t WHERE v = 103');
INSERT INTO cases (hazard, want, name, ddl) VALUES
(21, 'refused', 'DROP of a used column', 'ALTER TABLE t DROP v'),
(21, 'right', 'DROP of a column that is not used', 'ALTER TABLE t DROP note'),
(21, 'right', 'ADD COLUMN with a default, dropped and added again', 'ALTER TABLE t ADD a int DEFAULT 7; UPDATE t SET v = v + 1; ALTER TABLE t DROP a, ADD a text DEFAULT ''x'''),
(21, 'right', 'columns and rows in one transaction, partly undone', $$BEGIN; INSERT INTO t VALUES (31, 'a', 1); ALTER TABLE t DROP note, ADD a int DEFAULT 5; UPDATE t SET v = v + 1; SAVEPOINT s; ALTER TABLE t RENAME v TO w; DELETE FROM t; ROLLBACK TO s; DELETE FROM t WHERE id = 5; COMMIT$$),
(21, 'right', 'a child that comes and goes', 'CREATE TABLE child () INHERITS (t); INSERT INTO child VALUES (31, ''a'', 1); DROP TABLE child'),
(21, 'right', 'it inherits from another', 'CREATE TABLE parent (k text); ALTER TABLE t INHERIT parent; UPDATE parent SET k = ''q'' WHERE k = ''b'''),
(21, 'right', 'indexes, constraints, triggers, statistics, comments', 'CREATE INDEX i ON t (v); ALTER TABLE t ADD CHECK (id > 0), DISABLE TRIGGER ALL, SET (fillfactor = 50), ALTER v SET STATISTICS 5; COMMENT ON TABLE t IS ''x''; ANALYZE t');
INSERT INTO cases (hazard, want, name, made, query, ddl, before, after) VALUES
(21, 'right', 'ALTER TYPE ADD VALUE of an enum', 'CREATE TYPE mood AS ENUM (''a'', ''b''); ALTER TABLE t ALTER k TYPE mood USING CASE WHEN k = ''a'' THEN k ELSE ''b'' END::mood', DEFAULT,
	'ALTER TYPE mood ADD VALUE ''m'' BEFORE ''b''', 'UPDATE t SET k = ''a'' WHERE id = 1', 'UPDATE t SET k = ''m'' WHERE id IN (2, 3)'),
(21, 'right', 'RENAME VALUE of an enum', 'CREATE TYPE mood AS ENUM (''a'', ''b''); ALTER TABLE t ALTER k TYPE mood USING CASE WHEN k = ''a'' THEN k ELSE ''b'' END::mood', DEFAULT,
	'ALTER TYPE mood RENAME VALUE ''b'' TO ''beta''', 'UPDATE t SET k = ''a'' WHERE id = 1', 'UPDATE t SET k = ''beta'' WHERE id IN (2, 3)'),
(21, 'needs_rebuild', 'RENAME VALUE of an enum that is shown as text', 'CREATE TYPE mood AS ENUM (''a'', ''b''); ALTER TABLE t ALTER k TYPE mood USING CASE WHEN k = ''a'' THEN k ELSE ''b'' END::mood', 'SELECT k::text, count(*), sum(v) FROM t GROUP BY 1',
	'ALTER TYPE mood RENAME VALUE ''b'' TO ''beta''', 'UPDATE t SET k = ''a'' WHERE id = 1', 'UPDATE t SET k = ''beta'' WHERE id IN (2, 3)'),
(21, 'needs_rebuild', 'a function that the query calls is replaced', 'CREATE FUNCTION f(int) RETURNS int LANGUAGE sql IMMUTABLE AS ''SELECT $1 % 2''', 'SELECT f(v) AS k, count(*), sum(v) FROM t GROUP BY 1',
	'CREATE OR REPLACE FUNCTION f(int) RETURNS int LANGUAGE sql IMMUTABLE AS ''SELECT $1 % 3''', DEFAULT, DEFAULT),
(21, 'right', 'a domain gets a constraint and a default', 'CREATE DOMAIN amount AS int; ALTER TABLE t ALTER v TYPE amount', DEFAULT,
	'ALTER DOMAIN amount ADD CHECK (VALUE < 1000); ALTER DOMAIN amount SET DEFAULT 5; ALTER DOMAIN amount RENAME TO sum_of', DEFAULT, DEFAULT),
(21, 'refused', 'an attribute of a used composite type changes', 'CREATE TYPE pair AS (a int, b int); ALTER TABLE t ADD p pair; UPDATE t SET p = ROW(id, v)', 'SELECT (p).a % 2 AS k, count(*), sum((p).b) FROM t GROUP BY 1',
	'ALTER TYPE pair ALTER ATTRIBUTE b TYPE text', '', DEFAULT),
(21, 'right', 'an attribute is added to a used composite type', 'CREATE TYPE pair AS (a int, b int); ALTER TABLE t ADD p pair; UPDATE t SET p = ROW(id, v)', 'SELECT (p).a % 2 AS k, count(*), sum((p).b) FROM t GROUP BY 1',
	'ALTER TYPE pair ADD ATTRIBUTE c int', DEFAULT, 'UPDATE t SET p.b = 100 WHERE id > 3');

-- ---------------------------------------------------------------------
-- 22: rewrites that keep the data
-- ---------------------------------------------------------------------
INSERT INTO cases (hazard, want, name, ddl) VALUES
(22, 'right', 'CLUSTER', 'CLUSTER t USING t_pkey'),
(22, 'right', 'CLUSTER between rows of one transaction', $$BEGIN; INSERT INTO t VALUES (31, 'a', 1); CLUSTER t USING t_pkey; UPDATE t SET v = v + 1; COMMIT$$),
(22, 'right', 'VACUUM FULL', 'VACUUM FULL t'),
(22, 'right', 'SET ACCESS METHOD, SET TABLESPACE', 'ALTER TABLE t SET ACCESS METHOD heap; ALTER TABLE t SET TABLESPACE pg_default; REINDEX TABLE t'),
(22, 'right', 'of the state table', 'VACUUM FULL p_state; CLUSTER p_state USING p_state_k_idx; REINDEX TABLE p_state');

-- ---------------------------------------------------------------------
-- 24: the source goes
-- ---------------------------------------------------------------------
INSERT INTO cases (hazard, want, name, ddl) VALUES
(24, 'refused', 'DROP TABLE', 'DROP TABLE t'),
(24, 'refused', 'DROP and CREATE under the same name', 'BEGIN; DROP TABLE t; CREATE TABLE t (id int, k text, v int); COMMIT');
INSERT INTO cases (hazard, want, name, ddl, after) VALUES
(24, 'dropped', 'DROP TABLE CASCADE', 'DROP TABLE t CASCADE', ''),
(24, 'dropped', 'DROP TABLE CASCADE in a transaction with rows', 'BEGIN; DELETE FROM t WHERE id = 3; DROP TABLE t CASCADE; COMMIT', ''),
(24, 'right', 'DROP TABLE CASCADE that is rolled back', 'BEGIN; DELETE FROM t WHERE id = 3; DROP TABLE t CASCADE; ROLLBACK', DEFAULT),
(24, 'dropped', 'DROP CASCADE and CREATE under the same name', 'BEGIN; DROP TABLE t CASCADE; CREATE TABLE t (id int, k text, v int); COMMIT', 'INSERT INTO t VALUES (31, ''a'', 1)'),
(24, 'dropped', 'DROP SCHEMA CASCADE in a transaction with rows', 'BEGIN; UPDATE t SET v = v + 1; DROP SCHEMA divergence_case CASCADE; COMMIT', 'CREATE SCHEMA divergence_case'),
(24, 'dropped', 'DROP OWNED in a transaction with rows', 'CREATE ROLE regress_incbatch_owner; ALTER TABLE t OWNER TO regress_incbatch_owner; BEGIN; INSERT INTO t VALUES (31, ''a'', 1); DROP OWNED BY regress_incbatch_owner CASCADE; COMMIT; DROP ROLE regress_incbatch_owner', ''),
(24, 'dropped', 'DROP COLUMN CASCADE of a used column', 'ALTER TABLE t DROP v CASCADE', 'INSERT INTO t VALUES (31, ''a'')');

-- ---------------------------------------------------------------------
-- 25: somebody writes into the aggregate, or alters it
-- ---------------------------------------------------------------------
INSERT INTO cases (hazard, want, name, ddl, before, after) VALUES
(25, 'verify finds it', 'UPDATE of the state table', $$UPDATE p_state SET sum_1 = sum_1 + 1 WHERE k = 'b'$$, DEFAULT, ''),
(25, 'verify finds it', 'UPDATE of a key in the state table', $$UPDATE p_state SET k = 'other' WHERE k = 'b'$$, DEFAULT, ''),
(25, 'verify finds it', 'DELETE from the state table', $$DELETE FROM p_state WHERE k = 'b'$$, '', ''),
(25, 'verify finds it', 'INSERT into the state table', $$INSERT INTO p_state (k, row_count, sum_1, count_1, max_1) VALUES ('planted', 1, 1, 1, 1)$$, DEFAULT, ''),
(25, 'right', 'a child of the state table', $$CREATE TABLE child () INHERITS (p_state); INSERT INTO child SELECT * FROM p_state; DELETE FROM t WHERE id = 2$$, '', 'DROP TABLE child'),
(25, 'verify finds it', 'TRUNCATE of the state table', 'TRUNCATE p_state', '', $$INSERT INTO t (id, k, v) VALUES (31, 'z', 1)$$),
(25, 'needs_rebuild', 'TRUNCATE of the state table, then a DELETE from the source', 'TRUNCATE p_state', '', 'DELETE FROM t WHERE id = 3'),
(25, 'needs_rebuild', 'another batch query under its name', 'CREATE OR REPLACE VIEW p_batch AS SELECT k, count(*), sum(v), max(v) FROM t WHERE v > 2 GROUP BY k', DEFAULT, DEFAULT),
(25, 'refused', 'a batch query with other columns', 'CREATE OR REPLACE VIEW p_batch AS SELECT k, count(*), sum(v), min(v) FROM t GROUP BY k', DEFAULT, DEFAULT),
(25, 'refused', 'DROP of a column of the state table', 'ALTER TABLE p_state DROP sum_1', DEFAULT, DEFAULT),
(25, 'refused', 'another type for a column of the state table', 'ALTER TABLE p_state ALTER sum_1 TYPE int', DEFAULT, DEFAULT),
(25, 'right', 'a column more in the state table', 'ALTER TABLE p_state ADD mine int DEFAULT 5; CREATE INDEX mine ON p_state (sum_1)', DEFAULT, DEFAULT),
(25, 'failed', 'the index of the state table is dropped', 'DROP INDEX p_state_k_idx', DEFAULT, DEFAULT),
(25, 'refused', 'the state table is set UNLOGGED', 'ALTER TABLE p_state SET UNLOGGED', DEFAULT, DEFAULT);

-- ---------------------------------------------------------------------
-- 26: values that look like the protocol
-- ---------------------------------------------------------------------
INSERT INTO cases (hazard, want, name, query, ddl) VALUES
(26, 'right', 'a value that names another column and its value', 'SELECT note, count(*), sum(v) FROM t GROUP BY note', $$INSERT INTO t VALUES (31, 'a', 1, 'x v[integer]:1000000 '), (32, 'a', 1, 'x'' v[integer]:1000000'), (33, '\N', 1, E'\nCOMMIT 99\nBEGIN 100\n'); UPDATE t SET v = 2 WHERE id > 30$$),
(26, 'right', 'quotes, brackets, backslashes, controls, emoji', 'SELECT k, note, count(*), sum(v) FROM t GROUP BY 1, 2', $$INSERT INTO t SELECT i, quote_literal(chr(i)), i, format('{"%s"}[(%s)]\%s', chr(i), chr(i), chr(i)) FROM generate_series(31, 127) i; INSERT INTO t SELECT i, chr(i), i, chr(128512 + i) FROM generate_series(128, 160) i; UPDATE t SET k = note, note = k WHERE id % 3 = 0$$),
(26, 'right', 'a value of 1 MB', 'SELECT k, md5(note) AS note, max(length(note)), count(*) FROM t GROUP BY 1, 2', $$INSERT INTO t VALUES (31, 'a', 1, repeat('"''[]{}\ ', 131072)), (32, 'a', 1, (SELECT string_agg(md5(i::text), E'\n') FROM generate_series(1, 32768) i)); UPDATE t SET k = 'b' WHERE id > 30; DELETE FROM t WHERE id = 31$$);

-- ---------------------------------------------------------------------
-- 78: rows of the largest kind
-- ---------------------------------------------------------------------
INSERT INTO cases (hazard, want, name, made, query, ddl)
SELECT 78, 'right', kind,
	format('DROP TABLE t; CREATE TABLE t (id int, k text, v int, note text, %s); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t SELECT i, ''a'', i FROM generate_series(1, 6) i; ALTER TABLE t %s',
		string_agg(format('c%s smallint', i), ', ' ORDER BY i), last),
	'SELECT c1596, k, count(*), sum(c1596 + v) FROM t GROUP BY 1, 2', 'UPDATE t SET c1596 = v % 3; UPDATE t SET v = 5 WHERE id = 3'
FROM generate_series(1, 1596) i,
     (VALUES ('1600 columns, of which the last is used', 'ALTER k SET STATISTICS 0'),
             ('the same, 20 of them dropped', (SELECT string_agg('DROP c' || i * 50, ', ') FROM generate_series(1, 20) i))) v (kind, last)
GROUP BY kind, last ORDER BY kind;

-- ---------------------------------------------------------------------
-- Running them
-- ---------------------------------------------------------------------
-- Run the statements of a case in its session; returns the first error, after
-- which the others run all the same.
CREATE FUNCTION act(statements text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	statement text;
	message text;
	first_error text;
BEGIN
	FOREACH statement IN ARRAY regexp_split_to_array(statements, ';\s*') LOOP
		CONTINUE WHEN statement = '';
		BEGIN
			PERFORM dblink_exec('divergence', statement);
		EXCEPTION WHEN OTHERS THEN
			GET STACKED DIAGNOSTICS message = MESSAGE_TEXT;
			first_error := coalesce(first_error, message);
		END;
	END LOOP;
	RETURN first_error;
END $$;

-- Create the pipeline in the session of the case; returns the DETAIL of an error.
CREATE FUNCTION create_pipeline(query text, options text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	message text;
BEGIN
	PERFORM FROM dblink('divergence', format('SELECT incbatch.create_pipeline(%L, %L%s)::text', 'divergence_case.p', query, options)) AS d(r text);
	RETURN NULL;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, message = MESSAGE_TEXT;
	RETURN coalesce(nullif(detail, ''), message);
END $$;

-- right, verify finds it, or what keeps it from being refreshed
CREATE PROCEDURE judge(INOUT verdict text, INOUT reason text) LANGUAGE plpgsql AS $$
DECLARE
	p regclass := (SELECT relation FROM incbatch.pipelines WHERE pipeline ~ '^divergence_');
	b regclass := (SELECT definition FROM incbatch.pipelines WHERE relation = p);
	differences bigint;
	verified bigint;
BEGIN
	reason := NULL;
	IF p IS NULL THEN
		verdict := 'dropped';
		RETURN;
	END IF;
	BEGIN
		CALL incbatch.refresh_pipeline(p::text);
	EXCEPTION WHEN OTHERS THEN
		SELECT state, last_error INTO verdict, reason FROM incbatch.pipelines WHERE relation = p;
		RETURN;
	END;
	EXECUTE format('SELECT count(*) FROM ((TABLE %1$s EXCEPT ALL TABLE %2$s) UNION ALL (TABLE %2$s EXCEPT ALL TABLE %1$s)) d', p, b)
	INTO differences;
	SELECT count(*) FROM incbatch.verify_pipeline(p::text) INTO verified;
	verdict := CASE WHEN differences = 0 AND verified = 0 THEN 'right'
		WHEN differences > 0 AND verified > 0 THEN 'verify finds it'
		ELSE format('WRONG: %s differences, %s of them found', differences, verified) END;
END $$;

CREATE PROCEDURE run_case(c divergence.cases, INOUT verdict text DEFAULT NULL, INOUT reason text DEFAULT NULL,
                          INOUT rebuilt text DEFAULT '') LANGUAGE plpgsql AS $$
DECLARE
	refused text;
	ignored text;
BEGIN
	reason := divergence.act('CREATE SCHEMA divergence_case; SET search_path = divergence_case, public; '
		|| 'CREATE TABLE t (id int PRIMARY KEY, k text, v int, note text); ALTER TABLE t REPLICA IDENTITY FULL; '
		|| 'INSERT INTO t SELECT i, substr(''abc'', i % 3 + 1, 1), i, ''note'' FROM generate_series(1, 6) i; ' || c.made);
	IF reason IS NOT NULL THEN
		verdict := 'CASE: ' || reason;
		RETURN;
	END IF;
	reason := divergence.create_pipeline(c.query, c.options);
	IF reason IS NOT NULL THEN
		verdict := 'refused';
		RETURN;
	END IF;
	COMMIT;
	CALL divergence.judge(verdict, reason);
	COMMIT;
	IF verdict <> 'right' THEN
		verdict := 'BACKFILL: ' || verdict;
		RETURN;
	END IF;
	reason := divergence.act(c.before);
	refused := divergence.act(c.ddl);
	IF refused IS NOT NULL THEN
		PERFORM divergence.act('ROLLBACK');
	END IF;
	reason := coalesce(reason, divergence.act(c.after));
	IF reason IS NOT NULL THEN
		verdict := 'WRITER FAILED';
		RETURN;
	END IF;
	COMMIT;
	CALL divergence.judge(verdict, reason);
	IF refused IS NOT NULL AND verdict = 'right' THEN
		verdict := 'refused';
		reason := refused;
	END IF;
	COMMIT;
	IF verdict IN ('needs_rebuild', 'verify finds it') THEN
		PERFORM incbatch.rebuild_pipeline(relation::text) FROM incbatch.pipelines WHERE pipeline ~ '^divergence_';
		COMMIT;
		CALL divergence.judge(rebuilt, ignored);
		COMMIT;
	END IF;
END $$;

CREATE PROCEDURE run_cases() LANGUAGE plpgsql AS $$
DECLARE
	c divergence.cases;
	answer record;
	server text := format('host=%s port=%s dbname=%I user=%I', split_part(current_setting('unix_socket_directories'), ',', 1),
		current_setting('port'), current_database(), session_user);
BEGIN
	FOR c IN SELECT * FROM divergence.cases ORDER BY no LOOP
		PERFORM dblink_connect('divergence', server || ' options=-cclient_min_messages=error');
		CALL divergence.run_case(c, c.verdict, c.reason, c.rebuilt);
		COMMIT;
		PERFORM divergence.act('ROLLBACK; DROP SCHEMA IF EXISTS divergence_case, divergence_other CASCADE; DROP FOREIGN DATA WRAPPER IF EXISTS regress_incbatch_dummy CASCADE');
		PERFORM dblink_disconnect('divergence');
		UPDATE divergence.cases SET verdict = c.verdict, reason = c.reason, rebuilt = c.rebuilt WHERE no = c.no;
		COMMIT;
	END LOOP;
END $$;

-- a pipeline that stays keeps the slot
CREATE TABLE stays (k int);
ALTER TABLE stays REPLICA IDENTITY FULL;
SELECT incbatch.create_pipeline('stay', 'SELECT k, count(*) FROM stays GROUP BY k');
CALL exact('stay');

CALL run_cases();
SELECT hazard AS "no.", name AS "case", verdict, rebuilt, left(reason, 100) AS reason FROM cases ORDER BY hazard, no;

-- none is otherwise than it should be, and what needs a rebuild says so
SELECT no, hazard, name, want, verdict, reason FROM cases WHERE verdict IS DISTINCT FROM want;
SELECT no, hazard, name, verdict, rebuilt FROM cases WHERE verdict IN ('needs_rebuild', 'verify finds it') AND rebuilt IS DISTINCT FROM 'right';
SELECT verdict, count(*) FROM cases GROUP BY 1 ORDER BY 1;
CALL exact('stay');

-- ---------------------------------------------------------------------
-- 26: 10,000 rows of random text in every type that is like text
-- ---------------------------------------------------------------------
CREATE TABLE texts (id int PRIMARY KEY, a text, b varchar(200), c char(20), d bytea, e jsonb, f name, n int);
ALTER TABLE texts REPLICA IDENTITY FULL;
CREATE FUNCTION any_text(pieces int) RETURNS text LANGUAGE sql VOLATILE AS $any$
	SELECT coalesce(string_agg((ARRAY['''', '"', '\', '\x', '\N', E'\n', E'\r', E'\t', ' ', '', '[', ']', '(', ')', '{', '}', ',', ':', ';', '--',
		'%s', '$1', '$$', 'NULL', 'null', 'COMMIT 99', 'v[integer]:1', E'\u0001', E'\x7f', E'\u00a0', 'é', E'e\u0301', '😀', '👩‍👩‍👧', '中', '\u0000', '\000'])
		[1 + floor(random() * 37)], ''), '')
	FROM generate_series(1, pieces)
$any$;
SELECT incbatch.create_pipeline('of_texts', $$
	SELECT a, f, count(*), sum(n), max(b) AS b, min(c) AS c, sum(length(d)) AS bytes, max(e ->> 'x') AS x, count(DISTINCT e) AS jsons
	FROM texts GROUP BY a, f
$$);
SELECT setseed(0.26);
INSERT INTO texts SELECT i, any_text(i % 3), any_text(i % 7), left(any_text(i % 5), 20), convert_to(any_text(i % 9), 'UTF8'),
	jsonb_build_object('x', any_text(i % 4), any_text(2), i), left(any_text(i % 2), 20)::name, i
FROM generate_series(1, 10000) i;
UPDATE texts SET a = any_text(1 + id % 2), b = any_text(3) WHERE id % 5 = 0;
UPDATE texts SET n = n + 1 WHERE id % 7 = 0;
DELETE FROM texts WHERE id % 11 = 0;
CALL exact('of_texts');
SELECT count(*) > 100 AS "many groups", sum(count) FROM of_texts;
TRUNCATE texts;
CALL exact('of_texts');

SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;
DROP SCHEMA divergence CASCADE;
DROP EXTENSION dblink;
