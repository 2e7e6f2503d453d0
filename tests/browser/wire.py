"""A wire between a browser and a server that a test can cut, stall and mend."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeAlias

Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter


class Wire:
    """Passes bytes on, in a thread of its own. `port`: where the browser finds it."""

    port: int

    def __init__(self, host: str, port: int) -> None:
        self._server_address = (host, port)
        self._writers: set[Writer] = set()
        self._is_cut = False
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        self._started.wait()

    def cut(self) -> None:
        """Ends every connection and refuses new ones, until `mend`."""

        def now() -> None:
            self._is_cut = True
            self._abort()

        self._do(now)

    def stall(self) -> None:
        """Connections stay and nothing passes, as behind a router that forgot them."""
        self._do(self._passes.clear)

    def mend(self) -> None:
        """Everything passes again, what was held back too."""

        def now() -> None:
            self._is_cut = False
            self._passes.set()

        self._do(now)

    def close(self) -> None:
        self._do(self._closed.set)
        self._thread.join()

    def _do(self, act: Callable[[], None]) -> None:
        done = threading.Event()

        def now() -> None:
            act()
            done.set()

        self._loop.call_soon_threadsafe(now)
        done.wait()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._passes, self._closed = asyncio.Event(), asyncio.Event()
        self._passes.set()
        listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = listener.sockets[0].getsockname()[1]
        self._started.set()
        await self._closed.wait()
        listener.close()
        self._passes.set()
        # In a loop: a connection may have been accepted whose task has not yet begun.
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            self._abort()
            await asyncio.wait(tasks, timeout=0.01)
        await asyncio.sleep(0)  # the loop's next round closes what was aborted in this one

    def _abort(self) -> None:
        for one in self._writers:
            one.transport.abort()

    async def _accept(self, reader: Reader, writer: Writer) -> None:
        ends = {writer}
        self._writers.add(writer)
        try:
            if self._is_cut:
                return
            server_reader, server_writer = await asyncio.open_connection(*self._server_address)
            ends.add(server_writer)
            self._writers.add(server_writer)
            await asyncio.gather(
                self._pass_on(reader, server_writer), self._pass_on(server_reader, writer)
            )
        finally:
            self._writers -= ends
            for one in ends:
                one.transport.abort()

    async def _pass_on(self, reader: Reader, writer: Writer) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._passes.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@contextmanager
def wire_to(host: str, port: int) -> Iterator[Wire]:
    wire = Wire(host, port)
    try:
        yield wire
    finally:
        wire.close()
