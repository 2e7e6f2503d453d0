"""Why an instance had to start, concluded from the earlier instances of the pool."""

from enum import StrEnum


class ColdStartReason(StrEnum):
    """Why an invocation had to wait for the start of an instance.

    FIRST: the function had no instance since the server's start or the last deploy.
    SCALED_OUT: there were instances of this version, and all of them were busy.
    UPDATED: the instances so far were of another version.
    EVICTED: the last instance of this version was ended in good health: it was idle for too long,
    or its memory or place was needed.
    REPLACED: the last instance of this version was ended after a timeout, an out-of-memory kill, a
    crash, or an abandoned invocation.
    """

    FIRST = "first"
    SCALED_OUT = "scaled_out"
    UPDATED = "updated"
    EVICTED = "evicted"
    REPLACED = "replaced"


class StartHistory:
    """A pool's memory of ready instances: whether there were any, and why the last one of each
    version that is still needed was ended.
    """

    def __init__(self) -> None:
        self._has_any = False
        self._last: dict[str, ColdStartReason] = {}

    def ready(self) -> None:
        """An instance was created and specialised."""
        self._has_any = True

    def ended(self, digest: str, how: ColdStartReason) -> None:
        """An instance that had been ready is ended; only the last reason of a version is kept."""
        self._has_any = True  # it may have been running when the function was closed
        self._last[digest] = how

    def retain(self, *digests: str | None) -> None:
        """Forgets all versions but these."""
        self._last = {digest: how for digest, how in self._last.items() if digest in digests}

    def clear(self) -> None:
        """The function stopped serving: the next instance is the first one again."""
        self._has_any = False
        self._last.clear()

    def reason_for(self, digest: str, *, others_ready: bool) -> ColdStartReason:
        """The reason for a start of this version. `others_ready`: it has other instances."""
        if others_ready:
            return ColdStartReason.SCALED_OUT
        if digest in self._last:
            return self._last[digest]
        return ColdStartReason.UPDATED if self._has_any else ColdStartReason.FIRST

    def check(self, *digests: str | None) -> None:
        """Asserts that only these versions are remembered."""
        assert self._last.keys() <= set(digests), "a pool remembers a version that it does not need"
        assert self._has_any or not self._last, "an instance was ended that was never ready"
