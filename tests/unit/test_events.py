"""Events: what a reader gets and misses, and that none are kept for a tenant without followers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from contract.stores import a_call, a_function, done
from manual_clock import ManualClock
from promises import promise
from quiltfn.calls import events as module
from quiltfn.calls.events import KEPT_BYTES, KEPT_EVENTS, KEPT_S, ONE_BY_ONE, Events
from quiltfn.model.counts import PoolCounts
from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.event import ALWAYS, WORDS, Event, EventType, change_of, types_of
from quiltfn.model.function import FunctionState
from quiltfn.model.invocation import Status, WorkOutcome
from quiltfn.ports.work import QueueCounts
from timeouts import scaled

FUNCTION = a_function(state=FunctionState.ACTIVE)
TENANT = FUNCTION.tenant_id


async def queue_counts(_function_id: str) -> QueueCounts:
    return QueueCounts(queued=3, delayed=2, running=1, dead_letters=4, oldest_due_ms=None)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1000.0)


@pytest.fixture
def events(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Events:
    monkeypatch.setattr(module, "EVERY_S", 0.02)
    return Events(clock, 7, lambda _: PoolCounts(busy=1), queue_counts)


async def some(reader: AsyncGenerator[Event, None], count: int) -> list[Event]:
    async with asyncio.timeout(scaled(5)):
        return [await anext(reader) for _ in range(count)]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(scaled(5)):
        while not true():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)


async def nothing_more(reader: AsyncGenerator[Event, None]) -> bool:
    """Whether the reader waits for events. The reader can't be used afterwards."""
    task = asyncio.ensure_future(anext(reader))
    await asyncio.wait({task}, timeout=0.05)
    task.cancel()
    await asyncio.wait({task})
    return task.cancelled()


def data(event: Event) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(event.data)
    return found


@promise("A45")
async def test_nothing_is_kept_and_no_timer_runs_while_nobody_follows(events: Events) -> None:
    call = a_call(FUNCTION)
    events.function_changed(None, FUNCTION)
    events.call_started(call)
    events.call_ended(done(call))
    events.pool_changed(TENANT, FUNCTION.id)
    events.queue_changed(TENANT, FUNCTION.id)
    events.schedule_fired(TENANT, "s", FUNCTION.id, "i")
    assert (events._rings, events._bursts, events._waiting) == ({}, {}, set())


async def test_a_reader_gets_what_happens_from_now_on_with_ids_that_grow(events: Events) -> None:
    reader = events.reader(TENANT)
    call = a_call(FUNCTION)
    events.function_changed(None, FUNCTION)
    events.call_started(call)
    events.call_ended(replace(done(call), duration_ms=5))
    found = await some(reader, 3)
    assert [one.id for one in found] == ["7-1", "7-2", "7-3"]
    assert [one.type for one in found] == [
        "function.created",
        "invocation.started",
        "invocation.ended",
    ]
    assert data(found[0]) == {"function_id": FUNCTION.id, "state": "active", "version": 1}
    assert data(found[2])["invocation_id"] == call.invocation_id
    assert (data(found[2])["status"], data(found[2])["duration_ms"]) == ("success", 5)
    assert all(b"hello" not in one.data for one in found)  # no event contains the handler's output
    assert await nothing_more(reader)


async def test_filters_leave_out_what_was_not_asked_for(events: Events) -> None:
    other = a_function()
    reader = events.reader(TENANT, FUNCTION.id, types_of(["invocation", "function.deleted"]))
    events.function_changed(None, FUNCTION)
    events.call_started(a_call(other))
    events.call_started(a_call(FUNCTION))
    events.function_changed(FUNCTION, None)
    found = await some(reader, 2)
    assert [one.type for one in found] == ["invocation.started", "function.deleted"]
    assert [one.id for one in found] == ["7-3", "7-4"]


async def test_whoever_is_back_soon_misses_nothing(events: Events, clock: ManualClock) -> None:
    reader = events.reader(TENANT)
    events.function_changed(None, FUNCTION)
    (first,) = await some(reader, 1)
    await reader.aclose()
    events.function_changed(FUNCTION, None)
    clock.time += KEPT_S - 1
    again = events.reader(TENANT, last_id=first.id)
    (event,) = await some(again, 1)
    assert (event.id, event.type) == ("7-2", "function.deleted")


