"""Checks of this machine's kernel and files: requirements of a server, and conditions that
strengthen or weaken sandbox isolation. `quiltfn doctor` and a running server report the findings.

Functions that read the machine's files get their root directory, so that a test can imitate a
machine by files.
"""

import platform
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

KERNEL_MIN = (5, 10)
FREE_MIN_MIB, FREE_ADVISED_MIB = 64, 1024
IMAGES_NAMED = 5  # maximum number of digests in one sentence


class Level(StrEnum):
    """`NO`: the server cannot start. `WARN`: it can start, but the operator should know."""

    OK = "ok"
    WARN = "warn"
    NO = "NO"


@dataclass(frozen=True, slots=True)
class Finding:
    """`name`: for programs, one word. `advice`: what to do, if anything."""

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


# Requirements of a server ------------------------------------------------------------------------


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
        return refuse(name, "the kernel does not allow user namespaces", advice)
    return fine(name, f"user namespaces allowed: {allowed}")


def seccomp(root: Path) -> Finding:
    if "errno" in _text(root / "proc/sys/kernel/seccomp/actions_avail").split():
        return fine("seccomp", "seccomp filters are available")
    advice = "use a kernel with CONFIG_SECCOMP_FILTER"
    return refuse("seccomp", "the kernel has no seccomp filters", advice)


def database(url: str, is_verified: bool, version: str = "") -> Finding:
    """PostgreSQL, if it is the store. `version`: as reported by the server, if known."""
    sentence = f"state is kept in {url}" + (f", PostgreSQL {version}" if version else "")
    if is_verified:
        return fine("store", sentence)
    return warn(
        "store",
        f"{sentence}, but the connection does not verify the server, so an attacker on the network "
        "could impersonate it",
        "add ?sslmode=verify-full&sslrootcert=FILE to store, with the authority of its certificate",
    )


def disk(path: Path) -> Finding:
    """Free space for the data directory, which may not exist yet."""
    path = path.absolute()
    existing = next(one for one in (path, *path.parents) if one.exists())
    free = shutil.disk_usage(existing).free // (1024 * 1024)
    sentence = f"{free} MiB free for {path}"
    advice = "free some space, or choose another --data-dir"
    if free < FREE_MIN_MIB:
        return refuse("disk", sentence, advice)
    if free < FREE_ADVISED_MIB:
        return warn("disk", sentence, advice)
    return fine("disk", sentence)


def image_contents(damaged: Sequence[Path], count: int, *, is_node: bool) -> Finding:
    """Whether images have the content that was uploaded. `damaged`: the paths of those that differ.
    `count`: the number of examined images. `is_node`: other nodes of a fleet may have copies.
    """
    if not damaged:
        return fine("image_contents", f"all {count} images are unchanged since their upload")
    back = (
        "a copy comes from another node when it is needed"
        if is_node
        else "restore the image from a backup, or upload the same files again (quiltfn runtimes "
        "add --upgrade)"
    )
    return warn(
        "image_contents",
        f"damaged images, whose functions may do anything: {len(damaged)} of {count} "
        f"({', '.join(map(str, damaged))})",
        f"examine the disk; stop the server, remove the directory, start the server, and {back}",
    )


def images(missing: Sequence[str]) -> Finding:
    """Whether all images have their files. `missing`: the digests of images without files."""
    if not missing:
        return fine("images", "all images have their files")
    some = ", ".join(missing[:IMAGES_NAMED]) + (" …" if len(missing) > IMAGES_NAMED else "")
    return warn(
        "images",
        f"images without files, whose functions cannot be invoked: {len(missing)} ({some})",
        "restore them from a backup, or upload the same files again (quiltfn runtimes add "
        "--upgrade)",
    )


# Conditions that affect sandbox isolation --------------------------------------------------------


