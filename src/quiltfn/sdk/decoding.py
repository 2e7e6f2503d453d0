"""Typed JSON decoding for clients that several threads share.

msgspec 0.22 crashes the process with a segmentation fault if two threads make a decoder of the same
type for the first time simultaneously: one thread uses the decoder that the other has not finished.
"""

import functools
import threading
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
_lock = threading.Lock()


def decode(data: bytes, shape: type[T]) -> T:
    """Decodes `data` as a `shape`. Raises `msgspec.DecodeError`."""
    hashable: Any = shape
    value: T = _decoder(hashable).decode(data)
    return value


@functools.cache
def _decoder(shape: Any) -> msgspec.json.Decoder[Any]:
    with _lock:
        return msgspec.json.Decoder(shape)
