
# What one pipeline's query does to the worker, and to the others; and the place
# in the WAL that is lost and found again without help.
#
# - 55: a function that ends its process, by a FATAL error, by taking all memory
#   or by kill -9, which takes the server down with it: after three times in a
#   row the pipeline is failed and says so, and the others go on;
# - 54: a worker that is ended from outside in the middle of a run again and
#   again comes back, and its pipeline is not blamed;
# - 55: a worker killed while it looks for the rows of a batch that make the
#   query fail: each is diverted once;
# - 33: a pipeline whose query fails beside healthy ones;
# - 39, 81: with on_lost => 'rebuild' a slot that is dropped or moved, too much
#   WAL, and an aggregate that went wrong are mended without help, once at once,
#   then only after a while; a pause, and a source that cannot be followed, last.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IncBatch;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_node('main', 'incbatch.max_retained_wal' => '64MB', log_min_messages => 'log');
$node->start;
create_extension($node, 'postgres');
$node->safe_psql(
	'postgres', q{
CREATE SCHEMA shop;
CREATE TABLE shop.events (id int PRIMARY KEY, k int, v text);
ALTER TABLE shop.events REPLICA IDENTITY FULL;
INSERT INTO shop.events SELECT i, i % 5, i::text FROM generate_series(1, 1000) AS i;
-- what a query calls is immutable; what that calls is not asked
CREATE FUNCTION shop.kill_process() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID';
END $$;
CREATE FUNCTION shop.act(v text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF v = 'fatal' THEN
		PERFORM pg_terminate_backend(pg_backend_pid());
	ELSIF v = 'memory' THEN
		RAISE 'out of memory' USING ERRCODE = 'out_of_memory';
	ELSIF v = 'kill' THEN
		PERFORM shop.kill_process();
	ELSIF v = 'wait' THEN
		PERFORM pg_advisory_xact_lock_shared(1);
	END IF;
END $$;
CREATE FUNCTION shop.length_of(v text) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	PERFORM shop.act(v);
	RETURN length(v);
END $$;
});
$query{'shop.poisoned'} = 'SELECT k, count(*), sum(shop.length_of(v)) FROM shop.events GROUP BY k';
$query{'shop.healthy'}  = 'SELECT k, count(*), max(v) FROM shop.events GROUP BY k';
$query{'shop.also'}     = 'SELECT k % 2 AS odd, count(*) FROM shop.events GROUP BY 1';
my @healthy = ('shop.healthy', 'shop.also');
create_pipeline($node, 'postgres', $_, $query{$_}, trigger_interval => '0')
  foreach 'shop.poisoned', @healthy;
are_exact($node, 'postgres', [ 'shop.poisoned', @healthy ], 'to begin with');

# ---------------------------------------------------------------------------
# Queries that end the worker

my $id = 10_000;
foreach my $way ('fatal', 'memory', 'kill')
{
	my $before = log_length();

	$id++;
	$node->safe_psql('postgres', "INSERT INTO shop.events VALUES ($id, 1, '$way')");
	my $began = time;
	until_alive(sub { differences($node, 'postgres', 'shop.healthy', no_refresh => 1) eq '' })
	  or fail("55: $way: the healthy pipeline never was exact");
	diag sprintf '%s: the healthy pipeline had the row after %.1f s', $way, time - $began;
	until_alive(sub { state_of('shop.poisoned') eq 'failed' });
	diag sprintf '%s: the poisoned one failed after %.1f s', $way, time - $began;
	like(
		last_error('shop.poisoned'),
		qr/the worker ended 3 times in a row .*resume_pipeline/,
		"55: $way: the pipeline is stopped, and says why");
	is(log_count($before, qr/incbatch worker" \(PID \d+\) (exited with exit code 1|was terminated by signal 9)/),
		3, "55: $way: after three times");
	is(log_count($before, qr/server process .*terminated|all server processes terminated; reinitializing/),
		$way eq 'kill' ? 3 : 0, "55: $way: the server came up again");
	are_exact($node, 'postgres', \@healthy, "55: $way: the others are exact");
	is(log_count($before, qr/incbatch worker" \(PID \d+\) (exited with exit code 1|was terminated by signal 9)/),
		3, "55: $way: and the worker lives");

	# The cause goes, and it goes on from where it was.
	$node->safe_psql('postgres', "UPDATE shop.events SET v = v WHERE id < 10");
	my $act = $node->safe_psql('postgres', q{SELECT pg_get_functiondef('shop.act'::regproc)});
	$node->safe_psql('postgres',
		q{CREATE OR REPLACE FUNCTION shop.act(v text) RETURNS void LANGUAGE sql AS ''; SELECT incbatch.resume_pipeline('shop.poisoned')});
	are_exact($node, 'postgres', ['shop.poisoned'], "81: $way: resumed");
	$node->safe_psql('postgres', "DELETE FROM shop.events WHERE id >= 10000");
	are_exact($node, 'postgres', ['shop.poisoned'], "81: $way: without the row");
	$node->safe_psql('postgres', $act);
}

# ---------------------------------------------------------------------------
# A worker that is ended from outside

my $holder = session($node, 'postgres');
ask($holder, 'SELECT pg_advisory_lock(1)');
$node->safe_psql('postgres', "INSERT INTO shop.events VALUES (10000, 1, 'wait')");
my $pid = '';
foreach my $n (1 .. 3)
{
	$pid = waiting_worker($pid);
	kill_process('TERM', $pid);
}
waiting_worker($pid);
is(state_of('shop.poisoned'), 'running', '54: nobody is blamed for SIGTERM from outside');
ask($holder, 'SELECT pg_advisory_unlock(1)');
are_exact($node, 'postgres', [ 'shop.poisoned', @healthy ], '54: after it');

# ---------------------------------------------------------------------------
# A worker killed while it halves a batch

$query{'shop.diverts'} =
  'SELECT k, count(*), sum(shop.length_of(v) + CASE v WHEN $$wait$$ THEN 0 ELSE v::int END) FROM shop.events GROUP BY k';
$node->safe_psql('postgres', q{DELETE FROM shop.events WHERE id >= 10000; SELECT incbatch.drop_pipeline('shop.poisoned')});
create_pipeline($node, 'postgres', 'shop.diverts', $query{'shop.diverts'}, trigger_interval => '0', on_error => 'divert');
are_exact($node, 'postgres', ['shop.diverts'], 'a pipeline that diverts');
ask($holder, 'SELECT pg_advisory_lock(1)');
$node->safe_psql(
	'postgres', q{
INSERT INTO shop.events SELECT i, i % 5, CASE WHEN i % 100 = 50 THEN 'bad ' || i WHEN i = 10275 THEN 'wait' ELSE i::text END
  FROM generate_series(10000, 10499) AS i;});
$pid = waiting_worker('');
my $offset = -s $node->logfile;
kill_process('KILL', $pid);
$node->wait_for_log(qr/database system is ready to accept connections/, $offset);
end_session($holder);
until_alive(
	sub {
		$node->safe_psql('postgres', q{SELECT count(*) FROM incbatch.failed_rows WHERE left_out}) eq '5';
	});
my $good = $query{'shop.diverts'} =~ s/shop\.events/(SELECT * FROM shop.events WHERE v NOT LIKE 'bad%' OFFSET 0) AS e/r;
is(differences($node, 'postgres', 'shop.diverts', query => $good), '', '55: killed while halving: exact without the rows');
is( $node->safe_psql(
		'postgres', q{
SELECT string_agg(row->>'v', ' ' ORDER BY row->>'v') || ' ' || count(*) || ' ' || min(sqlstate) || ' ' || count(commit_time)
  FROM incbatch.failed_rows}),
	'bad 10050 bad 10150 bad 10250 bad 10350 bad 10450 5 22P02 5',
	'55: each row is diverted once');
$node->safe_psql('postgres', q{UPDATE shop.events SET v = 0 WHERE v LIKE 'bad%'});
are_exact($node, 'postgres', [ 'shop.diverts', @healthy ], '55: what was bad and is good is in');

# ---------------------------------------------------------------------------
# An error beside healthy pipelines

$query{'shop.fails'} = 'SELECT 1 / (id - 20000) AS part, count(*) FROM shop.events GROUP BY 1';
create_pipeline($node, 'postgres', 'shop.fails', $query{'shop.fails'}, trigger_interval => '0');
are_exact($node, 'postgres', ['shop.fails'], 'a pipeline that will fail');
my $began = time;
$node->safe_psql('postgres', q{INSERT INTO shop.events VALUES (20000, 1, 1)});
until_alive(sub { differences($node, 'postgres', 'shop.healthy', no_refresh => 1) eq '' });
diag sprintf 'error: the healthy pipeline had the row after %.1f s', time - $began;
wait_for_state($node, 'postgres', 'shop.fails', 'failed');
like(last_error('shop.fails'), qr/division by zero \(SQLSTATE 22012\).*resume_pipeline/, '33: the pipeline says why it failed');
are_exact($node, 'postgres', \@healthy, '33: the others are exact');
$node->safe_psql('postgres', q{
SELECT incbatch.alter_pipeline('shop.fails', on_error => 'divert');
SELECT incbatch.resume_pipeline('shop.fails')});
is(differences($node, 'postgres', 'shop.fails', query => $query{'shop.fails'} =~ s/shop\.events/(SELECT * FROM shop.events WHERE id <> 20000 OFFSET 0) AS e/r),
	'', '81: it goes on without the row');
$node->safe_psql('postgres', q{DELETE FROM shop.events WHERE id = 20000; SELECT incbatch.drop_pipeline('shop.fails')});

# ---------------------------------------------------------------------------
# The place in the WAL is lost

my $slot = slot_name($node, 'postgres');
$node->safe_psql('postgres', q{
SELECT incbatch.drop_pipeline('shop.diverts');
SELECT incbatch.alter_pipeline('shop.healthy', on_lost => 'rebuild');
CREATE TABLE shop.names (k int PRIMARY KEY, name text);
INSERT INTO shop.names SELECT i, 'name ' || i FROM generate_series(0, 4) AS i});
$query{'shop.named'} = 'SELECT name, count(*) FROM shop.events LEFT JOIN shop.names USING (k) GROUP BY name';
create_pipeline($node, 'postgres', 'shop.named', $query{'shop.named'}, trigger_interval => '0', on_lost => 'rebuild');
are_exact($node, 'postgres', [ @healthy, 'shop.named' ], 'before anything is lost');

foreach my $case (
	[ 'dropped', "SELECT pg_drop_replication_slot('$slot')" ],
	[ 'advanced', "SELECT pg_replication_slot_advance('$slot', pg_current_wal_flush_lsn())" ])
{
	my ($what, $sql) = @$case;

	forget_rebuilds('shop.healthy', 'shop.named');
	library('');
	$node->safe_psql('postgres', "UPDATE shop.events SET v = id + length('$what'); INSERT INTO shop.events SELECT max(id) + 1, 2, 2 FROM shop.events; $sql");
	library('incbatch');
	are_exact_at_last([ 'shop.healthy', 'shop.named' ], "39: slot $what: rebuilt without help");
	wait_for_state($node, 'postgres', 'shop.also', 'needs_rebuild');
	$node->safe_psql('postgres', q{SELECT incbatch.rebuild_pipeline('shop.also')});
	are_exact($node, 'postgres', ['shop.also'], "81: slot $what: rebuilt by call");
}

# An aggregate that went wrong: a lookup moved rows that were counted.
forget_rebuilds('shop.named');
my $before = log_length();
$node->safe_psql('postgres', q{
UPDATE shop.names SET name = 'other' WHERE k = 3;
DELETE FROM shop.events WHERE k = 3});
are_exact_at_last(['shop.named'], '81: a group that would hold less than nothing: rebuilt');
# Again at once: now it waits, and any call brings it back.
$node->safe_psql('postgres', q{
UPDATE shop.names SET name = 'another' WHERE k = 2;
DELETE FROM shop.events WHERE k = 2});
wait_for_state($node, 'postgres', 'shop.named', 'needs_rebuild');
like(last_error('shop.named'), qr/rebuilt by itself, or at once by incbatch.rebuild_pipeline/, '81: it says that it will be');
my $look = session($node, 'postgres');
until_clock($look, 3);
is(state_of('shop.named'), 'needs_rebuild', '39: not in a loop');
is(log_count($before, qr/is rebuilt, for its place/), 1, '39: rebuilt once');
$node->safe_psql('postgres', q{SELECT incbatch.rebuild_pipeline('shop.named')});
are_exact($node, 'postgres', ['shop.named'], '81: rebuilt by call');

# Too much WAL, of a paused pipeline: rebuilt when it is resumed.
forget_rebuilds('shop.named');
$node->safe_psql('postgres', q{SELECT incbatch.pause_pipeline('shop.named'); UPDATE shop.events SET v = 'more ' || id});
$node->safe_psql('postgres', "SELECT pg_logical_emit_message(true, 'fill', '$_'); SELECT pg_switch_wal()") foreach 1 .. 6;
wait_for_state($node, 'postgres', 'shop.named', 'needs_rebuild');
until_clock($look, 2);
is(state_of('shop.named'), 'needs_rebuild', '39: not while it is paused');
$node->safe_psql('postgres', q{SELECT incbatch.resume_pipeline('shop.named')});
are_exact_at_last(['shop.named'], '39: too much WAL: rebuilt when resumed');

# A source that cannot be followed: no rebuild mends it, until it can.
forget_rebuilds('shop.named', 'shop.healthy');
$before = log_length();
$node->safe_psql('postgres', q{ALTER TABLE shop.events SET UNLOGGED});
until_alive(sub { log_count($before, qr/is rebuilt, for its place/) >= 2 });
until_clock($look, 3);
is(state_of($_), 'needs_rebuild', "39: $_: the source is unlogged") foreach 'shop.named', 'shop.healthy';
is(log_count($before, qr/is rebuilt, for its place/), 2, '39: tried once each');
$node->safe_psql('postgres', q{ALTER TABLE shop.events SET LOGGED; UPDATE shop.events SET k = 4 WHERE id < 50});
forget_rebuilds('shop.named', 'shop.healthy');
are_exact_at_last([ 'shop.named', 'shop.healthy' ], '81: and mended when it can be followed again');

end_session($look);
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

# Poll, also while the server is down.
sub until_alive
{
	my ($code) = @_;

	return until_holds
	{
		my $result = eval { $code->() };
		return $result;
	};
}

sub state_of
{
	my ($name) = @_;

	return $node->safe_psql('postgres', "SELECT state FROM incbatch.pipelines WHERE pipeline = '$name'");
}

sub last_error
{
	my ($name) = @_;

	return $node->safe_psql('postgres', "SELECT last_error FROM incbatch.pipelines WHERE pipeline = '$name'");
}

sub log_length
{
	return length slurp_file($node->logfile);
}

# How many lines of the server's log match, from an offset on.
sub log_count
{
	my ($from, $pattern) = @_;

	return scalar(() = slurp_file($node->logfile, $from) =~ /^.*(?:$pattern)/mg);
}

# Wait for a worker, another than $old, that waits for the holder; its pid.
sub waiting_worker
{
	my ($old) = @_;
	my $found = '';

	until_alive(
		sub {
			$found = $node->safe_psql('postgres',
				"SELECT pid FROM pg_stat_activity WHERE backend_type = 'incbatch worker' AND wait_event = 'advisory'");
			return $found ne '' && $found ne $old;
		});
	return $found;
}

# As if the last rebuild were long ago.
sub forget_rebuilds
{
	my (@names) = @_;

	$node->safe_psql(
		'postgres', qq{
UPDATE incbatch.path SET rebuilt_at = rebuilt_at - interval '3 hours'
 WHERE pipeline IN (SELECT id FROM incbatch.pipeline WHERE relation::text = '$_');
SELECT incbatch.alter_pipeline('$_', on_lost => 'rebuild')}) foreach @names;
	return;
}

# Pipelines become exact without help; a refresh may meet them before.
sub are_exact_at_last
{
	my ($names, $label) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	foreach my $name (@$names)
	{
		until_alive(sub { state_of($name) eq 'running' && differences($node, 'postgres', $name) eq '' });
		is(differences($node, 'postgres', $name), '', "$label: $name");
	}
	return;
}

# Restart the node with, or without, the library.
sub library
{
	my ($libraries) = @_;

	$node->stop;
	set_conf($node, shared_preload_libraries => $libraries);
	$node->start;
	return;
}
