"""Slots of functions, in the database that the nodes of a fleet share.

A row for each function has the maximum and, as JSON, what each node holds. So one row decides, and
one statement asks it: see `hold_slots` in fleet.sql. `SqlStore` writes the maximum, in the
transaction that changes the function.
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

# So many rows that others have locked are waited for, a second each, before the rest is left out.
LOCKED_MAX = 2
TAKEN_OVER = "node {name} has been taken over: its epoch {epoch} is over"


class SqlSlots:
    """How many instances each node may have, decided by the store (`model/slots.py`). `quickly`: on
    a connection that does not wait behind records.

    Every method raises `StoreUnavailable`. What `hold` asked for may then have been granted: the
    node asks again or reads, and until then goes by the lesser of what it may hold.
    """

    def __init__(self, quickly: Quickly) -> None:
        self._quickly = quickly
        self._turns = itertools.count(1)

    async def hold(
        self, node: NodeEpoch, wants: Mapping[str, int]
    ) -> Mapping[str, FunctionSlots | None]:
        """The node wants so many slots of each function, by its id, no matter how many it has. It
        is given as many as the others leave; it keeps what it has where those are more than the
        maximum, and always gives back what it has above its wish. Harmless when repeated, and
        without effect where the store hears of it only after a later wish of this node.

        Returns what there is then of each function, None where it was deleted. Those that could not
        be asked for, as somebody kept them locked, are left out; where that is all of them, it
        raises `StoreUnavailable`. Raises `NotAMember` if the epoch is not the node's, and then the
        node holds nothing.
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
        """Every function of which the node holds a slot or wants one. Reads all functions."""
        return await self._quickly(
            lambda connection: _read_all(execute(connection, "slots_of_node", {"node": node}))
        )

    async def of(self, function_ids: Collection[str]) -> Sequence[FunctionSlots]:
        """Those of some functions, as far as they are there."""
        ids = {"ids": as_json(list(function_ids))}
        return await self._quickly(
            lambda connection: _read_all(execute(connection, "slots_of_functions", ids))
        )


def free(connection: Connection, node: str) -> None:
    """Takes everything from a node that does not use it any more: for the transaction that raises
    its epoch and has locked its row for update, so that nothing is being granted to it meanwhile.
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
