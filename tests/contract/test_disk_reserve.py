"""Freed space is returned to the disk, and reserved space is available when it is needed."""

import asyncio
import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from contract.stores import (
    STORES,
    StoreOpener,
    a_call,
    a_function,
    a_stored_function,
    a_version,
    an_operation,
    done,
    eventually,
    ids,
    opened_journal,
    restart,
)
from manual_clock import ManualClock
from promises import promise
from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.function import Function
from quiltfn.model.idempotency import IdempotentRequest, StoredResponse
from quiltfn.model.invocation import Status
from quiltfn.model.operation import Operation
from quiltfn.model.retention import RetentionPolicy
from quiltfn.store import (
    SpoolJournal,
    SqlDiskSpace,
    SqlIdempotencyStore,
    SqlOperations,
    SqlRetention,
    SqlStore,
)
from quiltfn.store.calls.spool import to_line
from quiltfn.store.calls.stats import Sums
from quiltfn.store.database import disk_reserve, vacuum
from quiltfn.store.database.disk_reserve import RESERVE_BYTES, DiskFull, DiskReserve, is_full

pytestmark = promise("D13")

LATER = 4_000_000_000


@pytest.fixture
def open_store() -> StoreOpener:
    """SQLite's store: these tests are about its file."""
    return STORES["sqlite"]


async def filled_and_pruned(
    store: SqlStore, journal: SpoolJournal, function: Function, megabytes: int
) -> None:
    for call_id in ids(megabytes):
        journal.closed(done(a_call(function, invocation_id=call_id), stdout="x" * 1_000_000))  # type: ignore[arg-type]
    await journal.synced()
    retention = SqlRetention(store.database, ManualClock(LATER))
    while await retention.prune_some(RetentionPolicy(count=1, seconds=0)):
        pass


