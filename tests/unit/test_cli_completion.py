"""Completion in real shells: keys are typed, and the terminal's content is read."""

import argparse
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from promises import promise
from quiltfn.__main__ import PARSERS, parser_of
from quiltfn.cli import completion, parsing, profiles, root
from timeouts import scaled
from unit.canned_server import FUNCTION, ID, version
from unit.command_line import CommandLine
from unit.terminals import Screen, needs, serving

pytestmark = promise("M22")

QUILTFN = Path(sys.executable).with_name("quiltfn")
NAMES = ("greet-anna", "greet-bert", "other")
# The command that starts each shell without the user's settings, and the line that turns completion
# on.
SHELLS = {
    "bash": (["bash", "--norc", "--noprofile"], 'eval "$(quiltfn completion bash)"'),
    "zsh": (["zsh", "-f"], 'autoload -Uz compinit; compinit -D; eval "$(quiltfn completion zsh)"'),
    "fish": (["fish", "--no-config"], "quiltfn completion fish | source"),
}


def server() -> AbstractContextManager[str]:
    """A server with three functions; each has an alias and two versions."""
    functions = [{**FUNCTION, "id": ID, "name": name} for name in NAMES]
    alias = {"name": "live", "version": 1, "also": None, "updated_at": 1}
    versions = [version(number, "host:aa") for number in (2, 1)]
    bodies = {
        "/api/functions": {"functions": functions, "next_cursor": None},
        "/api/functions/by-name/other": functions[2],
        f"/api/functions/{ID}/aliases": {"aliases": [alias]},
        f"/api/functions/{ID}/versions": {"versions": versions, "next_cursor": None},
    }
    return serving(lambda path, _: bodies.get(path))


COMPLETED = {
    "quiltfn invok": "quiltfn invoke",
    "quiltfn schedules li": "quiltfn schedules list",
    "quiltfn invoke greet-b": "quiltfn invoke greet-bert",
    "quiltfn invoke other@l": "quiltfn invoke other@live",
    "quiltfn aliases remove other l": "aliases remove other live",
    "quiltfn functions list --output y": "--output yaml",
    "quiltfn doct": "quiltfn doctor",
}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_commands_options_and_names(shell: str, tmp_path: Path) -> None:
    needs("tmux", shell)
    command, setup = SHELLS[shell]
    env = {"PATH": f"{QUILTFN.parent}:{os.environ['PATH']}"}
    env |= {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    with server() as url, Screen(tmp_path, command, env | {"QUILT_BASE_URL": url}) as screen:
        screen.type(f"{setup}; clear; echo is-''ready", "Enter", shows="is-ready")
        for line, completed in COMPLETED.items():
            screen.type(line, "Tab", shows=completed)
            screen.run("send-keys", "C-u")
            screen.type(" clear; echo is-''ready", "Enter", shows="is-ready")


# --- completions ---------------------------------------------------------------------------------


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (commands,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    return commands.choices


def every_command() -> Iterator[list[str]]:
    yield from ([word] for word in root.COMMANDS)
    for group in root.GROUPS:
        yield from ([group, name] for name in root.group(group).commands)


def test_every_command_is_listed_once_and_in_a_section() -> None:
    listed = [word for words in root.SECTIONS.values() for word in words]
    assert sorted(listed) == sorted([*root.COMMANDS, *root.GROUPS])
    assert commands_of(completion.tree([], parser_of)).keys() == {*listed, *root.ON_THIS_MACHINE}


@pytest.mark.parametrize("words", [*every_command()], ids=" ".join)
def test_every_option_of_every_command_is_completed(words: list[str]) -> None:
    parser = completion.tree(words, parser_of)
    for word in words:
        parser = commands_of(parser)[word]
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
def test_local_commands_are_completed(words: list[str], below: set[str], options: set[str]) -> None:
    parser = completion.tree(words, parser_of)
    for word in [one for one in words if one in ("keys", "create", "serve", "doctor", "backup")]:
        parser = commands_of(parser)[word]
    assert options <= {name for one in parser._actions for name in one.option_strings}
    assert not below or commands_of(parser).keys() == below


def test_a_client_alone_completes_names_of_local_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PARSERS.keys() == root.ON_THIS_MACHINE.keys()
    assert all(map(parser_of, PARSERS))
    monkeypatch.setitem(PARSERS, "keys", "quiltfn.there_is_none.parser")
    assert commands_of(completion.tree(["keys"], parser_of))["keys"]._actions == []


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
    hostile = ["ok", "$(id)", "a b", "a;b", "a`b", "\x1b[31m", "a\nb"]
    hostile += ["", "--url", "-o", "../x", "n" * 65]
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
    profile = profiles.Profile(url="http://127.0.0.1:1")
    profiles.write(profiles.Profiles(profiles={"prod": profile, "stage": profile}))
    assert completion.names("profile", "p", asked()) == ["prod"]


def test_a_shell_that_is_not_known_is_refused(cli: CommandLine) -> None:
    assert "bash" in cli.run("completion tcsh", code=2).err
