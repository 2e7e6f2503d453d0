"""The routes over runtimes: what each does, parse being done: call a verb, render."""

import re

from quiltfn import wire
from quiltfn.api import shapes
from quiltfn.api.http import pages, parse
from quiltfn.api.http.response import Response, json_response
from quiltfn.api.http.route import Parameter, RequestContext, Route
from quiltfn.api.routes.parameters import CURSOR, LIMIT, READ, WRITE
from quiltfn.api.routes.version_files import ImageFileServices, file_page
from quiltfn.functions.runtimes import OwnedRuntime, Runtimes, is_own
from quiltfn.model.access import Scope
from quiltfn.model.cursors import from_cursor
from quiltfn.model.image import UPLOADED, Archive, Contents
from quiltfn.model.runtime import NAME

# Of a runtime in the list: the server's own go before the others.
PLACE = re.compile(f"[01]{NAME.pattern}")


class RuntimeServices(ImageFileServices):
    """What the routes of runtimes and their images take."""

    runtimes: Runtimes


async def list_runtimes(context: RequestContext[RuntimeServices]) -> Response:
    """List the runtimes that the tenant's functions can use: the server's own, the tenant's, and
    those that all tenants share.
    """
    limit = pages.limit_of(context, pages.PAGE_MAX)
    after = from_cursor(context.query.get("cursor"), "", PLACE)
    async with pages.reserved(context):
        found = context.services.runtimes.all(context.tenant_id)
        shown = (
            (place, _shown(context, named))
            for named in found
            if (place := f"{int(not is_own(named.runtime))}{named.runtime.name}") > after
        )
        return await pages.page_response(context, "runtimes", shown, limit)


async def get_runtime(context: RequestContext[RuntimeServices]) -> Response:
    """Show a runtime. Keys that can write see the values of its environment; of a shared runtime
    only operators see them.
    """
    named = context.services.runtimes.get(context.tenant_id, context.parameters["name"])
    return await _response(context, named)


async def add_runtime(context: RequestContext[RuntimeServices]) -> Response:
    """Add a runtime to the tenant, or replace the one of that name. With `shared`, an operator adds
    it for all tenants. Existing versions of functions keep what they were made with; the next
    update of a function uses the new runtime. If the same runtime exists already, the response is
    200. The server's settings say which kinds, isolation and network tenants can use.
    """
    shared = context.body.shared
    if shared:
        context.caller.must_have(Scope.OPERATOR)
    named, is_new = await context.services.runtimes.add(
        context.tenant_id,
        shapes.runtime_of(context.body),
        shared=shared,
        is_operator=context.caller.scope.includes(Scope.OPERATOR),
    )
    response = await _response(context, named)
    response.status, response.object_id = 201 if is_new else 200, named.runtime.name
    return response


async def remove_runtime(context: RequestContext[RuntimeServices]) -> Response:
    """Remove a runtime of the tenant or, with `shared=true` and an operator's key, a shared one.
    New versions cannot use it; existing ones keep it.
    """
    shared = parse.boolean(context.query.get("shared", "false"), "shared")
    if shared:
        context.caller.must_have(Scope.OPERATOR)
    runtimes = context.services.runtimes
    await runtimes.remove(context.tenant_id, context.parameters["name"], shared=shared)
    return Response(status=204)


async def list_runtime_files(context: RequestContext[RuntimeServices]) -> Response:
    """List the files that a runtime has at /app, in the order of their paths. A runtime without an
    image has none of its own.
    """
    named = context.services.runtimes.get(context.tenant_id, context.parameters["name"])
    return await file_page(context, named.runtime.app_images)


async def list_runtime_packages(context: RequestContext[RuntimeServices]) -> Response:
    """List the packages of Python and Node among the files of a runtime, by what they say of
    themselves.
    """
    services = context.services
    named = services.runtimes.get(context.tenant_id, context.parameters["name"])
    async with pages.reserved(context):
        found, is_complete = await services.tenant_images.packages(
            context.tenant_id, named.runtime.app_images
        )
        shown = (("", shapes.runtime_package(package)) for package in found)
        return await pages.page_response(
            context, "packages", shown, len(found), is_complete=is_complete
        )


