"""`client.system`: the server itself, and its audit log."""

from quiltfn.sdk.methods import Listing, Method, OfAsyncClient, OfClient, PagedMethod
from quiltfn.sdk.request import Flow, ask, get, query
from quiltfn.wire import AuditEntry, AuditPage, Health, Liveness, SystemInfo


def get_info() -> Flow[SystemInfo]:
    """Version, node, protections in force and limits."""
    return ask(get("/api/system/info", SystemInfo))


def get_health() -> Flow[Health]:
    """Whether the server can do its work, and why not."""
    return ask(get("/api/functions/health", Health))


def get_liveness() -> Flow[Liveness]:
    """Whether the server answers at all; needs no key."""
    return ask(get("/health", Liveness))


def list_audit_entries(
    *, page_size: int | None = None, cursor: str | None = None
) -> Listing[AuditPage, AuditEntry]:
    """Who changed what, or was refused it, newest first."""

    def page_after(after: str | None) -> Flow[AuditPage]:
        return ask(get(f"/api/audit{query(limit=page_size, cursor=after)}", AuditPage))

    return Listing(page_after, lambda page: page.entries, cursor)


class SystemMethods:
    """What both clients can ask a server about itself."""

    get_info = Method(get_info)
    get_health = Method(get_health)
    get_liveness = Method(get_liveness)
    list_audit_entries = PagedMethod(list_audit_entries)


class System(SystemMethods, OfClient):
    """`Client.system`."""


class AsyncSystem(SystemMethods, OfAsyncClient):
    """`AsyncClient.system`."""
