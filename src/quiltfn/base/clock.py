"""The clocks of the machine. Use cases read the time only by a `Clock`.

| method | use it for | when the wall clock jumps |
|---|---|---|
| `now` | durations, deadlines, waiting | unaffected |
| `unix` | times that are shown; expiry of keys and tokens | follows at once |
| `timestamp` | the creation time of a row that expires | never makes a row look older |
| `trusted` | the time that ages are compared with | follows after an hour |

`ids.py` creates ids whose order never goes back.

Nodes that share a database use the database's clock, so that times of different machines are never
compared: `unix` is then the database's time, and `trusted` follows it.
"""

import time
from pathlib import Path
from typing import Protocol

from quiltfn.model.trusted_time import ClockState, TrustedTime
from quiltfn.ports import Clock, ClockReading

TOLERANCE_S = 0.05
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def unix_ms() -> int:
    """The wall clock in milliseconds."""
    return time.time_ns() // 1_000_000


class ClockStore(Protocol):
    """Stores the state of the clock across restarts. Raises `StoreUnavailable`."""

    async def load(self) -> ClockState | None:
        """The last saved state, or None."""

    async def save(self, state: ClockState) -> None:
        """Replace the saved state."""

    async def newest_id(self) -> str:
        """The greatest id in the main tables of the store; "" if they are empty."""


class ResumableClock(Clock, Protocol):
    """A clock whose trusted time survives a restart. `resumed`: the saved state given to
    `resume`.
    """

    resumed: ClockState | None

    def resume(self, state: ClockState | None) -> None:
        """Continue from the saved state of trusted time."""

    def go_by(self, reading: ClockReading) -> None:
        """From now on, follow another machine's clock instead of this machine's wall clock."""

    def observe(self) -> bool:
        """Call it a few times a minute. Returns whether `state` has changed and must be saved."""

    @property
    def jump_s(self) -> float:
        """Seconds from trusted time to the wall clock; 0 if NTP can correct the difference."""

    def state(self) -> ClockState:
        """The state to save for the next start."""


class SystemClock:
    """`ResumableClock` on the kernel's clocks. Before `resume`, the wall clock is trusted."""

    now = staticmethod(time.monotonic)
    _wall = staticmethod(time.time)

    def __init__(self) -> None:
        self._reference: float | None = None  # the other machine's time at the boot of this one
        self._boot_id = BOOT_ID.read_text().strip()
        self.resume(None)

    def resume(self, state: ClockState | None) -> None:
        self.resumed: ClockState | None
        self.resumed, ran_s = state, self._ran()
        self._trusted = TrustedTime.resumed(
            state, self._boot_id, ran_s, self.unix() - ran_s, self.now()
        )

    def unix(self) -> float:
        return self._wall() if self._reference is None else self._ran() + self._reference

    def go_by(self, reading: ClockReading) -> None:
        booted_at = reading.unix_s - (self._ran() - (self.now() - reading.at))
        # Small differences are errors of the reading, not of the clocks.
        known = self._reference
        if known is None or abs(booted_at - known) > max(TOLERANCE_S, reading.error_s):
            self._reference = booted_at

    def trusted(self) -> float:
        return self._ran() + self._trusted.believed

    def timestamp(self) -> float:
        return max(self.unix(), self.trusted())

    def observe(self) -> bool:
        return self._trusted.observe(self.unix() - self._ran(), self.now())

    @property
    def jump_s(self) -> float:
        return self._trusted.jump_s

    def state(self) -> ClockState:
        return ClockState(
            boot_id=self._boot_id,
            offset_s=self._trusted.believed,
            settled_at=int(self.trusted()),
        )

    @staticmethod
    def _ran() -> float:
        """Seconds since boot, including suspended time."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)
