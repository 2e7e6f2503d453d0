"""What ends when an operator disables a tenant, and begins again when the tenant is enabled.

That a tenant is disabled is stored with its quota. Its credentials are refused (`access.py`), its
calls are (`admission.py`), and what is queued, due or to be sent waits. Here its instances end.
The states of its functions stay, so that they serve again once it is enabled.
"""

import asyncio

from quiltfn.access import Access
from quiltfn.catalog import Catalog
from quiltfn.invoke import Invoker
from quiltfn.lifecycle import Lifecycle
from quiltfn.model.function import Function, FunctionState
from quiltfn.ports import Pools
from quiltfn.quotas import Quotas

DISABLED = "an operator has disabled the tenant"


class DisabledTenants:
    """Keeps what disabled tenants have from running on this node."""

    def __init__(
        self,
        quotas: Quotas,
        access: Access,
        catalog: Catalog,
        lifecycle: Lifecycle,
        pools: Pools,
        invoker: Invoker,
    ) -> None:
        self._quotas, self._catalog = quotas, catalog
        self._lifecycle, self._pools, self._invoker = lifecycle, pools, invoker
        access.disabled = quotas.disabled
        quotas.on_disabled = self._changed
        catalog.on_change.append(self._function_changed)
        for tenant_id in quotas.disabled:
            self._changed(tenant_id, is_disabled=True)

    def _changed(self, tenant_id: str, is_disabled: bool) -> None:
        for entry in list(self._catalog.all()):
            if entry.function.tenant_id != tenant_id:
                continue
            if is_disabled:
                self._end_if_active(entry.function.id)
            else:
                self._lifecycle.reopen(entry.function)

    def _function_changed(self, _: Function | None, after: Function | None) -> None:
        """What changes a function may open its pool; that is done by the end of this step."""
        if after is not None and after.tenant_id in self._quotas.disabled:
            asyncio.get_running_loop().call_soon(self._end_if_active, after.id)

    def _end_if_active(self, function_id: str) -> None:
        """No instance of the function stays. What waits is refused, and accepted work goes back
        into the queue.
        """
        entry = self._catalog.known(function_id)
        if entry is None or entry.function.tenant_id not in self._quotas.disabled:
            return
        if entry.function.state is FunctionState.ACTIVE:
            self._pools.close(function_id, "disabled")
            self._invoker.end_calls(function_id, DISABLED)
