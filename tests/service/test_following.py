"""Nodes that share one PostgreSQL: a change on one node reaches the others within a second."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import psycopg
import pytest
from sqlalchemy import Connection

import postgresql
from contract.stores import SHARED_STORES, a_stored_function, eventually, url_of
from promises import promise
from quiltfn.base.clock import SystemClock
from quiltfn.fleet import follower
from quiltfn.functions import lifecycle
from quiltfn.functions.catalog import Entry
from quiltfn.model.access import Scope
from quiltfn.model.alias import Alias
from quiltfn.model.errors import (
    Conflict,
    FunctionNotActive,
    NotFound,
    RateLimited,
    StoreUnavailable,
)
from quiltfn.model.function import FunctionState
from quiltfn.model.image import TenantImage
from quiltfn.model.invocation import Status
from quiltfn.model.runtime import Kind, Runtime
from quiltfn.model.schedule import Overlap, RunOutcome, Schedule
from quiltfn.model.tenant_quota import TenantQuota
from quiltfn.model.url import Auth, FunctionUrl
from quiltfn.model.work import AsyncPolicy, Destination, RecordPolicy
from quiltfn.ports import FunctionCounters
from quiltfn.ports.work import Input
from quiltfn.store import SqlQuotas, SqlTenantImages
from quiltfn.store.database import changes
from quiltfn.store.database.sql import run
from quiltfn.store.opening_postgresql import open_postgresql
from quiltfn.tenants.access import make_key, revoke_key
from service.faults import away, held_up
from service.platform_harness import TENANT, Harness, open_harness, until
from service.routes import Web
from service.test_forwarding import Nodes
from timeouts import full_wait, scaled

ONE_SECOND = 1.0


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A data directory with one shared database in PostgreSQL, which is dropped at the end."""
    url_of(tmp_path / "shared")
    yield tmp_path
    postgresql.drop_databases()


@contextlib.asynccontextmanager
async def node(
    path: Path, name: str, kind: str = "postgresql", **more: Any
) -> AsyncIterator[Harness]:
    """A node with this name, which has its own data directory, sandboxes and clock."""
    data_dir = path / name
    data_dir.mkdir(exist_ok=True)
    if kind == "postgresql":
        store: Any = open_postgresql(url_of(path / "shared"), data_dir, node_id=name, alone=False)
    else:
        store = SHARED_STORES[kind](path / "shared", name)
    async with open_harness(data_dir, node=(name, store), **more) as harness:
        yield harness


@pytest.fixture
async def nodes(shared: Path) -> AsyncIterator[tuple[Harness, Harness]]:
    async with node(shared, "a") as first, node(shared, "b") as second:
        yield first, second


async def seen(true: Callable[[], object], within_s: float = ONE_SECOND) -> float:
    """Waits until the condition is true; returns how long that took, in seconds."""
    since = time.monotonic()
    while not true():
        assert time.monotonic() - since < scaled(within_s), "it is not seen"
        await asyncio.sleep(0.002)
    return time.monotonic() - since


def state_of(harness: Harness, name: str = "f") -> FunctionState | None:
    entry = harness.catalog.find(TENANT, name)
    return None if entry is None else entry.function.state


async def known(harness: Harness, entry: Entry) -> Entry:
    """The function's entry on another node, once that node has its present state."""
    wanted = entry.function

    def is_there() -> bool:
        found = harness.catalog.known(wanted.id)
        return found is not None and found.function.revision >= wanted.revision

    await seen(is_there)
    return harness.catalog.get(wanted.id)


async def known_to_both(
    nodes: tuple[Harness, Harness], handler: str = "echo hello", **more: Any
) -> tuple[Harness, Harness, Entry]:
    """Both nodes, and a function that the first node has created."""
    first, second = nodes
    entry = await first.active(handler, **more)
    await known(second, first.now(entry))
    return first, second, entry


async def accepted_by(
    harness: Harness, entry: Entry, count: int, due_at_ms: int | None = None
) -> list[str]:
    """Queues `count` asynchronous invocations on the node; returns their ids."""
    current = harness.now(entry)
    records = [await harness.work.accept(current, Input(), due_at_ms) for _ in range(count)]
    return [record.invocation_id for record in records]


async def scheduled(harness: Harness, name: str, every_seconds: int, **more: Any) -> None:
    """Creates a schedule for the function f."""
    ids = {"id": "", "tenant_id": "", "function_id": ""}
    schedule = Schedule(**ids, name=name, every_seconds=every_seconds, **more)  # type: ignore[arg-type]
    await harness.services.schedules.create(TENANT, "f", schedule)


# Changes that other nodes take over ----------------------------------------------------------


