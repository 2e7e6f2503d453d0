"""Schemas of API keys and the audit log."""

from typing import Annotated

from msgspec import Struct

from quiltfn.wire.constraints import Between, Documented, OneOf, Pattern
from quiltfn.wire.fields import about
from quiltfn.wire.functions import NextCursor, TenantId
from quiltfn.wire.numbers import UnixSeconds

__all__ = ["AuditEntry", "AuditPage", "CreatedKey", "Key", "KeyList", "NewKey"]

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
        "seconds until the key expires",
        2_592_000,
        Between(1, EXPIRES_MAX_SECONDS),
        null="never",
    ),
]


LABEL_MAX_CHARACTERS = 100
Label = Annotated[
    str,
    about(
        f"a label for the key: 1 to {LABEL_MAX_CHARACTERS} characters in one line",
        "nightly build",
        Documented({"minLength": 1, "maxLength": LABEL_MAX_CHARACTERS}),
    ),
]


KeyId = Annotated[str, about("the key's id", "01999999-0000-7000-8000-000000000001")]
KeyPrefix = Annotated[str, about("the part of the key that identifies it", "3f9a01b2c4d5")]
Secret = Annotated[str, about("the key itself", None)]
EntryId = Annotated[str, about("the entry's id", "01999999-0000-7000-8000-000000000001")]
Credential = Annotated[
    str, about("the key or token that was used", "01999999-0000-7000-8000-000000000001")
]
Action = Annotated[str, about("the action", "function.create")]
ObjectId = Annotated[str, about("id of the object of the action, or null", None)]
HttpStatus = Annotated[int, about("the status of the response", 201)]
ErrorCode = Annotated[str, about("error code if it was refused, or null", None)]
Address = Annotated[str, about("the client's address", "127.0.0.1")]
RequestId = Annotated[
    str, about("the x-request-id of the response", "01999999-0000-7000-8000-000000000001")
]


class NewKey(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True, omit_defaults=True):
    """A key to create."""

    tenant: Tenant | None = None
    scope: ScopeOfKey | None = None
    expires_seconds: ExpiresSeconds | None = None
    label: Label | None = None


class Key(Struct, kw_only=True, frozen=True):
    """An API key without its secret. Times in Unix seconds."""

    id: KeyId
    tenant_id: TenantId
    scope: ScopeOfKey
    prefix: KeyPrefix
    created_at: UnixSeconds
    expires_at: UnixSeconds | None
    revoked_at: UnixSeconds | None
    label: Label | None = None


class CreatedKey(Key, kw_only=True, frozen=True):
    """A new key. `key` is the secret, which only this response contains."""

    key: Secret

    def __repr__(self) -> str:
        """The key without its secret, which must not appear in logs."""
        return f"CreatedKey(id={self.id!r}, tenant_id={self.tenant_id!r}, scope={self.scope!r})"


class KeyList(Struct, kw_only=True, frozen=True):
    """A page of the tenant's keys, oldest first; operators see those of all tenants."""

    keys: list[Key]
    next_cursor: NextCursor | None = None


ObjectName = Annotated[
    str, about("name of the function or schedule at that time; otherwise null", "thumbnails")
]
AuditNote = Annotated[
    str,
    about(
        "reason if the server acted automatically; otherwise null",
        "live: version 2: 7 of 9 attempts failed, where 5 % may",
    ),
]


class AuditEntry(Struct, kw_only=True, frozen=True):
    """An audited action: actor, object and result. `at` in Unix seconds."""

    id: EntryId
    at: UnixSeconds
    tenant_id: TenantId
    credential: Credential
    action: Action
    object_id: ObjectId | None
    status: HttpStatus
    error_code: ErrorCode | None
    address: Address
    request_id: RequestId
    note: AuditNote | None = None
    object_name: ObjectName | None = None


class AuditPage(Struct, kw_only=True, frozen=True):
    """A page of entries, newest first."""

    entries: list[AuditEntry]
    next_cursor: NextCursor | None
