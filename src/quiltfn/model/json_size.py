"""Estimates the cost of parsing a JSON text before parsing it.

For two bytes of JSON, Python may need a value of some 200 bytes, and the time for a number grows
with the square of its digits. So both are checked in every text that is long enough to matter.
"""

COUNTED_FROM_BYTES = 64 * 1024
# No realistic number has more digits. Texts from 8 KiB on could contain several numbers of 4,300
# digits.
DIGITS_MAX = 100
DIGITS_FROM_BYTES = 8 * 1024
_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_LONG = b"0" * (DIGITS_MAX + 1)


def is_costly(text: bytes, most: int) -> bool:
    """Whether a long text has more than `most` values, or a number of more than `DIGITS_MAX`
    digits. For a text that is not JSON the result is arbitrary.
    """
    if len(text) <= DIGITS_FROM_BYTES:
        return False
    has_many = len(text) > COUNTED_FROM_BYTES and _count(text, b'",[{') > most
    if not has_many and _LONG not in text.translate(_AS_ZEROS):
        return False  # not too many even if all marks were outside of strings
    without_escapes = text.replace(rb"\\", b"").replace(rb"\"", b"")
    parts = without_escapes.split(b'"', 2 * most + 2)  # every second part is a string
    if has_many and len(parts) // 2 > most:
        return True  # before another copy of a long text
    outside = b"\n".join(parts[::2])
    has_many = has_many and len(parts) // 2 + _count(outside, b",[{") > most
    return has_many or _LONG in outside.translate(_AS_ZEROS)


def costs(most: int) -> str:
    """Why a text was refused: the limits that it exceeds."""
    return f"more than {most} values, or a number of more than {DIGITS_MAX} digits"


def _count(text: bytes, marks: bytes) -> int:
    """Counts the marks in one pass."""
    return len(text) - len(text.translate(None, marks))
