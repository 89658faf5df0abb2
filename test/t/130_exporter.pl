
# What Prometheus sees: the queries of test/monitoring through the exporter of
# Debian's package prometheus-postgres-exporter.
#
# Proves that each metric of queries.yaml is delivered to a member of
# pg_monitor, with the values of the views, for consumers that are fresh, paused
# and failed, and when the worker is stopped or dead; and that the dashboard is
# JSON as Grafana wants it and names only metrics that were delivered.
#
# Values are compared while the worker is stopped, so that only the clock moves.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use HTTP::Tiny;
use IncBatch;
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $exporter = 'prometheus-postgres-exporter';
my $dir      = "$FindBin::RealBin/../monitoring";

plan skip_all => "$exporter is not installed"
  unless grep { -x "$_/$exporter" } split /:/, $ENV{PATH};

# What the file of queries promises: "namespace_column" for all but labels.
my @promised;
{
	my ($namespace, $column);
	foreach (split /\n/, slurp_file("$dir/queries.yaml"))
	{
		$namespace = $1 if /^(\w+):$/;
		$column    = $1 if /^    - (\w+):$/;
		push @promised, "${namespace}_$column" if /^ +usage: "(GAUGE|COUNTER)"$/;
	}
}
cmp_ok(scalar @promised, '>', 20, 'queries.yaml is read');

# ---------------------------------------------------------------------------
# A server with three pipelines, and the exporter beside it

my $node = new_node('main', autovacuum => 'off');
$node->start;
create_shop($node, 'postgres', 500);
$query{'shop.ratio'} = 'SELECT region, sum(1000 / amount_cents) AS n FROM shop.orders GROUP BY region';
create_pipeline($node, 'postgres', $_, $query{$_}, trigger_interval => '1 second')
  foreach 'shop.thirds', 'shop.extremes', 'shop.ratio';
wait_for_state($node, 'postgres', $_, 'running') foreach 'shop.thirds', 'shop.extremes', 'shop.ratio';
my $worker = wait_for_worker($node, 'postgres');
my $look   = session($node, 'postgres');
ask($look, q{
SELECT incbatch.create_consumer('marketing "north"', 'shop.thirds', freshness => '10 minutes', trigger_interval => '1 second');
SELECT incbatch.create_consumer('executive', 'shop.thirds', freshness => '4 hours', trigger_interval => '3 hours');
CREATE ROLE scraper LOGIN IN ROLE pg_monitor;
});
ask($look, "CALL incbatch.refresh_pipeline('$_')") foreach 'shop.thirds', 'shop.extremes', 'shop.ratio';
my $insert = q{INSERT INTO shop.orders (product_id, region, amount_cents) SELECT 1, 'north', 100 FROM generate_series(1, 20)};
ask($look, $insert);
ask($look, "CALL incbatch.refresh_pipeline('$_')") foreach 'shop.thirds', 'shop.extremes', 'shop.ratio';
ok(until_true($look, q{SELECT count(DISTINCT path) >= 3 FROM incbatch.batches}), 'batches are told');

my $port = PostgreSQL::Test::Cluster::get_free_port();
my ($said, $harness) = ('');
{
	local $ENV{DATA_SOURCE_NAME} =
	  sprintf 'host=%s port=%d dbname=postgres user=scraper sslmode=disable', $node->host, $node->port;
	$harness = IPC::Run::start(
		[
			$exporter, "--web.listen-address=127.0.0.1:$port",
			"--extend.query-path=$dir/queries.yaml"
		],
		'<', '/dev/null', '>&', \$said);
}

my %metric = scrape();
is($metric{'pg_exporter_last_scrape_error'}, 0, 'the exporter reports no error');
is_deeply([ grep { !delivered($_) } @promised ], [], 'every metric of queries.yaml is delivered');

# ---------------------------------------------------------------------------
# Values, as the views have them

same_values('all is fresh');
is_deeply(
	[ statuses() ],
	[
		'shop.extremes,=fresh', 'shop.ratio,=fresh',
		'shop.thirds,executive=fresh', 'shop.thirds,marketing "north"=fresh'
	],
	'all is fresh: one status each');
is(value('incbatch_worker_up'), 1, 'the worker is up');

ask($look, q{SELECT incbatch.pause_pipeline('shop.extremes')});
ask($look, q{INSERT INTO shop.orders (product_id, region, amount_cents) VALUES (1, 'south', 0)});
wait_for_state($node, 'postgres', 'shop.ratio', 'failed');
same_values('one is paused, one failed');
is_deeply(
	[ statuses() ],
	[
		'shop.extremes,=paused', 'shop.ratio,=failed',
		'shop.thirds,executive=fresh', 'shop.thirds,marketing "north"=fresh'
	],
	'one is paused, one failed');
is_deeply(
	[ map { "$_->{pipeline}=" . value('incbatch_path_stopped_by_error', path => $_->{path}) } paths() ],
	[ 'shop.extremes=0', 'shop.ratio=1', 'shop.thirds=0', 'shop.thirds=0' ],
	'and which path an error stopped');

