"""The system calls of a warm invocation, counted: one round trip to the guest, one process, and no
opened files.
"""

import contextlib
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import sample_runtimes
from e2e.server import Function, Server, until, watched
from promises import promise
from timeouts import scaled

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
    promise("R17"),
]
CALLS = 20
LINE = re.compile(r"^(?:\[pid +\d+\] |\d+ +)?(\w+)\((.*?)\)? += (-?\d+|\?)")
# Matches epoll_wait(4, [], 1024, 0) and epoll_pwait(4, [], 1024, 0, NULL, 8): polls without
# waiting.
WITHOUT_WAIT = re.compile(r", \d+, 0(?:, NULL, \d+)?\)")
NEW_PROCESS = {"fork", "vfork", "clone", "clone3"}


class Traced:
    """The observed system calls. `counts`: how often each succeeded; `lines`: all of them in
    strace's format.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    @property
    def lines(self) -> list[str]:
        return self._file.read_text(errors="replace").splitlines()

    def counts(self) -> Counter[str]:
        found = (LINE.match(line) for line in self.lines)
        return Counter(one[1] for one in found if one and one[3] != "-1")


@contextlib.contextmanager
def traced(pid: int, names: str, directory: Path, *more: str) -> Iterator[Traced]:
    file = directory / f"trace-{pid}"
    command = ["strace", *more, "-p", str(pid), "-e", f"trace={names}", "-o", str(file)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert b"attached" in process.stderr.readline()
        try:
            yield Traced(file)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(scaled(10))


def guest_of(server: Server) -> int:
    (guest,) = server.guests().values()
    return guest


@pytest.fixture(scope="module")
def bare() -> Iterator[Server]:
    with watched("--prewarmed 0") as server:
        yield server.start()


@pytest.fixture
def lone(bare: Server) -> Iterator[Server]:
    """A server whose only sandbox is that of the test's function."""
    yield bare
    for function in bare.call("GET", "/api/functions").json()["functions"]:
        Function(bare, function["id"]).delete()
    until(lambda: not bare.sandbox_pids())


def test_a_warm_call_opens_nothing_and_starts_nothing(lone: Server, tmp_path: Path) -> None:
    function = lone.deploy("echo hello")
    function.invoke()
    names = "openat,open,creat,execve,execveat,socket,connect,accept4,fork,vfork,clone,clone3"
    with traced(lone.pid, names, tmp_path, "-f") as seen:
        for _ in range(CALLS):
            function.invoke()
    assert not seen.counts(), seen.lines
    with traced(lone.launcher, "all", tmp_path, "-f") as launcher:
        for _ in range(CALLS):
            function.invoke()
    counts = launcher.counts()
    assert not NEW_PROCESS & set(counts)
    assert counts["recvfrom"] + counts["recvmsg"] + counts["sendmsg"] == 0, launcher.lines


def test_negative_control_a_cold_call_is_seen(lone: Server, tmp_path: Path) -> None:
    function = lone.create("echo hello")
    with traced(lone.launcher, "execve,fork,vfork,clone,clone3", tmp_path) as seen:
        function.deploy()
    assert NEW_PROCESS & set(seen.counts())


def test_the_end_of_a_sandbox_starts_nothing(lone: Server, tmp_path: Path) -> None:
    function = lone.deploy("echo hello")
    with traced(lone.launcher, "execve,fork,vfork,clone,clone3,rmdir", tmp_path, "-f") as launcher:
        function.delete()
        until(lambda: not lone.sandbox_pids())
        until(lambda: not any((lone.sandbox_files / "bundles").iterdir()))
    counts = launcher.counts()
    assert counts.pop("rmdir") > 0
    assert not counts, launcher.lines


def test_a_server_without_calls_hardly_wakes(lone: Server, tmp_path: Path) -> None:
    lone.deploy("echo hello")
    time.sleep(2)
    with traced(lone.pid, "epoll_wait,epoll_pwait", tmp_path) as seen:
        time.sleep(3)
    # What wakes an idle server each second: the date for responses, a check of the pools, and two
    # checks of the keys, for which another thread may wake it. After waking, the server polls again
    # without waiting, which is not counted.
    sleeps = [line for line in seen.lines if not WITHOUT_WAIT.search(line)]
    assert 3 < len(sleeps) < 3 * 10, seen.lines


def test_a_warm_shell_call_is_one_round_trip_and_one_fork(lone: Server, tmp_path: Path) -> None:
    function = lone.deploy("echo hello")

    def call() -> None:
        function.invoke()
        until(lambda: function.pool()["ready_count"] == 1)

    def calls(traces: str, pid: int) -> Traced:
        with traced(pid, traces, tmp_path) as seen:
            for _ in range(CALLS):
                call()
        return seen

    call()
    guest = guest_of(lone)
    seen = calls("recvfrom,sendto,sendmsg,fork,vfork,clone,clone3", guest)
    to_host = [line for line in seen.lines if line.startswith("sendto(3,")]
    from_host = [line for line in seen.lines if line.startswith("recvfrom(3,")]
    # The guest may already wait for the first invocation when tracing begins, and the last one may
    # be cut off.
    assert CALLS <= len(from_host) <= CALLS + 1, seen.lines
    # On a busy machine, the output of an invocation may be sent before its end, since it is held
    # back for only two milliseconds.
    assert CALLS <= len(to_host) <= CALLS + 3, seen.lines
    counts = seen.counts()
    # each message requests the shell for the next invocation
    assert CALLS - 1 <= counts["sendmsg"] <= CALLS
    assert not NEW_PROCESS & set(counts)

    (before,) = lone.sandbox_pids().values()
    call()
    (after,) = lone.sandbox_pids().values()
    (zygote,) = set(before) & set(after) - {guest}
    within = calls("fork,vfork,clone,clone3,execve,open,openat,mmap", zygote).counts()
    assert CALLS - 1 <= within.pop("clone") <= CALLS
    assert not within, "it only forks"


@pytest.mark.parametrize(("cleanup", "forks"), [(False, 0), (True, CALLS)])
def test_a_warm_python_call_starts_no_interpreter(
    lone: Server, tmp_path: Path, cleanup: bool, forks: int
) -> None:
    function = sample_runtimes.python(lone, "def handler(): return 1", cleanup_on_exit=cleanup)
    function.invoke()
    guest = guest_of(lone)
    with traced(guest, "recvfrom,sendto,fork,vfork,clone,clone3,execve", tmp_path) as seen:
        for _ in range(CALLS):
            function.invoke()
    counts = seen.counts()
    to_host = [line for line in seen.lines if line.startswith("sendto(3,")]
    from_host = [line for line in seen.lines if line.startswith("recvfrom(3,")]
    assert CALLS <= len([line for line in from_host if "= -1" not in line]) <= CALLS + 1
    # As above; in addition, the fork of a traced process often takes longer than these two
    # milliseconds.
    assert CALLS <= len(to_host) <= (2 * CALLS if cleanup else CALLS + 3)
    assert not NEW_PROCESS & set(counts)
    (pids,) = lone.sandbox_pids().values()
    runner = next(pid for pid in pids if pid != guest)
    with traced(runner, "fork,vfork,clone,clone3,execve,openat", tmp_path) as within:
        for _ in range(CALLS):
            function.invoke()
    counts = within.counts()
    assert forks - 1 <= sum(counts[name] for name in NEW_PROCESS) <= forks, within.lines
    assert counts["execve"] == 0
