"""A load balancer that knows nothing: each connection goes to a node of a fleet at random."""

from __future__ import annotations

import contextlib
import random
import socket
import socketserver
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

import postgresql
from e2e.server import CLIENT_TIMEOUT_S, Server, watched
from fleet.nodes import PASSWORD_FILE, Fleet
from postgresql import PASSWORD
from timeouts import scaled

NODES = ("one", "two", "three")
PIECE = 65_536
# A node's records are in the store once a call is answered, and its counts known soon.
OPTIONS = (
    "--durability strict --fleet-beat-s 0.2 --fleet-fence-s 5 --fleet-end-s 10 --fleet-reap-s 20"
)


class Front:
    """Listens on a port of 127.0.0.1 until it is closed."""

    def __init__(self, urls: Sequence[str], seed: int = 0) -> None:
        self._nodes = [urlsplit(url) for url in urls]
        self._random = random.Random(seed)
        front = self

        class Connection(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                front.carry(self.request, self.client_address[0])

        class Listener(socketserver.ThreadingTCPServer):
            daemon_threads, request_queue_size = True, 128

        self._listener = Listener(("127.0.0.1", 0), Connection)
        self._thread = threading.Thread(target=self._listener.serve_forever, args=[0.05])
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._listener.server_address[1]}"

    def carry(self, here: socket.socket, address: str) -> None:
        """One connection, from where its caller calls: nodes count failed credentials by that."""
        node = self._random.choice(self._nodes)
        to = (str(node.hostname), node.port or 80)
        with socket.create_connection(to, source_address=(address, 0)) as there:
            asking = threading.Thread(target=pour, args=[here, there], daemon=True)
            asking.start()
            pour(there, here)
            with contextlib.suppress(OSError):  # with the answer all is over
                here.shutdown(socket.SHUT_RDWR)
            asking.join()

    def close(self) -> None:
        self._listener.shutdown()
        self._thread.join()
        self._listener.server_close()


def pour(source: socket.socket, target: socket.socket) -> None:
    """Until the end of `source`, which is then that of what goes to `target`."""
    with contextlib.suppress(OSError):
        while data := source.recv(PIECE):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def three_nodes(options: str, directory: Path) -> Iterator[Server]:
    """The first of them: what it is asked by HTTP, any of the three is asked.

    `options`: of each node. `directory`: for the files of the fleet.
    """
    with postgresql.started() as cluster, contextlib.ExitStack() as stack:
        cluster.create("spec")
        url = cluster.tcp_url("spec", None)

        def another(*arguments: Any, **more: Any) -> Server:
            return stack.enter_context(watched(*arguments, **more))

        fleet = Fleet(directory, url, another).init(PASSWORD)
        nodes = [fleet.node(name, f"{OPTIONS} {options}").start() for name in NODES]
        front = Front([node.url for node in nodes])
        stack.callback(front.close)
        first = nodes[0]
        first.http.close()
        first.url = front.url
        first.key_options = (
            "--store",
            url,
            "--store-password-file",
            f"{directory / PASSWORD_FILE}",
        )
        first.http = httpx.Client(
            base_url=front.url,
            timeout=scaled(CLIENT_TIMEOUT_S),
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),  # each request to any node
        )
        yield first
