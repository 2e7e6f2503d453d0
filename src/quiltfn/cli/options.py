"""Makes options from the fields of the API (`quiltfn.wire`), with their meanings and defaults."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_origin

from msgspec import UNSET, Struct

from quiltfn.cli import advice
from quiltfn.cli.field_options import OPPOSITES, option_of
from quiltfn.cli.parsing import (
    DURATIONS,
    SECONDS,
    Argument,
    BadParameter,
    Option,
    Parameters,
    seconds_in,
)
from quiltfn.wire.constraints import OneOf
from quiltfn.wire.fields import Field, fields_of

Environment = Annotated[
    list[str] | None,
    Option(("--env",), metavar="KEY=VALUE", help="An environment variable; repeatable."),
]
InvocationId = Annotated[str, Argument(help="Invocation id from `quiltfn invocations`.")]
Status = Annotated[str | None, Option(help="Invocation status.")]
IsCold = Annotated[
    bool | None, Option(("--cold",), off="--warm", help="Cold starts only, or warm starts only.")
]
Limit = Annotated[int | None, Option(least=1, help="Maximum results.")]
Yes = Annotated[bool, Option(("--yes", "-y"), help="Skip confirmation.")]
METAVARS = {"MiB": "MB", "%": "PERCENT", "s": SECONDS}
# Fields whose values are names of objects on the server.
NAMED = ("function", "runtime")


class Paging(Struct, frozen=True, kw_only=True):
    """Which part of a list is printed."""

    limit: Limit = None
    cursor: Annotated[str | None, Option(help="Pagination cursor from previous output.")] = None

    def fields(self) -> dict[str, Any]:
        """Arguments of the client's methods."""
        return {"page_size": self.limit, "cursor": self.cursor}


def seconds_of(option: str, age: str) -> int:
    """The seconds of an age such as 10m. Raises `BadParameter`."""
    seconds = seconds_in(age)
    if seconds is None:
        raise BadParameter(f"{option} must be an age such as {DURATIONS}, not {age!r}")
    return seconds


class FieldsOf(Parameters):
    """The fields of a schema as options: `Annotated[dict[str, Any], FieldsOf(NewFunction)]`.

    The value is a mapping of the given fields, by their names in the API. An optional field that
    can be cleared has an additional option, --unset-…. `keeps`: omitted fields keep their values.
    """

    def __init__(
        self, shape: type[Struct], leave_out: Sequence[str] = (), *, keeps: bool = False
    ) -> None:
        self.shape, self.leave_out, self.keeps = shape, leave_out, keeps

    def parameters(self) -> dict[str, tuple[Any, Any]]:
        found: dict[str, tuple[Any, Any]] = {}
        for name, field in self._fields().items():
            default = ... if field.is_required else None
            found[name] = (Annotated[_kind(field), _option(field, self.keeps)], default)
            if self._can_be_emptied(field):
                words = field.name.replace("_", " ")
                unset = Option((unset_of(field),), help=f"Remove the {words}.")
                found[f"unset {name}"] = (Annotated[bool, unset], False)
        return found

    def value(self, said: dict[str, Any]) -> dict[str, Any]:
        """Raises `BadParameter` if options contradict each other."""
        given: dict[str, Any] = {}
        for name, field in self._fields().items():
            is_unset = said.get(f"unset {name}", False)
            if said[name] is not None:
                if is_unset:
                    raise BadParameter(f"give {option_of(field)} or {unset_of(field)}, not both")
                given[name] = self._read(field, said[name])
            elif is_unset:
                given[name] = None if field.is_nullable else {}
        return given

    def _fields(self) -> dict[str, Field]:
        found = fields_of(self.shape).items()
        return {name: field for name, field in found if name not in self.leave_out}

    def _can_be_emptied(self, field: Field) -> bool:
        return field.default is UNSET and (field.is_nullable or get_origin(field.kind) is dict)

    def _read(self, field: Field, said: Any) -> Any:
        if field.name in OPPOSITES:
            return not said
        if get_origin(field.kind) is dict:
            return pairs_of(f"--{field.short}", said)
        return said


def unset_of(field: Field) -> str:
    """The option that clears a field."""
    return f"--unset-{option_of(field).removeprefix('--')}"


def _kind(field: Field) -> Any:
    kind = list[str] if get_origin(field.kind) is dict else field.kind
    return kind if field.is_required else kind | None


def _option(field: Field, keeps: bool) -> Option:
    if field.name in OPPOSITES:
        return OPPOSITES[field.name]
    words = [each.words for each in field.constraints if isinstance(each, OneOf)]
    return Option(
        (option_of(field),),
        help=_help(field, keeps),
        metavar=_metavar(field),
        choices=words[0] if words else (),
        completes=field.name if field.name in NAMED else None,
    )


def _help(field: Field, keeps: bool) -> str:
    # A command line cannot express null; --unset-… does.
    meaning = advice.with_options(field.described(null="without it, "))
    repeats = "; repeatable" if get_origin(field.kind) in (dict, list) else ""
    is_plain = isinstance(field.default, str | int | float) and not isinstance(field.default, bool)
    has_default = is_plain and field.default != ""
    default = f" (default: {'no change' if keeps else field.default})" if has_default else ""
    return f"{meaning[:1].upper()}{meaning[1:]}{repeats}{default}."


def _metavar(field: Field) -> str:
    if get_origin(field.kind) is dict:
        return "KEY=VALUE"
    number = "N" if field.kind in (int, float) else field.short.upper()
    return METAVARS.get(field.unit, number)


def secret_in(path: Path) -> str:
    """The secret in the file of --secret-file. Raises `BadParameter`."""
    try:
        return path.read_text("utf-8").strip()
    except OSError as error:
        raise BadParameter(f"--secret-file: {error.strerror}: {path}") from None


def pairs_of(option: str, words: Sequence[str] | None) -> dict[str, str]:
    """KEY=VALUE words as a mapping; the last value of a key wins. Raises `BadParameter`."""
    found = {}
    for word in words or ():
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise BadParameter(f"{option} takes KEY=VALUE, not {word!r}")
        found[key] = value
    return found
