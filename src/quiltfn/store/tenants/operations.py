"""Operations in the database, one row for each tenant and idempotency key."""

from collections import deque
from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select, update

from quiltfn.model.cursors import first_id
from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.operation import Operation
from quiltfn.store.database import tables
from quiltfn.store.database.database import Database
from quiltfn.store.database.nodes import Boot, of_earlier_boots

table = tables.operation
REFUSED_KEPT = 1000


class SqlOperations:
    """Changes of scaling targets, each executed once for its tenant and idempotency key."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Ends of interrupted operations that could not be stored yet, by id.
        self._ended: dict[str, Operation] = {}
        # Ids of operations that were refused because the outcome of their write was unknown.
        self._refused: deque[str] = deque(maxlen=REFUSED_KEPT)

    async def add(self, operation: Operation) -> Operation | None:
        """Stores the operation (returns None), or returns the tenant's earlier one with its
        idempotency key.
        """
        earlier = select(table).where(
            table.c.tenant_id == operation.tenant_id,
            table.c.idempotency_key == operation.idempotency_key,
        )

        owner = tables.owned_by(self._database.boot)

        def work(connection: Connection) -> Operation | None:
            # The transaction has the write lock from its start, so no other writer intervenes.
            stored = tables.read_one(connection, earlier, Operation)
            if stored is not None:
                if stored.operation_id not in self._refused:
                    return self._ended.get(stored.operation_id, stored)
                this = table.c.operation_id == stored.operation_id
                connection.execute(delete(table).where(this))
            connection.execute(insert(table), tables.row_of(operation) | owner)
            return None

        try:
            return await self._database.write(work)
        except StoreUnavailable:
            self._refused.append(operation.operation_id)
            raise

    async def finish(self, operation: Operation) -> None:
        """Stores the end of an operation."""
        # It may use the reserve of a full disk, since the operation was accepted.
        await self._database.write(lambda connection: finish(connection, operation), frees=True)

    async def forget(self, operation_id: str) -> None:
        """Removes an operation that was not started, if it exists."""
        removal = delete(table).where(table.c.operation_id == operation_id)
        await self._database.write(lambda c: c.execute(removal).close(), frees=True)

    async def finish_interrupted(self, ended: Sequence[Operation]) -> None:
        """Stores the ends of operations, at a start. On a full disk `add` and `get` already return
        these ends, which are stored when there is space.
        """
        self._ended = {one.operation_id: one for one in ended}

        def work(connection: Connection) -> None:
            for operation in ended:
                finish(connection, operation)

        def stored() -> None:
            self._ended = {}

        await self._database.write_or_put_off(work, stored)

    async def interrupted(self) -> Sequence[Operation]:
        """Operations that the last start of this server left running."""
        boot = self._database.boot
        return await self._database.read(lambda connection: left_by(connection, boot))

    async def prune(self, before: int) -> int:
        """Removes ended operations that were created before that time, in Unix seconds; returns
        their number.
        """
        key = table.c.operation_id
        return await self._database.delete(
            [key], key < first_id(before), table.c.status != "running"
        )

    async def get(self, tenant_id: str, operation_id: str) -> Operation | None:
        """One operation of the tenant."""
        ended = self._ended.get(operation_id)
        if ended is not None:
            return ended if ended.tenant_id == tenant_id else None
        query = select(table).where(
            table.c.tenant_id == tenant_id, table.c.operation_id == operation_id
        )
        return await self._database.read(lambda c: tables.read_one(c, query, Operation))


def left_by(connection: Connection, boot: Boot) -> list[Operation]:
    """Operations that earlier boots of a server left running."""
    left = of_earlier_boots(boot, table.c.node_id, table.c.epoch)
    query = select(table).where(table.c.status == "running", left)
    return tables.read_all(connection, query, Operation)


def finish(connection: Connection, operation: Operation) -> None:
    change = update(table).where(table.c.operation_id == operation.operation_id)
    values = {
        "status": operation.status,
        "reason_code": operation.reason_code,
        "reason_message": operation.reason_message,
        "retryable": operation.retryable,
    }
    connection.execute(change.values(values)).close()
