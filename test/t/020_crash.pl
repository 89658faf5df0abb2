
# Exactly once, over crashes at random moments under load.
#
# Every loop runs pgbench, crashes the cluster in the middle of it, by turns
# with an immediate shutdown and with kill -9 of the incbatch worker, lets it
# recover and compares every aggregate with its query.  The loops cover, in all
# combinations:
# - synchronous_commit on (first half) and off (second half, with a WAL writer
#   that does nothing for 10 s: commits that are not flushed are lost);
# - no other transaction, an open one (it keeps the slot from moving on, so
#   that applied transactions are decoded again), a prepared one;
# - a backfill under way, of a pipeline created just before;
# - a checkpoint shortly before, which makes the slot's position durable.
# Then the moment that async commits make dangerous: the slot's position is saved
# while the commit of the batch is not.
# Proves: no change is lost, none counts twice, no frontier goes back behind what
# was stored, nor stays behind what was shown, and everything comes up again
# without help.
#
# CRASH_LOOPS (default 40) is the number of crashes; CRASH_SEED repeats a run.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IncBatch;
use Test::More;

my $loops = $ENV{CRASH_LOOPS} || 40;
my $seed  = $ENV{CRASH_SEED}  || (time ^ $$);
my $orders = 5_000;

srand($seed);
diag "CRASH_LOOPS=$loops CRASH_SEED=$seed";

my $node = new_node('main');
$node->start;
create_shop($node, 'postgres', $orders);
create_pipelines(
	$node, 'postgres',
	'shop.thirds'      => '100 ms',
	'shop.spread'      => '200 ms',
	'shop.by_category' => '1 s');

# What the backfills read: enough that a crash finds them at work.
$node->safe_psql(
	'postgres', q{
CREATE TABLE shop.history (id bigint PRIMARY KEY, shelf int, amount int);
ALTER TABLE shop.history REPLICA IDENTITY FULL;
INSERT INTO shop.history SELECT i, i % 1000, i % 977 FROM generate_series(1, 200000) AS i;
CREATE SEQUENCE shop.history_id START 200001;
});
$query{'shop.shelves'} =
  'SELECT shelf, count(*) AS things, sum(amount) AS amount, max(amount) AS largest FROM shop.history GROUP BY shelf';
my %load_of = (
	%{ orders_load($node, 2 * $orders) },
	%{ bank_load() },
	history => [
		20, q{
\set shelf random(0, 999)
\set id random(1, 200000)
\set amount random(0, 976)
BEGIN;
INSERT INTO shop.history VALUES (nextval('shop.history_id'), :shelf, :amount);
UPDATE shop.history SET shelf = :shelf WHERE id = :id;
COMMIT;
} ]);

my %kills         = (stop => 0, kill => 0);
my $in_backfill   = 0;
my $transactions0 = $node->safe_psql('postgres', 'SELECT pg_current_xact_id()');

foreach my $loop (1 .. $loops)
{
	my $way      = $loop % 2 ? 'stop' : 'kill';
	my $held     = ('no', 'open', 'no', 'prepared')[ ($loop >> 1) % 4 ];
	my $backfill = $loop % 3 == 0;
	my @names    = @shop_pipelines;
	my $label    = "loop $loop ($way, $held other transaction"
	  . ($backfill ? ', backfill)' : ')');

	commits_are_lazy($node) if $loop == int($loops / 2) + 1;

	my $holder = hold($node, $held);
	my $look   = session($node, 'postgres');
	my $start  = ask($look, 'SELECT pg_current_wal_insert_lsn()');
	my $bench  = start_pgbench($node, 'postgres', \%load_of, '-c', 4, '-T', 120);

	# Crash at a random moment, measured in bytes of WAL.
	my $bytes = 20_000 + int(rand(800_000));
	until_true($look, "SELECT pg_current_wal_insert_lsn() > '$start'::pg_lsn + $bytes")
	  or BAIL_OUT('pgbench writes nothing');
	if (rand() < 0.5)
	{
		$bytes += int(rand(50_000));
		ask($look, 'CHECKPOINT');
		until_true($look, "SELECT pg_current_wal_insert_lsn() > '$start'::pg_lsn + $bytes");
	}
	if ($backfill)
	{
		# The crash is to meet the pipeline, not to lose its creation.
		local $ENV{PGOPTIONS} = '-c synchronous_commit=on';
		create_pipeline($node, 'postgres', 'shop.shelves', $query{'shop.shelves'},
			trigger_interval => '0');
		push @names, 'shop.shelves';
		if (rand() < 0.7)
		{
			# Wait until it is at work (or was: a fast machine).
			until_true($look,
				q{SELECT state IN ('backfilling', 'running') FROM incbatch.pipelines WHERE pipeline::text = 'shop.shelves'}
			);
		}
		$in_backfill++
		  if ask($look,
			q{SELECT state FROM incbatch.pipelines WHERE pipeline::text = 'shop.shelves'}
		  ) ne 'running';
	}

	my $worker = worker_pid($node, 'postgres');
	my %shown  = frontiers($node, 'postgres');

	# What anybody can see of a batch is flushed, whatever synchronous_commit says.
	my %stored = map { split /\|/, $_ } split /\n/, ask($look, q{
SELECT p.relation || '/' || f.path, (f.lsn - '0/0')::bigint
  FROM incbatch.frontier AS f
  JOIN incbatch.path AS a ON a.id = f.path
  JOIN incbatch.pipeline AS p ON p.id = a.pipeline});
	$kills{$way}++;
	if ($way eq 'stop')
	{
		$node->stop('immediate');
		stop_pgbench($bench);
		$node->start;
	}
	else
	{
		my $offset = -s $node->logfile;
		kill_process('KILL', $worker);
		$node->wait_for_log(qr/database system is ready to accept connections/, $offset);
	}
	wait_for_worker($node, 'postgres', $worker);
	stop_pgbench($bench);
	end_session($holder, $look);

	is(backward($node, \%stored), '', "$label: no stored frontier went back");
	$node->safe_psql('postgres',
		($loop & 8 ? 'ROLLBACK' : 'COMMIT') . q{ PREPARED 'held'})
	  if $held eq 'prepared';

	# The seam between backfill and stream closes with changes on both sides.
	my @wrong = grep { $_ ne '' }
	  map { differences($node, 'postgres', $_) } @names;
	is("@wrong", '', "$label: no difference");
	is(backward($node, \%shown), '', "$label: no frontier behind, after it");
	$node->safe_psql('postgres', q{SELECT incbatch.drop_pipeline('shop.shelves')})
	  if $backfill;
}

