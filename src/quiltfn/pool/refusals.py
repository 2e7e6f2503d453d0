"""The error that a caller gets when a pool refuses its invocation."""

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
CAPACITY_REASONS = {
    decided.QUEUE_FULL: "every instance of the function is busy and its wait queue is full",
    decided.WAITED_TOO_LONG: "every instance of the function was busy for too long",
    decided.OVER_QUOTA: "the tenant has as many instances as its quota allows, and none was free "
    "for this function for too long",
    decided.NO_MEMORY: "the memory of this machine was taken by other calls for too long",
}
REFUSALS: dict[str, Callable[[], QuiltfnError]] = {
    "deleted": lambda: NotFound("there is no such function"),
    CLOSING: lambda: ShuttingDown(retry_after=5),
}


def refusal(why: str, retry_after_s: int, problem: str = "") -> QuiltfnError:
    """The error for an invocation that the pool refuses. `why`: the pool's reason, or the
    function's state. `problem`: why no instance may be started at the moment.
    """
    if problem and why == decided.WAITED_TOO_LONG:
        return CapacityFull(problem, retry_after=retry_after_s)
    if why in CAPACITY_REASONS:
        return CapacityFull(CAPACITY_REASONS[why], retry_after=retry_after_s)
    make = REFUSALS.get(why)
    return make() if make else FunctionNotActive.because(why)
