"""An invocation with an Idempotency-Key runs once, whatever fails before or after the handler.

The store and the journal are real; the sandboxes count how often a handler was invoked.
"""

import asyncio
import contextlib
import errno
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, patch

import httpx
import pytest

from contract.stores import BUSY_TIMEOUT_S, HELD_S, files_at_most
from promises import promise
from quiltfn.api.app import make_app
from quiltfn.api.http import idempotency
from quiltfn.api.http.errors import error_body
from quiltfn.functions.catalog import Entry
from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.invocation import CallResult, ExitKind
from quiltfn.ports import Call
from quiltfn.sandbox import fake
from quiltfn.server.ground import UNKEPT
from quiltfn.store import SqlAudit, SqlIdempotencyStore
from service.faults import away, no_room
from service.in_process import request_of
from service.platform_harness import Harness
from service.routes import Header, Web

KEY = {"Idempotency-Key": "k"}
LOST = error_body(UNKEPT)


class KeyedApp(Web):
    """A client that invokes a function with a key."""

    def __init__(self, harness: Harness, entry: Entry) -> None:
        super().__init__(harness)
        self.entry = entry
        self.path = f"/api/functions/{entry.function.id}/invoke"
        self.budgets, self.idempotency = harness.services.budgets, harness.services.idempotency

    async def call(self, headers: Header = KEY, body: Any = None) -> httpx.Response:
        return await self("POST", self.path, body or {}, headers=headers)

    @property
    def runs(self) -> int:
        """The number of invocations that handlers got."""
        return self.harness.sandboxes.calls

    async def directly(self) -> tuple[int, Header]:
        """The status and headers of an invocation without a key, sent without a client library."""
        headers = {"host": "127.0.0.1", "content-type": "application/json"}
        app = make_app(self.harness.services)
        response = await app(request_of("POST", self.path, headers, b"{}"))
        return response.status, dict(response.headers)


@pytest.fixture
async def door(server: Harness) -> KeyedApp:
    return KeyedApp(server, await server.active(max_instances=2))


def invocation_of(answer: httpx.Response, code: str, status: int = 503) -> str:
    """Checks that a failed response names its record; returns the record's id."""
    body = answer.json()
    assert (answer.status_code, body["error_code"]) == (status, code), body
    invocation_id = answer.headers["x-invocation-id"]
    assert invocation_id in body["hint"]
    return invocation_id


# Failures after the handler has got the invocation ---------------------------------------------


def closing_fails(door: KeyedApp, patch: pytest.MonkeyPatch) -> tuple[str, int]:
    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    patch.setattr(door.harness.journal, "_append_end", full)
    return "STORE_UNAVAILABLE", 503


def syncing_fails(door: KeyedApp, patch: pytest.MonkeyPatch) -> tuple[str, int]:
    patch.setattr(door.harness.journal, "is_strict", True)
    patch.setattr(door.harness.journal, "synced", AsyncMock(side_effect=StoreUnavailable))
    return "STORE_UNAVAILABLE", 503


def the_sandbox_breaks(_: KeyedApp, patch: pytest.MonkeyPatch) -> tuple[str, int]:
    call = fake.FakeSandbox.call

    async def broken(self: fake.FakeSandbox, request: Call) -> CallResult:
        await call(self, request)
        raise ZeroDivisionError("a mistake of ours")

    patch.setattr(fake.FakeSandbox, "call", broken)
    return "INTERNAL", 500


def amending_breaks(door: KeyedApp, patch: pytest.MonkeyPatch) -> tuple[str, int]:
    def broken(_: object) -> None:
        raise ZeroDivisionError("a mistake of ours")

    patch.setattr(door.harness.journal, "amended", broken)
    return "INTERNAL", 500


AFTER = [closing_fails, syncing_fails, the_sandbox_breaks, amending_breaks]
Break = Callable[[KeyedApp, pytest.MonkeyPatch], tuple[str, int]]


@promise("A15")
@pytest.mark.parametrize("fault", AFTER)
async def test_what_fails_after_the_hand_over_counts_as_executed(
    door: KeyedApp, monkeypatch: pytest.MonkeyPatch, fault: Break
) -> None:
    with monkeypatch.context() as patch:
        code, status = fault(door, patch)
        first = await door.call()
        invocation_id = invocation_of(first, code, status)
        plain = await door.call({})
        assert invocation_of(plain, code, status) != invocation_id
        direct_status, direct_headers = await door.directly()
        assert (direct_status, "x-invocation-id" in direct_headers) == (status, True)
    assert door.runs == 3
    again = await door.call()
    assert again.headers["idempotency-replayed"] == "true"
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["x-invocation-id"] == invocation_id
    assert door.runs == 3, "the handler was given one call twice"
    record = await door.harness.journal.get(door.entry.function.id, invocation_id)
    assert record is not None
    assert record.ended_at is not None, "it has an end, whatever went wrong"


