"""Several nodes over one PostgreSQL are killed, stopped, restarted and taken over in any order. No
attempt may run twice, and no asynchronous invocation may be lost.

The store, the spools and the rules of membership are real. Handlers are not: an attempt is a note
that it began, on a node that may end it. As the launcher does, a node ends its instances if its
membership was not renewed for `end_s`; as the server does, it starts nothing after `fence_s`
without a renewal.
"""

import asyncio
import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, example, given, settings
from msgspec.structs import replace

import postgresql
from contract.pieces import HOUR_MS, a_piece
from contract.stores import a_stored_function, done, on_postgresql
from manual_clock import ManualClock
from promises import promise
from quiltfn.base.ids import new_id
from quiltfn.fleet.observer import Observer, Times
from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.function import Function
from quiltfn.model.invocation import FINAL, Invocation, Status
from quiltfn.model.member import Report
from quiltfn.model.work import AsyncPolicy, Backoff, outcome
from quiltfn.store import SpoolJournal, SqlPolicies, SqlStore, SqlWork
from quiltfn.store.database import nodes
from quiltfn.store.database.postgresql import PostgresDatabase
from quiltfn.store.fleet.members import SqlMembers

pytestmark = promise("N30")

TIMES = Times(beat_s=1, fence_s=2.5, end_s=4, reap_s=6)
POLICY = AsyncPolicy(max_attempts=50, backoff=Backoff(first=0.5, factor=1, jitter=0))
NAMES = ("a", "b", "c")
ACTIONS = ("accept", "claim", "begin", "finish", "commit", "kill", "start", "stop", "go", "leave")


class Node:
    """One of the nodes, running or killed."""

    def __init__(self, world: "World", name: str) -> None:
        self.world, self.name = world, name
        self.is_up = self.is_stopped = False
        self.held: list[Invocation] = []
        self.running: dict[str, Invocation] = {}
        self.renewed_at = 0.0

    @property
    def acts(self) -> bool:
        return self.is_up and not self.is_stopped

    @property
    def may_begin(self) -> bool:
        """The check that a node makes before it starts anything."""
        return self.world.clock.time - self.renewed_at < TIMES.fence_s

    async def start(self) -> None:
        if self.is_up:
            return
        clock = self.world.clock
        self.renewed_at = clock.time
        self.stack = contextlib.AsyncExitStack()
        path = self.world.path
        opened = on_postgresql(path / "shared", alone=False, node_id=self.name)
        self.store = await self.stack.enter_async_context(opened)
        database = self.store.database
        assert isinstance(database, PostgresDatabase)
        quick = database.quick_connection()
        self.stack.push_async_callback(quick.aclose)
        self.journal = SpoolJournal(database, path / self.name, clock, commit_after_s=1000)
        await self.journal.start()
        self.work = SqlWork(database)
        self.members = SqlMembers(database, quick.run, clock, b"{}")
        self.observer = Observer(self.name, TIMES)
        boot = database.boot
        await database.write(lambda connection: nodes.register(connection, boot, "1.0"))
        await self.members.register(f"{self.name}:1", Report())
        self.is_up, self.is_stopped = True, False

    async def kill(self) -> None:
        """Acts like `kill -9` of all processes of a node; only the spool is left."""
        if not self.is_up:
            return
        if self.journal._timer is not None:
            self.journal._timer.cancel()
        self.journal._close()
        await self.stack.aclose()
        self.is_up, self.held = False, []
        self.running.clear()

    async def leave(self) -> None:
        """Stops the node properly: it releases claims, and ends running attempts."""
        if not self.acts:
            return
        try:
            await self.work.release([one.invocation_id for one in self.held])
            self.held = []
            for call in [*self.running]:
                self.finish(call)
            await self.journal.synced()
            await self.members.leave()
        except StoreUnavailable:
            pass
        await self.kill()

    async def beat(self) -> None:
        """The tasks of a node that are due every second."""
        now = self.world.clock.time
        try:
            own = await self.members.beat(Report())
        except StoreUnavailable:  # its sessions were ended, and the next heartbeat opens new ones
            return
        if own is None:  # the node ends, since it was taken over; a service manager restarts it
            await self.kill()
            return
        self.renewed_at = now
        for seen in self.observer.look(await self.members.read(), now):
            await self.members.take_over(seen)

    def end_instances(self) -> None:
        """The launcher ends instances even if the server is stopped."""
        if self.world.clock.time - self.renewed_at < TIMES.end_s:
            return
        for call, record in [*self.running.items()]:
            del self.running[call]
            if not self.is_stopped:
                self._close(replace(record, status=Status.INTERRUPTED, ended_at=self.world.now_s))

    async def claim(self) -> None:
        claim = await self.work.claim(self.world.function.id, 2, self.world.now_ms, is_begun=False)
        self.held += [one.record for one in claim.work]

    def begin_one(self) -> None:
        if not self.held or not self.may_begin:
            return
        record = self.held.pop()
        running = replace(
            record, status=Status.RUNNING, started_at=self.world.now_s, execution_node_id=self.name
        )
        self.journal.opened(running)
        self.running[record.invocation_id] = running
        self.world.has_begun(record)

    def finish(self, call: str) -> None:
        self._close(done(self.running.pop(call)))

    def _close(self, ended: Invocation) -> None:
        late = self.world.now_ms + HOUR_MS
        decided = outcome(POLICY, ended, self.world.now_ms, late, 0.5, new_id)
        self.journal.closed(replace(ended, outcome=decided))


