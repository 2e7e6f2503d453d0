"""The HTTP client for a web server in a sandbox, over real sockets to a web server in this
process.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import json
import os
import re
import socket
import sys
import termios
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

import pytest
import uvloop

from promises import promise
from quiltfn.model.invocation import CallResult, ExitKind
from quiltfn.model.server import ServerSettings
from quiltfn.ports import Call, SandboxRefused
from quiltfn.ports.streamed_body import BodyCut
from quiltfn.sandbox import http_connection
from quiltfn.sandbox import web_server as module
from quiltfn.sandbox.output_limits import OutputLimits
from quiltfn.sandbox.web_server import WebServer
from service.platform_harness import until
from timeouts import scaled

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
LIMITS = OutputLimits(1000, 1000)
PIECE, MANY = b"x" * 65536, 400
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Guest:
    """A `WebServer` whose guest is this test. `asked`: the number of sockets that were
    requested.
    """

    def __init__(self, port: int, limits: OutputLimits) -> None:
        self.asked = 0
        self.gives = True
        log, self.writes = os.pipe()
        settings = ServerSettings(port=port)
        self.server = WebServer(settings, log, limits, self.ask, lambda: False)

    def ask(self) -> None:
        self.asked += 1
        if self.gives:
            made = socket.socket()
            assert self.server.socket_came(0, made.detach())

    async def call(
        self,
        method: str = "GET",
        path: str = "/",
        body: str = "",
        timeout_s: float = 20.0,
        streamed: Body | None = None,
    ) -> CallResult:
        event = {
            "version": "2.0",
            "rawPath": path,
            "requestContext": {"http": {"method": method}},
            "body": body,
        }
        call = Call(
            payload=json.dumps(event).encode(),
            environment={},
            replaces_environment=False,
            timeout_s=timeout_s,
            body=streamed,
        )
        return await self.server.call(call)


class Body:
    """A streamed body. `asked_for`: the number of pieces that were requested; `error`: its end."""

    def __init__(
        self, pieces: Iterable[bytes], length: int | None = None, error: str | None = None
    ) -> None:
        self.length, self.asked_for, self.error, self._pieces = length, 0, error, pieces

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        for piece in self._pieces:
            self.asked_for += 1
            yield piece
        if self.error is not None:
            raise BodyCut(self.error)


@asynccontextmanager
async def served(serve: Serve, limits: OutputLimits = LIMITS) -> AsyncIterator[Guest]:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(once, "127.0.0.1", 0)
    guest = Guest(listener.sockets[0].getsockname()[1], limits)
    try:
        yield guest
    finally:
        guest.server.lost(out_of_memory=False)
        os.close(guest.writes)
        listener.close()


async def request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return head + await reader.readexactly(int(length or 0))


async def always(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await request(reader)
        writer.write(OK)


async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


def body_of(result: CallResult) -> bytes:
    assert result.refusal is None, result.refusal
    return result.stdout.partition(b"\0" * 8)[2]


def sentence_of(result: CallResult) -> str | None:
    """The message of a refused result; None if the result is a response."""
    return None if result.refusal is None else result.refusal.sentence


async def test_one_connection_takes_request_after_request() -> None:
    async with served(always) as guest:
        for _ in range(5):
            assert body_of(await guest.call()) == b"ok"
        assert guest.asked == 1
        several = await asyncio.gather(*(guest.call() for _ in range(4)))
        assert [body_of(one) for one in several] == [b"ok"] * 4
        assert guest.asked == 4


async def test_a_long_idle_connection_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.0)
    async with served(always) as guest:
        for _ in range(3):
            assert body_of(await guest.call()) == b"ok"
        assert guest.asked == 3


@pytest.mark.parametrize(
    ("method", "times", "refusal"),
    [
        ("GET", 2, None),
        ("PUT", 2, None),
        ("POST", 1, "the server closed the connection without a response"),
        ("PATCH", 1, "the server closed the connection without a response"),
    ],
)
async def test_idempotent_requests_repeat(method: str, times: int, refusal: str | None) -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(OK)
        # read the request, then close the connection without a response
        seen.append(await request(reader))

    async with served(serve) as guest:
        assert body_of(await guest.call()) == b"ok"
        result = await guest.call(method)
        assert sentence_of(result) == refusal
        assert (len(seen), guest.asked) == (1, times)


async def test_nothing_is_repeated_once_an_answer_has_begun_or_twice() -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not seen:
            await request(reader)
            writer.write(OK)
        seen.append(await request(reader))
        if b"/begun" in seen[-1]:
            writer.write(b"HTTP/1.1 200 OK\r\n")

    async with served(serve) as guest:
        assert body_of(await guest.call()) == b"ok"
        result = await guest.call(path="/begun")
        assert (
            sentence_of(result) == "the server closed the connection in the middle of its response"
        )
        assert len(seen) == 1
    seen.clear()
    async with served(serve) as guest:
        assert body_of(await guest.call()) == b"ok"
        result = await guest.call(path="/never")
        assert sentence_of(result) == "the server closed the connection without a response"
        assert len(seen) == 2


async def test_an_early_answer_leaves_no_rest_of_its_request_to_the_next() -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).partition(b" ")[0])
        writer.write(OK)
        await writer.drain()
        await reader.read()

    async with served(serve) as guest:
        large = await guest.call("POST", body="x" * 6_000_000)
        assert body_of(large) == b"ok"
        assert body_of(await guest.call("GET")) == b"ok"
    assert heads == [b"POST", b"GET"]


async def test_each_call_ends_at_its_own_deadline_whatever_it_waits_for() -> None:
    ended: list[float] = []
    async with served(silent) as guest, asyncio.timeout(scaled(10)):

        async def call(timeout_s: float) -> None:
            assert (await guest.call(timeout_s=timeout_s)).kind is ExitKind.DEADLINE
            ended.append(timeout_s)

        await asyncio.gather(*map(call, (0.6, 0.2, 0.4)))
        guest.gives = False  # the guest sends no socket
        await call(0.1)
    assert ended == [0.2, 0.4, 0.6, 0.1]


def test_calls_come_while_a_deadline_is_at_hand_on_the_loop_that_the_server_has() -> None:
    async def check() -> None:
        async with served(silent) as guest, asyncio.timeout(scaled(10)):
            # uvloop cannot tell the time of a timer that is due at once.
            results = await asyncio.gather(guest.call(timeout_s=0.0001), guest.call(timeout_s=0.05))
        assert [one.kind for one in results] == [ExitKind.DEADLINE] * 2

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(check())


async def test_a_log_that_is_no_pipe_is_refused() -> None:
    """The end of other files cannot be waited for, so an invocation with such a log would never
    end.
    """
    log = os.eventfd(0, os.EFD_NONBLOCK)
    with pytest.raises(SandboxRefused, match="did not send a pipe"):
        WebServer(ServerSettings(port=80), log, LIMITS, lambda: None, lambda: False)
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(log)


async def test_a_call_without_a_socket_says_why() -> None:
    async with served(always) as guest:
        guest.gives = False
        running = asyncio.ensure_future(guest.call())
        await until(lambda: guest.asked == 1)
        assert guest.server.socket_came(24, None)
        assert "Too many open files" in str((await running).refusal)
        running = asyncio.ensure_future(guest.call())
        await until(lambda: guest.asked >= 2)
        other, mine = socket.socketpair()
        assert guest.server.socket_came(0, other.detach())  # not a network socket
        assert "did not send a socket" in str((await running).refusal)
        mine.close()
        # no invocation has requested a socket
        assert not guest.server.socket_came(0, socket.socket().detach())


async def test_the_end_of_the_server_ends_its_calls_each_with_what_it_is() -> None:
    async with served(silent) as guest:
        running = [asyncio.ensure_future(guest.call()) for _ in range(3)]
        await until(lambda: guest.asked >= 3)
        os.write(guest.writes, b"last words\n")
        guest.server.ended(ExitKind.SIGNALLED, 11, out_of_memory=False)
        results = [await one for one in running]
        assert {(one.kind, one.code) for one in results} == {(ExitKind.SIGNALLED, 11)}
        assert [one.stderr for one in results] == [b"last words\n", b"", b""]
        late = await guest.call()
        assert sentence_of(late) == "the server accepts no connection: it has ended"


async def test_its_log_flood_is_read_no_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOG_BYTES_PER_S", 100_000)
    async with served(always) as guest:
        os.set_blocking(guest.writes, False)
        written = 0
        for _ in range(300):
            try:
                written += os.write(guest.writes, b"x" * 4096)
            except BlockingIOError:
                await asyncio.sleep(0.001)
        # This is the most that can be written: the rate of one second, twice the pipe's size,
        # and one piece.
        assert 100_000 <= written <= 100_000 + 2 * 65_536 + module.PIECE
        result = await guest.call()
        assert len(result.stderr) == 1000  # the limit of an invocation's standard error
        assert result.stderr_dropped >= module.LOG_BETWEEN_BYTES - 1000


async def test_a_log_of_single_bytes_wakes_nobody_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOG_BYTES_PER_S", 4 * module.LOG_READ_BYTES)
    async with served(always) as guest:
        for _ in range(8):
            os.write(guest.writes, b"x")
            await asyncio.sleep(0.05)
        assert unread(guest.writes) == 4  # four reads have used up this second's rate
        await until(lambda: unread(guest.writes) == 0)


def unread(pipe: int) -> int:
    """The number of unread bytes in a pipe."""
    counted = bytearray(4)
    fcntl.ioctl(pipe, termios.FIONREAD, counted)
    return int.from_bytes(counted, sys.byteorder)


async def always_tiny_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1\r\na\r\n" * 10_000)
        await writer.drain()


@pytest.mark.parametrize(("rate", "is_held"), [(10_000, True), (10**9, False)])
async def test_an_answer_of_tiny_chunks_is_read_no_faster_than_it_may(
    monkeypatch: pytest.MonkeyPatch, rate: int, is_held: bool
) -> None:
    monkeypatch.setattr(http_connection, "TINY_CHUNKS_PER_S", rate)
    one_read = 256 * 1024 // len(b"1\r\na\r\n")
    limits = OutputLimits(6 * one_read, 1000)
    async with served(always_tiny_chunks, limits) as guest:
        results = await asyncio.gather(*(guest.call(timeout_s=scaled(2)) for _ in range(4)))
        read = sum(len(one.stdout) + one.stdout_dropped for one in results)
    # The rate limits all four together. Without a rate, each response is read up to its own limit.
    assert (read < 3 * one_read) is is_held
    kinds = {one.kind for one in results}
    assert kinds == {ExitKind.DEADLINE if is_held else ExitKind.EXITED}


async def test_after_too_many_tiny_chunks_reading_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "TINY_CHUNKS_PER_S", 100)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            writer.write(b"1\r\na\r\n" * 150 + b"0\r\n\r\n")
            await writer.drain()

    async with served(serve) as guest:
        for _ in range(2):
            result = await guest.call()
            assert result.stdout.endswith(b"\0" + b"a" * 150)


async def test_chunks_of_a_usual_size_have_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "TINY_CHUNKS_PER_S", 1)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write((b"800\r\n" + b"a" * 2048 + b"\r\n") * 1024 + b"0\r\n\r\n")
        await writer.drain()

    async with served(serve, OutputLimits(4 << 20, 1000)) as guest:
        result = await guest.call()
        assert len(result.stdout) > 2 << 20


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (b"a:\r\n" * 255 + b"content-length: 2\r\n", None),
        (b"a:\r\n" * 256 + b"content-length: 2\r\n", "more than 256 headers"),
        (b"a:\r\n" * 40_000, "more than 256 headers"),
        (b"".join(b"n%d:\r\n" % number for number in range(40_000)), "more than 256 headers"),
        (b"a: %b\r\n" % (b"x" * 1000) * 66, "a head of more than 65536 bytes"),
    ],
)
async def test_a_head_is_counted_though_its_body_comes_with_it(
    head: bytes, why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A response that is too long must be refused before it is assembled, which would block the
    event loop.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\nok")

    if why is not None:
        monkeypatch.delattr(module, "answer_head")
    async with served(serve) as guest:
        result = await guest.call()
    assert sentence_of(result) == (why and f"the server's response has {why}")


async def test_a_slow_start_is_asked_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READY_WITHIN_S", 1.0)
    monkeypatch.setattr(module, "LATER_BY", 0.2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        guest = Guest(free.getsockname()[1], LIMITS)
        with pytest.raises(SandboxRefused, match="did not accept connections"):
            await guest.server.wait_until_ready()
        # With an attempt every 10 ms, there would be up to a hundred.
        assert 2 <= guest.asked < 25
        guest.server.lost(out_of_memory=False)
        os.close(guest.writes)


async def test_one_that_ends_before_it_listens_is_refused_with_its_last_words() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        guest = Guest(free.getsockname()[1], LIMITS)
        waits = asyncio.ensure_future(guest.server.wait_until_ready())
        await until(lambda: guest.asked >= 2)
        os.write(guest.writes, b"first\nno such module\n")
        guest.server.ended(ExitKind.EXITED, 1, out_of_memory=False)
        with pytest.raises(SandboxRefused) as refused:
            await waits
        assert re.search(r"ended with status 1 .*: no such module$", str(refused.value))
        assert refused.value.written == "first\nno such module"
        guest.server.lost(out_of_memory=False)
        os.close(guest.writes)


async def test_nothing_stays_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    async with served(always) as guest:
        await asyncio.gather(*(guest.call() for _ in range(8)))
        assert len(os.listdir("/proc/self/fd")) > before + 8
    await until(lambda: len(os.listdir("/proc/self/fd")) <= before)


# Streamed bodies -------------------------------------------------------------------------------


async def test_a_body_that_is_passed_on_is_sent_as_it_came_and_on_a_new_connection() -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            is_chunked = b"transfer-encoding: chunked\r\n" in head
            end = b"0\r\n\r\n"
            read = reader.readuntil(end) if is_chunked else reader.readexactly(2)
            seen.append(await read)
            writer.write(OK)

    async with served(serve) as guest:
        for length in (2, None, 2):
            assert body_of(await guest.call("POST", streamed=Body([b"a", b"b"], length))) == b"ok"
        assert seen == [b"ab", b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n", b"ab"]
        assert guest.asked == 3


async def test_no_more_of_a_body_is_asked_for_than_the_server_takes() -> None:
    may_read = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await may_read.wait()
        await reader.readexactly(MANY * len(PIECE))
        writer.write(OK)

    body = Body([PIECE] * MANY, MANY * len(PIECE))
    async with served(serve) as guest:
        call = asyncio.ensure_future(guest.call("POST", streamed=body))
        before = 0
        while body.asked_for != before or not before:
            before = body.asked_for
            await asyncio.sleep(0.2)
        assert before < MANY // 2
        may_read.set()
        assert body_of(await call) == b"ok"
        assert body.asked_for == MANY


@promise("R37")
async def test_an_answer_arrives_though_the_server_has_closed_upon_the_body() -> None:
    """The kernel refuses further writes after the server has closed; this error must not hide the
    response that can still be read.
    """
    answer = b"HTTP/1.1 413 Too Long\r\ncontent-length: 2\r\n\r\nno"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.transport.abort()  # much of the body was not read

    async with served(serve) as guest:
        for _ in range(20):
            result = await guest.call("POST", streamed=Body([PIECE] * MANY, MANY * len(PIECE)))
            assert body_of(result) == b"no"


async def test_a_body_that_does_not_come_to_its_end_ends_its_call_and_its_connection() -> None:
    ends: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        try:
            ends.append(await reader.read())
        except ConnectionError:
            ends.append(b"reset")

    async with served(serve) as guest:
        for length in (10, None):
            body = Body([b"ab"], length, "its sender has gone")
            result = await guest.call("POST", streamed=body)
            assert (result.kind, result.reason) == (ExitKind.BODY_CUT, "its sender has gone")
            await until(lambda: bool(ends))
            assert not ends.pop().endswith(b"0\r\n\r\n")


async def test_a_deadline_ends_the_sending_of_a_body() -> None:
    async def serve(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(scaled(10))

    body = Body(itertools.repeat(PIECE))
    async with served(serve) as guest:
        result = await guest.call("POST", streamed=body, timeout_s=0.3)
        assert result.kind is ExitKind.DEADLINE
        before = body.asked_for
        await asyncio.sleep(0.1)
        assert body.asked_for == before
