"""An event loop with its own time.

Time stands still while there is work, and jumps to the next timer when all tasks wait. Work for
threads is included: it is done a moment later, in order.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

DISK_S = 0.001


class StoryLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes only while all tasks wait."""

    def __init__(self) -> None:
        self.now = 0.0
        self._given: defaultdict[int, deque[Callable[[], None]]] = defaultdict(deque)
        super().__init__(Leap(self))

    def time(self) -> float:
        return self.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, work: Callable[..., Any], *arguments: Any
    ) -> asyncio.Future[Any]:
        future = self.create_future()

        def run() -> None:
            try:
                result = work(*arguments)
            except BaseException as error:
                if not future.cancelled():
                    future.set_exception(error)
            else:
                if not future.cancelled():
                    future.set_result(result)

        line = self._given[id(executor)]
        line.append(run)
        self.call_later(DISK_S, self._do_next, line)
        return future

    def _do_next(self, line: deque[Callable[[], None]]) -> None:
        line.popleft()()  # in order, since timers for the same time fire in undefined order


class Leap(selectors.DefaultSelector):
    """Advances the clock instead of waiting."""

    def __init__(self, loop: StoryLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "everybody waits, and for nothing"
        self._loop.now += max(0.0, timeout)
        return super().select(0)
