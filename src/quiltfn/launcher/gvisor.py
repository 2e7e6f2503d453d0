"""Sandboxes by gVisor: the options of `runsc`, and what differs from crun.

What the host's kernel is asked for by a handler's code is asked by that process (the sentry), and
by nobody else. Here: with which flags it is started, and whether this machine has it. It is not
known until `preflight` has made a sandbox with it; until then, and after a failure, such sandboxes
are refused and never made in another way.
"""

import contextlib
import json
import os
import subprocess
from pathlib import Path

from quiltfn.launcher.cgroups import Cgroups, SandboxLimits

# Its own threads and one or two of the host's for each thread of a handler count here; handlers are
# held by a limit inside (oci.py). Whoever fills this up ends its own sandbox.
PIDS_OF_ITS_OWN, PIDS_OF_A_THREAD = 384, 2
# null, zero, random, urandom: what the sentry and its helper open. Nodes inside are the sentry's.
DEVICES = ("c 1:3 rw", "c 1:5 rw", "c 1:8 r", "c 1:9 r")
VERSION_TIMEOUT_S = 5.0
STARTS_AT_PERCENT = 100.0
# runsc's root directory, one for each sandbox: in the bundle, so that both are removed together.
ROOT, NAME = "runsc", "s"
FLAGS = (
    "--platform=systrap",
    "--network=none",
    "--host-uds=none",
    "--host-fifo=none",
    "--overlay2=none",
    # The launcher has put it into its control group, as whatever it starts.
    "--ignore-cgroups",
    # The list of system calls holds inside, too, so that its own kernel is asked for no more.
    "--oci-seccomp",
    "--file-access=exclusive",
    # packages of the host may be upgraded meanwhile
    "--file-access-mounts=shared",
)


class Gvisor:
    """`why_not`: a sentence, empty once it was seen at work. `version`: as it calls itself."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.version = "unknown"
        self.why_not = "gVisor was not tried yet"

    def find(self) -> bool:
        """Whether runsc exists and tells its version. The one method that blocks."""
        if not os.access(self.path, os.X_OK):
            self.why_not = f"there is no {self.path}: apt install runsc"
            return False
        try:
            shown = subprocess.run(
                [self.path, "--version"],
                capture_output=True,
                text=True,
                timeout=VERSION_TIMEOUT_S,
                env={},
                check=True,
            ).stdout
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self.why_not = f"{self.path} does not say its version: {error}"
            return False
        words = shown.split()
        if words[:2] != ["runsc", "version"] or len(words) < 3:
            self.why_not = f"{self.path} does not call itself runsc"
            return False
        self.version = words[2]
        return True

    def command(self, bundle: Path) -> list[str]:
        """Starts the bundle's sandbox in the background; its log is the bundle's."""
        run = ["run", "--detach", "--pass-fd", "3:3"]
        run += ["--pid-file", str(bundle / "pid"), "--bundle", str(bundle), NAME]
        always = [f"--root={bundle / ROOT}", f"--log={bundle / 'log'}", "--log-format=json"]
        return [self.path, *always, *FLAGS, *run]


def pids(limits: SandboxLimits) -> int:
    """Processes and threads of the host that its sandbox may have."""
    return PIDS_OF_ITS_OWN + PIDS_OF_A_THREAD * limits.pids


def error_in(log: Path) -> str:
    """The first error in runsc's log; "" if there is none."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        lines = [json.loads(line) for line in log.read_text(errors="replace").splitlines()]
        return next((str(one["msg"]) for one in lines if one["level"] == "error"), "")
    return ""


def enter(cgroups: Cgroups, server: str, sandbox: str, limits: SandboxLimits) -> None:
    """This very process into the sandbox's group: all that it becomes and starts is held there.

    Its kernel may start at the speed of a whole processor; `limits` are set when it has.
    """
    cpu = max(limits.cpu_percent, STARTS_AT_PERCENT)
    cgroups.enter(server, sandbox, limits.replace(cpu_percent=cpu), pids(limits), DEVICES)
