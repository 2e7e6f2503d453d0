"""Schedules in the database, and the decisions on their ticks."""

from collections.abc import Callable, Sequence

from msgspec.structs import replace
from sqlalchemy import (
    ColumnElement,
    Connection,
    delete,
    exists,
    func,
    insert,
    select,
    text,
    update,
)

from quiltfn.model.errors import NotFound, QuiltfnError, RateLimited
from quiltfn.model.schedule import (
    SLEWED_MS,
    Overlap,
    RunOutcome,
    Schedule,
    changed_meanwhile,
    no_such_schedule,
)
from quiltfn.ports import ChangeKind, Page
from quiltfn.ports.schedules import Firing, ScheduleRun, StoredSchedule
from quiltfn.ports.work import AcceptedWork
from quiltfn.store.database import changes, tables
from quiltfn.store.database.database import Database, name_taken

# The number of newest runs kept of each schedule; unfinished ones stay in any case.
RUNS_KEPT = 1000
# The number of ticks of a schedule that may wait for an earlier run.
WAITING_MAX = 100
NOT_OVER = "an earlier run is not over"
TOO_MANY_WAIT = f"{WAITING_MAX} ticks wait for an earlier run already"
NOT_THERE = "the server did not run when it was due, the database was away, or the clock was set"

# As text, because SQLite uses a partial index only if the condition has no placeholder.
WAITS = text("schedule_run.outcome = 'waiting'")
table, run = tables.schedule.c, tables.schedule_run.c
COUNTED = {
    RunOutcome.ACCEPTED: table.fired_count,
    RunOutcome.SKIPPED: table.skipped_count,
    RunOutcome.MISSED: table.missed_count,
}
KEPT_BY_SAVE = {"id", "tenant_id", "created_at", "missed_count", "skipped_count", "fired_count"}
# Accepts work in the caller's transaction. Returns for each item the reason for refusing it, or
# None.
AcceptIn = Callable[[Connection, Sequence[AcceptedWork]], Sequence[QuiltfnError | None]]


