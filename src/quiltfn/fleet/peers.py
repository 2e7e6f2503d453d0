"""`placement.Peers` over HTTP/1.1 and mutual TLS: persistent connections, one request at a time.

While a request is in progress, the node is pinged twice a second on a separate connection. If a
node then sends nothing for two seconds, it counts as dead: all its connections end and their
requests fail. So even invocations of a day need neither a timeout nor traffic on the connection.

After a failed connection, a node is tried again after half a second at the earliest.
"""

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol

from quiltfn.api.http.tls_acceptor import receive_buffer
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
    Side,
    Signer,
)
from quiltfn.fleet.peer_connection import PeerAnswer, PeerConnection
from quiltfn.fleet.tls import client_context, set_options
from quiltfn.model.forwarded import ForwardedCall
from quiltfn.ports.peers import PeerBusy, PeerDirectory, PeerGone, PeerUnreachable
from quiltfn.ports.placement import PeerUnavailable
from quiltfn.ports.streamed_body import StreamedBody

CONNECTIONS_MAX = 256  # to one node
CONNECT_S = 2.0
PING_EVERY_S, SILENT_S = 0.5, 2.0
AGAIN_S = 0.5
# Shorter than the node keeps an idle connection.
IDLE_S = 30.0
REASON_MAX_BYTES = 1024
# Error numbers for a lack of resources on this node.
OWN_LACKS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)
HEADER_NAME = HEADER.encode()


def _get(target: str, node: str, more: str = "") -> bytes:
    return f"GET {target} HTTP/1.1\r\nhost: {node}\r\n{more}\r\n".encode()


def head_of(
    node: str,
    method: str,
    target: bytes,
    headers: Sequence[tuple[str, str]],
    body: bytes | StreamedBody,
) -> bytes:
    """The lines of a request's head. Raises `ValueError` for characters that would end a line."""
    lines, has_host = [f"{method} {target.decode('latin-1')} HTTP/1.1"], False
    for name, value in headers:
        if name not in RESERVED:
            lines.append(f"{name}: {value}")
            has_host = has_host or name == "host"
    if not has_host:
        lines.append(f"host: {node}")
    if not isinstance(body, bytes):
        is_chunked = body.length is None
        lines.append(
            "transfer-encoding: chunked" if is_chunked else f"content-length: {body.length}"
        )
        lines.append("expect: 100-continue")
    elif body or method not in ("GET", "DELETE"):
        lines.append(f"content-length: {len(body)}")
    lines.append("")
    text, ends = "\r\n".join(lines), len(lines) - 1
    is_bad = text.count("\n") != ends or text.count("\r") != ends or "\0" in text
    if is_bad or b" " in target or not target.startswith(b"/"):
        raise ValueError("a line of the head contains a line break or NUL")
    return text.encode("latin-1")


def _reason(error: OSError) -> str:
    """Why a node is unreachable, without its address: callers see this."""
    if isinstance(error, socket.gaierror):
        return error.strerror or "its name is not known"
    return os.strerror(error.errno) if error.errno else "it is not there"


def _says_nothing(error: BaseException | None) -> bool:
    """Whether a failed ping says nothing about the requests in progress: a stopping node accepts no
    new connections but finishes its requests, and without resources here no ping was sent. The
    kernel still detects the loss of the node's machine (`tls.set_options`).
    """
    is_refused = isinstance(error, ConnectionRefusedError)
    return is_refused or (isinstance(error, OSError) and error.errno in OWN_LACKS)


class KeyRevisions(Protocol):
    """Key revisions, exchanged with pings."""

    @property
    def revision(self) -> int:
        """The revision that this node knows."""

    def heard_of(self, node: str) -> None:
        """Another node is present."""

    def heard(self, revision: str | None) -> None:
        """The revision that another node knows; None from a node of an older version."""


