"""Streams the output of invocations to readers, slice by slice: from memory while an invocation
runs, then from its record.

Rule 1: readers get exactly the bytes of the record. A `gap` before the `end` reports bytes that the
record lacks.
Rule 2: readers never delay a handler, and each holds one slice at a time, however slow it is.
"""

import asyncio
import base64
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial

from quiltfn import wire
from quiltfn.api import shapes
from quiltfn.api.http.event_stream import event
from quiltfn.api.http.long_json import filled
from quiltfn.api.http.response import CutShort, encode
from quiltfn.api.http.text_size import PIECE_BYTES
from quiltfn.calls.invoke import Invoker, RunningCall
from quiltfn.calls.work import no_such_call
from quiltfn.model.errors import NotFound
from quiltfn.model.output import STREAMS, Cursor, Part, backwards, from_text, text_or_bytes
from quiltfn.ports import Outline
from quiltfn.store.calls.journal import SpoolJournal

SLICE_BYTES = 16 * 1024
# The number of invocations of a function that a slow reader may lag behind; the output of further
# ones becomes a gap.
CALLS_MAX = 1000
# The interval of checks whether an invocation that isn't running here has started or ended.
LOOK_EVERY_S = 1.0
NOWHERE: Mapping[str, int] = dict.fromkeys(STREAMS, 0)

Events = AsyncGenerator[bytes, None]


