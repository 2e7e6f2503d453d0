"""Which versions of quiltfn may use a database of PostgreSQL together.

Migrations only add: a server of the previous version continues with a newer schema, and may start
with it. A migration that removes something names, in `needs`, the first version that no longer uses
it. Each server knows the oldest version that it can work with, and excludes older ones: the
database stores the oldest version that may use it, which only rises.
"""

import re

from sqlalchemy import Connection, select, text, update

from quiltfn import __version__
from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.member import Presence
from quiltfn.store.database import tables
from quiltfn.store.database.directory import StoreBroken

# The oldest version whose servers may share a database with this one: no migration needs a newer
# one, and this version understands the nodes of that one. Never newer than the previous version.
OLDEST = "0.1.0"
NUMBERS = re.compile(r"\d+(?:\.\d+)*")
NUMBERS_MAX = 3
TOO_OLD = (
    "The database is used by a newer quiltfn, which works with {oldest} or newer, and this is "
    "{own}: install {oldest}."
)
OTHERS_TOO_OLD = (
    "This is quiltfn {own}, which works with nodes of {oldest} or newer, and there is {others}: "
    "upgrade to {oldest} first. A node that was lost is in the way until another one has taken it "
    "over."
)
HAS_TABLE = text("SELECT to_regclass('compatibility') IS NOT NULL")
oldest_version, node = tables.compatibility.c.oldest_version, tables.node.c


def is_older(version: str, other: str) -> bool:
    """Whether one version is older than another. Ignores suffixes after the numbers."""
    return _numbers(version) < _numbers(other)


def oldest(connection: Connection) -> str:
    """The oldest version that may use the database; empty if the schema is too old to store it."""
    if not connection.execute(HAS_TABLE).scalar_one():
        return ""
    return str(connection.execute(select(oldest_version)).scalar_one())


def check(connection: Connection) -> None:
    """Raises `StoreBroken` if this version is too old for the database."""
    needed = oldest(connection)
    if is_older(__version__, needed):
        raise StoreBroken(TOO_OLD.format(oldest=needed, own=__version__))


def check_nodes(connection: Connection, name: str) -> None:
    """Raises `StoreUnavailable` if a present node is too old for this version. `name`: this
    node.
    """
    is_there = node.presence == Presence.PRESENT.value, node.name != name, node.version != ""
    rows = connection.execute(select(node.name, node.version).where(*is_there).order_by(node.name))
    old = [f"{one} of {version}" for one, version in rows if is_older(version, OLDEST)]
    if old:
        names = {"own": __version__, "oldest": OLDEST, "others": f"node {', '.join(old[:5])}"}
        raise StoreUnavailable(OTHERS_TOO_OLD.format(**names))


def close_to_older(connection: Connection) -> None:
    """From now on, the database refuses versions that are too old for this one. Call `check_nodes`
    and then this while holding the writer lock.
    """
    if is_older(oldest(connection), OLDEST):
        connection.execute(update(tables.compatibility).values(oldest_version=OLDEST))


def _numbers(version: str) -> tuple[int, ...]:
    found = NUMBERS.match(version)
    numbers = [] if found is None else [int(one) for one in found.group().split(".")]
    return tuple([*numbers, *[0] * NUMBERS_MAX][:NUMBERS_MAX])
