
# What incbatch reads of the WAL is what wal2json reads of it.
#
# A second logical slot decodes the same WAL with wal2json.  After each stage of
# a mixed load the signed sum of its changes for each group (new rows +1, old
# rows -1, a TRUNCATE forgets what came before) is compared with the pipeline.
# The stages: a backfill, eight clients at once (with savepoints that are rolled
# back), values out of line that an UPDATE leaves as they are, transactions
# large enough to be streamed, prepared ones, TRUNCATE, and a crash.
# Proves that the reading is right by a decoder that shares no code with ours,
# where the other tests compare with what is in the table.
#
# Skipped where wal2json is not installed (Debian: postgresql-15-wal2json).
# LOAD_SECONDS (default 5) is the length of the load.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IncBatch;
use Test::More;

my $seconds = $ENV{LOAD_SECONDS} || 5;
my $orders  = 2_000;

my $node = new_node('main');
plan skip_all => 'wal2json is not installed'
  unless -e $node->config_data('--pkglibdir') . '/wal2json.so';
$node->start;
# Minor releases of 2026 have a list of the plugins that may be used.
if ($node->safe_psql('postgres', q{SELECT count(*) FROM pg_settings WHERE name = 'output_plugin_libraries'}))
{
	set_conf($node, output_plugin_libraries => 'wal2json');
	$node->reload;
}

# Before there is a row: so the sum of all changes is the table.
$node->safe_psql(
	'postgres', q{
SELECT pg_create_logical_replication_slot('judge', 'wal2json');
CREATE TABLE read (number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, change jsonb);

-- name: value of the columns in a change
CREATE FUNCTION read_row(columns jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
RETURN (SELECT jsonb_object_agg(c->>'name', c->'value') FROM jsonb_array_elements(columns) AS c);

-- A value out of line that an UPDATE did not touch is in its old row only.
CREATE VIEW read_orders AS
WITH changes AS (
	SELECT change->>'action' AS action, read_row(change->'columns') AS new, read_row(change->'identity') AS old
	  FROM read
	 WHERE number > coalesce((SELECT max(number) FROM read WHERE change->>'action' = 'T'), 0)
), rows AS (
	SELECT 1 AS weight, coalesce(old, '{}') || new AS r FROM changes WHERE action IN ('I', 'U')
	UNION ALL
	SELECT -1, old FROM changes WHERE action IN ('U', 'D')
)
SELECT r->>'region' AS region, (r->>'product_id')::int AS product_id,
       sum(weight) AS orders,
       sum(weight) FILTER (WHERE r->>'amount_cents' IS NOT NULL) AS priced,
       sum(weight * (r->>'amount_cents')::bigint) AS amount,
       sum(weight * length(r->>'note')) AS letters
  FROM rows
 GROUP BY 1, 2
HAVING sum(weight) <> 0;
});
create_shop($node, 'postgres', $orders);
$node->safe_psql(
	'postgres', q{
ALTER TABLE shop.orders ADD COLUMN note text;
ALTER TABLE shop.orders ALTER COLUMN note SET STORAGE EXTERNAL;
});

# Without rows a sum is NULL in a query, and 0 in a sum of signed rows.
$query{'shop.read'} = q{
SELECT region, product_id, count(*) AS orders, count(amount_cents) AS priced,
       sum(amount_cents) AS amount, sum(length(note)) AS letters
  FROM shop.orders
 GROUP BY region, product_id};
create_pipeline($node, 'postgres', 'shop.read', $query{'shop.read'}, trigger_interval => '100 ms');

my $stages = 0;

# Let wal2json read on, and compare; '' when the two have the same groups.
sub judged
{
	my $columns = q{region, product_id, orders, coalesce(priced, 0), coalesce(amount, 0), coalesce(letters, 0)};

	return $node->safe_psql(
		'postgres', qq{
CALL incbatch.refresh_pipeline('shop.read');
INSERT INTO read (change)
SELECT data::jsonb FROM pg_logical_slot_get_changes('judge', NULL, NULL,
         'format-version', '2', 'include-transaction', 'false', 'add-tables', 'shop.orders');
SELECT 'only read by incbatch: ' || d::text
  FROM (SELECT $columns FROM shop.read EXCEPT ALL SELECT $columns FROM read_orders) AS d
UNION ALL
SELECT 'only read by wal2json: ' || d::text
  FROM (SELECT $columns FROM read_orders EXCEPT ALL SELECT $columns FROM shop.read) AS d
 LIMIT 10;
});
}

sub is_read
{
	my ($label) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$stages++;
	is(judged(), '', "$label: both read the same");
	return;
}

is_read('a backfill');

# Transactions that end in other ways and at other times than they began
my @held = map { session($node, 'postgres') } 1 .. 3;
foreach my $i (0 .. 2)
{
	ask($held[$i], qq{
BEGIN;
INSERT INTO shop.orders (product_id, region, amount_cents, note) SELECT i % 20 + 1, 'held $i', i, repeat('n', i) FROM generate_series(1, 50) AS i;
SAVEPOINT one;
UPDATE shop.orders SET amount_cents = amount_cents + $i WHERE order_id BETWEEN $i * 10 + 1 AND $i * 10 + 10;
ROLLBACK TO SAVEPOINT one;
UPDATE shop.orders SET region = 'moved' WHERE order_id BETWEEN $i * 10 + 1 AND $i * 10 + 10});
}
my $load = start_pgbench($node, 'postgres', orders_load($node, 2 * $orders), '-c', 8, '-j', 2, '-R', 500, '-T', $seconds);
while (pgbench_is_running($load))
{
	$node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM incbatch.batches});
	$node->safe_psql('postgres', q{CALL incbatch.refresh_pipeline('shop.read')});
}
my ($exit, $output) = finish_pgbench($load);
is($exit, 0, 'the load ran to its end') or diag $output;
ask($held[0], 'COMMIT');
ask($held[1], q{PREPARE TRANSACTION 'kept'});
ask($held[2], q{PREPARE TRANSACTION 'given up'});
is_read('eight clients');
ask($held[0], q{COMMIT PREPARED 'kept'});
ask($held[0], q{ROLLBACK PREPARED 'given up'});
is_read('two-phase commit');

