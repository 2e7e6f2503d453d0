"""Completion, as real shells ask for it: keys are typed, and what the terminal shows is read."""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from promises import promise
from quiltfn.cli import completion, parsing, profiles, root, run
from timeouts import scaled
from unit.canned_server import FUNCTION, ID, version
from unit.test_transport import listening

pytestmark = promise("M22")

QUILTFN = Path(sys.executable).with_name("quiltfn")
NAMES = ("greet-anna", "greet-bert", "other")
# What makes each start without anybody's own settings, and complete.
SHELLS = {
    "bash": (["bash", "--norc", "--noprofile"], 'eval "$(quiltfn completion bash)"'),
    "zsh": (["zsh", "-f"], 'autoload -Uz compinit; compinit -D; eval "$(quiltfn completion zsh)"'),
    "fish": (["fish", "--no-config"], "quiltfn completion fish | source"),
}


@contextmanager
def server() -> Iterator[str]:
    """Has three functions; each has an alias and two versions."""
    functions = [{**FUNCTION, "id": ID, "name": name} for name in NAMES]
    alias = {"name": "live", "version": 1, "also": None, "updated_at": 1}
    versions = [version(number, "host:aa") for number in (2, 1)]
    bodies = {
        "/api/functions": {"functions": functions, "next_cursor": None},
        "/api/functions/by-name/other": functions[2],
        f"/api/functions/{ID}/aliases": {"aliases": [alias]},
        f"/api/functions/{ID}/versions": {"versions": versions, "next_cursor": None},
    }
    with listening() as (port, kind):

        def answer(self: Any) -> None:
            path = self.path.partition("?")[0]
            body = bodies.get(path)
            said = json.dumps(body or {"error": "no"}).encode()
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        kind.do_GET = answer
        yield f"http://127.0.0.1:{port}"


class Screen:
    """A shell in a terminal of its own, which tmux draws."""

    def __init__(self, shell: str, home: Path, url: str) -> None:
        self._tmux = ["tmux", "-S", str(home / "tmux"), "-f", "/dev/null"]
        command, setup = SHELLS[shell]
        env = {
            "PATH": f"{QUILTFN.parent}:{os.environ['PATH']}",
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home),
            "LC_ALL": "C.UTF-8",
            "QUILT_BASE_URL": url,
        }
        size = ["-x", "120", "-y", "30"]
        self._run("new-session", "-d", *size, *command, env=env)
        self.type(f"{setup}; clear; echo is-''ready", "Enter", shows="is-ready")

    def type(self, text: str, key: str, *, shows: str) -> None:
        """Types, and waits until the screen shows it."""
        self._run("send-keys", "-l", text)
        self._run("send-keys", key)
        deadline = time.monotonic() + scaled(20)
        while shows not in (shown := self._run("capture-pane", "-p")):
            assert time.monotonic() < deadline, f"{shows!r} is not in\n{shown}"
            time.sleep(0.02)

    def completes(self, line: str, *, to: str) -> None:
        """A line that Tab is pressed in; afterwards an empty one."""
        self.type(line, "Tab", shows=to)
        self._run("send-keys", "C-u")
        self.type(" clear; echo is-''ready", "Enter", shows="is-ready")

    def close(self) -> None:
        self._run("kill-server")

    def _run(self, *words: str, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            [*self._tmux, *words], check=True, capture_output=True, text=True, env=env
        )
        return done.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_commands_options_and_names(shell: str, tmp_path: Path) -> None:
    for program in ("tmux", shell):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}: apt install {program}")
    with server() as url:
        screen = Screen(shell, tmp_path, url)
        try:
            screen.completes("quiltfn invok", to="quiltfn invoke")
            screen.completes("quiltfn schedules li", to="quiltfn schedules list")
            screen.completes("quiltfn invoke oth", to="quiltfn invoke other")
            screen.completes("quiltfn invoke greet-b", to="quiltfn invoke greet-bert")
            screen.completes("quiltfn invoke other@l", to="quiltfn invoke other@live")
            screen.completes("quiltfn aliases remove other l", to="aliases remove other live")
            screen.completes("quiltfn invoke --idem", to="quiltfn invoke --idempotency-key")
            screen.completes("quiltfn functions list --output y", to="--output yaml")
            screen.completes("quiltfn doct", to="quiltfn doctor")
        finally:
            screen.close()


# --- what is answered ----------------------------------------------------------------------------


