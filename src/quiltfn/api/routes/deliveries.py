"""The routes for deliveries to destinations."""

from typing import Protocol

from quiltfn import wire
from quiltfn.api import shapes
from quiltfn.api.http import pages, parse
from quiltfn.api.http.response import Response, json_response
from quiltfn.api.http.route import Parameter, RequestContext, Route, RouteServices
from quiltfn.api.routes.parameters import (
    CURSOR,
    FUNCTION,
    GONE,
    LIMIT,
    OF_FUNCTION,
    OF_LABEL,
    READ,
    WRITE,
)
from quiltfn.calls.deliveries import Deliveries
from quiltfn.functions.catalog import Entry
from quiltfn.model.delivery import Delivery, DeliveryStatus
from quiltfn.ports import TenantFunctions


class DeliveryServices(RouteServices, Protocol):
    """The services for the routes of deliveries."""

    deliveries: Deliveries


async def list_deliveries(context: RequestContext[DeliveryServices]) -> Response:
    """List the deliveries of a function, newest first. Failed ones stay listed until the records of
    their time are removed. If only few of very many match, a page can be short or empty although
    there is a next_cursor.
    """
    return await _deliveries(context, context.entry())


async def list_tenant_deliveries(context: RequestContext[DeliveryServices]) -> Response:
    """List the deliveries of all functions, newest first. If only few of very many match, a page
    can be short or empty although there is a next_cursor.
    """
    return await _deliveries(context, pages.functions_of(context))


async def _deliveries(
    context: RequestContext[DeliveryServices], of: Entry | TenantFunctions
) -> Response:
    query, status = context.query, context.query.get("status")
    if status is not None:
        parse.one_of(status, "status", tuple(DeliveryStatus), "failed")
    limit = pages.limit_of(context)
    wanted = DeliveryStatus(status) if status is not None else None
    async with pages.reserved(context):
        page = await context.services.deliveries.list(of, limit, query.get("cursor"), wanted)
        shown = (
            (one.id, shown_delivery(one, pages.name_of(context, one.function_id)))
            for one in page.items
        )
        return await pages.page_response(context, "deliveries", shown, limit, page.next_cursor)


async def retry_delivery(context: RequestContext[DeliveryServices]) -> Response:
    """Retry a failed or waiting delivery at once, with retries for another day. A delivery that was
    delivered, or whose content was removed to make room, stays as it is.
    """
    entry = context.entry()
    found = await context.services.deliveries.retry(entry, context.parameters["delivery_id"])
    return json_response(shown_delivery(found, entry.function.name))


def shown_delivery(delivery: Delivery, function_name: str | None) -> wire.Delivery:
    waits = delivery.status is DeliveryStatus.WAITING
    return wire.Delivery(
        delivery_id=delivery.id,
        function_id=delivery.function_id,
        function_name=function_name,
        invocation_id=delivery.invocation_id,
        policy_field=delivery.policy_field,
        status=delivery.status,
        attempts=delivery.attempts,
        next_attempt_at=delivery.due_at_ms // 1000 if waits else None,
        http_status=delivery.http_status,
        error_message=delivery.error_message,
        ended_at=delivery.ended_at,
        end_cause=shapes.end_cause(delivery.end_cause),
    )


# --- the routes ---

DELIVERY_STATUS = Parameter(
    name="status",
    about="only deliveries with this status",
    schema={"enum": list(DeliveryStatus)},
)
ROUTES = [
    Route(
        "GET",
        FUNCTION + "/deliveries",
        list_deliveries,
        scope=READ,
        answer=wire.DeliveryPage,
        parameters=(LIMIT, CURSOR, DELIVERY_STATUS),
    ),
    Route(
        "POST",
        FUNCTION + "/deliveries/{delivery_id}/retry",
        retry_delivery,
        scope=WRITE,
        answer=wire.Delivery,
        codes=("CONFLICT",),
        action="delivery.retry",
    ),
    Route(
        "GET",
        "/api/deliveries",
        list_tenant_deliveries,
        scope=READ,
        answer=wire.DeliveryPage,
        parameters=(LIMIT, CURSOR, OF_FUNCTION, OF_LABEL, DELIVERY_STATUS),
        codes=GONE,
    ),
]
