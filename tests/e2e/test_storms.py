"""Some seconds of each storm: nothing acknowledged is lost, nothing runs twice.

`scripts/soak storms` plays them for ten minutes each.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from timeouts import scaled

pytestmark = pytest.mark.sandbox
TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("kind", ["kill", "strict", "disk", "clock"])
def test_what_was_acknowledged_outlives_a_storm(kind: str) -> None:
    # A process of its own, since it takes a mount namespace of its own for its disks.
    command = [sys.executable, "-m", "e2e.storms", "--kind", kind, "--seconds", "5"]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=scaled(120),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost 0, changed 0, run twice 0, never final 0" in done.stdout
