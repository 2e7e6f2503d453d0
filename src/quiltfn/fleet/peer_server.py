"""The peer port: only other nodes of the fleet are admitted, over mutual TLS.

The connections are those of the API (`api/http/connection.py`), with its limits. Each belongs to
the node that its certificate names, while the certificate is valid; each request names its caller
in a signed header. Two targets are handled here: the nonce for signatures, and a ping. All other
requests go to the handler that the server was created with. Refusals and their reasons are logged.
"""

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from operator import itemgetter

import structlog

from quiltfn.api.http.budgets import ResponseBudget
from quiltfn.api.http.connection import HttpConnection
from quiltfn.api.http.connections import ConnectionLimits, Connections
from quiltfn.api.http.request import Request
from quiltfn.api.http.response import Response, text_response
from quiltfn.api.http.tls_acceptor import BACKLOG, TlsAcceptor
from quiltfn.base.setting_files import BadSetting
from quiltfn.fleet.files import NodeFile, split_address
from quiltfn.fleet.identity import (
    HEADER,
    HELLO,
    NONCE_HEADER,
    PING,
    REFUSED_HEADER,
    REFUSED_STATUS,
    RESERVED,
    REVISION_HEADER,
    BadIdentity,
    Side,
    Verifier,
)
from quiltfn.fleet.peers import CONNECTIONS_MAX, KeyRevisions
from quiltfn.fleet.tls import node_of, server_context, set_options
from quiltfn.ports.peers import PIECE_BYTES, Asker, PeerDirectory

PeerHandler = Callable[[Request, Asker], Awaitable[Response]]
_name = itemgetter(0)
CONNECTIONS_ALL = 1000
# Limits for a client's forwarded request, and what forwarding adds.
HEAD_MAX_BYTES, HEADERS_MAX = 1024 * 1024 + 32 * 1024, 120
# After this time, a connection ends with its next response; a new one is authenticated again.
CONNECTION_MAX_S = 600.0
LEAVE_WITHIN_S = 2.0
LOOK_EVERY_S = 1.0
LOG_EVERY_S = 10.0


def bind(own: NodeFile) -> socket.socket:
    """The peer port, bound. Raises `BadSetting`."""
    host, port = split_address("listen", own.listen)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        reason = error.strerror or error
        raise BadSetting(f"fleet: listen: {own.listen} cannot be used: {reason}") from None
    return listener


class RefusalLog:
    """Logs each kind of refusal at most once in ten seconds, with the number since the last."""

    def __init__(self) -> None:
        self._log = structlog.get_logger("quiltfn.fleet")
        self._last: dict[str, float] = {}
        self._untold: Counter[str] = Counter()

    def add(self, kind: str, reason: str, **about: object) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._last.get(kind, -LOG_EVERY_S) < LOG_EVERY_S:
            self._untold[kind] += 1
            return
        self._last[kind] = now
        untold = self._untold.pop(kind, 0)
        more = {"untold_before": untold} if untold else {}
        self._log.warning(f"refused on the peer port: {reason}", kind=kind, **about, **more)


