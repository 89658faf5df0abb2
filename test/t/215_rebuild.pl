
# rebuild_pipeline under readers, and a way out of every state.
#
# 82: while a pipeline is rebuilt 20 times, readers of its relation and of its
# consumers' relations see the old rows or the new ones, at once and whole:
# never none, never some, never a wrong sum.  Writers move money meanwhile.  In
# some of the rebuilds the backfill hangs in the middle of the query, where the
# worker is killed with SIGKILL, which restarts the server.
#
# 81: each state of a pipeline, and a path that is stuck, is left by a documented
# call, without a restart.
#
# REBUILDS (20) is how many.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IncBatch;
use Test::More;

my $rebuilds = $ENV{REBUILDS} || 20;

my $node = new_node('main', fsync => 'off');
$node->start;
create_shop($node, 'postgres', 0);
# immutable but for the time that it takes
$node->safe_psql('postgres', q{
CREATE FUNCTION shop.held(v int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	PERFORM pg_advisory_xact_lock_shared(4711);
	RETURN v;
END $$;
CREATE FUNCTION shop.check_relation(r regclass) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	seen text;
BEGIN
	EXECUTE format('SELECT concat_ws(%L, count(*) > 0, sum(total), sum(accounts)) FROM %s', ' ', r) INTO seen;
	IF seen <> 't 100000 100' THEN
		RAISE EXCEPTION 'a reader of % saw %', r, seen;
	END IF;
	RETURN seen;
END $$;
});
my $query = q{SELECT branch, sum(shop.held(balance)) AS total, count(*) AS accounts FROM shop.bank GROUP BY branch};
$query{'shop.totals'} = $query;
create_pipeline($node, 'postgres', 'shop.totals', $query, trigger_interval => '0');
sql(q{SELECT incbatch.create_consumer('fast', 'shop.totals', freshness => '1 second')},
	q{SELECT incbatch.create_consumer('slow', 'shop.totals', freshness => '1 day')});
wait_for_state($node, 'postgres', 'shop.totals', 'running');
are_exact($node, 'postgres', ['shop.totals'], 'to begin with');

my @relations = ('shop.totals', 'shop.totals_fast', 'shop.totals_slow');

sub sql
{
	return $node->safe_psql('postgres', join ';', @_);
}

sub state
{
	return sql(q{SELECT state FROM incbatch.pipelines WHERE pipeline = 'shop.totals'});
}

# Readers and writers until the next crash.
my ($readers, $writers);
sub start_load
{
	my %scripts = map { my $name = $_ =~ s/\W/_/gr; $name => [ 1, "SELECT shop.check_relation('$_');\n" ] } @relations;

	$readers = start_pgbench($node, 'postgres', \%scripts, '-c', 2, '-R', 150, '-T', 300);
	$writers = start_pgbench($node, 'postgres', bank_load(), '-c', 1, '-R', 30, '-T', 300);
	return;
}

sub end_load
{
	my ($label) = @_;

	ok(pgbench_is_running($readers), "$label: the readers are still at it") if $label;
	stop_pgbench($_) foreach $readers, $writers;
	my $seen = PostgreSQL::Test::Utils::slurp_file($readers->{log});
	unlike($seen, qr/a reader of/, '82: no reader saw anything but old or new') or diag $seen;
	return;
}

sub hold
{
	my $session = session($node, 'postgres');

	ask($session, 'SELECT pg_advisory_lock(4711)');
	return $session;
}

sub wait_until_it_hangs
{
	$node->poll_query_until('postgres', q{
SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity USING (pid)
               WHERE locktype = 'advisory' AND NOT granted AND backend_type = 'incbatch worker')})
	  or die 'the backfill does not wait';
	return;
}

sub all_see
{
	my ($label) = @_;

	is(sql("SELECT shop.check_relation('$_')"), 't 100000 100', "$label: $_") foreach @relations;
	return;
}

# ---------------------------------------------------------------------------
# 82

