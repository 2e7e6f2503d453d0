"""The asyncio part of a pool: leases that end or are handed over at difficult moments."""

import asyncio
from pathlib import Path

import pytest

from promises import promise
from quiltfn.model.actions import Closed
from quiltfn.model.end_cause import Cancelled
from quiltfn.model.errors import ShuttingDown
from quiltfn.model.invocation import CallResult, ExitKind, Status
from quiltfn.pool import function_pool
from quiltfn.ports import Call, Destination, EgressRefusals
from service.platform_harness import Harness, open_harness, until
from timeouts import scaled

CALL = Call(payload=None, environment={}, replaces_environment=False, timeout_s=5)


class Caller:
    """Holds a leased instance until it is told to return it."""

    def __init__(self, server: Harness, function_id: str) -> None:
        self._lease = server.pools.lease(function_id)
        self.has_it, self._enough = asyncio.Event(), asyncio.Event()
        self.cold: bool | None = None
        self.task = asyncio.ensure_future(self._hold())
        server.tasks.append(self.task)

    async def _hold(self) -> CallResult:
        async with self._lease as lease:
            self.cold = lease.cold_start
            self.has_it.set()
            await self._enough.wait()
            return await lease.call(CALL)

    async def ends(self) -> CallResult:
        self._enough.set()
        return await self.task


async def callers(server: Harness, entry, count: int) -> list[Caller]:
    made = [Caller(server, entry.function.id) for _ in range(count)]
    await asyncio.sleep(0)
    return made


@promise("P2")
async def test_a_call_cancelled_at_its_hand_over_passes_its_instance_on(server: Harness) -> None:
    # Ben's invocation ends, and the pool gives his instance to Ann. In the same turn of the event
    # loop, before her task has resumed, her connection breaks and she is cancelled. Cem, who is
    # next, must get the instance.
    entry = await server.active(max_instances=1)
    ben, ann, cem = await callers(server, entry, 3)
    await ben.ends()
    pool = server.pools._pools[entry.function.id]
    # Ann has the instance, but her task has not resumed since
    await until(lambda: pool.model.held_by(2))
    assert not ann.has_it.is_set()
    ann.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ann.task
    await cem.ends()
    assert cem.cold is False
    assert len(server.sandboxes.created) == 1


async def test_a_hand_over_to_a_call_just_cancelled_passes_on(server: Harness) -> None:
    # The reverse order: Ann is cancelled first, and gets Ben's instance before her task has
    # resumed. Giving it to her must neither fail Ben's release nor lose the instance.
    entry = await server.active(max_instances=1)
    ben, ann, cem = await callers(server, entry, 3)
    pool = server.pools._pools[entry.function.id]
    ann.task.cancel()
    pool.release(1, 1, healthy=True)  # in the same turn of the event loop
    pool._cleaned(1)
    with pytest.raises(asyncio.CancelledError):
        await ann.task
    await cem.has_it.wait()
    pool.model.check()
    await cem.ends()
    ben.task.cancel()


async def test_an_instance_that_died_at_a_cancellation_is_not_ready(server: Harness) -> None:
    entry = await server.active(max_instances=1)
    (ann,) = await callers(server, entry, 1)
    await ann.has_it.wait()
    (sandbox,) = server.sandboxes.alive.values()
    sandbox.end_by_itself()
    ann.task.cancel()
    record = await server.invoke(entry)
    assert (record.status, record.cold_start) == (Status.SUCCESS, True)


@pytest.mark.parametrize("seed", range(5))
async def test_cancelling_at_every_moment_loses_no_instance(server: Harness, seed: int) -> None:
    entry = await server.active("sleep 0.001", max_instances=2)
    calls = []
    for n in range(40):
        calls.append(await server.running(entry))
        if n % 3 == seed % 3:
            calls[-1 - seed % len(calls)].cancel()
        for _ in range((n * 7 + seed) % 5):
            await asyncio.sleep(0)
    ends = await asyncio.gather(*calls, return_exceptions=True)
    for end in ends:
        assert isinstance(end, asyncio.CancelledError) or end.status is Status.SUCCESS, end  # type: ignore[union-attr]
    assert server.sandboxes.most_alive <= 2
    assert (await server.invoke(entry)).status is Status.SUCCESS
    await until(lambda: set(server.counts(entry)) <= {"ready"})


