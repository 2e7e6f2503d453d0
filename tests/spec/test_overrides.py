"""The variables that a key with scope invoke can set, tested in real sandboxes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from promises import promise
from spec.api_client import PAGE_INVOKE, Api, new_name, of
from spec.conftest import Keyed
from unit.sample_archives import file, packed

pytestmark = pytest.mark.sandbox
SECRET = "s3cret-value"
VARIABLES = {"SECRET": SECRET, "URL": "https://api.example", "MODE": "", "BASH_ENV": ""}
# Each variable could reveal the value of another one, through a program that the handler starts.
BROWSER = 'sh -c "echo $SECRET >&2" %s'
ATTACKS = {
    "bash": ("bash -c true", {"BASH_ENV": "$(echo $SECRET >&2)"}),
    "perl": ("perl -e 1", {"PERL5OPT": "-Mbase;print(STDERR$ENV{SECRET})"}),
    "python3": (
        "python3 -c pass",
        {"PYTHONWARNINGS": "all:0:antigravity.x:0:0", "BROWSER": BROWSER},
    ),
    "node": (
        "node -e 0",
        {"NODE_OPTIONS": "--import=data:text/javascript,console.error(process.env.SECRET)"},
    ),
    "sh": ('eval "echo $URL"', {"URL": "$SECRET"}),
}
# A handler of each kind that starts bash, as if it ran a tool.
KINDS: dict[str, tuple[dict[str, str], str, dict[str, Any]]] = {
    "python": (
        {"mod.py": "import subprocess\ndef handler(e): subprocess.run(['bash', '-c', ':'])\n"},
        "mod:handler",
        {},
    ),
    "python with a thread": (
        {
            "mod.py": "import subprocess, threading\n"
            "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
            "def handler(e): subprocess.run(['bash', '-c', ':'])\n"
        },
        "mod:handler",
        {"cleanup_on_exit": False},
    ),
    "node": (
        {
            "mod.js": "exports.handler = () => { require('child_process')"
            ".spawnSync('bash', ['-c', ':'], {stdio: 'inherit'}) }\n"
        },
        "mod:handler",
        {},
    ),
}


@dataclass
class Tenant:
    """A tenant with two clients: one may write functions, the other one may only invoke them."""

    writer: Api
    caller: Api


@pytest.fixture(scope="module")
def both(keyed: Keyed) -> Iterator[Tenant]:
    name = new_name()
    tenant = Tenant(keyed.caller(name, "write"), keyed.caller(name, "invoke"))
    yield tenant
    tenant.writer.clear()


def refused(api: Api, function: str, environment: dict[str, str]) -> str:
    """Checks that the invocation is refused with the name of the variable: by id and by name, with
    and without an Idempotency-Key.
    """
    body = {"environment": environment}
    name = api.get(function)["name"]
    errors = set()
    for path in (f"{of(function)}/invoke", f"/api/functions/invoke/{name}"):
        for more in ({}, {"Idempotency-Key": new_name()}):
            error = api.refused("FORBIDDEN", 403, "POST", path, body, headers=more)
            errors.add(error["error"])
    assert len(errors) == 1
    text = errors.pop()
    assert text.startswith(f"environment.{next(iter(environment))} cannot be set by a key below")
    assert SECRET not in text
    return text


@promise("A28")
@pytest.mark.parametrize("program", ATTACKS)
def test_a_caller_cannot_run_its_own_code_by_a_variable(both: Tenant, program: str) -> None:
    if shutil.which(program, path="/usr/bin:/bin") is None:
        pytest.skip(f"needs {program}")
    handler, environment = ATTACKS[program]
    function = both.writer.active(handler, environment=VARIABLES)
    refused(both.caller, function, environment)
    assert both.caller.good("GET", f"{of(function)}/invocations")["invocations"] == []
    # Control: with scope write, the attack succeeds.
    answer = both.writer.invoke(function, environment=environment)
    assert SECRET in answer["stderr"] + answer["stdout"], answer


@promise("A28")
@pytest.mark.parametrize("kind", KINDS)
def test_nor_in_a_runtime_of_another_kind(both: Tenant, keyed: Keyed, kind: str) -> None:
    word = kind.split(maxsplit=1)[0]
    if word not in keyed.operator.good("GET", "/api/system/info")["interpreters"]:
        pytest.skip(f"needs {word}")
    files, handler, fields = KINDS[kind]
    name = new_name()
    image = packed([file(path, text.encode()) for path, text in files.items()])
    digest = both.writer.good(
        "POST",
        "/api/runtimes/images",
        status=201,
        content=image,
        headers={"Content-Type": "application/x-tar"},
    )["digest"]
    both.writer.good("POST", "/api/runtimes", {"name": name, "kind": word, "image": digest}, 201)
    function = both.writer.active(handler, runtime=name, environment=VARIABLES, **fields)
    _, environment = ATTACKS["bash"]
    refused(both.caller, function, environment)
    assert both.caller.invoke(function)["status"] == "success"
    answer = both.writer.invoke(function, environment=environment)
    assert SECRET in answer["stderr"] + answer["stdout"], answer


def test_a_caller_sets_what_the_function_leaves_open(both: Tenant) -> None:
    function = both.writer.active('echo "$MODE $URL"', environment=VARIABLES)
    answer = both.caller.invoke(function, environment={"MODE": "fast"})
    assert answer["stdout"] == "fast https://api.example\n"
    assert both.caller.invoke(function)["stdout"] == " https://api.example\n"
    for name in ("URL", "SECRET", "EXTRA_VAR"):
        assert "with an empty value" in refused(both.caller, function, {name: "x"})
    assert "decide what they run" in refused(both.caller, function, {"BASH_ENV": "/tmp/x"})


def test_the_documented_body_works_with_a_key_that_may_write(both: Tenant) -> None:
    function = both.writer.active('echo "$EXTRA_VAR"')
    answer = both.writer.good("POST", f"{of(function)}/invoke", PAGE_INVOKE)
    assert answer["stdout"] == "value\n"
    refused(both.caller, function, PAGE_INVOKE["environment"])
    both.writer.good("PUT", of(function), {"environment": {"EXTRA_VAR": ""}})
    both.caller.heard()
    answer = both.caller.good("POST", f"{of(function)}/invoke", PAGE_INVOKE)
    assert answer["stdout"] == "value\n"
