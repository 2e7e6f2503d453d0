"""One sandbox: a connection to its guest, and the meaning of the guest's frames.

A handler cannot make `call` raise. A guest that sends a forbidden frame loses its connection, which
ends the sandbox.
"""

import asyncio
import os
import signal
import socket
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from quiltfn.guest import wire
from quiltfn.model import environment, output
from quiltfn.model.invocation import FROM_OUTSIDE, CallResult, ExitKind
from quiltfn.model.output import OutputLog
from quiltfn.model.runtime import Kind
from quiltfn.model.version import VersionSpec
from quiltfn.native import compiled
from quiltfn.ports import (
    Call,
    Destination,
    LongOutput,
    SandboxCounters,
    SandboxFailed,
    SandboxRefused,
)
from quiltfn.sandbox.channel import LauncherChannel, Reply, descriptors_of
from quiltfn.sandbox.last_words import refused, with_last_line
from quiltfn.sandbox.output_limits import MIB, SHORT_OUTPUT_BYTES, OutputLimits
from quiltfn.sandbox.web_server import NO_DESCRIPTORS, WebServer

GREETING_TIMEOUT_S = 10.0
# The guest's default limits for the output of one invocation.
OUTPUT_LIMITS = OutputLimits(wire.STDOUT_MAX, wire.STDERR_MAX)
# The guest enforces the deadline. If it has not reported the end this long after the deadline, the
# sandbox is killed from outside.
OUTER_DEADLINE_S = 0.5
# Seconds for the launcher to end a sandbox, and then for the guest to end it.
LAUNCHER_ANSWERS_S, GUEST_ENDS_S = 0.5, 5.0
CONTROL_PIECE = 64 * 1024
# The limit on descriptors that arrived before their frames.
DESCRIPTORS_MAX = 2
# More than the guest's 120 s for a runner's start, which a busy guest may exceed.
RUNNER_STARTS_WITHIN_S = 125.0
DEFAULT_DIRECTORY, IMAGE_DIRECTORY = "/tmp", "/app"

EXIT_KINDS = {
    wire.ExitKind.EXITED: ExitKind.EXITED,
    wire.ExitKind.KILLED: ExitKind.SIGNALLED,
    wire.ExitKind.DEADLINE: ExitKind.DEADLINE,
    wire.ExitKind.NOT_STARTED: ExitKind.NOT_STARTED,
}


# The programs that run handlers, as paths in the sandbox (see launcher/host_image.py).
RUNNERS = {
    Kind.PYTHON: ("/usr/bin/python3", "-s", "/.runners/start_python.py"),
    Kind.NODE: ("/usr/bin/node", "/.runners/node.js"),
}
# Node ignores the limit of its control group; with the machine's memory as its limit it would
# collect garbage too late.
NODE_HEAP_SHARE = 0.75
# Node's message when its heap is full; it then aborts. The heap is full below the memory limit, so
# the kernel kills nothing.
HEAP_IS_FULL = b"JavaScript heap out of memory"


def handler_argv(spec: VersionSpec) -> list[str]:
    """The command line that the guest starts."""
    kind = spec.runtime_snapshot.kind
    if spec.runtime_snapshot.is_command_line:
        return ["/bin/sh", "-c", spec.handler]
    if kind is Kind.CUSTOM:
        return list(spec.runtime_snapshot.command)
    program, *rest = _runner(kind, spec.runtime_snapshot.interpreter)
    if kind is Kind.NODE:
        heap = int(spec.memory_limit_mb * NODE_HEAP_SHARE)
        return [program, f"--max-old-space-size={heap}", *rest]
    return [program, *rest]


def _runner(kind: Kind, interpreter: str) -> list[str]:
    """The command line of a runner. `interpreter`: of the base image; empty: the host's."""
    program, *rest = RUNNERS[kind]
    return [interpreter or program, *rest]


# Prefixes of variables that an interpreter reads only at its start.
READ_AT_START = ("PYTHON", "LD_", "MALLOC_", "GLIBC_")


def prepare_frame(kind: Kind, interpreter: str = "") -> bytes | None:
    """The frame that starts a runner or shell before the version is known; None for kinds for which
    that is impossible.
    """
    if kind is Kind.SHELL:
        return wire.PREPARE_SHELL
    if kind is not Kind.PYTHON:
        return None
    variables = environment.ALWAYS | {"QUILT_PREWARMED": "1"}
    return wire.encode_prepare(argv=_runner(kind, interpreter), environment=variables)


