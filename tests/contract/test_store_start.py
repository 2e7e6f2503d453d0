"""A start with a data directory that is new, left by a kill, damaged, or in use by another
server.
"""

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext

from contract.stores import (
    HELD_S,
    StoreOpener,
    a_stored_function,
    change,
    child_environment,
    on_sqlite,
    opened_journal,
)
from forked import forked
from promises import promise
from quiltfn.store import SqlStore, StoreBroken, migrations, open_sqlite
from quiltfn.store.database import tables
from timeouts import scaled

pytestmark = promise("D4")


@pytest.fixture
def open_store() -> StoreOpener:
    """SQLite's store: these tests are about its file, and start without one."""
    return on_sqlite


async def test_a_new_store_is_complete_and_its_owners_alone(
    store: SqlStore, tmp_path: Path
) -> None:
    async with opened_journal(store, tmp_path):
        modes = modes_in(tmp_path)
    assert "quiltfn.db-wal" in modes
    assert set(modes.values()) == {0o600}
    assert migrations.head() == tables.REVISION
    differences = await store.database.read(
        lambda c: compare_metadata(MigrationContext.configure(c), tables.metadata)
    )
    assert differences == []


async def test_a_start_imports_no_alembic(open_store: StoreOpener, tmp_path: Path) -> None:
    async with open_store(tmp_path):
        pass
    program = (
        "import asyncio, pathlib, sys; from quiltfn.store import open_sqlite\n"
        "async def main():\n"
        "    async with open_sqlite(pathlib.Path(sys.argv[1])): pass\n"
        "asyncio.run(main()); print('alembic' in sys.modules)"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, str(tmp_path)),
        stdout=subprocess.PIPE,
        env=child_environment(),
    )
    output, _ = await process.communicate()
    assert output == b"False\n"


def overwrite(path: Path, start: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(content)


def become_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "deleted": lambda db: db.unlink(),
    "emptied": lambda db: os.truncate(db, 0),
    "truncated": lambda db: os.truncate(db, db.stat().st_size // 2),
    "cut to a header": lambda db: os.truncate(db, 100),
    "garbage": lambda db: db.write_bytes(os.urandom(8192)),
    "garbage in the middle": lambda db: overwrite(db, 4096, os.urandom(3 * 4096)),
    "somebody else's": lambda db: change(db.parent, "DROP TABLE alembic_version"),
    "newer": lambda db: change(db.parent, "UPDATE alembic_version SET version_num = '9999'"),
    "a directory": become_directory,
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_damage_is_refused(open_store: StoreOpener, tmp_path: Path, damage: str) -> None:
    async with open_store(tmp_path) as store:
        await a_stored_function(store)
    database = tmp_path / "quiltfn.db"
    DAMAGES[damage](database)
    before = database.read_bytes() if database.is_file() else None
    with pytest.raises(StoreBroken) as caught:
        async with open_store(tmp_path):
            pass
    assert str(caught.value).endswith(".")
    assert (database.read_bytes() if database.is_file() else None) == before


async def test_a_spool_needs_its_database(open_store: StoreOpener, tmp_path: Path) -> None:
    (tmp_path / "journal-a.spool").write_bytes(b"")
    with pytest.raises(StoreBroken, match="missing"):
        async with open_store(tmp_path):
            pass
    assert not (tmp_path / "quiltfn.db").exists()


def holds(path: Path, end: str) -> None:
    """The process of a server that is either killed, or ends with its standard input."""

    async def serve() -> None:
        async with open_sqlite(path) as store:
            await a_stored_function(store, name="kept")
            if end == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            print("ready", flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

    asyncio.run(serve())


@pytest.mark.parametrize("without_log", [False, True])
async def test_a_log_that_went_missing_after_a_kill_is_noticed(
    open_store: StoreOpener, tmp_path: Path, without_log: bool
) -> None:
    with forked(holds, tmp_path, "die") as process:
        assert process.wait() == -signal.SIGKILL
    if without_log:
        (tmp_path / "quiltfn.db-wal").unlink()
        with pytest.raises(StoreBroken, match="-wal is missing"):
            async with open_store(tmp_path):
                pass
        return
    async with open_store(tmp_path) as store:
        assert [stored.function.name for stored in await store.load()] == ["kept"]


async def test_a_data_directory_has_one_server(open_store: StoreOpener, tmp_path: Path) -> None:
    with forked(holds, tmp_path, "wait") as process:
        process.said.readline()
        with pytest.raises(StoreBroken, match="Another quiltfn"):
            async with on_sqlite(tmp_path, busy_timeout_s=HELD_S):
                pass
        async with open_sqlite(tmp_path, alone=False) as tool:
            await a_stored_function(tool, name="brought")
            with pytest.raises(StoreBroken, match="Only a server"):
                async with opened_journal(tool, tmp_path):
                    pass
            # The server is killed while the tool is connected: the tool's disconnect removes the
            # log, and the next server must not take that for a loss.
            process.kill()
            process.wait(scaled(10))
    async with open_store(tmp_path) as store:
        names = {stored.function.name for stored in await store.load()}
    assert names == {"kept", "brought"}


async def test_a_killed_first_start_begins_again(open_store: StoreOpener, tmp_path: Path) -> None:
    (tmp_path / "quiltfn.db.new").write_bytes(b"half")
    (tmp_path / "quiltfn.lock").write_bytes(b"")
    async with open_store(tmp_path) as store:
        assert list(await store.load()) == []


async def test_a_migration_is_all_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("killed")

    monkeypatch.setattr(Operations, "create_index", fail)
    with pytest.raises(RuntimeError):
        async with open_sqlite(tmp_path):
            pass
    assert not (tmp_path / "quiltfn.db").exists()
    with closing(sqlite3.connect(tmp_path / "quiltfn.db.new")) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)
    monkeypatch.undo()
    async with open_sqlite(tmp_path) as store:
        await store.ping()


async def test_a_copied_directory_opens(open_store: StoreOpener, tmp_path: Path) -> None:
    async with open_store(tmp_path / "a") as store:
        function = await a_stored_function(store)
    shutil.copytree(tmp_path / "a", tmp_path / "b c%20")
    async with open_store(tmp_path / "b c%20") as store:
        assert [stored.function for stored in await store.load()] == [function]


def modes_in(path: Path) -> dict[str, int]:
    return {each.name: each.stat().st_mode & 0o777 for each in path.iterdir()}
