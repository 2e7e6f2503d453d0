"""Where the last lines of a call's output begin, of a call that runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from quiltfn.api.http.text_size import PIECE_BYTES
from quiltfn.api.live_output import OutputReader
from quiltfn.calls.invoke import RunningCall
from quiltfn.model.output import OutputLog

RECORD = cast("Any", SimpleNamespace(attempt=1))
LONG = b"x" * (PIECE_BYTES + 7)


async def last(pieces: list[tuple[str, bytes]], count: int) -> bytes:
    """What `tail=<count>` shows of a call that has written so much."""
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
    """Where a line is not whole yet, its next byte is still to come."""
    log = OutputLog()
    log.append("stdout", b"half")
    reader = OutputReader(cast("Any", None), "function", "call")
    reader.attach(RunningCall(RECORD, log))
    reader.start(await reader.last_lines(0))
    log.append("stdout", b"!")
    found = await reader.next()
    assert found is not None
    assert found[1] == b"!"
