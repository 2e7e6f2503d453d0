"""`client.tenants`: tenants, which operators see, disable and enable."""

from quiltfn.sdk.methods import Listing, Method, OfAsyncClient, OfClient, PagedMethod
from quiltfn.sdk.request import Flow, ask, get, post, query, segment
from quiltfn.wire import Tenant, TenantPage


def list_tenants(
    *, page_size: int | None = None, cursor: str | None = None
) -> Listing[TenantPage, Tenant]:
    """The tenants that have a function, a valid key, a quota of their own, or calls, by name."""

    def page_after(after: str | None) -> Flow[TenantPage]:
        return ask(get(f"/api/tenants{query(limit=page_size, cursor=after)}", TenantPage))

    return Listing(page_after, lambda page: page.tenants, cursor)


def disable_tenant(tenant: str) -> Flow[Tenant]:
    """Disable a tenant: its credentials and calls are refused, its instances end, and what is
    queued waits.
    """
    return ask(post(f"/api/tenants/{segment(tenant)}/disable", Tenant, is_repeatable=True))


def enable_tenant(tenant: str) -> Flow[Tenant]:
    """Enable a tenant that was disabled."""
    return ask(post(f"/api/tenants/{segment(tenant)}/enable", Tenant, is_repeatable=True))


class TenantMethods:
    """What both clients can do with tenants."""

    list = PagedMethod(list_tenants)
    disable = Method(disable_tenant)
    enable = Method(enable_tenant)


class Tenants(TenantMethods, OfClient):
    """`Client.tenants`."""


class AsyncTenants(TenantMethods, OfAsyncClient):
    """`AsyncClient.tenants`."""
