"""The gauge `quiltfn_store_ok` follows the state of the real store, whose database is locked."""

import asyncio
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import httpx

from contract.stores import BUSY_TIMEOUT_S, HELD_S, eventually
from promises import promise
from quiltfn.api.app import make_app
from quiltfn.model.errors import StoreUnavailable
from service.in_process import InProcess
from service.platform_harness import open_harness

pytestmark = promise("D30")


async def gauge(http: httpx.AsyncClient) -> float:
    text = (await http.get("/metrics")).text
    (line,) = [one for one in text.splitlines() if one.startswith("quiltfn_store_ok ")]
    return float(line.split()[1])


async def becomes(http: httpx.AsyncClient, value: float) -> None:
    async def is_so() -> bool:
        await asyncio.sleep(0.02)
        return await gauge(http) == value

    await eventually(is_so, within_s=10)


async def test_the_gauge_is_0_without_a_database_and_1_again_after_it(tmp_path: Path) -> None:
    async with open_harness(tmp_path) as harness:
        entry = await harness.active("echo hello")
        harness.store.database.busy_timeout_s = HELD_S
        app = InProcess(make_app(harness.services))
        database = sqlite3.connect(tmp_path / "quiltfn.db", isolation_level=None)
        async with httpx.AsyncClient(transport=app, base_url="http://127.0.0.1") as http:
            with closing(database):
                assert await gauge(http) == 1
                database.execute("BEGIN IMMEDIATE")
                # The invocation succeeds; its record waits in the spool.
                await harness.invoke(entry)
                await becomes(http, 0)
                database.execute("ROLLBACK")
                await becomes(http, 1)  # The next attempt to store the record sets the gauge.

                database.execute("BEGIN IMMEDIATE")
                with suppress(StoreUnavailable):
                    await harness.store.ping()
                # A server without invocations notices a locked database, too.
                assert await gauge(http) == 0
                database.execute("ROLLBACK")
                harness.store.database.busy_timeout_s = BUSY_TIMEOUT_S
                await harness.store.ping()
                assert await gauge(http) == 1
