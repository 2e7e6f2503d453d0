"""config.json: the one place that defines how a sandbox is isolated.

Pure: turns facts about host and sandbox into the document. It belongs to the launcher because the
author of this document decides what root does; the server, which is open to the network, only names
limits.
"""

import functools
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from quiltfn.base.immutable import Frozen
from quiltfn.launcher.cgroups import SandboxLimits

HANDLER_UID = 1000
CONTROL_FD = 3
GUEST = "/.guest"
# What makes shells zygotes (guest/shell.c): a static copy of the host's, or a library for it.
STATIC_SHELL, SHELL_LIBRARY = "/.runners/dash", "/.runners/shell.so"
# Each inode of a tmpfs takes some KiB of the sandbox's memory, and time to remove.
INODES_PER_MIB = 256
SHM_OPTIONS = "mode=1777,size=64m,nr_inodes=4096"
# The launcher may be among the last processes killed for memory. Guests have a higher score, and
# handlers a higher one than their guest; see `Host.oom_score_min`.
GUEST_OOM_SCORE, HANDLER_OOM_SCORE, OOM_SCORE_MAX = 0, 500, 1000
# The guest keeps these capabilities in its effective set. It drops the bounding set at once, so a
# handler can never have any of them.
GUEST_CAPABILITIES = ["CAP_KILL", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_ADMIN"]
MASKED = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/cmdline",  # the host's boot parameters, such as disks
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/pressure",  # shows the whole host, and any user may set triggers in it
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
]
# crun binds the host's device nodes: read-only, or users could change the nodes' times.
DEVICES = [f"/dev/{name}" for name in ("full", "null", "random", "tty", "urandom", "zero")]
# The fields of /proc/meminfo that programs read.
ALL_FREE = ("MemTotal", "MemFree", "MemAvailable")
NONE_USED = "Buffers Cached SwapCached Active Inactive SwapTotal SwapFree Shmem Slab SReclaimable"
READ_ONLY = [*DEVICES, "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
# RLIMIT_SIGPENDING is missing: its value at the creation of the user namespace would limit all
# sandboxes together, so the guest sets it.
RLIMITS = {"RLIMIT_CORE": 0, "RLIMIT_MEMLOCK": 64 * 1024, "RLIMIT_MSGQUEUE": 0}
MIB = 1024 * 1024
# Each sandbox has its own pseudoterminals. One takes up to 40 KiB of kernel memory that no control
# group counts, and all sandboxes together can have some thousands, which the host can afford.
PTYS_MAX = 32
PTY_OPTIONS = f"newinstance,ptmxmode=0666,mode=0600,max={PTYS_MAX}"
# No TIME_WAIT: it would show an invocation the connections of the previous one. On loopback it is
# not needed: no packet is in flight once both ends of a connection are closed.
NO_TIME_WAIT = {"net.ipv4.tcp_max_tw_buckets": "0"}
# No control group counts the receive buffers of connections that are not accepted yet, so they
# start small and grow once a program reads. Egress keeps the defaults, as they suit far servers.
NETWORK = {"net.ipv4.tcp_rmem": "4096 8192 6291456", **NO_TIME_WAIT}
CRUN, GVISOR = "crun", "gvisor"
# Mount options that gVisor rejects. Its tmpfs cannot count inodes; the memory limit covers them.
UNKNOWN_TO_GVISOR = ("nr_inodes=", "hidepid=", "gid=")
# gVisor's message queues have no limit and cannot be listed, so one would outlive its invocation.
NOT_IN_GVISOR = ("mq_open", "mq_unlink")
PENDING_SIGNALS = 128
ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}


class Host(Frozen):
    """The facts about the machine that config.json needs.

    `root`: the execution image's root directory. `binds`: read-only bind mounts, path in the
    sandbox → path on the host. `limits`: the control groups that a sandbox can see, as returned by
    `Cgroups.view`. `shell`: STATIC_SHELL or SHELL_LIBRARY. `output_max`: the maximum bytes that the
    guest keeps of standard output, standard error and, if given, a result; None: its defaults.
    """

    machine: str
    root: str
    binds: Mapping[str, str] = MappingProxyType({})
    oom_score_min: int = 0
    limits: str = "v2"
    shell: str = SHELL_LIBRARY
    output_max: tuple[int, ...] | None = None


class SandboxSpec(Frozen):
    """All that the launcher needs to create one sandbox.

    `app`: the files at /app, if any; `packages`: the files below them in the same overlay. `base`:
    its root file system; None: the host image. `writable_paths`: mount points of a tmpfs each, in
    addition to /tmp; they exist. `binds`: further read-only bind mounts, path in the sandbox → path
    on the host. `egress`: it can reach public addresses, through the network namespace at `netns`.
    `isolation`: the program that creates it, CRUN or GVISOR.
    """

    limits: SandboxLimits
    app: Path | None = None
    base: Path | None = None
    packages: Path | None = None
    writable_paths: tuple[str, ...] = ()
    binds: Mapping[str, str] = MappingProxyType({})
    egress: bool = False
    netns: str = ""
    isolation: str = CRUN


