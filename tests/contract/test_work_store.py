"""The queue of accepted work, on every store: what it promises in `ports/work.py`."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from contract.stores import a_stored_function, an_id, done, opened_journal
from quiltfn.model.errors import CapacityFull, NotFound
from quiltfn.model.function import Function
from quiltfn.model.invocation import Invocation, Source, Status, WorkOutcome
from quiltfn.ports import InvocationQuery
from quiltfn.ports.work import AcceptedWork, Input
from quiltfn.store import SpoolJournal, SqliteStore, SqlWork

NOW_S = 1_760_000_100
NOW_MS = NOW_S * 1000


def a_piece(function: Function, **changes: Any) -> AcceptedWork:
    """Work that is due."""
    record = Invocation(
        invocation_id=an_id(),
        tenant_id=function.tenant_id,
        function_id=function.id,
        function_name=function.name,
        execution_node_id="node-1",
        status=Status.QUEUED,
        source=Source.ASYNC,
        due_at=NOW_S,
    )
    given = Input(payload=b'{"n": 1}', environment={"COLOUR": "blue"}, caller="key-1")
    piece = AcceptedWork(
        record=record,
        input=given,
        due_at_ms=NOW_MS,
        expires_at_ms=NOW_MS + 3_600_000,
        max_queued=1000,
    )
    return replace(piece, **changes)


def begun(record: Invocation) -> Invocation:
    """The record of the hand-over of claimed work."""
    return replace(record, status=Status.RUNNING, started_at=NOW_S, version=1)


@pytest.fixture
async def queue(store: SqliteStore) -> SqlWork:
    return SqlWork(store.database)


@pytest.fixture
async def journal(store: SqliteStore, tmp_path: Path) -> AsyncIterator[SpoolJournal]:
    async with opened_journal(store, tmp_path) as opened:
        yield opened


async def test_accepted_work_is_claimed_once_with_what_its_caller_gave(
    queue: SqlWork, journal: SpoolJournal, function: Function
) -> None:
    piece = a_piece(function)
    await queue.accept(piece)
    assert await journal.get(function.id, piece.record.invocation_id) == piece.record
    (waiting,) = await queue.load()
    assert (waiting.function_id, waiting.waiting, waiting.next_due_ms) == (function.id, 1, NOW_MS)
    claim = await queue.claim(function.id, 10, NOW_MS, is_begun=False)
    (claimed,) = claim.work
    assert (claimed.record, claimed.input) == (piece.record, piece.input)
    assert claim.next_due_ms is None
    assert (await queue.claim(function.id, 10, NOW_MS, is_begun=False)).work == []
    assert await queue.load() == []


async def test_what_many_give_at_once_is_accepted_together(
    queue: SqlWork, function: Function, store: SqliteStore
) -> None:
    pieces = [a_piece(function) for _ in range(50)]
    before = await commits(store)
    await asyncio.gather(*(queue.accept(one) for one in pieces))
    assert await commits(store) - before < 10
    claim = await queue.claim(function.id, 100, NOW_MS, is_begun=False)
    assert {one.record.invocation_id for one in claim.work} == {
        one.record.invocation_id for one in pieces
    }


async def commits(store: SqliteStore) -> int:
    return await store.database.read(
        lambda c: int(c.exec_driver_sql("PRAGMA user_version").scalar_one())
    )


async def test_a_retry_waits_again_and_the_last_end_is_counted_once(
    queue: SqlWork, journal: SpoolJournal, function: Function, store: SqliteStore
) -> None:
    piece = a_piece(function)
    await queue.accept(piece)
    (first,) = (await queue.claim(function.id, 1, NOW_MS, is_begun=False)).work
    journal.opened(begun(first.record))
    again = done(begun(first.record), code=7)
    journal.closed(replace(again, outcome=WorkOutcome(retry_at_ms=NOW_MS + 5000)))
    shown = await journal.get(function.id, piece.record.invocation_id)
    assert shown is not None
    assert (shown.status, shown.attempt, shown.due_at) == (Status.QUEUED, 2, NOW_S + 5)
    await journal.synced()
    assert await journal.get(function.id, piece.record.invocation_id) == shown
    (listed,) = (await journal.query(InvocationQuery(function_id=function.id, limit=5))).items
    assert listed.status is Status.QUEUED
    assert (await queue.claim(function.id, 1, NOW_MS, is_begun=False)).next_due_ms == NOW_MS + 5000
    (second,) = (await queue.claim(function.id, 1, NOW_MS + 5000, is_begun=False)).work
    assert second.record.attempt == 2
    journal.opened(begun(second.record))
    journal.closed(
        replace(done(begun(second.record), code=8), outcome=WorkOutcome(dead_letter="attempts"))
    )
    await journal.synced()
    attempts = await queue.attempts(piece.record.invocation_id)
    assert [(one.attempt, one.status, one.exit_code) for one in attempts] == [
        (1, Status.FAILED, 7),
        (2, Status.FAILED, 8),
    ]
    (stored,) = await store.load()
    assert (stored.counters.invocation_count, stored.counters.error_count) == (1, 1)
    (dead,) = (await queue.dead_letters(function.id, 5, None)).items
    assert (dead.reason, dead.status, dead.attempts) == ("attempts", Status.FAILED, 2)
    counts = await queue.counts(function.id, NOW_MS)
    assert (counts.queued, counts.delayed, counts.running, counts.dead_letters) == (0, 0, 0, 1)


async def test_work_beyond_the_bound_or_of_a_deleted_function_is_refused(
    queue: SqlWork, function: Function, store: SqliteStore
) -> None:
    pieces = [a_piece(function, max_queued=2) for _ in range(4)]
    told = await asyncio.gather(*(queue.accept(one) for one in pieces), return_exceptions=True)
    assert [type(one) for one in told] == [type(None), type(None), CapacityFull, CapacityFull]
    other = await a_stored_function(store)
    await store.delete(other.id)
    with pytest.raises(NotFound):
        await queue.accept(a_piece(other))
    assert (await queue.counts(function.id, NOW_MS)).queued == 2
