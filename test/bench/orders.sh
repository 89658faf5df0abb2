# shellcheck shell=bash disable=SC2034  # what is unused here is used there
#
# The orders that the benchmarks of catching up share: their query, their rows,
# and the three shapes in which a backlog of them is written.  Sourced after
# lib.sh, never run.

rows=3000000
loads='bulk chunked single'
order=arrival
writers=4
per_day=''        # orders that make up a day; all of them, if empty

pipeline=orders_hourly
query="SELECT date_trunc('hour', o.order_timestamp) AS hour_ts, p.category, o.region,
       count(*) AS orders, sum(o.amount_cents)/100.0 AS revenue
FROM orders o JOIN product p ON p.product_id = o.product_id
GROUP BY 1, 2, 3"

# prepare_orders: create the lookup, and the rows to be loaded.
#
# Each order is a function of its number: the bits of one hash give product,
# region, amount and time, so that these are independent of one another.
prepare_orders() {
	sql -o /dev/null -v rows="$rows" -v per_day="${per_day:-$rows}" -v order="$order" <<'SQL'
CREATE TABLE product (product_id int PRIMARY KEY, category text NOT NULL);
INSERT INTO product
SELECT i, 'category ' || i % 20 FROM generate_series(1, 1000) i;
VACUUM ANALYZE product;

CREATE UNLOGGED TABLE prepared AS
SELECT i AS order_id,
       timestamptz '2026-01-05 00:00Z' + CASE :'order'
         WHEN 'random' THEN (h >> 24 & 4294967295) % 86400
         ELSE greatest(0, i * 86400 / :per_day - (h >> 24 & 65535) % 300 - 1)
       END * interval '1 second' AS order_timestamp,
       (1 + (h & 65535) % 1000)::int AS product_id,
       (ARRAY['africa', 'asia-east', 'asia-south', 'europe-north',
              'europe-west', 'oceania', 'us-east', 'us-west'])
         [1 + (h >> 16 & 7)] AS region,
       100 + (h >> 40 & 65535) AS amount_cents
FROM generate_series(1::bigint, :rows) i, hashint8extended(i, 0) h;
ALTER TABLE prepared ADD PRIMARY KEY (order_id);
VACUUM ANALYZE prepared;
SQL
}

# create_orders: a paused pipeline that has been up, on an empty source.
create_orders() {
	sql -o /dev/null -v pipeline="$pipeline" -v query="$query" <<'SQL'
SET statement_timeout = '1min';
CREATE TABLE orders (order_id bigint PRIMARY KEY, order_timestamp timestamptz,
                     product_id int, region text, amount_cents bigint);
SELECT incbatch.create_pipeline(:'pipeline', :'query', append_only => true, initialize => false);
CALL incbatch.refresh_pipeline(:'pipeline');
SELECT incbatch.pause_pipeline(:'pipeline');
SQL
	check 'the pipeline is not paused' "SELECT state = 'paused' FROM incbatch.pipelines WHERE pipeline = '$pipeline'"
}

events_of() {
	case $1 in
		single) echo $((rows / 10)) ;;
		*) echo "$rows" ;;
	esac
}

write_bulk() {
	sql -c 'INSERT INTO orders SELECT * FROM prepared'
}

write_chunked() {
	sql <<-SQL
		DO \$\$
		BEGIN
		  FOR start IN 1..$rows BY 1000 LOOP
		    INSERT INTO orders
		    SELECT * FROM prepared WHERE order_id BETWEEN start AND start + 999;
		    COMMIT;
		  END LOOP;
		END \$\$;
	SQL
}

# Every tenth order, so that the day is as long as in the other loads.
write_single() {
	local writer pids=() pid

	for ((writer = 1; writer <= writers; writer++)); do
		sql <<-SQL &
			DO \$\$
			BEGIN
			  FOR i IN $writer..$((rows / 10)) BY $writers LOOP
			    INSERT INTO orders SELECT * FROM prepared WHERE order_id = i * 10;
			    COMMIT;
			  END LOOP;
			END \$\$;
		SQL
		pids+=($!)
	done
	for pid in "${pids[@]}"; do
		wait "$pid"
	done
}
