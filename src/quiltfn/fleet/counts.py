"""The instances and waiting calls of all nodes: this node's own, and what the others have said.

Others say it with each beat, with each answer to a call that was sent to them, and with events that
this node follows. What a node said last counts until it leaves, is taken over, or says nothing for
the fence time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from quiltfn.model.counts import PoolCounts, sum_counts
from quiltfn.model.member import Member
from quiltfn.model.pool_load import PoolLoad
from quiltfn.ports import Clock, PoolCounting


@dataclass(slots=True)
class _Said:
    """What a node said. `at`: when this node heard of its last beat, in monotonic seconds. `told`:
    when it said something of a function after that, which an older report may not undo.
    """

    epoch: int
    beat: int
    at: float
    waiting: int
    pools: dict[str, PoolCounts] = field(default_factory=dict)
    told: dict[str, float] = field(default_factory=dict)


class FleetCounts:
    """`ports.PoolCounting` of all nodes. `own`: this one's name; `pools`: its pools. `quiet_s`: how
    long a node may say nothing; `beat_s`: how old its report may be once it can be read.
    """

    def __init__(
        self, own: str, pools: PoolCounting, clock: Clock, quiet_s: float, beat_s: float
    ) -> None:
        self._own, self._pools, self._clock = own, pools, clock
        self._quiet_s, self._beat_s = quiet_s, beat_s
        self._said: dict[str, _Said] = {}

    def read(self, members: Sequence[Member]) -> None:
        """Takes in all nodes as they are in the store. A report is taken in once: what its node has
        said since then is newer.
        """
        others = [one for one in members if one.is_there and one.name != self._own]
        self._said = {one.name: self._next(one) for one in others}

    def told(self, node: str, function_id: str, counts: PoolCounts) -> None:
        """A node has just said how many instances of a function it has."""
        said = self._said.get(node)
        if said is None:
            return
        said.told[function_id] = self._clock.now()
        if counts.total:
            said.pools[function_id] = counts
        else:
            said.pools.pop(function_id, None)

    def hear(self, node: str, load: PoolLoad) -> None:
        """As `told`, with a node's answer to an invocation."""
        self.told(node, load.function_id, load.counts)

    def counts(self, function_id: str) -> PoolCounts:
        """As `PoolCounting` says."""
        found = [self._pools.counts(function_id)]
        for said in self._heard():
            counts = said.pools.get(function_id)
            if counts is not None:
                found.append(counts)
        return sum_counts(found) if len(found) > 1 else found[0]

    def occupied(self) -> Sequence[str]:
        """As `PoolCounting` says."""
        found = set(self._pools.occupied())
        for said in self._heard():
            found |= said.pools.keys()
        return sorted(found)  # their ids grow with time

    def waiting(self) -> int:
        """As `PoolCounting` says."""
        return self._pools.waiting() + sum(said.waiting for said in self._heard())

    def nodes(self) -> Sequence[str]:
        """The other nodes that have not been quiet for too long."""
        return [name for name, said in self._said.items() if self._is_heard(said)]

    def _heard(self) -> list[_Said]:
        return [said for said in self._said.values() if self._is_heard(said)]

    def _is_heard(self, said: _Said) -> bool:
        return self._clock.now() - said.at < self._quiet_s

    def _next(self, member: Member) -> _Said:
        known, report = self._said.get(member.name), member.report
        if known is not None and (known.epoch, known.beat) == (member.epoch, member.beat):
            return known
        now = self._clock.now()
        pools = {one.function_id: one.counts for one in report.pools}
        told: dict[str, float] = {}
        if known is not None and known.epoch == member.epoch:
            told = {key: at for key, at in known.told.items() if now - at < self._beat_s}
            pools |= {key: known.pools.get(key, PoolCounts()) for key in told}
        return _Said(
            epoch=member.epoch,
            beat=member.beat,
            at=now,
            waiting=report.queued,
            pools={key: counts for key, counts in pools.items() if counts.total},
            told=told,
        )
