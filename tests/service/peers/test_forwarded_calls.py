"""Calls that another node answers, over the connections that nodes have: two servers over copies of
the same data in one process.
"""

import asyncio
import shutil
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import httpx
import pytest
import pytest_asyncio

from quiltfn.api.app import make_app
from quiltfn.api.forwarding import answering_peers
from quiltfn.api.request import Request
from quiltfn.api.response import Response
from quiltfn.fleet.peer_connection import PeerConnection
from quiltfn.model.forwarded import Refusal
from quiltfn.ports.peers import Asker
from quiltfn.sandbox.fake import FakeSandboxes
from service.in_process import InProcess
from service.peers.pair import Pair, a_pair
from service.platform_harness import Harness, open_harness, until
from service.test_forwarding import Placed
from timeouts import scaled


@dataclass
class Servers:
    """`http` is a client of the first, which sends its calls on to the second, `there`."""

    here: Harness
    there: Harness
    placed: Placed
    placed_there: Placed
    pair: Pair
    http: httpx.AsyncClient

    async def call(self, name: str, payload: str = "", **headers: str) -> httpx.Response:
        path = f"/api/functions/invoke/{name}"
        return await self.http.post(path, json={"payload": payload}, headers=headers)


@pytest_asyncio.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    async with open_harness(tmp_path / "a") as server:
        for name, handler in (("cat", "cat"), ("sleeps", "sleep 30")):
            await server.active(handler, name, max_instances=4)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    async with (
        open_harness(tmp_path / "a", fakes=FakeSandboxes()) as here,
        open_harness(tmp_path / "b", fakes=FakeSandboxes()) as there,
        a_pair(time.time()) as pair,
    ):
        placed, placed_there = Placed(), Placed()
        node: Any = SimpleNamespace(
            name="one", placement=placed, peers=pair.peers, lost=lambda *_: None
        )
        other: Any = SimpleNamespace(name="two", placement=placed_there, peers=pair.peers)
        answer = answering_peers(make_app(replace(there.services, fleet=other)), other)

        async def handle(request: Request, asker: Asker) -> Response:
            assert asker.call is not None
            return await answer(request, asker.call)

        pair.handler = handle
        placed.goes_to = ["two"]
        app = make_app(replace(here.services, fleet=node))
        async with httpx.AsyncClient(
            transport=InProcess(app, "10.1.2.3"), base_url="http://127.0.0.1", timeout=scaled(30)
        ) as http:
            yield Servers(here, there, placed, placed_there, pair, http)


@pytest.mark.parametrize("size", [0, 100, 1_000_000])
async def test_a_call_and_its_answer_come_across(servers: Servers, size: int) -> None:
    answer = await servers.call("cat", "x" * size, authorization="Bearer a", tea="y")
    assert (answer.status_code, len(answer.json()["stdout"])) == (200, size)
    assert (servers.here.sandboxes.calls, servers.there.sandboxes.calls) == (0, 1)
    ((request, asker),) = servers.pair.seen
    assert asker.node == "one"
    assert asker.call is not None
    assert asker.call.client == "10.1.2.3"
    assert request.headers["tea"] == "y"
    assert "authorization" not in request.headers
    assert request.headers.getlist("host") == ["127.0.0.1"]


async def test_events_come_as_they_happen(servers: Servers) -> None:
    answer = await servers.call("cat", "grain", accept="text/event-stream")
    assert "event: end" in answer.text
    assert "grain" in answer.text
    assert servers.there.sandboxes.calls == 1


async def test_a_node_that_refuses_or_cannot_be_reached_is_passed_over(servers: Servers) -> None:
    servers.placed_there.refuses = Refusal.BUSY
    assert (await servers.call("cat", "grain")).json()["stdout"] == "grain"
    servers.placed_there.refuses = None
    servers.pair.of_two.refusals["one"] = "it was removed from the fleet"
    assert (await servers.call("cat", "grain")).json()["stdout"] == "grain"
    servers.pair.of_one.refusals["two"] = "it was removed from the fleet"
    assert (await servers.call("cat", "grain")).json()["stdout"] == "grain"
    assert (servers.here.sandboxes.calls, servers.there.sandboxes.calls) == (3, 0)


async def started(servers: Servers, **headers: str) -> "asyncio.Task[httpx.Response]":
    call = asyncio.create_task(servers.call("sleeps", **headers))
    await until(lambda: servers.there.sandboxes.calls == 1)
    return call


async def test_a_node_that_is_lost_may_have_run_the_call(servers: Servers) -> None:
    call = await started(servers)
    servers.pair.server.connections.cut_all()
    async with asyncio.timeout(scaled(2)):
        answer = await call
    assert (answer.status_code, answer.json()["error_code"]) == (503, "RUNTIME_UNAVAILABLE")
    ((_, asker),) = servers.pair.seen
    assert asker.call is not None
    assert answer.headers["x-invocation-id"] == asker.call.invocation_id
    assert servers.here.sandboxes.calls == 0


async def test_the_node_hears_of_a_client_that_has_gone(servers: Servers) -> None:
    call = await started(servers)
    ((request, _),) = servers.pair.seen
    assert not request.is_lost
    call.cancel()
    done: Any = await asyncio.gather(call, return_exceptions=True)
    assert isinstance(done[0], asyncio.CancelledError)
    async with asyncio.timeout(scaled(2)):
        while not request.is_lost:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


# What sends a call on, on top of what every request costs; a coroutine that goes on counts again.
SENDING = ("/api/forwarding.py", "/fleet/peers.py", "/fleet/peer_connection.py")
CALLS, SENDING_CALLS_MAX = 20, 50


async def python_calls_of_sending(servers: Servers) -> int:
    """The fewest for a call that the other node answers; a busy machine wakes coroutines again."""
    count, counts = 0, []

    def seen(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        if event == "call" and frame.f_code.co_filename.endswith(SENDING):
            count += 1

    for at in range(2 * CALLS):
        sys.setprofile(seen if at >= CALLS else None)
        try:
            assert (await servers.call("cat", "x")).status_code == 200
        finally:
            sys.setprofile(None)
        counts.append(count)
        count = 0
    return min(counts[CALLS:])


async def test_a_call_is_sent_on_in_few_python_calls(servers: Servers) -> None:
    assert await python_calls_of_sending(servers) <= SENDING_CALLS_MAX


async def test_negative_control_an_answer_that_is_read_in_pieces_is_noticed(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await python_calls_of_sending(servers)
    monkeypatch.setattr(PeerConnection, "take_whole", lambda *_: None)
    assert await python_calls_of_sending(servers) >= before + 3
