
# 7, 52, 53, 40: another server goes on with the data directory, or a copy of it.
#
# Each time the pipelines either go on and are exact, or need a rebuild, say so
# and are exact after it:
# - 52: a standby is promoted while its primary takes writes.  Where the server
#   has failover slots (17) it goes on from its copy of the slot; before, there is
#   no slot on it.  On a standby no worker runs, and its readers see a total that
#   adds up;
# - 7: recovery to a point in time before the last batches;
# - 53: pg_upgrade to a new cluster, in which no worker runs while it works;
# - 40: a slot that the server took away because nobody held it for long (18).
# Base backups and cold copies are in 050_slot.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IncBatch;
use PostgreSQL::Test::Utils;
use Test::More;

my $load = $ENV{FAILOVER_SECONDS} || 3;

my $node = new_node('main', 'incbatch.max_retained_wal' => '512MB');
$node->enable_archiving;
$node->start;
my $version = $node->safe_psql('postgres', 'SHOW server_version_num');
my $failover = $version >= 170000;
create_shop($node, 'postgres', 1000);
create_pipelines($node, 'postgres', 'shop.thirds' => '100 ms');
are_exact($node, 'postgres', \@shop_pipelines, 'to begin with');
my $slot = slot_name($node, 'postgres');

$node->backup('base');
promotion();
point_in_time();
upgrade();
idle_slot() if $version >= 180000;
done_testing();

sub change
{
	my ($server) = @_;

	$server->safe_psql('postgres', q{
INSERT INTO shop.orders (product_id, region, amount_cents) SELECT i % 20 + 1, shop.region(i % 5), i * 50 FROM generate_series(1, 100) AS i;
UPDATE shop.orders SET region = 'west' WHERE order_id % 50 = 1;
DELETE FROM shop.orders WHERE order_id % 50 = 2;
UPDATE shop.bank SET branch = 'branch 0' WHERE account % 10 = 1});
	return;
}

sub states
{
	my ($server) = @_;

	return $server->safe_psql('postgres',
		q{SELECT string_agg(DISTINCT state, ' ') FROM incbatch.pipelines});
}

# All need a rebuild and have it, with changes before and after.
sub rebuilt
{
	my ($server, $label) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	wait_for_state($server, 'postgres', $_, 'needs_rebuild') foreach @shop_pipelines;
	pass("$label: all need a rebuild");
	change($server);
	fails_like($server, 'postgres', "CALL incbatch.refresh_pipeline('shop.totals')", qr/rebuild/, "$label: refresh_pipeline");
	$server->safe_psql('postgres', "SELECT incbatch.rebuild_pipeline('$_')") foreach @shop_pipelines;
	are_exact($server, 'postgres', \@shop_pipelines, "$label: rebuilt");
	goes_on($server, $label);
	return;
}

sub goes_on
{
	my ($server, $label) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	change($server);
	are_exact($server, 'postgres', \@shop_pipelines, "$label: goes on");
	is(states($server), 'running', "$label: all are running");
	is(slot_count($server), 1, "$label: there is one slot");
	return;
}

# The primary dies under load, and its standby takes over.
sub promotion
{
	my $standby = PostgreSQL::Test::Cluster->new('standby');

	$node->safe_psql('postgres', q{SELECT pg_create_physical_replication_slot('standby', true)});
	$standby->init_from_backup($node, 'base', has_streaming => 1);
	set_conf($standby, primary_slot_name => 'standby', hot_standby_feedback => 'on', archive_mode => 'off');
	if ($failover)
	{
		(my $primary = $node->connstr('postgres')) =~ s/'/''/g;
		set_conf($standby, sync_replication_slots => 'on', primary_conninfo => $primary);
	}
	$standby->start;
	if ($failover)
	{
		set_conf($node, synchronized_standby_slots => 'standby');
		$node->reload;
		is($node->safe_psql('postgres', "SELECT failover FROM pg_replication_slots WHERE slot_name = '$slot'"),
			't', '52: ours is a failover slot');
	}
	$standby->poll_query_until('postgres', 'SELECT pg_is_in_recovery()') or die 'no standby';

	my $writers = start_pgbench($node, 'postgres', { %{ orders_load($node, 1000) }, %{ bank_load() } },
		'-c', 3, '-T', 60, '-R', 200);
	my $reader = start_pgbench($standby, 'postgres', bank_reader(), '-c', 1, '-T', $load, '-R', 50);
	is($standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'incbatch worker'}),
		0, '52: no worker on a standby');
	fails_like($standby, 'postgres', q{SELECT incbatch.rebuild_pipeline('shop.totals')}, qr/recovery|read-only/,
		'52: rebuild_pipeline on a standby');
	my ($exit, $output) = finish_pgbench($reader);
	is($exit, 0, '52: readers of a standby see a total that adds up') or diag $output;
	$standby->poll_query_until('postgres',
		"SELECT synced AND NOT temporary FROM pg_replication_slots WHERE slot_name = '$slot'")
	  || die 'the standby did not copy the slot'
	  if $failover;
	$node->stop('immediate');
	stop_pgbench($writers);

	$standby->promote;
	if ($failover)
	{
		are_exact($standby, 'postgres', \@shop_pipelines, '52: promoted, without a rebuild');
		goes_on($standby, '52: promoted');
	}
	else
	{
		rebuilt($standby, '52: promoted');
	}
	$standby->stop;
	$node->start;
	if ($failover)
	{
		set_conf($node, synchronized_standby_slots => '');
		$node->reload;
	}
	$node->safe_psql('postgres', q{SELECT pg_drop_replication_slot('standby')});
	are_exact($node, 'postgres', \@shop_pipelines, '52: the old primary, alone again');
	return;
}

