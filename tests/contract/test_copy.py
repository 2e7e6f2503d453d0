"""`quiltfn store copy` brings everything from one store into another, or nothing."""

import asyncio
import contextlib
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from sqlalchemy import Table

import postgresql
from contract.stores import a_call, a_function, change, child_environment, rows
from e2e.server import until
from postgresql import Cluster
from promises import promise
from quiltfn.operator import store as command
from quiltfn.store import StoreBroken, open_sqlite
from quiltfn.store.backup import copy, copy_sqlite
from quiltfn.store.backup.copy import NOT_COPIED, Kind, Row
from quiltfn.store.backup.copy_sqlite import REMOVED, STAGING, SqliteFile
from quiltfn.store.calls.spool import to_line
from quiltfn.store.database import tables
from quiltfn.store.opening_postgresql import open_postgresql
from timeouts import scaled

pytestmark = promise("D40")

TABLES = [one for one in tables.metadata.sorted_tables if one not in NOT_COPIED]
# The values of one row each, by the kind of the column. PostgreSQL's text, or quiltfn's escape of
# it, could lose NUL and U+001A.
SAMPLES: list[dict[Kind, Any]] = [
    {
        Kind.TEXT: "\0 \x1a \x1a0 \\N \t\r\n é 🧵 \u200b",
        Kind.JSON: r'{"a":"\u0000\u001a\ud800","b":[1.0,1e300,-0.0],"z":null}',
        Kind.BYTES: bytes(range(256)) + b"\\.\n",
        Kind.WHOLE: 2**31 - 1,
        Kind.NUMBER: 0.1 + 0.2,
        Kind.TRUTH: True,
    },
    {
        Kind.TEXT: "",
        Kind.JSON: "null",
        Kind.BYTES: b"",
        Kind.WHOLE: -1,
        Kind.NUMBER: 5e-324,
        Kind.TRUTH: False,
    },
    dict.fromkeys(Kind),
]
LEAST = {
    Kind.TEXT: "x",
    Kind.JSON: "[]",
    Kind.BYTES: b"x",
    Kind.WHOLE: 0,
    Kind.NUMBER: 0.0,
    Kind.TRUTH: False,
}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return postgresql.database_of(tmp_path)


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A data directory with rows in every table, and with every kind of value."""
    return made(tmp_path / "filled", [rows_of(table) for table in TABLES])


def rows_of(table: Table) -> list[Row]:
    return [row_of(table, number, sample) for number, sample in enumerate(SAMPLES)]


def row_of(table: Table, number: int, sample: dict[Kind, Any]) -> Row:
    row = []
    for column, kind in zip(table.columns, copy.kinds_of(table), strict=True):
        value = sample[kind]
        if column.primary_key or column.foreign_keys or column.name in ("id", "status"):
            of_kind = {Kind.WHOLE: number, Kind.TRUTH: bool(number)}
            value = of_kind.get(kind, f"id-{number}")
        if value is None and not column.nullable:
            value = LEAST[kind]
        row.append(value)
    return tuple(row)


def made(data_dir: Path, contents: Iterable[list[Row]]) -> Path:
    """A data directory that no server uses, with these rows of `TABLES`."""

    async def make() -> None:
        async with open_sqlite(data_dir):
            pass

    asyncio.run(make())
    with closing(sqlite3.connect(data_dir / "quiltfn.db", isolation_level=None)) as connection:
        file = SqliteFile(connection)
        for table, its_rows in zip(TABLES, contents, strict=True):
            file.fill(table, its_rows)
        for table, its_rows in zip(TABLES, contents, strict=True):
            if table in copy.COUNTED_BY_TRIGGERS:
                file.fill(table, its_rows)
    return data_dir


def dump(data_dir: Path) -> dict[str, list[Row]]:
    """Every row of a data directory's database, as SQLite returns it."""
    names = {table.name: copy_sqlite.names_of(table) for table in TABLES}
    return {
        name: sorted(rows(data_dir, f'SELECT {columns} FROM "{name}"'), key=repr)
        for name, columns in names.items()
    }


def perform(source: object, target: object, *more: str) -> int:
    return command.main(["copy", str(source), str(target), *more])


