
# What the surroundings of a worker may be: settings, owners, locks, clocks.
#
# Proves, by the numbers of test/HAZARDS.md:
# - 36: ten sessions that refresh beside triggers get exact tables;
# - 61: the owner of a live pipeline may be renamed, get another, lose LOGIN, and
#   cannot be dropped; DROP OWNED drops the pipeline;
# - 62: no setting of the database or of all roles changes what a worker computes
#   or how soon;
# - 63: a lock on an aggregate, or on rows of it, is shown with its holder, while the other
#   pipelines go on, and so is a session that changes a pipeline;
# - 64: when the clock steps, triggers go on by the monotonic clock, and lag and
#   as_of do not lie;
# - 65: single-user mode and a standby say that no worker runs there.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IncBatch;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# Settings that hurt a worker that takes them from its database.
my %hostile = (
	role                                => 'nobody',
	exit_on_error                       => 'on',
	default_transaction_read_only       => 'on',
	default_transaction_isolation       => 'serializable',
	default_transaction_deferrable      => 'on',
	search_path                         => 'elsewhere',
	statement_timeout                   => '1',
	lock_timeout                        => '1',
	idle_in_transaction_session_timeout => '1',
	idle_session_timeout                => '1',
	row_security                        => 'on',
	default_tablespace                  => 'pg_default',
	session_replication_role            => 'replica',
	synchronous_commit                  => 'off',
	DateStyle                           => 'SQL, DMY',
	IntervalStyle                       => 'sql_standard',
	TimeZone                            => 'Asia/Kolkata',
	extra_float_digits                  => '-15',
	bytea_output                        => 'escape',
	lc_monetary                         => 'C',
	lc_numeric                          => 'C',
	lc_time                             => 'C',
	default_text_search_config          => 'pg_catalog.german',
	xmloption                           => 'document',
	standard_conforming_strings         => 'off',
	backslash_quote                     => 'off',
	array_nulls                         => 'off',
	transform_null_equals               => 'on',
	quote_all_identifiers               => 'on',
	client_min_messages                 => 'error',
	client_encoding                     => 'LATIN1',
	application_name                    => 'somebody',
	jit                                 => 'on',
	jit_above_cost                      => '0',
	max_parallel_workers_per_gather     => '4',
	parallel_setup_cost                 => '0',
	parallel_tuple_cost                 => '0',
	work_mem                            => '64kB',
	temp_file_limit                     => '0',
	enable_hashagg                      => 'off',
	enable_seqscan                      => 'off',
	enable_indexscan                    => 'off',
	plan_cache_mode                     => 'force_generic_plan',
	join_collapse_limit                 => '1',
	deadlock_timeout                    => '10ms',
	commit_delay                        => '1000',
	track_activities                    => 'off',
	track_counts                        => 'off',
	check_function_bodies               => 'on',
	log_min_error_statement             => 'panic',);

# Constants that are text for a moment, and values whose text depends on settings.
$query{'shop.texts'} = q{
SELECT k, count(*) AS n, max(v) AS largest, sum(i) AS whole,
       count(*) FILTER (WHERE v > 33.333333333333336) AS above,
       count(*) FILTER (WHERE d >= date '2024-03-02') AS later,
       max(i + interval '-1 day -2:03:04') AS earlier,
       bool_or(w = ANY ('{a,NULL,"NULL"}'::text[])) AS listed,
       count(*) FILTER (WHERE w = E'a\\\\b') AS slashed,
       min(v::text) AS v_text, min(d::text) AS d_text, min(i::text) AS i_text,
       min(t::text) AS t_text, min(b::text) AS b_text, min(to_char(t, 'TMDay')) AS day
  FROM shop.texts_source
 GROUP BY k};

$query{'shop.scaled'} = q{
SELECT k, sum(i) + interval '-1 day -2:03:04' AS moved, count(*) * 0.12345678901234567::float8 AS part,
       max(d) > date '2024-03-02' AS late, count(w) + 0 = ANY (ARRAY[8, NULL]) AS eight
  FROM shop.texts_source
 GROUP BY k};

