"""Preparing a version is one block. After it, the pool has either the new version and the new
scaling targets, or everything as it was before.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import patch

import pytest
from msgspec.structs import replace

from promises import promise
from quiltfn.base.uninterrupted import uninterrupted
from quiltfn.functions import lifecycle
from quiltfn.functions.catalog import Entry
from quiltfn.model.actions import Closed
from quiltfn.model.errors import ShuttingDown, StoreUnavailable
from quiltfn.model.function import Function, FunctionState
from quiltfn.model.limits import PoolLimits
from quiltfn.model.version import Version, VersionSpec
from quiltfn.pool.function_pool import FunctionPool
from quiltfn.ports import NotPrepared
from service.faults import away, held_up
from service.platform_harness import Harness, until

pytestmark = promise("P19")

NEW = VersionSpec(handler="echo new")
WIDER = PoolLimits(max_instances=7)


def version(entry: Entry, spec: VersionSpec = NEW) -> Version:
    return Version(
        id="v2",
        function_id=entry.function.id,
        number=2,
        spec=spec,
        digest=spec.digest(),
        description=None,
        created_at=0,
    )


def pool_of(server: Harness, entry: Entry) -> FunctionPool:
    return server.pools._pools[entry.function.id]


def prepared(
    server: Harness,
    entry: Entry,
    spec: VersionSpec = NEW,
    limits: PoolLimits = WIDER,
    ready: int = 1,
) -> contextlib.AbstractAsyncContextManager[Any]:
    """The pool's block for another version, which is entered once `ready` instances are ready."""
    return server.pools.prepared(entry.function.id, version(entry, spec), limits, ready)


async def preparing(server: Harness, entry: Entry) -> "asyncio.Task[None]":
    """A task that waits to enter the block for an instance that doesn't start. It fails the test if
    it enters.
    """
    server.sandboxes.may_start.clear()

    async def prepares() -> None:
        async with prepared(server, entry):
            await asyncio.sleep(0)
            pytest.fail("the block was gone through")

    task = asyncio.ensure_future(prepares())
    await until(lambda: server.counts(entry) == {"ready": 1, "warming": 1})
    return task


async def is_as_before(server: Harness, entry: Entry, limits: PoolLimits) -> None:
    """Checks that the pool serves the old version under the old targets, and has nothing of the new
    one.
    """
    pool = pool_of(server, entry)
    assert pool.model.limits == limits
    assert pool.model.prepared is None
    assert pool._preparation is None
    assert (await server.invoke(entry)).stdout == b"old\n"
    instances = pool.model.instances.values()
    await until(lambda: all(instance.digest == entry.version.digest for instance in instances))
    await until(lambda: pool._versions.keys() == {entry.version.digest})
    pool.model.check()


@contextlib.asynccontextmanager
async def left_as_it_was(server: Harness, **fields: Any) -> AsyncIterator[Entry]:
    """Yields a function; at the end of the block, checks that its pool is as before."""
    entry = await server.active("echo old", **fields)
    limits = pool_of(server, entry).model.limits
    yield entry
    await is_as_before(server, entry, limits)


# The pool's block ----------------------------------------------------------------------------


async def test_what_is_promoted_serves_under_the_new_targets(server: Harness) -> None:
    entry = await server.active("echo old")
    async with prepared(server, entry, ready=2) as preparation:
        assert (await server.invoke(entry)).stdout == b"old\n"
        preparation.promote()
        assert (await server.invoke(entry)).stdout == b"new\n"
    assert (await server.invoke(entry)).stdout == b"new\n"
    assert pool_of(server, entry).model.limits == WIDER


async def test_without_a_promotion_everything_is_as_before(server: Harness) -> None:
    async with left_as_it_was(server) as entry, prepared(server, entry, ready=2):
        assert len(pool_of(server, entry).model.instances) == 3


