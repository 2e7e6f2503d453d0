"""What of a node's calls is told of the other nodes, and from when to when."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

from manual_clock import ManualClock
from quiltfn.calls.events import Events
from quiltfn.fleet.calls import CountedPeers, FleetCalls
from quiltfn.fleet.join import NodeControl
from quiltfn.fleet.watching import Watching
from service.peers import pair
from timeouts import scaled
from unit.test_membership import Table, a_node


async def test_no_look_begins_anything_behind_the_end(monkeypatch: Any) -> None:
    watched: list[list[str]] = []
    monkeypatch.setattr(Watching, "read", lambda _, nodes: watched.append(list(nodes)))
    clock, table, now = ManualClock(time.time()), Table("a", "b"), time.time()
    membership = a_node(table, clock)
    part: Any = SimpleNamespace(load=None, counts=None, on_told=[], journal=None)
    own = pair.a_node(pair.a_fleet(now), "a", now)
    calls = FleetCalls(own, membership, part, part, part, part)
    events = Events(clock, 1, part, None)
    async with calls.watching(events, events):
        await membership.turn()
        assert watched == [["b"]]
    await membership.turn()
    assert watched == [["b"]]
    await calls.aclose()
    assert membership.on_read == []
    await events.aclose()


async def test_a_node_that_ends_is_told_of_no_state_any_more() -> None:
    membership = a_node(Table("a"), ManualClock())
    platform: Any = SimpleNamespace(services=SimpleNamespace(), health=SimpleNamespace())
    platform.services = SimpleNamespace(
        pools=None, invoker=SimpleNamespace(), admission=SimpleNamespace(loads=None)
    )
    platform.health.draining = True

    async def stop() -> None:
        pass

    platform.dispatcher = SimpleNamespace(stop=stop)
    heard: list[Any] = []
    membership.on_state.append(heard.append)
    control = NodeControl(membership, platform)
    await control.aclose()
    assert membership.on_state == [heard.append]
    assert membership.on_lost == []


async def test_requests_are_settled_once_none_is_under_way() -> None:
    part: Any = None
    peers = CountedPeers(part)
    async with asyncio.timeout(scaled(5)):
        await peers.settled()  # of none
    peers.started()
    waiting = [asyncio.create_task(peers.settled()) for _ in range(2)]
    await asyncio.sleep(0)
    peers.started()
    peers.ended()
    await asyncio.sleep(0)
    assert not any(one.done() for one in waiting)
    peers.ended()
    peers.started()  # one that nobody waited for
    async with asyncio.timeout(scaled(5)):
        await asyncio.gather(*waiting)
