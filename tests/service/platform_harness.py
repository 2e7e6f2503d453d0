"""The assembled platform on fake sandboxes, with the test's own directory and clock."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from msgspec.structs import replace

from manual_clock import ManualClock
from quiltfn.base.signal import Signal
from quiltfn.calls.invoke import Request
from quiltfn.functions.catalog import Entry
from quiltfn.host.health import HostFacts
from quiltfn.model.access import Caller
from quiltfn.model.errors import NotFound
from quiltfn.model.function import FunctionState, NewFunction
from quiltfn.model.invocation import CallResult, ExitKind, Invocation
from quiltfn.model.memory import Memory
from quiltfn.model.version import VersionSpec
from quiltfn.ports import InvocationQuery
from quiltfn.sandbox.fake import FakeSandboxes
from quiltfn.server.ground import Node
from quiltfn.server.platform import Platform, open_platform
from quiltfn.settings import Settings
from quiltfn.store import SqlStore, open_sqlite
from quiltfn.tenants.access import ANYBODY
from sqlite_template import with_schema
from timeouts import scaled

TENANT = "default"
T = TypeVar("T")


FACTS = HostFacts(
    node_id="node-1",
    cgroup_mode="none",
    oci_runtime="none",
    protections={},
    transport="loopback",
    memory_max_mib=65_536,
    cores=2,
    interpreters={},
    packages="",
)


@dataclass
class Harness:
    """A platform on fake sandboxes, with helpers for tests."""

    platform: Platform
    sandboxes: FakeSandboxes
    clock: ManualClock
    tasks: list["asyncio.Future[Any]"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.services, self.store = self.platform.services, self.platform.store
        self.journal, self.pools = self.services.journal, self.platform.pools
        self.catalog, self.lifecycle = self.services.catalog, self.services.lifecycle
        self.invoker = self.services.invoker
        self.work, self.dispatcher = self.services.work, self.platform.dispatcher

    async def create(self, handler: str = "echo hello", name: str = "f", **more: Any) -> Entry:
        own = {key: more.pop(key) for key in list(more) if key in NewFunction.__struct_fields__}
        new = NewFunction(name=name, **own)
        return await self.lifecycle.create(TENANT, new, VersionSpec(handler=handler, **more))

    async def active(self, handler: str = "echo hello", name: str = "f", **more: Any) -> Entry:
        entry = await self.lifecycle.deploy(await self.create(handler, name, **more))
        assert entry.function.state is FunctionState.ACTIVE, entry.function.error_message
        return entry

    def now(self, entry: Entry) -> Entry:
        """The function's present entry; each change creates a new one."""
        return self.catalog.by_id(TENANT, entry.function.id)

    async def invoke(self, entry: Entry, **request: Any) -> Invocation:
        with contextlib.suppress(NotFound):
            entry = self.catalog.get(entry.function.id)
        async with asyncio.timeout(
            scaled(10)
        ):  # a hanging invocation then fails the test instead of blocking it
            return await self.invoker.invoke(entry, Request(may_write=True, **request))

    async def running(self, entry: Entry, **request: Any) -> "asyncio.Future[Invocation]":
        """Starts an invocation, and returns once it has reached its handler or its wait queue."""
        call = self.background(self.invoke(entry, **request))
        for _ in range(20):
            await asyncio.sleep(0)
        return call

    def background(self, work: Coroutine[Any, Any, T]) -> "asyncio.Future[T]":
        """Runs work in the background; it ends with the harness at the latest."""
        task = asyncio.ensure_future(work)
        self.tasks.append(task)
        return task

    async def records(self, entry: Entry) -> list[Invocation]:
        await self.journal.synced()
        query = InvocationQuery(function_id=entry.function.id, limit=100)
        return list((await self.journal.query(query)).items)

    async def final(self, entry: Entry, invocation_id: str) -> Invocation:
        """The record of an asynchronous invocation, once it has ended."""
        await self.work.wait(entry, invocation_id, 10)
        return await self.work.record(entry, invocation_id)

    def counts(self, entry: Entry) -> dict[str, int]:
        """The number of the function's instances in each state, without zeros."""
        counts = self.pools.counts(entry.function.id)
        names = ("warming", "ready", "busy", "recycling", "terminating")
        return {name: getattr(counts, name) for name in names if getattr(counts, name)}

    def pass_time(self, seconds: float) -> None:
        """Advances the clock, and runs the timers of the pools and the dispatcher."""
        self.clock.time += seconds
        self.pools.tick()
        self.dispatcher.tick()


