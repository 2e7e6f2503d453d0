"""Documents are tested like code: links resolve, commands exist, and nothing depends on one
machine.
"""

import ast
import functools
import json
import re
import subprocess
import textwrap
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TRACKED = subprocess.run(
    ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.split("\0")
FENCED = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
READERS: dict[str, Callable[[str], object]] = {
    "json": json.loads,
    "toml": tomllib.loads,
    "yaml": yaml.safe_load,
    "python": ast.parse,
    "py": ast.parse,
}
COMMAND = re.compile(r"(?:^|[|;&(] *)quiltfn ((?:[a-z][a-z-]*(?: |$))+)([^|;&\n]*)", re.MULTILINE)
QUOTED = re.compile(r"'[^']*'")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
EXAMPLE = "Processes incoming data"
CHANGES = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
VERSION = re.compile(r"## (\[Unreleased\]|\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d)")
DOCUMENTS = [ROOT / name for name in TRACKED if name.endswith(".md")]


@functools.cache
def known_commands() -> dict[str, set[str]]:
    """Every command with its options, from the page that is generated from their signatures.
    Commands of the server's machine have their own parsers, and the empty set here.
    """
    page = (ROOT / "docs/reference/cli.md").read_text()
    _, _, rest = page.partition("## Options of every command that asks a server")
    parts = re.split(r"^#{2,3} (?:quiltfn )?(.+)$", rest, flags=re.MULTILINE)
    common = set(OPTION.findall(parts[0])) | {"--help"}
    found = {
        name: set(OPTION.findall(text)) | common
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }
    return found | {
        word: set() for word in re.findall(r"^\| `quiltfn ([a-z]+)` \|", page, re.MULTILINE)
    }


def wrong_commands(text: str, known: dict[str, set[str]]) -> list[str]:
    """The commands and options in code blocks that `quiltfn` does not have."""
    wrong = []
    blocks = [block for _, kind, block in FENCED.findall(text) if kind == "sh"]
    said = QUOTED.sub("''", "\n".join(blocks).replace("\\\n", " "))
    for words, options in COMMAND.findall(said):
        parts = words.split()
        names = [" ".join(parts[:n]) for n in (2, 1) if " ".join(parts[:n]) in known]
        if not names:
            wrong.append(f"quiltfn {words}")
        elif known[names[0]]:
            wrong += [one for one in OPTION.findall(options) if one not in known[names[0]]]
    return wrong


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_names_exists_and_its_blocks_can_be_read(path: Path) -> None:
    """Checks relative links, files, commands with their options (also in blocks that are not run),
    and blocks of data and of programs.
    """
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"
    for name in re.findall(r"`((?:scripts|src/quiltfn|tests|bench|docs)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), f"{path.name} names {name}"
    for _, kind, block in FENCED.findall(text):
        if kind in READERS:
            READERS[kind](textwrap.dedent(block))
    assert wrong_commands(text, known_commands()) == []


def test_a_command_and_an_option_that_do_not_exist_are_noticed() -> None:
    """Negative control: wrong commands and options must be found."""
    text = "```sh\nquiltfn invoke a --payload b --colour red\nx | quiltfn paint it\n```\n"
    assert wrong_commands(text, known_commands()) == ["--colour", "quiltfn paint it"]


def test_pictures_are_few_small_shown_and_can_be_taken_again() -> None:
    pictures = {Path(name) for name in TRACKED if name.startswith("docs/pictures/")}
    shown = {
        (path.parent / target).resolve().relative_to(ROOT)
        for path in DOCUMENTS
        for target in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", path.read_text())
    }
    taken = re.findall(r'name="(\w+)"', (ROOT / "tests/browser/screenshots.py").read_text())
    assert pictures == shown == {Path(f"docs/pictures/{one}.png") for one in taken}
    assert 0 < len(pictures) <= 7
    assert all((ROOT / one).stat().st_size <= 120_000 for one in pictures)


def test_no_file_names_a_machine_path_or_a_registry_host() -> None:
    # These patterns are split, so that this file itself passes.
    hosts = ["pypi" + "\\.org", "python" + "hosted"]
    banned = re.compile("|".join([*hosts, "/wo" + "rk/", "/ho" + "me/[a-z]"]))
    for name in TRACKED:
        path = ROOT / name
        if name and path.is_file() and path.suffix not in {".png", ".bin"}:
            assert not banned.search(path.read_text(errors="replace")), name


def test_the_example_of_a_create_is_written_down_once() -> None:
    ours = [name for name in TRACKED if name.startswith(("src/", "scripts/"))]
    showing = [name for name in ours if (path := ROOT / name).is_file() and EXAMPLE in read(path)]
    assert showing == ["src/quiltfn/wire/functions.py"]


def read(path: Path) -> str:
    return path.read_text(errors="replace")


def test_licence_and_changelog_are_there() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert (ROOT / "CHANGELOG.md").read_text().startswith("# Changelog")


def test_the_readme_starts_with_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    commands = re.findall(r"^(scripts/\w+)", text, re.MULTILINE)
    assert commands[:2] == ["scripts/demo", "scripts/test"]


def linked(page: Path) -> dict[Path, str]:
    """The files that a page links to, each with the text of its link."""
    links = re.findall(r"\[([^]]+)\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    return {(page.parent / target).resolve(): text for text, target in links}


def test_the_map_has_every_page_and_every_decision_by_its_title() -> None:
    links = linked(ROOT / "docs" / "README.md")
    pages = {path for path in DOCUMENTS if path.is_relative_to(ROOT / "docs")}
    missing = pages - links.keys() - {ROOT / "docs" / "README.md"}
    assert not missing, f"docs/README.md does not list {sorted(missing)}"
    for path in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        title = path.read_text().splitlines()[0].removeprefix("# ")
        assert title.startswith(f"{int(path.name[:4])}. "), f"{path.name}: # NUMBER. TITLE"
        assert links[path] == title, path.name
        parts = re.findall(r"^\*\*(Context|Decision|Consequences)\b", path.read_text(), re.M)
        assert list(dict.fromkeys(parts)) == ["Context", "Decision", "Consequences"], path.name
        assert len(path.read_text().split()) <= 400, f"{path.name} is longer than a page"


def changelog_faults(text: str) -> list[str]:
    """Deviations from Keep a Changelog: versions have dates, and each line is in a section."""
    faults, section = [], ""
    versions = [line for line in text.splitlines() if line.startswith("## ")]
    if versions[:1] != ["## [Unreleased]"] or len(versions) != len(set(versions)):
        faults.append("it begins with ## [Unreleased], and has each version once")
    for line in text.splitlines():
        if line.startswith("## "):
            section = ""
            if not VERSION.fullmatch(line):
                faults.append(f"{line!r} is no version with its date")
        elif line.startswith("### "):
            section = line[4:]
            if section not in CHANGES:
                faults.append(f"{section!r} is none of {', '.join(CHANGES)}")
        elif line.startswith("- ") and not section:
            faults.append(f"{line[:60]!r} belongs under one of {', '.join(CHANGES)}")
    return faults


def test_the_changelog_has_its_form() -> None:
    assert changelog_faults((ROOT / "CHANGELOG.md").read_text()) == []


def test_a_line_without_a_section_is_noticed() -> None:
    """Negative control: faults in a changelog must be found."""
    good = "# Changelog\n## [Unreleased]\n### Added\n- One.\n"
    good += "## [0.1.0] - 2026-11-26\n### Fixed\n- Two.\n"
    assert changelog_faults(good) == []
    for bad in ("### Added\n", " - 2026-11-26", "[", "Fixed"):
        assert changelog_faults(good.replace(bad, "", 1)), bad


def unsourced(text: str) -> list[str]:
    """The cells of the comparison with other platforms that have no source."""
    _, _, rest = text.partition("\n## Comparison\n")
    rows = [line for line in rest.partition("\n## ")[0].splitlines() if line.startswith("|")]
    cells = [cell.strip() for row in rows[2:] for cell in row.strip("|").split("|")[1:]]
    assert len(cells) >= 30
    return [cell for cell in cells if not re.search(r"\]\((https://[^)]+|[\w./#-]+)\)", cell)]


def test_every_cell_of_the_comparison_names_its_source() -> None:
    text = (ROOT / "README.md").read_text()
    assert unsourced(text) == []
    assert unsourced(text.replace("[Apache-2.0](LICENSE)", "free")) == ["free"], "it can fail"