@pytest.mark.parametrize("last_id", ["7-1", "6-1", "7-99", "7-", "x", "", "7-1 ", "7-" + "9" * 30])
async def test_who_comes_back_too_late_or_from_elsewhere_is_told_to_begin_anew(
    events: Events, clock: ManualClock, last_id: str
) -> None:
    events.reader(TENANT)
    for _ in range(3):
        events.function_changed(None, FUNCTION)
    clock.time += KEPT_S + 1
    reader = events.reader(TENANT, last_id=last_id)
    (reset,) = await some(reader, 1)
    assert (reset.type, reset.id) == ("reset", "7-3")
    events.function_changed(FUNCTION, None)
    (event,) = await some(reader, 1)
    assert event.id == "7-4"


@promise("A45")
async def test_a_slow_reader_is_told_how_many_it_missed_and_keeps_nothing(events: Events) -> None:
    reader, quick = events.reader(TENANT), events.reader(TENANT)
    for _ in range(KEPT_EVENTS + 10):
        events.function_changed(None, FUNCTION)
        await some(quick, 1)
    (ring,) = events._rings.values()
    assert len(ring.kept) == KEPT_EVENTS
    gap, event = await some(reader, 2)
    assert (gap.type, data(gap), gap.id) == ("gap", {"events": 10}, "7-10")
    assert event.id == "7-11"


