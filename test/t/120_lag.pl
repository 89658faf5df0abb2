
# incbatch.lag tells slow from dead.
#
# Pipelines at a trigger of two seconds, watched by a member of pg_monitor.  The
# worker is stopped while nothing is written and while something is, ended
# while the launcher cannot start another, killed, kept from a state table by a
# lock, left without a process by max_worker_processes, busy with the backfill
# of another pipeline, and given a query that divides by zero.
# Proves: within two triggers the status is the right word, idle stays fresh,
# pipelines that are not concerned stay fresh, every state has a way out, and
# what the worker saw it told who listens.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IncBatch;
use Test::More;
use Time::HiRes qw(time);

my $trigger = 2;

# Beyond two triggers, for a machine that has other things to do.
my $slack = 10;

# Two for the launchers, two for the workers, one more.
my $node = new_node('main', max_worker_processes => 5);
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE other; CREATE ROLE looker IN ROLE pg_monitor');

foreach my $db ('postgres', 'other')
{
	$node->safe_psql(
		$db, q{
CREATE EXTENSION incbatch;
CREATE SCHEMA shop;
GRANT USAGE ON SCHEMA shop TO PUBLIC;
CREATE TABLE shop.orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int);
CREATE TABLE shop.parcels (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int);
CREATE TABLE shop.gate ();
ALTER TABLE shop.orders REPLICA IDENTITY FULL;
ALTER TABLE shop.parcels REPLICA IDENTITY FULL;
INSERT INTO shop.orders (v) SELECT 1 FROM generate_series(1, 10);
INSERT INTO shop.parcels (v) SELECT 1 FROM generate_series(1, 10);
});
}
$query{'shop.hurt'}  = 'SELECT v, count(*) AS n, sum(100 / v) AS part FROM shop.orders GROUP BY v';
$query{'shop.other'} = 'SELECT v, count(*) AS n FROM shop.parcels GROUP BY v';
my $listener = session($node, 'postgres');
ask($listener, 'LISTEN incbatch_status');

create_pipeline($node, 'postgres', $_, $query{$_}, trigger_interval => "$trigger seconds")
  foreach 'shop.hurt', 'shop.other';
create_pipeline($node, 'other', 'shop.other', $query{'shop.other'}, trigger_interval => "$trigger seconds");
wait_for_state($node, 'postgres', $_, 'running') foreach 'shop.hurt', 'shop.other';
wait_for_state($node, 'other', 'shop.other', 'running');

my ($look, $elsewhere) = lookers();
turns($look, 'shop.hurt', 'fresh', 'to begin with');

# What a person sees of the worker.
ok(until_true($look, q{
SELECT activity = 'waiting for changes' AND state = 'running' AND restarts = 0 FROM incbatch.workers WHERE database = 'postgres'}),
	'the worker waits for changes');
ok($node->poll_query_until('postgres', q{
SELECT application_name = 'incbatch worker' AND wait_event_type = 'Extension' AND state = 'idle' AND query = 'waiting for changes'
  FROM pg_stat_activity WHERE backend_type = 'incbatch worker' AND datname = 'postgres'}),
	'pg_stat_activity shows it');

# ---------------------------------------------------------------------------
# Stopped

my $worker = wait_for_worker($node, 'postgres');
my $nothing = 't';
foreach (1 .. 10)
{
	# Others of the server write now and then: then it is not this case.
	until_true($look, q{SELECT backlog_bytes = 0 FROM incbatch.lag WHERE pipeline = 'shop.hurt'});
	kill_process('STOP', $worker);
	until_clock($look, 2 * $trigger);
	$nothing = ask($look, q{SELECT backlog_bytes = 0, status FROM incbatch.lag WHERE pipeline = 'shop.hurt'});
	last if $nothing =~ /^t/;
	kill_process('CONT', $worker);
}
is($nothing, 't|fresh', 'stopped while nothing is written: fresh');
is(worker_state($look), 'not responding', 'stopped: the worker does not respond');
poke('shop.orders');
turns($look, 'shop.hurt', 'stuck', 'stopped');
like(reason($look, 'shop.hurt'), qr/does not respond/, 'stopped: the reason');
stays_fresh('stopped');
kill_process('CONT', $worker);
turns($look, 'shop.hurt', 'fresh', 'going on');
is(worker_pid($node, 'postgres'), $worker, 'it is the same worker');
ok(ask($look, q{SELECT staleness < interval '1 minute' AND status_since > now() - interval '1 minute' FROM incbatch.lag WHERE pipeline = 'shop.hurt'}),
	'going on: fresh since it goes on');

# ---------------------------------------------------------------------------
# Ended, and nobody starts another

my $launcher = launcher_pid($node);
kill_process('STOP', $launcher);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
ok(until_true($look, q{SELECT pid IS NULL FROM incbatch.workers WHERE database = 'postgres'}), 'the worker is gone');
is(worker_state($look), 'not running', 'gone: the worker');
like(ask($look, q{SELECT count(*) FROM incbatch.lag WHERE staleness > interval '1 minute'}),
	qr/^0$/, 'gone: what it had shown still holds');
