
# The aggregates equal their queries, during and after a mixed load.
#
# Eight pgbench clients insert, move, delete, roll back savepoints, COPY and
# change many rows at once, while pipelines run at three cadences, others are
# created and dropped, and transactions stay open across many batches.  Proves:
# - every read of an aggregate shows whole transactions: money moves between
#   accounts, and the sum over all branches is the same in every read;
# - verify_pipeline() finds no difference at any moment of the load;
# - a pipeline created in mid-load neither misses nor doubles a row;
# - sessions that refresh the same pipeline at once do not disturb each other, and
#   each sees what it wrote before;
# - each cadence brings the aggregate up to date by itself, and
#   CALL refresh_pipeline does so at once: no difference, both ways.
# The negative controls damage an aggregate by hand: each of the checks above
# must notice.
#
# LOAD_SECONDS (default 40) is the length of the load.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IncBatch;
use Test::More;

my $seconds = $ENV{LOAD_SECONDS} || 40;
my $orders  = 20_000;
my %trigger = (
	'shop.by_category' => '100 ms',
	'shop.extremes'    => '0',
	'shop.spread'      => '200 ms',
	'shop.thirds'      => '5 s',
	'shop.totals'      => '0');

my $node = new_node('main');
$node->start;
create_shop($node, 'postgres', $orders);
create_pipelines($node, 'postgres', %trigger);
are_exact($node, 'postgres', \@shop_pipelines, 'after the backfill');

foreach my $name (@shop_pipelines)
{
	cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM $name"),
		'>', 0, "$name has rows");
}

# Two transactions stay open while hundreds of batches run; they change the
# hundred orders that pgbench leaves alone.
my $committed  = session($node, 'postgres');
my $rolledback = session($node, 'postgres');
my $look       = session($node, 'postgres');
foreach my $held ($committed, $rolledback)
{
	ask($held, q{
BEGIN;
INSERT INTO shop.orders (product_id, region, amount_cents) SELECT i % 20 + 1, 'held', i FROM generate_series(1, 100) AS i});
}
ask($committed, q{UPDATE shop.orders SET region = 'moved' WHERE order_id <= 50});
ask($rolledback,
	q{UPDATE shop.orders SET region = 'moved' WHERE order_id BETWEEN 51 AND 75});
ask($rolledback, q{DELETE FROM shop.orders WHERE order_id BETWEEN 76 AND 100});

# Sessions that write, refresh, and look for what they wrote, while changes of the
# table keep the worker thinking between its snapshot and what it reads.
$node->safe_psql(
	'postgres', q{
CREATE TABLE shop.notes (author int, note int);
ALTER TABLE shop.notes REPLICA IDENTITY FULL;
CREATE FUNCTION shop.check_notes(who int) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	written bigint := (SELECT count(*) FROM shop.notes WHERE author = who);
	seen    bigint := (SELECT notes FROM shop.authors WHERE author = who);
BEGIN
	IF seen IS DISTINCT FROM written THEN
		RAISE EXCEPTION 'author % sees % of % notes', who, seen, written;
	END IF;
END $$;
});
$query{'shop.authors'} = 'SELECT author, count(*) AS notes FROM shop.notes GROUP BY author';
create_pipeline($node, 'postgres', 'shop.authors', $query{'shop.authors'},
	trigger_interval => '0');
wait_for_state($node, 'postgres', 'shop.authors', 'running');

# What runs at once, each with the least it must do a second: the load; who reads
# shop.totals; several sessions that refresh the same pipelines, beside the
# worker's own cadence; and who writes, refreshes and looks.
my @loads = (
	[
		'the load', 20,
		{ %{ orders_load($node, 2 * $orders) }, %{ bank_load() } },
		'-c', 8, '-j', 2, '-R', 1000
	],
	[ 'every read of shop.totals saw the same sum', 10, bank_reader(), '-c', 1, '-R', 200 ],
	[
		'three sessions refreshed at once', 1,
		{
			refresh_thirds   => [ 1, "CALL incbatch.refresh_pipeline('shop.thirds');\n" ],
			refresh_extremes => [ 1, "CALL incbatch.refresh_pipeline('shop.extremes');\n" ],
		},
		'-c', 3, '-R', 10
	],
	[
		'who refreshes sees what he wrote', 1,
		{
			alter => [ 1, "ALTER TABLE shop.notes SET (autovacuum_analyze_threshold = :client_id);\n" ],
			note  => [
				3, q{
INSERT INTO shop.notes VALUES (:client_id, 1);
CALL incbatch.refresh_pipeline('shop.authors');
SELECT shop.check_notes(:client_id);
}
			],
		},
		'-c', 4, '-R', 100
	]);
