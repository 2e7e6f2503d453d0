"""Ends a tenant's instances and invocations when an operator disables it, and reopens its pools.

Whether a tenant is disabled is stored with its quota. Its credentials (`tenants/access.py`) and its
invocations (`tenants/admission.py`) are refused; queued invocations and deliveries wait, and ticks
of schedules are skipped. None of its pools may be open (`functions/lifecycle.py`). The states of
its functions stay, so that they serve again once the tenant is enabled.
"""

from quiltfn.calls.invoke import Invoker
from quiltfn.functions.catalog import Catalog
from quiltfn.functions.lifecycle import Lifecycle


def end_or_reopen(
    catalog: Catalog, lifecycle: Lifecycle, invoker: Invoker, tenant_id: str, is_disabled: bool
) -> None:
    """Ends the instances and running invocations of a tenant that was disabled; opens the pools of
    a tenant that was enabled.
    """
    for entry in list(catalog.all()):
        if entry.function.tenant_id != tenant_id:
            continue
        if is_disabled:
            lifecycle.suspend(entry.function.id)
            invoker.end_calls(entry.function.id, "tenant_disabled")
        else:
            lifecycle.reopen(entry.function.id)
