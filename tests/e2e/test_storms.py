"""Some seconds of most storms: nothing that was acknowledged is lost, and nothing runs twice.

`scripts/soak storms` plays each for ten minutes, and `power`, too.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from promises import promise
from timeouts import scaled

pytestmark = [pytest.mark.sandbox, promise("D27", "D31")]
TESTS = Path(__file__).parents[1]


def storm(kind: str, *more: str) -> subprocess.CompletedProcess[str]:
    # The storm gets its own mount namespace for its disks, so it needs a process of its own.
    command = [sys.executable, "-m", "e2e.storms", "--kind", kind, "--seconds", "5", *more]
    return subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=scaled(180),
        check=False,
    )


@pytest.mark.parametrize("kind", ["kill", "strict", "disk", "clock"])
def test_what_was_acknowledged_outlives_a_storm(kind: str) -> None:
    done = storm(kind)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost 0, changed 0, run twice 0, never final 0" in done.stdout
    assert "accepted and lost 0, changed 0, run twice 0, ended without a run 0" in done.stdout
    accepted = re.search(r" (\d+) accepted,", done.stdout)
    assert accepted is not None
    assert int(accepted[1]) > 0


def test_a_server_that_acknowledges_work_too_early_is_found_out() -> None:
    """Control: if storms and their checks missed this bug, they would prove nothing."""
    done = storm("kill", "--mistake", "early")
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"accepted and lost [1-9]", done.stdout), done.stdout + done.stderr
