
# Ways for a table to part from its source that need a second session: a path
# that begins as a copy of a sibling, runs of the same pipeline at once, and the
# batch query read as at an earlier instant.
#
# A new path takes over what its sibling holds.  Which changes follow, it must
# know to the transaction: those that wait in the sibling's batch, and one whose
# commit hangs between its WAL record and its visibility (040_held_back), which
# the sibling holds back.  Both have to be in the copy, or come after it, once.

use strict;
use warnings;

# Every client but the hanging one, as in 040_held_back.
BEGIN { $ENV{PGOPTIONS} = '-c synchronous_commit=local'; }

use FindBin;
use lib "$FindBin::RealBin/../perl";
use Faults;
use IncBatch;
use Test::More;

my $node = new_node('main', fsync => 'off', synchronous_standby_names => 'nobody');
$node->start;
create_shop($node, 'postgres', 0);
$query{'shop.slow'} = $query{'shop.totals'};
create_pipeline($node, 'postgres', 'shop.slow', $query{'shop.slow'}, trigger_interval => '6 hours');
sql(q{CALL incbatch.refresh_pipeline('shop.slow')});

sub sql
{
	return $node->safe_psql('postgres', join ';', @_);
}

# The relation of a consumer against the query, without refreshing it: what a
# path that has just begun holds, which runs once an hour.
sub consumer_is_exact
{
	my ($consumer, $label) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is( sql(qq{
SELECT count(*) FROM ((TABLE shop.slow_$consumer EXCEPT ALL ($query{'shop.slow'}))
       UNION ALL (($query{'shop.slow'}) EXCEPT ALL TABLE shop.slow_$consumer)) d}),
		0, $label);
	return;
}

sub create_consumer
{
	my ($consumer, $trigger) = @_;

	sql(qq{SELECT incbatch.create_consumer('$consumer', 'shop.slow', freshness => '1 day', trigger_interval => '$trigger')});
	$node->poll_query_until('postgres', qq{
SELECT s.state = 'running' FROM incbatch.consumer c JOIN incbatch.path_state s USING (path) WHERE c.consumer = '$consumer'})
	  or die "the path of $consumer does not run";
	return;
}

# ---------------------------------------------------------------------------
# 14: what waits in the sibling's batch, read or unread

create_consumer('first', '6 hours');
sql(q{UPDATE shop.bank SET balance = balance + 1 WHERE account <= 50},
	q{DELETE FROM shop.bank WHERE account = 100});
create_consumer('second', '5 hours');
consumer_is_exact('second', '14: what waited for the sibling is in the copy');
consumer_is_exact('first', '14: and in the sibling');
sql(q{INSERT INTO shop.bank VALUES (101, 'new', 5)}, q{CALL incbatch.refresh_pipeline('shop.slow')});
consumer_is_exact($_, "14: what follows is in both: $_") foreach 'first', 'second';

# ---------------------------------------------------------------------------
# 10: what the sibling holds back, for its commit hangs

{
	my $session = session($node, 'postgres');
	my $pid     = hang_commit($node, $session,
		q{BEGIN; UPDATE shop.bank SET balance = balance + 1000 WHERE account = 1; DELETE FROM shop.bank WHERE account = 2});

	sql(q{UPDATE shop.bank SET balance = balance + 1 WHERE account = 3});
	create_consumer('third', '4 hours');
	consumer_is_exact('third', '10: copied while a commit hangs');
	sql(q{INSERT INTO shop.bank VALUES (102, 'new', 7)}, q{CALL incbatch.refresh_pipeline('shop.slow')});
	consumer_is_exact($_, "10: followed while it hangs: $_") foreach 'first', 'second', 'third';
	release_commit($node, $session, $pid);
	sql(q{CALL incbatch.refresh_pipeline('shop.slow')});
	consumer_is_exact($_, "10: it counts once it is visible: $_") foreach 'first', 'second', 'third';
	end_session($session);
}
is(sql(q{SELECT count(*) FROM incbatch.verify_pipeline('shop.slow')}), 0, '10: verify agrees, of each path');
is(sql(q{SELECT count(DISTINCT path) FROM incbatch.paths WHERE pipeline = 'shop.slow'}), 3, 'three paths');

# ---------------------------------------------------------------------------
# 25: rows that a frontier sees may be gone for vacuum, though nothing was
# folded in since: versions that differ only in columns that no query reads

sql(q{ALTER TABLE shop.bank ADD COLUMN note text},
	q{CALL incbatch.refresh_pipeline('shop.slow')});
