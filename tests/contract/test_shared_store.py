"""Two servers that share one store: each has its own node, its own spool and its own catalog."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection, event

from contract.stores import (
    SharedStoreOpener,
    a_call,
    a_function,
    a_stored_function,
    a_version,
    an_operation,
    done,
    eventually,
    not_none,
    opened_journal,
    rows,
)
from contract.test_schedule_store import a_schedule
from manual_clock import ManualClock
from promises import promise
from quiltfn.api.http import idempotency
from quiltfn.api.http.idempotency import Idempotency
from quiltfn.api.http.response import Response
from quiltfn.base import store_retry as until_stored
from quiltfn.fleet.follower import Follower
from quiltfn.functions import elasticity
from quiltfn.functions.aliases import Aliases
from quiltfn.functions.catalog import Catalog, Entry
from quiltfn.functions.elasticity import Elasticity
from quiltfn.functions.lifecycle import Lifecycle, NodeConfig
from quiltfn.functions.version_cache import KnownVersions
from quiltfn.model.access import Key, Scope
from quiltfn.model.alias import Alias
from quiltfn.model.errors import Conflict, NotFound, OutcomeUnknown, Outdated, StoreUnavailable
from quiltfn.model.function import Function
from quiltfn.model.idempotency import IdempotentRequest
from quiltfn.model.image import TenantImage
from quiltfn.model.invocation import Invocation, Status
from quiltfn.model.limits import PoolLimits
from quiltfn.model.runtime import SHELL
from quiltfn.model.tenant_quota import TenantQuota
from quiltfn.model.url import FunctionUrl
from quiltfn.model.version import HostLimits
from quiltfn.model.work import AsyncPolicy
from quiltfn.pool.local import LocalPools
from quiltfn.ports import ChangeKind, ChangePage, FunctionCounters
from quiltfn.sandbox.fake import FakeSandboxes
from quiltfn.store import (
    SpoolJournal,
    SqlAliases,
    SqlIdempotencyStore,
    SqlKeys,
    SqlOperations,
    SqlPolicies,
    SqlQuotas,
    SqlRuntimes,
    SqlSchedules,
    SqlStore,
    SqlTenantImages,
    SqlUrls,
    SqlWork,
    StoreBroken,
    open_sqlite,
)
from quiltfn.store.database import changes
from quiltfn.store.fleet.image_copies import SqlImageCopies
from timeouts import scaled

NOW = 1_760_000_000
REQUEST = IdempotentRequest(tenant_id="t", method="POST", path="/f", key="k", body_digest="d")
LOST = b'{"error":"lost"}'


class Server(NamedTuple):
    store: SqlStore
    journal: SpoolJournal
    catalog: Catalog
    follower: Follower


@contextlib.asynccontextmanager
async def started(
    open_shared: SharedStoreOpener, path: Path, node_id: str
) -> AsyncIterator[Server]:
    """A server's view of the store, right after its start."""
    spool_dir = path / node_id
    async with (
        open_shared(path / "shared", node_id) as store,
        opened_journal(store, spool_dir) as journal,
    ):
        await SqlIdempotencyStore(store.database).start(LOST)
        catalog = Catalog()
        follower = a_follower(catalog, store)
        await follower.start()
        for stored in await store.load():
            catalog.add(Entry(stored.function, stored.version, stored.counters))
        yield Server(store, journal, catalog, follower)


def a_follower(catalog: Catalog, store: Any) -> Follower:
    """A follower that applies changes of functions to a catalog, without any instances."""
    clock = ManualClock()
    node = NodeConfig(
        node_id="node-1",
        host=HostLimits(memory_max_mib=65_536, cores=2, timeout_max_s=60),
        runtimes=cast("Any", None),
        pools=PoolLimits(),
        may_run=lambda _: True,
    )
    pools = LocalPools(FakeSandboxes(), clock)
    aliases = Aliases(SqlAliases(store.database), catalog, KnownVersions(store), clock)
    lifecycle = Lifecycle(catalog, store, aliases, pools, clock, node)
    follower = Follower(store)
    follower.connect({ChangeKind.FUNCTION: lifecycle.follow_changes})
    return follower


@pytest.fixture
async def servers(
    open_shared: SharedStoreOpener, tmp_path: Path
) -> AsyncIterator[tuple[Server, Server]]:
    async with (
        started(open_shared, tmp_path, "one") as first,
        started(open_shared, tmp_path, "two") as second,
    ):
        yield first, second


