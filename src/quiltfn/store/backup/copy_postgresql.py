"""A PostgreSQL database as the source or the target of a copy."""

import contextlib
from collections.abc import Generator, Iterable, Iterator

import psycopg
from psycopg import sql
from sqlalchemy import Connection, Table, exc, text

from quiltfn.store import migrations
from quiltfn.store.backup.copy import Kind, Row, check_all_ended, check_revision, kinds_of
from quiltfn.store.database.directory import StoreBroken
from quiltfn.store.database.postgres_connection import (
    NAMESPACE,
    WRITER,
    reason_of,
    run_alone,
)
from quiltfn.store.database.postgresql import connected_alone
from quiltfn.store.database.sql import driver

# The type for reading a column, since the rows of COPY do not contain types.
TYPES = {
    Kind.TEXT: "text",
    Kind.JSON: "text",
    Kind.BYTES: "bytea",
    Kind.WHOLE: "int8",
    Kind.NUMBER: "float8",
    Kind.TRUTH: "bool",
}
ANY_TABLE = text(
    "SELECT relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
    "WHERE relkind IN ('r', 'p', 'v', 'm', 'S') AND nspname = current_schema() LIMIT 1"
)
REVISION_OF = text("SELECT version_num FROM alembic_version")
RUNNING = text("SELECT count(*) FROM invocation WHERE status = 'running'")


class PostgresTables:
    """`copy.Target` over a connection with an open transaction."""

    def __init__(self, connection: Connection) -> None:
        self._driver: psycopg.Connection[Row] = driver(connection)

    def rows(self, table: Table) -> Generator[Row]:
        query = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT").format(_names(table), _name(table))
        with self._driver.cursor() as cursor, cursor.copy(query) as copy:
            copy.set_types([TYPES[kind] for kind in kinds_of(table)])
            yield from copy.rows()

    def fill(self, table: Table, rows: Iterable[Row]) -> None:
        name = _name(table)
        with self._driver.cursor() as cursor:
            # The table's triggers would count the rows, but the counts are copied, too.
            cursor.execute(sql.SQL("ALTER TABLE {} DISABLE TRIGGER USER").format(name))
            cursor.execute(sql.SQL("DELETE FROM {}").format(name))
            into = sql.SQL("COPY {} ({}) FROM STDIN").format(name, _names(table))
            with cursor.copy(into) as copy:
                for row in rows:
                    copy.write_row(row)
            cursor.execute(sql.SQL("ALTER TABLE {} ENABLE TRIGGER USER").format(name))


def _name(table: Table) -> sql.Identifier:
    return sql.Identifier(table.name)


def _names(table: Table) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns)


@contextlib.contextmanager
def source(url: str, password: str | None = None) -> Iterator[PostgresTables]:
    """The present content of a store in a database that no server uses. Changes nothing.

    Raises `StoreBroken`.
    """
    with connected_alone(url, password) as connection, connection.begin():
        run_alone(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        if connection.execute(text("SELECT to_regclass('alembic_version')")).scalar() is None:
            raise StoreBroken(f"There is no store of quiltfn in {url}.")
        check_revision(connection.execute(REVISION_OF).scalar(), url)
        check_all_ended(connection.execute(RUNNING).scalar_one(), url)
        yield PostgresTables(connection)


@contextlib.contextmanager
def target(url: str, password: str | None = None) -> Iterator[PostgresTables]:
    """A new store in an empty database, committed at the end of the block. After an exception the
    database is unchanged. Raises `StoreBroken`.
    """
    with connected_alone(url, password) as connection, connection.begin() as transaction:
        run_alone(connection, f"BEGIN; SELECT pg_advisory_xact_lock({NAMESPACE}, {WRITER})")
        found = connection.execute(ANY_TABLE).scalar()
        if found is not None:
            raise StoreBroken(
                f"{url} is not empty ({found} is there): make another database with createdb."
            )
        migrations.upgrade_in(connection)
        yield PostgresTables(connection)
        try:
            transaction.commit()
        except exc.DBAPIError as error:
            raise StoreBroken(
                f"{url} did not respond to the last step ({reason_of(error)}), so the copy is "
                "complete or absent. Repeat the command: it does not change an existing store."
            ) from error
