"""Control groups v1, v2, and hybrid: limits, counters, kill.

crun refuses hybrid hosts, so there (and on v1) the launcher's private mount namespace shows only
the v1 controllers in use. On every host the groups of a server have one parent:
`<base>/quiltfn/<server>/<sandbox>`.
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from quiltfn.base.immutable import Frozen
from quiltfn.launcher import syscalls
from quiltfn.launcher.cgroup_tree import children, kill_members, remove_tree, write

MOUNT = Path("/sys/fs/cgroup")
PARENT = "quiltfn"
SUPERVISOR = "supervisor"
# The group of a server's own processes, beside its sandboxes' groups with their hexadecimal names.
# On v2 it is below the launcher's group, so that the launcher's limits apply to the server, too.
OF_SERVER, V2_OF_SERVER = "server-process", "quiltfn-server-{}"
V1_CONTROLLERS = ("memory", "pids", "cpu", "freezer", "devices")
# The controller that is mounted together with "cpu", or as a hierarchy of its own.
V1_ACCOUNTING = "cpuacct"
# The v1 controllers that sandboxes see, since programs read their limits there.
SHOWN = {"memory", "cpu", "cpuacct", "pids"}
CONTROLLERS = Path("/proc/cgroups")
V2_CONTROLLERS = ("memory", "pids", "cpu")
CPU_PERIOD_US = 100_000
CPU_QUOTA_MIN_US = 1_000
# "No quota" in v1 and v2. Set after a kill: processes of a group that has used up its quota must
# wait for the next period, even to die.
V1_NO_QUOTA, V2_NO_QUOTA = "-1", "max"
# Attempts to remove a group: for some milliseconds in the event loop, otherwise for a second.
TRIES, TRIES_AT_THE_END = 4, 50
# v1 counts TCP buffers separately: their limit is 1/SOCKET_SHARE of the memory limit, in addition
# to it. In v2, the memory limit includes them.
SOCKET_SHARE = 4


class CgroupsUnusable(Exception):
    """This host's control groups cannot enforce the limits (a sentence for the operator)."""


class Limits(Frozen):
    """Limits that can change at any time: memory in MiB, CPU in percent of one core."""

    memory_mib: int
    cpu_percent: float

    def cpu_quota_and_period_us(self) -> tuple[int, int]:
        """The kernel refuses quotas below 1 ms, so small shares get a longer period (up to 1 s)."""
        period = CPU_PERIOD_US
        quota = round(period * self.cpu_percent / 100)
        if quota < CPU_QUOTA_MIN_US:
            period = min(1_000_000, round(CPU_QUOTA_MIN_US * 100 / self.cpu_percent))
            quota = max(CPU_QUOTA_MIN_US, round(period * self.cpu_percent / 100))
        return quota, period


class SandboxLimits(Limits):
    """All limits of one sandbox: those of `Limits`, processes and threads, MiB of /tmp and of one
    file, open files of one process. The server sets all of them.
    """

    pids: int
    tmp_mib: int
    file_mib: int
    open_files: int


class Cgroups(Protocol):
    """The control groups of sandboxes and of the server."""

    mode: str

    def prepare(self, server: str) -> None:
        """Creates the parent group of this server's sandboxes."""

    def parent(self, controller: str) -> Path:
        """The parent of all servers' groups; its limits apply to all sandboxes together."""

    def path(self, server: str, sandbox: str) -> str:
        """The value of cgroupsPath in config.json."""

    def view(self) -> str:
        """The hierarchies in which a guest shows its own group, in the format of guest.c: "v2", or
        the v1 controllers, with commas within a hierarchy and colons between hierarchies.
        """

    def enter(
        self, server: str, group: str, limits: Limits, pids: int, devices: Sequence[str] = ()
    ) -> None:
        """Moves this process into a new group with these limits. `pids`: processes and threads.
        `devices`: in the format of cgroup v1; ignored with v2. Raises OSError.
        """

    def enter_alone(self, server: str) -> None:
        """Moves this process, which becomes the server, into the new group `OF_SERVER`. `kill` and
        `remove` take its name like a sandbox's. Raises OSError.
        """

    def limit(self, server: str, sandbox: str, limits: Limits) -> None:
        """Changes a sandbox's limits of memory and CPU. Raises OSError."""

    def limit_sockets(self, server: str, sandbox: str, limits: Limits) -> None:
        """Sets only the limit of sockets, which config.json cannot set. Raises OSError."""

    def open_events(self, server: str, sandbox: str) -> int:
        """A read-only descriptor of the file that counts out-of-memory kills (`oom_kill N`)."""

    def used(self, server: str, sandbox: str) -> int:
        """Bytes of memory that the sandbox uses now."""

    def cpu_us(self, server: str, sandbox: str) -> int:
        """Microseconds of CPU time that the sandbox has used since its creation. Raises OSError,
        also if the host does not count it.
        """

    def kill(self, server: str, sandbox: str) -> None:
        """Kills everything in the sandbox at once; neither forks nor a CPU quota delay this."""

    def remove(self, server: str, sandbox: str) -> bool:
        """Removes a dead sandbox's groups. Returns whether all groups, and so all processes, are
        gone. Takes a few milliseconds at most.
        """

    def sandboxes(self, server: str) -> set[str]:
        """The names of the server's sandboxes that still have a group."""

    def remove_server(self, server: str) -> None:
        """Removes the parent group once it is empty."""


