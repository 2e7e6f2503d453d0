"""The promises of `SpoolJournal`."""

import asyncio
import errno
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection

from contract.stores import (
    BUSY_TIMEOUT_S,
    HELD_S,
    OF_SQLITE,
    a_call,
    change,
    done,
    eventually,
    files_at_most,
    ids,
    not_none,
    opened_journal,
    record_pages,
    restart,
    rows,
)
from promises import promise
from quiltfn.model.cold_start import ColdStartReason
from quiltfn.model.end_cause import Interrupted
from quiltfn.model.errors import StoreUnavailable, Unprocessable
from quiltfn.model.function import Function
from quiltfn.model.invocation import Invocation, Source, Status
from quiltfn.model.timeline import Timeline
from quiltfn.ports import FunctionCounters, InvocationQuery
from quiltfn.store import SpoolJournal, SqlStore, StoreBroken
from quiltfn.store.calls import journal as journal_module
from quiltfn.store.calls import records
from quiltfn.store.calls.journal import COMMIT_AT_BYTES
from quiltfn.store.calls.spool import to_line
from quiltfn.store.database import tables
from quiltfn.store.database.directory import SPOOLS

NEVER_S = 3600.0


@pytest.fixture
async def journal(store: SqlStore, tmp_path: Path) -> AsyncIterator[SpoolJournal]:
    async with opened_journal(store, tmp_path, retry_after_s=0.05) as opened:
        yield opened


async def counters_of(store: SqlStore, function: Function) -> FunctionCounters:
    return next(one.counters for one in await store.load() if one.function.id == function.id)


# Written records are found -------------------------------------------------------------------


@promise("C14")
async def test_a_record_is_there_before_commit(journal: SpoolJournal, function: Function) -> None:
    call = a_call(function, cold_start=True)
    journal.opened(call)
    assert await journal.get(function.id, call.invocation_id) == call
    await journal.synced()
    assert await journal.get(function.id, call.invocation_id) == call
    end = done(call, code=3, stdout="ä\0\n".encode() * 100 + b"\xff")
    journal.closed(end)
    assert await journal.get(function.id, call.invocation_id) == end
    await journal.synced()
    assert await journal.get(function.id, call.invocation_id) == end


