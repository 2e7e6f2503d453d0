"""Statistics of invocations in the database: adds, reads, folds and removes rows. To fold rows is
to replace them by their sum over a longer step or over all functions.

    a record is stored for the first time ──add, the same transaction──▶ a row of 10 s
    a row is older than its step is kept  ──fold──▶ a row of the next step ──▶ … ──▶ gone
    a tenant has too many                 ──fold──▶ … ──▶ a row of no function ──▶ gone
A row of no function has the sums of functions that aren't listed separately any more, so that the
totals of the tenant stay right.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, RowMapping, select

from quiltfn.model.cursors import AFTER_EVERY_ID
from quiltfn.model.invocation import Invocation, Status
from quiltfn.model.retention import StorageLimit
from quiltfn.model.stats import (
    ANY_FUNCTION,
    FINEST_S,
    HOUR_S,
    STEPS,
    CallStats,
    Stretch,
    floor_to,
    folded,
    folded_before,
    next_step,
    of_ended,
)
from quiltfn.ports import Clock
from quiltfn.store.calls.outcomes import many
from quiltfn.store.database import tables
from quiltfn.store.database.database import Database
from quiltfn.store.database.sql import execute, run
from quiltfn.store.tenants import usage

# The rows of one read, which delays other readers for some milliseconds, and of one step of
# removal, which delays writers for a millisecond or two.
READ_ROWS, FOLD_ROWS = 2000, 100
# How long invocations without a record are remembered, since the journal of the last minute may be
# read again.
REMEMBERED_S = 600
FOREVER = 2**62

K = TypeVar("K", bound=Hashable)
Row = tuple[Stretch, CallStats]
Sums = dict[Stretch, CallStats]

encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(CallStats).decode


def decode(text: bytes) -> CallStats:
    """The statistics of a row; damaged ones count as empty. An error would abort the transaction,
    which also stores records of invocations.
    """
    try:
        return _decode(text)
    except msgspec.DecodeError as error:
        import structlog  # noqa: PLC0415 - not needed by commands on keys

        log = structlog.get_logger("quiltfn.store")
        log.error("statistics in the database are damaged and count as none", reason=str(error))
        return CallStats()


def add_ended(connection: Connection, ended: Iterable[Invocation]) -> Sums:
    """Counts completed attempts; returns the statistics that it added."""
    sums = of_ended(ended)
    add(connection, sums)
    return sums


def add_queued(connection: Connection, accepted: Iterable[tuple[Invocation, int]]) -> None:
    """Counts accepted work: records with their times of acceptance in Unix seconds."""
    sums: Sums = {}
    for record, at in accepted:
        key = Stretch(record.tenant_id, FINEST_S, floor_to(FINEST_S, at), record.function_id)
        sums.setdefault(key, CallStats()).add(CallStats(queued=1))
    add(connection, sums)


def add_interrupted(connection: Connection, left: Iterable[RowMapping], now: int) -> None:
    """Counts invocations that an earlier start left, by function: their durations are unknown."""
    start = floor_to(FINEST_S, now)
    sums = {
        Stretch(row["tenant_id"], FINEST_S, start, row["function_id"]): CallStats(
            calls={Status.INTERRUPTED.value: row["calls"]}, cold_starts=row["cold_starts"]
        )
        for row in left
    }
    add(connection, sums)


def remove_interrupted(connection: Connection, record: Invocation) -> None:
    """Subtracts an invocation that was counted as interrupted from its row, if the row still
    exists: the true end of the invocation is known now and will be counted instead.
    """
    for step in STEPS:
        start = floor_to(step, record.ended_at or 0)
        key = Stretch(record.tenant_id, step, start, record.function_id)
        row = execute(connection, "stats_of", key).fetchone()
        known = CallStats() if row is None else decode(row[0])
        if known.calls.get(Status.INTERRUPTED.value):
            known.calls[Status.INTERRUPTED.value] -= 1
            known.cold_starts = max(0, known.cold_starts - record.cold_start)
            many(connection, "put_stats", [(*key, encode(known))])
            return


def add(connection: Connection, sums: Mapping[Stretch, CallStats]) -> None:
    """Adds to the rows of statistics, with one statement to read and one to write them."""
    if not sums:
        return
    rows = []
    for key, stats in sums.items():
        found = execute(connection, "stats_of", key).fetchone()
        if found is not None:
            known = decode(found[0])
            known.add(stats)
            rows.append((*key, encode(known)))
        else:
            rows.append((*key, encode(stats)))
    many(connection, "put_stats", rows)


def not_counted(connection: Connection, ended: Sequence[Invocation]) -> list[Invocation]:
    """From invocations of deleted functions, returns those not counted before, and marks them as
    counted.
    """
    found = []
    for record in ended:
        noted = execute(connection, "note_counted", (record.invocation_id, record.ended_at or 0))
        if noted.rowcount:
            found.append(record)
    return found


class SqlStats:
    """Statistics of invocations. Raises `StoreUnavailable`. Times in Unix seconds. `bound`: the
    limit on their size, in bytes.

    They include an ended invocation once its record is stored: within 50 ms, unless the store
    refuses writes. Even if the server is killed, each invocation is counted exactly once.
    """

    def __init__(self, database: Database, clock: Clock, bound: StorageLimit) -> None:
        self._database, self._clock, self._bound = database, clock, bound
        # Rows of a tenant are not folded while a reader is between two slices of them. New readers
        # wait for the end of a step of folding, which is short.
        self._folding = asyncio.Lock()
        self._reading: Counter[str] = Counter()

    async def of_function(
        self, tenant_id: str, function_id: str, span: tuple[int, int], step_s: int
    ) -> Sequence[tuple[int, CallStats]]:
        """The statistics of a function's invocations for each stretch of `step_s` seconds that
        starts within `span` (from, to), oldest first. Leaves out stretches without invocations, and
        statistics that exist only for longer steps.
        """
        whose = {"tenant_id": tenant_id, "function_id": function_id}
        times = {"start": span[0], "before": span[1]}

        def read(connection: Connection) -> Sums:
            found: list[Row] = []
            for step in (one for one in STEPS if one <= step_s):
                look = whose | times | {"step_s": step}
                found += read_rows("stats_of_function", look, connection)
            return folded(found, step_s)

        sums = await self._database.read(read)
        return sorted((key.start, one) for key, one in sums.items())

    async def of_tenant(self, tenant_id: str, since: int) -> Mapping[str, CallStats]:
        """The statistics of each function of a tenant over the stretches that end after `since`, by
        the function's id.
        """
        sums: dict[str, CallStats] = {}
        async with self._unfolded(tenant_id):
            for step in STEPS:
                # starting with the stretch that contains `since`
                span = floor_to(step, since), FOREVER
                slices = _Slices(tenant_id, step, span)
                await self._add_up(sums, lambda _, function_id: function_id, slices)
        return sums

    async def usage(
        self,
        tenant_id: str,
        span: tuple[int, int],
        step_s: int | None,
        *,
        by_function: bool = True,
        most: int | None = None,
        in_order_from: int | None = None,
    ) -> Mapping[Stretch, CallStats]:
        """The statistics of each function by the steps that start within `span`; with `step_s`
        None, over the whole span. The function id is empty for functions that aren't listed
        separately any more, and for all functions without `by_function`. `most`: stops soon after
        it has more results than this. `in_order_from`: ends since this time are read last, in the
        writer's thread between two commits. So when this returns, listeners have been notified of
        exactly the commits that the result includes. The results have no `latency`, which would
        take most of the memory.
        """
        sums: Sums = {}
        start, end = span
        border = end if in_order_from is None else min(end, max(start, in_order_from))

        def key(at: int, function_id: str) -> Stretch:
            whose = function_id if by_function else ANY_FUNCTION
            if step_s is None:
                return Stretch(tenant_id, end - start, start, whose)
            return Stretch(tenant_id, step_s, floor_to(step_s, at), whose)

        async with self._unfolded(tenant_id):
            for step in STEPS:
                until = border if step == FINEST_S else end
                slices = _Slices(tenant_id, step, (start, until), with_latency=False)
                await self._add_up(sums, key, slices, most)
            if border < end:

                def rest(connection: Connection) -> Sums:  # may be retried
                    span = (border, end)
                    slices = _Slices(tenant_id, FINEST_S, span, with_latency=False)
                    return slices.all(key, connection)

                # `frees`, because a read must succeed on a full disk.
                add_all(sums, await self._database.write(rest, frees=True))
        return sums

    async def _add_up(
        self,
        sums: dict[K, CallStats],
        key: Callable[[int, str], K],
        slices: "_Slices",
        most: int | None = None,
    ) -> None:
        """Adds `slices` to `sums`. `key`: maps a start and a function to a key of `sums`. `most`:
        stops once `sums` has more entries.
        """
        while not slices.is_done and (most is None or len(sums) <= most):
            await self._database.read(lambda connection: slices.add_some(connection, sums, key))

    async def tenants(self) -> Sequence[str]:
        """The tenants that have statistics."""
        count = tables.usage.c
        query = select(count.tenant_id).where(count.kind == usage.STATS.name, count.number > 0)
        return await self._database.read(lambda c: c.execute(query).scalars().all())

    async def add(self, sums: Mapping[Stretch, CallStats]) -> None:
        """Adds measurements of instances, such as CPU time."""
        await self._database.write(lambda connection: add(connection, sums))

    async def prune_some(self) -> int:
        """Folds or removes some rows, in one short step; returns how many rows it handled."""
        # Rows have wall clock times. If that clock is behind, new rows must not count as old.
        now = int(min(self._clock.trusted(), self._clock.unix()))
        async with self._folding:
            read = frozenset(self._reading)
            return await self._database.write(
                lambda connection: prune_some(connection, now, self._bound, read), frees=True
            )

    @asynccontextmanager
    async def _unfolded(self, tenant_id: str) -> AsyncIterator[None]:
        """Prevents folding of the tenant's rows until the block ends."""
        async with self._folding:
            self._reading[tenant_id] += 1
        try:
            yield
        finally:
            self._reading[tenant_id] -= 1
            if not self._reading[tenant_id]:
                del self._reading[tenant_id]


