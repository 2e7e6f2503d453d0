"""One limit of memory and processes for all sandboxes of the machine together.

The limits of many sandboxes may add up to more than the machine has. A shortage then affects only
handlers, since servers and the host are not in this control group. All servers share it, so the
limit depends on the machine alone and each server writes the same value.
"""

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from quiltfn.launcher.cgroup_tree import write
from quiltfn.launcher.cgroups import SOCKET_SHARE, Cgroups, CgroupsUnusable

MIB = 1024 * 1024
# Memory reserved for everything else: a tenth, at least half a GiB, and at most a quarter, since
# the default memory budget of instances (three quarters) has to fit below the limit.
KEPT_SHARE, KEPT_MIB, KEPT_SHARE_MAX = 0.1, 512, 0.25
PID_MAX, THREADS_MAX = Path("/proc/sys/kernel/pid_max"), Path("/proc/sys/kernel/threads-max")


class GlobalLimit(NamedTuple):
    """`memory`: bytes. `tasks`: processes and threads."""

    memory: int
    tasks: int


def of(*, memory: int, pid_max: int, threads_max: int) -> GlobalLimit:
    """The limit for a machine with these bytes of memory, process numbers and threads."""
    kept = min(max(KEPT_SHARE * memory, KEPT_MIB * MIB), KEPT_SHARE_MAX * memory)
    return GlobalLimit(memory=int(memory - kept) // MIB * MIB, tasks=min(pid_max, threads_max) // 2)


def machine_memory() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def of_this_machine() -> GlobalLimit:
    """The limit for this machine. Raises OSError."""
    return of(
        memory=machine_memory(),
        pid_max=int(PID_MAX.read_text()),
        threads_max=int(THREADS_MAX.read_text()),
    )


def put_above(cgroups: Cgroups, limit: GlobalLimit) -> str:
    """Sets the limit, and returns the values read back. Raises `CgroupsUnusable` with the values
    that couldn't be set.

    The server's group must exist already: it keeps others from removing its parent meanwhile.
    """
    memory, pids = cgroups.parent("memory"), cgroups.parent("pids")
    size, sockets = str(limit.memory), str(limit.memory // SOCKET_SHARE)
    wanted = {pids / "pids.max": str(limit.tasks)}
    if cgroups.mode == "v2":
        wanted |= {memory / "memory.max": size}
        where_present = {memory / "memory.swap.max": "0"}
        of_sockets = ""
    else:
        wanted |= {
            memory / "memory.limit_in_bytes": size,
            memory / "memory.kmem.tcp.limit_in_bytes": sockets,
        }
        where_present = {
            memory / "memory.use_hierarchy": "1",  # makes the limit include child groups
            memory / "memory.memsw.limit_in_bytes": size,
        }
        of_sockets = f", {int(sockets) // MIB} MiB of sockets"
    optional = {file: value for file, value in where_present.items() if file.exists()}
    # The limit on memory and swap together may never be below the one on memory. So it is written
    # first for an increase and last for a decrease. Failed writes show in the values read back.
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
        raise CgroupsUnusable(f"all sandboxes together have no limit: {'; '.join(wrong)}")
    return (
        f"cgroup {cgroups.mode}, all sandboxes together: {limit.memory // MIB} MiB{of_sockets}, "
        f"{limit.tasks} processes and threads"
    )


def _read(file: Path) -> str:
    with contextlib.suppress(OSError):
        return file.read_text().strip()
    return ""
