
# Decoded is not yet visible, and other ways in which a transaction's changes
# arrive late, not at all or in pieces.
#
# A transaction writes its commit record before others see it.  Here it hangs
# between the two for as long as the test likes: the cluster waits for a
# synchronous standby that does not exist, and only the session that asks for
# synchronous_commit = on waits with it.  Meanwhile the extreme of a group is
# retracted and looked up again, pipelines are created, the server crashes.
# Proves: at every moment the aggregate equals the query as a fresh snapshot
# sees it, and afterwards the transaction counts exactly once.  The worker's own
# commits must not wait for the standby.
#
# Then prepared transactions, nested savepoints, COPY, TRUNCATE, speculative
# inserts, rows that replication brings and backlogs larger than the memory for
# them, each against the oracle.
#
# HELD_SEED repeats the random part.

use strict;
use warnings;

# Every client but the hanging one; not a setting of the server, which would
# spare the worker too.
BEGIN { $ENV{PGOPTIONS} = '-c synchronous_commit=local'; }

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IncBatch;
use Test::More;

my $seed = $ENV{HELD_SEED} || (time ^ $$);
srand($seed);
diag "HELD_SEED=$seed";

$query{'shop.peaks'} = q{
SELECT region, max(amount_cents) AS largest, min(amount_cents) AS smallest,
       count(*) AS orders, sum(amount_cents) AS amount
  FROM shop.orders
 GROUP BY region};
$query{'shop.sorted'} = q{
SELECT region, count(DISTINCT amount_cents) AS amounts,
       string_agg(amount_cents::text, ' ' ORDER BY amount_cents) AS list
  FROM shop.orders
 GROUP BY region};
$query{'shop.newer'}   = $query{'shop.peaks'};
$query{'shop.shelves'} = q{
SELECT shelf, max(quantity) AS largest, sum(quantity) AS quantity, count(*) AS items
  FROM shop.stock
 GROUP BY shelf};
my @peaks = ('shop.peaks', 'shop.sorted');

# So little memory that backlogs are eaten in pieces.
my $node = new_node(
	'main',
	synchronous_standby_names => 'nobody',
	'incbatch.work_mem'       => '64kB');
$node->start;
create_shop($node, 'postgres', 200);
$node->safe_psql(
	'postgres', q{
CREATE TABLE shop.stock (item int PRIMARY KEY, shelf text, quantity int);
ALTER TABLE shop.stock REPLICA IDENTITY FULL;
INSERT INTO shop.stock SELECT i, 'shelf ' || i % 5, i FROM generate_series(1, 50) AS i;
INSERT INTO shop.orders (product_id, region, amount_cents)
SELECT 1, 'peak', a FROM unnest(ARRAY[10, 20, 30, 40, 50, 60, 500]) AS a;
});
create_pipeline($node, 'postgres', 'shop.peaks', $query{'shop.peaks'},
	trigger_interval => '0');
create_pipeline($node, 'postgres', $_, $query{$_}, trigger_interval => '0')
  foreach 'shop.sorted', 'shop.shelves';
are_exact($node, 'postgres', [ @peaks, 'shop.shelves' ], 'after the backfill');
is(largest(), 500, 'the peak to begin with');

# Each hangs, is seen by nobody while other changes are folded in, and then
# counts: [what, SQL, largest before the release, largest after].
my @hanging = (
	[ 'DELETE of the largest', q{DELETE FROM shop.orders WHERE region = 'peak' AND amount_cents = 500}, 500, 105 ],
	[ 'INSERT of a larger one', q{INSERT INTO shop.orders (product_id, region, amount_cents) VALUES (1, 'peak', 900)}, 205, 900 ],
	[ 'UPDATE that moves the largest to another group', q{UPDATE shop.orders SET region = 'valley' WHERE region = 'peak' AND amount_cents = 900}, 900, 305 ],
	[ 'UPDATE of the largest', q{UPDATE shop.orders SET amount_cents = 800 WHERE region = 'peak' AND amount_cents = 305}, 405, 800 ],
	[ 'savepoint rolled back', q{SAVEPOINT a; DELETE FROM shop.orders WHERE region = 'peak'; ROLLBACK TO a; UPDATE shop.orders SET amount_cents = 1 WHERE region = 'peak' AND amount_cents = 800}, 800, 505 ],
);
my $round = 0;
foreach my $hanging (@hanging)
{
	my ($what, $sql, $before, $after) = @$hanging;
	my $session = session($node, 'postgres');
	my $pid     = hang_commit($node, $session, "BEGIN; $sql");

	$round++;
	foreach my $step (1 .. 5)
	{
		disturb(100 * $round + $step);
		are_exact($node, 'postgres', \@peaks, "$what hangs, step $step");
	}
	is(largest(), $before, "$what hangs: the largest that can be seen");
	release_commit($node, $session, $pid);
	are_exact($node, 'postgres', \@peaks, "$what released");
	is(largest(), $after, "$what released: the largest");
	end_session($session);
}

