"""How the server's process loses everything it does not need before its program starts."""

import contextlib
import os
import signal
import stat
from collections.abc import Sequence
from pathlib import Path

from quiltfn.launcher import syscalls
from quiltfn.launcher.oci import HANDLER_OOM_SCORE
from quiltfn.launcher.state import SERVER_UID


class NotReadable(Exception):
    """The unprivileged server could not read its own program (a sentence for the operator)."""


def reveal(readable: Sequence[Path], writable: Path) -> None:
    """Makes paths below a closed directory (say /root) reachable, and nothing else of it.

    Each such directory is hidden by an empty tmpfs, in this mount namespace only, in which just the
    named paths appear. Call it in a namespace that belongs to the server alone.
    """
    wanted = [(path.resolve(), True) for path in readable] + [(writable.resolve(), False)]
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
    """Raises `NotReadable` where mapped users, who have no right over root's directories, could not
    walk to `directory` (which need not exist yet).
    """
    for parent in directory.resolve().parents:
        if parent.exists() and not _open_to_others(parent):
            raise NotReadable(
                f"{parent} is closed to other users, so no sandbox could reach its root file system"
                f" in {directory}: name another --run-dir"
            )


def give_up_root(launcher: int, uid: int = SERVER_UID) -> None:
    """No root, no capabilities, no way back, and no life beyond the launcher's."""
    syscalls.drop_bounding_set()
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    syscalls.no_new_privileges()
    syscalls.die_with_parent(signal.SIGKILL)
    if os.getppid() != launcher:  # it ended before the line above took effect
        os._exit(70)


def forget_the_launcher() -> None:
    """In a forked child that will be another program: signals, streams and weight of its own."""
    signal.set_wakeup_fd(-1)
    for one in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError):
            signal.signal(one, signal.SIG_DFL)
    # The launcher may be among the last to be killed for memory; this is not.
    score = max(HANDLER_OOM_SCORE, int(Path("/proc/self/oom_score_adj").read_text()))
    Path("/proc/self/oom_score_adj").write_text(str(score))
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)


def prepare_data_dir(path: Path) -> None:
    """Makes the data directory, owned by the server alone. Raises `NotReadable` for another's."""
    if path.exists():
        ours = path.stat().st_uid == SERVER_UID or (path / "quiltfn.db").exists()
        if not ours and any(path.iterdir()):
            raise NotReadable(
                f"{path} is not empty and holds no quiltfn.db: name another --data-dir"
            )
    path.mkdir(parents=True, exist_ok=True)
    os.chown(path, SERVER_UID, SERVER_UID)
    path.chmod(0o700)
    for entry in path.iterdir():  # a copy made by root comes back to the server
        is_its_own = entry.is_file() or (entry.is_dir() and entry.name == "images")
        if is_its_own and not entry.is_symlink() and entry.stat().st_uid != SERVER_UID:
            os.chown(entry, SERVER_UID, SERVER_UID, follow_symlinks=False)


def _open_to_others(directory: Path) -> bool:
    return bool(directory.stat().st_mode & stat.S_IXOTH)
