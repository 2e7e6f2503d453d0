"""Checks of the programs that are installed on this machine, for `quiltfn doctor` and a running
server. Checks of kernel and files are in `host/checks.py`.
"""

import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from datetime import date
from pathlib import Path

from quiltfn.host.checks import Finding, fine, refuse, warn

CRUN_ADVISED = (1, 28)
OLD_AFTER_DAYS = 365
ELF_MACHINES = {62: "x86_64", 183: "aarch64"}

Run = Callable[[list[str]], str | None]


def output_of(command: list[str]) -> str | None:
    """Returns the output of a program; None if it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


# Requirements of a server ------------------------------------------------------------------------


def crun(path: str, run: Run = output_of) -> Finding:
    """The OCI runtime and its version."""
    said = run([path, "--version"])
    if said is None:
        return refuse("crun", f"there is no working OCI runtime at {path}", "apt install crun")
    match = re.search(r"crun version (\d+)\.(\d+)", said)
    if match is None:
        return warn("crun", f"{path} is not crun; only crun is tested", "use --crun with crun")
    version = f"{match[1]}.{match[2]}"
    if (int(match[1]), int(match[2])) >= CRUN_ADVISED:
        return fine("crun", f"crun {version} at {path}")
    return warn(
        "crun",
        f"crun {version} at {path} has known vulnerabilities: CVE-2026-30892 (exec -u runs as "
        "root), "
        "CVE-2026-47766 (a /dev that is a symlink) and CVE-2026-88264/5 (no mount on /dev). "
        "quiltfn is not affected: it never uses exec, its root directories have a real /dev, and "
        "every sandbox mounts a new one",
        "install 1.28 or newer when your distribution has it",
    )


def guest(path: Path, machine: str) -> Finding:
    """The guest program must be a static binary for this CPU architecture. It is not run."""
    try:
        with path.open("rb") as file:
            head = file.read(20)
    except OSError:
        return refuse("guest", f"the guest is missing at {path}", "run scripts/setup")
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return refuse("guest", f"{path} is not a program", "reinstall quiltfn")
    made_for = ELF_MACHINES.get(struct.unpack_from("<H", head, 18)[0], "another processor")
    if made_for != machine:
        return refuse(
            "guest",
            f"the guest at {path} is for {made_for}, this machine is {machine}",
            "install the wheel for this machine",
        )
    if not path.stat().st_mode & 0o111:
        return refuse("guest", f"{path} is not executable", f"chmod 755 {path}")
    return fine("guest", f"the guest is installed, for {made_for}")


# Optional programs, and leftovers ----------------------------------------------------------------


def shell(copy: Path) -> Finding:
    """The static copy of the host's shell, from which shells start faster."""
    if not copy.exists():
        how = "run scripts/setup, which says why it cannot be built"
        return fine(
            "shell", f"shells start from /bin/sh; a static copy of it would be faster: {how}"
        )
    return fine("shell", "shells start from a static copy of /bin/sh, which is faster")


def egress(which: Callable[[str], str | None] = shutil.which) -> Finding:
    """The programs for `network: egress`. Without them only sandboxes with egress are refused."""
    missing = [one for one in ("nft", "slirp4netns") if which(one) is None]
    if missing:
        lacks = " and no ".join(missing)
        how = "for functions with network access: apt install nftables slirp4netns"
        return fine("egress", f"refused: there is no {lacks}; {how}")
    return fine("egress", "nft and slirp4netns are installed")


def gvisor(path: str, run: Run = output_of, today: date | None = None) -> Finding:
    """The program for `isolation: gvisor`. Without it only runtimes with gVisor are refused."""
    said = run([path, "--version"])
    match = re.match(r"runsc version (\S+)", said or "")
    if match is None:
        how = "to run handlers on a separate kernel: apt install runsc"
        return fine(
            "runsc", f"isolation: gvisor is refused: there is no working runsc at {path}; {how}"
        )
    sentence = f"runsc {match[1]} at {path}; serve tests it at start"
    made = re.search(r"20\d{6}", match[1])
    today = today or date.today()
    if made is None or (today - date.fromisoformat(made[0])).days <= OLD_AFTER_DAYS:
        return fine("runsc", sentence)
    return warn(
        "runsc",
        f"{sentence}; it is more than a year old",
        "install the newest release, which has all security fixes, and set --runsc to its path",
    )


def leftovers(dead: list[str]) -> Finding:
    if not dead:
        return fine("leftovers", "no leftovers of ended servers")
    return warn(
        "leftovers",
        f"{len(dead)} ended server(s) have leftovers: {', '.join(dead)}",
        "remove them with quiltfn doctor --sweep, or by starting a server",
    )
