
# The slot, the WAL that it holds, and the disk.
#
# By the numbers of test/HAZARDS.md, group D.  Proves:
# 38: a path that is paused, one that failed, a worker that crashes again and
#     again, one that cannot start, and a transaction that stays open do not hold
#     more WAL than incbatch.max_retained_wal, and are warned of before; a backfill
#     does not hold more than half of it, and is not begun again at once; after a
#     full disk the server recovers, and the aggregates are right;
# 39: a slot that the server invalidates is said once, dropped and replaced;
# 41: a quiet database lets go of its busy neighbour's WAL, and a transaction
#     does not answer for what came before it;
# 42: incbatch.workers names whose transaction keeps restart_lsn;
# 43: the slot does not keep dead catalog rows;
# 46: storms of subtransactions and DDL are read in bounded time;
# 48: checkpoints and little WAL, over crashes, lose no place;
# 49: a pipeline behind an open transaction says whom it waits for, and goes
#     when it is dropped, without leaving a slot;
# 50: slots that nobody owns are dropped, others' are not;
# 51: prepare_shutdown leaves no slot, and the server starts with less wal_level.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use Faults;
use IncBatch;
use PostgreSQL::Test::Utils;
use Test::More;

my $limit = 64;
my $megabyte = 1024 * 1024;
my $node = new_node(
	'main',
	'incbatch.max_retained_wal' => "${limit}MB",
	max_worker_processes        => 8,
	log_line_prefix             => '%m %b: ');
$node->start;
create_shop($node, 'postgres', 2000);
create_pipelines(
	$node, 'postgres',
	'shop.thirds' => '1 second',
	'shop.totals' => '1 hour');
my $slot = slot_name($node, 'postgres');
my $look = session($node, 'postgres');

subtest '42: a transaction that keeps restart_lsn has a name' => sub {
	my $open = session($node, 'postgres');
	my $pid  = ask($open, 'SELECT pg_backend_pid()');

	ask($open, 'BEGIN; INSERT INTO shop.orders (product_id, region, amount_cents) VALUES (1, \'north\', 10)');
	ok( until_true(
			$look, qq{
DO \$\$ BEGIN PERFORM pg_logical_emit_message(false, 'busy', repeat('x', 100000)); END \$\$;
SELECT pinned_by LIKE 'process $pid of % in postgres, transaction %, for 00:%' FROM incbatch.workers}),
		'42: its process is shown');
	my $holder = ask($look, "SELECT pinned_by FROM incbatch.workers");
	ask($look, 'CREATE ROLE nobody');
	like(
		ask($look, 'SET ROLE nobody; SELECT pinned_by FROM incbatch.workers'),
		qr/^process $pid of \w+ in postgres, transaction \d+$/,
		'42: an ordinary user sees the process, and not for how long');
	ask($look, 'RESET ROLE; DROP ROLE nobody');
	ask($open, "PREPARE TRANSACTION 'a gid'");
	like(ask($look, 'SELECT pinned_by FROM incbatch.workers'),
		qr/^prepared transaction 'a gid' of .* in postgres, transaction \d+, for 00:/,
		'42: a prepared one by its gid');
	ask($open, "COMMIT PREPARED 'a gid'");
	ok( until_true(
			$look, qq{
DO \$\$ BEGIN PERFORM pg_logical_emit_message(false, 'busy', repeat('x', 100000)); END \$\$;
SELECT pinned_by IS NULL FROM incbatch.workers}),
		'42: and then nobody');
	end_session($open);
};

