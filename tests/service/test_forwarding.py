"""Requests that another node answers: two servers over copies of the same data. The first forwards
requests to the second without a network.
"""

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Collection, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import msgspec
import pytest

from contract.stores import eventually
from promises import promise
from quiltfn.api.app import make_app
from quiltfn.api.http import compression
from quiltfn.api.http.request import Headers, Request
from quiltfn.api.http.response import Response
from quiltfn.api.http.stream_slots import StreamSlots
from quiltfn.fleet import all_nodes, forwarding
from quiltfn.fleet.counts import FleetCounts
from quiltfn.fleet.forwarding import LOOK_AGAIN_S, PeerApplication, answering_peers
from quiltfn.fleet.peer_connection import PeerAnswer
from quiltfn.fleet.placement import Destination
from quiltfn.model.errors import CapacityFull
from quiltfn.model.forwarded import ForwardedCall, Refusal
from quiltfn.model.invocation import Invocation, Status
from quiltfn.model.member import Member, Report
from quiltfn.model.pool_load import PoolLoad
from quiltfn.ports.peers import PeerAnswerTooLong
from quiltfn.ports.placement import PeerUnavailable
from quiltfn.sandbox.fake import FakeSandboxes
from service.faults import no_room
from service.fleet_node import fleet_node
from service.in_process import InProcess, headers_of
from service.platform_harness import Harness, open_harness, until
from timeouts import scaled


class PeerResponse(PeerAnswer):
    """A response without a connection. `cut_after`: the node is lost after this number of bytes.
    `method`: a response to HEAD has no body.
    """

    def __init__(self, response: Response, cut_after: int | None, method: str = "GET") -> None:
        super().__init__(cast("Any", None), response.status, response.headers)
        self._response, self._cut_after = response, cut_after
        if isinstance(response.body, bytes):
            self.headers.append(("content-length", str(len(response.body))))
            if method == "HEAD":
                response.body = b""
        self.body = self._pieces()

    def header(self, name: str) -> str | None:
        return self._response.header(name)

    async def read(self, limit: int) -> bytes:
        body = b"".join([piece async for piece in self.body])
        if len(body) > limit:
            raise PeerAnswerTooLong("the answer is too long")
        return body

    async def _pieces(self) -> AsyncIterator[bytes]:
        body = self._response.body
        if isinstance(body, bytes):
            yield body[: self._cut_after]
        else:
            async for piece in body:
                yield piece[: self._cut_after]
        if self._cut_after is not None:
            raise PeerUnavailable("the connection has ended", may_have_run=True)


class OneRequest:
    """A `PeerRequest`: a block that is entered once the network is available."""

    def __init__(
        self, network: "Network", block: contextlib.AbstractAsyncContextManager[PeerResponse]
    ) -> None:
        self._network, self._block, self.is_sent = network, block, False

    async def __aenter__(self) -> PeerResponse:
        await self._network.is_there.wait()
        self.is_sent = True
        return await self._block.__aenter__()

    async def __aexit__(self, *why: Any) -> bool | None:
        return await self._block.__aexit__(*why)


class Network:
    """The `Peers` of nodes in this process. `broken`: the exception to raise instead of a response.
    `is_there`: until this event is set, requests wait for their connections.
    """

    def __init__(self) -> None:
        self.apps: dict[str, PeerApplication] = {}
        self.broken: PeerUnavailable | None = None
        self.cut_after: int | None = None
        self.sent: list[tuple[str, Headers, ForwardedCall]] = []
        self.requests: list[Request] = []
        self.is_there = asyncio.Event()
        self.is_there.set()

    def request(self, *parts: Any) -> OneRequest:
        return OneRequest(self, self._exchange(*parts))

    @contextlib.asynccontextmanager
    async def _exchange(
        self,
        node: str,
        method: str,
        target: bytes,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        call: ForwardedCall,
    ) -> AsyncIterator[PeerResponse]:
        path, _, query = target.partition(b"?")
        request = Request(method, path.decode(), headers_of(list(headers)), query)
        request.target = target
        request.feed(body)
        # Encoded and decoded, as over a network, so that the nodes share no objects.
        call = msgspec.json.decode(msgspec.json.encode(call), type=ForwardedCall)
        self.sent.append((node, request.headers, call))
        self.requests.append(request)
        if self.broken is not None:
            raise self.broken
        answering = asyncio.ensure_future(self.apps[node](request, call))
        try:
            yield PeerResponse(await asyncio.shield(answering), self.cut_after, method)
        finally:  # as at the end of a connection
            request.is_lost = True
            request.wake()
            await asyncio.wait({answering})


