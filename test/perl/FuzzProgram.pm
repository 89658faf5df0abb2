
=pod

=head1 NAME

FuzzProgram - random programs for the differential test

=head1 SYNOPSIS

  use FuzzProgram;

  my $program = random_program($seed, $number);
  print query_of($_), "\n" foreach @{ $program->{pipelines} };

=head1 DESCRIPTION

A program is a schema, pipelines over it, and statements that several sessions
issue in a given order.  It is made from a seed and a number alone, by the
random numbers of Perl, so that the same two always give the same program; no
server is asked.  What it is made of stays in parts that can be taken away
(statements, rows, aggregates, keys, ...) for the search of a smaller one that
still fails, in FuzzRunner.

A program is a hash of C<pipelines> and C<steps>.  A step is one of

  { on => 'a', sql => ... }    a statement of session a, b, c, d, h or m
  { create => 0 }              create_pipeline of that pipeline
  { check => 'refresh' }       every pipeline equals its query; 'wait': without
                               a refresh, by its own trigger
  { kill => 'worker' }         and 'crash', 'stop'

A statement may consist of C<head>, C<rows> and C<tail> instead of C<sql>.
C<setup> says that it must not fail; any other may, as the server likes.
C<allows> is the reason for which pipelines may stop after it, and C<repair>
what makes the source fit again.

Sessions must not wait for each other, for one driver issues all statements.
Each changes only rows of its own (id modulo 4), and statements that lock a
table come when no other session is in a transaction.  Session d prepares its
transactions, and m manages: it is never in one.  h holds rows of an aggregate
while others change the source, long enough for a run to give way.

=cut

package FuzzProgram;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT = qw(random_program query_of create_of statement_of);

# ---------------------------------------------------------------------------
# Chance

sub chance { return rand() < $_[0] }
sub pick   { return $_[ int rand @_ ] }
sub between { my ($low, $high) = @_; return $low + int rand($high - $low + 1) }

# Some of a list, in random order.
sub sample
{
	my ($n, @list) = @_;
	my @result;

	push @result, splice(@list, int rand @list, 1) while $n-- > 0 && @list;
	return @result;
}

# A key of a hash of weights.
sub weighted
{
	my (%weight) = @_;
	my $total = 0;
	$total += $_ foreach values %weight;
	my $at = rand $total;

	foreach my $key (sort keys %weight)
	{
		$at -= $weight{$key};
		return $key if $at < 0;
	}
	die "no weight";
}

# ---------------------------------------------------------------------------
# Types and values
#
# form:  equal values look the same, so that the comparison may insist on it
# like:  which expressions suit it

my %type = (
	int2     => { like => 'int', values => [qw(-7 0 1 2 3 300)] },
	int4     => { like => 'int', values => [qw(-5 0 1 2 3 100000 2147483647)] },
	int8     => { like => 'int', values => [qw(-4 0 1 5 9223372036854775807)] },
	numeric  => {
		like => 'numeric', form => 0, rare => [qw(NaN Infinity -Infinity)],
		values => [qw(0 1 1.0 1.50 2.25 -3.125 0.000001 1e20 12345.6789)]
	},
	'numeric(12,2)' => { like => 'numeric', rare => ['NaN'], values => [qw(0 1 1.25 -9.99 1000000000)] },
	float4 => { like => 'float', form => 0, rare => [qw(NaN Infinity)], values => [qw(0 0.5 1.25 -2 -0 8)] },
	float8 => {
		like => 'float', form => 0, rare => [qw(NaN Infinity -Infinity)],
		values => [qw(0 0.5 1.25 -2 -0 1024 0.0625)]
	},
	text => { like => 'text', values => [ '', 'a', 'A', 'ab', 'b', "it's", 'ä ö', 'a,b "c"', '\\n' ] },
	'varchar(8)' => { like => 'text', values => [ '', 'x', 'xy', 'Xy ', 'NULL' ] },
	'char(4)'    => { like => 'text', values => [ 'a', 'ab ', 'abc', '' ] },
	'text COLLATE "C"' => { like => 'text', values => [qw(a A b B ä)] },
	'text COLLATE ci'  => { like => 'ci', form => 0, values => [qw(a A b B Ab aB)] },
	bool => { like => 'bool', values => [qw(t f)] },
	date => { like => 'date', rare => ['infinity'], values => [ '2024-01-31', '2024-02-29', '2024-03-31', '2023-12-31', '0044-03-15 BC' ] },
	timestamp => {
		like => 'time', rare => [qw(infinity -infinity)],
		values => [ '2024-03-31 01:59:59.999999', '2024-03-31 02:00:00', '2024-02-29 12:34:56', '2023-12-31 23:59:59' ]
	},
	timestamptz => {
		like => 'time', zone => 1, rare => [qw(infinity -infinity)],
		values => [ '2024-03-31 00:59:59+00', '2024-03-31 01:00:00+00', '2024-10-27 00:30:00+00', '2024-10-27 01:30:00+00', '2024-01-01 00:00:00+05:30' ]
	},
	time     => { like => 'any', values => [ '00:00', '12:30:15.5', '24:00' ] },
	timetz   => { like => 'any', values => [ '10:00+00', '11:00+01', '10:00+02' ] },
	interval => {
		like => 'interval', form => 0,
		values => [ '1 day', '24:00:00', '1 month', '30 days', '-1 hour', '0.000001 s', '1 year 2 mons 3 days 04:05:06' ]
	},
	uuid    => { like => 'any', values => [ '00000000-0000-0000-0000-000000000000', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'ffffffff-ffff-ffff-ffff-ffffffffffff' ] },
	bytea   => { like => 'any', values => [ '\\x', '\\x00', '\\xdeadbeef' ] },
	money   => { like => 'any', values => [qw(0 1.10 -3.33 1000)] },
	inet    => { like => 'inet', values => [ '10.0.0.1', '10.0.0.0/8', '::1', '192.168.1.5/24' ] },
	jsonb   => { like => 'json', form => 0, values => [ '{"k": 1}', '{"k": "a", "n": [1, 2]}', '{"k": null}', '[]', '1.0', '1.00', '"s"' ] },
	'int4[]' => { like => 'array', values => [ '{}', '{1,2}', '{1,NULL}', '{3}', '{{1,2},{3,4}}' ] },
	'text[]' => { like => 'array', values => [ '{}', '{a,b}', '{"x y",NULL}' ] },
	int4range     => { like => 'any', values => [ 'empty', '[1,5)', '[,3)' ] },
	'bit(3)'      => { like => 'any', values => [qw(000 101 111)] },
	pg_lsn        => { like => 'any', values => [qw(0/0 0/FF 1/0)] },
	'fuzz.colour' => { like => 'any', values => [qw(red green blue)] },
	'fuzz.small'  => { like => 'int', values => [qw(0 1 2 50)] },
);
my @types = sort keys %type;

# Which types an aggregate takes
my %sums = map { $_ => 1 } qw(int2 int4 int8 numeric float4 float8 interval money fuzz.small), 'numeric(12,2)';
my %averages = map { $_ => $sums{$_} } grep { $_ ne 'money' } keys %sums;
my %unordered = map { $_ => 1 } qw(bool uuid bytea jsonb int4range bit(3));

sub quoted
{
	my ($value) = @_;

	return 'NULL' unless defined $value;
	return "repeat('$1', " . length($value) . ')' if length $value > 1000 && $value =~ /^(.)/;
	$value =~ s/'/''/g;
	return "'$value'";
}

sub literal
{
	my ($column, $value) = @_;
	(my $type = $column->{type}) =~ s/ COLLATE .*//;

	return quoted($value) . "::$type";
}

# A value that a column may have.
sub value
{
	my ($column) = @_;

	return undef if !$column->{not_null} && chance(0.12);
	return pick(@{ $column->{values} });
}

# ---------------------------------------------------------------------------
# Schema

# Names that need quotes, and that statements might use for themselves
my @odd_names = ('"Mixed Case"', '"order"', '"a""b"', 'row_count', 'sum_1', '"größe"', 'state', 's', 'key_1', 'incbatch_w');

