"""Reading a call's output: its last lines, and a record that is removed meanwhile."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from quiltfn.api.http.response import CutShort
from quiltfn.api.http.text_size import PIECE_BYTES
from quiltfn.api.live_output import OutputReader, written
from quiltfn.calls.invoke import RunningCall
from quiltfn.model.errors import NotFound
from quiltfn.model.output import OutputLog
from quiltfn.ports import Outline

RECORD = cast("Any", SimpleNamespace(attempt=1))
LONG = b"x" * (PIECE_BYTES + 7)


async def last(pieces: list[tuple[str, bytes]], count: int) -> bytes:
    """What a reader with `tail=<count>` gets for a call that has written this output."""
    log = OutputLog()
    for stream, data in pieces:
        log.append(stream, data)
    reader = OutputReader(cast("Any", None), "function", "call")
    reader.attach(RunningCall(RECORD, log))
    reader.start(await reader.last_lines(count))
    shown = b""
    while (found := await reader.next()) is not None:
        part, data = found
        reader.pass_by(part.stream, len(data))
        shown += data
    return shown


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 6, 7, 100])
async def test_the_last_lines_are_the_last_lines(count: int, end: bytes) -> None:
    whole = b"a\n\n" + LONG + b"\n" + LONG + b"\nd\ne" + end
    lines = whole.removesuffix(b"\n").split(b"\n")
    wanted = b"\n".join(lines[-count:]) + end if count else b""
    assert await last([("stdout", whole)], count) == wanted


async def test_of_two_streams_the_lines_are_counted_in_their_order() -> None:
    pieces = [("stdout", b"1\n2\n"), ("stderr", b"3\n4\n"), ("stdout", b"5\n")]
    assert await last(pieces, 2) == b"4\n5\n"
    assert await last(pieces, 4) == b"2\n3\n4\n5\n"


async def test_without_a_last_line_nothing_is_passed_over() -> None:
    """With `tail=0`, a reader of an incomplete line must get the bytes that follow."""
    log = OutputLog()
    log.append("stdout", b"half")
    reader = OutputReader(cast("Any", None), "function", "call")
    reader.attach(RunningCall(RECORD, log))
    reader.start(await reader.last_lines(0))
    log.append("stdout", b"!")
    found = await reader.next()
    assert found is not None
    assert found[1] == b"!"


class Removing:
    """A journal that loses the record after `reads` reads of its output."""

    def __init__(self, reads: int) -> None:
        self.left = reads

    async def outline(self, _function_id: str, _invocation_id: str) -> Outline:
        record: Any = SimpleNamespace(attempt=1, output_order="", stdout_dropped=0)
        return Outline(record=record, sizes={"stdout": len(LONG), "stderr": 0})

    async def read_output(self, _f: str, _i: str, _stream: str, start: int, size: int) -> bytes:
        self.left -= 1
        return LONG[start : start + size] if self.left >= 0 else b""


async def loaded(reads: int) -> OutputReader:
    reader = OutputReader(cast("Any", Removing(reads)), "function", "call")
    await reader.load()
    reader.start({"stdout": 0, "stderr": 0})
    return reader


@pytest.mark.parametrize("how", [written, OutputReader.events])
async def test_a_record_that_is_removed_while_it_is_read_ends_nothing_as_if_whole(how: Any) -> None:
    """Formerly, a follower got empty events forever, and other readers got a part as if it were
    complete.
    """

    async def read(reads: int) -> bytes:
        return b"".join([piece async for piece in how(await loaded(reads))])

    with pytest.raises(CutShort):
        await read(1)
    assert len(await read(10**6)) >= len(LONG)


async def test_the_last_lines_of_a_removed_record_are_not_found() -> None:
    with pytest.raises(NotFound):
        await (await loaded(0)).last_lines(3)
