"""The log has one JSON object per line, and shows why a request was refused."""

import json

import pytest

from e2e.server import Server

pytestmark = pytest.mark.sandbox


def test_a_refusal_and_a_change_are_logged_with_their_ids(shared: Server) -> None:
    server = shared
    made = server.call("POST", "/api/functions", {"name": "logged", "handler": "true"})
    refused = server.call("POST", f"/api/functions/{made.json()['function_id']}/invoke")
    assert (made.status_code, refused.status_code) == (201, 409)
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line[:1] == "{"]
    by_id = {line["request_id"]: line for line in lines if "request_id" in line}
    assert by_id[made.headers["x-request-id"]]["status"] == 201
    line = by_id[refused.headers["x-request-id"]]
    assert (line["status"], line["method"]) == (409, "POST")


def test_no_control_character_of_a_caller_reaches_the_log(shared: Server) -> None:
    server = shared
    server.call("GET", "/api/functions/%1b%5b31m%0ared")
    assert "\x1b" not in server.log.read_text()
    assert "\\u001b[31m\\nred" in server.log.read_text()
