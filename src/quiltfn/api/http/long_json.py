"""Encodes JSON that contains long text slice by slice, so that other requests can run in between.

A control character becomes six characters, and bytes that are not UTF-8 are decoded one by one:
encoding 6 MiB of them at once would block the event loop for a fifth of a second.
"""

import io
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any

import msgspec

from quiltfn.api.http.response import JSON, Header, Response, encode
from quiltfn.api.http.route import AnyContext
from quiltfn.api.http.text_size import PIECE_BYTES, Decoder, text_size

# The bytes that a list entry counts in addition to its own, since short entries take time, too.
ENTRY_BYTES = 1024
# Awaited before each slice: only one request of the server at a time encodes a slice.
Turn = Callable[[], Awaitable[None]]
# Size of a text in bytes, and a function that reads the slice at an offset.
LongText = tuple[int, Callable[[int], Awaitable[bytes]]]


class WithTexts(msgspec.Struct, frozen=True):
    """An object with long texts. `texts`: their bytes by field name, in the order of the object's
    fields. In `shown`, these fields are empty strings.
    """

    shown: Any
    texts: Mapping[str, bytes]


async def size_of(texts: Iterable[bytes], turn: Turn) -> int:
    """The maximum size of the texts as JSON, in bytes."""
    size = 0
    for text in texts:
        for start in range(0, len(text), PIECE_BYTES):
            await turn()
            size += text_size(text[start : start + PIECE_BYTES])
    return size


async def filled(text: bytes, texts: Mapping[str, LongText]) -> AsyncGenerator[bytes, None]:
    """Yield the JSON `text`, with the empty string of each field in `texts` replaced by its text.
    The complete JSON is never in memory.
    """
    for name, (size, read) in texts.items():
        before, mark, text = text.partition(b'"%b":""' % name.encode())
        yield before + mark[:-1]
        decoder = Decoder("replace")
        for start in range(0, size, PIECE_BYTES):
            data = await read(start)
            if piece := decoder.decode(data, start + PIECE_BYTES >= size):
                yield encode(piece)[1:-1]
        text = b'"' + text
    yield text


async def write(out: io.BytesIO, value: Any, turn: Turn) -> None:
    """Write the JSON of an object, which may be `WithTexts`."""
    if not isinstance(value, WithTexts):
        out.write(encode(value))
        return
    texts = {name: (len(text), partial(_slice, text, turn)) for name, text in value.texts.items()}
    async for piece in filled(encode(value.shown), texts):
        out.write(piece)


async def _slice(text: bytes, turn: Turn, start: int) -> bytes:
    await turn()
    return text[start : start + PIECE_BYTES]


class JsonList:
    """JSON object with a list that is written entry by entry: `{"name":[…]}`."""

    def __init__(self, name: str, turn: Turn) -> None:
        self._turn, self._since_turn, self._last = turn, 0, 0
        self._out = io.BytesIO()
        self._out.write(b'{"%b":[' % name.encode())
        self._begin = self._out.tell()

    async def add(self, entry: Any) -> int:
        """Add an entry, which may be `WithTexts`. Returns its size in bytes."""
        out, self._last = self._out, self._out.tell()
        if self._last > self._begin:
            out.write(b",")
        start = out.tell()
        await write(out, entry, self._turn)
        size = out.tell() - start
        self._since_turn += size + ENTRY_BYTES
        if self._since_turn > PIECE_BYTES:
            self._since_turn = 0
            await self._turn()
        return size

    def drop_last(self) -> None:
        self._out.seek(self._last)
        self._out.truncate()

    def response(self, fields: Mapping[str, Any], headers: Iterable[Header] = ()) -> Response:
        """`fields`: the object's other fields."""
        self._out.write(b"]")
        self._out.write(b"," + encode(fields)[1:] if fields else b"}")
        return _response(self._out, headers)


async def long_json_response(
    context: AnyContext, value: Any, headers: Iterable[Header] = ()
) -> Response:
    """The JSON response with `value`, which may be `WithTexts`."""
    if isinstance(value, WithTexts) and context.request.method == "HEAD":
        return head_response(headers)
    out = io.BytesIO()  # getvalue() doesn't copy, unlike `join`
    await write(out, value, context.services.budgets.turn)
    return _response(out, headers)


def _response(out: io.BytesIO, headers: Iterable[Header]) -> Response:
    return Response(headers=[*headers, ("content-type", JSON)], body=out.getvalue())


def head_response(headers: Iterable[Header] = ()) -> Response:
    """The response to HEAD, without generating the JSON and so without a length (RFC 9110, 8.6)."""
    return Response(headers=[*headers, ("content-type", JSON)], body=_nothing())


async def _nothing() -> AsyncGenerator[bytes, None]:
    for piece in list[bytes]():
        yield piece
