
# What others can do to a database with pipelines: hazards 66, 67, 68, 74
# and 77.
#
# Proves:
# - CREATE EXTENSION adopts nothing that somebody has put in its way, and what
#   it makes cannot be changed by a search_path; the role incbatch_user is one
#   for all databases;
# - the owner of a pipeline's relations, and of the database, can make the
#   worker run code of his in four ways that once made superusers of others;
#   here none does, and the pipeline is right or says why it is not;
# - a batch of as many groups as rows takes bounded memory, and there are no more
#   paths than incbatch.max_paths;
# - operators, functions, types and tables of the names that the
#   extension uses, first in everybody's search_path, are never called: not by
#   its functions and views, nor by the worker;
# - a role with REPLICATION reads nothing by the worker's slot or its plugin.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IncBatch;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $top    = "$FindBin::RealBin/../..";
my $script = slurp_file("$top/sql/incbatch--1.0.sql");
my $node   = new_node('main', autovacuum => 'off', max_worker_processes => 12, 'incbatch.max_paths' => 12);
$node->start;
$node->safe_psql('postgres', 'CREATE ROLE mallory LOGIN');
my $super = $node->safe_psql('postgres', 'SELECT current_user');

sub is_superuser
{
	my ($role) = @_;
	return $node->safe_psql('postgres', "SELECT rolsuper FROM pg_roles WHERE rolname = '$role'");
}

# ---------------------------------------------------------------------------
# 68: the installation script

{
	my $text = $script;

	$text =~ s/--.*//g;
	$text =~ s/^COMMENT ON .*?';$//gms;
	unlike($text, qr/OR\s+REPLACE/i,       '68: the script replaces nothing');
	unlike($text, qr/IF\s+NOT\s+EXISTS/i,  '68: the script adopts nothing');
	unlike($text, qr/SECURITY\s+DEFINER/i, '68: no function of the script has the rights of its owner');
	unlike($text, qr/^\s*SET\s+(?:(?:LOCAL|SESSION)\s+)?search_path\b(?!\s*=\s*pg_catalog, pg_temp$)/im, '68: the script relies on the path that CREATE EXTENSION sets');
	my @unqualified = $text =~ /^CREATE (?:FUNCTION|PROCEDURE|VIEW|TABLE|TYPE) (?!incbatch\.)(\S+)/gm;
	is("@unqualified", '', '68: whatever the script makes, it names in full');
	my ($control) = slurp_file("$top/incbatch.control");
	like($control, qr/^$_$/m, "68: $_")
	  foreach 'schema = incbatch', 'relocatable = false', 'superuser = true', 'trusted = false';
}

my %planted = (
	'a schema of his' => 'CREATE SCHEMA incbatch AUTHORIZATION mallory',
	'a schema that he may create in' => 'CREATE SCHEMA incbatch; GRANT CREATE ON SCHEMA incbatch TO mallory',
	'a schema that all may create in' => 'CREATE SCHEMA incbatch; GRANT CREATE ON SCHEMA incbatch TO PUBLIC');
my %objects = (
	'a function' => 'CREATE FUNCTION incbatch.tumble(date, interval) RETURNS date LANGUAGE sql IMMUTABLE RETURN $1',
	'one of the same parameters' => 'CREATE FUNCTION incbatch.drop_pipeline(name text, if_exists boolean) RETURNS boolean LANGUAGE sql RETURN true',
	'a table'    => 'CREATE TABLE incbatch.pipeline (id int)',
	'a view'     => 'CREATE VIEW incbatch.lag AS SELECT 1 AS x',
	'a type'     => 'CREATE TYPE incbatch.cost_parts AS ENUM ()',
	'a sequence' => 'CREATE SEQUENCE incbatch.path_id_seq',
	'an operator' =>
	  'CREATE OPERATOR incbatch.+ (LEFTARG = int, RIGHTARG = int, FUNCTION = pg_catalog.int4mi)');
$planted{$_} = "CREATE SCHEMA incbatch; GRANT ALL ON SCHEMA incbatch TO mallory; GRANT ALL ON SCHEMA public TO mallory;"
  . " SET ROLE mallory; $objects{$_}; RESET ROLE; REVOKE ALL ON SCHEMA incbatch FROM mallory" foreach keys %objects;

