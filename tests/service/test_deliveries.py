"""Deliveries: from the commit of a record to what a receiver or a function gets."""

from __future__ import annotations

import asyncio
import codecs
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import pytest
from msgspec.structs import replace
from standardwebhooks import Webhook, WebhookVerificationError

from contract.pieces import a_piece, begun
from contract.stores import a_function, a_stored_function, a_version, an_id, done, restart
from promises import promise
from quiltfn.base.clock import SystemClock
from quiltfn.base.others import Others
from quiltfn.calls.callbacks import Callbacks
from quiltfn.calls.deliveries import AT_ONCE, LOOKED_AT, OF_HOST, OF_TENANT, Deliveries
from quiltfn.calls.work import Work
from quiltfn.functions.catalog import Catalog, Entry
from quiltfn.functions.policies import Policies
from quiltfn.model import delivery as model
from quiltfn.model.delivery import CHAIN_MAX, Delivery
from quiltfn.model.errors import Conflict, NotFound, StoreUnavailable
from quiltfn.model.function import Function, FunctionState
from quiltfn.model.invocation import Status, WorkOutcome
from quiltfn.model.retention import StorageLimit
from quiltfn.model.work import AsyncPolicy, Backoff, Destination
from quiltfn.ports import FunctionCounters
from quiltfn.ports.deliveries import CallbackFailed
from quiltfn.ports.work import Input
from quiltfn.store import SpoolJournal, SqlDeliveries, SqlPolicies, SqlStore, SqlWork, open_sqlite
from quiltfn.tenants.disabled import DisabledTenants
from service.faults import away, failing, held_up, silent
from service.platform_harness import open_harness, until
from service.test_callbacks import ranges_of, receiver
from sqlite_template import with_schema
from timeouts import scaled

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
URL = "https://hook.example/x"
SOON_S = 10.0


