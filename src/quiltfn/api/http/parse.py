"""Strict parsing of requests into their schemas. Errors name the field."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode

import msgspec

from quiltfn.model.errors import BadRequest, Unprocessable, truncate
from quiltfn.model.json_size import costs, is_costly
from quiltfn.wire.check import NO_LIMITS, Invalid, checked

DEPTH_MAX = 32
VALUES_MAX = 50_000
PARAMETERS_MAX = 100
FIELD_MAX = 80  # characters of a field's path in an error
UNIX_MAX = 4_102_444_800  # the year 2100
T = TypeVar("T", bound=msgspec.Struct)


class NotOneText(ValueError):
    """The body is not exactly one JSON text; the message gives the reason."""


def parameters(text: bytes) -> list[tuple[str, str]]:
    """The names and values of a query's parameters. Raises `Unprocessable`."""
    if text.count(b"&") >= PARAMETERS_MAX:
        expected = f"of at most {PARAMETERS_MAX} parameters"
        raise Unprocessable.field("", expected, label="the query")
    return parse_qsl(text.decode("latin-1"), keep_blank_values=True)


def json_value(body: bytes) -> Any:
    """Parse `body` as exactly one JSON text.

    Raises `BadRequest` for anything else: bad UTF-8, a byte order mark, NaN, a duplicate key, a
    lone surrogate, nesting deeper than 32, or too many values.
    """
    try:
        _check_count(body)
        text = body.decode("utf-8")
        if text.startswith("\ufeff"):
            raise NotOneText("it begins with a byte order mark")
        value = _decode(text)
        # Only escapes produce lone surrogates, and only 32 or more brackets deep nesting.
        if "\\u" in text or text.count("[") + text.count("{") >= DEPTH_MAX:
            _check_strings(value)
    except RecursionError:
        raise BadRequest(f"the body nests deeper than {DEPTH_MAX}") from None
    except ValueError as error:  # the decoders' errors are ValueErrors
        raise BadRequest(f"the body is not one valid JSON text: {_brief(error)}") from None
    return value


def shape(value: Any, kind: type[T], limits: Mapping[str, float] = NO_LIMITS) -> T:
    """Convert `value` to a `kind`. `limits`: this server's limits, by field name.

    Raises `Unprocessable`, which names the field and what was expected.
    """
    try:
        return checked(value, kind, limits)
    except Invalid as error:
        raise Unprocessable(
            error.message,
            details={
                "field": truncate(error.path, FIELD_MAX) or None,
                "expected": error.expected,
                "received": truncate(error.received),
                "example": error.example,
            },
        ) from None


def integer(text: str, name: str, low: int, high: int) -> int:
    """Parse a query parameter that is a whole number. Raises `Unprocessable`."""
    if re.fullmatch(r"[0-9]{1,10}", text) and low <= int(text) <= high:
        return int(text)
    raise Unprocessable.field(name, f"a whole number between {low} and {high}", text, high)


def boolean(text: str, name: str) -> bool:
    """Parse a query parameter that is true or false. Raises `Unprocessable`."""
    if text in ("true", "false"):
        return text == "true"
    raise Unprocessable.field(name, "true or false", text, "true")


def _check_count(body: bytes) -> None:
    if is_costly(body, VALUES_MAX):
        raise NotOneText(f"it holds {costs(VALUES_MAX)}")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise NotOneText(f"the key {truncate(name, 80)!r} occurs twice in one object")
            seen.add(name)
    return result


def _no_constant(word: str) -> Any:
    raise NotOneText(f"{word} is not JSON")


def _check_strings(value: Any) -> None:
    """Check the depth, and that no string has a lone surrogate, which a JSON escape can produce."""
    level = [value]
    for depth in range(DEPTH_MAX + 1):
        if depth == DEPTH_MAX and any(isinstance(one, dict | list) for one in level):
            raise RecursionError
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                item.encode()
            elif isinstance(item, dict):
                below += item.keys()
                below += item.values()
            elif isinstance(item, list):
                below += item
        if not below:
            return
        level = below


_decode = json.JSONDecoder(object_pairs_hook=_without_twins, parse_constant=_no_constant).decode


def _brief(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    if isinstance(error, UnicodeEncodeError):
        return "a string holds half of a surrogate pair"
    if isinstance(error, json.JSONDecodeError | NotOneText):
        return str(error)
    # Python converts at most 4,300 digits; the decoder raises no other bare ValueError.
    return "a number has thousands of digits"


def one_of(text: str, name: str, known: Sequence[str], example: str) -> str:
    """Return `text` if it is one of the known words. Raises `Unprocessable`."""
    if text in known:
        return text
    raise Unprocessable.field(name, f"one of: {', '.join(known)}", text, example)


def next_link(
    path: str, query: Mapping[str, str], limit: int, cursor: str | None
) -> dict[str, str]:
    """The Link header for the next page of the same query (RFC 8288), if there is one."""
    if cursor is None:
        return {}
    rest = {name: value for name, value in query.items() if name not in ("limit", "cursor")}
    text = urlencode({"limit": limit, "cursor": cursor, **rest})
    return {"link": f'<{path}?{text}>; rel="next"'}