class OutputReader:
    """Reads the output of one invocation; close the reader after use. `streams`: those to read.
    `names_call`: whether each event contains the id of the invocation.
    """

    def __init__(
        self,
        journal: SpoolJournal,
        function_id: str,
        invocation_id: str,
        streams: Sequence[str] = STREAMS,
        *,
        names_call: bool = False,
    ) -> None:
        self._journal, self._function_id, self._invocation_id = journal, function_id, invocation_id
        self._streams, self._names_call = streams, names_call
        self._cursor = Cursor(NOWHERE, streams)
        self._running: RunningCall | None = None
        self._changed: Callable[[], None] | None = None
        self.attempt = 1
        self.outline: Outline | None = None

    def start(self, at: Mapping[str, int], attempt: int | None = None) -> None:
        """Starts at `at`, an offset in `attempt`. If that isn't the current attempt, starts at the
        beginning of the current one. None: the current attempt.
        """
        if attempt not in (None, self.attempt):
            at = NOWHERE
        self._cursor = Cursor(at, self._streams)

    def attach(self, running: RunningCall, changed: Callable[[], None] | None = None) -> None:
        """Reads the output of the running invocation. Calls `changed` when there may be more
        output.
        """
        self.close()
        self._running, self._changed = running, changed
        self.attempt = running.record.attempt
        if changed is not None:
            running.output.watch(changed)

    def close(self) -> None:
        if self._running is not None and self._changed is not None:
            self._running.output.unwatch(self._changed)
        self._running = None

    @property
    def is_live(self) -> bool:
        """Whether the invocation is running and attached."""
        return self._running is not None and not self._running.output.is_closed

    async def load(self) -> Outline:
        """Loads the current record. Raises `NotFound`."""
        self.close()
        self.outline = await self._journal.outline(self._function_id, self._invocation_id)
        if self.outline is None:
            raise no_such_call()
        self.attempt = self.outline.record.attempt
        return self.outline

    async def next(self, most: int = SLICE_BYTES) -> tuple[Part, bytes] | None:
        """Returns the next bytes, without advancing (`pass_by` does). None: there are none now."""
        if self._running is not None and not self._running.output.is_closed:
            log = self._running.output
            part = self._cursor.next(log.order, log.sizes, most, is_live=True)
            if part is None:
                return None
            return part, log.read(part.stream, part.start, part.size)
        if self._running is not None or self.outline is None:
            await self.load()
        assert self.outline is not None
        order = from_text(self.outline.record.output_order)
        part = self._cursor.next(order, self.outline.sizes, most, is_live=False)
        if part is None:
            return None
        return part, await self._read(part.stream, part.start, part.size)

    def pass_by(self, stream: str, size: int) -> None:
        self._cursor.advance(stream, size)

    async def _read(self, stream: str, start: int, size: int) -> bytes:
        if self.is_live:
            assert self._running is not None
            return self._running.output.read(stream, start, size)
        of = self._function_id, self._invocation_id
        data = await self._journal.read_output(*of, stream, start, size)
        if not data:  # the record says that there is more
            raise CutShort("the record was removed while it was read")
        return data

    async def last_lines(self, count: int) -> Mapping[str, int]:
        """Returns the offsets at which the last `count` lines begin."""
        if self._running is not None and self.is_live:
            order, sizes = list(self._running.output.order), self._running.output.sizes
        else:
            outline = self.outline or await self.load()
            order, sizes = list(from_text(outline.record.output_order)), outline.sizes
        wanted = {stream: sizes[stream] if stream in self._streams else 0 for stream in STREAMS}
        if not count:
            return wanted
        order = [run for run in order if run[0] in self._streams]
        at, is_last = dict(wanted), True
        for stream, start, size in backwards(order, wanted, PIECE_BYTES):
            try:
                data = await self._read(stream, start, size)
            except CutShort:
                raise no_such_call() from None
            end = len(data) - (is_last and data.endswith(b"\n"))
            is_last = False
            lines = data.count(b"\n", 0, end)
            if lines >= count:
                before = data[:end].rsplit(b"\n", count)[0]
                return at | {stream: start + len(before) + 1}
            count -= lines
            at[stream] = start
        return at

    # As events -------------------------------------------------------------------------------

    async def events(self) -> Events:
        """Yields all output so far, as `stdout` and `stderr` events."""
        while (found := await self.next()) is not None:
            part, data = found
            pieces = text_or_bytes(data, is_open=part.is_open)
            if not pieces:
                return  # an incomplete character: wait for the rest
            for piece in pieces:
                yield self._chunk(part.stream, piece)

    def _chunk(self, stream: str, piece: str | bytes) -> bytes:
        at = self._cursor.at
        named = self._invocation_id if self._names_call else None
        if isinstance(piece, str):
            size = len(piece.encode())
            chunk = wire.OutputChunk(offset=at[stream], text=piece, invocation_id=named)
        else:
            size, text = len(piece), base64.b64encode(piece).decode()
            chunk = wire.OutputChunk(offset=at[stream], base64=text, invocation_id=named)
        self.pass_by(stream, size)
        return event(stream, encode(chunk), None if self._names_call else self.event_id)

    @property
    def event_id(self) -> str:
        """The reader's position, for resuming."""
        at = f"{self._cursor.at['stdout']}-{self._cursor.at['stderr']}"
        return at if self.attempt == 1 else f"{at}-{self.attempt}"

    async def last_events(self) -> Events:
        """Yields output that the record lacks as `gap`, and the record itself as `end`."""
        outline = self.outline or await self.load()
        record = outline.record
        dropped = {"stdout": record.stdout_dropped, "stderr": record.stderr_dropped}
        for stream in self._streams:
            size = outline.sizes[stream]
            # If the server that ran the invocation was lost, the reader may have more output than
            # the record.
            missing = max(dropped[stream], self._cursor.at[stream] - size)
            if missing:
                gap = wire.OutputGap(
                    stream=stream,
                    offset=size,
                    bytes=missing,
                    invocation_id=self._invocation_id if self._names_call else None,
                )
                yield event("gap", encode(gap))
        async for piece in self._end(outline):
            yield piece

    async def _end(self, outline: Outline) -> Events:
        """Yields the `end` event in pieces: its JSON has all output, which is never in memory as a
        whole.
        """
        text = event("end", encode(shapes.invocation(outline.record)))
        texts = {
            stream: (size, partial(self._slice, stream)) for stream, size in outline.sizes.items()
        }
        async for piece in filled(text, texts):
            yield piece

    async def _slice(self, stream: str, start: int) -> bytes:
        await asyncio.sleep(0)  # a read from memory does not yield to other tasks
        return await self._read(stream, start, PIECE_BYTES)


