"""The path of a request below `/fn/`, percent-encoded as it was sent.

Rule: a path is first split at its slashes, then decoded. So an encoded slash cannot lead to another
function, and no part is decoded twice.
"""

from functools import lru_cache
from urllib.parse import unquote, unquote_to_bytes

import msgspec

from quiltfn.model.errors import BadRequest
from quiltfn.model.url import PREFIX

DOTS = (b".", b"..")
# The maximum length of cached paths; clients request the same few paths repeatedly.
REMEMBERED_PATH = 128


class Target(msgspec.Struct, frozen=True):
    """`segments`: the path after `/fn`, split at its slashes, still encoded. `first` and `second`:
    the first two segments, decoded.
    """

    segments: tuple[str, ...]
    first: str
    second: str | None

    def prefix(self, segments: int) -> str:
        """The part of the path that names the function."""
        return PREFIX + "/".join(self.segments[:segments])

    def rest(self, segments: int) -> str:
        """The path within the function, still encoded; it begins with a slash."""
        return "/" + "/".join(self.segments[segments:])


def target_of(raw_path: str) -> Target | None:
    """Parses a path as it was sent; None: it is not below `/fn/`."""
    return (_remembered if len(raw_path) <= REMEMBERED_PATH else _target_of)(raw_path)


def _target_of(raw_path: str) -> Target | None:
    if not raw_path.startswith(PREFIX):
        return None
    first, *more = raw_path.removeprefix(PREFIX).split("/")
    return Target((first, *more), unquote(first), unquote(more[0]) if more else None)


_remembered = lru_cache(maxsize=1024)(_target_of)


def check_path(rest: str) -> None:
    """Raises `BadRequest` for a path that, in any decoding, could leave the directory in which it
    is looked up. `rest`: the path, still encoded.
    """
    if "." not in rest and "%" not in rest:
        return
    decoded = unquote_to_bytes(rest).replace(b"\\", b"/")
    if b"\0" in decoded:
        raise BadRequest("the path has a NUL")
    if any(segment in DOTS for segment in decoded.split(b"/")):
        raise BadRequest("the path has a segment . or .., perhaps encoded")
