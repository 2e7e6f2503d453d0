"""Builds the documentation site: the Markdown of the repository, by Sphinx, into src/quiltfn/site,
compressed and ready to be served.

.venv/bin/python docs/site/build.py           builds it, if what is there was made of something else
.venv/bin/python docs/site/build.py --check   exits 1 if it would have to be built

It needs the packages of requirements/docs.txt (scripts/setup --docs installs them) and no network.
A warning of Sphinx, a dead link and anything that the site's policy would refuse are errors.
"""

import importlib.util
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import finishing
import staging

ROOT = Path(__file__).resolve().parents[2]
OUT = Path("src/quiltfn/site")
# What it was made of: the digest of every source.
MADE_OF = "made-of"
OTHERS = ("requirements/docs.txt", "src/quiltfn/__init__.py")
KEPT = {".md", ".png", ".py", ".html", ".css", ".js", ".svg"}


class BuildFailed(RuntimeError):
    """The site cannot be built, or it is not as it has to be."""


def made_of(root: Path) -> str:
    """The digest of everything that the site is made of."""
    found = [*root.glob("*.md"), *(root / one for one in OTHERS)]
    found += [one for one in (root / "docs").rglob("*") if one.is_file() and one.suffix in KEPT]
    digest = runpy.run_path(str(ROOT / "ui/build.py"))["digest"]
    return str(digest(found, root))


def is_current(root: Path) -> bool:
    """Whether src/quiltfn/site is what the sources make. A source archive has it already."""
    stamp = root / OUT / MADE_OF
    return stamp.exists() and stamp.read_text() == made_of(root)


def build(root: Path) -> None:
    """Builds what is not current. Raises `BuildFailed`; what was built before stays then."""
    if is_current(root):
        return
    out = root / OUT
    with tempfile.TemporaryDirectory(prefix="quiltfn-docs-") as name:
        make(root, Path(name))
        fresh = out.with_name("site.new")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(Path(name) / "site", fresh)
        (fresh / MADE_OF).write_text(made_of(root))
        shutil.rmtree(out, ignore_errors=True)
        fresh.rename(out)


def make(root: Path, work: Path) -> None:
    """Makes the site in `work`/site. Raises `BuildFailed`."""
    if importlib.util.find_spec("sphinx") is None:
        raise BuildFailed("there is no Sphinx; scripts/setup --docs installs it")
    staging.stage(root, work / "pages")
    words = ["-m", "sphinx", "-q", "-W", "--keep-going", "-j", "2", "-b", "html"]
    directories = (root / "docs/site", work / "doctrees", work / "pages", work / "html")
    conf, doctrees, pages, html = map(str, directories)
    done = subprocess.run(
        [sys.executable, *words, "-c", conf, "-d", doctrees, pages, html],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BuildFailed(f"Sphinx failed:\n{done.stdout}{done.stderr}".rstrip())
    faults = finishing.finish(work / "html", work / "site")
    if faults:
        raise BuildFailed("\n".join(faults))


def main(words: list[str]) -> int:
    if words == ["--check"]:
        return 0 if is_current(ROOT) else 1
    if words:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        build(ROOT)
    except (BuildFailed, OSError) as error:
        print(f"the documentation site was not built: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
