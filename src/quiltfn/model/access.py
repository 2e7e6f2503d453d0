"""Permissions: scopes, API keys and callers."""

import hashlib
import re
import string
from collections.abc import Iterator, Mapping
from enum import StrEnum

import msgspec

from quiltfn.model.errors import Forbidden, TenantDisabled, Unprocessable

KEY = re.compile(r"quilt_sk_(?P<prefix>[0-9a-f]{12})_[A-Za-z0-9_-]{43}")
KEY_MARK = "quilt_sk_"
# For finding signed tokens: the alphabet of their three parts, how the first part begins (`{"`),
# the minimum length of each (the second has four claims), and the maximum length of the first. The
# maximum is needed since the first part is decoded before the signature is checked, at every place
# in a header that looks like a token.
BASE64URL = string.ascii_letters + string.digits + "-_"
TOKEN_START = "eyJ"
TOKEN_HEAD_MIN, TOKEN_CLAIMS_MIN, TOKEN_SIGNATURE_MIN = len("eyJhbGciOiJIUzI1NiJ9"), 40, 43
TOKEN_HEAD_MAX = 1024
TOKEN = re.compile(
    rf"(?=[^.]{{1,{TOKEN_HEAD_MAX}}}\.){TOKEN_START}[A-Za-z0-9_-]*\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"
)
TOKEN_MIN = TOKEN_HEAD_MIN + TOKEN_CLAIMS_MIN + TOKEN_SIGNATURE_MIN + 2
LABEL = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]{1,100}")
# The maximum number of valid keys, per tenant and in total. As many revoked or expired keys are
# kept, the newest ones.
TENANT_KEYS_MAX, KEYS_MAX = 1000, 20_000
TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Scope(StrEnum):
    """What a credential allows. Each scope includes those before it."""

    READ = "read"
    INVOKE = "invoke"
    WRITE = "write"
    ADMIN = "admin"
    OPERATOR = "operator"

    def includes(self, other: "Scope") -> bool:
        """Whether this scope allows everything that `other` allows."""
        return RANK[self] >= RANK[other]


RANK: Mapping[Scope, int] = {scope: rank for rank, scope in enumerate(Scope)}


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """An API key as stored, without the key itself. Times in Unix seconds. `label`: its creator's
    name for it.

    The key has 256 random bits, so it cannot be guessed from a plain digest, and a slow digest
    would only slow down every request.
    """

    id: str
    tenant_id: str
    scope: Scope
    prefix: str
    digest: str
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None
    label: str | None = None

    def is_valid(self, now: int) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """The sender of a request, from its credential. `credential`: an id for the audit log.
    `expires_at`: when the key expires, `token_ends_at`: when the token expires, in Unix seconds;
    None: never, or no key or token. `is_visiting`: an operator in another tenant, who sees no
    secrets there and may stop running invocations.
    """

    tenant_id: str
    scope: Scope
    credential: str
    expires_at: int | None = None
    token_ends_at: int | None = None
    is_visiting: bool = False

    @property
    def sees_all_tenants(self) -> bool:
        """Whether lists span all tenants: True for an operator who is not visiting another
        tenant.
        """
        return self.scope.includes(Scope.OPERATOR) and not self.is_visiting

    def reaches(self, tenant_id: str) -> bool:
        """Whether this caller may see the tenant's keys. An operator may see all keys."""
        return tenant_id == self.tenant_id or self.scope.includes(Scope.OPERATOR)

    def must_have(self, scope: Scope) -> None:
        """Raises `Forbidden` unless the caller's scope includes `scope`."""
        if not self.scope.includes(scope):
            raise Forbidden(
                f"this credential has scope {self.scope}; the request needs {scope}",
                hint=f"use a key with scope {scope}",
            )


def digest_of(secret: str) -> str:
    """The digest under which a key is stored and compared."""
    return hashlib.sha256(secret.encode()).hexdigest()


def prefix_of(secret: str) -> str | None:
    """The part of a key that identifies its row; None if this is not a key."""
    match = KEY.fullmatch(secret)
    return match["prefix"] if match else None


def tokens_in(text: str) -> Iterator[str]:
    """All parts of a header's value that may be a signed token (JWT), whatever surrounds them: a
    scheme, quotes, or escapes such as %22, whose digits look like part of a token. The last part
    may have extra characters: whatever follows the signature in the same alphabet.
    """
    parts = text.split(".")
    for at in range(1, len(parts) - 1):
        claims = parts[at]
        if len(claims) < TOKEN_CLAIMS_MIN or claims.strip(BASE64URL):
            continue
        before, after = parts[at - 1], parts[at + 1]
        head = before[len(before.rstrip(BASE64URL)) :][-TOKEN_HEAD_MAX:]
        signature = after[: len(after) - len(after.lstrip(BASE64URL))]
        if len(head) < TOKEN_HEAD_MIN or len(signature) < TOKEN_SIGNATURE_MIN:
            continue
        start, last = head.find(TOKEN_START), len(head) - TOKEN_HEAD_MIN
        while 0 <= start <= last:
            yield f"{head[start:]}.{claims}.{signature}"
            start = head.find(TOKEN_START, start + 1)


def check_label(label: str | None) -> None:
    """Raises `Unprocessable` for an invalid label of a key."""
    if label is not None and not LABEL.fullmatch(label):
        expected = "1 to 100 characters in one line, none of them a control character"
        raise Unprocessable.field("label", expected, label, "nightly build")


def disabled(tenant_id: str) -> TenantDisabled:
    """The refusal of every request of a disabled tenant."""
    return TenantDisabled(
        f"an operator has disabled the tenant {tenant_id}", hint="ask whoever runs this server"
    )


def check_tenant(tenant_id: str) -> None:
    """Raises `Unprocessable` for an invalid name of a tenant."""
    if not TENANT.fullmatch(tenant_id):
        expected = "1 to 64 letters, digits, dots, dashes, underscores, a letter or digit first"
        raise Unprocessable.field("tenant", expected, tenant_id, "default")
