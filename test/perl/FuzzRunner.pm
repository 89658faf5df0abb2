
=pod

=head1 NAME

FuzzRunner - runs the programs of FuzzProgram, and shrinks those that fail

=head1 SYNOPSIS

  my $runner = FuzzRunner->new($node, 'postgres');
  my $failure = $runner->run(random_program($seed, $number));
  if ($failure)
  {
      ($program, $failure) = $runner->shrink($program, $failure, 60);
      print script_of($program), $failure->{text};
  }

=head1 DESCRIPTION

One driver issues the statements of all sessions in the order of the program,
each in a psql of its own that lives for many programs.  A statement that the
server refuses is part of the program: what it did not do, neither the pipeline
nor the query shows.

A check refreshes every pipeline and compares it with the query's own text,
both under one snapshot: as sets of rows, and column by column in how a value is
spelled, but for types whose equal values differ in form.  verify_pipeline must
agree.  Where windows close, the closed ones are compared with what they were,
and with the query over the source without what was diverted.  A failure is a hash of C<kind> and C<text>:

  differs   the relation is not the result of its query
  verify    verify_pipeline says so
  state     a pipeline stopped, and nothing that the program did allows it
  error     create_pipeline or a statement of the set-up was refused
  hangs     a statement or a refresh does not come to its end
  crash     the server ended a session that nobody killed

=cut

package FuzzRunner;

use strict;
use warnings;

use Carp;
use Exporter 'import';
use FuzzProgram;
use IncBatch;
use POSIX qw(:sys_wait_h dup2);
use Storable qw(dclone);
use Time::HiRes qw(time usleep);

our @EXPORT = qw(script_of);

# Longer than any statement, shorter than patience
my $patience = 60;

sub new
{
	my ($class, $node, $db) = @_;
	my $self = bless {
		node => $node, db => $db, sessions => {}, statements => 0, refused => 0,
		checks => 0, repaired => 0, kills => 0, closings => 0, counted => 0
	}, $class;

	$SIG{PIPE} = 'IGNORE';
	# A pipeline that stays keeps the worker between the programs.
	$self->must('m', 'CREATE TABLE public.anchor (id int)');
	$self->must('m', q{SELECT incbatch.create_pipeline('public.anchored', 'SELECT id, count(*) FROM public.anchor GROUP BY id', append_only => true, trigger_interval => '1 hour')});
	$self->must('m', q{CALL incbatch.refresh_pipeline('public.anchored')});
	return $self;
}

# ---------------------------------------------------------------------------
# Sessions: one psql each, output and errors in one stream

sub connect_session
{
	my ($self) = @_;
	my $node = $self->{node};

	pipe(my $in_read, my $in_write) or croak "pipe: $!";
	pipe(my $out_read, my $out_write) or croak "pipe: $!";
	my $pid = fork;
	croak "fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		dup2(fileno($in_read), 0);
		dup2(fileno($out_write), 1);
		dup2(fileno($out_write), 2);
		close $_ foreach $in_read, $in_write, $out_read, $out_write;
		$ENV{PGOPTIONS} = "-c lock_timeout=5s -c statement_timeout=${patience}s -c jit=off -c client_min_messages=warning";
		exec $node->installed_command('psql'), '-XqAt', '-h', $node->host, '-p', $node->port, '-d', $self->{db}
		  or POSIX::_exit(1);
	}
	close $in_read;
	close $out_write;
	$in_write->autoflush(1);
	return { pid => $pid, in => $in_write, out => $out_read, buffer => '', asked => 0 };
}

sub end_session_of
{
	my ($self, $name) = @_;
	my $session = delete $self->{sessions}{$name} or return;

	close $session->{in};
	close $session->{out};
	kill 'KILL', $session->{pid};
	waitpid $session->{pid}, 0;
	return;
}

sub close_sessions
{
	my ($self) = @_;

	$self->end_session_of($_) foreach keys %{ $self->{sessions} };
	return;
}

