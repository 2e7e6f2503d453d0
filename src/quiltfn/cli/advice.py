"""The server's advice with commands in it. The server names calls of its API; a user of the command
line needs the command that makes the call."""

import re

from quiltfn.sdk import ApiError

# A call of the API, as an error message has it, and the command that makes the call.
COMMANDS = {
    "POST /api/functions/<id>/deploy": "quiltfn functions deploy {word}",
    "POST /api/functions/<id>/resume": "quiltfn functions resume {word}",
    "GET /api/functions": "quiltfn functions list",
    "GET /api/functions/help": "quiltfn --help",
    "GET /api/runtimes": "quiltfn runtimes list",
    "PUT /api/functions/<id>/record-policy": "quiltfn functions record-policy {word}",
    "POST /api/runtimes/images": "quiltfn runtimes add NAME --kind … --dir …",
}
CALL = re.compile(r"(?:GET|POST|PUT|DELETE) /api/[\w/<>.-]*")
# Hints that are about HTTP headers, as they are for a command line.
HINTS = {
    "UNAUTHORIZED": "store a key with: quiltfn login, or set QUILT_API_KEY to one; on the "
    "server's machine this makes one: "
    "quiltfn keys create --data-dir DIR, with the data directory of the server, or --fleet FILE",
}
# What a server of an older version says of the tenant in a query.
TOO_OLD = re.compile(r"^the query parameter tenant must .*")
# Fields that are no option of their own.
NO_OPTION = ("name", "image")
FIELDS = {"error_message": "its error (quiltfn functions get {word})"}


def translate_errors(error: ApiError, word: str | None) -> None:
    """Replaces API calls by commands in the message and hint of `error`.

    `word`: the function that the command named.
    """
    error.message = commands_of(error.message, word)
    hint = HINTS.get(error.code, error.hint)
    if error.code == "UNPROCESSABLE_ENTITY":
        error.message = options_of(error.message)
        hint = None if hint is None else options_of(hint)
    error.hint = None if hint is None else commands_of(hint, word)


def options_of(text: str) -> str:
    """The text with options in place of the fields of the API: of those whose names no sentence
    has, and of the one that the text begins with.
    """
    from quiltfn.cli.field_options import OPPOSITES, option_of  # noqa: PLC0415 — for an error alone
    from quiltfn.wire import NewFunction, NewRuntime  # noqa: PLC0415
    from quiltfn.wire.fields import fields_of  # noqa: PLC0415

    fields = [*fields_of(NewFunction).values(), *fields_of(NewRuntime).values()]
    for one in fields:
        if one.name in OPPOSITES:
            text = re.sub(rf"^{one.name} must be false\b", f"{option_of(one)} must be given", text)
        if one.name not in NO_OPTION:
            text = re.sub(rf"^{one.name} must\b", f"{option_of(one)} must", text)
        if "_" in one.name:
            text = re.sub(rf"\b{one.name}\b", option_of(one), text)
    text = re.sub(r"\benvironment\.(?=\w)", "--env ", text)
    text = re.sub(r"^rollback_on\.(\w+)", lambda one: f"--{one[1].replace('_', '-')}", text)
    text = TOO_OLD.sub("--as-tenant needs a newer server, and in a fleet newer nodes", text)
    return re.sub(r", or null( for the server's own)?$", "", text)


def commands_of(text: str, word: str | None) -> str:
    """The text with commands in place of API calls."""
    word = word or "NAME"
    for field, said in FIELDS.items():
        text = text.replace(field, said.format(word=word))
    return CALL.sub(
        lambda call: COMMANDS.get(call[0], call[0]).format(word=word),
        text,
    )
