
# An idle system costs nothing, and wakes up at once.
#
# Proves, with pipelines at trigger '0' and '1 second' and nothing to do: no WAL
# to speak of, no line in the server log, next to no CPU in worker and launcher,
# no snapshot that holds vacuum back; the same while a transaction is open,
# which keeps the slot where it is.  A quiet database lets go of the WAL that its
# neighbour writes.  And with trigger '0' a commit is visible in the aggregate
# before the worker would look by itself, once a second, also after a while of
# quiet: the least of several, for the machine may have other things to do.
#
# IDLE_SECONDS (default 20) is the length of the observation.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IncBatch;
use List::Util qw(min);
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;

my $seconds = $ENV{IDLE_SECONDS} || 20;

# Nothing else of the server's own accord may write WAL or log lines.
my $node = new_node('main', autovacuum => 'off', checkpoint_timeout => '1h');
$node->start;
create_shop($node, 'postgres', 5000);
create_pipelines(
	$node, 'postgres',
	'shop.thirds'      => '1 second',
	'shop.by_category' => '1 second');
are_exact($node, 'postgres', \@shop_pipelines, 'to begin with');
my $look = session($node, 'postgres');

is_idle('nothing to do', $seconds);

my $open = session($node, 'postgres');
ask($open, q{BEGIN; INSERT INTO shop.orders (product_id, region, amount_cents) VALUES (1, 'north', 10)});
is_idle('a transaction is open', $seconds / 2);
ask($open, 'COMMIT');

# The neighbour writes six segments.
$node->safe_psql('postgres', 'CREATE DATABASE neighbour');
$node->safe_psql(
	'neighbour',
	'CREATE TABLE busy (i int); ' . join '',
	map { "INSERT INTO busy SELECT generate_series(1, 1000); SELECT pg_switch_wal(); " } 1 .. 6);
my $slot = slot_name($node, 'postgres');
my $lets_go = 0;
# A checkpoint tells the decoder who runs, and is itself next to no WAL.
foreach (1 .. $PostgreSQL::Test::Utils::timeout_default)
{
	ask($look, 'CHECKPOINT');
	until_clock($look, 1);
	$lets_go = ask($look, qq{
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) < 32 * 1024 * 1024
  FROM pg_replication_slots WHERE slot_name = '$slot'}) eq 't';
	last if $lets_go;
}
ok($lets_go, 'a quiet database holds no more than two segments')
  or diag ask($look, 'SELECT slot_name, restart_lsn, confirmed_flush_lsn, pg_current_wal_lsn() FROM pg_replication_slots');

# The longest way: from a commit to the row in the aggregate.
$query{'shop.pulse'} =
  'SELECT kind, count(*) AS beats, max(beat) AS latest FROM shop.beats GROUP BY kind';
$node->safe_psql(
	'postgres', q{
CREATE TABLE shop.beats (kind text, beat int);
ALTER TABLE shop.beats REPLICA IDENTITY FULL;
CREATE TABLE shop.latency (kind text, beat int, latency interval);
});
create_pipeline($node, 'postgres', 'shop.pulse', $query{'shop.pulse'},
	trigger_interval => '0');
wait_for_state($node, 'postgres', 'shop.pulse', 'running');

ask($look, beat('busy', 20));
for (1 .. 5)
{
	until_clock($look, 2);
	ask($look, beat('quiet', 1));
}
foreach my $kind ('busy', 'quiet')
{
	my ($count, $least, $median, $worst) = split /\|/,
	  ask($look, qq{
SELECT count(*),
       round(extract(epoch FROM min(latency)) * 1000, 1),
       round(extract(epoch FROM percentile_cont(0.5) WITHIN GROUP (ORDER BY latency)) * 1000, 1),
       round(extract(epoch FROM max(latency)) * 1000, 1)
  FROM shop.latency WHERE kind = '$kind'});

	is($count, $kind eq 'busy' ? 20 : 5, "every insert arrived ($kind)");
	cmp_ok($least, '<', 500, "a commit wakes the worker ($kind)");
	note "$kind: least $least ms, median $median ms, worst $worst ms";
}
are_exact($node, 'postgres', [ @shop_pipelines, 'shop.pulse' ], 'in the end');

