"""The command line, on top of the client library."""

import sys

# If typing_extensions is installed, msgspec uses it to read types. Loading it takes a fifth of a
# command's time, and Python's own `typing` has everything that is needed here.
_is_loaded = "typing_extensions" in sys.modules
if not _is_loaded:
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
try:
    import msgspec  # noqa: F401
finally:
    if not _is_loaded:
        del sys.modules["typing_extensions"]

from quiltfn.cli.program import main  # noqa: E402
from quiltfn.cli.root import run  # noqa: E402

__all__ = ["main", "run"]
