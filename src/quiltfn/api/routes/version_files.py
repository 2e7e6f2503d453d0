"""The routes for the files of a version: those of its image at /app, which never change."""

import re
from collections.abc import Sequence
from typing import Protocol

from quiltfn import wire
from quiltfn.api import shapes
from quiltfn.api.http import pages, parse
from quiltfn.api.http.byte_range import OCTETS, part_of
from quiltfn.api.http.response import Response
from quiltfn.api.http.route import RequestContext, Route, RouteServices
from quiltfn.api.routes.parameters import CURSOR, FUNCTION, LIMIT, RANGE, READ, WRITE
from quiltfn.functions.lifecycle import Lifecycle
from quiltfn.functions.tenant_images import TenantImages
from quiltfn.model.cursors import from_cursor
from quiltfn.model.errors import NotFound
from quiltfn.wire.numbers import VERSION_NUMBER_MAX

ANY_PATH = re.compile(".+", re.DOTALL)


class ImageFileServices(RouteServices, Protocol):
    """The services for listing the files of images."""

    tenant_images: TenantImages


class VersionFileServices(ImageFileServices, Protocol):
    """The services for the routes of a version's files."""

    lifecycle: Lifecycle


async def file_page(context: RequestContext[ImageFileServices], images: Sequence[str]) -> Response:
    """A page of the files of `images`, which are laid over each other and which the caller may see;
    without images, there are no files. Raises `Unprocessable`.
    """
    limit = pages.limit_of(context)
    after = from_cursor(context.query.get("cursor"), "", ANY_PATH)
    async with pages.reserved(context):
        found = await context.services.tenant_images.files(
            context.tenant_id, images, after, limit + 1
        )
        shown = ((one.path, shapes.runtime_file(one)) for one in found)
        return await pages.page_response(context, "files", shown, limit)


async def list_version_files(context: RequestContext[VersionFileServices]) -> Response:
    """List a version's files at /app, sorted by path. A version whose runtime has no image has
    none.
    """
    return await file_page(context, await _images_of(context))


async def get_version_file(context: RequestContext[VersionFileServices]) -> Response:
    """Read a file of a version, as it was uploaded: the code that runs. Symbolic links aren't
    followed and count as missing. `Range` requests a part.
    """
    images, path = await _images_of(context), context.parameters["path"]
    async with pages.reserved(context):
        most = context.services.limits.page_max
        content = await context.services.tenant_images.read(context.tenant_id, images, path, most)
        if content is None:
            raise NotFound("the version has no file with this path")
        headers = [("content-type", OCTETS), ("accept-ranges", "bytes")]
        part = part_of(len(content), context.headers.get("range"))
        if part is None:
            return Response(headers=headers, body=content)
        start, end = part
        headers.append(("content-range", f"bytes {start}-{end - 1}/{len(content)}"))
        return Response(status=206, headers=headers, body=content[start:end])


async def _images_of(context: RequestContext[VersionFileServices]) -> Sequence[str]:
    number = parse.integer(context.parameters["version"], "version", 1, VERSION_NUMBER_MAX)
    version = await context.services.lifecycle.version(context.entry(), number)
    return version.spec.runtime_snapshot.app_images


ROUTES = [
    Route(
        "GET",
        FUNCTION + "/versions/{version}/files",
        list_version_files,
        scope=READ,
        answer=wire.RuntimeFilePage,
        parameters=(LIMIT, CURSOR),
    ),
    Route(
        "GET",
        FUNCTION + "/versions/{version}/files/{path:path}",
        get_version_file,
        scope=WRITE,
        answer=str,
        texts=(OCTETS,),
        also={206: bytes},
        parameters=(RANGE,),
        codes=("RANGE_NOT_SATISFIABLE",),
        headers=("accept-ranges", "content-range"),
    ),
]