subtest '38: an open transaction holds no more than the limit' => sub {
	my $open   = session($node, 'postgres');
	my $offset = -s $node->logfile;

	ask($open, 'BEGIN; DELETE FROM shop.orders WHERE order_id % 10 = 3');
	ok(fill_until("SELECT warning LIKE 'over 50 %' FROM incbatch.workers", 4),
		'38: warned at 50 percent');
	is(states(), 'running', '38: all are still running');
	ok(fill_until("SELECT warning LIKE 'over 80 %' FROM incbatch.workers", 2),
		'38: warned at 80 percent');
	ok(fill_until("SELECT bool_and(state = 'needs_rebuild') FROM incbatch.pipelines", 4),
		'38: beyond the limit all give their place up');
	like(
		ask($look, 'SELECT last_error FROM incbatch.pipelines LIMIT 1'),
		qr/transaction \d+, open for long, held more WAL than incbatch.max_retained_wal \(64 MB\); run incbatch.rebuild_pipeline/,
		'38: last_error says why');
	ok(until_true($look, "SELECT count(*) = 0 FROM pg_replication_slots"), '38: nothing holds WAL');
	my $log = slurp_file($node->logfile, $offset);
	is(lines_like($log, qr/WARNING:  incbatch holds 5\d percent/), 1, '38: 50 percent is logged once');
	is(lines_like($log, qr/WARNING:  incbatch holds 8\d percent/), 1, '38: 80 percent is logged once');
	is(lines_like($log, qr/need a rebuild/) - lines_like($log, qr/DETAIL: .*need a rebuild/), 1,
		'38: that all gave up is logged once');

	# 49: behind the same transaction nothing can start
	my $pid = ask($open, 'SELECT pg_backend_pid()');
	my $took = timed { rebuild('shop.extremes') };
	cmp_ok($took, '<', 20, '49: rebuild_pipeline waits for nobody');
	ok(until_true($look, "SELECT state = 'creating slot' AND pinned_by LIKE 'process $pid of %' FROM incbatch.workers"),
		'49: workers says whom the slot waits for')
	  or diag ask($look, 'SELECT state, pinned_by FROM incbatch.workers');
	like(ask($look, "SELECT waits_for FROM incbatch.progress"),
		qr/^the replication slot, which waits for process $pid of /, '49: so does progress');
	my $holder = worker_pid($node, 'postgres');
	ask($look, fill_wal(5));
	isnt(wait_for_worker($node, 'postgres', $holder), '', '38: the slot that waits is begun anew');
	ask($look, 'CHECKPOINT');
	ok(until_true($look, "SELECT coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)), 0) < $limit * $megabyte FROM pg_replication_slots"),
		'38: and holds no more than that');
	ask($open, 'COMMIT');
	end_session($open);
	rebuild(grep { $_ ne 'shop.extremes' } @shop_pipelines);
	are_exact($node, 'postgres', \@shop_pipelines, '38: rebuilt');
};

subtest '49: behind an open transaction' => sub {
	$node->safe_psql('postgres', 'CREATE DATABASE fresh');
	create_shop($node, 'fresh', 100);
	my $open = session($node, 'postgres');
	my $fresh = session($node, 'fresh');

	ask($open, "BEGIN; INSERT INTO shop.orders (product_id, region, amount_cents) VALUES (1, 'north', 10); PREPARE TRANSACTION 'in the way'");
	cmp_ok(timed { ask($fresh, IncBatch::create_pipeline_sql('shop.totals', $query{'shop.totals'})) },
		'<', 5, '49: create_pipeline returns at once');
	ok(until_true($fresh, "SELECT state = 'creating slot' AND pinned_by LIKE 'prepared transaction ''in the way'' of %' FROM incbatch.workers WHERE database = 'fresh'"),
		'49: workers names the prepared transaction');
	like(ask($fresh, "SELECT phase || ': ' || waits_for FROM incbatch.progress"),
		qr/^initializing: the replication slot, which waits for prepared transaction 'in the way' of /, '49: so does progress');
	ask($fresh, "SELECT incbatch.drop_pipeline('shop.totals')");
	ok(until_true($look, "SELECT count(*) = 1 FROM pg_replication_slots WHERE plugin = 'incbatch'"),
		'49: dropped while it waits, it leaves no slot');
	is(ask($look, 'SELECT count(*) FROM pg_prepared_xacts'), 1, '49: though the transaction is still there');
	ask($open, "COMMIT PREPARED 'in the way'");
	end_session($open, $fresh);
	$node->safe_psql('postgres', 'DROP DATABASE fresh');
};

