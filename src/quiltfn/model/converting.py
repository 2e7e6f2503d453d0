"""`msgspec.convert`, for more than one thread.

msgspec 0.22 ends the process with a fault of memory where two threads convert to the same type for
the first time at once: one of them finds what the other has not finished. So one thread at a time
has a type looked at, once, before it is used.
"""

import threading
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
_known: set[Any] = set()
_looking = threading.Lock()


def convert(value: Any, kind: type[T], *, strict: bool = True) -> T:
    """`value` as a `kind`. Raises `msgspec.ValidationError`."""
    if kind not in _known:
        with _looking:
            msgspec.json.Decoder(kind)
            _known.add(kind)
    return msgspec.convert(value, kind, strict=strict)
