"""The contract: invocations that name their version."""

import pytest

from promises import promise
from spec.api_client import Api, of

pytestmark = [pytest.mark.sandbox, promise("W14", "W23")]


def two_versions(api: Api) -> str:
    function_id = api.active("echo one", max_instances=2)
    api.good("PUT", of(function_id), {"handler": "echo two"})
    return function_id


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


WAYS = ("id", "name", "async", "schedule", "url")


def printed(api: Api, path: str) -> str:
    """Invokes by this path, possibly asynchronously; returns the output."""
    record = api("POST", path).json()
    where = f"{of(record['function_id'])}/invocations/{record['invocation_id']}?wait_seconds=30"
    return str(api.good("GET", where)["stdout"]).strip()


def call_each_way(api: Api, function_id: str) -> dict[str, set[str]]:
    """Invokes the function in each way that names no version; returns the outputs of each way,
    under its name.
    """
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

    # As with `deploy --canary`, no invocation runs on the new version before the version has a
    # share.
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

    # After a rollback, all invocations run on the old version at once, and continue to.
    tenant.good("POST", f"{of(function_id)}/rollback", {"version": 2})
    tenant.heard()
    assert tenant.good("GET", path)["also"] is None
    live = tenant.good("POST", f"{of(function_id)}/invoke?alias=live")
    assert live["stdout"] == "two\n"
    assert call_each_way(tenant, function_id) == {way: {"two"} for way in WAYS}
    tenant.good("DELETE", f"/api/schedules/{name}", status=204)
