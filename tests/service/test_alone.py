"""A server that is no node of a fleet has nothing of one in its memory."""

import subprocess
import sys
from pathlib import Path

import pytest

from timeouts import scaled

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import asyncio, sys
from pathlib import Path
import quiltfn.main
from quiltfn.inherited import node_file
from service.platform_harness import open_harness

async def serve():
    assert node_file(FILE) is None
    async with open_harness(Path(sys.argv[1])) as one:
        record = await one.invoke(await one.active())
        assert record.status == "success", record

EXTRA
asyncio.run(serve())
print(*sorted(name for name in sys.modules if name.startswith("quiltfn.")))
"""


@pytest.mark.parametrize("extra", ["", "import quiltfn.fleet.files"])
def test_nothing_of_a_fleet_is_imported_without_the_setting(tmp_path: Path, extra: str) -> None:
    script = SCRIPT.replace("EXTRA", extra).replace("FILE", "None")
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env={"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=scaled(60),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [name for name in done.stdout.split() if name.startswith("quiltfn.fleet")]
    assert "quiltfn.platform" in done.stdout
    assert bool(found) is bool(extra), "the second case is the negative control"
