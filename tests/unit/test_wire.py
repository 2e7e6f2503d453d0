"""The frame codec: bytes in, events out."""

from __future__ import annotations

import struct
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promises import promise
from quiltfn.guest import wire
from quiltfn.guest.wire import (
    KEEP_STATE,
    KEEP_TMP,
    RESIDENT,
    SERVER,
    Clean,
    Decoder,
    End,
    Event,
    ExitKind,
    FrameTooLong,
    Hello,
    Output,
    Result,
    Socket,
    Specialised,
    WireError,
    encode_call,
    encode_prepare,
    encode_specialise,
)

pytestmark = promise("F20")

nonces = st.integers(0, wire.NONCE_MAX)
u32 = st.integers(0, 0xFFFF_FFFF)
texts = st.text(max_size=60)
strings = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
codes, dropped = st.integers(0, wire.CODE_MAX), st.integers(0, wire.DROPPED_MAX)
events = st.one_of(
    st.builds(Hello, u32),
    st.builds(Specialised, u32, strings, st.binary(max_size=60)),
    st.builds(
        Output, nonces, st.sampled_from(["stdout", "stderr"]), st.binary(min_size=1, max_size=300)
    ),
    st.builds(Result, nonces, st.just("stdout"), st.binary(min_size=1, max_size=300)),
    st.builds(End, nonces, st.sampled_from(ExitKind), codes, dropped, dropped, texts, dropped),
    st.builds(Clean, nonces),
    st.builds(Socket, u32),
)
names = strings.filter(lambda name: name != "" and "=" not in name)


def frame(kind: str, payload: bytes) -> bytes:
    return struct.pack("<B3xI", ord(kind), len(payload)) + payload


def as_guest(event: Event) -> bytes:
    """The frame that a guest sends for an event; written from the reference page, not from the
    decoder.
    """
    match event:
        case Hello(version):
            return frame("H", struct.pack("<I", version))
        case Specialised(errno, text, written):
            behind = b"\0" + written if written else b""
            return frame("P", struct.pack("<I", errno) + text.encode() + behind)
        case Result(nonce, "stdout", data):
            return frame("T", struct.pack("<Q", nonce) + data)
        case Output(nonce, stream, data):
            return frame("O" if stream == "stdout" else "E", struct.pack("<Q", nonce) + data)
        case End(nonce, kind, code, out, err, text, result):
            numbers = struct.pack("<QIIQQQ", nonce, kind, code, out, err, result)
            return frame("X", numbers + text.encode())
        case Socket(errno):
            return frame("D", struct.pack("<I", errno))
        case Clean(nonce):
            return frame("Z", struct.pack("<Q", nonce))


@given(st.lists(events, max_size=8), st.lists(st.integers(0, 2000), max_size=12))
def test_any_splitting_of_the_stream_gives_the_same_events(sent, cuts):
    stream = b"".join(map(as_guest, sent))
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    decoder, got = Decoder(), []
    for start, end in pairwise(edges):
        got += decoder.feed(stream[start:end])
    assert got == sent


@given(st.lists(events, max_size=4))
def test_a_stream_cut_into_single_bytes_gives_the_same_events(sent):
    decoder, got = Decoder(), []
    for byte in b"".join(map(as_guest, sent)):
        got += decoder.feed(bytes([byte]))
    assert got == sent


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_garbage_raises_nothing_but_wire_error(pieces):
    decoder = Decoder()
    with suppress(WireError):
        for piece in pieces:
            decoder.feed(piece)


@given(st.lists(events, min_size=1, max_size=4), st.data())
def test_a_damaged_stream_raises_nothing_but_wire_error(sent, data):
    stream = bytearray(b"".join(map(as_guest, sent)))
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    with suppress(WireError):
        Decoder().feed(bytes(stream))


def test_the_longest_output_is_accepted_and_one_byte_more_is_not():
    longest = Output(1, "stdout", b"x" * wire.OUTPUT_MAX)
    assert Decoder().feed(as_guest(longest)) == [longest]
    too_long = as_guest(Output(1, "stdout", b"x" * (wire.OUTPUT_MAX + 1)))
    for header in (too_long[:8], struct.pack("<B3xI", ord("X"), 0xFFFF_FFFF)):
        with pytest.raises(FrameTooLong):
            Decoder().feed(header)


@pytest.mark.parametrize(
    "bad",
    [
        frame("S", b"\0" * 12),  # only hosts send this frame
        frame("\0", b""),
        frame("H", b"\1\0\0"),
        frame("Z", b"\0" * 9),
        frame("O", b"\0" * 8),  # the frame has no output
        b"Z\1\0\0" + struct.pack("<IQ", 8, 1),  # the reserved bytes are not zero
        frame("X", struct.pack("<QIIQQQ", 1, 0, wire.CODE_MAX + 1, 0, 0, 0)),
        frame("X", struct.pack("<QIIQQQ", 1, 0, 0, wire.DROPPED_MAX + 1, 0, 0)),
        frame("X", struct.pack("<QIIQQQ", 1, 0, 0, 0, wire.DROPPED_MAX + 1, 0)),
        frame("X", struct.pack("<QIIQQQ", 1, 0, 0, 0, 0, wire.DROPPED_MAX + 1)),
        frame("X", struct.pack("<QIIQQQ", 1, 4, 0, 0, 0, 0)),  # there is no such way of ending
        frame("X", struct.pack("<QIIQQ", 1, 0, 0, 0, 0)),  # the last number is missing
    ],
)
def test_what_no_guest_sends_is_refused(bad):
    with pytest.raises(WireError):
        Decoder().feed(bad)


