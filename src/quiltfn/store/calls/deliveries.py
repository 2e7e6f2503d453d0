"""Deliveries in the database. The commit of a call's last record adds them (`outcomes.py`).

waiting (epoch 0) ──claim──▶ claimed ──finish, accept──▶ delivered, failed or waiting
                                └──release, a start──▶ waiting
"""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    LargeBinary,
    delete,
    exists,
    func,
    literal,
    literal_column,
    select,
    update,
)

from quiltfn.model.converting import convert
from quiltfn.model.cursors import AFTER_EVERY_ID, first_id, from_cursor, to_cursor
from quiltfn.model.delivery import Delivery, DeliveryStatus
from quiltfn.model.end_cause import EndCause
from quiltfn.model.retention import StorageLimit
from quiltfn.ports import Page, TenantFunctions
from quiltfn.ports.deliveries import DueDeliveries
from quiltfn.ports.work import AcceptedWork
from quiltfn.store.calls.work import SqlWork
from quiltfn.store.database import steps, tables
from quiltfn.store.database.database import Database
from quiltfn.store.fleet.nodes import Boot, of_earlier_boots
from quiltfn.store.tenants import usage

STEP_ROWS = 200
ROW_BYTES = 500  # What one takes without its body.
TOO_MUCH = "more was to be sent than the tenant, or all together, may have waiting"
NOBODY = {"node_id": "", "epoch": 0}

table = tables.delivery
one = table.c
COLUMNS = [one[name] for name in Delivery.__struct_fields__ if name != "end_cause"]
_CAUSE = select(tables.invocation.c.end_cause).where(
    tables.invocation.c.invocation_id == one.invocation_id
)
WITHOUT_BODY = [
    literal(b"", LargeBinary).label("body") if column is one.body else column for column in COLUMNS
] + [_CAUSE.scalar_subquery().label("end_cause")]
# Written out, or a plan that PostgreSQL keeps could not use the index of those that wait.
WAITS = one.status == literal_column(f"'{DeliveryStatus.WAITING.value}'")
IS_FREE = one.epoch == literal_column("0")