def detect() -> Cgroups:
    """The implementation for this host. Call it inside the launcher's own mount namespace."""
    mounts = _cgroup_mounts()
    if mounts.get("cgroup2") == MOUNT:
        return V2()
    found = {name for name in V1_CONTROLLERS if name in mounts}
    if found == set(V1_CONTROLLERS):
        used = {name: mounts[name] for name in V1_CONTROLLERS}
        if mounts.get(V1_ACCOUNTING, used["cpu"]) != used["cpu"]:
            used[V1_ACCOUNTING] = mounts[V1_ACCOUNTING]
        known = {line.split()[0] for line in CONTROLLERS.read_text().splitlines()[1:]}
        together = [
            [n for n in sorted(known & set(mounts)) if mounts[n] == at] for at in used.values()
        ]
        return V1(used, hybrid="cgroup2" in mounts, together=together)
    missing = ", ".join(sorted(set(V1_CONTROLLERS) - found))
    raise CgroupsUnusable(
        f"neither cgroup v2 at {MOUNT} nor every v1 controller is mounted (missing: {missing})"
    )


def _cgroup_mounts() -> dict[str, Path]:
    """Mount point by v1 controller name; "cgroup2" for the unified tree."""
    mounts: dict[str, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        point, (kind, _, options) = Path(left.split()[4]), right.split(maxsplit=2)
        if kind == "cgroup2":
            mounts.setdefault("cgroup2", point)
        elif kind == "cgroup":
            for option in options.split(","):
                mounts.setdefault(option, point)
    return mounts


class V1:
    """v1 controllers, alone or beside v2. Freezes groups before it kills them, so that they cannot
    fork.
    """

    def __init__(
        self, mounts: dict[str, Path], *, hybrid: bool, together: Sequence[Sequence[str]] = ()
    ) -> None:
        """`together`: the controllers of each hierarchy in use."""
        self.mode = "hybrid" if hybrid else "v1"
        self._mounts, self._together = mounts, together

    def view(self) -> str:
        shown = {",".join(one): None for one in self._together if SHOWN & set(one)}
        return ":".join(shown)

    def prepare(self, server: str) -> None:
        # Descriptors keep the real mounts reachable while a tmpfs hides their mount points.
        kept = {name: os.open(path, os.O_PATH) for name, path in self._mounts.items()}
        syscalls.mount("tmpfs", MOUNT, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=755")
        for name, descriptor in kept.items():
            (MOUNT / name).mkdir()
            syscalls.bind(f"/proc/self/fd/{descriptor}", MOUNT / name)
            os.close(descriptor)
        self._mounts = {name: MOUNT / name for name in kept}
        for top in self._mounts.values():
            (top / PARENT / server).mkdir(parents=True, exist_ok=True)

    def parent(self, controller: str) -> Path:
        return self._mounts[controller] / PARENT

    def path(self, server: str, sandbox: str) -> str:
        return f"/{PARENT}/{server}/{sandbox}"

    def enter(
        self, server: str, group: str, limits: Limits, pids: int, devices: Sequence[str] = ()
    ) -> None:
        quota, period = limits.cpu_quota_and_period_us()
        memory = limits.memory_mib * 1024 * 1024
        files: dict[str, dict[str, object]] = {
            "memory": {
                "memory.limit_in_bytes": memory,
                "memory.memsw.limit_in_bytes": memory,
                "memory.kmem.tcp.limit_in_bytes": memory // SOCKET_SHARE,
            },
            "cpu": {"cpu.cfs_period_us": period, "cpu.cfs_quota_us": quota},
            "pids": {"pids.max": pids},
            "devices": {"devices.deny": "a"},
        }
        for controller in self._mounts:
            path = self._group(controller, server, group)
            path.mkdir()
            for name, value in files.get(controller, {}).items():
                if "memsw" not in name or (path / name).exists():  # swap accounting may be off
                    (path / name).write_text(str(value))
        for device in devices:
            (self._group("devices", server, group) / "devices.allow").write_text(device)
        for controller in self._mounts:
            (self._group(controller, server, group) / "cgroup.procs").write_text("0")

    def enter_alone(self, server: str) -> None:
        # Only the freezer, since the server has no limits of memory, CPU or processes.
        group = self._group("freezer", server, OF_SERVER)
        group.mkdir()
        write(group / "cgroup.procs", "0")

    def limit(self, server: str, sandbox: str, limits: Limits) -> None:
        quota, period = limits.cpu_quota_and_period_us()
        memory = str(limits.memory_mib * 1024 * 1024)
        group = self._group("memory", server, sandbox)
        total = group / "memory.memsw.limit_in_bytes"
        with contextlib.suppress(FileNotFoundError):  # swap accounting may be off
            # The limit with swap may never be below the memory limit, so the order matters.
            with contextlib.suppress(OSError):
                write(total, memory)
            write(group / "memory.limit_in_bytes", memory)
            write(total, memory)
        self.limit_sockets(server, sandbox, limits)
        group = self._group("cpu", server, sandbox)
        write(group / "cpu.cfs_period_us", str(period))
        write(group / "cpu.cfs_quota_us", str(quota))

    def limit_sockets(self, server: str, sandbox: str, limits: Limits) -> None:
        share = limits.memory_mib * 1024 * 1024 // SOCKET_SHARE
        group = self._group("memory", server, sandbox)
        write(group / "memory.kmem.tcp.limit_in_bytes", str(share))

    def open_events(self, server: str, sandbox: str) -> int:
        name = self._group("memory", server, sandbox) / "memory.oom_control"
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC)

    def used(self, server: str, sandbox: str) -> int:
        return int((self._group("memory", server, sandbox) / "memory.usage_in_bytes").read_text())

    def cpu_us(self, server: str, sandbox: str) -> int:
        controller = V1_ACCOUNTING if V1_ACCOUNTING in self._mounts else "cpu"
        group = self._group(controller, server, sandbox)
        return int((group / "cpuacct.usage").read_text()) // 1000

    def kill(self, server: str, sandbox: str) -> None:
        group = self._group("freezer", server, sandbox)
        with contextlib.suppress(OSError):
            (group / "freezer.state").write_text("FROZEN")
        kill_members(group)
        with contextlib.suppress(OSError):
            (group / "freezer.state").write_text("THAWED")
        with contextlib.suppress(OSError):
            write(self._group("cpu", server, sandbox) / "cpu.cfs_quota_us", V1_NO_QUOTA)

    def remove(self, server: str, sandbox: str) -> bool:
        groups = [self._group(name, server, sandbox) for name in self._mounts]
        return False not in [remove_tree(group, TRIES) for group in groups]

    def sandboxes(self, server: str) -> set[str]:
        return {
            child.name
            for name in self._mounts
            for child in children(self._mounts[name] / PARENT / server)
            if child.name != OF_SERVER
        }

    def remove_server(self, server: str) -> None:
        for top in self._mounts.values():
            remove_tree(top / PARENT / server, TRIES_AT_THE_END)
            with contextlib.suppress(OSError):
                (top / PARENT).rmdir()

    def _group(self, controller: str, server: str, sandbox: str) -> Path:
        return self._mounts[controller] / PARENT / server / sandbox


class V2:
    """The unified tree.

    In a systemd service that delegates its group, groups are created below that. In a service that
    delegates nothing, such as cron or sshd, and in a shell, they are created below the root.
    """

    mode = "v2"

    def __init__(self) -> None:
        self._home = _own_group()
        self._base = _delegated(self._home)
        self._server: str | None = None

    def prepare(self, server: str) -> None:
        base = MOUNT / self._base.strip("/")
        if self._base != "/":
            # v2 allows processes only in leaves once controllers are enabled below a group. With
            # DelegateSubgroup=supervisor, systemd has already started the launcher there.
            leaf = base / SUPERVISOR
            leaf.mkdir(exist_ok=True)
            (leaf / "cgroup.procs").write_text(str(os.getpid()))
        group = base
        for part in ("", PARENT, server):
            group = group / part
            group.mkdir(exist_ok=True)
            available = (group / "cgroup.controllers").read_text().split()
            missing = set(V2_CONTROLLERS) - set(available)
            if missing:
                raise CgroupsUnusable(
                    f"cgroup v2 does not offer {', '.join(sorted(missing))} in {group.name or '/'}"
                )
            handed_down = " ".join(f"+{name}" for name in V2_CONTROLLERS)
            try:
                (group / "cgroup.subtree_control").write_text(handed_down)
            except OSError as error:
                raise CgroupsUnusable(
                    f"cgroup v2 does not hand controllers down from {group}: {error.strerror}; "
                    "is a process in it that is not ours?"
                ) from None
        self._server, self._home = server, _own_group()

    def parent(self, controller: str) -> Path:
        assert controller in V2_CONTROLLERS, "one tree has them all"
        return MOUNT / self._base.strip("/") / PARENT

    def path(self, server: str, sandbox: str) -> str:
        return f"{self._base.rstrip('/')}/{PARENT}/{server}/{sandbox}"

    def view(self) -> str:
        return "v2"

    def enter(
        self, server: str, group: str, limits: Limits, pids: int, _devices: Sequence[str] = ()
    ) -> None:
        quota, period = limits.cpu_quota_and_period_us()
        path = self._group(server, group)
        path.mkdir()
        (path / "memory.max").write_text(str(limits.memory_mib * 1024 * 1024))
        if (path / "memory.swap.max").exists():  # swap accounting may be off
            (path / "memory.swap.max").write_text("0")
        (path / "cpu.max").write_text(f"{quota} {period}")
        (path / "pids.max").write_text(str(pids))
        (path / "cgroup.procs").write_text("0")

    def enter_alone(self, server: str) -> None:
        group = self._group(server, OF_SERVER)
        group.mkdir()
        write(group / "cgroup.procs", "0")

    def limit(self, server: str, sandbox: str, limits: Limits) -> None:
        quota, period = limits.cpu_quota_and_period_us()
        group = self._group(server, sandbox)
        write(group / "memory.max", str(limits.memory_mib * 1024 * 1024))
        write(group / "cpu.max", f"{quota} {period}")

    def limit_sockets(self, server: str, sandbox: str, limits: Limits) -> None:
        """Does nothing: the memory limit includes sockets."""

    def open_events(self, server: str, sandbox: str) -> int:
        name = self._group(server, sandbox) / "memory.events"
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC)

    def used(self, server: str, sandbox: str) -> int:
        return int((self._group(server, sandbox) / "memory.current").read_text())

    def cpu_us(self, server: str, sandbox: str) -> int:
        text = (self._group(server, sandbox) / "cpu.stat").read_text()
        return int(text.partition("usage_usec ")[2].split("\n", 1)[0])

    def kill(self, server: str, sandbox: str) -> None:
        group = self._group(server, sandbox)
        try:
            (group / "cgroup.kill").write_text("1")
        except OSError:  # before Linux 5.14
            kill_members(group)
        with contextlib.suppress(OSError):
            write(group / "cpu.max", V2_NO_QUOTA)

    def remove(self, server: str, sandbox: str) -> bool:
        return remove_tree(self._group(server, sandbox), TRIES)

    def sandboxes(self, server: str) -> set[str]:
        return {child.name for child in children(self._group(server, ""))}

    def remove_server(self, server: str) -> None:
        parent = self._parent(server)
        remove_tree(parent / server, TRIES_AT_THE_END)
        with contextlib.suppress(OSError):
            parent.rmdir()

    def _group(self, server: str, sandbox: str) -> Path:
        if sandbox != OF_SERVER:
            return self._parent(server) / server / sandbox
        name = V2_OF_SERVER.format(server)
        own = MOUNT / self._home.strip("/") / name
        if server == self._server:
            return own
        # A dead server may have run in any group.
        return next((Path(top) / name for top, below, _ in os.walk(MOUNT) if name in below), own)

    def _parent(self, server: str) -> Path:
        """The parent of a server's groups. A dead server may have run elsewhere: in a service
        instead of a shell, or vice versa.
        """
        own = self.parent("memory")
        if server == self._server or (own / server).exists():
            return own
        for pattern in ("", "*.slice/*.service", "*.slice/*.slice/*.service"):
            for found in MOUNT.glob(f"{pattern}/{PARENT}/{server}".lstrip("/")):
                return found.parent
        return own


def _own_group() -> str:
    """The group of this process, as a path in the unified tree."""
    return Path("/proc/self/cgroup").read_text().rsplit("0::", 1)[-1].strip()


def _delegated(own: str) -> str:
    """The group that a systemd service delegates to this process, or the root.

    `own`: the group of this process: that of the service, or its subgroup for the launcher.
    """
    for group in (own, os.path.dirname(own)):
        if group.endswith(".service"):
            for mark in ("trusted.delegate", "user.delegate"):
                with contextlib.suppress(OSError):
                    if os.getxattr(MOUNT / group.strip("/"), mark) == b"1":
                        return group
    return "/"
