"""An invocation is cancelled by its id. At any stage, its record becomes final once, and its
instance is freed.
"""

import asyncio

import pytest

from promises import promise
from quiltfn.functions.catalog import Entry
from quiltfn.model.errors import RuntimeUnavailable
from quiltfn.model.invocation import CallResult, ExitKind, Invocation, Status
from service.platform_harness import Harness, until
from timeouts import scaled

pytestmark = promise("P17")


def ids(server: Harness) -> list[str]:
    """The ids of the invocations that have not ended, oldest first."""
    return list(server.invoker._calls)


async def running_call(server: Harness) -> tuple[Entry, "asyncio.Future[Invocation]", str]:
    """A function with one instance, its only running invocation, and that invocation's id."""
    entry = await server.active("sleep 60", max_instances=1)
    running = await server.running(entry)
    (invocation_id,) = ids(server)
    return entry, running, invocation_id


async def cancel(server: Harness, entry: Entry, invocation_id: str) -> Invocation | None:
    async with asyncio.timeout(scaled(10)):
        return await server.invoker.cancel(entry.function.id, invocation_id)


async def cancelled(server: Harness, entry: Entry, invocation_id: str) -> Invocation:
    """The record of an invocation that is cancelled, or ended just before."""
    record = await cancel(server, entry, invocation_id)
    assert record is not None
    return record


async def test_a_running_call_ends_cancelled_without_its_instance(server: Harness) -> None:
    entry, running, invocation_id = await running_call(server)
    record = await cancelled(server, entry, invocation_id)
    assert (record.status, record.error_message) == (Status.CANCELLED, "the call was cancelled")
    assert (await running, await server.records(entry)) == (record, [record])
    assert server.invoker.running == 0
    await until(lambda: not server.counts(entry))
    assert server.sandboxes.destroyed == server.sandboxes.created


