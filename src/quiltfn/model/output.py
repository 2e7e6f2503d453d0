"""The output of an invocation so far, its order, and the positions of its readers.

The two streams of an invocation are stored separately. *Runs* describe the order in which they were
written: a number of bytes of one stream, then of the other. The number of runs is bounded; output
after the last run is read stream by stream.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

STREAMS = ("stdout", "stderr")
RUNS_MAX = 1000
# Pairs of a stream and the number of its bytes that come next.
Run = tuple[str, int]
Order = Sequence[Run]
_decode_order = msgspec.json.Decoder(list[Run]).decode


class AnswerHead(msgspec.Struct, frozen=True):
    """The head of an HTTP response from a server: its headers by lowercase name, and its cookies.
    The first `size` bytes of standard output contain the same.
    """

    status: int
    headers: dict[str, str]
    cookies: list[str]
    size: int


class OutputLog:
    """The output of one running invocation, as its record will have it. The sandbox appends output;
    any number of readers read by offset, without delaying each other or the handler.

    `answer_head`: the head of a server's response, once it has begun. `is_closed`: the invocation
    is over; read the rest from its record.
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
        """Adds a piece of "stdout" or "stderr" and notifies the readers."""
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

    def begin_answer(self, head: AnswerHead) -> None:
        """Sets the head of a server's response."""
        self.answer_head = head

    def _add_to_order(self, stream: str, size: int) -> None:
        runs = self._runs
        if runs and runs[-1][0] == stream:
            runs[-1] = (stream, runs[-1][1] + size)
        elif len(runs) < RUNS_MAX:
            runs.append((stream, size))
        else:
            self._is_order_cut = True

    def take(self) -> tuple[bytes, bytes]:
        """Both streams for the record; call no `append` afterwards."""
        held = self._held
        out, err = bytes(held["stdout"]), bytes(held["stderr"])
        held["stdout"], held["stderr"] = out, err  # so that memory has them only once
        return out, err

    @property
    def order(self) -> Order:
        """The order in which the streams were written, as far as known."""
        return self._runs

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of each stream."""
        return {stream: len(held) for stream, held in self._held.items()}

    def read(self, stream: str, start: int, size: int) -> bytes:
        return bytes(self._held[stream][start : start + size])

    def watch(self, watcher: Callable[[], None]) -> None:
        """Calls `watcher` after each piece and at the end. `watcher` must not raise, and must be
        fast, since it delays the invocation.
        """
        self._watchers = (*self._watchers, watcher)

    def unwatch(self, watcher: Callable[[], None]) -> None:
        self._watchers = tuple(one for one in self._watchers if one != watcher)

    def close(self) -> None:
        """Call this once the invocation is over and its record written: drops the bytes and
        notifies readers.
        """
        self.is_closed = True
        self._held = {"stdout": b"", "stderr": b""}
        for watcher in self._watchers:
            watcher()


def to_text(order: Order) -> str | None:
    """The order as a record stores it; None if only one stream was written."""
    return msgspec.json.encode(order).decode() if len(order) > 1 else None


def from_text(text: str | None) -> Order:
    """The order from a record."""
    return _decode_order(text) if text else ()


class Part(msgspec.Struct, frozen=True):
    """The bytes to read next. `is_open`: more of the same stream may follow directly."""

    stream: str
    start: int
    size: int
    is_open: bool


class Cursor:
    """A reader's position in each stream. The streams are read in their original order.

    `at`: bytes of each stream that were read. `streams`: the streams to read.
    """

    def __init__(self, at: Mapping[str, int], streams: Sequence[str] = STREAMS) -> None:
        self.at = dict(at)
        self._streams = streams
        # The current run, and the bytes of each stream before it.
        self._run = 0
        self._before = dict.fromkeys(STREAMS, 0)

    def next(
        self, order: Order, sizes: Mapping[str, int], most: int, *, is_live: bool
    ) -> Part | None:
        """The next part to read, at most `most` bytes; None: there is none yet. `is_live`: more
        output may come.
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
    """The data as text while it is UTF-8, and as bytes after that.

    `is_open`: more data may follow, so an incomplete sequence at the end is left for the next time.
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
    """How many bytes at the end belong to an incomplete sequence of UTF-8."""
    for count in range(1, min(3, len(data)) + 1):
        byte = data[-count]
        if byte >= 0xC0:
            needs = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4 if byte < 0xF5 else 0
            return count if needs > count else 0
        if byte < 0x80:
            return 0
    return 0
