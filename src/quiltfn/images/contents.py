"""Reads the contents of an image: its files, sorted by path, and its packages.

The uploader of an image chose every name and byte in it. So this module reads only regular files,
and follows no links, except in the search for a program, where it resolves them itself, inside the
image. Of descriptions of packages it reads only the beginning.
"""

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from quiltfn.model.environment import ALWAYS
from quiltfn.model.errors import Unprocessable
from quiltfn.model.image import ImageFile, Package, PackageKind
from quiltfn.model.runtime import LANGUAGES, PROGRAMS

# Maximum bytes read of a file that describes a package, and characters of a name.
HEAD_BYTES, NAME_MAX = 64 * 1024, 200
# Maximum packages listed, entries scanned, and descriptions read.
PACKAGES_MAX, ENTRIES_MAX, HEADS_MAX = 2000, 200_000, 10_000
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
DIST_INFO = ".dist-info"
# Maximum directories and links followed in the search for a program.
DIRECTORIES_MAX, LINKS_MAX = 32, 40
# Maximum path components visited in that search, including those of links.
STEPS_MAX = 10_000
# Errors for a component that is missing, not a directory, a link, too long, or a socket.
NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO)


def files_of(
    root: Path, after: str, count: int, is_wanted: Callable[[], bool] = lambda: True
) -> list[ImageFile]:
    """Up to `count` files and links with paths after `after`; fewer if cancelled. Blocks."""
    behind = tuple(after.split("/")) if after else ()
    return list(islice(_files(root, (), behind, is_wanted), count))


def _files(
    where: Path, parts: tuple[str, ...], behind: tuple[str, ...], is_wanted: Callable[[], bool]
) -> Iterator[ImageFile]:
    """Yields files sorted by path components. Skips directories that sort before `behind`."""
    for found in sorted(os.scandir(where), key=lambda entry: entry.name):
        path = (*parts, found.name)
        if not is_wanted():
            return
        if found.is_dir(follow_symlinks=False):
            if path >= behind[: len(path)]:
                yield from _files(where / found.name, path, behind, is_wanted)
        elif path > behind:
            status = found.stat(follow_symlinks=False)
            is_link = stat.S_ISLNK(status.st_mode)
            yield ImageFile(
                path="/".join(path),
                size_bytes=0 if is_link else status.st_size,
                is_link=is_link,
                is_executable=not is_link and bool(status.st_mode & 0o100),
            )


def read(root: Path, path: str, most: int) -> bytes | None:
    """Reads a regular file below `root`; None if there is none at this path without following
    links. Raises `Unprocessable` if it has more than `most` bytes. Blocks.
    """
    descriptor = _opened(root, path.split("/"))
    if descriptor is None:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        if status.st_size > most:
            raise Unprocessable(f"the file has {status.st_size} bytes; at most {most} are shown")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(descriptor)


