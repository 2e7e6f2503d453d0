-- PostgreSQL's own forms of words and statements; see sqlite.sql.
-- $each = (SELECT json_array_elements_text(CAST({} AS json)) AS value)
-- $by =
-- $greatest = greatest
-- $nothing = ''
-- $row = ctid
-- $locked = FOR UPDATE SKIP LOCKED

-- oldest_ended: the oldest ended records of all tenants with lower ids than the given one. The
-- index has ended records only, so waiting ones cost nothing.
SELECT oldest.invocation_id
  FROM usage CROSS JOIN LATERAL (
       SELECT invocation_id FROM invocation
        WHERE tenant_id = usage.tenant_id AND status NOT IN ('queued', 'running')
          AND invocation_id < :before
        ORDER BY invocation_id LIMIT :most) AS oldest
 WHERE usage.kind = 'record' AND usage.number > 0
 LIMIT :most;

-- output_sizes: the bytes of a record's two streams, without reading them
SELECT octet_length(stdout), octet_length(stderr) FROM invocation
 WHERE invocation_id = ? AND function_id = ?;

-- part_of_stdout: a part of a record's stdout; the first byte has the number 1
SELECT substring(stdout FROM CAST(? AS integer) FOR CAST(? AS integer)) FROM invocation
 WHERE invocation_id = ? AND function_id = ?;

-- part_of_stderr: a part of a record's stderr; the first byte has the number 1
SELECT substring(stderr FROM CAST(? AS integer) FOR CAST(? AS integer)) FROM invocation
 WHERE invocation_id = ? AND function_id = ?;

-- free_slots: release all slots of a node
UPDATE slot SET held = CAST(CAST(held AS jsonb) - CAST(:node AS text) AS json)
 WHERE held -> CAST(:node AS text) IS NOT NULL;
