"""Bodies that are forwarded while they arrive, with a maximum size and a minimum rate.

Rule: such a body can be read only once, so nothing may be retried with it.
"""

import asyncio
from collections.abc import AsyncGenerator

from quiltfn.api.http.connections import LEAST_PROGRESS
from quiltfn.api.http.request import ClientDisconnected, Request
from quiltfn.model.errors import BadRequest, PayloadTooLarge, QuiltfnError
from quiltfn.ports.streamed_body import BodyCut

# A body's maximum share of the budget of long bodies: data that was received but not read, and data
# that was read but not written. One read returns up to 250 KiB.
HELD_BYTES = 512 * 1024
LEFT = "its caller went away before the body had ended"


def too_long(limit: int) -> PayloadTooLarge:
    """The error for a body of more than `limit` bytes."""
    return PayloadTooLarge(f"the body is longer than the {limit} bytes this route takes")


def announced_length(request: Request) -> int | None:
    """The announced length of the body. None: the request does not announce it."""
    if "transfer-encoding" in request.headers:
        return None
    length = request.headers.get("content-length", "0").strip()
    return int(length) if length.isdigit() else 0


def check_announced(request: Request, limit: int) -> None:
    """Refuse a body whose announced length is too long, before any of it is read."""
    announced = announced_length(request) or 0
    if announced > limit:
        raise PayloadTooLarge(f"the body has {announced} bytes; this route takes {limit}")


async def bounded(request: Request, limit: int, timeout_s: float) -> AsyncGenerator[bytes, None]:
    """Yield a body, which may take any time as long as at least `LEAST_PROGRESS` bytes arrive
    within each `timeout_s`. Only the time of waiting for the sender counts. Raises `BadRequest`,
    `PayloadTooLarge` and `ClientDisconnected`.
    """
    loop, chunks = asyncio.get_running_loop(), request.chunks()
    size = seen = 0
    left_s = timeout_s
    while True:
        began = loop.time()
        try:
            async with asyncio.timeout(left_s):
                chunk = await anext(chunks, None)
        except TimeoutError:
            arrived = f"only {size - seen} bytes" if size > seen else "nothing more"
            raise BadRequest(f"{arrived} of the body arrived within {timeout_s:g} s") from None
        if chunk is None:
            return
        left_s -= loop.time() - began
        is_first, size = size == 0, size + len(chunk)
        if is_first or size - seen >= LEAST_PROGRESS:
            seen, left_s = size, timeout_s
        if size > limit:
            raise too_long(limit)
        yield chunk


class PassedOnBody:
    """`ports.streamed_body.StreamedBody` of a request. `is_begun`: part of the body may have been
    read. `error`: why the rest did not arrive.
    """

    def __init__(self, request: Request, limit: int, timeout_s: float) -> None:
        """Raises `PayloadTooLarge` if the announced length is too long."""
        check_announced(request, limit)
        self.length = announced_length(request)
        self.is_begun = False
        self.error: QuiltfnError | ClientDisconnected | None = None
        self._request, self._limit, self._timeout_s = request, limit, timeout_s

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """As in `StreamedBody`."""
        assert not self.is_begun, "a body is read once"
        self.is_begun = True
        try:
            async for piece in bounded(self._request, self._limit, self._timeout_s):
                yield piece
        except ClientDisconnected as error:
            self.error = error
            raise BodyCut(LEFT) from None
        except QuiltfnError as error:
            self.error = error
            raise BodyCut(str(error)) from None
