"""Before a command that root has started uses a data directory, it becomes the directory's owner.

The owner of a directory can create a link with any name there. If root followed such a link, root
could overwrite any file of the machine. A process of the owner can only write to the owner's files.
"""

import os
import stat
from pathlib import Path

from quiltfn.launcher import confine, syscalls
from quiltfn.store import StoreBroken

OPEN = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def become_owner(data_dir: Path, writable: tuple[Path, ...] = ()) -> None:
    """Permanently becomes the directory's owner, if the process is root and the owner is another
    user.

    If the directory does not exist yet, or only root can write to it, the process stays root.
    `writable`: further paths that the owner must reach. Raises `StoreBroken`.
    """
    if os.geteuid() != 0:
        return
    try:
        directory = os.open(data_dir, OPEN)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreBroken(f"{data_dir} cannot be opened: {error.strerror}.") from None
    found = os.fstat(directory)
    os.close(directory)
    if found.st_uid == 0:
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise StoreBroken(
                f"{data_dir} belongs to root but is writable for others: chmod 700 {data_dir}, or "
                "choose another directory with --data-dir."
            )
        return
    from quiltfn.operator.serve import program_paths  # noqa: PLC0415 — loads the launcher

    program, data = program_paths(), (data_dir, *writable)
    if not all(confine.is_reachable(path) for path in (*program, *data)):
        syscalls.unshare_mounts()
        confine.reveal(program, *data)
        os.chdir("/")
    confine.become(found.st_uid, found.st_gid)
