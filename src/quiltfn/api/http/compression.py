"""Compresses long answers with gzip for clients that ask for it (RFC 9110, 12.5.3).

Never on the way of a call, and never what is no text: events are sent as they come, and octets may
be asked for in parts. What has an ETag is sent as it is, since a strong one names its very bytes.
"""

import asyncio
import contextlib
import functools
import zlib

from quiltfn.api.http.budgets import SHORT_BYTES, ResponseBudget
from quiltfn.api.http.request import Headers
from quiltfn.api.http.response import Response

# Shorter answers fit into a packet as they are.
FROM_BYTES = 1024
# The fastest level: JSON becomes a fifth, in a tenth of the time of the best one.
LEVEL = 1
# Encodings that a client may name; others are not looked at.
NAMES_MAX = 64
GZIP = 16 + zlib.MAX_WBITS
# Long answers are compressed in a thread, one at a time; what would wait behind so many is sent as
# it is.
WAITING_MAX = 8
TEXTS = ("application/json", "text/")


class Compression:
    """Compresses the answers of one server."""

    def __init__(self, budget: ResponseBudget) -> None:
        self._budget = budget
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def apply(self, response: Response, headers: Headers) -> None:
        """Compresses the body of `response` if that is possible and the client wants it. `headers`:
        those of the request.
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
    """Whether an answer is a whole text without a strong ETag."""
    kind = response.header("content-type") or ""
    is_whole = response.status != 206 and response.header("content-encoding") is None
    return is_whole and kind.startswith(TEXTS) and response.header("etag") is None


def gzipped(body: bytes) -> bytes:
    """The body as gzip has it. The GIL is free meanwhile."""
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP)
    return packer.compress(body) + packer.flush()


@functools.lru_cache(maxsize=16)
def gzipped_once(body: bytes) -> bytes:
    """As `gzipped`, of one of the few bodies that all clients share, so that they share that too.
    It takes some milliseconds of the loop, once.
    """
    return gzipped(body)


def wants_gzip(headers: Headers) -> bool:
    """Whether Accept-Encoding takes gzip, by name or by `*`."""
    weights: dict[str, float] = {}
    for one in ",".join(headers.getlist("accept-encoding")).lower().split(",")[:NAMES_MAX]:
        name, *parameters = (part.strip() for part in one.split(";"))
        weights[name] = _weight(parameters)
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            with contextlib.suppress(ValueError):
                return float(parameter[2:])
            return 0.0
    return 1.0