class Placed:
    """A `Placement` that a test controls. `goes_to`: the nodes to try, in this order."""

    def __init__(self) -> None:
        self.goes_to: list[str] = []
        # those nodes of `goes_to` that are known to have a ready instance
        self.ready: list[str] = []
        self.functions: set[tuple[str, int]] = set()
        self.calls: list[tuple[str, str]] = []
        self.refuses: Refusal | None = None
        self.names_version: bool | None = None
        self.is_taking, self.takes_waiting = True, False
        self.loads: list[tuple[str, PoolLoad | None]] = []
        self.own_load: PoolLoad | None = None
        self.versions: list[int | None] = []

    async def catch_up(self) -> None:
        pass

    async def place(
        self,
        function_id: str,
        version: int,
        tried: Collection[str] = (),
        *,
        names_version: bool = False,
        is_last: bool = False,
    ) -> Destination | None:
        self.functions.add((function_id, version))
        self.names_version = names_version
        left = [one for one in self.goes_to if one not in tried]
        may_wait = is_last or not set(left[:1]) & set(self.ready)
        return Destination(left[0], may_wait=may_wait) if left else None

    def sent(self, node: str, function_id: str) -> None:
        self.calls.append((node, function_id))

    def update(self, node: str, function_id: str, load: PoolLoad | None) -> None:
        assert (node, function_id) in self.calls
        self.loads.append((node, load))

    def load(self, function_id: str) -> PoolLoad | None:
        assert function_id
        return self.own_load

    def takes_calls(self) -> bool:
        return self.is_taking

    async def refusal(self, call: ForwardedCall) -> Refusal | None:
        self.versions.append(call.version)
        return None if self.takes_waiting and call.may_wait else self.refuses


