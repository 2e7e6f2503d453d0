"""The beginning of a streamed response is found as it arrives, without a search at each byte."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from quiltfn.api import live_answer
from quiltfn.api.live_answer import LOOKS_MAX, READ_AT_ONCE_BYTES, LiveReader
from quiltfn.calls.invoke import RunningCall
from quiltfn.http_trigger.answer import OCTETS, TEXT
from quiltfn.http_trigger.prelude import END, PRELUDE_MAX_BYTES, Begin, begin_of
from quiltfn.model.output import OutputLog

CONTEXT = cast("Any", SimpleNamespace(services=SimpleNamespace(journal=None)))
RECORD = cast("Any", SimpleNamespace(attempt=1, function_id="f", invocation_id="i"))
PADDING = b" " * 2 * READ_AT_ONCE_BYTES


async def begun(
    written: bytes, monkeypatch: pytest.MonkeyPatch, *, is_shell: bool = False
) -> tuple[Begin | None, int, int]:
    """Write output byte by byte. Returns the beginning of the response, how many bytes had arrived
    when it was found, and how many searches it took.
    """
    looks = 0

    def counted(output: bytes, *, is_shell: bool) -> Begin | None:
        nonlocal looks
        looks += 1
        return begin_of(output, is_shell=is_shell)

    monkeypatch.setattr(live_answer, "begin_of", counted)
    log = OutputLog()
    reader = LiveReader(CONTEXT, RunningCall(RECORD, log))
    begin = asyncio.ensure_future(reader.wait_for_begin(is_shell=is_shell))
    for at in range(len(written)):
        log.append("stdout", written[at : at + 1])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if begin.done():
            break
    log.close()
    return await begin, at + 1, looks


@pytest.mark.parametrize(
    ("head", "is_shell"),
    [
        (b'{"statusCode":201,"headers":{"content-type":"%b"}}\n', False),
        (b'{"statusCode":201,%b"headers":{"content-type":"%b"}}\n', False),
        (b'{"statusCode":201,\n%b"headers":{"content-type":"%b"}}' + END, False),
        (b"Status: 201\nX-Long: %b\nContent-Type: %b\n\n", True),
    ],
)
async def test_a_head_is_found_with_its_last_byte(
    head: bytes, is_shell: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = TEXT if is_shell else OCTETS
    parts = [PADDING, kind.encode()][-head.count(b"%b") :]
    whole = head % tuple(parts)
    begin, came, _ = await begun(whole + b"body", monkeypatch, is_shell=is_shell)
    assert begin is not None
    assert (begin.head.status, begin.size) == (201, len(whole))
    assert dict(begin.head.headers)["content-type"] == kind
    assert came == len(whole)


@pytest.mark.parametrize("piece", [b"x", b"\n", b"\0", b"x\n"])
async def test_a_handler_that_writes_byte_by_byte_is_not_read_anew_for_each(
    piece: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = b"{" + piece * PRELUDE_MAX_BYTES
    begin, came, looks = await begun(whole, monkeypatch)
    assert begin == Begin(begin_of(b"x", is_shell=False).head, 0)  # type: ignore[union-attr]
    assert came <= PRELUDE_MAX_BYTES + 1
    assert looks <= READ_AT_ONCE_BYTES + LOOKS_MAX + 10
