"""A launcher whose server is under the test's control: it runs code that the test sends.

This way, a test can act as a compromised server, with the server's uid and descriptors. If this
file is run as a script, it is the launcher's process.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.server import CRUN, children, is_alive
from quiltfn.launcher import host_image, images, jobs
from quiltfn.launcher.main import Launcher, Options
from quiltfn.operator.chosen_settings import room_of
from quiltfn.operator.serve import GUEST, program_paths
from quiltfn.settings import Settings
from timeouts import scaled

RUNSC = "/usr/bin/runsc"
# This server keeps the default action of SIGTERM: a Python handler would not run if the signal
# arrived just before `recv` blocks.
STAND_IN = r"""
import contextlib, json, os, signal, socket, sys, time
given = dict(one[2:].split("=", 1) for one in sys.argv[2:])
channel = socket.socket(fileno=int(given["channel"]))
test = socket.socket(fileno=int(sys.argv[1]))
kept = []

def ask(verb, **more):
    channel.send(json.dumps({"n": 1, "verb": verb, **more}).encode())
    data, descriptors, _, _ = socket.recv_fds(channel, 65536, 2)
    kept.extend(descriptors)
    return json.loads(data)

def create(**more):
    wanted = dict(memory_mib=64, cpu_percent=100, image=None, network="none", writable_paths=[])
    wanted |= dict(pids=64, tmp_mib=64, file_mib=64, open_files=1024, isolation="crun")
    return ask("create", **{**wanted, "base_image": None, "packages": None, **more})

def orphan(work):
    '''`work` in a process whose parent has ended.'''
    first = os.fork()
    if first == 0:
        if os.fork() == 0:
            with contextlib.suppress(BaseException):
                work()
        os._exit(0)
    os.waitpid(first, 0)

def call_me(name):
    with open("/proc/self/comm", "w") as file:
        file.write(name)

test.send(b'"ready"')
while code := test.recv(65536):
    answer = None
    try:
        exec(code)
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    test.send(json.dumps(answer).encode())
"""


@dataclass
class LauncherProcess:
    """A running launcher and its directories; its server is under the test's control."""

    root: Path
    process: subprocess.Popen[bytes]
    server: socket.socket
    log: Path
    id: str = field(init=False)

    def do(self, code: str) -> Any:
        """Makes the server run this code; returns the value of its variable `answer`, or raises its
        exception.
        """
        self.server.send(code.encode())
        return json.loads(self.server.recv(65536))

    def create(self, **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.do(f"answer = create(**{more!r})")
        return answer

    def destroy(self, sandbox: str) -> None:
        assert "error" not in self.do(f"answer = ask('destroy', sandbox={sandbox!r})")

    @property
    def launcher(self) -> int:
        return self.process.pid

    @property
    def server_pid(self) -> int:
        return int(self.do("answer = os.getpid()"))

    def said(self) -> str:
        return self.log.read_text()

    def zombies(self) -> list[int]:
        return [pid for pid in children(self.launcher) if not is_alive(pid)]

    def groups(self) -> set[str]:
        """The names of the control groups below this launcher's group, in all hierarchies."""
        found = set()
        for path, names, _ in os.walk("/sys/fs/cgroup"):
            if path.endswith(f"/{self.id}"):
                found |= set(names)
            found |= {name for name in names if name == f"quiltfn-server-{self.id}"}
        return found

    def sandboxes(self) -> set[str]:
        """The names of sandboxes that have a control group."""
        return {name for name in self.groups() if len(name) == 24}

    def wait(self, timeout_s: float = 20.0) -> int:
        return self.process.wait(scaled(timeout_s))


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """A directory that the root user of a sandbox can reach."""
    path = Path(tempfile.mkdtemp(prefix="quiltfn-launcher-"))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def run_launcher(
    root: Path, *, data: str = "data", through: Sequence[str] = (), **how: Any
) -> Iterator[LauncherProcess]:
    """Runs a launcher until the end of the block. `through`: a command that executes the launcher.
    `how`: `crun`, `runsc`: paths; `job_s`: the time limit of a program; `made_max`, `mounted_max`:
    limits on directories and mounts. If the launcher has ended by itself or by SIGTERM, checks that
    nothing of it is left.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    log = root / f"{data}.log"
    how = {"run_dir": str(root / "run"), "data_dir": str(root / data), **how}
    before = _servers(root)
    with ours:
        ours.settimeout(scaled(30))
        with theirs, log.open("ab") as errors:
            process = subprocess.Popen(
                [*through, sys.executable, __file__, str(theirs.fileno()), json.dumps(how)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                start_new_session=True,
            )
        made = LauncherProcess(root, process, ours, log)
        try:
            assert ours.recv(64) == b'"ready"', f"the launcher did not start: {log.read_text()}"
            (made.id,) = _servers(root) - before
            yield made
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(scaled(20))
            finally:
                process.kill()
    if code != -signal.SIGKILL:
        assert "Traceback" not in log.read_text(), log.read_text()
        assert made.id not in _servers(root)
        assert not made.groups()


def _servers(root: Path) -> set[str]:
    servers = root / "run" / "servers"
    return {one.name for one in servers.iterdir()} if servers.is_dir() else set()


def main(handed: str, options: str) -> int:
    """Runs the launcher in its process."""
    how = json.loads(options)
    jobs.TIMEOUT_S = how.get("job_s", jobs.TIMEOUT_S)
    host_image.MADE_MAX = how.get("made_max", host_image.MADE_MAX)
    images.MOUNTED_MAX = how.get("mounted_max", images.MOUNTED_MAX)
    return Launcher(
        Options(
            host="127.0.0.1",
            port=0,
            data_dir=Path(how["data_dir"]),
            run_dir=Path(how["run_dir"]),
            guest=GUEST,
            server=[sys.executable, "-I", "-c", STAND_IN, handed],
            given={},
            program=program_paths(),
            crun=how.get("crun", CRUN),
            room=room_of(Settings()),
            runsc=how.get("runsc", RUNSC),
        )
    ).run()


if __name__ == "__main__":
    os.set_inheritable(int(sys.argv[1]), True)
    sys.exit(main(*sys.argv[1:]))
