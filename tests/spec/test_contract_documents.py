"""The contract's documents: help, examples, health, OpenAPI and its page."""

import os
import re
import subprocess
from typing import Any

import httpx
import jsonschema_rs
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31

from e2e.server import Server
from promises import promise
from quiltfn.api.http.route import ANY_METHOD
from quiltfn.api.openapi import COMMON_METHODS
from quiltfn.api.routes.table import ROUTES
from spec.api_client import Api, new_name
from spec.conftest import Keyed
from timeouts import scaled

pytestmark = pytest.mark.sandbox
MARKDOWN = "text/markdown; charset=utf-8"
GUIDES = [f"/api/{what}/{one}" for what in ("functions", "elasticity") for one in
          ("health", "help", "examples")]  # fmt: skip


@pytest.mark.parametrize("path", GUIDES)
def test_a_guide_is_json_or_markdown(anybody: Api, path: str) -> None:
    as_json = anybody("GET", path)
    assert as_json.headers["content-type"] == "application/json"
    assert anybody.good("GET", f"{path}?format=json").keys() == as_json.json().keys()
    for asked in (
        anybody("GET", f"{path}?format=markdown"),
        anybody("GET", path, headers={"Accept": "text/markdown"}),
    ):
        assert asked.status_code == 200
        assert asked.headers["content-type"] == MARKDOWN
        assert asked.text.startswith("# ")
    anybody.refused("UNPROCESSABLE_ENTITY", 422, "GET", f"{path}?format=xml")


def test_health_says_whether_and_why(anybody: Api) -> None:
    health = anybody.good("GET", "/api/functions/health")
    assert (health["ready"], health["transport"]) == (True, "loopback")
    assert {"store", "disk", "oci_runtime", "launcher"} <= set(health["checks"])
    assert all(one["ok"] and one["reason"] for one in health["checks"].values())
    assert health["protections"]


def test_help_has_every_route_with_its_rules_and_explains_the_rest(anybody: Api) -> None:
    page = anybody.good("GET", "/api/functions/help")
    elastic = anybody.good("GET", "/api/elasticity/help")
    routes = {(one["method"], one["path"]) for one in page["routes"] + elastic["routes"]}
    assert routes == table("ANY")
    create = next(
        one for one in page["routes"] if (one["method"], one["path"]) == ("POST", "/api/functions")
    )
    assert set(create["fields"]) >= {"name", "handler", "environment", "working_directory"}
    assert all(one["rule"] for one in create["fields"].values())
    assert page["debugging"]
    mistakes = " ".join(page["common_mistakes"])
    for point in ("cold_start is metadata", "new version", "warm capacity"):
        assert point in mistakes


def table(*any_method: str) -> set[tuple[str, str]]:
    """The method and path of each route. `any_method`: the methods to list for a route of any
    method.
    """
    found = {(route.method, route.path.replace(":path}", "}")) for route in ROUTES}
    rest = {one for one in found if one[0] == ANY_METHOD}
    return (found - rest) | {(method, path) for _, path in rest for method in any_method}


# Examples --------------------------------------------------------------------------------------


def run_as_printed(text: str, url: str, key: str | None) -> list[tuple[int, int]]:
    """Runs all code blocks in one bash; returns the expected and the actual status of each
    request.
    """
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    promised = [int(one) for one in re.findall(r"^Answers (\d{3})\.$", text, re.M)]
    assert len(blocks) == len(promised) + 1
    # A shell function with the name of curl runs the real curl, and also prints the status of each
    # response.
    watch = 'curl() { command curl -w "%{stderr}%{http_code}\\n" "$@"; }\n'
    environment = {"PATH": os.environ["PATH"], "QUILT_BASE_URL": url}
    if key:
        environment["QUILT_API_KEY"] = key
    done = subprocess.run(
        ["bash", "-eu"],
        input=watch + "\n".join(blocks),
        capture_output=True,
        text=True,
        timeout=scaled(60),
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    answered = [int(one) for one in done.stderr.split()]
    return list(zip(promised, answered, strict=True))


@promise("A10")
@pytest.mark.parametrize("area", ["functions", "elasticity"])
def test_the_examples_work_as_printed(anybody: Api, open_server: Server, area: str) -> None:
    text = anybody("GET", f"/api/{area}/examples?format=markdown").text
    for promised, answered in run_as_printed(text, open_server.url, None):
        assert promised == answered
    assert anybody.count() == 0


def test_the_examples_work_with_a_key(keyed: Keyed) -> None:
    caller = keyed.caller(new_name())
    text = caller("GET", "/api/functions/examples?format=markdown").text
    assert text.count("```sh") > 10
    for promised, answered in run_as_printed(text, keyed.server.url, caller.key):
        assert promised == answered


def test_the_examples_as_json_work_in_order(keyed: Keyed) -> None:
    caller, kept = keyed.caller(new_name()), dict[str, Any]()
    for example in caller.good("GET", "/api/functions/examples")["examples"]:
        path = example["path"]
        for name, value in kept.items():
            path = path.replace(f"${name}", value)
        answer = caller(
            example["method"], path, example.get("body"), headers=example.get("headers")
        )
        assert answer.status_code == example["expect_status"], answer.text
        kept |= {name: answer.json()[field] for name, field in example.get("keeps", {}).items()}
        if path.endswith("/invoke"):
            is_queued = answer.status_code == 202
            assert answer.json()["status"] == ("queued" if is_queued else "success")


# OpenAPI ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def document(open_server: Server) -> dict[str, Any]:
    answer: httpx.Response = Api(open_server.url)("GET", "/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


def test_the_document_is_valid_openapi(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    jsonschema_rs.validator_for(OPENAPI_31).validate(document)
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate(
            {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
        )


def test_the_check_of_the_document_can_fail(document: dict[str, Any]) -> None:
    broken = document | {"paths": {"no-slash": {"get": {"responses": 1}}}}
    assert not jsonschema_rs.validator_for(OPENAPI_31).is_valid(broken)


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def test_references_lead_somewhere_and_operations_have_names(document: dict[str, Any]) -> None:
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]
    names = [way["operationId"] for item in document["paths"].values() for name, way in item.items()
             if name != "parameters"]  # fmt: skip
    assert len(names) == len(set(names))


def test_its_routes_are_the_route_table(document: dict[str, Any]) -> None:
    methods = {
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in item
        if method != "parameters"
    }
    assert methods == table(*COMMON_METHODS)