async def test_an_error_in_the_block_undoes_it_and_goes_on(server: Harness) -> None:
    async with left_as_it_was(server) as entry:
        with pytest.raises(StoreUnavailable):
            async with prepared(server, entry):
                raise StoreUnavailable


@pytest.mark.parametrize("handler", ["refuse-to-specialise", "fail-to-start"])
async def test_a_failed_version_undoes_it_and_says_why(server: Harness, handler: str) -> None:
    async with left_as_it_was(server) as entry:
        with pytest.raises(NotPrepared, match=r"the sandbox refused|no room"):
            async with prepared(server, entry, VersionSpec(handler=handler)):
                pytest.fail("the block was entered")


async def test_a_cancel_in_the_tick_in_which_it_is_ready_undoes_it(server: Harness) -> None:
    # The instance became ready in the same turn of the event loop in which the updating client
    # disconnected.
    async with left_as_it_was(server) as entry:
        task = await preparing(server, entry)
        preparation = pool_of(server, entry)._preparation
        assert preparation is not None
        preparation.ready.add_done_callback(lambda _: task.cancel())
        server.sandboxes.may_start.set()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_scaling_that_was_set_meanwhile_stays(server: Harness) -> None:
    entry = await server.active("echo old")
    other = replace(WIDER, max_instances=3)
    async with prepared(server, entry):
        server.pools.set_scaling(entry.function.id, other)
    await is_as_before(server, entry, other)


async def test_a_second_preparation_ends_the_first_and_undoes_both(server: Harness) -> None:
    other, limits = VersionSpec(handler="echo other"), replace(WIDER, max_instances=4)
    async with left_as_it_was(server) as entry, prepared(server, entry) as first:
        async with prepared(server, entry, other, limits):
            first.promote()  # the block has ended, and the second one has replaced it
            assert (await server.invoke(entry)).stdout == b"old\n"


async def test_a_pool_that_was_closed_meanwhile_stays_closed(server: Harness) -> None:
    entry = await server.active("echo old")
    async with prepared(server, entry) as preparation:
        server.pools.close(entry.function.id, Closed.PAUSED)
        preparation.promote()
    pool = pool_of(server, entry)
    assert pool.model.current is None
    await until(lambda: not pool.model.instances)


async def test_closing_ends_the_wait(server: Harness) -> None:
    entry = await server.active("echo old")
    task = await preparing(server, entry)
    server.pools.close(entry.function.id, Closed.PAUSED)
    with pytest.raises(NotPrepared, match="became paused meanwhile"):
        await task
    server.sandboxes.may_start.set()


async def test_once_the_pools_close_nothing_is_prepared(server: Harness) -> None:
    entry = await server.active("echo old")
    await server.pools.aclose()
    with pytest.raises(ShuttingDown):
        prepared(server, entry)


# The operations on a function ----------------------------------------------------------------


@pytest.mark.parametrize("most", [5, 1])
async def test_an_update_that_cannot_be_stored_leaves_everything_as_it_was(
    server: Harness, most: int
) -> None:
    """With a maximum of one, the new instance replaced the old one. It must not stay if the update
    cannot be stored.
    """
    async with left_as_it_was(server, max_instances=most) as entry:
        with away(server.store, "save"), pytest.raises(StoreUnavailable):
            await server.lifecycle.update(entry, {"handler": "echo new", "max_instances": 9})
        assert server.now(entry) is entry
        assert len((await server.lifecycle.versions(entry)).items) == 1


async def test_a_deploy_of_an_active_function_that_cannot_be_stored_leaves_nothing_prepared(
    server: Harness,
) -> None:
    async with left_as_it_was(server) as entry:
        failed = await server.lifecycle.update(entry, {"working_directory": "/missing"})
        with away(server.store, "save"), pytest.raises(StoreUnavailable):
            await server.lifecycle.deploy(failed)
        assert server.now(entry).function.error_message is not None


