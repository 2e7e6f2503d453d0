-- upsert_invocations: store records as they are now. A final row never changes again, so a record may
-- be stored any number of times; and a function that was deleted gets no rows any more.
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

-- source_of_invocations: new records of functions that are there
WITH record (
    invocation_id, tenant_id, function_id, function_name, execution_node_id, status, started_at,
    ended_at, duration_ms, exit_code, stdout, stderr, error_message, cold_start, timeline,
    stdout_dropped, stderr_dropped, version, source, attempt, due_at, parent_invocation_id,
    origin_invocation_id, output_order, memory_mib, http_status, end_cause)
  AS (VALUES $rows)
SELECT *, $epoch, $record_bytes + length(record.stdout) + length(record.stderr) FROM record
 WHERE EXISTS (SELECT 1 FROM function WHERE id = record.function_id);

-- function_of_invocation: whose call it is, if that function still is there
SELECT function_id FROM invocation
 WHERE invocation_id = :invocation_id AND tenant_id = :tenant_id
   AND EXISTS (SELECT 1 FROM function WHERE id = invocation.function_id);

-- has_function: whether it is there, and not deleted
SELECT 1 FROM function WHERE id = ?;

-- add_to_counters: count calls that have turned final; nothing happens to a function that is gone
UPDATE function
   SET invocation_count = invocation_count + :calls,
       error_count = error_count + :errors,
       last_invoked_at = CASE WHEN last_invoked_at > :last THEN last_invoked_at ELSE :last END
 WHERE id = :function_id;

-- some_of_function: some of a deleted function's records
SELECT invocation_id FROM invocation WHERE function_id = :function_id LIMIT :most;

-- givers: the tenants who have some of a kind that may go, whoever has most first
SELECT tenant_id, $unit, bytes, number FROM usage
 WHERE kind = :kind AND number > 0 $may_go ORDER BY $unit DESC;

-- usage_of_tenant: how much a tenant has of a kind
SELECT bytes FROM usage WHERE kind = :kind AND tenant_id = :tenant_id;

-- whole_usage: the most that a tenant has of a kind, and what all together have
SELECT coalesce(max($unit), 0), CAST(coalesce(sum($unit), 0) AS bigint) FROM usage
 WHERE kind = :kind;

-- newest_record: the id of the newest record
SELECT max(invocation_id) FROM invocation;

-- newest_id: the newest id of anything; every SELECT reads one entry at the end of an index
SELECT max(coalesce(id, '')) FROM (
    SELECT max(invocation_id) AS id FROM invocation UNION ALL
    SELECT max(id) FROM function UNION ALL
    SELECT max(id) FROM version UNION ALL
    SELECT max(id) FROM audit UNION ALL
    SELECT max(id) FROM api_key UNION ALL
    SELECT max(operation_id) FROM operation) AS newest;

-- probe: learn whether the database takes a write
UPDATE probe SET count = count + 1 WHERE id = 1;

-- remove_input: take an input away
DELETE FROM input WHERE invocation_id = ?;

-- next_inputs: the inputs of a tenant behind an id, and their sizes, without touching the rows
SELECT invocation_id, size_bytes FROM input
 WHERE tenant_id = :tenant_id AND invocation_id > :after ORDER BY invocation_id LIMIT :most;

-- add_work: put accepted work into its queue
INSERT INTO work (invocation_id, tenant_id, function_id, due_at_ms, expires_at_ms)
VALUES (?, ?, ?, ?, ?);

-- add_input: keep what a caller gave, unless its function is deleted
INSERT INTO input (
    invocation_id, tenant_id, function_id, payload, environment, timeout_seconds, version, caller,
    may_write, traceparent, is_encrypted, size_bytes)
SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM function WHERE id = ?)
    ON CONFLICT (invocation_id) DO NOTHING;

-- number_of_work: how much work of a function is not over
SELECT number FROM work_count WHERE function_id = ?;

-- number_claimed: how much of it is claimed
SELECT count(*) FROM work WHERE function_id = ? AND epoch > 0;

-- claimed_before: what earlier boots of a server have claimed; the first condition is that of the
-- index
SELECT invocation_id, attempts, expires_at_ms, is_begun, machine_boot_id, node_id, epoch FROM work
 WHERE epoch > 0 AND epoch < :epoch AND (:alone OR node_id = :node);