my @running = map { start_pgbench($node, 'postgres', @$_[ 2 .. $#$_ ], '-T', $seconds) } @loads;

# Rounds of looking, until the load ends; where the machine is so slow that these
# were few, it begins again.
my %verified;
my %seen;
my @names = @shop_pipelines;
my $round = 0;
create_pipeline($node, 'postgres', 'shop.doomed', $query{'shop.extremes'},
	trigger_interval => '100 ms');

while (pgbench_is_running($running[0]) || $round < 4)
{
	finish_loads() if !pgbench_is_running($running[0]);
	$round++;

	if ($round <= 3)
	{
		# The same query anew: its backfill runs into the load.
		my $late = "shop.late_$round";
		$query{$late} =
		  $query{ ('shop.extremes', 'shop.by_category', 'shop.thirds')[ $round - 1 ] };
		create_pipeline($node, 'postgres', $late, $query{$late},
			trigger_interval => '200 ms');
		wait_for_state($node, 'postgres', $late, 'running');
		push @names, $late;
	}

	foreach my $name (@names)
	{
		my $rows = ask($look,
			"SELECT coalesce(string_agg(v::text, E'\\n'), '') FROM incbatch.verify_pipeline('$name') AS v"
		);
		$verified{$name}++;
		is($rows, '', "round $round: verify_pipeline finds no difference in $name")
		  if $rows ne '';
	}
	my %frontier = frontiers($node, 'postgres');
	$seen{$_}{ $frontier{$_} } = 1
	  foreach grep { !m{^shop\.(authors|doomed|late)} } keys %frontier;

	if ($round == 2)
	{
		is($node->safe_psql('postgres', "SELECT incbatch.drop_pipeline('shop.doomed')"),
			't', 'a pipeline is dropped during the load');
	}
	until_clock($look, 1) if $round > 3;
}

finish_loads(1);
cmp_ok(scalar @names, '>=', @shop_pipelines + 2, 'pipelines were created during the load');
foreach my $name (@names)
{
	cmp_ok($verified{$name} || 0, '>', 0,
		"verify_pipeline compared $name during the load");
}

# A pipeline that stood still would have passed so far.
is(scalar keys %seen, scalar @shop_pipelines, 'every pipeline has one path');
foreach my $path (sort keys %seen)
{
	cmp_ok(scalar keys %{ $seen{$path} },
		'>=', 2, "the frontier of $path moved during the load");
}

# The transactions that were open all the time end only now.
ask($committed,  'COMMIT');
ask($rolledback, 'ROLLBACK');
my $lsn = $node->lsn('insert');
foreach my $name (@names)
{
	is( $node->safe_psql(
			'postgres', "SELECT incbatch.wait_for('$name', '$lsn', '60 s')"),
		't',
		"$name gets up to date by its own cadence");
}
are_exact($node, 'postgres', \@names, 'at its own cadence', no_refresh => 1);
are_exact($node, 'postgres', \@names, 'refreshed');
is( $node->safe_psql('postgres',
		"SELECT count(*) FROM shop.orders WHERE region IN ('held', 'moved')"),
	150,
	'what was held open counts once');
is(slot_count($node), 1, 'all pipelines share one slot');

# p_batch is the batch query itself.
foreach my $name (@names)
{
	is( $node->safe_psql(
			'postgres',
			"SELECT count(*) FROM ((TABLE ${name}_batch EXCEPT ALL ($query{$name})) UNION ALL (($query{$name}) EXCEPT ALL TABLE ${name}_batch)) AS d"
		),
		0,
		"${name}_batch is the query of $name");
}

# Negative controls: a row taken out of the state table by hand.
my $damage = q{DELETE FROM shop.%s_state WHERE ctid = (SELECT min(ctid) FROM shop.%1$s_state)};
fails_like(
	$node, 'postgres',
	'BEGIN; ' . sprintf($damage, 'totals') . '; SELECT shop.check_totals()',
	qr/adds up to/, 'the reader of a damaged aggregate');

$node->safe_psql('postgres', sprintf($damage, 'by_category'));
isnt(differences($node, 'postgres', 'shop.by_category', no_refresh => 1),
	'', 'the oracle finds the missing row');
cmp_ok(
	$node->safe_psql(
		'postgres',
		q{SELECT count(*) FROM incbatch.verify_pipeline('shop.by_category')
		   WHERE difference IS NOT NULL AND coalesce(row_in_aggregate, row_in_batch) IS NOT NULL}
	),
	'>=', 1,
	'verify_pipeline finds the missing row');

$node->safe_psql('postgres', q{SELECT incbatch.rebuild_pipeline('shop.by_category')});
are_exact($node, 'postgres', ['shop.by_category'], 'rebuilt');
is( $node->safe_psql(
		'postgres',
		q{SELECT count(*) FROM incbatch.verify_pipeline('shop.by_category')}),
	0,
	'verify_pipeline finds nothing after the rebuild');

end_session($committed, $rolledback, $look);
$node->stop;
done_testing();

# The loads have ended without an error; and begin again, or that was the last.
sub finish_loads
{
	my ($last) = @_;

	foreach my $i (0 .. $#loads)
	{
		my ($what, $least) = @{ $loads[$i] };
		my ($exit, $output, $transactions) = finish_pgbench($running[$i]);

		is($exit, 0, $what) or diag $output;
		cmp_ok($transactions, '>', $least * $seconds, "$what: it was a load");
	}
	note "$round rounds";
	return if $last;
	@running = map { start_pgbench($node, 'postgres', @$_[ 2 .. $#$_ ], '-T', $seconds) } @loads;
	return;
}