sub random_column
{
	my ($name, $type) = @_;
	my $known  = $type{$type};
	my @values = sample(between(2, 5), @{ $known->{values} });

	push @values, pick(@{ $known->{rare} }) if $known->{rare} && chance(0.15);
	return {
		name => $name, type => $type, like => $known->{like},
		form => defined $known->{form} ? $known->{form} : 1,
		zone => $known->{zone}, values => \@values
	};
}

# Times of which a window holds some, and the next the others
my @dense = ('2024-03-30 23:10', '2024-03-30 23:50', '2024-03-31 00:20', '2024-03-31 03:30', '2024-04-01 00:00');

# A source: id, foreign keys of lookups, a time, and columns of any type.
sub random_source
{
	my ($name) = @_;
	my @names = map { chance(0.15) ? $odd_names[$_ % @odd_names] : "c$_" } 1 .. between(2, 7);
	my %seen;
	my $source = { name => "fuzz.$name" };

	$source->{identity} = weighted(full => 12, index => 2, append => 2);
	$source->{partitioned} = 1 if $source->{identity} eq 'full' && chance(0.2);
	$source->{columns} = [
		{ name => 'id', type => 'int8', like => 'id', form => 1, not_null => 1, values => [] },
		random_column('fk', 'int4'),
		random_column('code', 'text'),
		random_column('at', pick('timestamptz', 'timestamptz', 'timestamp')),
		map { random_column($_, pick(@types)) } grep { !$seen{$_}++ } @names
	];
	$source->{columns}[1]{values} = [ 0 .. 5 ];
	$source->{columns}[2]{values} = [ 'a', 'b', 'c', 'none' ];
	push @{ $source->{columns}[3]{values} }, sample(3, @dense) if chance(0.5);
	if (!$source->{partitioned} && chance(0.1))
	{
		push @{ $source->{columns} },
		  { name => 'wide', type => 'text', like => 'wide', form => 1, values => [ 'x' x 3000, 'y' x 2500, 'short' ] };
	}
	foreach my $column (@{ $source->{columns} })
	{
		$column->{not_null} = 1
		  if chance(0.1) || $source->{identity} eq 'index' && chance(0.7);
	}
	$source->{key} =
	  $source->{partitioned} || $source->{identity} eq 'full' && chance(0.15) ? '' : ' PRIMARY KEY';
	return $source;
}

# What a query may read of a source whose old rows are not complete
sub usable
{
	my ($source) = @_;
	my @columns = @{ $source->{columns} };

	@columns = grep { $_->{not_null} && $_->{like} ne 'wide' } @columns
	  if $source->{identity} eq 'index';
	return @columns;
}

sub create_source
{
	my ($source) = @_;
	my $name = $source->{name};
	my @columns = map {
		my $key = $_->{name} eq 'id' ? $source->{key} : '';
		"$_->{name} $_->{type}" . ($_->{not_null} ? ' NOT NULL' : '') . $key
	} @{ $source->{columns} };
	my @steps;

	# a gap in the numbers of the columns, and a column that old rows lack
	my $gap = chance(0.3);
	splice @columns, between(1, scalar @columns), 0, 'gone int DEFAULT 7' if $gap;
	push @steps, "CREATE TABLE $name (" . join(', ', @columns) . ')'
	  . ($source->{partitioned} ? ' PARTITION BY LIST (code)' : '');
	push @steps, "ALTER TABLE $name DROP COLUMN gone" if $gap;
	push @steps, "ALTER TABLE $name ALTER COLUMN wide SET STORAGE EXTERNAL"
	  if grep { $_->{name} eq 'wide' } @{ $source->{columns} };
	if ($source->{partitioned})
	{
		push @steps, create_partitions($source, @columns);
	}
	elsif ($source->{identity} eq 'full')
	{
		push @steps, "ALTER TABLE $name REPLICA IDENTITY FULL";
	}
	elsif ($source->{identity} eq 'index')
	{
		my $names = join ', ', map { $_->{name} } usable($source);

		push @steps, "CREATE UNIQUE INDEX " . $name =~ s/fuzz.//r . "_identity ON $name ($names)",
		  "ALTER TABLE $name REPLICA IDENTITY USING INDEX " . $name =~ s/fuzz.//r . "_identity";
	}
	return map { { on => 'm', sql => $_, setup => 1 } } @steps;
}

# Leaves with the columns of the root, in another order with gaps, and of a
# second level; what they lack goes to the default partition.
sub create_partitions
{
	my ($source, @columns) = @_;
	my $name = $source->{name};
	my @shuffled = grep { !/^gone / } sample(scalar @columns, @columns);
	my @steps = ("CREATE TABLE ${name}_a PARTITION OF $name FOR VALUES IN ('a')");

	splice @shuffled, between(0, scalar @shuffled), 0, 'gone_too text';
	push @steps, "CREATE TABLE ${name}_b (" . join(', ', @shuffled) . ')',
	  "ALTER TABLE ${name}_b DROP COLUMN gone_too",
	  "ALTER TABLE $name ATTACH PARTITION ${name}_b FOR VALUES IN ('b')",
	  "CREATE TABLE ${name}_c PARTITION OF $name FOR VALUES IN ('c') PARTITION BY RANGE (id)",
	  "CREATE TABLE ${name}_c1 PARTITION OF ${name}_c FOR VALUES FROM (MINVALUE) TO (40)",
	  "CREATE TABLE ${name}_c2 PARTITION OF ${name}_c FOR VALUES FROM (40) TO (MAXVALUE)",
	  "CREATE TABLE ${name}_rest PARTITION OF $name DEFAULT";
	$source->{leaves} = [ map { "${name}_$_" } qw(a b c1 c2 rest) ];
	return @steps, map { "ALTER TABLE $_ REPLICA IDENTITY FULL" } @{ $source->{leaves} };
}

# After the first rows: a column with a default that they do not store, and a
# generated one.
sub late_columns
{
	my ($source) = @_;
	my @steps;

	if ($source->{identity} ne 'index' && chance(0.25))
	{
		push @steps, "ALTER TABLE $source->{name} ADD COLUMN late int4 DEFAULT 3";
		push @{ $source->{columns} },
		  { name => 'late', type => 'int4', like => 'int', form => 1, values => [ 1, 3, 8 ] };
	}
	if ($source->{identity} ne 'index' && chance(0.2))
	{
		push @steps,
		  "ALTER TABLE $source->{name} ADD COLUMN made int4 GENERATED ALWAYS AS (coalesce(fk, -1) * 2) STORED";
		push @{ $source->{columns} },
		  { name => 'made', type => 'int4', like => 'int', form => 1, made => 1, values => [ 0, 2, -2 ] };
	}
	return map { { on => 'm', sql => $_, setup => 1 } } @steps;
}

my @lookup_columns = (
	{ name => 'l.name', type => 'text', like => 'text', form => 1, values => [qw(zero one two)] },
	{ name => 'l.factor', type => 'numeric(12,2)', like => 'numeric', form => 1, values => [ 0.5, 1, 2.25 ] },
	{ name => 'l.flag', type => 'bool', like => 'bool', form => 1, values => [qw(t f)] });
my @region_columns = (
	{ name => 'r.region', type => 'text', like => 'text', form => 1, values => [qw(north south)] },
	{ name => 'r.size', type => 'int4', like => 'int', form => 1, values => [ 1, 2, 3 ] });