# Two at once, released in the other order than they were written in.
{
	my ($first, $second) = (session($node, 'postgres'), session($node, 'postgres'));
	my $first_pid = hang_commit($node, $first,
		q{BEGIN; INSERT INTO shop.orders (product_id, region, amount_cents) VALUES (1, 'peak', 2000)});
	my $second_pid = hang_commit($node, $second,
		q{BEGIN; INSERT INTO shop.orders (product_id, region, amount_cents) VALUES (1, 'peak', 1500); DELETE FROM shop.orders WHERE region = 'peak' AND amount_cents = 505});

	disturb(601);
	are_exact($node, 'postgres', \@peaks, 'two hang');
	release_commit($node, $second, $second_pid);
	disturb(602);
	are_exact($node, 'postgres', \@peaks, 'the second released');
	is(largest(), 1500, 'the second released: the largest');
	release_commit($node, $first, $first_pid);
	disturb(603);
	are_exact($node, 'postgres', \@peaks, 'both released');
	is(largest(), 2000, 'both released: the largest');
	end_session($first, $second);
}

# A pipeline created meanwhile must not count it twice, nor miss it.  The worker
# has not read it yet: a backfill waits for what was read before it began.
{
	my $session = session($node, 'postgres');
	my $worker  = wait_for_worker($node, 'postgres');

	until_true($session, "SELECT query = 'waiting for changes' FROM pg_stat_activity WHERE pid = $worker");
	kill_process('STOP', $worker);
	my $pid = hang_commit($node, $session,
		q{BEGIN; DELETE FROM shop.orders WHERE region = 'peak' AND amount_cents = 2000});

	create_pipeline($node, 'postgres', 'shop.newer', $query{'shop.newer'},
		trigger_interval => '0');
	kill_process('CONT', $worker);
	wait_for_state($node, 'postgres', 'shop.newer', 'running');
	push @peaks, 'shop.newer';
	are_exact($node, 'postgres', \@peaks, 'created while one hangs');
	disturb(701);
	are_exact($node, 'postgres', \@peaks, 'created while one hangs, changed');
	release_commit($node, $session, $pid);
	are_exact($node, 'postgres', \@peaks, 'created while one hung, released');
	is(largest(), 1500, 'created while one hung: the largest');
	end_session($session);
}

