"""Invocations that another node runs, over real connections of nodes: two servers in one process
over copies of the same data.
"""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from contract.stores import eventually
from promises import promise
from quiltfn.api.app import make_app
from quiltfn.api.http.request import ClientDisconnected, Headers, Request
from quiltfn.api.http.response import Response
from quiltfn.api.http.route import Application
from quiltfn.api.routes import url_calls
from quiltfn.fleet.forwarding import answering_peers
from quiltfn.fleet.peer_connection import PeerConnection
from quiltfn.model.forwarded import Refusal
from quiltfn.model.invocation import Status
from quiltfn.ports.peers import Asker
from quiltfn.sandbox.fake import FakeSandboxes
from quiltfn.tenants.access import Access
from service.fleet_node import fleet_node
from service.in_process import InProcess
from service.peers.pair import Pair, a_pair
from service.platform_harness import Harness, open_harness, until
from service.python_calls import fewest_python_calls
from service.test_forwarding import Placed
from timeouts import scaled


@dataclass
class Servers:
    """Two servers. `http` is a client of the first server, which forwards its invocations to the
    second, `there`.
    """

    here: Harness
    there: Harness
    placed: Placed
    placed_there: Placed
    pair: Pair
    http: httpx.AsyncClient

    # The application of the first server.
    app: Application

    async def call(self, name: str, payload: str = "", **headers: str) -> httpx.Response:
        path = f"/api/functions/invoke/{name}"
        return await self.http.post(path, json={"payload": payload}, headers=headers)


@pytest_asyncio.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    async with open_harness(tmp_path / "a") as server:
        for name, handler in (("cat", "cat"), ("sleeps", "sleep 30")):
            await server.active(handler, name, max_instances=4)
        own = InProcess(make_app(server.services))
        async with httpx.AsyncClient(transport=own, base_url="http://127.0.0.1") as http:
            function = (await http.get("/api/functions/by-name/cat")).json()["id"]
            path = f"/api/functions/{function}/url"
            assert (await http.put(path, json={"auth": "none"})).status_code == 200
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    async with (
        open_harness(tmp_path / "a", fakes=FakeSandboxes()) as here,
        open_harness(tmp_path / "b", fakes=FakeSandboxes()) as there,
        a_pair(time.time()) as pair,
    ):
        placed, placed_there = Placed(), Placed()
        node = fleet_node(name="one", placement=placed, peers=pair.peers, lost=lambda *_: None)
        other = fleet_node(name="two", placement=placed_there, peers=pair.peers)
        answer = answering_peers(make_app(there.services.replace(fleet=other)), other)

        async def handle(request: Request, asker: Asker) -> Response:
            assert asker.call is not None
            return await answer(request, asker.call)

        pair.handler = handle
        placed.goes_to = ["two"]
        app = make_app(here.services.replace(fleet=node))
        async with httpx.AsyncClient(
            transport=InProcess(app, "10.1.2.3"), base_url="http://127.0.0.1", timeout=scaled(30)
        ) as http:
            yield Servers(here, there, placed, placed_there, pair, http, app)


@pytest.mark.parametrize("size", [0, 100, 1_000_000])
async def test_a_call_and_its_answer_come_across(servers: Servers, size: int) -> None:
    answer = await servers.call("cat", "x" * size, authorization="Bearer a", tea="y")
    assert (answer.status_code, len(answer.json()["stdout"])) == (200, size)
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert (servers.here.sandboxes.calls, servers.there.sandboxes.calls) == (0, 1)
    ((request, asker),) = servers.pair.seen
    assert asker.node == "one"
    assert asker.call is not None
    assert asker.call.client == "10.1.2.3"
    assert request.headers["tea"] == "y"
    assert "authorization" not in request.headers
    assert request.headers.getlist("host") == ["127.0.0.1"]


async def test_what_connection_names_is_not_sent_on_to_a_url(servers: Servers) -> None:
    headers = {"Connection": "X-Hop, X-Forwarded-For", "X-Hop": "1", "X-Forwarded-For": "192.0.2.1"}
    assert (await servers.http.post("/fn/cat", headers=headers)).status_code == 200
    ((request, _),) = servers.pair.seen
    assert "x-hop" not in request.headers
    assert request.headers["x-forwarded-for"] == "192.0.2.1", "a proxy has said so"


async def test_events_come_as_they_happen(servers: Servers) -> None:
    answer = await servers.call("cat", "grain", accept="text/event-stream")
    assert answer.headers["content-type"].startswith("text/event-stream")
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