# Of these, those that change what text means.
my @text = qw(DateStyle IntervalStyle extra_float_digits array_nulls transform_null_equals quote_all_identifiers);

# So little memory that a batch needs a temporary file.
my $node = new_node('main', 'incbatch.work_mem' => '64kB');
$node->start;
create_shop($node, 'postgres');
$node->safe_psql(
	'postgres', q{
CREATE ROLE nobody;
CREATE TABLE shop.texts_source (id int PRIMARY KEY, k int, v float8, d date, i interval, t timestamptz, b bytea, w text);
ALTER TABLE shop.texts_source REPLICA IDENTITY FULL;
CREATE FUNCTION shop.add_texts(n int) RETURNS void LANGUAGE sql SET search_path = pg_catalog AS $$
INSERT INTO shop.texts_source
SELECT i, nullif(i % 4, 0), i / 3.0, date '2024-03-01' + i % 3, make_interval(days => -i, hours => i),
       timestamptz '2024-03-01 12:00+00' + make_interval(hours => i), decode(lpad(to_hex(i), 8, '0'), 'hex'),
       (ARRAY['a', 'b', NULL, 'NULL', E'a\\\\b'])[1 + i % 5]
  FROM generate_series(n + 1, n + 100) AS i;
UPDATE shop.texts_source SET k = 1, v = v + 1 WHERE id % 7 = 0;
DELETE FROM shop.texts_source WHERE id % 11 = 0 $$;
SELECT shop.add_texts(0)});
my @names = ('shop.by_category', 'shop.extremes', 'shop.texts');
create_pipeline($node, 'postgres', $_, $query{$_}, trigger_interval => '0') foreach @names;
are_exact($node, 'postgres', \@names, 'to begin with');

subtest '36: ten sessions refresh beside triggers' => sub {
	my $load = start_pgbench($node, 'postgres', orders_load($node, 1000), '-c', 2, '-T', 600, '-R', 100);
	my $refresh = start_pgbench($node, 'postgres',
		{ refresh => [ 1, "CALL incbatch.refresh_pipeline('shop.by_category');\nSELECT 1 / (sum(orders) > 0)::int FROM shop.by_category;\n" ] },
		'-c', 10, '-t', 15);
	my ($exit, $output, $calls) = finish_pgbench($refresh);
	stop_pgbench($load);
	is("$exit $calls", '0 150', '36: all refreshes return') or diag $output;
	are_exact($node, 'postgres', \@names, '36: beside triggers');
};

subtest '61: owners' => sub {
	$node->safe_psql('postgres', q{
CREATE ROLE one LOGIN;
CREATE ROLE two LOGIN;
GRANT USAGE, CREATE ON SCHEMA shop TO one, two;
GRANT SELECT ON ALL TABLES IN SCHEMA shop TO one, two;
GRANT incbatch_user TO one, two;
SET ROLE one;
} . IncBatch::create_pipeline_sql('shop.spread', $query{'shop.spread'}, trigger_interval => '0'));
	foreach my $case (
		[ 'renamed', 'ALTER ROLE one RENAME TO uno' ],
		[ 'without LOGIN', 'ALTER ROLE uno NOLOGIN' ],
		[ 'REASSIGN OWNED', 'REASSIGN OWNED BY uno TO two' ],
		[ 'the first one dropped', 'DROP OWNED BY uno; DROP ROLE uno' ],
		[ 'ALTER OWNER', 'BEGIN; ALTER VIEW shop.spread OWNER TO CURRENT_USER; ALTER VIEW shop.spread_batch OWNER TO CURRENT_USER; ALTER TABLE shop.spread_state OWNER TO CURRENT_USER; COMMIT' ],
		[ 'and back', 'BEGIN; ALTER VIEW shop.spread OWNER TO two; ALTER VIEW shop.spread_batch OWNER TO two; ALTER TABLE shop.spread_state OWNER TO two; COMMIT' ])
	{
		my ($what, $sql) = @$case;

		$node->safe_psql('postgres', $sql);
		change();
		are_exact($node, 'postgres', ['shop.spread'], "61: $what");
	}
	fails_like($node, 'postgres', 'DROP ROLE two', qr/cannot be dropped because some objects depend on it/,
		'61: the owner cannot be dropped');
	$node->safe_psql('postgres', 'DROP OWNED BY two CASCADE');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM incbatch.pipelines WHERE pipeline = 'shop.spread'}),
		0, '61: DROP OWNED drops the pipeline');
	change();
	are_exact($node, 'postgres', \@names, '61: the others go on');
};

