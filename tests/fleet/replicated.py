"""A PostgreSQL with a standby, each on its own machine; the standby can be promoted."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

from e2e.server import until
from fleet_network import DATABASE, STANDBY, Network, Postgres

FOLLOWS = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = %s"


def statement(cluster: Postgres | Replicated, text: str, *values: str) -> list[tuple[Any, ...]]:
    """Runs a statement as the superuser, outside of a transaction."""
    password = quote(cluster.password.read_text().strip(), "")
    url = cluster.url.replace("quiltfn@", f"quiltfn:{password}@")
    with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
        answer = connection.execute(text.encode(), values or None)
        return answer.fetchall() if answer.description else []


class Replicated:
    """A PostgreSQL and its standby. The operations of a `Postgres` apply to the primary. `url`
    names both machines.
    """

    def __init__(self, directory: Path, reached: Network, *, is_synchronous: bool = True) -> None:
        self.primary, self.replica = (
            Postgres(directory, reached, machine) for machine in (DATABASE, STANDBY)
        )
        self.password, self.is_synchronous = self.primary.password, is_synchronous
        hosts = ",".join(one.address for one in (self.primary, self.replica))
        self.url = f"postgresql://quiltfn@{hosts}/postgres?target_session_attrs=read-write"

    @property
    def machines(self) -> tuple[str, ...]:
        return self.primary.machine, self.replica.machine

    def start(self) -> None:
        self.primary.start()

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        self.primary.stop(how)

    def replicate(self) -> None:
        """Creates the standby again from the primary, and waits until it follows."""
        self.replica.kill()
        self._wait_for(is_waiting=False)
        until(lambda: self.replica.reaches(self.primary), 30)
        self.replica.copy_from(self.primary)
        self.replica.start()
        if self.is_synchronous:
            self._wait_for(is_waiting=True)
        until(lambda: statement(self.primary, FOLLOWS, self._state)[0][0], 30)

    def promote(self) -> None:
        """Makes the standby the primary, without a connection to the former primary."""
        statement(self.replica, "SELECT pg_promote(true, 30)")
        self.primary, self.replica = self.replica, self.primary

    @property
    def _state(self) -> str:
        return "sync" if self.is_synchronous else "async"

    def _wait_for(self, *, is_waiting: bool) -> None:
        """Sets whether commits wait for the standby. A standby has the setting of its primary."""
        names = "'*'" if is_waiting else "''"
        statement(self.primary, f"ALTER SYSTEM SET synchronous_standby_names = {names}")
        statement(self.primary, "SELECT pg_reload_conf()")


@contextlib.contextmanager
def replicated(
    directory: Path, reached: Network, *, is_synchronous: bool = True
) -> Iterator[Replicated]:
    """Starts the primary and the standby, and waits until the standby follows."""
    pair = Replicated(directory, reached, is_synchronous=is_synchronous)
    try:
        pair.primary.initdb()
        pair.primary.start()
        pair.replicate()
        yield pair
    finally:
        pair.replica.kill()
        pair.primary.kill()