subtest '38: a path that failed holds no more than the limit' => sub {
	ask($look, q{
CREATE TABLE shop.poison (g int, v int NOT NULL);
ALTER TABLE shop.poison REPLICA IDENTITY FULL});
	$query{'shop.poisoned'} = 'SELECT g, sum(100 / v) AS s FROM shop.poison GROUP BY g';
	create_pipeline($node, 'postgres', 'shop.poisoned', $query{'shop.poisoned'}, trigger_interval => '0');
	wait_for_state($node, 'postgres', 'shop.poisoned', 'running');
	ask($look, 'INSERT INTO shop.poison VALUES (1, 0)');
	wait_for_state($node, 'postgres', 'shop.poisoned', 'failed');
	ok(fill_until("SELECT state = 'needs_rebuild' FROM incbatch.pipelines WHERE pipeline = 'shop.poisoned'", 8),
		'38: a failed path gives its place up');
	is(ask($look, "SELECT string_agg(DISTINCT state, ' ') FROM incbatch.pipelines WHERE pipeline <> 'shop.poisoned'"),
		'running', '38: the others keep theirs');
	ok(holds_less($limit + 16), '38: the slot holds no more than the limit and a segment');
	ask($look, "DELETE FROM shop.poison; INSERT INTO shop.poison VALUES (1, 3), (NULL, 4)");
	rebuild('shop.poisoned');
	are_exact($node, 'postgres', ['shop.poisoned'], '38: rebuilt');
	ask($look, "SELECT incbatch.drop_pipeline('shop.poisoned')");
};

subtest '38: a backfill holds no more than half of the limit' => sub {
	plan skip_all => 'this build has no fault points' unless open_faults($node);

	my $of     = q{pipeline = (SELECT id FROM incbatch.pipeline WHERE relation = 'shop.extremes'::regclass)};
	my $state  = q{SELECT state FROM incbatch.pipelines WHERE pipeline = 'shop.extremes'};
	my @others = grep { $_ ne 'shop.extremes' } @shop_pipelines;
	my $offset = -s $node->logfile;
	my $cut    = sub {
		my ($label) = @_;

		ok(until_holds { at_point($node, 'backfill_evaluated', $offset) }, "38: $label: it hangs");
		$offset = -s $node->logfile;
		# as if that had begun hours ago
		ask($look, "UPDATE incbatch.path SET rebuilt_at = rebuilt_at - interval '3 hours' WHERE $of");
		ask($look, q{SELECT pg_logical_emit_message(false, 'busy', repeat('x', 4000000)) FROM generate_series(1, 9)});
		ok(until_true($look, "SELECT ($state) = 'needs_rebuild'"), "38: $label: it is given up");
		is(ask($look, q{SELECT string_agg(DISTINCT state, ' ') FROM incbatch.pipelines WHERE pipeline <> 'shop.extremes'}),
			'running', "38: $label: the others keep their place");
		return;
	};

	are_exact($node, 'postgres', \@shop_pipelines, '38: before');
	arm($node, 'backfill_evaluated:wait');
	rebuild('shop.extremes');
	$cut->('on_lost stop');
	like(
		ask($look, q{SELECT last_error FROM incbatch.pipelines WHERE pipeline = 'shop.extremes'}),
		qr/^to fill it held more WAL than half of incbatch.max_retained_wal \(64 MB\), so raise that first; run incbatch.rebuild_pipeline$/,
		'38: last_error says why, and which setting');
	like(slurp_file($node->logfile, $offset), qr/HINT:  Raise incbatch.max_retained_wal/, '38: so does the log');

	# by itself: not at once, and then ever later
	$offset = -s $node->logfile;
	ask($look, q{SELECT incbatch.alter_pipeline('shop.extremes', on_lost => 'rebuild')});
	foreach my $delay ('00:01:00', '00:02:00', '00:04:00')
	{
		are_exact($node, 'postgres', \@others, "38: after $delay comes the next");
		until_clock($look, 2);
		is(ask($look, $state), 'needs_rebuild', '38: it is not begun again at once');
		is(lines_like(slurp_file($node->logfile, $offset), qr/is rebuilt, for its place/), 0, '38: nor tried');
		is(ask($look, "SELECT rebuild_delay FROM incbatch.path WHERE $of"), $delay, "38: but after $delay");
		last if $delay eq '00:04:00';
		# that later
		ask($look, qq{
UPDATE incbatch.path SET rebuilt_at = rebuilt_at - rebuild_delay WHERE $of;
SELECT incbatch.alter_pipeline('shop.extremes', on_lost => 'rebuild')});
		$cut->("the next after $delay");
	}
	arm($node, '');
	ask($look, q{SELECT incbatch.alter_pipeline('shop.extremes', on_lost => 'stop')});
	rebuild('shop.extremes');
	are_exact($node, 'postgres', \@shop_pipelines, '38: rebuilt');
};

