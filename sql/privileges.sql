--
-- Who may do what: roles, functions, tables, and what others see of a pipeline
--
CREATE SCHEMA privileges;
GRANT USAGE, CREATE ON SCHEMA privileges TO PUBLIC;
SET search_path = privileges, public;
CREATE ROLE regress_incbatch_alice IN ROLE incbatch_user;
CREATE ROLE regress_incbatch_bob IN ROLE incbatch_user;
CREATE ROLE regress_incbatch_nobody;
CREATE ROLE regress_incbatch_deputy IN ROLE regress_incbatch_alice;
CREATE ROLE regress_incbatch_monitor IN ROLE pg_monitor;
CREATE ROLE regress_incbatch_writer IN ROLE pg_write_all_data;
CREATE VIEW roles AS SELECT rolname::text AS role FROM pg_roles WHERE rolname ~ '^regress_incbatch_';

SET ROLE regress_incbatch_alice;
CREATE TABLE secrets (id int PRIMARY KEY, k text, v int, other int);
ALTER TABLE secrets REPLICA IDENTITY FULL;
INSERT INTO secrets SELECT i, 'alice ' || i % 3, i, i FROM generate_series(1, 10) i;
SELECT incbatch.create_pipeline('p', 'SELECT k, count(*), sum(10 / v) FROM secrets GROUP BY k', trigger_interval => '0');
SELECT incbatch.create_consumer('dashboard', 'p', freshness => '1 second', trigger_interval => '0');
CALL exact('p');
RESET ROLE;
-- of what is below, some is of a pipeline with closed windows
CREATE TABLE events (ts timestamp, k text);
INSERT INTO events VALUES ('2024-01-01', 'old'), ('2024-01-03', 'new');
GRANT SELECT ON events TO regress_incbatch_alice;
SET ROLE regress_incbatch_alice;
SELECT incbatch.create_pipeline('closing', 'SELECT date_trunc(''day'', ts), k, count(*) FROM events GROUP BY 1, 2',
	lateness => '0', append_only => true);
CALL exact('closing');
RESET ROLE;
INSERT INTO events VALUES ('2024-01-01', 'a secret that is late');
SET ROLE regress_incbatch_alice;
CALL incbatch.refresh_pipeline('closing');
-- one has failed, with an error that tells a value
SELECT incbatch.create_pipeline('failing', 'SELECT (k || '' of secrets'')::int, count(*) FROM secrets GROUP BY 1');
CALL incbatch.refresh_pipeline('failing');
RESET ROLE;

-- ---------------------------------------------------------------------
-- 73: what everybody sees of them
-- ---------------------------------------------------------------------
CREATE FUNCTION seen(role text) RETURNS TABLE (view text, pipelines bigint) LANGUAGE plpgsql AS $$
DECLARE
	sums text := (SELECT string_agg(format('SELECT %L, count(*) FROM incbatch.%I', v, v), ' UNION ALL ' ORDER BY v)
	              FROM unnest('{batches,consumers,lag,late_rows,paths,pipelines,progress}'::text[]) v);
BEGIN
	EXECUTE format('SET ROLE %I', role);
	RETURN QUERY EXECUTE sums;
	RESET ROLE;
END $$;
SELECT role, string_agg(view || ' ' || (pipelines > 0), ', ' ORDER BY view) AS sees FROM roles, seen(role) GROUP BY role ORDER BY role;

-- a condition of the reader's own is not asked about rows that he does not see
SET ROLE regress_incbatch_bob;
CREATE FUNCTION leak(anyelement) RETURNS boolean COST 0.0000001 LANGUAGE plpgsql AS $$
BEGIN
	RAISE NOTICE 'leaked: %', $1;
	RETURN true;
