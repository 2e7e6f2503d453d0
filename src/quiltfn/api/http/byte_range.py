"""Byte ranges of responses (RFC 9110, section 14)."""

import re

from quiltfn.model.errors import RangeNotSatisfiable

OCTETS = "application/octet-stream"
ONE = re.compile(r"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*")


def part_of(size: int, wanted: str | None) -> tuple[int, int] | None:
    """The offset of the first byte, and the offset after the last byte. None: the whole body.

    A header that is not a byte range, or has several ranges, is ignored, as the standard allows.
    Raises `RangeNotSatisfiable` for a range that begins after the end.
    """
    found = ONE.fullmatch(wanted or "")
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if first == "":
        if int(last) == 0:
            raise RangeNotSatisfiable.beyond(size)
        return (max(0, size - int(last)), size) if size else None
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        raise RangeNotSatisfiable.beyond(size)
    return int(first), min(size, int(last) + 1) if last else size
