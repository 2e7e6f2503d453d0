"""The fleet that a PostgreSQL database belongs to, and the locks of its nodes.

A fleet is a group of servers, its nodes, that share one database. Nodes share the lock for servers,
which excludes a standalone server. Each node also holds a lock for its name, so that no second node
with that name starts.
"""

import hashlib

from sqlalchemy import Connection, select, text

from quiltfn.store.database import tables
from quiltfn.store.database.directory import StoreBroken
from quiltfn.store.database.postgres_connection import run_alone

ALONE = (
    "The database is a fleet's. Start with --fleet FILE, where FILE is what quiltfn fleet add-node "
    "made for this node."
)
NO_FLEET = "The database is no fleet's: quiltfn fleet init makes it one's."
ANOTHER = "The database is another fleet's ({found}); the file of setting fleet is of {own}."
HAS_TABLE = text("SELECT to_regclass('fleet') IS NOT NULL")


def fleet_of(connection: Connection) -> str | None:
    """The id of the fleet that the database belongs to; None if it belongs to no fleet."""
    if not connection.execute(HAS_TABLE).scalar_one():
        return None
    return connection.execute(select(tables.fleet.c.id)).scalar_one_or_none()


def check_fleet(connection: Connection, fleet_id: str, *, alone: bool) -> None:
    """Raises `StoreBroken` if the database does not belong to the fleet `fleet_id`, or if it
    belongs to a fleet and the server is `alone`. `fleet_id`: the fleet of the server that opens the
    database; empty if it is in no fleet.
    """
    with connection.begin():  # otherwise SQLAlchemy would leave a transaction open
        found = fleet_of(connection)
    if alone and found is not None:
        raise StoreBroken(ALONE)
    if fleet_id and found is None:
        raise StoreBroken(NO_FLEET)
    if fleet_id and found != fleet_id:
        raise StoreBroken(ANOTHER.format(found=found, own=fleet_id))


def _name_lock(name: str) -> bytes:
    return hashlib.blake2b(f"quiltfn node {name}".encode(), digest_size=8).digest()


def try_name_lock(connection: Connection, name: str) -> bool:
    """Takes the lock for a node's name in this session. Returns False if another session has it."""
    number = int.from_bytes(_name_lock(name), signed=True)
    return bool(run_alone(connection, f"SELECT pg_try_advisory_lock({number})")[0][0])


def free_name_lock(connection: Connection, name: str) -> None:
    """Ends the session that holds the lock for the name of a node that was taken over. Otherwise a
    device between that node and PostgreSQL may keep the session open for ever.
    """
    lock = _name_lock(name)
    high, low = (int.from_bytes(one) for one in (lock[:4], lock[4:]))
    run_alone(
        connection,
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        f" AND classid = {high} AND objid = {low} AND objsubid = 1"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    )
