"""What output takes at most while it is made into an answer."""

import sys

import msgspec
import pytest

from promises import promise
from quiltfn.api.http.text_size import PIECE_BYTES, text_size

pytestmark = promise("A22")

SIZE = 3 * PIECE_BYTES
OBJECT_BYTES = 256  # a `str` has a head of its own
# By how much more than it takes it may count: the widest characters are assumed beyond ASCII.
OUTPUTS = {
    "control": (b"\1", 1.01),
    "text": (b"x", 1.01),
    "escaped": (b'"\\', 1.01),
    "del": (b"\x7f", 1.01),
    "not UTF-8": (b"\xff", 1.3),
    "not UTF-8, and control": (b"\xff\1", 1.3),
    "cut off": (b"\xf0\x90", 1.3),
    "two bytes": ("\xe9".encode(), 1.7),
    "three bytes": ("\u4e2d".encode(), 1.3),
    "four bytes": ("\U0001f600".encode(), 1.01),
    "line separator": ("\u2028".encode(), 1.3),
    "one wide character": (b"x" * (SIZE - 4) + "\U0001f600".encode(), 1.01),
}


@pytest.mark.parametrize("what", OUTPUTS)
@pytest.mark.parametrize("beginning", [b"", b"x", b"xx", b"\xe4"])  # pieces end within characters
def test_output_takes_no_more_than_is_counted(what: str, beginning: bytes) -> None:
    part, too_much = OUTPUTS[what]
    output = beginning + part * (SIZE // len(part))
    text = output.decode("utf-8", "replace")
    json = msgspec.json.encode(text)  # the text has its UTF-8 beside it from now on
    takes = sys.getsizeof(text) + len(json)
    assert takes - OBJECT_BYTES <= text_size(output)
    if not beginning.startswith(b"\xe4"):
        assert text_size(output) <= takes * too_much


def test_no_output_takes_nothing() -> None:
    assert text_size(b"") == 0
