"""Asynchronous invocations: accepts them, and manages them afterwards.

Accepted work is in the store, with its record and its input, before `accept` returns. The
dispatcher (`ports.work.Queue`) runs it.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence

import msgspec

from quiltfn.base.ids import new_id
from quiltfn.calls.invoke import Invoker, Request, check
from quiltfn.functions.catalog import Entry
from quiltfn.functions.policies import Policies
from quiltfn.model.errors import (
    SET_RECORD_POLICY,
    CapacityFull,
    Conflict,
    NotFound,
    OutcomeUnknown,
    ShuttingDown,
)
from quiltfn.model.function import FunctionState, not_active
from quiltfn.model.invocation import FINAL, Invocation, Source, Status
from quiltfn.model.version import Version, no_version
from quiltfn.observe import metrics
from quiltfn.observe.trace import Tracer
from quiltfn.ports import Clock, LongOutput, Page, TenantFunctions
from quiltfn.ports.work import (
    ATTEMPT_OUTPUT_BYTES,
    AcceptedWork,
    Attempt,
    DeadLetter,
    Input,
    Queue,
    QueueCounts,
)
from quiltfn.store.calls.journal import SpoolJournal
from quiltfn.store.calls.work import SqlWork
from quiltfn.store.functions.functions import SqlStore

REFUSED_STATES = (FunctionState.PENDING, FunctionState.ERROR)
WAITED_AT_ONCE = 1000
REDRIVEN_AT_ONCE, REDRIVES_WITHIN_S = 100, 20.0
# Maximum bytes of input in memory for all redrives together, plus one input.
REDRIVEN_BYTES = 8 * 1024 * 1024
# Cancelling is retried, since an attempt that ends at this moment may queue the work again.
CANCEL_ROUNDS = 5
INPUT_NOT_KEPT = "the input of this call is not kept"


class Waiters:
    """Wakes requests that wait for the final record of an invocation."""

    def __init__(self) -> None:
        self._events: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    def call_ended(self, record: Invocation) -> None:
        """Wake the requests that wait for this invocation, unless a retry follows."""
        if self._events and record.is_final:
            for event in self._events.get(record.invocation_id, ()):
                event.set()

    def ids(self) -> list[str]:
        """The ids of invocations that requests wait for."""
        return list(self._events)

    def over(self, invocation_ids: Collection[str]) -> None:
        """Wake the requests for these invocations, which have ended on any node."""
        for invocation_id in invocation_ids:
            for event in self._events.get(invocation_id, ()):
                event.set()

    def release(self) -> None:
        """Wake all requests, since the server is stopping."""
        for events in self._events.values():
            for event in events:
                event.set()

    @contextlib.contextmanager
    def waiting(self, invocation_id: str) -> Iterator[asyncio.Event]:
        """An event that is set once the invocation is over."""
        event = asyncio.Event()
        self._events[invocation_id].add(event)
        try:
            yield event
        finally:
            self._events[invocation_id].discard(event)
            if not self._events[invocation_id]:
                del self._events[invocation_id]


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """Why work was accepted. `parent_id`: the invocation that caused it. `origin_id`: the
    invocation that this one repeats. `invocation_id`: None for a new one.
    """

    source: Source = Source.ASYNC
    parent_id: str | None = None
    origin_id: str | None = None
    invocation_id: str | None = None


BY_CALLER = Cause()


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """Options of a repeated invocation. `version`: None for that of an invocation that names none.
    `caller`: who requested it. `traceparent`: None for that of the original invocation. `payload`:
    replaces the stored payload; UNSET keeps it. `invocation_id`: of the new invocation; None
    generates one.
    """

    version: int | None
    is_async: bool
    caller: str
    traceparent: str | None = None
    payload: bytes | msgspec.UnsetType | None = msgspec.UNSET
    invocation_id: str | None = None


class Redriven(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a redrive: ids of the new invocations, and how many dead letters are left."""

    invocation_ids: Sequence[str]
    remaining: int


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What clients do with asynchronous invocations, and with invocations that are over."""

    store: SqlWork
    functions: SqlStore
    policies: Policies
    journal: SpoolJournal
    invoker: Invoker
    queue: Queue
    clock: Clock
    tracer: Tracer | None = None
    waiters: Waiters = msgspec.field(default_factory=Waiters)
    redriving: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)

    # Accepting -------------------------------------------------------------------------------

    async def accept(
        self,
        entry: Entry,
        given: Input,
        due_at_ms: int | None = None,
        cause: Cause = BY_CALLER,
        version: Version | None = None,
    ) -> Invocation:
        """Queue an invocation and return its record, with status `queued`; both are on disk.

        `due_at_ms`: its earliest start; None, or a time in the past: as soon as possible.
        `version`: the version that `given` names. Raises `CapacityFull` if the queue is full,
        `Forbidden`, `FunctionNotActive` for a function that was never deployed or is in error,
        `NotFound`, `ShuttingDown`, `StoreUnavailable` and `Unprocessable`; then nothing is queued.
        """
        work = self.prepared(entry, given, due_at_ms, cause)
        if version is not None:
            check(version, request_of(given))
        with self.looked_for(work):
            await self.store.accept(work)
        self.stored(work)
        return work.record

    def prepared(
        self, entry: Entry, given: Input, due_at_ms: int | None = None, cause: Cause = BY_CALLER
    ) -> AcceptedWork:
        """The work as `accept` passes it to the store, for code that stores it in its own
        transaction and then calls `stored`. Raises the errors that need no query.
        """
        function = entry.function
        if self.invoker.is_draining:
            raise ShuttingDown(retry_after=5)
        if function.state is FunctionState.DELETED:
            raise NotFound("there is no such function")
        if function.state in REFUSED_STATES:
            raise not_active(function.state)
        if given.version is None:
            check(entry.version, request_of(given))
        policy = self.policies.policy_of(function.id)
        now_ms = int(self.clock.trusted() * 1000)
        due_ms = now_ms if due_at_ms is None else max(now_ms, due_at_ms)
        record = Invocation(
            invocation_id=cause.invocation_id or new_id(),
            tenant_id=function.tenant_id,
            function_id=function.id,
            function_name=function.name,
            execution_node_id=self.invoker.node_id,
            status=Status.QUEUED,
            source=cause.source,
            due_at=due_ms // 1000,
            parent_invocation_id=cause.parent_id,
            origin_invocation_id=cause.origin_id,
        )
        return AcceptedWork(
            record=record,
            input=given,
            given_at=int(self.clock.unix()),
            due_at_ms=due_ms,
            expires_at_ms=due_ms + policy.max_age_seconds * 1000,
            max_queued=policy.max_queued,
        )

    def stored(self, work: AcceptedWork) -> None:
        """Run the work, which is now on disk, when it is due."""
        self._arrived(work)
        self._traced(work)

    @contextlib.contextmanager
    def looked_for(self, *works: AcceptedWork) -> Iterator[None]:
        """If the store does not report whether it has accepted the work items in the block, find
        out later, and run accepted items when they are due.
        """
        try:
            yield
        except OutcomeUnknown:
            for work in works:
                self._arrived(work)
            raise

    def _arrived(self, work: AcceptedWork) -> None:
        record = work.record
        self.queue.arrived(record.function_id, record.tenant_id, work.due_at_ms)

    def _traced(self, work: AcceptedWork) -> None:
        if self.tracer is not None:
            self.tracer.work_accepted(work.record, work.input.traceparent)

    # Waiting and cancelling ------------------------------------------------------------------

    async def wait(self, entry: Entry, invocation_id: str, seconds: float) -> None:
        """Return once a record is final, at the timeout, or when the server stops. Raises
        `NotFound`.
        """
        with self.waiters.waiting(invocation_id) as over:
            record = await self.outline(entry, invocation_id)
            if record.is_final or self.invoker.is_draining:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await over.wait()

    async def follow_ends(self) -> None:
        """Wake requests that wait for invocations that another node has ended."""
        waited_for = self.waiters.ids()
        for start in range(0, len(waited_for), WAITED_AT_ONCE):
            some = waited_for[start : start + WAITED_AT_ONCE]
            self.waiters.over(await self.store.over(some))

    async def cancel(self, entry: Entry, invocation_id: str) -> Invocation:
        """Cancel a queued or running invocation; return its `cancelled` record, which is on disk.

        Raises `Conflict` if it is over already, `NotFound`, and `StoreUnavailable`.
        """
        function_id = entry.function.id
        for _ in range(CANCEL_ROUNDS):
            ended = await self.invoker.cancel(function_id, invocation_id)
            if ended is not None and ended.status is Status.CANCELLED:
                await self.journal.synced()
                # The invocation may have run on another node, and its end may be stored.
                ended = await self.journal.get(function_id, invocation_id) or ended
                if ended.status is Status.CANCELLED:
                    return ended
            if ended is None:
                ended = await self.outline(entry, invocation_id)
            if ended.is_final:
                raise Conflict(
                    f"the call is over: its status is {ended.status}",
                    details={"state": ended.status},
                )
            await self.queue.withdraw(invocation_id)
            waited = await self.store.cancel(function_id, invocation_id, int(self.clock.unix()))
            if waited is not None:
                self.invoker.ended_unrun(entry, waited)
                return waited
            await self.journal.synced()  # stores the outcome of an attempt that has ended
        raise Conflict("the call is between two attempts", hint="try again", retry_after=1)

    # Queries ---------------------------------------------------------------------------------

    async def attempts(self, entry: Entry, invocation_id: str) -> Sequence[Attempt]:
        """Completed attempts with their output, oldest first. Raises `NotFound`."""
        function_id = entry.function.id
        outline = await self.journal.outline(function_id, invocation_id)
        if outline is None:
            raise no_such_call()
        attempts = list(await self.attempts_at(outline.record))
        if outline.record.is_final and attempts and attempts[-1].attempt == outline.record.attempt:
            ends = {}
            for stream, size in outline.sizes.items():
                span = max(0, size - ATTEMPT_OUTPUT_BYTES), ATTEMPT_OUTPUT_BYTES
                ends[stream] = await self.journal.read_output(
                    function_id, invocation_id, stream, *span
                )
            attempts[-1] = msgspec.structs.replace(attempts[-1], **ends)
        return attempts

    async def attempts_at(self, record: Invocation) -> Sequence[Attempt]:
        """The completed attempts at the invocation of a record, oldest first."""
        if record.due_at is None:
            return [attempt_of(record)] if _was_attempted(record) else []
        await self.journal.synced()
        return await self.store.attempts(record.invocation_id)

    async def input(self, entry: Entry, invocation_id: str) -> tuple[Invocation, Input]:
        """An invocation's record without its output, and its input. Raises `NotFound`, also if the
        input was not stored.
        """
        record = await self.outline(entry, invocation_id)
        given = await self.store.input(invocation_id)
        if given is None:
            hint = f"{SET_RECORD_POLICY.text} says whose inputs are kept"
            raise NotFound(INPUT_NOT_KEPT, hint=hint, see=SET_RECORD_POLICY)
        return record, given

    async def keep_input(self, record: Invocation, request: Request, caller: str) -> None:
        """Store the input of a synchronous invocation, if its function's policy requires it.
        `caller`: who requested it.
        """
        keeps = self.policies.record_policy_of(record.function_id).keep_input == "all"
        if keeps and request.body is None:
            await self.store.keep_input(record, input_of(request, caller))

    async def counts(self, entry: Entry, now_ms: int | None = None) -> QueueCounts:
        """Counts of the function's asynchronous invocations. Includes ends that clients have seen
        but that are not committed yet.
        """
        await self.journal.synced()
        now_ms = int(self.clock.trusted() * 1000) if now_ms is None else now_ms
        return await self.store.counts(entry.function.id, now_ms)

    async def queues(
        self, of: TenantFunctions, limit: int, cursor: str | None, now_ms: int
    ) -> Page[tuple[str, QueueCounts]]:
        """Like `counts`, for each function with asynchronous invocations or dead letters."""
        await self.journal.synced()
        return await self.store.queues(of, limit, cursor, now_ms)

    async def stored_counts(self, function_id: str) -> QueueCounts:
        """Like `counts`, without uncommitted records."""
        return await self.store.counts(function_id, int(self.clock.trusted() * 1000))

    async def queued(self) -> int:
        """The number of queued invocations of all functions."""
        return sum(one.waiting for one in await self.store.load())

    async def show_queues(self) -> None:
        """Update the queue metrics of all functions."""
        now_ms, queues = int(self.clock.trusted() * 1000), await self.store.load()
        first_ms = min((one.next_due_ms for one in queues), default=now_ms)
        waiting = sum(one.waiting for one in queues)
        metrics.show_queue(waiting, max(0, now_ms - first_ms) / 1000)

    # Running again ---------------------------------------------------------------------------

    async def replay(
        self,
        entry: Entry,
        origin_id: str,
        run: Replay,
        output: LongOutput,
        reserve: Callable[[int], None],
    ) -> Invocation:
        """Run the stored input of an invocation again, under a new id. With `run.is_async` the
        returned record is `queued`, otherwise it is final. `reserve`: called with the bytes of
        input that stay in memory until the end; may refuse. Raises `NotFound` if the function has
        no such version or the input is not stored, and the errors of `accept` and `Invoker.invoke`.
        """
        _, given = await self.input(entry, origin_id)
        reserve(given.size_bytes)
        version = entry.version if run.version == entry.version.number else None
        if run.version is not None and version is None:
            version = await self.functions.version(entry.function.id, run.version)
            if version is None:
                raise NotFound(no_version(run.version))
        number = None if version is None else version.number
        given = msgspec.structs.replace(
            given,
            version=number,
            caller=run.caller,
            traceparent=run.traceparent or given.traceparent,
        )
        if run.payload is not msgspec.UNSET:
            given = msgspec.structs.replace(given, payload=run.payload)
        if run.is_async:
            cause = Cause(
                source=Source.REPLAY, origin_id=origin_id, invocation_id=run.invocation_id
            )
            return await self.accept(entry, given, cause=cause, version=version)
        request = msgspec.structs.replace(
            request_of(given),
            version=version,
            source=Source.REPLAY,
            origin_invocation_id=origin_id,
            invocation_id=run.invocation_id,
            long_output=output,
        )
        record = await self.invoker.invoke(entry, request)
        await self.keep_input(record, request, run.caller)
        return record

    async def dead_letters(
        self, of: Entry | TenantFunctions, limit: int, cursor: str | None
    ) -> Page[DeadLetter]:
        """Dead letters of functions, newest first, including those that are not committed yet but
        that clients have seen.
        """
        await self.journal.synced()
        functions = of if isinstance(of, TenantFunctions) else of.function.id
        return await self.store.dead_letters(functions, limit, cursor)

    async def redrive(self, entry: Entry, invocation_ids: Sequence[str] | None) -> Redriven:
        """Queue dead letters again, each under a new id; None: all of them, within a time limit.
        Ids that name no dead letter, or one without a stored input, are left out. Raises as
        `accept` does, but `CapacityFull` only if none could be queued.
        """
        made: list[str] = []
        await self.journal.synced()
        try:
            if invocation_ids is None:
                await self._redrive_all(entry, made)
            else:
                wanted = list(dict.fromkeys(invocation_ids))
                for start in range(0, len(wanted), REDRIVEN_AT_ONCE):
                    some = wanted[start : start + REDRIVEN_AT_ONCE]
                    made += await self._redrive_some(entry, some)
        except CapacityFull:
            if not made:
                raise
        left = (await self.counts(entry)).dead_letters
        return Redriven(invocation_ids=made, remaining=left)

    async def _redrive_all(self, entry: Entry, made: list[str]) -> None:
        cursor, end = None, self.clock.now() + REDRIVES_WITHIN_S
        while self.clock.now() < end:
            page = await self.store.dead_letters(entry.function.id, REDRIVEN_AT_ONCE, cursor)
            made += await self._redrive_some(entry, [one.invocation_id for one in page.items])
            cursor = page.next_cursor
            if cursor is None:
                return

    async def _redrive_some(self, entry: Entry, invocation_ids: Sequence[str]) -> Sequence[str]:
        left, ids = list(invocation_ids), list[str]()
        while left:
            async with self.redriving:
                ids += await self._redrive_slice(entry, left)
        return ids

    async def _redrive_slice(self, entry: Entry, left: list[str]) -> Sequence[str]:
        """Take the first of `left`, within the memory limit."""
        again: list[tuple[str, AcceptedWork]] = []
        size = 0
        while left and size < REDRIVEN_BYTES:
            letter = left.pop(0)
            given = await self.store.dead_input(entry.function.id, letter)
            if given is not None:
                cause = Cause(source=Source.REDRIVE, origin_id=letter)
                work = self.prepared(entry, given, cause=cause)
                again.append((letter, work))
                size += given.size_bytes
        if not again:
            return []
        with self.looked_for(again[0][1]):  # all are of one function, and due at once
            ids = await self.store.redrive(entry.function.id, again)
        made = set(ids)
        taken = [work for _, work in again if work.record.invocation_id in made]
        if taken:
            self.stored(taken[0])
        for work in taken[1:]:
            self._traced(work)
        return ids

    async def drop(self, entry: Entry, invocation_id: str) -> None:
        """Remove a dead letter; its record stays. Raises `NotFound`."""
        await self.journal.synced()
        if not await self.store.drop_dead_letter(entry.function.id, invocation_id):
            raise NotFound("the function has no dead letter with this id")

    async def record(self, entry: Entry, invocation_id: str) -> Invocation:
        """The record of an invocation. Raises `NotFound`."""
        record = await self.journal.get(entry.function.id, invocation_id)
        if record is None:
            raise no_such_call()
        return record

    async def outline(self, entry: Entry, invocation_id: str) -> Invocation:
        """The record of an invocation without its output. Raises `NotFound`."""
        found = await self.journal.outline(entry.function.id, invocation_id)
        if found is None:
            raise no_such_call()
        return found.record


def no_such_call() -> NotFound:
    return NotFound("the function has no invocation with this id")


def request_of(given: Input) -> Request:
    """A stored input as a request, to be checked or run."""
    return Request(
        payload=given.payload,
        environment=given.environment,
        timeout_seconds=given.timeout_seconds,
        traceparent=given.traceparent,
        may_write=given.may_write,
    )


def input_of(request: Request, caller: str) -> Input:
    """The input of `request`, as it is stored."""
    return Input(
        payload=request.payload,
        environment=request.environment,
        timeout_seconds=request.timeout_seconds,
        version=None if request.version is None else request.version.number,
        caller=caller,
        may_write=request.may_write,
        traceparent=request.traceparent,
    )


def attempt_of(record: Invocation) -> Attempt:
    """The attempt that a record is about."""
    return Attempt(
        attempt=record.attempt,
        status=record.status,
        started_at=record.started_ms,
        ended_at=None if record.ended_at is None else record.ended_at * 1000,
        duration_ms=record.duration_ms,
        exit_code=record.exit_code,
        error_message=record.error_message,
        execution_node_id=record.execution_node_id,
        cold_start=record.cold_start,
        version=record.version,
        end_cause=record.cause,
    )


def _was_attempted(record: Invocation) -> bool:
    """Whether the invocation is over and may have had an attempt; a failed start counts."""
    unstarted_too = record.status in (Status.ERROR, Status.INTERRUPTED)
    return record.status in FINAL and (record.started_at is not None or unstarted_too)
