"""The queue of asynchronous work on every store: the promises of `ports/work.py`."""

import asyncio
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection
from sqlalchemy.dialects.sqlite import dialect

from contract.pieces import HOUR_MS, NOW_MS, NOW_S, a_piece, an_accepted, attempted, begun, claimed
from contract.stores import (
    OF_SQLITE,
    SharedStoreOpener,
    StoreOpener,
    a_call,
    a_stored_function,
    change,
    done,
    explained,
    not_none,
    opened_journal,
    pages_of,
    rows,
)
from promises import promise
from quiltfn.model.errors import CapacityFull, NotFound, Unprocessable
from quiltfn.model.function import Function
from quiltfn.model.invocation import Invocation, Status, WorkOutcome
from quiltfn.model.work import AsyncPolicy, Backoff, Destination, RecordPolicy
from quiltfn.ports import InvocationQuery, TenantFunctions
from quiltfn.ports.work import ATTEMPT_OUTPUT_BYTES, Input
from quiltfn.store import SpoolJournal, SqlPolicies, SqlStore, SqlWork
from quiltfn.store.calls import outcomes, records, sweep
from quiltfn.store.calls import work as work_module
from quiltfn.store.calls.record_key import RecordKey
from quiltfn.store.calls.records import drop_output
from quiltfn.store.calls.work import AT_ONCE_MAX_BYTES, counting
from quiltfn.store.database.database import Unstorable, Work
from quiltfn.store.database.sql import statements
from quiltfn.store.tenants.usage import RECORD_BYTES
from timeouts import scaled

OF_FUNCTION = ("work", "input", "attempt", "dead_letter", "delivery", "work_count", "schedule")
# A scan of a whole table. A scan of the small index of claimed rows is acceptable.
WHOLE_TABLE = re.compile(
    r"SCAN (work|input|dead_letter|delivery|schedule)\b(?! USING INDEX work_claimed)"
)
NEVER = Destination(url="https://example.org/hook")


@pytest.fixture
async def policies(store: SqlStore) -> SqlPolicies:
    return SqlPolicies(store.database)


# Accepting and claiming ----------------------------------------------------------------------


async def test_accepted_work_is_claimed_once_with_what_its_caller_gave(
    queue: SqlWork, journal: SpoolJournal, function: Function
) -> None:
    piece = a_piece(function)
    await queue.accept(piece)
    assert await journal.get(function.id, piece.record.invocation_id) == piece.record
    (waiting,) = await queue.load()
    assert (waiting.function_id, waiting.waiting, waiting.next_due_ms) == (function.id, 1, NOW_MS)
    claim = await queue.claim(function.id, 10, NOW_MS, is_begun=False)
    (work,) = claim.work
    assert (work.record, work.input) == (piece.record, piece.input)
    assert claim.next_due_ms is None
    assert await claimed(queue, function) == []
    assert await queue.load() == []


async def test_a_record_is_stored_as_its_end_says_also_where_its_function_was_renamed(
    queue: SqlWork, journal: SpoolJournal, function: Function
) -> None:
    await queue.accept(a_piece(function))
    (record,) = await claimed(queue, function)
    ended = replace(done(begun(record)), function_name="renamed", outcome=WorkOutcome())
    journal.closed(ended)
    for _ in range(2):  # first from memory, then from the database
        found = not_none(await journal.get(function.id, record.invocation_id))
        assert found.function_name == "renamed"
        await journal.synced()


@OF_SQLITE
async def test_accepts_share_commits(queue: SqlWork, function: Function, store: SqlStore) -> None:
    pieces = [a_piece(function) for _ in range(50)]
    before = await commits(store)
    await asyncio.gather(*(queue.accept(one) for one in pieces))
    assert await commits(store) - before < 10
    given = {one.invocation_id for one in await claimed(queue, function, 100)}
    assert given == {one.record.invocation_id for one in pieces}


async def commits(store: SqlStore) -> int:
    return await store.database.read(
        lambda c: int(c.exec_driver_sql("PRAGMA user_version").scalar_one())
    )


async def test_a_caller_who_gives_up_harms_nobody(queue: SqlWork, function: Function) -> None:
    pieces = [a_piece(function) for _ in range(3)]
    tasks = [asyncio.create_task(queue.accept(one)) for one in pieces]
    await asyncio.sleep(0)
    tasks[1].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in results] == [type(None), asyncio.CancelledError, type(None)]
    assert len(await claimed(queue, function, 5)) == 3


