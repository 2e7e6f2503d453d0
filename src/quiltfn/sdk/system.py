"""`client.system`: the server itself, and its audit log."""

from collections.abc import Sequence
from typing import Any

from quiltfn.sdk.events import TenantEventReader
from quiltfn.sdk.methods import (
    Listing,
    Method,
    OfAsyncClient,
    OfClient,
    PagedMethod,
    StreamMethod,
)
from quiltfn.sdk.named_function import on
from quiltfn.sdk.request import Flow, Request, ask, get, query, stream
from quiltfn.wire import AuditEntry, AuditPage, Health, Liveness, SystemInfo, Usage


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


def follow_events(
    function: str | None = None, *, types: Sequence[str] = (), after: str | None = None
) -> Flow[Any]:
    """Follow what happens in the tenant, from now on, as `TenantEvent`s; it does not end by itself.
    `function`: only what happens to this one. `types`: only these, such as "function" or
    "invocation.ended". `after`: go on behind the event with this id, at most a minute old.
    """
    headers = {} if after is None else {"Last-Event-ID": after}

    def of(function_id: str | None) -> Request[Any]:
        wanted = query(follow=True, function_id=function_id, types=",".join(types) or None)
        return stream("GET", f"/api/events{wanted}", headers=headers)

    return ask(of(None)) if function is None else on(function, of)


def get_usage(
    *,
    start: int | None = None,
    end: int | None = None,
    step: str | None = None,
    by: str | None = None,
) -> Flow[Usage]:
    """What the tenant's calls used. `start` and `end` in Unix seconds. `step`: "hour" or "day", the
    default. `by`: "function" for a row for each function.
    """
    wanted = query(**{"from": start, "to": end, "step": step, "by": by})
    return ask(get(f"/api/usage{wanted}", Usage))


class SystemMethods:
    """What both clients can ask a server about itself."""

    get_info = Method(get_info)
    get_health = Method(get_health)
    get_liveness = Method(get_liveness)
    list_audit_entries = PagedMethod(list_audit_entries)
    get_usage = Method(get_usage)
    follow_events = StreamMethod(follow_events, TenantEventReader)


class System(SystemMethods, OfClient):
    """`Client.system`."""


class AsyncSystem(SystemMethods, OfAsyncClient):
    """`AsyncClient.system`."""