class Sender:
    """A `CallbackSender` that stores requests. `reply`: returns the response for a URL."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, Mapping[str, str], bytes]] = []
        self.reply: Callable[[str], Awaitable[int]] = self.fine
        self.opened = 0
        self.posted = asyncio.Event()
        self.now = self.most = 0
        self.most_of: dict[str, int] = {}
        self._now_of: dict[str, int] = {}

    def open(self) -> Sender:
        self.opened += 1
        return self

    async def fine(self, _url: str) -> int:
        return 204

    def slow_until(self, event: asyncio.Event, part: str = "slow") -> None:
        """Delays the responses of URLs that contain `part` until the event is set."""

        async def reply(url: str) -> int:
            if part in url:
                await event.wait()
            return 200

        self.reply = reply

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        self.posts.append((url, headers, body))
        self.posted.set()
        self.now += 1
        self._now_of[url] = self._now_of.get(url, 0) + 1
        self.most = max(self.most, self.now)
        self.most_of[url] = max(self.most_of.get(url, 0), self._now_of[url])
        try:
            return await self.reply(url)
        finally:
            self.now -= 1
            self._now_of[url] -= 1

    async def aclose(self) -> None:
        pass


class World:
    """A store with functions and policies, and running deliveries."""

    def __init__(self, store: SqlStore, journal: SpoolJournal) -> None:
        self.store, self.journal, self.clock = store, journal, SystemClock()
        self.sender, self.disabled = Sender(), DisabledTenants()
        self.catalog = Catalog()
        self.policies = Policies(SqlPolicies(store.database))
        self.queue = SimpleNamespace(arrived=lambda *arguments: self.arrived.append(arguments))
        self.arrived: list[tuple[str, str, int]] = []
        self.work_store = SqlWork(store.database)
        self.kept = SqlDeliveries(store.database, self.work_store)
        self.deliveries = self.made()

    def made(self, opener: Callable[[], Any] | None = None) -> Deliveries:
        invoker = SimpleNamespace(is_draining=False, node_id="node-1")
        work = Work(
            store=self.work_store,
            functions=self.store,
            policies=self.policies,
            journal=self.journal,
            invoker=cast("Any", invoker),
            queue=cast("Any", self.queue),
            clock=self.clock,
        )
        opener = opener or self.sender.open
        made = Deliveries(self.kept, self.catalog, work, opener, self.disabled, Others())
        self.disabled.on_change.disconnect()
        self.disabled.on_change.connect(made.tenant_changed)
        return made

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.ensure_future(self.deliveries.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def function(self, name: str, to: Destination | None = None, **changes: Any) -> Function:
        changes = {"state": FunctionState.ACTIVE} | changes
        function = await a_stored_function(self.store, name=name, **changes)
        version = a_version(function)
        self.catalog.add(Entry(function, version, FunctionCounters()))
        if to is not None:
            await self.policies.set_policy(function.id, AsyncPolicy(on_success=to))
        return function

    async def end_call(
        self, function: Function, delivery_id: str | None = None, **changes: Any
    ) -> str:
        """Ends an invocation of the function; returns the id of its delivery."""
        delivery_id = delivery_id or an_id()
        running = replace(begun(a_piece(function).record), **changes)
        self.journal.opened(running)
        outcome, now = WorkOutcome(destination_id=delivery_id), int(self.clock.unix())
        record = replace(done(running), ended_at=now, outcome=outcome, **changes)
        self.journal.closed(record)
        self.deliveries.call_ended(record)
        return delivery_id

    async def delivery(self, function: Function, delivery_id: str) -> Delivery:
        found = (await self.deliveries.list(self.entry(function), 100, None, None)).items
        return next(one for one in found if one.id == delivery_id)

    async def sent(self, function: Function, status: str = "delivered", **call: Any) -> Delivery:
        """Ends an invocation, and returns its delivery once that has the status. Deliveries only
        run during this method.
        """
        async with self.running():
            return await self.until(function, await self.end_call(function, **call), status=status)

    @property
    def sent_ids(self) -> list[str]:
        return [headers["webhook-id"] for _, headers, _ in self.sender.posts]

    def entry(self, function: Function) -> Entry:
        return self.catalog.get(function.id)

    async def until(self, function: Function, delivery_id: str, **wanted: Any) -> Delivery:
        """The delivery once its fields have the expected values."""
        async with asyncio.timeout(scaled(SOON_S)):
            while True:
                delivery = await self.delivery(function, delivery_id)
                if all(getattr(delivery, name) == value for name, value in wanted.items()):
                    return delivery
                await asyncio.sleep(0.01)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(model, "BACKOFF", Backoff(first=0.05, factor=1, most=0.05, jitter=0))
    async with open_sqlite(with_schema(tmp_path)) as store:
        journal = SpoolJournal(store.database, tmp_path, SystemClock())
        await journal.start()
        try:
            yield World(store, journal)
        finally:
            await journal.aclose()


TO_URL = Destination(url=URL, secret=SECRET)


@promise("A48")
async def test_a_receiver_gets_a_signed_message_of_the_record(world: World) -> None:
    """The receiver checks the signature with the library of Standard Webhooks."""
    async with receiver("127.0.0.2") as there:
        url = f"http://127.0.0.2:{there.port}/hook"
        function = await world.function("f", Destination(url=url, secret=SECRET))
        allowed = ranges_of("127.0.0.2/32")
        world.deliveries = world.made(lambda: Callbacks(allowed))
        delivery = await world.sent(function)
    assert (delivery.http_status, delivery.attempts, delivery.body) == (200, 1, b"")
    head, _, body = there.received.partition(b"\r\n\r\n")
    lines = (line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    headers = {name.lower(): value for name, value in lines}
    assert headers["webhook-id"] == delivery.id
    message = Webhook(SECRET).verify(body, headers)
    assert message["type"] == "invocation.success"
    assert message["data"]["function_id"] == function.id
    assert message["data"]["stdout"] == "hello\n"
    with pytest.raises(WebhookVerificationError):  # control: a changed body is refused
        Webhook(SECRET).verify(body.replace(b"success", b"failure"), headers)


MIB = 1024 * 1024


@promise("A82")
@pytest.mark.parametrize(
    ("changes", "sent", "cut"),
    [
        ({"stdout": b"x" * 671_000}, 671_000, (False, False)),
        ({"stdout": b"x" * (6 * MIB - 2000)}, 6 * MIB - 2000, (False, False)),
        ({"stdout": b"x" * 6 * MIB}, None, None),  # too long together with the other fields
        ({"stdout": b"x" * 7 * MIB}, None, None),
        ({"stdout": b"\0" * 2 * MIB}, None, None),  # JSON needs six bytes for each byte
        ({"stdout": b"\xff" * 3 * MIB}, None, None),  # JSON needs three bytes for each byte
        ({"stdout": b"x\xff\xe2\x82" * 100_000}, 300_000, (False, False)),
        ({"stdout": "x€".encode() * 200_000}, 400_000, (False, False)),
        ({"stdout": b"x" * 9, "stdout_dropped": 1}, None, None),
        ({"stdout": b"x" * 9, "stderr": b"y" * 70_000}, 9, (False, True)),
        ({"stdout": b"x" * 9, "stderr_dropped": 1}, 9, (False, True)),
        ({"status": Status.FAILED, "stdout": b"x" * 7 * MIB}, 65_536, (True, False)),
        ({"status": Status.FAILED, "stdout": b"x", "stdout_dropped": 1}, 1, (True, False)),
    ],
)
def test_a_result_is_sent_whole_or_not_at_all_and_a_failure_in_any_case(
    changes: dict[str, Any], sent: int | None, cut: tuple[bool, bool] | None
) -> None:
    outcome = WorkOutcome(destination_id="d")
    record = replace(done(begun(a_piece(a_function()).record)), outcome=outcome, **changes)
    delivery = model.delivery_of(record)
    if sent is None:
        assert (delivery.status, delivery.body, delivery.ended_at) == (
            "failed",
            b"",
            record.ended_at,
        )
        assert (delivery.error_message or "").startswith("RESULT_TOO_LARGE: ")
        return
    assert (delivery.status, delivery.error_message, delivery.ended_at) == ("waiting", None, None)
    assert len(delivery.body) <= 6 * MIB
    data = json.loads(delivery.body)["data"]
    assert len(data["stdout"]) == sent
    assert data["stdout"] == record.stdout[: 6 * MIB].decode("utf-8", "replace")[:sent]
    assert (data["stdout_truncated"], data["stderr_truncated"]) == cut
    assert data["is_truncated"] is any(cut or ())


def test_binary_output_is_read_in_pieces_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversion in one piece would block all other threads."""
    read: list[int] = []
    decoder = codecs.getincrementaldecoder("utf-8")

    class Counted(decoder):  # type: ignore[misc,valid-type]
        def decode(self, data: bytes, final: bool = False) -> str:
            read.append(len(data))
            return str(super().decode(data, final))

    monkeypatch.setattr(codecs, "getincrementaldecoder", lambda _: Counted)
    outcome = WorkOutcome(destination_id="d")
    record = replace(done(begun(a_piece(a_function()).record)), outcome=outcome)
    for byte, most in ((b"\xff", 6 * MIB // 3), (b"\0", MIB)):
        read.clear()
        delivery = model.delivery_of(replace(record, stdout=byte * 6 * MIB))
        assert (delivery.error_message or "").startswith("RESULT_TOO_LARGE: ")
        assert max(read) <= 64 * 1024
        assert sum(read) <= most + 64 * 1024


@promise("A82")
async def test_a_result_that_is_too_large_is_failed_and_sent_to_nobody(world: World) -> None:
    function = await world.function("f", TO_URL)
    async with world.running():
        delivery_id = await world.end_call(function, stdout_dropped=1)
        after = await world.end_call(function)
        await world.until(function, after, status="delivered")
        delivery = await world.until(function, delivery_id, status="failed")
        assert (delivery.attempts, delivery.error_message and delivery.error_message[:17]) == (
            0,
            "RESULT_TOO_LARGE:",
        )
        with pytest.raises(Conflict, match="RESULT_TOO_LARGE"):
            await world.deliveries.retry(world.entry(function), delivery_id)
    assert world.sent_ids == [after]


@promise("A82")
async def test_bodies_under_way_have_a_limit_and_a_tenant_leaves_room_to_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deliveries of one claim are started together, so the limit must apply within a claim."""
    monkeypatch.setattr("quiltfn.calls.deliveries.BYTES_OF_TENANT", 1)
    release = asyncio.Event()
    world.sender.slow_until(release, "")
    functions = [await world.function(f"f{number}", TO_URL) for number in range(3)]
    other = await world.function("other", TO_URL, tenant_id="other")
    ids = {one: await world.end_call(one) for one in (*functions, other)}
    async with world.running():
        await until(lambda: len(world.sender.posts) == 2, scaled(SOON_S))
        await asyncio.sleep(0.1)
        assert world.sender.now == 2
        release.set()
        for function, delivery_id in ids.items():
            await world.until(function, delivery_id, status="delivered")
    assert not world.deliveries._bytes


def in_turn(*replies: int | Exception) -> Callable[[str], Awaitable[int]]:
    """The responses of a receiver, in this order; exceptions are raised."""
    left = list(replies)

    async def reply(_url: str) -> int:
        turn = left.pop(0)
        if isinstance(turn, Exception):
            raise turn
        return turn

    return reply


@promise("A46")
async def test_what_is_not_taken_is_tried_again_with_the_same_id(world: World) -> None:
    failed = CallbackFailed("no connection could be made")
    world.sender.reply = in_turn(500, failed, 302, 200)
    function = await world.function("f", TO_URL)
    delivery = await world.sent(function)
    assert (delivery.attempts, delivery.http_status, delivery.error_message) == (4, 200, None)
    assert set(world.sent_ids) == {delivery.id}
    assert len({body for _, _, body in world.sender.posts}) == 1


@promise("N90")
@pytest.mark.parametrize("is_made", [True, False])
async def test_one_that_may_have_been_claimed_is_sent_once_that_is_known(
    world: World, monkeypatch: pytest.MonkeyPatch, is_made: bool
) -> None:
    """The database seems to stop during a commit, and does not respond for a while."""
    monkeypatch.setattr("quiltfn.calls.deliveries.STORE_AGAIN_S", 0.05)
    function = await world.function("f", TO_URL)
    with silent(world.kept, "claim", is_made=is_made):
        delivery = await world.sent(function)
    assert (delivery.attempts, len(world.sender.posts)) == (1, 1)


async def test_what_cannot_be_sent_for_any_reason_is_tried_again(world: World) -> None:
    """On a server without free file descriptors, even loading the sender fails at the first
    delivery.
    """
    failures: list[Exception] = [OSError(24, "Too many open files"), RuntimeError("no thread")]

    def opener() -> Sender:
        if failures:
            raise failures.pop()
        return world.sender

    world.sender.reply = in_turn(MemoryError(), 200)
    world.deliveries = world.made(opener)
    function = await world.function("f", TO_URL)
    delivery = await world.sent(function)
    assert (delivery.attempts, delivery.error_message) == (4, None)


@promise("A46")
async def test_410_ends_the_tries_and_a_failed_one_can_be_sent_again(world: World) -> None:
    world.sender.reply = in_turn(410)
    function = await world.function("f", TO_URL)
    async with world.running():
        delivery_id = await world.end_call(function)
        delivery = await world.until(function, delivery_id, status="failed")
        assert (delivery.attempts, delivery.http_status) == (1, 410)
        world.sender.reply = world.sender.fine
        again = await world.deliveries.retry(world.entry(function), delivery_id)
        assert again.status == "waiting"
        await world.until(function, delivery_id, status="delivered")
        with pytest.raises(Conflict):
            await world.deliveries.retry(world.entry(function), delivery_id)
        with pytest.raises(NotFound):
            await world.deliveries.retry(world.entry(function), an_id())


@promise("A46")
async def test_age_ends_the_tries_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "LIFE_S", 0)
    world.sender.reply = in_turn(500, 500, 200)
    function = await world.function("f", TO_URL)
    delivery = await world.sent(function, "failed")
    assert (delivery.attempts, delivery.http_status) == (1, 500)
    async with world.running():  # a repeated one has another day
        await world.deliveries.retry(world.entry(function), delivery.id)
        delivery = await world.until(function, delivery.id, status="delivered")
    assert delivery.attempts == 3


@promise("A46")
async def test_what_had_to_make_room_is_not_sent_without_its_content(world: World) -> None:
    """A receiver would mistake an empty message for the outcome."""
    function = await world.function("f", TO_URL)
    delivery_id = await world.end_call(function)
    await world.journal.synced()
    tight = SqlDeliveries(world.store.database, world.work_store, StorageLimit(tenant=1))
    assert await tight.prune_some(None, int(world.clock.unix())) == 1
    with pytest.raises(Conflict, match="had to make room"):
        await world.deliveries.retry(world.entry(function), delivery_id)
    async with world.running():
        other = await world.end_call(function)
        await world.until(function, other, status="delivered")
    assert world.sent_ids == [other]


def test_the_tries_go_on_for_a_day_and_not_longer() -> None:
    delivery = Delivery(
        id="d",
        tenant_id="t",
        function_id="f",
        invocation_id="i",
        policy_field="on_success",
        status=model.DeliveryStatus.WAITING,
        body=b"",
        due_at_ms=0,
        expires_at_ms=24 * 3600 * 1000,
    )
    now_ms, tries, waits = 0, 0, []
    while True:
        tries += 1
        due = model.retry_due_ms(replace(delivery, attempts=tries), now_ms, 0.5)
        if due is None:
            break
        waits.append((due - now_ms) / 1000)
        now_ms = due
    assert waits[:4] == [5, 15, 45, 135]
    assert max(waits) == 7200
    assert 15 <= tries <= 20
    assert now_ms > 22 * 3600 * 1000


@promise("A47")
async def test_a_function_destination_is_called_once_by_the_deliverys_own_id(world: World) -> None:
    target = await world.function("record")
    function = await world.function("f", Destination(function="record"))
    async with world.running():
        delivery_id = await world.end_call(function)
        await world.until(function, delivery_id, status="delivered")
        # the invocation is reported one step after the delivery
        await until(lambda: world.arrived != [])
    assert world.sender.opened == 0  # the sender is only created for callbacks
    ((function_id, _, due_ms),) = world.arrived
    assert function_id == target.id
    claim = await world.work_store.claim(target.id, 10, due_ms, is_begun=False)
    (work,) = claim.work
    assert work.record.invocation_id == delivery_id
    assert work.record.source == "destination"
    parent = (await world.delivery(function, delivery_id)).invocation_id
    assert work.record.parent_invocation_id == parent
    payload = json.loads(work.input.payload or b"")
    assert payload["data"]["invocation_id"] == parent


async def test_a_destination_whose_queue_is_full_gets_it_later(world: World) -> None:
    target = await world.function("record")
    await world.policies.set_policy(target.id, AsyncPolicy(max_queued=1))
    function = await world.function("f", Destination(function="record"))
    async with world.running():
        first = await world.end_call(function)
        await world.until(function, first, status="delivered")
        second = await world.end_call(function)
        waits = await world.until(function, second, status="waiting", attempts=2)
        assert "at most 1 may" in (waits.error_message or "")
        now_ms = int(world.clock.unix() * 1000)
        await world.work_store.claim(target.id, 1, now_ms, is_begun=False)
        await world.until(function, second, status="delivered")


@pytest.mark.parametrize(
    ("state", "has_policy", "reason"),
    [
        (None, True, "no function named record"),
        (FunctionState.PENDING, True, "pending"),
        (FunctionState.ACTIVE, False, "names no destination"),
    ],
)
async def test_a_missing_destination_has_failed(
    world: World, state: FunctionState | None, has_policy: bool, reason: str
) -> None:
    if state is not None:
        await world.function("record", state=state)
    function = await world.function("f", Destination(function="record"))
    if not has_policy:
        await world.policies.set_policy(function.id, None)
    delivery = await world.sent(function, "failed")
    assert reason in (delivery.error_message or "")
    assert world.arrived == []


@promise("A47")
async def test_a_chain_of_destinations_ends(world: World) -> None:
    """The function is its own destination, so each end causes another invocation."""
    function = await world.function("f", Destination(function="f"))
    call: dict[str, Any] = {}
    for _ in range(CHAIN_MAX - 1):
        delivery = await world.sent(function, **call)
        now_ms = int(world.clock.unix() * 1000)
        (work,) = (await world.work_store.claim(function.id, 1, now_ms, is_begun=False)).work
        assert work.record.invocation_id == delivery.id
        call = {
            "invocation_id": delivery.id,
            "parent_invocation_id": work.record.parent_invocation_id,
        }
    delivery = await world.sent(function, "failed", **call)
    assert f"{CHAIN_MAX} calls in a row" in (delivery.error_message or "")


@promise("A49")
async def test_a_slow_host_keeps_nobody_elses_waiting(world: World) -> None:
    release = asyncio.Event()
    world.sender.slow_until(release)
    to_slow = Destination(url="https://slow.example/a", secret=SECRET)
    slow, other = [await world.function(name, to_slow) for name in ("s", "o")]
    quick = await world.function("q", TO_URL)
    async with world.running():
        for _ in range(AT_ONCE):
            await world.end_call(other)
            last_slow = await world.end_call(slow)
        delivery_id = await world.end_call(quick)
        await world.until(quick, delivery_id, status="delivered")
        assert world.sender.most_of["https://slow.example/a"] == OF_HOST
        release.set()
        await world.until(slow, last_slow, status="delivered")
    assert world.sender.most_of["https://slow.example/a"] == OF_HOST
    assert world.sender.most <= AT_ONCE


async def test_a_look_costs_the_same_however_many_functions_wait_for_a_host(world: World) -> None:
    """Many functions of one tenant wait for the same slow receiver. When a delivery ends, only a
    few of them may be checked.
    """
    release, looks, most = asyncio.Event(), 0, 0
    world.sender.slow_until(release)
    slow = [
        await world.function(f"s{n}", Destination(url=f"https://slow.example/{n}", secret=SECRET))
        for n in range(OF_HOST + LOOKED_AT + 50)
    ]
    quick = await world.function("q", TO_URL)
    keys = world.deliveries._keys

    def counted(function_id: str) -> Any:
        nonlocal looks
        looks += 1
        return keys(function_id)

    cast("Any", world.deliveries)._keys = counted
    begin = world.deliveries._begin_due

    async def one_round() -> float | None:
        nonlocal looks, most
        looks = 0
        wait_s = await begin()
        most = max(most, looks)
        return wait_s

    cast("Any", world.deliveries)._begin_due = one_round
    async with world.running():
        last = [await world.end_call(one) for one in slow]
        delivery_id = await world.end_call(quick)
        await world.until(quick, delivery_id, status="delivered")
        looked_at = most
        release.set()
        for function, last_id in zip(slow, last, strict=True):
            await world.until(function, last_id, status="delivered")
    assert looked_at <= LOOKED_AT + 2 * AT_ONCE


@promise("A49")
async def test_the_next_place_is_of_the_tenant_that_has_fewest(world: World) -> None:
    answers = asyncio.Semaphore(0)

    async def reply(url: str) -> int:
        if "slow" in url:
            await answers.acquire()
        return 200

    world.sender.reply = reply
    quick = await world.function("q", TO_URL, tenant_id="c")
    async with world.running():
        for tenant in ("a", "b"):
            for number in range(OF_TENANT * 2):
                to = Destination(url=f"https://slow{number}.{tenant}.example", secret=SECRET)
                slow = await world.function(f"s{number}", to, tenant_id=tenant)
                await world.end_call(slow)
        await until(lambda: len(world.sender.posts) >= AT_ONCE)
        delivery_id = await world.end_call(quick)
        await asyncio.sleep(0.2)
        answers.release()  # one delivery ends, which frees a slot
        await world.until(quick, delivery_id, status="delivered")
    assert world.sender.most == AT_ONCE


@promise("A46")
async def test_what_was_not_sent_when_the_server_ended_is_sent_by_the_next(world: World) -> None:
    world.sender.slow_until(asyncio.Event(), "")
    function = await world.function("f", TO_URL)
    async with world.running():
        delivery_id = await world.end_call(function)
        async with asyncio.timeout(scaled(SOON_S)):
            await world.sender.posted.wait()
    await restart(world.store)
    world.sender.reply = world.sender.fine
    world.deliveries = world.made()
    async with world.running():
        delivery = await world.until(function, delivery_id, status="delivered")
    assert delivery.attempts == 2
    assert world.sent_ids == [delivery_id] * 2


async def test_ends_during_a_look_are_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A delivery must not be missed if it is committed just after the store was asked for the next
    due time.
    """
    function = await world.function("f", TO_URL)
    asked, late = world.kept.next_due, list[str]()

    async def next_due(function_id: str) -> Any:
        found = await asked(function_id)
        if not late:
            late.append(await world.end_call(function))
            await until(lambda: function_id in world.deliveries._arrived)
        return found

    monkeypatch.setattr(world.kept, "next_due", next_due)
    async with world.running():
        await world.end_call(function)
        await until(lambda: late != [])
        await world.until(function, late[0], status="delivered")


@pytest.mark.parametrize("step", ["claim", "finish"])
async def test_a_delivery_is_made_and_noted_once_however_often_the_store_fails(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    function = await world.function("f", TO_URL)
    for again in ("quiltfn.calls.deliveries", "quiltfn.base.store_retry"):
        monkeypatch.setattr(f"{again}.STORE_AGAIN_S", 0.01)
    with failing(world.kept, step, StoreUnavailable(), StoreUnavailable()):
        delivery = await world.sent(function)
    assert (delivery.attempts, len(world.sender.posts)) == (1, 1)


@pytest.mark.parametrize("step", ["claim", "next_due"])
async def test_what_arrives_while_the_store_is_away_is_sent_once_it_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr("quiltfn.calls.deliveries.STORE_AGAIN_S", 0.01)
    function = await world.function("f", TO_URL)
    async with world.running():
        with away(world.kept, step) as asked:
            ids = [await world.end_call(function)]
            await until(lambda: asked.called)
            ids.append(await world.end_call(function))
            tried = asked.call_count
            await until(lambda: asked.call_count > tried + 1)
        for delivery_id in ids:
            delivery = await world.until(function, delivery_id, status="delivered")
            assert delivery.attempts == 1
    assert sorted(world.sent_ids) == sorted(ids)


async def test_ends_are_noticed_after_an_error_while_they_were_committed(world: World) -> None:
    function = await world.function("f", TO_URL)
    async with world.running():
        with failing(world.journal, "synced", ValueError("a bug")) as synced:
            first = await world.end_call(function)
            await until(lambda: synced.called, scaled(SOON_S))
        later = await world.end_call(function)
        for delivery_id in (first, later):
            await world.until(function, delivery_id, status="delivered")


async def test_what_a_function_cannot_take_while_the_server_ends_is_put_back(world: World) -> None:
    target = await world.function("record")
    function = await world.function("f", Destination(function="record"))
    cast("Any", world.deliveries._work.invoker).is_draining = True
    with held_up(world.kept, "release", is_done=True) as release:
        release.may_go_on.set()
        async with world.running():
            delivery_id = await world.end_call(function)
            async with asyncio.timeout(scaled(SOON_S)):
                await release.begun.wait()
    world.deliveries = world.made()
    async with world.running():
        delivery = await world.until(function, delivery_id, status="delivered")
    assert delivery.attempts == 1
    assert [told for told, *_ in world.arrived] == [target.id]


async def test_nothing_wakes_while_nothing_is_due(world: World) -> None:
    """Deliveries use one timer for the next due time; they must not poll."""
    with patch.object(world.kept, "claim", wraps=world.kept.claim) as claim:
        async with world.running():
            await asyncio.sleep(0.3)
    assert not claim.called


async def test_a_platform_sends_the_end_of_what_it_accepted(tmp_path: Path) -> None:
    """An invocation passes from its request through the dispatcher to a function and a receiver."""
    async with receiver("127.0.0.2") as there:
        url = f"http://127.0.0.2:{there.port}/hook"
        async with open_harness(tmp_path, settings={"callback_networks": "127.0.0.2/32"}) as server:
            target = await server.active("cat")
            entry = await server.active("exit 3", "fails")
            to_url = Destination(url=url, secret=SECRET)
            to_function = Destination(function=entry.function.name)
            policies = server.work.policies
            await policies.set_policy(entry.function.id, AsyncPolicy(on_failure=to_url))
            await policies.set_policy(target.function.id, AsyncPolicy(on_success=to_function))
            first = await server.work.accept(target, Input(payload=b"grain"))
            async with asyncio.timeout(scaled(SOON_S)):
                await there.closed.wait()
    _, _, body = there.received.partition(b"\r\n\r\n")
    event = json.loads(body)
    assert event["type"] == "invocation.failed"
    assert event["data"]["source"] == "destination"
    assert event["data"]["function_id"] == entry.function.id
    assert event["data"]["invocation_id"] != first.invocation_id