$node->safe_psql('postgres', $_) foreach 'CREATE DATABASE planted', 'GRANT CREATE ON DATABASE planted TO mallory';
foreach my $what (sort keys %planted)
{
	$node->safe_psql('planted', $planted{$what});
	my ($ret, undef, $stderr) = $node->psql('planted', 'CREATE EXTENSION incbatch');
	isnt($ret, 0, "68: $what in its way: CREATE EXTENSION fails");
	like($stderr, qr/schema "incbatch" is not the extension's own/, "68: $what: it says why");
	$node->safe_psql('planted', 'SET client_min_messages = warning; DROP SCHEMA incbatch CASCADE');
}
fails_like($node, 'planted', 'SET ROLE mallory; CREATE EXTENSION incbatch', qr/permission denied/, '68: for superusers');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_roles WHERE rolname = 'incbatch_user'}),
	0, 'a failed CREATE EXTENSION leaves no role');
$node->safe_psql('planted', 'CREATE EXTENSION incbatch');
create_extension($node, 'postgres');
$node->safe_psql('planted', 'DROP EXTENSION incbatch');
is($node->safe_psql('postgres', q{SELECT rolcanlogin, rolsuper, has_function_privilege('incbatch_user', 'incbatch.drop_pipeline(text, boolean)', 'EXECUTE') FROM pg_roles WHERE rolname = 'incbatch_user'}),
	'f|f|t', 'incbatch_user is there, for the other databases, after DROP EXTENSION');
$node->safe_psql('planted', 'CREATE EXTENSION incbatch');
$node->safe_psql('planted', 'DROP EXTENSION incbatch; DROP SCHEMA incbatch');
$node->safe_psql('postgres', 'DROP DATABASE planted');

is( $node->safe_psql(
		'postgres', q{
SELECT p.oid::regprocedure FROM pg_proc p
  JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
  JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass AND e.extname = 'incbatch'
  JOIN pg_language l ON l.oid = p.prolang
 WHERE p.prosecdef
    OR l.lanname NOT IN ('c', 'sql')
    OR l.lanname = 'sql' AND p.prosqlbody IS NULL
       AND NOT coalesce(array_to_string(p.proconfig, ',') ~ 'search_path=pg_catalog, ?pg_temp', false)}),
	'',
	'68: each function is in C, or has a body that was parsed when it was made');

# ---------------------------------------------------------------------------
# 66: the worker runs users' code

$node->safe_psql('postgres', 'GRANT incbatch_user TO mallory');
$node->safe_psql('postgres', 'CREATE DATABASE malls OWNER mallory');
create_extension($node, 'malls');
my @as_mallory = (extra_params => [ '-U', 'mallory' ]);

sub as_mallory
{
	my ($sql) = @_;
	return $node->safe_psql('malls', $sql, @as_mallory);
}

my $oracle = $query{'app.p'} = q{SELECT k, count(*) AS n, sum(v) AS s, max(v) AS m FROM app.src GROUP BY k};
as_mallory(qq{
CREATE SCHEMA app;
CREATE TABLE app.src (id int PRIMARY KEY, k int, v int);
ALTER TABLE app.src REPLICA IDENTITY FULL;
INSERT INTO app.src SELECT i, i % 3, i FROM generate_series(1, 9) i;
CREATE TABLE app.attempts (what text, role text);
-- tries what it can, and notes as whom it ran
CREATE FUNCTION app.climb(what text) RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	way text;
BEGIN
	FOREACH way IN ARRAY '{SELECT 1,RESET ROLE,SET ROLE NONE,RESET SESSION AUTHORIZATION,SET SESSION AUTHORIZATION DEFAULT,SET SESSION AUTHORIZATION $super,SET ROLE $super}'::text[] LOOP
		BEGIN
			EXECUTE way;
		EXCEPTION WHEN OTHERS THEN
			NULL;
		END;
		BEGIN
			ALTER ROLE mallory SUPERUSER;
		EXCEPTION WHEN OTHERS THEN
			NULL;
		END;
	END LOOP;
	INSERT INTO app.attempts VALUES (what, current_user);
END \$\$;
CREATE FUNCTION app.trigger() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM app.climb(TG_ARGV[0]);
	RETURN NULL;
END \$\$});
as_mallory("SELECT incbatch.create_pipeline('app.p', '$oracle', trigger_interval => '0')");
is(differences($node, 'malls', 'app.p'), '', 'a pipeline of mallory');