END $$;
SELECT count(*) FROM incbatch.pipelines WHERE leak(query) AND leak(last_error) AND leak(source);
SELECT count(*) FROM incbatch.paths WHERE leak(relation) AND leak(path) AND leak(as_of);
SELECT count(*) FROM incbatch.consumers WHERE leak(consumer) AND leak(freshness);
SELECT count(*) FROM incbatch.lag WHERE leak(consumer) AND leak(reason) AND leak(path);
SELECT count(*) FROM incbatch.batches WHERE leak(error) AND leak(rows_in) AND leak(path);
SELECT count(*) FROM incbatch.late_rows WHERE leak(row) AND leak(event_time);
SELECT count(*) FROM incbatch.progress WHERE leak(pipeline) AND leak(rows_total);
SELECT count(*) AS tells FROM incbatch.workers WHERE database = current_database() AND strpos(workers::text, 'secret') > 0;
-- nor does shared memory tell of paths by their numbers
SELECT count(s.backlog_rows), count(s.latency_p50), count(s.rows_total), count(s.locked), count(s.next_run)
FROM generate_series(1, 1000) path, incbatch.path_status(path, NULL, NULL) s;
RESET ROLE;
SELECT count(s.backlog_rows) > 0 AS superuser FROM generate_series(1, 1000) path, incbatch.path_status(path, NULL, NULL) s;

-- ---------------------------------------------------------------------
-- 72: every function that takes a pipeline, for those whose it is not; and
-- whoever it is, without incbatch_user nobody changes anything
-- ---------------------------------------------------------------------
CREATE FUNCTION calls(name text) RETURNS TABLE (call text) LANGUAGE sql AS $$
	SELECT format(CASE prokind WHEN 'p' THEN 'CALL' ELSE 'SELECT' END || ' incbatch.%I(%s)', proname,
		(SELECT string_agg(CASE WHEN i.argument = 'name' THEN format('%L', name)
		                        WHEN i.argument = 'pipeline' AND t.typname = 'regclass' THEN format('%L::regclass', name)
		                        WHEN i.argument = 'pipeline' THEN format('%L', name)
		                        WHEN i.argument = 'consumer' AND t.typname = 'text' AND proname = 'create_consumer' THEN '''mine'''
		                        WHEN i.argument = 'consumer' AND t.typname = 'text' THEN '''dashboard'''
		                        WHEN i.argument = 'query' THEN '''SELECT k, count(*) FROM privileges.secrets GROUP BY k'''
		                        WHEN i.argument = 'freshness' THEN '''1 day'''
		                        WHEN i.argument = 'tier' THEN '1' ELSE 'NULL' END
		                   || '::' || format_type(t.oid, NULL), ', ' ORDER BY i.n)
		 FROM unnest(proargtypes) WITH ORDINALITY a(type, n)
		 JOIN pg_type t ON t.oid = a.type
		 JOIN unnest(proargnames) WITH ORDINALITY i(argument, n) USING (n)
		 WHERE i.n <= pronargs - CASE WHEN proname IN ('create_pipeline', 'create_consumer', 'wait_for', 'report') THEN pronargdefaults ELSE 0 END
		    OR proname = 'create_consumer' AND i.argument IN ('tier')))
	FROM pg_proc
	WHERE pronamespace = 'incbatch'::regnamespace AND proargnames && '{name,pipeline,pipeline_name}'
	  AND proname NOT IN ('may_see', 'fit', 'readers', 'amount')
	ORDER BY proname
