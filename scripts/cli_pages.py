"""The page of the command line (docs/reference/cli.md) and its manual page (client/quiltfn.1), from
the signatures from which the parser is built.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from quiltfn.cli import parsing, root
from quiltfn.cli.parsing import Argument, Run, Taken

# The page with exit codes, and the heading of its table for all commands.
CODES_PAGE = Path(__file__).parents[1] / "docs" / "reference" / "exit-codes.md"
CODES_OF_ALL = "Every command that sends requests to a server:"
FILES_OF_ALL = "$XDG_CONFIG_HOME/quiltfn/profiles.json"
INVOKE = (
    "invoke ends as its handler did, with 1 to 125; with 124 where the deadline passed, and with "
    "137 where memory ran out."
)
VARIABLES = (
    ("QUILT_BASE_URL", "the server"),
    ("QUILT_API_KEY", "the key"),
    ("QUILTFN_PROFILE", "the profile, where --profile does not name one"),
    ("SSL_CERT_FILE", "certificate authorities to trust (PEM)"),
)


class Described(Struct, frozen=True):
    """A command: its words, its description, and its arguments and options."""

    words: str
    about: str
    taken: list[Taken]

    @property
    def own(self) -> list[Taken]:
        """The command's parameters without the options that all commands share."""
        return [one for one in self.taken if one.group != parsing.SHARED]

    @property
    def usage(self) -> str:
        arguments = [argument_of(one) for one in self.own if isinstance(one.about, Argument)]
        return " ".join([f"quiltfn {self.words}", *arguments, "[OPTIONS]"])

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Each argument and option as typed, with its meaning."""
        return [(written(one), one.about.help) for one in self.own if one.about.help]


def commands() -> dict[str, list[Described]]:
    """The commands that send requests to a server, by the sections of --help."""
    found: dict[str, list[Described]] = {}
    for section, words in root.SECTIONS.items():
        found[section] = [
            _described(words_of, function) for word in words for words_of, function in _of(word)
        ]
    return found


def _of(word: str) -> Iterator[tuple[str, Run]]:
    if word in root.GROUPS:
        for name, function in root.group(word).commands.items():
            yield f"{word} {name}", function
    else:
        yield word, root.command(word)


def _described(words: str, function: Run) -> Described:
    taken = parsing.declare(function, argparse.ArgumentParser(add_help=False))
    return Described(words, parsing.told_of(function), taken)


def shared() -> list[tuple[str, str]]:
    """The options that all commands with requests to a server share."""
    taken = _described("health", root.command("health")).taken
    return [(written(one), one.about.help) for one in taken if one.group == parsing.SHARED]


def exit_codes() -> list[tuple[str, str]]:
    """The exit codes of every command, with their meanings."""
    _, _, rest = CODES_PAGE.read_text().partition(CODES_OF_ALL)
    table = rest.strip().partition("\n\n")[0].splitlines()[2:]
    cells = ([cell.strip() for cell in line.split("|")] for line in table)
    return [(code, meaning) for _, code, meaning, _ in cells]


def argument_of(taken: Taken) -> str:
    name = taken.about.metavar or taken.name.upper()
    name = f"{name} …" if taken.is_list else name
    return name if taken.is_required else f"[{name}]"


def written(taken: Taken) -> str:
    """An argument or an option as it is typed: `--output, -o {table,json}`."""
    if isinstance(taken.about, Argument):
        return taken.about.metavar or taken.name.upper()
    names = ", ".join([*taken.names, *([taken.about.off] if taken.about.off else [])])
    if taken.kind is bool:
        return names
    members = getattr(taken.kind, "__members__", {})
    words = taken.about.choices or [each.value for each in members.values()]
    value = f"{{{','.join(words)}}}" if words else taken.about.metavar or taken.name.upper()
    return f"{names} {value}"


# --- Markdown ------------------------------------------------------------------------------------

HEAD = """\
# The command line

