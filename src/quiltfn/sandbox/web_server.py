"""The HTTP server in a sandbox: its start, its requests and its log.

The guest creates sockets inside the sandbox and passes them out as descriptors. So requests go
straight to the server, over the loopback interface of the sandbox and past the guest.

Rule 1: an ended invocation has no connection: either its response was complete, or its end closed
the connection.
Rule 2: output of the server goes to exactly one record: that of the oldest running invocation or,
if none runs, of the next one. Above `LOG_BYTES_PER_S` the server has to wait.
Rule 3: a streamed body is sent only once, on a new connection.
"""

import asyncio
import contextlib
import fcntl
import os
import socket
import stat
import termios
from collections import deque
from collections.abc import Callable

from quiltfn.base.task_group import TaskGroup
from quiltfn.http_trigger.server import (
    BadRequestEvent,
    BadServerAnswer,
    ServerRequest,
    answer_head,
    framing_of,
    request_of,
)
from quiltfn.model import output
from quiltfn.model.end_cause import EndCause, HttpFailed, NoNetwork
from quiltfn.model.invocation import CallResult, ExitKind
from quiltfn.model.server import ServerSettings
from quiltfn.ports import Call, SandboxRefused
from quiltfn.ports.streamed_body import BodyCut, StreamedBody
from quiltfn.sandbox.http_connection import ChunkRoom, HttpConnection, Wait
from quiltfn.sandbox.last_words import LAST_WORDS_BYTES, refused, with_last_line
from quiltfn.sandbox.output_limits import MIB, SHORT_OUTPUT_BYTES, OutputLimits

LOOPBACK = "127.0.0.1"
# Maximum bytes of output between two invocations that are kept for the second.
LOG_BETWEEN_BYTES = 16 * 1024
LOG_BYTES_PER_S = 1024 * 1024
# Each read of the log counts as at least this many bytes, since waking up has a cost.
LOG_READ_BYTES = 256
PIECE = 64 * 1024
NO_BYTES = bytes(4)  # the kernel's byte count of an empty pipe
# A connection that was idle for longer is not reused: servers close idle connections after some
# seconds, and a request sent at that moment would be lost.
IDLE_S = 1.0
READY_WITHIN_S = 120.0
IN_FRONT = " (it has to stay in the foreground)"
NO_SUCH_PATH = (
    " (AWS_LWA_PASS_THROUGH_PATH sets the path for invocations that are not HTTP requests)"
)
# The first and the longest interval between readiness checks. Each interval is a twentieth of the
# time since the start.
LOOK_EVERY_S, LOOK_AT_LEAST_EVERY_S, LATER_BY = 0.01, 0.5, 0.05
UNHEALTHY_FROM = 500
# Seconds to wait, after a lost connection, for a report that the server has ended.
END_HEARD_WITHIN_S = 0.25
NO_DESCRIPTORS = "the platform has no file descriptors left"
# Headers that describe the invocation, and the variables that other handlers get instead.
ABOUT = (
    ("x-invocation-id", "QUILT_INVOCATION_ID"),
    ("x-invocation-deadline-ms", "QUILT_DEADLINE_MS"),
    ("traceparent", "TRACEPARENT"),
)