def test_a_decoder_that_has_raised_goes_on_raising():
    decoder = Decoder()
    with pytest.raises(WireError):
        decoder.feed(b"????????")
    with pytest.raises(WireError):
        decoder.feed(as_guest(Clean(1)))


def test_text_that_is_not_utf_8_is_replaced():
    [event] = Decoder().feed(frame("P", struct.pack("<I", 2) + b"no \xff"))
    assert event == Specialised(2, "no \ufffd")


class Reader:
    """Reads a host's frame as a guest does."""

    def __init__(self, data: bytes, kind: str) -> None:
        found, length = struct.unpack_from("<II", data)
        assert found == ord(kind)
        assert length == len(data) - 8
        self.data, self.at = data, 8

    def number(self, code: str) -> int:
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def blob(self) -> str:
        length = self.number("I")
        self.at += length
        return self.data[self.at - length : self.at].decode()

    def blobs(self) -> list[str]:
        return [self.blob() for _ in range(self.number("I"))]

    def rest(self) -> bytes:
        return self.data[self.at :]


def test_a_prepare_frame_reads_back_and_is_bounded() -> None:
    reader = Reader(encode_prepare(argv=["/a", "b"], environment={"X": "1", "Y": ""}), "R")
    assert reader.blobs() == ["/a", "b"]
    assert reader.blobs() == ["X=1", "Y="]
    with pytest.raises(WireError):
        encode_prepare(argv=[], environment={})
    with pytest.raises(FrameTooLong):
        encode_prepare(argv=["x" * 100_000] * 3, environment={})


@given(
    st.lists(strings, min_size=1, max_size=5),
    strings,
    st.dictionaries(names, strings, max_size=5),
    st.sampled_from([0, KEEP_TMP, RESIDENT, RESIDENT | KEEP_STATE, SERVER, SERVER | KEEP_TMP]),
)
def test_a_specialise_frame_reads_back(argv, cwd, environment, flags):
    reader = Reader(
        encode_specialise(argv=argv, cwd=cwd, environment=environment, flags=flags), "S"
    )
    assert reader.number("I") == flags
    assert reader.blob() == cwd
    assert reader.blobs() == argv
    assert reader.blobs() == [f"{name}={value}" for name, value in environment.items()]
    assert reader.rest() == b""


@given(
    nonces,
    u32,
    st.dictionaries(names, strings, max_size=5),
    st.none() | st.binary(max_size=100),
    st.tuples(st.booleans(), st.booleans()),
)
def test_a_call_frame_reads_back(nonce, timeout_ms, environment, payload, flags):
    reader = Reader(
        encode_call(
            nonce=nonce,
            timeout_ms=timeout_ms,
            environment=environment,
            payload=payload,
            env_replaces=flags[0],
            is_followed=flags[1],
        ),
        "C",
    )
    assert reader.number("Q") == nonce
    assert reader.number("I") == timeout_ms
    assert reader.number("I") == (payload is not None) + 2 * flags[0] + 4 * flags[1]
    env_bytes = reader.number("I")
    before = reader.at
    assert reader.blobs() == [f"{name}={value}" for name, value in environment.items()]
    assert reader.at - before == env_bytes
    assert reader.rest() == (payload or b"")


def test_the_largest_payload_fits_and_one_byte_more_does_not():
    room = wire.CALL_MAX - 20 - 4
    assert len(encode_call(nonce=0, timeout_ms=1, environment={}, payload=b"x" * room)) == (
        8 + wire.CALL_MAX
    )
    with pytest.raises(FrameTooLong):
        encode_call(nonce=0, timeout_ms=1, environment={}, payload=b"x" * (room + 1))


@pytest.mark.parametrize(
    ("environment", "error"),
    [
        ({"": "x"}, WireError),
        ({"A=B": "x"}, WireError),
        ({"A": "x\0y"}, WireError),
        ({"A": "\ud800"}, WireError),
        ({"A": "x" * (wire.STRING_MAX - 1)}, FrameTooLong),
        ({f"A{i}": "x" * 100_000 for i in range(3)}, FrameTooLong),
        ({f"A{i}": "" for i in range(wire.STRINGS_MAX + 1)}, FrameTooLong),
    ],
)
def test_variables_no_process_can_be_given_are_refused(environment, error):
    with pytest.raises(error):
        encode_call(nonce=0, timeout_ms=1, environment=environment)
    with pytest.raises(error):
        encode_specialise(argv=["x"], cwd="/", environment=environment)
    longest = {"A": "x" * (wire.STRING_MAX - 2)}  # control: the longest allowed value
    encode_call(nonce=0, timeout_ms=1, environment=longest)


@pytest.mark.parametrize(
    "numbers",
    [
        {"nonce": -1, "timeout_ms": 1},
        {"nonce": 2**64, "timeout_ms": 1},
        {"nonce": 0, "timeout_ms": -1},
        {"nonce": 0, "timeout_ms": 2**32},
    ],
)
def test_numbers_beyond_their_fields_are_refused(numbers):
    with pytest.raises(WireError):
        encode_call(environment={}, **numbers)


def test_a_function_without_arguments_is_refused():
    with pytest.raises(WireError):
        encode_specialise(argv=[], cwd="/", environment={})
