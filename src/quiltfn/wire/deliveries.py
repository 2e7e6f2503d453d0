"""Deliveries to destinations, as they are answered."""

from typing import Annotated

from msgspec import Struct

from quiltfn.wire.fields import about
from quiltfn.wire.functions import FunctionId, FunctionName, NextCursor
from quiltfn.wire.invocations import CauseOfEnd, InvocationId
from quiltfn.wire.numbers import UnixSeconds

DELIVERY_STATUSES = ("waiting", "delivered", "failed")

DeliveryId = Annotated[
    str,
    about(
        "the delivery's id, the same at every try: webhook-id of a callback, invocation_id of the "
        "call of a function",
        "01999999-0000-7000-8000-000000000002",
    ),
]
PolicyField = Annotated[str, about("on_success or on_failure", "on_failure")]
DeliveryStatus = Annotated[str, about("waiting, delivered or failed", "delivered")]
Tries = Annotated[int, about("how many tries were begun", 1)]
HttpStatus = Annotated[int, about("the receiver's last answer, or null", 200)]
DeliveryError = Annotated[str, about("why the last try failed, or null", None)]


class Delivery(Struct, kw_only=True, frozen=True):
    """The end of one call of accepted work, and what became of sending it to the destination that
    the function's policy names.

    `next_attempt_at`: when it is tried next; null once it is over.
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
    """Some deliveries, newest first."""

    deliveries: list[Delivery]
    next_cursor: NextCursor | None