$$;
CREATE FUNCTION try(role text, call text, OUT result text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SET ROLE %I', role);
	BEGIN
		EXECUTE call;
		result := 'done';
	EXCEPTION WHEN OTHERS THEN
		result := SQLERRM;
	END;
	RESET ROLE;
END $$;
-- whatever the planner knows of the tables
VACUUM ANALYZE incbatch.pipeline, incbatch.path, incbatch.frontier, incbatch.batch, incbatch.consumer;
SELECT substring(call, 'incbatch[.](\w+)') AS function, try('regress_incbatch_nobody', call) FROM calls('privileges.p');
SELECT substring(call, 'incbatch[.](\w+)') AS function, try('regress_incbatch_bob', call) FROM calls('privileges.p') WHERE call !~ 'create_pipeline';
SELECT substring(call, 'incbatch[.](\w+)') AS function, try('regress_incbatch_monitor', call) FROM calls('privileges.p') WHERE call ~ 'cost|advise|diagnose|report|explain|verify|watermark|wait_for|find_pipeline';
SELECT count(*) FROM incbatch.fit('p') WHERE try('regress_incbatch_bob', 'SELECT 1/(batches = 0)::int FROM incbatch.fit(''privileges.p'')') <> 'done';
-- whose it is
SELECT substring(call, 'incbatch[.](\w+)') AS function, try('regress_incbatch_deputy', call) FROM calls('privileges.p') WHERE call ~ 'cost|advise|diagnose|report|explain|watermark|find_pipeline|pause|resume';
-- who may read the relation may wait for it, compare it and know how far it is; not more
GRANT SELECT ON p TO regress_incbatch_nobody;
SELECT substring(call, 'incbatch[.](\w+)') AS function, try('regress_incbatch_nobody', call) FROM calls('privileges.p') WHERE call ~ 'watermark|wait_for|explain|cost|refresh';
SELECT try('regress_incbatch_nobody', 'SELECT * FROM incbatch.verify_pipeline(''privileges.p'')');
REVOKE SELECT ON p FROM regress_incbatch_nobody;

-- ---------------------------------------------------------------------
-- 72: the extension's own tables
-- ---------------------------------------------------------------------
CREATE FUNCTION forbidden(role text) RETURNS TABLE (table_name text, command text, result text) LANGUAGE plpgsql AS $$
BEGIN
	FOR table_name, command IN
		SELECT c.relname, format(t.text, c.relname, (SELECT attname FROM pg_attribute WHERE attrelid = c.oid AND attnum = 1))
		FROM pg_class c, unnest('{"SELECT FROM incbatch.%I","INSERT INTO incbatch.%I DEFAULT VALUES","UPDATE incbatch.%1$I SET %2$I = %2$I","DELETE FROM incbatch.%I","TRUNCATE incbatch.%I","LOCK incbatch.%I","CREATE TRIGGER t BEFORE INSERT ON incbatch.%I EXECUTE FUNCTION suppress_redundant_updates_trigger()","ALTER TABLE incbatch.%I ADD x int","DROP TABLE incbatch.%I CASCADE"}'::text[]) t(text)
		WHERE c.relnamespace = 'incbatch'::regnamespace AND c.relkind IN ('r', 'v')
		  AND NOT (t.text LIKE 'CREATE TRIGGER%' AND c.relkind = 'v') ORDER BY 1, 2
	LOOP
		result := try(role, command);
		RETURN NEXT;
	END LOOP;
END $$;
BEGIN;
SELECT role, f.table_name, f.command FROM roles, forbidden(role) f
WHERE f.result = 'done' AND role <> 'regress_incbatch_writer' ORDER BY 1, 2, 3;
ROLLBACK;
-- who may write all data cannot say what runs as whom
BEGIN;
SELECT f.command, f.result FROM forbidden('regress_incbatch_writer') f
WHERE f.table_name IN ('pipeline', 'path', 'consumer') AND f.command ~ '^(INSERT|UPDATE|DELETE)' ORDER BY 1;
ROLLBACK;
SELECT try('regress_incbatch_nobody', 'CREATE FUNCTION incbatch.f() RETURNS int LANGUAGE sql RETURN 1');
-- event triggers and triggers are nobody's to call
SELECT incbatch.on_drop();
SELECT incbatch.refuse_change();

-- A state table and a pipeline's relations are their owner's alone.
SELECT role, c.relname, p.privilege FROM roles, pg_class c, unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE}'::text[]) p(privilege)
WHERE c.relnamespace = 'privileges'::regnamespace AND c.relname ~ '^(p|closing)' AND c.relkind IN ('r', 'v')
  AND role <> ALL ('{regress_incbatch_alice,regress_incbatch_deputy,regress_incbatch_writer}') AND has_table_privilege(role, c.oid, p.privilege);

