"""How many values a JSON text holds, told before any of them is made.

Python needs some 200 bytes for a value that is two bytes of JSON, so values are counted in every
text that is long enough for it to matter.
"""

COUNTED_FROM_BYTES = 64 * 1024


def has_more_values(text: bytes, most: int) -> bool:
    """Whether a text of more than 64 KiB has more than `most` values. What is no JSON may count as
    anything.
    """
    if len(text) <= COUNTED_FROM_BYTES:
        return False
    if _count(text, b'",[{') <= most:
        return False  # even if none of them stood within a string
    without_escapes = text.replace(rb"\\", b"").replace(rb"\"", b"")
    parts = without_escapes.split(b'"', 2 * most + 2)  # each second one is a string
    return len(parts) // 2 + _count(b"".join(parts[::2]), b",[{") > most


def _count(text: bytes, marks: bytes) -> int:
    """In one pass, however many there are."""
    return len(text) - len(text.translate(None, marks))