# Everything before the first pipeline but the sources
sub create_rest
{
	return map { { on => 'm', sql => $_, setup => 1 } } (
		q{CREATE TYPE fuzz.colour AS ENUM ('red', 'green', 'blue')},
		q{CREATE DOMAIN fuzz.small AS int4 CHECK (VALUE < 100)},
		q{CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)},
		# an aggregate of the user's own, in which the order does not matter
		q{CREATE FUNCTION fuzz.mix_one(bigint, bigint) RETURNS bigint IMMUTABLE STRICT LANGUAGE sql AS 'SELECT $1 # $2'},
		q{CREATE AGGREGATE fuzz.mix(bigint) (SFUNC = fuzz.mix_one, STYPE = bigint, INITCOND = '1')},
		# nine digits of a float8
		q{CREATE FUNCTION fuzz.rounded(float8) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT CASE WHEN abs($1) < 1e-9 THEN ''0'' ELSE to_char($1, ''9.99999999EEEE'') END'},
		q{CREATE TABLE fuzz.lookup (id int PRIMARY KEY, name text, factor numeric(12,2), flag bool)},
		q{INSERT INTO fuzz.lookup VALUES (0, 'zero', 0.5, true), (1, 'one', 1, false), (2, 'two', 2.25, NULL), (3, NULL, NULL, true)},
		# several rows of a code: a row of the source counts once for each
		q{CREATE TABLE fuzz.region (code text, region text, size int)},
		q{INSERT INTO fuzz.region VALUES ('a', 'north', 1), ('a', 'south', 2), ('b', 'north', 3), ('c', NULL, NULL), (NULL, 'none', 9)},
		q{ALTER TABLE fuzz.lookup REPLICA IDENTITY FULL},
		q{ALTER TABLE fuzz.region REPLICA IDENTITY FULL}
	);
}

# ---------------------------------------------------------------------------
# Expressions over a row

my @units = qw(second minute hour day week month quarter year);

# An expression over one column: what to group by or to aggregate.  Returns
# its SQL and whether its equal values look the same.
sub expression
{
	my ($column) = @_;
	my $c    = $column->{ref};
	my $like = $column->{like};
	my @choice;

	if ($like eq 'int')
	{
		@choice = ("$c % 3", "$c > 1", "($c / 2)", "-($c / 3)", "${c}::numeric / 4");
	}
	elsif ($like eq 'id')
	{
		@choice = ("$c % 5", "$c / 16", "$c % 2 = 0");
	}
	elsif ($like eq 'numeric')
	{
		@choice = ("$c > 1", "round($c, 1)", "trunc($c)", "${c}::text", "$c IN ('NaN', 'Infinity')");
	}
	elsif ($like eq 'float')
	{
		@choice = ("$c > 1", "floor($c)", "$c = 'NaN'");
	}
	elsif ($like eq 'text')
	{
		@choice = ("lower($c)", "left($c, 1)", "length($c)", "$c || '!'", "$c ~ '^a'", "md5($c)");
	}
	elsif ($like eq 'ci')
	{
		@choice = ("lower($c)", "length($c)", "$c = 'A'");
	}
	elsif ($like eq 'wide')
	{
		@choice = ("left($c, 3)", "length($c)", "md5($c)");
	}
	elsif ($like eq 'bool')
	{
		@choice = ("NOT $c", "${c}::int");
	}
	elsif ($like eq 'date')
	{
		@choice = ("incbatch.tumble($c, '" . pick('1 week', '1 month', '2 days') . "')", "date_trunc('month', $c)", "extract(year FROM $c)", "$c + 1");
	}
	elsif ($like eq 'time')
	{
		my $unit = pick(@units);

		@choice = (
			("date_trunc('$unit', $c)") x 3, "date_bin('15 minutes', $c, '2024-01-01')",
			"${c}::date", "extract(hour FROM $c)",
			("incbatch.tumble($c, '" . pick('20 min', '1 day', '3 months', '36 hours') . "')") x 2);
		push @choice, "date_trunc('$unit', $c, 'Europe/Berlin')", "$c AT TIME ZONE 'America/New_York'"
		  if $column->{zone};
	}
	elsif ($like eq 'interval')
	{
		@choice = ("extract(epoch FROM $c)", "$c > '1 day'", "justify_hours($c)");
	}
	elsif ($like eq 'json')
	{
		@choice = ("$c ->> 'k'", "$c -> 'k'", "jsonb_typeof($c)", "$c \@> '{\"k\": 1}'", "$c #>> '{n,1}'");
	}
	elsif ($like eq 'array')
	{
		@choice = ("$c\[1]", "cardinality($c)", "$c || $c", "array_to_string($c, ',')");
	}
	elsif ($like eq 'inet')
	{
		@choice = ("host($c)", "family($c)");
	}
	push @choice, "$c IS NULL", "CASE WHEN " . predicate($column) . " THEN 'yes' ELSE 'no' END";
	push @choice, "coalesce($c, " . literal($column, $column->{values}[0]) . ')' if $column->{form} && @{ $column->{values} };

	my $sql = pick(@choice);
	my $form = $like !~ /^(float|interval|json|ci|numeric)$/ || $sql =~ /IS NULL|CASE|>>|typeof|::text| [>=] | IN /;
	$form = 0 if $sql =~ /\/ 4|extract/;
	return ($sql, $form ? 1 : 0);
}

# A condition over one column.
sub predicate
{
	my ($column) = @_;
	my $c      = $column->{ref};
	my @values = @{ $column->{values} };

	return pick("$c % 7 <> 3", "$c % 3 = 1", "$c > 40") if $column->{like} eq 'id';
	return pick("$c IS NOT NULL", "length($c) > 100") if $column->{like} eq 'wide';

	my $a = literal($column, pick(@values));
	my $b = literal($column, pick(@values));
	return pick(
		"$c IS NOT NULL", "$c IS NULL", "$c = $a", "$c <> $a", "$c >= $a",
		"$c < $a", "$c IN ($a, $b)", "$c IS DISTINCT FROM $a",
		"($c = $a OR $c IS NULL)", "NOT ($c = $a)", "coalesce($c = $a, false)");
}

# ---------------------------------------------------------------------------
# Queries

# An aggregate: its SQL, whether equal values of it look the same.
sub random_aggregate
{
	my (@columns) = @_;
	my $column = pick(@columns);
	my $c      = $column->{ref};
	my $filter = chance(0.3) ? ' FILTER (WHERE ' . predicate(pick(@columns)) . ')' : '';
	my $function = weighted(count_all => 2, count => 2, sum => 5, avg => 4, min => 3, max => 3, other => 5);
	my @fit;

	return other_aggregate($filter, @columns) if $function eq 'other';
	return { call => 'count(*)', filter => $filter, form => 1, number => 1 } if $function eq 'count_all';
	if ($function eq 'count')
	{
		return { call => "count($c)", filter => $filter, form => 1, number => 1 } if chance(0.7);
		return { call => 'count(' . (expression($column))[0] . ')', filter => $filter, form => 1, number => 1 };
	}
	@fit = grep { $function eq 'sum' ? $sums{ $_->{type} } : $function eq 'avg' ? $averages{ $_->{type} } : !$unordered{ $_->{type} } } @columns;
	return { call => 'count(*)', filter => $filter, form => 1, number => 1 } unless @fit;

	$column = pick(@fit);
	$c      = $column->{ref};
	if ($sums{ $column->{type} } && chance(0.25))
	{
		$c =
		    $column->{type} eq 'int8' || $column->{type} eq 'numeric' ? pick("$c / 4", "${c}::numeric - 1")
		  : $column->{like} eq 'int'     ? pick("${c}::bigint * 2", "$c % 3", "$c / 100.0")
		  : $column->{like} eq 'numeric' ? pick("$c * 2", "$c / 4", "round($c, 1)")
		  : $column->{like} eq 'float'   ? pick("$c * 2", "$c + 1")
		  :                                "$c * 2";
		$c = "CASE WHEN " . predicate(pick(@columns)) . " THEN $c END" if chance(0.2);
	}
	return {
		call   => "$function($c)",
		filter => $filter,
		form   => $column->{like} eq 'float' || $function =~ /min|max/ && (!$column->{form} || $c =~ /\/|numeric|\*/) ? 0
		: $column->{like} eq 'interval' ? 0 : 1,
		number => $column->{like} =~ /int|numeric|float/ && $column->{type} ne 'interval' && $column->{type} ne 'int4range',
	};
}

