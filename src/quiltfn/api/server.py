"""uvicorn's server, as the launcher's socket and our own way of leaving need it."""

import asyncio
import contextlib
import socket

import uvicorn

from quiltfn.api.connections import Connections
from quiltfn.api.tls_acceptor import TlsAcceptor


class Server(uvicorn.Server):
    """uvicorn without its own signal handling: draining is decided here, and `leave` ends it."""

    def __init__(self, config: uvicorn.Config, connections: Connections) -> None:
        super().__init__(config)
        self._connections = connections
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        self.should_exit = True
        self._leaving.set()

    async def main_loop(self) -> None:
        # uvicorn's own wakes ten times a second to see whether it shall leave; once is enough for
        # the date that answers carry, and for readers that do not read.
        while not await self.on_tick(0):
            self._connections.look(asyncio.get_running_loop().time())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._leaving.wait()

    def _connection(self) -> asyncio.Protocol:
        """As uvicorn makes one for each connection."""
        protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self.config.ssl is None:
            await super().startup(sockets)
        else:
            await self.lifespan.startup()
            self.servers = [
                TlsAcceptor(one, self.config.ssl, self._connection)  # type: ignore[misc]
                for one in sockets or []
            ]
            self.started = True
        host, port = (sockets or [])[0].getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        scheme = "https" if self.config.ssl else "http"
        print(f"listening on {scheme}://{shown}:{port}", flush=True)
