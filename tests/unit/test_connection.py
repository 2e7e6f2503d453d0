"""HTTP connections over real sockets: order, limits, and streamed responses."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from promises import promise
from quiltfn.api.http import connection
from quiltfn.api.http import server as server_module
from quiltfn.api.http.connection import TLS_PIECE_BYTES, HttpConnection
from quiltfn.api.http.connections import ConnectionLimits, Connections
from quiltfn.api.http.request import ClientDisconnected, Headers, Request
from quiltfn.api.http.response import Response
from quiltfn.api.http.server import UNSENT_IN_KERNEL_BYTES, Server
from quiltfn.model.forwarded import ForwardedCall
from timeouts import scaled

CHUNK = b"x" * 65536
PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024
Handler = Callable[[Request], Awaitable[Response]]
Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def plain(request: Request) -> Response:
    return Response(headers=[("x-a", "1"), ("x-a", "2")], body=request.path.encode())


async def echo(request: Request) -> Response:
    return Response(body=b"".join([chunk async for chunk in request.chunks()]))


async def read(request: Request) -> Response:
    """Read the whole body, then respond like `plain`."""
    async for _ in request.chunks():
        pass
    return await plain(request)


LARGE_BYTES = 32 * 2**20


async def large(_: Request) -> Response:
    return Response(body=bytes(LARGE_BYTES))


@dataclass
class ServerUnderTest:
    """A server with the test's responses: `answers` by path. The response to `/slow` waits for
    `may_end`.
    """

    connections: Connections
    port: int = 0
    answers: dict[str, Handler] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    may_end: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.answers |= dict.fromkeys(("/a", "/b", "/hidden"), plain)
        self.answers |= {"/echo": echo, "/large": large, "/slow": self.slow}

    async def slow(self, request: Request) -> Response:
        await self.may_end.wait()
        return await plain(request)

    async def app(self, request: Request) -> Response:
        self.begun.append(request.path)
        return await self.answers[request.path](request)

    def respond(self, path: str, **response: Any) -> None:
        """Set the response to a path. `body`: bytes, or a function that yields the chunks of a
        stream.
        """
        body = response.pop("body", b"")

        async def answer(_: Request) -> Response:
            return Response(body=body() if callable(body) else body, **response)

        self.answers[path] = answer

    @contextlib.asynccontextmanager
    async def client(self, receive_bytes: int = 0) -> AsyncIterator[Client]:
        client = socket.socket()
        if receive_bytes:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=client)
        try:
            yield reader, writer
        finally:
            writer.close()

    async def ask(self, data: bytes) -> bytes:
        """Send `data`, and return what arrives until the server closes the connection."""
        async with self.client() as (reader, writer):
            writer.write(data)
            return await asyncio.wait_for(reader.read(), scaled(10))


@contextlib.asynccontextmanager
async def serving(**limits: float) -> AsyncIterator[ServerUnderTest]:
    door = ServerUnderTest(Connections(ConnectionLimits(**limits)))  # type: ignore[arg-type]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: HttpConnection(door.app, door.connections), "127.0.0.1"
    )
    door.port = server.sockets[0].getsockname()[1]

    async def look() -> None:
        while True:
            await asyncio.sleep(0.05)
            door.connections.look(loop.time())

    looking = asyncio.create_task(look())
    try:
        yield door
    finally:
        looking.cancel()
        server.close()
        door.connections.cut_all()
        await server.wait_closed()


class WaitingTransport(asyncio.Transport):
    """A transport whose client takes nothing before `take` is called."""

    def __init__(self, of: HttpConnection, *, encrypts: bool = False) -> None:
        super().__init__({"ssl_object": object()} if encrypts else {})
        self.of, self.size, self.most = of, 0, len(CHUNK)
        of.connection_made(self)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.size += len(data)
        if self.size > self.most:
            self.of.pause_writing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert low is None
        self.most = high or len(CHUNK)

    def take(self) -> None:
        self.size = 0
        self.of.resume_writing()

    def get_write_buffer_size(self) -> int:
        return self.size

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


@pytest.fixture
async def door() -> AsyncIterator[ServerUnderTest]:
    async with serving() as door:
        yield door


def get(path: str, *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: a", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


CLOSE = "Connection: close"


async def three() -> AsyncIterator[bytes]:
    for chunk in (b"one", b"", b"two", b"three"):
        yield chunk


async def endless(closed: asyncio.Event, *, waits: bool = False) -> AsyncIterator[bytes]:
    """An endless stream. `waits`: after its first chunk it waits forever."""
    try:
        yield b"begun"
        if waits:
            await asyncio.Event().wait()
        while True:
            yield CHUNK
    finally:
        closed.set()


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(scaled(10)):
        while not true():  # noqa: ASYNC110  # the other side is a socket
            await asyncio.sleep(0.01)


def rss_kib() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE_KIB


# Responses -----------------------------------------------------------------------------------


async def test_a_header_may_come_often_and_is_refused_if_invalid(door: ServerUnderTest) -> None:
    head, body = (await door.ask(get("/a", CLOSE))).split(b"\r\n\r\n")
    lines = [b"HTTP/1.1 200 OK", b"x-a: 1", b"x-a: 2", b"content-length: 2", b"connection: close"]
    assert (head.split(b"\r\n"), body) == (lines, b"/a")
    for value in ("a\r\nset-cookie: b", "a\nb", "a\rb", "a\0b"):
        door.respond("/a", headers=[("x-a", value)])
        assert await door.ask(get("/a")) == b""


@promise("A34")
async def test_head_has_the_length_and_no_content_has_none(door: ServerUnderTest) -> None:
    answer = await door.ask(get("/a", method="HEAD") + get("/a", CLOSE, method="HEAD"))
    assert answer.count(b"content-length: 2") == 2
    assert answer.endswith(b"\r\n\r\n")
    door.respond("/none", status=204, body=b"something")
    answer = await door.ask(get("/none", CLOSE))
    assert answer == b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"


async def test_responses_come_in_the_order_of_the_requests(door: ServerUnderTest) -> None:
    door.respond("/stream", body=three)
    async with door.client() as (reader, writer):
        writer.write(get("/slow") + get("/stream") + get("/a", CLOSE))
        await until(lambda: door.begun == ["/slow"])
        door.may_end.set()
        answer = await reader.read()
    assert door.begun == ["/slow", "/stream", "/a"]
    bodies = [answer.index(one) for one in (b"/slow", b"three", b"/a")]
    assert bodies == sorted(bodies)


async def test_a_request_that_waited_for_another_is_not_idle_time() -> None:
    """Of two slow requests in one packet, the second must wait for longer than the idle timeout,
    and still get its response.
    """
    async with serving(keep_alive_s=0.2) as door:
        door.answers["/slow"] = slow_half_second
        async with door.client() as (reader, writer):
            writer.write(get("/slow") * 2)
            for _ in range(2):
                assert (await reader.readuntil(b"/slow")).startswith(b"HTTP/1.1 200 OK")
            assert await reader.read() == b""  # control: an idle connection ends


async def use(*clients: Client) -> None:
    for reader, writer in clients:
        writer.write(get("/a"))
        assert (await reader.readuntil(b"/a")).startswith(b"HTTP/1.1 200 OK")
        # The loop's clock has a resolution of milliseconds, so wait until it shows another time.
        await asyncio.sleep(0.01)


async def is_ended(client: Client) -> bool:
    with contextlib.suppress(ConnectionResetError):
        return await asyncio.wait_for(client[0].read(), scaled(10)) == b""
    return True


@pytest.mark.parametrize("used", [[0, 1, 0], [0, 1, 1], [1]])
async def test_a_new_connection_ends_the_one_idle_longest(used: list[int]) -> None:
    """Two connections are used in the order of `used`; then a third one is opened. A connection
    that has sent nothing has been idle since it was opened.
    """
    async with serving(most=2) as door:
        async with door.client() as first, door.client() as second:
            clients = first, second
            await asyncio.sleep(0.01)
            await use(*(clients[at] for at in used))
            async with door.client() as third:
                await use(third)
                assert await is_ended(clients[1 - used[-1]])
                await use(clients[used[-1]])


# Streams -------------------------------------------------------------------------------------


async def test_a_stream_is_sent_in_chunks_and_ends(door: ServerUnderTest) -> None:
    door.respond("/s", body=three)
    answer = await door.ask(get("/s", CLOSE))
    assert b"transfer-encoding: chunked" in answer
    body = answer.partition(b"\r\n\r\n")[2]
    assert body == b"3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n"
    old = await door.ask(get("/s", version="1.0"))
    assert b"chunked" not in old
    assert old.endswith(b"\r\n\r\nonetwothree")
    # A stream with a Content-Length has this length; otherwise, its connection is closed.
    door.respond("/s", body=three, headers=[("content-length", "11")])
    answer = await door.ask(get("/s") + get("/s", CLOSE))
    assert answer.count(b"\r\n\r\nonetwothree") == 2
    assert b"chunked" not in answer
    door.respond("/s", body=three, headers=[("content-length", "12")])
    assert (await door.ask(get("/s"))).endswith(b"\r\n\r\nonetwothree")


@promise("A33")
async def test_a_stream_that_fails_has_no_end(door: ServerUnderTest) -> None:
    async def breaks() -> AsyncIterator[bytes]:
        yield b"one"
        raise ZeroDivisionError

    door.respond("/s", body=breaks)
    answer = await door.ask(get("/s"))
    assert answer.endswith(b"3\r\none\r\n")
    async with door.client() as (reader, writer):
        # Without chunks, closing the connection marks the end of the body, so it must be reset
        # instead.
        writer.write(get("/s", version="1.0"))
        with pytest.raises(ConnectionResetError):
            await reader.read()


async def test_head_of_a_stream_asks_it_for_nothing_and_closes_it(door: ServerUnderTest) -> None:
    class Chunks:
        closed = False

        def __aiter__(self) -> "Chunks":
            return self

        async def __anext__(self) -> bytes:
            raise AssertionError("it was asked")

        async def aclose(self) -> None:
            self.closed = True

    chunks = Chunks()
    door.respond("/s", body=lambda: chunks)
    answer = await door.ask(get("/s", CLOSE, method="HEAD"))
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(b"\r\n\r\n")
    assert chunks.closed


@promise("A33")
@pytest.mark.parametrize("waits", [True, False])
async def test_a_client_that_leaves_closes_the_stream(door: ServerUnderTest, waits: bool) -> None:
    """A stream must end with its reader. The client leaves between two chunks, or while the stream
    waits for a chunk that never comes.
    """
    closed = asyncio.Event()
    door.respond("/s", body=partial(endless, closed, waits=waits))
    async with door.client() as (reader, writer):
        writer.write(get("/s"))
        await reader.readuntil(b"begun")
    async with asyncio.timeout(scaled(5)):
        await closed.wait()
    await until(lambda: not door.connections.tasks)


@promise("A33")
async def test_a_stream_waits_for_its_reader_and_stays_small(pytestconfig: pytest.Config) -> None:
    """Sends much more data than memory may grow by, to a reader that is slower than the server."""
    chunks_in_all = pytestconfig.getoption("--stream-mib") * 16
    ahead, asked, taken = 0, 0, 0

    async def large() -> AsyncIterator[bytes]:
        nonlocal ahead, asked
        for _ in range(chunks_in_all):
            asked += len(CHUNK)
            ahead = max(ahead, asked - taken)
            yield CHUNK

    async with serving(write_timeout_s=5.0) as door:
        door.respond(
            "/s", body=large, headers=[("content-length", str(chunks_in_all * len(CHUNK)))]
        )
        async with door.client(receive_bytes=65536) as (reader, writer):
            writer.write(get("/s", CLOSE))
            await reader.readuntil(b"\r\n\r\n")
            before = peak = rss_kib()
            while data := await reader.read(65536):
                taken += len(data)
                if taken % (1 << 20) < len(data):
                    await asyncio.sleep(0.002)
                    peak = max(peak, rss_kib())
    assert taken == asked == chunks_in_all * len(CHUNK)
    # No more than the kernel's socket buffers and a few chunks of the server.
    assert ahead < 8 * 2**20
    assert peak - before < 5 * 1024


@promise("A33")
async def test_a_reader_that_stops_is_cut_off_and_one_that_is_slow_is_not() -> None:
    closed = asyncio.Event()
    async with serving(write_timeout_s=0.5) as door:
        door.respond("/s", body=partial(endless, closed))
        async with door.client(receive_bytes=65536) as (reader, writer):
            writer.write(get("/s"))
            # Reads for twice the time within which the client must take something.
            for _ in range(20):
                assert await reader.readexactly(2**20)
                assert not closed.is_set()
                await asyncio.sleep(0.05)
            async with asyncio.timeout(scaled(5)):
                await closed.wait()
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await reader.readexactly(2**30)
        assert len(door.connections) == 0


# Bodies --------------------------------------------------------------------------------------


async def test_a_body_is_handed_on_while_it_arrives_and_not_kept(door: ServerUnderTest) -> None:
    sizes: list[int] = []
    before = rss_kib()

    async def count(request: Request) -> Response:
        async for chunk in request.chunks():
            sizes.append(len(chunk))
            await asyncio.sleep(0)
        return Response(body=str(sum(sizes)).encode())

    door.answers["/count"] = count
    length = 32 * 2**20
    async with door.client() as (reader, writer):
        writer.write(get("/count", f"Content-Length: {length}", CLOSE, method="PUT"))
        for _ in range(length // len(CHUNK)):
            writer.write(CHUNK)
            await writer.drain()
        answer = await reader.read()
    assert answer.endswith(str(length).encode())
    assert max(sizes) < 2**20
    assert rss_kib() - before < 8 * 1024


async def test_a_client_leaving_within_its_body_is_noticed(door: ServerUnderTest) -> None:
    ends: list[type[BaseException]] = []

    async def noting(request: Request) -> Response:
        try:
            return await echo(request)
        except ClientDisconnected as error:
            ends.append(type(error))
            raise

    door.answers["/a"] = noting
    async with door.client() as (_, writer):
        writer.write(get("/a", "Content-Length: 10", method="POST") + b"1")
        await until(lambda: door.begun)
    await until(lambda: ends == [ClientDisconnected])


async def test_continue_is_said_to_who_waits_for_it(door: ServerUnderTest) -> None:
    head = get("/echo", "Content-Length: 2", "Expect: 100-continue", CLOSE, method="POST")
    async with door.client() as (reader, writer):
        writer.write(head)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ok")
        assert (await reader.read()).endswith(b"\r\n\r\nok")
    # HTTP/1.0 has no interim responses: the client would take `100 Continue` for the final
    # response.
    async with door.client() as (reader, writer):
        old = get("/echo", "Content-Length: 2", "Expect: 100-continue", method="POST")
        writer.write(old.replace(b"HTTP/1.1", b"HTTP/1.0"))
        await until(lambda: len(door.begun) == 2)
        writer.write(b"ok")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
    # The handler doesn't want this body, so the client gets the final response at once.
    unwanted = get("/a", "Content-Length: 2", "Expect: 100-continue", CLOSE, method="POST")
    assert (await door.ask(unwanted)).startswith(b"HTTP/1.1 200")


# Refusals ------------------------------------------------------------------------------------


async def test_what_is_no_http_is_refused_behind_answers_due(door: ServerUnderTest) -> None:
    answer = await door.ask(get("/a") + b"rubbish\r\n\r\n" + get("/a"))
    assert answer.index(b"HTTP/1.1 200") == 0
    assert answer.endswith(b"Invalid HTTP request received.")
    assert door.begun == ["/a"]


HIDDEN = get("/hidden", CLOSE)
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)
UPGRADE = ("Connection: Upgrade", "Upgrade: h2c")
FRAMINGS = [
    (f"Content-Length: {len(HIDDEN)}", HIDDEN),
    (f"Content-Length: {len(HIDDEN)} ", HIDDEN),
    (f"Content-Length: 000{len(HIDDEN)}", HIDDEN),
    ("Transfer-Encoding: chunked", CHUNKS),
    ("Transfer-Encoding: Chunked ", CHUNKS),
]


async def told_bodies(door: ServerUnderTest, data: bytes, piece: int | None = None) -> list[bytes]:
    """The bodies of the requests in `data`, which is sent in pieces of `piece` bytes."""
    bodies: list[bytes] = []

    async def noting(request: Request) -> Response:
        bodies.append(b"".join([chunk async for chunk in request.chunks()]))
        return await plain(request)

    door.answers |= dict.fromkeys(("/a", "/b", "/hidden"), noting)
    door.begun.clear()
    async with door.client() as (reader, writer):
        for at in range(0, len(data), piece or len(data)):
            writer.write(data[at : at + (piece or len(data))])
            await writer.drain()
            if piece:
                await asyncio.sleep(0.001)
        answer = await asyncio.wait_for(reader.read(), scaled(10))
    assert answer.count(b"HTTP/1.1 200") == len(bodies)
    return bodies


@pytest.mark.parametrize("piece", [None, 7])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(("framing", "body"), FRAMINGS)
async def test_what_follows_the_offer_of_another_protocol_is_the_body_that_was_announced(
    door: ServerUnderTest, framing: str, body: bytes, method: str, piece: int | None
) -> None:
    upgrade = get("/a", *UPGRADE, framing, method=method) + body
    bodies = await told_bodies(door, upgrade + upgrade + get("/b", CLOSE), piece)
    assert bodies == [HIDDEN, HIDDEN, b""]
    assert door.begun == ["/a", "/a", "/b"]


@pytest.mark.parametrize(("framing", "body"), [("X-A: 1", b""), *FRAMINGS])
async def test_the_last_request_is_last(door: ServerUnderTest, framing: str, body: bytes) -> None:
    last = get("/a", "Connection: Upgrade, close", "Upgrade: h2c", framing, method="POST")
    assert await told_bodies(door, last + body + get("/b")) == [HIDDEN if body else b""]


async def test_negative_control_a_new_parser_without_a_head_reads_the_body_as_a_request(
    door: ServerUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "body_head", lambda *_, **__: b"")
    await told_bodies(door, get("/a", *UPGRADE, FRAMINGS[0][0]) + HIDDEN)
    assert door.begun == ["/a", "/hidden"]


def line(text: str, host: str = "Host: a\r\n") -> bytes:
    return f"{text}\r\n{host}{CLOSE}\r\n\r\n".encode()


POST = partial(get, "/a", method="POST")
CHUNKED = "Transfer-Encoding: chunked"
UNKNOWN_CODING = b"501 Not Implemented", b"Transfer-Encoding must be: chunked"
LONG_LENGTH = b"400 Bad Request", b"Content-Length must have at most 19 digits."
NO_HOST = b"400 Bad Request", b"There must be one Host header."
METHOD, PROTOCOL = (b"501 Not Implemented", b""), (b"505 HTTP Version Not Supported", b"")
REFUSED = [
    *[
        (get(target, FRAMINGS[0][0], method="CONNECT") + HIDDEN, METHOD)
        for target in ("/a", "a:443", "http://a/a")
    ],
    (get("/a", FRAMINGS[0][0], method="SOURCE") + HIDDEN, METHOD),
    (line("SOURCE /a ICE/1.0"), METHOD),
    (line("GET /a ICE/1.0"), (b"400 ", b"")),
    *[
        (line(text), PROTOCOL)
        for text in ("GET /a HTTP/2.0", "GET /a HTTP/0.9", "GET /a RTSP/1.0", "OPTIONS /a RTSP/1.1")
    ],
    (POST("Transfer-Encoding: gzip, chunked") + CHUNKS, UNKNOWN_CODING),
    (POST("Transfer-Encoding: gzip", CHUNKED) + CHUNKS, UNKNOWN_CODING),
    (POST(*UPGRADE, "Transfer-Encoding: gzip") + CHUNKS, UNKNOWN_CODING),
    (POST(*UPGRADE, "Transfer-Encoding: gzip, chunked") + CHUNKS, UNKNOWN_CODING),
    *[
        (POST(f"Content-Length: {len(HIDDEN):0{digits}}", *upgrade) + HIDDEN, LONG_LENGTH)
        for digits in (20, 5000)
        for upgrade in ((), UPGRADE)
    ],
    (line("GET /a HTTP/1.1", ""), NO_HOST),
    (line("GET /a HTTP/1.1", "Host: a\r\nHost: a\r\n"), NO_HOST),
    (line("GET /a HTTP/1.0", "Host: a\r\nHost: b\r\n"), NO_HOST),
]


@pytest.mark.parametrize(("request_bytes", "refusal"), REFUSED)
async def test_what_others_may_read_otherwise_is_refused_and_nothing_behind_it_is_read(
    door: ServerUnderTest, request_bytes: bytes, refusal: tuple[bytes, bytes]
) -> None:
    status, message = refusal
    answer = await door.ask(request_bytes + HIDDEN)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert answer.endswith(message)
    assert answer.count(b"\r\n\r\n") == 1
    assert door.begun == []


TAKEN = [
    (get("/a", *UPGRADE), 2),
    (get("/a", method="OPTIONS"), 2),
    (POST(CHUNKED) + CHUNKS, 2),
    (POST(f"Content-Length: {len(HIDDEN):019}") + HIDDEN, 2),
    (POST(f"Content-Length: {len(HIDDEN):019}", *UPGRADE) + HIDDEN, 2),
    (get("/a", "X-A: GET /a RTSP/1.0"), 2),
    (line("GET /a HTTP/1.1"), 1),
    (line("GET /a HTTP/1.0"), 1),
    (line("OPTIONS /a HTTP/1.0"), 1),
    (line("GET /a HTTP/1.0", ""), 1),
]


@pytest.mark.parametrize(("request_bytes", "count"), TAKEN)
async def test_controls_are_taken(door: ServerUnderTest, request_bytes: bytes, count: int) -> None:
    """Controls for the tests above: valid requests. `count`: how many requests are answered,
    including `HIDDEN`, which follows.
    """
    answer = await door.ask(request_bytes + HIDDEN)
    assert answer.count(b"HTTP/1.1 200") == count
    assert answer.endswith(b"/hidden" if count == 2 else b"/a")
    assert door.begun == ["/a", "/hidden"][:count]


# What follows a body ---------------------------------------------------------------------------


async def test_a_trailer_field_is_no_header_field(door: ServerUnderTest) -> None:
    headers: list[dict[str, str]] = []

    async def noting(request: Request) -> Response:
        begun = dict(request.headers)
        response = await read(request)
        headers.extend([begun, dict(request.headers)])
        return response

    door.answers["/a"] = noting
    chunks = b"2\r\nok\r\n0\r\n"
    trailers = b"X-A: 1\r\nX-Api-Key: k\r\nHost: b\r\nX-B: 2\r\n\r\n"
    head = POST(CHUNKED, "X-C: 3")
    answer = await door.ask(head + chunks + trailers + get("/a", CLOSE))
    assert answer.count(b"HTTP/1.1 200") == 2
    assert headers[0] == headers[1] == {"host": "a", "transfer-encoding": "chunked", "x-c": "3"}
    assert headers[2] == headers[3] == {"host": "a", "connection": "close"}
    # These trailers arrive after the handler has started.
    async with door.client() as (reader, writer):
        writer.write(head + chunks)
        await until(lambda: len(door.begun) == 3)
        writer.write(trailers)
        assert await reader.readuntil(b"/a")
    assert headers[4] == headers[5] == headers[0]


@pytest.mark.parametrize("is_read", [True, False])
@pytest.mark.parametrize(
    "endless",
    [b"0\r\nx-a: ", b"0\r\nx", b"0;a=", b"2\r\nok\r\n0\r\nx-a: ", b"2\r\nok\r\n2;a="],
)
async def test_endless_bodies_end(door: ServerUnderTest, endless: bytes, is_read: bool) -> None:
    """A client must not keep a connection forever by sending small pieces of a body that never
    ends, whether the handler reads the body or not.
    """
    door.answers["/a"] = read if is_read else plain
    head = POST(CHUNKED)
    pieces, piece = 512, b"x" * 1024

    async def send(begin: bytes) -> tuple[int, bytes]:
        """Return how many pieces the server took, and its response."""
        async with door.client() as (reader, writer):
            writer.write(head + begin)
            await until(lambda: door.begun and len(door.connections))
            for number in range(pieces):
                if len(door.connections) == 0:
                    return number, await reader.read()
                writer.write(piece)
                await asyncio.sleep(0.0005)
            writer.write(b"\r\n0\r\n\r\n")
            return pieces, await reader.readuntil(b"/a")

    taken, answer = await send(endless)
    assert taken < 128
    assert answer.startswith(b"HTTP/1.1 431" if is_read else b"HTTP/1.1 200")
    assert answer.count(b"HTTP/1.1") == 1
    assert len(door.connections) == 0
    door.begun.clear()
    taken, answer = await send(b"%x\r\n" % (pieces * 1024))  # control: as many bytes, but in a body
    assert (taken, answer[:12]) == (pieces, b"HTTP/1.1 200")


async def test_a_body_of_tiny_chunks_is_taken_by_what_has_come_together(
    door: ServerUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    feed = Request.feed

    def counted(request: Request, data: bytes) -> None:
        taken.append(len(data))
        feed(request, data)

    monkeypatch.setattr(Request, "feed", counted)
    digits = b"0123456789" * 2000
    head = get("/echo", CHUNKED, CLOSE, method="POST")
    async with door.client() as (reader, writer):
        writer.write(head)
        await until(lambda: door.begun)
        writer.write(b"".join(b"1\r\n%c\r\n" % one for one in digits) + b"0\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 10)
    assert answer.endswith(digits)
    assert sum(taken) >= len(digits) - 1
    assert len(taken) < len(digits) / 100  # the handler gets one piece for each read of the socket


@pytest.mark.parametrize(("count", "size"), [(101, 1), (20, 1000)])
async def test_trailer_fields_are_bounded(door: ServerUnderTest, count: int, size: int) -> None:
    door.answers["/a"] = read
    for fields, status in ((count, b"431"), (count // 2, b"200")):
        lines = b"".join(b"x-%d: %b\r\n" % (n, b"a" * size) for n in range(fields))
        head = POST(CHUNKED, CLOSE)
        answer = await door.ask(head + b"0\r\n" + lines + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize("bad", [b"zz\r\n", b"0\r\nbad\r\n\r\n", b"0;a=\0\r\n"])
async def test_bad_bodies_have_no_second_response(door: ServerUnderTest, bad: bytes) -> None:
    may_end = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"one"
        await may_end.wait()
        yield b"two"

    door.respond("/slow", body=slow)
    async with door.client() as (reader, writer):
        writer.write(get("/a", CHUNKED))
        assert (await reader.readuntil(b"/a")).startswith(b"HTTP/1.1 200")
        writer.write(bad)
        assert await asyncio.wait_for(reader.read(), scaled(2)) == b""
    async with door.client() as (reader, writer):
        writer.write(get("/slow", CHUNKED))
        await reader.readuntil(b"one\r\n")
        writer.write(bad)
        await asyncio.sleep(0.05)
        may_end.set()
        assert await asyncio.wait_for(reader.read(), scaled(2)) == b"3\r\ntwo\r\n0\r\n\r\n"
    # Control: before a response has begun, the bad request is refused.
    answer = await door.ask(get("/echo", CHUNKED, method="POST") + bad)
    assert answer.startswith(b"HTTP/1.1 400")


# Time ------------------------------------------------------------------------------------------


async def slow_half_second(request: Request) -> Response:
    await asyncio.sleep(0.5)
    return await plain(request)


async def test_a_head_that_is_not_read_has_time_and_does_not_cost_the_response_before_it() -> None:
    async with serving(head_timeout_s=0.2) as door:
        door.answers["/slow"] = slow_half_second
        async with door.client() as (reader, writer):
            half, rest = get("/a", CLOSE)[:20], get("/a", CLOSE)[20:]
            writer.write(get("/slow") + get("/a") + half)
            assert (await reader.readuntil(b"/slow")).startswith(b"HTTP/1.1 200")
            await reader.readuntil(b"\r\n\r\n/a")
            writer.write(rest)
            assert (await reader.read()).endswith(b"\r\n\r\n/a")
        # Control: the server waits for the rest of this head only for a short time.
        async with door.client() as (reader, writer):
            writer.write(half)
            assert await asyncio.wait_for(reader.read(), scaled(1)) == b""
            assert door.begun == ["/slow", "/a", "/a"]
        # The response to the previous request is not lost.
        async with door.client() as (reader, writer):
            writer.write(get("/slow") + half)
            await asyncio.sleep(0.4)
            writer.write(rest)  # too late: the server reads nothing more
            assert (await reader.read()).endswith(b"\r\n\r\n/slow")
            assert door.begun == ["/slow", "/a", "/a", "/slow"]


async def test_the_rest_of_a_body_waits_for_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the body may arrive after a large response that the client reads slowly."""
    monkeypatch.setattr(connection, "REST_TIMEOUT_S", 0.2)

    async with serving() as door:
        async with door.client(receive_bytes=65536) as (reader, writer):
            writer.write(get("/large", "Content-Length: 2"))
            await until(lambda: door.begun)
            await asyncio.sleep(0.5)
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(LARGE_BYTES)
            writer.write(b"ok" + get("/a", CLOSE))
            assert (await reader.read()).endswith(b"\r\n\r\n/a")
        # Control: a client that reads at once must send its body in time.
        async with door.client() as (reader, writer):
            writer.write(get("/a", "Content-Length: 2"))
            assert (await asyncio.wait_for(reader.read(), scaled(1))).endswith(b"\r\n\r\n/a")