def words_of(parser: argparse.ArgumentParser) -> set[str]:
    (commands,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    return set(commands.choices)


def every_command() -> Iterator[list[str]]:
    yield from ([word] for word in root.COMMANDS)
    for group in root.GROUPS:
        yield from ([group, name] for name in root.group(group).commands)


def test_every_command_is_listed_once_and_in_a_section() -> None:
    listed = [word for words in root.SECTIONS.values() for word in words]
    assert sorted(listed) == sorted([*root.COMMANDS, *root.GROUPS])
    assert words_of(completion.tree([])) == {*listed, *root.ON_THIS_MACHINE}
    for group in root.GROUPS:
        assert words_of(completion.tree([])) >= {group}


@pytest.mark.parametrize("words", [*every_command()], ids=" ".join)
def test_every_option_of_every_command_is_completed(words: list[str]) -> None:
    parser = completion.tree(words)
    for word in words:
        (commands,) = (
            one for one in parser._actions if isinstance(one, argparse._SubParsersAction)
        )
        assert list(commands.choices).count(word) == 1
        parser = commands.choices[word]
    function = (
        root.command(words[0]) if len(words) == 1 else root.group(words[0]).commands[words[1]]
    )
    taken = parsing.declare(function, argparse.ArgumentParser())
    assert {one.key for one in taken} <= {one.dest for one in parser._actions}
    known = {one.about.completes for one in taken} - {None, "profile"}
    assert known <= completion.LISTS.keys()


@pytest.mark.parametrize(
    ("words", "below", "options"),
    [
        (["keys"], {"create", "list", "revoke"}, set()),
        (["keys", "create"], set(), {"--data-dir", "--scope"}),
        (["serve", "--port", "1"], set(), {"--port", "--data-dir", "--durability"}),
        (["doctor"], set(), {"--sweep", "--images", "--config"}),
        (["backup", "/tmp/x"], set(), {"--replace"}),
    ],
    ids=str,
)
def test_commands_of_this_machine_are_completed_by_what_their_help_says(
    words: list[str], below: set[str], options: set[str]
) -> None:
    parser = completion.tree(words)
    for word in [one for one in words if one in ("keys", "create", "serve", "doctor", "backup")]:
        (commands,) = (
            one for one in parser._actions if isinstance(one, argparse._SubParsersAction)
        )
        parser = commands.choices[word]
    assert options <= {name for one in parser._actions for name in one.option_strings}
    assert not below or words_of(parser) == below


def asked(**options: Any) -> argparse.Namespace:
    return argparse.Namespace(**{f"connection.{name}": one for name, one in options.items()})


def test_names_are_those_of_the_server_that_the_line_names() -> None:
    with server() as url:
        assert completion.names("function", "", asked(url=url)) == list(NAMES)
        assert completion.names("function", "greet", asked(url=url)) == list(NAMES[:2])
        assert completion.names("schedule", "", asked(url=url)) == [], "it answers 404"
        assert completion.names("called", "greet", asked(url=url)) == list(NAMES[:2])
        known = ["other@live", "other@2", "other@1"]
        assert completion.names("called", "other@", asked(url=url)) == known
        assert completion.names("function", "other@", asked(url=url)) == []
        assert completion.names("alias", "", asked(url=url)) == [], "no function is named"


def test_what_could_mean_much_to_a_shell_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = [
        "ok",
        "$(id)",
        "a b",
        "a;b",
        "a`b",
        "\x1b[31m",
        "a\nb",
        "",
        "--url",
        "-o",
        "../x",
        "n" * 65,
    ]
    many = [f"n{number}" for number in range(1000)]
    monkeypatch.setitem(completion.LISTS, "function", lambda *_: [*hostile, *many])
    found = completion.names("function", "", asked(url="http://127.0.0.1:9"))
    assert found == ["ok", *many[: completion.NAMES_MAX - 1]]


def test_a_server_that_does_not_answer_is_not_waited_for_and_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(completion, "SERVER_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        assert completion.names("function", "", asked(url=url)) == []
        assert 0.2 <= time.monotonic() - began < scaled(2)
    assert completion.names("function", "", asked(url="http://127.0.0.1:9")) == []
    assert completion.names("function", "", asked(url="nonsense")) == []
    assert completion.names("function", "", asked(profile="nothing")) == []
    assert capsys.readouterr() == ("", "")


def test_the_file_completes_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    one = profiles.Profile(url="http://127.0.0.1:1")
    profiles.write(profiles.Profiles(profiles={"prod": one, "stage": one}))
    assert completion.names("profile", "p", asked()) == ["prod"]


def test_a_shell_that_is_not_known_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", "tcsh"]) == 2
    assert "bash" in capsys.readouterr().err
