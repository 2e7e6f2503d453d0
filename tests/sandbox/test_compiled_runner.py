"""The Python runner is started from its compiled form or, if that fails, from its source."""

import subprocess
import sys
from importlib.util import cache_from_source
from pathlib import Path

import pytest

from quiltfn.launcher import host_image
from timeouts import scaled

SOURCE = Path(host_image.__file__).parents[1] / "guest/runners"


@pytest.fixture
def runners(tmp_path: Path) -> Path:
    """Copies and compiles the runners, and then replaces the source of one, so that the two forms
    differ.
    """
    target = tmp_path / "runners"
    host_image.copy_runners(SOURCE, target)
    (target / "python.py").write_text("import os\nos.write(1, b'from the source')\n")
    return target


def started(runners: Path) -> str:
    """The output of the started runner. A runner without a control socket prints nothing."""
    command = [sys.executable, "-s", str(runners / "start_python.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=scaled(30))
    return done.stdout + done.stderr


def test_it_is_not_compiled_again(runners: Path) -> None:
    assert "from the source" not in started(runners)


def test_a_compiled_form_of_another_python_is_passed_over(runners: Path) -> None:
    compiled = Path(cache_from_source(str(runners / "python.py")))
    compiled.write_bytes(b"\0\0" + compiled.read_bytes()[2:])
    assert started(runners) == "from the source"
