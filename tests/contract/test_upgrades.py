"""A start upgrades databases of earlier releases and keeps what is in them.

Their rows are SQL as those releases wrote it, and the migrations, which never change, create their
schemas: nothing here depends on today's tables.
"""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from msgspec.structs import replace
from sqlalchemy import create_engine, pool

from contract.pieces import an_accepted, claimed
from contract.stores import a_call, a_function, done, not_none, on_sqlite, opened_journal, rows
from manual_clock import ManualClock
from promises import promise
from quiltfn.model.image import NOT_MEASURED, TenantImage
from quiltfn.model.invocation import Source, Status
from quiltfn.model.retention import RetentionPolicy
from quiltfn.model.runtime import SHARED, SHELL
from quiltfn.store import SqlRetention, SqlRuntimes, SqlTenantImages, SqlWork, migrations
from quiltfn.store.database import tables
from quiltfn.store.tenants.audit import SqlAudit
from quiltfn.store.tenants.keys import SqlKeys

FUNCTION = a_function(id="01990000-0000-7000-8000-000000000001", name="f")
RAN = replace(a_call(FUNCTION), invocation_id="01990000-0000-7000-8000-000000000005")
ENDED = done(replace(RAN, invocation_id="01990000-0000-7000-8000-000000000004"))
RUNTIME_ID = "01990000-0000-7000-8000-000000000006"
NAMED, SNAPSHOT = "ab" * 32, "cd" * 32
ROWS = """
INSERT INTO function (id, tenant_id, name, owner_node_id, state, current_version, min_instances,
    max_instances, created_at, updated_at, invocation_count, error_count)
VALUES ('01990000-0000-7000-8000-000000000001', 'default', 'f', 'node-1', 'pending', 1, 0,
    5, 1760000000, 1760000000, 0, 0);
INSERT INTO version (id, function_id, number, digest, created_at, handler, runtime, environment,
    memory_limit_mb, cpu_limit_percent, timeout_seconds, cleanup_on_exit/*, pinned*/)
VALUES ('01990000-0000-7000-8000-000000000003', '01990000-0000-7000-8000-000000000001', 1,
    'cd97f093b1534e68d2147d5954a03b0b', 1760000001, 'echo hello', 'shell', '{}',
    256, 100.0, 30, 1/*, '{"id": "shell", "name": "shell", "kind": "shell", "image": null,
    "host": "", "command": [], "environment": {}, "isolation": "crun", "network": "none",
    "writable_paths": [], "created_at": 0}'*/);
INSERT INTO invocation (invocation_id, tenant_id, function_id, function_name, execution_node_id,
    status, started_at, ended_at, duration_ms, exit_code, stdout, stderr, cold_start)
VALUES ('01990000-0000-7000-8000-000000000004', 'default', '01990000-0000-7000-8000-000000000001',
    'f', 'node-1', 'success', 1760000100, 1760000101, 3, 0, 'hello
', '', 0),
    ('01990000-0000-7000-8000-000000000005', 'default', '01990000-0000-7000-8000-000000000001',
    'f', 'node-1', 'running', 1760000100, NULL, NULL, NULL, '', '', 0);
"""
# For databases since revision 0003, the first with the table `runtime` and the column `pinned`. The
# version has an image that its runtime's name no longer means.
RUNTIME = f"""
INSERT INTO runtime (id, name, kind, image, host, command, environment, isolation, network,
    writable_paths, created_at)
VALUES ('{RUNTIME_ID}', 'etl', 'shell', '{NAMED}', '', '[]', '{{"A": "1"}}', 'crun', 'none',
    '[]', 0);
UPDATE version SET pinned = json_set(pinned, '$.image', '{SNAPSHOT}');
"""


def database_of(revision: str, path: Path, more: str = "") -> None:
    engine = create_engine(f"sqlite:///{path}/quiltfn.db", poolclass=pool.NullPool)
    with engine.begin() as connection:
        command.upgrade(migrations.config(connection), revision)
    engine.dispose()
    with closing(sqlite3.connect(path / "quiltfn.db")) as driver:
        script = ROWS if revision < "0003" else re.sub(r"/\*|\*/", "", ROWS)
        driver.executescript(script + more)
    assert rows(path, "SELECT version_num FROM alembic_version") == [(revision,)]


@pytest.mark.parametrize("revision", ["0001", "0002", "0010", "0011", "0012", "0013"])
async def test_functions_and_records_stay(tmp_path: Path, revision: str) -> None:
    """Functions, records, keys and audit entries are found as before. Running invocations have
    ended.
    """
    database_of(revision, tmp_path)
    async with on_sqlite(tmp_path) as store, opened_journal(store, tmp_path) as journal:
        (stored,) = await store.load()
        assert stored.function == FUNCTION
        assert stored.version.spec.runtime_snapshot == SHELL
        assert await journal.get(FUNCTION.id, ENDED.invocation_id) == ENDED
        ran = not_none(await journal.get(FUNCTION.id, RAN.invocation_id))
        assert (ran.status, ran.source, ran.attempt) == (Status.INTERRUPTED, Source.SYNC, 1)
        assert await SqlKeys(store.database).load() == []
        assert await SqlAudit(store.database).prune(1_760_000_000) == 0
    assert rows(tmp_path, "SELECT version_num FROM alembic_version") == [(tables.REVISION,)]


async def test_what_a_program_wrote_is_beside_the_sentence_of_an_error(tmp_path: Path) -> None:
    error = "UPDATE function SET error_message = 'it ended: b\nIt wrote last:\na\nb'"
    database_of("0031", tmp_path, error)
    async with on_sqlite(tmp_path) as store:
        (stored,) = await store.load()
    assert stored.function.error_message == "it ended: b"
    assert stored.function.error_output == "a\nb"


@promise("A27")
async def test_runtimes_before_tenants_are_shared(tmp_path: Path) -> None:
    database_of("0005", tmp_path, RUNTIME)
    old = replace(SHELL, id=RUNTIME_ID, name="etl", image=NAMED, environment={"A": "1"})
    async with on_sqlite(tmp_path) as store:
        runtimes, tenant_images = SqlRuntimes(store.database), SqlTenantImages(store.database)
        assert await runtimes.load() == [(SHARED, old)]
        assert await runtimes.images_in_use() == {(SHARED, NAMED), (FUNCTION.tenant_id, SNAPSHOT)}
        assert await tenant_images.load() == [
            TenantImage(SHARED, digest, NOT_MEASURED) for digest in (NAMED, SNAPSHOT)
        ]


@promise("D33")
async def test_a_database_without_a_queue_gets_one(tmp_path: Path) -> None:
    """Retention must find the database's ended records, and the new queue must accept work."""
    database_of("0011", tmp_path)
    late_s = 2_000_000_000
    async with on_sqlite(tmp_path) as store, opened_journal(store, tmp_path):
        queue = SqlWork(store.database)
        call = await an_accepted(queue, FUNCTION, expires_at_ms=late_s * 1000)
        assert [one.invocation_id for one in await claimed(queue, FUNCTION, 5)] == [call]
        retention = SqlRetention(store.database, ManualClock(late_s))
        while await retention.prune_some(RetentionPolicy(count=1, seconds=0)):
            pass
        assert rows(tmp_path, "SELECT invocation_id FROM invocation") == [(call,)]
        assert rows(tmp_path, "SELECT number FROM usage WHERE kind = 'record'") == [(1,)]