async def test_bad_work_harms_no_other(store: SqlStore, queue: SqlWork, function: Function) -> None:
    """The other work is of another tenant, and is stored in the same batch."""
    other = await a_stored_function(store, tenant_id="other")
    pieces = [a_piece(function) for _ in range(7)]
    pieces[3] = a_piece(other, due_at_ms=10**22)  # this time is not a 64-bit number
    results = await asyncio.gather(*(queue.accept(one) for one in pieces), return_exceptions=True)
    (refusal,) = [one for one in results if one is not None]
    assert results.index(refusal) == 3
    # The error comes from SQLite's driver, or from PostgreSQL.
    assert isinstance(refusal, (OverflowError, Unstorable))
    assert str(10**22) not in str(refusal)
    assert store.database.problem is None
    assert {one.invocation_id for one in await claimed(queue, function, 9)} == {
        one.record.invocation_id for one in pieces if one is not pieces[3]
    }


async def test_accepting_the_same_id_again_changes_nothing(
    queue: SqlWork, journal: SpoolJournal, function: Function
) -> None:
    piece = a_piece(function)
    await asyncio.gather(queue.accept(piece), queue.accept(piece))
    (record,) = await claimed(queue, function, 5)
    await queue.accept(replace(piece, input=Input(payload=b"other")))
    assert await queue.input(record.invocation_id) == piece.input
    await attempted(journal, record)
    await queue.accept(piece)
    assert await claimed(queue, function, 5) == []
    assert not_none(await journal.get(function.id, record.invocation_id)).status is Status.SUCCESS


async def test_bounds_refuse_work(queue: SqlWork, function: Function, store: SqlStore) -> None:
    pieces = [a_piece(function, max_queued=2) for _ in range(4)]
    results = await asyncio.gather(*(queue.accept(one) for one in pieces), return_exceptions=True)
    assert [type(one) for one in results] == [type(None), type(None), CapacityFull, CapacityFull]
    other = await a_stored_function(store)
    await store.delete(other.id)
    with pytest.raises(NotFound):
        await queue.accept(a_piece(other))
    assert (await queue.counts(function.id, NOW_MS)).queued == 2
    await claimed(queue, function)  # claimed work no longer waits
    await queue.accept(a_piece(function, max_queued=2))


async def test_the_oldest_due_work_is_claimed_first(queue: SqlWork, function: Function) -> None:
    due = [NOW_MS + 3, NOW_MS + 1, NOW_MS + 5000, NOW_MS + 2]
    ids = [await an_accepted(queue, function, due_at_ms=one) for one in due]
    claim = await queue.claim(function.id, 2, NOW_MS + 10, is_begun=False)
    assert [one.record.invocation_id for one in claim.work] == [ids[1], ids[3]]
    assert claim.next_due_ms == NOW_MS + 3
    counts = await queue.counts(function.id, NOW_MS + 10)
    assert (counts.queued, counts.delayed, counts.running) == (1, 1, 2)
    assert counts.oldest_due_ms == NOW_MS + 3
    claim = await queue.claim(function.id, 9, NOW_MS + 10, is_begun=False)
    assert [one.record.invocation_id for one in claim.work] == [ids[0]]
    assert claim.next_due_ms == NOW_MS + 5000


