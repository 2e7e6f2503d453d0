"""The launcher's socket, with a launcher of the test's own at the other end."""

import asyncio
import json
import os
import resource
import socket
from collections.abc import AsyncIterator

import pytest

from quiltfn.ports import SandboxFailed
from quiltfn.sandbox.channel import LauncherChannel


@pytest.fixture
async def ends() -> AsyncIterator[tuple[LauncherChannel, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.settimeout(5)
    channel = LauncherChannel(ours)
    with theirs:
        yield channel, theirs
        channel.close()


def asked(theirs: socket.socket) -> dict[str, object]:
    message: dict[str, object] = json.loads(theirs.recv(65_536))
    return message


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
        while taken[-1] <= top:  # so that what is free lies above everything that is open
            taken.append(os.open("/dev/null", os.O_RDONLY))
        free = taken[-1] + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + room, hard))
        socket.send_fds(theirs, [json.dumps({"n": n, "sandbox": "s1"}).encode()], handed)
        if room == 2:
            answer = await making
            assert len(answer.descriptors) == 2
            for one in answer.descriptors:
                os.close(one)
        else:
            with pytest.raises(SandboxFailed, match="file descriptors"):
                await making
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for one in taken:
            os.close(one)
    assert set(os.listdir("/proc/self/fd")) == before
    for one in handed:
        os.close(one)
    if room < 2:
        told = asked(theirs)
        assert (told["verb"], told["sandbox"]) == ("destroy", "s1")
