"""A connection to PostgreSQL for short statements that must not wait while records are stored.

It has its own thread and takes no lock of writers. Each statement is a transaction. A statement is
cancelled after two seconds by PostgreSQL, or after three seconds here if PostgreSQL does not
respond.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection, Engine

from quiltfn.model.errors import StoreUnavailable
from quiltfn.store.database.postgres_connection import NO_ANSWER, is_lost, is_of_database, reason_of

T = TypeVar("T")
# How long to wait for earlier work: each piece may take seconds if PostgreSQL does not respond.
WAIT_MAX_S = 5.0


class QuickConnection:
    """Connects at its first use, and again after the connection is lost. Close it with `aclose`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, "store-quick")
        self._connection: Connection | None = None

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Runs `work`; each of its statements is committed separately. Raises `StoreUnavailable`;
        the last statement may then have been executed.
        """
        loop, until = asyncio.get_running_loop(), time.monotonic() + WAIT_MAX_S
        return await loop.run_in_executor(self._thread, self._run, work, until)

    async def aclose(self) -> None:
        """Closes the connection. Harmless when repeated."""
        with contextlib.suppress(RuntimeError):  # already closed
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    def _run(self, work: Callable[[Connection], T], until: float) -> T:
        if time.monotonic() > until:
            raise StoreUnavailable(NO_ANSWER)
        try:
            if is_lost(self._connection):
                self._close()
                self._connection = self._engine.connect()
            assert self._connection is not None
            found = work(self._connection)
            self._connection.commit()  # SQLAlchemy assumes an open transaction
            return found
        except Exception as error:
            self._close()
            if not is_of_database(error):
                raise
            message = f"the database does not answer in time: {reason_of(error)}"
            raise StoreUnavailable(message) from error

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()
