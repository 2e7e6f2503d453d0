"""Long responses over the event loop's TLS. Its transport accepts any amount of data, and reports
an empty buffer while the client has not read everything.
"""

import asyncio
import gc
import socket
import ssl
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from quiltfn.api.http import connection
from quiltfn.api.http.connection import HttpConnection
from quiltfn.api.http.connections import ConnectionLimits, Connections
from quiltfn.api.http.request import Request
from quiltfn.api.http.response import Response
from quiltfn.api.http.server import UNSENT_IN_KERNEL_BYTES
from quiltfn.api.http.tls_acceptor import TlsAcceptor
from self_signed import self_signed
from service.platform_harness import until
from timeouts import scaled

BODY = bytes(range(256)) * 4096 * 16  # 16 MiB


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls"), "DNS:localhost")


class Door:
    """A TLS server whose every response is `body`."""

    body = BODY

    def __init__(self, limits: ConnectionLimits) -> None:
        self.connections = Connections(limits)
        self.made: list[weakref.ref[HttpConnection]] = []
        self.port = 0

    def make(self) -> HttpConnection:
        made = HttpConnection(self.app, self.connections)
        self.made.append(weakref.ref(made))
        return made

    async def app(self, _request: Request) -> Response:
        return Response(body=self.body, is_shared=True)

    def client(self) -> ssl.SSLSocket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.connect(("127.0.0.1", self.port))
        return context.wrap_socket(plain)

    def unsent(self) -> int:
        return sum(response.unsent() for ref in self.made if (response := ref()) is not None)


@asynccontextmanager
async def opened(certificate: Path, **limits: float) -> AsyncIterator[Door]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, f"{certificate}.key")
    door = Door(ConnectionLimits(**limits))  # type: ignore[arg-type]
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_IN_KERNEL_BYTES)
    door.port = listener.getsockname()[1]
    acceptor = TlsAcceptor(listener, context, door.make)
    try:
        yield door
    finally:
        acceptor.close()
        listener.close()
        door.connections.cut_all()
        await acceptor.wait_closed()


def ask(door: Door, requests: bytes) -> bytes:
    """Everything that a client receives which reads until the end."""
    with door.client() as client:
        client.sendall(requests)
        received = bytearray()
        while data := client.recv(1 << 18):
            received += data
        return bytes(received)


GET, LAST = (
    b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
)


async def test_responses_come_whole_and_in_order(certificate: Path) -> None:
    async with opened(certificate) as door:
        received = await asyncio.to_thread(ask, door, GET + GET + LAST)
        assert received.count(b"HTTP/1.1 200 OK") == 3
        assert received.count(BODY[:65536]) >= 3
        assert received.endswith(BODY)
        assert len(received) > 3 * len(BODY)


async def test_what_a_client_does_not_read_is_counted_and_ends_with_it(certificate: Path) -> None:
    """If the server trusted the transport, unread data would use no memory budget, and no timeout
    would end the connection.
    """
    async with opened(certificate, write_timeout_s=0.5) as door:
        client = await asyncio.to_thread(door.client)
        client.sendall(GET)
        await until(lambda: door.unsent() > len(BODY) // 2)
        loop, began = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        while len(door.connections):
            assert loop.time() - began < scaled(10)
            door.connections.look(loop.time())
            await asyncio.sleep(0.05)
        client.close()


async def test_a_short_response_that_is_not_read_is_counted_too(certificate: Path) -> None:
    """By default, TLS pauses writing only at half a megabyte, so several shorter responses would
    not be counted.
    """
    async with opened(certificate) as door:
        door.body = BODY[: 256 * 1024]
        client = await asyncio.to_thread(door.client)
        client.sendall(3 * GET)
        await until(lambda: door.unsent() > len(door.body) // 8)
        (response,) = [ref() for ref in door.made]
        assert response is not None
        assert 0 < response.held() < 3 * connection.TLS_PIECE_BYTES
        assert door.unsent() < len(door.body)
        client.close()


async def test_a_connection_that_ended_leaves_nothing(certificate: Path) -> None:
    """The garbage collector runs after a number of new objects, however large they are. A cycle of
    references would keep the buffers of a connection until then.
    """
    gc.disable()
    try:
        async with opened(certificate) as door:
            for _ in range(3):
                await asyncio.to_thread(ask, door, LAST)
            await until(lambda: not len(door.connections))
            await asyncio.sleep(0.05)
            assert [ref() for ref in door.made] == [None] * 3
    finally:
        gc.enable()


async def test_without_pieces_nothing_would_be_counted(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: if the data is written in one piece, nothing is counted."""
    monkeypatch.setattr(connection, "TLS_PIECE_BYTES", 1 << 30)

    async with opened(certificate) as door:
        client = await asyncio.to_thread(door.client)
        client.sendall(GET)
        await asyncio.sleep(0.5)
        assert len(door.connections) == 1
        assert door.unsent() < len(BODY) // 100
        client.close()