def swap(root: Path) -> Finding:
    if len(_text(root / "proc/swaps").splitlines()) <= 1:
        return fine("swap", "no swap")
    return warn(
        "swap",
        "swap is on: keys and handlers' data may be written from memory to disk",
        "swapoff -a, or encrypt it",
    )


def same_pages(root: Path) -> Finding:
    if _number(root / "sys/kernel/mm/ksm/run") in (None, 0, 2):
        return fine("ksm", "equal memory pages are not merged (KSM is off)")
    return warn(
        "ksm",
        "KSM merges equal memory pages: handlers can find out the content of other handlers' "
        "memory",
        "echo 2 > /sys/kernel/mm/ksm/run",
    )


def threads(root: Path) -> Finding:
    if _number(root / "sys/devices/system/cpu/smt/active") != 1:
        return fine("smt", "no two threads share a core (SMT is off)")
    return warn(
        "smt",
        "two threads share a core (SMT): handlers on one core may spy on each other by side "
        "channels",
        "for hostile code: echo off > /sys/devices/system/cpu/smt/control",
    )


def io_uring(root: Path) -> Finding:
    if _number(root / "proc/sys/kernel/io_uring_disabled") == 2:
        return fine("io_uring", "io_uring is off")
    return fine("io_uring", "io_uring is on; the sandboxes' seccomp filter blocks it")


def bpf(root: Path) -> Finding:
    if _number(root / "proc/sys/kernel/unprivileged_bpf_disabled") in (1, 2):
        return fine("bpf", "unprivileged bpf is off")
    return warn(
        "bpf",
        "unprivileged bpf is on; the sandboxes' seccomp filter blocks it, but other users can use "
        "it",
        "sysctl -w kernel.unprivileged_bpf_disabled=2",
    )


def core_pattern(root: Path) -> Finding:
    pattern = _text(root / "proc/sys/kernel/core_pattern").strip()
    if pattern.startswith("|"):
        return warn(
            "core_pattern",
            f"a crash is piped into a program that runs as root on the host ({pattern[1:60]}), "
            "whatever limit the crashed process has: handlers control its input",
            "sysctl -w kernel.core_pattern=core, unless you need it",
        )
    return fine(
        "core_pattern", f"core dumps go to files ({pattern or 'none'}); handlers create none"
    )


def security_modules(root: Path) -> Finding:
    loaded = _text(root / "sys/kernel/security/lsm").strip().split(",")
    found = [name for name in ("apparmor", "selinux") if name in loaded]
    if found:
        return fine("lsm", f"{' and '.join(found)} loaded; sandboxes have no separate profile")
    return fine("lsm", "neither AppArmor nor SELinux; sandbox isolation does not need them")


def cgroup_start(root: Path, mode: str) -> Finding:
    """Whether moving a process into a control group has to wait for all CPUs."""
    mounts = _text(root / "proc/self/mountinfo")
    if mode != "v2" or "favordynmods" in mounts:
        return fine("favordynmods", "favordynmods would have no effect here")
    return fine(
        "favordynmods",
        "mounting cgroup2 with favordynmods may speed up slow cold starts, but slows every fork a "
        "little: mount -o remount,favordynmods /sys/fs/cgroup",
    )


def service(root: Path, mode: str) -> Finding:
    """Whether the systemd service may create control groups below its own."""
    unit = root / "etc/systemd/system/quiltfn.service"
    if not unit.exists():
        return fine("service", "no quiltfn.service is installed")
    words = re.findall(r"^Delegate=(.*)$", unit.read_text(), re.MULTILINE)
    if mode == "v2" and not any(word.strip() not in ("", "no", "false", "0") for word in words):
        return warn(
            "service",
            f"{unit} does not delegate control groups: systemd may remove them",
            "add Delegate=cpu memory pids to its [Service]",
        )
    return fine("service", "quiltfn.service is installed")


def of_the_host(root: Path, mode: str) -> Iterator[Finding]:
    """Yields the findings for which reading files is enough."""
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
