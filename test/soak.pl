
# What test/soak runs: SOAK_MINUTES of random load and misfortune, from SOAK_SEED.
#
# The load is pgbench, over and over: single changes, savepoints, COPY, moves of
# money, two-phase commits and transactions so large that they come in pieces, with
# synchronous_commit on or off.  Beside it, every few seconds, one of:
# - kill -9 of the worker, the launcher or a client's backend; SIGTERM or a cancel
#   for the worker;
# - an immediate stop of the server;
# - any action at any point of src/fault.h, at a random pass;
# - a pipeline is rebuilt, paused and resumed, dropped and created, a consumer comes
#   or goes; a checkpoint.
# A second session looks all the time at what no crash may break (Faults.pm).  After
# each minute the load stops, every aggregate is compared with its query, and the
# orders are purged or truncated.

use strict;
use warnings;

# The modules send what is printed to a log; this is for test/soak.
our $out;
BEGIN { open $out, '>&', \*STDOUT or die "STDOUT: $!"; }

use FindBin;
use lib "$FindBin::RealBin/perl";
use Faults;
use IO::Handle;
use IncBatch;
use List::Util qw(sum0);
use Time::HiRes qw(time usleep);

my $end  = time + 60 * $ENV{SOAK_MINUTES};
my $seed = $ENV{SOAK_SEED};
my (%count, %fault, $bench, %load);
my @names  = @shop_pipelines;
my @points = grep { !/^slot|^pipelines/ } fault_points();    # there are always pipelines here

$out->autoflush;
srand($seed);
my $node = new_node('soak', 'incbatch.work_mem' => '256kB', checkpoint_timeout => '30s', max_prepared_transactions => 20);
$node->start;
create_shop($node, 'postgres', 4000);
open_faults($node) or die "this build has no fault points\n";
create_pipelines($node, 'postgres', 'shop.thirds' => '100 ms', 'shop.extremes' => '2 s');
my $xid = $node->safe_psql('postgres', 'SELECT pg_current_xact_id()');
%load = (
	%{ orders_load($node, 8000) }, %{ bank_load() },
	prepared => [
		5, q{
\set id random(1, 1000000000)
BEGIN;
INSERT INTO shop.orders (product_id, region, amount_cents) VALUES (:id % 21, 'prepared', 50);
UPDATE shop.orders SET region = NULL WHERE order_id = :id % 8000;
PREPARE TRANSACTION 'p:id';
COMMIT PREPARED 'p:id';
} ],
	pieces => [
		1, q{
BEGIN;
INSERT INTO shop.orders (product_id, region, amount_cents) SELECT i % 21, shop.region(i % 6), i FROM generate_series(1, 5000) AS i;
SAVEPOINT a;
DELETE FROM shop.orders WHERE order_id > (SELECT max(order_id) - 100 FROM shop.orders);
ROLLBACK TO a;
DELETE FROM shop.orders WHERE order_id > (SELECT max(order_id) - 4900 FROM shop.orders);
COMMIT;
} ],
	lazy => [ 5, "SET synchronous_commit = off;\n" ]);