poke('shop.orders');
turns($look, 'shop.hurt', 'stuck', 'gone');
like(reason($look, 'shop.hurt'), qr/no worker runs/, 'gone: the reason');
stays_fresh('gone');

# Somebody else takes the process that it had.
my $keeper = session($node, 'postgres');
ask($keeper, 'BEGIN; LOCK TABLE shop.gate');
my @guests = map { guest() } 1 .. 2;
kill_process('CONT', $launcher);
ok(until_true($look, q{SELECT state = 'no worker slot' FROM incbatch.workers WHERE database = 'postgres'}),
	'no process is left: the worker');
is(status($look, 'shop.hurt'), 'stuck', 'no process is left: stuck');
my ($reached, $said);
$node->psql('postgres', q{SELECT incbatch.wait_for('shop.hurt', timeout => '500 ms')},
	stdout => \$reached, stderr => \$said);
is($reached, 'f', 'no process is left: who waits, waits');
is(scalar(() = $said =~ /NOTICE:  no incbatch worker can be started for this database/g), 1,
	'no process is left: and is told so once');
stays_fresh('no process is left');
ask($keeper, 'COMMIT');
turns($look, 'shop.hurt', 'fresh', 'a process is free again');
end_session($keeper, @guests);

# ---------------------------------------------------------------------------
# Killed

{
	my $offset = -s $node->logfile;

	poke('shop.orders');
	kill_process('KILL', wait_for_worker($node, 'postgres'));
	$node->wait_for_log(qr/database system is ready to accept connections/, $offset);
	end_session($look, $elsewhere, $listener);
	$listener = session($node, 'postgres');
	ask($listener, 'LISTEN incbatch_status');
	($look, $elsewhere) = lookers();
	turns($look, 'shop.hurt', 'fresh', 'after the crash');
	are_exact($node, 'postgres', ['shop.hurt', 'shop.other'], 'after the crash');
}

# ---------------------------------------------------------------------------
# Kept from it by a lock

{
	my $holder = session($node, 'postgres');

	ask($holder, 'BEGIN; LOCK TABLE shop.hurt_state IN SHARE MODE');
	poke('shop.orders', 'shop.parcels');
	turns($look, 'shop.hurt', 'stuck', 'locked');
	like(reason($look, 'shop.hurt'), qr/^shop\.hurt_state is locked by process \d+$/, 'locked: the reason');
	is(status($look, 'shop.other'), 'fresh', 'locked: the other pipeline');
	stays_fresh('locked');
	is(worker_state($look), 'running', 'locked: the worker');
	ok(until_true($look, q{
SELECT activity LIKE 'waiting until path % gets its locks' FROM incbatch.workers WHERE database = 'postgres'}),
		'locked: what the worker does');
	ok(told('shop.hurt', 'stuck'), 'it was told that it is stuck');
	ask($holder, 'COMMIT');
	turns($look, 'shop.hurt', 'fresh', 'the lock is gone');
	end_session($holder);
	ok(told('shop.hurt', 'fresh'), 'and that it is fresh again');
}

# ---------------------------------------------------------------------------
# Busy with another: slow, not dead

