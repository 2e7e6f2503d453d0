"""A standalone server loads and runs nothing that only a fleet needs."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import postgresql
from contract.stores import on_postgresql
from promises import promise
from quiltfn.model.errors import OutcomeUnknown
from quiltfn.model.invocation import Status
from quiltfn.model.pool import Pool
from quiltfn.pool.function_pool import FunctionPool
from service.platform_harness import FACTS, TENANT, open_harness, until
from timeouts import scaled

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import asyncio, sys
from pathlib import Path
import quiltfn.server.main
from quiltfn.server.launch_context import node_file
from service.platform_harness import open_harness

async def serve():
    assert node_file(FILE) is None
    async with open_harness(Path(sys.argv[1])) as one:
        record = await one.invoke(await one.active())
        assert record.status == "success", record
        assert one.services.admission._asked is None
        assert not one.lifecycle.others.are_possible

EXTRA
asyncio.run(serve())
print(*sorted(name for name in sys.modules if name.startswith("quiltfn.")))
"""


@promise("N1", "N24")
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
    assert "quiltfn.server.platform" in done.stdout
    assert bool(found) is bool(extra), "the second case is the negative control"


@promise("N15")
async def test_alone_it_asks_for_no_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool of a standalone server has no allowance and computes no demand, whether its instances
    are cold, warm, scaled or all busy.
    """

    def forbidden(*_: object) -> None:
        raise AssertionError("a server alone has no use for it")

    for method in ("wanted", "allow", "evict_idle"):
        monkeypatch.setattr(FunctionPool, method, forbidden)
    monkeypatch.setattr(Pool, "lacking", forbidden)
    async with open_harness(tmp_path) as harness:
        entry = await harness.active(max_instances=1)
        pool = harness.pools._pools[entry.function.id]
        for _ in range(3):
            assert (await harness.invoke(entry)).status == "success"
        await asyncio.gather(harness.invoke(entry), harness.invoke(entry))
        await harness.lifecycle.set_scaling(entry, 0, 3)
        assert pool.allowance is None
        assert pool.model.limits is pool.limits
        assert harness.sandboxes.deadline is None


@pytest.fixture
def of_database(tmp_path: Path) -> Iterator[Path]:
    """A data directory with a database in PostgreSQL, which is dropped at the end."""
    yield tmp_path
    postgresql.drop_databases()


@promise("N90")
async def test_it_hears_of_its_own_change_that_was_stored_silently(of_database: Path) -> None:
    """PostgreSQL seems to stop during a commit and to stay unavailable, so the server gets no
    notice of its own change.
    """
    store = on_postgresql(of_database, node_id=FACTS.node_id)
    async with open_harness(of_database, node=(FACTS.node_id, store)) as server:
        database: Any = server.store.database
        perform = database._perform

        def unknown(*given: Any) -> None:
            perform(*given)
            raise OutcomeUnknown

        database._perform = unknown
        with pytest.raises(OutcomeUnknown):
            await server.create()
        database._perform = perform
        await until(lambda: server.catalog.find(TENANT, "f"))
        entry = await server.lifecycle.deploy(server.catalog.by_name(TENANT, "f"))
        assert (await server.invoke(entry)).status is Status.SUCCESS
        database._perform = unknown
        with pytest.raises(OutcomeUnknown):
            await server.lifecycle.delete(entry)
        database._perform = perform
        await until(lambda: server.catalog.find(TENANT, "f") is None)
