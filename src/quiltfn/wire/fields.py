"""Declares fields, and reads declarations.

A field is a type with its meaning, an example and its constraints, written once:

MemoryLimitMb = Annotated[int, about("memory limit in MiB", 256, Between(256))]

Validation, the OpenAPI document, the help texts, the client library's types and the command line's
options are derived from this declaration.
"""

import types
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, UNSET, Meta, UnsetType

from quiltfn.wire.constraints import Constraint


def about(
    meaning: str,
    example: Any,
    *constraints: Constraint,
    null: str = "",
    short: str = "",
    unit: str = "",
) -> Meta:
    """The metadata of a field's type. `null`: the meaning of null.

    Constraints are checked only for requests: in responses, a newer server may allow more. `short`:
    the name on the command line and in tables, if it differs from the field's own. `unit`: that of
    a number.
    """
    examples = None if example is None else [example]
    extra = {"constraints": constraints, "short": short, "unit": unit}
    extra |= {"meaning": meaning, "null": null}
    return Meta(description=_with_null(meaning, null), examples=examples, extra=extra)


def _with_null(meaning: str, null: str, word: str = "null: ") -> str:
    return f"{meaning}; {word}{null}" if null else meaning


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One field of a schema. `kind`: the type without null and without UnsetType."""

    name: str
    kind: Any
    is_required: bool
    is_nullable: bool
    default: Any
    meaning: str
    null: str
    example: Any
    constraints: tuple[Constraint, ...]
    short: str
    unit: str

    def described(self, null: str = "null: ") -> str:
        """The field's meaning, followed by `null` and the meaning of null."""
        return _with_null(self.meaning, self.null, null)

    @property
    def is_shape(self) -> bool:
        """Whether the field's values have fields of their own."""
        return is_shape(self.kind)


def is_shape(kind: Any) -> bool:
    """Whether a type is a schema."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


@cache
def fields_of(shape: type[msgspec.Struct]) -> Mapping[str, Field]:
    """The fields of a schema by their names, in order."""
    return {one.name: _field(one) for one in msgspec.structs.fields(shape)}


def _field(field: Any) -> Field:
    kind, meta = field.type, None
    options = [kind]
    if get_origin(kind) in (Union, types.UnionType):
        options = list(get_args(kind))
    (main,) = (part for part in options if part not in (types.NoneType, UnsetType))
    if get_origin(main) is Annotated:
        main, meta = get_args(main)
    factory = field.default_factory
    default = field.default if factory is NODEFAULT else factory()
    extra = (meta.extra if meta else None) or {}
    return Field(
        name=field.name,
        kind=main,
        is_required=field.required,
        is_nullable=types.NoneType in options,
        default=UNSET if default is NODEFAULT else default,
        meaning=extra.get("meaning", ""),
        null=extra.get("null", ""),
        example=meta.examples[0] if meta and meta.examples else None,
        constraints=extra.get("constraints", ()),
        short=extra.get("short") or field.name,
        unit=extra.get("unit", ""),
    )
