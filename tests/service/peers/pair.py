"""Two nodes of one fleet in one process: one sends requests by `HttpPeers`, the other has a peer
port.
"""

import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from quiltfn.api.http.request import Request
from quiltfn.api.http.response import Response, text_response
from quiltfn.fleet.files import FleetFile, NodeFile, new_fleet, new_node
from quiltfn.fleet.peer_connection import PeerAnswer
from quiltfn.fleet.peer_server import PeerHandler, PeerServer, open_peer_server
from quiltfn.fleet.peers import HttpPeers
from quiltfn.model.access import Caller, Scope
from quiltfn.model.forwarded import ForwardedCall
from quiltfn.ports.peers import Asker

CALLER = Caller(tenant_id="acme", scope=Scope.INVOKE, credential="key-1", expires_at=7)
CALL = ForwardedCall(
    function_id="f-1", invocation_id="i-1", client="10.1.2.3", caller=CALLER, version=1
)


@dataclass
class Directory:
    """A `PeerDirectory` that a test controls."""

    addresses: dict[str, str] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)

    def address(self, node: str) -> str | None:
        return self.addresses.get(node)

    def refusal(self, node: str) -> str | None:
        return self.refusals.get(node)


def a_fleet(now: float) -> FleetFile:
    return new_fleet("postgresql://quiltfn@db/quiltfn", "", now)


def a_node(fleet: FleetFile, name: str, now: float, days: int = 9) -> NodeFile:
    return new_node(fleet, name, ("127.0.0.1:1", "127.0.0.1:1"), now, days)


def listener() -> socket.socket:
    found = socket.create_server(("127.0.0.1", 0), backlog=128)
    found.setblocking(False)
    return found


@dataclass
class Pair:
    """`one` sends requests to `two`. Each has its own directory, as in a fleet."""

    fleet: FleetFile
    first: NodeFile
    second: NodeFile
    peers: HttpPeers
    server: PeerServer
    of_one: Directory
    of_two: Directory
    port: int
    seen: list[tuple[Request, Asker]] = field(default_factory=list)
    handler: PeerHandler | None = None

    def request(self, target: str = "/", **fields: Any) -> AbstractAsyncContextManager[PeerAnswer]:
        """`HttpPeers.request`, with defaults for most arguments."""
        fields = {
            "node": "two",
            "method": "GET",
            "headers": (),
            "body": b"",
            "call": None,
            **fields,
        }
        return self.peers.request(target=target.encode(), **fields)

    async def ask(self, target: str = "/", **fields: Any) -> tuple[int, bytes]:
        async with self.request(target, **fields) as answer:
            return answer.status, await answer.read(64 * 1024 * 1024)

    async def handle(self, request: Request, forwarded: Asker) -> Response:
        """Responds as a test specifies, or echoes the request."""
        self.seen.append((request, forwarded))
        if self.handler is not None:
            return await self.handler(request, forwarded)
        body = b"".join([piece async for piece in request.chunks()])
        return Response(body=body) if body else text_response(request.path, "text/plain")


@contextlib.asynccontextmanager
async def a_pair(now: float) -> AsyncIterator[Pair]:
    """Runs both nodes until the end of the block."""
    fleet = a_fleet(now)
    first, second = (a_node(fleet, name, now) for name in ("one", "two"))
    of_one, of_two, bound = Directory(), Directory(), listener()
    port = bound.getsockname()[1]
    of_one.addresses["two"] = f"127.0.0.1:{port}"
    second = replace(second, address=f"127.0.0.1:{port}")
    holder: list[Pair] = []

    async def handle(request: Request, forwarded: Asker) -> Response:
        return await holder[0].handle(request, forwarded)

    async with open_peer_server(second, of_two, handle, bound, keys=None) as server:
        peers = HttpPeers(first, of_one, keys=None)
        pair = Pair(fleet, first, second, peers, server, of_one, of_two, port)
        holder.append(pair)
        try:
            yield pair
        finally:
            await peers.aclose()