my @misfortunes = (
	[ 'worker killed',   3, sub { signal('KILL', worker()) } ],
	[ 'launcher killed', 1, sub { signal('KILL', one(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'incbatch launcher'})) } ],
	[ 'backend killed',  1, sub { signal('KILL', one(q{SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbench' LIMIT 1})) } ],
	[ 'worker ended',    2, sub { signal('TERM', worker()) } ],
	[ 'worker cancelled', 1, sub { signal('INT', worker()) } ],
	[ 'immediate stop', 3, sub { $node->stop('immediate'); stop_load(); $node->start; return 1 } ],
	[ 'fault',          12, \&fault ],
	[ 'rebuild',        2, sub { sql("SELECT incbatch.rebuild_pipeline('" . pick(@names) . "')") } ],
	[ 'pause',          1, sub { my $name = pick(@names); sql("SELECT incbatch.pause_pipeline('$name')") && sql("SELECT incbatch.resume_pipeline('$name')") } ],
	[ 'drop and create', 1, sub { sql(q{BEGIN; SELECT incbatch.drop_pipeline('shop.thirds'); } . IncBatch::create_pipeline_sql('shop.thirds', $query{'shop.thirds'}, trigger_interval => '100 ms') . q{ COMMIT}) } ],
	[ 'consumer comes', 1, sub { sql(sprintf q{SELECT incbatch.create_consumer('c%d', 'shop.by_category', freshness => '%d seconds')}, $count{'consumer comes'} || 0, 1 + rand 30) } ],
	[ 'consumers go',   1, sub { sql(q{SELECT incbatch.drop_consumer(consumer, pipeline) FROM incbatch.consumers}) } ],
	[ 'rows held',      4, sub { sql(sprintf 'BEGIN; SELECT count(*) FROM (SELECT FROM %s_state FOR UPDATE) AS s; SELECT pg_sleep(%.1f); COMMIT', pick(@names), 0.2 + rand) } ],
	[ 'checkpoint',     1, sub { sql('CHECKPOINT') } ],);

my $minute = 0;
eval {
	run_minute() while time < $end;
	counters('total');
	$node->stop;
	1;
} or print $out "failed seed $seed: the run ends here: $@\n";
print $out "| $_: $fault{$_}\n" foreach sort keys %fault;

sub run_minute
{
	my $stop = time + 60;

	$stop = $end if $stop > $end;
	while (time < $stop)
	{
		load();
		usleep(rand 1_000_000);
		observe();
		my $misfortune = weighted();
		$count{ $misfortune->[0] }++ if $misfortune->[2]->();
		observe();
	}
	compare();
	counters('minute ' . ++$minute);
	return;
}

sub pick { return $_[ rand @_ ] }

sub weighted
{
	my $dice = rand(sum0(map { $_->[1] } @misfortunes));

	foreach (@misfortunes)
	{
		return $_ if ($dice -= $_->[1]) < 0;
	}
	return $misfortunes[-1];
}

# Run SQL, which a crash may end; was it done?
sub sql
{
	my ($sql) = @_;

	return (try_psql($node, 'postgres', "SET statement_timeout = '60s'; $sql"))[0] == 0;
}

# One value, '' while the server recovers.
sub one
{
	my ($sql) = @_;
	my ($ret, $stdout) = try_psql($node, 'postgres', $sql);

	return $ret == 0 ? $stdout : '';
}

sub worker { return one(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'incbatch worker'}) }

sub signal
{
	my ($signal, $pid) = @_;

	return $pid =~ /^[1-9]\d*$/ && kill($signal, $pid) == 1;
}

sub load
{
	return if $bench && pgbench_is_running($bench);
	stop_load();
	$bench = start_pgbench($node, 'postgres', \%load, '-c', 2 + int(rand(5)), '-R', 50 + int(rand(400)), '-T', 20);
	return;
}

sub stop_load
{
	stop_pgbench($bench) if $bench;
	$bench = undef;
	return;
}

# Some action at some point, if a process comes there within a few seconds.
sub fault
{
	my $point  = pick(@points);
	my $action = pick(qw(error fatal panic kill9 wait wait));
	my $offset = -s $node->logfile;
	my $until  = time + 4;
	my $met;

	arm($node, "$point:$action:" . (1 + int(rand($point eq 'decoding' ? 300 : $point =~ /backfill|copied|wanted/ ? 1 : 5))));
	sql("SELECT incbatch.rebuild_pipeline('" . pick(@names) . "')") if $point =~ /backfill/;
	sql(q{SELECT incbatch.drop_consumer(consumer, pipeline) FROM incbatch.consumers WHERE consumer = 'copy'})
	  && sql(q{SELECT incbatch.create_consumer('copy', 'shop.by_category', freshness => '40 seconds')})
	  if $point eq 'copied';
	signal('TERM', worker()) if $point eq 'worker_wanted';
	until ($met = at_point($node, $point, $offset) or time > $until)
	{
		load();
		observe();
	}
	if ($met && $action eq 'wait' && rand() < 0.7)
	{
		$node->stop('immediate');
		stop_load();
		arm($node, '');
		$node->start;
	}
	arm($node, '');
	$fault{"$point $action"}++ if $met;
	return $met;
}

sub observe
{
	my $before = looks();
	my @broken = look($node);

	failed("look: $_") foreach @broken;
	print $out 'passed ', looks() - $before, "\n" unless @broken;
	return;
}

sub failed
{
	my ($what) = @_;

	$count{differences}++;
	$what =~ s/\n/\n| /g;
	print $out "failed seed $seed: $what\n";
	return;
}

# The oracle; then the orders begin anew, or most of them go.
sub compare
{
	stop_load();
	until_answers($node);
	sql(q{SELECT incbatch.resume_pipeline(pipeline) FROM incbatch.pipelines WHERE state = 'paused'});
	foreach my $gid (split /\n/, one('SELECT gid FROM pg_prepared_xacts'))
	{
		sql((rand() < 0.5 ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$gid'");
	}
	foreach my $name (@names)
	{
		my $difference = differences_settled($node, 'postgres', $name);

		$count{comparisons}++;
		if ($difference eq '') { print $out "passed 1\n" }
		else                   { failed("$name: $difference") }
	}
	sql(pick('DELETE FROM shop.orders WHERE order_id > 8000', 'TRUNCATE shop.orders')
		  . q{; ALTER TABLE shop.orders ALTER order_id RESTART WITH 8001;
INSERT INTO shop.orders OVERRIDING SYSTEM VALUE SELECT i, 1 + i % 21, shop.region(1 + i % 5), i % 200 * 50 FROM generate_series(1, 8000) AS i ON CONFLICT DO NOTHING});
	return;
}

sub counters
{
	my ($what) = @_;
	my $now = one('SELECT pg_current_xact_id()');
	my %other = map { $_ => 1 } qw(comparisons differences fault);

	print $out "$what: ", join(', ',
		($now ? $now - $xid : '?') . ' transactions',
		map({ ($count{$_} || 0) . " $_" } qw(comparisons differences)),
		looks() . ' looks',
		sum0(values %fault) . ' faults',
		map({ "$count{$_} x $_" } grep { !$other{$_} } sort keys %count)), "\n";
	return;
}