def config(
    host: Host, spec: SandboxSpec, *, uid_base: int, cgroup: str, hostname: str
) -> dict[str, Any]:
    """The OCI runtime configuration of one sandbox (runtime-spec 1.0)."""
    made = _for_crun(host, spec, uid_base=uid_base, cgroup=cgroup, hostname=hostname)
    return _for_gvisor(made, spec.limits.pids) if spec.isolation == GVISOR else made


def hostname_of(sandbox_id: str) -> str:
    """Returns a unique host name. It begins with a letter, because libraries take digits alone for
    an address.
    """
    return f"sandbox-{sandbox_id[:12]}"


def hosts(hostname: str) -> str:
    """Returns /etc/hosts with the sandbox's own name, which programs look up."""
    return f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {hostname}\n"


def meminfo(memory_mib: int, machine_kib: int) -> bytes:
    """Returns /proc/meminfo of a sandbox, for programs that do not read control groups: it shows
    the memory limit, all of it free. The length is constant, so that it can be overwritten.
    """
    most = min(memory_mib * 1024, machine_kib)
    lines = [(name, most) for name in ALL_FREE] + [(name, 0) for name in NONE_USED.split()]
    return "".join(f"{name + ':':<16}{kib:>12} kB\n" for name, kib in lines).encode()


def tmp_options(limits: SandboxLimits) -> str:
    """Mount options of /tmp and other writable paths."""
    return f"mode=1777,size={limits.tmp_mib}m,nr_inodes={INODES_PER_MIB * limits.tmp_mib}"


def _rlimits(limits: SandboxLimits) -> list[dict[str, Any]]:
    of_limits = {"RLIMIT_NOFILE": limits.open_files, "RLIMIT_FSIZE": limits.file_mib * MIB}
    return [{"type": kind, "soft": n, "hard": n} for kind, n in (RLIMITS | of_limits).items()]


def _for_crun(
    host: Host, spec: SandboxSpec, *, uid_base: int, cgroup: str, hostname: str
) -> dict[str, Any]:
    return {
        "ociVersion": "1.0.2",
        "hostname": hostname,
        "annotations": {"run.oci.seccomp_fail_unknown_syscall": "1"},
        "root": {"path": host.root, "readonly": True},
        "process": _process(host, spec),
        "mounts": _mounts(host, spec),
        "linux": {
            "namespaces": [
                *({"type": kind} for kind in ("user", "mount", "pid", "ipc", "uts", "cgroup")),
                {"type": "network", "path": spec.netns} if spec.netns else {"type": "network"},
            ],
            "uidMappings": _mapping(uid_base),
            "gidMappings": _mapping(uid_base),
            "cgroupsPath": cgroup,
            "resources": _resources(spec.limits),
            "sysctl": {} if spec.netns else NETWORK,
            "seccomp": seccomp(host.machine),
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    }


def _for_gvisor(made: dict[str, Any], pids: int) -> dict[str, Any]:
    """Returns the same isolation without the settings that runsc rejects or silently ignores.

    The process joins its control group before runsc starts, and gVisor provides /proc and /sys.
    """
    process, linux = made["process"], made["linux"]
    guest, tmp, shm, score, *further = process["args"]
    # Leave out the arguments for what the guest does not do in gVisor.
    writable = [one for one in further if not one.startswith(("shell=", "limits="))]
    kept = {"uidMappings", "gidMappings"}
    return made | {
        "annotations": {},
        "process": process
        | {
            "args": [guest, _known(tmp), _known(shm), score, GVISOR, *writable],
            "oomScoreAdj": int(score),
            "rlimits": [
                *process["rlimits"],
                # The guest cannot set limits in gVisor; the control group counts gVisor's own
                # processes.
                {"type": "RLIMIT_SIGPENDING", "soft": PENDING_SIGNALS, "hard": PENDING_SIGNALS},
                {"type": "RLIMIT_NPROC", "soft": pids, "hard": pids},
            ],
        },
        "mounts": [
            one | {"options": [o for o in one["options"] if not o.startswith(UNKNOWN_TO_GVISOR)]}
            for one in made["mounts"]
        ],
        "linux": {name: linux[name] for name in kept}
        | {
            "namespaces": [one for one in linux["namespaces"] if one["type"] != "cgroup"],
            "seccomp": linux["seccomp"] | {"syscalls": _without(linux["seccomp"]["syscalls"])},
        },
    }


def _without(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one | {"names": [n for n in one["names"] if n not in NOT_IN_GVISOR]} for one in rules]


def _known(options: str) -> str:
    return ",".join(one for one in options.split(",") if not one.startswith(UNKNOWN_TO_GVISOR))


def _process(host: Host, spec: SandboxSpec) -> dict[str, Any]:
    guest_oom_score, oom_score = _oom_scores(host.oom_score_min)
    output = [] if host.output_max is None else [f"output={','.join(map(str, host.output_max))}"]
    return {
        "terminal": False,
        "user": {"uid": 0, "gid": 0},
        "args": [
            *(GUEST, tmp_options(spec.limits), SHM_OPTIONS, str(oom_score)),
            # The forking shell has some of the guest's privileges, so it has to be the host's own.
            *([f"shell={host.shell}"] if spec.base is None else []),
            f"limits={host.limits}",
            *output,
            *spec.writable_paths,
        ],
        "env": [],
        "cwd": "/",
        "noNewPrivileges": True,
        "oomScoreAdj": guest_oom_score,
        "capabilities": {
            "bounding": GUEST_CAPABILITIES,
            "effective": GUEST_CAPABILITIES,
            "permitted": GUEST_CAPABILITIES,
            "inheritable": [],
            "ambient": [],
        },
        "rlimits": _rlimits(spec.limits),
    }


def _oom_scores(floor: int) -> tuple[int, int]:
    """Returns the OOM scores of guest and handlers: launcher < guest < handlers."""
    guest = min(max(GUEST_OOM_SCORE, floor + 1), OOM_SCORE_MAX)
    return guest, min(max(HANDLER_OOM_SCORE, guest + 1), OOM_SCORE_MAX)


def _mounts(host: Host, spec: SandboxSpec) -> list[dict[str, Any]]:
    safe = ["nosuid", "nodev"]
    fixed = [
        _mount("/proc", "proc", "proc", [*safe, "noexec", "hidepid=2", "gid=0"]),
        # A fresh /dev also keeps symlinks of an image from redirecting the creation of devices.
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "noexec", "mode=755,size=64k,nr_inodes=64"]),
        _mount("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", PTY_OPTIONS]),
        _mount("/dev/shm", "tmpfs", "tmpfs", [*safe, "noexec", SHM_OPTIONS]),
        *(
            _mount(path, "tmpfs", "tmpfs", [*safe, tmp_options(spec.limits)])
            for path in ("/tmp", *spec.writable_paths)
        ),
    ]
    app = {} if spec.app is None else {"/app": str(spec.app)}
    binds = [
        _mount(target, "bind", source, ["rbind", "ro", *safe])
        for target, source in {**host.binds, **app, **spec.binds}.items()
    ]
    return fixed + binds


