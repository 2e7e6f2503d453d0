"""The maximum size of output as JSON."""

import msgspec
import pytest

from promises import promise
from quiltfn.api.http.text_size import PIECE_BYTES, TEXT_FACTOR, text_size

pytestmark = promise("A22")

SIZE = 3 * PIECE_BYTES
# The output, and by which factor the counted size may exceed the real one. Each byte that is not
# ASCII may be invalid UTF-8, which takes more.
OUTPUTS = {
    "control": (b"\1", 1.01),
    "text": (b"x", 1.01),
    "escaped": (b'"\\', 1.01),
    "del": (b"\x7f", 1.01),
    "not UTF-8": (b"\xff", 1.01),
    "not UTF-8, and control": (b"\xff\1", 1.01),
    "cut off": (b"\xf0\x90", 2.01),
    "two bytes": ("\xe9".encode(), 3.01),
    "three bytes": ("\u4e2d".encode(), 3.01),
    "four bytes": ("\U0001f600".encode(), 3.01),
    "line separator": ("\u2028".encode(), 3.01),
    "one wide character": (b"x" * (SIZE - 4) + "\U0001f600".encode(), 1.01),
}


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("beginning", [b"", b"x", b"xx", b"\xe4"])  # pieces end within characters
def test_output_takes_no_more_than_is_counted(kind: str, beginning: bytes) -> None:
    part, too_much = OUTPUTS[kind]
    output = beginning + part * (SIZE // len(part))
    takes = len(msgspec.json.encode(output.decode("utf-8", "replace")))
    assert takes - len('""') <= text_size(output) <= takes * too_much
    assert text_size(output) <= TEXT_FACTOR * len(output)
    assert text_size(b"") == 0
