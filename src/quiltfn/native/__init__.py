"""The forms of ordinary invocations in bytes, in C: requests, frames of guests, and responses.

`compiled` is None if the library was not built or does not fit this Python. The server then runs
without it.
"""

try:
    from quiltfn.native import compiled
except ImportError:
    compiled = None  # type: ignore[assignment]

__all__ = ["compiled"]
