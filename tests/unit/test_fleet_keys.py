"""FleetKeys: which keys a node accepts without the store, by what other nodes know."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from manual_clock import ManualClock
from promises import promise
from quiltfn.fleet import keys as module
from quiltfn.fleet.keys import FleetKeys, PingedRevisions
from quiltfn.fleet.observer import Times
from quiltfn.model.access import Caller, Key, Scope, digest_of
from quiltfn.model.errors import StoreUnavailable, TenantDisabled, Unauthorized
from quiltfn.model.member import Member, NodeState, Presence
from quiltfn.ports.placement import PeerUnavailable
from quiltfn.tenants.access import ANYBODY, Access
from quiltfn.tenants.disabled import DisabledTenants

pytestmark = promise("N94")

FENCE_S, AGREE_S = 10.0, 50.0
TIMES = Times(beat_s=2.0, fence_s=FENCE_S, end_s=FENCE_S + AGREE_S, reap_s=100.0)
SECRET = f"quilt_sk_{'a' * 12}_{'x' * 43}"
TOKEN = Caller(tenant_id="acme", scope=Scope.READ, credential="token", token_ends_at=10**10)


def a_key(revoked_at: int | None = None) -> Key:
    return Key(
        id="key-1",
        tenant_id="acme",
        scope=Scope.WRITE,
        prefix="a" * 12,
        digest=digest_of(SECRET),
        created_at=0,
        revoked_at=revoked_at,
    )


class Store:
    """`Keys` shared by all nodes."""

    def __init__(self, *keys: Key) -> None:
        self.keys, self.number, self.cut_off = list(keys), 1, set[str]()

    def seen_by(self, name: str) -> Any:
        def check() -> None:
            if name in self.cut_off:
                raise StoreUnavailable("cut off")

        async def revision() -> int:
            check()
            return self.number

        async def load() -> list[Key]:
            check()
            return list(self.keys)

        return SimpleNamespace(change_token=lambda: None, revision=revision, load=load)

    def revoke(self) -> None:
        self.keys, self.number = [a_key(revoked_at=1)], self.number + 1


class Nodes:
    """Nodes of a fleet without a network between them: those in `parted` answer no other node."""

    def __init__(self, store: Store, *names: str) -> None:
        self.store, self.clock, self.parted = store, ManualClock(), set[str]()
        self.members = [Member(name=name, epoch=1, version="1") for name in names]
        self.disabled = {name: DisabledTenants(partial(self.lag_s, name)) for name in names}
        self.access = {
            name: Access(store.seen_by(name), self.clock, disabled=disabled, stale_after_s=FENCE_S)
            for name, disabled in self.disabled.items()
        }
        self.reached = dict.fromkeys(names, self.clock.now())
        self.revisions = {name: PingedRevisions(access) for name, access in self.access.items()}
        self.keys = {name: self.joined(name) for name in names}
        self.asker = ""

    def joined(self, name: str) -> FleetKeys:
        seen: Any = SimpleNamespace(
            name=name, times=TIMES, seen=lambda: self.members, silent=self.silent
        )
        peers: Any = self
        credentials = self.access[name], self.disabled[name]
        return FleetKeys.of(seen, peers, credentials, self.revisions[name])

    def lag_s(self, name: str) -> float:
        return self.clock.now() - self.reached[name]

    def silent(self) -> list[str]:
        return sorted(self.store.cut_off & {one.name for one in self.members})

    @contextlib.asynccontextmanager
    async def request(self, node: str, _method: str, target: bytes, *_: Any) -> AsyncIterator[Any]:
        if node in self.parted or node not in self.keys:
            raise PeerUnavailable("parted", may_have_run=False)
        if self.asker not in {one.name for one in self.members if one.is_there}:
            self.revisions[node].heard_of(self.asker)
            raise PeerUnavailable("unknown", may_have_run=False)
        request = SimpleNamespace(query=target.partition(b"?")[2])
        response = await self.keys[node].answer(cast("Any", request), cast("Any", None))

        async def read(_limit: int) -> bytes:
            assert isinstance(response.body, bytes)
            return response.body

        yield SimpleNamespace(status=response.status, read=read)

    async def refresh(self) -> None:
        """Let each node do its periodic refresh."""
        for name, access in self.access.items():
            with contextlib.suppress(StoreUnavailable):
                await access.refresh()
                self.reached[name] = self.clock.now()
        for name, keys in self.keys.items():
            self.asker = name
            await keys.look()

    async def after(self, seconds: float) -> None:
        self.clock.time += seconds
        await self.refresh()

    async def invoke(self, name: str) -> int:
        """The status of the node's response to a request with the key."""
        try:
            await self.access[name].identify({"x-api-key": SECRET}, "192.0.2.1")
        except (StoreUnavailable, TenantDisabled, Unauthorized) as error:
            return {StoreUnavailable: 503, TenantDisabled: 403, Unauthorized: 401}[type(error)]
        return 200


