
# A transaction larger than memory.
#
# One transaction inserts a million rows, another one updates all of them, and
# the server is crashed while it is read.  Proves (45 and 44 of
# test/HAZARDS.md): the worker needs less than 256 MB at its peak, leaves no
# files behind, holds no snapshot while it reads, and every row counts once; of
# many that are open at once most wait in files.
#
# HUGE_ROWS (default 1000000) is the number of rows; the times are printed beside
# that of the same aggregate as one INSERT … SELECT.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IncBatch;
use PostgreSQL::Test::Utils;
use Test::More;

my $rows = $ENV{HUGE_ROWS} || 1_000_000;
my $name = 'shop.by_shelf';

my $node = new_node(
	'main',
	logical_decoding_work_mem   => '64MB',
	max_wal_size                => '4GB',
	shared_buffers              => '128MB',
	autovacuum                  => 'off',
	'incbatch.max_retained_wal' => '16GB');
$node->start;
create_extension($node, 'postgres');
$query{$name} =
  'SELECT shelf, count(*) AS things, sum(amount) AS amount, avg(amount) AS mean, max(amount) AS largest FROM shop.things GROUP BY shelf';
$node->safe_psql(
	'postgres', q{
CREATE SCHEMA shop;
CREATE TABLE shop.things (id bigint, shelf int, amount int);
ALTER TABLE shop.things REPLICA IDENTITY FULL;
});
create_pipeline($node, 'postgres', $name, $query{$name}, trigger_interval => '0');
wait_for_state($node, 'postgres', $name, 'running');
my $look   = session($node, 'postgres');
my $writer = session($node, 'postgres');
my $slot   = slot_name($node, 'postgres');

# ---------------------------------------------------------------------------
# Inserted in one transaction
my $pid = wait_for_worker($node, 'postgres');
my %seconds;
$seconds{written} = timed {
	ask($writer, "INSERT INTO shop.things SELECT i, nullif(i % 1000, 0), i % 977 FROM generate_series(1, $rows) AS i")
};
$seconds{'visible, after that'} = timed { ask($look, "CALL incbatch.refresh_pipeline('$name')") };
are_exact($node, 'postgres', [$name], '45: inserted');
$seconds{'INSERT … SELECT of the aggregate'} = timed {
	ask($writer, "CREATE TABLE shop.nightly AS $query{$name} LIMIT 0; INSERT INTO shop.nightly $query{$name}");
};

is_bounded('inserted');

# ---------------------------------------------------------------------------
# Updated in one transaction, which the worker begins to read when it is over:
# it is stopped while it waits, for in a run it would read with the run's snapshot
ask($look, "CALL incbatch.refresh_pipeline('$name')");
until_true($look, "SELECT query = 'waiting for changes' FROM pg_stat_activity WHERE pid = $pid");
kill_process('STOP', $pid);
$seconds{'written (UPDATE)'} = timed {
	ask($writer, 'UPDATE shop.things SET shelf = shelf % 500, amount = amount + 1')
};
my ($samples, $with_xmin) = (0, 0);
kill_process('CONT', $pid);
$seconds{'visible, after that (UPDATE)'} = timed {
	send_sql($writer, "CALL incbatch.refresh_pipeline('$name')");
	until_holds {
		my ($reading, $xmin, $done) = split /\|/, ask($look, qq{
SELECT query = 'reading the WAL', backend_xmin IS NOT NULL,
       (SELECT state <> 'active' FROM pg_stat_activity WHERE query LIKE 'CALL incbatch.refresh%')
  FROM pg_stat_activity WHERE pid = $pid});
		$samples++ if $reading eq 't';
		$with_xmin++ if $reading eq 't' && $xmin eq 't';
		$done eq 't';
	};
	ask($writer, 'SELECT 1');
};
cmp_ok($samples, '>', 0, '44: seen while it reads');
cmp_ok($with_xmin, '<=', 1 + $samples / 2, '44: it holds no snapshot while it reads');
note "$with_xmin of $samples looks found a snapshot";
are_exact($node, 'postgres', [$name], '45: updated');
is(wait_for_worker($node, 'postgres'), $pid, '45: it is the same worker');