# A checkpoint leaves a record behind by which the slot can move on, and when it
# does it is saved.  Here that is with the batch of one order, for the other
# pipelines are beyond that record already.  Nothing may follow that batch in the
# WAL, or its commit is written all the same.
$node->safe_psql('postgres', "SELECT incbatch.alter_pipeline('$_', '1 hour')")
  foreach 'shop.thirds', 'shop.by_category';
$node->safe_psql('postgres', 'ALTER SYSTEM SET incbatch.batch_history = 0');
$node->reload;
my @others = grep { $_ ne 'shop.extremes' } @shop_pipelines;
foreach my $try (1 .. 3)
{
	my $insert = 'INSERT INTO shop.orders (product_id, region, amount_cents) VALUES (1, %s, 50)';
	my $look   = session($node, 'postgres');

	ask($look, sprintf $insert, "'before $try'");
	are_exact($node, 'postgres', \@shop_pipelines, "before unflushed commit $try");
	foreach (1 .. 2)
	{
		ask($look, 'CHECKPOINT');
		ask($look, "CALL incbatch.refresh_pipeline('$_')") foreach @others;
	}
	ask($look, sprintf $insert, "'lazy $try'");
	until_true($look, "SELECT EXISTS (SELECT FROM shop.extremes WHERE region = 'lazy $try')");
	$kills{stop}++;
	$node->stop('immediate');
	end_session($look);
	$node->start;
	are_exact($node, 'postgres', \@shop_pipelines, "unflushed commit $try");
}

# A test that never met what it is about proves nothing.
my $log = PostgreSQL::Test::Utils::slurp_file($node->logfile);
is(scalar(() = $log =~ /received immediate shutdown request/g),
	$kills{stop}, 'the immediate shutdowns are in the log');
is(scalar(() = $log =~ /was terminated by signal 9/g),
	$kills{kill}, 'the kills are in the log');
cmp_ok(
	$node->safe_psql('postgres', 'SELECT pg_current_xact_id()') -
	  $transactions0,
	'>', 10 * $loops,
	'the crashes came under load');
SKIP:
{
	skip 'too few loops to meet a backfill', 1 if $loops < 12;
	cmp_ok($in_backfill, '>', 0, "$in_backfill backfills were crashed");
}

# Nothing of ours is damaged underneath.
my ($ret, $stdout, $stderr) = $node->psql(
	'postgres', q{
CREATE EXTENSION amcheck;
SELECT count(*) > 0
  FROM (SELECT bt_index_check(i.indexrelid, true)
          FROM pg_index AS i
          JOIN pg_class AS c ON c.oid = i.indexrelid
          JOIN pg_am AS a ON a.oid = c.relam
         WHERE a.amname = 'btree' AND c.relpersistence = 'p'
           AND c.relnamespace IN ('shop'::regnamespace, 'incbatch'::regnamespace)) AS checked});
is("$ret $stdout $stderr", '0 t ', 'every index of the aggregates and the catalog is sound');
is(slot_count($node), 1, 'there is one slot, as before');

$node->stop;
done_testing();

# From here on a commit may be lost in a crash, for seconds after it returned.
sub commits_are_lazy
{
	my ($server) = @_;

	$server->safe_psql(
		'postgres', q{
ALTER SYSTEM SET synchronous_commit = off;
ALTER SYSTEM SET wal_writer_delay = '10s';
ALTER SYSTEM SET wal_writer_flush_after = '1GB';
SELECT pg_reload_conf();
});
	$server->poll_query_until('postgres',
		q{SELECT current_setting('synchronous_commit') = 'off'})
	  or BAIL_OUT('synchronous_commit stays on');
	return;
}

# A transaction beside the load: open in a session, which is returned, or
# prepared, or none.
sub hold
{
	my ($server, $how) = @_;
	my $changes = q{
BEGIN;
INSERT INTO shop.orders (product_id, region, amount_cents) SELECT i % 20 + 1, 'held', i FROM generate_series(1, 20) AS i;
UPDATE shop.orders SET amount_cents = amount_cents + 50 WHERE order_id <= 20};

	return if $how eq 'no';
	if ($how eq 'prepared')
	{
		$server->safe_psql('postgres', "$changes; PREPARE TRANSACTION 'held'");
		return;
	}
	my $session = session($server, 'postgres');
	ask($session, $changes);
	return $session;
}

# The paths whose frontier lies behind what it was; '' when there is none.
sub backward
{
	my ($server, $before) = @_;
	my %now = frontiers($server, 'postgres');

	return join "\n",
	  map { "$_: $before->{$_} became " . (defined $now{$_} ? $now{$_} : 'unknown') }
	  grep { !defined $now{$_} || $now{$_} < $before->{$_} }
	  sort keys %$before;
}