class SqlSchedules:
    """The schedules of all tenants, for any number of servers. Raises `StoreUnavailable`."""

    def __init__(self, database: Database, accept_in: AcceptIn) -> None:
        self._database, self._accept_in = database, accept_in

    async def add(self, schedule: Schedule, most: int) -> None:
        """Stores a new schedule. Raises `Conflict` if the tenant has one of that name,
        `RateLimited` if it has `most`, and `NotFound` if the function was deleted.
        """
        of_tenant = table.tenant_id == schedule.tenant_id

        def work(connection: Connection) -> None:
            if connection.execute(select(1).where(of_tenant, table.name == schedule.name)).first():
                raise name_taken(schedule.name, "schedule")
            count = connection.execute(select(func.count()).where(of_tenant)).scalar_one()
            if count >= most:
                raise RateLimited(
                    f"the tenant has {count} schedules, its limit",
                    hint="delete one that is not needed",
                    retry_after=60,
                )
            _or_no_function(connection, schedule)
            connection.execute(insert(tables.schedule), tables.row_of(schedule))
            _changed(connection, schedule.tenant_id, schedule.id)

        await self._database.write(work)

    async def save(self, schedule: Schedule, before: Schedule) -> Schedule:
        """Replaces the callers' fields and the due time; returns the schedule with its new
        revision. Its counters stay. Raises `Outdated` if the schedule was changed or a tick was
        decided since `before` was read, and `NotFound` if the schedule or the function was deleted.
        """
        saved = replace(schedule, revision=before.revision + 1)
        row = {n: v for n, v in tables.row_of(saved).items() if n not in KEPT_BY_SAVE}

        def work(connection: Connection) -> None:
            _or_no_function(connection, schedule)
            change = update(tables.schedule).where(*_as_read(before)).values(row)
            if connection.execute(change).rowcount:
                _changed(connection, before.tenant_id, before.id)
                return
            if connection.execute(select(1).where(table.id == before.id)).first() is None:
                raise no_such_schedule()
            raise changed_meanwhile()

        await self._database.write(work)
        return saved

    async def remove(self, tenant_id: str, name: str) -> bool:
        """Removes a schedule and its runs; returns whether it existed."""
        this = select(table.id).where(table.tenant_id == tenant_id, table.name == name)

        def work(connection: Connection) -> bool:
            schedule_id = connection.execute(this).scalar()
            if schedule_id is None:
                return False
            connection.execute(delete(tables.schedule_run).where(run.schedule_id == schedule_id))
            connection.execute(delete(tables.schedule).where(table.id == schedule_id))
            _changed(connection, tenant_id, schedule_id)
            return True

        return await self._database.write(work, frees=True)

    async def get(self, tenant_id: str, name: str) -> StoredSchedule | None:
        """One schedule of the tenant."""
        query = select(tables.schedule).where(table.tenant_id == tenant_id, table.name == name)

        def read(connection: Connection) -> StoredSchedule | None:
            found = tables.read_one(connection, query, Schedule)
            return None if found is None else _with_last_run(connection, found)

        return await self._database.read(read)

    async def of_tenant(self, tenant_id: str, after: str, limit: int) -> Sequence[StoredSchedule]:
        """Up to `limit` schedules with ids above `after`, oldest first."""
        query = select(tables.schedule).where(table.tenant_id == tenant_id, table.id > after)
        query = query.order_by(table.id).limit(limit)

        def read(connection: Connection) -> list[StoredSchedule]:
            found = tables.read_all(connection, query, Schedule)
            return [_with_last_run(connection, schedule) for schedule in found]

        return await self._database.read(read)

    async def runs(self, schedule_id: str, before_ms: int | None, limit: int) -> Page[ScheduleRun]:
        """The decided ticks, newest first, before the tick `before_ms`. There is no cursor."""
        return await self._database.read(
            lambda connection: Page(_runs(connection, schedule_id, before_ms, limit))
        )

    async def next_due_ms(self) -> int | None:
        """When the first of all schedules is due, in Unix milliseconds; None: no schedule will be
        due.
        """
        first = select(func.min(table.next_due_ms))
        return await self._database.read(lambda connection: connection.execute(first).scalar())

    async def due(self, now_ms: int, limit: int) -> Sequence[Schedule]:
        """Up to `limit` due schedules, those due for longest first."""
        query = select(tables.schedule).where(table.next_due_ms <= now_ms)
        query = query.order_by(table.next_due_ms).limit(limit)
        return await self._database.read(lambda c: tables.read_all(c, query, Schedule))

    async def set_back(self, now_ms: int, limit: int) -> Sequence[Schedule]:
        """Schedules whose next tick was computed before the clock was set back: see
        `Schedule.was_set_back`.
        """
        is_ahead = table.enabled, table.looked_at_ms > now_ms + SLEWED_MS
        query = select(tables.schedule).where(*is_ahead).limit(limit)
        return await self._database.read(lambda c: tables.read_all(c, query, Schedule))

    async def fire(self, firings: Sequence[Firing]) -> Sequence[RunOutcome | None]:
        """Carries out decisions, in one transaction: accepts the work, writes the outcome of each
        tick, counts it, and advances to the next tick. Returns for each decision the outcome of the
        tick to run, or `MISSED` if all were missed.

        None: the schedule was changed since it was read, or the tick was already decided, by
        another server or before the clock was set back. Nothing is accepted then.
        """
        return await self._database.write(
            lambda connection: [self._fire(connection, one) for one in firings]
        )

    def _fire(self, connection: Connection, firing: Firing) -> RunOutcome | None:
        before, decision = firing.schedule, firing.decision
        columns = ("next_tick_ms", "next_due_ms", "looked_at_ms")
        advanced = {name: getattr(decision.next, name) for name in columns}
        change = update(tables.schedule).where(*_as_read(before)).values(advanced)
        if connection.execute(change).rowcount == 0:
            return None
        tick = decision.run_tick_ms
        result: RunOutcome | None = None
        if tick is not None and _take_tick(connection, before.id, tick):
            result, reason = self._outcome(connection, firing)
            accepted = firing.work if result is RunOutcome.ACCEPTED else None
            _write(
                connection,
                before,
                ScheduleRun(
                    tick_ms=tick,
                    outcome=result,
                    invocation_id=accepted.record.invocation_id if accepted else None,
                    reason=reason,
                    missed=int(result is RunOutcome.MISSED),
                    decided_at=firing.now,
                ),
            )
        missed_tick = decision.missed_tick_ms
        if missed_tick is not None and _take_tick(connection, before.id, missed_tick):
            missed = ScheduleRun(
                tick_ms=missed_tick,
                outcome=RunOutcome.MISSED,
                reason=NOT_THERE,
                missed=decision.missed,
                decided_at=firing.now,
            )
            _write(connection, before, missed)
            result = result or RunOutcome.MISSED
        _remove_surplus(connection, before.id)
        return result

    def _outcome(self, connection: Connection, firing: Firing) -> tuple[RunOutcome, str | None]:
        """The outcome of the tick to run; accepts its work if it runs."""
        schedule = firing.schedule
        if firing.work is None:
            return firing.unrun, firing.refusal
        if schedule.overlap is not Overlap.ALLOW and not _is_over(connection, schedule.id):
            if schedule.overlap is Overlap.SKIP:
                return RunOutcome.SKIPPED, NOT_OVER
            waiting = select(func.count()).where(run.schedule_id == schedule.id, WAITS)
            if connection.execute(waiting).scalar_one() >= WAITING_MAX:
                return RunOutcome.SKIPPED, TOO_MANY_WAIT
            return RunOutcome.WAITING, NOT_OVER
        (refused,) = self._accept_in(connection, [firing.work])
        if refused is not None:
            return RunOutcome.MISSED, str(refused)
        return RunOutcome.ACCEPTED, None

    async def run_now(self, schedule: Schedule, work: AcceptedWork, now_ms: int) -> None:
        """Accepts work for a run that a caller requested, and records the run, in one transaction.
        Raises the errors of `SqlWork.accept`, and `Outdated` if the schedule was changed or
        deleted.
        """

        def write(connection: Connection) -> None:
            this = (table.id == schedule.id, table.revision == schedule.revision)
            if connection.execute(select(1).where(*this)).first() is None:
                raise changed_meanwhile()
            (refused,) = self._accept_in(connection, [work])
            if refused is not None:
                raise refused
            tick = now_ms
            while _is_there(connection, schedule.id, tick, is_manual=True):
                tick += 1
            made = ScheduleRun(
                tick_ms=tick,
                outcome=RunOutcome.ACCEPTED,
                invocation_id=work.record.invocation_id,
                is_manual=True,
                decided_at=now_ms // 1000,
            )
            _write(connection, schedule, made)
            _remove_surplus(connection, schedule.id)

        await self._database.write(write)

    async def waiting(self, limit: int) -> tuple[Sequence[Schedule], bool]:
        """Schedules with a tick that waited for an earlier run and can run now; and whether any
        tick waits.
        """
        waits = select(run.schedule_id).where(WAITS)
        other = tables.schedule_run.alias().c
        is_open = exists().where(
            other.schedule_id == run.schedule_id, other.invocation_id == tables.work.c.invocation_id
        )
        ready = waits.where(~is_open).distinct().limit(limit)
        query = select(tables.schedule).where(table.id.in_(ready))

        def read(connection: Connection) -> tuple[list[Schedule], bool]:
            schedules = tables.read_all(connection, query, Schedule)
            return schedules, connection.execute(waits.limit(1)).first() is not None

        return await self._database.read(read)

    async def start_waiting(self, schedule: Schedule, work: AcceptedWork) -> RunOutcome | None:
        """Accepts the work of the oldest waiting tick. Returns `ACCEPTED`, or `MISSED` if the work
        was refused; None: no tick waits, or an earlier run is unfinished.
        """
        this = (run.schedule_id == schedule.id, WAITS)
        oldest = select(func.min(run.tick_ms)).where(*this)

        def write(connection: Connection) -> RunOutcome | None:
            tick = connection.execute(oldest).scalar()
            if tick is None or not _is_over(connection, schedule.id):
                return None
            (refused,) = self._accept_in(connection, [work])
            result = RunOutcome.MISSED if refused else RunOutcome.ACCEPTED
            values = {
                "outcome": result.value,
                "reason": str(refused) if refused else None,
                "missed": int(refused is not None),
                "invocation_id": None if refused else work.record.invocation_id,
            }
            connection.execute(
                update(tables.schedule_run).where(*this, run.tick_ms == tick).values(values)
            )
            _count(connection, schedule.id, result, 1)
            return result

        return await self._database.write(write)

    async def drop_waiting(self, schedule: Schedule, reason: str) -> None:
        """Counts all waiting ticks of the schedule as missed."""
        this = (run.schedule_id == schedule.id, WAITS)
        values = {"outcome": RunOutcome.MISSED.value, "reason": reason, "missed": 1}

        def write(connection: Connection) -> None:
            change = update(tables.schedule_run).where(*this).values(values)
            gone = connection.execute(change).rowcount
            _count(connection, schedule.id, RunOutcome.MISSED, gone)

        await self._database.write(write)


