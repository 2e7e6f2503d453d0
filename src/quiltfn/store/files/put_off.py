"""What a start could not store on a full disk, until there is room."""

from collections.abc import Awaitable, Callable

from quiltfn.model.errors import StoreUnavailable
from quiltfn.store.database.database import Work
from quiltfn.store.files.disk_reserve import DiskFull

Write = Callable[[Work[None], Callable[[], None]], Awaitable[None]]


class PutOff:
    """Works that wait, in order, each with what follows its commit."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._waiting: list[tuple[Work[None], Callable[[], None]]] = []

    async def write(self, work: Work[None], after: Callable[[], None]) -> None:
        """Writes it now or, on a full disk, later."""
        try:
            await self._write(work, after)
        except DiskFull:
            self._waiting.append((work, after))

    async def catch_up(self) -> bool:
        """Does what waits; returns whether nothing does any more."""
        while self._waiting:
            work, after = self._waiting[0]
            try:
                await self._write(work, after)
            except StoreUnavailable:  # `problem` says so, and the next call tries again.
                return False
            del self._waiting[0]
        return True
