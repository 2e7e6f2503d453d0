"""Build hook: compiles the guest, so that a wheel or an editable install carries it."""

import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror"]
HARDENING = ["-fstack-protector-strong", "-D_FORTIFY_SOURCE=2"]


def compile_guest(root: Path, compiler: str = "cc") -> Path:
    """Compiles guest.c statically if the binary is older than its source; returns the binary.

    Static, because it runs in whatever execution image a sandbox has, or in none.
    """
    source = root / "src" / "quiltfn" / "guest" / "guest.c"
    binary = root / "src" / "quiltfn" / "guest" / "bin" / "guest"
    newest = max(source.stat().st_mtime, Path(__file__).stat().st_mtime)
    if binary.exists() and binary.stat().st_mtime >= newest:
        return binary
    if shutil.which(compiler) is None:
        raise RuntimeError(
            f"the guest needs a C compiler to be built, and there is no {compiler!r}"
        )
    binary.parent.mkdir(exist_ok=True)
    fresh = binary.with_suffix(".new")
    output = ["-o", str(fresh), str(source)]
    subprocess.run(
        [
            compiler,
            "-std=c11",
            "-D_GNU_SOURCE",
            "-O2",
            "-static",
            "-s",
            *WARNINGS,
            *HARDENING,
            *output,
        ],
        check=True,
    )
    fresh.replace(binary)
    return binary


class GuestBuildHook(BuildHookInterface[Any]):
    """Puts the compiled guest into every wheel and marks the wheel as made for one platform."""

    def initialize(self, _version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        compile_guest(Path(self.root))
        build_data["pure_python"] = False
        build_data["infer_tag"] = False
        build_data["tag"] = f"py3-none-{platform_tag()}"


def platform_tag() -> str:
    """The binary is static and the rest is Python: any Linux of this processor runs it."""
    return f"linux_{platform.machine()}"
