"""A server that is no node of a fleet has nothing of one in its memory."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from quiltfn.model.pool import Pool
from quiltfn.pool.function_pool import FunctionPool
from service.platform_harness import open_harness
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


async def test_a_server_alone_asks_for_no_slots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cold, warm, scaled and full: no pool of it is bounded, and nobody computes what it wants."""

    def forbidden(*_: object) -> None:
        raise AssertionError("a server alone has no use for it")

    for what in ("wanted", "allow", "evict_idle"):
        monkeypatch.setattr(FunctionPool, what, forbidden)
    monkeypatch.setattr(Pool, "lacking", forbidden)
    async with open_harness(tmp_path) as one:
        entry = await one.active(max_instances=1)
        pool = one.pools._pools[entry.function.id]
        for _ in range(3):
            assert (await one.invoke(entry)).status == "success"
        await asyncio.gather(one.invoke(entry), one.invoke(entry))
        await one.lifecycle.set_scaling(entry, 0, 3)
        assert pool.allowance is None
        assert pool.model.limits is pool.limits
        assert one.sandboxes.deadline is None
