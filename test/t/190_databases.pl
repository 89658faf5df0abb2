
# What happens to databases, processes and resources around a worker.
#
# Proves, by the numbers of test/HAZARDS.md:
# - 54: a worker or launcher that gets any signal is back at once;
# - 56: every form of ALTER, CREATE and DROP DATABASE works at once while a
#   pipeline is busy, also from within the database itself; a database that is a
#   template or allows no connections has no worker, says so, and goes on when it
#   is one again that does;
# - 57: what others do to databases does not wait for decoding to end;
# - 58: a fast shutdown does not wait for a backfill;
# - 59: without a free slot, a lock table entry, memory or shared memory for a path it is
#   said once, the others go on, and it is over when there is room again;
# - 60: the extension may be updated, in vain or not, under a running worker, which
#   never runs pipelines of a version that it does not know.
#
# LIFE_LOOPS (1): how often each signal is sent, and the statements are repeated.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use Faults;
use File::Path qw(make_path);
use IncBatch;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $loops = $ENV{LIFE_LOOPS} || 1;
my $name  = 'shop.by_category';
my $other = 'shop.extremes';
my $busy  = 'shop.numbers_by_ten';
$query{$busy} = 'SELECT n % 10 AS ten, count(*) AS numbers, sum(n) AS sum FROM shop.numbers GROUP BY 1';

# What a statement may take on a machine that has other things to do.
my $quick = 30;

my $node = new_node('main', fsync => 'off');
$node->{_install_path} = installation_of_our_own();
$node->start;
my $look = session($node, 'postgres');
$node->safe_psql('postgres', 'CREATE DATABASE shops');
create_shop($node, 'shops');
create_pipeline($node, 'shops', $_, $query{$_}, trigger_interval => '0') foreach $name, $other;
are_exact($node, 'shops', [ $name, $other ], 'to begin with');

subtest '56: ALTER DATABASE' => sub {
	quick('ALTER DATABASE shops ALLOW_CONNECTIONS false');
	ok(until_true($look, "SELECT state = 'no connections allowed' AND pid IS NULL FROM incbatch_status()"),
		'56: without connections there is no worker, and it says why')
	  if create_status();
	my $offset = -s $node->logfile;
	$node->restart;
	quick('CREATE DATABASE unrelated');
	quick('DROP DATABASE unrelated');
	is(worker_pid($node, 'shops'), '', '56: nor after a restart');
	unlike(slurp_file($node->logfile, $offset), qr/not currently accepting connections/,
		'56: and nobody tries to connect');
	quick('ALTER DATABASE shops ALLOW_CONNECTIONS true');
	add_order('shops');
	are_exact($node, 'shops', [$name], '56: connections allowed again');

	end_session($look);
	$look = session($node, 'postgres');
	quick('ALTER DATABASE shops IS_TEMPLATE true');
	ok(until_true($look, "SELECT state = 'no connections allowed' FROM incbatch_status()"),
		'56: a template has no worker');
	quick('ALTER DATABASE shops WITH CONNECTION LIMIT 5 IS_TEMPLATE false');
	add_order('shops');
	are_exact($node, 'shops', [$name], '56: a template no more');
};

subtest '56: statements beside a backlog' => sub {
	foreach my $loop (1 .. $loops)
	{
		backlog('shops');
		quick('ALTER DATABASE shops RENAME TO stores');
		quick('DO $$ BEGIN ALTER DATABASE stores RENAME TO shops; END $$');
		quick('ALTER DATABASE shops ALLOW_CONNECTIONS false');
		quick('ALTER DATABASE shops ALLOW_CONNECTIONS true');

		# 8: whoever copies the database he is in copies it from under its worker.
		backlog('shops');
		quick('CREATE DATABASE clone TEMPLATE shops', 'shops');
		wait_for_state($node, 'clone', $_, 'needs_rebuild') foreach $name, $other;
		add_order($_) foreach 'clone', 'shops';
		$node->safe_psql('clone', "SELECT incbatch.rebuild_pipeline('$name')");
		are_exact($node, $_, [$name], "8: $_") foreach 'clone', 'shops';
		is(slot_count($node), 2, '8: each has its slot');
		quick('DROP DATABASE clone' . ($loop % 2 ? '' : ' WITH (FORCE)'));
		are_exact($node, 'shops', [ $name, $other ], '56: the database that stays');
	}
};

