"""Requests between nodes: what is transferred, what ends a request, and that ended requests leave
nothing behind.
"""

import asyncio
import contextlib
import itertools
import os
import resource
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from promises import promise
from quiltfn.api.http import connections
from quiltfn.api.http.request import ClientDisconnected, Request
from quiltfn.api.http.response import CutShort, Response
from quiltfn.fleet import peers as client
from quiltfn.ports.peers import (
    PIECE_BYTES,
    Asker,
    PeerAnswerTooLong,
    PeerBusy,
    PeerGone,
    PeerUnreachable,
)
from service.peers.pair import CALL, Pair, a_pair
from service.platform_harness import until
from timeouts import scaled

pytestmark = promise("N7", "N87")

MIB = 1024 * 1024


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[Pair]:
    async with a_pair(time.time()) as made:
        yield made


@pytest.fixture
def _no_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents pings, whose connection would be counted. Tests must request this fixture before
    `pair`.
    """
    monkeypatch.setattr(client, "PING_EVERY_S", 1e6)


# Transfers -----------------------------------------------------------------------------------


def responding(make: Callable[[Request], Response]) -> Callable[[Request, Asker], Any]:
    """A handler of a node that makes a response to each request."""

    async def handle(request: Request, _: Asker) -> Response:
        return make(request)

    return handle


def waits_to_answer(pair: Pair) -> asyncio.Event:
    """The node responds `done` to any request once the event is set."""
    release = asyncio.Event()

    async def handle(_: Request, __: Asker) -> Response:
        await release.wait()
        return Response(body=b"done")

    pair.handler = handle
    return release


async def test_a_request_comes_with_who_asks_and_for_whom(pair: Pair) -> None:
    headers = [("content-type", "application/json"), ("x-request-id", "r1")]
    answer = await pair.ask("/api/f%20g?a=1", method="POST", headers=headers, body=b"{}", call=CALL)
    assert answer == (200, b"{}")
    (asked, forwarded), *rest = pair.seen
    assert not rest
    assert forwarded == Asker("one", CALL)
    assert (asked.method, asked.path, asked.query) == ("POST", "/api/f g", b"a=1")
    assert asked.headers["x-request-id"] == "r1"
    assert not any(name.startswith("quilt-peer") for name in asked.headers)
    await pair.ask("/own")
    assert pair.seen[-1][1] == Asker("one", None)


async def test_a_client_s_own_host_and_length_of_head_come_across(pair: Pair) -> None:
    many = [(f"x-{number}", "1") for number in range(97)]
    headers = [("host", "fn.example.com"), *many, ("x-long", "x" * 1_000_000)]
    assert (await pair.ask(headers=headers))[0] == 200
    asked = pair.seen[0][0].headers
    assert asked.getlist("host") == ["fn.example.com"]
    assert len(asked["x-long"]) == 1_000_000


async def test_what_only_nodes_say_nobody_else_says(pair: Pair) -> None:
    """Headers with a meaning between nodes must be removed if a client sends them, or if a handler
    responds with them.
    """

    pair.handler = responding(
        lambda _: Response(headers=[("quilt-peer-refused", "1"), ("x-own", "1")], body=b"done")
    )
    headers = [("quilt-peer", "1..0"), ("quilt-peer-refused", "1"), ("x-own", "1")]
    async with pair.request(headers=headers) as answer:
        assert (answer.status, await answer.read(10)) == (200, b"done")
        assert answer.header("x-own") == "1"
        assert answer.header("quilt-peer-refused") is None
    ((asked, _),) = pair.seen
    assert [name for name in asked.headers if name.startswith(("quilt", "x-"))] == ["x-own"]


async def test_a_head_alone_is_answered_without_a_body(pair: Pair) -> None:
    async with pair.request("/a", method="HEAD") as answer:
        assert (answer.status, answer.header("content-length")) == (200, "2")
        assert await answer.read(10) == b""
    assert await pair.ask("/next") == (200, b"/next")


@pytest.mark.usefixtures("_no_pings")
async def test_requests_share_connections(pair: Pair) -> None:
    for _ in range(50):
        await pair.ask()
    assert len(pair.server.connections) == 1
    await asyncio.gather(*(pair.ask() for _ in range(20)))
    assert 1 < len(pair.server.connections) <= 20
    many = len(pair.server.connections)
    for _ in range(50):
        await pair.ask()
    assert len(pair.server.connections) == many


@pytest.mark.usefixtures("_no_pings")
@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 6 * MIB])
async def test_bodies_come_whole_in_pieces(pair: Pair, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"y" * (size % 256)
    for sent in (body, _iterated(body), _iterated(body, size)):
        async with pair.request(method="POST", body=sent) as answer:
            found = [piece async for piece in answer.body]
        assert all(0 < len(piece) <= PIECE_BYTES for piece in found)
        assert b"".join(found) == (body or b"/")
    assert len(pair.server.connections) == 1, "both were read to their end"


class Body:
    """A streamed body. `length`: as announced; `asked_for`: the number of pieces requested."""

    def __init__(self, pieces: Iterable[bytes], length: int | None = None) -> None:
        self.length, self.asked_for, self._pieces = length, 0, pieces

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        for piece in self._pieces:
            self.asked_for += 1
            yield piece


def _iterated(body: bytes, length: int | None = None) -> Body:
    return Body([body[at : at + 100_000] for at in range(0, len(body), 100_000)], length)


@pytest.mark.usefixtures("_no_pings")
async def test_an_answer_that_is_not_read_does_no_harm(pair: Pair) -> None:
    async with pair.request("/first") as answer:
        assert answer.status == 200
    assert await pair.ask("/second") == (200, b"/second")
    assert len(pair.server.connections) == 1
    async with pair.request(method="POST", body=b"x" * MIB) as answer:
        assert answer.status == 200  # the rest of the response is still arriving
    assert await pair.ask("/third") == (200, b"/third")


async def test_more_than_was_wanted_is_not_read(pair: Pair) -> None:
    async with pair.request(method="POST", body=b"x" * MIB) as answer:
        with pytest.raises(PeerAnswerTooLong, match="more than 1000 bytes"):
            await answer.read(1000)
    assert await pair.ask("/next") == (200, b"/next")


async def test_a_stream_comes_as_it_is_written(pair: Pair) -> None:
    step = asyncio.Event()

    async def stream() -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"%d" % number
            await step.wait()
            step.clear()

    pair.handler = responding(lambda _: Response(body=stream()))
    async with pair.request() as answer:
        found = answer.body
        for number in range(3):
            async with asyncio.timeout(scaled(5)):
                assert await anext(found) == b"%d" % number
            step.set()
        assert [piece async for piece in found] == []


# Back-pressure -------------------------------------------------------------------------------


async def test_a_stream_that_nobody_reads_is_not_made(pair: Pair) -> None:
    made = 0

    async def stream() -> AsyncIterator[bytes]:
        nonlocal made
        while made < 400:
            made += 1
            yield b"x" * PIECE_BYTES

    pair.handler = responding(lambda _: Response(body=stream()))
    async with pair.request() as answer:
        before = -1
        while made != before:  # until the node stops reading
            before = made
            await asyncio.sleep(0.3)
        assert 0 < made < 200, "what is on the way is bounded"
        size = 0
        async for piece in answer.body:
            size += len(piece)
        assert size == 400 * PIECE_BYTES


async def test_a_body_that_is_not_taken_is_not_asked_for(pair: Pair) -> None:
    wants, read = asyncio.Event(), asyncio.Event()
    body = Body([b"x" * PIECE_BYTES] * 400)

    async def handle(asked: Request, _: Asker) -> Response:
        await wants.wait()
        chunks = asked.chunks()
        size = len(await anext(chunks))
        await read.wait()
        size += sum([len(piece) async for piece in chunks])
        return Response(body=b"%d" % size)

    pair.handler = handle
    call = asyncio.ensure_future(pair.ask(method="POST", body=body))
    await asyncio.sleep(0.3)
    assert body.asked_for == 0, "the node has not asked for it"
    wants.set()
    before = 0
    while body.asked_for != before or not before:
        before = body.asked_for
        await asyncio.sleep(0.3)
    assert before < 200
    read.set()
    assert await call == (200, b"%d" % (400 * PIECE_BYTES))


async def test_an_answer_before_the_body_ends_the_sending(pair: Pair) -> None:
    async def handle(asked: Request, _: Asker) -> Response:
        if asked.path == "/some":
            await anext(asked.chunks())
        return Response(status=413)

    pair.handler = handle
    for path in ("/none", "/some"):
        body = Body(itertools.repeat(b"x" * PIECE_BYTES))
        assert (await pair.ask(path, method="POST", body=body))[0] == 413
        assert (body.asked_for == 0) is (path == "/none")
    assert (await pair.ask(method="POST", body=b"x" * 6 * MIB))[0] == 413


async def test_an_answer_and_a_body_pass_each_other(pair: Pair) -> None:
    async def handle(asked: Request, _: Asker) -> Response:
        chunks = asked.chunks()
        first = await anext(chunks)  # once a response has begun, a body can no longer be requested

        async def echo() -> AsyncIterator[bytes]:
            yield first
            async for chunk in chunks:
                yield chunk

        return Response(body=echo())

    pair.handler = handle
    body = Body([b"x" * PIECE_BYTES] * 100)
    async with pair.request(method="POST", body=body) as answer:
        assert len(await answer.read(8 * MIB)) == 100 * PIECE_BYTES
    assert body.asked_for == 100


async def test_a_long_answer_does_not_hold_up_short_ones(pair: Pair) -> None:
    """Encrypting a body of 6 MiB in one piece would block the event loop, and with it the short
    responses.
    """

    pair.handler = responding(
        lambda asked: Response(body=b"x" * (32 * MIB if asked.path == "/long" else 10))
    )
    await pair.ask()
    long = asyncio.ensure_future(pair.ask("/long"))
    waits = []
    while not long.done():
        began = time.monotonic()
        await pair.ask()
        waits.append(time.monotonic() - began)
    assert len((await long)[1]) == 32 * MIB
    assert len(waits) > 5, "short ones went beside it"


# Ends of requests and connections ------------------------------------------------------------


async def asked(pair: Pair, **fields: Any) -> "asyncio.Task[tuple[int, bytes]]":
    """A request that the other node has received and not yet answered."""
    call = asyncio.create_task(pair.ask(**fields))
    await until(lambda: pair.server.connections.tasks)
    return call


async def never(_: Request, __: Asker) -> Response:
    await asyncio.Event().wait()
    raise AssertionError


@promise("N6")
async def test_a_connection_that_ends_fails_its_request_at_once(pair: Pair) -> None:
    pair.handler = never
    call = await asked(pair)
    began = time.monotonic()
    pair.server.connections.cut_all()
    with pytest.raises(PeerGone, match="connection to node two has ended"):
        await call
    assert time.monotonic() - began < scaled(0.5)


async def test_a_node_that_did_not_get_all_of_a_body_has_not_begun_with_it(pair: Pair) -> None:
    """The other node does not read, so the sent data fills the buffers. A body that did not arrive
    completely has certainly not started an invocation.
    """
    pair.handler = never
    call = await asked(pair, body=b"x" * (64 * MIB))
    await asyncio.sleep(0.2)
    pair.server.connections.cut_all()
    with pytest.raises(PeerUnreachable, match="connection to node two has ended"):
        await call


async def test_an_answer_that_is_cut_short_is_no_answer(pair: Pair) -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"the beginning"
        raise CutShort

    pair.handler = responding(lambda _: Response(body=stream()))
    async with pair.request() as answer:
        with pytest.raises(PeerGone):
            await answer.read(1000)


async def test_a_request_that_takes_too_long_is_given_up_and_the_node_told(pair: Pair) -> None:
    pair.handler = never
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await pair.ask()
    await until(lambda: not len(pair.server.connections))


async def collected(asked: Request) -> bytes:
    return b"".join([piece async for piece in asked.chunks()])


async def test_a_body_that_fails_ends_the_request_with_its_error(pair: Pair) -> None:
    def bad() -> Iterator[bytes]:
        yield b"x"
        raise TimeoutError("of the body's own")

    is_told = asyncio.Event()

    async def handle(asked: Request, _: Asker) -> Response:
        with pytest.raises(ClientDisconnected):
            await collected(asked)
        is_told.set()
        raise ClientDisconnected

    pair.handler, before = handle, pair.handler
    with pytest.raises(TimeoutError, match="of the body's own"):
        await pair.ask(method="POST", body=Body(bad()))
    async with asyncio.timeout(scaled(10)):
        await is_told.wait()
    pair.handler = before
    with pytest.raises(TimeoutError, match="of the block"):
        async with pair.request():
            raise TimeoutError("of the block")
    assert await pair.ask("/next") == (200, b"/next")


async def test_the_kernel_notices_a_machine_that_is_gone_on_both_sides(pair: Pair) -> None:
    """The requested node must notice a lost machine, too: it sends no pings, and its response may
    take hours.
    """
    await pair.ask()
    for end in ("getsockname", "getpeername"):
        with contextlib.ExitStack() as stack:
            every = [stack.enter_context(one) for one in _connected_sockets()]
            of_ip = [one for one in every if one.family == socket.AF_INET]
            (own,) = [one for one in of_ip if getattr(one, end)()[1] == pair.port]
            assert own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 3000


def _connected_sockets() -> list[socket.socket]:
    """Duplicates of this process's connected sockets."""
    found = []
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):
            sock = socket.socket(fileno=os.dup(number))
            try:
                sock.getpeername()
            except OSError:
                sock.close()
                raise
            found.append(sock)
    return found


