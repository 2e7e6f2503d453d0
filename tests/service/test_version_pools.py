"""Invocations of a version that is not current, which share the limits of the function's
instances.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from promises import promise
from quiltfn.functions.catalog import Entry
from quiltfn.model.counts import PoolCounts
from quiltfn.model.errors import CapacityFull, FunctionNotActive, NotFound
from quiltfn.model.invocation import ExitKind, Status
from quiltfn.model.places import WAITING_MAX
from quiltfn.model.pool_load import NO_VERSION
from quiltfn.model.version import Version
from quiltfn.sandbox.fake import FakeSandbox
from service.platform_harness import Harness, open_harness, until
from service.python_calls import fewest_python_calls

pytestmark = promise("W14", "W20")

OWN = "/src/quiltfn/"
DELETED = (ExitKind.CANCELLED, "the function was deleted")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Harness]:
    async with open_harness(tmp_path, settings={"tenant_instances": 3}) as server:
        yield server


async def updated(server: Harness, first: str = "echo one") -> tuple[Entry, Version]:
    """A function whose current version is the second, and its first version."""
    entry = await server.active(first)
    version = entry.version
    entry = await server.lifecycle.update(entry, {"handler": "echo two"})
    server.pass_time(61.0)  # longer than instances are kept for a rollback
    await until(lambda: server.counts(entry) == {"ready": 1})
    return entry, version


def states(server: Harness, version: int) -> list[str]:
    """The states of the version's instances."""
    return [one.state for one in server.pools.instances() if one.version == version]


async def cancel_one(server: Harness, entry: Entry) -> None:
    """Cancels the oldest running invocation of the function."""
    function_id = entry.function.id
    running = server.invoker.running_calls(function_id)[0]
    await server.invoker.cancel(function_id, running.record.invocation_id)


async def test_a_call_runs_on_the_version_that_it_names(server: Harness) -> None:
    entry, first = await updated(server)
    record = await server.invoke(entry, version=first)
    assert (record.stdout, record.version) == (b"one\n", 1)
    assert record.cold_start is True
    assert (await server.invoke(entry, version=first)).cold_start is False
    record = await server.invoke(entry)
    assert (record.stdout, record.version, record.cold_start) == (b"two\n", 2, False)
    assert (await server.invoke(entry, version=entry.version)).cold_start is False


async def test_its_instance_is_the_functions_and_leaves_by_idle_rule(server: Harness) -> None:
    entry, first = await updated(server)
    await server.invoke(entry, version=first)
    await until(lambda: server.counts(entry) == {"ready": 2})
    (load,) = server.pools.loads()
    assert replace(load.counts, memory_mib=0.0) == PoolCounts(ready=2)
    server.pass_time(200.0)
    await server.invoke(entry, version=first)
    await until(lambda: states(server, 1) == ["ready"])
    server.pass_time(299.0)
    assert states(server, 1) == ["ready"]
    server.pass_time(2.0)
    await until(lambda: states(server, 1) == [])
    await server.invoke(entry)
    server.pass_time(1.0)
    assert not server.pools._pools[entry.function.id].beside
    assert server.pools.occupied() == [entry.function.id]


async def test_it_counts_against_the_tenants_quota(server: Harness) -> None:
    entry, first = await updated(server, "sleep 60")
    other = await server.active("sleep 60", name="g")
    await server.running(other)
    waiting = await server.running(entry, version=first)
    await until(lambda: server.counts(entry) == {"ready": 1, "busy": 1})
    third = await server.running(other)
    # The idle instance was evicted for it; the busy one was left alone.
    await until(lambda: server.counts(entry) == {"busy": 1})
    assert not waiting.done()
    assert not third.done()


