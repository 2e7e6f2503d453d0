"""One ceiling above the sandboxes of every server of this machine together.

The limits of many sandboxes may add up to more than there is. What then runs out runs out below the
ceiling, among handlers; servers and the host are not in that group. Servers share it, so it follows
from the machine alone and each of them writes the same.
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from quiltfn.launcher.cgroup_tree import write
from quiltfn.launcher.cgroups import SOCKET_SHARE, Cgroups, CgroupsUnusable

MIB = 1024 * 1024
# What is kept for everybody else: a tenth, and half a GiB at least; but never more than a quarter,
# since what instances may hold by default (three quarters) has to fit in.
KEPT_SHARE, KEPT_MIB, KEPT_SHARE_MAX = 0.1, 512, 0.25
PID_MAX, THREADS_MAX = Path("/proc/sys/kernel/pid_max"), Path("/proc/sys/kernel/threads-max")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """`memory`: bytes. `tasks`: processes and threads."""

    memory: int
    tasks: int


def of(*, memory: int, pid_max: int, threads_max: int) -> Ceiling:
    """The ceiling of a machine with so many bytes, process numbers and threads."""
    kept = min(max(KEPT_SHARE * memory, KEPT_MIB * MIB), KEPT_SHARE_MAX * memory)
    return Ceiling(memory=int(memory - kept) // MIB * MIB, tasks=min(pid_max, threads_max) // 2)


def machine_memory() -> int:
    """Bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def of_this_machine() -> Ceiling:
    """Raises OSError."""
    return of(
        memory=machine_memory(),
        pid_max=int(PID_MAX.read_text()),
        threads_max=int(THREADS_MAX.read_text()),
    )


def put_above(cgroups: Cgroups, ceiling: Ceiling) -> str:
    """Sets it, and returns how it was read back. Raises `CgroupsUnusable`, naming what is missing.

    The server's own group is there already, so the one above does not go away meanwhile.
    """
    memory, pids = cgroups.parent("memory"), cgroups.parent("pids")
    size, sockets = str(ceiling.memory), str(ceiling.memory // SOCKET_SHARE)
    wanted = {pids / "pids.max": str(ceiling.tasks)}
    if cgroups.mode == "v2":
        wanted |= {memory / "memory.max": size}
        where_it_is = {memory / "memory.swap.max": "0"}
        of_sockets = ""
    else:
        wanted |= {
            memory / "memory.limit_in_bytes": size,
            memory / "memory.kmem.tcp.limit_in_bytes": sockets,
        }
        where_it_is = {
            memory / "memory.use_hierarchy": "1",  # or it would hold for nobody below
            memory / "memory.memsw.limit_in_bytes": size,
        }
        of_sockets = f", {int(sockets) // MIB} MiB of sockets"
    optional = {file: value for file, value in where_it_is.items() if file.exists()}
    # The sum with swap may never be below the memory: it goes first where both rise, last where
    # they fall. What matters is what is read back.
    for file, value in (*optional.items(), *wanted.items(), *optional.items()):
        with contextlib.suppress(OSError):
            if _read(file) != value:
                write(file, value)
    wrong = [
        f"{file} is {_read(file) or 'not there'}, not {value}"
        for file, value in (wanted | optional).items()
        if _read(file) != value
    ]
    if wrong:
        raise CgroupsUnusable(f"all sandboxes together have no ceiling: {'; '.join(wrong)}")
    return (
        f"cgroup {cgroups.mode}, all sandboxes together: {ceiling.memory // MIB} MiB{of_sockets}, "
        f"{ceiling.tasks} processes and threads"
    )


def _read(file: Path) -> str:
    with contextlib.suppress(OSError):
        return file.read_text().strip()
    return ""