def is_empty(url: str) -> bool:
    query = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    return postgresql.running().run(query, postgresql.name_of(url)) == [(0,)]


def test_all_that_there_is_comes_back_as_it_was(filled, url, tmp_path, capsys):
    before = dump(filled)
    assert all(before.values()), "a table without rows would show nothing"
    assert perform(filled, url) == 0
    assert f"copied and verified: {3 * len(TABLES)} rows of {len(TABLES)} tables" in (
        capsys.readouterr().out
    )
    image = tmp_path / "back" / "images" / "abc" / "file"  # a file that the copy must not touch
    image.parent.mkdir(parents=True)
    image.write_text("kept")
    assert perform(url, tmp_path / "back") == 0
    assert dump(tmp_path / "back") == before
    assert dump(filled) == before
    left = {one.name for one in (tmp_path / "back").iterdir()}
    assert left == {"images", "quiltfn.db", "quiltfn.lock"}
    assert image.read_text() == "kept"


def test_what_was_copied_is_served_from(url, tmp_path):
    """Both copies open like any store: their schema is complete, and epochs continue."""

    async def epoch_of(opened: Any) -> int:
        async with opened as store:
            await store.ping()
            return store.database.boot.epoch

    plain = made(tmp_path / "plain", [[] for _ in TABLES])
    change(
        plain,
        "INSERT INTO node (name, epoch) VALUES ('x', 7)",
        "INSERT INTO probe VALUES (1, 0)",
        "INSERT INTO key_revision VALUES (1, 0)",
    )
    assert perform(plain, url) == 0
    assert asyncio.run(epoch_of(open_postgresql(url, tmp_path / "spool", node_id="one"))) == 8
    assert perform(url, tmp_path / "back") == 0
    assert asyncio.run(epoch_of(open_sqlite(tmp_path / "back", node_id="one"))) == 9


class Altered(SqliteFile):
    """A target of a copy that alters the rows of the table `audit` that it gets."""

    def __init__(self, connection: sqlite3.Connection, how: str) -> None:
        super().__init__(connection)
        self._how = how

    def fill(self, table: Table, rows: Iterable[Row]) -> None:
        kept = list(rows)
        if table is tables.audit:
            if self._how == "lost":
                kept = kept[1:]
            elif self._how == "twice":
                kept[0] = (kept[0][0], *kept[1][1:])
            else:
                kept[0] = tuple(
                    value + "." if isinstance(value, str) and at == 4 else value
                    for at, value in enumerate(kept[0])
                )
        super().fill(table, kept)


@pytest.mark.parametrize("how", ["lost", "twice", "changed"])
def test_a_difference_is_noticed(filled, tmp_path, how):
    with copy_sqlite.source(filled) as origin, pytest.raises(StoreBroken, match="audit"):
        with copy_sqlite.target(tmp_path / "to") as goal:
            copy.copy(origin, Altered(goal._connection, how), lambda *_: None)
    assert [one.name for one in (tmp_path / "to").iterdir()] == ["quiltfn.lock"]
    with copy_sqlite.source(filled) as origin, copy_sqlite.target(tmp_path / "to") as goal:
        copy.copy(origin, goal, lambda *_: None)  # control: without a change, the copy succeeds


def test_a_source_that_is_in_use_or_not_stopped_in_order_is_refused(filled, url, tmp_path, capsys):
    async def beside() -> None:
        async with open_sqlite(filled, node_id="one"):
            assert perform(filled, url) == 74

    asyncio.run(beside())
    assert "Another quiltfn is serving from" in capsys.readouterr().err
    spool = filled / "journal-a.spool"
    spool.write_bytes(a_line())
    assert perform(filled, url) == 74
    assert "start and stop the server once" in capsys.readouterr().err
    spool.write_bytes(a_line()[:-9])  # a write that was cut off, and so never acknowledged
    assert perform(filled, url) == 0
    assert perform(url, tmp_path / "two", "--data-dir", str(filled)) == 0
    spool.write_bytes(a_line())
    assert perform(url, tmp_path / "three", "--data-dir", str(filled)) == 74
    spool.unlink()
    change(filled, "UPDATE invocation SET status = 'running'")
    cluster, name = postgresql.running(), postgresql.name_of(url)
    cluster.run("UPDATE invocation SET status = 'running'", name)
    other = cluster.create("other")
    try:
        for source, target in ((filled, other), (url, tmp_path / "four")):
            assert perform(source, target) == 74
            assert "3 call(s) that are not over" in capsys.readouterr().err
        assert is_empty(other)
    finally:
        cluster.drop("other")
    assert not (tmp_path / "four" / "quiltfn.db").exists()