class PeerServer:
    """Handles requests of other nodes. It is open inside the block of `open_peer_server`."""

    def __init__(
        self,
        own: NodeFile,
        directory: PeerDirectory,
        handler: PeerHandler,
        responses: ResponseBudget | None,
        keys: KeyRevisions | None,
    ) -> None:
        """`keys`: the key revisions for pings, if any."""
        self.own, self.directory, self.handler = own, directory, handler
        limits = ConnectionLimits(
            most=CONNECTIONS_ALL, headers_max=HEADERS_MAX, head_max_bytes=HEAD_MAX_BYTES
        )
        self.connections = Connections(limits, responses)
        self.open: set[PeerServerConnection] = set()
        self.refusals = RefusalLog()
        self.counts: Counter[str] = Counter()
        self.keys = keys

    def handshake_failed(self, address: object, error: OSError) -> None:
        """The peer has shown no certificate of this fleet, or does not use TLS."""
        reason = getattr(error, "verify_message", None) or getattr(error, "reason", None) or error
        self.refusals.add("handshake", f"{reason}", address=_shown(address))

    def connection(self) -> "PeerServerConnection":
        return PeerServerConnection(self)

    async def look(self) -> None:
        """Run until cancelled: cut off nodes that do not read, or are no longer admitted."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.connections.look(loop.time())
            for connection in list(self.open):
                if (
                    connection.node is not None
                    and self.directory.refusal(connection.node) is not None
                ):
                    connection.cut()

    async def leave(self) -> None:
        """Wait briefly for requests to end, then end all connections."""
        self.connections.finish_all()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_WITHIN_S):
                while self.connections or self.connections.tasks:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        self.connections.cut_all()


class PeerServerConnection(HttpConnection):
    """A connection of another node, after the handshake."""

    def __init__(self, server: PeerServer) -> None:
        super().__init__(self._respond, server.connections)
        self._server = server
        self._began_at = self._loop.time()
        self._address: object = None
        self.node: str | None = None
        self._verifier: Verifier | None = None
        self._rest_bytes = 0  # unsent bytes of a body that is complete in memory

    @property
    def is_streaming(self) -> bool:
        return super().is_streaming and not self._rest_bytes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._address = transport.get_extra_info("peername")
        self.node = node_of(transport.get_extra_info("peercert"))
        set_options(transport.get_extra_info("socket"))
        if self.node is not None:
            own = self._server.own
            side = Side(key=own.secret, fleet_id=own.fleet_id, asker=self.node, asked=own.name)
            self._verifier = Verifier(side)
            self._server.counts[self.node] += 1
        self._server.open.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.node is not None:
            self._server.counts[self.node] -= 1
            if not self._server.counts[self.node]:
                del self._server.counts[self.node]
        self._server.open.discard(self)
        super().connection_lost(exc)

    async def _respond(self, request: Request) -> Response:
        """Handle one request of another node from start to end."""
        node, verifier, server = self.node, self._verifier, self._server
        if node is None or verifier is None:
            return self._refuse_node("name", "the certificate has no name of one node")
        if server.keys is not None:
            server.keys.heard_of(node)
        reason = server.directory.refusal(node)
        if reason is not None:
            return self._refuse_node("node", f"node {node}: {reason}")
        target = request.target.decode("latin-1")
        if target == PING:
            return self._pinged(request)
        if target == HELLO:
            # A node opens one connection for pings in addition to those for requests.
            if server.counts[node] > CONNECTIONS_MAX + 1:
                return self._refuse_node("connections", f"node {node} has too many connections")
            return Response(status=204, headers=[(NONCE_HEADER, verifier.nonce)])
        try:
            call = verifier.check(request.headers.pop(HEADER, None), request.method, target)
        except BadIdentity as error:
            return self._refuse_node("identity", f"node {node}: {error}")
        response = await server.handler(request, Asker(node, call))
        if not RESERVED.isdisjoint(map(_name, response.headers)):  # a handler may have set them
            response.headers = [one for one in response.headers if one[0] not in RESERVED]
        if self._loop.time() - self._began_at > CONNECTION_MAX_S:
            response.closes = True
        if isinstance(response.body, bytes) and len(response.body) > PIECE_BYTES:
            response.headers.append(("content-length", str(len(response.body))))
            response.body = self._in_pieces(response.body)
        return response

    def _pinged(self, request: Request) -> Response:
        response, keys = Response(status=204), self._server.keys
        if keys is not None:
            keys.heard(request.headers.get(REVISION_HEADER))
            response.headers.append((REVISION_HEADER, str(keys.revision)))
        return response

    async def _in_pieces(self, body: bytes) -> AsyncIterator[bytes]:
        """Send a long body in pieces, with other work in between. It stays in memory meanwhile."""
        count = self._server.connections.responses.add_unsent
        self._rest_bytes = len(body)
        count(self._rest_bytes)
        try:
            for start in range(0, len(body), PIECE_BYTES):
                piece = body[start : start + PIECE_BYTES]
                self._rest_bytes -= len(piece)
                count(-len(piece))
                yield piece
                await asyncio.sleep(0)
        finally:
            count(-self._rest_bytes)
            self._rest_bytes = 0

    def _refuse_node(self, kind: str, reason: str) -> Response:
        """Send the reason, and end the connection."""
        self._server.refusals.add(kind, reason, address=_shown(self._address))
        response = text_response(reason, "text/plain; charset=utf-8")
        response.status, response.closes = REFUSED_STATUS, True
        response.headers.append((REFUSED_HEADER, kind))
        return response


def _shown(address: object) -> str:
    return str(address[0]) if isinstance(address, tuple) else str(address)


@contextlib.asynccontextmanager
async def open_peer_server(
    own: NodeFile,
    directory: PeerDirectory,
    handler: PeerHandler,
    listener: socket.socket | None = None,
    *,
    keys: KeyRevisions | None,
    responses: ResponseBudget | None = None,
) -> AsyncIterator[PeerServer]:
    """Handle other nodes' requests inside the block, at the address in the node's file, or on a
    bound socket. `responses`: counts the bytes that nodes have not read yet; None: a counter of its
    own; `keys`: as for `PeerServer`. Raises `BadSetting`.
    """
    server = PeerServer(own, directory, handler, responses, keys)
    with contextlib.closing(listener or bind(own)) as bound:
        acceptor = TlsAcceptor(
            bound, server_context(own), server.connection, server.handshake_failed
        )
        looking = asyncio.ensure_future(server.look())
        try:
            yield server
        finally:
            acceptor.close()
            looking.cancel()
            await server.leave()
            await asyncio.wait({looking})
            await acceptor.wait_closed()
