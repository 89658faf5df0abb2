
# The watermark over crashes: closed windows stay closed, and what was diverted
# is diverted exactly once.
#
# pgbench writes events that are up to two hours late, moves some and deletes
# some; in each loop the cluster is crashed, by turns with an immediate shutdown
# and with kill -9 of the worker.  A crash may cut the same changes into other
# batches, so which of them are late is decided anew; but only for changes whose
# batch was not committed.
# Proves: the watermark never goes back, nor shows more than is stored; the rows
# of windows that it has closed never change again; and the aggregate with the
# diverted changes put back is the batch query, to the row: no change is counted
# twice, diverted twice, both, or neither.  verify_pipeline agrees.
#
# WATERMARK_LOOPS (default 6) is the number of crashes.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IncBatch;
use Test::More;

my $loops = $ENV{WATERMARK_LOOPS} || 6;

my $node = new_node('main');
$node->start;
create_extension($node, 'postgres');
$node->safe_psql(
	'postgres', q{
CREATE SCHEMA shop;
CREATE TABLE shop.events (id bigint PRIMARY KEY, happened timestamptz, kind int, amount int);
ALTER TABLE shop.events REPLICA IDENTITY FULL;
CREATE SEQUENCE shop.tick;
});
create_pipeline(
	$node, 'postgres', 'shop.quarters', q{
SELECT incbatch.tumble(happened, '15 minutes') AS quarter, kind, count(*), sum(amount), max(amount)
  FROM shop.events GROUP BY 1, 2},
	lateness         => '30 minutes',
	trigger_interval => '50 ms');
wait_for_state($node, 'postgres', 'shop.quarters', 'running');

my $load = {
	event => [
		20, q{
\set late random(0, 120)
\set kind random(0, 3)
\set amount random(1, 1000)
INSERT INTO shop.events
SELECT i, timestamptz '2024-01-01' + (i - random() * least(:late, 60)) * interval '1 minute', :kind, :amount
  FROM nextval('shop.tick') AS i;
} ],
	move => [
		4, q{
\set back random(1, 300)
UPDATE shop.events SET happened = happened + interval '20 minutes', amount = amount + 1
 WHERE id = (SELECT last_value FROM shop.tick) - :back;
} ],
	remove => [
		2, q{
\set back random(1, 1000)
DELETE FROM shop.events WHERE id = (SELECT last_value FROM shop.tick) - :back;
} ],
};

# Keep the rows of closed windows as the table has them now, with the watermark.
my $remember = q{
BEGIN ISOLATION LEVEL REPEATABLE READ;
DROP TABLE IF EXISTS shop.closed, shop.mark;
CREATE TABLE shop.mark AS SELECT incbatch.watermark('shop.quarters') AS watermark;
CREATE TABLE shop.closed AS
SELECT q.* FROM shop.quarters q, shop.mark WHERE quarter + interval '15 minutes' <= watermark;
COMMIT;
};

foreach my $loop (1 .. $loops)
{
	my $way   = $loop % 2 ? 'stop' : 'kill';
	my $look  = session($node, 'postgres');
	my $start = ask($look, 'SELECT pg_current_wal_insert_lsn()');
	my $bench = start_pgbench($node, 'postgres', $load, '-c', 3, '-T', 120);
	my $bytes = 100_000 + int(rand(400_000));
	until_true($look, "SELECT pg_current_wal_insert_lsn() > '$start'::pg_lsn + $bytes")
	  or BAIL_OUT('pgbench writes nothing');
	$node->safe_psql('postgres', $remember);
	my $worker = worker_pid($node, 'postgres');

	if ($way eq 'stop')
	{
		$node->stop('immediate');
		stop_pgbench($bench);
		$node->start;
	}
	else
	{
		my $offset = -s $node->logfile;
		kill_process('KILL', $worker);
		$node->wait_for_log(qr/database system is ready to accept connections/, $offset);
	}
	wait_for_worker($node, 'postgres', $worker);
	stop_pgbench($bench);
	$node->safe_psql('postgres', q{CALL incbatch.refresh_pipeline('shop.quarters')});

	is( $node->safe_psql(
			'postgres',
			q{SELECT incbatch.watermark('shop.quarters') >= watermark FROM shop.mark}),
		't',
		"loop $loop ($way): the watermark did not go back");
	is( $node->safe_psql(
			'postgres', q{
WITH now AS (SELECT q.* FROM shop.quarters q, shop.mark WHERE quarter + interval '15 minutes' <= watermark)
SELECT count(*) FROM ((TABLE now EXCEPT ALL TABLE shop.closed) UNION ALL (TABLE shop.closed EXCEPT ALL TABLE now)) d}
		),
		'0',
		"loop $loop ($way): closed windows are as they were");
	is( $node->safe_psql(
			'postgres', q{
WITH counted AS (
	SELECT quarter, kind, count, sum FROM shop.quarters
	UNION ALL
	SELECT incbatch.tumble(event_time, '15 minutes'), (row->>'kind')::int, sign, sign * (row->>'amount')::int
	  FROM incbatch.late_rows, LATERAL (SELECT CASE change WHEN 'insert' THEN 1 ELSE -1 END) s(sign)),
batch AS (
	SELECT incbatch.tumble(happened, '15 minutes'), kind, 1, amount FROM shop.events)
SELECT count(*) FROM (
	SELECT quarter, kind, sum(count), sum(sum) FROM (
		TABLE counted UNION ALL SELECT tumble, kind, -1, -amount FROM batch) c
	 GROUP BY 1, 2 HAVING sum(count) <> 0 OR sum(sum) <> 0) d}
		),
		'0',
		"loop $loop ($way): with the diverted changes put back it is the batch query");
	is($node->safe_psql('postgres', q{SELECT count(*) FROM incbatch.verify_pipeline('shop.quarters')}),
		'0', "loop $loop ($way): verify_pipeline agrees");
	end_session($look);
}

is( $node->safe_psql(
		'postgres', q{
SELECT p.rows_late = (SELECT count(*) FROM incbatch.late_rows)
  FROM incbatch.pipelines p}),
	't',
	'every late change was counted once');
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM incbatch.late_rows'),
	'>', 0, 'there were late changes');
cmp_ok(
	$node->safe_psql('postgres', 'SELECT count(*) FROM shop.closed'),
	'>', 0, 'there were closed windows');

# A clean restart, and another with nothing to do: the watermark is stored.
my $watermark = $node->safe_psql('postgres', q{SELECT incbatch.watermark('shop.quarters')});
$node->restart;
is($node->safe_psql('postgres', q{SELECT incbatch.watermark('shop.quarters')}),
	$watermark, 'a restart keeps the watermark');
$node->safe_psql('postgres', q{CALL incbatch.refresh_pipeline('shop.quarters')});
is($node->safe_psql('postgres', q{SELECT incbatch.watermark('shop.quarters')}),
	$watermark, 'a quiet source does not move it');
$node->safe_psql('postgres', q{INSERT INTO shop.events VALUES (-1, '2024-01-01', 1, 1); CALL incbatch.refresh_pipeline('shop.quarters')});
is( $node->safe_psql('postgres', q{SELECT watermark FROM incbatch.late_rows ORDER BY number DESC LIMIT 1}),
	$watermark,
	'what was late before the restart is late after it');

$node->stop;
done_testing();
