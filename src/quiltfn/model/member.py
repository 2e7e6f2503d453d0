"""The nodes of a fleet: their reports about themselves, and their rows in the store."""

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from quiltfn.model.pool_load import PoolLoad
from quiltfn.model.tenant_load import TenantLoad

# The maximum of pools in a report; the largest are reported.
REPORTED_MAX = 500


class NodeState(StrEnum):
    """The state that an operator has set for a node. It survives restarts of the node.

    ready: no restriction. cordoned: the node starts no asynchronous invocations and accepts no
    invocations from other nodes. draining: the node also runs no new invocations, and finishes
    those in progress. removed: the node no longer belongs to the fleet.
    """

    READY = "ready"
    CORDONED = "cordoned"
    DRAINING = "draining"
    REMOVED = "removed"


class Presence(StrEnum):
    """Whether a node owns its rows. present: it does, as far as known. left: it ended properly, so
    others may take it over at once. gone: it was taken over.
    """

    PRESENT = "present"
    LEFT = "left"
    GONE = "gone"


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node's load, as reported with each heartbeat. `memory_free_mib`: free memory for instances.
    `running`: unfinished invocations; `queued`: those of them that wait for an instance. `lag_s`:
    the age of its copy of other nodes' changes. `times`: the seconds after which it sends a
    heartbeat, starts no more invocations, ends its instances, and takes others over. `pools`: those
    that may have instances. `tenants`: those with invocations. `is_leaving`: it stops once its
    invocations have ended.
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
    """At most `REPORTED_MAX` pools, those with most instances first, since every node reads the
    report.
    """
    if len(pools) <= REPORTED_MAX:
        return pools
    return sorted(pools, key=lambda pool: pool.idle + pool.busy, reverse=True)[:REPORTED_MAX]


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A node as stored. `epoch`: the number of its start. `beat`: the number of heartbeats since
    that start. `address`: its address for other nodes. `version`: its release of quiltfn.
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
        """Whether it was ever a node of a fleet. A standalone server has a row, too."""
        return self.version != ""

    @property
    def is_there(self) -> bool:
        """Whether it is reachable, as far as known, in any `NodeState`."""
        return self.is_member and self.presence is Presence.PRESENT

    @property
    def is_to_stay(self) -> bool:
        """Whether, while present, it may get copies of images, and keep minimums of functions."""
        return self.state in (NodeState.READY, NodeState.CORDONED)

    @property
    def keeps(self) -> bool:
        """Whether it still keeps minimums of functions, and its copies of images count."""
        return self.is_there and self.is_to_stay and not self.report.is_leaving

    @property
    def takes_more(self) -> bool:
        """Whether it gets forwarded invocations, and minimums that another node kept before."""
        return self.keeps and self.state is NodeState.READY


class TakenOver(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a node that a take-over has ended or freed. `epoch`: the node's new epoch, which
    no start uses. `calls`: interrupted invocations, which ran or may have run. `work`: asynchronous
    invocations that it had claimed. `deliveries`: those that it was sending. `answers`: idempotent
    requests without a response.
    """

    name: str
    epoch: int
    calls: int
    work: int
    deliveries: int
    answers: int


def shown_state(member: Member) -> str:
    """The node's state in one word for operators."""
    if member.state is NodeState.REMOVED or member.presence is Presence.PRESENT:
        return member.state.value
    return member.presence.value


class KnownNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node as known by this server's node. `unmoved_s`: for how long no heartbeat was seen, in
    seconds of this server's clock. `is_own`: it is this server's node. `is_silent`: it should be
    present, but has sent no heartbeat for longer than the fence time.
    """

    member: Member
    unmoved_s: float
    is_own: bool
    is_silent: bool = False