async def test_a_call_beside_a_recycling_instance_starts_another_one(tmp_path: Path) -> None:
    async with open_harness(tmp_path, recycle_s=0.2) as server:
        entry = await server.active()
        await server.invoke(entry)
        waiting = await server.running(entry)
        assert server.counts(entry) == {"recycling": 1}
        # the timer that was set for this time must fire without another event
        server.clock.time += 0.005
        record = await waiting
        assert record.cold_start is True


async def test_an_alarm_that_rings_a_hair_too_early_is_set_again(tmp_path: Path) -> None:
    # uvloop counts whole milliseconds, so a timer for 5 ms may fire after 4.6 ms.
    async with open_harness(tmp_path, recycle_s=5.0) as server:
        entry = await server.active()
        await server.invoke(entry)
        waiting = await server.running(entry)
        server.clock.time += 0.0046
        await asyncio.sleep(0.02)
        assert server.counts(entry) == {"recycling": 1}
        server.clock.time += 0.0004
        record = await asyncio.wait_for(waiting, scaled(0.5))
        assert record.cold_start is True


async def test_refused_flows_are_summed_over_all_instances(server: Harness) -> None:
    entry = await server.active(min_instances=2)
    pool = server.pools._pools[entry.function.id]
    await until(lambda: len(pool.sandboxes) == 2)
    first, second = list(pool.sandboxes.values())
    function_id = entry.function.id
    assert await server.pools.egress(function_id) == EgressRefusals()
    places = [Destination("192.0.2.1", port, "tcp") for port in range(3)]
    first.blocked, second.blocked = 3, 4  # type: ignore[attr-defined]
    first.refused, second.refused = tuple(places[:2]), tuple(places[1:])  # type: ignore[attr-defined]
    assert await server.pools.egress(function_id) == EgressRefusals(7, tuple(places))
    first.end_by_itself()  # type: ignore[attr-defined]
    await until(lambda: first not in pool.sandboxes.values())
    assert await server.pools.egress(function_id) == EgressRefusals(7, tuple(places))
    assert await server.pools.egress("no such function") == EgressRefusals()
    many = tuple(Destination("192.0.2.2", port, "udp") for port in range(500))
    second.refused = many  # type: ignore[attr-defined]
    kept = (await server.pools.egress(function_id)).destinations
    assert len(kept) == function_pool.DESTINATIONS_MAX
    assert list(kept[:2]) == places[:2]


async def test_closing_ends_a_call_handed_its_instance_in_that_tick(server: Harness) -> None:
    entry = await server.active("sleep 60", max_instances=1)
    (ben,) = await callers(server, entry, 1)
    ann = await server.running(entry)
    pool = server.pools._pools[entry.function.id]
    pool.release(1, 1, healthy=True)
    pool._cleaned(1)
    assert pool.model.held_by(2) == 1  # Ann has the instance, but her task has not resumed since
    async with asyncio.timeout(scaled(2)):
        await server.pools.aclose()
    with pytest.raises(ShuttingDown):
        await ann
    ben.task.cancel()


async def test_ends_given_from_outside_reach_every_running_call(server: Harness) -> None:
    entry = await server.active("sleep 60")
    calls = [await server.running(entry) for _ in range(3)]
    server.pools.close(entry.function.id, Closed.DELETED)
    await server.pools.end_running(entry.function.id, ExitKind.CANCELLED, "function_deleted")
    assert {(await call).end_cause for call in calls} == {Cancelled("function_deleted")}
    assert server.counts(entry) == {}
