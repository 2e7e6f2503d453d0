"""Servers of several versions at one database: which may use it, with which message others are
refused, and that migrations remove nothing that an older server uses.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

import postgresql
from contract.stores import BUSY_TIMEOUT_S, a_stored_function
from promises import promise
from quiltfn import __version__
from quiltfn.model.errors import StoreUnavailable
from quiltfn.store import SqlStore, StoreBroken, migrations
from quiltfn.store.database import compatibility, tables
from quiltfn.store.database import postgresql as postgresql_store
from quiltfn.store.database.compatibility import OLDEST, is_older
from quiltfn.store.database.postgres_connection import engine, run_alone
from quiltfn.store.database.postgresql import PostgresDatabase
from quiltfn.store.fleet.facts import read_facts
from quiltfn.store.fleet.init import begin_fleet
from quiltfn.store.opening_postgresql import open_as_node, open_postgresql

pytestmark = promise("N81")

FLEET = "0123456789abcdef" * 2
MAJOR, MINOR = map(int, __version__.split(".")[:2])
BEFORE = "0017"
NEWER, NEWEST = (f"{MAJOR}.{MINOR + above}.0" for above in (1, 2))
# A schema that a newer version's migration may leave.
NEWER_SCHEMA = """
ALTER TABLE function ADD COLUMN motto text NOT NULL DEFAULT '';
ALTER TABLE node ADD COLUMN motto text;
CREATE TABLE motto (id text PRIMARY KEY);
UPDATE alembic_version SET version_num = '9999';
"""


class Database(NamedTuple):
    """The database of a fleet."""

    url: str
    path: Path

    def run(self, statements: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statements.encode())
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    def node(self, name: str) -> AbstractAsyncContextManager[SqlStore]:
        wait_s = BUSY_TIMEOUT_S
        return open_as_node(
            self.url, self.path / name, None, node_id=name, fleet_id=FLEET, busy_timeout_s=wait_s
        )

    @property
    def revision(self) -> object:
        return self.run("SELECT version_num FROM alembic_version")[0][0]

    @property
    def oldest(self) -> object:
        return self.run("SELECT oldest_version FROM compatibility")[0][0]

    @property
    def nodes(self) -> dict[object, object]:
        return dict(self.run("SELECT name, version FROM node"))  # type: ignore[arg-type]


@pytest.fixture
def fleet(tmp_path: Path) -> Database:
    url = postgresql.database_of(tmp_path)
    begin_fleet(url, None, FLEET)
    return Database(url, tmp_path)


def become(patch: pytest.MonkeyPatch, version: str, oldest: str) -> None:
    """Let servers that are started from now on have this version."""
    for module in (compatibility, postgresql_store):
        patch.setattr(module, "__version__", version)
    patch.setattr(compatibility, "OLDEST", oldest)


COLUMNS = """
SELECT table_name || '.' || column_name, data_type, is_nullable, column_default
  FROM information_schema.columns WHERE table_schema = current_schema()
"""
RULES = """
SELECT conrelid::regclass || '.' || conname, pg_get_constraintdef(oid)
  FROM pg_constraint WHERE connamespace = current_schema()::regnamespace AND conrelid <> 0
UNION ALL SELECT tablename || '.' || indexname, indexdef
  FROM pg_indexes WHERE schemaname = current_schema()
UNION ALL SELECT tgrelid::regclass || '.' || tgname, pg_get_triggerdef(pg_trigger.oid)
  FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
 WHERE NOT tgisinternal AND relnamespace = current_schema()::regnamespace
"""
FORBIDS = ("UNIQUE", "CHECK", "FOREIGN KEY", "PRIMARY KEY", "EXCLUDE", "CREATE UNIQUE")


class Schema(NamedTuple):
    """A schema, by TABLE.NAME: its columns, and PostgreSQL's definitions of constraints, indexes
    and triggers.
    """

    columns: dict[str, tuple[str, str, str | None]]
    rules: dict[str, str]


def schema_of(connection: Connection) -> Schema:
    columns = {one[0]: (one[1], one[2], one[3]) for one in run_alone(connection, COLUMNS)}
    return Schema(columns, dict(map(tuple, run_alone(connection, RULES))))


@contextlib.contextmanager
def baseline_of(path: Path) -> Iterator[Connection]:
    """A database with PostgreSQL's first revision."""
    with engine(postgresql.database_of(path)).connect() as connection:
        script = Path(migrations.__file__).with_name(f"postgresql_{migrations.BASELINE}.sql")
        run_alone(connection, script.read_text())
        with connection.begin():
            command.stamp(migrations.config(connection), migrations.BASELINE)
        yield connection


@pytest.fixture(scope="module")
def schema_before(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Schema]:
    with baseline_of(tmp_path_factory.mktemp("before")) as connection:
        with connection.begin():
            command.upgrade(migrations.config(connection), BEFORE)
        yield schema_of(connection)


SetBack = Callable[[], None]


