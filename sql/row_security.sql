--
-- 69: row security. Changes are decoded without policies, so a pipeline whose
-- owner does not see all rows is refused, or stops
--
CREATE SCHEMA row_security;
GRANT USAGE, CREATE ON SCHEMA row_security TO PUBLIC;
SET search_path = row_security, public;
CREATE ROLE regress_incbatch_owner IN ROLE incbatch_user;
CREATE ROLE regress_incbatch_other IN ROLE incbatch_user;
CREATE ROLE regress_incbatch_heir IN ROLE regress_incbatch_owner, incbatch_user;
CREATE ROLE regress_incbatch_bypass BYPASSRLS IN ROLE incbatch_user;
SET ROLE regress_incbatch_owner;
CREATE TABLE rows (id int PRIMARY KEY, k int, secret boolean);
ALTER TABLE rows REPLICA IDENTITY FULL;
CREATE TABLE names (k int, name text);
GRANT SELECT ON rows, names TO regress_incbatch_other, regress_incbatch_bypass;
INSERT INTO rows SELECT i, i % 3, i % 2 = 0 FROM generate_series(1, 9) i;
INSERT INTO names VALUES (0, 'zero'), (1, 'one');
CREATE POLICY public_rows ON rows USING (NOT secret);
RESET ROLE;

-- ---------------------------------------------------------------------
-- Who may create a pipeline
-- ---------------------------------------------------------------------
CREATE FUNCTION try(role text, query text, OUT result text) LANGUAGE plpgsql AS $$
DECLARE
	differences bigint;
BEGIN
	EXECUTE format('SET ROLE %I', role);
	BEGIN
		PERFORM incbatch.create_pipeline('tried', query);
		result := 'created';
		PERFORM incbatch.drop_pipeline('tried');
	EXCEPTION WHEN OTHERS THEN
		result := SQLERRM;
	END;
	RESET ROLE;
END $$;
CREATE FUNCTION matrix() RETURNS TABLE (role text, source text, lookup text) LANGUAGE sql AS $$
	SELECT r, try('regress_incbatch_' || r, 'SELECT k, count(*) FROM row_security.rows GROUP BY k'),
	       try('regress_incbatch_' || r, 'SELECT name, count(*) FROM row_security.rows JOIN row_security.names USING (k) GROUP BY name')
	FROM unnest('{owner,heir,bypass,other}'::text[]) r
$$;
SELECT * FROM matrix();
ALTER TABLE rows ENABLE ROW LEVEL SECURITY;
SELECT * FROM matrix();
ALTER TABLE rows FORCE ROW LEVEL SECURITY;
SELECT * FROM matrix();
ALTER TABLE rows NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
-- in a partition's own right: the query reads it by its parent
CREATE TABLE parted (k int, v int) PARTITION BY LIST (k);
CREATE TABLE part PARTITION OF parted FOR VALUES IN (1);
ALTER TABLE part ENABLE ROW LEVEL SECURITY, REPLICA IDENTITY FULL;
GRANT SELECT ON parted TO regress_incbatch_other;
SELECT try('regress_incbatch_other', 'SELECT v, count(*) FROM row_security.parted GROUP BY v');
SELECT try('regress_incbatch_other', 'SELECT v, count(*) FROM row_security.part GROUP BY v');

-- ---------------------------------------------------------------------
-- Policies that come while it runs
-- ---------------------------------------------------------------------
SET ROLE regress_incbatch_owner;
SELECT incbatch.create_pipeline('of_owner', 'SELECT k, count(*) FROM row_security.rows GROUP BY k');
SET ROLE regress_incbatch_heir;
SELECT incbatch.create_pipeline('of_heir', 'SELECT k, count(*) FROM row_security.rows GROUP BY k');
SET ROLE regress_incbatch_bypass;
SELECT incbatch.create_pipeline('of_bypass', 'SELECT k, count(*) FROM row_security.rows GROUP BY k');
SET ROLE regress_incbatch_other;
SELECT incbatch.create_pipeline('of_other', 'SELECT k, count(*) FROM row_security.rows GROUP BY k');
SELECT incbatch.create_pipeline('lookup_of_other', 'SELECT name, count(*) FROM row_security.rows JOIN row_security.names USING (k) GROUP BY name');
RESET ROLE;
CALL all_exact();
ALTER TABLE rows ENABLE ROW LEVEL SECURITY;
INSERT INTO rows VALUES (10, 1, true), (11, NULL, false);
UPDATE rows SET k = 7 WHERE id = 1;
CALL all_exact('{of_owner,of_heir,of_bypass}');
CALL incbatch.refresh_pipeline('of_other');
TABLE of_other ORDER BY k;
-- the owner's own
ALTER TABLE rows FORCE ROW LEVEL SECURITY;
DELETE FROM rows WHERE id = 2;
CALL exact('of_bypass');
CALL incbatch.refresh_pipeline('of_owner');
CALL incbatch.refresh_pipeline('of_heir');
SELECT pipeline, state FROM incbatch.pipelines ORDER BY 1;
-- and they go on where they stopped when the policies are gone
ALTER TABLE rows NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
SELECT incbatch.resume_pipeline(pipeline) FROM incbatch.pipelines WHERE state = 'failed';
CALL all_exact();
-- on a lookup, which is read when changes are folded in
ALTER TABLE names ENABLE ROW LEVEL SECURITY;
INSERT INTO rows VALUES (12, 1, true);
CALL incbatch.refresh_pipeline('lookup_of_other');
ALTER TABLE names DISABLE ROW LEVEL SECURITY;
SELECT incbatch.resume_pipeline('lookup_of_other');
CALL exact('lookup_of_other');

-- ---------------------------------------------------------------------
-- What exempted a role from them ends
-- ---------------------------------------------------------------------
ALTER TABLE rows ENABLE ROW LEVEL SECURITY;
CALL all_exact('{of_owner,of_heir,of_bypass}');
ALTER ROLE regress_incbatch_bypass NOBYPASSRLS;
REVOKE regress_incbatch_owner FROM regress_incbatch_heir;
GRANT SELECT ON rows TO regress_incbatch_heir;
INSERT INTO rows VALUES (13, 1, true);
CALL incbatch.refresh_pipeline('of_bypass');
CALL incbatch.refresh_pipeline('of_heir');
CALL exact('of_owner');
TRUNCATE rows;
CALL exact('of_owner');
TABLE of_owner;

SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;
RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA row_security CASCADE;
DROP ROLE regress_incbatch_heir, regress_incbatch_owner, regress_incbatch_other, regress_incbatch_bypass;
