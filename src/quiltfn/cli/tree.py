"""Copies the files of a runtime into a directory and packs them into an archive."""

import os
import posixpath
import shutil
import tarfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from quiltfn.cli.parsing import BadParameter
from quiltfn.cli.show import one_line

# Directories that tools create for this machine or user; an image does not need them.
LEFT_OUT = (".git", "__pycache__", ".venv", ".mypy_cache", ".pytest_cache", ".ruff_cache")
MODULES = "node_modules"
# Targets of links outside the copy that are allowed: they exist in every sandbox.
LINKED = ("/app", "/usr")
MTIME = 946_684_800  # the same for all files, so that equal trees give equal archives


def copy(source: Path, tree: Path, *, with_modules: bool, left_out: Collection[str] = ()) -> None:
    """Copy `source` to `tree`; links stay links. `with_modules`: also copy node_modules.
    `left_out`: additional names of files and directories that are not copied. Raises
    `BadParameter`, also for a link that leads out of the copy: a later step could follow it on this
    machine.
    """
    left_out = (*LEFT_OUT, *left_out) if with_modules else (*LEFT_OUT, *left_out, MODULES)
    named = shutil.ignore_patterns(*left_out)
    try:
        shutil.copytree(
            source,
            tree,
            symlinks=True,
            ignore=lambda directory, names: named(directory, names) | _compiled(names),
            dirs_exist_ok=True,
        )
    except (OSError, shutil.Error) as error:
        raise BadParameter(f"{source} cannot be copied: {_brief(error)}") from None
    for path in walk(tree):
        if path.is_symlink() and _leads_out(path, tree):
            raise leads_out(source / path.relative_to(tree), source)


def leads_out(link: Path, directory: Path) -> BadParameter:
    """The error for a link that leads out of a directory."""
    shown = one_line(f"{link} is a link to {link.readlink()}")
    return BadParameter(
        f"{shown}, which leads out of {directory}; copy its target into the directory"
    )


def is_outside(directory: Path, path: str | Path) -> bool:
    """Whether an existing path leads out of the directory, also through links."""
    place = directory / path
    if not os.path.lexists(place):
        return False
    return not Path(os.path.realpath(place)).is_relative_to(os.path.realpath(directory))


def _leads_out(link: Path, tree: Path) -> bool:
    """Whether a link, with all links on the way resolved, ends neither in the tree nor in /usr.
    Allowed, too, is the path that a file has in a sandbox, if it doesn't exist here.
    """
    end, target = os.path.realpath(link), posixpath.normpath(link.readlink().as_posix())
    return not (
        Path(end).is_relative_to(os.path.realpath(tree))
        or Path(end).is_relative_to("/usr")
        or (
            any(Path(target).is_relative_to(place) for place in LINKED) and not os.path.lexists(end)
        )
    )


def _compiled(names: list[str]) -> set[str]:
    """Compiled modules whose source is in the same directory. A module without its source is kept,
    since Python imports it.
    """
    compiled = (name for name in names if name.endswith((".pyc", ".pyo")))
    return {name for name in compiled if name[:-1] in names}


def pack(tree: Path, archive: Path, progress: Callable[[int], None] = lambda _: None) -> None:
    """Pack everything in `tree` into one tar archive, compressed if its name ends in gz. Order,
    owner and time are fixed: equal trees give equal archives before compression. `progress`: gets
    the number of bytes packed since its last call.
    """
    # The fastest level has most of the benefit, and keeps up with most networks.
    with (
        tarfile.open(archive, "w:gz", compresslevel=1, format=tarfile.PAX_FORMAT)
        if archive.suffix == ".gz"
        else tarfile.open(archive, "w", format=tarfile.PAX_FORMAT)
    ) as tar:
        for path in walk(tree):
            tar.add(path, path.relative_to(tree).as_posix(), recursive=False, filter=_plain)
            progress(path.lstat().st_size if path.is_file() else 0)


def walk(tree: Path) -> Iterator[Path]:
    """Every path below `tree`; a directory comes before its contents. Links are not followed."""
    for path in sorted(tree.iterdir(), key=lambda path_below: path_below.name):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from walk(path)


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = MTIME
    return info


def _brief(error: OSError | shutil.Error) -> str:
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        name, _, why = error.args[0][0]
        return one_line(f"{name}: {why}")
    return str(error)
