"""Checks a requirements file, so that installing it runs no code and reads no other file.

A line is a package's name or a wheel, and hashes. The installer gets the lines that were checked
here, not the file itself, which it might read differently.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from quiltfn.cli.parsing import BadParameter
from quiltfn.sdk.client import without_user

NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
BARE = re.compile(rf"{NAME}\s*(?:\[[^\]/:@]*\])?\s*(?:\(?\s*[<>=!~][^/;@]*)?(?:;.*)?", re.DOTALL)
NAMED_SOURCE = re.compile(rf"(?P<name>{NAME}\s*(?:\[[^\]]*\])?)\s*@\s*(?P<source>.+)", re.DOTALL)
ARCHIVE = re.compile(r"\.(zip|tgz|tbz|txz|tlz|tar(\.\w+)?)$", re.IGNORECASE)
# The beginning of a marker or of hashes in a checked line.
BEHIND_SOURCE = re.compile(r" ;| --hash=")
HASH = re.compile(r"--hash=[a-z0-9]+:[0-9a-fA-F]+")
VARIABLE = re.compile(r"\$\{[^}]*\}")
COMMENT = re.compile(r"(^|\s+)#.*$")
SCHEMES = ("https", "http", "file")

# Options on separate lines that only affect the choice of versions.
HARMLESS = {"--require-hashes", "--pre", "--prefer-binary"}
WHY = {
    "-e": "it runs the package's own code here; build a wheel of it and name its path",
    "--no-binary": "it makes the installer build packages, which runs their code here",
    "--only-binary": "leave it out: only wheels are installed in any case",
    "-r": "it reads another file; list all packages in this one",
    "-c": "it reads another file; list the versions in this one",
    "-i": "set it for yourself: PIP_INDEX_URL, or UV_DEFAULT_INDEX for uv",
    "--extra-index-url": "set it for yourself: PIP_EXTRA_INDEX_URL, or UV_INDEX for uv",
    "--no-index": "set it for yourself: PIP_NO_INDEX=1, or UV_NO_INDEX=1 for uv",
    "-f": "set it for yourself: PIP_FIND_LINKS, or UV_FIND_LINKS for uv",
    "--trusted-host": "set it for yourself: PIP_TRUSTED_HOST, or UV_INSECURE_HOST for uv",
}
LONG = {
    "--editable": "-e",
    "--requirement": "-r",
    "--constraint": "-c",
    "--index-url": "-i",
    "--find-links": "-f",
}


def read(path: Path) -> str:
    """The text for the installer: one requirement per line, wheels by their absolute paths.

    Raises `BadParameter`, which names the refused line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadParameter(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise BadParameter(f"{path} cannot be read: {error.strerror}") from None
    return checked(text, path)


def checked(text: str, path: Path) -> str:
    """Like `read`, for a text from the file or derived from the file."""
    kept = []
    for number, line in _lines(text):
        try:
            kept.append(_understood(line, path.resolve().parent))
        except ValueError as error:
            raise BadParameter(f"{path}, line {number}: {error}") from None
    return "".join(f"{line}\n" for line in kept)


def local_wheel(line: str) -> Path | None:
    """The wheel on this machine that a checked line names by path or URL."""
    bare = BEHIND_SOURCE.split(line, maxsplit=1)[0]
    if bare.startswith("/"):
        return Path(bare)
    parts = urlsplit(bare.rpartition("@ ")[2])
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines without comments, with their numbers. Lines joined by a backslash are one."""
    start, joined = 1, ""
    for number, line in enumerate([*re.split(r"\r\n|\r|\n", text), ""], 1):
        start = start if joined else number
        is_comment = line.lstrip().startswith("#")
        joined += f" {line}" if joined and is_comment else line
        if line.endswith("\\") and not is_comment:
            joined = joined[:-1]
            continue
        bare = COMMENT.sub("", joined).strip()
        joined = ""
        if bare:
            yield start, bare


def _understood(line: str, directory: Path) -> str:
    """The line as the installer gets it. Raises ValueError with the reason if it is refused."""
    if not line.isprintable():
        raise ValueError("it has invisible characters")
    if VARIABLE.search(line):
        raise ValueError(
            f"{VARIABLE.findall(line)[0]} would read a variable of your environment; "
            "write the value itself"
        )
    if line.startswith("-"):
        return _option(line)
    words = line.split()
    hashes = [word for word in words if word.startswith("-")]
    for word in hashes:
        if not HASH.fullmatch(word):
            raise ValueError(f"{word} is refused: a package may only be followed by --hash=…")
    wanted = " ".join(word for word in words if not word.startswith("-"))
    return " ".join([_source(wanted, directory), *hashes])


def _option(line: str) -> str:
    word = re.split(r"[\s=]", line, maxsplit=1)[0]
    # "-rother.txt" is "-r other.txt".
    if not word.startswith("--"):
        word = word[:2]
    if word in HARMLESS and line == word:
        return line
    reason = WHY.get(LONG.get(word, word), "only names of packages, wheels and hashes are accepted")
    raise ValueError(f"{word} is refused: {reason}")


def _source(wanted: str, directory: Path) -> str:
    """A package's name unchanged; a wheel by its address or absolute path."""
    if BARE.fullmatch(wanted) and not _is_file(wanted):
        return wanted
    named = NAMED_SOURCE.fullmatch(wanted)
    source, semicolon, marker = (named["source"] if named else wanted).partition(" ;")
    if not semicolon and not named:
        source, semicolon, marker = wanted.partition(";")
    source, behind = source.strip(), f" ;{marker}" if semicolon else ""
    name = f"{named['name'].rstrip()} @ " if named else ""
    parts = urlsplit(source)
    if not parts.scheme:
        bare, _, extras = source.partition("[")
        path = directory / bare.strip()
        if name or extras or not path.name.endswith(".whl"):
            raise ValueError(_not_a_wheel(source))
        if not path.is_file():
            raise ValueError(f"there is no wheel {path}")
        return f"{path}{behind}"
    if parts.scheme not in SCHEMES or not unquote(parts.path).endswith(".whl"):
        raise ValueError(_not_a_wheel(without_user(source)))
    if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
        raise ValueError(f"{without_user(source)} names a file on another machine")
    return f"{name}{source}{behind}"


def _is_file(wanted: str) -> bool:
    word = re.split(r"[\s;\[]", wanted, maxsplit=1)[0]
    return bool(ARCHIVE.search(word)) or word.endswith(".whl")


def _not_a_wheel(source: str) -> str:
    return (
        f"{source} is not a wheel; other packages are built during installation, which runs their "
        "code here: build a wheel (pip wheel) and name that"
    )