class SqlDeliveries:
    """Deliveries, for any number of servers. Raises `StoreUnavailable`. `bound`: the bytes of all.

    None of a deleted function is claimed.
    """

    def __init__(
        self, database: Database, work: SqlWork, bound: StorageLimit | None = None
    ) -> None:
        self._database, self._work, self._bound = database, work, bound or StorageLimit()

    async def load(self) -> Sequence[DueDeliveries]:
        """Every function that has some waiting; called at the start. What an earlier start of this
        server was sending waits again: whether it arrived is not known.
        """
        boot = self._database.boot

        def work(connection: Connection) -> list[DueDeliveries]:
            free(connection, boot)
            return _waiting(connection)

        return await self._database.write(work, frees=True)

    async def waiting(self) -> Sequence[DueDeliveries]:
        """Every function that has some waiting, as they are."""
        return await self._database.poll(_waiting)

    async def next_due(self, function_id: str) -> DueDeliveries | None:
        """When the first of the function's is due; None where none waits."""
        query = (
            select(one.function_id, one.tenant_id, one.due_at_ms)
            .where(one.function_id == function_id, WAITS, IS_FREE)
            .order_by(one.due_at_ms)
            .limit(1)
        )

        def work(connection: Connection) -> DueDeliveries | None:
            row = connection.execute(query).one_or_none()
            return None if row is None else _due(row)

        return await self._database.read(work)

    async def claim(self, function_id: str, limit: int, now_ms: int) -> Sequence[Delivery]:
        """Makes up to `limit` due ones this server's to send, oldest first, and counts the try: on
        disk when this returns.
        """
        due = (
            select(one.id)
            .where(one.function_id == function_id, WAITS, IS_FREE, one.due_at_ms <= now_ms)
            .where(exists().where(tables.function.c.id == function_id))
            .order_by(one.due_at_ms)
            .limit(limit)
        )
        owner = tables.owned_by(self._database.boot)
        take = (
            update(table)
            .where(one.id.in_(due))
            .values(**owner, attempts=one.attempts + 1)
            .returning(*COLUMNS)
        )

        def work(connection: Connection) -> list[Delivery]:
            return [_read(row) for row in connection.execute(take)]

        # It may use the reserve of a full disk, since what is sent is freed.
        found = await self._database.write(work, frees=True)
        return sorted(found, key=lambda each: (each.due_at_ms, each.id))

    async def release(self, delivery: Delivery) -> None:
        """Puts one back whose try was not begun; it does not count."""
        values = {**NOBODY, "attempts": delivery.attempts - 1}
        await self._change(delivery, values)

    async def release_others(self, known: Collection[str]) -> None:
        """After a claim of which it is not known whether it was made: likewise for every one that
        is this server's to send, but for those with the ids that are `known`.
        """
        boot = self._database.boot
        others = (
            WAITS,
            one.epoch == boot.epoch,
            one.node_id == boot.node_id,
            one.id.not_in(list(known)),
        )
        change = update(table).where(*others).values({**NOBODY, "attempts": one.attempts - 1})
        await self._database.write(
            lambda connection: connection.execute(change).close(), frees=True
        )

    async def finish(self, delivery: Delivery) -> None:
        """Stores what became of a try: one that waits is due again."""
        await self._change(delivery, _end_of(delivery))

    async def accept(self, delivery: Delivery, work: AcceptedWork) -> None:
        """Stores it as delivered and the work of the destination's function, which has the
        delivery's id, in one transaction; again, it changes nothing. Raises what `WorkStore.accept`
        raises.
        """
        delivered = {
            **_end_of(delivery),
            "status": DeliveryStatus.DELIVERED,
            "error_message": None,
            "body": b"",
        }
        change = self._owned(delivery).values(delivered)

        def both(connection: Connection) -> None:
            (refusal,) = self._work.accept_in(connection, [work])
            if refusal is not None:
                raise refusal
            connection.execute(change).close()

        await self._database.write(both)

    async def depth(self, invocation_id: str, most: int) -> int:
        """How many calls in a row were caused by the one before, up to this one and at most `most`.
        A call that nothing caused: 1. A record that is gone is as one that nothing caused.
        """
        record = tables.invocation.c

        def work(connection: Connection) -> int:
            seen: str | None = invocation_id
            for depth in range(1, most):
                query = select(record.parent_invocation_id).where(record.invocation_id == seen)
                seen = connection.execute(query).scalar()
                if seen is None:
                    return depth
            return most

        return await self._database.read(work)

    async def list(
        self,
        of: str | TenantFunctions,
        limit: int,
        cursor: str | None,
        status: DeliveryStatus | None,
    ) -> Page[Delivery]:
        """The deliveries of the function with the id, or of several, newest first, without bodies.
        Where few of very many have the status, a page may have few or none and a cursor all the
        same. Raises `Unprocessable` for an invalid cursor.
        """
        before = from_cursor(cursor, AFTER_EVERY_ID)
        rows = select(one.id, one.status).where(tables.are_of(table, of))

        def filters(columns: Any) -> Sequence[ColumnElement[bool]]:
            return () if status is None else (columns.status == status.value,)

        def work(connection: Connection) -> Page[Delivery]:
            ids, last = steps.matching(connection, rows, filters, limit, before)
            whole = select(*WITHOUT_BODY).where(one.id.in_(ids)).order_by(one.id.desc())
            items = [_read(row) for row in connection.execute(whole)]
            return Page(items, None if last is None else to_cursor(last))

        return await self._database.read(work)

    async def retry(
        self, function_id: str, delivery_id: str, now_ms: int, expires_at_ms: int
    ) -> Delivery | None:
        """Makes one due at once that is not delivered; None: the function has none of that id. One
        that is delivered, or whose body had to make room, is returned as it is. One that is being
        sent stays as it is.
        """
        this = (one.function_id == function_id, one.id == delivery_id)
        has_body = func.length(one.body) > 0  # else it had to make room: see `_give_up`
        change = (
            update(table)
            .where(*this, one.status != DeliveryStatus.DELIVERED, one.epoch == 0, has_body)
            .values(
                status=DeliveryStatus.WAITING,
                due_at_ms=now_ms,
                expires_at_ms=expires_at_ms,
                ended_at=None,
            )
        )

        def work(connection: Connection) -> Delivery | None:
            connection.execute(change).close()
            row = connection.execute(select(*WITHOUT_BODY).where(*this)).one_or_none()
            return None if row is None else _read(row)

        return await self._database.write(work)

    async def prune_some(self, before: int | None, now: int) -> int:
        """Removes some that ended before that time (Unix seconds; None: none), and some of those
        that take more than they may, oldest first. Where there is nothing else, the oldest that
        wait fail, without their bodies. Returns how many; 0: there is nothing to do.
        """

        def work(connection: Connection) -> int:
            changed = 0
            if before is not None:
                old = (
                    select(one.id)
                    .where(one.id < first_id(before), one.ended_at < before)
                    .limit(STEP_ROWS)
                )
                changed += connection.execute(delete(table).where(one.id.in_(old))).rowcount
            for surplus in usage.surpluses(connection, usage.DELIVERY, self._bound):
                changed += _give_up(connection, surplus, now)
            return changed

        return await self._database.write(work, frees=True)

    def _owned(self, delivery: Delivery) -> Any:
        """A change of one that this server has claimed, for the try that the delivery says."""
        owner = tables.owned_by(self._database.boot)
        return update(table).where(
            one.id == delivery.id,
            one.epoch == owner["epoch"],
            one.node_id == owner["node_id"],
            one.attempts == delivery.attempts,
        )

    async def _change(self, delivery: Delivery, values: dict[str, Any]) -> None:
        change = self._owned(delivery).values(values)
        await self._database.write(
            lambda connection: connection.execute(change).close(), frees=True
        )


