"""Removes inputs of ended invocations, oldest first, if inputs exceed their limit in bytes.

Inputs of unfinished asynchronous invocations stay, since attempts need them; so do inputs of dead
letters, since a redrive needs them.
"""

import time
from collections.abc import Sequence

from sqlalchemy import Connection

from quiltfn.model.cursors import BEFORE_EVERY_ID
from quiltfn.model.retention import StorageLimit
from quiltfn.store.calls import records
from quiltfn.store.database import tables
from quiltfn.store.database.database import Database
from quiltfn.store.database.sql import run
from quiltfn.store.tenants import usage

STEP_ROWS, AT_A_TIME = 500, 10


class OldInputs:
    """Finds inputs to remove, in steps. The next step continues at the position of the last one,
    since any number of earlier inputs may have to stay.
    """

    def __init__(self) -> None:
        self._after: dict[str, str] = {}  # the last checked input of each tenant

    @property
    def is_under_way(self) -> bool:
        """Whether inputs may remain that no step has checked yet."""
        return bool(self._after)

    def remove_some(self, connection: Connection, surpluses: Sequence[usage.Surplus]) -> int:
        """Removes some inputs, for about a millisecond; returns how many bytes were removed."""
        until, freed = records.end_of_step(connection), 0
        for looked_at, surplus in enumerate(surpluses, 1):
            freed += self._remove_of(connection, surplus, until)
            is_enough = freed > 0 or looked_at >= records.LEAST_TENANTS
            if is_enough and time.perf_counter() >= until:
                break
        return freed

    def _remove_of(self, connection: Connection, surplus: usage.Surplus, until: float) -> int:
        tenant_id, freed = surplus.tenant_id, 0
        after = self._after.pop(tenant_id, BEFORE_EVERY_ID)
        look = {"tenant_id": tenant_id, "after": after, "most": STEP_ROWS}
        found = run(connection, "next_inputs", look).all()
        ids = tables.as_json([one for one, _ in found])
        staying = set(run(connection, "needed_among", {"ids": ids}).scalars())
        for number, (invocation_id, size) in enumerate(found, 1):
            if invocation_id not in staying:
                run(connection, "remove_input", (invocation_id,))
                freed += size
            is_over = number % AT_A_TIME == 0 and time.perf_counter() >= until
            if freed >= surplus.amount or is_over or number == STEP_ROWS:
                self._after[tenant_id] = invocation_id
                break
        return freed


class SqlInputRetention:
    """Keeps the inputs in `database` within their limit."""

    def __init__(self, database: Database, bound: StorageLimit) -> None:
        self._database, self._bound, self._old = database, bound, OldInputs()

    async def prune_some(self) -> int:
        """Removes some inputs, for a millisecond; returns 0 if no more may be removed."""

        def work(connection: Connection) -> int:
            surpluses = usage.surpluses(connection, usage.INPUT, self._bound)
            if not surpluses:
                return 0
            return self._old.remove_some(connection, surpluses) + self._old.is_under_way

        return await self._database.write(work, frees=True)
