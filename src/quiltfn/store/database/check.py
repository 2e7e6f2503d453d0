"""Checks a large database for damage while the server runs.

A small database is checked at every start (`sqlite.py`). That takes too long for a large one, so
after a crash it is checked in the background: by a thread of low priority with its own connection,
table by table, so that the log can be checkpointed in between.
"""

import contextlib
import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

from quiltfn.store.database.consistency import read_only

CHECK_BELOW_BYTES = 16 * 1024**3
NICE = 10


class IntegrityCheck:
    """Call `start` after a crash, and `stop` before the database is closed."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._connection: sqlite3.Connection | None = None
        self._thread: threading.Thread | None = None
        self._is_stopped = False
        # The message for the operator, and whether the message reports damage.
        self.message = ""
        self.is_damaged = False

    def start(self) -> None:
        """Starts the check in the background."""
        size = self._database.stat().st_size
        if size >= CHECK_BELOW_BYTES:
            self.message = (
                "the last server did not end properly, and the database is too large to be checked "
                "in the background: quiltfn backup checks it"
            )
            return
        self.message = "the last server did not end properly: checking the database"
        self._thread = threading.Thread(target=self._run, name="store-check", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops the check, even if it is running. Blocks for a moment."""
        self._is_stopped = True
        if self._thread is not None:
            connection = self._connection
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.interrupt()
            self._thread.join()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        try:
            damage = self._look()
        except sqlite3.Error as error:
            if self._is_stopped:
                return
            damage = str(error)
        if damage is None:
            self.message = "the database was checked after an improper end: it is intact"
            return
        import structlog  # noqa: PLC0415 — commands beside a server do without it

        self.is_damaged = True
        self.message = f"the database is damaged: {damage}. Restore a backup"
        structlog.get_logger("quiltfn.store").error("the database is damaged", damage=damage)

    def _look(self) -> str | None:
        """Checks for damage. Returns a description of the first damage found, or None."""
        with closing(read_only(self._database)) as connection:
            self._connection = connection
            try:
                tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
                for (table,) in tables.fetchall():
                    if self._is_stopped:
                        return None
                    (result,) = connection.execute(f"PRAGMA integrity_check('{table}')").fetchone()
                    if result != "ok":
                        return str(result)
            finally:
                self._connection = None
        return None