foreach my $round (1 .. 3)
{
	sql("UPDATE shop.bank SET note = 'round $round'");
	$node->safe_psql('postgres', 'VACUUM shop.bank');
	is(sql(q{SELECT count(*) FROM incbatch.verify_pipeline('shop.slow')}), 0,
		"25: verify finds nothing where vacuum was at work, round $round");
}
sql(q{DO $$ DECLARE t text := (SELECT relation FROM incbatch.paths WHERE pipeline = 'shop.slow' ORDER BY path LIMIT 1);
BEGIN EXECUTE format('UPDATE %s SET sum_1 = sum_1 + 1 WHERE branch = %L', t, 'branch 1'); END $$});
like(sql(q{SELECT difference FROM incbatch.verify_pipeline('shop.slow')}), qr/^different \(path \d+\)$/,
	'25: verify says which path somebody has damaged');
sql(q{SELECT incbatch.rebuild_pipeline('shop.slow')}, q{CALL incbatch.refresh_pipeline('shop.slow')});
is(sql(q{SELECT count(*) FROM incbatch.verify_pipeline('shop.slow')}), 0, '25: and a rebuild mends it');

# ---------------------------------------------------------------------------
# 36: ten sessions refresh one pipeline while four write, and some verify

{
	my $load    = start_pgbench($node, 'postgres', bank_load(), '-c', 2, '-t', 400);
	my $refresh = start_pgbench($node, 'postgres', {
			refresh => [ 2, "CALL incbatch.refresh_pipeline('shop.slow');\n" ],
			verify  => [ 1, "SELECT 1 / (count(*) = 0)::int FROM incbatch.verify_pipeline('shop.slow');\n" ],
		}, '-c', 10, '-t', 30);
	my ($exit, $output) = finish_pgbench($refresh);
	is($exit, 0, '36: ten sessions refresh and verify at once') or diag $output;
	($exit, $output) = finish_pgbench($load);
	is($exit, 0, '36: writers beside them') or diag $output;
	are_exact($node, 'postgres', ['shop.slow'], '36: after ten sessions at once');
	consumer_is_exact($_, "36: after ten sessions at once: $_") foreach 'first', 'second', 'third';
}

# ---------------------------------------------------------------------------
# 37: the index that keeps groups apart

sql(q{CREATE EXTENSION amcheck});
my $indexes = q{SELECT i.indexrelid FROM incbatch.paths p JOIN pg_index i ON i.indrelid = p.relation};
is(sql("SELECT count(*) FROM ($indexes) i"), 3, '37: each state table has one index');
sql("SELECT bt_index_parent_check(indexrelid, true, true) FROM ($indexes) i");
pass('37: amcheck finds nothing');
sql("DO \$\$ DECLARE t regclass; BEGIN FOR t IN SELECT relation FROM incbatch.paths LOOP EXECUTE 'REINDEX TABLE ' || t; END LOOP; END \$\$");
sql(q{UPDATE shop.bank SET branch = 'branch ' || account % 7, balance = balance + 1});
are_exact($node, 'postgres', ['shop.slow'], '37: after REINDEX');

# ---------------------------------------------------------------------------
# 45: a transaction that is streamed while a new worker collects for nobody,
# because the only source is locked

{
	my $session = session($node, 'postgres');
	my $streamed = q{SELECT coalesce(sum(stream_txns), 0) FROM pg_stat_replication_slots};

	ask($session, 'BEGIN; LOCK TABLE shop.bank');
	my $old = worker_pid($node, 'postgres');
	sql("SELECT pg_terminate_backend($old)");
	my $new    = wait_for_worker($node, 'postgres', $old);
	my $before = sql($streamed);
	sql(q{INSERT INTO shop.orders (product_id, region, amount_cents) SELECT 1, 'large', i FROM generate_series(1, 20000) i});
	ok($node->poll_query_until('postgres', "SELECT ($streamed) > $before"), '45: streamed, though nobody wants it');
	ask($session, 'UPDATE shop.bank SET balance = balance + 1; COMMIT');
	end_session($session);
	are_exact($node, 'postgres', ['shop.slow'], '45: and then the source is unlocked');
	is(worker_pid($node, 'postgres'), $new, '45: it is the same worker');
}

# ---------------------------------------------------------------------------
# 18: the catalog changed after the changes that a worker reads, and before there
# was this worker, which nobody told

