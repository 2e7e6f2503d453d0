"""Finds the head of a streamed response while its output arrives.

The output of a shell begins with a header block (`cgi.py`). The output of a runner's handler begins
with an object that has `statusCode`, followed by a newline or eight NULs as in Lambda's response
streaming. Output without either is sent as it is. The head of a web server's response comes
separately.
"""

import msgspec

from quiltfn.http_trigger import cgi
from quiltfn.http_trigger.answer import OCTETS, SET_COOKIE, TEXT, HandlerAnswer, Head, head_of
from quiltfn.http_trigger.event import Outline, answer_of, metadata_of, outline_of
from quiltfn.model.output import AnswerHead

END = b"\0" * 8
PRELUDE_MAX_BYTES = 32 * 1024


class Begin(msgspec.Struct, frozen=True):
    """The head of a response; the body begins after the first `size` bytes of the output."""

    head: Head
    size: int


def begin_of(output: bytes, *, is_shell: bool) -> Begin | None:
    """Parses the beginning of unfinished output; None: undecided until more output comes. Raises
    `BadAnswer`.
    """
    if not output:
        return None
    if is_shell:
        block = cgi.block_of(output, is_whole=False)
        if block is None:
            return None
        if block.head is None:
            return Begin(Head(200, [("content-type", TEXT)]), 0)
        return Begin(block.head.with_type(TEXT), block.size)
    plain = Begin(Head(200, [("content-type", OCTETS)]), 0)
    if not output.startswith(b"{"):
        return plain
    end = output.find(END, 0, PRELUDE_MAX_BYTES)
    if end >= 0:
        outline = _outline(output[:end])
        return plain if outline is None else Begin(metadata_of(outline).with_type(OCTETS), end + 8)
    line = output.find(b"\n", 0, PRELUDE_MAX_BYTES)
    if line >= 0:
        outline = _outline(output[:line])
        if outline is not None:
            return Begin(metadata_of(outline).with_type(OCTETS), line + 1)
    return plain if len(output) > PRELUDE_MAX_BYTES else None


def begin_of_server(head: AnswerHead) -> Begin:
    """The beginning of a server's response. Raises `BadAnswer`."""
    fields = [*head.headers.items(), *[(SET_COOKIE, one) for one in head.cookies]]
    return Begin(head_of(head.status, fields).with_type(OCTETS), head.size)


def whole_of(output: bytes, *, is_shell: bool, is_binary_event: bool = False) -> HandlerAnswer:
    """Parses the complete output of a streaming handler, which may also have returned an ordinary
    response. Raises `BadAnswer`.
    """
    if is_shell:
        return cgi.answer_of(output)
    begin = begin_of(output, is_shell=False)
    if begin is not None and begin.size:
        return HandlerAnswer(begin.head, output[begin.size :])
    return answer_of(output, is_binary_event=is_binary_event)


def _outline(text: bytes) -> Outline | None:
    """Parses the object at the beginning of a response; None: `text` is not such an object."""
    try:
        outline = outline_of(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return outline if outline is not None and bytes(outline.statusCode) else None
