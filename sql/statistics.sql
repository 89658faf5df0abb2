--
-- Variances, standard deviations and booleans by delta; regression by
-- recompute.  The digits are core's.
--
CREATE SCHEMA statistics;
SET search_path = statistics, public;

CREATE TABLE readings (
	id int PRIMARY KEY, k text, i2 int2, i4 int4, i8 int8, n numeric, n2 numeric(12, 2),
	n0 numeric(6, -2), f8 float8, b boolean
);
ALTER TABLE readings REPLICA IDENTITY FULL;
SELECT incbatch.create_pipeline('deviations', $$
	SELECT k, count(*),
	       var_pop(i2) AS vp2, var_samp(i2) AS vs2, variance(i2) AS v2, stddev_pop(i2) AS sp2, stddev_samp(i2) AS ss2, stddev(i2) AS s2,
	       var_pop(i4) AS vp4, stddev(i4) AS s4, var_samp(i8) AS vs8, stddev_pop(i8) AS sp8, stddev(i8) AS s8,
	       var_pop(n) AS vpn, var_samp(n) AS vsn, stddev_pop(n) AS spn, stddev_samp(n) AS ssn,
	       variance(n2) AS v_2, stddev_pop(n2) AS sp_2, variance(n0) AS v_0, stddev(n0) AS s_0,
	       sum(n) AS sn, avg(i4) AS a4, stddev(i4) FILTER (WHERE i4 > 0) AS s4f
	FROM readings GROUP BY k
$$);
SELECT incbatch.create_pipeline('answers', $$
	SELECT k, bool_and(b) AS a, bool_or(b) AS o, every(b) AS e, bool_and(i4 > 0) AS positive,
	       bool_or(i4 > 5) FILTER (WHERE b) AS some, count(b) AS told
	FROM readings GROUP BY k
$$);
SELECT incbatch.create_pipeline('regressions', $$
	SELECT k, corr(f8, i4) AS c, covar_pop(f8, i4) AS cp, covar_samp(f8, i4) AS cs, regr_slope(f8, i4) AS slope,
	       regr_intercept(f8, i4) AS intercept, regr_count(f8, i4) AS n, regr_r2(f8, i4) AS r2, regr_avgx(f8, i4) AS ax,
	       regr_avgy(f8, i4) AS ay, regr_sxx(f8, i4) AS sxx, regr_syy(f8, i4) AS syy, regr_sxy(f8, i4) AS sxy,
	       stddev(f8) AS sf, var_pop(f8) AS vf, sum(f8) AS sum, regr_sxy(f8, f8) AS same
	FROM readings GROUP BY k
$$);
SELECT pipeline, strategy FROM incbatch.pipelines ORDER BY 1;
\set names {deviations,answers,regressions}
CALL all_exact(:'names');