as_mallory(q{
CREATE TRIGGER climb AFTER INSERT OR UPDATE ON app.p_state FOR EACH ROW EXECUTE FUNCTION app.trigger('a trigger');
INSERT INTO app.src VALUES (10, 1, 10)});
is(differences($node, 'malls', 'app.p'), '', '66: a trigger on the state table: the pipeline is right');
is(as_mallory('SELECT DISTINCT what, role FROM app.attempts'), 'a trigger|mallory', '66: it ran as its owner');
is(is_superuser('mallory'), 'f', '66: and made nobody a superuser');
as_mallory('DROP TRIGGER climb ON app.p_state; TRUNCATE app.attempts');

# SET ROLE, which RESET ROLE would undo, is the same try with an error that is
# not caught.
as_mallory(q{
CREATE FUNCTION app.reset() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RESET ROLE;
	ALTER ROLE mallory SUPERUSER;
	RETURN NULL;
END $$;
CREATE TRIGGER reset AFTER INSERT OR UPDATE ON app.p_state FOR EACH ROW EXECUTE FUNCTION app.reset();
INSERT INTO app.src VALUES (11, NULL, 11)});
fails_like($node, 'malls', q{CALL incbatch.refresh_pipeline('app.p')},
	qr/is in state "failed"\n.*within security-restricted operation/, '66: RESET ROLE in a trigger');
is(is_superuser('mallory'), 'f', '66: RESET ROLE made nobody a superuser');
as_mallory(q{DROP TRIGGER reset ON app.p_state; SELECT incbatch.resume_pipeline('app.p')});
is(differences($node, 'malls', 'app.p'), '', '66: without the trigger it goes on');

as_mallory(q{
CREATE CONSTRAINT TRIGGER climb AFTER INSERT OR UPDATE ON app.p_state DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION app.trigger('at commit');
DELETE FROM app.src WHERE id = 1});
fails_like($node, 'malls', q{CALL incbatch.refresh_pipeline('app.p')},
	qr/is in state "failed"\n.*cannot fire deferred trigger within security-restricted operation/, '66: a trigger at commit');
is(is_superuser('mallory') . as_mallory('SELECT count(*) FROM app.attempts'), 'f0', '66: it is not fired');
as_mallory(q{DROP TRIGGER climb ON app.p_state; SELECT incbatch.resume_pipeline('app.p')});
is(differences($node, 'malls', 'app.p'), '', '66: without it, it goes on');

# ---------------------------------------------------------------------------
# 74: as many groups as rows, and as many paths as there may be

sub memory_kb
{
	my $status = slurp_file('/proc/' . worker_pid($node, 'malls') . '/status');
	my ($peak)   = $status =~ /^VmHWM:\s+(\d+) kB/m;
	my ($shared) = $status =~ /^RssShmem:\s+(\d+) kB/m;
	return $peak - $shared;
}
my $before = memory_kb();
as_mallory('INSERT INTO app.src SELECT i, i, 1 FROM generate_series(1000, 50000) i');
is(differences($node, 'malls', 'app.p'), '', '74: 49,001 groups in one batch');
my $after = memory_kb();
SKIP: {
	skip 'sanitizers keep what is freed', 1 if $ENV{SANITIZED};
	cmp_ok($after - $before, '<', 128 * 1024, "74: the worker's memory is bounded: $before kB, then $after kB");
}
as_mallory('DELETE FROM app.src WHERE id >= 1000; UPDATE app.src SET v = v + 1');
is(differences($node, 'malls', 'app.p'), '', '74: and as many gone in one');
my $paths = 1;
my $refused;
while ($paths < 20 && !defined $refused)
{
	my ($ret, undef, $stderr) = $node->psql('malls',
		"SELECT incbatch.create_pipeline('app.many_$paths', 'SELECT count(*) FROM app.src')", @as_mallory);
	if ($ret != 0) { $refused = $stderr; next }
	# only a path that the worker knows takes room
	wait_for_state($node, 'malls', "app.many_$paths", 'running');
	$paths++;
}
is($paths, 12, '74: no more than incbatch.max_paths');
like($refused, qr/ERROR:.*\n.*HINT:.*incbatch\.max_paths/s, '74: and it says so');
as_mallory(q{SELECT count(incbatch.drop_pipeline(pipeline)) FROM incbatch.pipelines WHERE pipeline LIKE '%many%'});
is(differences($node, 'malls', 'app.p'), '', '74: the others go on');

