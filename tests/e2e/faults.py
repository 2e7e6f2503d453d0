"""Means of breaking a server: an OCI runtime that a file controls, and a foreign container."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from e2e.server import CRUN, is_alive

WRAPPER = """#!/bin/sh
mode=$(cat {mode})
case "$mode:$*" in
    fail:*" run "*) exit 1;;
    hang:*" run "*) exec sleep 300;;
esac
exec {crun} "$@"
"""

# On a host with v1 beside v2, crun refuses to work, so it gets a mount namespace without the v2
# tree.
HIDE = 'mount -t tmpfs none /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'
NO_HYBRID = ["unshare", "--mount", "--propagation", "private", "sh", "-c", HIDE, "sh"]


class Runtime:
    """An OCI runtime that fails or hangs when it creates a sandbox, or whose program is missing, as
    a test requests.
    """

    def __init__(self, directory: Path) -> None:
        self.path, self._mode = directory / "crun", directory / "mode"
        self._text = WRAPPER.format(mode=self._mode, crun=CRUN)
        self.becomes("fine")

    def becomes(self, mode: str) -> None:
        self._mode.write_text(mode)
        if mode == "missing":
            self.path.unlink()
        elif not self.path.exists():
            self.path.write_text(self._text)
            self.path.chmod(0o755)


@contextmanager
def foreign_container(directory: Path) -> Iterator[int]:
    """Runs a container that is not quiltfn's, in its own control group. Yields its pid on the
    host.
    """
    group = Path("/sys/fs/cgroup/memory")
    group = (group if group.is_dir() else group.parent) / f"foreign-{os.getpid()}"
    bundle, root, name = directory / "bundle", directory / "crun-root", f"foreign-{os.getpid()}"
    for folder in ("usr", "proc", "dev"):
        (bundle / "rootfs" / folder).mkdir(parents=True)
    for link in ("lib", "lib64", "bin"):
        if Path(f"/{link}").is_symlink():
            (bundle / "rootfs" / link).symlink_to(f"usr/{link}")
    config = {
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": {"args": ["/usr/bin/sleep", "600"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
        ],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]},
    }
    (bundle / "config.json").write_text(json.dumps(config))
    crun = [CRUN, "--root", str(root), "--cgroup-manager=disabled"]
    with (directory / "log").open("w") as log:
        run = [*crun, "run", "--detach", "--bundle", str(bundle), "--pid-file", directory / "pid"]
        done = subprocess.run(
            [*NO_HYBRID, *run, name],  # type: ignore[list-item]
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=False,
        )
    assert done.returncode == 0, (directory / "log").read_text()
    pid = int((directory / "pid").read_text())
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(pid))
        yield pid
        assert is_alive(pid)
        assert str(pid) in (group / "cgroup.procs").read_text().split()
        asked = [*NO_HYBRID, *crun, "state", name]
        state = subprocess.run(asked, capture_output=True, text=True, check=True)
        assert json.loads(state.stdout)["status"] == "running"
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        subprocess.run([*NO_HYBRID, *crun, "delete", "--force", name], check=False)
        for _ in range(1000):
            with suppress(OSError):
                group.rmdir()
            if not group.exists():
                break
        shutil.rmtree(root, ignore_errors=True)