-- claimed_now: what this start of a server has claimed of a function
SELECT invocation_id FROM work
 WHERE function_id = :function_id AND node_id = :node AND epoch = :epoch;

-- next_due: when the first of it that waits is due
SELECT due_at_ms FROM work WHERE function_id = ? AND epoch = 0 ORDER BY due_at_ms LIMIT 1;

-- due_work: every function that has work waiting, and when the first of it is due
SELECT work_count.function_id, function.tenant_id,
       (SELECT due_at_ms FROM work
         WHERE work.function_id = work_count.function_id AND epoch = 0
         ORDER BY due_at_ms LIMIT 1) AS next_due_ms
  FROM work_count JOIN function ON function.id = work_count.function_id
 WHERE work_count.number > 0;

-- first_waiting: the first of it that waits
SELECT invocation_id FROM work WHERE function_id = ? AND epoch = 0
 ORDER BY due_at_ms, invocation_id LIMIT 1;

-- too_old: of the first due work of a function, what is too old to be started
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

-- retry_work: let work wait for its next attempt, after the one with that number
UPDATE work
   SET node_id = '', epoch = 0, machine_boot_id = '', is_begun = FALSE, due_at_ms = ?
 WHERE invocation_id = ? AND attempts = ?;

-- remove_work: the work is over
DELETE FROM work WHERE invocation_id = ?;

-- add_attempt: an attempt is over
INSERT INTO attempt (
    invocation_id, attempt, status, started_at, ended_at, duration_ms, exit_code, error_message,
    execution_node_id, cold_start, version, stdout, stderr, end_cause)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING;

-- drop_attempt_output: keep the attempts at a call without their output
UPDATE attempt SET stdout = NULL, stderr = NULL WHERE invocation_id = :invocation_id;

-- add_dead_letter: the work is given up
INSERT INTO dead_letter (invocation_id, tenant_id, function_id, reason, died_at)
VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING;

-- drop_old_dead_letters: keep the newest of a function
DELETE FROM dead_letter
 WHERE function_id = :function_id
   AND invocation_id <= (SELECT invocation_id FROM dead_letter WHERE function_id = :function_id
                          ORDER BY invocation_id DESC LIMIT 1 OFFSET :kept);

