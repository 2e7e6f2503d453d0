"""Invocations from the request to the record: the caller's result, and the stored record."""

import asyncio

import pytest

from promises import promise
from quiltfn.calls.invoke import Request
from quiltfn.calls.node_report import report_of
from quiltfn.model.errors import (
    CapacityFull,
    FunctionNotActive,
    RuntimeUnavailable,
    ShuttingDown,
    StoreUnavailable,
    Unprocessable,
)
from quiltfn.model.function import FunctionState
from quiltfn.model.invocation import PAYLOAD_MAX_BYTES, Source, Status, WorkOutcome
from service.faults import away, no_room
from service.platform_harness import Harness, until


async def test_create_deploy_invoke(server: Harness) -> None:
    entry = await server.create("echo hello")
    assert entry.function.state is FunctionState.PENDING
    entry = await server.lifecycle.deploy(entry)
    record = await server.invoke(entry)
    assert (record.status, record.exit_code, record.stdout) == (Status.SUCCESS, 0, b"hello\n")
    assert record.cold_start is False  # the deployment started an instance
    assert (record.version, record.source, record.attempt) == (1, Source.SYNC, 1)
    assert await server.records(entry) == [record]
    assert entry.counters.invocation_count == 1


@pytest.mark.parametrize(
    ("handler", "status", "code"),
    [
        ("exit 3", Status.FAILED, 3),
        ("sleep 60", Status.TIMEOUT, None),
        ("oom", Status.OOM, 137),
    ],
)
async def test_a_handler_that_fails_is_a_result_and_its_instance_goes_if_it_is_sick(
    server: Harness, handler: str, status: Status, code: int | None
) -> None:
    entry = await server.active(handler)
    record = await server.invoke(entry, timeout_seconds=1)
    assert (record.status, record.exit_code) == (status, code)
    assert record.error_message
    assert entry.counters.error_count == 1
    await until(lambda: not {"recycling", "terminating"} & server.counts(entry).keys())
    assert server.counts(entry) == ({"ready": 1} if status is Status.FAILED else {})


@pytest.mark.parametrize("state", ["pending", "paused", "error", "deploying"])
async def test_an_inactive_function_names_what_helps(server: Harness, state: str) -> None:
    entry = await server.create("fail-to-start" if state == "error" else "echo hello")
    if state == "error":
        entry = await server.lifecycle.deploy(entry)
    elif state == "paused":
        entry = await server.lifecycle.deploy(entry)
        entry = await server.lifecycle.pause(entry)
    elif state == "deploying":
        server.sandboxes.may_start.clear()
        server.tasks.append(asyncio.ensure_future(server.lifecycle.deploy(entry)))
        await until(lambda: server.now(entry).function.state is FunctionState.DEPLOYING)
    with pytest.raises(FunctionNotActive) as error:
        await server.invoke(entry)
    assert error.value.details == {"state": state}
    assert error.value.hint
    assert await server.records(entry) == []


async def test_a_wait_that_is_over_refuses_and_leaves_no_record(server: Harness) -> None:
    entry = await server.active("sleep 60", max_instances=1)
    await server.running(entry)
    waiting = await server.running(entry)
    server.pass_time(9.9)
    await asyncio.sleep(0)
    assert not waiting.done()
    server.pass_time(0.1)
    with pytest.raises(CapacityFull):
        await waiting
    assert len(await server.records(entry)) == 1


