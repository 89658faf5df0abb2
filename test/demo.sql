-- What test/demo plays: the tables of a small airline database, the flights
-- that wait to take off, and the player that lets them.

\set ON_ERROR_STOP on

CREATE TABLE airports
(
	iata		text PRIMARY KEY,
	name		text,
	city		text,
	state		text,
	country		text,
	latitude	float8,
	longitude	float8
);

-- The old row of an update or a delete must be in the WAL, or the group that
-- it leaves would not be known: hence the replica identity.
CREATE TABLE flights
(
	id			bigint GENERATED ALWAYS AS IDENTITY,
	departed_at	timestamp NOT NULL,
	delay		int,
	distance	int,
	origin		text NOT NULL,
	destination	text NOT NULL
);
ALTER TABLE flights REPLICA IDENTITY FULL;

CREATE SCHEMA demo;

-- Unlogged: nobody decodes what happens here.
CREATE UNLOGGED TABLE demo.staging
(
	departed_at	timestamp,
	delay		int,
	distance	int,
	origin		text,
	destination	text
);

-- One row: the part of the flights that is played, and how far it got.
CREATE UNLOGGED TABLE demo.player
(
	starts		timestamp,
	ends		timestamp,
	clock		timestamp,
	began_at	timestamptz,
	inserts		bigint DEFAULT 0,
	updates		bigint DEFAULT 0,
	deletes		bigint DEFAULT 0
);

-- What happened before the demo: all flights but those of the last six days,
-- or of the last tenth where that is longer.
CREATE PROCEDURE demo.fill()
LANGUAGE plpgsql AS $$
DECLARE
	first		timestamp;
	last		timestamp;
	starts		timestamp;
BEGIN
	CREATE INDEX ON demo.staging (departed_at);

	SELECT date_trunc('day', min(departed_at)),
		   date_trunc('hour', max(departed_at)) + interval '1 hour'
	  INTO STRICT first, last
	  FROM demo.staging;
	starts := date_trunc('day', last) - greatest(interval '6 days', date_trunc('day', (last - first) / 10));
	INSERT INTO demo.player (starts, ends, clock) VALUES (starts, last, starts);

	INSERT INTO flights (departed_at, delay, distance, origin, destination)
	SELECT * FROM demo.staging s WHERE s.departed_at < starts ORDER BY s.departed_at;
	ALTER TABLE flights ADD PRIMARY KEY (id);
	CREATE INDEX ON flights (departed_at);
END $$;

-- Play the rest in so many seconds, 24 times a second: the departures of that
-- moment are inserted; every second time some flights of the last three hours
-- turn out to be later than they said; every sixth time some of the last hour
-- have not left at all.  Each is a transaction of its own.
CREATE PROCEDURE demo.play(seconds int)
LANGUAGE plpgsql AS $$
DECLARE
	began		timestamptz := clock_timestamp();
	now_at		timestamp;
	step		interval;
	n			bigint;
BEGIN
	UPDATE demo.player SET began_at = began;
	SELECT clock, (ends - clock) / (24 * seconds) INTO STRICT now_at, step FROM demo.player;

	FOR tick IN 1 .. 24 * seconds LOOP
		INSERT INTO flights (departed_at, delay, distance, origin, destination)
		SELECT * FROM demo.staging
		 WHERE departed_at >= now_at AND departed_at < now_at + step
		 ORDER BY departed_at;
		GET DIAGNOSTICS n = ROW_COUNT;
		now_at := now_at + step;
		UPDATE demo.player SET clock = now_at, inserts = inserts + n;
		COMMIT;

		IF tick % 2 = 0 THEN
			UPDATE flights SET delay = delay + 5 + id % 50
			 WHERE departed_at BETWEEN now_at - interval '3 hours' AND now_at
			   AND id % 60 = tick % 60;
			GET DIAGNOSTICS n = ROW_COUNT;
			UPDATE demo.player SET updates = updates + n;
			COMMIT;
		END IF;

		IF tick % 6 = 0 THEN
			DELETE FROM flights
			 WHERE departed_at BETWEEN now_at - interval '1 hour' AND now_at
			   AND id % 90 = tick % 90;
			GET DIAGNOSTICS n = ROW_COUNT;
			UPDATE demo.player SET deletes = deletes + n;
			COMMIT;
		END IF;

		PERFORM pg_sleep(extract(epoch FROM began + tick * interval '1 second' / 24 - clock_timestamp()));
	END LOOP;
END $$;

CREATE EXTENSION incbatch;

-- One row for each refresh of the display.
CREATE VIEW demo.status AS
SELECT to_char(p.clock, 'Dy DD Mon YYYY HH24:MI') AS clock,
	   (100 * extract(epoch FROM p.clock - p.starts) / extract(epoch FROM p.ends - p.starts))::int AS percent,
	   (1000 * extract(epoch FROM clock_timestamp()))::bigint AS milliseconds,
	   p.inserts + p.updates + p.deletes AS events,
	   p.inserts, p.updates, p.deletes,
	   round(extract(epoch FROM l.staleness), 1) AS staleness,
	   to_char(l.as_of, 'HH24:MI:SS.MS') AS as_of,
	   round(extract(epoch FROM l.latency_p50), 2) AS p50,
	   round(extract(epoch FROM l.latency_p95), 2) AS p95,
	   round(extract(epoch FROM l.latency_p99), 2) AS p99,
	   l.backlog_rows,
	   l.status,
	   b.batches,
	   round((1000 * b.cpu_ms / nullif(b.rows_in, 0))::numeric, 1) AS cpu_us_per_event,
	   round((b.cpu_ms / 10 / extract(epoch FROM clock_timestamp() - p.began_at))::numeric, 1) AS cpu_percent
  FROM demo.player p
 JOIN incbatch.lag l ON l.consumer = 'marketing'
 CROSS JOIN LATERAL (SELECT count(*) AS batches, sum(cpu_ms) AS cpu_ms, sum(rows_in) AS rows_in
					   FROM incbatch.batches
					  WHERE started_at >= p.began_at AND rows_in > 0) b;

-- What the dashboard of this demo asks for; there is no such relation yet.
SET check_function_bodies = off;
CREATE FUNCTION demo.top(rows int)
RETURNS SETOF text
LANGUAGE sql AS $$
	SELECT format('%-19s %-8s %7s %11s %12s', to_char(hour, 'YYYY-MM-DD HH24:MI'), state,
				  to_char(flights, 'FM999,990'), to_char(avg_delay, 'FM9,990.0'), to_char(distance, 'FM999,999,990'))
	  FROM (SELECT * FROM flights_hourly ORDER BY hour DESC, flights DESC LIMIT rows) t
$$;
