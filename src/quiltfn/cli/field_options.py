"""Maps fields of the API to options."""

from typing import Any

from quiltfn.cli.parsing import Option
from quiltfn.wire.fields import Field

# Options that mean the opposite of their field.
OPPOSITES = {
    "cleanup_on_exit": Option(
        ("--keep-state",),
        off="--clean",
        help="Keep /tmp and interpreter state between invocations of an instance.",
    )
}


def keeping_state(keeps: bool) -> dict[str, Any]:
    """The field for `--keep-state` or `--clean` in a request."""
    return {"cleanup_on_exit": not keeps}


def option_of(field: Field) -> str:
    """The option of a field, as typed."""
    if field.name in OPPOSITES:
        return OPPOSITES[field.name].names[0]
    return f"--{field.short.replace('_', '-')}"
