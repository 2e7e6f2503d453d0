"""The contract: idempotency, elasticity, the audit log, metrics and the defaults of settings."""

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e.server import until
from promises import promise
from quiltfn.settings import Settings
from spec.api_client import Api, files_below, make_key, new_address, new_name, of
from spec.conftest import Keyed

pytestmark = [pytest.mark.sandbox, promise("A1")]
FUNCTIONS = "/api/functions"


def in_background(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    return thread, found


# Idempotency -----------------------------------------------------------------------------------


def test_a_repeated_create_gets_the_first_answer(tenant: Api) -> None:
    body, key = {"name": new_name(), "handler": "echo"}, {"Idempotency-Key": "order-1"}
    first = tenant("POST", FUNCTIONS, body, headers=key)
    again = tenant("POST", FUNCTIONS, body, headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert first.headers["x-request-id"] != again.headers["x-request-id"]
    assert tenant.count() == 1
    other = body | {"handler": "echo 2"}
    tenant.refused("UNPROCESSABLE_ENTITY", 422, "POST", FUNCTIONS, other, headers=key)


def test_a_repeated_invoke_runs_once_and_replays_a_timeout_too(tenant: Api) -> None:
    function_id = tenant.active("sleep 9", timeout_seconds=1)
    path, key = f"{of(function_id)}/invoke", {"Idempotency-Key": "call-1"}
    thread, found = in_background(lambda: tenant("POST", path, {}, headers=key))
    until(lambda: tenant.pool(function_id)["busy_count"] == 1)
    running = tenant.refused("CONFLICT", 409, "POST", path, {}, headers=key)
    assert running["retry_after"] >= 1
    thread.join()
    assert found[0].json()["status"] == "timeout"
    again = tenant("POST", path, {}, headers=key)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["x-invocation-id"] == found[0].headers["x-invocation-id"]
    assert again.content == found[0].content
    assert len(tenant.good("GET", f"{of(function_id)}/invocations")["invocations"]) == 1


def test_the_scope_of_a_key_is_tenant_method_and_path(tenant: Api, keyed: Keyed) -> None:
    key = {"Idempotency-Key": "same"}
    ids = [tenant.active() for _ in range(2)]
    records = [tenant.good("POST", f"{of(one)}/invoke", {}, headers=key) for one in ids]
    assert records[0]["function_id"] != records[1]["function_id"]
    other = keyed.caller(new_name())
    for api in (tenant, other):
        body = {"name": "idem", "handler": "echo"}
        answer = api("POST", FUNCTIONS, body, headers=key)
        assert "idempotency-replayed" not in answer.headers
    other.clear()


def test_a_refusal_before_execution_is_not_stored(tenant: Api) -> None:
    function_id = tenant.create()
    path, key = f"{of(function_id)}/invoke", {"Idempotency-Key": "early"}
    tenant.refused("FUNCTION_NOT_ACTIVE", 409, "POST", path, {}, headers=key)
    tenant.good("POST", f"{of(function_id)}/deploy")
    assert tenant.good("POST", path, {}, headers=key)["status"] == "success"
    body = {"name": "x y", "handler": "echo"}
    tenant.refused("UNPROCESSABLE_ENTITY", 422, "POST", FUNCTIONS, body, headers=key)
    tenant.good("POST", FUNCTIONS, {"name": "xy", "handler": "echo"}, 201, headers=key)


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "ä"])
def test_what_cannot_be_a_key_is_refused(tenant: Api, key: str) -> None:
    headers = {"Idempotency-Key": key.encode("latin-1")}
    body = {"name": new_name(), "handler": "echo"}
    tenant.refused("UNPROCESSABLE_ENTITY", 422, "POST", FUNCTIONS, body, headers=headers)


# Elasticity ------------------------------------------------------------------------------------

TARGETS = {"min_instances": 1, "max_instances": 3}


@pytest.fixture
def mine(tenant: Api) -> tuple[str, dict[str, str]]:
    """A function, and the header that names its tenant."""
    function_id = tenant.create()
    return function_id, {"X-Tenant-Id": tenant.get(function_id)["tenant_id"]}


