
# Tracked lookups: which transactions are folded in must be the same for all
# tables of a query.
#
# A transaction that writes its commit record and hangs before others see it
# has changed a lookup, or the source, or both; meanwhile both tables change on.
# Then pgbench changes both at once, with backlogs larger than the memory for
# them, while the worker is killed and the server crashes.
# Proves: at every moment the aggregate equals the query as a fresh snapshot
# sees it.

use strict;
use warnings;

# Every client but the hanging one.
BEGIN { $ENV{PGOPTIONS} = '-c synchronous_commit=local'; }

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IncBatch;
use Test::More;

$query{'shop.inner'} = q{
SELECT p.category, o.region, count(*) AS orders, sum(o.amount_cents) AS amount,
       max(o.amount_cents) AS largest
  FROM shop.orders o JOIN shop.product p ON p.product_id = o.product_id
 GROUP BY p.category, o.region};
$query{'shop.outer'} = q{
SELECT p.category, c.boss, count(*) AS orders, count(p.category) AS known,
       min(o.amount_cents) AS smallest
  FROM shop.orders o LEFT JOIN shop.product p ON p.product_id = o.product_id
  LEFT JOIN shop.boss c ON c.category = p.category
 GROUP BY p.category, c.boss};
my @names = ('shop.inner', 'shop.outer');

my $node = new_node(
	'main',
	synchronous_standby_names => 'nobody',
	'incbatch.work_mem'       => '64kB');
$node->start;
create_shop($node, 'postgres', 400);
sql(q{
CREATE TABLE shop.boss (category text PRIMARY KEY, boss text);
ALTER TABLE shop.boss REPLICA IDENTITY FULL;
ALTER TABLE shop.product REPLICA IDENTITY FULL;
CREATE INDEX ON shop.orders (product_id);
INSERT INTO shop.boss SELECT 'category ' || i, 'boss ' || i % 2 FROM generate_series(0, 3) AS i});
create_pipeline($node, 'postgres', $_, $query{$_},
	trigger_interval => '0', track_lookups => 'true')
  foreach @names;
are_exact($node, 'postgres', \@names, 'after the backfill');

# Each hangs while the same rows' neighbours change: [what, SQL].
my @hanging = (
	[ 'UPDATE of a lookup', q{UPDATE shop.product SET category = 'hung' WHERE product_id % 4 = 1} ],
	[ 'UPDATE of both', q{UPDATE shop.product SET category = 'both' WHERE product_id = 2; UPDATE shop.orders SET amount_cents = 1 WHERE order_id % 10 = 3} ],
	[ 'DELETE of a lookup row', q{DELETE FROM shop.product WHERE product_id IN (3, 7)} ],
	[ 'INSERT of a lookup row and its orders', q{INSERT INTO shop.product VALUES (30, 'thirty'); INSERT INTO shop.orders (product_id, region, amount_cents) SELECT 30, 'north', i FROM generate_series(1, 10) AS i} ],
	[ 'INSERT into the source', q{INSERT INTO shop.orders (product_id, region, amount_cents) SELECT 1 + i % 21, 'hung', i FROM generate_series(1, 50) AS i} ],
	[ 'the lookup of a lookup', q{DELETE FROM shop.boss WHERE category = 'category 1'; UPDATE shop.boss SET boss = 'new' WHERE category = 'category 2'} ],
	[ 'a savepoint rolled back', q{SAVEPOINT a; DELETE FROM shop.product; ROLLBACK TO a; UPDATE shop.product SET category = 'kept' WHERE product_id = 5} ]);
my $round = 0;
foreach my $hanging (@hanging)
{
	my ($what, $sql) = @$hanging;
	my $session = session($node, 'postgres');
	my $pid     = hang_commit($node, $session, "BEGIN; $sql");

	$round++;
	foreach my $step (1 .. 3)
	{
		disturb(10 * $round + $step);
		are_exact($node, 'postgres', \@names, "$what hangs, step $step");
	}
	release_commit($node, $session, $pid);
	are_exact($node, 'postgres', \@names, "$what released");
	end_session($session);
}

# A pipeline created meanwhile must count it once; a crash releases it.
{
	my $session = session($node, 'postgres');
	my $worker  = wait_for_worker($node, 'postgres');

	# One that was read before the pipeline was there has the backfill wait.
	kill_process('STOP', $worker);
	hang_commit($node, $session,
		q{BEGIN; UPDATE shop.product SET category = 'late' WHERE product_id % 3 = 0; DELETE FROM shop.orders WHERE order_id % 9 = 0});
	$query{'shop.newer'} = $query{'shop.outer'};
	create_pipeline($node, 'postgres', 'shop.newer', $query{'shop.newer'},
		trigger_interval => '0', track_lookups => 'true');
	kill_process('CONT', $worker);
	push @names, 'shop.newer';
	are_exact($node, 'postgres', \@names, 'created while one hangs');
	disturb(100);
	are_exact($node, 'postgres', \@names, 'created while one hangs, changed');
	$node->stop('immediate');
	end_session($session);
	$node->start;
	are_exact($node, 'postgres', \@names, 'after the crash');
}