@promise("A89")
@pytest.mark.parametrize("is_shared", [True, False])
async def test_shared_bodies_count_for_no_client(door: ServerUnderTest, is_shared: bool) -> None:
    door.respond("/large", body=bytes(LARGE_BYTES), is_shared=is_shared)
    async with door.client(receive_bytes=65536) as (reader, writer):
        writer.write(get("/large") + get("/a", CLOSE))
        await until(lambda: door.connections._paused)
        held = door.connections.responses.held
        assert (held == 0) if is_shared else (held > 16 * 2**20)
        assert (await reader.read()).endswith(b"\r\n\r\n/a")
    assert door.connections.responses.held == 0


async def test_what_is_encrypted_for_one_client_is_not_shared() -> None:
    """With TLS, each client has its own copy of the part that is being encrypted, but not of the
    rest.
    """
    connections, held = Connections(), []

    async def large(_: Request) -> Response:
        return Response(body=bytes(2**20), is_shared=True)

    for encrypts in (False, True):
        client = HttpConnection(large, connections)
        WaitingTransport(client, encrypts=encrypts)
        client.data_received(get("/large"))
        await until(client.unsent)
        held.append(client.held())
        client.connection_lost(None)
    assert held[0] == 0
    assert TLS_PIECE_BYTES < held[1] < 3 * TLS_PIECE_BYTES


