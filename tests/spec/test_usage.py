"""Statistics, usage and quotas on a real server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from e2e.server import Server, until, watched
from promises import promise
from spec.api_client import Api, is_error, make_key, new_name, of
from spec.conftest import Keyed

pytestmark = [pytest.mark.sandbox, promise("A71")]
SCOPED = ("read", "admin")
STATS, USAGE = "/api/functions/stats", "/api/usage"
BURN = "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done"


def stats_of(api: Api, function_id: str, calls: int) -> dict[str, Any]:
    """The function's statistics in the list, once they count this many invocations."""

    def found() -> dict[str, Any] | None:
        shown = api.good("GET", f"{STATS}?window=600")["functions"]
        mine = [one for one in shown if one["function_id"] == function_id]
        return mine[0] if mine and mine[0]["calls"] == calls else None

    return until(found)


def test_calls_are_in_stats_series_and_usage(tenant: Api) -> None:
    good, bad = tenant.active(), tenant.active("exit 3")
    for function, count in ((good, 3), (bad, 2)):
        for _ in range(count):
            tenant.invoke(function)
    stats = stats_of(tenant, good, 3)
    assert (stats["errors"], stats["cold_starts"] <= Api.nodes) == (0, True)
    assert 0 < stats["p50_ms"] <= stats["p99_ms"]
    assert stats_of(tenant, bad, 2)["errors"] == 2

    series = tenant.good("GET", f"{of(bad)}/series?step=10")
    assert series["function_id"] == bad
    assert series["step_seconds"] == 10
    assert sum(one["statuses"]["failed"] for one in series["points"]) == 2
    assert all(series["start"] <= one["start"] < series["end"] for one in series["points"])
    assert all(one["start"] % 10 == 0 for one in series["points"])

    usage = tenant.good("GET", f"{USAGE}?step=hour&by=function")
    by_function = {one["function_id"]: one for one in usage["rows"]}
    assert by_function[good]["statuses"] == {"success": 3}
    assert by_function[good]["function_name"] == tenant.get(good)["name"]
    assert by_function[good]["gb_seconds"] > 0
    assert usage["total"]["calls"] == 5
    assert usage["total"]["statuses"] == {"success": 3, "failed": 2}
    whole = tenant.good("GET", f"{USAGE}?step=day")
    assert [one["function_id"] for one in whole["rows"]] == [None]
    assert whole["rows"][0]["calls"] == 5
    at_once = tenant.good("GET", f"{USAGE}?step=all&by=function")
    used = {one["function_id"]: (one["start"], one["calls"]) for one in at_once["rows"]}
    assert used == {good: (at_once["start"], 3), bad: (at_once["start"], 2)}
    assert at_once["start"] % 3600 == 0
    (all_of_it,) = tenant.good("GET", f"{USAGE}?step=all")["rows"]
    assert (all_of_it["function_id"], all_of_it["calls"]) == (None, 5)


def test_usage_outlives_the_function_and_no_other_tenant_sees_it(tenant: Api, keyed: Keyed) -> None:
    function_id = tenant.active()
    tenant.invoke(function_id)
    stats_of(tenant, function_id, 1)
    other = keyed.caller(new_name())
    assert other.good("GET", STATS)["functions"] == []
    assert other.good("GET", USAGE)["rows"] == []
    is_error(other("GET", f"{of(function_id)}/series"), "NOT_FOUND", 404)
    tenant.good("DELETE", of(function_id), status=204)
    assert tenant.good("GET", STATS)["functions"] == []
    (row,) = tenant.good("GET", f"{USAGE}?by=function")["rows"]
    assert (row["function_id"], row["function_name"], row["calls"]) == (function_id, None, 1)


def test_stats_come_in_pages_that_lead_to_the_next(tenant: Api) -> None:
    functions = [tenant.active() for _ in range(3)]
    for function in functions:
        tenant.invoke(function)
        stats_of(tenant, function, 1)
    pages = tenant.pages(f"{STATS}?window=600&limit=2", "functions")
    assert [one["function_id"] for page in pages for one in page] == functions


def test_queued_work_counts(tenant: Api) -> None:
    function_id = tenant.active()
    queued = tenant.good("POST", f"{of(function_id)}/invoke?mode=async", {}, 202)
    path = f"{of(function_id)}/invocations/{queued['invocation_id']}?wait_seconds=20"
    assert tenant.good("GET", path)["status"] == "success"
    stats_of(tenant, function_id, 1)
    assert tenant.good("GET", USAGE)["total"]["queued"] == 1


def test_a_step_is_chosen_by_what_is_kept_and_by_the_number_of_points(tenant: Api) -> None:
    path, now = f"{of(tenant.create())}/series", int(time.time())
    hour, day = 3600, 86_400
    spans = {hour: 10, 6 * hour: 60, 7 * day: 300, 90 * day: 3600}
    steps = [
        tenant.good("GET", f"{path}?from={now - age}&to={now}")["step_seconds"] for age in spans
    ]
    assert steps == list(spans.values())


@pytest.fixture(scope="module")
def acme() -> Iterator[tuple[Server, Api, Api]]:
    """A server of this module, with an operator and a tenant."""
    with watched("--prewarmed 0") as server:
        operator = make_key(server, "--tenant", "default", "--scope", "operator")["key"]
        key = make_key(server, "--tenant", "acme", "--scope", "write")["key"]
        server.start()
        yield server, Api(server.url, operator), Api(server.url, key)