# Those of which the state keeps more, or nothing but the result.
sub other_aggregate
{
	my ($filter, @columns) = @_;
	my @sums   = grep { $averages{ $_->{type} } && $_->{type} ne 'interval' } @columns;
	my @exact  = grep { $_->{like} ne 'float' } @sums;
	my @floats = grep { $_->{type} eq 'float8' } @columns;
	my @bools  = grep { $_->{like} eq 'bool' } @columns;
	my @sorted = grep { !$unordered{ $_->{type} } } @columns;
	my $column = pick(@sorted);
	my $c      = $column->{ref};
	my $kind   = weighted(
		distinct => 4, list => 3, rank => 2, own => 1, every => 2,
		@exact  ? (variance => 4) : (),
		@floats ? (float => 2) : ());
	my %result = (filter => $filter, form => $column->{form}, number => 0);

	if ($kind eq 'variance')
	{
		# the variance of a numeric has the digits that its way of adding up gives it
		return { %result, form => 1, number => 1,
			call => pick(qw(var_pop var_samp stddev_pop stddev_samp variance stddev)) . '(' . pick(@exact)->{ref} . ')' };
	}
	if ($kind eq 'float')
	{
		my ($x, $y) = (pick(@floats)->{ref}, pick(@floats)->{ref});

		# the last digits follow the order of the rows
		return { %result, form => 0, equals => 'fuzz.rounded(%s)', call => pick("var_samp($x)", "corr($x, $y)", "covar_pop($x, $y)", "regr_slope($x, $y)", "regr_r2($x, $y)") };
	}
	if ($kind eq 'every')
	{
		return { %result, form => 1, call => pick(qw(bool_and bool_or every)) . '(' . (@bools && chance(0.5) ? pick(@bools)->{ref} : predicate(pick(@columns))) . ')' };
	}
	if ($kind eq 'distinct')
	{
		my $sum = @exact ? pick(@exact)->{ref} : 's.id';

		return { %result, form => 1, number => 1, call => pick("count(DISTINCT $c)", "count(DISTINCT $c)", "sum(DISTINCT $sum)") } if chance(0.7);
		return { %result, call => "array_agg(DISTINCT $c)" } if $column->{like} ne 'array';
		return { %result, form => 1, call => "string_agg(DISTINCT ${c}::text, ',')" };
	}
	if ($kind eq 'list')
	{
		return { %result, call => "array_agg($c ORDER BY $c, s.id)" } if $column->{like} ne 'array' && chance(0.4);
		return { %result, form => 1, call => pick(
			"string_agg(${c}::text, ',' ORDER BY ${c}::text)", "jsonb_agg(s.id ORDER BY s.id)") } if chance(0.5);
		return { %result, form => 1, picture => '(%s)::text', call => 'json_agg(s.id ORDER BY s.id DESC)' } if chance(0.5);
		return { %result, form => 1, picture => '(%s)[1]', call => 'array_agg(s.id ORDER BY s.id DESC)' };
	}
	if ($kind eq 'own')
	{
		return { %result, form => 1, call => "fuzz.mix(hashtextextended(${c}::text, 0))" };
	}
	return { %result, call => "percentile_disc(0.5) WITHIN GROUP (ORDER BY $c)" } if chance(0.5) || !@floats;
	return { %result, form => 0, call => 'percentile_cont(0.5) WITHIN GROUP (ORDER BY ' . pick(@floats)->{ref} . ')' } if chance(0.5);
	return { %result, call => "mode() WITHIN GROUP (ORDER BY $c)" };
}

# An entry of the SELECT list with aggregates in it.
sub random_output
{
	my (@columns) = @_;
	my $output = { aggregates => [ random_aggregate(@columns) ], picture => '%s' };
	my $first  = $output->{aggregates}[0];

	$output->{form}   = $first->{form};
	$output->{equals} = $first->{equals};
	$output->{picture} = $first->{picture} if $first->{picture};
	return $output unless $first->{number} && chance(0.25);

	my $wrap = weighted(coalesce => 3, case => 2, ratio => 2, plus => 2);
	if ($wrap eq 'coalesce') { $output->{picture} = 'coalesce(%s, 0)' }
	elsif ($wrap eq 'case')  { $output->{picture} = 'CASE WHEN count(*) > 2 THEN %s END' }
	elsif ($wrap eq 'ratio') { $output->{picture} = '%s / nullif(count(*), 0)' }
	else                     { $output->{picture} = '%s - 1' }
	return $output;
}

sub random_join
{
	my ($has) = @_;
	my @joins;

	if ($has->{fk} && chance(0.3))
	{
		my $on = 'l.id = s.fk' . (chance(0.3) ? ' AND l.flag' : '');

		push @joins, { sql => pick('JOIN', 'LEFT JOIN') . " fuzz.lookup l ON $on", columns => \@lookup_columns };
	}
	if ($has->{code} && chance(0.2))
	{
		push @joins, { sql => pick('JOIN', 'LEFT JOIN') . ' fuzz.region r ON r.code = s.code', columns => \@region_columns };
	}
	if ($has->{at} && chance(0.12))
	{
		my $hop = pick("'1 hour', '20 min'", "'24 hours', '8 hours'", "'2 months', '1 month'", "'1 week', '1 day'");

		push @joins, { sql => "CROSS JOIN incbatch.hop(s.at, $hop) AS w(window_start, window_end)", hop => 1, columns => [
			{ name => 'w.window_start', type => 'timestamp', like => 'window', form => 1, values => [ '2024-03-31 00:00', '2024-01-01 00:00' ] },
			{ name => 'w.window_end', type => 'timestamp', like => 'window', form => 1, values => [ '2024-03-31 03:00', '2024-03-01 00:00' ] }] };
	}
	return @joins;
}

sub random_pipeline
{
	my ($number, $source) = @_;
	my @columns = map { { %$_, ref => "s.$_->{name}" } } usable($source);
	my %has   = map { $_->{name} => 1 } @columns;
	my @joins = random_join(\%has);
	my $pipeline = {
		name    => "fuzz.p$number",
		source  => $source->{name},
		joins   => [ map { $_->{sql} } @joins ],
		where   => [],
		having  => [],
		trigger => weighted('0' => 3, '100 ms' => 2, '1 hour' => 3),
		options => $source->{identity} eq 'append' ? ', append_only => true' : '',
	};

	push @columns, map { { %$_, ref => $_->{name} } } map { @{ $_->{columns} } } @joins;
	if ($has{at} && chance(0.18))
	{
		make_closing($pipeline, (grep { $_->{hop} } @joins) ? 1 : 0, grep { $_->{name} eq 'at' } @columns);
		# what goes through late_rows loses the sign of a zero
		@columns = grep { $_->{like} ne 'float' || !grep { $_ eq '-0' } @{ $_->{values} } } @columns;
	}
	foreach (1 .. ($pipeline->{closing} ? between(0, 2) : weighted(1 => 4, 2 => 4, 3 => 2)))
	{
		my $column = pick(grep { !$pipeline->{closing} || $_->{name} ne 'at' } @columns);
		my ($sql, $form) = ($column->{ref}, $column->{form});

		($sql, $form) = expression($column)
		  if $column->{like} =~ /^(id|wide)$/ || chance($column->{like} eq 'time' ? 0.8 : 0.4);
		next if grep { $_->{sql} eq $sql } @{ $pipeline->{keys} };
		push @{ $pipeline->{keys} }, { sql => $sql, form => $form, shown => chance(0.92) };
	}
	push @{ $pipeline->{outputs} }, random_output(@columns) foreach 1 .. between(1, 5);
	push @{ $pipeline->{where} }, predicate(pick(@columns)) while chance(0.25);
	if (chance(0.2))
	{
		push @{ $pipeline->{having} },
		  pick('count(*) > 1', 'count(*) % 3 <> 0', 'count(*) <= 4', random_aggregate(@columns)->{call} . ' IS NOT NULL');
	}
	# windows without one in a key would only count rows several times
	if (my ($window) = grep { $_->{like} eq 'window' } @columns)
	{
		push @{ $pipeline->{keys} }, { sql => $window->{ref}, form => 1, shown => 1 }
		  unless grep { $_->{sql} eq $window->{ref} } @{ $pipeline->{keys} };
	}
	make_grouping($pipeline);
	$pipeline->{ordinals} = chance(0.3);
	$pipeline->{distinct} = chance(0.1);
	if ($source->{identity} ne 'index' && chance(0.2))
	{
		$pipeline->{inner} = ['true'];
		push @{ $pipeline->{inner} }, predicate({ %$_, ref => $_->{name} }) foreach chance(0.5) ? pick(usable($source)) : ();
		$pipeline->{with} = chance(0.4);
	}
	return $pipeline;
}

