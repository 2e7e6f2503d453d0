"""The interface to quotas in the store."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from quiltfn.model.tenant_load import TenantLoad


class OtherNodes(Protocol):
    """What the other nodes of a fleet have said of the calls of tenants, from memory."""

    def in_flight(self, tenant_id: str) -> int:
        """How many calls of the tenant run or wait on the other nodes."""

    def has_room(self, tenant_id: str, in_flight: int, most: int) -> bool:
        """Whether this node, which has so many, may have one more, of `most` on all nodes."""

    def rate(self, tenant_id: str, most: float) -> float:
        """How many calls a second this node may take, of `most` on all nodes. Counts a call."""

    def report(self, in_flight: Mapping[str, int]) -> Sequence[TenantLoad]:
        """What this node says of the tenants that have calls here. `in_flight`: of each."""
