"""Random operations on two nodes at once: in the end, both nodes match the store.

Each node has a catalog, a lifecycle and pools of fake sandboxes. A node reads the other's changes
only when the story says so; until then it acts on outdated data.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from contract.stores import SHARED_STORES
from manual_clock import ManualClock
from promises import promise
from quiltfn.base.others import Others
from quiltfn.fleet.follower import Follower
from quiltfn.functions.aliases import Aliases
from quiltfn.functions.catalog import Catalog, Entry
from quiltfn.functions.lifecycle import Lifecycle, NodeConfig
from quiltfn.functions.policies import Policies
from quiltfn.functions.urls import Urls
from quiltfn.functions.version_cache import KnownVersions
from quiltfn.model.errors import QuiltfnError
from quiltfn.model.function import FunctionState, NewFunction
from quiltfn.model.limits import PoolLimits
from quiltfn.model.runtime import SHELL
from quiltfn.model.url import FunctionUrl
from quiltfn.model.version import HostLimits, VersionSpec
from quiltfn.model.work import AsyncPolicy
from quiltfn.pool.local import LocalPools
from quiltfn.ports import ChangeKind
from quiltfn.sandbox.fake import FakeSandboxes
from quiltfn.store import SqlAliases, SqlPolicies, SqlStore, SqlUrls
from timeouts import scaled

pytestmark = promise("N20")

TENANT, NAMES = "default", ("f", "g")


class ShellAlone:
    """The `Runtimes` of a node that has only the shell."""

    def with_snapshot(self, _tenant_id: str, spec: VersionSpec) -> VersionSpec:
        return spec.__replace__(runtime_snapshot=SHELL)


@dataclass
class StoryNode:
    """The parts of a node that depend on the store."""

    store: SqlStore
    catalog: Catalog = field(default_factory=Catalog)
    sandboxes: FakeSandboxes = field(default_factory=FakeSandboxes)

    def __post_init__(self) -> None:
        clock, runtimes = ManualClock(), ShellAlone()
        config = NodeConfig(
            node_id="node",
            host=HostLimits(memory_max_mib=65_536, cores=2, timeout_max_s=60),
            runtimes=runtimes,  # type: ignore[arg-type]
            pools=PoolLimits(),
            may_run=lambda _: True,
        )
        self.pools = LocalPools(self.sandboxes, clock)
        versions, self.follower = KnownVersions(self.store), Follower(self.store)
        aliases = Aliases(
            SqlAliases(self.store.database),
            self.catalog,
            versions,
            clock,
            Others(self.follower.refresh),
        )
        self.lifecycle = Lifecycle(self.catalog, self.store, aliases, self.pools, clock, config)
        self.urls = Urls(SqlUrls(self.store.database), self.catalog)
        self.policies = Policies(SqlPolicies(self.store.database))
        self.catalog.on_change.connect(self.urls.function_changed, self.policies.function_changed)
        self.follower.connect(
            {
                ChangeKind.FUNCTION: self.lifecycle.follow_changes,
                ChangeKind.URL: self.urls.follow_changes,
                ChangeKind.POLICY: self.policies.follow_changes,
            }
        )
        self.numbers = iter(range(1_000))

    async def do(self, operation: str, name: str) -> None:
        """Performs one operation, which may fail with errors that callers know."""
        with contextlib.suppress(QuiltfnError):
            await OPERATIONS[operation](self, name)

    def entry(self, name: str) -> Entry:
        return self.catalog.by_name(TENANT, name)

    async def end(self) -> None:
        await self.pools.aclose()
        assert not self.sandboxes.alive
        for pool in self.pools._pools.values():
            pool.model.check()


async def create(node: StoryNode, name: str) -> None:
    await node.lifecycle.create(TENANT, NewFunction(name=name), VersionSpec(handler="echo 1"))


async def update(node: StoryNode, name: str) -> None:
    change = {"handler": f"echo {id(node)} {next(node.numbers)}"}
    await node.lifecycle.update(node.entry(name), change)


async def set_url(node: StoryNode, name: str) -> None:
    url = None if node.urls.of(node.entry(name).function.id) else FunctionUrl()
    await node.urls.set(node.entry(name), url)


async def set_policy(node: StoryNode, name: str) -> None:
    policy = AsyncPolicy(max_attempts=1 + next(node.numbers) % 9)
    await node.policies.set_policy(node.entry(name).function.id, policy)


OPERATIONS: dict[str, Callable[[StoryNode, str], Awaitable[Any]]] = {
    "create": create,
    "deploy": lambda node, name: node.lifecycle.deploy(node.entry(name)),
    "pause": lambda node, name: node.lifecycle.pause(node.entry(name)),
    "resume": lambda node, name: node.lifecycle.resume(node.entry(name)),
    "update": update,
    "rollback": lambda node, name: node.lifecycle.rollback(node.entry(name), 1),
    "scale": lambda node, name: node.lifecycle.set_scaling(
        node.entry(name), 0, 2 + next(node.numbers) % 5
    ),
    "rename": lambda node, name: node.lifecycle.update(
        node.entry(name), {"name": NAMES[1 - NAMES.index(name)]}
    ),
    "delete": lambda node, name: node.lifecycle.delete(node.entry(name)),
    "url": set_url,
    "policy": set_policy,
    "follow": lambda node, _: node.follower.refresh(),
}
STEPS = st.tuples(st.integers(0, 1), st.sampled_from(sorted(OPERATIONS)), st.sampled_from(NAMES))
# The steps of a group run concurrently.
STORIES = st.lists(st.lists(STEPS, min_size=1, max_size=4), min_size=1, max_size=12)


@contextlib.asynccontextmanager
async def two_nodes() -> AsyncIterator[list[StoryNode]]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        opened = SHARED_STORES["sqlite"]
        async with opened(path, "one") as first, opened(path, "two") as second:
            nodes = [StoryNode(first), StoryNode(second)]
            for node in nodes:
                await node.follower.start()
            yield nodes
            for node in nodes:
                await node.end()


async def run(story: list[list[tuple[int, str, str]]]) -> None:
    async with two_nodes() as nodes:
        for group in story:
            async with asyncio.timeout(scaled(60)):
                await asyncio.gather(*(nodes[at].do(what, name) for at, what, name in group))
        for node in nodes:
            await node.follower.refresh()
        stored = {one.function.id: one for one in await nodes[0].store.load()}
        urls = dict(await SqlUrls(nodes[0].store.database).load())
        policies = {
            one: policy
            for one, policy, _ in await SqlPolicies(nodes[0].store.database).load()
            if policy is not None
        }
        for node in nodes:
            known = {one.function.id: one for one in node.catalog.all()}
            assert known.keys() == stored.keys()
            assert node.urls._rows == urls
            assert {one: both.asynchronous for one, both in node.policies._rows.items()} == policies
            for function_id, entry in known.items():
                assert entry.function == stored[function_id].function
                assert entry.version == stored[function_id].version
                assert node.entry(entry.function.name) is entry
                check_pool(node, entry)


def check_pool(node: StoryNode, entry: Entry) -> None:
    """Checks that the pool serves the function's current version, or nothing."""
    pool = node.pools._pools.get(entry.function.id)
    if entry.function.state is not FunctionState.ACTIVE:
        assert pool is None or pool.model.current is None
        return
    assert pool is not None
    assert pool.serves(entry.version)
    assert pool.model.limits.max_instances == entry.function.max_instances
    assert pool.model.prepared is None


# setting the first policy changes the default one
@example([[(0, "create", "f")], [(0, "policy", "f")]])
@given(STORIES)
@settings(max_examples=40)
def test_two_nodes_have_what_the_store_has(story: list[list[tuple[int, str, str]]]) -> None:
    asyncio.run(run(story))
