
# Who runs when, and that the rest of the cluster does not notice.
#
# Proves that create_pipeline is transactional and waits for nobody; that the
# launcher, the worker and the slot come with a database's first pipeline and go
# with its last one, with the extension and with the database; that DROP,
# CREATE … TEMPLATE, RENAME and SET TABLESPACE of a database with a running
# pipeline work at once; that a worker or launcher that is terminated comes
# back; that a fast shutdown does not wait for a backlog; and that a server that
# is set up wrongly says so.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IncBatch;
use Test::More;

my $name  = 'shop.by_category';
my $other = 'shop.extremes';

my $node = new_node('main');
$node->start;

subtest 'create_pipeline is transactional' => sub {
	create_shop($node, 'postgres');
	$node->safe_psql(
		'postgres', "
BEGIN;
INSERT INTO shop.orders (product_id, region, amount_cents) VALUES (1, 'north', 50);
"
		  . IncBatch::create_pipeline_sql($name, $query{$name}, trigger_interval => '0')
		  . 'ROLLBACK;');
	is(remains('postgres', 'by_category'), '0 0', 'a rollback leaves nothing');

	# Whatever a leftover might start would be there by the time that another
	# pipeline runs.
	create_pipeline($node, 'postgres', $other, $query{$other},
		trigger_interval => '0');
	are_exact($node, 'postgres', [$other], 'another pipeline');
	is(remains('postgres', 'by_category'), '0 1',
		'a rollback leaves nothing behind later either');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM incbatch.workers'),
		1, 'incbatch.workers has the one worker');
	drop_all('postgres', $other);
};

subtest 'create_pipeline waits for nobody' => sub {
	my $open = session($node, 'postgres');

	# Without a slot yet, which an open transaction keeps from being made …
	ask($open, q{BEGIN; INSERT INTO shop.orders (product_id, region, amount_cents) VALUES (2, 'south', 70)});
	my $seconds = timed {
		create_pipeline($node, 'postgres', $name, $query{$name},
			trigger_interval => '0');
	};
	cmp_ok($seconds, '<', 10, 'the first pipeline is created beside an open transaction');
	ask($open, 'COMMIT');
	are_exact($node, 'postgres', [$name], 'when that has committed');

	# … and with one.
	ask($open, q{BEGIN; INSERT INTO shop.orders (product_id, region, amount_cents) VALUES (3, 'east', 90)});
	$seconds = timed {
		create_pipeline($node, 'postgres', $other, $query{$other},
			trigger_interval => '0');
	};
	cmp_ok($seconds, '<', 10, 'a second pipeline is created beside an open transaction');
	ask($open, 'COMMIT');
	are_exact($node, 'postgres', [ $name, $other ], 'when that has committed');
	end_session($open);
};

subtest 'a worker for each database that has pipelines' => sub {
	isnt(wait_for_worker($node, 'postgres'), '', 'one in the first database');
	$node->safe_psql('postgres', 'CREATE DATABASE later');
	create_shop($node, 'later');
	is(worker_pid($node, 'later'), '', 'none in a database without pipelines');
	create_pipeline($node, 'later', $name, $query{$name}, trigger_interval => '0');
	isnt(wait_for_worker($node, 'later'), '', 'one in a database made later');
	are_exact($node, 'later', [$name], 'there');
	is(slot_count($node), 2, 'each database has a slot');

	$node->safe_psql('postgres', "SELECT incbatch.drop_pipeline('$name')");
	are_exact($node, 'postgres', [$other], 'one of two pipelines dropped');
	isnt(worker_pid($node, 'postgres'), '', 'the worker stays for the other');
	drop_all('postgres', $other);
	are_exact($node, 'later', [$name], 'the other database goes on');
};

subtest 'DROP EXTENSION' => sub {
	my $dboid = dboid('later');

	$node->safe_psql('later',
		'BEGIN; DROP EXTENSION incbatch CASCADE; ROLLBACK');
	add_order('later');
	are_exact($node, 'later', [$name], 'rolled back');

	$node->safe_psql('later', 'DROP EXTENSION incbatch CASCADE');
	ok(worker_is_gone($node, $dboid), 'no worker and no slot is left');
	isnt(launcher_pid($node), '', 'the launcher stays');

	# Whether the rows of the aggregate survive is not what this is about.
	$node->safe_psql(
		'later', q{
DROP VIEW IF EXISTS shop.by_category, shop.by_category_batch CASCADE;
DROP TABLE IF EXISTS shop.by_category_state CASCADE;
CREATE EXTENSION incbatch});
	create_pipeline($node, 'later', $name, $query{$name}, trigger_interval => '0');
	are_exact($node, 'later', [$name], 'created again');

	# Both at once, so that no worker sees it dropped.
	$node->safe_psql('later', join ";\n", 'BEGIN',
		'DROP EXTENSION incbatch CASCADE',
		'DROP VIEW IF EXISTS shop.by_category, shop.by_category_batch CASCADE',
		'DROP TABLE IF EXISTS shop.by_category_state CASCADE',
		'CREATE EXTENSION incbatch',
		IncBatch::create_pipeline_sql($name, $query{$name}, trigger_interval => '0'),
		'COMMIT');
	are_exact($node, 'later', [$name], 'dropped and created in one transaction');
	is($node->safe_psql('later', 'SELECT state FROM incbatch.pipelines'),
		'running', 'and nobody takes it for a copy');
};

