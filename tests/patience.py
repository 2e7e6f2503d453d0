"""How long a test waits on this machine.

Bounds in seconds are written for a machine whose processor runs the code itself. On an emulated one
everything takes longer by about one factor, which whoever made the machine knows and says in
QUILTFN_TEST_PATIENCE (`scripts/machine.py`). Everywhere else the factor is 1 and a bound is what is
written.
"""

import os

FACTOR = float(os.environ.get("QUILTFN_TEST_PATIENCE") or 1)


def patient(seconds: float) -> float:
    """What takes so many seconds elsewhere may take that long here."""
    return seconds * FACTOR
