"""The documentation site: what its pages may contain, and where they are. tests/spec builds the
site.
"""

from pathlib import Path

import finishing
import pytest
import staging

from promises import promise

pytestmark = promise("A77")

ROOT = Path(__file__).resolve().parents[2]
PAGE = '<!doctype html><h1 id="top">A</h1>{}'


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
