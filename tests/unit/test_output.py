"""The output of a call in the order of arrival, read from any position, as text or bytes."""

from __future__ import annotations

import itertools
import random

import pytest

from quiltfn.model.output import (
    RUNS_MAX,
    STREAMS,
    Cursor,
    OutputLog,
    from_text,
    text_or_bytes,
    to_text,
)

START = {"stdout": 0, "stderr": 0}


def read_on(log: OutputLog, cursor: Cursor, most: int, *, is_live: bool) -> list[tuple[str, bytes]]:
    found = []
    while part := cursor.next(log.order, log.sizes, most, is_live=is_live):
        found.append((part.stream, log.read(part.stream, part.start, part.size)))
        cursor.advance(part.stream, part.size)
    return found


def joined(pieces: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Join adjacent pieces of the same stream."""
    grouped = itertools.groupby(pieces, lambda piece: piece[0])
    return [(stream, b"".join(data for _, data in some)) for stream, some in grouped]


@pytest.mark.parametrize("seed", range(20))
def test_a_reader_gets_every_byte_in_its_order_whenever_it_reads(seed: int) -> None:
    chance, log, cursor = random.Random(seed), OutputLog(), Cursor(START)
    written: list[tuple[str, bytes]] = []
    got: list[tuple[str, bytes]] = []
    for number in range(300):
        written.append((chance.choice(STREAMS), b"%d;" % number))
        log.append(*written[-1])
        if chance.random() < 0.2:
            got += read_on(log, cursor, chance.randint(1, 9), is_live=True)
    got += read_on(log, cursor, 5, is_live=False)
    assert joined(got) == joined(written)
    # The record has the same output as the log had.
    later = Cursor(START)
    order, parts = from_text(to_text(log.order)), []
    while part := later.next(order, log.sizes, 1000, is_live=False):
        parts.append((part.stream, log.read(part.stream, part.start, part.size)))
        later.advance(part.stream, part.size)
    assert joined(parts) == joined(written)


def test_behind_so_many_runs_the_streams_come_one_after_the_other() -> None:
    log = OutputLog()
    for _ in range(RUNS_MAX):
        log.append("stdout", b"o")
        log.append("stderr", b"e")
    assert len(log.order) == RUNS_MAX
    got = joined(read_on(log, Cursor(START), 10_000, is_live=False))
    assert got[:2] == [("stdout", b"o"), ("stderr", b"e")]
    half = RUNS_MAX // 2
    assert got[-2:] == [("stdout", b"o" * half), ("stderr", b"e" * half)]


def test_one_stream_alone_needs_no_order() -> None:
    log = OutputLog()
    log.append("stderr", b"one")
    log.append("stderr", b"two")
    assert to_text(log.order) is None
    assert from_text(None) == ()


def test_a_reader_of_one_stream_passes_over_the_other() -> None:
    log = OutputLog()
    for stream, data in (("stdout", b"a"), ("stderr", b"b"), ("stdout", b"c")):
        log.append(stream, data)
    cursor = Cursor(START, ("stdout",))
    assert read_on(log, cursor, 10, is_live=True) == [("stdout", b"a"), ("stdout", b"c")]


def test_a_reader_that_is_beyond_the_end_gets_nothing() -> None:
    """A reader may have got a result that was too large, and that the record therefore does not
    contain.
    """
    cursor = Cursor({"stdout": 6_000_000, "stderr": 0})
    assert cursor.next((), {"stdout": 0, "stderr": 0}, 10, is_live=False) is None


def test_a_taken_log_gives_the_bytes_it_had() -> None:
    log = OutputLog()
    log.append("stdout", b"one ")
    log.append("stdout", b"two")
    out, err = log.take()
    assert (out, err) == (b"one two", b"")
    assert log.read("stdout", 4, 10) == b"two"
    log.close()
    assert log.sizes == {"stdout": 0, "stderr": 0}


def test_watchers_hear_of_each_piece_and_of_the_end_until_they_leave() -> None:
    log, heard = OutputLog(), []

    def watcher() -> None:
        heard.append(log.is_closed)

    log.watch(watcher)
    log.append("stdout", b"a")
    log.close()
    log.unwatch(watcher)
    log.close()
    assert heard == [False, True]


@pytest.mark.parametrize(
    ("data", "is_open", "pieces"),
    [
        (b"plain", True, ["plain"]),
        ("é".encode(), False, ["é"]),
        (b"a\xc3", True, ["a"]),
        (b"a\xc3", False, ["a", b"\xc3"]),
        (b"\xf0\x9f\x98", True, []),
        (b"\xff\xfe", True, [b"\xff\xfe"]),
        (b"text\xffrest\xe2\x82", True, ["text", b"\xffrest"]),
        (b"text\xffrest\xe2\x82", False, ["text", b"\xffrest\xe2\x82"]),
        (b"\x80", True, [b"\x80"]),
    ],
)
def test_text_and_bytes_are_split(data: bytes, is_open: bool, pieces: list[str | bytes]) -> None:
    assert text_or_bytes(data, is_open=is_open) == pieces


@pytest.mark.parametrize("size", range(1, 8))
def test_no_character_is_split_wherever_the_pieces_end(size: int) -> None:
    data, at, got = "aé€😀".encode() * 3, 0, ""
    size = max(size, 4)
    while at < len(data):
        for piece in text_or_bytes(data[at : at + size], is_open=at + size < len(data)):
            assert isinstance(piece, str)
            got, at = got + piece, at + len(piece.encode())
    assert got == data.decode()
