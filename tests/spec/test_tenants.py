"""The contract: operators in other tenants, and disabled tenants, with real sandboxes."""

import json
import threading
from typing import Any

import pytest

from e2e.server import quiltfn, until
from promises import promise
from spec.api_client import Api, new_name, of
from spec.conftest import Keyed

pytestmark = [pytest.mark.sandbox, promise("A86")]


def record(api: Api, function_id: str, invocation_id: str, query: str = "") -> dict[str, Any]:
    path = f"{of(function_id)}/invocations/{invocation_id}{query}"
    return dict(api.good("GET", path))


def test_a_disabled_tenant_runs_nothing_and_goes_on_once_it_is_enabled(keyed: Keyed) -> None:
    tenant, operator = new_name(), keyed.operator
    api, visit = keyed.caller(tenant), f"?tenant={tenant}"
    function_id = api.active("sleep 60", min_instances=1, max_instances=2)
    quick_id = api.active("cat")
    quick = api.get(quick_id)["name"]
    api.good("PUT", f"{of(quick_id)}/url", {"auth": "none"})
    retried = {"max_attempts": 5, "backoff_seconds": {"first": 1}}
    api.good("PUT", f"{of(function_id)}/async-policy", retried)
    schedule = {"name": quick, "function": quick, "every_seconds": 1}
    api.heard()
    queued = api.good("POST", f"{of(function_id)}/invoke?mode=async", status=202)
    answers: list[dict[str, Any]] = []
    waiting = threading.Thread(
        target=lambda: answers.append(api.good("POST", f"{of(function_id)}/invoke"))
    )
    waiting.start()
    until(lambda: api.pool(function_id)["busy_count"] == 2, 30)

    answer = operator.good("POST", f"/api/tenants/{tenant}/disable")
    assert (answer["tenant_id"], answer["disabled"]) == (tenant, True)
    operator.heard()
    waiting.join(30)
    assert (answers[0]["status"], "disabled" in answers[0]["error_message"]) == ("cancelled", True)
    api.refused("FORBIDDEN", 403, "POST", f"{of(quick_id)}/invoke")
    api.refused("FORBIDDEN", 403, "GET", "/api/functions")
    assert operator("POST", f"/fn/{tenant}/{quick}").status_code == 503
    counts = f"{of(function_id)}/pool"
    until(lambda: operator.good("GET", counts + visit)["total_count"] == 0, 30)
    found = record(operator, function_id, queued["invocation_id"], visit)
    assert found["status"] == "queued"
    # Other tenants are unaffected.
    other = keyed.caller(new_name())
    assert other.invoke(other.active("cat"), "x")["stdout"] == "x"

    assert operator.good("POST", f"/api/tenants/{tenant}/enable")["disabled"] is False
    api.heard()
    assert api.invoke(quick_id, "x")["stdout"] == "x"
    assert operator("POST", f"/fn/{tenant}/{quick}", content=b"y").text == "y"
    api.good("POST", "/api/schedules", schedule, status=201)
    id_ = queued["invocation_id"]
    until(lambda: record(api, function_id, id_)["status"] == "running", 30)
    runs = f"/api/schedules/{quick}/runs"
    until(lambda: api.good("GET", runs)["runs"], 30)
    operator.good("POST", f"/api/tenants/{tenant}/disable")

    def skipped() -> bool:
        newest = operator.good("GET", runs + visit)["runs"][0]
        return newest["outcome"] == "skipped" and "disabled" in newest["reason"]

    until(skipped, 30)
    operator.good("POST", f"/api/tenants/{tenant}/enable")
    api.heard()
    api.good("DELETE", f"/api/schedules/{quick}", status=204)
    api.clear()


def test_commands_show_and_stop_what_another_tenant_has(keyed: Keyed) -> None:
    tenant = new_name()
    api = keyed.caller(tenant)
    function_id = api.active("sleep 60")
    name = api.get(function_id)["name"]
    env = {"QUILT_BASE_URL": keyed.server.url, "QUILT_API_KEY": keyed.operator.key or ""}
    queued = api.good("POST", f"{of(function_id)}/invoke?mode=async", status=202)
    until(lambda: record(api, function_id, queued["invocation_id"])["status"] == "running", 30)
    top = json.loads(quiltfn("top", "--all-tenants", "-o", "json", env=env).stdout)
    assert (tenant, 1) in {(one["tenant_id"], one["busy"]) for one in top["functions"]}
    assert quiltfn("functions", "get", name, env=env).code == 1
    within = ("--as-tenant", tenant)
    assert name in quiltfn("functions", "list", *within, env=env).stdout
    stopped = quiltfn("cancel", name, queued["invocation_id"], *within, env=env)
    assert stopped.code == 0, stopped.stderr
    assert quiltfn("functions", "pause", name, *within, env=env).code == 0
    assert api.get(function_id)["state"] == "paused"
    refused = quiltfn("functions", "delete", name, "--yes", *within, env=env)
    assert (refused.code, "another tenant" in refused.stderr) == (1, True)
    own = {**env, "QUILT_API_KEY": api.key or ""}
    assert quiltfn("functions", "list", "--as-tenant", new_name(), env=own).code == 1
    api.clear()
