
=pod

=head1 NAME

IncBatch - what the TAP tests of incbatch share

=head1 SYNOPSIS

  use FindBin;
  use lib "$FindBin::RealBin/../perl";
  use IncBatch;

  my $node = new_node('main');
  $node->start;
  create_shop($node, 'postgres');
  create_pipeline($node, 'postgres', 'shop.totals', $query{'shop.totals'},
      trigger_interval => '0');
  are_exact($node, 'postgres', ['shop.totals'], 'after the backfill');

=head1 DESCRIPTION

A server with the settings of F<test/server.conf>, a small shop whose tables
feed pipelines, pgbench in the background, and the oracle: after
C<CALL incbatch.refresh_pipeline>, C<(aggregate EXCEPT ALL query) UNION ALL
(query EXCEPT ALL aggregate)> has no row.  The query of the oracle is the text
that the test itself holds, not what the extension has stored of it.

Nothing here sleeps for a result: it polls for a state, a row or an LSN, and
fails when that does not come.

To run the tests by hand, as an ordinary user (initdb refuses root):

  export PATH=$(pg_config --bindir):$PATH
  export PG_REGRESS=$(dirname $(pg_config --pgxs))/../test/regress/pg_regress
  export TESTDIR=/tmp/incbatch-tap; mkdir -p $TESTDIR
  prove -v -I $(dirname $(pg_config --pgxs))/../test/perl test/t/*.pl

=cut

package IncBatch;

use strict;
use warnings;

use Carp;
use Exporter 'import';
use File::Basename;
use IPC::Run;
use Test::More;
use Time::HiRes qw(time usleep);

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(
  %query @shop_pipelines $bank_total
  new_node set_conf create_extension create_shop create_pipeline
  create_pipelines wait_for_state differences are_exact frontiers
  worker_pid launcher_pid wait_for_worker worker_is_gone slot_name slot_count
  kill_process
  session end_session ask send_sql until_true until_holds
  until_clock try_psql until_answers hang_commit release_commit
  start_pgbench pgbench_is_running finish_pgbench stop_pgbench
  orders_load bank_load bank_reader
  timed fails_like
);

my $test_dir = dirname(dirname(__FILE__));

# What the 100 accounts of the bank hold together, at every instant.
our $bank_total = 100_000;

# The batch queries that most tests use, by the name of their pipeline.
our %query = (
	'shop.by_category' => q{
SELECT date_trunc('hour', o.order_timestamp) AS hour_ts, p.category, o.region,
       count(*) AS orders, sum(o.amount_cents) / 100.0 AS revenue
  FROM shop.orders o JOIN shop.product p ON p.product_id = o.product_id
 GROUP BY 1, 2, 3},
	'shop.extremes' => q{
SELECT o.product_id, o.region,
       min(o.amount_cents) AS smallest, max(o.amount_cents) AS largest,
       avg(o.amount_cents) AS average, stddev(o.amount_cents) AS deviation,
       bool_or(o.amount_cents > 9000) AS huge,
       count(*) FILTER (WHERE o.amount_cents > 5000) AS large,
       count(o.amount_cents) AS priced
  FROM shop.orders o
 GROUP BY o.product_id, o.region},
	# Every change evaluates its groups again.
	'shop.spread' => q{
SELECT o.product_id, o.region, count(DISTINCT o.amount_cents) AS amounts,
       percentile_disc(0.5) WITHIN GROUP (ORDER BY o.amount_cents) AS median,
       string_agg(o.amount_cents::text, ' ' ORDER BY o.amount_cents) AS list
  FROM shop.orders o
 GROUP BY o.product_id, o.region},
	# Every third change of a group makes it vanish or come back.
	'shop.thirds' => q{
SELECT p.category, o.region, o.product_id,
       count(*) AS orders, sum(o.amount_cents) AS amount
  FROM shop.orders o JOIN shop.product p ON p.product_id = o.product_id
 GROUP BY p.category, o.region, o.product_id
HAVING count(*) % 3 <> 0},
	'shop.totals' => q{
SELECT branch, sum(balance) AS total, count(*) AS accounts
  FROM shop.bank
 GROUP BY branch},);

# Those over shop.orders and the one over shop.bank, in a stable order.
our @shop_pipelines = sort keys %query;

# Make an interrupted test run its END blocks, which stop the servers and pgbench.
$SIG{TERM} = $SIG{INT} = sub { die 'death by signal' };

# ---------------------------------------------------------------------------
# Servers and schemas

# A node that is initialised and not started, with test/server.conf and
# crash safety as in production.  %settings come last and win.
sub new_node
{
	my ($name, %settings) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(allows_streaming => 'logical');
	$node->append_conf('postgresql.conf',
		slurp_file("$test_dir/server.conf"));
	set_conf(
		$node,
		# Cluster.pm turns these two off; a crash test without them is none.
		fsync                    => 'on',
		restart_after_crash      => 'on',
		log_statement            => 'none',
		log_replication_commands => 'off',
		max_connections          => 40,
		shared_buffers           => '64MB',
		max_wal_size             => '1GB',
		wal_log_hints            => 'off',
		%settings);
	return $node;
}

# Append settings to postgresql.conf, where the last of a name wins.
sub set_conf
{
	my ($node, %settings) = @_;

	$node->append_conf('postgresql.conf',
		join "\n", map { "$_ = '$settings{$_}'" } sort keys %settings);
	return;
}

sub create_extension
{
	my ($node, $db) = @_;

	$node->safe_psql($db, 'CREATE EXTENSION incbatch');
	return;
}

# The extension, shop.product (20 rows), shop.orders ($rows rows, of which the
# load leaves the first 100 alone) and shop.bank (100 accounts).
sub create_shop
{
	my ($node, $db, $rows) = @_;
	$rows = 1000 unless defined $rows;

	create_extension($node, $db);
	$node->safe_psql(
		$db, qq{
CREATE SCHEMA shop;

-- The fifth region is NULL: a group key like any other.
CREATE FUNCTION shop.region(n int) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (ARRAY['north', 'south', 'east', 'west'])[n];

-- Product 21 is ordered and does not exist: the join leaves it out.
CREATE TABLE shop.product (
	product_id int PRIMARY KEY,
	category   text NOT NULL
);
INSERT INTO shop.product SELECT i, 'category ' || i % 5 FROM generate_series(1, 20) AS i;

CREATE TABLE shop.orders (
	order_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	product_id      int,
	region          text,
	amount_cents    int,
	order_timestamp timestamptz NOT NULL DEFAULT '2024-03-01 12:00+00'
);
ALTER TABLE shop.orders REPLICA IDENTITY FULL;
INSERT INTO shop.orders (product_id, region, amount_cents, order_timestamp)
SELECT 1 + i % 21, shop.region(1 + i % 5), nullif(i * 7 % 201, 0) * 50,
       timestamptz '2024-03-01 00:00+00' + i % 48 * interval '1 hour'
  FROM generate_series(1, $rows) AS i;

CREATE TABLE shop.bank (
	account int PRIMARY KEY,
	branch  text NOT NULL,
	balance int NOT NULL
);
ALTER TABLE shop.bank REPLICA IDENTITY FULL;
INSERT INTO shop.bank SELECT i, 'branch ' || i % 10, $bank_total / 100 FROM generate_series(1, 100) AS i;

-- What every reader of shop.totals must see at every instant.
CREATE FUNCTION shop.check_totals() RETURNS void
LANGUAGE plpgsql AS \$\$
DECLARE
	seen     bigint;
	smallest bigint;
BEGIN
	SELECT sum(total), min(accounts) INTO seen, smallest FROM shop.totals;
	IF seen IS DISTINCT FROM $bank_total THEN
		RAISE EXCEPTION 'shop.totals adds up to % instead of $bank_total', seen;
	END IF;
	IF smallest < 1 THEN
		RAISE EXCEPTION 'shop.totals has a branch of % accounts', smallest;
	END IF;
END \$\$;

VACUUM (ANALYZE) shop.orders, shop.product, shop.bank;
});
	return;
}

# Create one pipeline; %options are further parameters of create_pipeline().
sub create_pipeline
{
	my ($node, $db, $name, $query, %options) = @_;

	return $node->safe_psql($db, create_pipeline_sql($name, $query, %options));
}

sub create_pipeline_sql
{
	my ($name, $query, %options) = @_;
	my $more = join '', map { ", $_ => '$options{$_}'" } sort keys %options;

	return
	  "SELECT incbatch.create_pipeline('$name', \$query\$$query\$query\$$more);";
}

# Create the four pipelines of %query, each at its cadence in %triggers (else
# at once), and wait until they run.
sub create_pipelines
{
	my ($node, $db, %triggers) = @_;

	foreach my $name (@shop_pipelines)
	{
		my $trigger = defined $triggers{$name} ? $triggers{$name} : '0';
		create_pipeline($node, $db, $name, $query{$name},
			trigger_interval => $trigger);
	}
	wait_for_state($node, $db, $_, 'running') foreach @shop_pipelines;
	return;
}

# ---------------------------------------------------------------------------
# Looking

# Poll until the pipeline is in $state; dies when it never is.
sub wait_for_state
{
	my ($node, $db, $name, $state) = @_;

	$node->poll_query_until($db,
		"SELECT state FROM incbatch.pipelines WHERE pipeline::text = '$name'",
		$state)
	  or croak "pipeline $name did not become $state";
	return;
}

# Refresh a pipeline and compare it with its query: '' when both have the same
# rows, else what went wrong or up to ten of the rows that differ.
sub differences
{
	my ($node, $db, $name, %options) = @_;
	my $query   = $options{query} || $query{$name};
	my $refresh = $options{no_refresh} ? '' : "CALL incbatch.refresh_pipeline('$name');";

	my ($ret, $stdout, $stderr) = $node->psql(
		$db, qq{
SET statement_timeout = '120s';
$refresh
SELECT 'only in the aggregate: ' || d::text
  FROM (TABLE $name EXCEPT ALL ($query)) AS d
UNION ALL
SELECT 'only in the query: ' || d::text
  FROM (($query) EXCEPT ALL TABLE $name) AS d
 LIMIT 10;
});
	return $ret == 0 ? $stdout : "cannot compare: $stderr";
}

# One assertion for each pipeline: refreshed, it equals its query.
sub are_exact
{
	my ($node, $db, $names, $label, %options) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	foreach my $name (@$names)
	{
		is(differences($node, $db, $name, %options),
			'', "$label: $name equals its query");
	}
	return;
}

# The frontier of every path, as a number, by "pipeline/path".
sub frontiers
{
	my ($node, $db) = @_;
	my $rows = $node->safe_psql(
		$db, q{
SELECT pipeline || '/' || path, (frontier_lsn - '0/0')::bigint
  FROM incbatch.paths
 WHERE frontier_lsn IS NOT NULL});

	return map { split /\|/, $_ } split /\n/, $rows;
}

# ---------------------------------------------------------------------------
# The background processes and the slot

# Process id of the worker of a database, '' when there is none.
sub worker_pid
{
	my ($node, $db) = @_;

	return $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'incbatch worker' AND datname = '$db'"
	);
}

# Poll until there is a launcher; returns its process id.
sub launcher_pid
{
	my ($node) = @_;

	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'incbatch launcher'"
	) or croak 'no launcher';
	return $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'incbatch launcher'"
	);
}

# Poll until the database has exactly one worker, and another than $old when
# that is given; returns its process id.
sub wait_for_worker
{
	my ($node, $db, $old) = @_;
	my $not_old = $old ? "AND min(pid) <> $old" : '';

	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 $not_old FROM pg_stat_activity WHERE backend_type = 'incbatch worker' AND datname = '$db'"
	) or croak "no worker for database $db";
	return worker_pid($node, $db);
}

# Poll until neither a worker nor a slot is left of database oid $dboid.
sub worker_is_gone
{
	my ($node, $dboid) = @_;

	return $node->poll_query_until(
		'postgres', qq{
SELECT NOT EXISTS (SELECT FROM pg_stat_activity
                    WHERE backend_type = 'incbatch worker' AND datid = $dboid)
   AND NOT EXISTS (SELECT FROM pg_replication_slots
                    WHERE slot_name = 'incbatch_$dboid')});
}

# Send a signal to one process of the server.
sub kill_process
{
	my ($signal, $pid) = @_;

	# kill() would take '' for 0: the whole process group, this test with it.
	croak "no process to send SIG$signal" unless $pid =~ /^[1-9]\d*$/;
	kill($signal, $pid) == 1 or croak "process $pid: $!";
	return;
}

sub slot_name
{
	my ($node, $db) = @_;

	return 'incbatch_'
	  . $node->safe_psql('postgres',
		"SELECT oid FROM pg_database WHERE datname = '$db'");
}

# How many slots of ours the cluster has.
sub slot_count
{
	my ($node) = @_;

	return $node->safe_psql('postgres',
		"SELECT count(*) FROM pg_replication_slots WHERE plugin = 'incbatch'");
}

# ---------------------------------------------------------------------------
# Sessions

my $question = 0;

# A psql session that stays open and goes on after an error.
sub session
{
	my ($node, $db) = @_;
	my $session = $node->background_psql($db, on_error_stop => 0);

	$session->set_query_timer_restart;
	return $session;
}

# End sessions, also those whose server has crashed or that were idle for longer
# than a query may take.
sub end_session
{
	foreach my $session (grep { defined } @_)
	{
		$session->{timeout}->start;
		eval { $session->quit };
	}
	return;
}

# Run SQL in a session and return its output; dies when the last statement
# fails.  Unlike BackgroundPsql's query() it keeps quiet, for use in loops.
sub ask
{
	my ($session, $sql) = @_;
	my $end = 'answer ' . ++$question . ' error';

	$sql =~ s/;?\s*\z/;/;
	$session->{stderr} = '';
	my $answer =
	  $session->query_until(qr/^$end (?:true|false)\n/m, "$sql\n\\echo $end :ERROR\n");
	$answer =~ s/\n?^$end (true|false)\n//m
	  or croak "session ended in: $sql";
	croak "$sql\n$session->{stderr}" if $1 eq 'true';
	return $answer;
}

# Send SQL in a session without waiting for its end; ask() waits for it.
sub send_sql
{
	my ($session, $sql) = @_;
	my $sent = 'sent ' . ++$question;

	$sql =~ s/;?\s*\z/;/;
	$session->query_until(qr/^$sent\n/m, "\\echo $sent\n$sql\n");
	return;
}

# Poll a session every few milliseconds until a query returns t.
sub until_true
{
	my ($session, $sql, $seconds) = @_;
	my $end = time + (defined $seconds ? $seconds
		: $PostgreSQL::Test::Utils::timeout_default);

	while (time < $end)
	{
		return 1 if ask($session, $sql) eq 't';
		usleep(5_000);
	}
	diag "never true: $sql";
	return 0;
}

# Call a piece of code again and again until it returns true, and return that.
sub until_holds(&)
{
	my ($code) = @_;
	my $end = time + $PostgreSQL::Test::Utils::timeout_default;

	while (time < $end)
	{
		my $result = $code->();
		return $result if $result;
		usleep(50_000);
	}
	return 0;
}

# As psql() of the node; when the server refuses a connection, that may throw.
sub try_psql
{
	my ($node, $db, $sql) = @_;
	my @result = eval { $node->psql($db, $sql) };

	return @result ? @result : (2, '', "no connection: $@");
}

# Wait for the server to recover.
sub until_answers
{
	my ($node) = @_;

	return until_holds { (try_psql($node, 'postgres', 'SELECT true'))[0] == 0 };
}

# Let the server's clock advance by $seconds: the length of an observation,
# where nothing is to happen.  Costs the server one trivial query now and then.
sub until_clock
{
	my ($session, $seconds) = @_;
	my $end = ask($session, "SELECT clock_timestamp() + interval '$seconds s'");

	usleep(200_000)
	  while ask($session, "SELECT clock_timestamp() >= '$end'") eq 'f';
	return;
}

# Run SQL in a transaction of a session and hang in its COMMIT, after the WAL
# record and before anybody can see it: the cluster waits for a synchronous
# standby that does not exist.  Returns the process id.
sub hang_commit
{
	my ($node, $session, $begin, $commit) = @_;
	my $pid = ask($session, 'SELECT pg_backend_pid()');

	ask($session, "SET synchronous_commit = on; $begin");
	send_sql($session, defined $commit ? $commit : 'COMMIT');
	$node->poll_query_until('postgres',
		"SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $pid")
	  or croak "process $pid does not wait for a synchronous standby";
	return $pid;
}

# End the wait of hang_commit(): the transaction becomes visible.
sub release_commit
{
	my ($node, $session, $pid) = @_;

	$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
	ask($session, 'SELECT 1');
	return;
}

# ---------------------------------------------------------------------------
# pgbench in the background

my $benches = 0;
my @running;

# Start pgbench with {file name => [weight, script]} and further options.
sub start_pgbench
{
	my ($node, $db, $scripts, @options) = @_;
	my $number = ++$benches;
	my $base   = $node->basedir . "/pgbench_$number";
	my @files;

	foreach my $name (sort keys %$scripts)
	{
		my ($weight, $script) = @{ $scripts->{$name} };
		append_to_file("${base}_$name.sql", $script);
		push @files, '-f', "${base}_$name.sql\@$weight";
	}

	my $bench = { log => "$base.log", node => $node, name => "pgbench $number" };
	local $ENV{PGAPPNAME} = $bench->{name};
	$bench->{harness} = IPC::Run::start(
		[
			$node->installed_command('pgbench'), '-n',
			'-h', $node->host, '-p', $node->port,
			'--max-tries=100', @files, @options, $db
		],
		'<', '/dev/null', '>&', $bench->{log});
	push @running, $bench;
	return $bench;
}

sub pgbench_is_running
{
	my ($bench) = @_;

	return $bench->{harness}->pumpable;
}

# Wait for the end of pgbench; returns its exit code, its output and how many
# transactions it reports.
sub finish_pgbench
{
	my ($bench) = @_;

	$bench->{harness}->finish;
	@running = grep { $_ != $bench } @running;

	my $output = slurp_file($bench->{log});
	my ($transactions) =
	  $output =~ /number of transactions actually processed: (\d+)/;
	return ($bench->{harness}->result(0), $output, $transactions || 0);
}

# End pgbench, whose clients a crash may have ended already.  What their sessions
# still had to do is done then.
sub stop_pgbench
{
	my ($bench) = @_;

	$bench->{harness}->signal('TERM') if pgbench_is_running($bench);
	eval { $bench->{harness}->finish };
	@running = grep { $_ != $bench } @running;
	until_holds {
		my ($ret, $sessions) = try_psql($bench->{node}, 'postgres',
			"SELECT count(*) FROM pg_stat_activity WHERE application_name = '$bench->{name}'");

		return $ret != 0 || $sessions == 0;
	};
	return;
}

END
{
	local $?;
	eval { $_->{harness}->signal('KILL'); $_->{harness}->finish }
	  foreach @running;
}

# Scripts that do to shop.orders all that a client can do to a table in one
# transaction, for orders up to number $last.
sub orders_load
{
	my ($node, $last) = @_;
	my $file = $node->basedir . '/orders.csv';
	my $variables = qq{
\\set id random(101, $last)
\\set other random(101, $last)
\\set product random(1, 21)
\\set region random(1, 5)
\\set amount random(0, 200) * 50
\\set hour random(0, 47)
};
	my $values =
	  q{:product, shop.region(:region), nullif(:amount, 0), timestamptz '2024-03-01 00:00+00' + :hour * interval '1 hour'};
	my $insert =
	  "INSERT INTO shop.orders (product_id, region, amount_cents, order_timestamp)";

	if (!-e $file)
	{
		append_to_file($file, join '',
			map { sprintf "%d,%s,%d,2024-03-01 %02d:30+00\n", 1 + $_ % 21, 'west', $_ * 50, $_ % 24 }
			  1 .. 50);
	}

	return {
		insert => [ 30, "$variables $insert VALUES ($values);\n" ],
		move   => [
			25,
			"$variables UPDATE shop.orders SET product_id = :product, region = shop.region(:region), amount_cents = nullif(:amount, 0) WHERE order_id = :id;\n"
		],
		delete => [ 15, "$variables DELETE FROM shop.orders WHERE order_id = :id;\n" ],
		# One row changed several times, some of it undone.
		savepoints => [
			10, qq{$variables
BEGIN;
$insert VALUES ($values);
SAVEPOINT one;
UPDATE shop.orders SET amount_cents = amount_cents + 50 WHERE order_id = :id;
SAVEPOINT two;
DELETE FROM shop.orders WHERE order_id IN (:id, :other);
ROLLBACK TO SAVEPOINT two;
UPDATE shop.orders SET region = shop.region(:region) WHERE order_id = :id;
RELEASE SAVEPOINT one;
SAVEPOINT three;
$insert SELECT $values FROM generate_series(1, 10);
ROLLBACK TO SAVEPOINT three;
DELETE FROM shop.orders WHERE order_id = :other;
COMMIT;
} ],
		rollback => [
			5, qq{$variables
BEGIN;
$insert SELECT $values FROM generate_series(1, 10);
UPDATE shop.orders SET region = 'nowhere' WHERE order_id = :id;
ROLLBACK;
} ],
		many => [
			5, qq{$variables
BEGIN;
$insert SELECT $values FROM generate_series(1, 20);
UPDATE shop.orders SET region = shop.region(:region) WHERE order_id BETWEEN :id AND :id + 20;
DELETE FROM shop.orders WHERE order_id BETWEEN :other AND :other + 20;
COMMIT;
} ],
		copy => [
			2,
			"COPY shop.orders (product_id, region, amount_cents, order_timestamp) FROM '$file' (FORMAT csv);\n"
		],
	};
}

# Scripts that move money between accounts and accounts between branches: the
# sum over all branches never changes.
sub bank_load
{
	return {
		transfer => [
			30, q{
\set a random(1, 100)
\set b random(1, 100)
\set amount random(-50, 50)
BEGIN;
UPDATE shop.bank SET balance = balance - :amount WHERE account = least(:a, :b);
UPDATE shop.bank SET balance = balance + :amount WHERE account = greatest(:a, :b);
COMMIT;
} ],
		rebranch => [
			5, q{
\set a random(1, 100)
\set branch random(0, 19)
UPDATE shop.bank SET branch = 'branch ' || :branch WHERE account = :a;
} ],
	};
}

# A reader of shop.totals that fails as soon as the sum is not what it was.
sub bank_reader
{
	return { read_totals => [ 1, "SELECT shop.check_totals();\n" ] };
}

# ---------------------------------------------------------------------------
# Small things

# Seconds that a piece of code takes.
sub timed(&)
{
	my ($code) = @_;
	my $start = time;

	$code->();
	return time - $start;
}

# Assert that SQL fails with exactly one error, which matches; it gets a
# minute, so that a call that hangs is a failure and not a wait.
sub fails_like
{
	my ($node, $db, $sql, $like, $label) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($ret, $stdout, $stderr) =
	  $node->psql($db, "SET statement_timeout = '60s'; $sql");
	my @errors = $stderr =~ /ERROR:/g;

	isnt($ret, 0, "$label: fails");
	is(scalar @errors, 1, "$label: one error") or diag $stderr;
	like($stderr, $like, "$label: the error says why");
	return;
}

1;
