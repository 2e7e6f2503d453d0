"""Answers clients while a hanging write to a disk blocks the event loop.

The event loop writes records of invocations itself, because passing them to a thread would cost
more than the write. So a disk that hangs blocks the loop. This module's thread detects that. Until
the loop continues, the thread accepts new connections and answers 503, or 200 for /health.
"""

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import structlog

from quiltfn.api.http.errors import error_body
from quiltfn.base.ids import new_id
from quiltfn.model.errors import StoreUnavailable

LOOK_EVERY_S, STALLED_S = 1.0, 1.0
# The maximum duration of one connection, and the maximum number at a time.
ANSWER_WITHIN_S, AT_ONCE, HEAD_MAX = 1.0, 32, 16 * 1024
REST_MAX = 16 * 1024 * 1024  # bytes of a body that are read and discarded
ALIVE = b'{"status":"ok"}'
_log = structlog.get_logger("quiltfn.api")


class StallResponder:
    """Call `start`, and call `stop` before the listener is closed.

    `stalled_s`: how long the event loop has been waiting for the disk.
    """

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext | None,
        stalled_s: Callable[[], float],
    ) -> None:
        self._listener, self._context, self._stalled_s = listener.dup(), context, stalled_s
        self._over = threading.Event()
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="stall-responder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stops the thread and ends its connections."""
        self._over.set()
        with self._open_lock:
            for connection in self._open:
                with contextlib.suppress(OSError):  # the connection has ended already
                    connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            if self._stalled_s() >= STALLED_S:
                _log.error("the disk does not take writes: calls wait for it")
                self._serve()
                _log.warning("the disk takes writes again")

    def _serve(self) -> None:
        """Answers connections until the event loop continues."""
        ready, places = select.poll(), threading.BoundedSemaphore(AT_ONCE)
        ready.register(self._listener, select.POLLIN)
        with ThreadPoolExecutor(AT_ONCE, "stall-responder") as others:
            while (stalled := self._stalled_s()) and not self._over.is_set():
                if not ready.poll(100) or not places.acquire(timeout=0.1):
                    continue
                try:
                    connection = self._listener.accept()[0]
                except OSError:  # accepted by the event loop, or disconnected
                    places.release()
                    continue
                answered = others.submit(self._answer, connection, stalled)
                answered.add_done_callback(lambda _: places.release())

    def _answer(self, connection: socket.socket, stalled_s: float) -> None:
        until = monotonic() + ANSWER_WITHIN_S
        # An OSError means that the client disconnected or is too slow.
        with connection, contextlib.suppress(OSError), self._ended_by_stop(connection):
            connection.settimeout(ANSWER_WITHIN_S)
            if self._context is not None:
                with self._context.wrap_socket(connection, server_side=True) as encrypted:
                    self._talk(encrypted, stalled_s, until)
            else:
                self._talk(connection, stalled_s, until)

    @contextlib.contextmanager
    def _ended_by_stop(self, connection: socket.socket) -> Iterator[None]:
        """Within the block, `stop` shuts the connection down. Raises OSError after `stop`."""
        # A copy of the descriptor, because TLS takes over the connection's own.
        with connection.dup() as same:
            with self._open_lock:
                if self._over.is_set():
                    raise ConnectionAbortedError
                self._open.add(same)
            try:
                yield
            finally:
                with self._open_lock:
                    self._open.remove(same)

    def _talk(self, connection: socket.socket, stalled_s: float, until: float) -> None:
        head = b""
        while b"\r\n\r\n" not in head and len(head) < HEAD_MAX:
            data = _receive(connection, until)
            if not data:
                return
            head += data
        request_id = new_id()
        if head.startswith((b"GET /health ", b"GET /health?")):
            status, body, retry = "200 OK", ALIVE, ""
        else:
            error = StoreUnavailable(f"the disk has not taken a write for {stalled_s:.0f} s")
            body = error_body(error, request_id)
            status, retry = "503 Service Unavailable", "retry-after: 5\r\n"
        answer = (
            f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{retry}"
            f"content-length: {len(body)}\r\nx-request-id: {request_id}\r\n"
            "connection: close\r\n\r\n"
        )
        connection.sendall(answer.encode() + body)
        connection.shutdown(socket.SHUT_WR)
        rest = 0  # bytes of the body; unread ones could make the kernel drop the response
        while rest < REST_MAX and (data := _receive(connection, until)):
            rest += len(data)


def _receive(connection: socket.socket, until: float) -> bytes:
    """The next bytes. Raises TimeoutError if there are none before the monotonic time `until`."""
    left = until - monotonic()
    if left <= 0:
        raise TimeoutError
    connection.settimeout(left)
    return connection.recv(HEAD_MAX)