# Issue SQL in a session: its output, and SQLSTATE ('00000' without an error,
# 'lost' when the session ended, 'hangs').
sub ask_session
{
	my ($self, $name, $sql) = @_;
	my $session = $self->{sessions}{$name} ||= $self->connect_session;
	my $mark    = 'mark ' . ++$session->{asked};
	my $until   = time + $patience + 10;

	$sql .= ';' unless $sql =~ /[;\n]\z/;
	syswrite $session->{in}, "$sql\n\\echo $mark :SQLSTATE\n";
	for (;;)
	{
		if ($session->{buffer} =~ s/\A(.*?)^\Q$mark\E (\S*)\n//ms)
		{
			my ($output, $state) = ($1, $2);

			# a psql that has lost its server goes on, and connects again
			return ($output, 'lost') if $output =~ /^(connection to server was lost|server closed the connection)/m;
			return ($output, $state);
		}
		my $ready = '';
		vec($ready, fileno $session->{out}, 1) = 1;
		my $n = select($ready, undef, undef, $until - time > 0 ? $until - time : 0);
		if (!$n)
		{
			$self->end_session_of($name);
			return ("no answer to: $sql", 'hangs');
		}
		if (!sysread $session->{out}, $session->{buffer}, 65536, length $session->{buffer})
		{
			my $output = $session->{buffer};

			$self->end_session_of($name);
			return ($output, 'lost');
		}
	}
}

# SQL that must work; returns its output.
sub must
{
	my ($self, $name, $sql) = @_;
	my ($output, $state) = $self->ask_session($name, $sql);

	die { kind => kind_of($state, 'error'), text => "$sql\n$output" } if $state ne '00000';
	chomp $output;
	return $output;
}

sub kind_of
{
	my ($state, $else) = @_;

	return $state eq 'lost' ? 'crash' : $state eq 'hangs' || $state eq '57014' ? 'hangs' : $else;
}

# After a kill: until the server takes connections again.
sub wait_for_server
{
	my ($self) = @_;
	my $until = time + $patience;

	$self->close_sessions;
	while (time < $until)
	{
		my ($output, $state) = $self->ask_session('m', 'SELECT 1');

		return if $state eq '00000';
		$self->end_session_of('m');
		usleep(20_000);
	}
	die { kind => 'hangs', text => 'the server does not come back' };
}

# ---------------------------------------------------------------------------
# Steps

sub fresh_schema
{
	my ($self) = @_;
	my $prepared = $self->must('m', "SELECT count(*) FROM pg_prepared_xacts WHERE gid = 'fuzz'");

	$self->must($_, 'ROLLBACK') foreach grep { $self->{sessions}{$_} } 'h', 'a' .. 'd';
	$self->must('m', "ROLLBACK PREPARED 'fuzz'") if $prepared;
	$self->must('m', 'DROP SCHEMA IF EXISTS fuzz CASCADE');
	$self->must('m', 'CREATE SCHEMA fuzz');
	$self->must($_, 'SET search_path = fuzz, public') foreach 'm', 'h', 'a' .. 'd';
	return;
}

sub do_statement
{
	my ($self, $step) = @_;
	my $sql = statement_of($step);
	my ($output, $state) = $self->ask_session($step->{on}, $sql);

	# a rebuild reads all that is there; what a TRUNCATE left alone, nothing tells
	$self->forget($1) if $sql =~ /rebuild_pipeline\('(.*?)'/;
	$self->{truncated}{$_} = 1 foreach $sql =~ /TRUNCATE/ ? keys %{ $self->{live} } : ();
	$self->{statements}++;
	return if $state eq '00000';
	$self->{refused}++;
	my $kind = kind_of($state, '');
	$kind = 'error' if !$kind && $step->{setup};
	$kind = 'crash' if $state eq 'XX000' && $output =~ /internal|cache lookup/;
	die { kind => $kind, text => "$step->{on}: $sql\n$output" } if $kind;
	return;
}

# What was known of the windows of a pipeline before it began anew
sub forget
{
	my ($self, $name) = @_;

	delete $self->{$_}{$name} foreach qw(closed truncated);
	return;
}

sub do_create
{
	my ($self, $pipeline) = @_;

	$self->must('m', create_of($pipeline));
	$self->{live}{ $pipeline->{name} } = $pipeline;
	$self->forget($pipeline->{name});
	$self->{created}++;
	return;
}

sub do_kill
{
	my ($self, $what) = @_;
	my $node = $self->{node};

	$self->{kills}++;
	if ($what eq 'worker')
	{
		# the launcher too, which else remembers and waits longer each time
		$self->ask_session('m', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type IN ('incbatch worker', 'incbatch launcher') ORDER BY backend_type DESC");
		return;
	}
	if ($what eq 'crash')
	{
		my $pid = $self->must('m', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'incbatch worker' LIMIT 1");

		kill 'KILL', $pid if $pid;
		# the server notices at once, and ends every session
		$self->ask_session('m', 'SELECT pg_sleep(10)') if $pid;
	}
	else
	{
		$node->stop('immediate');
		$node->start;
	}
	$self->wait_for_server;
	$self->must($_, 'SET search_path = fuzz, public') foreach 'm', 'a' .. 'd';
	return;
}

# ---------------------------------------------------------------------------
# The oracle

# The state of every pipeline, by its name.
sub states
{
	my ($self) = @_;
	my $rows = $self->must('m', q{SELECT relation::text, state, replace(coalesce(last_error, ''), E'\n', ' ') FROM incbatch.pipelines WHERE relation::text NOT LIKE '%anchored'});
	my %states;

	foreach my $row (split /\n/, $rows)
	{
		my ($name, $state, $error) = split /\|/, $row, 3;

		$states{"fuzz.$name"} = { state => $state, error => $error };
	}
	return \%states;
}

# What keeps a pipeline from being compared: resume, or repair and rebuild.
sub bring_back
{
	my ($self, $name, $now) = @_;

	if ($now->{state} eq 'paused')
	{
		$self->must('m', "SELECT incbatch.resume_pipeline('$name')");
		return;
	}
	foreach my $allowed (@{ $self->{allowed} })
	{
		next unless $now->{error} =~ $allowed->{allows};
		$self->{repaired}++;
		$self->must('m', $_) foreach @{ $allowed->{repair} || [] };
		$self->must('m', "SELECT incbatch.rebuild_pipeline('$name')");
		$self->forget($name);
		return;
	}
	die { kind => 'state', text => "$name is $now->{state}: $now->{error}" };
}

sub do_check
{
	my ($self, $how) = @_;
	my $states = $self->states;

	$self->{checks}++;
	foreach my $name (sort keys %{ $self->{live} })
	{
		my $pipeline = $self->{live}{$name};
		my $now      = $states->{$name};

		die { kind => 'state', text => "$name is not in incbatch.pipelines" } unless $now;
		next if $now->{state} eq 'paused' && $how ne 'final';
		$self->bring_back($name, $now) if $now->{state} =~ /paused|failed|needs_rebuild/;
		$self->catch_up($name, $how);
		if ($pipeline->{closing}) { $self->compare_closing($pipeline) }
		else { $self->compare($pipeline) }
		$self->verify($pipeline) if $how eq 'final' || $pipeline->{closing} || $self->{checks} % 3 == 0;
	}
	return;
}

# Bring a pipeline up to date; one that stops on the way is brought back once.
sub catch_up
{
	my ($self, $name, $how) = @_;

	foreach my $try (1 .. 3)
	{
		my $sql = "CALL incbatch.refresh_pipeline('$name')";

		if ($how eq 'wait')
		{
			my $trigger = $self->must('m', "SELECT trigger_interval < '1 s' FROM incbatch.pipelines WHERE relation = '$name'::regclass");

			$sql = "SELECT incbatch.wait_for('$name', timeout => '40 s')" if $trigger eq 't';
		}
		my ($output, $state) = $self->ask_session('m', $sql);

		return if $state eq '00000' && $output !~ /^f$/m;
		die { kind => kind_of($state, 'hangs'), text => "$sql\n$output" } unless $state eq '55000' || $state eq 'XX000';
		my $now = $self->states->{$name};
		die { kind => 'state', text => "$sql\n$output" } if $now->{state} !~ /failed|needs_rebuild|paused/;
		$self->bring_back($name, $now);
	}
	my $now = $self->states->{$name};
	die { kind => 'state', text => "$name stops again and again; it is $now->{state}: $now->{error}" };
}

# Columns as they are compared: by equality, and where it may be by their text.
sub compared
{
	return join ', ', map { ($_->{equals} ? sprintf($_->{equals}, $_->{name}) : $_->{name}), $_->{form} ? "$_->{name}::text" : () } @_;
}

# The source as a pipeline that diverts late changes has counted it: without the
# rows whose insert was diverted, with those whose delete was.
sub counted
{
	my ($pipeline) = @_;
	my $source = $pipeline->{source};

	return qq{
late AS MATERIALIZED (
    SELECT "row"::text AS t, sum(CASE change WHEN 'insert' THEN 1 ELSE -1 END) AS n FROM incbatch.late_rows
     WHERE pipeline = (SELECT pipeline FROM incbatch.pipelines WHERE relation = '$pipeline->{name}'::regclass) GROUP BY 1),
unread AS MATERIALIZED (
    SELECT array_agg(attname::text) FILTER (WHERE NOT (SELECT t::jsonb FROM late LIMIT 1) ? attname) AS names
      FROM pg_attribute WHERE attrelid = '$source'::regclass AND attnum > 0 AND NOT attisdropped),
rows AS MATERIALIZED (
    SELECT x, t, row_number() OVER (PARTITION BY t) AS i
      FROM $source x, unread, LATERAL (SELECT (to_jsonb(x) - coalesce(names, '{}'))::text) s(t)),
counted AS MATERIALIZED (
    SELECT (x).* FROM rows LEFT JOIN late USING (t) WHERE i > coalesce(n, 0)
    UNION ALL
    SELECT (jsonb_populate_record(NULL::$source, t::jsonb)).* FROM late, generate_series(1, -n))};
}

# Where windows close: those that are open equal the query; those that were
# closed at the last look have what they had then; where late changes are
# diverted, all equal the query over what was counted; and what retention
# removes is gone.  Then remember what is closed.
sub compare_closing
{
	my ($self, $pipeline) = @_;
	my $name    = $pipeline->{name};
	my $closing = $pipeline->{closing};
	my ($query, @columns) = query_of($pipeline);
	my $list = compared(@columns);
	my ($window) = grep { $_->{ended} } @columns;
	my $ended = sub { "($_[0] > '-infinity' AND " . sprintf($window->{ended}, $window->{name}, $_[0]) . ')' };
	my $known = $self->{closed}{$name};
	my $apply = $closing->{policy} eq 'apply';
	my $all   = $closing->{policy} eq 'divert' && !$closing->{hops} && !$self->{truncated}{$name};
	my $utc   = $closing->{zone} ? q{ AT TIME ZONE 'UTC'} : '';
	my $past  = $ended->($apply ? 'm.removed' : 'm.closed');
	my $over  = query_of($pipeline, 'counted');
	my $closed = "${name}_closed";

	$self->must('m', qq{CREATE TABLE $closed AS TABLE $name WITH NO DATA; CREATE TABLE ${closed}_mark (closed }
		  . ($closing->{zone} ? 'timestamptz' : 'timestamp') . ')')
	  if $self->must('m', "SELECT to_regclass('$closed') IS NULL") eq 't';
	$self->must('m', "DELETE FROM $closed; DELETE FROM ${closed}_mark") unless $known;
	# a column that had another name then
	$all &&= $self->must('m', q{SELECT count(*) FROM incbatch.late_rows WHERE "row" ? 'another_name'}) eq '0' if $all;

	my @differences = (
		[ 'an open window, only in the pipeline', "SELECT $list FROM p WHERE past IS NOT TRUE EXCEPT ALL SELECT $list FROM q WHERE past IS NOT TRUE" ],
		[ 'an open window, only in the query', "SELECT $list FROM q WHERE past IS NOT TRUE EXCEPT ALL SELECT $list FROM p WHERE past IS NOT TRUE" ],
		[ 'a window that should be removed', "SELECT $list FROM p WHERE removed" ],
		[ 'the watermark went back', "SELECT b.closed FROM ${closed}_mark b, m WHERE m.closed < b.closed" ],
		[ 'the watermark lags behind', "SELECT m.closed FROM m WHERE m.closed < (SELECT max(at) FROM $pipeline->{source} WHERE at <= now() AND at > '-infinity') - make_interval(secs => extract(epoch FROM m.lateness)::float8)" ]);
	push @differences,
	  [ 'a closed window that has changed', "SELECT $list FROM p WHERE before EXCEPT ALL SELECT $list FROM $closed" ],
	  [ 'a closed window that was', "SELECT $list FROM $closed, m WHERE " . $ended->('m.removed') . " IS NOT TRUE EXCEPT ALL SELECT $list FROM p WHERE before" ]
	  if !$apply;
	push @differences,
	  [ 'a row that was not counted', "SELECT $list FROM c WHERE removed IS NOT TRUE EXCEPT ALL SELECT $list FROM p" ],
	  [ 'a row that was counted', "SELECT $list FROM p EXCEPT ALL SELECT $list FROM c WHERE removed IS NOT TRUE" ],
	  [ 'a diverted row that never was', 'SELECT t FROM late LEFT JOIN (SELECT t, count(*) FROM rows GROUP BY t) r USING (t) WHERE n > coalesce(count, 0)' ]
	  if $all;
	my $rows = $self->must('m', "BEGIN ISOLATION LEVEL REPEATABLE READ;\nWITH "
		  . qq{m AS MATERIALIZED (SELECT w.closed$utc AS closed, w.removed$utc AS removed, p.lateness
  FROM incbatch.path_watermark w JOIN incbatch.path a ON a.id = w.path JOIN incbatch.pipeline p ON p.id = a.pipeline WHERE p.relation = '$name'::regclass),
p AS MATERIALIZED (SELECT p.*, $past AS past, } . $ended->('m.removed') . ' AS removed, ' . $ended->('b.closed') . qq{ AS before FROM m, $name p LEFT JOIN ${closed}_mark b ON true),
q AS MATERIALIZED (SELECT q.*, $past AS past FROM m, ($query) q)}
		  . ($all ? ',' . counted($pipeline) . ",\nc AS MATERIALIZED (SELECT c.*, " . $ended->('m.removed') . " AS removed FROM m, ($over) c)" : '')
		  . "\nSELECT * FROM (" . join("\nUNION ALL ", map { "SELECT '$_->[0]', d::text FROM ($_->[1]) d" } @differences) . ') x ORDER BY 1, 2 LIMIT 20;'
		  . qq{
DELETE FROM ${closed}_mark; DELETE FROM $closed;
INSERT INTO ${closed}_mark SELECT w.closed$utc FROM incbatch.path_watermark w JOIN incbatch.path a ON a.id = w.path JOIN incbatch.pipeline p ON p.id = a.pipeline WHERE p.relation = '$name'::regclass;
INSERT INTO $closed SELECT p.* FROM $name p, ${closed}_mark m WHERE } . $ended->('m.closed') . ";\nCOMMIT");

	die { kind => $rows =~ /^ERROR/m ? 'error' : 'differs', text => "$name: $query\n$rows" } if $rows ne '';
	$self->{closed}{$name} = 1;
	$self->{closings}++;
	$self->{counted}++ if $all;
	return;
}

sub compare
{
	my ($self, $pipeline) = @_;
	my ($query, @columns) = query_of($pipeline);
	my $list = compared(@columns);
	my $rows = $self->must('m', qq{BEGIN ISOLATION LEVEL REPEATABLE READ;
WITH q AS MATERIALIZED (SELECT $list FROM ($query) q), p AS MATERIALIZED (SELECT $list FROM $pipeline->{name})
SELECT * FROM (SELECT 'only in the pipeline', d::text FROM (TABLE p EXCEPT ALL TABLE q) d
               UNION ALL SELECT 'only in the query', d::text FROM (TABLE q EXCEPT ALL TABLE p) d) x ORDER BY 1, 2 LIMIT 20;
COMMIT});

	die { kind => 'differs', text => "$pipeline->{name}: $query\n$rows" } if $rows ne '';
	return;
}

sub verify
{
	my ($self, $pipeline) = @_;
	my (undef, @columns) = query_of($pipeline);

	return if grep { $_->{equals} } @columns;
	my $name = $pipeline->{name};
	my $sql  = "SELECT v::text FROM incbatch.verify_pipeline('$name') v LIMIT 10";
	my ($rows, $state) = $self->ask_session('m', $sql);

	# it may have stopped meanwhile, if something that the program did allows it
	if ($state eq '55000')
	{
		$self->bring_back($name, $self->states->{$name});
		$self->catch_up($name, 'refresh');
		$rows = $self->must('m', $sql);
	}
	elsif ($state ne '00000')
	{
		die { kind => kind_of($state, 'error'), text => "$sql\n$rows" };
	}
	die { kind => 'verify', text => "$pipeline->{name}: " . query_of($pipeline) . "\n$rows" } if $rows ne '';
	return;
}

# ---------------------------------------------------------------------------
# Programs

sub do_steps
{
	my ($self, $program) = @_;

	$self->fresh_schema;
	$self->{$_}      = {} foreach qw(live closed truncated);
	$self->{allowed} = [];
	foreach my $step (@{ $program->{steps} })
	{
		$program->{at} = $step;
		if    (defined $step->{create}) { $self->do_create($program->{pipelines}[ $step->{create} ]) }
		elsif (defined $step->{check})  { $self->do_check($step->{check}) }
		elsif (defined $step->{kill})   { $self->do_kill($step->{kill}) }
		else
		{
			push @{ $self->{allowed} }, $step if $step->{allows};
			$self->do_statement($step);
		}
	}
	return;
}

# Run a program: undef, or its failure.
sub run
{
	my ($self, $program) = @_;

	return undef if eval { $self->do_steps($program); 1 };
	my $failure = $@;

	croak $failure unless ref $failure eq 'HASH';
	# whatever it left behind is not the next one's
	eval { $self->wait_for_server; 1 } or $failure->{fatal} = 1;
	return $failure;
}

# ---------------------------------------------------------------------------
# Shrinking

# What two failures of the same cause have in common
sub signature
{
	my ($failure) = @_;
	my $reason = $failure->{text} =~ /(ERROR: .*|is (?:failed|needs_rebuild): .*)/ ? substr($1, 0, 60) : '';

	return "$failure->{kind} " . $reason =~ s/\d+|".*?"/?/gr;
}

# The smallest program found within some seconds that fails in the same way.
sub shrink
{
	my ($self, $program, $failure, $seconds) = @_;
	my $best  = dclone($program);
	my $until = time + $seconds;
	my $again = sub {
		my ($candidate) = @_;
		my $other = $self->run($candidate);

		return unless $other && signature($other) eq signature($failure);
		croak 'the server is gone' if $other->{fatal};
		($best, $failure) = ($candidate, $other);
		return 1;
	};

	$again->(dclone($best)) || $again->(dclone($best)) or return ($program, $failure, 'it does not fail again');
	my $before = '';
	while ($before ne script_of($best) && time < $until)
	{
		$before = script_of($best);
		shrink_list($best, $again, $until, sub { $_[0]{steps} }, sub { !$_[0]{setup} });
		foreach my $i (0 .. $#{ $best->{pipelines} })
		{
			next unless grep { defined $_->{create} && $_->{create} == $i } @{ $best->{steps} };
			foreach my $part (qw(outputs keys where having joins))
			{
				shrink_list($best, $again, $until, sub { $_[0]{pipelines}[$i]{$part} });
			}
			foreach my $o (0 .. $#{ $best->{pipelines}[$i]{outputs} })
			{
				my $candidate = dclone($best);
				my $output = $candidate->{pipelines}[$i]{outputs}[$o];

				my $plain  = $output->{aggregates}[0]{picture} || '%s';

				next if $output->{picture} eq $plain && !grep { $_->{filter} } @{ $output->{aggregates} };
				$output->{picture} = $plain;
				$_->{filter} = '' foreach @{ $output->{aggregates} };
				$again->($candidate) if time < $until;
			}
		}
		foreach my $i (0 .. $#{ $best->{steps} })
		{
			shrink_list($best, $again, $until, sub { $_[0]{steps}[$i]{rows} }) if $best->{steps}[$i]{rows};
			shrink_many($best, $again, $until, $i) if $best->{steps}[$i]{many};
		}
	}
	return ($best, $failure, '');
}

# Take away pieces of a list, half of it first, as long as it still fails.  The
# first argument is an alias of the best program, which $again replaces.
sub shrink_list
{
	my (undef, $again, $until, $list_of, $may_go) = @_;
	my $size = @{ $list_of->($_[0]) || [] };

	for (my $chunk = int(($size + 1) / 2); $chunk >= 1; $chunk = $chunk == 1 ? 0 : int(($chunk + 1) / 2))
	{
		for (my $at = @{ $list_of->($_[0]) } - $chunk; $at > -$chunk; $at -= $chunk)
		{
			my $candidate = dclone($_[0]);
			my $list  = $list_of->($candidate);
			my $first = $at < 0 ? 0 : $at;
			my $last  = $at + $chunk - 1;
			my @kept;

			return if time > $until;
			foreach my $i ($first .. $last)
			{
				push @kept, $list->[$i] if defined $list->[$i] && $may_go && !$may_go->($list->[$i]);
			}
			next if $last > $#$list || @kept == $last - $first + 1;
			splice @$list, $first, $last - $first + 1, @kept;
			$again->($candidate);
		}
	}
	return;
}

# Fewer rows of an INSERT ... SELECT FROM generate_series
sub shrink_many
{
	my (undef, $again, $until, $i) = @_;

	while ($_[0]{steps}[$i]{many} > 1 && time < $until)
	{
		my $candidate = dclone($_[0]);
		my $step = $candidate->{steps}[$i];
		my $n    = $step->{many};

		$step->{many} = int($n / 2);
		$step->{sql} =~ s/generate_series\(0, $n - 1\)/generate_series(0, $step->{many} - 1)/;
		return unless $again->($candidate);
	}
	return;
}

# ---------------------------------------------------------------------------
# Scripts

# The program as SQL for psql, a comment before each statement that is not of
# the session before.
sub script_of
{
	my ($program) = @_;
	my $script = "DROP SCHEMA IF EXISTS fuzz CASCADE;\nCREATE SCHEMA fuzz;\nSET search_path = fuzz, public;\n";
	my $on = 'm';

	foreach my $step (@{ $program->{steps} })
	{
		if (defined $step->{create})
		{
			$script .= create_of($program->{pipelines}[ $step->{create} ]) . ";\n";
		}
		elsif (defined $step->{check}) { $script .= "-- check $step->{check}\n" }
		elsif (defined $step->{kill})  { $script .= "-- kill $step->{kill}\n" }
		else
		{
			my $sql = statement_of($step);

			$script .= "-- session $step->{on}\n" if $step->{on} ne $on;
			$on = $step->{on};
			$script .= $sql . ($sql =~ /\n\z/ ? '' : ";\n");
		}
	}
	return $script;
}

1;