async def test_a_ring_is_bounded_in_bytes(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_BYTES", 1000)
    events.reader(TENANT)
    for _ in range(100):
        events.function_changed(None, FUNCTION)
    (ring,) = events._rings.values()
    assert 0 < len(ring.kept) < 20
    assert ring.size == sum(len(one.data) for one in ring.kept) <= 1000
    assert KEPT_BYTES <= 1024 * 1024


async def test_where_calls_are_many_they_are_summed_up(events: Events) -> None:
    reader = events.reader(TENANT)
    calls = [a_call(FUNCTION) for _ in range(50)]
    for call in calls:
        events.call_started(replace(call, cold_start=True))
    for call in calls:
        events.call_ended(replace(done(call), duration_ms=4))
    found = await some(reader, ONE_BY_ONE + 1)
    assert {one.type for one in found[:-1]} == {EventType.INVOCATION_STARTED}
    assert found[-1].type == "calls"
    assert data(found[-1]) == {
        "function_id": FUNCTION.id,
        "started": 50 - ONE_BY_ONE,
        "cold_starts": 50 - ONE_BY_ONE,
        "ended": {"success": 50},
        "duration_ms": 200,
        "longest_ms": 4,
    }
    await until(lambda: events._bursts == {})
    events.call_started(calls[0])
    assert [one.type for one in await some(reader, 1)] == [EventType.INVOCATION_STARTED]


async def test_many_calls_stay_summed_up(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.2)
    reader = events.reader(TENANT)

    def many() -> None:
        for _ in range(2 * ONE_BY_ONE + 1):
            events.call_started(a_call(FUNCTION))

    many()
    found = await some(reader, ONE_BY_ONE + 1)
    assert (found[-1].type, data(found[-1])["started"]) == ("calls", ONE_BY_ONE + 1)
    many()
    (summed,) = await some(reader, 1)
    assert (summed.type, data(summed)["started"]) == ("calls", 2 * ONE_BY_ONE + 1)
    # If few calls follow, they are summed up once more; after that, each call has its own event.
    events.call_started(a_call(FUNCTION))
    (summed,) = await some(reader, 1)
    assert (summed.type, data(summed)["started"]) == ("calls", 1)
    events.call_started(a_call(FUNCTION))
    assert [one.type for one in await some(reader, 1)] == [EventType.INVOCATION_STARTED]


async def test_instances_are_told_with_the_sum_of_calls(events: Events) -> None:
    reader = events.reader(TENANT)
    events.call_started(a_call(FUNCTION))
    for _ in range(10):
        events.pool_changed(TENANT, FUNCTION.id)
    assert events._waiting == set(), "it has no timer of its own"
    started, pool = await some(reader, 2)
    assert (started.type, pool.type) == (EventType.INVOCATION_STARTED, EventType.POOL)
    assert await nothing_more(reader)


async def test_counts_are_told_later_once_and_only_where_they_changed(events: Events) -> None:
    reader = events.reader(TENANT)
    for _ in range(10):
        events.pool_changed(TENANT, FUNCTION.id)
        events.queue_changed(TENANT, FUNCTION.id)
    pool, queue = await some(reader, 2)
    assert (pool.type, data(pool)["busy"], data(pool)["ready"]) == ("pool", 1, 0)
    counted = {"queued": 3, "delayed": 2, "running": 1, "dead_letters": 4}
    assert (queue.type, data(queue)) == ("queue", {"function_id": FUNCTION.id, **counted})
    events.pool_changed(TENANT, FUNCTION.id)
    assert await nothing_more(reader)


async def test_queues_are_counted_one_at_a_time_and_each_once_however_much_changes(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the store does not respond, changes come without counts."""
    monkeypatch.setattr(module, "EVERY_S", 0.01)
    asked, go_on, is_away = list[str](), asyncio.Event(), [False]

    async def slow(function_id: str) -> QueueCounts:
        asked.append(function_id)
        await go_on.wait()
        if is_away[0]:
            raise StoreUnavailable("it is gone")
        return await queue_counts(function_id)

    events = Events(clock, 7, lambda _: PoolCounts(), slow)
    reader = events.reader(TENANT)
    for _ in range(5):
        for changed in ("f1", "f2"):
            events.queue_changed(TENANT, changed)
        await asyncio.sleep(0.03)
    assert len(asked) == 1
    assert len(events._tasks) <= 3
    go_on.set()
    ids = [data(one)["function_id"] for one in await some(reader, 3)]
    assert sorted(ids) in (["f1", "f1", "f2"], ["f1", "f2", "f2"])
    is_away[0] = True
    events.queue_changed(TENANT, FUNCTION.id)
    (queue,) = await some(reader, 1)
    assert data(queue) == {"function_id": FUNCTION.id}
    await events.aclose()


@promise("A45")
async def test_a_ring_stays_while_a_reader_is_slow(
    events: Events, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_S", 0.02)
    reader = events.reader(TENANT)
    events.function_changed(None, FUNCTION)
    await some(reader, 1)
    clock.time += 1000  # the client takes nothing during this time
    await asyncio.sleep(0.1)
    events.function_changed(None, FUNCTION)
    (event,) = await some(reader, 1)
    assert event.id == "7-2"
    await reader.aclose()


async def test_stale_counts_are_forgotten(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COUNTS_KEPT", 3)
    events.reader(TENANT)
    for number in range(10):
        events.pool_changed(TENANT, f"f{number}")
    await until(lambda: len(events._rings[TENANT].counts) == 3)


async def test_rings_go_after_a_minute(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_S", 0.05)
    events = Events(clock, 7, lambda _: PoolCounts(), queue_counts)
    events.reader(TENANT)
    events.function_changed(None, FUNCTION)
    await asyncio.sleep(0.12)
    assert TENANT in events._rings  # the test's clock has not moved yet
    clock.time += 1
    await until(lambda: events._rings == {})
    # Numbers of the previous events are not used again.
    reader = events.reader(TENANT, last_id="7-1")
    events.function_changed(None, FUNCTION)
    assert [one.id for one in await some(reader, 1)] == ["7-2"]


@promise("A44")
def test_each_change_of_a_function_has_a_name() -> None:
    active = FUNCTION
    newer = replace(active, current_version=2)
    for before, after, name in (
        (None, active, "created"),
        (active, None, "deleted"),
        (active, newer, "updated"),
        (newer, active, "rolled_back"),
        (active, replace(active, state=FunctionState.PAUSED), "paused"),
        (replace(active, state=FunctionState.DEPLOYING), active, "deployed"),
        (active, replace(active, max_instances=9), "updated"),
        (active, replace(active, error_message="version 2 cannot serve"), "error"),
        (
            replace(active, state=FunctionState.DEPLOYING),
            replace(active, state=FunctionState.ERROR, error_message="no"),
            "error",
        ),
    ):
        assert change_of(before, after) == f"function.{name}"


async def test_an_attempt_that_another_follows_is_not_the_end(events: Events) -> None:
    reader = events.reader(TENANT)
    ended = replace(done(a_call(FUNCTION)), status=Status.FAILED)
    events.call_ended(replace(ended, outcome=WorkOutcome(retry_at_ms=1)))
    events.call_ended(ended)
    first, last = await some(reader, 2)
    assert (data(first)["is_final"], data(last)["is_final"]) == (False, True)


def test_the_words_to_ask_by_are_every_type_but_those_that_always_come() -> None:
    assert types_of(WORDS) == frozenset(EventType) - ALWAYS
