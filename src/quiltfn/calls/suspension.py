"""What ends when an operator disables a tenant, and begins again when the tenant is enabled.

That a tenant is disabled is stored with its quota. Its credentials are refused
(`tenants/access.py`), its invocations are (`tenants/admission.py`), and what is queued, due or to
be sent waits. None of its pools may be open (`functions/lifecycle.py`). The states of its functions
stay, so that they serve again once it is enabled.
"""

from quiltfn.calls.invoke import Invoker
from quiltfn.functions.catalog import Catalog
from quiltfn.functions.lifecycle import Lifecycle


def end_or_reopen(
    catalog: Catalog, lifecycle: Lifecycle, invoker: Invoker, tenant_id: str, is_disabled: bool
) -> None:
    """Ends the instances of a tenant that was disabled, with what they run; opens the pools of one
    that was enabled.
    """
    for entry in list(catalog.all()):
        if entry.function.tenant_id != tenant_id:
            continue
        if is_disabled:
            lifecycle.suspend(entry.function.id)
            invoker.end_calls(entry.function.id, "tenant_disabled")
        else:
            lifecycle.reopen(entry.function.id)
