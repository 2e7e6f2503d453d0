"""What looks like a secret, and that commands print it only on request."""

import json
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from promises import promise
from quiltfn import wire
from quiltfn.cli.project import PROJECT_FILE, export, file, toml
from quiltfn.cli.project.plan import LABEL, CurrentState, DesiredState, plan_for, without_secrets
from quiltfn.wire import NewAsyncPolicy, NewDestination, NewFunction, NewSchedule
from quiltfn.wire.masking import looks_secret, masked, without_path
from unit.canned_server import FUNCTION, ID, body_of, version
from unit.command_line import CommandLine
from unit.project_simulation import found_function, function_of, policy_of, schedule_of

pytestmark = promise("A80")

ROOT = Path(__file__).parents[2]
# The dashboard has the same rules, so its tests use these cases, too.
CASES = json.loads((ROOT / "ui" / "tests" / "masking_cases.json").read_text())


@pytest.mark.parametrize(("name", "value", "is_secret"), CASES)
def test_what_looks_like_a_secret(name: str, value: str, is_secret: bool) -> None:
    assert looks_secret(name, value) is is_secret


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.example", "https://a.example"),
        ("https://a.example:8443/", "https://a.example:8443/"),
        ("https://a.example/T0/c4nary", "https://a.example/***"),
        ("https://a.example?key=c4nary", "https://a.example/***"),
        ("https://a.example/?page=2", "https://a.example/***"),
        ("https://a.example#c4nary", "https://a.example/***"),
        ("https://app:c4nary@a.example", "https://a.example/***"),
        ("https://[2606:4700::1111]:444/x", "https://[2606:4700::1111]:444/***"),
        ("https://a.example\\c4nary", "https://a.example/***"),
        ("https://", "***"),  # the API refuses this, but a plan may show it
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert masked({"on_success": {"url": url}}) == {"on_success": {"url": shown}}
    wanted = NewAsyncPolicy(on_success=NewDestination(url=url))
    assert without_secrets(wanted)["on_success"]["url"] == shown
    assert without_path(shown) == shown


def test_what_a_project_lists_as_a_secret_is_exported_by_its_name(tmp_path: Path) -> None:
    place = tmp_path / PROJECT_FILE
    text = '[functions.hello]\nsecrets = ["MODE", "GONE", 7]\n'
    place.write_text(text + '[functions.hello.schedules.nightly]\nsecrets = ["MODE"]\n')
    table = export.described(FOUND, "hello", file.known_secrets(place), values=False)
    for section in (table, table["schedules"]["nightly"]):
        assert section["secrets"] == ["API_TOKEN", "DB", "MODE"]
        assert "environment" not in section
    place.write_text("functions = 3")
    assert file.known_secrets(place) == file.KnownSecrets({}, {})


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("", {"url_from": "HELLO_ON_SUCCESS_URL", "secret_from": "HELLO_ON_SUCCESS_SECRET"}),
        ('secret_from = "S"', {"url_from": "HELLO_ON_SUCCESS_URL", "secret_from": "S"}),
        ('secret_from = "S"\nurl_from = "U"', {"url_from": "U", "secret_from": "S"}),
        ('secret_from = "S"\nurl = "x"', {"url": "https://a.example/T0/token", "secret_from": "S"}),
    ],
)
def test_exports_keep_the_variables(tmp_path: Path, said: str, written: dict[str, str]) -> None:
    place = tmp_path / PROJECT_FILE
    place.write_text(f"[functions.hello.async_policy.on_success]\n{said}\n")
    table = export.described(FOUND, "hello", file.known_secrets(place), values=False)
    assert table["async_policy"]["on_success"] == written


# --- commands -----------------------------------------------------------------------------------

VARIABLES = {"API_TOKEN": "t0p-secret", "DB": "postgres://app:t0p-secret@db", "MODE": "fast"}
SECRET = {"environment": VARIABLES}
HELLO, RUNTIME = FUNCTION | SECRET, body_of(wire.Runtime, name="etl", **SECRET)
SCHEDULE = body_of(wire.Schedule, name="nightly", function="hello", **SECRET)
DESTINATION = {"function": None, "url": "https://a.example/t0p-secret", "secret": "t0p-secret"}
POLICY = body_of(wire.AsyncPolicy, on_success=DESTINATION)
WEBHOOK = {"scheme": "github", "secret": "t0p-secret"}
ANSWERS: dict[tuple[str, str], Any] = {
    ("GET", "/by-name/hello"): HELLO,
    ("GET", f"/{ID}"): HELLO,
    ("POST", f"/{ID}/deploy"): HELLO,
    ("PUT", f"/{ID}"): HELLO,
    ("GET", ""): {"functions": [HELLO], "next_cursor": None},
    ("GET", f"/{ID}/versions"): {"versions": [version(1, "x") | SECRET], "next_cursor": None},
    ("GET", f"/{ID}/async-policy"): POLICY,
    ("GET", f"/{ID}/url"): body_of(wire.FunctionUrl, auth="webhook", webhook=WEBHOOK),
    ("GET", f"/{ID}/invocations/i1/input"): body_of(wire.InvocationInput, payload="x", **SECRET),
    ("GET", "/api/runtimes"): {"runtimes": [RUNTIME]},
    ("GET", "/api/runtimes/etl"): RUNTIME,
    ("GET", "/api/schedules"): {"schedules": [SCHEDULE], "next_cursor": None},
    ("GET", "/api/schedules/nightly"): SCHEDULE,
    ("PUT", "/api/schedules/nightly"): SCHEDULE,
}
REVEALING = [
    "functions get hello",
    "functions list",
    "functions versions hello",
    "functions async-policy hello",
    "functions input hello i1",
    "runtimes list",
    "runtimes show etl",
    "schedules list",
    "schedules show nightly",
    "url show hello",
]
OTHERS = [
    "functions deploy hello",
    "functions update hello --memory 512",
    "schedules pause nightly",
]


