"""Commands for keys, tenants, a call's record, refused egress; each operation has a command."""

import re
from pathlib import Path

import pytest

from promises import promise
from quiltfn import wire
from quiltfn.cli import root
from quiltfn.sdk import Client
from quiltfn.sdk.groups import NAMES
from unit.canned_server import ID, INVOCATION, body_of
from unit.command_line import CommandLine

KEY = body_of(wire.Key, id="k1", tenant_id="acme", scope="write", label="a\x1b[31m")


@pytest.fixture
def cli(cli: CommandLine) -> CommandLine:
    cli.answers["GET", "/api/keys"] = (200, {"keys": [KEY]})
    cli.answers["POST", "/api/keys"] = (201, {**KEY, "key": "quilt_sk_new"})
    cli.answers["DELETE", "/api/keys/k1"] = (204, None)
    return cli


def test_a_new_key_is_printed_alone_so_that_it_can_be_piped(cli: CommandLine) -> None:
    printed = cli.run("api-keys create --scope write --tenant acme --expires 2h --label ci")
    assert cli.body == {"scope": "write", "tenant": "acme", "expires_seconds": 7200, "label": "ci"}
    assert printed.out == "quilt_sk_new\n"
    assert "key k1: tenant acme, scope write, never expires" in printed.err


def test_keys_are_listed_without_secrets_and_revoked(cli: CommandLine) -> None:
    row = cli.run("api-keys list").lines[1]
    assert row.startswith(f"k1 acme write {KEY['prefix']} ")
    assert r"a\u001b[31m" in row
    assert cli.run("api-keys revoke k1").out == "revoked k1\n"
    assert cli.asked[-1] == ("DELETE", "/api/keys/k1")
    cli.run("api-keys revoke k2", code=1)
    cli.answers["GET", "/api/keys"] = (200, {"keys": []})
    assert "requires none until the first" in cli.run("api-keys list").err


def test_tenants_are_listed_disabled_and_enabled(cli: CommandLine) -> None:
    counts = {"functions": 3, "valid_keys": 2, "calls_in_flight": 0}
    acme = body_of(wire.Tenant, tenant_id="acme", disabled=True, **counts)
    cli.answers["GET", "/api/tenants"] = (200, {"tenants": [acme], "next_cursor": "c2"})
    cli.answers["POST", "/api/tenants/acme/disable"] = (200, acme)
    cli.answers["POST", "/api/tenants/acme/enable"] = (200, {**acme, "disabled": False})
    printed = cli.run("tenants list --limit 1")
    assert printed.lines[1] == "acme disabled 3 2 0"
    assert (cli.query, "--cursor c2" in printed.err) == ("limit=1", True)
    # Without a terminal, the command cannot ask for confirmation.
    cli.run("tenants disable acme", code=1)
    assert cli.run("tenants disable acme --yes").out == "acme is disabled\n"
    assert cli.run("tenants enable acme").out == "acme is enabled\n"


@promise("A87")
def test_an_operator_names_the_tenant_that_a_command_is_about(cli: CommandLine) -> None:
    cli.answers["POST", f"/{ID}/pause"] = (200, {"success": True, "message": None})
    cli.run("functions pause hello --as-tenant acme")
    assert cli.query == "tenant=acme"
    cli.run("functions pause hello")
    assert cli.query == ""
    unknown = "the query parameter tenant must be left out: this route has none"
    older = {"success": False, "error": unknown, "error_code": "UNPROCESSABLE_ENTITY"}
    cli.answers["GET", "/by-name/hello"] = (422, older)
    printed = cli.run("functions pause hello --as-tenant acme", code=1)
    assert "--as-tenant needs a newer server" in printed.err


def test_the_record_of_a_call_is_shown_in_short_and_whole(cli: CommandLine) -> None:
    record = {**INVOCATION, "stdout": "ä" * 1024, "error_message": None}
    cli.answers["GET", f"/{ID}/invocations/i1"] = (200, record)
    lines = cli.run("functions record hello i1").lines
    assert {"status success", "took 3 ms", "standard output 2.0 KiB"} <= set(lines)
    assert "why" not in {line.partition(" ")[0] for line in lines}
    assert cli.run("functions record hello i1 -o json").data == record


def test_what_a_function_was_refused_is_shown(cli: CommandLine) -> None:
    refused = [{"address": "10.0.0.1", "port": 22, "protocol": "tcp"}]
    found = {"network": "egress", "blocked_count": 7, "blocked_destinations": refused}
    cli.answers["GET", f"/{ID}/egress"] = (200, body_of(wire.Egress, **found))
    first, second, *_, last = cli.run("functions egress hello").lines
    assert (first, second, last) == ("network egress", "refused 7", "10.0.0.1 22 tcp")


# Methods of the client library that have no command, with the reason.
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
