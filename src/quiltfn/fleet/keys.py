"""FleetKeys: a node that can't refresh its keys from the store gets them from another node,
together with the disabled tenants.

Otherwise a node that has lost only its connection to PostgreSQL would keep accepting a revoked key,
and keep serving a disabled tenant. Each node remembers when it last knew all keys. Nodes send their
key revision with each ping, and a node with an older one asks the others.

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
# A node with access to the store refreshes twice a second.
ASK_AFTER_S = 1.5
ASK_MAX_S, ANSWER_MAX_BYTES = 2.0, 64 * 1024 * 1024
_log = structlog.get_logger("quiltfn.fleet")


class KeyState(msgspec.Struct, frozen=True, kw_only=True):
    """The keys that a node knows. `age_s`: seconds since this node was last known to have all keys.
    `keys`: None if the other node has this revision. `disabled`: the disabled tenants, as read from
    the store `disabled_age_s` seconds ago.
    """

    revision: int
    age_s: float
    keys: Sequence[Key] | None = None
    disabled: Sequence[str] = ()
    disabled_age_s: float = math.inf


_decode = msgspec.json.Decoder(KeyState).decode


class PingedRevisions:
    """`peers.KeyRevisions` of `Access`: the revisions that nodes exchange. `is_behind`: set once
    another node has a later revision.
    """

    def __init__(self, access: Access) -> None:
        self._access, self.is_behind = access, asyncio.Event()
        # Nodes that have sent a request since this one last reached the store. They include nodes
        # that joined later, and such a node may have changed keys.
        self.asked: set[str] = set()

    @property
    def revision(self) -> int:
        """This node's revision, to be sent with a ping."""
        return self._access.revision

    def heard_of(self, node: str) -> None:
        """Another node is present: it has sent a request."""
        self.asked.add(node)

    def heard(self, revision: str | None) -> None:
        """The revision that another node has sent with a ping."""
        if revision is not None and revision.isdecimal() and int(revision) > self._access.revision:
            self.is_behind.set()


class FleetKeys:
    """Keeps `Access` of a node current. `seen`: returns the other nodes, as of the last read of the
    store. `silent`: returns the other nodes that should be present, but whose heartbeats do not
    reach the store. `agree_s`: maximum age of keys that nodes confirm to each other.
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
        """Create it for a member of the fleet: without the store, it accepts keys at most as long
        as its instances may run.
        """

        def others() -> list[Member]:
            return [member for member in membership.seen() if member.name != membership.name]

        agree_s = membership.times.end_s - membership.times.fence_s
        return cls(credentials, peers, others, membership.silent, revisions, agree_s)

    async def answer(self, request: Request, _asker: Asker) -> Response:
        """Send another node the keys that this one knows."""
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
        """Run until cancelled: ask the other nodes while the store is unavailable, and when one of
        them has a later revision. While the store is available, contact nodes whose heartbeats are
        missing, so that they know of this one.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._is_behind.wait()
            if await self.look():
                await asyncio.sleep(LOOK_EVERY_S)  # at most this often, whatever pings report

    async def look(self) -> bool:
        """Do the next step; return whether that was `ask`."""
        if self._is_behind.is_set() or self._access.age_s > ASK_AFTER_S:
            self._is_behind.clear()
            await self.ask()
            return True
        if self._disabled.age_s() <= ASK_AFTER_S:
            self._revisions.asked.clear()
        await asyncio.gather(*map(self._state, self._silent()))
        return False

    async def ask(self) -> None:
        """Ask every node that should be present or has sent a request, and apply newer keys.

        If all of them respond, this node knows everything that any node knows. It may then continue
        even if no node reaches the store: keys can't be revoked without the store. A node that
        knows no other node does not confirm its own keys, since others may have been started
        meanwhile. All of them may miss the change of an unreachable node, or of a command, so they
        confirm each other's keys for at most `agree_s`.
        """
        access, asked_at = self._access, self._access.now()
        # Not the age of the keys, which may come from another node.
        own_age_s = self._disabled.age_s()
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
        """Apply disabled tenants while this node is without the store. A tenant is enabled only by
        the store: another node may have missed that it was disabled, or that it was enabled again.
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
