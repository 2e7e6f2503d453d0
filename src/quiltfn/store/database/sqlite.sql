-- SQLite's own forms of statements, with hints for its planner. First, the words of queries.sql.
-- $each = (SELECT value FROM json_each({}))
-- $by = INDEXED BY {}
-- $greatest = max
-- $nothing = x''
-- $row = rowid
-- $locked =

-- oldest_ended: the oldest ended records of all tenants with lower ids than the given one. The
-- index has ended records only, so waiting ones cost nothing.
SELECT invocation.invocation_id
  FROM usage CROSS JOIN invocation INDEXED BY invocation_of_tenant
 WHERE usage.kind = 'record' AND usage.number > 0 AND invocation.tenant_id = usage.tenant_id
   AND invocation.status NOT IN ('queued', 'running') AND invocation.invocation_id < :before
 LIMIT :most;

-- rowid_of_invocation: the number that SQLite needs to open a part of a record's row
SELECT rowid FROM invocation WHERE invocation_id = ? AND function_id = ?;

-- free_slots: release all slots of a node
UPDATE slot SET held = (SELECT json_group_object(key, json(value)) FROM json_each(held)
                         WHERE key <> :node)
 WHERE EXISTS (SELECT 1 FROM json_each(held) WHERE key = :node);
