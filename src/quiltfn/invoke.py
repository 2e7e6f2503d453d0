"""The story of one invocation, told once, from top to bottom."""

import asyncio
import contextlib
import math

import msgspec

from quiltfn.catalog import Entry
from quiltfn.ids import new_id
from quiltfn.model import environment, timeline
from quiltfn.model.errors import (
    FunctionNotActive,
    Internal,
    NotFound,
    QuiltfnError,
    RuntimeUnavailable,
    ShuttingDown,
    StoreUnavailable,
    Unprocessable,
)
from quiltfn.model.function import FunctionState
from quiltfn.model.invocation import (
    PAYLOAD_MAX_BYTES,
    CallEvent,
    CallResult,
    ExitKind,
    Invocation,
    Status,
)
from quiltfn.model.overrides import check_overrides
from quiltfn.model.version import Version, check_environment
from quiltfn.observe import metrics
from quiltfn.ports import Call, Clock, Journal, Lease, LongOutput, Pools

MISTAKE = "the server made a mistake; its log has more"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller asks for. `timeout_seconds` None means the function's own. `may_write`: whether
    the caller's scope is `write` or more, so that it may set any variable."""

    payload: bytes | None = None
    environment: dict[str, str] | None = None
    timeout_seconds: int | None = None
    traceparent: str | None = None
    may_write: bool = False
    long_output: LongOutput | None = None


class _CallState(msgspec.Struct):
    """A request that was accepted. `accepted` in monotonic seconds. `is_handed_over`: from here on
    the handler may have done its work. `running`: its record, as long as that has no end.
    """

    entry: Entry
    request: Request
    invocation_id: str
    accepted: float
    is_handed_over: bool = False
    running: Invocation | None = None


