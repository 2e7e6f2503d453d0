"""Instance: a sandbox that is specialised for one version; and its states."""

from collections import deque
from collections.abc import Mapping
from enum import StrEnum

import msgspec

from quiltfn.model.cold_start import ColdStartReason
from quiltfn.model.shared_time import SharedTime
from quiltfn.model.state_machine import transition


class InstanceState(StrEnum):
    """The states of an instance. The API counts parked instances as warming."""

    WARMING = "warming"
    PARKED = "parked"
    READY = "ready"
    BUSY = "busy"
    RECYCLING = "recycling"
    TERMINATING = "terminating"
    GONE = "gone"


class InstanceEvent(StrEnum):
    """What may happen to an instance."""

    STARTED = "started"
    PARKED = "parked"
    UNPARKED = "unparked"
    LEASED = "leased"
    UNUSED = "given back unused"
    RELEASED = "released"
    CLEANED = "cleaned"
    STOPPED = "stopped"
    VANISHED = "vanished"


S, E = InstanceState, InstanceEvent
NEXT: Mapping[InstanceState, Mapping[InstanceEvent, InstanceState]] = {
    S.WARMING: {E.STARTED: S.READY, E.STOPPED: S.TERMINATING},
    S.PARKED: {E.UNPARKED: S.READY, E.STOPPED: S.TERMINATING},
    S.READY: {E.LEASED: S.BUSY, E.PARKED: S.PARKED, E.STOPPED: S.TERMINATING},
    S.BUSY: {E.RELEASED: S.RECYCLING, E.UNUSED: S.READY, E.STOPPED: S.TERMINATING},
    S.RECYCLING: {E.CLEANED: S.READY, E.STOPPED: S.TERMINATING},
    S.TERMINATING: {E.VANISHED: S.GONE},
    S.GONE: {},
}


DESCRIPTIONS: Mapping[InstanceState, str] = {
    S.WARMING: "Its sandbox is being created, or specialised for a version.",
    S.PARKED: "It takes no invocations: it is kept for a rollback, or for the next start of a "
    "Python function, whose imports are done. The API counts it as warming.",
    S.READY: "Nothing of an earlier invocation is left in it, and it can take the next one.",
    S.BUSY: "An invocation runs in it; in a web server, several at a time.",
    S.RECYCLING: "Its invocation is over, and what it left behind is being removed.",
    S.TERMINATING: "It is ending. It counts until all its resources are free.",
    S.GONE: "It no longer exists, and counts nowhere.",
}

IDLE = (InstanceState.READY, InstanceState.PARKED)


class Instance(msgspec.Struct):
    """One instance as its pool knows it. Times in monotonic seconds.

    `since`: the time of its last event. `holders`: the invocations in it, each with its start time.
    `is_spoilt`: an invocation in it did not end well, so it gets no more invocations, and is ended
    after its last one. `reason`: why it was started or unparked. `idle_mib`: the memory that it
    uses when idle; `charge_mib`: the memory that it counts now. `worth`: the instance of least
    worth is evicted first. `start_ms`: how long its start took. `ready_at`: when it was started or
    unparked; `is_fresh`: no invocation since `ready_at`. `is_speculative`: it was started for an
    expected invocation. `is_to_park`: it was started only to be parked, and has had no invocation.
    `made_at`: when its start began. `time`: divides its time among simultaneous invocations.
    """

    id: int
    digest: str
    since: float
    reason: ColdStartReason = ColdStartReason.FIRST
    idle_mib: float = 0.0
    charge_mib: float = 0.0
    worth: float = 0.0
    start_ms: float = 0.0
    ready_at: float = 0.0
    is_fresh: bool = True
    is_speculative: bool = False
    is_to_park: bool = False
    state: InstanceState = InstanceState.WARMING
    is_spoilt: bool = False
    made_at: float = 0.0
    holders: dict[int, float] = msgspec.field(default_factory=dict)
    time: SharedTime = msgspec.field(default_factory=SharedTime)
    history: deque[str] = msgspec.field(default_factory=lambda: deque(maxlen=8))

    @property
    def is_idle(self) -> bool:
        """Whether it is ready or parked."""
        return self.state in IDLE

    def apply(self, event: InstanceEvent, now: float) -> None:
        """Changes the state by `NEXT`. Raises `InvalidTransition` with the last events."""
        self.state = transition(NEXT, self.state, event, self.history)
        self.history.append(event)
        self.since = now
