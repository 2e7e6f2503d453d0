"""Credentials: creates, checks and revokes keys, and checks signed tokens.

All valid keys are in memory, so that a request needs no query. Another process may create or revoke
keys in the data directory: `keep_fresh` notices that within half a second; a request with an
unknown key queries the store at once; a server without keys checks for a first key before a request
(`is_outdated`). A node of a fleet that can neither refresh nor ask another node accepts no key
after `stale_after_s` (`fleet/keys.py`), since each may have been revoked.
"""

import asyncio
import contextlib
import hmac
import math
import secrets
from collections import Counter, defaultdict, deque
from collections.abc import Container, Mapping, Sequence
from typing import Protocol

from quiltfn.base.ids import new_id
from quiltfn.model.access import (
    Caller,
    Key,
    Scope,
    check_label,
    check_tenant,
    digest_of,
    disabled,
    prefix_of,
)
from quiltfn.model.errors import (
    Forbidden,
    NotFound,
    RateLimited,
    StoreUnavailable,
    Unauthorized,
    Unprocessable,
)
from quiltfn.ports import Clock
from quiltfn.store.tenants.keys import SqlKeys

REFRESH_S = 0.5
# Minimum seconds between queries because of unknown keys; each key causes one query.
ASK_EVERY_S = 0.05
ASKED_MAX = 10_000
# How often this server looks for changes of keys by a command, which waits as long before it
# reports success.
LOOK_EVERY_S = 0.05
FAILURES_MAX = 20
FAILURES_WINDOW_S = 60.0
ADDRESSES_MAX = 10_000
EXPIRES_MAX_S = 10 * 365 * 86_400
NOBODY = Key(
    id="", tenant_id="", scope=Scope.READ, prefix="", digest=digest_of("nobody"), created_at=0
)

# The caller of every request while the server has no keys.
ANYBODY = Caller(tenant_id="default", scope=Scope.OPERATOR, credential="open")


class Verifier(Protocol):
    """Checks signed tokens."""

    def __call__(self, token: str, *, at_any_time: bool = False) -> Caller:
        """Raises `Unauthorized`. `at_any_time`: also accepts a token before it is valid and after
        it has expired, and any text after its signature.
        """


