"""Runs one invocation, from the request to its final record."""

import asyncio
import contextlib
import math
from collections import defaultdict
from collections.abc import Callable, Container, Coroutine, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec

from quiltfn.base.ids import new_id
from quiltfn.base.signal import Signal
from quiltfn.base.task_group import TaskGroup
from quiltfn.functions.aliases import Aliases
from quiltfn.functions.catalog import Entry
from quiltfn.model import environment, timeline
from quiltfn.model.end_cause import Cancelled, NotStarted
from quiltfn.model.errors import (
    Internal,
    NotFound,
    QuiltfnError,
    RuntimeUnavailable,
    ShuttingDown,
    StoreUnavailable,
    Unprocessable,
)
from quiltfn.model.function import FunctionState, not_active
from quiltfn.model.invocation import (
    NEXT,
    PAYLOAD_MAX_BYTES,
    CallEvent,
    CallResult,
    ExitKind,
    Invocation,
    RunContext,
    Source,
    Status,
    WorkOutcome,
)
from quiltfn.model.output import OutputLog
from quiltfn.model.overrides import check_overrides
from quiltfn.model.runtime import Kind
from quiltfn.model.state_machine import transition
from quiltfn.model.timeline import StartTiming, Timeline
from quiltfn.model.version import Version, check_environment
from quiltfn.observe import metrics
from quiltfn.observe.trace import Tracer
from quiltfn.ports import Call, Clock, HeldLease, Lease, LongOutput, PendingLease, Pools
from quiltfn.ports.streamed_body import StreamedBody
from quiltfn.store.calls.journal import SpoolJournal

T = TypeVar("T")
MISTAKE = "internal server error; check the server's log"
# Seconds until the next search of a tenant's invocations after a search that found none to cancel.
SEARCHED_AGAIN_S = 0.05
# Maximum wait of a cancel request for the invocation's processes to be killed. A guest needs less
# time to end its sandbox without the launcher.
KILLED_WITHIN_S = 8.0
STILL_RUNS = (
    "the call is recorded as cancelled, but its sandbox has not ended yet, so its handler may "
    "still run"
)


class RunningCall(msgspec.Struct, frozen=True):
    """A running invocation: its record so far, and its output."""

    record: Invocation
    output: OutputLog


class CallProgress(msgspec.Struct, frozen=True):
    """An invocation in progress: its timeline so far, its record once it was handed over, and the
    names of the variables that its caller set.
    """

    timeline: Timeline
    record: Invocation | None
    variables: tuple[str, ...]


# The statuses for which the caller gets an error instead of the record.
UNUSUAL = (Status.ERROR, Status.INTERRUPTED)
# Called when a handler gets its invocation. It must not raise or wait.
Listener = Callable[[RunningCall], None]
# Called at the end of an invocation of `Invoker.start`.
Ended = Callable[[Invocation | Coroutine[Any, Any, Invocation]], None]


class Client(Protocol):
    """A client that waits for a response."""

    @property
    def is_abandoned(self) -> bool:
        """Whether the client has left."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A caller's request. `timeout_seconds` None: the function's own. `may_write`: whether the
    caller's scope is `write` or more, which may set any variable. `on_start`: called when this
    invocation starts. `version`: the version that the request names, even if it is the current one;
    None: the version of the default alias, or else the current one when the invocation runs.
    `invocation_id`: None for a new id. The record has it and the next five fields.

    `conclude`: decides what becomes of accepted work, from the record of a completed attempt.
    `adds_environment`: the names in `environment` must not be in the version's environment.
    `judge`: reads the HTTP response in a result, and returns the result, with the response's status
    if the handler succeeded; an invalid response makes it a failure with the reason. `body`:
    streamed to a web server while it arrives, after the head of the request in `payload`. Such an
    invocation has no second attempt, and its body is not stored. `client`: waits for the response;
    None: the response may be requested later.
    """

    payload: bytes | None = None
    environment: dict[str, str] | None = None
    timeout_seconds: int | None = None
    traceparent: str | None = None
    may_write: bool = False
    long_output: LongOutput | None = None
    on_start: Listener | None = None
    version: Version | None = None
    invocation_id: str | None = None
    source: Source = Source.SYNC
    attempt: int = 1
    due_at: int | None = None
    parent_invocation_id: str | None = None
    origin_invocation_id: str | None = None
    conclude: Callable[[Invocation], WorkOutcome] | None = None
    adds_environment: bool = False
    judge: Callable[[CallResult], CallResult] | None = None
    body: StreamedBody | None = None
    client: Client | None = None


