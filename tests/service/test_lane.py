"""The native lane against the path that it replaces: with and without it, equal requests have equal
responses, records, frames, and metrics, byte by byte.
"""

import asyncio
import contextlib
import itertools
import random
import runpy
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from manual_clock import ManualClock
from metric_values import values
from quiltfn import native
from quiltfn.api.app import make_app
from quiltfn.api.http.connection import HttpConnection
from quiltfn.api.http.connections import Connections
from quiltfn.api.lane import Lane, lane_of
from quiltfn.base import ids
from quiltfn.model.access import Scope
from quiltfn.model.actions import Closed
from quiltfn.model.invocation import ExitKind
from quiltfn.model.runtime import SHELL, Kind
from quiltfn.model.tenant_quota import TenantLimits
from quiltfn.model.work import RecordPolicy
from quiltfn.native import compiled
from quiltfn.store.database.directory import SPOOLS
from quiltfn.tenants.access import make_key
from service.platform_harness import Harness, open_harness, until
from service.scripted_guest import PLANS, ScriptedSandboxes
from spec.smuggling import REFUSED

pytestmark = pytest.mark.skipif(compiled is None, reason="the native module is not built")

TRAFFIC = {one.stem: one for one in sorted((Path(__file__).parent / "lane_traffic").iterdir())}
# The id and the key in recorded traffic.
RECORDED_ID = b"01999999-0000-7000-8000-000000000001"
RECORDED_KEY = b"quilt_sk_0123456789ab_ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnop"
STEP_S = 0.0123


