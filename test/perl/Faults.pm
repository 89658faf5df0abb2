
=pod

=head1 NAME

Faults - the fault points of src/fault.h, and what a reader must see meanwhile

=head1 DESCRIPTION

C<arm> sets C<incbatch.fault> in the file, for a server that crashes over and over
cannot be asked; C<look> is one look of a second session at what no crash may
break.  Both go on while the server recovers.

=cut

package Faults;

use strict;
use warnings;

use Carp;
use Exporter 'import';
use File::Basename;
use IncBatch;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(fault_points open_faults arm at_point look looks differences_settled);

my $looks   = 0;
my %highest = ();    # stored frontier by path

# The names of all points.
sub fault_points
{
	return map { lc } slurp_file(dirname(__FILE__) . '/../../src/fault.h') =~ /^\tFAULT_(\w+),/mg;
}

# Whether the node, which runs, has fault points; if so it can be armed from now on.
sub open_faults
{
	my ($node) = @_;

	return 0 if $node->safe_psql('postgres', q{SELECT count(*) FROM pg_settings WHERE name = 'incbatch.fault'}) == 0;
	set_conf($node, 'incbatch.fault' => '');
	return 1;
}

# Let something happen at a point: 'point:action[:nth]', '' for nothing any more.
# The server need not be there; if it is, our processes know it on return, and
# every other setting that was changed before.
sub arm
{
	my ($node, $fault) = @_;
	my @pids = defined $node->{_pid} ? our_processes($node) : ();
	my $offset = @pids ? -s $node->logfile : 0;

	$node->adjust_conf('postgresql.conf', 'incbatch.fault', "'$fault'");
	kill_process('HUP', $node->{_pid}) if defined $node->{_pid};
	until_holds {
		my $log = @pids ? slurp_file($node->logfile, $offset) : '';

		@pids = grep { $log !~ /incbatch.fault is ".*" in process $_$/m && kill(0, $_) } @pids;
		return !@pids;
	}
	or croak "processes @pids have not learned that incbatch.fault is '$fault'";
	return;
}

# Process ids of the launcher and the workers; none of a server that recovers.
sub our_processes
{
	my ($node) = @_;
	my ($ret, $pids) = try_psql($node, 'postgres',
		"SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE backend_type LIKE 'incbatch %'");

	return $ret == 0 ? split ' ', $pids : ();
}

# Has a process come to the point, since the log had $offset bytes?
sub at_point
{
	my ($node, $point, $offset) = @_;

	return slurp_file($node->logfile, $offset) =~ /incbatch is at fault point $point: /;
}

# One look: the bank's total never changes, no group has less than one row, no
# stored frontier goes back, and nobody keeps a reader waiting.  Returns what is
# broken; nothing, and no look counts, while the server recovers.
sub look
{
	my ($node) = @_;
	my @broken;
	my ($ret, $stdout, $stderr) = try_psql($node, 'postgres', qq{
SET lock_timeout = '30s';
SELECT 'bank', coalesce(sum(total) <> $bank_total OR min(accounts) < 1, true)::text FROM shop.totals
UNION ALL
SELECT 'count', coalesce(min(orders) < 1, false)::text FROM shop.by_category
UNION ALL
SELECT path::text, (lsn - '0/0')::bigint::text FROM incbatch.frontier});

	return 'a reader waits for a lock' if $stderr =~ /due to lock timeout/;
	return if $ret != 0;
	$looks++;
	foreach my $line (split /\n/, $stdout)
	{
		my ($what, $value) = split /\|/, $line;

		if ($what =~ /\D/)
		{
			push @broken, "$what in look $looks" if $value eq 'true';
			next;
		}
		push @broken, "frontier of path $what from $highest{$what} to $value in look $looks"
		  if ($highest{$what} || 0) > $value;
		$highest{$what} = $value;
	}
	return @broken;
}

sub looks { return $looks }

# As differences(), but a process that had not learned that a fault is no more may
# crash the server once more; and a pipeline at which the worker died so often that
# it was taken out of service is resumed.
sub differences_settled
{
	my ($node, $db, $name, @options) = @_;
	my $difference;

	until_holds {
		$difference = eval { differences($node, $db, $name, @options) };
		$difference = "cannot connect: $@" unless defined $difference;
		try_psql($node, $db, "SELECT incbatch.resume_pipeline('$name')") if $difference =~ /the worker ended \d+ times in a row/;
		return $difference !~ /connect|the worker ended \d+ times in a row/;
	};
	return $difference;
}

1;
