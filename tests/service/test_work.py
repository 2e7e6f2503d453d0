"""What callers see of accepted work: accepting, policies, cancelling, waiting."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from contract.stores import restart
from promises import promise
from quiltfn.api.app import make_app
from quiltfn.model import delivery, event
from quiltfn.model.errors import OutcomeUnknown, StoreUnavailable
from quiltfn.store import SqlIdempotencyStore
from service.in_process import InProcess
from service.platform_harness import Harness, open_harness, until
from timeouts import scaled

ASYNC = {"Prefer": "respond-async"}


class Api:
    """The application of a harness, asked in process."""

    def __init__(self, harness: Harness, http: httpx.AsyncClient) -> None:
        self.harness, self.http = harness, http

    async def __call__(
        self, method: str, path: str, body: Any = None, **more: Any
    ) -> httpx.Response:
        if body is not None:
            more["json"] = body
        return await self.http.request(method, path, **more)

    async def good(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        answer = await self(method, path, body, **more)
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None

    async def refused(
        self, status: int, method: str, path: str, body: Any = None, **more: Any
    ) -> Any:
        answer = await self(method, path, body, **more)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def function(self, handler: str = "echo hello", name: str = "f", **more: Any) -> str:
        """The path of an active one."""
        entry = await self.harness.active(handler, name, **more)
        return f"/api/functions/{entry.function.id}"

    async def submit(
        self, function: str, payload: str | None = None, **query: Any
    ) -> dict[str, Any]:
        answer = await self(
            "POST", f"{function}/invoke", {"payload": payload}, headers=ASYNC, params=query
        )
        assert answer.status_code == 202, answer.text
        return answer.json()

    async def ended(self, function: str, invocation_id: str) -> dict[str, Any]:
        path = f"{function}/invocations/{invocation_id}?wait_seconds=10"
        return await self.good("GET", path)


@contextlib.asynccontextmanager
async def opened(path: Path, **more: Any) -> AsyncIterator[Api]:
    async with open_harness(path, **more) as harness:
        transport = InProcess(make_app(harness.services))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            yield Api(harness, http)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with opened(tmp_path) as one:
        yield one


# Accepting -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"Prefer": "respond-async"}, ""),
        ({"Prefer": "wait=10, Respond-Async; x=1"}, ""),
        ({}, "?mode=async"),
    ],
)
async def test_an_asynchronous_call_is_answered_with_202_and_where_it_is(
    api: Api, headers: dict[str, str], query: str
) -> None:
    function = await api.function()
    answer = await api("POST", f"{function}/invoke{query}", {"payload": "x"}, headers=headers)
    assert answer.status_code == 202, answer.text
    record = answer.json()
    assert record["status"] == "queued"
    assert answer.headers["location"] == f"{function}/invocations/{record['invocation_id']}"
    assert answer.headers["preference-applied"] == "respond-async"
    shown = await api.good("GET", answer.headers["location"])
    assert shown.keys() == record.keys()


async def test_mode_sync_is_stronger_than_a_preference(api: Api) -> None:
    function = await api.function()
    answer = await api("POST", f"{function}/invoke?mode=sync", {}, headers=ASYNC)
    assert (answer.status_code, answer.json()["status"]) == (200, "success")


@promise("W3")
@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("mode=later", "mode"),
        ("mode=async&delay_seconds=-1", "delay_seconds"),
        ("mode=async&delay_seconds=31536001", "delay_seconds"),
        ("mode=async&not_before=soon", "not_before"),
        ("mode=async&not_before=99999999999", "not_before"),
        (f"mode=async&not_before={'0' * 11}{'9' * 20}", "not_before"),  # more than a column takes
        ("mode=async&not_before=1&delay_seconds=1", "not_before"),
        ("delay_seconds=1", "delay_seconds"),
        ("mode=sync&not_before=1", "not_before"),
    ],
)
async def test_a_time_that_cannot_be_is_refused_by_name(api: Api, query: str, name: str) -> None:
    function = await api.function()
    refusal = await api.refused(422, "POST", f"{function}/invoke?{query}", {})
    assert refusal["error"].startswith(f"{name} must be ")
    assert refusal["details"]["expected"]


async def test_delayed_work_waits_for_its_time(api: Api) -> None:
    function = await api.function()
    await api.submit(function, delay_seconds=60)
    later = int(api.harness.clock.unix()) + 60
    await api.submit(function, not_before=later)
    queue = await api.good("GET", f"{function}/queue")
    assert queue == {
        "function_id": function.rsplit("/", 1)[1],
        "function_name": queue["function_name"],
        "queued": 0,
        "delayed": 2,
        "running": 0,
        "oldest_age_seconds": None,
        "dead_letters": 0,
    }


async def test_a_function_that_was_never_deployed_takes_no_work(api: Api) -> None:
    entry = await api.harness.create()
    path = f"/api/functions/{entry.function.id}/invoke?mode=async"
    refusal = await api.refused(409, "POST", path, {})
    assert (refusal["error_code"], refusal["details"]["state"]) == (
        "FUNCTION_NOT_ACTIVE",
        "pending",
    )


async def test_a_paused_function_accepts_until_its_bound(api: Api) -> None:
    function = await api.function()
    await api.good("PUT", f"{function}/async-policy", {"max_queued": 2})
    await api.good("POST", f"{function}/pause")
    await api.submit(function)
    await api.submit(function)
    refusal = await api.refused(503, "POST", f"{function}/invoke?mode=async", {})
    assert refusal["error_code"] == "CAPACITY_FULL"
    assert refusal["retry_after"] >= 1
    queue = await api.good("GET", f"{function}/queue")
    assert (queue["queued"], queue["oldest_age_seconds"]) == (2, 0)


@pytest.mark.parametrize("version", ["", "&version=1", "&version=2", "&alias=old"])
async def test_what_no_version_would_take_is_refused_and_queues_nothing(
    api: Api, version: str
) -> None:
    function = await api.function(timeout_seconds=5)
    await api.good("PUT", f"{function}/aliases/old", {"version": 1})
    await api.good("PUT", function, {"handler": "echo two"})
    for body, name in (
        ({"timeout_seconds": 6}, "timeout_seconds"),
        ({"environment": {"QUILT_X": "1"}}, "environment.QUILT_X"),
        ({"payload": 1}, "payload"),
    ):
        refusal = await api.refused(422, "POST", f"{function}/invoke?mode=async{version}", body)
        assert refusal["error"].startswith(name)
    assert (await api.good("GET", f"{function}/invocations"))["invocations"] == []


@promise("W9")
async def test_a_key_queues_a_call_once(api: Api) -> None:
    function = await api.function()
    await api.good("POST", f"{function}/pause")
    headers = ASYNC | {"Idempotency-Key": "nightly-1"}
    answers = [
        await api("POST", f"{function}/invoke", {"payload": "x"}, headers=headers) for _ in range(3)
    ]
    assert [one.status_code for one in answers] == [202, 202, 202]
    assert len({one.text for one in answers}) == 1
    assert len({one.headers["location"] for one in answers}) == 1
    assert (await api.good("GET", f"{function}/queue"))["queued"] == 1
    for query, payload in (("", "y"), ("?mode=sync", "x"), ("?delay_seconds=60", "x")):
        path, body = f"{function}/invoke{query}", {"payload": payload}
        refusal = await api.refused(422, "POST", path, body, headers=headers)
        assert "another body or query" in refusal["details"]["expected"]


@pytest.mark.parametrize("is_stored", [True, False])
async def test_a_key_of_work_that_may_be_queued_is_not_free_again(
    api: Api, monkeypatch: pytest.MonkeyPatch, is_stored: bool
) -> None:
    function = await api.function()
    await api.good("POST", f"{function}/pause")
    headers = ASYNC | {"Idempotency-Key": "nightly-1"}
    work = api.harness.services.work.store
    accept = work.accept

    async def unknown(*given: Any, **named: Any) -> None:
        if is_stored:
            await accept(*given, **named)
        raise OutcomeUnknown

    with monkeypatch.context() as patch:
        patch.setattr(work, "accept", unknown)
        first = await api("POST", f"{function}/invoke", {"payload": "x"}, headers=headers)
    assert (first.status_code, first.json()["error_code"]) == (503, "STORE_UNAVAILABLE")
    again = await api("POST", f"{function}/invoke", {"payload": "x"}, headers=headers)
    assert again.status_code == (202 if is_stored else 503)
    assert (await api.good("GET", f"{function}/queue"))["queued"] == int(is_stored)


@promise("N90")
async def test_queued_work_runs_without_a_word(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other server looks for it, and the function may never be called again."""
    function = await api.function()
    accept = api.harness.services.work.store.accept

    async def unknown(*given: Any, **named: Any) -> None:
        await accept(*given, **named)
        raise OutcomeUnknown

    monkeypatch.setattr(api.harness.services.work.store, "accept", unknown)
    refused = await api("POST", f"{function}/invoke", {"payload": "x"}, headers=ASYNC)
    assert refused.status_code == 503
    await until(lambda: api.harness.sandboxes.calls == 1)


