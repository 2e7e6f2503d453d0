"""Fair turns: waiting tenants take turns, regardless of how many of their requests wait."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from quiltfn.model.errors import RateLimited

WAITING_MAX = 32


class FairTurns:
    """At most `most` turns at a time and one per tenant; `waiting_max` per tenant may wait."""

    def __init__(self, most: int, waiting_max: int = WAITING_MAX) -> None:
        self._most, self._waiting_max = most, waiting_max
        # The waiting requests by tenant; the tenant whose turn is next comes first.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._having: set[str] = set()

    @asynccontextmanager
    async def of(self, tenant_id: str) -> AsyncIterator[None]:
        """Waits for a turn of the tenant, and holds it for the `with` block. Raises `RateLimited`
        if too many requests of the tenant wait.
        """
        waiting = self._waiting.get(tenant_id) or deque()
        if len(waiting) >= self._waiting_max:
            raise RateLimited(
                f"{self._waiting_max} requests of the tenant already wait for an image",
                retry_after=5,
            )
        turn = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        self._waiting[tenant_id] = waiting
        self._give()
        try:
            await turn
            yield
        finally:
            if not turn.cancelled():
                self._having.remove(tenant_id)
                # The tenant's next turn comes after those of all others.
                if tenant_id in self._waiting:
                    self._waiting[tenant_id] = self._waiting.pop(tenant_id)
            elif turn in waiting:
                waiting.remove(turn)
                if not waiting and self._waiting.get(tenant_id) is waiting:
                    del self._waiting[tenant_id]
            self._give()

    def _give(self) -> None:
        for tenant_id in list(self._waiting):
            if len(self._having) >= self._most:
                return
            if tenant_id in self._having:
                continue
            waiting = self._waiting[tenant_id]
            turn = waiting.popleft()
            if not waiting:
                del self._waiting[tenant_id]
            if not turn.done():  # not cancelled in the meantime
                turn.set_result(None)
                self._having.add(tenant_id)
