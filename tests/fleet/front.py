"""A simple load balancer: each connection goes to a random node of a fleet."""

from __future__ import annotations

import contextlib
import copy
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
from postgresql import PASSWORD, Cluster
from timeouts import scaled

NODES = ("one", "two", "three")
PIECE = 65_536
# With strict durability, an invocation's record is in the store before the response. A short
# heartbeat makes each node's counts follow soon.
OPTIONS = (
    "--durability strict --fleet-beat-s 0.2 --fleet-fence-s 5 --fleet-end-s 10 --fleet-reap-s 20"
)


class Front:
    """A load balancer on a port of 127.0.0.1, until it is closed."""

    def __init__(self, nodes: Sequence[Server], seed: int = 0) -> None:
        self._nodes = nodes
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

    def client(self) -> httpx.Client:
        """A client; each of its requests goes to a random node."""
        return httpx.Client(
            base_url=self.url,
            timeout=scaled(CLIENT_TIMEOUT_S),
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    def carry(self, here: socket.socket, address: str) -> None:
        """Forwards one connection, with the client's address as the source address, since nodes
        count failed credentials by address.
        """
        node = urlsplit(self._random.choice(self._nodes).url)
        to = (str(node.hostname), node.port or 80)
        with socket.create_connection(to, source_address=(address, 0)) as there:
            asking = threading.Thread(target=pour, args=[here, there], daemon=True)
            asking.start()
            pour(there, here)
            with contextlib.suppress(OSError):  # the connection ends together with the response
                here.shutdown(socket.SHUT_RDWR)
            asking.join()

    def close(self) -> None:
        self._listener.shutdown()
        self._thread.join()
        self._listener.server_close()


def pour(source: socket.socket, target: socket.socket) -> None:
    """Copies data until the end of `source`, and then ends `target`."""
    with contextlib.suppress(OSError):
        while data := source.recv(PIECE):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def fronted(
    cluster: Cluster, name: str, options: str, directory: Path
) -> Iterator[tuple[list[Server], Front]]:
    """Starts three nodes of a fleet, and a balancer in front of them. `name`: the database to
    create; `options`: the options of each node; `directory`: gets the fleet's files.
    """
    cluster.create(name)
    with contextlib.ExitStack() as stack:

        def another(*arguments: Any, **more: Any) -> Server:
            return stack.enter_context(watched(*arguments, **more))

        fleet = Fleet(directory, cluster.tcp_url(name, None), another).init(PASSWORD)
        nodes = [fleet.node(node, f"{OPTIONS} {options}").start() for node in NODES]
        front = Front(nodes)
        stack.callback(front.close)
        yield nodes, front


@contextlib.contextmanager
def three_nodes(options: str, directory: Path) -> Iterator[Server]:
    """Yields the first of three nodes, whose requests go to any of them. `options`: the options of
    each node; `directory`: gets the fleet's files.
    """
    with (
        postgresql.started() as cluster,
        fronted(cluster, "spec", options, directory) as (nodes, front),
    ):
        first = copy.copy(nodes[0])
        nodes[0].http.close()
        first.url, first.http = front.url, front.client()
        first.named = lambda comm: [  # type: ignore[method-assign]
            pid for node in nodes for pid in node.named(comm)
        ]
        secret = directory / PASSWORD_FILE
        where = cluster.tcp_url("spec", None)
        first.key_options = ("--store", where, "--store-password-file", str(secret))
        yield first
        first.http.close()