@promise("W6")
async def test_who_cancels_is_answered_once_nothing_of_the_call_runs_any_more(
    server: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, running, invocation_id = await running_call(server)
    server.sandboxes.may_end.clear()
    cancelling = asyncio.ensure_future(cancel(server, entry, invocation_id))
    assert (await running).status is Status.CANCELLED
    # A repeated request must also wait for the end of the processes, even if the record is final.
    repeated = [asyncio.ensure_future(cancel(server, entry, invocation_id))]
    await asyncio.sleep(0.02)
    repeated.append(asyncio.ensure_future(cancel(server, entry, invocation_id)))
    await asyncio.sleep(0.02)
    assert not any(one.done() for one in (cancelling, *repeated))
    server.sandboxes.may_end.set()
    assert [await one for one in (cancelling, *repeated)] == [await running] * 3
    # If the processes do not end, the response must not confirm the cancellation.
    monkeypatch.setattr("quiltfn.calls.invoke.KILLED_WITHIN_S", 0.02)
    running = await server.running(entry)
    (invocation_id,) = ids(server)
    server.sandboxes.may_end.clear()
    for _ in range(2):  # nor does the response to a repeated request
        with pytest.raises(RuntimeUnavailable, match="its handler may still run") as refused:
            await cancel(server, entry, invocation_id)
        assert (refused.value.invocation_id, refused.value.executed) == (invocation_id, True)
        assert (await running).status is Status.CANCELLED
    server.sandboxes.may_end.set()
    assert await cancel(server, entry, invocation_id) == await running
    assert not server.invoker._ending
    assert await cancel(server, entry, invocation_id) is None


@promise("W6")
async def test_whoever_cancels_may_leave_and_the_end_stays_known(server: Harness) -> None:
    entry, running, invocation_id = await running_call(server)
    server.sandboxes.may_end.clear()
    cancelling = asyncio.ensure_future(cancel(server, entry, invocation_id))
    await running
    cancelling.cancel()
    again = asyncio.ensure_future(cancel(server, entry, invocation_id))
    await asyncio.sleep(0.02)
    assert not again.done()
    again.cancel()
    server.sandboxes.may_end.set()
    await until(lambda: not server.invoker._ending)


async def test_a_call_cancelled_in_the_tick_it_ends_keeps_its_own_end(server: Harness) -> None:
    # The handler has ended and its result was read, but the invocation's task has not resumed
    # since. A cancellation comes too late now, and must not end the healthy instance.
    entry, running, invocation_id = await running_call(server)
    (sandbox,) = server.sandboxes.alive.values()
    assert sandbox._finish(CallResult(kind=ExitKind.EXITED, stdout=b"done"))
    record = await cancelled(server, entry, invocation_id)
    assert (record.status, record.stdout) == (Status.SUCCESS, b"done")
    assert (await running, await server.records(entry)) == (record, [record])
    sandbox._cleaned()
    assert server.counts(entry) == {"ready": 1}


async def test_a_call_cancelled_first_is_so_though_it_ends_in_that_tick(server: Harness) -> None:
    entry, running, invocation_id = await running_call(server)
    (sandbox,) = server.sandboxes.alive.values()
    cancelling = asyncio.ensure_future(cancel(server, entry, invocation_id))
    await asyncio.sleep(0)
    sandbox._finish(CallResult(kind=ExitKind.EXITED, stdout=b"done"))
    record = await cancelling
    assert record is not None
    assert (await running).status is record.status is Status.CANCELLED
    await until(lambda: not server.counts(entry))


async def test_a_call_cancelled_at_its_hand_over_passes_its_instance_on(server: Harness) -> None:
    # Ben's invocation ends, and the pool gives his instance to Ann. In the same turn of the event
    # loop, before her task has resumed, she is cancelled. Her handler must not run, and Cem, who is
    # next, gets the instance.
    entry = await server.active("sleep 60", max_instances=1)
    calls = [await server.running(entry) for _ in range(3)]
    _, ann, _ = ids(server)
    (sandbox,) = server.sandboxes.alive.values()
    sandbox._finish(CallResult(kind=ExitKind.EXITED))
    await calls[0]
    sandbox._cleaned()
    pool = server.pools._pools[entry.function.id]
    assert pool.model.held_by(2) is not None
    assert not calls[1].done()
    record = await cancelled(server, entry, ann)
    assert (record.status, record.started_at) == (Status.CANCELLED, None)
    assert await calls[1] == record
    await until(lambda: pool.model.held_by(3) is not None)
    (sandbox,) = server.sandboxes.alive.values()
    await until(lambda: sandbox._end)
    assert sandbox._finish(CallResult(kind=ExitKind.EXITED))
    assert (await calls[2]).cold_start is False
    assert len(server.sandboxes.created) == 1
    assert {one.status for one in await server.records(entry)} == {
        Status.SUCCESS,
        Status.CANCELLED,
    }


async def test_a_call_in_line_leaves_it_and_the_next_is_served(server: Harness) -> None:
    entry = await server.active("sleep 60", max_instances=1)
    calls = [await server.running(entry) for _ in range(3)]
    _, ann, _ = ids(server)
    assert server.pools.waiting() == 2
    record = await cancelled(server, entry, ann)
    assert (record.status, record.started_at) == (Status.CANCELLED, None)
    assert record.timeline is not None
    assert await calls[1] == record
    assert server.pools.waiting() == 1
    (sandbox,) = server.sandboxes.alive.values()
    sandbox._finish(CallResult(kind=ExitKind.EXITED))
    sandbox._cleaned()
    await calls[0]
    await until(lambda: server.pools.waiting() == 0)


async def test_a_call_waiting_for_its_instance_leaves_it_to_the_next(server: Harness) -> None:
    entry = await server.active("echo hello", max_instances=1, min_instances=0)
    server.pass_time(1000)
    await until(lambda: not server.sandboxes.alive)
    server.sandboxes.may_start.clear()
    call = await server.running(entry)
    (invocation_id,) = ids(server)
    record = await cancelled(server, entry, invocation_id)
    assert record.status is Status.CANCELLED
    assert await call == record
    server.sandboxes.may_start.set()
    assert (await server.invoke(entry)).status is Status.SUCCESS
    assert len(server.sandboxes.alive) == 1


async def test_a_caller_gone_at_the_cancellation_loses_no_instance(server: Harness) -> None:
    entry = await server.active("sleep 60", max_instances=1)
    calls = [await server.running(entry) for _ in range(2)]
    for call, invocation_id in zip(calls[::-1], ids(server)[::-1], strict=True):
        cancelling = asyncio.ensure_future(cancel(server, entry, invocation_id))
        await asyncio.sleep(0)
        call.cancel()
        assert (await cancelling) is None
        with pytest.raises(asyncio.CancelledError):
            await call
    await until(lambda: not server.counts(entry))
    assert server.invoker.running == server.pools.waiting() == 0


@pytest.mark.parametrize("seed", range(6))
async def test_cancelling_at_any_moment_gives_one_end(server: Harness, seed: int) -> None:
    entry = await server.active("sleep 0.001", max_instances=2)
    calls, cancelling = [], []
    for n in range(40):
        calls.append(await server.running(entry))
        under_way = ids(server)
        if n % 3 == seed % 3 and under_way:
            which = under_way[(n * 5 + seed) % len(under_way)]
            cancelling.append(asyncio.ensure_future(cancel(server, entry, which)))
        for _ in range((n * 7 + seed) % 5):
            await asyncio.sleep(0)
    ends = {record.invocation_id: record for record in await asyncio.gather(*calls)}
    assert {one.status for one in ends.values()} <= {Status.SUCCESS, Status.CANCELLED}
    for cancelled in await asyncio.gather(*cancelling):
        assert cancelled is None or cancelled == ends[cancelled.invocation_id]
    records = await server.records(entry)
    assert {one.invocation_id: one for one in records} == ends
    assert len(records) == len(calls) == entry.counters.invocation_count
    assert server.sandboxes.most_alive <= 2
    await until(lambda: set(server.counts(entry)) <= {"ready"})


async def test_a_canceller_who_is_gone_takes_nothing_from_another(server: Harness) -> None:
    entry, _, invocation_id = await running_call(server)
    gone, stays = (asyncio.ensure_future(cancel(server, entry, invocation_id)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    record = await stays
    assert record is not None
    assert record.status is Status.CANCELLED


async def test_what_does_not_run_cannot_be_cancelled(server: Harness) -> None:
    entry, other = await server.active("sleep 60"), await server.active(name="g")
    ended = await server.invoke(other)
    await server.running(entry)
    (invocation_id,) = ids(server)
    for function, which in (
        (other, invocation_id),
        (other, ended.invocation_id),
        (entry, "0" * 32),
    ):
        assert await cancel(server, function, which) is None
    assert ids(server) == [invocation_id]


async def test_a_drain_ends_with_the_last_call_that_is_cancelled(server: Harness) -> None:
    entry, _, invocation_id = await running_call(server)
    draining = asyncio.ensure_future(server.invoker.drain(60))
    await asyncio.sleep(0)
    await cancel(server, entry, invocation_id)
    async with asyncio.timeout(scaled(5)):
        await draining
