"""AfterCommit: delays actions until the records that cause them are committed."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from quiltfn.base.store_retry import until_stored
from quiltfn.store.calls.journal import SpoolJournal

T = TypeVar("T")


class AfterCommit(Generic[T]):
    """Passes each item to `then`, which must not raise, once everything that was written before the
    item was added is committed. Of equal items that wait together, one is passed.

    `gather_s`: seconds to wait for more items before each commit.
    """

    def __init__(
        self,
        journal: SpoolJournal,
        then: Callable[[T], None],
        *,
        gather_s: float = 0.0,
    ) -> None:
        self._journal, self._then, self._gather_s = journal, then, gather_s
        self._items: dict[T, None] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, item: T) -> None:
        """Add an item, after its record was written."""
        self._items[item] = None
        if self._task is None or self._task.done():  # also after a bug has ended the task
            self._task = asyncio.ensure_future(self._run())

    async def aclose(self) -> None:
        """Forget all items."""
        self._items.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while self._items:
            await asyncio.sleep(self._gather_s)
            items, self._items = self._items, {}
            try:
                await until_stored(self._journal.synced)
            except BaseException:
                self._items = items | self._items
                raise
            for item in items:
                self._then(item)
