# shellcheck shell=bash disable=SC2034  # what is unused here is used there
#
# What the benchmarks share: a throw-away server, and the tables and functions
# that hold the measurements.  Sourced, never run.
#
# The server is in a temporary directory, on a Unix socket.  The extension must
# be built and installed; that build is what is measured, so let it be the
# ordinary one, without assertions.  CPU is user + system time from
# /proc/PID/stat, which is what a core hour buys; its clock tick is 10 ms, so
# small loads are coarse.

. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

# at_exit STATUS: the server goes with its directory, so its log is shown now.
at_exit() {
	if (($1)) && [[ -z $keep_log && -s $log ]]; then
		printf '%s: failed; the end of the log of the server:\n' "${0##*/}"
		tail -n 20 "$log"
	fi
	keep_log=''
	[[ ! -f $work/data/postmaster.pid ]] ||
		as_runner "$pgbin/pg_ctl" -D "$work/data" -m immediate -w stop >/dev/null
}

start_server() {
	[[ -f $("$pgbin/pg_config" --pkglibdir)/incbatch.so ]] ||
		die 'incbatch is not installed: run make and make install first'
	open_work
	export PGHOST=$work PGPORT=5432 PGUSER=postgres PGCLIENTENCODING=UTF8
	log=$work/server.log

	as_runner "$pgbin/initdb" -D "$work/data" -U postgres -A trust -E UTF8 --no-locale --no-sync >/dev/null
	cat "$root/test/server.conf" - >>"$work/data/postgresql.conf" <<-CONF
		listen_addresses = ''
		unix_socket_directories = '$work'
		timezone = 'UTC'
		shared_buffers = '1GB'
		max_wal_size = '8GB'
		checkpoint_timeout = '1h'
		work_mem = '256MB'
		fsync = on
		synchronous_commit = on
		autovacuum = off
		jit = off
		max_parallel_workers_per_gather = 0
		client_min_messages = warning
		logical_decoding_work_mem = '64MB'
		incbatch.max_retained_wal = '64GB'
	CONF
	as_runner "$pgbin/pg_ctl" -D "$work/data" -l "$log" -w start >/dev/null ||
		die 'the server does not start'
	as_runner "$pgbin/createdb" bench
	create_measurements
}

# sql [ARGUMENT…]: psql on the bench database; a failing statement fails it.
sql() {
	as_runner "$pgbin/psql" -XqAt -v ON_ERROR_STOP=1 -d bench "$@"
}

# table: the same of what comes in, for a result that people read.
table() {
	sql -P format=aligned -P tuples_only=off -P footer=off -P border=2 -P linestyle=unicode
}

# check MESSAGE QUERY: die with the message unless the query yields true.
check() {
	[[ $(sql -c "$2") == t ]] || die "$1"
}

# Schema bench: CPU of processes, and figures over several runs.
create_measurements() {
	sql -o /dev/null -v ticks="$(getconf CLK_TCK)" <<'SQL'
CREATE EXTENSION incbatch;
CREATE SCHEMA bench;

-- CPU seconds of a process; NULL when there is none
CREATE FUNCTION bench.cpu(pid int) RETURNS float8 LANGUAGE sql VOLATILE
RETURN (SELECT (f[12]::bigint + f[13]::bigint)::float8 / :ticks
        FROM string_to_array(regexp_replace(
               pg_read_file('/proc/' || pid || '/stat', 0, 4096, true),
               '^.*\) ', ''), ' ') f);

CREATE TABLE bench.sample (load text, run int, moment text, pid int, cpu float8);

-- notes the CPU of this database's worker
CREATE FUNCTION bench.sample(load text, run int, moment text) RETURNS void
LANGUAGE sql VOLATILE BEGIN ATOMIC
  INSERT INTO bench.sample
  SELECT load, run, moment, a.pid, bench.cpu(a.pid) FROM pg_stat_activity a
  WHERE a.backend_type = 'incbatch worker' AND a.datname = current_database();
END;

-- the worker's CPU seconds between two moments of a run
CREATE FUNCTION bench.worker_cpu(load text, run int, since text, until text)
RETURNS float8 LANGUAGE sql STABLE
RETURN (SELECT sum(u.cpu - coalesce(s.cpu, 0)) FROM bench.sample u
        LEFT JOIN bench.sample s
          ON (s.load, s.run, s.moment, s.pid) = (u.load, u.run, since, u.pid)
        WHERE (u.load, u.run, u.moment) =
              (worker_cpu.load, worker_cpu.run, until));

-- the same SQL as a batch
CREATE TABLE bench.batch (load text, run int, seconds float8, cpu float8);

CREATE FUNCTION bench.median(v float8[]) RETURNS float8 LANGUAGE sql IMMUTABLE
RETURN (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY x) FROM unnest(v) x);

