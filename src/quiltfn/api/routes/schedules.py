"""The routes for schedules. Each handler runs a use case and encodes its result."""

import asyncio
from typing import Protocol

import msgspec

from quiltfn import wire
from quiltfn.api import shapes, zones
from quiltfn.api.http import pages
from quiltfn.api.http.response import INVOCATION_ID, Response, encode, json_response
from quiltfn.api.http.route import RequestContext, Route
from quiltfn.api.routes.invoke import AcceptServices, accepted, accepted_before
from quiltfn.api.routes.parameters import CURSOR, IDEMPOTENCY, INVOKE, LIMIT, READ, WRITE
from quiltfn.calls.schedules import Schedules
from quiltfn.model.cursors import BEFORE_EVERY_ID, from_cursor
from quiltfn.model.errors import Unprocessable
from quiltfn.ports.schedules import StoredSchedule

# Number of schedules that are read at a time.
SLICE = 10


class ScheduleServices(AcceptServices, Protocol):
    """The services for the routes of schedules."""

    schedules: Schedules


async def create_schedule(context: RequestContext[ScheduleServices]) -> Response:
    """Create a schedule, which runs a function by a cron expression or an interval. Each run is an
    asynchronous invocation, queued when it is due and retried according to the function's async
    policy.
    """
    body = context.body
    with zones.hinted():
        made = await context.services.schedules.create(
            context.tenant_id, body.function, shapes.schedule_of(body)
        )
    return await _shown(context, made, status=201)


async def list_schedules(context: RequestContext[ScheduleServices]) -> Response:
    """List the schedules of the tenant, oldest first."""
    limit = pages.limit_of(context)
    after = from_cursor(context.query.get("cursor"), BEFORE_EVERY_ID)
    async with pages.reserved(context):
        shown = await _shown_after(context, after, limit + 1)
        return await pages.page_response(context, "schedules", shown, limit)


async def _shown_after(
    context: RequestContext[ScheduleServices], after: str, count: int
) -> list[tuple[str, msgspec.Raw]]:
    """Up to `count` schedules with ids above `after`, until they exceed the size of a page. They
    are read and converted in slices, so that other requests run in between: each schedule may have
    thousands of variables, and finding its next due time may take milliseconds.
    """
    services, found, size = context.services, list[tuple[str, msgspec.Raw]](), 0
    while len(found) < count and size <= services.limits.page_max:
        most = min(SLICE, count - len(found))
        some = await services.schedules.of_tenant(context.tenant_id, after, most)
        for stored in some:
            after, text = stored.schedule.id, encode(_schedule(context, stored))
            found.append((after, msgspec.Raw(text)))
            size += len(text)
            await asyncio.sleep(0)
        if len(some) < most:
            break
    return found


async def get_schedule(context: RequestContext[ScheduleServices]) -> Response:
    """Show a schedule, its next five runs and its last one."""
    named = context.parameters["name"]
    return await _shown(context, await context.services.schedules.get(context.tenant_id, named))


async def update_schedule(context: RequestContext[ScheduleServices]) -> Response:
    """Change a schedule. Omitted fields keep their values. If its times change, an interval
    restarts.
    """
    changes = shapes.changes_of(context.body)
    if not changes:
        known = ", ".join(wire.ScheduleChanges.__struct_fields__)
        raise Unprocessable(
            "a change must name at least one field",
            details={"expected": f"one or more of: {known}", "example": {"enabled": False}},
        )
    function = changes.pop("function", None)
    with zones.hinted():
        changed = await context.services.schedules.change(
            context.tenant_id, context.parameters["name"], function, changes
        )
    return await _shown(context, changed)


async def delete_schedule(context: RequestContext[ScheduleServices]) -> Response:
    """Delete a schedule. Invocations that it has queued still run."""
    await context.services.schedules.remove(context.tenant_id, context.parameters["name"])
    return Response(status=204)


