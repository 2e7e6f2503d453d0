"""Reads a command line by the signature of a function: each parameter is an option or an argument.

A parameter whose type is a Struct is a group of options that several commands share; each of its
fields is one. A parameter with a `Parameters` in its metadata is a group that code makes. The
parser is the standard library's, which loads in a few milliseconds.
"""

import argparse
import textwrap
import types
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from msgspec import Struct, structs

WRONG = 2
# The options that all commands share come last in --help, below a head of their own.
SHARED, OF_ALL = "connection", "the server and its answer"
SECONDS = "SECONDS"  # the metavar of what may have a unit as well
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
DURATIONS = "90s, 10m, 2h or 1d"
# Words for one thing: a command that has one of them is meant by the others.
SYNONYMS = (
    ("add", "create", "new"),
    ("remove", "delete", "drop", "rm"),
    ("show", "get", "describe"),
    ("update", "edit", "set"),
    ("list", "ls"),
    ("run", "trigger"),
)


class BadParameter(Exception):
    """The command line is wrong; the message says why. `hint`: what to do about it, if the message
    does not say it."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


class Exit(Exception):
    """The command ends with this exit code."""

    def __init__(self, code: int = 0) -> None:
        super().__init__(code)
        self.code = code


class Option(Struct, frozen=True):
    """How an option is written (by default --name-of-the-parameter) and its help text. For a flag,
    `off` is the opposite option. `completes`: what its value names, such as `function`."""

    names: tuple[str, ...] = ()
    help: str = ""
    metavar: str | None = None
    off: str | None = None
    least: int | None = None
    choices: tuple[str, ...] = ()
    is_directory: bool = False
    is_file: bool = False
    completes: str | None = None


class Argument(Struct, frozen=True):
    """The help text of a positional argument, and what it must be. One with a default may be left
    out. `completes`: as for an option.
    """

    help: str = ""
    metavar: str | None = None
    least: int | None = None
    completes: str | None = None


class Parameters:
    """A group of options that code makes; it is the metadata of a parameter's type."""

    def parameters(self) -> dict[str, tuple[Any, Any]]:
        """The annotated type of each option and its default; `...` if it is required."""
        raise NotImplementedError

    def value(self, said: dict[str, Any]) -> Any:
        """The value of the parameter, made from the options' values. Raises `BadParameter`."""
        raise NotImplementedError


Run = Callable[..., None]


class Group(Struct):
    """The commands of one group, such as `quiltfn functions`."""

    name: str
    help: str
    commands: dict[str, Run] = {}

    def command(self, name: str | None = None) -> Callable[[Run], Run]:
        """A decorator that makes the function a command, by its own name or by `name`."""

        def known(function: Run) -> Run:
            self.commands[name or function.__name__] = function
            return function

        return known

    def run(self, program: str, words: Sequence[str]) -> None:
        """Raises `Exit`, and what the command raises."""
        parser = argparse.ArgumentParser(prog=program, description=self.help, allow_abbrev=False)
        listed = parser.add_subparsers(metavar="COMMAND", required=True)
        for name, function in self.commands.items():
            listed.add_parser(name, help=first_sentence(function), add_help=False)
        if not words:
            parser.print_help()
            raise Exit(WRONG)
        if words[0] in self.commands:
            run(self.commands[words[0]], f"{program} {words[0]}", words[1:])
        elif words[0].startswith("-"):
            parser.parse_args(words)  # says what there is
        else:
            raise no_command(program, words[0], list(self.commands))


