"""The nodes of a fleet: their reports about themselves, and what other nodes store of them."""

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from quiltfn.model.pool_load import PoolLoad
from quiltfn.model.tenant_load import TenantLoad

# The maximum of pools in a report; the largest are reported.
REPORTED_MAX = 500


class NodeState(StrEnum):
    """What an operator lets a node do. It outlives the node's restarts.

    ready: everything. cordoned: it starts no asynchronous invocations and accepts none of any kind
    from other nodes. draining: it also refuses new invocations and finishes running ones. removed:
    it no longer belongs to the fleet.
    """

    READY = "ready"
    CORDONED = "cordoned"
    DRAINING = "draining"
    REMOVED = "removed"


class Presence(StrEnum):
    """Whether a node owns its rows. present: it does, as far as known. left: it ended properly, and
    others may take over at once. gone: it was taken over.
    """

    PRESENT = "present"
    LEFT = "left"
    GONE = "gone"


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node's load, as reported with each heartbeat. `memory_free_mib`: of the memory for
    instances. `running`: unfinished invocations, `queued`: those of them that wait for an instance.
    `lag_s`: the age of its copy of other nodes' changes. `times`: after how many seconds it sends a
    heartbeat, starts nothing more, ends its instances, and takes others over. `pools`: those that
    may have instances. `tenants`: those with invocations. `is_leaving`: it ends once its
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
    """At most `REPORTED_MAX`, those with most instances first: every node reads the report."""
    if len(pools) <= REPORTED_MAX:
        return pools
    return sorted(pools, key=lambda pool: pool.idle + pool.busy, reverse=True)[:REPORTED_MAX]


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A node as stored. `epoch`: the number of its start. `beat`: the number of its heartbeats
    since then. `address`: for other nodes. `version`: of its program.
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
        """Whether it was ever a node of a fleet. A server that was alone has a row as well."""
        return self.version != ""

    @property
    def is_there(self) -> bool:
        """Whether it can be reached, as far as known, in any state."""
        return self.is_member and self.presence is Presence.PRESENT

    @property
    def is_to_stay(self) -> bool:
        """Whether it may get minimums of instances and copies of images while it is present."""
        return self.state in (NodeState.READY, NodeState.CORDONED)

    @property
    def keeps(self) -> bool:
        """Whether it goes on keeping minimums of instances, and its copies of images count."""
        return self.is_there and self.is_to_stay and not self.report.is_leaving

    @property
    def takes_more(self) -> bool:
        """Whether it gets forwarded invocations, and minimums that another node has kept."""
        return self.keeps and self.state is NodeState.READY


class TakenOver(msgspec.Struct, frozen=True, kw_only=True):
    """What a take-over has ended or freed of a node. `epoch`: the node's, which is now unused.
    `calls`: interrupted invocations, which ran or may have run. `work`: asynchronous invocations
    that it had claimed. `deliveries`: those that it was sending. `answers`: idempotent requests
    without a response.
    """

    name: str
    epoch: int
    calls: int
    work: int
    deliveries: int
    answers: int


def shown_state(member: Member) -> str:
    """The node's activity, or why it has none, in one word for operators."""
    if member.state is NodeState.REMOVED or member.presence is Presence.PRESENT:
        return member.state.value
    return member.presence.value


class KnownNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node as seen by the node that was asked. `unmoved_s`: for how long the asked node has seen
    no heartbeat, in seconds of its own clock. `is_own`: it is the node that was asked. `is_silent`:
    it should be present, but has sent no heartbeat for longer than the fence time.
    """

    member: Member
    unmoved_s: float
    is_own: bool
    is_silent: bool = False
