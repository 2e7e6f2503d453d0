"""Divides the time of an instance among its simultaneous invocations."""


class SharedTime:
    """The time of one instance: at every moment each of its invocations gets an equal part, so all
    parts add up to the time in which the instance had invocations. Times in monotonic seconds.
    """

    __slots__ = ("_at", "_count", "_each")

    def __init__(self) -> None:
        self._count, self._at = 0, 0.0
        self._each = 0.0  # the part of a fictitious invocation that runs from the beginning

    def enter(self, now: float) -> float:
        """An invocation starts. Pass the returned value to `leave` as `begun`."""
        self._pass(now)
        self._count += 1
        return self._each

    def leave(self, now: float, begun: float) -> float:
        """An invocation has ended. Returns its part, in seconds."""
        self._pass(now)
        self._count -= 1
        return self._each - begun

    def _pass(self, now: float) -> None:
        if self._count:
            self._each += (now - self._at) / self._count
        self._at = now