subtest '41: a quiet database lets go of its neighbour\'s WAL' => sub {
	$node->safe_psql('postgres', 'CREATE DATABASE neighbour');
	my $busy = session($node, 'neighbour');

	# neither a checkpoint nor the server's own list of running transactions is
	# waited for: who writes that stands still
	my $writer = ask($look, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'background writer'");
	kill_process('STOP', $writer);
	ask($busy, 'CREATE TABLE busy (i int, t text)');
	ask($busy, "INSERT INTO busy SELECT i, repeat('x', 400) FROM generate_series(1, 15000) AS i") foreach 1 .. 10;
	ok(until_true($look, qq{SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) < 32 * $megabyte FROM pg_replication_slots}, 40),
		'41: two segments at most, also with an hourly path')
	  or diag ask($look, 'SELECT restart_lsn, confirmed_flush_lsn, pg_current_wal_lsn() FROM pg_replication_slots');

	# who has just begun does not answer for what was written before
	if (open_faults($node))
	{
		my $offset = -s $node->logfile;

		arm($node, 'between_paths:wait');
		ask($look, "INSERT INTO shop.orders (product_id, region, amount_cents) VALUES (1, 'north', 10)");
		ok(until_holds { at_point($node, 'between_paths', $offset) }, '41: the worker hangs');
		ask($busy, "INSERT INTO busy SELECT i, repeat('x', 400) FROM generate_series(1, 15000) AS i") foreach 1 .. 11;
		ask($busy, 'BEGIN; INSERT INTO busy VALUES (1)');
		arm($node, '');
		ok(until_true($look, q{SELECT pinned_by LIKE 'process % in neighbour, %' FROM incbatch.workers}), '41: the transaction is read in part');
		ok(until_true($look, 'SELECT retained_percent < 50 FROM incbatch.workers'), '41: and holds little');
		ask($look, "CALL incbatch.refresh_pipeline('shop.thirds')");
		is(states(), 'running', '41: all keep their place');
		ask($busy, 'COMMIT');
	}
	kill_process('CONT', $writer);
	end_session($busy);
	$node->safe_psql('postgres', 'DROP DATABASE neighbour');
};

subtest '43: dead catalog rows are not kept' => sub {
	ask($look, q{
DO $$
BEGIN
	FOR i IN 1 .. 300 LOOP
		EXECUTE format('CREATE TEMP TABLE temp_%s (a int, b int, c text)', i);
		COMMIT;
		EXECUTE format('DROP TABLE temp_%s', i);
		COMMIT;
	END LOOP;
END $$});
	my $xid = ask($look, 'SELECT txid_current()');
	ok( until_true(
			$look, qq{
DO \$\$ BEGIN PERFORM pg_logical_emit_message(false, 'busy', repeat('x', 1500000)); END \$\$;
SELECT catalog_xmin::text::bigint > $xid FROM pg_replication_slots}),
		'43: the slot lets go of them');
	my ($ret, undef, $verbose) = $node->psql('postgres', 'VACUUM (VERBOSE) pg_catalog.pg_attribute');
	like($verbose, qr/ 0 are dead but not yet removable/, '43: all can be removed');
};

