"""Trusted time, for comparing ages: the wall clock, except for an hour after it has jumped.

A wall clock may jump: an administrator sets it, a virtual machine is restored from a snapshot, or
the battery of the hardware clock fails. Rows that are removed because of a jump are lost even if
the clock is corrected. Therefore:

Rule 1: trusted time = the machine's uptime + a trusted offset to the wall clock.
Rule 2: a different offset becomes the trusted one after it has been seen for an hour of uptime.
Rule 3: the trusted offset survives a restart of the server. After a reboot of the machine, trusted
time continues from the value that was saved last, and rule 2 applies.
"""

import msgspec

STAND_S = 3600.0
EVEN_S = 30.0  # NTP may slew the clock this far without restarting the hour.


class ClockState(msgspec.Struct, frozen=True, kw_only=True):
    """The stored state. `boot_id`: the boot for which `offset_s` is valid; `settled_at`: trusted
    time when the state was saved, in Unix seconds.
    """

    boot_id: str
    offset_s: float
    settled_at: int


class TrustedTime(msgspec.Struct, kw_only=True):
    """`believed` and `seen`: the trusted and the current offset, in Unix seconds minus seconds of
    uptime. `since`: when the current offset was first seen, in monotonic seconds.
    """

    believed: float
    seen: float
    since: float

    @classmethod
    def resumed(
        cls, state: ClockState | None, boot_id: str, ran_s: float, seen: float, now: float
    ) -> "TrustedTime":
        """Applies rule 3 at a start of the server. Without a saved state, the wall clock is
        trusted.
        """
        if state is None:
            believed = seen
        elif state.boot_id == boot_id:
            believed = state.offset_s
        else:
            believed = state.settled_at - ran_s
        return cls(believed=believed, seen=seen, since=now)

    def observe(self, seen: float, now: float) -> bool:
        """Notes the current offset; returns whether the trusted offset has changed."""
        if abs(seen - self.seen) > EVEN_S:
            self.seen, self.since = seen, now
            return False
        if now - self.since < STAND_S:
            return False
        self.believed = self.seen = seen
        self.since = now
        return True

    @property
    def jump_s(self) -> float:
        """Seconds from trusted time to the wall clock, negative if the clock is behind; 0 if NTP
        can correct the difference.
        """
        off = self.seen - self.believed
        return off if abs(off) > EVEN_S else 0.0