def test_processor_time_is_measured(acme: tuple[Server, Api, Api]) -> None:
    """The CPU time includes what the handler's shell reports, and the time for start and cleanup. A
    sleeping handler only has the latter.
    """
    server, operator, _ = acme
    key = operator.good("POST", "/api/keys", {"tenant": "burner", "scope": "write"}, 201)["key"]
    api = Api(server.url, key)
    burning, sleeping = api.active(f"{BURN}; times"), api.active("sleep 1")
    own = own_seconds(api.invoke(burning)["stdout"])
    api.invoke(sleeping)
    assert own > 0.1
    for function in (burning, sleeping):
        api.good("DELETE", of(function), status=204)

    def used() -> dict[str, float] | None:
        rows = api.good("GET", f"{USAGE}?by=function")["rows"]
        found = {one["function_id"]: one["cpu_seconds"] for one in rows}
        return found if all(found.get(one) for one in (burning, sleeping)) else None

    cpu = until(used, 30)
    assert own <= cpu[burning] + 0.01, "`times` counts in hundredths"
    assert cpu[burning] - own < 1
    assert abs(cpu[burning] - own - cpu[sleeping]) < 0.5


def own_seconds(times: str) -> float:
    """The CPU seconds that `times` in a shell reports."""
    user, system = times.splitlines()[0].split()
    return sum(
        60 * int(one.partition("m")[0]) + float(one.partition("m")[2].rstrip("s"))
        for one in (user, system)
    )


@promise("A70")
def test_a_quota_is_set_enforced_and_taken_away(acme: tuple[Server, Api, Api]) -> None:
    server, operator, api = acme
    path = "/api/tenants/acme/quota"
    function_id = api.active(memory_limit_mb=1024)
    before = operator.good("GET", path)
    assert (before["own"], before["functions"], before["used"]["functions"]) == ([], 10_000, 1)
    given = {"functions": 1, "gb_seconds_per_day": 1e-6}
    quota = operator.good("PUT", path, given)
    assert quota["own"] == ["functions", "gb_seconds_per_day"]
    assert (quota["functions"], quota["calls_in_flight"]) == (1, before["calls_in_flight"])
    refusal = {"name": new_name(), "handler": "true"}
    api.refused("RATE_LIMITED", 429, "POST", "/api/functions", refusal)
    api.invoke(function_id)
    stats_of(api, function_id, 1)
    late = until(lambda: limited(api, function_id))
    assert "GB-seconds today" in late["error"]
    assert 0 < late["retry_after"] <= 86_400
    api.refused("RATE_LIMITED", 429, "POST", f"{of(function_id)}/invoke?mode=async", {})
    assert operator.good("GET", path)["used"]["gb_seconds_today"] > 0
    server.restart()
    operator, api = Api(server.url, operator.key), Api(server.url, api.key)
    api.refused("RATE_LIMITED", 429, "POST", f"{of(function_id)}/invoke", {})
    operator.good("DELETE", path, status=204)
    assert operator.good("GET", path)["own"] == []
    assert api.invoke(function_id)["status"] == "success"
    (entry, *_) = operator.good("GET", "/api/audit")["entries"]
    assert entry["action"] == "quota.delete"


def limited(api: Api, function_id: str) -> dict[str, Any] | None:
    answer = api("POST", f"{of(function_id)}/invoke", {})
    return answer.json() if answer.status_code == 429 else None


def test_a_wrong_quota_changes_nothing(keyed: Keyed) -> None:
    path = f"/api/tenants/{new_name()}/quota"
    negative = ("functions", "calls_in_flight", "calls_per_second")
    wrong = dict.fromkeys(negative, -1) | {"image_bytes": "1", "gb_seconds": 5}
    for name, value in wrong.items():
        error = keyed.operator.refused("UNPROCESSABLE_ENTITY", 422, "PUT", path, {name: value})
        assert name in error["error"]
    assert keyed.operator.good("GET", path)["own"] == []


@promise("A70")
def test_only_an_operator_sets_a_quota_and_sees_another_s(keyed: Keyed) -> None:
    name = new_name()
    path, reader, admin = f"/api/tenants/{name}/quota", *map(partial(keyed.caller, name), SCOPED)
    for caller in (reader, admin):
        assert caller.good("GET", path)["tenant_id"] == name
        for other in ("default", new_name()):  # an existing tenant, and one that does not exist
            is_error(caller("GET", f"/api/tenants/{other}/quota"), "FORBIDDEN", 403)
        for method in ("PUT", "DELETE"):
            is_error(caller(method, path, {}), "FORBIDDEN", 403)
    error = keyed.operator.refused("UNPROCESSABLE_ENTITY", 422, "GET", "/api/tenants/a b/quota")
    assert error["error"].startswith("tenant must be")


def test_a_quota_says_whether_anybody_has_used_the_name(keyed: Keyed) -> None:
    name = new_name()
    path = f"/api/tenants/{name}/quota"
    assert keyed.operator.good("PUT", path, {"functions": 5})["known"] is False
    key = keyed.key(name, "read")
    until(lambda: keyed.operator.good("GET", path)["known"])
    assert Api(keyed.server.url, key["key"]).good("GET", path)["functions"] == 5
    keyed.operator.good("DELETE", f"/api/keys/{key['id']}", status=204)
    until(lambda: not keyed.operator.good("GET", path)["known"])
    keyed.operator.good("DELETE", path, status=204)
