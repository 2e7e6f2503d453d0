"""The instances and waiting invocations of all nodes: this node's, and the others' last reports.

The others report with each heartbeat, each response to a forwarded invocation, and events that this
node follows. A node's last report counts until it stops, is taken over, or is silent for the fence
time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from quiltfn.model.counts import PoolCounts, sum_counts
from quiltfn.model.member import Member
from quiltfn.model.pool_load import PoolLoad
from quiltfn.ports import Clock, PoolCounting


@dataclass(slots=True)
class _Said:
    """A node's report. `at`: when its last heartbeat was read here, in monotonic seconds.
    `updated`: by function, when a later message changed the report; a heartbeat that was sent
    before must not undo the change.
    """

    epoch: int
    beat: int
    at: float
    waiting: int
    pools: dict[str, PoolCounts] = field(default_factory=dict)
    updated: dict[str, float] = field(default_factory=dict)


class FleetCounts:
    """`ports.PoolCounting` of all nodes. `own`: this node's name; `pools`: its pools. `quiet_s`:
    how long a node may be silent; `beat_s`: the maximum age of a report when it becomes readable.
    """

    def __init__(
        self, own: str, pools: PoolCounting, clock: Clock, quiet_s: float, beat_s: float
    ) -> None:
        self._own, self._pools, self._clock = own, pools, clock
        self._quiet_s, self._beat_s = quiet_s, beat_s
        self._said: dict[str, _Said] = {}

    def read(self, members: Sequence[Member]) -> None:
        """Apply the stored states of all nodes. A report is applied only when it is new, since
        messages that follow it are newer.
        """
        others = [one for one in members if one.is_there and one.name != self._own]
        self._said = {one.name: self._next(one) for one in others}

    def update(self, node: str, function_id: str, counts: PoolCounts) -> None:
        """A node has just reported its number of instances of a function."""
        said = self._said.get(node)
        if said is None:
            return
        said.updated[function_id] = self._clock.now()
        if counts.total:
            said.pools[function_id] = counts
        else:
            said.pools.pop(function_id, None)

    def hear(self, node: str, load: PoolLoad) -> None:
        """Like `update`, with the load in a node's response to an invocation."""
        self.update(node, load.function_id, load.counts)

    def counts(self, function_id: str) -> PoolCounts:
        found = [self._pools.counts(function_id)]
        for said in self._heard():
            counts = said.pools.get(function_id)
            if counts is not None:
                found.append(counts)
        return sum_counts(found) if len(found) > 1 else found[0]

    def occupied(self) -> Sequence[str]:
        found = set(self._pools.occupied())
        for said in self._heard():
            found |= said.pools.keys()
        return sorted(found)  # in creation order

    def waiting(self) -> int:
        return self._pools.waiting() + sum(said.waiting for said in self._heard())

    def nodes(self) -> Sequence[str]:
        """The other nodes that have not been silent for too long."""
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
        recent: dict[str, float] = {}
        if known is not None and known.epoch == member.epoch:
            recent = {key: at for key, at in known.updated.items() if now - at < self._beat_s}
            pools |= {key: known.pools.get(key, PoolCounts()) for key in recent}
        return _Said(
            epoch=member.epoch,
            beat=member.beat,
            at=now,
            waiting=report.queued,
            pools={key: counts for key, counts in pools.items() if counts.total},
            updated=recent,
        )
