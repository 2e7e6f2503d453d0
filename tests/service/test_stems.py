"""The stock of stem cells over a source without processes: what is made when, and used once."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from quiltfn.model.memory import Memory
from quiltfn.model.runtime import IDLE_MIB, Kind, Runtime
from quiltfn.model.version import VersionSpec
from quiltfn.ports import SandboxFailed
from quiltfn.sandbox import stems
from quiltfn.sandbox.client import LauncherSandboxes, Mould, Size
from quiltfn.sandbox.stems import StemSandboxes
from service.platform_harness import HandClock

PYTHON = Runtime(id="p", name="p", kind=Kind.PYTHON)


class Cell:
    """A sandbox that only remembers what was done to it."""

    def __init__(self, number: int, mould: Mould, size: Size) -> None:
        self.id, self.mould, self.size = str(number), mould, size
        self.is_alive, self.prepared, self.limited = True, False, False
        self.on_lost: Callable[[], None] = lambda: None

    def prepare(self, _kind: Kind) -> None:
        self.prepared = True

    async def limit(self, spec: VersionSpec) -> None:
        if spec.memory_limit_mb == 999:
            raise SandboxFailed("its limits cannot be set")
        self.limited = True

    def watch(self, _on_clean: Callable[[], None], on_lost: Callable[[], None]) -> None:
        self.on_lost = on_lost

    async def destroy(self) -> None:
        self.is_alive = False


class Source:
    """Makes cells; `may` lets a test hold it up."""

    def __init__(self) -> None:
        self.made: list[Cell] = []
        self.may = asyncio.Event()
        self.may.set()
        self.error: Exception | None = None

    async def make(self, mould: Mould, size: Size) -> Cell:
        await self.may.wait()
        if self.error is not None:
            raise self.error
        self.made.append(Cell(len(self.made), mould, size))
        return self.made[-1]


class MovingClock(HandClock):
    """Moves by itself a little with every look, so that it is soon calm."""

    def now(self) -> float:
        self.time += 0.001
        return self.time


@pytest.fixture
async def made() -> AsyncIterator[Callable[..., tuple[StemSandboxes, Source, MovingClock]]]:
    stocks: list[StemSandboxes] = []

    def make(count: int = 3, memory: Memory | None = None) -> tuple[Any, Source, MovingClock]:
        source, clock, memory = Source(), MovingClock(), memory or Memory()
        stock = StemSandboxes(cast("LauncherSandboxes", source), clock, count, memory)
        stock.start()
        stocks.append(stock)
        return stock, source, clock

    yield make
    for stock in stocks:
        await stock.aclose()


async def settles(stock: StemSandboxes, count: int) -> None:
    for _ in range(1000):
        if stock.count() == count:
            break
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)
    assert stock.count() == count


async def test_what_was_wanted_is_in_stock_from_then_on(made: Any) -> None:
    stock, source, _ = made(3)
    first = await stock.create(VersionSpec(handler="x"))
    assert first is source.made[0]
    assert not source.made[0].prepared
    await settles(stock, 3)
    assert all(cell.prepared for cell in source.made[1:])


async def test_one_is_handed_out_once(made: Any) -> None:
    stock, _source, _ = made(3)
    handed = []
    for _ in range(20):
        handed.append(await stock.create(VersionSpec(handler="x")))
        await asyncio.sleep(0.01)
    assert len({one.id for one in handed}) == 20
    await settles(stock, stock.count())
    assert not [cell for cell in stock._shelves.popitem()[1].ready if cell in handed]


async def test_nothing_is_made_while_somebody_asks(made: Any) -> None:
    stock, source, clock = made(3)
    clock.now = lambda: 5.0  # never calm
    await stock.create(VersionSpec(handler="x"))
    await asyncio.sleep(0.1)
    assert stock.count() == 0
    assert len(source.made) == 1


async def test_other_moulds_have_other_cells(made: Any) -> None:
    stock, _source, _ = made(2)
    await stock.create(VersionSpec(handler="x"))
    await stock.create(VersionSpec(handler="x", runtime_snapshot=PYTHON))
    await settles(stock, 4)
    handed = await stock.create(VersionSpec(handler="x", runtime_snapshot=PYTHON))
    assert handed.mould.kind is Kind.PYTHON
    assert handed.prepared


async def test_limits_are_set_where_they_are_others(made: Any) -> None:
    stock, _source, _ = made(2)
    stock.expect(VersionSpec(handler="x"))
    await settles(stock, 2)
    assert not (await stock.create(VersionSpec(handler="x"))).limited
    await settles(stock, 2)
    assert (await stock.create(VersionSpec(handler="x", memory_limit_mb=512))).limited


async def test_one_whose_limits_cannot_be_set_is_ended_and_another_is_made(made: Any) -> None:
    stock, source, _ = made(1)
    stock.expect(VersionSpec(handler="x"))
    await settles(stock, 1)
    handed = await stock.create(VersionSpec(handler="x", memory_limit_mb=999))
    assert not source.made[0].is_alive
    assert handed.size == Size(999, 100.0)


async def test_one_that_died_is_replaced(made: Any) -> None:
    stock, source, _ = made(2)
    stock.expect(VersionSpec(handler="x"))
    await settles(stock, 2)
    source.made[0].is_alive = False
    source.made[0].on_lost()
    await settles(stock, 2)
    assert (await stock.create(VersionSpec(handler="x"))).is_alive


async def test_more_are_kept_of_what_was_wanted_more_often_at_once(made: Any) -> None:
    stock, _, _ = made(2)
    await asyncio.gather(*(stock.create(VersionSpec(handler="x")) for _ in range(7)))
    await settles(stock, 7)


async def test_memory_bounds_the_stock(made: Any) -> None:
    memory = Memory(budget_mib=2 * IDLE_MIB[Kind.PYTHON] / stems.STOCK_SHARE)
    stock, _, _ = made(4, memory)
    stock.expect(VersionSpec(handler="x", runtime_snapshot=PYTHON))
    await settles(stock, 2)
    assert memory.stock_mib == memory.held_mib == 2 * IDLE_MIB[Kind.PYTHON]


async def test_moulds_of_tenants_leave_room_on_the_machine(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stems, "MOST_OF_TENANTS", 5)
    stock, source, _ = made(2)
    for number in range(10):
        own = Runtime(id="r", name="r", kind=Kind.SHELL, writable_paths=(f"/data{number}",))
        stock.expect(VersionSpec(handler="x", runtime_snapshot=own))
    await settles(stock, 5)
    stock.expect(VersionSpec(handler="x"))
    await settles(stock, 7)
    assert sum(cell.mould.is_plain for cell in source.made) == 2


async def test_cells_are_given_up_for_calls_and_none_is_made_for_a_while(made: Any) -> None:
    memory, freed = Memory(), asyncio.Event()
    stock, source, clock = made(3, memory)
    stock.expect(VersionSpec(handler="x", runtime_snapshot=PYTHON))
    await settles(stock, 3)
    stock.give_up(IDLE_MIB[Kind.PYTHON] + 1, freed.set)
    assert (stock.count(), memory.stock_mib) == (1, IDLE_MIB[Kind.PYTHON])
    assert memory.leaving_mib == 2 * IDLE_MIB[Kind.PYTHON]  # until they are gone
    assert memory.held_mib == 3 * IDLE_MIB[Kind.PYTHON]
    await freed.wait()
    assert (memory.leaving_mib, memory.held_mib) == (0, IDLE_MIB[Kind.PYTHON])
    assert len([cell for cell in source.made if cell.is_alive]) == 1
    stock.expect(VersionSpec(handler="x", runtime_snapshot=PYTHON))
    await settles(stock, 1)
    clock.time += stems.BARRED_S
    stock.expect(VersionSpec(handler="x", runtime_snapshot=PYTHON))
    await settles(stock, 3)


async def test_none_is_made_while_a_call_waits_for_memory(made: Any) -> None:
    memory = Memory()
    memory.waiting["somebody"] = 0.0
    stock, source, _ = made(3, memory)
    stock.expect(VersionSpec(handler="x"))
    await asyncio.sleep(0.1)
    assert source.made == []


async def test_what_nobody_wants_any_more_goes(made: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(stems, "FORGOTTEN_AFTER_S", 0.2)
    stock, source, clock = made(2)
    stock.expect(VersionSpec(handler="x"))
    await settles(stock, 2)
    clock.time += 10
    await settles(stock, 0)
    assert not [cell for cell in source.made if cell.is_alive]
    assert stock.images() == frozenset()


async def test_a_machine_without_room_does_not_disturb_who_asks(
    made: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(stems, "RETRY_S", 0.01)
    stock, source, _ = made(1)
    source.error = SandboxFailed("no room")
    with pytest.raises(SandboxFailed):
        await stock.create(VersionSpec(handler="x"))
    await asyncio.sleep(0.1)
    assert stock.images() == frozenset()
    source.error = None
    await asyncio.sleep(0.1)
    assert stock.count() == 0  # its image may be gone: not tried again by itself
    await stock.create(VersionSpec(handler="x"))
    await settles(stock, stock._target(next(iter(stock._shelves.values()))))
    assert stock.count()


@pytest.mark.parametrize("error", [SandboxFailed("no room"), OSError(24, "no descriptor")])
async def test_what_could_not_be_made_is_tried_again_later(
    made: Any, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stems, "RETRY_S", 0.01)
    stock, source, _ = made(2)
    source.error = error
    stock.expect(VersionSpec(handler="x"))
    await asyncio.sleep(0.1)
    assert stock.count() == 0
    source.error = None
    await settles(stock, 2)
    assert stock.count() == 2


async def test_none_are_kept_where_none_are_wanted(made: Any) -> None:
    stock, source, _ = made(0)
    await stock.create(VersionSpec(handler="x"))
    await asyncio.sleep(0.1)
    assert stock.count() == 0
    assert len(source.made) == 1


async def test_closing_ends_every_one(made: Any) -> None:
    stock, source, _ = made(3)
    stock.expect(VersionSpec(handler="x"))
    await settles(stock, 3)
    await stock.aclose()
    assert not [cell for cell in source.made if cell.is_alive]
