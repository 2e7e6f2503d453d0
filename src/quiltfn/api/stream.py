"""A body that is handed on while it arrives: bounded in size, and each chunk in time."""

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import Request

from quiltfn.api.route import ApiLimits, Route
from quiltfn.model.errors import BadRequest, PayloadTooLarge, UnsupportedMediaType


def streamed(route: Route, request: Request, limits: ApiLimits) -> AsyncIterator[bytes]:
    """The body's chunks. Raises `UnsupportedMediaType`, `PayloadTooLarge` before the first one."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in route.streams:
        known = " or ".join(route.streams)
        raise UnsupportedMediaType(f"the body must be an archive, sent with Content-Type: {known}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("the body must be sent as it is, without a Content-Encoding")
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limits.image_max:
        raise PayloadTooLarge(
            f"the body has {announced} bytes; this route takes {limits.image_max}"
        )
    return _chunks(request, limits)


async def _chunks(request: Request, limits: ApiLimits) -> AsyncIterator[bytes]:
    """A large archive may take long; a sender that falls silent may not."""
    size, stream = 0, aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(limits.body_timeout_s):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise BadRequest(
                f"nothing more of the body arrived within {limits.body_timeout_s:g} s"
            ) from None
        if chunk is None:
            return
        size += len(chunk)
        if size > limits.image_max:
            raise PayloadTooLarge(
                f"the body is longer than the {limits.image_max} bytes this route takes"
            )
        yield chunk
