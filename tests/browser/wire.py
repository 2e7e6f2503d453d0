"""A connection between a browser and a server that a test can cut, stall and restore."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import Event, Lock, Thread


class Wire:
    """Forwards bytes by threads of its own. `port`: the port to which the browser connects."""

    def __init__(self, host: str, port: int) -> None:
        self._server_address = (host, port)
        self._lock = Lock()
        self._connections: set[socket.socket] = set()  # the sockets of both ends of each connection
        self._is_cut = False
        self._passes = Event()
        self._passes.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = Thread(target=self._accept)
        self._thread.start()

    def cut(self) -> None:
        """Ends every connection, and refuses new ones until `mend`."""
        with self._lock:
            self._is_cut = True
            for connection in self._connections:
                _end(connection)

    def stall(self) -> None:
        """Keeps connections open but forwards nothing, like a router that has lost its state."""
        self._passes.clear()

    def mend(self) -> None:
        """Forwards everything again, including the data that was held back."""
        self._is_cut = False
        self._passes.set()

    def close(self) -> None:
        self.cut()
        self._passes.set()
        _end(self._listener)
        self._thread.join()

    def _accept(self) -> None:
        threads: list[Thread] = []
        with self._listener, suppress(OSError):  # the listener is closed when the proxy ends
            while True:
                threads.append(Thread(target=self._serve, args=[self._listener.accept()[0]]))
                threads[-1].start()
        for thread in threads:
            thread.join()

    def _serve(self, client: socket.socket) -> None:
        with ExitStack() as stack:
            stack.enter_context(client)
            with self._lock:
                if self._is_cut:
                    return
                server = stack.enter_context(socket.create_connection(self._server_address))
                self._connections |= {client, server}
            answers = Thread(target=self._pass_on, args=[server, client])
            answers.start()
            self._pass_on(client, server)
            answers.join()
            with self._lock:
                self._connections -= {client, server}

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._passes.wait()
                target.sendall(data)
        _end(source)
        _end(target)


def _end(connection: socket.socket) -> None:
    """Wakes the threads that wait for the socket. Data that was written before still arrives."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def wire_to(host: str, port: int) -> Iterator[Wire]:
    wire = Wire(host, port)
    try:
        yield wire
    finally:
        wire.close()
