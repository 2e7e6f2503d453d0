"""The migrations of the schema. Importing this module imports Alembic, which takes a while."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

from quiltfn.store.database.directory import StoreBroken
from quiltfn.store.database.sql import driver

# The first revision for PostgreSQL; later revisions are for both databases.
BASELINE = "0013"


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, without a file: the place of the revisions, and the connection."""
    settings = Config(attributes={"connection": connection})
    settings.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    return settings


def head() -> str | None:
    """The newest revision of this release."""
    return ScriptDirectory.from_config(config()).get_current_head()


def is_known(revision: str) -> bool:
    """Whether this release has that revision and those before it."""
    try:
        ScriptDirectory.from_config(config()).get_revision(revision)
    except CommandError:
        return False
    return True


def upgrade(connection: Connection) -> None:
    """Migrates to the newest revision in one transaction, so that a kill leaves the old one.

    Raises `StoreBroken` if the database has an unknown revision.
    """
    with connection.begin():
        upgrade_in(connection)


def upgrade_in(connection: Connection) -> None:
    """As `upgrade`, in the caller's transaction. An empty PostgreSQL database begins with
    `BASELINE`.
    """
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and not is_known(found):
        raise StoreBroken(
            f"The database was written by a newer quiltfn (its schema is {found}, this one "
            f"knows up to {head()}). Start that version, or restore an older backup."
        )
    if found is None and connection.dialect.name == "postgresql":
        schema = Path(__file__).with_name(f"postgresql_{BASELINE}.sql").read_text("utf-8")
        driver(connection).execute(schema)
        command.stamp(config(connection), BASELINE)
    command.upgrade(config(connection), "head")
