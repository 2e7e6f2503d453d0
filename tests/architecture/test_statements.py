"""Checks statements in documents that a change of the code could make wrong."""

import re
import typing
from collections.abc import Set
from pathlib import Path

import pytest

from architecture.test_documents import TRACKED
from promises import promise
from quiltfn.launcher import host_image, images, verbs

ROOT = Path(__file__).resolve().parents[2]
FILE = r"`([\w./-]+\.(?:py|h|c|js|ts|sql|json|html))`"
NAMES = r"\s((?:`\w+`(?:,\s)?)+)"
SOURCE = r"`([\w./-]+\.(?:py|h|c|js|ts|sql|css))`"
TEXTS = (".py", ".c", ".h", ".js", ".ts", ".sql", ".md", ".toml", ".yml")


def names_by_file(text: str) -> list[tuple[str, str]]:
    """The names in a text that stand beside their file. The forms are: a file and `name`, `name`;
    or `Name` (and its file).
    """
    lists = re.findall(FILE + NAMES, text)
    named = [(file, name) for file, names in lists for name in re.findall(r"\w+", names)]
    return named + [(f, name) for name, f in re.findall(r"`(\w+)`\s\(" + FILE + r"\)", text)]


def missing(text: str) -> list[str]:
    """The files that a text names but that do not exist, and the names that are not in the file
    beside which they stand.
    """
    named = [(file, "") for file in re.findall(FILE, text)] + names_by_file(text)
    return [f"{file} {name}".strip() for file, name in named if not has(file, name)]


def has(file: str, name: str) -> bool:
    for place in ("src/quiltfn", "", "tests"):
        if (path := ROOT / place / file).is_file():
            return re.search(rf"\b{name}\b", path.read_text()) is not None
    return False


def misplaced(page: str, text: str, files: Set[str]) -> list[str]:
    """The files that a text names by a path that leads nowhere. A bare name must be that of a file
    in the page's directory, in the root of the project, or in the root of its package.
    """
    beside = (Path(page).parent, Path(), Path("src/quiltfn"))
    anywhere = (*beside, Path("tests"), Path("ui/src"))
    return [
        name
        for name in re.findall(SOURCE, text)
        if not {str(place / name) for place in (anywhere if "/" in name else beside)} & files
    ]


def test_what_a_docstring_a_comment_or_a_page_names_has_its_package() -> None:
    """Decisions and the changelog are excluded: they describe earlier states."""
    files = set(TRACKED)
    past = ("docs/decisions/", "CHANGELOG.md", "tests/architecture/test_statements.py")
    pages = [file for file in files if file.endswith(TEXTS) and not file.startswith(past)]
    found = {page: misplaced(page, (ROOT / page).read_text(), files) for page in sorted(pages)}
    assert len(pages) > 800
    assert {page: names for page, names in found.items() if names} == {}


def test_a_name_without_its_package_is_noticed() -> None:
    """Negative control: a file named without its package must be found."""
    files = {"src/quiltfn/calls/events.py", "src/quiltfn/settings.py", "tests/timeouts.py"}
    text = "`events.py`, `calls/events.py`, `settings.py`, `timeouts.py`"
    for page, names in (
        ("src/quiltfn/calls/work.py", ["timeouts.py"]),
        ("src/quiltfn/api/app.py", ["events.py", "timeouts.py"]),
        ("tests/clock.py", ["events.py"]),
    ):
        assert misplaced(page, text, files) == names


@pytest.mark.parametrize("page", ["docs/architecture.md", "docs/glossary.md", "CONTRIBUTING.md"])
def test_what_the_page_names_is_there(page: str) -> None:
    assert missing((ROOT / page).read_text()) == []


def test_constants_in_the_steps_of_a_change_stand_beside_their_files() -> None:
    """If a constant stood alone, nothing would notice that it was moved to another file."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    constants = set(re.findall(r"`([A-Z][A-Z_]+)`", text))
    assert len(constants) > 5
    assert constants <= {name for _, name in names_by_file(text)}


def test_what_is_not_there_is_noticed() -> None:
    """Negative control: missing files and names must be found."""
    text = "`api/nothing.py`, `Nothing` (`calls/invoke.py`), `calls/invoke.py` `Invoker`, `nothing`"
    assert missing(text) == [
        "api/nothing.py",
        "calls/invoke.py nothing",
        "calls/invoke.py Nothing",
    ]
    assert missing("`api/app.py`, `calls/invoke.py` `Invoker`, `Invoker` (`calls/invoke.py`)") == []


def test_security_names_the_verbs_that_the_launcher_takes() -> None:
    taken = {"create", "limit", "deadline", *verbs.ON_SANDBOX}
    kinds = {verbs.Create, verbs.Limit, verbs.SetDeadline, verbs.OnSandbox}
    assert set(typing.get_args(verbs.Verb)) == kinds
    text = (ROOT / "SECURITY.md").read_text()
    (claim,) = re.findall(r"takes (\w+) verbs \(([\w, ]+)\)", text)
    assert set(claim[1].split(", ")) == taken
    assert claim[0] == ("", "one", "two", "three", "four", "five", "six", "seven")[len(taken)]


@promise("F36")
def test_security_has_the_bounds_of_the_launcher() -> None:
    """The launcher's own tests use smaller limits, which they reach sooner, so they can't check
    these.
    """
    text = (ROOT / "SECURITY.md").read_text()
    bounds = re.findall(r"([\d,]+) (?:directories for writable paths|mounts of images)", text)
    assert [int(bound.replace(",", "")) for bound in bounds] == [
        host_image.MADE_MAX,
        images.MOUNTED_MAX,
    ]
