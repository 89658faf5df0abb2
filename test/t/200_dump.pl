
# 83, 7: definitions come back from a dump, and never a wrong total.
#
# pg_dump takes along the definitions, paths and consumers, and the tiers as the
# administrator has edited them; not what the paths contain.  Each restore below
# proves:
# - all definitions are there, also the event time column, whose number is
#   another when the table had lost a column before;
# - the pipelines need a rebuild from the first moment on, say so, show the rows
#   of the dump until then, and are exact after it, with all consumers;
# - new pipelines and consumers can be made beside them, and DROP EXTENSION asks
#   for CASCADE as it did.
# Restored are: a plain dump into another database of the cluster, whose worker
# runs; sections of a custom dump into a fresh cluster; a dump over its own
# database with --clean, under the running worker; data alone without triggers;
# a dump by a role that is no superuser.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IncBatch;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = PostgreSQL::Test::Utils::tempdir;

# Its number in a restored table is 2, not 4.
$query{'shop.visits_daily'} = q{
SELECT date_trunc('day', v.seen) AS day, date_trunc('hour', v.sent) AS sent, count(*) AS visits
  FROM shop.visits v GROUP BY 1, 2};
my @names = ('shop.by_category', 'shop.totals', 'shop.visits_daily');
my %options = (
	'shop.by_category'  => { trigger_interval => '1 hour' },
	'shop.totals'       => { trigger_interval => '0' },
	'shop.visits_daily' => { event_time => 'seen_at', lateness => '1 hour', late_policy => 'drop', retention => '1000 days' });

my $node = new_node('main');
$node->start;
create_shop($node, 'postgres', 500);
$node->safe_psql('postgres', q{
CREATE TABLE shop.visits (a int, b int, sent timestamptz, seen_at timestamptz, id int PRIMARY KEY);
ALTER TABLE shop.visits REPLICA IDENTITY FULL;
ALTER TABLE shop.visits DROP COLUMN a, DROP COLUMN b;
INSERT INTO shop.visits SELECT '2024-03-01 00:00+00', timestamptz '2024-03-01 00:00+00' + i * interval '1 h', i
  FROM generate_series(1, 30) AS i});
(my $created = $query{'shop.visits_daily'}) =~ s/v\.seen\b/v.seen_at/;
create_pipeline($node, 'postgres', $_, $_ eq 'shop.visits_daily' ? $created : $query{$_}, %{ $options{$_} })
  foreach @names;
wait_for_state($node, 'postgres', $_, 'running') foreach @names;
# The name of the column that a restore finds is the one of the dump.
$node->safe_psql('postgres', q{
ALTER TABLE shop.visits RENAME COLUMN seen_at TO seen;
SELECT incbatch.create_consumer('executive', 'shop.by_category', tier => 4);
SELECT incbatch.create_consumer('marketing', 'shop.by_category', tier => 2);
SELECT incbatch.create_consumer('fast', 'shop.totals', freshness => '1 second');
SELECT incbatch.create_consumer('closed', 'shop.visits_daily', tier => 2, emit => 'final');
UPDATE incbatch.tiers SET freshness = '3 hours' WHERE tier = 3;
UPDATE incbatch.tiers SET name = CASE tier WHEN 1 THEN 'now' ELSE 'streaming' END WHERE tier IN (1, 4);
INSERT INTO incbatch.tiers VALUES (5, 'weekly', '7 days', '1 day');
SELECT incbatch.pause_pipeline('shop.visits_daily')});
$node->safe_psql('postgres', q{SELECT incbatch.resume_pipeline('shop.visits_daily')});
change($node, 'postgres');
are_exact($node, 'postgres', \@names, 'to begin with');
my $definitions = definitions($node, 'postgres');
my $contents = contents($node, 'postgres');
like($definitions, qr/visits_daily.*\bseen\b/, '83: the definitions follow a rename');

# Plain, into another database: the worker of the first one runs.
$node->command_ok([ 'pg_dump', '-f', "$dir/plain.sql", 'postgres' ], '83: pg_dump');
create_database($node, 'plain');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/plain.sql", 'plain' ],
	'83: psql restores a plain dump');
restored($node, 'plain', 'plain');
are_exact($node, 'postgres', \@names, '83: the original goes on');

