--
-- What a query can be between the source and its aggregates: subqueries, WITH,
-- lookups of every kind, functions that make rows; and what is made of the
-- groups: DISTINCT, HAVING, ORDER BY
--
CREATE SCHEMA queries;
SET search_path = queries, public;
SET jit = off;
CREATE TABLE src (id int PRIMARY KEY, k int, ts timestamp, v numeric(10, 2), tags text[], doc jsonb);
ALTER TABLE src REPLICA IDENTITY FULL;
CREATE TABLE l (k int PRIMARY KEY, name text, grp int);
CREATE TABLE price (k int, since timestamp, price numeric, PRIMARY KEY (k, since));
CREATE TABLE tree (id int PRIMARY KEY, parent int);
INSERT INTO l VALUES (1, 'one', 1), (2, 'two', 1), (3, NULL, 2), (4, 'four', NULL);
INSERT INTO price SELECT k, date '2024-01-01' + 10 * n, k + n FROM generate_series(1, 4) k, generate_series(0, 3) n;
INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 1), (4, 3), (5, 4);
CREATE VIEW named AS SELECT grp, count(*) AS members, max(name) AS name FROM l GROUP BY grp;

CREATE PROCEDURE fill(first int, last int) LANGUAGE sql AS $$
	INSERT INTO src SELECT i, NULLIF(i % 6, 5), timestamp '2024-01-01' + i % 40 * interval '13 hours', NULLIF(i % 11, 0) * 1.25,
		CASE i % 5 WHEN 0 THEN NULL WHEN 1 THEN '{}' WHEN 2 THEN ARRAY['a', 'b'] WHEN 3 THEN ARRAY['b', NULL] ELSE ARRAY['c'] END,
		CASE i % 4 WHEN 0 THEN NULL WHEN 1 THEN jsonb_build_object('items', jsonb_build_array(i % 3, i % 2), 'user', jsonb_build_object('name', 'u' || i % 3))
			WHEN 2 THEN '{"items": []}' ELSE '{"items": [{"sku": "x", "qty": 2}, {"sku": "y"}], "n": null}' END
	FROM generate_series(first, last) i
$$;
CALL fill(1, 60);

