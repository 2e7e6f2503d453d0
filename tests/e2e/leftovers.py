"""Finds leftovers of servers under test on this machine.

Other servers may run on the machine at the same time. So a leftover only counts if it has a mark of
the given servers: their ids, their directories, or the uid blocks of their sandboxes.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from quiltfn.launcher.state import BLOCK, UIDS_DIR, UIDS_PER_SANDBOX
from timeouts import scaled

UIDS = range(0x7000_0000, 0x8000_0000)
# Each server runs with one of these uids.
SERVER_UIDS = range(UIDS[0], UIDS[0] + 65_536)
NETNS = Path("/run/netns")
OF_A_SERVER = re.compile(r"/quiltfn(?:/|-server-)([0-9a-f]{8})(?:/|$)", re.M)


@dataclass(frozen=True)
class Traces:
    """The leftovers: one sentence for each."""

    found: frozenset[str]

    def since(self, before: Traces) -> list[str]:
        return sorted(self.found - before.found)


def look(root: Path | None, run_dir: Path, servers: Iterable[str]) -> Traces:
    """Traces of everything on the host that belongs to these servers.

    `root`: the directory in their command lines; None: not searched, since one of them may be
    running.
    """
    ids = set(servers)
    return Traces(
        frozenset(
            [
                *_cgroups(ids),
                *_mounts(run_dir, ids),
                *_processes(root, ids),
                *_directories(run_dir, ids),
                *_namespaces(ids),
            ]
        )
    )


def nothing_since(
    before: Traces, root: Path | None, run_dir: Path, servers: Iterable[str], timeout_s: float = 5.0
) -> list[str]:
    """Returns the leftovers that persist; a test expects none.

    If many servers run, each scan may find a process that is just being ended, so only leftovers
    that are found repeatedly count.
    """
    ids, began = set(servers), time.monotonic()
    left = look(root, run_dir, ids).since(before)
    while left and time.monotonic() - began < 2 * scaled(timeout_s):
        time.sleep(0.02)
        now = look(root, run_dir, ids).since(before)
        is_over = time.monotonic() - began > scaled(timeout_s)
        left = [one for one in now if one in left] if is_over else now
    return left


def _cgroups(ids: set[str]) -> Iterable[str]:
    """Yields control groups in every hierarchy, and in the tmpfs that has their mount points."""
    for path in _directories_below("/sys/fs/cgroup") if ids else ():
        if path.rpartition("/")[2].removeprefix("quiltfn-server-") in ids:
            yield f"control group {path}"


def _directories_below(top: str) -> Iterable[str]:
    """All directories below `top`. A directory with two links has no subdirectories, so its files
    need not be listed.
    """
    with contextlib.suppress(OSError):
        if os.stat(top).st_nlink != 2:
            for entry in os.scandir(top):
                if entry.is_dir(follow_symlinks=False):
                    yield entry.path
                    yield from _directories_below(entry.path)


def _mounts(run_dir: Path, ids: set[str]) -> Iterable[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if str(run_dir) in line or any(one in line for one in ids):
            yield f"mount {line.split()[4]}"


def _processes(root: Path | None, ids: set[str]) -> Iterable[str]:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            status = _text(f"/proc/{pid}/status")
            if "\nPPid:\t2\n" in status:
                continue  # a kernel thread
            real = int(status.partition("\nUid:\t")[2].partition("\t")[0])
            # The path of a control group contains the id of the server that its processes belong
            # to, so these paths are only read if ids are given.
            groups = _text(f"/proc/{pid}/cgroup") if ids else ""
            server = OF_A_SERVER.search(groups)
            ours = server is not None and server[1] in ids
            stray = server is None and _server_of(real) in ids
            if root is None and not (ours or stray):
                continue
            command = _text(f"/proc/{pid}/cmdline").replace("\0", " ")
            mine = root is not None and f"{root}/" in f"{command}/"
            if ours or stray or mine:
                yield f"process {pid} of uid {real}: {command.strip()[:120]}"


def _server_of(uid: int) -> str | None:
    """The server that last used the uid's block for its sandboxes; None if there is none, or if it
    is not a uid of a sandbox.
    """
    if uid not in UIDS or uid in SERVER_UIDS:
        return None
    with contextlib.suppress(OSError):
        return Path(_text(UIDS_DIR / str((uid - UIDS[0]) // UIDS_PER_SANDBOX // BLOCK))).name
    return None


def _text(path: str | Path) -> str:
    with open(path, "rb", buffering=0) as file:
        return file.read().decode(errors="replace")


def _directories(run_dir: Path, ids: set[str]) -> Iterable[str]:
    servers = run_dir / "servers"
    if servers.is_dir():
        for path in servers.iterdir():
            if path.name in ids:
                yield f"directory {path}"
    for name in ("crun", "bundles"):
        if (run_dir / name).exists():
            yield f"directory {run_dir / name}"


def _namespaces(ids: set[str]) -> Iterable[str]:
    """Yields named network namespaces. Those that are bound below the run directory are found as
    mounts.
    """
    if NETNS.is_dir():
        for namespace in NETNS.iterdir():
            if any(server in namespace.name for server in ids):
                yield f"network namespace {namespace}"
