"""`quiltfn service`: installs the unit and the settings of a systemd service from the package."""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

FINE, REFUSED, NOT_ROOT = 0, 1, 77
UNIT, SETTINGS = "quiltfn.service", "quiltfn.toml"
# The program's path in the packaged unit; `install` replaces it by the actual path.
USUAL_PROGRAM = Path("/usr/local/bin/quiltfn")
NEXT = """Next:
  systemctl daemon-reload"""
ENABLE = "  systemctl enable --now quiltfn"


def main(arguments: Sequence[str]) -> int:
    """Writes or removes the files; returns the exit code."""
    given = parser().parse_args(arguments)
    root = Path(given.root)
    if os.geteuid() != 0 and is_here(root):
        print(f"quiltfn: service {given.verb} must run as root", file=sys.stderr)
        return NOT_ROOT
    try:
        if given.verb == "install":
            install(root, program())
        else:
            uninstall(root)
    except OSError as error:
        print(f"quiltfn: {error.filename}: {error.strerror}", file=sys.stderr)
        return REFUSED
    return FINE


def install(root: Path, program: Path) -> None:
    """Writes the unit, which belongs to the release, and settings only if there are none."""
    unit = unit_of(root)
    text = packaged(UNIT).read_text().replace(str(USUAL_PROGRAM), str(program))
    if unit.exists() and unit.read_text() != text:
        shutil.copy2(unit, unit.with_name(f"{UNIT}.before"))
        print(f"kept   {unit}.before, the previous unit")
    put(unit, text)
    settings = settings_of(root)
    if settings.exists():
        print(f"kept   {settings}, unchanged")
    else:
        put(settings, packaged(SETTINGS).read_text())
    if is_here(root):
        print(f"{NEXT}\n{ENABLE}")
    else:
        print(f"Next, on the system that boots from {root}:\n{ENABLE}")


def uninstall(root: Path) -> None:
    """Removes only the unit; settings and data belong to the operator."""
    for path in (unit_of(root), unit_of(root).with_name(f"{UNIT}.before")):
        if path.exists():
            path.unlink()
            print(f"removed {path}")
    print(f"kept    {settings_of(root)} and the data directory")
    if is_here(root):
        print(NEXT)


def put(path: Path, text: str) -> None:
    """Writes a file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.write_text(text)
        fresh.chmod(0o644)
        fresh.replace(path)
    except OSError as error:  # the error names the file itself instead of the temporary one
        raise OSError(error.errno, error.strerror, str(path)) from None
    print(f"wrote  {path}")


def is_here(root: Path) -> bool:
    """Whether `root` is the running system."""
    return root.resolve() == Path("/")


def unit_of(root: Path) -> Path:
    return root / "etc/systemd/system" / UNIT


def settings_of(root: Path) -> Path:
    return root / "etc/quiltfn" / SETTINGS


def program() -> Path:
    """Returns the path of this command: the usual path, if this program is there."""
    own = Path(sys.executable).with_name("quiltfn")
    if not own.exists() or (USUAL_PROGRAM.exists() and USUAL_PROGRAM.samefile(own)):
        return USUAL_PROGRAM
    return own


def packaged(name: str) -> Path:
    """Returns the path of a packaged file: beside this module, or at a checkout's root."""
    beside = Path(__file__).with_name("packaging") / name
    return beside if beside.exists() else Path(__file__).parents[3] / "packaging" / name


def parser() -> argparse.ArgumentParser:
    it = argparse.ArgumentParser(
        prog="quiltfn service", description="quiltfn as a systemd service."
    )
    verbs = it.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    for verb, about in (
        ("install", "write the unit, and the settings if there are none"),
        ("uninstall", "remove the unit; settings and data stay"),
    ):
        command = verbs.add_parser(verb, help=about)
        command.add_argument("--root", default="/", help="a directory to write below (default /)")
    return it