subtest '46: storms of subtransactions and DDL' => sub {
	my %storm = (
		'3,000 subtransactions with DDL' => q{
CREATE TEMP TABLE storm (a int) ON COMMIT DROP;
FOR i IN 1 .. 3000 LOOP
	BEGIN
		EXECUTE format('ALTER TABLE storm ALTER COLUMN a SET STATISTICS %s', i % 100);
		IF i % 100 = 0 THEN RAISE division_by_zero; END IF;
	EXCEPTION WHEN division_by_zero THEN NULL;
	END;
END LOOP;
INSERT INTO shop.orders (product_id, region, amount_cents) VALUES (3, 'west', 50);},
		'20,000 subtransactions with changes' => q{
FOR i IN 1 .. 20000 LOOP
	BEGIN
		INSERT INTO shop.orders (product_id, region, amount_cents) VALUES (i % 21, 'storm', i % 200);
		IF i % 7 = 0 THEN RAISE division_by_zero; END IF;
	EXCEPTION WHEN division_by_zero THEN NULL;
	END;
END LOOP;},
		'TRUNCATE of 300 partitions' => q{
CREATE TABLE shop.parts (a int) PARTITION BY LIST (a);
FOR i IN 1 .. 300 LOOP
	EXECUTE format('CREATE TABLE shop.parts_%s PARTITION OF shop.parts FOR VALUES IN (%s)', i, i);
END LOOP;
INSERT INTO shop.parts SELECT generate_series(1, 300);
TRUNCATE shop.parts;
DELETE FROM shop.orders WHERE region = 'storm' AND order_id % 3 = 0;
UPDATE shop.orders SET region = NULL WHERE region = 'storm' AND order_id % 3 = 1;
DROP TABLE shop.parts;});

	ask($look, 'SET client_min_messages = error');
	foreach my $what (sort keys %storm)
	{
		my $wrote = timed { ask($look, "DO \$\$ BEGIN $storm{$what} END \$\$") };
		my $read = timed { ask($look, "CALL incbatch.refresh_pipeline('shop.thirds')") };

		cmp_ok($read, '<', 60 + $wrote, "46: $what are read in time");
		note sprintf '%s: written in %.1f s, read in %.1f s', $what, $wrote, $read;
	}
	are_exact($node, 'postgres', \@shop_pipelines, '46: storms');
};

subtest '39: the server invalidates the slot' => sub {
	my $offset = -s $node->logfile;

	ask($look, 'SELECT incbatch.pause_pipeline(pipeline) FROM incbatch.pipelines');
	ask($look, "ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'; ");
	ask($look, "ALTER SYSTEM SET max_wal_size = '32MB'; ");
	ask($look, 'SELECT pg_reload_conf()');
	my $took = timed {
		ask($look, fill_wal(3));
		# the checkpointer could learn of the setting after the first one
		ok(until_true($look, "CHECKPOINT; SELECT bool_and(state = 'needs_rebuild') FROM incbatch.path"),
			'39: all need a rebuild');
	};
	cmp_ok($took, '<', 60, '39: soon');
	ok(until_true($look, "SELECT count(*) = 0 FROM pg_replication_slots"), '39: the slot is dropped');
	until_clock($look, 3);
	my @lines = grep { /incbatch (?:worker|launcher): (?!DETAIL|HINT|LOG:  incbatch.fault is)/ } split /\n/, slurp_file($node->logfile, $offset);
	cmp_ok(scalar @lines, '<=', 3, '39: no more than three lines of ours in the log') or diag join "\n", @lines;
	is(lines_like(join("\n", @lines), qr/need a rebuild: the replication slot no longer has the WAL/), 1,
		'39: one of them says it');
	ask($look, 'ALTER SYSTEM RESET ALL');
	ask($look, 'SELECT pg_reload_conf()');
	rebuild(@shop_pipelines);
	ask($look, 'SELECT incbatch.resume_pipeline(pipeline) FROM incbatch.pipelines');
	are_exact($node, 'postgres', \@shop_pipelines, '39: rebuilt');
};

