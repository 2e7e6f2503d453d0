"""The output of a call is read as far as there is room for it, and no further."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from quiltfn.guest import wire
from quiltfn.model.invocation import CallResult
from quiltfn.ports import Call
from quiltfn.sandbox.guest import MIB, SHORT_OUTPUT_BYTES, GuestSandbox
from unit.test_wire import as_guest

PIECE = wire.Output(1, "stdout", b"x" * 65_536)
END = wire.End(1, wire.ExitKind.EXITED, 0, 0, 0, "")


class Transport:
    """Of the guest's connection."""

    is_reading = True

    def write(self, data: bytes) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True


class Room:
    """`ports.LongOutput`."""

    def __init__(self, *, has_room: bool) -> None:
        self.has_room = has_room
        self.asked: list[int] = []
        self.ready: Callable[[], None] = lambda: None

    def take(self, size: int, ready: Callable[[], None]) -> bool:
        self.asked.append(size)
        self.ready = ready
        return self.has_room


class Sink:
    """`ports.OutputSink` that is full after every piece."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.ready: Callable[[], None] = lambda: None

    def write(self, _stream: str, data: bytes, ready: Callable[[], None]) -> bool:
        self.taken.append(data)
        self.ready = ready
        return False


async def called(
    room: Room | None = None, sink: Sink | None = None
) -> tuple[GuestSandbox, Transport, asyncio.Future[CallResult]]:
    sandbox, transport = GuestSandbox("one", -1, cast("Any", None)), Transport()
    sandbox.connection_made(cast("Any", transport))
    call = Call(
        payload=None,
        environment={},
        replaces_environment=False,
        timeout_s=60,
        long_output=room,
        output_sink=sink,
    )
    running = asyncio.ensure_future(sandbox.call(call))
    await asyncio.sleep(0)
    return sandbox, transport, running


async def test_room_is_asked_for_again_with_each_mib() -> None:
    room = Room(has_room=True)
    sandbox, transport, running = await called(room)
    for _ in range(3 * 16):
        sandbox.data_received(as_guest(PIECE))
    assert room.asked == [SHORT_OUTPUT_BYTES + 65_536, MIB + 65_536, 2 * MIB + 65_536]
    assert transport.is_reading
    sandbox.data_received(as_guest(END))
    assert len((await running).stdout) == 3 * MIB


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


async def test_nothing_is_read_until_a_full_sink_is_ready() -> None:
    sink = Sink()
    sandbox, transport, running = await called(sink=sink)
    sandbox.data_received(as_guest(PIECE))
    assert not transport.is_reading
    sink.ready()
    assert transport.is_reading
    sandbox.data_received(as_guest(END))
    assert sink.taken == [(await running).stdout]


async def test_reading_goes_on_once_there_is_room_and_the_sink_is_ready() -> None:
    room, sink = Room(has_room=False), Sink()
    sandbox, transport, running = await called(room, sink)
    sandbox.data_received(as_guest(PIECE) * 5)
    room.ready()
    assert not transport.is_reading
    sink.ready()
    assert transport.is_reading
    sandbox.data_received(as_guest(PIECE) * 5)
    sink.ready()
    assert not transport.is_reading
    room.ready()
    assert transport.is_reading
    running.cancel()


async def test_a_sink_that_is_ready_late_does_not_go_on_for_the_next_call() -> None:
    sink, next_sink = Sink(), Sink()
    sandbox, transport, running = await called(sink=sink)
    sandbox.data_received(as_guest(PIECE) + as_guest(END) + as_guest(wire.Clean(1)))
    await running
    assert transport.is_reading
    call = Call(
        payload=None,
        environment={},
        replaces_environment=False,
        timeout_s=60,
        output_sink=next_sink,
    )
    following = asyncio.ensure_future(sandbox.call(call))
    await asyncio.sleep(0)
    sandbox.data_received(as_guest(wire.Output(2, "stdout", b"x")))
    sink.ready()
    assert not transport.is_reading
    next_sink.ready()
    assert transport.is_reading
    following.cancel()


async def test_a_result_is_no_output_and_does_not_reach_the_sink() -> None:
    sink = Sink()
    sandbox, _, running = await called(sink=sink)
    sandbox.data_received(as_guest(wire.Result(1, "stdout", b"42")) + as_guest(END))
    assert (await running).stdout == b"42"
    assert sink.taken == []
