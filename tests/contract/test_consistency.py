"""A start with files that do not belong together, or differ from what the last server left."""

import asyncio
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from alembic import command
from sqlalchemy import create_engine, pool

from contract.stores import (
    HELD_S,
    StoreOpener,
    a_call,
    a_stored_function,
    done,
    eventually,
    not_none,
    on_sqlite,
    opened_journal,
    rows,
)
from forked import forked
from manual_clock import ManualClock
from promises import promise
from quiltfn.model.errors import StoreUnavailable
from quiltfn.store import SpoolJournal, SqlStore, StoreBroken, migrations, open_sqlite
from quiltfn.store.backup import restore
from quiltfn.store.database import sqlite, sqlite_header
from quiltfn.store.database.directory import DataDirectory

pytestmark = promise("D18")

NAMES = ("quiltfn.db", "quiltfn.db-wal", "quiltfn.lock", "journal-a.spool", "journal-b.spool")


@pytest.fixture
def open_store() -> StoreOpener:
    """SQLite's store: these tests are about its file, and start without one."""
    return on_sqlite


def killed(path: Path, target: Path) -> Path:
    """A copy of the directory as it is now, as if its server were killed. Another process makes the
    copy: in this one, copying would release SQLite's locks.
    """
    target.mkdir()
    files = [str(path / name) for name in NAMES if (path / name).exists()]
    subprocess.run(["cp", *files, str(target)], check=True)
    return target


def copied(path: Path, target: Path) -> Path:
    """A copy of the database, as any tool can make it beside a server."""
    with closing(sqlite3.connect(path / "quiltfn.db")) as source:
        with closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
    return target


async def names(open_store: StoreOpener, path: Path) -> set[str]:
    async with open_store(path) as store:
        return {stored.function.name for stored in await store.load()}


async def fold(store: SqlStore) -> None:
    """Move the log into the database, so that the next write starts a new log."""

    database: Any = store.database

    def work() -> None:
        database._driver().execute("PRAGMA wal_checkpoint(RESTART)").fetchall()

    loop = asyncio.get_running_loop()
    await loop.run_in_executor(database._writer_thread, work)


async def test_a_copy_with_anothers_log_is_refused(open_store: StoreOpener, tmp_path: Path) -> None:
    async with open_store(tmp_path / "data") as store:
        await a_stored_function(store, name="early")
    backup = shutil.copy(tmp_path / "data" / "quiltfn.db", tmp_path / "backup.db")
    async with open_store(tmp_path / "data") as store:
        await a_stored_function(store, name="late")
        left = killed(tmp_path / "data", tmp_path / "left")
    shutil.copy(backup, left / "quiltfn.db")
    # Negative control: SQLite alone takes the log for a part of the copy.
    shutil.copytree(left, tmp_path / "taken")
    assert ("late",) in rows(tmp_path / "taken", "SELECT name FROM function")
    before = {one.name: one.read_bytes() for one in left.iterdir()}
    with pytest.raises(StoreBroken, match="do not go together"):
        await names(open_store, left)
    assert {one.name: one.read_bytes() for one in left.iterdir()} == before
    (left / "quiltfn.db-wal").unlink()
    assert await names(open_store, left) == {"early"}


@promise("D22")
def test_replacing_restores_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        restore, "time", SimpleNamespace(gmtime=tuple, strftime=lambda *_: "replaced-")
    )
    for content in ("first", "second", "third"):
        with restore.replace_data(tmp_path, replace=True) as place:
            (place / "quiltfn.db").write_text(content)
    aside = sorted(one.read_text() for one in tmp_path.glob("replaced-*/quiltfn.db"))
    assert (aside, (tmp_path / "quiltfn.db").read_text()) == (["first", "second"], "third")


async def test_a_copy_beside_a_server_is_known(open_store: StoreOpener, tmp_path: Path) -> None:
    async with open_store(tmp_path / "data") as store:
        await a_stored_function(store, name="early")
        backup = copied(tmp_path / "data", tmp_path / "backup.db")
        await a_stored_function(store, name="between")
        await fold(store)
        await a_stored_function(store, name="late")
        left = killed(tmp_path / "data", tmp_path / "left")
    assert await names(open_store, shutil.copytree(left, tmp_path / "whole")) == {
        "early",
        "between",
        "late",
    }
    shutil.copy(backup, left / "quiltfn.db")
    with pytest.raises(StoreBroken, match="older than"):
        await names(open_store, left)


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x55
    path.write_bytes(content)


