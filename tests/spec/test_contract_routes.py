"""The contract, "Routes": each row, its required scope, and the isolation of tenants."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest

from promises import promise
from spec.api_client import (
    PAGE_CREATE,
    PAGE_INVOKE,
    Api,
    is_error,
    new_name,
    of,
)
from spec.conftest import Keyed

pytestmark = [pytest.mark.sandbox, promise("A1")]
FUNCTIONS = "/api/functions"


def test_create_and_invoke_with_the_pages_own_bodies(tenant: Api) -> None:
    made = tenant.good("POST", FUNCTIONS, PAGE_CREATE, 201)
    assert list(made) == ["function_id", "name", "state", "version"]
    assert (made["name"], made["state"], made["version"]) == ("my-function", "pending", 1)
    function_id = made["function_id"]
    assert tenant.good("POST", f"{of(function_id)}/deploy")["state"] == "active"
    record = tenant.good("POST", f"{of(function_id)}/invoke", PAGE_INVOKE)
    assert (record["status"], record["stdout"]) == ("success", "hello\n")


def test_list(tenant: Api) -> None:
    made = [tenant.create(cluster_id="a" if number % 2 else None) for number in range(5)]
    answer = tenant("GET", FUNCTIONS)
    assert list(answer.json()) == ["functions", "next_cursor"]
    assert [one["id"] for one in answer.json()["functions"]] == made
    assert answer.json()["next_cursor"] is None
    assert "link" not in answer.headers
    of_a = tenant.good("GET", f"{FUNCTIONS}?cluster_id=a")["functions"]
    assert [one["id"] for one in of_a] == made[1::2]
    assert tenant.good("GET", f"{FUNCTIONS}?state=active")["functions"] == []
    assert len(tenant.good("GET", f"{FUNCTIONS}?state=pending")["functions"]) == 5
    refusal = tenant.refused("UNPROCESSABLE_ENTITY", 422, "GET", f"{FUNCTIONS}?state=running")
    assert refusal["error"] == "state must be one of: pending, deploying, active, paused, error"


def test_list_in_pages(tenant: Api) -> None:
    made = [tenant.create(cluster_id="a&b") for _ in range(5)]
    pages = tenant.pages(f"{FUNCTIONS}?limit=2&cluster_id=a%26b", "functions")
    assert [[one["id"] for one in page] for page in pages] == [made[:2], made[2:4], made[4:]]


@promise("A60")
@pytest.mark.one_server("a node hears of calls that others counted within 5 s")
def test_list_in_any_order(tenant: Api) -> None:
    made = [tenant.create(name=f"{letter}-{number}") for number, letter in enumerate("cAb")]
    tenant.good("POST", f"{of(made[1])}/deploy")
    for _ in range(2):
        tenant.invoke(made[1])
    by_name, by_use = [made[1], made[2], made[0]], [made[0], made[2], made[1]]
    orders = {"name": by_name, "created_at": made, "last_invoked_at": by_use}
    for sort, expected in (orders | {"invocation_count": by_use}).items():
        for order, step in (("asc", 1), ("desc", -1)):
            pages = tenant.pages(f"{FUNCTIONS}?limit=1&sort={sort}&order={order}", "functions")
            assert [one["id"] for (one,) in pages] == expected[::step], (sort, order)


@promise("A60")
def test_list_by_text_and_in_brief(tenant: Api) -> None:
    tenant.create(name="invoices", environment={"TOKEN": "secret"})
    described = tenant.create(name="other", description="Sends Invoices")
    tenant.create(name="third")
    found = tenant.good("GET", f"{FUNCTIONS}?q=INVOICE&sort=name&order=desc")["functions"]
    assert [one["name"] for one in found] == ["other", "invoices"]
    brief = tenant.good("GET", f"{FUNCTIONS}?q=sends&view=brief")["functions"]
    whole = tenant.get(described)
    assert brief == [{k: v for k, v in whole.items() if k not in ("handler", "environment")}]
    cursor = tenant.good("GET", f"{FUNCTIONS}?limit=1&sort=name")["next_cursor"]
    for other in (f"sort=invocation_count&cursor={cursor}", f"cursor={cursor}"):
        error = tenant.refused("UNPROCESSABLE_ENTITY", 422, "GET", f"{FUNCTIONS}?{other}")
        assert "cursor" in error["error"]


@promise("A60")
@pytest.mark.one_server("a node hears of the pools of others with their next beat")
def test_pools_are_those_that_are_not_empty(tenant: Api, keyed: Keyed) -> None:
    tenant.create()
    active = tenant.active()
    (listed,) = tenant.good("GET", f"{FUNCTIONS}/pools")["pools"]
    assert 0 < listed.pop("memory_mib") < 256, "what an idle instance uses"
    assert listed == tenant.pool(active) | {"parked_count": 0}
    assert keyed.caller(new_name()).good("GET", f"{FUNCTIONS}/pools") == {"pools": []}


@pytest.mark.one_server("a node hears of the pools of others with their next beat")
def test_pools_of_one_function_tell_the_parked_ones_apart(tenant: Api, keyed: Keyed) -> None:
    other, function = tenant.active(), tenant.active("echo 1")
    tenant.good("PUT", of(function), {"handler": "echo 2"})
    (pool,) = tenant.good("GET", f"{FUNCTIONS}/pools?function_id={function}")["pools"]
    assert pool.pop("memory_mib") > 0
    assert pool == tenant.pool(function) | {"parked_count": 1}
    assert (pool["warming_count"], pool["ready_count"]) == (1, 1)
    path = f"{FUNCTIONS}/pools?function_id={other}"
    assert [each["function_id"] for each in tenant.good("GET", path)["pools"]] == [other]
    keyed.caller(new_name()).refused("NOT_FOUND", 404, "GET", path)


def test_update(tenant: Api) -> None:
    function_id = tenant.create(description="old", working_directory="/tmp")
    answer = tenant.good("PUT", of(function_id), {"handler": "echo two"})
    assert (answer["handler"], answer["current_version"]) == ("echo two", 2)
    reset = {"description": None, "working_directory": None}
    answer = tenant.good("PUT", of(function_id), reset)
    assert (answer["description"], answer["working_directory"]) == (None, None)
    for field in ("cluster_id", "id", "source_code"):
        body = tenant.refused("UNPROCESSABLE_ENTITY", 422, "PUT", of(function_id), {field: "x"})
        assert field in body["error"]
    for field in ("name", "handler", "timeout_seconds", "environment", "cleanup_on_exit"):
        tenant.refused("UNPROCESSABLE_ENTITY", 422, "PUT", of(function_id), {field: None})
    tenant.refused("UNPROCESSABLE_ENTITY", 422, "PUT", of(function_id), {})
    assert tenant.get(function_id)["current_version"] == 3


def test_get_and_invoke_by_id_or_percent_encoded_name(tenant: Api) -> None:
    name = "a.b-c_D9"
    function_id = tenant.active(name=name)
    everything = "".join(f"%{ord(one):02X}" for one in name)
    for named in (name, everything):
        assert tenant.good("GET", f"{FUNCTIONS}/by-name/{named}")["id"] == function_id
    for path in (of(function_id) + "/invoke", f"{FUNCTIONS}/invoke/{everything}"):
        for body in (None, {}, {"payload": None}):
            answer = tenant("POST", path, body)
            assert answer.status_code == 200
            assert answer.headers["x-invocation-id"] == answer.json()["invocation_id"]
    for method, verb in (("GET", "by-name"), ("POST", "invoke")):
        tenant.refused("NOT_FOUND", 404, method, f"{FUNCTIONS}/{verb}/nobody")


@pytest.mark.one_server("another node has a cold start of its own")
def test_invocations(tenant: Api) -> None:
    function_id = tenant.active("exit ${QUILT_PAYLOAD:-0}")
    made = [tenant.invoke(function_id, str(number % 2))["invocation_id"] for number in range(5)]
    path = f"{of(function_id)}/invocations"
    answer = tenant.good("GET", path)
    assert list(answer) == ["invocations", "next_cursor"]
    assert [one["invocation_id"] for one in answer["invocations"]] == made[::-1]
    pages = [
        [one["invocation_id"] for one in page]
        for page in tenant.pages(f"{path}?limit=2", "invocations")
    ]
    assert pages == [made[:2:-1], made[2:0:-1], made[:1]]
    failed = tenant.good("GET", f"{path}?status=failed")["invocations"]
    assert [one["invocation_id"] for one in failed] == made[3::-2]
    for query, count in (
        ("cold_start=true", 0),
        ("cold_start=false", 5),
        ("min_duration_ms=0", 5),
        ("min_duration_ms=60000", 0),
    ):
        assert len(tenant.good("GET", f"{path}?{query}")["invocations"]) == count
    record = tenant.good("GET", f"{path}/{made[0]}")
    assert record == answer["invocations"][-1]
    tenant.refused("NOT_FOUND", 404, "GET", f"{path}/{function_id}")


@pytest.mark.one_server("a node hears of the pools of others with their next beat")
def test_pool_has_exactly_its_keys_and_zeros_without_a_pool(tenant: Api) -> None:
    function_id = tenant.create()
    counts = ["warming_count", "ready_count", "busy_count", "total_count"]
    assert list(tenant.pool(function_id)) == ["function_id", *counts]
    assert all(tenant.pool(function_id)[one] == 0 for one in counts)
    tenant.good("POST", f"{of(function_id)}/deploy")
    pool = tenant.pool(function_id)
    assert pool["total_count"] == pool["ready_count"] == 1


@pytest.mark.one_server("a node hears of the pools of others with their next beat")
def test_pool_stats_has_its_twelve_keys_of_the_tenant_alone(tenant: Api, keyed: Keyed) -> None:
    tenant.active()
    other = keyed.caller(new_name())
    states = ["total", "warming", "ready", "busy", "recycling", "terminating"]
    for api, count in ((tenant, 1), (other, 0)):
        stats = api.good("GET", f"{FUNCTIONS}/pool/stats")
        assert list(stats) == [
            f"{one}_{kind}" for kind in ("count", "containers") for one in states
        ]
        assert stats["total_count"] == sum(stats[f"{one}_count"] for one in states[1:]) == count
        assert all(stats[f"{one}_count"] == stats[f"{one}_containers"] for one in states)


def test_system_info_says_whose_key_it_was(tenant: Api) -> None:
    info = tenant.good("GET", "/api/system/info")
    assert {"version", "node_id", "protections", "interpreters", "limits"} <= set(info)
    whoami = tenant.good("GET", "/api/whoami")
    assert (info["tenant_id"], info["scope"]) == (whoami["tenant_id"], "admin")
    assert info["protections"]
    assert info["limits"]["body_bytes"] == 1024 * 1024


@promise("N64")
def test_what_balances_load_asks_without_a_key(keyed: Keyed) -> None:
    anybody = Api(keyed.server.url, "")
    for path in ("/health", "/health/ready"):
        assert anybody.good("GET", path) == {"status": "ok"}


@promise("A63")
def test_whoami_says_whose_key_it_is_and_until_when(keyed: Keyed) -> None:
    tenant = new_name()
    made = keyed.key(tenant, "invoke", expires_seconds=600)
    whoami = Api(keyed.server.url, made["key"]).good("GET", "/api/whoami")
    assert (whoami["tenant_id"], whoami["scope"]) == (tenant, "invoke")
    assert (whoami["credential"], whoami["expires_at"]) == (made["id"], made["expires_at"])
    assert whoami["needs_credential"] is True
    assert {"functions", "schedules", "events", "shell", "custom"} <= set(whoami["offers"])
    assert keyed.operator.good("GET", "/api/whoami")["expires_at"] is None


@promise("A63")
def test_whoami_needs_no_key_where_the_server_needs_none(anybody: Api) -> None:
    whoami = anybody.good("GET", "/api/whoami")
    assert (whoami["tenant_id"], whoami["scope"]) == ("default", "operator")
    assert (whoami["credential"], whoami["needs_credential"]) == ("open", False)


@promise("N60")
@pytest.mark.one_server("it is about one server")
def test_a_server_that_is_alone_is_a_node_with_its_functions(keyed: Keyed) -> None:
    api = keyed.caller(tenant := new_name(), "write")
    function_id = api.active(name=(name := new_name()))
    api.invoke(function_id)
    (brief,) = keyed.operator.good("GET", "/api/nodes")["nodes"]
    assert brief["functions"] is None
    assert brief["function_count"] >= 1
    (full,) = keyed.operator.good("GET", "/api/nodes?view=full")["nodes"]
    alone = keyed.operator.good("GET", f"/api/nodes/{full['name']}")
    for shown in (full, alone):
        found = next(one for one in shown["functions"] if one["function_id"] == function_id)
        assert (found["function_name"], found["tenant_id"]) == (name, tenant)
        assert found["ready_instances"] + found["busy_instances"] >= 1
        assert (found["version"], found["waiting_calls"]) == (1, 0)
    refusal = keyed.operator.refused("UNPROCESSABLE_ENTITY", 422, "GET", "/api/nodes?view=all")
    assert refusal["error"] == "view must be one of: brief, full"
    assert "fleet" not in keyed.operator.good("GET", "/api/whoami")["offers"]


@promise("A63")
@pytest.mark.one_server("each node has findings of its own")
def test_the_doctor_of_a_running_server(keyed: Keyed) -> None:
    report = keyed.operator.good("GET", "/api/system/doctor")
    names = [one["name"] for one in report["findings"]]
    assert {"kernel", "user_namespaces", "seccomp", "disk", "swap", "cgroups"} <= set(names)
    assert "images" in names
    assert len(names) == len(set(names))
    for finding in report["findings"]:
        assert finding["level"] in ("ok", "warn", "NO")
        assert finding["sentence"]
        assert (finding["advice"] is None) == (finding["level"] == "ok"), finding
    assert report["protections"] == keyed.operator.good("GET", "/api/system/info")["protections"]
    # The warnings are those that the command prints as root, apart from two checks: the server uses
    # another gVisor, and only root sees what dead servers have left.
    command = [sys.executable, "-m", "quiltfn", "doctor", "--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    warned = {
        one["name"]: one["sentence"]
        for one in json.loads(done.stdout)["findings"]
        if one["level"] == "warn" and one["name"] not in ("leftovers", "runsc")
    }
    served = {one["name"]: one["sentence"] for one in report["findings"]}
    assert {name: served.get(name) for name in warned} == warned


@promise("A63")
def test_instances_of_every_tenant_for_an_operator(tenant: Api, keyed: Keyed) -> None:
    function_id = tenant.active(name="seen", memory_limit_mb=256)
    path = f"/api/instances?function_id={function_id}"
    (instance,) = keyed.operator.good("GET", path)["instances"]
    assert (instance["function_name"], instance["state"], instance["version"]) == (
        "seen",
        "ready",
        1,
    )
    assert 0 < instance["memory_mib"] < 256
    assert instance["age_seconds"] >= instance["state_seconds"] >= 0
    page = keyed.operator.good("GET", "/api/instances?limit=1")
    assert len(page["instances"]) == 1
    assert page["total_count"] >= 1
    assert page["memory"]["held_mib"] <= page["memory"]["budget_mib"]
    assert {"prewarmed_count", "waiting_calls", "queued_calls"} <= set(page)
    tenant.good("DELETE", of(function_id), status=204)


# Scopes ----------------------------------------------------------------------------------------

SCOPES = ["read", "invoke", "write", "admin", "operator"]
ID = "/api/functions/01a20e60-4498-7000-aca5-20281701ad36"
PUBLIC = [("GET", "/health"), ("GET", "/health/ready"), ("GET", "/openapi.json")]
PUBLIC += [("GET", "/docs"), ("GET", "/docs/{path}")]
PUBLIC += [("GET", "/ui"), ("GET", "/ui/"), ("GET", "/ui/{file}"), ("GET", "/")]
# The URL decides who may invoke the function: see tests/service/test_urls.py.
PUBLIC += [(method, "/fn/{path}") for method in ("GET", "PUT", "POST", "DELETE")]
NEEDS = {
    ("GET", FUNCTIONS): "read",
    ("POST", FUNCTIONS): "write",
    ("GET", ID): "read",
    ("PUT", ID): "write",
    ("DELETE", ID): "write",
    ("POST", f"{ID}/deploy"): "write",
    ("POST", f"{ID}/pause"): "write",
    ("POST", f"{ID}/resume"): "write",
    ("POST", f"{ID}/rollback"): "write",
    ("POST", f"{ID}/invoke"): "invoke",
    ("POST", f"{FUNCTIONS}/invoke/nobody"): "invoke",
    ("GET", f"{ID}/invocations"): "read",
    ("GET", f"{ID}/invocations/x"): "read",
    ("GET", f"{ID}/invocations/x/output"): "read",
    ("GET", f"{ID}/invocations/x/logs"): "read",
    ("GET", f"{ID}/logs"): "read",
    ("GET", f"{ID}/invocations/x/timeline"): "read",
    ("POST", f"{ID}/invocations/x/cancel"): "invoke",
    ("GET", f"{ID}/invocations/x/attempts"): "read",
    ("GET", f"{ID}/invocations/x/input"): "write",
    ("POST", f"{ID}/invocations/x/replay"): "write",
    ("GET", f"{ID}/async-policy"): "read",
    ("PUT", f"{ID}/async-policy"): "write",
    ("DELETE", f"{ID}/async-policy"): "write",
    ("GET", f"{ID}/aliases"): "read",
    ("GET", f"{ID}/aliases/live"): "read",
    ("PUT", f"{ID}/aliases/live"): "write",
    ("DELETE", f"{ID}/aliases/live"): "write",
    ("GET", f"{ID}/url"): "read",
    ("PUT", f"{ID}/url"): "write",
    ("DELETE", f"{ID}/url"): "write",
    ("GET", f"{ID}/record-policy"): "read",
    ("PUT", f"{ID}/record-policy"): "write",
    ("GET", f"{ID}/dead-letters"): "read",
    ("POST", f"{ID}/dead-letters/redrive"): "write",
    ("DELETE", f"{ID}/dead-letters/x"): "write",
    ("GET", f"{ID}/queue"): "read",
    ("GET", f"{ID}/deliveries"): "read",
    ("POST", f"{ID}/deliveries/x/retry"): "write",
    ("GET", "/api/events"): "read",
    ("GET", "/api/invocations"): "read",
    ("GET", "/api/queues"): "read",
    ("GET", "/api/dead-letters"): "read",
    ("GET", "/api/deliveries"): "read",
    ("GET", f"{ID}/versions"): "read",
    ("GET", f"{ID}/versions/1/files"): "read",
    ("GET", f"{ID}/versions/1/files/x"): "write",
    ("GET", f"{ID}/pool"): "read",
    ("GET", f"{ID}/egress"): "read",
    ("GET", f"{FUNCTIONS}/by-name/nobody"): "read",
    ("GET", f"{FUNCTIONS}/pool/stats"): "read",
    ("GET", f"{FUNCTIONS}/stats"): "read",
    ("GET", f"{ID}/series"): "read",
    ("GET", "/api/usage"): "read",
    ("GET", "/api/tenants/x/quota"): "operator",
    ("PUT", "/api/tenants/x/quota"): "operator",
    ("DELETE", "/api/tenants/x/quota"): "operator",
    ("GET", "/api/tenants"): "operator",
    ("POST", "/api/tenants/x/disable"): "operator",
    ("POST", "/api/tenants/x/enable"): "operator",
    ("GET", "/api/nodes"): "operator",
    ("GET", "/api/nodes/x"): "operator",
    ("DELETE", "/api/nodes/x"): "operator",
    ("POST", "/api/nodes/x/drain"): "operator",
    ("POST", "/api/nodes/x/cordon"): "operator",
    ("POST", "/api/nodes/x/uncordon"): "operator",
    ("GET", f"{FUNCTIONS}/pools"): "read",
    ("GET", f"{FUNCTIONS}/health"): "read",
    ("GET", f"{FUNCTIONS}/help"): "read",
    ("GET", f"{FUNCTIONS}/examples"): "read",
    ("GET", "/api/elasticity/health"): "read",
    ("GET", "/api/elasticity/help"): "read",
    ("GET", "/api/elasticity/examples"): "read",
    ("POST", f"/api/elasticity{ID[4:]}/pool-target"): "write",
    ("POST", f"/api/elasticity/control{ID[4:]}/pool-target"): "write",
    ("GET", "/api/elasticity/control/operations/x"): "read",
    ("GET", "/api/system/info"): "read",
    ("GET", "/api/system/doctor"): "operator",
    ("GET", "/api/whoami"): "read",
    ("GET", "/api/instances"): "operator",
    ("GET", "/api/runtimes"): "read",
    ("GET", "/api/runtimes/nobody"): "read",
    ("GET", "/api/runtimes/nobody/files"): "read",
    ("GET", "/api/runtimes/nobody/packages"): "read",
    ("POST", "/api/runtimes"): "write",
    ("POST", "/api/runtimes/images"): "write",
    ("DELETE", "/api/runtimes/nobody"): "write",
    ("GET", "/api/schedules"): "read",
    ("POST", "/api/schedules"): "write",
    ("GET", "/api/schedules/nobody"): "read",
    ("PUT", "/api/schedules/nobody"): "write",
    ("DELETE", "/api/schedules/nobody"): "write",
    ("POST", "/api/schedules/nobody/run"): "invoke",
    ("GET", "/api/schedules/nobody/runs"): "read",
    ("GET", "/metrics"): "operator",
    ("GET", "/api/keys"): "admin",
    ("POST", "/api/keys"): "admin",
    ("DELETE", "/api/keys/x"): "admin",
    ("GET", "/api/audit"): "admin",
}


@pytest.fixture(scope="module")
def callers(keyed: Keyed) -> dict[str, Api]:
    tenant = new_name()
    return {scope: keyed.caller(tenant, scope) for scope in SCOPES}


@promise("A63", "R8", "W10", "W19")
@pytest.mark.parametrize(("method", "path"), NEEDS, ids=lambda part: part)
def test_each_scope_includes_the_ones_before_it(
    callers: dict[str, Api], keyed: Keyed, method: str, path: str
) -> None:
    needed = SCOPES.index(NEEDS[method, path])
    for rank, scope in enumerate(SCOPES):
        answer = callers[scope](method, path)
        if rank < needed:
            is_error(answer, "FORBIDDEN", 403)
        else:
            assert answer.status_code not in (401, 403), answer.text
    is_error(Api(keyed.server.url)(method, path), "UNAUTHORIZED", 401)


def test_the_matrix_of_scopes_has_every_route(keyed: Keyed) -> None:
    paths = keyed.operator.good("GET", "/openapi.json")["paths"]
    routes = {(method.upper(), path) for path in paths for method in paths[path] if method > "a"}
    routes = {one for one in routes if one[0] in ("GET", "PUT", "POST", "DELETE")}
    unmatched = {
        (method, path)
        for method, path in routes - set(PUBLIC)
        if not any(
            method == one and re.fullmatch(re.sub(r"{\w+}", "[^/]+", path), known)
            for one, known in NEEDS
        )
    }
    assert not unmatched
    assert len(routes) == len(NEEDS) + len(PUBLIC)


@promise("A30", "A79")
def test_no_key_is_revoked_by_one_that_may_less(keyed: Keyed) -> None:
    tenant = new_name()
    operator, admin = keyed.key(tenant, "operator"), keyed.key(tenant, "admin")
    writer = keyed.key(tenant, "write")
    elsewhere = keyed.key(new_name(), "read")
    caller = Api(keyed.server.url, admin["key"])
    error = caller.refused("FORBIDDEN", 403, "DELETE", f"/api/keys/{operator['id']}")
    assert "scope operator" in error["error"]
    assert Api(keyed.server.url, operator["key"]).count() == 0, "it works still"
    # The admin sees all callers of its tenant, but it neither sees nor revokes keys of other
    # tenants.
    assert {one["id"] for one in caller.good("GET", "/api/keys")["keys"]} == {
        one["id"] for one in (operator, admin, writer)
    }
    caller.refused("NOT_FOUND", 404, "DELETE", f"/api/keys/{elsewhere['id']}")
    ids = [[one["id"] for one in page] for page in caller.pages("/api/keys?limit=2", "keys")]
    assert ids == [[operator["id"], admin["id"]], [writer["id"]]]
    for key in (writer, admin):
        caller.good("DELETE", f"/api/keys/{key['id']}", status=204)
    Api(keyed.server.url, operator["key"]).good("DELETE", f"/api/keys/{operator['id']}", status=204)


@promise("A30")
def test_a_key_that_expires_makes_none_that_lives_longer(keyed: Keyed) -> None:
    short = keyed.key(new_name(), "admin", expires_seconds=600)
    caller = Api(keyed.server.url, short["key"])
    for body in ({}, {"expires_seconds": 3600}):
        error = caller.refused("FORBIDDEN", 403, "POST", "/api/keys", body)
        assert "live longer" in error["error"]
    made = caller.good("POST", "/api/keys", {"expires_seconds": 500}, 201)
    assert made["expires_at"] <= short["expires_at"]


def test_an_admin_makes_keys_of_its_tenant_up_to_its_scope(callers: dict[str, Api]) -> None:
    admin = callers["admin"]
    made = admin.good("POST", "/api/keys", {"scope": "read"}, 201)
    assert {one["tenant_id"] for one in admin.good("GET", "/api/keys")["keys"]} == {
        made["tenant_id"]
    }
    for body in ({"tenant": "somebody-else"}, {"scope": "operator"}):
        admin.refused("FORBIDDEN", 403, "POST", "/api/keys", body)
    for body in ({"tenant": ""}, {"tenant": "../x"}, {"scope": "root"}, {"expires_seconds": 0}):  # type: ignore[assignment]
        callers["operator"].refused("UNPROCESSABLE_ENTITY", 422, "POST", "/api/keys", body)


# Tenants -----------------------------------------------------------------------------------------


@dataclass
class Strangers:
    """Two tenants: `mine` makes requests for objects of `theirs`."""

    mine: Api
    their_id: str
    their_name: str
    their_call: str
    their_key: str


@pytest.fixture(scope="module")
def strangers(keyed: Keyed) -> Strangers:
    name = new_name()
    theirs = keyed.caller(name)
    function_id = theirs.active(name="theirs")
    call = theirs.invoke(function_id)["invocation_id"]
    key = keyed.key(name, "read")["id"]
    tick = {"name": "theirs", "function": "theirs", "cron": "0 3 * * *"}
    theirs.good("POST", "/api/schedules", tick, 201)
    return Strangers(keyed.caller(new_name()), function_id, "theirs", call, key)


# The bodies that the server requires before it searches for another tenant's object.
BODIES: dict[tuple[str, str], object] = {
    ("PUT", ID): {"handler": "echo"},
    ("POST", f"{ID}/invoke"): {},
    ("POST", f"{FUNCTIONS}/invoke/nobody"): {},
    ("POST", f"{ID}/rollback"): {"version": 1},
    ("PUT", f"{ID}/aliases/live"): {"version": 1},
    ("PUT", f"{ID}/async-policy"): {"max_attempts": 2},
    ("PUT", f"{ID}/record-policy"): {"keep_input": "all"},
    ("PUT", f"{ID}/url"): {"auth": "none"},
    ("POST", f"{ID}/dead-letters/redrive"): {"all": True},
    ("PUT", "/api/schedules/nobody"): {"enabled": False},
}
FOREIGN = [
    (method, path + ("?follow=true" if path == f"{ID}/logs" else ""), BODIES.get((method, path)))
    for method, path in NEEDS
    if ID[4:] in path or path.startswith(("/api/keys/", "/api/schedules/", f"{FUNCTIONS}/by-name/"))
    if path != "/api/keys"
]
FOREIGN += [
    ("POST", f"{FUNCTIONS}/invoke/nobody", {}),
    ("POST", f"{ID}/invoke?mode=async", {}),
    ("GET", f"{ID}/invocations/x/logs?follow=true", None),
    *(("GET", f"{path}function_id={ID[15:]}", None)
      for path in ("/api/invocations?", "/api/events?follow=true&", f"{FUNCTIONS}/pools?")),
]  # fmt: skip


@promise("A5", "A42", "W10", "W19")
@pytest.mark.parametrize(("method", "path", "body"), FOREIGN, ids=str)
def test_anothers_id_answers_as_one_that_does_not_exist(
    strangers: Strangers, method: str, path: str, body: object
) -> None:
    mine = strangers.mine
    headers = {"X-Request-Id": "same", "Idempotency-Key": new_name(), "X-Orch-Action-Id": "a"}
    if "pool-target" in path:
        me = mine.good("GET", "/api/keys")["keys"][0]["tenant_id"]
        headers, body = headers | {"X-Tenant-Id": me}, {"min_instances": 0, "max_instances": 9}
    pattern = re.sub("/(x|nobody)(?=[/?]|$)", r"/{\1}", path.replace(ID[15:], "{id}"))
    call_or_key = strangers.their_key if "keys" in path else strangers.their_call
    theirs = pattern.format(id=strangers.their_id, nobody=strangers.their_name, x=call_or_key)
    nobodys = pattern.format(id="0" * 36, nobody="nobody", x="0" * 36)
    answers = []
    for target in (theirs, nobodys):
        with mine.http.stream(method, target, json=body, headers=headers) as answer:
            # if this was not refused, the response could be an endless stream
            assert answer.status_code == 404
            answer.read()
        answers.append(answer)
    is_error(answers[0], "NOT_FOUND", 404)
    assert answers[0].content == answers[1].content
    assert {**answers[0].headers, "date": 0} == {**answers[1].headers, "date": 0}


def test_nothing_of_another_tenant_is_listed_and_names_do_not_meet(strangers: Strangers) -> None:
    mine = strangers.mine
    assert mine.count() == 0
    for kind in ("invocations", "schedules"):
        assert mine.good("GET", f"/api/{kind}")[kind] == []
    tick = {"name": "mine", "function": strangers.their_name, "cron": "0 3 * * *"}
    mine.refused("UNPROCESSABLE_ENTITY", 422, "POST", "/api/schedules", tick)
    assert mine.good("GET", "/api/functions/pool/stats")["total_count"] == 0
    assert {one["tenant_id"] for one in mine.good("GET", "/api/keys")["keys"]} == {
        mine.good("GET", "/api/keys")["keys"][0]["tenant_id"]
    }
    audit = mine.good("GET", "/api/audit")["entries"]
    assert len({one["tenant_id"] for one in audit}) == 1
    assert not [one for one in audit if one["status"] < 400]
    mine.create(name=strangers.their_name)
    mine.clear()
