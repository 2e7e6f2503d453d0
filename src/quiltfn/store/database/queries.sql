-- upsert_invocations: store records as they are now. Final rows never change, so a record may be
-- stored any number of times; a deleted function gets no rows.
INSERT INTO invocation (
    invocation_id, tenant_id, function_id, function_name, execution_node_id, status, started_at,
    ended_at, duration_ms, exit_code, stdout, stderr, error_message, cold_start, timeline,
    stdout_dropped, stderr_dropped, version, source, attempt, due_at, parent_invocation_id,
    origin_invocation_id, output_order, memory_mib, http_status, end_cause, epoch, size_bytes)
$source
    ON CONFLICT (invocation_id) DO UPDATE SET
       function_name = excluded.function_name,
       execution_node_id = excluded.execution_node_id, status = excluded.status,
       started_at = excluded.started_at, ended_at = excluded.ended_at,
       duration_ms = excluded.duration_ms, exit_code = excluded.exit_code, stdout = excluded.stdout,
       stderr = excluded.stderr, error_message = excluded.error_message,
       cold_start = excluded.cold_start, timeline = excluded.timeline,
       stdout_dropped = excluded.stdout_dropped, stderr_dropped = excluded.stderr_dropped,
       version = excluded.version, attempt = excluded.attempt, due_at = excluded.due_at,
       output_order = excluded.output_order, memory_mib = excluded.memory_mib,
       http_status = excluded.http_status, end_cause = excluded.end_cause,
       epoch = excluded.epoch,
       size_bytes = excluded.size_bytes + CASE WHEN excluded.attempt = 1 THEN 0 ELSE (
           SELECT coalesce(sum(length(before.stdout) + length(before.stderr)), 0)
             FROM attempt AS before WHERE before.invocation_id = excluded.invocation_id) END
 WHERE invocation.status IN ('queued', 'running') AND invocation.attempt <= excluded.attempt;

-- source_of_invocations: new records of existing functions
WITH record (
    invocation_id, tenant_id, function_id, function_name, execution_node_id, status, started_at,
    ended_at, duration_ms, exit_code, stdout, stderr, error_message, cold_start, timeline,
    stdout_dropped, stderr_dropped, version, source, attempt, due_at, parent_invocation_id,
    origin_invocation_id, output_order, memory_mib, http_status, end_cause)
  AS (VALUES $rows)
SELECT *, $epoch, $record_bytes + length(record.stdout) + length(record.stderr) FROM record
 WHERE EXISTS (SELECT 1 FROM function WHERE id = record.function_id);

-- function_of_invocation: the function of an invocation, if the function still exists
SELECT function_id FROM invocation
 WHERE invocation_id = :invocation_id AND tenant_id = :tenant_id
   AND EXISTS (SELECT 1 FROM function WHERE id = invocation.function_id);

-- has_function: whether a function exists and is not deleted
SELECT 1 FROM function WHERE id = ?;

-- add_to_counters: count newly final invocations; does nothing for a missing function
UPDATE function
   SET invocation_count = invocation_count + :calls,
       error_count = error_count + :errors,
       last_invoked_at = CASE WHEN last_invoked_at > :last THEN last_invoked_at ELSE :last END
 WHERE id = :function_id;

-- some_of_function: some records of a deleted function
SELECT invocation_id FROM invocation WHERE function_id = :function_id LIMIT :most;

-- givers: the tenants with removable rows of a kind, largest first
SELECT tenant_id, $unit, bytes, number FROM usage
 WHERE kind = :kind AND number > 0 $may_go ORDER BY $unit DESC;

-- usage_of_tenant: the bytes of a tenant's rows of a kind
SELECT bytes FROM usage WHERE kind = :kind AND tenant_id = :tenant_id;

-- whole_usage: the maximum of one tenant for a kind, and the total of all tenants
SELECT coalesce(max($unit), 0), CAST(coalesce(sum($unit), 0) AS bigint) FROM usage
 WHERE kind = :kind;

-- newest_record: the id of the newest record
SELECT max(invocation_id) FROM invocation;

-- newest_id: the newest id in the tables below; every SELECT reads one entry at the end of an index
SELECT max(coalesce(id, '')) FROM (
    SELECT max(invocation_id) AS id FROM invocation UNION ALL
    SELECT max(id) FROM function UNION ALL
    SELECT max(id) FROM version UNION ALL
    SELECT max(id) FROM audit UNION ALL
    SELECT max(id) FROM api_key UNION ALL
    SELECT max(operation_id) FROM operation) AS newest;

