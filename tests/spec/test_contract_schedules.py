"""Schedules over HTTP: permissions, refusals, responses, and runs."""

import time
from typing import Any

import pytest

from e2e.server import until
from promises import promise
from spec.api_client import Api, new_name
from spec.conftest import Keyed

pytestmark = pytest.mark.sandbox
SCHEDULES = "/api/schedules"
SHAPE = [
    *("id", "name", "function", "cron", "every_seconds", "timezone", "payload", "environment"),
    *("overlap", "missed", "jitter_seconds", "enabled", "created_at", "updated_at", "next_runs"),
    *("last_run", "fired_count", "skipped_count", "missed_count", "in_words"),
]
RUN_SHAPE = [
    *("due_at", "outcome", "invocation_id", "status", "reason", "missed", "manual", "decided_at"),
]


@pytest.fixture
def api(tenant: Api) -> Api:
    """The admin of a tenant of the test's own, whose function `job` prints its payload."""
    tenant.active('echo "$QUILT_PAYLOAD $EXTRA"', name="job")
    return tenant


def add(api: Api, status: int = 201, **fields: Any) -> dict[str, Any]:
    body = {"name": "nightly", "function": "job", "cron": "0 3 * * *"} | fields
    return api.good("POST", SCHEDULES, body, status)


def test_a_schedule_is_made_shown_changed_and_deleted(api: Api) -> None:
    made = add(api, timezone="Europe/Paris", payload="p", environment={"EXTRA": "x"})
    assert list(made) == SHAPE
    assert made["overlap"] == "allow"
    assert (made["missed"], made["enabled"], made["last_run"]) == ("skip", True, None)
    assert len(made["next_runs"]) == 5
    assert time.time() < made["next_runs"][0] <= time.time() + 25 * 3600
    assert api.good("GET", f"{SCHEDULES}/nightly") == made
    assert api.good("GET", SCHEDULES) == {"schedules": [made], "next_cursor": None}
    changed = api.good("PUT", f"{SCHEDULES}/nightly", {"every_seconds": 3600, "payload": None})
    assert (changed["cron"], changed["every_seconds"], changed["payload"]) == (None, 3600, None)
    assert changed["environment"] == {"EXTRA": "x"}
    paused = api.good("PUT", f"{SCHEDULES}/nightly", {"enabled": False})
    assert (paused["enabled"], paused["next_runs"]) == (False, [])
    api.good("DELETE", f"{SCHEDULES}/nightly", status=204)
    api.refused("NOT_FOUND", 404, "GET", f"{SCHEDULES}/nightly")
    api.refused("NOT_FOUND", 404, "DELETE", f"{SCHEDULES}/nightly")


MISSPELT = {
    "Paris": "Europe/Paris",
    "europe/paris": "Europe/Paris",
    "Europe/Pariss": "Europe/Paris",
    "new york": "America/New_York",
    "Nowhere/Else": None,
    "/": None,
}


def test_a_misspelt_time_zone_names_the_nearest(api: Api) -> None:
    add(api, name="zoned")
    body = {"name": "more", "function": "job", "cron": "0 3 * * *"}
    for zone, meant in MISSPELT.items():
        for asked in (
            ("POST", SCHEDULES, body | {"timezone": zone}),
            ("PUT", f"{SCHEDULES}/zoned", {"timezone": zone}),
        ):
            refused = api.refused("UNPROCESSABLE_ENTITY", 422, *asked)
            assert refused["hint"] == (f"is it {meant}?" if meant else None), asked


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"cron": "0 3 * *"}, "cron must be an expression of five fields"),
    ({"cron": "0 0 30 2 *"}, "cron"),
    ({"cron": None}, "cron and every_seconds"),
    ({"every_seconds": 5}, "cron and every_seconds"),
    ({"cron": None, "every_seconds": 0}, "every_seconds"),
    ({"timezone": "Europe/Nowhere"}, "timezone"),
    ({"overlap": "never"}, "overlap"),
    ({"missed": "all"}, "missed"),
    ({"jitter_seconds": -1}, "jitter_seconds"),
    ({"name": "a b"}, "name"),
    ({"function": "nobody"}, "function"),
    ({"payload": "x" * 65_537}, "payload"),
    ({"payload": 5}, "payload"),
    ({"environment": {"QUILT_X": "1"}}, "environment"),
    ({"environment": {"A": "***"}}, "environment"),
    ({"enabled": "yes"}, "enabled"),
    ({"when": "now"}, "when"),
]


def test_wrong_fields_are_refused_by_name_and_change_nothing(api: Api) -> None:
    for fields, names in WRONG:
        body = {"name": "nightly", "function": "job", "cron": "0 3 * * *"} | fields
        body = {name: value for name, value in body.items() if value is not None}
        refused = api.refused("UNPROCESSABLE_ENTITY", 422, "POST", SCHEDULES, body)
        assert names in refused["error"], fields
    assert api.good("GET", SCHEDULES)["schedules"] == []
    made = add(api)
    for body in ({}, {"cron": None}, {"cron": "x"}, {"function": "nobody"}, {"name": "other"}):
        api.refused("UNPROCESSABLE_ENTITY", 422, "PUT", f"{SCHEDULES}/nightly", body)
    assert api.good("GET", f"{SCHEDULES}/nightly") == made


