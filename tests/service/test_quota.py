"""A tenant's quota of instances: which instances count, which are evicted, which invocations wait
for one, and which are refused.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from quiltfn.functions.catalog import Entry
from quiltfn.model.errors import CapacityFull
from quiltfn.model.function import FunctionState, NewFunction
from quiltfn.model.version import VersionSpec
from service.platform_harness import TENANT, Harness, open_harness, until


def live(harness: Harness, tenant: str = TENANT) -> int:
    """The number of the tenant's instances in all pools, which must equal the quota's own count."""
    pools = harness.pools._pools.values()
    mine = [pool.model for pool in pools if pool.model.limits.tenant_id == tenant]
    total = sum(len(pool.instances) for pool in mine)
    leaving = sum(pool.counts().terminating for pool in mine)
    if mine:
        quota = harness.pools._quotas[tenant]
        assert (quota.used, quota.leaving) == (total, leaving)
        assert total <= quota.limit
    return total


async def of_another_tenant(harness: Harness, **more: Any) -> Entry:
    new = NewFunction(name="theirs", **more)
    entry = await harness.lifecycle.create("umbrella", new, VersionSpec(handler="echo hi"))
    return await harness.lifecycle.deploy(entry)


async def test_what_is_idle_leaves_for_a_call_of_the_same_tenant(tmp_path: Path) -> None:
    async with open_harness(tmp_path, settings={"tenant_instances": 2}) as harness:
        old, new = await harness.active(name="old"), await harness.active(name="new")
        third = await harness.create(name="third")
        assert live(harness) == 2
        third = await harness.lifecycle.deploy(third)
        assert third.function.state is FunctionState.ACTIVE
        assert live(harness) == 2
        assert not harness.counts(old).get("ready"), "the one that is worth least has left"
        for entry in (old, new, third):
            assert (await harness.invoke(entry)).stdout == b"hello\n"
            assert live(harness) <= 2


async def test_who_cannot_be_made_room_for_waits_and_is_served(tmp_path: Path) -> None:
    async with open_harness(tmp_path, settings={"tenant_instances": 1}) as harness:
        late = await harness.active(name="late")
        busy = await harness.active("sleep 0.2", name="busy")
        running = await harness.running(busy)
        assert harness.counts(late) == {}
        waiting = await harness.running(late)
        assert (await running).status == "success"
        assert (await waiting).stdout == b"hello\n"
        assert live(harness) == 1


async def test_who_waits_too_long_is_refused_and_others_notice_nothing(tmp_path: Path) -> None:
    async with open_harness(tmp_path, settings={"tenant_instances": 1}) as harness:
        first = await harness.active(name="one")
        # the first function's instance was evicted for this one
        other = await harness.active(name="other")
        # this instance is a minimum, and is not evicted
        other = await harness.lifecycle.set_scaling(other, 1, 5)
        waiting = await harness.running(first)
        theirs = await of_another_tenant(harness)
        assert (await harness.invoke(theirs)).status == "success"
        await until(lambda: harness.counts(theirs) == {"ready": 1})
        harness.pass_time(10)
        with pytest.raises(CapacityFull, match="the tenant has as many instances as its quota"):
            await waiting
        other = await harness.lifecycle.set_scaling(other, 0, 5)
        assert (await harness.invoke(first)).stdout == b"hello\n"
        assert (live(harness), live(harness, "umbrella")) == (1, 1)


async def test_a_deploy_that_has_no_place_says_so_and_changes_nothing(tmp_path: Path) -> None:
    async with open_harness(tmp_path, settings={"tenant_instances": 3}) as harness:
        kept = await harness.active(name="kept", min_instances=2)
        late = await harness.create(name="late", min_instances=2)
        late = await harness.lifecycle.deploy(late)
        assert late.function.state is FunctionState.ERROR
        assert late.function.error_message is not None
        assert late.function.error_message.startswith("the tenant has 3 instances, its quota")
        await until(lambda: live(harness) == 2)
        assert harness.counts(kept) == {"ready": 2}
        # Once the quota has room, a deployment gets both instances.
        kept = await harness.lifecycle.set_scaling(kept, 0, 5)
        late = await harness.lifecycle.deploy(late)
        assert late.function.state is FunctionState.ACTIVE
        assert harness.counts(late) == {"ready": 2}
        assert live(harness) <= 3


async def test_an_update_that_has_no_place_leaves_what_serves(tmp_path: Path) -> None:
    async with open_harness(tmp_path, settings={"tenant_instances": 2}) as harness:
        entry = await harness.active(name="f", min_instances=2)
        entry = await harness.lifecycle.update(entry, {"handler": "echo new"})
        assert entry.function.current_version == 1
        assert "its quota" in (entry.function.error_message or "")
        assert (await harness.invoke(entry)).stdout == b"hello\n"
        entry = await harness.lifecycle.set_scaling(entry, 1, 5)
        entry = await harness.lifecycle.update(entry, {"handler": "echo new"})
        assert (await harness.invoke(entry)).stdout == b"new\n"


async def test_what_is_kept_for_a_rollback_counts_and_leaves_first(tmp_path: Path) -> None:
    async with open_harness(tmp_path, settings={"tenant_instances": 2}) as harness:
        entry = await harness.active(name="f")
        entry = await harness.lifecycle.update(entry, {"handler": "echo new"})
        assert live(harness) == 2  # the old instance is kept for a rollback
        other = await harness.active(name="other")
        assert harness.counts(entry) == {"ready": 1}
        assert harness.counts(other) == {"ready": 1}
        assert live(harness) == 2


async def test_minimums_of_many_functions_stay_within_it(tmp_path: Path) -> None:
    async with open_harness(tmp_path, settings={"tenant_instances": 5}) as harness:
        entries = [await harness.create(name=f"f{n}", min_instances=2) for n in range(5)]
        states = [(await harness.lifecycle.deploy(one)).function.state for one in entries]
        assert states == [FunctionState.ACTIVE] * 2 + [FunctionState.ERROR] * 3
        harness.pass_time(1)
        assert live(harness) <= 5
    # The quota also holds after a restart, when all active functions start at once.
    async with open_harness(tmp_path, settings={"tenant_instances": 3}) as harness:
        await until(lambda: live(harness) == 3)
        for _ in range(3):
            harness.pass_time(1)
            await asyncio.sleep(0.06)
        assert live(harness) == 3
