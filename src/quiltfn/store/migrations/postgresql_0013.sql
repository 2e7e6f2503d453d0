-- The schema of revision 0013 for PostgreSQL, as SQLite's is after the revisions up to there: a new
-- database begins with it. It never changes; later revisions are for both databases.
--
-- Text compares by its bytes, whatever the language of the database: ids and cursors rely on it.
-- Output is stored as it is, so that a part of it can be read without the rest.

CREATE TABLE api_key (
    id text COLLATE "C" NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    scope text COLLATE "C" NOT NULL,
    prefix text COLLATE "C" NOT NULL,
    digest text COLLATE "C" NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint,
    revoked_at bigint,
    label text COLLATE "C",
    PRIMARY KEY (id),
    CONSTRAINT api_key_prefix UNIQUE (prefix)
);

CREATE TABLE attempt (
    invocation_id text COLLATE "C" NOT NULL,
    attempt integer NOT NULL,
    status text COLLATE "C" NOT NULL,
    started_at bigint,
    ended_at bigint,
    duration_ms bigint,
    exit_code integer,
    error_message text COLLATE "C",
    execution_node_id text COLLATE "C" NOT NULL,
    cold_start boolean NOT NULL,
    version integer,
    PRIMARY KEY (invocation_id, attempt)
);

CREATE TABLE audit (
    id text COLLATE "C" NOT NULL,
    at bigint NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    credential text COLLATE "C" NOT NULL,
    action text COLLATE "C" NOT NULL,
    object_id text COLLATE "C",
    status integer NOT NULL,
    error_code text COLLATE "C",
    address text COLLATE "C" NOT NULL,
    request_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (id)
);
CREATE INDEX audit_age ON audit (at);
CREATE INDEX audit_listing ON audit (tenant_id, id);

CREATE TABLE call_stats (
    tenant_id text COLLATE "C" NOT NULL,
    step_s integer NOT NULL,
    start bigint NOT NULL,
    function_id text COLLATE "C" NOT NULL,
    stats bytea NOT NULL,
    PRIMARY KEY (tenant_id, step_s, start, function_id)
);
CREATE INDEX call_stats_by_age ON call_stats (step_s, start);
CREATE INDEX call_stats_of_function ON call_stats (function_id, step_s, start);

CREATE TABLE change (
    number bigint NOT NULL,
    kind text COLLATE "C" NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    object_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (number)
);