ask($look, q{SELECT incbatch.resume_pipeline('shop.extremes')});
ask($look, q{DELETE FROM shop.orders WHERE amount_cents = 0});
ask($look, q{SELECT incbatch.rebuild_pipeline('shop.ratio')});
ask($look, q{CALL incbatch.refresh_pipeline('shop.ratio')});
scrape();
is_deeply([ grep { !/=fresh$/ } statuses() ], [], 'all is fresh again');

# ---------------------------------------------------------------------------
# A worker that stands still, and one that is gone

$worker = wait_for_worker($node, 'postgres');
kill_process('STOP', $worker);
ask($look, $insert);
ok(until_scraped(sub { value('incbatch_consumer_status_current', pipeline => 'shop.extremes', status => 'stuck') == 1 }),
	'a stopped worker: stuck');
cmp_ok(value('incbatch_consumer_staleness_seconds', pipeline => 'shop.extremes'),
	'>', 1, 'a stopped worker: the staleness grows');
cmp_ok(value('incbatch_worker_heartbeat_age_seconds'), '>', 1, 'a stopped worker: no heartbeat');
is(value('incbatch_worker_up'), 1, 'a stopped worker: the process is there');
kill_process('CONT', $worker);

# Without its launcher nobody starts it again.
my $launcher = launcher_pid($node);
kill_process('STOP', $launcher);
kill_process('TERM', $worker);
ask($look, $insert);
ok(until_scraped(sub { value('incbatch_worker_up') == 0 }), 'a dead worker: it is down');
ok(until_scraped(sub { value('incbatch_consumer_status_current', pipeline => 'shop.extremes', status => 'stuck') == 1 }),
	'a dead worker: stuck');
kill_process('CONT', $launcher);
wait_for_worker($node, 'postgres');
ok(until_scraped(sub { value('incbatch_worker_up') == 1 && !grep { !/=fresh$/ } statuses() }),
	'a worker again: all is fresh');

# ---------------------------------------------------------------------------
# The dashboard

my $dashboard = eval { decode_json(slurp_file("$dir/dashboard.json")) };
ok($dashboard, 'the dashboard is JSON') or diag $@;
cmp_ok($dashboard->{schemaVersion}, '>=', 30, 'with a schema version');
my @panels = @{ $dashboard->{panels} };
my %ids    = map { $_->{id} => 1 } @panels;
cmp_ok(scalar @panels, '>', 5, 'panels');
is(scalar keys %ids, scalar @panels, 'with a number each');
is_deeply(
	[ grep { !$_->{title} || !$_->{type} || !$_->{gridPos} || !$_->{datasource} || !@{ $_->{targets} } } @panels ],
	[], 'each has a title, a type, a place, a source and targets');
my @expressions = map { map { $_->{expr} } @{ $_->{targets} } } @panels;
is_deeply([ grep { !defined $_ || $_ eq '' } @expressions ], [], 'each target has an expression');
push @expressions, map { $_->{type} eq 'query' ? $_->{query}{query} : () } @{ $dashboard->{templating}{list} };
my %used = map { $_ => 1 } map { /\b(incbatch_\w+)/g } @expressions;
is_deeply([ grep { !delivered($_) } sort keys %used ], [], 'all its metrics were delivered');
is_deeply([ grep { !$used{$_} } @promised ], [], 'and it shows all of them');

END
{
	local $?;
	kill 'CONT', grep { defined } $worker, $launcher;
	eval { $harness->signal('TERM'); $harness->finish } if $harness;
}

unlike($said, qr/level=error/, 'the exporter has not complained');
end_session($look);
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

# Ask the exporter, until it answers; fills %metric, by name and labels.
sub scrape
{
	my $http = HTTP::Tiny->new(timeout => $PostgreSQL::Test::Utils::timeout_default);
	my $answer;

	until_holds
	{
		die "the exporter has ended: $said" unless $harness->pumpable;
		($answer = $http->get("http://127.0.0.1:$port/metrics"))->{success};
	}
	or die "the exporter does not answer: $answer->{status} $answer->{content} $said";
	%metric = map { /^((?:incbatch|pg_exporter)_.*) (\S+)$/ ? ($1 => $2) : () } split /\n/, $answer->{content};
	return %metric;
}

sub until_scraped
{
	my ($holds) = @_;

	return until_holds { scrape(); $holds->() };
}