# By sections and in parallel, into a fresh cluster.
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/custom", 'postgres' ], '83: pg_dump -Fc');
my $fresh = new_node('fresh');
$fresh->start;
create_database($fresh, 'sections');
$fresh->command_ok(
	[ 'pg_restore', '--exit-on-error', '-j', 2, "--section=$_", '-d', 'sections', "$dir/custom" ],
	"83: pg_restore --section=$_")
  foreach 'pre-data', 'data', 'post-data';
restored($fresh, 'sections', '7: a fresh cluster');

# Over the database that it was made of, whose pipelines are live.
$fresh->command_ok(
	[ 'pg_restore', '--clean', '--if-exists', '--exit-on-error', '-d', 'sections', "$dir/custom" ],
	'83: pg_restore --clean under a running worker');
restored($fresh, 'sections', '--clean');

# Data alone, and triggers off: nothing tells but that the frontiers are missing.
create_database($fresh, 'data');
$fresh->command_ok([ 'pg_restore', '--exit-on-error', '--schema-only', '-d', 'data', "$dir/custom" ],
	'83: pg_restore --schema-only');
# The tiers are refused: those of CREATE EXTENSION cannot give way.
PostgreSQL::Test::Utils::run_log(
	[ 'pg_restore', '--data-only', '--disable-triggers', '-d', $fresh->connstr('data'), "$dir/custom" ]);
is($fresh->safe_psql('data', q{SELECT count(*) FROM incbatch.pipelines WHERE state = 'running'}),
	scalar @names, '83: no trigger has seen them');
$fresh->restart;
wait_for_state($fresh, 'data', $_, 'needs_rebuild') foreach @names;
pass('83: the worker finds pipelines that came without their frontiers');
$fresh->safe_psql('data', "SELECT incbatch.rebuild_pipeline('$_')") foreach @names[ 0, 1 ];
are_exact($fresh, 'data', [ @names[ 0, 1 ] ], '83: data alone, rebuilt');
$fresh->stop;

# A role that is no superuser owns everything and may read incbatch's tables.
# The extension is made for it, and so are the definitions.
$node->safe_psql('postgres', q{
CREATE ROLE app LOGIN;
GRANT pg_read_all_data, incbatch_user TO app;
CREATE DATABASE before OWNER app;
CREATE DATABASE after OWNER app});
create_extension($node, $_) foreach 'before', 'after';
$ENV{PGUSER} = 'app';
$node->safe_psql('before', q{
CREATE SCHEMA mine;
CREATE TABLE mine.events (id int PRIMARY KEY, kind text);
ALTER TABLE mine.events REPLICA IDENTITY FULL;
INSERT INTO mine.events SELECT i, i % 3 FROM generate_series(1, 30) i;
SELECT incbatch.create_pipeline('mine.kinds', 'SELECT kind, count(*) FROM mine.events GROUP BY kind')});
wait_for_state($node, 'before', 'mine.kinds', 'running');
$node->command_ok([ 'pg_dump', '-Fc', '--no-comments', '-f', "$dir/app", 'before' ], '83: pg_dump as no superuser');
# Which complains of the schema that is there and of incbatch's own tables.
PostgreSQL::Test::Utils::run_log([ 'pg_restore', '-d', $node->connstr('after'), "$dir/app" ]);
is($node->safe_psql('after', 'SELECT (SELECT count(*) FROM incbatch.pipelines), (SELECT count(*) FROM mine.events)'),
	'0|30', '83: pg_restore as no superuser leaves the definitions out');
delete $ENV{PGUSER};
$node->command_ok([ 'pg_restore', '--data-only', '-n', 'incbatch', '-d', 'after', "$dir/app" ],
	'83: a superuser restores the definitions');
$ENV{PGUSER} = 'app';
wait_for_state($node, 'after', 'mine.kinds', 'needs_rebuild');
$node->safe_psql('after', q{
UPDATE mine.events SET kind = 'x' WHERE id < 5;
SELECT incbatch.rebuild_pipeline('mine.kinds')});
are_exact($node, 'after', ['mine.kinds'], '83: as no superuser, rebuilt',
	query => 'SELECT kind, count(*) FROM mine.events GROUP BY kind');
delete $ENV{PGUSER};
$node->stop;
done_testing();

