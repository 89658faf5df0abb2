
# Each consumer at its own freshness, independently of its siblings.
#
# One pipeline with three consumers (2 s, 20 s, and one that sees closed windows
# only) under pgbench for CONSUMERS_SECONDS (default 40).  Beside its source the
# load writes a log of what each transaction changed.  All the time a session
# reads each consumer's relation together with its frontier, under one snapshot,
# and compares it with what the log says of the transactions that the frontier
# contains.  Then:
# - the slow path's table is written at its own cadence only, as its batches and
#   the statistics of the table say;
# - the WAL was decoded once for all of them;
# - staleness is reported, and judged generously, for the machine may be busy.
# Then a state table that somebody locks, and one whose path fails: the siblings
# go on, and a documented call brings it back.  At last crashes between the
# creation of a consumer, or a change of its tier, and the copy that begins its
# path.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IncBatch;
use Test::More;

my $seconds = $ENV{CONSUMERS_SECONDS} || 40;

my $node = new_node('main', fsync => 'off');
$node->start;
create_extension($node, 'postgres');
$node->safe_psql(
	'postgres', q{
CREATE SCHEMA s;
CREATE TABLE s.t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, k int, ts timestamptz, v int);
ALTER TABLE s.t REPLICA IDENTITY FULL;

-- What each transaction did, for who wants to know the table of an earlier moment.
CREATE TABLE s.log (x xid8 DEFAULT pg_current_xact_id(), k int, ts timestamptz, v int, weight int);
CREATE FUNCTION s.log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_OP <> 'INSERT' THEN
		INSERT INTO s.log (k, ts, v, weight) VALUES (OLD.k, OLD.ts, OLD.v, -1);
	END IF;
	IF TG_OP <> 'DELETE' THEN
		INSERT INTO s.log (k, ts, v, weight) VALUES (NEW.k, NEW.ts, NEW.v, 1);
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER log AFTER INSERT OR UPDATE OR DELETE ON s.t FOR EACH ROW EXECUTE FUNCTION s.log();
INSERT INTO s.t (k, ts, v) SELECT i % 7, clock_timestamp(), i FROM generate_series(1, 500) i;

CREATE FUNCTION s.then(at pg_snapshot) RETURNS TABLE (w timestamptz, k int, n bigint, v bigint)
LANGUAGE sql STABLE AS $$
	SELECT incbatch.tumble(ts, '5 seconds'), k, sum(weight), sum(v * weight)
	FROM s.log WHERE pg_visible_in_snapshot(x, at) GROUP BY 1, 2 HAVING sum(weight) > 0
$$;
});
$query{'s.p'} =
  q{SELECT incbatch.tumble(ts, '5 seconds') AS w, k, count(*) AS n, sum(v) AS v FROM s.t GROUP BY 1, 2};
create_pipeline($node, 'postgres', 's.p', $query{'s.p'},
	lateness => '1 second', late_policy => 'apply');
$node->safe_psql(
	'postgres', q{
SELECT incbatch.create_consumer('fast', 's.p', freshness => '2 seconds');
SELECT incbatch.create_consumer('slow', 's.p', freshness => '20 seconds');
SELECT incbatch.create_consumer('final', 's.p', freshness => '4 seconds', emit => 'final');
CALL incbatch.refresh_pipeline('s.p');
});

# How a consumer's relation differs from what its frontier says, in one snapshot.
my %final = (
	fast  => 'true',
	slow  => 'true',
	final => q{w + interval '5 seconds' <= (SELECT watermark FROM incbatch.path_watermark WHERE path = f.path)});
sub wrong
{
	my ($look, $consumer) = @_;

	return ask($look, qq{
SELECT CASE WHEN NOT f.aligned THEN 'unknown' ELSE (
	SELECT count(*)::text FROM (
		(TABLE s.p_$consumer EXCEPT ALL SELECT * FROM s.then(f.snapshot) WHERE $final{$consumer})
		UNION ALL
		(SELECT * FROM s.then(f.snapshot) WHERE $final{$consumer} EXCEPT ALL TABLE s.p_$consumer)) d) END
FROM incbatch.consumer c JOIN incbatch.frontier f ON f.path = c.path WHERE c.consumer = '$consumer'});
}

# ---------------------------------------------------------------------------
# Under load

