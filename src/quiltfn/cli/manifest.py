"""Checks the packages in a package.json and its lock file, so that npm runs no code of packages.

npm's --ignore-scripts skips install scripts, but does not cover repositories: in a fetched
repository, npm starts a second npm, which obeys the .npmrc there. So only versions, archives and
directories below package.json are accepted, both as named packages and as dependencies that npm
finds.
"""

import json
import os
import posixpath
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from quiltfn.cli.parsing import BadParameter
from quiltfn.cli.show import one_line
from quiltfn.cli.tree import is_outside
from quiltfn.sdk.client import without_user

MANIFEST = "package.json"
LOCKS = ("package-lock.json", "npm-shrinkwrap.json")
PNPM_LOCK = "pnpm-lock.yaml"
# The fields of a package.json that name packages; other fields could configure programs.
NAMING = (
    *("name", "version", "dependencies", "devDependencies", "optionalDependencies"),
    *("peerDependencies", "peerDependenciesMeta", "overrides", "resolutions", "workspaces"),
)
# pnpm's entry for a package that is an archive with a known hash. Other notations are refused, so
# that YAML gives a line no other meaning.
RESOLVED = re.compile(
    r" +resolution: \{integrity: [A-Za-z0-9+/=-]+"
    r"(?:, tarball: (?:([^\s,'\"{}\[\]]+)|'([^\s']+)'))?\}"
)
LINE_END = re.compile(r"\r\n|\r|\n")
SECTIONS = ("dependencies", "optionalDependencies", "peerDependencies")
# Fields of a lock file for an entry's source, and for an entry's dependencies.
SOURCES = ("resolved", "from", "version")
WANTED = (*SECTIONS, "devDependencies", "requires")
YARN_LOCK = "yarn.lock"

# The only accepted notations for a package's version. npm treats all others as a repository, or as
# a path outside the directory.
PACKAGE_NAME = r"(?:@[a-z0-9~_-][a-z0-9._~-]*/)?[A-Za-z0-9~_-][A-Za-z0-9._~-]*"
VERSION = r"(?![.])[^/\\:@]*"
PLAIN = re.compile(rf"{VERSION}|npm:{PACKAGE_NAME}(?:@{VERSION})?|\${PACKAGE_NAME}")
PATH = re.compile(r"(?:file:)?([A-Za-z0-9._@+-][A-Za-z0-9._@+ /-]*)")
TARBALL = re.compile(r"\.(tgz|tar\.gz|tar)$")
URL = re.compile(
    r"https?://(?:[^\s/\\?#@]*@)?([A-Za-z0-9.-]+)(?::[0-9]+)?(/[^\s\\?#]*)?(?:[?#]\S*)?"
)
# For these hosts, npm treats a URL as a repository, whatever its ending, unless it looks like this.
ARCHIVE_OF_HOST = {
    "github.com": re.compile(r"/[^/]+/[^/]+/(?!tree/).+"),
    "gitlab.com": re.compile(r"/.+(/-/|/archive\.tar\.gz).*"),
    "bitbucket.org": re.compile(r"/[^/]+/[^/]+/get/.+"),
    "gist.github.com": re.compile(r"/[^/]+/[^/]+/raw/.+"),
    "git.sr.ht": re.compile(r"/[^/]+/[^/]+/archive/.+"),
}
CODE_PATH = re.compile(r"(/(?![.])[A-Za-z0-9_.+=~@-]+)+")


def check(directory: Path) -> None:
    """Check a directory. Raises `BadParameter`, which names the line of a refused entry."""
    if (directory / ".npmrc").exists():
        raise BadParameter(
            f"{directory / '.npmrc'} is refused: it could name programs that npm starts, and would "
            "become part of the runtime; put your registries into your own ~/.npmrc"
        )
    for path in files_of(directory):
        if is_outside(directory, path.relative_to(directory)):
            raise BadParameter(LEAVES.format(path))
        if path.name == PNPM_LOCK:
            check_pnpm(path)
        elif (
            path.name != YARN_LOCK
        ):  # npm uses it only as a hint; the lock file that npm writes is checked later
            _check_file(path)


def files_of(directory: Path) -> list[Path]:
    """The files of a directory that name packages."""
    names = (MANIFEST, *LOCKS, PNPM_LOCK, YARN_LOCK)
    return [path for name in names if (path := directory / name).is_file()]


def isolate(tree: Path) -> None:
    """Reduce a copy of a directory to what npm needs: no file that it reads or writes leads out of
    the copy, and package.json only names packages.
    """
    found = {path.name: path.read_bytes() for path in files_of(tree)}
    is_locked = any(name in found for name in LOCKS)
    text = naming(tree / MANIFEST, () if is_locked else ("devDependencies",))
    root = os.path.realpath(tree)
    for path in tree.rglob("*"):
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
            path.unlink()
    for name, content in (found | {MANIFEST: text.encode()}).items():
        (tree / name).unlink(missing_ok=True)
        (tree / name).write_bytes(content)
    for name in LOCKS:  # npm would write through a dangling link
        if name not in found:
            (tree / name).unlink(missing_ok=True)


def is_of_pnpm(directory: Path) -> bool:
    """Whether pnpm installs the packages, because the directory has only its lock file."""
    has_others = any((directory / name).is_file() for name in LOCKS)
    return (directory / PNPM_LOCK).is_file() and not has_others