class PeerLink:
    """The connections to one node. `keys`: the key revisions for pings, if any."""

    def __init__(
        self,
        node: str,
        connect: Callable[["PeerLink"], Awaitable[PeerConnection]],
        keys: KeyRevisions | None,
    ) -> None:
        self.node = node
        self._connect, self._keys = connect, keys
        self._loop = asyncio.get_running_loop()
        self.all: dict[PeerConnection, Signer | None] = {}
        self._idle: deque[PeerConnection] = deque()
        self._opening = 0
        self.in_use = 0
        # A separate connection from those for requests.
        self._pings_on: PeerConnection | None = None
        self._pinged_at: float | None = None  # when the first ping without later data was sent
        self._ping: asyncio.Task[None] | None = None
        self._unreachable_until, self._why = 0.0, ""

    def heard(self) -> None:
        """Data has come from the node."""
        self._pinged_at = None

    def ended(self, connection: PeerConnection) -> None:
        """The connection has ended."""
        self.all.pop(connection, None)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)

    def idle(self) -> PeerConnection | None:
        """An idle connection for one request, if there is one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.error is None:
                return connection
        return None

    async def another(self) -> PeerConnection:
        """A new connection, for one request. Raises `PeerUnreachable`."""
        if self._loop.time() < self._unreachable_until:
            raise PeerUnreachable(self._why)
        if len(self.all) - (self._pings_on in self.all) + self._opening >= CONNECTIONS_MAX:
            raise PeerBusy(f"there are {CONNECTIONS_MAX} connections to node {self.node}, in use")
        self._opening += 1
        try:
            return await self._connect(self)
        except PeerUnreachable as error:
            self._why, self._unreachable_until = str(error), self._loop.time() + AGAIN_S
            raise
        finally:
            self._opening -= 1

    def give_back(self, connection: PeerConnection) -> None:
        """Return the connection of a request that has ended, successfully or not."""
        connection.stop_sending()
        if connection.is_reusable:
            connection.drop_rest()
            connection.rest()
            self._idle.append(connection)
        else:
            connection.fail(PeerGone(f"the answer of node {self.node} was not read to its end"))

    def fail_all(self, why: str) -> None:
        """End all connections."""
        self._idle.clear()
        for connection in list(self.all):
            connection.fail(PeerGone(why))

    def look(self, now: float) -> None:
        """Ping, detect silence, and end connections that were idle for long. Call it every
        `PING_EVERY_S`.
        """
        while self._idle and now - self._idle[0].idle_since > IDLE_S:
            self._idle.popleft().fail(PeerGone("it was idle"))
        if not self.in_use:
            self._pinged_at = None
            pings_on = self._pings_on
            if pings_on is not None and now - pings_on.idle_since > IDLE_S:
                pings_on.fail(PeerGone("it was idle"))
        elif self._pinged_at is not None and now - self._pinged_at >= SILENT_S:
            self._pinged_at = None
            self.fail_all(f"node {self.node} has been silent for {SILENT_S:g} s")
        else:
            if self._pinged_at is None:
                self._pinged_at = now
            if self._ping is None or self._ping.done():
                self._ping = self._loop.create_task(self._send_ping())

    async def _send_ping(self) -> None:
        """Ping the node. Without a response or other data, `look` ends the connections."""
        try:
            connection = self._pings_on
            if connection is None or connection.error is not None:
                self._pings_on = None
                self._pings_on = connection = await self._connect(self)
            keys = self._keys
            revision = "" if keys is None else f"{REVISION_HEADER}: {keys.revision}\r\n"
            async with asyncio.timeout(2 * SILENT_S):
                ping = _get(PING, self.node, revision)
                answer = await connection.exchange(ping, b"")
                await answer.read(0)
            if keys is not None:
                keys.heard(answer.header(REVISION_HEADER))
            connection.rest()
        except PeerUnreachable as error:
            if _says_nothing(error.__cause__):
                self.heard()
        except (PeerUnavailable, TimeoutError):
            pass
        finally:
            if self._pings_on is not None and not self._pings_on.is_reusable:
                self._pings_on.fail(PeerGone(f"node {self.node} stopped answering pings"))

    async def aclose(self) -> None:
        self.fail_all("this node is ending")
        if self._ping is not None:
            self._ping.cancel()
            await asyncio.wait({self._ping})


# The parts of a request: method, target, headers, body, and the invocation's metadata.
Parts = tuple[str, bytes, Sequence[tuple[str, str]], bytes | StreamedBody, ForwardedCall | None]


class PeerRequest:
    """One request of `HttpPeers`. Entering the block sends it and returns the response, read up to
    its head; leaving the block frees the connection for the next request. This is neither a
    generator nor a task, since either would take longer than signing the request. `count`: counts
    the request while in the block.
    """

    __slots__ = ("_connection", "_count", "_link", "_node", "_parts", "_peers", "is_sent")

    def __init__(
        self, peers: "HttpPeers", node: str, parts: Parts, count: "CountedPeers | None" = None
    ) -> None:
        self._peers, self._node, self._parts, self._count = peers, node, parts, count
        self.is_sent = False

    async def __aenter__(self) -> PeerAnswer:
        link = self._link = self._peers.link(self._node)
        self._connection: PeerConnection | None = None
        link.in_use += 1
        if self._count is not None:
            self._count.started()
        try:
            connection = self._connection = link.idle() or await link.another()
            answer = await self._sent(link, connection)
            if answer.status == REFUSED_STATUS and answer.header(REFUSED_HEADER) is not None:
                reason = (await answer.read(REASON_MAX_BYTES)).decode("utf-8", "replace")
                raise PeerUnreachable(f"node {self._node} does not let this one in: {reason}")
        except BaseException:
            self._end()
            raise
        return answer

    async def __aexit__(self, *_: object) -> None:
        self._end()

    def _sent(self, link: PeerLink, connection: PeerConnection) -> Awaitable[PeerAnswer]:
        method, target, headers, body, call = self._parts
        if self._peers.is_closed:
            connection.fail(PeerGone("this node is ending"))
        head = head_of(self._node, method, target, headers, body)
        signer = link.all.get(connection)
        if signer is None:
            raise PeerUnreachable(f"the connection to {self._node} has ended")
        # Signed last, because a signed request must be sent: the node expects consecutive numbers.
        signature = signer.sign(method, target.decode("latin-1"), call)
        head = b"%b%b: %b\r\n\r\n" % (head, HEADER_NAME, signature.encode())
        self.is_sent = True
        return connection.exchange(head, body, has_answer_body=method != "HEAD")

    def _end(self) -> None:
        self._link.in_use -= 1
        if self._count is not None:
            self._count.ended()
        if self._connection is not None:
            self._link.give_back(self._connection)


class HttpPeers:
    """`Peers` of the node with this identity file."""

    def __init__(self, own: NodeFile, directory: PeerDirectory, keys: KeyRevisions | None) -> None:
        """`keys`: the key revisions for pings, if any."""
        self._own, self._directory = own, directory
        self._tls, self._buffer = client_context(own), receive_buffer()
        self._links: dict[str, PeerLink] = {}
        self._looking: asyncio.Task[None] | None = None
        self.keys = keys
        self.is_closed = False  # no more requests are sent

    def request(
        self,
        node: str,
        method: str,
        target: bytes,
        headers: Sequence[tuple[str, str]],
        body: bytes | StreamedBody,
        call: ForwardedCall | None,
    ) -> "PeerRequest":
        """See `Peers`. A streamed body is read at the pace of the node, also while the node
        responds. `call` None: the request is on this node's own behalf. Raises `ValueError` if a
        part contains a line end, which could start a second request.
        """
        return PeerRequest(self, node, (method, target, headers, body, call))

    async def aclose(self) -> None:
        self.is_closed = True
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})
        for link in self._links.values():
            await link.aclose()
        self._links.clear()

    def link(self, node: str) -> PeerLink:
        """The connections to a node. Raises `PeerUnreachable` if it must not be asked."""
        reason = self._directory.refusal(node)
        if reason is not None or self.is_closed:
            why = reason or "this node is ending"
            if node in self._links:
                self._links.pop(node).fail_all(f"node {node} gets no more requests: {why}")
            raise PeerUnreachable(f"node {node} is not asked: {why}")
        link = self._links.get(node)
        if link is None:
            if self._directory.address(node) is None:
                raise PeerUnreachable(f"there is no node {node}")
            link = self._links[node] = PeerLink(node, self._connect, self.keys)
            if self._looking is None:
                self._looking = asyncio.ensure_future(self._look())
        return link

    async def _look(self) -> None:
        """Check all nodes twice a second. If this check itself was delayed, data that arrived
        meanwhile is read first.
        """
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + PING_EVERY_S
            await asyncio.sleep(PING_EVERY_S)
            now = loop.time()
            if now - due > PING_EVERY_S:
                continue
            for link in list(self._links.values()):
                link.look(now)

    async def _connect(self, link: PeerLink) -> PeerConnection:
        """A connection on which the node has responded. Raises `PeerUnreachable`."""
        node = link.node
        address = self._directory.address(node)
        if address is None:
            raise PeerUnreachable(f"there is no node {node} any more")
        host, port = split_address("address", address)
        loop = asyncio.get_running_loop()
        make = partial(PeerConnection, node, link.heard, link.ended, self._buffer)
        connection: PeerConnection | None = None
        cause: Exception
        try:
            async with asyncio.timeout(CONNECT_S):
                transport, connection = await loop.create_connection(
                    make, host, port, ssl=self._tls, server_hostname=node
                )
                set_options(transport.get_extra_info("socket"))
                await self._greet(link, connection)
            return connection
        except TimeoutError as error:
            cause, reason = error, f"no answer within {CONNECT_S:g} s"
        except ssl.SSLCertVerificationError as error:
            cause, reason = error, f"its certificate is refused: {error.verify_message or error}"
        except OSError as error:
            cause, reason = error, _reason(error)
        except PeerUnavailable as error:
            cause, reason = error, str(error)
        finally:
            if connection is not None and connection not in link.all:
                connection.fail(PeerGone(f"node {node} did not admit this one"))
        raise PeerUnreachable(f"node {node} cannot be reached: {reason}") from cause

    async def _greet(self, link: PeerLink, connection: PeerConnection) -> None:
        """Get the signer of requests. Raises `PeerGone`."""
        answer = await connection.exchange(_get(HELLO, link.node), b"")
        reason = await answer.read(REASON_MAX_BYTES)
        nonce = answer.header(NONCE_HEADER)
        if answer.status != 204 or nonce is None:
            raise PeerGone(f"it does not admit this node: {reason.decode('utf-8', 'replace')}")
        if not connection.is_reusable:
            raise PeerGone("it has reached its limit of connections")
        own = self._own
        side = Side(key=own.secret, fleet_id=own.fleet_id, asker=own.name, asked=link.node)
        link.all[connection] = Signer(side, nonce)


class CountedPeers:
    """`Peers` that count the requests in progress."""

    def __init__(self, peers: HttpPeers) -> None:
        self._peers, self._under_way, self.asked_at = peers, 0, float("-inf")
        self._settled: asyncio.Event | None = None  # set only while `settled` waits

    def request(
        self,
        node: str,
        method: str,
        target: bytes,
        headers: Sequence[tuple[str, str]],
        body: bytes | StreamedBody,
        call: ForwardedCall | None,
    ) -> PeerRequest:
        return PeerRequest(self._peers, node, (method, target, headers, body, call), self)

    def started(self) -> None:
        """A request has started."""
        self._under_way += 1
        self.asked_at = asyncio.get_running_loop().time()

    def ended(self) -> None:
        """A request has ended."""
        self._under_way -= 1
        if self._settled is not None and not self._under_way:
            self._settled.set()
            self._settled = None

    async def settled(self) -> None:
        """Return once no request is in progress."""
        if self._under_way:
            self._settled = self._settled or asyncio.Event()
            await self._settled.wait()

    async def aclose(self) -> None:
        await self._peers.aclose()
