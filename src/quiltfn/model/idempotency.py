"""A request with an `Idempotency-Key`, and the stored response to its first call."""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

# Of what is answered in place of a response that was lost.
LOST_STATUS = 503
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class IdempotentRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Identifies one request of a tenant; `body_digest`, of its body and query, tells a
    repetition from a reused key.
    """

    tenant_id: str
    method: str
    path: str
    key: str
    body_digest: str


class StoredResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The response to the first call; `status` is None while that call still runs. An empty body
    means that it was removed to make room.
    """

    body_digest: str
    status: int | None = None
    headers: dict[str, str] = {}
    body: bytes = b""
