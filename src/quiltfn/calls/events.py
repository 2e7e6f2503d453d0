"""Sends a tenant's events to its followers.

A tenant with followers has a ring buffer with the events of the last minute, within bounds. A
reader is only a position in the buffer, so a slow reader costs nothing: the events that it missed
are gone, and a `gap` event reports that. Without followers, no events are kept or counted.

Each kind of event is reported by one part of the server: functions by `functions/catalog.py`,
invocations by `invoke.py`, instance counts by the pools, queues by the dispatcher and `invoke.py`,
runs by the schedules, and rolled-back canaries by `functions/aliases.py`. `server/platform.py`
connects them. On a node of a fleet, events of other nodes are added by `heard`.
"""

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Set
from typing import Any

import msgspec

from quiltfn.base.signal import Signal
from quiltfn.base.task_group import TaskGroup
from quiltfn.model.alias import Alias
from quiltfn.model.counts import PoolCounts
from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.event import (
    ALWAYS,
    CallSummary,
    Event,
    EventType,
    change_of,
    told_of_end,
    told_of_function,
    told_of_start,
)
from quiltfn.model.function import Function
from quiltfn.model.invocation import Invocation
from quiltfn.ports import Clock
from quiltfn.ports.work import QueueCounts

KEPT_S, KEPT_EVENTS, KEPT_BYTES = 60.0, 2000, 512 * 1024
# Maximum number of functions whose last reported counts are kept.
COUNTS_KEPT = 20_000
# Minimum seconds between reports of a function's counts, and of sums of its invocations.
EVERY_S = 0.25
# Maximum number of starts and ends of a function's invocations that are reported individually in
# that time. If a period summed up more, the next one reports only a sum.
ONE_BY_ONE = 6
POSITION = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")


class _Kept(msgspec.Struct, frozen=True, gc=False):
    """An event in a ring. `at` in monotonic seconds."""

    number: int
    at: float
    type: EventType
    function_id: str
    data: bytes


class _Ring:
    """The last events of one tenant. `touched`: when a reader last came or left, in monotonic
    seconds.
    """

    def __init__(self, following: int, now: float) -> None:
        self.kept: deque[_Kept] = deque()
        self.following = following  # the number of the next event
        self.size = 0
        self.touched = now
        self.readers = 0
        self.changed = asyncio.Event()
        self.counts: dict[str, bytes] = {}  # last reported instance counts, by function

    @property
    def first(self) -> int:
        """The number of the oldest event kept, or of the next one."""
        return self.kept[0].number if self.kept else self.following

    def add(self, event: _Kept) -> None:
        self.kept.append(event)
        self.following = event.number + 1
        self.size += len(event.data)
        while len(self.kept) > KEPT_EVENTS or self.size > KEPT_BYTES:
            self.drop_first()
        self.drop_old(event.at)
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def drop_old(self, now: float) -> None:
        while self.kept and self.kept[0].at < now - KEPT_S:
            self.drop_first()

    def drop_first(self) -> None:
        self.size -= len(self.kept.popleft().data)


class _Burst:
    """A function's invocations since their last reported sum."""

    def __init__(self, sent: int = 0) -> None:
        self.sent = sent
        self.rest: CallSummary | None = None
        # Whether its instances changed; they are then reported with the sum, in one packet.
        self.pool_changed = False

    def summary(self) -> CallSummary | None:
        """The sum that this event is added to; None: it is reported individually."""
        if self.sent < ONE_BY_ONE:
            self.sent += 1
            return None
        return self.sum()

    def sum(self) -> CallSummary:
        """The sum of the events that are not reported individually."""
        if self.rest is None:
            self.rest = CallSummary()
        return self.rest


