"""The contract: every call can say where its time went, and why it was cold."""

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import httpx
import pytest

from e2e.server import Server, quiltfn, until
from spec.api_client import Api, of

pytestmark = pytest.mark.sandbox
PHASES = ["queued", "placed", "specialised", "ran", "recorded"]


def timeline(api: Api, record: dict[str, Any]) -> dict[str, Any]:
    path = f"{of(record['function_id'])}/invocations/{record['invocation_id']}/timeline"
    return api.good("GET", path)


def phases(told: dict[str, Any]) -> dict[str, int]:
    return {one["name"]: one["microseconds"] for one in told["phases"]}


def timing(answer: httpx.Response) -> dict[str, float]:
    """The durations of a Server-Timing header, in milliseconds."""
    metrics = [one.split(";") for one in answer.headers["server-timing"].split(", ")]
    assert all(len(one) == 2 for one in metrics)
    pairs = {name: value.split("=") for name, value in metrics}
    return {name: float(value) for name, (key, value) in pairs.items() if key == "dur"}


def reason(api: Api, function_id: str, payload: str | None = None) -> str | None:
    record = api.invoke(function_id, payload)
    told = timeline(api, record)
    assert told["cold_start"] == record["cold_start"] == (told["cold_reason"] is not None)
    return told["cold_reason"]


def later(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_timeline_has_its_keys_and_adds_up_to_the_time_of_the_call(tenant: Api) -> None:
    function_id = tenant.active("sleep 0.2")
    tenant.invoke(function_id)
    began = time.monotonic()
    answer = tenant("POST", f"{of(function_id)}/invoke", {})
    took_ms = 1000 * (time.monotonic() - began)
    told = timeline(tenant, answer.json())
    assert list(told) == [
        "invocation_id",
        "cold_start",
        "cold_reason",
        "phases",
        "total_microseconds",
    ]
    assert [one["name"] for one in told["phases"]] == PHASES
    parts = phases(told)
    assert told["total_microseconds"] == sum(parts.values())
    assert (told["cold_reason"], parts["placed"], parts["specialised"]) == (None, 0, 0)
    assert 200 <= parts["ran"] / 1000 <= answer.json()["duration_ms"]
    assert told["total_microseconds"] / 1000 <= took_ms
    assert parts["recorded"] > 0


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


def test_a_call_that_runs_still_and_one_that_is_not_there_have_none(tenant: Api) -> None:
    function_id = tenant.active("sleep 0.5")
    call = later(lambda: tenant.invoke(function_id))
    path = f"{of(function_id)}/invocations"
    running = until(lambda: tenant.good("GET", path)["invocations"])[0]
    told = tenant.refused("NOT_FOUND", 404, "GET", f"{path}/{running['invocation_id']}/timeline")
    assert "not ended" in told["error"]
    assert told["hint"]
    call.join()
    assert phases(timeline(tenant, running))["ran"] >= 500_000
    tenant.refused("NOT_FOUND", 404, "GET", f"{path}/{function_id}/timeline")


def test_a_cold_call_says_why(another: Callable[..., Server]) -> None:
    server = another("--idle-s 1 --prewarmed 0").start()
    api = Api(server.url)
    handler = "sleep ${QUILT_PAYLOAD:-0}"
    function_id = api.active(handler, timeout_seconds=2, max_instances=2)
    server.stop()
    server.start()
    api = Api(server.url)
    assert api.pool(function_id)["total_count"] == 0

    answer = api("POST", f"{of(function_id)}/invoke", {})
    told = timeline(api, answer.json())
    parts = phases(told)
    assert told["cold_reason"] == "first"
    assert answer.headers["server-timing"].endswith("cold;desc=first")
    assert parts["placed"] > 1000  # no sandbox is made in a millisecond
    assert parts["specialised"] > 0
    assert reason(api, function_id) is None

    busy = later(lambda: api.invoke(function_id, "1"))
    until(lambda: api.pool(function_id)["busy_count"] == 1)
    time.sleep(0.05)
    assert reason(api, function_id) == "scaled_out"
    busy.join()

    until(lambda: api.pool(function_id)["total_count"] == 0)
    assert reason(api, function_id) == "evicted"

    assert api.invoke(function_id, "9")["status"] == "timeout"
    until(lambda: api.pool(function_id)["total_count"] == 0)
    assert reason(api, function_id) == "replaced"


def test_a_call_that_an_update_made_wait_says_so(tenant: Api) -> None:
    function_id = tenant.active("sleep 0.6", max_instances=1)
    first = later(lambda: tenant.invoke(function_id))
    until(lambda: tenant.pool(function_id)["busy_count"] == 1)
    update = later(lambda: tenant.good("PUT", of(function_id), {"handler": "echo new"}))
    time.sleep(0.1)
    record = tenant.invoke(function_id)
    first.join(), update.join()  # type: ignore[func-returns-value]
    told = timeline(tenant, record)
    assert (record["stdout"], told["cold_reason"]) == ("new\n", "updated")
    assert phases(told)["queued"] > 100_000  # in line behind the first


def test_it_survives_a_kill_and_older_records_have_none(another: Callable[..., Server]) -> None:
    server = another().start()
    api = Api(server.url)
    function_id = api.active()
    old, kept = api.invoke(function_id), api.invoke(function_id)
    before = timeline(api, kept)
    server.kill_server()
    server.wait()
    server.start()
    api = Api(server.url)
    after = timeline(api, kept)
    # What the last write took is known after it, and may go with the server.
    lost = before["total_microseconds"] - after["total_microseconds"]
    assert 0 <= lost <= phases(before)["recorded"]
    assert [one for one in after["phases"] if one["name"] != "recorded"] == [
        one for one in before["phases"] if one["name"] != "recorded"
    ]
    server.stop()
    with closing(sqlite3.connect(server.data_dir / "quiltfn.db")) as database, database:
        database.execute(
            "UPDATE invocation SET timeline = NULL WHERE invocation_id = ?", (old["invocation_id"],)
        )
    server.start()
    path = f"{of(function_id)}/invocations/{old['invocation_id']}/timeline"
    told = Api(server.url).refused("NOT_FOUND", 404, "GET", path)
    assert "no timeline" in told["error"]
    assert told["hint"]


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