sub create_database
{
	my ($server, $db) = @_;

	$server->safe_psql('postgres', "CREATE DATABASE $db TEMPLATE template0");
	return;
}

# Changes of every kind.
sub change
{
	my ($server, $db) = @_;

	$server->safe_psql($db, q{
INSERT INTO shop.orders (product_id, region, amount_cents) SELECT i, 'new', i FROM generate_series(1, 20) AS i;
UPDATE shop.orders SET region = NULL WHERE order_id % 50 = 1;
DELETE FROM shop.orders WHERE order_id % 50 = 2;
UPDATE shop.bank SET branch = 'branch 0' WHERE account % 10 = 1;
INSERT INTO shop.visits SELECT '2024-03-02', '2024-03-02 10:00+00', max(id) + 1 FROM shop.visits});
	return;
}

# All that was said of pipelines, paths, consumers and tiers.
sub definitions
{
	my ($server, $db) = @_;

	return $server->safe_psql($db, q{
SELECT pipeline, relation, regexp_replace(query, '\s+', ' ', 'g'), source, event_time, lateness, late_policy, trigger_interval, strategy, owner
  FROM incbatch.pipelines ORDER BY 1;
SELECT pipeline, relation, trigger_interval FROM incbatch.paths ORDER BY pipeline, trigger_interval;
SELECT * FROM incbatch.consumers ORDER BY consumer;
SELECT * FROM incbatch.tiers ORDER BY tier});
}

# What the readers see.  Windows that are closed are those of a watermark, which
# is there again after the rebuild.
sub contents
{
	my ($server, $db) = @_;
	my @relations = split /\n/, $server->safe_psql($db, q{
SELECT relation::text COLLATE "C" FROM incbatch.pipelines UNION ALL SELECT relation::text FROM incbatch.consumers WHERE emit = 'update' ORDER BY 1});

	return $server->safe_psql($db, join ';', map { "SELECT '$_', * FROM $_ r ORDER BY r::text COLLATE \"C\"" } @relations);
}

sub restored
{
	my ($server, $db, $label) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$label = "83: $label" unless $label =~ /^\d/;
	is( $server->safe_psql($db,
			q{SELECT string_agg(DISTINCT state, ' '), bool_and(last_error ~ 'rebuild_pipeline') FROM incbatch.pipelines}),
		'needs_rebuild|t', "$label: all need a rebuild, and say so");
	is(definitions($server, $db), $definitions, "$label: the definitions are the same");
	is(contents($server, $db), $contents, "$label: the rows are those of the dump");
	change($server, $db);
	is(contents($server, $db), $contents, "$label: and stay so");
	fails_like($server, $db, "CALL incbatch.refresh_pipeline('$_')", qr/rebuild/, "$label: refresh_pipeline of $_")
	  foreach @names;
	is($server->safe_psql($db, q{SELECT count(*) FROM incbatch.lag WHERE status = 'fresh'}),
		0, "$label: nothing shows as fresh");

	$server->safe_psql($db, "SELECT incbatch.rebuild_pipeline('$_')") foreach @names;
	are_exact($server, $db, \@names, "$label: rebuilt");
	change($server, $db);
	are_exact($server, $db, \@names, "$label: goes on");
	is($server->safe_psql($db, q{SELECT count(*) FROM shop.by_category_executive} ),
		$server->safe_psql($db, q{SELECT count(*) FROM shop.by_category}), "$label: consumers follow");
	my ($ret, undef, $stderr) = $server->psql($db, 'DROP EXTENSION incbatch');
	like($stderr, qr/by_category_executive depends on.*totals_state depends on|depends on/s,
		"$label: DROP EXTENSION asks for CASCADE");
	is( $server->safe_psql($db, q{
SELECT incbatch.create_pipeline('shop.another', 'SELECT region, count(*) FROM shop.orders GROUP BY 1');
SELECT incbatch.create_consumer('another', 'shop.another', tier => 5);
SELECT incbatch.drop_pipeline('shop.another');
DROP VIEW shop.by_category_executive;
SELECT count(*) FROM incbatch.consumers WHERE pipeline = 'shop.by_category'}),
		"shop.another\nshop.another_another\nt\n1", "$label: more can be made, and dropped");
	return;
}
