"""Installs packages into a runtime's tree without running any code of theirs.

Only wheels, and npm without install scripts: what a package would do when it is installed, it does
not do here. Of what the environment sets for pip and uv, they see their registries, proxies and
caches, and nothing that has packages built or adds to what was asked for.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from quiltfn.cli import manifest, requirements
from quiltfn.cli.parsing import BadParameter

PACKAGES = "site-packages"
SAID_MAX = 2000
# Variables that say where packages come from and how to reach it; no other one is passed on.
OURS = re.compile(r"(PIP|UV)_.*|PYTHON.*")
PASSED_ON = re.compile(
    r"PIP_(INDEX_URL|EXTRA_INDEX_URL|NO_INDEX|FIND_LINKS|TRUSTED_HOST|CERT|CLIENT_CERT|PROXY|RETRIES"
    r"|TIMEOUT|DEFAULT_TIMEOUT|CACHE_DIR|NO_CACHE_DIR|CONFIG_FILE)"
    r"|UV_(INDEX|INDEX_.*|DEFAULT_INDEX|EXTRA_INDEX_URL|NO_INDEX|FIND_LINKS|INSECURE_HOST|NATIVE_TLS"
    r"|SYSTEM_CERTS|CACHE_DIR|NO_CACHE|OFFLINE|HTTP_.*|KEYRING_PROVIDER|CONCURRENT_.*)"
)
# A .npmrc can name two programs that npm starts. These options name one that only fails.
NO_PROGRAM = "/bin/false"
NO_WHEEL = (
    "every package must have a wheel for the server's Python, since none of their code is run here:"
    " build a wheel of what has none (pip wheel PACKAGE) and name its path in the requirements"
)


def install_python(wanted: Path, tree: Path, interpreter: str) -> None:
    """Installs the wheels that the file `wanted` lists into <tree>/site-packages, for the server's
    `interpreter`."""
    text = requirements.read(wanted)
    target = tree / PACKAGES
    command = [*_installer(Path(interpreter).name.removeprefix("python"))]
    command += ["--only-binary", ":all:", "--target", str(target)]
    # In an empty directory, where neither tool finds settings, modules or packages.
    with tempfile.TemporaryDirectory(prefix="quiltfn-") as empty:
        file = Path(empty) / "requirements.txt"
        file.write_text(text)
        command += ["-r", str(file)]
        _run(command, Path(empty), (f"the packages of {wanted}", NO_WHEEL))
    # Scripts that name this machine's interpreter, and the installer's lock file.
    shutil.rmtree(target / "bin", ignore_errors=True)
    (target / ".lock").unlink(missing_ok=True)


def _installer(version: str) -> list[str]:
    """The command of uv if it is installed, else of pip. Raises `BadParameter` without either."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv:
        command = [uv, "pip", "install", "--quiet", "--no-config", "--python", sys.executable]
        return [*command, "--python-version", version, "--link-mode", "copy"]
    if find_spec("pip") is None:
        raise BadParameter("installing packages needs uv or pip here: pipx install uv")
    alone = Path(__file__).with_name("pip_alone.py")
    command = [sys.executable, "-I", str(alone), "install", "--quiet", "--no-compile"]
    command += ["--disable-pip-version-check", "--no-input", "--python-version", version]
    return [*command, "--implementation", "cp"]


def install_node(tree: Path) -> None:
    """Installs what package.json names into <tree>/node_modules; with a lock file, exactly that."""
    manifest.check(tree)
    npm = shutil.which("npm")
    if npm is None:
        raise BadParameter(
            "there is a package.json, but no npm here: install npm, or install the packages "
            "yourself and remove package.json from the directory"
        )
    locked = any((tree / one).is_file() for one in manifest.LOCKS)
    command = [npm, "ci" if locked else "install", "--omit=dev", "--ignore-scripts"]
    command += ["--no-audit", "--no-fund", "--loglevel=error"]
    command += [f"--git={NO_PROGRAM}", f"--script-shell={NO_PROGRAM}"]
    _run(command, tree, ("the packages of package.json", None))


def compile_python(tree: Path, interpreter: str) -> bool:
    """Compiles every module, since /app is read-only. False if there is no such Python here."""
    python = interpreter if Path(interpreter).exists() else shutil.which(Path(interpreter).name)
    if python is None:
        return False
    # Tracebacks have the paths that the handler sees. Files that do not compile are left alone.
    command = [
        python,
        "-I",
        "-m",
        "compileall",
        "-q",
        "-f",
        "--invalidation-mode",
        "unchecked-hash",
    ]
    command += ["-s", str(tree), "-p", "/app", str(tree)]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return True


def _run(command: Sequence[str], directory: Path, about: tuple[str, str | None]) -> None:
    what, advice = about
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env=environment(os.environ),
            stdin=subprocess.DEVNULL,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise BadParameter(f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-SAID_MAX:]
        hint = f"\n{advice}" if advice else ""
        raise BadParameter(f"{what} could not be installed:\n{said}{hint}")


def environment(ours: Mapping[str, str]) -> dict[str, str]:
    """The variables of this process that the installers get."""
    return {
        name: value
        for name, value in ours.items()
        if not OURS.fullmatch(name) or PASSED_ON.fullmatch(name)
    }
