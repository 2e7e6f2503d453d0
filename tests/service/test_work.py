"""Asynchronous invocations through the API: accepting, policies, cancelling, waiting."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import msgspec
import pytest

from contract.stores import restart
from promises import promise
from quiltfn.model import delivery, event
from quiltfn.model.errors import StoreUnavailable
from quiltfn.store import SqlIdempotencyStore
from service.faults import silent
from service.platform_harness import open_harness, until
from service.routes import ASYNC, Web, holds, id_of
from timeouts import scaled

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
    web: Web, headers: dict[str, str], query: str
) -> None:
    invoke = f"{await web.function()}/invoke{query}"
    answer = await web.ask(202, "POST", invoke, {"payload": "x"}, headers=headers)
    record, location = answer.json(), answer.headers["location"]
    assert (record["status"], record["invocation_id"]) == ("queued", id_of(location))
    assert answer.headers["preference-applied"] == "respond-async"
    assert (await web.good("GET", location)).keys() == record.keys()


async def test_mode_sync_is_stronger_than_a_preference(web: Web) -> None:
    function = await web.function()
    answer = await web.ask(200, "POST", f"{function}/invoke?mode=sync", {}, headers=ASYNC)
    assert answer.json()["status"] == "success"


async def test_delayed_work_waits_for_its_time(web: Web) -> None:
    function = await web.function()
    await web.submit(function, delay_seconds=60)
    await web.submit(function, not_before=int(web.harness.clock.unix()) + 60)
    assert await web.good("GET", f"{function}/queue") == {
        "function_id": id_of(function),
        "function_name": "f",
        "queued": 0,
        "delayed": 2,
        "running": 0,
        "oldest_age_seconds": None,
        "dead_letters": 0,
    }


async def test_a_function_that_was_never_deployed_takes_no_work(web: Web) -> None:
    entry = await web.harness.create()
    path = f"/api/functions/{entry.function.id}/invoke?mode=async"
    refusal = await web.refused(409, "POST", path, {})
    assert holds(refusal, {"error_code": "FUNCTION_NOT_ACTIVE", "details": {"state": "pending"}})


async def test_a_paused_function_accepts_until_its_bound(web: Web) -> None:
    function = await web.function()
    await web.good("PUT", f"{function}/async-policy", {"max_queued": 2})
    await web.good("POST", f"{function}/pause")
    for _ in range(2):
        await web.submit(function)
    refusal = await web.refused(503, "POST", f"{function}/invoke?mode=async", {})
    assert refusal["error_code"] == "CAPACITY_FULL"
    assert refusal["retry_after"] >= 1
    queue = await web.good("GET", f"{function}/queue")
    assert (queue["queued"], queue["oldest_age_seconds"]) == (2, 0)


@promise("W9")
async def test_a_key_queues_a_call_once(web: Web) -> None:
    function = await web.function()
    await web.good("POST", f"{function}/pause")
    path, headers = f"{function}/invoke", ASYNC | {"Idempotency-Key": "nightly-1"}
    answers = [
        await web.ask(202, "POST", path, {"payload": "x"}, headers=headers) for _ in range(3)
    ]
    assert len({(answer.text, answer.headers["location"]) for answer in answers}) == 1
    assert (await web.good("GET", f"{function}/queue"))["queued"] == 1
    for query, payload in (("", "y"), ("?mode=sync", "x"), ("?delay_seconds=60", "x")):
        body = {"payload": payload}
        refusal = await web.refused(422, "POST", path + query, body, headers=headers)
        assert "another body or query" in refusal["details"]["expected"]


@pytest.mark.parametrize("is_stored", [True, False])
async def test_a_key_of_work_that_may_be_queued_is_not_free_again(
    web: Web, is_stored: bool
) -> None:
    function = await web.function()
    await web.good("POST", f"{function}/pause")
    path, headers = f"{function}/invoke", ASYNC | {"Idempotency-Key": "nightly-1"}
    with silent(web.harness.services.work.store, "accept", is_made=is_stored):
        first = await web.ask(503, "POST", path, {"payload": "x"}, headers=headers)
    assert first.json()["error_code"] == "STORE_UNAVAILABLE"
    await web.ask(202 if is_stored else 503, "POST", path, {"payload": "x"}, headers=headers)
    assert (await web.good("GET", f"{function}/queue"))["queued"] == int(is_stored)


@promise("N90")
async def test_queued_work_runs_without_a_word(web: Web) -> None:
    """The invocation is stored, but the store's response is lost. This server must find the
    invocation by itself: no other server looks for it, and the function may never be invoked again.
    """
    function = await web.function()
    with silent(web.harness.services.work.store, "accept", is_made=True):
        await web.ask(503, "POST", f"{function}/invoke", {"payload": "x"}, headers=ASYNC)
    await until(lambda: web.harness.sandboxes.calls == 1)


async def dies_before_it_answers(web: Web, path: str, body: Any, headers: Any) -> httpx.Response:
    """The response to a repeated request after a restart. The server carried out the first request,
    and was killed before it stored the response.
    """
    idempotency = web.harness.services.idempotency
    with patch.object(SqlIdempotencyStore, "complete", side_effect=StoreUnavailable("killed")):
        await web.ask(503, "POST", path, body, headers=headers)
    idempotency._unstored.clear()
    await restart(web.harness.store)
    await SqlIdempotencyStore(web.harness.store.database).start(b'{"error_code":"SHUTTING_DOWN"}')
    return await web("POST", path, body, headers=headers)


KEYED = {"Idempotency-Key": "k"}


@promise("W9")
@pytest.mark.parametrize("how", ["by id", "by name", "replay", "schedule"])
async def test_a_key_outlives_a_kill(web: Web, how: str) -> None:
    function = await web.function()
    await web.good("PUT", f"{function}/record-policy", {"keep_input": "all"})
    origin = await web.submit(function, "x")
    await web.ended(origin)
    schedule = {"name": "s", "function": "f", "every_seconds": 3600, "enabled": False}
    await web.good("POST", "/api/schedules", schedule)
    await web.good("POST", f"{function}/pause")
    path, body = {
        "by id": (f"{function}/invoke", {"payload": "x"}),
        "by name": ("/api/functions/invoke/f", {"payload": "x"}),
        "replay": (f"{origin}/replay", {"mode": "async"}),
        "schedule": ("/api/schedules/s/run", None),
    }[how]
    headers = KEYED | (ASYNC if how.startswith("by") else {})
    again = await dies_before_it_answers(web, path, body, headers)
    assert (again.status_code, again.headers["idempotency-replayed"]) == (202, "true")
    (queued,) = (await web.good("GET", f"{function}/invocations?status=queued"))["invocations"]
    assert again.json()["invocation_id"] == queued["invocation_id"]
    assert again.headers["location"].endswith(queued["invocation_id"])


@promise("W9")
async def test_a_key_names_a_call_without_answer(web: Web) -> None:
    function = await web.function()
    again = await dies_before_it_answers(web, f"{function}/invoke", {}, KEYED)
    assert (again.status_code, again.json()) == (503, {"error_code": "SHUTTING_DOWN"})
    assert again.headers["x-invocation-id"] == (await web.newest(function))["invocation_id"]


async def test_a_key_of_work_that_was_not_accepted_is_not_said_to_be(web: Web) -> None:
    error = StoreUnavailable("killed")
    error.executed = True
    function = await web.function()
    with patch.object(web.harness.services.work.store, "accept", side_effect=error):
        again = await dies_before_it_answers(web, f"{function}/invoke", {}, KEYED | ASYNC)
    assert (again.status_code, "location" in again.headers) == (503, False)
    assert (await web.good("GET", f"{function}/invocations"))["invocations"] == []


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


async def test_a_policy_is_set_as_a_whole_and_taken_back(web: Web) -> None:
    policy = f"{await web.function()}/async-policy"
    await web.function(name="other")
    assert await web.good("GET", policy) == DEFAULT
    url = {"url": "https://example.com/x", "secret": SECRET}
    for changes in (
        {"max_attempts": 3, "on_failure": {"function": "other"}, "on_success": url},
        {"max_attempts": 2},
    ):
        assert await web.good("PUT", policy, changes) == DEFAULT | changes
        assert await web.good("GET", policy) == DEFAULT | changes
    await web.ask(204, "DELETE", policy)
    assert await web.good("GET", policy) == DEFAULT


# Cancelling ----------------------------------------------------------------------------------


async def test_work_that_waits_is_cancelled_at_once_and_never_again(web: Web) -> None:
    function = await web.function()
    await web.good("POST", f"{function}/pause")
    call = await web.submit(function)
    cancelled = await web.good("POST", f"{call}/cancel")
    assert (cancelled["status"], cancelled["started_at"]) == ("cancelled", None)
    assert await web.good("GET", call) == cancelled
    assert (await web.good("GET", f"{function}/queue"))["queued"] == 0
    refusal = await web.refused(409, "POST", f"{call}/cancel")
    assert holds(refusal, {"error_code": "CONFLICT", "details": {"state": "cancelled"}})
    shown = await web.good("GET", function)
    assert (shown["invocation_count"], shown["error_count"]) == (1, 1)


@promise("W6")
async def test_cancelled_on_disk_first(web: Web) -> None:
    entry = await web.harness.active("sleep 60")
    call = await web.harness.running(entry)
    (invocation_id,) = web.harness.invoker._calls
    journal, may_sync = web.harness.journal, asyncio.Event()
    commit = journal._commit_now

    async def commit_later() -> None:
        await may_sync.wait()
        await commit()

    with patch.object(journal, "_commit_now", lambda: asyncio.ensure_future(commit_later())):
        path = f"/api/functions/{entry.function.id}/invocations/{invocation_id}/cancel"
        cancelling = asyncio.ensure_future(web.good("POST", path))
        assert (await call).status == "cancelled"
        await asyncio.sleep(0.02)
        assert not cancelling.done()
        may_sync.set()
        assert (await cancelling)["status"] == "cancelled"


async def test_nothing_is_done_to_calls_that_there_are_not(web: Web) -> None:
    function = await web.function()
    other = await web.submit(await web.function(name="other"), delay_seconds=60)
    for invocation_id in ("nobody", id_of(other)):
        path = f"{function}/invocations/{invocation_id}"
        await web.ask(404, "POST", f"{path}/cancel")
        await web.ask(404, "GET", f"{path}/attempts")
        await web.ask(404, "GET", f"{path}/input")
        await web.ask(404, "POST", f"{path}/replay", {})
        await web.ask(404, "GET", f"{path}?wait_seconds=1")
        await web.ask(404, "DELETE", f"{function}/dead-letters/{invocation_id}")


# Waiting -------------------------------------------------------------------------------------


@promise("W7")
async def test_who_waits_for_a_call_is_woken_by_its_end(web: Web) -> None:
    function = await web.function("sleep 1000")
    entry = web.harness.catalog.get(id_of(function))
    call = await web.harness.running(entry)
    (running,) = await web.harness.records(entry)
    path = f"{function}/invocations/{running.invocation_id}"
    waiting = asyncio.ensure_future(web.good("GET", f"{path}?wait_seconds=60"))
    waiters = web.harness.services.work.waiters
    await until(lambda: waiters._events)
    assert not waiting.done()
    assert (await web.good("POST", f"{path}/cancel"))["status"] == "cancelled"
    async with asyncio.timeout(scaled(5)):
        assert (await waiting)["status"] == "cancelled"
    assert (await call).status == "cancelled"
    assert not waiters._events, "nobody is remembered who waits no longer"
    await web.ask(409, "POST", f"{path}/cancel")


@promise("W7")
async def test_a_wait_ends_with_its_time(web: Web) -> None:
    call = await web.submit(await web.function(), delay_seconds=60)
    assert (await web.good("GET", f"{call}?wait_seconds=1"))["status"] == "queued"
    for wrong in ("61", "-1", "x"):
        refusal = await web.refused(422, "GET", f"{call}?wait_seconds={wrong}")
        assert refusal["error"].startswith("wait_seconds must be a whole number between 0 and 60")


@promise("W7")
async def test_nobody_keeps_waiting_while_the_server_ends(web: Web) -> None:
    call = await web.submit(await web.function(), delay_seconds=60)
    waiting = asyncio.ensure_future(web.good("GET", f"{call}?wait_seconds=60"))
    waiters = web.harness.services.work.waiters
    await until(lambda: waiters._events)
    waiters.release()
    async with asyncio.timeout(scaled(5)):
        assert (await waiting)["status"] == "queued"


# Inputs, replay, attempts --------------------------------------------------------------------


async def test_the_input_of_accepted_work_is_kept(web: Web) -> None:
    call = await web.submit(await web.function(), "hello", delay_seconds=60)
    assert await web.good("GET", f"{call}/input") == {
        "payload": "hello",
        "environment": None,
        "version": None,
        "source": "async",
        "caller": "open",
        "parent_invocation_id": None,
    }


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_the_input_of_an_ended_call_is_kept_where_the_policy_says_so(
    web: Web, mode: str
) -> None:
    function = await web.function()
    for policy in ("async", "all", "none"):
        await web.good("PUT", f"{function}/record-policy", {"keep_input": policy})
        body = {"payload": "hello"}
        record = await web.good("POST", f"{function}/invoke?mode={mode}", body)
        call = f"{function}/invocations/{record['invocation_id']}"
        assert (await web.ended(call))["stdout"] == "hello"
        await web.harness.journal.synced()
        await web.ask(200 if policy in ("all", mode) else 404, "GET", f"{call}/input")


@promise("W8")
async def test_a_call_is_replayed_on_the_version_that_is_named(web: Web) -> None:
    function = await web.function("echo one")
    await web.good("PUT", f"{function}/record-policy", {"keep_input": "all"})
    ended = await web.good("POST", f"{function}/invoke", {"payload": "x"})
    await web.good("PUT", function, {"handler": "echo two"})
    path = f"{function}/invocations/{ended['invocation_id']}/replay"
    again = await web.good("POST", path)
    assert (again["status"], again["stdout"]) == ("success", "two\n")
    assert again["invocation_id"] != ended["invocation_id"]
    old = await web.good("POST", path, {"version": 1})
    assert (old["status"], old["stdout"]) == ("success", "one\n")
    await web.ask(404, "POST", path, {"version": 3})
    kept = await web.good("GET", f"{function}/invocations/{old['invocation_id']}/input")
    assert (kept["source"], kept["version"]) == ("replay", 1)
    records = await web.harness.records(web.harness.catalog.get(id_of(function)))
    assert {record.origin_invocation_id for record in records} == {None, ended["invocation_id"]}


async def test_a_synchronous_call_has_one_attempt(web: Web) -> None:
    function = await web.function("exit 3")
    ended = await web.good("POST", f"{function}/invoke", {})
    found = await web.good("GET", f"{function}/invocations/{ended['invocation_id']}/attempts")
    times = {name: ended[name] for name in ("started_at", "ended_at")}
    expected = {"attempt": 1, "status": "failed", "exit_code": 3, "version": 1, **times}
    assert holds(found["attempts"], [expected])


# Running -------------------------------------------------------------------------------------

AT_ONCE = {"first": 0, "jitter": 0}


async def test_accepted_work_is_run_and_its_record_is_as_any_other(web: Web) -> None:
    function = await web.function()
    call = await web.submit(function, "hello")
    ended = await web.ended(call)
    assert (ended["status"], ended["stdout"]) == ("success", "hello")
    found = await web.good("GET", f"{call}/attempts")
    assert holds(found["attempts"], [{"attempt": 1, "status": "success", "version": 1}])
    shown = await web.good("GET", function)
    assert (shown["invocation_count"], shown["error_count"]) == (1, 0)


@promise("A90")
async def test_whatever_shows_an_invocation_has_its_cause_but_the_record(web: Web) -> None:
    function = await web.function("exit 3")
    policy = {"max_attempts": 2, "backoff_seconds": AT_ONCE}
    await web.good("PUT", f"{function}/async-policy", policy)
    call = await web.submit(function)
    ended = await web.ended(call)
    assert ended["error_message"] == "the handler exited with code 3"
    assert "end_cause" not in ended
    cause = {"cause": "exit", "code": 3, "message": None}
    (listed,) = (await web.good("GET", "/api/invocations"))["invocations"]
    (letter,) = (await web.good("GET", f"{function}/dead-letters"))["dead_letters"]
    attempts = (await web.good("GET", f"{call}/attempts"))["attempts"]
    found = [await web.good("GET", f"{call}/timeline"), listed, letter, *attempts]
    assert [shown["end_cause"] for shown in found] == [cause] * 5
    kept = await web.harness.journal.get(id_of(function), id_of(call))
    assert kept is not None
    assert event.told_of_end(kept)["end_cause"] == cause
    assert msgspec.json.decode(delivery.body_of(kept))["data"]["end_cause"] == cause
    await web.good("POST", f"{function}/pause")
    waits = await web.submit(function)
    await web.good("POST", f"{waits}/cancel")
    by = (await web.good("GET", f"{waits}/timeline"))["end_cause"]
    assert by == {"cause": "cancelled", "by": "request_before_start", "message": None}


@promise("W4")
async def test_all_dead_letters_are_queued_again_and_one_can_be_dropped(web: Web) -> None:
    function = await web.function("exit 3")
    calls = [await web.submit(function, str(number)) for number in range(5)]
    for call in calls:
        await web.ended(call)
    letters = f"{function}/dead-letters"
    page = await web.good("GET", f"{letters}?limit=2")
    assert len(page["dead_letters"]) == 2
    rest = await web.good("GET", f"{letters}?cursor={page['next_cursor']}")
    listed = [letter["invocation_id"] for letter in page["dead_letters"] + rest["dead_letters"]]
    assert listed == [id_of(call) for call in reversed(calls)]
    await web.ask(204, "DELETE", f"{letters}/{listed[0]}")
    await web.ask(404, "DELETE", f"{letters}/{listed[0]}")
    assert (await web.good("GET", calls[-1]))["status"] == "failed"
    await web.good("PUT", function, {"handler": "cat"})
    done = await web.good("POST", f"{letters}/redrive", {"all": True})
    assert (done["redriven"], done["remaining"]) == (4, 0)
    ended = [await web.ended(f"{function}/invocations/{call}") for call in done["invocation_ids"]]
    assert {record["stdout"] for record in ended} == {"0", "1", "2", "3"}


@promise("W10")
async def test_a_redrive_looks_at_no_call_of_another_function(web: Web) -> None:
    other = await web.function("exit 3", "other", timeout_seconds=77)
    body = {"timeout_seconds": 66}
    theirs = await web.good("POST", f"{other}/invoke", body, headers=ASYNC)
    await web.ended(f"{other}/invocations/{theirs['invocation_id']}")
    redrive = f"{await web.function(timeout_seconds=5)}/dead-letters/redrive"
    done = await web.good("POST", redrive, {"invocation_ids": [theirs["invocation_id"]]})
    assert (done["redriven"], done["invocation_ids"]) == (0, [])
    assert (await web.good("GET", f"{other}/queue"))["dead_letters"] == 1


async def test_redrives_hold_few_inputs(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    function = await web.function("exit 3")
    for _ in range(6):
        await web.ended(await web.submit(function, "x" * 1000))
    monkeypatch.setattr("quiltfn.calls.work.REDRIVEN_BYTES", 1500)
    store = web.harness.services.work.store
    with patch.object(store, "redrive", wraps=store.redrive) as redrive:
        done = await web.good("POST", f"{function}/dead-letters/redrive", {"all": True})
    assert done["redriven"] == 6
    for (_, again), _ in redrive.call_args_list:
        assert sum(work.input.size_bytes for _, work in again) < 1500 + 1100


@promise("W6")
async def test_work_that_waits_for_its_next_attempt_can_be_cancelled(web: Web) -> None:
    """Between two attempts, the invocation is neither running nor ready to be claimed."""
    function = await web.function("exit 1")
    policy = {"max_attempts": 2, "backoff_seconds": {"first": 60, "jitter": 0}}
    await web.good("PUT", f"{function}/async-policy", policy)
    call = await web.submit(function)
    await until(lambda: web.harness.sandboxes.calls)
    for _ in range(50):
        await asyncio.sleep(0)
    assert (await web.good("POST", f"{call}/cancel"))["status"] == "cancelled"
    assert (await web.good("GET", call))["status"] == "cancelled"
    assert (await web.good("GET", f"{function}/queue"))["delayed"] == 0


@promise("W2")
async def test_what_a_paused_function_accepted_runs_after_resume_and_a_restart(
    tmp_path: Path,
) -> None:
    async with open_harness(tmp_path) as harness:
        web = Web(harness)
        function = await web.function()
        await web.good("PUT", f"{function}/async-policy", {"max_attempts": 4})
        await web.good("PUT", f"{function}/record-policy", {"keep_input": "all"})
        await web.good("POST", f"{function}/pause")
        calls = [await web.submit(function, str(number)) for number in range(3)]
    async with open_harness(tmp_path) as harness:
        web = Web(harness)
        assert (await web.good("GET", f"{function}/async-policy"))["max_attempts"] == 4
        assert await web.good("GET", f"{function}/record-policy") == {"keep_input": "all"}
        assert (await web.good("GET", f"{function}/queue"))["queued"] == 3
        await web.good("POST", f"{function}/resume")
        assert [(await web.ended(call))["stdout"] for call in calls] == ["0", "1", "2"]
        assert harness.sandboxes.calls == 3


@promise("W11")
async def test_attempts_have_the_memory_for_long_output_that_calls_have(web: Web) -> None:
    path = await web.submit(await web.function("sleep 1000"))
    outputs, calls = web.harness.services.budgets.outputs, web.harness.services.invoker._calls
    await until(lambda: calls)
    (call,) = calls.values()
    assert call.request.long_output is not None
    assert call.request.long_output.take(3 * 1024 * 1024, lambda: None)
    assert not outputs.is_unused
    await web.good("POST", f"{path}/cancel")
    await until(lambda: outputs.is_unused)


@promise("A42")
async def test_a_tenant_has_so_many_requests_that_wait_for_ends(web: Web) -> None:
    call = await web.submit(await web.function("sleep 1000"))
    waits = web.harness.services.budgets.waits
    waits.of_tenant = 1
    first = asyncio.ensure_future(web.good("GET", f"{call}?wait_seconds=60"))
    await until(lambda: waits.open == 1)
    refusal = await web.refused(429, "GET", f"{call}?wait_seconds=60")
    limit = "the tenant has 1 requests that wait for the end of a call, its limit"
    assert refusal["error"] == limit
    assert (await web.good("GET", call))["status"] in ("queued", "running")
    await web.good("POST", f"{call}/cancel")
    assert (await first)["status"] == "cancelled"
    assert waits.open == 0


@promise("W8")
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_what_is_replayed_counts_as_a_body_that_was_sent(web: Web, mode: str) -> None:
    call = await web.submit(await web.function(), "x" * 100_000)
    await web.ended(call)
    bodies = web.harness.services.budgets.bodies
    room = 32 * 1024 * 1024 - 50_000
    bodies.reserve(room, "default", is_call=True)
    refusal = await web.refused(429, "POST", f"{call}/replay", {"mode": mode})
    assert refusal["error_code"] == "RATE_LIMITED"
    bodies.release(room, "default")
    await web.good("POST", f"{call}/replay", {"mode": mode})
    assert bodies.held == 0


# Loading of records --------------------------------------------------------------------------


@promise("A67")
async def test_output_is_loaded_for_answers_only(web: Web) -> None:
    """Only a response with the output may load it, since a record may have megabytes of output."""
    call = await web.submit(await web.function("echo hello"))
    await web.ended(call)
    journal = web.harness.journal
    with patch.object(journal, "get", wraps=journal.get) as get:
        assert (await web.good("GET", f"{call}?wait_seconds=5"))["stdout"] == "hello\n"
        assert get.call_count == 1
        await web.ask(409, "POST", f"{call}/cancel")
        assert len((await web.good("GET", f"{call}/attempts"))["attempts"]) == 1
        assert (await web.good("GET", f"{call}/timeline"))["status"] == "success"
        await web.good("GET", f"{call}/input")
        assert get.call_count == 1
