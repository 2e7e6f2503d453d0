"""The nodes of a fleet: what each says of itself, and what the others keep of it."""

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from quiltfn.model.pool_load import PoolLoad
from quiltfn.model.tenant_load import TenantLoad

# What one node may say: beyond that the largest pools.
REPORTED_MAX = 500


class NodeState(StrEnum):
    """What an operator lets a node do. It outlives the node's restarts.

    ready: everything. cordoned: it begins no accepted work and takes no calls from other nodes.
    draining: it refuses new calls as well and ends those that run. removed: it belongs to the fleet
    no more.
    """

    READY = "ready"
    CORDONED = "cordoned"
    DRAINING = "draining"
    REMOVED = "removed"


class Presence(StrEnum):
    """Whether a node holds its rows. present: it does, for all that is known. left: it ended in
    order, and others may take over at once. gone: it was taken over.
    """

    PRESENT = "present"
    LEFT = "left"
    GONE = "gone"


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How loaded a node is, as it says itself with each beat. `memory_free_mib`: of the memory for
    instances. `running`: calls that have not ended, `queued`: those of them that wait for an
    instance. `lag_s`: it has what other nodes changed until so many seconds ago. `times`:
    after how many seconds it beats, begins nothing, ends its instances, and takes others over.
    `pools`: those that may have instances. `tenants`: those that have calls. `is_leaving`: it ends
    once its calls have ended.
    """

    memory_free_mib: float = 0.0
    running: int = 0
    queued: int = 0
    lag_s: float = 0.0
    times: Sequence[float] = ()
    pools: Sequence[PoolLoad] = ()
    tenants: Sequence[TenantLoad] = ()
    is_leaving: bool = False


def bounded(pools: Sequence[PoolLoad]) -> Sequence[PoolLoad]:
    """At most `REPORTED_MAX`, those with most instances first: a report is read by every node."""
    if len(pools) <= REPORTED_MAX:
        return pools
    return sorted(pools, key=lambda pool: pool.idle + pool.busy, reverse=True)[:REPORTED_MAX]


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A node as the store has it. `epoch`: the number of its start. `beat`: how often it has said
    since then that it is there. `address`: where other nodes reach it. `version`: its program's.
    """

    name: str
    epoch: int
    beat: int = 0
    presence: Presence = Presence.PRESENT
    state: NodeState = NodeState.READY
    address: str = ""
    version: str = ""
    report: Report = Report()

    @property
    def is_member(self) -> bool:
        """Whether it was a node of a fleet once. A server that was alone has a row as well."""
        return self.version != ""

    @property
    def is_there(self) -> bool:
        """Whether it can be asked, for all that is known, whatever it is meant to do."""
        return self.is_member and self.presence is Presence.PRESENT

    @property
    def is_to_stay(self) -> bool:
        """Whether minimums of instances and copies of images may be put on it while it is there."""
        return self.state in (NodeState.READY, NodeState.CORDONED)

    @property
    def keeps(self) -> bool:
        """Whether it goes on keeping minimums of instances, and its copies of images count."""
        return self.is_there and self.is_to_stay and not self.report.is_leaving

    @property
    def takes_more(self) -> bool:
        """Whether calls are sent to it, and minimums come to it that another node has kept."""
        return self.keeps and self.state is NodeState.READY


class TakenOver(msgspec.Struct, frozen=True, kw_only=True):
    """What a take-over has ended or freed of a node. `epoch`: the node's, which nobody has now.
    `calls`: how many that ran, or may have run, are interrupted. `work`: how much accepted work it
    had claimed. `deliveries`: how many it was sending. `answers`: idempotent requests it had not
    answered.
    """

    name: str
    epoch: int
    calls: int
    work: int
    deliveries: int
    answers: int


def shown_state(member: Member) -> str:
    """One word for operators: what the node does, or why it does nothing."""
    if member.state is NodeState.REMOVED or member.presence is Presence.PRESENT:
        return member.state.value
    return member.presence.value


class KnownNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node as the one knows it that was asked. `unmoved_s`: for how long it has seen no beat of
    it, in seconds by its own clock. `is_own`: it is the one that was asked. `is_silent`: it should
    be there, and that is longer than the fence time.
    """

    member: Member
    unmoved_s: float
    is_own: bool
    is_silent: bool = False
