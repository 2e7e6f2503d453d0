"""How long a test waits on this machine.

Seconds in a test are written for a processor that runs the code itself and has nothing else to do.
Two variables say otherwise, and each is 1 where it is not set:

- QUILTFN_TEST_TIME_FACTOR: an emulated processor takes longer by about one factor. Whoever made the
  machine sets it (`scripts/machine.py`). All that a test waits for is so much longer.
- QUILTFN_TEST_BUSY_FACTOR: other tests run beside this one. `scripts/test` sets it. A bound that a
  test reaches only when it fails is so much longer; what it waits for in any case is not, so that
  no test that passes takes longer for it.
"""

import os

FACTOR = float(os.environ.get("QUILTFN_TEST_TIME_FACTOR") or 1)
BUSY_FACTOR = float(os.environ.get("QUILTFN_TEST_BUSY_FACTOR") or 1)


def scaled(seconds: float) -> float:
    """How long something may take that takes at most `seconds` where nothing else runs: an upper
    bound, or the time after which it is given up.
    """
    return seconds * max(FACTOR, BUSY_FACTOR)


def full_wait(seconds: float) -> float:
    """The length of a wait that always runs to its end, such as the time of a handler's sleep."""
    return seconds * FACTOR
