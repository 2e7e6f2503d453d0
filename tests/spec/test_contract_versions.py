"""The contract: invocations that name their version."""

from typing import Any

import pytest

from e2e.server import until
from promises import promise
from spec.api_client import Api, new_name, of
from spec.conftest import Keyed

pytestmark = [pytest.mark.sandbox, promise("W14", "W23")]


def two_versions(api: Api) -> str:
    function_id = api.active("echo one", max_instances=2)
    api.good("PUT", of(function_id), {"handler": "echo two"})
    return function_id


def invoked(api: Api, function_id: str, version: object) -> dict[str, Any]:
    """The record, with the version that ran."""
    return seen(api, api.good("POST", f"{of(function_id)}/invoke?version={version}"))


def seen(api: Api, record: dict[str, Any]) -> dict[str, Any]:
    path = f"{of(record['function_id'])}/invocations/{record['invocation_id']}/timeline"
    return record | {"version": api.good("GET", path)["version"]}


@pytest.mark.one_server("another node has instances of its own")
def test_a_call_runs_on_the_version_that_it_names(tenant: Api) -> None:
    function_id = two_versions(tenant)
    for version, stdout in ((1, "one\n"), (2, "two\n"), (1, "one\n")):
        record = invoked(tenant, function_id, version)
        assert (record["stdout"], record["version"]) == (stdout, version)
    assert invoked(tenant, function_id, 1)["cold_start"] is False
    name = tenant.get(function_id)["name"]
    record = tenant.good("POST", f"/api/functions/invoke/{name}?version=1")
    assert seen(tenant, record)["version"] == 1
    assert seen(tenant, tenant.invoke(function_id))["version"] == 2
    assert tenant.pool(function_id)["total_count"] == 2


@pytest.mark.one_server("another node has instances of its own")
def test_callers_by_an_alias_go_on_with_warm_instances_after_an_update(tenant: Api) -> None:
    function_id = tenant.active("echo one", min_instances=1, max_instances=3)
    path = f"{of(function_id)}/aliases/live"
    tenant.good("PUT", path, {"version": 1})
    tenant.good("PUT", of(function_id), {"handler": "echo two"})
    record = tenant.good("POST", f"{of(function_id)}/invoke?alias=live")
    assert (record["stdout"], record["cold_start"]) == ("one\n", False)
    record = tenant.good("POST", f"{of(function_id)}/invoke")
    assert (record["stdout"], record["cold_start"]) == ("two\n", False)


def test_the_answer_says_which_version_ran(tenant: Api) -> None:
    function_id = two_versions(tenant)
    tenant.good("PUT", f"{of(function_id)}/aliases/live", {"version": 1})
    tenant.heard()
    path = f"{of(function_id)}/invoke"
    for query, version in (("", "2"), ("?version=1", "1"), ("?alias=live", "1")):
        assert tenant("POST", f"{path}{query}").headers["x-function-version"] == version
    answer = tenant("POST", f"{path}?version=9")
    assert (answer.status_code, "x-function-version" in answer.headers) == (404, False)


def test_a_path_names_a_version_or_an_alias_as_the_command_line_does(tenant: Api) -> None:
    function_id = two_versions(tenant)
    tenant.good("PUT", f"{of(function_id)}/aliases/live", {"version": 1})
    tenant.heard()
    path = f"/api/functions/invoke/{tenant.get(function_id)['name']}"
    for named, version in (("@live", "1"), ("%40live", "1"), ("@1", "1"), ("@2", "2"), ("", "2")):
        assert tenant("POST", f"{path}{named}").headers["x-function-version"] == version
        queued = tenant("POST", f"{path}{named}", headers={"prefer": "respond-async"})
        assert queued.status_code == 202
    key = {"Idempotency-Key": f"by-path-{function_id}"}
    answers = [tenant("POST", f"{path}@live?mode=async", headers=key).json() for _ in range(2)]
    assert answers[0]["invocation_id"] == answers[1]["invocation_id"]
    for wrong in ("@nobody", "@9", "@"):
        tenant.refused("NOT_FOUND", 404, "POST", f"{path}{wrong}")
    for twice in ("@live?alias=live", "@live?version=1", "@1?version=1"):
        tenant.refused("UNPROCESSABLE_ENTITY", 422, "POST", f"{path}{twice}")


def test_a_version_that_is_not_there_is_named(tenant: Api) -> None:
    path = f"{of(two_versions(tenant))}/invoke"
    error = tenant.refused("NOT_FOUND", 404, "POST", f"{path}?version=3")
    assert "version 3" in error["error"]
    for wrong in ("0", "-1", "one", "1.0", "", "99999999999"):
        error = tenant.refused("UNPROCESSABLE_ENTITY", 422, "POST", f"{path}?version={wrong}")
        assert "version" in error["error"]


def test_no_version_of_a_paused_function_is_served(tenant: Api) -> None:
    function_id = two_versions(tenant)
    invoked(tenant, function_id, 1)
    tenant.good("POST", f"{of(function_id)}/pause")
    tenant.heard()
    path = f"{of(function_id)}/invoke"
    plain = tenant("POST", path)
    named = tenant("POST", f"{path}?version=1")
    assert (named.status_code, named.json()["error_code"]) == (409, "FUNCTION_NOT_ACTIVE")
    assert plain.json()["error"] == named.json()["error"]
    until(lambda: tenant.pool(function_id)["total_count"] == 0)