subtest '63: locks' => sub {
	my $look   = session($node, 'postgres');
	my $holder = session($node, 'postgres');
	my $holder_pid = ask($holder, 'SELECT pg_backend_pid()');
	my $reason = q{SELECT coalesce(reason, '') FROM incbatch.lag WHERE pipeline = 'shop.by_category'};
	my $worker = worker_pid($node, 'postgres');

	ask($holder, 'BEGIN; SELECT count(*) FROM (SELECT FROM shop.by_category_state FOR UPDATE) AS s');
	$node->safe_psql('postgres', 'UPDATE shop.orders SET amount_cents = amount_cents + 1');
	ok(until_true($look, "SELECT ($reason) LIKE 'shop.by_category_state is locked by process $holder_pid%'"),
		'63: the lag names who has rows locked');
	are_exact($node, 'postgres', ['shop.extremes'], '63: another pipeline beside it');
	ok(until_true($look, q{SELECT status = 'stuck' FROM incbatch.lag WHERE pipeline = 'shop.by_category'}),
		'63: the status');
	ask($holder, 'ROLLBACK');
	are_exact($node, 'postgres', \@names, '63: when the rows are free');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM incbatch.lag WHERE reason LIKE '%locked%'}), 0,
		'63: nothing is locked any more');

	# Nobody's process has it locked, and in another database no worker runs.
	$node->safe_psql('postgres', 'CREATE DATABASE closed');
	create_extension($node, 'closed');
	$node->safe_psql('closed', q{CREATE TABLE t (a int); ALTER TABLE t REPLICA IDENTITY FULL});
	create_pipeline($node, 'closed', 'counted', 'SELECT a, count(*) FROM t GROUP BY a');
	wait_for_worker($node, 'closed');
	$node->safe_psql('postgres', 'ALTER DATABASE closed ALLOW_CONNECTIONS false');
	ok(until_true($look, q{SELECT pid IS NULL FROM incbatch.workers WHERE database = 'closed'}),
		'63: in another database no worker runs');
	ask($holder, 'BEGIN; LOCK TABLE shop.by_category_state IN SHARE MODE');
	$node->safe_psql('postgres', 'UPDATE shop.orders SET amount_cents = amount_cents + 1');
	ok(until_true($look, "SELECT ($reason) = 'shop.by_category_state is locked by process $holder_pid'"),
		'63: the lag names who has the table locked all the same');
	ask($holder, q{PREPARE TRANSACTION 'a ''lock'''});
	ok(until_true($look, "SELECT ($reason) = \$\$shop.by_category_state is locked by prepared transaction 'a ''lock'''\$\$"),
		'63: also a prepared transaction');
	ask($holder, q{ROLLBACK PREPARED 'a ''lock'''});
	$node->safe_psql('postgres', 'DROP DATABASE closed');
	are_exact($node, 'postgres', \@names, '63: when the table is free');

	# A session that changes the pipeline while it rebuilds.
	ask($holder, q{BEGIN; SELECT FROM incbatch.path WHERE relation = 'shop.by_category_state'::regclass FOR UPDATE});
	ask($look, q{UPDATE shop.orders SET region = NULL WHERE product_id = 3});
	are_exact($node, 'postgres', ['shop.extremes'], '63: another pipeline beside a changed one');
	are_exact($node, 'postgres', ['shop.by_category'], '63: which itself goes on');
	ask($holder, 'ROLLBACK');

	# Who waits for us waits no longer than for anybody: we give way.
	foreach my $try (1 .. 3)
	{
		ask($holder, 'BEGIN; UPDATE shop.by_category_state SET region = region');
		$node->safe_psql('postgres', 'UPDATE shop.orders SET amount_cents = amount_cents + 1');
		until_true($look, "SELECT ($reason) LIKE '%is locked%'");
		my $seconds = timed { ask($holder, 'LOCK TABLE shop.by_category_state; LOCK TABLE shop.orders; COMMIT') };
		cmp_ok($seconds, '<', 20, "63: try $try: a session with half of the locks gets the others");
	}
	are_exact($node, 'postgres', \@names, '63: in the end');
	is(worker_pid($node, 'postgres'), $worker, '63: it is the same worker');
	end_session($look, $holder);
};

