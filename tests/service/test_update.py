"""Update and rollback: the new version is ready before it becomes current, and no invocation
fails.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from promises import promise
from quiltfn.api import shapes
from quiltfn.functions import lifecycle
from quiltfn.functions.catalog import Entry
from quiltfn.model.errors import (
    Conflict,
    NotFound,
    RuntimeUnavailable,
    ShuttingDown,
)
from quiltfn.model.function import FunctionState
from quiltfn.model.invocation import Status
from service.faults import held_up
from service.platform_harness import TENANT, Harness, open_harness, until


async def numbers(server: Harness, entry) -> list[int]:
    return [version.number for version in (await server.lifecycle.versions(entry)).items]


async def begun(server: Harness, entry: Entry) -> "asyncio.Future[Entry]":
    """An update whose instance doesn't start before `may_start` is set."""
    server.sandboxes.may_start.clear()
    updating = server.background(server.lifecycle.update(entry, {"handler": "echo new"}))
    await until(lambda: server.counts(entry) == {"ready": 1, "warming": 1})
    return updating


# Update and rollback -------------------------------------------------------------------------


async def test_an_update_serves_at_once_and_running_calls_end_before(server: Harness) -> None:
    entry = await server.active("sleep 0.05")
    running = await server.running(entry)
    entry = await server.lifecycle.update(entry, {"handler": "echo new"})
    assert entry.function.current_version == 2
    assert not running.done()
    record = await server.invoke(entry)
    assert (record.stdout, record.cold_start) == (b"new\n", False)
    assert (await running).status is Status.SUCCESS
    # The old instance is kept for a rollback for a while, and counts as warming.
    await until(lambda: server.counts(entry) == {"ready": 1, "warming": 1})
    server.clock.time += 60
    server.pools.tick()
    await until(lambda: server.counts(entry) == {"ready": 1})


@promise("P11")
@pytest.mark.parametrize("verb", ["pause", "delete"])
async def test_who_wants_it_to_stop_does_not_wait_for_an_update(server: Harness, verb: str) -> None:
    entry = await server.active("echo old")
    updating = await begun(server, entry)
    closing = server.background(getattr(server.lifecycle, verb)(entry))
    late = server.background(server.lifecycle.update(entry, {"handler": "echo newer"}))
    await closing
    # the update gives up, and its result says so
    assert (await updating).function.current_version == 1
    server.sandboxes.may_start.set()
    if verb == "delete":
        with pytest.raises(NotFound):
            await late
        return
    entry = await late
    assert entry.function.state is FunctionState.PAUSED
    assert await numbers(server, entry) == [3, 2, 1]
    # on a paused function, a rollback only changes the current version
    assert entry.function.current_version == 3
    entry = await server.lifecycle.resume(entry)
    assert (await server.invoke(entry)).stdout == b"newer\n"


@promise("P3", "A90")
async def test_an_update_that_fails_leaves_the_old_version_and_says_why(server: Harness) -> None:
    entry = await server.active("echo old")
    entry = await server.lifecycle.update(entry, {"working_directory": "/missing"})
    assert (entry.function.state, entry.function.current_version) == (FunctionState.ACTIVE, 1)
    assert "version 2 cannot serve: working_directory /missing" in entry.function.error_message  # type: ignore[operator]
    assert shapes.function(entry, None, note="", is_outdated=False, show=False).failed_version == 2
    stored = next(one for one in await server.store.load() if one.function.id == entry.function.id)
    assert stored.function.failed_version == 2
    assert await numbers(server, entry) == [2, 1]
    assert (await server.invoke(entry)).stdout == b"old\n"
    entry = await server.lifecycle.update(entry, {"handler": "echo new"})
    assert entry.function.current_version == 3
    assert entry.function.error_message is None
    shown = shapes.function(entry, None, note="", is_outdated=False, show=False)
    assert shown.failed_version is msgspec.UNSET


