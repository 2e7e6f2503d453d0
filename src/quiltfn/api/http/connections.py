"""All connections of a server: limits their number and their unread output, and decides which ones
end.

Rule 1: if all slots are taken, a new connection takes the slot of the one that has been idle
longest.
Rule 2: if none is idle, a new connection takes one of a few reserved slots, for one request other
than an invocation, a stream or a wait, so that health and management respond under any load. If
those are taken too, the oldest connection with an incomplete request ends.
Rule 3: a client that reads nothing of its response for `write_timeout_s` is cut off. While other
requests wait for memory, stalled clients are cut off at once. Slow clients are cut off if no
waiting request has been served for a while and clients read too slowly to free the memory soon.
Connections end only as far as the next request needs their memory, and no slow one ends if all slow
ones together hold too little. First end those whose clients would hold the memory for longest, last
those that hold little. A stream holds nearly nothing and is never slow. For a complete response,
reading less than 64 KiB counts as no progress; for a stream, any byte is progress. A body that all
clients share takes no memory.
"""

import asyncio
import enum
from collections.abc import Callable
from email.utils import formatdate
from typing import Protocol

import msgspec

from quiltfn.api.http.budgets import ResponseBudget

MIB = 1024 * 1024
# Browsers must not guess a response's content type, nor show a response in a frame of another site.
SECURITY_HEADERS = (
    b"x-content-type-options: nosniff\r\n"
    b"x-frame-options: DENY\r\n"
    b"content-security-policy: frame-ancestors 'none'\r\n"
)
RESERVED = 32
TRIES = 64  # bounds the work for a new connection when all others are busy
LEAST_PROGRESS = 64 * 1024
# While requests wait for memory: how long a client may stall; for how long no waiting request is
# served before slow clients are cut off; the interval over which speed is measured.
PATIENCE_S, WAIT_S, SLOW_S = 3.0, 3.0, 5.0
SOON_S = 4.0  # less than the remaining time for which a request waits for memory
KNOWN_S = 1.0  # for how long a client must read before its speed is meaningful
LITTLE_BYTES = MIB


class SlotKind(enum.Enum):
    """The purpose that a connection is admitted for."""

    REGULAR = enum.auto()
    RESERVED = enum.auto()
    NONE = enum.auto()


class ConnectionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of each connection. `most`: the number of connections without reserved ones."""

    most: int = 2000
    headers_max: int = 100
    head_max_bytes: int = 16 * 1024
    head_timeout_s: float = 10.0
    keep_alive_s: float = 75.0
    write_timeout_s: float = 30.0


class Connection(Protocol):
    """The part of a connection that `Connections` uses."""

    @property
    def idle_since(self) -> float | None:
        """The loop time since which no request is in progress; None: a request is in progress."""
        ...

    @property
    def is_arriving(self) -> bool:
        """Whether its request has not arrived completely."""
        ...

    @property
    def is_streaming(self) -> bool:
        """Whether it sends a stream, whose chunks are produced only as the client reads."""
        ...

    def unsent(self) -> int:
        """Bytes of its responses that wait for the client."""
        ...

    def held(self) -> int:
        """The unsent bytes that take memory of their own: of a shared body, only copies count."""
        ...

    def taken(self) -> int:
        """Bytes of its responses that the client has read so far."""
        ...

    def finish(self) -> None:
        """Answers the requests that have arrived, and closes."""
        ...

    def cut(self) -> None:
        """Ends it at once."""
        ...


class Reader(msgspec.Struct):
    """The progress of a client that has output to read. `since`: the time since which it has made
    too little progress; `taken`: the bytes that it had read by `since`. `speed`: bytes per second
    in the last interval of `SLOW_S`; None in the first interval. The current interval began at
    `begin`, with `taken_at_begin` bytes read.
    """

    since: float
    taken: int
    begin: float
    taken_at_begin: int
    speed: float | None = None

    def look(self, now: float, taken: int, progress: int) -> None:
        """Records that `taken` bytes are read by now. Up to `progress` more bytes count as none."""
        if taken > self.taken + progress:
            self.since, self.taken = now, taken
        if now - self.begin >= SLOW_S:
            self.speed = (taken - self.taken_at_begin) / (now - self.begin)
            self.begin, self.taken_at_begin = now, taken

    def left_s(self, now: float, taken: int, unsent: int) -> float | None:
        """How long the client will need for the rest at its speed; None: its speed is not known
        yet.
        """
        speed, elapsed_s = self.speed, now - self.begin
        if elapsed_s >= KNOWN_S:
            speed = (taken - self.taken_at_begin) / elapsed_s
        return None if speed is None else unsent / max(speed, 1.0)


DEFAULT_LIMITS = ConnectionLimits()


class Connections:
    """The connections of one server. `tasks`: requests being answered, even if their clients have
    disconnected.
    """

    def __init__(
        self,
        limits: ConnectionLimits = DEFAULT_LIMITS,
        responses: ResponseBudget | None = None,
        queued_max: int = 32 * MIB,
    ) -> None:
        self.limits = limits
        self.responses = responses or ResponseBudget()
        self.tasks: set[asyncio.Task[None]] = set()
        self.common_headers = b""
        self._queued_max = queued_max
        self._regular: dict[Connection, None] = {}
        self._reserved: dict[Connection, None] = {}
        # The connections that were idle at the last search of all, with their `idle_since`, longest
        # first. A connection that became idle after the search has been idle for less time, so
        # requests need not update this.
        self._idlest: dict[Connection, float] = {}
        self._readers: dict[Connection, Reader] = {}
        # Connections that wait for their clients, with the bytes counted for each.
        self._paused: dict[Connection, int] = {}
        self._queued = 0
        # How many requests that waited for memory were served, and the last time that this number
        # rose or no request waited.
        self._served, self._served_at = 0, 0.0

    def date_responses(self) -> None:
        """Rebuild the headers that all responses share. They change once a second."""
        date = f"date: {formatdate(usegmt=True)}\r\n".encode()
        self.common_headers = date + SECURITY_HEADERS

    def add(self, connection: Connection) -> SlotKind:
        """Returns the slot of a new connection; `NONE`: refuse it."""
        if len(self._regular) < self.limits.most or self._end_idlest():
            self._regular[connection] = None
            return SlotKind.REGULAR
        if len(self._reserved) < RESERVED or _make_way(self._reserved, lambda it: it.is_arriving):
            self._reserved[connection] = None
            return SlotKind.RESERVED
        return SlotKind.NONE

    def are_quiet_since(self, at: float) -> bool:
        """Whether no request has been in progress since `at`, in loop time."""
        every = (one.idle_since for one in (*self._regular, *self._reserved))
        return all(since is not None and since <= at for since in every)

    def _end_idlest(self) -> bool:
        """Ends the connection that has been idle longest, if any is idle."""
        if self._end_first_still_idle():
            return True
        # Search all connections only if one is idle.
        if not _is_any(self._regular, lambda it: it.idle_since is not None):
            return False
        found = ((since, one) for one in self._regular if (since := one.idle_since) is not None)
        longest_first = sorted(found, key=lambda pair: pair[0])
        self._idlest = {one: since for since, one in longest_first}
        return self._end_first_still_idle()

    def _end_first_still_idle(self) -> bool:
        while self._idlest:
            connection = next(iter(self._idlest))
            since = self._idlest.pop(connection)
            if connection.idle_since == since:  # unused since the search
                del self._regular[connection]
                connection.cut()
                return True
        return False

    def __len__(self) -> int:
        return len(self._regular) + len(self._reserved)

    def remove(self, connection: Connection) -> None:
        """Frees the slot of a connection that has ended."""
        self._regular.pop(connection, None)
        self._reserved.pop(connection, None)
        self._idlest.pop(connection, None)
        self._readers.pop(connection, None)
        self.resumed(connection)

    def paused(self, connection: Connection) -> None:
        """The connection now waits for its client to read."""
        counted = self._paused.get(connection, 0)
        size = self._paused[connection] = connection.held()
        self.responses.add_unsent(size - counted)

    def resumed(self, connection: Connection) -> None:
        """The client has read nearly everything."""
        counted = self._paused.pop(connection, 0)
        if counted:
            self.responses.add_unsent(-counted)

    def count_queued(self, more: int) -> bool:
        """Counts `more` bytes (negative: fewer) of waiting requests. Returns False, and counts
        nothing, if that exceeds the limit.
        """
        if more > 0 and self._queued + more > self._queued_max:
            return False
        self._queued += more
        return True

    def finish_all(self) -> None:
        """On shutdown: no connection accepts further requests."""
        for connection in [*self._regular, *self._reserved]:
            connection.finish()

    def cut_all(self) -> None:
        """Aborts all connections and their requests."""
        for task in self.tasks:
            task.cancel()
        for connection in [*self._regular, *self._reserved]:
            connection.cut()

    def look(self, now: float) -> None:
        """Cuts off clients that do not read; call it about once a second."""
        for connection in [*self._regular, *self._reserved]:
            if connection.unsent() == 0:
                self._readers.pop(connection, None)
                continue
            taken = connection.taken()
            if connection in self._paused:
                self.paused(connection)
            reader = self._readers.get(connection)
            if reader is None:
                reader = self._readers[connection] = Reader(now, taken, now, taken)
            reader.look(now, taken, 0 if connection.is_streaming else LEAST_PROGRESS)
            if now - reader.since >= self.limits.write_timeout_s:
                connection.cut()
        self._make_room(now)

    def _make_room(self, now: float) -> None:
        """While requests wait for memory: cuts off as many stalled clients as necessary, longest
        stalled first. If no waiting request was served for a while, and clients read too slowly to
        free the memory soon, also cuts off slow clients, starting with those that would hold it
        longest.
        """
        missing = self.responses.missing
        if not missing or self.responses.served != self._served:
            self._served, self._served_at = self.responses.served, now
        if not missing:
            return
        stalled: list[tuple[float, Connection]] = []
        slow: list[tuple[bool, float, Connection]] = []
        free_soon = 0.0
        for connection, held in self._paused.items():
            reader = self._readers.get(connection)
            if reader is None or not held:
                continue
            if now - reader.since >= PATIENCE_S:
                stalled.append((reader.since, connection))
                continue
            left_s = reader.left_s(now, connection.taken(), connection.unsent())
            if left_s is not None and not connection.is_streaming:
                slow.append((held < LITTLE_BYTES, -left_s, connection))
                free_soon += held if left_s <= SOON_S else held * SOON_S / left_s
        for _, connection in sorted(stalled, key=lambda entry: entry[0]):
            if missing <= 0:
                return
            missing -= self._paused[connection]
            connection.cut()
        if now - self._served_at >= WAIT_S and free_soon < missing:
            ordered = [one for *_, one in sorted(slow, key=lambda entry: entry[:2])]
            for connection in self._enough(ordered, missing):
                connection.cut()

    def _enough(self, ordered: list[Connection], missing: int) -> list[Connection]:
        """The first connections in `ordered` that together hold `missing` bytes, without
        superfluous small ones. Empty if all connections together hold less.
        """
        chosen: list[Connection] = []
        surplus = -missing
        for each in ordered:
            if surplus >= 0:
                break
            chosen.append(each)
            surplus += self._paused[each]
        if surplus < 0:
            return []
        for each in sorted(chosen, key=lambda each: self._paused[each]):
            if self._paused[each] <= surplus:
                surplus -= self._paused[each]
                chosen.remove(each)
        return chosen


def _make_way(places: dict[Connection, None], may_go: Callable[[Connection], bool]) -> bool:
    """Ends the first connection that `may_go`; earlier connections move to the end."""
    if not _is_any(places, may_go):
        return False
    first = next(iter(places))
    del places[first]
    first.cut()
    return True


def _is_any(places: dict[Connection, None], may_go: Callable[[Connection], bool]) -> bool:
    """Whether a connection `may_go`: that connection is then the first, and earlier ones move to
    the end.
    """
    for _ in range(min(TRIES, len(places))):
        first = next(iter(places))
        if may_go(first):
            return True
        del places[first]
        places[first] = None
    return False