# A backfill that had to wait for a lock must not hold it back once the slot is
# confirmed beyond it: should it be read again, it would not be there.
{
	my ($session, $holder) = (session($node, 'postgres'), session($node, 'postgres'));

	$query{'shop.lanes'} = q{
SELECT l.name, count(*) AS parcels
  FROM shop.parcel p JOIN shop.lane l ON l.lane = p.lane
 GROUP BY l.name};
	$node->safe_psql(
		'postgres', q{
CREATE TABLE shop.lane (lane int PRIMARY KEY, name text);
CREATE TABLE shop.parcel (parcel int PRIMARY KEY, lane int);
ALTER TABLE shop.parcel REPLICA IDENTITY FULL;
INSERT INTO shop.lane VALUES (1, 'one');
INSERT INTO shop.parcel VALUES (1, 1)});
	create_pipeline($node, 'postgres', 'shop.lanes', $query{'shop.lanes'}, trigger_interval => '0');
	are_exact($node, 'postgres', ['shop.lanes'], 'a join');
	ask($holder, 'BEGIN; LOCK TABLE shop.lanes_state IN SHARE MODE');
	$node->safe_psql('postgres', q{SELECT incbatch.rebuild_pipeline('shop.lanes')});
	wait_for_state($node, 'postgres', 'shop.lanes', 'backfilling');
	my $pid = hang_commit($node, $session, 'BEGIN; INSERT INTO shop.parcel VALUES (2, 1)');
	my $lsn = $node->safe_psql('postgres', 'SELECT pg_current_wal_lsn()');
	ok( until_holds {
			disturb(751);
			$node->safe_psql('postgres', "CALL incbatch.refresh_pipeline('$_')") foreach @peaks, 'shop.shelves';
			$node->safe_psql('postgres', "SELECT confirmed_flush_lsn > '$lsn' FROM pg_replication_slots") eq 't';
		}, 'the slot is confirmed beyond the one that hangs');
	ask($holder, 'COMMIT');
	$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM incbatch.lag WHERE reason LIKE '%is locked%'});
	are_exact($node, 'postgres', [ @peaks, 'shop.shelves' ], 'nothing is locked');

	# the decoder goes back for who comes back
	$node->safe_psql('postgres', q{SELECT incbatch.pause_pipeline('shop.shelves')});
	$node->safe_psql('postgres', q{INSERT INTO shop.stock VALUES (51, 'shelf 1', 1)});
	are_exact($node, 'postgres', \@peaks, 'beside a pipeline at rest');
	$node->safe_psql('postgres', q{SELECT incbatch.resume_pipeline('shop.shelves')});
	are_exact($node, 'postgres', ['shop.shelves'], 'which comes back');
	release_commit($node, $session, $pid);
	wait_for_state($node, 'postgres', 'shop.lanes', 'running');
	are_exact($node, 'postgres', ['shop.lanes'], 'filled while one hung, released');
	end_session($session, $holder);
}

# COMMIT PREPARED hangs as well, and the transaction is not the process's own.
{
	my $session = session($node, 'postgres');
	my $pid     = hang_commit(
		$node, $session, q{
SET synchronous_commit = local;
BEGIN;
DELETE FROM shop.orders WHERE region = 'peak' AND amount_cents = 1500;
INSERT INTO shop.orders (product_id, region, amount_cents) VALUES (1, 'peak', 1200);
PREPARE TRANSACTION 'hangs';
SET synchronous_commit = on},
		q{COMMIT PREPARED 'hangs'});

	disturb(801);
	are_exact($node, 'postgres', \@peaks, 'COMMIT PREPARED hangs');
	is(largest(), 1500, 'COMMIT PREPARED hangs: the largest');
	release_commit($node, $session, $pid);
	are_exact($node, 'postgres', \@peaks, 'COMMIT PREPARED released');
	is(largest(), 1200, 'COMMIT PREPARED released: the largest');
	end_session($session);
}

# A crash releases too: the commit record is there, so recovery shows it.
{
	my $session = session($node, 'postgres');
	hang_commit($node, $session,
		q{BEGIN; DELETE FROM shop.orders WHERE region = 'peak' AND amount_cents = 1200});
	disturb(901);
	are_exact($node, 'postgres', \@peaks, 'before the crash');
	is(largest(), 1200, 'before the crash: the largest');
	$node->stop('immediate');
	end_session($session);
	$node->start;
	are_exact($node, 'postgres', \@peaks, 'after the crash');
	is(largest(), 901, 'after the crash: the largest');
}

# The same with one that fills the memory of its batch, after which others have
# been folded in, for good.
{
	my $session = session($node, 'postgres');
	hang_commit($node, $session,
		q{BEGIN; INSERT INTO shop.stock SELECT i, 'crowd', i FROM generate_series(10001, 15000) AS i});
	$node->safe_psql('postgres',
		q{INSERT INTO shop.stock SELECT i, 'shelf 1', i FROM generate_series(101, 110) AS i});
	are_exact($node, 'postgres', ['shop.shelves'], 'a crowd hangs');
	$node->safe_psql('postgres', 'CHECKPOINT');
	$node->stop('immediate');
	end_session($session);
	$node->start;
	are_exact($node, 'postgres', ['shop.shelves'], 'a crowd after the crash');
	$node->safe_psql('postgres', q{DELETE FROM shop.stock WHERE item > 100});
}

