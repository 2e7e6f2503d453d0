"""Commands of the server's machine for tests, each in a process of its own that has been forked.

Nine tenths of the processor time of `quiltfn keys` or `quiltfn backup` goes to the start of Python
and to imports, which are the same each time. Here one process has made them, and forks for each
command: what runs from there is the program's own `main`, with its words, its environment, its
directory and its output. Run as a script this is that process.

That a command finds all that it imports when it starts from nothing is for tests that use
`e2e.server.QUILTFN` or `own_process`.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

WORDS = ("backup", "doctor", "fleet", "keys", "restore", "store")
MODULES = (
    *(f"quiltfn.operator.{name}" for name in ("backup", "doctor", "fleet", "keys", "store")),
    "quiltfn.operator.fleet_doctor",
    "quiltfn.store.postgresql",
)
REQUEST_MAX = 1 << 17  # bytes


# The process that forks --------------------------------------------------------------------------


def serve(door: socket.socket) -> None:
    """One command after another, until nobody can ask for more. Returns in a command as well, once
    it is about to run.
    """
    while True:
        request, given, *_ = socket.recv_fds(door, REQUEST_MAX, 3)
        if not request:
            sys.exit()
        pid = os.fork()
        if pid == 0:
            door.close()
            return become(json.loads(request), given)
        for one in given:
            os.close(one)
        door.send(str(pid).encode())
        _, status = os.waitpid(pid, 0)
        door.send(str(os.waitstatus_to_exitcode(status)).encode())


def become(told: dict[str, object], given: Sequence[int]) -> None:
    """From now on this process is the command."""
    for number, one in enumerate(given):
        os.dup2(one, number)
        os.close(one)
    os.chdir(str(told["cwd"]))
    environment, words = told["env"], told["words"]
    assert isinstance(environment, dict)
    assert isinstance(words, list)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = words


def main() -> None:
    """Makes the imports, and serves at the socket that is the first argument."""
    from quiltfn import __main__ as program  # noqa: PLC0415 — the tests' process has no use for it

    for name in MODULES:
        importlib.import_module(name)
    gc.freeze()
    serve(socket.socket(fileno=int(sys.argv[1])))
    program.main()


# The tests' process ------------------------------------------------------------------------------


@dataclass
class Forks:
    """The process that forks, started when it is first needed and ended with this one."""

    _door: socket.socket | None = None
    _one: threading.Lock = field(default_factory=threading.Lock)

    def run(
        self, words: Sequence[str], timeout_s: float, *, cwd: str, env: Mapping[str, str]
    ) -> tuple[int, str, str]:
        """The exit code of a command, and what it wrote to its output and to its errors.

        Raises `subprocess.TimeoutExpired` where it took longer, and has been killed.
        """
        request = json.dumps({"words": list(words), "cwd": cwd, "env": dict(env)}).encode()
        with (
            self._one,
            open(os.devnull, "rb") as nothing,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as errors,
        ):
            door = self._opened()
            files = [one.fileno() for one in (nothing, out, errors)]
            socket.send_fds(door, [request], files)
            pid = int(door.recv(64))
            is_over = select.select([door], [], [], timeout_s)[0]
            if not is_over:
                os.kill(pid, signal.SIGKILL)
            code = int(door.recv(64))
            if not is_over:
                raise subprocess.TimeoutExpired(list(words), timeout_s)
            out.seek(0)
            errors.seek(0)
            return code, out.read().decode(), errors.read().decode()

    def _opened(self) -> socket.socket:
        if self._door is None:
            self._door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                process = subprocess.Popen(
                    # -P: what is beside this file hides no module of the program's.
                    [sys.executable, "-P", __file__, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            atexit.register(process.wait)
            atexit.register(self._door.close)  # first
        return self._door


if __name__ == "__main__":
    main()