subtest '62: settings' => sub {
	my $before = $node->safe_psql('postgres', 'TABLE shop.texts ORDER BY k');
	my $worker = worker_pid($node, 'postgres');
	my $offset = -s $node->logfile;

	foreach my $where ('DATABASE postgres', 'ROLE ALL')
	{
		my @statements = map { "ALTER $where SET $_ = '$hostile{$_}'" } sort keys %hostile;
		local $ENV{PGOPTIONS} = harmless();
		$node->safe_psql('postgres', join ';', @statements);
		$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
		$worker = wait_for_worker($node, 'postgres', $worker);
		$node->safe_psql('postgres', q{SELECT shop.add_texts(coalesce(max(id), 0)) FROM shop.texts_source});
		$node->safe_psql('postgres', q{INSERT INTO shop.orders (product_id, region, amount_cents) SELECT 1, 'large', i FROM generate_series(1, 5000) AS i});
		my $seconds = timed { are_exact($node, 'postgres', \@names, "62: $where") };
		cmp_ok($seconds, '<', 30, "62: $where: as soon as before");
		$node->safe_psql('postgres', join ';', (map { "SET $_ = '$hostile{$_}'" } @text),
			IncBatch::create_pipeline_sql('shop.scaled', $query{'shop.scaled'}, trigger_interval => '0'));
		are_exact($node, 'postgres', ['shop.scaled'], "62: $where: created under them");
		$node->safe_psql('postgres', "SELECT incbatch.drop_pipeline('shop.scaled')");
		$node->safe_psql('postgres', "SELECT incbatch.rebuild_pipeline('shop.texts')");
		are_exact($node, 'postgres', ['shop.texts'], "62: $where: rebuilt");
		is(worker_pid($node, 'postgres'), $worker, "62: $where: the worker lives");
		$node->safe_psql('postgres', "ALTER $where RESET ALL");
	}
	unlike(slurp_file($node->logfile, $offset), qr/ERROR:/, '62: and has nothing to say')
	  or diag slurp_file($node->logfile, $offset);
	are_exact($node, 'postgres', \@names, '62: without them again');
};

subtest '65: a standby, and single-user mode' => sub {
	$node->backup('base');
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	$standby->init_from_backup($node, 'base', has_streaming => 1);
	$standby->start;
	fails_like($standby, 'postgres', q{CALL incbatch.refresh_pipeline('shop.texts')},
		qr/no incbatch worker runs on a standby.*primary/s, '65: refresh_pipeline');
	fails_like($standby, 'postgres', q{SELECT incbatch.wait_for('shop.texts', '0/1')},
		qr/no incbatch worker runs on a standby/, '65: wait_for');
	fails_like($standby, 'postgres', q{SELECT incbatch.rebuild_pipeline('shop.texts')},
		qr/read-only transaction|recovery/, '65: rebuild_pipeline');
	is($standby->safe_psql('postgres', 'SELECT count(*) FROM incbatch.lag'), scalar @names, '65: the lag can be seen');
	$node->wait_for_catchup($standby);
	is(differences($standby, 'postgres', 'shop.texts', no_refresh => 1), '', '65: and the aggregate is that of the primary');
	is(worker_pid($standby, 'postgres'), '', '65: no worker runs');
	$standby->stop;

	$node->stop;
	my ($out, $err) = ('', '');
	IPC::Run::run(
		[ $node->installed_command('postgres'), '--single', '-D', $node->data_dir, 'postgres' ],
		'<', \"INSERT INTO shop.texts_source (id, k) VALUES (-1, 1)\nCALL incbatch.refresh_pipeline('shop.texts')\n",
		'>', \$out, '2>', \$err);
	like($err, qr/no incbatch worker runs in single-user mode/, '65: single-user mode');
	$node->start;
	are_exact($node, 'postgres', ['shop.texts'], '65: what was written there is folded in later');
	$node->stop;
};

