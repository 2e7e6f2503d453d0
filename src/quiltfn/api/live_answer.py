"""The response of a function URL, sent while the handler writes it.

Rule: the status and the headers are sent with the first bytes that the handler writes. Until then,
a failed invocation gets an ordinary error response. Afterwards the only way to report a failure is
to close the connection before the end of the body.
"""

import asyncio
from collections.abc import AsyncGenerator

import msgspec

from quiltfn.api.http.budgets import CallOutputBudget
from quiltfn.api.http.response import CutShort
from quiltfn.api.http.route import RequestContext
from quiltfn.api.http.text_size import PIECE_BYTES
from quiltfn.api.live_call import LiveServices, begin_call
from quiltfn.api.live_output import NOWHERE, OutputReader
from quiltfn.base.ids import new_id
from quiltfn.calls.invoke import Request, RunningCall
from quiltfn.functions.catalog import Entry
from quiltfn.http_trigger.answer import BadAnswer
from quiltfn.http_trigger.prelude import PRELUDE_MAX_BYTES, Begin, begin_of, begin_of_server
from quiltfn.model.errors import HandlerFailed
from quiltfn.model.invocation import Invocation, Status

STDOUT = "stdout"
# Bytes of output that are searched for the beginning of a response.
LOOKED_AT_BYTES = PRELUDE_MAX_BYTES + 1024
# After `READ_AT_ONCE_BYTES` the search is repeated only once the output has doubled, or at the end
# of a line or a NUL, at most `LOOKS_MAX` times. Each search reads all output, and a handler may
# write byte by byte.
READ_AT_ONCE_BYTES, LOOKS_MAX = 1024, 200


class LiveReader:
    """Reads the standard output of a running invocation."""

    def __init__(self, context: RequestContext[LiveServices], running: RunningCall) -> None:
        record = running.record
        self.invocation_id = record.invocation_id
        self._running, self._change = running, asyncio.Event()
        journal = context.services.journal
        self._reader = OutputReader(journal, record.function_id, record.invocation_id, (STDOUT,))
        self._reader.attach(running, self._change.set)
        self._seen = self._looked_at = self._looks = 0

    async def wait_for_begin(self, *, is_shell: bool) -> Begin | None:
        """The beginning of the response; `pieces` continues after it. None: the invocation ended
        before the beginning was complete. Raises `BadAnswer`.
        """
        while self._reader.is_live:
            self._change.clear()
            begin = self._begin(is_shell=is_shell)
            if begin is not None:
                self._reader.start({**NOWHERE, STDOUT: begin.size})
                return begin
            await self._change.wait()
        return None

    def _begin(self, *, is_shell: bool) -> Begin | None:
        output = self._running.output
        if output.answer_head is not None:
            return begin_of_server(output.answer_head)
        if not self._may_have_begun():
            return None
        return begin_of(output.read(STDOUT, 0, LOOKED_AT_BYTES), is_shell=is_shell)

    def _may_have_begun(self) -> bool:
        """Whether the output since the last search may have completed a head."""
        output = self._running.output
        size, seen = output.sizes[STDOUT], self._seen
        self._seen = size
        if READ_AT_ONCE_BYTES < size <= PRELUDE_MAX_BYTES and size < 2 * self._looked_at:
            new = output.read(STDOUT, seen, size - seen)
            if self._looks == LOOKS_MAX or (b"\n" not in new and b"\0" not in new):
                return False
            self._looks += 1
        self._looked_at = size
        return True

    async def live_pieces(self) -> AsyncGenerator[bytes, None]:
        """The output as it is written, while the invocation runs."""
        while self._reader.is_live:
            self._change.clear()
            async for piece in self.pieces():
                yield piece
            if self._reader.is_live:
                await self._change.wait()

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The output so far; once the invocation has ended, the rest."""
        while (found := await self._reader.next(PIECE_BYTES)) is not None:
            part, data = found
            self._reader.pass_by(part.stream, len(data))
            yield data

    def close(self) -> None:
        self._reader.close()


class LiveAnswer(msgspec.Struct, frozen=True):
    """A response that has begun."""

    begin: Begin
    reader: LiveReader
    call: "asyncio.Task[Invocation]"

    async def body(self) -> AsyncGenerator[bytes, None]:
        """The rest of the response. Raises `CutShort` if the invocation does not succeed."""
        try:
            async for piece in self.reader.live_pieces():
                yield piece
            await asyncio.wait({self.call})
            if not self._has_succeeded():
                raise CutShort
            async for piece in self.reader.pieces():
                yield piece
        finally:
            self.reader.close()

    def _has_succeeded(self) -> bool:
        if self.call.cancelled() or self.call.exception() is not None:
            return False
        return self.call.result().status is Status.SUCCESS


async def stream_answer(
    context: RequestContext[LiveServices],
    entry: Entry,
    request: Request,
    output: CallOutputBudget,
    *,
    is_shell: bool,
) -> LiveAnswer | Invocation:
    """Run the invocation. Returns its response once the response has begun, or the record if the
    invocation ended before. The invocation continues if the client disconnects. Raises as
    `Invoker.invoke` does, and `HandlerFailed`.
    """
    request = msgspec.structs.replace(request, invocation_id=new_id())
    watched = begin_call(context, entry, request, output)
    running = await watched.handed_over()
    if running is not None:
        reader = LiveReader(context, running)
        try:
            begin = await reader.wait_for_begin(is_shell=is_shell)
        except BadAnswer as bad:
            reader.close()
            error = HandlerFailed(f"the handler's answer cannot be sent: {bad}")
            error.with_record(reader.invocation_id, executed=True)
            raise error from None
        if begin is not None:
            return LiveAnswer(begin, reader, watched.call)
        reader.close()
    await asyncio.wait({watched.call})
    return watched.call.result()  # raises if the invocation has no record
