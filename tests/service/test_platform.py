"""The composition root opens parts in the order in which they need each other, and closes them in
reverse, whichever part fails to open.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from manual_clock import ManualClock
from quiltfn.api.http.idempotency import Idempotency
from quiltfn.functions.elasticity import Elasticity
from quiltfn.functions.lifecycle import Lifecycle
from quiltfn.functions.runtimes import Runtimes
from quiltfn.functions.tenant_images import TenantImages
from quiltfn.model.memory import Memory
from quiltfn.pool.local import LocalPools
from quiltfn.sandbox.fake import FakeSandboxes
from quiltfn.server.ground import CannotServe, Node
from quiltfn.server.platform import Platform, open_platform
from quiltfn.settings import Settings
from quiltfn.store import SpoolJournal, SqlIdempotencyStore, SqlStore, open_sqlite
from quiltfn.tenants.access import Access
from service.platform_harness import FACTS, names_of
from sqlite_template import with_schema

OPENED = ["store", "journal", "sandboxes"]
CLOSED = ["background", "pools", "sandboxes", "idempotency", "journal", "store"]


class Broken(Exception):
    """The error that a step of a start raises in these tests."""


class Recorder:
    """Opens platforms in one directory. `opened`, `closed`: the names of parts, in order."""

    def __init__(self, path: Path) -> None:
        self.path, self.opened, self.closed = path, list[str](), list[str]()
        self.host = "127.0.0.1"
        self.has_sandboxes = True

    @contextlib.asynccontextmanager
    async def store(self) -> AsyncIterator[SqlStore]:
        async with open_sqlite(with_schema(self.path), node_id=FACTS.node_id) as store:
            self.opened.append("store")
            try:
                yield store
            finally:
                await store.ping()  # parts that are closed earlier may still write
                self.closed.append("store")

    @contextlib.asynccontextmanager
    async def sandboxes(self, _memory: Memory) -> AsyncIterator[FakeSandboxes]:
        if not self.has_sandboxes:
            raise Broken
        self.opened.append("sandboxes")
        try:
            yield FakeSandboxes()
        finally:
            self.closed.append("sandboxes")

    def platform(self) -> contextlib.AbstractAsyncContextManager[Platform]:
        settings = Settings(data_dir=self.path, host=self.host)
        node = Node(machine=FACTS)
        return open_platform(settings, self.sandboxes, self.store(), ManualClock(), node)


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder(tmp_path)

    def record(part: type, method: str, name: str, names: list[str]) -> None:
        original: Callable[..., Any] = getattr(part, method)

        async def recorded(self: Any) -> None:
            await original(self)
            names.append(name)

        monkeypatch.setattr(part, method, recorded)

    record(SpoolJournal, "start", "journal", recorder.opened)
    record(SpoolJournal, "aclose", "journal", recorder.closed)
    record(Idempotency, "aclose", "idempotency", recorder.closed)
    record(LocalPools, "aclose", "pools", recorder.closed)

    async def keep_fresh(_: Access) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            recorder.closed.append("background")

    monkeypatch.setattr(Access, "keep_fresh", keep_fresh)
    return recorder


@pytest.mark.parametrize("fails", [False, True])
async def test_parts_open_in_order_of_need_and_close_backwards(
    recorder: Recorder, fails: bool
) -> None:
    """This also holds if the block fails; no task survives the platform."""
    before = asyncio.all_tasks()
    with pytest.raises(Broken) if fails else contextlib.nullcontext():
        async with recorder.platform():
            await asyncio.sleep(0)
            assert recorder.opened == OPENED
            assert recorder.closed == []
            assert asyncio.all_tasks() > before
            if fails:
                raise Broken
    assert recorder.closed == CLOSED
    assert asyncio.all_tasks() == before


# The step of the start that fails, and the parts that are closed after it.
HALF_WAY = [
    (SpoolJournal, "start", ["store"]),
    (SqlIdempotencyStore, "start", ["journal", "store"]),
    (Access, "refresh", ["idempotency", "journal", "store"]),
    (TenantImages, "restore", CLOSED[1:]),
    (Runtimes, "restore", CLOSED[1:]),
    (Lifecycle, "restore", CLOSED[1:]),
    (Elasticity, "restore", CLOSED[1:]),
]


@pytest.mark.parametrize(
    ("part", "step", "closed"), HALF_WAY, ids=lambda step: getattr(step, "__name__", None)
)
async def test_a_start_that_fails_half_way_closes_what_was_open(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, part: type, step: str, closed: list[str]
) -> None:
    async def fails(*_: object, **__: object) -> None:
        raise Broken

    before = asyncio.all_tasks()
    with monkeypatch.context() as patch:
        patch.setattr(part, step, fails)
        with pytest.raises(Broken):
            await recorder.platform().__aenter__()
    assert recorder.closed == closed
    assert asyncio.all_tasks() == before
    async with recorder.platform():  # nothing that the failed start left prevents the next one
        pass


async def test_sandboxes_that_cannot_be_opened_close_what_was_open(recorder: Recorder) -> None:
    recorder.has_sandboxes = False
    with pytest.raises(Broken):
        await recorder.platform().__aenter__()
    assert recorder.closed == ["idempotency", "journal", "store"]


async def test_an_address_for_strangers_is_refused_before_sandboxes(recorder: Recorder) -> None:
    recorder.host = "192.0.2.1"
    with pytest.raises(CannotServe, match="not a loopback address"):
        await recorder.platform().__aenter__()
    assert "sandboxes" not in recorder.opened
    assert recorder.closed == ["idempotency", "journal", "store"]


async def test_a_start_that_is_cancelled_closes_what_was_open(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start is cancelled by SIGTERM while it restores functions."""
    restoring = asyncio.Event()

    async def forever(_: Lifecycle) -> None:
        restoring.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Lifecycle, "restore", forever)
    start = asyncio.ensure_future(recorder.platform().__aenter__())
    await restoring.wait()
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert recorder.closed == CLOSED[1:]


# The listeners of each signal on a standalone server, in their order.
HEARERS = {
    "invoker.on_opened": ["Events.call_started"],
    # The end of an invocation may free an instance; then requests that wait for this end continue;
    # then its schedule may start the next run. What others are told of the end comes last.
    "invoker.on_closed": [
        "Dispatcher.call_ended",
        "Waiters.call_ended",
        "Schedules.call_ended",
        "Deliveries.call_ended",
        "Events.call_ended",
        "Canaries.call_ended",
    ],
    "catalog.on_change": [
        "Dispatcher.function_changed",
        "Policies.function_changed",
        "Aliases.function_changed",
        "Events.function_changed",
        "Urls.function_changed",
    ],
    "pools.on_change": ["Events.pool_changed"],
    "aliases.on_change": ["Canaries.alias_changed"],
    "aliases.on_rolled_back": ["Events.alias_rolled_back"],
    "schedules.on_fired": ["Events.schedule_fired"],
    "journal.on_counted": ["Quotas.counted"],
    "admission.on_unknown_use": ["Quotas.count_soon"],
    "quotas.disabled.on_change": [
        "Quotas.tenant_changed",
        "Deliveries.tenant_changed",
        "end_or_reopen",
    ],
}


async def test_each_part_hears_of_others_in_one_order(recorder: Recorder) -> None:
    async with recorder.platform() as platform:
        assert names_of(platform.dispatcher.on_arrived) == ["Events.queue_changed"]
        for name, expected in HEARERS.items():
            signal = attrgetter(name)(platform.services)
            assert names_of(signal) == expected, name
        with pytest.raises(AssertionError, match="connected already"):
            platform.services.catalog.on_change.connect(lambda *_: None)
