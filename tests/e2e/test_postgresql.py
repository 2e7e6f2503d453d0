"""A server whose state is in PostgreSQL: what it stores, which failures it survives, and who can
reach the database.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

import postgresql
from e2e.server import Function, Server, children, pages, quiltfn, until, watched
from postgresql import PASSWORD, Cluster
from promises import promise
from timeouts import scaled

pytestmark = pytest.mark.sandbox
SHARED = "shared"  # the database of the server that tests share
PACE_S = 0.01  # the pause of a client between requests, which leaves CPU time to the server
LONG_PACE_S = 0.1  # the pause of each client during waits of seconds, and after refusals
# Tries to connect to each of its arguments, and prints the outcomes.
TRY = """python3 -c '
import json, socket, sys
found = {}
for kind, *where in json.load(sys.stdin):
    family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.settimeout(2)
        try:
            one.connect(where[0] if kind == "unix" else tuple(where))
            found[kind] = "open"
        except OSError as error:
            found[kind] = type(error).__name__
print(json.dumps(found))
'"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with postgresql.started() as cluster:
        yield cluster


@pytest.fixture
def url(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty database, by TCP. Tests must request it before servers, which have to end
    before the database is removed.
    """
    with cluster.lent(request.node.nodeid) as url:
        yield url


@pytest.fixture
def password(tmp_path: Path) -> Path:
    return in_a_file(tmp_path)


def in_a_file(directory: Path) -> Path:
    """A file with the password, for the server."""
    file = directory / "password"
    file.write_text(PASSWORD + "\n")
    file.chmod(0o600)
    return file


@pytest.fixture(scope="module")
def shared(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that tests share. They must leave the server, its database and PostgreSQL as they
    found them.
    """
    cluster.create(SHARED)
    password = in_a_file(tmp_path_factory.mktemp("shared"))
    store = f"--store {cluster.tcp_url(SHARED, None)} --store-password-file {password}"
    with watched(store) as server:
        yield server.start()


def name_of(url: str) -> str:
    """The name of the database in the URL."""
    return url.rpartition("/")[2]


@pytest.fixture
def server(url: str, password: Path, another: Callable[..., Server]) -> Server:
    options = f"--store {url} --store-password-file {password}"
    return another(options=options).start()


@promise("D38")
def test_all_of_a_servers_state_is_in_postgresql(server: Server, cluster: Cluster) -> None:
    function = server.deploy("cat", name="kept", environment={"A": "b"})
    record = function.invoke("hello\0there")
    assert record["stdout"] == "hello\0there"
    path = f"{function.path}/invoke?mode=async&delay_seconds=3600"
    waiting = server.call("POST", path, {"payload": "later"})
    assert waiting.status_code == 202, waiting.text
    server.restart()
    known = server.call("GET", "/api/functions").json()["functions"]
    assert [one["name"] for one in known] == ["kept"]
    assert set(function.records()) == {
        record["invocation_id"],
        waiting.json()["invocation_id"],
    }
    kept = server.call("GET", f"{function.path}/invocations/{record['invocation_id']}").json()
    assert kept["stdout"] == "hello\0there"
    assert function.invoke("again")["stdout"] == "again"
    assert not list(server.data_dir.glob("quiltfn.db*"))
    server.until_ready()
    found = server.call("GET", "/api/system/doctor").json()["findings"]
    assert any("state is kept in postgresql://quiltfn@127.0.0.1" in f["sentence"] for f in found)
    assert cluster.run("SELECT 1 FROM pg_stat_activity WHERE usename = 'quiltfn'")


@promise("D41")
def test_the_password_is_nowhere_to_be_read(shared: Server) -> None:
    server = shared
    server.deploy("echo").invoke()
    for pid in (server.launcher, server.pid, *children(server.pid)):
        for name in ("cmdline", "environ"):
            assert PASSWORD.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
    for path in ("functions/health", "system/info", "system/doctor"):
        answer = server.call("GET", f"/api/{path}")
        assert answer.status_code == 200
        assert PASSWORD not in answer.text
    assert PASSWORD not in server.log.read_text()
    for kept in server.data_dir.rglob("*"):
        assert kept.is_dir() or PASSWORD.encode() not in kept.read_bytes()


@promise("D41")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("password", "password authentication failed"),
        ("database", 'database "not_there" does not exist'),
        ("port", "Connection refused"),
    ],
)
def test_a_database_that_cannot_be_used_is_told_without_the_password(
    url: str, password: Path, another: Callable[..., Server], change: str, message: str
) -> None:
    if change == "password":
        password.write_text("a secret of another kind")
    elif change == "database":
        url = url.rpartition("/")[0] + "/not_there"
    else:
        url = "postgresql://quiltfn@127.0.0.1:1/none"
    server = another(options=f"--store {url} --store-password-file {password}")
    server.start_without_waiting()
    assert server.wait() == 75, "with which a service is started again"
    said = server.log.read_text()
    assert message in said
    assert password.read_text().strip() not in said
    assert "Traceback" not in said


