"""Properties that the server's own parsers must have for arbitrary bytes. A broken property raises
an AssertionError.

Each target gets the module to test, so that a copy with a mistake can be tested in the same way.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import struct
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any, NamedTuple

import httptools
import msgspec

from quiltfn.api.app import REQUEST_ID
from quiltfn.api.http import parse
from quiltfn.guest import wire
from quiltfn.model.errors import BadRequest, Unprocessable
from quiltfn.native import compiled
from quiltfn.wire import FunctionChanges, NewFunction, NewInvocation

ORDINARY_HEADERS = {"host", "content-type", "content-length", "x-api-key", "authorization"}
ORDINARY_HEADERS |= {"x-request-id", "accept", "connection", "user-agent", "accept-encoding"}
ORDINARY_HEADERS |= {"accept-language", "sec-fetch-mode"}

# ------------------------------------------------------------------------------- a guest's frames

# The minimum and maximum payload of each kind, taken from docs/reference/guest-protocol.md, not
# from the decoder.
LENGTHS = {"H": (4, 4), "P": (4, 5125), "O": (9, 65544), "E": (9, 65544), "X": (40, 1064)}
LENGTHS |= {"T": (9, 65544), "Z": (8, 8), "D": (4, 4)}
FRAME_MAX = 8 + 65_544


class Read(NamedTuple):
    """The content of a stream: its events, followed by its error, if any."""

    events: list[tuple[Any, ...]]
    wrong: str | None
    rest: int


def read(stream: bytes) -> Read:
    """Decode a stream by a second implementation of the protocol."""
    events: list[tuple[Any, ...]] = []
    at = 0
    while len(stream) - at >= 8:
        kind = chr(stream[at])
        length = int.from_bytes(stream[at + 4 : at + 8], "little")
        low, high = LENGTHS.get(kind, (0, -1))
        if any(stream[at + 1 : at + 4]) or kind not in LENGTHS:
            return Read(events, "WireError", 0)
        if length > high:
            return Read(events, "FrameTooLong", 0)
        if length < low:
            return Read(events, "WireError", 0)
        if len(stream) - at - 8 < length:
            break
        body = stream[at + 8 : at + 8 + length]
        at += 8 + length
        if kind == "X" and int.from_bytes(body[8:12], "little") > 3:
            return Read(events, "WireError", 0)
        events.append(as_event(kind, body))
    return Read(events, None, len(stream) - at)


def as_event(kind: str, body: bytes) -> tuple[Any, ...]:
    if kind == "X":
        numbers = struct.unpack("<QIIQQQ", body[:40])
        return (kind, *numbers, body[40:].decode(errors="replace"))
    if kind in "OET":
        return (kind, int.from_bytes(body[:8], "little"), body[8:])
    if kind == "P":
        text, _, written = body[4:].partition(b"\0")
        errno = int.from_bytes(body[:4], "little")
        return (kind, errno, text.decode(errors="replace"), written)
    return (kind, int.from_bytes(body, "little"))


def as_told(event: wire.Event) -> tuple[Any, ...]:
    match event:
        case wire.Hello(version):
            return ("H", version)
        case wire.Specialised(errno, text, written):
            return ("P", errno, text, written)
        case wire.Result(nonce, "stdout", data):
            return ("T", nonce, data)
        case wire.Output(nonce, stream, data):
            return ("O" if stream == "stdout" else "E", nonce, data)
        case wire.End(nonce, kind, code, out, err, text, result):
            return ("X", nonce, int(kind), code, out, err, result, text)
        case wire.Clean(nonce):
            return ("Z", nonce)
        case wire.Socket(errno):
            return ("D", errno)


def decoder(data: bytes, it: Any = wire) -> None:
    """The decoder must give the same events however a stream is split. `data`: one byte that
    determines the split, then a guest's bytes.
    """
    seed, stream = data[:1], data[1:]
    wanted = read(stream)
    whole = fed(it, [stream])
    if whole.wrong is None:
        assert whole == wanted, "the whole stream gives other events"
    assert whole.wrong == wanted.wrong, f"{whole.wrong} instead of {wanted.wrong}"
    chance = random.Random(seed)
    loose = fed(it, cut(stream, chance, []))
    assert (loose.wrong, loose.rest) == (wanted.wrong, wanted.rest)
    assert loose.events == wanted.events[: len(loose.events)], "cut, it gives other events"
    assert loose.wrong or len(loose.events) == len(wanted.events), "cut, it gives fewer events"
    # A piece with an error yields no events. With one piece for each frame, all events are
    # reported.
    assert fed(it, cut(stream, chance, ends(stream))) == wanted, "cut at the ends of frames"
    if len(stream) <= 2000:
        assert fed(it, [stream[n : n + 1] for n in range(len(stream))]) == wanted, "byte by byte"


def ends(stream: bytes) -> list[int]:
    """The positions at which frames end, as far as their headers are valid."""
    found, at = [], 0
    while len(stream) - at >= 8:
        at = min(len(stream), at + 8 + int.from_bytes(stream[at + 4 : at + 8], "little"))
        found.append(at)
    return found


def cut(stream: bytes, chance: random.Random, at: list[int]) -> list[bytes]:
    """Split the data at the positions `at` and some others."""
    more = [chance.randrange(len(stream) + 1) for _ in range(chance.randrange(8))]
    edges = sorted([0, *at, *more, len(stream)])
    return [stream[a:b] for a, b in pairwise(edges)]


def fed(it: Any, pieces: list[bytes]) -> Read:
    """The decoder's results for a stream. Checks that it never holds a whole frame."""
    decoder, events = it.Decoder(), []
    kept = decoder._rest
    for n, piece in enumerate(pieces):
        try:
            # A copy of the module has its own classes, with the same names.
            found = decoder.feed(piece)
            events += [as_told(getattr(wire, type(e).__name__)(*fields(e))) for e in found]
        except it.WireError as error:
            for more in (b"", *pieces[n + 1 :], b"Z\0\0\0\x08\0\0\0" + b"\0" * 8):
                try:
                    decoder.feed(more)
                except it.WireError:
                    continue
                raise AssertionError("a decoder that has failed goes on") from None
            return Read(events, type(error).__name__, 0)
        assert decoder._rest is kept
        assert len(kept) < FRAME_MAX, "more than one frame is held"
    return Read(events, None, len(kept))


