"""Converts JSON values to schemas; errors name the field.

msgspec does the work. If it refuses a value, the reason is found by comparing the value with the
schema's fields, without the text of msgspec's error. A test checks that both agree.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_args, get_origin

import msgspec

from quiltfn.wire.constraints import Constraint, Documented
from quiltfn.wire.fields import Field, fields_of, is_shape

T = TypeVar("T", bound=msgspec.Struct)

NO_LIMITS: Mapping[str, float] = {}
WORDS = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}
WORDS_OF_CONTAINERS = {dict: "an object", list: "an array"}


class Invalid(Exception):
    """A value does not fit the schema. `message`: a sentence. `path`: the field's path; "" for the
    body.
    """

    def __init__(self, path: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.path, self.message = path, message
        self.expected = details.get("expected")
        self.received = details.get("received")
        self.example = details.get("example")

    @classmethod
    def field(cls, path: str, expected: str, received: object, example: object) -> "Invalid":
        message = f"{path or 'the body'} must be {expected}"
        return cls(path, message, expected=expected, received=received, example=example)


def checked(value: Any, shape: type[T], limits: Mapping[str, float] = NO_LIMITS) -> T:
    """Convert `value` to the schema `shape`.

    `limits`: this server's limits, by field name. Raises `Invalid`.
    """
    try:
        made = msgspec.convert(value, shape, strict=True)
    except msgspec.ValidationError:
        raise _explained(value, shape) from None
    _check_constraints(made, limits, "")
    return made


def _check_constraints(made: msgspec.Struct, limits: Mapping[str, float], within: str) -> None:
    """Raises `Invalid` for a field, or one of a nested schema, that breaks a constraint."""
    for field, constraints in _constrained(type(made)):
        given = getattr(made, field.name)
        if given is None or given is msgspec.UNSET:
            continue
        path = within + field.name
        for constraint in constraints:
            found = constraint.violation(given, limits.get(field.name))
            if found is not None:
                raise Invalid.field(path, found.expected, found.received, field.example)
        if field.is_shape:
            _check_constraints(given, limits, f"{path}.")


Constrained = tuple[tuple[Field, tuple[Constraint, ...]], ...]
_CONSTRAINED: dict[type, Constrained] = {}


def _constrained(shape: type[msgspec.Struct]) -> Constrained:
    """The fields with constraints besides their type, and those that are schemas themselves."""
    found = _CONSTRAINED.get(shape)
    if found is None:
        found = tuple(
            (one, tuple(each for each in one.constraints if not isinstance(each, Documented)))
            for one in fields_of(shape).values()
        )
        found = tuple(pair for pair in found if pair[1] or pair[0].is_shape)
        _CONSTRAINED[shape] = found
    return found


def _explained(value: Any, shape: type[msgspec.Struct]) -> Invalid:
    """The first reason why the value does not fit the schema."""
    if not isinstance(value, dict):
        return Invalid.field("", "a JSON object", value, None)
    return next(_reasons(value, shape), None) or Invalid(
        "", "the body is not valid for this request"
    )


def _reasons(
    value: dict[str, Any], shape: type[msgspec.Struct], within: str = ""
) -> Iterator[Invalid]:
    """`within`: the prefix of the names of fields in a nested schema."""
    fields = fields_of(shape)
    for name in value:
        if name not in fields:
            short = within + (name if len(name) <= 80 else name[:80] + "…")
            known = f"left out: this request has only {', '.join(fields)}"
            message = f"{short} is not a field of this request"
            yield Invalid(within + name, message, expected=known, received=short)
    for name, field in fields.items():
        if name in value:
            yield from _wrong_type(within + name, value[name], field)
    for name, field in fields.items():
        if field.is_required and name not in value:
            message = f"{within}{name} is required"
            yield Invalid(within + name, message, expected="given", example=field.example)


def _wrong_type(name: str, value: Any, field: Field) -> Iterator[Invalid]:
    if value is None and field.is_nullable:
        return
    expected = words_of(field.kind)
    if not _has_type(value, field.kind):
        either = f"{expected} or null" if field.is_nullable else expected
        yield Invalid.field(name, either, value, field.example)
    elif field.is_shape:
        yield from _reasons(value, field.kind, f"{name}.")
    elif field.kind is float and not _fits_in_a_float(value):
        yield Invalid.field(name, "a number of a usual size", value, field.example)
    elif get_origin(field.kind) is dict:
        part = get_args(field.kind)[1]
        for key, item in value.items():
            if not _has_type(item, part):
                yield Invalid.field(f"{name}.{key[:80]}", words_of(part), item, field.example)
    elif get_origin(field.kind) is list:
        (part,) = get_args(field.kind)
        for number, item in enumerate(value):
            if not _has_type(item, part):
                yield Invalid.field(f"{name}[{number}]", words_of(part), item, field.example)


def words_of(kind: Any) -> str:
    """A type in words: "a string"."""
    if is_shape(kind):
        return "an object"
    return WORDS_OF_CONTAINERS.get(get_origin(kind)) or WORDS.get(kind) or "another type"


def _has_type(value: Any, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if is_shape(kind):
        return isinstance(value, dict)
    return isinstance(value, get_origin(kind) or kind)


def _fits_in_a_float(value: float) -> bool:
    try:
        float(value)
    except OverflowError:
        return False
    return True
