"""Build hook: compiles the guest, the library of its shells, and the native module, and builds the
dashboard, so that a wheel or an editable install carries them. A wheel carries the documentation as
well, and a source archive both, as they were built.

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
MACHINES = ("x86_64", "aarch64")


GUEST, NATIVE = Path("src/quiltfn/guest"), Path("src/quiltfn/native")
SHELL = GUEST / "shell.c"
LIBRARY = ["-shared", "-fPIC", "-Wl,-z,now"]

# What is made, and how. The guest is static, since it runs in whatever execution image a sandbox
# has; a shell can only load a library.
PROGRAMS = {
    GUEST / "bin/guest": ["-static", *HARDENING],
    GUEST / "bin/shell.so": LIBRARY,
    NATIVE / "compiled.abi3.so": [*LIBRARY, *HARDENING],
}


def units_of(program: Path, root: Path) -> list[Path]:
    """What a program is compiled from, in an order that does not change what comes out."""
    if program.name == "shell.so":
        return [root / SHELL]
    source = NATIVE if program.is_relative_to(NATIVE) else GUEST
    return sorted(one for one in (root / source).glob("*.c") if one != root / SHELL)


def compile_into(directory: Path, root: Path, compiler: str = "cc") -> None:
    """Compiles every program, from the sources in `root`."""
    if shutil.which(compiler) is None:
        raise RuntimeError(
            f"the guest needs a C compiler to be built, and there is no {compiler!r}"
        )
    for program, how in PROGRAMS.items():
        target = directory / program
        fresh = target.with_name(f"{target.name}.new")
        fresh.parent.mkdir(parents=True, exist_ok=True)
        options = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-s", *how, *WARNINGS]
        command = [compiler, *options, "-o", str(fresh), *map(str, units_of(program, root))]
        subprocess.run(command, check=True)
        fresh.replace(target)


def compile_in_place(root: Path) -> None:
    """Only if a program is older than what they are made from."""
    programs = [root / program for program in PROGRAMS]
    parts = [one for source in (GUEST, NATIVE) for one in (root / source).glob("*.[ch]")]
    newest = max(part.stat().st_mtime for part in (*parts, Path(__file__)))
    if not all(one.exists() and one.stat().st_mtime >= newest for one in programs):
        compile_into(root, root)


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
            compile_into(directory, root, compiler_for(machine))
            for program in PROGRAMS:
                place = str(program.relative_to("src"))
                build_data["force_include"][str(directory / program)] = place
            if machine == platform.machine():
                self._build_shell(root, build_data["force_include"])
            # What `quiltfn service install` writes.
            for file in (root / "packaging").iterdir():
                place = f"quiltfn/operator/packaging/{file.name}"
                build_data["force_include"][str(file)] = place
        build_data["pure_python"] = False
        build_data["infer_tag"] = False
        # The guest is static, the libraries ask for what every libc and every Python has, and the
        # rest is Python: any Linux of this processor runs it.
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
