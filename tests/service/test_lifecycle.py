"""Operations on functions, such as deploy and pause: alone, interrupted, and many at once."""

import asyncio
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from msgspec.structs import replace

from promises import promise
from quiltfn.api.shapes import function, function_summary
from quiltfn.functions import lifecycle
from quiltfn.functions.catalog import Entry
from quiltfn.model.errors import (
    Conflict,
    FunctionNotActive,
    NotFound,
    RuntimeUnavailable,
    StoreUnavailable,
)
from quiltfn.model.function import FunctionState
from quiltfn.model.invocation import Status
from quiltfn.ports import SandboxRefused
from quiltfn.sandbox.fake import FakeSandbox
from service.faults import failing
from service.platform_harness import TENANT, Harness, open_harness, until


async def started(
    server: Harness, handler: str = "echo hello"
) -> tuple[Entry, "asyncio.Future[Entry]"]:
    """A function and its deployment, whose instance doesn't start before `may_start` is set."""
    server.sandboxes.may_start.clear()
    entry = await server.create(handler)
    deploying = server.background(server.lifecycle.deploy(entry))
    await until(lambda: server.counts(entry) == {"warming": 1})
    return entry, deploying


# Deploy --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("least", "ready"), [(0, 1), (1, 1), (3, 3)])
async def test_deploy_readies_the_minimum_or_one(server: Harness, least: int, ready: int) -> None:
    entry = await server.active(min_instances=least)
    assert server.counts(entry) == {"ready": ready}


@pytest.mark.parametrize("handler", ["refuse-to-specialise", "fail-to-start"])
async def test_a_deploy_not_prepared_is_an_error(server: Harness, handler: str) -> None:
    entry = await server.lifecycle.deploy(await server.create(handler))
    assert entry.function.state is FunctionState.ERROR
    assert entry.function.error_message
    await until(lambda: server.sandboxes.alive == {})
    # Once the handler is fixed, the function can be deployed.
    entry = await server.lifecycle.update(entry, {"handler": "echo hello"})
    entry = await server.lifecycle.deploy(entry)
    assert entry.function.state is FunctionState.ACTIVE
    assert entry.function.error_message is None


async def test_what_a_program_wrote_is_told_of_the_function_and_not_to_its_callers(
    server: Harness,
) -> None:
    """Callers and lists get only the reason, without the output of the program."""
    entry = await server.active()

    for sandbox in list(server.sandboxes.alive.values()):
        sandbox.end_by_itself()
    refusal = SandboxRefused("it ended: secret", "a\nsecret")
    with patch.object(FakeSandbox, "specialise", side_effect=refusal):
        entry = await server.lifecycle.update(entry, {"description": "another"})
        whole = function(entry, None, note="", is_outdated=False, show=False)
        assert (whole.error_message or "").endswith("secret\nIt wrote last:\na\nsecret")
        assert whole.error_output == "a\nsecret"
        shown = function_summary(entry, None).error_message
        assert shown == "version 2 cannot serve: it ended: secret"
        with pytest.raises(RuntimeUnavailable, match=r"^it ended: secret$"):
            await server.invoke(entry)


async def test_a_long_deploy_goes_on(server: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "DEPLOY_ANSWERS_WITHIN_S", 0.01)
    server.sandboxes.may_start.clear()
    entry = await server.lifecycle.deploy(await server.create())
    assert entry.function.state is FunctionState.DEPLOYING
    server.sandboxes.may_start.set()
    entry = await server.lifecycle.deploy(entry)  # joins the same deployment
    await until(lambda: server.now(entry).function.state is FunctionState.ACTIVE)
    assert len(server.sandboxes.created) == 1


async def test_what_is_updated_while_deploying_is_what_serves(server: Harness) -> None:
    entry, deploying = await started(server, "echo old")
    entry = await server.lifecycle.update(entry, {"handler": "sleep 60", "max_instances": 1})
    server.sandboxes.may_start.set()
    await deploying
    for _ in range(3):
        await server.running(entry)
    assert server.counts(entry) == {"busy": 1}
    assert [record.version for record in await server.records(entry)] == [2]
    server.pools._pools[entry.function.id].model.check()


