"""A thread-safe `msgspec.convert`.

msgspec 0.22 crashes the process with a segmentation fault if two threads convert to the same type
for the first time simultaneously: one of them uses data that the other has not finished. So each
type is inspected once before its first use, by one thread at a time.
"""

import threading
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
_known: set[Any] = set()
_looking = threading.Lock()


def convert(value: Any, kind: type[T], *, strict: bool = True) -> T:
    """Converts `value` to the type `kind`. Raises `msgspec.ValidationError`."""
    if kind not in _known:
        with _looking:
            msgspec.json.Decoder(kind)
            _known.add(kind)
    return msgspec.convert(value, kind, strict=strict)
