"""The contract: every invocation has a timeline."""

import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from e2e.server import Server, quiltfn, until
from promises import promise
from spec.api_client import Api, of
from spec.conftest import Keyed

pytestmark = pytest.mark.sandbox
PHASES = ["queued", "placed", "specialised", "ran", "recorded"]


def timeline(api: Api, record: dict[str, Any]) -> dict[str, Any]:
    path = f"{of(record['function_id'])}/invocations/{record['invocation_id']}/timeline"
    return api.good("GET", path)


def phases(timing: dict[str, Any]) -> dict[str, int]:
    return {one["name"]: one["microseconds"] for one in timing["phases"]}


def timing(answer: httpx.Response) -> dict[str, float]:
    """The durations of a Server-Timing header, in milliseconds."""
    metrics = [one.split(";") for one in answer.headers["server-timing"].split(", ")]
    assert all(len(one) == 2 for one in metrics)
    pairs = {name: value.split("=") for name, value in metrics}
    return {name: float(value) for name, (key, value) in pairs.items() if key == "dur"}


def later(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.one_server("another node has a cold start of its own")
def test_a_timeline_has_its_keys_and_adds_up_to_the_time_of_the_call(tenant: Api) -> None:
    function_id = tenant.active("sleep 0.2")
    tenant.invoke(function_id)
    began = time.monotonic()
    answer = tenant("POST", f"{of(function_id)}/invoke", {})
    took_ms = 1000 * (time.monotonic() - began)
    timing = timeline(tenant, answer.json())
    assert list(timing) == [
        "invocation_id",
        "cold_start",
        "cold_reason",
        "phases",
        "total_microseconds",
        *("status", "accepted_at_ms", "version", "source", "due_at"),
        *("parent_invocation_id", "parent_function_id", "origin_invocation_id", "children"),
        *("environment_names", "attempts", "has_input", "http_status", "end_cause"),
    ]
    assert [one["name"] for one in timing["phases"]] == PHASES
    parts = phases(timing)
    assert timing["total_microseconds"] == sum(parts.values())
    assert (timing["cold_reason"], parts["placed"], parts["specialised"]) == (None, 0, 0)
    assert 200 <= parts["ran"] / 1000 <= answer.json()["duration_ms"]
    assert timing["total_microseconds"] / 1000 <= took_ms
    assert parts["recorded"] > 0
    assert (timing["status"], timing["version"], timing["source"]) == ("success", 1, "sync")
    assert timing["has_input"] is False
    (attempt,) = timing["attempts"]
    waited_ms = attempt["started_at_ms"] - timing["accepted_at_ms"]
    assert 0 <= waited_ms <= sum(parts[one] for one in PHASES[:3]) / 1000 + 2
    assert attempt["started_at_ms"] // 1000 == answer.json()["started_at"]
    assert attempt["duration_ms"] == answer.json()["duration_ms"]


@promise("A62")
def test_it_names_the_variables_and_tells_no_value(tenant: Api) -> None:
    function_id = tenant.active(environment={"OF_VERSION": "hidden-1"})
    tenant.good("PUT", f"{of(function_id)}/record-policy", {"keep_input": "all"})
    tenant.heard()
    body = {"environment": {"OF_CALL": "hidden-2"}}
    record = tenant.good("POST", f"{of(function_id)}/invoke", body)
    tenant.good("PUT", of(function_id), {"environment": {"LATER": "hidden-3"}})
    timing = timeline(tenant, record)
    assert timing["environment_names"] == ["OF_CALL", "OF_VERSION"]
    assert timing["has_input"] is True
    assert "hidden" not in str(timing)


@promise("A62")
def test_it_tells_every_attempt_and_what_came_of_the_call(tenant: Api) -> None:
    after = tenant.active(name="after-it")
    function_id = tenant.active("exit 3")
    policy = {
        "max_attempts": 2,
        "backoff_seconds": {"first": 0.2, "factor": 1, "most": 1, "jitter": 0},
        "on_failure": {"function": "after-it"},
    }
    tenant.good("PUT", f"{of(function_id)}/async-policy", policy)
    tenant.heard()
    record = tenant.good("POST", f"{of(function_id)}/invoke?mode=async", {}, 202)

    def interrupted() -> dict[str, Any] | None:
        found = timeline(tenant, record)
        return found if found["children"] and found["children"][0]["status"] == "success" else None

    found = until(interrupted)
    assert (found["status"], found["source"]) == ("failed", "async")
    first, second = found["attempts"]
    assert (first["attempt"], second["attempt"]) == (1, 2)
    assert second["started_at_ms"] - first["started_at_ms"] >= 200
    (child,) = found["children"]
    assert (child["function_id"], child["source"]) == (after, "destination")
    told_of_child = timeline(tenant, child)
    assert told_of_child["parent_invocation_id"] == record["invocation_id"]
    assert told_of_child["parent_function_id"] == function_id


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "the-longer-way"}], ids=str)
def test_the_answer_tells_the_same_in_its_header(tenant: Api, headers: dict[str, str]) -> None:
    function_id = tenant.active()
    for path in (f"{of(function_id)}/invoke", "/api/functions/invoke/" + name(tenant, function_id)):
        answer = tenant("POST", path, {}, headers=headers)
        parts = phases(timeline(tenant, answer.json()))
        assert timing(answer) == {one: parts[one] / 1000 for one in PHASES}
        assert list(timing(answer)) == PHASES


def name(api: Api, function_id: str) -> str:
    return api.get(function_id)["name"]


@promise("A62")
def test_a_call_that_runs_tells_what_it_has_taken_so_far(keyed: Keyed, tenant: Api) -> None:
    function_id = tenant.active("sleep 60; :")
    body = {"environment": {"OF_CALL": "hidden"}}
    call = later(lambda: tenant.good("POST", f"{of(function_id)}/invoke", body))
    path = f"{of(function_id)}/invocations"
    running = until(lambda: tenant.good("GET", path)["invocations"])[0]
    first, second = timeline(tenant, running), timeline(tenant, running)
    assert first["status"] == second["status"] == "running"
    assert phases(first)["ran"] < phases(second)["ran"]
    assert phases(first)["recorded"] == 0
    (attempt,) = second["attempts"]
    assert (attempt["status"], attempt["duration_ms"]) == ("running", None)
    assert second["environment_names"] == ["OF_CALL"]
    keyed.server.wake()
    call.join()
    assert phases(timeline(tenant, running))["ran"] >= phases(second)["ran"]
    tenant.refused("NOT_FOUND", 404, "GET", f"{path}/{function_id}/timeline")


@pytest.mark.one_server("another node has a cold start of its own")
def test_the_command_line_tells_it(open_server: Server, anybody: Api) -> None:
    function_id = anybody.active(name="timed")
    done = quiltfn("invoke", "timed", "--timing", "--url", open_server.url)
    assert (done.code, done.stdout) == (0, "hello\n")
    about, *lines = done.stderr.splitlines()
    assert [line.split()[0] for line in lines] == [*PHASES, "total"]
    call = about.split()[-1]
    shown = quiltfn("functions", "timeline", "timed", call, "--url", open_server.url)
    assert [line.split() for line in shown.stdout.splitlines()] == [line.split() for line in lines]
    anybody("DELETE", of(function_id))
