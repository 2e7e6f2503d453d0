"""Facts about a fleet's database and its PostgreSQL, for diagnosis. Reading them changes nothing
and takes no lock.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, inspect, select, text

from quiltfn.model.converting import convert
from quiltfn.model.member import Member
from quiltfn.store.database import compatibility, tables
from quiltfn.store.database.directory import StoreBroken
from quiltfn.store.database.locks import check_fleet
from quiltfn.store.database.postgres_connection import engine, is_of_database, reason_of, run_alone
from quiltfn.store.database.postgresql import check_usable

ROUND_TRIPS = 7
REVISION = text("SELECT version_num FROM alembic_version")
SETTINGS = (
    *("server_version", "max_connections", "superuser_reserved_connections"),
    *("synchronous_standby_names", "fsync", "full_page_writes"),
)
# Connection limits of the role and the database; -1: unlimited.
LIMITS = """
SELECT rolconnlimit, datconnlimit, rolsuper FROM pg_roles, pg_database
 WHERE rolname = current_user AND datname = current_database()
"""
MISSING_RIGHTS = """
SELECT relname FROM pg_class
 WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace
   AND NOT pg_has_role(current_user, relowner, 'USAGE')
 ORDER BY relname
"""
IN_USE = """
SELECT count(*) FROM pg_stat_activity
 WHERE backend_type = 'client backend' AND datname IS DISTINCT FROM current_database()
"""


@dataclass(frozen=True, kw_only=True)
class FleetFacts:
    """`latency_s`: a statement's, both ways. `clock_off_s`: how far the database's clock is ahead
    of this machine's, give or take half the latency. `revision`: that of the database's tables;
    `known`: the newest one of this quiltfn. `oldest`: the oldest version of quiltfn that may use
    the tables. `foreign_tables`: tables that the role does not own. `connections_max`: the maximum
    for the role; `connections_of_others`: current connections to other databases. `standbys`: their
    number. `members`: all nodes that have ever been present.
    """

    settings: Mapping[str, str]
    latency_s: float
    clock_off_s: float
    revision: str | None
    known: str
    oldest: str
    is_superuser: bool
    foreign_tables: Sequence[str]
    connections_max: int
    connections_of_others: int
    standbys: int
    members: Sequence[Member]


def read_facts(
    url: str, password: str | None, fleet_id: str, unix: Callable[[], float]
) -> FleetFacts:
    """`unix`: this machine's clock, in Unix seconds. Raises `StoreBroken` if the database does not
    respond or belongs to another fleet.
    """
    try:
        with engine(url, password).connect() as connection:
            check_usable(connection)
            check_fleet(connection, fleet_id, alone=False)
            with connection.begin():
                return _read(connection, unix)
    except Exception as error:
        if not is_of_database(error):
            raise
        raise StoreBroken(reason_of(error)) from error


def _read(connection: Connection, unix: Callable[[], float]) -> FleetFacts:
    latency_s, clock_off_s = _times(connection, unix)
    settings = {name: str(run_alone(connection, f"SHOW {name}")[0][0]) for name in SETTINGS}
    (limits,) = run_alone(connection, LIMITS)
    bounds = [int(settings["max_connections"]) - int(settings["superuser_reserved_connections"])]
    bounds += [one for one in limits[:2] if one >= 0]
    return FleetFacts(
        settings=settings,
        latency_s=latency_s,
        clock_off_s=clock_off_s,
        revision=connection.execute(REVISION).scalar(),
        known=tables.REVISION,
        oldest=compatibility.oldest(connection),
        is_superuser=bool(limits[2]),
        foreign_tables=[str(one[0]) for one in run_alone(connection, MISSING_RIGHTS)],
        connections_max=min(bounds),
        connections_of_others=int(run_alone(connection, IN_USE)[0][0]),
        standbys=int(run_alone(connection, "SELECT count(*) FROM pg_stat_replication")[0][0]),
        members=_members(connection),
    )


def _members(connection: Connection) -> list[Member]:
    """Reads only columns that exist: another version of quiltfn may have created the table."""
    there = {one["name"] for one in inspect(connection).get_columns(tables.node.name)}
    wanted = [one for one in tables.node.c if one.name in there & set(Member.__struct_fields__)]
    if tables.node.c.version.name not in there:
        return []
    query = select(*wanted).where(tables.node.c.version != "").order_by(tables.node.c.name)
    rows = connection.execute(query).mappings()
    return [convert({str(name): row[name] for name in row}, Member) for row in rows]


def _times(connection: Connection, unix: Callable[[], float]) -> tuple[float, float]:
    """The usual latency of a statement, both ways, and how far the database's clock is ahead."""
    took, off = [], []
    for _ in range(ROUND_TRIPS):
        began, began_at = time.monotonic(), unix()
        ((seconds,),) = run_alone(connection, "SELECT extract(epoch FROM clock_timestamp())")
        took.append(time.monotonic() - began)
        off.append(float(seconds) - began_at - took[-1] / 2)
    return statistics.median(took), statistics.median(off)
