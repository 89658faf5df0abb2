
# What README and the SQL contract say is so.
#
# The server has the lines of configuration that README shows and no more.  Each
# ```sql block of README runs in its order, over tables such as it speaks of; a
# statement that is said to return no row returns none.  After changes of every
# kind the oracle that README gives, with the name of each pipeline in the place
# of p, finds no difference.  Every function, view and setting in the tables of
# README exists, with the parameters, columns and default it shows.
#
# The same for the contract, shared/api.md beside the source tree, where there
# is one: functions with their parameters, defaults and results, views with
# their columns, and settings.  What belongs to work that is not done is listed
# here as TODO, by name; a name that is there by now is reported as such.

use strict;
use warnings;

use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $root   = "$FindBin::RealBin/../..";
my $readme = slurp_file("$root/README.md");
my ($api) = grep { -e } map { "$_/../shared/api.md" } grep { defined } $ENV{SOURCE_TREE}, $root;

# Of the contract, but not there yet.
my %missing = map { $_ => 1 } qw(
  session_start
);

# ---------------------------------------------------------------------------
# Looking

my $node = PostgreSQL::Test::Cluster->new('main');

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

# One assertion, TODO for what is listed as missing.
sub is_there
{
	my ($name, $found, $label) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	local our $TODO = $missing{$name} ? 'not in this version' : undef;

	return ok($found, $label || "$name is there");
}

# The parameters of a function of the extension by name, all its versions
# together, and of its result; undef without one.
sub parameters_of
{
	my ($function) = @_;
	my $names = query(qq{SELECT coalesce(string_agg(DISTINCT n, ' '), '') FROM pg_proc LEFT JOIN LATERAL unnest(proargnames) n ON true
		WHERE pronamespace = 'incbatch'::regnamespace AND proname = '$function' HAVING count(*) > 0});

	return $names eq '' && !query("SELECT count(*) FROM pg_proc WHERE pronamespace = 'incbatch'::regnamespace AND proname = '$function'")
	  ? undef : { map { $_ => 1 } split / /, $names };
}

sub columns_of
{
	my ($relation) = @_;

	return map { $_ => 1 } split /\n/,
	  query("SELECT attname FROM pg_attribute WHERE attrelid = to_regclass('incbatch.$relation') AND attnum > 0 AND NOT attisdropped");
}

# The names of "a text, b int DEFAULT 1, c", and their defaults where shown.
sub declared
{
	my ($list) = @_;
	my (@names, %default);

	$list =~ s/--.*$//gm;
	$list =~ s{/\*.*?\*/}{}gs;
	foreach my $item (split /,/, $list)
	{
		next unless $item =~ /^\s*"?(\w+)"?/;
		my $name = $1;

		push @names, $name;
		$default{$name} = $1 if $item =~ /DEFAULT\s+('[^']*'|(?:NULL|true|false|\d+)\b)/;
	}
	return (\@names, \%default);
}

sub has_parameters
{
	my ($function, $list) = @_;
	my $there = parameters_of($function);
	my ($names, $default) = declared($list);

	is_there($function, $there, "function $function") or return;
	return unless $there;
	foreach my $name (@$names)
	{
		is_there("$function.$name", $there->{$name}, "parameter $name of $function") or next;
		next unless exists $default->{$name} && $there->{$name};
		my ($type, $given) = split /\|/, query(qq{SELECT format_type(proargtypes[i - 1], NULL), pg_get_function_arg_default(oid, i)
			FROM pg_proc, generate_series(1, pronargs) i
			WHERE pronamespace = 'incbatch'::regnamespace AND proname = '$function' AND proargnames[i] = '$name' LIMIT 1});

		is(query('SELECT (' . ($given || "'none'::text") . ")::text IS NOT DISTINCT FROM ($default->{$name}\::$type)::text"),
			't', "default of $name of $function");
	}
	return;
}

# ---------------------------------------------------------------------------
# README: its blocks

my (@sql, @conf);
while ($readme =~ /^```(\w*)\n(.*?)^```$/msg)
{
	my ($language, $text) = ($1, $2);

	if ($language eq 'sql') { push @sql, $text }
	elsif ($text =~ /^\w+ = /) { push @conf, $text }
}
is(scalar @conf, 1, 'README shows what to configure');
cmp_ok(scalar @sql, '>=', 3, 'README has blocks of SQL');

$node->init;
$node->append_conf('postgresql.conf', $conf[0]);
$node->start;
query(q{
CREATE TABLE product (product_id int PRIMARY KEY, category text);
CREATE TABLE orders (order_id bigint PRIMARY KEY, order_timestamp timestamptz, product_id int, region text, amount_cents int);
INSERT INTO product SELECT i, (ARRAY['books', 'toys', NULL])[i % 3 + 1] FROM generate_series(1, 9) i;
INSERT INTO orders SELECT i, now() - i * interval '7 min', i % 11, (ARRAY['north', 'south', NULL])[i % 3 + 1], i * 10 FROM generate_series(1, 500) i;
});