subtest 'statements on a database with a running pipeline' => sub {
	my $dboid = dboid('later');

	quick('ALTER DATABASE later RENAME TO earlier');
	add_order('earlier');
	are_exact($node, 'earlier', [$name], 'renamed');
	is(slot_name($node, 'earlier'), "incbatch_$dboid", 'the slot keeps its name');

	$node->safe_psql('postgres',
		q{SET allow_in_place_tablespaces = on; CREATE TABLESPACE elsewhere LOCATION ''});
	quick('ALTER DATABASE earlier SET TABLESPACE elsewhere');
	add_order('earlier');
	are_exact($node, 'earlier', [$name], 'moved');

	quick('CREATE DATABASE clone TEMPLATE earlier');
	add_order('earlier');
	are_exact($node, 'earlier', [$name], 'the template');
	wait_for_state($node, 'clone', $name, 'needs_rebuild');
	pass('the pipeline of the clone needs a rebuild');
	is($node->safe_psql('clone', 'SELECT last_error FROM incbatch.pipelines'),
		'this database is a copy; run incbatch.rebuild_pipeline', 'and says why');
	fails_like($node, 'clone', "SET statement_timeout = '20s'; $_", qr/"$name" is in state "needs_rebuild".*is a copy/s,
		"who waits for it does not wait in vain: $_")
	  foreach "CALL incbatch.refresh_pipeline('$name')",
	  "SELECT * FROM incbatch.verify_pipeline('$name')",
	  "SELECT incbatch.wait_for('$name', pg_current_wal_lsn())";
	add_order('clone');
	$node->safe_psql('clone', "SELECT incbatch.rebuild_pipeline('$name')");
	are_exact($node, 'clone', [$name], 'the clone, rebuilt');
	add_order($_) foreach 'clone', 'earlier';
	are_exact($node, $_, [$name], "$_ goes its own way") foreach 'clone', 'earlier';
	is(slot_count($node), 2, 'each has its slot');

	# Both forms of DROP DATABASE meet a worker in the middle of a backlog.
	foreach my $drop ([ 'clone', '' ], [ 'earlier', ' WITH (FORCE)' ])
	{
		my ($db, $option) = @$drop;
		my $oid = dboid($db);

		backlog($db);
		quick("DROP DATABASE $db$option");
		ok(worker_is_gone($node, $oid), "no worker and no slot is left of $db");
	}
	is( $node->safe_psql('postgres', 'SELECT count(*) FROM pg_database WHERE datconnlimit = -2'),
		0,
		'no database is left invalid');
};

subtest 'a DROP DATABASE that fails' => sub {
	$node->safe_psql('postgres', 'CREATE DATABASE kept');
	create_shop($node, 'kept');
	create_pipeline($node, 'kept', $name, $query{$name}, trigger_interval => '0');
	wait_for_state($node, 'kept', $name, 'running');

	my $user = session($node, 'kept');
	fails_like($node, 'postgres', 'DROP DATABASE kept',
		qr/being accessed by other users/, 'a database in use');
	end_session($user);
	add_order('kept');
	are_exact($node, 'kept', [$name], 'its pipeline goes on');
};

subtest 'terminated processes come back' => sub {
	foreach my $try (1 .. 3)
	{
		my $worker = wait_for_worker($node, 'kept');
		add_order('kept');
		$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
		my $seconds = timed { wait_for_worker($node, 'kept', $worker) };
		cmp_ok($seconds, '<', 30, "try $try: a terminated worker is back");
		are_exact($node, 'kept', [$name], "try $try: terminated worker");

		my $launcher = launcher_pid($node);
		$node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher)");
		$seconds = timed {
			ok( $node->poll_query_until(
					'postgres',
					"SELECT count(*) = 1 AND min(pid) <> $launcher FROM pg_stat_activity WHERE backend_type = 'incbatch launcher'"
				),
				"try $try: there is a new launcher");
		};
		cmp_ok($seconds, '<', 30, "try $try: a terminated launcher is back");
		add_order('kept');
		are_exact($node, 'kept', [$name], "try $try: terminated launcher");

		$worker = wait_for_worker($node, 'kept');
		$node->safe_psql('postgres', "SELECT pg_cancel_backend($worker)");
		add_order('kept');
		are_exact($node, 'kept', [$name], "try $try: cancelled worker");
	}
};

subtest 'fast shutdown' => sub {
	backlog('kept');
	my $seconds = timed { $node->stop('fast') };
	cmp_ok($seconds, '<', 20, 'it does not wait for a backlog');
	unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile),
		qr/PANIC|concurrent write-ahead log activity/, 'and is a clean one');
	$node->start;
	are_exact($node, 'kept', [$name], 'after the restart');
};
$node->stop;

