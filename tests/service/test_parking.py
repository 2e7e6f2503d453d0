"""Instances that are started only to be parked: after a restart, and after a failed invocation."""

import asyncio
from pathlib import Path

import pytest

from promises import promise
from quiltfn.functions.catalog import Entry
from quiltfn.model.function import NewFunction
from quiltfn.model.memory import Footprint
from quiltfn.model.version import VersionSpec
from quiltfn.pool import parking
from quiltfn.ports import Sandbox
from quiltfn.sandbox.fake import FakeSandboxes
from service.platform_harness import Harness, open_harness, until

pytestmark = promise("P20")

PARKED = {"warming": 1}


@pytest.fixture(autouse=True)
def _worth_parking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every version worth parking, except those whose handler is an `exit`. Normally only
    Python versions are, but fake sandboxes run no Python.
    """

    def footprint(spec: VersionSpec) -> Footprint:
        return Footprint(limit_mib=256.0, idle_mib=1.0, parks=not spec.handler.startswith("exit"))

    monkeypatch.setattr(VersionSpec, "footprint", footprint)


def parked(harness: Harness, *entries: Entry) -> int:
    pools = [harness.pools.counts(entry.function.id) for entry in entries]
    return sum(counts.parked for counts in pools)


def sandbox_of(harness: Harness, entry: Entry) -> str:
    (sandbox,) = harness.pools._pools[entry.function.id].sandboxes.values()
    return sandbox.id


async def served_by(
    path: Path, handlers: dict[str, str], calls: dict[str, int]
) -> dict[str, Entry]:
    """Creates functions on a server, and returns them after it has ended."""
    async with open_harness(path) as harness:
        entries = {name: await harness.active(handlers[name], name=name) for name in handlers}
        for name, many in calls.items():
            for _ in range(many):
                await harness.invoke(entries[name])
        await harness.journal.synced()
    return entries


async def test_after_a_restart_they_are_parked_again_the_most_called_first(tmp_path: Path) -> None:
    handlers = dict.fromkeys(("never", "often", "once"), "echo hi") | {"unparked": "exit 0"}
    entries = await served_by(tmp_path, handlers, {"often": 3, "once": 1, "unparked": 5})
    slow = [entries[name] for name in ("often", "once", "never")]
    async with open_harness(tmp_path) as harness:
        await until(lambda: parked(harness, *slow) == 3)
        assert [sandbox_of(harness, entry) for entry in slow] == ["fake-1", "fake-2", "fake-3"]
        assert harness.counts(entries["unparked"]) == {}
        record = await harness.invoke(entries["often"])
        assert (record.cold_start, record.timeline.reason.value) == (True, "first")  # type: ignore[union-attr]


async def test_they_are_made_one_at_a_time(tmp_path: Path) -> None:
    entries = await served_by(tmp_path, dict.fromkeys("abc", "echo hi"), {})
    fakes = FakeSandboxes()
    fakes.may_start.clear()
    async with open_harness(tmp_path, fakes=fakes) as harness:
        await until(lambda: fakes.alive)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(fakes.alive) == 1
        fakes.may_start.set()
        await until(lambda: parked(harness, *entries.values()) == 3)
        assert fakes.most_alive == 3


async def of_tenants(path: Path, names: dict[str, list[str]]) -> list[Entry]:
    """Creates functions of several tenants on a server, and returns them after it has ended.
    `names`: their handlers by tenant, after which they are named.
    """
    entries = []
    async with open_harness(path) as harness:
        for tenant, handlers in names.items():
            for handler in handlers:
                new = NewFunction(name=handler.replace(" ", "-"))
                entry = await harness.lifecycle.create(tenant, new, VersionSpec(handler=handler))
                entries.append(await harness.lifecycle.deploy(entry))
        await harness.journal.synced()
    return entries


class SlowStarts(FakeSandboxes):
    """Sandboxes that may start slowly. `wanted`: the handlers in the order of their starts. Those
    in `slow` start once `held` is set.
    """

    def __init__(self, *slow: str) -> None:
        super().__init__()
        self.slow, self.held = slow, asyncio.Event()
        self.wanted: list[str] = []

    async def create(self, spec: VersionSpec) -> Sandbox:
        made = await super().create(spec)
        self.wanted.append(spec.handler)
        if spec.handler in self.slow:
            await self.held.wait()
        return made


async def test_tenants_take_turns(tmp_path: Path) -> None:
    """Many functions of one tenant do not delay those of other tenants."""
    names = {
        "a": [f"echo a{one}" for one in range(6)],
        "b": ["echo b0", "echo b1"],
        "c": ["echo c"],
    }
    entries = await of_tenants(tmp_path, names)
    fakes = SlowStarts()
    async with open_harness(tmp_path, fakes=fakes) as harness:
        await until(lambda: parked(harness, *entries) == 9)
    turns = [handler[5] for handler in fakes.wanted]
    assert sorted(turns[:3]) == ["a", "b", "c"]
    assert sorted(turns[3:5]) == ["a", "b"]
    assert turns[5:] == ["a"] * 4


async def test_slow_imports_hold_up_those_of_their_tenant_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "SLOW_S", 0.05)
    names = {"a": ["echo a0", "echo a1"], "b": ["echo b0", "echo b1"], "c": ["echo c"]}
    entries = await of_tenants(tmp_path, names)
    fakes = SlowStarts("echo a0", "echo a1")
    async with open_harness(tmp_path, fakes=fakes) as harness:
        await until(lambda: parked(harness, *entries[2:]) == 3)
        await asyncio.sleep(0.1)
        assert sum(handler.startswith("echo a") for handler in fakes.wanted) == 1
        fakes.held.set()
        await until(lambda: parked(harness, *entries) == 5)


async def test_only_some_slow_starts_go_on_beside_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "SLOW_S", 0.02)
    names = {tenant: [f"echo {tenant}"] for tenant in "abcd"}
    entries = await of_tenants(tmp_path, names)
    fakes = SlowStarts(*(f"echo {tenant}" for tenant in "abcd"))
    async with open_harness(tmp_path, fakes=fakes) as harness:
        await until(lambda: len(fakes.wanted) == parking.SLOW_AT_ONCE)
        await asyncio.sleep(0.2)
        assert len(fakes.wanted) == parking.SLOW_AT_ONCE
        fakes.held.set()
        await until(lambda: parked(harness, *entries) == 4)


async def test_a_call_does_not_wait_for_those_of_others(tmp_path: Path) -> None:
    handlers = {"a": "echo a", "b": "echo b"}
    entries = await served_by(tmp_path, handlers, {"a": 1})
    fakes = SlowStarts("echo a")
    async with open_harness(tmp_path, fakes=fakes) as harness:
        await until(lambda: harness.sandboxes.created)
        assert (await harness.invoke(entries["b"])).status.value == "success"
        fakes.held.set()


async def test_half_of_the_memory_is_left_for_calls(tmp_path: Path) -> None:
    entries = await served_by(tmp_path, dict.fromkeys("abcd", "echo hi"), {})

    class Large(FakeSandboxes):
        async def create(self, spec: VersionSpec) -> Sandbox:
            made = await super().create(spec)
            made.uses_mib = 200.0  # type: ignore[attr-defined]
            return made

    async with open_harness(tmp_path, memory_mib=1024, fakes=Large()) as harness:
        # each instance is measured before the next one starts
        await until(lambda: harness.pools.memory.held_mib == 400)
        for _ in range(200):
            await asyncio.sleep(0.001)
        assert parked(harness, *entries.values()) == 2


async def test_after_a_call_that_ended_its_sandbox_another_one_is_parked(tmp_path: Path) -> None:
    async with open_harness(tmp_path) as harness:
        entry = await harness.active("oom")
        await harness.invoke(entry)
        await until(lambda: harness.counts(entry) == PARKED)
        record = await harness.invoke(entry)
        assert record.timeline.reason.value == "replaced"  # type: ignore[union-attr]


async def test_a_paused_function_is_left_alone(tmp_path: Path) -> None:
    async with open_harness(tmp_path) as harness:
        entry = await harness.active("echo hi")
        await harness.lifecycle.pause(entry)
        await until(lambda: harness.counts(entry) == {})
        assert harness.pools.lacking_parked() == []