class Cursor:
    """The position of one reader in a tenant's events. Inside its `with` block, and for a minute
    after it, the last minute of events is kept, within bounds.
    """

    def __init__(self, ring: _Ring, start: int | None, epoch: int, clock: Clock) -> None:
        """`start`: the number of the next event; None: start with the next new event, before which
        events may be missing.
        """
        self._ring, self._epoch, self._clock = ring, epoch, clock
        self._at = ring.following if start is None else start
        self.is_reset = start is None  # the next event is then a `reset`
        self.function_id = ""  # of the last event returned

    def __enter__(self) -> "Cursor":
        self._ring.readers += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._ring.readers -= 1
        self._ring.touched = self._clock.now()

    @property
    def id(self) -> str:
        """The id of the last event returned, or of the one before the first."""
        return f"{self._epoch}-{self._at - 1}"

    @property
    def changed(self) -> asyncio.Event:
        """Set once there are more events."""
        return self._ring.changed

    def next(self) -> Event | None:
        """The next event; None: there is none yet."""
        ring = self._ring
        if self.is_reset:
            self.is_reset = False
            return Event(id=self.id, type=EventType.RESET, data=b"{}")
        if self._at < ring.first:
            missed, self._at = ring.first - self._at, ring.first
            return Event(id=self.id, type=EventType.GAP, data=b'{"events":%d}' % missed)
        if self._at == ring.following:
            return None
        kept = ring.kept[self._at - ring.first]
        self._at, self.function_id = kept.number + 1, kept.function_id
        return Event(id=self.id, type=kept.type, data=kept.data)


