"""Prewarmed sandboxes from a fake source: when they are created, and that each is used once."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from manual_clock import ManualClock
from promises import promise
from quiltfn.model.memory import Memory
from quiltfn.model.runtime import IDLE_MIB, Kind, Runtime
from quiltfn.model.version import VersionSpec
from quiltfn.ports import SandboxFailed
from quiltfn.sandbox import prewarmed as module
from quiltfn.sandbox.client import LauncherSandboxes, Limits, SandboxTemplate
from quiltfn.sandbox.prewarmed import PrewarmedSandboxes

pytestmark = promise("R16")

PYTHON = Runtime(id="p", name="p", kind=Kind.PYTHON)


class FakeSandbox:
    """A sandbox that only records what was done to it."""

    def __init__(self, number: int, template: SandboxTemplate, limits: Limits) -> None:
        self.id, self.template, self.limits = str(number), template, limits
        self.is_alive, self.prepared, self.limited = True, False, False
        self.on_lost: Callable[[], None] = lambda: None

    def prepare(self, _kind: Kind, _interpreter: str) -> None:
        self.prepared = True

    async def limit(self, spec: VersionSpec) -> None:
        if spec.memory_limit_mb == 999:
            raise SandboxFailed("its limits cannot be set")
        self.limited = True

    def watch(self, _on_clean: Callable[[], None], on_lost: Callable[[], None]) -> None:
        self.on_lost = on_lost

    async def destroy(self) -> None:
        self.is_alive = False


class FakeSource:
    """Creates sandboxes; a test can delay it by clearing `may`."""

    def __init__(self) -> None:
        self.made: list[FakeSandbox] = []
        self.may = asyncio.Event()
        self.may.set()
        self.error: Exception | None = None

    async def make(self, template: SandboxTemplate, limits: Limits) -> FakeSandbox:
        await self.may.wait()
        if self.error is not None:
            raise self.error
        self.made.append(FakeSandbox(len(self.made), template, limits))
        return self.made[-1]


@pytest.fixture
async def made() -> AsyncIterator[
    Callable[..., tuple[PrewarmedSandboxes, FakeSource, ManualClock]]
]:
    opened: list[PrewarmedSandboxes] = []

    def make(count: int = 3, memory: Memory | None = None) -> tuple[Any, FakeSource, ManualClock]:
        source, clock, memory = FakeSource(), ManualClock(step_s=0.001), memory or Memory()
        prewarmed = PrewarmedSandboxes(cast("LauncherSandboxes", source), clock, count, memory)
        prewarmed.start()
        opened.append(prewarmed)
        return prewarmed, source, clock

    yield make
    for prewarmed in opened:
        await prewarmed.aclose()


async def settles(prewarmed: PrewarmedSandboxes, count: int) -> None:
    for _ in range(1000):
        if prewarmed.count() == count:
            break
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)
    assert prewarmed.count() == count


async def stocked(prewarmed: PrewarmedSandboxes, count: int, **spec: Any) -> None:
    """Announces a version, and waits until `count` sandboxes are ready."""
    prewarmed.expect(VersionSpec(handler="x", **spec))
    await settles(prewarmed, count)


async def test_what_was_wanted_is_prewarmed_from_then_on(made: Any) -> None:
    prewarmed, source, _ = made(3)
    first = await prewarmed.create(VersionSpec(handler="x"))
    assert first is source.made[0]
    assert not source.made[0].prepared
    await settles(prewarmed, 3)
    assert all(one.prepared for one in source.made[1:])


async def test_one_is_handed_out_once(made: Any) -> None:
    prewarmed, _source, _ = made(3)
    handed = []
    for _ in range(20):
        handed.append(await prewarmed.create(VersionSpec(handler="x")))
        await asyncio.sleep(0.01)
    assert len({one.id for one in handed}) == 20
    await settles(prewarmed, prewarmed.count())
    assert not [one for one in prewarmed._stocks.popitem()[1].ready if one in handed]


async def test_nothing_is_made_while_somebody_asks(made: Any) -> None:
    prewarmed, source, clock = made(3)
    clock.now = lambda: 5.0  # no time passes, so the server never counts as idle
    await prewarmed.create(VersionSpec(handler="x"))
    await asyncio.sleep(0.1)
    assert prewarmed.count() == 0
    assert len(source.made) == 1


async def test_each_template_has_its_own_sandboxes(made: Any) -> None:
    prewarmed, _source, _ = made(2)
    await prewarmed.create(VersionSpec(handler="x"))
    await prewarmed.create(VersionSpec(handler="x", runtime_snapshot=PYTHON))
    await settles(prewarmed, 4)
    handed = await prewarmed.create(VersionSpec(handler="x", runtime_snapshot=PYTHON))
    assert handed.template.kind is Kind.PYTHON
    assert handed.prepared


async def test_limits_are_set_where_they_are_others(made: Any) -> None:
    prewarmed, _source, _ = made(2)
    await stocked(prewarmed, 2)
    assert not (await prewarmed.create(VersionSpec(handler="x"))).limited
    await settles(prewarmed, 2)
    assert (await prewarmed.create(VersionSpec(handler="x", memory_limit_mb=512))).limited


async def test_one_whose_limits_cannot_be_set_is_ended_and_another_is_made(made: Any) -> None:
    prewarmed, source, _ = made(1)
    await stocked(prewarmed, 1)
    handed = await prewarmed.create(VersionSpec(handler="x", memory_limit_mb=999))
    assert not source.made[0].is_alive
    assert handed.limits == Limits(999, 100.0)


async def test_one_that_died_is_replaced(made: Any) -> None:
    prewarmed, source, _ = made(2)
    await stocked(prewarmed, 2)
    source.made[0].is_alive = False
    source.made[0].on_lost()
    await settles(prewarmed, 2)
    assert (await prewarmed.create(VersionSpec(handler="x"))).is_alive


async def test_more_are_kept_of_what_was_wanted_more_often_at_once(made: Any) -> None:
    prewarmed, _, _ = made(2)
    await asyncio.gather(*(prewarmed.create(VersionSpec(handler="x")) for _ in range(7)))
    await settles(prewarmed, 7)


async def test_memory_bounds_the_warm_stock(made: Any) -> None:
    memory = Memory(budget_mib=2 * IDLE_MIB[Kind.PYTHON] / module.MEMORY_SHARE)
    prewarmed, _, _ = made(4, memory)
    await stocked(prewarmed, 2, runtime_snapshot=PYTHON)
    assert memory.prewarmed_mib == memory.held_mib == 2 * IDLE_MIB[Kind.PYTHON]


@promise("A32")
async def test_templates_leave_room(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_OF_TENANTS", 5)
    prewarmed, source, _ = made(2)
    for number in range(10):
        own = Runtime(id="r", name="r", kind=Kind.SHELL, writable_paths=(f"/data{number}",))
        prewarmed.expect(VersionSpec(handler="x", runtime_snapshot=own))
    await settles(prewarmed, 5)
    await stocked(prewarmed, 7)
    assert sum(one.template.is_plain for one in source.made) == 2


async def test_prewarmed_sandboxes_give_way_to_calls_and_stay_away(made: Any) -> None:
    memory, freed = Memory(), asyncio.Event()
    prewarmed, source, clock = made(3, memory)
    await stocked(prewarmed, 3, runtime_snapshot=PYTHON)
    prewarmed.give_up(IDLE_MIB[Kind.PYTHON] + 1, freed.set)
    assert (prewarmed.count(), memory.prewarmed_mib) == (1, IDLE_MIB[Kind.PYTHON])
    # their memory is counted until they have ended
    assert memory.leaving_mib == 2 * IDLE_MIB[Kind.PYTHON]
    assert memory.held_mib == 3 * IDLE_MIB[Kind.PYTHON]
    await freed.wait()
    assert (memory.leaving_mib, memory.held_mib) == (0, IDLE_MIB[Kind.PYTHON])
    assert len([one for one in source.made if one.is_alive]) == 1
    await stocked(prewarmed, 1, runtime_snapshot=PYTHON)
    clock.time += module.PAUSE_S
    await stocked(prewarmed, 3, runtime_snapshot=PYTHON)


async def test_none_is_made_while_a_call_waits_for_memory(made: Any) -> None:
    memory = Memory()
    memory.waiting["somebody"] = 0.0
    prewarmed, source, _ = made(3, memory)
    prewarmed.expect(VersionSpec(handler="x"))
    await asyncio.sleep(0.1)
    assert source.made == []


async def test_what_nobody_wants_any_more_goes(made: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "UNUSED_AFTER_S", 0.2)
    prewarmed, source, clock = made(2)
    await stocked(prewarmed, 2)
    clock.time += 10
    await settles(prewarmed, 0)
    assert not [one for one in source.made if one.is_alive]
    assert prewarmed.images() == frozenset()


async def test_a_full_machine_does_not_disturb_who_asks(made: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    prewarmed, source, _ = made(1)
    source.error = SandboxFailed("no room")
    with pytest.raises(SandboxFailed):
        await prewarmed.create(VersionSpec(handler="x"))
    await asyncio.sleep(0.1)
    assert prewarmed.images() == frozenset()
    source.error = None
    await asyncio.sleep(0.1)
    assert prewarmed.count() == 0  # not retried without a request: the image may have been deleted
    await prewarmed.create(VersionSpec(handler="x"))
    await settles(prewarmed, prewarmed._target(next(iter(prewarmed._stocks.values()))))
    assert prewarmed.count()


@promise("A17")
@pytest.mark.parametrize("error", [SandboxFailed("no room"), OSError(24, "no descriptor")])
async def test_what_could_not_be_made_is_tried_again_later(
    made: Any, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    prewarmed, source, _ = made(2)
    source.error = error
    prewarmed.expect(VersionSpec(handler="x"))
    await asyncio.sleep(0.1)
    assert prewarmed.count() == 0
    source.error = None
    await settles(prewarmed, 2)
    assert prewarmed.count() == 2


async def test_none_are_kept_or_remembered_where_none_are_wanted(made: Any) -> None:
    prewarmed, source, _ = made(0)
    await prewarmed.create(VersionSpec(handler="x"))
    prewarmed.expect(VersionSpec(handler="x", runtime_snapshot=PYTHON))
    await asyncio.sleep(0.1)
    assert (prewarmed.count(), len(source.made), prewarmed._stocks) == (0, 1, {})


async def test_closing_ends_every_one(made: Any) -> None:
    prewarmed, source, _ = made(3)
    await stocked(prewarmed, 3)
    await prewarmed.aclose()
    assert not [one for one in source.made if one.is_alive]
