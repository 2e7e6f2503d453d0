"""WaitQueue: invocations of one function that wait for an instance, first come, first served."""

import math
from collections import deque

import msgspec

LONGEST_RETRY_S = 60
NEWEST_COUNTS = 0.2


class Waiter(msgspec.Struct):
    """A waiting invocation. `since`: monotonic seconds."""

    id: int
    since: float


class WaitQueue:
    """The waiting invocations, and how long recent ones took."""

    def __init__(self) -> None:
        self.waiting: deque[Waiter] = deque()
        self._run_s: float | None = None

    def __len__(self) -> int:
        return len(self.waiting)

    @property
    def first(self) -> Waiter:
        return self.waiting[0]

    def append(self, waiter: int, now: float) -> None:
        self.waiting.append(Waiter(waiter, now))

    def popleft(self) -> Waiter:
        """Removes and returns the first waiter."""
        return self.waiting.popleft()

    def discard(self, waiter: int) -> bool:
        """Removes that invocation. Returns whether it was waiting."""
        for waiting in self.waiting:
            if waiting.id == waiter:
                self.waiting.remove(waiting)
                return True
        return False

    def clear(self) -> list[Waiter]:
        """Removes and returns all waiters."""
        removed = list(self.waiting)
        self.waiting.clear()
        return removed

    def pop_expired(self, now: float, wait_s: float) -> list[Waiter]:
        """Removes and returns the waiters that have waited for `wait_s`."""
        late: list[Waiter] = []
        while self.waiting and now - self.first.since >= wait_s:
            late.append(self.popleft())
        return late

    def count_waiting(self, now: float, patience_s: float) -> int:
        """How many waiters have waited for `patience_s`. Removes none."""
        count = 0
        for waiter in self.waiting:  # the first has waited longest
            if now < waiter.since + patience_s:
                break
            count += 1
        return count

    def record_duration(self, seconds: float) -> None:
        """Notes the duration of an invocation; newer ones have more weight."""
        known = seconds if self._run_s is None else self._run_s
        self._run_s = known + NEWEST_COUNTS * (seconds - known)

    def retry_after_s(self, instances: int, waited_s: float) -> int:
        """Whole seconds after which an invocation that is refused now could probably run: the time
        that `instances` instances need for the invocations ahead of it. If no invocation has ended
        yet, each is assumed to take as long as the first in the queue has waited (`waited_s`).
        """
        ahead = (len(self.waiting) + 1) / max(1, instances)
        run_s = waited_s if self._run_s is None else self._run_s
        return max(1, min(LONGEST_RETRY_S, math.ceil(ahead * run_s)))
