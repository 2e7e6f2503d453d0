"""The promises of the port for sandboxes, checked with the fake that other tests use and with real
ones.
"""

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from contract.sandboxes import Kind
from contract.stores import eventually
from quiltfn.model.invocation import CallEvent, CallResult, ExitKind, conclude
from quiltfn.model.version import VersionSpec
from quiltfn.ports import Call, Sandbox, SandboxRefused
from timeouts import scaled


class Sandboxes:
    """Creates sandboxes, and destroys all of them at the end."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.made: list[Sandbox] = []

    async def sandbox(self, handler: str = "echo hello", **fields: Any) -> Sandbox:
        spec = VersionSpec(handler=handler, **fields)
        sandbox = await self.kind.sandboxes.create(spec)
        self.made.append(sandbox)
        await sandbox.specialise(spec)
        return sandbox


@pytest.fixture
async def box(kind: Kind) -> AsyncIterator[Sandboxes]:
    box = Sandboxes(kind)
    yield box
    await asyncio.gather(*(sandbox.destroy() for sandbox in box.made))


def call(payload: bytes | None = None, timeout_s: float = 10.0, **variables: str) -> Call:
    return Call(
        payload=payload, environment=variables, replaces_environment=False, timeout_s=timeout_s
    )


async def until_clean(sandbox: Sandbox) -> None:
    async def is_clean() -> bool:
        await asyncio.sleep(0.002)
        return sandbox.is_clean

    await eventually(is_clean)


async def test_a_handler_ends_with_its_output_and_exit_code(box: Sandboxes) -> None:
    sandbox = await box.sandbox("echo hello")
    assert await sandbox.call(call()) == CallResult(kind=ExitKind.EXITED, stdout=b"hello\n")
    assert sandbox.is_alive
    ended = await (await box.sandbox("no-such-thing")).call(call())
    assert (ended.kind, ended.code) == (ExitKind.EXITED, 127)
    assert b"no-such-thing" in ended.stderr


async def test_a_call_can_end_in_a_callback(box: Sandboxes) -> None:
    sandbox, ends = await box.sandbox("echo hello"), list[CallResult]()

    async def has_ended(count: int) -> bool:
        await asyncio.sleep(0.002)
        return len(ends) == count

    sandbox.start(call(), ends.append)
    await eventually(lambda: has_ended(1))
    assert ends == [CallResult(kind=ExitKind.EXITED, stdout=b"hello\n")]
    await sandbox.destroy()
    sandbox.start(call(), ends.append)
    await eventually(lambda: has_ended(2))
    assert ends[1].kind is ExitKind.SANDBOX_GONE


async def test_the_payload_is_on_standard_input(box: Sandboxes) -> None:
    sandbox = await box.sandbox("cat")
    assert (await sandbox.call(call(b'{"key":"value"}'))).stdout == b'{"key":"value"}'
    await until_clean(sandbox)
    assert (await sandbox.call(call())).stdout == b""


async def test_a_call_has_the_versions_variables_and_its_own(box: Sandboxes) -> None:
    sandbox = await box.sandbox("echo $NAME", environment={"NAME": "version"})
    assert (await sandbox.call(call())).stdout == b"version\n"
    await until_clean(sandbox)
    assert (await sandbox.call(call(NAME="call"))).stdout == b"call\n"
    await until_clean(sandbox)
    alone = Call(payload=None, environment={"X": "1"}, replaces_environment=True, timeout_s=5)
    assert (await sandbox.call(alone)).stdout == b"\n"


async def test_calls_leave_nothing_that_only_the_collector_frees(box: Sandboxes) -> None:
    sandbox = await box.sandbox("echo hello")
    gc.disable()
    try:
        for most in (1000, 20):  # the first round may leave objects that are created only once
            gc.collect()
            for _ in range(20):
                await sandbox.call(call())
                await until_clean(sandbox)
            assert gc.collect() < most
    finally:
        gc.enable()


async def test_a_handler_is_ended_at_its_deadline(box: Sandboxes) -> None:
    sandbox = await box.sandbox("sleep 20")
    began = time.monotonic()
    ended = await sandbox.call(call(timeout_s=0.2))
    assert conclude(ended)[0] is CallEvent.TIMEOUT
    assert 0.2 <= time.monotonic() - began < scaled(2)


@pytest.mark.parametrize("is_destroyed", [False, True])
async def test_a_death_under_a_call_is_a_result(box: Sandboxes, is_destroyed: bool) -> None:
    sandbox = await box.sandbox("sleep 20")
    running = asyncio.ensure_future(sandbox.call(call()))
    await asyncio.sleep(0.05)
    if is_destroyed:
        await sandbox.destroy()
    else:
        box.kind.kill(sandbox)
    assert (await running).kind is ExitKind.SANDBOX_GONE
    assert not sandbox.is_alive
    assert (await sandbox.call(call())).kind is ExitKind.SANDBOX_GONE


async def test_a_handler_that_needs_too_much_memory_is_out_of_memory(box: Sandboxes) -> None:
    sandbox = await box.sandbox(box.kind.out_of_memory)
    assert conclude(await sandbox.call(call()))[:2] == (CallEvent.OOM, 137)


async def test_a_wait_that_is_cancelled_leaves_a_sandbox_to_be_destroyed(box: Sandboxes) -> None:
    sandbox = await box.sandbox("sleep 20")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await sandbox.call(call())
    assert not sandbox.is_clean
    await sandbox.destroy()
    assert not sandbox.is_alive


async def test_a_call_can_be_ended_from_outside(box: Sandboxes) -> None:
    sandbox = await box.sandbox("sleep 20")
    running = asyncio.ensure_future(sandbox.call(call()))
    await asyncio.sleep(0.05)
    assert sandbox.end_call(ExitKind.CANCELLED, "function_deleted")
    assert not sandbox.end_call(ExitKind.DEADLINE, "too late")
    assert await running == CallResult(kind=ExitKind.CANCELLED, by="function_deleted")


async def test_needless_ends_and_destroys_are_harmless(box: Sandboxes) -> None:
    sandbox = await box.sandbox()
    assert not sandbox.end_call(ExitKind.CANCELLED, "nothing")
    assert (await sandbox.call(call())).kind is ExitKind.EXITED
    assert not sandbox.end_call(ExitKind.CANCELLED, "nothing")
    assert (await sandbox.counters()).blocked == 0  # the sandbox has no network
    await asyncio.gather(sandbox.destroy(), sandbox.destroy())
    await sandbox.destroy()
    assert not sandbox.is_alive
    assert (await sandbox.counters()).blocked == 0


async def test_a_missing_working_directory_is_refused_in_a_sentence(box: Sandboxes) -> None:
    with pytest.raises(SandboxRefused, match="/missing") as error:
        await box.sandbox(working_directory="/missing")
    assert "does not exist" in str(error.value)
    await box.made[0].destroy()


async def test_it_says_when_it_is_clean_after_each_call(box: Sandboxes) -> None:
    sandbox = await box.sandbox()
    cleaned: list[bool] = []
    sandbox.watch(lambda: cleaned.append(sandbox.is_clean), lambda: None)
    assert sandbox.is_clean
    for calls in (1, 2, 3):
        await sandbox.call(call())
        await until_clean(sandbox)
        assert cleaned == [True] * calls


async def test_it_says_once_when_it_ends_by_itself(box: Sandboxes) -> None:
    sandbox = await box.sandbox()
    lost: list[bool] = []
    sandbox.watch(lambda: None, lambda: lost.append(sandbox.is_alive))
    box.kind.kill(sandbox)

    async def is_lost() -> bool:
        await asyncio.sleep(0.002)
        return bool(lost)

    await eventually(is_lost)
    await sandbox.destroy()
    assert lost == [False]
    # A sandbox that was destroyed must not be reported as lost.
    sandbox = await box.sandbox()
    heard: list[str] = []
    sandbox.watch(lambda: heard.append("clean"), lambda: heard.append("lost"))
    await sandbox.destroy()
    await asyncio.sleep(0.01)
    assert heard == []


async def test_output_beyond_the_limit_is_dropped_counted_and_not_replaced(box: Sandboxes) -> None:
    ended = await (await box.sandbox(box.kind.long_output)).call(call())
    assert ended.stdout == b"x" * 6_291_456
    assert (ended.stdout_dropped, ended.stderr_dropped) == (25, 0)


async def test_many_are_made_at_once_and_each_is_its_own(box: Sandboxes) -> None:
    sandboxes = await asyncio.gather(*(box.sandbox(f"echo {n}") for n in range(8)))
    assert len({sandbox.id for sandbox in sandboxes}) == 8
    ends = await asyncio.gather(*(sandbox.call(call()) for sandbox in sandboxes))
    assert [ended.stdout for ended in ends] == [b"%d\n" % n for n in range(8)]
