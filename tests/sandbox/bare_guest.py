"""Runs the real guest in bare namespaces, without OCI runtime, control group and seccomp filter."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from quiltfn.guest.wire import (
    PROTOCOL_VERSION,
    Clean,
    Decoder,
    End,
    Event,
    Hello,
    Output,
    Result,
    Specialised,
    encode_call,
    encode_specialise,
)
from sandbox import bare_namespaces
from timeouts import scaled

UID_BASE = 1_700_000_000
SANITIZER_EXIT = 99
SOURCE = Path(__file__).parents[2] / "src/quiltfn/guest"
STRICT = [
    "-std=c11",
    "-D_GNU_SOURCE",
    "-Wall",
    "-Wextra",
    "-Wshadow",
    "-Wconversion",
    "-Wmissing-prototypes",
    "-Werror",
]


def build_guest(target: Path, *, sanitized: bool, source: Path = SOURCE) -> Path:
    how = (
        ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
        if sanitized
        else ["-O2", "-static"]
    )
    units = sorted(one for one in source.glob("*.c") if one.name != "shell.c")
    subprocess.run(["cc", *STRICT, *how, "-o", target, *units], check=True)
    return target


@dataclass
class Outcome:
    """The result of one invocation, and the number of reads that the host needed for it."""

    end: End | None = None
    stdout: bytes = b""  # as clients see it: a separate result is at the end
    result: bytes = b""
    stderr: bytes = b""
    reads: int = 0
    seconds: float = 0.0
    alive_at_end: int = -1
    events: list[Event] = field(default_factory=list)


class BareGuest:
    """A sandbox with the guest. The test has the other end of the guest's socket."""

    def __init__(self, guest: Path, *options: str) -> None:
        """`options`: arguments of the guest, in addition to its usual three."""
        self.decoder = Decoder()
        self.waiting: list[Event] = []
        self.nonce = 41
        self.socket, inner = socket.socketpair()
        self.socket.settimeout(scaled(20))
        readable, tell = os.pipe()
        heard, say = os.pipe()
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", bare_namespaces.__file__, guest),
                *map(str, (inner.fileno(), heard, tell)),
                *options,
            ],
            pass_fds=(inner.fileno(), heard, tell),
            stdin=subprocess.DEVNULL,
        )
        for fd in (heard, tell):
            os.close(fd)
        inner.close()
        assert os.read(readable, 1) == b"u", "the bare_guest could not make its namespaces"
        for kind in ("uid", "gid"):
            Path(f"/proc/{self.process.pid}/{kind}_map").write_text(f"0 {UID_BASE} 65536")
        os.write(say, b"m")
        os.close(readable)
        os.close(say)
        hello = self.next()
        assert hello == Hello(PROTOCOL_VERSION)
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        self.guest_pid = int(children.read_text())
        self.namespace = os.readlink(f"/proc/{self.guest_pid}/ns/pid")
        # While this file is open, the kernel does not use the number of the namespace for another
        # test's sandbox.
        self.held = os.open(f"/proc/{self.guest_pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> int:
        """Closes the connection; returns the guest's exit status after checking that no process is
        left.
        """
        self.socket.close()
        status = self.wait()
        left = self.processes() if self.held >= 0 else []
        if self.held >= 0:
            os.close(self.held)
            self.held = -1
        assert left == []
        return status

    def wait(self) -> int:
        try:
            return self.process.wait(timeout=scaled(20))
        except subprocess.TimeoutExpired:
            os.kill(self.guest_pid, 9)
            self.process.wait()
            raise

    def processes(self) -> list[int]:
        """The pids on the host of all processes in the sandbox, including zombies."""
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    if os.readlink(f"/proc/{entry}/ns/pid") == self.namespace:
                        found.append(int(entry))
                except OSError:
                    continue
        return found

    def next(self) -> Event:
        while not self.waiting:
            data = self.socket.recv(1 << 18)
            if not data:
                raise EOFError("the guest hung up")
            self.waiting += self.decoder.feed(data)
        return self.waiting.pop(0)

    def specialise(
        self,
        argv: list[str],
        cwd: str = "/",
        environment: dict[str, str] | None = None,
        *,
        flags: int = 0,
    ) -> Specialised:
        env = {"PATH": "/usr/bin:/bin"} if environment is None else environment
        frame = encode_specialise(argv=argv, cwd=cwd, environment=env, flags=flags)
        self.socket.sendall(frame)
        event = self.next()
        assert isinstance(event, Specialised)
        return event

    def send_call(
        self,
        environment: dict[str, str] | None = None,
        payload: bytes | None = None,
        *,
        timeout_ms: int = 10_000,
        env_replaces: bool = False,
        is_followed: bool = False,
    ) -> None:
        self.nonce += 1
        self.socket.sendall(
            encode_call(
                nonce=self.nonce,
                timeout_ms=timeout_ms,
                environment=environment or {},
                payload=payload,
                env_replaces=env_replaces,
                is_followed=is_followed,
            )
        )

    def answer(self) -> Outcome:
        """Reads until the frame CLEAN, and checks that every frame belongs to the current
        invocation.
        """
        answer, began = Outcome(), time.monotonic()
        out, err = bytearray(), bytearray()
        while True:
            if not self.waiting:
                answer.reads += 1
            event = self.next()
            answer.events.append(event)
            assert isinstance(event, Output | End | Clean)
            assert event.nonce == self.nonce
            if isinstance(event, Output):
                assert answer.end is None
                if isinstance(event, Result):
                    answer.result += event.data
                (out if event.stream == "stdout" else err).extend(event.data)
            elif isinstance(event, End):
                answer.end = event
                answer.seconds = time.monotonic() - began
                answer.alive_at_end = len(self.processes())
            else:
                answer.stdout, answer.stderr = bytes(out), bytes(err)
                return answer

    def call(
        self,
        environment: dict[str, str] | None = None,
        payload: bytes | None = None,
        *,
        timeout_ms: int = 10_000,
        env_replaces: bool = False,
    ) -> Outcome:
        self.send_call(environment, payload, timeout_ms=timeout_ms, env_replaces=env_replaces)
        return self.answer()

    def run(self, script: str, *, timeout_ms: int = 10_000) -> Outcome:
        """Runs a script as the handler of one invocation. The guest must be specialised with `sh -c
        'eval "$SCRIPT"'`.
        """
        return self.call({"SCRIPT": script}, timeout_ms=timeout_ms)
