"""Connections to PostgreSQL: their settings, the encoding of text, and the meaning of errors.

Imported only if the store is in PostgreSQL, since psycopg is an optional dependency.
"""

import logging
import re
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar

import psycopg
from psycopg.adapt import Dumper, Loader
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, Engine, create_engine, event, exc, pool

from quiltfn.ports.fleet import History
from quiltfn.store.database.directory import StoreBroken
from quiltfn.store.database.postgres_timeline import OldTimeline, PostgresTimeline
from quiltfn.store.database.sql import driver

T = TypeVar("T")
Connected = TypeVar("Connected")

# quiltfn's advisory locks in a database. Each server holds the first lock, exclusively or shared.
# Each transaction that writes takes the second.
NAMESPACE, SERVERS, WRITER = 0x7175696C, 1, 2
SESSION = "pid || '.' || (extract(epoch from backend_start) * 1000000)::bigint"
OWN_SESSION, SESSION_NAME = "WHERE pid = pg_backend_pid()", re.compile(r"[0-9]+\.[0-9]+")
# The name of a session, followed by the epoch and the node of a server that has both. The epoch
# comes first: PostgreSQL truncates a name after 63 bytes.
APPLICATION, EPOCH_NAMED = "quiltfn", "^quiltfn ([0-9]{1,9}) "
CONNECT_TIMEOUT_S = 3
# Longer than any statement, or wait for a lock, in a healthy database.
ANSWER_MAX_S = 10.0
NO_ANSWER = "PostgreSQL has not answered for some seconds"
NOT_ON_STANDBY = "the wait for the standby was cancelled, so the standby may lack the stored change"
# If a server is stuck within a transaction, PostgreSQL ends the transaction after this time, before
# waiting servers give up. If the server resumes, it retries the transaction.
STUCK_S = 3
TRANSACTION_MAX_S = 300  # in versions that have this setting
LIMITS = {
    "idle_in_transaction_session_timeout": f"{STUCK_S}s",
    "statement_timeout": "60s",
}
SETTINGS = {
    "synchronous_commit": "on",
    "default_transaction_isolation": "read\\ committed",
    "client_encoding": "UTF8",
    # PostgreSQL checks the connection, too, so that it holds no lock for a machine that is down.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
# Each side detects the loss of the other within some seconds.
NETWORK = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
# For short statements that other work waits for; see `quick_connection.py`.
QUICK_ANSWER_MAX_S = 3.0
QUICK_LIMITS = {
    "idle_in_transaction_session_timeout": "2s",
    "statement_timeout": "2s",
    "lock_timeout": "1s",
    "tcp_user_timeout": "3000",
}
QUICK_NETWORK = NETWORK | {
    "connect_timeout": 2,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "tcp_user_timeout": 3_000,
}
# PostgreSQL's text cannot contain U+0000. This character escapes U+0000 and itself.
ESCAPE = "\x1a"
ESCAPED = {"\0": ESCAPE + "0", ESCAPE: ESCAPE + "1"}
UNESCAPED = {escaped: plain for plain, escaped in ESCAPED.items()}
TO_ESCAPE, TO_UNESCAPE = re.compile("[\0\x1a]"), re.compile("\x1a[01]")
# Classes of PostgreSQL's errors whose text never contains stored values: errors about connections,
# missing resources, actions of an operator, transactions, locks and the system.
TELLING = ("08", "25", "28", "3D", "40", "42501", "53", "55", "57", "58")
RETRIED = ("40001", "40P01")  # Two transactions conflicted.
READ_ONLY = "25006"  # The server is not the primary any more.
NOT_ALLOWED = "42501"
# The function of PostgreSQL that warns of a commit that didn't wait for a standby. The warning
# can't be recognised by its text, which may be translated, or by its code, which all warnings
# share.
WAITS_FOR_STANDBY = "SyncRepWaitForLSN"


def escaped(text: str) -> str:
    """Escapes text for PostgreSQL."""
    if "\0" not in text and ESCAPE not in text:
        return text
    return TO_ESCAPE.sub(lambda found: ESCAPED[found[0]], text)


def unescaped(text: str) -> str:
    """Restores escaped text."""
    return TO_UNESCAPE.sub(lambda found: UNESCAPED[found[0]], text) if ESCAPE in text else text


class _Text(Dumper):
    """Text whose type PostgreSQL infers from the statement."""

    def dump(self, obj: str) -> bytes:
        return escaped(obj).encode()


class _Number(Dumper):
    """An integer whose type PostgreSQL infers, as for text. So integers of any size use the same
    prepared statement.
    """

    def dump(self, obj: int) -> bytes:
        return b"%d" % obj


class _TextLoader(Loader):
    def load(self, data: Any) -> str:
        return unescaped(str(data, "utf-8"))


class _Connection(psycopg.Connection[Any]):
    """A connection that closes if PostgreSQL does not respond: if its disk hangs, the kernel keeps
    the connection open.
    """

    answer_max_s = ANSWER_MAX_S
    history: tuple[PostgresTimeline, History] | None = None
    is_warned = False  # since the last wait

    def warned(self, diagnostic: "psycopg.errors.Diagnostic") -> None:
        """Notes a commit that a standby may lack: if the wait for the standby is cancelled,
        PostgreSQL sends a warning instead of an error.
        """
        self.is_warned |= diagnostic.source_function == WAITS_FOR_STANDBY

    def check(self, timeline: PostgresTimeline) -> None:
        """Closes the connection if it leads to a former primary. Raises
        `psycopg.OperationalError`.
        """
        try:
            self.history = timeline, timeline.check(self)
        except BaseException:
            self.close()
            raise

    @property
    def is_old(self) -> bool:
        """Whether a newer timeline than this connection's is known."""
        return self.history is not None and self.history[1].is_before(self.history[0].newest)

    def wait(self, gen: Any, *given: Any, **named: Any) -> Any:
        self.is_warned = False
        try:
            found = super().wait(_answered_in_time(gen, self.answer_max_s), *given, **named)
        except TimeoutError:
            self.pgconn.finish()
            raise psycopg.OperationalError(NO_ANSWER) from None
        if self.is_warned:
            raise psycopg.OperationalError(NOT_ON_STANDBY)
        return found


class _QuickConnection(_Connection):
    answer_max_s = QUICK_ANSWER_MAX_S


def _answered_in_time(steps: Generator[Any, Any, T], most_s: float) -> Generator[Any, Any, T]:
    """Runs `steps` with a time limit, which is checked whenever psycopg resumes them, at least ten
    times a second. Raises `TimeoutError`.
    """
    until = time.monotonic() + most_s
    ready: Any = None
    try:
        while True:
            ready = yield steps.send(ready)
            if not ready and time.monotonic() > until:
                raise TimeoutError
    except StopIteration as end:
        found: T = end.value
        return found


def parameters(
    url: str,
    password: str | None,
    *,
    is_hurried: bool = True,
    is_quick: bool = False,
    application: str = APPLICATION,
) -> dict[str, Any]:
    """The parameters for libpq. `application`: the name of the session, unless the URL sets one.
    Raises `StoreBroken`, without the URL, which may contain a password.
    """
    try:
        given = conninfo_to_dict(url)
    except psycopg.Error:
        raise StoreBroken(
            "The store's URL is none of PostgreSQL: postgresql://USER@HOST/DATABASE is expected."
        ) from None
    settings = SETTINGS | (LIMITS if is_hurried else {}) | (QUICK_LIMITS if is_quick else {})
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    mine: Mapping[str, Any] = {
        **(QUICK_NETWORK if is_quick else NETWORK),
        **given,
        "options": f"{given.get('options', '')} {options}".strip(),
        "application_name": given.get("application_name", application),
    }
    return {**mine, **({} if password is None else {"password": password})}


def in_turn(
    parameters: Mapping[str, Any], first: tuple[str, str] | None
) -> list[Mapping[str, Any]]:
    """The parameters for libpq, for one server after the other, starting with `first`."""
    hosts, ports = (str(parameters.get(name, "")).split(",") for name in ("host", "port"))
    ports = ports if len(ports) > 1 else ports * len(hosts)
    servers = list(zip(hosts, ports, strict=False))
    if len(servers) < 2:
        return [parameters]
    servers.sort(key=lambda server: (server[0], server[1] or "5432") != first)
    return [{**parameters, "host": host, "port": port} for host, port in servers]


def connected_in_turn(
    connects: Callable[[Mapping[str, Any]], Connected],
    given: Mapping[str, Any],
    timeline: PostgresTimeline,
) -> Connected:
    """Connects to the first server that accepts and is not on an old timeline. Starts with the
    server that was used last. Raises `psycopg.Error`.
    """
    errors: list[psycopg.Error] = []
    for server in in_turn(given, timeline.host):
        try:
            return connects(server)
        except psycopg.OperationalError as error:
            errors.append(error)
    raise next((error for error in errors if isinstance(error, OldTimeline)), errors[-1])


def engine(
    url: str,
    password: str | None = None,
    *,
    is_hurried: bool = True,
    is_quick: bool = False,
    application: str = APPLICATION,
    timeline: PostgresTimeline | None = None,
) -> Engine:
    """Makes an engine whose connections begin no transaction by themselves and accept all text,
    even U+0000. `is_hurried`: PostgreSQL ends very long statements. `is_quick`: it ends statements
    after some seconds. `application`: as in `parameters`. `timeline`: refuses servers on an older
    one. Raises `StoreBroken` for an invalid URL.
    """
    given = parameters(
        url, password, is_hurried=is_hurried, is_quick=is_quick, application=application
    )
    transaction_max_s = 2 if is_quick else TRANSACTION_MAX_S

    def connect() -> "psycopg.Connection[Any]":
        if timeline is None:
            return connect_to(given)
        return connected_in_turn(connect_to, given, timeline)

    def connect_to(server: Mapping[str, Any]) -> "psycopg.Connection[Any]":
        # Statements stay prepared; there are some hundred.
        connects = psycopg.Connection
        if is_hurried:
            connects = _QuickConnection if is_quick else _Connection
        made = connects.connect(**server, autocommit=True, prepare_threshold=3)
        if isinstance(made, _Connection):
            made.add_notice_handler(made.warned)
            if timeline is not None:
                made.check(timeline)
        made.prepared_max = 300
        if is_hurried and made.info.server_version >= 17_00_00:
            made.execute(f"SET transaction_timeout = '{transaction_max_s}s'".encode())
        made.adapters.register_dumper(str, _Text)
        made.adapters.register_dumper(int, _Number)
        made.adapters.register_loader("text", _TextLoader)
        return made

    # SQLAlchemy would log failed rollbacks on lost connections as tracebacks, not in our log's
    # format. The user of the connection gets the error anyway and reports it.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    found = create_engine(
        "postgresql+psycopg://",
        creator=connect,
        poolclass=pool.NullPool,
        use_native_hstore=False,
        hide_parameters=True,  # keeps stored values out of the text of errors
    )

    @event.listens_for(found, "connect")
    def prepare(made: Any, record: Any) -> None:
        record.info["numbered_cursor"] = psycopg.RawCursor(made)

    return found