async def test_a_disk_that_takes_no_beginning_of_a_call_is_tried_again_a_moment_later(
    journal: SpoolJournal, function: Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    assert not journal.refuses
    with monkeypatch.context() as patched:
        patched.setattr(journal._spool, "append", full)
        with pytest.raises(StoreUnavailable, match="No space left"):
            journal.opened(a_call(function))
    assert journal.refuses
    monkeypatch.setattr(journal_module, "TRIED_AGAIN_S", 0.0)
    assert not journal.refuses


async def test_what_accepted_work_has_is_stored(journal: SpoolJournal, function: Function) -> None:
    call = a_call(
        function,
        version=3,
        source=Source.REPLAY,
        attempt=2,
        due_at=1_760_000_050,
        parent_invocation_id="a-parent",
        origin_invocation_id="an-origin",
    )
    journal.opened(call)
    for _ in range(2):  # first from memory, then from the database
        assert await journal.get(function.id, call.invocation_id) == call
        assert await journal.get("other", call.invocation_id) is None
        await journal.synced()
    journal.closed(done(call))
    await journal.synced()
    assert await journal.get(function.id, call.invocation_id) == done(call)


async def test_newer_attempts_stay(store: SqlStore, function: Function, tmp_path: Path) -> None:
    """A spool that reappears after a power cut has the first attempt, long after its retry was
    stored.
    """
    first = a_call(function)
    second = replace(first, attempt=2, started_at=1_760_000_200)
    for call in (second, first):
        async with opened_journal(store, tmp_path) as journal:
            journal.opened(call)
            await journal.synced()
            assert await journal.get(function.id, first.invocation_id) == second


@promise("C14")
@OF_SQLITE
async def test_output_that_was_stored_as_text_reads_the_same(
    journal: SpoolJournal, function: Function, tmp_path: Path
) -> None:
    """Earlier releases stored output as text, in the same schema."""
    end = done(a_call(function), stdout="ä\ufffd\n".encode())
    journal.closed(end)
    await journal.synced()
    change(tmp_path, "UPDATE invocation SET stdout = CAST(stdout AS TEXT), stderr = ''")
    assert rows(tmp_path, "SELECT typeof(stdout), typeof(stderr) FROM invocation") == [
        ("text", "text")
    ]
    assert await journal.get(function.id, end.invocation_id) == end
    page = await journal.query(InvocationQuery(function_id=function.id, limit=5))
    assert list(page.items) == [end]


@pytest.mark.parametrize("size", [5 << 20, 100])
async def test_large_output_does_not_wait_for_the_timer_of_the_commit(
    store: SqlStore, function: Function, tmp_path: Path, size: int
) -> None:
    """Large output is committed at once, as the first record and during a commit; small output
    waits for the timer.
    """
    async with opened_journal(store, tmp_path, commit_after_s=NEVER_S) as journal:
        journal.closed(done(a_call(function), stdout=b"\0" * size))
        assert (journal._commit is not None) is (size > COMMIT_AT_BYTES)
        first = journal._commit_now()
        await asyncio.sleep(0)  # the commit begins with the records that exist now
        journal.closed(done(a_call(function), stdout=b"\0" * size))
        await first
        second = journal._commit
        assert (second is not None) is (size > COMMIT_AT_BYTES)
        if second is not None:
            await second
            assert rows(tmp_path, "SELECT count(*) FROM invocation") == [(2,)]


@pytest.mark.parametrize("settles", [True, False])
async def test_calls_that_wait_for_their_large_output_are_never_refused(
    journal: SpoolJournal, function: Function, settles: bool
) -> None:
    """Each call waits until its output is stored, however slow the disk is. Negative control: if
    calls do not wait, they fill the segment.
    """

    async def some() -> None:
        for _ in range(9):
            call = a_call(function)
            journal.opened(call)
            journal.closed(done(call, stdout=b"\0" * (6 << 20)))
            if settles:
                await journal.drain()

    with nullcontext() if settles else pytest.raises(StoreUnavailable, match="too much waits"):
        await some()


@pytest.mark.parametrize("why", [None, ColdStartReason.SCALED_OUT])
async def test_what_writing_a_record_taught_of_it_is_kept_with_it(
    journal: SpoolJournal, function: Function, tmp_path: Path, why: ColdStartReason | None
) -> None:
    end = replace(done(a_call(function)), timeline=Timeline(why, 1, 2, 3, 4, 5))
    journal.closed(end)
    written = sizes(tmp_path)
    amended = replace(end, timeline=Timeline(why, 1, 2, 3, 4, 6))
    journal.amended(amended)
    assert sizes(tmp_path) == written  # the change causes no write
    assert await journal.get(function.id, end.invocation_id) == amended
    await journal.synced()
    assert await journal.get(function.id, end.invocation_id) == amended
    assert (await journal.query(InvocationQuery(function_id=function.id, limit=9))).items == [
        amended
    ]


async def test_kills_keep_timelines(store: SqlStore, function: Function, tmp_path: Path) -> None:
    end = replace(done(a_call(function)), timeline=Timeline(ColdStartReason.FIRST, 1, 2, 3, 4, 5))
    before = done(a_call(function))  # a record of a server that stored no timelines
    line = to_line(before).replace(b',"timeline":null', b"")
    body = line[9:-1]
    (tmp_path / SPOOLS[0]).write_bytes(to_line(end) + b"%08x %b\n" % (crc32(body), body))
    assert b"timeline" not in body
    async with opened_journal(store, tmp_path) as journal:
        assert await journal.get(function.id, end.invocation_id) == end
        assert await journal.get(function.id, before.invocation_id) == before


@pytest.mark.parametrize("count", [1, 7, 8, 9, 63, 64, 65, 200])
async def test_new_records_are_kept_many_at_a_time_and_not_asked_about(
    journal: SpoolJournal,
    function: Function,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
) -> None:
    def asks(*_: object) -> None:
        raise AssertionError("nothing speaks against them")

    monkeypatch.setattr(records, "upsert", asks)
    ends = [done(a_call(function)) for _ in range(count)]
    for call in ends:
        journal.closed(call)
    await journal.synced()
    query = InvocationQuery(function_id=function.id, limit=count)
    newest_first = sorted(ends, key=lambda record: record.invocation_id, reverse=True)
    assert (await journal.query(query)).items == newest_first


@OF_SQLITE
async def test_many_records_take_few_statements(store: SqlStore, function: Function) -> None:
    calls = [done(a_call(function, invocation_id=one)) for one in ids(1000)]

    def statements_and_files(connection: Connection, some: list[Invocation]) -> tuple[int, int]:
        driver: Any = connection.connection.driver_connection
        executed: list[str] = []
        driver.set_trace_callback(executed.append)
        records.upsert_new(connection, some, 1)
        driver.set_trace_callback(None)
        inserts = {
            one for one in executed if "INSERT INTO invocation (" in one
        }  # triggers repeat the statement
        open_now = Path("/proc/self/fd").iterdir()
        files = [one for one in open_now if "etilqs_" in str(one.resolve(strict=False))]
        return len(inserts), len(files)

    for some, statements in ((calls[:127], 11), (calls[127:], 56)):
        counts = await store.database.write(partial(statements_and_files, some=some))
        assert counts == (statements, 0)


@OF_SQLITE
@pytest.mark.parametrize(("count", "pauses"), [(1, 0), (16, 0), (17, 2), (55, 6)])
async def test_a_large_commit_pauses_after_each_statement(
    store: SqlStore,
    function: Function,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    pauses: int,
) -> None:
    paused: list[float] = []
    monkeypatch.setattr(time, "sleep", paused.append)
    calls = [done(a_call(function, invocation_id=one)) for one in ids(count)]
    await store.database.write(lambda connection: records.upsert_new(connection, calls, 1))
    assert paused == [records.PAUSE_S] * pauses


async def test_records_reach_the_database_by_themselves_and_then_nothing_runs(
    store: SqlStore, journal: SpoolJournal, function: Function, tmp_path: Path
) -> None:
    journal.closed(done(a_call(function)))

    async def is_stored() -> bool:
        await asyncio.sleep(0.005)
        return (await counters_of(store, function)).invocation_count == 1

    await eventually(is_stored)
    await journal.synced()
    assert sizes(tmp_path) == [0, 0]
    assert len(asyncio.all_tasks()) == 1
    assert journal._timer is None


async def test_output_is_read_by_parts(journal: SpoolJournal, function: Function) -> None:
    end = done(a_call(function), stdout=bytes(range(256)) * 1000)
    ids = (function.id, end.invocation_id)
    journal.closed(end)
    for _ in range(2):  # first from memory, then from the database
        outline = not_none(await journal.outline(*ids))
        assert outline.sizes == {"stdout": 256_000, "stderr": 0}
        assert outline.record == replace(end, stdout=b"")
        part = await journal.read_output(*ids, "stdout", 200_000, 65_536)
        assert part == end.stdout[200_000:]
        assert await journal.read_output(*ids, "stdout", 100, 300) == end.stdout[100:400]
        assert await journal.read_output(*ids, "stdout", 10**9, 10) == b""
        assert await journal.read_output(*ids, "stderr", 0, 10) == b""
        assert await journal.outline("another", end.invocation_id) is None
        await journal.synced()


async def test_ends_count_once(store: SqlStore, journal: SpoolJournal, function: Function) -> None:
    calls = [a_call(function, started_at=1_760_000_000 + n) for n in range(6)]
    for call in calls[:3]:
        journal.opened(call)  # these are open during a commit; the others begin and end within one
    await journal.synced()
    assert await counters_of(store, function) == FunctionCounters()
    for code, call in enumerate(reversed(calls)):
        journal.closed(done(call, code))
    journal.closed(done(calls[0], 5))
    await journal.synced()
    journal.closed(done(calls[0], 5))
    await journal.synced()
    expected = FunctionCounters(invocation_count=6, error_count=5, last_invoked_at=1_760_000_005)
    assert await counters_of(store, function) == expected


async def test_a_final_record_never_changes(journal: SpoolJournal, function: Function) -> None:
    call = a_call(function)
    end = done(call)
    journal.closed(end)
    await journal.synced()
    for late in (call, done(call, 1)):
        journal.closed(late)
        await journal.synced()
        assert await journal.get(function.id, call.invocation_id) == end


@OF_SQLITE
async def test_late_records_of_a_deleted_function_bring_nothing_back(
    store: SqlStore, journal: SpoolJournal, function: Function, tmp_path: Path
) -> None:
    early, late = a_call(function), a_call(function)
    journal.opened(early)
    await journal.synced()
    await store.delete(function.id)
    journal.closed(done(early))
    journal.closed(done(late))
    await journal.synced()
    await store.wait_swept()
    assert await journal.get(function.id, late.invocation_id) is None
    assert (await journal.query(InvocationQuery(function_id=function.id, limit=9))).items == []
    with closing(sqlite3.connect(tmp_path / "quiltfn.db")) as connection:
        assert connection.execute("SELECT count(*) FROM invocation").fetchone() == (0,)


# Lists ---------------------------------------------------------------------------------------


async def test_a_page_that_ends_with_its_bytes_keeps_a_record_that_was_committed_meanwhile(
    journal: SpoolJournal, function: Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two long records are listed while they are being committed."""
    journal._commit_after_s = NEVER_S
    older, newer = (done(a_call(function, invocation_id=one), stdout=b"x" * 1000) for one in ids(2))
    for record in (older, newer):
        journal.opened(a_call(function, invocation_id=record.invocation_id))
        journal.closed(record)
    read = journal._database.read

    async def read_after_commit(work: Any) -> Any:
        monkeypatch.setattr(journal._database, "read", read)
        await journal.synced()
        return await read(work)

    monkeypatch.setattr(journal._database, "read", read_after_commit)
    pages = await record_pages(journal, function_id=function.id, limit=50, max_bytes=500)
    assert [one for page in pages for one in page] == [newer, older]


@pytest.mark.parametrize("cursor", ["", "x", "%%%", "ä", "AAAA", "Zg==", "x" * 5000, "\ud800"])
async def test_a_broken_cursor_is_refused(journal: SpoolJournal, cursor: str) -> None:
    with pytest.raises(Unprocessable, match="cursor must be"):
        await journal.query(InvocationQuery(function_id="f", limit=1, cursor=cursor))


# Failed writes -------------------------------------------------------------------------------


@OF_SQLITE
async def test_nothing_is_lost_while_another_process_holds_the_lock(
    store: SqlStore, journal: SpoolJournal, function: Function, tmp_path: Path
) -> None:
    store.database.busy_timeout_s = HELD_S
    with closing(sqlite3.connect(tmp_path / "quiltfn.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        first = done(a_call(function))
        journal.closed(first)
        with pytest.raises(StoreUnavailable):
            await journal.synced()
        assert journal.problem
        second = a_call(function)
        journal.opened(second)
        for record in (first, second):
            assert await journal.get(function.id, record.invocation_id) == record
        page = await journal.query(InvocationQuery(function_id=function.id, limit=9))
        assert {one.invocation_id for one in page.items} == {
            first.invocation_id,
            second.invocation_id,
        }
        other.execute("ROLLBACK")
    store.database.busy_timeout_s = BUSY_TIMEOUT_S

    async def is_well() -> bool:
        await asyncio.sleep(0.01)
        return journal.problem is None

    await eventually(is_well, within_s=1.0)
    await journal.synced()
    assert (await counters_of(store, function)).invocation_count == 1
    assert sizes(tmp_path) == [0, 0]


@OF_SQLITE
async def test_a_full_disk_refuses_new_calls_and_keeps_the_ends_of_running_ones(
    store: SqlStore, journal: SpoolJournal, function: Function, tmp_path: Path
) -> None:
    running = a_call(function)
    journal.opened(running)
    written = sum(sizes(tmp_path))
    end = done(running, stdout=b"x" * 10_000)
    with files_at_most(written + 100):  # the part of the record that fits is cut off again
        with pytest.raises(StoreUnavailable):
            journal.opened(a_call(function))
        with pytest.raises(StoreUnavailable):
            journal.closed(end)
        assert sum(sizes(tmp_path)) == written
        with pytest.raises(StoreUnavailable):
            await journal.synced()
        assert await journal.get(function.id, running.invocation_id) == end
    after = a_call(function)
    journal.opened(after)
    page = await journal.query(InvocationQuery(function_id=function.id, limit=9))
    assert {one.invocation_id for one in page.items} == {
        running.invocation_id,
        after.invocation_id,
    }
    await journal.synced()
    assert await counters_of(store, function) == FunctionCounters(
        invocation_count=1, last_invoked_at=1_760_000_100
    )


async def test_a_journal_that_cannot_commit_stops_taking_calls_in_the_end(
    journal: SpoolJournal,
    function: Function,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("quiltfn.store.calls.journal.SEGMENT_MAX_BYTES", 2000)
    journal._commit_after_s = NEVER_S
    calls: list[Invocation] = []
    while sum(sizes(tmp_path)) <= 2000:
        calls.append(a_call(function))
        journal.opened(calls[-1])
    with pytest.raises(StoreUnavailable, match="too much"):
        journal.opened(a_call(function))
    journal.closed(done(calls[0]))
    await journal.synced()
    journal.opened(a_call(function))


async def test_broken_journals_refuse(store: SqlStore, function: Function, tmp_path: Path) -> None:
    async with opened_journal(store, tmp_path) as journal:
        pass
    with pytest.raises(StoreUnavailable):
        journal.opened(a_call(function))
    content = bytearray(b"".join(to_line(a_call(function)) for _ in range(3)))
    content[len(content) // 2] ^= 1
    (tmp_path / SPOOLS[0]).write_bytes(content)
    with pytest.raises(StoreBroken, match="line 2 of 3"):
        async with opened_journal(store, tmp_path):
            pass
    assert (tmp_path / SPOOLS[0]).read_bytes() == content


# Starts with existing records ----------------------------------------------------------------


async def test_a_start_ends_open_calls(store: SqlStore, function: Function, tmp_path: Path) -> None:
    stored, fresh, ended = (a_call(function) for _ in range(3))
    async with opened_journal(store, tmp_path) as journal:
        journal.opened(stored)
    await restart(store)
    (tmp_path / SPOOLS[0]).write_bytes(to_line(done(ended)))
    (tmp_path / SPOOLS[1]).write_bytes(to_line(fresh) + to_line(ended))
    async with opened_journal(store, tmp_path) as journal:
        assert await journal.get(function.id, ended.invocation_id) == done(ended)
        for call in (stored, fresh):
            found = not_none(await journal.get(function.id, call.invocation_id))
            assert found == replace(
                call,
                status=Status.INTERRUPTED,
                ended_at=call.started_at,  # `ManualClock` is behind the time of the start
                error_message="the server ended while the call was running",
                end_cause=Interrupted("server_ended"),
            )
    counters = await counters_of(store, function)
    assert (counters.invocation_count, counters.error_count) == (3, 2)
    assert sizes(tmp_path) == [0, 0]


def sizes(path: Path) -> list[int]:
    return [(path / name).stat().st_size for name in SPOOLS]


@pytest.mark.parametrize("stored", [0, 5, 10])
async def test_pages_end_by_bytes(journal: SpoolJournal, function: Function, stored: int) -> None:
    written = []
    for number in range(10):
        record = done(a_call(function), stdout=b"x" * 1000)
        journal.closed(record)
        written.append(record.invocation_id)
        if number + 1 == stored:
            await journal.synced()
    written.sort()  # records of the same millisecond may be in any order
    pages = await record_pages(journal, function_id=function.id, limit=9, max_bytes=2500)
    assert [one.invocation_id for page in pages for one in page] == written[::-1]
    # Records that are in memory need no further read of the database.
    assert stored < 10 or max(map(len, pages)) == 3
    query = InvocationQuery(function_id=function.id, limit=50, max_bytes=1, with_output=False)
    without = (await journal.query(query)).items
    assert [one.invocation_id for one in without] == written[::-1]
    assert {one.stdout for one in without} == {b""}


@promise("A21")
async def test_a_page_reads_no_more_than_it_answers(
    journal: SpoolJournal, function: Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(20):
        journal.closed(done(a_call(function), stdout=b"x" * 1000))
    await journal.synced()
    read = []
    real = tables.read_invocation
    monkeypatch.setattr(tables, "read_invocation", lambda row: read.append(1) or real(row))  # type: ignore[func-returns-value]
    await journal.query(InvocationQuery(function_id=function.id, limit=20, max_bytes=2500))
    assert len(read) == 3
