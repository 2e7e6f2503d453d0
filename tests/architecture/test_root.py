"""docs/architecture.md lists what of ours runs as root: every file, and how long it is."""

import math
import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "quiltfn"
PAGE = PACKAGE.parents[1] / "docs" / "architecture.md"
ROW = re.compile(r"^\| `([\w/.]+\.py)` \| (\d+) \|", re.MULTILINE)
# In a process of its own: this one has loaded the server, too.
LOADED = """
import sys
from quiltfn.operator import serve
for name, module in sys.modules.items():
    if name.split(".")[0] == "quiltfn":
        print(module.__file__)
"""


def section(text: str) -> str:
    return text.split("## What runs as root\n", 1)[1].split("\n## ", 1)[0]


def listed(text: str) -> dict[str, int]:
    return {name: int(lines) for name, lines in ROW.findall(section(text))}


def loaded() -> dict[str, int]:
    """What `quiltfn serve` loads, but for packages without code; lines rounded up to 25."""
    command = [sys.executable, "-I", "-c", LOADED]
    files = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    paths = [Path(file) for file in files]
    length = {path: len(path.read_text().splitlines()) for path in paths}
    return {
        str(path.relative_to(PACKAGE)): math.ceil(length[path] / 25) * 25
        for path in paths
        if path.name != "__init__.py" or path.parent == PACKAGE
    }


def test_what_runs_as_root_is_listed_with_its_size() -> None:
    assert listed(PAGE.read_text()) == loaded()


def test_the_sizes_add_up() -> None:
    text = PAGE.read_text()
    assert f"| together | {sum(listed(text).values())} | |" in section(text)


def test_a_file_that_is_missing_from_the_list_is_noticed() -> None:
    """Negative control."""
    without = re.sub(r"\n\| `launcher/jobs.py`[^\n]*", "", PAGE.read_text())
    assert set(loaded()) - set(listed(without)) == {"launcher/jobs.py"}
