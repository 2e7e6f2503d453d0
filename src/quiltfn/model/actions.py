"""The actions that a pool returns; `pool/function_pool.py` performs them in order."""

from enum import StrEnum

import msgspec


class Closed(StrEnum):
    """Why a pool is closed: the state of its function, or the reason in the comment."""

    PENDING = "pending"
    PAUSED = "paused"
    ERROR = "error"
    DELETED = "deleted"
    DISABLED = "disabled"  # an operator has disabled the tenant
    STOPPING = "closing"  # the server ends


class Full(StrEnum):
    """Why an open pool refuses an invocation."""

    QUEUE = "queue full"
    WAITED_TOO_LONG = "waited too long"
    NO_MEMORY = "no memory"
    OVER_QUOTA = "over quota"


class Start(msgspec.Struct, frozen=True):
    """Create a sandbox and specialise it for `digest`; then report `started` or `failed`."""

    instance: int
    digest: str


class Assign(msgspec.Struct, frozen=True):
    """Give the instance to the waiting invocation. `cold`: it waited for this instance to start."""

    instance: int
    waiter: int
    cold: bool


class Unpark(msgspec.Struct, frozen=True):
    """Make a parked instance ready again."""

    instance: int


class Refuse(msgspec.Struct, frozen=True):
    """Refuse the invocation, for the reason `why`. `retry_after_s`: seconds after which the
    invocation could probably run, as far as known.
    """

    waiter: int
    why: Closed | Full
    retry_after_s: int = 1


class Fail(msgspec.Struct, frozen=True):
    """Fail the waiting invocation: its instance could not be created."""

    waiter: int
    instance: int
    reason: str


class Destroy(msgspec.Struct, frozen=True):
    """End the instance and free everything it has; then report `gone`."""

    instance: int


class TickAt(msgspec.Struct, frozen=True):
    """Call the pool's `tick` at this time (monotonic seconds)."""

    at: float


class Prepared(msgspec.Struct, frozen=True):
    """The prepared version has the requested number of instances ready."""

    digest: str


class PrepareFailed(msgspec.Struct, frozen=True):
    """No instance of the prepared version could be created. `written`: the program's output."""

    digest: str
    reason: str
    written: str = ""


class RequestMemory(msgspec.Struct, frozen=True):
    """The pool needs `mib` more memory than is free: instances should be evicted."""

    mib: float


class RequestQuota(msgspec.Struct, frozen=True):
    """The tenant's quota allows the pool no more instances: other ones should be evicted."""


class RequestPlaces(msgspec.Struct, frozen=True):
    """The function's maximum leaves no room for `count` instances: idle instances of other versions
    should be evicted.
    """

    count: int


Action = (
    Start
    | Assign
    | Unpark
    | Refuse
    | Fail
    | Destroy
    | TickAt
    | Prepared
    | PrepareFailed
    | RequestMemory
    | RequestQuota
    | RequestPlaces
)
