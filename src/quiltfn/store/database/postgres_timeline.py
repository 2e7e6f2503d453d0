"""PostgresTimeline: which history of its PostgreSQL a server goes by.

A standby that is promoted begins a new timeline. What was the primary until then stays on the old
one, and if it still runs it takes writes that nobody else sees. A server that has seen a newer
timeline, or was told of it by another node, uses no connection to an older one any more, also after
a restart.
"""

import contextlib
from pathlib import Path
from typing import Any

import psycopg

from quiltfn.ports.fleet import History
from quiltfn.store.files.directory import replace_file

FILE = "timeline"
# 0: it is a standby, which says nothing of its own.
QUERY = """\
SELECT (SELECT system_identifier FROM pg_control_system()), CASE WHEN pg_is_in_recovery() THEN '0'
  ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END"""
OLD = (
    "PostgreSQL at {host} is on timeline {found}, and this fleet has gone on to {newest}: it was "
    "the primary before a failover. Stop it, or make it a standby"
)


class PostgresTimeline:
    """`ports.fleet.Timeline`, for all threads of a server. `host`: where the newest one was."""

    def __init__(self, directory: Path) -> None:
        """`directory`: of the server's own data, which remembers it."""
        self._path = directory / FILE
        self.newest = History(0, 0)
        self.host: tuple[str, str] | None = None
        with contextlib.suppress(OSError, ValueError):
            cluster, timeline = self._path.read_text("ascii").split()
            self.newest = History(int(cluster), int(timeline))

    def learn(self, found: History) -> bool:
        """As `Timeline` says."""
        if not self.newest.is_before(found):
            return False
        self._keep(found)
        return True

    def check(self, made: "psycopg.Connection[Any]") -> History:
        """Of a new connection. Raises `psycopg.OperationalError` for one to an old primary."""
        row = made.execute(QUERY.encode()).fetchone()
        assert row is not None
        found = History(int(row[0]), int(row[1], 16))
        if found.is_before(self.newest):
            message = OLD.format(
                host=made.info.host, found=found.timeline, newest=self.newest.timeline
            )
            raise psycopg.OperationalError(message)
        if found.timeline:
            if found != self.newest:
                self._keep(found)
            self.host = made.info.host, str(made.info.port)
        return found

    def _keep(self, found: History) -> None:
        self.newest = found
        with contextlib.suppress(OSError):  # what is not kept is learned again
            replace_file(self._path, f"{found.cluster} {found.timeline}\n")