@pytest.fixture
def set_back(fleet: Database, schema_before: Schema) -> SetBack:
    """A function that gives the fleet's database the schema of a previous release."""

    def drop_what_is_new() -> None:
        with engine(fleet.url).connect() as connection:
            now = schema_of(connection)
        known = {name.partition(".")[0] for name in schema_before.columns}
        for name in now.columns.keys() - schema_before.columns.keys():
            table, _, column = name.partition(".")
            of_table = f"ALTER TABLE {table} DROP COLUMN {column}"
            fleet.run(of_table if table in known else f"DROP TABLE IF EXISTS {table}")
        for name in now.rules.keys() - schema_before.rules.keys():
            fleet.run(f"DROP INDEX IF EXISTS {name.partition('.')[2]}")
        fleet.run(f"UPDATE alembic_version SET version_num = '{BEFORE}'")

    return drop_what_is_new


async def test_a_start_upgrades_under_a_running_node(fleet: Database, set_back: SetBack) -> None:
    set_back()
    # The node has migrated the schema, which is set back while it runs.
    async with fleet.node("old") as old:
        set_back()
        async with fleet.node("new") as new:
            assert fleet.revision == tables.REVISION
            assert "brought up to date" in new.condition()[1]
            function = await a_stored_function(old)
            assert [one.function for one in await new.load()] == [function]
    assert fleet.nodes == {"old": __version__, "new": __version__}


async def test_a_node_starts_and_runs_with_a_newer_schema_that_only_adds(fleet: Database) -> None:
    async with fleet.node("one") as store:
        await a_stored_function(store)
        fleet.run(NEWER_SCHEMA)
        await a_stored_function(store)
        async with fleet.node("two") as two:
            assert "of a newer quiltfn (9999)" in two.condition()[1]
            await a_stored_function(two)
            assert len(await store.load()) == 3
        async with open_postgresql(fleet.url, fleet.path / "tool", alone=False) as tool:
            await tool.ping()  # a command can run beside the nodes
    facts = read_facts(fleet.url, None, FLEET, lambda: 0.0)
    assert (facts.revision, facts.oldest) == ("9999", OLDEST)
    assert [one.name for one in facts.members] == ["one", "two"]


async def test_a_server_too_old_for_the_schema_is_refused(fleet: Database, tmp_path: Path) -> None:
    fleet.run(f"{NEWER_SCHEMA}; UPDATE compatibility SET oldest_version = '{NEWEST}'")
    expected = f"works with {NEWEST} or newer, and this is {__version__}"
    with pytest.raises(StoreBroken, match=expected):
        async with fleet.node("one"):
            pass
    assert (fleet.nodes, fleet.revision) == ({}, "9999")
    fleet.run("DELETE FROM fleet")
    with pytest.raises(StoreBroken, match=expected):
        async with open_postgresql(fleet.url, tmp_path / "alone", node_id="alone"):
            pass


async def test_a_node_that_runs_and_is_too_old_keeps_a_newer_one_out(
    fleet: Database, monkeypatch: pytest.MonkeyPatch, set_back: SetBack
) -> None:
    set_back()
    async with fleet.node("old"):
        set_back()
        become(monkeypatch, NEWEST, NEWER)
        with pytest.raises(StoreUnavailable, match=f"there is node old of {__version__}"):
            async with fleet.node("new"):
                pass
        assert fleet.revision == BEFORE
        assert fleet.run("SELECT name FROM node") == [("old",)]
    fleet.run("UPDATE node SET presence = 'left'")
    async with fleet.node("new"):
        assert fleet.oldest == NEWER