subtest '38: a worker that cannot work' => sub {
	my $reason = qr/it held more WAL than incbatch.max_retained_wal/;

	foreach my $how ('killed again and again', 'refused by the database')
	{
		my $offset = -s $node->logfile;

		are_exact($node, 'postgres', ['shop.totals'], "38: $how: before");
		if ($how eq 'refused by the database')
		{
			# this sends the worker away
			$node->safe_psql('template1', 'ALTER DATABASE postgres WITH ALLOW_CONNECTIONS false');
		}
		ask($look, fill_wal(2));
		my $gone = until_holds {
			my $pid = $node->safe_psql('template1',
				q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'incbatch worker' AND datname = 'postgres'});
			kill_process('TERM', $pid) if $pid ne '';
			ask($look, fill_wal(1));
			ask($look, "SELECT count(*) = 0 FROM pg_replication_slots") eq 't';
		};
		ok($gone, "38: $how: nothing holds WAL any more");
		$node->safe_psql('template1', 'ALTER DATABASE postgres WITH ALLOW_CONNECTIONS true');
		ok(until_true($look, "SELECT bool_and(state = 'needs_rebuild') FROM incbatch.path"),
			"38: $how: all need a rebuild");
		like(ask($look, "SELECT last_error FROM incbatch.path LIMIT 1"), $reason, "38: $how: and say why");
		like(slurp_file($node->logfile, $offset),
			qr/incbatch launcher: LOG:  incbatch gave up the place in the WAL of database/,
			"38: $how: the launcher did it");
		rebuild(@shop_pipelines);
		are_exact($node, 'postgres', \@shop_pipelines, "38: $how: rebuilt");
	}
};

subtest '48: checkpoints and little WAL, over crashes' => sub {
	set_conf($node, max_wal_size => '32MB', min_wal_size => '32MB', checkpoint_timeout => '30s',
		'incbatch.max_retained_wal' => '1GB');
	$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
	end_session($look);
	foreach my $loop (1 .. 4)
	{
		my $bench = start_pgbench($node, 'postgres',
			{ %{ orders_load($node, 4000) }, %{ bank_load() },
				checkpoint => [ 2, "CHECKPOINT;\n" ], switch => [ 2, "SELECT pg_switch_wal();\n" ] },
			'-c', 4, '-T', 60);
		my $watch = session($node, 'postgres');
		my $lsn = ask($watch, 'SELECT pg_current_wal_lsn()');
		ok(until_true($watch, "SELECT pg_current_wal_lsn() - '$lsn' > 96 * $megabyte"), "48: loop $loop wrote WAL");
		$node->stop('immediate');
		stop_pgbench($bench);
		end_session($watch);
		$node->start;
		is($node->safe_psql('postgres', "SELECT string_agg(DISTINCT state, ' ') FROM incbatch.pipelines"),
			'running', "48: loop $loop lost no place");
		are_exact($node, 'postgres', \@shop_pipelines, "48: loop $loop");
	}
	$look = session($node, 'postgres');
};

