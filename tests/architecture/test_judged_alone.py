"""A test that fails while others run in parallel is repeated alone. These tests run scripts/test in
a small project.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
# A test that fails while others run in parallel, which scripts/test signals by this variable.
BESIDE = "import os\ndef test_{n}(): assert 'QUILTFN_TEST_BUSY_FACTOR' not in os.environ\n"
# A fixture that fails in parallel, so that five tests fail with it.
FIXTURE = """
import os, pytest
@pytest.fixture(scope="module")
def server(): assert "QUILTFN_TEST_BUSY_FACTOR" not in os.environ
@pytest.mark.parametrize("n", range(5))
def test_with(server, n): pass
"""
FINE = "def test_fine(): pass\n"
# A test that fails in parallel, then passes twice, then fails.
SELDOM = """
from pathlib import Path
def test_seldom():
    runs = Path("runs")
    with runs.open("a") as file:
        file.write("x")
    assert len(runs.read_text()) in (2, 3)
"""


def run(tmp_path: Path, test: str) -> subprocess.CompletedProcess[str]:
    """Run `scripts/test sandboxes` with `test` as tests/contract, and with a tests/sandbox that
    passes.
    """
    for folder in ("scripts", ".venv/bin", "tests/contract", "tests/sandbox"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(REPO / "scripts/test", tmp_path / "scripts/test")
    for name, script in (
        ("scripts/setup", "#!/bin/sh\n"),
        (".venv/bin/python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'),
    ):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "tests/contract/test_one.py").write_text(test)
    (tmp_path / "tests/sandbox/test_two.py").write_text(FINE)
    command = [str(tmp_path / "scripts/test"), "sandboxes"]
    environment = {"PATH": "/usr/bin:/bin", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_test_that_fails_only_beside_others_is_named_and_passes(tmp_path: Path) -> None:
    ran = run(tmp_path, BESIDE.format(n=1))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    named = "were run three times by themselves:\n  tests/contract/test_one.py::test_1\n"
    assert named in ran.stdout
    # `test_fine` passes in the parallel run, and the other test three times alone.
    assert ran.stdout.count("1 passed") == 4


def test_tests_whose_fixture_failed_count_as_one(tmp_path: Path) -> None:
    """One server that could not start must not cause a repetition for every test of its file."""
    ran = run(tmp_path, FIXTURE)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("5 passed") == 3


@pytest.mark.parametrize(
    "test",
    [
        pytest.param(SELDOM, id="one of three"),
        pytest.param("".join(BESIDE.format(n=n) for n in range(4)), id="too many"),
        pytest.param("import os\ndef test_ends(): os._exit(1)\n", id="a crash"),
    ],
)
def test_any_other_failure_fails_the_run(tmp_path: Path, test: str) -> None:
    ran = run(tmp_path, test)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr


def test_nothing_is_repeated_where_all_pass(tmp_path: Path) -> None:
    ran = run(tmp_path, FINE)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "by themselves" not in ran.stdout
