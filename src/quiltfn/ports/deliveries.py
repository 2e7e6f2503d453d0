"""The interface to deliveries in the store, to which the commit of a call's last record adds."""

from collections.abc import Mapping
from typing import Protocol

import msgspec


class DueDeliveries(msgspec.Struct, frozen=True, kw_only=True):
    """A function that has deliveries waiting. `next_due_ms`: of the first of them."""

    function_id: str
    tenant_id: str
    next_due_ms: int


class CallbackFailed(Exception):
    """A callback got no answer; a sentence that says why and has nothing of its URL."""


class CallbackSender(Protocol):
    """Sends callbacks to addresses that may be called."""

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        """The status of the answer, whatever it is; a redirect is an answer. Raises
        `CallbackFailed`, also where the host has an address that may not be called.
        """

    async def aclose(self) -> None:
        """Closes every connection."""