class Nodes:
    """Two nodes: `http` is a client of the first, which forwards invocations to the second,
    `there`.
    """

    def __init__(self, here: Harness, there: Harness) -> None:
        self.here, self.there = here, there
        self.network, self.placed, self.placed_there = Network(), Placed(), Placed()
        self.lost: list[tuple[str, Invocation]] = []
        self.counts = FleetCounts("node-1", here.pools, here.clock, 10.0, 2.0)
        node = fleet_node(
            name="node-1",
            placement=self.placed,
            peers=self.network,
            lost=lambda *arguments: self.lost.append(arguments),
            uncounted=self.network,
            readers=StreamSlots(),
            pools=self.counts,
            others=lambda: ["node-2"],
        )
        other = fleet_node(name="node-2", placement=self.placed_there, peers=self.network)
        self.app = make_app(here.services.replace(fleet=node))
        app_there = make_app(there.services.replace(fleet=other))
        self.network.apps["node-2"] = answering_peers(app_there, other)
        self.http = httpx.AsyncClient(
            transport=InProcess(self.app, "10.1.2.3"),
            base_url="http://127.0.0.1",
            timeout=scaled(30),
        )
        self.placed.goes_to = ["node-2"]

    async def call(self, name: str, payload: str = "", **headers: str) -> httpx.Response:
        more = {key.replace("_", "-"): value for key, value in headers.items()}
        path = f"/api/functions/invoke/{name}"
        return await self.http.post(path, json={"payload": payload}, headers=more)

    def runs(self, name: str) -> Any:
        """The function's entry on the second server."""
        return self.there.catalog.by_name("default", name)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the functions that both servers have."""
    path = tmp_path_factory.mktemp("data")

    async def make() -> None:
        async with open_harness(path) as server:
            handlers = {"cat": "cat", "fails": "exit 3", "sleeps": "sleep 30", "says": "echo hello"}
            for name, handler in handlers.items():
                await server.active(handler, name, max_instances=1)

    asyncio.run(make())
    return path


@pytest.fixture
async def nodes(tmp_path: Path, data_dir: Path) -> AsyncIterator[Nodes]:
    for copy in ("a", "b"):
        shutil.copytree(data_dir, tmp_path / copy)
    async with (
        open_harness(tmp_path / "a", fakes=FakeSandboxes()) as here,
        open_harness(tmp_path / "b", fakes=FakeSandboxes()) as there,
    ):
        yield Nodes(here, there)


@promise("N94")
async def test_a_fleet_without_keys_answers_nobody_once_there_may_be_some(nodes: Nodes) -> None:
    access = nodes.here.services.access
    access._stale_after_s = 10.0  # as on a node in a fleet
    for _ in range(2):
        assert (await nodes.call("cat", "grain")).status_code == 200
        assert (await nodes.http.get("/api/functions")).status_code == 200
        nodes.here.clock.time += 11
        for answer in (await nodes.call("cat", "grain"), await nodes.http.get("/api/functions")):
            assert (answer.status_code, answer.json()["error_code"]) == (503, "STORE_UNAVAILABLE")
        await access.refresh()


async def test_a_call_runs_where_it_is_placed_and_is_sent_on_once(nodes: Nodes) -> None:
    """A forwarded invocation runs where it was sent, even if that node would place its own
    invocations elsewhere.
    """
    nodes.placed_there.goes_to = ["node-1"]
    answer = await nodes.call("cat", "grain")
    assert (answer.status_code, answer.json()["stdout"]) == (200, "grain")
    assert (nodes.here.sandboxes.calls, nodes.there.sandboxes.calls) == (0, 1)
    [record] = await nodes.there.records(nodes.runs("cat"))
    assert record.invocation_id == answer.headers["x-invocation-id"]
    [(_, _, call)] = nodes.network.sent
    assert record.invocation_id == call.invocation_id


@pytest.mark.parametrize("query", [b"", b"limit=1"])
async def test_an_absolute_target_is_sent_on_in_origin_form(nodes: Nodes, query: bytes) -> None:
    whole = b"/api/instances?" + query if query else b"/api/instances"
    request = Request("GET", "/api/instances", Headers({"host": "127.0.0.1"}), query)
    request.target = b"http://127.0.0.1" + whole
    assert (await nodes.app(request)).status == 200
    assert nodes.network.requests[-1].target == whole


async def test_a_call_that_is_placed_here_is_not_sent(nodes: Nodes) -> None:
    nodes.placed.goes_to = []
    assert (await nodes.call("cat", "grain")).json()["stdout"] == "grain"
    assert nodes.network.sent == []
    assert nodes.here.sandboxes.calls == 1


async def test_records_are_looked_for_by_id(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []

    async def outline(_: str, invocation_id: str) -> None:
        looks.append(invocation_id)

    monkeypatch.setattr(nodes.here.journal, "outline", outline)
    old, nonsense = "00000000-0001-7000-8000-000000000000", "x"
    for call_id in (old, nonsense):
        path = f"/api/functions/{nodes.runs('cat').function.id}/invocations/{call_id}"
        assert (await nodes.http.get(path)).status_code == 404
    assert [looks.count(one) for one in (old, nonsense)] == [1 + len(LOOK_AGAIN_S), 1]


async def test_credentials_and_keys_stay_where_they_were_checked(nodes: Nodes) -> None:
    await nodes.call("cat", authorization="Bearer x", x_api_key="k", idempotency_key="1", tea="y")
    [(_, headers, call)] = nodes.network.sent
    assert not headers.keys() & {"authorization", "x-api-key", "idempotency-key"}
    assert headers["tea"] == "y"
    assert call.caller is not None
    assert (call.caller.tenant_id, call.client) == ("default", "10.1.2.3")


@promise("N96")
async def test_a_call_refused_for_its_version_goes_with_the_newer(nodes: Nodes) -> None:
    """The refusing node has heard of an update first, so the invocation is sent again with the
    newer version. A node that still refuses is not asked a third time.
    """
    entry = nodes.here.catalog.by_name("default", "says")

    async def catch_up() -> None:
        if len(nodes.placed_there.versions) == 1:
            await nodes.here.lifecycle.update(entry, {"handler": "echo new"})

    nodes.placed.catch_up = catch_up  # type: ignore[method-assign]
    nodes.placed_there.refuses = Refusal.VERSION
    assert (await nodes.call("says")).json()["stdout"] == "new\n"
    assert nodes.placed_there.versions == [1, 2]


LOAD = PoolLoad("f", 1, busy=1, slots=1)


@promise("N17")
@pytest.mark.parametrize(
    ("failure", "load"), [("refusal", LOAD), ("unreachable", None), ("drained meanwhile", None)]
)
async def test_a_node_that_does_not_run_a_call_has_done_nothing_and_the_next_is_tried(
    nodes: Nodes, failure: str, load: PoolLoad | None
) -> None:
    """`drained meanwhile`: the node was drained after it got the head of the request, and before
    the body arrived. A node that reports no load does not count as ready.
    """
    nodes.placed_there.own_load = load
    if failure == "refusal":
        nodes.placed_there.refuses = Refusal.BUSY
    elif failure == "unreachable":
        nodes.network.broken = PeerUnavailable("refused", may_have_run=False)
    else:
        nodes.placed_there.is_taking = False
        # this node runs no invocation of the function
        await nodes.there.lifecycle.pause(nodes.runs("cat"))
    assert (await nodes.call("cat", "grain")).json()["stdout"] == "grain"
    assert (nodes.here.sandboxes.calls, nodes.there.sandboxes.calls) == (1, 0)
    assert nodes.placed.loads == [("node-2", load)]


@promise("N93")
async def test_a_call_waits_where_a_ready_instance_was_taken(nodes: Nodes) -> None:
    """If the invocation waited on the first node, it would wait for a slot that the second node
    needs.
    """
    nodes.placed.ready = ["node-2"]
    nodes.placed_there.refuses, nodes.placed_there.takes_waiting = Refusal.BUSY, True
    assert (await nodes.call("cat", "grain")).json()["stdout"] == "grain"
    assert [call.may_wait for _, _, call in nodes.network.sent] == [False, False, True]
    assert nodes.there.sandboxes.calls == 1
    assert nodes.here.sandboxes.calls == 0


async def test_a_call_that_may_have_run_is_not_run_again(nodes: Nodes) -> None:
    nodes.network.broken = PeerUnavailable("the connection has ended", may_have_run=True)
    answer = await nodes.call("cat", "grain")
    assert (answer.status_code, answer.json()["error_code"]) == (503, "RUNTIME_UNAVAILABLE")
    assert answer.headers["x-invocation-id"] == nodes.network.sent[0][2].invocation_id
    assert nodes.here.sandboxes.calls == 0
    [(node, record)] = nodes.lost
    assert (node, record.invocation_id) == ("node-2", answer.headers["x-invocation-id"])
    assert (record.status, record.execution_node_id) == (Status.INTERRUPTED, "node-2")
    assert record.version == 1
    await nodes.http.post("/api/functions/invoke/cat?version=1", json={})
    assert nodes.lost[1][1].version is None, "nobody here knows which"


async def test_a_node_that_is_lost_in_the_middle_of_its_answer(nodes: Nodes) -> None:
    nodes.network.cut_after = 10
    answer = await nodes.call("cat", "grain")
    assert (answer.status_code, answer.json()["error_code"]) == (503, "RUNTIME_UNAVAILABLE")
    assert len(nodes.lost) == 1


async def test_the_answer_is_the_other_nodes_own(nodes: Nodes) -> None:
    failed = await nodes.call("fails")
    assert (failed.status_code, failed.json()["exit_code"]) == (200, 3)
    assert "x-quiltfn-fleet" not in failed.headers
    bad = await nodes.http.post("/api/functions/invoke/cat", json={"payload": 7})
    assert (bad.status_code, bad.json()["error_code"]) == (422, "UNPROCESSABLE_ENTITY")
    assert bad.headers.get_list("x-request-id") == [bad.json()["request_id"]]
    missing = await nodes.call("nothing")
    assert missing.status_code == 404
    assert len(nodes.network.sent) == 2


@promise("N18")
@pytest.mark.parametrize("size", [100, 300_000])
async def test_a_key_gives_the_first_answer_again(nodes: Nodes, size: int) -> None:
    first = await nodes.call("cat", "x" * size, idempotency_key="k")
    again = await nodes.call("cat", "x" * size, idempotency_key="k")
    assert len(first.json()["stdout"]) == size
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    assert nodes.there.sandboxes.calls == 1


async def test_a_long_answer_without_room(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.asynccontextmanager
    async def full(size: int, _: str) -> AsyncIterator[None]:
        if size:
            raise CapacityFull("no memory for the answer")
        yield

    monkeypatch.setattr(nodes.here.services.budgets.responses, "reserve", full)
    first = await nodes.call("cat", "x" * 300_000, idempotency_key="k")
    assert first.json()["error_code"] == "CAPACITY_FULL"
    assert first.headers["x-invocation-id"] == nodes.network.sent[0][2].invocation_id
    again = await nodes.call("cat", "x" * 300_000, idempotency_key="k")
    assert again.status_code == first.status_code
    assert nodes.there.sandboxes.calls == 1


async def set_url(nodes: Nodes, name: str, **url: Any) -> None:
    there = httpx.AsyncClient(
        transport=InProcess(make_app(nodes.there.services)), base_url="http://127.0.0.1"
    )
    path = f"/api/functions/{nodes.runs(name).function.id}/url"
    for client in (nodes.http, there):
        assert (await client.put(path, json=url)).status_code == 200


async def test_head_says_how_long_the_answer_is(nodes: Nodes) -> None:
    await set_url(nodes, "says", auth="none")
    assert (await nodes.http.head("/fn/says")).headers["content-length"] == "6"
    assert nodes.there.sandboxes.calls == 1


async def test_a_handler_gets_its_own_credentials_at_any_node(nodes: Nodes) -> None:
    await set_url(nodes, "cat", auth="none")
    own = {"authorization": "Bearer of the app", "idempotency-key": "of the app"}
    answer = await nodes.http.post("/fn/cat", content=b"grain", headers=own)
    assert (answer.status_code, answer.content) == (200, b"grain")
    [(_, headers, call)] = nodes.network.sent
    assert own.items() <= dict(headers.items()).items()
    assert call.caller is None
    assert nodes.there.sandboxes.calls == 1


@promise("N92")
@pytest.mark.parametrize("is_url", [False, True])
async def test_a_call_that_left_a_record_at_a_node_is_not_sent_to_the_next(
    nodes: Nodes, is_url: bool
) -> None:
    """The second node did not start the handler, but its record is final: if the first node then
    ran the invocation, the record would be wrong.
    """
    await set_url(nodes, "cat", auth="none")
    nodes.placed_there.is_taking = False
    call = nodes.http.post("/fn/cat", content=b"grain") if is_url else nodes.call("cat", "grain")
    with no_room(nodes.there.sandboxes):
        assert (await call).status_code == 503
    assert nodes.here.sandboxes.calls == 0
    [record] = await nodes.there.records(nodes.runs("cat"))
    assert record.status is Status.ERROR
    assert record.invocation_id == nodes.network.sent[0][2].invocation_id


async def test_a_refusal_of_the_other_node_leaves_the_key_free(nodes: Nodes) -> None:
    await nodes.there.lifecycle.pause(nodes.runs("cat"))
    assert (await nodes.call("cat", idempotency_key="k")).status_code == 409
    await nodes.there.lifecycle.resume(nodes.runs("cat"))
    again = await nodes.call("cat", idempotency_key="k")
    assert again.status_code == 200
    assert "idempotency-replayed" not in again.headers


async def test_the_request_to_the_node_ends_with_a_stream_that_nobody_reads(nodes: Nodes) -> None:
    headers = {"host": "127.0.0.1", "accept": "text/event-stream"}
    request = Request("POST", "/api/functions/invoke/sleeps", Headers(headers))
    request.target = request.path.encode()
    response = await nodes.app(request)
    [sent] = nodes.network.requests
    assert not sent.is_lost
    assert not isinstance(response.body, bytes)
    await response.body.aclose()  # type: ignore[attr-defined]
    assert sent.is_lost


async def test_a_call_that_names_a_version_is_placed_as_one(nodes: Nodes) -> None:
    path = "/api/functions/invoke/cat"
    for query, names in (("", False), ("?version=1", True)):
        answer = await nodes.http.post(path + query, json={"payload": "grain"})
        assert (answer.status_code, answer.json()["stdout"]) == (200, "grain")
        assert nodes.placed.names_version is names
    assert nodes.there.sandboxes.calls == 2


async def test_a_call_that_is_only_accepted_is_accepted_here(nodes: Nodes) -> None:
    answer = await nodes.call("cat", prefer="respond-async")
    assert answer.status_code == 202
    assert nodes.network.sent == []


async def started_there(nodes: Nodes) -> "tuple[asyncio.Task[httpx.Response], str]":
    """An invocation that runs on the second node, and the path of its record. The first server has
    the record too, as in a fleet with one store.
    """
    call, function_id = asyncio.create_task(nodes.call("sleeps")), nodes.runs("sleeps").function.id
    await until(lambda: nodes.there.sandboxes.calls == 1)
    invocation_id = nodes.network.sent[0][2].invocation_id
    running = nodes.there.invoker.running_call(function_id, invocation_id)
    assert running is not None
    nodes.here.journal.opened(msgspec.structs.replace(running.record, execution_node_id="node-2"))
    await nodes.here.journal.synced()
    return call, f"/api/functions/{function_id}/invocations/{invocation_id}"


async def test_a_call_that_runs_there_is_cancelled_there(nodes: Nodes) -> None:
    call, path = await started_there(nodes)
    cancelled = await nodes.http.post(f"{path}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert (await call).json()["status"] == "cancelled"


@promise("W6")
async def test_what_a_cancelled_call_has_left_there_is_asked_for_until_it_has_ended(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is final before the processes have ended, so a repeated request must still ask the
    other node. If that node cannot be reached, the record alone decides the response.
    """
    monkeypatch.setattr("quiltfn.calls.invoke.KILLED_WITHIN_S", 0.02)
    call, path = await started_there(nodes)
    path += "/cancel"
    nodes.there.sandboxes.may_end.clear()
    assert (await nodes.http.post(path)).status_code == 503
    await call
    [record] = await nodes.there.records(nodes.runs("sleeps"))
    nodes.here.journal.closed(msgspec.structs.replace(record, execution_node_id="node-2"))
    await nodes.here.journal.synced()
    again = await nodes.http.post(path)
    assert (again.status_code, "may still run" in again.text) == (503, True)
    nodes.network.broken = PeerUnavailable("it is gone", may_have_run=False)
    assert (await nodes.http.post(path)).status_code == 409
    nodes.network.broken = None
    nodes.there.sandboxes.may_end.set()
    await until(lambda: not nodes.there.invoker._ending)
    assert (await nodes.http.post(path)).status_code == 409


