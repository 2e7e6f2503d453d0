"""TaskGroup: the tasks of one object, cancelled when it closes."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class TaskGroup:
    """Tasks that run even if nothing awaits them. `failed` gets the exception of a failed task;
    without it, the event loop reports exceptions that are never retrieved.
    """

    def __init__(self, failed: Callable[[BaseException], object] | None = None) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._done = self._tasks.discard if failed is None else self._look
        self._failed = failed

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        return iter(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Starts `work` in the next iteration of the event loop."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def join(self) -> None:
        """Waits until all present tasks have ended."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def aclose(self) -> None:
        """Cancels all tasks, and waits until they have ended."""
        for task in self._tasks:
            task.cancel()
        await self.join()

    def _look(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and self._failed:
            self._failed(error)