-- probe: test whether the database accepts a write
UPDATE probe SET count = count + 1 WHERE id = 1;

-- remove_input: remove an input
DELETE FROM input WHERE invocation_id = ?;

-- next_inputs: a tenant's inputs after an id, and their sizes, from the index alone
SELECT invocation_id, size_bytes FROM input
 WHERE tenant_id = :tenant_id AND invocation_id > :after ORDER BY invocation_id LIMIT :most;

-- add_work: add accepted work to its queue
INSERT INTO work (invocation_id, tenant_id, function_id, due_at_ms, expires_at_ms)
VALUES (?, ?, ?, ?, ?);

-- add_input: store a caller's input, unless its function is deleted
INSERT INTO input (
    invocation_id, tenant_id, function_id, payload, environment, timeout_seconds, version, caller,
    may_write, traceparent, is_encrypted, size_bytes)
SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM function WHERE id = ?)
    ON CONFLICT (invocation_id) DO NOTHING;

-- number_of_work: the number of unfinished invocations of a function
SELECT number FROM work_count WHERE function_id = ?;

-- number_claimed: the number of claimed ones among them
SELECT count(*) FROM work WHERE function_id = ? AND epoch > 0;

-- claimed_before: work claimed by earlier boots of a server; the first condition is that of the
-- index
SELECT invocation_id, attempts, expires_at_ms, is_begun, machine_boot_id, node_id, epoch FROM work
 WHERE epoch > 0 AND epoch < :epoch AND (:alone OR node_id = :node);

-- claimed_now: a function's work claimed by this start of a server
SELECT invocation_id FROM work
 WHERE function_id = :function_id AND node_id = :node AND epoch = :epoch;

-- next_due: when the first waiting work of a function is due
SELECT due_at_ms FROM work WHERE function_id = ? AND epoch = 0 ORDER BY due_at_ms LIMIT 1;

-- due_work: every function with waiting work, and when the first of it is due
SELECT work_count.function_id, function.tenant_id,
       (SELECT due_at_ms FROM work
         WHERE work.function_id = work_count.function_id AND epoch = 0
         ORDER BY due_at_ms LIMIT 1) AS next_due_ms
  FROM work_count JOIN function ON function.id = work_count.function_id
 WHERE work_count.number > 0;

-- first_waiting: the first waiting work of a function
SELECT invocation_id FROM work WHERE function_id = ? AND epoch = 0
 ORDER BY due_at_ms, invocation_id LIMIT 1;

-- too_old: those of a function's first due work that are too old to start
SELECT invocation_id FROM (
    SELECT invocation_id, expires_at_ms FROM work
     WHERE function_id = :function_id AND epoch = 0 AND due_at_ms <= :now
     ORDER BY due_at_ms, invocation_id LIMIT :most) AS first
 WHERE expires_at_ms < :now;

-- release_work: let claimed work wait again; its attempt does not count
UPDATE work
   SET node_id = '', epoch = 0, machine_boot_id = '', is_begun = FALSE, attempts = attempts - 1,
       due_at_ms = coalesce(:due, due_at_ms)
 WHERE invocation_id = :invocation_id AND node_id = :node AND epoch = :epoch;

-- retry_work: let work wait for its next attempt, after the attempt with that number
UPDATE work
   SET node_id = '', epoch = 0, machine_boot_id = '', is_begun = FALSE, due_at_ms = ?
 WHERE invocation_id = ? AND attempts = ?;

-- remove_work: remove work that is over from the queue
DELETE FROM work WHERE invocation_id = ?;

-- add_attempt: add a completed attempt
INSERT INTO attempt (
    invocation_id, attempt, status, started_at, ended_at, duration_ms, exit_code, error_message,
    execution_node_id, cold_start, version, stdout, stderr, end_cause)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING;

-- drop_attempt_output: remove the output of an invocation's attempts
UPDATE attempt SET stdout = NULL, stderr = NULL WHERE invocation_id = :invocation_id;

-- add_dead_letter: add a dead letter
INSERT INTO dead_letter (invocation_id, tenant_id, function_id, reason, died_at)
VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING;

