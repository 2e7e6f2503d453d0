"""What the server advises, as commands: it speaks to clients of its API, and names their calls."""

import re

from quiltfn.sdk import ApiError

# A call of the API, as an error names it, and the command that makes it.
COMMANDS = {
    "POST /api/functions/<id>/deploy": "quiltfn functions deploy {word}",
    "POST /api/functions/<id>/resume": "quiltfn functions resume {word}",
    "GET /api/functions/help": "quiltfn --help",
    "GET /api/runtimes": "quiltfn runtimes list",
    "POST /api/runtimes/images": "quiltfn runtimes add NAME --kind … --dir …",
}
CALL = re.compile(r"(?:GET|POST|PUT|DELETE) /api/[\w/<>.-]*")
# What is said of headers is said of options here.
OF_A_CODE = {
    "UNAUTHORIZED": "set QUILT_API_KEY to a key; on the server's machine this makes one: "
    "quiltfn keys create",
}
OF_A_FIELD = {"error_message": "its error (quiltfn functions get {word})"}


def translate_errors(error: ApiError, word: str | None) -> None:
    """Changes the sentences of `error`; `word` is the function that the command named."""
    error.message = commands_of(error.message, word)
    hint = OF_A_CODE.get(error.code, error.hint)
    error.hint = None if hint is None else commands_of(hint, word)


def commands_of(text: str, word: str | None) -> str:
    """The text with commands for calls of the API."""
    word = word or "NAME"
    for field, said in OF_A_FIELD.items():
        text = text.replace(field, said.format(word=word))
    return CALL.sub(
        lambda call: COMMANDS.get(call[0], call[0]).format(word=word),
        text,
    )