LOSSES: dict[str, Callable[[Path], object]] = {
    "a byte in the last frame": lambda log: flip(log, log.stat().st_size - 100),
    "a byte in the first frame": lambda log: flip(log, 200),
    "a byte in its header": lambda log: flip(log, 17),
    "cut": lambda log: os.truncate(log, log.stat().st_size - 4096),
    "emptied": lambda log: os.truncate(log, 0),
}


@pytest.mark.parametrize("loss", LOSSES)
async def test_a_damaged_log_is_refused(open_store: StoreOpener, tmp_path: Path, loss: str) -> None:
    async with open_store(tmp_path / "data") as store:
        await a_stored_function(store, name="kept")
        left = killed(tmp_path / "data", tmp_path / "left")
    log = left / "quiltfn.db-wal"
    LOSSES[loss](log)
    # Negative control: SQLite alone does not notice the loss.
    shutil.copytree(left, tmp_path / "taken")
    assert rows(tmp_path / "taken", "SELECT name FROM function") == []
    before = log.read_bytes()
    with pytest.raises(StoreBroken, match="damaged"):
        await names(open_store, left)
    assert log.read_bytes() == before
    (left / "quiltfn.lock").unlink()
    assert await names(open_store, left) == set()


async def test_a_write_cut_by_a_kill_is_no_damage(open_store: StoreOpener, tmp_path: Path) -> None:
    async with open_store(tmp_path / "data") as store:
        await a_stored_function(store, name="kept")
        left = killed(tmp_path / "data", tmp_path / "left")
    with (left / "quiltfn.db-wal").open("ab") as log:
        log.write(os.urandom(2000))
    assert await names(open_store, left) == {"kept"}


async def test_a_log_without_news_may_be_missing(open_store: StoreOpener, tmp_path: Path) -> None:
    async with open_store(tmp_path / "data") as store:
        await a_stored_function(store, name="kept")
        await fold(store)
        left = killed(tmp_path / "data", tmp_path / "left")
    (left / "quiltfn.db-wal").unlink()
    assert await names(open_store, left) == {"kept"}


@pytest.mark.parametrize("how", ["emptied", "deleted", "left alone"])
async def test_an_emptied_spool_is_told(open_store: StoreOpener, tmp_path: Path, how: str) -> None:
    async with open_store(tmp_path / "data") as store:
        function = await a_stored_function(store)
        async with opened_journal(store, tmp_path / "data", commit_after_s=60) as journal:
            record = a_call(function)
            journal.opened(record)
            journal.closed(done(record))
            left = killed(tmp_path / "data", tmp_path / "left")
    (spool,) = [one for one in left.glob("*.spool") if one.stat().st_size]
    if how == "emptied":
        os.truncate(spool, 0)
    elif how == "deleted":
        spool.unlink()
    async with open_store(left) as store:
        async with opened_journal(store, left) as journal:
            found = await journal.get(function.id, record.invocation_id)
            condition = store.condition()
            assert condition[0]
            assert (spool.name in condition[1]) == (how != "left alone") == (found is None)
    async with open_store(left) as store:
        async with opened_journal(store, left):
            assert store.condition() == (True, "nothing is known to be missing")


# Beside a running server -----------------------------------------------------------------------