@promise("A15")
async def test_earlier_failures_run_again(door: KeyedApp) -> None:
    with away(door.harness.journal, "opened"):
        first = await door.call()
        assert (first.status_code, "x-invocation-id" in first.headers) == (503, False)
    assert door.runs == 0
    again = await door.call()
    assert (again.status_code, "idempotency-replayed" in again.headers) == (200, False)
    assert door.runs == 1


@promise("A15")
async def test_a_call_that_no_instance_could_be_made_for_has_a_record_and_is_not_kept(
    door: KeyedApp,
) -> None:
    await door.harness.lifecycle.pause(door.entry)
    await door.harness.lifecycle.deploy(door.entry)
    with no_room(door.harness.sandboxes):
        for name in list(door.harness.sandboxes.alive):
            door.harness.sandboxes.alive[name].end_by_itself()
        ids = {invocation_of(await door.call(), "RUNTIME_UNAVAILABLE") for _ in range(2)}
        assert len(ids) == 2, "the same answer twice"
    answer = await door.call()
    assert (answer.status_code, "idempotency-replayed" in answer.headers) == (200, False)
    again = await door.call()
    assert again.headers["idempotency-replayed"] == "true"
    assert again.content == answer.content


# Failures of the store when it has to store a key's response ------------------------------------