-- Subqueries and WITH queries that pass the source's rows on
SELECT incbatch.create_pipeline('subquery', $$
	SELECT d, c, count(*), sum(v), max(v) FROM (SELECT date_trunc('day', ts) AS d, v, k % 2 AS c, doc FROM src WHERE k > 0) s GROUP BY d, c
$$);
SELECT incbatch.create_pipeline('deep', $$
	SELECT s.c, s.name, count(*), min(v) FROM
		(SELECT *, b + 1 AS c FROM (SELECT id, a * 2 AS b, v, name FROM (SELECT id, k, v FROM src WHERE id > 3) AS x (id, a) LEFT JOIN l ON l.k = x.a) y) s
	GROUP BY 1, 2
$$);
SELECT incbatch.create_pipeline('renamed', $$
	SELECT s.incbatch_w, count(*), max(a) FROM (SELECT k, v FROM src) s (incbatch_w, a) GROUP BY 1
$$);
SELECT incbatch.create_pipeline('with_source', $$
	WITH o AS (SELECT id, k AS key, v FROM src), big AS MATERIALIZED (SELECT o.*, name FROM o JOIN l ON l.k = o.key WHERE v > 2)
	SELECT name, count(*), sum(v), min(v) FROM big GROUP BY name
$$);
SELECT incbatch.create_pipeline('with_names', $$
	WITH o (a, b) AS (SELECT k, v FROM src) SELECT a, count(b), max(b) FROM o AS p (x) JOIN l ON l.k = p.x CROSS JOIN (SELECT 1 AS a) q GROUP BY a
$$);
SELECT incbatch.create_pipeline('with_lookup', $$
	WITH RECURSIVE root (id, top) AS (SELECT id, id FROM tree WHERE parent IS NULL OR parent = 1 UNION ALL SELECT t.id, r.top FROM tree t JOIN root r ON t.parent = r.id),
		unused AS (SELECT 1 / 0 AS x)
	SELECT a.top, b.top AS other, count(*), max(v) FROM src JOIN root a ON a.id = src.k LEFT JOIN root b ON b.id = src.k + 1 GROUP BY 1, 2
$$);
-- Joins with an alias, whose columns are the join's
SELECT incbatch.create_pipeline('joined', $$
	SELECT j.k, x.name, count(*), max(j.v) FROM ((src JOIN l USING (k) AS u) LEFT JOIN price p USING (k)) j LEFT JOIN l x ON x.k = j.grp GROUP BY j.k, x.name
$$);
SELECT incbatch.create_pipeline('side_of_using', $$
	SELECT src.k AS a, l.k AS b, k, count(*) FROM src LEFT JOIN l USING (k) GROUP BY src.k, l.k, k
$$);
-- Lookups: subqueries, views with aggregates, joins among lookups, sublinks
SELECT incbatch.create_pipeline('sub_lookup', $$
	SELECT n.members, m.price, f.name, count(*), sum(src.v * m.price)
	FROM src JOIN named n ON n.grp = src.k LEFT JOIN (SELECT k, max(price) AS price FROM price GROUP BY k) m ON m.k = src.k
	LEFT JOIN (l f FULL JOIN tree t ON t.id = f.grp) ON f.k = src.k GROUP BY 1, 2, 3
$$);
SELECT incbatch.create_pipeline('as_of_price', $$
	SELECT src.k, p.price, count(*), max(src.v) FROM src
	LEFT JOIN LATERAL (SELECT price FROM price WHERE price.k = src.k AND since <= src.ts ORDER BY since DESC LIMIT 1) p ON true GROUP BY src.k, p.price
$$);
SELECT incbatch.create_pipeline('sublinks', $$
	SELECT (SELECT name FROM l WHERE l.k = src.k) AS name, k IN (SELECT grp FROM l) AS is_group, count(*), sum(v) FILTER (WHERE EXISTS (SELECT FROM price p WHERE p.price > src.v LIMIT 1)),
		max((SELECT max(price) FROM price p WHERE p.k = src.k))
	FROM src WHERE k NOT IN (SELECT id FROM tree WHERE parent = 3) GROUP BY 1, 2
$$);
SELECT incbatch.create_pipeline('late_sublinks', $$
	WITH w AS (SELECT k, name FROM l)
	SELECT k, (SELECT name || '!' FROM w WHERE w.k = src.k), sum(v) / (SELECT sum(price) FROM price) AS share, k % 2 = ANY (SELECT grp FROM l) AS odd
	FROM src GROUP BY k HAVING count(*) > (SELECT min(grp) FROM l WHERE l.k <> src.k OR src.k IS NULL) ORDER BY (SELECT name FROM w WHERE w.k = src.k)
$$);
-- Functions that make rows of a row
SELECT incbatch.create_pipeline('by_tag', 'SELECT tag, count(*), sum(v), max(v) FROM src, unnest(tags) AS tag GROUP BY tag');
SELECT incbatch.create_pipeline('by_tag_left', $$
	SELECT tag, n, count(*), min(v) FROM src LEFT JOIN LATERAL unnest(src.tags) WITH ORDINALITY u (tag, n) ON tag <> 'c' GROUP BY tag, n
$$);
SELECT incbatch.create_pipeline('by_item', $$
	SELECT item->>'sku' AS sku, jsonb_typeof(item) AS type, count(*), sum((item->>'qty')::int) FROM src CROSS JOIN jsonb_array_elements(doc->'items') item
	WHERE jsonb_typeof(item) = 'object' OR item < '2' GROUP BY 1, 2
$$);
SELECT incbatch.create_pipeline('recordset', $$
	SELECT r.sku, count(r.qty), max(r.qty) FROM (SELECT doc FROM src WHERE jsonb_path_exists(doc, '$.items[*].sku')) s,
	LATERAL jsonb_to_recordset(s.doc->'items') AS r (sku text, qty int) GROUP BY r.sku
$$);
SELECT incbatch.create_pipeline('values_of_row', $$
	SELECT kind, count(*), sum(x) FROM src, LATERAL (VALUES ('k', k), ('id', id), ('twice', 2 * k)) AS t (kind, x), generate_series(1, src.k) g WHERE x <> g GROUP BY kind
$$);
SELECT incbatch.create_pipeline('in_select', 'SELECT unnest(tags) AS tag, upper(unnest(tags)) AS u, k % 2 AS odd, count(*), max(v) FROM src GROUP BY 1, 2, 3');
SELECT incbatch.create_pipeline('in_subquery', $$
	SELECT tag, item #>> '{qty}' AS qty, count(*) FROM (SELECT k, unnest(tags) AS tag, jsonb_path_query(doc, '$.items[*]') AS item FROM src) s GROUP BY 1, 2
$$);
SELECT incbatch.create_pipeline('after_groups', 'SELECT k, generate_series(1, count(*)) AS n, max(v) FROM src GROUP BY k');
-- DISTINCT, no aggregate, no GROUP BY, HAVING, ORDER BY
SELECT incbatch.create_pipeline('distinct_rows', 'SELECT DISTINCT k, v > 5 AS high, unnest(tags) AS tag FROM src');
SELECT incbatch.create_pipeline('distinct_groups', 'SELECT DISTINCT count(*), max(v) IS NULL FROM src GROUP BY k, v');
SELECT incbatch.create_pipeline('only_keys', 'SELECT k FROM src GROUP BY k, v');
SELECT incbatch.create_pipeline('total', 'SELECT count(*), count(v) AS known, sum(v), min(ts), max(k), avg(v) FROM src');
SELECT incbatch.create_pipeline('total_where', 'SELECT sum(v) FILTER (WHERE k = 1) AS one, coalesce(max(v), -1) FROM src WHERE k < 3 HAVING count(*) > 12');
SELECT incbatch.create_pipeline('constant', 'SELECT 1 AS one FROM src HAVING count(*) > 0');
SELECT incbatch.create_pipeline('top', 'SELECT k, sum(v) FROM src GROUP BY k HAVING sum(v) > 0 ORDER BY sum(v) DESC FETCH FIRST 2 ROWS WITH TIES');
-- Window functions over the groups
SELECT incbatch.create_pipeline('ranked', $$
	SELECT k, k % 2 AS odd, sum(v), rank() OVER (ORDER BY sum(v) DESC NULLS LAST), sum(sum(v)) OVER w AS running, max(count(*)) OVER (PARTITION BY k % 2) AS most,
		lag(max(v)) OVER (ORDER BY k) AS before, row_number() OVER (PARTITION BY k % 2 ORDER BY k DESC) AS n, 100 * count(*) / sum(count(*)) OVER () AS percent
	FROM src GROUP BY k HAVING count(*) > 1 WINDOW w AS (ORDER BY k) ORDER BY rank() OVER (ORDER BY sum(v) DESC NULLS LAST), k
$$);
SELECT incbatch.create_pipeline('ranked_sets', 'SELECT k, id % 2 AS odd, count(*), dense_rank() OVER (PARTITION BY grouping(k) ORDER BY count(*)) FROM src GROUP BY CUBE (k, 2)');
SELECT incbatch.create_pipeline('ordered', 'SELECT k, count(*) FROM src GROUP BY k ORDER BY k % 3 DESC NULLS FIRST, max(id)');

