"""API keys and the audit log, as they are sent and answered."""

from typing import Annotated

from msgspec import Struct

from quiltfn.wire.constraints import Between, OneOf, Pattern
from quiltfn.wire.fields import about
from quiltfn.wire.functions import NextCursor, UnixSeconds

SCOPES = ("read", "invoke", "write", "admin", "operator")
EXPIRES_MAX_SECONDS = 10 * 365 * 86_400

Tenant = Annotated[
    str,
    about(
        "the tenant the key is for; default: your own",
        "default",
        Pattern(
            "[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
            "1 to 64 letters, digits, dots, dashes, underscores, a letter or digit first",
        ),
    ),
]
ScopeOfKey = Annotated[
    str, about(f"one of {', '.join(SCOPES)}; default: write", "write", OneOf(SCOPES))
]
ExpiresSeconds = Annotated[
    int,
    about(
        "seconds until the key ends, or null for never",
        2_592_000,
        Between(1, EXPIRES_MAX_SECONDS),
    ),
]


class NewKey(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True, omit_defaults=True):
    """A key to create."""

    tenant: Tenant | None = None
    scope: ScopeOfKey | None = None
    expires_seconds: ExpiresSeconds | None = None


class Key(Struct, kw_only=True, frozen=True):
    """An API key without its secret. Times in Unix seconds."""

    id: str
    tenant_id: str
    scope: ScopeOfKey
    prefix: str
    created_at: UnixSeconds
    expires_at: UnixSeconds | None
    revoked_at: UnixSeconds | None


class CreatedKey(Key, kw_only=True, frozen=True):
    """A key just made. `key` is the secret: it is in this answer alone."""

    key: str

    def __repr__(self) -> str:
        """Without the secret, which would end up in logs."""
        return f"CreatedKey(id={self.id!r}, tenant_id={self.tenant_id!r}, scope={self.scope!r})"


class KeyList(Struct, kw_only=True, frozen=True):
    """Every key of the tenant; an operator sees all."""

    keys: list[Key]


class AuditEntry(Struct, kw_only=True, frozen=True):
    """Who did what, and what came of it. `at` in Unix seconds."""

    id: str
    at: UnixSeconds
    tenant_id: str
    credential: str
    action: str
    object_id: str | None
    status: int
    error_code: str | None
    address: str
    request_id: str


class AuditPage(Struct, kw_only=True, frozen=True):
    """Some entries, newest first."""

    entries: list[AuditEntry]
    next_cursor: NextCursor | None
