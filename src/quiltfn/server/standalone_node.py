"""A server that belongs to no fleet: substitutes for the fleet's parts of a node
(`fleet/parts.py`, `fleet/node.py`).
"""

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial

from quiltfn import __version__
from quiltfn.api.fleet_node import Alone
from quiltfn.calls.events import Events
from quiltfn.calls.invoke import Invoker
from quiltfn.calls.node_report import report_of
from quiltfn.functions.lifecycle import Lifecycle
from quiltfn.functions.tenant_images import ImagesKept, TenantImages
from quiltfn.host.health import Reasons
from quiltfn.model.errors import Conflict, NotFound
from quiltfn.model.member import KnownNode, Member, NodeState, Report
from quiltfn.pool.local import LocalPools
from quiltfn.ports import Change, ChangeKind
from quiltfn.ports.work import QueueCounts
from quiltfn.server.ground import Ground

ALONE = "this server is not a node of a fleet: stop it with SIGTERM"


class LoneParts:
    """Replaces `FleetParts`: the parts that are created before the pools."""

    tenants, problem = None, None

    def __init__(self, ground: Ground, kept: ImagesKept) -> None:
        self.ground, self.sandboxes = ground, ground.stock
        self.tenant_images = TenantImages(*kept)

    def may_begin(self) -> bool:
        """Whether asynchronous invocations may start here."""
        return True

    def reasons(self, refuses: Callable[[], str]) -> Reasons:
        """The checks that this server's health uses."""
        return Reasons(
            no_sandbox=self.ground.stock.why_not,
            refuses=refuses,
            missing_images=self.tenant_images.missing,
        )


class LoneNode:
    """Replaces `JoinedNode`: the parts that need the pools."""

    pool_changed: Sequence[Callable[[str, str], None]] = ()
    listeners: Mapping[ChangeKind, Callable[[Sequence[Change] | None], Awaitable[None]]] = {}

    def __init__(
        self,
        parts: LoneParts,
        pools: LocalPools,
        invoker: Invoker,
        queue_counts: Callable[[str], Awaitable[QueueCounts]],
    ) -> None:
        boot = parts.ground.database.boot
        self.events = Events(parts.ground.clock, boot.epoch, pools.counts, queue_counts)
        self.all_events, self.fleet = (self.events,), Alone(pools)
        self.nodes = OneNode(boot.node_id, boot.epoch, partial(report_of, pools, invoker))

    async def restore(self) -> None:
        """Does nothing: there is no state of other nodes."""

    def tasks(self, _: Lifecycle) -> Sequence[Callable[[], Coroutine[None, None, None]]]:
        """No tasks: nothing is shared with other nodes."""
        return ()

    async def leave(self) -> None:
        """Does nothing: there is no other node to notify."""

    async def aclose(self) -> None:
        """Does nothing: there are no resources of a fleet."""


class OneNode:
    """`ports.fleet.Nodes` of a single node, without a query."""

    def __init__(self, name: str, epoch: int, report: Callable[[], Report]) -> None:
        """`epoch`: the number of this start of the node."""
        self._name, self._epoch, self._report = name, epoch, report

    def show(self) -> None:
        """Does nothing: a standalone server has no metrics of nodes."""

    async def all(self) -> Sequence[KnownNode]:
        """As `Nodes` says."""
        own = Member(name=self._name, epoch=self._epoch, version=__version__, report=self._report())
        return [KnownNode(member=own, unmoved_s=0.0, is_own=True)]

    async def set_state(self, name: str, state: NodeState) -> KnownNode:
        """As `Nodes` says."""
        del state
        if name != self._name:
            raise NotFound("there is no node of this name")
        raise Conflict(ALONE)
