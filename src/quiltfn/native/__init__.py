"""The forms of ordinary invocations in bytes, in C: requests, frames of guests, and responses.

`compiled` is None if the library was not built or does not fit this Python. The server then runs
without it. A Python without a global lock would load the library although it does not fit.
"""

import sys

try:
    if "t" in sys.abiflags:
        raise ImportError
    from quiltfn.native import compiled
except ImportError:
    compiled = None  # type: ignore[assignment]

__all__ = ["compiled"]
