-- keep_invocations: store records as they are now. A final row never changes again, so a record may
-- be kept any number of times; and a function that was deleted gets no rows any more.
INSERT INTO invocation (
    invocation_id, tenant_id, function_id, function_name, execution_node_id, status, started_at,
    ended_at, duration_ms, exit_code, stdout, stderr, error_message, cold_start, timeline,
    stdout_dropped, stderr_dropped, size_bytes)
WITH record (
    invocation_id, tenant_id, function_id, function_name, execution_node_id, status, started_at,
    ended_at, duration_ms, exit_code, stdout, stderr, error_message, cold_start, timeline,
    stdout_dropped, stderr_dropped)
  AS (VALUES :rows)
SELECT *, :record_bytes + length(stdout) + length(stderr) FROM record
 WHERE EXISTS (SELECT 1 FROM function WHERE id = record.function_id)
    ON CONFLICT (invocation_id) DO UPDATE SET
       status = excluded.status, started_at = excluded.started_at, ended_at = excluded.ended_at,
       duration_ms = excluded.duration_ms, exit_code = excluded.exit_code, stdout = excluded.stdout,
       stderr = excluded.stderr, error_message = excluded.error_message,
       cold_start = excluded.cold_start, timeline = excluded.timeline,
       stdout_dropped = excluded.stdout_dropped, stderr_dropped = excluded.stderr_dropped,
       size_bytes = excluded.size_bytes
 WHERE invocation.status IN ('queued', 'running');

-- has_function: whether it is there, and not deleted
SELECT 1 FROM function WHERE id = ?;

-- final_among: those of the given ids (a JSON array) whose record is final already
SELECT invocation_id FROM invocation
 WHERE invocation_id IN (SELECT value FROM json_each(:ids))
   AND status NOT IN ('queued', 'running');

-- add_to_counters: count calls that have turned final; nothing happens to a function that is gone
UPDATE function
   SET invocation_count = invocation_count + :calls,
       error_count = error_count + :errors,
       last_invoked_at = CASE WHEN last_invoked_at > :last THEN last_invoked_at ELSE :last END
 WHERE id = :function_id;

-- counters_of_open: what the calls add up to that had no end when the server went. Left to itself
-- SQLite groups along the other index and reads every record there is.
SELECT function_id, count(*) AS calls, count(*) AS errors, max(coalesce(started_at, :now)) AS last
  FROM invocation INDEXED BY invocation_open
 WHERE status IN ('queued', 'running')
 GROUP BY function_id;

-- interrupt_open: end every call that has no end
UPDATE invocation
   SET status = 'interrupted', ended_at = max(:now, coalesce(started_at, 0)), error_message = :why
 WHERE status IN ('queued', 'running');

-- some_of_function: some of a deleted function's records
SELECT invocation_id FROM invocation WHERE function_id = :function_id LIMIT :most;

-- oldest_ended: the oldest records that have an end and an id below the given one
SELECT invocation_id FROM invocation
 WHERE invocation_id < :before
   AND invocation_id NOT IN (SELECT invocation_id FROM invocation
                              WHERE status IN ('queued', 'running'))
 ORDER BY invocation_id LIMIT :most;

-- oldest_of_tenant: the oldest records of a tenant that have an end, an id below the given one and a
-- size above the given one; and their sizes, without touching the rows
SELECT invocation_id, size_bytes FROM invocation INDEXED BY invocation_of_tenant
 WHERE tenant_id = :tenant_id AND invocation_id < :before AND size_bytes > :above
   AND invocation_id NOT IN (SELECT invocation_id FROM invocation
                              WHERE status IN ('queued', 'running'))
 ORDER BY invocation_id LIMIT :most;

-- drop_output: keep a record without its output, which counts as dropped
UPDATE invocation
   SET stdout_dropped = stdout_dropped + length(stdout),
       stderr_dropped = stderr_dropped + length(stderr),
       stdout = x'', stderr = x'', size_bytes = :record_bytes
 WHERE invocation_id = :invocation_id;

-- givers: the tenants who have some of a kind that may go, whoever has most first
SELECT tenant_id, :unit, bytes, number FROM usage
 WHERE kind = :kind AND number > 0 :may_go ORDER BY :unit DESC;

-- usage_of_tenant: how much a tenant has of a kind
SELECT bytes FROM usage WHERE kind = :kind AND tenant_id = :tenant_id;

-- whole_usage: the most that a tenant has of a kind, and what all together have
SELECT coalesce(max(:unit), 0), coalesce(sum(:unit), 0) FROM usage WHERE kind = :kind;

-- drop_body: take the oldest answer of a tenant that is kept; that there was one stays known
UPDATE idempotent_answer SET body = x''
 WHERE rowid = (SELECT rowid FROM idempotent_answer
                 WHERE tenant_id = :tenant_id AND length(body) > 0 ORDER BY made_at LIMIT 1);

-- newest_record: the id of the newest record
SELECT max(invocation_id) FROM invocation;

-- newest_id: the newest id of anything; every SELECT reads one entry at the end of an index
SELECT max(coalesce(id, '')) FROM (
    SELECT max(invocation_id) AS id FROM invocation UNION ALL
    SELECT max(id) FROM function UNION ALL
    SELECT max(id) FROM version UNION ALL
    SELECT max(id) FROM audit UNION ALL
    SELECT max(id) FROM api_key UNION ALL
    SELECT max(operation_id) FROM operation);

-- remove_invocation: take one record away
DELETE FROM invocation WHERE invocation_id = :invocation_id;

-- probe: learn whether the database takes a write
UPDATE probe SET count = count + 1 WHERE id = 1;
