"""Allowance: the number of instances that a pool may have, if several nodes share a function.

The pure pool gets it as its maximum, so it knows nothing of other nodes. A version is prepared only
once there is a slot for an instance of it, since without a slot its pool would wait in vain.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import msgspec

from quiltfn.model.limits import PoolLimits

# Seconds that a preparation with some of its slots waits for more, while idle instances on other
# nodes are being ended.
SETTLE_S = 2.0


class Allowance:
    """`count`: the number of instances allowed now; `reachable`: the number possible on request."""

    __slots__ = ("_changed", "_error", "_given_up", "_reservations", "count", "reachable")

    def __init__(self) -> None:
        self.count = self.reachable = 0
        self._reservations: list[int] = []
        self._changed = asyncio.Event()
        self._given_up, self._error = 0, Exception()

    @property
    def reservation(self) -> int:
        """The largest number of slots that a preparation in progress wants."""
        return max(self._reservations, default=0)

    def bounded(self, limits: PoolLimits) -> PoolLimits:
        """The limits for the pure pool."""
        return msgspec.structs.replace(limits, max_instances=min(limits.max_instances, self.count))

    def set(self, count: int, reachable: int) -> bool:
        """Set both; return whether the count has changed."""
        before, self.count, self.reachable = self.count, count, max(count, reachable)
        self._changed.set()
        return before != count

    @asynccontextmanager
    async def reserved(self, count: int, ask: Callable[[], None]) -> AsyncIterator[None]:
        """Request `count` slots until the block ends. The block begins when they are available, or
        after `SETTLE_S` if at least one is. Raises the error passed to `give_up`.
        """
        self._reservations.append(count)
        try:
            ask()
            await self._wait_for(count)
            yield
        finally:
            self._reservations.remove(count)

    def give_up(self, error: Exception) -> None:
        """Fails pending reservations with `error`."""
        self._given_up, self._error = self._given_up + 1, error
        self._changed.set()

    async def _wait_for(self, count: int) -> None:
        loop, given_up = asyncio.get_running_loop(), self._given_up
        settled_at = loop.time() + SETTLE_S
        while self.count < count and (self.count < 1 or loop.time() < settled_at):
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(settled_at if self.count else None):
                    await self._changed.wait()
            if self._given_up != given_up:
                raise self._error
