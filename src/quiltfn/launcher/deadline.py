"""End the sandboxes of a fleet node at a deadline, even if its server stands still.

Other nodes take over a node without heartbeats, and start instances in place of its own. A server
that is stopped or gets no CPU time cannot end its instances in time. So it sends the launcher a
deadline with each heartbeat that the store has accepted, and the launcher ends every sandbox once
the deadline has passed. A standalone server sends none, and its sandboxes have no deadline.

Deadlines are times of CLOCK_BOOTTIME, which continues while the machine is suspended.
"""

import time
from collections.abc import Callable


def boottime() -> float:
    """Seconds of CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Deadline:
    """The latest deadline that the server has sent, if any."""

    def __init__(self, end_all: Callable[[], None]) -> None:
        """`end_all` ends every sandbox. It is called repeatedly after the deadline, since a sandbox
        that is being created can be ended only later.
        """
        self._end_all = end_all
        self._at: float | None = None

    def set(self, at: float) -> None:
        """Sets the deadline. Ignores an earlier time: its request may have waited in the socket."""
        self._at = at if self._at is None else max(at, self._at)

    def is_late(self, at: float | None) -> bool:
        """Whether it is too late to create a sandbox: the time is after `at`, or without `at` after
        the deadline of all sandboxes.
        """
        if at is None:
            return self._is_over
        self.set(at)
        return boottime() >= at

    @property
    def _is_over(self) -> bool:
        return self._at is not None and boottime() >= self._at

    def left_s(self, most: float) -> float:
        """Returns how long the event loop may wait for the deadline: at most `most` seconds."""
        left = most if self._at is None else self._at - boottime()
        return left if 0 < left < most else most

    def check(self) -> None:
        """Ends every sandbox if the deadline has passed."""
        if self._is_over:
            self._end_all()