-- groups of none, one, two, equal and many values
INSERT INTO readings VALUES
	(1, 'one', 5, 5, 5, 5.25, 5.25, 500, 5.25, true),
	(2, 'two', 1, 1, 1, 1.1, 1.1, 100, 1.1, true), (3, 'two', 2, 2, 2, 2.2, 2.2, 200, 2.2, false),
	(4, 'equal', 7, 7, 7, 7.0, 7, 700, 7, true), (5, 'equal', 7, 7, 7, 7.0, 7, 700, 7, true),
	(6, 'null', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	(7, NULL, 1, 1, 1, 1, 1, 1, 1, NULL), (8, NULL, -1, -1, -1, -1, -1, -100, -1, false);
INSERT INTO readings SELECT 100 + i, 'many', i % 100, i * 21474836, i * 92233720368547758, i * 12345.678, i * 1.25, i * 300, i * 0.1, i % 7 <> 0
FROM generate_series(1, 100) i;
CALL all_exact(:'names');
SELECT k, vp2, vs2, sp2, ss2, vsn, ssn, v_2, v_0 FROM deviations WHERE k <> 'many' OR k IS NULL ORDER BY k;
\x on
SELECT * FROM deviations WHERE k = 'many';
\x off
TABLE answers ORDER BY k;

-- rows change, move and go; one value less, down to none
UPDATE readings SET i2 = i2 + 1, i4 = i4 - 3, i8 = i8 / 2, n = n * 2, n2 = n2 - 0.01, f8 = f8 * 1.1, b = NOT b WHERE id % 3 = 0;
CALL all_exact(:'names');
UPDATE readings SET k = 'two' WHERE id BETWEEN 150 AND 160;
CALL all_exact(:'names');
DELETE FROM readings WHERE id BETWEEN 101 AND 130 OR id = 3;
CALL all_exact(:'names');
UPDATE readings SET b = true WHERE k = 'many';
CALL all_exact(:'names');
UPDATE readings SET b = NULL, i2 = NULL, i4 = NULL, n = NULL WHERE k = 'many' AND id < 198;
CALL all_exact(:'names');
SELECT k, count, vs2, ss2, vsn, ssn FROM deviations WHERE k = 'many';
UPDATE readings SET b = NULL, i2 = NULL, i4 = NULL, n = NULL WHERE k = 'many';
CALL all_exact(:'names');
SELECT k, count, vs2, vp2, ss2, vsn, spn, sn FROM deviations WHERE k = 'many';
SELECT * FROM answers WHERE k = 'many';

-- scales that come and go, NaN and Infinity, and the largest of each type
INSERT INTO readings (id, k, n) VALUES (300, 'digits', 1.5), (301, 'digits', 2.50), (302, 'digits', 3.000001);
CALL all_exact(:'names');
DELETE FROM readings WHERE id = 302;
CALL all_exact(:'names');
SELECT k, vpn, ssn FROM deviations WHERE k = 'digits';
INSERT INTO readings (id, k, n, n2) VALUES (303, 'digits', 'NaN', 'NaN'), (304, 'one', '-Infinity', 1);
CALL all_exact(:'names');
SELECT k, vpn, ssn, v_2 FROM deviations WHERE k IN ('digits', 'one') ORDER BY 1;
DELETE FROM readings WHERE id IN (303, 304);
CALL all_exact(:'names');
-- the last value of a group goes, not its last row: the next ones begin anew
INSERT INTO readings (id, k, n) VALUES (305, 'anew', 1.000000000000000000000000000000), (306, 'anew', NULL);
CALL all_exact(:'names');
DELETE FROM readings WHERE id = 305;
CALL all_exact(:'names');
INSERT INTO readings (id, k, n) VALUES (307, 'anew', 1), (308, 'anew', 1), (309, 'anew', 0);
CALL all_exact(:'names');
SELECT k, vpn, ssn, sn FROM deviations WHERE k = 'anew';
DELETE FROM readings WHERE k = 'anew';
INSERT INTO readings (id, k, i2, i4, i8, n) VALUES
	(310, 'large', 32767, 2147483647, 9223372036854775807, 1e100), (311, 'large', -32768, -2147483648, -9223372036854775808, -1e-100),
	(312, 'large', 0, 0, 0, 0);
CALL all_exact(:'names');
DELETE FROM readings WHERE id = 312;
CALL all_exact(:'names');

-- the digits of a root that core rounds once: over many magnitudes
INSERT INTO readings (id, k, i8, n)
SELECT 1000 + i, 'g' || i / 3, (i * 7919 % 1000 + 1) * 10::int8 ^ (i / 3 % 13), round(((i * 7919 % 1000 + 1) * 10::numeric ^ (i / 3 % 21 - 8)), 6)
FROM generate_series(0, 899) i;
CALL all_exact(:'names');
SELECT count(*) FILTER (WHERE round(sqrt(vs8), scale(vs8)) <> s8) AS rounded_twice
FROM (SELECT variance(i8) AS vs8, stddev(i8) AS s8 FROM readings GROUP BY k) s;
DELETE FROM readings WHERE id >= 1000 AND id % 3 = 1;
CALL all_exact(:'names');

TRUNCATE readings;
CALL all_exact(:'names');
SELECT (SELECT count(*) FROM deviations) + (SELECT count(*) FROM answers) + (SELECT count(*) FROM regressions) AS groups;
INSERT INTO readings VALUES (1, 'one', 5, 5, 5, 5.25, 5.25, 500, 5.25, true), (2, 'one', 6, 6, 6, 6.25, 5.25, 500, 5.25, true);
CALL all_exact(:'names');

-- what cannot be exact is an error, not another digit
SELECT incbatch.stddev(2, 1e-9000, 1, true);

SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;
SET client_min_messages = warning;
DROP SCHEMA statistics CASCADE;
