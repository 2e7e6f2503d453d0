"""Completion: the script for the shell, and the command's suggestions.

The shell runs the command itself, with the line so far in its environment (argcomplete). Only the
part of the command tree that this line needs is built. So, once the line has a command, only that
command's module is loaded.
"""

import argparse
import re
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

# Short, because the user waits after pressing Tab.
SERVER_TIMEOUT_S = 1.0
# Maximum number of suggestions: users don't read more. Names that a shell could interpret, that
# look like options, or that have more than 64 characters are left out.
NAMES_MAX, VERSIONS_MAX = 200, 20
HARMLESS = re.compile(r"\w[\w.:/@-]{0,63}")
# The key, in `Options`, of the argument that names a function.
FUNCTION = ".name_or_id"
# The values of the options and arguments in the line, by the keys of `parsing.Taken`.
Options = Mapping[str, Any]
# Returns the parser of a command that runs on the server's machine, by its name; None if the
# command is not installed.
ParserOf = Callable[[str], argparse.ArgumentParser | None]


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
    """argcomplete's finder, extended for words with an @."""

    def quote_completions(
        self, completions: list[str], cword_prequote: str, last_wordbreak_pos: int | None
    ) -> list[str]:
        """The replacement for the word in bash. Like other separators, @ splits words, but bash
        makes the @ part of the second word.
        """
        at = last_wordbreak_pos
        if at is not None and all(one[at : at + 1] == "@" for one in completions):
            last_wordbreak_pos = at - 1
        return super().quote_completions(completions, cword_prequote, last_wordbreak_pos)


def answer(line: str, point: str, parser_of: ParserOf) -> None:
    """Print the suggestions for a shell, and end the process. `point`: the cursor's position."""
    _, _, _, words, _ = split_line(line, int(point) if point.isdecimal() else None)
    Finder()(
        tree(words[1:], parser_of),
        always_complete_options="long",
        exclude=("-h", "--help"),
        default_completer=SuppressCompleter(),
    )


def tree(words: Sequence[str], parser_of: ParserOf) -> argparse.ArgumentParser:
    """The parser of what can follow `words`."""
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
        found = parser_of(name) if name == word else None
        known = [] if found is None else [found]
        _complete_files(commands.add_parser(name, help=about, add_help=False, parents=known))
    return parser


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Complete the values of a server command's options, and of its subcommands', as files."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _complete_files(below)
        elif action.nargs is None and not action.choices:
            action.completer = FilesCompleter()  # type: ignore[attr-defined]


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
    """Complete nothing. Unlike argcomplete's own function, this does not hide the option."""
    return ()


def names(noun: str, prefix: str, said: argparse.Namespace) -> list[str]:
    """The names that begin with `prefix`; none if the server does not respond in time."""
    found: list[str] = []

    def ask() -> None:
        # Errors must not disturb the line that the user types.
        with suppress(Exception):
            found.extend(_known(noun, prefix, vars(said)))

    # The thread is abandoned after the timeout: the process ends once the suggestions are printed.
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
    """Functions; after `NAME@`, the function's aliases and newest versions."""
    name, at, _ = prefix.partition("@")
    if not at:
        return _functions(client, prefix, said)
    aliases = _aliases(client, prefix, {FUNCTION: name})
    versions = client.functions.list_versions(name, page_size=VERSIONS_MAX).first().versions
    return [f"{name}@{one}" for one in (*aliases, *(one.version for one in versions))]


def _aliases(client: Client, _prefix: str, said: Options) -> list[str]:
    """The aliases of the function that precedes the word."""
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
