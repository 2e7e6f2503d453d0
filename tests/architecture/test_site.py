"""The documentation site: it is built without a warning or a dead link, and of what its policy
lets a browser load.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import build
import finishing
import pytest
import staging

ROOT = Path(__file__).resolve().parents[2]
PAGE = '<!doctype html><h1 id="top">A</h1>{}'


def test_the_site_is_built_without_a_warning_or_a_dead_link() -> None:
    """At no cost where scripts/setup --test has built it, and seconds after a change."""
    pytest.importorskip("sphinx", reason="scripts/setup --docs installs it")
    done = subprocess.run(
        [sys.executable, ROOT / "docs/site/build.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert build.is_current(ROOT)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The least that a site is made of."""
    for name in ("docs/site", "docs/pictures"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("ui/src/icon.svg", "src/quiltfn/__init__.py", "requirements/docs.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "README.md").write_text("# quiltfn\n\nBegin with [the map](docs/README.md).\n")
    (tmp_path / "docs/README.md").write_text(
        "# Documents\n\n## Tutorials\n\n- [First](first.md)\n\n## Decisions\n\nNone.\n"
    )
    (tmp_path / "docs/first.md").write_text("# First\n\nSee [below](#second).\n\n## Second\n")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[a page](third.md)", "third.md"),
        ("[a place](#third)", "third"),
        ("![a picture](pictures/third.png)", "third.png"),
    ],
)
def test_what_leads_nowhere_ends_the_build_and_leaves_the_site(
    checkout: Path, text: str, told: str
) -> None:
    pytest.importorskip("sphinx", reason="scripts/setup --docs installs it")
    before = checkout / build.OUT / "index.html"
    before.parent.mkdir()
    before.write_text("before")
    with (checkout / "docs/first.md").open("a") as page:
        page.write(f"\n{text}\n")
    with pytest.raises(build.BuildFailed, match=told):
        build.build(checkout)
    assert before.read_text() == "before"


def test_a_small_site_is_built_and_is_current_until_a_source_changes(checkout: Path) -> None:
    pytest.importorskip("sphinx", reason="scripts/setup --docs installs it")
    assert not build.is_current(checkout)
    build.build(checkout)
    assert build.is_current(checkout)
    names = {
        str(one.relative_to(checkout / build.OUT)) for one in (checkout / build.OUT).rglob("*")
    }
    assert {"index.html.gz", "first.html.gz", "search.html.gz", "LICENSES.txt.gz"} <= names
    (checkout / "docs/first.md").rename(checkout / "docs/second.md")
    assert not build.is_current(checkout)


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        ('<a href="b.html">b</a>', "leads nowhere"),
        ('<a href="#below">b</a>', "no place in that page"),
        ('<img src="a.png" alt="">', "leads nowhere"),
        ("<script>run()</script>", "the policy refuses <script>"),
        ("<style>p {}</style>", "the policy refuses <style>"),
        ('<p style="color: red">', "the policy refuses <p>"),
        ('<p onclick="run()">', "the policy refuses <p>"),
        ('<script src="https://cdn.test/a.js"></script>', "from https://cdn.test"),
        ('<link href="https://fonts.test/a.css" rel="stylesheet">', "from https://fonts.test"),
        ('<img src="//pictures.test/a.png">', "from //pictures.test"),
    ],
)
def test_what_a_page_may_not_have_is_found(part: str, fault: str) -> None:
    (found,) = finishing.faults_of({"a.html": PAGE.format(part)}, {"a.html"})
    assert fault in found


def test_what_a_page_may_have_is_no_fault() -> None:
    part = '<a href="#top">a</a><a href="https://example.com">b</a><img src="c.png" alt="">'
    assert finishing.faults_of({"a.html": PAGE.format(part)}, {"a.html", "c.png"}) == []


def test_links_are_moved_with_their_pages_and_programs_are_no_pages() -> None:
    places = staging.places_of(ROOT)
    text = (
        "[a](../../SECURITY.md#scope) [b](../README.md) ![c](../pictures/call.png)\n"
        "[d](../../tests/timeouts.py) [e](https://example.com) [f](#here)\n"
        "```sh\necho [a](../../SECURITY.md)\n```\n"
    )
    assert staging.moved(text, "docs/how-to/keys.md", "how-to/keys.md", ROOT, places) == (
        "[a](../security.md#scope) [b](../map.md) ![c](../pictures/call.png)\n"
        "d [e](https://example.com) [f](#here)\n"
        "```sh\necho [a](../../SECURITY.md)\n```\n"
    )


def test_the_navigation_is_the_map(tmp_path: Path) -> None:
    staging.stage(ROOT, tmp_path)
    start = (tmp_path / "index.md").read_text()
    captions = [line[10:] for line in start.splitlines() if line.startswith(":caption: ")]
    assert captions == ["Tutorials", "How-tos", "Reference", "Explanation"]
    lines = start.splitlines()
    for path in (ROOT / "docs").rglob("*.md"):
        name = str(path.relative_to(ROOT / "docs")).removesuffix(".md")
        if path.name != "README.md" and path.parent.name != "decisions":
            assert lines.count(name) == 1, f"{name} is in the navigation once"
    assert "decisions/index" in lines