async def test_several_versions_share_the_maximum(server: Harness) -> None:
    entry, first = await updated(server, "sleep 0.01")
    entry = await server.lifecycle.set_scaling(entry, 0, 2)
    most = 0

    def seen(_tenant: str, _function: str) -> None:
        nonlocal most
        most = max(most, server.pools.there(entry.function.id))

    server.pools.on_change.hearers += (seen,)
    calls = [server.invoke(entry, version=version) for version in (first, None) * 10]
    records = await asyncio.gather(*calls)
    assert {one.status for one in records} == {Status.SUCCESS}
    assert [one.version for one in records] == [1, 2] * 10
    assert most == 2


async def test_so_many_versions_wait_that_to_serve_them_holds_up_nobody(server: Harness) -> None:
    entry = await server.active("sleep 60", max_instances=1)
    first, own = entry.version, server.pools._pools[entry.function.id]
    await server.running(entry)
    versions = [
        replace(first, id=f"v{number}", number=number, digest=f"d{number}")
        for number in range(2, WAITING_MAX + 3)
    ]
    waiting = [await server.running(entry, version=one) for one in versions[:-1]]
    with pytest.raises(CapacityFull) as refused:
        await server.invoke(entry, version=versions[-1])
    assert refused.value.retry_after == 1
    again = await server.running(entry, version=versions[0])
    assert not any(one.done() for one in (*waiting, again))
    await cancel_one(server, entry)  # the next waiting invocation gets the instance
    await until(lambda: states(server, 2) == ["busy"])
    await until(lambda: len(own.model.places.waiting) < WAITING_MAX)
    await server.running(entry, version=versions[-1])


async def test_a_waiting_call_of_a_replaced_version_still_runs_on_it(server: Harness) -> None:
    entry = await server.active("sleep 60", max_instances=2)
    first = entry.version
    running = [await server.running(entry, version=first) for _ in range(2)]
    named = await server.running(entry, version=first)
    update = asyncio.ensure_future(server.lifecycle.update(entry, {"handler": "echo two"}))
    await until(lambda: server.pools._pools[entry.function.id].model.prepared)
    await cancel_one(server, entry)
    await update
    await until(lambda: states(server, 1) == ["busy"] * 2)
    assert not named.done()
    await cancel_one(server, entry)
    await cancel_one(server, entry)
    for call in (*running, named):
        ended = await call
        assert (ended.status, ended.version) == (Status.CANCELLED, 1)
    assert (await server.invoke(entry)).version == 2


async def test_a_lowered_maximum_ends_idle_instances_of_others_first(server: Harness) -> None:
    entry, first = await updated(server)
    await server.invoke(entry, version=first)
    await until(lambda: server.counts(entry) == {"ready": 2})
    await server.lifecycle.set_scaling(entry, 0, 1)
    await until(lambda: server.counts(entry) == {"ready": 1})
    assert (await server.invoke(entry)).cold_start is False


async def test_a_rollback_to_a_version_in_use_needs_no_more_room(server: Harness) -> None:
    entry, first = await updated(server)
    await server.lifecycle.set_scaling(entry, 0, 1)
    await server.invoke(entry, version=first)
    entry = await server.lifecycle.rollback(entry, 1)
    assert entry.function.current_version == 1
    assert (await server.invoke(entry)).version == 1
    assert server.pools.there(entry.function.id) == 1


async def test_pause_refuses_it_and_resume_serves_it_again(server: Harness) -> None:
    entry, first = await updated(server)
    await server.invoke(entry, version=first)
    await server.lifecycle.pause(entry)
    with pytest.raises(FunctionNotActive):
        await server.invoke(entry, version=first)
    await until(lambda: server.counts(entry) == {})
    await server.lifecycle.resume(entry)
    assert (await server.invoke(entry, version=first)).stdout == b"one\n"


async def test_delete_ends_it_with_the_function(server: Harness) -> None:
    entry, first = await updated(server, "sleep 60")
    running = await server.running(entry, version=first)
    await until(lambda: server.counts(entry) == {"ready": 1, "busy": 1})
    await server.lifecycle.delete(entry)
    server.clock.time += 6.0
    with pytest.raises(NotFound):
        await server.invoke(entry, version=first)
    await server.pools.end_running(entry.function.id, *DELETED)
    assert (await running).status is Status.CANCELLED
    await until(lambda: entry.function.id not in server.pools._pools)
    assert server.counts(entry) == {}