# ---------------------------------------------------------------------------
# 66 and 67: everything that the extension could mean by a name, first in the
# search_path of the database

my $sources = $script . join '', map { slurp_file($_) } glob "$top/src/*.c";
my %words   = map { $_ => 1 } $sources =~ /\b([a-z_][a-z0-9_]*)\b/g;
my $words   = join ',', sort keys %words;

$node->safe_psql('malls', qq{
SET search_path = pg_catalog;
CREATE SCHEMA decoys;
GRANT USAGE ON SCHEMA decoys, public TO PUBLIC;
CREATE FUNCTION decoys.called(what text) RETURNS boolean LANGUAGE plpgsql AS \$f\$
BEGIN
	RAISE LOG 'decoy called: %', what;
	BEGIN
		ALTER ROLE mallory SUPERUSER;
	EXCEPTION WHEN OTHERS THEN
		NULL;
	END;
	RETURN true;
END \$f\$;
CREATE FUNCTION decoys.make(ddl text) RETURNS int LANGUAGE plpgsql AS \$f\$
BEGIN
	EXECUTE ddl;
	RETURN 1;
EXCEPTION WHEN OTHERS THEN
	RETURN 0;	-- what no user can make is no decoy
END \$f\$;
CREATE TABLE decoys.word AS SELECT unnest('{$words}'::text[]) AS word;
});
my $made = $node->safe_psql('malls', q{
SET search_path = pg_catalog;
WITH body AS (
	SELECT s.schema, $b$ LANGUAGE plpgsql AS $f$ BEGIN PERFORM decoys.called(%L); RETURN%s; END $f$ $b$ AS text
	FROM (VALUES ('decoys'), ('public')) s(schema)
), f AS (
	SELECT DISTINCT ON (b.schema, p.proname, p.proargtypes::text) decoys.make(format('CREATE FUNCTION %I.%I(%s) RETURNS %s%s' || b.text, b.schema, p.proname,
		(SELECT string_agg(format_type(t, NULL), ', ' ORDER BY n) FROM unnest(p.proargtypes) WITH ORDINALITY a(t, n)),
		CASE WHEN p.proretset THEN 'SETOF ' END, format_type(p.prorettype, NULL),
		p.oid::regprocedure, CASE WHEN p.proretset OR p.prorettype = 'void'::regtype THEN '' ELSE ' NULL' END)) AS made
	FROM pg_proc p CROSS JOIN body b
	WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname::text IN (SELECT word FROM decoys.word)
	  AND p.prokind <> 'p'
), v AS (
	-- "any" cannot be had, but what is better than it
	SELECT decoys.make(format('CREATE FUNCTION %I.%I(%s) RETURNS %s' || b.text, b.schema, p.proname,
		CASE WHEN p.proname IN ('format', 'concat_ws') THEN 'text' || repeat(', anycompatible', n - 1) ELSE rtrim(repeat('anycompatible, ', n), ', ') END,
		format_type(p.prorettype, NULL), p.proname || ' of ' || n, ' NULL')) AS made
	FROM pg_proc p CROSS JOIN body b CROSS JOIN generate_series(1, 8) n
	WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proargtypes::oid[] @> ARRAY['"any"'::regtype::oid]
	  AND p.proname::text IN (SELECT word FROM decoys.word)
), o AS (
	SELECT decoys.make(format('CREATE FUNCTION %I.%I(%s) RETURNS %s' || b.text, b.schema, 'op_' || o.oid,
		concat_ws(', ', CASE WHEN o.oprleft <> 0 THEN format_type(o.oprleft, NULL) END, format_type(o.oprright, NULL)),
		format_type(o.oprresult, NULL), o.oid::regoperator, ' NULL'))
	     * decoys.make(format('CREATE OPERATOR %I.%s (%s RIGHTARG = %s, FUNCTION = %I.%I)', b.schema, o.oprname,
		CASE WHEN o.oprleft <> 0 THEN format('LEFTARG = %s,', format_type(o.oprleft, NULL)) END,
		format_type(o.oprright, NULL), b.schema, 'op_' || o.oid)) AS made
	FROM pg_operator o CROSS JOIN body b WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprkind = 'b'
), t AS (
	SELECT decoys.make(format('CREATE DOMAIN %I.%I AS pg_catalog.%2$I CHECK (decoys.called(%L))', b.schema, t.typname, 'type ' || t.typname)) AS made
	FROM pg_type t CROSS JOIN body b
	WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype = 'b' AND t.typname::text IN (SELECT word FROM decoys.word)
), r AS (
	SELECT decoys.make(format('CREATE VIEW %1$I.%2$I AS SELECT * FROM %3$I.%2$I WHERE decoys.called(%4$L)', b.schema, c.relname, n.nspname, 'table ' || c.relname)) AS made
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace CROSS JOIN body b
	WHERE n.nspname IN ('pg_catalog', 'incbatch') AND c.relkind IN ('r', 'v') AND c.relname::text IN (SELECT word FROM decoys.word)
)
SELECT (SELECT sum(made) FROM f), (SELECT sum(made) FROM v), (SELECT sum(made) FROM o), (SELECT sum(made) FROM t), (SELECT sum(made) FROM r)});
note("decoys: functions, variadic functions, operators, types, tables: $made");
my @made = split /\|/, $made;
cmp_ok($made[$_], '>', (200, 20, 500, 20, 20)[$_], '67: decoys are made') foreach 0 .. 4;
$node->safe_psql('malls', 'SET search_path = pg_catalog; GRANT SELECT ON ALL TABLES IN SCHEMA decoys, public TO PUBLIC');

