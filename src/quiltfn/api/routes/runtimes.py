"""The routes for runtimes. Each handler runs a use case and encodes its result."""

import re
from typing import Protocol

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

# A runtime's position in the list: the server's own runtimes come first.
PLACE = re.compile(f"[01]{NAME.pattern}")


class RuntimeServices(ImageFileServices, Protocol):
    """The services for the routes of runtimes and their images."""

    runtimes: Runtimes


async def list_runtimes(context: RequestContext[RuntimeServices]) -> Response:
    """List the runtimes that the tenant's functions can use: built-in ones, the tenant's, and those
    shared by all tenants.
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
    """Show a runtime. Keys of scope write or higher see the values of its environment; for a shared
    runtime, only operators see them.
    """
    named = context.services.runtimes.get(context.tenant_id, context.parameters["name"])
    return await _response(context, named)


async def add_runtime(context: RequestContext[RuntimeServices]) -> Response:
    """Add or replace a runtime of the tenant. With `shared`, an operator adds it for all tenants.
    Existing versions of functions keep the old runtime; the next update of a function uses the new
    one. If the same runtime already exists, the response is 200. The server's settings define which
    kinds, isolations and networks tenants can use.
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
    """Remove a runtime of the tenant. With `shared=true` and an operator's key, remove a shared
    one. New versions can't use it; existing ones keep it.
    """
    shared = parse.boolean(context.query.get("shared", "false"), "shared")
    if shared:
        context.caller.must_have(Scope.OPERATOR)
    runtimes = context.services.runtimes
    await runtimes.remove(context.tenant_id, context.parameters["name"], shared=shared)
    return Response(status=204)


async def list_runtime_files(context: RequestContext[RuntimeServices]) -> Response:
    """List a runtime's files at /app, sorted by path. A runtime without an image has none."""
    named = context.services.runtimes.get(context.tenant_id, context.parameters["name"])
    return await file_page(context, named.runtime.app_images)


async def list_runtime_packages(context: RequestContext[RuntimeServices]) -> Response:
    """List the Python and Node.js packages among a runtime's files, according to their metadata."""
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
    """Upload a runtime's files for /app as a tar archive, plain or gzipped. A runtime refers to
    them by the digest in the response, as `image`. With `contents=rootfs`, the archive is a root
    file system; with `contents=image`, a container image (an OCI layout, or the output of `docker
    save`); a runtime refers to either as `base_image`. Equal files have the same digest regardless
    of how they were packed; if the tenant already has them, the response is 200. A tenant's images
    have a common quota. An image that no runtime or version of the tenant uses is removed after a
    while. A node of a fleet responds once a second node has the image, if one is reachable; if none
    accepts it, the response is 503, and the upload can be repeated.
    """
    kind = context.headers["content-type"].partition(";")[0].strip().lower()
    wanted = context.query.get("contents", Contents.FILES)
    contents = parse.one_of(wanted, "contents", UPLOADED, Contents.ROOTFS)
    request = context.request
    request.ends_with_client = True  # it may wait, and then take, minutes

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
    about="content of the archive: files for /app (default); rootfs, a root file system; or "
    "image, a container image as an OCI layout or the output of docker save",
    schema={"enum": list(UPLOADED)},
    example="rootfs",
)
SHARED = Parameter(
    name="shared",
    about="true: the runtime shared by all tenants; needs an operator's key",
    schema={"type": "boolean"},
)
ROUTES = [
    Route(
        "GET",
        "/api/runtimes",
        list_runtimes,
        scope=READ,
        answer=wire.RuntimeList,
        parameters=(LIMIT, CURSOR),
    ),
    Route(
        "POST",
        "/api/runtimes",
        add_runtime,
        scope=WRITE,
        answer=wire.Runtime,
        status=201,
        body=wire.NewRuntime,
        codes=("CONFLICT", "RATE_LIMITED"),
        also={200: wire.Runtime},
        action="runtime.add",
    ),
    Route(
        "POST",
        "/api/runtimes/images",
        upload_image,
        scope=WRITE,
        parameters=(CONTENTS,),
        answer=wire.Image,
        status=201,
        codes=("RATE_LIMITED", "CAPACITY_FULL"),
        also={200: wire.Image},
        streams=tuple(Archive),
        action="image.upload",
    ),
    Route("GET", "/api/runtimes/{name}", get_runtime, scope=READ, answer=wire.Runtime),
    Route(
        "DELETE",
        "/api/runtimes/{name}",
        remove_runtime,
        scope=WRITE,
        status=204,
        parameters=(SHARED,),
        codes=("CONFLICT",),
        action="runtime.remove",
    ),
    Route(
        "GET",
        "/api/runtimes/{name}/files",
        list_runtime_files,
        scope=READ,
        answer=wire.RuntimeFilePage,
        parameters=(LIMIT, CURSOR),
    ),
    Route(
        "GET",
        "/api/runtimes/{name}/packages",
        list_runtime_packages,
        scope=READ,
        answer=wire.RuntimePackageList,
    ),
]