def _changed(connection: Connection, tenant_id: str, schedule_id: str) -> None:
    changes.record(connection, ChangeKind.SCHEDULE, tenant_id, schedule_id)


def _as_read(before: Schedule) -> tuple[ColumnElement[bool], ...]:
    """Matches the schedule if nobody changed it or decided its next tick since it was read."""
    return (
        table.id == before.id,
        table.revision == before.revision,
        table.next_tick_ms.is_not_distinct_from(before.next_tick_ms),
    )


def _or_no_function(connection: Connection, schedule: Schedule) -> None:
    function = tables.function.c
    mine = (function.id == schedule.function_id, function.tenant_id == schedule.tenant_id)
    if connection.execute(select(1).where(*mine)).first() is None:
        raise NotFound("there is no function with this name")


def _is_over(connection: Connection, schedule_id: str) -> bool:
    """Whether no run of the schedule has unfinished work."""
    is_open = run.schedule_id == schedule_id, run.invocation_id == tables.work.c.invocation_id
    return connection.execute(select(1).where(*is_open).limit(1)).first() is None


def _is_there(
    connection: Connection, schedule_id: str, tick_ms: int, *, is_manual: bool = False
) -> bool:
    this = (run.schedule_id == schedule_id, run.tick_ms == tick_ms, run.is_manual == is_manual)
    return connection.execute(select(1).where(*this)).first() is not None


