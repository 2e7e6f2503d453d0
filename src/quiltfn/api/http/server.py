"""Listening: connections are accepted until the server is told to leave, and then let go."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from email.utils import formatdate

from quiltfn.api.http.connection import HttpConnection
from quiltfn.api.http.connections import Connections
from quiltfn.api.http.route import Application
from quiltfn.api.http.tls_acceptor import BACKLOG, TlsAcceptor

# Every response is taken for what it says it is, and shown within no other site's page.
SECURITY_HEADERS = (
    b"x-content-type-options: nosniff\r\n"
    b"x-frame-options: DENY\r\n"
    b"content-security-policy: frame-ancestors 'none'\r\n"
)
LEAVE_WITHIN_S = 2.0
# What the kernel keeps of a connection that isn't sent yet. Otherwise it takes megabytes of a
# response from this server, to which the connection looks idle then.
UNSENT_IN_KERNEL_BYTES = 128 * 1024
# Who balances load and has heard that this server ends sends it nothing for so long.
QUIET_S, QUIET_WITHIN_S = 0.25, 10.0


class Server:
    """An HTTP server; `tls`: for HTTPS. `leave` ends `serve`."""

    def __init__(
        self, app: Application, connections: Connections, tls: ssl.SSLContext | None = None
    ) -> None:
        self._app, self._connections, self._tls = app, connections, tls
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """Accepts no more connections and ends once what is under way is answered, or soon."""
        self._leaving.set()

    async def quiet(self, called_at: Callable[[], float]) -> None:
        """Returns once no call has come for a while, so that none is on its way when the
        connections end, or after ten seconds. `called_at`: when the last one came since the server
        has begun to end, by the loop's clock. Who asks whether it takes calls goes on to do so.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        if self._connections.are_quiet_since(began - QUIET_S):
            return
        while (now := loop.time()) < began + QUIET_WITHIN_S:
            if now - max(began, called_at()) >= QUIET_S:
                return
            await asyncio.sleep(0.05)

    async def serve(self, listener: socket.socket) -> None:
        """Accepts connections on a bound socket until `leave`."""
        self._date()
        # Connections have this from their listener.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_IN_KERNEL_BYTES)
        accepting = await self._accept(listener)
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        address = f"{'https' if self._tls else 'http'}://{shown}:{port}"
        # At once: who waits for the first line may not stay for the second.
        print(f"listening on {address}\ndashboard at {address}/ui/", flush=True)
        loop = asyncio.get_running_loop()
        while not self._leaving.is_set():
            self._date()
            self._connections.look(loop.time())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._leaving.wait()
        accepting.close()
        listener.close()
        self._connections.finish_all()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_WITHIN_S):
                # An event would have to be set on the way of every call.
                while self._connections or self._connections.tasks:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        self._connections.cut_all()
        await accepting.wait_closed()

    async def _accept(self, listener: socket.socket) -> "asyncio.Server | TlsAcceptor":
        def connection() -> HttpConnection:
            return HttpConnection(self._app, self._connections)

        if self._tls is not None:
            return TlsAcceptor(listener, self._tls, connection)
        loop = asyncio.get_running_loop()
        return await loop.create_server(connection, sock=listener, backlog=BACKLOG)

    def _date(self) -> None:
        """Puts the headers of every response together, which change once a second."""
        date = f"date: {formatdate(usegmt=True)}\r\n".encode()
        self._connections.common_headers = date + SECURITY_HEADERS
