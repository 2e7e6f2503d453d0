"""A private PostgreSQL for tests.

It runs in a temporary directory, under an unprivileged uid, and ends by itself even if the tests
are killed. It listens on a Unix socket, where every user may log in as any role, and on a port of
127.0.0.1, which requires the password. Databases belong to an ordinary role. They sort text by a
language's rules, as in most installations, so queries that need the order of bytes must name it.
"""

import atexit
import contextlib
import functools
import hashlib
import os
import pwd
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from free_ports import free_port
from timeouts import scaled

INSTALLED = Path("/usr/lib/postgresql")
ROLE, PASSWORD = "quiltfn", "a pass/word: of@the?tests%20"
START_S, STOP_S = 30.0, 30.0  # before `scaled`
# In memory, if there is enough: on ext4, the 300 files of a new database take half a second, mostly
# to skip the inodes of recently removed files.
IN_MEMORY, ROOM_BYTES = Path("/dev/shm"), 1 << 30
# No syncs, since writes of a killed database survive while the machine stays up.
OPTIONS = (
    "fsync=off",
    "full_page_writes=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "max_wal_size=128MB",
    "shared_buffers=32MB",
    "max_connections=60",
    # In its directory, so that a killed cluster leaves nothing elsewhere.
    "dynamic_shared_memory_type=mmap",
    "listen_addresses=127.0.0.1",
    "log_line_prefix=%m [%p] %d ",
)


def programs() -> Path | None:
    """The directory with the programs of the newest installed PostgreSQL."""
    found = [one for one in INSTALLED.glob("*/bin") if (one / "initdb").exists()]
    return max(found, key=lambda each: int(each.parent.name), default=None)


def why_not() -> str | None:
    """Why PostgreSQL can't be started here, or None."""
    if programs() is None:
        return f"needs PostgreSQL in {INSTALLED}, which scripts/setup --test installs"
    return None