class Load:
    """Clients that invoke one function continuously, and note the acknowledged invocations."""

    def __init__(self, function: Function, callers: int = 4) -> None:
        self.function, self.url = function, function.server.url
        self.known: list[str] = []
        self.refused: list[Any] = []
        self._pace_s = PACE_S
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(callers)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=scaled(30), trust_env=False) as http:
            while not self._is_over.is_set():
                time.sleep(self._pace_s)
                try:
                    answer = http.post(f"{self.function.path}/invoke", json={})
                except httpx.TransportError as error:
                    self.refused.append(error)
                    time.sleep(0.05)
                    continue
                if answer.status_code == 200:
                    self.known.append(answer.json()["invocation_id"])
                else:
                    self.refused.append(answer.json())

    @contextlib.contextmanager
    def slowly(self) -> Iterator[None]:
        """During the block, the clients invoke less often, and leave CPU time to others."""
        self._pace_s = LONG_PACE_S
        yield
        self._pace_s = PACE_S

    def has(self, number: int) -> bool:
        """Whether more than this many invocations were acknowledged."""
        return len(self.known) > number

    def check(self) -> None:
        """Checks that every acknowledged invocation has a record with its end."""
        records = pages(self.function.server, f"{self.function.path}/invocations", "invocations")
        found = {one["invocation_id"]: one["status"] for one in records}
        assert self.known
        assert {found.get(one) for one in self.known} == {"success"}


@promise("D39")
def test_nothing_acknowledged_is_lost_when_the_server_is_killed(shared: Server) -> None:
    server = shared
    function = server.deploy("echo hello")
    for _ in range(3):
        with Load(function) as load:
            until(partial(load.has, 50))
            server.kill_server()
            assert server.wait() == 70
        server.start()
        load.check()


@promise("D39")
@pytest.mark.parametrize("how", ["stop", "kill", "frozen", "cut"])
def test_calls_go_on_without_postgresql(shared: Server, cluster: Cluster, how: str) -> None:
    """The records wait in the spool. Requests that need the database before their response are
    refused.
    """
    server = shared
    function = server.deploy("echo hello")

    with Load(function) as load:
        until(partial(load.has, 20))
        if how == "frozen":
            with cluster.frozen():
                away(server, load)
        elif how == "cut":
            assert cluster.disconnect(SHARED)
        else:
            getattr(cluster, how)()
            away(server, load)
            cluster.start()
        server.until_ready(30)
        until(partial(load.has, len(load.known) + 20))
    assert load.refused == []
    load.check()
    again = server.create("echo again")  # requests that write succeed again
    assert server.restart().call("GET", again.path).status_code == 200
    load.function.server = server
    load.check()


