"""Serves an application on a real socket in the process of the test."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence

from quiltfn.api.app import make_app
from quiltfn.api.http.connections import Connections
from quiltfn.api.http.route import Route
from quiltfn.api.http.server import Server
from quiltfn.api.lane import lane_of
from quiltfn.api.routes.table import ROUTES
from quiltfn.api.services import Services
from service.platform_harness import Harness


@contextlib.asynccontextmanager
async def served(
    harness: Harness, routes: Sequence[Route[Services]] = ROUTES, *, has_lane: bool = True
) -> AsyncIterator[int]:
    """The port of a server with these routes over the services of the harness. `has_lane`: with the
    native lane, if it is built.
    """
    connections = Connections(responses=harness.services.budgets.responses)
    app = make_app(harness.services, routes)
    lane = lane_of(harness.services, app, connections.limits) if has_lane else None
    server = Server(app, connections, lane=lane)
    listener = socket.create_server(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    running = asyncio.create_task(server.serve(listener))
    try:
        yield port
    finally:
        server.leave()
        await running
