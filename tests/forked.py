"""Processes of a test that start with their imports done: forked from a process that has them.

Imports take most of the time of a short process. Each is still a process of its own that can be
killed: it opens its files and connections itself and shares them with no other process.
"""

from __future__ import annotations

import asyncio
import atexit
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any, BinaryIO

from timeouts import scaled

# What most commands of the client import.
CLIENT = (
    *("functions", "invocations", "invoke", "logs", "project.commands", "runtimes", "server"),
    *("tables", "urls", "work"),
)
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["contract.stores", "e2e.work_history", "quiltfn.__main__"]
    + [f"quiltfn.operator.{name}" for name in ("backup", "doctor", "fleet", "keys", "store")]
    + ["quiltfn.operator.fleet_doctor", "quiltfn.store.database.postgresql"]
    + [f"quiltfn.cli.{name}" for name in CLIENT]
)


def _end_server() -> None:
    """Otherwise Python may never end, mostly after a failed test: it waits for its resource
    tracker, which waits for the fork server, which waits for the end of this process.
    """
    server: Any = forkserver._forkserver
    server._stop()


atexit.register(_end_server)


class Child:
    """A running process. `said`: its standard output."""

    def __init__(self, process: ForkServerProcess, said: BinaryIO, stdin: BinaryIO) -> None:
        self._process, self.said, self._stdin = process, said, stdin
        self._transport: asyncio.ReadTransport | None = None

    def tell(self) -> None:
        """Write a line to its standard input."""
        self._stdin.write(b"\n")
        self._stdin.flush()

    def kill(self) -> None:
        """`kill -9`."""
        self._process.kill()

    def wait(self, timeout_s: float = 30.0) -> int:
        """Close its standard input; return its exit status as `subprocess` does."""
        self._stdin.close()
        self._process.join(scaled(timeout_s))
        code = self._process.exitcode
        assert code is not None, "it does not end"
        return code

    async def lines(self) -> asyncio.StreamReader:
        """Its standard output for the running loop, instead of `said`; call this once."""
        stream = asyncio.StreamReader(limit=1 << 30)
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), self.said
        )
        return stream

    def end(self) -> None:
        """End the process, whatever happened before: nothing of it runs or is open afterwards."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._stdin.close()
        if self._transport is None:
            self.said.close()
        else:
            self._transport.close()


@contextmanager
def forked(work: Callable[..., None], *arguments: object) -> Iterator[Child]:
    """A process that calls `work`, a function of a module, with pickled `arguments`. It is ended at
    the end of the block.
    """
    reads, tells = CONTEXT.Pipe(duplex=False)
    hears, writes = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_run, args=(work, arguments, reads, writes))
    with reads, writes:
        process.start()
    with tells, hears:
        said, stdin = (
            os.fdopen(os.dup(hears.fileno()), "rb"),
            os.fdopen(os.dup(tells.fileno()), "wb"),
        )
    child = Child(process, said, stdin)
    try:
        yield child
    finally:
        child.end()


def _run(
    work: Callable[..., None], arguments: tuple[object, ...], reads: Connection, writes: Connection
) -> None:
    os.dup2(reads.fileno(), 0)
    os.dup2(writes.fileno(), 1)
    reads.close()
    writes.close()
    sys.stdin = os.fdopen(0)
    work(*arguments)