class Events:
    """The events of each tenant. `epoch`: the number of this start of the server. `pool_counts`:
    counts the instances of a function; `queue_counts`: counts its asynchronous invocations, for one
    function at a time; None reports queues without counts.
    """

    def __init__(
        self,
        clock: Clock,
        epoch: int,
        pool_counts: Callable[[str], PoolCounts],
        queue_counts: Callable[[str], Awaitable[QueueCounts]] | None,
    ) -> None:
        self._clock, self._epoch = clock, epoch
        self._pool_counts, self._queue_counts = pool_counts, queue_counts
        self._counting = asyncio.Lock()
        self._tasks = TaskGroup()
        self._rings: dict[str, _Ring] = {}
        self._first = 1  # smaller numbers may belong to events that are gone
        self._bursts: dict[str, _Burst] = {}
        self._waiting: set[tuple[EventType, str]] = set()
        # Set, and replaced, at each event of any tenant.
        self.changed = asyncio.Event()
        # Emitted when `followed` changes.
        self.on_followed: Signal[[]] = Signal()

    @property
    def followed(self) -> Set[str]:
        """The tenants whose events are kept now."""
        return self._rings.keys()

    # Events of this node ---------------------------------------------------------------------

    def function_changed(self, before: Function | None, after: Function | None) -> None:
        """A function was created (`before` None), changed or deleted (`after` None)."""
        function = after or before
        if not self._rings or function is None:
            return
        kind = change_of(before, after)
        self._tell(function.tenant_id, kind, function.id, told_of_function(function))

    def call_started(self, record: Invocation) -> None:
        """Report that an invocation is about to be handed to a handler."""
        if not self._rings or record.tenant_id not in self._rings:
            return
        summary = self._burst(record.tenant_id, record.function_id).summary()
        if summary is None:
            data = told_of_start(record)
            self._tell(record.tenant_id, EventType.INVOCATION_STARTED, record.function_id, data)
        else:
            summary.add_start(cold_start=record.cold_start)
        self._work_changed(record)

    def call_ended(self, record: Invocation) -> None:
        """Report the end of an attempt at an invocation."""
        if not self._rings or record.tenant_id not in self._rings:
            return
        summary = self._burst(record.tenant_id, record.function_id).summary()
        if summary is None:
            data = told_of_end(record)
            self._tell(record.tenant_id, EventType.INVOCATION_ENDED, record.function_id, data)
        else:
            summary.add_end(record.status.value, record.duration_ms)
        self._work_changed(record)

    def pool_changed(self, tenant_id: str, function_id: str) -> None:
        """Count and report a function's instances, which have changed, in a moment."""
        if not self._rings or tenant_id not in self._rings:
            return
        burst = self._bursts.get(function_id)
        if burst is not None:
            burst.pool_changed = True
        else:
            self._later_once(EventType.POOL, self._tell_pool, tenant_id, function_id)

    def queue_changed(self, tenant_id: str, function_id: str) -> None:
        """Report a queue in a moment: work arrived, or an attempt at it began or ended."""
        if self._rings and tenant_id in self._rings:
            self._later_once(EventType.QUEUE, self._count_queue, tenant_id, function_id)

    def _work_changed(self, record: Invocation) -> None:
        """Like `queue_changed`, for the record of an attempt; ignores synchronous invocations,
        which have no queue.
        """
        if record.due_at is not None:
            self.queue_changed(record.tenant_id, record.function_id)

    def schedule_fired(
        self, tenant_id: str, schedule: str, function_id: str, invocation_id: str
    ) -> None:
        """Report that a tick of a schedule has become an invocation."""
        data = {
            "schedule": schedule,
            "function_id": function_id,
            "invocation_id": invocation_id,
        }
        self._tell(tenant_id, EventType.SCHEDULE_FIRED, function_id, data)

    def alias_rolled_back(
        self, tenant_id: str, function_id: str, before: Alias, after: Alias
    ) -> None:
        """Report that a canary was rolled back: its alias has lost the second version."""
        data = {
            "function_id": function_id,
            "alias": after.name,
            "version": after.version,
            "taken_back": None if before.also is None else before.also.version,
            "reason": after.rolled_back,
        }
        self._tell(tenant_id, EventType.ALIAS_ROLLED_BACK, function_id, data)

    # Events of other nodes -------------------------------------------------------------------

    def heard(self, tenant_id: str, kind: EventType, data: bytes) -> None:
        """Add an event of another node. It counts toward its function's limits like a local event.
        Instance and queue counts are computed again here, since they are sums over the nodes.
        Raises `msgspec.DecodeError` for data that is not a valid event.
        """
        if tenant_id not in self._rings:
            return
        fields = msgspec.json.decode(data, type=dict[str, Any])
        function_id = str(fields.get("function_id", ""))
        if kind is EventType.POOL:
            self.pool_changed(tenant_id, function_id)
        elif kind is EventType.QUEUE:
            self.queue_changed(tenant_id, function_id)
        elif kind is EventType.CALLS:
            self._burst(tenant_id, function_id).sum().add(fields)
        elif kind in (EventType.INVOCATION_STARTED, EventType.INVOCATION_ENDED):
            summary = self._burst(tenant_id, function_id).summary()
            if summary is None:
                self._tell(tenant_id, kind, function_id, fields)
            elif kind is EventType.INVOCATION_STARTED:
                summary.add_start(cold_start=bool(fields["cold_start"]))
            else:
                summary.add_end(fields["status"], fields["duration_ms"])
        else:
            self._tell(tenant_id, kind, function_id, fields)

    def missed(self, tenant_id: str, node: str, events: int | None) -> None:
        """Report that this number of events of another node are missing here; None: unknown."""
        self._tell(tenant_id, EventType.GAP, "", {"events": events, "node_id": node})

    # Following -------------------------------------------------------------------------------

    def reader(
        self,
        tenant_id: str,
        function_id: str | None = None,
        types: frozenset[EventType] | None = None,
        last_id: str | None = None,
    ) -> AsyncGenerator[Event, None]:
        """The events of a tenant from now on, or after the one with the id `last_id`. Without
        `function_id`, those of all functions; without `types`, those of all types. The iterator
        does not end by itself.

        An event reports what is no longer available: `reset` if all events since `last_id` are
        gone, and `gap` with the number of events if this reader was slow.
        """
        return self._events(self.cursor(tenant_id, last_id), function_id, types)

    def cursor(self, tenant_id: str, last_id: str | None = None) -> "Cursor":
        """A reader's cursor in a tenant's events: after the newest, or after the event with that
        id. Use it in a `with` block.
        """
        now = self._clock.now()
        ring = self._rings.get(tenant_id)
        if ring is None:
            ring = self._rings[tenant_id] = _Ring(self._first, now)
            asyncio.get_running_loop().call_later(KEPT_S, self._forget, tenant_id)
            for hear in self.on_followed.hearers:
                hear()
        ring.touched = now
        ring.drop_old(now)
        start = ring.following if last_id is None else self._behind(ring, last_id)
        return Cursor(ring, start, self._epoch, self._clock)

    def _behind(self, ring: _Ring, last_id: str) -> int | None:
        """The number after the event with this id; None if events may be missing."""
        found = POSITION.fullmatch(last_id)
        if found is None or int(found[1]) != self._epoch:
            return None
        number = int(found[2]) + 1
        return number if ring.first <= number <= ring.following else None

    async def _events(
        self, cursor: "Cursor", function_id: str | None, types: frozenset[EventType] | None
    ) -> AsyncGenerator[Event, None]:
        with cursor:
            while True:
                changed = cursor.changed
                found = cursor.next()
                if found is None:
                    await changed.wait()
                elif found.type in ALWAYS or (
                    (function_id is None or cursor.function_id == function_id)
                    and (types is None or found.type in types)
                ):
                    yield found

    def _forget(self, tenant_id: str) -> None:
        """Drop a ring that had no reader for a minute; otherwise check again a minute later. A ring
        with a reader stays, however slow the reader is.
        """
        ring = self._rings[tenant_id]
        if not ring.readers and self._clock.now() - ring.touched >= KEPT_S:
            self._first = max(self._first, ring.following)
            del self._rings[tenant_id]
            for hear in self.on_followed.hearers:
                hear()
        else:
            asyncio.get_running_loop().call_later(KEPT_S, self._forget, tenant_id)

    # Reporting -------------------------------------------------------------------------------

    def _tell(
        self, tenant_id: str, kind: EventType, function_id: str, fields: Mapping[str, Any]
    ) -> None:
        ring = self._rings.get(tenant_id)
        if ring is not None:
            data = msgspec.json.encode(fields)
            ring.add(_Kept(ring.following, self._clock.now(), kind, function_id, data))
            changed, self.changed = self.changed, asyncio.Event()
            changed.set()

    def _burst(self, tenant_id: str, function_id: str) -> _Burst:
        burst = self._bursts.get(function_id)
        if burst is None:
            burst = self._bursts[function_id] = _Burst()
            self._later(self._end_burst, tenant_id, function_id)
        return burst

    def _end_burst(self, tenant_id: str, function_id: str) -> None:
        burst = self._bursts.pop(function_id)
        rest = burst.rest
        if rest is not None:
            single = ONE_BY_ONE if rest.count > ONE_BY_ONE else 0
            self._bursts[function_id] = _Burst(single)
            self._tell(tenant_id, EventType.CALLS, function_id, rest.event_data(function_id))
            self._later(self._end_burst, tenant_id, function_id)
        if burst.pool_changed:
            self._tell_pool(tenant_id, function_id)

    def _later_once(
        self, kind: EventType, then: Callable[[str, str], None], tenant_id: str, function_id: str
    ) -> None:
        """Call `then` a moment later. Further changes of this kind cause no second call until
        `then` removes the function from `_waiting`.
        """
        key = (kind, function_id)
        if key not in self._waiting:
            self._waiting.add(key)
            self._later(then, tenant_id, function_id)

    def _tell_pool(self, tenant_id: str, function_id: str) -> None:
        """Report the instance counts of a function, if they differ from the last report."""
        self._waiting.discard((EventType.POOL, function_id))
        ring = self._rings.get(tenant_id)
        if ring is None:
            return
        fields = {"function_id": function_id, **msgspec.to_builtins(self._pool_counts(function_id))}
        data = msgspec.json.encode(fields)
        if ring.counts.get(function_id) != data:
            ring.counts[function_id] = data
            if len(ring.counts) > COUNTS_KEPT:  # bounded, since functions come and go
                del ring.counts[next(iter(ring.counts))]
            self._tell(tenant_id, EventType.POOL, function_id, fields)

    def _count_queue(self, tenant_id: str, function_id: str) -> None:
        self._tasks.spawn(self._tell_queue(tenant_id, function_id))

    async def _tell_queue(self, tenant_id: str, function_id: str) -> None:
        """Report a queue with its counts, or without them if the store does not respond."""
        data: dict[str, Any] = {"function_id": function_id}
        async with self._counting:
            # From here on, a change causes another report.
            self._waiting.discard((EventType.QUEUE, function_id))
            if tenant_id not in self._rings:
                return
            if self._queue_counts is None:
                return self._tell(tenant_id, EventType.QUEUE, function_id, data)
            with contextlib.suppress(StoreUnavailable):
                counts = await self._queue_counts(function_id)
                for name in ("queued", "delayed", "running", "dead_letters"):
                    data[name] = getattr(counts, name)
        self._tell(tenant_id, EventType.QUEUE, function_id, data)

    async def aclose(self) -> None:
        """Stop pending counts, since the store closes next."""
        await self._tasks.aclose()

    def _later(self, then: Callable[..., None], *arguments: Any) -> None:
        asyncio.get_running_loop().call_later(EVERY_S, then, *arguments)
