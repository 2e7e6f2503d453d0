"""Deliveries in the database. The commit of an invocation's last record adds them (`outcomes.py`).

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
from quiltfn.model.retention import StorageLimit
from quiltfn.ports import Page, TenantFunctions
from quiltfn.ports.deliveries import DueDeliveries
from quiltfn.ports.work import AcceptedWork
from quiltfn.store.calls.work import SqlWork
from quiltfn.store.database import steps, tables
from quiltfn.store.database.database import Database
from quiltfn.store.database.nodes import Boot, of_earlier_boots
from quiltfn.store.tenants import usage

STEP_ROWS = 200
ROW_BYTES = 500  # the size of a row without its body
NOT_KEPT = "what was to be sent had to make room for other deliveries and is not kept"
NOBODY = {"node_id": "", "epoch": 0}

table = tables.delivery
columns = table.c
COLUMNS = [columns[name] for name in Delivery.__struct_fields__ if name != "end_cause"]
_CAUSE = select(tables.invocation.c.end_cause).where(
    tables.invocation.c.invocation_id == columns.invocation_id
)
WITHOUT_BODY = [
    literal(b"", LargeBinary).label("body") if column is columns.body else column
    for column in COLUMNS
] + [_CAUSE.scalar_subquery().label("end_cause")]
# Literals, because a cached plan of PostgreSQL's could not use the partial index with parameters.
WAITS = columns.status == literal_column(f"'{DeliveryStatus.WAITING.value}'")
IS_FREE = columns.epoch == literal_column("0")


class SqlDeliveries:
    """Deliveries, for any number of servers. Raises `StoreUnavailable`. `bound`: their limits.

    Deliveries of a deleted function are never claimed.
    """

    def __init__(
        self, database: Database, work: SqlWork, bound: StorageLimit | None = None
    ) -> None:
        self._database, self._work, self._bound = database, work, bound or StorageLimit()

    async def load(self) -> Sequence[DueDeliveries]:
        """Lists the functions with waiting deliveries; called at the start. Deliveries that an
        earlier start of this server was sending wait again, since it is unknown whether they
        arrived.
        """
        boot = self._database.boot

        def work(connection: Connection) -> list[DueDeliveries]:
            free(connection, boot)
            return _waiting(connection)

        return await self._database.write(work, frees=True)

    async def waiting(self) -> Sequence[DueDeliveries]:
        """Lists the functions with waiting deliveries; changes nothing."""
        return await self._database.poll(_waiting)

    async def next_due(self, function_id: str) -> DueDeliveries | None:
        """When the function's first delivery is due; None if none waits."""
        query = (
            select(columns.function_id, columns.tenant_id, columns.due_at_ms)
            .where(columns.function_id == function_id, WAITS, IS_FREE)
            .order_by(columns.due_at_ms)
            .limit(1)
        )
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else _due(row)

    async def claim(self, function_id: str, limit: int, now_ms: int) -> Sequence[Delivery]:
        """Claims up to `limit` due deliveries for this server, oldest first, and counts the try.
        All of this is on disk when it returns.
        """
        due = (
            select(columns.id)
            .where(columns.function_id == function_id, WAITS, IS_FREE, columns.due_at_ms <= now_ms)
            .where(exists().where(tables.function.c.id == function_id))
            .order_by(columns.due_at_ms)
            .limit(limit)
        )
        owner = tables.owned_by(self._database.boot)
        take = (
            update(table)
            .where(columns.id.in_(due))
            .values(**owner, attempts=columns.attempts + 1)
            .returning(*COLUMNS)
        )

        def work(connection: Connection) -> list[Delivery]:
            return [_read(row) for row in connection.execute(take)]

        # May use the reserve of a full disk, since sent deliveries free space.
        found = await self._database.write(work, frees=True)
        return sorted(found, key=lambda each: (each.due_at_ms, each.id))

    async def release(self, delivery: Delivery) -> None:
        """Releases a delivery whose try did not start; the try does not count."""
        values = {**NOBODY, "attempts": delivery.attempts - 1}
        await self._change(delivery, values)

    async def release_others(self, known: Collection[str]) -> None:
        """Releases all deliveries that this server has claimed, except those in `known`, and does
        not count their tries. Used after a claim whose outcome is unknown.
        """
        boot = self._database.boot
        mine = WAITS, columns.epoch == boot.epoch, columns.node_id == boot.node_id
        others = *mine, columns.id.not_in(list(known))
        change = update(table).where(*others).values({**NOBODY, "attempts": columns.attempts - 1})
        await self._database.write(lambda c: c.execute(change).close(), frees=True)

    async def finish(self, delivery: Delivery) -> None:
        """Stores the outcome of a try: a waiting delivery becomes due again."""
        await self._change(delivery, _end_of(delivery))

    async def accept(self, delivery: Delivery, work: AcceptedWork) -> None:
        """Marks the delivery as delivered and accepts the work of the destination's function, under
        the delivery's id, in one transaction; a repetition changes nothing. Raises the errors of
        `SqlWork.accept`.
        """
        delivered = {"status": DeliveryStatus.DELIVERED, "error_message": None, "body": b""}
        change = self._owned(delivery).values(_end_of(delivery) | delivered)

        def both(connection: Connection) -> None:
            (refusal,) = self._work.accept_in(connection, [work])
            if refusal is not None:
                raise refusal
            connection.execute(change).close()

        await self._database.write(both)

    async def depth(self, invocation_id: str, most: int) -> int:
        """The length, up to `most`, of the causal chain that ends with this invocation; 1 if it has
        no cause. A missing record ends the chain.
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
        """The deliveries of one function, or of several, newest first, without bodies. If few of
        very many deliveries have the status, a page may have few or none and still a cursor. Raises
        `Unprocessable` for an invalid cursor.
        """
        before = from_cursor(cursor, AFTER_EVERY_ID)
        rows = select(columns.id, columns.status).where(tables.are_of(table, of))

        def filters(columns: Any) -> Sequence[ColumnElement[bool]]:
            return () if status is None else (columns.status == status.value,)

        def work(connection: Connection) -> Page[Delivery]:
            ids, last = steps.matching(connection, rows, filters, limit, before)
            whole = select(*WITHOUT_BODY).where(columns.id.in_(ids)).order_by(columns.id.desc())
            items = [_read(row) for row in connection.execute(whole)]
            return Page(items, None if last is None else to_cursor(last))

        return await self._database.read(work)

    async def retry(
        self, function_id: str, delivery_id: str, now_ms: int, expires_at_ms: int
    ) -> Delivery | None:
        """Makes an undelivered delivery due at once. A delivery that is delivered, is being sent,
        or has lost its body to make room stays unchanged. Returns it; None: the function has no
        such delivery.
        """
        this = (columns.function_id == function_id, columns.id == delivery_id)
        has_body = func.length(columns.body) > 0  # `_give_up` removes bodies
        is_undelivered = (
            *this,
            columns.status != DeliveryStatus.DELIVERED,
            columns.epoch == 0,
            has_body,
        )
        due = {"status": DeliveryStatus.WAITING, "due_at_ms": now_ms, "ended_at": None}
        due["expires_at_ms"] = expires_at_ms
        change = update(table).where(*is_undelivered).values(due)

        def work(connection: Connection) -> Delivery | None:
            connection.execute(change).close()
            row = connection.execute(select(*WITHOUT_BODY).where(*this)).one_or_none()
            return None if row is None else _read(row)

        return await self._database.write(work)

    async def prune_some(self, before: int | None, now: int) -> int:
        """Removes some deliveries that ended before that time (Unix seconds; None: skip this), and
        some that exceed the limits, oldest first. If no ended deliveries are left, fails the oldest
        waiting ones and drops their bodies. Returns the number removed or failed; 0: nothing is
        left to do.
        """

        def work(connection: Connection) -> int:
            changed = 0
            if before is not None:
                old = (
                    select(columns.id)
                    .where(columns.id < first_id(before), columns.ended_at < before)
                    .limit(STEP_ROWS)
                )
                changed += connection.execute(delete(table).where(columns.id.in_(old))).rowcount
            for surplus in usage.surpluses(connection, usage.DELIVERY, self._bound):
                changed += _give_up(connection, surplus, now)
            return changed

        return await self._database.write(work, frees=True)

    def _owned(self, delivery: Delivery) -> Any:
        """An update of a delivery that this server has claimed, if its try is still the current
        one.
        """
        owner = tables.owned_by(self._database.boot)
        return update(table).where(
            columns.id == delivery.id,
            columns.epoch == owner["epoch"],
            columns.node_id == owner["node_id"],
            columns.attempts == delivery.attempts,
        )

    async def _change(self, delivery: Delivery, values: dict[str, Any]) -> None:
        change = self._owned(delivery).values(values)
        await self._database.write(lambda c: c.execute(change).close(), frees=True)


def free(connection: Connection, boot: Boot) -> int:
    """Releases deliveries that earlier boots of a server had claimed; returns how many."""
    left = of_earlier_boots(boot, columns.node_id, columns.epoch)
    change = update(table).where(WAITS, columns.epoch > 0, left).values(NOBODY)
    return connection.execute(change).rowcount


def _waiting(connection: Connection) -> list[DueDeliveries]:
    query = (
        select(columns.function_id, columns.tenant_id, func.min(columns.due_at_ms))
        .where(WAITS, IS_FREE)
        .group_by(columns.function_id, columns.tenant_id)
    )
    return [_due(row) for row in connection.execute(query)]


def _give_up(connection: Connection, surplus: usage.Surplus, now: int) -> int:
    """Removes the oldest ended deliveries, or fails the oldest waiting ones."""
    size = (ROW_BYTES + func.length(columns.body)).label("size")
    theirs = select(columns.id, size).where(columns.tenant_id == surplus.tenant_id)
    ended = theirs.where(columns.ended_at.is_not(None)).order_by(columns.ended_at).limit(STEP_ROWS)
    rows = connection.execute(ended).all()
    if rows:
        change: Any = delete(table)
    else:
        waiting = theirs.where(columns.ended_at.is_(None)).order_by(columns.id).limit(STEP_ROWS)
        rows = connection.execute(waiting).all()
        failed = {**NOBODY, "status": DeliveryStatus.FAILED, "body": b"", "ended_at": now}
        change = update(table).values(**failed, error_message=NOT_KEPT)
    chosen, freed = [], 0
    for row in rows:
        if freed >= surplus.amount:
            break
        chosen.append(row.id)
        freed += row.size
    return int(connection.execute(change.where(columns.id.in_(chosen))).rowcount)


def _end_of(delivery: Delivery) -> dict[str, Any]:
    """The values of columns after a try, without a claim."""
    names = ("status", "due_at_ms", "http_status", "error_message", "ended_at", "body")
    return {**NOBODY, **{name: getattr(delivery, name) for name in names}}


def _read(row: Any) -> Delivery:
    return convert({str(name): value for name, value in row._mapping.items()}, Delivery)


def _due(row: Any) -> DueDeliveries:
    return DueDeliveries(function_id=row[0], tenant_id=row[1], next_due_ms=row[2])
