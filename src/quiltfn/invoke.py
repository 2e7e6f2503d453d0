"""The story of one invocation, told once, from top to bottom."""

import asyncio
import math

import msgspec

from quiltfn.catalog import Entry
from quiltfn.ids import new_id
from quiltfn.model import environment
from quiltfn.model.errors import (
    FunctionNotActive,
    NotFound,
    QuiltfnError,
    RuntimeUnavailable,
    ShuttingDown,
    Unprocessable,
)
from quiltfn.model.function import FunctionState
from quiltfn.model.invocation import PAYLOAD_MAX_BYTES, CallEvent, Invocation, Status
from quiltfn.model.version import Version, check_environment
from quiltfn.observe import metrics
from quiltfn.ports import Call, Clock, Journal, Lease, Pools


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller asks for. `timeout_seconds` None means the function's own."""

    payload: str | None = None
    environment: dict[str, str] | None = None
    timeout_seconds: int | None = None
    traceparent: str | None = None


class Invoker:
    """Runs calls and knows how many are running, so that a server can drain."""

    def __init__(self, pools: Pools, journal: Journal, clock: Clock, node_id: str) -> None:
        self._pools, self._journal, self._clock, self._node_id = pools, journal, clock, node_id
        self.running = 0
        self._draining = False
        self._idle = asyncio.Event()

    async def invoke(self, entry: Entry, request: Request) -> Invocation:
        """One call from request to record. Raises what the caller is to be told instead of one.

        `CapacityFull`, `FunctionNotActive`, `NotFound` and `Unprocessable` leave no record; an
        instance that could not be made leaves one with status `error` and raises
        `RuntimeUnavailable`, as does a sandbox that ended under the call. A call that did not end
        before the server had to raises `ShuttingDown`, with its record.
        """
        if self._draining:
            raise ShuttingDown(retry_after=5)
        if entry.function.state is FunctionState.DELETED:
            raise NotFound("there is no such function")
        if entry.function.state is not FunctionState.ACTIVE:
            raise FunctionNotActive.because(entry.function.state)
        payload, overrides = check(entry.version, request)
        invocation_id = new_id()
        self.running += 1
        try:
            async with self._pools.lease(entry.function.id) as lease:
                record = await self._run(entry, lease, request, payload, overrides, invocation_id)
        except RuntimeUnavailable as error:
            self._record_failure(entry, invocation_id, error)
            error.invocation_id = invocation_id
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
            failure.invocation_id = invocation_id
            raise failure
        return record

    async def _run(
        self,
        entry: Entry,
        lease: Lease,
        request: Request,
        payload: bytes | None,
        overrides: dict[str, str] | None,
        invocation_id: str,
    ) -> Invocation:
        """The call itself: record opened, one round trip, record closed."""
        version = lease.version
        timeout = request.timeout_seconds or version.content.timeout_seconds
        handed_over, started = self._clock.unix(), self._clock.now()
        variables = environment.of_call(
            invocation_id=invocation_id,
            function_name=entry.function.name,
            version=version,
            deadline_unix_ms=round((handed_over + timeout) * 1000),
            payload=payload,
            traceparent=request.traceparent,
        )
        if overrides:
            variables = environment.of_version(version.content) | overrides | variables
        record = Invocation(
            invocation_id=invocation_id,
            tenant_id=entry.function.tenant_id,
            function_id=entry.function.id,
            function_name=entry.function.name,
            execution_node_id=self._node_id,
            status=Status.RUNNING,
            started_at=int(handed_over),
            cold_start=lease.cold_start,
        )
        self._journal.opened(record)
        ended = await lease.call(
            Call(
                payload=payload,
                environment=variables,
                replaces_environment=bool(overrides),
                timeout_s=timeout,
            )
        )
        duration_ms = math.ceil((self._clock.now() - started) * 1000)
        record = record.after(ended, int(self._clock.unix()), duration_ms)
        self._count(entry, record)
        self._journal.closed(record)
        return record

    def _record_failure(self, entry: Entry, invocation_id: str, error: RuntimeUnavailable) -> None:
        """The platform could not run the call: that is kept too."""
        now = int(self._clock.unix())
        record = Invocation(
            invocation_id=invocation_id,
            tenant_id=entry.function.tenant_id,
            function_id=entry.function.id,
            function_name=entry.function.name,
            execution_node_id=self._node_id,
            status=Status(CallEvent.ERROR),
            ended_at=now,
            error_message=str(error),
            cold_start=True,
        )
        self._count(entry, record)
        self._journal.closed(record)

    def _count(self, entry: Entry, record: Invocation) -> None:
        metrics.count_call(record)
        entry.tally.invocation_count += 1
        entry.tally.error_count += record.status is not Status.SUCCESS
        entry.tally.last_invoked_at = record.started_at or record.ended_at

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


def check(version: Version, request: Request) -> tuple[bytes | None, dict[str, str] | None]:
    """The payload as bytes and the environment's overrides, or `Unprocessable`."""
    limit = version.content.timeout_seconds
    timeout = request.timeout_seconds
    if timeout is not None and not 1 <= timeout <= limit:
        expected = f"between 1 and the function's own timeout, {limit}"
        raise Unprocessable.field("timeout_seconds", expected, timeout, limit)
    if request.environment:
        check_environment(version.content.environment | request.environment)
    payload = None if request.payload is None else request.payload.encode()
    if payload is not None and len(payload) > PAYLOAD_MAX_BYTES:
        expected = f"at most {PAYLOAD_MAX_BYTES} bytes"
        raise Unprocessable.field("payload", expected, f"{len(payload)} bytes", "{}")
    return payload, request.environment
