"""The command line: which requests it sends, what it prints where, and its exit codes."""

import inspect
import io
import json
import re
import sys
from pathlib import Path

import httpx
import msgspec
import pytest
import yaml

from promises import promise
from quiltfn import __main__, __version__
from quiltfn.api.http.errors import error_body
from quiltfn.api.openapi import operation_id
from quiltfn.api.routes.table import ROUTES
from quiltfn.cli import advice, invoke, parsing, root, session, show
from quiltfn.cli.invoke import exit_code
from quiltfn.cli.output import Output, print_event
from quiltfn.cli.project import commands
from quiltfn.model import errors
from quiltfn.model.errors import (
    GIVE_URL,
    LIST_FUNCTIONS,
    NEXT_STEP,
    NotFound,
    QuiltfnError,
    Unauthorized,
    Unprocessable,
)
from quiltfn.model.function import FunctionState, not_active
from quiltfn.model.invocation import FINAL
from quiltfn.sdk import Invocation
from unit.canned_server import FUNCTION, ID, INVOCATION, Terminal, answered_by
from unit.command_line import CommandLine

Captured = pytest.CaptureFixture[str]

# --- functions ---------------------------------------------------------------------------------


def test_create_sends_what_was_said_and_leaves_the_rest_to_the_server(cli: CommandLine) -> None:
    printed = cli.run("functions create hello --output table --handler", "echo hello")
    assert cli.body == {"name": "hello", "handler": "echo hello"}
    assert printed.out == f"created hello ({ID}): version 1, pending\n"
    assert "quiltfn functions deploy hello" in printed.err


def test_a_list_cuts_nothing_off_in_a_pipe_and_tells_that_there_is_more(cli: CommandLine) -> None:
    printed = cli.run("functions list")
    head, row = printed.lines
    assert head.startswith("NAME STATE VERSION ")
    assert row == f"hello active 3 shell 0-5 0 0 - {ID}"
    assert "--cursor c2" in printed.err


def test_programs_get_what_the_server_returned(cli: CommandLine) -> None:
    printed = cli.run("functions get hello --output json")
    assert (printed.data, printed.err) == (FUNCTION, "")
    assert printed.out.startswith('{\n  "id": ')
    printed = cli.run("functions get hello -o yaml")
    assert yaml.safe_load(printed.out) == FUNCTION
    assert printed.out.startswith(f"id: {ID}\ntenant_id: default\n"), "in the server's order"
    assert "\x1b" not in printed.out


@pytest.mark.parametrize("text", ["a\x85b", "a\u2028b", "\u2029", "\ufeffa: b", "\x1b[2J", "on"])
def test_yaml_of_any_text_is_that_text(text: str, capsys: Captured) -> None:
    print_event(Output.YAML, {"said": [text, {text: text}]})
    assert yaml.safe_load(capsys.readouterr().out) == {"said": [text, {text: text}]}


def test_yaml_of_what_comes_one_by_one_is_a_document_for_each(capsys: Captured) -> None:
    events = [{"text": "---\nä \x1b: " + "long " * 50}, {"text": None}]
    for event in events:
        print_event(Output.YAML, event)
    assert list(yaml.safe_load_all(capsys.readouterr().out)) == events
    for event in events:
        print_event(Output.JSON, event)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == events


def test_every_command_that_asks_a_server_can_print_for_programs() -> None:
    found = [(word, root.command(word)) for word in root.COMMANDS]
    for group in root.GROUPS:
        found += [(f"{group} {name}", one) for name, one in root.group(group).commands.items()]
    without = {
        words
        for words, one in found
        if not {"connection", "output"} & inspect.signature(one).parameters.keys()
    }
    assert without == {"init", "config use", "config remove", "completion"}, "files alone"


def test_a_description_cannot_colour_the_terminal(cli: CommandLine) -> None:
    assert r"says \u001b[31mhello" in cli.run("functions get hello").out


def test_a_word_like_an_id_is_an_id_first_and_then_a_name(cli: CommandLine) -> None:
    cli.run(f"functions get {ID}")
    assert cli.asked == [("GET", f"/{ID}")]
    del cli.answers["GET", f"/{ID}"]
    cli.answers["GET", f"/by-name/{ID}"] = (200, FUNCTION)
    cli.run(f"functions get {ID}")