# Windows that close: a first key that is one of the event time, with the
# condition that it has ended at a time, written down from its length.
sub make_closing
{
	my ($pipeline, $hops, $at) = @_;
	my $unit = pick(@units);
	my $long = $unit eq 'quarter' ? '3 months' : "1 $unit";
	my ($size, $days) = @{ pick([ '20 min', 0 ], [ '36 hours', 0 ], [ '1 day', 1 ], [ '3 months', 1 ]) };
	my $trunc = "date_trunc('$unit', s.at" . ($at->{zone} && chance(0.3) ? ", 'Europe/Berlin')" : ')');
	my ($sql, $ended) = @{ pick(
		([ $trunc, "%s + interval '$long' <= %s" ]) x 3,
		([ "incbatch.tumble(s.at, '$size')", "%s + interval '$size' <= %s" ]) x 3,
		[ "date_bin('15 minutes', s.at, '2024-01-01')", "%s + interval '15 minutes' <= %s" ],
		[ 's.at::date', '%s + 1 <= (%s)::date' ]) };

	if ($hops)
	{
		my ($length) = join(' ', @{ $pipeline->{joins} }) =~ /hop\(s\.at, '(.*?)'/;

		($sql, $ended) = @{ pick(
			[ 'w.window_start', "%s + interval '$length' <= %s" ], [ 'w.window_end', '%s <= %s' ]) };
	}
	push @{ $pipeline->{keys} }, { sql => $sql, form => 1, shown => 1, ended => $ended };
	$pipeline->{closing} = {
		policy => weighted(divert => 4, drop => 2, apply => 2),
		hops   => $hops,
		zone   => $at->{zone} ? 1 : 0
	};
	$pipeline->{options} .= ", lateness => '" . pick('0', '10 min', '1 hour', '1 day', '100 days')
	  . "', late_policy => '$pipeline->{closing}{policy}'" . pick('', ", event_time => 'at'");
	$pipeline->{options} .= ", retention => '" . pick('0', '1 hour', '60 days', '400 days') . "'" if chance(0.3);
	return;
}

# Other ways to group than by all keys: none, by several sets of them, or by
# DISTINCT alone.  What closes is grouped by its window.
sub make_grouping
{
	my ($pipeline) = @_;
	my $kind = weighted(plain => 70, sets => 14, one => 5, distinct => 5);

	if ($kind eq 'distinct')
	{
		$pipeline->{$_} = [] foreach qw(outputs having);
		$_->{shown} = 1 foreach @{ $pipeline->{keys} };
		$pipeline->{distinct} = 1;
	}
	if ($pipeline->{closing})
	{
		# the window is in every set
		($pipeline->{grouping}, $pipeline->{merge}) = ('key, ROLLUP', chance(0.3)) if $kind eq 'sets' && !$pipeline->{closing}{hops} && @{ $pipeline->{keys} } > 1;
		return;
	}
	# many windows that are one group would only take long
	if ($kind eq 'one' && !grep { /hop/ } @{ $pipeline->{joins} })
	{
		$pipeline->{keys} = [];
	}
	if ($kind eq 'sets')
	{
		$pipeline->{grouping} = pick('ROLLUP', 'CUBE', 'GROUPING SETS', 'GROUPING SETS', 'key, ROLLUP');
		# which keys a set has, a bit for each
		$pipeline->{sets} = [ map { between(0, 7) } 1 .. between(1, 4) ];
		$pipeline->{merge} = chance(0.3);
		push @{ $pipeline->{outputs} }, { aggregates => [], picture => 'grouping(%KEYS%)', form => 1 } if chance(0.6);
	}
	return;
}

# The GROUP BY of keys as they stand in it.
sub grouping_of
{
	my ($pipeline, @keys) = @_;
	my $kind = $pipeline->{grouping};

	return join ', ', @keys unless $kind && @keys;
	my $list = '(' . join(', ', @keys) . ')';
	my $text = "$kind $list";
	if ($kind eq 'key, ROLLUP')
	{
		$text = @keys == 1 ? "ROLLUP $list" : "$keys[0], ROLLUP (" . join(', ', @keys[ 1 .. $#keys ]) . ')';
	}
	elsif ($kind eq 'GROUPING SETS')
	{
		my @sets = @{ $pipeline->{sets} };
		my %has;

		foreach my $set (@sets) { $set >> $_ & 1 and $has{$_} = 1 foreach 0 .. $#keys }
		@sets = map { my $set = $_; [ grep { $set >> $_ & 1 } 0 .. $#keys ] } @sets;
		# every key is in some set
		push @sets, [ 0 .. $#keys ] if keys %has < @keys;
		$text = "$kind (" . join(', ', map { '(' . join(', ', @keys[@$_]) . ')' } @sets) . ')';
	}
	return ($pipeline->{merge} ? 'DISTINCT ' : '') . $text;
}

# The query of a pipeline, from its parts, and the columns of its result; over
# another relation than its source, if that is given.
sub query_of
{
	my ($pipeline, $source) = @_;
	my (@select, @group, @columns);
	my $n = 0;

	foreach my $key (@{ $pipeline->{keys} })
	{
		if ($key->{shown})
		{
			push @select, "$key->{sql} AS k" . ++$n;
			push @columns, { name => "k$n", %$key };
		}
		push @group, $key->{shown} && $pipeline->{ordinals} ? scalar @select : $key->{sql};
	}
	$n = 0;
	foreach my $output (@{ $pipeline->{outputs} })
	{
		my $picture = $output->{picture};

		if ($picture =~ s/%KEYS%/join(', ', map { $_->{sql} } @{ $pipeline->{keys} })/e)
		{
			next unless @group;
			push @select, "$picture AS a" . ++$n;
			push @columns, { name => "a$n", %$output };
			next;
		}
		push @select,
		  sprintf($picture, map { $_->{call} . $_->{filter} } @{ $output->{aggregates} }) . ' AS a' . ++$n;
		push @columns, { name => "a$n", %$output };
	}
	my $sql  = 'SELECT ' . ($pipeline->{distinct} ? 'DISTINCT ' : '') . join(', ', @select);
	my $from = $source || $pipeline->{source};
	if ($pipeline->{inner})
	{
		$from = "(SELECT * FROM $from WHERE " . join(' AND ', @{ $pipeline->{inner} }) . ')';
		($sql, $from) = ("WITH kept AS $from $sql", 'kept') if $pipeline->{with};
	}
	$sql .= " FROM $from s";
	$sql .= " $_" foreach @{ $pipeline->{joins} };
	$sql .= ' WHERE ' . join(' AND ', @{ $pipeline->{where} }) if @{ $pipeline->{where} };
	$sql .= ' GROUP BY ' . grouping_of($pipeline, @group) if @group && (@{ $pipeline->{outputs} } || !$pipeline->{distinct});
	$sql .= ' HAVING ' . join(' AND ', @{ $pipeline->{having} }) if @{ $pipeline->{having} };
	return wantarray ? ($sql, @columns) : $sql;
}

sub create_of
{
	my ($pipeline) = @_;

	return "SELECT incbatch.create_pipeline('$pipeline->{name}', \$query\$"
	  . query_of($pipeline)
	  . "\$query\$, trigger_interval => '$pipeline->{trigger}'$pipeline->{options})";
}

# ---------------------------------------------------------------------------
# Statements

# The text of a statement, from its parts.
sub statement_of
{
	my ($step) = @_;

	return $step->{sql} if defined $step->{sql};
	return $step->{head} . join($step->{between}, @{ $step->{rows} }) . $step->{tail};
}

sub writable { return grep { !$_->{made} } @{ $_[0]{columns} } }

sub next_id
{
	my ($state, $session, $n) = @_;
	my $first = $state->{next_id}{$session};

	$state->{next_id}{$session} += $n;
	return $first;
}

# Rows of a session have ids of its own.
sub id_of
{
	my ($state, $session, $counter) = @_;

	return $counter * 4 + $state->{remainder}{$session};
}

sub insert_rows
{
	my ($state, $source, $session, $n) = @_;
	my @columns = writable($source);
	my $first   = next_id($state, $session, $n);
	my @rows;

	foreach my $i (0 .. $n - 1)
	{
		push @rows,
		  '(' . join(', ', id_of($state, $session, $first + $i), map { quoted(value($_)) } @columns[ 1 .. $#columns ]) . ')';
	}
	return {
		head    => "INSERT INTO $source->{name} (" . join(', ', map { $_->{name} } @columns) . ') VALUES ',
		rows    => \@rows,
		between => ', ',
		tail    => ''
	};
}

sub copy_rows
{
	my ($state, $source, $session, $n) = @_;
	my @columns = writable($source);
	my $first   = next_id($state, $session, $n);
	my @rows;

	foreach my $i (0 .. $n - 1)
	{
		push @rows, join ',', id_of($state, $session, $first + $i),
		  map { my $v = value($_); defined $v ? do { $v =~ s/"/""/g; "\"$v\"" } : '' } @columns[ 1 .. $#columns ];
	}
	return {
		head    => "COPY $source->{name} (" . join(', ', map { $_->{name} } @columns) . ") FROM STDIN (FORMAT csv);\n",
		rows    => \@rows,
		between => "\n",
		tail    => "\n\\.\n"
	};
}

# Values that depend on a number g.
sub spread
{
	my ($column, $g) = @_;
	my @values = @{ $column->{values} };
	my $n      = 0;
	my $cases  = join ' ', map { 'WHEN ' . $n++ . ' THEN ' . literal($column, $_) } @values;
	my $factor = pick(1, 3, 7);

	$n++ unless $column->{not_null};
	return "CASE (($g) * $factor + " . between(0, 9) . ") % $n $cases END";
}

sub insert_many
{
	my ($state, $source, $session, $n) = @_;
	my @columns = writable($source);
	my $first   = next_id($state, $session, $n);

	return {
		many => $n,
		sql => "INSERT INTO $source->{name} (" . join(', ', map { $_->{name} } @columns) . ') SELECT '
		  . join(', ', "($first + g) * 4 + $state->{remainder}{$session}", map { spread($_, 'g') } @columns[ 1 .. $#columns ])
		  . " FROM generate_series(0, $n - 1) g"
	};
}

# Which rows a statement of a session may change.
sub condition
{
	my ($state, $source, $session, $alone) = @_;
	my @columns = map { { %$_, ref => "t.$_->{name}" } } @{ $source->{columns} };
	my @parts;

	push @parts, "t.id % 4 = $state->{remainder}{$session}" unless $alone && chance(0.6);
	push @parts, predicate(pick(@columns)) if chance(0.6);
	push @parts, 't.id % 5 = ' . between(0, 4) if chance(0.3);
	push @parts, 't.id < ' . between(5, 60) if chance(0.4);
	push @parts, 'true' unless @parts;
	return join ' AND ', @parts;
}

sub assignment
{
	my ($source, $row) = @_;
	my @columns = sample(between(1, 3), grep { $_->{name} ne 'id' } writable($source));

	return join ', ', map {
		"$_->{name} = " . ($row && chance(0.3) ? spread($_, "$row.id") : quoted(value($_)))
	} @columns;
}

# A change of a lookup, of rows that are the session's own.
sub lookup_change
{
	my ($state, $session) = @_;
	my $mine = $state->{remainder}{$session};
	my $id   = $mine + 4 * between(0, 1);
	my @row  = map { quoted(value($_)) } @lookup_columns;
	my $code = pick("'a'", "'b'", "'c'", "'d'", 'NULL');
	my $size = $mine + 4 * between(0, 2);
	my $name = pick("'north'", "'south'", 'NULL');

	return { sql => pick(
		"INSERT INTO fuzz.lookup VALUES ($id, " . join(', ', @row) . ') ON CONFLICT DO NOTHING',
		"UPDATE fuzz.lookup SET name = $row[0] WHERE id % 4 = $mine",
		"UPDATE fuzz.lookup SET factor = $row[1], flag = $row[2] WHERE id = $id",
		"UPDATE fuzz.lookup SET id = $mine + 4 * ((id / 4 + 1) % 3) WHERE id = $id AND NOT EXISTS (SELECT FROM fuzz.lookup WHERE id <> $id AND id % 4 = $mine)",
		"DELETE FROM fuzz.lookup WHERE id = $id",
		"INSERT INTO fuzz.region VALUES ($code, $name, $size), ($code, $name, $size)",
		"UPDATE fuzz.region SET code = $code WHERE size % 4 = $mine",
		"UPDATE fuzz.region SET region = $name, size = $size WHERE size = $mine",
		"DELETE FROM fuzz.region WHERE size = $size") };
}

sub random_change
{
	my ($state, $source, $session, $alone) = @_;
	return lookup_change($state, $session) if $state->{tracks} && chance(0.25);
	my $t = $source->{name};
	my $append = $source->{identity} eq 'append';
	my $where = condition($state, $source, $session, $alone);
	my $mine  = $state->{remainder}{$session};
	my $kind  = weighted(
		insert => 6, many => 2, copy => 1.5,
		$append ? () : (
			update => 9, delete => 4, merge => 2, move => 1, renumber => 1, trap => 1.5, lock => 0.7,
			$source->{key} ? (upsert => 2) : ()
		),
		mistake => 0.5);

	return insert_rows($state, $source, $session, between(1, 6)) if $kind eq 'insert';
	return insert_many($state, $source, $session, chance(0.25) ? between(300, 900) : between(5, 60)) if $kind eq 'many';
	return copy_rows($state, $source, $session, between(1, 8)) if $kind eq 'copy';
	return { sql => "UPDATE $t t SET " . assignment($source, 't') . " WHERE $where" } if $kind eq 'update';
	return { sql => "DELETE FROM $t t WHERE $where" } if $kind eq 'delete';
	return { sql => 'SELECT 1 / 0' } if $kind eq 'mistake';
	return { sql => "SELECT count(*) FROM (SELECT FROM $t t WHERE t.id % 4 = $mine FOR " . pick('UPDATE', 'NO KEY UPDATE', 'SHARE') . ') x' }
	  if $kind eq 'lock';
	return { sql => "UPDATE $t t SET id = id + 4000000 WHERE $where AND t.id < 4000000" } if $kind eq 'renumber';

	my @columns = writable($source);
	my $names   = join ', ', map { $_->{name} } @columns;
	my $first   = next_id($state, $session, 3);
	if ($kind eq 'merge')
	{
		return { sql => "MERGE INTO $t t USING (SELECT g * 4 + $mine AS id FROM generate_series(" . between(0, $first) . ', '
			  . ($first + 2) . ') g) n ON t.id = n.id '
			  . (chance(0.6) ? 'WHEN MATCHED AND n.id % 3 = 0 THEN DELETE ' : '')
			  . 'WHEN MATCHED THEN UPDATE SET ' . assignment($source)
			  . " WHEN NOT MATCHED THEN INSERT ($names) VALUES (" . join(', ', 'n.id', map { quoted(value($_)) } @columns[ 1 .. $#columns ]) . ')' };
	}
	if ($kind eq 'move')
	{
		my $rest = join ', ', map { $_->{name} } @columns[ 1 .. $#columns ];

		return { sql => "WITH gone AS (DELETE FROM $t t WHERE $where RETURNING $names) INSERT INTO $t ($names) SELECT id + 8000000, $rest FROM gone WHERE id % 3 <> 0" };
	}
	if ($kind eq 'upsert')
	{
		my $insert = insert_rows($state, $source, $session, 2);
		my $id = id_of($state, $session, between(0, $first));
		my $row = $insert->{rows}[0];

		$row =~ s/^\(\d+/($id/;
		$insert->{rows}[0] = $row;
		$insert->{tail} = ' ON CONFLICT (id) DO ' . (chance(0.3) ? 'NOTHING' : 'UPDATE SET ' . assignment($source));
		return $insert;
	}
	# a subtransaction that is rolled back
	my $inner = insert_rows($state, $source, $session, 2);
	return { sql => 'DO $$ BEGIN UPDATE ' . "$t t SET " . assignment($source, 't') . " WHERE $where; BEGIN "
		  . statement_of($inner) . "; DELETE FROM $t t WHERE $where; RAISE EXCEPTION 'no'; EXCEPTION WHEN OTHERS THEN NULL; END; END \$\$" };
}

# What locks the table, and needs everybody else to be out of the way; the
# second argument says whether it may be part of a transaction.
sub random_ddl
{
	my ($state, $source, $in_transaction) = @_;
	my $t = $source->{name};
	my $n = ++$state->{ddl};
	my %choice = (
		truncate => $source->{identity} eq 'append' ? 0 : 6,
		$source->{partitioned} ? (join => 3) : (),
		add      => 2,
		index    => 1,
		type     => 1,
		full     => $in_transaction || $source->{partitioned} ? 0 : 1,
		cluster  => $source->{key} ? 1 : 0,
		drop     => $state->{added} ? 1 : 0,
	);
	my $kind = weighted(%choice);

	if ($kind eq 'truncate') { return { sql => "TRUNCATE $t" . (chance(0.3) ? ' RESTART IDENTITY CASCADE' : '') } }
	if ($kind eq 'add')
	{
		push @{ $state->{added} }, "extra_$n";
		return { sql => "ALTER TABLE $t ADD COLUMN extra_$n " . pick('int', 'text DEFAULT \'x\'', 'float8 DEFAULT random()') };
	}
	if ($kind eq 'join')
	{
		# empty: the pipelines follow
		return { sql => "CREATE TABLE ${t}_$n (LIKE $t); ALTER TABLE ${t}_$n REPLICA IDENTITY FULL; ALTER TABLE $t ATTACH PARTITION ${t}_$n FOR VALUES IN ('new $n')" };
	}
	if ($kind eq 'drop') { return { sql => "ALTER TABLE $t DROP COLUMN IF EXISTS " . pick(@{ $state->{added} }) } }
	if ($kind eq 'index') { return { sql => "CREATE INDEX ON $t (" . pick('fk', 'code', 'at') . ')' } }
	# of a column that a query may use: then it is refused
	if ($kind eq 'type') { return { sql => "ALTER TABLE $t ALTER COLUMN " . pick('fk TYPE bigint', 'code TYPE varchar(50)', 'extra_1 TYPE text') } }
	if ($kind eq 'full') { return { sql => "VACUUM FULL $t" } }
	(my $key = $t) =~ s/.*\.//;
	return { sql => "CLUSTER $t USING ${key}_pkey" };
}

# What the WAL does not tell: steps after which a pipeline may need a rebuild,
# for a reason that is known, and what makes the source fit again.  Nobody is in
# a transaction, and a check follows.
sub misfortune
{
	my ($state, $source) = @_;
	my $t    = $source->{name};
	my $n    = ++$state->{ddl};
	my $kind = weighted(
		$source->{partitioned} ? (attach => 3, detach => 2, drop => 1, part => 2)
		: (identity => 3, unlogged => 2, child => 2),
		rename => 2);
	my (@before, @after, $allows);
	my @changes = map { { on => 'a', %{ random_change($state, $source, 'a', 1) } } } 1 .. between(1, 3);

	if ($kind eq 'attach')
	{
		my $columns = join ', ', map { $_->{name} } writable($source);

		$allows = qr/was attached/;
		@before = (
			"CREATE TABLE ${t}_$n (LIKE $t INCLUDING GENERATED)",
			"ALTER TABLE ${t}_$n REPLICA IDENTITY FULL",
			statement_of(insert_rows($state, { %$source, name => "${t}_$n" }, 'a', 3)),
			"UPDATE ${t}_$n SET code = 'new $n'",
			"ALTER TABLE $t ATTACH PARTITION ${t}_$n FOR VALUES IN ('new $n')");
	}
	elsif ($kind eq 'detach')
	{
		my $leaf = $t . pick('_a', '_b', '_c', '_rest');

		$allows = qr/was detached/;
		@before = ("ALTER TABLE $t DETACH PARTITION $leaf");
	}
	elsif ($kind eq 'drop')
	{
		$allows = qr/was dropped|was detached/;
		@before = ("DROP TABLE ${t}" . pick('_a', '_b', '_c1'));
	}
	elsif ($kind eq 'part')
	{
		$allows = qr/was truncated/;
		@before = ("TRUNCATE $t" . pick('_a', '_b', '_c', '_rest'));
	}
	elsif ($kind eq 'identity')
	{
		$allows = qr/without its old values|does not tell old values/;
		@before = ("ALTER TABLE $t REPLICA IDENTITY " . pick('DEFAULT', 'NOTHING'));
		@after  = ("ALTER TABLE $t REPLICA IDENTITY "
			  . ($source->{identity} eq 'index' ? 'USING INDEX ' . $t =~ s/fuzz.//r . '_identity' : $source->{identity} eq 'append' ? 'DEFAULT' : 'FULL'));
	}
	elsif ($kind eq 'unlogged')
	{
		$allows = qr/unlogged/i;
		@before = ("ALTER TABLE $t SET UNLOGGED");
		@after  = ("ALTER TABLE $t SET LOGGED");
	}
	elsif ($kind eq 'child')
	{
		$allows = qr/inherit/;
		@before = ("CREATE TABLE ${t}_child () INHERITS ($t)", statement_of(insert_rows($state, { %$source, name => "${t}_child" }, 'a', 2)));
		@after  = ("DROP TABLE ${t}_child");
	}
	else
	{
		# names that come back: nothing may come of it
		my $column = pick(@{ $source->{columns} });

		@before = ("ALTER TABLE $t RENAME COLUMN $column->{name} TO another_name");
		@after  = ("ALTER TABLE $t RENAME COLUMN another_name TO $column->{name}");
		if (chance(0.5))
		{
			@before = ("ALTER TABLE $t RENAME TO moved", 'CREATE SCHEMA elsewhere', 'ALTER TABLE moved SET SCHEMA elsewhere');
			@after  = ('ALTER TABLE elsewhere.moved SET SCHEMA fuzz', 'DROP SCHEMA elsewhere', "ALTER TABLE moved RENAME TO " . $t =~ s/fuzz.//r);
		}
		@changes = ({ on => 'm', sql => "CALL incbatch.refresh_pipeline('" . pick(@{ $state->{created} })->{name} . "')" });
	}
	# a run between the one and the other, or not
	push @changes, { on => 'm', sql => "CALL incbatch.refresh_pipeline('" . pick(@{ $state->{created} })->{name} . "')" }
	  if chance(0.4);
	return (
		close_all($state),
		(map { { on => 'm', sql => $_, $allows ? (allows => $allows) : () } } @before),
		@changes,
		(map { { on => 'm', sql => $_ } } @after),
		{ check => 'refresh' });
}

# ---------------------------------------------------------------------------
# Programs

sub is_open { my ($state) = @_; return grep { $state->{open}{$_} } sort keys %{ $state->{open} } }

# Is nobody but this session in a transaction?
sub is_alone
{
	my ($state, $session) = @_;

	return !$state->{prepared} && !grep { $_ ne $session } is_open($state);
}

sub begin
{
	my ($state, $session) = @_;

	$state->{open}{$session}       = 1;
	$state->{savepoints}{$session} = [];
	return { on => $session, sql => 'BEGIN' . (chance(0.1) ? ' ISOLATION LEVEL REPEATABLE READ' : '') };
}

# End a transaction in one way or the other.
sub finish
{
	my ($state, $session) = @_;

	my $locked = defined $state->{locked} && $state->{locked} eq $session;

	delete $state->{open}{$session};
	delete $state->{locked} if $locked;
	if ($session eq 'd' && chance(0.85))
	{
		my $step = { on => $session, sql => "PREPARE TRANSACTION 'fuzz'" };

		# nobody waits for the lock of a prepared transaction
		return ($step, finish_prepared($state)) if $locked;
		$state->{prepared} = 1;
		return $step;
	}
	return { on => $session, sql => chance(0.8) ? 'COMMIT' : 'ROLLBACK' };
}

sub finish_prepared
{
	my ($state) = @_;

	$state->{prepared} = 0;
	return { on => 'm', sql => (chance(0.75) ? 'COMMIT' : 'ROLLBACK') . " PREPARED 'fuzz'" };
}

sub random_savepoint
{
	my ($state, $session) = @_;
	my $points = $state->{savepoints}{$session};

	if (!@$points || chance(0.45))
	{
		my $name = 'point_' . ++$state->{point};

		push @$points, $name;
		return { on => $session, sql => "SAVEPOINT $name" };
	}
	my $at = int rand @$points;
	my $name = $points->[$at];
	my $back = chance(0.6);
	splice @$points, $back ? $at + 1 : $at;
	return { on => $session, sql => ($back ? 'ROLLBACK TO' : 'RELEASE') . " SAVEPOINT $name" };
}

sub random_management
{
	my ($state) = @_;
	my $pipeline = pick(@{ $state->{created} });
	my $kind = weighted(pause => 3, resume => 3, rebuild => 2, alter => 2, refresh => 3, vacuum => 1, analyze => 1, checkpoint => 0.3, drop => 0.7);
	my $name = $pipeline->{name};

	if ($kind eq 'drop')
	{
		return ({ on => 'm', sql => "SELECT incbatch.drop_pipeline('$name')" }, { create => $pipeline->{number} });
	}
	return {
		on  => 'm',
		sql => {
			pause   => "SELECT incbatch.pause_pipeline('$name')",
			resume  => "SELECT incbatch.resume_pipeline('$name')",
			rebuild => "SELECT incbatch.rebuild_pipeline('$name')",
			alter   => "SELECT incbatch.alter_pipeline('$name', trigger_interval => '" . pick('0', '50 ms', '1 hour') . "')",
			refresh => "CALL incbatch.refresh_pipeline('$name')",
			vacuum  => "VACUUM $pipeline->{source}",
			analyze => "ANALYZE $pipeline->{source}",
			checkpoint => 'CHECKPOINT',
		}->{$kind}
	};
}

# A few steps of one session, or of nobody.
sub random_move
{
	my ($state) = @_;
	my @sources = @{ $state->{sources} };
	my $source  = pick(@sources);
	my $session = defined $state->{locked} ? $state->{locked} : pick('a', 'a', 'a', 'b', 'b', 'c', 'd');

	# two prepared transactions would be too many for the rows that d has
	$session = 'a' if $session eq 'd' && $state->{prepared};
	return finish_prepared($state) if $state->{prepared} && chance(0.15);
	return random_management($state) if !defined $state->{locked} && chance(0.12);

	if (!$state->{open}{$session})
	{
		return begin($state, $session) if $session eq 'd' || chance(0.4);
		return { on => $session, %{ random_ddl($state, $source, 0) } } if is_alone($state, $session) && chance(0.12);
		return { on => $session, %{ random_change($state, $source, $session, is_alone($state, $session)) } };
	}
	return finish($state, $session) if chance(0.25);
	return random_savepoint($state, $session) if chance(0.25);
	if (is_alone($state, $session) && chance(0.08))
	{
		$state->{locked} = $session;
		return { on => $session, %{ random_ddl($state, $source, 1) } };
	}
	return { on => $session, %{ random_change($state, $source, $session, 0) } };
}

# Somebody has the rows of an aggregate while its source changes.
sub held_rows
{
	my ($state) = @_;
	my @free = grep { !$state->{open}{$_} } 'a' .. 'c';

	return () if !@{ $state->{created} || [] } || !@free || defined $state->{locked};
	my $pipeline = pick(@{ $state->{created} });
	my @changes;

	foreach (1 .. between(1, 3))
	{
		my $session = pick(@free);

		push @changes, { on => $session, %{ random_change($state, pick(@{ $state->{sources} }), $session, 0) } };
	}
	return (
		{ on => 'm', sql => "SELECT incbatch.alter_pipeline('$pipeline->{name}', trigger_interval => '0')" },
		{ on => 'm', sql => "CALL incbatch.refresh_pipeline('$pipeline->{name}')" },
		{ on => 'h', sql => 'BEGIN' },
		{ on => 'h', sql => "SELECT count(*) FROM (SELECT FROM $pipeline->{name}_state FOR UPDATE) AS s" },
		@changes,
		{ on => 'h', sql => 'SELECT pg_sleep(0.25)' },
		{ on => 'h', sql => 'COMMIT' });
}

# A transaction that is too large to be read at once, parts of it rolled back.
sub large_transaction
{
	my ($state) = @_;
	my $source  = pick(@{ $state->{sources} });
	my $session = pick('a', 'b', 'c', 'd');

	return random_move($state) if $state->{open}{$session} || defined $state->{locked} || $state->{prepared};
	my @steps = (begin($state, $session));
	foreach (1 .. between(2, 4))
	{
		push @steps, random_savepoint($state, $session) if chance(0.7);
		push @steps, { on => $session, %{ insert_many($state, $source, $session, between(400, 900)) } };
		push @steps, random_savepoint($state, $session) if chance(0.7);
		push @steps, { on => $session, %{ random_change($state, $source, $session, 0) } };
	}
	return (@steps, chance(0.8) ? finish($state, $session) : ());
}

# The steps that end whatever is open.
sub close_all
{
	my ($state) = @_;
	my @steps = map { finish($state, $_) } is_open($state);

	push @steps, finish_prepared($state) if $state->{prepared};
	return @steps;
}

# Make program number $number of a seed.
sub random_program
{
	my ($seed, $number, %want) = @_;

	srand(($seed * 1_000_003 + $number * 7_919) % 2_147_483_647);
	my @sources = map { random_source("s$_") } 1 .. (chance(0.2) ? 2 : 1);
	my $state = {
		sources   => \@sources,
		remainder => { a => 0, b => 1, c => 2, d => 3, m => 0 },
		next_id   => { a => 0, b => 0, c => 0, d => 0 },
		open      => {},
	};
	my @steps = create_rest();

	foreach my $source (@sources)
	{
		push @steps, create_source($source);
		foreach my $session ('a' .. 'd')
		{
			push @steps, { on => $session, %{ insert_rows($state, $source, $session, between(1, 8)) } } if chance(0.8);
		}
		push @steps, late_columns($source);
	}

	my @pipelines = map { random_pipeline($_, pick(@sources)) } 1 .. weighted(1 => 3, 2 => 3, 3 => 2);
	$pipelines[$_]{number} = $_ foreach 0 .. $#pipelines;
	# lookups change where all pipelines that join them can follow
	my @joining = grep { @{ $_->{joins} } } @pipelines;
	$state->{tracks} = @joining && !(grep { $_->{inner} || $_->{closing} } @joining) && chance(0.6);
	$_->{options} .= ', track_lookups => true' foreach $state->{tracks} ? @joining : ();
	my @waiting = @pipelines;
	foreach my $stage (1 .. between(2, 4))
	{
		while (@waiting && ($stage == 1 && @waiting == @pipelines || chance(0.6)))
		{
			my $pipeline = shift @waiting;

			push @steps, { create => $pipeline->{number} };
			push @{ $state->{created} }, $pipeline;
		}
		push @steps, chance(0.03) ? large_transaction($state) : random_move($state) foreach 1 .. between(3, 14);
		push @steps, held_rows($state) if chance(0.12);
		push @steps, misfortune($state, pick(@sources)) if chance(0.08);
		push @steps, { kill => weighted(worker => 2, crash => 1, stop => 1) }
		  if chance($want{kills} || 0);
		# a lock would make the pipelines wait for it
		push @steps, finish($state, $state->{locked}) if defined $state->{locked};
		push @steps, close_all($state) if chance(0.4);
		push @steps, { check => chance(0.25) ? 'wait' : 'refresh' };
	}
	push @steps, close_all($state), { check => 'final' };
	return { seed => $seed, number => $number, pipelines => \@pipelines, steps => \@steps };
}

1;
