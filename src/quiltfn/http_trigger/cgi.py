"""CGI/1.1 (RFC 3875): turns a request into variables and standard input of a shell, and the shell's
output into a response.
"""

import re
from collections.abc import Collection
from urllib.parse import unquote_to_bytes

import msgspec

from quiltfn import __version__
from quiltfn.http_trigger import cloudevents
from quiltfn.http_trigger.answer import (
    HEADERS_MAX,
    TEXT,
    BadAnswer,
    HandlerAnswer,
    Head,
    head_of,
)
from quiltfn.http_trigger.call import Field, HttpCall
from quiltfn.model.errors import BadRequest
from quiltfn.model.version import MASK

# Header names that map to a unique variable. Underscores are excluded: `X_A` and `X-A` would map to
# the same variable.
PLAIN_NAME = re.compile("[a-z0-9-]{1,128}")
# Headers that get no HTTP_… variable: programs use HTTP_PROXY as the address of a proxy
# (https://httpoxy.org); the other two have variables of their own.
NEVER = frozenset({"proxy", "content-type", "content-length"})
BLOCK_MAX_BYTES = 32 * 1024
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*)")
# The first lines of output are a header block if one of these is there (RFC 3875, 6.3).
CGI_FIELDS = frozenset({"content-type", "location", "status"})


def variables_of(call: HttpCall, own: Collection[str]) -> dict[str, str]:
    """Returns the variables of an invocation. `own`: the names of the function's variables, which
    are not replaced. Raises `BadRequest` for a path that cannot be expressed as PATH_INFO.
    """
    name, port = call.name_and_port
    variables = {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "PATH_INFO": path_info(call.path),
        "QUERY_STRING": call.query,
        "REMOTE_ADDR": call.client,
        "REQUEST_METHOD": call.method,
        "REQUEST_SCHEME": call.scheme,
        "REQUEST_URI": call.prefix + call.path + (f"?{call.query}" if call.query else ""),
        "SCRIPT_NAME": call.prefix,
        "SERVER_NAME": name,
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": call.protocol,
        "SERVER_SOFTWARE": f"quiltfn/{__version__}",
    }
    if call.scheme == "https":
        variables["HTTPS"] = "on"
    if call.body:
        variables["CONTENT_LENGTH"] = str(len(call.body))
    if "content-type" in call.headers:
        variables["CONTENT_TYPE"] = call.headers["content-type"]
    for field, value in call.headers.items():
        if PLAIN_NAME.fullmatch(field) and field not in NEVER:
            variables["HTTP_" + field.upper().replace("-", "_")] = value
    return {
        # Here a character above ASCII stands for one byte; the bytes are decoded as UTF-8.
        name: value if value.isascii() else value.encode("latin-1").decode("utf-8", "replace")
        for name, value in variables.items()
        if name not in own and value != MASK
    }


def path_info(path: str) -> str:
    """Returns the decoded path within the function. Refuses encoded slashes, which after decoding
    would look like other slashes (RFC 3875, 4.1.5).
    """
    if "%" not in path:
        return path
    if "%2f" in path.lower():
        raise BadRequest("the path has an encoded slash, which PATH_INFO cannot express")
    # One character for each byte; `variables_of` decodes them.
    return unquote_to_bytes(path).decode("latin-1")


def from_event(call: HttpCall, event: cloudevents.Event) -> HttpCall:
    """Converts a CloudEvent in structured mode to binary mode, so that a shell gets its attributes
    as variables (HTTP_CE_TYPE) and its data on standard input.
    """
    if not cloudevents.is_structured(call.headers):
        return call
    fields, body = cloudevents.message_of(event, is_binary=True)
    return msgspec.structs.replace(call, headers=call.headers | dict(fields), body=body)


class Block(msgspec.Struct, frozen=True):
    """A header block and its size in bytes. `head`: None if the output has no header block."""

    head: Head | None
    size: int


def block_of(output: bytes, *, is_whole: bool) -> Block | None:
    """Parses the header block at the beginning of output; None: undecided until more output comes.
    `is_whole`: the output is complete. Raises `BadAnswer` if the block is not valid HTTP.
    """
    at, fields, known = 0, list[Field](), False
    while True:
        end = output.find(b"\n", at)
        if end < 0:
            may_be = FIELD.match(output, at) or is_begin_of_name(output[at:])
            is_open = not is_whole and len(output) <= BLOCK_MAX_BYTES and may_be
            return None if is_open else Block(None, 0)
        line = output[at:end].removesuffix(b"\r")
        at = end + 1
        if not line:
            return Block(_head(fields), at) if known else Block(None, 0)
        field = FIELD.fullmatch(line)
        if field is None or at > BLOCK_MAX_BYTES:
            return Block(None, 0)
        if len(fields) > HEADERS_MAX:
            # Stop, since a response must not have so many headers, and output that comes in pieces
            # is parsed again for each piece.
            return Block(_head(fields), 0) if known else Block(None, 0)
        name = field[1].decode().lower()
        known = known or name in CGI_FIELDS
        fields.append((name, field[2].decode("utf-8", "replace")))


def is_begin_of_name(text: bytes) -> bool:
    """Whether `text` may be the beginning of a header's name, or of the line that ends a block."""
    return re.fullmatch(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]*|\r", text) is not None


def _head(fields: list[Field]) -> Head:
    status: str | None = None
    rest: list[Field] = []
    for name, value in fields:
        if name != "status":
            rest.append((name, value))
        elif status is not None:
            raise BadAnswer("its header block has two Status lines")
        else:
            status = value.strip()[:3] if re.match(r"[0-9]{3}( |$)", value.strip()) else value
    if status is None:
        status = "302" if any(name == "location" for name, _ in rest) else "200"
    return head_of(status, rest)


def answer_of(output: bytes) -> HandlerAnswer:
    """Turns the complete output of a shell into a response. Raises `BadAnswer`."""
    block = block_of(output, is_whole=True)
    if block is None or block.head is None:
        return HandlerAnswer(Head(200, [("content-type", TEXT)]), output)
    return HandlerAnswer(block.head.with_type(TEXT), output[block.size :])
