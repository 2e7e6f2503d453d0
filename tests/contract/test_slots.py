"""Slots of functions, held by the nodes of a fleet: never more together than the maximum."""

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from msgspec.structs import replace
from sqlalchemy import Connection, text

from contract.stores import (
    a_stored_function,
    not_none,
    on_postgresql,
    rows,
    url_of,
)
from promises import promise
from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.function import Function
from quiltfn.model.slots import FunctionSlots
from quiltfn.ports.fleet import NodeEpoch, NotAMember
from quiltfn.store import SqlStore
from quiltfn.store.database.postgres_connection import engine
from quiltfn.store.database.quick_connection import QuickConnection
from quiltfn.store.fleet.slots import LOCKED_MAX, SqlSlots, free
from quiltfn.store.migrations.versions import r0016_slots
from timeouts import full_wait, scaled

pytestmark = promise("N10")

ONE, TWO, THREE = NodeEpoch("one", 1), NodeEpoch("two", 1), NodeEpoch("three", 1)


class Fleet(NamedTuple):
    """A store with three nodes, which request slots."""

    store: SqlStore
    url: str
    slots: SqlSlots
    function: Function

    async def hold(self, node: NodeEpoch, want: int) -> int:
        """Request slots for a node; return how many it has then."""
        found = not_none((await self.slots.hold(node, {self.function.id: want}))[self.function.id])
        return found.held_by(node.name)

    async def now(self) -> FunctionSlots:
        (found,) = await self.slots.of([self.function.id])
        return found

    async def scale(self, most: int) -> None:
        stored = not_none(await self.store.find(self.function.id))
        await self.store.save(replace(stored.function, max_instances=most))

    async def take_over(self, name: str) -> None:
        """Take a node over as another node does, in one transaction."""

        def work(connection: Connection) -> None:
            for statement in (
                "SELECT 1 FROM node WHERE name = :name FOR UPDATE",
                "UPDATE node SET epoch = epoch + 1 WHERE name = :name",
            ):
                connection.execute(text(statement), {"name": name}).close()
            free(connection, name)

        await self.store.database.write(work)


def quick(url: str) -> QuickConnection:
    return QuickConnection(engine(url, is_quick=True))


@contextlib.asynccontextmanager
async def connected(path: Path) -> AsyncIterator[SqlSlots]:
    connection = quick(url_of(path))
    try:
        yield SqlSlots(connection.run)
    finally:
        await connection.aclose()


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with on_postgresql(tmp_path) as store, connected(tmp_path) as slots:
        added = text("INSERT INTO node (name, epoch) VALUES ('one', 1), ('two', 1), ('three', 1)")
        await store.database.write(lambda connection: connection.execute(added).close())
        yield Fleet(store, url_of(tmp_path), slots, await a_stored_function(store))


# Grants --------------------------------------------------------------------------------------


async def test_a_node_gets_what_the_others_leave(fleet: Fleet) -> None:
    assert await fleet.hold(ONE, 2) == 2
    assert await fleet.hold(TWO, 9) == 3
    assert await fleet.hold(THREE, 1) == 0
    assert await fleet.hold(ONE, 2) == 2  # repeating the request changes nothing
    found = await fleet.now()
    assert found.held == {"one": 2, "two": 3, "three": 0}
    assert found.max_instances == 5
    assert found.wanted_by_others("one") == 7
    assert found.wanted_by_others("two") == 1


async def test_what_is_given_back_another_node_gets(fleet: Fleet) -> None:
    await fleet.hold(ONE, 5)
    assert await fleet.hold(TWO, 2) == 0
    assert await fleet.hold(ONE, 4) == 4
    assert await fleet.hold(TWO, 2) == 1
    assert await fleet.hold(ONE, 0) == 0
    assert await fleet.hold(TWO, 2) == 2
    assert (await fleet.now()).held == {"two": 2}
    assert [one.function_id for one in await fleet.slots.held("two")] == [fleet.function.id]
    assert await fleet.slots.held("one") == []


