"""PostgresTimeline: the timeline of PostgreSQL that a server uses.

A standby that is promoted begins a new timeline. The former primary stays on the old timeline; if
it still runs, it accepts writes that nobody else sees. Once a server has seen a newer timeline, or
another node has reported it, the server uses no connection to an older timeline, even after a
restart.
"""

import contextlib
from pathlib import Path
from typing import Any

import psycopg

from quiltfn.ports.fleet import History
from quiltfn.store.database.directory import replace_file

FILE = "timeline"
# Timeline 0: a standby, which has no timeline of its own.
QUERY = """\
SELECT (SELECT system_identifier FROM pg_control_system()), CASE WHEN pg_is_in_recovery() THEN '0'
  ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END"""
OLD = (
    "PostgreSQL at {host} is on timeline {found}, and this fleet has gone on to {newest}: it was "
    "the primary before a failover. Stop it, or make it a standby"
)


class OldTimeline(psycopg.OperationalError):
    """The server was the primary before a failover."""


class PostgresTimeline:
    """The timeline of the database that this server uses, for all of its threads. `newest`: the
    newest known timeline; `host`: the host that was last seen on it.
    """

    def __init__(self, directory: Path) -> None:
        """`directory`: the server's data directory, which stores the newest timeline."""
        self._path = directory / FILE
        self.newest = History(0, 0)
        self.host: tuple[str, str] | None = None
        with contextlib.suppress(OSError, ValueError):
            cluster, timeline = self._path.read_text("ascii").split()
            self.newest = History(int(cluster), int(timeline))

    def learn(self, found: History) -> bool:
        """Add the timeline of a connection or of another node. Returns whether it is newer than the
        known one: then connections to older timelines are no longer used.
        """
        if not self.newest.is_before(found):
            return False
        self._keep(found)
        return True

    def check(self, made: "psycopg.Connection[Any]") -> History:
        """The timeline of a new connection. Raises `OldTimeline`."""
        row = made.execute(QUERY.encode()).fetchone()
        assert row is not None
        found = History(int(row[0]), int(row[1], 16))
        if found.is_before(self.newest):
            message = OLD.format(
                host=made.info.host, found=found.timeline, newest=self.newest.timeline
            )
            raise OldTimeline(message)
        if found.timeline:
            if found != self.newest:
                self._keep(found)
            self.host = made.info.host, str(made.info.port)
        return found

    def _keep(self, found: History) -> None:
        self.newest = found
        # if it can't be stored, a restarted server learns it again
        with contextlib.suppress(OSError):
            replace_file(self._path, f"{found.cluster} {found.timeline}\n")