def try_servers_lock(connection: Connection, *, alone: bool) -> bool:
    """Takes the server lock for this session; returns False if another server's lock excludes it.
    `alone`: no other server may use the database at the same time.
    """
    how = "pg_try_advisory_lock" if alone else "pg_try_advisory_lock_shared"
    (found,) = run_alone(connection, f"SELECT {how}({NAMESPACE}, {SERVERS})")
    return bool(found[0])


def session_of(connection: Connection) -> str:
    """The session's name for `end_session`: its process id and start time."""
    ((found,),) = run_alone(connection, f"SELECT {SESSION} FROM pg_stat_activity {OWN_SESSION}")
    return str(found)


def end_session(connection: Connection, session: str) -> None:
    """Ends a leftover session of a server that has ended, unless it still runs a statement."""
    if SESSION_NAME.fullmatch(session):
        run_alone(
            connection,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state LIKE 'idle%'"
            f" AND {SESSION} = '{session}' AND pid <> pg_backend_pid()",
        )


def end_sessions_of_past_starts(connection: Connection) -> None:
    """Ends leftover sessions of past starts of servers, whose epochs no node has any more. Nothing
    is lost, since transactions of such an epoch can't be stored. Keeps sessions of starts that are
    newer than this statement. Ends no session if another schema of the database also has tables of
    servers, whose epochs are independent.
    """
    named = f"substring(application_name FROM '{EPOCH_NAMED}')::int"
    run_alone(
        connection,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND usename = current_user"
        f" AND {named} < (SELECT max(epoch) FROM node)"
        f" AND {named} NOT IN (SELECT epoch FROM node)"
        " AND (SELECT count(*) FROM pg_class WHERE relname = 'work_count' AND relkind = 'r') = 1",
    )


