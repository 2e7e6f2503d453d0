"""At start: create one sandbox, and read its protections back from the kernel.

Health reports these observations, not the requested settings. If a protection is missing, the
server does not start.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from quiltfn.launcher.cgroups import MOUNT, SOCKET_SHARE, Cgroups, SandboxLimits
from quiltfn.launcher.descriptors import LEAST
from quiltfn.launcher.egress import Egress, EgressProxy
from quiltfn.launcher.gvisor import Gvisor, pids
from quiltfn.launcher.jobs import LATE
from quiltfn.launcher.oci import GVISOR, SandboxSpec
from quiltfn.launcher.sandboxes import Created, NotCreated, Sandboxes
from quiltfn.launcher.state import UID_BASE, UIDS_PER_SANDBOX, ServerState

PROBE = SandboxLimits(
    memory_mib=64, cpu_percent=50.0, pids=64, tmp_mib=64, file_mib=64, open_files=LEAST
)
# With more memory, since gVisor's kernel has to start in it.
GVISOR_PROBE = PROBE.replace(memory_mib=256)
WITHIN = "within the memory limit"
COMMAND_LINE = Path("/proc/cmdline")


class PreflightFailed(Exception):
    """This machine cannot protect a sandbox as required. The message is for the operator."""


class Seen(NamedTuple):
    """What the kernel reports about the probe."""

    status: dict[str, str]
    namespaces: set[str]
    limits: dict[str, str]


def check(
    sandboxes: Sandboxes, state: ServerState, cgroups: Cgroups, turn: Callable[[], None]
) -> dict[str, str]:
    """Creates the probe, examines it, and removes it. Returns the observation for each protection.

    `turn` runs the event loop once. Raises `PreflightFailed`.
    """
    seen = _probe(SandboxSpec(limits=PROBE), sandboxes, state, cgroups, turn)
    return judge(seen, cgroups.mode)


def check_gvisor(
    gvisor: Gvisor,
    sandboxes: Sandboxes,
    state: ServerState,
    cgroups: Cgroups,
    turn: Callable[[], None],
) -> str:
    """Like `check`, with gVisor: examines its sentry, the process in which a handler's code runs.
    Repeats a probe that failed only because it took too long, since there is no other test until
    the next start.

    Returns the observation, or "refused: " and the reason why gVisor is unusable.
    """
    spec = SandboxSpec(limits=GVISOR_PROBE, isolation=GVISOR)
    for _ in range(2) if gvisor.find() else ():
        gvisor.judge("")
        try:
            return judge_gvisor(_probe(spec, sandboxes, state, cgroups, turn), gvisor.version)
        except PreflightFailed as error:
            gvisor.judge(str(error))
            if LATE not in gvisor.why_not:
                break
    return f"refused: {gvisor.why_not}"


def _probe(
    spec: SandboxSpec,
    sandboxes: Sandboxes,
    state: ServerState,
    cgroups: Cgroups,
    turn: Callable[[], None],
) -> Seen:
    answers: list[Created | NotCreated] = []
    sandboxes.create(spec, answers.append)
    _until(lambda: bool(answers), turn)
    answer = answers[0]
    if isinstance(answer, NotCreated):
        raise PreflightFailed(answer.reason)
    try:
        # The guest drops its bounding set of capabilities before it says hello.
        answer.control.settimeout(5)
        if not answer.control.recv(64):
            raise PreflightFailed("the guest ended before it said hello")
        return _look(answer.pid, state.id, answer.sandbox, cgroups)
    except OSError as error:
        raise PreflightFailed(f"the probe sandbox cannot be examined: {error}") from None
    finally:
        answer.control.close()
        os.close(answer.events)
        gone: list[bool] = []
        sandboxes.destroy(answer.sandbox, lambda _: gone.append(True))
        _until(lambda: bool(gone), turn)


def check_egress(egress: Egress, state: ServerState, turn: Callable[[], None]) -> str:
    """Opens a network like that of a sandbox with egress, and tests that it refuses `egress.TRIED`.

    Returns the observation, or "refused: " and why this machine has no egress.
    """
    answers: list[EgressProxy | str] = []
    lost: list[bool] = []
    uids = state.take_uids()
    name = os.urandom(12).hex()
    egress.open(name, uids, PROBE, done=answers.append, on_lost=lambda: lost.append(True))
    _until(lambda: bool(answers), turn)
    proxy = answers[0]
    seen = ""
    if isinstance(proxy, str):
        egress.refuse(egress.why_not or proxy)
    else:
        try:
            seen = egress.examine(proxy)
        except OSError as error:
            egress.refuse(f"the rules of network: egress are not in force: {error}")
        gone: list[bool] = []
        egress.close(proxy, lambda: gone.append(True))
        _until(lambda: bool(gone), turn)
    state.give_back_uids(uids)
    return seen or f"refused: {egress.why_not}"


def judge(seen: Seen, mode: str) -> dict[str, str]:
    """Returns the observation for each protection. Raises `PreflightFailed` if one is missing."""
    demands = {
        **_identity(seen),
        "namespaces": (
            seen.namespaces >= {"mnt", "pid", "net", "ipc", "uts", "cgroup", "user"},
            "mount, pid, net, ipc, uts, cgroup, user",
        ),
        "seccomp": (seen.status["Seccomp"] == "2", "allowlist"),
        "no_new_privileges": (seen.status["NoNewPrivs"] == "1", "set"),
        "capabilities": (int(seen.status["CapBnd"], 16) == 0, "handlers have none"),
        **_limits(seen, PROBE, PROBE.pids, mode),
    }
    _demand(demands, seen, "a sandbox on this machine")
    return {name: how for name, (_, how) in demands.items()} | {"network": "lo only"}


def judge_gvisor(seen: Seen, version: str) -> str:
    """Returns the observation as a sentence. Raises `PreflightFailed` with what is missing."""
    demands = {
        **_identity(seen),
        # Not "pid": gVisor's stubs must be in the host's pid namespace, unseen by handlers.
        "namespaces": (seen.namespaces >= {"mnt", "net", "ipc", "uts", "user"}, ""),
        "seccomp": (seen.status["Seccomp"] == "2", ""),
        "no_new_privileges": (seen.status["NoNewPrivs"] == "1", ""),
        **_limits(seen, GVISOR_PROBE, pids(GVISOR_PROBE), ""),
    }
    _demand(demands, seen, "gVisor's sentry")
    return (
        f"runsc {version}; its sentry has seccomp, no_new_privs, an {demands['user_namespace'][1]} "
        "and the limits of its control group"
    )


Demands = dict[str, tuple[bool, str]]


def _identity(seen: Seen) -> Demands:
    uid = int(seen.status["Uid"].split()[0])
    return {"user_namespace": (uid >= UID_BASE + UIDS_PER_SANDBOX, f"own uid range from {uid}")}


def _limits(seen: Seen, probe: SandboxLimits, pids: int, mode: str) -> Demands:
    quota, period = probe.cpu_quota_and_period_us()
    size = probe.memory_mib * 1024 * 1024
    memory, apart = str(size), str(size // SOCKET_SHARE)
    sockets = seen.limits.get("sockets")
    how = WITHIN if sockets == WITHIN else f"cgroup {mode}, TCP 1/{SOCKET_SHARE} of the memory"
    return {
        "memory_limit": (seen.limits.get("memory") == memory, f"cgroup {mode}, swap included"),
        "swap_limit": (seen.limits.get("swap") in (memory, "0", "none"), "none"),
        "socket_limit": (sockets in (apart, WITHIN), how),
        "cpu_limit": (seen.limits.get("cpu") == f"{quota} {period}", f"cgroup {mode}"),
        "pids_limit": (seen.limits.get("pids") == str(pids), f"cgroup {mode}"),
    }


def _demand(demands: Demands, seen: Seen, of: str) -> None:
    missing = [name for name, (fine, _) in demands.items() if not fine]
    if missing:
        raise PreflightFailed(
            f"{of} lacks: {', '.join(missing)} (seen: {seen.status}, {seen.limits})"
        )


def _look(pid: int, server: str, sandbox: str, cgroups: Cgroups) -> Seen:
    process = Path(f"/proc/{pid}")
    lines = (process / "status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    wanted = ("Uid", "Seccomp", "NoNewPrivs", "CapBnd")
    own = {
        entry.name
        for entry in (process / "ns").iterdir()
        if entry.readlink() != Path(f"/proc/self/ns/{entry.name}").readlink()
    }
    group = cgroups.path(server, sandbox).lstrip("/")
    if cgroups.mode == "v2":
        files = {
            "memory": MOUNT / group / "memory.max",
            "swap": MOUNT / group / "memory.swap.max",
            "cpu": MOUNT / group / "cpu.max",
            "pids": MOUNT / group / "pids.max",
        }
    else:
        files = {
            "memory": MOUNT / "memory" / group / "memory.limit_in_bytes",
            "swap": MOUNT / "memory" / group / "memory.memsw.limit_in_bytes",
            "sockets": MOUNT / "memory" / group / "memory.kmem.tcp.limit_in_bytes",
            "quota": MOUNT / "cpu" / group / "cpu.cfs_quota_us",
            "period": MOUNT / "cpu" / group / "cpu.cfs_period_us",
            "pids": MOUNT / "pids" / group / "pids.max",
        }
    # A host without swap accounting lacks this file. It must then have no swap either.
    limits = {n: f.read_text().strip() for n, f in files.items() if f.exists() or n != "swap"}
    if "swap" not in limits and len(Path("/proc/swaps").read_text().splitlines()) <= 1:
        limits["swap"] = "none"
    if cgroups.mode == "v2" and _counts_sockets(MOUNT / group / "memory.stat"):
        limits["sockets"] = WITHIN
    if "quota" in limits:
        limits["cpu"] = f"{limits.pop('quota')} {limits.pop('period')}"
    return Seen({name: status.get(name, "") for name in wanted}, own, limits)


def _counts_sockets(stat: Path) -> bool:
    """Whether v2 charges sockets to the memory limit; a boot parameter can turn that off."""
    counted = any(line.startswith("sock ") for line in stat.read_text().splitlines())
    return counted and "nosocket" not in COMMAND_LINE.read_text()


def _until(done: Callable[[], bool], turn: Callable[[], None]) -> None:
    end = time.monotonic() + 30
    while not done():
        if time.monotonic() > end:
            raise PreflightFailed("the probe sandbox did not come up within 30 s")
        turn()
