
# Sources of every origin: partitions across restarts, crashes and backlogs that
# are eaten in pieces, and tables that a subscription feeds.
#
# The tree of a partitioned source is stored with the frontier, and what was
# told of a partition that joined is decoded again after a crash: an empty
# partition still joins without a rebuild, and one that brought or took rows is
# still noticed.  Rows that a subscription applies carry a replication origin,
# which is not ours, and count like any other; so do those of its initial copy.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IncBatch;
use Test::More;

$query{'parted'} = q{
SELECT region, count(*) AS orders, sum(amount) AS amount, max(amount) AS largest
  FROM orders
 GROUP BY region};
$query{'counted'} = q{
SELECT id % 7 AS k, count(*) AS orders, sum(amount) AS amount
  FROM orders
 GROUP BY id % 7};
$query{'fed'} = q{
SELECT k, count(*) AS n, sum(v) AS v, min(v) AS smallest
  FROM plain
 GROUP BY k};
my @parted = ('parted', 'counted');

my $tables = q{
CREATE TABLE orders (id int PRIMARY KEY, region text, amount int) PARTITION BY RANGE (id);
CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (100000);
CREATE TABLE orders_2 (x int, amount int, region text, id int NOT NULL);
ALTER TABLE orders_2 DROP COLUMN x;
ALTER TABLE orders ATTACH PARTITION orders_2 FOR VALUES FROM (100000) TO (200000);
ALTER TABLE orders_1 REPLICA IDENTITY FULL;
ALTER TABLE orders_2 REPLICA IDENTITY FULL;
CREATE TABLE plain (id int PRIMARY KEY, k int, v int);
ALTER TABLE plain REPLICA IDENTITY FULL;
};

# So little memory that a backlog is eaten in pieces.
my $node = new_node('main', 'incbatch.work_mem' => '64kB');
$node->start;
create_extension($node, 'postgres');
$node->safe_psql('postgres', $tables);
$node->safe_psql('postgres', q{
INSERT INTO orders SELECT 50000 + i * 100, 'r' || i % 3, i FROM generate_series(1, 1400) AS i});
create_pipeline($node, 'postgres', $_, $query{$_}, trigger_interval => '0') foreach @parted;
are_exact($node, 'postgres', \@parted, 'after the backfill');

sub sql
{
	return $node->safe_psql('postgres', join ';', @_);
}

sub pause
{
	sql(map { "SELECT incbatch.pause_pipeline('$_')" } @parted);
	return;
}

sub resume
{
	sql(map { "SELECT incbatch.resume_pipeline('$_')" } @parted);
	return;
}

# What has happened while they were paused, after a restart or a crash.
sub exact_after
{
	my ($label, $mode, @statements) = @_;

	pause();
	sql(@statements);
	if ($mode ne '')
	{
		$node->stop($mode);
		$node->start;
	}
	resume();
	are_exact($node, 'postgres', \@parted, $label);
	return;
}

sub lost_after
{
	my ($label, $mode, $reason, @statements) = @_;

	pause();
	sql(@statements);
	if ($mode ne '')
	{
		$node->stop($mode);
		$node->start;
	}
	resume();
	foreach my $name (@parted)
	{
		wait_for_state($node, 'postgres', $name, 'needs_rebuild');
		like(
			$node->safe_psql('postgres',
				"SELECT last_error FROM incbatch.pipelines WHERE pipeline = '$name'"),
			$reason, "$label: $name says why");
		sql("SELECT incbatch.rebuild_pipeline('$name')");
	}
	are_exact($node, 'postgres', \@parted, "$label, rebuilt");
	return;
}

# A statement for each of many small transactions
sub many
{
	my ($from, $to) = @_;

	return "DO \$\$ BEGIN FOR i IN $from .. $to LOOP"
	  . " INSERT INTO orders VALUES (i, 'r' || i % 5, i % 100); COMMIT; END LOOP; END \$\$";
}

exact_after('a new partition, restarted', 'fast',
	'CREATE TABLE orders_3 PARTITION OF orders FOR VALUES FROM (200000) TO (300000)',
	'ALTER TABLE orders_3 REPLICA IDENTITY FULL',
	q{INSERT INTO orders SELECT i, 'new', 1 FROM generate_series(200001, 200100) AS i},
	'DELETE FROM orders WHERE id BETWEEN 200001 AND 200010');