Every command of `quiltfn` with its arguments and options, as in `--help` and `man quiltfn`. Made by
scripts/generate.py. See also [command line](../how-to/command-line.md) and
[exit codes](exit-codes.md).

## Options of every command that asks a server

{shared}
`--url` and `--api-key` override `--profile`, that the environment, and that the stored profile
([profiles](../how-to/command-line.md#profiles)).
"""


def page() -> str:
    """docs/reference/cli.md."""
    parts = [HEAD.format(shared=_table(shared(), "option"))]
    for section, found in commands().items():
        parts.append(f"\n## {section.capitalize()}\n")
        for command in found:
            parts.append(
                f"\n### quiltfn {command.words}\n\n`{command.usage}`\n\n{_marked(command.about)}\n"
            )
            if command.rows:
                parts.append(f"\n{_table(command.rows, 'argument or option')}")
    parts.append("\n## On the server's machine\n\nEach has `--help` of its own.\n\n")
    rows = [(f"quiltfn {word}", told) for word, told in root.ON_THIS_MACHINE.items()]
    return "".join([*parts, _table(rows, "command")])


def _table(rows: list[tuple[str, str]], head: str) -> str:
    lines = [f"| {head} | meaning |", "|---|---|"]
    lines += [f"| `{_cell(what)}` | {_cell(told)} |" for what, told in rows]
    return "".join(f"{line}\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _marked(text: str) -> str:
    """A docstring as Markdown; indented lines are commands."""
    parts = []
    for paragraph in text.split("\n\n"):
        plain = [line for line in paragraph.splitlines() if not line.startswith("  ")]
        typed = [line.strip() for line in paragraph.splitlines() if line.startswith("  ")]
        parts += ["\n".join(plain).replace("<", "\\<")] if plain else []
        parts += ["\n".join(f"    {line}" for line in typed)] if typed else []
    return "\n\n".join(parts)


# --- roff ----------------------------------------------------------------------------------------


def manual() -> str:
    """client/quiltfn.1, in the format of man(7)."""
    lines = [
        '.\\" Made by scripts/generate.py, from the signatures of the commands.',
        ".TH QUILTFN 1",
        ".SH NAME",
        "quiltfn \\- serverless functions on your own Linux machine",
        ".SH SYNOPSIS",
        ".B quiltfn",
        ".I COMMAND",
        "[\\fIOPTIONS\\fR]",
        ".SH DESCRIPTION",
        "Creates, deploys and calls functions of a quiltfn server, and starts that server. Each",
        "command has",
        ".BR \\-\\-help .",
    ]
    for section, found in commands().items():
        lines += [f'.SH "{_roff(section.upper())}"']
        for command in found:
            lines += [".SS", f"\\fB{_roff(command.usage)}\\fR", *_paragraphs(command.about)]
            lines += _list(command.rows)
    lines += ['.SH "ON THE SERVER\'S MACHINE"']
    lines += _list([(f"quiltfn {word}", told) for word, told in root.ON_THIS_MACHINE.items()])
    lines += ['.SH "OPTIONS OF EVERY COMMAND"', *_list(shared())]
    lines += [".SH ENVIRONMENT", *_list(list(VARIABLES))]
    lines += [".SH FILES", *_list([(FILES_OF_ALL, "servers and keys that quiltfn login stored")])]
    lines += ['.SH "EXIT STATUS"', *_list(exit_codes()), ".PP", _roff(INVOKE)]
    return "\n".join([*lines, ""])


def _list(rows: list[tuple[str, str]]) -> list[str]:
    return [line for what, told in rows for line in (".TP", f"\\fB{_roff(what)}\\fR", _roff(told))]


def _paragraphs(text: str) -> list[str]:
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        lines.append(".PP")
        for line in paragraph.splitlines():
            lines += [".br", _roff(line.strip()), ".br"] if line.startswith("  ") else [_roff(line)]
    return lines


def _roff(text: str) -> str:
    """Text without roff requests and escapes."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...").replace("`", "\\(ga")
    return re.sub(r"^([.'])", r"\\&\1", text)