def names(server: Server) -> dict[str, tuple[int, int]]:
    """The functions of a server's catalog: revision and current version, by name."""
    found = {
        entry.function.name: (entry.function.revision, entry.version.number)
        for entry in server.catalog.of_tenant("default")
    }
    assert all(server.catalog.by_name("default", name) for name in found)
    return found


def of_node(function: Function, node_id: str, status: Status = Status.RUNNING) -> Invocation:
    return replace(a_call(function), execution_node_id=node_id, status=status)


# Conflicts -----------------------------------------------------------------------------------


async def test_a_change_over_another_server_s_is_refused(servers: tuple[Server, Server]) -> None:
    first, second = servers
    function = await a_stored_function(first.store)
    saved = await first.store.save(replace(function, description="one"))
    version = a_version(function, 2)
    with pytest.raises(Outdated, match="another server"):
        await second.store.save(replace(function, description="two", current_version=2), version)
    stored = not_none(await second.store.find(function.id))
    assert stored.function == saved  # the version was not stored either
    assert await second.store.newest_number(function.id) == 1
    again = replace(stored.function, description="two", current_version=2)
    assert (await second.store.save(again, version)).revision == saved.revision + 1
    await first.store.delete(function.id)
    with pytest.raises(NotFound):
        await second.store.save(again)


@promise("D29")
async def test_of_changes_at_once_exactly_one_is_made(servers: tuple[Server, Server]) -> None:
    function = await a_stored_function(servers[0].store)
    for round_ in range(5):
        tried = [
            server.store.save(replace(function, description=f"{round_}-{number}"))
            for number in range(4)
            for server in servers
        ]
        got = await asyncio.gather(*tried, return_exceptions=True)
        made = [one for one in got if isinstance(one, Function)]
        assert len(made) == 1
        assert sum(isinstance(one, Outdated) for one in got) == 7
        function = made[0]
        assert not_none(await servers[1].store.find(function.id)).function == function


# Changes by the other server -----------------------------------------------------------------


@promise("D29")
async def test_each_server_sees_what_the_other_one_changes(servers: tuple[Server, Server]) -> None:
    first, second = servers
    function = await a_stored_function(first.store, name="first")
    await second.follower.refresh()
    assert names(second) == {"first": (1, 1)}

    renamed = replace(function, name="renamed", current_version=2)
    await second.store.save(renamed, a_version(function, 2))
    other = await a_stored_function(second.store, name="first")
    await first.follower.refresh()
    assert names(first) == {"renamed": (2, 2), "first": (1, 1)}

    await first.store.delete(other.id)
    await second.follower.refresh()
    await second.follower.refresh()  # a second refresh finds nothing new
    assert names(second) == {"renamed": (2, 2)}
    with pytest.raises(NotFound):
        second.catalog.by_id("default", other.id)


async def test_a_server_s_changes_are_not_brought_again(servers: tuple[Server, Server]) -> None:
    server, _ = servers
    function = a_function(name="mine")
    entry = Entry(function, a_version(function), FunctionCounters())
    await server.store.create(entry.function, entry.version)
    await server.follower.refresh()  # this refresh happens between the two steps of the operation
    server.catalog.add(entry)
    await server.follower.refresh()
    assert server.catalog.by_id("default", function.id) is entry
    assert [found.function.id for found in server.catalog.of_tenant("default")] == [function.id]
    saved = await server.store.save(replace(function, description="new"))
    entry = server.catalog.replace(saved)
    await server.follower.refresh()
    assert server.catalog.by_name("default", "mine").function == saved
    await server.store.delete(function.id)
    await server.follower.refresh()
    server.catalog.remove(entry)
    assert names(server) == {}