# Was there any value of this metric?
sub delivered
{
	my ($name) = @_;

	return scalar grep { /^\Q$name\E\{/ } keys %metric;
}

# Names with labels, as Prometheus writes them, of one metric, where the
# labels given are so.
sub series
{
	my ($name, %labels) = @_;
	my @found = grep { /^\Q$name\E\{/ } keys %metric;

	foreach my $label (keys %labels)
	{
		(my $text = $labels{$label}) =~ s/(["\\])/\\$1/g;
		@found = grep { /[{,]$label="\Q$text\E"[,}]/ } @found;
	}
	return @found;
}

# The value of the one series of a metric with these labels
sub value
{
	my ($name, @labels) = @_;
	my @found = series($name, @labels);

	die "@found: not one $name (@labels)" if @found != 1;
	return $metric{ $found[0] };
}

sub rows
{
	my ($sql) = @_;

	return @{ decode_json(ask($look, "SELECT coalesce(json_agg(r), '[]') FROM ($sql) r") || '[]') };
}

sub paths { return rows('SELECT pipeline, path FROM incbatch.paths ORDER BY pipeline, path') }

# "pipeline,consumer=status" of each consumer that has exactly one
sub statuses
{
	my @result;

	foreach my $row (rows(q{SELECT pipeline, coalesce(consumer, '') AS consumer FROM incbatch.lag ORDER BY 1, 2}))
	{
		my @is = grep { $metric{$_} == 1 } series('incbatch_consumer_status_current', %$row);
		push @result, "$row->{pipeline},$row->{consumer}=" . join '+', map { /status="([^"]*)"/ } @is;
	}
	return @result;
}

# Stop the worker, and compare every value with the views before and after.
sub same_values
{
	my ($label) = @_;
	my %sql = (
		incbatch_consumer => q{
SELECT pipeline, coalesce(consumer, '') AS consumer,
       extract(epoch FROM staleness) AS staleness_seconds, extract(epoch FROM freshness) AS freshness_seconds,
       extract(epoch FROM trigger_interval) AS trigger_seconds, backlog_bytes, backlog_rows,
       extract(epoch FROM latency_p50) AS latency_p50_seconds, extract(epoch FROM latency_p95) AS latency_p95_seconds,
       extract(epoch FROM latency_p99) AS latency_p99_seconds
  FROM incbatch.lag},
		incbatch_path => q{
SELECT a.pipeline, a.path, extract(epoch FROM a.trigger_interval) AS trigger_seconds,
       extract(epoch FROM clock_timestamp() - a.as_of) AS frontier_age_seconds,
       CASE WHEN a.state = 'failed' THEN 1 ELSE 0 END AS stopped_by_error, b.*
  FROM incbatch.paths a,
       LATERAL (SELECT coalesce(sum(runs), 0) AS batches, coalesce(sum(rows_in), 0) AS batch_rows,
                       coalesce(sum(rows_late), 0) AS batch_rows_late, coalesce(sum(groups_changed), 0) AS batch_groups,
                       count(error) AS batch_errors,
                       coalesce(sum(read_ms + transform_ms + merge_ms + commit_ms), 0) / 1000 AS batch_seconds,
                       max((read_ms + transform_ms + merge_ms + commit_ms) / runs) / 1000 AS batch_seconds_max,
                       coalesce(sum(cpu_ms), 0) / 1000 AS batch_cpu_seconds,
                       coalesce(sum(wal_bytes), 0) AS batch_wal_bytes
                  FROM incbatch.batches WHERE path = a.path AND reason <> 'backfill') b},
		incbatch_worker => q{
SELECT database, 1 AS up, extract(epoch FROM clock_timestamp() - heartbeat_at) AS heartbeat_age_seconds,
       retained_wal_bytes, retained_percent / 100 AS retained_of_limit, restarts AS restarts_1h,
       rows_decoded AS rows_decoded_total
  FROM incbatch.workers});
	my $pid = wait_for_worker($node, 'postgres');
	my @wrong;
	my $compared = 0;

	kill_process('STOP', $pid);
	my %before = map { $_ => [ rows("$sql{$_} ORDER BY 1, 2") ] } keys %sql;
	scrape();
	my %after = map { $_ => [ rows("$sql{$_} ORDER BY 1, 2") ] } keys %sql;
	kill_process('CONT', $pid);

	foreach my $namespace (sort keys %sql)
	{
		foreach my $i (0 .. $#{ $before{$namespace} })
		{
			my ($low, $high) = ($before{$namespace}[$i], $after{$namespace}[$i]);
			my %labels = map { $_ => $low->{$_} } grep { /^(pipeline|consumer|path|database)$/ } keys %$low;

			foreach my $column (grep { !exists $labels{$_} } keys %$low)
			{
				my $seen = value("${namespace}_$column", %labels);
				# a column may read the clock more than once
				my $slack = $column =~ /^staleness|_age_/ ? 0.05 : 1e-9 * abs($low->{$column} // 0);
				my $same = defined $low->{$column}
				  ? $seen >= $low->{$column} - $slack && $seen <= $high->{$column} + $slack
				  : $seen eq 'NaN';
				$compared++;
				push @wrong, "${namespace}_$column $seen, not " . ($low->{$column} // 'NULL') unless $same;
			}
		}
	}
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is_deeply(\@wrong, [], "$label: $compared values as in the views");
	cmp_ok($compared, '>', 60, "$label: all were looked at");
	return;
}
