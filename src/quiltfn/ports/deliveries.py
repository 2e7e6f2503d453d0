"""Due deliveries in the store, and the interface that sends them. The commit of an invocation's
last record adds deliveries.
"""

from collections.abc import Mapping
from typing import Protocol

import msgspec


class DueDeliveries(msgspec.Struct, frozen=True, kw_only=True):
    """A function with waiting deliveries. `next_due_ms`: when the first of them is due."""

    function_id: str
    tenant_id: str
    next_due_ms: int


class CallbackFailed(Exception):
    """A callback got no response. The message says why, without any part of its URL."""


class CallbackSender(Protocol):
    """Sends callbacks to permitted addresses."""

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        """The status of the response; redirects are not followed. Raises `CallbackFailed`, also if
        one of the host's addresses is not permitted.
        """

    async def aclose(self) -> None:
        """Close all connections."""
