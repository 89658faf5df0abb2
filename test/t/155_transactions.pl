
# The unit is the transaction, whatever its shape, and whatever crashes.
#
# Numbers are those of test/HAZARDS.md.
# - 3: the server stops at the moment when the slot's new position has been saved,
#   while nobody flushes commits that do not ask for it.
# - 4: a COPY of very many rows, which share few positions in the WAL: the worker
#   is killed at a random one of them, by turns while the COPY is under way and
#   when it has committed.
# - 13: transactions of savepoints and conflicts that are prepared, committed and
#   rolled back in random order, with crashes between the two phases.
# - 13: what a prepared transaction does to pipelines the worker learns, whoever
#   commits it, also after a restart.
# - 14 and 1: pipelines at three cadences, one that comes and one that goes, under
#   load, while the worker is cancelled or killed.
# - 12: what the worker itself writes is never decoded.
#
# TRANSACTION_LOOPS (default 3) is the number of loops of each, COPY_ROWS (default
# 60000) the length of a COPY; TRANSACTION_SEED repeats a run.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use Faults;
use IncBatch;
use Test::More;

my $loops = $ENV{TRANSACTION_LOOPS} || 3;
my $rows  = $ENV{COPY_ROWS}         || 60_000;
my $seed  = $ENV{TRANSACTION_SEED}  || (time ^ $$);

srand($seed);
diag "TRANSACTION_LOOPS=$loops COPY_ROWS=$rows TRANSACTION_SEED=$seed";

# As much is flushed as otherwise, but the disk itself is not waited for.
my $node = new_node('main', fsync => 'off', 'incbatch.work_mem' => '256kB');
$node->start;
create_shop($node, 'postgres', 1000);
my $has_faults = open_faults($node);
$node->safe_psql(
	'postgres', q{
CREATE TABLE shop.stock (item int PRIMARY KEY, shelf text, quantity int);
ALTER TABLE shop.stock REPLICA IDENTITY FULL;
INSERT INTO shop.stock SELECT i, 'shelf ' || i % 5, i FROM generate_series(1, 60) AS i;
CREATE TABLE shop.measure (value int);
ALTER TABLE shop.measure REPLICA IDENTITY FULL});
$query{'shop.shelves'} = 'SELECT shelf, count(*) AS items, sum(quantity) AS quantity, max(quantity) AS most FROM shop.stock GROUP BY shelf';
$query{'shop.digits'} = 'SELECT value % 10 AS digit, count(*) AS n, sum(value) AS total FROM shop.measure GROUP BY 1';
$query{visits} = 'SELECT page, count(*) AS visits FROM visit GROUP BY page';
create_pipeline($node, 'postgres', $_, $query{$_}, trigger_interval => '0') foreach 'shop.shelves', 'shop.digits';
are_exact($node, 'postgres', [ 'shop.shelves', 'shop.digits' ], 'to begin with');

unflushed();
copies();
prepared();
prepared_pipelines();
own_writes();
many_pipelines();

$node->stop;
done_testing();

# ---------------------------------------------------------------------------
# 3: confirmed before flushed

# On a server of its own: whatever else is written might flush the commit.
sub unflushed
{
	my $lazy = new_node(
		'lazy',
		fsync                    => 'off',
		synchronous_commit       => 'off',
		wal_writer_delay         => '10s',
		wal_writer_flush_after   => '1GB',
		autovacuum               => 'off',
		'incbatch.batch_history' => 0);

  SKIP:
	{
		skip 'this build has no fault points', 2 * $loops unless $has_faults;
		$lazy->start;
		open_faults($lazy);
		create_extension($lazy, 'postgres');
		$lazy->safe_psql('postgres', 'CREATE TABLE visit (page int)');
		create_pipeline($lazy, 'postgres', 'visits', $query{visits}, trigger_interval => '0', append_only => 'true');
		wait_for_state($lazy, 'postgres', 'visits', 'running');
		foreach my $loop (1 .. $loops)
		{
			my $offset = -s $lazy->logfile;

			# its record lets the slot move on, and when it does it is saved
			$lazy->safe_psql('postgres', 'CHECKPOINT');
			arm($lazy, 'after_confirm:wait');
			$lazy->safe_psql('postgres', "INSERT INTO visit SELECT i % 3 FROM generate_series(1, 10 * $loop) AS i");
			ok(until_holds { at_point($lazy, 'after_confirm', $offset) }, "3: crash $loop comes when the slot is confirmed");
			$lazy->stop('immediate');
			arm($lazy, '');
			$lazy->start;
			is(differences($lazy, 'postgres', 'visits'), '', "3: crash $loop: what was confirmed was flushed") or last;
		}
		$lazy->stop;
	}
	return;
}

# ---------------------------------------------------------------------------
# 4: a position inside a transaction

