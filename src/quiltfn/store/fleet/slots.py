"""Slots of functions, in the database shared by the nodes of a fleet.

A row for each function has the maximum and, as JSON, the slots of each node. So one row has all
data for a decision, and one statement decides: `hold_slots` in fleet.sql. `SqlStore` writes the
maximum, in the transaction that changes the function.
"""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from psycopg.errors import LockNotAvailable
from sqlalchemy import Connection

from quiltfn.model.slots import FunctionSlots
from quiltfn.ports.fleet import NodeEpoch, NotAMember
from quiltfn.store.database.database import Quickly
from quiltfn.store.database.sql import execute, run
from quiltfn.store.database.tables import as_json

# How many locked rows one `hold` waits for, a second each, before it leaves out all other
# functions.
LOCKED_MAX = 2
TAKEN_OVER = "node {name} has been taken over: its epoch {epoch} is over"


class SqlSlots:
    """The store's decision on how many instances each node may have (`model/slots.py`). `quickly`:
    uses a connection that does not wait behind records.

    All methods raise `StoreUnavailable`. A failed `hold` may still have been granted: until the
    node repeats it or reads the slots, it assumes the smaller of the old and the new number.
    """

    def __init__(self, quickly: Quickly) -> None:
        self._quickly = quickly
        self._turns = itertools.count(1)

    async def hold(
        self, node: NodeEpoch, wants: Mapping[str, int]
    ) -> Mapping[str, FunctionSlots | None]:
        """Requests a total number of slots for each function, by its id. Grants as many as the
        other nodes leave. The node keeps slots that it has, even if all nodes together exceed the
        maximum, and releases those beyond its request. Harmless when repeated, and without effect
        if a later request of this node arrives first.

        Returns the slots of each function, None if it was deleted. Leaves out functions whose rows
        stayed locked, and all after `LOCKED_MAX` of these; if none is left, raises
        `StoreUnavailable`. Raises `NotAMember` if the node's epoch has ended: it then holds
        nothing.
        """
        turns = {function_id: next(self._turns) for function_id in wants}

        def work(connection: Connection) -> dict[str, FunctionSlots | None]:
            found: dict[str, FunctionSlots | None] = {}
            locked = 0
            for function_id, want in wants.items():
                values = {
                    "node": node.name,
                    "epoch": node.epoch,
                    "function_id": function_id,
                    "want": max(0, want),
                    "turn": turns[function_id],
                }
                try:
                    is_member, *row = execute(connection, "hold_slots", values).fetchone()
                except LockNotAvailable:
                    locked += 1
                    if locked == LOCKED_MAX or len(wants) == 1:
                        if found:
                            break
                        raise
                    continue
                if not is_member:
                    raise NotAMember(TAKEN_OVER.format(name=node.name, epoch=node.epoch))
                found[function_id] = None if row[0] is None else _read(row)
            return found

        return await self._quickly(work)

    async def held(self, node: str) -> Sequence[FunctionSlots]:
        """Every function with slots that the node holds or wants. Reads all functions."""
        return await self._quickly(
            lambda connection: _read_all(execute(connection, "slots_of_node", {"node": node}))
        )

    async def of(self, function_ids: Collection[str]) -> Sequence[FunctionSlots]:
        """The slots of the given functions, if they exist."""
        ids = {"ids": as_json(list(function_ids))}
        return await self._quickly(
            lambda connection: _read_all(execute(connection, "slots_of_functions", ids))
        )


def free(connection: Connection, node: str) -> None:
    """Releases all slots of a node that has stopped using them. Call it in the transaction that
    raises the node's epoch and has locked its row for update, so that the node gets no slot
    meanwhile.
    """
    run(connection, "free_slots", {"node": node}).close()


def _read_all(rows: Iterable[Sequence[Any]]) -> list[FunctionSlots]:
    return [_read(row) for row in rows]


def _read(row: Sequence[Any]) -> FunctionSlots:
    function_id, max_instances, found = row
    held = {node: one for node, one in found.items() if one["wanted"]}
    return FunctionSlots(
        function_id,
        max_instances,
        {node: one["count"] for node, one in held.items()},
        {node: one["wanted"] for node, one in held.items()},
    )