start_load();
my ($killed, $hung) = (0, 0);
foreach my $round (1 .. $rebuilds)
{
	if ($round % 5 == 0)
	{
		# killed in the middle
		my $session = hold();

		sql(q{SELECT incbatch.rebuild_pipeline('shop.totals')});
		wait_until_it_hangs();
		all_see("82: round $round hangs");
		end_load('');
		my $worker = worker_pid($node, 'postgres');
		my $offset = -s $node->logfile;
		kill_process('KILL', $worker);
		end_session($session);
		$node->wait_for_log(qr/database system is ready to accept connections/, $offset);
		wait_for_worker($node, 'postgres', $worker);
		all_see("82: round $round after SIGKILL");
		$killed++;
		start_load();
	}
	elsif ($round % 5 == 3)
	{
		# one reader keeps a snapshot of before
		my $session = hold();
		my $reader  = session($node, 'postgres');

		sql(q{SELECT incbatch.rebuild_pipeline('shop.totals')});
		wait_until_it_hangs();
		# a snapshot, and no lock on anything
		ask($reader, 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
		end_session($session);
		sql(q{CALL incbatch.refresh_pipeline('shop.totals')});
		is(ask($reader, "SELECT shop.check_relation('$_')"), 't 100000 100', "82: round $round, a snapshot of before still has rows: $_")
		  foreach @relations;
		end_session($reader);
		$hung++;
	}
	else
	{
		sql(q{SELECT incbatch.rebuild_pipeline('shop.totals')});
	}
	wait_for_state($node, 'postgres', 'shop.totals', 'running');
}
end_load('82: at the end');
are_exact($node, 'postgres', ['shop.totals'], '82: after all');
all_see('82: after all');
is(sql(q{SELECT count(*) FROM incbatch.verify_pipeline('shop.totals')}), 0, '82: both paths are exact');
diag "$rebuilds rebuilds, $killed killed in the middle";

# Damage is there until the commit, and gone with it, for each path.
{
	sql(q{DO $$ DECLARE t regclass; BEGIN FOR t IN SELECT relation FROM incbatch.paths LOOP
		EXECUTE format('UPDATE %s SET sum_1 = sum_1 + 1', t); END LOOP; END $$});
	my $session = hold();
	sql(q{SELECT incbatch.rebuild_pipeline('shop.totals')});
	wait_until_it_hangs();
	my $branches = sql('SELECT count(*) FROM shop.totals');
	is(sql("SELECT sum(total) FROM $_"), $bank_total + $branches, "82: damaged rows stay until the new ones are there: $_")
	  foreach @relations;
	end_session($session);
	sql(q{CALL incbatch.refresh_pipeline('shop.totals')});
	all_see('82: and go at once');
}

# ---------------------------------------------------------------------------
# 81

sub runs_again
{
	my ($label) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	wait_for_state($node, 'postgres', 'shop.totals', 'running');
	are_exact($node, 'postgres', ['shop.totals'], "81: $label");
	return;
}

# backfilling: held up by the query itself; whoever holds it can be found and ended
{
	my $session = hold();
	sql(q{SELECT incbatch.rebuild_pipeline('shop.totals')});
	wait_until_it_hangs();
	is(sql(q{SELECT count(*) > 0 FROM incbatch.path_state WHERE state = 'backfilling'}), 't', '81: backfilling');
	sql(q{SELECT incbatch.pause_pipeline('shop.totals')});
	is(state(), 'paused', '81: backfilling can be paused');
	sql(q{SELECT incbatch.resume_pipeline('shop.totals')},
		q{SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted});
	runs_again('backfilling: who blocks it is ended');
	end_session($session);
}

# paused
sql(q{SELECT incbatch.pause_pipeline('shop.totals')});
is(state(), 'paused', '81: paused');
sql(q{UPDATE shop.bank SET balance = balance + 1 WHERE account = 1},
	q{SELECT incbatch.resume_pipeline('shop.totals')});
runs_again('paused: resume_pipeline');

# failed, by what somebody did to a state table and by a row
sql(q{ALTER TABLE shop.totals_state ADD CONSTRAINT in_the_way CHECK (row_count < 0) NOT VALID},
	q{UPDATE shop.bank SET balance = balance + 1 WHERE account = 2});
wait_for_state($node, 'postgres', 'shop.totals', 'failed');
like(sql(q{SELECT last_error FROM incbatch.pipelines}), qr/in_the_way.*incbatch\.resume_pipeline/, '81: failed says why and what to run');
sql(q{ALTER TABLE shop.totals_state DROP CONSTRAINT in_the_way},
	q{SELECT incbatch.resume_pipeline('shop.totals')});
runs_again('failed: resume_pipeline');
sql(q{DROP INDEX shop.totals_state_branch_idx},
	q{UPDATE shop.bank SET balance = balance + 1 WHERE account = 3});
wait_for_state($node, 'postgres', 'shop.totals', 'failed');
sql(q{CREATE UNIQUE INDEX totals_state_branch_idx ON shop.totals_state (branch) NULLS NOT DISTINCT},
	q{SELECT incbatch.rebuild_pipeline('shop.totals')});
runs_again('failed: rebuild_pipeline');

# needs_rebuild
sql(q{ALTER TABLE shop.bank REPLICA IDENTITY NOTHING},
	q{UPDATE shop.bank SET balance = balance + 1 WHERE account = 4});
wait_for_state($node, 'postgres', 'shop.totals', 'needs_rebuild');
like(sql(q{SELECT last_error FROM incbatch.pipelines}), qr/REPLICA IDENTITY FULL.*incbatch\.rebuild_pipeline/, '81: needs_rebuild says why and what to run');
sql(q{ALTER TABLE shop.bank REPLICA IDENTITY FULL},
	q{SELECT incbatch.rebuild_pipeline('shop.totals')});
runs_again('needs_rebuild: rebuild_pipeline');

# stuck: somebody has the state table locked
{
	my $session = session($node, 'postgres');
	my $pid     = ask($session, 'SELECT pg_backend_pid()');

	ask($session, 'BEGIN; LOCK TABLE shop.totals_state');
	sql(q{UPDATE shop.bank SET balance = balance + 1 WHERE account = 5});
	$node->poll_query_until('postgres', q{SELECT status FROM incbatch.lag WHERE consumer = 'fast'}, 'stuck')
	  or die 'fast is not stuck';
	like(sql(q{SELECT reason FROM incbatch.lag WHERE consumer = 'fast'}), qr/\b$pid\b/, '81: stuck says whom to end');
	sql("SELECT pg_terminate_backend($pid)");
	$node->poll_query_until('postgres', q{SELECT status FROM incbatch.lag WHERE consumer = 'fast'}, 'fresh')
	  or die 'fast is not fresh again';
	end_session($session);
	runs_again('stuck: who blocks it is ended');
}

# initializing: the slot waits for a transaction that was open before
{
	$node->safe_psql('postgres', 'CREATE DATABASE other');
	create_extension($node, 'other');
	$node->safe_psql('other', q{
CREATE TABLE t (k int, v int);
ALTER TABLE t REPLICA IDENTITY FULL;
INSERT INTO t SELECT i % 3, i FROM generate_series(1, 9) i});
	my $session = session($node, 'postgres');
	my $pid     = ask($session, 'SELECT pg_backend_pid()');

	ask($session, 'BEGIN; UPDATE shop.bank SET balance = balance WHERE account = 6');
	create_pipeline($node, 'other', 'p', 'SELECT k, count(*), sum(v) FROM t GROUP BY k');
	$node->poll_query_until('other', q{SELECT w.state = 'creating slot' FROM incbatch.workers w WHERE database = current_database()})
	  or diag $node->safe_psql('other', 'TABLE incbatch.workers');
	is($node->safe_psql('other', 'SELECT state FROM incbatch.pipelines'), 'initializing', '81: initializing');
	$node->safe_psql('other', q{SELECT incbatch.drop_pipeline('p')});
	create_pipeline($node, 'other', 'p', 'SELECT k, count(*), max(v) FROM t GROUP BY k');
	is($node->safe_psql('other', 'SELECT state FROM incbatch.pipelines'), 'initializing', '81: initializing can be dropped, and created anew');
	$node->safe_psql('other', "SELECT pg_terminate_backend($pid)");
	wait_for_state($node, 'other', 'p', 'running');
	is(differences($node, 'other', 'p', query => 'SELECT k, count(*), max(v) FROM t GROUP BY k'), '', '81: initializing: who blocks it is ended');
	end_session($session);
}

$node->stop;
done_testing();