subtest '57: others do not wait for decoding, nor does a shutdown' => sub {
	$node->safe_psql('shops', 'CREATE TABLE shop.numbers (n int); ALTER TABLE shop.numbers REPLICA IDENTITY FULL');
	create_pipeline($node, 'shops', $busy, $query{$busy}, trigger_interval => '0');
	wait_for_state($node, 'shops', $busy, 'running');
	my $client = session($node, 'shops');
	my $pid = wait_for_worker($node, 'shops');
	my $since = q{SELECT activity_since FROM incbatch.workers WHERE database = 'shops' AND activity = 'reading the WAL'};
	my ($during, $longest) = (0, 0);

	# All of it is there before the worker begins to read.
	kill_process('STOP', $pid);
	ask($client, 'INSERT INTO shop.numbers SELECT i FROM generate_series(1, 800000) AS i');
	ask($look, "CREATE DATABASE unrelated_$_") foreach 1 .. 3;
	kill_process('CONT', $pid);
	until_true($look, "SELECT count(*) = 1 FROM ($since) AS s");
	my $began = ask($look, $since);
	foreach (1 .. 3)
	{
		my $seconds = timed { ask($look, "DROP DATABASE unrelated_$_") };
		$longest = $seconds if $seconds > $longest;
		$during++ if $began && ask($look, "SELECT (SELECT abs(extract(epoch FROM s.activity_since - '$began')) < 0.05 FROM ($since) AS s)") eq 't';
	}
	cmp_ok($during, '>=', 1, '57: a database is dropped while a large transaction is decoded');
	cmp_ok($longest, '<', $quick, '57: and so are the others at once');
	are_exact($node, 'shops', [$busy], '57: in the end');

	my $etas = '';
	ask($client, "SELECT incbatch.rebuild_pipeline('$busy')");
	$etas .= ask($client, "SELECT coalesce(min(eta), '0') FROM incbatch.progress") . ' '
	  until ask($client, "SELECT state = 'running' FROM incbatch.pipelines WHERE pipeline = '$busy'") eq 't';
	unlike($etas, qr/-/, '57: a backfill ends in the future');
	end_session($client);

	# 58
	$node->safe_psql('shops', "SELECT incbatch.rebuild_pipeline('$busy')");
	my $offset = -s $node->logfile;
	end_session($look);
	my $seconds = timed { $node->stop('fast') };
	cmp_ok($seconds, '<', $quick, '58: a fast shutdown does not wait for a backfill');
	$node->start;
	$look = session($node, 'postgres');
	unlike(slurp_file($node->logfile, $offset), qr/PANIC|concurrent write-ahead log activity/,
		'58: and is a clean one');
	are_exact($node, 'shops', [$busy], '58: after the restart');
	$node->safe_psql('shops', "SELECT incbatch.drop_pipeline('$busy')");
};

subtest '54: signals' => sub {
	foreach my $loop (1 .. $loops)
	{
		foreach my $signal ('TERM', 'INT', 'HUP', 'QUIT', 'KILL')
		{
			foreach my $kind ('worker', 'launcher')
			{
				# A shutdown by signal of one process makes the server restart.
				my $crash = $signal eq 'QUIT' || $signal eq 'KILL';
				next if $crash && $kind eq 'launcher' && $loop % 2;
				my $pid = $kind eq 'worker' ? wait_for_worker($node, 'shops') : launcher_pid($node);
				add_order('shops');
				kill_process($signal, $pid);
				$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid")
				  if $crash || $kind eq 'launcher' && $signal ne 'HUP';
				my $seconds = timed { wait_for_worker($node, 'shops', $signal eq 'TERM' && $kind eq 'worker' ? $pid : undef) };
				cmp_ok($seconds, '<', $quick, "54: $signal for the $kind: a worker is there");
				add_order('shops');
				are_exact($node, 'shops', [ $name, $other ], "54: $signal for the $kind");
			}
		}
	}
	isnt(launcher_pid($node), '', '54: and a launcher');
};

subtest '60: ALTER EXTENSION' => sub {
	my $offset = -s $node->logfile;
	my $load   = start_pgbench($node, 'shops', orders_load($node, 1000), '-c', 2, '-T', 600, '-R', 50);
	my $pid    = wait_for_worker($node, 'shops');

	$node->safe_psql('shops', q{BEGIN; ALTER EXTENSION incbatch UPDATE TO '1.0test'; ROLLBACK});
	are_exact_at_rest($load, '60: rolled back');
	is(worker_pid($node, 'shops'), $pid, '60: rolled back, the worker stays');

	$load = start_pgbench($node, 'shops', orders_load($node, 1000), '-c', 2, '-T', 600, '-R', 50);
	$node->safe_psql('shops', q{ALTER EXTENSION incbatch UPDATE TO '1.0test'});
	ok($node->poll_query_until('shops', q{SELECT state = 'other version' FROM incbatch.workers}),
		'60: the worker leaves tables alone that it does not know');
	my ($ret, undef, $stderr) = $node->psql('shops', "CALL incbatch.refresh_pipeline('$name')");
	like($stderr, qr/library of incbatch is 1\.0, but the extension has version 1\.0test.*HINT:.*UPDATE/s,
		'60: and so do its functions');
	stop_pgbench($load);
	$node->safe_psql('shops', q{ALTER EXTENSION incbatch UPDATE TO '1.0'});
	are_exact($node, 'shops', [ $name, $other ], '60: the version that it knows');
	my @said = slurp_file($node->logfile, $offset) =~ /cannot run the pipelines of database/g;
	is(scalar @said, 1, '60: said once');
	is($node->safe_psql('shops', 'SELECT count(*) FROM incbatch.pipelines WHERE state <> $$running$$'),
		0, '60: nothing is lost');
};

