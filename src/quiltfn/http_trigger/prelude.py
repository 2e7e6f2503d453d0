"""The head of an answer that is streamed, found while its output comes.

A shell begins with a header block, as `cgi.py` has it. A runner's handler begins with an object
that has `statusCode`, and ends it with a line's end or with eight NULs, as Lambda's response
streaming does. Output that begins with neither is sent as it comes. The head of a server is there
by itself.
"""

import msgspec

from quiltfn.http_trigger import cgi
from quiltfn.http_trigger.answer import OCTETS, SET_COOKIE, TEXT, HandlerAnswer, Head, head_of
from quiltfn.http_trigger.event import Outline, answer_of, metadata_of, outline_of
from quiltfn.model.output import AnswerHead

END = b"\0" * 8
PRELUDE_MAX_BYTES = 32 * 1024


class Begin(msgspec.Struct, frozen=True):
    """The head of an answer; its body begins `size` bytes after the begin of the output."""

    head: Head
    size: int


def begin_of(output: bytes, *, is_shell: bool) -> Begin | None:
    """The begin of an answer whose output has not ended; None: more has to come to tell. Raises
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
    """The begin of the answer of a server. Raises `BadAnswer`."""
    fields = [*head.headers.items(), *[(SET_COOKIE, one) for one in head.cookies]]
    return Begin(head_of(head.status, fields).with_type(OCTETS), head.size)


def whole_of(output: bytes, *, is_shell: bool, is_binary_event: bool = False) -> HandlerAnswer:
    """The answer of a streaming handler whose output has ended. One that returned an ordinary
    answer is understood as any other. Raises `BadAnswer`.
    """
    if is_shell:
        return cgi.answer_of(output)
    begin = begin_of(output, is_shell=False)
    if begin is not None and begin.size:
        return HandlerAnswer(begin.head, output[begin.size :])
    return answer_of(output, is_binary_event=is_binary_event)


def _outline(text: bytes) -> Outline | None:
    """The object that begins an answer; None: this is none."""
    try:
        outline = outline_of(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return outline if outline is not None and bytes(outline.statusCode) else None