# The ordinary end of such a wait: the administrator gives the standby up.
{
	my $session = session($node, 'postgres');
	hang_commit($node, $session,
		q{BEGIN; UPDATE shop.orders SET region = NULL WHERE region = 'peak' AND amount_cents >= 800});
	disturb(1001);
	are_exact($node, 'postgres', \@peaks, 'before the standby is given up');
	$node->safe_psql('postgres',
		q{ALTER SYSTEM SET synchronous_standby_names = ''});
	$node->reload;
	ask($session, 'SELECT 1');
	are_exact($node, 'postgres', \@peaks, 'after the standby is given up');
	is(largest(), 1001, 'after the standby is given up: the largest');
	end_session($session);
}

# ---------------------------------------------------------------------------
# Transactions of every other shape

my @all = (@peaks, 'shop.shelves');

check('prepared and not committed', q{
INSERT INTO shop.orders (product_id, region, amount_cents) VALUES (1, 'peak', 590);
BEGIN;
DELETE FROM shop.orders WHERE region = 'peak' AND amount_cents > 600;
INSERT INTO shop.stock VALUES (1001, 'shelf 1', 5000);
PREPARE TRANSACTION 'later';
BEGIN;
INSERT INTO shop.stock VALUES (1002, 'shelf 2', 7000);
PREPARE TRANSACTION 'never'});
is(largest(), 1001, 'prepared and not committed: the largest');
$node->restart;
are_exact($node, 'postgres', \@all, 'prepared, after a restart');
check('COMMIT PREPARED', q{COMMIT PREPARED 'later'});
is(largest(), 590, 'COMMIT PREPARED: the largest');
check('ROLLBACK PREPARED', q{ROLLBACK PREPARED 'never'});

check('nested savepoints', q{
BEGIN;
INSERT INTO shop.stock VALUES (2001, 'shelf 1', 1);
SAVEPOINT a;
UPDATE shop.stock SET quantity = 2 WHERE item = 2001;
SAVEPOINT b;
UPDATE shop.stock SET shelf = 'shelf 2' WHERE item = 2001;
SAVEPOINT c;
DELETE FROM shop.stock WHERE item = 2001;
RELEASE SAVEPOINT c;
ROLLBACK TO SAVEPOINT b;
UPDATE shop.stock SET shelf = 'shelf 3' WHERE item = 2001;
RELEASE SAVEPOINT a;
COMMIT});
is( $node->safe_psql('postgres', q{SELECT shelf, quantity FROM shop.stock WHERE item = 2001}),
	'shelf 3|2', 'nested savepoints did what they look like');

check('COPY', qq{
COPY shop.stock FROM stdin (FORMAT csv);
3001,shelf 1,77
3002,,78
3003,shelf 3,
\\.
});
check('COPY that fails', qq{
\\set ON_ERROR_STOP 0
COPY shop.stock FROM stdin (FORMAT csv);
3004,shelf 1,1000000
3001,shelf 1,1000000
\\.
});

check('TRUNCATE rolled back', q{
BEGIN;
TRUNCATE shop.stock;
INSERT INTO shop.stock VALUES (1, 'shelf 9', 1);
ROLLBACK});
check('TRUNCATE and INSERT in one transaction', q{
BEGIN;
INSERT INTO shop.stock VALUES (4001, 'shelf 1', 1);
TRUNCATE shop.stock;
INSERT INTO shop.stock SELECT i, 'shelf ' || i % 3, i FROM generate_series(1, 30) AS i;
UPDATE shop.stock SET quantity = quantity + 1 WHERE item < 10;
COMMIT});
is( $node->safe_psql('postgres', 'SELECT sum(items), count(*) FROM shop.shelves'),
	'30|3', 'TRUNCATE and INSERT: what is there');