class World:
    def __init__(self, path: Path) -> None:
        self.path, self.clock = path, ManualClock(1_760_000_000.0)
        self.nodes = {name: Node(self, name) for name in NAMES}
        self.function: Function
        self.accepted: list[str] = []
        self.begun: Counter[tuple[str, int]] = Counter()

    @property
    def now_s(self) -> int:
        return int(self.clock.time)

    @property
    def now_ms(self) -> int:
        return int(self.clock.time * 1000)

    def has_begun(self, record: Invocation) -> None:
        self.begun[record.invocation_id, record.attempt] += 1
        where = [one.name for one in self.nodes.values() if record.invocation_id in one.running]
        assert len(where) == 1, f"it runs on {where} at a time"

    async def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.time += 1
            for node in self.nodes.values():
                if node.acts:
                    await node.beat()
            for node in self.nodes.values():
                node.end_instances()

    async def act(self, action: str, name: str) -> None:
        node = self.nodes[name]
        if action == "go":
            node.is_stopped = False
        elif action == "stop":
            node.is_stopped = node.is_up
        elif action == "kill":
            await node.kill()
        elif action == "start":
            await node.start()
        elif action == "leave":
            await node.leave()
        elif node.acts:
            try:
                await self._serve(action, node)
            except StoreUnavailable:  # the node was taken over, and learns it by this error
                await node.kill()

    async def _serve(self, action: str, node: Node) -> None:
        if action == "accept":
            piece = a_piece(self.function)
            due = {"due_at_ms": self.now_ms, "expires_at_ms": self.now_ms + 24 * HOUR_MS}
            await node.work.accept(replace(piece, **due))
            self.accepted.append(piece.record.invocation_id)
        elif action == "claim":
            await node.claim()
        elif action == "begin":
            node.begin_one()
        elif action == "finish" and node.running:
            node.finish(next(iter(node.running)))
        elif action == "commit":
            await node.journal.synced()

    async def settle(self) -> None:
        """Ends all faults, and runs all asynchronous invocations to their end."""
        for node in self.nodes.values():
            node.is_stopped = False
            await node.start()
        for _ in range(40):
            await self.pass_time(1)
            for name in NAMES:
                await self.act("start", name)
                for action in ("claim", "begin", "begin", "finish", "finish", "commit"):
                    await self.act(action, name)
            if await self.all_are_over():
                for node in self.nodes.values():
                    await node.start()  # a node that was taken over may learn it only now
                return
        raise AssertionError("accepted work is left")

    async def all_are_over(self) -> bool:
        records = [await self.record(one) for one in self.accepted]
        return all(one.status in FINAL for one in records)

    async def record(self, call: str) -> Invocation:
        up = next(one for one in self.nodes.values() if one.is_up)
        found = await up.journal.get(self.function.id, call)
        assert found is not None, "an accepted call has no record"
        return found


STORIES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(ACTIONS), st.sampled_from(NAMES)),
        st.tuples(st.just("wait"), st.sampled_from([1, 3, 5, 12])),
    ),
    min_size=10,
    max_size=60,
)


async def play(path: Path, story: list[tuple[str, Any]]) -> World:
    world = World(path)
    try:
        for node in world.nodes.values():
            await node.start()
        store: SqlStore = world.nodes["a"].store
        world.function = await a_stored_function(store)
        await SqlPolicies(store.database).save_async(world.function.id, POLICY)
        for action, argument in story:
            if action == "wait":
                await world.pass_time(argument)
            else:
                await world.act(action, argument)
        await world.settle()
        assert [key for key, times in world.begun.items() if times > 1] == []
        for call in world.accepted:
            assert (await world.record(call)).status is Status.SUCCESS
        stored = await world.nodes["a"].store.find(world.function.id)
        assert stored is not None
        await asyncio.gather(*(node.journal.synced() for node in world.nodes.values()))
        stored = await world.nodes["a"].store.find(world.function.id)
        assert stored is not None
        assert stored.counters.invocation_count == len(world.accepted)
    finally:
        for node in world.nodes.values():
            with contextlib.suppress(StoreUnavailable):
                await node.kill()
    return world


LOST_WITH_WORK: list[tuple[str, Any]] = [
    *[("accept", "a")] * 4,
    *[("claim", "a"), ("begin", "a"), ("claim", "b"), ("begin", "b")],
    ("commit", "a"),
]


# A killed node is taken over, and its attempts are made again.
@example(story=[*LOST_WITH_WORK, ("kill", "a"), ("wait", 12)])
# After SIGSTOP, a take-over and SIGCONT, the node still has claimed invocations, and believes that
# it owns them.
@example(story=[*LOST_WITH_WORK, ("stop", "a"), ("wait", 12), ("go", "a"), ("begin", "a")])
# A node that leaves ends the attempts that it has started, and releases what it has only claimed.
@example(story=[*LOST_WITH_WORK, ("leave", "a"), ("wait", 1)])
@given(story=STORIES)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_attempt_is_made_twice_and_no_work_is_lost(
    tmp_path_factory: pytest.TempPathFactory, story: list[tuple[str, Any]]
) -> None:
    try:
        asyncio.run(play(tmp_path_factory.mktemp("story"), story))
    finally:
        postgresql.drop_databases()


@pytest.fixture(autouse=True)
def no_databases() -> Any:
    yield
    postgresql.drop_databases()


async def test_without_the_fence_an_attempt_is_made_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: without the check, a node starts attempts that others make again."""
    monkeypatch.setattr(Node, "may_begin", True)
    story = [
        *[("accept", "a"), ("claim", "a"), ("stop", "a"), ("wait", 12)],
        *[("claim", "b"), ("begin", "b"), ("go", "a"), ("begin", "a")],
    ]
    with pytest.raises(AssertionError, match="at a time"):
        await play(tmp_path, story)