def check_pnpm(lock: Path) -> None:
    """Check a pnpm-lock.yaml. Raises `BadParameter`, which names a refused line."""
    try:
        lines = LINE_END.split(lock.read_bytes().decode())
    except (ValueError, OSError) as error:
        raise BadParameter(f"{lock} cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        reason = _why_not(line)
        if reason:
            raise BadParameter(f"{lock}, line {number}: {line.strip()}: {reason}")


def _why_not(line: str) -> str | None:
    """Why a line of a pnpm-lock.yaml is refused. None: it is accepted."""
    if "\\" in line and '"' in line:
        return "such characters could give the line another meaning"
    if "resolution" not in line:
        return None
    found = RESOLVED.fullmatch(line)
    if found is None:
        return "it is not an archive from a registry"
    source = found[1] or found[2]
    return _refused(source) if source else None


def naming(path: Path, left_out: Collection[str] = ()) -> str:
    """The text of a package.json that only names packages."""
    said = json.loads(path.read_text("utf-8"))
    kept = {name: said[name] for name in NAMING if name in said and name not in left_out}
    pnpm = said.get("pnpm")
    if isinstance(pnpm, dict) and "overrides" in pnpm:
        kept["pnpm"] = {"overrides": pnpm["overrides"]}
    return json.dumps(kept)


def check_resolved(tree: Path) -> None:
    """Raise `BadParameter` if the lock file that npm wrote has entries that are refused. It also
    names indirect dependencies, which package.json does not.
    """
    _check_file(tree / LOCKS[0], MANIFEST)


def _check_file(path: Path, shown: str | None = None) -> None:
    """`shown`: the file that errors name instead of `path`, which the user has not seen."""
    try:
        text = path.read_text("utf-8")
        said = json.loads(text)
    except (ValueError, OSError) as error:
        raise BadParameter(f"{path} cannot be read: {error}") from None
    if not isinstance(said, dict):
        raise BadParameter(f"{path} must be a JSON object")
    found = _locked(said) if path.name in LOCKS else _named(said)
    for name, source, reason in found:
        if reason:
            place = f"{shown} leads to" if shown else f"{path}, line {_line(text, source)}:"
            raise BadParameter(one_line(f"{place} {name}: {reason}"))


Entry = tuple[str, str, str | None]


def _named(said: Mapping[str, Any]) -> Iterator[Entry]:
    """The packages in a package.json: name, source, and why it is refused."""
    for section in (*SECTIONS, "overrides"):
        for name, source in _strings(section, said.get(section)):
            yield name, source, _refused(source)
    workspaces = said.get("workspaces")
    patterns = workspaces.get("packages") if isinstance(workspaces, dict) else workspaces
    for pattern in patterns if isinstance(patterns, list) else []:
        is_within = isinstance(pattern, str) and PATH.fullmatch(pattern.replace("*", "x"))
        yield (
            "workspaces",
            str(pattern),
            None if is_within and _is_within(pattern) else LEAVES.format(pattern),
        )


def _locked(said: object, name: str = "", place: str = "") -> Iterator[Entry]:
    """All URLs and dependencies in a lock file, in all versions of its format. `place`: the path of
    the entry `said`.
    """
    if not isinstance(said, dict):
        return
    for key, value in said.items():
        if key == "packages" and not place and isinstance(value, dict):
            for where, entry in value.items():
                yield where, where, None if _is_within(where) else LEAVES.format(where)
                yield from _locked(entry, where, where or ".")
        elif key in SOURCES and isinstance(value, str):
            is_address = key == "from" or ":" in value or said.get("link") is True
            is_link = key == "resolved" and said.get("link") is True
            source = f"file:{value.removeprefix('file:')}" if is_link else value
            yield name, value, _refused(source, is_found=True) if is_address else None
        elif key in WANTED and isinstance(value, dict):
            for other, item in value.items():
                if isinstance(item, str):
                    yield other, item, _refused(item, place, is_found=True)
                else:
                    yield from _locked(item, other, place)


def _strings(name: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(key, item)


LEAVES = "{} leads out of the directory"


def _is_within(path: str, place: str = "") -> bool:
    whole = posixpath.normpath(posixpath.join(place, path))
    return not (whole.startswith(("/", "~")) or whole.split("/")[0] == ".." or "\\" in whole)


def _refused(source: str, place: str = "", *, is_found: bool = False) -> str | None:
    """Why this source is refused; None: it is accepted. `place`: the base of a relative path.
    `is_found`: it is from a lock file, where a registry may name archives at any URL.
    """
    source = source.strip()
    shown = without_user(source) if "://" in source else source
    if url := URL.fullmatch(source):
        if _is_archive(url[1].lower().removeprefix("www."), url[2] or "/", is_found):
            return None
        return f"{shown} is not an archive: npm may treat anything but a .tgz as a repository"
    is_file_name = "/" not in source and TARBALL.search(source)
    if is_file_name or source.startswith(("file:", "/", ".", "~/")):
        path = PATH.fullmatch(source)
        if path is not None and _is_within(path[1], place):
            return None
        return LEAVES.format(source)
    if PLAIN.fullmatch(source):
        return None
    return f"{shown} is a repository, whose code npm would run to prepare it"


def _is_archive(host: str, path: str, is_found: bool) -> bool:
    pattern = ARCHIVE_OF_HOST.get(host)
    if pattern is not None:
        return bool(pattern.fullmatch(path) and CODE_PATH.fullmatch(path))
    return bool(TARBALL.search(path)) or (is_found and not path.endswith(".git"))


def _line(text: str, source: str) -> int:
    written = json.dumps(source, ensure_ascii=False)[1:-1]
    place = max(text.find(written), 0)
    return text.count("\n", 0, place) + 1