subtest 'a server that is set up wrongly' => sub {
	my $wrong = new_node('wrong',
		shared_preload_libraries => '',
		max_replication_slots    => 1);
	my $create = IncBatch::create_pipeline_sql($name, $query{$name});

	$wrong->start;
	if (($wrong->psql('postgres', 'CREATE EXTENSION incbatch; DROP EXTENSION incbatch'))[0] == 0)
	{
		create_shop($wrong, 'postgres');
		fails_like($wrong, 'postgres', $create, qr/shared_preload_libraries/,
			'create_pipeline without the library preloaded');
	}
	else
	{
		fails_like($wrong, 'postgres', 'CREATE EXTENSION incbatch',
			qr/shared_preload_libraries/, 'CREATE EXTENSION without the library preloaded');
	}

	set_conf($wrong, shared_preload_libraries => 'incbatch', wal_level => 'replica');
	$wrong->restart;
	create_shop($wrong, 'postgres')
	  if $wrong->safe_psql('postgres', q{SELECT to_regnamespace('shop') IS NULL}) eq 't';
	fails_like($wrong, 'postgres', $create, qr/wal_level/,
		'create_pipeline with wal_level = replica');
	is($wrong->safe_psql('postgres', 'SELECT count(*) FROM incbatch.pipelines'),
		0, 'no pipeline was created');

	# All slots taken: said once in a while, and over when one is free.
	set_conf($wrong, wal_level => 'logical');
	$wrong->restart;
	$wrong->safe_psql('postgres',
		q{SELECT pg_create_physical_replication_slot('foreign')});
	my $offset = -s $wrong->logfile;
	create_pipeline($wrong, 'postgres', $name, $query{$name}, trigger_interval => '0');
	my $end = $wrong->wait_for_log(qr/max_replication_slots|replication slots are in use/, $offset);
	isnt(state_of($wrong, 'postgres', $name), 'running', 'no slot is free: it does not run');
	isnt(launcher_pid($wrong), '', 'the launcher lives');
	$wrong->safe_psql('postgres', q{SELECT pg_drop_replication_slot('foreign')});
	wait_for_state($wrong, 'postgres', $name, 'running');
	are_exact($wrong, 'postgres', [$name], 'when a slot has become free');
	my @said = PostgreSQL::Test::Utils::slurp_file($wrong->logfile, $offset) =~
	  /(?:ERROR|FATAL|LOG|WARNING):.*replication slots are in use/g;
	cmp_ok(scalar @said, '<=', 20, 'the message does not flood the log');

	set_conf($wrong, shared_preload_libraries => '', 'incbatch.max_paths' => 100);
	$wrong->restart;
	add_order('postgres', $wrong);
	ok( $wrong->poll_query_until('postgres',
			q{SELECT status = 'stuck' AND reason LIKE '%without incbatch in shared_preload_libraries' FROM incbatch.lag}),
		'without the library the lag says that it is missing');
	$wrong->stop;
};

done_testing();

# How many pipelines and relations are left of shop.$table, and how many slots.
sub remains
{
	my ($db, $table) = @_;

	return $node->safe_psql(
		$db, "
SELECT (SELECT count(*) FROM incbatch.pipelines WHERE pipeline::text = 'shop.$table')
       + (SELECT count(*) FROM pg_class
           WHERE relnamespace = 'shop'::regnamespace AND relname LIKE '$table%'),
       (SELECT count(*) FROM pg_replication_slots)") =~ s/\|/ /r;
}

# Drop pipelines, the last ones of their database.
sub drop_all
{
	my ($db, @names) = @_;

	$node->safe_psql($db, "SELECT incbatch.drop_pipeline('$_')") foreach @names;
	ok(worker_is_gone($node, dboid($db)),
		"no worker and no slot after the last pipeline of $db is dropped");
	return;
}

sub dboid
{
	my ($db) = @_;

	return $node->safe_psql('postgres', "SELECT oid FROM pg_database WHERE datname = '$db'");
}

sub state_of
{
	my ($server, $db, $pipeline) = @_;

	return $server->safe_psql($db,
		"SELECT state FROM incbatch.pipelines WHERE pipeline::text = '$pipeline'");
}

sub add_order
{
	my ($db, $server) = @_;

	($server // $node)->safe_psql($db,
		q{INSERT INTO shop.orders (product_id, region, amount_cents) VALUES (4, 'west', 110)});
	return;
}

# More changes than a worker works off before the next statement.
sub backlog
{
	my ($db) = @_;

	wait_for_worker($node, $db);
	$node->safe_psql($db,
		q{INSERT INTO shop.orders (product_id, region, amount_cents) SELECT i % 20 + 1, shop.region(i % 5), i FROM generate_series(1, 300000) AS i}
	);
	return;
}

# A statement that succeeds, in less than 20 s: what it takes by itself, with its
# checkpoints on a disk that others use, too.
sub quick
{
	my ($sql) = @_;
	my ($ret, $stderr);
	my $seconds = timed {
		($ret, undef, $stderr) = $node->psql('postgres', "SET statement_timeout = '60s'; $sql");
	};

	is($ret, 0, "$sql succeeds") or diag $stderr;
	cmp_ok($seconds, '<', 20, "$sql takes less than 20 s");
	return;
}
