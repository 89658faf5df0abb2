--
-- Expressions and types: whatever PostgreSQL can group, filter and aggregate
--
CREATE SCHEMA types;
SET search_path = types, public;
SET jit = off;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN label AS text NOT NULL CHECK (VALUE <> '');
CREATE TABLE src (
	id int PRIMARY KEY, m mood, p pair, pos positive, lab label DEFAULT 'x', n numeric, f float8, c char(4), vc varchar(5),
	arr int[], texts text[], doc jsonb, js json, r int4range, tr tstzrange, mr nummultirange, raw bytea, u uuid, ip inet, net cidr, mac macaddr,
	d date, t time, ttz timetz, ts timestamp, tstz timestamptz, iv interval, b bool, bits bit(4), vbits varbit, money money,
	ch "char", nm name, o oid, lsn pg_lsn, tsv tsvector, pt point, x xml,
	gen int GENERATED ALWAYS AS (id % 4) STORED,
	gen_text text GENERATED ALWAYS AS (upper(vc) || '!') STORED
);
ALTER TABLE src REPLICA IDENTITY FULL;
CREATE TABLE moods (m mood PRIMARY KEY, lab label);
INSERT INTO moods VALUES ('sad', 'blue'), ('ok', 'grey');
CREATE PROCEDURE fill(first int, last int) LANGUAGE sql AS $$
	INSERT INTO src SELECT i, (ARRAY['sad', 'ok', 'happy', NULL]::mood[])[i % 4 + 1], CASE WHEN i % 5 > 0 THEN ROW(i % 3, NULLIF('p' || i % 2, 'p1'))::pair END,
		NULLIF(i % 4, 0), 'l' || i % 2, (ARRAY['1.0', '1.00', '-0', '0', 'NaN', NULL]::numeric[])[i % 6 + 1], (ARRAY['0', '-0', 'NaN', '1e300', NULL]::float8[])[i % 5 + 1],
		(ARRAY['a', 'a ', 'b', NULL])[i % 4 + 1], 'v' || i % 3, CASE i % 4 WHEN 0 THEN NULL WHEN 1 THEN '{}' WHEN 2 THEN ARRAY[i % 3, NULL] ELSE ARRAY[i % 3, 5, i % 2] END,
		ARRAY['t' || i % 2, NULL], jsonb_build_object('a', i % 3, 'b', jsonb_build_object('c', jsonb_build_array(i % 2, 'x', NULL)), 'k' || i % 2, NULL),
		json_build_object('z', i % 2), CASE WHEN i % 6 > 0 THEN int4range(i % 3, i % 3 + i % 2) END, tstzrange('2024-01-01', '2024-01-02'::timestamptz + i % 2 * interval '1 day'),
		nummultirange(numrange(i % 2, 3)), decode(lpad(to_hex(i % 3), 4, '0'), 'hex'), ('00000000-0000-0000-0000-00000000000' || i % 3)::uuid, ('10.0.0.' || i % 3 || CASE WHEN i % 2 = 0 THEN '/24' ELSE '' END)::inet,
		('10.' || i % 2 || '.0.0/16')::cidr, ('08:00:2b:01:02:0' || i % 2)::macaddr, date '2024-02-28' + i % 3, time '12:00' + i % 2 * interval '1 hour',
		(ARRAY['12:00+00', '13:00+01', NULL]::timetz[])[i % 3 + 1], timestamp '2024-03-10' + i % 5 * interval '11 hours', timestamptz '2024-03-10 00:00+00' + i % 5 * interval '11 hours',
		(ARRAY['1 day', '24:00', '1 mon', '30 days', NULL]::interval[])[i % 5 + 1], NULLIF(i % 3, 2)::bool, (i % 4)::bit(4), (i % 2)::bit(3)::varbit, (i % 3)::money, chr(65 + i % 2)::"char", 'n' || i % 2, (i % 3)::text::oid,
		('0/' || i % 3)::pg_lsn, to_tsvector('simple', 'w' || i % 2), point(i % 2, 0), ('<a>' || i % 2 || '</a>')::xml
	FROM generate_series(first, last) i
$$;
CALL fill(1, 40);

-- One pipeline a type: it is a key, NULL or not, and what can be compared has extremes.
CREATE PROCEDURE by_type() LANGUAGE plpgsql AS $$
DECLARE
	col name;
BEGIN
	FOREACH col IN ARRAY '{m,p,pos,lab,n,f,c,vc,arr,texts,doc,r,tr,mr,raw,u,ip,net,mac,d,t,ttz,ts,tstz,iv,b,bits,vbits,money,ch,nm,o,lsn,tsv,gen,gen_text}'::name[] LOOP
		PERFORM incbatch.create_pipeline('by_' || col, format('SELECT %I, count(*), sum(id), max(id) FROM src GROUP BY 1', col));
	END LOOP;
	FOREACH col IN ARRAY '{m,pos,lab,f,vc,arr,texts,d,t,ts,tstz,ip,money,o,lsn,gen_text}'::name[] LOOP
		PERFORM incbatch.create_pipeline('of_' || col, format('SELECT gen %% 2 AS odd, count(%1$I), min(%1$I), max(%1$I) FROM src GROUP BY 1', col));
	END LOOP;
END $$;
CALL by_type();

