"""Which option a field of the API has."""

from typing import Any

from quiltfn.cli.parsing import Option
from quiltfn.wire.fields import Field

# These options are written as the opposite of the field.
OPPOSITES = {
    "cleanup_on_exit": Option(
        ("--keep-state",),
        off="--clean",
        help="Keep /tmp and interpreter state between invocations of an instance.",
    )
}


def keeping_state(keeps: bool) -> dict[str, Any]:
    """What `--keep-state` or `--clean` stands for in a request."""
    return {"cleanup_on_exit": not keeps}


def option_of(field: Field) -> str:
    """The option of a field, as it is written."""
    if field.name in OPPOSITES:
        return OPPOSITES[field.name].names[0]
    return f"--{field.short.replace('_', '-')}"
