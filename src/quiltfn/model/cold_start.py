"""Why an instance had to be started: decided from what a pool remembers of those before it."""

from enum import StrEnum


class ColdStartReason(StrEnum):
    """Why a call waited for an instance to be started.

    FIRST: none of the function had stood since the server's start or the last deploy.
    SCALED_OUT: others of this content stand, and none of them was free.
    UPDATED: what stood before had another content.
    EVICTED: the last one of this content was let go in good health: idle for too long, or its
    room was wanted.
    REPLACED: the last one of this content ended badly: timeout, out of memory, died, or was given
    up with a call in it.
    """

    FIRST = "first"
    SCALED_OUT = "scaled_out"
    UPDATED = "updated"
    EVICTED = "evicted"
    REPLACED = "replaced"


class StartHistory:
    """What a pool remembers of instances that stood: whether there were any, and how the last one
    of each content went that is still wanted."""

    def __init__(self) -> None:
        self._has_any = False
        self._last: dict[str, ColdStartReason] = {}

    def ready(self) -> None:
        """An instance was made and specialised."""
        self._has_any = True

    def ended(self, digest: str, how: ColdStartReason) -> None:
        """One that had stood goes; the last one's way is what is remembered."""
        self._has_any = True  # It may have run on over a close.
        self._last[digest] = how

    def retain(self, *digests: str | None) -> None:
        """Only these contents are wanted from now on."""
        self._last = {digest: how for digest, how in self._last.items() if digest in digests}

    def clear(self) -> None:
        """The function closed: what is started after that is the first of a new beginning."""
        self._has_any = False
        self._last.clear()

    def reason_for(self, digest: str, *, others_ready: bool) -> ColdStartReason:
        """The reason for a start of this content. `others_ready`: that others of it do."""
        if others_ready:
            return ColdStartReason.SCALED_OUT
        if digest in self._last:
            return self._last[digest]
        return ColdStartReason.UPDATED if self._has_any else ColdStartReason.FIRST

    def check(self, *digests: str | None) -> None:
        """Asserts that nothing is remembered but of these contents, and nothing of nobody."""
        assert self._last.keys() <= set(digests), "a pool remembers what nobody wants"
        assert self._has_any or not self._last, "something left that never stood"
