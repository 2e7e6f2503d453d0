"""The last output of a program that did not start, in the error."""

import pytest

from quiltfn.sandbox.last_words import LAST_WORDS_BYTES, LINE_MAX, refused, with_last_line


@pytest.mark.parametrize(
    ("written", "line", "below"),
    [
        (b"", "it ended", ""),
        (b" \n\n", "it ended", ""),
        (b"no luck\n", "it ended: no luck", ""),
        (b"a\n  b\r\n", "it ended: b", "a\n  b"),
        (b"\xff\0", "it ended: \ufffd\ufffd", ""),
    ],
)
def test_the_last_line_is_in_the_sentence_above_all(written: bytes, line: str, below: str) -> None:
    assert with_last_line("it ended", written) == line
    error = refused(line, written)
    assert (str(error), error.written) == (line, below)


def test_of_long_output_the_last_whole_lines_are_kept_or_the_end_of_one() -> None:
    written = "".join(f"line {number} ü\n" for number in range(2000)).encode()
    below = refused("it ended", written).written.split("\n")
    assert (below[-1], below[0][:5]) == ("line 1999 ü", "line ")
    assert LAST_WORDS_BYTES - 20 < len("\n".join(below).encode()) <= LAST_WORDS_BYTES
    written = b"x" * 10_000 + b"end"
    kept = refused("it ended", written).written
    assert kept.endswith("end")
    assert len(kept) <= LAST_WORDS_BYTES
    assert with_last_line("it ended", written) == f"it ended: {'x' * (LINE_MAX - 3)}end"