async def invoke_schedule(context: RequestContext[ScheduleServices]) -> Response:
    """Queue a run now, regardless of overlap and even if the schedule is disabled. Its due times
    don't change.
    """
    services = context.services
    with services.admission.call(context.tenant_id):
        record = await services.schedules.run_now(
            context.tenant_id,
            context.parameters["name"],
            context.caller.credential,
            context.invocation_id,
        )
    return accepted(record)


async def accepted_run(
    context: RequestContext[ScheduleServices], invocation_id: str
) -> Response | None:
    """202 for the run that an earlier request for this schedule has queued."""
    services = context.services
    stored = await services.schedules.get(context.tenant_id, context.parameters["name"])
    entry = services.catalog.get(stored.schedule.function_id)
    return await accepted_before(context, entry, invocation_id)


async def list_schedule_runs(context: RequestContext[ScheduleServices]) -> Response:
    """List the runs of a schedule, newest first, with the decision for each due time. Times that
    were missed together are one entry with their number. The last 1000 are stored.
    """
    limit = pages.limit_of(context)
    schedules, named = context.services.schedules, context.parameters["name"]
    cursor = from_cursor(context.query.get("cursor"), "")
    async with pages.reserved(context):
        page = await schedules.runs(
            context.tenant_id, named, _tick_of(cursor) if cursor else None, limit + 1
        )
        shown = ((_place(one.tick_ms), shapes.schedule_run(one)) for one in page.items)
        return await pages.page_response(context, "runs", shown, limit)


def _place(tick_ms: int) -> str:
    """The time of a tick in the form of an id, as cursors need."""
    digits = f"{tick_ms:012x}"
    return f"{digits[:8]}-{digits[8:]}-7000-8000-000000000000"


def _tick_of(place: str) -> int:
    return int(place[:8] + place[9:13], 16)


def _schedule(context: RequestContext[ScheduleServices], stored: StoredSchedule) -> wire.Schedule:
    name = context.services.schedules.function_name(stored.schedule)
    return shapes.schedule(stored, name, show=context.sees_values)


async def _shown(
    context: RequestContext[ScheduleServices], stored: StoredSchedule, status: int = 200
) -> Response:
    given = stored.schedule
    async with pages.reserved_for(context, pages.size_of(given.environment, given.payload)):
        response = json_response(_schedule(context, stored), status=status, object_id=given.id)
    response.object_name = given.name
    return response


ROUTES = [
    Route(
        "GET",
        "/api/schedules",
        list_schedules,
        scope=READ,
        answer=wire.SchedulePage,
        parameters=(LIMIT, CURSOR),
    ),
    Route(
        "POST",
        "/api/schedules",
        create_schedule,
        scope=WRITE,
        answer=wire.Schedule,
        status=201,
        body=wire.NewSchedule,
        is_idempotent=True,
        parameters=(IDEMPOTENCY,),
        codes=("CONFLICT", "RATE_LIMITED", "NOT_FOUND"),
        action="schedule.create",
    ),
    Route("GET", "/api/schedules/{name}", get_schedule, scope=READ, answer=wire.Schedule),
    Route(
        "PUT",
        "/api/schedules/{name}",
        update_schedule,
        scope=WRITE,
        answer=wire.Schedule,
        body=wire.ScheduleChanges,
        codes=("CONFLICT",),
        action="schedule.update",
    ),
    Route(
        "DELETE",
        "/api/schedules/{name}",
        delete_schedule,
        scope=WRITE,
        status=204,
        action="schedule.delete",
    ),
    Route(
        "POST",
        "/api/schedules/{name}/run",
        invoke_schedule,
        scope=INVOKE,
        answer=wire.Invocation,
        status=202,
        is_idempotent=True,
        parameters=(IDEMPOTENCY,),
        codes=("CAPACITY_FULL", "SHUTTING_DOWN", "FUNCTION_NOT_ACTIVE", "CONFLICT"),
        headers=(INVOCATION_ID, "location"),
        action="schedule.run",
        found=accepted_run,
    ),
    Route(
        "GET",
        "/api/schedules/{name}/runs",
        list_schedule_runs,
        scope=READ,
        answer=wire.ScheduleRunPage,
        parameters=(LIMIT, CURSOR),
    ),
]
