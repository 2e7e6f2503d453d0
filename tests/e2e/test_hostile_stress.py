"""Runs every stressor of stress-ng as a handler: some 300 ways to keep a kernel busy, which we did
not choose.

Only `scripts/soak hostile` runs it, since it takes long; it installs stress-ng.
"""

import collections
import subprocess
from pathlib import Path

import pytest

from e2e.hostile_setup import Ground, answers_again
from e2e.server import IN_FULL

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(not IN_FULL, reason="takes ten minutes: run by scripts/soak hostile"),
]
STRESS_NG = Path("/usr/bin/stress-ng")
# Each stressor runs for a second; one that continues ends at its deadline.
STRESSED = (
    '[ "$QUILT_PAYLOAD" = quick ] && exec echo quick\n'
    'exec stress-ng --temp-path /tmp --timeout 1 --"$QUILT_PAYLOAD" 2 2>&1'
)
ENDS = {"success", "failed", "timeout", "oom"}


def test_every_stressor_harms_nobody(ground: Ground) -> None:
    """The oracle finds effects on the host, and the victim's invocations show effects on others."""
    named = subprocess.run(
        [STRESS_NG, "--stressors"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(named) > 200, named
    function = ground.server.deploy(STRESSED, timeout_seconds=5)
    ends: collections.Counter[str] = collections.Counter()
    worked = 0
    for stressor in named:
        record = function.invoke(stressor)
        assert record["status"] in ENDS, (stressor, record)
        ends[record["status"]] += 1
        worked += f"dispatching hogs: 2 {stressor}" in record["stdout"]
        answers_again(ground.server, function)
    function.delete()
    assert worked > 200, "most of them were started, and not skipped or refused by name"
    print(f"{len(named)} stressors, {worked} started: {dict(ends)}")
