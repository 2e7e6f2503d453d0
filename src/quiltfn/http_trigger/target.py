"""The path of a request below `/fn/`, as it was sent: percent-encoded.

Rule: a path is split where it was sent with a slash, and decoded then. So no encoded slash makes
another function of a path, and none of it is decoded twice.
"""

from functools import lru_cache
from urllib.parse import unquote, unquote_to_bytes

import msgspec

from quiltfn.model.errors import BadRequest
from quiltfn.model.url import PREFIX

DOTS = (b".", b"..")
# Paths up to here are split once; clients ask for the same few again and again.
REMEMBERED_PATH = 128


class Target(msgspec.Struct, frozen=True):
    """`segments`: the path behind `/fn`, split at its slashes, still encoded. `first` and `second`:
    of these, decoded.
    """

    segments: tuple[str, ...]
    first: str
    second: str | None

    def prefix(self, segments: int) -> str:
        """What of the path names the function."""
        return PREFIX + "/".join(self.segments[:segments])

    def rest(self, segments: int) -> str:
        """The path within the function, still encoded; it begins with a slash."""
        return "/" + "/".join(self.segments[segments:])


def target_of(raw_path: str) -> Target | None:
    """None: the path, as it was sent, is not below `/fn/`."""
    return (_remembered if len(raw_path) <= REMEMBERED_PATH else _target_of)(raw_path)


def _target_of(raw_path: str) -> Target | None:
    if not raw_path.startswith(PREFIX):
        return None
    first, *more = raw_path.removeprefix(PREFIX).split("/")
    return Target((first, *more), unquote(first), unquote(more[0]) if more else None)


_remembered = lru_cache(maxsize=1024)(_target_of)


def check_path(rest: str) -> None:
    """Raises `BadRequest` for a path that would climb out of where it is looked for once it is
    decoded, however it was written. `rest`: still encoded.
    """
    if "." not in rest and "%" not in rest:
        return
    decoded = unquote_to_bytes(rest).replace(b"\\", b"/")
    if b"\0" in decoded:
        raise BadRequest("the path holds a NUL")
    if any(segment in DOTS for segment in decoded.split(b"/")):
        raise BadRequest("the path holds a segment . or .., perhaps encoded")
