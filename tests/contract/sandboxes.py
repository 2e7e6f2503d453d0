"""The implementations for the suite of sandboxes: the fake, and a real launcher with its guests.

Run as a script, this is a launcher whose "server" only passes its channel to the test, so that the
suite uses real sandboxes in its own process and event loop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from quiltfn.launcher.main import Launcher, Options
from quiltfn.operator.chosen_settings import room_of
from quiltfn.operator.serve import GUEST, program_paths
from quiltfn.ports import Sandbox, Sandboxes
from quiltfn.sandbox.channel import LauncherChannel
from quiltfn.sandbox.client import LauncherSandboxes
from quiltfn.sandbox.fake import FakeSandbox, FakeSandboxes
from quiltfn.settings import Settings
from timeouts import scaled

CRUN = "/usr/bin/crun"
RELAY = """
import signal, socket, sys
given = dict(one[2:].split("=", 1) for one in sys.argv[2:])
with socket.socket(fileno=int(sys.argv[1])) as test:
    socket.send_fds(test, [b"here you are"], [int(given["channel"])])
signal.pause()
"""


@dataclass
class Kind:
    """One implementation of sandboxes, and how to simulate outside events for it."""

    sandboxes: Sandboxes
    kill: Callable[[Sandbox], None]
    out_of_memory: str
    long_output: str


def why_not_real() -> str | None:
    """The reason why this machine can have no real sandboxes; None: it can."""
    if os.geteuid() != 0:
        return "needs root"
    if not os.access(CRUN, os.X_OK):
        return f"needs {CRUN}"
    return None if GUEST.exists() else "the guest was not built: run scripts/setup"


def fake_kind() -> Kind:
    def kill(sandbox: Sandbox) -> None:
        assert isinstance(sandbox, FakeSandbox)
        sandbox.end_by_itself()

    return Kind(FakeSandboxes(), kill, "oom", "echo " + "x" * 6_291_480)


@contextlib.asynccontextmanager
async def real_kind(shared: socket.socket) -> AsyncIterator[Kind]:
    """Real sandboxes. They use the channel of a launcher that several tests share, one after the
    other.
    """
    channel = LauncherChannel(shared.dup())
    try:
        yield Kind(
            LauncherSandboxes(channel),
            lambda sandbox: channel.tell("kill", sandbox=sandbox.id),
            "exec tail /dev/zero",
            "head -c 6291480 /dev/zero | tr '\\0' x; echo",
        )
    finally:
        channel.close()


@contextlib.contextmanager
def launcher() -> Iterator[socket.socket]:
    """A separate launcher, and the channel to it. At the end, check that nothing of the launcher is
    left.
    """
    with tempfile.TemporaryDirectory(prefix="quiltfn-") as directory:
        Path(directory).chmod(0o711)  # a sandbox's root user must be able to reach the directory
        with launcher_in(Path(directory)) as channel:
            yield channel


@contextlib.contextmanager
def launcher_in(directory: Path) -> Iterator[socket.socket]:
    run_dir = directory / "run"
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), run_dir, directory / "data"],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        try:
            ours.settimeout(scaled(30))
            _, descriptors, _, _ = socket.recv_fds(ours, 64, 1)
            assert descriptors, "the launcher did not start"
            (server,) = (run_dir / "servers").iterdir()
            with socket.socket(fileno=descriptors[0]) as channel:
                yield channel
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(scaled(20))
            finally:
                process.kill()
    assert code == 0
    assert list((run_dir / "servers").iterdir()) == []
    assert groups_of(server.name) == []
    assert processes_of(run_dir) == []


def groups_of(server: str) -> list[Path]:
    """Control groups that a server has left behind."""
    return [path for path in Path("/sys/fs/cgroup").glob(f"**/{server}") if path.is_dir()]


def processes_of(run_dir: Path) -> list[str]:
    """Processes that name the run directory in their command line or mounts."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            text = (process / "cmdline").read_text() + (process / "mountinfo").read_text()
            if str(run_dir) in text:
                found.append(process.name)
    return found


def main(handed: str, run_dir: str, data_dir: str) -> int:
    """The entry point of the launcher's process."""
    return Launcher(
        Options(
            host="127.0.0.1",
            port=0,
            data_dir=Path(data_dir),
            run_dir=Path(run_dir),
            guest=GUEST,
            server=[sys.executable, "-I", "-c", RELAY, handed],
            given={},
            program=program_paths(),
            crun=CRUN,
            room=room_of(Settings()),
        )
    ).run()


if __name__ == "__main__":
    os.set_inheritable(int(sys.argv[1]), True)
    sys.exit(main(*sys.argv[1:]))