def end_stuck_writer(connection: Connection) -> None:
    """Ends the session of a server that has the writer lock and has been stuck in its transaction
    for `STUCK_S`. This is needed if its last statements came in a pipeline: PostgreSQL's own limit
    does not apply then. Spares migrations and commands, which may take longer: the names of their
    sessions have no epoch.
    """
    run_alone(
        connection,
        "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)"
        f" WHERE locktype = 'advisory' AND granted AND classid = {NAMESPACE} AND objid = {WRITER}"
        " AND objsubid = 2 AND datname = current_database() AND usename = current_user"
        f" AND pg_locks.database = pg_stat_activity.datid AND application_name ~ '{EPOCH_NAMED}'"
        " AND state LIKE 'idle in transaction%'"
        f" AND state_change < clock_timestamp() - interval '{STUCK_S} seconds'",
    )


def run_alone(connection: Connection, statements: str) -> list[Any]:
    """Runs statements in one message to PostgreSQL, without SQLAlchemy and its transactions;
    returns the rows of the last one.
    """
    cursor = driver(connection).execute(statements)
    while cursor.nextset():
        pass
    return list(cursor.fetchall()) if cursor.description else []


def original(error: BaseException) -> BaseException:
    """The error of psycopg that SQLAlchemy's error wraps."""
    return getattr(error, "orig", None) or error


