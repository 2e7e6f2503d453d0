"""The programs that make sandboxes: children that the event loop watches, two for each processor,
because each waits for the kernel half of its time, and more would only wait for each other.

Nothing here blocks for longer than a system call.
"""

import contextlib
import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from quiltfn.launcher import confine
from quiltfn.launcher.oci import CONTROL_FD

# It takes some 20 ms. Less than a caller waits for an instance, so that he is told what failed.
TIMEOUT_S = 6.0
NOT_STARTED = 127  # what a shell says of a program that it cannot start
# What runsc's own children are called, since it starts them as /proc/self/exe.
RE_EXECUTED = "exe"
STDIO_ON_NULL = [
    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
    (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
    (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
]
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


@dataclass(slots=True)
class Job:
    """One process. `command`: a program's path and its arguments; `done` is told its exit code.

    `guest_socket`: handed over as the descriptor that a guest speaks on, and closed. `prepare`:
    what the launcher does when its turn has come; `before`: what the child does before it becomes
    the program. If one of them raises OSError, the program is not started.
    """

    command: list[str]
    done: Callable[[int], None]
    guest_socket: socket.socket
    prepare: Callable[[], None] | None = None
    before: Callable[[], None] | None = None
    pid: int = field(default=0, init=False)
    pidfd: int = field(default=-1, init=False)
    deadline: float = field(default=0.0, init=False)


class Jobs:
    """Runs them; every answer comes by callback from the event loop."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._names = {RE_EXECUTED}
        self._jobs_max = 2 * (os.cpu_count() or 1)

    @property
    def is_idle(self) -> bool:
        return not self._running and not self._waiting

    def add(self, job: Job) -> None:
        self._waiting.append(job)
        self._run_waiting()

    def check(self, now: float) -> None:
        """Ends processes that hang, so that their job fails; and takes leave of orphans."""
        for job in self._running:
            if now >= job.deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(job.pid, signal.SIGKILL)
        self.reap_orphans()

    def reap_orphans(self) -> None:
        """Both programs leave children behind that become ours. One that cannot be reaped yet, or
        is behind somebody who is reaped elsewhere, is met in a later turn.
        """
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        with contextlib.suppress(OSError):
            while (ended := os.waitid(os.P_ALL, 0, look)) is not None:
                pid = ended.si_pid
                comm = Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
                if comm not in self._names or any(job.pid == pid for job in self._running):
                    return
                os.waitpid(pid, 0)

    def _run_waiting(self) -> None:
        while self._waiting and len(self._running) < self._jobs_max:
            job = self._waiting.popleft()
            try:
                if job.prepare is not None:
                    job.prepare()
                job.pid = _spawn(job) if job.before is None else _fork(job, job.before)
            except OSError:  # the program was taken away, or there is no room for a process
                job.done(NOT_STARTED)
                continue
            finally:
                job.guest_socket.close()
            self._names.add(os.path.basename(job.command[0])[:15])
            job.pidfd = os.pidfd_open(job.pid)
            job.deadline = time.monotonic() + TIMEOUT_S
            self._running.append(job)
            self._selector.register(
                job.pidfd, selectors.EVENT_READ, lambda job=job: self._ended(job)
            )

    def _ended(self, job: Job) -> None:
        self._selector.unregister(job.pidfd)
        os.close(job.pidfd)
        _, status = os.waitpid(job.pid, 0)
        self._running.remove(job)
        self.reap_orphans()
        job.done(os.waitstatus_to_exitcode(status))
        self._run_waiting()


def _spawn(job: Job) -> int:
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = list(STDIO_ON_NULL)
    actions.append((os.POSIX_SPAWN_DUP2, job.guest_socket.fileno(), CONTROL_FD))
    return os.posix_spawn(
        job.command[0],
        job.command,
        ENVIRONMENT,
        file_actions=actions,
        setsigmask=(),
        setsigdef=_all_signals(),
    )


def _fork(job: Job, before: Callable[[], None]) -> int:
    """Dearer than `_spawn`, and needed where the child has something to do for itself first."""
    pid = os.fork()
    if pid:
        return pid
    try:
        confine.forget_the_launcher()
        before()
        os.dup2(job.guest_socket.fileno(), CONTROL_FD)
        os.set_inheritable(CONTROL_FD, True)
        os.execve(job.command[0], job.command, ENVIRONMENT)
    finally:
        os._exit(NOT_STARTED)


def _all_signals() -> Iterable[signal.Signals]:
    return signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