# Values out of line: put, left alone, moved to another group, replaced
ask($held[0], q{
UPDATE shop.orders SET note = repeat('x', 3000 + order_id::int) WHERE order_id <= 60;
UPDATE shop.orders SET amount_cents = 7 WHERE order_id <= 50;
UPDATE shop.orders SET region = 'far' WHERE order_id <= 40;
UPDATE shop.orders SET note = NULL WHERE order_id <= 10;
DELETE FROM shop.orders WHERE order_id BETWEEN 30 AND 45});
is_read('values out of line');

# A transaction of many chunks, parts of which are rolled back
ask($held[0], q{
BEGIN;
INSERT INTO shop.orders (product_id, region, amount_cents, note) SELECT i % 7, 'large', i, 'note' FROM generate_series(1, 5000) AS i;
SAVEPOINT one;
INSERT INTO shop.orders (product_id, region, amount_cents) SELECT i % 7, 'large', i FROM generate_series(1, 5000) AS i;
UPDATE shop.orders SET region = 'nowhere' WHERE region = 'large' AND product_id = 3;
ROLLBACK TO SAVEPOINT one;
SAVEPOINT two;
UPDATE shop.orders SET product_id = product_id + 1 WHERE region = 'large';
RELEASE SAVEPOINT two;
DELETE FROM shop.orders WHERE region = 'large' AND amount_cents % 3 = 0;
COMMIT});
ask($held[1], q{
BEGIN;
INSERT INTO shop.orders (product_id, region, amount_cents) SELECT 1, 'never', i FROM generate_series(1, 5000) AS i;
ROLLBACK});
is_read('streamed transactions');
cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FROM shop.read WHERE region = 'large'}), '>', 5, 'they are in the pipeline');

# What a TRUNCATE takes away, and what the same transaction brings
ask($held[0], q{
BEGIN;
INSERT INTO shop.orders (product_id, region, amount_cents) VALUES (1, 'gone', 1);
SAVEPOINT one;
TRUNCATE shop.orders;
ROLLBACK TO SAVEPOINT one;
UPDATE shop.orders SET region = 'kept' WHERE order_id % 5 = 0;
COMMIT});
is_read('a TRUNCATE that is rolled back');
ask($held[0], q{
BEGIN;
INSERT INTO shop.orders (product_id, region, amount_cents) VALUES (1, 'gone', 1);
TRUNCATE shop.orders;
INSERT INTO shop.orders (product_id, region, amount_cents) SELECT i % 5, 'anew', i FROM generate_series(1, 2000) AS i;
COMMIT;
DELETE FROM shop.orders WHERE amount_cents % 2 = 0});
is_read('TRUNCATE');

end_session(@held);
# what wal2json has delivered is on disk with the next checkpoint only
$node->safe_psql('postgres', 'CHECKPOINT');
$node->stop('immediate');
$node->start;
$node->safe_psql('postgres', q{UPDATE shop.orders SET region = NULL WHERE product_id = 2});
is_read('a crash');

# Negative control: a change less, and the two differ.
$node->safe_psql('postgres', q{DELETE FROM read WHERE number = (SELECT max(number) FROM read WHERE change->>'action' = 'U')});
isnt(judged(), '', 'the comparison finds a change that is missing');

$node->safe_psql('postgres', q{SELECT pg_drop_replication_slot('judge')});
$node->stop;
done_testing();