@promise("N6")
async def test_a_node_that_is_silent_is_taken_for_dead(pair: Pair) -> None:
    """The link of the other machine is down: no data arrives, and no connection ends."""
    pair.handler = never
    async with _proxy(pair) as proxy:
        calls = [asyncio.ensure_future(pair.ask()) for _ in range(3)]
        await asyncio.sleep(3.0)
        assert not any(call.done() for call in calls), "its pings are answered"
        proxy.is_cut.set()
        began = time.monotonic()
        for call in calls:
            with pytest.raises(PeerGone, match="node two has been silent for 2 s"):
                await call
        assert 1.5 < time.monotonic() - began < 3.0 + scaled(1.0)
        with pytest.raises(PeerUnreachable, match="no answer within 2 s"):
            await pair.ask()
        began = time.monotonic()
        with pytest.raises(PeerUnreachable, match="no answer within 2 s"):
            await pair.ask()
        assert time.monotonic() - began < scaled(0.3), "known to be unreachable"


class Revision:
    """The `KeyRevisions` of one node."""

    def __init__(self, revision: int) -> None:
        self.revision, self.others = revision, set[str | None]()
        self.nodes = set[str]()

    def heard_of(self, node: str) -> None:
        self.nodes.add(node)

    def heard(self, revision: str | None) -> None:
        self.others.add(revision)


