"""A request with an `Idempotency-Key`, and the stored response to its first execution."""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

# The status of the response that replaces a lost one.
LOST_STATUS = 503
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class IdempotentRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Identifies one request of a tenant. `body_digest`, of its body and query, distinguishes a
    repetition from a reused key.
    """

    tenant_id: str
    method: str
    path: str
    key: str
    body_digest: str


class StoredResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The response to the first request; `status` is None while that request is being processed. If
    the body is empty, it was removed to free space.
    """

    body_digest: str
    status: int | None = None
    headers: dict[str, str] = {}
    body: bytes = b""
