"""A controlled change of a function's scaling targets."""

import msgspec

FAILED, INTERRUPTED = "failed", "ELASTICITY_INTERRUPTED"


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One controlled change of a function's scaling targets, and its result."""

    operation_id: str
    tenant_id: str
    operation_type: str
    idempotency_key: str
    action_id: str
    status: str
    reason_code: str | None
    reason_message: str | None
    retryable: bool
    created_at: int


def interrupted(operation: Operation) -> Operation:
    """The operation as failed, for a server that ended first. Repeating it with another key is
    safe, since an operation sets targets instead of adding to them.
    """
    return msgspec.structs.replace(
        operation,
        status=FAILED,
        reason_code=INTERRUPTED,
        reason_message="the server ended while the operation was running; "
        "the function shows whether its targets were set",
        retryable=True,
    )