subtest '50: slots that nobody owns' => sub {
	my $dboid = $node->safe_psql('postgres', "SELECT oid FROM pg_database WHERE datname = 'postgres'");
	my $slots = q{SELECT coalesce(string_agg(slot_name, ' ' ORDER BY slot_name), '') FROM pg_replication_slots};

	ask($look, "SELECT pg_create_logical_replication_slot('stranger', 'test_decoding')");
	ask($look, "SELECT pg_create_physical_replication_slot('incbatch_1')");
	ask($look, 'BEGIN; DROP EXTENSION incbatch CASCADE; ROLLBACK');
	are_exact($node, 'postgres', ['shop.totals'], '50: DROP EXTENSION rolled back');
	is(ask($look, $slots), "incbatch_1 incbatch_$dboid stranger", '50: rolled back, the slot stays');

	# a crash right after the commit: nobody has dropped the slot yet
	kill_process('STOP', worker_pid($node, 'postgres'));
	my $stopped = worker_pid($node, 'postgres');
	ask($look, 'SET client_min_messages = error; DROP EXTENSION incbatch CASCADE');
	end_session($look);
	$node->stop('immediate');
	$node->start;
	$look = session($node, 'postgres');
	ok(until_true($look, "SELECT count(*) = 0 FROM pg_replication_slots WHERE slot_name = 'incbatch_$dboid'"),
		'50: after the crash the orphan is dropped');
	is(ask($look, $slots), 'incbatch_1 stranger', '50: others\' slots are not');

	# where there is no extension, a stranger's slot of our name is his
	ask($look, "SELECT pg_create_logical_replication_slot('incbatch_$dboid', 'test_decoding')");
	end_session($look);
	$node->restart;
	$look = session($node, 'postgres');
	ok(until_true($look, "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'incbatch launcher'"), '50: launcher');
	ok(until_true($look, "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'incbatch worker'"), '50: probes are over');
	is(ask($look, $slots), "incbatch_1 incbatch_$dboid stranger", '50: nor one of our name that is not ours');
	ask($look, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots");
	ask($look, 'DROP SCHEMA shop CASCADE');
};

subtest '51: wal_level is lowered' => sub {
	ask($look, 'SET client_min_messages = error');
	create_shop($node, 'postgres', 1000);
	create_pipelines($node, 'postgres', 'shop.totals' => '1 hour');
	$node->safe_psql('postgres', 'CREATE DATABASE second');
	create_shop($node, 'second', 100);
	create_pipelines($node, 'second');
	$node->safe_psql('postgres', 'CREATE ROLE nobody');
	fails_like($node, 'postgres', 'SET ROLE nobody; SELECT incbatch.prepare_shutdown()',
		qr/permission denied/, '51: not for everybody');
	is(slot_count($node), 2, '51: two slots');

	is($node->safe_psql('postgres', 'SELECT incbatch.prepare_shutdown()'), 2, '51: they are dropped');
	$node->safe_psql('postgres', "INSERT INTO shop.orders (product_id, region, amount_cents) VALUES (1, 'north', 10)");
	is($node->safe_psql('postgres', q{SELECT string_agg(DISTINCT state, ' ') FROM incbatch.workers}),
		'shutting down', '51: workers says so');
	fails_like($node, 'postgres', q{CALL incbatch.refresh_pipeline('shop.totals')},
		qr/no incbatch worker runs until the server restarts/, '51: nobody waits for them');
	fails_like($node, 'postgres', q{SELECT incbatch.wait_for('shop.totals')},
		qr/no incbatch worker runs until the server restarts/, '51: nor for a position');
	is(slot_count($node), 0, '51: none is made');
	$node->safe_psql('postgres', 'SELECT incbatch.prepare_shutdown(undo => true)');
	wait_for_state($node, 'postgres', $_, 'needs_rebuild') foreach @shop_pipelines;
	pass('51: undone, the workers come back and find their place lost');
	$node->safe_psql('postgres', 'SELECT incbatch.prepare_shutdown()');

	end_session($look);
	$node->stop;
	set_conf($node, wal_level => 'replica');
	my $offset = -s $node->logfile;
	$node->start;
	wait_for_state($node, $_, 'shop.totals', 'needs_rebuild') foreach 'postgres', 'second';
	fails_like($node, 'postgres', q{SELECT incbatch.rebuild_pipeline('shop.totals')},
		qr/wal_level/, '51: rebuild_pipeline at that wal_level');
	unlike(slurp_file($node->logfile, $offset), qr/(?:ERROR|FATAL):  logical decoding requires/, '51: no worker fails for it');
	$node->stop;
	set_conf($node, wal_level => 'logical');
	$node->start;
	foreach my $db ('postgres', 'second')
	{
		$node->safe_psql($db, "SELECT incbatch.rebuild_pipeline('$_')") foreach @shop_pipelines;
		are_exact($node, $db, \@shop_pipelines, "51: $db: round trip");
	}
	$node->safe_psql('postgres', 'DROP DATABASE second');
};

$node->stop;

subtest '38: a full disk' => sub {
	my $disk = small_disk(200);
	plan skip_all => 'cannot mount a file system' unless $disk;

	my $full = new_node('full', max_wal_size => '48MB', min_wal_size => '32MB', wal_recycle => 'off');
	system('mv', $full->data_dir, "$disk->{path}/data") == 0 or die 'mv failed';
	symlink("$disk->{path}/data", $full->data_dir) or die "symlink: $!";
	$full->start;
	create_shop($full, 'postgres', 2000);
	create_pipelines($full, 'postgres');
	are_exact($full, 'postgres', \@shop_pipelines, '38: before');

	# somebody else takes what is left, but for two segments
	my ($blocks, $size) = split ' ', `stat -f -c '%a %S' $disk->{path}`;
	system("head -c " . ($blocks * $size - 32 * $megabyte) . " /dev/zero > $disk->{path}/filler") == 0
	  or diag 'could not fill the disk as far as wanted';
	my $failed = 0;
	foreach (1 .. 200)
	{
		my ($ret, undef, $stderr) = $full->psql('postgres', q{
INSERT INTO shop.orders (product_id, region, amount_cents)
SELECT i % 21 + 1, shop.region(i % 5), i FROM generate_series(1, 2000) AS i;
UPDATE shop.orders SET region = 'west' WHERE order_id % 7 = 0;
DELETE FROM shop.orders WHERE order_id % 5 = 0});
		$failed++ if $ret != 0;
		last if $failed >= 5;
	}
	cmp_ok($failed, '>', 0, '38: the disk was full');
	unlink "$disk->{path}/filler";
	# the server may have come back already, or given up
	ok( until_holds {
			system($full->installed_command('pg_ctl') . ' -D ' . $full->data_dir
				  . ' -l ' . $full->logfile . ' start >/dev/null 2>&1')
			  unless -e $full->data_dir . '/postmaster.pid';
			(try_psql($full, 'postgres', 'SELECT 1'))[0] == 0;
		},
		'38: the server recovers');
	are_exact($full, 'postgres', \@shop_pipelines, '38: after it was full');
	is($full->safe_psql('postgres', q{SELECT string_agg(DISTINCT state, ' ') FROM incbatch.pipelines}),
		'running', '38: without a rebuild');
	$full->_update_pid(1);
	$full->stop;
	unlink $full->data_dir;
};

done_testing();

# A file system of so many megabytes in a mount namespace of its own, which ends
# with the process that holds it; undef where that is not allowed.
sub small_disk
{
	my ($size) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my ($in, $out) = ('', '');
	my $holder = eval {
		IPC::Run::start(
			[ 'unshare', '-Urm', 'sh', '-c', "mount -t tmpfs -o size=${size}m,mode=700 tmpfs $dir && echo mounted && exec cat" ],
			'<', \$in, '>', \$out, '2>', '/dev/null');
	};

	return unless $holder;
	IPC::Run::pump $holder while $out eq '' && $holder->pumpable;
	return unless $out =~ /mounted/;
	return { holder => $holder, path => "/proc/$holder->{KIDS}[0]{PID}/root$dir" };
}

# SQL that makes so many segments of WAL, with changes in each.
sub fill_wal
{
	my ($segments) = @_;

	return join '', map {
		"UPDATE shop.bank SET branch = 'branch ' || $_ % 10 WHERE account = $_; SELECT pg_switch_wal();\n"
	} 1 .. $segments;
}

sub lines_like
{
	my ($text, $like) = @_;

	return scalar grep { /$like/ } split /\n/, $text;
}

# Write WAL, a quarter of a segment at a time, until a query returns t; fails
# after so many segments.  The paths get to run in between.
sub fill_until
{
	my ($sql, $segments) = @_;

	foreach (1 .. 4 * $segments)
	{
		ask($look, q{SELECT pg_logical_emit_message(false, 'busy', repeat('x', 4000000))});
		# whoever runs has read it
		ask($look, q{
DO $$ BEGIN
	PERFORM incbatch.wait_for('shop.by_category', timeout => '10 s');
EXCEPTION WHEN object_not_in_prerequisite_state THEN NULL;
END $$});
		return 1 if ask($look, $sql) eq 't';
	}
	diag ask($look, 'SELECT retained_percent, warning, pinned_by, retained_wal_bytes FROM incbatch.workers');
	return 0;
}

sub holds_less
{
	my ($megabytes) = @_;

	return until_true($look, qq{
DO \$\$ BEGIN PERFORM pg_logical_emit_message(false, 'busy', repeat('x', 1500000)); END \$\$;
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) < $megabytes * $megabyte FROM pg_replication_slots WHERE slot_name = '$slot'});
}

sub states
{
	return ask($look, "SELECT string_agg(DISTINCT state, ' ') FROM incbatch.pipelines");
}

sub rebuild
{
	ask($look, "SELECT incbatch.rebuild_pipeline('$_')") foreach @_;
	return;
}
