"""The contract: the schemas of functions, versions and invocations, ETags, masked values, limits of
output.
"""

import json
import re

import pytest

from promises import promise
from spec.api_client import Api, new_name, of
from spec.conftest import Keyed
from spec.function_fields import FIELDS

pytestmark = [pytest.mark.sandbox, promise("A1")]
# The fields that clients cannot set.
OF_FUNCTION = (
    *("id", "tenant_id", "owner_node_id", "state", "current_version", "created_at", "updated_at"),
    *("last_invoked_at", "invocation_count", "error_count", "error_message"),
)
VERSION = [
    "id",
    "function_id",
    "version",
    "handler",
    "runtime",
    "environment",
    "created_at",
    "is_active",
    "description",
]
FIXED = "working_directory, memory_limit_mb, cpu_limit_percent, timeout_seconds, cleanup_on_exit"
OURS = "image_digest"  # a field that the client library does not know
INVOCATION = [
    "invocation_id",
    "function_id",
    "function_name",
    "execution_node_id",
    "status",
    "started_at",
    "ended_at",
    "duration_ms",
    "exit_code",
    "stdout",
    "stderr",
    "error_message",
    "cold_start",
]


# Function --------------------------------------------------------------------------------------


def test_a_function_has_exactly_its_fields_wherever_it_is_shown(tenant: Api) -> None:
    function_id = tenant.create()
    path = of(function_id)
    shown = [
        tenant.get(function_id),
        tenant.good("GET", "/api/functions")["functions"][0],
        tenant.good("PUT", path, {"handler": "echo 2"}),
        tenant.good("POST", f"{path}/deploy"),
        tenant.good("POST", f"{path}/rollback", {"version": 1}),
        tenant.good("POST", f"{path}/resume"),
    ]
    assert all(set(one) == {*FIELDS, *OF_FUNCTION} for one in shown)
    assert shown[0]["owner_node_id"]


@pytest.mark.one_server("a node hears of calls that others counted within 5 s")
def test_the_counts_of_calls(tenant: Api) -> None:
    function_id = tenant.active("exit ${QUILT_PAYLOAD:-0}")
    assert tenant.get(function_id)["last_invoked_at"] is None
    for payload in ("0", "3", "0"):
        last = tenant.invoke(function_id, payload)
    shown = tenant.get(function_id)
    assert (shown["invocation_count"], shown["error_count"]) == (3, 1)
    assert shown["last_invoked_at"] == last["started_at"]


def test_etag_and_if_match(tenant: Api) -> None:
    function_id = tenant.active()
    path = of(function_id)
    tag = tenant("GET", path).headers["etag"]
    assert re.fullmatch(r'"[!#-~]+"', tag)
    tenant.invoke(function_id)
    assert tenant("GET", path).headers["etag"] == tag  # invocations do not change the ETag
    answer = tenant("PUT", path, {"handler": "echo 2"}, headers={"If-Match": tag})
    assert answer.status_code == 200
    assert answer.headers["etag"] != tag
    for stale in (tag, f"W/{answer.headers['etag']}", "rubbish", '""'):
        tenant.refused("PRECONDITION_FAILED", 412, "PUT", path, {"handler": "echo 3"},
                       headers={"If-Match": stale})  # fmt: skip
    either = f"{tag}, {answer.headers['etag']}"
    tenant.good("PUT", path, {"handler": "echo 3"}, headers={"If-Match": either})
    tenant.good("PUT", path, {"handler": "echo 4"}, headers={"If-Match": "*"})
    assert tenant.get(function_id)["current_version"] == 4


# Version ---------------------------------------------------------------------------------------


def test_a_version_has_exactly_its_fields(tenant: Api) -> None:
    function_id = tenant.create(description="one")
    versions = tenant.good("GET", f"{of(function_id)}/versions")["versions"]
    assert set(versions[0]) == {*VERSION, *FIXED.split(", "), OURS}
    assert versions[0]["function_id"] == function_id


