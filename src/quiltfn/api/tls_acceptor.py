"""TLS connections until they are connections: how many may shake hands, and how long.

The event loop's own server tells nobody of a connection before its handshake is over, so whoever
never ends one would hold a descriptor that no bound counts.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable

HANDSHAKES_MAX = 256
HANDSHAKE_TIMEOUT_S = 10.0
AT_ONCE = 64
BACKLOG = 2048


class TlsAcceptor:
    """Accepts on `listener`. One handshake too many ends the oldest."""

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        make: Callable[[], asyncio.Protocol],
    ) -> None:
        self._listener, self._context, self._make = listener, context, make
        self._loop = asyncio.get_running_loop()
        self._shaking: dict[asyncio.Task[None], None] = {}
        listener.setblocking(False)
        listener.listen(BACKLOG)
        self._loop.add_reader(listener.fileno(), self._accept)

    def close(self) -> None:
        self._loop.remove_reader(self._listener.fileno())
        for task in list(self._shaking):
            task.cancel()

    async def wait_closed(self) -> None:
        await asyncio.gather(*self._shaking, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                one, _address = self._listener.accept()
            except OSError:  # there is none, or it has gone again
                return
            if len(self._shaking) >= HANDSHAKES_MAX:
                oldest = next(iter(self._shaking))
                del self._shaking[oldest]
                oldest.cancel()
            task = self._loop.create_task(self._shake_hands(one))
            self._shaking[task] = None
            task.add_done_callback(lambda task: self._shaking.pop(task, None))

    async def _shake_hands(self, one: socket.socket) -> None:
        one.setblocking(False)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._loop.connect_accepted_socket(
                self._make, one, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S
            )