# Back to a moment before batches that the copied catalog does not know of.
sub point_in_time
{
	my $restored = PostgreSQL::Test::Cluster->new('restored');

	change($node);
	are_exact($node, 'postgres', \@shop_pipelines, '7: before the restore point');
	$node->safe_psql('postgres', q{SELECT pg_create_restore_point('here')});
	change($node);
	are_exact($node, 'postgres', \@shop_pipelines, '7: after it');
	my $segment = $node->safe_psql('postgres', 'SELECT pg_walfile_name(pg_switch_wal())');
	$node->poll_query_until('postgres', "SELECT last_archived_wal >= '$segment' FROM pg_stat_archiver")
	  or die 'WAL was not archived';
	$restored->init_from_backup($node, 'base', has_restoring => 1, standby => 0);
	set_conf($restored, recovery_target_name => 'here', recovery_target_action => 'promote', archive_mode => 'off');
	$restored->start;
	$restored->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'still in recovery';
	rebuilt($restored, '7: recovered to a point in time');
	$restored->stop;
	return;
}

# To a new cluster of the same version.
sub upgrade
{
	my $new = new_node('new');
	my $bin = $node->config_data('--bindir');

	change($node);
	are_exact($node, 'postgres', \@shop_pipelines, '53: before pg_upgrade');
	$node->stop;
	if ($failover)
	{
		# Its slot would be taken along, and must have read all, our writes too.
		set_conf($node, shared_preload_libraries => '');
		$node->start;
		$node->safe_psql('postgres', "SELECT pg_drop_replication_slot('$slot')");
		$node->stop;
		set_conf($node, shared_preload_libraries => 'incbatch');
	}
	chdir $PostgreSQL::Test::Utils::tmp_check;
	$new->command_ok(
		[
			'pg_upgrade', '--no-sync', '-d', $node->data_dir, '-D', $new->data_dir, '-b', $bin, '-B', $bin,
			'-s', $new->host, '-p', $node->port, '-P', $new->port
		],
		'53: pg_upgrade');
	unlike(slurp_file($_), qr/incbatch (launcher|worker)/, '53: no worker while it works')
	  foreach glob($new->data_dir . '/pg_upgrade_output.d/*/log/pg_upgrade_server.log');
	$new->start;
	rebuilt($new, '53: upgraded');
	like(($new->psql('postgres', 'DROP EXTENSION incbatch'))[2], qr/depends on/, '53: DROP EXTENSION asks for CASCADE');
	$new->stop;
	return;
}

# The server takes a slot away that nobody held; one that is held it leaves.
sub idle_slot
{
	$node->start;
	rebuilt($node, '40: before, the slot having been dropped for pg_upgrade');
	$node->safe_psql('postgres', q{SELECT incbatch.pause_pipeline(pipeline) FROM incbatch.pipelines});
	$node->stop;
	set_conf($node, shared_preload_libraries => '', idle_replication_slot_timeout => '1s');
	$node->start;
	until_true(my $look = session($node, 'postgres'), qq{
CHECKPOINT;
SELECT invalidation_reason = 'idle_timeout' FROM pg_replication_slots WHERE slot_name = '$slot'});
	end_session($look);
	$node->stop;
	set_conf($node, shared_preload_libraries => 'incbatch');
	$node->start;
	$node->poll_query_until('postgres', q{SELECT bool_and(state = 'needs_rebuild') FROM incbatch.pipelines})
	  or die 'the worker did not notice';
	pass('40: a slot that timed out is noticed while all are paused');
	$node->safe_psql('postgres', q{SELECT incbatch.resume_pipeline(pipeline) FROM incbatch.pipelines});
	rebuilt($node, '40: after the timeout');
	$node->safe_psql('postgres', q{SELECT incbatch.pause_pipeline(pipeline) FROM incbatch.pipelines});
	$look = session($node, 'postgres');
	until_clock($look, 3);
	ask($look, 'CHECKPOINT');
	is(ask($look, "SELECT invalidation_reason FROM pg_replication_slots WHERE slot_name = '$slot'"),
		'', '40: a slot that the worker holds does not time out while all are paused');
	end_session($look);
	$node->stop;
	return;
}
