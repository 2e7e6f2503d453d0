"""Tracks the tenants' invocations on all nodes, so that each node can enforce fleet-wide limits.

Nodes report with their heartbeats. A node whose heartbeats stop is left out after the fence time. A
node that cannot read the others' heartbeats continues with the reports that it read last.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from quiltfn.model.member import Member
from quiltfn.model.tenant_load import TenantLoad, bounded_loads, has_room, rate_share
from quiltfn.ports import Clock

# The weight of the previous rate: rates are smoothed, since invocations come in bursts.
FADING = 0.5
FORGOTTEN = 0.01


class FleetTenants:
    """`ports.quotas.OtherNodes` of the node named `own`."""

    def __init__(self, own: str, clock: Clock) -> None:
        self._own, self._clock = own, clock
        # Requests on this node since the last report.
        self._since = clock.now()
        self._asked: defaultdict[str, int] = defaultdict(int)
        self._wanted: dict[str, int] = {}
        self._refused: defaultdict[str, int] = defaultdict(int)
        self._asked_per_s: dict[str, float] = {}
        # The nodes' reports, by tenant and node.
        self._nodes: Collection[str] = ()
        self._loads: defaultdict[str, dict[str, TenantLoad]] = defaultdict(dict)
        self._shares: dict[tuple[str, float], float] = {}

    def read(self, members: Sequence[Member], heard: Collection[str]) -> None:
        """Store the latest reports of all nodes. `heard`: the other nodes that are present."""
        self._nodes = set(heard)
        self._loads.clear()
        self._shares.clear()
        for member in members:
            if member.name == self._own or member.name in self._nodes:
                for load in member.report.tenants:
                    self._loads[load.tenant_id][member.name] = load

    def in_flight(self, tenant_id: str) -> int:
        return sum(load.in_flight for load in self._others(tenant_id))

    def has_room(self, tenant_id: str, in_flight: int, most: int) -> bool:
        others = self._others(tenant_id)
        self._wanted[tenant_id] = max(self._wanted.get(tenant_id, 0), in_flight + 1)
        if in_flight < most and (not others or has_room(in_flight, most, others)):
            return True
        self._refused[tenant_id] += 1
        return False

    def rate(self, tenant_id: str, most: float) -> float:
        self._asked[tenant_id] += 1
        share = self._shares.get((tenant_id, most))
        if share is None:
            share = self._shares[tenant_id, most] = self._share(tenant_id, most)
        return share

    def report(self, in_flight: Mapping[str, int]) -> Sequence[TenantLoad]:
        now = self._clock.now()
        passed_s, self._since = max(0.001, now - self._since), now
        for tenant_id in self._asked.keys() | self._asked_per_s.keys():
            before = FADING * self._asked_per_s.get(tenant_id, 0.0)
            asked = max(self._asked.get(tenant_id, 0) / passed_s, before)
            self._asked_per_s[tenant_id] = asked
            if asked < FORGOTTEN:
                del self._asked_per_s[tenant_id]
        loads = [
            TenantLoad(
                tenant_id=one,
                in_flight=in_flight.get(one, 0),
                wanted=self._wanted.get(one, 0) + self._refused.get(one, 0),
                asked_per_s=round(self._asked_per_s.get(one, 0.0), 2),
            )
            for one in in_flight.keys() | self._wanted.keys() | self._asked_per_s.keys()
        ]
        self._asked.clear()
        self._wanted.clear()
        self._refused.clear()
        return bounded_loads(
            [one for one in loads if one.in_flight or one.wanted or one.asked_per_s]
        )

    def _others(self, tenant_id: str) -> list[TenantLoad]:
        if tenant_id not in self._loads:
            return []
        return [one for node, one in self._loads[tenant_id].items() if node != self._own]

    def _share(self, tenant_id: str, most: float) -> float:
        """This node's share of the rate. It uses this node's stored report, as the others do."""
        known = self._loads.get(tenant_id, {})
        nodes = [self._own, *self._nodes]
        asked = [known[node].asked_per_s if node in known else 0.0 for node in nodes]
        return rate_share(most, asked, 0)
