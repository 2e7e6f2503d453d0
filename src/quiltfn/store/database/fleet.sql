-- Statements of a fleet's nodes, for PostgreSQL only, since only it can be shared by machines.

-- hold_slots: request a number of slots of a function for a node. This is one statement, because
-- one row decides. If PostgreSQL waited for that row, it evaluates everything about the row
-- again; it would not do so for sums over other rows, and two nodes could both get the last
-- slot. The node's row is locked first: a take-over waits for this lock, or has already raised
-- the epoch. A late request changes nothing: each row has the number of a node's last request.
-- After a request for no slots, that number is kept for a minute, which no statement exceeds.
WITH me AS MATERIALIZED (
    SELECT name, CAST(extract(epoch FROM clock_timestamp()) AS bigint) AS now_s
      FROM node WHERE name = :node AND epoch = :epoch FOR KEY SHARE
), stated AS (
    UPDATE slot SET held = CAST((
        SELECT coalesce(jsonb_object_agg(key, value), '{}')
          FROM jsonb_each(CAST(held AS jsonb))
         WHERE coalesce(CAST(value #>> '{forget_at}' AS bigint), me.now_s) >= me.now_s
    ) || jsonb_build_object(me.name, jsonb_build_object(
            'count', least(CAST(:want AS integer), greatest(
                CAST(held #>> ARRAY[me.name, 'count'] AS integer),
                max_instances - (SELECT coalesce(sum(CAST(value #>> '{count}' AS integer)), 0)
                                   FROM jsonb_each(CAST(held AS jsonb)) WHERE key <> me.name),
                0)),
            'wanted', CAST(:want AS integer),
            'epoch', CAST(:epoch AS bigint),
            'turn', CAST(:turn AS bigint))
        || CASE WHEN CAST(:want AS integer) = 0
           THEN jsonb_build_object('forget_at', me.now_s + 60) ELSE '{}' END) AS json)
      FROM me
     WHERE function_id = :function_id
       AND (coalesce(CAST(held #>> ARRAY[me.name, 'epoch'] AS bigint), 0),
            coalesce(CAST(held #>> ARRAY[me.name, 'turn'] AS bigint), 0))
           < (CAST(:epoch AS bigint), CAST(:turn AS bigint))
    RETURNING function_id, max_instances, held
)
SELECT EXISTS (SELECT FROM me), stated.* FROM (VALUES (1)) AS one LEFT JOIN stated ON true;

-- slots_of_node: every function of which a node holds or wants slots
SELECT function_id, max_instances, held FROM slot
 WHERE CAST(held #>> ARRAY[CAST(:node AS text), 'wanted'] AS integer) > 0;

-- slots_of_functions: the slots of some functions, by a JSON array of their ids
SELECT function_id, max_instances, held FROM slot
 WHERE function_id IN (SELECT json_array_elements_text(CAST(:ids AS json)));