CALL all_exact();
SELECT * FROM by_tag ORDER BY tag;
SELECT * FROM as_of_price WHERE k = 1 ORDER BY 2;
SELECT * FROM late_sublinks;
TABLE total;
TABLE total_where;
TABLE top;
TABLE ordered;
TABLE ranked;

CALL fill(100, 140);
CALL all_exact();
-- rows move, extremes go
UPDATE src SET k = (k + 1) % 5, v = v + 1, tags = tags || 'd'::text, ts = ts + interval '5 days' WHERE id % 3 = 0;
CALL all_exact();
UPDATE src SET doc = CASE WHEN doc IS NULL THEN '{"items": [7, 1]}'::jsonb ELSE doc || '{"items": [{"sku": "z", "qty": 5}]}' END, k = NULLIF(k, 2) WHERE id % 4 < 2;
CALL all_exact();
DELETE FROM src WHERE v > 9 OR id % 7 = 0;
CALL all_exact();
BEGIN;
UPDATE src SET tags = NULL, k = 3 WHERE id < 20;
SAVEPOINT s;
DELETE FROM src;
ROLLBACK TO s;
DELETE FROM src WHERE id BETWEEN 10 AND 15;
COMMIT;
CALL all_exact();
-- empty, by DELETE and by TRUNCATE
DELETE FROM src;
CALL all_exact();
TABLE total;
TABLE total_where;
TABLE constant;
CALL fill(1, 30);
CALL all_exact();
TRUNCATE src;
CALL all_exact();
TABLE total;
BEGIN; TRUNCATE src; CALL fill(1, 20); UPDATE src SET v = 3, k = id % 2; COMMIT;
CALL all_exact();
TABLE total;
SELECT count(incbatch.rebuild_pipeline(pipeline)) FROM incbatch.pipelines;
CALL all_exact();

