"""A start after a crash: what happens to asynchronous work that the last server had claimed."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from contract.pieces import HOUR_MS, NOW_MS, NOW_S, an_accepted, attempted, begun, claimed
from contract.stores import (
    OF_SQLITE,
    SharedStoreOpener,
    StoreOpener,
    a_call,
    a_stored_function,
    change,
    done,
    not_none,
    opened_journal,
    rows,
)
from manual_clock import ManualClock
from promises import promise
from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.function import Function
from quiltfn.model.invocation import Invocation, Status, WorkOutcome
from quiltfn.model.work import AsyncPolicy, Backoff, Destination
from quiltfn.ports import InvocationQuery
from quiltfn.store import SpoolJournal, SqlPolicies, SqlWork
from quiltfn.store.backup import snapshot
from quiltfn.store.calls.work_recovery import SERVER_ENDED
from quiltfn.store.database.directory import SPOOLS

pytestmark = promise("D33")

TWICE = AsyncPolicy(max_attempts=2, backoff=Backoff(first=1, jitter=0))
SUCCESS = Status.SUCCESS
LATE_MS = 2_000_000_000_000


class Crashed(NamedTuple):
    """A directory whose server ended with one piece of work. `call`: the work's id."""

    function: Function
    call: str


async def crashed(
    open_store: StoreOpener,
    path: Path,
    before: Callable[[SqlWork, SpoolJournal, Function], Awaitable[None]],
    policy: AsyncPolicy | None = None,
) -> Crashed:
    """Accept work, run `before`, and end the server as `kill -9` does: it releases nothing, and the
    spool has what was not committed.
    """
    async with open_store(path) as store:
        function = await a_stored_function(store)
        await SqlPolicies(store.database).save_async(function.id, policy)
        queue = SqlWork(store.database)
        call = await an_accepted(queue, function, expires_at_ms=LATE_MS)
        clock = ManualClock(NOW_S)
        journal = SpoolJournal(store.database, path, clock, commit_after_s=1000)
        await journal.start()
        await before(queue, journal, function)
        journal._close()  # unlike a proper end, this commits nothing
        if journal._timer is not None:
            journal._timer.cancel()
    return Crashed(function, call)


async def claim(queue: SqlWork, _: SpoolJournal, function: Function) -> None:
    await claimed(queue, function)


async def claim_as_begun(queue: SqlWork, _: SpoolJournal, function: Function) -> None:
    await queue.claim(function.id, 1, NOW_MS, is_begun=True)


async def hand_over(queue: SqlWork, journal: SpoolJournal, function: Function) -> None:
    (record,) = await claimed(queue, function)
    journal.opened(begun(record))


async def hand_over_and_commit(queue: SqlWork, journal: SpoolJournal, function: Function) -> None:
    await hand_over(queue, journal, function)
    await journal.synced()


async def end(queue: SqlWork, journal: SpoolJournal, function: Function) -> None:
    (record,) = await claimed(queue, function)
    journal.opened(begun(record))
    journal.closed(replace(done(begun(record)), outcome=WorkOutcome()))


async def end_for_a_retry(queue: SqlWork, journal: SpoolJournal, function: Function) -> None:
    (record,) = await claimed(queue, function)
    again = WorkOutcome(retry_at_ms=NOW_MS + 1)
    journal.closed(replace(done(begun(record), 9), outcome=again))


async def state(path: Path, open_store: StoreOpener, was: Crashed) -> tuple[object, ...]:
    """What the next start finds: the record's status, waiting work, and the ends of attempts so
    far.
    """
    async with open_store(path) as store, opened_journal(store, path) as journal:
        queue = SqlWork(store.database)
        record = not_none(await journal.get(was.function.id, was.call))
        attempts = [one.status.value for one in await queue.attempts(was.call)]
        waiting = [one.waiting for one in await queue.load()]
        (counted,) = await store.load()
        assert counted.counters.invocation_count == (record.status is not Status.QUEUED)
        return record.status.value, sum(waiting), attempts


