
# Exactly once, whatever step the engine is ended at.
#
# Every point of src/fault.h, under load, is driven by three actions: an error of
# the system and, at the next try, kill -9 of the process that is there; and a wait
# in which the server is stopped immediately.  Afterwards every aggregate must equal
# its query.
# Meanwhile a second session looks, over and over:
# - what the accounts of a bank hold together never changes;
# - no group has less than one row;
# - no stored frontier goes back.
# Then FATAL and PANIC; a wait that ends when the setting changes, after which the
# same worker goes on; an error right before the commit, over and over; and who drops
# the extension while the worker reads its tables.
#
# Needs a build with -DINCBATCH_FAULTS, as test/check makes.  FAULT_ROUNDS
# (default 1) is how often all of it is done, each time at other moments;
# FAULT_SEED repeats a run; FAULT_POINTS names the points, if not all.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use Faults;
use IncBatch;
use PostgreSQL::Test::Utils;
use Test::More;

my $rounds = $ENV{FAULT_ROUNDS} || 1;
my $seed   = $ENV{FAULT_SEED}   || (time ^ $$);
my @chosen = split ' ', $ENV{FAULT_POINTS} || '';

srand($seed);
diag "FAULT_ROUNDS=$rounds FAULT_SEED=$seed";

# As much is flushed as otherwise, but the disk itself is not waited for.
my $node = new_node('main', fsync => 'off', 'incbatch.work_mem' => '256kB');
$node->start;
create_shop($node, 'postgres', 2000);
if (!open_faults($node))
{
	$node->stop;
	plan skip_all => 'this build has no fault points';
}
create_pipelines($node, 'postgres', 'shop.thirds' => '100 ms');
$node->safe_psql('postgres', q{SELECT incbatch.create_consumer('keeper', 'shop.by_category', freshness => '1 second')});

# A database whose pipeline comes and goes.
$node->safe_psql('postgres', 'CREATE DATABASE other');
create_extension($node, 'other');
$node->safe_psql('other', q{
CREATE TABLE visit (page int, guest text);
ALTER TABLE visit REPLICA IDENTITY FULL;
INSERT INTO visit SELECT i % 7, 'guest ' || i FROM generate_series(1, 100) AS i});
my $other = $node->safe_psql('postgres', q{SELECT oid FROM pg_database WHERE datname = 'other'});
$query{visits} = 'SELECT page, count(*) AS visits, max(guest) AS latest FROM visit GROUP BY page';

my %load      = (%{ orders_load($node, 4000) }, %{ bank_load() });
my $bench     = undef;
my @broken    = ();                # what the second session saw that must not be
my %driven    = ();
my $readers   = 0;

# How each point is come to, apart from the load, after how many passes, and which
# number of test/HAZARDS.md it is about.
my %way = (
	worker_wanted      => { provoke => \&end_worker },
	paths_read         => { provoke => \&end_worker },
	slot_made          => { provoke => \&create_visits },
	pipelines_gone     => { before  => \&running_visits, provoke => \&drop_visits },
	slot_dropped       => { before  => \&running_visits, provoke => \&drop_visits },
	decoding           => { hazard  => 4, passes => 60 },
	streaming          => { hazard  => 4, passes => 3, provoke => \&large_transaction },
	before_fold        => { hazard  => 1, passes => 5 },
	after_fold         => { hazard  => 1, passes => 5 },
	before_commit      => { hazard  => 1, passes => 5 },
	after_commit       => { hazard  => 2, passes => 5 },
	between_paths      => { hazard  => 14, passes => 5 },
	before_confirm     => { hazard  => 2, passes => 3 },
	after_confirm      => { hazard  => 2, passes => 3 },
	backfill_evaluated => { hazard  => 9, provoke => \&rebuild },
	backfill_emptied   => { hazard  => 9, provoke => \&rebuild },
	copied             => { hazard  => 14, provoke => \&create_reader, after => \&drop_readers },);

