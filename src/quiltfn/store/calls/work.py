"""The queue of asynchronous invocations, in the database.

    accept ──▶ waits (epoch 0) ──claim──▶ claimed ──the journal stores the end──▶ gone, or waits
                 ├──cancel, too old──▶ gone   └──release, a start (`work_recovery.py`)──▶ waits
Simultaneous requests of many callers are accepted in one transaction.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    ScalarSelect,
    Select,
    delete,
    exists,
    func,
    literal_column,
    select,
)

from quiltfn.base.ids import new_id
from quiltfn.model.cursors import AFTER_EVERY_ID, BEFORE_EVERY_ID, from_cursor, to_cursor
from quiltfn.model.end_cause import Cancelled, EndCause, NotStarted
from quiltfn.model.errors import (
    CapacityFull,
    NotFound,
    QuiltfnError,
    StoreUnavailable,
    Unprocessable,
)
from quiltfn.model.invocation import NEXT, CallEvent, Invocation, Status, WorkOutcome
from quiltfn.model.retention import StorageLimit
from quiltfn.model.state_machine import transition
from quiltfn.model.work import outcome_of_expired
from quiltfn.ports import Page, TenantFunctions
from quiltfn.ports.work import (
    CLAIM_MAX_BYTES,
    AcceptedWork,
    Attempt,
    Claim,
    ClaimedWork,
    DeadLetter,
    DueWork,
    FunctionQueue,
    Input,
    QueueCounts,
)
from quiltfn.store.calls import outcomes, records, stats
from quiltfn.store.calls.inputs import Cipher, input_row, read_environment, read_input, size_of
from quiltfn.store.calls.old_inputs import OldInputs
from quiltfn.store.database import changes, tables
from quiltfn.store.database.database import Database
from quiltfn.store.database.sql import run
from quiltfn.store.functions.old_versions import check_there
from quiltfn.store.functions.policies import policy_of
from quiltfn.store.tenants import usage

MACHINE_BOOT = Path("/proc/sys/kernel/random/boot_id")
# The maximum for one transaction that accepts work, and for one claim, which is held in memory.
ACCEPTED_AT_ONCE, AT_ONCE_MAX_BYTES = 500, CLAIM_MAX_BYTES
ENDED_AT_ONCE = 200
# The number of functions per read: a longer read would delay other readers.
COUNTED_AT_ONCE = 100
RETRY_AFTER_S = 5
CANCELLED = Cancelled("request_before_start")
WAITED_TOO_LONG = "the call waited longer than max_age_seconds of its function's policy"
NO_BOUND = StorageLimit()

work, dead_letter = tables.work.c, tables.dead_letter.c
Refusal = QuiltfnError | None


class SqlWork:
    """The queue of asynchronous invocations, for any number of servers. Raises `StoreUnavailable`.
    `bound`: the limit on inputs, in bytes.

    The journal stores the ends of attempts: `SpoolJournal.closed` gets the record, and its
    `outcome` is applied in the transaction that stores it.
    """

    def __init__(
        self, database: Database, bound: StorageLimit = NO_BOUND, cipher: Cipher | None = None
    ) -> None:
        self._database, self._bound, self._cipher = database, bound, cipher
        self._machine_boot, self._old_inputs = machine_boot_id(), OldInputs()
        self._arrived: list[tuple[AcceptedWork, asyncio.Future[None]]] = []
        self._accepting: asyncio.Task[None] | None = None

    async def accept(self, accepted: AcceptedWork) -> None:
        """Stores the record, its input and its place in the queue; all is on disk when this
        returns.

        Simultaneous requests share one transaction. Raises `CapacityFull` if the queue is full, or
        if inputs of the tenant or of all tenants are too large, and `NotFound` if the function or
        the version of the input was deleted. Storing the same id again has no effect.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[None] = loop.create_future()
        self._arrived.append((accepted, answer))
        if self._accepting is None:
            self._accepting = loop.create_task(self._accept_arrived())
        await answer

    async def _accept_arrived(self) -> None:
        """Accepts all pending requests, including those that arrive meanwhile."""
        try:
            while self._arrived:
                some, size = [], 0
                for arrived in self._arrived[:ACCEPTED_AT_ONCE]:
                    some.append(arrived)
                    size += arrived[0].input.size_bytes
                    if size >= AT_ONCE_MAX_BYTES:
                        break
                del self._arrived[: len(some)]
                await self._accept_some(some)
        finally:
            self._accepting = None

    async def _accept_some(self, some: list[tuple[AcceptedWork, asyncio.Future[None]]]) -> None:
        """Accepts all given requests in one transaction. If that fails, accepts each half
        separately, so that one bad request does not prevent the others.
        """
        accepted = [one for one, _ in some]
        replies: Sequence[Exception | None]
        try:
            replies = await self._database.write(lambda c: self.accept_in(c, accepted))
        except Exception as error:
            if len(some) > 1 and not isinstance(error, StoreUnavailable):
                half = len(some) // 2
                await self._accept_some(some[:half])
                await self._accept_some(some[half:])
                return
            replies = [error] * len(some)
        for (_, answer), refusal in zip(some, replies, strict=True):
            if answer.done():  # its caller was cancelled; the work stays accepted
                continue
            if refusal is None:
                answer.set_result(None)
            else:
                answer.set_exception(refusal)

    def accept_in(self, connection: Connection, given: Sequence[AcceptedWork]) -> list[Refusal]:
        """Accepts work in the caller's transaction. Returns for each item the reason for refusing
        it (`CapacityFull` or `NotFound`), or None.
        """
        ids = tables.as_json([one.record.invocation_id for one in given])
        known = set(run(connection, "ids_among", {"ids": ids}).scalars())
        room = _Room(connection, self._bound, self._old_inputs)
        refusals: list[Refusal] = []
        taken: dict[str, AcceptedWork] = {}
        for work in given:
            is_known = work.record.invocation_id in known or work.record.invocation_id in taken
            refusal = None if is_known else room.take(work)
            refusals.append(refusal)
            if not is_known and refusal is None:
                taken[work.record.invocation_id] = work
        new = list(taken.values())
        records.write(connection, [one.record for one in new], self._database.boot.epoch)
        rows = [input_row(one.record, one.input, self._cipher) for one in new]
        outcomes.many(connection, "add_input", rows)
        outcomes.many(connection, "add_work", [work_row(one) for one in new])
        stats.add_queued(connection, [(one.record, one.given_at) for one in new])
        changes.tell(connection, changes.Notice.WORK)
        return refusals

    async def load(self) -> Sequence[FunctionQueue]:
        """Lists the functions with waiting work. Called at the start."""
        function, count = tables.function.c, tables.work_count.c
        counted = select(count.function_id, function.tenant_id, count.number).where(
            count.function_id == function.id, count.number > 0
        )

        def read(connection: Connection) -> list[FunctionQueue]:
            found = []
            for key, tenant_id, number in connection.execute(counted).all():
                waiting = number - scalar(connection, "number_claimed", key)
                due = scalar(connection, "next_due", key)
                if due is not None:
                    queue = {"function_id": key, "tenant_id": tenant_id, "waiting": waiting}
                    found.append(FunctionQueue(**queue, next_due_ms=due))
            return found

        return await self._database.read(read)

    async def due(self) -> Sequence[DueWork]:
        """Lists the functions with waiting work and their earliest due times, in one query."""

        def read(connection: Connection) -> list[DueWork]:
            rows = run(connection, "due_work").mappings()
            return [tables.read(row, DueWork) for row in rows if row["next_due_ms"] is not None]

        return await self._database.poll(read)

    async def over(self, invocation_ids: Collection[str]) -> Collection[str]:
        """The ids of those of the given invocations that are over."""
        record = tables.invocation.c
        query = select(record.invocation_id).where(
            record.invocation_id.in_(invocation_ids),
            record.status.not_in((Status.QUEUED.value, Status.RUNNING.value)),
        )
        return await self._database.read(lambda c: c.execute(query).scalars().all())

    async def check_key(self) -> None:
        """Raises `Unprocessable` if waiting work cannot be decrypted. Checks only the first item of
        each function: a later item that cannot be decrypted becomes a dead letter when it is
        claimed.
        """
        given = tables.input_table

        def read(connection: Connection) -> list[RowMapping]:
            found: list[RowMapping] = []
            for function_id in connection.execute(
                select(tables.work_count.c.function_id)
            ).scalars():
                first = run(connection, "first_waiting", (function_id,)).scalar()
                row = connection.execute(select(given).where(given.c.invocation_id == first))
                found += row.mappings().all()
            return found

        for row in await self._database.read(read):
            read_input(row, self._cipher)

    async def claim(self, function_id: str, limit: int, now_ms: int, *, is_begun: bool) -> Claim:
        """Claims up to `limit` due items for this node, oldest first. No other server gets them;
        the claim is on disk when this returns. Items that are too old or cannot be decrypted are
        ended instead: their records get the status `error`, and they become dead letters.

        `is_begun`: if the server ends before the journal has the attempt, the attempt still counts
        as interrupted. Otherwise the work waits again after the next start, unless the machine was
        restarted, too: then the journal may have lost the attempt, which counts as interrupted.
        """
        ended: list[Invocation] = []
        while True:  # repeats while all claimed items are too old
            some = await self._database.write(
                lambda c: self._claim_some(c, function_id, limit, now_ms, is_begun)
            )
            ended += some.ended
            if some.work or not some.ended:
                return replace(some, ended=ended)

    def _claim_some(
        self, connection: Connection, function_id: str, limit: int, now_ms: int, is_begun: bool
    ) -> Claim:
        look = {"function_id": function_id, "now": now_ms, "most": limit + ENDED_AT_ONCE}
        too_old = run(connection, "too_old", look).scalars().all()
        ended = self._end_old(connection, function_id, too_old, now_ms)
        if not self._database.boot.is_alone:
            limit = _room_for(connection, function_id, limit)
        values = {
            "node": self._database.boot.node_id,
            "epoch": self._database.boot.epoch,
            "machine": self._machine_boot,
            "is_begun": is_begun,
            "function_id": function_id,
            "now": now_ms,
            "most": limit,
            "bytes": AT_ONCE_MAX_BYTES,
        }
        rows = run(connection, "claim_work", values).mappings().all()
        claimed, unreadable = self._read_claimed(connection, rows, now_ms)
        ended += self._end(connection, unreadable)
        return Claim(
            work=sorted(claimed, key=lambda work: (work.due_at_ms, work.record.invocation_id)),
            ended=ended,
            next_due_ms=scalar(connection, "next_due", function_id),
        )

    def _read_claimed(
        self, connection: Connection, rows: Sequence[Any], now_ms: int
    ) -> tuple[list[ClaimedWork], list[Invocation]]:
        """The claimed work, and records for items whose inputs cannot be decrypted: as dead letters
        these wait for the key.
        """
        if not rows:
            return [], []
        ids = [row["invocation_id"] for row in rows]
        found = records.among(connection, ids)
        query = select(tables.input_table).where(tables.input_table.c.invocation_id.in_(ids))
        given = {row["invocation_id"]: row for row in connection.execute(query).mappings()}
        claimed, unreadable = [], []
        for row in rows:
            record = replace(found[row["invocation_id"]], attempt=row["attempts"])
            try:
                kept = read_input(given[record.invocation_id], self._cipher)
            except QuiltfnError as error:
                dead = WorkOutcome(dead_letter="attempts", decided_at_ms=now_ms)
                cause = NotStarted("queued", str(error))
                unreadable.append(never_begun(record, cause, dead, now_ms // 1000))
                continue
            claimed.append(
                ClaimedWork(
                    record=record,
                    input=kept,
                    due_at_ms=row["due_at_ms"],
                    expires_at_ms=row["expires_at_ms"],
                )
            )
        return claimed, unreadable

    def _end_old(
        self, connection: Connection, function_id: str, ids: Sequence[str], now_ms: int
    ) -> list[Invocation]:
        if not ids:
            return []
        policy = policy_of(connection, function_id)
        too_old = NotStarted("queued", WAITED_TOO_LONG)
        ended = []
        for record in records.among(connection, ids).values():
            decided = outcome_of_expired(policy, now_ms, new_id)
            ended.append(never_begun(record, too_old, decided, now_ms // 1000))
        return self._end(connection, ended)

    def _end(self, connection: Connection, ended: list[Invocation]) -> list[Invocation]:
        """Stores ends of work that was not started."""
        if ended:
            records.write(connection, ended, self._database.boot.epoch)
            records.add_counters(connection, ended)
            stats.add_ended(connection, ended)
            outcomes.carry_out(connection, ended, is_attempt=False)
        return ended

    async def release(self, invocation_ids: Sequence[str], due_at_ms: int | None = None) -> None:
        """Releases claimed work that was not started; the attempt does not count. `due_at_ms`: the
        new due time; None: keeps the old one.
        """
        if invocation_ids:
            await self._database.write(lambda c: self._release(c, invocation_ids, due_at_ms))

    async def release_others(self, function_id: str, known: Collection[str]) -> int | None:
        """Releases all work of the function that this server has claimed since its start, except
        `known` ids. Used after a claim or a release with an unknown outcome. Returns when the first
        waiting item is due, in Unix milliseconds; None: nothing waits.
        """
        boot = self._database.boot
        mine = {"function_id": function_id, "node": boot.node_id, "epoch": boot.epoch}

        def write(connection: Connection) -> int | None:
            claimed = run(connection, "claimed_now", mine).scalars().all()
            others = [one for one in claimed if one not in known]
            if others:
                self._release(connection, others)
            due: int | None = scalar(connection, "next_due", function_id)
            return due

        return await self._database.write(write)

    def _release(
        self, connection: Connection, invocation_ids: Sequence[str], due_at_ms: int | None = None
    ) -> None:
        boot = self._database.boot
        mine = {"node": boot.node_id, "epoch": boot.epoch, "due": due_at_ms}
        rows = [{"invocation_id": one} | mine for one in invocation_ids]
        run(connection, "release_work", rows).close()
        changes.tell(connection, changes.Notice.WORK)

    async def cancel(self, function_id: str, invocation_id: str, now: int) -> Invocation | None:
        """Ends waiting work; returns its record, `cancelled`. None if no such work waits."""
        this = (work.invocation_id == invocation_id, work.function_id == function_id)
        waits = select(work.invocation_id).where(*this, work.epoch == 0)

        def write(connection: Connection) -> Invocation | None:
            if connection.execute(waits).first() is None:
                return None
            record = records.among(connection, [invocation_id])[invocation_id]
            event = CallEvent.CANCELLED
            ended = never_begun(record, CANCELLED, WorkOutcome(), now, event)
            return self._end(connection, [ended])[0]

        return await self._database.write(write, frees=True)

    async def claimed_by(self, invocation_id: str) -> str | None:
        """The node that has claimed this work; None if no node has claimed it, or if it is over."""
        claimed = work.invocation_id == invocation_id, work.epoch > 0
        query = select(work.node_id).where(*claimed)
        return await self._database.read(lambda c: c.execute(query).scalar_one_or_none())

    async def counts(self, function_id: str, now_ms: int) -> QueueCounts:
        """How much work the function has, by its state."""
        found = await self._database.read(lambda c: _counts(c, [function_id], now_ms))
        return found.get(function_id, QueueCounts())

    async def queues(
        self, of: TenantFunctions, limit: int, cursor: str | None, now_ms: int
    ) -> Page[tuple[str, QueueCounts]]:
        """Like `counts`, for each function that has work or dead letters, by id. Raises
        `Unprocessable` for an invalid cursor.
        """
        key, count = tables.function.c.id, tables.work_count.c
        has_work = exists().where(count.function_id == key, count.number > 0)
        has_dead = exists().where(dead_letter.function_id == key)
        query = select(key).where(
            tables.function.c.tenant_id == of.tenant_id,
            key > from_cursor(cursor, BEFORE_EVERY_ID),
            has_work | has_dead,
        )
        if of.ids is not None:
            query = query.where(key.in_(of.ids))
        query = query.order_by(key).limit(limit + 1)

        found = await self._database.read(lambda c: c.execute(query).scalars().all())
        ids, items = found[:limit], list[tuple[str, QueueCounts]]()
        for at in range(0, len(ids), COUNTED_AT_ONCE):
            some = ids[at : at + COUNTED_AT_ONCE]
            counts = await self._database.read(partial(_counts, function_ids=some, now_ms=now_ms))
            # some functions may be deleted
            items += [(one, counts[one]) for one in some if one in counts]
        return Page(items, to_cursor(ids[-1]) if len(found) > limit else None)

    async def attempts(self, invocation_id: str) -> Sequence[Attempt]:
        """The completed attempts of an asynchronous invocation, first to last."""
        rows = select(tables.attempt).where(tables.attempt.c.invocation_id == invocation_id)
        rows = rows.order_by(tables.attempt.c.attempt)
        return await self._database.read(lambda c: tables.read_all(c, rows, Attempt))

    async def input_variables(self, invocation_id: str) -> Sequence[str] | None:
        """The names of the caller's variables: empty if they cannot be decrypted, None if the input
        is not stored.
        """
        table = tables.input_table.c
        columns = (table.invocation_id, table.environment, table.is_encrypted)
        query = select(*columns).where(table.invocation_id == invocation_id)
        row = await self._database.read(lambda c: c.execute(query).mappings().one_or_none())
        try:
            return None if row is None else sorted(read_environment(row, self._cipher) or ())
        except Unprocessable:
            return ()

    async def dead_input(self, function_id: str, invocation_id: str) -> Input | None:
        """As `input`, if the invocation is a dead letter of the function; otherwise None."""
        this = (
            dead_letter.invocation_id == invocation_id,
            dead_letter.function_id == function_id,
        )
        return await self.input(invocation_id, exists().where(*this))

    async def input(self, invocation_id: str, *where: ColumnElement[bool]) -> Input | None:
        """The caller's input, if it is stored. Raises `Unprocessable` if it cannot be decrypted."""
        query = select(tables.input_table).where(
            tables.input_table.c.invocation_id == invocation_id, *where
        )
        row = await self._database.read(lambda c: c.execute(query).mappings().one_or_none())
        return None if row is None else read_input(row, self._cipher)

    async def keep_input(self, record: Invocation, kept: Input) -> None:
        """Stores the input of a synchronous invocation, if the limits on inputs allow it."""
        values = input_row(record, kept, self._cipher)

        def write(connection: Connection) -> None:
            room = _Room(connection, self._bound, self._old_inputs)
            if room.fits(record.tenant_id, size_of(kept)) is None:
                outcomes.many(connection, "add_input", [values])

        await self._database.write(write)

    async def dead_letters(
        self, of: str | TenantFunctions, limit: int, cursor: str | None
    ) -> Page[DeadLetter]:
        """The dead letters of one function, or of several, newest first."""
        call, attempt = tables.invocation.c, tables.attempt.c
        made = select(func.count()).where(attempt.invocation_id == dead_letter.invocation_id)
        query = (
            select(
                *(dead_letter.invocation_id, dead_letter.function_id),
                *(dead_letter.reason, dead_letter.died_at, call.status),
                made.scalar_subquery().label("attempts"),
                *(call.error_message, call.end_cause, call.source),
            )
            .where(
                tables.are_of(tables.dead_letter, of),
                dead_letter.invocation_id < from_cursor(cursor, AFTER_EVERY_ID),
                call.invocation_id == dead_letter.invocation_id,
            )
            .order_by(dead_letter.invocation_id.desc())
            .limit(limit + 1)
        )
        found = await self._database.read(lambda c: tables.read_all(c, query, DeadLetter))
        items = found[:limit]
        return Page(items, to_cursor(items[-1].invocation_id) if len(found) > limit else None)

    async def redrive(
        self, function_id: str, again: Sequence[tuple[str, AcceptedWork]]
    ) -> Sequence[str]:
        """Removes dead letters and accepts their work again under new ids, in one transaction.
        Takes pairs of a dead letter's id and its new work. Returns the new ids; skips missing dead
        letters.
        """

        def write(connection: Connection) -> list[str]:
            there = [one for dead_id, one in again if _take(connection, function_id, dead_id)]
            for refusal in self.accept_in(connection, there):
                if refusal is not None:
                    raise refusal
            outcomes.forget_inputs(connection, [dead_id for dead_id, _ in again])
            return [one.record.invocation_id for one in there]

        return await self._database.write(write)

    async def drop_dead_letter(self, function_id: str, invocation_id: str) -> bool:
        """Removes a dead letter, but not its record. Returns whether it existed."""

        def write(connection: Connection) -> bool:
            was_there = _take(connection, function_id, invocation_id)
            if was_there:
                outcomes.forget_inputs(connection, [invocation_id])
            return was_there

        return await self._database.write(write, frees=True)


class _Room:
    """The amount of work that one transaction may still accept."""

    def __init__(self, connection: Connection, bound: StorageLimit, old: OldInputs) -> None:
        self._connection, self._bound, self._old = connection, bound, old
        self._waiting: dict[str, int | None] = {}
        self._has: Counter[str] = Counter()
        self._all = usage.of_all(connection, usage.INPUT)

    def take(self, work: AcceptedWork) -> Refusal:
        """The reason for refusing the work; None: the work counts as accepted."""
        function_id, tenant_id = work.record.function_id, work.record.tenant_id
        waiting = self._waiting_of(function_id)
        if waiting is None:
            return NotFound("the function was deleted")
        if work.input.version is not None:
            try:  # later removals of versions see the stored input and keep its version
                check_there(self._connection, function_id, work.input.version)
            except NotFound as error:
                return error
        if waiting >= work.max_queued:
            return CapacityFull(
                f"{waiting} calls of the function wait already, and at most {work.max_queued} may",
                retry_after=RETRY_AFTER_S,
            )
        size = size_of(work.input)
        refusal = self.fits(tenant_id, size)
        if refusal is None:
            self._waiting[function_id] = waiting + 1
            self._has[tenant_id] += size
            self._all += size
        return refusal

    def fits(self, tenant_id: str, size: int) -> Refusal:
        """The reason for refusing an input of that size, or None. Removes old inputs to make
        room.
        """
        if tenant_id not in self._has:
            self._has[tenant_id] = usage.of_tenant(self._connection, usage.INPUT, tenant_id)
        too_much = self._has[tenant_id] + size - self._bound.tenant
        if self._bound.tenant and too_much > 0:
            surplus = usage.Surplus(tenant_id, usage.Unit.BYTES, too_much, 1)
            freed = self._old.remove_some(self._connection, [surplus])
            self._has[tenant_id] -= freed
            self._all -= freed
            if freed < too_much:
                return full("the inputs of the tenant's calls", self._bound.tenant)
        too_much = self._all + size - self._bound.all
        if self._bound.all and too_much > 0:
            return full("the inputs of all calls", self._bound.all)
        return None

    def _waiting_of(self, function_id: str) -> int | None:
        """How many invocations of the function wait; None: the function is deleted."""
        if function_id not in self._waiting:
            self._waiting[function_id] = None
            if scalar(self._connection, "has_function", function_id) is not None:
                number = scalar(self._connection, "number_of_work", function_id) or 0
                claimed = scalar(self._connection, "number_claimed", function_id)
                self._waiting[function_id] = number - claimed
        return self._waiting[function_id]


def full(noun: str, limit: int) -> CapacityFull:
    return CapacityFull(
        f"{noun} take as many bytes as they may",
        details={"expected": f"at most {limit} bytes"},
        hint="work that waits and dead letters keep theirs: redrive or delete dead letters",
        retry_after=RETRY_AFTER_S,
    )


def work_row(work: AcceptedWork) -> tuple[Any, ...]:
    """The values of `add_work`."""
    record = work.record
    whose = record.invocation_id, record.tenant_id, record.function_id
    return *whose, work.due_at_ms, work.expires_at_ms


def never_begun(
    record: Invocation,
    cause: EndCause,
    decided: WorkOutcome,
    now: int,
    event: CallEvent = CallEvent.ERROR,
) -> Invocation:
    """The final record of queued work that will never start."""
    return replace(
        record,
        status=transition(NEXT, Status.QUEUED, event),
        ended_at=now,
        error_message=cause.sentence,
        end_cause=cause,
        outcome=decided,
    )


def machine_boot_id() -> str:
    """An id that changes with each start of the machine's kernel."""
    return MACHINE_BOOT.read_text().strip()


def _room_for(connection: Connection, function_id: str, limit: int) -> int:
    """How many more items of the function may be claimed, at most `limit`: all servers together
    must respect its `max_concurrency`, and each one knows only its own invocations.
    """
    most = policy_of(connection, function_id).max_concurrency
    if most is None:
        return limit
    claimed: int = scalar(connection, "number_claimed", function_id)
    return min(limit, max(0, most - claimed))


def counting(function_ids: Sequence[str], now_ms: int) -> Select[Any]:
    """Selects the fields of `QueueCounts` for each of the given functions that exists."""
    key = tables.function.c.id
    # a literal, as in the conditions of the indices
    nobody: ColumnElement[int] = literal_column("0")
    is_own, count = work.function_id == key, tables.work_count.c
    waits = (is_own, work.epoch == nobody)

    def number(*where: ColumnElement[bool]) -> ScalarSelect[Any]:
        return select(func.count()).where(*where).scalar_subquery()

    first = select(work.due_at_ms).where(*waits).order_by(work.due_at_ms).limit(1)
    return select(
        key,
        select(count.number).where(count.function_id == key).scalar_subquery().label("number"),
        number(is_own, work.epoch > nobody).label("running"),
        number(*waits, work.due_at_ms > now_ms).label("delayed"),
        number(dead_letter.function_id == key).label("dead"),
        first.scalar_subquery().label("first"),
    ).where(key.in_(function_ids))


def _counts(
    connection: Connection, function_ids: Sequence[str], now_ms: int
) -> dict[str, QueueCounts]:
    return {
        row.id: QueueCounts(
            queued=(row.number or 0) - row.running - row.delayed,
            delayed=row.delayed,
            running=row.running,
            dead_letters=row.dead,
            oldest_due_ms=row.first if row.first is not None and row.first <= now_ms else None,
        )
        for row in connection.execute(counting(function_ids, now_ms))
    }


def scalar(connection: Connection, statement: str, function_id: str) -> Any:
    """The value that a statement about a function returns; None without a row."""
    return run(connection, statement, (function_id,)).scalar()


def _take(connection: Connection, function_id: str, invocation_id: str) -> bool:
    """Removes a dead letter; returns whether it existed."""
    this = (dead_letter.invocation_id == invocation_id, dead_letter.function_id == function_id)
    return bool(connection.execute(delete(tables.dead_letter).where(*this)).rowcount)
