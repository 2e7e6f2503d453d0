"""Adapts time limits and waits of tests to this machine.

Tests name seconds for an idle machine with a real CPU. Two variables, both 1 by default, change
them:

- QUILTFN_TEST_TIME_FACTOR: an emulated CPU is slower by about one factor. The program that creates
  the machine sets it (`scripts/machine.py`). It multiplies everything that a test waits for.
- QUILTFN_TEST_BUSY_FACTOR: other tests run at the same time. `scripts/test` sets it. It multiplies
  limits that a test reaches only when it fails, but not waits that always run to their end, so that
  no passing test takes longer.
"""

import os

FACTOR = float(os.environ.get("QUILTFN_TEST_TIME_FACTOR") or 1)
BUSY_FACTOR = float(os.environ.get("QUILTFN_TEST_BUSY_FACTOR") or 1)


def scaled(seconds: float) -> float:
    """A time limit for something that takes at most `seconds` on an idle machine."""
    return seconds * max(FACTOR, BUSY_FACTOR)


def full_wait(seconds: float) -> float:
    """The length of a wait that always runs to its end, such as the time of a handler's sleep."""
    return seconds * FACTOR
