"""docs/reference/root-code.md lists what of ours runs as root: every file, and how long it is."""

import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "quiltfn"
# What needs no root belongs into the server. Raise this for a protection, not for a convenience.
LINES_MAX = 5_900
# In a process of its own: this one has loaded the server, too.
LOADED = """
import sys
from quiltfn.operator import serve
for name, module in sys.modules.items():
    if name.split(".")[0] == "quiltfn":
        print(module.__file__)
"""


def loaded() -> dict[str, Path]:
    """What `quiltfn serve` loads, but for packages without code."""
    command = [sys.executable, "-I", "-c", LOADED]
    files = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    paths = {str(Path(file).relative_to(PACKAGE)): Path(file) for file in files}
    return {
        name: path
        for name, path in sorted(paths.items())
        if path.name != "__init__.py" or path.parent == PACKAGE
    }


def lines_of(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_code_that_runs_as_root_is_of_few_packages_and_bounded() -> None:
    others = {"__init__.py", "settings.py", "operator/serve.py", "base/immutable.py"}
    files = loaded()
    assert {name for name in files if not name.startswith("launcher/")} == others
    assert {str(path.relative_to(PACKAGE)) for path in (PACKAGE / "launcher").glob("*.py")} - set(
        files
    ) == {"launcher/__init__.py"}, "what the launcher doesn't load is no part of it"
    assert 4_000 < sum(map(lines_of, files.values())) <= LINES_MAX
