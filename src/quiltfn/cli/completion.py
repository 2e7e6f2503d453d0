"""Completion: what a shell is told, and what the command answers when the shell asks.

A shell asks by the command itself, with the line so far in its environment (argcomplete). The tree
of commands is built as far as that line goes, so that one module is loaded.
"""

import argparse
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from argcomplete.completers import DirectoriesCompleter, FilesCompleter, SuppressCompleter
from argcomplete.finders import CompletionFinder
from argcomplete.lexers import split_line
from argcomplete.shell_integration import shellcode

from quiltfn.cli import parsing, profiles, root, show
from quiltfn.cli.parsing import Argument, Run, Taken
from quiltfn.cli.session import Connection
from quiltfn.sdk import Client

# Somebody waits for it with a finger on the key.
SERVER_TIMEOUT_S = 1.0
# No more names than a person would read, and none that could mean something to a shell, be taken
# for an option, or fill a line: names have 64 characters at most.
NAMES_MAX, VERSIONS_MAX = 200, 20
HARMLESS = re.compile(r"\w[\w.:/@-]{0,63}")
# Where the function is that a command names.
FUNCTION = ".name_or_id"
# What a shell that asks has set.
ASKED = "_ARGCOMPLETE"
HELP_TIMEOUT_S = 3.0
# What the line has already, by the keys of `parsing.Taken`.
Options = Mapping[str, Any]
# As argparse writes them: in the usage `[--port VALUE]`, below it `    create    make a key`.
OPTION = re.compile(r"(--[a-z][\w-]*)( [A-Z{])?")
SUBCOMMAND = re.compile(r"^    ([a-z][a-z-]*) {2,}(\S.*)$", re.MULTILINE)


class Shell(StrEnum):
    """The shells that can complete."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, Argument(help="Shell: bash, zsh or fish.")]) -> None:
    """Print the shell script that completes commands, options, and names on the server.

    bash, in ~/.bashrc:                    eval "$(quiltfn completion bash)"
    zsh, in ~/.zshrc, behind compinit:     eval "$(quiltfn completion zsh)"
    fish: quiltfn completion fish >~/.config/fish/completions/quiltfn.fish
    """
    show.write(sys.stdout, shellcode(["quiltfn"], shell=shell.value))


class Finder(CompletionFinder):
    """argcomplete's, for words with an @ as well."""

    def quote_completions(
        self, completions: list[str], cword_prequote: str, last_wordbreak_pos: int | None
    ) -> list[str]:
        """What bash puts in place of the word. It parts words at @, as at other characters, but
        takes that one as the begin of the word behind it.
        """
        at = last_wordbreak_pos
        if at is not None and all(one[at : at + 1] == "@" for one in completions):
            last_wordbreak_pos = at - 1
        return super().quote_completions(completions, cword_prequote, last_wordbreak_pos)


def answer(line: str, point: str) -> None:
    """Answers a shell that asks, and ends the process. `point`: where in the line."""
    _, _, _, words, _ = split_line(line, int(point) if point.isdecimal() else None)
    Finder()(
        tree(words[1:]),
        always_complete_options="long",
        exclude=("-h", "--help"),
        default_completer=SuppressCompleter(),
    )