@promise("N94")
@pytest.mark.parametrize("is_older", [False, True])
async def test_pings_carry_the_key_revision_both_ways(pair: Pair, is_older: bool) -> None:
    """A node of an older version sends no revision; its peers must accept that."""
    asking, asked = Revision(7), Revision(8)
    pair.peers.keys, pair.server.keys = asking, None if is_older else asked
    release = waits_to_answer(pair)
    call = asyncio.ensure_future(pair.ask())
    await until(lambda: asking.others)
    release.set()
    assert await call == (200, b"done")
    assert asking.others == ({None} if is_older else {"8"})
    assert asked.others == (set() if is_older else {"7"})
    assert (len(asked.nodes), asking.nodes) == (0 if is_older else 1, set())


@promise("N6")
async def test_a_loop_that_was_held_up_takes_nobody_for_dead(pair: Pair) -> None:
    release = waits_to_answer(pair)
    call = asyncio.ensure_future(pair.ask())
    await asyncio.sleep(1.0)
    time.sleep(3.0)  # noqa: ASYNC251 — blocks the event loop on purpose
    await asyncio.sleep(1.0)
    release.set()
    assert await call == (200, b"done")


async def test_a_node_that_refuses_new_connections_may_end_what_it_has(pair: Pair) -> None:
    """A stopping node accepts no new connections, which pings need. Without a ping it must not
    count as dead, or its last requests would be ended.
    """
    release = waits_to_answer(pair)
    call = await asked(pair)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        pair.of_one.addresses["two"] = f"127.0.0.1:{closed.getsockname()[1]}"
    await asyncio.sleep(3.5)
    release.set()
    assert await call == (200, b"done")


