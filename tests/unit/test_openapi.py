"""The OpenAPI document that is generated from the route table, without a server."""

import re
from typing import Any

from quiltfn.api.http.route import ANY_METHOD
from quiltfn.api.openapi import document, operation_id
from quiltfn.api.routes.table import ROUTES

VERBS = {
    "uncordon",
    *(
        "add",
        "cancel",
        "cordon",
        "create",
        "delete",
        "deploy",
        "disable",
        "drain",
        "enable",
        "get",
        "invoke",
        "list",
        "pause",
        "redrive",
    ),
    *("remove", "replay", "resume", "retry", "revoke", "rollback", "set", "update", "upload"),
}


def test_every_operation_is_a_verb_and_what_it_is_done_to() -> None:
    found = [operation_id(route) for route in ROUTES]
    assert {"createApiKey", "getFunction", "getSystemInfo"} <= set(found)
    assert len(found) == len(set(found))
    for name in found:
        words = re.sub("([A-Z])", r" \1", name).lower().split()
        assert words[0] in VERBS, name
        assert len(words) > 1, name


LIMITS = {"memory_limit_mb": 4096, "cpu_limit_percent": 200, "timeout_seconds": 60}


def fields_of(schema: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = document(ROUTES, LIMITS)["components"]["schemas"]
    return found[schema]["properties"]


def part(field: dict[str, Any]) -> dict[str, Any]:
    """The schema of a field's value, without null."""
    parts = field.get("anyOf", [field])
    return next(one for one in parts if one.get("type") != "null")


def test_every_part_of_a_path_says_whose_it_is() -> None:
    paths = document(ROUTES, LIMITS)["paths"]
    described = {
        path: [one["description"] for one in item["parameters"]]
        for path, item in paths.items()
        if "parameters" in item
    }
    assert len(described) > 50
    assert described["/api/nodes/{name}"] == ["the node's name"]
    assert described["/api/functions/invoke/{name}"] == ["the function's name"]
    assert described["/api/functions/{function_id}/aliases/{alias}"] == [
        "the function's id, and not its name",
        "the alias's name",
    ]


def test_an_operation_takes_a_tenant_exactly_if_it_needs_a_scope() -> None:
    paths = document(ROUTES, LIMITS)["paths"]
    for route in ROUTES:
        if route.method == ANY_METHOD:
            continue
        operation = paths[route.path.replace(":path}", "}")][route.method.lower()]
        named = [(one["in"], one["name"]) for one in operation.get("parameters", [])]
        assert named.count(("query", "tenant")) == (route.scope is not None), route.path


def test_bounds_and_examples_are_told_those_of_this_server_too() -> None:
    fields = fields_of("NewFunction")
    assert (
        part(fields["memory_limit_mb"])["minimum"],
        part(fields["memory_limit_mb"])["maximum"],
    ) == (256, 4096)
    assert part(fields["cluster_id"])["maxLength"] == 128
    assert part(fields["handler"])["examples"] == ["echo hello"]
    assert fields["cleanup_on_exit"]["default"] is True
    # Responses may exceed the limits of requests: a newer server allows more.
    assert "maximum" not in part(fields_of("Function")["memory_limit_mb"])