def fields(event: Any) -> list[Any]:
    return [getattr(event, one.name) for one in dataclasses.fields(event)]


# ------------------------------------------------------------------------------------ JSON bodies

DEPTH_MAX, VALUES_MAX, COUNTED_FROM = 32, 50_000, 64 * 1024
LONGEST_GROWN = 128 * 1024
# A dictionary with one member takes 240 bytes; the rest of the 400 is for msgspec and the
# exception.
BYTES_OF_A_VALUE, BYTES_OF_A_BODY_BYTE, BYTES_MORE = 400, 24, 1 << 20
OWN_REASONS = ("twice", "nests deeper", "more than 50000 values", "thousands of digits")


def long_json_body(data: bytes, it: Any = parse) -> None:
    """Like `json_body`, but for bodies that are longer than an input: `data` describes a text with
    a repeated piece. Also checks the memory.
    """
    body = grow(data)
    most = BYTES_MORE + BYTES_OF_A_BODY_BYTE * len(body) + BYTES_OF_A_VALUE * VALUES_MAX
    tracemalloc.start()
    try:
        with suppress(BadRequest):
            it.json_value(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= most, f"{peak} bytes of memory for {len(body)}"
    json_body(body, it)


def json_body(body: bytes, it: Any = parse) -> None:
    """Check that a second parser returns the same value, or confirms the refusal."""
    try:
        value = it.json_value(body)
    except BadRequest as refusal:
        check_refusal(body, str(refusal))
        return
    check_value(value, len(body))
    text = body.decode()
    plain = json.loads(text, object_pairs_hook=without_twins, parse_constant=no_constant)
    assert same(value, plain), "another value"
    check_shapes(value, it)


def grow(data: bytes) -> bytes:
    """Repeat a piece of a text. `data`: the number of repetitions (two bytes), the start of the
    piece and its length (one byte each), and the whole text.
    """
    times, start, length = int.from_bytes(data[:2], "little"), *data[2:4].ljust(2, b"\0")
    rest = data[4:]
    piece = rest[start : start + length]
    times = min(times, LONGEST_GROWN // max(1, len(piece)))
    return rest[:start] + piece * times + rest[start + length :]


def check_refusal(body: bytes, why: str) -> None:
    assert len(why) < 1000, "a refusal without end"
    why.encode()
    if not any(reason in why for reason in OWN_REASONS):
        try:
            msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return
        raise AssertionError(f"refused, and valid: {why}")


def check_value(value: Any, length: int) -> None:
    level, count = [value], 0
    for depth in range(DEPTH_MAX + 1):
        containers = [one for one in level if isinstance(one, dict | list)]
        assert depth < DEPTH_MAX or not containers, "it nests deeper than it may"
        count += len(level)
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                item.encode()
            if isinstance(item, float):
                assert not math.isnan(item)
            if isinstance(item, dict):
                below += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                below += item
        level = below
    # Names of members count like values; only the outermost value has no name.
    assert length <= COUNTED_FROM or count <= VALUES_MAX + 1, f"{count} values"


def same(first: Any, other: Any) -> bool:
    """Compare strictly: True is not 1."""
    return repr(first) == repr(other)


def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    assert len(names) == len(set(names)), "a key is there twice"
    return dict(pairs)


def no_constant(word: str) -> None:
    raise AssertionError(f"{word} is taken")


def check_shapes(value: Any, it: Any) -> None:
    for kind in (NewFunction, FunctionChanges):
        try:
            it.shape(value, kind)
        except Unprocessable as refusal:
            check_told(refusal)


def check_told(refusal: Unprocessable) -> None:
    """Check that the error can be sent, and is shorter than the input."""
    answer = msgspec.json.encode([str(refusal), refusal.details])
    assert len(answer) < 10_000, f"a refusal of {len(answer)} bytes"


# ---------------------------------------------------------------------------- ordinary invocations


class Heard:
    """The server's other parser's view of a request."""

    def __init__(self, data: bytes) -> None:
        self.target = self.body = b""
        self.headers: dict[str, str] = {}
        self.ends = 0
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(data)
        self.method, self.version = parser.get_method(), parser.get_http_version()
        self.keeps_alive = parser.should_keep_alive()

    def on_url(self, target: bytes) -> None:
        self.target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        assert name.lower().decode() not in self.headers, "a header is there twice"
        self.headers[name.lower().decode()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.ends += 1


def invocation(data: bytes) -> None:
    """What the native module takes for an ordinary invocation must be exactly that for the
    server's other parsers.
    """
    assert compiled is not None, "the native module is not built"
    found = compiled.request(data)
    if found is None:
        return
    is_by_name, function, host, key, request_id, payload = found
    heard = Heard(data)
    assert (heard.method, heard.version, heard.ends) == (b"POST", "1.1", 1)
    assert heard.keeps_alive, "the connection ends"
    path = f"/api/functions/{f'invoke/{function}' if is_by_name else f'{function}/invoke'}"
    assert heard.target == path.encode()
    headers = heard.headers
    assert set(headers) <= ORDINARY_HEADERS, "a header is not ordinary"
    assert len(data.partition(b"\r\n\r\n")[2]) == len(heard.body), "a part of the body is not read"
    bearer = headers.get("authorization", "")
    assert key == headers.get("x-api-key", bearer[7:] or None)
    assert not bearer or (bearer[:7].lower() == "bearer " and bearer[7:].strip() == key)
    assert (host, request_id) == (headers["host"], headers.get("x-request-id"))
    assert request_id is None or REQUEST_ID.fullmatch(request_id)
    assert headers.get("accept", "*/*").lower() in ("*/*", "application/json")
    assert headers.get("connection", "keep-alive").lower() == "keep-alive"
    if heard.body:
        assert headers["content-type"].lower() == "application/json"
        given = parse.shape(parse.json_value(heard.body), NewInvocation)
        wanted = None if payload is None else payload.decode()
        assert given == NewInvocation(payload=wanted), "the body means something else"
    else:
        assert payload is None


def reply(data: bytes) -> None:
    """What the native module takes for the end of an ordinary invocation must be exactly that for
    the other decoder.
    """
    assert compiled is not None, "the native module is not built"
    nonce = int.from_bytes(data[8:16], "little")
    found = compiled.reply(data, nonce)
    if found is not None:
        stream, output, is_clean = found
        pieces = [wire.Output(nonce, "stderr" if stream == "stderr" else "stdout", output)]
        end = wire.End(nonce, wire.ExitKind.EXITED, 0, 0, 0, "")
        wanted = [*(pieces if output else []), end, *([wire.Clean(nonce)] if is_clean else [])]
        events = [
            wire.Output(one.nonce, one.stream, one.data) if isinstance(one, wire.Result) else one
            for one in wire.Decoder().feed(data)
        ]
        assert events == wanted
    if compiled.clean(data, nonce):
        assert wire.Decoder().feed(data) == [wire.Clean(nonce)]


TARGETS: dict[str, Callable[..., None]] = {
    "decoder": decoder,
    "json": json_body,
    "long-json": long_json_body,
}