@promise("A22")
@pytest.mark.parametrize("size", [2**20, 16])
async def test_nothing_is_made_for_a_client_that_does_not_take_what_came_before(size: int) -> None:
    """No budget counts responses that are created before the client has taken the previous ones. So
    requests that arrive meanwhile must wait, and are dropped if the client leaves.

    Control: short responses, which fit into the buffer.
    """
    begun: list[str] = []

    async def app(request: Request) -> Response:
        begun.append(request.path)
        return Response(body=bytes(size))

    client = HttpConnection(app, connections := Connections())
    transport, is_long = WaitingTransport(client), size > len(CHUNK)
    client.data_received(get("/1") + get("/2"))
    client.data_received(get("/3") + get("/4"))
    for count in (1, 2, 3):
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(begun) == (count if is_long else 4)
        assert connections.responses.held == (transport.size if is_long else 0)
        assert bool(connections.tasks) is False
        if count < 3:
            transport.take()
    client.connection_lost(None)
    for _ in range(5):
        await asyncio.sleep(0)
    assert begun == ["/1", "/2", "/3", "/4"][: 3 if is_long else 4]
    assert connections.responses.held == 0


@promise("A22")
async def test_unsent_bytes_are_counted_not_in_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel must not buffer responses that no budget counts. Control: without the limit, it
    would buffer megabytes for each connection.
    """
    held = list[int]()
    for in_kernel in (UNSENT_IN_KERNEL_BYTES, 2**30):
        monkeypatch.setattr(server_module, "UNSENT_IN_KERNEL_BYTES", in_kernel)
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        door = ServerUnderTest(Connections(), listener.getsockname()[1])
        server = Server(door.app, door.connections)
        serving = asyncio.create_task(server.serve(listener))
        await until(partial(listener.getsockopt, socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        async with door.client(receive_bytes=4096) as (_, writer):
            writer.write(get("/large"))
            paused = door.connections._paused
            await until(paused.copy)
            await asyncio.sleep(0.2)
            [connection] = paused
            held.append(connection.unsent())
            server.leave()
        await serving
    assert held[0] > LARGE_BYTES - 2**20 > held[1]


async def test_a_mistake_in_the_application_ends_its_connection(door: ServerUnderTest) -> None:
    door.respond("/broken", body=lambda: 1 / 0)
    assert await door.ask(get("/broken")) == b""
    assert (await door.ask(get("/a", CLOSE))).endswith(b"/a")


async def test_a_server_that_ends_answers_what_it_has_begun(door: ServerUnderTest) -> None:
    async with door.client() as (reader, writer), door.client() as (idle, _):
        writer.write(get("/slow"))
        await until(lambda: door.begun)
        await until(lambda: len(door.connections) == 2)
        door.connections.finish_all()
        assert await idle.read() == b""
        door.may_end.set()
        assert b"connection: close" in await reader.read()
    await until(lambda: len(door.connections) == 0)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/a", "/a", b""),
        (b"/a%20b?c=%20", "/a b", b"c=%20"),
        (b"http://host/a?b#c", "/a", b"b"),
    ],
)
def test_a_target_is_split_into_path_and_query(target: bytes, path: str, query: bytes) -> None:
    assert connection.split_target(target) == (path, query)


REFUSAL = {"status": 413, "body": b"too long", "closes": True}


def refused_while_sending(port: int, size: int) -> bytes:
    """The part of the response that a client gets if it sends its whole body before it reads."""
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(POST(f"Content-Length: {size}") + b"x" * size)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(partial(client.recv, 65536), b""))


async def test_a_client_that_is_still_sending_gets_the_last_response(
    door: ServerUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: if the server closed the connection at once, the response would be lost."""
    door.respond("/a", **REFUSAL)
    send = partial(asyncio.to_thread, refused_while_sending, door.port, 4 * 1024 * 1024)
    for _ in range(5):
        found = await send()
        assert found.startswith(b"HTTP/1.1 413 ")
        assert found.endswith(b"too long")
    monkeypatch.setattr(HttpConnection, "_end", lambda it: it._transport.close())
    with pytest.raises(ConnectionError):
        await send()


