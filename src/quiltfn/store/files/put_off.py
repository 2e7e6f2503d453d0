"""Defers writes of a start while the disk is full."""

from collections.abc import Awaitable, Callable

from quiltfn.model.errors import StoreUnavailable
from quiltfn.store.database.database import Work
from quiltfn.store.files.disk_reserve import DiskFull

Write = Callable[[Work[None], Callable[[], None]], Awaitable[None]]


class PutOff:
    """Deferred writes in their order, each with a function to call after its commit."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._waiting: list[tuple[Work[None], Callable[[], None]]] = []

    async def write(self, work: Work[None], after: Callable[[], None]) -> None:
        """Runs a write now or, if the disk is full, later."""
        try:
            await self._write(work, after)
        except DiskFull:
            self._waiting.append((work, after))

    async def catch_up(self) -> bool:
        """Runs the deferred writes; returns whether all are done."""
        while self._waiting:
            work, after = self._waiting[0]
            try:
                await self._write(work, after)
            except StoreUnavailable:  # `problem` reports it, and the next call tries again
                return False
            del self._waiting[0]
        return True