@promise("N21")
async def test_every_shared_state_is_among_the_changes(servers: tuple[Server, Server]) -> None:
    first, second = servers
    database = first.store.database
    function = await a_stored_function(first.store)
    since = await second.store.newest_change()
    runtimes, images = SqlRuntimes(database), SqlTenantImages(database)
    copies, quotas = SqlImageCopies(database), SqlQuotas(database)
    keys, schedules = SqlKeys(database), SqlSchedules(database, SqlWork(database).accept_in)
    key = Key(id="a", tenant_id="t", scope=Scope.READ, prefix="p", digest="d", created_at=1)
    schedule = a_schedule(function)
    other = replace(schedule, payload="other")
    alias = Alias(name="a", version=1, revision=1)
    urls, policies, aliases = SqlUrls(database), SqlPolicies(database), SqlAliases(database)
    own, digest = function.id, "0" * 64
    made: list[tuple[str, str, Callable[[], Awaitable[object]]]] = [
        ("runtime", "etl", lambda: runtimes.save("t", replace(SHELL, name="etl"))),
        ("runtime", "etl", lambda: runtimes.remove("t", "etl")),
        ("image", digest, lambda: images.add(TenantImage("t", digest, 5))),
        ("image", digest, lambda: images.remove("t", digest)),
        ("key", "a", lambda: keys.add(key)),
        ("key", "a", lambda: keys.revoke(key, 2)),
        ("quota", "t", lambda: quotas.change("t", lambda _: TenantQuota(functions=1))),
        ("url", own, lambda: urls.save(own, FunctionUrl())),
        ("url", own, lambda: urls.save(own, None)),
        ("alias", own, lambda: aliases.save(own, "a", alias, None)),
        ("alias", own, lambda: aliases.save(own, "a", None, alias)),
        ("policy", own, lambda: policies.save_async(own, AsyncPolicy(max_queued=7))),
        ("policy", own, lambda: policies.save_record(own, None)),
        ("schedule", schedule.id, lambda: schedules.add(schedule, 10)),
        ("schedule", schedule.id, lambda: schedules.save(other, schedule)),
        ("schedule", schedule.id, lambda: schedules.remove(schedule.tenant_id, schedule.name)),
        ("image_copy", digest, lambda: copies.state("one", [digest])),
        ("image_copy", digest, lambda: copies.state("one", [])),
        ("function", own, lambda: first.store.save(function)),
        ("function", own, lambda: first.store.delete(own)),
    ]
    assert {kind for kind, _, _ in made} == {kind.value for kind in ChangeKind}
    for kind, object_id, step in made:
        await step()
        (change,) = (await second.store.changes(since)).items
        since += 1
        assert (change.kind, change.object_id, change.number) == (kind, object_id, since)
    # The removal of a missing object, or a refused change, is not recorded.
    await runtimes.remove("t", "etl")
    await images.remove("t", digest)
    await keys.revoke(key, 3)
    await schedules.remove(schedule.tenant_id, schedule.name)
    for refused in (
        urls.save(own, FunctionUrl()),
        policies.save_async(own, None),
        schedules.add(schedule, 10),
    ):
        with pytest.raises(NotFound):
            await refused
    assert (await second.store.changes(since)).items == []


async def test_a_look_for_changes_is_one_query(servers: tuple[Server, Server]) -> None:
    first, second = servers
    await a_stored_function(first.store)
    since = await second.store.newest_change()
    queries: list[str] = []

    def look(connection: Connection) -> ChangePage:
        def note(*about: Any) -> None:
            queries.append(about[2])

        event.listen(connection, "before_cursor_execute", note)
        try:
            return changes.since(connection, since, 10)
        finally:
            event.remove(connection, "before_cursor_execute", note)

    assert await second.store.database.read(look) == ChangePage(items=[], is_complete=True)
    await a_stored_function(first.store)
    page = await second.store.database.read(look)
    assert (len(page.items), page.is_complete) == (1, True)
    assert len(queries) == 2, queries


async def test_changes_are_read_in_pages(servers: tuple[Server, Server]) -> None:
    first, second = servers
    function = await a_stored_function(first.store)
    since = await second.store.newest_change()
    for _ in range(3):
        function = await first.store.save(function)
    page = await second.store.changes(since)
    assert page.is_complete
    assert len(page.items) == 3
    assert not page.has_more
    short = await second.store.changes(since, limit=1)
    assert (short.items, short.has_more) == (page.items[:1], True)
    with pytest.raises(Outdated):
        await first.store.save(replace(function, revision=1))
    await first.store.delete("unknown")
    assert (await second.store.changes(since)).items == page.items  # both requests changed nothing


