"""FleetKeys: a node that cannot refresh its keys from the store has them from another node, and the
disabled tenants with them.

Without it, a node that is cut off from PostgreSQL alone would accept a key for as long as that
lasts which was revoked meanwhile, and serve a tenant that was disabled. Each node keeps the time at
which it last knew all keys. Nodes say their key revision with each ping, and who is behind asks the
others.

    GET /fleet/keys?revision=N   the revision, its age, the keys, if the revision isn't N,
                                 and the disabled tenants
"""

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence

import msgspec
import structlog

from quiltfn.api.http.request import Request
from quiltfn.api.http.response import Response, json_response
from quiltfn.fleet.membership import Membership
from quiltfn.model.access import Key
from quiltfn.model.member import Member, NodeState
from quiltfn.ports.peers import Asker
from quiltfn.ports.placement import Peers, PeerUnavailable
from quiltfn.tenants.access import Access
from quiltfn.tenants.disabled import DisabledTenants

PATH = "/fleet/keys"
LOOK_EVERY_S = 0.5
# A node that reaches the store refreshes twice a second.
ASK_AFTER_S = 1.5
ASK_MAX_S, ANSWER_MAX_BYTES = 2.0, 64 * 1024 * 1024
_log = structlog.get_logger("quiltfn.fleet")


class KeyState(msgspec.Struct, frozen=True, kw_only=True):
    """The keys as a node knows them. `age_s`: they were complete so many seconds ago. `keys`: None
    if the asker has this revision. `disabled`: tenants, of which the store informed the node
    `disabled_age_s` ago.
    """

    revision: int
    age_s: float
    keys: Sequence[Key] | None = None
    disabled: Sequence[str] = ()
    disabled_age_s: float = math.inf


_decode = msgspec.json.Decoder(KeyState).decode


class PingedRevisions:
    """`peers.KeyRevisions` of `Access`: what nodes hear of each other. `is_behind`: set once a node
    knows a later revision.
    """

    def __init__(self, access: Access) -> None:
        self._access, self.is_behind = access, asyncio.Event()
        # Nodes that asked something since this one reached the store last. One that the store had
        # not named by then may have changed keys since.
        self.asked: set[str] = set()

    @property
    def revision(self) -> int:
        """As this node knows it, to be sent with a ping."""
        return self._access.revision

    def heard_of(self, node: str) -> None:
        """Another node is there: it asks something."""
        self.asked.add(node)

    def heard(self, revision: str | None) -> None:
        """The revision that another node has sent with a ping."""
        if revision is not None and revision.isdecimal() and int(revision) > self._access.revision:
            self.is_behind.set()


class FleetKeys:
    """Keeps `Access` of a node current. `seen`: the other nodes, as the store last said. `silent`:
    those of them that should be there, and whose beats the store does not get. `agree_s`: how old
    keys may be that nodes confirm to each other.
    """

    def __init__(
        self,
        credentials: tuple[Access, DisabledTenants],
        peers: Peers,
        seen: Callable[[], Sequence[Member]],
        silent: Callable[[], Sequence[str]],
        revisions: PingedRevisions,
        agree_s: float,
    ) -> None:
        (self._access, self._disabled), self._peers = credentials, peers
        self._seen, self._silent, self._revisions = seen, silent, revisions
        self._is_behind, self._agree_s = revisions.is_behind, agree_s

    @classmethod
    def of(
        cls,
        membership: Membership,
        peers: Peers,
        credentials: tuple[Access, DisabledTenants],
        revisions: PingedRevisions,
    ) -> "FleetKeys":
        """Of a member of the fleet, whose keys end with its instances."""

        def others() -> list[Member]:
            return [member for member in membership.seen() if member.name != membership.name]

        agree_s = membership.times.end_s - membership.times.fence_s
        return cls(credentials, peers, others, membership.silent, revisions, agree_s)

    async def answer(self, request: Request, _asker: Asker) -> Response:
        """Tells another node which keys this one knows."""
        access = self._access
        is_known = request.query == f"revision={access.revision}".encode()
        keys = None if is_known else access.keys
        return json_response(
            KeyState(
                revision=access.revision,
                age_s=access.age_s,
                keys=keys,
                disabled=self._disabled.names,
                disabled_age_s=self._disabled.age_s(),
            ),
        )

    async def run(self) -> None:
        """Until it is cancelled: asks the other nodes while the store does not answer, and when one
        of them knows more. While the store answers, nodes that it does not hear from hear that this
        one is there.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._is_behind.wait()
            if await self.look():
                await asyncio.sleep(LOOK_EVERY_S)  # whatever pings say meanwhile

    async def look(self) -> bool:
        """What is to be done now; whether that was to ask other nodes."""
        if self._is_behind.is_set() or self._access.age_s > ASK_AFTER_S:
            self._is_behind.clear()
            await self.ask()
            return True
        if self._disabled.age_s() <= ASK_AFTER_S:
            self._revisions.asked.clear()
        await asyncio.gather(*map(self._state, self._silent()))
        return False

    async def ask(self) -> None:
        """Asks every node that should be there or has asked something, and takes over what is
        newer.

        If all of them respond, this node knows what any node knows. Then it may go on even if none
        reaches the store: nobody can revoke a key at a node. A node that knows no other one does
        not vouch for itself: another may have been started since. As all of them may miss one that
        they do not reach, or a command, they agree for `agree_s` at most.
        """
        access, asked_at = self._access, self._access.now()
        own_age_s = self._disabled.age_s()  # keys may be younger: from another node
        members = [one for one in self._seen() if one.state is not NodeState.REMOVED]
        removed = {one.name for one in self._seen()} - {one.name for one in members}
        nodes = {one.name for one in members if one.is_there} | (self._revisions.asked - removed)
        states = await asyncio.gather(*map(self._state, nodes))
        for state in states:
            if state is not None:
                if own_age_s > ASK_AFTER_S and state.disabled_age_s < own_age_s:
                    self._hear_of(state.disabled)
                access.take_over(state.revision, asked_at - state.age_s, state.keys)
        if nodes and None not in states and access.age_s <= self._agree_s:
            access.confirm(asked_at)

    def _hear_of(self, disabled: Sequence[str]) -> None:
        """While this node is without the store. Only that says that a tenant is enabled: the other
        node may not know that it was disabled, nor yet that it was enabled again.
        """
        for tenant_id in disabled:
            self._disabled.set(tenant_id, disabled=True)

    async def _state(self, node: str) -> KeyState | None:
        target = f"{PATH}?revision={self._access.revision}".encode()
        with contextlib.suppress(PeerUnavailable, TimeoutError, msgspec.DecodeError):
            async with (
                asyncio.timeout(ASK_MAX_S),
                self._peers.request(node, "GET", target, (), b"", None) as answer,
            ):
                if answer.status == 200:
                    return _decode(await answer.read(ANSWER_MAX_BYTES))
        return None