check('TRUNCATE in a savepoint rolled back', q{
BEGIN;
SAVEPOINT a;
TRUNCATE shop.stock;
ROLLBACK TO SAVEPOINT a;
DELETE FROM shop.stock WHERE item = 30;
COMMIT});
check('TRUNCATE', 'TRUNCATE shop.stock');
is($node->safe_psql('postgres', 'SELECT count(*) FROM shop.shelves'),
	0, 'TRUNCATE: nothing is there');

check('ON CONFLICT', q{
INSERT INTO shop.stock SELECT i, 'shelf ' || i % 5, i FROM generate_series(1, 30) AS i;
INSERT INTO shop.stock SELECT i, 'shelf 1', 1 FROM generate_series(11, 50) AS i ON CONFLICT DO NOTHING;
INSERT INTO shop.stock AS s SELECT i, 'shelf 2', 2 FROM generate_series(21, 60) AS i
    ON CONFLICT (item) DO UPDATE SET shelf = excluded.shelf, quantity = s.quantity + 1});

# Four clients insert the same few keys at once: those that lose the race have
# inserted speculatively, and taken it back.
my $upserts = start_pgbench(
	$node,
	'postgres',
	{
		upsert => [
			3, q{
\set item random(1, 5)
\set shelf random(1, 3)
INSERT INTO shop.stock AS s VALUES (:item, 'shelf ' || :shelf, 1)
    ON CONFLICT (item) DO UPDATE SET shelf = excluded.shelf, quantity = s.quantity + 1;
}
		],
		delete => [ 2, "\\set item random(1, 5)\nDELETE FROM shop.stock WHERE item = :item;\n" ],
	},
	'-c', 4, '-t', 500);
my ($exit, $output) = finish_pgbench($upserts);
is($exit, 0, 'upserts at once') or diag $output;
are_exact($node, 'postgres', ['shop.shelves'], 'upserts at once');

# Rows that a subscription brings carry an origin, and count.  The time that it
# gives them is that of another server, whose clock may be wrong.
check('rows of a replication origin', q{
SELECT pg_replication_origin_create('elsewhere');
SELECT pg_replication_origin_session_setup('elsewhere');
SET session_replication_role = replica;
BEGIN;
SELECT pg_replication_origin_xact_setup('0/1000', now() - interval '1 day');
INSERT INTO shop.stock SELECT i, 'origin', i FROM generate_series(5001, 5010) AS i;
UPDATE shop.stock SET quantity = 1 WHERE item = 5010;
COMMIT});
is( $node->safe_psql('postgres', q{SELECT items FROM shop.shelves WHERE shelf = 'origin'}),
	10, 'rows of a replication origin are counted');
is( $node->safe_psql('postgres', q{SELECT max(latency_max) < '1 h' FROM incbatch.batches WHERE pipeline = 'shop.shelves'}),
	't', 'rows of a replication origin: the latency is since they came here');

# A backlog that is eaten in pieces: the decoder goes back for the pipeline that
# was paused, while another, which has all of it, is refreshed.
$node->safe_psql('postgres', q{SELECT incbatch.pause_pipeline('shop.newer')});
($exit, $output) = finish_pgbench(
	start_pgbench(
		$node,
		'postgres',
		{ order => [ 1, "INSERT INTO shop.orders (product_id, region, amount_cents) SELECT 1, 'backlog', 1 FROM generate_series(1, 50);\n" ] },
		'-c', 1, '-t', 2000));
is($exit, 0, 'a backlog') or diag $output;
are_exact($node, 'postgres', ['shop.peaks'], 'beside a paused pipeline');
{
	my $refresh = start_pgbench($node, 'postgres',
		{ refresh => [ 1, "CALL incbatch.refresh_pipeline('shop.peaks');\n" ] },
		'-c', 1, '-t', 300);
	$node->safe_psql('postgres', q{SELECT incbatch.resume_pipeline('shop.newer')});
	($exit, $output) = finish_pgbench($refresh);
	is($exit, 0, 'refreshed while another catches up') or diag $output;
}
are_exact($node, 'postgres', \@all, 'a backlog in pieces');
cmp_ok(
	$node->safe_psql(
		'postgres',
		q{SELECT count(*) FROM incbatch.batches WHERE pipeline = 'shop.newer' AND reason = 'full'}),
	'>', 10, 'it was eaten in pieces');