# the worker and all sessions from here on
as_mallory('ALTER DATABASE malls SET search_path = decoys, public, pg_catalog');
my $pid = worker_pid($node, 'malls');
kill 'TERM', $pid;
$node->poll_query_until('postgres',
	"SELECT count(*) = 1 AND bool_and(pid <> $pid) FROM pg_stat_activity WHERE backend_type = 'incbatch worker' AND datname = 'malls'")
  or die 'no worker came back';

sub decoys_called
{
	my ($from) = @_;
	my $log = substr slurp_file($node->logfile), $from;
	my %seen;
	$seen{$1}++ while $log =~ /decoy called: (.*)/g;
	return join ', ', map { "$_ ($seen{$_})" } sort keys %seen;
}

my $from = -s $node->logfile;
$node->safe_psql('malls', q{SELECT 1 + 1; SELECT lower('A'); SELECT 'x'::text; TABLE pg_class});
my $control = decoys_called($from);
like($control, qr/$_/, "67: a decoy is called when it is named: $_") foreach qr/\Q+(integer,integer)\E/, 'lower', 'type text', 'table pg_class';

$node->safe_psql('postgres', 'ALTER ROLE mallory NOSUPERUSER');	# which they have made of him

# Of names of its own the session writes none that a decoy has.
my $temp = q{
SELECT decoys.make(pg_catalog.format('CREATE TEMP VIEW %1$I AS SELECT * FROM %2$I.%1$I WHERE decoys.called(%3$L)', c.relname, n.nspname, 'temporary table ' OPERATOR(pg_catalog.||) c.relname))
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE n.nspname OPERATOR(pg_catalog.=) 'incbatch' AND c.relkind OPERATOR(pg_catalog.=) 'r';
};
my $exercise = q{
CREATE TABLE app.src2 (id pg_catalog.int4, k pg_catalog.int4, v pg_catalog.int4, at pg_catalog.timestamp, note pg_catalog.text);
ALTER TABLE app.src2 REPLICA IDENTITY FULL;
INSERT INTO app.src2 VALUES (1, 1, 1, '2024-01-01', 'a'), (2, 2, 2, '2024-01-03', 'b'), (3, NULL, NULL, NULL, NULL);
SELECT incbatch.create_pipeline('app.q', $$SELECT pg_catalog.date_trunc('day', s.at) AS day, s.k, pg_catalog.count(*) AS n, pg_catalog.sum(s.v) AS sum, pg_catalog.avg(s.v) AS avg,
  pg_catalog.min(s.v) AS low, pg_catalog.max(s.v) AS high, pg_catalog.stddev(s.v) AS dev, pg_catalog.string_agg(s.note, ',' ORDER BY s.id) AS notes,
  pg_catalog.count(DISTINCT s.v) AS different FROM app.src2 s GROUP BY 1, 2$$, lateness => '1 hour', trigger_interval => '0');
SELECT incbatch.create_pipeline('app.r', $$SELECT t.k, l.v, pg_catalog.count(*) AS n, pg_catalog.max(t.v) AS m FROM app.src t JOIN app.src2 l ON l.k OPERATOR(pg_catalog.=) t.k GROUP BY 1, 2$$, track_lookups => true);
CALL incbatch.refresh_pipeline('app.q');
CALL incbatch.refresh_pipeline('app.r');
SELECT incbatch.create_consumer('fast', 'app.q', freshness => '2 seconds');
SELECT incbatch.create_consumer('books', 'app.q', tier => 4, emit => 'final');
SELECT incbatch.set_tier('fast', 'app.q', 2);
SELECT incbatch.set_freshness('fast', 'app.q', '1 minute');
INSERT INTO app.src2 VALUES (4, 1, 5, '2024-01-05', 'c'), (5, 1, 5, '2024-01-01', 'late');
UPDATE app.src2 SET k = 2, v = 4 WHERE id OPERATOR(pg_catalog.=) 1;
DELETE FROM app.src2 WHERE id OPERATOR(pg_catalog.=) 2;
INSERT INTO app.src VALUES (20, 1, 20), (21, 7, 1);
UPDATE app.src SET v = 0 WHERE id OPERATOR(pg_catalog.=) 20;
CALL incbatch.refresh_pipeline('app.p');
CALL incbatch.refresh_pipeline('app.q');
CALL incbatch.refresh_pipeline('app.r');
SELECT incbatch.wait_for('app.p');
SELECT incbatch.watermark('app.q');
SELECT * FROM incbatch.verify_pipeline('app.p');
SELECT * FROM incbatch.verify_pipeline('app.q');
SELECT * FROM incbatch.verify_pipeline('app.r');
SELECT * FROM incbatch.explain_pipeline('app.q');
SELECT * FROM incbatch.explain_pipeline('app.r');
SELECT incbatch.report('app.q');
SELECT * FROM incbatch.cost('app.q', 1);
SELECT * FROM incbatch.advise('app.q', 1);
SELECT * FROM incbatch.diagnose('app.q');
TABLE app.q; TABLE app.q_fast; TABLE app.q_books;
TABLE incbatch.pipelines; TABLE incbatch.paths; TABLE incbatch.consumers; TABLE incbatch.lag; TABLE incbatch.batches;
TABLE incbatch.workers; TABLE incbatch.progress; TABLE incbatch.late_rows; TABLE incbatch.tiers;
SELECT incbatch.tumble('2024-01-01 10:20'::pg_catalog.timestamp, '1 hour');
SELECT * FROM incbatch.hop('2024-01-01 10:20'::pg_catalog.timestamptz, '1 hour', '30 minutes');
SELECT incbatch.alter_pipeline('app.q', '1 second', '2 hours', 'apply', '1 year');
SELECT incbatch.pause_pipeline('app.q');
SELECT incbatch.resume_pipeline('app.q');
SELECT incbatch.rebuild_pipeline('app.q');
CALL incbatch.refresh_pipeline('app.q');
TRUNCATE app.src2;
CALL incbatch.refresh_pipeline('app.q');
CALL incbatch.refresh_pipeline('app.r');
ALTER TABLE app.src SET UNLOGGED;
ALTER TABLE app.src SET LOGGED;
SELECT incbatch.rebuild_pipeline('app.p');
CALL incbatch.refresh_pipeline('app.p');
SELECT incbatch.drop_consumer('books', 'app.q');
DROP VIEW app.q_fast;
SELECT incbatch.drop_pipeline('app.r');
DROP VIEW app.q;
DROP TABLE app.src2;
DELETE FROM app.src WHERE id OPERATOR(pg_catalog.>=) 20;
};
foreach my $path ('decoys, public, pg_catalog', 'public, decoys, pg_catalog', 'pg_temp, public, pg_catalog')
{
	$from = -s $node->logfile;
	my ($ret, undef, $stderr) =
	  $node->psql('malls', "SET search_path = pg_catalog; $temp SET search_path = $path; $exercise", @as_mallory, on_error_stop => 1);
	is($ret, 0, "67: all functions and views, under $path") or diag $stderr;
	is(decoys_called($from), '', "67: under $path no decoy is called");
	$node->safe_psql('malls', 'SET search_path = pg_catalog; SET client_min_messages = warning; DROP TABLE IF EXISTS app.src2 CASCADE') if $ret != 0;
}
is(is_superuser('mallory'), 'f', '66: operators in the search_path of the database made nobody a superuser');
is( $node->safe_psql('malls',
		"SET search_path = pg_catalog; CALL incbatch.refresh_pipeline('app.p'); TABLE app.p EXCEPT ALL ($oracle) ORDER BY 1"),
	'', '66: and the pipeline is right');
