/* incbatch 1.0 */

\echo Use "CREATE EXTENSION incbatch" to load this file. \quit

-- ---------------------------------------------------------------------
-- Whoever owned the schema, or had put something into it, could change what
-- is made in it here.  A schema that is left from before is empty.
-- ---------------------------------------------------------------------
DO $$
DECLARE
    stranger text;
BEGIN
    SELECT pg_catalog.format('It belongs to role %I.', r.rolname) INTO stranger
    FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) n.nspowner
    WHERE n.nspname OPERATOR(pg_catalog.=) 'incbatch' AND NOT r.rolsuper;
    IF stranger IS NULL THEN
        SELECT pg_catalog.format('Role %s may create objects in it.', coalesce(r.rolname, 'PUBLIC')) INTO stranger
        FROM pg_catalog.pg_namespace n
        CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) a
        LEFT JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) a.grantee
        WHERE n.nspname OPERATOR(pg_catalog.=) 'incbatch' AND a.privilege_type OPERATOR(pg_catalog.=) 'CREATE'
          AND r.rolsuper IS NOT TRUE;
    END IF;
    IF stranger IS NULL THEN
        SELECT pg_catalog.format('It holds %s.', pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid)) INTO stranger
        FROM pg_catalog.pg_depend d
        WHERE d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass
          AND d.refobjid OPERATOR(pg_catalog.=) 'incbatch'::pg_catalog.regnamespace
          AND d.classid OPERATOR(pg_catalog.<>) 'pg_catalog.pg_extension'::pg_catalog.regclass;
    END IF;
    IF stranger IS NOT NULL THEN
        RAISE EXCEPTION 'schema "incbatch" is not the extension''s own'
        USING ERRCODE = 'duplicate_schema', DETAIL = stranger,
              HINT = 'Drop the schema, or rename it; CREATE EXTENSION makes it.';
    END IF;
END $$;

-- ---------------------------------------------------------------------
-- Who may have pipelines: one role for all databases of the cluster, so it
-- may be there already, and it stays at DROP EXTENSION.
-- ---------------------------------------------------------------------
DO $$
BEGIN
    IF pg_catalog.to_regrole('incbatch_user') IS NULL THEN
        CREATE ROLE incbatch_user NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;  -- in another database somebody was faster
END $$;

-- ---------------------------------------------------------------------
-- Tables
-- ---------------------------------------------------------------------

CREATE TABLE incbatch.pipeline (
    id               int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation         regclass NOT NULL UNIQUE,
    definition       regclass NOT NULL UNIQUE,
    source           regclass NOT NULL,
    query            text NOT NULL,
    settings         text[] NOT NULL,
    event_time       smallint,
    event_time_name  name,
    lateness         interval,
    late_policy      text NOT NULL DEFAULT 'divert',
    retention        interval,
    trigger_interval interval NOT NULL,
    append_only      boolean NOT NULL,
    track_lookups    boolean NOT NULL,
    initialize       boolean NOT NULL,
    strategy         text NOT NULL,
    paused           boolean NOT NULL DEFAULT false,
    paused_at        timestamptz,
    on_error         text NOT NULL DEFAULT 'stop' CHECK (on_error IN ('stop', 'divert')),
    on_lost          text NOT NULL DEFAULT 'stop' CHECK (on_lost IN ('stop', 'rebuild')),
    created_at       timestamptz NOT NULL DEFAULT pg_catalog.now()
);

-- Those that pg_dump takes along have no foreign keys among them, for
-- pg_restore -j fills tables in any order.
CREATE TABLE incbatch.path (
    id               int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline         int NOT NULL,
    relation         regclass NOT NULL UNIQUE,
    trigger_interval interval NOT NULL,
    state            text NOT NULL DEFAULT 'initializing'
        CHECK (state IN ('initializing', 'backfilling', 'running', 'failed', 'needs_rebuild')),
    state_since      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    last_error       text,
    rebuilt_at       timestamptz,
    rebuild_delay    interval NOT NULL DEFAULT '0'
);

CREATE TABLE incbatch.tiers (
    tier             int PRIMARY KEY,
    name             text NOT NULL UNIQUE,
    freshness        interval NOT NULL,
    trigger_interval interval NOT NULL
);
INSERT INTO incbatch.tiers VALUES
    (1, 'streaming',   '5 seconds',  '1 second'),
    (2, 'micro-batch', '15 minutes', '1 minute'),
    (3, 'hourly',      '2 hours',    '1 hour'),
    (4, 'daily',       '1 day',      '6 hours');

CREATE TABLE incbatch.consumer (
    id               int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer         text NOT NULL,
    pipeline         int NOT NULL,
    path             int NOT NULL,
    relation         regclass NOT NULL UNIQUE,
    tier             int,
    freshness        interval NOT NULL,
    trigger_interval interval NOT NULL,
    emit             text NOT NULL DEFAULT 'update' CHECK (emit IN ('update', 'final')),
    closed_before    text[],
    UNIQUE (pipeline, consumer)
);
CREATE INDEX ON incbatch.consumer (path);