async def test_a_rollback_to_the_current_version_forgets_the_update(server: Harness) -> None:
    entry = await server.active("echo old")
    entry = await server.lifecycle.update(entry, {"working_directory": "/missing"})
    assert entry.function.error_message is not None
    entry = await server.lifecycle.rollback(entry, 1)
    assert (entry.function.current_version, entry.function.error_message) == (1, None)
    kept = next(one for one in await server.store.load() if one.function.id == entry.function.id)
    assert kept.function.error_message is None


async def test_a_slow_update_is_given_up(server: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "UPDATE_READY_WITHIN_S", 0.01)
    entry = await server.active("echo old")
    server.sandboxes.may_start.clear()
    entry = await server.lifecycle.update(entry, {"handler": "echo new"})
    assert "no instance was ready within" in entry.function.error_message  # type: ignore[operator]
    assert entry.function.current_version == 1
    server.sandboxes.may_start.set()
    await until(lambda: server.counts(entry) == {"ready": 1})
    assert (await server.invoke(entry)).stdout == b"old\n"


async def test_a_slow_update_of_the_same_content_is_taken(
    server: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running invocation of an older version can occupy all instances that the function may
    have.
    """
    entry = await server.active("sleep 60", max_instances=2)
    await server.running(entry)
    entry = await server.lifecycle.update(entry, {"handler": "die"})
    with pytest.raises(RuntimeUnavailable):
        await server.invoke(entry)
    monkeypatch.setattr(lifecycle, "UPDATE_READY_WITHIN_S", 0.01)
    entry = await server.lifecycle.update(entry, {"max_instances": 1})
    assert (entry.function.current_version, entry.function.error_message) == (3, None)


async def test_an_update_with_a_maximum_of_one_fails_no_call(server: Harness) -> None:
    entry = await server.active("sleep 0.02", max_instances=1)
    running = await server.running(entry)
    waiting = await server.running(entry)
    entry = await server.lifecycle.update(entry, {"handler": "echo new"})
    assert (await running).status is Status.SUCCESS
    assert (await waiting).stdout == b"new\n"
    assert server.sandboxes.most_alive == 1


async def test_an_update_under_load_with_a_full_minimum_fails_no_call(server: Harness) -> None:
    entry = await server.active("sleep 0.001", min_instances=4, max_instances=4)
    ended: list[Status] = []

    async def caller() -> None:
        for _ in range(60):
            ended.append((await server.invoke(entry)).status)

    calls = [server.background(caller()) for _ in range(8)]
    for n in range(5):
        await asyncio.sleep(0.005)
        entry = await server.lifecycle.update(entry, {"environment": {"N": str(n)}})
        assert entry.function.error_message is None
    await asyncio.gather(*calls)
    assert ended == [Status.SUCCESS] * 480
    assert server.sandboxes.most_alive <= 4


async def test_long_calls_do_not_hold_up_an_update(server: Harness) -> None:
    entry = await server.active("sleep 60", min_instances=3, max_instances=3)
    await server.running(entry)
    await server.running(entry)
    entry = await server.lifecycle.update(entry, {"handler": "echo new"})
    assert (await server.invoke(entry)).stdout == b"new\n"


async def test_an_equal_spec_reuses_the_instances_under_the_new_number(server: Harness) -> None:
    entry = await server.active()
    entry = await server.lifecycle.update(entry, {"description": "says hello"})
    assert entry.function.current_version == 2
    await server.invoke(entry)
    assert len(server.sandboxes.created) == 1


async def test_a_function_that_is_not_active_is_only_repointed(server: Harness) -> None:
    entry = await server.create("echo old")
    entry = await server.lifecycle.update(entry, {"handler": "echo new"})
    assert (entry.function.state, entry.function.current_version) == (FunctionState.PENDING, 2)
    assert server.sandboxes.created == []


async def test_rollback_points_back_without_a_new_version(server: Harness) -> None:
    entry = await server.active("echo old")
    entry = await server.lifecycle.update(entry, {"handler": "echo new"})
    entry = await server.lifecycle.rollback(entry, 1)
    assert (await server.invoke(entry)).stdout == b"old\n"
    assert await numbers(server, entry) == [2, 1]
    # Number 2 is not used again for the next version.
    entry = await server.lifecycle.update(entry, {"handler": "echo newer"})
    assert entry.function.current_version == 3
    with pytest.raises(NotFound):
        entry = await server.lifecycle.rollback(entry, 4)


async def test_a_new_name_is_used_and_the_old_one_is_free(server: Harness) -> None:
    entry = await server.create(name="old")
    entry = await server.lifecycle.update(entry, {"name": "new"})
    assert server.catalog.by_name(TENANT, "new") is entry
    other = await server.create(name="old")
    with pytest.raises(Conflict):
        other = await server.lifecycle.update(other, {"name": "new"})
    assert server.catalog.by_name(TENANT, "old") is other


@promise("P4")
async def test_twenty_simultaneous_updates_make_consecutive_versions(server: Harness) -> None:
    entry = await server.active(max_instances=2)
    await asyncio.gather(
        *(server.lifecycle.update(entry, {"handler": f"echo {n}"}) for n in range(20))
    )
    entry = server.now(entry)
    assert await numbers(server, entry) == list(range(21, 0, -1))
    assert entry.function.current_version == 21
    assert server.sandboxes.most_alive <= 2
    assert (await server.invoke(entry)).stdout.decode() == f"{entry.version.spec.handler[5:]}\n"


async def test_stopping_during_an_update_refuses_it_and_stores_nothing(tmp_path: Path) -> None:
    async with open_harness(tmp_path) as server:
        entry = await server.active("echo old", min_instances=1)
        updating = await begun(server, entry)
        closing = server.background(server.pools.aclose())
        with pytest.raises(ShuttingDown):
            await updating
        assert await numbers(server, entry) == [1]
        server.sandboxes.may_start.set()
        await closing
    async with open_harness(tmp_path) as server:
        entry = server.catalog.by_name(TENANT, "f")
        assert (entry.function.current_version, entry.function.error_message) == (1, None)


@pytest.fixture
async def two_kept(tmp_path: Path) -> AsyncIterator[Harness]:
    """A server that keeps two versions of a function."""
    async with open_harness(tmp_path, settings={"versions_kept": 2}) as harness:
        yield harness


@promise("D42")
async def test_a_version_that_was_removed_is_none_to_anybody(
    two_kept: Harness,
) -> None:
    entry = await two_kept.active("echo 1")
    entry = await two_kept.lifecycle.update(entry, {"handler": "echo 2"})
    assert (
        await two_kept.lifecycle.version(entry, 1)
    ).number == 1  # the version is in memory from now on
    entry = await two_kept.lifecycle.update(entry, {"handler": "echo 3"})
    for use in (two_kept.lifecycle.version, two_kept.lifecycle.rollback):
        with pytest.raises(NotFound, match="no version 1: it was not made, or was removed"):
            await use(entry, 1)
    assert await numbers(two_kept, entry) == [3, 2]
    assert (await two_kept.invoke(entry)).stdout == b"3\n"
    entry = await two_kept.lifecycle.rollback(entry, 2)  # control
    assert (await two_kept.invoke(entry)).stdout == b"2\n"


@promise("D42")
async def test_a_version_that_is_removed_while_it_is_read_is_not_kept(
    two_kept: Harness,
) -> None:
    entry = await two_kept.active("echo 1")
    entry = await two_kept.lifecycle.update(entry, {"handler": "echo 2"})
    with held_up(two_kept.store, "version", is_done=True) as read:
        reading = asyncio.ensure_future(two_kept.lifecycle.version(entry, 1))
        await read.begun.wait()
        entry = await two_kept.lifecycle.update(entry, {"handler": "echo 3"})
        read.may_go_on.set()
        assert (await reading).number == 1  # it was read before the deletion
        with pytest.raises(NotFound, match="no version 1"):
            await two_kept.lifecycle.version(entry, 1)


async def test_a_deleted_function_leaves_none_of_its_versions_in_memory(server: Harness) -> None:
    entry = await server.active("echo 1")
    entry = await server.lifecycle.update(entry, {"handler": "echo 2"})
    assert (await server.lifecycle.version(entry, 1)).number == 1
    assert server.lifecycle._versions._known
    await server.lifecycle.delete(entry)
    assert not server.lifecycle._versions._known