async def test_of_calls_that_were_not_begun_so_many_records_wait_for_the_store_and_no_more(
    server: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of records that wait for the store is limited. The database is unavailable for a
    long time, and callers keep invoking a function that cannot start.
    """
    entry = await server.active()
    for sandbox in list(server.sandboxes.alive.values()):
        sandbox.end_by_itself()
    reported: list[str | None] = []
    with (
        monkeypatch.context() as patch,
        away(server.journal, "_store"),
        no_room(server.sandboxes),
    ):
        patch.setattr("quiltfn.store.calls.journal.SEGMENT_MAX_BYTES", 2000)
        for _ in range(20):
            with pytest.raises(RuntimeUnavailable, match="no room") as error:
                await server.invoke(entry)
            reported.append(error.value.invocation_id)
        assert None in reported[10:]
        # An attempt of an asynchronous invocation is recorded in any case: the invocation has a
        # record already, which gets its end.
        with pytest.raises(RuntimeUnavailable) as error:
            await server.invoke(entry, conclude=lambda _: WorkOutcome())
        reported.append(error.value.invocation_id)
    kept = {one for one in reported if one is not None}
    assert {one.invocation_id for one in await server.records(entry)} == kept != set()
    assert (await server.invoke(entry)).status is Status.SUCCESS


async def test_a_call_that_cannot_be_recorded_is_not_run_and_its_instance_is_ready_again(
    server: Harness,
) -> None:
    entry = await server.active()
    with away(server.journal, "opened"), pytest.raises(StoreUnavailable):
        await server.invoke(entry)
    assert server.counts(entry) == {"ready": 1}
    assert (await server.invoke(entry)).status is Status.SUCCESS


async def test_the_payload_and_the_variables_of_the_call_reach_the_handler(server: Harness) -> None:
    cat = await server.active("cat", name="cat")
    assert (await server.invoke(cat, payload="grüße".encode())).stdout.decode() == "grüße"
    echo = await server.active("echo $NAME", name="echo", environment={"NAME": "version"})
    assert (await server.invoke(echo)).stdout == b"version\n"
    assert (await server.invoke(echo, environment={"NAME": "call"})).stdout == b"call\n"
    assert (await server.invoke(echo)).stdout == b"version\n"


@pytest.mark.parametrize(
    "request_",
    [
        Request(timeout_seconds=31),
        Request(timeout_seconds=0),
        Request(environment={"QUILT_X": "1"}, may_write=True),
        Request(environment={"A": "x" * 33_000}, may_write=True),
        Request(payload=b"x" * (PAYLOAD_MAX_BYTES + 1)),
        Request(payload="ä".encode() * (PAYLOAD_MAX_BYTES // 2 + 1)),
    ],
)
async def test_a_refused_request_leaves_no_record(server: Harness, request_: Request) -> None:
    entry = await server.active()
    with pytest.raises(Unprocessable):
        await server.invoker.invoke(entry, request_)
    assert await server.records(entry) == []
    assert server.counts(entry) == {"ready": 1}


@promise("N76")
async def test_draining_refuses_new_calls_and_waits_for_running_ones(server: Harness) -> None:
    entry = await server.active("sleep 0.05")
    running = await server.running(entry)
    assert not report_of(server.pools, server.invoker).is_leaving
    draining = asyncio.ensure_future(server.invoker.drain(10))
    await asyncio.sleep(0)
    with pytest.raises(ShuttingDown):
        await server.invoke(entry)
    assert report_of(server.pools, server.invoker).is_leaving
    await draining
    assert running.done() or server.invoker.running == 0
    assert (await running).status is Status.SUCCESS


async def test_draining_gives_up_in_time_and_closing_interrupts(server: Harness) -> None:
    entry = await server.active("sleep 60")
    running = await server.running(entry)
    await server.invoker.drain(0.01)
    assert not running.done()
    await server.pools.aclose()
    with pytest.raises(ShuttingDown, match="stopped") as error:
        await running
    (record,) = await server.records(entry)
    assert (record.invocation_id, record.status) == (error.value.invocation_id, Status.INTERRUPTED)


@promise("R17")
async def test_a_warm_call_reads_nothing(server: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = await server.active("echo hello")
    await server.invoke(entry)
    reads = []
    original = server.store.database.read
    monkeypatch.setattr(
        server.store.database,
        "read",
        lambda work: reads.append(work) or original(work),  # type: ignore[func-returns-value]
    )
    for _ in range(20):
        await server.invoke(entry)
    assert reads == []
    await server.store.versions(entry.function.id)  # control: reads are counted
    assert len(reads) == 1