def _opened(root: Path, parts: list[str]) -> int | None:
    """Opens a file; each directory is opened relative to its parent, so no link is followed, even
    if it is created meanwhile.
    """
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        return None
    where = os.open(root, READ | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            below = os.open(part, READ | os.O_DIRECTORY, dir_fd=where)
            os.close(where)
            where = below
        return os.open(parts[-1], READ, dir_fd=where)
    except OSError as error:
        if error.errno in NO_FILE:
            return None
        raise
    finally:
        os.close(where)


def program_of(root: Path, names: Sequence[str], path: str) -> str | None:
    """Finds the first program with one of the `names` in a root file system, in the directories
    that `path`, a value of PATH, lists; None if there is none. Follows links inside the file
    system. Blocks.
    """
    found = _program(root, names, path)
    return None if found is None else found[0]


def interpreters_of(root: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """Kind of runtime → its interpreter in a root file system, links resolved. Blocks."""
    path = variables.get("PATH", ALWAYS["PATH"])
    found = {kind: _program(root, PROGRAMS[kind], path) for kind in LANGUAGES}
    return {kind: one[1] for kind, one in found.items() if one is not None}


def _program(root: Path, names: Sequence[str], path: str) -> tuple[str, str] | None:
    steps = iter(range(STEPS_MAX))
    for directory in path.split(":")[:DIRECTORIES_MAX]:
        for name in names if directory.startswith("/") else ():
            wanted = f"{directory.rstrip('/')}/{name}"
            real = _resolved(root, wanted, steps)
            if real is None:
                continue
            with suppress(OSError):
                status = os.lstat(root / real[1:])
                if stat.S_ISREG(status.st_mode) and status.st_mode & 0o100:
                    return wanted, real
    return None


def _resolved(root: Path, path: str, steps: Iterator[int]) -> str | None:
    """Resolves a path of a root file system with all links; None: not found within `steps`."""
    left, real, links = list(reversed(path.split("/"))), list[str](), 0
    while left:
        if next(steps, None) is None:
            return None
        part = left.pop()
        if part in ("", "."):
            continue
        if part == "..":
            real = real[:-1]
            continue
        here = root.joinpath(*real, part)
        try:
            target = os.readlink(here) if here.is_symlink() else None
        except (OSError, ValueError):
            return None
        if target is None:
            real.append(part)
            continue
        links += 1
        if links > LINKS_MAX:
            return None
        if target.startswith("/"):
            real = []
        left += reversed(target.split("/"))
    return "/" + "/".join(real)


def packages_of(root: Path) -> tuple[list[Package], bool]:
    """The Python and Node packages of an image, by kind and name, and whether the list is complete.
    Blocks.
    """
    found: set[Package] = set()
    seen = heads = 0
    for where, directories, _ in os.walk(root):
        seen += 1 + len(directories)
        if seen > ENTRIES_MAX:
            return _sorted(found), False
        directory = Path(where)
        for name in directories:
            package_in = _reader_of(directory, name)
            if package_in is None or (directory / name).is_symlink():
                continue  # the uploader's link may lead anywhere
            heads += 1
            if heads > HEADS_MAX or len(found) >= PACKAGES_MAX:
                return _sorted(found), False
            package = package_in(directory / name)
            if package is not None:
                found.add(package)
    return _sorted(found), True


def _sorted(found: set[Package]) -> list[Package]:
    return sorted(found, key=lambda package: (package.kind, package.name.lower(), package.version))[
        :PACKAGES_MAX
    ]


def _reader_of(parent: Path, name: str) -> Callable[[Path], Package | None] | None:
    """The reader of the package description in a directory of this name, if it has one."""
    if name.endswith(DIST_INFO):
        return _python
    is_scoped = parent.name.startswith("@") and parent.parent.name == "node_modules"
    return _node if parent.name == "node_modules" or is_scoped else None


def _python(directory: Path) -> Package | None:
    """An installed distribution (Core metadata specifications, PEP 376)."""
    fields: dict[str, str] = {}
    for line in _head(directory / "METADATA").decode("utf-8", "replace").splitlines():
        if not line:
            break  # the description follows
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.lower(), value.strip())
    return _package(PackageKind.PYTHON, fields.get("name"), fields.get("version"))


def _node(directory: Path) -> Package | None:
    """A package in node_modules, or in the directory of a scope in it."""
    manifest = None
    with suppress(ValueError, RecursionError):
        manifest = json.loads(_head(directory / "package.json").decode("utf-8", "replace"))
    if not isinstance(manifest, dict):
        return None
    name, version = manifest.get("name"), manifest.get("version")
    if not (isinstance(name, str) and isinstance(version, str)):
        return None
    return _package(PackageKind.NODE, name, version)


def _package(kind: PackageKind, name: str | None, version: str | None) -> Package | None:
    if not name or not version:
        return None
    return Package(kind=kind, name=sendable(name)[:NAME_MAX], version=sendable(version)[:NAME_MAX])


def _head(path: Path) -> bytes:
    """The beginning of a file; empty if it is missing or isn't a regular file."""
    try:
        descriptor = os.open(path, READ)
    except OSError:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        return os.read(descriptor, HEAD_BYTES)
    finally:
        os.close(descriptor)


def sendable(text: str) -> str:
    """Replaces bytes of a name that are not UTF-8 by U+FFFD."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