@promise("N21")
async def test_no_number_appears_behind_a_reader(servers: tuple[Server, Server]) -> None:
    """One transaction has its number, and commits slowly. If numbers came from a sequence, another
    transaction would be visible before it, and a reader that continues from there would never see
    the first.
    """
    first, second = servers
    since = await second.store.newest_change()
    is_recorded, may_commit = threading.Event(), threading.Event()

    def slow(connection: Connection) -> None:
        changes.record(connection, ChangeKind.KEY, "t", "slow")
        is_recorded.set()
        assert may_commit.wait(scaled(5))

    writing = [asyncio.ensure_future(first.store.database.write(slow))]
    assert await asyncio.to_thread(is_recorded.wait, scaled(5))
    writing.append(
        asyncio.ensure_future(
            second.store.database.write(
                lambda connection: changes.record(connection, ChangeKind.KEY, "t", "quick")
            )
        )
    )
    for _ in range(10):
        assert (await second.store.changes(since)).items == []
        await asyncio.sleep(0.02)
    may_commit.set()
    await asyncio.gather(*writing)
    found = (await second.store.changes(since)).items
    assert [(one.number, one.object_id) for one in found] == [
        (since + 1, "slow"),
        (since + 2, "quick"),
    ]


async def test_a_reader_beside_many_writers_misses_nothing(servers: tuple[Server, Server]) -> None:
    seen, since = list[str](), await servers[0].store.newest_change()

    async def write(server: Server, name: str) -> None:
        for number in range(40):
            await server.store.database.write(
                partial(
                    changes.record, kind=ChangeKind.KEY, tenant_id="t", object_id=name + str(number)
                )
            )

    writers = [
        asyncio.ensure_future(write(server, name))
        for server, name in zip(servers * 2, "abcd", strict=True)
    ]
    while len(seen) < 160:
        is_over = all(one.done() for one in writers)
        for change in (await servers[1].store.changes(since)).items:
            seen.append(change.object_id)
            since = change.number
        assert not is_over or len(seen) == 160
    await asyncio.gather(*writers)
    assert len(set(seen)) == 160