def test_pool_target(tenant: Api, mine: tuple[str, dict[str, str]]) -> None:
    function_id, headers = mine
    path = f"/api/elasticity/functions/{function_id}/pool-target"
    answer = tenant.good("POST", path, TARGETS, headers=headers)
    assert answer == {"function_id": function_id} | TARGETS
    shown = tenant.get(function_id)
    assert (shown["min_instances"], shown["max_instances"]) == (1, 3)
    # scaling targets do not belong to a version, so there is no new one
    assert shown["current_version"] == 1
    tenant.refused("BAD_REQUEST", 400, "POST", path, TARGETS)
    tenant.refused("FORBIDDEN", 403, "POST", path, TARGETS, headers={"X-Tenant-Id": "other"})
    for bad in ({"min_instances": 1}, TARGETS | {"x": 1}, TARGETS | {"min_instances": 4}):
        tenant.refused("UNPROCESSABLE_ENTITY", 422, "POST", path, bad, headers=headers)


def test_controlled_pool_target(tenant: Api, mine: tuple[str, dict[str, str]]) -> None:
    function_id, headers = mine
    headers |= {"Idempotency-Key": "scale-1", "X-Orch-Action-Id": "action-1"}
    path = f"/api/elasticity/control/functions/{function_id}/pool-target"
    first = tenant.good("POST", path, TARGETS, headers=headers)
    assert list(first) == [
        "operation_id", "operation_type", "action_id", "status", "reason_code", "reason_message",
        "retryable",
    ]  # fmt: skip
    assert first["operation_type"] == "elasticity.function_pool_target"
    assert first["action_id"] == "action-1"
    again = tenant.good("POST", path, {**TARGETS, "max_instances": 9}, 409, headers=headers)
    assert again["operation_id"] == first["operation_id"]
    assert again["reason_code"] == "ELASTICITY_IDEMPOTENCY_REPLAY"
    assert tenant.get(function_id)["max_instances"] == 3
    operation = f"/api/elasticity/control/operations/{first['operation_id']}"
    assert tenant.good("GET", operation) == first
    tenant.refused("NOT_FOUND", 404, "GET", "/api/elasticity/control/operations/none")
    for name in ("X-Tenant-Id", "Idempotency-Key", "X-Orch-Action-Id"):
        less = {key: value for key, value in headers.items() if key != name}
        tenant.refused("BAD_REQUEST", 400, "POST", path, TARGETS, headers=less)


# Audit -----------------------------------------------------------------------------------------


TICK = {"name": "nightly", "cron": "0 3 * * *", "payload": "audit-payload"}


@promise("A9", "W10")
def test_every_mutating_call_is_audited_and_no_secret_is(tenant: Api, keyed: Keyed) -> None:
    function_id = tenant.active("echo audit-handler", environment={"A": "audit-secret"})
    path = of(function_id)
    function = tenant.get(function_id)
    tenant_id = function["tenant_id"]
    later = f"{path}/invoke?mode=async&delay_seconds=600"
    queued = tenant.good("POST", later, {"payload": "audit-payload"}, 202)["invocation_id"]
    key = tenant.good("POST", "/api/keys", {"scope": "read"}, 201)
    headers = {"X-Tenant-Id": tenant_id, "Idempotency-Key": "a1", "X-Orch-Action-Id": "x"}
    calls = [
        ("function.update", "PUT", path, {"handler": "echo audit-2"}, 200),
        ("function.update", "PUT", path, {"timeout_seconds": 0}, 422),
        ("function.deploy", "POST", f"{path}/deploy", None, 200),
        (None, "POST", f"{path}/invoke", {"payload": "audit-payload"}, 200),
        ("function.pause", "POST", f"{path}/pause", None, 200),
        ("function.resume", "POST", f"{path}/resume", None, 200),
        ("function.rollback", "POST", f"{path}/rollback", {"version": 1}, 200),
        ("elasticity.pool_target", "POST", f"/api/elasticity{path[4:]}/pool-target", TARGETS, 200),
        ("elasticity.pool_target", "POST", f"/api/elasticity/control{path[4:]}/pool-target",
         TARGETS, 200),
        ("key.revoke", "DELETE", f"/api/keys/{key['id']}", None, 204),
        ("async_policy.set", "PUT", f"{path}/async-policy", {"max_attempts": 2}, 200),
        ("record_policy.set", "PUT", f"{path}/record-policy", {"keep_input": "all"}, 200),
        ("invocation.cancel", "POST", f"{path}/invocations/{queued}/cancel", None, 200),
        ("invocation.replay", "POST", f"{path}/invocations/{queued}/replay", None, 200),
        ("dead_letters.redrive", "POST", f"{path}/dead-letters/redrive", {"all": True}, 200),
        ("schedule.create", "POST", "/api/schedules", TICK | {"function": function["name"]}, 201),
        ("schedule.run", "POST", "/api/schedules/nightly/run", None, 202),
        ("schedule.delete", "DELETE", "/api/schedules/nightly", None, 204),
        (None, "GET", path, None, 200),
        ("function.delete", "DELETE", path, None, 204),
    ]  # fmt: skip
    asked = [("function.create", 201), ("function.deploy", 200), ("key.create", 201)]
    for action, method, where, body, status in calls:
        answer = tenant(method, where, body, headers=headers | {"X-Request-Id": "audit-1"})
        assert answer.status_code == status, answer.text
        if action:
            asked.append((action, status))
    entries = tenant.good("GET", "/api/audit")["entries"]
    assert [(one["action"], one["status"]) for one in entries] == asked[::-1]
    mine = [one for one in tenant.good("GET", "/api/keys")["keys"] if one["scope"] == "admin"]
    assert {one["credential"] for one in entries} == {mine[0]["id"]}
    assert {one["address"] for one in entries} == {"127.0.0.1"}
    assert {one["tenant_id"] for one in entries} == {tenant_id}
    assert entries[0]["object_id"] == function_id
    assert entries[0]["request_id"] == "audit-1"
    refused = next(one for one in entries if one["status"] == 422)
    assert refused["error_code"] == "UNPROCESSABLE_ENTITY"
    assert [one["object_name"] for one in entries if one["action"] == "schedule.create"] == [
        "nightly"
    ]
    text = json.dumps(entries)
    for secret in ("audit-secret", "audit-payload", "audit-handler", "audit-2", key["key"]):
        assert secret not in text
    for secret in ("audit-secret", "audit-payload", key["key"], tenant.key):
        assert secret not in keyed.server.log.read_text()  # type: ignore[operator]
    assert tenant.key.encode() not in files_below(keyed.server.data_dir)  # type: ignore[operator, union-attr]


