"""What a joined node does with what it reads of members, and how its parts end."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from in_thread_jobs import InThreadJobs
from manual_clock import ManualClock
from quiltfn.base.others import Others
from quiltfn.fleet.join import NodeControl
from quiltfn.fleet.membership import Membership
from quiltfn.fleet.node import JoinedNode
from quiltfn.fleet.parts import FleetParts
from quiltfn.fleet.peers import CountedPeers
from quiltfn.fleet.watching import Watching
from quiltfn.images import ImageDirectory, ImageLimits
from quiltfn.store.database.postgresql import PostgresDatabase
from service.peers import pair
from service.platform_harness import names_of
from timeouts import scaled
from unit.test_membership import Table, a_node


class Database(PostgresDatabase):
    """The database of node `a`, which is never queried."""

    boot: Any = SimpleNamespace(node_id="a", epoch=1)
    timeline: Any = None

    def __init__(self) -> None:
        pass

    def quick_connection(self) -> Any:
        return SimpleNamespace(run=None, aclose=nothing)


async def nothing() -> None:
    pass


@contextlib.asynccontextmanager
async def a_joined_node(path: Path, membership: Membership) -> AsyncIterator[JoinedNode]:
    clock, now = membership.clock, time.time()
    images = ImageDirectory(path, clock, ImageLimits(), InThreadJobs())
    stock: Any = SimpleNamespace(end_by=lambda _: None, why_not=None, give_up=None)
    store: Any = SimpleNamespace(database=Database())
    access: Any = SimpleNamespace(revision=1)
    ground: Any = SimpleNamespace(
        store=store, clock=clock, access=access, disabled=None, stock=stock, others=Others()
    )
    own = pair.a_node(pair.a_fleet(now), "a", now)
    kept: Any = None, images, clock, lambda _: 0, 0
    part: Any = SimpleNamespace(load=None, counts=None, on_told=[], journal=None)
    node = JoinedNode(FleetParts(own, membership, ground, kept), part, part, part, part)
    membership.on_read.connect(*node.member_readers)
    try:
        yield node
    finally:
        await node._parts.peers.aclose()
        for events in node.all_events:
            await events.aclose()


async def test_no_look_begins_anything_behind_the_end(tmp_path: Path, monkeypatch: Any) -> None:
    watched: list[list[str]] = []
    monkeypatch.setattr(Watching, "read", lambda _, nodes: watched.append(list(nodes)))
    membership = a_node(Table("a", "b"), ManualClock(time.time()))
    async with a_joined_node(tmp_path, membership) as node:
        await membership.turn()
        assert watched == [["b"]]
        await node.leave()
        await membership.turn()
        assert watched == [["b"]]
        assert membership.on_read.hearers == ()


async def test_what_is_read_of_members_is_heard_in_one_order(tmp_path: Path) -> None:
    """Listeners that send requests to nodes or start work come after those that learn which nodes
    exist.
    """
    membership = a_node(Table("a", "b"), ManualClock(time.time()))
    async with a_joined_node(tmp_path, membership) as node:
        assert names_of(membership.on_read) == [
            "JoinedNode._read",
            "MemberDirectory.learned",
            "FleetCounts.read",
            "JoinedNode._tenants_read",
            "ReportReader.read",
            "FleetCalls.read",
            "Failovers.read",
            "FleetImages.read",
            "JoinedNode._watch",
        ]
        assert node.followed_changed.__qualname__ == "Watching.followed_changed"
        assert [hear.__qualname__ for hear in node.pool_changed] == ["SlotKeeper.pool_changed"]


async def test_a_node_that_ends_is_told_of_no_state_any_more() -> None:
    membership = a_node(Table("a"), ManualClock())
    refused: list[str] = []
    services: Any = SimpleNamespace(
        pools=None,
        invoker=SimpleNamespace(refuse=refused.append),
        admission=SimpleNamespace(loads=None),
        health=SimpleNamespace(draining=True),
    )
    dispatcher: Any = SimpleNamespace(start=nothing, stop=nothing)
    ended: Any = asyncio.get_running_loop().create_future()
    control = NodeControl(membership, services, dispatcher, ended)
    membership.on_state.connect(control.state_changed)
    membership.on_lost.connect(control.lost)
    control.state_changed(membership.state)
    assert not refused  # `control` has not started yet
    await control.start()
    assert refused == [""]
    await control.aclose()
    assert not membership.on_state.hearers
    assert not membership.on_lost.hearers


async def test_requests_are_settled_once_none_is_under_way() -> None:
    part: Any = None
    peers = CountedPeers(part)
    async with asyncio.timeout(scaled(5)):
        await peers.settled()  # no request is under way
    peers.started()
    waiting = [asyncio.create_task(peers.settled()) for _ in range(2)]
    await asyncio.sleep(0)
    peers.started()
    peers.ended()
    await asyncio.sleep(0)
    assert not any(one.done() for one in waiting)
    peers.ended()
    peers.started()  # nobody waits for this request, which began later
    async with asyncio.timeout(scaled(5)):
        await asyncio.gather(*waiting)
