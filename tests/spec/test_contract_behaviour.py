"""The contract, "Invoke" and "Behaviour": the input of a handler, and when a function can be
invoked.
"""

import time
from pathlib import Path

import pytest

from e2e.server import until
from promises import promise
from quiltfn.settings import Settings
from spec.api_client import Api, new_name, of
from spec.conftest import Keyed
from spec.test_contract_services import in_background
from timeouts import scaled

pytestmark = [pytest.mark.sandbox, promise("A1")]
SETTINGS_PAGE = Path(__file__).resolve().parents[2] / "docs/reference/settings.md"


# Invoke ----------------------------------------------------------------------------------------


def test_a_longer_timeout_is_refused_not_clamped(tenant: Api) -> None:
    path = f"{of(tenant.active(timeout_seconds=3))}/invoke"
    for timeout in (0, -1, 4, 901, "1", True, 1.5):
        body = {"timeout_seconds": timeout}
        error = tenant.refused("UNPROCESSABLE_ENTITY", 422, "POST", path, body)
        assert "timeout_seconds" in error["error"]


def test_a_shorter_timeout_is_for_this_call(tenant: Api) -> None:
    function_id = tenant.active("sleep ${QUILT_PAYLOAD}", timeout_seconds=30)
    record = tenant.invoke(function_id, "9", timeout_seconds=1)
    assert record["status"] == "timeout"
    assert 1000 <= record["duration_ms"] < scaled(2000)
    assert tenant.invoke(function_id, "0", timeout_seconds=None)["status"] == "success"


def test_the_variables_of_a_call(tenant: Api) -> None:
    name = new_name()
    function_id = tenant.active("env; pwd", name=name, timeout_seconds=7)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    before = time.time()
    record = tenant.good(
        "POST", f"{of(function_id)}/invoke", {"payload": "p"}, headers={"traceparent": trace}
    )
    found = dict(one.split("=", 1) for one in record["stdout"].splitlines() if "=" in one)
    assert found["QUILT_INVOCATION_ID"] == record["invocation_id"]
    assert found["QUILT_FUNCTION_ID"] == function_id
    assert found["QUILT_FUNCTION_NAME"] == name
    assert found["QUILT_FUNCTION_VERSION"] == "1"
    assert found["QUILT_MEMORY_LIMIT_MB"] == "256"
    assert found["QUILT_PAYLOAD"] == "p"
    assert found["TRACEPARENT"] == trace
    assert found["HOME"] == "/tmp"
    assert abs(int(found["QUILT_DEADLINE_MS"]) / 1000 - 7 - before) < 1
    assert "TRACEPARENT" not in tenant.invoke(function_id)["stdout"]


def test_a_shell_handler_is_a_command_line_whose_variables_the_shell_expands(tenant: Api) -> None:
    function_id = tenant.active('for n in 1 2; do echo "$A$n"; done | tail -n 1',
                                environment={"A": "x"})  # fmt: skip
    assert tenant.invoke(function_id)["stdout"] == "x2\n"


@pytest.mark.one_server("another node has an instance of its own")
def test_cleanup_on_exit(tenant: Api) -> None:
    handler = "ls /tmp; touch /tmp/mark; (sleep 99 </dev/null >/dev/null 2>&1 &)"
    for cleanup, second in ((True, ""), (False, "mark\n")):
        function_id = tenant.active(handler, cleanup_on_exit=cleanup, max_instances=1)
        assert [tenant.invoke(function_id)["stdout"] for _ in range(2)] == ["", second]
        look = tenant.active("cat /proc/[0-9]*/comm", cleanup_on_exit=cleanup)
        assert "sleep" not in tenant.invoke(look)["stdout"]


# Lifecycle -------------------------------------------------------------------------------------


def test_a_function_that_is_not_active_says_its_state_and_what_helps(tenant: Api) -> None:
    function_id = tenant.create(working_directory="/nowhere")
    path = of(function_id)

    def refused(state: str, hint: str) -> None:
        body = tenant.refused("FUNCTION_NOT_ACTIVE", 409, "POST", f"{path}/invoke", {})
        assert body["details"]["state"] == state
        assert hint in body["hint"]

    refused("pending", "deploy")
    tenant.good("POST", f"{path}/deploy")
    refused("error", "deploy")
    tenant.good("PUT", path, {"working_directory": None})
    tenant.good("POST", f"{path}/deploy")
    tenant.good("POST", f"{path}/pause")
    refused("paused", "resume")


