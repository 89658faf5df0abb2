--
-- What every topic starts from: the extension, and the oracle
--
SET client_min_messages = warning;
CREATE EXTENSION incbatch;
RESET client_min_messages;

-- Every object of the extension says what it is for.  (Comments hold no
-- secret: an ordinary user reads them, too.)
WITH members AS (
	SELECT classid, objid FROM pg_depend
	WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
	  AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'incbatch')
	UNION ALL
	SELECT 'pg_namespace'::regclass, 'incbatch'::regnamespace
), parts AS (
	SELECT classid, objid, 0 AS objsubid FROM members
	UNION ALL
	SELECT 'pg_class'::regclass, attrelid, attnum
	FROM members JOIN pg_attribute ON attrelid = objid
	WHERE classid = 'pg_class'::regclass AND attnum > 0 AND NOT attisdropped
)
SELECT pg_describe_object(p.classid, p.objid, p.objsubid) AS without_comment
FROM parts p LEFT JOIN pg_description d
  ON d.classoid = p.classid AND d.objoid = p.objid AND d.objsubid = p.objsubid
WHERE coalesce(d.description, '') = ''
  -- types and sequences that came with a table are part of it
  AND p.classid <> 'pg_type'::regclass
  AND NOT (p.classid = 'pg_class'::regclass
	   AND EXISTS (SELECT FROM pg_class WHERE oid = p.objid AND relkind IN ('S', 'i')))
ORDER BY 1;

-- What is open to everybody: functions check whose pipeline it is.
SELECT format('%s %s', CASE prokind WHEN 'p' THEN 'procedure' ELSE 'function' END, proname) AS everybody
FROM pg_proc
WHERE pronamespace = 'incbatch'::regnamespace
  AND has_function_privilege('public', oid, 'EXECUTE')
ORDER BY proname;
SELECT c.relname AS everybody, string_agg(privilege, ', ' ORDER BY privilege) AS may
FROM pg_class c,
     unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) privilege
WHERE relnamespace = 'incbatch'::regnamespace AND relkind IN ('r', 'v')
  AND has_table_privilege('public', c.oid, privilege)
GROUP BY 1 ORDER BY 1;

-- The oracle: a pipeline equals its batch query, as sets of rows and in how
-- each value is spelled (1.0 is not 1.00), and verify_pipeline agrees.
CREATE PROCEDURE exact(pipeline text,
                       INOUT differences bigint DEFAULT NULL,
                       INOUT spellings bigint DEFAULT NULL,
                       INOUT verify bigint DEFAULT NULL)
LANGUAGE plpgsql AS $$
DECLARE
	p regclass := pipeline;
	b regclass := (SELECT definition FROM incbatch.pipelines WHERE relation = p);
BEGIN
	CALL incbatch.refresh_pipeline(pipeline);
	BEGIN
		EXECUTE format('SELECT count(*) FROM ((TABLE %1$s EXCEPT ALL TABLE %2$s)
		                UNION ALL (TABLE %2$s EXCEPT ALL TABLE %1$s)) d', p, b)
		INTO differences;
	EXCEPTION WHEN undefined_function THEN
		differences := 0;	-- of types without equality, such as json: only the spelling
	END;
	EXECUTE format('SELECT count(*) FROM ((SELECT (p.*)::text FROM %1$s p EXCEPT ALL SELECT (b.*)::text FROM %2$s b)
	                UNION ALL (SELECT (b.*)::text FROM %2$s b EXCEPT ALL SELECT (p.*)::text FROM %1$s p)) d', p, b)
	INTO spellings;
	SELECT count(*) FROM incbatch.verify_pipeline(pipeline) INTO verify;
END
$$;

-- The oracle for several pipelines; NULL: for all there are.
CREATE PROCEDURE all_exact(names text[] DEFAULT NULL, INOUT pipelines int DEFAULT 0, INOUT inexact text DEFAULT '')
LANGUAGE plpgsql AS $$
DECLARE
	p text;
	d bigint; s bigint; v bigint;
BEGIN
	FOREACH p IN ARRAY coalesce(names, ARRAY(SELECT pipeline FROM incbatch.pipelines ORDER BY 1)) LOOP
		CALL exact(p, d, s, v);
		pipelines := pipelines + 1;
		IF d + s + v <> 0 THEN
			inexact := inexact || p || ' ';
		END IF;
	END LOOP;
END $$;