@pytest.fixture
def cli(cli: CommandLine) -> CommandLine:
    cli.answers |= {call: (200, body) for call, body in ANSWERS.items()}
    return cli


@pytest.mark.parametrize("form", ["table", "json", "yaml"])
@pytest.mark.parametrize("command", [*REVEALING, *OTHERS])
def test_no_command_prints_a_secret(cli: CommandLine, command: str, form: str) -> None:
    said = cli.run(f"{command} -o {form}")
    assert "t0p-secret" not in said.out + said.err
    if form == "json" and command in REVEALING:
        assert "***" in said.out


@pytest.mark.parametrize("command", REVEALING)
def test_a_command_reveals_secrets_if_it_is_asked_to(cli: CommandLine, command: str) -> None:
    said = cli.run(f"{command} -o json --reveal").out
    assert "t0p-secret" in said
    assert "***" not in said


@pytest.mark.parametrize(
    "command", ["functions get hello", "runtimes show etl", "schedules show nightly"]
)
def test_a_table_masks_what_looks_like_a_secret_alone(cli: CommandLine, command: str) -> None:
    said = cli.run(command)
    for line in ("API_TOKEN=***", "DB=***", "MODE=fast"):
        assert line in said.out
    assert "--reveal shows it" in said.err
    said = cli.run(f"{command} --reveal")
    assert "API_TOKEN=t0p-secret" in said.out
    assert said.err == ""


@pytest.mark.parametrize("form", ["table", "json", "yaml"])
@pytest.mark.parametrize(
    "command", ["functions get hello", "functions list", "functions versions hello"]
)
def test_what_the_project_here_lists_as_a_secret_is_masked_as_well(
    cli: CommandLine, command: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for text, is_shown in (
        ('[functions.other]\nsecrets = ["MODE"]\n', False),
        ("functions = ", True),  # a file that can't be parsed is no error
        ("", True),
    ):
        (tmp_path / PROJECT_FILE).write_text(text)
        said = cli.run(f"{command} -o {form}").out
        has_values = form != "table" or command == "functions get hello"
        assert ("fast" in said) is (is_shown and has_values)
        assert ("fast" in cli.run(f"{command} -o {form} --reveal").out) is has_values


def test_a_key_below_write_is_told_why_nothing_is_revealed(cli: CommandLine) -> None:
    hidden = {**FUNCTION, "environment": {"MODE": "***"}}
    cli.answers["GET", "/by-name/hello"] = cli.answers["GET", f"/{ID}"] = (200, hidden)
    assert "keys below scope write" in cli.run("functions get hello --reveal").err


# --- export, and deploy again -------------------------------------------------------------------

THERE = NewFunction(name="hello", handler="x", environment=VARIABLES)
HOOK = NewDestination(url="https://a.example/T0/token", secret="whsec_" + "c2Vj" * 8)
NIGHTLY = NewSchedule(name="nightly", function="hello", cron="0 3 * * *", environment=VARIABLES)
STORED = msgspec.structs.replace(
    found_function(function_of(THERE, cluster_id=f"{LABEL}shop", state="active")),
    async_policy=policy_of(NewAsyncPolicy(on_success=HOOK)),
)
FOUND = CurrentState(functions={"hello": STORED}, schedules={"nightly": schedule_of(NIGHTLY)})


@pytest.mark.parametrize("listed", [False, True])
def test_export_reads_the_file_of_the_directory(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export.state, "check_scope", lambda _: None)  # type: ignore[attr-defined]
    monkeypatch.setattr(export.state, "find", lambda *_: FOUND)  # type: ignore[attr-defined]
    if listed:
        (tmp_path / PROJECT_FILE).write_text('[functions.hello]\nsecrets = ["MODE"]\n')
    text = cli.run("export hello").out
    assert ('MODE = "fast"' in text.partition("[functions.hello.schedules")[0]) is not listed
    assert cli.run("export hello -o json").data == tomllib.loads(text)


@pytest.mark.parametrize("values", [False, True])
def test_what_is_exported_deploys_as_it_was(tmp_path: Path, values: bool) -> None:
    table = export.described(FOUND, "hello", values=values)
    text = "\n".join(toml.table(["functions", "hello"], table))
    assert ("t0p-secret" in text) is values
    assert "***" not in text
    assert 'MODE = "fast"' in text
    place = tmp_path / PROJECT_FILE
    place.write_text(f'project = "shop"\n{text}')
    secrets = {"HELLO_ON_SUCCESS_SECRET": str(HOOK.secret), "HELLO_ON_SUCCESS_URL": str(HOOK.url)}
    assert (str(HOOK.url) in text) is values
    read = file.read(place, secrets if values else secrets | VARIABLES)
    wanted = DesiredState(project=read.project, functions=read.functions)
    assert plan_for(wanted, FOUND).steps == ()
