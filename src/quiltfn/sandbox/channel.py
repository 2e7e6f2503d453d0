"""The server's end of the launcher's socket: requests out, replies and descriptors in."""

import asyncio
import json
import os
import socket
from array import array
from collections import deque
from collections.abc import Iterable
from typing import Any

import msgspec

from quiltfn.ports import SandboxFailed

MESSAGE_MAX = 64 * 1024
DESCRIPTORS_MAX = 2
TRUNCATED = "the server has no file descriptors left"


class Reply(msgspec.Struct, frozen=True):
    """`descriptors` belong to the receiver, who closes them."""

    message: dict[str, Any]
    descriptors: list[int]


def descriptors_of(ancillary: Iterable[tuple[int, int, bytes]]) -> "array[int]":
    """Returns the descriptors that came with a message; the caller closes them."""
    descriptors = array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % 4])
    return descriptors


class LauncherChannel:
    """Asks the launcher; replies come in any order and are matched by number."""

    def __init__(self, channel: socket.socket) -> None:
        self._socket = channel
        self._socket.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(channel.fileno(), self._receive)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._unsent: deque[bytes] = deque()
        self._next = 1

    async def ask(self, verb: str, **arguments: object) -> Reply:
        """Returns the reply to a request. Raises `SandboxFailed` with the launcher's reason."""
        number, self._next = self._next, self._next + 1
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting[number] = future
        self._send(json.dumps({"n": number, "verb": verb, **arguments}).encode())
        try:
            reply = await future
        finally:
            self._waiting.pop(number, None)
        if "error" in reply.message:
            raise SandboxFailed(reply.message["error"])
        return reply

    def tell(self, verb: str, **arguments: object) -> None:
        """Sends one request without waiting for its reply."""
        number, self._next = self._next, self._next + 1
        self._send(json.dumps({"n": number, "verb": verb, **arguments}).encode())

    def close(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _send(self, packet: bytes) -> None:
        self._unsent.append(packet)
        self._flush()

    def _flush(self) -> None:
        while self._unsent:
            try:
                self._socket.send(self._unsent[0])
            except BlockingIOError:
                self._loop.add_writer(self._socket.fileno(), self._flush)
                return
            self._unsent.popleft()
        self._loop.remove_writer(self._socket.fileno())

    def _receive(self) -> None:
        while True:
            try:
                # Not socket.recv_fds, which ignores flags: later processes would inherit these.
                data, ancillary, flags, _ = self._socket.recvmsg(
                    MESSAGE_MAX,
                    socket.CMSG_SPACE(DESCRIPTORS_MAX * 4),
                    socket.MSG_CMSG_CLOEXEC,
                )
            except BlockingIOError:
                return
            except OSError:
                data, ancillary, flags = b"", [], 0
            if not data:  # the launcher has ended, and the kernel is about to end this process
                self._loop.remove_reader(self._socket.fileno())
                return
            descriptors = descriptors_of(ancillary)
            message = json.loads(data)
            if flags & socket.MSG_CTRUNC:
                # A descriptor is missing, so the others and the sandbox are useless.
                self._unclaimed(message, descriptors)
                message, descriptors = {"n": message["n"], "error": TRUNCATED}, array("i")
            future = self._waiting.get(message["n"])
            if future is not None and not future.done():
                future.set_result(Reply(message, list(descriptors)))
            else:
                self._unclaimed(message, descriptors)

    def _unclaimed(self, message: dict[str, Any], descriptors: "array[int]") -> None:
        """Closes the descriptors of a reply that cannot be used, and destroys its sandbox: the
        requester was cancelled, or the reply is incomplete.
        """
        for descriptor in descriptors:
            os.close(descriptor)
        if "sandbox" in message:
            self.tell("destroy", sandbox=message["sandbox"])