@promise("N67")
async def test_deployments_write_later(server: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    # The disk is full when the deployment ends, and has room a minute later.
    monkeypatch.setattr("quiltfn.base.store_retry.STORE_AGAIN_S", 0.01)
    for handler, ends in (
        ("echo hello", FunctionState.ACTIVE),
        ("fail-to-start", FunctionState.ERROR),
    ):
        entry = await server.create(handler, name=str(ends))
        refusals = [StoreUnavailable()] * 3
        # The first save, of the state `deploying`, succeeds.
        with failing(server.store, "save", *refusals, after=1) as save:
            entry = await server.lifecycle.deploy(entry)
        assert (entry.function.state, save.call_count) == (ends, 5)
    assert len(server.sandboxes.created) == 1  # it kept its instance while it waited


async def test_a_refused_change_of_a_stale_function_is_then_made(server: Harness) -> None:
    """Two servers share the store, and the other one has changed the function. The refusal of the
    first change must bring the new state to this server, so that a repetition succeeds.
    """
    entry = await server.create()
    other = replace(entry.function, description="by the other")
    saved = await server.store.save(other)
    with pytest.raises(Conflict, match="changed by another server"):
        await server.lifecycle.update(entry, {"max_instances": 2})
    assert server.now(entry).function == saved
    entry = await server.lifecycle.update(entry, {"max_instances": 2})
    assert (entry.function.description, entry.function.max_instances) == ("by the other", 2)


# Pause and resume ----------------------------------------------------------------------------


async def test_pause_refuses_who_waits_and_leaves_nothing_ready(server: Harness) -> None:
    entry = await server.active("sleep 0.05", max_instances=1)
    running = await server.running(entry)
    waiting = await server.running(entry)
    entry = await server.lifecycle.pause(entry)
    with pytest.raises(FunctionNotActive) as error:
        await waiting
    assert error.value.details == {"state": "paused"}
    assert (await running).status is Status.SUCCESS
    await until(lambda: server.counts(entry) == {})
    entry = await server.lifecycle.pause(entry)  # a second pause has no effect
    entry = await server.lifecycle.resume(entry)
    assert (await server.invoke(entry)).status is Status.SUCCESS


async def test_pause_and_resume_at_once_while_deploying_ends_active(server: Harness) -> None:
    # A user pauses the function and resumes it at once. The first deployment learns of its end only
    # when the function is being deployed again, and must not store a failure then.
    entry, _ = await started(server)
    entry = await server.lifecycle.pause(entry)
    resuming = server.background(server.lifecycle.resume(entry))
    await asyncio.sleep(0.01)
    server.sandboxes.may_start.set()
    entry = await resuming
    assert (entry.function.state, entry.function.error_message) == (FunctionState.ACTIVE, None)


async def test_pause_and_resume_of_what_never_ran_are_conflicts(server: Harness) -> None:
    pending = await server.create()
    broken = await server.lifecycle.deploy(await server.create("fail-to-start", name="broken"))
    for entry in (pending, broken):
        with pytest.raises(Conflict):
            await server.lifecycle.pause(entry)
        with pytest.raises(Conflict):
            await server.lifecycle.resume(entry)


# Delete --------------------------------------------------------------------------------------


async def test_delete_frees_the_name(server: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "DELETE_GRACE_S", 0.02)
    entry = await server.active("sleep 60", max_instances=1)
    running = await server.running(entry)
    waiting = await server.running(entry)
    await server.lifecycle.delete(entry)
    with pytest.raises(NotFound):
        await waiting
    assert not running.done()
    with pytest.raises(NotFound):
        server.catalog.by_id(TENANT, entry.function.id)
    other = await server.active(name="f")
    record = await running
    assert (record.status, record.error_message) == (Status.CANCELLED, "the function was deleted")
    await until(lambda: entry.function.id not in server.pools._pools)
    assert (await server.invoke(other)).status is Status.SUCCESS


async def test_a_verb_that_waited_for_a_deletion_finds_nothing(server: Harness) -> None:
    entry = await server.create()
    verbs: list[asyncio.Future[Any]] = [
        server.background(server.lifecycle.delete(entry)),
        server.background(server.lifecycle.update(entry, {"handler": "echo new"})),
        server.background(server.lifecycle.deploy(entry)),
        server.background(server.lifecycle.delete(entry)),
    ]
    ends = await asyncio.gather(*verbs, return_exceptions=True)
    assert [type(end) for end in ends] == [type(None), NotFound, NotFound, NotFound]


async def test_delete_while_deploying(server: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "DELETE_GRACE_S", 0.0)
    entry, deploying = await started(server)
    await server.lifecycle.delete(entry)
    with pytest.raises(NotFound):
        await deploying
    server.sandboxes.may_start.set()
    await until(lambda: server.pools._pools == {})
    assert server.lifecycle._activities == {}


# A restart of the server ---------------------------------------------------------------------


async def test_a_restart_restores_and_deploys_what_was_deploying(tmp_path: Path) -> None:
    async with open_harness(tmp_path) as server:
        await server.create(name="pending")
        await server.active(name="active", min_instances=1)
        paused = await server.active(name="paused")
        paused = await server.lifecycle.pause(paused)
        await server.lifecycle.deploy(await server.create("fail-to-start", name="error"))
        server.sandboxes.may_start.clear()
        deploying = await server.create(name="deploying")
        server.background(server.lifecycle.deploy(deploying))
        await until(lambda: server.now(deploying).function.state is FunctionState.DEPLOYING)
    async with open_harness(tmp_path) as server:
        states = {entry.function.name: entry.function.state for entry in server.catalog.all()}
        # Its deployment has continued in the background since the start, and may be over by now.
        assert states.pop("deploying") in (FunctionState.DEPLOYING, FunctionState.ACTIVE)
        assert {name: state.value for name, state in states.items()} == {
            name: name for name in ("pending", "active", "paused", "error")
        }
        active = server.catalog.by_name(TENANT, "active")
        await until(lambda: server.counts(active) == {"ready": 1})
        assert (await server.invoke(active)).status is Status.SUCCESS
        deploying = server.catalog.by_name(TENANT, "deploying")
        await until(lambda: server.now(deploying).function.state is FunctionState.ACTIVE)


# Many operations at once ---------------------------------------------------------------------


@promise("P5")
async def test_of_fifty_simultaneous_creates_of_one_name_one_wins(server: Harness) -> None:
    made = await asyncio.gather(
        *(server.create(name="one") for _ in range(50)), return_exceptions=True
    )
    winners = [entry for entry in made if not isinstance(entry, BaseException)]
    assert len(winners) == 1
    assert sum(isinstance(error, Conflict) for error in made) == 49
    assert server.catalog.by_name(TENANT, "one") is winners[0]


async def test_delete_and_create_of_one_name_again_and_again_never_lose_the_name(
    server: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "DELETE_GRACE_S", 0.0)
    entry = await server.create(name="one")
    for _ in range(20):
        deleting = server.background(server.lifecycle.delete(entry))
        while True:
            try:
                entry = await server.create(name="one")
                break
            except Conflict:
                continue
        await deleting
        assert server.catalog.by_name(TENANT, "one") is entry


async def test_a_name_taken_again_stays_with_its_new_owner(server: Harness) -> None:
    # The store frees a name a moment before the catalog does; another function takes it in between.
    old = await server.create(name="one")
    new = await server.create(name="two")
    new = server.catalog.replace(replace(new.function, name="one"))
    server.catalog.remove(old)
    assert server.catalog.by_name(TENANT, "one") is new
