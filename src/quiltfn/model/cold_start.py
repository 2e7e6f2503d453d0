"""Why an instance had to start, concluded from the earlier instances of the pool."""

from enum import StrEnum


class ColdStartReason(StrEnum):
    """Why an invocation had to wait for the start of an instance.

    FIRST: the function had no instance since the server's start or the last deploy.
    SCALED_OUT: there were instances of this version, and all of them were busy.
    UPDATED: all earlier instances were of another version.
    EVICTED: the last instance of this version was healthy when it was ended: it was idle for too
    long, or its memory or place was needed.
    REPLACED: the last instance of this version was ended after a timeout, an out-of-memory kill, a
    crash, or an abandoned invocation.
    """

    FIRST = "first"
    SCALED_OUT = "scaled_out"
    UPDATED = "updated"
    EVICTED = "evicted"
    REPLACED = "replaced"


class StartHistory:
    """Remembers whether a pool had ready instances, and why the last one of each needed version was
    ended.
    """

    def __init__(self) -> None:
        self._has_any = False
        self._last: dict[str, ColdStartReason] = {}

    def ready(self) -> None:
        """An instance was created and specialised."""
        self._has_any = True

    def ended(self, digest: str, how: ColdStartReason) -> None:
        """A ready instance is ended. Only the last reason of each version is kept."""
        self._has_any = True  # `clear` may have been called while the instance was running
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
