"""The interface to deliveries in the store, to which the commit of a call's last record adds."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from quiltfn.model.delivery import Delivery, DeliveryStatus
from quiltfn.ports import Page, TenantFunctions
from quiltfn.ports.work import AcceptedWork


class DueDeliveries(msgspec.Struct, frozen=True, kw_only=True):
    """A function that has deliveries waiting. `next_due_ms`: of the first of them."""

    function_id: str
    tenant_id: str
    next_due_ms: int


class DeliveryStore(Protocol):
    """Deliveries, for any number of servers. Raises `StoreUnavailable`.

    None of a deleted function is claimed.
    """

    async def load(self) -> Sequence[DueDeliveries]:
        """Every function that has some waiting; called at the start. What an earlier start of this
        server was sending waits again: whether it arrived is not known.
        """

    async def waiting(self) -> Sequence[DueDeliveries]:
        """Every function that has some waiting, as they are."""

    async def next_due(self, function_id: str) -> DueDeliveries | None:
        """When the first of the function's is due; None where none waits."""

    async def claim(self, function_id: str, limit: int, now_ms: int) -> Sequence[Delivery]:
        """Makes up to `limit` due ones this server's to send, oldest first, and counts the try: on
        disk when this returns.
        """

    async def release(self, delivery: Delivery) -> None:
        """Puts one back whose try was not begun; it does not count."""

    async def release_others(self, known: Collection[str]) -> None:
        """After a claim of which it is not known whether it was made: likewise for every one that
        is this server's to send, but for those with the ids that are `known`.
        """

    async def finish(self, delivery: Delivery) -> None:
        """Stores what became of a try: one that waits is due again."""

    async def accept(self, delivery: Delivery, work: AcceptedWork) -> None:
        """Stores it as delivered and the work of the destination's function, which has the
        delivery's id, in one transaction; again, it changes nothing. Raises what `WorkStore.accept`
        raises.
        """

    async def depth(self, invocation_id: str, most: int) -> int:
        """How many calls in a row were caused by the one before, up to this one and at most `most`.
        A call that nothing caused: 1.
        """

    async def list(
        self,
        of: str | TenantFunctions,
        limit: int,
        cursor: str | None,
        status: DeliveryStatus | None,
    ) -> Page[Delivery]:
        """The deliveries of the function with the id, or of several, newest first, without
        bodies.
        """

    async def retry(
        self, function_id: str, delivery_id: str, now_ms: int, expires_at_ms: int
    ) -> Delivery | None:
        """Makes one due at once that is not delivered; None: the function has none of that id. One
        that is delivered, or whose body had to make room, is returned as it is.
        """


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