class Cluster:
    """A PostgreSQL with any number of databases. Start it in the main thread, since it ends with
    the thread that started it.
    """

    def __init__(self, directory: Path, programs: Path, options: Sequence[str] = OPTIONS) -> None:
        """`directory`: an empty directory that every user may enter. `options`: settings of
        PostgreSQL.
        """
        self.directory, self._programs, self._options = directory, programs, options
        self.data, self.sockets, self.log = (
            directory / name for name in ("data", "sockets", "log")
        )
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._user = _user()
        for path in (self.data, self.sockets):
            path.mkdir(mode=0o700 if path == self.data else 0o755)
            os.chown(path, self._user.pw_uid, self._user.pw_gid)
        self._initdb()

    # Process ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        settings = [*self._options, f"port={self.port}", f"unix_socket_directories={self.sockets}"]
        options = [word for one in settings for word in ("-c", one)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                # If the tests are killed, the kernel sends it a signal to stop.
                self._as_user("--pdeathsig=INT", "postgres", "-D", str(self.data), *options),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
            )
        end = time.monotonic() + scaled(START_S)
        while True:
            assert self.process.poll() is None, self.log.read_text()
            try:
                return psycopg.connect(self.admin_url()).close()
            except psycopg.OperationalError:
                assert time.monotonic() < end, self.log.read_text()
                time.sleep(0.02)

    def stop(self) -> None:
        """Stop it normally, ending every connection. May be repeated."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Kill all its processes at once, as a crash of PostgreSQL does."""
        self._end(signal.SIGKILL)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """During the block, all its processes are stopped: connections stay, but get no
        response.
        """
        processes = self.processes()
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in processes:
                os.kill(pid, signal.SIGCONT)

    def processes(self) -> list[int]:
        """The postmaster and its children."""
        assert self.process is not None
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [pid, *map(int, children.split())]

    # Databases -------------------------------------------------------------------------------

    def url(self, name: str) -> str:
        """The URL of the database by the Unix socket, without a password."""
        return f"postgresql://{ROLE}@/{name}?host={quote(str(self.sockets), '')}&port={self.port}"

    def tcp_url(self, name: str, password: str | None = PASSWORD) -> str:
        """The URL of the database by TCP."""
        secret = "" if password is None else ":" + quote(password, "")
        return f"postgresql://{ROLE}{secret}@127.0.0.1:{self.port}/{name}"

    def admin_url(self, name: str = "postgres") -> str:
        """The URL of the database as the superuser."""
        return self.url(name).replace(f"//{ROLE}@", "//postgres@")

    def run(
        self, statement: str | sql.Composed, database: str = "postgres"
    ) -> list[tuple[object, ...]]:
        """Run a statement as the superuser, outside of a transaction; return its rows."""
        with psycopg.connect(self.admin_url(database), autocommit=True) as connection:
            answer = connection.execute(statement)
            return answer.fetchall() if answer.description else []

    def create(self, name: str, template: str = "template1") -> str:
        """Create a database, empty or as a copy of another one that is not in use; return its
        URL.
        """
        words = map(sql.Identifier, (name, ROLE, template))
        # Copied as files, which without syncs takes a tenth of the time.
        made = "CREATE DATABASE {} OWNER {} TEMPLATE {} STRATEGY FILE_COPY"
        self.run(sql.SQL(made).format(*words))
        return self.url(name)

    def drop(self, name: str) -> None:
        """End every connection to a database and remove it, if it exists."""
        self.run(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    @contextlib.contextmanager
    def lent(self, test: str) -> Iterator[str]:
        """An empty database for one test; its URL by TCP, without a password."""
        name = f"db{abs(hash(test)):x}"
        self.create(name)
        try:
            yield self.tcp_url(name, None)
        finally:
            self.drop(name)

    def disconnect(self, name: str) -> int:
        """End every connection to a database; return how many there were."""
        who = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {}"
        return len(self.run(sql.SQL(who).format(sql.Literal(name))))

    # -----------------------------------------------------------------------------------------

    def _initdb(self) -> None:
        secret = self.directory / "password"
        secret.write_text(PASSWORD)
        os.chown(secret, self._user.pw_uid, self._user.pw_gid)
        options = (
            *("--username=postgres", "--auth-local=trust", "--auth-host=scram-sha-256"),
            *("--encoding=UTF8", "--locale=C.UTF-8"),
            *("--locale-provider=icu", "--icu-locale=en-US", "--no-sync", f"--pwfile={secret}"),
        )
        command = self._as_user("--", "initdb", "-D", str(self.data), *options)
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 0, done.stdout + done.stderr
        secret.unlink()

    def _as_user(self, option: str, program: str, *arguments: str) -> list[str]:
        """A command line that runs under PostgreSQL's uid: PostgreSQL refuses to run as root."""
        user = self._user
        become = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        identity = become if os.geteuid() == 0 else []
        return ["setpriv", *identity, option, str(self._programs / program), *arguments]

    def _end(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        if number == signal.SIGKILL:
            # Stopped first, so that it starts no other process.
            os.kill(self.process.pid, signal.SIGSTOP)
            for pid in reversed(self.processes()):
                _kill(pid)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, number)
        self.process.wait(scaled(STOP_S))
        self.process = None


def _kill(pid: int) -> None:
    """Kill a process, and return once it has ended. Until then, it holds the cluster's shared
    memory, and no other cluster can start with the same files.
    """
    with contextlib.suppress(ProcessLookupError):
        ended = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            assert select.select([ended], [], [], scaled(STOP_S))[0], f"{pid} does not end"
        finally:
            os.close(ended)


@contextlib.contextmanager
def started(options: Sequence[str] = OPTIONS, *, is_in_memory: bool = True) -> Iterator[Cluster]:
    """A cluster that tests may stop and kill; skips the test if there is no PostgreSQL. It is
    removed at the end. `is_in_memory`: whether its files are in memory, if there is room.
    """
    where = programs()
    if where is None:
        pytest.skip(why_not() or "")
    parent = _parent() if is_in_memory else None
    directory = Path(tempfile.mkdtemp(prefix="quiltfn-postgresql-", dir=parent))
    directory.chmod(0o755)
    try:
        cluster = Cluster(directory, where, options)
        cluster.start()
        try:
            words = sql.Identifier(ROLE), sql.Literal(PASSWORD)
            cluster.run(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(*words))
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(directory)


# The cluster that the tests of a process share -----------------------------------------------

_databases: list[str] = []


def running() -> Cluster:
    """The cluster that all tests of this process share; skips the test if there is no
    PostgreSQL.
    """
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    return _running()


@functools.cache
def _running() -> Cluster:
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(started())


def database_of(path: Path, fill: Callable[[str], None] | None = None) -> str:
    """The URL of a directory's database; created at the first call, and removed by
    `drop_databases`.

    `fill` is called once in this process, with the URL of an empty database; every database is a
    copy of the filled one.
    """
    cluster = running()
    name = "of_" + hashlib.sha256(os.fspath(path).encode()).hexdigest()[:24]
    if name not in _databases:
        template = "template1" if fill is None else _template(fill)
        cluster.create(name, template)
        _databases.append(name)
    return cluster.url(name)


@functools.cache
def _template(fill: Callable[[str], None]) -> str:
    name = f"template_{id(fill):x}"
    fill(running().create(name))
    return name


def name_of(url: str) -> str:
    """The database's name in its URL."""
    return url.rpartition("/")[2].partition("?")[0]


def drop_databases() -> None:
    """Remove the databases that `database_of` created."""
    while _databases:
        running().drop(_databases.pop())


def _parent() -> Path | None:
    """The directory for clusters, or None for the default."""
    if not os.path.ismount(IN_MEMORY):
        return None
    found = os.statvfs(IN_MEMORY)
    return IN_MEMORY if found.f_bavail * found.f_frsize >= ROOM_BYTES else None


def _user() -> pwd.struct_passwd:
    """The user that PostgreSQL runs as."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    try:
        return pwd.getpwnam("postgres")  # created by Debian's package
    except KeyError:
        return pwd.getpwnam("nobody")
