"""The time that the OCI runtime alone takes: `crun run` of a shell in a sandbox with all properties
of the launcher's sandboxes.

    crun_run.py COUNT COMMAND [PAUSE_S [ROOT]]   prints COUNT durations in nanoseconds, one a line;
    PAUSE_S: a pause before each, as before paced invocations; ROOT: the root file system of a base
    image, which is used instead of the host image

The configuration is the one that the launcher writes, with the shell in the guest's place.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from quiltfn.launcher import cgroups, host_image, oci, roots, state, syscalls
from quiltfn.model.runtime import DEFAULT_ROOM
from quiltfn.operator.serve import GUEST

CRUN = "/usr/bin/crun"
LIMITS = cgroups.SandboxLimits(
    memory_mib=256,
    cpu_percent=100.0,
    pids=DEFAULT_ROOM.process_limit,
    tmp_mib=DEFAULT_ROOM.tmp_limit_mb,
    file_mib=DEFAULT_ROOM.file_limit_mb,
    open_files=DEFAULT_ROOM.open_files_limit,
)


def main() -> None:
    count, command = int(sys.argv[1]), sys.argv[2]
    pause_s = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    syscalls.unshare_mounts()
    groups = cgroups.detect()
    with tempfile.TemporaryDirectory(dir="/run") as run:
        ours = state.ServerState(Path(run))
        groups.prepare(ours.id)
        try:
            skeleton = host_image.build(ours.root, GUEST)
            host = skeleton.host
            if len(sys.argv) > 4:
                host_image.build_for_bases(ours.base_root, skeleton)
                made = roots.Roots(ours.roots, host, ours.base_root)
                spec = oci.SandboxSpec(limits=LIMITS, base=Path(sys.argv[4]))
                made.make("floor", spec)
                host = made.described("floor", spec)[0]
            for number in range(count):
                time.sleep(pause_s)
                print(one_run(ours, groups, host, f"floor{number}", command), flush=True)
        finally:
            groups.remove_server(ours.id)
            ours.close(all_ended=True)


def one_run(
    ours: state.ServerState, groups: cgroups.Cgroups, host: oci.Host, name: str, command: str
) -> int:
    bundle = ours.bundles / name
    bundle.mkdir()
    base = ours.take_uids()
    config = oci.config(
        host,
        oci.SandboxSpec(limits=LIMITS),
        uid_base=base,
        cgroup=groups.path(ours.id, name),
        hostname=name,
    )
    config["process"]["args"] = ["/bin/sh", "-c", command]
    (bundle / "config.json").write_text(json.dumps(config))
    arguments = [CRUN, "--root", str(ours.crun_root), "--cgroup-manager", "cgroupfs", "run"]
    began = time.monotonic_ns()
    done = subprocess.run(
        [*arguments, "--bundle", str(bundle), name],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    took = time.monotonic_ns() - began
    if done.returncode != 0:
        sys.exit(f"crun: {done.stderr.decode()}")
    groups.remove(ours.id, name)
    ours.give_back_uids(base)
    return took


if __name__ == "__main__":
    main()