def size(path: Path) -> int:
    """The size of the database on disk, once its log was moved into it."""
    with closing(sqlite3.connect(path / "quiltfn.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    return (path / "quiltfn.db").stat().st_size


@promise("D15")
async def test_what_is_freed_is_given_back_in_steps_but_for_some(
    store: SqlStore, journal: SpoolJournal, function: Function, tmp_path: Path
) -> None:
    await filled_and_pruned(store, journal, function, 40)
    before, steps = size(tmp_path), 0
    assert before > 38_000_000
    while await SqlDiskSpace(store.database).vacuum_some():
        steps += 1
    assert steps > 1
    slack = vacuum.SLACK_PAGES * 4096
    assert slack < size(tmp_path) < slack + 3_000_000
    store.database.reserve.is_spent = True
    while await SqlDiskSpace(store.database).vacuum_some():
        steps += 1
    assert size(tmp_path) < 3_000_000


async def test_free_pages_are_used_again(open_store: StoreOpener, tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        function = await a_stored_function(store)
    with closing(sqlite3.connect(tmp_path / "quiltfn.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()
        connection.execute("PRAGMA auto_vacuum = NONE")
        connection.execute("VACUUM")
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (0,)
    async with open_store(tmp_path) as store, opened_journal(store, tmp_path) as journal:
        await filled_and_pruned(store, journal, function, 20)
        before = size(tmp_path)
        assert not await SqlDiskSpace(store.database).vacuum_some()
        await filled_and_pruned(store, journal, function, 15)
        assert size(tmp_path) <= before + 4096


def test_the_reserve_is_whole_or_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve, file = DiskReserve(tmp_path), tmp_path / "reserve"
    assert not reserve.release()
    assert not reserve.is_spent  # without a reserve, nothing is refused
    assert reserve.refill()
    assert file.stat().st_blocks * 512 >= RESERVE_BYTES
    assert reserve.refill()
    assert reserve.release()
    assert (reserve.is_spent, file.stat().st_size) == (True, 0)

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", no_room)
        assert not reserve.refill()
    assert (reserve.is_spent, file.stat().st_size) == (True, 0)
    assert reserve.refill()
    assert not reserve.is_spent


def test_a_link_is_not_followed_to_be_emptied(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "reserve").symlink_to("precious")
    reserve = DiskReserve(tmp_path)
    assert not reserve.release()
    assert not reserve.refill()
    assert (tmp_path / "precious").read_text() == "kept"


async def test_once_the_reserve_is_spent_only_what_frees_room_is_taken(
    store: SqlStore, journal: SpoolJournal, function: Function
) -> None:
    store.database.reserve.is_spent = True
    running, new = a_call(function), a_function()
    with pytest.raises(DiskFull, match="disk is full"):
        journal.opened(running)
    with pytest.raises(DiskFull, match="disk is full"):
        await store.create(new, a_version(new))
    journal.closed(done(running))
    await journal.synced()
    assert await journal.get(function.id, running.invocation_id) == done(running)
    await store.delete(function.id)
    assert list(await store.load()) == []
    assert issubclass(DiskFull, StoreUnavailable)


async def test_a_start_on_a_full_disk_puts_off_what_the_last_server_left(
    store: SqlStore, function: Function, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, fresh, ended = (a_call(function) for _ in range(3))
    async with opened_journal(store, tmp_path) as journal:
        journal.opened(stored)
    await restart(store)
    left = {"journal-a.spool": [done(ended)], "journal-b.spool": [fresh, ended]}
    for name, written in left.items():
        (tmp_path / name).write_bytes(b"".join(map(to_line, written)))

    async def full(*_: object, **__: object) -> None:
        raise DiskFull("the disk is full")

    ids = [one.invocation_id for one in (stored, fresh, ended)]
    with monkeypatch.context() as patch:
        patch.setattr(store.database, "write", full)
        journal = SpoolJournal(store.database, tmp_path, ManualClock(), retry_after_s=0.05)
        await journal.start()
        with pytest.raises(DiskFull):
            journal.opened(a_call(function))
        assert await journal.get(function.id, ended.invocation_id) == done(ended)
        found = await journal.get(function.id, fresh.invocation_id)
        assert (found is not None, found and found.status) == (True, Status.INTERRUPTED)
        with pytest.raises(StoreUnavailable):
            await journal.aclose()
        assert (tmp_path / "journal-a.spool").stat().st_size > 0
        journal = SpoolJournal(store.database, tmp_path, ManualClock(), retry_after_s=0.05)
        counted: list[Sums] = []
        journal.on_counted.connect(counted.append)
        await journal.start()
        refused = replace(a_call(function), status=Status.ERROR, started_at=None)
        # The invocation's sandbox could not be created, so its record has no start.
        journal.closed(refused)
    await journal.synced()

    async def is_well() -> bool:
        await asyncio.sleep(0.01)
        return journal.problem is None

    await eventually(is_well)
    # Listeners that count commits, such as quotas, also get the records that the last server left.
    assert sum(one.count for sums in counted for one in sums.values()) == 2
    later = a_call(function)
    journal.opened(later)
    journal.closed(done(later))
    await journal.aclose()
    assert [(tmp_path / name).stat().st_size for name in left] == [0, 0]
    async with opened_journal(store, tmp_path) as journal:
        states = [await journal.get(function.id, one) for one in (*ids, refused.invocation_id)]
        assert [one and one.status for one in states] == [
            *(Status.INTERRUPTED, Status.INTERRUPTED, Status.SUCCESS, Status.ERROR)
        ]
        assert await journal.get(function.id, later.invocation_id) == done(later)
    ((counters,),) = [(one.counters,) for one in await store.load()]
    assert (counters.invocation_count, counters.error_count) == (5, 3)


def test_damage_is_no_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_reserve, "NEXT_TO_NOTHING_BYTES", 1 << 62)
    for code, is_it in (
        (sqlite3.SQLITE_FULL, True),
        (sqlite3.SQLITE_IOERR_SHMSIZE, True),
        (sqlite3.SQLITE_CANTOPEN, True),
        (sqlite3.SQLITE_CORRUPT, False),
        (sqlite3.SQLITE_NOTADB, False),
    ):
        error = sqlite3.OperationalError()
        error.sqlite_errorcode = code
        assert is_full(error, tmp_path) is is_it
    assert not is_full(None, tmp_path)


async def test_full_disks_defer_other_ends(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk, requests and operations that were interrupted appear as ended at once. Their
    ends are stored when the disk has space.
    """
    request = IdempotentRequest(tenant_id="t", method="POST", path="/f", key="k", body_digest="d")
    left = an_operation(LATER)
    await SqlIdempotencyStore(store.database).reserve(request, LATER)
    await SqlOperations(store.database).add(left)
    await restart(store)
    answers, operations = SqlIdempotencyStore(store.database), SqlOperations(store.database)
    ended = replace(left, status="failed", reason_code="ENDED", retryable=True)
    with monkeypatch.context() as patch:
        patch.setattr(store.database.reserve, "is_spent", True)
        await answers.start(b"interrupted")
        await operations.finish_interrupted([ended])
        assert not await refilled(store, patch, is_there=False)

    async def seen(
        answers: SqlIdempotencyStore, operations: SqlOperations
    ) -> tuple[StoredResponse | None, list[Operation | None]]:
        got = [await operations.get("t", "o"), await operations.add(replace(left, action_id="b"))]
        return await answers.reserve(request, LATER), got

    interrupted = StoredResponse(body_digest="d", status=503, headers={}, body=b"interrupted")
    fresh = replace(request, key="of this start")
    # A key of this start is running, whatever is deferred of earlier ones.
    for key in (fresh, fresh):
        running = await answers.reserve(key, LATER)
    assert running == StoredResponse(body_digest="d")
    assert await seen(answers, operations) == (interrupted, [ended, ended])
    assert await operations.get("other", "o") is None
    stored = SqlIdempotencyStore(store.database), SqlOperations(store.database)
    # Negative control: only memory has these ends. In the database, both are still running.
    assert await seen(*stored) == (StoredResponse(body_digest="d"), [left, left])
    assert await refilled(store, monkeypatch, is_there=True)
    for them in (stored, (answers, operations)):
        assert await seen(*them) == (interrupted, [ended, ended])
    assert await stored[0].reserve(fresh, LATER) == StoredResponse(body_digest="d")


async def refilled(store: SqlStore, patch: pytest.MonkeyPatch, *, is_there: bool) -> bool:
    patch.setattr(store.database.reserve, "refill", lambda: is_there)
    return await store.database.refill_reserve()