# The list of src/fault.h and the one above must be the same.
my @points = fault_points();
is(join(' ', sort @points), join(' ', sort keys %way), 'every fault point is driven');
@points = @chosen if @chosen;

foreach my $round (1 .. $rounds)
{
	foreach my $point (@points)
	{
		drive($point, 'error', 'kill9');
		drive($point, 'wait');
	}
}

SKIP:
{
	skip 'only some points were asked for', 1 if @chosen;
	drive('before_commit', 'fatal', 'panic');
	drive('after_fold', 'release');
	errors_before_commit();
	drop_extension();
}

is(join("\n", @broken), '', '1: what the second session saw in ' . looks() . ' looks was always right');
cmp_ok(looks(), '>', 3 * @points, 'and it did look');
is(scalar(grep { ($driven{$_} || 0) < 3 * $rounds } @points), 0, 'every point was met with every action');
is(slot_count($node), 1, 'no slot is left behind');
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

# Let all actions happen at a point, one after the other; afterwards all is as if
# they had not.
sub drive
{
	my ($point, @actions) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $way    = $way{$point};
	my $label  = ($way->{hazard} ? "$way->{hazard}: " : '') . "$point, " . join ' and ', @actions;
	my $worker = worker_pid($node, 'postgres');
	my $met    = 0;

	$way->{before}->() if $way->{before};
	load();
	foreach my $action (@actions)
	{
		my $nth    = 1 + int(rand($way->{passes} || 1));
		my $offset = -s $node->logfile;

		arm($node, "$point:" . ($action eq 'release' ? 'wait' : $action) . ":$nth");
		$way->{provoke}->() if $way->{provoke};
		$met += watch(sub { at_point($node, $point, $offset) });
	}
	is($met, scalar @actions, "$label: met");
	$driven{$point} += $met;

	if ($actions[0] eq 'wait' || $actions[0] eq 'release')
	{
		is( $node->safe_psql('postgres',
				"SELECT count(*) FROM pg_stat_activity WHERE query = 'waiting at fault point $point'"),
			1, "$label: it shows in pg_stat_activity");
		push @broken, look($node);
	}
	$node->stop('immediate') if $actions[0] eq 'wait';
	arm($node, '');
	$node->start if $actions[0] eq 'wait';
	until_answers($node);
	is(agreement(), '', "$label: exact");
	is(worker_pid($node, 'postgres'), $worker, "$label: the same worker goes on") if $actions[0] eq 'release';
	$way->{after}->() if $way->{after};
	return;
}

# An error while what was consumed is being folded in, again and again.
sub errors_before_commit
{
	my $offset = -s $node->logfile;
	my $errors = sub { scalar(() = slurp_file($node->logfile, $offset) =~ /at fault point before_commit/g) };

	load();
	arm($node, 'before_commit:error');
	watch(sub { $errors->() >= 3 });
	cmp_ok($errors->(), '>=', 3, '1: batches failed at their commit, one after the other');
	arm($node, '');
	$node->restart;		# or the launcher would take its time
	is(agreement(), '', '1: errors after changes were consumed: exact');
	return;
}

# A little of everything, as long as the server is there.
sub load
{
	return if $bench && pgbench_is_running($bench);
	stop_pgbench($bench) if $bench;		# a crash has
	$bench = start_pgbench($node, 'postgres', \%load, '-c', 2, '-R', 150, '-T', 600);
	return;
}