class Client:
    """A client, and the transport of its connection. It may be slow to read."""

    def __init__(self, run: "Run") -> None:
        self.received = bytearray()
        self.is_closed = False
        self.http = HttpConnection(run.app, run.connections, run.lane)
        self.http.connection_made(self)  # type: ignore[arg-type]

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            if not self.is_closed:
                self.http.data_received(piece)

    def leave(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.http.connection_lost(None)

    # The transport.

    def get_extra_info(self, name: str) -> object:
        return ("127.0.0.1", 50_000) if name == "peername" else None

    def write(self, data: bytes) -> None:
        self.received += data

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        if not self.is_closed:
            asyncio.get_running_loop().call_soon(self.leave)
            self.is_closed = True
            self.http.connection_lost(None)

    abort = close

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


class CountingLane:
    """Counts the requests that the lane takes."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self.taken = 0

    def take(self, connection: HttpConnection, client: str, data: bytes) -> bool:
        is_taken = self._lane.take(connection, client, data)
        self.taken += is_taken
        return is_taken


@dataclass
class Run:
    """A server with or without the lane, and everything that can be observed of it."""

    harness: Harness
    sandboxes: ScriptedSandboxes
    has_lane: bool
    seen: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        services = self.harness.services
        self.app = make_app(services)
        self.connections = Connections(responses=services.budgets.responses)
        self.connections.common_headers = b"date: today\r\n"
        lane = lane_of(services, self.app, self.connections.limits)
        assert lane is not None
        self.lane = CountingLane(lane) if self.has_lane else None
        self.function_id = self.key = ""

    async def settle(self, *, replies: bool = True) -> None:
        """Lets everything happen that can; `replies`: including the guests' replies."""
        quiet = 0
        while quiet < 12:
            await asyncio.sleep(0)
            quiet += 1
            if replies and quiet > 3 and self.sandboxes.ready:
                self.harness.clock.time += STEP_S
                self.sandboxes.ready.popleft()()
                quiet = 0

    async def ask(self, *pieces: bytes) -> None:
        """One request on a new connection."""
        client = Client(self)
        client.send(*pieces)
        await self.settle()
        self.note(bytes(client.received), client.is_closed)
        client.leave()
        await self.settle()

    def note(self, *facts: object) -> None:
        self.seen.extend(facts)

    def filled(self, data: bytes) -> bytes:
        """Recorded bytes, with this server's function and key."""
        data = data.replace(RECORDED_ID, self.function_id.encode())
        return data.replace(RECORDED_KEY, self.key.encode() or RECORDED_KEY)


Scenario = Callable[[Run], Awaitable[None]]


@contextlib.asynccontextmanager
async def run_of(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, has_lane: bool, has_key: bool = False
) -> AsyncIterator[Run]:
    """Equal runs have equal times and ids."""
    numbers = itertools.count(1)
    monkeypatch.setattr(ids, "unix_ms", lambda: 1_760_000_000_000)
    monkeypatch.setattr(ids, "_random_ends", lambda: [f"8000-{next(numbers):012x}"])
    for name, value in (("_millisecond", 0), ("_count", 0), ("_ends", [])):
        monkeypatch.setattr(ids, name, value)
    sandboxes = ScriptedSandboxes(path)
    async with open_harness(path / "data", clock=ManualClock(), fakes=sandboxes) as harness:
        monkeypatch.setattr(harness.journal, "_commit_after_s", 3600.0)
        run = Run(harness, sandboxes, has_lane)
        services = harness.services
        if has_key:
            _, run.key = await make_key(services.keys, harness.clock, "default", Scope.INVOKE, None)
            await services.access.refresh()
        run.function_id = (await harness.active(name="w", max_instances=1)).function.id
        before = values()
        yield run
        counters = harness.catalog.get(run.function_id).counters
        spools = [(path / "data" / name).read_bytes() for name in SPOOLS]
        run.note(sandboxes.calls_framed, counters, spools, difference(before, values()))
        assert harness.invoker.running == 0
        assert harness.services.admission.in_flight("default") == 0


def difference(before: dict[Any, float], after: dict[Any, float]) -> dict[Any, float]:
    changed = {name: round(value - before.get(name, 0.0), 6) for name, value in after.items()}
    return {name: value for name, value in changed.items() if value}


async def observed(
    scenario: Scenario, tmp_path: Path, *, has_lane: bool, has_key: bool
) -> tuple[list[object], int]:
    """What can be observed of the scenario, and how many requests the lane has taken. Without the
    lane, nothing uses the native module.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not has_lane:
            patch.setattr("quiltfn.sandbox.guest.compiled", None)
        path = tmp_path / ("lane" if has_lane else "plain")
        path.mkdir()
        async with run_of(path, patch, has_lane=has_lane, has_key=has_key) as run:
            await scenario(run)
        return run.seen, run.lane.taken if run.lane is not None else 0


async def compare(scenario: Scenario, tmp_path: Path, *, has_key: bool = False) -> int:
    """Asserts that the lane changes nothing; returns how many requests it has taken."""
    plain, _ = await observed(scenario, tmp_path, has_lane=False, has_key=has_key)
    lane, taken = await observed(scenario, tmp_path, has_lane=True, has_key=has_key)
    assert len(lane) == len(plain)
    for with_lane, without in zip(lane, plain, strict=True):
        assert with_lane == without
    return taken


def post(path: str, *lines: str, body: bytes = b"", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = [f"POST /api/functions/{path} HTTP/1.1", "Host: 127.0.0.1:8080", *lines]
    head += ["Content-Type: application/json", f"Content-Length: {size}"]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def payload(text: str) -> bytes:
    return b'{"payload":"' + text.encode() + b'"}'


# Plans after which the instance is not used again.
ENDING = {b"late", b"not started", b"dies", b"forbidden"}
ORDINARY = [
    b"{}",
    b" {\r\n\t} ",
    b'{ "payload" : "" }',
    *map(payload, ("hello", 'say \\"ä\\" \\\\ \\/ \\b\\f\\n\\r\\t', "\U0001f600\x7f")),
    *(payload(plan.decode()) for plan in PLANS if plan not in ENDING),
]
# Bodies that are not ordinary, or not valid.
OTHERS = [
    b"null",
    b"[]",
    b"{",
    b"{}}",
    b"{}\0",
    b"\xef\xbb\xbf{}",
    b'{"payload":null}',
    b'{"payload":1}',
    b'{"payload":"\\u0000"}',
    b'{"payload":"\\ud800"}',
    b'{"payload":"a","payload":"b"}',
    b'{"payload":"a","timeout_seconds":5}',
    b'{"payload":"a","environment":{"A":"b"}}',
    b'{"payload":"a\nb"}',
    b'{"payload":"a\\qb"}',
    b'{"payload":"a\\"}',
    b'{"payload":"\xff"}',
    b'{"payload":"\xed\xa0\x80"}',
    b'{"payload":"\xc0\xaf"}',
    b'{"payload":"\xf4\x90\x80\x80"}',
    b'{"unknown":1}',
    payload("x" * 20_000),
]
ORDINARY_LINES = [
    (),
    ("X-Request-Id: my-own.ID_1",),
    ("accept: */*", "USER-AGENT:x", "Accept-Encoding: gzip", "Connection: Keep-Alive"),
    ("Accept: application/json", "Accept-Language: *", "Sec-Fetch-Mode: cors"),
    ("X-Api-Key: nonsense",),
    ("Authorization: Bearer nonsense",),
]
OTHER_LINES = [
    ("X-Request-Id: not one",),
    ("X-Request-Id: ",),
    ("X-Request-Id: a", "x-request-id: b"),
    ("Host: example.org",),
    ("Origin: http://example.org",),
    ("Sec-Fetch-Site: cross-site",),
    ("Connection: close",),
    ("Connection: Upgrade", "Upgrade: websocket"),
    ("Expect: 100-continue",),
    ("Transfer-Encoding: chunked",),
    ("Content-Encoding: gzip",),
    ("Content-Type: text/plain",),
    ("Content-Length: 2",),
    ("Prefer: wait=1",),
    ("X-Tenant-Id: other",),
    ("X-On-Disconnect: cancel",),
    ("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",),
    ("Authorization: Basic eA==",),
    ("X-Api-Key: a", "Authorization: Bearer b"),
    ("X: a\tb",),
    ("X: \xe4",),
    ("X : a",),
    (" folded: a",),
    ("X-Unknown: a",),
    tuple(f"X-{n}: a" for n in range(120)),
    (f"User-Agent: {'x' * 17_000}",),
]


async def test_ordinary_requests_are_taken_and_change_nothing(tmp_path: Path) -> None:
    async def scenario(run: Run) -> None:
        for body in ORDINARY:
            for path in (f"{run.function_id}/invoke", "invoke/w"):
                await run.ask(post(path, body=body))
        for lines in ORDINARY_LINES:
            await run.ask(post("invoke/w", *lines, body=b"{}"))

    count = 2 * len(ORDINARY) + len(ORDINARY_LINES)
    assert await compare(scenario, tmp_path) == count


@pytest.mark.parametrize(("right", "mistaken"), [(b"hello", b"Hello"), (b'"x', b'"y')])
async def test_negative_control_a_difference_is_found(
    right: bytes, mistaken: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte of a response, or of the payload that the guest gets."""

    async def scenario(run: Run) -> None:
        await run.ask(post("invoke/w", body=payload("x")))

    class Mistaken:
        @staticmethod
        def request(data: bytes) -> Any:
            return compiled.request(data.replace(right, mistaken))

        @staticmethod
        def response(*given: Any) -> Any:
            return (compiled.response(*given) or b"").replace(right, mistaken)

    monkeypatch.setattr("quiltfn.api.lane.compiled", Mistaken)
    with pytest.raises(AssertionError):
        await compare(scenario, tmp_path)


async def test_other_requests_are_not_taken(tmp_path: Path) -> None:
    async def scenario(run: Run) -> None:
        for body in OTHERS:
            await run.ask(post("invoke/w", body=body))
        for lines in OTHER_LINES:
            await run.ask(post("invoke/w", *lines, body=b"{}"))
        unknown = RECORDED_ID.decode()
        for path in ("invoke/unknown", f"{unknown}/invoke", "w/invoke", "invoke", "invoke/"):
            await run.ask(post(path, body=b"{}"))
        for length in (0, 1, 3):
            await run.ask(post("invoke/w", body=b"{}", length=length))
        for vector in REFUSED.values():
            await run.ask(vector)
            await run.ask(vector.replace(b"POST /api/functions ", b"POST /api/functions/invoke/w "))

    assert await compare(scenario, tmp_path) == 0


def test_what_the_scenarios_above_leave_out_is_not_ordinary() -> None:
    """Their order of events depends on the time that they take."""
    for line in ("Accept: text/event-stream", "Prefer: respond-async", "Idempotency-Key: k"):
        assert compiled.request(post("invoke/w", line, body=b"{}")) is None
    for path in ("invoke/w@1", "invoke/w@live", "invoke/w?version=1", "invoke/%77"):
        assert compiled.request(post(path, body=b"{}")) is None


async def test_recorded_requests_of_clients_are_ordinary(tmp_path: Path) -> None:
    """Those of usual clients; curl without a body sends no Content-Length."""

    async def scenario(run: Run) -> None:
        for file in TRAFFIC.values():
            await run.ask(run.filled(file.read_bytes()))

    assert await compare(scenario, tmp_path) == len(TRAFFIC)


async def test_recorded_requests_with_a_key(tmp_path: Path) -> None:
    async def scenario(run: Run) -> None:
        for file in TRAFFIC.values():
            await run.ask(run.filled(file.read_bytes()))
        for key in (run.key[:-1], run.key + "x", run.key.replace("_sk_", "_SK_"), "x"):
            await run.ask(post("invoke/w", f"X-Api-Key: {key}", body=b"{}"))

    with_key = [one for one in TRAFFIC.values() if RECORDED_KEY in one.read_bytes()]
    assert 0 < len(with_key) < len(TRAFFIC)
    assert await compare(scenario, tmp_path, has_key=True) == len(with_key)


def mutated(request: bytes, chance: random.Random) -> bytes:
    """The request with a few random changes."""
    data = bytearray(request)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(data))
        match chance.randrange(6):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                del data[at : at + chance.randrange(1, 4)]
            case 2:
                data[at:at] = chance.choice([b"\r\n", b"\0", b" ", b"\t", b'"', b"\\", b"\xc3\xa4"])
            case 3:
                data[at:at] = data[at : at + chance.randrange(1, 30)]
            case 4:
                lines = bytes(data).split(b"\r\n")
                chance.shuffle(lines)
                data = bytearray(b"\r\n".join(lines))
            case _:
                lines = bytes(data).split(b"\r\n")
                lines.insert(1, chance.choice(lines))
                data = bytearray(b"\r\n".join(lines))
        if not data:
            return b"\r\n"
    return bytes(data)


