"""Groups are directories, whatever the version: looking into one, ending and removing it."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path


def children(group: Path) -> Iterator[Path]:
    # A group has some forty files; scandir tells them from groups without asking for each.
    with contextlib.suppress(OSError), os.scandir(group) as entries:
        yield from (Path(one) for one in entries if one.is_dir(follow_symlinks=False))


def write(file: Path, value: str) -> None:
    """One write to a file that has to be there: `write_text` would make it where it is not."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def kill_members(group: Path) -> None:
    """SIGKILL to every process of the group and the groups below it."""
    for child in children(group):
        kill_members(child)
    with contextlib.suppress(OSError):
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def remove_tree(group: Path, tries: int) -> bool:
    """rmdir, from the leaves up. A group stays busy for a moment after its last process ended, so
    it is tried again, after a millisecond, two, three, …
    """
    below = children(group)  # gone through once: each waits for itself
    for attempt in range(tries):
        with contextlib.suppress(OSError):
            group.rmdir()
        if not group.exists():
            return True
        for child in below:
            remove_tree(child, tries)
        time.sleep(0.001 * attempt)
    return False