def _mount(target: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    flat = [part for option in options for part in option.split(",")]
    return {"destination": target, "type": kind, "source": source, "options": flat}


def _mapping(base: int) -> list[dict[str, int]]:
    return [{"containerID": 0, "hostID": base, "size": 65_536}]


def _resources(limits: SandboxLimits) -> dict[str, Any]:
    memory = limits.memory_mib * 1024 * 1024
    quota, period = limits.cpu_quota_and_period_us()
    return {
        # "swap" is the limit on memory and swap together, so equal values mean no swap.
        "memory": {"limit": memory, "swap": memory},
        "cpu": {"quota": quota, "period": period},
        "pids": {"limit": limits.pids},
        "devices": [{"allow": False, "access": "rwm"}],
    }


@functools.cache
def seccomp(machine: str) -> dict[str, Any]:
    """Returns the allowlist of seccomp.json in the OCI runtime's format, for this CPU architecture.

    All sandboxes share the returned document: do not change it.
    """
    profile = _profile()
    plain = sorted({name for group in profile["allow"] for name in group["names"]})
    rules: list[dict[str, Any]] = [{"names": plain, "action": "SCMP_ACT_ALLOW"}]
    rules += [
        {"names": rule["names"], "action": "SCMP_ACT_ALLOW", "args": args}
        for rule in profile["allow_if"]
        for args in _alternatives(rule["args"])
    ]
    rules += [
        {
            "names": rule["names"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": rule["errno"],
            "args": rule["args"],
        }
        for rule in profile["refused_as"]
    ]
    rules += [
        {"names": rule["names"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
        for rule in profile["no_such_call"]
    ]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": [ARCHITECTURES[machine]],
        "syscalls": rules,
    }


def _alternatives(conditions: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yields lists of conditions with one condition per argument. `conditions` hold if and only if
    one of these lists holds.
    """
    return map(list, itertools.product(*map(_expanded, conditions)))


def _expanded(condition: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields conditions in the OCI runtime's format. The given one holds if and only if one of
    them holds.
    """
    if "within" not in condition:
        yield condition
        return
    for path in condition["within"]:
        first, last = path if isinstance(path, list) else (path, path)
        for block in _blocks(first, last, condition.get("bits", 64)):
            yield {"index": condition["index"], **block}


def _blocks(first: int, last: int, bits: int = 64) -> Iterator[dict[str, Any]]:
    """Yields conditions of which one holds for every number from `first` to `last`, and none for
    other numbers. Only the lowest `bits` of the number count.

    A runtime takes two conditions on one argument for two rules, so a range cannot be expressed by
    two comparisons. It is split into blocks of 2^n numbers that differ only in their last n bits.
    """
    while first <= last:
        size = first & -first or 1 << bits
        while first + size - 1 > last:
            size >>= 1
        mask = (1 << bits) - size
        yield {"value": mask, "valueTwo": first, "op": "SCMP_CMP_MASKED_EQ"}
        first += size


def _profile() -> dict[str, Any]:
    text = Path(__file__).with_name("seccomp.json").read_text()
    profile: dict[str, Any] = json.loads(text)
    return profile
