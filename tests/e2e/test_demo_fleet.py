"""`scripts/demo-fleet`: a fleet on one machine, one node of which is killed."""

import subprocess
from pathlib import Path

import pytest

from timeouts import scaled

pytestmark = pytest.mark.sandbox
ROOT = Path(__file__).resolve().parents[2]


def namespaces() -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if "quiltfn-demo" in line]


def processes() -> list[str]:
    """Processes whose command line names a directory of the demo."""
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return [line for line in found.stdout.splitlines() if "quiltfn-demo-fleet-" in line]


def test_the_demo_of_a_fleet_holds_and_leaves_nothing() -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "demo-fleet"],
        capture_output=True,
        text=True,
        check=False,
        timeout=scaled(300),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all as promised" in done.stdout
    assert "'success': 40" in done.stdout
    assert namespaces() == []
    assert processes() == []
    assert not list(Path("/tmp").glob("quiltfn-demo-fleet-*"))
