"""Keys over HTTP, the record of a call, what a function was refused; and no verb is missing."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from promises import promise
from quiltfn.cli import root, run
from quiltfn.sdk import Client
from quiltfn.sdk.groups import NAMES
from unit.canned_server import ID, INVOCATION, Fake, answered_by

Captured = pytest.CaptureFixture[str]
KEY: dict[str, Any] = {
    **{"id": "k1", "tenant_id": "acme", "scope": "write", "prefix": "3f9a01b2c4d5"},
    **{"created_at": 1760000000, "expires_at": None, "revoked_at": None, "label": "a\x1b[31m"},
}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    one = Fake()
    one.answers["GET", "/api/keys"] = (200, {"keys": [KEY]})
    one.answers["POST", "/api/keys"] = (201, {**KEY, "key": "quilt_sk_new"})
    one.answers["DELETE", "/api/keys/k1"] = (204, None)
    answered_by(one, monkeypatch)
    return one


def test_a_new_key_is_printed_alone_so_that_it_can_be_piped(fake: Fake, capsys: Captured) -> None:
    words = ["--scope", "write", "--tenant", "acme", "--expires", "2h", "--label", "ci"]
    assert run(["api-keys", "create", *words]) == 0
    assert fake.body == {"scope": "write", "tenant": "acme", "expires_seconds": 7200, "label": "ci"}
    printed = capsys.readouterr()
    assert printed.out == "quilt_sk_new\n"
    assert "key k1: tenant acme, scope write, never expires" in printed.err
    assert run(["api-keys", "create", "--expires", "soon"]) == 2
    assert "--expires must be an age" in capsys.readouterr().err


def test_keys_are_listed_without_secrets_and_revoked(fake: Fake, capsys: Captured) -> None:
    assert run(["api-keys", "list"]) == 0
    row = capsys.readouterr().out.splitlines()[1]
    assert row.split()[:4] == ["k1", "acme", "write", "3f9a01b2c4d5"]
    assert r"a\u001b[31m" in row
    assert run(["api-keys", "revoke", "k1"]) == 0
    assert fake.asked[-1] == ("DELETE", "/api/keys/k1")
    assert capsys.readouterr().out == "revoked k1\n"
    assert run(["api-keys", "revoke", "k2"]) == 1
    fake.answers["GET", "/api/keys"] = (200, {"keys": []})
    assert run(["api-keys", "list"]) == 0
    assert "needs none until the first" in capsys.readouterr().err


def test_tenants_are_listed_disabled_and_enabled(fake: Fake, capsys: Captured) -> None:
    acme = {"tenant_id": "acme", "disabled": True, "functions": 3, "valid_keys": 2}
    acme |= {"calls_in_flight": 0}
    fake.answers["GET", "/api/tenants"] = (200, {"tenants": [acme], "next_cursor": "c2"})
    fake.answers["POST", "/api/tenants/acme/disable"] = (200, acme)
    fake.answers["POST", "/api/tenants/acme/enable"] = (200, {**acme, "disabled": False})
    assert run(["tenants", "list", "--limit", "1"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1].split() == ["acme", "disabled", "3", "2", "0"]
    assert (fake.query, "--cursor c2" in printed.err) == ("limit=1", True)
    assert run(["tenants", "disable", "acme"]) == 1, "it was not asked whether it may"
    capsys.readouterr()
    for verb, *sure in (("disable", "--yes"), ("enable",)):
        assert run(["tenants", verb, "acme", *sure]) == 0
        assert capsys.readouterr().out == f"acme is {verb}d\n"


@promise("A87")
def test_an_operator_names_the_tenant_that_a_command_is_about(fake: Fake, capsys: Captured) -> None:
    fake.answers["POST", f"/{ID}/pause"] = (200, {"success": True, "message": None})
    assert run(["functions", "pause", "hello", "--as-tenant", "acme"]) == 0
    assert fake.query == "tenant=acme"
    assert run(["functions", "pause", "hello"]) == 0
    assert fake.query == ""
    unknown = "the query parameter tenant must be left out: this route has none"
    older = {"success": False, "error": unknown, "error_code": "UNPROCESSABLE_ENTITY"}
    fake.answers["GET", "/by-name/hello"] = (422, older)
    assert run(["functions", "pause", "hello", "--as-tenant", "acme"]) == 1
    assert "--as-tenant needs a newer server" in capsys.readouterr().err


def test_the_record_of_a_call_is_shown_in_short_and_whole(fake: Fake, capsys: Captured) -> None:
    record = {**INVOCATION, "stdout": "ä" * 1024, "error_message": None}
    fake.answers["GET", f"/{ID}/invocations/i1"] = (200, record)
    assert run(["functions", "record", "hello", "i1"]) == 0
    rows = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    told = {name.strip(): one.strip() for name, one in rows.items()}
    assert told["status"] == "success"
    assert told["took"] == "3 ms"
    assert told["standard output"] == "2.0 KiB"
    assert "why" not in told
    assert run(["functions", "record", "hello", "i1", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == record


def test_what_a_function_was_refused_is_shown(fake: Fake, capsys: Captured) -> None:
    refused = [{"address": "10.0.0.1", "port": 22, "protocol": "tcp"}]
    answer = {"function_id": ID, "network": "egress", "blocked_count": 7}
    fake.answers["GET", f"/{ID}/egress"] = (200, {**answer, "blocked_destinations": refused})
    assert run(["functions", "egress", "hello"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[:2] == [["network", "egress"], ["refused", "7"]]
    assert lines[-1] == ["10.0.0.1", "22", "tcp"]


# What the client library can do and no command does, with the reason.
WITHOUT_A_COMMAND = {
    "system.get_liveness": "health says more",
    "system.get_readiness": "health says more",
    "elasticity.create_operation": "for orchestrators; functions scale does the same",
    "elasticity.get_operation": "likewise",
    "functions.get_invocation_logs": "logs --call follows them",
}


def test_every_verb_of_the_client_library_is_one_of_a_command() -> None:
    place, client = Path(root.__file__).parent, Client()
    source = "\n".join(path.read_text() for path in place.rglob("*.py"))
    without = {
        f"{group}.{name}"
        for group in NAMES
        for one in type(getattr(client, group)).__mro__[:-1]
        for name in vars(one)
        if not name.startswith("_")
        and not re.search(rf"\b({group}|calls|client)\.{name}\b", source)
    }
    assert without == set(WITHOUT_A_COMMAND)
