"""Turns a database into that of a fleet."""

from sqlalchemy import insert

from quiltfn.store import migrations
from quiltfn.store.database import tables
from quiltfn.store.database.directory import StoreBroken
from quiltfn.store.database.locks import fleet_of
from quiltfn.store.database.postgres_connection import NAMESPACE, WRITER, run_alone
from quiltfn.store.database.postgresql import connected_alone


def begin_fleet(url: str, password: str | None, fleet_id: str) -> None:
    """Assigns the database, with its content, to the fleet; creates the tables of an empty one.
    Raises `StoreBroken` if a server uses the database, or if it already belongs to a fleet.
    """
    with connected_alone(url, password) as connection, connection.begin():
        run_alone(connection, f"BEGIN; SELECT pg_advisory_xact_lock({NAMESPACE}, {WRITER})")
        found = fleet_of(connection)
        if found is not None:
            raise StoreBroken(f"The database is a fleet's already ({found}).")
        migrations.upgrade_in(connection)
        connection.execute(insert(tables.fleet), {"id": fleet_id})
