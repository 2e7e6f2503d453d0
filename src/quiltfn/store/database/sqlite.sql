-- What SQLite says in its own way, hints for its planner included. First, the words of queries.sql.
-- $each = (SELECT value FROM json_each({}))
-- $by = INDEXED BY {}
-- $greatest = max
-- $nothing = x''
-- $row = rowid
-- $locked =

-- oldest_ended: the oldest records of each tenant that have an end and an id below the given one.
-- However many wait, the index has those with an end only.
SELECT invocation.invocation_id
  FROM usage CROSS JOIN invocation INDEXED BY invocation_of_tenant
 WHERE usage.kind = 'record' AND usage.number > 0 AND invocation.tenant_id = usage.tenant_id
   AND invocation.status NOT IN ('queued', 'running') AND invocation.invocation_id < :before
 LIMIT :most;

-- rowid_of_invocation: the number by which SQLite opens a part of a record's row
SELECT rowid FROM invocation WHERE invocation_id = ? AND function_id = ?;

-- free_slots: the node holds nothing any more
UPDATE slot SET held = (SELECT json_group_object(key, json(value)) FROM json_each(held)
                         WHERE key <> :node)
 WHERE EXISTS (SELECT 1 FROM json_each(held) WHERE key = :node);