-- drop_old_dead_letters: remove all but the newest dead letters of a function
DELETE FROM dead_letter
 WHERE function_id = :function_id
   AND invocation_id <= (SELECT invocation_id FROM dead_letter WHERE function_id = :function_id
                          ORDER BY invocation_id DESC LIMIT 1 OFFSET :kept);

-- add_delivery: add a delivery
INSERT INTO delivery (
    id, tenant_id, function_id, invocation_id, policy_field, status, body, due_at_ms, expires_at_ms,
    error_message, ended_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING;

-- stats_of: the statistics of a function for one stretch of time
SELECT stats FROM call_stats
 WHERE tenant_id = ? AND step_s = ? AND start = ? AND function_id = ?;

-- put_stats: store statistics, replacing existing ones
INSERT INTO call_stats (tenant_id, step_s, start, function_id, stats) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (tenant_id, step_s, start, function_id) DO UPDATE SET stats = excluded.stats;

-- remove_stats: remove statistics
DELETE FROM call_stats WHERE tenant_id = ? AND step_s = ? AND start = ? AND function_id = ?;

-- stats_of_tenant: statistics of one step for all functions of a tenant, after a start and a
-- function
SELECT start, function_id, stats FROM call_stats
 WHERE tenant_id = :tenant_id AND step_s = :step_s AND start < :before
   AND (start, function_id) > (:start, :function_id)
 ORDER BY start, function_id LIMIT :most;

-- stats_of_function: the same for one function
SELECT tenant_id, step_s, start, function_id, stats FROM call_stats
 WHERE function_id = :function_id AND step_s = :step_s AND start >= :start AND start < :before
   AND tenant_id = :tenant_id
 ORDER BY start;

-- oldest_stats_of_tenant: a tenant's oldest statistics of one step, by function
SELECT tenant_id, step_s, start, function_id, stats FROM call_stats
 WHERE tenant_id = :tenant_id AND step_s = :step_s AND function_id > :function_id
 ORDER BY start, function_id LIMIT :most;

-- oldest_sums_of_tenant: a tenant's oldest sums over functions, of one step
SELECT tenant_id, step_s, start, function_id, stats FROM call_stats
 WHERE tenant_id = :tenant_id AND step_s = :step_s AND function_id = ''
 ORDER BY start LIMIT :most;

-- note_url_tenant: note that a tenant has had a URL
INSERT INTO url_tenant (tenant_id) VALUES (?) ON CONFLICT DO NOTHING;

-- note_counted: note that an invocation without a record was counted
INSERT INTO counted_call (invocation_id, ended_at) VALUES (?, ?) ON CONFLICT DO NOTHING;

-- note_counted_of: note that invocations whose records will be removed were counted
INSERT INTO counted_call (invocation_id, ended_at)
SELECT invocation_id, ended_at FROM invocation
 WHERE invocation_id = ? AND ended_at IS NOT NULL
    ON CONFLICT DO NOTHING;

-- forget_counted: forget such invocations that ended before a given time
DELETE FROM counted_call
 WHERE invocation_id IN (SELECT invocation_id FROM counted_call
                          WHERE ended_at < :before ORDER BY ended_at LIMIT :most);

-- record_change: add a change with the next number. In both databases writers take turns, so
-- numbers appear in order.
INSERT INTO change (number, kind, tenant_id, object_id)
SELECT coalesce(max(number), 0) + 1, :kind, :tenant_id, :object_id FROM change
RETURNING number;

-- over_among: those of the given ids (a JSON array) whose record is final, or of a later attempt
-- than the first
SELECT invocation_id, status, attempt FROM invocation
 WHERE invocation_id IN $each(:ids)
   AND (status NOT IN ('queued', 'running') OR attempt > 1);

-- ids_among: those of the given ids (a JSON array) that have a record
SELECT invocation_id FROM invocation WHERE invocation_id IN $each(:ids);

-- needed_among: those of the given ids (a JSON array) of unfinished work or a dead letter
SELECT value FROM $each(:ids) AS given
 WHERE EXISTS (SELECT 1 FROM work WHERE invocation_id = value)
    OR EXISTS (SELECT 1 FROM dead_letter WHERE invocation_id = value);

-- remove_invocations: remove records, by a JSON array of their ids
DELETE FROM invocation WHERE invocation_id IN $each(:ids);

-- remove_attempts: remove the attempts of invocations, by a JSON array of ids
DELETE FROM attempt WHERE invocation_id IN $each(:ids);

-- remove_dead_letters: remove the dead letters of invocations, by a JSON array of ids
DELETE FROM dead_letter WHERE invocation_id IN $each(:ids);

-- remove_inputs: remove the inputs of invocations, by a JSON array of ids
DELETE FROM input WHERE invocation_id IN $each(:ids);

-- claim_work: claim the first due work of a function for one server, until the inputs of the
-- claim reach a size
UPDATE work SET node_id = :node, epoch = :epoch, machine_boot_id = :machine, is_begun = :is_begun,
       attempts = attempts + 1
 WHERE invocation_id IN (
    SELECT invocation_id FROM (
        SELECT first.invocation_id, first.expires_at_ms,
               sum(input.size_bytes) OVER (ORDER BY first.due_at_ms, first.invocation_id)
               - input.size_bytes AS before
          FROM (SELECT invocation_id, due_at_ms, expires_at_ms FROM work
                 WHERE function_id = :function_id AND epoch = 0 AND due_at_ms <= :now
                   AND EXISTS (SELECT 1 FROM function WHERE id = :function_id)
                 ORDER BY due_at_ms, invocation_id LIMIT :most $locked) AS first
          JOIN input ON input.invocation_id = first.invocation_id) AS fitting
     WHERE before < CAST(:bytes AS bigint) AND expires_at_ms >= :now)
RETURNING invocation_id, attempts, due_at_ms, expires_at_ms;

-- forget_inputs: remove inputs of ended invocations (a JSON array of ids) that their functions
-- do not keep; dead letters keep their inputs
DELETE FROM input
 WHERE invocation_id IN $each(:ids)
   AND EXISTS (SELECT 1 FROM function_policy
                WHERE function_policy.function_id = input.function_id
                  AND record_policy ->> 'keep_input' = 'none')
   AND NOT EXISTS (SELECT 1 FROM dead_letter
                    WHERE dead_letter.invocation_id = input.invocation_id);

-- counters_of_left: the sums of running invocations that earlier boots of a node left. Without
-- the hint, SQLite groups by the other index and reads every record. The first condition on the
-- status is that of the partial index, without which SQLite does not use the index.
SELECT function_id, max(tenant_id) AS tenant_id, count(*) AS calls, count(*) AS errors,
       count(*) FILTER (WHERE cold_start) AS cold_starts, max(coalesce(started_at, :now)) AS last
  FROM invocation $by(invocation_open)
 WHERE status IN ('queued', 'running') AND status = 'running'
   AND epoch < :epoch AND (:alone OR execution_node_id = :node)
 GROUP BY function_id;

-- interrupt_left: end the running invocations that earlier boots of a node left. For the two
-- conditions on the status, see counters_of_left.
UPDATE invocation $by(invocation_open)
   SET status = 'interrupted', error_message = :why, end_cause = :cause,
       ended_at = $greatest(CAST(:now AS bigint), coalesce(started_at, 0))
 WHERE status IN ('queued', 'running') AND status = 'running'
   AND epoch < :epoch AND (:alone OR execution_node_id = :node);

-- oldest_of_tenant: a tenant's oldest ended records with lower ids than the given one and more
-- bytes than the given size, and their sizes, from the index alone. With `with_open`, also
-- unfinished records with output of attempts.
SELECT invocation_id, size_bytes, FALSE AS is_open FROM invocation $by(invocation_of_tenant)
 WHERE tenant_id = :tenant_id AND invocation_id < :before AND size_bytes > :above
   AND status NOT IN ('queued', 'running')
 UNION ALL
SELECT invocation_id, size_bytes, TRUE FROM invocation $by(invocation_open_output)
 WHERE tenant_id = :tenant_id AND invocation_id < :before AND size_bytes > 600
   AND status IN ('queued', 'running') AND CAST(:with_open AS boolean)
 ORDER BY invocation_id LIMIT :most;

-- records_of_function: the newest matching records of a function, in a range of ids, from the
-- index alone
SELECT invocation_id FROM invocation $by(invocation_listing)
 WHERE function_id = :owner AND invocation_id < :before AND invocation_id >= :start
   AND (CAST(:status AS text) IS NULL OR status = :status)
   AND (CAST(:cold_start AS boolean) IS NULL OR cold_start = :cold_start)
   AND (CAST(:min_duration_ms AS bigint) IS NULL OR duration_ms >= :min_duration_ms)
   AND (CAST(:source AS text) IS NULL OR source = :source)
   AND (CAST(:version AS integer) IS NULL OR version = :version)
   AND EXISTS (SELECT 1 FROM function WHERE id = :owner)
 ORDER BY invocation_id DESC LIMIT :most;

-- step_of_function: the id of the record that comes a given number of records later in a
-- function's list
SELECT invocation_id FROM invocation $by(invocation_listing)
 WHERE function_id = :owner AND invocation_id < :before AND invocation_id >= :start
 ORDER BY invocation_id DESC LIMIT 1 OFFSET :entries;

-- ended_records: the newest matching ended records of a tenant, in a range of ids, from the
-- index alone
SELECT invocation_id FROM invocation $by(invocation_of_tenant)
 WHERE tenant_id = :owner AND invocation_id < :before AND invocation_id >= :start
   AND status NOT IN ('queued', 'running')
   AND (CAST(:status AS text) IS NULL OR status = :status)
   AND (CAST(:cold_start AS boolean) IS NULL OR cold_start = :cold_start)
   AND (CAST(:min_duration_ms AS bigint) IS NULL OR duration_ms >= :min_duration_ms)
   AND (CAST(:source AS text) IS NULL OR source = :source)
   AND (CAST(:version AS integer) IS NULL OR version = :version)
   AND EXISTS (SELECT 1 FROM function WHERE id = invocation.function_id)
 ORDER BY invocation_id DESC LIMIT :most;

-- step_of_ended: the id of the record that comes a given number of records later in that list
SELECT invocation_id FROM invocation $by(invocation_of_tenant)
 WHERE tenant_id = :owner AND invocation_id < :before AND invocation_id >= :start
   AND status NOT IN ('queued', 'running')
 ORDER BY invocation_id DESC LIMIT 1 OFFSET :entries;

-- open_records: the newest matching unfinished records of a tenant. Their rows are short, since
-- they have no output yet.
SELECT invocation_id FROM invocation $by(invocation_open)
 WHERE tenant_id = :owner AND invocation_id < :before AND invocation_id >= :start
   AND status IN ('queued', 'running')
   AND (CAST(:status AS text) IS NULL OR status = :status)
   AND (CAST(:cold_start AS boolean) IS NULL OR cold_start = :cold_start)
   AND (CAST(:min_duration_ms AS bigint) IS NULL OR duration_ms >= :min_duration_ms)
   AND (CAST(:source AS text) IS NULL OR source = :source)
   AND (CAST(:version AS integer) IS NULL OR version = :version)
   AND EXISTS (SELECT 1 FROM function WHERE id = invocation.function_id)
 ORDER BY invocation_id DESC LIMIT :most;

-- step_of_open: the id of the record that comes a given number of records later in that list
SELECT invocation_id FROM invocation $by(invocation_open)
 WHERE tenant_id = :owner AND invocation_id < :before AND invocation_id >= :start
   AND status IN ('queued', 'running')
 ORDER BY invocation_id DESC LIMIT 1 OFFSET :entries;

-- children_of: the newest invocations that an invocation has caused
SELECT invocation_id FROM invocation $by(invocation_children)
 WHERE parent_invocation_id = :parent AND tenant_id = :tenant_id
   AND EXISTS (SELECT 1 FROM function WHERE id = invocation.function_id)
 ORDER BY invocation_id DESC LIMIT :most;

-- drop_output: remove the output of a record; it then counts as dropped
UPDATE invocation
   SET stdout_dropped = stdout_dropped + length(stdout),
       stderr_dropped = stderr_dropped + length(stderr),
       stdout = $nothing, stderr = $nothing, size_bytes = :record_bytes
 WHERE invocation_id = :invocation_id;

-- drop_body: remove the body of a tenant's oldest stored response; the row stays
UPDATE idempotent_answer SET body = $nothing
 WHERE $row = (SELECT $row FROM idempotent_answer
                 WHERE tenant_id = :tenant_id AND length(body) > 0 ORDER BY made_at LIMIT 1);

-- stats_by_age: the oldest statistics of a step that start before a given time, except those of
-- tenants that are being read (a JSON array)
SELECT tenant_id, step_s, start, function_id, stats FROM call_stats
 WHERE step_s = :step_s AND start < :before
   AND tenant_id NOT IN $each(:read) ORDER BY start LIMIT :most;