-- median (min–max), as text and as JSON
CREATE FUNCTION bench.spread(v float8[], picture text) RETURNS text
LANGUAGE sql STABLE
RETURN (SELECT to_char(bench.median(v), picture) || ' (' ||
               to_char(min(x), picture) || '–' || to_char(max(x), picture) || ')'
        FROM unnest(v) x);
CREATE FUNCTION bench.summary(v float8[]) RETURNS jsonb LANGUAGE sql STABLE
RETURN (SELECT jsonb_build_object('median', bench.median(v), 'min', min(x), 'max', max(x))
        FROM unnest(v) x);
SQL
}

# batch LOAD RUN QUERY: the same SQL as a batch, once, into batch_result.
batch() {
	sql -o /dev/null -v load="$1" -v run="$2" -v query="$3" <<'SQL'
DROP TABLE IF EXISTS batch_result;
SELECT bench.cpu(pg_backend_pid()) AS cpu, clock_timestamp() AS started_at \gset
CREATE TABLE batch_result AS :query;
INSERT INTO bench.batch
SELECT :'load', :run, extract(epoch FROM clock_timestamp() - :'started_at'),
       bench.cpu(pg_backend_pid()) - :cpu;
SQL
}

# is_exact PIPELINE: die unless it equals its query, and the last batch().
is_exact() {
	check 'the aggregate is WRONG: verify_pipeline finds differences' \
		"SELECT count(*) = 0 FROM incbatch.verify_pipeline('$1')"
	check 'the aggregate is WRONG: it differs from the result of the batch' \
		"SELECT count(*) = 0 FROM
		 ((TABLE $1 EXCEPT ALL TABLE batch_result) UNION ALL
		  (TABLE batch_result EXCEPT ALL TABLE $1)) d"
}

# How the writers commit; a benchmark may say otherwise.
synchronous_commit_of_the_load=off

# conditions LOAD_AVERAGE: what was measured on, as JSON.
conditions() {
	sql -v synchronous_commit="$synchronous_commit_of_the_load" -v cpu="$(sed -n 's/^model name[^:]*: //p;T;q' /proc/cpuinfo)" -v cores="$(nproc)" \
		-v load_average="$1" <<'SQL'
SELECT jsonb_build_object(
         'postgresql', current_setting('server_version'),
         'incbatch', (SELECT extversion FROM pg_extension WHERE extname = 'incbatch'),
         'cpu', :'cpu', 'cores', :cores, 'load_average_before', :load_average,
         'synchronous_commit_of_the_load', :'synchronous_commit',
         'settings', (SELECT jsonb_object_agg(name, current_setting(name)) FROM pg_settings
                      WHERE name LIKE 'incbatch.%' OR name = 'logical_decoding_work_mem'
                         OR source = 'configuration file' AND name !~ '^(lc_|log_|client_|unix_|listen_)'))
SQL
}

# print_conditions CONDITIONS TITLE
print_conditions() {
	sql -v c="$1" -v title="$2" -v runs="$runs" <<'SQL'
SELECT format(E'%s\nMedian of %s runs (smallest–largest).\nPostgreSQL %s, incbatch %s, %s, %s cores, load average %s before.',
              :'title', :runs, c->>'postgresql', c->>'incbatch', c->>'cpu', c->>'cores',
              c->>'load_average_before')
FROM (SELECT :'c'::jsonb) AS v(c);
SELECT E'\n' || string_agg(name || ' = ' || value, ', ' ORDER BY name)
       || ', synchronous_commit of the load = ' || (:'c'::jsonb->>'synchronous_commit_of_the_load')
FROM jsonb_each_text(:'c'::jsonb->'settings') AS s(name, value);
SQL
}