async def test_a_claim_takes_few_bytes_into_memory(queue: SqlWork, function: Function) -> None:
    for _ in range(4):
        await an_accepted(queue, function, payload=bytes(AT_ONCE_MAX_BYTES // 2))
    assert [len(await claimed(queue, function, 9)) for _ in range(3)] == [2, 2, 0]
    await an_accepted(queue, function, payload=bytes(AT_ONCE_MAX_BYTES + 1))
    assert len(await claimed(queue, function, 9)) == 1
    # However much work of a queue is too old, all of it ends in one claim.
    old = [a_piece(function, expires_at_ms=NOW_MS + 1) for _ in range(450)]
    await asyncio.gather(*(queue.accept(one) for one in old))
    young = await an_accepted(queue, function, due_at_ms=NOW_MS + 1)
    claim = await queue.claim(function.id, 3, NOW_MS + 2, is_begun=False)
    assert ([one.record.invocation_id for one in claim.work], len(claim.ended)) == ([young], 450)


async def test_released_work_waits_again_uncounted(queue: SqlWork, function: Function) -> None:
    first = await an_accepted(queue, function)
    second = await an_accepted(queue, function)
    await claimed(queue, function, 2)
    await queue.release([first], NOW_MS + 500)
    await queue.release([second])
    await queue.release([second])  # nothing is claimed any more
    (again,) = await claimed(queue, function, 2)
    assert (again.invocation_id, again.attempt) == (second, 1)
    (later,) = await claimed(queue, function, 2, NOW_MS + 500)
    assert (later.invocation_id, later.attempt) == (first, 1)


async def test_unknown_claims_are_put_back(open_shared: SharedStoreOpener, tmp_path: Path) -> None:
    async with open_shared(tmp_path, "one") as first, open_shared(tmp_path, "two") as second:
        function, other = (
            await a_stored_function(first),
            await a_stored_function(first, name="other"),
        )
        mine, theirs = SqlWork(first.database), SqlWork(second.database)
        ids = [await an_accepted(mine, function) for _ in range(3)]
        apart = await an_accepted(mine, other)
        known, unknown = await claimed(mine, function, 2)
        (foreign,) = await claimed(theirs, function, 1)
        await claimed(mine, other, 1)
        assert {known.invocation_id, unknown.invocation_id, foreign.invocation_id} == {*ids}
        assert await mine.release_others(function.id, {known.invocation_id}) is not None
        (again,) = await claimed(theirs, function, 9)
        assert (again.invocation_id, again.attempt) == (unknown.invocation_id, 1)
        assert await mine.claimed_by(known.invocation_id) == "one"
        assert await mine.claimed_by(apart) == "one"
        assert await mine.claimed_by(foreign.invocation_id) == "two"


async def test_others_claim_what_is_left(open_shared: SharedStoreOpener, tmp_path: Path) -> None:
    """Two servers claim, work and accept at the same time: each piece runs once."""
    async with open_shared(tmp_path, "one") as first, open_shared(tmp_path, "two") as second:
        function = await a_stored_function(first)
        queues = [SqlWork(first.database), SqlWork(second.database)]
        pieces = [a_piece(function) for _ in range(200)]

        async def give(number: int) -> None:
            for piece in pieces[number::2]:
                await queues[number].accept(piece)

        seen: list[str] = []

        async def take(queue: SqlWork) -> None:
            while len(seen) < len(pieces):
                claim = await queue.claim(function.id, 7, NOW_MS, is_begun=False)
                seen.extend(work.record.invocation_id for work in claim.work)

        async with asyncio.timeout(scaled(60)):
            await asyncio.gather(*(give(n) for n in (0, 1)), *map(take, queues))
        assert sorted(seen) == sorted(piece.record.invocation_id for piece in pieces)


async def test_work_in_a_transaction(queue: SqlWork, function: Function, store: SqlStore) -> None:
    kept, undone = a_piece(function), a_piece(function)
    refused = a_piece(function, max_queued=1)
    results = await store.database.write(lambda c: queue.accept_in(c, [kept, refused]))
    assert [type(one) for one in results] == [type(None), CapacityFull]

    def fail(connection: object) -> None:
        queue.accept_in(connection, [undone])  # type: ignore[arg-type]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await store.database.write(fail)
    (record,) = await claimed(queue, function, 9)
    assert record == kept.record


# The ends of attempts ------------------------------------------------------------------------


async def test_a_retry_waits_again_and_the_last_end_is_counted_once(
    queue: SqlWork, journal: SpoolJournal, function: Function, store: SqlStore
) -> None:
    call = await an_accepted(queue, function)
    (first,) = await claimed(queue, function)
    journal.opened(begun(first))
    again = WorkOutcome(retry_at_ms=NOW_MS + 5000)
    journal.closed(replace(done(begun(first), code=7), outcome=again))
    shown = not_none(await journal.get(function.id, call))
    assert (shown.status, shown.attempt, shown.due_at) == (Status.QUEUED, 2, NOW_S + 5)
    (listed,) = (await journal.query(InvocationQuery(function_id=function.id, limit=5))).items
    assert listed.status is Status.QUEUED
    await journal.synced()
    assert await journal.get(function.id, call) == shown
    assert (await queue.claim(function.id, 1, NOW_MS, is_begun=False)).next_due_ms == NOW_MS + 5000
    (second,) = await claimed(queue, function, 1, NOW_MS + 5000)
    assert second.attempt == 2
    await attempted(journal, second, 8, dead_letter="attempts")
    attempts = [(one.attempt, one.status, one.exit_code) for one in await queue.attempts(call)]
    assert attempts == [(1, Status.FAILED, 7), (2, Status.FAILED, 8)]
    (stored,) = await store.load()
    assert (stored.counters.invocation_count, stored.counters.error_count) == (1, 1)
    (dead,) = (await queue.dead_letters(function.id, 5, None)).items
    assert (dead.reason, dead.status, dead.attempts) == ("attempts", Status.FAILED, 2)
    counts = await queue.counts(function.id, NOW_MS)
    assert (counts.queued, counts.delayed, counts.running, counts.dead_letters) == (0, 0, 0, 1)


@promise("A84")
async def test_an_attempt_that_another_one_follows_keeps_the_end_of_its_output_and_it_counts(
    queue: SqlWork, journal: SpoolJournal, function: Function, store: SqlStore, tmp_path: Path
) -> None:
    """The output of the attempt is removed together with that of the record."""
    call = await an_accepted(queue, function)
    (first,) = await claimed(queue, function)
    journal.opened(begun(first))
    ended = replace(done(begun(first), 7), stdout=b"a" + b"b" * ATTEMPT_OUTPUT_BYTES, stderr=b"e")
    journal.closed(replace(ended, outcome=WorkOutcome(retry_at_ms=NOW_MS)))
    await journal.synced()
    size = "SELECT size_bytes FROM invocation"
    assert rows(tmp_path, size) == [(RECORD_BYTES + ATTEMPT_OUTPUT_BYTES + 1,)]
    (second,) = await claimed(queue, function)
    await attempted(journal, second, 8)
    kept = [(one.stdout, one.stderr) for one in await queue.attempts(call)]
    assert kept == [(b"b" * ATTEMPT_OUTPUT_BYTES, b"e"), (None, None)]
    assert rows(tmp_path, size) == [(RECORD_BYTES + len(b"hello\n") + ATTEMPT_OUTPUT_BYTES + 1,)]
    await store.database.write(lambda connection: drop_output(connection, [call]))
    assert rows(tmp_path, size) == [(RECORD_BYTES,)]
    assert [one.stdout for one in await queue.attempts(call)] == [None, None]


async def test_a_record_that_is_stored_again_is_carried_out_once(
    queue: SqlWork, journal: SpoolJournal, function: Function, store: SqlStore, tmp_path: Path
) -> None:
    """After a power cut, an old segment may come back, whatever has happened since."""
    call = await an_accepted(queue, function)
    (first,) = await claimed(queue, function)
    retried = await attempted(journal, first, 7, retry_at_ms=NOW_MS)
    stale = [begun(first), retried]
    states = []

    async def again(*stored: Invocation) -> None:
        for record in (*stored, *stored[::-1]):
            await store.database.write(lambda c, record=record: records.upsert(c, [record], 1))  # type: ignore[misc]
        states.append(rows(tmp_path, "SELECT epoch, attempts, due_at_ms FROM work"))

    await again(*stale)
    (second,) = await claimed(queue, function)
    await again(*stale)
    ended = await attempted(journal, second, 8, dead_letter="attempts", destination_id="d-1")
    await queue.drop_dead_letter(function.id, call)
    await again(*stale, begun(second), ended)
    epoch = store.database.boot.epoch
    assert states == [[(0, 1, NOW_MS)], [(epoch, 2, NOW_MS)], []]
    assert rows(tmp_path, "SELECT id FROM delivery") == [("d-1",)]
    assert rows(tmp_path, "SELECT count(*) FROM dead_letter") == [(0,)]
    assert [one.exit_code for one in await queue.attempts(call)] == [7, 8]
    (stored,) = await store.load()
    assert stored.counters.invocation_count == 1


async def test_work_that_is_too_old_becomes_a_dead_letter_and_is_sent_on(
    queue: SqlWork,
    journal: SpoolJournal,
    policies: SqlPolicies,
    function: Function,
    store: SqlStore,
    tmp_path: Path,
) -> None:
    await policies.save_async(function.id, AsyncPolicy(on_failure=NEVER))
    old = [await an_accepted(queue, function, expires_at_ms=NOW_MS + 1) for _ in range(3)]
    young = await an_accepted(queue, function, due_at_ms=NOW_MS + 1)
    claim = await queue.claim(function.id, 2, NOW_MS + 2, is_begun=False)
    assert [one.record.invocation_id for one in claim.work] == [young]
    assert sorted(one.invocation_id for one in claim.ended) == old
    shown = not_none(await journal.get(function.id, old[0]))
    assert (shown.status, shown.ended_at) == (Status.ERROR, NOW_S)
    assert "max_age_seconds" in (shown.error_message or "")
    assert await queue.attempts(old[0]) == []
    dead = (await queue.dead_letters(function.id, 2, None)).items
    assert [(one.invocation_id, one.reason, one.attempts) for one in dead] == [
        (old[2], "age", 0),
        (old[1], "age", 0),
    ]
    (stored,) = await store.load()
    assert (stored.counters.invocation_count, stored.counters.error_count) == (3, 3)
    sent = rows(tmp_path, "SELECT id, invocation_id FROM delivery ORDER BY 2")
    assert [call for _, call in sent] == old
    assert not {key for key, _ in sent} & set(old)  # a delivery has an id of its own


async def test_work_that_waits_can_be_cancelled_and_no_other(
    queue: SqlWork, journal: SpoolJournal, function: Function, store: SqlStore
) -> None:
    other = await a_stored_function(store)
    call = await an_accepted(queue, function)
    running = await an_accepted(queue, function, due_at_ms=NOW_MS - 1)
    await claimed(queue, function)
    assert await queue.cancel(other.id, call, NOW_S) is None
    assert await queue.cancel(function.id, running, NOW_S) is None
    own = store.database.boot.node_id
    assert [await queue.claimed_by(one) for one in (call, running, "none")] == [None, own, None]
    cancelled = not_none(await queue.cancel(function.id, call, NOW_S + 3))
    assert (cancelled.status, cancelled.ended_at) == (Status.CANCELLED, NOW_S + 3)
    assert not_none(await journal.get(function.id, call)).status is Status.CANCELLED
    assert await queue.cancel(function.id, call, NOW_S) is None
    assert await claimed(queue, function) == []
    assert (await queue.dead_letters(function.id, 5, None)).items == []
    counters = {one.function.id: one.counters for one in await store.load()}
    assert counters[function.id].invocation_count == 1


# Dead letters --------------------------------------------------------------------------------


async def dead(queue: SqlWork, journal: SpoolJournal, function: Function) -> str:
    call = await an_accepted(queue, function)
    (record,) = await claimed(queue, function)
    await attempted(journal, record, 1, dead_letter="attempts")
    return call


async def test_lists_of_a_tenant_have_all_of_its_functions_or_some(
    store: SqlStore, queue: SqlWork, journal: SpoolJournal, function: Function
) -> None:
    mine = [function, *[await a_stored_function(store) for _ in range(3)]]
    mine.sort(
        key=lambda function: function.id
    )  # functions that are created at the same time need not be in order
    other = await a_stored_function(store, tenant_id="other")
    made = [await dead(queue, journal, one) for one in (*mine[:2], other, mine[0])]
    await an_accepted(queue, mine[2])
    tenant = function.tenant_id
    everything, some = TenantFunctions(tenant), TenantFunctions(tenant, [mine[1].id, mine[2].id])
    page = await queue.dead_letters(everything, 2, None)
    rest = await queue.dead_letters(everything, 2, page.next_cursor)
    listed = [(one.invocation_id, one.function_id) for one in (*page.items, *rest.items)]
    expected = {made[3]: mine[0].id, made[1]: mine[1].id, made[0]: mine[0].id}
    # The list is ordered by ids, newest first.
    assert listed == sorted(expected.items(), reverse=True)
    assert rest.next_cursor is None
    (letter,) = (await queue.dead_letters(some, 9, None)).items
    assert letter.invocation_id == made[1]
    assert (await queue.dead_letters(TenantFunctions(tenant, []), 9, None)).items == []

    queues = await queue.queues(everything, 2, None, 10**15)
    more = await queue.queues(everything, 2, queues.next_cursor, 10**15)
    found = {one: counts for page in (queues, more) for one, counts in page.items}
    assert list(found) == [one.id for one in mine[:3]]
    assert more.next_cursor is None
    assert [(one.queued, one.dead_letters) for one in found.values()] == [(0, 2), (0, 1), (1, 0)]
    assert [one for one, _ in (await queue.queues(some, 9, None, 0)).items] == list(some.ids or ())
    for counts_of, counts in found.items():
        assert await queue.counts(counts_of, 10**15) == counts


async def test_the_queues_of_a_page_are_counted_some_functions_at_a_time(
    store: SqlStore, queue: SqlWork, function: Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each statement counts only some functions, so that other readers wait for one statement, not
    for all.
    """
    mine = [function, *[await a_stored_function(store) for _ in range(4)]]
    for owner in mine:
        await an_accepted(queue, owner)
    monkeypatch.setattr(work_module, "COUNTED_AT_ONCE", 2)
    read, asked = store.database.read, list[int]()

    async def noted(work: Work[Any]) -> Any:
        def counted(connection: Connection) -> Any:
            with counted_statements(monkeypatch) as statements:
                found = work(connection)
            asked.append(len(statements))
            return found

        return await read(counted)

    monkeypatch.setattr(store.database, "read", noted)
    page = await queue.queues(TenantFunctions(function.tenant_id), 9, None, NOW_MS)
    assert [one for one, _ in page.items] == sorted(one.id for one in mine)
    # One statement for the list of functions, then for two, two, and one of them.
    assert asked == [1, 1, 1, 1]


@contextlib.contextmanager
def counted_statements(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Record the statements that SQLAlchemy gets during the block."""
    found: list[str] = []
    with monkeypatch.context() as patch:
        for name in ("execute", "exec_driver_sql"):
            own = getattr(Connection, name)

            def noted(self: Connection, statement: Any, *more: Any, own: Any = own) -> Any:
                found.append(str(statement))
                return own(self, statement, *more)

            patch.setattr(Connection, name, noted)
        yield found


async def test_dead_letters_are_listed_dropped_and_redriven_once(
    queue: SqlWork, journal: SpoolJournal, function: Function, store: SqlStore
) -> None:
    made = [await dead(queue, journal, function) for _ in range(3)]
    pages = await pages_of(lambda cursor: queue.dead_letters(function.id, 2, cursor))
    assert [[one.invocation_id for one in page] for page in pages] == [made[:0:-1], made[:1]]
    with pytest.raises(Unprocessable):
        await queue.dead_letters(function.id, 2, "no cursor")
    dropped, first, other = made
    assert not await queue.drop_dead_letter((await a_stored_function(store)).id, dropped)
    assert await queue.drop_dead_letter(function.id, dropped)
    assert not await queue.drop_dead_letter(function.id, dropped)
    assert await journal.get(function.id, dropped) is not None

    full = [(key, a_piece(function, max_queued=1)) for key in (first, other)]
    with pytest.raises(CapacityFull):
        await queue.redrive(function.id, full)  # either all are redriven or none
    assert len((await queue.dead_letters(function.id, 5, None)).items) == 2
    again = [(key, a_piece(function)) for key in (first, other)]
    await queue.drop_dead_letter(function.id, other)
    redriven = await asyncio.gather(*(queue.redrive(function.id, again) for _ in range(3)))
    new = again[0][1].record.invocation_id
    assert sorted(map(list, redriven)) == [[], [], [new]]
    assert [record.invocation_id for record in await claimed(queue, function, 9)] == [new]


async def test_a_function_keeps_so_many_dead_letters_and_the_newest(
    queue: SqlWork, journal: SpoolJournal, function: Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "DEAD_LETTERS_KEPT", 3)
    made = [await dead(queue, journal, function) for _ in range(5)]
    kept = (await queue.dead_letters(function.id, 9, None)).items
    assert [one.invocation_id for one in kept] == made[:1:-1]


# Inputs --------------------------------------------------------------------------------------


async def test_inputs_are_kept_as_the_record_policy_says(
    queue: SqlWork, journal: SpoolJournal, policies: SqlPolicies, function: Function
) -> None:
    kept = await an_accepted(queue, function)
    (record,) = await claimed(queue, function)
    await attempted(journal, record)
    assert await queue.input(kept) is not None
    await policies.save_record(function.id, RecordPolicy(keep_input="none"))
    await an_accepted(queue, function)
    (record,) = await claimed(queue, function)
    assert await queue.input(record.invocation_id) is not None
    await attempted(journal, record, 7, retry_at_ms=NOW_MS)
    assert await queue.input(record.invocation_id) is not None
    (record,) = await claimed(queue, function)
    await attempted(journal, record)
    assert await queue.input(record.invocation_id) is None
    # A dead letter may be redriven, so it keeps its input.
    failed = await dead(queue, journal, function)
    assert await queue.input(failed) is not None
    await queue.drop_dead_letter(function.id, failed)
    assert await queue.input(failed) is None
    waiting = await an_accepted(queue, function)
    await queue.cancel(function.id, waiting, NOW_S)
    assert await queue.input(waiting) is None
    other = done(a_call(function))  # the input of a synchronous invocation
    given = Input(
        payload=b"\xff\x00", environment={"A": "ü"}, version=3, caller="k", may_write=True
    )
    await queue.keep_input(other, given)
    await queue.keep_input(other, Input())
    assert await queue.input(other.invocation_id) == given


@promise("D35")
@OF_SQLITE
async def test_a_key_encrypts_inputs(function: Function, store: SqlStore, tmp_path: Path) -> None:
    sealed = SqlWork(store.database, cipher=RecordKey(b"k" * 32 + b"\n"))
    given = Input(payload=b"a secret that nobody reads", environment={"PASSWORD": "hunter2hunter2"})
    call = await an_accepted(sealed, function, input=given)
    empty = await an_accepted(sealed, function, input=Input(payload=b""))
    plain = await an_accepted(SqlWork(store.database), function)
    assert await sealed.input(call) == given
    assert await sealed.input(empty) == Input(payload=b"")
    assert await sealed.input(plain) is not None
    assert not found_on_disk(tmp_path, b"a secret that nobody", b"hunter2hunter2")
    assert found_on_disk(tmp_path, call.encode())  # control: the search covers the input
    assert await sealed.input_variables(call) == ["PASSWORD"]
    assert await sealed.input_variables(empty) == []
    assert await sealed.input_variables("nobody") is None
    for other in (None, RecordKey(b"j" * 32)):
        wrong = SqlWork(store.database, cipher=other)
        assert await wrong.input_variables(call) == ()
        with pytest.raises(Unprocessable, match="encrypted"):
            await wrong.input(call)
        with pytest.raises(Unprocessable, match="encrypted"):
            await wrong.check_key()
    await sealed.check_key()
    with pytest.raises(ValueError, match="32 bytes"):
        RecordKey(b"short")


def found_on_disk(path: Path, *secrets: bytes) -> bool:
    written = b"".join(one.read_bytes() for one in path.glob("quiltfn.db*"))
    return any(secret in written for secret in secrets)


async def test_undecryptable_work_ends(function: Function, store: SqlStore, tmp_path: Path) -> None:
    """The input of one invocation cannot be decrypted for another, either."""
    sealed = SqlWork(store.database, cipher=RecordKey(b"k" * 32))
    first, other = await an_accepted(sealed, function), await an_accepted(sealed, function)
    change(
        tmp_path,
        "UPDATE input SET payload = (SELECT payload FROM input AS given "
        f"WHERE given.invocation_id = '{first}') WHERE invocation_id = '{other}'",
    )
    with pytest.raises(Unprocessable):
        await sealed.input(other)
    claim = await SqlWork(store.database).claim(function.id, 5, NOW_MS, is_begun=False)
    assert (claim.work, [one.status for one in claim.ended]) == ([], [Status.ERROR] * 2)
    letters = (await sealed.dead_letters(function.id, 5, None)).items
    assert {one.invocation_id for one in letters} == {first, other}
    assert all("encrypted" in (one.error_message or "") for one in letters)
    assert await sealed.input(first) is not None


# Deletion ------------------------------------------------------------------------------------


async def test_a_deleted_functions_work_is_never_claimed_and_goes_with_it(
    queue: SqlWork, function: Function, store: SqlStore, journal: SpoolJournal, tmp_path: Path
) -> None:
    await dead(queue, journal, function)
    await an_accepted(queue, function)
    (running,) = await claimed(queue, function)
    journal.opened(begun(running))
    await journal.synced()
    await asyncio.gather(*(queue.accept(a_piece(function)) for _ in range(30)))
    claims = asyncio.gather(*(claimed(queue, function) for _ in range(20)))
    await store.delete(function.id)
    await claims
    assert await claimed(queue, function, 99) == []
    assert await queue.load() == []
    with pytest.raises(NotFound):
        await queue.accept(a_piece(function))
    await store.wait_swept()
    ended = done(begun(running), 1)
    for decided in (
        WorkOutcome(retry_at_ms=NOW_MS),
        WorkOutcome(dead_letter="age", destination_id="d"),
    ):
        journal.closed(replace(ended, outcome=decided))
        await journal.synced()
    left = {table: rows(tmp_path, f"SELECT count(*) FROM {table}") for table in OF_FUNCTION}
    assert left == {table: [(0,)] for table in OF_FUNCTION}
    assert rows(tmp_path, "SELECT count(*) FROM invocation") == [(0,)]


# Policies ------------------------------------------------------------------------------------


async def test_policies_are_stored_and_go_with_their_function(
    policies: SqlPolicies, function: Function, store: SqlStore
) -> None:
    policy = AsyncPolicy(
        max_attempts=3,
        backoff=Backoff(first=2.5),
        retry_on=(Status.FAILED,),
        max_concurrency=4,
        on_success=Destination(function="next"),
        on_failure=NEVER,
    )
    record = RecordPolicy(keep_input="all")
    await policies.save_async(function.id, policy)
    await policies.save_record(function.id, record)
    ((key, kept, kept_record),) = await policies.load()
    assert (key, kept_record) == (function.id, record)
    assert kept is not None
    assert replace(kept, retry_on=tuple(kept.retry_on)) == policy
    await policies.save_async(function.id, None)
    assert await policies.load() == [(function.id, None, record)]
    await store.delete(function.id)
    assert await policies.load() == []
    with pytest.raises(NotFound):
        await policies.save_record(function.id, record)


# Costs of queries ----------------------------------------------------------------------------


@OF_SQLITE
async def test_hot_statements_use_indexes_of_the_queue(store: SqlStore) -> None:
    values = {"function_id": "f", "now": 1, "most": 9, "bytes": 1, "ids": "[]", "is_begun": False}
    values |= {"alone": True}
    values |= {"node": "n", "epoch": 1, "machine": "", "tenant_id": "t", "after": "", "kept": 5}
    for name, index in (
        ("claim_work", "INDEX work_due (function_id=? AND due_at_ms<?)"),
        ("too_old", "INDEX work_due (function_id=? AND due_at_ms<?)"),
        ("next_due", "COVERING INDEX work_due (function_id=?)"),
        ("first_waiting", "COVERING INDEX work_due (function_id=?)"),
        ("number_claimed", "COVERING INDEX work_claimed (function_id=? AND epoch>?)"),
        ("claimed_before", "INDEX work_claimed"),
        ("next_inputs", "COVERING INDEX input_of_tenant (tenant_id=? AND invocation_id>?)"),
        ("drop_old_dead_letters", "COVERING INDEX dead_letter_listing (function_id=?)"),
    ):
        given = ("f",) if "?" in statements("sqlite")[name] else values
        plan_text = " · ".join(await explained(store, statements("sqlite")[name], given))
        assert index in plan_text, name
        assert not WHOLE_TABLE.search(plan_text), plan_text
    for statement, indices in (
        *((batch, ()) for batch in sweep.batches("f", 10)),
        (
            counting(["f", "g"], 1),
            (
                "COVERING INDEX work_due (function_id=? AND due_at_ms>?)",
                "COVERING INDEX work_due (function_id=?)",
                "COVERING INDEX work_claimed (function_id=? AND epoch>?)",
                "COVERING INDEX dead_letter_listing (function_id=?)",
            ),
        ),
    ):
        whole = statement.compile(dialect=dialect(), compile_kwargs={"literal_binds": True})
        plan_text = " · ".join(await explained(store, str(whole)))
        assert all(index in plan_text for index in indices), plan_text
        assert "SEARCH" in plan_text
        assert not WHOLE_TABLE.search(plan_text), plan_text


async def test_a_closed_store_has_its_queue(open_store: StoreOpener, tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        function = await a_stored_function(store)
        waiting = await an_accepted(SqlWork(store.database), function)
        later = await an_accepted(
            SqlWork(store.database), function, due_at_ms=NOW_MS + HOUR_MS, expires_at_ms=2 * NOW_MS
        )
    async with open_store(tmp_path) as store, opened_journal(store, tmp_path):
        queue = SqlWork(store.database)
        (found,) = await queue.load()
        assert (found.waiting, found.next_due_ms) == (2, NOW_MS)
        assert [one.invocation_id for one in await claimed(queue, function, 5)] == [waiting]
        (record,) = await claimed(queue, function, 5, NOW_MS + HOUR_MS)
        assert record.invocation_id == later