async def test_a_cancelled_update_leaves_everything_as_it_was(server: Harness) -> None:
    async with left_as_it_was(server) as entry:
        server.sandboxes.may_start.clear()
        updating = asyncio.ensure_future(server.lifecycle.update(entry, {"handler": "echo new"}))
        await until(lambda: server.counts(entry) == {"ready": 1, "warming": 1})
        updating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await updating
        server.sandboxes.may_start.set()
        assert server.now(entry) is entry
        assert len((await server.lifecycle.versions(entry)).items) == 1


async def test_an_update_that_is_cancelled_while_it_is_stored_is_so_everywhere(
    server: Harness,
) -> None:
    # A write that the database has begun cannot be cancelled, so the catalog and the pool take over
    # its result.
    entry = await server.active("echo old")
    with held_up(server.store, "save") as save:
        updating = asyncio.ensure_future(server.lifecycle.update(entry, {"handler": "echo new"}))
        await save.begun.wait()
        updating.cancel()
        await asyncio.sleep(0.01)
        assert not updating.done()
        save.may_go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await updating
    (stored,) = await server.store.load()
    assert stored.function == server.now(entry).function
    assert stored.function.current_version == 2
    assert (await server.invoke(entry)).stdout == b"new\n"


async def test_a_deployment_whose_outcome_cannot_be_stored_is_over_once_it_can(
    server: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "DEPLOY_ANSWERS_WITHIN_S", 0.2)
    entry = await server.create("echo old")
    save = server.store.save

    async def fails(function: Function, version: Version | None = None, **limits: Any) -> Function:
        if function.state is FunctionState.ACTIVE:
            raise StoreUnavailable
        return await save(function, version, **limits)

    with patch.object(server.store, "save", fails):
        await server.lifecycle.deploy(entry)
        assert server.now(entry).function.state is FunctionState.DEPLOYING
    await until(lambda: server.now(entry).function.state is FunctionState.ACTIVE)
    assert (await server.invoke(entry)).stdout == b"old\n"


@pytest.mark.parametrize("verb", ["pause", "delete"])
async def test_stopping_ends_the_wait_of_a_deploy_topping_up(server: Harness, verb: str) -> None:
    entry = await server.active("echo old")
    entry = await server.lifecycle.set_scaling(entry, 2, 5)
    await until(lambda: server.counts(entry) == {"ready": 2})
    entry = await server.lifecycle.set_scaling(entry, 3, 5)
    server.sandboxes.may_start.clear()
    pool = pool_of(server, entry)
    server.pools.set_scaling(entry.function.id, replace(pool.model.limits, min_instances=0))
    for sandbox in list(server.sandboxes.alive.values()):
        sandbox.end_by_itself()
    deploying = asyncio.ensure_future(server.lifecycle.deploy(entry))
    await until(lambda: pool._preparation is not None)
    await getattr(server.lifecycle, verb)(entry)
    if verb == "pause":
        assert "paused or deleted meanwhile" in str((await deploying).function.error_message)
    else:
        assert (await deploying).function.id == entry.function.id
    server.sandboxes.may_start.set()
    await until(lambda: not pool.model.instances)


async def test_an_operation_that_waits_uses_the_function_of_then(server: Harness) -> None:
    entry = await server.active("echo old")
    await asyncio.gather(
        server.lifecycle.update(entry, {"description": "one"}),
        server.lifecycle.update(entry, {"handler": "echo new"}),
    )
    now = server.now(entry)
    assert (now.function.description, now.version.spec.handler) == ("one", "echo new")
    assert now.function.current_version == 3


async def test_work_that_may_not_be_interrupted_hands_on_its_result_and_its_error() -> None:
    async def works() -> int:
        await asyncio.sleep(0)
        return 1

    async def fails() -> int:
        await asyncio.sleep(0)
        raise StoreUnavailable

    assert await uninterrupted(works()) == 1
    with pytest.raises(StoreUnavailable):
        await uninterrupted(fails())
