
# Random programs: each pipeline equals its query, whatever happens to its source.
#
# A program has a schema of columns of any type, one to three pipelines with
# random queries, and four sessions that insert, COPY, move, MERGE, delete,
# truncate and alter, in transactions, savepoints and two-phase commits that
# succeed or not, while the pipelines are created, paused, rebuilt, dropped and
# run at different triggers; in some the worker is ended, or the server crashes.
# Some pipelines close windows, and divert, drop or apply what is late for them.
# Proves that after each stage every pipeline is, row for row and spelled
# alike, the result of its query.
#
# The programs are the same each time; test/fuzz runs new ones.  Of a program
# that fails the seed, the number, the differences and a script are printed, the
# latter made as small as can be in a minute.
#
# FUZZ_PROGRAMS (default 200) programs are run, those of FUZZ_SEED (default 1);
# FUZZ_PROGRAM is to run one of them.  FUZZ_KILLS (default 0.02) is how likely a stage has a kill,
# FUZZ_SHRINK (default 60) the seconds to spend on a smaller program, and
# FUZZ_FAILURES (default 3) how many programs may fail before the rest is left.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use FuzzProgram;
use FuzzRunner;
use IncBatch;
use Test::More;
use Time::HiRes qw(time);

my $programs = $ENV{FUZZ_PROGRAMS} || 200;
my $kills    = defined $ENV{FUZZ_KILLS} ? $ENV{FUZZ_KILLS} : 0.02;
my $patience = defined $ENV{FUZZ_SHRINK} ? $ENV{FUZZ_SHRINK} : 60;
my $limit    = $ENV{FUZZ_FAILURES} || 3;
my $failed   = 0;

my $node = new_node(
	'main',
	fsync                     => 'off',
	logical_decoding_work_mem => '64kB',
	'incbatch.work_mem'       => '256kB',
	timezone                  => 'Europe/Berlin');
$node->start;
create_extension($node, 'postgres');
my $runner = FuzzRunner->new($node, 'postgres');

# Run programs $first to $last of a seed.
sub run_batch
{
	my ($seed, $first, $last) = @_;
	my $start = time;
	my $ran   = 0;

	diag "FUZZ_SEED=$seed programs $first to $last";
	foreach my $number ($first .. $last)
	{
		last if $failed >= $limit;
		my $program = random_program($seed, $number, kills => $kills);
		my $failure = $runner->run($program);

		$ran++;
		report($program, $failure) if $failure;
	}
	is($ran - $failed, $last - $first + 1, "seed $seed: $ran programs, every check exact");
	note sprintf '%.1f programs/s', $ran / (time - $start);
	return;
}

sub report
{
	my ($program, $failure) = @_;
	my $note = '';

	$failed++;
	diag "program $program->{number} of seed $program->{seed} fails ($failure->{kind}):\n$failure->{text}";
	($program, $failure, $note) = $runner->shrink($program, $failure, $patience)
	  if $patience > 0 && !$failure->{fatal};
	diag "FUZZ_SEED=$program->{seed} FUZZ_PROGRAM=$program->{number} $failure->{kind}"
	  . ($note ? " ($note)" : '') . ", as a script:\n"
	  . script_of($program) . "-- $failure->{kind}\n" . $failure->{text} =~ s/^/-- /gmr;
	return;
}

run_batch($ENV{FUZZ_SEED} || 1, $ENV{FUZZ_PROGRAM} || 1, $ENV{FUZZ_PROGRAM} || $programs);
diag sprintf '%d statements, %d of them refused; %d checks, %d looks at closed windows, %d of them at what was diverted; %d pipelines brought back, %d kills',
  @{$runner}{qw(statements refused checks closings counted repaired kills)};

$runner->close_sessions;
$node->stop;
done_testing();