async def written(reader: OutputReader) -> AsyncGenerator[bytes, None]:
    """Yields the output so far as bytes, both streams in their original order."""
    try:
        while (found := await reader.next(PIECE_BYTES)) is not None:
            part, data = found
            reader.pass_by(part.stream, len(data))
            yield data
    finally:
        reader.close()


async def live_events(reader: OutputReader, running: RunningCall) -> Events:
    """Yields the output of a running invocation as it arrives. Afterwards, the rest is in its
    record.
    """
    change = asyncio.Event()
    reader.attach(running, change.set)
    while reader.is_live:
        change.clear()
        async for piece in reader.events():
            yield piece
        if reader.is_live:
            await change.wait()


async def follow_call(reader: OutputReader, find: Callable[[], RunningCall | None]) -> Events:
    """Yields the output of an invocation as it arrives, until its end. `find`: returns the
    invocation if it runs here.
    """
    try:
        while True:
            running = find()
            if running is not None:
                async for piece in live_events(reader, running):
                    yield piece
            outline = await reader.load()
            if outline.record.is_final:
                break
            # The invocation waits, is between two attempts, or runs on another server.
            if running is not None:
                reader.start(NOWHERE)
            await asyncio.sleep(LOOK_EVERY_S)
        async for piece in reader.events():
            yield piece
        async for piece in reader.last_events():
            yield piece
    finally:
        reader.close()


def started(running: RunningCall) -> bytes:
    """The event for the start of a handler."""
    record = running.record
    started = wire.CallStarted(invocation_id=record.invocation_id, cold_start=record.cold_start)
    return event("started", encode(started))


async def follow_function(
    invoker: Invoker, journal: SpoolJournal, function_id: str, streams: Sequence[str]
) -> Events:
    """Yields the output of all invocations of a function on this server, as it arrives."""
    arrived: deque[RunningCall] = deque()
    readers: dict[str, OutputReader] = {}
    changed: dict[str, None] = {}
    missed, change = 0, asyncio.Event()

    def arrive(running: RunningCall) -> None:
        nonlocal missed
        if len(arrived) + len(readers) < CALLS_MAX:
            arrived.append(running)
        else:
            missed += 1
        change.set()

    def note(invocation_id: str) -> None:
        changed[invocation_id] = None
        change.set()

    invoker.listen(function_id, arrive)
    try:
        for running in invoker.running_calls(function_id):
            arrive(running)
        while True:
            await change.wait()
            change.clear()
            if missed:
                gap, missed = wire.CallsGap(calls=missed), 0
                yield event("gap", encode(gap))
            while arrived:
                running = arrived.popleft()
                running_id = running.record.invocation_id
                readers[running_id] = OutputReader(
                    journal, function_id, running_id, streams, names_call=True
                )
                readers[running_id].attach(running, partial(note, running_id))
                changed[running_id] = None
                yield started(running)
            while changed:
                running_id = next(iter(changed))
                del changed[running_id]
                async for piece in _news_of(readers[running_id]):
                    yield piece
                if not readers[running_id].is_live:
                    readers.pop(running_id).close()
                    changed.pop(running_id, None)  # its `end` event is already sent
    finally:
        invoker.unlisten(function_id, arrive)
        for reader in readers.values():
            reader.close()


async def _news_of(reader: OutputReader) -> Events:
    """Yields the new output of an invocation, and its `end` event if it has ended."""
    try:
        was_live = reader.is_live
        async for piece in reader.events():
            yield piece
        if was_live and reader.is_live:
            return
        outline = await reader.load()
        async for piece in reader.events():  # output that arrived in the meantime
            yield piece
        if outline.record.is_final:
            async for piece in reader.last_events():
                yield piece
    except NotFound:  # deleted with its function
        reader.close()
