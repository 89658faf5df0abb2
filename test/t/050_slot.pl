
# The place in the WAL is lost: said, never papered over, and mended by one call.
#
# While the worker is stopped somebody drops its slot, creates one of the same
# name, advances it, or lets the server invalidate it; or the data directory is
# a base backup, which has the aggregates and not the slots.  Proves:
# - the pipelines become needs_rebuild; their rows stay what they were, so that
#   no total is quietly wrong; refresh_pipeline and incbatch.lag say so;
# - rebuild_pipeline brings them back, and readers see the old rows or the new
#   ones, never a mixture or nothing;
# - a cold copy, slots and all, needs no rebuild;
# - a paused pipeline gives its place up at incbatch.max_retained_wal, without
#   the others, of which those that run once an hour run before it comes to that.
# (on_lost => 'rebuild' is in 160_poison.)

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IncBatch;
use Test::More;

my $node = new_node('main', 'incbatch.max_retained_wal' => '64MB');
$node->start;
create_shop($node, 'postgres', 5000);
create_pipelines($node, 'postgres', 'shop.thirds' => '100 ms');
are_exact($node, 'postgres', \@shop_pipelines, 'to begin with');
my $slot = slot_name($node, 'postgres');

my $create_again = q{
SELECT set_config('output_plugin_libraries', 'pgoutput, test_decoding, incbatch', false)
  FROM pg_settings WHERE name = 'output_plugin_libraries';
SELECT pg_drop_replication_slot('%1$s');
SELECT pg_create_logical_replication_slot('%1$s', '%2$s')};
my @cases = (
	[ 'dropped',            sprintf q{SELECT pg_drop_replication_slot('%s')}, $slot ],
	[ 'created again',      sprintf $create_again, $slot, 'incbatch' ],
	[ 'of another plugin',  sprintf $create_again, $slot, 'test_decoding' ],
	[ 'advanced',           sprintf q{SELECT pg_replication_slot_advance('%s', pg_current_wal_flush_lsn())}, $slot ],
	[ 'invalidated', q{
ALTER SYSTEM SET max_slot_wal_keep_size = '1MB';
SELECT pg_reload_conf();
} . fill_wal(3) ],);

foreach my $case (@cases)
{
	my ($what, $sql) = @$case;

	change($node);
	are_exact($node, 'postgres', \@shop_pipelines, "$what: before");
	remember($node);

	library($node, '');
	change($node);
	my ($ret, undef, $stderr) = $node->psql('postgres', "$sql;");
	if ($ret != 0 && $what eq 'created again')
	{
		# Our plugin may refuse a stranger; then there is no such hazard.
		diag "slot $what: $stderr";
		like($stderr, qr/incbatch/, "$what: refused by the plugin");
		$node->psql('postgres', "SELECT pg_drop_replication_slot('$slot')");
	}
	else
	{
		is($ret, 0, "$what: done to the slot") or diag $stderr;
	}
	if ($what eq 'invalidated')
	{
		# the checkpointer could learn of the setting after the first one
		ok( until_holds {
				$node->safe_psql('postgres', 'CHECKPOINT');
				$node->safe_psql('postgres',
					"SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = '$slot'") eq 't';
			},
			'the slot is lost');
		$node->safe_psql('postgres', 'ALTER SYSTEM RESET max_slot_wal_keep_size');
	}
	change($node);
	library($node, 'incbatch');

	needs_rebuild($node, "slot $what");
	rebuild($node, "slot $what");
	is(slot_count($node), 1, "slot $what: there is one slot again");
}

# A base backup, taken with the worker running.
change($node);
$node->backup('base');
my $copy = PostgreSQL::Test::Cluster->new('copy');
$copy->init_from_backup($node, 'base');
change($node);
$copy->start;
wait_for_state($copy, 'postgres', $_, 'needs_rebuild') foreach @shop_pipelines;
remember($copy);
change($copy);
needs_rebuild($copy, 'base backup');
rebuild($copy, 'base backup');
are_exact($node, 'postgres', \@shop_pipelines, 'the original goes on');
$copy->stop;

# A cold copy goes on where the original stopped.
change($node);
$node->stop;
$node->backup_fs_cold('cold');
my $cold = PostgreSQL::Test::Cluster->new('cold');
$cold->init_from_backup($node, 'cold');
$cold->start;
change($cold);
are_exact($cold, 'postgres', \@shop_pipelines, 'a cold copy, without a rebuild');
is( $cold->safe_psql('postgres',
		q{SELECT string_agg(DISTINCT state, ' ') FROM incbatch.pipelines}),
	'running',
	'a cold copy needs no rebuild');
$cold->stop;

# One paused pipeline holds the WAL back, up to the limit.
$node->start;
are_exact($node, 'postgres', \@shop_pipelines, 'before the pause');
remember($node);
$node->safe_psql('postgres', q{
SELECT incbatch.alter_pipeline('shop.thirds', '1 hour');
SELECT incbatch.alter_pipeline('shop.totals', '1 hour');
SELECT incbatch.pause_pipeline('shop.extremes')});
change($node);
$node->safe_psql('postgres', fill_wal(6));
wait_for_state($node, 'postgres', 'shop.extremes', 'needs_rebuild');
pass('a paused pipeline gives up its place in the WAL');
is(changed_since($node, 'shop.extremes'), 0, 'its rows are what they were');
my @others = grep { $_ ne 'shop.extremes' } @shop_pipelines;
are_exact($node, 'postgres', \@others, 'the others');
is( $node->safe_psql('postgres',
		q{SELECT count(*) FROM incbatch.pipelines WHERE state = 'running'}),
	scalar @others,
	'the others are running');