def specialise_frame(spec: VersionSpec) -> bytes:
    """The frame that makes a sandbox an instance of `spec`."""
    variables, flags = environment.of_version(spec), 0
    if not spec.cleanup_on_exit:
        flags |= wire.KEEP_TMP
    if spec.runtime_snapshot.kind is Kind.SHELL:
        flags |= wire.SHELL
    elif spec.runtime_snapshot.kind is Kind.SERVER:
        flags |= wire.SERVER
    else:
        keep = not spec.cleanup_on_exit
        flags |= wire.RESIDENT | (wire.KEEP_STATE if keep else 0)
        if any(name.startswith(READ_AT_START) for name in variables):
            flags |= wire.FRESH
        variables |= {"QUILT_HANDLER": spec.handler, "QUILT_KEEP": str(int(keep))}
    return wire.encode_specialise(
        argv=handler_argv(spec),
        cwd=spec.working_directory or default_directory(spec),
        environment=variables,
        flags=flags,
    )


def call_frame(nonce: int, call: Call) -> bytes:
    """The frame that runs the handler once. Raises as `wire.encode_call` does."""
    timeout_ms = round(call.timeout_s * 1000)
    if compiled is not None:
        flags = wire.ENV_REPLACES if call.replaces_environment else 0
        flags |= wire.FOLLOWED if call.is_followed else 0
        frame = compiled.call(nonce, timeout_ms, flags, call.environment, call.payload)
        if frame is not None:
            return frame
    return wire.encode_call(
        nonce=nonce,
        timeout_ms=timeout_ms,
        environment=call.environment,
        payload=call.payload,
        env_replaces=call.replaces_environment,
        is_followed=call.is_followed,
    )


def default_directory(spec: VersionSpec) -> str:
    """The working directory of a version that names none: its files, or /tmp if it has none."""
    return IMAGE_DIRECTORY if spec.runtime_snapshot.app_images else DEFAULT_DIRECTORY


