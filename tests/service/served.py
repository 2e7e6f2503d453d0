"""Serves an application on a real socket in the process of the test."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence

from quiltfn.api.app import make_app
from quiltfn.api.http.connections import Connections
from quiltfn.api.http.route import Route
from quiltfn.api.http.server import Server
from quiltfn.api.routes.table import ROUTES
from quiltfn.api.services import Services
from service.platform_harness import Harness


@contextlib.asynccontextmanager
async def served(
    harness: Harness, routes: Sequence[Route[Services]] = ROUTES
) -> AsyncIterator[int]:
    """The port of a server with these routes over the services of the harness."""
    connections = Connections(responses=harness.services.budgets.responses)
    server = Server(make_app(harness.services, routes), connections)
    listener = socket.create_server(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    running = asyncio.create_task(server.serve(listener))
    try:
        yield port
    finally:
        server.leave()
        await running
