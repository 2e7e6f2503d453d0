"""Real `GuestSandbox` objects whose guests follow a script: the payload of an invocation names its
plan. Frames arrive only when the test delivers them.
"""

import os
import struct
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from quiltfn.guest import wire
from quiltfn.model.version import VersionSpec
from quiltfn.ports import Sandbox
from quiltfn.sandbox.channel import LauncherChannel, Reply
from quiltfn.sandbox.fake import FakeSandboxes
from quiltfn.sandbox.guest import GuestSandbox

NO_KILLS = b"low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n"
COUNTERS: dict[str, Any] = {"blocked": 0, "cpu_us": 0, "refused": [], "bytes": 1 << 20}


def frame(kind: int, body: bytes) -> bytes:
    return struct.pack("<II", kind, len(body)) + body


def end(kind: int = 0, code: int = 0, dropped: int = 0, text: bytes = b"") -> tuple[int, bytes]:
    return wire.END, struct.pack("<IIQQQ", kind, code, dropped, 0, 0) + text


def out(data: bytes) -> tuple[int, bytes]:
    return wire.STDOUT, data


def err(data: bytes) -> tuple[int, bytes]:
    return wire.STDERR, data


# The frames of an invocation, by its payload; each gets the nonce in front. None: the guest dies.
PLANS: dict[bytes, list[tuple[int, bytes]] | None] = {
    b"silent": [end()],
    b"both": [out(b"one\n"), err(b"two\n"), out(b"three\n"), end()],
    b"text": [out('"ä\\€\U0001f600\x00\x1f\x7f\b\f\r\t'.encode()), err(b"\xc2\x80"), end()],
    b"binary": [out(b"\xff\xfe\xed\xa0\x80"), end()],
    b"result": [out(b"log\n"), (wire.RESULT, b"value"), end()],
    b"exit": [err(b"no such thing\n"), end(code=3)],
    b"killed": [end(kind=1, code=9)],
    b"late": [out(b"so far"), end(kind=2)],
    b"not started": [end(kind=3, code=2, text=b"the handler is missing")],
    b"dropped": [out(b"some"), end(dropped=10)],
    b"long": [out(b"x" * 20_000), end()],
    b"control": [out(b"\x01" * 16_000), end()],
    b"very long": [*[out(b'"' * 65_536)] * 3, end()],
    b"forbidden": [(wire.SPECIALISED, b"0000")],
    b"dies": None,
}
USUAL = [out(b"hello\n"), end()]


class ScriptedSandboxes(FakeSandboxes):
    """`calls_framed`: the CALL frames that guests have got. `ready`: what guests will send next."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._events = directory / "memory.events"
        self._events.write_bytes(NO_KILLS)
        self.calls_framed: list[bytes] = []
        self.ready: deque[Callable[[], None]] = deque()
        self.guests: list[ScriptedGuest] = []

    async def create(self, _spec: VersionSpec) -> Sandbox:
        number = f"scripted-{len(self.guests)}"
        box = GuestSandbox(
            number, os.open(self._events, os.O_RDONLY), cast("LauncherChannel", self)
        )
        guest = ScriptedGuest(self, box)
        self.guests.append(guest)
        box.connection_made(guest)  # type: ignore[arg-type]
        box.data_received(frame(wire.HELLO, struct.pack("<I", wire.PROTOCOL_VERSION)))
        return box

    # As `LauncherChannel`.

    def tell(self, _verb: str, **_arguments: object) -> None:
        pass

    async def ask(self, _verb: str, **_arguments: object) -> Reply:
        return Reply(COUNTERS, [])


class ScriptedGuest:
    """The transport of a sandbox's socket, with the guest at its other end."""

    def __init__(self, owner: ScriptedSandboxes, box: GuestSandbox) -> None:
        self._owner, self._box = owner, box
        self._is_closing = False

    def write(self, data: bytes) -> None:
        if data[0] == wire.SPECIALISE:
            self._box.data_received(frame(wire.SPECIALISED, bytes(4) + b"fork"))
            return
        assert data[0] == wire.CALL
        self._owner.calls_framed.append(data)
        nonce, size = data[8:16], struct.unpack_from("<I", data, 24)[0]
        plan = PLANS.get(data[28 + size :], USUAL)
        if plan is None:
            self._owner.ready.append(self.abort)
            return
        frames = b"".join(frame(kind, nonce + body) for kind, body in plan)
        clean = frame(wire.CLEAN, nonce)
        if len(self._owner.calls_framed) % 3:
            self._owner.ready.append(lambda: self._send(frames))
            self._owner.ready.append(lambda: self._send(clean))
        else:  # in one piece
            self._owner.ready.append(lambda: self._send(frames + clean))

    def _send(self, data: bytes) -> None:
        if not self._is_closing:
            self._box.data_received(data)

    def abort(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._box._loop.call_soon(self._box.connection_lost, None)

    def is_closing(self) -> bool:
        return self._is_closing

    def write_eof(self) -> None:
        self.abort()

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass
