"""What a pool's refusal of a call is to the caller."""

from collections.abc import Callable

from quiltfn.model import actions as decided
from quiltfn.model.errors import (
    CapacityFull,
    FunctionNotActive,
    NotFound,
    QuiltfnError,
    ShuttingDown,
)

CLOSING = "closing"
REFUSALS: dict[str, Callable[[], QuiltfnError]] = {
    decided.FULL: lambda: CapacityFull(
        "every instance of the function is busy and its waiting line is full", retry_after=1
    ),
    decided.WAITED_TOO_LONG: lambda: CapacityFull(
        "every instance of the function was busy for too long", retry_after=5
    ),
    "deleted": lambda: NotFound("there is no such function"),
    CLOSING: lambda: ShuttingDown(retry_after=5),
}


def refusal(why: str) -> QuiltfnError:
    """The error for a call that the pool refuses; else `why` is the function's state."""
    make = REFUSALS.get(why)
    return make() if make else FunctionNotActive.because(why)