subtest '59: resources' => sub {
	# the lock table
	my $hog = session($node, 'shops');
	my $pid = wait_for_worker($node, 'shops');
	ask($hog, q{DO $$ BEGIN FOR i IN 1..1000000 LOOP PERFORM pg_advisory_lock(i); END LOOP; EXCEPTION WHEN out_of_memory THEN NULL; END $$});
	ask($hog, q{DO $$ BEGIN FOR i IN 1..1000000 LOOP PERFORM pg_advisory_lock(i); END LOOP; EXCEPTION WHEN OTHERS THEN NULL; END $$});
	$hog->{timeout}->start;
	add_order('shops', 1);
	end_session($hog);
	are_exact($node, 'shops', [ $name, $other ], '59: when there are locks again');

	# shared memory for paths
	set_conf($node, 'incbatch.max_paths' => 1);
	my $offset = -s $node->logfile;
	end_session($look);
	$node->restart;
	are_exact($node, 'shops', [$name], '59: too few paths: the first goes on');
	fails_like($node, 'shops', "SET statement_timeout = '60s'; CALL incbatch.refresh_pipeline('$other')",
		qr/no shared memory left.*max_paths/s, '59: too few paths: the other says why not');
	my @said = slurp_file($node->logfile, $offset) =~ /stands still: no shared memory/g;
	is(scalar @said, 1, '59: too few paths: said once in the log');
	add_order('shops');
	are_exact($node, 'shops', [$name], '59: too few paths: the first goes on');
	set_conf($node, 'incbatch.max_paths' => 256);
	$node->restart;
	are_exact($node, 'shops', [ $name, $other ], '59: enough paths again');
	is($node->safe_psql('shops', 'SELECT count(*) FROM incbatch.pipelines WHERE state <> $$running$$'),
		0, '59: nothing was lost');

	# memory
  SKIP:
	{
		skip 'sanitizers want all memory', 2 if $ENV{SANITIZED};
		my $worker = wait_for_worker($node, 'shops');
		my ($size) = slurp_file("/proc/$worker/status") =~ /^VmSize:\s+(\d+) kB/m;

		$offset = -s $node->logfile;
		system('prlimit', "--pid=$worker", '--as=' . ($size + 1024) * 1024) == 0 or die "prlimit: $!";
		backlog('shops', 400_000);
		are_exact($node, 'shops', [ $name, $other ], '59: too little memory: exact, by a new worker');
		like(slurp_file($node->logfile, $offset), qr/\[$worker\].*ERROR:  out of memory/, '59: too little memory: said in the log');
	}

	# slots
	$node->safe_psql('shops', "SELECT incbatch.drop_pipeline('$_')") foreach $name, $other;
	ok(worker_is_gone($node, dboid('shops')), '59: no pipeline, no worker');
	set_conf($node, max_replication_slots => 0);
	$node->restart;
	$offset = -s $node->logfile;
	create_pipeline($node, 'shops', $name, $query{$name}, trigger_interval => '0');
	ok($node->poll_query_until('shops', q{SELECT state = 'no replication slot' AND pid IS NOT NULL FROM incbatch.workers}),
		'59: without slots the worker waits and says so');
	$look = session($node, 'shops');
	until_clock($look, 3);
	@said = slurp_file($node->logfile, $offset) =~ /no free replication slot/g;
	is(scalar @said, 1, '59: once');
	unlike(slurp_file($node->logfile, $offset), qr/ERROR:|FATAL:/, '59: and no error');
	$node->safe_psql('shops', "SELECT incbatch.drop_pipeline('$name')");
	ok(worker_is_gone($node, dboid('shops')), '59: it leaves when nothing is wanted any more');
	create_pipeline($node, 'shops', $name, $query{$name}, trigger_interval => '0');
	end_session($look);
	set_conf($node, max_replication_slots => 10);
	$node->restart;
	are_exact($node, 'shops', [$name], '59: with slots again');

	# entries of databases: as many as processes, and eight
  SKIP:
	{
		skip 'no fault points', 2 if !open_faults($node);
		my @more = map { "more_$_" } 1 .. 10;

		$node->safe_psql('postgres', "CREATE DATABASE $_") foreach @more;
		$node->safe_psql('postgres', 'CREATE DATABASE fresh TEMPLATE template0 ALLOW_CONNECTIONS false');
		set_conf($node, max_worker_processes => 3);
		arm($node, 'worker_wanted:wait');
		$offset = -s $node->logfile;
		$node->restart;
		$node->wait_for_log(qr/incbatch is at fault point worker_wanted: /, $offset);
		$node->safe_psql('postgres', 'UPDATE pg_database SET datallowconn = true WHERE datname = $$fresh$$');
		create_extension($node, 'fresh');
		$node->safe_psql('fresh', 'CREATE TABLE t (a int); ALTER TABLE t REPLICA IDENTITY FULL');
		create_pipeline($node, 'fresh', 'counted', 'SELECT count(*) FROM t');
		# of the three processes one is the launcher's, one that of logical replication
		$node->safe_psql('postgres', 'DROP DATABASE shops');
		arm($node, '');
		is(($node->psql('fresh', q{SET statement_timeout = '60s'; CALL incbatch.refresh_pipeline('counted')}))[0], 0,
			'59: a database that found no room gets its worker when there is some');
		is($node->safe_psql('fresh', 'TABLE counted'), 0, '59: and the pipeline runs');
	}
};