my $oracle;
foreach my $n (0 .. $#sql)
{
	if ($sql[$n] =~ /\bp_batch\b/)
	{
		$oracle = $sql[$n];
		next;
	}
	# a pipeline that it speaks of
	query(q{SELECT incbatch.create_pipeline('orders_daily', 'SELECT date_trunc(''day'', order_timestamp) AS day, region, count(*), sum(amount_cents) FROM orders GROUP BY 1, 2',
		lateness => '1 hour', late_policy => 'apply', if_not_exists => true)}) if $sql[$n] =~ /'orders_daily'/;
	my ($status, $output, $errors) = $node->psql('postgres', $sql[$n], on_error_stop => 1);
	is($errors, '', 'block ' . ($n + 1) . ' of README runs');
	while ($sql[$n] =~ /^(\S.*;)\s*--\s*no row\b/mg)
	{
		is(query($1), '', "no row from $1");
	}
}
ok($oracle, 'README gives the oracle');

my @pipelines = split /\n/, query('SELECT relation FROM incbatch.pipelines ORDER BY 1');
cmp_ok(scalar @pipelines, '>=', 2, 'README creates pipelines');

sub are_exact
{
	my ($label) = @_;

	foreach my $pipeline (@pipelines)
	{
		query("CALL incbatch.refresh_pipeline('$pipeline')");
		is(query("SELECT * FROM incbatch.verify_pipeline('$pipeline')"), '', "$label: $pipeline is verified");
		# where windows close the table keeps what the source has lost
		next if query("SELECT rows_late > 0 OR retention IS NOT NULL FROM incbatch.pipelines WHERE relation = '$pipeline'::regclass") eq 't';
		is(query($oracle =~ s/\bp(_batch)?\b/$pipeline . ($1 || '')/ger), '', "$label: $pipeline is its query");
	}
	return;
}

are_exact('as it is');
query(q{
INSERT INTO orders SELECT i, now() - i % 9 * interval '1 min', i % 11, (ARRAY['north', 'east', NULL])[i % 3 + 1], i FROM generate_series(501, 600) i;
UPDATE orders SET region = 'west', amount_cents = amount_cents + 1 WHERE order_id % 7 = 0;
UPDATE orders SET order_timestamp = NULL, amount_cents = NULL WHERE order_id % 50 = 0;
DELETE FROM orders WHERE order_id % 5 = 0;
});
are_exact('after changes');
query('TRUNCATE orders');
are_exact('without rows');

# ---------------------------------------------------------------------------
# README: its tables

while ($readme =~ /^\| ((?:`[^`]+`(?:, |(?= )))+(?: in `FROM`)?) \| (.+) \|$/mg)
{
	my ($what, $text) = ($1, $2);

	foreach my $entry ($what =~ /`([^`]+)`/g)
	{
		if ($entry =~ /^(?:CALL )?(\w+)\((.*)\)$/)
		{
			my ($function, $list) = ($1, $2);

			has_parameters($function, $list =~ s/, …$//r);
		}
		elsif ($entry =~ /^incbatch\.(\w+)$/)
		{
			my ($name, $default) = ($1, $text =~ /^(\S+) \|/);

			if ($text =~ /\|/) { is(query("SHOW $entry"), $default, "setting $entry") }
			else { is_there($name, scalar(my %columns = columns_of($name)), "view $name") }
		}
	}
}

# ---------------------------------------------------------------------------
# The contract

sub check_contract
{
	my ($text) = @_;
	my ($code, $settings) = (join("\n", $text =~ /^```sql\n(.*?)^```$/msg), $text =~ /^## Settings\n(.*?)(?=^## |\z)/ms);

	# in a line that uses it, the parameters go unnamed
	while ($code =~ /^(?:CALL |FROM src, )?incbatch\.(\w+)(\((?:[^()]++|(?2))*\))(?: RETURNS|\s*\n\s*RETURNS)?(?: TABLE (\((?:[^()]++|(?3))*\)))?/mg)
	{
		my ($function, $list, $result) = ($1, $2, $3);

		($list) = $list =~ /^\((.*)\)$/s;
		foreach my $part (grep { defined } $list, $result && $result =~ /^\((.*)\)$/s)
		{
			$part =~ s/src\.//g;
			has_parameters($function, $part =~ s/…//gr);
		}
	}
	while ($code =~ /^TABLE incbatch\.(\w+) \((.*?)\)\s/mg)
	{
		my ($name, $list) = ($1, $2);
		my %there = columns_of($name);

		is_there("$name.$_", $there{$_}, "column $_ of $name") foreach @{ (declared($list))[0] };
	}
	while ($text =~ /^\| `incbatch\.(\w+)` \|.*\| `([^`]+)` \|$/mg)
	{
		my ($view, @columns) = ($1, split /, /, $2);
		my %there = columns_of($view);

		is_there($view, scalar %there, "view $view");
		next unless %there;
		is_there("$view.$_", $there{$_}, "column $_ of $view") foreach @columns;
	}
	foreach my $name ($settings =~ /`(incbatch\.\w+)`/g)
	{
		is_there($name, query("SELECT count(*) FROM pg_settings WHERE name = '$name'"), "setting $name");
	}
	return;
}

SKIP:
{
	skip 'no shared/api.md beside the source tree', 1 unless $api;
	check_contract(slurp_file($api));
}

$node->stop;
done_testing();
