"""Who of the other nodes is gone: decided from what is read of them, by one's own clock.

A node whose row has not moved for the reap time is taken over; one that left in order, at once.
Rule 1: only time counts in which this node could beat and read without a long pause. Where the
store was away, or this node stood still, nobody could be seen, and every wait begins again.
Rule 2: the node that follows the lost one by name is the first to act, the others come later, one
after another: the store would let one of them through, but a hundred need not try.
Rule 3: a node is waited for as long as it says itself that its instances may live, where that is
longer than the own reap time: times may be changed on one node after the other.
Rule 4: nothing here waits, reads a clock or asks the store.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from quiltfn.model.member import Member, Presence
from quiltfn.settings import FLEET_ENDING_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds, each longer than the one before, as `settings.py` checks. `beat_s`: between two
    beats. A node that could not renew for `fence_s` begins nothing, at `end_s` its instances end,
    and after `reap_s` without a beat others take it over.
    """

    beat_s: float = 2.0
    fence_s: float = 10.0
    end_s: float = 60.0
    reap_s: float = 100.0


@dataclass(frozen=True, slots=True)
class Seen:
    """How a node was when it was seen last. `since`: for how long it has been so."""

    member: Member
    since: float


class Observer:
    """What one node knows of the others."""

    def __init__(self, name: str, times: Times) -> None:
        """`name`: this node's."""
        self.name, self.times = name, times
        self._seen: dict[str, Seen] = {}
        self._looked_at: float | None = None

    @property
    def members(self) -> Sequence[Seen]:
        """All nodes as they were at the last look, by name, this one included."""
        return [self._seen[name] for name in sorted(self._seen)]

    def unmoved_s(self, member: Member, now: float) -> float:
        """For how many seconds nothing of a node has moved, as it was read now."""
        known = self._seen.get(member.name)
        return 0.0 if known is None or _moved(known.member, member) else now - known.since

    def look(self, members: Sequence[Member], now: float) -> list[Member]:
        """Takes in what was read after a beat that was stored; returns who is to be taken over now.
        `now`: monotonic seconds.
        """
        was_away = self._looked_at is None or now - self._looked_at > self.times.fence_s
        self._looked_at = now
        self._seen = {one.name: self._next(one, now, was_away) for one in members}
        return [one.member for one in self._seen.values() if self._is_due(one, now)]

    def _next(self, member: Member, now: float, was_away: bool) -> Seen:
        known = self._seen.get(member.name)
        if known is None or was_away or _moved(known.member, member):
            return Seen(member, now)
        return Seen(member, known.since)

    def _is_due(self, seen: Seen, now: float) -> bool:
        member = seen.member
        if member.name == self.name or member.presence is Presence.GONE:
            return False
        wait_s = 0.0 if member.presence is Presence.LEFT else self._reap_s(member)
        unmoved_s = now - seen.since
        if unmoved_s < wait_s:  # before all nodes are sorted, once for each of them
            return False
        return unmoved_s >= wait_s + self._rank(member.name) * self.times.beat_s

    def _reap_s(self, member: Member) -> float:
        told = member.report.times
        return max(self.times.reap_s, told[2] + FLEET_ENDING_S if len(told) > 2 else 0.0)

    def _rank(self, lost: str) -> int:
        """How many nodes come before this one to take `lost` over."""
        names = sorted(
            name
            for name, seen in self._seen.items()
            if name == self.name or (name != lost and seen.member.is_there)
        )
        behind = [name for name in names if name > lost]
        return (behind + [name for name in names if name < lost]).index(self.name)


def _moved(before: Member, now: Member) -> bool:
    return (before.epoch, before.beat, before.presence) != (now.epoch, now.beat, now.presence)
