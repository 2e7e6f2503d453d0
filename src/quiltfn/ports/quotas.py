"""The interface to the tenants' load on the other nodes of a fleet."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from quiltfn.model.tenant_load import TenantLoad


class OtherNodes(Protocol):
    """The tenants' invocations on the other nodes, as last reported and kept in memory."""

    def in_flight(self, tenant_id: str) -> int:
        """The number of the tenant's invocations that run or wait on the other nodes."""

    def has_room(self, tenant_id: str, in_flight: int, most: int) -> bool:
        """Whether this node may start another invocation. `in_flight`: the number on this node.
        `most`: the limit on all nodes.
        """

    def rate(self, tenant_id: str, most: float) -> float:
        """Count an invocation, and return this node's share of `most` invocations per second on all
        nodes.
        """

    def report(self, in_flight: Mapping[str, int]) -> Sequence[TenantLoad]:
        """This node's report on tenants with invocations here. `in_flight`: their numbers of
        invocations.
        """
