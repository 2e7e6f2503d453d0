"""What the store keeps beside functions and calls: first answers, the trail, operations."""

import msgspec


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """What an `Idempotency-Key` stands for: one request of a tenant, told by its body's digest."""

    tenant_id: str
    method: str
    path: str
    key: str
    body_digest: str


class KeptAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What was answered the first time; `status` None while that call still runs. An empty body: it
    is not kept any longer.
    """

    body_digest: str
    status: int | None = None
    headers: dict[str, str] = {}
    body: bytes = b""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Who did what, and what came of it; never payloads, environments or secrets. `at`: Unix s."""

    id: str
    at: int
    tenant_id: str
    credential: str
    action: str
    object_id: str | None
    status: int
    error_code: str | None
    address: str
    request_id: str


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


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """How many bytes are kept of something: of one tenant, and of all together; 0: no bound."""

    tenant: int = 0
    all: int = 0


class Keep(msgspec.Struct, frozen=True, kw_only=True):
    """How many records of calls are kept, and for how many seconds; 0: no bound."""

    count: int = 1_000_000
    seconds: int = 7 * 86_400
    size: Bound = Bound()