-- What each transform is and costs
SELECT transform, kind, strategy, detail FROM incbatch.explain_pipeline('deep');
SELECT transform, kind, strategy FROM incbatch.explain_pipeline('total');
SELECT count(DISTINCT pipeline) AS explained FROM incbatch.pipelines p, LATERAL incbatch.explain_pipeline(p.pipeline) e;
SELECT transform, detail FROM incbatch.explain_pipeline('joined');

-- A view that changes into one that a pipeline cannot have stops it.
CREATE VIEW inner_view AS SELECT k, name FROM l;
CREATE VIEW outer_view AS SELECT * FROM inner_view;
SELECT incbatch.create_pipeline('viewed', 'SELECT o.name, count(*) FROM src JOIN outer_view o USING (k) GROUP BY 1');
CALL exact('viewed');
CREATE OR REPLACE VIEW inner_view AS SELECT k, 'x' || max(id) AS name FROM src GROUP BY k;
INSERT INTO src (id, k) VALUES (1000, 1);
CALL incbatch.refresh_pipeline('viewed');
SELECT state, last_error FROM incbatch.pipelines WHERE pipeline = 'viewed';
CREATE OR REPLACE VIEW inner_view AS SELECT k, name FROM l;
SELECT incbatch.resume_pipeline('viewed');
CALL exact('viewed');
SELECT incbatch.drop_pipeline('viewed');

-- The event time comes from the source's column, through subqueries.
SELECT pipeline, event_time FROM incbatch.pipelines WHERE event_time IS NOT NULL;
-- What nobody reads of a subquery need not be told by the replica identity.
CREATE TABLE keyed (id int PRIMARY KEY, v int);
SELECT incbatch.create_pipeline('unread', 'SELECT id % 10 AS d, count(*) FROM (SELECT *, v + 1 AS w FROM keyed) s GROUP BY 1');
INSERT INTO keyed SELECT i, i FROM generate_series(1, 30) i;
UPDATE keyed SET id = id + 100, v = 7 WHERE id % 3 = 0;
DELETE FROM keyed WHERE id % 4 = 0;
CALL exact('unread');
-- Without its present rows, a total starts from nothing.
SELECT incbatch.create_pipeline('from_now', 'SELECT count(*), max(v), sum(v) FROM keyed', append_only => true, initialize => false);
CALL incbatch.refresh_pipeline('from_now');
TABLE from_now;
INSERT INTO keyed VALUES (1000, 5), (1001, NULL);
CALL incbatch.refresh_pipeline('from_now');
TABLE from_now;