my $look = session($node, 'postgres');
my $slow_table = ask($look, q{SELECT a.relation FROM incbatch.consumer c JOIN incbatch.path a ON a.id = c.path WHERE consumer = 'slow'});
my $written = "SELECT pg_stat_get_tuples_inserted(o) + pg_stat_get_tuples_updated(o) + pg_stat_get_tuples_deleted(o) FROM (SELECT '$slow_table'::regclass::oid AS o) o";
my $decoded = ask($look, q{SELECT rows_decoded FROM incbatch.workers WHERE database = 'postgres'});
my $changes = q{SELECT count(*) + (SELECT n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_user_tables WHERE relid = 's.t'::regclass) FROM s.log};
my $worker = worker_pid($node, 'postgres');
my $begun  = ask($look, 'SELECT clock_timestamp()');
my $load   = start_pgbench(
	$node, 'postgres', {
		insert => [ 6, "INSERT INTO s.t (k, ts, v) VALUES (random() * 6, clock_timestamp(), random() * 100);\n" ],
		update => [ 2, "UPDATE s.t SET v = v + 1, k = (k + 1) % 7 WHERE id = (SELECT max(id) FROM s.t) - (random() * 300)::int;\n" ],
		delete => [ 1, "DELETE FROM s.t WHERE id = (SELECT max(id) FROM s.t) - (random() * 300)::int;\n" ],
	}, '-c', 2, '-R', 150, '-T', $seconds);

my %compared = map { $_ => 0 } keys %final;
my %inexact  = map { $_ => 0 } keys %final;
my %counters;
my %staleness;
while (pgbench_is_running($load))
{
	foreach my $consumer (sort keys %final)
	{
		my $wrong = wrong($look, $consumer);

		next if $wrong eq 'unknown';
		$compared{$consumer}++;
		$inexact{$consumer}++ if $wrong ne '0';
	}
	$counters{ ask($look, $written) }++;
	foreach (split /\n/, ask($look, q{SELECT consumer, extract(epoch FROM staleness) FROM incbatch.lag}))
	{
		my ($consumer, $age) = split /\|/;
		push @{ $staleness{$consumer} }, $age;
	}
	until_clock($look, 0.1);
}
my ($failed, $output, $transactions) = finish_pgbench($load);
is($failed, 0, 'the load ran') or diag $output;
foreach my $consumer (sort keys %final)
{
	cmp_ok($compared{$consumer}, '>', 5, "$consumer: compared under load ($compared{$consumer} times)");
	is($inexact{$consumer}, 0, "$consumer: always equal to the query at its own frontier");
}
is(worker_pid($node, 'postgres'), $worker, 'the worker is the same');

# The slow path: every 16 s, whatever its siblings do.
my ($batches, $shortest) = split /\|/, ask($look, qq{
SELECT count(*), coalesce(min(extract(epoch FROM gap)), 1000) FROM (
	SELECT b.started_at - lag(b.started_at) OVER (ORDER BY batch) AS gap FROM incbatch.batches b
	JOIN incbatch.consumer c ON c.path = b.path WHERE c.consumer = 'slow' AND reason = 'trigger') b});
my $other = ask($look, q{
SELECT count(*) FROM incbatch.batches b JOIN incbatch.consumer c ON c.path = b.path
WHERE c.consumer = 'slow' AND reason NOT IN ('trigger', 'copy', 'refresh')});
my $fast = ask($look, q{SELECT count(*) FROM incbatch.batches b JOIN incbatch.consumer c ON c.path = b.path WHERE c.consumer = 'fast'});
diag "$transactions transactions, $fast batches of the fast path, $batches of the slow one";
cmp_ok($batches, '>=', 1, 'the slow path ran');
cmp_ok($batches, '<=', 2 + $seconds / 14, 'the slow path ran at its cadence only');
cmp_ok($shortest, '>', 8, 'its runs are a trigger apart');
is($other, 0, 'nothing else made it run');
cmp_ok($fast, '>', 2 * $batches, 'the fast path ran much more often');
cmp_ok(scalar keys %counters, '<=', $batches + 2, "its table was written by its batches only");