SELECT incbatch.create_pipeline('several_types', 'SELECT m, pos, r, u, ip, d, count(*), min(tstz), max(texts) FROM src GROUP BY 1, 2, 3, 4, 5, 6');
SELECT incbatch.create_pipeline('rolled_types', 'SELECT m, pos, lab, p, c, bits, count(*), min(d) FROM src GROUP BY ROLLUP (m, pos, lab, p, c, bits)');
SELECT incbatch.create_pipeline('cases', $$
	SELECT CASE WHEN m = 'happy' THEN 'good' WHEN m < 'happy' THEN 'bad' END AS feeling, CASE gen WHEN 1 THEN 'one' WHEN 2 THEN 'two' ELSE 'many' END AS many,
		coalesce(vc, gen_text, '') AS v, nullif(pos, 3) AS n3, greatest(id % 2, gen) AS g, count(*), sum(CASE WHEN b THEN id ELSE -id END), max(coalesce(pos, 0))
	FROM src GROUP BY 1, 2, 3, 4, 5
$$);
SELECT incbatch.create_pipeline('json_paths', $$
	SELECT doc->'b'->'c' AS c, doc->>'a' AS a, doc #>> '{b,c,0}' AS first, doc ? 'k1' AS k1, js->>'z' AS z, doc @? '$.b.c[*] ? (@ == 1)' AS one, count(*),
		sum((doc->'a')::int), max(jsonb_array_length(doc #> '{b,c}'))
	FROM src WHERE jsonb_path_exists(doc, '$.a ? (@ < $x)', '{"x": 2}') OR doc @> '{"a": 2}' GROUP BY 1, 2, 3, 4, 5, 6
$$);
SELECT incbatch.create_pipeline('array_parts', $$
	SELECT arr[1] AS first, arr[2:3] AS rest, texts[1] AS t, cardinality(arr) AS n, 5 = ANY (arr) AS five, ARRAY[gen, id % 2] AS made, count(*), max(arr[1])
	FROM src WHERE id <> ALL ('{3,4}') AND (vc IN ('v0', 'v1', NULL) OR gen NOT IN (1, 2)) GROUP BY 1, 2, 3, 4, 5, 6
$$);
SELECT incbatch.create_pipeline('fields', $$
	SELECT (p).a, (p).b IS NULL AS no_b, p IS NULL AS no_p, ROW(gen, 1) < ROW(2, 0) AS less, (ROW(vc, gen)).f1 AS f1, count(*), max((p).b) FROM src GROUP BY 1, 2, 3, 4, 5
$$);
SELECT incbatch.create_pipeline('conversions', $$
	SELECT to_char(ts, 'YYYY-Day') AS day, extract(dow FROM tstz) AS dow, tstz AT TIME ZONE 'Asia/Kathmandu' AS local, ts::date - d AS days, lower(r) AS low, host(ip) AS host,
		encode(raw, 'hex') AS hex, m::text || '?' AS m, pt <-> point '(0,0)' AS distance, xpath('/a/text()', x)::text AS x, tsv @@ 'w1' AS w, count(*), sum(n) FILTER (WHERE n <> 'NaN')
	FROM src GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
$$);
SELECT incbatch.create_pipeline('domain_lookup', 'SELECT l.lab, src.lab AS own, count(*), max(l.lab), min(pos) FROM src LEFT JOIN moods l USING (m) GROUP BY CUBE (1, 2)');

-- Equal values of different form are one group, which shows the form that came
-- first: compared by equality, not by how rows are spelled.
CREATE PROCEDURE all_equal(INOUT pipelines int DEFAULT 0, INOUT unequal text DEFAULT '')
LANGUAGE plpgsql AS $$
DECLARE
	p text;
	d bigint; s bigint; v bigint;
BEGIN
	FOR p IN SELECT pipeline FROM incbatch.pipelines ORDER BY 1 LOOP
		CALL exact(p, d, s, v);
		pipelines := pipelines + 1;
		IF d + v <> 0 OR (s <> 0 AND p NOT IN ('by_n', 'by_f', 'by_c', 'by_ttz', 'by_iv', 'by_ip', 'rolled_types', 'several_types', 'conversions')) THEN
			unequal := unequal || p || ' ';
		END IF;
	END LOOP;
END $$;
CALL all_equal();
SELECT count, sum FROM by_n ORDER BY n;
SELECT count, sum FROM by_ttz ORDER BY ttz;
CALL fill(100, 130);
CALL all_equal();
UPDATE src SET id = id + 1000, m = CASE m WHEN 'sad' THEN 'happy'::mood WHEN 'happy' THEN 'ok' END, pos = pos % 3 + 1, p = ROW(1, 'p0')::pair, arr = arr || 7, n = n + 1,
	f = -f, doc = doc || '{"a": 0}', r = int4range(5, 6), ip = ip + 1, d = d + 1, vc = 'V1', raw = '\x00', iv = iv * 2, b = NOT b, tstz = tstz + interval '1 day' WHERE gen IN (1, 2);
CALL all_equal();
UPDATE src SET m = NULL, p = NULL, n = NULL, f = NULL, c = NULL, arr = NULL, doc = NULL, r = NULL, raw = NULL, u = NULL, ip = NULL, d = NULL, ttz = NULL, iv = NULL, b = NULL, bits = NULL WHERE id % 7 = 0;
CALL all_equal();
DELETE FROM src WHERE id % 3 = 0;
CALL all_equal();
-- an enum gets another value in between
ALTER TYPE mood ADD VALUE 'fine' BEFORE 'happy';
INSERT INTO src (id, m, vc) VALUES (1, 'fine', 'v');
CALL all_equal();
SELECT m, count FROM by_m ORDER BY m;
DELETE FROM src;
CALL all_equal();
CALL fill(1, 10);
TRUNCATE src;
CALL all_equal();
CALL fill(1, 10);
CALL all_equal();

SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;
SET client_min_messages = warning;
DROP SCHEMA types CASCADE;
