"""What a machine offers, finding by finding. Each function takes the root directory to look below,
so that a test can make a machine of files.
"""

import platform
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path

KERNEL_MIN = (5, 10)
CRUN_ADVISED = (1, 28)
OLD_AFTER_DAYS = 365
FREE_MIN_MIB, FREE_ADVISED_MIB = 64, 1024
ELF_MACHINES = {62: "x86_64", 183: "aarch64"}


class Level(StrEnum):
    """`NO`: the server cannot start. `WARN`: it can, and the operator should know."""

    OK = "ok"
    WARN = "warn"
    NO = "NO"


@dataclass(frozen=True, slots=True)
class Finding:
    """`name`: one word for programs. `advice`: what to do, where there is something to do."""

    name: str
    level: Level
    sentence: str
    advice: str = ""


def fine(name: str, sentence: str) -> Finding:
    return Finding(name, Level.OK, sentence)


def warn(name: str, sentence: str, advice: str) -> Finding:
    return Finding(name, Level.WARN, sentence, advice)


def refuse(name: str, sentence: str, advice: str) -> Finding:
    return Finding(name, Level.NO, sentence, advice)


Run = Callable[[list[str]], str | None]


def output_of(command: list[str]) -> str | None:
    """What a program prints; None where it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


# What a server cannot do without -----------------------------------------------------------------


def kernel(release: str) -> Finding:
    match = re.match(r"(\d+)\.(\d+)", release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    if version < KERNEL_MIN:
        return refuse(
            "kernel", f"Linux {release} is older than 5.10", "install a newer kernel and restart"
        )
    return fine("kernel", f"Linux {release}")


def namespaces(root: Path) -> Finding:
    name, advice = "user_namespaces", "sysctl -w user.max_user_namespaces=16384"
    allowed = _number(root / "proc/sys/user/max_user_namespaces")
    if not allowed:
        return refuse(name, "the kernel allows no user namespaces", advice)
    return fine(name, f"user namespaces allowed: {allowed}")


def seccomp(root: Path) -> Finding:
    if "errno" in _text(root / "proc/sys/kernel/seccomp/actions_avail").split():
        return fine("seccomp", "seccomp filters are available")
    advice = "use a kernel with CONFIG_SECCOMP_FILTER"
    return refuse("seccomp", "the kernel has no seccomp filters", advice)


def crun(path: str, run: Run = output_of) -> Finding:
    """The OCI runtime and its version."""
    said = run([path, "--version"])
    if said is None:
        return refuse("crun", f"there is no OCI runtime that runs at {path}", "apt install crun")
    match = re.search(r"crun version (\d+)\.(\d+)", said)
    if match is None:
        return warn(
            "crun", f"{path} does not call itself crun; only crun is tested", "use --crun with crun"
        )
    version = f"{match[1]}.{match[2]}"
    if (int(match[1]), int(match[2])) >= CRUN_ADVISED:
        return fine("crun", f"crun {version} at {path}")
    return warn(
        "crun",
        f"crun {version} at {path} has known holes: CVE-2026-30892 (exec -u runs as root), "
        "CVE-2026-47766 (a /dev that is a symlink) and CVE-2026-88264/5 (no mount on /dev). "
        "quiltfn is not exposed to them: it never uses exec, its root directories have a real "
        "/dev, and every sandbox mounts a fresh one",
        "take 1.28 or newer when your distribution has it",
    )


def guest(path: Path, machine: str) -> Finding:
    """Our own pid 1: a static program for this processor. It is not started outside a sandbox."""
    try:
        with path.open("rb") as file:
            head = file.read(20)
    except OSError:
        return refuse("guest", f"the guest is missing at {path}", "run scripts/setup")
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return refuse("guest", f"{path} is no program", "install quiltfn again")
    made_for = ELF_MACHINES.get(struct.unpack_from("<H", head, 18)[0], "another processor")
    if made_for != machine:
        return refuse(
            "guest",
            f"the guest at {path} is for {made_for}, this machine is {machine}",
            "install the wheel for this machine",
        )
    if not path.stat().st_mode & 0o111:
        return refuse("guest", f"{path} may not be executed", f"chmod 755 {path}")
    return fine("guest", f"the guest is there, for {made_for}")


def disk(path: Path) -> Finding:
    """Free space where the database is, or will be."""
    path = path.absolute()
    existing = next(one for one in (path, *path.parents) if one.exists())
    free = shutil.disk_usage(existing).free // (1024 * 1024)
    sentence, advice = f"{free} MiB free for {path}", "make room, or name another --data-dir"
    if free < FREE_MIN_MIB:
        return refuse("disk", sentence, advice)
    if free < FREE_ADVISED_MIB:
        return warn("disk", sentence, advice)
    return fine("disk", sentence)


# What makes the fence stronger or weaker ---------------------------------------------------------


def swap(root: Path) -> Finding:
    if len(_text(root / "proc/swaps").splitlines()) <= 1:
        return fine("swap", "no swap")
    return warn(
        "swap",
        "swap is on: what handlers and keys held in memory may be on the disk",
        "swapoff -a, or encrypt it",
    )


def same_pages(root: Path) -> Finding:
    if _number(root / "sys/kernel/mm/ksm/run") in (None, 0, 2):
        return fine("ksm", "same pages are not merged (KSM is off)")
    return warn(
        "ksm",
        "KSM merges same pages: a handler can find out what others hold in memory",
        "echo 2 > /sys/kernel/mm/ksm/run",
    )


def threads(root: Path) -> Finding:
    if _number(root / "sys/devices/system/cpu/smt/active") != 1:
        return fine("smt", "no two threads share a core (SMT is off)")
    return warn(
        "smt",
        "two threads share a core (SMT): handlers on it may spy on each other by side channels",
        "for hostile code: echo off > /sys/devices/system/cpu/smt/control",
    )


def io_uring(root: Path) -> Finding:
    if _number(root / "proc/sys/kernel/io_uring_disabled") == 2:
        return fine("io_uring", "io_uring is off")
    return fine("io_uring", "io_uring is on; the sandboxes' seccomp filter refuses it")


def bpf(root: Path) -> Finding:
    if _number(root / "proc/sys/kernel/unprivileged_bpf_disabled") in (1, 2):
        return fine("bpf", "unprivileged bpf is off")
    return warn(
        "bpf",
        "unprivileged bpf is on; the sandboxes' seccomp filter refuses it, other users may use it",
        "sysctl -w kernel.unprivileged_bpf_disabled=2",
    )


def core_pattern(root: Path) -> Finding:
    pattern = _text(root / "proc/sys/kernel/core_pattern").strip()
    if pattern.startswith("|"):
        return warn(
            "core_pattern",
            f"a crash is piped into a program that runs as root on the host ({pattern[1:60]}), "
            "whatever limit the crashed process has: handlers can feed it",
            "sysctl -w kernel.core_pattern=core, unless you need it",
        )
    return fine("core_pattern", f"core dumps go to files ({pattern or 'none'}); handlers make none")


def security_modules(root: Path) -> Finding:
    loaded = _text(root / "sys/kernel/security/lsm").strip().split(",")
    found = [name for name in ("apparmor", "selinux") if name in loaded]
    if found:
        return fine("lsm", f"{' and '.join(found)} loaded; sandboxes get no profile of their own")
    return fine("lsm", "neither AppArmor nor SELinux: the fence does without them")


def cgroup_start(root: Path, mode: str) -> Finding:
    """Whether moving a process into a group waits for all processors."""
    mounts = _text(root / "proc/self/mountinfo")
    if mode != "v2" or "favordynmods" in mounts:
        return fine("favordynmods", "nothing to gain from favordynmods here")
    return fine(
        "favordynmods",
        "slow cold starts may gain from mounting cgroup2 with favordynmods, which costs every "
        "fork a little: mount -o remount,favordynmods /sys/fs/cgroup",
    )


def egress(which: Callable[[str], str | None] = shutil.which) -> Finding:
    """What `network: egress` needs; without it such sandboxes are refused, and all else works."""
    missing = [one for one in ("nft", "slirp4netns") if which(one) is None]
    if missing:
        lacks = " and no ".join(missing)
        how = "for functions that reach the internet: apt install nftables slirp4netns"
        return fine("egress", f"refused: there is no {lacks}; {how}")
    return fine("egress", "nft and slirp4netns are there")


def gvisor(path: str, run: Run = output_of, today: date | None = None) -> Finding:
    """What `isolation: gvisor` needs; without it such runtimes are refused, and all else works."""
    said = run([path, "--version"])
    match = re.match(r"runsc version (\S+)", said or "")
    if match is None:
        how = "for a kernel of its own around a handler: apt install runsc"
        return fine("runsc", f"isolation: gvisor is refused: no runsc runs at {path}; {how}")
    sentence = f"runsc {match[1]} at {path}; serve tries it at its start"
    made = re.search(r"20\d{6}", match[1])
    today = today or date.today()
    if made is None or (today - date.fromisoformat(made[0])).days <= OLD_AFTER_DAYS:
        return fine("runsc", sentence)
    return warn(
        "runsc",
        f"{sentence}; it is more than a year old",
        "gVisor's holes are closed in its newest release: install that one, and name it by --runsc",
    )


def service(root: Path, mode: str) -> Finding:
    """Whether a systemd service of ours may make groups below its own."""
    unit = root / "etc/systemd/system/quiltfn.service"
    if not unit.exists():
        return fine("service", "no quiltfn.service is installed")
    words = re.findall(r"^Delegate=(.*)$", unit.read_text(), re.MULTILINE)
    if mode == "v2" and not any(word.strip() not in ("", "no", "false", "0") for word in words):
        return warn(
            "service",
            f"{unit} does not delegate control groups: systemd may take them away",
            "add Delegate=cpu memory pids to its [Service]",
        )
    return fine("service", "quiltfn.service is installed")


def leftovers(dead: list[str]) -> Finding:
    if not dead:
        return fine("leftovers", "nothing is left of dead servers")
    return warn(
        "leftovers",
        f"{len(dead)} ended server(s) left something behind: {', '.join(dead)}",
        "quiltfn doctor --sweep, or start a server, which sweeps too",
    )


def of_the_host(root: Path, mode: str) -> Iterator[Finding]:
    """Everything that is read from files alone."""
    yield kernel(_text(root / "proc/sys/kernel/osrelease").strip() or platform.release())
    yield namespaces(root)
    yield seccomp(root)
    yield swap(root)
    yield same_pages(root)
    yield threads(root)
    yield io_uring(root)
    yield bpf(root)
    yield core_pattern(root)
    yield security_modules(root)
    yield cgroup_start(root, mode)
    yield service(root, mode)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None