foreach my $consumer (sort keys %staleness)
{
	my @ages = sort { $a <=> $b } @{ $staleness{$consumer} };
	my $p99  = $ages[ int(0.99 * $#ages) ];
	my $freshness = ask($look, "SELECT extract(epoch FROM freshness)::int FROM incbatch.consumers WHERE consumer = '$consumer'");

	diag sprintf '%s: freshness %d s, staleness p99 %.2f s', $consumer, $freshness, $p99;
	cmp_ok($p99, '<=', 2 * $freshness + 5, "$consumer: p99 of its staleness");
}

# Decoded once: the changes of both tables, and no more.
$node->safe_psql('postgres', q{CALL incbatch.refresh_pipeline('s.p')});
ok( $node->poll_query_until('postgres',
		"SELECT (SELECT rows_decoded FROM incbatch.workers WHERE database = 'postgres') - $decoded = ($changes) - 1000"),
	'every change was decoded once for three paths');
foreach my $consumer (sort keys %final)
{
	is(wrong($look, $consumer), '0', "$consumer: equal after a refresh");
}

# ---------------------------------------------------------------------------
# Each path's troubles are its own

sub moves
{
	my ($consumer, $label) = @_;
	my $lsn = ask($look, q{INSERT INTO s.t (k, ts, v) VALUES (1, clock_timestamp(), 1); SELECT pg_current_wal_insert_lsn()});

	ok( until_true($look, qq{SELECT p.frontier_lsn >= '$lsn' FROM incbatch.consumers c JOIN incbatch.paths p USING (path) WHERE consumer = '$consumer'}),
		$label);
}

my $locker = session($node, 'postgres');
ask($locker, "BEGIN; LOCK TABLE $slow_table IN ACCESS EXCLUSIVE MODE");
moves('fast', 'the slow state table is locked: the fast path goes on');
moves('final', 'and so does the other');
ask($locker, 'COMMIT');
$node->safe_psql('postgres', q{CALL incbatch.refresh_pipeline('s.p')});
is(wrong($look, 'slow'), '0', 'unlocked, the slow path is exact');

my $before = ask($look, "$written");
$node->safe_psql('postgres', qq{
ALTER TABLE $slow_table ADD CONSTRAINT trouble CHECK (k <> 5) NOT VALID;
INSERT INTO s.t (k, ts, v) VALUES (5, clock_timestamp(), 1)});
$node->psql('postgres', q{SET statement_timeout = '60s'; CALL incbatch.refresh_pipeline('s.p')});
ok( $node->poll_query_until('postgres', q{SELECT state = 'failed' FROM incbatch.pipelines}),
	'the slow path fails');
is(ask($look, q{SELECT string_agg(consumer || ' ' || (state = 'failed'), ', ' ORDER BY consumer) FROM incbatch.consumers JOIN incbatch.paths USING (path)}),
	'fast false, final false, slow true', 'and none of its siblings does');
like(ask($look, q{SELECT last_error FROM incbatch.pipelines}), qr/trouble.*resume_pipeline/, 'the reason is shown, and the way out');
moves('fast', 'the fast path goes on');
ok($node->safe_psql('postgres', q{SELECT incbatch.wait_for('s.p')}) eq 't', 'wait_for is about the freshest path');
is(wrong($look, 'fast'), '0', 'and is exact');
$node->safe_psql('postgres', qq{
ALTER TABLE $slow_table DROP CONSTRAINT trouble;
SELECT incbatch.resume_pipeline('s.p');
CALL incbatch.refresh_pipeline('s.p')});
is(wrong($look, $_), '0', "resumed: $_ is exact") foreach sort keys %final;
end_session($locker);

# ---------------------------------------------------------------------------
# Crashes between the arrangement and the copy

foreach my $loop (1 .. 6)
{
	my $label = "crash $loop";
	my $change = $loop % 3 == 0
	  ? q{SELECT incbatch.set_freshness('final', 's.p', '4 seconds'), incbatch.set_freshness('slow', 's.p', '21 seconds')}
	  : $loop % 3 == 1
	  ? q{SELECT incbatch.create_consumer('extra', 's.p', freshness => '8 seconds')}
	  : q{SELECT incbatch.set_freshness('final', 's.p', '2 seconds')};

	$load = start_pgbench($node, 'postgres',
		{ insert => [ 1, "INSERT INTO s.t (k, ts, v) VALUES (random() * 6, clock_timestamp(), 1);\n" ] },
		'-c', 2, '-R', 200, '-T', 60);
	$worker = wait_for_worker($node, 'postgres');
	until_true($look, 'SELECT count(*) > 0 FROM s.t WHERE ts > now() - interval \'1 s\'');
	ask($look, $change);
	if ($loop % 2)
	{
		$node->stop('immediate');
		stop_pgbench($load);
		$node->start;
	}
	else
	{
		my $offset = -s $node->logfile;
		kill_process('KILL', $worker);
		$node->wait_for_log(qr/database system is ready to accept connections/, $offset);
	}
	stop_pgbench($load);
	end_session($look);
	wait_for_worker($node, 'postgres', $worker);
	$look = session($node, 'postgres');
	$node->safe_psql('postgres', q{CALL incbatch.refresh_pipeline('s.p')});
	is(differences($node, 'postgres', 's.p'), '', "$label: the pipeline equals its query");
	foreach my $consumer (sort keys %final)
	{
		is(wrong($look, $consumer), '0', "$label: $consumer is exact");
	}
	is(ask($look, q{SELECT count(*) FROM incbatch.verify_pipeline('s.p')}), '0', "$label: so is every path");
	is(ask($look, q{SELECT count(*) - count(DISTINCT trigger_interval) FROM incbatch.paths}), '0', "$label: one path a trigger");
	ask($look, q{SELECT incbatch.drop_consumer('extra', 's.p', if_exists => true)});
}

end_session($look);
$node->stop;
done_testing();
