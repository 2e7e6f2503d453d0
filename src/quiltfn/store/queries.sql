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
SELECT tenant_id, :unit, bytes, number FROM usage
 WHERE kind = :kind AND number > 0 :may_go ORDER BY :unit DESC;

-- usage_of_tenant: how much a tenant has of a kind
SELECT bytes FROM usage WHERE kind = :kind AND tenant_id = :tenant_id;

-- whole_usage: the most that a tenant has of a kind, and what all together have
SELECT coalesce(max(:unit), 0), coalesce(sum(:unit), 0) FROM usage WHERE kind = :kind;

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