def tree(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of what can stand behind `words`."""
    parser = argparse.ArgumentParser(prog="quiltfn", add_help=False)
    commands = parser.add_subparsers()
    word = words[0] if words else None
    for name in [name for names in root.SECTIONS.values() for name in names]:
        if word is None:
            commands.add_parser(name, help=root.about(name))
        elif name == word and name in root.GROUPS:
            _add_group(commands.add_parser(name), root.group(name), words[1:])
        elif name == word:
            _add_command(commands, name, root.command(name))
    for name, about in root.ON_THIS_MACHINE.items():
        its = commands.add_parser(name, help=about, add_help=False)
        if name == word:
            _add_as_told(its, words)
    return parser


def _add_as_told(parser: Any, words: Sequence[str]) -> None:
    """What a command of this machine takes, as its --help says: its code is the server's, which is
    not loaded here, and not there on a machine that has the client alone.
    """
    named = [one for one in words[:2] if not one.startswith("-")]
    described = ""
    with suppress(OSError, subprocess.SubprocessError):
        described = subprocess.run(
            ["/usr/bin/env", "-u", ASKED, sys.executable, "-P", "-m", "quiltfn", *named, "--help"],
            capture_output=True,
            text=True,
            timeout=HELP_TIMEOUT_S,
            check=False,
        ).stdout
    usage, _, rest = described.partition("\n\n")
    if usage.startswith(f"usage: quiltfn {' '.join(named)} ") and len(named) == len(
        ("keys", "list")
    ):
        parser = parser.add_subparsers().add_parser(named[1], add_help=False)
    elif below := SUBCOMMAND.findall(rest):
        commands = parser.add_subparsers()
        for name, about in below:
            commands.add_parser(name, help=about, add_help=False)
    for name, value in OPTION.findall(usage):
        parser.add_argument(name, action="store" if value else "store_true")
    for action in parser._actions:
        if action.nargs is None:
            action.completer = FilesCompleter()


def _add_group(parser: argparse.ArgumentParser, group: parsing.Group, words: Sequence[str]) -> None:
    commands = parser.add_subparsers()
    for name, function in group.commands.items():
        if not words:
            commands.add_parser(name, help=parsing.first_sentence(function))
        elif name == words[0]:
            _add_command(commands, name, function)


def _add_command(commands: Any, name: str, function: Run) -> None:
    parser = commands.add_parser(name, allow_abbrev=False)
    taken = {one.key: one for one in parsing.declare(function, parser)}
    for action in parser._actions:
        if action.dest in taken and action.nargs != 0 and not action.choices:
            action.completer = _completer(taken[action.dest])


def _completer(taken: Taken) -> Any:
    noun = taken.about.completes
    if noun is not None:
        return lambda prefix, parsed_args, **_: names(noun, prefix, parsed_args)
    if taken.kind is Path:
        return DirectoriesCompleter() if taken.about.metavar == "DIR" else FilesCompleter()
    return _nothing


def _nothing(**_: object) -> tuple[str, ...]:
    """Other than argcomplete's own, it does not hide its option."""
    return ()


def names(noun: str, prefix: str, said: argparse.Namespace) -> list[str]:
    """The names that begin with `prefix`; none where the server does not answer in time."""
    found: list[str] = []

    def ask() -> None:
        # Whatever goes wrong, what somebody types is not disturbed.
        with suppress(Exception):
            found.extend(_known(noun, prefix, vars(said)))

    # Left alone after that time: the process ends with its answer.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(SERVER_TIMEOUT_S)
    fitting = [one for one in found if one.startswith(prefix) and HARMLESS.fullmatch(one)]
    return fitting[:NAMES_MAX]


def _known(noun: str, prefix: str, said: Options) -> list[str]:
    if noun == "profile":
        return list(profiles.read().profiles)
    url, key, cacert, profile = (
        said.get(f"{parsing.SHARED}.{name}") for name in ("url", "api_key", "cacert", "profile")
    )
    connection = Connection(url=url, api_key=key, cacert=cacert, profile=profile)
    with connection.session() as at:
        return LISTS[noun](at.client, prefix, said)


def _called(client: Client, prefix: str, said: Options) -> list[str]:
    """Functions; behind `NAME@` its aliases and newest versions."""
    name, at, _ = prefix.partition("@")
    if not at:
        return _functions(client, prefix, said)
    aliases = _aliases(client, prefix, {FUNCTION: name})
    versions = client.functions.list_versions(name, page_size=VERSIONS_MAX).first().versions
    return [f"{name}@{one}" for one in (*aliases, *(one.version for one in versions))]


def _aliases(client: Client, _prefix: str, said: Options) -> list[str]:
    """Those of the function that stands before."""
    return [one.name for one in client.functions.list_aliases(said[FUNCTION]).aliases]


def _functions(client: Client, prefix: str, _said: Options) -> list[str]:
    return [one.name for one in client.functions.list(search=prefix or None).first().functions]


LISTS: dict[str, Callable[[Client, str, Options], list[str]]] = {
    "alias": _aliases,
    "function": _functions,
    "called": _called,
    "runtime": lambda client, *_: [one.name for one in client.runtimes.list()],
    "schedule": lambda client, *_: [one.name for one in client.schedules.list().first().schedules],
    "node": lambda client, *_: [one.name for one in client.nodes.list()],
}