async def test_the_timeline_of_a_running_call_is_asked_for_there(nodes: Nodes) -> None:
    call, path = await started_there(nodes)
    answer = await nodes.http.get(f"{path}/timeline")
    assert answer.status_code == 200
    assert nodes.network.sent[-1][2].version is None
    call.cancel()


@promise("N18")
async def test_what_is_asked_of_a_silent_node_is_answered_from_the_store(nodes: Nodes) -> None:
    """Only requests that change something fail: nobody knows whether the node carried them out."""
    call, path = await started_there(nodes)
    nodes.network.broken = PeerUnavailable("it is silent", may_have_run=True)
    answer = await nodes.http.get(path)
    assert (answer.status_code, answer.json()["status"]) == (200, "running")
    assert (await nodes.http.post(f"{path}/cancel")).status_code == 503
    call.cancel()


@pytest.mark.parametrize("on_disconnect", ["", "cancel"])
@pytest.mark.parametrize("turns", [None, 0, 1, 2, 3])
async def test_a_request_given_up_leaves_none_there(on_disconnect: str, turns: int | None) -> None:
    """The other node must not continue a request that nobody waits for. `turns`: the request is
    cancelled this many turns of the event loop after the head of the response; None: before the
    head.
    """
    under_way, may_answer = list[str](), asyncio.Event()

    @contextlib.asynccontextmanager
    async def asked() -> AsyncIterator[Any]:
        under_way.append("here")
        try:
            await may_answer.wait()
            yield
        finally:
            await asyncio.sleep(0)
            under_way.clear()

    async def ask() -> None:
        request: Any = asked()
        await forwarding._while_wanted(context, request)
        try:
            await asyncio.Event().wait()
        finally:
            await request.__aexit__(None, None, None)

    context: Any = SimpleNamespace(
        headers={"x-on-disconnect": on_disconnect},
        request=SimpleNamespace(lost=asyncio.Event().wait),
        passed_on=None,
    )
    asking = asyncio.ensure_future(ask())
    await until(lambda: under_way)
    if turns is not None:
        may_answer.set()
        for _ in range(turns):
            await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert not under_way


