"""Cursors: the end of a page, as an opaque text that the caller sends to get the next page."""

import base64
import binascii
import re

from quiltfn.model.errors import Unprocessable

ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Ids are hexadecimal, so these sort before and after all of them under any collation.
BEFORE_EVERY_ID, AFTER_EVERY_ID = "", "g"


def first_id(unix_s: int) -> str:
    """A text that sorts before every id created in that second or later. Ids are UUIDv7."""
    digits = f"{max(0, unix_s) * 1000:012x}"
    return f"{digits[:8]}-{digits[8:]}"


def minute_before(last_id: str) -> str:
    """A text that sorts before every id created within the minute before `last_id`."""
    made_ms = int(last_id[:8] + last_id[9:13], 16)
    return first_id(made_ms // 1000 - 60)


def to_cursor(last: str) -> str:
    """A cursor that continues after the item with this id, or, in a list that is not in the order
    of ids, after the place that `last` describes.
    """
    return base64.urlsafe_b64encode(last.encode()).decode().rstrip("=")


def from_cursor(cursor: str | None, start: str, form: re.Pattern[str] = ID) -> str:
    """The id or place to continue after, which must match `form`; `start` without a cursor. Raises
    `Unprocessable` if the cursor is invalid.
    """
    if cursor is None:
        return start
    found = text_of(cursor)
    if not form.fullmatch(found):
        raise no_cursor(cursor)
    return found


def text_of(cursor: str) -> str:
    """The decoded text of a cursor, not validated; empty if it cannot be decoded."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        return base64.b64decode(padded.encode(), b"-_", validate=True).decode()
    except (UnicodeError, binascii.Error):
        return ""


def no_cursor(cursor: str) -> Unprocessable:
    """The error for a cursor that does not come from a page of the list."""
    return Unprocessable.field("cursor", "a next_cursor as an earlier page gave it", cursor)
