-- The statements that another database would say differently: everything that SQLite alone knows,
-- hints for its planner included, is in this file.

-- over_among: those of the given ids (a JSON array) whose record is final already, or of a later
-- attempt than the first
SELECT invocation_id, status, attempt FROM invocation
 WHERE invocation_id IN (SELECT value FROM json_each(:ids))
   AND (status NOT IN ('queued', 'running') OR attempt > 1);

-- ids_among: those of the given ids (a JSON array) that have a record
SELECT invocation_id FROM invocation WHERE invocation_id IN (SELECT value FROM json_each(:ids));

-- needed_among: those of the given ids (a JSON array) of work that is not over, or a dead letter
SELECT value FROM json_each(:ids)
 WHERE EXISTS (SELECT 1 FROM work WHERE invocation_id = value)
    OR EXISTS (SELECT 1 FROM dead_letter WHERE invocation_id = value);

-- remove_invocations: take records away, by a JSON array of their ids
DELETE FROM invocation WHERE invocation_id IN (SELECT value FROM json_each(:ids));

-- remove_attempts: take the attempts of calls away
DELETE FROM attempt WHERE invocation_id IN (SELECT value FROM json_each(:ids));

-- remove_dead_letters: likewise their dead letters
DELETE FROM dead_letter WHERE invocation_id IN (SELECT value FROM json_each(:ids));

-- remove_inputs: likewise their inputs
DELETE FROM input WHERE invocation_id IN (SELECT value FROM json_each(:ids));

-- claim_work: take the first due work of a function, so that nobody else can, until the inputs of it
-- reach a size; with PostgreSQL the innermost SELECT is one FOR UPDATE SKIP LOCKED
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
                 ORDER BY due_at_ms, invocation_id LIMIT :most) AS first
          JOIN input ON input.invocation_id = first.invocation_id)
     WHERE before < :bytes AND expires_at_ms >= :now)
RETURNING invocation_id, attempts, due_at_ms, expires_at_ms;

-- forget_inputs: of calls that are over (a JSON array of ids), the inputs that their functions do
-- not keep; a dead letter keeps its own
DELETE FROM input
 WHERE invocation_id IN (SELECT value FROM json_each(:ids))
   AND EXISTS (SELECT 1 FROM function_policy
                WHERE function_policy.function_id = input.function_id
                  AND record_policy ->> 'keep_input' = 'none')
   AND NOT EXISTS (SELECT 1 FROM dead_letter
                    WHERE dead_letter.invocation_id = input.invocation_id);

-- counters_of_left: what the running calls add up to that earlier boots of a node left. Left to
-- itself SQLite groups along the other index and reads every record there is. The first condition on
-- the status is that of the partial index, without which SQLite does not use it.
SELECT function_id, max(tenant_id) AS tenant_id, count(*) AS calls, count(*) AS errors,
       sum(cold_start) AS cold_starts, max(coalesce(started_at, :now)) AS last
  FROM invocation INDEXED BY invocation_open
 WHERE status IN ('queued', 'running') AND status = 'running'
   AND epoch < :epoch AND (:alone OR execution_node_id = :node)
 GROUP BY function_id;

-- interrupt_left: end the running calls that earlier boots of a node left. Why there are two
-- conditions on the status: see counters_of_left
UPDATE invocation INDEXED BY invocation_open
   SET status = 'interrupted', ended_at = max(:now, coalesce(started_at, 0)), error_message = :why,
       end_cause = :cause
 WHERE status IN ('queued', 'running') AND status = 'running'
   AND epoch < :epoch AND (:alone OR execution_node_id = :node);

-- oldest_ended: the oldest records of each tenant that have an end and an id below the given one.
-- However many wait, the index has those with an end only.
SELECT invocation.invocation_id
  FROM usage CROSS JOIN invocation INDEXED BY invocation_of_tenant
 WHERE usage.kind = 'record' AND usage.number > 0 AND invocation.tenant_id = usage.tenant_id
   AND invocation.status NOT IN ('queued', 'running') AND invocation.invocation_id < :before
 LIMIT :most;

-- oldest_of_tenant: the oldest records of a tenant that have an end, an id below the given one and a
-- size above the given one; and their sizes, without touching the rows. `with_open`: among them also
-- those without an end that have output of attempts
SELECT invocation_id, size_bytes, FALSE AS is_open FROM invocation INDEXED BY invocation_of_tenant
 WHERE tenant_id = :tenant_id AND invocation_id < :before AND size_bytes > :above
   AND status NOT IN ('queued', 'running')
 UNION ALL
SELECT invocation_id, size_bytes, TRUE FROM invocation INDEXED BY invocation_open_output
 WHERE tenant_id = :tenant_id AND invocation_id < :before AND size_bytes > 600
   AND status IN ('queued', 'running') AND :with_open
 ORDER BY invocation_id LIMIT :most;

