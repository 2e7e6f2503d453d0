"""The timeline of an invocation and the reason of its cold start, in the pools and the journal."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import pytest
from msgspec.structs import replace

from manual_clock import ManualClock
from promises import promise
from quiltfn.calls.timeline import call_timeline
from quiltfn.model.cold_start import ColdStartReason
from quiltfn.model.errors import RuntimeUnavailable
from quiltfn.model.invocation import Invocation, Status
from quiltfn.model.timeline import Timeline
from quiltfn.model.version import VersionSpec
from quiltfn.ports import SandboxFailed
from service.platform_harness import Harness, end_one, open_harness, until


def why(record: Invocation) -> ColdStartReason | None:
    assert record.timeline is not None
    assert record.cold_start == (record.timeline.reason is not None)
    return record.timeline.reason


def phases(record: Invocation) -> Timeline:
    """The timeline without the time at which the instance got the invocation."""
    assert record.timeline is not None
    return replace(record.timeline, started_ms=0)


@promise("C11")
async def test_the_phases_are_consecutive_and_kept_with_the_record(server: Harness) -> None:
    entry = await server.active()
    server.invoker._clock = clock = ManualClock(step_s=0.001)
    before = clock.time
    record = await server.invoke(entry)
    assert record.timeline is not None
    # The clock is first read when the invocation is accepted, and last at the end of the final
    # write.
    assert record.timeline.total == round((clock.time - before - 0.001) * 1e6)
    assert record.timeline.started_ms // 1000 == record.started_at
    assert phases(record) == Timeline(None, 1000, 0, 0, 2000, 2000)
    assert await server.records(entry) == [record]


async def test_a_cold_call_tells_what_it_waited_for(server: Harness) -> None:
    entry = await server.active("sleep 60")
    await server.running(entry)
    server.sandboxes.may_start.clear()
    call = await server.running(entry, timeout_seconds=1)
    server.clock.time += 0.02
    server.sandboxes.may_start.set()
    record = await call
    assert record.status is Status.TIMEOUT
    assert phases(record) == Timeline(ColdStartReason.SCALED_OUT, 0, 20_000, 0, 0, 0)


async def test_time_in_line_behind_others_is_queued(server: Harness) -> None:
    entry = await server.active("sleep 0.05", max_instances=1)
    first = await server.running(entry)
    second = await server.running(entry)
    server.clock.time += 3
    await first
    record = await second
    assert phases(record) == Timeline(None, 3_000_000, 0, 0, 0, 0)


async def test_the_first_call_after_a_start_without_warm_ones_is_the_first(tmp_path: Path) -> None:
    async with open_harness(tmp_path) as server:
        await server.active()
    async with open_harness(tmp_path) as server:
        entry = server.catalog.by_name("default", "f")
        assert why(await server.invoke(entry)) is ColdStartReason.FIRST
        assert why(await server.invoke(entry)) is None


async def test_a_call_that_waited_for_the_new_version_was_updated(server: Harness) -> None:
    entry = await server.active("sleep 60", max_instances=1)
    first = await server.running(entry)
    update = asyncio.ensure_future(server.lifecycle.update(entry, {"handler": "echo new"}, None))
    await until(lambda: server.pools._pools[entry.function.id].model.prepared)
    waiting = await server.running(entry)
    await end_one(server)
    assert why(await first) is None
    await update
    record = await waiting
    assert (record.stdout, why(record)) == (b"new\n", ColdStartReason.UPDATED)


async def test_after_the_idle_rule_a_call_says_it_was_evicted(server: Harness) -> None:
    entry = await server.active()
    server.pass_time(300)
    await until(lambda: server.counts(entry) == {})
    assert why(await server.invoke(entry)) is ColdStartReason.EVICTED


@pytest.mark.parametrize("handler", ["sleep 60", "oom", "die"])
async def test_after_a_bad_end_a_call_says_replaced(server: Harness, handler: str) -> None:
    entry = await server.active(handler)
    for _ in range(2):
        try:
            await server.invoke(entry, timeout_seconds=1)
        except RuntimeUnavailable:
            assert handler == "die"
        await until(lambda: server.counts(entry) == {})
    second, first = await server.records(entry)
    assert (why(first), why(second)) == (None, ColdStartReason.REPLACED)


async def test_a_call_whose_sandbox_failed_says_how_long_it_waited(server: Harness) -> None:
    entry = await server.active("sleep 60")
    await server.running(entry)

    def create(_: VersionSpec) -> None:
        server.clock.time += 0.5
        raise SandboxFailed("there is no room for another sandbox")

    creating = patch.object(server.sandboxes, "create", side_effect=create)
    with creating, pytest.raises(RuntimeUnavailable, match="no room") as error:
        await server.invoke(entry)
    records = {one.invocation_id: one for one in await server.records(entry)}
    failed = records[error.value.invocation_id or ""]
    assert failed.timeline == Timeline(ColdStartReason.SCALED_OUT, 0, 500_000, 0, 0, 0)
    assert (failed.status, failed.exit_code, failed.started_at) == (Status.ERROR, None, None)
    assert failed.error_message == "there is no room for another sandbox"
    pool = server.pools._pools[entry.function.id]
    assert pool.start_timings.keys() == pool.sandboxes.keys()


async def test_a_running_call_and_one_that_ended_with_its_server_have_none(tmp_path: Path) -> None:
    async with open_harness(tmp_path) as server:
        entry = await server.active("sleep 60")
        call = await server.running(entry)
        (running,) = await server.records(entry)
        assert (running.status, running.timeline) == (Status.RUNNING, None)
        call.cancel()
        await until(call.done)
    async with open_harness(tmp_path) as server:
        (record,) = await server.records(entry)
        assert (record.status, record.timeline) == (Status.INTERRUPTED, None)


async def test_a_call_that_ends_while_it_is_looked_at_is_told_as_it_is_then(
    server: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = await server.active("sleep 0.05")
    call = await server.running(entry)
    (running,) = await server.records(entry)
    variables = server.work.store.input_variables

    async def after_its_end(invocation_id: str) -> Sequence[str] | None:
        await call
        return await variables(invocation_id)

    monkeypatch.setattr(server.work.store, "input_variables", after_its_end)
    found = await call_timeline(server.work, entry, running.invocation_id)
    assert (found.record.status, found.timeline is None) == (Status.SUCCESS, False)
    assert [one.status for one in found.attempts] == [Status.SUCCESS]
