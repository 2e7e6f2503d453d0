"""`quiltfn doctor`: what this machine offers; `--sweep` removes what a crash left."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from quiltfn.launcher import cgroups, state
from quiltfn.operator.serve import GUEST
from quiltfn.settings import BadSetting, from_everywhere

FINE, NOT_FINE, NOT_ROOT = 0, 1, 77


def main(arguments: Sequence[str]) -> int:
    """Prints a line a finding; returns 0 where a server can start."""
    it = argparse.ArgumentParser(
        prog="quiltfn doctor", description="Check this machine; --sweep removes what a crash left."
    )
    it.add_argument("--sweep", action="store_true", help="end and remove what dead servers left")
    it.add_argument("--run-dir", help="run-time state (default /run/quiltfn)")
    it.add_argument("--crun", help="the OCI runtime (default /usr/bin/crun)")
    given = it.parse_args(arguments)
    try:
        settings = from_everywhere({"run_dir": given.run_dir, "crun": given.crun})
        if given.sweep:
            return sweep(settings.run_dir)
    except (BadSetting, cgroups.CgroupsUnusable) as error:
        print(f"quiltfn: {error}", file=sys.stderr)
        return NOT_FINE
    findings = examine(settings.crun)
    for fine, sentence in findings:
        print(f"{'ok ' if fine else 'NO '} {sentence}")
    return FINE if all(fine for fine, _ in findings) else NOT_FINE


def sweep(run_dir: Path) -> int:
    """Only servers whose launcher is dead are swept; a running one is not touched."""
    if os.geteuid() != 0:
        print("quiltfn: doctor --sweep must be run as root", file=sys.stderr)
        return NOT_ROOT
    swept = state.sweep(run_dir, cgroups.detect())
    print(f"swept {swept['servers']} ended server(s) and {swept['sandboxes']} sandbox(es)")
    return FINE


def examine(crun: str) -> list[tuple[bool, str]]:
    """What `serve` needs, each with whether it is there."""
    try:
        mode = (True, f"control groups: {cgroups.detect().mode}")
    except cgroups.CgroupsUnusable as error:
        mode = (False, f"control groups: {error}")
    namespaces = Path("/proc/sys/user/max_user_namespaces")
    allowed = int(namespaces.read_text()) if namespaces.exists() else 0
    return [
        (os.geteuid() == 0, "started as root" if os.geteuid() == 0 else "not root: serve needs it"),
        (os.access(crun, os.X_OK), f"OCI runtime at {crun}"),
        (GUEST.exists(), "the guest is built" if GUEST.exists() else "run scripts/setup"),
        mode,
        (allowed > 0, f"user namespaces allowed: {allowed}"),
    ]