exact_after('a new partition, crashed', 'immediate',
	'CREATE TABLE orders_4 PARTITION OF orders FOR VALUES FROM (300000) TO (400000) PARTITION BY RANGE (id)',
	'CREATE TABLE orders_41 PARTITION OF orders_4 FOR VALUES FROM (300000) TO (350000)',
	'ALTER TABLE orders_41 REPLICA IDENTITY FULL',
	q{INSERT INTO orders SELECT i, 'newer', 1 FROM generate_series(300001, 300100) AS i},
	'UPDATE orders SET id = id + 110000 WHERE id BETWEEN 189000 AND 191000');
$node->restart;
are_exact($node, 'postgres', \@parted, 'restarted once more');
exact_after('a new partition in the middle of a backlog', '',
	many(400, 3000),
	'CREATE TABLE orders_5 PARTITION OF orders FOR VALUES FROM (400000) TO (500000)',
	'ALTER TABLE orders_5 REPLICA IDENTITY FULL',
	many(400000, 403000),
	'DELETE FROM orders_5 WHERE id % 3 = 0',
	many(3001, 6000));
cmp_ok(
	sql(q{SELECT count(*) FROM incbatch.batches WHERE pipeline = 'counted' AND reason = 'full'}),
	'>', 1, 'the backlog was eaten in pieces');

lost_after('a partition with rows, crashed', 'immediate', qr/"orders_6" was attached/,
	'CREATE TABLE orders_6 (LIKE orders)',
	'ALTER TABLE orders_6 REPLICA IDENTITY FULL',
	q{INSERT INTO orders_6 VALUES (500001, 'own', 1)},
	'ALTER TABLE orders ATTACH PARTITION orders_6 FOR VALUES FROM (500000) TO (600000)');
lost_after('a partition with rows in the middle of a backlog', '', qr/"orders_7" was attached/,
	many(6001, 9000),
	'CREATE TABLE orders_7 (LIKE orders)',
	q{INSERT INTO orders_7 VALUES (600001, 'own', 1)},
	'ALTER TABLE orders ATTACH PARTITION orders_7 FOR VALUES FROM (600000) TO (700000)',
	many(9001, 12000));
lost_after('a partition detached, restarted', 'fast', qr/"orders_7" was detached/,
	q{INSERT INTO orders VALUES (600002, 'own', 1)},
	'ALTER TABLE orders DETACH PARTITION orders_7');
lost_after('a partition dropped, crashed', 'immediate', qr/was dropped/,
	'DROP TABLE orders_6');
lost_after('a partition that came, was filled and went, crashed', 'immediate', qr/was dropped/,
	'CREATE TABLE orders_6 PARTITION OF orders FOR VALUES FROM (500000) TO (600000)',
	q{INSERT INTO orders VALUES (500001, 'short', 1)},
	'DROP TABLE orders_6');
lost_after('a partition truncated in the middle of a backlog', '', qr/"orders_5" was truncated/,
	many(12001, 15000), 'TRUNCATE orders_5', many(15001, 16000));
lost_after('detached and attached again, changed meanwhile', 'fast', qr/"orders_3" was detached|"orders_3" was attached/,
	'ALTER TABLE orders DETACH PARTITION orders_3',
	'UPDATE orders_3 SET amount = amount + 1',
	'ALTER TABLE orders ATTACH PARTITION orders_3 FOR VALUES FROM (200000) TO (300000)');

# A large transaction is open, so what a rebuild collects is read again from
# before: rows that a dropped partition took along, and an UPDATE that did not
# tell its old values.
{
	my $session = session($node, 'postgres');

	ask($session, q{BEGIN; INSERT INTO plain SELECT i, 1, 1 FROM generate_series(30001, 36000) AS i});
	lost_after('dropped beside a large transaction', '', qr/was dropped/,
		'CREATE TABLE orders_6 PARTITION OF orders FOR VALUES FROM (500000) TO (600000)',
		q{INSERT INTO orders VALUES (500001, 'short', 1)},
		'DROP TABLE orders_6');
	sql(q{CREATE TABLE orders_6 PARTITION OF orders FOR VALUES FROM (500000) TO (600000)},
		q{INSERT INTO orders VALUES (500001, 'other', 1)});
	are_exact($node, 'postgres', \@parted, 'a new partition beside a large transaction');
	lost_after('no old values beside a large transaction', '', qr/without its old values/,
		q{UPDATE orders SET amount = 2 WHERE id = 500001});
	ask($session, 'ROLLBACK');
	end_session($session);
}

