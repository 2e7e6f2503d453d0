"""Build hook: compiles the guest, so that a wheel or an editable install carries it.

An editable install compiles it in place. A wheel compiles it elsewhere, for the processor that
QUILTFN_MACHINE names, and leaves the binary that the checkout runs with alone.
"""

import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror"]
HARDENING = ["-fstack-protector-strong", "-D_FORTIFY_SOURCE=2"]
GUEST = Path("src/quiltfn/guest")
MACHINES = ("x86_64", "aarch64")


def compile_guest(source: Path, binary: Path, compiler: str = "cc") -> None:
    """Compiles guest.c statically, because it runs in whatever execution image a sandbox has."""
    if shutil.which(compiler) is None:
        raise RuntimeError(
            f"the guest needs a C compiler to be built, and there is no {compiler!r}"
        )
    binary.parent.mkdir(exist_ok=True)
    fresh = binary.with_suffix(".new")
    options = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-static", "-s", *WARNINGS, *HARDENING]
    subprocess.run([compiler, *options, "-o", str(fresh), str(source)], check=True)
    fresh.replace(binary)


def compile_in_place(root: Path) -> None:
    """Only if the binary is older than what it is made from."""
    source, binary = root / GUEST / "guest.c", root / GUEST / "bin" / "guest"
    parts = [source, *(root / GUEST).glob("*.h"), Path(__file__)]
    newest = max(part.stat().st_mtime for part in parts)
    if not binary.exists() or binary.stat().st_mtime < newest:
        compile_guest(source, binary)


class GuestBuildHook(BuildHookInterface[Any]):
    """Puts the compiled guest into every wheel and marks the wheel as made for one platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        machine = platform.machine()
        if version == "editable":
            compile_in_place(root)
        else:
            machine = os.environ.get("QUILTFN_MACHINE") or machine
            self._elsewhere = tempfile.TemporaryDirectory(prefix="quiltfn-guest-")
            guest = Path(self._elsewhere.name) / "guest"
            compile_guest(root / GUEST / "guest.c", guest, compiler_for(machine))
            build_data["force_include"][str(guest)] = "quiltfn/guest/bin/guest"
        build_data["pure_python"] = False
        build_data["infer_tag"] = False
        # The binary is static and the rest is Python: any Linux of this processor runs it.
        build_data["tag"] = f"py3-none-linux_{machine}"

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