def cut(data: bytes, chance: random.Random) -> Sequence[bytes]:
    if chance.randrange(3):
        return [data]
    edges = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(1, 4)))
    pieces = [data[a:b] for a, b in itertools.pairwise([0, *edges, len(data)])]
    return [one for one in pieces if one]


@pytest.mark.parametrize("seed", range(4))
async def test_random_requests(seed: int, tmp_path: Path) -> None:
    async def scenario(run: Run) -> None:
        chance = random.Random(seed)
        usual = [run.filled(file.read_bytes()) for file in TRAFFIC.values()]
        usual += [post(f"{run.function_id}/invoke", body=body) for body in ORDINARY]
        for _ in range(300):
            data = chance.choice(usual)
            if chance.randrange(10):
                data = mutated(data, chance)
            if not chance.randrange(5):
                data += chance.choice(usual)
            await run.ask(*cut(data, chance))

    assert await compare(scenario, tmp_path) > 10


async def test_requests_on_one_connection(tmp_path: Path) -> None:
    """Requests of both kinds in turns, in one piece with the next one, and while another is being
    answered.
    """

    async def scenario(run: Run) -> None:
        client, call = Client(run), post("invoke/w", body=b"{}")
        other = post("invoke/w", "Prefer: wait", body=b"{}")
        for data in (
            call,
            call,
            other,
            call,
            call + call,
            call,
            b"\r\n" + call,
            call,
            other + call,
        ):
            client.send(data)
            await run.settle()
        client.send(call)
        client.send(call)
        client.send(call[:50])
        await run.settle()
        client.send(call[50:])
        await run.settle()
        client.send(post("invoke/w", "Connection: close", body=b"{}") + call)
        await run.settle()
        run.note(bytes(client.received), client.is_closed)

    assert await compare(scenario, tmp_path) == 6