@pytest.mark.parametrize("stops", [True, False])
async def test_the_rest_of_a_refused_body_is_read_for_a_while_only(
    door: ServerUnderTest, monkeypatch: pytest.MonkeyPatch, stops: bool
) -> None:
    """Without limits of time and of bytes, clients could keep connections by sending on."""
    if stops:
        monkeypatch.setattr(connection, "REST_TIMEOUT_S", 0.2)
    else:
        monkeypatch.setattr(connection, "REST_MAX_BYTES", 1024 * 1024)
    door.respond("/a", **REFUSAL)
    async with door.client() as (reader, writer):
        writer.write(get("/a", "Content-Length: 999999999", method="POST"))
        assert (await reader.read()).endswith(b"too long")
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(keep_sending(writer, b"x" if stops else CHUNK), scaled(5))


async def keep_sending(writer: asyncio.StreamWriter, data: bytes) -> None:
    while True:
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(0.01)


@promise("R45")
@pytest.mark.parametrize("size", [0, 200_000])
@pytest.mark.parametrize("ends_with_client", [True, False])
async def test_work_that_changes_nothing_ends_with_its_client_and_other_work_does_not(
    door: ServerUnderTest, ends_with_client: bool, size: int
) -> None:
    ends: list[str] = []
    requests: list[Request] = []
    go_on = asyncio.Event()

    async def work(request: Request) -> Response:
        request.ends_with_client = ends_with_client
        taken = sum([len(chunk) async for chunk in request.chunks()])
        assert taken == size
        requests.append(request)
        try:
            await go_on.wait()
            ends.append("done")
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise
        return Response()

    door.answers["/a"] = work
    async with door.client() as (_, writer):
        writer.write(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        writer.write(b"x" * size)
        await until(lambda: requests)
    await until(lambda: requests[0].is_lost)
    go_on.set()
    await until(lambda: ends == ["cancelled" if ends_with_client else "done"])
    await until(lambda: not door.connections.tasks)


@promise("A41")
@pytest.mark.parametrize("is_lost", [True, False])
@pytest.mark.parametrize("forwarded", [None, ForwardedCall(client="a")], ids=["client", "node"])
@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "k"}], ids=["once", "repeatable"])
def test_a_request_is_abandoned_if_nobody_can_have_its_response(
    is_lost: bool, forwarded: ForwardedCall | None, headers: dict[str, str]
) -> None:
    request = Request("POST", "/", Headers(headers))
    request.is_lost, request.forwarded = is_lost, forwarded
    assert request.is_abandoned is (is_lost and forwarded is None and not headers)
