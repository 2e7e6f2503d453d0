"""Translates the server's advice for the command line. Errors name fields and requests of the API
as data (`details`); a user of the command line needs the matching option or command.
"""

import re
from collections.abc import Container, Mapping
from functools import cache
from typing import Any

from quiltfn.sdk import ApiError

# The command for each operation that errors advise.
COMMANDS = {
    "deployFunction": "quiltfn functions deploy {word}",
    "resumeFunction": "quiltfn functions resume {word}",
    "listFunctions": "quiltfn functions list",
    "getFunctionByName": "quiltfn functions get {word}",
    "getHelp": "quiltfn --help",
    "getInvocation": "quiltfn functions record",
    "setRecordPolicy": "quiltfn functions record-policy {word}",
    "setFunctionUrl": "quiltfn url set {word}",
    "uploadImage": "quiltfn runtimes add NAME --kind … --dir …",
}
# Hints that differ on the command line, by the error's code or the operation that helps.
HINTS = {
    "setFunctionUrl": "quiltfn url set {word} gives it one",
    "UNAUTHORIZED": "store a key with: quiltfn login, or set QUILT_API_KEY; to create a key on the "
    "server's machine: quiltfn keys create --data-dir DIR, with the data directory "
    "of the server, or --fleet FILE",
}
# For the error of a server that doesn't know a tenant in a query: it has no `details.field`.
TOO_OLD = "--as-tenant needs a newer server, and in a fleet newer nodes"
# Fields without an option.
NO_OPTION = ("name", "image")
# Fields that are objects; each of their own fields has an option.
GROUPS = ("rollback_on",)
WORD = re.compile(r"\w+")
NO_OTHERS: Mapping[str, str] = {}


def translate_errors(
    error: ApiError,
    word: str | None,
    options: Mapping[str, str] = NO_OTHERS,
    *,
    visits: bool = False,
) -> None:
    """Replace fields and requests in the message and the hint of `error` by options and commands.

    `word`: the function that the command named. `options`: by field, the option that set it, if it
    differs from the field's own. `visits`: whether the request named a tenant.
    """
    details: dict[str, Any] = error.details or {}
    see = details.get("see") or {}
    own = HINTS.get(error.code) or HINTS.get(see.get("operation", ""))
    hint = error.hint if own is None else own.format(word=word or "NAME")
    if error.code == "UNPROCESSABLE_ENTITY":
        is_old = visits and "field" not in details
        options = {**_options(), **options}
        error.message = TOO_OLD if is_old else _about_option(error.message, details, options)
        hint = None if hint is None else with_options(hint)
    else:
        hint = None if hint is None else with_options(hint, word)
    command = COMMANDS.get(see.get("operation", ""))
    if command is not None:
        command = command.format(word=word or "NAME")
        error.message = error.message.replace(see["text"], command)
        hint = None if hint is None else hint.replace(see["text"], command)
    error.hint = hint


def _about_option(message: str, details: dict[str, Any], options: Mapping[str, str]) -> str:
    """The message of an error about a field, with its option instead of its name."""
    option, expected = _option_of(details.get("field") or "", options), details.get("expected")
    if option is None or not isinstance(expected, str):
        return with_options(message)
    if details["field"] in _opposites() and details.get("example") is False:
        return f"{option} must be given{with_options(expected.removeprefix('false'))}"
    return f"{option} must be {with_options(expected)}"


def _option_of(path: str, options: Mapping[str, str]) -> str | None:
    """The option of the field at this path, followed by the part of its value that is invalid."""
    name, _, part = path.partition("[")[0].partition(".")
    if name in GROUPS and part:
        return f"--{part.replace('_', '-')}"
    option = None if name in NO_OPTION else options.get(name)
    return f"{option} {part}" if option and part else option


def with_options(text: str, word: str | None = None) -> str:
    """The text with options instead of API fields, for fields whose names are not English words."""
    names = {name: option for name, option in _options().items() if "_" in name}
    names["error_message"] = f"its error (quiltfn functions get {word or 'NAME'})"
    return WORD.sub(lambda found: names.get(found[0], found[0]), text)


@cache
def _options() -> dict[str, str]:
    from quiltfn.cli.field_options import option_of  # noqa: PLC0415 — for an error alone
    from quiltfn.wire import NewFunction, NewRuntime  # noqa: PLC0415
    from quiltfn.wire.fields import fields_of  # noqa: PLC0415

    fields = {**fields_of(NewRuntime), **fields_of(NewFunction)}
    return {name: option_of(field) for name, field in fields.items()}


def _opposites() -> Container[str]:
    from quiltfn.cli.field_options import OPPOSITES  # noqa: PLC0415 — for an error alone

    return OPPOSITES
