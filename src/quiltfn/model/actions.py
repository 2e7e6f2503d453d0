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
class Refuse:
    """Tell the waiter no: the line is full, its wait is over, or the function was closed."""

    waiter: int
    why: str


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


Action = Start | Hand | Refuse | Fail | Destroy | Wake | Stands | CannotStand

FULL = "full"
WAITED_TOO_LONG = "waited too long"
