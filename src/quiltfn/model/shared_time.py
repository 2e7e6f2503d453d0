"""How the time of an instance is divided among the calls that it has at the same time."""


class SharedTime:
    """The time of one instance: at every moment each of its calls has an equal part of it, so all
    parts add up to the time in which it had any. Times in monotonic seconds.
    """

    __slots__ = ("_at", "_count", "_each")

    def __init__(self) -> None:
        self._count, self._at = 0, 0.0
        self._each = 0.0  # what a call would have that had been there from the start

    def enter(self, now: float) -> float:
        """A call begins. What is returned goes to `leave`."""
        self._pass(now)
        self._count += 1
        return self._each

    def leave(self, now: float, begun: float) -> float:
        """A call is over; its part, in seconds."""
        self._pass(now)
        self._count -= 1
        return self._each - begun

    def _pass(self, now: float) -> None:
        if self._count:
            self._each += (now - self._at) / self._count
        self._at = now
