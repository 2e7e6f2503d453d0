"""Instance: a sandbox specialised for one version content, and the states it goes through."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from quiltfn.model.cold import Cold
from quiltfn.model.machine import follow


class InstanceState(StrEnum):
    """The five states that the API counts, and the end."""

    WARMING = "warming"
    READY = "ready"
    BUSY = "busy"
    RECYCLING = "recycling"
    TERMINATING = "terminating"
    GONE = "gone"


class InstanceEvent(StrEnum):
    """What may happen to an instance."""

    STARTED = "started"
    LEASED = "leased"
    UNUSED = "given back unused"
    RELEASED = "released"
    CLEANED = "cleaned"
    STOPPED = "stopped"
    VANISHED = "vanished"


S, E = InstanceState, InstanceEvent
NEXT: Mapping[InstanceState, Mapping[InstanceEvent, InstanceState]] = {
    S.WARMING: {E.STARTED: S.READY, E.STOPPED: S.TERMINATING},
    S.READY: {E.LEASED: S.BUSY, E.STOPPED: S.TERMINATING},
    S.BUSY: {E.RELEASED: S.RECYCLING, E.UNUSED: S.READY, E.STOPPED: S.TERMINATING},
    S.RECYCLING: {E.CLEANED: S.READY, E.STOPPED: S.TERMINATING},
    S.TERMINATING: {E.VANISHED: S.GONE},
    S.GONE: {},
}


@dataclass(slots=True)
class Instance:
    """One instance as its pool knows it. `since`: monotonic seconds of its last event. `why`: it
    was started."""

    id: int
    digest: str
    since: float
    why: Cold = Cold.FIRST
    state: InstanceState = InstanceState.WARMING
    holder: int | None = None
    past: deque[str] = field(default_factory=lambda: deque(maxlen=8))

    def hear(self, event: InstanceEvent, now: float) -> None:
        """Moves on by the table, or raises with the last events."""
        self.state = follow(NEXT, self.state, event, self.past)
        self.past.append(event.value)
        self.since = now