def test_deploy_by_name_finds_the_id_first_and_fails_if_it_ends_in_error(cli: CommandLine) -> None:
    assert cli.run("functions deploy hello").out == "hello is active: version 3\n"
    assert cli.asked == [("GET", "/by-name/hello"), ("POST", f"/{ID}/deploy")]
    broken = {**FUNCTION, "state": "error", "error_message": "there is no /app/x"}
    cli.answers["POST", f"/{ID}/deploy"] = (200, broken)
    assert "error: there is no /app/x" in cli.run("functions deploy hello", code=1).err


@pytest.mark.parametrize(("answer", "deleted"), [("y\n", True), ("n\n", False), ("", False)])
def test_delete_asks_and_takes_no_answer_as_no(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, answer: str, deleted: bool
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    printed = cli.run("functions delete hello", code=0 if deleted else 1)
    assert (("DELETE", f"/{ID}") in cli.asked) is deleted
    assert ("--yes" in printed.err) is (answer == "")


def test_delete_with_yes_does_not_ask(cli: CommandLine) -> None:
    assert cli.run("functions delete hello --yes").out == "deleted hello\n"
    assert cli.asked[-1] == ("DELETE", f"/{ID}")
    found = cli.run("functions delete hello --yes -o json").data
    assert found == {"deleted": True, "id": ID, "name": "hello"}


# --- invoke ------------------------------------------------------------------------------------


OUTPUT = ("GET", f"/{ID}/invocations/i1/output")


def test_invoke_prints_output_and_a_line_about_it_and_fails_in_json_too(cli: CommandLine) -> None:
    cli.ends(stdout="\x1b[31mred\r", stderr="oops\n")
    assert cli.run("invoke hello") == ("\x1b[31mred\r", "oops\nsuccess · 3 ms · warm · i1\n")
    cli.ends(status="failed", exit_code=3)
    assert cli.run("invoke hello -o json", code=3).data["exit_code"] == 3


def piped(monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    """Redirect standard output to the returned buffer."""
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe, "utf-8"))
    return pipe


def test_invoke_writes_original_bytes(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.ends(stdout="a\ufffd", stderr="e")
    cli.answers[OUTPUT] = (200, b"a\xff\0")
    pipe = piped(monkeypatch)
    cli.run("invoke hello")
    assert (pipe.getvalue(), cli.query) == (b"a\xff\0", "stream=stdout")
    del cli.answers[OUTPUT]
    pipe = piped(monkeypatch)
    assert "the bytes of its stdout could not be read" in cli.run("invoke hello").err
    assert pipe.getvalue() == "a\ufffd".encode()


@promise("A84")
@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("KeyError: 'zz-4711' (main.py, line 5)", "failed (KeyError: 'zz-4711' (main.py, line 5))"),
        (
            "the handler exited with code 1: a\nb",
            "failed (the handler exited with code 1: a\\u000ab)",
        ),
        (None, "failed (1)"),
    ],
)
@pytest.mark.parametrize("attempt", [{}, {"attempt": 2}])
def test_the_line_about_a_call_says_why_it_failed(
    cli: CommandLine, message: str | None, reason: str, attempt: dict[str, int]
) -> None:
    cli.ends(status="failed", exit_code=1, error_message=message, **attempt)
    last = cli.run("invoke hello", code=1).err.splitlines()[-1]
    assert last == f"{reason}{', attempt 2' if attempt else ''} · 3 ms · warm · i1"