@promise("N20")
async def test_every_function_change_reaches_other_nodes(nodes: tuple[Harness, Harness]) -> None:
    """The function's pools on other nodes must start, change and close as on the node that was
    asked.
    """
    first, second = nodes
    entry = await first.create("echo one")
    await seen(lambda: state_of(second) is FunctionState.PENDING)
    await first.lifecycle.deploy(entry)
    await seen(lambda: state_of(second) is FunctionState.ACTIVE)
    record = await second.invoke(entry)
    assert (record.status, record.execution_node_id, record.version) == (Status.SUCCESS, "b", 1)

    entry = await first.lifecycle.update(entry, {"handler": "echo two", "max_instances": 7})
    there = await known(second, entry)
    assert (there.version.number, there.function) == (2, entry.function)
    assert (await second.invoke(entry)).version == 2
    assert second.pools._pools[entry.function.id].model.limits.max_instances == 7

    entry = await first.lifecycle.rollback(entry, 1)
    await known(second, entry)
    assert (await second.invoke(entry)).version == 1

    entry = await first.lifecycle.set_scaling(entry, 2, 3)
    await known(second, entry)
    assert second.pools._pools[entry.function.id].model.limits.max_instances == 3
    await first.lifecycle.set_scaling(entry, 0, 3)

    await first.lifecycle.pause(entry)
    await seen(lambda: state_of(second) is FunctionState.PAUSED)
    with pytest.raises(FunctionNotActive):
        await second.invoke(entry)
    await first.lifecycle.resume(entry)
    await seen(lambda: state_of(second) is FunctionState.ACTIVE)
    assert (await second.invoke(entry)).status is Status.SUCCESS

    await first.lifecycle.delete(entry)
    await seen(lambda: state_of(second) is None)
    with pytest.raises(NotFound):
        second.catalog.by_id(TENANT, entry.function.id)


@promise("N20")
async def test_everything_else_shared_reaches_other_nodes(nodes: tuple[Harness, Harness]) -> None:
    first, second = nodes
    entry = await first.active()
    function_id = entry.function.id
    await known(second, first.now(entry))

    await first.services.urls.set(entry, FunctionUrl())
    await seen(lambda: second.services.urls.find("f", None) is not None)
    await second.services.urls.set(entry, None)
    await seen(lambda: first.services.urls.find("f", None) is None)

    await first.work.policies.set_policy(function_id, AsyncPolicy(max_attempts=4))
    await first.work.policies.set_record_policy(function_id, RecordPolicy(keep_input="all"))
    await seen(lambda: second.work.policies.record_policy_of(function_id).keep_input == "all")
    assert second.work.policies.policy_of(function_id).max_attempts == 4

    await first.services.quotas.set("acme", TenantQuota(functions=3))
    await seen(lambda: second.services.admission.limits_of("acme").functions == 3)
    await second.services.quotas.set("acme", TenantQuota())
    await seen(lambda: first.services.quotas.of("acme") == TenantQuota())

    wanted = Runtime(id="", name="etl", kind=Kind.SHELL)
    await first.services.runtimes.add(TENANT, wanted, is_operator=True)
    await seen(lambda: "etl" in names_of(second))
    await second.services.runtimes.remove(TENANT, "etl")
    await seen(lambda: "etl" not in names_of(first))

    images = SqlTenantImages(first.store.database)
    await images.add(TenantImage(TENANT, "0" * 64, 5_000))
    await seen(lambda: second.services.tenant_images.bytes_of(TENANT) == 5_000)
    await images.remove(TENANT, "0" * 64)
    await seen(lambda: second.services.tenant_images.bytes_of(TENANT) == 0)

    await first.lifecycle.delete(entry)
    await seen(lambda: second.work.policies.policy_of(function_id) == AsyncPolicy())


def names_of(harness: Harness) -> set[str]:
    return {one.runtime.name for one in harness.services.runtimes.all(TENANT)}


async def test_a_revoked_key_manages_nothing_elsewhere(nodes: tuple[Harness, Harness]) -> None:
    """The other node must refuse a revoked key in the very next request, even if it has cached the
    key.
    """
    first, second = nodes
    key, text = await make_key(first.services.keys, first.clock, TENANT, Scope.WRITE, None)
    await seen(lambda: not second.services.access.is_open)
    path, web = f"/api/functions/{(await first.create()).function.id}", Web(second)
    await web.ask(200, "GET", path, headers={"x-api-key": text})
    await revoke_key(first.services.keys, first.clock, key.id)
    await web.ask(401, "DELETE", path, headers={"x-api-key": text})
    assert second.catalog.find(TENANT, "f") is not None


