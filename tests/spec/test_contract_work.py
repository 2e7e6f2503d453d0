"""The contract, "Accepted work": each row of its table on a real server with real sandboxes."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from e2e.server import until
from promises import promise
from spec.api_client import Api, is_error, new_name, of
from spec.conftest import Keyed
from timeouts import scaled

pytestmark = pytest.mark.sandbox
ASYNC = {"Prefer": "respond-async"}
AT_ONCE = {"first": 0, "jitter": 0}
RECORD = [
    *("invocation_id", "function_id", "function_name", "execution_node_id", "status"),
    *("started_at", "ended_at", "duration_ms", "exit_code", "stdout", "stderr"),
    *("error_message", "cold_start"),
]
ATTEMPT = [
    *("attempt", "status", "started_at", "ended_at", "duration_ms", "exit_code"),
    *("error_message", "execution_node_id", "cold_start", "version", "stdout", "stderr"),
    "end_cause",
]


def submit(api: Api, function_id: str, payload: str | None = None, query: str = "") -> Any:
    path = f"{of(function_id)}/invoke{query}"
    return api.good("POST", path, {"payload": payload}, 202, headers=ASYNC)


def call(function_id: str, record: dict[str, Any], more: str = "") -> str:
    return f"{of(function_id)}/invocations/{record['invocation_id']}{more}"


def ended(api: Api, function_id: str, record: dict[str, Any]) -> Any:
    return api.good("GET", call(function_id, record, "?wait_seconds=30"))


@promise("W1")
@pytest.mark.one_server("a node hears of calls that others counted within 5 s")
def test_an_accepted_call_is_202_then_runs_and_is_a_record_like_any_other(tenant: Api) -> None:
    function_id = tenant.active("cat")
    answer = tenant("POST", f"{of(function_id)}/invoke", {"payload": "hello"}, headers=ASYNC)
    assert answer.status_code == 202
    record = answer.json()
    assert (list(record), record["status"]) == (RECORD, "queued")
    assert answer.headers["location"] == call(function_id, record)
    assert answer.headers["preference-applied"] == "respond-async"
    end = ended(tenant, function_id, record)
    assert (list(end), end["status"], end["stdout"]) == (RECORD, "success", "hello")
    by_name = tenant.get(function_id)["name"]
    other = tenant.good("POST", f"/api/functions/invoke/{by_name}?mode=async", {}, 202)
    assert ended(tenant, function_id, other)["status"] == "success"
    assert tenant.get(function_id)["invocation_count"] == 2
    listed = tenant.good("GET", f"{of(function_id)}/invocations")["invocations"]
    assert [one["invocation_id"] for one in listed] == [
        other["invocation_id"],
        record["invocation_id"],
    ]


@promise("W4", "W27")
def test_a_failing_call_is_tried_again_and_then_is_a_dead_letter(tenant: Api) -> None:
    function_id = tenant.active('echo "$QUILT_INVOCATION_ID"; exit 3')
    policy = {"max_attempts": 3, "backoff_seconds": AT_ONCE}
    set_to = tenant.good("PUT", f"{of(function_id)}/async-policy", policy)
    assert set_to == tenant.good("GET", f"{of(function_id)}/async-policy")
    record = submit(tenant, function_id, "x")
    end = ended(tenant, function_id, record)
    assert (end["status"], end["exit_code"], end["attempt"]) == ("failed", 3, 3)
    assert list(end) == [*RECORD, "attempt"], "an invocation with one attempt has no such field"
    assert end["stdout"].strip() == record["invocation_id"], "it is the same in every attempt"
    attempts = tenant.good("GET", call(function_id, record, "/attempts"))["attempts"]
    assert [one["attempt"] for one in attempts] == [1, 2, 3]
    assert all(list(one) == ATTEMPT for one in attempts)
    assert {one["exit_code"] for one in attempts} == {3}
    assert {one["stdout"].strip() for one in attempts} == {record["invocation_id"]}
    assert [one["stderr"] for one in attempts] == [""] * 3
    (letter,) = tenant.good("GET", f"{of(function_id)}/dead-letters")["dead_letters"]
    assert (letter["reason"], letter["attempts"]) == ("attempts", 3)
    tenant.good("PUT", of(function_id), {"handler": "cat"})
    done = tenant.good("POST", f"{of(function_id)}/dead-letters/redrive", {"all": True})
    assert (done["redriven"], done["remaining"]) == (1, 0)
    again = {"invocation_id": done["invocation_ids"][0]}
    assert ended(tenant, function_id, again)["stdout"] == "x"


@promise("W5")
@pytest.mark.one_server("a node hears of calls that others counted within 5 s")
def test_two_hundred_calls_that_fail_one_time_in_ten_all_succeed(tenant: Api) -> None:
    chance = '[ "$(od -An -N1 -tu1 /dev/urandom)" -ge 26 ] && printf %s "$QUILT_PAYLOAD"'
    function_id = tenant.active(chance, max_instances=4)
    policy = {"max_attempts": 8, "backoff_seconds": {"first": 0.01, "most": 0.1}}
    tenant.good("PUT", f"{of(function_id)}/async-policy", policy)
    with ThreadPoolExecutor(8) as threads:
        records = list(threads.map(lambda n: submit(tenant, function_id, str(n)), range(200)))
        ends = list(threads.map(lambda record: ended(tenant, function_id, record), records))
    assert {one["status"] for one in ends} == {"success"}
    assert {one["stdout"] for one in ends} == {str(number) for number in range(200)}
    shown = tenant.get(function_id)
    assert (shown["invocation_count"], shown["error_count"]) == (200, 0)


@promise("W6")
def test_cancel_ends_what_waits_at_once_and_what_runs_within_a_second(tenant: Api) -> None:
    function_id = tenant.active("sleep 60 & sleep 60")
    delayed = submit(tenant, function_id, query="?delay_seconds=600")
    waiting = tenant.good("POST", call(function_id, delayed, "/cancel"))
    assert (waiting["status"], waiting["started_at"]) == ("cancelled", None)
    running = submit(tenant, function_id)
    until_running(tenant, function_id, running)
    began = time.monotonic()
    assert tenant.good("POST", call(function_id, running, "/cancel"))["status"] == "cancelled"
    assert time.monotonic() - began < scaled(1.5)
    for record in (delayed, running):
        tenant.refused("CONFLICT", 409, "POST", call(function_id, record, "/cancel"))


def until_running(api: Api, function_id: str, record: dict[str, Any]) -> None:
    until(lambda: api.good("GET", call(function_id, record))["status"] == "running")


def ended_of(owner: Api, function_id: str) -> list[Any]:
    found = owner.good("GET", f"{of(function_id)}/invocations")["invocations"]
    return [one for one in found if one["status"] == "success"]


def has_all(listed: Callable[[str], set[str]], expected: set[str]) -> bool:
    return listed("") == expected


@promise("A83")
def test_one_request_lists_what_all_functions_of_a_tenant_have(keyed: Keyed) -> None:
    name = new_name()
    owner, stranger = keyed.caller(name, "write"), keyed.caller(new_name(), "admin")
    target, label = new_name(), new_name()
    target_id = owner.active(name=target)
    made = [owner.active("exit 3", cluster_id=one) for one in (label, None)]
    for function in made:
        policy = {"on_failure": {"function": target}}
        owner.good("PUT", f"{of(function)}/async-policy", policy)
        ended(owner, function, submit(owner, function))
    # Until the target's invocations have ended, they are in its queue, and so for a moment in one
    # of the lists.
    until(lambda: len(ended_of(owner, target_id)) == len(made), scaled(10))
    lists = {"queues": "queues", "dead-letters": "dead_letters", "deliveries": "deliveries"}
    for path, field in lists.items():

        def listed(query: str, *, path: str = path, field: str = field, by: Api = owner) -> Any:
            found = by.good("GET", f"/api/{path}{query}")[field]
            assert all(one["function_name"] for one in found)
            return {one["function_id"] for one in found}

        until(partial(has_all, listed, set(made)), scaled(10))
        assert listed(f"?function_id={made[1]}") == {made[1]}
        assert listed(f"?cluster_id={label}") == {made[0]}
        assert listed(f"?cluster_id={label}&function_id={made[1]}") == set()
        assert listed("?cluster_id=nobody") == set()
        assert listed("", by=stranger) == set()
        pages = owner.pages(f"/api/{path}?limit=1", field)
        assert {one["function_id"] for (one,) in pages} == set(made)
        stranger.refused("NOT_FOUND", 404, "GET", f"/api/{path}?function_id={made[0]}")


def test_who_waits_for_a_call_is_told_nothing_once_the_key_is_revoked(keyed: Keyed) -> None:
    name = new_name()
    owner, made = keyed.caller(name), keyed.key(name, "read")
    function_id = owner.active("sleep 4; echo secret")
    record = submit(owner, function_id)
    with ThreadPoolExecutor(1) as thread:
        reader = Api(keyed.server.url, made["key"])
        waits = thread.submit(reader, "GET", call(function_id, record) + "?wait_seconds=30")
        time.sleep(1)
        assert not waits.done()
        keyed.operator.good("DELETE", f"/api/keys/{made['id']}", status=204)
        is_error(waits.result(), "UNAUTHORIZED", 401)
    assert "secret" not in waits.result().text


@promise("A82")
def test_a_long_result_reaches_a_function_whole(tenant: Api) -> None:
    name = new_name()
    taker = tenant.active("tr -dc x | wc -c", name=name)
    function_id = tenant.active("head -c 671000 /dev/zero | tr '\\0' x")
    tenant.good("PUT", f"{of(function_id)}/async-policy", {"on_success": {"function": name}})
    ended(tenant, function_id, submit(tenant, function_id))
    deliveries = f"{of(function_id)}/deliveries"
    until(lambda: tenant.good("GET", f"{deliveries}?status=delivered")["deliveries"], scaled(10))
    (delivery,) = tenant.good("GET", deliveries)["deliveries"]
    record = ended(tenant, taker, {"invocation_id": delivery["delivery_id"]})
    assert int(record["stdout"]) >= 671_000


@promise("W10")
def test_the_secret_of_a_destination_is_shown_to_those_who_may_write(keyed: Keyed) -> None:
    name = new_name()
    owner = keyed.caller(name, "write")
    function_id = owner.active()
    url = {"url": "https://example.com/x", "secret": "whsec_" + "c2Vj" * 8}
    owner.good("PUT", f"{of(function_id)}/async-policy", {"on_failure": url})
    assert owner.good("GET", f"{of(function_id)}/async-policy")["on_failure"] == url
    shown = keyed.caller(name, "invoke").good("GET", f"{of(function_id)}/async-policy")
    assert shown["on_failure"] == {"url": "https://example.com/***", "secret": "***"}
