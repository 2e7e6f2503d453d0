"""Other nodes reach the peer port of a node, and sandboxes do not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator

from e2e import test_egress
from e2e.netlab import FORBIDDEN, PORT, Lab
from e2e.test_egress import HOST, REFUSED, attempts, outcome, serving, the_lab
from promises import promise
from quiltfn.api.http.request import Request
from quiltfn.api.http.response import Response
from quiltfn.fleet.files import NodeFile
from quiltfn.fleet.peer_server import open_peer_server
from quiltfn.fleet.peers import HttpPeers
from quiltfn.ports.peers import Asker
from service.peers.pair import CALL, Directory, a_fleet, a_node
from timeouts import scaled

pytestmark = [*test_egress.pytestmark, promise("N8")]
__all__ = ["the_lab"]  # pytest finds this imported fixture


async def ask(own: NodeFile, address: str) -> None:
    peers = HttpPeers(own, Directory({"two": address}), keys=None)
    try:
        async with peers.request("two", "GET", b"/", (), b"", CALL) as answer:
            assert answer.status == 200
    finally:
        await peers.aclose()


@contextlib.contextmanager
def peer_port() -> Iterator[int]:
    """The peer port of a node in the calling thread's network, on all of its addresses."""
    fleet, asked = a_fleet(time.time()), list[Asker]()
    first, second = (a_node(fleet, name, time.time()) for name in ("one", "two"))
    listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    listener.setblocking(False)
    port: int = listener.getsockname()[1]
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    async def respond(_: Request, asker: Asker) -> Response:
        asked.append(asker)
        return Response()

    async def serve() -> None:
        async with open_peer_server(second, Directory(), respond, listener, keys=None):
            ready.set()
            await over.wait()

    ready = threading.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(scaled(10))
        # Control: another node is admitted at each address of the host.
        for address in HOST:
            shown = f"[{address}]" if ":" in address else address
            asyncio.run(ask(first, f"{shown}:{port}"))
        assert len(asked) == len(HOST)
        yield port
        assert len(asked) == len(HOST)
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


def test_a_sandbox_reaches_no_peer_port(the_lab: Lab) -> None:
    """A sandbox reaches neither the port of its own node, at any address, nor that of another node
    in a private network. `network: egress` does not change this, since it only allows public
    addresses.
    """
    loopback = ["127.0.0.1", "::1", "10.0.2.2", "fd00::2"]
    with peer_port() as port, serving(the_lab) as server:
        for fields in ({}, {"runtime": "shell"}):
            found = outcome(server, attempts([*loopback, *HOST], port), **fields)
            assert set(found.values()) <= {*REFUSED, "OSError"}, found
        found = outcome(server, attempts(list(FORBIDDEN), PORT))
        assert set(found.values()) <= REFUSED, found
