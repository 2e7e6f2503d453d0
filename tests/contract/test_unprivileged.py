"""Functions that a root process runs in a child without root."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from timeouts import scaled

# This runs in a separate process, since the child of a process with threads may hang.
PROGRAM = """
import os, sys
from pathlib import Path
from quiltfn.launcher import unprivileged

def identity():
    status = Path("/proc/self/status").read_text()
    fields = dict(line.split(":\\t", 1) for line in status.splitlines() if ":\\t" in line)
    names = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    capabilities = [name for name in names if int(fields[name], 16)]
    return [os.getresuid(), os.getresgid(), os.getgroups(), capabilities, fields["NoNewPrivs"]]

def imported():
    sys.path.insert(0, sys.argv[2])
    import in_a_closed_directory
    return in_a_closed_directory.NAME

def fails():
    raise OSError("it is broken")

functions = {"identity": identity, "imported": imported, "fails": fails}
functions |= {"ends": lambda: sys.exit(3), "helps": lambda: sys.exit(0)}
try:
    program = [path for path in map(Path, [sys.argv[2], *sys.path]) if path.is_dir()]
    print(unprivileged.result_of(functions[sys.argv[1]], program))
except unprivileged.NoResult as end:
    print(end.code)
print(os.geteuid())
"""


def result_of(function: str, directory: Path) -> tuple[list[str], str]:
    """Run a function in another process; return its lines of output, and its errors."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, function, str(directory)],
        capture_output=True,
        text=True,
        check=True,
        timeout=scaled(30),
    )
    return done.stdout.splitlines(), done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_child_is_nobody_and_its_parent_stays_root(tmp_path: Path) -> None:
    nobody = (65534,) * 3
    assert result_of("identity", tmp_path) == (
        [f"[{[*nobody]}, {[*nobody]}, [], [], '1']", "0"],
        "",
    )


def test_the_child_imports_from_a_directory_that_is_closed_to_others(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    program = closed / "program"
    program.mkdir(parents=True)
    (program / "in_a_closed_directory.py").write_text("NAME = 'a name'\n")
    closed.chmod(0o700)
    assert result_of("imported", program)[0] == ["a name", str(os.geteuid())]


def test_a_child_without_a_result_ends_with_its_code(tmp_path: Path) -> None:
    assert result_of("ends", tmp_path)[0][0] == "3"
    assert result_of("helps", tmp_path)[0][0] == "0"
    lines, errors = result_of("fails", tmp_path)
    assert lines[0] == "70"
    assert "OSError: it is broken" in errors
