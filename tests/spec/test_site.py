"""The documentation site is built without warnings and broken links."""

import shutil
import subprocess
import sys
from pathlib import Path

import build
import pytest

from promises import promise

pytestmark = promise("A77")

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("sphinx", reason="scripts/setup --docs installs it")


def test_the_site_is_built_without_a_warning_or_a_dead_link() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs/site/build.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert build.is_current(ROOT)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with only the files that a build of the site needs."""
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


DEAD = {
    "third.md": "[a page](third.md)",
    "'third'": "[a place](#third)",
    "third.png": "![a picture](pictures/third.png)",
}


def test_what_leads_nowhere_ends_the_build_and_leaves_the_site(checkout: Path) -> None:
    """A build with several faults reports all of them, fails, and leaves the site as it was."""
    before = checkout / build.OUT / "index.html"
    before.parent.mkdir()
    before.write_text("before")
    with (checkout / "docs/first.md").open("a") as page:
        page.write("\n" + "\n\n".join(DEAD.values()) + "\n")
    with pytest.raises(build.BuildFailed) as failed:
        build.build(checkout)
    warnings = [one for one in str(failed.value).splitlines() if "WARNING" in one]
    for name in DEAD:
        assert any(name in one for one in warnings), name
    assert before.read_text() == "before"


def test_a_small_site_is_built_and_is_current_until_a_source_changes(checkout: Path) -> None:
    assert not build.is_current(checkout)
    build.build(checkout)
    assert build.is_current(checkout)
    names = {
        str(one.relative_to(checkout / build.OUT)) for one in (checkout / build.OUT).rglob("*")
    }
    assert {"index.html.gz", "first.html.gz", "search.html.gz", "LICENSES.txt.gz"} <= names
    (checkout / "docs/first.md").rename(checkout / "docs/second.md")
    assert not build.is_current(checkout)