def away(server: Server, load: Load) -> None:
    """Checks a server whose database is unavailable for some seconds."""
    before = len(load.known)
    with load.slowly():
        answer = server.call("POST", "/api/functions", {"name": "refused", "handler": "true"})
        assert answer.status_code == 503, answer.text
        assert PASSWORD not in answer.text
        assert not server.is_ready()
        time.sleep(2)
    until(partial(load.has, before))


@promise("D39")
def test_a_stop_without_postgresql_loses_nothing(shared: Server, cluster: Cluster) -> None:
    """The spool stays on disk, and the exit code shows that not everything was stored."""
    server, said_before = shared, len(shared.log.read_text())
    function = server.deploy("echo hello")
    cluster.stop()
    try:
        known = [function.invoke()["invocation_id"] for _ in range(5)]
        server.terminate()
        assert server.wait() == 75
        assert "Traceback" not in server.log.read_text()[said_before:]
    finally:
        cluster.start()
    server.start()
    assert set(function.records()) == set(known)


@promise("D39")
@pytest.mark.parametrize("how", ["stop", "kill", "cut"])
def test_accepted_work_outlives_postgresql(shared: Server, cluster: Cluster, how: str) -> None:
    """Each request that got 202 has one invocation in the database afterwards. A request without a
    response may have been stored or not.
    """
    server = shared
    function = server.deploy("echo hello")
    path = f"{function.path}/invoke?mode=async&delay_seconds=3600"
    accepted: dict[str, str] = {}
    refused: list[httpx.Response] = []
    is_over = threading.Event()

    def give(name: str) -> None:
        number = 0
        while not is_over.is_set():
            time.sleep(PACE_S)
            key = f"{name}-{number}"
            answer = server.http.post(path, json={}, headers={"Idempotency-Key": key})
            if answer.status_code == 202:
                accepted[key] = answer.json()["invocation_id"]
                number += 1
            else:
                refused.append(answer)
                time.sleep(LONG_PACE_S)

    givers = [server.later(give, name) for name in "abcd"]
    until(lambda: len(accepted) > 20)
    for away_s in (6, 1, 1):  # the first outage is longer than a write waits for the database
        if how == "cut":
            cluster.disconnect(SHARED)
        else:
            getattr(cluster, how)()
            time.sleep(away_s)
            cluster.start()
        until(partial(lambda before: len(accepted) > before + 20, len(accepted)), 30)
    is_over.set()
    for future in givers:
        future.result(scaled(60))
    assert {one.status_code for one in refused} <= {409, 503}, [one.text for one in refused]
    found = queued(function)
    assert len(set(accepted.values())) == len(accepted)
    assert set(accepted.values()) <= found
    # Each client may have at most one stored invocation without a response.
    assert len(found) <= len(accepted) + len(givers)
    server.restart()
    assert queued(function) == found


def queued(function: Function) -> set[str]:
    """The ids of all waiting invocations of a function."""
    path = f"{function.path}/invocations"
    waiting = pages(function.server, path, "invocations", "&status=queued")
    return {one["invocation_id"] for one in waiting}


@promise("D39")
def test_under_strict_no_call_is_answered_that_postgresql_does_not_have(
    url: str, password: Path, another: Callable[..., Server], cluster: Cluster
) -> None:
    options = f"--durability strict --store {url} --store-password-file {password}"
    server = another(options=options).start()
    function = server.deploy("echo hello")
    known = function.invoke()["invocation_id"]
    cluster.stop()
    answer = function.try_invoke()
    cluster.start()
    assert answer.status_code == 503, answer.text
    until(lambda: function.try_invoke().status_code == 200, 30)
    assert known in function.records()


def test_a_server_reaches_postgresql_by_a_unix_socket(
    cluster: Cluster, url: str, another: Callable[..., Server]
) -> None:
    server = another(options=f"--store {cluster.url(url.rpartition('/')[2])}").start()
    assert server.deploy("echo hello").invoke()["stdout"] == "hello\n"
    local = "SELECT count(*) > 0 FROM pg_stat_activity WHERE usename = 'quiltfn' "
    assert cluster.run(local + "AND client_addr IS NULL") == [(True,)]