@pytest.mark.parametrize(
    ("before", "once", "twice"),
    [
        (claim, ("queued", 1, []), ("queued", 1, [])),
        (
            claim_as_begun,
            ("interrupted", 0, ["interrupted"]),
            ("queued", 1, ["interrupted"]),
        ),
        (hand_over, ("interrupted", 0, ["interrupted"]), ("queued", 1, ["interrupted"])),
        (hand_over_and_commit, ("interrupted", 0, ["interrupted"]), ("queued", 1, ["interrupted"])),
        (end, ("success", 0, ["success"]), ("success", 0, ["success"])),
        (end_for_a_retry, ("queued", 1, ["failed"]), ("queued", 1, ["failed"])),
    ],
)
async def test_an_attempt_that_may_have_begun_counts_and_no_other(
    open_store: StoreOpener,
    tmp_path: Path,
    before: Callable[[SqlWork, SpoolJournal, Function], Awaitable[None]],
    once: tuple[object, ...],
    twice: tuple[object, ...],
) -> None:
    for name, policy, expected in (("once", None, once), ("twice", TWICE, twice)):
        path = tmp_path / name
        was = await crashed(open_store, path, before, policy)
        for _ in range(2):  # a second start changes nothing more
            assert await state(path, open_store, was) == expected
        if expected[0] == "queued":
            async with open_store(path) as store:
                (again,) = await claimed(SqlWork(store.database), was.function, 5, LATE_MS)
                assert again.attempt == len(expected[2]) + 1  # type: ignore[arg-type]


class WrongClock(ManualClock):
    """A clock that was set ten days ahead, and whose trusted time does not follow yet."""

    def unix(self) -> float:
        return self.time + 10 * 24 * 3600

    def trusted(self) -> float:
        return self.time


async def test_a_wrong_clock_delays_no_retry(open_store: StoreOpener, tmp_path: Path) -> None:
    with_destination = replace(TWICE, on_failure=Destination(function="told"))
    for name, policy in (
        ("again", with_destination),
        ("over", replace(with_destination, max_attempts=1)),
    ):
        path = tmp_path / name
        was = await crashed(open_store, path, hand_over, policy)
        async with open_store(path) as store:
            journal = SpoolJournal(store.database, path, WrongClock(NOW_S))
            await journal.start()
            await journal.aclose()
        if name == "again":
            (found,) = rows(path, "SELECT due_at_ms FROM work")
            assert found == (NOW_MS + 1000,)
        else:
            (found,) = rows(path, "SELECT due_at_ms, expires_at_ms FROM delivery")
            assert found == (NOW_MS, NOW_MS + 24 * HOUR_MS)
            ((ended,),) = rows(path, "SELECT ended_at FROM attempt")
            # This column has the time of the wall clock.
            assert ended == (NOW_S + 10 * 24 * 3600) * 1000
        assert was.call


async def test_a_machine_start_makes_it_unknown(open_store: StoreOpener, tmp_path: Path) -> None:
    """The record of the hand-over was not synced, so a power cut may have lost it."""
    was = await crashed(open_store, tmp_path, claim)
    change(tmp_path, "UPDATE work SET machine_boot_id = 'another'")
    assert await state(tmp_path, open_store, was) == ("interrupted", 0, ["interrupted"])
    ((message,),) = rows(tmp_path, "SELECT error_message FROM attempt")
    assert message == SERVER_ENDED.unknown.sentence
    assert rows(tmp_path, "SELECT reason FROM dead_letter") == [("attempts",)]


async def test_without_the_spool_it_is_unknown(open_store: StoreOpener, tmp_path: Path) -> None:
    was = await crashed(open_store, tmp_path, hand_over)
    for name in SPOOLS:
        (tmp_path / name).unlink()
    assert await state(tmp_path, open_store, was) == ("interrupted", 0, ["interrupted"])


