"""Sandboxes by gVisor: the options of `runsc`, and what differs from crun.

A handler's system calls are served by a process of gVisor, the sentry. Only the sentry makes system
calls to the host's kernel. This module has runsc's flags, and finds out whether this machine has
gVisor. Sandboxes with gVisor are refused unless `preflight` has created one successfully; they are
never created with crun instead.
"""

import contextlib
import json
import os
import subprocess
from pathlib import Path

from quiltfn.launcher.cgroups import Cgroups, SandboxLimits

# The limit counts gVisor's own threads, and one or two host threads for each of a handler's
# threads. Inside, handlers have a lower limit (oci.py). A handler that exhausts this one ends its
# sandbox.
PIDS_OF_ITS_OWN, PIDS_OF_A_THREAD = 384, 2
# null, zero, random, urandom: devices that the sentry and its helper open. The sentry emulates
# those inside the sandbox.
DEVICES = ("c 1:3 rw", "c 1:5 rw", "c 1:8 r", "c 1:9 r")
VERSION_TIMEOUT_S = 5.0
STARTS_AT_PERCENT = 100.0
# runsc's root directory of each sandbox is in its bundle, so that both are removed together.
ROOT, NAME = "runsc", "s"
FLAGS = (
    "--platform=systrap",
    "--network=none",
    "--host-uds=none",
    "--host-fifo=none",
    "--overlay2=none",
    # runsc and everything that it starts already run in the sandbox's control group; see `enter`.
    "--ignore-cgroups",
    # The allowlist of system calls applies inside, too, so that handlers reach less of the sentry.
    "--oci-seccomp",
    "--file-access=exclusive",
    # The host's packages may be upgraded while the sandbox runs.
    "--file-access-mounts=shared",
)


class Gvisor:
    """`why_not`: why gVisor cannot be used, as a sentence; empty once `preflight` has tested it.
    `version`: as reported by runsc.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.version = "unknown"
        self.why_not = "gVisor was not tried yet"

    def judge(self, why_not: str) -> None:
        """Stores the result of a test, as `why_not`."""
        self.why_not = why_not

    def find(self) -> bool:
        """Whether runsc exists and reports its version. The only method that blocks."""
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
        """The command that starts the bundle's sandbox in the background, with a log there."""
        run = ["run", "--detach", "--pass-fd", "3:3"]
        run += ["--pid-file", str(bundle / "pid"), "--bundle", str(bundle), NAME]
        always = [f"--root={bundle / ROOT}", f"--log={bundle / 'log'}", "--log-format=json"]
        return [self.path, *always, *FLAGS, *run]


def pids(limits: SandboxLimits) -> int:
    """The limit on the host's processes and threads of one sandbox."""
    return PIDS_OF_ITS_OWN + PIDS_OF_A_THREAD * limits.pids


def error_in(log: Path) -> str:
    """Returns the first error in runsc's log; "" if there is none."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        lines = [json.loads(line) for line in log.read_text(errors="replace").splitlines()]
        return next((str(one["msg"]) for one in lines if one["level"] == "error"), "")
    return ""


def enter(cgroups: Cgroups, server: str, sandbox: str, limits: SandboxLimits) -> None:
    """Moves this process into the sandbox's control group, which then also holds the programs that
    it executes and starts.

    gVisor's kernel may use a whole CPU for its start; the limit of `limits` is set afterwards.
    """
    cpu = max(limits.cpu_percent, STARTS_AT_PERCENT)
    cgroups.enter(server, sandbox, limits.replace(cpu_percent=cpu), pids(limits), DEVICES)
