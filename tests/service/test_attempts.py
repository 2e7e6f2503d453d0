"""Attempts of asynchronous invocations: their records, and that each end leads to a decision."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from quiltfn.functions.catalog import Entry
from quiltfn.model.errors import CapacityFull, FunctionNotActive, RuntimeUnavailable, ShuttingDown
from quiltfn.model.invocation import Invocation, Source, Status, WorkOutcome
from quiltfn.model.pool import PoolLimits
from service.faults import no_room
from service.platform_harness import Harness, until
from timeouts import scaled

AGAIN, DEAD = WorkOutcome(retry_at_ms=5_000_000), WorkOutcome(dead_letter="attempts")


class Decider:
    """Always makes the same decision, and records the ended attempts."""

    def __init__(self, outcome: WorkOutcome) -> None:
        self.outcome, self.ended = outcome, list[Invocation]()

    def __call__(self, record: Invocation) -> WorkOutcome:
        self.ended.append(record)
        return self.outcome

    def request(self, number: int = 1) -> dict[str, Any]:
        ids = {"invocation_id": f"{number:032x}", "attempt": 2, "due_at": 1_000}
        origins = {"parent_invocation_id": "1" * 32, "origin_invocation_id": "2" * 32}
        return ids | origins | {"source": Source.ASYNC, "conclude": self}


async def test_the_record_says_whose_attempt_it_is(server: Harness) -> None:
    entry, decide = await server.active(), Decider(WorkOutcome())
    record = await server.invoke(entry, **decide.request())
    assert (record.invocation_id, record.attempt, record.due_at) == (f"{1:032x}", 2, 1_000)
    assert (record.source, record.status) == (Source.ASYNC, Status.SUCCESS)
    assert record.parent_invocation_id == "1" * 32
    assert record.origin_invocation_id == "2" * 32
    assert record.outcome == WorkOutcome()
    assert [one.status for one in decide.ended] == [Status.SUCCESS]


async def test_a_call_is_counted_once_it_is_final(server: Harness) -> None:
    entry, decide = await server.active("exit 3"), Decider(AGAIN)
    closed: list[Invocation] = []
    server.invoker.on_closed.hearers += (closed.append,)
    record = await server.invoke(entry, **decide.request())
    assert (record.status, record.is_final) == (Status.FAILED, False)
    assert entry.counters.invocation_count == entry.counters.error_count == 0
    decide.outcome = DEAD
    record = await server.invoke(entry, **decide.request())
    assert record.is_final
    assert entry.counters.invocation_count == entry.counters.error_count == 1
    assert [one.is_final for one in closed] == [False, True]


@pytest.mark.parametrize(
    ("status", "started_at", "count"),
    [
        (Status.INTERRUPTED, 1_000, 1),
        (Status.INTERRUPTED, None, 1),  # a lost node may have started the attempt
        (Status.ERROR, None, 1),
        (Status.CANCELLED, 1_000, 1),
        (Status.CANCELLED, None, 0),
        (Status.RUNNING, 1_000, 0),
    ],
)
async def test_a_synchronous_invocation_has_the_attempt_that_it_may_have_had(
    server: Harness, status: Status, started_at: int | None, count: int
) -> None:
    entry = await server.active()
    record = await server.invoke(entry)
    record = replace(record, status=status, started_at=started_at, timeline=None)
    attempts = await server.services.work.attempts_at(record)
    assert [one.status for one in attempts] == [status] * count


async def test_an_instance_that_cannot_be_made_is_an_attempt(server: Harness) -> None:
    entry, decide = await server.active("sleep 60"), Decider(AGAIN)
    await server.running(entry)
    with no_room(server.sandboxes), pytest.raises(RuntimeUnavailable) as error:
        await server.invoke(entry, **decide.request())
    assert error.value.invocation_id == f"{1:032x}"
    assert [one.status for one in decide.ended] == [Status.ERROR]


async def test_what_is_refused_before_it_begins_is_no_attempt(server: Harness) -> None:
    entry, decide = await server.active("sleep 60", max_instances=1), Decider(AGAIN)
    server.pools.set_scaling(entry.function.id, PoolLimits(max_instances=1, queue_max=0))
    await server.running(entry)
    with pytest.raises(CapacityFull) as full:
        await server.invoke(entry, **decide.request())
    paused = await server.lifecycle.pause(entry)
    with pytest.raises(FunctionNotActive) as closed:
        await server.invoke(paused, **decide.request())
    await server.invoker.drain(0)
    with pytest.raises(ShuttingDown) as stopped:
        await server.invoke(entry, **decide.request())
    assert {one.value.invocation_id for one in (full, closed, stopped)} == {None}
    assert decide.ended == []


@pytest.mark.parametrize("is_waiting", [False, True])
async def test_a_cancelled_attempt_is_decided_on(server: Harness, is_waiting: bool) -> None:
    entry, decide = await server.active("sleep 60", max_instances=1), Decider(WorkOutcome())
    if is_waiting:
        await server.running(entry)
    running = await server.running(entry, **decide.request())
    record = await cancel(server, entry, f"{1:032x}")
    assert record is not None
    assert (record.status, record.outcome) == (Status.CANCELLED, WorkOutcome())
    assert await running == record
    assert [one.status for one in decide.ended] == [Status.CANCELLED]
    await until(lambda: server.invoker.running == (1 if is_waiting else 0))


async def cancel(server: Harness, entry: Entry, invocation_id: str) -> Invocation | None:
    async with asyncio.timeout(scaled(10)):
        return await server.invoker.cancel(entry.function.id, invocation_id)
