"""The HTTP server: accepts connections until it is stopped, and then closes them."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable

from quiltfn.api.http.connection import HttpConnection, Lane
from quiltfn.api.http.connections import Connections
from quiltfn.api.http.route import Application
from quiltfn.api.http.tls_acceptor import BACKLOG, TlsAcceptor

LEAVE_WITHIN_S = 2.0
# Maximum unsent data of a connection in the kernel. Without a limit the kernel takes megabytes of a
# response, and the connection then looks idle to this server.
UNSENT_IN_KERNEL_BYTES = 128 * 1024
# Once no invocation arrives for `QUIET_S`, load balancers know that this server is stopping.
QUIET_S, QUIET_WITHIN_S = 0.25, 10.0


class Server:
    """An HTTP server, or with `tls` an HTTPS server. `leave` ends `serve`."""

    def __init__(
        self,
        app: Application,
        connections: Connections,
        tls: ssl.SSLContext | None = None,
        lane: Lane | None = None,
    ) -> None:
        self._app, self._connections, self._tls, self._lane = app, connections, tls, lane
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """Accept no more connections, and stop once the requests in progress end, or time out."""
        self._leaving.set()

    async def quiet(self, called_at: Callable[[], float]) -> None:
        """Return once no invocation has arrived for a while, or after ten seconds, so that no
        invocation is lost when the connections are closed. `called_at`: when the last invocation
        arrived since the server began to stop, by the loop's clock. Readiness checks may continue
        to arrive.
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
        """Accept connections on a bound socket until `leave`."""
        self._connections.date_responses()
        # Connections inherit this option from their listener.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_IN_KERNEL_BYTES)
        accepting = await self._accept(listener)
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        address = f"{'https' if self._tls else 'http'}://{shown}:{port}"
        # One write for both lines: a reader may stop after the first.
        print(f"listening on {address}\ndashboard at {address}/ui/", flush=True)
        loop = asyncio.get_running_loop()
        while not self._leaving.is_set():
            self._connections.date_responses()
            self._connections.look(loop.time())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._leaving.wait()
        accepting.close()
        listener.close()
        self._connections.finish_all()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_WITHIN_S):
                # Polling, because an event would add work to every invocation.
                while self._connections or self._connections.tasks:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        self._connections.cut_all()
        await accepting.wait_closed()

    async def _accept(self, listener: socket.socket) -> "asyncio.Server | TlsAcceptor":
        def connection() -> HttpConnection:
            return HttpConnection(self._app, self._connections, self._lane)

        if self._tls is not None:
            return TlsAcceptor(listener, self._tls, connection)
        loop = asyncio.get_running_loop()
        return await loop.create_server(connection, sock=listener, backlog=BACKLOG)