class Access:
    """Identifies the caller of a request."""

    def __init__(
        self,
        keys: SqlKeys,
        clock: Clock,
        *,
        disabled: Container[str],
        stale_after_s: float,
        verify: Verifier | None = None,
    ) -> None:
        """`disabled`: tenants whose credentials are refused, except those of operators.
        `stale_after_s`: how long keys are accepted without confirmation; infinite on a standalone
        server. `verify`: checks signed tokens, if that is configured.
        """
        self._keys, self._clock, self._verify = keys, clock, verify
        self._disabled, self._stale_after_s = disabled, stale_after_s
        self._by_prefix: dict[str, Key] = {}
        self._by_id: dict[str, Key] = {}
        self._tenants: set[str] = set()
        # True: no key was ever created and no tokens are configured, so every client has all
        # rights.
        self.is_open = verify is None
        self.revision = -1
        # When memory last had all keys of the store; and when this node last knew that no other
        # node has newer keys.
        self._current_at = self._confirmed_at = -math.inf
        self._stamp: object = None
        self._looked_at, self._is_behind = float("-inf"), False
        self._refreshing = asyncio.Lock()
        self._asked: dict[str, None] = {}
        self._asking: asyncio.Task[None] | None = None
        self._last_asked = float("-inf")
        self._failures: defaultdict[str, deque[float]] = defaultdict(deque)

    @property
    def is_outdated(self) -> bool:
        """Whether another process has changed keys since the last `refresh`. Looks at most once per
        `LOOK_EVERY_S`, and remembers a change that it saw until `refresh` has loaded the keys.
        """
        now = self._clock.now()
        if now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            self._is_behind = self._keys.change_token() != self._stamp
        return self._is_behind

    def now(self) -> float:
        """The clock for ages of keys, in seconds."""
        return self._clock.now()

    @property
    def age_s(self) -> float:
        """Seconds since memory last had all keys of the store."""
        return self._clock.now() - self._current_at

    @property
    def keys(self) -> Sequence[Key]:
        """All keys in memory."""
        return list(self._by_id.values())

    @property
    def _is_stale(self) -> bool:
        return self._clock.now() - self._confirmed_at > self._stale_after_s

    def check_current(self) -> None:
        """Raises `StoreUnavailable` if a key that is valid in memory may have been revoked."""
        if self._is_stale:
            raise StoreUnavailable(
                f"this node has reached neither the store nor all other nodes for more than "
                f"{self._stale_after_s:g} s, so it does not know whether the credential is valid",
                hint="use another node, or repeat the request",
                retry_after=1,
            )

    def anybody(self) -> Caller:
        """The caller of a server without keys. Raises `StoreUnavailable` as `check_current`
        does.
        """
        self.check_current()
        return ANYBODY

    async def identify(self, headers: Mapping[str, str], address: str) -> Caller:
        """The caller. Raises `Unauthorized`, `TenantDisabled`, `RateLimited` after too many
        failures from `address`, and `StoreUnavailable` if a required query fails, or as
        `check_current` does.

        A valid credential always passes, even if it is new, and even after many invalid ones from
        the same address.
        """
        if self.is_open:
            return self.anybody()
        secret = headers.get("x-api-key")
        bearer = headers.get("authorization", "")
        if secret is None and bearer[:7].lower() == "bearer ":
            secret = bearer[7:].strip()
        caller = self._caller(secret) if secret else None
        if caller is None and secret:
            # Also if the prefix is known, since response times must not reveal existing prefixes.
            try:
                await self._ask_about(prefix_of(secret))
            except StoreUnavailable:
                # The key may be new; known keys that are revoked or expired stay invalid.
                if self._key(secret) is None:
                    raise
            caller = self._caller(secret)
        if caller is not None:
            if caller.token_ends_at is None:  # signed tokens are not in the store
                self.check_current()
            if self._is_refused(caller):
                refusal = disabled(caller.tenant_id)
                refusal.for_its_key = True
                raise refusal
            return caller
        if secret:  # a request without a credential is not a guess
            self._count_failure(address)
        raise Unauthorized(
            "the credential is wrong, expired or revoked" if secret else "a credential is required",
            hint="send a key as X-Api-Key or as Authorization: Bearer",
        )

    def identify_at_once(self, secret: str) -> Caller | None:
        """The caller, if its credential is known and nothing has to be refused; otherwise None:
        `identify` decides.
        """
        caller = self._caller(secret)
        if caller is None or self._is_refused(caller):
            return None
        return None if caller.token_ends_at is None and self._is_stale else caller

    @property
    def takes_tokens(self) -> bool:
        """Whether this server accepts signed tokens."""
        return self._verify is not None

    def is_own_token(self, text: str) -> bool:
        """Whether this server accepts the signed token, now or at another time."""
        try:
            return self._verify is not None and bool(self._verify(text, at_any_time=True))
        except Unauthorized:
            return False

    async def accept(self, caller: Caller) -> Caller:
        """The caller, as another node has identified it, if its credential is valid here as well.
        Raises `Unauthorized`, and `StoreUnavailable` as `identify` does.
        """
        is_key = caller.token_ends_at is None and caller.credential != ANYBODY.credential
        if is_key and caller.credential not in self._by_id:
            await self.refresh()  # the other node may know a newer key
        self.check_holds(caller)
        return caller

    def check_holds(self, caller: Caller) -> None:
        """Raises `Unauthorized` if a caller's credential is no longer valid, and `StoreUnavailable`
        as `check_current` does.
        """
        if caller.token_ends_at is None:
            self.check_current()
        if not self.still_holds(caller):
            raise Unauthorized("the credential was revoked, or has expired, meanwhile")

    def still_holds(self, caller: Caller) -> bool:
        """Whether an identified caller's credential is still valid. If this server's keys are
        stale, only signed tokens are. For a caller without a credential: whether the server still
        requires none.
        """
        if self._is_refused(caller):
            return False
        now = int(self._clock.unix())
        if caller.token_ends_at is not None:
            return now < caller.token_ends_at
        if self._is_stale:
            return False
        if caller.credential == ANYBODY.credential:
            return self.is_open
        key = self._by_id.get(caller.credential)
        if key is None or not key.is_valid(now):
            return False
        is_there = key.tenant_id == caller.tenant_id or (
            caller.is_visiting and key.scope is Scope.OPERATOR
        )
        return is_there and key.scope == caller.scope

    def _is_refused(self, caller: Caller) -> bool:
        return caller.tenant_id in self._disabled and caller.scope is not Scope.OPERATOR

    def tenants(self) -> dict[str, int]:
        """The number of valid keys of each tenant that has any."""
        now = int(self._clock.unix())
        return Counter(key.tenant_id for key in self._by_id.values() if key.is_valid(now))

    def knows(self, tenant_id: str) -> bool:
        """Whether the tenant has a valid key, or is the tenant of callers that need no key."""
        if self.is_open:
            return tenant_id == ANYBODY.tenant_id
        now = int(self._clock.unix())
        return any(key.tenant_id == tenant_id and key.is_valid(now) for key in self._by_id.values())

    def has_keys(self, tenant_id: str) -> bool:
        """Whether the tenant has a key, even a revoked or expired one."""
        return tenant_id in self._tenants

    def _caller(self, secret: str) -> Caller | None:
        if prefix_of(secret) is None:
            return self._token(secret)
        key = self._key(secret)
        if key is None or not key.is_valid(int(self._clock.unix())):
            return None
        return Caller(
            tenant_id=key.tenant_id,
            scope=key.scope,
            credential=key.id,
            expires_at=key.expires_at,
        )

    def _key(self, secret: str) -> Key | None:
        """The key with that text, even if it is revoked or has expired."""
        # An unknown prefix is compared, too, so that response times don't reveal which prefixes
        # exist.
        key = self._by_prefix.get(prefix_of(secret) or "", NOBODY)
        return key if hmac.compare_digest(key.digest, digest_of(secret)) else None

    def _token(self, text: str) -> Caller | None:
        if self._verify is None:
            return None
        try:
            return self._verify(text)
        except Unauthorized:
            return None

    def _count_failure(self, address: str) -> None:
        now = self._clock.now()
        if len(self._failures) > ADDRESSES_MAX:  # many addresses must not fill the memory
            self._failures.clear()
        recent = self._failures[address]
        while recent and now - recent[0] > FAILURES_WINDOW_S:
            recent.popleft()
        if len(recent) >= FAILURES_MAX:
            wait = FAILURES_WINDOW_S - (now - recent[0])
            raise RateLimited(
                "too many wrong credentials were sent from this address", retry_after=int(wait) + 1
            )
        recent.append(now)

    async def _ask_about(self, prefix: str | None) -> None:
        """Refresh once for each prefix; requests that arrive before the refresh share it."""
        if prefix is None or prefix in self._asked:
            return
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._ask())
        await asyncio.shield(self._asking)
        self._asked[prefix] = None
        if len(self._asked) > ASKED_MAX:
            del self._asked[next(iter(self._asked))]

    async def _ask(self) -> None:
        await asyncio.sleep(max(0.0, self._last_asked + ASK_EVERY_S - self._clock.now()))
        self._last_asked = self._clock.now()
        # Later requests need another refresh, since their key may be newer than this one.
        self._asking = None
        await self.refresh()

    async def refresh(self) -> None:
        """Load the keys if the store has changed since the last load."""
        async with self._refreshing:
            began = self._clock.now()
            stamp = self._keys.change_token()
            revision = await self._keys.revision()
            keys = await self._keys.load() if revision != self.revision else None
            if began >= self._current_at:  # no other node has sent newer keys meanwhile
                self._take(revision, began, keys)
            self._stamp, self._is_behind = stamp, False

    def take_over(self, revision: int, current_at: float, keys: Sequence[Key] | None) -> None:
        """Take another node's keys, if they are newer. `keys`: None if the revision is the same."""
        if current_at > self._current_at and (keys is not None or revision == self.revision):
            self._take(revision, current_at, keys)

    def confirm(self, at: float) -> None:
        """Note that at this time no other node had newer keys."""
        self._confirmed_at = max(self._confirmed_at, at)

    def _take(self, revision: int, current_at: float, keys: Sequence[Key] | None) -> None:
        if keys is not None:
            self._by_prefix = {key.prefix: key for key in keys}
            self._by_id = {key.id: key for key in keys}
            self._tenants = {key.tenant_id for key in keys}
            self.is_open = not keys and self._verify is None
            self.revision = revision
        self._current_at = current_at
        self.confirm(current_at)

    async def keep_fresh(self) -> None:
        """Refresh until cancelled. Failures are retried, since a revocation must be noticed."""
        while True:
            await asyncio.sleep(REFRESH_S)
            with contextlib.suppress(StoreUnavailable):
                await self.refresh()


