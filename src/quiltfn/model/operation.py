"""A controlled change of a function's scaling targets."""

import msgspec


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One controlled change of a function's pool targets, and what came of it."""

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