async def test_nodes_go_back_one_version(fleet: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    become(monkeypatch, NEWEST, NEWER)
    async with fleet.node("newest"):
        become(monkeypatch, NEWER, OLDEST)
        async with fleet.node("newer"):
            pass
        assert fleet.nodes == {"newest": NEWEST, "newer": NEWER}
        become(monkeypatch, __version__, OLDEST)
        with pytest.raises(StoreBroken, match=f"works with {NEWER} or newer"):
            async with fleet.node("old"):
                pass
    assert fleet.oldest == NEWER


async def test_servers_go_back_one_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = postgresql.database_of(tmp_path)
    for version, oldest in ((NEWEST, NEWER), (NEWER, OLDEST)):
        become(monkeypatch, version, oldest)
        async with open_postgresql(url, tmp_path, node_id="alone") as store:
            await store.ping()
    become(monkeypatch, __version__, OLDEST)
    with pytest.raises(StoreBroken, match=f"works with {NEWER} or newer"):
        async with open_postgresql(url, tmp_path, node_id="alone"):
            pass


async def test_a_node_overtaken_at_start(fleet: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer node may exclude the version of a node that was admitted before the newer one could
    see it, so the node must check once more.
    """
    take_over = PostgresDatabase._take_over

    def overtaken(database: PostgresDatabase, connection: Connection) -> None:
        fleet.run(f"UPDATE compatibility SET oldest_version = '{NEWEST}'")
        take_over(database, connection)

    monkeypatch.setattr(PostgresDatabase, "_take_over", overtaken)
    with pytest.raises(StoreBroken, match=f"works with {NEWEST} or newer"):
        async with fleet.node("one"):
            pass
    assert fleet.nodes == {}


async def test_a_start_without_its_table_can_repeat(fleet: Database, set_back: SetBack) -> None:
    set_back()
    with psycopg.connect(fleet.url) as held:
        held.execute("SELECT pg_advisory_xact_lock(0)")
        held.execute("LOCK TABLE alembic_version IN SHARE MODE")  # readers can continue
        with pytest.raises(StoreUnavailable, match="Another session, such as a backup"):
            async with fleet.node("one"):
                pass
    assert fleet.revision == BEFORE
    async with fleet.node("one"):
        assert fleet.revision == tables.REVISION


@pytest.mark.parametrize(
    ("version", "other", "expected"),
    [
        ("0.1.0", "0.2.0", True),
        ("0.9.0", "0.10.0", True),
        ("0.2.0", "0.2.0", False),
        ("0.2.0", "0.2", False),
        ("0.2.0rc1", "0.2.0", False),
        ("1.0.0", "0.9.9", False),
        ("", "0.1.0", True),
    ],
)
def test_versions_are_compared_by_their_numbers(version: str, other: str, expected: bool) -> None:
    assert is_older(version, other) is expected


# What migrations do --------------------------------------------------------------------------


def breaks(before: Schema, after: Schema) -> list[str]:
    """The differences by which a server that expects the schema `before` fails with `after`."""
    known = {name.partition(".")[0] for name in before.columns}
    found = [
        f"{name} is {now.get(name) or 'no more'}, and was {was}"
        for old, now in ((before.columns, after.columns), (before.rules, after.rules))
        for name, was in old.items()
        if now.get(name) != was
    ]
    for name in after.columns.keys() - before.columns.keys():
        _, is_nullable, default = after.columns[name]
        if name.partition(".")[0] in known and is_nullable == "NO" and default is None:
            found.append(f"{name} must be given")
    for name in after.rules.keys() - before.rules.keys():
        if name.partition(".")[0] in known and after.rules[name].startswith(FORBIDS):
            found.append(f"{name} forbids what was allowed: {after.rules[name]}")
    return found


@pytest.fixture
def baseline(tmp_path: Path) -> Iterator[Connection]:
    with baseline_of(tmp_path) as connection:
        yield connection


@promise("N82")
def test_a_migration_only_adds_or_says_which_version_it_needs(baseline: Connection) -> None:
    scripts = ScriptDirectory.from_config(migrations.config())
    revisions = [*scripts.iterate_revisions("head", migrations.BASELINE)][::-1]
    assert revisions[-1].revision == tables.REVISION
    for revision in revisions:
        before = schema_of(baseline)
        with baseline.begin():
            command.upgrade(migrations.config(baseline), revision.revision)
        found = breaks(before, schema_of(baseline))
        needed = getattr(revision.module, "needs", None)
        if needed is None:
            assert not found, f"{revision.revision} takes away what older servers use: {found}"
        else:
            assert not is_older(OLDEST, needed), (
                f"{revision.revision} needs {needed}, OLDEST is older"
            )
    assert not is_older(__version__, OLDEST)


TAKEN_AWAY = [
    "ALTER TABLE function DROP COLUMN description",
    "ALTER TABLE function RENAME COLUMN description TO about",
    "ALTER TABLE function ALTER COLUMN min_instances TYPE text",
    "ALTER TABLE function ALTER COLUMN name DROP NOT NULL",
    "ALTER TABLE function ALTER COLUMN revision DROP DEFAULT",
    "ALTER TABLE function ADD COLUMN motto text NOT NULL",
    "ALTER TABLE function ADD UNIQUE (created_at)",
    "ALTER TABLE function ADD CHECK (min_instances < 9)",
    "ALTER TABLE function DROP CONSTRAINT function_name",
    "ALTER TABLE version DROP CONSTRAINT version_function_id_fkey",
    "CREATE UNIQUE INDEX motto ON function (created_at)",
    "DROP INDEX work_due",
    "DROP TABLE deletion",
    "ALTER TABLE deletion RENAME TO deleted",
]


def test_what_a_migration_takes_away_is_found(baseline: Connection) -> None:
    before = schema_of(baseline)
    for statement in TAKEN_AWAY:
        run_alone(baseline, f"BEGIN; {statement}")
        assert breaks(before, schema_of(baseline)), statement
        run_alone(baseline, "ROLLBACK")
    assert schema_of(baseline) == before  # control: the changes were rolled back


def test_what_a_migration_adds_is_allowed(baseline: Connection) -> None:
    before = schema_of(baseline)
    run_alone(
        baseline,
        "ALTER TABLE function ADD COLUMN motto text NOT NULL DEFAULT '', ADD COLUMN other text;"
        "CREATE INDEX mottos ON function (motto);"
        "CREATE TABLE motto (id text PRIMARY KEY REFERENCES function, more text NOT NULL)",
    )
    assert not breaks(before, schema_of(baseline))
