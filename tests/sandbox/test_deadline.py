"""The launcher ends a node's sandboxes at its deadline, even if the server is stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.server import is_alive, until, why_not
from promises import promise
from quiltfn.launcher.deadline import Deadline, boottime
from sandbox.launcher_process import LauncherProcess, place, run_launcher
from timeouts import full_wait, scaled

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    promise("N14"),
]

# The deadline, in seconds after the sandboxes were created, and how long after it the last process
# may live.
DEADLINE_S, LATER_S = 3.0, 1.0


@pytest.fixture
def made() -> Iterator[LauncherProcess]:
    with place() as path, run_launcher(path) as launcher:
        yield launcher


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stops a process by SIGSTOP during the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def hand_over(made: LauncherProcess, at: float) -> None:
    assert "error" not in made.do(f"answer = ask('deadline', deadline={at!r})")


def processes(made: LauncherProcess) -> set[int]:
    """The processes of all sandboxes, according to their control groups."""
    found = set()
    for path, _, files in os.walk("/sys/fs/cgroup"):
        is_sandbox = Path(path).parent.name == made.id and len(Path(path).name) == 24
        if is_sandbox and "cgroup.procs" in files:
            with contextlib.suppress(OSError):  # the group was removed meanwhile
                found |= {int(pid) for pid in Path(path, "cgroup.procs").read_text().split()}
    return found


def until_boottime(at: float) -> None:
    while (left := at - boottime()) > 0:
        time.sleep(left)


def two_sandboxes(made: LauncherProcess, **more: float) -> set[int]:
    """Creates two sandboxes; returns the pids of their processes."""
    for _ in range(2):
        assert "sandbox" in made.create(**more)
    found = processes(made)
    assert len(found) >= 2
    return found


def test_a_stopped_server_s_sandboxes_end_at_the_deadline(made: LauncherProcess) -> None:
    """The server's machine lacks CPU time for so long that other nodes take the node over."""
    at = boottime() + full_wait(DEADLINE_S)
    inside = two_sandboxes(made, deadline=at)
    with stopped(made.server_pid):
        until_boottime(at - 0.5)
        assert processes(made) == inside  # the sandboxes do not end before the deadline
        until_boottime(at + LATER_S)
        assert processes(made) == set()
        assert not [pid for pid in inside if is_alive(pid)]
    # The launcher also refuses a creation that was requested before the deadline.
    assert "not been heard of" in made.create(deadline=at)["error"]
    assert "not been heard of" in made.create()["error"]
    assert processes(made) == set()
    assert "sandbox" in made.create(deadline=boottime() + scaled(60))


@promise("N15")
def test_without_a_deadline_they_would_live_on(made: LauncherProcess) -> None:
    """Negative control; a standalone server has no deadline."""
    inside = two_sandboxes(made)
    with stopped(made.server_pid):
        until_boottime(boottime() + full_wait(DEADLINE_S) + LATER_S)
        assert processes(made) == inside
    assert "sandbox" in made.create()


def test_each_renewal_moves_it(made: LauncherProcess) -> None:
    first = boottime() + full_wait(DEADLINE_S)
    inside = two_sandboxes(made, deadline=first)
    hand_over(made, first + full_wait(DEADLINE_S))
    hand_over(made, first - 1)  # a delayed message must not make the deadline earlier
    until_boottime(first + LATER_S)
    assert processes(made) == inside
    until_boottime(first + full_wait(DEADLINE_S) + LATER_S)
    assert processes(made) == set()


def test_a_sandbox_that_is_being_made_ends_as_well(made: LauncherProcess) -> None:
    asks = (
        "[channel.send(json.dumps({'n': n, 'verb': 'create', 'deadline': at, **wanted}).encode())"
    )
    wanted: dict[str, object] = {
        "memory_mib": 64,
        "cpu_percent": 100,
        "image": None,
        "base_image": None,
        "packages": None,
        "network": "none",
        "writable_paths": [],
        "isolation": "crun",
        **{"pids": 64, "tmp_mib": 64, "file_mib": 64, "open_files": 1024},
    }
    made.do(
        f"wanted = {wanted!r}\n"
        "at = time.clock_gettime(time.CLOCK_BOOTTIME) + 0.02\n"
        f"{asks} for n in range(12)]"
    )
    until(lambda: not processes(made) and not made.sandboxes(), 10)
    time.sleep(0.5)
    assert not processes(made)
    assert is_alive(made.launcher)


def test_a_stopped_launcher_is_made_up_for_by_the_server(made: LauncherProcess) -> None:
    """The launcher is stopped, so the server closes its connections to its guests; then each guest
    ends its sandbox by itself.
    """
    inside = two_sandboxes(made, deadline=boottime() + full_wait(DEADLINE_S))
    with stopped(made.launcher):
        made.do("[os.close(one) for one in kept]; kept.clear()")
        until(lambda: not [pid for pid in inside if is_alive(pid)], 5)


def test_where_both_are_stopped_they_end_when_the_launcher_goes_on(made: LauncherProcess) -> None:
    """This is a limit of the deadline: while server and launcher are stopped, no process can end
    the sandboxes.
    """
    at = boottime() + full_wait(DEADLINE_S)
    inside = two_sandboxes(made, deadline=at)
    with stopped(made.server_pid):
        with stopped(made.launcher):
            until_boottime(at + LATER_S)
            assert processes(made) == inside
        until(lambda: not processes(made), LATER_S)


def test_the_event_loop_wakes_for_it() -> None:
    deadline = Deadline(lambda: None)
    assert deadline.left_s(1.0) == 1.0
    deadline.set(boottime() + 0.25)
    assert 0.1 < deadline.left_s(1.0) <= 0.25
    assert deadline.left_s(0.01) == 0.01
    late = Deadline(lambda: None)
    late.set(boottime() - 1)
    # after the deadline, the loop waits instead of running without a pause
    assert late.left_s(1.0) == 1.0
