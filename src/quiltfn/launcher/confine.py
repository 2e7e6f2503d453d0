"""Drop root and all other privileges that the forked server does not need."""

import contextlib
import os
import re
import signal
import stat
from collections.abc import Sequence
from pathlib import Path

from quiltfn.launcher import syscalls
from quiltfn.launcher.oci import HANDLER_OOM_SCORE
from quiltfn.launcher.signals import SETTABLE
from quiltfn.launcher.state import SERVER_UIDS

# Files that only a data directory has. If the state is in PostgreSQL, it has only the last one.
OWN_FILES = {"quiltfn.db", "restore.unfinished", "quiltfn.lock"}
DIGEST = re.compile("[0-9a-f]{64}")


class NotReadable(Exception):
    """The unprivileged server cannot read its own program. The message is for the operator."""


def reveal(readable: Sequence[Path], *writable: Path) -> None:
    """Makes paths reachable that are below a directory closed to other users, such as /root.

    Covers such a directory with a tmpfs that shows only the given paths, in this mount namespace
    alone. Call it in a namespace that belongs to the server alone.
    """
    wanted = [(path.resolve(), True) for path in readable] + [
        (path.resolve(), False) for path in writable
    ]
    blocked: dict[Path, list[tuple[Path, int, bool]]] = {}
    for path, read_only in wanted:
        closed = next((one for one in reversed(path.parents) if not _open_to_others(one)), None)
        if closed is not None:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            blocked.setdefault(closed, []).append((path, handle, read_only))
    for closed, paths in blocked.items():
        syscalls.mount("tmpfs", closed, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=755")
        for path, handle, read_only in paths:
            path.mkdir(parents=True, exist_ok=True)
            syscalls.bind(f"/proc/self/fd/{handle}", path, syscalls.MS_RDONLY if read_only else 0)
            os.close(handle)
        syscalls.mount(None, closed, None, syscalls.MS_REMOUNT | syscalls.MS_RDONLY, "mode=755")


def check_readable(program: Sequence[Path]) -> None:
    """Raises `NotReadable` for a path that only its owner may read."""
    for path in program:
        mode = path.stat().st_mode
        needed = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(mode) else 0)
        if mode & needed != needed:
            raise NotReadable(
                f"the unprivileged server cannot read {path}; allow it with: chmod -R o+rX {path}"
            )


def check_reachable(directory: Path) -> None:
    """Raises `NotReadable` if an unprivileged user, such as those of sandboxes, cannot reach
    `directory`, which need not exist yet.
    """
    for parent in directory.resolve().parents:
        if parent.exists() and not _open_to_others(parent):
            raise NotReadable(
                f"{parent} is closed to other users, so no sandbox could reach its root file system"
                f" in {directory}: name another --run-dir"
            )


def give_up_root(launcher: int, uid: int) -> None:
    """Permanently drops root and all capabilities. This process then ends with the launcher."""
    become(uid, uid)
    syscalls.die_with_parent(signal.SIGKILL)
    if os.getppid() != launcher:  # the launcher ended before the line above took effect
        os._exit(70)


def become(uid: int, gid: int) -> None:
    """Permanently changes this process to an ordinary user, without capabilities."""
    syscalls.drop_bounding_set()
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    syscalls.no_new_privileges()


def forget_the_launcher() -> None:
    """Resets signals, streams and OOM score in a forked child that will execute a program."""
    signal.set_wakeup_fd(-1)
    for number in SETTABLE:
        with contextlib.suppress(OSError):
            signal.signal(number, signal.SIG_DFL)
    # The launcher may be protected from out-of-memory kills; its children must not be.
    score = max(HANDLER_OOM_SCORE, int(Path("/proc/self/oom_score_adj").read_text()))
    Path("/proc/self/oom_score_adj").write_text(str(score))
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)


def prepare_data_dir(path: Path, uid: int) -> None:
    """Creates the data directory if needed, and gives it to the server alone. Raises `NotReadable`
    if the directory has other contents.

    A compromised server may have put anything into it. So this follows no symbolic links, and does
    not change the owner of a file with several hard links, which may belong to root.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        names = os.listdir(directory)
        owner = os.fstat(directory).st_uid
        is_its_own = owner == uid
        is_one = not names or not OWN_FILES.isdisjoint(names) or _is_images_alone(names, directory)
        if owner not in SERVER_UIDS and not is_one:
            raise NotReadable(
                f"{path} is not empty and holds no quiltfn.db: name another --data-dir"
            )
        os.fchmod(directory, 0o700)
        if is_its_own:
            for name in names:  # root may have restored files, which must belong to the server
                _hand_over(name, directory, uid)
            return
        os.fchown(directory, 0, 0)  # while it belongs to root, the server cannot change it
        for where, directories, files, at in os.fwalk(".", dir_fd=directory):
            if where == ".":
                directories[:] = [name for name in directories if name == "images"]
            for name in (*directories, *files):
                _hand_over(name, at, uid)
        os.fchown(directory, uid, uid)
    finally:
        os.close(directory)


def _is_images_alone(names: list[str], directory: int) -> bool:
    """Whether the directory has only images, as after a restore for a server whose state is in
    PostgreSQL.
    """
    if names != ["images"]:
        return False
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        images = os.open("images", flags, dir_fd=directory)
    except OSError:
        return False
    try:
        return all(DIGEST.fullmatch(one) for one in os.listdir(images))
    finally:
        os.close(images)


def _hand_over(name: str, directory: int, uid: int) -> None:
    """Gives a file or directory to the server, unless it may be a hard link to a file of root."""
    try:
        entry = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return
    try:
        found = os.fstat(entry)
        is_plain = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
        is_directory = stat.S_ISDIR(found.st_mode) and name != "lost+found"
        if found.st_uid != uid and (is_plain or is_directory):
            os.chown(f"/proc/self/fd/{entry}", uid, uid)
    finally:
        os.close(entry)


def is_reachable(path: Path) -> bool:
    """Whether every user can reach `path`."""
    return all(_open_to_others(one) for one in path.resolve().parents)


def _open_to_others(directory: Path) -> bool:
    return bool(directory.stat().st_mode & stat.S_IXOTH)
