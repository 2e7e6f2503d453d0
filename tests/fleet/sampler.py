"""Counts the instances of a function on all nodes of a fleet from outside, by the control groups of
sandboxes that have processes.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from e2e.server import Server

EVERY_S = 0.02
NAME_LENGTH = 24  # the length of a sandbox's name
MIB = 1 << 20
CGROUPS = Path("/sys/fs/cgroup")
# The groups and files with memory limits: on a machine with version 1 (alone or beside 2), and with
# version 2.
HIERARCHIES = ("memory/quiltfn", "quiltfn")
LIMITS = ("memory.limit_in_bytes", "memory.max")


def groups(node: Server) -> list[Path]:
    """The control groups that contain a node's sandboxes: one in each hierarchy."""
    return [Path(path) for path, _, _ in os.walk(CGROUPS) if Path(path).name == node.id]


def sandboxes(homes: Iterable[Path]) -> set[Path]:
    """The control groups of those sandboxes that have processes."""
    found = set()
    for home in homes:
        for file in home.glob("*/cgroup.procs"):
            with contextlib.suppress(OSError):
                if len(file.parent.name) == NAME_LENGTH and file.read_text().split():
                    found.add(file.parent)
    return found


@contextlib.contextmanager
def sampled(count: Callable[[set[Path]], None], look: Callable[[], set[Path]]) -> Iterator[None]:
    """Repeatedly calls `count` with the sandboxes that existed at one moment. Since groups are read
    one by one, a sandbox may end during a scan while another begins. But a sandbox that is found in
    two successive scans existed between them, as no name is used twice.
    """
    ends = threading.Event()

    def run() -> None:
        before: set[Path] = set()
        while not ends.is_set():
            now = look()
            count(before & now)
            before = now
            ends.wait(EVERY_S)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()


class Bounds:
    """Counts the instances of each function, which are recognized by the function's memory limit.

    `most`: the maximum number of instances of a function, by its memory limit in MiB. `seen`: the
    highest number that was counted.
    """

    def __init__(self) -> None:
        self.most: dict[int, int] = {}
        self.seen: Counter[int] = Counter()
        self.samples = self.exceeded = 0
        self.examples: list[str] = []
        self._mib: dict[str, int] = {}
        self._last: list[str] = []

    def count(self, there: set[Path]) -> None:
        self.samples += 1
        counts = Counter(self._mib_of(one) for one in there)
        for mib, most in self.most.items():
            self.seen[mib] = max(self.seen[mib], counts[mib])
            if counts[mib] > most:
                self._exceeded(mib, there)

    def _exceeded(self, mib: int, there: set[Path]) -> None:
        self.exceeded += 1
        found = sorted(
            f"{one.parent.name}/{one.name[:6]}" for one in there if self._mib_of(one) == mib
        )
        if found != self._last and len(self.examples) < 40:
            at = time.strftime("%H:%M:%S")
            self.examples.append(f"{at} {len(found)} of {self.most[mib]} at a time: {found}")
        self._last = found

    def _mib_of(self, group: Path) -> int:
        for name in LIMITS if group.name not in self._mib else ():
            with contextlib.suppress(OSError, ValueError):
                mib = int((group / name).read_text()) // MIB
                if mib in self.most:  # a new sandbox may not have its limit yet
                    self._mib[group.name] = mib
        return self._mib.get(group.name, 0)


def homes_of(servers: Iterable[str]) -> list[Path]:
    """The directories in one hierarchy that contain the sandboxes of these servers. `servers`: the
    ids.
    """
    parents = [CGROUPS / one for one in HIERARCHIES if (CGROUPS / one).is_dir()][:1]
    return [parent / one for parent in parents for one in servers]
