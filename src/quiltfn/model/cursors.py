"""Cursors: the end of a page, as an opaque text that the caller sends back for the next."""

import base64
import binascii
import re

from quiltfn.model.errors import Unprocessable

ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Ids are hexadecimal, so these sort before and after all of them under any collation.
BEFORE_EVERY_ID, AFTER_EVERY_ID = "", "g"


def first_id(unix_s: int) -> str:
    """Sorts directly before every id made in that second or later. Ids are UUIDv7."""
    digits = f"{max(0, unix_s) * 1000:012x}"
    return f"{digits[:8]}-{digits[8:]}"


def minute_before(last_id: str) -> str:
    """Sorts before every id that was made within the minute before the one given."""
    made_ms = int(last_id[:8] + last_id[9:13], 16)
    return first_id(made_ms // 1000 - 60)


def to_cursor(last_id: str) -> str:
    """A cursor that continues after the item with this id."""
    return base64.urlsafe_b64encode(last_id.encode()).decode().rstrip("=")


def from_cursor(cursor: str | None, start: str) -> str:
    """The id to continue after; `start` without a cursor. Raises `Unprocessable` for anything that
    `to_cursor` did not make.
    """
    if cursor is None:
        return start
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        found = base64.b64decode(padded.encode(), b"-_", validate=True).decode()
    except (UnicodeError, binascii.Error):
        found = ""
    if not ID.fullmatch(found):
        raise Unprocessable.field("cursor", "a next_cursor as an earlier page gave it", cursor)
    return found