# Who drops the extension waits for the worker before he locks a table, or one of the
# two would end in a deadlock.
sub drop_extension
{
	my $dropper = session($node, 'other');
	my $pid     = ask($dropper, 'SELECT pg_backend_pid()');
	my $offset  = -s $node->logfile;

	running_visits();
	arm($node, 'paths_read:wait');
	$node->safe_psql('other', q{SELECT incbatch.alter_pipeline('visits', trigger_interval => '1 s')});
	ok(until_holds { at_point($node, 'paths_read', $offset) }, '83: the worker reads the pipelines');
	send_sql($dropper, 'SET client_min_messages = warning; DROP EXTENSION incbatch CASCADE');
	$node->poll_query_until('postgres', "SELECT count(*) > 0 FROM pg_locks WHERE pid = $pid AND NOT granted");
	is( $node->safe_psql('postgres', "SELECT DISTINCT locktype, granted FROM pg_locks WHERE pid = $pid AND locktype IN ('relation', 'object') AND mode = 'AccessExclusiveLock'"),
		'object|f', '83: who drops the extension has no table locked meanwhile');
	arm($node, '');
	is(ask($dropper, q{SELECT count(*) FROM pg_extension WHERE extname = 'incbatch'}), 0, '83: it is dropped');
	ok(worker_is_gone($node, $other), '83: and the worker goes');
	end_session($dropper);
	return;
}

# Look until something is so.
sub watch
{
	my ($code) = @_;

	return until_holds {
		return 1 if $code->();
		push @broken, look($node);
		load();
		return 0;
	};
}

# Every aggregate against its query: '' or what differs.  The database "other"
# has a pipeline or, with the worker, no slot.
sub agreement
{
	my @wrong;

	stop_pgbench($bench) if $bench;
	push @broken, look($node);
	push @wrong, grep { $_ ne '' } map { differences_settled($node, 'postgres', $_) } @shop_pipelines;
	if ($node->safe_psql('other', 'SELECT count(*) FROM incbatch.pipelines') > 0)
	{
		$node->safe_psql('other', q{
INSERT INTO visit VALUES (1, 'guest z'), (8, 'guest y');
DELETE FROM visit WHERE guest = 'guest 1';
UPDATE visit SET page = page + 1 WHERE guest = 'guest y'});
		push @wrong, grep { $_ ne '' } differences_settled($node, 'other', 'visits');
		$node->safe_psql('other', q{SELECT incbatch.drop_pipeline('visits')});
	}
	push @wrong, 'the database without pipelines has a slot' unless worker_is_gone($node, $other);
	return join "\n", @wrong;
}

sub end_worker
{
	try_psql($node, 'postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'incbatch worker' AND datname = 'postgres'});
	return;
}

sub create_visits
{
	try_psql($node, 'other', q{SELECT incbatch.drop_pipeline('visits', if_exists => true);}
		  . IncBatch::create_pipeline_sql('visits', $query{visits}, trigger_interval => '0'));
	return;
}

sub running_visits
{
	create_visits();
	wait_for_state($node, 'other', 'visits', 'running');
	return;
}

sub drop_visits
{
	try_psql($node, 'other', q{SELECT incbatch.drop_pipeline('visits')});
	return;
}

# Three megabytes of changes, which come in pieces before the commit.
sub large_transaction
{
	try_psql($node, 'postgres', q{
BEGIN;
INSERT INTO shop.orders (product_id, region, amount_cents) SELECT 1 + i % 20, shop.region(i % 6), i % 100 FROM generate_series(1, 20000) AS i;
SAVEPOINT a;
UPDATE shop.orders SET amount_cents = amount_cents + 50 WHERE order_id > (SELECT max(order_id) - 500 FROM shop.orders);
ROLLBACK TO a;
DELETE FROM shop.orders WHERE order_id > (SELECT max(order_id) - 19900 FROM shop.orders);
COMMIT});
	return;
}

sub rebuild
{
	try_psql($node, 'postgres', "SELECT incbatch.rebuild_pipeline('$_')") foreach 'shop.by_category', 'shop.totals';
	return;
}

# One more reader of a pipeline that has some, at a trigger that none has.
sub create_reader
{
	$readers++;
	try_psql($node, 'postgres', "SELECT incbatch.create_consumer('reader $readers', 'shop.by_category', freshness => '"
		  . (20 + $readers) . " seconds')");
	return;
}

sub drop_readers
{
	$node->safe_psql('postgres', q{SELECT incbatch.drop_consumer(consumer, pipeline) FROM incbatch.consumers WHERE consumer <> 'keeper'});
	return;
}