async def test_below_what_is_held_the_maximum_lets_nobody_have_more(fleet: Fleet) -> None:
    """The operator lowers the maximum while every instance runs."""
    await fleet.hold(ONE, 3)
    await fleet.hold(TWO, 2)
    await fleet.scale(2)
    # The node keeps what it has, and ends its surplus by itself.
    assert await fleet.hold(ONE, 4) == 3
    assert await fleet.hold(THREE, 1) == 0
    found = await fleet.now()
    assert {node: found.share_of(node) for node in ("one", "two", "three")} == {
        "one": 1,
        "two": 1,
        "three": 0,
    }
    assert await fleet.hold(ONE, 1) == 1
    # The others have three together: still above the maximum.
    assert await fleet.hold(THREE, 1) == 0
    assert await fleet.hold(TWO, 0) == 0
    assert await fleet.hold(THREE, 1) == 1
    await fleet.scale(4)
    assert await fleet.hold(TWO, 9) == 2


async def test_several_functions_are_asked_for_at_once(fleet: Fleet) -> None:
    other = await a_stored_function(fleet.store, max_instances=1)
    await fleet.hold(TWO, 4)
    found = await fleet.slots.hold(ONE, {fleet.function.id: 3, other.id: 3, "none": 1})
    assert {key: one and one.held_by("one") for key, one in found.items()} == {
        fleet.function.id: 1,
        other.id: 1,
        "none": None,
    }
    await fleet.store.delete(other.id)
    assert await fleet.slots.hold(ONE, {other.id: 4}) == {other.id: None}
    assert [one.function_id for one in await fleet.slots.held("one")] == [fleet.function.id]


# Starts and take-overs -----------------------------------------------------------------------


async def test_a_node_that_was_taken_over_holds_nothing_and_gets_nothing(fleet: Fleet) -> None:
    await fleet.hold(ONE, 5)
    await fleet.take_over("one")
    with pytest.raises(NotAMember, match="one has been taken over"):
        await fleet.hold(ONE, 1)
    with pytest.raises(NotAMember):
        await fleet.slots.hold(NodeEpoch("nobody", 1), {fleet.function.id: 1})
    assert await fleet.hold(TWO, 5) == 5
    assert await fleet.hold(NodeEpoch("one", 2), 1) == 0


async def test_a_take_over_takes_what_is_being_granted_at_that_moment(fleet: Fleet) -> None:
    """The node requests slots while it is taken over. Either the grant comes first and is taken
    back, or it comes later and is refused: a lost node must not keep slots.
    """
    with psycopg.connect(fleet.url) as held_up:
        held_up.execute("SELECT 1 FROM slot FOR UPDATE")
        asking = asyncio.ensure_future(fleet.hold(ONE, 3))
        await until_blocked(fleet.url, 1)
        taking = asyncio.ensure_future(fleet.take_over("one"))
        await until_blocked(fleet.url, 2)
    assert await asking == 3
    await taking
    assert (await fleet.now()).held == {}


async def test_a_wish_that_arrives_late_changes_nothing(fleet: Fleet) -> None:
    """If a connection ends while the database is busy, its request may be executed after the node's
    next one.
    """
    connection = quick(fleet.url)
    late = SqlSlots(connection.run)
    try:
        assert await fleet.hold(ONE, 1) == 1
        assert await fleet.hold(ONE, 3) == 3
        # The first request of `late` is older than the second one of the node.
        await late.hold(ONE, {fleet.function.id: 1})
        assert (await fleet.now()).held == {"one": 3}
        await late.hold(ONE, {fleet.function.id: 1})
        await late.hold(ONE, {fleet.function.id: 1})  # the third request of `late` is newer
        assert (await fleet.now()).held == {"one": 1}
        # The late request changes nothing even if the node has returned all slots since then.
        await fleet.slots.hold(ONE, {fleet.function.id: 2})
        assert await fleet.hold(ONE, 2) == 2
        assert await fleet.hold(ONE, 0) == 0
        await late.hold(ONE, {fleet.function.id: 3})
        assert (await fleet.now()).held == {}
        assert await fleet.hold(TWO, 5) == 5
        assert "one" in await stored(fleet)
        await later(fleet, 61)
        await fleet.hold(TWO, 0)
        # A node that wants no slots is removed from the row in the end.
        assert await stored(fleet) == {"two"}
    finally:
        await connection.aclose()