async def test_a_node_without_a_descriptor_for_pings_takes_nobody_for_dead(pair: Pair) -> None:
    release = waits_to_answer(pair)
    call = await asked(pair)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        await asyncio.sleep(3.5)
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    release.set()
    assert await call == (200, b"done")


# Bounds and refusals -------------------------------------------------------------------------


async def test_connections_to_a_node_are_few(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CONNECTIONS_MAX", 3)
    release = waits_to_answer(pair)
    calls = [asyncio.ensure_future(pair.ask()) for _ in range(3)]
    await until(lambda: len(pair.server.connections.tasks) == 3)
    await until(lambda: pair.server.counts["one"] == 4)  # one of these connections is for pings
    for _ in range(2):
        with pytest.raises(PeerBusy, match="3 connections to node two, in use"):
            await pair.ask()
        await asyncio.sleep(client.SILENT_S + 2 * client.PING_EVERY_S)
    release.set()
    assert [await call for call in calls] == [(200, b"done")] * 3
    assert await pair.ask() == (200, b"done")


async def test_connections_that_the_node_has_ended_are_not_asked_for_pings(pair: Pair) -> None:
    release = asyncio.Event()

    async def handle(request: Request, __: Asker) -> Response:
        await (release.wait() if request.path == "/long" else asyncio.sleep(0.2))
        return Response(body=b"done")

    pair.handler = handle
    await asyncio.gather(*(pair.ask() for _ in range(8)))
    kept = pair.peers._links["two"]._idle[-1]._transport.get_extra_info("sockname")
    # the node ends all connections but one, as if there were too many
    for regular in list(pair.server.connections._regular):
        connection: Any = regular
        if connection._transport.get_extra_info("peername") != kept:
            connection.cut()
    call = asyncio.ensure_future(pair.ask("/long"))
    await asyncio.sleep(client.SILENT_S + 3 * client.PING_EVERY_S)
    release.set()
    assert await call == (200, b"done")


async def test_a_node_with_as_many_connections_as_it_takes_has_not_begun(pair: Pair) -> None:
    limits = pair.server.connections
    limits.limits = msgspec.structs.replace(limits.limits, most=2)
    release = waits_to_answer(pair)
    calls = [asyncio.ensure_future(pair.ask()) for _ in range(2)]
    await until(lambda: len(limits.tasks) == 2)
    with pytest.raises(PeerUnreachable, match="reached its limit of connections"):
        await pair.ask()
    release.set()
    assert [await call for call in calls] == [(200, b"done")] * 2
    assert len(pair.seen) == 2


async def test_long_answers_that_nodes_do_not_take_count_and_make_room(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "PATIENCE_S", 0.2)
    responses, size = pair.server.connections.responses, 20_000_000

    pair.handler = responding(
        lambda request: Response(body=b"x" * (size if request.path == "/long" else 2_000_000))
    )
    async with pair.request("/long") as answer:
        await until(lambda: responses.held > size // 2)
        # The response is cut off once other responses wait for its memory.
        async with responses.reserve(46_000_000, "t"):
            assert responses.held == 46_000_000
        with pytest.raises(PeerGone):
            await answer.read(size)
    # A connection that is in use ends normally, and its memory is released.
    assert (await pair.ask("/short")) == (200, b"x" * 2_000_000)
    await until(lambda: responses.held == 0)


async def test_a_head_that_is_too_long_is_refused_both_ways(pair: Pair) -> None:
    long = "x" * 1_200_000

    with contextlib.suppress(PeerGone):
        status, _ = await pair.ask(headers=[("x-long", long)])
        assert status == 431
    assert not pair.seen
    pair.handler = responding(lambda _: Response(headers=[("x-long", long)]))
    with pytest.raises(PeerGone, match="too long a head"):
        await pair.ask()


@pytest.mark.parametrize(
    "bad",
    [
        {"headers": [("x", "a\r\nquilt-peer: 1")]},
        {"headers": [("x\ny", "a")]},
        {"target": "/a b"},
        {"target": "/a\r\nx: y"},
        {"target": "http://other/"},
        {"headers": [("x", "\u20ac")]},
    ],
)
async def test_what_would_be_another_request_stays(pair: Pair, bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"head|latin"):
        await pair.ask(**bad)  # type: ignore[arg-type]
    assert not pair.seen
    assert await pair.ask("/next") == (200, b"/next")


async def test_a_node_that_is_not_there_is_told_with_its_address(pair: Pair) -> None:
    with pytest.raises(PeerUnreachable, match="there is no node three"):
        async with pair.request(node="three"):
            pass
    pair.of_one.addresses["three"] = "127.0.0.1:1"
    with pytest.raises(PeerUnreachable, match=r"node three at 127\.0\.0\.1:1 .*failed|refused"):
        async with pair.request(node="three"):
            pass


async def test_a_node_that_ends_fails_what_it_asked(pair: Pair) -> None:
    pair.handler = never
    call = await asked(pair)
    await pair.peers.aclose()
    with pytest.raises(PeerGone, match="this node is ending"):
        await call
    with pytest.raises(PeerUnreachable, match="this node is ending"):
        await pair.ask()
    await pair.peers.aclose()


class Proxy:
    """Forwards bytes between two nodes. Once `is_cut`, it forwards nothing and closes nothing."""

    def __init__(self, port: int) -> None:
        self.port, self.is_cut = port, asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut.is_set():
            self._writers.append(writer)
            return
        there, to = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers += [writer, to]
        for source, sink in ((reader, to), (there, writer)):
            self._tasks.add(asyncio.ensure_future(self._carry(source, sink)))

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if not self.is_cut.is_set():
                    sink.write(data)

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def _proxy(pair: Pair) -> AsyncIterator[Proxy]:
    proxy = Proxy(pair.port)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    pair.of_one.addresses["two"] = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.aclose()
