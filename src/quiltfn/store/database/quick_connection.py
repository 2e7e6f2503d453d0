"""A connection to PostgreSQL for short statements that must not wait behind records being stored.

It has a thread of its own and takes no lock of writers. A statement is a transaction; what takes
more than two seconds is given up, by PostgreSQL or, where that does not answer, here.
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
# Who asks waits so long for those before, each of whom may take seconds where nobody answers.
WAIT_MAX_S = 5.0


class QuickConnection:
    """Made when it is first used, and anew when it has ended. Close it with `aclose`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, "store-quick")
        self._connection: Connection | None = None

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Runs `work`, each statement of which is committed by itself. Raises `StoreUnavailable`:
        the last statement may have been made or not.
        """
        loop, until = asyncio.get_running_loop(), time.monotonic() + WAIT_MAX_S
        return await loop.run_in_executor(self._thread, self._run, work, until)

    async def aclose(self) -> None:
        """Ends it. Harmless when repeated."""
        with contextlib.suppress(RuntimeError):  # It was closed.
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
            self._connection.commit()  # nothing, but SQLAlchemy believes that there is something
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
