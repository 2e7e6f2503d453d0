"""The verbs and the pools, harness together over a real store and journal and fake sandboxes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from quiltfn.access import ANYBODY
from quiltfn.catalog import Catalog, Entry
from quiltfn.holdings import Holdings
from quiltfn.images import ImageDirectory, ImageLimits
from quiltfn.invoke import Invoker, Request
from quiltfn.lifecycle import Lifecycle, NodeConfig
from quiltfn.model.access import Caller
from quiltfn.model.function import FunctionState, NewFunction
from quiltfn.model.invocation import Invocation
from quiltfn.model.limits import PoolLimits
from quiltfn.model.memory import Memory
from quiltfn.model.quota import UNBOUNDED
from quiltfn.model.runtime import SHELL
from quiltfn.model.version import HostLimits, VersionSpec
from quiltfn.pool.local import LocalPools
from quiltfn.ports import InvocationQuery
from quiltfn.runtimes import HostImage, Runtimes
from quiltfn.sandbox.fake import FakeSandboxes
from quiltfn.store import SpoolJournal, SqlHoldings, SqliteStore, SqlRuntimes

TENANT = "default"


class HandClock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.time = 1_760_000_000.0

    def now(self) -> float:
        return self.time

    def unix(self) -> float:
        return self.time

    def timestamp(self) -> float:
        return self.unix()

    trusted = timestamp


@dataclass
class Harness:
    """A running server without HTTP."""

    store: SqliteStore
    journal: SpoolJournal
    sandboxes: FakeSandboxes
    pools: LocalPools
    catalog: Catalog
    lifecycle: Lifecycle
    invoker: Invoker
    clock: HandClock
    tasks: list["asyncio.Future[Any]"] = field(default_factory=list)

    async def create(self, handler: str = "echo hello", name: str = "f", **more: Any) -> Entry:
        own = {key: more.pop(key) for key in list(more) if key in NewFunction.__struct_fields__}
        new = NewFunction(name=name, **own)
        return await self.lifecycle.create(TENANT, new, VersionSpec(handler=handler, **more))

    async def active(self, handler: str = "echo hello", name: str = "f", **more: Any) -> Entry:
        entry = await self.lifecycle.deploy(await self.create(handler, name, **more))
        assert entry.function.state is FunctionState.ACTIVE, entry.function.error_message
        return entry

    async def invoke(self, entry: Entry, **request: Any) -> Invocation:
        async with asyncio.timeout(10):  # a call that hangs is a failed test, not a hung one
            return await self.invoker.invoke(entry, Request(may_write=True, **request))

    async def running(self, entry: Entry, **request: Any) -> "asyncio.Future[Invocation]":
        """A call that is in its handler, or in line, when this returns."""
        call = asyncio.ensure_future(self.invoke(entry, **request))
        self.tasks.append(call)
        for _ in range(20):
            await asyncio.sleep(0)
        return call

    async def records(self, entry: Entry) -> list[Invocation]:
        await self.journal.synced()
        query = InvocationQuery(function_id=entry.function.id, limit=100)
        return list((await self.journal.query(query)).items)

    def counts(self, entry: Entry) -> dict[str, int]:
        """The states that are not empty."""
        counts = self.pools.counts(entry.function.id)
        names = ("warming", "ready", "busy", "recycling", "terminating")
        return {name: getattr(counts, name) for name in names if getattr(counts, name)}

    def pass_time(self, seconds: float) -> None:
        """What the reaper does once so much time has passed."""
        self.clock.time += seconds
        self.pools.tick()


@contextlib.asynccontextmanager
async def open_harness(
    path: Path,
    clock: HandClock | None = None,
    fakes: FakeSandboxes | None = None,
    memory: Memory | None = None,
    tenant_instances: float = UNBOUNDED,
    **sandboxes: float,
) -> AsyncIterator[Harness]:
    """Opened as main opens it, closed as main closes it; at the end no sandbox may be left."""
    clock = clock or HandClock()
    async with SqliteStore.open(path) as store:
        journal = SpoolJournal(store.database, path, clock)
        await journal.start()
        fake = fakes or FakeSandboxes(**sandboxes)
        pools = LocalPools(fake, clock, memory, tenant_instances=tenant_instances)
        catalog = Catalog()
        host = HostLimits(memory_max_mib=4096, cores=2)
        images = ImageDirectory(path / "images", clock, ImageLimits())
        images.start()
        own = HostImage(built_in={"shell": SHELL})
        holdings = Holdings(SqlHoldings(store.database), images, clock, 2**30)
        runtimes = Runtimes(own, SqlRuntimes(store.database), holdings, clock)
        node = NodeConfig(node_id="node-1", host=host, runtimes=runtimes, pools=PoolLimits())
        lifecycle = Lifecycle(catalog, store, pools, clock, node)
        await lifecycle.restore()
        harness = Harness(
            store=store,
            journal=journal,
            sandboxes=fake,
            pools=pools,
            catalog=catalog,
            lifecycle=lifecycle,
            invoker=Invoker(pools, journal, clock, "node-1"),
            clock=clock,
        )
        try:
            yield harness
        finally:
            fake.may_start.set()
            fake.may_end.set()
            async with asyncio.timeout(5):
                await pools.aclose()
                await asyncio.gather(*harness.tasks, return_exceptions=True)
            await journal.aclose()
    assert fake.alive == {}, "sandboxes are left"
    for pool in pools._pools.values():
        pool.model.check()
        assert not pool._waiters, "a caller was forgotten"


async def until(true: Callable[[], object], turns: int = 2000) -> None:
    """Lets everything that can happen happen until it is so, or it never will be."""
    for turn in range(turns):
        if true():
            return
        await asyncio.sleep(0 if turn < turns // 2 else 0.001)
    raise AssertionError("it did not come about")


def open_access() -> Any:
    """`access.Access` of a server that nobody needs a key for, without a store."""

    async def identify(*_arguments: object) -> Caller:
        return ANYBODY

    return SimpleNamespace(is_open=True, is_outdated=False, identify=identify)