{
	sql(q{CREATE TABLE shop.item (id int PRIMARY KEY, kind text)},
		q{ALTER TABLE shop.item REPLICA IDENTITY FULL},
		q{INSERT INTO shop.item SELECT i, nullif(i % 3, 0)::text FROM generate_series(1, 30) AS i});
	create_pipeline($node, 'postgres', 'shop.kinds', 'SELECT kind, count(*) AS items FROM shop.item GROUP BY kind',
		trigger_interval => '6 hours');
	sql(q{CALL incbatch.refresh_pipeline('shop.kinds')}, q{ALTER TABLE shop.item REPLICA IDENTITY DEFAULT});

	# The new worker shall not read of that again, which would empty its caches.
	my $lsn = sql('SELECT pg_current_wal_lsn()');
	ok( until_holds {
			sql('CHECKPOINT', map { "CALL incbatch.refresh_pipeline('$_')" } 'shop.kinds', 'shop.slow');
			sql("SELECT bool_and(restart_lsn > '$lsn') FROM pg_replication_slots") eq 't';
		}, '18: the slot is behind the first change');
	sql(q{SELECT incbatch.pause_pipeline('shop.kinds')});
	sql(q{DELETE FROM shop.item WHERE id < 4}, q{ALTER TABLE shop.item REPLICA IDENTITY FULL});
	my $old = worker_pid($node, 'postgres');
	sql("SELECT pg_terminate_backend($old)");
	wait_for_worker($node, 'postgres', $old);
	sql(q{SELECT incbatch.resume_pipeline('shop.kinds')});
	my ($ret, $stdout, $stderr) = $node->psql('postgres', q{CALL incbatch.refresh_pipeline('shop.kinds')});
	like($stderr, qr/a DELETE from table "item" came without its old values/, '18: the DELETE is read as it was');
	sql(q{SELECT incbatch.drop_pipeline('shop.kinds')});
}

# ---------------------------------------------------------------------------
# 27: a partition that joins with rows, takes changes, and goes again while a
# backlog is eaten in pieces

SKIP:
{
	skip 'this build has no fault points', 2 unless open_faults($node);

	sql(q{CREATE TABLE shop.part (id int, k int) PARTITION BY RANGE (id)},
		q{CREATE TABLE shop.part_old PARTITION OF shop.part FOR VALUES FROM (0) TO (100000)},
		q{CREATE TABLE shop.part_new (id int, k int)},
		q{ALTER TABLE shop.part_old REPLICA IDENTITY FULL},
		q{ALTER TABLE shop.part_new REPLICA IDENTITY FULL},
		q{INSERT INTO shop.part_new VALUES (100001, 1)});
	create_pipeline($node, 'postgres', 'shop.parts', 'SELECT k, count(*) AS n FROM shop.part GROUP BY k',
		trigger_interval => '6 hours');
	sql(q{CALL incbatch.refresh_pipeline('shop.parts')}, q{SELECT incbatch.pause_pipeline('shop.parts')});
	sql(q{ALTER TABLE shop.part ATTACH PARTITION shop.part_new FOR VALUES FROM (100000) TO (200000)});
	sql(q{INSERT INTO shop.part SELECT i, i % 3 FROM generate_series(100010, 100100) AS i});
	sql("INSERT INTO shop.part SELECT i, i % 3 FROM generate_series($_ * 3000, $_ * 3000 + 2999) AS i") foreach 1 .. 4;

	my $offset = -s $node->logfile;
	$node->safe_psql('postgres', q{ALTER SYSTEM SET incbatch.work_mem = '64kB'});
	arm($node, 'between_paths:wait');
	sql(q{SELECT incbatch.resume_pipeline('shop.parts')});
	ok(until_holds { at_point($node, 'between_paths', $offset) }, '27: a piece has been eaten');
	sql(q{ALTER TABLE shop.part DETACH PARTITION shop.part_new});
	arm($node, '');
	my ($ret, $stdout, $stderr) = $node->psql('postgres', q{CALL incbatch.refresh_pipeline('shop.parts')});
	like($stderr, qr/partition "part_new" was attached to table "part", and its rows with it/,
		'27: what the partition brought is not forgotten when it goes');
	sql(q{SELECT incbatch.drop_pipeline('shop.parts')});
	$node->safe_psql('postgres', q{ALTER SYSTEM RESET incbatch.work_mem});
	$node->reload;
}

# ---------------------------------------------------------------------------
# 63: a session that has an index of a source locked does not hold up reading

{
	my $session = session($node, 'postgres');

	sql(q{CREATE TABLE shop.keyed (id int PRIMARY KEY, k int)});
	create_pipeline($node, 'postgres', 'shop.keys', 'SELECT k, count(*) AS n FROM shop.keyed GROUP BY k',
		trigger_interval => '6 hours', append_only => 'true');
	sql(q{CALL incbatch.refresh_pipeline('shop.keys')});
	sql(q{INSERT INTO shop.keyed VALUES (1, 1)}, q{CREATE TABLE shop.elsewhere ()});
	ask($session, 'BEGIN; REINDEX INDEX shop.keyed_pkey');
	my ($ret, $stdout, $stderr) = $node->psql('postgres',
		q{SET statement_timeout = '30s'; CALL incbatch.refresh_pipeline('shop.slow')});
	is("$ret $stderr", '0 ', '63: another pipeline beside REINDEX');
	ask($session, 'COMMIT');
	end_session($session);
	is(sql(q{CALL incbatch.refresh_pipeline('shop.keys')}, 'SELECT n FROM shop.keys'), 1, '63: and that of the table after it');
}

$node->stop;
done_testing();