def cancelled_with_its_client() -> Request:
    """An invocation of `sleeps` that is cancelled when its client disconnects."""
    headers = {"host": "127.0.0.1", "content-type": "application/json", "x-on-disconnect": "cancel"}
    request = Request("POST", "/api/functions/invoke/sleeps", Headers(headers))
    request.target = b"/api/functions/invoke/sleeps"
    request.feed(json.dumps({"payload": ""}).encode())
    return request


async def test_a_call_whose_client_leaves_first_has_a_record_here(nodes: Nodes) -> None:
    nodes.network.is_there.clear()
    request = cancelled_with_its_client()
    answer = asyncio.ensure_future(nodes.app(request))
    await until(lambda: nodes.placed.calls)
    request.is_lost = True
    request.wake()
    with contextlib.suppress(Exception):
        await answer
    assert nodes.network.sent == []
    (record,) = await nodes.here.records(nodes.runs("sleeps"))
    assert (record.status.value, record.started_at) == ("cancelled", None)


async def test_a_call_that_ends_with_its_client_ends_there(nodes: Nodes) -> None:
    request = cancelled_with_its_client()
    answer = asyncio.ensure_future(nodes.app(request))
    await until(lambda: nodes.there.sandboxes.calls == 1)
    request.is_lost = True
    request.wake()
    with contextlib.suppress(Exception):
        await answer

    async def is_over() -> bool:
        records = await nodes.there.records(nodes.runs("sleeps"))
        return [one.status.value for one in records] == ["cancelled"]

    await eventually(is_over)


