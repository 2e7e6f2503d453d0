"""Callbacks over real sockets: faults of a receiver, a resolver or the network.

Two addresses of this machine are used: 127.0.0.2 is allowed, like a public address, and 127.0.0.1
must not be reached.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, cast

import httpcore
import httpx
import pytest
import uvloop

from promises import promise
from quiltfn.calls.callbacks import (
    ADDRESSES_MAX,
    ANSWER_MAX_BYTES,
    TIMEOUT_S,
    BoundedStream,
    Callbacks,
    CheckedBackend,
    Resolver,
)
from quiltfn.launcher.main import NAMES
from quiltfn.model.callback import Address, AddressRange, may_be_called
from quiltfn.ports.deliveries import CallbackFailed
from quiltfn.settings import Settings
from self_signed import self_signed
from timeouts import scaled


def ranges_of(text: str) -> list[AddressRange]:
    return Settings(callback_networks=text).callback_ranges()


OUTSIDE, INSIDE = "127.0.0.2", "127.0.0.1"
ALLOWED = ranges_of(f"{OUTSIDE}/32")
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LENGTH = b"content-length:"
SECRET_PATH = "/token-4711"
Replies = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Receiver:
    """A server on one address: counts its connections, and stores the requests."""

    def __init__(self) -> None:
        self.reached = 0
        self.received = b""
        self.closed = asyncio.Event()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://hook.example:{self.port}{SECRET_PATH}"


@contextlib.asynccontextmanager
async def receiver(
    host: str,
    answer: Replies | bytes = OK,
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Receiver]:
    receiver = Receiver()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        receiver.reached += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            told_length = [one for one in head.lower().split(b"\r\n") if one.startswith(LENGTH)]
            length = int(told_length[0].removeprefix(LENGTH)) if told_length else 0
            receiver.received += head + await reader.readexactly(length)
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(reader, writer)
        receiver.closed.set()
        writer.close()

    server = await asyncio.start_server(serve, host, port, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        await server.wait_closed()


def answers(*turns: Sequence[str]) -> Callable[[str, int], Awaitable[Sequence[Address]]]:
    """A resolver that gives the next of these results at each call, and repeats the last one."""
    asked = list(turns)

    async def resolve(_host: str, _port: int) -> Sequence[Address]:
        turn = asked.pop(0) if len(asked) > 1 else asked[0]
        return [ipaddress.ip_address(one) for one in turn]

    return resolve


async def post(callbacks: Callbacks, url: str) -> int:
    try:
        return await callbacks.post(url, {"content-type": "application/json"}, b'{"a":1}')
    finally:
        await callbacks.aclose()


async def refused(callbacks: Callbacks, url: str) -> str:
    with pytest.raises(CallbackFailed) as failed:
        await post(callbacks, url)
    assert "token-4711" not in str(failed.value)
    assert "hook.example" not in str(failed.value)
    return str(failed.value)


async def test_a_callback_reaches_an_address_that_is_allowed() -> None:
    async with receiver(OUTSIDE) as there:
        assert await post(Callbacks(ALLOWED, answers([OUTSIDE])), there.url) == 200
    assert there.received.startswith(b"POST /token-4711 HTTP/1.1\r\n")
    assert b"\r\nHost: hook.example:%d\r\n" % there.port in there.received
    assert there.reached == 1


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/a;token=4711", "/a;token=4711"),
        ("/a;b/c;d?e;f=%20", "/a;b/c;d?e;f=%20"),
        ("//b/../c", "//b/../c"),
        ("?a=1", "/?a=1"),
        ("", "/"),
    ],
)
async def test_what_is_asked_for_is_the_url_that_was_given(target: str, sent: str) -> None:
    async with receiver(OUTSIDE) as there:
        url = f"http://hook.example:{there.port}{target}"
        assert await post(Callbacks(ALLOWED, answers([OUTSIDE])), url) == 200
    assert there.received.startswith(b"POST %b HTTP/1.1\r\n" % sent.encode())


async def test_an_address_is_named_to_its_host_as_in_the_url() -> None:
    async with receiver("::1") as there:
        url = f"http://[::1]:{there.port}/"
        assert await post(Callbacks(ranges_of("::1/128")), url) == 200
    assert b"\r\nHost: [::1]:%d\r\n" % there.port in there.received


@promise("A49")
@pytest.mark.parametrize("host", [INSIDE, "localhost", "127.1", "2130706433", "0x7f.1", "0.0.0.0"])
async def test_no_way_to_write_loopback_leads_there(host: str) -> None:
    async with receiver("0.0.0.0") as inside:
        url = f"http://{host}:{inside.port}{SECRET_PATH}"
        assert "may not go to" in await refused(Callbacks([]), url)
        assert inside.reached == 0
        # Control: with permission, the same name leads to the forbidden receiver.
        everything = ranges_of("0.0.0.0/0, ::/0")
        assert await post(Callbacks(everything), url) == 200
        assert inside.reached == 1


async def test_one_address_that_is_not_allowed_spoils_a_name() -> None:
    async with receiver(OUTSIDE) as there, receiver(INSIDE, port=there.port) as inside:
        both = answers([OUTSIDE, INSIDE])
        assert "may not go to" in await refused(Callbacks(ALLOWED, both), there.url)
        assert (there.reached, inside.reached) == (0, 0)


class ResolvesTwice(CheckedBackend):
    """The bug that DNS rebinding exploits: the address that is connected to is not the one that was
    checked.
    """

    async def connect_tcp(
        self, host: str, port: int, *_rest, **_named
    ) -> httpcore.AsyncNetworkStream:
        assert all(may_be_called(one, self._allowed) for one in await self._resolve(host, port))
        (then,) = await self._resolve(host, port)
        return await self._plain.connect_tcp(str(then), port)


@promise("A49")
async def test_a_resolver_that_changes_its_mind_leads_nowhere_else() -> None:
    async with receiver(OUTSIDE) as there, receiver(INSIDE, port=there.port) as inside:
        assert await post(Callbacks(ALLOWED, answers([OUTSIDE], [INSIDE])), there.url) == 200
        assert (there.reached, inside.reached) == (1, 0)
        # The address of the next callback is checked again.
        callbacks = Callbacks(ALLOWED, answers([OUTSIDE], [INSIDE]))
        assert await callbacks.post(there.url, {}, b"") == 200
        assert "may not go to" in await refused(callbacks, there.url)
        assert inside.reached == 0
        # Control: the attack succeeds with a client that resolves the name again.
        weak = Callbacks(ALLOWED)
        weak._pool._network_backend = ResolvesTwice(ALLOWED, answers([OUTSIDE], [INSIDE]))
        assert await post(weak, there.url) == 200
        assert inside.reached == 1


@promise("A49")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    async with receiver(INSIDE) as inside:
        head = f"HTTP/1.1 {status} Elsewhere\r\nlocation: http://{INSIDE}:{inside.port}/\r\n"
        async with receiver(OUTSIDE, head.encode() + b"content-length: 0\r\n\r\n") as there:
            assert await post(Callbacks(ALLOWED, answers([OUTSIDE])), there.url) == status
            assert inside.reached == 0
            # Control: a client that follows redirects reaches the forbidden receiver.
            async with httpx.AsyncClient(follow_redirects=True, trust_env=False) as follows:
                await follows.post(f"http://{OUTSIDE}:{there.port}/")
            assert inside.reached == 1


async def endless_body(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        await writer.drain()


async def endless_head(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x-more: " + b"x" * 8000 + b"\r\n")
        await writer.drain()


async def slow_drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nx-slow: ")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def endless_promises(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
        await writer.drain()


async def silence(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


@promise("A49")
async def test_of_an_endless_body_only_the_status_is_read() -> None:
    async with receiver(OUTSIDE, endless_body) as there:
        assert await post(Callbacks(ALLOWED, answers([OUTSIDE]), timeout_s=5), there.url) == 200
        async with asyncio.timeout(scaled(5)):
            await there.closed.wait()  # the callback has ended its connection


@promise("A49")
@pytest.mark.parametrize("answer", [endless_head, slow_drip, endless_promises, silence])
async def test_an_answer_that_does_not_come_to_its_point_is_given_up(answer: Replies) -> None:
    async with receiver(OUTSIDE, answer) as there:
        before = time.monotonic()
        await refused(Callbacks(ALLOWED, answers([OUTSIDE]), timeout_s=0.5), there.url)
        assert time.monotonic() - before < scaled(5)
        async with asyncio.timeout(scaled(5)):
            await there.closed.wait()


@pytest.mark.parametrize("count", [2, 100_000])
async def test_of_interim_answers_only_so_many_bytes_are_read(count: int) -> None:
    """An interim response costs the parser more than its sender, and parsing blocks the event
    loop.
    """

    async def promises(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 103 A\r\n\r\n" * count + OK)
        await writer.drain()

    async with receiver(OUTSIDE, promises) as there:
        callbacks = Callbacks(ALLOWED, answers([OUTSIDE]), timeout_s=30)
        if count == 2:
            assert await post(callbacks, there.url) == 200
        else:
            assert f"longer than {ANSWER_MAX_BYTES} bytes" in await refused(callbacks, there.url)


def test_a_receiver_that_resets_connections_is_a_failed_callback_and_no_mistake_of_ours() -> None:
    """The test uses the server's own event loop, which closes the socket as soon as it sees the
    reset.
    """

    async def tried(callbacks: Callbacks, port: int) -> str:
        try:
            return str(await callbacks.post(f"http://{OUTSIDE}:{port}/", {}, b"{}"))
        except CallbackFailed as error:
            return str(error)

    async def try_many(port: int) -> set[str]:
        callbacks, seen = Callbacks(ALLOWED), set[str]()
        for _ in range(40):
            seen.update(await asyncio.gather(*(tried(callbacks, port) for _ in range(8))))
        await callbacks.aclose()
        return seen

    with socket.create_server((OUTSIDE, 0), backlog=100) as listening:

        def reset_all() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    connection.setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
                    connection.close()

        thread = threading.Thread(target=reset_all)
        thread.start()
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                seen = runner.run(try_many(listening.getsockname()[1]))
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
    assert seen <= {"no connection could be made", "the connection ended before an answer"}
    # This control does not depend on timing, since it has no connection. Without the fix, the call
    # raises an error.
    assert BoundedStream(cast("Any", None)).get_extra_info("ssl_object") is None


async def test_a_name_with_very_many_addresses_is_refused_before_they_are_checked() -> None:
    many = [f"127.1.{number // 200}.{number % 200 + 1}" for number in range(ADDRESSES_MAX + 1)]
    for some, why in ((many, f"more than {ADDRESSES_MAX} addresses"), (many[1:], "may not go to")):
        assert why in await refused(Callbacks([], answers(some)), f"http://h.example{SECRET_PATH}")


async def test_a_name_that_is_none_and_a_port_that_nobody_has_are_told_as_that() -> None:
    assert "resolved" in await refused(Callbacks([]), f"http://nothing.invalid{SECRET_PATH}")
    with pytest.raises(CallbackFailed, match="resolved"):
        await Resolver()("nothing.invalid", 80)
    async with receiver(OUTSIDE) as there:
        port = there.port
    url = f"http://hook.example:{port}{SECRET_PATH}"
    assert "no connection" in await refused(Callbacks(ALLOWED, answers([OUTSIDE])), url)
    assert "no address" in await refused(Callbacks(ALLOWED, answers([])), url)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for hook.example that only clients trust which know its authority."""
    return self_signed(tmp_path_factory.mktemp("tls"), "DNS:hook.example")


