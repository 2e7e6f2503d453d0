"""Reap every child of the launcher; report the end of watched ones.

Descendants of the launcher that lose their parent become its children: guests, leftovers of an OCI
runtime, forks of the server. A process is identified by its number alone, never by its name.
"""

import contextlib
import os
import selectors
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple


class _Watched(NamedTuple):
    pidfd: int
    ended: Callable[[int], None]


class Children:
    """Reports each child's end by callback from the event loop. Nothing here blocks."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self.selector = selector
        self._watched: dict[int, _Watched] = {}

    def watch(self, pid: int, ended: Callable[[int], None]) -> None:
        """Calls `ended` once, after the child's end, with its exit code, or minus the number of the
        signal that killed it.

        Raises OSError if there is no such child, or if no descriptor is left to watch it. The child
        then continues.
        """
        if pid in self._watched:
            raise ChildProcessError(f"process {pid} is another's already")
        pidfd = os.pidfd_open(pid)
        try:
            # The child may have been reaped by now, and its number may belong to another process.
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            self.selector.register(pidfd, selectors.EVENT_READ, self.reap)
        except OSError:
            os.close(pidfd)
            raise
        self._watched[pid] = _Watched(pidfd, ended)

    def watch_new(self, pid: int, ended: Callable[[int], None]) -> None:
        """Like `watch`, for a child that was just started: it is killed if it cannot be watched."""
        try:
            self.watch(pid, ended)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise

    def kill(self, pid: int) -> None:
        """Sends SIGKILL to a watched child; does nothing if it has ended."""
        self.signal(pid, signal.SIGKILL)

    def signal(self, pid: int, number: int) -> None:
        """Sends a signal to a watched child; does nothing if it has ended."""
        if pid in self._watched:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._watched[pid].pidfd, number)

    def knows(self, pid: int) -> bool:
        """Whether the child is watched and its end is not reported yet."""
        return pid in self._watched

    def reap(self) -> None:
        """Reaps every child that has ended, and reports the watched ones."""
        with contextlib.suppress(ChildProcessError):  # there are no children
            while (end := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)) is not None:
                watched = self._watched.pop(end.si_pid, None)
                if watched is None:
                    continue
                self.selector.unregister(watched.pidfd)
                os.close(watched.pidfd)
                killed = end.si_code != os.CLD_EXITED
                watched.ended(-end.si_status if killed else end.si_status)


class Process(NamedTuple):
    """One process of the machine."""

    pid: int
    parent: int
    is_dead: bool


def processes() -> Iterator[Process]:
    """Every process of the machine."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                # The name may contain anything; it ends with the last parenthesis.
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                yield Process(int(name), int(fields[1]), fields[0] in "ZX")


def kill_trees(roots: set[int], table: list[Process]) -> None:
    """Sends SIGKILL to these processes and to their descendants in the table.

    A process that was started meanwhile becomes a child of the launcher: the next call kills it.
    """
    below: dict[int, list[int]] = {}
    for child in table:
        below.setdefault(child.parent, []).append(child.pid)
    left = list(roots)
    while left:
        pid = left.pop()
        left += below.get(pid, [])
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
