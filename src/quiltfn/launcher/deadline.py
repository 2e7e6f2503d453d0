"""End the sandboxes of a fleet node at a deadline, even if its server stands still.

Others take a node over that has not been heard of for some time, and start instances in place of
its own. A server that is stopped, or was kept from running, cannot end them before that. So it
hands a deadline over with each sign of life that the store has taken, and the launcher ends every
sandbox when that passes. A server that is alone hands over none, and nothing is different.

Deadlines are of CLOCK_BOOTTIME, which goes on while the machine is suspended.
"""

import time
from collections.abc import Callable


def boottime() -> float:
    """Seconds of CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Deadline:
    """The latest that was handed over, if one was."""

    def __init__(self, end_all: Callable[[], None]) -> None:
        """`end_all` ends every sandbox; called again and again while the deadline is over, since a
        sandbox that is being made ends only once it is there.
        """
        self._end_all = end_all
        self._at: float | None = None

    def set(self, at: float) -> None:
        """Never an earlier one: a request may have waited in the socket."""
        self._at = at if self._at is None else max(at, self._at)

    def is_late(self, at: float | None) -> bool:
        """Whether a sandbox that may be there until `at` may not be made any more. Without one of
        its own it goes by the deadline of all.
        """
        if at is None:
            return self._is_over
        self.set(at)
        return boottime() >= at

    @property
    def _is_over(self) -> bool:
        return self._at is not None and boottime() >= self._at

    def left_s(self, most: float) -> float:
        """How long the event loop may wait for it, at most so long."""
        left = most if self._at is None else self._at - boottime()
        return left if 0 < left < most else most

    def check(self) -> None:
        """Ends every sandbox once it is over."""
        if self._is_over:
            self._end_all()