$node->stop;
done_testing();

# An installation that is not the one under test but for where its files are, so
# that the extension can have upgrade scripts of which users know nothing.
sub installation_of_our_own
{
	my ($bin, $share) = map { (run_command([ 'pg_config', "--$_" ]))[0] } 'bindir', 'sharedir';
	my $root = $node->basedir . '/installation';
	my ($lib) = $bin =~ m{/(lib/.*)/bin$};
	my ($sub) = $share =~ m{/(share/.*)$};

	make_path("$root/$lib", "$root/$sub/extension");
	system('cp', '-RL', $bin, "$root/$lib/bin") == 0 or die "cp: $!";
	symlink("$bin/../lib", "$root/$lib/lib") or die "symlink: $!";
	foreach my $dir ($share, "$share/extension")
	{
		my $to = $dir eq $share ? "$root/$sub" : "$root/$sub/extension";

		foreach my $file (glob "$dir/*")
		{
			my ($base) = $file =~ m{([^/]+)$};
			symlink($file, "$to/$base") unless -e "$to/$base";
		}
	}
	append_to_file("$root/$sub/extension/incbatch--$_.sql", "COMMENT ON SCHEMA incbatch IS 'updated $_';\n")
	  foreach '1.0--1.0test', '1.0test--1.0';
	return "$root/$lib";
}

# What incbatch.workers says of the database shops, to a session elsewhere.
sub create_status
{
	$node->safe_psql('postgres', q{
CREATE EXTENSION incbatch;
CREATE FUNCTION incbatch_status(OUT state text, OUT pid int) LANGUAGE sql
RETURN (SELECT ROW(w.state, w.pid) FROM incbatch.workers w WHERE database IN ('shops', 'stores'))});
	return 1;
}

sub dboid
{
	my ($db) = @_;

	return $node->safe_psql('postgres', "SELECT oid FROM pg_database WHERE datname = '$db'");
}

sub add_order
{
	my ($db, $may_fail) = @_;
	my $sql = q{INSERT INTO shop.orders (product_id, region, amount_cents) VALUES (4, 'west', 110)};

	if ($may_fail) { $node->psql($db, $sql) }
	else { $node->safe_psql($db, $sql) }
	return;
}

# Changes that a worker is busy with when the next statement comes.
sub backlog
{
	my ($db, $orders) = (@_, 20_000);

	wait_for_worker($node, $db);
	$node->safe_psql($db,
		"INSERT INTO shop.orders (product_id, region, amount_cents) SELECT i % 20 + 1, shop.region(i % 5), i FROM generate_series(1, $orders) AS i"
	);
	return;
}

# A statement that succeeds at once.
sub quick
{
	my ($sql, $db) = @_;
	my ($ret, $stderr);
	my $seconds = timed {
		($ret, undef, $stderr) = $node->psql($db || 'postgres', "SET statement_timeout = '60s'; $sql");
	};

	is($ret, 0, "56: $sql succeeds") or diag $stderr;
	cmp_ok($seconds, '<', $quick, "56: $sql takes less than $quick s");
	return;
}

sub are_exact_at_rest
{
	my ($load, $label) = @_;

	stop_pgbench($load);
	are_exact($node, 'shops', [ $name, $other ], $label);
	return;
}
