"""Control groups as directories, for v1 and v2: list, kill, and remove them."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path


def children(group: Path) -> Iterator[Path]:
    # scandir distinguishes a group's some forty files from directories without a stat for each.
    with contextlib.suppress(OSError), os.scandir(group) as entries:
        yield from (Path(one) for one in entries if one.is_dir(follow_symlinks=False))


def write(file: Path, value: str) -> None:
    """Writes to an existing file, in one system call; `write_text` would create a missing file."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def kill_members(group: Path) -> None:
    """Sends SIGKILL to every process of the group and the groups below it."""
    for child in children(group):
        kill_members(child)
    with contextlib.suppress(OSError):
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def remove_tree(group: Path, tries: int) -> bool:
    """Removes the group and those below it. Returns whether it is gone.

    A group stays busy for a moment after the end of its last process, so rmdir is retried after
    one millisecond, two, three, …
    """
    below = children(group)  # an iterator: each child is removed once, with its own retries
    for attempt in range(tries):
        with contextlib.suppress(OSError):
            group.rmdir()
        if not group.exists():
            return True
        for child in below:
            remove_tree(child, tries)
        time.sleep(0.001 * attempt)
    return False