# Changes that cannot be folded in, because somebody has locked the aggregate,
# fill the memory of their batch, not that of another pipeline.
{
	my $session = session($node, 'postgres');

	ask($session, 'BEGIN; LOCK TABLE shop.newer_state IN SHARE MODE');
	foreach my $step (1 .. 3)
	{
		$node->safe_psql('postgres',
			q{INSERT INTO shop.orders (product_id, region, amount_cents) SELECT 1, 'backlog', i FROM generate_series(1, 5000) AS i});
		are_exact($node, 'postgres', ['shop.peaks'], "beside a locked pipeline, step $step");
	}
	ask($session, 'COMMIT');
	end_session($session);
	are_exact($node, 'postgres', \@all, 'the lock is gone');
}

# Random transactions.
foreach my $part (1 .. 5)
{
	check("random transactions, part $part",
		join "\n", map { random_transaction("${part}_$_") } 1 .. 60);
}
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM shop.stock'),
	'>', 0, 'the random transactions left something to compare');

$node->stop;
done_testing();

# The largest amount of the group that everything is about.
sub largest
{
	return $node->safe_psql('postgres',
		q{SELECT largest FROM shop.peaks WHERE region = 'peak'});
}

# Changes beside the one that hangs: a new row, never the largest for long, and
# the smallest one retracted, so that the group is looked up in the source.
sub disturb
{
	my ($amount) = @_;

	$node->safe_psql(
		'postgres', qq{
INSERT INTO shop.orders (product_id, region, amount_cents) VALUES (1, 'peak', $amount);
DELETE FROM shop.orders
 WHERE order_id = (SELECT order_id FROM shop.orders
                    WHERE region = 'peak' ORDER BY amount_cents LIMIT 1);
});
	return;
}

# Run SQL; afterwards every aggregate equals its query.
sub check
{
	my ($label, $sql) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($ret, $stdout, $stderr) = $node->psql('postgres', "$sql;");

	is($ret, 0, "$label: done") or diag $stderr;
	are_exact($node, 'postgres', \@all, $label);
	return;
}

# One transaction on shop.stock: random changes in savepoints up to four deep,
# and any of the ways to end it.
sub random_transaction
{
	my ($id) = @_;
	my $end = rand();
	my $sql = "BEGIN;\n" . random_changes(0);

	return "$sql COMMIT;"   if $end < 0.65;
	return "$sql ROLLBACK;" if $end < 0.8;
	return "$sql PREPARE TRANSACTION '$id';\n"
	  . ($end < 0.95 ? 'COMMIT' : 'ROLLBACK')
	  . " PREPARED '$id';";
}

sub random_changes
{
	my ($depth) = @_;
	my $sql = '';

	foreach (0 .. int(rand(4)))
	{
		my ($item, $quantity) = (1 + int(rand(60)), int(rand(1000)));
		my $shelf = rand() < 0.1 ? 'NULL' : sprintf q{'shelf %d'}, rand(5);
		my $row   = "INSERT INTO shop.stock AS s VALUES ($item, $shelf, $quantity) ON CONFLICT (item)";
		my $dice  = int(rand(8));

		$sql .=
		    $dice == 0 ? "$row DO NOTHING;\n"
		  : $dice <= 2 ? "$row DO UPDATE SET shelf = excluded.shelf, quantity = excluded.quantity;\n"
		  : $dice == 3 ? "UPDATE shop.stock SET shelf = $shelf WHERE item = $item;\n"
		  : $dice == 4 ? "UPDATE shop.stock SET quantity = nullif($quantity, 500) WHERE item BETWEEN $item AND $item + 5;\n"
		  : $dice == 5 ? "DELETE FROM shop.stock WHERE item = $item;\n"
		  : $depth < 4 ? "SAVEPOINT s$depth;\n"
		  . random_changes($depth + 1)
		  . (rand() < 0.5 ? 'ROLLBACK TO' : 'RELEASE') . " SAVEPOINT s$depth;\n"
		  : '';
	}
	return $sql;
}