# as a superuser, for whom it would be worth it
$from = -s $node->logfile;
my ($ret, undef, $stderr) = $node->psql('malls', $exercise, on_error_stop => 1);
is($ret, 0, '67: all functions and views, for a superuser') or diag $stderr;
is(decoys_called($from), '',  '67: a superuser calls no decoy');
is(is_superuser('mallory'), 'f', '67: mallory is no superuser');

# ---------------------------------------------------------------------------
# 77: the slot and the plugin in others' hands

$node->safe_psql('postgres', 'CREATE ROLE replicator LOGIN REPLICATION');
$node->append_conf('pg_hba.conf', 'local all replicator trust');
$node->reload;
# newer minor releases ask for a list of the plugins that may be used at all
if ($node->safe_psql('postgres', q{SELECT count(*) FROM pg_settings WHERE name = 'output_plugin_libraries'}))
{
	$node->safe_psql('postgres', q{ALTER SYSTEM SET output_plugin_libraries = 'incbatch'});
	$node->reload;
}
my @as_replicator = (extra_params => [ '-U', 'replicator' ]);
my $slot = slot_name($node, 'malls');
my $read = q{SET search_path = pg_catalog; SET statement_timeout = '20s'; SELECT data FROM %s('%s', NULL, NULL)};
$node->safe_psql('malls', q{SET search_path = pg_catalog; INSERT INTO app.src VALUES (30, 1, 777777)});
foreach my $function (qw(pg_logical_slot_peek_changes pg_logical_slot_get_changes pg_logical_slot_peek_binary_changes pg_logical_slot_get_binary_changes))
{
	my ($ret, $stdout, $stderr) = $node->psql('malls', sprintf($read, $function, $slot), @as_replicator);
	isnt($ret, 0, "77: $function of the worker's slot fails");
	like($stderr, qr/is active for PID/, "77: $function says why");
	is($stdout, '', "77: $function returns nothing");
}
# when the worker is not there to hold it, and one made by hand
foreach my $role ('replicator', $super)
{
	my @as = (extra_params => [ '-U', $role ]);
	my $own = "own_$role";

	($ret, undef, $stderr) = $node->psql('malls',
		"SET search_path = pg_catalog; SELECT pg_create_logical_replication_slot('$own', 'incbatch')", @as);
	note("slot of $role: $ret $stderr");
	$node->safe_psql('malls', q{SET search_path = pg_catalog; INSERT INTO app.src SELECT 1000 + max(id), 1, 777777 FROM app.src});
	foreach my $function (qw(pg_logical_slot_peek_changes pg_logical_slot_peek_binary_changes))
	{
		my ($ret, $stdout, $stderr) = $node->psql('malls', sprintf($read, $function, $own), @as);
		isnt($ret, 0, "77: $function of a slot of $role with the plugin fails");
		like($stderr, qr/serves the incbatch worker only|does not exist/, "77: $function says why to $role");
		is($stdout, '', "77: $function returns nothing to $role");
	}
	my $port = $node->port;
	my $host = $node->host;
	my ($out, $err) = ('', '');
	$ret = IPC::Run::run(
		[ 'pg_recvlogical', '-d', "dbname=malls host=$host port=$port user=$role", '-S', $own, '--start', '-n', '-f', '-', '-o', 'x=1', '-E', '0/FFFFFFF' ],
		'>', \$out, '2>', \$err, IPC::Run::timeout(60));
	ok(!$ret, "77: START_REPLICATION of $role fails");
	like($err, qr/serves the incbatch worker only|does not exist/, "77: START_REPLICATION says why to $role");
	unlike($out, qr/777777/, "77: START_REPLICATION shows $role nothing");
	$node->psql('malls', "SET search_path = pg_catalog; SELECT pg_drop_replication_slot('$own')");
}
is( $node->safe_psql('malls',
		"SET search_path = pg_catalog; CALL incbatch.refresh_pipeline('app.p'); TABLE app.p EXCEPT ALL ($oracle) ORDER BY 1"),
	'', '77: the pipeline goes on');

$node->stop;
done_testing();