-- ---------------------------------------------------------------------
-- 70: columns, and what is taken away while the pipeline runs
-- ---------------------------------------------------------------------
GRANT SELECT (k) ON secrets TO regress_incbatch_bob;
SET ROLE regress_incbatch_bob;
SELECT incbatch.create_pipeline('of_bob', 'SELECT k, sum(v) FROM privileges.secrets GROUP BY k');
SELECT incbatch.create_pipeline('of_bob', 'SELECT k, count(*) FROM privileges.secrets WHERE other > 0 GROUP BY k');
SELECT incbatch.create_pipeline('of_bob', 'SELECT k, count(*) FROM privileges.secrets GROUP BY k');
SELECT incbatch.create_pipeline('all_of_bob', 'SELECT count(*) FROM privileges.secrets');
CALL all_exact('{of_bob,all_of_bob}');
RESET ROLE;
SELECT incbatch.resume_pipeline('failing'), incbatch.drop_pipeline('failing');
-- the column that it reads, while it could read others
GRANT SELECT (v) ON secrets TO regress_incbatch_bob;
REVOKE SELECT (k) ON secrets FROM regress_incbatch_bob;
INSERT INTO secrets VALUES (11, 'since the revoke', 1, 1);
CALL incbatch.refresh_pipeline('of_bob');
CALL exact('all_of_bob');
SELECT * FROM of_bob WHERE k LIKE 'since%';
UPDATE secrets SET k = 'updated since the revoke' WHERE id = 10;
DELETE FROM secrets WHERE id = 9;
GRANT SELECT (k) ON secrets TO regress_incbatch_bob;
SET ROLE regress_incbatch_bob;
SELECT incbatch.resume_pipeline('of_bob');
CALL exact('of_bob');
RESET ROLE;
-- all of it
REVOKE SELECT ON secrets FROM regress_incbatch_bob;
REVOKE SELECT (k, v) ON secrets FROM regress_incbatch_bob;
CALL incbatch.refresh_pipeline('of_bob');
CALL incbatch.refresh_pipeline('all_of_bob');
-- by membership of a role, which ends
CREATE ROLE regress_incbatch_readers;
GRANT SELECT ON secrets TO regress_incbatch_readers;
GRANT regress_incbatch_readers TO regress_incbatch_bob;
SELECT incbatch.resume_pipeline('of_bob'), incbatch.resume_pipeline('all_of_bob');
CALL all_exact('{of_bob,all_of_bob}');
REVOKE regress_incbatch_readers FROM regress_incbatch_bob;
TRUNCATE secrets;
CALL incbatch.refresh_pipeline('of_bob');
SELECT count(*) > 0 AS rows FROM of_bob;
GRANT regress_incbatch_readers TO regress_incbatch_bob;
SELECT incbatch.resume_pipeline('of_bob'), incbatch.resume_pipeline('all_of_bob');
CALL all_exact('{of_bob,all_of_bob}');
-- a lookup
CREATE TABLE names (k text, name text);
GRANT SELECT ON names TO regress_incbatch_bob;
SET ROLE regress_incbatch_bob;
SELECT incbatch.create_pipeline('named', 'SELECT name, count(*) FROM privileges.secrets LEFT JOIN privileges.names USING (k) GROUP BY 1');
CALL exact('named');
RESET ROLE;
REVOKE SELECT ON names FROM regress_incbatch_bob;
INSERT INTO secrets VALUES (12, 'a', 1, 1);
CALL incbatch.refresh_pipeline('named');
GRANT SELECT ON names TO regress_incbatch_bob;
SELECT incbatch.resume_pipeline('named');
CALL exact('named');
-- a superuser who is one no more
CREATE ROLE regress_incbatch_super SUPERUSER;
SET ROLE regress_incbatch_super;
SELECT incbatch.create_pipeline('of_super', 'SELECT k, sum(v) FROM privileges.secrets GROUP BY k');
CALL exact('of_super');
RESET ROLE;
ALTER ROLE regress_incbatch_super NOSUPERUSER;
INSERT INTO secrets VALUES (13, 'a', 1, 1);
CALL incbatch.refresh_pipeline('of_super');

-- A query runs as its author, whoever is given the table.
ALTER TABLE of_bob_state OWNER TO CURRENT_USER;
INSERT INTO secrets VALUES (14, NULL, NULL, NULL);
CALL incbatch.refresh_pipeline('of_bob');
ALTER TABLE of_bob_state OWNER TO regress_incbatch_bob;
SELECT incbatch.resume_pipeline('of_bob');
CALL exact('of_bob');

