"""Packages from their registries into a runtime's tree, without running any code of theirs.

Only wheels, and npm without install scripts: what a package would do when it is installed, it does
not do here. The tools see this process's environment, and so their own settings for registries and
proxies.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import typer

PACKAGES = "site-packages"
LOCKS = ("package-lock.json", "npm-shrinkwrap.json")
SAID_MAX = 2000
NO_WHEEL = (
    "every package must have a wheel for the server's Python, since none of their code is run here:"
    " build a wheel of what has none (pip wheel PACKAGE) and name its path in the requirements"
)


def install_python(requirements: Path, tree: Path, interpreter: str) -> None:
    """Wheels of `requirements` into <tree>/site-packages, for the server's `interpreter`."""
    target = tree / PACKAGES
    version = Path(interpreter).name.removeprefix("python")
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv:
        command = [uv, "pip", "install", "--quiet", "--python", sys.executable]
        command += ["--python-version", version, "--link-mode", "copy"]
    elif find_spec("pip") is None:
        raise typer.BadParameter("installing packages needs uv or pip here: pipx install uv")
    else:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile"]
        command += ["--disable-pip-version-check", "--python-version", version]
        command += ["--implementation", "cp"]
    command += [
        "--only-binary",
        ":all:",
        "--target",
        str(target),
        "-r",
        str(requirements.resolve()),
    ]
    _run(command, requirements.resolve().parent, f"the packages of {requirements}", NO_WHEEL)
    # Programs of the packages, which name this machine's interpreter, and the installer's lock.
    shutil.rmtree(target / "bin", ignore_errors=True)
    (target / ".lock").unlink(missing_ok=True)


def install_node(tree: Path) -> None:
    """What package.json names into <tree>/node_modules; exactly, where there is a lock file."""
    npm = shutil.which("npm")
    if npm is None:
        raise typer.BadParameter(
            "there is a package.json, but no npm here: install npm, or install the packages "
            "yourself and remove package.json from the directory"
        )
    locked = any((tree / one).is_file() for one in LOCKS)
    command = [npm, "ci" if locked else "install", "--omit=dev", "--ignore-scripts"]
    command += ["--no-audit", "--no-fund", "--loglevel=error"]
    _run(command, tree, "the packages of package.json", None)


def compile_python(tree: Path, interpreter: str) -> bool:
    """Byte code for every module, since /app is read-only; whether there was a Python to do it."""
    python = interpreter if Path(interpreter).exists() else shutil.which(Path(interpreter).name)
    if python is None:
        return False
    # Paths in tracebacks are those that the handler sees. A file that is no Python is left alone.
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


def _run(command: Sequence[str], directory: Path, what: str, advice: str | None) -> None:
    try:
        done = subprocess.run(
            command, cwd=directory, check=False, capture_output=True, text=True, errors="replace"
        )
    except OSError as error:
        raise typer.BadParameter(f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-SAID_MAX:]
        hint = f"\n{advice}" if advice else ""
        raise typer.BadParameter(f"{what} could not be installed:\n{said}{hint}")
