"""How many values a JSON text holds, told before any of them is made.

Python needs some 200 bytes for a value that is two bytes of JSON, so values are counted in every
text that is long enough for it to matter.
"""

import re

COUNTED_FROM_BYTES = 64 * 1024
# One that does not end reaches to the end of the text: else each quote in it would be tried as the
# beginning of another.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)


def has_more_values(text: bytes, most: int) -> bool:
    """Whether a text of more than 64 KiB has more than `most` values. What is no JSON may count as
    anything.
    """
    if len(text) <= COUNTED_FROM_BYTES:
        return False
    if text.count(b'"') + _separators(text, 0, len(text)) <= most:
        return False  # even if none of them stood within a string
    count, at = 0, 0
    for string in _STRING.finditer(text):
        count += 1 + _separators(text, at, string.start())
        at = string.end()
        if count > most:
            return True
    return count + _separators(text, at, len(text)) > most


def _separators(text: bytes, start: int, end: int) -> int:
    return sum(text.count(mark, start, end) for mark in (b",", b"[", b"{"))