-- records_of_function: the newest records of a function that match, from one id up to another, without
-- touching the rows
SELECT invocation_id FROM invocation INDEXED BY invocation_listing
 WHERE function_id = :owner AND invocation_id < :before AND invocation_id >= :start
   AND (:status IS NULL OR status = :status)
   AND (:cold_start IS NULL OR cold_start = :cold_start)
   AND (:min_duration_ms IS NULL OR duration_ms >= :min_duration_ms)
   AND (:source IS NULL OR source = :source) AND (:version IS NULL OR version = :version)
   AND EXISTS (SELECT 1 FROM function WHERE id = :owner)
 ORDER BY invocation_id DESC LIMIT :most;

-- step_of_function: the id that so many of a function's records further on has
SELECT invocation_id FROM invocation INDEXED BY invocation_listing
 WHERE function_id = :owner AND invocation_id < :before AND invocation_id >= :start
 ORDER BY invocation_id DESC LIMIT 1 OFFSET :entries;

-- ended_records: the newest records of a tenant that have an end and match, likewise
SELECT invocation_id FROM invocation INDEXED BY invocation_of_tenant
 WHERE tenant_id = :owner AND invocation_id < :before AND invocation_id >= :start
   AND status NOT IN ('queued', 'running')
   AND (:status IS NULL OR status = :status)
   AND (:cold_start IS NULL OR cold_start = :cold_start)
   AND (:min_duration_ms IS NULL OR duration_ms >= :min_duration_ms)
   AND (:source IS NULL OR source = :source) AND (:version IS NULL OR version = :version)
   AND EXISTS (SELECT 1 FROM function WHERE id = invocation.function_id)
 ORDER BY invocation_id DESC LIMIT :most;

-- step_of_ended: the id that so many of them further on has
SELECT invocation_id FROM invocation INDEXED BY invocation_of_tenant
 WHERE tenant_id = :owner AND invocation_id < :before AND invocation_id >= :start
   AND status NOT IN ('queued', 'running')
 ORDER BY invocation_id DESC LIMIT 1 OFFSET :entries;

-- open_records: the newest records of a tenant that have no end and match; these have no output yet,
-- so their rows are short
SELECT invocation_id FROM invocation INDEXED BY invocation_open
 WHERE tenant_id = :owner AND invocation_id < :before AND invocation_id >= :start
   AND status IN ('queued', 'running')
   AND (:status IS NULL OR status = :status)
   AND (:cold_start IS NULL OR cold_start = :cold_start)
   AND (:min_duration_ms IS NULL OR duration_ms >= :min_duration_ms)
   AND (:source IS NULL OR source = :source) AND (:version IS NULL OR version = :version)
   AND EXISTS (SELECT 1 FROM function WHERE id = invocation.function_id)
 ORDER BY invocation_id DESC LIMIT :most;

-- step_of_open: the id that so many of them further on has
SELECT invocation_id FROM invocation INDEXED BY invocation_open
 WHERE tenant_id = :owner AND invocation_id < :before AND invocation_id >= :start
   AND status IN ('queued', 'running')
 ORDER BY invocation_id DESC LIMIT 1 OFFSET :entries;

-- children_of: the newest calls that a call has caused
SELECT invocation_id FROM invocation INDEXED BY invocation_children
 WHERE parent_invocation_id = :parent AND tenant_id = :tenant_id
   AND EXISTS (SELECT 1 FROM function WHERE id = invocation.function_id)
 ORDER BY invocation_id DESC LIMIT :most;

-- rowid_of_invocation: the number by which SQLite opens a part of a record's row
SELECT rowid FROM invocation WHERE invocation_id = ? AND function_id = ?;

-- drop_output: keep a record without its output, which counts as dropped
UPDATE invocation
   SET stdout_dropped = stdout_dropped + length(stdout),
       stderr_dropped = stderr_dropped + length(stderr),
       stdout = x'', stderr = x'', size_bytes = :record_bytes
 WHERE invocation_id = :invocation_id;

-- drop_body: take the oldest answer of a tenant that is kept; that there was one stays known
UPDATE idempotent_answer SET body = x''
 WHERE rowid = (SELECT rowid FROM idempotent_answer
                 WHERE tenant_id = :tenant_id AND length(body) > 0 ORDER BY made_at LIMIT 1);

-- stats_by_age: the oldest statistics of a step that start before a moment, but those of tenants
-- that are read (a JSON array)
SELECT tenant_id, step_s, start, function_id, stats FROM call_stats
 WHERE step_s = :step_s AND start < :before
   AND tenant_id NOT IN (SELECT value FROM json_each(:read)) ORDER BY start LIMIT :most;

-- free_slots: the node holds nothing any more
UPDATE slot SET held = (SELECT json_group_object(key, json(value)) FROM json_each(held)
                         WHERE key <> :node)
 WHERE EXISTS (SELECT 1 FROM json_each(held) WHERE key = :node);