async def dies_before_it_answers(
    api: Api, monkeypatch: pytest.MonkeyPatch, method: str, path: str, body: Any, headers: Any
) -> httpx.Response:
    """What a client gets that asks again once the server has started again: its first request was
    carried out, and the server was killed before it had stored the answer.
    """

    async def killed(*_: object, **__: object) -> None:
        raise StoreUnavailable("killed")

    idempotency = api.harness.services.idempotency
    with monkeypatch.context() as patch:
        patch.setattr(SqlIdempotencyStore, "complete", killed)
        assert (await api(method, path, body, headers=headers)).status_code == 503
    idempotency._unstored.clear()
    await restart(api.harness.store)
    await SqlIdempotencyStore(api.harness.store.database).start(b'{"error_code":"SHUTTING_DOWN"}')
    return await api(method, path, body, headers=headers)


KEYED = {"Idempotency-Key": "k"}


@promise("W9")
@pytest.mark.parametrize("how", ["by id", "by name", "replay", "schedule"])
async def test_a_key_outlives_a_kill(api: Api, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    function = await api.function()
    await api.good("PUT", f"{function}/record-policy", {"keep_input": "all"})
    origin = await api.submit(function, "x")
    await api.ended(function, origin["invocation_id"])
    schedule = {"name": "s", "function": "f", "every_seconds": 3600, "enabled": False}
    await api.good("POST", "/api/schedules", schedule)
    await api.good("POST", f"{function}/pause")
    path, body = {
        "by id": (f"{function}/invoke", {"payload": "x"}),
        "by name": ("/api/functions/invoke/f", {"payload": "x"}),
        "replay": (
            f"{function}/invocations/{origin['invocation_id']}/replay",
            {"mode": "async"},
        ),
        "schedule": ("/api/schedules/s/run", None),
    }[how]
    headers = KEYED | (ASYNC if how.startswith("by") else {})
    again = await dies_before_it_answers(api, monkeypatch, "POST", path, body, headers)
    assert (again.status_code, again.headers["idempotency-replayed"]) == (202, "true")
    (queued,) = (await api.good("GET", f"{function}/invocations?status=queued"))["invocations"]
    assert again.json()["invocation_id"] == queued["invocation_id"]
    assert again.headers["location"].endswith(queued["invocation_id"])


@promise("W9")
async def test_a_key_names_a_call_without_answer(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    function = await api.function()
    path = f"{function}/invoke"
    again = await dies_before_it_answers(api, monkeypatch, "POST", path, {}, KEYED)
    assert (again.status_code, again.json()) == (503, {"error_code": "SHUTTING_DOWN"})
    (record,) = (await api.good("GET", f"{function}/invocations"))["invocations"]
    assert again.headers["x-invocation-id"] == record["invocation_id"]


async def test_a_key_of_work_that_was_not_accepted_is_not_said_to_be(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed(*_: object, **__: object) -> None:
        error = StoreUnavailable("killed")
        error.executed = True
        raise error

    function = await api.function()
    monkeypatch.setattr(api.harness.services.work.store, "accept", killed)
    path, headers = f"{function}/invoke", KEYED | ASYNC
    again = await dies_before_it_answers(api, monkeypatch, "POST", path, {}, headers)
    assert (again.status_code, "location" in again.headers) == (503, False)
    assert (await api.good("GET", f"{function}/invocations"))["invocations"] == []


# Policies ------------------------------------------------------------------------------------

DEFAULT = {
    "max_attempts": 1,
    "backoff_seconds": {"first": 1.0, "factor": 2.0, "most": 600.0, "jitter": 0.2},
    "retry_on": ["failed", "timeout", "oom", "error", "interrupted"],
    "max_age_seconds": 21_600,
    "max_queued": 100_000,
    "max_concurrency": None,
    "on_success": None,
    "on_failure": None,
}
SECRET = "whsec_c29tZSByYW5kb20gYnl0ZXMgb2Ygb3VyIG93bg=="


async def test_a_policy_is_set_as_a_whole_and_taken_back(api: Api) -> None:
    function = await api.function()
    await api.function(name="other")
    assert await api.good("GET", f"{function}/async-policy") == DEFAULT
    given = {"max_attempts": 3, "on_failure": {"function": "other"}}
    given |= {"on_success": {"url": "https://example.com/x", "secret": SECRET}}
    answer = await api.good("PUT", f"{function}/async-policy", given)
    assert answer == DEFAULT | given
    assert await api.good("GET", f"{function}/async-policy") == answer
    answer = await api.good("PUT", f"{function}/async-policy", {"max_attempts": 2})
    assert answer == DEFAULT | {"max_attempts": 2}
    assert (await api("DELETE", f"{function}/async-policy")).status_code == 204
    assert await api.good("GET", f"{function}/async-policy") == DEFAULT


async def test_policies_outlive_the_server(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        function = await api.function()
        await api.good("PUT", f"{function}/async-policy", {"max_attempts": 4})
        await api.good("PUT", f"{function}/record-policy", {"keep_input": "all"})
    async with opened(tmp_path) as api:
        assert (await api.good("GET", f"{function}/async-policy"))["max_attempts"] == 4
        assert await api.good("GET", f"{function}/record-policy") == {"keep_input": "all"}


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        ({"on_failure": {}}, "on_failure"),
        ({"on_failure": {"function": "g", "url": "https://a"}}, "on_failure"),
        ({"on_failure": {"function": "nobody"}}, "on_failure.function"),
        ({"on_success": {"function": "f"}}, "on_success.function"),
        ({"on_success": {"function": "g", "secret": SECRET}}, "on_success.secret"),
        ({"on_success": {"url": "https://a.example"}}, "on_success.secret"),
        ({"on_success": {"url": "ftp://a.example", "secret": SECRET}}, "on_success.url"),
        ({"on_success": {"url": "https://a.example", "secret": "***"}}, "on_success.secret"),
        ({"backoff_seconds": {"first": -1}}, "backoff_seconds.first"),
    ],
)
async def test_a_wrong_policy_names_its_field(api: Api, policy: dict[str, Any], name: str) -> None:
    function = await api.function()
    await api.function(name="g")
    refusal = await api.refused(422, "PUT", f"{function}/async-policy", policy)
    assert refusal["error"].startswith(f"{name} must be ")
    assert SECRET not in str(refusal)
    assert await api.good("GET", f"{function}/async-policy") == DEFAULT


async def test_the_policies_of_a_deleted_function_are_gone(api: Api) -> None:
    function = await api.function()
    await api.good("PUT", f"{function}/async-policy", {"max_attempts": 4})
    await api.good("DELETE", function)
    await api.refused(404, "GET", f"{function}/async-policy")
    await api.refused(404, "PUT", f"{function}/async-policy", {})
    assert not api.harness.services.work.policies._rows


# Cancelling ----------------------------------------------------------------------------------


async def test_work_that_waits_is_cancelled_at_once_and_never_again(api: Api) -> None:
    function = await api.function()
    await api.good("POST", f"{function}/pause")
    record = await api.submit(function)
    path = f"{function}/invocations/{record['invocation_id']}"
    cancelled = await api.good("POST", f"{path}/cancel")
    assert (cancelled["status"], cancelled["started_at"]) == ("cancelled", None)
    assert await api.good("GET", path) == cancelled
    assert (await api.good("GET", f"{function}/queue"))["queued"] == 0
    refusal = await api.refused(409, "POST", f"{path}/cancel")
    assert (refusal["error_code"], refusal["details"]["state"]) == ("CONFLICT", "cancelled")
    shown = await api.good("GET", function)
    assert (shown["invocation_count"], shown["error_count"]) == (1, 1)


async def test_a_synchronous_call_is_cancelled_too(api: Api) -> None:
    function = await api.function("sleep 1000")
    entry = api.harness.catalog.get(function.rsplit("/", 1)[1])
    call = await api.harness.running(entry)
    (running,) = await api.harness.records(entry)
    path = f"{function}/invocations/{running.invocation_id}"
    assert (await api.good("POST", f"{path}/cancel"))["status"] == "cancelled"
    assert (await call).status == "cancelled"
    await api.refused(409, "POST", f"{path}/cancel")


@promise("W6")
async def test_cancelled_on_disk_first(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = await api.harness.active("sleep 60")
    call = await api.harness.running(entry)
    (invocation_id,) = api.harness.invoker._calls
    journal, may_sync = api.harness.journal, asyncio.Event()
    commit = journal._commit_now

    async def commit_later() -> None:
        await may_sync.wait()
        await commit()

    monkeypatch.setattr(journal, "_commit_now", lambda: asyncio.ensure_future(commit_later()))
    path = f"/api/functions/{entry.function.id}/invocations/{invocation_id}/cancel"
    cancelling = asyncio.ensure_future(api.good("POST", path))
    assert (await call).status == "cancelled"
    await asyncio.sleep(0.02)
    assert not cancelling.done()
    may_sync.set()
    assert (await cancelling)["status"] == "cancelled"


async def test_nothing_is_done_to_calls_that_there_are_not(api: Api) -> None:
    function = await api.function()
    other = await api.function(name="other")
    record = await api.submit(other, delay_seconds=60)
    for one in ("nobody", record["invocation_id"]):
        path = f"{function}/invocations/{one}"
        await api.refused(404, "POST", f"{path}/cancel")
        await api.refused(404, "GET", f"{path}/attempts")
        await api.refused(404, "GET", f"{path}/input")
        await api.refused(404, "POST", f"{path}/replay", {})
        await api.refused(404, "GET", f"{path}?wait_seconds=1")
        await api.refused(404, "DELETE", f"{function}/dead-letters/{one}")


# Waiting -------------------------------------------------------------------------------------


@promise("W7")
async def test_who_waits_for_a_call_is_woken_by_its_end(api: Api) -> None:
    function = await api.function("sleep 1000")
    entry = api.harness.catalog.get(function.rsplit("/", 1)[1])
    call = await api.harness.running(entry)
    (running,) = await api.harness.records(entry)
    path = f"{function}/invocations/{running.invocation_id}"
    waiting = asyncio.ensure_future(api.good("GET", f"{path}?wait_seconds=60"))
    waiters = api.harness.services.work.waiters
    await until(lambda: waiters._events)
    assert not waiting.done()
    await api.good("POST", f"{path}/cancel")
    async with asyncio.timeout(scaled(5)):
        assert (await waiting)["status"] == "cancelled"
    await call
    assert not waiters._events, "nobody is remembered who waits no longer"


@promise("W7")
async def test_a_wait_ends_with_its_time(api: Api) -> None:
    function = await api.function()
    record = await api.submit(function, delay_seconds=60)
    path = f"{function}/invocations/{record['invocation_id']}"
    assert (await api.good("GET", f"{path}?wait_seconds=1"))["status"] == "queued"
    for wrong in ("61", "-1", "x"):
        refusal = await api.refused(422, "GET", f"{path}?wait_seconds={wrong}")
        assert refusal["error"].startswith("wait_seconds must be a whole number between 0 and 60")


@promise("W7")
async def test_nobody_keeps_waiting_while_the_server_ends(api: Api) -> None:
    function = await api.function()
    record = await api.submit(function, delay_seconds=60)
    path = f"{function}/invocations/{record['invocation_id']}?wait_seconds=60"
    waiting = asyncio.ensure_future(api.good("GET", path))
    work = api.harness.services.work
    await until(lambda: work.waiters._events)
    work.waiters.release()
    async with asyncio.timeout(scaled(5)):
        assert (await waiting)["status"] == "queued"


# Inputs, replay, attempts --------------------------------------------------------------------


async def test_the_input_of_accepted_work_is_kept(api: Api) -> None:
    function = await api.function()
    record = await api.submit(function, "hello", delay_seconds=60)
    assert await api.good("GET", f"{function}/invocations/{record['invocation_id']}/input") == {
        "payload": "hello",
        "environment": None,
        "version": None,
        "source": "async",
        "caller": "open",
        "parent_invocation_id": None,
    }


async def test_the_input_of_a_synchronous_call_is_kept_where_the_policy_says_so(api: Api) -> None:
    function = await api.function("cat")
    for policy, status in (("async", 404), ("all", 200), ("none", 404)):
        await api.good("PUT", f"{function}/record-policy", {"keep_input": policy})
        ended = await api.good("POST", f"{function}/invoke", {"payload": "hello"})
        path = f"{function}/invocations/{ended['invocation_id']}/input"
        answer = await api("GET", path)
        assert answer.status_code == status, (policy, answer.text)
    refusal = await api.refused(422, "PUT", f"{function}/record-policy", {"keep_input": "some"})
    assert refusal["error"] == "keep_input must be one of: async, all, none"


@promise("W8")
async def test_a_call_is_replayed_on_the_version_that_is_named(api: Api) -> None:
    function = await api.function("echo one")
    await api.good("PUT", f"{function}/record-policy", {"keep_input": "all"})
    ended = await api.good("POST", f"{function}/invoke", {"payload": "x"})
    await api.good("PUT", function, {"handler": "echo two"})
    path = f"{function}/invocations/{ended['invocation_id']}/replay"
    again = await api.good("POST", path)
    assert (again["status"], again["stdout"]) == ("success", "two\n")
    assert again["invocation_id"] != ended["invocation_id"]
    old = await api.good("POST", path, {"version": 1})
    assert (old["status"], old["stdout"]) == ("success", "one\n")
    await api.refused(404, "POST", path, {"version": 3})
    given = await api.good("GET", f"{function}/invocations/{old['invocation_id']}/input")
    assert (given["source"], given["version"]) == ("replay", 1)
    entry = api.harness.catalog.get(function.rsplit("/", 1)[1])
    origins = {one.origin_invocation_id for one in await api.harness.records(entry)}
    assert origins == {None, ended["invocation_id"]}


async def test_a_replay_may_be_queued(api: Api) -> None:
    function = await api.function("echo one")
    record = await api.submit(function, "x", delay_seconds=60)
    await api.good("POST", f"{function}/pause")
    path = f"{function}/invocations/{record['invocation_id']}/replay"
    answer = await api("POST", path, {"mode": "async"})
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    given = await api.good("GET", f"{answer.headers['location']}/input")
    assert (given["source"], given["payload"]) == ("replay", "x")


async def test_a_synchronous_call_has_one_attempt(api: Api) -> None:
    function = await api.function("exit 3")
    ended = await api.good("POST", f"{function}/invoke", {})
    found = await api.good("GET", f"{function}/invocations/{ended['invocation_id']}/attempts")
    (attempt,) = found["attempts"]
    assert (attempt["attempt"], attempt["status"], attempt["exit_code"]) == (1, "failed", 3)
    assert (attempt["started_at"], attempt["ended_at"]) == (ended["started_at"], ended["ended_at"])
    assert attempt["version"] == 1


# Running it ----------------------------------------------------------------------------------

AT_ONCE = {"first": 0, "jitter": 0}


async def test_accepted_work_is_run_and_its_record_is_as_any_other(api: Api) -> None:
    function = await api.function("cat")
    record = await api.submit(function, "hello")
    ended = await api.ended(function, record["invocation_id"])
    assert (ended["status"], ended["stdout"]) == ("success", "hello")
    found = await api.good("GET", f"{function}/invocations/{record['invocation_id']}/attempts")
    (attempt,) = found["attempts"]
    assert (attempt["attempt"], attempt["status"], attempt["version"]) == (1, "success", 1)
    shown = await api.good("GET", function)
    assert (shown["invocation_count"], shown["error_count"]) == (1, 0)


@promise("A90")
async def test_whatever_shows_an_invocation_has_its_cause_but_the_record(api: Api) -> None:
    function = await api.function("exit 3")
    await api.good(
        "PUT", f"{function}/async-policy", {"max_attempts": 2, "backoff_seconds": AT_ONCE}
    )
    record = await api.submit(function)
    path = f"{function}/invocations/{record['invocation_id']}"
    ended = await api.ended(function, record["invocation_id"])
    assert (ended["error_message"], "end_cause" in ended) == (
        "the handler exited with code 3",
        False,
    )
    cause = {"cause": "exit", "code": 3, "message": None}
    (listed,) = (await api.good("GET", "/api/invocations"))["invocations"]
    (letter,) = (await api.good("GET", f"{function}/dead-letters"))["dead_letters"]
    attempts = (await api.good("GET", f"{path}/attempts"))["attempts"]
    found = [await api.good("GET", f"{path}/timeline"), listed, letter, *attempts]
    assert [one["end_cause"] for one in found] == [cause] * 5
    kept = await api.harness.services.journal.get(
        function.rpartition("/")[2], ended["invocation_id"]
    )
    assert kept is not None
    assert event.told_of_end(kept)["end_cause"] == cause
    assert msgspec.json.decode(delivery.body_of(kept))["data"]["end_cause"] == cause
    await api.good("POST", f"{function}/pause")
    waits = await api.submit(function)
    await api.good("POST", f"{function}/invocations/{waits['invocation_id']}/cancel")
    path = f"{function}/invocations/{waits['invocation_id']}/timeline"
    by = (await api.good("GET", path))["end_cause"]
    assert by == {"cause": "cancelled", "by": "request_before_start", "message": None}


async def test_failures_are_retried_then_dead_letters_and_then_redriven(api: Api) -> None:
    function = await api.function("exit 3")
    policy = {"max_attempts": 3, "backoff_seconds": AT_ONCE}
    await api.good("PUT", f"{function}/async-policy", policy)
    record = await api.submit(function, "x")
    first = record["invocation_id"]
    assert (await api.ended(function, first))["status"] == "failed"
    found = await api.good("GET", f"{function}/invocations/{first}/attempts")
    assert [one["attempt"] for one in found["attempts"]] == [1, 2, 3]
    (letter,) = (await api.good("GET", f"{function}/dead-letters"))["dead_letters"]
    assert (letter["invocation_id"], letter["reason"], letter["attempts"]) == (first, "attempts", 3)
    assert (await api.good("GET", f"{function}/queue"))["dead_letters"] == 1
    shown = await api.good("GET", function)
    assert (shown["invocation_count"], shown["error_count"]) == (1, 1), "a call counts once"

    await api.good("PUT", function, {"handler": "cat"})
    redrive = f"{function}/dead-letters/redrive"
    done = await api.good("POST", redrive, {"invocation_ids": [first, "nobody"]})
    (again,) = done.pop("invocation_ids")
    assert done == {"redriven": 1, "remaining": 0}
    ended = await api.ended(function, again)
    assert (ended["status"], ended["stdout"]) == ("success", "x")
    given = await api.good("GET", f"{function}/invocations/{again}/input")
    assert given["source"] == "redrive"
    assert (await api.good("POST", redrive, {"all": True}))["redriven"] == 0


@promise("W4")
async def test_all_dead_letters_are_queued_again_and_one_can_be_dropped(api: Api) -> None:
    function = await api.function("exit 3")
    records = [await api.submit(function, str(number)) for number in range(5)]
    for one in records:
        await api.ended(function, one["invocation_id"])
    page = await api.good("GET", f"{function}/dead-letters?limit=2")
    assert len(page["dead_letters"]) == 2
    rest = await api.good("GET", f"{function}/dead-letters?cursor={page['next_cursor']}")
    listed = [one["invocation_id"] for one in [*page["dead_letters"], *rest["dead_letters"]]]
    assert listed == [one["invocation_id"] for one in reversed(records)]
    dropped = f"{function}/dead-letters/{listed[0]}"
    assert (await api("DELETE", dropped)).status_code == 204
    await api.refused(404, "DELETE", dropped)
    assert (await api.good("GET", f"{function}/invocations/{listed[0]}"))["status"] == "failed"
    await api.good("PUT", function, {"handler": "cat"})
    done = await api.good("POST", f"{function}/dead-letters/redrive", {"all": True})
    assert (done["redriven"], done["remaining"]) == (4, 0)
    ended = [await api.ended(function, one) for one in done["invocation_ids"]]
    assert {one["stdout"] for one in ended} == {"0", "1", "2", "3"}


@promise("W10")
async def test_a_redrive_looks_at_no_call_of_another_function(api: Api) -> None:
    other = await api.function("exit 3", "other", timeout_seconds=77)
    body = {"timeout_seconds": 66}
    answer = await api("POST", f"{other}/invoke", body, headers=ASYNC)
    theirs = answer.json()["invocation_id"]
    await api.ended(other, theirs)
    function = await api.function(timeout_seconds=5)
    redrive = f"{function}/dead-letters/redrive"
    done = await api.good("POST", redrive, {"invocation_ids": [theirs]})
    assert (done["redriven"], done["invocation_ids"]) == (0, [])
    assert (await api.good("GET", f"{other}/queue"))["dead_letters"] == 1


async def test_redrives_hold_few_inputs(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    function = await api.function("exit 3")
    for _ in range(6):
        record = await api.submit(function, "x" * 1000)
        await api.ended(function, record["invocation_id"])
    monkeypatch.setattr("quiltfn.calls.work.REDRIVEN_BYTES", 1500)
    store, sizes = api.harness.services.work.store, list[int]()
    redrive = store.redrive

    async def measured(function_id: str, again: Any) -> Any:
        sizes.append(sum(work.input.size_bytes for _, work in again))
        return await redrive(function_id, again)

    monkeypatch.setattr(store, "redrive", measured)
    done = await api.good("POST", f"{function}/dead-letters/redrive", {"all": True})
    assert done["redriven"] == 6
    assert max(sizes) < 1500 + 1100


@pytest.mark.parametrize("body", [{}, {"all": False}, {"all": True, "invocation_ids": ["x"]}])
async def test_a_redrive_says_which(api: Api, body: dict[str, Any]) -> None:
    function = await api.function()
    refusal = await api.refused(422, "POST", f"{function}/dead-letters/redrive", body)
    assert refusal["error"].startswith("invocation_ids must be given, or all true")


async def test_accepted_work_that_runs_is_cancelled_and_not_tried_again(api: Api) -> None:
    function = await api.function("sleep 1000")
    policy = {"max_attempts": 5, "backoff_seconds": AT_ONCE}
    await api.good("PUT", f"{function}/async-policy", policy)
    record = await api.submit(function)
    path = f"{function}/invocations/{record['invocation_id']}"
    await until(lambda: api.harness.sandboxes.calls)
    assert (await api.good("POST", f"{path}/cancel"))["status"] == "cancelled"
    await api.refused(409, "POST", f"{path}/cancel")
    queue = await api.good("GET", f"{function}/queue")
    assert (queue["queued"], queue["running"], queue["dead_letters"]) == (0, 0, 0)


@promise("W6")
async def test_work_that_waits_for_its_next_attempt_can_be_cancelled(api: Api) -> None:
    """Between two attempts it is neither running nor quite queued yet."""
    function = await api.function("exit 1")
    policy = {"max_attempts": 2, "backoff_seconds": {"first": 60, "jitter": 0}}
    await api.good("PUT", f"{function}/async-policy", policy)
    record = await api.submit(function)
    path = f"{function}/invocations/{record['invocation_id']}"
    await until(lambda: api.harness.sandboxes.calls)
    for _ in range(50):
        await asyncio.sleep(0)
    cancelled = await api.good("POST", f"{path}/cancel")
    assert cancelled["status"] == "cancelled"
    assert (await api.good("GET", path))["status"] == "cancelled"
    assert (await api.good("GET", f"{function}/queue"))["delayed"] == 0


@promise("W2")
async def test_what_a_paused_function_accepted_runs_after_resume(api: Api) -> None:
    function = await api.function("cat")
    await api.good("POST", f"{function}/pause")
    records = [await api.submit(function, str(number)) for number in range(3)]
    assert (await api.good("GET", f"{function}/queue"))["queued"] == 3
    await api.good("POST", f"{function}/resume")
    ended = [await api.ended(function, one["invocation_id"]) for one in records]
    assert [one["stdout"] for one in ended] == ["0", "1", "2"]


async def test_a_restart_loses_no_work_and_runs_it_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        function = await api.function("cat")
        await api.good("POST", f"{function}/pause")
        records = [await api.submit(function, str(number)) for number in range(3)]
    async with opened(tmp_path) as api:
        assert (await api.good("GET", f"{function}/queue"))["queued"] == 3
        await api.good("POST", f"{function}/resume")
        ended = [await api.ended(function, one["invocation_id"]) for one in records]
        assert [one["stdout"] for one in ended] == ["0", "1", "2"]
        assert api.harness.sandboxes.calls == 3


async def test_the_input_is_gone_after_the_end_where_the_policy_keeps_none(api: Api) -> None:
    function = await api.function("cat")
    await api.good("PUT", f"{function}/record-policy", {"keep_input": "none"})
    record = await api.submit(function, "hello")
    assert (await api.ended(function, record["invocation_id"]))["stdout"] == "hello"
    await api.harness.journal.synced()
    path = f"{function}/invocations/{record['invocation_id']}/input"
    await api.refused(404, "GET", path)


@promise("W11")
async def test_attempts_have_the_memory_for_long_output_that_calls_have(api: Api) -> None:
    function = await api.function("sleep 1000")
    record = await api.submit(function)
    path = f"{function}/invocations/{record['invocation_id']}"
    outputs = api.harness.services.budgets.outputs
    calls = api.harness.services.invoker._calls
    await until(lambda: calls)
    (call,) = calls.values()
    assert call.request.long_output is not None
    assert call.request.long_output.take(3 * 1024 * 1024, lambda: None)
    assert not outputs.is_unused
    await api.good("POST", f"{path}/cancel")
    await until(lambda: outputs.is_unused)


@promise("A42")
async def test_a_tenant_has_so_many_requests_that_wait_for_ends(api: Api) -> None:
    function = await api.function("sleep 1000")
    record = await api.submit(function)
    path = f"{function}/invocations/{record['invocation_id']}"
    waits = api.harness.services.budgets.waits
    waits.of_tenant = 1
    first = asyncio.ensure_future(api.good("GET", f"{path}?wait_seconds=60"))
    await until(lambda: waits.open == 1)
    refusal = await api.refused(429, "GET", f"{path}?wait_seconds=60")
    assert refusal["error"] == (
        "the tenant has 1 requests that wait for the end of a call, its limit"
    )
    assert (await api.good("GET", path))["status"] in ("queued", "running")
    await api.good("POST", f"{path}/cancel")
    assert (await first)["status"] == "cancelled"
    assert waits.open == 0


@promise("W8")
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_what_is_replayed_counts_as_a_body_that_was_sent(api: Api, mode: str) -> None:
    function = await api.function("cat")
    record = await api.submit(function, "x" * 100_000)
    await api.ended(function, record["invocation_id"])
    replay = f"{function}/invocations/{record['invocation_id']}/replay"
    bodies = api.harness.services.budgets.bodies
    room = 32 * 1024 * 1024 - 50_000
    bodies.reserve(room, "default", is_call=True)
    refusal = await api.refused(429, "POST", replay, {"mode": mode})
    assert refusal["error_code"] == "RATE_LIMITED"
    bodies.release(room, "default")
    await api.good("POST", replay, {"mode": mode})
    assert bodies.held == 0


# What is loaded ------------------------------------------------------------------------------


@promise("A67")
async def test_output_is_loaded_for_answers_only(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record may have megabytes of output."""
    function = await api.function()
    queued = await api.submit(function)
    await api.ended(function, queued["invocation_id"])
    loaded: list[str] = []
    get = api.harness.journal.get

    async def counted(function_id: str, invocation_id: str) -> Any:
        loaded.append(invocation_id)
        return await get(function_id, invocation_id)

    monkeypatch.setattr(api.harness.journal, "get", counted)
    path = f"{function}/invocations/{queued['invocation_id']}"
    assert (await api.good("GET", f"{path}?wait_seconds=5"))["stdout"] == "hello\n"
    assert len(loaded) == 1
    await api.refused(409, "POST", f"{path}/cancel")
    assert len((await api.good("GET", f"{path}/attempts"))["attempts"]) == 1
    assert (await api.good("GET", f"{path}/timeline"))["status"] == "success"
    await api.good("GET", f"{path}/input")
    assert len(loaded) == 1
