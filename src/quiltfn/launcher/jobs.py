"""Run crun, runsc, and other programs, and end those that hang.

At most two programs run per CPU: each waits for the kernel half of its time, and more would only
wait for each other. Nothing here blocks for longer than a system call.
"""

import contextlib
import errno
import functools
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from quiltfn.base.immutable import ByKeywords
from quiltfn.launcher import confine
from quiltfn.launcher.children import Children, Process, kill_trees, processes
from quiltfn.launcher.oci import CONTROL_FD
from quiltfn.launcher.signals import SETTABLE

# Usually a program takes some 20 ms. The limit is shorter than a caller's maximum wait for an
# instance, so that the caller gets the cause.
TIMEOUT_S = 6.0
# How long the launcher keeps killing processes that a failed program has left.
LEFT_BEHIND_S = 2.0
LATE = "had not ended after"  # part of the reason if the time limit ended a program
NOT_STARTED = 127  # the exit code of shells if they cannot start a program
NO_PROCESS = (
    "no further process can be started: the machine or the control group of quiltfn has as many "
    "as it may have (pid_max, threads-max, pids.max or ulimit -u)"
)
STDIO_ON_NULL = [
    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
    (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
    (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
]
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# A variable that every program gets and its children inherit; it identifies their server.
MARK = "QUILTFN_SERVER"


class Job(ByKeywords):
    """One process. `command`: a program's path and its arguments. `done` gets the reason for a
    failure, or "".

    `guest_socket`: becomes the guest's control descriptor, and is closed here. `prepare` runs in
    the launcher just before the start, `before` in the child before it executes the program. If
    `prepare` or `before` raises OSError, the program is not started.
    """

    command: list[str]
    done: Callable[[str], None]
    guest_socket: socket.socket
    prepare: Callable[[], None] | None = None
    before: Callable[[], None] | None = None
    pid: int = 0
    deadline: float = 0.0
    why: str = ""

    @property
    def program(self) -> str:
        return os.path.basename(self.command[0])


class Jobs:
    """Runs jobs. Every result comes by callback from the event loop.

    `server`: the server's id, which is part of the names of all its control groups.
    """

    def __init__(self, children: Children, server: str) -> None:
        self._children, self._server = children, server
        self._environment = {"PATH": PATH, MARK: server}
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._failed: list[Job] = []  # jobs that have failed and may have left child processes
        self._jobs_max = 2 * (os.cpu_count() or 1)

    @property
    def is_idle(self) -> bool:
        return not (self._running or self._waiting or self._failed)

    @property
    def is_pressed(self) -> bool:
        """Whether to call `check` again within milliseconds."""
        return bool(self._failed)

    def add(self, job: Job) -> None:
        self._waiting.append(job)
        self._run_waiting()

    def check(self, now: float) -> None:
        """Kills programs that hang, so that their jobs fail, and processes that failed programs
        left.
        """
        late = [job for job in self._running if now >= job.deadline and not job.why]
        if late:
            kill_trees({job.pid for job in late}, list(processes()))
        for job in late:
            job.why = f"{job.program} {LATE} {TIMEOUT_S:.0f} s and was killed"
        self._end_left_behind(now)

    def _run_waiting(self) -> None:
        while self._waiting and len(self._running) < self._jobs_max:
            job = self._waiting.popleft()
            with job.guest_socket:
                why = self._start(job)
            if why:
                job.done(why)
                continue
            job.deadline = time.monotonic() + TIMEOUT_S
            self._running.append(job)

    def _start(self, job: Job) -> str:
        """Starts the program; returns the reason if that fails, otherwise ""."""
        try:
            if job.prepare is not None:
                job.prepare()
        except OSError as error:
            return f"its files cannot be mounted: {error}"
        try:
            job.pid = (_spawn if job.before is None else _fork)(job, self._environment)
            self._children.watch_new(job.pid, functools.partial(self._ended, job))
        except OSError as error:
            return cannot_start(job.program, error)
        return ""

    def _ended(self, job: Job, code: int) -> None:
        self._running.remove(job)
        if code == 0 and not job.why:
            job.done("")
        else:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
            if code == NOT_STARTED and job.before is not None:
                how = "cannot be started"
            job.why = job.why or f"{job.program} {how}"
            job.deadline = time.monotonic() + LEFT_BEHIND_S
            self._failed.append(job)
        self._run_waiting()

    def _end_left_behind(self, now: float) -> None:
        """Calls `done` of a failed job once none of its child processes is left. Until then, such a
        process could still create groups and mounts of a sandbox that counts as removed.
        """
        failed = list(self._failed)
        if not failed:
            return
        table = list(processes())
        strays = self._strays(table)
        kill_trees(strays, table)
        for job in failed:
            if not strays or now >= job.deadline:
                self._failed.remove(job)
                job.done(job.why)

    def _strays(self, table: list[Process]) -> set[int]:
        """Processes left by a program and adopted by the launcher: children that no job waits for,
        outside the server's control groups. Processes in such a group end with the group.
        """
        own = os.getpid()
        found = [one.pid for one in table if one.parent == own and not one.is_dead]
        # Reap ended programs first, so that none is mistaken for a stray.
        self._children.reap()
        return {pid for pid in found if not self._children.knows(pid) and self._is_stray(pid)}

    def _is_stray(self, pid: int) -> bool:
        """Whether a program of this server left the process. The launcher may be pid 1 of a
        container, which adopts other processes, too.
        """
        process = Path(f"/proc/{pid}")
        with contextlib.suppress(OSError):  # the process has ended
            is_marked = f"{MARK}={self._server}".encode() in (process / "environ").read_bytes()
            return is_marked and self._server not in (process / "cgroup").read_text()
        return False


def cannot_start(program: str, error: OSError) -> str:
    """The reason for the operator, as a sentence."""
    why = NO_PROCESS if error.errno == errno.EAGAIN else error.strerror or str(error)
    return f"{program} cannot be started: {why}"


def explained(sentence: str) -> str:
    """Adds an explanation to a program's message if no process can be started."""
    return f"{sentence}: {NO_PROCESS}" if os.strerror(errno.EAGAIN) in sentence else sentence


def _spawn(job: Job, environment: dict[str, str]) -> int:
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = list(STDIO_ON_NULL)
    actions.append((os.POSIX_SPAWN_DUP2, job.guest_socket.fileno(), CONTROL_FD))
    return os.posix_spawn(
        job.command[0],
        job.command,
        environment,
        file_actions=actions,
        setsigmask=(),
        setsigdef=SETTABLE,
    )


def _fork(job: Job, environment: dict[str, str]) -> int:
    """Starts a job with `before`. Costs more than `_spawn`, since it copies the page tables."""
    pid = os.fork()
    if pid:
        return pid
    try:
        confine.forget_the_launcher()
        if job.before is not None:
            job.before()
        os.dup2(job.guest_socket.fileno(), CONTROL_FD)
        os.set_inheritable(CONTROL_FD, True)
        os.execve(job.command[0], job.command, environment)
    finally:
        os._exit(NOT_STARTED)
