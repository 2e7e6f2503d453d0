"""Which time counts when something is removed for its age: not the wall clock's latest word.

A wall clock may jump: somebody sets it, a machine comes back from a snapshot or with an empty
battery. What was removed because of a jump does not come back when the clock does. So:

Rule 1: the settled time goes on with the machine's running time, by the difference to the wall
clock that is believed.
Rule 2: another difference is believed once it has stood for an hour while the machine ran.
Rule 3: over a restart of the server the believed difference stays, as long as the machine has not
started again; after that the settled time goes on from where it was, and rule 2 applies.
"""

import msgspec

STAND_S = 3600.0
EVEN_S = 30.0  # What a wall clock may be corrected by in an hour and still have stood.


class ClockNote(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of it. `boot_id` names the run of the machine in which `offset_s` holds;
    `settled_at`: the settled time when this was written, in Unix seconds.
    """

    boot_id: str
    offset_s: float
    settled_at: int


class Settled(msgspec.Struct, kw_only=True):
    """The difference that is believed, and the one that is seen: Unix seconds minus the seconds
    that the machine has run. `since`: when the one that is seen began, in monotonic seconds.
    """

    believed: float
    seen: float
    since: float

    @classmethod
    def resumed(
        cls, note: ClockNote | None, boot_id: str, ran_s: float, seen: float, now: float
    ) -> "Settled":
        """At a start of the server: rule 3. Without a note the wall clock is believed."""
        if note is None:
            believed = seen
        elif note.boot_id == boot_id:
            believed = note.offset_s
        else:
            believed = note.settled_at - ran_s
        return cls(believed=believed, seen=seen, since=now)

    def look(self, seen: float, now: float) -> bool:
        """Takes note of what the clocks say; whether something else is believed by it."""
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
        """How far the wall clock is from what is believed, forward or (negative) back; 0 where it
        is as near as a clock that is kept right may be.
        """
        off = self.seen - self.believed
        return off if abs(off) > EVEN_S else 0.0