@promise("N50")
async def test_instances_are_of_both_nodes(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "FROM_BYTES", 1)  # as for a long list
    await nodes.call("cat", "grain")
    nodes.placed.goes_to = []
    await nodes.call("cat", "grain")
    health = nodes.here.services.health
    health.machine = msgspec.structs.replace(health.machine, node_id="one")
    found = (await nodes.http.get("/api/instances?limit=1")).json()
    assert (found["total_count"], len(found["instances"])) == (2, 1)
    assert found["memory"]["budget_mib"] == 2 * nodes.here.pools.memory.budget_mib
    found = (await nodes.http.get("/api/instances")).json()
    assert {one["node_id"] for one in found["instances"]} == {"one", "node-1"}
    ages = [one["age_seconds"] for one in found["instances"]]
    assert ages == sorted(ages, reverse=True)
    # The second node got the same caller, and forwarded the request to no other node.
    assert [(node, call.caller is not None) for node, _, call in nodes.network.sent[-2:]] == [
        ("node-2", True),
        ("node-2", True),
    ]
    monkeypatch.setattr(all_nodes, "ANSWER_MAX_BYTES", 100)
    assert (await nodes.http.get("/api/instances")).json()["total_count"] == 1
    monkeypatch.undo()
    nodes.network.broken = PeerUnavailable("it is gone", may_have_run=False)
    assert (await nodes.http.get("/api/instances")).json()["total_count"] == 1


