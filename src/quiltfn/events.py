"""Tells those who follow a tenant what happens in it.

A tenant that somebody follows has a ring with the events of the last minute, within bounds. Readers
have only a position in it, so a slow one costs nothing: what it missed is gone, and a `gap` says
so. Nobody's events are kept while nobody follows, nor is anything counted then.

Each part of the server tells in one place: `catalog.py` of functions, `invoke.py` of calls, the
pools of their counts, the dispatcher of queues and the schedules of what they fire. `platform.py`
connects them.
"""

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

import msgspec

from quiltfn.model.counts import PoolCounts
from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.event import (
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
# Of so many functions it is remembered which counts were told last.
COUNTS_KEPT = 20_000
# How often the counts of a function and sums of its calls are told at most.
EVERY_S = 0.25
# So many starts and ends of a function's calls are told one by one in that time; none of them after
# a time in which more were summed up.
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
    """The last events of one tenant. `touched`: when its last reader came or left, in monotonic
    seconds.
    """

    def __init__(self, following: int, now: float) -> None:
        self.kept: deque[_Kept] = deque()
        self.following = following  # the number of the next event
        self.size = 0
        self.touched = now
        self.readers = 0
        self.changed = asyncio.Event()
        self.counts: dict[str, bytes] = {}  # of instances, by function, as they were told last

    @property
    def first(self) -> int:
        """The number of the oldest event that is kept, or of the next one."""
        return self.kept[0].number if self.kept else self.following

    def add(self, one: _Kept) -> None:
        self.kept.append(one)
        self.following = one.number + 1
        self.size += len(one.data)
        while len(self.kept) > KEPT_EVENTS or self.size > KEPT_BYTES:
            self.drop_first()
        self.drop_old(one.at)
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def drop_old(self, now: float) -> None:
        while self.kept and self.kept[0].at < now - KEPT_S:
            self.drop_first()

    def drop_first(self) -> None:
        self.size -= len(self.kept.popleft().data)


class _Burst:
    """The calls of a function in the time since the last sum of them was told."""

    def __init__(self, told: int = 0) -> None:
        self.told = told
        self.rest: CallSummary | None = None
        self.pool_changed = False  # its instances are told with the sum: one packet, not two

    def summary(self) -> CallSummary | None:
        """What this one more is added to; None: it is told by itself."""
        if self.told < ONE_BY_ONE:
            self.told += 1
            return None
        if self.rest is None:
            self.rest = CallSummary()
        return self.rest


class Events:
    """What happens in each tenant. `epoch`: of this start of the server. `pool_counts`: counts the
    instances of a function, `queue_counts` its accepted work; that is asked for one function at a
    time.
    """

    def __init__(
        self,
        clock: Clock,
        epoch: int,
        pool_counts: Callable[[str], PoolCounts],
        queue_counts: Callable[[str], Awaitable[QueueCounts]],
    ) -> None:
        self._clock, self._epoch = clock, epoch
        self._pool_counts, self._queue_counts = pool_counts, queue_counts
        self._counting = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._rings: dict[str, _Ring] = {}
        self._first = 1  # numbers below this one may have been given to events that are gone
        self._bursts: dict[str, _Burst] = {}
        self._waiting: set[tuple[EventType, str]] = set()

    # What is told ----------------------------------------------------------------------------

    def function_changed(self, before: Function | None, after: Function | None) -> None:
        """A function was made (`before` None), changed or deleted (`after` None)."""
        one = after or before
        if not self._rings or one is None:
            return
        kind = change_of(before, after)
        self._tell(one.tenant_id, kind, one.id, told_of_function(one))

    def call_started(self, record: Invocation) -> None:
        """A handler gets a call next."""
        if not self._rings or record.tenant_id not in self._rings:
            return
        summary = self._burst(record).summary()
        if summary is None:
            told = told_of_start(record)
            self._tell(record.tenant_id, EventType.INVOCATION_STARTED, record.function_id, told)
        else:
            summary.add_start(record)

    def call_ended(self, record: Invocation) -> None:
        """An attempt at a call is over."""
        if not self._rings or record.tenant_id not in self._rings:
            return
        summary = self._burst(record).summary()
        if summary is None:
            told = told_of_end(record)
            self._tell(record.tenant_id, EventType.INVOCATION_ENDED, record.function_id, told)
        else:
            summary.add_end(record)

    def pool_changed(self, tenant_id: str, function_id: str) -> None:
        """The instances of a function changed. They are counted a moment later."""
        if not self._rings or tenant_id not in self._rings:
            return
        burst = self._bursts.get(function_id)
        if burst is not None:
            burst.pool_changed = True
        else:
            self._later_once(EventType.POOL, self._tell_pool, tenant_id, function_id)

    def queue_changed(self, tenant_id: str, function_id: str) -> None:
        """Accepted work of a function arrived, or an attempt at it began or ended."""
        if self._rings and tenant_id in self._rings:
            self._later_once(EventType.QUEUE, self._count_queue, tenant_id, function_id)

    def work_changed(self, record: Invocation) -> None:
        """As `queue_changed`, of the record of an attempt; other calls have no queue."""
        if record.due_at is not None:
            self.queue_changed(record.tenant_id, record.function_id)

    def schedule_fired(
        self, tenant_id: str, schedule: str, function_id: str, invocation_id: str
    ) -> None:
        """A tick of a schedule has become a call."""
        told = {
            "schedule": schedule,
            "function_id": function_id,
            "invocation_id": invocation_id,
        }
        self._tell(tenant_id, EventType.SCHEDULE_FIRED, function_id, told)

    # Following -------------------------------------------------------------------------------

    def reader(
        self,
        tenant_id: str,
        function_id: str | None = None,
        types: frozenset[EventType] | None = None,
        last_id: str | None = None,
    ) -> AsyncGenerator[Event, None]:
        """The events of a tenant from now on, or behind the one with the id `last_id`; None: of any
        function, of every type. It does not end by itself.

        What is no longer there is told by an event: `reset` where that is all since `last_id`, and
        `gap` with the number of events where this reader was slow.
        """
        now = self._clock.now()
        ring = self._rings.get(tenant_id)
        if ring is None:
            ring = self._rings[tenant_id] = _Ring(self._first, now)
            asyncio.get_running_loop().call_later(KEPT_S, self._forget, tenant_id)
        ring.touched = now
        ring.drop_old(now)
        start = ring.following if last_id is None else self._behind(ring, last_id)
        return self._events(ring, start, function_id, types)

    def _behind(self, ring: _Ring, last_id: str) -> int | None:
        """The number that follows the event; None where events may be missing."""
        found = POSITION.fullmatch(last_id)
        if found is None or int(found[1]) != self._epoch:
            return None
        number = int(found[2]) + 1
        return number if ring.first <= number <= ring.following else None

    async def _events(
        self,
        ring: _Ring,
        start: int | None,
        function_id: str | None,
        types: frozenset[EventType] | None,
    ) -> AsyncGenerator[Event, None]:
        at = ring.following if start is None else start
        ring.readers += 1
        try:
            if start is None:
                yield self._event(at - 1, EventType.RESET, b"{}")
            while True:
                changed = ring.changed
                if at < ring.first:
                    missed, at = ring.first - at, ring.first
                    yield self._event(at - 1, EventType.GAP, b'{"events":%d}' % missed)
                elif at < ring.following:
                    one = ring.kept[at - ring.first]
                    at += 1
                    if (function_id is None or one.function_id == function_id) and (
                        types is None or one.type in types
                    ):
                        yield self._event(one.number, one.type, one.data)
                else:
                    await changed.wait()
        finally:
            ring.readers -= 1
            ring.touched = self._clock.now()

    def _event(self, number: int, kind: EventType, data: bytes) -> Event:
        return Event(id=f"{self._epoch}-{number}", type=kind, data=data)

    def _forget(self, tenant_id: str) -> None:
        """Drops a ring that nobody has read for a minute; else looks again a minute later. One that
        has a reader stays, however slow that is.
        """
        ring = self._rings[tenant_id]
        if not ring.readers and self._clock.now() - ring.touched >= KEPT_S:
            self._first = max(self._first, ring.following)
            del self._rings[tenant_id]
        else:
            asyncio.get_running_loop().call_later(KEPT_S, self._forget, tenant_id)

    # Telling ---------------------------------------------------------------------------------

    def _tell(
        self, tenant_id: str, kind: EventType, function_id: str, told: Mapping[str, Any]
    ) -> None:
        ring = self._rings.get(tenant_id)
        if ring is not None:
            data = msgspec.json.encode(told)
            ring.add(_Kept(ring.following, self._clock.now(), kind, function_id, data))

    def _burst(self, record: Invocation) -> _Burst:
        burst = self._bursts.get(record.function_id)
        if burst is None:
            burst = self._bursts[record.function_id] = _Burst()
            self._later(self._end_burst, record.tenant_id, record.function_id)
        return burst

    def _end_burst(self, tenant_id: str, function_id: str) -> None:
        burst = self._bursts.pop(function_id)
        rest = burst.rest
        if rest is not None:
            told = ONE_BY_ONE if rest.count > ONE_BY_ONE else 0
            self._bursts[function_id] = _Burst(told)
            self._tell(tenant_id, EventType.CALLS, function_id, rest.told(function_id))
            self._later(self._end_burst, tenant_id, function_id)
        if burst.pool_changed:
            self._tell_pool(tenant_id, function_id)

    def _later_once(
        self, kind: EventType, then: Callable[[str, str], None], tenant_id: str, function_id: str
    ) -> None:
        """Calls `then` a moment later, once however many changes of the kind come until it has
        taken the function out of `_waiting`.
        """
        key = (kind, function_id)
        if key not in self._waiting:
            self._waiting.add(key)
            self._later(then, tenant_id, function_id)

    def _tell_pool(self, tenant_id: str, function_id: str) -> None:
        """Tells of the instances of a function, if there are others than those told last."""
        self._waiting.discard((EventType.POOL, function_id))
        ring = self._rings.get(tenant_id)
        if ring is None:
            return
        told = {"function_id": function_id, **msgspec.to_builtins(self._pool_counts(function_id))}
        data = msgspec.json.encode(told)
        if ring.counts.get(function_id) != data:
            ring.counts[function_id] = data
            if len(ring.counts) > COUNTS_KEPT:  # functions come and go
                del ring.counts[next(iter(ring.counts))]
            self._tell(tenant_id, EventType.POOL, function_id, told)

    def _count_queue(self, tenant_id: str, function_id: str) -> None:
        task = asyncio.ensure_future(self._tell_queue(tenant_id, function_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell_queue(self, tenant_id: str, function_id: str) -> None:
        """Tells of a queue with what is in it, or without where the store does not answer."""
        told: dict[str, Any] = {"function_id": function_id}
        async with self._counting:
            # What changes from here on is told again.
            self._waiting.discard((EventType.QUEUE, function_id))
            if tenant_id not in self._rings:
                return
            with contextlib.suppress(StoreUnavailable):
                counts = await self._queue_counts(function_id)
                for name in ("queued", "delayed", "running", "dead_letters"):
                    told[name] = getattr(counts, name)
        self._tell(tenant_id, EventType.QUEUE, function_id, told)

    async def aclose(self) -> None:
        """Ends what is being counted: the store closes next."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _later(self, then: Callable[..., None], *what: Any) -> None:
        asyncio.get_running_loop().call_later(EVERY_S, then, *what)