async def test_running_servers_keep_work(open_shared: SharedStoreOpener, tmp_path: Path) -> None:
    """One of two servers dies and starts again. The work of the other server must continue."""
    nodes = tmp_path / "one", tmp_path / "two"
    async with open_shared(tmp_path, "one") as store, opened_journal(store, nodes[0]) as journal:
        function = await a_stored_function(store)
        for _ in range(2):
            await an_accepted(SqlWork(store.database), function, expires_at_ms=LATE_MS)
        (ours,) = await claimed(SqlWork(store.database), function)
        async with open_shared(tmp_path, "two") as two, opened_journal(two, nodes[1]):
            (theirs,) = await claimed(SqlWork(two.database), function)
        async with open_shared(tmp_path, "two") as two, opened_journal(two, nodes[1]):
            (again,) = await claimed(SqlWork(two.database), function, 5)
            assert (again.invocation_id, again.attempt) == (theirs.invocation_id, 1)
        assert await SqlWork(store.database).attempts(ours.invocation_id) == []
        await attempted(journal, ours)
        ended = not_none(await journal.get(function.id, ours.invocation_id))
        assert ended.status is Status.SUCCESS
        assert rows(tmp_path, "SELECT invocation_id FROM work") == [(theirs.invocation_id,)]


@promise("N88")
async def test_nobody_is_told_of_an_end_that_another_node_may_replace(
    open_shared: SharedStoreOpener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another node repeats the work that a lost node has not stored, so the first end must not be
    reported.
    """

    async def refused(*_: object, **__: object) -> None:
        raise StoreUnavailable("the database takes no writes")

    async with (
        open_shared(tmp_path, "one") as store,
        opened_journal(store, tmp_path / "n") as journal,
    ):
        function = await a_stored_function(store)
        await an_accepted(SqlWork(store.database), function, expires_at_ms=LATE_MS)
        (record,) = await claimed(SqlWork(store.database), function)
        answered = a_call(function)
        with monkeypatch.context() as patch:
            patch.setattr(store.database, "write", refused)
            for call in (record, answered):
                journal.opened(begun(call))
            journal.closed(replace(done(begun(record)), outcome=WorkOutcome()))
            journal.closed(done(begun(answered)))
            with pytest.raises(StoreUnavailable):
                await journal.get(function.id, record.invocation_id)
            # The caller of this invocation got its end, and no node repeats it.
            assert await status_of(journal, answered) is SUCCESS
            assert await statuses(journal, function) == {SUCCESS, Status.QUEUED}
        assert await status_of(journal, record) is SUCCESS
        assert await statuses(journal, function) == {SUCCESS}


async def status_of(journal: SpoolJournal, call: Invocation) -> Status:
    return not_none(await journal.get(call.function_id, call.invocation_id)).status


async def statuses(journal: SpoolJournal, function: Function) -> set[Status]:
    page = await journal.query(InvocationQuery(function_id=function.id, limit=10))
    return {one.status for one in page.items}


async def test_a_synchronous_call_ends_as_ever(open_store: StoreOpener, tmp_path: Path) -> None:
    async def hand_over_another(queue: SqlWork, journal: SpoolJournal, function: Function) -> None:
        await hand_over(queue, journal, function)
        journal.opened(a_call(function))

    was = await crashed(open_store, tmp_path, hand_over_another, TWICE)
    async with open_store(tmp_path) as store, opened_journal(store, tmp_path):
        (counted,) = await store.load()
        assert counted.counters.invocation_count == 1
    found = rows(tmp_path, "SELECT invocation_id, status FROM invocation ORDER BY status")
    assert [status for _, status in found] == ["interrupted", "queued"]
    assert found[1][0] == was.call


@OF_SQLITE
async def test_a_backup_has_the_queue(open_store: StoreOpener, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    copy.mkdir()
    async with open_store(source) as store, opened_journal(store, source) as journal:
        function = await a_stored_function(store)
        queue = SqlWork(store.database)
        call = await an_accepted(queue, function)
        failed = await an_accepted(queue, function, due_at_ms=NOW_MS - 1)
        (record,) = await claimed(queue, function)
        await attempted(journal, record, 1, dead_letter="attempts")
        snapshot.take(source, copy)
    async with open_store(copy) as store, opened_journal(store, copy):
        queue = SqlWork(store.database)
        (letter,) = (await queue.dead_letters(function.id, 5, None)).items
        assert letter.invocation_id == failed
        (work,) = (await queue.claim(function.id, 5, NOW_MS + HOUR_MS, is_begun=False)).work
        assert work.record.invocation_id == call
        assert work.input.payload == b'{"n": 1}'