def no_command(program: str, word: str, known: Sequence[str]) -> BadParameter:
    """The error for a command that does not exist; its hint is the nearest one that does."""
    others = next((words for words in SYNONYMS if word in words), ())
    meant = next((one for one in others if one in known), None) or nearest(word, known)
    return BadParameter(
        f"{program} has no command {word!r}; there are: {', '.join(known)}",
        f"{program} {meant}?" if meant else f"{program} --help says what there is",
    )


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The one of `known` that `word` may be meant to be."""
    import difflib  # noqa: PLC0415 — for an error alone

    found = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    return found[0] if found else None


def run(function: Run, program: str, words: Sequence[str]) -> None:
    """Parses `words` and calls the function. Raises `Exit`, and what the function raises."""
    parser = argparse.ArgumentParser(prog=program, **parser_of(function), allow_abbrev=False)
    taken = declare(function, parser)
    values = {n for one in taken for n in one.valued()}
    known, unknown = parser.parse_known_args(joined(words, values))
    if unknown and not unknown[0].startswith("-") and "--payload" in values:
        from shlex import quote  # noqa: PLC0415 — for this mistake alone

        raise BadParameter(
            f"a payload has an option: --payload {quote(' '.join(unknown))}",
            f"or comes from a file, --payload-file PATH, or a pipe: echo … | {program} …",
        )
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{_meant(unknown[0], taken)}")
    said = vars(known)
    given: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    for each in taken:
        value = each.checked(said[each.key])
        place = given if each.group is None else parts.setdefault(each.group, {})
        place[each.name] = value
    for name, fields in parts.items():
        kind = function.__annotations__[name]
        given[name] = kind(**fields) if is_group(kind) else get_args(kind)[-1].value(fields)
    function(**given)


def is_group(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Struct)


def parameters_of(function: Run) -> Mapping[str, tuple[Any, Any]]:
    """The annotated type of each parameter and its default; `...` if it is required. `inspect`
    would tell it too, and takes a tenth of a command's time to load.
    """
    code, named = function.__code__, function.__annotations__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    last = reversed(names[: code.co_argcount])
    defaults = dict(zip(last, reversed(function.__defaults__ or ()), strict=False))
    defaults |= function.__kwdefaults__ or {}
    return {name: (named[name], defaults.get(name, ...)) for name in names}


def told_of(function: Run) -> str:
    """Its docstring, without what the source code indents it by."""
    first, _, rest = (function.__doc__ or "").partition("\n")
    return f"{first}\n{textwrap.dedent(rest)}".strip()


def parser_of(function: Run) -> dict[str, Any]:
    """What a parser of the command is made with, besides its name."""
    return {
        "description": told_of(function),
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def declare(function: Run, parser: argparse.ArgumentParser) -> list["Taken"]:
    """Gives the parser the options and arguments of the command; returns them."""
    taken: list[Taken] = []
    for name, (kind, default) in parameters_of(function).items():
        if is_group(kind):
            taken += [
                Taken(part.name, part.type, ... if part.required else part.default, group=name)
                for part in structs.fields(kind)
            ]
        elif isinstance(worked_out := get_args(kind)[-1], Parameters):
            taken += [
                Taken(part, annotation, its_default, group=name)
                for part, (annotation, its_default) in worked_out.parameters().items()
            ]
        else:
            taken.append(Taken(name, kind, default))
    shared = parser.add_argument_group(OF_ALL)
    for each in taken:
        each.declare(shared if each.group == SHARED else parser)
    return taken


def _meant(word: str, taken: Sequence["Taken"]) -> str:
    """The option that `word` may be meant to be, as a question: of the API's names as well, which
    go on where the option ends, as in --max-instances.
    """
    options = [n for one in taken if isinstance(one.about, Option) for n in one.names]
    begun = [n for n in options if n.startswith("--") and word.startswith(f"{n}-")]
    meant = max(begun, key=len, default=None) or nearest(word.partition("=")[0], options)
    return f" ({meant}?)" if meant else ""


def joined(words: Sequence[str], valued: set[str]) -> list[str]:
    """Turns `--payload -5` into `--payload=-5`: the word after such an option is its value."""
    out: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            return [*out, word, *rest]
        value = next(rest, None) if word in valued else None
        out.append(word if value is None else f"{word}={value}" if word[1] == "-" else word + value)
    return out


def seconds_in(duration: str) -> int | None:
    """The seconds of a number with its unit, such as 10m; None for anything else."""
    number, unit = duration[:-1], duration[-1:]
    is_one = unit in UNITS and number.isascii() and number.isdecimal()
    return int(number) * UNITS[unit] if is_one else None


def first_sentence(function: Run) -> str:
    paragraph = told_of(function).split("\n\n")[0].replace("\n", " ")
    sentence, dot, _ = paragraph.partition(". ")
    return f"{sentence}." if dot else paragraph


class Taken:
    """One parameter, or one field of a group."""

    def __init__(self, name: str, annotation: Any, default: Any, group: str | None = None) -> None:
        self.name, self.group = name, group
        kind, self.about = get_args(annotation)
        self.is_list = False
        if get_origin(kind) in (Union, types.UnionType):
            (kind,) = (one for one in get_args(kind) if one is not type(None))
        if get_origin(kind) is list:
            self.is_list, (kind,) = True, get_args(kind)
        self.kind = kind
        self.is_required = default is ...
        self.default = None if self.is_required else default
        self.key = f"{group or ''}.{name}"

    @property
    def names(self) -> tuple[str, ...]:
        return self.about.names or (f"--{self.name.replace('_', '-')}",)

    def valued(self) -> tuple[str, ...]:
        """The options that take a value."""
        return () if isinstance(self.about, Argument) or self.kind is bool else self.names

    def declare(self, parser: argparse._ActionsContainer) -> None:
        about = self.about
        help_text = about.help.replace("%", "%%")
        if isinstance(about, Argument):
            metavar = about.metavar or self.name.upper()
            choices = [one.value for one in self.kind] if issubclass(self.kind, Enum) else None
            nargs = "+" if self.is_list else None if self.is_required else "?"
            parser.add_argument(
                self.key,
                metavar=metavar,
                type=str if choices else self._read,
                choices=choices,
                nargs=nargs,
                default=self.default,
                help=help_text,
            )
        elif self.kind is bool:
            yes = {"action": "store_true", "default": self.default, "help": help_text}
            parser.add_argument(*self.names, dest=self.key, **yes)
            if about.off is not None:
                parser.add_argument(
                    about.off,
                    dest=self.key,
                    action="store_false",
                    default=self.default,
                    help=f"The opposite of {self.names[0]}.",
                )
        else:
            choices = [one.value for one in self.kind] if issubclass(self.kind, Enum) else None
            choices = choices or list(about.choices) or None
            default = self.default.value if isinstance(self.default, Enum) else self.default
            parser.add_argument(
                *self.names,
                dest=self.key,
                type=str if choices else self._read,
                choices=choices,
                default=default,
                required=self.is_required,
                action="append" if self.is_list else "store",
                metavar=None if choices else about.metavar or self.name.upper(),
                help=help_text,
            )

    def _read(self, text: str) -> Any:
        """Converts a word to the option's type."""
        name = {int: "a whole number", float: "a number"}.get(self.kind)
        if isinstance(self.about, Option) and self.about.metavar == SECONDS:
            name = f"a number of seconds, or {DURATIONS}"
            if (seconds := seconds_in(text)) is not None:
                return self.kind(seconds)
        try:
            return self.kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"expected {name or self.kind}, not {text!r}"
            ) from None

    def checked(self, value: Any) -> Any:
        """Checks the value and returns it. Raises `BadParameter`."""
        about = self.about
        name = self.names[0] if isinstance(about, Option) else self.name
        if value is None:
            return None
        if issubclass(self.kind, Enum):
            return self.kind(value)
        if isinstance(about, Argument) and value == "":
            raise BadParameter(f"{name} must not be empty")
        if about.least is not None and value < about.least:
            raise BadParameter(f"{name} must be {about.least} or more, not {value}")
        if isinstance(about, Option) and isinstance(value, Path):
            if about.is_directory and not value.is_dir():
                raise BadParameter(f"{name}: there is no directory {value}")
            if about.is_file and not value.is_file():
                raise BadParameter(f"{name}: there is no file {value}")
        return value
