"""What a pool may decide: its actions, which the shell around it performs, one by one."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Start:
    """Make a sandbox and specialise it for `digest`; then `started` or `failed`."""

    instance: int
    digest: str


@dataclass(frozen=True, slots=True)
class Hand:
    """Give the instance to the waiter. `cold`: it had to wait for this one to be started."""

    instance: int
    waiter: int
    cold: bool


@dataclass(frozen=True, slots=True)
class Resume:
    """A parked instance serves again, from this moment on."""

    instance: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell the waiter no: the line is full, its wait is over, or the function was closed.
    `retry_s`: the seconds after which it is likely to be served, where that is known."""

    waiter: int
    why: str
    retry_s: int = 1


@dataclass(frozen=True, slots=True)
class Fail:
    """Tell the waiter that the instance it waited for could not be made."""

    waiter: int
    instance: int
    reason: str


@dataclass(frozen=True, slots=True)
class Destroy:
    """Give everything of the instance back to the machine; then `gone`."""

    instance: int


@dataclass(frozen=True, slots=True)
class Wake:
    """Call `tick` at this time (monotonic seconds)."""

    at: float


@dataclass(frozen=True, slots=True)
class Stands:
    """The standby content has as many instances ready as were asked for."""

    digest: str


@dataclass(frozen=True, slots=True)
class CannotStand:
    """No instance of the standby content could be made."""

    digest: str
    reason: str


@dataclass(frozen=True, slots=True)
class Short:
    """The machine's memory lacks what the pool wants, `mib` in all: somebody should leave."""

    mib: float


Action = Start | Hand | Resume | Refuse | Fail | Destroy | Wake | Stands | CannotStand | Short

FULL = "full"
WAITED_TOO_LONG = "waited too long"
NO_ROOM = "no room"
