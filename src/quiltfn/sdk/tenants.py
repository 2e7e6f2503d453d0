"""`client.tenants`: tenants, which operators see, disable and enable."""

from quiltfn.sdk.methods import AnyClient, Group, Listing, Method, PagedMethod
from quiltfn.sdk.named_function import listing
from quiltfn.sdk.request import Flow, ask, post, segment
from quiltfn.wire import Tenant, TenantPage


def list_tenants(
    *, page_size: int | None = None, cursor: str | None = None
) -> Listing[TenantPage, Tenant]:
    """The tenants that have a function, a valid key, their own quota, or invocations, by name."""
    paging = {"limit": page_size, "cursor": cursor}
    return listing("/api/tenants", TenantPage, lambda page: page.tenants, paging)


def disable_tenant(tenant: str) -> Flow[Tenant]:
    """Disable a tenant: its credentials and invocations are refused, its instances end, and queued
    invocations wait.
    """
    return ask(post(f"/api/tenants/{segment(tenant)}/disable", Tenant, is_repeatable=True))


def enable_tenant(tenant: str) -> Flow[Tenant]:
    """Enable a disabled tenant."""
    return ask(post(f"/api/tenants/{segment(tenant)}/enable", Tenant, is_repeatable=True))


class Tenants(Group[AnyClient]):
    """`client.tenants`."""

    list = PagedMethod(list_tenants)
    disable = Method(disable_tenant)
    enable = Method(enable_tenant)