CREATE TABLE clock (
    id integer NOT NULL,
    boot_id text COLLATE "C" NOT NULL,
    offset_s double precision NOT NULL,
    settled_at bigint NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE counted_call (
    invocation_id text COLLATE "C" NOT NULL,
    ended_at bigint NOT NULL,
    PRIMARY KEY (invocation_id)
);
CREATE INDEX counted_call_age ON counted_call (ended_at);

CREATE TABLE dead_letter (
    invocation_id text COLLATE "C" NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    function_id text COLLATE "C" NOT NULL,
    reason text COLLATE "C" NOT NULL,
    died_at bigint NOT NULL,
    PRIMARY KEY (invocation_id)
);
CREATE INDEX dead_letter_listing ON dead_letter (function_id, invocation_id);

CREATE TABLE deletion (
    function_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (function_id)
);

CREATE TABLE delivery (
    id text COLLATE "C" NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    function_id text COLLATE "C" NOT NULL,
    invocation_id text COLLATE "C" NOT NULL,
    policy_field text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL,
    body bytea NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    due_at_ms bigint NOT NULL,
    expires_at_ms bigint NOT NULL,
    http_status integer,
    error_message text COLLATE "C",
    ended_at bigint,
    node_id text COLLATE "C" DEFAULT '' NOT NULL,
    epoch bigint DEFAULT 0 NOT NULL,
    PRIMARY KEY (id)
);
CREATE INDEX delivery_due ON delivery
    (function_id, due_at_ms)
    WHERE status = 'waiting' AND epoch = 0;
CREATE INDEX delivery_ended ON delivery (tenant_id, ended_at);
CREATE INDEX delivery_listing ON delivery (function_id, id);

CREATE TABLE function (
    id text COLLATE "C" NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    cluster_id text COLLATE "C",
    description text COLLATE "C",
    owner_node_id text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    current_version integer NOT NULL,
    min_instances integer NOT NULL,
    max_instances integer NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    error_message text COLLATE "C",
    revision bigint DEFAULT 1 NOT NULL,
    invocation_count bigint DEFAULT 0 NOT NULL,
    error_count bigint DEFAULT 0 NOT NULL,
    last_invoked_at bigint,
    PRIMARY KEY (id),
    CONSTRAINT function_name UNIQUE (tenant_id, name)
);

CREATE TABLE idempotent_answer (
    tenant_id text COLLATE "C" NOT NULL,
    method text COLLATE "C" NOT NULL,
    path text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    body_digest text COLLATE "C" NOT NULL,
    status integer,
    headers json NOT NULL,
    body bytea NOT NULL,
    made_at bigint NOT NULL,
    node_id text COLLATE "C" DEFAULT '' NOT NULL,
    epoch bigint DEFAULT 0 NOT NULL
);
-- In place of a primary key: a path may be longer than what fits into an index.
CREATE UNIQUE INDEX idempotent_answer_key
    ON idempotent_answer (tenant_id, key, method, md5(path));
CREATE INDEX idempotent_answer_age ON idempotent_answer (made_at);
CREATE INDEX idempotent_answer_running ON idempotent_answer (made_at) WHERE status IS NULL;
CREATE INDEX idempotent_answer_with_body ON idempotent_answer
    (tenant_id, made_at)
    WHERE length(body) > 0;

CREATE TABLE input (
    invocation_id text COLLATE "C" NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    function_id text COLLATE "C" NOT NULL,
    timeout_seconds integer,
    version integer,
    caller text COLLATE "C" NOT NULL,
    may_write boolean NOT NULL,
    traceparent text COLLATE "C",
    is_encrypted boolean DEFAULT FALSE NOT NULL,
    size_bytes bigint NOT NULL,
    payload bytea,
    environment bytea,
    PRIMARY KEY (invocation_id)
);
CREATE INDEX input_of_function ON input (function_id);
CREATE INDEX input_of_tenant ON input (tenant_id, invocation_id, size_bytes);

CREATE TABLE invocation (
    invocation_id text COLLATE "C" NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    function_id text COLLATE "C" NOT NULL,
    function_name text COLLATE "C" NOT NULL,
    execution_node_id text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL,
    started_at bigint,
    ended_at bigint,
    duration_ms bigint,
    exit_code integer,
    stdout bytea NOT NULL,
    stderr bytea NOT NULL,
    error_message text COLLATE "C",
    cold_start boolean NOT NULL,
    timeline json,
    stdout_dropped bigint DEFAULT 0 NOT NULL,
    stderr_dropped bigint DEFAULT 0 NOT NULL,
    version integer,
    source text COLLATE "C" DEFAULT 'sync' NOT NULL,
    attempt integer DEFAULT 1 NOT NULL,
    due_at bigint,
    parent_invocation_id text COLLATE "C",
    origin_invocation_id text COLLATE "C",
    output_order text COLLATE "C",
    memory_mib integer DEFAULT 0 NOT NULL,
    epoch bigint DEFAULT 0 NOT NULL,
    size_bytes bigint DEFAULT 600 NOT NULL,
    PRIMARY KEY (invocation_id)
);
CREATE INDEX invocation_children ON invocation
    (parent_invocation_id, invocation_id)
    WHERE parent_invocation_id IS NOT NULL;
CREATE INDEX invocation_listing ON invocation
    (function_id, invocation_id, status, cold_start, duration_ms, source, version);
CREATE INDEX invocation_of_tenant ON invocation (
    tenant_id, invocation_id, size_bytes, status, function_id, cold_start,
    duration_ms, source, version)
    WHERE status NOT IN ('queued', 'running');
CREATE INDEX invocation_open ON invocation
    (tenant_id, invocation_id, status)
    WHERE status IN ('queued', 'running');

CREATE TABLE key_revision (
    id integer NOT NULL,
    number bigint NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE node (
    name text COLLATE "C" NOT NULL,
    epoch bigint NOT NULL,
    PRIMARY KEY (name)
) WITH (fillfactor = 50);

CREATE TABLE operation (
    operation_id text COLLATE "C" NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    operation_type text COLLATE "C" NOT NULL,
    idempotency_key text COLLATE "C" NOT NULL,
    action_id text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL,
    reason_code text COLLATE "C",
    reason_message text COLLATE "C",
    retryable boolean NOT NULL,
    created_at bigint NOT NULL,
    node_id text COLLATE "C" DEFAULT '' NOT NULL,
    epoch bigint DEFAULT 0 NOT NULL,
    PRIMARY KEY (operation_id),
    CONSTRAINT operation_key UNIQUE (tenant_id, idempotency_key)
);
CREATE INDEX operation_listing ON operation (tenant_id, operation_id);

CREATE TABLE probe (
    id integer NOT NULL,
    count bigint NOT NULL,
    PRIMARY KEY (id)
) WITH (fillfactor = 50);

CREATE TABLE runtime (
    tenant_id text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    image text COLLATE "C",
    host text COLLATE "C" NOT NULL,
    command json NOT NULL,
    environment json NOT NULL,
    isolation text COLLATE "C" NOT NULL,
    network text COLLATE "C" NOT NULL,
    writable_paths json NOT NULL,
    created_at bigint NOT NULL,
    PRIMARY KEY (tenant_id, name)
);

CREATE TABLE schedule_run (
    schedule_id text COLLATE "C" NOT NULL,
    tick_ms bigint NOT NULL,
    function_id text COLLATE "C" NOT NULL,
    outcome text COLLATE "C" NOT NULL,
    invocation_id text COLLATE "C",
    reason text COLLATE "C",
    missed bigint NOT NULL,
    is_manual boolean NOT NULL,
    decided_at bigint NOT NULL,
    PRIMARY KEY (schedule_id, tick_ms, is_manual)
);
CREATE INDEX schedule_run_of_function ON schedule_run (function_id);
CREATE INDEX schedule_run_waiting ON schedule_run
    (schedule_id, tick_ms)
    WHERE outcome = 'waiting';

CREATE TABLE tenant_image (
    tenant_id text COLLATE "C" NOT NULL,
    digest text COLLATE "C" NOT NULL,
    counted_bytes bigint NOT NULL,
    PRIMARY KEY (tenant_id, digest)
);

CREATE TABLE tenant_quota (
    tenant_id text COLLATE "C" NOT NULL,
    quota json NOT NULL,
    PRIMARY KEY (tenant_id)
);

CREATE TABLE usage (
    kind text COLLATE "C" NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    bytes bigint NOT NULL,
    number bigint NOT NULL,
    PRIMARY KEY (kind, tenant_id)
) WITH (fillfactor = 50);

CREATE TABLE work (
    invocation_id text COLLATE "C" NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    function_id text COLLATE "C" NOT NULL,
    due_at_ms bigint NOT NULL,
    expires_at_ms bigint NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    is_begun boolean DEFAULT FALSE NOT NULL,
    machine_boot_id text COLLATE "C" DEFAULT '' NOT NULL,
    node_id text COLLATE "C" DEFAULT '' NOT NULL,
    epoch bigint DEFAULT 0 NOT NULL,
    PRIMARY KEY (invocation_id)
);
CREATE INDEX work_claimed ON work (function_id, epoch) WHERE epoch > 0;
CREATE INDEX work_due ON work (function_id, due_at_ms, invocation_id) WHERE epoch = 0;

CREATE TABLE work_count (
    function_id text COLLATE "C" NOT NULL,
    number bigint NOT NULL,
    PRIMARY KEY (function_id)
) WITH (fillfactor = 50);

CREATE TABLE function_policy (
    function_id text COLLATE "C" NOT NULL,
    async_policy json,
    record_policy json,
    PRIMARY KEY (function_id),
    FOREIGN KEY (function_id) REFERENCES function (id) ON DELETE CASCADE
);

CREATE TABLE function_url (
    function_id text COLLATE "C" NOT NULL,
    url json NOT NULL,
    PRIMARY KEY (function_id),
    FOREIGN KEY (function_id) REFERENCES function (id) ON DELETE CASCADE
);

CREATE TABLE schedule (
    tenant_id text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    function_id text COLLATE "C" NOT NULL,
    cron text COLLATE "C",
    every_seconds bigint,
    timezone text COLLATE "C" NOT NULL,
    payload text COLLATE "C",
    environment json,
    overlap text COLLATE "C" NOT NULL,
    missed text COLLATE "C" NOT NULL,
    jitter_seconds bigint NOT NULL,
    enabled boolean NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    revision bigint NOT NULL,
    anchor_ms bigint NOT NULL,
    next_tick_ms bigint,
    next_due_ms bigint,
    looked_at_ms bigint NOT NULL,
    missed_count bigint DEFAULT 0 NOT NULL,
    skipped_count bigint DEFAULT 0 NOT NULL,
    fired_count bigint DEFAULT 0 NOT NULL,
    PRIMARY KEY (tenant_id, name),
    CONSTRAINT schedule_id UNIQUE (id),
    FOREIGN KEY (function_id) REFERENCES function (id) ON DELETE CASCADE
);
CREATE INDEX schedule_due ON schedule (next_due_ms);
CREATE INDEX schedule_function ON schedule (function_id);

CREATE TABLE version (
    id text COLLATE "C" NOT NULL,
    function_id text COLLATE "C" NOT NULL,
    number integer NOT NULL,
    digest text COLLATE "C" NOT NULL,
    description text COLLATE "C",
    created_at bigint NOT NULL,
    handler text COLLATE "C" NOT NULL,
    runtime text COLLATE "C" NOT NULL,
    pinned json NOT NULL,
    environment json NOT NULL,
    working_directory text COLLATE "C",
    memory_limit_mb integer NOT NULL,
    cpu_limit_percent double precision NOT NULL,
    timeout_seconds integer NOT NULL,
    cleanup_on_exit boolean NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT version_number UNIQUE (function_id, number),
    FOREIGN KEY (function_id) REFERENCES function (id) ON DELETE CASCADE
);

ALTER TABLE invocation ALTER COLUMN stdout SET STORAGE EXTERNAL;
ALTER TABLE invocation ALTER COLUMN stderr SET STORAGE EXTERNAL;

INSERT INTO probe (id, count) VALUES (1, 0);
INSERT INTO key_revision (id, number) VALUES (1, 0);

-- What a tenant's rows take is counted once for each statement: one for each row would update one
-- row of `usage` thousands of times in a transaction. Tenants come in order, so that two servers
-- which count several at the same time do not wait for each other in a circle.

CREATE FUNCTION count_invocation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO usage (kind, tenant_id, bytes, number)
        SELECT 'record', tenant_id, sum(size_bytes), count(*)
          FROM (SELECT tenant_id, size_bytes
                  FROM added) AS one
         GROUP BY tenant_id ORDER BY tenant_id
            ON CONFLICT (kind, tenant_id) DO UPDATE
           SET bytes = usage.bytes + excluded.bytes, number = usage.number + excluded.number;
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM 1 FROM usage
          WHERE kind = 'record' AND tenant_id IN (SELECT tenant_id FROM removed)
          ORDER BY tenant_id FOR UPDATE;
        UPDATE usage SET bytes = bytes - gone.size_bytes, number = number - gone.rows
          FROM (SELECT tenant_id, sum(size_bytes) AS size_bytes, count(*) AS rows
                  FROM (SELECT tenant_id, size_bytes
                          FROM removed) AS one
                 GROUP BY tenant_id) AS gone
         WHERE usage.kind = 'record' AND usage.tenant_id = gone.tenant_id;
    ELSE
        PERFORM 1 FROM usage
          WHERE kind = 'record' AND tenant_id IN (SELECT tenant_id FROM removed)
          ORDER BY tenant_id FOR UPDATE;
        UPDATE usage SET bytes = bytes + more.size_bytes
          FROM (SELECT tenant_id, sum(size_bytes) AS size_bytes
                  FROM (SELECT tenant_id, size_bytes
                          FROM added
                        UNION ALL
                        SELECT tenant_id, -size_bytes
                          FROM removed) AS one
                 GROUP BY tenant_id HAVING sum(size_bytes) <> 0) AS more
         WHERE usage.kind = 'record' AND usage.tenant_id = more.tenant_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER invocation_added AFTER INSERT ON invocation
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION count_invocation();
CREATE TRIGGER invocation_removed AFTER DELETE ON invocation
    REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION count_invocation();
CREATE TRIGGER invocation_changed AFTER UPDATE ON invocation
    REFERENCING OLD TABLE AS removed NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION count_invocation();

CREATE FUNCTION count_idempotent_answer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO usage (kind, tenant_id, bytes, number)
        SELECT 'answer', tenant_id, sum(size_bytes), count(*)
          FROM (SELECT tenant_id, 500 + length(path) + length(key)
                       + greatest(200, length(headers::text)) + length(body) AS size_bytes
                  FROM added) AS one
         GROUP BY tenant_id ORDER BY tenant_id
            ON CONFLICT (kind, tenant_id) DO UPDATE
           SET bytes = usage.bytes + excluded.bytes, number = usage.number + excluded.number;
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM 1 FROM usage
          WHERE kind = 'answer' AND tenant_id IN (SELECT tenant_id FROM removed)
          ORDER BY tenant_id FOR UPDATE;
        UPDATE usage SET bytes = bytes - gone.size_bytes, number = number - gone.rows
          FROM (SELECT tenant_id, sum(size_bytes) AS size_bytes, count(*) AS rows
                  FROM (SELECT tenant_id, 500 + length(path) + length(key)
                       + greatest(200, length(headers::text)) + length(body) AS size_bytes
                          FROM removed) AS one
                 GROUP BY tenant_id) AS gone
         WHERE usage.kind = 'answer' AND usage.tenant_id = gone.tenant_id;
    ELSE
        PERFORM 1 FROM usage
          WHERE kind = 'answer' AND tenant_id IN (SELECT tenant_id FROM removed)
          ORDER BY tenant_id FOR UPDATE;
        UPDATE usage SET bytes = bytes + more.size_bytes
          FROM (SELECT tenant_id, sum(size_bytes) AS size_bytes
                  FROM (SELECT tenant_id, 500 + length(path) + length(key)
                       + greatest(200, length(headers::text)) + length(body) AS size_bytes
                          FROM added
                        UNION ALL
                        SELECT tenant_id, -(500 + length(path) + length(key)
                       + greatest(200, length(headers::text)) + length(body))
                          FROM removed) AS one
                 GROUP BY tenant_id HAVING sum(size_bytes) <> 0) AS more
         WHERE usage.kind = 'answer' AND usage.tenant_id = more.tenant_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER idempotent_answer_added AFTER INSERT ON idempotent_answer
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION count_idempotent_answer();
CREATE TRIGGER idempotent_answer_removed AFTER DELETE ON idempotent_answer
    REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION count_idempotent_answer();
CREATE TRIGGER idempotent_answer_changed AFTER UPDATE ON idempotent_answer
    REFERENCING OLD TABLE AS removed NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION count_idempotent_answer();

CREATE FUNCTION count_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO usage (kind, tenant_id, bytes, number)
        SELECT 'audit', tenant_id, sum(size_bytes), count(*)
          FROM (SELECT tenant_id, 500 + length(credential) + length(request_id) AS size_bytes
                  FROM added) AS one
         GROUP BY tenant_id ORDER BY tenant_id
            ON CONFLICT (kind, tenant_id) DO UPDATE
           SET bytes = usage.bytes + excluded.bytes, number = usage.number + excluded.number;
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM 1 FROM usage
          WHERE kind = 'audit' AND tenant_id IN (SELECT tenant_id FROM removed)
          ORDER BY tenant_id FOR UPDATE;
        UPDATE usage SET bytes = bytes - gone.size_bytes, number = number - gone.rows
          FROM (SELECT tenant_id, sum(size_bytes) AS size_bytes, count(*) AS rows
                  FROM (SELECT tenant_id, 500 + length(credential) + length(request_id) AS size_bytes
                          FROM removed) AS one
                 GROUP BY tenant_id) AS gone
         WHERE usage.kind = 'audit' AND usage.tenant_id = gone.tenant_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER audit_added AFTER INSERT ON audit
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION count_audit();
CREATE TRIGGER audit_removed AFTER DELETE ON audit
    REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION count_audit();

CREATE FUNCTION count_operation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO usage (kind, tenant_id, bytes, number)
        SELECT 'operation', tenant_id, sum(size_bytes), count(*)
          FROM (SELECT tenant_id, 500 + length(idempotency_key) + length(action_id) AS size_bytes
                  FROM added) AS one
         GROUP BY tenant_id ORDER BY tenant_id
            ON CONFLICT (kind, tenant_id) DO UPDATE
           SET bytes = usage.bytes + excluded.bytes, number = usage.number + excluded.number;
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM 1 FROM usage
          WHERE kind = 'operation' AND tenant_id IN (SELECT tenant_id FROM removed)
          ORDER BY tenant_id FOR UPDATE;
        UPDATE usage SET bytes = bytes - gone.size_bytes, number = number - gone.rows
          FROM (SELECT tenant_id, sum(size_bytes) AS size_bytes, count(*) AS rows
                  FROM (SELECT tenant_id, 500 + length(idempotency_key) + length(action_id) AS size_bytes
                          FROM removed) AS one
                 GROUP BY tenant_id) AS gone
         WHERE usage.kind = 'operation' AND usage.tenant_id = gone.tenant_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER operation_added AFTER INSERT ON operation
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION count_operation();
CREATE TRIGGER operation_removed AFTER DELETE ON operation
    REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION count_operation();

CREATE FUNCTION count_input() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO usage (kind, tenant_id, bytes, number)
        SELECT 'input', tenant_id, sum(size_bytes), count(*)
          FROM (SELECT tenant_id, size_bytes
                  FROM added) AS one
         GROUP BY tenant_id ORDER BY tenant_id
            ON CONFLICT (kind, tenant_id) DO UPDATE
           SET bytes = usage.bytes + excluded.bytes, number = usage.number + excluded.number;
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM 1 FROM usage
          WHERE kind = 'input' AND tenant_id IN (SELECT tenant_id FROM removed)
          ORDER BY tenant_id FOR UPDATE;
        UPDATE usage SET bytes = bytes - gone.size_bytes, number = number - gone.rows
          FROM (SELECT tenant_id, sum(size_bytes) AS size_bytes, count(*) AS rows
                  FROM (SELECT tenant_id, size_bytes
                          FROM removed) AS one
                 GROUP BY tenant_id) AS gone
         WHERE usage.kind = 'input' AND usage.tenant_id = gone.tenant_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER input_added AFTER INSERT ON input
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION count_input();
CREATE TRIGGER input_removed AFTER DELETE ON input
    REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION count_input();

CREATE FUNCTION count_delivery() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO usage (kind, tenant_id, bytes, number)
        SELECT 'delivery', tenant_id, sum(size_bytes), count(*)
          FROM (SELECT tenant_id, 500 + length(body) AS size_bytes
                  FROM added) AS one
         GROUP BY tenant_id ORDER BY tenant_id
            ON CONFLICT (kind, tenant_id) DO UPDATE
           SET bytes = usage.bytes + excluded.bytes, number = usage.number + excluded.number;
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM 1 FROM usage
          WHERE kind = 'delivery' AND tenant_id IN (SELECT tenant_id FROM removed)
          ORDER BY tenant_id FOR UPDATE;
        UPDATE usage SET bytes = bytes - gone.size_bytes, number = number - gone.rows
          FROM (SELECT tenant_id, sum(size_bytes) AS size_bytes, count(*) AS rows
                  FROM (SELECT tenant_id, 500 + length(body) AS size_bytes
                          FROM removed) AS one
                 GROUP BY tenant_id) AS gone
         WHERE usage.kind = 'delivery' AND usage.tenant_id = gone.tenant_id;
    ELSE
        PERFORM 1 FROM usage
          WHERE kind = 'delivery' AND tenant_id IN (SELECT tenant_id FROM removed)
          ORDER BY tenant_id FOR UPDATE;
        UPDATE usage SET bytes = bytes + more.size_bytes
          FROM (SELECT tenant_id, sum(size_bytes) AS size_bytes
                  FROM (SELECT tenant_id, 500 + length(body) AS size_bytes
                          FROM added
                        UNION ALL
                        SELECT tenant_id, -(500 + length(body))
                          FROM removed) AS one
                 GROUP BY tenant_id HAVING sum(size_bytes) <> 0) AS more
         WHERE usage.kind = 'delivery' AND usage.tenant_id = more.tenant_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER delivery_added AFTER INSERT ON delivery
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION count_delivery();
CREATE TRIGGER delivery_removed AFTER DELETE ON delivery
    REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION count_delivery();
CREATE TRIGGER delivery_changed AFTER UPDATE ON delivery
    REFERENCING OLD TABLE AS removed NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION count_delivery();

CREATE FUNCTION count_call_stats() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO usage (kind, tenant_id, bytes, number)
        SELECT 'stats', tenant_id, sum(size_bytes), count(*)
          FROM (SELECT tenant_id, 150 + length(stats) AS size_bytes
                  FROM added) AS one
         GROUP BY tenant_id ORDER BY tenant_id
            ON CONFLICT (kind, tenant_id) DO UPDATE
           SET bytes = usage.bytes + excluded.bytes, number = usage.number + excluded.number;
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM 1 FROM usage
          WHERE kind = 'stats' AND tenant_id IN (SELECT tenant_id FROM removed)
          ORDER BY tenant_id FOR UPDATE;
        UPDATE usage SET bytes = bytes - gone.size_bytes, number = number - gone.rows
          FROM (SELECT tenant_id, sum(size_bytes) AS size_bytes, count(*) AS rows
                  FROM (SELECT tenant_id, 150 + length(stats) AS size_bytes
                          FROM removed) AS one
                 GROUP BY tenant_id) AS gone
         WHERE usage.kind = 'stats' AND usage.tenant_id = gone.tenant_id;
    ELSE
        PERFORM 1 FROM usage
          WHERE kind = 'stats' AND tenant_id IN (SELECT tenant_id FROM removed)
          ORDER BY tenant_id FOR UPDATE;
        UPDATE usage SET bytes = bytes + more.size_bytes
          FROM (SELECT tenant_id, sum(size_bytes) AS size_bytes
                  FROM (SELECT tenant_id, 150 + length(stats) AS size_bytes
                          FROM added
                        UNION ALL
                        SELECT tenant_id, -(150 + length(stats))
                          FROM removed) AS one
                 GROUP BY tenant_id HAVING sum(size_bytes) <> 0) AS more
         WHERE usage.kind = 'stats' AND usage.tenant_id = more.tenant_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER call_stats_added AFTER INSERT ON call_stats
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION count_call_stats();
CREATE TRIGGER call_stats_removed AFTER DELETE ON call_stats
    REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION count_call_stats();
CREATE TRIGGER call_stats_changed AFTER UPDATE ON call_stats
    REFERENCING OLD TABLE AS removed NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION count_call_stats();

CREATE FUNCTION count_work() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO work_count (function_id, number)
        SELECT function_id, count(*) FROM added GROUP BY function_id ORDER BY function_id
            ON CONFLICT (function_id) DO UPDATE SET number = work_count.number + excluded.number;
    ELSE
        PERFORM 1 FROM work_count WHERE function_id IN (SELECT function_id FROM removed)
          ORDER BY function_id FOR UPDATE;
        UPDATE work_count SET number = number - gone.rows
          FROM (SELECT function_id, count(*) AS rows FROM removed GROUP BY function_id) AS gone
         WHERE work_count.function_id = gone.function_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER work_added AFTER INSERT ON work REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION count_work();
CREATE TRIGGER work_removed AFTER DELETE ON work REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION count_work();