def test_a_second_server_is_refused_the_database(
    shared: Server, another: Callable[..., Server], cluster: Cluster, password: Path
) -> None:
    # After a restart of PostgreSQL, a server takes its lock again with its next write.
    shared.until_ready()
    shared.run("true")
    store = f"--store {cluster.tcp_url(SHARED, None)} --store-password-file {password}"
    second = another(options=store)
    second.start_without_waiting()
    assert second.wait() == 75
    assert "Another quiltfn is serving from this database" in second.log.read_text()
    shared.until_ready()


@promise("F38")
def test_sandboxes_reach_no_socket_and_no_port(shared: Server, cluster: Cluster) -> None:
    doors = json.dumps(
        [
            ["unix", f"{cluster.sockets}/.s.PGSQL.{cluster.port}"],
            ["tcp", "127.0.0.1", cluster.port],
        ]
    )
    # Control: an ordinary user of the host reaches both addresses.
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", TRY]
    said = subprocess.run(user, input=doors, capture_output=True, text=True, check=True)
    assert json.loads(said.stdout) == {"unix": "open", "tcp": "open"}
    record = shared.run(TRY, doors)
    assert record["status"] == "success", record
    found = json.loads(record["stdout"])
    assert found == {"unix": "FileNotFoundError", "tcp": "ConnectionRefusedError"}


def test_keys_with_and_without_a_server(server: Server, url: str, password: Path) -> None:
    where = ("--store", url, "--store-password-file", str(password))
    made = quiltfn("keys", "create", *where, cwd="/", own_process=True)
    assert made.code == 0, made.stderr
    key = made.stdout.strip()

    def status(text: str) -> int:
        headers = {"Authorization": f"Bearer {text}"}
        return server.http.get("/api/functions", headers=headers).status_code

    until(lambda: status("quilt_sk_000000000000_x") == 401)
    assert status(key) == 200
    listed = quiltfn("keys", "list", "--output", "json", *where, cwd="/")
    (known,) = json.loads(listed.stdout)["keys"]
    beside = ("--data-dir", str(server.data_dir))
    assert quiltfn("keys", "revoke", known["id"], *where, *beside).code == 0
    until(lambda: status(key) == 401)
    server.stop()
    assert quiltfn("keys", "create", *where, *beside).code == 0
    assert not Path("/data").exists()
    server.start()


def test_the_doctor_says_whether_the_database_answers(url: str, password: Path) -> None:
    def found(*arguments: str) -> dict[str, str]:
        said = quiltfn("doctor", "--output", "json", *arguments).stdout
        (finding,) = [one for one in json.loads(said)["findings"] if one["name"] == "store"]
        assert PASSWORD not in said
        return finding

    secret = ("--store-password-file", str(password))
    finding = found("--store", url, *secret)
    assert finding["level"] == "ok"
    assert "PostgreSQL 1" in finding["sentence"]
    finding = found("--store", url.replace("127.0.0.1", "db.invalid:1,127.0.0.1"), *secret)
    assert finding["level"] == "warn"
    assert "could impersonate it" in finding["sentence"]
    finding = found("--store", url)
    assert finding["level"] == "NO"
    assert "no password supplied" in finding["sentence"]


def test_a_backup_says_what_to_use_instead(tmp_path: Path, url: str) -> None:
    config = tmp_path / "quiltfn.toml"
    config.write_text(f'store = "{url}"\n')
    for verb in ("backup", "restore"):
        said = quiltfn(verb, str(tmp_path / "file"), "--config", str(config))
        assert said.code == 74
        assert "pg_dump" in said.stderr
    assert not (tmp_path / "file").exists()


