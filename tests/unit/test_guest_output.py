"""The output of a call is read only as far as there is room for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from promises import promise
from quiltfn.guest import wire
from quiltfn.model.invocation import CallResult, ExitKind
from quiltfn.ports import Call
from quiltfn.sandbox.guest import GuestSandbox
from quiltfn.sandbox.output_limits import MIB, SHORT_OUTPUT_BYTES
from unit.test_wire import as_guest

pytestmark = promise("A24", "P18")

PIECE = wire.Output(1, "stdout", b"x" * 65_536)
END = wire.End(1, wire.ExitKind.EXITED, 0, 0, 0, "")


class Transport:
    """Replaces the transport of the guest's connection."""

    is_reading = True

    def write(self, data: bytes) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def abort(self) -> None:
        pass


class Room:
    """`ports.LongOutput` that either always or never has room."""

    def __init__(self, *, has_room: bool) -> None:
        self.has_room = has_room
        self.asked: list[int] = []
        self.ready: Callable[[], None] = lambda: None

    def take(self, size: int, ready: Callable[[], None]) -> bool:
        self.asked.append(size)
        self.ready = ready
        return self.has_room


async def called(
    room: Room | None = None,
) -> tuple[GuestSandbox, Transport, asyncio.Future[CallResult]]:
    sandbox, transport = GuestSandbox("one", -1, cast("Any", None)), Transport()
    sandbox.connection_made(cast("Any", transport))
    running = asyncio.ensure_future(sandbox.call(call_with(room)))
    await asyncio.sleep(0)
    return sandbox, transport, running


def call_with(room: Room | None) -> Call:
    return Call(
        payload=None,
        environment={},
        replaces_environment=False,
        timeout_s=60,
        long_output=room,
    )


async def test_room_is_asked_for_again_with_each_mib() -> None:
    room = Room(has_room=True)
    sandbox, transport, running = await called(room)
    for _ in range(3 * 16):
        sandbox.data_received(as_guest(PIECE))
    assert room.asked == [SHORT_OUTPUT_BYTES + 65_536, MIB + 65_536, 2 * MIB + 65_536]
    assert transport.is_reading
    sandbox.data_received(as_guest(END))
    assert len((await running).stdout) == 3 * MIB


async def test_an_invocation_may_start_while_a_timer_is_due() -> None:
    sandbox, _, running = await called()
    sandbox.data_received(as_guest(END))
    await running
    sandbox.data_received(as_guest(wire.Clean(1)))
    running = asyncio.ensure_future(sandbox.call(call_with(None)))
    # uvloop's handle of a callback that is due at once can't tell its time, which must be no error.
    sandbox._look_again_at(asyncio.get_running_loop().time())
    await asyncio.sleep(0)
    sandbox.data_received(as_guest(wire.End(2, wire.ExitKind.EXITED, 0, 0, 0, "")))
    assert (await running).kind is ExitKind.EXITED


async def test_nothing_is_read_until_there_is_room() -> None:
    room = Room(has_room=False)
    sandbox, transport, running = await called(room)
    sandbox.data_received(as_guest(PIECE) * 5)
    assert not transport.is_reading
    room.ready()
    assert transport.is_reading
    sandbox.data_received(as_guest(END))
    assert len((await running).stdout) == 5 * 65_536


@pytest.mark.parametrize("pieces", [4, 5], ids=["short", "long"])
async def test_a_call_that_ended_without_room_leaves_an_instance_that_is_heard(pieces: int) -> None:
    sandbox, transport, running = await called(Room(has_room=False))
    sandbox.data_received(as_guest(PIECE) * pieces + as_guest(END))
    await running
    assert transport.is_reading
    sandbox.data_received(as_guest(wire.Clean(1)))
    assert sandbox.is_clean


async def test_what_came_is_in_the_log_while_the_call_runs_and_in_its_result() -> None:
    sandbox, _, running = await called()
    log = sandbox._output
    assert log is not None
    seen: list[dict[str, int]] = []
    log.watch(lambda: seen.append(dict(log.sizes)))
    pieces = [
        wire.Output(1, "stdout", b"one "),
        wire.Output(1, "stderr", b"and "),
        wire.Result(1, "stdout", b"two"),
    ]
    for piece in pieces:
        sandbox.data_received(as_guest(piece))
    assert seen[-1] == {"stdout": 7, "stderr": 4}
    sandbox.data_received(as_guest(END))
    result = await running
    assert (result.stdout, result.stderr) == (b"one two", b"and ")
    assert result.output_order == '[["stdout",4],["stderr",4],["stdout",3]]'
    assert sandbox._output is None


async def test_a_cancelled_call_keeps_what_has_come_and_what_it_still_sends_does_no_harm() -> None:
    """Output that still arrives must not end the connection: otherwise, the server would not learn
    that the guest has ended everything.
    """
    sandbox, _, running = await called()
    sandbox.watch(lambda: pytest.fail("it is used again"), lambda: None)
    sandbox.data_received(as_guest(wire.Output(1, "stdout", b"so far")))
    assert sandbox.end_call(ExitKind.CANCELLED, "enough")
    sandbox.data_received(as_guest(PIECE) + as_guest(END) + as_guest(wire.Clean(1)))
    result = await running
    assert (result.kind, result.stdout) == (ExitKind.CANCELLED, b"so far")
    assert not sandbox._is_broken
    sandbox.connection_lost(None)
    assert sandbox._guest_ended.done()
