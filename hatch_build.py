"""Build hook: compiles the guest and the library of its shells, and builds the dashboard, so that a
wheel or an editable install carries them. A wheel carries the documentation as well, and a source
archive both, as they were built.

An editable install compiles it in place. A wheel compiles it elsewhere, for the processor that
QUILTFN_MACHINE names, and leaves the binary that the checkout runs with alone. A wheel for this
machine's processor also carries the static copy of its shell, for others with the same shell.
"""

import os
import platform
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wmissing-prototypes", "-Werror"]
HARDENING = ["-fstack-protector-strong", "-D_FORTIFY_SOURCE=2"]
GUEST = Path("src/quiltfn/guest")
MACHINES = ("x86_64", "aarch64")


SHELL = "shell.c"

# By the name that it has in bin: how it is made. The guest is static, since it runs in whatever
# execution image a sandbox has; a shell can only load a library.
PROGRAMS = {"guest": ["-static", *HARDENING], "shell.so": ["-shared", "-fPIC", "-Wl,-z,now"]}


def units_of(name: str, source: Path) -> list[Path]:
    """What a program is compiled from, in an order that does not change what comes out."""
    others = sorted(one for one in source.glob("*.c") if one.name != SHELL)
    return [source / SHELL] if name == "shell.so" else others


def compile_into(directory: Path, source: Path, compiler: str = "cc") -> None:
    """Compiles every program out of the directory `source`."""
    if shutil.which(compiler) is None:
        raise RuntimeError(
            f"the guest needs a C compiler to be built, and there is no {compiler!r}"
        )
    directory.mkdir(exist_ok=True)
    for name, how in PROGRAMS.items():
        fresh = directory / f"{name}.new"
        options = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-s", *how, *WARNINGS]
        command = [compiler, *options, "-o", str(fresh), *map(str, units_of(name, source))]
        subprocess.run(command, check=True)
        fresh.replace(directory / name)


def compile_in_place(root: Path) -> None:
    """Only if a program is older than what they are made from."""
    source, programs = root / GUEST, [root / GUEST / "bin" / name for name in PROGRAMS]
    parts = [*source.glob("*.c"), *source.glob("*.h"), Path(__file__)]
    newest = max(part.stat().st_mtime for part in parts)
    if not all(one.exists() and one.stat().st_mtime >= newest for one in programs):
        compile_into(source / "bin", source)


class GuestBuildHook(BuildHookInterface[Any]):
    """Puts the compiled guest into every wheel and marks the wheel as made for one platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        self._build_dashboard(root)
        if version != "editable":
            self._build_documentation(root)
        if self.target_name != "wheel":
            return
        machine = platform.machine()
        if version == "editable":
            compile_in_place(root)
        else:
            machine = os.environ.get("QUILTFN_MACHINE") or machine
            self._elsewhere = tempfile.TemporaryDirectory(prefix="quiltfn-guest-")
            directory = Path(self._elsewhere.name)
            compile_into(directory, root / GUEST, compiler_for(machine))
            for name in PROGRAMS:
                build_data["force_include"][str(directory / name)] = f"quiltfn/guest/bin/{name}"
            if machine == platform.machine():
                self._build_shell(root, build_data["force_include"])
            # What `quiltfn service install` writes.
            for file in (root / "packaging").iterdir():
                place = f"quiltfn/operator/packaging/{file.name}"
                build_data["force_include"][str(file)] = place
        build_data["pure_python"] = False
        build_data["infer_tag"] = False
        # The guest is static, the library asks for what every libc has, and the rest is Python: any
        # Linux of this processor runs it.
        build_data["tag"] = f"py3-none-linux_{machine}"

    def _build_shell(self, root: Path, included: dict[str, str]) -> None:
        """Without it, shells are forked from the host's own."""
        found = runpy.run_path(str(root / "shell_build.py"))
        try:
            for file in found["build"](root):
                included[str(file)] = f"quiltfn/guest/bin/{file.name}"
        except found["BuildFailed"] as error:
            self.app.display_warning(f"the static shell was not built: {error}")

    def _build_dashboard(self, root: Path) -> None:
        """Without it a server runs and says so at /ui. A source archive must have it: who builds a
        wheel of that may have no network.
        """
        found = runpy.run_path(str(root / "ui" / "build.py"))
        try:
            found["build"](root)
        except found["BuildFailed"] as error:
            if self.target_name == "sdist":
                raise
            self.app.display_warning(f"the dashboard was not built: {error}")

    def _build_documentation(self, root: Path) -> None:
        """As the dashboard, but for an editable install: a first start should not wait for it."""
        python = root / ".venv/bin/python"
        program = python if python.exists() else sys.executable
        command = [str(program), str(root / "docs" / "site" / "build.py")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if self.target_name == "sdist":
            raise RuntimeError(done.stderr)
        self.app.display_warning(done.stderr.strip())

    def finalize(self, _version: str, _build_data: dict[str, Any], _artifact_path: str) -> None:
        if hasattr(self, "_elsewhere"):
            self._elsewhere.cleanup()


def compiler_for(machine: str) -> str:
    """The machine's own, or Debian's cross compiler for another one."""
    if machine not in MACHINES:
        raise RuntimeError(f"wheels are built for {' and '.join(MACHINES)}, not for {machine!r}")
    if machine == platform.machine():
        return "cc"
    return f"{machine.replace('_', '-')}-linux-gnu-gcc"