@promise("N94")
async def test_a_node_that_did_not_hear_of_a_revocation_runs_nothing_at_others(
    nodes: tuple[Harness, Harness], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node that is to run a forwarded invocation checks the credential of the original
    request.
    """
    first, second = nodes
    key, text = await make_key(first.services.keys, first.clock, TENANT, Scope.INVOKE, None)
    await known(second, await first.active("echo hello"))
    await seen(lambda: not (first.services.access.is_open or second.services.access.is_open))
    monkeypatch.setattr(first.services.access, "refresh", unreachable)
    forwarding, key_header = Nodes(first, second), {"x-api-key": text}
    await first.services.urls.set(first.catalog.by_name(TENANT, "f"), FunctionUrl())
    await seen(lambda: second.services.urls.of(first.catalog.by_name(TENANT, "f").function.id))
    assert (await forwarding.call("f", x_api_key=text)).json()["execution_node_id"] == "b"
    ran = second.sandboxes.calls
    assert (await forwarding.http.post("/fn/f", headers=key_header)).status_code == 200
    assert second.sandboxes.calls == ran + 1
    caller = await first.services.access.identify({"x-api-key": text}, "192.0.2.1")
    await revoke_key(second.services.keys, second.clock, key.id)
    await seen(lambda: not second.services.access.still_holds(caller))
    assert first.services.access.still_holds(caller), "it has heard"
    refused = await forwarding.call("f", x_api_key=text)
    assert (refused.status_code, refused.json()["error_code"]) == (401, "UNAUTHORIZED")
    assert (await forwarding.http.post("/fn/f", headers=key_header)).status_code == 401
    await forwarding.http.aclose()


@promise("N20")
async def test_a_change_is_seen_by_its_notice_and_without_one_by_the_next_look(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Notices bring a change to other nodes at once. The control is SQLite, which has no notices:
    there, other nodes see nothing before they next read the changes.
    """
    monkeypatch.setattr(follower, "EVERY_S", 600.0)
    async with node(shared, "a") as first, node(shared, "b") as second:
        await asyncio.sleep(full_wait(0.3))  # until the nodes listen
        await first.create()
        await seen(lambda: second.catalog.find(TENANT, "f"))
        # A node continues to follow the others after the database has ended its connections.
        cluster = postgresql.running()
        assert cluster.disconnect(url_of(shared / "shared").rpartition("/")[2].partition("?")[0])
        await second.create(name="g")
        await seen(lambda: first.catalog.find(TENANT, "g"), within_s=5)
    async with node(shared, "c", "sqlite") as first, node(shared, "d", "sqlite") as second:
        # until both nodes have read the changes for the first time
        await asyncio.sleep(full_wait(0.3))
        await first.create()
        await asyncio.sleep(full_wait(0.3))
        assert second.catalog.find(TENANT, "f") is None


async def test_without_notices_a_second_is_enough(shared: Path) -> None:
    async with node(shared, "a", "sqlite") as first, node(shared, "b", "sqlite") as second:
        for number in range(3):
            await first.create(name=f"f{number}")
            await seen(partial(second.catalog.find, TENANT, f"f{number}"), within_s=1.2)


@promise("N24")
@pytest.mark.parametrize("alone", [True, False])
async def test_a_server_that_is_alone_sends_no_notices(shared: Path, alone: bool) -> None:
    url = url_of(shared / "shared")
    with psycopg.connect(url, autocommit=True) as listener:
        listener.execute("LISTEN quiltfn")
        async with open_postgresql(url, shared / "x", node_id="x", alone=alone) as store:
            await a_stored_function(store)
        found = await asyncio.to_thread(lambda: list(listener.notifies(timeout=full_wait(0.5))))
    assert [one.payload.partition(" ")[0] for one in found] == ([] if alone else ["change"])


# Operations on two nodes at once -------------------------------------------------------------


@promise("N22")
async def test_an_operation_uses_the_current_function(nodes: tuple[Harness, Harness]) -> None:
    """A request must see what another node has just done, since a balancer can send each request to
    a different node.
    """
    for turn in range(4):
        first, second = nodes if turn % 2 else nodes[::-1]
        entry = await first.active(name=f"f{turn}")
        await known(second, entry)
        await first.lifecycle.pause(entry)
        assert (await second.lifecycle.resume(entry)).function.state is FunctionState.ACTIVE
        assert (await first.lifecycle.pause(entry)).function.state is FunctionState.PAUSED
        await second.lifecycle.delete(entry)
        with pytest.raises(NotFound):
            await first.lifecycle.resume(entry)


@promise("W28")
async def test_of_two_default_aliases_at_once_one_is_made(nodes: tuple[Harness, Harness]) -> None:
    entry = await nodes[0].active("echo 0")
    await known(nodes[1], nodes[0].now(entry))
    for number in range(5):
        tried = [
            harness.services.aliases.set(
                entry, Alias(name=f"{name}{number}", version=1), None, True
            )
            for harness, name in zip(nodes, "ab", strict=True)
        ]
        got = await asyncio.gather(*tried, return_exceptions=True)
        [made] = [one for one in got if isinstance(one, Alias)]
        [refused] = [one for one in got if isinstance(one, Conflict)]
        assert f"default alias of the function is {made.name}" in str(refused)
        for harness in nodes:
            await harness.lifecycle.others.hear()
            assert harness.services.aliases.of(entry.function.id) == [made]
            assert harness.services.aliases.defaults[entry.function.id] == made
        await nodes[0].services.aliases.remove(entry, made.name, None)
        await nodes[1].lifecycle.others.hear()


@promise("N99")
async def test_a_disabled_tenant_stays_so_on_any_node(nodes: tuple[Harness, Harness]) -> None:
    first, second = nodes
    for number in range(1, 11):
        await asyncio.gather(
            first.services.quotas.disable("acme", disabled=True),
            second.services.quotas.set("acme", TenantQuota(functions=number)),
        )
        stored = await first.services.quotas._store.load(["acme"])
        assert stored == {"acme": TenantQuota(functions=number, disabled=True)}
        await first.services.quotas.disable("acme", disabled=False)


@promise("N22")
async def test_a_late_change_does_not_undo_a_newer_one(nodes: tuple[Harness, Harness]) -> None:
    """A node's own change is stored, and another node's next change arrives before the response of
    the store to the first one.
    """
    first, second, entry = await known_to_both(nodes)
    with held_up(first.store, "save", is_done=True) as save:
        scaling = asyncio.ensure_future(first.lifecycle.set_scaling(entry, 0, 3))
        await save.begun.wait()
        newer = await second.lifecycle.set_scaling(entry, 0, 9)
        await known(first, newer)
        save.may_go_on.set()
        assert (await scaling).function == newer.function
    assert first.pools._pools[entry.function.id].model.limits.max_instances == 9


async def test_a_deployment_that_another_node_ends_is_over(nodes: tuple[Harness, Harness]) -> None:
    first, second = nodes
    entry = await first.create()
    await known(second, entry)
    first.sandboxes.may_start.clear()
    deploying = asyncio.ensure_future(first.lifecycle.deploy(entry))
    await seen(lambda: state_of(second) is FunctionState.DEPLOYING)
    assert (await second.lifecycle.deploy(entry)).function.state is FunctionState.ACTIVE
    await seen(lambda: state_of(first) is FunctionState.ACTIVE)
    # the wait ends long before an instance is ready
    ended = await asyncio.wait_for(deploying, scaled(5))
    assert ended.function.state is FunctionState.ACTIVE
    first.sandboxes.may_start.set()
    assert (await first.invoke(entry)).status is Status.SUCCESS


@promise("N67")
async def test_a_deployment_of_a_node_that_was_lost_is_ended_by_its_heir(shared: Path) -> None:
    """Only the heir of a lost node, or the next start of the same node, ends its deployment."""
    async with node(shared, "b") as second:
        await begins_to_deploy(shared, second)
        async with node(shared, "c") as three:
            assert state_of(three) is FunctionState.DEPLOYING
            assert (three.sandboxes.created, second.sandboxes.created) == ([], [])
            entry = second.catalog.by_name(TENANT, "f")
            await second.lifecycle.own(entry.function.id)
            await seen(lambda: state_of(three) is FunctionState.ACTIVE, within_s=5)
            assert second.now(entry).function.owner_node_id == "b"
            assert (len(second.sandboxes.created), three.sandboxes.created) == (1, [])
            await second.lifecycle.delete(entry)
        await begins_to_deploy(shared, second)
        async with node(shared, "a") as first:
            await seen(lambda: state_of(second) is FunctionState.ACTIVE, within_s=5)
            assert len(first.sandboxes.created) == 1


async def begins_to_deploy(shared: Path, other: Harness) -> None:
    """Node a begins to deploy the function f, which the other node created, and ends at once."""
    async with node(shared, "a") as first:
        entry = await other.create()
        first.sandboxes.may_start.clear()
        deploying = asyncio.ensure_future(first.lifecycle.deploy(await known(first, entry)))
        await seen(lambda: state_of(other) is FunctionState.DEPLOYING)
        deploying.cancel()
    assert state_of(other) is FunctionState.DEPLOYING


@promise("N22")
async def test_a_pause_ends_another_node_s_deployment(nodes: tuple[Harness, Harness]) -> None:
    first, second = nodes
    entry = await first.create()
    first.sandboxes.may_start.clear()
    deploying = asyncio.ensure_future(first.lifecycle.deploy(entry))
    await seen(lambda: state_of(second) is FunctionState.DEPLOYING)
    await second.lifecycle.pause(entry)
    assert (await deploying).function.state is FunctionState.PAUSED
    first.sandboxes.may_start.set()
    await seen(lambda: first.counts(entry) == {})


async def test_a_pause_elsewhere_refuses_waiting_calls(nodes: tuple[Harness, Harness]) -> None:
    first, second, entry = await known_to_both(nodes, "sleep 0.5", max_instances=1)
    running, waiting = await second.running(entry), await second.running(entry)
    await seen(lambda: second.counts(entry) == {"busy": 1})
    await first.lifecycle.pause(entry)
    with pytest.raises(FunctionNotActive):
        await waiting
    assert (await running).status is Status.SUCCESS


@promise("N22")
async def test_a_delete_ends_instances_and_calls_on_the_other_node(
    nodes: tuple[Harness, Harness], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "DELETE_GRACE_S", 0.2)
    first, second, entry = await known_to_both(nodes, "sleep 60")
    running = await second.running(entry)
    await seen(lambda: second.counts(entry) == {"busy": 1})
    await first.lifecycle.delete(entry)
    record = await asyncio.wait_for(running, scaled(3))
    assert (record.status, record.error_message) == (Status.CANCELLED, "the function was deleted")
    await seen(lambda: not second.sandboxes.alive)
    await seen(lambda: entry.function.id not in second.pools._pools)


# Asynchronous invocations, schedules and deliveries ------------------------------------------


@promise("N23")
async def test_accepted_work_runs_where_there_is_room(shared: Path) -> None:
    async with node(shared, "b") as second:
        entry = await second.active(max_instances=2)
        async with node(shared, "a", memory_mib=1) as first:
            accepted = await accepted_by(first, entry, 20)
            await first.work.wait(first.now(entry), accepted[-1], scaled(5))
            await seen(lambda: second.sandboxes.calls == 20, within_s=5)
        await seen_over(second, entry, *accepted)
        records = await second.records(entry)
        assert sorted(one.invocation_id for one in records) == sorted(accepted)
        assert {(one.status, one.execution_node_id) for one in records} == {(Status.SUCCESS, "b")}


async def seen_over(harness: Harness, entry: Entry, *invocation_ids: str) -> None:
    for invocation_id in invocation_ids:
        await asyncio.wait_for(harness.work.wait(entry, invocation_id, scaled(10)), scaled(5))
        record = await harness.journal.get(entry.function.id, invocation_id)
        assert record is not None
        assert record.is_final


@promise("N23")
async def test_no_more_work_runs_than_its_policy_says(nodes: tuple[Harness, Harness]) -> None:
    first, second = nodes
    entry = await first.active("sleep 0.05", max_instances=5)
    await first.work.policies.set_policy(entry.function.id, AsyncPolicy(max_concurrency=2))
    await known(second, first.now(entry))
    accepted = [call for each in nodes for call in await accepted_by(each, entry, 6)]
    most = 0
    while first.sandboxes.calls + second.sandboxes.calls < 12:
        running = sum(
            len(node.dispatcher._backlogs[key].running)
            for node in nodes
            for key in node.dispatcher._backlogs
        )
        most = max(most, running)
        await asyncio.sleep(0.001)
    assert 1 <= most <= 2
    await seen_over(first, entry, *accepted)


@promise("N23")
async def test_work_of_a_node_that_has_stopped_is_run_by_another(shared: Path) -> None:
    async with node(shared, "b") as second:
        entry = await second.active(max_instances=4)
        async with node(shared, "a") as first:
            later_ms = int(first.clock.trusted() * 1000) + 3_600_000
            accepted = await accepted_by(first, entry, 20, later_ms)
        await seen(lambda: second.dispatcher._backlogs)
        second.clock.time += 3_601
        second.dispatcher.tick()
        await seen_over(second, entry, *accepted)
        assert second.sandboxes.calls == 20


@promise("N18")
async def test_work_that_another_node_has_claimed_is_cancelled_from_any(shared: Path) -> None:
    """An invocation can be cancelled while its node holds the claim, and while it waits for an
    instance there.
    """
    async with node(shared, "node-2") as second:
        entry = await second.active("sleep 30", max_instances=1)
        async with node(shared, "node-1", memory_mib=1) as first:
            accepted = await accepted_by(first, entry, 4)
            await seen(lambda: second.counts(entry) == {"busy": 1})
            backlog = second.dispatcher._backlogs[entry.function.id]
            second.clock.time += 3  # now one invocation may wait for an instance
            second.dispatcher.tick()
            await seen(lambda: len(backlog.running) == 2 and backlog.held)
            [held, *_] = backlog.held
            [in_line] = [it for it in backlog.running if not second.invoker.has_begun(it)]
            http = Nodes(first, second).http
            for invocation_id in sorted(accepted, key=[held, in_line].count, reverse=True):
                path = f"/api/functions/{entry.function.id}/invocations/{invocation_id}/cancel"
                answer = await http.post(path)
                assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
                assert (await http.post(path)).status_code == 409
            await http.aclose()
            records = {it.invocation_id: it.status for it in await second.records(entry)}
            assert records == dict.fromkeys(accepted, Status.CANCELLED)


async def test_who_waits_on_one_node_hears_of_an_end_on_another(shared: Path) -> None:
    async with node(shared, "a", memory_mib=1) as first, node(shared, "b") as second:
        entry = await second.active("sleep 1")
        here = await known(first, second.now(entry))
        record = await first.work.accept(here, Input())
        await seen(lambda: second.counts(entry) == {"busy": 1})
        await second.journal.synced()
        running = await first.journal.get(entry.function.id, record.invocation_id)
        assert running is not None
        assert (running.status, running.execution_node_id) == (Status.RUNNING, "b")
        waiting = asyncio.ensure_future(first.work.wait(here, record.invocation_id, 600))
        await asyncio.sleep(full_wait(0.2))
        assert not waiting.done()
        await asyncio.wait_for(waiting, scaled(3))


@promise("N23")
async def test_each_tick_of_a_schedule_is_made_once(shared: Path) -> None:
    clock: Any = SystemClock
    async with (
        node(shared, "a", clock=clock()) as first,
        node(shared, "b", clock=clock()) as second,
    ):
        entry = await first.active(max_instances=4)
        await known(second, first.now(entry))
        began = time.monotonic()
        await scheduled(first, "often", 1, jitter_seconds=0)
        await until(lambda: first.sandboxes.calls + second.sandboxes.calls >= 5)
        await second.services.schedules.remove(TENANT, "often")
        passed_s = time.monotonic() - began
        fired = await second.records(entry)
        ticks = len(fired)
        assert 5 <= ticks <= passed_s + 1
        await asyncio.sleep(1.5)
        assert len(await first.records(entry)) == ticks
        assert first.sandboxes.calls + second.sandboxes.calls == ticks


async def test_a_waiting_tick_runs_once_another_node_ended_the_last(shared: Path) -> None:
    async with node(shared, "a", memory_mib=1) as first, node(shared, "b") as second:
        entry = await second.active("sleep 3")
        await known(first, second.now(entry))
        await scheduled(first, "n", 60, overlap=Overlap.QUEUE)
        second.services.schedules._may_wait = False
        for _ in range(2):
            first.clock.time += 60
            second.clock.time += 60
            await first.services.schedules.fire_due()
        runs = await first.services.schedules.runs(TENANT, "n", None, 10)
        outcomes = {run.outcome for run in runs.items}
        assert outcomes == {RunOutcome.ACCEPTED, RunOutcome.WAITING}
        await seen(lambda: second.sandboxes.calls == 2, within_s=10)


async def test_a_tick_of_a_function_that_a_node_has_not_heard_of_is_not_missed(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "EVERY_S", 600.0)
    async with node(shared, "a", "sqlite") as first, node(shared, "b", "sqlite") as second:
        # until both nodes have read the changes for the first time
        await asyncio.sleep(full_wait(0.3))
        await first.active()
        await scheduled(first, "n", 60)
        assert second.catalog.find(TENANT, "f") is None
        second.clock.time += 61
        await second.services.schedules.fire_due()
        runs = await second.services.schedules.runs(TENANT, "n", None, 10)
        assert [run.outcome for run in runs.items] == [RunOutcome.ACCEPTED]


async def test_a_delivery_is_made_by_a_node_that_has_time_for_it(shared: Path) -> None:
    async with node(shared, "a") as first, node(shared, "b") as second:

        async def none(*_: object) -> None:
            return None

        cast("Any", first.services.deliveries)._begin_due = none
        target = await second.active(name="target")
        entry = await first.active()
        policy = AsyncPolicy(on_success=Destination(function="target"))
        await first.work.policies.set_policy(entry.function.id, policy)
        record = await first.work.accept(first.now(entry), Input())
        await seen_over(first, first.now(entry), record.invocation_id)

        async def has_run() -> bool:
            ended = [it for it in await second.records(target) if it.is_final]
            return [it.parent_invocation_id for it in ended] == [record.invocation_id]

        await eventually(has_run)


class ClockOff(SystemClock):
    """The clock of a machine, which is two hours ahead."""

    _wall = staticmethod(lambda: time.time() + 7_200)


@promise("N25")
async def test_a_machine_whose_clock_is_off_is_as_any_other(shared: Path) -> None:
    """Other nodes run its invocations at once, but not before they are due; and it does the same
    with theirs.
    """
    assert abs(ClockOff().unix() - time.time() - 7_200) < 1  # control: the clock is wrong
    right, off = cast("Any", SystemClock()), cast("Any", ClockOff())
    async with (
        node(shared, "a", clock=off, memory_mib=1) as first,
        node(shared, "b", clock=right) as second,
    ):
        for clock in (off, right):
            assert abs(clock.unix() - time.time()) < 1
            assert abs(clock.trusted() - time.time()) < 1
        entry = await second.active()
        here = await known(first, second.now(entry))
        at_once = await first.work.accept(here, Input())
        await seen_over(second, entry, at_once.invocation_id)
        since = time.monotonic()
        later = await first.work.accept(here, Input(), int(off.trusted() * 1000) + 1_000)
        await seen_over(second, entry, later.invocation_id)
        assert time.monotonic() - since > 0.9
        await scheduled(second, "later", 3_600)
        await first.services.schedules.fire_due()
        assert not (await second.services.schedules.runs(TENANT, "later", None, 10)).items


# Counts of invocations -----------------------------------------------------------------------


@promise("N23")
async def test_a_day_s_quota_counts_the_calls_of_all_nodes(nodes: tuple[Harness, Harness]) -> None:
    first, second, entry = await known_to_both(nodes, "sleep 0.3", memory_limit_mb=1024)
    await first.services.quotas.set(TENANT, TenantQuota(gb_seconds_per_day=2))
    await seen(lambda: second.services.admission.limits_of(TENANT).gb_seconds_per_day == 2)
    for harness in nodes:
        with harness.services.admission.call(TENANT):
            pass

    call = await second.running(entry)
    second.clock.time += 3
    await call
    await second.journal.synced()

    def is_refused() -> bool:
        try:
            with first.services.admission.call(TENANT):
                return False
        except RateLimited:
            return True

    await seen(is_refused, within_s=2)


@promise("N32")
async def test_a_corrected_error_is_counted_nowhere(nodes: tuple[Harness, Harness]) -> None:
    """A node counts no error that was corrected, neither together with an invocation that it has
    not stored yet, nor during a commit: in that case, the count is corrected with the next commit.
    """
    first, second, entry = await known_to_both(nodes, "exit 1")
    await first.invoke(entry)
    await first.journal.synced()
    await second.lifecycle.follow_counters(second.journal)
    second.journal._commit_after_s = 1000
    await second.invoke(entry)
    assert second.now(entry).counters.error_count == 2

    # like `late_ends.reopen`, and the end of the invocation after it
    def correct(connection: Connection) -> None:
        corrected = {"function_id": entry.function.id, "calls": 0, "errors": -1, "last": 0}
        run(connection, "add_to_counters", corrected)

    await first.store.database.write(correct)

    async def counted(commit: Awaitable[object] | None = None) -> tuple[int, int]:
        counters = second.store.counters

        async def read() -> Mapping[str, FunctionCounters]:
            found = await counters()
            if commit is not None:
                await commit
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(second.store, "counters", read)
            await second.lifecycle.follow_counters(second.journal)
        seen = second.now(entry).counters
        return seen.invocation_count, seen.error_count

    assert await counted(second.journal.synced()) == (2, 2)
    assert await counted() == (2, 1)
    await second.invoke(entry)
    assert await counted() == (3, 2)


async def test_nothing_goes_on_behind_a_node_that_is_closed(shared: Path) -> None:
    before = asyncio.all_tasks()
    async with node(shared, "a") as first:
        await first.create()
        asking = [asyncio.ensure_future(first.lifecycle.others.catch_up()) for _ in range(3)]
        await asyncio.sleep(0)
    await asyncio.gather(*asking, return_exceptions=True)
    assert asyncio.all_tasks() == before


async def test_who_catches_up_at_the_same_time_shares_a_read_that_begins_after_all_of_them(
    shared: Path,
) -> None:
    async with node(shared, "a", "sqlite") as first, node(shared, "b", "sqlite") as second:
        catch_up = second.lifecycle.others.catch_up
        with patch.object(second.store, "changes", wraps=second.store.changes) as read:
            early = [asyncio.ensure_future(catch_up()) for _ in range(20)]
            await first.create()
            await asyncio.gather(*early, *(catch_up() for _ in range(20)))
        assert second.catalog.find(TENANT, "f")
        assert read.call_count <= 8


async def test_a_change_that_cannot_be_taken_over_holds_up_no_other(
    nodes: tuple[Harness, Harness], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change cannot be taken over if the code has a bug, or if a later release has written the
    row.
    """
    first, second = nodes
    is_broken, load, own = True, SqlQuotas.load, first.services.quotas._store

    async def broken(self: SqlQuotas, only: Any = None) -> Any:
        if is_broken and self is not own:
            raise ValueError("a quota that nobody can read")
        return await load(self, only)

    monkeypatch.setattr(SqlQuotas, "load", broken)
    await first.store.database.write(
        partial(changes.record, kind=cast("Any", Unheard.OF), tenant_id="t", object_id="o")
    )
    await first.services.quotas.set("acme", TenantQuota(functions=3))
    await first.create()
    await seen(lambda: second.catalog.find(TENANT, "f"))
    is_broken = False
    await seen(lambda: second.services.quotas.of("acme").functions == 3, within_s=2)


class Unheard(StrEnum):
    """A kind of change that only a later release knows."""

    OF = "unheard-of"


async def unreachable() -> None:
    raise StoreUnavailable("no answer")


@promise("N100")
async def test_what_a_node_may_not_have_heard_of_is_not_said_to_be_missing(
    nodes: tuple[Harness, Harness],
) -> None:
    """A client that deletes a function could take a wrong 404 for the proof that it is gone."""
    first, second = nodes
    entry = await first.active("echo 0")
    await first.services.urls.set(entry, FunctionUrl())
    await seen(lambda: second.services.urls.of(entry.function.id))
    path = f"/api/functions/{entry.function.id}"
    unknown = f"/api/functions/00000000{entry.function.id[8:]}"
    missing: list[tuple[str, str, Any]] = [
        ("DELETE", unknown, None),
        ("PUT", unknown, {"handler": "echo 1"}),
        ("GET", unknown, None),
        ("POST", f"{path}/invoke?alias=other", None),
        ("POST", "/api/functions/f@other/invoke", None),
        ("GET", "/api/functions?tenant=other", None),
        ("POST", "/fn/f@other", None),
        ("POST", "/fn/other", None),
        ("POST", "/fn/other/f/further", None),
    ]
    web, others = Web(second), second.lifecycle.others

    async def answers() -> list[tuple[int, str]]:
        found = [await web(*request) for request in missing]
        return [(answer.status_code, answer.json()["error_code"]) for answer in found]

    with away(others, "catch_up"):
        # The last two requests name no known function, so their caller counts as a stranger.
        codes = ["STORE_UNAVAILABLE"] * (len(missing) - 2) + ["CAPACITY_FULL"] * 2
        assert await answers() == [(503, code) for code in codes]
    assert await answers() == [(404, "NOT_FOUND")] * len(missing)  # control
    await web.ask(204, "DELETE", path)


@promise("N100")
async def test_what_another_node_has_just_made_is_there_in_the_next_request(
    nodes: tuple[Harness, Harness],
) -> None:
    first, second = nodes
    web, others = Web(second), second.lifecycle.others
    with patch.object(others, "catch_up", wraps=others.catch_up) as catch_up:
        entry = await first.active("cat")
        await first.services.urls.set(entry, FunctionUrl(auth=Auth.KEY))
        assert (await web.ask(200, "POST", "/fn/f", content=b"1")).text == "1"
        await first.services.aliases.set(entry, Alias(name="other", version=1), None)
        assert (await web.ask(200, "POST", "/fn/f@other", content=b"2")).text == "2"
        await first.services.quotas.set("acme", TenantQuota(functions=3))
        await web.ask(200, "GET", "/api/functions?tenant=acme")
        assert catch_up.called


@promise("N100")
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_call_by_a_url_asks_no_database_and_its_404_is_the_handlers(
    nodes: tuple[Harness, Harness], stream: bool
) -> None:
    first, second = nodes
    entry = await first.active("cat")
    await first.services.urls.set(entry, FunctionUrl(stream=stream))
    await seen(lambda: second.services.urls.of(entry.function.id))
    web = Web(second)
    with away(second.lifecycle.others, "catch_up") as asked:
        answer = await web.ask(404, "POST", "/fn/f", content=b"Status: 404\n\nno such order")
        assert (answer.text, asked.call_count) == ("no such order", 0)
        await first.lifecycle.pause(entry)
        await seen(lambda: state_of(second) is not FunctionState.ACTIVE)
        await web("POST", "/fn/f")
        assert asked.call_count == 1, "it may be active again at another node"