def a_line() -> bytes:
    """A spool's line with one record."""
    return to_line(a_call(a_function()))


def test_a_database_in_use_is_refused_as_source_and_as_target(filled, url, tmp_path, capsys):
    async def beside(place: Any) -> None:
        async with open_postgresql(url, tmp_path / "spool", node_id="one"):
            source, target = (url, place) if place != filled else (filled, url)
            assert perform(source, target) == 74

    for place in (tmp_path / "to", filled):
        asyncio.run(beside(place))
        assert "A server uses" in capsys.readouterr().err


def test_a_target_that_is_not_empty_is_refused_and_stays(filled, url, tmp_path, capsys):
    other = made(tmp_path / "other", [[] for _ in TABLES])
    held = dump(other)
    cluster, name = postgresql.running(), postgresql.name_of(url)
    cluster.run("CREATE TABLE mine AS SELECT 1 AS n", name)
    assert perform(filled, url) == 74
    assert "(mine is there)" in capsys.readouterr().err
    assert cluster.run("SELECT n FROM mine", name) == [(1,)]
    cluster.run("DROP TABLE mine", name)
    assert perform(filled, url) == 0
    assert perform(url, other) == 74
    assert "quiltfn.db is there" in capsys.readouterr().err
    assert dump(other) == held


def test_a_database_that_no_server_could_use_is_refused(filled, capsys):
    cluster = postgresql.running()
    how = "ENCODING 'SQL_ASCII' LOCALE 'C' LOCALE_PROVIDER libc TEMPLATE template0"
    cluster.run(f"CREATE DATABASE ascii OWNER {postgresql.ROLE} {how}")
    try:
        assert perform(filled, cluster.url("ascii")) == 74
        assert "must have the encoding UTF8" in capsys.readouterr().err
        assert cluster.run(
            "SELECT count(*) FROM pg_tables WHERE tableowner = 'quiltfn'", "ascii"
        ) == [(0,)]
    finally:
        cluster.drop("ascii")


def test_arguments_that_make_no_sense_are_refused(filled, tmp_path, capsys):
    password = tmp_path / "password"
    password.write_text("secret word\n")
    for arguments, expected in (
        ((filled, tmp_path / "to"), "use quiltfn backup and quiltfn restore"),
        ((filled, "postgresql://me:secret@host/base"), "must not contain a password"),
        ((filled, "mysql://me@host/base"), "postgresql://USER@HOST/DATABASE"),
        ((filled, "postgresql://me@host/a", "--from-password-file", password), "no password"),
        (
            (filled, "postgresql://me@host/a", "--to-password-file", tmp_path / "no"),
            "cannot be read",
        ),
    ):
        assert perform(*map(str, arguments)) == 78
        said = capsys.readouterr().err
        assert expected in said
        assert "secret" not in said
    assert (
        perform(filled, "postgresql://me@127.0.0.1:1/a", "--to-password-file", str(password)) == 74
    )
    said = capsys.readouterr().err
    assert "refused" in said
    assert "secret" not in said


# Interrupted copies ------------------------------------------------------------------------------