subtest '64: the clock steps' => sub {
	my ($library) = glob '/usr/lib/*/faketime/libfaketime.so.1';

	plan skip_all => 'libfaketime is not installed' unless $library;
	my $fake  = new_node('fake', fsync => 'off');
	my $clock = $fake->basedir . '/clock';
	my $step  = sub {
		open my $file, '>', "$clock.new" or die $!;
		print $file "$_[0]\n";
		close $file;
		rename "$clock.new", $clock or die $!;
	};

	$step->('+0');
	local %ENV = (%ENV, LD_PRELOAD => $library, FAKETIME_TIMESTAMP_FILE => $clock,
		FAKETIME_NO_CACHE => 1, FAKETIME_DONT_FAKE_MONOTONIC => 1, DONT_FAKE_MONOTONIC => 1);
	$fake->start;
	delete @ENV{qw(LD_PRELOAD FAKETIME_TIMESTAMP_FILE FAKETIME_NO_CACHE)};
	create_shop($fake, 'postgres');
	create_pipeline($fake, 'postgres', 'shop.by_category', $query{'shop.by_category'}, trigger_interval => '1 second');
	are_exact($fake, 'postgres', ['shop.by_category'], '64: to begin with');
	my $look = session($fake, 'postgres');
	my $last = ask($look, 'SELECT max(as_of) FROM incbatch.lag');

	foreach my $jump ('-1d', '+365d', '+0')
	{
		$step->($jump);
		ask($look, 'SELECT clock_timestamp()');
		my $now = time;
		foreach (1 .. 2)
		{
			my $orders = ask($look, q{INSERT INTO shop.orders (product_id, region, amount_cents) VALUES (4, 'west', 110);
SELECT count(*) FROM shop.orders JOIN shop.product USING (product_id)});
			ok(until_true($look, "SELECT sum(orders) = $orders FROM shop.by_category"), "64: $jump: the trigger comes");
		}
		cmp_ok(time - $now, '<', 30, "64: $jump: as it did before");
		ok(until_true($look, q{SELECT staleness BETWEEN '0' AND '10 s' AND status = 'fresh' AND as_of BETWEEN clock_timestamp() - interval '10 s' AND clock_timestamp() FROM incbatch.lag}),
			"64: $jump: lag does not lie");
		is(ask($look, q{SELECT count(*) FROM incbatch.batches WHERE latency_max < '0'}), 0, "64: $jump: no negative latency");
		my $worker = worker_pid($fake, 'postgres');
		$fake->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
		wait_for_worker($fake, 'postgres', $worker);
		are_exact($fake, 'postgres', ['shop.by_category'], "64: $jump: a worker that starts then");
	}
	end_session($look);
	$fake->stop;
};

done_testing();

# Changes of every kind.
sub change
{
	$node->safe_psql(
		'postgres', q{
INSERT INTO shop.orders (product_id, region, amount_cents) SELECT i % 20 + 1, shop.region(i % 5), i * 50 FROM generate_series(1, 50) AS i;
UPDATE shop.orders SET region = 'west' WHERE order_id IN (SELECT order_id FROM shop.orders ORDER BY order_id DESC LIMIT 7);
DELETE FROM shop.orders WHERE order_id IN (SELECT order_id FROM shop.orders ORDER BY order_id LIMIT 5)});
	return;
}

# Options of a session that is as it was before the settings.
sub harmless
{
	my $names    = join ',', map { "'$_'" } grep { $_ ne 'role' } sort keys %hostile;
	my $settings = $node->safe_psql('postgres',
		"SELECT format('-c %s=%s', name, setting) FROM pg_settings WHERE name IN ($names)");

	return join ' ', '-c role=none', map { s/\\/\\\\/g; s/^-c //; s/ /\\ /g; "-c $_" } split /\n/, $settings;
}