class Sending:
    """A request to a function URL whose body is still arriving. `wants`: set once the first server
    has requested the body.
    """

    def __init__(self, servers: Servers, **headers: str) -> None:
        self.wants = asyncio.Event()
        given = Headers({"host": "127.0.0.1", **headers})
        self.request = Request("POST", "/fn/default/cat/x", given, source=self)
        self.request.target = b"/fn/default/cat/x"
        self.answer = asyncio.ensure_future(servers.app(self.request))

    def want_body(self) -> None:
        self.wants.set()

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            async with asyncio.timeout(scaled(10)):
                await self.wants.wait()
            self.wants.clear()
            self.request.feed(piece)

    def end(self) -> None:
        self.request.is_whole = True
        self.request.wake()


@pytest.fixture
def _as_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treats every function as one with a web server, so that bodies are streamed; the fake
    sandboxes accept streamed bodies.
    """
    monkeypatch.setattr(url_calls.UrlRequest, "is_server", property(lambda _: True))
    monkeypatch.setattr(url_calls.UrlRequest, "is_shell", property(lambda _: False))


@promise("R37")
@pytest.mark.usefixtures("_as_servers")
@pytest.mark.parametrize(
    "framing", [{"content-length": "200000"}, {"transfer-encoding": "chunked"}]
)
@pytest.mark.parametrize("refuses", [None, Refusal.BUSY])
async def test_a_body_is_passed_on_to_the_node_that_takes_the_call_and_to_no_other(
    servers: Servers, framing: dict[str, str], refuses: Refusal | None
) -> None:
    servers.placed_there.refuses = refuses
    sending = Sending(servers, **framing)
    await sending.send(b"a" * 100_000, b"b" * 100_000)
    sending.end()
    answer = await sending.answer
    found: Any = answer.body
    if not isinstance(found, bytes):
        found, rest = b"".join([piece async for piece in found]), found
        await rest.aclose()
    assert (answer.status, found) == (200, b"a" * 100_000 + b"b" * 100_000)
    ran = servers.here.sandboxes.calls, servers.there.sandboxes.calls
    assert ran == ((0, 1) if refuses is None else (1, 0))
    ((request, _),) = servers.pair.seen
    for name in ("content-length", "transfer-encoding"):
        assert request.headers.get(name) == framing.get(name)


@promise("R37")
@pytest.mark.usefixtures("_as_servers")
async def test_a_sender_that_has_gone_ends_its_call_on_the_other_node(servers: Servers) -> None:
    sending = Sending(servers, **{"content-length": "200000"})
    await sending.send(b"a" * 100_000)
    await sending.wants.wait()
    sending.request.is_lost = True
    sending.request.wake()
    with pytest.raises(ClientDisconnected):
        await sending.answer
    ((_, asker),) = servers.pair.seen
    assert asker.call is not None
    journal, call = servers.there.services.journal, asker.call

    async def is_over() -> bool:
        found = await journal.get(call.function_id, call.invocation_id)
        return found is not None and found.status is Status.CANCELLED

    await eventually(is_over)
    assert servers.here.sandboxes.calls == 0


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
    await until(lambda: request.is_lost)


async def test_whether_keys_were_made_is_looked_for_where_the_call_came_in(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Access] = []
    monkeypatch.setattr(Access, "is_outdated", property(looked.append))
    assert (await servers.call("cat", "grain")).json()["stdout"] == "grain"
    assert looked == [servers.here.services.access]


# Forwarding an invocation calls the Python functions in these files, in addition to those that
# every request needs. Each resumption of a coroutine counts again.
SENDING = ("/fleet/forwarding.py", "/fleet/peers.py", "/fleet/peer_connection.py")
CALLS, SENDING_CALLS_MAX = 20, 50


async def python_calls_of_sending(servers: Servers) -> int:
    """The Python functions called for an invocation that the other node runs."""

    async def call() -> None:
        assert (await servers.call("cat", "x")).status_code == 200

    return await fewest_python_calls(SENDING, call, CALLS)


async def test_a_call_is_sent_on_in_few_python_calls(servers: Servers) -> None:
    assert await python_calls_of_sending(servers) <= SENDING_CALLS_MAX


async def test_negative_control_an_answer_that_is_read_in_pieces_is_noticed(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await python_calls_of_sending(servers)
    monkeypatch.setattr(PeerConnection, "take_whole", lambda *_: None)
    assert await python_calls_of_sending(servers) >= before + 3