CREATE TABLE incbatch.frontier (
    path        int PRIMARY KEY REFERENCES incbatch.path ON DELETE CASCADE,
    lsn         pg_lsn NOT NULL,
    decoded_lsn pg_lsn NOT NULL,
    snapshot    pg_snapshot NOT NULL,
    aligned     boolean NOT NULL,
    as_of       timestamptz NOT NULL,
    partitions  bigint[],
    meaning     bigint NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE incbatch.path_watermark (
    path       int PRIMARY KEY REFERENCES incbatch.path ON DELETE CASCADE,
    largest    timestamp NOT NULL,
    closed     timestamp NOT NULL,
    removed    timestamp NOT NULL,
    watermark  timestamptz NOT NULL,
    rows_late  bigint NOT NULL,
    rows_ahead bigint NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE incbatch.late_window (
    path         int NOT NULL REFERENCES incbatch.path ON DELETE CASCADE,
    window_start timestamp,
    UNIQUE NULLS NOT DISTINCT (path, window_start)
);

CREATE TABLE incbatch.late_row (
    number      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    path        int NOT NULL REFERENCES incbatch.path ON DELETE CASCADE,
    event_time  timestamptz,
    watermark   timestamptz NOT NULL,
    change      text NOT NULL,
    row         jsonb NOT NULL,
    commit_lsn  pg_lsn NOT NULL,
    commit_time timestamptz NOT NULL
);
CREATE INDEX ON incbatch.late_row (path);

CREATE TABLE incbatch.failed_row (
    number      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    path        int NOT NULL REFERENCES incbatch.path ON DELETE CASCADE,
    change      text NOT NULL,
    row         jsonb NOT NULL,
    image       text NOT NULL,
    error       text NOT NULL,
    sqlstate    text NOT NULL,
    commit_lsn  pg_lsn,
    commit_time timestamptz,
    left_out    boolean NOT NULL
);
CREATE INDEX ON incbatch.failed_row (path, left_out);

CREATE TABLE incbatch.batch (
    batch          bigint GENERATED ALWAYS AS IDENTITY,
    path           int NOT NULL,
    started_at     timestamptz NOT NULL,
    finished_at    timestamptz NOT NULL,
    reason         text NOT NULL,
    transactions   bigint NOT NULL,
    rows_in        bigint NOT NULL,
    groups_changed bigint NOT NULL,
    read_ms        double precision NOT NULL,
    transform_ms   double precision NOT NULL,
    merge_ms       double precision NOT NULL,
    commit_ms      double precision NOT NULL,
    cpu_ms         double precision NOT NULL,
    wal_bytes      bigint NOT NULL,
    latency_max    interval NOT NULL,
    strategy       text NOT NULL,
    rows_late      bigint NOT NULL,
    rows_ahead     bigint NOT NULL,
    error          text,
    runs           bigint NOT NULL DEFAULT 1,
    groups_new     bigint NOT NULL DEFAULT 0,
    ahead_ms       double precision NOT NULL DEFAULT 0,
    read_cpu_ms    double precision NOT NULL DEFAULT 0,
    PRIMARY KEY (path, batch)
);

CREATE TABLE incbatch.slot (
    slot_name         name PRIMARY KEY,
    database          oid NOT NULL,
    system_identifier bigint NOT NULL,
    created_lsn       pg_lsn NOT NULL
);

COMMENT ON TABLE incbatch.pipeline IS 'Definitions of pipelines; change them by the functions only.';
COMMENT ON COLUMN incbatch.pipeline.id IS 'Number of the pipeline.';
COMMENT ON COLUMN incbatch.pipeline.relation IS 'The view that dashboards query.';
COMMENT ON COLUMN incbatch.pipeline.definition IS 'The view that is the batch query; its dependencies keep what the query needs.';
COMMENT ON COLUMN incbatch.pipeline.source IS 'The table whose changes drive the pipeline.';
COMMENT ON COLUMN incbatch.pipeline.query IS 'The query as it was given.';
COMMENT ON COLUMN incbatch.pipeline.settings IS 'Settings that the query''s meaning depends on, as they were at creation: name and value alternating.';
COMMENT ON COLUMN incbatch.pipeline.event_time IS 'Number of the source''s column with the event time, or NULL.';
COMMENT ON COLUMN incbatch.pipeline.event_time_name IS 'Its name, by which it is found after a restore.';
COMMENT ON COLUMN incbatch.pipeline.lateness IS 'The watermark is the largest event time seen minus this; NULL: windows never close.';
COMMENT ON COLUMN incbatch.pipeline.late_policy IS 'What happens to a change to a closed window: divert, drop or apply.';
COMMENT ON COLUMN incbatch.pipeline.retention IS 'Windows that ended this long before the watermark are removed; NULL: none.';
COMMENT ON COLUMN incbatch.pipeline.trigger_interval IS 'Cadence of the pipeline while it has no consumers.';
COMMENT ON COLUMN incbatch.pipeline.append_only IS 'The source only ever gets INSERTs; its deletes are ignored.';
COMMENT ON COLUMN incbatch.pipeline.track_lookups IS 'Changes of the joined tables are folded in too.';
COMMENT ON COLUMN incbatch.pipeline.initialize IS 'Whether the backfill reads the source''s present rows.';
COMMENT ON COLUMN incbatch.pipeline.strategy IS 'delta, delta with recompute of some touched groups, or recompute of all.';
COMMENT ON COLUMN incbatch.pipeline.paused IS 'Whether pause_pipeline was called.';
COMMENT ON COLUMN incbatch.pipeline.paused_at IS 'When it was called; NULL: the pipeline is not paused.';
COMMENT ON COLUMN incbatch.pipeline.on_error IS 'What rows do that make the query fail: stop the pipeline, or divert: they are kept in incbatch.failed_row and left out.';
COMMENT ON COLUMN incbatch.pipeline.on_lost IS 'What happens when the place in the WAL is lost: stop (needs_rebuild), or rebuild: the worker rebuilds by itself.';
COMMENT ON COLUMN incbatch.pipeline.created_at IS 'When the pipeline was created.';

COMMENT ON TABLE incbatch.path IS 'Paths: one pipeline at one cadence, with its state table.';
COMMENT ON COLUMN incbatch.path.id IS 'Number of the path.';
COMMENT ON COLUMN incbatch.path.pipeline IS 'The pipeline it belongs to.';
COMMENT ON COLUMN incbatch.path.relation IS 'The state table.';
COMMENT ON COLUMN incbatch.path.trigger_interval IS 'How often the path runs.';
COMMENT ON COLUMN incbatch.path.state IS 'initializing, backfilling, running, failed or needs_rebuild.';
COMMENT ON COLUMN incbatch.path.state_since IS 'When the state was entered.';
COMMENT ON COLUMN incbatch.path.last_error IS 'Why the path stopped, and the function that brings it back.';
COMMENT ON COLUMN incbatch.path.rebuilt_at IS 'When the worker last began to rebuild it by itself (on_lost), or the backfill that followed ended; also when a backfill came to nothing. NULL: never.';
COMMENT ON COLUMN incbatch.path.rebuild_delay IS 'So long after rebuilt_at it does so again at the earliest; longer each time within an hour.';

COMMENT ON TABLE incbatch.tiers IS 'Named freshnesses for consumers to pick; the administrator edits them. A change holds for consumers that pick the tier from then on. pg_dump takes them along; a tier of the extension''s own that was deleted comes back with a restore.';
COMMENT ON COLUMN incbatch.tiers.tier IS 'Number of the tier.';
COMMENT ON COLUMN incbatch.tiers.name IS 'Its name.';
COMMENT ON COLUMN incbatch.tiers.freshness IS 'The staleness that its consumers accept.';
COMMENT ON COLUMN incbatch.tiers.trigger_interval IS 'How often the path of its consumers runs.';

COMMENT ON TABLE incbatch.consumer IS 'Readers of pipelines; incbatch.consumers is the view to read.';
COMMENT ON COLUMN incbatch.consumer.id IS 'Number of the consumer.';
COMMENT ON COLUMN incbatch.consumer.consumer IS 'Its name, one in its pipeline.';
COMMENT ON COLUMN incbatch.consumer.pipeline IS 'The pipeline it reads.';
COMMENT ON COLUMN incbatch.consumer.path IS 'The path whose state its relation shows.';
COMMENT ON COLUMN incbatch.consumer.relation IS 'The view that it queries.';
COMMENT ON COLUMN incbatch.consumer.tier IS 'The tier it picked, or NULL.';
COMMENT ON COLUMN incbatch.consumer.freshness IS 'The staleness it accepts.';
COMMENT ON COLUMN incbatch.consumer.trigger_interval IS 'How often its path runs.';
COMMENT ON COLUMN incbatch.consumer.emit IS 'update: windows as they grow; final: closed windows only.';
COMMENT ON COLUMN incbatch.consumer.closed_before IS 'Where emit is final, for each window of the GROUP BY, SQL that says of a watermark which is the first window that it has not closed.';

COMMENT ON TABLE incbatch.frontier IS 'Exactly which transactions each path contains: a commit is included if it lies before lsn, or before decoded_lsn and the snapshot sees it. Written in the same transaction as the state table.';
COMMENT ON COLUMN incbatch.frontier.path IS 'The path.';
COMMENT ON COLUMN incbatch.frontier.lsn IS 'Every commit before it is included.';
COMMENT ON COLUMN incbatch.frontier.decoded_lsn IS 'Up to here, every commit that the snapshot sees is included.';
COMMENT ON COLUMN incbatch.frontier.snapshot IS 'The snapshot of the last run.';
COMMENT ON COLUMN incbatch.frontier.aligned IS 'Whether the aggregate equals the query under the snapshot.';
COMMENT ON COLUMN incbatch.frontier.as_of IS 'Everything committed before this instant is included.';
COMMENT ON COLUMN incbatch.frontier.meaning IS 'A hash of the query, of the functions that it calls, and of the labels of enums that it turns into text.';
COMMENT ON COLUMN incbatch.frontier.partitions IS 'Of a partitioned source: its partitions as the snapshot sees them, each an OID and the transaction that made it a partition, in one number.';

COMMENT ON TABLE incbatch.path_watermark IS 'What each path whose windows close has seen of event time. Written in the same transaction as the state table. Times are as the event time column has them, those with time zone in UTC; -infinity: none yet.';
COMMENT ON COLUMN incbatch.path_watermark.path IS 'The path.';
COMMENT ON COLUMN incbatch.path_watermark.largest IS 'Largest event time seen, but for those far ahead of the clock.';
COMMENT ON COLUMN incbatch.path_watermark.closed IS 'Windows that end here or before are closed.';
COMMENT ON COLUMN incbatch.path_watermark.removed IS 'Windows that ended here or before are removed.';
COMMENT ON COLUMN incbatch.path_watermark.watermark IS 'closed, as users see it.';
COMMENT ON COLUMN incbatch.path_watermark.rows_late IS 'Late changes since the backfill.';
COMMENT ON COLUMN incbatch.path_watermark.rows_ahead IS 'Rows since the backfill, and in it, whose event time was infinite or too far ahead of the clock to drive the watermark.';

COMMENT ON TABLE incbatch.late_window IS 'Closed windows that late changes were kept out of: there the aggregate may differ from the batch query.';
COMMENT ON COLUMN incbatch.late_window.path IS 'The path.';
COMMENT ON COLUMN incbatch.late_window.window_start IS 'Value of the first window of the GROUP BY, one with time zone in UTC.';

COMMENT ON TABLE incbatch.late_row IS 'Late changes that were diverted; incbatch.late_rows is the view to read.';
COMMENT ON COLUMN incbatch.late_row.number IS 'Rises in the order in which the changes were read.';
COMMENT ON COLUMN incbatch.late_row.path IS 'The path.';
COMMENT ON COLUMN incbatch.late_row.event_time IS 'Event time of the row.';
COMMENT ON COLUMN incbatch.late_row.watermark IS 'The watermark that it missed.';
COMMENT ON COLUMN incbatch.late_row.change IS 'insert (also the new side of an update) or delete (also its old side).';
COMMENT ON COLUMN incbatch.late_row.row IS 'The columns of the row that the query reads.';
COMMENT ON COLUMN incbatch.late_row.commit_lsn IS 'Commit record of its transaction.';
COMMENT ON COLUMN incbatch.late_row.commit_time IS 'When its transaction committed.';

COMMENT ON TABLE incbatch.failed_row IS 'Changes whose row makes the query fail, diverted by on_error; incbatch.failed_rows is the view to read.';
COMMENT ON COLUMN incbatch.failed_row.number IS 'Rises in the order in which the rows were found.';
COMMENT ON COLUMN incbatch.failed_row.path IS 'The path.';
COMMENT ON COLUMN incbatch.failed_row.change IS 'insert (also the new side of an update, and a row that a backfill met) or delete (also the old side) of a row that was left out.';
COMMENT ON COLUMN incbatch.failed_row.row IS 'The columns of the row that the query reads.';
COMMENT ON COLUMN incbatch.failed_row.image IS 'The same by position, by which the deletion of the row is known.';
COMMENT ON COLUMN incbatch.failed_row.error IS 'The error that the row made.';
COMMENT ON COLUMN incbatch.failed_row.sqlstate IS 'Its SQLSTATE.';
COMMENT ON COLUMN incbatch.failed_row.commit_lsn IS 'Commit record of its transaction; NULL: a backfill met the row.';
COMMENT ON COLUMN incbatch.failed_row.commit_time IS 'When its transaction committed; NULL: a backfill met the row.';
COMMENT ON COLUMN incbatch.failed_row.left_out IS 'Whether the source has the row still, so that the aggregate leaves it out.';

COMMENT ON TABLE incbatch.batch IS 'What each batch did; incbatch.batch_history says how many are kept.';
COMMENT ON COLUMN incbatch.batch.batch IS 'Number of the batch.';
COMMENT ON COLUMN incbatch.batch.path IS 'The path.';
COMMENT ON COLUMN incbatch.batch.started_at IS 'When the run began.';
COMMENT ON COLUMN incbatch.batch.finished_at IS 'When its changes became visible.';
COMMENT ON COLUMN incbatch.batch.reason IS 'trigger, refresh, full (memory), quiet, lost, backfill or copy.';
COMMENT ON COLUMN incbatch.batch.transactions IS 'Source transactions folded in.';
COMMENT ON COLUMN incbatch.batch.rows_in IS 'Changes folded in; an update counts as two. Of a backfill: rows of the source.';
COMMENT ON COLUMN incbatch.batch.groups_changed IS 'Groups that the changes touched.';
COMMENT ON COLUMN incbatch.batch.read_ms IS 'Milliseconds spent reading the WAL within the run.';
COMMENT ON COLUMN incbatch.batch.transform_ms IS 'Milliseconds spent evaluating the query over the changes.';
COMMENT ON COLUMN incbatch.batch.merge_ms IS 'Milliseconds spent merging into the state table, recompute included.';
COMMENT ON COLUMN incbatch.batch.commit_ms IS 'Milliseconds spent storing the frontier and committing.';
COMMENT ON COLUMN incbatch.batch.cpu_ms IS 'CPU milliseconds of the worker for the batch: reading its changes, in the run and before, the run, and the worker''s round around it.';
COMMENT ON COLUMN incbatch.batch.wal_bytes IS 'WAL written by the run, in bytes.';
COMMENT ON COLUMN incbatch.batch.latency_max IS 'Largest time from a source transaction''s commit to its visibility.';
COMMENT ON COLUMN incbatch.batch.strategy IS 'delta; none where it failed; recompute where groups were evaluated again from the source; rebuild where all were, by a backfill or because a tracked lookup was truncated.';
COMMENT ON COLUMN incbatch.batch.rows_late IS 'Changes to closed windows.';
COMMENT ON COLUMN incbatch.batch.rows_ahead IS 'Rows whose event time was infinite or too far ahead of the clock to drive the watermark.';
COMMENT ON COLUMN incbatch.batch.error IS 'Error that stopped the pipeline in this batch, whose figures are then 0; NULL: none.';
COMMENT ON COLUMN incbatch.batch.runs IS 'Runs that the line sums up.';
COMMENT ON COLUMN incbatch.batch.groups_new IS 'Groups that were added to the state table.';
COMMENT ON COLUMN incbatch.batch.ahead_ms IS 'Milliseconds spent reading its changes from the WAL before the run.';
COMMENT ON COLUMN incbatch.batch.read_cpu_ms IS 'CPU milliseconds of reading its changes from the WAL, in the run and before; part of cpu_ms.';

COMMENT ON TABLE incbatch.slot IS 'The replication slot that the frontiers belong to, and its database and cluster.';
COMMENT ON COLUMN incbatch.slot.slot_name IS 'Name of the slot.';
COMMENT ON COLUMN incbatch.slot.database IS 'OID of the database it was made for.';
COMMENT ON COLUMN incbatch.slot.system_identifier IS 'The cluster it was made in.';
COMMENT ON COLUMN incbatch.slot.created_lsn IS 'Where it started.';

-- ---------------------------------------------------------------------
-- Pipelines
-- ---------------------------------------------------------------------

CREATE FUNCTION incbatch.create_pipeline(
    name             text,
    query            text,
    event_time       text     DEFAULT NULL,
    lateness         interval DEFAULT NULL,
    late_policy      text     DEFAULT 'divert',
    trigger_interval interval DEFAULT '1 minute',
    append_only      boolean  DEFAULT false,
    track_lookups    boolean  DEFAULT false,
    retention        interval DEFAULT NULL,
    initialize       boolean  DEFAULT true,
    on_error         text     DEFAULT 'stop',
    on_lost          text     DEFAULT 'stop',
    if_not_exists    boolean  DEFAULT false
) RETURNS regclass
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'ib_create_pipeline';
COMMENT ON FUNCTION incbatch.create_pipeline(text, text, text, interval, text, interval, boolean, boolean, interval, boolean, text, text, boolean) IS
'Keeps the result of a query up to date. name is the view to create, [schema.]relation; query the batch SQL, SELECT ... FROM source [JOIN lookup ...] [WHERE ...] GROUP BY .... trigger_interval is how often changes are folded in, ''0'' as soon as there are any. track_lookups folds in changes of the joined tables too; without it a lookup is read when a change of the source is folded in. With lateness, a window closes when an event so much later than its end was seen; late_policy says what happens to later changes to it: ''divert'' to incbatch.late_rows, ''drop'', or ''apply''; with retention, windows that ended so long before the watermark are removed. on_error ''divert'' keeps rows that make the query fail in incbatch.failed_rows and leaves them out, up to incbatch.max_failed_rows of them; ''stop'' stops the pipeline as failed. on_lost ''rebuild'' lets the worker rebuild by itself what would be needs_rebuild; ''stop'' waits for rebuild_pipeline. Returns at once; the worker backfills. A query that cannot be kept exact is refused with the reason.';

CREATE FUNCTION incbatch.alter_pipeline(
    name             text,
    trigger_interval interval DEFAULT NULL,
    lateness         interval DEFAULT NULL,
    late_policy      text     DEFAULT NULL,
    retention        interval DEFAULT NULL,
    on_error         text     DEFAULT NULL,
    on_lost          text     DEFAULT NULL
) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'ib_alter_pipeline';
COMMENT ON FUNCTION incbatch.alter_pipeline(text, interval, interval, text, interval, text, text) IS
'Changes a pipeline''s cadence, when its windows close, and what errors and a lost place in the WAL do to it; NULL leaves a value as it is. Closed windows stay closed. Late changes that were kept out come in when late_policy changes to ''apply'', by a rebuild. A pipeline that failed goes on with on_error ''divert'' when resume_pipeline is called; rows that were diverted stay left out with ''stop'', until a rebuild.';

CREATE FUNCTION incbatch.drop_pipeline(name text, if_exists boolean DEFAULT false)
RETURNS boolean
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'ib_drop_pipeline';
COMMENT ON FUNCTION incbatch.drop_pipeline(text, boolean) IS
'Drops a pipeline with its relations. DROP VIEW of the pipeline''s relation does the same. False: there was none and if_exists is true.';

CREATE FUNCTION incbatch.pause_pipeline(name text) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'ib_pause_pipeline';
COMMENT ON FUNCTION incbatch.pause_pipeline(text) IS
'Stops folding in changes until resume_pipeline. Nothing is lost: the WAL is held, up to incbatch.max_retained_wal.';

CREATE FUNCTION incbatch.resume_pipeline(name text) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'ib_resume_pipeline';
COMMENT ON FUNCTION incbatch.resume_pipeline(text) IS
'Goes on after pause_pipeline, and tries again after a failure, from exactly where the pipeline stopped.';

CREATE FUNCTION incbatch.rebuild_pipeline(name text) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'ib_rebuild_pipeline';
COMMENT ON FUNCTION incbatch.rebuild_pipeline(text) IS
'Backfills anew from the source, one path, of which the others are copies. Returns at once; readers see the old rows until the new ones replace them at once.';

CREATE PROCEDURE incbatch.refresh_pipeline(name text)
LANGUAGE c AS 'MODULE_PATHNAME', 'ib_refresh_pipeline';
COMMENT ON PROCEDURE incbatch.refresh_pipeline(text) IS
'Runs a pipeline now, with all its paths, and returns when everything that was visible before the call is in the aggregate. Waits for a backfill that is under way; an error where the pipeline is paused, failed or needs a rebuild; where that is so of one path, after the others have run.';

CREATE FUNCTION incbatch.wait_for(
    name    text,
    lsn     pg_lsn   DEFAULT pg_catalog.pg_current_wal_insert_lsn(),
    timeout interval DEFAULT '1 minute'
) RETURNS boolean
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'ib_wait_for';
COMMENT ON FUNCTION incbatch.wait_for(text, pg_lsn, interval) IS
'Waits until everything that committed before a WAL position is in the aggregate, at the cadence of its freshest path. False: not within the timeout.';

CREATE FUNCTION incbatch.verify_pipeline(
    name text,
    OUT difference text, OUT row_in_aggregate jsonb, OUT row_in_batch jsonb
) RETURNS SETOF record
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'ib_verify_pipeline';
COMMENT ON FUNCTION incbatch.verify_pipeline(text) IS
'Compares the aggregate with the batch query, both at one instant, while writers write; of each path, named where there are several. No row: they are equal. Costs one run of the batch query a path.';

CREATE FUNCTION incbatch.watermark(name text) RETURNS timestamptz
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'ib_watermark';
COMMENT ON FUNCTION incbatch.watermark(text) IS
'Largest event time that a pipeline has seen minus its lateness: windows that end here or before are closed. NULL where windows never close, or no event was seen. It does not move while the source is quiet.';

CREATE FUNCTION incbatch.explain_pipeline(name text)
RETURNS TABLE (transform text, kind text, strategy text, key_cardinality bigint,
               "window" text, watermark text, state_bytes bigint, detail text)
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'ib_explain_pipeline';
COMMENT ON FUNCTION incbatch.explain_pipeline(text) IS
'One row for each transform of a pipeline''s query: whether it is stateless or stateful; whether changes adjust it (delta) or evaluate its groups again from the source (recompute); how many keys and bytes of state it has (in the freshest path); and, for recompute, what is read and which index serves it. For the owner, members of his role and pg_monitor; reads the whole state table.';

CREATE FUNCTION incbatch.window_start(unit text, ts timestamp)
RETURNS timestamp
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ib_window_start_timestamp';
COMMENT ON FUNCTION incbatch.window_start(text, timestamp) IS
'date_trunc of a constant unit, faster for times that come roughly in order. The statements that read a batch use it in the place of date_trunc.';

CREATE FUNCTION incbatch.window_start(unit text, ts timestamptz)
RETURNS timestamptz
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ib_window_start_timestamptz';
COMMENT ON FUNCTION incbatch.window_start(text, timestamptz) IS
'date_trunc of a constant unit, faster for times that come roughly in order. The statements that read a batch use it in the place of date_trunc.';

CREATE FUNCTION incbatch.tumble(ts timestamp, size interval, origin timestamp DEFAULT NULL)
RETURNS timestamp
LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'ib_tumble_timestamp';
COMMENT ON FUNCTION incbatch.tumble(timestamp, interval, timestamp) IS
'Start of the window that a time is in; windows are [start, end) and follow each other without gaps. The size is of hours and smaller units, or of days, or of months, counted from origin, by default Monday 2000-01-03 (months: 2000-01-01) at midnight.';

CREATE FUNCTION incbatch.tumble(ts timestamptz, size interval, origin timestamptz DEFAULT NULL)
RETURNS timestamptz
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'ib_tumble_timestamptz';
COMMENT ON FUNCTION incbatch.tumble(timestamptz, interval, timestamptz) IS
'Start of the window that a time is in; windows are [start, end) and follow each other without gaps. The size is of hours and smaller units, or of days, or of months, counted from origin, by default Monday 2000-01-03 (months: 2000-01-01) at midnight. Days and months are those of the setting TimeZone, so a day on which the clocks change has 23 or 25 hours.';

CREATE FUNCTION incbatch.tumble(ts date, size interval, origin date DEFAULT NULL)
RETURNS date
LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'ib_tumble_date';
COMMENT ON FUNCTION incbatch.tumble(date, interval, date) IS
'Start of the window that a time is in; windows are [start, end) and follow each other without gaps. The size is of hours and smaller units, or of days, or of months, counted from origin, by default Monday 2000-01-03 (months: 2000-01-01) at midnight. The size must be of days or months.';

CREATE FUNCTION incbatch.hop(ts timestamp, size interval, slide interval, origin timestamp DEFAULT NULL)
RETURNS TABLE (window_start timestamp, window_end timestamp)
LANGUAGE c IMMUTABLE PARALLEL SAFE ROWS 4 AS 'MODULE_PATHNAME', 'ib_hop_timestamp';
COMMENT ON FUNCTION incbatch.hop(timestamp, interval, interval, timestamp) IS
'The windows [window_start, window_end) of a size that a time is in; one begins each slide, counted from origin as in tumble. Use it in FROM: FROM src, incbatch.hop(src.ts, size, slide) AS w(window_start, window_end). A time that is NULL or infinite is in none.';

CREATE FUNCTION incbatch.hop(ts timestamptz, size interval, slide interval, origin timestamptz DEFAULT NULL)
RETURNS TABLE (window_start timestamptz, window_end timestamptz)
LANGUAGE c STABLE PARALLEL SAFE ROWS 4 AS 'MODULE_PATHNAME', 'ib_hop_timestamptz';
COMMENT ON FUNCTION incbatch.hop(timestamptz, interval, interval, timestamptz) IS
'The windows [window_start, window_end) of a size that a time is in; one begins each slide, counted from origin as in tumble. Use it in FROM: FROM src, incbatch.hop(src.ts, size, slide) AS w(window_start, window_end). A time that is NULL or infinite is in none. Days and months are those of the setting TimeZone.';

CREATE FUNCTION incbatch.hop(ts date, size interval, slide interval, origin date DEFAULT NULL)
RETURNS TABLE (window_start date, window_end date)
LANGUAGE c IMMUTABLE PARALLEL SAFE ROWS 4 AS 'MODULE_PATHNAME', 'ib_hop_date';
COMMENT ON FUNCTION incbatch.hop(date, interval, interval, date) IS
'The windows [window_start, window_end) of a size that a time is in; one begins each slide, counted from origin as in tumble. Use it in FROM: FROM src, incbatch.hop(src.ts, size, slide) AS w(window_start, window_end). A time that is NULL or infinite is in none. Size and slide must be of days or months.';

CREATE FUNCTION incbatch.variance(count bigint, sum numeric, squares numeric, sample boolean)
RETURNS numeric
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ib_variance';
COMMENT ON FUNCTION incbatch.variance(bigint, numeric, numeric, boolean) IS
'The variance of values of which count, sum and sum of squares are kept, with the same digits as var_samp (sample) or var_pop over numeric. Pipelines'' views use it.';

CREATE FUNCTION incbatch.stddev(count bigint, sum numeric, squares numeric, sample boolean)
RETURNS numeric
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ib_stddev';
COMMENT ON FUNCTION incbatch.stddev(bigint, numeric, numeric, boolean) IS
'The standard deviation of values of which count, sum and sum of squares are kept, with the same digits as stddev_samp (sample) or stddev_pop over numeric. Pipelines'' views use it.';

-- ---------------------------------------------------------------------
-- Consumers
-- ---------------------------------------------------------------------

CREATE FUNCTION incbatch.create_consumer(
    consumer         text,
    pipeline         text,
    tier             int      DEFAULT NULL,
    freshness        interval DEFAULT NULL,
    trigger_interval interval DEFAULT NULL,
    emit             text     DEFAULT 'update',
    relation         text     DEFAULT NULL
) RETURNS regclass
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'ib_create_consumer';
COMMENT ON FUNCTION incbatch.create_consumer(text, text, int, interval, interval, text, text) IS
'Gives a reader of a pipeline a relation of its own that is as fresh as it needs: a tier of incbatch.tiers, or a freshness, the staleness that it accepts. trigger_interval is how often its path runs, by default the tier''s or 4/5 of the freshness; consumers with the same one share a path. With emit ''final'' it sees only windows that the watermark has closed. relation is the view to create, by default pipeline_consumer in the pipeline''s schema. A new path begins as a copy of a sibling, not with a backfill.';

CREATE FUNCTION incbatch.set_tier(consumer text, pipeline text, tier int) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'ib_set_tier';
COMMENT ON FUNCTION incbatch.set_tier(text, text, int) IS
'Moves a consumer to a tier. Its relation stays the same, and shows at every moment the rows of one definite set of transactions.';

CREATE FUNCTION incbatch.set_freshness(consumer text, pipeline text, freshness interval) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'ib_set_freshness';
COMMENT ON FUNCTION incbatch.set_freshness(text, text, interval) IS
'Sets the staleness that a consumer accepts; its path then runs every 4/5 of it.';

CREATE FUNCTION incbatch.drop_consumer(consumer text, pipeline text, if_exists boolean DEFAULT false)
RETURNS boolean
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'ib_drop_consumer';
COMMENT ON FUNCTION incbatch.drop_consumer(text, text, boolean) IS
'Drops a consumer with its relation, and its path if nobody else wants that. DROP VIEW of the relation does the same. False: there was none and if_exists is true.';

CREATE FUNCTION incbatch.closed_before(consumer int, number int) RETURNS timestamp
LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'ib_closed_before';
COMMENT ON FUNCTION incbatch.closed_before(int, int) IS
'The first value of a window of the GROUP BY that is not closed where a consumer''s path is, as the calling query''s snapshot shows that; with time zone in UTC. The relations of consumers with emit ''final'' ask it.';

CREATE FUNCTION incbatch.on_drop() RETURNS event_trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'ib_on_drop';
COMMENT ON FUNCTION incbatch.on_drop() IS
'Event trigger: drops a pipeline as a whole when one of its relations is dropped, and a consumer when its own is.';

CREATE EVENT TRIGGER incbatch_on_drop ON sql_drop EXECUTE FUNCTION incbatch.on_drop();
ALTER EVENT TRIGGER incbatch_on_drop ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER incbatch_on_drop IS 'Drops a pipeline as a whole when one of its relations is dropped, and a consumer when its own is.';

CREATE FUNCTION incbatch.on_rewrite() RETURNS event_trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'ib_on_rewrite';
COMMENT ON FUNCTION incbatch.on_rewrite() IS
'Event trigger: a pipeline whose source, or tracked lookup, is set UNLOGGED, or LOGGED again, needs a rebuild, for rows written in between are in no WAL. SET UNLOGGED of a state table is refused.';

CREATE EVENT TRIGGER incbatch_on_rewrite ON table_rewrite EXECUTE FUNCTION incbatch.on_rewrite();
ALTER EVENT TRIGGER incbatch_on_rewrite ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER incbatch_on_rewrite IS 'A pipeline whose source is set UNLOGGED, or LOGGED again, needs a rebuild.';

CREATE FUNCTION incbatch.prepare_shutdown(undo boolean DEFAULT false) RETURNS int
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'ib_prepare_shutdown';
REVOKE EXECUTE ON FUNCTION incbatch.prepare_shutdown(boolean) FROM PUBLIC;
COMMENT ON FUNCTION incbatch.prepare_shutdown(boolean) IS
'Ends the workers of all databases and drops their replication slots, so that the server can be started with a lower wal_level, or without the library and without WAL held for ever. Definitions stay, pipelines need a rebuild afterwards. Until the restart, or a call with undo => true, no worker runs. Takes effect at once, also if the transaction is rolled back. Returns how many slots it dropped.';

CREATE FUNCTION incbatch.refuse_change() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'ib_refuse_change';
COMMENT ON FUNCTION incbatch.refuse_change() IS
'Trigger: refuses changes of a table of incbatch''s own to all but superusers, whatever was granted.';

CREATE TRIGGER refuse_change BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON incbatch.pipeline EXECUTE FUNCTION incbatch.refuse_change();
CREATE TRIGGER refuse_change BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON incbatch.path EXECUTE FUNCTION incbatch.refuse_change();
CREATE TRIGGER refuse_change BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON incbatch.consumer EXECUTE FUNCTION incbatch.refuse_change();
COMMENT ON TRIGGER refuse_change ON incbatch.pipeline IS 'The table says what runs as whom.';
COMMENT ON TRIGGER refuse_change ON incbatch.path IS 'The table says what runs as whom.';
COMMENT ON TRIGGER refuse_change ON incbatch.consumer IS 'The table says what runs as whom.';

-- ---------------------------------------------------------------------
-- Whose pipelines one sees
-- ---------------------------------------------------------------------

CREATE FUNCTION incbatch.may_see(relation regclass) RETURNS boolean
LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'ib_may_see';
COMMENT ON FUNCTION incbatch.may_see(regclass) IS
'Whether the caller sees a pipeline in the views: its owner, members of his role, members of pg_read_all_stats (pg_monitor is one) and superusers do.';

-- ---------------------------------------------------------------------
-- Dump and restore
-- ---------------------------------------------------------------------

CREATE FUNCTION incbatch.on_pipeline_insert() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'ib_on_pipeline_insert';
COMMENT ON FUNCTION incbatch.on_pipeline_insert() IS
'Trigger: keeps the name of the event time column beside its number, and finds the number by it when a pipeline is restored from a dump.';
CREATE TRIGGER on_insert BEFORE INSERT ON incbatch.pipeline
FOR EACH ROW EXECUTE FUNCTION incbatch.on_pipeline_insert();
COMMENT ON TRIGGER on_insert ON incbatch.pipeline IS 'Finds the event time column by its name.';

CREATE FUNCTION incbatch.on_path_insert() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'ib_on_path_insert';
COMMENT ON FUNCTION incbatch.on_path_insert() IS
'Trigger: a path that is restored from a dump needs a rebuild.';
CREATE TRIGGER on_insert BEFORE INSERT ON incbatch.path
FOR EACH ROW EXECUTE FUNCTION incbatch.on_path_insert();
COMMENT ON TRIGGER on_insert ON incbatch.path IS 'A path that is restored from a dump needs a rebuild.';

CREATE FUNCTION incbatch.on_tier_insert() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'ib_on_tier_insert';
COMMENT ON FUNCTION incbatch.on_tier_insert() IS
'Trigger: a tier that is still as CREATE EXTENSION made it gives way to one of the same number or name, which so can be restored from a dump.';
CREATE TRIGGER on_insert BEFORE INSERT ON incbatch.tiers
FOR EACH ROW EXECUTE FUNCTION incbatch.on_tier_insert();
COMMENT ON TRIGGER on_insert ON incbatch.tiers IS 'A tier that is still as CREATE EXTENSION made it gives way to one of the same number or name.';

CREATE FUNCTION incbatch.on_rename() RETURNS event_trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'ib_on_rename';
COMMENT ON FUNCTION incbatch.on_rename() IS
'Event trigger: keeps the name of a pipeline''s event time column.';
CREATE EVENT TRIGGER incbatch_on_rename ON ddl_command_end WHEN TAG IN ('ALTER TABLE', 'ALTER TYPE', 'ALTER VIEW', 'ALTER MATERIALIZED VIEW', 'ALTER FOREIGN TABLE')
EXECUTE FUNCTION incbatch.on_rename();
ALTER EVENT TRIGGER incbatch_on_rename ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER incbatch_on_rename IS 'Keeps the name of a pipeline''s event time column.';

-- ---------------------------------------------------------------------
-- What shared memory knows
-- ---------------------------------------------------------------------

CREATE FUNCTION incbatch.worker_status(
    OUT database oid, OUT pid int, OUT state text,
    OUT heartbeat_at timestamptz, OUT rows_decoded bigint,
    OUT activity text, OUT activity_since timestamptz, OUT wait_event text,
    OUT restarts int, OUT last_error text,
    OUT cpu_ms float8, OUT batches_cpu_ms float8, OUT history_cpu_ms float8, OUT history_wal_bytes bigint,
    OUT pinning_xid xid, OUT pinned_lsn pg_lsn
) RETURNS SETOF record
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'ib_worker_status';
COMMENT ON FUNCTION incbatch.worker_status() IS 'Workers as shared memory knows them; incbatch.workers is the view to read.';

CREATE FUNCTION incbatch.path_status(
    path int, stored_lsn pg_lsn, stored_as_of timestamptz, allowed interval DEFAULT NULL,
    OUT frontier_lsn pg_lsn, OUT as_of timestamptz, OUT staleness interval,
    OUT staleness_before interval, OUT unmoved interval,
    OUT fresh_since timestamptz, OUT stale_since timestamptz,
    OUT next_run timestamptz, OUT backlog_rows bigint, OUT backlog_bytes bigint,
    OUT latency_p50 interval, OUT latency_p95 interval, OUT latency_p99 interval,
    OUT backfill_started_at timestamptz, OUT rows_done bigint, OUT rows_total bigint,
    OUT locked oid, OUT locked_since timestamptz,
    OUT worker text, OUT worker_activity text, OUT worker_since timestamptz
) RETURNS record
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'ib_path_status';
COMMENT ON FUNCTION incbatch.path_status(int, pg_lsn, timestamptz, interval) IS 'How far a path is at this moment, from what is stored of its frontier, from shared memory and from the end of the WAL; incbatch.paths and incbatch.lag are the views to read. allowed is the staleness for which it says since when the path has been below (fresh_since) or over it (stale_since).';

CREATE FUNCTION incbatch.is_at_home(database oid, system_identifier bigint)
RETURNS boolean
LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'ib_is_at_home';
COMMENT ON FUNCTION incbatch.is_at_home(oid, bigint) IS 'Whether this is the database of the cluster that a slot was made for, not a copy.';

-- ---------------------------------------------------------------------
-- Views
-- ---------------------------------------------------------------------

-- What a path's state is to a reader: that of a copied database is lost even
-- before a worker has looked at it.
CREATE VIEW incbatch.path_state AS
SELECT a.id AS path,
       CASE WHEN a.state = 'needs_rebuild' OR h.is_copy THEN 'needs_rebuild'
            WHEN p.paused THEN 'paused'
            ELSE a.state END AS state,
       coalesce(p.paused_at, a.state_since) AS state_since,
       CASE WHEN a.state <> 'needs_rebuild' AND h.is_copy
            THEN 'this database is a copy; run incbatch.rebuild_pipeline'
            ELSE a.last_error END AS last_error
FROM incbatch.path a
JOIN incbatch.pipeline p ON p.id = a.pipeline
LEFT JOIN incbatch.frontier f ON f.path = a.id
CROSS JOIN LATERAL (
    SELECT f.path IS NOT NULL AND a.state NOT IN ('initializing', 'backfilling')
           AND NOT EXISTS (SELECT FROM incbatch.slot s
                           WHERE incbatch.is_at_home(s.database, s.system_identifier)) AS is_copy) h;
COMMENT ON VIEW incbatch.path_state IS 'The state of each path, as incbatch.pipelines shows it.';
COMMENT ON COLUMN incbatch.path_state.path IS 'Number of the path.';
COMMENT ON COLUMN incbatch.path_state.state IS 'initializing, backfilling, running, paused, failed or needs_rebuild.';
COMMENT ON COLUMN incbatch.path_state.state_since IS 'When the state was entered.';
COMMENT ON COLUMN incbatch.path_state.last_error IS 'Why the path stopped, and the function that brings it back.';

CREATE VIEW incbatch.pipelines WITH (security_barrier) AS
SELECT p.relation::text AS pipeline, p.relation, p.query, p.source,
       (SELECT t.attname FROM pg_catalog.pg_attribute t
        WHERE t.attrelid = p.source AND t.attnum = p.event_time) AS event_time,
       p.lateness, p.late_policy, p.trigger_interval,
       nullif(w.watermark, '-infinity') AS watermark,
       s.state, p.strategy,
       pg_catalog.pg_get_userbyid(c.relowner) AS owner,
       s.last_error, p.created_at, p.definition, p.append_only, p.track_lookups,
       p.retention, w.rows_late, w.rows_ahead, p.on_error, p.on_lost
FROM incbatch.pipeline p
JOIN LATERAL (  -- the freshest path
    SELECT a.id, a.relation FROM incbatch.path a
    WHERE a.pipeline = p.id ORDER BY a.trigger_interval, a.id LIMIT 1) f ON true
JOIN LATERAL (  -- the one in the worst state
    SELECT s.state, s.last_error
    FROM incbatch.path a
    JOIN incbatch.path_state s ON s.path = a.id
    WHERE a.pipeline = p.id
    ORDER BY pg_catalog.array_position('{needs_rebuild,failed,paused,initializing,backfilling,running}'::text[], s.state),
             a.trigger_interval, a.id
    LIMIT 1) s ON true
LEFT JOIN incbatch.path_watermark w ON w.path = f.id AND p.lateness IS NOT NULL
LEFT JOIN pg_catalog.pg_class c ON c.oid = f.relation
WHERE incbatch.may_see(p.relation);
COMMENT ON VIEW incbatch.pipelines IS 'One row a pipeline of yours: a superuser, or a member of pg_monitor, sees all. Where it has several paths, state and last_error are those of the path in the worst state, and the watermark is the freshest path''s.';
COMMENT ON COLUMN incbatch.pipelines.pipeline IS 'Name, as functions take it.';
COMMENT ON COLUMN incbatch.pipelines.relation IS 'The view that dashboards query.';
COMMENT ON COLUMN incbatch.pipelines.query IS 'The query as it was given.';
COMMENT ON COLUMN incbatch.pipelines.source IS 'The table whose changes drive the pipeline.';
COMMENT ON COLUMN incbatch.pipelines.event_time IS 'Column of the source with the event time, or NULL.';
COMMENT ON COLUMN incbatch.pipelines.lateness IS 'The watermark is the largest event time seen minus this; NULL: windows never close.';
COMMENT ON COLUMN incbatch.pipelines.late_policy IS 'What happens to a change to a closed window: divert (to incbatch.late_rows), drop or apply.';
COMMENT ON COLUMN incbatch.pipelines.trigger_interval IS 'How often changes are folded in while there are no consumers; 0: as soon as there are any.';
COMMENT ON COLUMN incbatch.pipelines.watermark IS 'Windows that end here or before are closed; NULL: windows never close, or no event was seen.';
COMMENT ON COLUMN incbatch.pipelines.state IS 'initializing, backfilling, running, paused (resume_pipeline), failed (resume_pipeline) or needs_rebuild (rebuild_pipeline).';
COMMENT ON COLUMN incbatch.pipelines.strategy IS 'delta: groups are adjusted by the changes; delta, recompute: some retractions evaluate their groups again from the source; recompute: every change does.';
COMMENT ON COLUMN incbatch.pipelines.owner IS 'The role that the worker runs the query as.';
COMMENT ON COLUMN incbatch.pipelines.last_error IS 'Why the pipeline stopped, and the function that brings it back.';
COMMENT ON COLUMN incbatch.pipelines.created_at IS 'When the pipeline was created.';
COMMENT ON COLUMN incbatch.pipelines.definition IS 'The view that is the batch query.';
COMMENT ON COLUMN incbatch.pipelines.append_only IS 'The source only ever gets INSERTs.';
COMMENT ON COLUMN incbatch.pipelines.track_lookups IS 'Changes of the joined tables are folded in too.';
COMMENT ON COLUMN incbatch.pipelines.retention IS 'Windows that ended this long before the watermark are removed; NULL: none.';
COMMENT ON COLUMN incbatch.pipelines.rows_late IS 'Changes to closed windows since the backfill; NULL: windows never close.';
COMMENT ON COLUMN incbatch.pipelines.rows_ahead IS 'Rows since the backfill, and in it, whose event time was infinite or too far ahead of the clock (incbatch.event_time_ahead) to drive the watermark.';
COMMENT ON COLUMN incbatch.pipelines.on_error IS 'What rows that make the query fail do: stop the pipeline, or divert (to incbatch.failed_rows).';
COMMENT ON COLUMN incbatch.pipelines.on_lost IS 'What happens when the place in the WAL is lost: stop (needs_rebuild) or rebuild.';

CREATE VIEW incbatch.paths WITH (security_barrier) AS
SELECT p.relation::text AS pipeline, a.id AS path, a.relation, a.trigger_interval,
       m.frontier_lsn,
       CASE WHEN s.state = 'needs_rebuild' THEN f.as_of ELSE m.as_of END AS as_of,
       m.next_run,
       CASE WHEN c.reltuples >= 0 THEN c.reltuples::bigint END AS rows,
       s.state
FROM incbatch.path a
JOIN incbatch.pipeline p ON p.id = a.pipeline
JOIN incbatch.path_state s ON s.path = a.id
LEFT JOIN incbatch.frontier f ON f.path = a.id
LEFT JOIN pg_catalog.pg_class c ON c.oid = a.relation
CROSS JOIN LATERAL incbatch.path_status(a.id, f.lsn, f.as_of) m
WHERE incbatch.may_see(p.relation);
COMMENT ON VIEW incbatch.paths IS 'One row a path: a pipeline at one cadence.';
COMMENT ON COLUMN incbatch.paths.pipeline IS 'The pipeline.';
COMMENT ON COLUMN incbatch.paths.path IS 'Number of the path.';
COMMENT ON COLUMN incbatch.paths.relation IS 'The state table.';
COMMENT ON COLUMN incbatch.paths.trigger_interval IS 'How often the path runs.';
COMMENT ON COLUMN incbatch.paths.frontier_lsn IS 'Everything that committed before this WAL position is included.';
COMMENT ON COLUMN incbatch.paths.as_of IS 'Everything committed before this instant is included; NULL before the first batch.';
COMMENT ON COLUMN incbatch.paths.next_run IS 'When the path is due; NULL: as soon as there is work, or no worker runs it.';
COMMENT ON COLUMN incbatch.paths.rows IS 'Rows of the state table as last estimated by ANALYZE or autovacuum, or NULL.';
COMMENT ON COLUMN incbatch.paths.state IS 'initializing, backfilling, running, paused, failed or needs_rebuild.';

-- A path without consumers has promised its trigger interval; a fifth of it,
-- and at least a second, are for the run itself (a consumer's freshness is
-- 5/4 of its trigger by the same rule).
--
-- Slow and dead differ in the worker: one that works moves the frontier late,
-- one that is gone, stopped or waits for a lock not at all.  Whoever is alive,
-- where no WAL follows the frontier nothing is missing.
CREATE VIEW incbatch.lag WITH (security_barrier) AS
WITH promised AS (
    SELECT c.consumer, p.relation::text AS pipeline, c.tier, c.freshness, a.trigger_interval,
           coalesce(c.freshness, greatest(a.trigger_interval * 1.25, a.trigger_interval + '1 second')) AS allowed,
           1.5 * greatest(a.trigger_interval, '1 second') AS patience,
           a.id AS path, s.state, s.state_since, s.last_error, f.lsn, f.as_of AS stored_as_of,
           nullif(w.watermark, '-infinity') AS watermark
    FROM incbatch.path a
    JOIN incbatch.pipeline p ON p.id = a.pipeline
    JOIN incbatch.path_state s ON s.path = a.id
    LEFT JOIN incbatch.consumer c ON c.path = a.id
    LEFT JOIN incbatch.frontier f ON f.path = a.id
    LEFT JOIN incbatch.path_watermark w ON w.path = a.id AND p.lateness IS NOT NULL
    WHERE incbatch.may_see(p.relation)
), measured AS (
    SELECT q.*, m.backlog_rows, m.backlog_bytes, m.latency_p50, m.latency_p95, m.latency_p99,
           m.staleness_before, m.fresh_since, m.stale_since,
           m.locked, m.locked_since, m.worker, m.worker_activity, m.worker_since,
           CASE WHEN q.state = 'needs_rebuild' THEN q.stored_as_of ELSE m.as_of END AS as_of,
           CASE WHEN q.state = 'needs_rebuild' THEN pg_catalog.clock_timestamp() - q.stored_as_of
                ELSE m.staleness END AS staleness,
           coalesce(m.unmoved, m.staleness) > q.patience
               AND (m.worker IN ('idle', 'blocked') OR m.locked IS NOT NULL)
             OR m.worker IN ('absent', 'stopped') AS stands,
           coalesce(m.locked_since < pg_catalog.clock_timestamp() - q.patience, false)
             OR m.worker IN ('absent', 'stopped', 'blocked')
                AND q.state_since < pg_catalog.clock_timestamp() - q.patience
                AND coalesce(m.worker_since, q.state_since) < pg_catalog.clock_timestamp() - q.patience AS start_stands
    FROM promised q
    CROSS JOIN LATERAL incbatch.path_status(q.path, q.lsn, q.stored_as_of, q.allowed) m
), judged AS (
    SELECT *,
           CASE WHEN state = 'paused' THEN 'paused'
                WHEN state IN ('failed', 'needs_rebuild') THEN 'failed'
                WHEN state IN ('initializing', 'backfilling')
                THEN CASE WHEN start_stands THEN 'stuck' ELSE 'backfilling' END
                WHEN staleness <= allowed THEN 'fresh'
                WHEN stands THEN 'stuck'
                WHEN staleness < staleness_before THEN 'late'
                ELSE 'falling behind' END AS status
    FROM measured
)
SELECT consumer, pipeline, tier, freshness, trigger_interval, as_of, staleness,
       backlog_bytes, backlog_rows, watermark, latency_p50, latency_p95, latency_p99,
       status,
       CASE WHEN status = 'fresh' THEN greatest(fresh_since, state_since)
            WHEN status IN ('paused', 'failed', 'backfilling') THEN state_since
            ELSE greatest(coalesce(stale_since, as_of + allowed),
                          CASE WHEN status = 'stuck' THEN coalesce(locked_since, worker_since) END,
                          state_since)
       END AS status_since,
       CASE WHEN status = 'fresh' THEN NULL
            WHEN status = 'failed' THEN last_error
            WHEN status = 'paused' THEN 'run incbatch.resume_pipeline'
            WHEN worker = 'absent' AND NOT EXISTS (  -- else a placeholder for the configuration file's
                SELECT FROM pg_catalog.pg_settings g
                WHERE g.name = 'incbatch.max_paths' AND g.context = 'postmaster')
            THEN 'no worker runs: the server was started without incbatch in shared_preload_libraries'
            WHEN worker = 'absent' THEN 'no worker runs; incbatch.workers says why'
            WHEN worker = 'stopped' THEN 'the worker does not respond'
            WHEN locked IS NOT NULL
            THEN pg_catalog.format('%s is locked%s', locked::regclass,
                     (SELECT ' by ' || coalesce(pg_catalog.string_agg(DISTINCT h.holder, ', ')
                                                    FILTER (WHERE h.mode NOT IN ('RowShareLock', 'RowExclusiveLock')),
                                                pg_catalog.string_agg(DISTINCT h.holder, ', '))
                      FROM (SELECT l.mode,
                                   CASE WHEN l.pid IS NOT NULL THEN 'process ' || l.pid
                                        ELSE (SELECT 'prepared transaction ' || pg_catalog.quote_literal(x.gid)
                                              FROM pg_catalog.pg_locks t
                                              JOIN pg_catalog.pg_prepared_xacts x ON x.transaction = t.transactionid
                                              WHERE t.virtualtransaction = l.virtualtransaction AND t.pid IS NULL
                                                AND t.locktype = 'transactionid' LIMIT 1) END AS holder
                            FROM pg_catalog.pg_locks l
                            WHERE l.relation = locked AND l.granted AND l.locktype = 'relation'
                              AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d
                                                WHERE d.datname = pg_catalog.current_database())
                              AND l.mode <> 'AccessShareLock'
                              AND NOT EXISTS (SELECT FROM incbatch.worker_status() w WHERE w.pid = l.pid)) h))
            WHEN worker = 'blocked' THEN 'the worker waits for a lock, ' || worker_activity
            WHEN worker = 'starting' THEN 'the worker starts'
            ELSE 'the worker is ' || worker_activity END AS reason,
       path
FROM judged;
COMMENT ON VIEW incbatch.lag IS 'How fresh each consumer is (a pipeline without any has one row), computed by the reader: true when the worker is dead, too. The worker sends a NOTIFY on channel incbatch_status when it sees a status change: JSON with pipeline, path, consumer, from, to, at. It looks once a second, between its batches; from is what it told before, null for the first time since the server started or the consumer was made. What befalls the worker itself (it is dead, stopped, or waits for a lock within a statement) nobody tells, so read this view to be sure.';
COMMENT ON COLUMN incbatch.lag.consumer IS 'The consumer; NULL: a pipeline without consumers.';
COMMENT ON COLUMN incbatch.lag.pipeline IS 'The pipeline.';
COMMENT ON COLUMN incbatch.lag.tier IS 'The tier that the consumer picked, or NULL.';
COMMENT ON COLUMN incbatch.lag.freshness IS 'The staleness that the consumer accepts. NULL: a pipeline without consumers; it is judged by 5/4 of its trigger interval, at least one second more than it.';
COMMENT ON COLUMN incbatch.lag.trigger_interval IS 'How often the pipeline runs.';
COMMENT ON COLUMN incbatch.lag.as_of IS 'Everything committed before this instant is in the aggregate.';
COMMENT ON COLUMN incbatch.lag.staleness IS 'Now minus as_of; NULL before the first batch.';
COMMENT ON COLUMN incbatch.lag.backlog_bytes IS 'Bytes of WAL between the frontier and now, whoever wrote them.';
COMMENT ON COLUMN incbatch.lag.backlog_rows IS 'Changes read from the WAL and waiting for the next run; NULL where no worker has run the path since the server started. While no path is due, the WAL is read every 30 seconds, or when there is a megabyte of it; backlog_bytes is of now.';
COMMENT ON COLUMN incbatch.lag.watermark IS 'Windows that end here or before are closed; NULL: windows never close, or no event was seen.';
COMMENT ON COLUMN incbatch.lag.latency_p50 IS 'Median time from a source transaction''s commit to its visibility in the aggregate, over the last hour; rounded up by at most 15 %.';
COMMENT ON COLUMN incbatch.lag.latency_p95 IS 'The same, 95th percentile.';
COMMENT ON COLUMN incbatch.lag.latency_p99 IS 'The same, 99th percentile.';
COMMENT ON COLUMN incbatch.lag.status IS 'fresh (staleness within freshness, also where nothing was written); late (over it, but less stale than after the last run but one); falling behind (over it, and growing, while the worker is at work); stuck (over it, and the worker is gone, stopped, or for one and a half triggers, of at least a second, kept from it by a lock); failed, paused or backfilling.';
COMMENT ON COLUMN incbatch.lag.status_since IS 'Since when, as far as it can be known: of fresh, since staleness was last over freshness; of late, falling behind and stuck, since it grew over it.';
COMMENT ON COLUMN incbatch.lag.path IS 'Number of its path.';
COMMENT ON COLUMN incbatch.lag.reason IS 'What keeps it from being fresh: what the worker is doing, who holds a lock, the error, or what to run; NULL where it is fresh.';

CREATE VIEW incbatch.consumers WITH (security_barrier) AS
SELECT c.consumer, p.relation::text AS pipeline, c.relation, c.tier, c.freshness,
       c.trigger_interval, c.emit, c.path
FROM incbatch.consumer c
JOIN incbatch.pipeline p ON p.id = c.pipeline
WHERE incbatch.may_see(p.relation);
COMMENT ON VIEW incbatch.consumers IS 'One row a consumer: a named reader of a pipeline with the freshness it picked.';
COMMENT ON COLUMN incbatch.consumers.consumer IS 'Its name, one in its pipeline.';
COMMENT ON COLUMN incbatch.consumers.pipeline IS 'The pipeline it reads.';
COMMENT ON COLUMN incbatch.consumers.relation IS 'The view that it queries.';
COMMENT ON COLUMN incbatch.consumers.tier IS 'The tier it picked, or NULL: it named a freshness.';
COMMENT ON COLUMN incbatch.consumers.freshness IS 'The staleness it accepts.';
COMMENT ON COLUMN incbatch.consumers.trigger_interval IS 'How often its path runs.';
COMMENT ON COLUMN incbatch.consumers.emit IS 'update: windows as they grow; final: only windows that the watermark has closed.';
COMMENT ON COLUMN incbatch.consumers.path IS 'Number of its path.';

CREATE VIEW incbatch.batches WITH (security_barrier) AS
SELECT p.relation::text AS pipeline, b.path, b.batch, b.started_at, b.finished_at,
       b.reason, b.transactions, b.rows_in, b.rows_late, b.groups_changed,
       b.read_ms, b.transform_ms, b.merge_ms, b.commit_ms, b.cpu_ms, b.wal_bytes,
       b.latency_max, b.strategy, b.error, b.rows_ahead, b.runs, b.groups_new,
       b.ahead_ms, b.read_cpu_ms
FROM incbatch.batch b
JOIN incbatch.path a ON a.id = b.path
JOIN incbatch.pipeline p ON p.id = a.pipeline
WHERE incbatch.may_see(p.relation);
COMMENT ON VIEW incbatch.batches IS 'One row a batch, the newest kept; written a few seconds after it, at once after a refresh. Batches at a trigger below a second that follow each other within a second share a row.';
COMMENT ON COLUMN incbatch.batches.pipeline IS 'The pipeline.';
COMMENT ON COLUMN incbatch.batches.path IS 'Number of the path.';
COMMENT ON COLUMN incbatch.batches.batch IS 'Number of the batch, rising.';
COMMENT ON COLUMN incbatch.batches.started_at IS 'When the run began.';
COMMENT ON COLUMN incbatch.batches.finished_at IS 'When its changes became visible.';
COMMENT ON COLUMN incbatch.batches.reason IS 'trigger, refresh, full (the waiting changes outgrew incbatch.work_mem, or hold half of incbatch.max_retained_wal), quiet, lost (it was in doubt whether the place in the WAL is lost), backfill, or copy (another path began as a copy of this one).';
COMMENT ON COLUMN incbatch.batches.transactions IS 'Source transactions folded in.';
COMMENT ON COLUMN incbatch.batches.rows_in IS 'Changes folded in; an update counts as two. Of a backfill: rows of the source.';
COMMENT ON COLUMN incbatch.batches.rows_late IS 'Changes to closed windows, of those in rows_in: left out, or with late_policy apply folded in.';
COMMENT ON COLUMN incbatch.batches.groups_changed IS 'Groups that the changes touched.';
COMMENT ON COLUMN incbatch.batches.read_ms IS 'Milliseconds spent reading the WAL within the run; see ahead_ms.';
COMMENT ON COLUMN incbatch.batches.transform_ms IS 'Milliseconds spent evaluating the query over the changes.';
COMMENT ON COLUMN incbatch.batches.merge_ms IS 'Milliseconds spent merging into the state table, recompute included.';
COMMENT ON COLUMN incbatch.batches.commit_ms IS 'Milliseconds spent storing the frontier and committing.';
COMMENT ON COLUMN incbatch.batches.cpu_ms IS 'CPU milliseconds of the worker for the batch: reading its changes, in the run and before, the run, and the worker''s round around it.';
COMMENT ON COLUMN incbatch.batches.wal_bytes IS 'WAL written by the run, in bytes.';
COMMENT ON COLUMN incbatch.batches.latency_max IS 'Largest time from a source transaction''s commit to its visibility.';
COMMENT ON COLUMN incbatch.batches.strategy IS 'delta; none where it failed; recompute where groups were evaluated again from the source; rebuild where all were, by a backfill or because a tracked lookup was truncated.';
COMMENT ON COLUMN incbatch.batches.error IS 'Error that stopped the pipeline in this batch, whose figures are then 0; NULL: none.';
COMMENT ON COLUMN incbatch.batches.rows_ahead IS 'Rows whose event time was infinite or too far ahead of the clock to drive the watermark; they are folded in.';
COMMENT ON COLUMN incbatch.batches.runs IS 'Batches that the row sums up: more than one only where the trigger is below a second.';
COMMENT ON COLUMN incbatch.batches.groups_new IS 'Groups that were added to the state table.';
COMMENT ON COLUMN incbatch.batches.ahead_ms IS 'Milliseconds spent reading its changes from the WAL before the run; paths that take the same WAL share them by the rows they take.';
COMMENT ON COLUMN incbatch.batches.read_cpu_ms IS 'CPU milliseconds of reading its changes from the WAL, in the run and before; part of cpu_ms.';

CREATE VIEW incbatch.late_rows WITH (security_barrier) AS
SELECT p.relation::text AS pipeline, r.event_time, r.watermark, r.change, r.row,
       r.commit_lsn, r.commit_time, r.number, r.path
FROM incbatch.late_row r
JOIN incbatch.path a ON a.id = r.path
JOIN incbatch.pipeline p ON p.id = a.pipeline
JOIN pg_catalog.pg_class c ON c.oid = a.relation
WHERE pg_catalog.pg_has_role(c.relowner, 'USAGE');
COMMENT ON VIEW incbatch.late_rows IS 'One row a late change that was diverted (late_policy divert), of the pipelines whose owner you are. They are kept until the pipeline is rebuilt or dropped.';
COMMENT ON COLUMN incbatch.late_rows.pipeline IS 'The pipeline.';
COMMENT ON COLUMN incbatch.late_rows.event_time IS 'Event time of the row; one without time zone is taken in the pipeline''s.';
COMMENT ON COLUMN incbatch.late_rows.watermark IS 'The watermark that it missed.';
COMMENT ON COLUMN incbatch.late_rows.change IS 'insert (also the new side of an update) or delete (also its old side).';
COMMENT ON COLUMN incbatch.late_rows.row IS 'The columns of the row that the query reads.';
COMMENT ON COLUMN incbatch.late_rows.commit_lsn IS 'Commit record of its transaction.';
COMMENT ON COLUMN incbatch.late_rows.commit_time IS 'When its transaction committed.';
COMMENT ON COLUMN incbatch.late_rows.number IS 'Rises in the order in which the changes were read.';
COMMENT ON COLUMN incbatch.late_rows.path IS 'Number of the path; each path of a pipeline keeps the changes that were late for it.';

CREATE VIEW incbatch.failed_rows WITH (security_barrier) AS
SELECT p.relation::text AS pipeline, r.change, r.row, r.error, r.sqlstate,
       r.commit_lsn, r.commit_time, r.left_out, r.number, r.path
FROM incbatch.failed_row r
JOIN incbatch.path a ON a.id = r.path
JOIN incbatch.pipeline p ON p.id = a.pipeline
JOIN pg_catalog.pg_class c ON c.oid = a.relation
WHERE pg_catalog.pg_has_role(c.relowner, 'USAGE');
COMMENT ON VIEW incbatch.failed_rows IS 'One row a change whose row makes the query fail (on_error divert), of the pipelines whose owner you are. They are kept until the pipeline is rebuilt or dropped.';
COMMENT ON COLUMN incbatch.failed_rows.pipeline IS 'The pipeline.';
COMMENT ON COLUMN incbatch.failed_rows.change IS 'insert (also the new side of an update, and a row that a backfill met) or delete (also the old side) of a row that was left out.';
COMMENT ON COLUMN incbatch.failed_rows.row IS 'The columns of the row that the query reads.';
COMMENT ON COLUMN incbatch.failed_rows.error IS 'The error that the row made.';
COMMENT ON COLUMN incbatch.failed_rows.sqlstate IS 'Its SQLSTATE.';
COMMENT ON COLUMN incbatch.failed_rows.commit_lsn IS 'Commit record of its transaction; NULL: a backfill met the row.';
COMMENT ON COLUMN incbatch.failed_rows.commit_time IS 'When its transaction committed; NULL: a backfill met the row.';
COMMENT ON COLUMN incbatch.failed_rows.left_out IS 'Whether the source has the row still, so that the aggregate leaves it out.';
COMMENT ON COLUMN incbatch.failed_rows.number IS 'Rises in the order in which the rows were found.';
COMMENT ON COLUMN incbatch.failed_rows.path IS 'Number of the path; each path of a pipeline meets the rows in its own runs.';

CREATE FUNCTION incbatch.transaction_holder(holder xid) RETURNS text
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
SELECT coalesce(
    (SELECT format('prepared transaction %L of %I in %I, transaction %s, for %s', x.gid, x.owner, x.database, holder,
                   date_trunc('second', clock_timestamp() - x.prepared))
     FROM pg_prepared_xacts x WHERE x.transaction = holder),
    (SELECT format('process %s%s, transaction %s%s', l.pid, ' of ' || quote_ident(a.usename) || ' in ' || quote_ident(a.datname),
                   holder, ', for ' || date_trunc('second', clock_timestamp() - a.xact_start))
     FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
     WHERE l.locktype = 'transactionid' AND l.transactionid = holder AND l.mode = 'ExclusiveLock' AND l.granted
       AND l.pid IS NOT NULL LIMIT 1));
END;
COMMENT ON FUNCTION incbatch.transaction_holder(xid) IS
'Whose a transaction under way is, in words; NULL if it is over. incbatch.workers.pinned_by is made of it.';

CREATE VIEW incbatch.workers AS
SELECT d.datname AS database, w.pid, w.state, s.slot_name,
       s.restart_lsn, s.confirmed_flush_lsn AS confirmed_lsn,
       pg_catalog.pg_wal_lsn_diff(e.lsn, s.restart_lsn)::bigint AS retained_wal_bytes,
       w.heartbeat_at, w.rows_decoded, w.activity, w.activity_since, w.wait_event,
       w.restarts, w.last_error,
       pg_catalog.round(100 * h.bytes / h.allowed, 1) AS retained_percent,
       w.cpu_ms, w.batches_cpu_ms, w.history_cpu_ms, w.history_wal_bytes,
       CASE WHEN s.wal_status IN ('lost', 'unreserved') THEN 'the server has removed WAL that the slot needs, or is about to'
            WHEN h.bytes >= 0.8 * h.allowed THEN 'over 80 % of incbatch.max_retained_wal'
            WHEN h.bytes >= 0.5 * h.allowed THEN 'over 50 % of incbatch.max_retained_wal' END AS warning,
       incbatch.transaction_holder(
           CASE WHEN w.state <> 'creating slot' THEN w.pinning_xid
                ELSE (SELECT l.transactionid FROM pg_catalog.pg_locks l
                      WHERE l.pid = w.pid AND l.locktype = 'transactionid' AND NOT l.granted) END) AS pinned_by
FROM incbatch.worker_status() w
JOIN pg_catalog.pg_database d ON d.oid = w.database
LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = 'incbatch_' || w.database::text
CROSS JOIN (SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                        ELSE pg_catalog.pg_current_wal_insert_lsn() END AS lsn) e
CROSS JOIN LATERAL (SELECT greatest(pg_catalog.pg_wal_lsn_diff(e.lsn, least(s.confirmed_flush_lsn, w.pinned_lsn)), 0) AS bytes,
                           pg_catalog.pg_size_bytes(pg_catalog.current_setting('incbatch.max_retained_wal')) AS allowed) h;
COMMENT ON VIEW incbatch.workers IS 'One row a database that has pipelines: its worker and its replication slot.';
COMMENT ON COLUMN incbatch.workers.database IS 'The database.';
COMMENT ON COLUMN incbatch.workers.pid IS 'Process of the worker; NULL: it is not running.';
COMMENT ON COLUMN incbatch.workers.state IS 'starting, creating slot (waits for the transactions that were running), running, backfilling, not responding (the process does not run), not running, crash looping (not running, after several restarts within the hour; it is tried again, ever later up to a minute), no worker slot (max_worker_processes are in use; it is tried again every second), no replication slot (max_replication_slots are in use; the worker looks again every second), no connections allowed (the database is a template, or ALTER DATABASE has forbidden connections), other version (of the extension than the library''s: ALTER EXTENSION incbatch UPDATE, or restart the server), or shutting down (incbatch.prepare_shutdown was called).';
COMMENT ON COLUMN incbatch.workers.slot_name IS 'The replication slot; NULL: not made yet.';
COMMENT ON COLUMN incbatch.workers.restart_lsn IS 'The server keeps the WAL from here on.';
COMMENT ON COLUMN incbatch.workers.confirmed_lsn IS 'All that committed before is folded in and flushed.';
COMMENT ON COLUMN incbatch.workers.retained_wal_bytes IS 'Bytes of WAL that the server keeps for the slot.';
COMMENT ON COLUMN incbatch.workers.heartbeat_at IS 'When the worker last showed that it is alive: at least every second.';
COMMENT ON COLUMN incbatch.workers.rows_decoded IS 'Row changes decoded since the worker started, of all tables.';
COMMENT ON COLUMN incbatch.workers.activity IS 'What the worker is doing, or was when it stopped responding; pg_stat_activity shows it, too.';
COMMENT ON COLUMN incbatch.workers.activity_since IS 'Since when.';
COMMENT ON COLUMN incbatch.workers.wait_event IS 'What the process waits for, in pg_stat_activity''s words; NULL: it does not wait.';
COMMENT ON COLUMN incbatch.workers.restarts IS 'How often it was started again within the last hour.';
COMMENT ON COLUMN incbatch.workers.last_error IS 'What the worker before complained of when it ended; of the own database only, and for members of pg_read_all_stats.';
COMMENT ON COLUMN incbatch.workers.retained_percent IS 'WAL since confirmed_lsn, or since the transaction of pinned_by began, in percent of incbatch.max_retained_wal; at 100 the pipeline that holds it turns needs_rebuild, or all if the transaction holds it.';
COMMENT ON COLUMN incbatch.workers.warning IS 'That retained_percent is over 50, or over 80; or that the server itself (max_slot_wal_keep_size) takes the slot''s WAL away. Otherwise NULL.';
COMMENT ON COLUMN incbatch.workers.pinned_by IS 'The oldest transaction under way that was read in part, which keeps restart_lsn where it is, and while the slot is made the one that is waited for: its process or, if it is prepared, its name. NULL: there is none. Only members of pg_read_all_stats see for how long.';
COMMENT ON COLUMN incbatch.workers.cpu_ms IS 'CPU milliseconds of the worker since it started.';
COMMENT ON COLUMN incbatch.workers.batches_cpu_ms IS 'Of these, for batches: the sum of their cpu_ms.';
COMMENT ON COLUMN incbatch.workers.history_cpu_ms IS 'Of these, for writing incbatch.batches. What remains is being idle, and reading WAL that no pipeline wants.';
COMMENT ON COLUMN incbatch.workers.history_wal_bytes IS 'Bytes of WAL written for incbatch.batches since the worker started.';

CREATE VIEW incbatch.progress WITH (security_barrier) AS
SELECT p.relation::text AS pipeline, s.state AS phase,
       m.rows_done,
       greatest(m.rows_total, m.rows_done) AS rows_total,
       CASE WHEN m.rows_total > 0
            THEN pg_catalog.round(least(100.0 * m.rows_done / m.rows_total, 100.0), 1) END AS percent,
       CASE WHEN m.rows_done > 0 AND m.rows_total > 0
            THEN (pg_catalog.clock_timestamp() - m.backfill_started_at)
                 * (greatest(m.rows_total - m.rows_done, 0) / m.rows_done::float8) END AS eta,
       CASE WHEN s.state = 'initializing'
            THEN (SELECT 'the replication slot, which waits for ' || w.pinned_by FROM incbatch.workers w
                  WHERE w.database = pg_catalog.current_database() AND w.state = 'creating slot') END AS waits_for
FROM incbatch.path a
JOIN incbatch.pipeline p ON p.id = a.pipeline
JOIN incbatch.path_state s ON s.path = a.id
CROSS JOIN LATERAL incbatch.path_status(a.id, NULL, NULL) m
WHERE s.state IN ('initializing', 'backfilling') AND incbatch.may_see(p.relation);
COMMENT ON VIEW incbatch.progress IS 'One row a backfill under way.';
COMMENT ON COLUMN incbatch.progress.pipeline IS 'The pipeline.';
COMMENT ON COLUMN incbatch.progress.phase IS 'initializing (waits for the worker or the slot) or backfilling.';
COMMENT ON COLUMN incbatch.progress.rows_done IS 'Rows of the source read so far.';
COMMENT ON COLUMN incbatch.progress.rows_total IS 'Rows of the source, estimated.';
COMMENT ON COLUMN incbatch.progress.percent IS 'rows_done of rows_total; NULL before the scan has begun.';
COMMENT ON COLUMN incbatch.progress.eta IS 'Time left if it goes on like this; NULL before the scan has begun.';
COMMENT ON COLUMN incbatch.progress.waits_for IS 'The transaction that has to end before there can be a replication slot; otherwise NULL.';

-- ---------------------------------------------------------------------
-- The report
-- ---------------------------------------------------------------------

CREATE FUNCTION incbatch.report(name text, at timestamptz DEFAULT NULL, span interval DEFAULT '1 hour')
RETURNS text
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'ib_report';
COMMENT ON FUNCTION incbatch.report(text, timestamptz, interval) IS
'How a pipeline is doing, on one screen: its consumers beside their freshness, lag and batch time of its paths, the cost of each cadence, and the diagnosis. The charts are of the span before "at", by default of the last hour. In psql: SELECT incbatch.report(''...'') \g (tuples_only format=unaligned)';

-- ---------------------------------------------------------------------
-- Choosing
-- ---------------------------------------------------------------------

CREATE FUNCTION incbatch.in_words(t interval) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (SELECT CASE WHEN s <> ms / 1000.0 THEN ms || ' ms'
                    WHEN s IN (60, 3600, 86400) THEN '1 ' || CASE s WHEN 60 THEN 'minute' WHEN 3600 THEN 'hour' ELSE 'day' END
                    WHEN s >= 172800 AND s % 86400 = 0 THEN s / 86400 || ' days'
                    WHEN s >= 7200 AND s % 3600 = 0 THEN s / 3600 || ' hours'
                    WHEN s BETWEEN 120 AND 7200 AND s % 60 = 0 THEN s / 60 || ' minutes'
                    WHEN s < 120 THEN s || CASE s WHEN 1 THEN ' second' ELSE ' seconds' END
                    ELSE to_char(make_interval(secs => s), 'HH24:MI:SS') END
        FROM (SELECT floor(extract(epoch FROM t))::bigint AS s, round(extract(epoch FROM t) * 1000)::bigint AS ms) e);
COMMENT ON FUNCTION incbatch.in_words(interval) IS 'A length of time, short and as functions take it.';

CREATE FUNCTION incbatch.find_pipeline(name text) RETURNS regclass
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'ib_find_pipeline';
COMMENT ON FUNCTION incbatch.find_pipeline(text) IS 'The relation of a pipeline, or an error.';

CREATE FUNCTION incbatch.amount(value float8, name text) RETURNS float8
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'ib_amount';
COMMENT ON FUNCTION incbatch.amount(float8, text) IS 'The value of a parameter that is an amount of money, or an error; price_per_cpu_hour is by default the setting incbatch.cpu_hour_price.';

CREATE FUNCTION incbatch.fit_cost(runs float8[], rows float8[], groups float8[], cost float8[], assumed float8[])
RETURNS float8[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ib_fit_cost';
COMMENT ON FUNCTION incbatch.fit_cost(float8[], float8[], float8[], float8[], float8[]) IS
'What one run, one row and one group cost, so that together they explain the cost of batches: non-negative least squares of relative errors, with Huber''s weights against outliers (P. J. Huber, Robust Estimation of a Location Parameter, 1964). What the batches do not tell apart is divided in the proportions of assumed.';

CREATE FUNCTION incbatch.fit_groups(runs float8[], rows float8[], groups float8[], new_groups float8[])
RETURNS float8[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ib_fit_groups';
COMMENT ON FUNCTION incbatch.fit_groups(float8[], float8[], float8[], float8[]) IS
'How many groups a batch of n rows touches: {pool, fan-out, new} of pool * (1 - exp(-fan-out * n / pool)) + new * n. Rows fall on a pool of groups (n balls into pool urns), and new groups take the place of old ones.';

CREATE FUNCTION incbatch.touched_groups(groups float8[], rows float8) RETURNS float8
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN least(groups[2] * rows,
             groups[1] * (1 - exp(-least(groups[2] * rows / groups[1], 500))) + groups[3] * rows);
COMMENT ON FUNCTION incbatch.touched_groups(float8[], float8) IS 'Groups that a batch of so many rows touches, by what fit_groups found.';

CREATE TYPE incbatch.cost_parts AS (
    batches bigint, events bigint, span interval,
    events_per_day float8, transactions_per_day float8,
    work float8[], reading float8[], wal float8[], groups float8[],
    batch_ms_per_event float8, time_per_cpu float8, basis text
);
COMMENT ON TYPE incbatch.cost_parts IS 'What incbatch.fit found of a pipeline: CPU milliseconds of a run, a row and a group, without reading and of reading; WAL bytes of a run, of a group''s being new, and of a group; how many groups a batch touches; of the nightly batch, CPU milliseconds of an event, where a backfill was measured; elapsed time per CPU time.';

-- Assumed, where nothing is measured: a run costs 3 ms and reading for it
-- 0.4 ms, an event 0.5 and 0.4 us, a group 4 us and 180 bytes of WAL, a new one
-- 170 more: what test/bench/cadence found.  Only the proportions count as soon
-- as there is any history.
CREATE FUNCTION incbatch.fit(pipeline regclass) RETURNS incbatch.cost_parts
LANGUAGE sql STABLE
BEGIN ATOMIC
WITH line AS (
    SELECT b.path, b.started_at, b.finished_at, b.runs::float8 AS runs, b.rows_in::float8 AS rows,
           b.groups_changed::float8 AS groups, b.groups_new::float8 AS new_groups, b.transactions,
           b.cpu_ms - b.read_cpu_ms AS work_ms, b.read_cpu_ms, b.wal_bytes::float8 AS wal,
           b.started_at > now() - interval '1 day' AS recent
    FROM incbatch.batches b JOIN incbatch.pipelines p USING (pipeline)
    WHERE p.relation = fit.pipeline AND b.strategy <> 'rebuild' AND b.rows_in > 0 AND b.error IS NULL
), known AS (
    SELECT count(*) AS lines, coalesce(sum(runs), 0)::bigint AS batches, coalesce(sum(rows), 0)::bigint AS events,
           array_agg(runs) AS runs, array_agg(rows) AS rows, array_agg(groups) AS groups,
           array_agg(new_groups) AS new_groups, array_agg(read_cpu_ms) AS read_ms, array_agg(wal) AS wal,
           max(finished_at) - min(started_at) AS length,
           percentile_cont(0.9) WITHIN GROUP (ORDER BY rows / runs) <
           2 * percentile_cont(0.1) WITHIN GROUP (ORDER BY rows / runs) AS alike,
           sum(extract(epoch FROM finished_at - started_at)) FILTER (WHERE runs = 1) * 1000
           / nullif(sum(work_ms + read_cpu_ms) FILTER (WHERE runs = 1), 0) AS time_per_cpu
    FROM line
), rate AS (
    -- the last day, or what is known of it, up to now: idle time counts
    SELECT r.rows / r.days AS events, r.transactions / r.days AS transactions, r.days * interval '1 day' AS span
    FROM (SELECT sum(l.rows) AS rows, sum(l.transactions)::float8 AS transactions,
                 greatest(extract(epoch FROM least(now() - l.first, CASE WHEN bool_or(l.recent) THEN interval '1 day' END)), 1)::float8 / 86400 AS days
          FROM (SELECT l.*, min(l.started_at) OVER (PARTITION BY l.path) AS first,
                       bool_or(l.recent) OVER (PARTITION BY l.path) AS is_recent FROM line l) l
          WHERE l.recent OR NOT l.is_recent
          GROUP BY l.path, l.first) r
    ORDER BY r.rows DESC LIMIT 1
), backfill AS (
    SELECT b.cpu_ms / b.rows_in AS ms_per_event, b.rows_in::float8 AS rows,
           b.cpu_ms * b.transform_ms / nullif(b.transform_ms + b.merge_ms, 0) AS transform_cpu_ms
    FROM incbatch.batches b JOIN incbatch.pipelines p USING (pipeline)
    WHERE p.relation = fit.pipeline AND b.reason = 'backfill' AND b.rows_in >= 1000
    ORDER BY b.batch DESC LIMIT 1
), work AS (
    -- small batches hardly tell what an event costs in a large one; evaluating
    -- the query for a backfill does, and counts as a quarter as many batches as
    -- there are
    SELECT array_agg(w.runs) AS runs, array_agg(w.rows) AS rows, array_agg(w.groups) AS groups, array_agg(w.ms) AS ms
    FROM (SELECT runs, rows, groups, work_ms AS ms FROM line
          UNION ALL
          SELECT 1, b.rows, 0, b.transform_cpu_ms FROM backfill b,
               generate_series(1, (SELECT ceil(lines / 4.0)::int FROM known))
          WHERE b.transform_cpu_ms > 0) w
), assumed AS (
    SELECT '{1.5,0.0008,0.006}'::float8[] AS work, '{0.2,0.0008,0}'::float8[] AS reading, '{400,170,180}'::float8[] AS wal
)
SELECT k.batches, k.events, r.span,
       coalesce(r.events, 1e6), coalesce(r.transactions, 1e6),
       CASE WHEN k.lines > 0 THEN incbatch.fit_cost(w.runs, w.rows, w.groups, w.ms, a.work) ELSE a.work END,
       CASE WHEN k.lines > 0 THEN incbatch.fit_cost(k.runs, k.rows, k.groups, k.read_ms, a.reading) ELSE a.reading END,
       CASE WHEN k.lines > 0 THEN incbatch.fit_cost(k.runs, k.new_groups, k.groups, k.wal, a.wal) ELSE a.wal END,
       CASE WHEN k.lines > 0 THEN incbatch.fit_groups(k.runs, k.rows, k.groups, k.new_groups) ELSE '{1e3,1,0}' END,
       (SELECT ms_per_event FROM backfill), greatest(k.time_per_cpu, 1),
       CASE WHEN k.lines = 0 THEN 'assumed, no history: a million events a day'
            ELSE concat(CASE WHEN k.batches < 10 THEN 'mostly assumed, from only ' ELSE 'fitted from ' END,
                        k.batches, CASE WHEN k.batches = 1 THEN ' batch' ELSE ' batches' END,
                        ', ', k.events, ' events in ', incbatch.in_words(CASE WHEN k.length >= '1 second' THEN date_trunc('second', k.length) ELSE k.length END),
                        CASE WHEN k.batches >= 10 AND k.alike THEN '; all alike, so what a run costs is assumed' END)
       END
FROM known k CROSS JOIN work w CROSS JOIN assumed a LEFT JOIN rate r ON true;
END;
COMMENT ON FUNCTION incbatch.fit(regclass) IS 'Fits what runs, events and groups of a pipeline cost to its history in incbatch.batches, with the last backfill of at least 1,000 rows as one large batch.';

CREATE FUNCTION incbatch.cost_of_cadence(parts incbatch.cost_parts, cadence interval,
    OUT runs float8, OUT cpu_ms float8, OUT wal_bytes float8, OUT run_ms float8)
LANGUAGE sql STABLE
BEGIN ATOMIC
SELECT r.runs,
       r.runs * (parts.work[1] + parts.reading[1]) + parts.events_per_day * (parts.work[2] + parts.reading[2])
       + r.runs * g.groups * (parts.work[3] + parts.reading[3]),
       r.runs * parts.wal[1] + parts.events_per_day * parts.groups[3] * parts.wal[2] + r.runs * g.groups * parts.wal[3],
       (parts.work[1] + parts.reading[1] + r.rows * (parts.work[2] + parts.reading[2])
        + g.groups * (parts.work[3] + parts.reading[3])) * coalesce(parts.time_per_cpu, 1)
FROM (SELECT r.runs, parts.events_per_day / nullif(r.runs, 0) AS rows
      FROM (SELECT least(86400 / greatest(extract(epoch FROM cadence)::float8, 0.001),
                         parts.transactions_per_day) AS runs) r) r
CROSS JOIN LATERAL (SELECT coalesce(incbatch.touched_groups(parts.groups, r.rows), 0) AS groups) g;
END;
COMMENT ON FUNCTION incbatch.cost_of_cadence(incbatch.cost_parts, interval) IS
'A day at a cadence: runs (one a trigger, but no more than there are transactions), CPU and WAL, and the time of one run.';

CREATE FUNCTION incbatch.nightly_ms(parts incbatch.cost_parts) RETURNS float8
LANGUAGE sql STABLE
RETURN coalesce(parts.batch_ms_per_event * parts.events_per_day,
                parts.work[1] + parts.work[2] * parts.events_per_day
                + parts.work[3] * incbatch.touched_groups(parts.groups, parts.events_per_day));
COMMENT ON FUNCTION incbatch.nightly_ms(incbatch.cost_parts) IS
'CPU milliseconds of one nightly batch of the query over the events of one day: CPU of the last backfill per row that it read, times the events of a day; where no backfill of at least 1,000 rows was measured, one run without reading the WAL.';

CREATE FUNCTION incbatch.cost(name text, price_per_cpu_hour numeric DEFAULT NULL)
RETURNS TABLE (trigger_interval interval, staleness_max interval, cpu_seconds_per_day numeric,
               wal_mb_per_day numeric, cost_per_million_events numeric, cost_per_day numeric,
               times_batch numeric, basis text)
LANGUAGE sql STABLE
BEGIN ATOMIC
SELECT t.cadence, t.cadence + make_interval(secs => round((d.run_ms / 1000)::numeric, 3)::float8),
       round((d.cpu_ms / 1000)::numeric, 3),
       round((d.wal_bytes / 1048576)::numeric, 3),
       round((d.cpu_ms / 3.6e6 * m.price / nullif(f.events_per_day, 0) * 1e6)::numeric, 9),
       round((d.cpu_ms / 3.6e6 * m.price)::numeric, 6),
       round((d.cpu_ms / nullif(incbatch.nightly_ms(f), 0))::numeric, 2),
       f.basis
FROM (SELECT incbatch.find_pipeline(cost.name) AS relation,
             incbatch.amount(cost.price_per_cpu_hour::float8, 'price_per_cpu_hour') AS price) m
CROSS JOIN LATERAL incbatch.fit(m.relation) f
CROSS JOIN unnest('{1 second,10 seconds,1 minute,5 minutes,15 minutes,1 hour,6 hours,1 day}'::interval[]) t(cadence)
CROSS JOIN LATERAL incbatch.cost_of_cadence(f, t.cadence) d
ORDER BY t.cadence;
END;
COMMENT ON FUNCTION incbatch.cost(text, numeric) IS
'What each cadence costs a day: CPU = runs * a + events * b + runs * groups(events / runs) * c, WAL likewise, where a run, an event and a touched group cost a, b and c, fitted from the pipeline''s own batches (incbatch.fit_cost), and groups() grows less than its events do (incbatch.fit_groups). Events are those of the last day, idle time included, or of as much of it as the history tells. staleness_max is the trigger interval and the time of a run. times_batch compares with one nightly batch over the events of the day (incbatch.nightly_ms). Prices are those of CPU, at price_per_cpu_hour or incbatch.cpu_hour_price. basis says what it was fitted on, and what is assumed.';


-- What each consumer of a pipeline has: its path's trigger and, of that path's
-- batches, the time that 99 of 100 take.  A pipeline without consumers has one
-- row a path, with consumer NULL.
CREATE FUNCTION incbatch.readers(pipeline regclass)
RETURNS TABLE (pipeline_name text, consumer text, freshness interval, trigger_interval interval,
               path int, batches bigint, p99 interval, state text, status text)
LANGUAGE sql STABLE
BEGIN ATOMIC
SELECT p.pipeline, c.consumer, c.freshness, a.trigger_interval, a.path, coalesce(b.n, 0), b.p99, a.state,
       (SELECT min(l.status) FROM incbatch.lag l
        WHERE l.pipeline = p.pipeline AND l.consumer IS NOT DISTINCT FROM c.consumer)
FROM incbatch.pipelines p
JOIN incbatch.paths a ON a.pipeline = p.pipeline
LEFT JOIN incbatch.consumers c ON c.path = a.path
LEFT JOIN LATERAL (
    SELECT sum(b.runs)::bigint AS n,
           percentile_disc(0.99) WITHIN GROUP (ORDER BY (b.finished_at - b.started_at) / b.runs) AS p99
    FROM incbatch.batches b
    WHERE b.path = a.path AND b.strategy <> 'rebuild' AND b.rows_in > 0 AND b.error IS NULL
) b ON true
WHERE p.relation = readers.pipeline;
END;
COMMENT ON FUNCTION incbatch.readers(regclass) IS 'The consumers of a pipeline, or its paths if it has none, with the time of their batches.';

CREATE FUNCTION incbatch.advise(name text, value_per_minute numeric DEFAULT NULL)
RETURNS TABLE (consumer text, freshness interval, trigger_interval interval, recommended interval,
               saving_percent numeric, advice text)
LANGUAGE sql STABLE
BEGIN ATOMIC
WITH given AS (
    SELECT incbatch.find_pipeline(advise.name) AS relation,
           incbatch.amount(advise.value_per_minute::float8, 'value_per_minute') AS value,
           incbatch.amount(NULL, 'price_per_cpu_hour') / 3.6e6 AS price
), kept AS (
    -- a batch takes longer where it runs less often: in the proportion of the model
    SELECT r.*, f AS parts, g.value, g.price,
           make_interval(secs => (CASE WHEN s >= 10 THEN floor(s) ELSE floor(s * 1000) / 1000 END)::float8) AS best
    FROM given g
    CROSS JOIN LATERAL incbatch.fit(g.relation) f
    CROSS JOIN LATERAL incbatch.readers(g.relation) r
    CROSS JOIN LATERAL (
        SELECT coalesce(r.p99, '0') * greatest(slow.run_ms / nullif(now.run_ms, 0), 1) AS p99
        FROM incbatch.cost_of_cadence(f, r.trigger_interval) now, incbatch.cost_of_cadence(f, r.freshness * 0.8) slow
    ) b
    CROSS JOIN LATERAL (
        SELECT extract(epoch FROM CASE WHEN r.freshness IS NULL THEN r.trigger_interval
                                       ELSE greatest(least(r.freshness * 0.8, r.freshness - b.p99), '0') END) AS s
    ) e
), priced AS (
    SELECT k.*, now.cpu_ms * k.price AS cost, best.cpu_ms * k.price AS best_cost,
           extract(epoch FROM k.best) / nullif(extract(epoch FROM k.trigger_interval), 0) AS ratio,
           CASE WHEN k.best = '0' THEN incbatch.in_words(2 * k.p99) ELSE incbatch.in_words(k.freshness) END AS wanted,
           v.cadence AS worth, v.cpu_ms * k.price AS worth_cost
    FROM kept k
    CROSS JOIN LATERAL incbatch.cost_of_cadence(k.parts, k.trigger_interval) now
    CROSS JOIN LATERAL incbatch.cost_of_cadence(k.parts, k.best) best
    LEFT JOIN LATERAL (
        -- the cadence at which a day's cost and what its latency loses are least
        SELECT t.cadence, d.cpu_ms
        FROM unnest(ARRAY['1 second', '10 seconds', '1 minute', '5 minutes', '15 minutes', '1 hour', '6 hours', '1 day',
                          k.trigger_interval, k.best]::interval[]) t(cadence)
        CROSS JOIN LATERAL incbatch.cost_of_cadence(k.parts, t.cadence) d
        WHERE k.value IS NOT NULL
        ORDER BY d.cpu_ms * k.price + extract(epoch FROM t.cadence)::float8 / 60 * k.value, t.cadence DESC LIMIT 1
    ) v ON true
)
SELECT p.consumer, p.freshness, p.trigger_interval, p.best,
       round((100 * (1 - p.best_cost / nullif(p.cost, 0)))::numeric, 1),
       concat_ws(' ',
       CASE WHEN p.freshness IS NULL THEN
                format('No consumer has said how fresh it needs this; tell it: SELECT incbatch.create_consumer(%L, %L, freshness => %L);',
                       'dashboard', p.pipeline_name, incbatch.in_words(greatest(p.trigger_interval * 1.25, '5 seconds')))
            WHEN p.best = '0' THEN
                format('This freshness cannot be kept: a batch takes %s (p99). SELECT incbatch.set_freshness(%L, %L, %L);',
                       incbatch.in_words(p.p99), p.consumer, p.pipeline_name, p.wanted)
            WHEN p.ratio > 1.01 OR p.ratio IS NULL THEN
                format('Runs every %s, while every %s keeps its freshness: SELECT incbatch.set_freshness(%L, %L, %L);',
                       incbatch.in_words(p.trigger_interval), incbatch.in_words(p.best), p.consumer, p.pipeline_name, p.wanted)
            WHEN p.ratio < 0.99 THEN
                format('Every %s is too seldom for its freshness, with a batch of %s (p99): SELECT incbatch.set_freshness(%L, %L, %L);',
                       incbatch.in_words(p.trigger_interval), incbatch.in_words(coalesce(p.p99, '0')),
                       p.consumer, p.pipeline_name, p.wanted)
            ELSE 'Keep it: no slower trigger keeps this freshness.' END,
       CASE WHEN p.worth IS NULL THEN NULL
            WHEN p.worth = p.trigger_interval THEN 'Its latency is worth its cost.'
            ELSE format('At %s a day for a minute, every %s is worth it: %s a day instead of %s.',
                        p.value, incbatch.in_words(p.worth), round(p.worth_cost::numeric, 4), round(p.cost::numeric, 4)) END,
       CASE WHEN (p.parts).batches < 10 THEN '(' || (p.parts).basis || ')' END)
FROM priced p
ORDER BY p.freshness, p.trigger_interval, p.consumer;
END;
COMMENT ON FUNCTION incbatch.advise(text, numeric) IS
'For each consumer of a pipeline the largest trigger interval that keeps its freshness: 4/5 of it, and less if that and the time of a batch (99 of 100 measured ones, longer for larger batches) would be more than it. saving_percent is of the CPU of its path, by incbatch.cost; below 0: it costs more. value_per_minute is what it is worth a day, in the currency of incbatch.cpu_hour_price, that rows are a minute fresher: the advice then says at which cadence cost and lost freshness are least. A pipeline without consumers has one row.';

CREATE FUNCTION incbatch.diagnose(name text)
RETURNS TABLE (question text, answer text, evidence jsonb, action text)
LANGUAGE sql STABLE
BEGIN ATOMIC
WITH given AS MATERIALIZED (
    -- looked up even where the view shows no row, so that it says why
    SELECT incbatch.find_pipeline(diagnose.name) AS relation
), p AS (
    SELECT p.pipeline, p.state, p.strategy, p.last_error
    FROM given g LEFT JOIN incbatch.pipelines p USING (relation)
), reader AS (
    SELECT r.* FROM given g CROSS JOIN LATERAL incbatch.readers(g.relation) r
), b AS (
    SELECT coalesce(sum(b.runs), 0)::bigint AS batches, sum(b.rows_in)::bigint AS events,
           sum(b.groups_changed)::bigint AS groups,
           coalesce(sum(b.runs) FILTER (WHERE b.strategy = 'recompute'), 0)::bigint AS recomputed,
           sum(b.cpu_ms) FILTER (WHERE b.strategy = 'recompute') / nullif(sum(b.cpu_ms), 0) AS recomputed_cpu,
           sum(b.read_ms + b.ahead_ms) AS read_ms, sum(b.transform_ms) AS transform_ms,
           sum(b.merge_ms) AS merge_ms, sum(b.commit_ms) AS commit_ms,
           nullif(sum(b.read_ms + b.ahead_ms + b.transform_ms + b.merge_ms + b.commit_ms), 0) AS all_ms
    FROM incbatch.batches b, p
    WHERE b.pipeline = p.pipeline AND b.strategy <> 'rebuild' AND b.rows_in > 0 AND b.error IS NULL
), busiest AS (
    SELECT r.*, extract(epoch FROM r.p99) / nullif(extract(epoch FROM r.trigger_interval), 0) AS used
    FROM reader r ORDER BY extract(epoch FROM r.p99) / nullif(extract(epoch FROM r.trigger_interval), 0) DESC NULLS LAST,
        r.freshness, r.consumer
    LIMIT 1
), stopped AS (
    SELECT CASE WHEN p.state NOT IN ('running') THEN 'unknown: the pipeline is ' || p.state END AS answer,
           CASE p.state WHEN 'paused' THEN format('SELECT incbatch.resume_pipeline(%L);', p.pipeline)
                        WHEN 'failed' THEN format('SELECT incbatch.resume_pipeline(%L);', p.pipeline)
                        WHEN 'needs_rebuild' THEN format('SELECT incbatch.rebuild_pipeline(%L);', p.pipeline)
                        WHEN 'running' THEN NULL
                        ELSE 'TABLE incbatch.progress;' END AS action
    FROM p
), many AS (
    SELECT count(r.consumer) AS consumers, count(DISTINCT r.path) AS paths,
           count(DISTINCT r.freshness) AS freshnesses,
           min(r.freshness) AS strictest, max(r.freshness) AS laxest,
           -- on one path the laxest is served as often as the strictest
           max(extract(epoch FROM r.freshness) / nullif(extract(epoch FROM r.trigger_interval), 0)) AS overserved,
           (array_agg(r.consumer ORDER BY extract(epoch FROM r.freshness)
                      / nullif(extract(epoch FROM r.trigger_interval), 0) DESC NULLS LAST, r.consumer))[1] AS most
    FROM reader r
), place AS (
    SELECT v.place, v.ms / b.all_ms AS part FROM b
    CROSS JOIN LATERAL (VALUES ('transform', b.transform_ms), ('reading', b.read_ms), ('merging', b.merge_ms), ('committing', b.commit_ms)) v(place, ms)
    ORDER BY v.ms DESC NULLS LAST LIMIT 1
)
SELECT a.question, a.answer, jsonb_strip_nulls(a.evidence), a.action
FROM (
    SELECT 1 AS number, 'Has volume outgrown the cadence?' AS question,
           CASE WHEN s.answer IS NOT NULL THEN s.answer || coalesce(': ' || p.last_error, '')
                WHEN r.p99 IS NULL THEN 'unknown: no batches yet'
                WHEN r.status IN ('falling behind', 'stuck') OR r.used > 1 THEN
                    format('yes: a batch takes %s (p99) at a trigger of %s%s', incbatch.in_words(r.p99),
                           incbatch.in_words(r.trigger_interval),
                           CASE WHEN r.status IN ('falling behind', 'stuck') THEN ', and it is ' || r.status END)
                WHEN r.used IS NULL THEN format('no: it runs as soon as there is work; a batch takes %s (p99)', incbatch.in_words(r.p99))
                WHEN r.used > 0.5 THEN format('nearly: a batch takes %s %% of its trigger (p99)', round(100 * r.used))
                ELSE format('no: a batch takes %s %% of its trigger (p99)', round(100 * r.used, 1)) END AS answer,
           jsonb_build_object('batches', b.batches, 'events', b.events, 'state', p.state, 'status', r.status,
                              'batch_p99', r.p99, 'trigger_interval', r.trigger_interval, 'consumer', r.consumer) AS evidence,
           CASE WHEN s.action IS NOT NULL THEN s.action
                WHEN r.status = 'stuck' THEN 'TABLE incbatch.workers;'
                WHEN r.status = 'falling behind' OR r.used > 0.5 THEN
                    CASE WHEN r.consumer IS NULL
                         THEN format('SELECT incbatch.alter_pipeline(%L, trigger_interval => %L);', p.pipeline,
                                     incbatch.in_words(date_trunc('second', 4 * r.p99) + '1 second'))
                         ELSE format('SELECT incbatch.set_freshness(%L, %L, %L);', r.consumer, p.pipeline,
                                     incbatch.in_words(date_trunc('second', 5 * r.p99) + '1 second')) END
                ELSE 'none' END AS action
    FROM p CROSS JOIN b CROSS JOIN stopped s LEFT JOIN busiest r ON true
    UNION ALL
    SELECT 2, 'Is the transform incremental?',
           CASE WHEN b.batches = 0 THEN CASE p.strategy WHEN 'delta' THEN 'yes, by its query: groups are adjusted by their changes'
                                             WHEN 'recompute' THEN 'no, by its query: every change evaluates its group again'
                                             ELSE 'mostly, by its query: some retractions evaluate their group again' END
                WHEN b.recomputed = 0 THEN format('yes: %s adjusted groups by their changes',
                                                  CASE b.batches WHEN 1 THEN 'the one batch' ELSE 'all ' || b.batches || ' batches' END)
                ELSE format('%s: %s of %s batches evaluated groups again from the source, %s %% of the CPU',
                            CASE WHEN b.recomputed_cpu > 0.5 THEN 'no' ELSE 'mostly' END,
                            b.recomputed, b.batches, round((100 * b.recomputed_cpu)::numeric, 1)) END,
           jsonb_build_object('strategy', p.strategy, 'batches', b.batches, 'recomputed', b.recomputed,
                              'recomputed_cpu', round(b.recomputed_cpu::numeric, 3)),
           CASE WHEN b.recomputed > 0 OR p.strategy <> 'delta'
                THEN format('SELECT * FROM incbatch.explain_pipeline(%L);', p.pipeline) ELSE 'none' END
    FROM p CROSS JOIN b
    UNION ALL
    SELECT 3, 'Do consumers need different freshness?',
           CASE WHEN m.consumers = 0 THEN 'unknown: nobody has said what freshness is needed'
                WHEN m.overserved > 4 THEN
                    format('yes: %L accepts %s old rows and is served every %s', m.most,
                           (SELECT incbatch.in_words(r.freshness) FROM reader r WHERE r.consumer = m.most LIMIT 1),
                           (SELECT incbatch.in_words(r.trigger_interval) FROM reader r WHERE r.consumer = m.most LIMIT 1))
                WHEN m.freshnesses > 1 THEN format('yes, and they have it: %s consumers, %s freshnesses, %s paths',
                                                   m.consumers, m.freshnesses, m.paths)
                WHEN m.consumers = 1 THEN 'no: there is one consumer'
                ELSE format('no: all %s consumers accept the same', m.consumers) END,
           jsonb_build_object('consumers', m.consumers, 'freshnesses', m.freshnesses, 'paths', m.paths,
                              'strictest', m.strictest, 'laxest', m.laxest),
           CASE WHEN m.consumers = 0 THEN format('SELECT incbatch.create_consumer(%L, %L, freshness => %L);',
                                                 'dashboard', p.pipeline, '5 minutes')
                WHEN m.overserved > 4 THEN (SELECT format('SELECT incbatch.set_freshness(%L, %L, %L);', m.most, p.pipeline,
                                                          incbatch.in_words(r.freshness))
                                            FROM reader r WHERE r.consumer = m.most LIMIT 1)
                ELSE 'none' END
    FROM p CROSS JOIN many m
    UNION ALL
    SELECT 4, 'Is the time spent in the transform or in reading and writing?',
           CASE WHEN b.batches = 0 THEN 'unknown: no batches yet'
                ELSE format('%s: %s %% of the time of %s', place.place, round((100 * place.part)::numeric),
                            CASE WHEN b.batches = 1 THEN '1 batch' ELSE b.batches || ' batches' END) END,
           jsonb_build_object('batches', b.batches, 'events', b.events, 'groups', b.groups,
                              'read_ms', round(b.read_ms::numeric), 'transform_ms', round(b.transform_ms::numeric),
                              'merge_ms', round(b.merge_ms::numeric), 'commit_ms', round(b.commit_ms::numeric)),
           CASE WHEN b.batches = 0 THEN 'none'
                WHEN place.place = 'transform' THEN format('SELECT * FROM incbatch.explain_pipeline(%L);', p.pipeline)
                WHEN b.events < 1000 * b.batches THEN format('SELECT * FROM incbatch.cost(%L);', p.pipeline)
                WHEN place.place = 'merging' THEN format('SELECT * FROM incbatch.explain_pipeline(%L);', p.pipeline)
                ELSE 'none' END
    FROM p CROSS JOIN b CROSS JOIN place
) a
ORDER BY a.number;
END;
COMMENT ON FUNCTION incbatch.diagnose(text) IS
'The four questions to ask of a slow pipeline, answered from its batches: has volume outgrown the cadence (the time of 99 of 100 batches against their trigger); is the transform incremental (batches that evaluated groups again from the source); do consumers need different freshness; is the time spent in the transform or in reading and writing. evidence is what the answer was made from, action a statement to paste, or none.';

COMMENT ON SCHEMA incbatch IS 'Aggregate tables kept up to date from the WAL.';
GRANT USAGE ON SCHEMA incbatch TO PUBLIC;
GRANT SELECT ON incbatch.tiers, incbatch.pipelines, incbatch.paths, incbatch.consumers,
                incbatch.lag, incbatch.batches, incbatch.workers, incbatch.progress, incbatch.late_rows,
                incbatch.failed_rows TO PUBLIC;

-- What makes pipelines, changes them or gives them work.  The other functions
-- compute, or ask whether the caller may see or read the pipeline.
REVOKE EXECUTE ON FUNCTION
    incbatch.create_pipeline, incbatch.alter_pipeline, incbatch.drop_pipeline,
    incbatch.pause_pipeline, incbatch.resume_pipeline, incbatch.rebuild_pipeline,
    incbatch.create_consumer, incbatch.set_tier, incbatch.set_freshness, incbatch.drop_consumer,
    incbatch.on_drop, incbatch.on_rewrite, incbatch.refuse_change,
    incbatch.on_pipeline_insert, incbatch.on_path_insert, incbatch.on_tier_insert, incbatch.on_rename FROM PUBLIC;
REVOKE EXECUTE ON PROCEDURE incbatch.refresh_pipeline FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    incbatch.create_pipeline, incbatch.alter_pipeline, incbatch.drop_pipeline,
    incbatch.pause_pipeline, incbatch.resume_pipeline, incbatch.rebuild_pipeline,
    incbatch.create_consumer, incbatch.set_tier, incbatch.set_freshness, incbatch.drop_consumer TO incbatch_user;
GRANT EXECUTE ON PROCEDURE incbatch.refresh_pipeline TO incbatch_user;

SELECT pg_catalog.pg_extension_config_dump('incbatch.pipeline', '');
SELECT pg_catalog.pg_extension_config_dump('incbatch.pipeline_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('incbatch.path', '');
SELECT pg_catalog.pg_extension_config_dump('incbatch.path_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('incbatch.consumer', '');
SELECT pg_catalog.pg_extension_config_dump('incbatch.consumer_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('incbatch.tiers', '');
