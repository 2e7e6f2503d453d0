"""WaitQueue: the calls of one function that wait for an instance, first come, first served."""

import math
from collections import deque

import msgspec

LONGEST_RETRY_S = 60
NEWEST_COUNTS = 0.2


class Waiter(msgspec.Struct):
    """A waiting call. `since`: monotonic seconds."""

    id: int
    since: float


class WaitQueue:
    """The waiting calls, and how long recent calls took."""

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
        """Removes and returns the first."""
        return self.waiting.popleft()

    def discard(self, waiter: int) -> bool:
        """Removes that call. Returns whether it was there."""
        for waiting in self.waiting:
            if waiting.id == waiter:
                self.waiting.remove(waiting)
                return True
        return False

    def clear(self) -> list[Waiter]:
        """Removes and returns all."""
        removed = list(self.waiting)
        self.waiting.clear()
        return removed

    def pop_expired(self, now: float, wait_s: float) -> list[Waiter]:
        """Removes and returns those that have waited for `wait_s`."""
        late: list[Waiter] = []
        while self.waiting and now - self.first.since >= wait_s:
            late.append(self.popleft())
        return late

    def count_waiting(self, now: float, patience_s: float) -> int:
        """How many have waited for `patience_s`; they stay."""
        count = 0
        for waiter in self.waiting:  # the first has waited for longest
            if now < waiter.since + patience_s:
                break
            count += 1
        return count

    def record_duration(self, seconds: float) -> None:
        """Notes how long a call took; newer ones have more weight."""
        known = seconds if self._run_s is None else self._run_s
        self._run_s = known + NEWEST_COUNTS * (seconds - known)

    def retry_after_s(self, instances: int, waited_s: float) -> int:
        """Whole seconds after which a call that is refused now would probably be served: the time
        that `instances` need for the calls ahead of it. If no call has ended yet, each is taken to
        last as long as the first in the queue has waited (`waited_s`).
        """
        ahead = (len(self.waiting) + 1) / max(1, instances)
        run_s = waited_s if self._run_s is None else self._run_s
        return max(1, min(LONGEST_RETRY_S, math.ceil(ahead * run_s)))
