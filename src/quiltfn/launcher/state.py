"""Run directories, uid ranges, and the sweep of dead servers.

Below the run directory every server has a directory, and holds the `lock` in it. A directory with a
free lock belongs to a server that ended without clean-up: the sweep removes it, its control groups
and its sandboxes, and nothing else.

Uid ranges are allocated in one place for the whole machine, regardless of run directories: the
server that holds the lock of a block may give its ranges to sandboxes.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from quiltfn.launcher import syscalls
from quiltfn.launcher.cgroups import OF_SERVER, Cgroups

UIDS_DIR = Path("/run/quiltfn-uids")
# 0x7000_0000 … 0x7EFF_FFFF: above the ranges that subuid files, systemd and container managers
# assign.
UID_BASE = 0x7000_0000
UIDS_PER_SANDBOX = 65_536
BLOCK = 64
BLOCKS = 60
# Slot 0 of block 0 is never given to a sandbox: each server runs as one of its uids. Earlier
# releases ran all servers as the first.
SERVER_UIDS = range(UID_BASE, UID_BASE + UIDS_PER_SANDBOX)
SHARED_UID = UID_BASE
# Maximum total seconds until killed processes have ended.
END_S = 10.0
# For the tmpfs with bundles and crun's state: some 60 KiB for each sandbox.
FILES_FLAGS = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
FILES_OPTIONS = "mode=711,size=1g"
# For the tmpfs with the source of roots: some 160 files.
SKELETON_FLAGS = syscalls.MS_NOSUID | syscalls.MS_NODEV
SKELETON_OPTIONS = "mode=755,size=1g"


class ServerState:
    """The directory and the locks of one running server. `id` is also the name of its parent group.

    Create it in the launcher's own mount namespace.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.id = os.urandom(4).hex()
        self.path = run_dir / "servers" / self.id
        self._sandboxes = self.path / "sandboxes"
        self.crun_root = self._sandboxes / "crun"
        self.bundles = self._sandboxes / "bundles"
        self.roots = self._sandboxes / "roots"
        self.root = self.path / "root"
        self.base_root = self.path / "base_root"
        self.images = self.path / "images"
        (run_dir / "servers").mkdir(parents=True, exist_ok=True)
        UIDS_DIR.mkdir(mode=0o700, exist_ok=True)
        with _exclusive(run_dir):  # a sweep must not find the directory before its lock is held
            self.path.mkdir()
            self._lock = _try_lock(self.path / "lock")
        # In memory, and only in this mount namespace, so that the files vanish with the launcher.
        # On a disk, creating a sandbox would take 50% longer.
        self._sandboxes.mkdir()
        syscalls.mount("tmpfs", self._sandboxes, "tmpfs", FILES_FLAGS, FILES_OPTIONS)
        for directory in (self.crun_root, self.bundles):
            directory.mkdir(mode=0o700)
        self.roots.mkdir(mode=0o711)
        # A sandbox's root user must be able to reach the root file system, and nothing else.
        for directory in (run_dir, run_dir / "servers", self.path):
            directory.chmod(0o711)
        for directory in (self.root, self.base_root, self.images):
            directory.mkdir(mode=0o755)
        for skeleton in (self.root, self.base_root):
            syscalls.mount("tmpfs", skeleton, "tmpfs", SKELETON_FLAGS, SKELETON_OPTIONS)
        self._blocks: dict[int, int] = {}
        self._free: list[int] = []

    def take_uids(self) -> int:
        """The first host uid of a free range. Raises OSError if there is none."""
        if not self._free:
            self._extend()
        return UID_BASE + self._free.pop() * UIDS_PER_SANDBOX

    def give_back_uids(self, base: int) -> None:
        """Frees a range. Call it once every process of the sandbox has ended."""
        self._free.insert(0, (base - UID_BASE) // UIDS_PER_SANDBOX)

    def close(self, *, all_ended: bool) -> None:
        """Removes everything. Unless `all_ended`, the directory stays, and its uid ranges stay
        reserved until a sweep has removed it.
        """
        for mounted in (self.root, self.root, self.base_root, self._sandboxes):  # root: 2 mounts
            with contextlib.suppress(OSError):  # it may never have been mounted
                syscalls.unmount(mounted)
        with _exclusive(self.run_dir):
            if all_ended:
                shutil.rmtree(self.path, ignore_errors=True)
            for descriptor in (*self._blocks.values(), self._lock):
                if descriptor is not None:
                    os.close(descriptor)

    def _extend(self) -> None:
        """Locks one more block of uid ranges; skips those of dead servers before their sweep."""
        for block in range(BLOCKS):
            if block in self._blocks:
                continue
            descriptor = _try_lock(UIDS_DIR / str(block))
            if descriptor is None:
                continue
            owner = os.fsdecode(os.pread(descriptor, 4096, 0))
            if owner and Path(owner) != self.path and Path(owner).exists():
                os.close(descriptor)  # a dead server awaits its sweep
                continue
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, os.fsencode(self.path), 0)
            self._blocks[block] = descriptor
            first = 1 if block == 0 else 0
            self._free += reversed(range(block * BLOCK + first, (block + 1) * BLOCK))
            return
        raise OSError("every uid range of this machine is taken by a sandbox")


def sweep(run_dir: Path, cgroups: Cgroups) -> dict[str, int]:
    """Removes leftovers of dead servers. Returns the number of their servers and sandboxes."""
    swept = {"servers": 0, "sandboxes": 0}
    if not (run_dir / "servers").is_dir():
        return swept
    with _exclusive(run_dir):
        for path in sorted((run_dir / "servers").iterdir()):
            lock = _try_lock(path / "lock")
            if lock is None:
                continue
            swept["servers"] += 1
            swept["sandboxes"] += _sweep_server(path, cgroups)
            os.close(lock)
    return swept


def _sweep_server(path: Path, cgroups: Cgroups) -> int:
    count, all_ended = end_everything(path.name, cgroups)
    if all_ended:  # otherwise its uids stay reserved until a later sweep
        shutil.rmtree(path, ignore_errors=True)
    return count


def end_everything(server: str, cgroups: Cgroups) -> tuple[int, bool]:
    """Like `end_groups`, and also removes the parent of the groups."""
    ended = end_groups(server, cgroups)
    cgroups.remove_server(server)
    return ended


def end_groups(server: str, cgroups: Cgroups) -> tuple[int, bool]:
    """Kills everything in the server's groups, its own processes first, and removes the groups.
    Returns how many sandboxes had a group, and whether nothing is left.
    """
    left = [OF_SERVER, *sorted(cgroups.sandboxes(server))]
    count = sum("-" not in name for name in left)  # an egress proxy has a group of its own
    # A killed process needs a moment to end; until then its group cannot be removed.
    until, pause_s = time.monotonic() + END_S, 0.0
    while left and time.monotonic() < until:
        time.sleep(pause_s)
        pause_s = min(pause_s + 0.01, 0.1)
        for name in left:
            cgroups.kill(server, name)
        left = [name for name in left if not cgroups.remove(server, name)]
    return count, not left


def _try_lock(path: Path) -> int | None:
    """A descriptor with an exclusive lock, or None if another process holds the lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextlib.contextmanager
def _exclusive(run_dir: Path) -> Iterator[None]:
    """Excludes other launchers while directories and locks are made or removed."""
    descriptor = os.open(run_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