-- add_delivery: something is to be sent
INSERT INTO delivery (
    id, tenant_id, function_id, invocation_id, policy_field, status, body, due_at_ms, expires_at_ms,
    error_message, ended_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING;

-- stats_of: the statistics of a function and a stretch of time
SELECT stats FROM call_stats
 WHERE tenant_id = ? AND step_s = ? AND start = ? AND function_id = ?;

-- put_stats: keep statistics, in place of those that were there
INSERT INTO call_stats (tenant_id, step_s, start, function_id, stats) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (tenant_id, step_s, start, function_id) DO UPDATE SET stats = excluded.stats;

-- remove_stats: take statistics away
DELETE FROM call_stats WHERE tenant_id = ? AND step_s = ? AND start = ? AND function_id = ?;

-- stats_of_tenant: statistics of one step and all functions of a tenant, behind a function and a
-- start
SELECT start, function_id, stats FROM call_stats
 WHERE tenant_id = :tenant_id AND step_s = :step_s AND start < :before
   AND (start, function_id) > (:start, :function_id)
 ORDER BY start, function_id LIMIT :most;

-- stats_of_function: likewise of one function
SELECT tenant_id, step_s, start, function_id, stats FROM call_stats
 WHERE function_id = :function_id AND step_s = :step_s AND start >= :start AND start < :before
   AND tenant_id = :tenant_id
 ORDER BY start;

-- oldest_stats_of_tenant: of a tenant, those of the shortest step first, and the oldest of these
SELECT tenant_id, step_s, start, function_id, stats FROM call_stats
 WHERE tenant_id = :tenant_id AND step_s = :step_s AND function_id > :function_id
 ORDER BY start, function_id LIMIT :most;

-- oldest_sums_of_tenant: of a tenant, what is no longer told apart by function, the oldest first
SELECT tenant_id, step_s, start, function_id, stats FROM call_stats
 WHERE tenant_id = :tenant_id AND step_s = :step_s AND function_id = ''
 ORDER BY start LIMIT :most;

-- note_url_tenant: remember that a tenant has had a URL
INSERT INTO url_tenant (tenant_id) VALUES (?) ON CONFLICT DO NOTHING;

-- note_counted: remember that a call was counted that leaves no record
INSERT INTO counted_call (invocation_id, ended_at) VALUES (?, ?) ON CONFLICT DO NOTHING;

-- note_counted_of: likewise of calls whose records are about to go
INSERT INTO counted_call (invocation_id, ended_at)
SELECT invocation_id, ended_at FROM invocation
 WHERE invocation_id = ? AND ended_at IS NOT NULL
    ON CONFLICT DO NOTHING;

-- forget_counted: forget calls that ended before a moment
DELETE FROM counted_call
 WHERE invocation_id IN (SELECT invocation_id FROM counted_call
                          WHERE ended_at < :before ORDER BY ended_at LIMIT :most);

-- record_change: add a change with the next number. Writers come one after the other, whichever
-- database it is, so numbers appear in their order.
INSERT INTO change (number, kind, tenant_id, object_id)
SELECT coalesce(max(number), 0) + 1, :kind, :tenant_id, :object_id FROM change
RETURNING number;

-- over_among: those of the given ids (a JSON array) whose record is final already, or of a later
-- attempt than the first
SELECT invocation_id, status, attempt FROM invocation
 WHERE invocation_id IN $each(:ids)
   AND (status NOT IN ('queued', 'running') OR attempt > 1);

-- ids_among: those of the given ids (a JSON array) that have a record
SELECT invocation_id FROM invocation WHERE invocation_id IN $each(:ids);

-- needed_among: those of the given ids (a JSON array) of work that is not over, or a dead letter
SELECT value FROM $each(:ids) AS given
 WHERE EXISTS (SELECT 1 FROM work WHERE invocation_id = value)
    OR EXISTS (SELECT 1 FROM dead_letter WHERE invocation_id = value);

-- remove_invocations: take records away, by a JSON array of their ids
DELETE FROM invocation WHERE invocation_id IN $each(:ids);

-- remove_attempts: take the attempts of calls away
DELETE FROM attempt WHERE invocation_id IN $each(:ids);

-- remove_dead_letters: likewise their dead letters
DELETE FROM dead_letter WHERE invocation_id IN $each(:ids);

-- remove_inputs: likewise their inputs
DELETE FROM input WHERE invocation_id IN $each(:ids);

-- claim_work: take the first due work of a function, so that nobody else can, until the inputs of it
-- reach a size
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

-- forget_inputs: of calls that are over (a JSON array of ids), the inputs that their functions do
-- not keep; a dead letter keeps its own
DELETE FROM input
 WHERE invocation_id IN $each(:ids)
   AND EXISTS (SELECT 1 FROM function_policy
                WHERE function_policy.function_id = input.function_id
                  AND record_policy ->> 'keep_input' = 'none')
   AND NOT EXISTS (SELECT 1 FROM dead_letter
                    WHERE dead_letter.invocation_id = input.invocation_id);

-- counters_of_left: what the running calls add up to that earlier boots of a node left. Left to
-- itself SQLite groups along the other index and reads every record there is. The first condition on
-- the status is that of the partial index, without which SQLite does not use it.
SELECT function_id, max(tenant_id) AS tenant_id, count(*) AS calls, count(*) AS errors,
       count(*) FILTER (WHERE cold_start) AS cold_starts, max(coalesce(started_at, :now)) AS last
  FROM invocation $by(invocation_open)
 WHERE status IN ('queued', 'running') AND status = 'running'
   AND epoch < :epoch AND (:alone OR execution_node_id = :node)
 GROUP BY function_id;

-- interrupt_left: end the running calls that earlier boots of a node left. Why there are two
-- conditions on the status: see counters_of_left
UPDATE invocation $by(invocation_open)
   SET status = 'interrupted', error_message = :why, end_cause = :cause,
       ended_at = $greatest(CAST(:now AS bigint), coalesce(started_at, 0))
 WHERE status IN ('queued', 'running') AND status = 'running'
   AND epoch < :epoch AND (:alone OR execution_node_id = :node);

-- oldest_of_tenant: the oldest records of a tenant that have an end, an id below the given one and a
-- size above the given one; and their sizes, without touching the rows. `with_open`: among them also
-- those without an end that have output of attempts
SELECT invocation_id, size_bytes, FALSE AS is_open FROM invocation $by(invocation_of_tenant)
 WHERE tenant_id = :tenant_id AND invocation_id < :before AND size_bytes > :above
   AND status NOT IN ('queued', 'running')
 UNION ALL
SELECT invocation_id, size_bytes, TRUE FROM invocation $by(invocation_open_output)
 WHERE tenant_id = :tenant_id AND invocation_id < :before AND size_bytes > 600
   AND status IN ('queued', 'running') AND CAST(:with_open AS boolean)
 ORDER BY invocation_id LIMIT :most;

-- records_of_function: the newest records of a function that match, from one id up to another, without
-- touching the rows
SELECT invocation_id FROM invocation $by(invocation_listing)
 WHERE function_id = :owner AND invocation_id < :before AND invocation_id >= :start
   AND (CAST(:status AS text) IS NULL OR status = :status)
   AND (CAST(:cold_start AS boolean) IS NULL OR cold_start = :cold_start)
   AND (CAST(:min_duration_ms AS bigint) IS NULL OR duration_ms >= :min_duration_ms)
   AND (CAST(:source AS text) IS NULL OR source = :source)
   AND (CAST(:version AS integer) IS NULL OR version = :version)
   AND EXISTS (SELECT 1 FROM function WHERE id = :owner)
 ORDER BY invocation_id DESC LIMIT :most;

-- step_of_function: the id that so many of a function's records further on has
SELECT invocation_id FROM invocation $by(invocation_listing)
 WHERE function_id = :owner AND invocation_id < :before AND invocation_id >= :start
 ORDER BY invocation_id DESC LIMIT 1 OFFSET :entries;

-- ended_records: the newest records of a tenant that have an end and match, likewise
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

-- step_of_ended: the id that so many of them further on has
SELECT invocation_id FROM invocation $by(invocation_of_tenant)
 WHERE tenant_id = :owner AND invocation_id < :before AND invocation_id >= :start
   AND status NOT IN ('queued', 'running')
 ORDER BY invocation_id DESC LIMIT 1 OFFSET :entries;

-- open_records: the newest records of a tenant that have no end and match; these have no output yet,
-- so their rows are short
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

-- step_of_open: the id that so many of them further on has
SELECT invocation_id FROM invocation $by(invocation_open)
 WHERE tenant_id = :owner AND invocation_id < :before AND invocation_id >= :start
   AND status IN ('queued', 'running')
 ORDER BY invocation_id DESC LIMIT 1 OFFSET :entries;

-- children_of: the newest calls that a call has caused
SELECT invocation_id FROM invocation $by(invocation_children)
 WHERE parent_invocation_id = :parent AND tenant_id = :tenant_id
   AND EXISTS (SELECT 1 FROM function WHERE id = invocation.function_id)
 ORDER BY invocation_id DESC LIMIT :most;

-- drop_output: keep a record without its output, which counts as dropped
UPDATE invocation
   SET stdout_dropped = stdout_dropped + length(stdout),
       stderr_dropped = stderr_dropped + length(stderr),
       stdout = $nothing, stderr = $nothing, size_bytes = :record_bytes
 WHERE invocation_id = :invocation_id;

-- drop_body: take the oldest answer of a tenant that is kept; that there was one stays known
UPDATE idempotent_answer SET body = $nothing
 WHERE $row = (SELECT $row FROM idempotent_answer
                 WHERE tenant_id = :tenant_id AND length(body) > 0 ORDER BY made_at LIMIT 1);

-- stats_by_age: the oldest statistics of a step that start before a moment, but those of tenants
-- that are read (a JSON array)
SELECT tenant_id, step_s, start, function_id, stats FROM call_stats
 WHERE step_s = :step_s AND start < :before
   AND tenant_id NOT IN $each(:read) ORDER BY start LIMIT :most;
