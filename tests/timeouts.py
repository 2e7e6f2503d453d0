"""How long a test waits on this machine.

Bounds in seconds are written for a processor that runs the code itself. An emulated one takes
longer by about one factor: whoever made the machine sets it in QUILTFN_TEST_TIME_FACTOR
(`scripts/machine.py`). Everywhere else the factor is 1.
"""

import os

FACTOR = float(os.environ.get("QUILTFN_TEST_TIME_FACTOR") or 1)


def scaled(seconds: float) -> float:
    """`seconds` times this machine's factor."""
    return seconds * FACTOR