async def stored(fleet: Fleet) -> set[str]:
    """The nodes in the row of the function."""
    query = text("SELECT json_object_keys(held) FROM slot")
    return set(await fleet.store.database.read(lambda c: c.execute(query).scalars().all()))


async def later(fleet: Fleet, seconds: int) -> None:
    """Let `seconds` pass for the node that is to be forgotten."""
    change = text(
        "UPDATE slot SET held = CAST(jsonb_set(CAST(held AS jsonb), '{one,forget_at}', to_jsonb("
        "CAST(held #>> '{one,forget_at}' AS bigint) - :s)) AS json)"
    )
    await fleet.store.database.write(lambda c: c.execute(change, {"s": seconds}).close())


# The connection ------------------------------------------------------------------------------


async def test_asking_does_not_wait_for_those_who_write(fleet: Fleet) -> None:
    """A slow group commit must not keep an invocation from its instance."""
    begun, go_on = threading.Event(), threading.Event()

    def long(connection: Connection) -> None:
        connection.execute(text("UPDATE function SET error_count = error_count + 1"))
        begun.set()
        go_on.wait(scaled(10))

    writing = asyncio.ensure_future(fleet.store.database.write(long))
    await asyncio.to_thread(begun.wait, scaled(10))
    assert await fleet.hold(ONE, 2) == 2
    assert not writing.done()
    go_on.set()
    await writing


