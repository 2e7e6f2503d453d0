"""Compresses long responses with gzip for clients that ask for it (RFC 9110, 12.5.3).

Only whole texts are compressed: event streams are sent as events occur, and ranges of binary files
may be requested. A response with an ETag is not compressed, since a strong ETag identifies its
exact bytes. Responses to invocations aren't compressed either, to save time (`api/app.py`).
"""

import asyncio
import contextlib
import functools
import zlib

from quiltfn.api.http.budgets import SHORT_BYTES, ResponseBudget
from quiltfn.api.http.request import Headers
from quiltfn.api.http.response import Response

# Shorter responses fit into one packet without compression.
FROM_BYTES = 1024
# The fastest level: it reduces JSON to a fifth, in a tenth of the best level's time.
LEVEL = 1
# Maximum number of encodings read from a request; further ones are ignored.
NAMES_MAX = 64
GZIP = 16 + zlib.MAX_WBITS
# Long responses are compressed in a thread, one at a time. If this many wait already, a response is
# sent uncompressed.
WAITING_MAX = 8
TEXTS = ("application/json", "text/")


class Compression:
    """Compresses the responses of one server."""

    def __init__(self, budget: ResponseBudget) -> None:
        self._budget = budget
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def apply(self, response: Response, headers: Headers) -> None:
        """Compress the body of `response` if possible and accepted by the client. `headers`: the
        request's headers.
        """
        body = response.body
        if not isinstance(body, bytes) or len(body) < FROM_BYTES or not may_compress(response):
            return
        response.headers.append(("vary", "accept-encoding"))
        if "accept-encoding" not in headers or not wants_gzip(headers):
            return
        if response.is_shared:
            packed = gzipped_once(body)
        elif len(body) <= SHORT_BYTES:
            packed = gzipped(body)
        elif self._waiting >= WAITING_MAX:
            return
        else:
            packed = await self._gzipped_aside(body)
        response.headers.append(("content-encoding", "gzip"))
        response.body = packed

    async def _gzipped_aside(self, body: bytes) -> bytes:
        self._waiting += 1
        self._budget.add_unsent(len(body))
        try:
            async with self._turn:
                return await asyncio.to_thread(gzipped, body)
        finally:
            self._budget.add_unsent(-len(body))
            self._waiting -= 1


def may_compress(response: Response) -> bool:
    """Whether a response is a whole text without an ETag."""
    kind = response.header("content-type") or ""
    is_whole = response.status != 206 and response.header("content-encoding") is None
    return is_whole and kind.startswith(TEXTS) and response.header("etag") is None


def gzipped(body: bytes) -> bytes:
    """Compress a body. zlib releases the GIL meanwhile."""
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP)
    return packer.compress(body) + packer.flush()


@functools.lru_cache(maxsize=16)
def gzipped_once(body: bytes) -> bytes:
    """As `gzipped`, cached, for the few bodies that are the same for all clients. The first call
    for each body blocks the event loop for some milliseconds.
    """
    return gzipped(body)


def wants_gzip(headers: Headers) -> bool:
    """Whether Accept-Encoding accepts gzip, by name or by `*`."""
    weights: dict[str, float] = {}
    for token in ",".join(headers.getlist("accept-encoding")).lower().split(",")[:NAMES_MAX]:
        name, *parameters = (part.strip() for part in token.split(";"))
        weights[name] = _weight(parameters)
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            with contextlib.suppress(ValueError):
                return float(parameter[2:])
            return 0.0
    return 1.0
