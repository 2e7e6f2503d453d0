"""All connections of a server together: how many there may be, who makes way for a newcomer, and
what they may hold that nobody reads.

Rule 1: a newcomer takes the place of the one that has been idle longest, if all places are taken.
Rule 2: where none is idle he gets one of a few spare places, for one request that is no call, so
that health and management answer whatever callers hold. There the oldest whose request is not there
yet makes way.
Rule 3: a reader who takes nothing for `write_timeout_s` is cut off; one who is slow, as soon as
others wait for the room that his answer takes.
"""

import enum
from collections.abc import Callable
from typing import Protocol

from quiltfn.api.budgets import ResponseBudget

MIB = 1024 * 1024
RESERVED = 32
TRIES = 64  # so that a newcomer costs little where everybody is busy
LEAST_PROGRESS = 64 * 1024
PATIENCE_S = 5.0


class ConnectionSlot(enum.Enum):
    """Where a connection is."""

    ORDINARY = enum.auto()
    RESERVED = enum.auto()
    NONE = enum.auto()


class Connection(Protocol):
    """What is asked of a connection."""

    @property
    def is_idle(self) -> bool:
        """Whether no request of it is under way."""
        ...

    @property
    def is_arriving(self) -> bool:
        """Whether its request is not there yet, or not in full."""
        ...

    def unsent(self) -> int:
        """Bytes of its answers that wait for the reader."""
        ...

    def cut(self) -> None:
        """Ends it at once."""
        ...


class Connections:
    """Those of one server. `most`: without the spare ones."""

    def __init__(
        self,
        most: int = 2000,
        write_timeout_s: float = 30.0,
        answers: ResponseBudget | None = None,
        backlog_most: int = 32 * MIB,
    ) -> None:
        self._most, self._write_timeout_s = most, write_timeout_s
        self._backlog_most = backlog_most
        self.answers = answers or ResponseBudget()
        self._ordinary: dict[Connection, None] = {}
        self._spare: dict[Connection, None] = {}
        # Readers: since when each has taken less than it should, and what it had to take then.
        self._readers: dict[Connection, tuple[float, int]] = {}
        # Those whose reading is paused, oldest first: since when, and the bytes that are counted.
        self._paused: dict[Connection, tuple[float, int]] = {}
        self._backlog = 0
        # The headers of every answer, as uvicorn lists them and as they go out.
        self._headers: list[tuple[bytes, bytes]] = []
        self._joined = b""

    def enter(self, one: Connection) -> ConnectionSlot:
        """The place of a new connection."""
        if len(self._ordinary) < self._most or _make_way(self._ordinary, lambda it: it.is_idle):
            self._ordinary[one] = None
            return ConnectionSlot.ORDINARY
        if len(self._spare) < RESERVED or _make_way(self._spare, lambda it: it.is_arriving):
            self._spare[one] = None
            return ConnectionSlot.RESERVED
        return ConnectionSlot.NONE

    def leave(self, one: Connection) -> None:
        self._ordinary.pop(one, None)
        self._spare.pop(one, None)
        self._readers.pop(one, None)
        self.resumed(one)

    def paused(self, one: Connection, now: float) -> None:
        """Its reader is slower than its answers."""
        since, counted = self._paused.get(one, (now, 0))
        size = one.unsent()
        self._paused[one] = (since, size)
        self.answers.sent(size - counted)

    def resumed(self, one: Connection) -> None:
        """Its reader has taken nearly all."""
        _, counted = self._paused.pop(one, (0.0, 0))
        if counted:
            self.answers.sent(-counted)

    def queue(self, more: int) -> bool:
        """Bytes more (or fewer) that came before it was their turn; False where that is too much,
        and nothing was counted.
        """
        if more > 0 and self._backlog + more > self._backlog_most:
            return False
        self._backlog += more
        return True

    def joined(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """The headers of every answer as bytes, which are put together once for each list."""
        if headers is not self._headers:
            self._headers = headers
            self._joined = b"".join([b"%b: %b\r\n" % header for header in headers])
        return self._joined

    def look(self, now: float) -> None:
        """Cuts off readers that do not read; to be called about once a second."""
        for one in [*self._ordinary, *self._spare]:
            size = one.unsent()
            if size == 0:
                self._readers.pop(one, None)
                continue
            if one in self._paused:
                self.paused(one, now)
            since, before = self._readers.setdefault(one, (now, size))
            if size < before - LEAST_PROGRESS:
                self._readers[one] = (now, size)
            elif now - since >= self._write_timeout_s:
                one.cut()
        for slowest, (since, _) in list(self._paused.items())[:1]:
            if self.answers.is_wanted and now - since >= PATIENCE_S:
                slowest.cut()


def _make_way(places: dict[Connection, None], may_go: Callable[[Connection], bool]) -> bool:
    """Ends the first that may go; those before it are looked at last the next time."""
    for _ in range(min(TRIES, len(places))):
        first = next(iter(places))
        del places[first]
        if may_go(first):
            first.cut()
            return True
        places[first] = None
    return False
