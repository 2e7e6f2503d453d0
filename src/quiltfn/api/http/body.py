"""Reads a request's body within limits of size and time, as one JSON text or as a stream."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

from quiltfn.api.http import parse
from quiltfn.api.http.passed_on import bounded, check_announced, too_long
from quiltfn.api.http.request import Request
from quiltfn.api.http.response import JSON
from quiltfn.api.http.route import AnyRoute, ApiLimits
from quiltfn.model.errors import BadRequest, Unprocessable, UnsupportedMediaType


def _check_encoding(request: Request) -> None:
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("the body must be sent as it is, without a Content-Encoding")


async def read_whole(
    request: Request, limit: int, timeout_s: float, reserve: Callable[[int], None]
) -> bytes:
    """Read the body. Raises as soon as the body is known to be too long, too slow, or over the
    budget.

    `reserve` gets the size so far and may refuse it.
    """
    check_announced(request, limit)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.chunks():
                size += len(chunk)
                if size > limit:
                    raise too_long(limit)
                reserve(size)
                chunks.append(chunk)
    except TimeoutError:
        raise BadRequest(f"the body did not arrive within {timeout_s:g} s") from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def parsed(route: AnyRoute, raw: bytes, request: Request, limits: Mapping[str, float]) -> object:
    """Parse a nonempty body by its route's schema. `limits`: see `parse.shape`."""
    kind = request.headers.get("content-type", "")
    if kind != JSON and kind.partition(";")[0].strip().lower() != JSON:
        raise UnsupportedMediaType(
            "the body must be JSON, sent with Content-Type: application/json"
        )
    if "content-encoding" in request.headers:
        _check_encoding(request)
    value = parse.json_value(raw)
    if route.body is None:
        if value != {}:
            expected = "empty: this call takes none"
            raise Unprocessable.field("", expected, value, label="the body")
        return None
    return parse.shape(value, route.body, limits)


def streamed(route: AnyRoute, request: Request, limits: ApiLimits) -> AsyncIterator[bytes]:
    """The body's chunks as they arrive. Raises `UnsupportedMediaType` and `PayloadTooLarge` before
    the first one.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in route.streams:
        known = " or ".join(route.streams)
        raise UnsupportedMediaType(f"the body must be an archive, sent with Content-Type: {known}")
    _check_encoding(request)
    limit = limits.image_max
    check_announced(request, limit)
    return bounded(request, limit, limits.body_timeout_s)