-- Windows of an event time that is read through subqueries close, too.
CREATE TABLE events (id int PRIMARY KEY, at timestamp, v int);
ALTER TABLE events REPLICA IDENTITY FULL;
SELECT incbatch.create_pipeline('closing', $$
	WITH e AS (SELECT id, at AS happened, v * 2 AS w FROM events)
	SELECT date_trunc('hour', t) AS hour, count(*), max(w) FROM (SELECT happened AS t, w FROM e WHERE w > 0) s GROUP BY 1
$$, lateness => '1 hour');
SELECT incbatch.create_pipeline('hopping', $$
	SELECT window_start, count(*), sum(w) FROM (SELECT date_trunc('minute', at) AS t, v AS w FROM events) s,
	incbatch.hop(s.t, '2 hours', '1 hour') AS h (window_start, window_end) GROUP BY 1
$$, lateness => '1 hour', event_time => 'at');
INSERT INTO events SELECT i, timestamp '2024-01-01' + i * interval '10 minutes', i FROM generate_series(1, 60) i;
CALL exact('closing');
CALL exact('hopping');
INSERT INTO events VALUES (100, '2024-01-01 01:00', 5), (101, '2024-01-01 09:50', 500), (102, '2024-01-01 12:00', 7);
DELETE FROM events WHERE id IN (2, 60);
CALL incbatch.refresh_pipeline('closing');
CALL incbatch.refresh_pipeline('hopping');
SELECT count(*) FROM incbatch.verify_pipeline('closing');
SELECT count(*) FROM incbatch.verify_pipeline('hopping');
SELECT pipeline, event_time, change, row FROM incbatch.late_rows ORDER BY 1, 2, 3;
SELECT * FROM closing WHERE hour < '2024-01-01 03:00' OR hour > '2024-01-01 08:00' ORDER BY 1;

-- Aggregates beside a subquery, which are not within it
CREATE TABLE sizes (n bigint);
INSERT INTO sizes VALUES (2), (3);
CREATE TABLE few (id int PRIMARY KEY, k int, v int);
ALTER TABLE few REPLICA IDENTITY FULL;
INSERT INTO few VALUES (1, 1, 10), (2, 1, 20), (3, 2, 30), (4, 3, 40), (5, 3, 50);
SELECT incbatch.create_pipeline(name, query)
FROM (VALUES ('of_size', 'SELECT k, count(*) FROM few GROUP BY k HAVING count(*) IN (SELECT n FROM sizes)'),
             ('over_all', 'SELECT k, sum(v) FROM few GROUP BY k HAVING sum(v) > ALL (SELECT n FROM sizes)'),
             ('by_row', 'SELECT k, (count(*), k) = (SELECT 1, 2) AS alone FROM few GROUP BY k'),
             ('first_two', 'WITH w AS (SELECT 2 AS n) SELECT k, count(*) FROM few GROUP BY k ORDER BY 2 FETCH FIRST (SELECT n FROM w) ROWS WITH TIES'),
             ('running', 'WITH w AS (SELECT 1 AS n) SELECT k, sum(count(*)) OVER (ORDER BY k ROWS (SELECT n FROM w) PRECEDING) FROM few GROUP BY k')) AS q (name, query);
INSERT INTO few VALUES (6, 2, 1), (7, 4, 1);
DELETE FROM few WHERE id = 1;
CALL exact('of_size');
CALL exact('over_all');
CALL exact('by_row');
CALL exact('first_two');
CALL exact('running');

-- LIMIT ALL and OFFSET 0 leave no row out; the least others do.
CREATE VIEW fenced_names AS SELECT * FROM l OFFSET 0;
SELECT incbatch.create_pipeline('fenced', $$
	SELECT s.k, name, sum(v) FROM (SELECT k, v FROM few WHERE v > 5 OFFSET 0) s LEFT JOIN (SELECT * FROM fenced_names LIMIT ALL) n USING (k) GROUP BY 1, 2 LIMIT ALL OFFSET NULL
$$);
CALL exact('fenced');
UPDATE few SET v = v + 3;
CALL exact('fenced');
SELECT incbatch.create_pipeline('p', 'SELECT k, sum(v) FROM (SELECT k, v FROM few OFFSET 1) s GROUP BY k');
SELECT incbatch.create_pipeline('p', 'SELECT k, sum(v) FROM few GROUP BY k OFFSET 4294967296');
SELECT incbatch.create_pipeline('p', 'SELECT k, sum(v) FROM few GROUP BY k LIMIT 0');

-- What differs is shown as a row, whatever its columns are called.
SELECT incbatch.create_pipeline('letters', 'SELECT k AS a, count(*) AS b FROM few GROUP BY 1');
CALL incbatch.refresh_pipeline('letters');
UPDATE letters_state SET row_count = 9 WHERE a = 4;
SELECT * FROM incbatch.verify_pipeline('letters');

SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines;
SET client_min_messages = warning;
DROP SCHEMA queries CASCADE;