is_bounded('updated');
is(leftovers(), '', '45: no file is left');

# ---------------------------------------------------------------------------
# The same, and the worker dies in the middle of it
my $before = ask($look, 'SELECT rows_decoded FROM incbatch.workers');
kill_process('STOP', $pid);
ask($writer, q{
BEGIN;
UPDATE shop.things SET shelf = nullif(shelf, 7), amount = amount * 2;
DELETE FROM shop.things WHERE id % 10 = 0;
COMMIT});
kill_process('CONT', $pid);
ok(until_true($look, "SELECT rows_decoded > $before FROM incbatch.workers"), '45: it has begun to read');
my $offset = -s $node->logfile;
kill_process('KILL', $pid);
$node->wait_for_log(qr/database system is ready to accept connections/, $offset);
end_session($look, $writer);
wait_for_worker($node, 'postgres', $pid);
are_exact($node, 'postgres', [$name], '45: killed in the middle');
ok(until_holds { leftovers() eq '' }, '45: no file is left after the crash') or diag leftovers();

# and one that is rolled back
$node->safe_psql('postgres', "BEGIN; INSERT INTO shop.things SELECT i, i, i FROM generate_series(1, $rows / 5) AS i; TRUNCATE shop.things; ROLLBACK");
are_exact($node, 'postgres', [$name], '45: rolled back');
ok(until_holds { leftovers() eq '' }, '45: no file is left of one that is rolled back');

# ---------------------------------------------------------------------------
# Many at once
$node->append_conf('postgresql.conf', "logical_decoding_work_mem = '64kB'\nincbatch.work_mem = '4MB'\n");
$node->restart;
$pid = wait_for_worker($node, 'postgres', $pid);
my @writers = map { session($node, 'postgres') } 1 .. 16;
ask($_, 'BEGIN; INSERT INTO shop.things SELECT i, i % 500, i % 977 FROM generate_series(1, 50000) AS i') foreach @writers;
are_exact($node, 'postgres', [$name], '45: many are open');
my $in_memory = memory_of('incbatch rows');
cmp_ok($in_memory, '>', 1024, '45: many are open: they have been read');
cmp_ok($in_memory, '<', 20 * 1024, '45: many are open: memory is bounded');
ask($_, 'COMMIT') foreach @writers;
are_exact($node, 'postgres', [$name], '45: many were open');
end_session(@writers);

$node->stop;
done_testing();

# The worker's memory in contexts of a name, in kB.
sub memory_of
{
	my ($context) = @_;
	my $start = -s $node->logfile;

	$node->safe_psql('postgres', "SELECT pg_log_backend_memory_contexts($pid)");
	$node->wait_for_log(qr/Grand total/, $start);
	my $bytes = 0;
	$bytes += $_ foreach slurp_file($node->logfile, $start) =~ /; \Q$context\E: (\d+) total in/g;
	return $bytes / 1024;
}

# The worker's memory at its peak, and how long all has taken so far.
sub is_bounded
{
	my ($label) = @_;

  SKIP:
	{
		open my $status, '<', "/proc/$pid/status" or skip 'needs /proc', 1;
		my ($peak) = join('', <$status>) =~ /^VmHWM:\s+(\d+) kB/m;
		cmp_ok($peak, '<', 256 * 1024, "45: $label: the worker stays under 256 MB");
		diag sprintf '%d rows: %s; VmHWM %.0f MB', $rows,
		  join(', ', map { sprintf '%s %.1f s', $_, $seconds{$_} } sort keys %seconds), $peak / 1024;
	}
	return;
}

# What reading has put into files.
sub leftovers
{
	my $data = $node->data_dir;

	return join ' ', glob("$data/pg_replslot/$slot/xid-* $data/base/pgsql_tmp/*");
}