class Invoker:
    """Runs calls and knows how many are running, so that a server can drain."""

    def __init__(self, pools: Pools, journal: Journal, clock: Clock, node_id: str) -> None:
        self._pools, self._journal, self._clock, self._node_id = pools, journal, clock, node_id
        self.running = 0
        self._draining = False
        self._idle = asyncio.Event()

    async def invoke(self, entry: Entry, request: Request) -> Invocation:
        """One call from request to record. Raises what the caller is to be told instead of one.

        `CapacityFull`, `Forbidden`, `FunctionNotActive`, `NotFound` and `Unprocessable` leave no
        record; an instance that could not be made leaves one with status `error` and raises
        `RuntimeUnavailable`, as does a sandbox that ended under the call. A call that did not end
        before the server had to raises `ShuttingDown`, with its record.
        """
        accepted = self._clock.now()
        if self._draining:
            raise ShuttingDown(retry_after=5)
        if entry.function.state is FunctionState.DELETED:
            raise NotFound("there is no such function")
        if entry.function.state is not FunctionState.ACTIVE:
            raise FunctionNotActive.because(entry.function.state)
        check(entry.version, request)
        call = _CallState(entry, request, new_id(), accepted)
        self.running += 1
        try:
            async with self._pools.lease(entry.function.id) as lease:
                record = await self._run(call, lease)
            if self._journal.is_strict:
                await self._journal.synced()
            else:
                await self._journal.drain()
        except Exception as error:
            await self._failed(call, error)
            raise
        finally:
            self.running -= 1
            if self._draining and self.running == 0:
                self._idle.set()
        failure: QuiltfnError | None = None
        if record.status is Status.ERROR:
            failure = RuntimeUnavailable(record.error_message)
        elif record.status is Status.INTERRUPTED:
            failure = ShuttingDown(record.error_message, retry_after=5)
        if failure is not None:
            failure.with_record(call.invocation_id, executed=True)
            raise failure
        return record

    async def _failed(self, call: _CallState, error: Exception) -> None:
        """What there is to be known of a call that `error` came of instead of an answer. Raises
        another error where that says more.
        """
        if call.is_handed_over:
            if call.running is not None:
                self._record_mistake(call, call.running)
            if not isinstance(error, QuiltfnError):
                mistake = Internal(MISTAKE)
                mistake.with_record(call.invocation_id, executed=True)
                raise mistake from error
            error.with_record(call.invocation_id, executed=True)
        elif isinstance(error, RuntimeUnavailable):
            error.with_record(call.invocation_id, executed=False)
            try:
                self._record_failure(call, error)
                if self._journal.is_strict:
                    await self._journal.synced()
            except StoreUnavailable as unkept:
                unkept.with_record(call.invocation_id, executed=False)
                raise

    async def _run(self, call: _CallState, lease: Lease) -> Invocation:
        """The call itself: record opened, one round trip, record closed."""
        function, version, start_timing = call.entry.function, lease.version, lease.start_timing
        timeout = call.request.timeout_seconds or version.spec.timeout_seconds
        handed_over, started = self._clock.unix(), self._clock.now()
        variables = environment.of_call(
            invocation_id=call.invocation_id,
            function_name=function.name,
            version=version,
            deadline_unix_ms=round((handed_over + timeout) * 1000),
            payload=call.request.payload,
            traceparent=call.request.traceparent,
        )
        if call.request.environment:
            variables = environment.of_version(version.spec) | call.request.environment | variables
        record = Invocation(
            invocation_id=call.invocation_id,
            tenant_id=function.tenant_id,
            function_id=function.id,
            function_name=function.name,
            execution_node_id=self._node_id,
            status=Status.RUNNING,
            started_at=int(handed_over),
            cold_start=start_timing is not None,
        )
        before = self._clock.now()
        self._journal.opened(record)
        recorded = self._clock.now() - before
        call.is_handed_over, call.running = True, record
        result = await lease.call(
            Call(
                payload=call.request.payload,
                environment=variables,
                replaces_environment=bool(call.request.environment),
                timeout_s=timeout,
                long_output=call.request.long_output,
            )
        )
        took = self._clock.now() - started
        kept = timeline.of_call(
            call.accepted, started, start_timing, ran=took - recorded, recorded=recorded
        )
        record = record.after(
            result,
            int(handed_over + took),
            math.ceil(took * 1000),
            kept,
            is_value=version.spec.runtime_snapshot.returns_values,
        )
        call.running = None
        return self._close(call.entry, record, started + took)

    def _record_mistake(self, call: _CallState, record: Invocation) -> None:
        """A mistake of ours came between a call and its end: its record ends all the same."""
        result = CallResult(kind=ExitKind.SANDBOX_GONE, reason=MISTAKE)
        now = self._clock.unix()
        took_ms = max(0, math.ceil((now - (record.started_at or now)) * 1000))
        with contextlib.suppress(StoreUnavailable):
            self._close(call.entry, record.after(result, int(now), took_ms), self._clock.now())

    def _record_failure(self, call: _CallState, error: RuntimeUnavailable) -> None:
        """The platform could not run the call: that is kept too."""
        function, now = call.entry.function, self._clock.now()
        record = Invocation(
            invocation_id=call.invocation_id,
            tenant_id=function.tenant_id,
            function_id=function.id,
            function_name=function.name,
            execution_node_id=self._node_id,
            status=Status(CallEvent.ERROR),
            ended_at=int(self._clock.unix()),
            error_message=str(error),
            cold_start=True,
            timeline=timeline.of_call(call.accepted, now, error.start_timing),
        )
        self._close(call.entry, record, now)

    def _close(self, entry: Entry, record: Invocation, ended: float) -> Invocation:
        """Writes the end of a call; what writing it took is known only after that."""
        self._count(entry, record)
        self._journal.closed(record)
        if record.timeline is not None:
            whole = record.timeline.recorded_for(self._clock.now() - ended)
            record = msgspec.structs.replace(record, timeline=whole)
            self._journal.amended(record)
        return record

    def _count(self, entry: Entry, record: Invocation) -> None:
        metrics.count_call(record)
        entry.counters.invocation_count += 1
        entry.counters.error_count += record.status is not Status.SUCCESS
        entry.counters.last_invoked_at = record.started_at or record.ended_at

    async def drain(self, timeout_s: float) -> None:
        """Takes no new calls and waits for the running ones, at most `timeout_s`."""
        self._draining = True
        if self.running == 0:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return


def check(version: Version, request: Request) -> None:
    """Raises `Unprocessable` or `Forbidden` for what this version does not take from the caller."""
    limit = version.spec.timeout_seconds
    timeout = request.timeout_seconds
    if timeout is not None and not 1 <= timeout <= limit:
        expected = f"between 1 and the function's own timeout, {limit}"
        raise Unprocessable.field("timeout_seconds", expected, timeout, limit)
    if request.environment:
        if not request.may_write:
            check_overrides(version.spec.environment, request.environment)
        check_environment(version.spec.environment | request.environment)
    payload = request.payload
    if payload is not None and len(payload) > PAYLOAD_MAX_BYTES:
        expected = f"at most {PAYLOAD_MAX_BYTES} bytes"
        raise Unprocessable.field("payload", expected, f"{len(payload)} bytes", "{}")