async def test_the_certificate_must_name_the_host_not_the_address(certificate: Path) -> None:
    serves = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serves.load_cert_chain(certificate, f"{certificate}.key")
    names: list[str] = []
    serves.sni_callback = lambda _socket, name, _context: names.append(name or "")
    trust = ssl.create_default_context(cafile=certificate)
    async with receiver(OUTSIDE, tls=serves) as there:
        resolve = answers([OUTSIDE])
        url = f"https://hook.example:{there.port}{SECRET_PATH}"
        assert await post(Callbacks(ALLOWED, resolve, trust=trust), url) == 200
        assert names == ["hook.example"]
        other = f"https://other.example:{there.port}{SECRET_PATH}"
        assert "certificate" in await refused(Callbacks(ALLOWED, resolve, trust=trust), other)
        assert "certificate" in await refused(Callbacks(ALLOWED, resolve), url)
        assert names == ["hook.example", "other.example", "hook.example"]


@promise("A49")
async def test_an_address_of_this_machine_is_private(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quiltfn.model.callback.is_public", lambda _address: True)
    async with receiver(OUTSIDE) as there:
        callbacks = Callbacks([], answers([OUTSIDE]))
        assert "may not go to" in await refused(callbacks, there.url)
        assert there.reached == 0
        assert await post(Callbacks(ALLOWED, answers([OUTSIDE])), there.url) == 200


def test_a_thread_is_free_before_its_callback_is_given_up() -> None:
    """The time limit must allow a query to each of three silent name servers, the maximum in
    resolv.conf.
    """
    options = dict(one.split(":") for one in NAMES["RES_OPTIONS"].split())
    assert int(options["timeout"]) * int(options["attempts"]) * 3 < TIMEOUT_S


async def test_unanswered_names_hold_up_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    is_over = threading.Event()

    def silent(*_arguments: object, **_named: object) -> list[object]:
        is_over.wait(scaled(20))
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    resolver = Resolver()
    some = [asyncio.ensure_future(resolver(f"{n}.example", 80)) for n in range(40)]
    try:
        await asyncio.sleep(0.05)
        async with asyncio.timeout(scaled(5)):  # other threads are still free
            assert await asyncio.to_thread(lambda: 1) == 1
    finally:
        is_over.set()
        await asyncio.gather(*some, return_exceptions=True)
        resolver.close()