def test_pausing_or_resuming_what_is_pending_or_in_error_is_a_conflict(tenant: Api) -> None:
    path = of(tenant.create(working_directory="/nowhere"))
    for state in ("pending", "error"):
        for verb in ("pause", "resume"):
            error = tenant.refused("CONFLICT", 409, "POST", f"{path}/{verb}")
            assert error["details"]["state"] == state
        tenant.good("POST", f"{path}/deploy")


@pytest.mark.one_server("a node hears of the pools of others with their next beat")
@pytest.mark.parametrize("least", [0, 2])
def test_deploy_makes_at_least_one_instance_ready(tenant: Api, least: int) -> None:
    function_id = tenant.active(min_instances=least, max_instances=3)
    assert tenant.pool(function_id)["ready_count"] == max(1, least)
    tenant.good("POST", f"{of(function_id)}/deploy")
    assert tenant.pool(function_id)["ready_count"] == max(1, least)


def test_a_pause_lets_running_calls_finish_and_empties_the_pool(keyed: Keyed, tenant: Api) -> None:
    function_id = tenant.active("sleep 60; :", max_instances=1)
    thread, running = in_background(lambda: tenant.invoke(function_id))
    until(lambda: keyed.server.named("sleep"))
    path = f"{of(function_id)}/invoke"
    waiter, waiting = in_background(lambda: tenant("POST", path, {}))
    time.sleep(0.2)
    tenant.good("POST", f"{of(function_id)}/pause")
    tenant.refused("FUNCTION_NOT_ACTIVE", 409, "POST", path, {})
    waiter.join()
    keyed.server.wake()
    thread.join()
    assert waiting[0].json()["error_code"] == "FUNCTION_NOT_ACTIVE"
    assert running[0]["status"] == "success"
    until(lambda: tenant.pool(function_id)["total_count"] == 0, 5)


def test_a_deletion_ends_the_calls_that_wait(keyed: Keyed, tenant: Api) -> None:
    function_id = tenant.active("sleep 60; :", max_instances=1)
    path = f"{of(function_id)}/invoke"
    first, running = in_background(lambda: tenant("POST", path, {}))
    until(lambda: keyed.server.named("sleep"))
    second, waiting = in_background(lambda: tenant("POST", path, {}))
    time.sleep(0.2)
    tenant.good("DELETE", of(function_id), status=204)
    second.join()
    assert waiting[0].json()["error_code"] == "NOT_FOUND"
    assert not running, "and do not wait for those that run"
    keyed.server.wake()
    first.join()
    assert running[0].json()["status"] == "success"


def test_an_update_never_touches_the_active_version(keyed: Keyed, tenant: Api) -> None:
    function_id = tenant.active("sleep 60; echo 1", max_instances=3)
    thread, running = in_background(lambda: tenant.invoke(function_id))
    until(lambda: keyed.server.named("sleep"))
    answer = tenant.good("PUT", of(function_id), {"handler": "echo $QUILT_FUNCTION_VERSION"})
    assert answer["current_version"] == 2
    assert {tenant.invoke(function_id)["stdout"] for _ in range(5)} == {"2\n"}
    keyed.server.wake()
    thread.join()
    assert running[0]["stdout"] == "1\n"
    answer = tenant.good("POST", f"{of(function_id)}/rollback", {"version": 1})
    assert answer["current_version"] == 1
    again = tenant.good("PUT", of(function_id), {"handler": "echo three"})
    assert again["current_version"] == 3  # numbers increase by one and are never reused


def test_an_update_that_cannot_stand_leaves_the_old_version_serving(tenant: Api) -> None:
    function_id = tenant.active("echo old")
    answer = tenant.good("PUT", of(function_id), {"working_directory": "/nowhere"})
    assert answer["current_version"] == 1
    assert "/nowhere" in answer["error_message"]
    versions = tenant.good("GET", f"{of(function_id)}/versions")["versions"]
    assert [(one["version"], one["is_active"]) for one in versions] == [(2, False), (1, True)]
    assert tenant.invoke(function_id)["stdout"] == "old\n"


@pytest.mark.one_server("a node hears of the pools of others with their next beat")
def test_max_instances_bounds_the_pool_and_calls_wait_in_line(tenant: Api) -> None:
    function_id = tenant.active("sleep 0.2", max_instances=2)
    threads = [in_background(lambda: tenant.invoke(function_id)) for _ in range(8)]
    seen = set()
    while any(thread.is_alive() for thread, _ in threads):
        seen.add(tenant.pool(function_id)["total_count"])
    assert max(seen) == 2
    assert {found[0]["status"] for _, found in threads} == {"success"}


# Defaults --------------------------------------------------------------------------------------

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
