"""Function: its name, its state and its scaling targets."""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from quiltfn.model.errors import NEXT_STEP, FunctionNotActive, Unprocessable
from quiltfn.model.state_machine import transition


class FunctionState(StrEnum):
    """The state of a function; `DESCRIPTIONS` says what each state means to a caller."""

    PENDING = "pending"
    DEPLOYING = "deploying"
    ACTIVE = "active"
    PAUSED = "paused"
    ERROR = "error"
    DELETED = "deleted"


class FunctionEvent(StrEnum):
    """What may happen to a function's state."""

    DEPLOY = "deploy"
    READY = "ready"
    FAILED = "failed"
    PAUSE = "pause"
    DELETE = "delete"


S, E = FunctionState, FunctionEvent
NEXT: Mapping[FunctionState, Mapping[FunctionEvent, FunctionState]] = {
    S.PENDING: {E.DEPLOY: S.DEPLOYING, E.DELETE: S.DELETED},
    S.DEPLOYING: {E.READY: S.ACTIVE, E.FAILED: S.ERROR, E.PAUSE: S.PAUSED, E.DELETE: S.DELETED},
    S.ACTIVE: {E.PAUSE: S.PAUSED, E.DELETE: S.DELETED},
    S.PAUSED: {E.DEPLOY: S.DEPLOYING, E.DELETE: S.DELETED},
    S.ERROR: {E.DEPLOY: S.DEPLOYING, E.DELETE: S.DELETED},
    S.DELETED: {},
}


DESCRIPTIONS: Mapping[FunctionState, str] = {
    S.PENDING: "It was created but never deployed; invocations are refused (409).",
    S.DEPLOYING: "Its first instances are starting; until they are ready, invocations get 409.",
    S.ACTIVE: "It runs invocations with its current version.",
    S.PAUSED: "It has no instances. Synchronous invocations are refused (409), asynchronous ones "
    "wait; running ones may finish.",
    S.ERROR: "Its deployment failed; error_message says why. A deploy tries again.",
    S.DELETED: "It no longer exists (404); running invocations are cancelled after 5 s.",
}


def not_active(state: FunctionState) -> FunctionNotActive:
    """The refusal of an invocation: names the function's state and the request that helps."""
    hint, see = NEXT_STEP.get(state, (None, None))
    message = f"the function is {state}, not active"
    return FunctionNotActive(message, details={"state": state}, hint=hint, see=see)


# The memory of a function in bytes, without its handler and its variables.
SIZE_AT_LEAST = 2048


class Function(msgspec.Struct, frozen=True, kw_only=True):
    """A named function of one tenant. Times in Unix seconds.

    `current_version`: the number of the version that runs invocations, or would run them.
    `failed_version`: the number of a newer version that could not start, for the reason
    `error_message`. `error_output`: the last output of its program.
    `revision` increases with every change. The store accepts changes of the newest revision only.
    """

    id: str
    tenant_id: str
    name: str
    cluster_id: str | None
    description: str | None
    owner_node_id: str
    state: FunctionState
    current_version: int
    min_instances: int
    max_instances: int
    created_at: int
    updated_at: int
    error_message: str | None = None
    error_output: str | None = None
    failed_version: int | None = None
    revision: int = 1

    def after(self, event: FunctionEvent, now: int) -> "Function":
        """The function after `event`, without an error."""
        state = transition(NEXT, self.state, event)
        return msgspec.structs.replace(self.failing(None), state=state, updated_at=now)

    def failing(
        self, sentence: str | None, written: str = "", version: int | None = None
    ) -> "Function":
        """The function with this error; None: without one."""
        return msgspec.structs.replace(
            self, error_message=sentence, error_output=written or None, failed_version=version
        )


def check_targets(min_instances: int, max_instances: int) -> None:
    """Raises `Unprocessable` unless 0 ≤ min ≤ max. `wire` has the limits of `max` itself."""
    if not 0 <= min_instances <= max_instances:
        expected = f"between 0 and max_instances ({max_instances})"
        raise Unprocessable.field("min_instances", expected, min_instances, 0)


class NewFunction(msgspec.Struct, frozen=True, kw_only=True):
    """The data of a new function, besides the spec of its first version."""

    name: str
    cluster_id: str | None = None
    description: str | None = None
    min_instances: int = 0
    max_instances: int = 5