# An old partition goes; a pipeline that only takes rows in does not mind.
create_pipeline($node, 'postgres', 'kept', $query{'parted'}, append_only => 'true');
$node->safe_psql('postgres', q{CALL incbatch.refresh_pipeline('kept')});
my $before = sql('SELECT sum(orders) FROM kept');
sql('DROP TABLE orders_3', q{INSERT INTO orders VALUES (16001, 'r1', 1)});
$node->restart;
sql(q{CALL incbatch.refresh_pipeline('kept')});
is(sql('SELECT sum(orders) FROM kept'), $before + 1, 'append_only keeps what a dropped partition had');
sql(map { "SELECT incbatch.drop_pipeline('$_')" } @parted, 'kept');

# ---------------------------------------------------------------------------
# Rows that a subscription brings

$node->safe_psql('postgres', 'CREATE DATABASE target');
create_extension($node, 'target');
$node->safe_psql('target', $tables . q{
CREATE TABLE orders_rest PARTITION OF orders DEFAULT;
ALTER TABLE orders_rest REPLICA IDENTITY FULL;
});
my @fed = (@parted, 'fed');
create_pipeline($node, 'target', $_, $query{$_}, trigger_interval => '0') foreach @fed;
are_exact($node, 'target', \@fed, 'before there is anything');

# Within one cluster the slot must be there before the subscription.
sql(q{INSERT INTO plain SELECT i, i % 3, i FROM generate_series(1, 100) AS i});
sql('CREATE PUBLICATION everything FOR TABLE orders, plain WITH (publish_via_partition_root = true)');
sql(q{SELECT pg_create_logical_replication_slot('feed', 'pgoutput')});
my $connection = $node->connstr('postgres');
$node->safe_psql('target',
	"CREATE SUBSCRIPTION feed CONNECTION \$c\$$connection\$c\$ PUBLICATION everything WITH (create_slot = false, slot_name = 'feed')");

sub fed
{
	my ($label, @statements) = @_;

	sql(@statements) if @statements;
	$node->wait_for_catchup('feed');
	are_exact($node, 'target', \@fed, $label);
	return;
}

$node->poll_query_until('target',
	q{SELECT bool_and(srsubstate IN ('r', 's')) FROM pg_subscription_rel})
  or die 'the initial copy did not end';
fed('the initial copy');
is( $node->safe_psql('target', 'SELECT sum(orders) FROM parted'),
	sql('SELECT count(*) FROM orders'), 'all copied orders are counted');

fed('inserts', many(20001, 20300), q{INSERT INTO plain SELECT i, i % 3, i FROM generate_series(101, 200) AS i});
fed('updates and deletes',
	q{UPDATE plain SET k = k + 1, v = v * 2 WHERE id % 2 = 0},
	q{DELETE FROM plain WHERE id % 5 = 0},
	q{UPDATE orders SET region = 'moved' WHERE id % 300 = 0},
	q{DELETE FROM orders WHERE id % 700 = 0});
fed('rows that move between partitions',
	q{UPDATE orders SET id = id + 400000 WHERE id BETWEEN 300 AND 9000},
	q{UPDATE orders SET id = id + 450000 WHERE region = 'moved' AND id < 50000});
fed('savepoints and rollback', q{
BEGIN;
INSERT INTO plain VALUES (1001, 1, 1);
SAVEPOINT a;
DELETE FROM plain WHERE id < 50;
ROLLBACK TO a;
UPDATE plain SET v = NULL WHERE id < 10;
COMMIT;
BEGIN;
DELETE FROM plain;
ROLLBACK});
fed('a large transaction',
	q{INSERT INTO plain SELECT i, i % 11, i FROM generate_series(2001, 12000) AS i});
fed('TRUNCATE', 'TRUNCATE plain', q{INSERT INTO plain VALUES (1, 1, 1)});

# Own rows and theirs, in one table
$node->safe_psql('target', q{INSERT INTO plain SELECT -i, i % 3, i FROM generate_series(1, 10) AS i});
fed('rows of here and of there', q{INSERT INTO plain VALUES (2, 2, 2)});
$node->stop('immediate');
$node->start;
fed('after a crash', q{UPDATE plain SET v = v + 1}, q{DELETE FROM orders WHERE id % 3 = 1});

$node->safe_psql('target', 'ALTER SUBSCRIPTION feed DISABLE; ALTER SUBSCRIPTION feed SET (slot_name = NONE); DROP SUBSCRIPTION feed');
$node->stop;
done_testing();