def test_output_is_safe_on_a_terminal(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.answers[OUTPUT] = (200, b"\x1b[31m\xff\0")
    pipe, terminal = piped(monkeypatch), Terminal()
    cli.run("functions output hello i1 --stream stderr")
    assert (pipe.getvalue(), cli.query) == (b"\x1b[31m\xff\0", "stream=stderr")
    monkeypatch.setattr(sys, "stdout", terminal)
    cli.run("functions output hello i1 --stream stderr")
    assert terminal.getvalue() == "\\u001b[31m\ufffd\\u0000"


@pytest.mark.parametrize(
    ("written", "encoding", "output"),
    [(b"a\n", "utf-8", "a\n"), (b"", "utf-8", ""), (b"\xff\0", "base64", "/wA=")],
)
def test_json_output_encoding(cli: CommandLine, written: bytes, encoding: str, output: str) -> None:
    cli.answers[OUTPUT] = (200, written)
    found = {"invocation_id": "i1", "stream": "stdout", "encoding": encoding, "output": output}
    assert cli.run("functions output hello i1 -o json").data == found


def test_bytes_need_the_other_way(cli: CommandLine, tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"\xff\xd8")
    said = cli.run("invoke hello --payload-file", str(photo), code=2).err
    assert f"error: {photo} is not UTF-8" in said
    assert "base64 -w0 FILE | quiltfn invoke NAME" in said
    assert cli.asked == []
    assert "base64 -w0" in cli.run("invoke --help").out


def test_invoke_sends_payload_environment_and_timeout(cli: CommandLine, tmp_path: Path) -> None:
    cli.run(f"invoke {ID} --payload text --env A=1 --timeout 5")
    assert cli.asked == [("POST", f"/{ID}/invoke")]
    assert cli.body == {"payload": "text", "environment": {"A": "1"}, "timeout_seconds": 5}
    file = tmp_path / "payload"
    file.write_bytes("a\r\nä\n".encode())
    cli.run("invoke hello --payload-file", str(file))
    assert cli.body == {"payload": "a\r\nä\n"}


def test_a_terminal_or_none_is_empty(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (Terminal(), None, io.StringIO("text")):
        monkeypatch.setattr(sys, "stdin", stream)
        cli.run("invoke hello")
        assert cli.body == {}


@pytest.mark.parametrize(
    ("status", "handlers", "ours"),
    [
        ("success", 0, 0),
        ("failed", 3, 3),
        ("failed", 255, 125),
        ("failed", 137, 125),
        ("failed", None, 1),
        ("timeout", None, 124),
        ("oom", 137, 137),
        ("cancelled", None, 1),
        ("interrupted", None, 1),
    ],
)
def test_the_exit_code_is_a_shell_s(status: str, handlers: int | None, ours: int) -> None:
    ended = msgspec.convert({**INVOCATION, "status": status, "exit_code": handlers}, Invocation)
    assert exit_code(ended) == ours


def test_the_page_of_exit_codes_has_the_codes_of_the_commands() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/exit-codes.md").read_text()
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", page, re.MULTILINE))
    assert rows["`timeout`"].startswith(f"{invoke.TIMED_OUT},")
    assert rows["`oom`"].startswith(f"{invoke.OUT_OF_MEMORY},")
    most = invoke.HANDLERS_MAX
    assert rows["`failed`"].startswith(f"the handler's, from 1 to {most - 1}; {most} if")
    own = {code: rows[str(code)] for code in (commands.DONE, commands.REFUSED, commands.PARTLY)}
    assert own[0].startswith("the server matches the file")
    assert own[1].startswith("refused")
    assert own[3].startswith("some of it was done")
    for code in (parsing.WRONG, root.NO_SERVER, root.INTERRUPTED, __main__.NOBODY_READS):
        assert str(code) in rows
    shown = {word for row in rows for word in re.findall(r"`(\w+)`", row)}
    assert {str(one) for one in FINAL} <= shown


def test_a_terminal_shows_control_characters(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.ends(stdout="a\tb\x1b]0;title\x07\r\x9b2J")
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    cli.run("invoke hello")
    assert out.getvalue() == r"a" "\t" r"b\u001b]0;title\u0007\u000d\u009b2J"
    assert err.getvalue().startswith("\n"), "the line about the call starts a line"


def test_a_line_of_the_servers_does_not_look_like_one_of_ours(cli: CommandLine) -> None:
    refusal = {"error": "no\r\nhint: rm -rf", "error_code": "X", "hint": "a\nerror: b"}
    cli.answers["POST", "/invoke/hello"] = (409, refusal)
    assert cli.run("invoke hello", code=1).err == (
        "error: no\\u000d\\u000ahint: rm -rf\n"
        "hint: a\\u000aerror: b\n"
        "hint: recorded as invocation i1\n"
    )
    cli.ends(error_message="one\ntwo")
    assert cli.run("invoke hello").err.endswith("\none\\u000atwo\n")


def test_a_terminal_has_colours_unless_unwanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    show.complain("no", "yes")
    show.note("well")
    assert terminal.getvalue() == (
        "\x1b[1;31merror:\x1b[0m no\n\x1b[36mhint:\x1b[0m yes\n\x1b[2mwell\x1b[0m\n"
    )
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as plain:
            plain.setenv(name, value)
            plain.setattr(sys, "stderr", terminal := Terminal())
            show.complain("no", "yes")
        assert terminal.getvalue() == "error: no\nhint: yes\n"


def test_lines_of_our_own_messages_stay_lines_and_visible_json_the_same(capsys: Captured) -> None:
    show.complain("one:\ntwo\x1b", own_lines=True)
    assert capsys.readouterr().err == "error: one:\ntwo\\u001b\n"
    text = json.dumps({"a": "\x7f\x9b\u202e"}, ensure_ascii=False)
    assert show.visible(text).isascii()
    assert json.loads(show.visible(text)) == json.loads(text)


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("functions get nobody", "list them"),
        (f"functions get {ID.replace('1', '2')}", "list them"),
        ("functions get helo", "is it hello?"),
        ("invoke helo", "is it hello?"),
    ],
)
def test_a_refusal_is_a_sentence_and_a_hint(cli: CommandLine, line: str, hint: str) -> None:
    printed = cli.run(line, code=1)
    assert printed.out == ""
    assert printed.err.startswith(f"error: there is no such function\nhint: {hint}")


ADVISED = [
    (
        NotFound("no URL", hint=f"{GIVE_URL.text} gives it one, as does …", see=GIVE_URL),
        "hint: quiltfn url set hello gives it one\n",
    ),
    (not_active(FunctionState.PENDING), "quiltfn functions deploy hello"),
    (not_active(FunctionState.PAUSED), "quiltfn functions resume hello"),
    (not_active(FunctionState.ERROR), "(quiltfn functions get hello), then deploy"),
    (Unauthorized(hint="send a key as X-Api-Key"), "set QUILT_API_KEY"),
    (
        NotFound("no", hint=f"{LIST_FUNCTIONS.text} lists those", see=LIST_FUNCTIONS),
        "hint: quiltfn functions list lists those",
    ),
]


@pytest.mark.parametrize(("error", "said"), ADVISED)
def test_hints_name_commands(cli: CommandLine, error: QuiltfnError, said: str) -> None:
    cli.answers["POST", "/invoke/hello"] = (409, json.loads(error_body(error)))
    printed = cli.run("invoke hello", code=1).err
    assert said in printed
    assert "/api/" not in printed
    assert "X-Api-Key" not in printed


def test_a_hint_of_an_older_server_stays_as_it_is(cli: CommandLine) -> None:
    refusal = {"error": "no", "error_code": "FUNCTION_NOT_ACTIVE", "hint": NEXT_STEP["paused"][0]}
    cli.answers["POST", "/invoke/hello"] = (409, refusal)
    printed = cli.run("invoke hello", code=1)
    assert "hint: resume it first: POST /api/functions/<id>/resume" in printed.err


@promise("A90")
def test_every_request_that_an_error_advises_is_one_of_the_api_and_a_command() -> None:
    calls = [one for one in vars(errors).values() if isinstance(one, errors.ApiCall)]
    assert {one.operation for one in calls} == set(advice.COMMANDS)
    routes = {
        operation_id(route): f"{route.method} {re.sub('{.*?}', '<>', route.path)}"
        for route in ROUTES
    }
    for call in calls:
        method, path = re.sub("<.*?>", "<>", call.text).split(" ")
        assert routes[call.operation].startswith(f"{method} "), call
        assert routes[call.operation].endswith(path.removeprefix("…")), call


def test_no_error_writes_a_request_of_the_api_without_naming_it_as_data() -> None:
    written = re.compile(r"^[^#]*[\"'(, ](GET|POST|PUT|DELETE) (/api|…)/")
    source = Path(advice.__file__).parents[1]
    # Packages whose texts are not errors of the server.
    free = ("cli", "wire", "sdk", "guest", "site")
    found = [
        f"{path.name}: {line.strip()}"
        for path in source.rglob("*.py")
        if path.relative_to(source).parts[0] not in free and path.name != "help.py"
        for line in path.read_text().splitlines()
        if written.search(line) and "ApiCall(" not in line and not line.lstrip().startswith('"""')
    ]
    assert found == []
    assert written.search('    hint="PUT /api/functions/<id>/url gives it one"')


PARTS = "memory_limit_mb", "256 or more, and min_instances at most max_instances"
OPTIONS = [
    (Unprocessable.field(*PARTS), "--memory must be 256 or more, and --min at most --max"),
    (
        Unprocessable.field("cleanup_on_exit", "false with a runtime of kind server", True, False),
        "--keep-state must be given with a runtime of kind server",
    ),
    (
        Unprocessable.field("isolation", "crun with kind server"),
        "--isolation must be crun with kind server",
    ),
    (Unprocessable.field("environment", "absent: a server"), "--env must be absent: a server"),
    (Unprocessable.field("environment.PORT", "a number"), "--env PORT must be a number"),
    (
        Unprocessable.field("process_limit", "16 to 4096", null="for the server's own"),
        "--processes must be 16 to 4096",
    ),
    (Unprocessable.field("rollback_on.within_s", "1 or more"), "--within-s must be 1 or more"),
    (Unprocessable.field("name", "short"), "name must be short"),
    (Unprocessable("it has no command of its own"), "it has no command of its own"),
    (Unprocessable("memory_limit_mb is odd"), "--memory is odd"),
]


@pytest.mark.parametrize(("error", "message"), OPTIONS)
def test_field_errors_name_options(cli: CommandLine, error: QuiltfnError, message: str) -> None:
    cli.answers["POST", ""] = (422, json.loads(error_body(error)))
    printed = cli.run("functions create a --handler h --memory 10", code=1)
    assert printed.err.startswith(f"error: {message}\n")


@pytest.mark.parametrize(
    "line",
    [
        *("functions update", "functions create", "runtimes add"),
        *("functions async-policy", "schedules add"),
    ],
)
def test_a_help_text_reads_as_one_of_a_command(cli: CommandLine, line: str) -> None:
    text = " ".join(cli.run(f"{line} --help").out.split())
    for odd in ("True:", "None;", "Crun;", "No env", "null", "max_instances"):
        assert odd not in text


def test_no_help_text_of_a_command_ends_in_mid_sentence(cli: CommandLine) -> None:
    listed = [line for line in cli.run("--help").out.splitlines() if line.startswith("  ")]
    assert len(listed) > len(root.COMMANDS)
    assert [line for line in listed if not line.endswith(".")] == []
    for group in root.GROUPS:
        for name, command in root.group(group).commands.items():
            assert parsing.first_sentence(command).endswith("."), (group, name)


def test_no_server_is_code_3_and_help(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    answered_by(refuse, monkeypatch)
    assert cli.run("functions list --url http://127.0.0.1:9", code=3).err == (
        "error: no quiltfn server responds at http://127.0.0.1:9; start one with: quiltfn serve, "
        "or set its address: QUILT_BASE_URL\n"
    )
    cli.run("events --url http://127.0.0.1:9", code=3)  # `events` follows without --follow


def test_a_bug_is_one_line_not_a_trace(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "Client", lambda *_, **__: 1 / 0)
    printed = cli.run("functions list", code=1).err
    assert "ZeroDivisionError at test_cli.py:" in printed
    assert "Traceback" not in printed


# --- other commands ----------------------------------------------------------------------------


def test_the_version_is_told(cli: CommandLine) -> None:
    assert cli.run("--version").out == f"quiltfn {__version__}\n"


def test_sections_of_help_are_bold(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    cli.run("--help")
    heads = [line for line in terminal.getvalue().splitlines() if "\x1b" in line]
    assert heads[:2] == ["\x1b[1mstart:\x1b[0m", "\x1b[1mfunctions:\x1b[0m"]
    assert len(heads) == len(root.SECTIONS) + 1


@pytest.mark.parametrize("word", ["serve", "keys", "doctor"])
def test_local_commands_run(cli: CommandLine, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda _, words: handed.append(words))
    cli.run(f"{word} --port 0 --sweep --help")
    command = [sys.executable, "-P", "-m", "quiltfn", word, "--port", "0", "--sweep", "--help"]
    assert handed == [command]