class _Slices:
    """Reads a tenant's statistics of a step that start within `span`, by start, in slices."""

    def __init__(
        self, tenant_id: str, step_s: int, span: tuple[int, int], *, with_latency: bool = True
    ) -> None:
        self._with_latency = with_latency
        self._whose = {"tenant_id": tenant_id, "step_s": step_s, "before": span[1]}
        self._after = span[0] - 1, AFTER_EVERY_ID
        self.is_done = False

    def add_some(
        self, connection: Connection, sums: dict[K, CallStats], key: Callable[[int, str], K]
    ) -> None:
        """Adds the next `READ_ROWS` to `sums`. `key`: as in `SqlStats._add_up`."""
        start, function_id = self._after
        look = self._whose | {"start": start, "function_id": function_id, "most": READ_ROWS}
        rows = execute(connection, "stats_of_tenant", look).fetchall()
        for at, whose_calls, text in rows:
            stats = decode(text)
            if not self._with_latency:
                stats.latency.clear()
            add_one(sums, key(at, whose_calls), stats)
        self.is_done = len(rows) < READ_ROWS
        if rows:
            self._after = rows[-1][:2]

    def all(self, key: Callable[[int, str], K], connection: Connection) -> dict[K, CallStats]:
        """The sums of all rows."""
        sums: dict[K, CallStats] = {}
        while not self.is_done:
            self.add_some(connection, sums, key)
        return sums


