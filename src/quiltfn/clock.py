"""The clocks of the machine; everybody who asks for the time asks here.

| asked for | what for | a jump of the wall clock |
|---|---|---|
| `now` | durations, deadlines, waiting | is not seen |
| `unix` | what is shown; expiry of keys and tokens | is followed at once |
| `stamp` | the age of a row that is kept for a time | makes nothing older |
| `settled` | the time that ages are compared with | is followed once it has stood |

The order of ids is a matter of `ids.py`: it never goes back.
"""

import time
from pathlib import Path
from typing import Protocol

from quiltfn.model.settled import ClockNote, Settled

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def unix_ms() -> int:
    """The wall clock in milliseconds."""
    return time.time_ns() // 1_000_000


class ClockNotes(Protocol):
    """What a start has to know of the time before it. Raises `StoreUnavailable`."""

    async def load(self) -> ClockNote | None:
        """What was saved last."""

    async def save(self, note: ClockNote) -> None:
        """In place of what was there."""

    async def newest_id(self) -> str:
        """The greatest id of anything that is kept; empty where nothing is."""


class SystemClock:
    """`ports.Clock` by the kernel. Until `resume` is called, the wall clock is believed."""

    now = staticmethod(time.monotonic)
    unix = staticmethod(time.time)

    def __init__(self) -> None:
        self._boot_id = BOOT_ID.read_text().strip()
        self.resume(None)

    def resume(self, note: ClockNote | None) -> None:
        """Goes on from what was kept of the settled time."""
        self.resumed, ran_s = note, self._ran()
        self._settled = Settled.resumed(note, self._boot_id, ran_s, self.unix() - ran_s, self.now())

    def settled(self) -> float:
        return self._ran() + self._settled.believed

    def stamp(self) -> float:
        return max(self.unix(), self.settled())

    def look(self) -> bool:
        """To be called a few times a minute. Whether there is something new to be kept: `note`."""
        return self._settled.look(self.unix() - self._ran(), self.now())

    @property
    def jump_s(self) -> float:
        """How many seconds the wall clock is from what is believed; 0: it has not jumped."""
        return self._settled.jump_s

    def note(self) -> ClockNote:
        """What to keep over a restart."""
        return ClockNote(
            boot_id=self._boot_id,
            offset_s=self._settled.believed,
            settled_at=int(self.settled()),
        )

    @staticmethod
    def _ran() -> float:
        """Seconds that the machine has run, those in which it was suspended included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)
