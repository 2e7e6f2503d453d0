"""A tool that root starts becomes the owner of the data directory before it touches what is in it.

Whoever owns a directory may put a link under any name there. To root such a link is a way to every
file of the machine; to the owner it leads to what the owner may write anyway.
"""

import os
import stat
from pathlib import Path

from quiltfn.launcher import confine, syscalls
from quiltfn.store import StoreBroken

OPEN = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def become_owner(data_dir: Path, writable: tuple[Path, ...] = ()) -> None:
    """For good, as far as the process is root's and the directory is another's.

    A directory that is not there yet, or is root's alone, stays root's matter. `writable`: further
    paths that the owner must reach. Raises `StoreBroken`.
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
                f"{data_dir} is root's and others may write in it: chmod 700 {data_dir}, or "
                "name another directory with --data-dir."
            )
        return
    from quiltfn.operator.serve import program_paths  # noqa: PLC0415 — loads the launcher

    program, data = program_paths(), (data_dir, *writable)
    if not all(confine.is_reachable(path) for path in (*program, *data)):
        syscalls.unshare_mounts()
        confine.reveal(program, *data)
        os.chdir("/")
    confine.become(found.st_uid, found.st_gid)