def is_ready(node: Harness, entry: Any) -> bool:
    return node.counts(entry) == {"ready": 1}


@promise("N50")
async def test_pools_are_counted_over_both_nodes(nodes: Nodes) -> None:
    await nodes.call("cat", "grain")
    nodes.placed.goes_to = []
    await nodes.call("cat", "grain")
    for each in (nodes.here, nodes.there):
        await until(partial(is_ready, each, nodes.runs("cat")))
    report = Report(pools=nodes.there.pools.loads())
    nodes.counts.read([Member(name="node-2", epoch=1, beat=1, version="1", report=report)])
    path = f"/api/functions/{nodes.runs('cat').function.id}/pool"
    pool = (await nodes.http.get(path)).json()
    assert (pool["ready_count"], pool["total_count"]) == (2, 2)
    stats = (await nodes.http.get("/api/functions/pool/stats")).json()
    assert (stats["ready_count"], stats["total_containers"]) == (2, 2)
    [listed] = (await nodes.http.get("/api/functions/pools")).json()["pools"]
    assert (listed["function_id"], listed["ready_count"]) == (nodes.runs("cat").function.id, 2)


@promise("N54")
async def test_the_logs_of_a_function_are_those_of_both_nodes(nodes: Nodes) -> None:
    path = f"/api/functions/{nodes.runs('cat').function.id}/logs"
    request = Request("GET", path, Headers({"host": "127.0.0.1"}), b"follow=true")
    request.target = f"{path}?follow=true".encode()
    body: Any = (await nodes.app(request)).body
    received = b""
    coming = asyncio.ensure_future(anext(body))
    await until(lambda: nodes.network.sent)
    assert nodes.network.sent[0][2].caller is not None
    await nodes.call("cat", "there")
    nodes.placed.goes_to = []
    await nodes.call("cat", "here")
    async with asyncio.timeout(scaled(10)):
        while not (
            b'"there"' in received and b'"here"' in received and received.count(b"event: end") == 2
        ):
            received += await coming
            coming = asyncio.ensure_future(anext(body))
    coming.cancel()
    assert received.count(b"event: started") == 2
    await body.aclose()
    assert nodes.network.requests[0].is_lost
