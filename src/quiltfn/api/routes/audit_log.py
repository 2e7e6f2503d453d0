"""The route of the audit log."""

from typing import Protocol

from quiltfn import wire
from quiltfn.api import shapes
from quiltfn.api.http import pages, parse
from quiltfn.api.http.response import Response, json_response
from quiltfn.api.http.route import (
    Parameter,
    RequestContext,
    Route,
    RouteServices,
)
from quiltfn.api.routes.parameters import ADMIN, CURSOR, LIMIT, MOMENT
from quiltfn.model.errors import Unprocessable
from quiltfn.ports import AuditQuery
from quiltfn.store.tenants.audit import SqlAudit

AUDIT_DEFAULT, AUDIT_MAX = 100, 1000


class AuditServices(RouteServices, Protocol):
    """The services for the route of the audit log."""

    audit: SqlAudit


async def list_audit_entries(context: RequestContext[AuditServices]) -> Response:
    """List changes and refused changes, newest first. Operators see those of all tenants. If only
    few of very many entries match, a page can be short or empty although there is a next_cursor.
    """
    everything = context.caller.sees_all_tenants
    limit = parse.integer(context.query.get("limit", str(AUDIT_DEFAULT)), "limit", 1, AUDIT_MAX)
    query = context.query
    since, until = (
        parse.integer(query[name], name, 0, parse.UNIX_MAX) if name in query else None
        for name in ("from", "to")
    )
    if since is not None and until is not None and since > until:
        raise Unprocessable.field("from", "at or before to", query["from"])
    wanted = AuditQuery(
        tenant_id=None if everything else context.tenant_id,
        limit=limit,
        cursor=query.get("cursor"),
        action=query.get("action"),
        credential=query.get("credential"),
        object_id=query.get("object_id"),
        since=since,
        until=until,
    )
    async with pages.reserved(context):
        page = await context.services.audit.query(wanted)
        entries = [shapes.audit_entry(entry) for entry in page.items]
        return json_response(wire.AuditPage(entries=entries, next_cursor=page.next_cursor))


ACTION = Parameter(
    name="action",
    about="only this action, such as function.create, or this kind of action: function",
)


CREDENTIAL = Parameter(name="credential", about="only actions of this key or token, by id")


OBJECT = Parameter(name="object_id", about="only actions on this object, such as a function, by id")


ENTRIES_SINCE = Parameter(
    name="from",
    about="only actions at or after this time, in Unix seconds",
    schema=MOMENT,
)


ENTRIES_UNTIL = Parameter(
    name="to", about="only actions before this time, in Unix seconds", schema=MOMENT
)
ROUTES = [
    Route(
        "GET",
        "/api/audit",
        list_audit_entries,
        scope=ADMIN,
        answer=wire.AuditPage,
        parameters=(LIMIT, CURSOR, ACTION, CREDENTIAL, OBJECT, ENTRIES_SINCE, ENTRIES_UNTIL),
        for_visitors=True,
    ),
]