@promise("W19")
def test_a_reader_sees_no_secret_and_an_invoker_runs_it(api: Api, keyed: Keyed) -> None:
    name = api.good("GET", "/api/functions/by-name/job")["tenant_id"]
    reader, invoker = keyed.caller(name, "read"), keyed.caller(name, "invoke")
    add(api, payload="secret", environment={"EXTRA": "secret"})
    shown = reader.good("GET", f"{SCHEDULES}/nightly")
    assert (shown["payload"], shown["environment"]) == ("***", {"EXTRA": "***"})
    assert invoker.good("POST", f"{SCHEDULES}/nightly/run", status=202)["status"] == "queued"


def test_a_name_is_taken_once_and_a_repeated_request_is_answered(api: Api) -> None:
    key = {"Idempotency-Key": new_name()}
    body = {"name": "nightly", "function": "job", "cron": "0 3 * * *"}
    first = api.good("POST", SCHEDULES, body, 201, headers=key)
    assert api.good("POST", SCHEDULES, body, 201, headers=key) == first
    api.refused("CONFLICT", 409, "POST", SCHEDULES, body)
    runs = [
        api.good("POST", f"{SCHEDULES}/nightly/run", status=202, headers={"Idempotency-Key": "r"})
        for _ in range(2)
    ]
    assert runs[0]["invocation_id"] == runs[1]["invocation_id"]
    assert len(api.good("GET", f"{SCHEDULES}/nightly/runs")["runs"]) == 1


def test_pages_lead_through_schedules_and_runs(api: Api) -> None:
    for name in "abc":
        add(api, name=name)
        api.good("POST", f"{SCHEDULES}/a/run", status=202)
    for path, field, key in (
        (SCHEDULES, "schedules", "id"),
        (f"{SCHEDULES}/a/runs", "runs", "invocation_id"),
    ):
        first, second = api.pages(f"{path}?limit=2", field)
        assert (len(first), len({one[key] for one in first + second})) == (2, 3)


def test_a_page_ends_where_it_is_long_whoever_reads_it(api: Api, keyed: Keyed) -> None:
    """Schedules can be long, so a page has as many as fit into it, and the next page has the
    rest.
    """
    variables = {f"V{number}": "" for number in range(3000)}
    for number in range(25):
        add(api, name=f"n{number:02}", payload="\x01" * 65_536, environment=variables)
    first, second = api.pages(f"{SCHEDULES}?limit=1000", "schedules")
    assert [one["name"] for one in first + second] == [f"n{number:02}" for number in range(25)]
    name = api.good("GET", "/api/functions/by-name/job")["tenant_id"]
    shown = keyed.caller(name, "read").good("GET", f"{SCHEDULES}?limit=1000")
    assert len(shown["schedules"]) == 25
    assert shown["next_cursor"] is None


def test_a_run_is_a_call_with_the_schedules_input(api: Api) -> None:
    made = add(api, payload="hello", environment={"EXTRA": "there"})
    answer = api("POST", f"{SCHEDULES}/nightly/run")
    assert answer.status_code == 202, answer.text
    queued = answer.json()
    assert answer.headers["location"].endswith(queued["invocation_id"])
    record = until(lambda: ended(api, answer.headers["location"]), 30)
    assert (record["status"], record["stdout"]) == ("success", "hello there\n")
    (run,) = api.good("GET", f"{SCHEDULES}/nightly/runs")["runs"]
    assert list(run) == RUN_SHAPE
    assert run["invocation_id"] == queued["invocation_id"]
    assert (run["outcome"], run["manual"], run["missed"]) == ("accepted", True, 0)
    after = api.good("GET", f"{SCHEDULES}/nightly")
    assert after["next_runs"] == made["next_runs"]
    assert (after["fired_count"], after["last_run"]["invocation_id"]) == (1, run["invocation_id"])


def ended(api: Api, path: str) -> dict[str, Any] | None:
    record = api.good("GET", path)
    return record if record["status"] not in ("queued", "running") else None


def test_a_paused_functions_runs_wait_and_a_deleted_functions_schedules_go(api: Api) -> None:
    function = api.good("GET", "/api/functions/by-name/job")["id"]
    add(api)
    api.good("POST", f"/api/functions/{function}/pause")
    queued = api.good("POST", f"{SCHEDULES}/nightly/run", status=202)
    path = f"/api/functions/{function}/invocations/{queued['invocation_id']}"
    time.sleep(0.5)
    assert api.good("GET", path)["status"] == "queued"
    api.good("POST", f"/api/functions/{function}/resume")
    assert until(lambda: ended(api, path), 30)["status"] == "success"
    api.good("DELETE", f"/api/functions/{function}", status=204)
    api.refused("NOT_FOUND", 404, "GET", f"{SCHEDULES}/nightly")


@promise("W18")
def test_with_overlap_skip_a_time_is_skipped_and_with_queue_it_waits(api: Api) -> None:
    api.active("sleep 3", name="slow")
    add(api, name="skipping", function="slow", cron=None, every_seconds=1, overlap="skip")
    add(api, name="queueing", function="slow", cron=None, every_seconds=1, overlap="queue")
    until(lambda: "skipped" in outcomes(api, "skipping"), 30)
    until(lambda: "waiting" in outcomes(api, "queueing"), 30)
    until(lambda: outcomes(api, "queueing").count("accepted") >= 2, 30)
    for name in ("skipping", "queueing"):
        api.good("DELETE", f"{SCHEDULES}/{name}", status=204)


def outcomes(api: Api, name: str) -> list[str]:
    return [one["outcome"] for one in api.good("GET", f"{SCHEDULES}/{name}/runs")["runs"]]
