"""What a pool may decide: its actions, which the shell around it performs, one by one."""

import msgspec


class Start(msgspec.Struct, frozen=True):
    """Make a sandbox and specialise it for `digest`; then `started` or `failed`."""

    instance: int
    digest: str


class Assign(msgspec.Struct, frozen=True):
    """Give the instance to the waiter. `cold`: it had to wait for this one to be started."""

    instance: int
    waiter: int
    cold: bool


class Unpark(msgspec.Struct, frozen=True):
    """A parked instance serves again, from this moment on."""

    instance: int


class Refuse(msgspec.Struct, frozen=True):
    """Tell the waiter no: the line is full, its wait is over, or the function was closed.
    `retry_after_s`: the seconds after which it is likely to be served, where that is known."""

    waiter: int
    why: str
    retry_after_s: int = 1


class Fail(msgspec.Struct, frozen=True):
    """Tell the waiter that the instance it waited for could not be made."""

    waiter: int
    instance: int
    reason: str


class Destroy(msgspec.Struct, frozen=True):
    """Give everything of the instance back to the machine; then `gone`."""

    instance: int


class TickAt(msgspec.Struct, frozen=True):
    """Call `tick` at this time (monotonic seconds)."""

    at: float


class Prepared(msgspec.Struct, frozen=True):
    """The standby content has as many instances ready as were asked for."""

    digest: str


class PrepareFailed(msgspec.Struct, frozen=True):
    """No instance of the standby content could be made."""

    digest: str
    reason: str


class RequestMemory(msgspec.Struct, frozen=True):
    """The machine's memory lacks what the pool wants, `mib` in all: somebody should leave."""

    mib: float


class RequestQuota(msgspec.Struct, frozen=True):
    """The tenant's quota of instances lacks what the pool wants: somebody should leave."""


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
)

FULL = "full"
WAITED_TOO_LONG = "waited too long"
NO_ROOM = "no room"
OVER_QUOTA = "over quota"
