"""Detects lost nodes: compares their rows with this node's own clock.

A node whose row has not changed for the reap time is taken over; a node that has stopped properly,
at once.
Rule 1: only time in which this node could send heartbeats and read without a long pause counts. If
the store was unavailable, or this node was stopped, no node could be observed, and every wait
starts again.
Rule 2: the node that follows the lost one by name acts first, the others later, one after another:
only one of them can succeed, so they need not all try at once.
Rule 3: if a node reports that its instances may live longer than this node's reap time, that longer
time counts: settings may be changed on one node after the other.
Rule 4: this module does not wait, read a clock or query the store.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from quiltfn.model.member import Member, Presence
from quiltfn.settings import FLEET_ENDING_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds, each longer than the previous one, as `settings.py` checks. `beat_s`: between two
    heartbeats. A node without a renewal for `fence_s` starts nothing, at `end_s` its instances end,
    and after `reap_s` without a heartbeat others take it over.
    """

    beat_s: float = 2.0
    fence_s: float = 10.0
    end_s: float = 60.0
    reap_s: float = 100.0


@dataclass(frozen=True, slots=True)
class Seen:
    """The last observed state of a node. `since`: the start of that state."""

    member: Member
    since: float


class Observer:
    """One node's observations of the others."""

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
        """The seconds for which a node's row, as just read, has not changed."""
        known = self._seen.get(member.name)
        return 0.0 if known is None or _moved(known.member, member) else now - known.since

    def look(self, members: Sequence[Member], now: float) -> list[Member]:
        """Apply what was read after a stored heartbeat; return the nodes to take over now. `now`:
        monotonic seconds.
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
        if unmoved_s < wait_s:  # checked first, to not sort all nodes for each member
            return False
        return unmoved_s >= wait_s + self._rank(member.name) * self.times.beat_s

    def _reap_s(self, member: Member) -> float:
        shown = member.report.times
        return max(self.times.reap_s, shown[2] + FLEET_ENDING_S if len(shown) > 2 else 0.0)

    def _rank(self, lost: str) -> int:
        """The number of nodes that try to take `lost` over before this one does."""
        names = sorted(
            name
            for name, seen in self._seen.items()
            if name == self.name or (name != lost and seen.member.is_there)
        )
        behind = [name for name in names if name > lost]
        return (behind + [name for name in names if name < lost]).index(self.name)


def _moved(before: Member, now: Member) -> bool:
    return (before.epoch, before.beat, before.presence) != (now.epoch, now.beat, now.presence)