def _take_tick(connection: Connection, schedule_id: str, tick_ms: int) -> bool:
    """Prepares the row of a decision on a tick. Returns False if the tick already ran, was skipped,
    or waits. If it was missed, and recurs because the clock was set back, removes the row of the
    missed tick.
    """
    this = (run.schedule_id == schedule_id, run.tick_ms == tick_ms)
    missed = delete(tables.schedule_run).where(*this, run.outcome == RunOutcome.MISSED.value)
    connection.execute(missed)
    return not _is_there(connection, schedule_id, tick_ms)


def _write(connection: Connection, schedule: Schedule, made: ScheduleRun) -> None:
    row = tables.row_of(made)
    del row["status"]
    owners = {"schedule_id": schedule.id, "function_id": schedule.function_id}
    connection.execute(insert(tables.schedule_run), row | owners)
    _count(connection, schedule.id, made.outcome, max(1, made.missed))


def _count(connection: Connection, schedule_id: str, result: RunOutcome, more: int) -> None:
    column = COUNTED.get(result)
    if column is not None:
        change = update(tables.schedule).where(table.id == schedule_id)
        connection.execute(change.values({column.name: column + more}))


def _remove_surplus(connection: Connection, schedule_id: str) -> None:
    """Removes the oldest runs beyond the limit, except unfinished ones."""
    of_this = run.schedule_id == schedule_id
    newest = select(run.tick_ms).where(of_this).order_by(run.tick_ms.desc())
    last = newest.offset(RUNS_KEPT - 1).limit(1).scalar_subquery()
    is_open = exists().where(tables.work.c.invocation_id == run.invocation_id)
    connection.execute(
        delete(tables.schedule_run).where(
            of_this, run.tick_ms < last, run.outcome != "waiting", ~is_open
        )
    )


def _with_last_run(connection: Connection, schedule: Schedule) -> StoredSchedule:
    found = _runs(connection, schedule.id, None, 1)
    return StoredSchedule(schedule=schedule, last_run=found[0] if found else None)


def _runs(
    connection: Connection, schedule_id: str, before_ms: int | None, limit: int
) -> list[ScheduleRun]:
    call = tables.invocation.c
    query = (
        select(tables.schedule_run, call.status)
        .outerjoin(tables.invocation, call.invocation_id == run.invocation_id)
        .where(run.schedule_id == schedule_id)
    )
    if before_ms is not None:
        query = query.where(run.tick_ms < before_ms)
    query = query.order_by(run.tick_ms.desc()).limit(limit)
    return tables.read_all(connection, query, ScheduleRun)