async def test_several_clients_at_once(tmp_path: Path) -> None:
    """The function has one instance, so the others wait for it."""

    async def scenario(run: Run) -> None:
        clients = [Client(run) for _ in range(4)]
        for client in clients:
            client.send(post("invoke/w", body=b"{}"))
        await run.settle(replies=False)
        run.note(*(bytes(client.received) for client in clients))
        await run.settle()
        run.note(*(bytes(client.received) for client in clients))

    assert await compare(scenario, tmp_path) == 1


async def test_a_client_that_leaves(tmp_path: Path) -> None:
    async def scenario(run: Run) -> None:
        client = Client(run)
        client.send(post("invoke/w", body=b"{}"))
        await run.settle(replies=False)
        client.leave()
        await run.settle()
        run.note(bytes(client.received))

    assert await compare(scenario, tmp_path) == 1


async def test_an_invocation_that_is_cancelled(tmp_path: Path) -> None:
    async def scenario(run: Run) -> None:
        client = Client(run)
        client.send(post("invoke/w", body=b"{}"))
        await run.settle(replies=False)
        (invocation_id,) = run.harness.invoker._calls
        cancelled = run.harness.background(
            run.harness.invoker.cancel(run.function_id, invocation_id)
        )
        await run.settle()
        run.note(await cancelled, bytes(client.received))

    assert await compare(scenario, tmp_path) == 1