def free(connection: Connection, boot: Boot) -> int:
    """Lets others send what earlier boots of a server had claimed; returns how many there were."""
    left = of_earlier_boots(boot, one.node_id, one.epoch)
    change = update(table).where(WAITS, one.epoch > 0, left).values(NOBODY)
    return connection.execute(change).rowcount


def _waiting(connection: Connection) -> list[DueDeliveries]:
    query = (
        select(one.function_id, one.tenant_id, func.min(one.due_at_ms))
        .where(WAITS, IS_FREE)
        .group_by(one.function_id, one.tenant_id)
    )
    return [_due(row) for row in connection.execute(query)]


def _give_up(connection: Connection, surplus: usage.Surplus, now: int) -> int:
    """Removes the oldest that have ended, or lets the oldest that wait fail."""
    size = (ROW_BYTES + func.length(one.body)).label("size")
    theirs = select(one.id, size).where(one.tenant_id == surplus.tenant_id)
    ended = theirs.where(one.ended_at.is_not(None)).order_by(one.ended_at).limit(STEP_ROWS)
    rows = connection.execute(ended).all()
    if rows:
        change: Any = delete(table)
    else:
        waiting = theirs.where(one.ended_at.is_(None)).order_by(one.id).limit(STEP_ROWS)
        rows = connection.execute(waiting).all()
        failed = {**NOBODY, "status": DeliveryStatus.FAILED, "body": b"", "ended_at": now}
        change = update(table).values(**failed, error_message=TOO_MUCH)
    chosen, freed = [], 0
    for row in rows:
        if freed >= surplus.amount:
            break
        chosen.append(row.id)
        freed += row.size
    return int(connection.execute(change.where(one.id.in_(chosen))).rowcount)


def _end_of(delivery: Delivery) -> dict[str, Any]:
    """What a try may have changed; nobody has it any more."""
    names = ("status", "due_at_ms", "http_status", "error_message", "ended_at", "body")
    return {**NOBODY, **{name: getattr(delivery, name) for name in names}}


def _read(row: Any) -> Delivery:
    values = dict(row._mapping)
    cause = values.pop("end_cause", None)
    return Delivery(
        **values | {"status": DeliveryStatus(values["status"])},
        end_cause=None if cause is None else convert(cause, EndCause),  # type: ignore[arg-type]
    )


def _due(row: Any) -> DueDeliveries:
    return DueDeliveries(function_id=row[0], tenant_id=row[1], next_due_ms=row[2])