# A frontier without changes is stored once in a megabyte of WAL.
my $look = session($node, 'postgres');
ok( until_true(
		$look, qq{
DO \$\$ BEGIN PERFORM pg_logical_emit_message(false, 'busy', repeat('x', 1500000)); END \$\$;
CHECKPOINT;
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) < 80 * 1024 * 1024
  FROM pg_replication_slots WHERE slot_name = '$slot'}),
	'the slot holds no more than the limit and a segment');
end_session($look);
fails_like($node, 'postgres', q{CALL incbatch.refresh_pipeline('shop.extremes')},
	qr/needs_rebuild/, 'refresh_pipeline of a paused one that gave up');
$node->safe_psql('postgres', q{SELECT incbatch.rebuild_pipeline('shop.extremes')});
wait_for_state($node, 'postgres', 'shop.extremes', 'paused');
pass('rebuild_pipeline does not end the pause');
$node->safe_psql('postgres', q{SELECT incbatch.resume_pipeline('shop.extremes')});
are_exact($node, 'postgres', \@shop_pipelines, 'rebuilt after the pause');

$node->stop;
done_testing();

# Restart the node with, or without, the library: without it there is no worker
# and anybody may take the slot.
sub library
{
	my ($server, $libraries) = @_;

	$server->stop;
	set_conf($server, shared_preload_libraries => $libraries);
	$server->start;
	return;
}

# A few changes of every kind, which no aggregate may miss.
sub change
{
	my ($server) = @_;

	$server->safe_psql(
		'postgres', q{
INSERT INTO shop.orders (product_id, region, amount_cents)
SELECT i % 20 + 1, shop.region(i % 5), i * 50 FROM generate_series(1, 100) AS i;
UPDATE shop.orders SET region = 'west'
 WHERE order_id IN (SELECT order_id FROM shop.orders ORDER BY order_id DESC LIMIT 7);
DELETE FROM shop.orders
 WHERE order_id IN (SELECT order_id FROM shop.orders ORDER BY order_id LIMIT 5);
BEGIN;
UPDATE shop.bank SET balance = balance - 10 WHERE account = 1;
UPDATE shop.bank SET balance = balance + 10 WHERE account = 2;
COMMIT;
});
	return;
}

# SQL that makes so many segments of WAL, with changes in each.
sub fill_wal
{
	my ($segments) = @_;

	return join '', map {
		"UPDATE shop.bank SET branch = 'branch ' || $_ WHERE account = $_; SELECT pg_switch_wal();\n"
	} 1 .. $segments;
}

# Keep the rows of every aggregate.
sub remember
{
	my ($server) = @_;

	foreach my $name (@shop_pipelines)
	{
		(my $table = $name) =~ s/^shop/kept/;
		$server->safe_psql('postgres',
			"SET client_min_messages = warning; CREATE SCHEMA IF NOT EXISTS kept; DROP TABLE IF EXISTS $table; CREATE TABLE $table AS TABLE $name"
		);
	}
	return;
}

# How many rows differ from those kept.
sub changed_since
{
	my ($server, $name) = @_;
	(my $table = $name) =~ s/^shop/kept/;

	return $server->safe_psql('postgres',
		"SELECT count(*) FROM ((TABLE $name EXCEPT ALL TABLE $table) UNION ALL (TABLE $table EXCEPT ALL TABLE $name)) AS d"
	);
}

# The pipelines notice, say so everywhere, and have changed nothing.
sub needs_rebuild
{
	my ($server, $label) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	foreach my $name (@shop_pipelines)
	{
		wait_for_state($server, 'postgres', $name, 'needs_rebuild');
		is(changed_since($server, $name), 0, "$label: the rows of $name are what they were");
		isnt(differences($server, 'postgres', $name, no_refresh => 1),
			'', "$label: $name lags behind its query")
		  unless $name eq 'shop.totals';
		fails_like($server, 'postgres', "CALL incbatch.refresh_pipeline('$name')",
			qr/rebuild/, "$label: refresh_pipeline of $name");
	}
	like(
		$server->safe_psql(
			'postgres',
			q{SELECT last_error FROM incbatch.pipelines WHERE pipeline::text = 'shop.totals'}
		),
		qr/rebuild_pipeline/,
		"$label: last_error names the way out");
	is( $server->safe_psql(
			'postgres',
			q{SELECT count(*) FROM incbatch.lag WHERE status = 'fresh'}
		),
		0,
		"$label: nothing shows as fresh");
	return;
}

# One call for each, under a reader, and all is well again.
sub rebuild
{
	my ($server, $label) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $reader = start_pgbench($server, 'postgres', bank_reader(),
		'-c', 1, '-t', 200, '-R', 100);

	$server->safe_psql('postgres', "SELECT incbatch.rebuild_pipeline('$_')")
	  foreach @shop_pipelines;
	are_exact($server, 'postgres', \@shop_pipelines, "$label: rebuilt");
	change($server);
	are_exact($server, 'postgres', \@shop_pipelines, "$label: goes on");
	is( $server->safe_psql('postgres',
			q{SELECT count(*) FROM incbatch.pipelines WHERE state = 'running'}),
		scalar @shop_pipelines,
		"$label: all are running");

	my ($exit, $output) = finish_pgbench($reader);
	is($exit, 0, "$label: readers saw the old rows or the new ones") or diag $output;
	return;
}