def test_accepted_work_runs_on_the_version_that_it_names(tenant: Api) -> None:
    function_id = tenant.active("echo one")
    path = f"{of(function_id)}/invoke?mode=async&delay_seconds=1"
    fixed = tenant.good("POST", f"{path}&version=1", status=202)["invocation_id"]
    plain = tenant.good("POST", path, status=202)["invocation_id"]
    tenant.good("PUT", of(function_id), {"handler": "echo two"})

    def version_of(invocation_id: str) -> int:
        path = f"{of(function_id)}/invocations/{invocation_id}?wait_seconds=20"
        version = seen(tenant, tenant.good("GET", path))["version"]
        assert isinstance(version, int)
        return version

    assert (version_of(fixed), version_of(plain)) == (1, 2)


def test_a_key_that_may_only_call_calls_the_current_version_alone(keyed: Keyed) -> None:
    name = new_name()
    owner, caller = keyed.caller(name, "write"), keyed.caller(name, "invoke")
    function_id = two_versions(owner)
    owner.heard()
    path = f"{of(function_id)}/invoke?version=2"
    assert caller.good("POST", path)["stdout"] == "two\n"
    error = caller.refused("FORBIDDEN", 403, "POST", f"{of(function_id)}/invoke?version=1")
    assert "version 1" in error["error"]
    owner.clear()


WAYS = ("id", "name", "async", "schedule", "url")


def printed(api: Api, path: str) -> str:
    """The output of an invocation, possibly a queued one."""
    record = api("POST", path).json()
    where = f"{of(record['function_id'])}/invocations/{record['invocation_id']}?wait_seconds=30"
    return str(api.good("GET", where)["stdout"]).strip()


def call_each_way(api: Api, function_id: str) -> dict[str, set[str]]:
    """The output of invocations that name no version, by their source."""
    name, tenant = api.get(function_id)["name"], api.good("GET", "/api/whoami")["tenant_id"]
    paths = {
        "id": f"{of(function_id)}/invoke",
        "name": f"/api/functions/invoke/{name}",
        "async": f"/api/functions/invoke/{name}?mode=async",
        "schedule": f"/api/schedules/{name}/run",
    }
    found = {way: {printed(api, path) for _ in range(5)} for way, path in paths.items()}
    by_url = (api("POST", f"/fn/{tenant}/{name}") for _ in range(5))
    return found | {"url": {answer.text.strip() for answer in by_url}}


@promise("W25")
def test_a_canary_applies_to_every_way_to_call_a_function(tenant: Api) -> None:
    function_id = two_versions(tenant)
    name = tenant.get(function_id)["name"]
    tenant.good("PUT", f"{of(function_id)}/url", {"auth": "none"})
    every = {"name": name, "function": name, "every_seconds": 86_400}
    tenant.good("POST", "/api/schedules", every, status=201)
    tenant.heard()
    assert call_each_way(tenant, function_id) == {way: {"two"} for way in WAYS}

    # Like `deploy --canary`: no invocation runs on the new version before it has a share.
    path = f"{of(function_id)}/aliases/live"
    tenant.good("PUT", path, {"version": 2, "default": True})
    tenant.good("PUT", f"{of(function_id)}?default_alias=keep", {"handler": "echo three"})
    tenant.heard()
    assert call_each_way(tenant, function_id) == {way: {"two"} for way in WAYS}
    share = {"version": 3, "weight": 0.9}
    tenant.good("PUT", path, {"version": 2, "also": share})
    tenant.heard()
    seen = call_each_way(tenant, function_id)
    assert all("three" in printed for printed in seen.values()), seen

    # Everything returns to the old version at once, and stays there.
    tenant.good("POST", f"{of(function_id)}/rollback", {"version": 2})
    tenant.heard()
    assert tenant.good("GET", path)["also"] is None
    live = tenant.good("POST", f"{of(function_id)}/invoke?alias=live")
    assert live["stdout"] == "two\n"
    assert call_each_way(tenant, function_id) == {way: {"two"} for way in WAYS}
    tenant.good("DELETE", f"/api/schedules/{name}", status=204)


@pytest.mark.one_server("each node counts the calls that it has run")
def test_a_failing_version_is_taken_back_and_fails_within_its_weight_s_share(tenant: Api) -> None:
    function_id = tenant.active("echo one", max_instances=4)
    tenant.good("PUT", of(function_id), {"handler": "exit 1"})
    tenant.good("POST", f"{of(function_id)}/rollback", {"version": 1})
    canary = {"version": 2, "weight": 0.1}
    body = {"version": 1, "also": canary, "rollback_on": {"error_rate": 0.05, "within_s": 300}}
    path = f"{of(function_id)}/aliases/live"
    tenant.good("PUT", path, body)
    failed, calls = 0, 0
    while tenant.good("GET", path)["also"] is not None:
        for _ in range(10):
            record = tenant.good("POST", f"{of(function_id)}/invoke?alias=live")
            failed += record["status"] == "failed"
            calls += 1
        assert calls < 1000, "it is not taken back"
    # Three failures suffice; a few more invocations may come before the rollback is stored.
    assert 3 <= failed <= 6
    alias = tenant.good("GET", path)
    assert alias["rolled_back"].startswith("version 2: 3 of 3 attempts failed")
    for _ in range(50):
        record = tenant.good("POST", f"{of(function_id)}/invoke?alias=live")
        assert record["stdout"] == "one\n"
    query = f"/api/audit?action=alias.roll_back&object_id={function_id}"
    until(lambda: tenant.good("GET", query)["entries"])
    [entry] = tenant.good("GET", query)["entries"]
    assert entry["note"] == f"live: {alias['rolled_back']}"
    assert entry["credential"] == "canary"