async def make_key(
    keys: SqlKeys,
    clock: Clock,
    tenant_id: str,
    scope: Scope | None,
    expires_s: int | None,
    label: str | None = None,
) -> tuple[Key, str]:
    """A new key, and its text, which is not stored. Raises `Unprocessable`.

    Without `scope`, the first key ever created has scope `operator` and every later one `write`.
    """
    check_tenant(tenant_id)
    check_label(label)
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
        label=label,
    )
    return await keys.add(key, None if scope else Scope.OPERATOR), text


async def revoke_key(keys: SqlKeys, clock: Clock, key_id: str, by: Caller | None = None) -> Key:
    """Revoke a key; repeating it changes nothing. `by`: the caller whose scope is checked; None: no
    check. Raises `NotFound`, also for another tenant's key, and `Forbidden` for a key of a higher
    scope.
    """
    for key in await keys.load():
        if key.id != key_id or not (by is None or by.reaches(key.tenant_id)):
            continue
        if by is not None and not by.scope.includes(key.scope):
            raise Forbidden(
                f"this key has scope {key.scope} and can only be revoked with a key of that scope",
                hint=f"use a key with scope {key.scope}, or quiltfn keys revoke",
            )
        return key if key.revoked_at else await keys.revoke(key, int(clock.unix()))
    raise NotFound("there is no key with this id")