def test_who_is_refused_and_who_works_beside_the_server_is_audited_too(keyed: Keyed) -> None:
    name = new_name()
    reader = keyed.key(name, "read")
    Api(keyed.server.url, reader["key"]).refused("FORBIDDEN", 403, "POST", FUNCTIONS, {})
    here = new_address()
    Api(keyed.server.url, "rubbish", address=here).refused(
        "UNAUTHORIZED", 401, "DELETE", f"{FUNCTIONS}/x"
    )
    made = make_key(keyed.server, "--tenant", name)
    entries = keyed.operator.good("GET", "/api/audit?limit=3")["entries"]
    assert [
        (one["credential"], one["tenant_id"], one["action"], one["object_id"], one["status"])
        for one in entries
    ] == [
        ("cli", name, "key.create", made["id"], 201),
        ("nobody", "", "function.delete", "x", 401),
        (reader["id"], name, "function.create", None, 403),
    ]
    assert entries[1]["address"] == here


def test_the_audit_trail_in_pages(tenant: Api) -> None:
    for _ in range(3):
        tenant.create()
    pages = tenant.pages("/api/audit?limit=2", "entries", has_links=False)
    assert [len(page) for page in pages] == [2, 1]


# Metrics ---------------------------------------------------------------------------------------


@pytest.mark.one_server("nodes of a fleet have metrics about it")
def test_metrics_have_bounded_labels(tenant: Api, keyed: Keyed) -> None:
    function_id = tenant.active(name="metric-name")
    tenant.invoke(function_id)
    tenant.refused("NOT_FOUND", 404, "GET", "/api/functions/metric-path")
    tenant.refused("FORBIDDEN", 403, "GET", "/metrics")  # the metrics cover all tenants
    answer = keyed.operator("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    tenant_id = tenant.get(function_id)["tenant_id"]
    for private in (function_id, "metric-name", "metric-path", tenant_id):
        assert private not in answer.text
    labels = set(re.findall(r'(\w+)="', answer.text))
    assert labels <= {"status", "start", "code", "state", "version", "le", "reason", "signal"}
    assert "quiltfn_invocations_total" in answer.text


# Defaults --------------------------------------------------------------------------------------

SETTINGS_PAGE = Path(__file__).resolve().parents[2] / "docs/reference/settings.md"
DEFAULTS = {
    "drain_s": "30",
    "tenant_calls_in_flight": "1000",
    "tenant_functions": "10000",
    "tenant_calls_per_s": "0",
    "body_max_bytes": str(1024 * 1024),
    "invoke_body_max_bytes": str(8 * 1024 * 1024),
    "head_max_bytes": str(16 * 1024),
    "queue_max": "1000",
    "queue_wait_s": "10",
}


def test_defaults_are_settings_with_these_values() -> None:
    page = SETTINGS_PAGE.read_text()
    for name, default in DEFAULTS.items():
        assert float(getattr(Settings(), name)) == float(default)
        assert f"| `{name}` |" in page