def test_rollback_restores_what_the_version_fixes_and_nothing_else(tenant: Api) -> None:
    fixed = {"handler": "echo 1", "memory_limit_mb": 300, "environment": {"A": "1"}}
    name = new_name()
    function_id = tenant.create(name=name, description="one", max_instances=2, **fixed)  # type: ignore[arg-type]
    new = {"handler": "echo 2", "memory_limit_mb": 400, "environment": {}, "description": "two"}
    tenant.good("PUT", of(function_id), new | {"max_instances": 3, "name": f"{name}-b"})
    answer = tenant.good("POST", f"{of(function_id)}/rollback", {"version": 1})
    assert {one: answer[one] for one in fixed} == fixed
    assert (answer["name"], answer["max_instances"]) == (f"{name}-b", 3)
    assert answer["description"] == "two"
    versions = tenant.good("GET", f"{of(function_id)}/versions")["versions"]
    assert [one["description"] for one in versions] == ["two", "one"]
    assert [one["is_active"] for one in versions] == [False, True]


@pytest.mark.parametrize("scope", ["read", "invoke", "write"])
def test_environment_values_are_masked_below_write(keyed: Keyed, scope: str) -> None:
    name = new_name()
    owner, other = keyed.caller(name), keyed.caller(name, scope)
    function_id = owner.create(environment={"SECRET": "hunter2"})
    path = of(function_id)
    seen = "hunter2" if scope == "write" else "***"
    for where in (path, "/api/functions", f"{path}/versions"):
        assert json.dumps({"SECRET": seen}) in json.dumps(other.good("GET", where))
        assert ("hunter2" in other("GET", where).text) == (scope == "write")
    owner.clear()


@promise("A80")
def test_a_masked_value_is_refused_on_write(tenant: Api) -> None:
    function_id = tenant.active(environment={"SECRET": "hunter2"})
    masked = {"environment": {"SECRET": "***"}}
    tenant.refused("UNPROCESSABLE_ENTITY", 422, "PUT", of(function_id), masked)
    tenant.refused("UNPROCESSABLE_ENTITY", 422, "POST", f"{of(function_id)}/invoke", masked)
    assert tenant.get(function_id)["environment"] == {"SECRET": "hunter2"}


# Invocation ------------------------------------------------------------------------------------


def test_a_longer_timeout_is_refused_not_clamped(tenant: Api) -> None:
    path = f"{of(tenant.active(timeout_seconds=3))}/invoke"
    for timeout in (0, -1, 4, 901, "1", True, 1.5):
        body = {"timeout_seconds": timeout}
        error = tenant.refused("UNPROCESSABLE_ENTITY", 422, "POST", path, body)
        assert "timeout_seconds" in error["error"]


@pytest.mark.one_server("it names the one node")
@pytest.mark.parametrize("payload", ["0", "7"])
def test_an_invocation_has_exactly_its_thirteen_keys(tenant: Api, payload: str) -> None:
    function_id = tenant.active("echo out; echo err >&2; exit $QUILT_PAYLOAD")
    record = tenant.invoke(function_id, payload)
    assert list(record) == INVOCATION
    listed = tenant.good("GET", f"{of(function_id)}/invocations")["invocations"]
    assert listed == [record]
    path = f"{of(function_id)}/invocations/{record['invocation_id']}"
    assert tenant.good("GET", path) == record
    assert record["function_id"] == function_id
    assert record["function_name"] == tenant.get(function_id)["name"]
    assert record["execution_node_id"] == tenant.get(function_id)["owner_node_id"]
    assert (record["stdout"], record["stderr"]) == ("out\n", "err\n")


@promise("C5")
@pytest.mark.parametrize(("stream", "most"), [("stdout", 6291456), ("stderr", 1048576)])
def test_output_has_a_limit_and_says_what_is_cut(tenant: Api, stream: str, most: int) -> None:
    to = "" if stream == "stdout" else " >&2"
    function_id = tenant.active(f"head -c {most + 100} /dev/zero | tr '\\0' a{to}")
    path = f"{of(function_id)}/invoke"
    first = tenant("POST", path, {}, headers={"Idempotency-Key": "large"})
    record = first.json()
    assert record[stream] == "a" * most
    assert first.headers["x-output-truncated"] == f"{stream}=100"
    assert (record["status"], record["exit_code"]) == ("success", 0)
    assert f"first {most} bytes are kept and 100 were dropped" in record["error_message"]
    again = tenant("POST", path, {}, headers={"Idempotency-Key": "large"})
    assert again.headers["idempotency-replayed"] == "true"
    for name in ("x-output-truncated", "x-invocation-id", "x-function-version", "server-timing"):
        assert again.headers[name] == first.headers[name]
    assert again.content == first.content
    shown = tenant("GET", f"{of(function_id)}/invocations/{record['invocation_id']}")
    assert shown.headers["x-output-truncated"] == f"{stream}=100"
    assert shown.json() == record
