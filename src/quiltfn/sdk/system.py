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
    """The key's tenant, scope and expiry, and the server's features."""
    return ask(get("/api/whoami", Whoami))


def get_doctor_report() -> Flow[DoctorReport]:
    """The system checks of `quiltfn doctor` that a running server can do, and the protections in
    force; operators only.
    """
    return ask(get("/api/system/doctor", DoctorReport))


def list_instances(function: str | None = None, *, most: int | None = None) -> Flow[InstanceList]:
    """The instances of all tenants on all nodes, oldest first, and shared resources; operators
    only. `function`: only instances of this function, by its name or id. `most`: the maximum
    number.
    """

    def of(function_id: str | None) -> Request[InstanceList]:
        return get(f"/api/instances{query(function_id=function_id, limit=most)}", InstanceList)

    return of_one(function, of)


def get_health() -> Flow[Health]:
    """Whether the server is ready, and the reasons if it isn't."""
    return ask(get("/api/functions/health", Health))


def get_liveness() -> Flow[Liveness]:
    """Whether the server responds at all; needs no key."""
    return ask(get("/health", Liveness))


def get_readiness() -> Flow[Liveness]:
    """Whether the server accepts invocations, that is, is neither ending nor drained. Needs no
    key.
    """
    return ask(get("/health/ready", Liveness))


@with_fields_of(AuditFilters)
def list_audit_entries(filters: AuditFilters) -> Listing[AuditPage, AuditEntry]:
    """Changes and refused changes with their actors, newest first. `action`: such as
    "function.create", or a kind of action: "function". `object_id`: only changes of this object.
    """
    wanted = parameters_of(filters)
    return listing("/api/audit", AuditPage, lambda page: page.entries, wanted)


def follow_events(
    function: str | None = None, *, types: Sequence[str] = (), after: str | None = None
) -> Flow[Any]:
    """Follow the tenant's events from now on, as `TenantEvent`s, without an end. `function`: only
    events of this function. `types`: only these types, such as "function" or "invocation.ended".
    `after`: resume after the event with this id, which must not be older than a minute.
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
    """The usage of the tenant's invocations. `start` and `end` in Unix seconds. `step`: "hour",
    "day" (default), or "all" for the whole period. `by`: "function" for a row for each function.
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
