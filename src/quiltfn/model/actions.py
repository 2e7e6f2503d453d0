"""The actions that a pool returns; `pool/function_pool.py` performs them in order."""

import msgspec


class Start(msgspec.Struct, frozen=True):
    """Make a sandbox and specialise it for `digest`; then `started` or `failed`."""

    instance: int
    digest: str


class Assign(msgspec.Struct, frozen=True):
    """Give the instance to the waiting call. `cold`: that waited for this one to be started."""

    instance: int
    waiter: int
    cold: bool


class Unpark(msgspec.Struct, frozen=True):
    """A parked instance is ready again from now on."""

    instance: int


class Refuse(msgspec.Struct, frozen=True):
    """Refuse the call: the queue is full, it waited too long, or the function does not serve.
    `retry_after_s`: the seconds after which it would probably be served, as far as known."""

    waiter: int
    why: str
    retry_after_s: int = 1


class Fail(msgspec.Struct, frozen=True):
    """Tell the waiting call that its instance could not be made."""

    waiter: int
    instance: int
    reason: str


class Destroy(msgspec.Struct, frozen=True):
    """End the instance and free everything it has; then `gone`."""

    instance: int


class TickAt(msgspec.Struct, frozen=True):
    """Call `tick` at this time (monotonic seconds)."""

    at: float


class Prepared(msgspec.Struct, frozen=True):
    """The prepared version has as many instances ready as were asked for."""

    digest: str


class PrepareFailed(msgspec.Struct, frozen=True):
    """No instance of the prepared version could be made."""

    digest: str
    reason: str


class RequestMemory(msgspec.Struct, frozen=True):
    """The pool needs `mib` of memory that the machine has not free: something should be evicted."""

    mib: float


class RequestQuota(msgspec.Struct, frozen=True):
    """The tenant's quota has no instance left for the pool: something should be evicted."""


class RequestPlaces(msgspec.Struct, frozen=True):
    """The maximum has no place left for so many instances: idle ones of other versions should be
    evicted.
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

QUEUE_FULL = "queue full"
WAITED_TOO_LONG = "waited too long"
NO_MEMORY = "no memory"
OVER_QUOTA = "over quota"