@promise("D41")
def test_a_certificate_is_checked(
    cluster: Cluster, url: str, password: Path, another: Callable[..., Server], tmp_path: Path
) -> None:
    """The file with the certificate's authority must be readable by the unprivileged server."""
    certificate = cluster.directory / "authority.crt"
    openssl = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(cluster.data / "server.key"), "-out", str(certificate)]
    subprocess.run([*openssl, *names, *files], check=True, capture_output=True)
    (cluster.data / "server.crt").write_bytes(certificate.read_bytes())
    owner = cluster.data.stat()
    for name in ("server.key", "server.crt"):
        os.chown(cluster.data / name, owner.st_uid, owner.st_gid)
        os.chmod(cluster.data / name, 0o600)
    certificate.chmod(0o644)
    other = cluster.directory / "other.crt"
    files = ["-keyout", str(tmp_path / "key"), "-out", str(other)]
    subprocess.run([*openssl, *names, *files], check=True, capture_output=True)
    cluster.run("ALTER SYSTEM SET ssl = on")
    cluster.stop()
    cluster.start()
    try:
        secret = f"--store-password-file {password}"
        local = url.replace("127.0.0.1", "localhost")
        for file, code in ((other, 75), (certificate, 0)):
            options = f"sslmode=verify-full&sslrootcert={file}"
            server = another(options=f"--store {local}?{options} {secret}")
            if code:
                server.start_without_waiting()
                assert server.wait() == code
                assert "certificate verify failed" in server.log.read_text()
            else:
                server.start()
                server.deploy("echo").invoke()
                used = "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) "
                assert cluster.run(f"{used} WHERE datname = '{name_of(url)}'") == [(True,)]
    finally:
        cluster.run("ALTER SYSTEM RESET ssl")


@promise("D40")
def test_a_server_moves_to_postgresql_and_back(
    url: str, password: Path, another: Callable[..., Server], cluster: Cluster
) -> None:
    """Functions, records, waiting invocations and a key move, in one data directory."""
    first = another().start()
    function = first.deploy("echo moved", name="moved")
    record = function.invoke()
    path = f"{function.path}/invoke?mode=async&delay_seconds=3600"
    waiting = first.call("POST", path, {"payload": "later"}).json()["invocation_id"]
    first.stop()
    secret = ("--to-password-file", str(password))
    how: dict[str, Any] = {"timeout_s": 60, "own_process": True}
    done = quiltfn("store", "copy", str(first.data_dir), url, *secret, **how)
    assert done.code == 0, done.stderr
    first._command += ["--store", url, "--store-password-file", str(password)]
    first.start()
    assert "quiltfn.db is not used, since state is in PostgreSQL" in first.log.read_text()
    assert set(function.records()) == {record["invocation_id"], waiting}
    in_postgresql = function.invoke()["invocation_id"]
    first.stop()
    assert (first.data_dir / "quiltfn.db").exists(), "the source of a copy stays"
    for old in first.data_dir.glob("quiltfn.db*"):
        old.unlink()
    with_store, first._command = first._command, first._command[:-4]
    first.start_without_waiting()
    assert first.wait() == 74, "a start without the setting makes no empty store"
    assert "name the database with --store" in first.log.read_text()
    secret = ("--from-password-file", str(password))
    done = quiltfn("store", "copy", url, str(first.data_dir), *secret, **how)
    assert done.code == 0, done.stderr
    assert first._command == with_store[:-4]
    first.start()
    assert set(function.records()) == {record["invocation_id"], waiting, in_postgresql}
    assert function.invoke()["stdout"] == "moved\n"
    first.stop()
    users = "SELECT 1 FROM pg_stat_activity WHERE datname = "
    assert not cluster.run(f"{users} '{name_of(url)}'")


@promise("D38")
def test_without_the_setting_nothing_of_it_is_loaded(another: Callable[..., Server]) -> None:
    server = another().start()
    assert "psycopg" not in Path(f"/proc/{server.pid}/maps").read_text()
    # Control: if the library is loaded, the maps show it.
    loaded = subprocess.run(
        [sys.executable, "-c", "import psycopg; print(open('/proc/self/maps').read())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "psycopg" in loaded.stdout