@contextlib.contextmanager
def locked(path: Path) -> Any:
    """Another connection keeps a write transaction open."""
    with contextlib.closing(sqlite3.connect(path / "quiltfn.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextlib.contextmanager
def no_more_room(_: Path) -> Any:
    """No file may be written beyond its first page: as on a full disk."""
    with files_at_most(4096):
        yield


@promise("A16")
@pytest.mark.parametrize("fault", [locked, no_more_room])
async def test_an_answer_that_cannot_be_kept_is_kept_once_it_can(
    door: KeyedApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    inner = asyncio.Event()
    handle = fake.FakeSandbox._handle

    async def waits(self: fake.FakeSandbox, call: Call) -> CallResult:
        ended = await handle(self, call)
        inner.set()
        await asyncio.sleep(0.1)
        return ended

    monkeypatch.setattr(fake.FakeSandbox, "_handle", waits)
    monkeypatch.setattr(door.harness.store.database.reserve, "release", lambda: False)
    first = asyncio.ensure_future(door.call())
    await inner.wait()
    if fault is no_more_room:
        monkeypatch.setattr(door.harness.journal, "_append_end", lambda _: None)
    door.harness.store.database.busy_timeout_s = HELD_S
    with fault(tmp_path):
        invocation_id = invocation_of(await first, "STORE_UNAVAILABLE")
        # The key has no stored response, but is not free either: further requests get 503, and
        # nothing runs.
        assert (await door.call()).status_code == 503
    door.harness.store.database.busy_timeout_s = BUSY_TIMEOUT_S
    again = await door.call()
    assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    assert again.json()["invocation_id"] == again.headers["x-invocation-id"] == invocation_id
    assert again.json()["stdout"] == "hello\n"
    assert door.runs == 1
    other = await door.call(body={"payload": "other"})
    assert other.status_code == 422


@promise("A16")
async def test_a_key_that_could_not_be_freed_is_free_once_it_can(door: KeyedApp) -> None:
    full = StoreUnavailable("the disk is full")
    opened = patch.object(door.harness.journal, "opened", side_effect=full)
    with opened, away(SqlIdempotencyStore, "release"):
        assert (await door.call()).json()["error"] == "the disk is full"
        assert (await door.call()).status_code == 503
        assert (await door.call(KEY | {"Idempotency-Key": "another"})).status_code == 503
    for key in ("k", "another"):
        answer = await door.call({"Idempotency-Key": key})
        assert (answer.status_code, "idempotency-replayed" in answer.headers) == (200, False)
    assert door.runs == 2


async def test_an_end_of_a_server_tells_the_store_what_is_left(door: KeyedApp) -> None:
    with away(SqlIdempotencyStore, "complete"):
        invocation_id = invocation_of(await door.call(), "STORE_UNAVAILABLE")
    await door.idempotency.aclose()
    kept = await SqlIdempotencyStore(door.harness.store.database).reserve(
        idempotency.idempotent_request("default", "POST", door.path, "k", b"{}"), 0
    )
    assert kept is not None
    assert (kept.status, kept.headers["x-invocation-id"]) == (200, invocation_id)


@promise("A16")
async def test_what_waits_for_the_store_is_bounded(
    door: KeyedApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit, repetitions get the id of the record, but not the original response."""
    monkeypatch.setattr(idempotency, "UNSTORED_MAX_BYTES", 600)
    with away(SqlIdempotencyStore, "complete"):
        ids = [
            invocation_of(await door.call({"Idempotency-Key": f"k{n}"}), "STORE_UNAVAILABLE")
            for n in range(4)
        ]
    again = [await door.call({"Idempotency-Key": f"k{n}"}) for n in range(4)]
    assert [one.headers["x-invocation-id"] for one in again] == ids
    assert [one.status_code for one in again] == [200, 503, 503, 503]
    assert [one.content for one in again][1:] == [LOST] * 3
    assert door.runs == 4


@promise("D6")
async def test_a_record_is_stored_before_the_response_that_repetitions_get(
    door: KeyedApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power failure may lose both if they are not stored, but must not lose only one of them."""
    journal, unstored = door.harness.journal, list[int]()
    store = door.idempotency._store

    async def looking(*end: Any) -> Any:
        unstored.append(journal._written - journal._kept)
        return await store(*end)

    monkeypatch.setattr(door.idempotency, "_store", looking)
    assert (await door.call()).status_code == 200
    await door.call({})  # control: without a key, the response does not wait for the record
    assert unstored == [0]
    assert journal._written > journal._kept


async def test_cancelled_calls_stay_so(door: KeyedApp, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = asyncio.Event()

    async def hangs(*_: object) -> CallResult:
        begun.set()
        await asyncio.sleep(3600)
        return CallResult(kind=ExitKind.EXITED)

    with monkeypatch.context() as patch:
        patch.setattr(fake.FakeSandbox, "_handle", hangs)
        first = asyncio.ensure_future(door.call())
        await begun.wait()
        running = await door.call()
        assert (running.status_code, running.headers["retry-after"]) == (409, "1")
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
    again = await door.call()
    assert (again.status_code, again.content) == (503, LOST)
    assert again.headers["idempotency-replayed"] == "true"
    assert door.runs == 1


async def test_of_many_with_one_key_one_runs_and_no_answer_is_lost(door: KeyedApp) -> None:
    answers = await asyncio.gather(*(door.call() for _ in range(20)))
    assert {one.status_code for one in answers} <= {200, 409}
    assert door.runs == 1
    assert (await door.call()).status_code == 200


async def test_a_create_that_the_trail_did_not_take_is_not_made_twice(door: KeyedApp) -> None:
    body = {"name": "made", "handler": "echo"}
    with away(SqlAudit, "append"):
        first = await door("POST", "/api/functions", body, headers=KEY)
        assert (first.status_code, first.json()["error_code"]) == (503, "STORE_UNAVAILABLE")
    again = await door("POST", "/api/functions", body, headers=KEY)
    assert (again.status_code, again.headers["idempotency-replayed"]) == (503, "true")
    refused = {"name": "x y", "handler": "echo"}
    key = {"Idempotency-Key": "refused"}
    with away(SqlAudit, "append"):
        await door("POST", "/api/functions", refused, headers=key)
    answer = await door("POST", "/api/functions", refused, headers=key)
    assert (answer.status_code, "idempotency-replayed" in answer.headers) == (422, False)


@promise("A22")
@pytest.mark.parametrize("is_taken", [True, False])
async def test_a_long_answer_has_its_room_until_the_store_has_kept_it(
    door: KeyedApp, monkeypatch: pytest.MonkeyPatch, is_taken: bool
) -> None:
    output, written, may_go_on = b"\1" * 200_000, asyncio.Event(), asyncio.Event()
    keep = SqlIdempotencyStore.complete

    async def long(*_: object) -> CallResult:
        return CallResult(kind=ExitKind.EXITED, code=0, stdout=output)

    async def held_up(self: SqlIdempotencyStore, *given: Any) -> None:
        written.set()
        await may_go_on.wait()
        if not is_taken:
            raise StoreUnavailable
        await keep(self, *given)

    monkeypatch.setattr(fake.FakeSandbox, "_handle", long)
    monkeypatch.setattr(SqlIdempotencyStore, "complete", held_up)
    call = asyncio.create_task(door.call())
    await written.wait()
    held = door.budgets.responses.held
    may_go_on.set()
    answer = await call
    assert answer.status_code == (200 if is_taken else 503)
    assert held > 6 * len(output)
    assert not is_taken or held == len(answer.content)
    assert door.budgets.responses.held == 0