async def test_an_invocation_that_is_interrupted(tmp_path: Path) -> None:
    async def scenario(run: Run) -> None:
        client, kind = Client(run), ExitKind.INTERRUPTED
        client.send(post("invoke/w", body=b"{}"))
        await run.settle(replies=False)
        run.harness.invoker.end_calls(run.function_id, "server_stopped")
        pools = run.harness.pools
        await run.harness.background(pools.end_running(run.function_id, kind, "server_stopped"))
        await run.settle()
        run.note(bytes(client.received))

    assert await compare(scenario, tmp_path) == 1


async def test_an_input_that_is_kept(tmp_path: Path) -> None:
    """Its response comes later, once it is stored."""

    async def scenario(run: Run) -> None:
        policies, client = run.harness.work.policies, Client(run)
        await policies.set_record_policy(run.function_id, RecordPolicy(keep_input="all"))
        client.send(post("invoke/w", body=payload("x")))
        await run.settle()
        await until(lambda: client.received.endswith(b"}"))
        record = (await run.harness.records(run.harness.catalog.get(run.function_id)))[0]
        assert await run.harness.work.store.input(record.invocation_id) is not None
        run.note(bytes(client.received))

    assert await compare(scenario, tmp_path) == 1


async def test_without_the_module_there_is_no_lane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "quiltfn.native.compiled", None)
    monkeypatch.delattr(native, "compiled")
    assert runpy.run_path(str(native.__file__))["compiled"] is None
    monkeypatch.setattr("quiltfn.api.lane.compiled", None)
    async with open_harness(tmp_path) as harness:
        limits = Connections().limits
        assert lane_of(harness.services, make_app(harness.services), limits) is None


async def test_web_servers_have_no_lane(tmp_path: Path) -> None:
    async with open_harness(tmp_path) as harness:
        entry = await harness.active()
        lease = harness.invoker.reserve(entry)
        assert lease is not None
        lease.leave()
        versions = harness.pools._pools[entry.function.id]._versions
        for digest, version in versions.items():
            kind = replace(SHELL, kind=Kind.SERVER)
            versions[digest] = replace(version, spec=replace(version.spec, runtime_snapshot=kind))
        assert harness.invoker.reserve(entry) is None


async def test_records_that_wait_for_a_commit(tmp_path: Path, monkeypatch: Any) -> None:
    """While too much is uncommitted, responses wait."""
    monkeypatch.setattr("quiltfn.store.calls.journal.WAITING_MAX_BYTES", 100)

    async def scenario(run: Run) -> None:
        client = Client(run)
        client.send(post("invoke/w", body=payload("x")))
        await run.settle()
        await until(lambda: client.received.endswith(b"}"))
        run.note(bytes(client.received))

    assert await compare(scenario, tmp_path) == 1


@pytest.mark.parametrize("plan", ENDING)
async def test_an_instance_that_ends(plan: bytes, tmp_path: Path) -> None:
    """The next invocation waits for another one."""

    async def scenario(run: Run) -> None:
        await run.ask(post("invoke/w", body=payload(plan.decode())))
        await run.ask(post("invoke/w", body=b"{}"))

    assert await compare(scenario, tmp_path) == 1


@pytest.mark.parametrize("after", [0, 1])
async def test_a_record_that_cannot_be_written(after: int, tmp_path: Path) -> None:
    """`after`: how many records of the invocation can. The end is tried twice."""

    async def scenario(run: Run) -> None:
        journal = run.harness.journal
        append, writes = journal._spool.append, itertools.count()

        def failing(record: object) -> None:
            if after <= next(writes) <= 2 * after:
                raise OSError(28, "No space left on device")
            append(record)  # type: ignore[arg-type]

        journal._spool.append = failing  # type: ignore[method-assign]
        await run.ask(post("invoke/w", body=b"{}"))
        await run.ask(post("invoke/w", body=b"{}"))

    assert await compare(scenario, tmp_path) == 2


@pytest.mark.parametrize(
    "limits",
    [
        TenantLimits(calls_in_flight=0),
        TenantLimits(calls_per_second=2.0),
        TenantLimits(disabled=True),
    ],
)
async def test_a_tenant_at_its_limits(limits: TenantLimits, tmp_path: Path) -> None:
    async def scenario(run: Run) -> None:
        run.harness.services.admission.set_limits("default", limits)
        for _ in range(4):
            await run.ask(post("invoke/w", body=b"{}"))

    assert await compare(scenario, tmp_path) == (2 if limits.calls_per_second else 0)


