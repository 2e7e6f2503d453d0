"""Reads the files that list Python packages: requirements.txt, pylock.toml and uv.lock.

For every format, the installer gets requirements that were checked line by line
(`requirements.py`), never the file itself. A lock file names every package with its hashes, so the
installer resolves no others.
"""

import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from quiltfn.cli import requirements, show, tools
from quiltfn.cli.parsing import BadParameter
from quiltfn.cli.tree import is_outside, leads_out

UV_LOCK, PROJECT = "uv.lock", "pyproject.toml"
PYLOCK = re.compile(r"pylock(\.[^.]+)?\.toml")
# The first of these files in a directory is used: lock files take precedence.
NAMES = ("pylock.toml", UV_LOCK, "requirements.txt")
EXPORT = (
    *("export", "--quiet", "--frozen", "--offline", "--no-config", "--no-cache"),
    *("--no-python-downloads", "--no-dev", "--no-emit-project", "--no-header", "--no-annotate"),
)
# Package lists of other tools. Files with any other name are read as requirements.
OTHERS = ("poetry.lock", "pdm.lock", "Pipfile.lock", PROJECT)
OTHER_LISTS = (".lock", ".toml", ".json", ".yml", ".yaml")
# Marker variables whose values are the selected extras and groups of a lock file.
CHOICES = re.compile(r"\b(extras|dependency_groups)\b")
NOT_A_WHEEL = "would have to be built here, which runs its code: build a wheel and lock that"


class Listed(Struct, frozen=True):
    """`text`: one requirement per line. `is_complete`: it includes all dependencies."""

    text: str
    is_complete: bool


def find(directory: Path) -> Path | None:
    """The file in a directory that lists its packages, if there is one. Raises `BadParameter` for
    a link that leads out of the directory, directly or through other links.
    """
    found = next((path for name in NAMES if (path := directory / name).is_file()), None)
    read = [] if found is None else [found.name, *([PROJECT] if found.name == UV_LOCK else [])]
    for name in read:
        if is_outside(directory, name):
            raise leads_out(directory / name, directory)
    return found


def find_other(directory: Path) -> Path | None:
    """The file in a directory that lists its packages for another tool, if there is one."""
    for name in OTHERS:
        path = directory / name
        if path.is_file() and (name != PROJECT or _has_dependencies(path)):
            return path
    return None


def _has_dependencies(project: Path) -> bool:
    try:
        said = tomllib.loads(project.read_text("utf-8"))
    except (OSError, ValueError):
        return False  # no tool can read it as a list of packages
    table = said.get("project")
    return isinstance(table, dict) and bool(table.get("dependencies"))


def read(path: Path) -> Listed:
    """The packages that the file lists. Raises `BadParameter`, which names a refused entry."""
    if path.name == UV_LOCK:
        return Listed(requirements.checked(_exported(path), path), is_complete=True)
    if PYLOCK.fullmatch(path.name):
        return Listed(requirements.checked(_of_pylock(path), path), is_complete=True)
    if path.suffix in OTHER_LISTS:
        raise BadParameter(
            f"{path} is not a supported list ({', '.join(NAMES)}); export it as one of them"
        )
    return Listed(requirements.read(path), is_complete=False)


def _of_pylock(path: Path) -> str:
    """The requirements of a lock file in the format of PEP 751."""
    try:
        said = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadParameter(f"{path} cannot be read: {error}") from None
    if said.get("lock-version") != "1.0" or not isinstance(said.get("packages"), list):
        raise BadParameter(f"{path} must have lock-version 1.0 and packages")
    return "".join(f"{_requirement(path, one)}\n" for one in said["packages"])


def _requirement(path: Path, package: Any) -> str:
    if not isinstance(package, dict) or not isinstance(package.get("name"), str):
        raise BadParameter(f"{path}: each package must be a table with a name")
    package = {**package, "name": show.one_line(package["name"])}
    name, version, marker = (package.get(key, "") for key in ("name", "version", "marker"))
    wheels = package.get("wheels")
    if not isinstance(wheels, list) or not wheels or not isinstance(version, str) or not version:
        raise BadParameter(f"{path}: {name} has no wheel, so it {NOT_A_WHEEL}")
    if not isinstance(marker, str) or CHOICES.search(marker):
        raise BadParameter(
            f"{path}: {name} is only in some extras or groups; lock only the packages that this "
            "runtime needs"
        )
    hashes = [f"--hash=sha256:{digest}" for one in wheels if (digest := _sha256(one))]
    if len(hashes) < len(wheels):
        raise BadParameter(f"{path}: a wheel of {name} has no sha256")
    return " ".join([f"{name}=={version}", *([f"; {marker}"] if marker else []), *hashes])


def _sha256(wheel: Any) -> str:
    hashes = wheel.get("hashes") if isinstance(wheel, Mapping) else None
    found = hashes.get("sha256") if isinstance(hashes, Mapping) else None
    return found if isinstance(found, str) else ""


def _exported(path: Path) -> str:
    """The requirements of a lock file of uv, exported by uv, since its format is private."""
    uv = tools.found("uv")
    if uv is None:
        raise BadParameter(
            f"{path} is read by uv, which is not installed: pipx install uv, or export the file "
            "(uv export --format pylock.toml -o pylock.toml)"
        )
    project = path.with_name(PROJECT)
    if not project.is_file():
        raise BadParameter(
            f"{path} must be in one directory with the {PROJECT} that it was made from"
        )
    with tempfile.TemporaryDirectory(prefix="quiltfn-") as made:
        # In a separate directory, so that uv reads no other file.
        for place in (path, project):
            shutil.copyfile(place, Path(made) / place.name)
        done = tools.run([uv, *EXPORT, "--python", sys.executable], Path(made), {})
    if done.returncode != 0:
        raise BadParameter(f"{path} could not be read:{show.below(tools.said(done))}")
    return done.stdout