@pytest.fixture
async def nodes() -> Nodes:
    nodes = Nodes(Store(a_key()), "one", "two", "three")
    await nodes.refresh()
    return nodes


async def test_a_node_without_the_store_follows_a_revocation_by_another_node(nodes: Nodes) -> None:
    nodes.store.cut_off = {"two"}
    await nodes.after(5)
    assert await nodes.invoke("two") == 200
    nodes.store.revoke()
    await nodes.after(2)
    assert await nodes.invoke("two") == 401
    await nodes.after(100)
    assert await nodes.invoke("two") == 401
    nodes.store.cut_off = set()
    await nodes.after(1)
    assert await nodes.invoke("two") == 401


@promise("N98")
async def test_a_cut_off_node_hears_of_a_disabled_tenant_from_another(nodes: Nodes) -> None:
    nodes.store.cut_off = {"two"}
    await nodes.after(2)
    nodes.disabled["one"].set("acme", disabled=True)
    await nodes.after(2)
    assert await nodes.invoke("two") == 403
    caller = Caller(tenant_id="acme", scope=Scope.WRITE, credential="key-1")
    assert not nodes.access["two"].still_holds(caller)
    with pytest.raises(Unauthorized):
        await nodes.access["two"].accept(caller)
    # A node learns only from the store that a tenant is enabled. Nodes that have not reached the
    # store since then know nothing new.
    nodes.disabled["one"].set("acme", disabled=False)
    await nodes.after(2)
    nodes.store.cut_off = {"one", "two", "three"}
    nodes.disabled["one"].set("other", disabled=True)
    await nodes.after(2)
    assert nodes.disabled["two"].names == ["acme", "other"]
    assert nodes.disabled["three"].names == []


@promise("N98")
async def test_keys_of_another_node_do_not_stand_for_the_store(nodes: Nodes) -> None:
    """Other nodes create keys all the time, so the keys of a node that is cut off are never old.
    The node still learns that a tenant was disabled, and knows which nodes the store has not named
    yet.
    """
    nodes.store.cut_off = {"two"}
    for step in range(20):
        if step == 10:
            nodes.revisions["two"].heard_of("new")
            nodes.disabled["one"].set("acme", disabled=True)
        nodes.store.number += 1
        nodes.revisions["two"].is_behind.set()
        await nodes.after(0.5)
        assert nodes.access["two"].age_s < module.ASK_AFTER_S
        # No look at the store is due between two pings.
        assert await nodes.keys["two"].look() is False
    assert nodes.disabled["two"].names == ["acme"]
    assert nodes.revisions["two"].asked == {"new"}
    nodes.store.cut_off = set()
    await nodes.after(0.5)  # control: the store is reachable again
    assert nodes.revisions["two"].asked == set()


async def test_a_node_that_reaches_the_store_takes_disabled_tenants_from_it_alone(
    nodes: Nodes,
) -> None:
    """Another node has newer keys, but does not know yet that a tenant was enabled again. The node
    takes the keys, and not the list of disabled tenants, although that is newer than its own.
    """
    nodes.clock.time += 0.5
    await nodes.access["two"].refresh()
    nodes.reached["two"] = nodes.clock.now()
    nodes.disabled["two"].set("acme", disabled=True)
    nodes.revisions["one"].is_behind.set()
    nodes.asker = "one"
    assert await nodes.keys["one"].look()
    assert nodes.access["one"].age_s == 0
    assert nodes.disabled["one"].names == []


@pytest.mark.parametrize(
    ("cut_off", "parted", "status"),
    [
        ({"two"}, set(), 200),
        ({"two"}, {"one"}, 200),  # the third node knows about the key
        ({"one", "two", "three"}, set(), 200),  # no key can be revoked at any node
        ({"one", "two", "three"}, {"one"}, 503),  # the first node may know more
        ({"two"}, {"one", "three"}, 503),
    ],
)
async def test_a_valid_key_during_an_outage(
    nodes: Nodes, cut_off: set[str], parted: set[str], status: int
) -> None:
    nodes.store.cut_off, nodes.parted = cut_off, parted
    began = nodes.clock.now()
    for _ in range(int(2 * FENCE_S)):
        await nodes.after(1)
        expected = status if nodes.clock.now() - began > FENCE_S else 200
        assert await nodes.invoke("two") == expected, nodes.clock.now()
    nodes.store.cut_off, nodes.parted = set(), set()
    await nodes.after(1)
    assert await nodes.invoke("two") == 200


async def test_nodes_without_the_store_agree_for_a_while_only(nodes: Nodes) -> None:
    """All nodes may miss that a command, or a node that none of them knows, has revoked a key."""
    nodes.store.cut_off = {"one", "two", "three"}
    nodes.store.revoke()
    for _ in range(int(AGREE_S + FENCE_S)):
        await nodes.after(1)
        assert await nodes.invoke("two") == 200
    await nodes.after(1)
    assert await nodes.invoke("two") == 503
    nodes.store.cut_off = {"one", "two"}
    await nodes.after(1)
    await nodes.after(1)
    assert await nodes.invoke("two") == 401


