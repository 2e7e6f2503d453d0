"""The error that a caller gets when a pool refuses its invocation."""

from quiltfn.model.actions import Closed, Full
from quiltfn.model.errors import (
    CapacityFull,
    FunctionNotActive,
    NotFound,
    QuiltfnError,
    ShuttingDown,
)
from quiltfn.model.function import FunctionState, not_active

CAPACITY_REASONS = {
    Full.QUEUE: "every instance of the function is busy and its wait queue is full",
    Full.WAITED_TOO_LONG: "every instance of the function was busy for too long",
    Full.OVER_QUOTA: "the tenant has as many instances as its quota allows, and none was free "
    "for this function for too long",
    Full.NO_MEMORY: "the memory of this machine was taken by other calls for too long",
}


def refusal(why: Closed | Full, retry_after_s: int, problem: str = "") -> QuiltfnError:
    """The error for an invocation that the pool refuses. `problem`: why no instance may be started
    at the moment.
    """
    match why:
        case Full.WAITED_TOO_LONG if problem:
            return CapacityFull(problem, retry_after=retry_after_s)
        case Full():
            return CapacityFull(CAPACITY_REASONS[why], retry_after=retry_after_s)
        case Closed.DELETED:
            return NotFound("there is no such function")
        case Closed.STOPPING:
            return ShuttingDown(retry_after=5)
        case Closed.DISABLED:
            return FunctionNotActive("an operator has disabled the function's tenant")
        case Closed.PENDING | Closed.PAUSED | Closed.ERROR:
            return not_active(FunctionState(why))
