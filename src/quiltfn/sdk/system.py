"""`client.system`: the server itself, and its audit log."""

from collections.abc import Sequence
from typing import Any

from quiltfn.sdk.events import TenantEventReader
from quiltfn.sdk.filters import AuditFilters, parameters_of
from quiltfn.sdk.methods import (
    AnyClient,
    Group,
    Listing,
    Method,
    PagedMethod,
    StreamMethod,
    with_fields_of,
)
from quiltfn.sdk.named_function import listing, of_one
from quiltfn.sdk.request import Flow, Request, ask, get, listed, query, stream
from quiltfn.wire import (
    AuditEntry,
    AuditPage,
    DoctorReport,
    Health,
    InstanceList,
    Liveness,
    SystemInfo,
    Usage,
    Whoami,
)


def get_info() -> Flow[SystemInfo]:
    """Version, node, protections in force and limits."""
    return ask(get("/api/system/info", SystemInfo))


def whoami() -> Flow[Whoami]:
    """Whose key it is, what it may do and until when, and what the server offers."""
    return ask(get("/api/whoami", Whoami))


def get_doctor_report() -> Flow[DoctorReport]:
    """What `quiltfn doctor` finds on the server's machine, as far as a running server sees it, and
    the protections in force; operators only.
    """
    return ask(get("/api/system/doctor", DoctorReport))


def list_instances(function: str | None = None, *, most: int | None = None) -> Flow[InstanceList]:
    """The instances of all tenants on all nodes, the oldest first, and what they share; operators
    only. `function`: only those of this one, by its name or id. `most`: at most so many.
    """

    def of(function_id: str | None) -> Request[InstanceList]:
        return get(f"/api/instances{query(function_id=function_id, limit=most)}", InstanceList)

    return of_one(function, of)


def get_health() -> Flow[Health]:
    """Whether the server can do its work, and why not."""
    return ask(get("/api/functions/health", Health))


def get_liveness() -> Flow[Liveness]:
    """Whether the server answers at all; needs no key."""
    return ask(get("/health", Liveness))


def get_readiness() -> Flow[Liveness]:
    """Whether the server takes calls, which one that ends or is drained does not; needs no key."""
    return ask(get("/health/ready", Liveness))


@with_fields_of(AuditFilters)
def list_audit_entries(filters: AuditFilters) -> Listing[AuditPage, AuditEntry]:
    """Who changed what, or was refused it, newest first. `action`: only this, such as
    "function.create", or all of its kind: "function". `object_id`: only what was done to this one.
    """
    wanted = parameters_of(filters)
    return listing("/api/audit", AuditPage, lambda page: page.entries, wanted)


def follow_events(
    function: str | None = None, *, types: Sequence[str] = (), after: str | None = None
) -> Flow[Any]:
    """Follow what happens in the tenant, from now on, as `TenantEvent`s; it does not end by itself.
    `function`: only what happens to this one. `types`: only these, such as "function" or
    "invocation.ended". `after`: go on behind the event with this id, at most a minute old.
    """
    headers = {} if after is None else {"Last-Event-ID": after}
    chosen = ",".join(listed("types", types)) or None

    def of(function_id: str | None) -> Request[Any]:
        wanted = query(follow=True, function_id=function_id, types=chosen)
        return stream("GET", f"/api/events{wanted}", headers=headers)

    return of_one(function, of)


def get_usage(
    *,
    start: int | None = None,
    end: int | None = None,
    step: str | None = None,
    by: str | None = None,
) -> Flow[Usage]:
    """What the tenant's calls used. `start` and `end` in Unix seconds. `step`: "hour", "day",
    the default, or "all" for the whole time at once. `by`: "function" for a row for each function.
    """
    wanted = query(**{"from": start, "to": end, "step": step, "by": by})
    return ask(get(f"/api/usage{wanted}", Usage))


class System(Group[AnyClient]):
    """`client.system`."""

    get_info = Method(get_info)
    whoami = Method(whoami)
    get_doctor_report = Method(get_doctor_report)
    list_instances = Method(list_instances)
    get_health = Method(get_health)
    get_liveness = Method(get_liveness)
    get_readiness = Method(get_readiness)
    list_audit_entries = PagedMethod(list_audit_entries)
    get_usage = Method(get_usage)
    follow_events = StreamMethod(follow_events, TenantEventReader)