class GuestSandbox(asyncio.Protocol):
    """Implements `ports.Sandbox` by a guest. One invocation at a time, unless a web server runs."""

    def __init__(
        self,
        name: str,
        events: int,
        channel: LauncherChannel,
        limits: OutputLimits = OUTPUT_LIMITS,
    ) -> None:
        self.id = name
        self._limits, self._output_max = limits, limits.together
        self.is_alive = True
        self.is_clean = True
        self.note = ""
        self._channel = channel
        self._events = events
        self._web_server: WebServer | None = None
        self._control: socket.socket | None = None  # set once this object reads the socket directly
        self._descriptors: deque[int] = deque()
        self._loop = asyncio.get_running_loop()
        self._decoder = wire.Decoder()
        self._transport: asyncio.Transport | None = None
        self._greeted: asyncio.Future[int] = self._loop.create_future()
        self._specialised: asyncio.Future[wire.Specialised] = self._loop.create_future()
        self._end: Callable[[CallResult], None] | None = None
        self._on_clean: Callable[[], None] = _nothing
        self._on_lost: Callable[[], None] = _nothing
        self._nonce = 0
        self._outer: asyncio.TimerHandle | None = None
        self._overdue_at = self._outer_at = 0.0
        self._overdue = False
        self._out_of_memory_kills = 0
        self._has_heap_limit = False
        self._output: OutputLog | None = None
        self._output_bytes = 0
        self._room_bytes = SHORT_OUTPUT_BYTES
        self._long_output: LongOutput | None = None
        self._is_paused = self._is_broken = self._is_cancelled = False
        self._destroyed: asyncio.Task[None] | None = None
        self._guest_ended: asyncio.Future[None] = self._loop.create_future()
        self._alone: list[asyncio.TimerHandle] = []
        self._counters = SandboxCounters()

    async def greet(self, control: socket.socket) -> None:
        """Connects to the guest and waits for its hello. Raises `SandboxFailed`."""
        await self._loop.create_unix_connection(lambda: self, sock=control)
        try:
            async with asyncio.timeout(GREETING_TIMEOUT_S):
                version = await self._greeted
        except (TimeoutError, ConnectionError):
            raise SandboxFailed("the guest did not say hello") from None
        if version != wire.PROTOCOL_VERSION:
            raise SandboxFailed(f"the guest speaks protocol {version}, not {wire.PROTOCOL_VERSION}")

    def prepare(self, kind: Kind, interpreter: str = "") -> None:
        """Starts the runner or shell of this kind, if it can start before the version is known."""
        frame = prepare_frame(kind, interpreter)
        if frame is not None:
            self._write(frame)

    async def limit(self, spec: VersionSpec) -> None:
        """Sets the limits of `spec`. Raises `SandboxFailed`."""
        await self._channel.ask(
            "limit",
            sandbox=self.id,
            memory_mib=spec.memory_limit_mb,
            cpu_percent=spec.cpu_limit_percent,
        )

    async def specialise(self, spec: VersionSpec) -> None:
        is_server = spec.runtime_snapshot.kind is Kind.SERVER
        if is_server:
            self._read_descriptors()
        self._write(specialise_frame(spec))
        self._has_heap_limit = spec.runtime_snapshot.kind is Kind.NODE
        limit = RUNNER_STARTS_WITHIN_S if spec.runtime_snapshot.is_resident else GREETING_TIMEOUT_S
        try:
            async with asyncio.timeout(limit):
                answer = await self._specialised
        except (TimeoutError, ConnectionError):
            raise SandboxRefused("the guest ended while it was being specialised") from None
        if answer.errno:
            why, written = answer.text, answer.written
            if answer.errno in wire.NO_REASON:
                why = with_last_line(why, written)
            raise refused(why, written)
        if is_server:
            await self._start_server(spec)
            return
        self.note = answer.text.partition(" ")[2]  # the first word names the serving mode

    async def call(self, call: Call) -> CallResult:
        if self._web_server is not None:
            return await self._web_server.call(call) if self.is_alive else _ended_before()
        future: asyncio.Future[CallResult] = self._loop.create_future()
        self.start(call, partial(_settle, future))
        return await future

    def start(self, call: Call, on_end: Callable[[CallResult], None]) -> None:
        self._nonce += 1
        frame = call_frame(self._nonce, call)
        self._output, self._long_output = call.output, call.long_output
        self._output_bytes, self._room_bytes = 0, SHORT_OUTPUT_BYTES
        if not self.is_alive:
            self._loop.call_soon(on_end, _ended_before())
            return
        self._end, self.is_clean = on_end, False
        self._write(frame)
        del frame  # the frame is already sent, and possibly long
        self._overdue_at = self._loop.time() + call.timeout_s + OUTER_DEADLINE_S
        if self._outer is None or self._outer_at > self._overdue_at:
            self._look_again_at(self._overdue_at)

    def end_call(self, kind: ExitKind, by: str, call: Call | None = None) -> bool:
        if self._web_server is not None:
            return self._web_server.end_call(kind, by, call)
        is_ended = self._finish(kind, by=by)
        self._is_cancelled |= is_ended
        return is_ended

    def watch(self, on_clean: Callable[[], None], on_lost: Callable[[], None]) -> None:
        self._on_clean, self._on_lost = on_clean, on_lost

    async def used_mib(self) -> float:
        answer = await self._channel.ask("used", sandbox=self.id)
        return float(answer.message["bytes"]) / MIB

    async def counters(self) -> SandboxCounters:
        if self._destroyed is None:
            self._count(await self._channel.ask("counters", sandbox=self.id))
        return self._counters

    async def destroy(self) -> None:
        await asyncio.shield(self._destruction())

    async def stopped(self) -> None:
        await asyncio.wait(
            (self._destruction(), self._guest_ended), return_when=asyncio.FIRST_COMPLETED
        )

    def _destruction(self) -> "asyncio.Task[None]":
        if self._destroyed is None:
            self._destroyed = asyncio.ensure_future(self._destroy())
        return self._destroyed

    # Frames from the guest -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio.Transport, but are no subclasses.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._hear_ordinary(data):
            return
        try:
            for event in self._decoder.feed(data):
                self._hear(event)
        except wire.WireError:
            self._break()

    def connection_lost(self, _error: Exception | None) -> None:
        self.is_alive = False
        for timer in self._alone:
            timer.cancel()
        if not (self._is_broken or self._guest_ended.done()):
            self._guest_ended.set_result(None)
        for future in (self._greeted, self._specialised):
            if not future.done():
                future.set_exception(ConnectionResetError("the guest ended"))
                future.exception()  # marks it as retrieved: perhaps nobody awaits it
        killed_for_memory = self._was_killed_for_memory()
        self._forget_server(killed_for_memory)
        if self._overdue:
            self._finish(ExitKind.DEADLINE, by=FROM_OUTSIDE)
        else:
            self._finish(ExitKind.SANDBOX_GONE, out_of_memory=killed_for_memory)
        if self._destroyed is None:
            self._on_lost()

    def _hear_ordinary(self, data: bytes) -> bool:
        """As `_hear`, for the usual ends of the running invocation and of its cleaning, each in one
        piece. Returns False, without effect, for anything else.
        """
        if compiled is None or self._decoder.is_in_frame or self._is_cancelled:
            return False
        if self._end is None:
            if self.is_clean or not compiled.clean(data, self._nonce):
                return False
            self.is_clean = True
            self._on_clean()
            return True
        found = compiled.reply(data, self._nonce)
        if found is None or self._output is None:
            return False
        stream, piece, is_clean = found
        if self._output_bytes + len(piece) > min(self._room_bytes, self._output_max):
            return False
        if piece:
            self._output.append(stream, piece)
        killed_for_memory = self._was_killed_for_memory()
        self._finish(ExitKind.EXITED, is_reported=True, out_of_memory=killed_for_memory)
        if is_clean:
            self.is_clean = True
            self._on_clean()
        return True

    def _hear(self, event: wire.Event) -> None:
        # The most frequent first. Not `match`, which would take several times as long per frame.
        if isinstance(event, wire.Output) and self._awaits(event.nonce):
            assert self._output is not None
            self._output.append(event.stream, event.data)
            self._output_bytes += len(event.data)
            if self._output_bytes > self._room_bytes and self._long_output is not None:
                self._make_room(self._long_output)
            if self._output_bytes > self._output_max:
                self._break()
        elif isinstance(event, wire.End) and self._awaits(event.nonce):
            self._finish(
                EXIT_KINDS[event.kind],
                is_reported=True,
                code=event.code,
                out_of_memory=self._was_killed_for_memory(),
                stdout_dropped=event.dropped_stdout + event.dropped_result,
                stderr_dropped=event.dropped_stderr,
                reason=event.text or None,
            )
        elif self._is_cancelled and isinstance(event, wire.Output | wire.End | wire.Clean):
            pass  # a late frame; this sandbox has no other invocation
        elif isinstance(event, wire.Clean) and event.nonce == self._nonce and self._end is None:
            self.is_clean = True
            self._on_clean()
        elif isinstance(event, wire.Hello) and not self._greeted.done():
            self._greeted.set_result(event.version)
        elif isinstance(event, wire.Specialised) and not self._specialised.done():
            self._specialised.set_result(event)
        elif self._web_server is None or not self._hear_of_server(self._web_server, event):
            self._break()

    # Web servers -----------------------------------------------------------------------------

    def _read_descriptors(self) -> None:
        """From now on, reads the guest's socket itself: a transport loses descriptors."""
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.pause_reading()
        descriptor = self._transport.get_extra_info("socket").fileno()
        self._control = socket.socket(fileno=os.dup(descriptor))
        self._control.setblocking(False)
        self._loop.add_reader(self._control.fileno(), self._receive)

    def _receive(self) -> None:
        assert self._control is not None
        try:
            data, ancillary, _, _ = self._control.recvmsg(
                CONTROL_PIECE, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        self._descriptors.extend(descriptors_of(ancillary))
        if data and len(self._descriptors) <= DESCRIPTORS_MAX:
            self.data_received(data)
            return
        self._loop.remove_reader(self._control.fileno())
        self._break()
        self._is_broken = bool(data)

    async def _start_server(self, spec: VersionSpec) -> None:
        """Waits until the server is ready. Raises `SandboxRefused`."""
        if not self._descriptors:
            raise SandboxRefused(NO_DESCRIPTORS)
        self._web_server = WebServer(
            spec.server_settings(),
            self._descriptors.popleft(),
            self._limits,
            lambda: self._write(wire.ASK_SOCKET),
            self._was_killed_for_memory,
        )
        await self._web_server.wait_until_ready()

    def _hear_of_server(self, server: WebServer, event: wire.Event) -> bool:
        """Handles a frame about the server. Returns False if the guest may not send it."""
        if isinstance(event, wire.Socket):
            has_one = event.errno == 0 and self._descriptors
            return server.socket_came(event.errno, self._descriptors.popleft() if has_one else None)
        if not isinstance(event, wire.End):
            return False
        self.is_alive = False
        kind, killed = EXIT_KINDS[event.kind], self._was_killed_for_memory()
        server.ended(kind, event.code, out_of_memory=killed)
        return True

    def _forget_server(self, killed_for_memory: bool) -> None:
        if self._web_server is not None:
            self._web_server.lost(out_of_memory=killed_for_memory)
        if self._control is not None:
            self._loop.remove_reader(self._control.fileno())
            self._control.close()
            self._control = None
        while self._descriptors:
            os.close(self._descriptors.popleft())

    def _make_room(self, room: LongOutput) -> None:
        """Pauses reading, and thereby soon the handler, until there is room for its output."""
        if room.take(self._output_bytes, self._read_on):
            self._room_bytes = -(-self._output_bytes // MIB) * MIB
        elif self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    def _read_on(self) -> None:
        self._is_paused = False
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.resume_reading()

    def _awaits(self, nonce: int) -> bool:
        return nonce == self._nonce and self._end is not None

    def _finish(self, kind: ExitKind, *, is_reported: bool = False, **more: Any) -> bool:
        """Ends the running invocation, with the output so far. Returns False if there is none, or
        it has a result. `is_reported`: by the guest; otherwise others may be in the middle of a
        change, and get the result later.
        """
        on_end, self._end = self._end, None
        if self._is_paused:  # the invocation ended with the output that caused the pause
            self._read_on()
        # Dropped here, so that an idle instance has no data of its last invocation.
        log, self._output = self._output, None
        if on_end is None or log is None:
            return False
        stdout, stderr = log.take()
        if self._has_heap_limit and kind is ExitKind.SIGNALLED and HEAP_IS_FULL in stderr:
            more["out_of_memory"] = more.get("out_of_memory") or more["code"] == signal.SIGABRT
        order = output.to_text(log.order)
        result = CallResult(kind=kind, stdout=stdout, stderr=stderr, output_order=order, **more)
        if is_reported:
            on_end(result)
        else:
            self._loop.call_soon(on_end, result)
        return True

    def _was_killed_for_memory(self) -> bool:
        """Whether the kernel has killed a process here for memory since the last query."""
        if self._events < 0:
            return False
        try:
            text = os.pread(self._events, 512, 0)
        except OSError:  # the control group is gone
            return False
        kills = int(text.rpartition(b"oom_kill ")[2].split(b"\n", 1)[0] or 0)
        rose, self._out_of_memory_kills = kills > self._out_of_memory_kills, kills
        return rose

    # Requests to guest and launcher ----------------------------------------------------------

    def _count(self, answer: Reply) -> None:
        """Updates counters, which never fall, even if the launcher no longer knows the sandbox."""
        counters, before = answer.message, self._counters
        refused = tuple(Destination(*one) for one in counters["refused"])
        self._counters = SandboxCounters(
            blocked=max(before.blocked, counters["blocked"]),
            cpu_us=max(before.cpu_us, counters["cpu_us"]),
            refused=refused or before.refused,
        )

    def _write(self, frame: bytes) -> None:
        if self._transport is not None:
            self._transport.write(frame)

    def _look_again_at(self, at: float) -> None:
        """Sets the one timer of this sandbox; a timer per invocation would slow every warm
        start.
        """
        if self._outer is not None:
            self._outer.cancel()
        self._outer_at = at  # uvloop's timers do not always have this value
        self._outer = self._loop.call_at(at, self._kill_if_overdue)

    def _kill_if_overdue(self) -> None:
        self._outer = None
        if self._end is None:
            return
        if self._loop.time() < self._overdue_at:
            self._look_again_at(self._overdue_at)
            return
        self._overdue = True
        self._long_output = None
        self._read_on()  # a paused transport would not notice the end
        self._channel.tell("kill", sandbox=self.id)
        self._end_alone()

    def _end_alone(self) -> None:
        """Has the guest end the sandbox without the launcher, which may be stalled. The guest does
        so once this side shuts down its connection, and then closes its own.
        """
        if self._transport is None or self._alone:
            return
        later = self._loop.call_later
        self._alone = [
            later(LAUNCHER_ANSWERS_S, self._hang_up),
            later(LAUNCHER_ANSWERS_S + GUEST_ENDS_S, self._break),
        ]

    def _hang_up(self) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():
            self._long_output = None
            self._read_on()  # a paused transport would not notice the end
            self._transport.write_eof()

    def _break(self) -> None:
        """Aborts the connection, without waiting for the guest to report the end."""
        if self._transport is not None:
            self._is_broken = True
            self._transport.abort()

    async def _destroy(self) -> None:
        self.is_alive = False
        self._end_alone()
        try:
            self._count(await self._channel.ask("destroy", sandbox=self.id))
        finally:
            self._break()
            if self._outer is not None:
                self._outer.cancel()
            if self._events >= 0:
                os.close(self._events)
                self._events = -1


def _ended_before() -> CallResult:
    return CallResult(kind=ExitKind.SANDBOX_GONE, reason="the sandbox had ended before the call")


def _settle(future: "asyncio.Future[CallResult]", result: CallResult) -> None:
    if not future.done():
        future.set_result(result)


def _nothing() -> None:
    pass
