"""Accepts TLS connections, and limits the number and duration of handshakes.

The event loop's own server reports a connection only after its handshake. A client that never
completes its handshake would hold a file descriptor that no limit counts.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable

RECEIVE_BYTES = 256 * 1024
HANDSHAKES_MAX = 256
HANDSHAKE_TIMEOUT_S = 10.0
AT_ONCE = 64
BACKLOG = 2048


def ignore(_address: object, _error: OSError) -> None:
    """Ignore failed handshakes: anyone may connect to a public port."""


def receive_buffer() -> memoryview:
    """A new buffer, which any number of `TlsReceiver`s of one event loop can share."""
    return memoryview(bytearray(RECEIVE_BYTES))


class TlsReceiver(asyncio.BufferedProtocol):
    """Passes decrypted data to `protocol`. `buffer`: holds the data until it is copied, which
    happens in the same step of the event loop, so all connections can share one buffer.

    Without `buffer`, the event loop would allocate 256 KiB for each read. To get this memory from
    the kernel and return it (`launcher/main.py`) takes longer than decryption.
    """

    def __init__(self, protocol: asyncio.Protocol, buffer: memoryview) -> None:
        self._protocol, self._buffer = protocol, buffer

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._protocol.data_received(bytes(self._buffer[:nbytes]))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._protocol.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)
        # The event loop's TLS refers to methods of this object, and `protocol` to the transport.
        # Breaking this cycle frees the memory without the garbage collector.
        del self._protocol

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()


class TlsAcceptor:
    """Accepts connections on `listener`. If there are too many handshakes, the oldest is cancelled.
    `on_failed` gets the address and the error of each failed handshake.
    """

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        make: Callable[[], asyncio.Protocol],
        on_failed: Callable[[object, OSError], None] = ignore,
    ) -> None:
        self._listener, self._context, self._make = listener, context, make
        self._on_failed = on_failed
        self._buffer = receive_buffer()
        self._loop = asyncio.get_running_loop()
        self._handshakes: dict[asyncio.Task[None], None] = {}
        listener.setblocking(False)
        listener.listen(BACKLOG)
        self._loop.add_reader(listener.fileno(), self._accept)

    def _receiver(self) -> TlsReceiver:
        return TlsReceiver(self._make(), self._buffer)

    def close(self) -> None:
        self._loop.remove_reader(self._listener.fileno())
        for task in list(self._handshakes):
            task.cancel()

    async def wait_closed(self) -> None:
        await asyncio.gather(*self._handshakes, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                accepted, address = self._listener.accept()
            except OSError:  # no connection is waiting, or the client has disconnected
                return
            if len(self._handshakes) >= HANDSHAKES_MAX:
                oldest = next(iter(self._handshakes))
                del self._handshakes[oldest]
                oldest.cancel()
            task = self._loop.create_task(self._shake_hands(accepted, address))
            self._handshakes[task] = None
            task.add_done_callback(lambda task: self._handshakes.pop(task, None))

    async def _shake_hands(self, accepted: socket.socket, address: object) -> None:
        accepted.setblocking(False)
        try:
            await self._loop.connect_accepted_socket(
                self._receiver,
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
            )
        except OSError as error:
            self._on_failed(address, error)
        except asyncio.CancelledError:
            pass