# Backlogs that outgrow the memory, of one table after the other: what a lookup
# was when a row of the source was written is not what the run finds.
sql(map { "SELECT incbatch.pause_pipeline('$_')" } @names);
sql(q{INSERT INTO shop.orders (product_id, region, amount_cents) SELECT 1 + i % 25, 'backlog', i FROM generate_series(1, 5000) AS i});
sql(q{UPDATE shop.product SET category = 'backlog ' || product_id % 2});
sql(q{INSERT INTO shop.product SELECT i, 'many ' || i % 3 FROM generate_series(100, 5000) AS i});
sql(q{UPDATE shop.orders SET product_id = 100 + order_id % 3000 WHERE region = 'backlog'});
sql(q{UPDATE shop.product SET category = category || '!' WHERE product_id > 2000});
sql(q{DELETE FROM shop.product WHERE product_id BETWEEN 50 AND 500});
sql(map { "SELECT incbatch.resume_pipeline('$_')" } @names);
sql(q{DELETE FROM shop.orders WHERE region = 'backlog' AND amount_cents % 3 = 0});
are_exact($node, 'postgres', \@names, 'a backlog');
sql(q{DELETE FROM shop.orders WHERE region = 'backlog'; DELETE FROM shop.product WHERE product_id > 50});
are_exact($node, 'postgres', \@names, 'the backlog is gone');

# Everything changes at once, and things are killed.
foreach my $loop (1 .. 4)
{
	my $bench = start_pgbench($node, 'postgres', {
		orders => [ 4, q{
\set product random(1, 24)
\set amount random(1, 500)
INSERT INTO shop.orders (product_id, region, amount_cents) VALUES (:product, 'north', :amount);
} ],
		moves => [ 2, q{
\set order random(1, 500)
\set product random(1, 24)
BEGIN;
UPDATE shop.orders SET product_id = :product WHERE order_id = :order;
UPDATE shop.product SET category = 'category ' || (:order % 6) WHERE product_id = :product;
COMMIT;
} ],
		gone => [ 1, q{
\set product random(1, 24)
DELETE FROM shop.product WHERE product_id = :product;
} ],
		back => [ 1, q{
\set product random(1, 24)
INSERT INTO shop.product VALUES (:product, 'category ' || (:product % 5)) ON CONFLICT DO NOTHING;
} ],
		bosses => [ 1, q{
\set n random(0, 5)
INSERT INTO shop.boss VALUES ('category ' || :n, 'boss ' || (:n % 2)) ON CONFLICT (category) DO UPDATE SET boss = 'boss ' || random();
} ],
		removed => [ 1, q{
\set order random(1, 1000)
DELETE FROM shop.orders WHERE order_id = :order;
} ] }, '-c', 3, '-t', 300);

	if ($loop < 4)
	{
		my $worker = wait_for_worker($node, 'postgres');
		kill_process('KILL', $worker) if $loop == 1;
		$node->stop('immediate') if $loop == 2;
	}
	finish_pgbench($bench);
	$node->start if $loop == 2;
	until_answers($node) or die 'the server does not come back';
	are_exact($node, 'postgres', \@names, "everything at once, $loop");
}
is(sql(q{SELECT count(*) FROM incbatch.pipelines WHERE state <> 'running'}), 0, 'all run');

$node->stop;
done_testing();

sub sql
{
	return $node->safe_psql('postgres', join ';', @_);
}

# Changes of all tables beside the one that hangs, of rows that it leaves alone.
sub disturb
{
	my ($n) = @_;

	sql(qq{INSERT INTO shop.orders (product_id, region, amount_cents) SELECT 1 + i % 21, 'beside', $n + i FROM generate_series(1, 21) AS i},
		qq{UPDATE shop.product SET category = 'category ' || ($n + product_id) % 6 WHERE product_id IN (8, 10 + $n % 2, 14)},
		qq{DELETE FROM shop.orders WHERE order_id = (SELECT order_id FROM shop.orders WHERE order_id % 10 <> 3 AND order_id % 9 <> 0 ORDER BY order_id DESC LIMIT 1 OFFSET $n)},
		qq{INSERT INTO shop.boss VALUES ('category ' || 3 + $n % 3, 'boss $n') ON CONFLICT (category) DO UPDATE SET boss = excluded.boss});
	return;
}