def read_rows(statement: str, values: Mapping[str, Any], connection: Connection) -> list[Row]:
    # SQLAlchemy's rows would take half of the time.
    rows = execute(connection, statement, values).fetchall()
    return [(Stretch(*row[:4]), decode(row[4])) for row in rows]


def add_one(sums: dict[K, CallStats], key: K, stats: CallStats) -> None:
    """Adds `stats` to the entry at `key`. Without an entry, `stats` itself becomes the entry."""
    if key in sums:
        sums[key].add(stats)
    else:
        sums[key] = stats


def add_all(sums: Sums, more: Sums) -> None:
    """Adds `more` to `sums`."""
    for key, stats in more.items():
        add_one(sums, key, stats)


def prune_some(
    connection: Connection, now: int, bound: StorageLimit, read: Set[str] = frozenset()
) -> int:
    """Folds or removes some old rows, or some rows of tenants with too many. `read`: the tenants
    whose rows are being read and must not change.
    """
    old = {"before": now - REMEMBERED_S, "most": FOLD_ROWS}
    handled: int = run(connection, "forget_counted", old).rowcount
    for step in STEPS:
        look = {"step_s": step, "before": folded_before(step, now), "most": FOLD_ROWS}
        some = read_rows("stats_by_age", look | {"read": json.dumps(sorted(read))}, connection)
        if some:
            move(connection, some, next_step(step))
            return handled + len(some)
    for surplus in usage.surpluses(connection, usage.STATS, bound):
        if surplus.tenant_id in read:
            continue
        most = min(FOLD_ROWS, surplus.rows + 1)
        handled += give_up(connection, surplus.tenant_id, most)
    return handled


def move(connection: Connection, rows: Sequence[Row], step_s: int | None) -> None:
    """Adds rows to those of a longer step, and removes them; None: only removes them."""
    if step_s is not None:
        add(connection, folded(rows, step_s))
    many(connection, "remove_stats", [key for key, _ in rows])


def give_up(connection: Connection, tenant_id: str, most: int) -> int:
    """Makes room: folds or removes the oldest rows of the shortest step. Returns the number of
    rows.
    """
    whose = {"tenant_id": tenant_id, "most": most, "function_id": ANY_FUNCTION}
    for step in STEPS:
        some = read_rows("oldest_stats_of_tenant", whose | {"step_s": step}, connection)
        longer = next_step(step)
        if some and longer is not None:
            move(connection, some, longer)
        elif some:
            for key, stats in some:
                add(connection, {key._replace(function_id=ANY_FUNCTION): stats})
            move(connection, some, None)
        if some:
            return len(some)
    some = read_rows("oldest_sums_of_tenant", whose | {"step_s": HOUR_S}, connection)
    move(connection, some, None)
    return len(some)