@contextlib.asynccontextmanager
async def open_harness(
    path: Path,
    clock: ManualClock | None = None,
    fakes: FakeSandboxes | None = None,
    memory_mib: int = FACTS.memory_max_mib,
    settings: Mapping[str, Any] | None = None,
    node: tuple[str, AbstractAsyncContextManager[SqlStore]] | None = None,
    **sandboxes: float,
) -> AsyncIterator[Harness]:
    """A server's platform in the data directory `path`. At the end, checks that no sandbox is left.

    `settings`: the settings that differ from the defaults. `node`: the name of the node and its
    store; None: a store on SQLite in this directory. `sandboxes`: arguments of `FakeSandboxes`.
    """
    if node is None:
        node = FACTS.node_id, open_sqlite(with_schema(path), node_id=FACTS.node_id)
    name, store = node
    fake = fakes or FakeSandboxes(**sandboxes)
    fake.slower = scaled(1)
    clock = clock or ManualClock()

    @contextlib.asynccontextmanager
    async def opened(_memory: Memory) -> AsyncIterator[FakeSandboxes]:
        yield fake

    async with open_platform(
        Settings(data_dir=path, **(settings or {})),
        opened,
        store,
        clock,
        Node(machine=replace(FACTS, memory_max_mib=memory_mib, node_id=name)),
    ) as platform:
        harness = Harness(platform, fake, clock)
        try:
            yield harness
        finally:
            fake.may_start.set()
            fake.may_end.set()
            async with asyncio.timeout(scaled(5)):
                await harness.pools.aclose()
                await asyncio.gather(*harness.tasks, return_exceptions=True)
    assert fake.alive == {}, "sandboxes are left"
    for function_id, pool in harness.pools._pools.items():
        pool.model.check()
        assert pool.model.is_at_rest or function_id in harness.pools._active
        assert not pool._waiters, "a caller was forgotten"


def names_of(signal: Signal[Any]) -> list[str]:
    """The names of a signal's listeners, in their order."""
    found = []
    for hearer in signal.hearers:
        hear = getattr(hearer, "func", hearer)  # a `functools.partial` has the listener as `func`
        owner = f"{type(hear.__self__).__name__}." if hasattr(hear, "__self__") else ""
        found.append(owner + hear.__name__)
    return found


async def until(true: Callable[[], object], within_s: float = 20.0) -> None:
    """Lets the event loop run until the condition holds, or raises `AssertionError` after a while.
    A busy disk may delay the condition for seconds.
    """
    end, turn = time.monotonic() + scaled(within_s), 0
    while not true():
        if time.monotonic() > end:
            raise AssertionError("it did not come about")
        await asyncio.sleep(0 if turn < 30 else 0.0005)
        turn += 1


async def end_one(server: Harness) -> None:
    """Ends the only running invocation, and waits until its instance is clean."""
    await until(lambda: [one for one in server.sandboxes.alive.values() if one._end])
    (sandbox,) = [one for one in server.sandboxes.alive.values() if one._end]
    assert sandbox._finish(CallResult(kind=ExitKind.EXITED))
    await asyncio.sleep(0)
    sandbox._cleaned()
    for _ in range(10):
        await asyncio.sleep(0)


def open_access() -> Any:
    """A substitute for `access.Access`: a server without keys and without a store."""

    async def identify(*_arguments: object) -> Caller:
        return ANYBODY

    return SimpleNamespace(
        is_open=True, is_outdated=False, identify=identify, still_holds=lambda _caller: True
    )
