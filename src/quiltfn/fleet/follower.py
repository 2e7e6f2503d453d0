"""Follows other nodes' changes in the shared store.

The store has a numbered list of changes (`SqlStore.changes`): a follower reads the new ones and
passes each kind to the part that keeps such objects in memory. Other information is polled. A
notice from the database triggers the reading of changes, or of queued work, at once; both also run
every second, and the rest runs every one or five seconds.
"""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

import structlog

from quiltfn.base.clock import ResumableClock
from quiltfn.base.task_group import TaskGroup
from quiltfn.model.errors import StoreUnavailable
from quiltfn.ports import Change, ChangeKind
from quiltfn.store.database.changes import Notice
from quiltfn.store.database.database import Database
from quiltfn.store.functions.functions import SqlStore

EVERY_S, SLOW_EVERY_S = 1.0, 5.0
# Minimum seconds between runs, since thousands of notices may arrive.
REST_S, REST_OF_NODE_S, REST_MAX_S = 0.02, 0.01, 0.4

# Applies changes of one kind or, with None, compares everything with the store. It applies the
# latest state in the store, so repeated calls do no harm.
Listener = Callable[[Sequence[Change] | None], Awaitable[None]]
_log = structlog.get_logger("quiltfn.fleet")


class Follower:
    """Applies other nodes' changes to memory. `start` it before anything is loaded."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._seen = 0
        self._refreshing = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None  # a refresh that has not started to read
        # Errors reach the callers that still wait.
        self._under_way = TaskGroup(failed=lambda _: None)
        self._failed: set[ChangeKind] = set()  # kinds that could not be applied because of a bug
        self._current_at = time.monotonic()
        self._listeners: Mapping[ChangeKind, Listener] = {}

    def connect(self, listeners: Mapping[ChangeKind, Listener]) -> None:
        """Set the listeners, in the order in which they are called: functions come before objects
        that refer to them.
        """
        assert not self._listeners, "it is connected already"
        self._listeners = listeners

    async def start(self) -> None:
        """Follows from the newest change on. Raises `StoreUnavailable`."""
        self._seen = await self._store.newest_change()
        self._current_at = time.monotonic()

    def lag_s(self) -> float:
        """Seconds since memory was last up to date with the store."""
        return time.monotonic() - self._current_at

    async def refresh(self) -> None:
        """Return once memory has everything that is committed now. Raises `StoreUnavailable`; the
        next refresh applies the remaining changes. Simultaneous callers share one refresh.
        """
        if self._next is None:
            self._next = self._under_way.spawn(self._refresh())
        await asyncio.shield(self._next)

    async def aclose(self) -> None:
        """End refreshes in progress, for which no caller waits any more."""
        await self._under_way.aclose()

    async def _refresh(self) -> None:
        async with self._refreshing:
            self._next = None
            began = time.monotonic()
            for kind in list(self._failed):
                await self._tell(kind, None)
            while True:
                page = await self._store.changes(self._seen)
                if not page.is_complete:
                    await self._compare()
                    continue
                if page.items:
                    await self._take_over(page.items)
                if not page.has_more:
                    break
            if not self._failed:
                self._current_at = began

    async def _take_over(self, changes: Sequence[Change]) -> None:
        by_kind: defaultdict[ChangeKind | None, list[Change]] = defaultdict(list)
        for change in changes:
            by_kind[change.kind].append(change)
        for kind in self._listeners:
            if kind in by_kind:
                await self._tell(kind, by_kind[kind])
        self._seen = changes[-1].number

    async def _compare(self) -> None:
        """Load everything again, since some changes are no longer stored."""
        newest = await self._store.newest_change()
        for kind in self._listeners:
            await self._tell(kind, None)
        self._seen = newest

    async def _tell(self, kind: ChangeKind, changes: Sequence[Change] | None) -> None:
        try:
            await self._listeners[kind](changes)
            if changes is None:
                self._failed.discard(kind)
        except StoreUnavailable:
            raise
        except Exception:  # other kinds must be applied nevertheless
            _log.exception("a change of another node could not be taken over", kind=kind)
            self._failed.add(kind)


class Repeated:
    """Runs something every `every_s` seconds, and soon after it is woken. `nodes`: the number of
    nodes that are woken at the same time. With more nodes, each rests longer between notices: all
    together query the store as often as a few nodes would.
    """

    def __init__(
        self,
        *work: Callable[[], Awaitable[None]],
        every_s: float | None = None,
        nodes: Callable[[], int] = lambda: 1,
    ) -> None:
        self._work, self._every_s, self._nodes = work, every_s or EVERY_S, nodes
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        """Run until cancelled. Failed steps are retried in the next round; the others continue."""
        while True:
            self._woken.clear()
            for work in self._work:
                try:
                    await work()
                except StoreUnavailable:
                    pass  # health reports it
                except Exception:
                    _log.exception("cannot follow the changes of other nodes")
            await asyncio.sleep(max(REST_S, min(REST_MAX_S, REST_OF_NODE_S * self._nodes())))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await self._woken.wait()


async def go_by_database(clock: ResumableClock, store: SqlStore) -> None:
    """Set a node's clock by the database that all nodes share."""
    reading = await store.database.clock()
    if reading is not None:
        clock.go_by(reading)


def tasks(
    follower: Follower,
    database: Database,
    count: Callable[[], int],
    waiting: Sequence[Callable[[], Awaitable[None]]],
    use: Sequence[Callable[[], Awaitable[None]]],
    slow: Sequence[Callable[[], Awaitable[None]]],
) -> tuple[Callable[[], Coroutine[None, None, None]], ...]:
    """The jobs that follow other nodes. `count` returns the number of nodes. `waiting` follows
    queued work, `use` other nodes' usage, and `slow` information that may be some seconds old.
    """
    repeated = {
        Notice.CHANGE: Repeated(follower.refresh, nodes=count),
        Notice.WORK: Repeated(*waiting, nodes=count),
    }

    def hear(notice: str) -> None:
        if notice in repeated:  # a later release may send other notices
            repeated[Notice(notice)].wake()

    async def listen() -> None:
        await database.listen(hear)

    others = Repeated(*use), Repeated(*slow, every_s=SLOW_EVERY_S)
    return listen, *(one.run for one in (*repeated.values(), *others))