end_session($open, $look);
$node->stop;
done_testing();

# Watch the server for some seconds, in which nothing happens.
sub is_idle
{
	my ($label, $length) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	# What is left to do from before, the checkpoint's own part included.
	ask($look, 'CHECKPOINT');
	ask($look, "CALL incbatch.refresh_pipeline('$_')") foreach @shop_pipelines;
	until_clock($look, 2);

	my %pid = (
		worker   => wait_for_worker($node, 'postgres'),
		launcher => launcher_pid($node));
	my $lsn    = ask($look, 'SELECT pg_current_wal_insert_lsn()');
	my $offset = -s $node->logfile;
	my ($xmin, %used) = (0);

	foreach (1 .. 4)
	{
		my %ticks = map { $_ => scalar cpu_ticks($pid{$_}) } keys %pid;

		foreach (1 .. $length / 4)
		{
			until_clock($look, 1);
			$xmin++
			  if ask($look,
				"SELECT backend_xmin IS NOT NULL FROM pg_stat_activity WHERE pid = $pid{worker}"
			  ) eq 't';
		}
		push @{ $used{$_} }, (cpu_ticks($pid{$_}) - $ticks{$_}) / POSIX::sysconf(&POSIX::_SC_CLK_TCK)
		  foreach grep { defined $ticks{$_} } keys %pid;
	}

	cmp_ok(ask($look, "SELECT pg_current_wal_insert_lsn() - '$lsn'::pg_lsn"),
		'<', 65536, "$label: less than 64 kB of WAL in $length s");
	is(slurp_file($node->logfile, $offset), '', "$label: no line in the log");
	cmp_ok($xmin, '<=', 1 + $length / 4, "$label: the worker holds no snapshot");

	# What it costs all the time shows in each quarter; the least of them is
	# free of what the machine did besides.
	foreach my $who (sort keys %pid)
	{
	  SKIP:
		{
			skip 'needs /proc', 1 unless $used{$who};
			cmp_ok(min(@{ $used{$who} }), '<=', 0.005 * $length / 4,
				"$label: the $who uses less than 0.5 % of a core");
			note "$label: $who @{ $used{$who} } s of CPU in quarters of $length s";
		}
	}
	is(wait_for_worker($node, 'postgres'), $pid{worker}, "$label: it is the same worker");
	return;
}

# User and system time of a process, in clock ticks; undef without /proc.
sub cpu_ticks
{
	my ($pid) = @_;

	open my $file, '<', "/proc/$pid/stat" or return;
	my ($rest) = <$file> =~ /\) (.*)/;
	my @fields = split / /, $rest;
	return $fields[11] + $fields[12];
}

# SQL that inserts and commits $count rows, one after the other, and measures
# for each how long it takes to appear in shop.pulse.
sub beat
{
	my ($kind, $count) = @_;

	return qq{
DO \$\$
DECLARE
	committed_at timestamptz;
	before       bigint;
	taken        interval[];
BEGIN
	FOR i IN 1 .. $count LOOP
		SELECT coalesce(max(beats), 0) INTO before FROM shop.pulse WHERE kind = '$kind';
		INSERT INTO shop.beats VALUES ('$kind', i);
		COMMIT;
		committed_at := clock_timestamp();
		LOOP
			EXIT WHEN EXISTS (SELECT FROM shop.pulse WHERE kind = '$kind' AND beats > before);
			IF clock_timestamp() > committed_at + interval '20 s' THEN
				RAISE EXCEPTION 'insert % did not become visible', i;
			END IF;
			-- Each look a transaction of its own, as a dashboard's.
			COMMIT;
		END LOOP;
		taken := taken || (clock_timestamp() - committed_at);
	END LOOP;
	INSERT INTO shop.latency SELECT '$kind', n, t FROM unnest(taken) WITH ORDINALITY AS u(t, n);
END \$\$};
}