-- ---------------------------------------------------------------------
-- 71: users' functions
-- ---------------------------------------------------------------------
SET ROLE regress_incbatch_alice;
CREATE FUNCTION volatile(int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT $1';
CREATE FUNCTION stable(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1';
CREATE FUNCTION pure(int) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN current_user; END';
CREATE FUNCTION definer(int) RETURNS text LANGUAGE plpgsql IMMUTABLE SECURITY DEFINER AS 'BEGIN RETURN current_user; END';
SELECT incbatch.create_pipeline('calling', 'SELECT k, sum(volatile(v)) FROM secrets GROUP BY k');
SELECT incbatch.create_pipeline('calling', 'SELECT k, sum(stable(v)) FROM secrets GROUP BY k');
SELECT incbatch.create_pipeline('calling', 'SELECT count(random()) FROM secrets');
SELECT incbatch.create_pipeline('calling', 'SELECT pure(v) AS pure, definer(v) AS definer, count(*) FROM secrets GROUP BY 1, 2');
CALL exact('calling');
TABLE calling;
-- replaced: by one that would be refused, by ones that want to be somebody else
CREATE OR REPLACE FUNCTION pure(int) RETURNS text LANGUAGE plpgsql VOLATILE AS 'BEGIN RETURN current_user; END';
CALL incbatch.refresh_pipeline('calling');
CREATE FUNCTION climb() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	ALTER ROLE regress_incbatch_alice SUPERUSER;
	RETURN 'a superuser called it';
EXCEPTION WHEN insufficient_privilege THEN
	RETURN 'called as ' || current_user;
END $$;
CREATE OR REPLACE FUNCTION pure(int) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN privileges.climb(); END';
SELECT incbatch.rebuild_pipeline('calling');
CALL exact('calling');
TABLE calling;
-- the size of a window, which could be looked at before there is a row, is no exception
CREATE FUNCTION size() RETURNS interval LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN '1 day'; END $$;
CREATE TABLE times (ts timestamp);
ALTER TABLE times REPLICA IDENTITY FULL;
INSERT INTO times VALUES ('2024-01-01'), ('2024-01-02'), (NULL);
SELECT incbatch.create_pipeline('sized', 'SELECT incbatch.tumble(ts, size()), count(*) FROM times GROUP BY 1');
CALL exact('sized');
CREATE OR REPLACE FUNCTION size() RETURNS interval LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	PERFORM privileges.climb();
	RETURN '1 day';
END $$;
CALL incbatch.refresh_pipeline('sized');
SELECT incbatch.rebuild_pipeline('sized');
CALL exact('sized');
INSERT INTO times VALUES ('2024-01-01 01:00');
CALL exact('sized');
SELECT incbatch.create_consumer('books', 'sized', tier => 1);
SELECT rolsuper FROM pg_roles WHERE rolname = 'regress_incbatch_alice';
RESET ROLE;
-- nor does it become so by a superuser's looking at it
SELECT pipeline, (SELECT count(*) FROM incbatch.verify_pipeline(pipeline)) AS differences,
       (SELECT count(*) > 2 FROM incbatch.explain_pipeline(pipeline)) AS explained,
       incbatch.report(pipeline) ~ pipeline AS report
FROM incbatch.pipelines WHERE pipeline IN ('sized', 'calling') ORDER BY 1;
SELECT incbatch.alter_pipeline(pipeline, '1 hour'), incbatch.create_consumer('more books', pipeline, freshness => '3 hours')
FROM incbatch.pipelines WHERE pipeline IN ('sized', 'calling') ORDER BY pipeline;
SELECT rolsuper FROM pg_roles WHERE rolname = 'regress_incbatch_alice';

SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;
RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA privileges CASCADE;
DO $$
DECLARE
	r text;
BEGIN
	FOR r IN SELECT rolname FROM pg_roles WHERE rolname ~ '^regress_incbatch_' LOOP
		EXECUTE format('DROP OWNED BY %I; DROP ROLE %I', r, r);
	END LOOP;
END $$;
