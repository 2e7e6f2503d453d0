"""The OpenAPI document, as it is made from the route table. No server."""

import re

from quiltfn.api.openapi import operation_id
from quiltfn.api.routes import ROUTES

VERBS = {
    *("add", "create", "delete", "deploy", "get", "invoke", "list", "pause", "remove", "resume"),
    *("revoke", "rollback", "set", "update", "upload"),
}


def operation_ids() -> list[str]:
    return [operation_id(way) for _, ways in ROUTES for way in ways.values()]


def test_every_operation_is_a_verb_and_what_it_is_done_to() -> None:
    found = operation_ids()
    assert {"createApiKey", "getFunction", "getSystemInfo"} <= set(found)
    for one in found:
        words = re.sub("([A-Z])", r" \1", one).lower().split()
        assert words[0] in VERBS, one
        assert len(words) > 1, one


def test_no_two_operations_share_a_name() -> None:
    found = operation_ids()
    assert len(found) == len(set(found))
