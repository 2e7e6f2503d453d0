"""A TCP proxy in front of PostgreSQL, which can cut one node of a fleet off from it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from fleet.nodes import Fleet

PIECE = 65_536


class DatabaseProxy:
    """Listens on a port of 127.0.0.1. With `keeps_dead`, connections to the database stay open
    after their clients have gone, as with a proxy or a load balancer that has its own connections.
    """

    def __init__(self, port: int, *, keeps_dead: bool = False) -> None:
        self._target, self._keeps_dead = ("127.0.0.1", port), keeps_dead
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._is_cut = self._is_closed = False
        threading.Thread(target=self._accept, daemon=True).start()
        self.port = int(self._listener.getsockname()[1])

    def cut(self) -> None:
        """Ends all connections; until `heal`, new ones end at once."""
        self._is_cut = True
        self._end_all()

    def heal(self) -> None:
        self._is_cut = False

    def close(self) -> None:
        self._is_closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._end_all()

    def _end_all(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._is_cut:
                client.close()
                continue
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), socket.create_connection(self._target) as database:
            self._open |= {client, database}
            ends = threading.Thread(target=self._copy, args=(database, client, True), daemon=True)
            ends.start()
            self._copy(client, database, not self._keeps_dead)
            ends.join()
        self._open -= {client, database}
        client.close()

    def _copy(self, source: socket.socket, target: socket.socket, is_told: bool) -> None:
        """Copies data from one connection to the other. `is_told`: whether the target's connection
        ends when the source's does.
        """
        with contextlib.suppress(OSError):
            while piece := source.recv(PIECE):
                target.sendall(piece)
        if is_told or self._is_cut or self._is_closed:
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def proxy_of(fleet: Fleet, name: str, *, keeps_dead: bool = False) -> Iterator[DatabaseProxy]:
    """Adds a node with this name, which reaches the database through a proxy of its own. The node
    is not started yet.
    """
    port = urlsplit(fleet.url).port
    assert port is not None
    proxy = DatabaseProxy(port, keeps_dead=keeps_dead)
    try:
        path: Path = fleet.add(name)
        path.write_text(path.read_text().replace(f":{port}/", f":{proxy.port}/"))
        yield proxy
    finally:
        proxy.close()