$query{'shop.slow'} = 'SELECT shop.slowly(v) AS v, count(*) AS n FROM shop.parcels GROUP BY 1';
$node->safe_psql(
	'postgres', q{
CREATE FUNCTION shop.slowly(v int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE until timestamptz := clock_timestamp() + interval '1 s';
BEGIN
	WHILE clock_timestamp() < until LOOP END LOOP;
	RETURN v;
END $$});
create_pipeline($node, 'postgres', 'shop.slow', $query{'shop.slow'}, trigger_interval => '1 hour');
ok(until_true($look, q{SELECT state = 'backfilling' AND activity LIKE 'backfilling path %' FROM incbatch.workers WHERE database = 'postgres'}),
	'another is backfilled');
is(status($look, 'shop.slow'), 'backfilling', 'busy: the one that is backfilled');
poke('shop.orders');
turns($look, 'shop.hurt', 'falling behind', 'busy');
like(reason($look, 'shop.hurt'), qr/backfilling path/, 'busy: the reason');
{
	my $dead = 0;
	while (status($look, 'shop.slow') eq 'backfilling')
	{
		$dead++ if status($look, 'shop.hurt') eq 'stuck';
		until_clock($look, 0.2);
	}
	is($dead, 0, 'busy: never taken for dead');
}
turns($look, 'shop.hurt', 'fresh', 'not busy any more');
$node->safe_psql('postgres', q{SELECT incbatch.drop_pipeline('shop.slow')});

# ---------------------------------------------------------------------------
# An error of its own

$node->safe_psql('postgres', 'INSERT INTO shop.orders (v) VALUES (0)');
poke('shop.parcels');
turns($look, 'shop.hurt', 'failed', 'a division by zero');
like(reason($look, 'shop.hurt'), qr/division by zero/, 'a division by zero: the reason');
turns($look, 'shop.other', 'fresh', 'a division by zero: the other pipeline');
stays_fresh('a division by zero');
ok(told('shop.hurt', 'failed'), 'it was told that it failed');
is( $node->safe_psql('postgres', q{
CREATE ROLE stranger; SET ROLE stranger; SELECT restarts, last_error FROM incbatch.workers WHERE database = 'postgres'}),
	'1|', 'the worker was started again, and not everybody sees why');
is( $node->safe_psql('postgres', q{SELECT last_error FROM incbatch.workers WHERE database = 'postgres'}),
	'division by zero', 'but who sees all does');
like( $node->safe_psql('postgres', q{SELECT error FROM incbatch.batches WHERE error IS NOT NULL}),
	qr/^division by zero/, 'the batch that failed is kept');
$node->safe_psql('postgres', q{DELETE FROM shop.orders WHERE v = 0; SELECT incbatch.rebuild_pipeline('shop.hurt')});
turns($look, 'shop.hurt', 'fresh', 'rebuilt');
are_exact($node, 'postgres', [ 'shop.hurt', 'shop.other' ], 'in the end');

# ---------------------------------------------------------------------------
# Consumers come and go, and there is room for those that are there

foreach my $i (1 .. 16)
{
	ask($listener, "SELECT incbatch.create_consumer('guest $i', 'shop.other', freshness => '1 hour')");
	told('shop.other', 'fresh', "guest $i") or fail("guest $i was told of");
	ask($listener, "SELECT incbatch.drop_consumer('guest $i', 'shop.other')");
}
ask($listener, q{SELECT incbatch.create_consumer('last', 'shop.other', freshness => '1 hour')});
ok(told('shop.other', 'fresh', 'last'), 'the one that comes after many is told of');

end_session($look, $elsewhere, $listener);
$node->stop;
done_testing();

# Sessions of who may monitor in the two databases.
sub lookers
{
	my @sessions = map { session($node, $_) } 'postgres', 'other';

	ask($_, 'SET ROLE looker') foreach @sessions;
	return @sessions;
}

sub status
{
	my ($session, $name) = @_;

	return ask($session, "SELECT status FROM incbatch.lag WHERE pipeline = '$name'");
}

sub reason
{
	my ($session, $name) = @_;

	return ask($session, "SELECT reason FROM incbatch.lag WHERE pipeline = '$name'");
}

sub worker_state
{
	my ($session) = @_;

	return ask($session, q{SELECT state FROM incbatch.workers WHERE database = 'postgres'});
}

# Commit a row to each of some tables.
sub poke
{
	my (@tables) = @_;

	$node->safe_psql('postgres', "INSERT INTO $_ (v) VALUES (2)") foreach @tables;
	return;
}

# Within two triggers the pipeline has this status.
sub turns
{
	my ($session, $name, $status, $label) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $start = time;
	my $found = until_true($session,
		"SELECT status = '$status' FROM incbatch.lag WHERE pipeline = '$name'", 60);
	my $taken = time - $start;

	ok($found, "$label: $name is $status")
	  or diag ask($session, "SELECT l::text FROM incbatch.lag l WHERE pipeline = '$name'");
	cmp_ok($taken, '<', 2 * $trigger + $slack, "$label: within two triggers");
	note sprintf '%s: %s after %.1f s', $label, $status, $taken;
	return;
}

# The database that it does not concern has changes, too.
sub stays_fresh
{
	my ($label) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$node->safe_psql('other', 'INSERT INTO shop.parcels (v) VALUES (3)');
	is(status($elsewhere, 'shop.other'), 'fresh', "$label: another database stays fresh");
	return;
}

# A session whose query holds a background process until the gate opens.
sub guest
{
	my $session = session($node, 'postgres');

	ask($session, q{
CREATE OR REPLACE FUNCTION shop.pass() RETURNS bigint LANGUAGE plpgsql PARALLEL SAFE AS $$
DECLARE n bigint;
BEGIN
	EXECUTE 'SELECT count(*) FROM shop.gate' INTO n;
	RETURN n;
END $$});
	# one setting, which got its second name in 16
	ask($session, q{
SELECT set_config(name, 'on', false) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query')});
	send_sql($session, 'SELECT shop.pass()');
	$node->poll_query_until('postgres', q{
SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE 'SELECT shop.pass%' AND wait_event_type IN ('Lock', 'IPC')});
	return $session;
}

# Whether the listener was told, by now or a little later.
sub told
{
	my ($name, $status, $consumer) = @_;
	my $of  = defined $consumer ? qr/"consumer" : "\Q$consumer\E".*/ : qr//;
	my $end = time + 30;

	while (time < $end)
	{
		return 1
		  if ask($listener, 'SELECT 1') =~ /"pipeline" : "\Q$name\E".*$of"to" : "\Q$status\E"/;
		until_clock($look, 0.2);
	}
	return 0;
}