async def test_a_connection_that_has_ended_is_made_anew(fleet: Fleet) -> None:
    assert await fleet.hold(ONE, 1) == 1
    with psycopg.connect(fleet.url, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
    with pytest.raises(StoreUnavailable):
        await fleet.hold(ONE, 2)
    assert await fleet.hold(ONE, 2) == 2


async def test_it_does_not_wait_for_a_lock_for_long(fleet: Fleet) -> None:
    with psycopg.connect(fleet.url) as held_up:
        held_up.execute("SELECT 1 FROM slot FOR UPDATE")
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            await fleet.hold(ONE, 2)
    assert time.monotonic() - began < scaled(3)
    assert await fleet.hold(ONE, 2) == 2


async def test_a_function_that_is_locked_holds_up_no_other(fleet: Fleet) -> None:
    # The request waits for at most one second for each of LOCKED_MAX functions.
    most_s = scaled(LOCKED_MAX + 1.5)
    others = [(await a_stored_function(fleet.store)).id for _ in range(int(most_s) + 2)]
    wants = dict.fromkeys([others[0], fleet.function.id, *others[1:]], 2)
    with psycopg.connect(fleet.url) as held_up:
        held_up.execute("SELECT 1 FROM slot WHERE function_id = ANY(%s) FOR UPDATE", (others,))
        began = time.monotonic()
        found = await fleet.slots.hold(ONE, wants)
    assert time.monotonic() - began < most_s
    assert {key: one and one.held_by("one") for key, one in found.items()} == {fleet.function.id: 2}
    assert set(await fleet.slots.hold(ONE, wants)) == wants.keys()


# The race ------------------------------------------------------------------------------------

RACERS, MOST, RACE_S = 6, 3, 3.0


def test_no_race_exceeds_the_maximum(tmp_path: Path) -> None:
    """Six nodes request and return slots as fast as they can. Each counts its slots in shared
    memory: it raises the number after a response, and lowers it before it returns any.
    """
    most, grants = race(tmp_path, by_slots)
    assert grants > 30
    assert most == MOST


def test_a_grant_that_reads_and_then_writes_exceeds_it(tmp_path: Path) -> None:
    """Negative control: the race must find a grant that reads first and then writes."""
    most, _ = race(tmp_path, by_reading)
    assert most > MOST


Ask = Callable[[SqlSlots, NodeEpoch, str, int], int]


def by_slots(slots: SqlSlots, node: NodeEpoch, function_id: str, want: int) -> int:
    found = not_none(asyncio.run(slots.hold(node, {function_id: want}))[function_id])
    return found.held_by(node.name)


def by_reading(slots: SqlSlots, node: NodeEpoch, function_id: str, want: int) -> int:
    """The mistake: grants slots by data that was read a moment ago."""

    def work(connection: Connection) -> int:
        driver = not_none(connection.connection.driver_connection)
        query = "SELECT held FROM slot WHERE function_id = %s"
        found = driver.execute(query, (function_id,)).fetchone()[0]
        others = sum(one["count"] for name, one in found.items() if name != node.name)
        count = min(want, max(0, MOST - others))
        driver.execute(
            "UPDATE slot SET held = CAST(held AS jsonb) || jsonb_build_object(CAST(%s AS text),"
            " jsonb_build_object('count', CAST(%s AS integer))) WHERE function_id = %s",
            (node.name, count, function_id),
        )
        return count

    async def asked() -> int:
        return await slots._quickly(work)

    return asyncio.run(asked())


def race(path: Path, ask: Ask) -> tuple[int, int]:
    """The largest number of slots that were held at the same time, and how many were granted in
    total.
    """
    function_id = asyncio.run(with_racers(path))
    counts, tally = [0] * RACERS, threading.Lock()
    most, grants = 0, 0
    end = time.monotonic() + full_wait(RACE_S)

    def note(number: int, count: int) -> None:
        nonlocal most, grants
        with tally:
            grants += count > counts[number]
            counts[number] = count
            most = max(most, sum(counts))

    def run_node(number: int) -> None:
        connection = quick(url_of(path))
        slots, node = SqlSlots(connection.run), NodeEpoch(f"racer-{number}", 1)
        while time.monotonic() < end:
            note(number, ask(slots, node, function_id, 1 + number % 2))
            # The node uses its slots, and the others request theirs.
            time.sleep(random.random() * 0.005)
            note(number, 0)
            ask(slots, node, function_id, 0)
        asyncio.run(connection.aclose())

    with ThreadPoolExecutor(RACERS) as racers:
        for done in [racers.submit(run_node, number) for number in range(RACERS)]:
            done.result()
    return most, grants


async def with_racers(path: Path) -> str:
    async with on_postgresql(path) as store:
        names = ", ".join(f"('racer-{number}', 1)" for number in range(RACERS))
        added = text(f"INSERT INTO node (name, epoch) VALUES {names}")
        await store.database.write(lambda connection: connection.execute(added).close())
        return (await a_stored_function(store, max_instances=MOST)).id


# The rows of both databases ------------------------------------------------------------------


async def test_the_maximum_is_kept_with_the_function(store: SqlStore, tmp_path: Path) -> None:
    query = "SELECT function_id, max_instances FROM slot"
    function = await a_stored_function(store, max_instances=7)
    assert rows(tmp_path, query) == [(function.id, 7)]
    saved = await store.save(replace(function, max_instances=9))
    assert rows(tmp_path, query) == [(function.id, 9)]
    await store.save(replace(saved, description="another"))
    assert rows(tmp_path, query) == [(function.id, 9)]
    await store.delete(function.id)
    assert rows(tmp_path, query) == []


async def test_older_functions_get_their_maximum(store: SqlStore, tmp_path: Path) -> None:
    await a_stored_function(store, max_instances=7)

    def upgrade_again(connection: Connection) -> None:
        connection.execute(text("DROP TABLE slot"))
        with Operations.context(MigrationContext.configure(connection)):
            r0016_slots.upgrade()

    await store.database.write(upgrade_again)
    assert rows(tmp_path, "SELECT max_instances FROM slot") == [(7,)]


async def until_blocked(url: str, count: int) -> None:
    """Waits until this many statements wait for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    until = time.monotonic() + scaled(5)
    with psycopg.connect(url, autocommit=True) as watcher:
        while watcher.execute(query).fetchone() != (count,):
            assert time.monotonic() < until, "nobody waits for the lock"
            await asyncio.sleep(0.005)