MIB, ROWS = 1024 * 1024, 96


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with 96 MiB of output."""
    data_dir = made(tmp_path_factory.mktemp("large"), [[] for _ in TABLES])
    sample = row_of(tables.invocation, 0, SAMPLES[1])
    at = [column.name for column in tables.invocation.columns].index("stdout")
    with closing(sqlite3.connect(data_dir / "quiltfn.db")) as connection, connection:
        records = (
            (f"id-{n:03}", *sample[1:at], bytes([n]) * MIB, *sample[at + 1 :]) for n in range(ROWS)
        )
        SqliteFile(connection).fill(tables.invocation, records)
    return data_dir


@pytest.fixture(scope="module")
def fill(large: Path) -> Callable[[str], None]:
    def copied(url: str) -> None:
        assert perform(large, url) == 0

    return copied


@pytest.fixture
def large_url(fill: Callable[[str], None], tmp_path: Path) -> str:
    """A database with the data of `large`. After the first time, PostgreSQL itself copies it."""
    return postgresql.database_of(tmp_path / "large", fill)


@contextlib.contextmanager
def copying(source: object, target: object) -> Iterator[subprocess.Popen[str]]:
    """The copy command in its own process, which does not ignore Ctrl-C even if this one does."""
    arguments = ["env", "--default-signal=INT", sys.executable, "-m", "quiltfn", "store", "copy"]
    with subprocess.Popen(
        [*arguments, str(source), str(target)],
        env=child_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def is_copying(cluster: Cluster) -> bool:
    """Whether a COPY of the table with the large rows is in progress."""
    query = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE query LIKE 'COPY \"invocation\"%' AND state = 'active'"
    )
    return cluster.run(query) != [(0,)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_copy_that_is_ended_leaves_the_database_empty(large, url, number):
    cluster = postgresql.running()
    with copying(large, url) as process:
        until(lambda: is_copying(cluster), 30)
        process.send_signal(number)
        _, said = process.communicate(timeout=scaled(30))
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:
        assert said == f"quiltfn: stopped; {url} is unchanged\n"
    until(lambda: is_empty(url), 30)


@pytest.mark.parametrize(
    ("number", "after_s"),
    [(signal.SIGKILL, 0), (signal.SIGINT, 0), (signal.SIGINT, 0.1)],
)
def test_a_copy_that_is_ended_leaves_the_directory_empty(large_url, tmp_path, number, after_s):
    to = tmp_path / "to"
    with copying(large_url, to) as process:
        until(lambda: any(to.glob(f"{STAGING}/quiltfn.db")), 30)
        sleep(after_s)
        process.send_signal(number)
        _, said = process.communicate(timeout=scaled(30))
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    if number == signal.SIGINT:
        assert said.endswith(f"quiltfn: stopped; {to} is unchanged\n")
        assert not any((to / name).exists() for name in (STAGING, REMOVED))
    assert not (to / "quiltfn.db").exists()
    assert perform(large_url, to) == 0  # the copy starts again, whatever was left behind
    assert rows(to, "SELECT count(*), sum(length(stdout)) FROM invocation") == [(ROWS, ROWS * MIB)]
    assert not (to / STAGING).exists()


def test_a_database_that_goes_in_the_middle_of_a_copy_is_told_of(large, url):
    cluster, name = postgresql.running(), postgresql.name_of(url)
    with copying(large, url) as process:
        until(lambda: is_copying(cluster), 30)
        cluster.disconnect(name)
        _, said = process.communicate(timeout=scaled(30))
    assert process.returncode == 74
    assert "cannot be used" in said
    assert is_empty(url)


class Full(SqliteFile):
    """A target whose disk is full at the first row."""

    def fill(self, _table: Table, rows: Iterable[Row]) -> None:
        for _ in rows:
            raise sqlite3.OperationalError("database or disk is full")


def test_a_target_failing_during_a_read_is_named(large_url, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(copy_sqlite, "SqliteFile", Full)
    assert perform(large_url, tmp_path / "to") == 74
    assert "disk is full" in capsys.readouterr().err


def test_memory_does_not_grow_with_what_is_copied(large, url, tmp_path):
    """Some 95 MiB are used by Python and the libraries, and a row of 1 MiB exists in several forms.
    All rows together would add 96 MiB.
    """
    for source, target in ((large, url), (url, tmp_path / "to")):
        assert peak_kib(source, target) < 184 * 1024


def peak_kib(source: object, target: object) -> int:
    """The peak memory of a copy. A small process starts the copy, since the peak of a child
    includes the size of the process that starts it.
    """
    command = [sys.executable, "-m", "quiltfn", "store", "copy", str(source), str(target)]
    report = "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    starts = f"import resource, subprocess\nsubprocess.run({command!r}, check=True)\n{report}"
    done = subprocess.run(
        [sys.executable, "-I", "-c", starts],
        env=child_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1])
