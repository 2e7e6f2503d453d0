"""Schemas of deliveries to destinations."""

from typing import Annotated

from msgspec import Struct

from quiltfn.wire.fields import about
from quiltfn.wire.functions import FunctionId, FunctionName, NextCursor
from quiltfn.wire.invocations import CauseOfEnd, InvocationId
from quiltfn.wire.numbers import UnixSeconds

__all__ = ["Delivery", "DeliveryPage"]

DeliveryId = Annotated[
    str,
    about(
        "the delivery's id, the same for every try: webhook-id of a callback, invocation_id of "
        "a function's invocation",
        "01999999-0000-7000-8000-000000000002",
    ),
]
PolicyField = Annotated[str, about("on_success or on_failure", "on_failure")]
DeliveryStatus = Annotated[str, about("waiting, delivered or failed", "delivered")]
Tries = Annotated[int, about("number of tries started", 1)]
HttpStatus = Annotated[int, about("status of the receiver's last response, or null", 200)]
DeliveryError = Annotated[str, about("why the last try failed, or null", None)]


class Delivery(Struct, kw_only=True, frozen=True):
    """The outcome of an asynchronous invocation, and its delivery to the destination in the
    function's policy.

    `next_attempt_at`: time of the next try; null once the delivery is final.
    """

    delivery_id: DeliveryId
    function_id: FunctionId
    function_name: FunctionName | None = None
    invocation_id: InvocationId
    policy_field: PolicyField
    status: DeliveryStatus
    attempts: Tries
    next_attempt_at: UnixSeconds | None
    http_status: HttpStatus | None
    error_message: DeliveryError | None
    ended_at: UnixSeconds | None
    end_cause: CauseOfEnd | None = None


class DeliveryPage(Struct, kw_only=True, frozen=True):
    """A page of deliveries, newest first."""

    deliveries: list[Delivery]
    next_cursor: NextCursor | None
