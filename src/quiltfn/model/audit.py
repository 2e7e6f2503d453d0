"""An entry of the audit log."""

import msgspec


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Who did what, and with what result; never payloads, environments or secrets. `at`: Unix
    seconds. `note`: the reason for an action of the server itself. `object_name`: the object's name
    at that time.
    """

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
    note: str | None = None
    object_name: str | None = None
