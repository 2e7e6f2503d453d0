"""Checks what a package.json and its lock file name, so that npm runs no code of packages.

npm's own switch leaves install scripts out. It does not cover repositories: what is fetched by git
is installed with its development packages and prepared.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from quiltfn.cli.parsing import BadParameter
from quiltfn.sdk.client import without_user

MANIFEST = "package.json"
LOCKS = ("package-lock.json", "npm-shrinkwrap.json")
PNPM_LOCK = "pnpm-lock.yaml"
# Of a package.json, what says which packages there are; the rest could set up programs.
NAMING = (
    *("name", "version", "dependencies", "devDependencies", "optionalDependencies"),
    *("peerDependencies", "peerDependenciesMeta", "overrides", "resolutions"),
)
# What pnpm writes of a package that comes as an archive with a known hash: nothing else is taken,
# and nothing that YAML could read as more than that.
RESOLVED = re.compile(
    r" +resolution: \{integrity: [A-Za-z0-9+/=-]+"
    r"(?:, tarball: (?:([^\s,'\"{}\[\]]+)|'([^\s']+)'))?\}"
)
LINE_END = re.compile(r"\r\n|\r|\n")
SECTIONS = ("dependencies", "optionalDependencies", "peerDependencies")
REPOSITORY = re.compile(r"git[+:@]|ssh:|(github|gitlab|bitbucket|gist):|[^@/.~][^@/]*/[^/]+$")
TARBALL = re.compile(r"\.(tgz|tar\.gz|tar)$")


def check(directory: Path) -> None:
    """Raises `BadParameter` that names the line with the entry that is refused."""
    if (directory / ".npmrc").exists():
        raise BadParameter(
            f"{directory / '.npmrc'} is not taken: it could name programs that npm starts, and "
            "would become part of the runtime; put your registries into your own ~/.npmrc"
        )
    for path in files_of(directory):
        check_pnpm(path) if path.name == PNPM_LOCK else _check_file(path)


def files_of(directory: Path) -> list[Path]:
    """The files of a directory that name packages."""
    names = (MANIFEST, *LOCKS, PNPM_LOCK)
    return [path for name in names if (path := directory / name).is_file()]


def is_of_pnpm(directory: Path) -> bool:
    """Whether pnpm is to install the packages: only its lock file is there."""
    has_others = any((directory / name).is_file() for name in LOCKS)
    return (directory / PNPM_LOCK).is_file() and not has_others


def check_pnpm(lock: Path) -> None:
    """Raises `BadParameter` that names the line of a pnpm-lock.yaml that is refused."""
    try:
        lines = LINE_END.split(lock.read_bytes().decode())
    except (ValueError, OSError) as error:
        raise BadParameter(f"{lock} cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        reason = _why_not(line)
        if reason:
            raise BadParameter(f"{lock}, line {number}: {line.strip()}: {reason}")


def _why_not(line: str) -> str | None:
    """Why a line of a pnpm-lock.yaml is refused; None: it is not."""
    if "\\" in line and '"' in line:
        return "by such characters it could say something else than is written"
    if "resolution" not in line:
        return None
    found = RESOLVED.fullmatch(line)
    if found is None:
        return "it is no archive from a registry"
    source = found[1] or found[2]
    return _refused(source) if source else None


def naming(path: Path) -> str:
    """A package.json with nothing in it but what names packages."""
    said = json.loads(path.read_text("utf-8"))
    kept = {name: said[name] for name in NAMING if name in said}
    pnpm = said.get("pnpm")
    if isinstance(pnpm, dict) and "overrides" in pnpm:
        kept["pnpm"] = {"overrides": pnpm["overrides"]}
    return json.dumps(kept)


def _check_file(path: Path) -> None:
    try:
        text = path.read_text("utf-8")
        said = json.loads(text)
    except (ValueError, OSError) as error:
        raise BadParameter(f"{path} cannot be read: {error}") from None
    if not isinstance(said, dict):
        raise BadParameter(f"{path} must be a JSON object")
    found = _resolved(said) if path.name in LOCKS else _named(said)
    for name, source in found:
        reason = _refused(source)
        if reason:
            raise BadParameter(f"{path}, line {_line(text, source)}: {name}: {reason}")


def _named(said: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for section in SECTIONS:
        yield from _strings(section, said.get(section))
    yield from _strings("overrides", said.get("overrides"))


def _resolved(said: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Every address in a lock file, in all versions of its format."""
    if isinstance(said, dict):
        for key, value in said.items():
            is_address = key in ("resolved", "from", "version") and isinstance(value, str)
            if is_address and (":" in value or key == "from"):
                yield name, value
            elif key not in ("requires", "engines", "funding", "bin"):
                yield from _resolved(value, key or name)


def _strings(name: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _strings(key, one)


def _refused(source: str) -> str | None:
    source = source.strip()
    parts = urlsplit(source)
    if parts.scheme in ("http", "https"):
        if TARBALL.search(parts.path):
            return None
        shown = without_user(source)
        return f"{shown} is no archive; what is no .tgz may be taken for a repository"
    if REPOSITORY.match(source) and not source.startswith(("file:", "npm:")):
        shown = without_user(source) if "://" in source else source
        return f"{shown} is a repository, whose code npm would run to prepare it"
    return None


def _line(text: str, source: str) -> int:
    written = json.dumps(source, ensure_ascii=False)[1:-1]
    place = max(text.find(written), 0)
    return text.count("\n", 0, place) + 1
