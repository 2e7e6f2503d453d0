"""Negative controls: an OCI runtime that removes a protection before it executes crun.

A file names the protection to remove. So a server can start with all protections, which it
requires, and be weakened later. Use `--prewarmed 0`, since earlier prewarmed sandboxes would still
be protected.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from e2e.server import CRUN

SOURCE = Path(__file__).parents[2] / "src/quiltfn/guest"
# This program runs in place of crun: it edits the bundle's config.json, and executes crun.
WRAPPER = """#!{python} -IS
import json, os, sys
lacks = open({mode!r}).read()
if "--bundle" in sys.argv and lacks:
    path = sys.argv[sys.argv.index("--bundle") + 1] + "/config.json"
    it = json.load(open(path))
    linux = it["linux"]
    if lacks == "seccomp":
        del linux["seccomp"]
    if lacks == "pids":
        linux["resources"]["pids"]["limit"] = 2000
    if lacks == "masks":
        linux["maskedPaths"], linux["readonlyPaths"] = [], []
    if lacks == "own uids":
        for kind in ("uidMappings", "gidMappings"):
            linux[kind][0]["hostID"] = {uids}
    if lacks == "read-only root":
        it["root"]["readonly"] = False
        for one in it["mounts"]:
            one["options"] = [o for o in one["options"] if o != "noexec"]
    if lacks == "own inodes":
        root = it["root"]["path"]
        it["root"]["path"] = root[:root.index("/sandboxes/")] + "/root"
        for tree in ("/usr", "/etc/ssl", "/etc/alternatives"):
            it["mounts"].append({{"destination": tree, "type": "bind", "source": tree,
                                 "options": ["rbind", "ro", "nosuid", "nodev"]}})
    if lacks == "another shell for bases":
        it["process"]["args"].insert(4, "shell=/.runners/shell.so")
    if lacks == "small file systems":
        for one in it["mounts"]:
            if one["type"] == "tmpfs":
                one["options"] = [o.replace("=512m", "=700m") for o in one["options"]]
    if lacks == "another uid for handlers":
        it["process"]["args"][4] = "shell=/.runners/shell.so"
        for inside, outside in (("/.guest", {guest!r}), ("/.runners/shell.so", {library!r})):
            it["mounts"].append({{"destination": inside, "type": "bind", "source": outside,
                                 "options": ["bind", "ro", "nosuid", "nodev"]}})
    json.dump(it, open(path, "w"))
os.execv({crun!r}, [{crun!r}, *sys.argv[1:]])
"""


class Weakened:
    """`path`: the OCI runtime. `lacks("…")`: removes a protection from sandboxes that are created
    from now on.
    """

    def __init__(self, directory: Path) -> None:
        directory.chmod(0o755)
        self.path, self._mode = directory / "crun", directory / "mode"
        self._guest, library = directory / "guest", directory / "shell.so"
        uids = 0x7FFF_0000
        text = WRAPPER.format(
            python=os.path.realpath(sys.executable),
            mode=str(self._mode),
            guest=str(self._guest),
            library=str(library),
            crun=CRUN,
            uids=uids,
        )
        self.lacks("")
        self.path.write_text(text)
        self.path.chmod(0o755)

    def lacks(self, protection: str) -> None:
        self._mode.write_text(protection)
        if (
            protection == "another uid for handlers" and not self._guest.exists()
        ):  # compiled only if needed, since it takes seconds
            build_guest_of_one_user(self.path.parent)


def build_guest_of_one_user(directory: Path) -> None:
    """Compiles a guest and a library whose handlers run as the guest's user, the root of the
    namespace.
    """
    source = directory / "one-user"
    source.mkdir(exist_ok=True)
    for file in SOURCE.glob("*.[ch]"):
        text = file.read_text()
        (source / file.name).write_text(text.replace("HANDLER_ID = 1000", "HANDLER_ID = 0"))
    library = source / "shell.c"
    units = [one for one in source.glob("*.c") if one != library]
    ways = {"guest": ["-static", *units], "shell.so": ["-shared", "-fPIC", library]}
    for name, how in ways.items():
        target = directory / name
        command = ["cc", "-std=c11", "-D_GNU_SOURCE", "-O2", "-o", target, *how]
        subprocess.run(command, check=True)  # type: ignore[arg-type]
        target.chmod(0o755)
