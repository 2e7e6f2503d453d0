"""DisabledTenants: the tenants that an operator has disabled. `Quotas` stores them; other nodes
inform a node that cannot reach the store (`fleet/keys.py`).
"""

from collections.abc import Callable

from quiltfn.base.signal import Signal


class DisabledTenants:
    """The disabled tenants, as this node knows them. `Quotas` and `FleetKeys` change them.

    `Admission` refuses a disabled tenant's invocations by its limits, which `Quotas` sets together
    with this object. All other code that refuses or delays something of a disabled tenant uses this
    object.
    """

    def __init__(self, age_s: Callable[[], float] = float) -> None:
        """`age_s`: returns the seconds since this server last had all changes of the store."""
        self._tenants, self.age_s = set[str](), age_s
        # Emitted with a tenant that was disabled (True) or enabled.
        self.on_change: Signal[str, bool] = Signal()

    def __contains__(self, tenant_id: object) -> bool:
        return tenant_id in self._tenants

    @property
    def names(self) -> list[str]:
        return sorted(self._tenants)

    def may_run(self, tenant_id: str) -> bool:
        """Whether instances of the tenant may run."""
        return tenant_id not in self._tenants

    def set(self, tenant_id: str, *, disabled: bool) -> None:
        """Disables or enables a tenant, and reports a change."""
        if disabled == (tenant_id in self._tenants):
            return
        (self._tenants.add if disabled else self._tenants.discard)(tenant_id)
        for hear in self.on_change.hearers:
            hear(tenant_id, disabled)
