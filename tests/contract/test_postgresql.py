"""The PostgreSQL of tests: its roles, its databases, and that killed tests leave nothing of it."""

import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

import postgresql
from contract.stores import child_environment
from e2e.server import is_alive, short_dir, until

# The script of a process that starts its own cluster, and reports it.
STARTS_ONE = """
import time, postgresql
with postgresql.started(is_in_memory=False) as cluster:
    print(cluster.process.pid, flush=True)
    time.sleep(60)
"""


def answer(url: str, statement: str = "SELECT current_user, current_database()") -> object:
    with psycopg.connect(url, autocommit=True, connect_timeout=2) as connection:
        got = connection.execute(statement)
        return got.fetchone() if got.description else None


def test_a_database_belongs_to_an_ordinary_role_by_socket_and_by_tcp(cluster):
    url = cluster.create("a")
    assert answer(url) == (postgresql.ROLE, "a")
    assert answer(cluster.tcp_url("a")) == (postgresql.ROLE, "a")
    is_super = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
    assert answer(url, is_super) == (False,)
    answer(url, "CREATE TABLE t (n int)")  # the role may create tables
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        answer(cluster.tcp_url("a", None))
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        answer(cluster.tcp_url("a", "wrong"))


def test_all_memory_that_has_a_name_is_in_its_directory(cluster):
    """If shared memory were elsewhere, a cluster that is killed and not restarted would leave it
    behind.
    """
    maps = Path(f"/proc/{cluster.processes()[0]}/maps").read_text()
    assert f"{cluster.data}/pg_dynshmem/" in maps
    assert "/dev/shm/PostgreSQL." not in maps


def test_a_database_of_a_directory_is_made_once_out_of_a_template(tmp_path):
    filled = []

    def fill(url: str) -> None:
        filled.append(url)
        answer(url, "CREATE TABLE made (n int)")

    first, same, other = (postgresql.database_of(tmp_path / name, fill) for name in "aab")
    assert first == same != other
    assert len(filled) == 1
    answer(first, "INSERT INTO made VALUES (1)")
    assert answer(same, "SELECT count(*) FROM made") == (1,)
    assert answer(other, "SELECT count(*) FROM made") == (0,)
    with psycopg.connect(first):  # an open connection must not prevent the removal
        postgresql.drop_databases()
    assert answer(postgresql.database_of(tmp_path / "a", fill), "SELECT count(*) FROM made") == (0,)
    postgresql.drop_databases()


def test_it_ends_with_tests_that_are_killed():
    if postgresql.why_not():
        pytest.skip(str(postgresql.why_not()))
    with short_dir() as directory:  # the process has no time to remove its files
        environment = {**child_environment(), "TMPDIR": str(directory)}
        with subprocess.Popen(
            [sys.executable, "-c", STARTS_ONE], stdout=subprocess.PIPE, env=environment
        ) as tests:
            assert tests.stdout is not None
            pid = int(tests.stdout.readline())
            assert is_alive(pid)
            assert list(directory.glob("quiltfn-postgresql-*")), "its files are elsewhere"
            tests.send_signal(signal.SIGKILL)
        until(lambda: not is_alive(pid))