class _CallState(msgspec.Struct):
    """An accepted request. `accepted` in monotonic seconds. `is_handed_over`: the handler may have
    started; `started` and `started_at`: when that was, in monotonic and in Unix seconds. `running`:
    the record, until it is final. `cancelled`: by whom, if the invocation was cancelled before the
    hand-over. `on_end`: gets the final record, or None if the invocation leaves none. `ending`:
    waits for `on_end`, and for the end of the invocation's processes. Both are set by `cancel`.
    """

    entry: Entry
    request: Request
    invocation_id: str
    accepted: float
    lease: PendingLease
    is_handed_over: bool = False
    running: Invocation | None = None
    output: OutputLog | None = None
    started: float = 0.0
    started_at: float = 0.0
    recorded: float = 0.0
    start_timing: StartTiming | None = None
    cancelled: str | None = None
    on_end: asyncio.Future[Invocation | None] | None = None
    ending: asyncio.Task[None] | None = None


class _Withdrawn(Exception):
    """The invocation was cancelled while it waited for an instance."""


class Invoker:
    """Runs invocations, cancels one by its id, and drains the server."""

    def __init__(
        self,
        pools: Pools,
        journal: SpoolJournal,
        clock: Clock,
        node_id: str,
        tracer: Tracer | None = None,
        aliases: Aliases | None = None,
    ) -> None:
        """`aliases`: select versions for requests that name none; None: there are no aliases."""
        self._pools, self.journal, self._clock = pools, journal, clock
        self.node_id, self.tracer = node_id, tracer
        self._calls: dict[str, _CallState] = {}
        # Cancelled invocations that may still have processes.
        self._ending: dict[str, _CallState] = {}
        # Emitted for every hand-over, once it is written.
        self.on_opened: Signal[Invocation] = Signal()
        # Emitted for every written end of an attempt, and for work that ended without an attempt.
        self.on_closed: Signal[Invocation] = Signal()
        self._listeners: defaultdict[str, list[Listener]] = defaultdict(list)
        self._background = TaskGroup(failed=lambda _: None)  # errors reach the code that waits
        self._draining = False
        self._aliases = aliases
        self._defaults: Container[str] = () if aliases is None else aliases.defaults
        self.refuses = ""  # why no invocations are accepted for a while; empty: they are accepted
        self._idle = asyncio.Event()
        # By tenant: the time of the last search that found none.
        self._none_give_way: dict[str, float] = {}

    @property
    def running(self) -> int:
        """The number of invocations that run or wait for an instance."""
        return len(self._calls)

    @property
    def is_draining(self) -> bool:
        """Whether the server is stopping and refuses new invocations."""
        return self._draining

    def refuse(self, why: str) -> None:
        """Refuse invocations for a while, with this reason; empty: accept them again."""
        self.refuses = why

    def has_begun(self, invocation_id: str) -> bool:
        """Whether the invocation is in progress and no longer waits for an instance."""
        call = self._calls.get(invocation_id)
        return call is not None and call.is_handed_over

    async def invoke(self, entry: Entry, request: Request) -> Invocation:
        """Run one invocation, or one attempt at accepted work, and return its final record.

        Raises `CapacityFull`, `Forbidden`, `FunctionNotActive`, `NotFound` or `Unprocessable`,
        without a record. Raises `RuntimeUnavailable` if no instance could start or the sandbox
        ended during the invocation, with a record of status `error`, except for an invocation that
        was not begun while too many records wait to be stored. Raises `ShuttingDown`: without a
        record if new invocations are no longer accepted; with one if the server had to stop before
        the invocation ended. An error with a record has its `invocation_id`. An invocation that
        `cancel` ended returns its record, with status `cancelled`.
        """
        accepted = self._clock.now()
        if self._draining or self.refuses:
            raise ShuttingDown(self.refuses, retry_after=5)
        if entry.function.state is not FunctionState.ACTIVE:
            raise not_callable(entry.function.state)
        is_split = request.version is None and entry.function.id in self._defaults
        request = await self._by_default(entry, request) if is_split else request
        check(request.version or entry.version, request)
        lease = self._pools.lease(entry.function.id, request.version)
        call = _CallState(entry, request, request.invocation_id or new_id(), accepted, lease)
        self._calls[call.invocation_id] = call
        record: Invocation | None = None
        try:
            try:
                async with lease as held:
                    if call.cancelled is not None:  # cancelled in the step of the hand-over
                        raise _Withdrawn
                    result = await held.call(self._hand_over(call, held))
                    record = self._conclude(call, held, result)
            except _Withdrawn:
                record = self._record_cancelled(call)
            if self.journal.is_strict:
                await self.journal.synced()
            else:
                await self.journal.drain()
        except Exception as error:
            await self._failed(call, error)
            raise
        finally:
            self._leave(call, record)
        if record.status in UNUSUAL:
            raise failure_of(record)
        return record

    def reserve(self, entry: Entry) -> HeldLease | None:
        """A ready instance for `start`, held until then or until `leave`. None: use `invoke`, since
        there is no such instance, or something unusual must be done.
        """
        function = entry.function
        if self._draining or self.refuses or function.state is not FunctionState.ACTIVE:
            return None
        if function.id in self._defaults or self.journal.is_strict or self.tracer is not None:
            return None
        try:
            return self._pools.lease(function.id).enter_at_once()
        except RuntimeUnavailable:  # its pool is being removed
            return None

    def start(self, entry: Entry, request: Request, lease: HeldLease, ended: "Ended") -> None:
        """As `invoke`, without a task, on an instance from `reserve`. `ended` gets the final
        record; or, if the caller has to wait or gets an error, a coroutine that returns the record
        or raises as `invoke` does. `ended` must not raise.
        """
        invocation_id, accepted = request.invocation_id or new_id(), self._clock.now()
        call = self._calls[invocation_id] = _CallState(
            entry, request, invocation_id, accepted, lease
        )
        try:
            lease.start(self._hand_over(call, lease), partial(self._end, call, lease, ended))
        except Exception as error:
            lease.leave()
            ended(self._rest(call, None, error))

    def _end(self, call: _CallState, lease: HeldLease, ended: "Ended", result: CallResult) -> None:
        record: Invocation | None = None
        error: Exception | None = None
        try:
            try:
                record = self._conclude(call, lease, result)
            finally:
                lease.leave()
        except Exception as raised:
            error = raised
        if error is not None or record is None:
            ended(self._rest(call, None, error))
        elif record.status in UNUSUAL or self.journal.must_drain:
            ended(self._rest(call, record, None))
        else:
            self._leave(call, record)
            ended(record)

    async def _rest(
        self, call: _CallState, record: Invocation | None, error: Exception | None
    ) -> Invocation:
        """The end of an invocation of `start` that is unusual: `error`, or one that `record`
        shows.
        """
        try:
            if error is not None:
                raise error
            await self.journal.drain()
        except Exception as raised:
            await self._failed(call, raised)
            raise
        finally:
            del error  # otherwise its traceback would refer to it
            self._leave(call, record)
        assert record is not None
        if record.status in UNUSUAL:
            raise failure_of(record)
        return record

    def _leave(self, call: _CallState, record: Invocation | None) -> None:
        """The invocation is over. `record`: its final record, if it has one."""
        del self._calls[call.invocation_id]
        if call.output is not None:
            call.output.close()
        if call.on_end is not None:
            call.on_end.set_result(record)
        if self._draining and not self._calls:
            self._idle.set()

    async def _by_default(self, entry: Entry, request: Request) -> Request:
        assert self._aliases is not None
        version = await self._aliases.default_version(entry)
        return msgspec.structs.replace(request, version=version)

    async def cancel(
        self, function_id: str, invocation_id: str, by: str = "request"
    ) -> Invocation | None:
        """End one invocation of the function, at any stage, and return its final record.

        The record has the status `cancelled`, and `by` in its cause. An invocation that already has
        its result keeps it, and that record is returned. Returns None if this node runs no such
        invocation (its record may be in the journal), or if it leaves no record. On return, its
        processes were killed. Raises `RuntimeUnavailable` if that takes longer than
        `KILLED_WITHIN_S`.
        """
        call = self._calls.get(invocation_id) or self._ending.get(invocation_id)
        if call is None or call.entry.function.id != function_id:
            return None
        if call.on_end is None or call.ending is None:
            call.on_end = asyncio.get_running_loop().create_future()
            call.ending = asyncio.ensure_future(self._ended(call, call.on_end))
            self._ending[invocation_id] = call
        if invocation_id not in self._calls:
            # The invocation has its record, and another request waits for its processes to end.
            pass
        elif not call.is_handed_over:
            call.cancelled = by
            call.lease.withdraw(_Withdrawn())
        elif call.running is not None:
            call.lease.end_call(ExitKind.CANCELLED, by)
        record = await asyncio.shield(call.on_end)
        try:
            async with asyncio.timeout(KILLED_WITHIN_S):
                await asyncio.shield(call.ending)
        except TimeoutError:
            error = RuntimeUnavailable(STILL_RUNS, hint="see the server's health", retry_after=5)
            error.with_record(invocation_id, executed=True)
            raise error from None
        return record

    async def _ended(self, call: _CallState, on_end: "asyncio.Future[Invocation | None]") -> None:
        """Wait until no process of the invocation is left. Until then, other cancel requests get
        the same record.
        """
        try:
            await asyncio.shield(on_end)
            await call.lease.ended()
        finally:
            # The next attempt has the same id.
            if self._ending.get(call.invocation_id) is call:
                del self._ending[call.invocation_id]

    def give_way(self, tenant_id: str) -> bool:
        """Cancel the first invocation of the tenant that waits for an instance and whose caller has
        left; return whether there was one.
        """
        now = self._clock.now()
        if now - self._none_give_way.get(tenant_id, -math.inf) < SEARCHED_AGAIN_S:
            return False
        for call in self._calls.values():
            client = call.request.client
            if client is None or not client.is_abandoned or call.is_handed_over:
                continue
            if call.entry.function.tenant_id == tenant_id and call.cancelled is None:
                call.cancelled = "gave_way"
                call.lease.withdraw(_Withdrawn())
                self._none_give_way.pop(tenant_id, None)
                return True
        self._none_give_way[tenant_id] = now
        return False

    def end_calls(self, function_id: str, by: str) -> None:
        """End the function's running invocations. Accepted work is interrupted, so that its policy
        decides on a retry; other invocations are cancelled.
        """
        for call in self._calls.values():
            if call.entry.function.id != function_id or call.running is None:
                continue
            is_work = call.request.conclude is not None
            kind = ExitKind.INTERRUPTED if is_work else ExitKind.CANCELLED
            call.lease.end_call(kind, by)

    def running_call(self, function_id: str, invocation_id: str) -> RunningCall | None:
        """The function's invocation with this id, if it is running on this node."""
        call = self._calls.get(invocation_id)
        if call is None or call.entry.function.id != function_id:
            return None
        return _as_running(call)

    def progress(self, function_id: str, invocation_id: str) -> CallProgress | None:
        """The timeline so far of an invocation in progress on this node."""
        call = self._calls.get(invocation_id)
        if call is None or call.entry.function.id != function_id:
            return None
        now = self._clock.now()
        variables = tuple(call.request.environment or ())
        if not call.is_handed_over:
            return CallProgress(timeline.of_call(call.accepted, now, None), None, variables)
        spent = timeline.of_call(
            call.accepted,
            call.started,
            call.start_timing,
            ran=now - call.started,
            started_ms=int(call.started_at * 1000),
        )
        return CallProgress(spent, call.running, variables)

    def running_calls(self, function_id: str) -> Sequence[RunningCall]:
        """The function's running invocations on this node."""
        found = (
            _as_running(it) for it in self._calls.values() if it.entry.function.id == function_id
        )
        return [one for one in found if one is not None]

    def listen(self, function_id: str, listener: Listener) -> None:
        """Call `listener` for each invocation of the function on this node from now on."""
        self._listeners[function_id].append(listener)

    def unlisten(self, function_id: str, listener: Listener) -> None:
        self._listeners[function_id].remove(listener)
        if not self._listeners[function_id]:
            del self._listeners[function_id]

    def _tell(self, call: _CallState) -> None:
        running = _as_running(call)
        if running is not None:
            if call.request.on_start is not None:
                call.request.on_start(running)
            for listener in self._listeners.get(call.entry.function.id, ()):
                listener(running)

    async def _failed(self, call: _CallState, error: Exception) -> None:
        """Record an invocation that ended with `error` instead of a result. Raises a different
        error if it is more informative for the caller.
        """
        if call.is_handed_over:
            if call.running is not None:
                self._record_mistake(call, call.running)
            if not isinstance(error, QuiltfnError):
                mistake = Internal(MISTAKE)
                mistake.with_record(call.invocation_id, executed=True)
                raise mistake from error
            error.with_record(call.invocation_id, executed=True)
        elif isinstance(error, RuntimeUnavailable) and not self._leaves_no_record(call):
            error.with_record(call.invocation_id, executed=False)
            try:
                self._record_failure(call, error)
                if self.journal.is_strict:
                    await self.journal.synced()
            except StoreUnavailable as unkept:
                unkept.with_record(call.invocation_id, executed=False)
                raise

    def _hand_over(self, call: _CallState, lease: Lease) -> Call:
        """Open the record. Returns the data for the instance. Raises `StoreUnavailable`."""
        request, version, start_timing = call.request, lease.version, lease.start_timing
        timeout = request.timeout_seconds or version.spec.timeout_seconds
        handed_over, started = self._clock.unix(), self._clock.now()
        variables = environment.of_call(
            invocation_id=call.invocation_id,
            function_name=call.entry.function.name,
            version=version,
            deadline_unix_ms=round((handed_over + timeout) * 1000),
            payload=request.payload,
            traceparent=self._traceparent(call),
        )
        variables = _with_own(variables, version, request) if request.environment else variables
        record = self._record(
            call.entry,
            request,
            call.invocation_id,
            status=Status.RUNNING,
            started_at=int(handed_over),
            cold_start=start_timing is not None,
            version=version.number,
        )
        before = self._clock.now()
        self.journal.opened(record)
        call.recorded = self._clock.now() - before
        call.is_handed_over, call.running, call.output = True, record, OutputLog()
        call.started, call.started_at, call.start_timing = started, handed_over, start_timing
        for hear in self.on_opened.hearers:
            hear(record)
        if self._listeners or request.on_start is not None:
            self._tell(call)
        return _call_of(request, variables, timeout, call.output)

    def _conclude(self, call: _CallState, lease: Lease, result: CallResult) -> Invocation:
        """Close the record with the result. Raises `StoreUnavailable`."""
        request, spec, record = call.request, lease.version.spec, call.running
        assert record is not None
        if request.judge is not None and result.refusal is None:
            result = request.judge(result)
        took = self._clock.now() - call.started
        kept = timeline.of_call(
            call.accepted,
            call.started,
            call.start_timing,
            ran=took - call.recorded,
            recorded=call.recorded,
            started_ms=int(call.started_at * 1000),
        )
        record = record.after(
            result,
            int(call.started_at + took),
            math.ceil(took * 1000),
            kept,
            RunContext(
                memory_mib=spec.memory_limit_mb,
                timeout_s=request.timeout_seconds or spec.timeout_seconds,
                is_value=spec.runtime_snapshot.returns_values,
                runner=spec.runtime_snapshot.runner,
                network=spec.runtime_snapshot.network,
            ),
        )
        call.running = None
        return self._close(call, record, call.started + took)

    def _traceparent(self, call: _CallState) -> str | None:
        """The handler's traceparent: the caller's header, or the span of the handler itself."""
        request = call.request
        if self.tracer is None:
            return request.traceparent
        return self.tracer.handler_traceparent(
            call.invocation_id,
            request.attempt,
            request.traceparent,
            is_accepted=request.due_at is not None,
        )

    def _record_mistake(self, call: _CallState, record: Invocation) -> None:
        """End the record of an invocation that failed because of a bug in this server."""
        stdout, stderr = call.output.take() if call.output is not None else (b"", b"")
        result = CallResult(
            kind=ExitKind.SANDBOX_GONE, reason=MISTAKE, stdout=stdout, stderr=stderr
        )
        now = self._clock.unix()
        took_ms = max(0, math.ceil((now - (record.started_at or now)) * 1000))
        with contextlib.suppress(StoreUnavailable):
            self._close(call, record.after(result, int(now), took_ms), self._clock.now())

    def _record_failure(self, call: _CallState, error: RuntimeUnavailable) -> None:
        """Record an instance-start failure."""
        now = self._clock.now()
        kept = timeline.of_call(call.accepted, now, error.start_timing)
        timing = error.start_timing
        is_placed = timing is not None and timing.placed is not None
        cause = NotStarted("specialised" if is_placed else "placed", str(error))
        record = self._unstarted(call.entry, call.request, call.invocation_id, cause)
        record = msgspec.structs.replace(record, cold_start=True, timeline=kept)
        self._close(call, record, now)

    def _record_cancelled(self, call: _CallState) -> Invocation:
        """Record an invocation that was cancelled before its handler was started."""
        now, cause = self._clock.now(), Cancelled(call.cancelled or "request")
        kept = timeline.of_call(call.accepted, now, None)
        record = self._unstarted(call.entry, call.request, call.invocation_id, cause)
        record = msgspec.structs.replace(record, timeline=kept)
        return record if self._leaves_no_record(call) else self._close(call, record, now)

    def _leaves_no_record(self, call: _CallState) -> bool:
        """Whether to leave no record of an invocation that was not begun. While the store is
        unavailable, each retry of a caller would add a record. Accepted work already has one.
        """
        return self.journal.is_behind and call.request.conclude is None

    def end_unstarted(self, entry: Entry, request: Request, message: str) -> Invocation:
        """End an attempt at accepted work that `invoke` has refused, or that was not passed to it,
        as `error`. Raises `StoreUnavailable`; the record is then stored later.
        """
        invocation_id = request.invocation_id or new_id()
        record = self._unstarted(entry, request, invocation_id, NotStarted("queued", message))
        record = self._write(entry, request, record)
        self._tell_closed(record, request)
        return record

    def _unstarted(
        self, entry: Entry, request: Request, invocation_id: str, cause: Cancelled | NotStarted
    ) -> Invocation:
        event = CallEvent.CANCELLED if isinstance(cause, Cancelled) else CallEvent.ERROR
        return self._record(
            entry,
            request,
            invocation_id,
            status=transition(NEXT, Status.QUEUED, event),
            error_message=cause.sentence,
            end_cause=cause,
            ended_at=int(self._clock.unix()),
            version=(request.version or entry.version).number,
        )

    def _record(
        self, entry: Entry, request: Request, invocation_id: str, **more: Any
    ) -> Invocation:
        """The record of an invocation. `more`: fields that depend on its progress."""
        function = entry.function
        return Invocation(
            invocation_id=invocation_id,
            tenant_id=function.tenant_id,
            function_id=function.id,
            function_name=function.name,
            execution_node_id=self.node_id,
            source=request.source,
            attempt=request.attempt,
            due_at=request.due_at,
            parent_invocation_id=request.parent_invocation_id,
            origin_invocation_id=request.origin_invocation_id,
            **more,
        )

    def _close(self, call: _CallState, record: Invocation, ended: float) -> Invocation:
        """Write the end. The duration of this write is added to the record without another one."""
        record = self._write(call.entry, call.request, record)
        if record.timeline is not None:
            whole = record.timeline.recorded_for(self._clock.now() - ended)
            record = msgspec.structs.replace(record, timeline=whole)
            self.journal.amended(record)
        self._tell_closed(record, call.request)
        return record

    def ended_unrun(self, entry: Entry, record: Invocation) -> None:
        """Count and report the end of accepted work that the store itself has ended: work that was
        cancelled while it waited, that was too old, or whose input can't be decrypted.
        """
        self._count(entry, record)
        self._tell_closed(record)

    def _tell_closed(self, record: Invocation, request: Request | None = None) -> None:
        if self.tracer is not None:
            self.tracer.call_ended(record, None if request is None else request.traceparent)
        for hear in self.on_closed.hearers:
            hear(record)

    def _write(self, entry: Entry, request: Request, record: Invocation) -> Invocation:
        """Write the end of an invocation and, for accepted work, what follows."""
        if request.conclude is not None:
            record = msgspec.structs.replace(record, outcome=request.conclude(record))
        if record.is_final:
            self._count(entry, record)
        self.journal.closed(record)
        return record

    def _count(self, entry: Entry, record: Invocation) -> None:
        metrics.count_call(record)
        entry.counters.count(record)

    def in_background(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run work that continues if the requester leaves."""
        return self._background.spawn(work)

    async def aclose(self) -> None:
        """Wait for background work, once no invocation can run any more."""
        await self._background.join()

    async def drain(self, timeout_s: float) -> None:
        """Refuse new invocations and wait for those in progress, at most `timeout_s` seconds."""
        self._draining = True
        if not self._calls:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return


def _call_of(
    request: Request, variables: dict[str, str], timeout_s: float, output: OutputLog
) -> Call:
    return Call(
        payload=request.payload,
        body=request.body,
        environment=variables,
        replaces_environment=bool(request.environment) and not request.adds_environment,
        timeout_s=timeout_s,
        long_output=request.long_output,
        output=output,
        is_followed=request.on_start is not None,
    )


def _with_own(variables: dict[str, str], version: Version, request: Request) -> dict[str, str]:
    """The variables of an invocation whose request sets some."""
    own = request.environment or {}
    if request.adds_environment:
        return own | variables
    return environment.of_version(version.spec) | own | variables


def _as_running(call: _CallState) -> RunningCall | None:
    if call.running is None or call.output is None:
        return None
    return RunningCall(call.running, call.output)


def not_callable(state: FunctionState) -> QuiltfnError:
    """Why a function that is not active refuses invocations."""
    if state is FunctionState.DELETED:
        return NotFound("there is no such function")
    return not_active(state)


def failure_of(record: Invocation) -> QuiltfnError:
    """The error for a caller whose invocation the platform could not complete."""
    failure: QuiltfnError = (
        RuntimeUnavailable(record.error_message)
        if record.status is Status.ERROR
        else ShuttingDown(record.error_message, retry_after=5)
    )
    failure.with_record(record.invocation_id, executed=True)
    return failure


def check(version: Version, request: Request) -> None:
    """Raises `Unprocessable` or `Forbidden` for a request that this version rejects."""
    limit = version.spec.timeout_seconds
    timeout = request.timeout_seconds
    if timeout is not None and not 1 <= timeout <= limit:
        expected = f"between 1 and the function's own timeout, {limit}"
        raise Unprocessable.field("timeout_seconds", expected, timeout, limit)
    if request.environment:
        if version.spec.runtime_snapshot.kind is Kind.SERVER:
            expected = "absent: a server keeps the variables that it was started with"
            raise Unprocessable.field("environment", expected)
        if not request.may_write:
            check_overrides(version.spec.environment, request.environment)
        check_environment(version.spec.environment | request.environment)
    payload = request.payload
    if payload is not None and len(payload) > PAYLOAD_MAX_BYTES:
        expected = f"at most {PAYLOAD_MAX_BYTES} bytes"
        raise Unprocessable.field("payload", expected, f"{len(payload)} bytes", "{}")
