"""The server's end of the launcher's socket; the test acts as the launcher."""

import asyncio
import json
import os
import resource
import socket
from collections.abc import AsyncIterator, Callable
from typing import cast

import pytest

from promises import promise
from quiltfn.model.invocation import ExitKind
from quiltfn.ports import Call, SandboxFailed
from quiltfn.sandbox import guest
from quiltfn.sandbox.channel import LauncherChannel
from quiltfn.sandbox.client import PLAIN, LauncherSandboxes, Limits
from service.platform_harness import until
from timeouts import scaled


@pytest.fixture
async def ends() -> AsyncIterator[tuple[LauncherChannel, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.settimeout(scaled(5))
    channel = LauncherChannel(ours)
    with theirs:
        yield channel, theirs
        channel.close()


def asked(theirs: socket.socket) -> dict[str, object]:
    message: dict[str, object] = json.loads(theirs.recv(65_536))
    return message


@promise("A17")
@pytest.mark.parametrize("room", [0, 1, 2])
async def test_a_sandbox_that_arrives_incomplete_is_destroyed_and_nothing_of_it_kept(
    ends: tuple[LauncherChannel, socket.socket], room: int
) -> None:
    channel, theirs = ends
    making = asyncio.ensure_future(channel.ask("create"))
    await asyncio.sleep(0)
    n = asked(theirs)["n"]
    handed = [os.open("/dev/null", os.O_RDONLY) for _ in range(2)]
    before = set(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    top, taken = max(map(int, before)), [os.open("/dev/null", os.O_RDONLY)]
    try:
        while taken[-1] <= top:  # all free descriptors then have higher numbers than the open ones
            taken.append(os.open("/dev/null", os.O_RDONLY))
        free = taken[-1] + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + room, hard))
        socket.send_fds(theirs, [json.dumps({"n": n, "sandbox": "s1"}).encode()], handed)
        if room == 2:
            answer = await making
            assert len(answer.descriptors) == 2
            for descriptor in answer.descriptors:
                os.close(descriptor)
        else:
            with pytest.raises(SandboxFailed, match="file descriptors"):
                await making
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)
    assert set(os.listdir("/proc/self/fd")) == before
    for descriptor in handed:
        os.close(descriptor)
    if room < 2:
        request = asked(theirs)
        assert (request["verb"], request["sandbox"]) == ("destroy", "s1")


class Transport:
    """The guest's socket, of which this test only observes the end."""

    is_open = True
    has_hung_up = False
    on_abort: Callable[[], None] = staticmethod(lambda: None)

    def is_closing(self) -> bool:
        return not self.is_open

    def resume_reading(self) -> None:
        pass

    def write(self, _frame: bytes) -> None:
        pass

    def write_eof(self) -> None:
        self.has_hung_up = True

    def abort(self) -> None:
        self.is_open = False
        self.on_abort()


@promise("W6")
@pytest.mark.parametrize("closes", [True, False])
async def test_a_guest_loses_its_socket_where_the_launcher_does_not_answer(
    ends: tuple[LauncherChannel, socket.socket], monkeypatch: pytest.MonkeyPatch, closes: bool
) -> None:
    """The launcher is stalled, so the guest ends its sandbox by itself, and reports that by closing
    its socket. If the guest does not close it, the sandbox must not count as ended.
    """
    monkeypatch.setattr(guest, "LAUNCHER_ANSWERS_S", 0.2)
    monkeypatch.setattr(guest, "GUEST_ENDS_S", 0.2)
    channel, theirs = ends
    sandbox, transport = guest.GuestSandbox("one", -1, channel), Transport()
    sandbox.connection_made(cast("asyncio.BaseTransport", transport))
    ending = asyncio.ensure_future(sandbox.destroy())
    stopped = asyncio.ensure_future(sandbox.stopped())
    for _ in range(20):
        await asyncio.sleep(0)
    # the socket stays open while the usage of the sandbox may still be read
    assert not transport.has_hung_up
    await until(lambda: transport.has_hung_up)
    if closes:
        sandbox.connection_lost(None)
        await asyncio.wait_for(stopped, scaled(5))
    else:
        await until(lambda: not transport.is_open)
        sandbox.connection_lost(None)
        await asyncio.sleep(0)
        assert not stopped.done()
    assert not ending.done()
    theirs.send(
        json.dumps({"n": asked(theirs)["n"], "blocked": 0, "cpu_us": 0, "refused": []}).encode()
    )
    await ending
    await stopped


async def test_a_call_that_nobody_ends_at_its_deadline_loses_its_guest(
    ends: tuple[LauncherChannel, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the guest ends the invocation, which has the same deadline, nor the launcher, which
    is asked to.
    """
    for bound in ("OUTER_DEADLINE_S", "LAUNCHER_ANSWERS_S", "GUEST_ENDS_S"):
        monkeypatch.setattr(guest, bound, 0.05)
    channel, theirs = ends
    sandbox, transport = guest.GuestSandbox("one", -1, channel), Transport()
    sandbox.connection_made(cast("asyncio.BaseTransport", transport))
    transport.on_abort = lambda: sandbox.connection_lost(None)
    call = Call(payload=None, environment={}, replaces_environment=False, timeout_s=0.05)
    result = await asyncio.wait_for(sandbox.call(call), scaled(5))
    assert (result.kind, transport.has_hung_up) == (ExitKind.DEADLINE, True)
    assert asked(theirs)["verb"] == "kill"


async def test_the_deadline_goes_with_each_create_once_there_is_one(
    ends: tuple[LauncherChannel, socket.socket],
) -> None:
    channel, theirs = ends
    source = LauncherSandboxes(channel)
    alone = asyncio.ensure_future(source.make(PLAIN, Limits()))
    await asyncio.sleep(0)
    assert "deadline" not in asked(theirs)
    source.end_by(12.5)
    assert asked(theirs) == {"n": 2, "verb": "deadline", "deadline": 12.5}
    bound = asyncio.ensure_future(source.make(PLAIN, Limits()))
    await asyncio.sleep(0)
    assert asked(theirs)["deadline"] == 12.5
    for each in (alone, bound):
        each.cancel()
    await asyncio.wait([alone, bound])
