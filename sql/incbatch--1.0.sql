/* incbatch 1.0 */

\echo Use "CREATE EXTENSION incbatch" to load this file. \quit

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
    created_at       timestamptz NOT NULL DEFAULT pg_catalog.now()
);

CREATE TABLE incbatch.path (
    id               int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline         int NOT NULL REFERENCES incbatch.pipeline ON DELETE CASCADE,
    relation         regclass NOT NULL UNIQUE,
    trigger_interval interval NOT NULL,
    state            text NOT NULL DEFAULT 'initializing'
        CHECK (state IN ('initializing', 'backfilling', 'running', 'failed', 'needs_rebuild')),
    state_since      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    last_error       text
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
    pipeline         int NOT NULL REFERENCES incbatch.pipeline ON DELETE CASCADE,
    path             int NOT NULL REFERENCES incbatch.path,
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

CREATE TABLE incbatch.batch (
    batch          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    path           int NOT NULL REFERENCES incbatch.path ON DELETE CASCADE,
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
    error          text
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
COMMENT ON COLUMN incbatch.pipeline.created_at IS 'When the pipeline was created.';

COMMENT ON TABLE incbatch.path IS 'Paths: one pipeline at one cadence, with its state table.';
COMMENT ON COLUMN incbatch.path.id IS 'Number of the path.';
COMMENT ON COLUMN incbatch.path.pipeline IS 'The pipeline it belongs to.';
COMMENT ON COLUMN incbatch.path.relation IS 'The state table.';
COMMENT ON COLUMN incbatch.path.trigger_interval IS 'How often the path runs.';
COMMENT ON COLUMN incbatch.path.state IS 'initializing, backfilling, running, failed or needs_rebuild.';
COMMENT ON COLUMN incbatch.path.state_since IS 'When the state was entered.';
COMMENT ON COLUMN incbatch.path.last_error IS 'Why the path stopped, and the function that brings it back.';

COMMENT ON TABLE incbatch.tiers IS 'Named freshnesses for consumers to pick; the administrator edits them. A change holds for consumers that pick the tier from then on.';
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
COMMENT ON COLUMN incbatch.frontier.meaning IS 'A hash of the functions that the query calls, and of the labels of enums that it turns into text.';
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

COMMENT ON TABLE incbatch.batch IS 'What each batch did; incbatch.batch_history says how many are kept.';
COMMENT ON COLUMN incbatch.batch.batch IS 'Number of the batch.';
COMMENT ON COLUMN incbatch.batch.path IS 'The path.';
COMMENT ON COLUMN incbatch.batch.started_at IS 'When the run began.';
COMMENT ON COLUMN incbatch.batch.finished_at IS 'When its changes became visible.';
COMMENT ON COLUMN incbatch.batch.reason IS 'trigger, refresh, full (memory), quiet or copy.';
COMMENT ON COLUMN incbatch.batch.transactions IS 'Source transactions folded in.';
COMMENT ON COLUMN incbatch.batch.rows_in IS 'Changes folded in; an update counts as two.';
COMMENT ON COLUMN incbatch.batch.groups_changed IS 'Groups that the changes touched.';
COMMENT ON COLUMN incbatch.batch.read_ms IS 'Milliseconds spent reading the WAL within the run.';
COMMENT ON COLUMN incbatch.batch.transform_ms IS 'Milliseconds spent evaluating the query over the changes.';
COMMENT ON COLUMN incbatch.batch.merge_ms IS 'Milliseconds spent merging into the state table, recompute included.';
COMMENT ON COLUMN incbatch.batch.commit_ms IS 'Milliseconds spent storing the frontier and committing.';
COMMENT ON COLUMN incbatch.batch.cpu_ms IS 'CPU milliseconds of the worker for the run.';
COMMENT ON COLUMN incbatch.batch.wal_bytes IS 'WAL written by the run, in bytes.';
COMMENT ON COLUMN incbatch.batch.latency_max IS 'Largest time from a source transaction''s commit to its visibility.';
COMMENT ON COLUMN incbatch.batch.strategy IS 'delta; none where it failed; recompute where groups were evaluated again from the source; rebuild where all were, because a tracked lookup was truncated.';
COMMENT ON COLUMN incbatch.batch.rows_late IS 'Changes to closed windows.';
COMMENT ON COLUMN incbatch.batch.rows_ahead IS 'Rows whose event time was infinite or too far ahead of the clock to drive the watermark.';
COMMENT ON COLUMN incbatch.batch.error IS 'Error that stopped the pipeline in this batch, whose figures are then 0; NULL: none.';

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
'Keeps the result of a query up to date. name is the view to create, [schema.]relation; query the batch SQL, SELECT ... FROM source [JOIN lookup ...] [WHERE ...] GROUP BY .... trigger_interval is how often changes are folded in, ''0'' as soon as there are any. track_lookups folds in changes of the joined tables too; without it a lookup is read when a change of the source is folded in. With lateness, a window closes when an event so much later than its end was seen; late_policy says what happens to later changes to it: ''divert'' to incbatch.late_rows, ''drop'', or ''apply''; with retention, windows that ended so long before the watermark are removed. Returns at once; the worker backfills. A query that cannot be kept exact is refused with the reason.';

CREATE FUNCTION incbatch.alter_pipeline(
    name             text,
    trigger_interval interval DEFAULT NULL,
    lateness         interval DEFAULT NULL,
    late_policy      text     DEFAULT NULL,
    retention        interval DEFAULT NULL
) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'ib_alter_pipeline';
COMMENT ON FUNCTION incbatch.alter_pipeline(text, interval, interval, text, interval) IS
'Changes a pipeline''s cadence, and when its windows close; NULL leaves a value as it is. Closed windows stay closed. Late changes that were kept out come in when late_policy changes to ''apply'', by a rebuild.';

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
'Runs a pipeline now, with all its paths, and returns when everything that was visible before the call is in the aggregate. Waits for a backfill that is under way; an error where the pipeline is paused, failed or needs a rebuild.';

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
'One row for each transform of a pipeline''s query: whether it is stateless or stateful; whether changes adjust it (delta) or evaluate its groups again from the source (recompute); how many keys and bytes of state it has (in the freshest path); and, for recompute, what is read and which index serves it. Only for the owner; reads the whole state table.';

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
'Event trigger: a pipeline whose source, or tracked lookup, is set UNLOGGED, or LOGGED again, needs a rebuild, for rows written in between are in no WAL.';

CREATE EVENT TRIGGER incbatch_on_rewrite ON table_rewrite EXECUTE FUNCTION incbatch.on_rewrite();
ALTER EVENT TRIGGER incbatch_on_rewrite ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER incbatch_on_rewrite IS 'A pipeline whose source is set UNLOGGED, or LOGGED again, needs a rebuild.';

-- ---------------------------------------------------------------------
-- What shared memory knows
-- ---------------------------------------------------------------------

CREATE FUNCTION incbatch.worker_status(
    OUT database oid, OUT pid int, OUT state text,
    OUT heartbeat_at timestamptz, OUT rows_decoded bigint,
    OUT activity text, OUT activity_since timestamptz, OUT wait_event text,
    OUT restarts int, OUT last_error text
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
       CASE WHEN a.state = 'needs_rebuild'
              OR f.path IS NOT NULL AND NOT EXISTS (
                SELECT FROM incbatch.slot s
                WHERE incbatch.is_at_home(s.database, s.system_identifier))
                AND a.state NOT IN ('initializing', 'backfilling')
            THEN 'needs_rebuild'
            WHEN p.paused THEN 'paused'
            ELSE a.state END AS state,
       coalesce(p.paused_at, a.state_since) AS state_since
FROM incbatch.path a
JOIN incbatch.pipeline p ON p.id = a.pipeline
LEFT JOIN incbatch.frontier f ON f.path = a.id;
COMMENT ON VIEW incbatch.path_state IS 'The state of each path, as incbatch.pipelines shows it.';
COMMENT ON COLUMN incbatch.path_state.path IS 'Number of the path.';
COMMENT ON COLUMN incbatch.path_state.state IS 'initializing, backfilling, running, paused, failed or needs_rebuild.';
COMMENT ON COLUMN incbatch.path_state.state_since IS 'When the state was entered.';

CREATE VIEW incbatch.pipelines AS
SELECT p.relation::text AS pipeline, p.relation, p.query, p.source,
       (SELECT t.attname FROM pg_catalog.pg_attribute t
        WHERE t.attrelid = p.source AND t.attnum = p.event_time) AS event_time,
       p.lateness, p.late_policy, p.trigger_interval,
       nullif(w.watermark, '-infinity') AS watermark,
       s.state, p.strategy,
       pg_catalog.pg_get_userbyid(c.relowner) AS owner,
       s.last_error, p.created_at, p.definition, p.append_only, p.track_lookups,
       p.retention, w.rows_late, w.rows_ahead
FROM incbatch.pipeline p
JOIN LATERAL (  -- the freshest path
    SELECT a.id, a.relation FROM incbatch.path a
    WHERE a.pipeline = p.id ORDER BY a.trigger_interval, a.id LIMIT 1) f ON true
JOIN LATERAL (  -- the one in the worst state
    SELECT s.state, a.last_error
    FROM incbatch.path a
    JOIN incbatch.path_state s ON s.path = a.id
    WHERE a.pipeline = p.id
    ORDER BY pg_catalog.array_position('{needs_rebuild,failed,paused,initializing,backfilling,running}'::text[], s.state),
             a.trigger_interval, a.id
    LIMIT 1) s ON true
LEFT JOIN incbatch.path_watermark w ON w.path = f.id AND p.lateness IS NOT NULL
LEFT JOIN pg_catalog.pg_class c ON c.oid = f.relation;
COMMENT ON VIEW incbatch.pipelines IS 'One row a pipeline. Where it has several paths, state and last_error are those of the path in the worst state, and the watermark is the freshest path''s.';
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

CREATE VIEW incbatch.paths AS
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
CROSS JOIN LATERAL incbatch.path_status(a.id, f.lsn, f.as_of) m;
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
CREATE VIEW incbatch.lag AS
WITH promised AS (
    SELECT c.consumer, p.relation::text AS pipeline, c.tier, c.freshness, a.trigger_interval,
           coalesce(c.freshness, greatest(a.trigger_interval * 1.25, a.trigger_interval + '1 second')) AS allowed,
           1.5 * greatest(a.trigger_interval, '1 second') AS patience,
           a.id AS path, s.state, s.state_since, a.last_error, f.lsn, f.as_of AS stored_as_of,
           nullif(w.watermark, '-infinity') AS watermark
    FROM incbatch.path a
    JOIN incbatch.pipeline p ON p.id = a.pipeline
    JOIN incbatch.path_state s ON s.path = a.id
    LEFT JOIN incbatch.consumer c ON c.path = a.id
    LEFT JOIN incbatch.frontier f ON f.path = a.id
    LEFT JOIN incbatch.path_watermark w ON w.path = a.id AND p.lateness IS NOT NULL
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
            WHEN status = 'failed' THEN coalesce(last_error, 'this database is a copy; run incbatch.rebuild_pipeline')
            WHEN status = 'paused' THEN 'run incbatch.resume_pipeline'
            WHEN worker = 'absent' THEN 'no worker runs; incbatch.workers says why'
            WHEN worker = 'stopped' THEN 'the worker does not respond'
            WHEN locked IS NOT NULL
            THEN pg_catalog.format('%s is locked%s', locked::regclass,
                     (SELECT ' by process ' || pg_catalog.string_agg(DISTINCT l.pid::text, ', ')
                      FROM pg_catalog.pg_locks l
                      WHERE l.relation = locked AND l.granted AND l.locktype = 'relation'
                        AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d
                                          WHERE d.datname = pg_catalog.current_database())
                        AND l.mode NOT IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')))
            WHEN worker = 'blocked' THEN 'the worker waits for a lock, ' || worker_activity
            WHEN worker = 'starting' THEN 'the worker starts'
            ELSE 'the worker is ' || worker_activity END AS reason,
       path
FROM judged;
COMMENT ON VIEW incbatch.lag IS 'How fresh each consumer is (a pipeline without any has one row), computed by the reader: true when the worker is dead, too. The worker sends a NOTIFY on channel incbatch_status when it sees a status change: JSON with pipeline, path, consumer, from, to, at. It looks once a second, between its batches; from is what it told before, null for the first time since the server started. What befalls the worker itself (it is dead, stopped, or waits for a lock within a statement) nobody tells, so read this view to be sure.';
COMMENT ON COLUMN incbatch.lag.consumer IS 'The consumer; NULL: a pipeline without consumers.';
COMMENT ON COLUMN incbatch.lag.pipeline IS 'The pipeline.';
COMMENT ON COLUMN incbatch.lag.tier IS 'The tier that the consumer picked, or NULL.';
COMMENT ON COLUMN incbatch.lag.freshness IS 'The staleness that the consumer accepts. NULL: a pipeline without consumers; it is judged by 5/4 of its trigger interval, at least one second more than it.';
COMMENT ON COLUMN incbatch.lag.trigger_interval IS 'How often the pipeline runs.';
COMMENT ON COLUMN incbatch.lag.as_of IS 'Everything committed before this instant is in the aggregate.';
COMMENT ON COLUMN incbatch.lag.staleness IS 'Now minus as_of; NULL before the first batch.';
COMMENT ON COLUMN incbatch.lag.backlog_bytes IS 'Bytes of WAL between the frontier and now, whoever wrote them.';
COMMENT ON COLUMN incbatch.lag.backlog_rows IS 'Changes decoded and waiting for the next run; NULL where no worker has run the path since the server started.';
COMMENT ON COLUMN incbatch.lag.watermark IS 'Windows that end here or before are closed; NULL: windows never close, or no event was seen.';
COMMENT ON COLUMN incbatch.lag.latency_p50 IS 'Median time from a source transaction''s commit to its visibility in the aggregate, over the last hour; rounded up by at most 15 %.';
COMMENT ON COLUMN incbatch.lag.latency_p95 IS 'The same, 95th percentile.';
COMMENT ON COLUMN incbatch.lag.latency_p99 IS 'The same, 99th percentile.';
COMMENT ON COLUMN incbatch.lag.status IS 'fresh (staleness within freshness, also where nothing was written); late (over it, but less stale than after the last run but one); falling behind (over it, and growing, while the worker is at work); stuck (over it, and the worker is gone, stopped, or for one and a half triggers, of at least a second, kept from it by a lock); failed, paused or backfilling.';
COMMENT ON COLUMN incbatch.lag.status_since IS 'Since when, as far as it can be known: of fresh, since staleness was last over freshness; of late, falling behind and stuck, since it grew over it.';
COMMENT ON COLUMN incbatch.lag.path IS 'Number of its path.';
COMMENT ON COLUMN incbatch.lag.reason IS 'What keeps it from being fresh: what the worker is doing, who holds a lock, the error, or what to run; NULL where it is fresh.';

CREATE VIEW incbatch.consumers AS
SELECT c.consumer, p.relation::text AS pipeline, c.relation, c.tier, c.freshness,
       c.trigger_interval, c.emit, c.path
FROM incbatch.consumer c
JOIN incbatch.pipeline p ON p.id = c.pipeline;
COMMENT ON VIEW incbatch.consumers IS 'One row a consumer: a named reader of a pipeline with the freshness it picked.';
COMMENT ON COLUMN incbatch.consumers.consumer IS 'Its name, one in its pipeline.';
COMMENT ON COLUMN incbatch.consumers.pipeline IS 'The pipeline it reads.';
COMMENT ON COLUMN incbatch.consumers.relation IS 'The view that it queries.';
COMMENT ON COLUMN incbatch.consumers.tier IS 'The tier it picked, or NULL: it named a freshness.';
COMMENT ON COLUMN incbatch.consumers.freshness IS 'The staleness it accepts.';
COMMENT ON COLUMN incbatch.consumers.trigger_interval IS 'How often its path runs.';
COMMENT ON COLUMN incbatch.consumers.emit IS 'update: windows as they grow; final: only windows that the watermark has closed.';
COMMENT ON COLUMN incbatch.consumers.path IS 'Number of its path.';

CREATE VIEW incbatch.batches AS
SELECT p.relation::text AS pipeline, b.path, b.batch, b.started_at, b.finished_at,
       b.reason, b.transactions, b.rows_in, b.rows_late, b.groups_changed,
       b.read_ms, b.transform_ms, b.merge_ms, b.commit_ms, b.cpu_ms, b.wal_bytes,
       b.latency_max, b.strategy, b.error, b.rows_ahead
FROM incbatch.batch b
JOIN incbatch.path a ON a.id = b.path
JOIN incbatch.pipeline p ON p.id = a.pipeline;
COMMENT ON VIEW incbatch.batches IS 'One row a batch, the newest kept.';
COMMENT ON COLUMN incbatch.batches.pipeline IS 'The pipeline.';
COMMENT ON COLUMN incbatch.batches.path IS 'Number of the path.';
COMMENT ON COLUMN incbatch.batches.batch IS 'Number of the batch, rising.';
COMMENT ON COLUMN incbatch.batches.started_at IS 'When the run began.';
COMMENT ON COLUMN incbatch.batches.finished_at IS 'When its changes became visible.';
COMMENT ON COLUMN incbatch.batches.reason IS 'trigger, refresh, full (the waiting changes outgrew incbatch.work_mem, or hold half of incbatch.max_retained_wal), quiet, or copy (another path began as a copy of this one).';
COMMENT ON COLUMN incbatch.batches.transactions IS 'Source transactions folded in.';
COMMENT ON COLUMN incbatch.batches.rows_in IS 'Changes folded in; an update counts as two.';
COMMENT ON COLUMN incbatch.batches.rows_late IS 'Changes to closed windows, of those in rows_in: left out, or with late_policy apply folded in.';
COMMENT ON COLUMN incbatch.batches.groups_changed IS 'Groups that the changes touched.';
COMMENT ON COLUMN incbatch.batches.read_ms IS 'Milliseconds spent reading the WAL within the run; reading ahead is not in it.';
COMMENT ON COLUMN incbatch.batches.transform_ms IS 'Milliseconds spent evaluating the query over the changes.';
COMMENT ON COLUMN incbatch.batches.merge_ms IS 'Milliseconds spent merging into the state table, recompute included.';
COMMENT ON COLUMN incbatch.batches.commit_ms IS 'Milliseconds spent storing the frontier and committing.';
COMMENT ON COLUMN incbatch.batches.cpu_ms IS 'CPU milliseconds of the worker for the run; reading ahead is not in it.';
COMMENT ON COLUMN incbatch.batches.wal_bytes IS 'WAL written by the run, in bytes.';
COMMENT ON COLUMN incbatch.batches.latency_max IS 'Largest time from a source transaction''s commit to its visibility.';
COMMENT ON COLUMN incbatch.batches.strategy IS 'delta; none where it failed; recompute where groups were evaluated again from the source; rebuild where all were, because a tracked lookup was truncated.';
COMMENT ON COLUMN incbatch.batches.error IS 'Error that stopped the pipeline in this batch, whose figures are then 0; NULL: none.';
COMMENT ON COLUMN incbatch.batches.rows_ahead IS 'Rows whose event time was infinite or too far ahead of the clock to drive the watermark; they are folded in.';

CREATE VIEW incbatch.late_rows AS
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

CREATE VIEW incbatch.workers AS
SELECT d.datname AS database, w.pid, w.state, s.slot_name,
       s.restart_lsn, s.confirmed_flush_lsn AS confirmed_lsn,
       pg_catalog.pg_wal_lsn_diff(e.lsn, s.restart_lsn)::bigint AS retained_wal_bytes,
       w.heartbeat_at, w.rows_decoded, w.activity, w.activity_since, w.wait_event,
       w.restarts, w.last_error,
       pg_catalog.round(100 * greatest(pg_catalog.pg_wal_lsn_diff(e.lsn, s.confirmed_flush_lsn), 0)
             / pg_catalog.pg_size_bytes(pg_catalog.current_setting('incbatch.max_retained_wal')), 1) AS retained_percent
FROM incbatch.worker_status() w
JOIN pg_catalog.pg_database d ON d.oid = w.database
LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = 'incbatch_' || w.database::text
CROSS JOIN (SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                        ELSE pg_catalog.pg_current_wal_insert_lsn() END AS lsn) e;
COMMENT ON VIEW incbatch.workers IS 'One row a database that has pipelines: its worker and its replication slot.';
COMMENT ON COLUMN incbatch.workers.database IS 'The database.';
COMMENT ON COLUMN incbatch.workers.pid IS 'Process of the worker; NULL: it is not running.';
COMMENT ON COLUMN incbatch.workers.state IS 'starting, creating slot (waits for the transactions that were running), running, backfilling, not responding (the process does not run), not running, crash looping (not running, after several restarts within the hour; it is tried again, ever later up to a minute), or no worker slot (max_worker_processes are in use; it is tried again every second).';
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
COMMENT ON COLUMN incbatch.workers.retained_percent IS 'WAL since confirmed_lsn, in percent of incbatch.max_retained_wal; at 100 the pipeline that holds it turns needs_rebuild.';

CREATE VIEW incbatch.progress AS
SELECT p.relation::text AS pipeline, s.state AS phase,
       least(m.rows_done, greatest(m.rows_total, m.rows_done)) AS rows_done,
       greatest(m.rows_total, m.rows_done) AS rows_total,
       CASE WHEN m.rows_total > 0
            THEN pg_catalog.round(least(100.0 * m.rows_done / m.rows_total, 100.0), 1) END AS percent,
       CASE WHEN m.rows_done > 0 AND m.rows_total > 0
            THEN (pg_catalog.clock_timestamp() - m.backfill_started_at)
                 * (greatest(m.rows_total - m.rows_done, 0) / m.rows_done::float8) END AS eta
FROM incbatch.path a
JOIN incbatch.pipeline p ON p.id = a.pipeline
JOIN incbatch.path_state s ON s.path = a.id
CROSS JOIN LATERAL incbatch.path_status(a.id, NULL, NULL) m
WHERE s.state IN ('initializing', 'backfilling');
COMMENT ON VIEW incbatch.progress IS 'One row a backfill under way.';
COMMENT ON COLUMN incbatch.progress.pipeline IS 'The pipeline.';
COMMENT ON COLUMN incbatch.progress.phase IS 'initializing (waits for the worker or the slot) or backfilling.';
COMMENT ON COLUMN incbatch.progress.rows_done IS 'Rows of the source read so far.';
COMMENT ON COLUMN incbatch.progress.rows_total IS 'Rows of the source, estimated.';
COMMENT ON COLUMN incbatch.progress.percent IS 'rows_done of rows_total; NULL before the scan has begun.';
COMMENT ON COLUMN incbatch.progress.eta IS 'Time left if it goes on like this; NULL before the scan has begun.';

-- ---------------------------------------------------------------------
-- The report
-- ---------------------------------------------------------------------

CREATE FUNCTION incbatch.report(name text, at timestamptz DEFAULT NULL, span interval DEFAULT '1 hour')
RETURNS text
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'ib_report';
COMMENT ON FUNCTION incbatch.report(text, timestamptz, interval) IS
'How a pipeline is doing, on one screen: its consumers beside their freshness, lag and batch time of its paths, the cost of each cadence, and the diagnosis. The charts are of the span before "at", by default of the last hour. In psql: SELECT incbatch.report(''...'') \g (tuples_only format=unaligned)';

COMMENT ON SCHEMA incbatch IS 'Aggregate tables kept up to date from the WAL.';
GRANT USAGE ON SCHEMA incbatch TO PUBLIC;
GRANT SELECT ON incbatch.tiers, incbatch.pipelines, incbatch.paths, incbatch.consumers,
                incbatch.lag, incbatch.batches, incbatch.workers, incbatch.progress, incbatch.late_rows TO PUBLIC;

SELECT pg_catalog.pg_extension_config_dump('incbatch.pipeline', '');
SELECT pg_catalog.pg_extension_config_dump('incbatch.path', '');
SELECT pg_catalog.pg_extension_config_dump('incbatch.consumer', '');