async def test_nodes_that_left_or_were_removed_need_not_respond(nodes: Nodes) -> None:
    nodes.members += [
        Member(name="four", epoch=1, version="1", presence=Presence.LEFT),
        Member(name="five", epoch=1, version="1", state=NodeState.REMOVED),
    ]
    nodes.revisions["two"].heard_of("seven")  # this node sent a request before the cut
    await nodes.after(1)
    nodes.store.cut_off = {"one", "two", "three"}
    nodes.revisions["two"].heard_of("five")
    await nodes.after(2 * FENCE_S)
    assert await nodes.invoke("two") == 200
    # Control: this node must respond, and does not.
    nodes.members.append(Member(name="six", epoch=1, version="1"))
    await nodes.after(2 * FENCE_S)
    assert await nodes.invoke("two") == 503


@pytest.mark.parametrize("presence", [Presence.LEFT, None])
@pytest.mark.parametrize(("others", "asks"), [(0, True), (1, True), (0, False)])
async def test_new_node_may_revoke_keys(presence: Presence | None, others: int, asks: bool) -> None:
    """The node that is cut off knows the new node as one that has left, or does not know it.
    `asks`: the new node contacts it. A node that knows no other node does not vouch for itself.
    """
    nodes = Nodes(Store(a_key()), *("two", "three")[: 1 + others], "new")
    new = nodes.members.pop()
    if presence is not None:
        nodes.members.append(msgspec.structs.replace(new, presence=presence))
    nodes.parted = {"new"}
    if not asks:
        del nodes.keys["new"]
    await nodes.refresh()
    nodes.store.cut_off = set(nodes.access) - {"new"}
    nodes.store.revoke()
    statuses = []
    for _ in range(int(2 * FENCE_S)):
        await nodes.after(1)
        statuses.append(await nodes.invoke("two"))
    assert (statuses[0], statuses[-1]) == (200, 503)
    nodes.store.cut_off = set()
    await nodes.after(1)
    assert await nodes.invoke("two") == 401


async def test_the_open_mode_ends_as_well_and_a_signed_token_is_not_in_the_store() -> None:
    nodes = Nodes(Store(), "one")
    await nodes.refresh()
    access = nodes.access["one"]
    assert await access.identify({}, "192.0.2.1") == ANYBODY
    nodes.clock.time += FENCE_S + 1
    for call in (access.identify({}, "192.0.2.1"), access.accept(ANYBODY)):
        with pytest.raises(StoreUnavailable):
            await call
    assert not access.still_holds(ANYBODY)
    assert await access.accept(TOKEN) == TOKEN


async def test_what_another_node_says_of_a_caller_is_checked(nodes: Nodes) -> None:
    access = nodes.access["one"]
    caller = Caller(tenant_id="acme", scope=Scope.WRITE, credential="key-1")
    assert await access.accept(caller) == caller
    for wrong in (
        Caller(tenant_id="other", scope=Scope.WRITE, credential="key-1"),
        Caller(tenant_id="acme", scope=Scope.OPERATOR, credential="key-1"),
        Caller(tenant_id="acme", scope=Scope.WRITE, credential="key-2"),
        ANYBODY,
    ):
        with pytest.raises(Unauthorized):
            await access.accept(wrong)
    nodes.store.revoke()
    await nodes.refresh()
    with pytest.raises(Unauthorized):
        await access.accept(caller)


@pytest.mark.parametrize(
    ("heard", "asks"), [("2", True), ("1", False), (None, False), ("many", False)]
)
async def test_a_newer_revision_in_a_ping_is_asked_for(
    nodes: Nodes, heard: str | None, asks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.0001)
    revisions = nodes.revisions["two"]
    nodes.store.cut_off = {"two"}
    nodes.store.revoke()
    nodes.clock.time += module.ASK_AFTER_S / 2
    await nodes.access["one"].refresh()
    nodes.asker = "two"
    running = asyncio.ensure_future(nodes.keys["two"].run())
    try:
        await asyncio.sleep(0.02)
        assert revisions.revision == 1, "a look without a ping"
        revisions.heard(heard)
        for _ in range(2000 if asks else 20):
            await asyncio.sleep(0.001)
            if revisions.revision > 1:
                break
    finally:
        running.cancel()
    assert await nodes.invoke("two") == (401 if asks else 200)


async def test_an_older_response_replaces_nothing(nodes: Nodes) -> None:
    access = nodes.access["one"]
    old = access.now() - 5
    access.take_over(99, old, [])
    access.take_over(99, access.now() + 1, None)  # another revision, but without its keys
    assert (access.revision, await nodes.invoke("one")) == (1, 200)
