"""Credentials: making, checking and revoking keys, and trusting signed tokens.

Every valid key is in memory, so that a call asks no database; another process may make or revoke
keys in the data directory, and `refresh` sees that within half a second.
"""

import asyncio
import contextlib
import hmac
import secrets
from collections import defaultdict, deque
from collections.abc import Callable, Mapping

from quiltfn.ids import new_id
from quiltfn.model.access import Caller, Key, Scope, check_tenant, digest_of, prefix_of
from quiltfn.model.errors import (
    NotFound,
    RateLimited,
    StoreUnavailable,
    Unauthorized,
    Unprocessable,
)
from quiltfn.ports import Clock, Keys

REFRESH_S = 0.5
FAILURES_MAX = 20
FAILURES_WINDOW_S = 60.0
ADDRESSES_MAX = 10_000
EXPIRES_MAX_S = 10 * 365 * 86_400
NOBODY = Key(
    id="", tenant_id="", scope=Scope.READ, prefix="", digest=digest_of("nobody"), created_at=0
)

# Who calls while nobody needs a credential.
ANYBODY = Caller(tenant_id="default", scope=Scope.OPERATOR, credential="open")

Verifier = Callable[[str], Caller]


class Access:
    """Who a request comes from. `verify` reads signed tokens, where that was configured."""

    def __init__(self, keys: Keys, clock: Clock, verify: Verifier | None = None) -> None:
        self._keys, self._clock, self._verify = keys, clock, verify
        self._by_prefix: dict[str, Key] = {}
        self._revision = -1
        self._failures: defaultdict[str, deque[float]] = defaultdict(deque)

    @property
    def is_open(self) -> bool:
        """No key was ever made and no token is trusted: whoever reaches the server is the owner."""
        return not self._by_prefix and self._verify is None

    def identify(self, headers: Mapping[str, str], address: str) -> Caller:
        """The caller. Raises `Unauthorized`, or `RateLimited` after too many failures from there.

        A valid credential passes however many wrong ones came from the same address.
        """
        if self.is_open:
            return ANYBODY
        secret = headers.get("x-api-key")
        bearer = headers.get("authorization", "")
        if secret is None and bearer[:7].lower() == "bearer ":
            secret = bearer[7:].strip()
        caller = self._caller(secret) if secret else None
        if caller is not None:
            return caller
        if secret:  # who sends none guesses none
            self._count_failure(address)
        raise Unauthorized(
            "the credential is wrong, expired or revoked" if secret else "a credential is needed",
            hint="send a key as X-Api-Key or as Authorization: Bearer",
        )

    def _caller(self, secret: str) -> Caller | None:
        prefix = prefix_of(secret)
        if prefix is None:
            return self._token(secret)
        # An unknown prefix is compared as well, so that time does not tell which prefixes exist.
        key = self._by_prefix.get(prefix, NOBODY)
        fits = hmac.compare_digest(key.digest, digest_of(secret))
        if not fits or not key.is_valid(int(self._clock.unix())):
            return None
        return Caller(tenant_id=key.tenant_id, scope=key.scope, credential=key.id)

    def _token(self, text: str) -> Caller | None:
        if self._verify is None:
            return None
        try:
            return self._verify(text)
        except Unauthorized:
            return None

    def _count_failure(self, address: str) -> None:
        now = self._clock.now()
        if len(self._failures) > ADDRESSES_MAX:  # a flood of addresses must not fill the memory
            self._failures.clear()
        recent = self._failures[address]
        while recent and now - recent[0] > FAILURES_WINDOW_S:
            recent.popleft()
        if len(recent) >= FAILURES_MAX:
            wait = FAILURES_WINDOW_S - (now - recent[0])
            raise RateLimited(
                "too many wrong credentials came from this address", retry_after=int(wait) + 1
            )
        recent.append(now)

    async def refresh(self) -> None:
        """Takes over what changed in the store."""
        revision = await self._keys.revision()
        if revision != self._revision:
            keys = await self._keys.load()
            self._by_prefix = {key.prefix: key for key in keys}
            self._revision = revision

    async def keep_fresh(self) -> None:
        """Refreshes until it is cancelled. What fails is tried again: a revocation must be seen."""
        while True:
            await asyncio.sleep(REFRESH_S)
            with contextlib.suppress(StoreUnavailable):
                await self.refresh()


async def make_key(
    keys: Keys, clock: Clock, tenant_id: str, scope: Scope | None, expires_s: int | None
) -> tuple[Key, str]:
    """A new key and its text, which is shown this once. Raises `Unprocessable`.

    Without `scope` the first key ever made is an operator's, every later one may write.
    """
    check_tenant(tenant_id)
    if expires_s is not None and not 1 <= expires_s <= EXPIRES_MAX_S:
        raise Unprocessable.field("expires", "between 1 second and 10 years", expires_s, "30d")
    prefix = secrets.token_hex(6)
    text = f"quilt_sk_{prefix}_{secrets.token_urlsafe(32)}"
    now = int(clock.unix())
    key = Key(
        id=new_id(),
        tenant_id=tenant_id,
        scope=scope or Scope.WRITE,
        prefix=prefix,
        digest=digest_of(text),
        created_at=now,
        expires_at=None if expires_s is None else now + expires_s,
    )
    return await keys.add(key, None if scope else Scope.OPERATOR), text


async def revoke_key(keys: Keys, clock: Clock, key_id: str, tenant_id: str | None = None) -> Key:
    """Ends a key; again changes nothing. Raises `NotFound`, also for another tenant's key."""
    for key in await keys.load():
        if key.id == key_id and tenant_id in (None, key.tenant_id):
            return key if key.revoked_at else await keys.revoke(key, int(clock.unix()))
    raise NotFound("there is no key with this id")