async def test_what_needs_more_is_left_to_the_other_path(tmp_path: Path) -> None:
    """Functions that are not active, a server that stops, and a pool that is gone."""

    async def scenario(run: Run) -> None:
        harness = run.harness
        for entry in (await harness.create(name="draft"), await harness.active(name="two")):
            await run.ask(post(f"{entry.function.id}/invoke", body=b"{}"))
        await harness.lifecycle.pause(harness.catalog.get(run.function_id))
        await run.ask(post("invoke/w", body=b"{}"))
        harness.invoker.refuse("for a while")
        await run.ask(post("invoke/two", body=b"{}"))
        harness.invoker.refuse("")
        await harness.lifecycle.resume(harness.catalog.get(run.function_id))
        harness.pools.close(run.function_id, Closed.STOPPING)
        await run.settle()
        harness.pools.forget(run.function_id)
        await run.ask(post("invoke/w", body=b"{}"))

    assert await compare(scenario, tmp_path) == 1


# Refusals and failures -----------------------------------------------------------------------


async def test_a_refused_request_leaves_the_instance_idle(tmp_path: Path) -> None:
    """A tenant at a limit must neither keep instances by asking, nor count as a user of them."""

    async def scenario(run: Run) -> None:
        run.harness.services.admission.set_limits("default", TenantLimits(calls_in_flight=0))
        pool = run.harness.pools._pools[run.function_id]
        for _ in range(40):
            run.harness.pass_time(30.0)
            await run.settle()
            await run.ask(post("invoke/w", body=b"{}"))
        run.note(len(pool.model.instances), pool.model._calls)

    await compare(scenario, tmp_path)


async def test_one_abandoned_invocation_gives_way_to_one_refused(tmp_path: Path) -> None:
    async def scenario(run: Run) -> None:
        await run.harness.active(name="two", max_instances=1)
        clients = [Client(run) for _ in range(4)]
        for client in clients:
            client.send(post("invoke/w", body=b"{}"))
        await run.settle(replies=False)
        for client in clients[1:]:
            client.leave()
        limits = TenantLimits(calls_in_flight=4, calls_per_second=0.001)
        admission = run.harness.services.admission
        admission.set_limits("default", limits)
        admission._take_token("default", limits.calls_per_second)
        asking = Client(run)
        asking.send(post("invoke/two", body=b"{}"))
        for _ in range(20):
            await asyncio.sleep(0)
        run.note(len(run.harness.invoker._calls), bytes(asking.received)[:12])
        admission.set_limits("default", None)
        await run.settle()
        for client in (asking, clients[0]):
            client.leave()

    await compare(scenario, tmp_path)


async def test_output_that_is_long_as_json_waits_for_its_memory(tmp_path: Path) -> None:
    async def scenario(run: Run) -> None:
        responses = run.harness.services.budgets.responses
        responses.add_unsent(100 << 20)
        client = Client(run)
        client.send(post("invoke/w", body=payload("control")))
        await run.settle()
        run.note(len(client.received))
        client.leave()
        responses.add_unsent(-(100 << 20))
        await run.settle()

    await compare(scenario, tmp_path)


async def test_a_bug_while_a_request_is_taken_is_answered(tmp_path: Path) -> None:
    async def scenario(run: Run) -> None:
        access = run.harness.services.access
        access.is_open, access._verify = False, cast("Any", lambda _, **__: 1 / 0)
        await run.ask(post("invoke/w", "X-Api-Key: aaa", body=b"{}"))

    await compare(scenario, tmp_path)


async def test_a_response_that_cannot_be_made_is_made_by_the_complete_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(
        "quiltfn.api.lane.compiled", SimpleNamespace(request=compiled.request, response=fails)
    )

    async def scenario(run: Run) -> None:
        await run.ask(post("invoke/w", body=b"{}"))
        run.note(run.harness.services.admission.in_flight("default"), run.harness.invoker.running)

    await compare(scenario, tmp_path)


def test_a_python_without_a_global_lock_does_not_load_the_library() -> None:
    """Its objects have another layout."""
    code = "import sys; sys.abiflags = {!r}; from quiltfn import native; print(native.compiled)"
    for flags, is_loaded in (("t", False), ("", True)):
        command = [sys.executable, "-c", code.format(flags)]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert (shown != "None\n") is is_loaded