async def upload_image(context: RequestContext[RuntimeServices]) -> Response:
    """Upload the files that a runtime has at /app, as one tar archive, plain or gzipped. A runtime
    of the tenant names them by the digest in the response, as `image`. With `contents=rootfs` the
    archive is a root file system, with `contents=image` an execution image (an OCI layout, or what
    `docker save` writes); a runtime names it as `base_image`. The same files have the same digest
    however they were packed; if the tenant has them already, the response is 200. All images of a
    tenant together have a quota. An image that no runtime or version of the tenant uses is removed
    after a while. A node of a fleet responds once a second node has the image, if one can be
    reached; if none takes it, the response is 503, and the upload may be repeated.
    """
    kind = context.headers["content-type"].partition(";")[0].strip().lower()
    wanted = context.query.get("contents", Contents.FILES)
    contents = parse.one_of(wanted, "contents", UPLOADED, Contents.ROOTFS)
    request = context.request
    request.ends_with_client = True  # it may wait for its turn, and has a turn, for minutes

    def finish() -> None:
        request.ends_with_client = False

    image = await context.services.tenant_images.take(
        context.tenant_id, Archive(kind), context.body, Contents(contents), finish
    )
    return json_response(
        shapes.image(image),
        status=201 if image.is_new else 200,
        object_id=image.digest,
    )


async def _response(context: RequestContext[RuntimeServices], named: OwnedRuntime) -> Response:
    async with pages.reserved_for(context, pages.size_of(named.runtime.environment)):
        return json_response(_shown(context, named))


def _shown(context: RequestContext[RuntimeServices], named: OwnedRuntime) -> wire.Runtime:
    is_operator = context.caller.scope.includes(Scope.OPERATOR)
    show = is_operator if named.is_shared else context.sees_values
    return shapes.runtime(named, show=show)


# --- the routes ---

CONTENTS = Parameter(
    name="contents",
    about="what the archive holds: files for /app, the default; rootfs, a root file system; or "
    "image, an execution image as an OCI layout or as docker save writes it",
    schema={"enum": list(UPLOADED)},
    example="rootfs",
)
SHARED = Parameter(
    name="shared",
    about="true: the runtime that all tenants share; needs an operator's key",
    schema={"type": "boolean"},
)
LIST_RUNTIMES = Route(
    handler=list_runtimes,
    scope=READ,
    answer=wire.RuntimeList,
    parameters=(LIMIT, CURSOR),
)
GET_RUNTIME = Route(handler=get_runtime, scope=READ, answer=wire.Runtime)
RUNTIME_FILES = Route(
    handler=list_runtime_files,
    scope=READ,
    answer=wire.RuntimeFilePage,
    parameters=(LIMIT, CURSOR),
)
RUNTIME_PACKAGES = Route(handler=list_runtime_packages, scope=READ, answer=wire.RuntimePackageList)
ADD_RUNTIME = Route(
    handler=add_runtime,
    scope=WRITE,
    answer=wire.Runtime,
    status=201,
    body=wire.NewRuntime,
    codes=("CONFLICT", "RATE_LIMITED"),
    also={200: wire.Runtime},
    action="runtime.add",
)
REMOVE_RUNTIME = Route(
    handler=remove_runtime,
    scope=WRITE,
    status=204,
    parameters=(SHARED,),
    codes=("CONFLICT",),
    action="runtime.remove",
)
UPLOAD_IMAGE = Route(
    handler=upload_image,
    scope=WRITE,
    parameters=(CONTENTS,),
    answer=wire.Image,
    status=201,
    codes=("RATE_LIMITED", "CAPACITY_FULL"),
    also={200: wire.Image},
    streams=tuple(Archive),
    action="image.upload",
)