class Exchange:
    """One invocation of the server and its results so far. Implements `http_connection.Answered`.
    `deadline`: in loop time. `on_error`: called with the reason for an incomplete response.
    `before_end`: called before the output is taken.
    """

    connection: HttpConnection | None = None
    sending: asyncio.Task[None] | None = None  # sends the body of the request
    # `is_reused`: the connection has served an earlier request; `is_again`: this is a resend.
    is_reused = is_again = False
    _status, _prelude = 0, b""
    _room_bytes = SHORT_OUTPUT_BYTES
    _stdout = _stderr = _stdout_dropped = _stderr_dropped = 0

    def __init__(
        self,
        call: Call,
        request: ServerRequest,
        limits: OutputLimits,
        on_error: "Callable[[Exchange, str], None]",
        before_end: Callable[[], None],
    ) -> None:
        self.call, self.request, self._limits = call, request, limits
        self.on_error, self.before_end = on_error, before_end
        loop = asyncio.get_running_loop()
        self.deadline = loop.time() + call.timeout_s
        self.ended: asyncio.Future[CallResult] = loop.create_future()

    def log(self, data: bytes) -> None:
        """Adds output of the server."""
        keep = data[: max(0, self._limits.stderr - self._stderr)]
        if keep:
            self._stderr += len(keep)
            self.call.output.append("stderr", keep)
        self._stderr_dropped += len(data) - len(keep)

    def drop(self, size: int) -> None:
        """Counts `size` bytes of dropped output."""
        self._stderr_dropped += size

    def head(self, status: int, fields: list[tuple[bytes, bytes]]) -> None:
        self._status = status
        if self.request.is_event or self.ended.done():
            return
        try:
            request = self.request
            head, prelude = answer_head(status, fields, request.method, request.path)
            self.call.output.begin_answer(head)
        except BadServerAnswer as error:
            why = f"the server's response cannot be sent: {error}"
            self.fail(HttpFailed(None, why))
            return
        self._prelude = prelude  # passed on with the first piece of the body

    def body(self, data: bytes) -> None:
        if self.ended.done():
            return
        prelude, self._prelude = self._prelude, b""
        keep = data[: max(0, self._limits.answer - self._stdout - len(prelude))]
        if keep or prelude:
            self._append(prelude + keep)
        if len(keep) < len(data):
            self._stdout_dropped += len(data) - len(keep)
            self.finish(ExitKind.EXITED)  # the rest would be dropped, too

    def _append(self, data: bytes) -> None:
        self._stdout += len(data)
        self.call.output.append("stdout", data)
        room = self.call.long_output
        if self._stdout > self._room_bytes and room is not None and not self.ended.done():
            if room.take(self._stdout, self._read_on):
                self._room_bytes = -(-self._stdout // MIB) * MIB
            elif self.connection is not None:
                self.connection.pause(Wait.FOR_ROOM)

    def _read_on(self) -> None:
        if self.connection is not None:
            self.connection.resume(Wait.FOR_ROOM)

    def end(self, error: str | None) -> None:
        if error is not None:
            self.on_error(self, error)
        elif self.request.is_event and not 200 <= self._status < 300:
            advice = NO_SUCH_PATH if self._status in (404, 405) else ""
            why = f"the server answered {self._status} to POST {self.request.path}{advice}"
            self.fail(HttpFailed(self._status, why))
        else:
            self.finish(ExitKind.EXITED)

    def fail(self, why: EndCause, *, out_of_memory: bool = False) -> None:
        """Ends the invocation without a result because of the server."""
        code = int(out_of_memory)
        self.finish(ExitKind.EXITED, code, refusal=why, out_of_memory=out_of_memory)

    def finish(
        self,
        kind: ExitKind,
        code: int = 0,
        *,
        reason: str | None = None,
        by: str | None = None,
        refusal: EndCause | None = None,
        out_of_memory: bool = False,
    ) -> bool:
        """Sets the result, with the output so far, unless there is one."""
        if self.ended.done():
            return False
        self.before_end()
        log = self.call.output
        stdout, stderr = log.take()
        self.ended.set_result(
            CallResult(
                kind=kind,
                code=code,
                reason=reason,
                by=by,
                refusal=refusal,
                out_of_memory=out_of_memory,
                stdout=stdout,
                stderr=stderr,
                stdout_dropped=self._stdout_dropped,
                stderr_dropped=self._stderr_dropped,
                output_order=output.to_text(log.order),
                answer_head=log.answer_head,
            )
        )
        return True


class _Probe:
    """Receives the response to a readiness check. Implements `http_connection.Answered`."""

    def __init__(self) -> None:
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def head(self, status: int, _fields: list[tuple[bytes, bytes]]) -> None:
        self._set(status)

    def body(self, data: bytes) -> None:
        pass

    def end(self, _error: str | None) -> None:
        self._set(0)

    def _set(self, status: int) -> None:
        if not self.status.done():
            self.status.set_result(status)


class WebServer:
    """The server of one sandbox. `log`: the read end of its output pipe, owned by this object from
    now on. `ask_socket`: requests a socket from the guest; `socket_came` receives it.
    `was_killed_for_memory`: returns whether the kernel has killed a process for memory since the
    last query. The constructor raises `SandboxRefused` if the log isn't a pipe.
    """

    def __init__(
        self,
        settings: ServerSettings,
        log: int,
        limits: OutputLimits,
        ask_socket: Callable[[], None],
        was_killed_for_memory: Callable[[], bool],
    ) -> None:
        if not stat.S_ISFIFO(os.fstat(log).st_mode):  # writes into another kind of file might block
            os.close(log)
            raise SandboxRefused("the guest did not send a pipe")
        self._settings, self._log, self._limits = settings, log, limits
        self._ask_socket, self._was_killed_for_memory = ask_socket, was_killed_for_memory
        self._loop = asyncio.get_running_loop()
        self._running: dict[Exchange, None] = {}
        self._idle: deque[HttpConnection] = deque()
        self._is_looking = False  # whether a timer will close idle connections
        self._wanted: deque[asyncio.Future[socket.socket]] = deque()
        self._tasks = TaskGroup()
        self._over = asyncio.Event()
        self._how_ended, self._has_exited_well = "", False
        self._between, self._between_dropped, self._last_words = b"", 0, b""
        self._log_room = LOG_BYTES_PER_S
        self._refill: asyncio.TimerHandle | None = None
        self._overdue: asyncio.TimerHandle | None = None
        # When `_overdue` is due; uvloop's timers do not always provide it.
        self._overdue_at = 0.0
        self._chunk_room = ChunkRoom()
        os.set_blocking(log, False)
        self._loop.add_reader(log, self._read_log)

    # Its start ---------------------------------------------------------------------------------

    async def wait_until_ready(self) -> None:
        """Waits until the server accepts connections or passes its readiness check. Raises
        `SandboxRefused`.
        """
        port, path = self._settings.port, self._settings.readiness_path
        why = f"the server did not accept connections on port {port} in time"
        began = self._loop.time()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_WITHIN_S):
                while not self._over.is_set():
                    with contextlib.suppress(OSError):
                        if path is None:
                            (await self._connect()).close()
                            return
                        status = await self._status_of(path)
                        if 0 < status < UNHEALTHY_FROM:
                            return
                        why = f"the server's readiness check GET {path} did not succeed in time"
                    taken_s = self._loop.time() - began
                    await asyncio.sleep(
                        min(max(LOOK_EVERY_S, taken_s * LATER_BY), LOOK_AT_LEAST_EVERY_S)
                    )
        if self._over.is_set():
            why = f"the server {self._how_ended} before it accepted connections on port {port}"
            why += IN_FRONT if self._has_exited_well else ""
        self._read_log()
        words = self._last_words
        raise refused(with_last_line(why, words), words)

    async def _status_of(self, path: str) -> int:
        """The status of the response to a GET; 0: there was none."""
        connection, probe = await self._connect(), _Probe()
        head = f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        try:
            connection.send(head.encode(), b"", probe, is_head_request=False)
            return await probe.status
        finally:
            connection.close()

    # Invocations -------------------------------------------------------------------------------

    async def call(self, call: Call) -> CallResult:
        """Like `ports.Sandbox.call`, but several may run at once."""
        try:
            framing = None if call.body is None else framing_of(call.body.length)
            request = request_of(call.payload, self._settings.event_path, _about(call), framing)
        except BadRequestEvent as error:
            why = f"the event is not a valid HTTP request: {error}"
            return CallResult(kind=ExitKind.EXITED, refusal=HttpFailed(None, why))
        exchange = Exchange(call, request, self._limits, self._connection_failed, self._look_at_log)
        if self._between or self._between_dropped:
            exchange.log(self._between)
            exchange.drop(self._between_dropped)
            self._between, self._between_dropped = b"", 0
        self._running[exchange] = None
        if self._overdue is None or self._overdue_at > exchange.deadline:
            self._look_for_overdue_at(exchange.deadline)
        try:
            connection = self._take_idle() if call.body is None else None
            if connection is None:
                self._tasks.spawn(self._send_on_new(exchange))
            else:
                exchange.is_reused = True
                self._send(exchange, connection)
            return await exchange.ended
        finally:
            del self._running[exchange]
            if exchange.sending is not None:
                exchange.sending.cancel()
            connection, exchange.connection = exchange.connection, None
            if connection is not None:
                self._give_back(connection)

    def end_call(self, kind: ExitKind, by: str, call: Call | None) -> bool:
        ended = [
            exchange.finish(kind, by=by)
            for exchange in list(self._running)
            if call is None or exchange.call is call
        ]
        return any(ended)

    def _look_for_overdue_at(self, at: float) -> None:
        """Sets the one timer for all deadlines; a timer for each would slow every invocation."""
        if self._overdue is not None:
            self._overdue.cancel()
        self._overdue_at = at
        self._overdue = self._loop.call_at(at, self._end_overdue)

    def _end_overdue(self) -> None:
        self._overdue, now = None, self._loop.time()
        for exchange in list(self._running):
            if exchange.deadline <= now:
                exchange.finish(ExitKind.DEADLINE)
        left = [one.deadline for one in self._running if one.deadline > now]
        if left:
            self._look_for_overdue_at(min(left))

    def _send(self, exchange: Exchange, connection: HttpConnection) -> None:
        request, exchange.connection = exchange.request, connection
        is_head = request.method == "HEAD"
        connection.send(request.head, request.body, exchange, is_head_request=is_head)
        if exchange.call.body is not None:
            passing = self._pass_on(exchange, connection, exchange.call.body)
            exchange.sending = self._tasks.spawn(passing)

    async def _pass_on(
        self, exchange: Exchange, connection: HttpConnection, body: StreamedBody
    ) -> None:
        """Sends a body while it arrives. If the body remains incomplete, the invocation ends."""
        try:
            await connection.send_body(body)
        except BodyCut as error:
            exchange.finish(ExitKind.BODY_CUT, reason=str(error))
        except OSError as error:
            exchange.fail(self._unreached("the body could not be sent to the server", error))

    async def _send_on_new(self, exchange: Exchange) -> None:
        try:
            connection = await self._connect()
        except OSError as error:
            why = self._unreached("the server accepts no connection", error)
            await self._explain(exchange, why)
            return
        if exchange.ended.done():
            self._give_back(connection)
        else:
            self._send(exchange, connection)

    def _connection_failed(self, exchange: Exchange, why: str) -> None:
        connection, exchange.connection = exchange.connection, None
        assert connection is not None
        unanswered = exchange.is_reused and not exchange.is_again and not connection.has_begun
        if unanswered and exchange.request.may_be_repeated and not self._over.is_set():
            exchange.is_again = True
            self._tasks.spawn(self._send_on_new(exchange))
        else:
            self._tasks.spawn(self._explain(exchange, HttpFailed(None, why)))

    def _unreached(self, failure: str, error: OSError) -> NoNetwork:
        return NoNetwork(f"{failure}: {error.strerror}", LOOPBACK, self._settings.port)

    async def _explain(self, exchange: Exchange, why: EndCause) -> None:
        """Fails an invocation whose connection failed, unless the server has ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_HEARD_WITHIN_S):
                await self._over.wait()
        if not exchange.ended.done():
            exchange.fail(why, out_of_memory=self._was_killed_for_memory())

    # Connections -------------------------------------------------------------------------------

    def _take_idle(self) -> HttpConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and self._loop.time() - connection.idle_since < IDLE_S:
                return connection
            connection.close()
        return None

    def _give_back(self, connection: HttpConnection) -> None:
        if connection.is_busy or not connection.is_open or self._over.is_set():
            connection.close()
            return
        connection.resume(Wait.FOR_ROOM)
        connection.rest(self._loop.time())
        self._idle.append(connection)
        if not self._is_looking:
            self._is_looking = True
            self._loop.call_later(IDLE_S, self._close_idle)

    def _close_idle(self) -> None:
        now = self._loop.time()
        while self._idle and now - self._idle[0].idle_since >= IDLE_S:
            self._idle.popleft().close()
        self._is_looking = bool(self._idle)
        if self._is_looking:
            self._loop.call_later(IDLE_S, self._close_idle)

    async def _connect(self) -> HttpConnection:
        """Opens a new connection to the server. Raises `OSError`."""
        if self._over.is_set():
            raise OSError(0, "it has ended")
        asked: asyncio.Future[socket.socket] = self._loop.create_future()
        self._wanted.append(asked)
        self._ask_socket()
        opened = await asked
        try:
            await self._loop.sock_connect(opened, (LOOPBACK, self._settings.port))
            _, connection = await self._loop.create_connection(
                lambda: HttpConnection(self._chunk_room), sock=opened
            )
        except BaseException:
            opened.close()
            raise
        return connection

    def socket_came(self, errno: int, descriptor: int | None) -> bool:
        """Receives a requested socket, or the error. Returns False if none was requested."""
        asked = self._wanted.popleft() if self._wanted else None
        opened = None if descriptor is None else socket.socket(fileno=descriptor)
        if asked is None or asked.done():
            if opened is not None:
                opened.close()
            return asked is not None
        if opened is None:
            asked.set_exception(OSError(errno, os.strerror(errno) if errno else NO_DESCRIPTORS))
        elif (opened.family, opened.type) != (socket.AF_INET, socket.SOCK_STREAM):
            opened.close()
            asked.set_exception(OSError(0, "the guest did not send a socket"))
        else:
            opened.setblocking(False)
            asked.set_result(opened)
        return True

    # Its log -----------------------------------------------------------------------------------

    def _look_at_log(self) -> None:
        """Like `_read_log`, but checks first whether the pipe is empty, as it mostly is: the check
        is cheaper than a read.
        """
        if self._log >= 0 and fcntl.ioctl(self._log, termios.FIONREAD, NO_BYTES) != NO_BYTES:
            self._read_log()

    def _read_log(self) -> None:
        """Reads at most one piece of the server's output."""
        if self._log < 0 or self._log_room <= 0:
            return
        try:
            data = os.read(self._log, PIECE)
        except OSError:  # the pipe is empty
            return
        if not data:  # the other end is closed
            self._close_log()
            return
        self._log_room -= max(len(data), LOG_READ_BYTES)
        if self._refill is None:
            self._refill = self._loop.call_later(1.0, self._refilled)
        if self._log_room <= 0:
            self._loop.remove_reader(self._log)
        # Added to earlier output: some shells write a message in pieces, its newline separately.
        self._last_words = (self._last_words + data)[-2 * LAST_WORDS_BYTES :]
        # An ended exchange is still listed until its task continues.
        owner = next((one for one in self._running if not one.ended.done()), None)
        if owner is not None:
            owner.log(data)
            return
        keep = data[: max(0, LOG_BETWEEN_BYTES - len(self._between))]
        self._between += keep
        self._between_dropped += len(data) - len(keep)

    def _refilled(self) -> None:
        self._refill = None
        was_full, self._log_room = self._log_room <= 0, LOG_BYTES_PER_S
        if was_full and self._log >= 0:
            self._loop.add_reader(self._log, self._read_log)

    def _close_log(self) -> None:
        if self._log >= 0:
            self._loop.remove_reader(self._log)
            os.close(self._log)
            self._log = -1

    # Its end -----------------------------------------------------------------------------------

    def ended(self, kind: ExitKind, code: int, *, out_of_memory: bool) -> None:
        """Ends all invocations because the server has ended."""
        is_exit = kind is ExitKind.EXITED
        how = f"ended with status {code}" if is_exit else f"was killed by signal {code}"
        self._has_exited_well = is_exit and code == 0
        self._over_now(how)
        for exchange in list(self._running):
            if self._has_exited_well:
                why = "the server ended with status 0 during the invocation"
                exchange.fail(HttpFailed(None, why))
            else:
                exchange.finish(kind, code, out_of_memory=out_of_memory)

    def lost(self, *, out_of_memory: bool) -> None:
        """Ends all invocations because the sandbox is gone."""
        self._over_now("ended with its sandbox")
        for exchange in list(self._running):
            exchange.finish(ExitKind.SANDBOX_GONE, out_of_memory=out_of_memory)
        for connection in self._idle:
            connection.close()
        for task in self._tasks:
            task.cancel()
        self._close_log()
        for timer in (self._refill, self._overdue):
            if timer is not None:
                timer.cancel()

    def _over_now(self, how: str) -> None:
        if self._over.is_set():
            return
        self._how_ended = how
        self._over.set()
        while self._wanted:
            asked = self._wanted.popleft()
            if not asked.done():
                asked.set_exception(OSError(0, "it has ended"))
                asked.exception()  # marks it as retrieved: its task may be cancelled


def _about(call: Call) -> dict[str, str]:
    """The headers that describe the invocation to the server."""
    given = call.environment
    return {name: given[variable] for name, variable in ABOUT if variable in given}
