"""The output of a call: what has come so far, in which order, and where a reader of it is.

The two streams of a call are kept apart. That they interleave is described by *runs*: so many bytes
of one stream, then so many of the other. Their number is bounded; what comes behind the last one is
read stream by stream.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

STREAMS = ("stdout", "stderr")
RUNS_MAX = 1000
# A stream, and how many bytes of it come next.
Run = tuple[str, int]
Order = Sequence[Run]
_decode_order = msgspec.json.Decoder(list[Run]).decode


class AnswerHead(msgspec.Struct, frozen=True):
    """The head of an HTTP answer, as a server has sent it: its headers by their names in small
    letters, without its cookies. The first `size` bytes of the standard output tell the same.
    """

    status: int
    headers: dict[str, str]
    cookies: list[str]
    size: int


class OutputLog:
    """What one running call has written, as its record will have it. Its sandbox appends; any
    number of readers read by offset, and none of them holds up the others or the handler.

    `answer_head`: of the answer of a server, once that has begun. `is_closed`: the call is over,
    and the rest is to be read from its record.
    """

    __slots__ = ("_held", "_is_order_cut", "_runs", "_watchers", "answer_head", "is_closed")

    def __init__(self) -> None:
        self._held: dict[str, bytes | bytearray] = {"stdout": b"", "stderr": b""}
        self._runs: list[Run] = []
        self._is_order_cut = False
        self._watchers: tuple[Callable[[], None], ...] = ()
        self.answer_head: AnswerHead | None = None
        self.is_closed = False

    def append(self, stream: str, data: bytes) -> None:
        """Adds a piece of "stdout" or "stderr" and tells the readers."""
        held = self._held[stream]
        if not held:
            self._held[stream] = data
        elif isinstance(held, bytearray):
            held += data
        else:
            self._held[stream] = bytearray(held) + data
        if not self._is_order_cut:
            self._add_to_order(stream, len(data))
        for watcher in self._watchers:
            watcher()

    def _add_to_order(self, stream: str, size: int) -> None:
        runs = self._runs
        if runs and runs[-1][0] == stream:
            runs[-1] = (stream, runs[-1][1] + size)
        elif len(runs) < RUNS_MAX:
            runs.append((stream, size))
        else:
            self._is_order_cut = True

    def take(self) -> tuple[bytes, bytes]:
        """Both streams as the record keeps them; nothing may be appended any more."""
        held = self._held
        out, err = bytes(held["stdout"]), bytes(held["stderr"])
        held["stdout"], held["stderr"] = out, err  # not kept twice
        return out, err

    @property
    def order(self) -> Order:
        """How the streams interleave, as far as it is known."""
        return self._runs

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of each stream."""
        return {stream: len(held) for stream, held in self._held.items()}

    def read(self, stream: str, start: int, size: int) -> bytes:
        return bytes(self._held[stream][start : start + size])

    def watch(self, watcher: Callable[[], None]) -> None:
        """Calls `watcher` after each piece and at the end. It must not raise and costs the call."""
        self._watchers = (*self._watchers, watcher)

    def unwatch(self, watcher: Callable[[], None]) -> None:
        self._watchers = tuple(one for one in self._watchers if one != watcher)

    def close(self) -> None:
        """The call is over and its record written: forgets the bytes, and tells the readers."""
        self.is_closed = True
        self._held = {"stdout": b"", "stderr": b""}
        for watcher in self._watchers:
            watcher()


def to_text(order: Order) -> str | None:
    """What a record says of the order; None where one stream alone was written."""
    return msgspec.json.encode(order).decode() if len(order) > 1 else None


def from_text(text: str | None) -> Order:
    """The order that a record tells."""
    return _decode_order(text) if text else ()


class Part(msgspec.Struct, frozen=True):
    """Bytes to be read next. `is_open`: more of the same stream may follow them directly."""

    stream: str
    start: int
    size: int
    is_open: bool


class Cursor:
    """Where a reader is: how far in each stream. It goes through both in their order.

    `at`: bytes of each stream that are behind the reader. `streams`: those it reads.
    """

    def __init__(self, at: Mapping[str, int], streams: Sequence[str] = STREAMS) -> None:
        self.at = dict(at)
        self._streams = streams
        # The run that is being read, and how much of each stream is in the runs before it.
        self._run = 0
        self._before = dict.fromkeys(STREAMS, 0)

    def next(
        self, order: Order, sizes: Mapping[str, int], most: int, *, is_live: bool
    ) -> Part | None:
        """What to read next, at most `most` bytes; None: there is no more by now. `is_live`: more
        may come.
        """
        while self._run < len(order):
            stream, size = order[self._run]
            end, at = self._before[stream] + size, self.at[stream]
            may_grow = is_live and self._run == len(order) - 1
            if stream in self._streams and at < min(end, sizes[stream]):
                return _part(stream, at, min(end, sizes[stream]), most, may_grow)
            if may_grow:
                break
            self._before[stream] = end
            self._run += 1
        for stream in self._streams:
            if self.at[stream] < sizes[stream]:
                return _part(stream, self.at[stream], sizes[stream], most, is_live)
        return None

    def advance(self, stream: str, size: int) -> None:
        self.at[stream] += size


def _part(stream: str, start: int, end: int, most: int, may_grow: bool) -> Part:
    size = min(most, end - start)
    return Part(stream, start, size, may_grow or start + size < end)


def backwards(order: Order, sizes: Mapping[str, int], most: int) -> Iterator[tuple[str, int, int]]:
    """Stream, start and size of all pieces of the output, at most `most` bytes each, last first."""
    left = dict(sizes)
    for stream, size in order:
        left[stream] -= size
    rest = [(stream, size) for stream, size in left.items() if size > 0]
    ends = dict(sizes)
    for stream, size in reversed([*order, *rest]):
        first = ends[stream] - size
        while ends[stream] > max(first, 0):
            start = max(ends[stream] - most, first, 0)
            yield stream, start, ends[stream] - start
            ends[stream] = start


def text_or_bytes(data: bytes, *, is_open: bool) -> list[str | bytes]:
    """The data as text where it is UTF-8, and as bytes from where it is not.

    `is_open`: more may follow; then a sequence that is cut at the end is left out for next time.
    """
    try:
        return [data.decode()]
    except UnicodeDecodeError as error:
        first = error.start
    rest = data[first:]
    if is_open:
        rest = rest[: len(rest) - _cut_bytes(rest)]
    found: list[str | bytes] = [data[:first].decode()] if first else []
    if rest:
        found.append(rest)
    return found


def _cut_bytes(data: bytes) -> int:
    """How many bytes at the end begin a sequence of UTF-8 that is not whole."""
    for count in range(1, min(3, len(data)) + 1):
        byte = data[-count]
        if byte >= 0xC0:
            needs = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4 if byte < 0xF5 else 0
            return count if needs > count else 0
        if byte < 0x80:
            return 0
    return 0