def code_of(error: BaseException) -> str:
    """PostgreSQL's SQLSTATE; empty if the connection failed."""
    return getattr(original(error), "sqlstate", None) or ""


def reason_of(error: BaseException) -> str:
    """The reason of an error, without any values to be stored."""
    code, below = code_of(error), original(error)
    if not code:
        return str(below).strip().partition("\n")[0] or type(below).__name__
    message = getattr(getattr(below, "diag", None), "message_primary", None)
    if message and code.startswith(TELLING):
        return f"{message} (SQLSTATE {code})"
    return f"it refuses a statement (SQLSTATE {code})"


def is_lost(connection: Connection | None) -> bool:
    """Whether the connection is closed, leads to a former primary, or was left within a batch of
    statements. In the last case PostgreSQL has closed it, but libpq doesn't know yet, since it
    sends nothing more.
    """
    if connection is None or connection.closed or connection.invalidated:
        return True
    driver: Any = connection.connection.driver_connection
    if isinstance(driver, _Connection) and driver.is_old:
        return True
    if driver is None or driver.closed:
        return True
    return bool(driver.pgconn.pipeline_status != psycopg.pq.PipelineStatus.OFF)


def is_of_database(error: BaseException) -> bool:
    """Whether the database or its connection is the cause."""
    return isinstance(error, exc.DBAPIError | psycopg.Error)
