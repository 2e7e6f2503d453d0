"""The routes for functions. Each handler runs a use case and encodes its result."""

from typing import Protocol

from quiltfn import wire
from quiltfn.api import shapes
from quiltfn.api.http import pages, parse
from quiltfn.api.http.etags import if_match
from quiltfn.api.http.response import Response, json_response
from quiltfn.api.http.route import AnyContext, Parameter, RequestContext, Route
from quiltfn.api.routes.function_list import FunctionListServices, shown_function
from quiltfn.api.routes.parameters import FUNCTION, GONE, IDEMPOTENCY, IF_MATCH, READ, WRITE
from quiltfn.functions.catalog import Entry
from quiltfn.functions.lifecycle import Lifecycle
from quiltfn.functions.urls import Urls
from quiltfn.model.errors import (
    Unprocessable,
)
from quiltfn.model.url import path_of
from quiltfn.tenants.admission import Admission

# The values of `default_alias`: whether an update moves the default alias.
MOVES = ("move", "keep")


class FunctionServices(FunctionListServices, Protocol):
    """The services for the routes of functions."""

    admission: Admission
    lifecycle: Lifecycle
    urls: Urls


async def create_function(context: RequestContext[FunctionServices]) -> Response:
    """Create a function with version 1. Its state is pending until it is deployed."""
    new, spec = shapes.split(context.body)
    services = context.services
    await services.lifecycle.others.catch_up()  # other nodes may have created functions
    services.admission.check_functions(context.tenant_id, services.catalog.count(context.tenant_id))
    entry = await services.lifecycle.create(context.tenant_id, new, spec)
    function = entry.function
    answer = wire.CreatedFunction(
        function_id=function.id, name=function.name, state=function.state, version=1
    )
    return json_response(answer, status=201, object_id=function.id)


async def get_function(context: RequestContext[FunctionServices]) -> Response:
    """Show a function. To avoid overwriting another change, send its ETag as If-Match with your
    update. x-function-url is its path over plain HTTP, if it has a URL.
    """
    entry = context.entry()
    response = await function_response(context, entry)
    if context.services.urls.of(entry.function.id) is not None:
        path = path_of(context.tenant_id, entry.function.name)
        response.headers.append(("x-function-url", path))
    return response


async def get_function_by_name(context: RequestContext[FunctionServices]) -> Response:
    """Show a function by its name."""
    return await function_response(context, context.entry_by_name())


async def update_function(context: RequestContext[FunctionServices]) -> Response:
    """Update a function by creating a new version. Existing versions never change. Omitted fields
    keep their values, and null resets a nullable field. For an active function, the response comes
    once the new version is current, or with error_message if it can't start. Then the default alias
    names the new version. It stays unchanged with default_alias=keep; and without default_alias, if
    the code is the same and the alias sends invocations to another version than the previous
    current one, such as after an automatic rollback.
    """
    moves = moves_default(context)
    changes = shapes.changes_of(context.body)
    if not changes:
        known = ", ".join(wire.FunctionChanges.__struct_fields__)
        raise Unprocessable(
            "an update must name at least one field",
            details={"expected": f"one or more of: {known}", "example": {"handler": "echo hello"}},
        )
    entry = context.entry()
    lifecycle, expected = context.services.lifecycle, if_match(context)
    return await function_response(
        context, await lifecycle.update(entry, changes, expected, moves_default=moves)
    )


def moves_default(context: AnyContext) -> bool | None:
    """Whether the default alias moves. None: the request has no `default_alias`."""
    asked = context.query.get("default_alias")
    if asked is None:
        return None
    return parse.one_of(asked, "default_alias", MOVES, "keep") == "move"


async def delete_function(context: RequestContext[FunctionServices]) -> Response:
    """Delete a function. New and waiting invocations get 404 at once; running ones are cancelled
    after 5 seconds.
    """
    entry = context.entry()
    await context.services.lifecycle.delete(entry)
    return Response(status=204, object_name=entry.function.name)


async def deploy_function(context: RequestContext[FunctionServices]) -> Response:
    """Deploy a function by starting its instances. In the response, the state is active; or error,
    with the reason in error_message; or deploying after 20 seconds.
    """
    return await function_response(
        context, await context.services.lifecycle.deploy(context.entry())
    )


async def pause_function(context: RequestContext[FunctionServices]) -> Response:
    """Pause a function. New and waiting synchronous invocations are refused, asynchronous ones wait
    in the queue, running ones finish, and all instances end.
    """
    await context.services.lifecycle.pause(context.entry())
    return json_response(wire.PauseResult())


async def resume_function(context: RequestContext[FunctionServices]) -> Response:
    """Resume a paused function by deploying it again."""
    return await function_response(
        context, await context.services.lifecycle.resume(context.entry())
    )


async def function_response(
    context: RequestContext[FunctionListServices], entry: Entry
) -> Response:
    async with pages.reserved_for(context, entry.version.spec.size):
        function = shown_function(context, entry)
        return json_response(function, headers=[("etag", f'"{entry.fingerprint()}"')])


# --- the routes ---

DEFAULT_ALIAS = Parameter(
    name="default_alias",
    about="move: the default alias, if there is one, moves to the version that becomes current; "
    "keep: the alias and the invocations by it stay with their version. By default the alias "
    "moves, except in an update that leaves the code unchanged if the alias names a version other "
    "than the current one",
    schema={"enum": list(MOVES)},
    example="keep",
)
ROUTES = [
    Route(
        "POST",
        "/api/functions",
        create_function,
        scope=WRITE,
        answer=wire.CreatedFunction,
        status=201,
        body=wire.NewFunction,
        is_idempotent=True,
        parameters=(IDEMPOTENCY,),
        codes=("CONFLICT", "RATE_LIMITED", "CAPACITY_FULL"),
        action="function.create",
    ),
    Route(
        "GET",
        "/api/functions/by-name/{name}",
        get_function_by_name,
        scope=READ,
        answer=wire.Function,
        codes=GONE,
    ),
    Route(
        "GET", FUNCTION, get_function, scope=READ, answer=wire.Function, headers=("x-function-url",)
    ),
    Route(
        "PUT",
        FUNCTION,
        update_function,
        scope=WRITE,
        answer=wire.Function,
        body=wire.FunctionChanges,
        parameters=(IF_MATCH, DEFAULT_ALIAS),
        codes=("RATE_LIMITED", "CONFLICT", "PRECONDITION_FAILED"),
        action="function.update",
    ),
    Route("DELETE", FUNCTION, delete_function, scope=WRITE, status=204, action="function.delete"),
    Route(
        "POST",
        FUNCTION + "/deploy",
        deploy_function,
        scope=WRITE,
        answer=wire.Function,
        codes=("UNPROCESSABLE_ENTITY",),
        action="function.deploy",
    ),
    Route(
        "POST",
        FUNCTION + "/pause",
        pause_function,
        scope=WRITE,
        answer=wire.PauseResult,
        codes=("CONFLICT", "UNPROCESSABLE_ENTITY"),
        action="function.pause",
        for_visitors=True,
    ),
    Route(
        "POST",
        FUNCTION + "/resume",
        resume_function,
        scope=WRITE,
        answer=wire.Function,
        codes=("CONFLICT", "UNPROCESSABLE_ENTITY"),
        action="function.resume",
        for_visitors=True,
    ),
]