async def test_a_pool_that_serves_nothing_is_listed_with_instances(server: Harness) -> None:
    entry = await server.active("sleep 60")
    await server.running(entry)
    await server.lifecycle.pause(entry)
    [load] = server.pools.loads()
    assert (load.version, load.slots, replace(load.counts, memory_mib=0.0)) == (
        NO_VERSION,
        0,
        PoolCounts(busy=1),
    )


async def test_calls_of_a_version_go_on_with_its_instances_after_an_update(server: Harness) -> None:
    entry = await server.active("sleep 0.01", max_instances=3, min_instances=2)
    first = entry.version
    await asyncio.gather(*(server.invoke(entry, version=first) for _ in range(2)))
    entry = await server.lifecycle.update(entry, {"handler": "echo two"})
    made = len({one.number for one in server.pools.instances()})
    records = await asyncio.gather(*(server.invoke(entry, version=first) for _ in range(1)))
    assert [(one.version, one.cold_start) for one in records] == [(1, False)]
    assert len(server.pools.instances()) == made
    assert (await server.invoke(entry)).cold_start is False
    await until(lambda: set(server.counts(entry)) == {"ready"})
    for pool in server.pools._of(entry.function.id):
        pool.model.check()
        assert pool.sandboxes.keys() == pool.model.instances.keys() == pool.start_timings.keys()
    # Each pool notices the end of its own sandboxes.
    beside = server.pools._of(entry.function.id)[1]
    [sandbox] = beside.sandboxes.values()
    assert isinstance(sandbox, FakeSandbox)
    sandbox.end_by_itself()
    await until(lambda: not beside.model.instances)
    await server.lifecycle.delete(entry)
    await server.pools.end_running(entry.function.id, *DELETED)
    assert server.counts(entry) == {}


async def test_instances_moving_to_another_pool_leave_no_room(tmp_path: Path) -> None:
    async with open_harness(tmp_path, settings={"tenant_instances": 5}) as server:
        other = await server.active("sleep 60", name="g")
        server.pass_time(301.0)
        await until(lambda: server.counts(other) == {})
        entry = await server.active("sleep 0.01", max_instances=5)
        first = entry.version
        await asyncio.gather(*(server.invoke(entry) for _ in range(3)))
        await until(lambda: server.counts(entry) == {"ready": 3})
        entry = await server.lifecycle.update(entry, {"handler": "echo two"})
        quota = server.pools._quotas["default"]
        assert quota.used == 4
        # The second invocation takes the place of an instance that was kept for a rollback; the
        # third waits for a place.
        calls = [asyncio.ensure_future(server.invoke(other)) for _ in range(3)]
        server.tasks += calls
        await until(lambda: server.counts(other) == {"busy": 2})
        most = 0.0

        def seen(_tenant: str, _function: str) -> None:
            nonlocal most
            most = max(most, quota.used)

        server.pools.on_change.hearers += (seen,)
        await server.invoke(entry, version=first)
        assert most == quota.limit


async def test_a_call_costs_hardly_more_beside_another_version(server: Harness) -> None:
    """The cost is counted in Python calls, which do not depend on the load of the machine."""
    entry, first = await updated(server)
    own = server.pools._pools[entry.function.id].model.instances

    async def call() -> None:
        await server.invoke(entry)
        await until(lambda: [one.state for one in own.values()] == ["ready"])

    alone = await fewest_python_calls([OWN], call, 20)
    await server.invoke(entry, version=first)
    await until(lambda: server.counts(entry) == {"ready": 2})
    beside = await fewest_python_calls([OWN], call, 20)
    assert beside <= 1.05 * alone, f"{alone} and {beside}"
