"""Processes for tests that are forked from a process with all imports.

Imports would take most of a short process's time. Each is a separate process that can be killed,
and shares no files or connections with others.
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
    """End the fork server. Otherwise, mostly after a failed test, Python may never end: it waits
    for its resource tracker, which waits for the fork server, which waits for the end of this
    process.
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
        """The lines of its standard output, for the running loop; replaces `said`. Call this
        once.
        """
        stream = asyncio.StreamReader(limit=1 << 30)
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), self.said
        )
        return stream

    def end(self) -> None:
        """End the process in any state, and close its files."""
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
    """A process that calls `work`, a function of a module, with pickled `arguments`. It ends with
    the block.
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