@promise("D29", "N21")
async def test_who_has_missed_too_much_loads_everything_again(
    servers: tuple[Server, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of changes keeps only the newest ones."""
    monkeypatch.setattr(changes, "KEPT", 5)
    monkeypatch.setattr(changes, "REMOVE_EVERY", 1)
    first, second = servers
    gone, stays = await a_stored_function(first.store), await a_stored_function(first.store)
    await second.follower.refresh()
    await first.store.delete(gone.id)
    await a_stored_function(first.store, name="brought")
    for _ in range(7):
        stays = await first.store.save(stays)
    assert rows(tmp_path / "shared", "SELECT count(*) FROM change") == [(5,)]
    assert not (await second.store.changes(0)).is_complete
    await second.follower.refresh()
    assert names(second) == {stays.name: (8, 1), "brought": (1, 1)}
    # Such a number is from before a backup was restored.
    assert not (await second.store.changes(10_000)).is_complete


class HeldStore:
    """A store that delays the next response of one method."""

    def __init__(self, store: SqlStore, method: str) -> None:
        self._store, self._method = store, method
        self.has_answered, self.may_return = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        ask = getattr(self._store, name)

        async def held(*arguments: object) -> object:
            answer = await ask(*arguments)
            if name == self._method:
                self.has_answered.set()
                await self.may_return.wait()
            return answer

        return held


async def refreshed_while(
    server: Server, method: str, change: Callable[[], Awaitable[None]]
) -> Follower:
    """Refresh the server's catalog, and make `change` after the store has responded and before the
    response arrives.
    """
    held = HeldStore(server.store, method)
    follower = a_follower(server.catalog, held)
    refreshing = asyncio.ensure_future(follower.refresh())
    async with asyncio.timeout(scaled(5)):
        await held.has_answered.wait()
        await change()
        held.may_return.set()
        await refreshing
    return follower


def keep_few_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "KEPT", 1)
    monkeypatch.setattr(changes, "REMOVE_EVERY", 1)


@pytest.mark.parametrize("method", ["newest_change", "load"])
async def test_what_a_server_makes_while_it_loads_everything_stays(
    servers: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    first, second = servers
    keep_few_changes(monkeypatch)
    brought = await a_stored_function(second.store, name="brought")
    brought = await second.store.save(brought)
    mine = a_function(name="mine")

    async def make() -> None:
        version = a_version(mine)
        await first.store.create(mine, version)
        first.catalog.add(Entry(mine, version, FunctionCounters()))

    follower = await refreshed_while(first, method, make)
    assert names(first) == {"brought": (2, 1), "mine": (1, 1)}
    await second.store.delete(mine.id)
    await follower.refresh()
    assert names(first) == {"brought": (2, 1)}


@pytest.mark.parametrize("is_whole", [False, True])
async def test_what_a_server_deletes_while_the_store_answers_stays_deleted(
    servers: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch, is_whole: bool
) -> None:
    server, _ = servers
    function = await a_stored_function(server.store, name="mine")
    await server.follower.refresh()
    if is_whole:
        keep_few_changes(monkeypatch)
        await server.store.save(function)

    async def delete() -> None:
        await server.store.delete(function.id)
        server.catalog.remove(server.catalog.get(function.id))

    added: list[Entry] = []
    monkeypatch.setattr(server.catalog, "add", added.append)
    await refreshed_while(server, "load", delete)
    assert names(server) == {}
    assert added == []  # the function was not added even for a moment


async def test_changes_that_could_not_be_loaded_are_loaded_the_next_time(
    servers: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = servers
    keep_few_changes(monkeypatch)
    await second.store.save(await a_stored_function(second.store, name="brought"))
    with monkeypatch.context() as broken:
        broken.setattr(SqlStore, "load", unavailable)
        with pytest.raises(StoreUnavailable):
            await first.follower.refresh()
    await first.follower.refresh()
    assert names(first) == {"brought": (2, 1)}


async def unavailable(_store: SqlStore) -> None:
    raise StoreUnavailable("the disk is away")


# Unfinished calls ----------------------------------------------------------------------------


@promise("D28")
async def test_a_start_ends_its_own_calls_and_leaves_those_of_the_other_server(
    open_shared: SharedStoreOpener, tmp_path: Path
) -> None:
    async with started(open_shared, tmp_path, "one") as server:
        function = await a_stored_function(server.store)
        ours = of_node(function, "one")
        server.journal.opened(ours)
        await server.journal.synced()
        async with started(open_shared, tmp_path, "two") as other:
            theirs, queued = of_node(function, "two"), of_node(function, "two", Status.QUEUED)
            other.journal.opened(theirs)
            other.journal.opened(queued)
            await other.journal.synced()
            answers = SqlIdempotencyStore(other.store.database)
            assert await answers.reserve(REQUEST, NOW) is None
            operations = SqlOperations(other.store.database)
            await operations.add(an_operation(NOW))
            assert list(await operations.interrupted()) == []
        async with started(open_shared, tmp_path, "three") as three:
            assert await three.journal.get(function.id, theirs.invocation_id) == theirs
            kept = not_none(await SqlIdempotencyStore(three.store.database).reserve(REQUEST, NOW))
            assert kept.status is None
            assert list(await SqlOperations(three.store.database).interrupted()) == []
        async with started(open_shared, tmp_path, "two") as other:
            found = not_none(await other.journal.get(function.id, theirs.invocation_id))
            assert found.status is Status.INTERRUPTED
            assert await other.journal.get(function.id, queued.invocation_id) == queued
            assert await other.journal.get(function.id, ours.invocation_id) == ours
            kept = not_none(await SqlIdempotencyStore(other.store.database).reserve(REQUEST, NOW))
            assert (kept.status, kept.body) == (503, LOST)
            interrupted = await SqlOperations(other.store.database).interrupted()
            assert list(interrupted) == [an_operation(NOW)]
        server.journal.closed(done(ours))
        await server.journal.synced()
        stored = not_none(await server.store.find(function.id))
        assert (stored.counters.invocation_count, stored.counters.error_count) == (2, 1)


@promise("N90")
@pytest.mark.parametrize("untold", ["that it is taken", "the answer", "that it is free"])
async def test_a_key_that_the_store_was_not_told_of_in_time_is_no_longer_its_servers(
    servers: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch, untold: str
) -> None:
    """The client repeats the request at the other server. The first one must no longer have the
    key.
    """
    monkeypatch.setattr(idempotency, "STORE_AGAIN_S", 0.01)
    first, second = (
        Idempotency(SqlIdempotencyStore(each.store.database), ManualClock()) for each in servers
    )
    ran = 0

    async def execute() -> Response:
        nonlocal ran
        ran += untold != "that it is free"
        return Response(status=200, body=b"done", executed=untold != "that it is free")

    async def unknown(self: SqlIdempotencyStore, *given: Any, **more: Any) -> None:
        patch.undo()
        if untold == "that it is taken":
            await self.reserve(*given, **more)
        raise OutcomeUnknown

    name = {"that it is taken": "reserve", "the answer": "complete"}.get(untold, "release")
    telling = asyncio.ensure_future(first.tell_again())
    with monkeypatch.context() as patch:
        patch.setattr(SqlIdempotencyStore, name, unknown)
        with contextlib.suppress(StoreUnavailable):
            await first.run(REQUEST, execute)
    before = ran
    async with asyncio.timeout(scaled(5)):
        while True:
            with contextlib.suppress(Conflict):  # according to the store, the request still runs
                answer = await second.run(REQUEST, execute)
                break
            await asyncio.sleep(0.01)
    assert (answer.status, answer.body) == (200, b"done")
    assert (before, ran) == {
        "that it is taken": (0, 1),
        "the answer": (1, 1),
        "that it is free": (0, 0),
    }[untold]
    telling.cancel()
    await asyncio.wait([telling])


class Targets:
    """The part of `Lifecycle` that sets targets. `count`: how often it has done so."""

    def __init__(self) -> None:
        self.count = 0

    async def set_scaling(self, entry: Entry, *_: int) -> Entry:
        self.count += 1
        return entry


@promise("N90")
@pytest.mark.parametrize("untold", ["add", "finish"])
async def test_an_operation_that_the_store_was_not_told_of_is_not_under_way_for_ever(
    servers: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch, untold: str
) -> None:
    for module in (elasticity, until_stored):
        monkeypatch.setattr(module, "STORE_AGAIN_S", 0.01)
    targets, entry = Targets(), Entry(a_function(), cast("Any", None), FunctionCounters())
    first, second = (
        Elasticity(cast("Any", targets), SqlOperations(each.store.database), ManualClock())
        for each in servers
    )
    tell, left = getattr(SqlOperations, untold), [OutcomeUnknown()]

    async def unknown(self: SqlOperations, *given: Any) -> Any:
        if left and untold == "finish":
            raise left.pop()
        reply = await tell(self, *given)
        if left:
            raise left.pop()
        return reply

    monkeypatch.setattr(SqlOperations, untold, unknown)
    with pytest.raises(StoreUnavailable):
        await first.controlled(entry, (0, 1), "k", "a")

    async def is_over() -> bool:
        operation, _ = await second.controlled(entry, (0, 1), "k", "a")
        return operation.status == elasticity.APPLIED

    await eventually(is_over)
    assert targets.count == 1
    await first.aclose()


async def test_a_renamed_server_ends_what_it_left_under_its_old_name(tmp_path: Path) -> None:
    """A container gets another host name at every start, but keeps its data directory. Its calls
    under the old name must end.
    """
    async with open_sqlite(tmp_path, node_id="old") as store:
        function = await a_stored_function(store)
        call = of_node(function, "old")
        async with opened_journal(store, tmp_path) as journal:
            journal.opened(call)
    async with open_sqlite(tmp_path, node_id="new") as store:
        async with opened_journal(store, tmp_path) as journal:
            found = not_none(await journal.get(function.id, call.invocation_id))
            assert found.status is Status.INTERRUPTED
    assert rows(tmp_path, "SELECT name, epoch FROM node ORDER BY epoch") == [("old", 1), ("new", 2)]


async def test_a_spool_belongs_to_a_server(open_shared: SharedStoreOpener, tmp_path: Path) -> None:
    async with started(open_shared, tmp_path, "one"):
        async with open_shared(tmp_path / "shared", "two") as store:
            with pytest.raises(StoreBroken, match="Another quiltfn"):
                async with opened_journal(store, tmp_path / "one"):
                    pass
            with pytest.raises(StoreBroken, match="Another server writes the journal"):
                async with opened_journal(store, tmp_path / "shared"):
                    pass


@promise("N46")
async def test_image_quotas_hold_for_simultaneous_uploads(servers: tuple[Server, Server]) -> None:
    stores = [SqlTenantImages(one.store.database) for one in servers]
    for number in range(10):
        uploads = [
            one.add(TenantImage(f"t{number}", f"{which:064}", 600), 1000)
            for which, one in enumerate(stores)
        ]
        assert sorted(await asyncio.gather(*uploads)) == [False, True]