@promise("D19")
async def test_a_deleted_lock_file_is_restored(open_store: StoreOpener, tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        (tmp_path / "quiltfn.lock").unlink()
        with pytest.raises(StoreBroken, match="Another quiltfn"):
            async with on_sqlite(tmp_path, busy_timeout_s=HELD_S):
                pass
        tool = DataDirectory(tmp_path)
        tool.enter(alone=False, wait_s=0)
        assert not tool.holds_lock
        tool.leave()
        await a_stored_function(store, name="kept")
        lock = tmp_path / "quiltfn.lock"
        assert lock.read_text().startswith("open")
        lock.unlink()
    assert await names(open_store, tmp_path) == {"kept"}


@promise("D19")
@pytest.mark.parametrize("how", ["moved away", "moved and made anew", "database", "removed"])
async def test_nothing_is_acknowledged_that_is_written_to_a_deleted_directory(
    open_store: StoreOpener, tmp_path: Path, how: str
) -> None:
    data, away = tmp_path / "data", tmp_path / "away"
    async with open_store(data) as store:
        function = await a_stored_function(store, name="kept")
        async with opened_journal(store, data, commit_after_s=0.001) as journal:
            if how == "database":
                (data / "quiltfn.db").rename(away)
            elif how == "removed":
                shutil.copytree(data, away)
                shutil.rmtree(data)
            else:
                data.rename(away)
            if how == "moved and made anew":
                shutil.copytree(away, data)
            with pytest.raises(StoreUnavailable, match="data"):
                await a_stored_function(store, name="lost")
            with pytest.raises(StoreUnavailable, match="data"):
                journal.opened(a_call(function))
            if how == "removed":
                return
            if how == "moved and made anew":
                shutil.rmtree(data)
            away.rename(data / "quiltfn.db" if how == "database" else data)
            record = a_call(function)
            journal.opened(record)  # the server looks for its files again, and finds them
            journal.closed(done(record))
            await journal.synced()
            await a_stored_function(store, name="found")
    assert await names(open_store, data) == {"kept", "found"}


@promise("D19")
async def test_no_acknowledgement_on_a_removed_log(open_store: StoreOpener, tmp_path: Path) -> None:
    data, away = tmp_path / "data", tmp_path / "away"
    log = data / "quiltfn.db-wal"
    async with open_store(data) as store:
        function = await a_stored_function(store, name="kept")
        record = a_call(function)
        async with opened_journal(store, data, commit_after_s=0.001) as journal:
            log.rename(away)
            for put in (False, True):  # first nothing is in the log's place, then another file
                if put:
                    log.write_bytes(b"")
                with pytest.raises(StoreUnavailable, match=log.name):
                    await a_stored_function(store, name="lost")
                with pytest.raises(StoreUnavailable, match=log.name):
                    journal.opened(a_call(function))
            away.rename(log)
            await a_stored_function(store, name="found")
        journal = SpoolJournal(store.database, data, ManualClock())
        await journal.start()
        journal.opened(record)
        await journal.synced()
        log.unlink()
        journal.closed(done(record))  # the loss is not noticed yet, and the record is in the spool
        with pytest.raises(StoreUnavailable, match=log.name):
            await journal.aclose()
    # A proper end of the server loses nothing.
    assert await names(open_store, data) == {"kept", "found"}
    async with open_store(data) as store, opened_journal(store, data) as journal:
        assert not_none(await journal.get(function.id, record.invocation_id)).status == "success"


# Integrity checks -------------------------------------------------------------------------------


@promise("D20")
@pytest.mark.parametrize("is_damaged", [False, True])
async def test_a_large_database_is_looked_through_after_a_kill(
    open_store: StoreOpener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_damaged: bool
) -> None:
    monkeypatch.setattr(sqlite, "CHECK_ALL_BELOW_BYTES", 0)
    async with open_store(tmp_path / "data") as store:
        function = await a_stored_function(store)
        assert store.condition() == (True, "nothing is known to be missing")
        async with opened_journal(store, tmp_path / "data") as journal:
            for _ in range(300):
                record = a_call(function)
                journal.opened(record)
                journal.closed(done(record))
        await fold(store)
        left = killed(tmp_path / "data", tmp_path / "left")
    if is_damaged:
        with closing(sqlite3.connect(left / "quiltfn.db")) as connection:
            found = connection.execute(
                "SELECT rootpage FROM sqlite_schema "
                "WHERE tbl_name = 'invocation' AND type = 'index'"
            )
            (page,) = found.fetchall()[-1]
        with (left / "quiltfn.db").open("r+b") as file:
            file.seek(4096 * (page - 1))
            file.write(os.urandom(4096))
    async with open_store(left) as store:

        async def is_over() -> bool:
            return "checking" not in store.condition()[1]

        await eventually(is_over)
        is_whole, reason = store.condition()
        assert is_whole is not is_damaged
        assert ("damaged" if is_damaged else "intact") in reason


def copies(path: Path) -> list[Path]:
    return list(path.glob("quiltfn.db.*-[0-9]*"))


def of_the_schema_before(path: Path) -> str:
    """Create a database as the previous version did; return its schema."""
    new = migrations.ScriptDirectory.from_config(migrations.config()).get_revision("head")  # type: ignore[attr-defined]
    assert new is not None
    engine = create_engine(f"sqlite:///{path}", poolclass=pool.NullPool)
    with engine.connect() as connection, connection.begin():
        command.upgrade(migrations.config(connection), str(new.down_revision))
    return str(new.down_revision)


@promise("D20")
async def test_the_database_is_copied_before_its_schema_changes(tmp_path: Path) -> None:
    path = tmp_path / "quiltfn.db"
    before = of_the_schema_before(path)
    for earlier in ("before-0000", "kept-0001"):
        (tmp_path / f"quiltfn.db.{earlier}").write_bytes(b"")
    async with open_sqlite(tmp_path) as store:
        await a_stored_function(store)
        assert "kept-" in store.condition()[1]
    (copy,) = copies(tmp_path)
    # The copy must have this name: release 0.1.0 refuses the schema, but removes files that are
    # called quiltfn.db.before-*.
    assert copy.name == f"quiltfn.db.kept-{before}"
    assert copy.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (before,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    copy.replace(path)  # return to the older version, and upgrade again
    assert await names(open_sqlite, tmp_path) == set()


@promise("D20")
@pytest.mark.parametrize("fails", ["newer", "half-way", "damaged"])
async def test_copies_stay_where_the_schema_is_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    path, kept = tmp_path / "quiltfn.db", tmp_path / "quiltfn.db.before-0000"
    before = of_the_schema_before(path)
    kept.write_bytes(b"")
    if fails == "newer":
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
    elif fails == "half-way":
        monkeypatch.setattr("quiltfn.store.migrations.command.upgrade", failing)
    else:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            connection.execute("CREATE TABLE unsound (a CHECK (a > 0))")
            connection.execute("INSERT INTO unsound VALUES (-1)")
    with pytest.raises((StoreBroken, ZeroDivisionError)):
        async with open_sqlite(tmp_path):
            pass
    expected = {kept.name} if fails == "newer" else {kept.name, f"quiltfn.db.kept-{before}"}
    assert {one.name for one in copies(tmp_path)} == expected


def failing(*_: object) -> None:
    raise ZeroDivisionError


async def test_a_copy_without_room_leaves_nothing_and_changes_nothing(tmp_path: Path) -> None:
    of_the_schema_before(tmp_path / "quiltfn.db")
    limits, on_signal = (
        resource.getrlimit(resource.RLIMIT_FSIZE),
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, limits[1]))
    try:
        with pytest.raises((StoreBroken, StoreUnavailable)):
            await names(open_sqlite, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, on_signal)
    assert copies(tmp_path) == []
    assert await names(open_sqlite, tmp_path) == set()


def test_logs_that_are_holes_and_counts_that_begin_again_are_known(tmp_path: Path) -> None:
    """A reader must not step through frames of length zero: it would need very long for a log that
    is one large hole. Numbers that overflow begin again at 0.
    """
    log = tmp_path / "quiltfn.db-wal"
    with log.open("wb") as file:
        file.truncate(1 << 38)
    assert sqlite_header.first_in_log(log) is None
    last = sqlite_header.NUMBERS
    assert sqlite_header.following(last) == 0
    assert sqlite_header.is_older(last, 0)
    assert not sqlite_header.is_older(0, last)
    assert not sqlite_header.is_older(5, 5)


def crash(path: Path, at: int) -> None:
    """The process of a server that is killed after `at` steps of its start."""
    mark, left = DataDirectory.mark, at

    def marking(self: DataDirectory, *arguments: Any) -> None:
        nonlocal left
        mark(self, *arguments)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    DataDirectory.mark = marking  # type: ignore[assignment,method-assign]

    async def start() -> None:
        async with open_sqlite(path):
            pass

    asyncio.run(start())


@pytest.mark.parametrize("at", [1, 2, 3])
async def test_a_killed_start_can_repeat(open_store: StoreOpener, tmp_path: Path, at: int) -> None:
    async with open_store(tmp_path / "data") as store:
        await a_stored_function(store, name="kept")
        async with opened_journal(store, tmp_path / "data", commit_after_s=60) as journal:
            function = (await store.load())[0].function
            journal.opened(a_call(function))
            left = killed(tmp_path / "data", tmp_path / "left")
    with forked(crash, left, at) as process:
        assert process.wait() == -signal.SIGKILL
    assert await names(open_store, left) == {"kept"}


def test_a_start_that_had_no_database_has_noted_none(tmp_path: Path) -> None:
    for _ in range(2):
        directory = DataDirectory(tmp_path, has_database=False)
        directory.open_spool()
        assert directory.note.owners == ()
        directory.retire(0)
        directory.leave()
