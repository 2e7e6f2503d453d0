"""Values are counted before they are created, in time linear in the text's length."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltfn.model.json_size import COUNTED_FROM_BYTES, DIGITS_FROM_BYTES, DIGITS_MAX, is_costly
from timeouts import scaled

LENGTH = 256 * 1024
# Without strings, texts of this length take a thousandth of this time.
TAKES_AT_MOST_S = 0.04
TEXT = st.text(st.sampled_from('ab"\\,[{]}\x01é'))
VALUE: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


@pytest.mark.parametrize(
    "piece",
    [
        b'\\"',
        b'"',
        b"\\",
        b'"\\',
        b'""',
        b'{"',
        b"[",
        b'"a":"\\u',
        b'"",',
        b"1",
        b"1" * DIGITS_MAX + b",",
    ],
)
@pytest.mark.parametrize("head", [b"", b'{"a":"', b'"'])
def test_no_text_takes_long_to_count(head: bytes, piece: bytes) -> None:
    """Counting runs in the event loop, so it must never take long. An unterminated string is the
    worst case.
    """
    text = head + piece * (LENGTH // len(piece))
    began = time.process_time()
    is_costly(text, 50_000)
    is_costly(text, 1 << 40)
    assert time.process_time() - began < scaled(TAKES_AT_MOST_S)


def values_in(value: Any) -> int:
    inner = [*value, *value.values()] if isinstance(value, dict) else value
    return 1 + sum(map(values_in, inner)) if isinstance(inner, list) else 1


def strings_in(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(strings_in, value.values()))
    return sum(map(strings_in, value)) if isinstance(value, list) else isinstance(value, str)


@given(VALUE)
def test_every_value_is_counted(value: Any) -> None:
    """The count may be too large, by the number of separators, but never too small."""
    text = json.dumps(value).encode()
    padded = text + b" " * COUNTED_FROM_BYTES
    count = next(most for most in range(10_000) if not is_costly(padded, most))
    assert values_in(value) <= count + 1 <= values_in(value) * 2 + strings_in(value) + 1


@pytest.mark.parametrize(
    ("text", "is_long"),
    [
        ("[" + ",".join(["7" * (DIGITS_MAX + 1)] * 100) + "]", True),
        ('{"a":"\\"1","b":' + "12" * DIGITS_MAX + "}", True),
        ('{"a":0.' + "3" * (DIGITS_MAX + 1) + "}", True),
        ("[" + ",".join(["7" * DIGITS_MAX] * 100) + "]", False),
        ('["' + "1" * 10_000 + '"]', False),  # a string of digits is not a number
        ('["\\\\","' + "1" * 10_000 + '\\""]', False),
    ],
)
def test_a_number_that_takes_python_long_is_found(text: str, *, is_long: bool) -> None:
    """The time that Python takes for a number grows with the square of its digits."""
    json.loads(text)
    assert is_costly(text.encode() + b" " * DIGITS_FROM_BYTES, 50_000) is is_long