sub copies
{
  SKIP:
	{
		skip 'this build has no fault points', 2 * $loops unless $has_faults;
		foreach my $loop (1 .. $loops)
		{
			my $committed = $loop % 2;
			my $pass      = 1 + int(rand($rows));
			my $offset    = -s $node->logfile;

			$node->safe_psql('postgres', q{SELECT incbatch.pause_pipeline('shop.digits'), incbatch.pause_pipeline('shop.shelves')})
			  if $committed;
			arm($node, "decoding:kill9:$pass") unless $committed;
			$node->psql('postgres', "COPY shop.measure FROM PROGRAM 'seq 1 $rows'");
			if ($committed)
			{
				arm($node, "decoding:kill9:$pass");
				$node->psql('postgres', q{SELECT incbatch.resume_pipeline('shop.digits'), incbatch.resume_pipeline('shop.shelves')});
			}
			ok(until_holds { at_point($node, 'decoding', $offset) },
				"4: COPY $loop: the worker dies at change $pass");
			arm($node, '');
			agrees('shop.digits', "4: COPY $loop" . ($committed ? ', committed' : ', under way'));
		}
	}
	return;
}

# ---------------------------------------------------------------------------
# 13: prepared, aborted, in progress

sub prepared
{
	my $transactions0 = $node->safe_psql('postgres', 'SELECT pg_current_xact_id()');

	foreach my $loop (1 .. $loops)
	{
		my @open = map { "${loop}_$_" } 1 .. 8;
		my $sql  = '';

		# each has items of its own, so that none waits for another
		foreach my $i (0 .. $#open)
		{
			$sql .= "BEGIN;\n" . changes(1000 + 100 * $i, 0) . "PREPARE TRANSACTION '$open[$i]';\n";
			$sql .= "BEGIN;\n" . changes(1, 0) . (rand() < 0.7 ? "COMMIT;\n" : "ROLLBACK;\n") foreach 1 .. 10;
		}
		$node->safe_psql('postgres', $sql);
		agrees('shop.shelves', "13: loop $loop: eight are prepared");
		finish(splice @open, 0, 4);
		crash($loop);
		finish(splice @open, 0, 2);
		agrees('shop.shelves', "13: loop $loop: some are finished");
		crash($loop + 1);
		finish(@open);
		agrees('shop.shelves', "13: loop $loop: all are finished");
	}
	cmp_ok($node->safe_psql('postgres', 'SELECT pg_current_xact_id()') - $transactions0,
		'>', 50 * $loops, '13: there were many');
	return;
}

# Commit or roll back what is prepared, beside another change.
sub finish
{
	my $sql = '';

	$sql .= (rand() < 0.6 ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$_';\nUPDATE shop.stock SET quantity = quantity + 1 WHERE item = 1;\n"
	  foreach sort { rand() <=> 0.5 } @_;
	$node->safe_psql('postgres', $sql);
	return;
}

# Changes of a hundred items, in savepoints up to four deep; now and then so many
# that they come in pieces.
sub changes
{
	my ($first, $depth) = @_;
	my $sql = '';

	foreach (0 .. int(rand(4)))
	{
		my ($item, $quantity) = ($first + int(rand(60)), int(rand(1000)));
		my $shelf = rand() < 0.1 ? 'NULL' : sprintf q{'shelf %d'}, rand(5);
		my $dice  = int(rand(9));

		$sql .=
		    $dice <= 2 ? "INSERT INTO shop.stock VALUES ($item, $shelf, $quantity) ON CONFLICT (item) DO UPDATE SET shelf = excluded.shelf, quantity = excluded.quantity;\n"
		  : $dice == 3 ? "INSERT INTO shop.stock VALUES ($item, $shelf, $quantity) ON CONFLICT DO NOTHING;\n"
		  : $dice == 4 ? "UPDATE shop.stock SET shelf = $shelf WHERE item BETWEEN $item AND $item + 5 AND item < $first + 100;\n"
		  : $dice == 5 ? "DELETE FROM shop.stock WHERE item = $item;\n"
		  : $dice == 6 && rand() < 0.2 ? "INSERT INTO shop.measure SELECT $quantity FROM generate_series(1, 4000);\n"
		  : $depth < 4 ? "SAVEPOINT s$depth;\n"
		  . changes($first, $depth + 1)
		  . (rand() < 0.5 ? 'ROLLBACK TO' : 'RELEASE') . " SAVEPOINT s$depth;\n"
		  : '';
	}
	return $sql;
}

# What a prepared transaction does to pipelines.  Each statement is in a session of
# its own, so whoever commits it has not changed them himself.
sub prepared_pipelines
{
	my $refresh = q{SET statement_timeout = '60s'; CALL incbatch.refresh_pipeline('counted')};
	my $both    = sub {
		my ($sql, $between) = @_;

		$node->safe_psql('other', "BEGIN; $sql; PREPARE TRANSACTION 'pipelines'");
		$between->() if $between;
		$node->safe_psql('other', q{COMMIT PREPARED 'pipelines'});
	};
	my $state = sub { $node->safe_psql('other', 'SELECT state FROM incbatch.pipelines') };
	my $restart = sub { $node->restart };
	my $create  = IncBatch::create_pipeline_sql('counted', 'SELECT a % 2 AS odd, count(*) FROM numbers GROUP BY 1', trigger_interval => '0');

	$node->safe_psql('postgres', 'CREATE DATABASE other');
	$node->safe_psql('other', q{CREATE TABLE numbers (a int PRIMARY KEY); INSERT INTO numbers VALUES (1), (2), (3)});
	$node->safe_psql('other', q{ALTER TABLE numbers REPLICA IDENTITY FULL});
	$both->("CREATE EXTENSION incbatch; $create");
	is(($node->psql('other', $refresh))[0], 0, '13: a pipeline is created along with the extension');
	$both->(q{SELECT incbatch.pause_pipeline('counted')});
	is($state->(), 'paused', '13: it is paused');
	$node->safe_psql('other', 'INSERT INTO numbers VALUES (4)');
	$both->(q{SELECT incbatch.resume_pipeline('counted')}, $restart);
	is(($node->psql('other', $refresh))[0], 0, '13: it is resumed');
	is($node->safe_psql('other', 'SELECT sum(count) FROM counted'), 4, '13: and goes on');
	$both->(q{DROP VIEW counted});
	ok(worker_is_gone($node, $node->safe_psql('other', q{SELECT oid FROM pg_database WHERE datname = 'other'})),
		'13: it is dropped, and the worker goes');
	$both->($create, $restart);
	is(($node->psql('other', $refresh))[0], 0, '13: one is created');
	$node->safe_psql('postgres', 'DROP DATABASE other');
	return;
}

# ---------------------------------------------------------------------------
# 12: own writes

sub own_writes
{
	my $decoded = q{SELECT rows_decoded FROM incbatch.workers WHERE database = 'postgres'};
	my $look    = session($node, 'postgres');

	# what was decoded again after a crash is behind it
	ask($look, q{CALL incbatch.refresh_pipeline('shop.shelves')});
	my $before = ask($look, $decoded);
	foreach my $n (1 .. 20)
	{
		ask($look, "INSERT INTO shop.stock VALUES (5000 + $n, 'shelf $n', $n)");
		ask($look, q{CALL incbatch.refresh_pipeline('shop.shelves')});
	}
	ok(until_true($look, "SELECT ($decoded) >= $before + 20"), '12: what others write is decoded');
	is(ask($look, $decoded) - $before, 20, '12: and nothing of what the worker writes');
	is(ask($look, q{SELECT backlog_rows FROM incbatch.lag WHERE pipeline = 'shop.shelves'}), 0, '12: so nothing waits');
	end_session($look);
	return;
}

# ---------------------------------------------------------------------------
# 14: one slot for many pipelines; 1: a run that is cancelled

sub many_pipelines
{
	my %load = (%{ orders_load($node, 2000) }, %{ bank_load() });

	create_pipelines($node, 'postgres', 'shop.extremes' => '1 s', 'shop.thirds' => '1 minute', 'shop.spread' => '1 hour');
	foreach my $loop (1 .. $loops)
	{
		my $bench  = start_pgbench($node, 'postgres', \%load, '-c', 2, '-R', 200, '-T', 120);
		my $look   = session($node, 'postgres');
		my $worker = wait_for_worker($node, 'postgres');
		my $start  = ask($look, 'SELECT pg_current_wal_insert_lsn()');

		ask($look, q{SELECT incbatch.drop_pipeline('shop.by_category')});
		ask($look, IncBatch::create_pipeline_sql('shop.newer', $query{'shop.by_category'}, trigger_interval => '0'));
		until_true($look, "SELECT pg_current_wal_insert_lsn() > '$start'::pg_lsn + " . int(rand(50_000)));
		if ($loop % 2)
		{
			ask($look, "SELECT pg_cancel_backend($worker)");
		}
		else
		{
			my $offset = -s $node->logfile;
			kill_process('KILL', $worker);
			$node->wait_for_log(qr/database system is ready to accept connections/, $offset);
		}
		stop_pgbench($bench);
		end_session($look);
		agrees($_, "14: loop $loop") foreach grep { $_ ne 'shop.by_category' } @shop_pipelines, 'shop.shelves';
		is(differences($node, 'postgres', 'shop.newer', query => $query{'shop.by_category'}),
			'', "14: loop $loop: shop.newer, which came under load, is exact");
		$node->safe_psql('postgres', q{SELECT incbatch.drop_pipeline('shop.newer')});
		create_pipeline($node, 'postgres', 'shop.by_category', $query{'shop.by_category'}, trigger_interval => '0');
	}
	return;
}

# ---------------------------------------------------------------------------

# By turns the whole server and the worker alone.
sub crash
{
	my ($n) = @_;

	if ($n % 2)
	{
		$node->stop('immediate');
		$node->start;
		return;
	}
	my $offset = -s $node->logfile;
	kill_process('KILL', wait_for_worker($node, 'postgres'));
	$node->wait_for_log(qr/database system is ready to accept connections/, $offset);
	return;
}

sub agrees
{
	my ($name, $label) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is(differences_settled($node, 'postgres', $name), '', "$label: $name is exact");
	return;
}
